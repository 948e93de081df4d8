"""How the judge sees deeds that leave no output of their own, as they happen, and hears what a simulated venue says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import orjson

from engine.core import intake, ledger, liquidation, machine, takeover
from engine.core.book import Book
from engine.core.events import Event, Fill, Mark
from engine.core.intake import Outcome
from engine.core.shard import Episode, Order, Shard
from engine.edges.codec import encode_event
from engine.edges.venue import BookVenue, ImpactVenue
from engine.units import format_number
from tests.simulation.invariants import Judge
from tests.simulation.oracle import Document


@contextmanager
def watching(judge: Judge) -> Iterator[None]:
    """Let the judge see positions handed over, waterfalls run and liquidation orders filled."""
    hand_over, run_waterfall = ledger.hand_over, takeover.run_waterfall
    apply_event, note_fill = intake.apply_event, liquidation.note_fill

    def watched_hand_over(
        book: Book, row: int, symbol: int, leg: int, size: int, cash: int, taker: int, taker_leg: int
    ) -> None:
        judge.hand_over(row, symbol, leg, size, taker, taker_leg)
        hand_over(book, row, symbol, leg, size, cash, taker, taker_leg)
        judge.handed_over(taker)

    def watched_waterfall(shard: Shard, episode: Episode) -> bool:
        judge.waterfall_begins(episode.row)
        last = shard.book.positions_of(episode.row)[-1][0]
        is_empty = run_waterfall(shard, episode)
        judge.waterfall_ends(episode.row, last, is_empty)
        return is_empty

    def watched_apply(shard: Shard, event: Event) -> Outcome:
        if isinstance(event, Fill) and event.order_id is not None:
            judge.fill_begins(event)
        return apply_event(shard, event)

    def watched_fill(shard: Shard, episode: Episode, order: Order, size: int, price: int, paid: int) -> None:
        left = order.left
        note_fill(shard, episode, order, size, price, paid)
        judge.fill_ends(order, size, price, paid, left)

    with (
        mock.patch.object(ledger, "hand_over", watched_hand_over),
        mock.patch.object(liquidation, "run_waterfall", watched_waterfall),
        mock.patch.object(machine, "apply_event", watched_apply),
        mock.patch.object(machine, "note_fill", watched_fill),
    ):
        yield


class HeardVenue(BookVenue):
    """The simulated venue of replays, its answers heard by the judge as they are given."""

    judge: Judge | None = None

    def next_event(self, shard: Shard) -> Event | None:
        """Return the venue's next answer."""
        event = super().next_event(shard)
        if self.judge is not None and event is not None:
            self.judge.hear(parse(encode_event(event)) or {})
        return event

    def adjust(self, mark: Mark, shard: Shard) -> Mark:
        """Return a mark as the venue shows it; the judge hears of that one."""
        mark = super().adjust(mark, shard)
        if self.judge is not None:
            self.judge.message["price"] = format_number(mark.price)
        return mark


class HeardImpactVenue(HeardVenue, ImpactVenue):
    """A venue whose marks feel what was filled, heard by the judge."""


HEARD_VENUES: dict[str, type[HeardVenue] | None] = {"none": None, "book": HeardVenue, "impact": HeardImpactVenue}


def parse(line: bytes) -> Document | None:
    """Return a message as a dict, or None where it is none."""
    try:
        message = orjson.loads(line)
    except orjson.JSONDecodeError:
        message = try_json(line)
    return message if isinstance(message, dict) else None


def try_json(line: bytes) -> Any:
    """Return a line that only the lenient parser reads: it may hold NaN, which the engine refuses."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
