"""What must hold between any two messages, and of deeds that leave no output of their own.

A ``Judge`` looks at the whole book after each message. ``watching`` shows it two deeds as they happen: a position
handed over, a waterfall run. Money, open interest, the fund's wallet and written-off debt are recounted here in plain
Python; equity and margin come from the oracle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

from engine.core import ledger, liquidation, takeover
from engine.core.book import INSURANCE_ROW, Book
from engine.core.debts import is_insolvent
from engine.core.events import Event
from engine.core.guards import is_liquidatable_if_confirmed
from engine.core.margin import is_row_liquidatable
from engine.core.shard import Episode, Shard
from engine.edges.codec import encode_event
from engine.edges.venue import BookVenue
from tests.reference_numbers import UNIT, decimal
from tests.simulation.oracle import Document
from tests.simulation.outputs import NS_PER_MS, Onlooker, units


@dataclass
class Judge(Onlooker):
    """The laws of the book as a whole."""

    # Before and after a message.

    def before(self) -> None:
        """Note what the message may change."""
        self.messages += 1
        self.touched.clear()
        self.decision = None
        self.started.clear()
        self.kinds.clear()
        self.liquidatable_before = self.liquidatable_rows()

    def expect(self, message: Document | None) -> None:
        """Hear a message before the machine does: what it sets holds within its own step."""
        self.message = message or {}
        self.paused_before, self.answered = set(self.paused), None
        self.marks_ts = [price.ts for price in self.book.marks]
        self.waiting = None
        symbol = self.message.get("symbol")
        if self.message.get("type") == "transfer" and symbol in self.book.symbol_index:
            row = self.book.row_index.get((str(self.message.get("account")), symbol))
            if row is None or not (self.book.row_positions[row] or row in self.shard.episodes):
                self.waiting = self.bucket_wallet() + try_units(self.message.get("amount"))
        kind = self.message.get("type")
        if kind == "pause":
            self.paused.add(str(self.message.get("scope")))
        elif kind == "resume":
            self.paused.discard(str(self.message.get("scope")))
        elif kind in ("fill", "conversion", "order_done") and "account" in self.message:
            self.hear(self.message)

    def bucket_wallet(self) -> int:
        """Return what the bucket that the message names holds."""
        book, symbol = self.book, self.message["symbol"]
        row = book.row_index.get((str(self.message.get("account")), symbol))
        return 0 if row is None else book.wallet(row, book.settle[book.symbol_index[symbol]])

    def learn(self, verdict: str) -> None:
        """Take over what the message said, ``verdict`` being what the engine counted it as."""
        kind = self.message.get("type")
        own_id = kind, self.message.get("account"), self.message.get(f"{kind}_id")
        if verdict != "accepted":
            self.paused = self.paused_before
            if self.answered is not None and verdict == "rejected":
                flight, left, is_over = self.answered
                flight.left, flight.is_over = left, is_over
            return
        self.law("what repeats is not booked again", own_id not in self.accepted_ids, self.message)
        if own_id[2] is not None:
            self.accepted_ids.add(own_id)
        if kind == "transfer":
            self.deposited[self.message["asset"]] += units(str(self.message["amount"]))
            if self.waiting is not None:
                self.law("a bucket keeps its transfer", self.bucket_wallet() == self.waiting, self.message)

    def hear(self, message: Document) -> None:
        """Note a fill, a conversion or an ``order_done`` that answers an order in flight."""
        flight = self.flights.get(str(message.get("order_id")))
        kind = message.get("type")
        if flight is None or message["account"] != flight.order["account"]:
            return
        self.answered = flight, flight.left, flight.is_over
        if kind == "order_done":
            flight.is_over = True
            return
        answer_id = kind, message["account"], message[f"{kind}_id"]
        if answer_id in self.answers:
            return
        self.answers.add(answer_id)
        sides = flight.order.get("side"), flight.order.get("symbol")
        if kind == "fill" and sides == (message["side"], message["symbol"]):
            flight.left -= decimal(message["qty"])
        elif kind == "conversion" and flight.order.get("asset") == message["from_asset"]:
            flight.left -= decimal(message["from_amount"])
        flight.is_over |= flight.left <= 0

    def after(self) -> None:
        """Check all that must hold between two messages."""
        self.check_money()
        self.check_episodes()
        self.check_buckets()
        for symbol, ts in enumerate(self.marks_ts):
            self.law("marks never go back", self.book.marks[symbol].ts >= ts, self.book.instruments[symbol].symbol)
        self.check_holds()
        self.check_forgotten()
        rows = self.rows() if self.messages % self.every == 0 else sorted(self.touched)
        for row in rows:
            self.check_figures(row)
        if self.kinds.keys().isdisjoint(("adl", "bad_debt", "takeover")) and self.shard.venue is None:
            self.law("worst first", self.started == sorted(self.started), self.started)

    def check_money(self) -> None:
        """Money is conserved, by the engine's recount and by ours; the fund and bad debt moved as they said."""
        book = self.book
        ledger.check_conservation(book)
        rows = len(book.accounts)
        for index, asset in enumerate(book.assets):
            total = sum(book.wallets[index].balances[:rows].tolist())
            total += sum(balances[index] for balances in book.system.values())
            for symbol, settle in enumerate(book.settle):
                if settle == index:
                    holders = book.holders[symbol]
                    total += sum(holders.table[: holders.count, 3].tolist()) + book.clearing[symbol].cost
            name = asset.name
            self.law("money conserved", total == self.deposited[name], f"{name}: {total} != {self.deposited[name]}")
            wallet = book.wallet(INSURANCE_ROW, index)
            self.law("fund says what it does", self.fund.get(name, 0) == wallet, f"{name}: {self.fund} != {wallet}")
            hole = -book.system["$bad_debt"][index]
            self.law("uncovered is told", self.uncovered[name] == hole, f"{name}: {self.uncovered[name]} != {hole}")

    def check_episodes(self) -> None:
        """Each open episode was announced, waits for something, and nothing in flight is overdue."""
        shard = self.shard
        self.law("episodes are told", set(self.stories) == set(shard.episodes), (set(self.stories), shard.episodes))
        for row, episode in shard.episodes.items():
            waits = bool(episode.orders) or row in shard.holds or row in shard.stuck
            self.law("episode waits for something", waits, self.name(row))
            for order in episode.orders.values():
                self.law("timeouts fire", order.due_ts > shard.clock, f"{order.order_id} due {order.due_ts}")
                flight = self.flights[order.order_id]
                self.law("what is over is not in flight", not flight.is_over, f"{order.order_id} {flight.left}")

    def check_buckets(self) -> None:
        """A bucket whose position is gone has sent its rest home."""
        book = self.book
        for row in self.rows():
            if book.row_positions[row]:
                self.had_position.add(row)
            elif row in self.had_position and row not in self.shard.episodes:
                self.had_position.discard(row)
                if book.buckets[row]:
                    rest = book.wallet(row, book.settle[book.symbol_index[book.buckets[row]]])
                    self.law("an empty bucket sends its rest home", rest <= 0, f"{self.name(row)} {rest}")

    def check_holds(self) -> None:
        """Each hold was announced, is about somebody in trouble, and its reason is true."""
        shard, book = self.shard, self.book
        told = {row: (hold.reason, hold.symbol) for row, hold in shard.holds.items()}
        self.law("holds are told", told == self.held, (told, self.held))
        for row, hold in shard.holds.items():
            if row not in shard.episodes:
                trouble = self.in_trouble(row) or is_liquidatable_if_confirmed(book, row)
                self.law("only the unhealthy are held", trouble, f"{self.name(row)} {hold.reason}")
            self.law("hold has its reason", self.is_reason(row, hold.reason, hold.symbol), f"{self.name(row)} {hold}")
            self.law("holds run out", not hold.due or hold.due > shard.clock, f"{self.name(row)} {hold}")

    def is_reason(self, row: int, reason: str, name: str | None) -> bool:
        """Return whether what a hold says is so."""
        book, clock = self.book, self.shard.clock
        if reason == "warming_up":
            return not book.is_warm(row)
        if reason == "paused":
            return (name or "all") in self.paused
        if reason == "flow_budget":
            return name in book.symbol_index
        price = book.marks[book.symbol_index[name]] if name in book.symbol_index else None
        if price is None or not any(book.instruments[symbol].symbol == name for symbol, _ in book.row_positions[row]):
            price = book.asset_prices[book.asset_index[name or ""]] if name in book.asset_index else price
        if price is None:
            return False
        if reason == "price_band":
            return price.pending != 0
        stale_ms = int(self.oracle.policy("mark_stale_ms", "0"))
        return stale_ms > 0 and clock - price.ts > stale_ms * NS_PER_MS

    def in_trouble(self, row: int) -> bool:
        """Return whether a row must be dealt with, by the engine's own figures."""
        return is_row_liquidatable(self.book, row) or is_insolvent(self.book, row)

    def check_forgotten(self) -> None:
        """Nobody who must be liquidated is forgotten: an episode, or a hold that says why not."""
        shard, book = self.shard, self.book
        for row in self.rows():
            if book.is_priced(row) and book.is_warm(row) and row not in shard.episodes and row not in shard.holds:
                self.law("nobody is forgotten", not self.in_trouble(row), self.name(row))

    def check_figures(self, row: int) -> None:
        """The running sums of a row are what the oracle computes anew."""
        book = self.book
        if not book.is_priced(row):
            return
        figures = self.figures(row)
        found = book.equity(row), book.maintenance(row)
        expected = figures.equity_units, figures.maintenance_units
        self.law("equity and margin", found == expected, f"{self.name(row)}: {found} != {expected}")
        self.law("insolvency", is_insolvent(book, row) == self.oracle.is_insolvent(row), self.name(row))

    # Deeds without an output of their own.

    def hand_over(self, row: int, symbol: int, leg: int, size: int, taker: int, taker_leg: int) -> None:
        """Check who gives and who takes a position, before it happens."""
        book, shard = self.book, self.shard
        held, theirs = book.position(row, symbol, leg)[0], book.position(taker, symbol, taker_leg)[0]
        self.law("never more than owed", held * size > 0 and abs(size) <= abs(held), f"{self.name(row)} {held} {size}")
        self.law("whole lots", size % book.instruments[symbol].lot_steps == 0, f"{self.name(row)} {size}")
        if taker != INSURANCE_ROW:
            figures = self.figures(taker)
            opposite = theirs * size < 0 and abs(size) <= abs(theirs)
            self.law("only the other side is deleveraged", opposite, f"{self.name(taker)} {theirs} {size}")
            fit = taker not in shard.episodes and figures.equity_units > figures.maintenance_units
            self.law("only the healthy are deleveraged", fit, self.name(taker))

    def handed_over(self, taker: int) -> None:
        """Check what a takeover left of the taker."""
        if taker != INSURANCE_ROW:
            self.touched.add(taker)
            self.law("winners stay solvent", self.figures(taker).equity_units >= 0, self.name(taker))

    def waterfall_begins(self, row: int) -> None:
        """Remember the equity that a waterfall starts from."""
        story = self.stories[row]
        story.waterfalls += 1
        story.equity_before = self.figures(row).equity_units

    def waterfall_ends(self, row: int, is_empty: bool) -> None:
        """A waterfall says that nothing is left where nothing is."""
        book = self.book
        self.law("empty means empty", is_empty == (not book.row_positions[row]), self.name(row))


def try_units(amount: object) -> int:
    """Return an amount of a message in units, 0 where it is none."""
    try:
        return units(str(amount))
    except ValueError:
        return 0


@contextmanager
def watching(judge: Judge) -> Iterator[None]:
    """Let the judge see positions handed over and waterfalls run."""
    hand_over, run_waterfall = ledger.hand_over, takeover.run_waterfall

    def watched_hand_over(
        book: Book, row: int, symbol: int, leg: int, size: int, cash: int, taker: int, taker_leg: int
    ) -> None:
        judge.hand_over(row, symbol, leg, size, taker, taker_leg)
        hand_over(book, row, symbol, leg, size, cash, taker, taker_leg)
        judge.handed_over(taker)

    def watched_waterfall(shard: Shard, episode: Episode) -> bool:
        row, book = episode.row, shard.book
        judge.waterfall_begins(row)
        last = book.row_positions[row][-1][0]
        is_empty = run_waterfall(shard, episode)
        judge.waterfall_ends(row, is_empty)
        if is_empty:
            price = book.asset_prices[book.settle[last]].value
            # In steps of the last settlement asset: exactly zero where one is worth a unit of the valuation currency.
            exact = 0 <= book.equity(row) * UNIT < price
            weights = judge.oracle.risk["assets"][book.assets[book.settle[last]].name].get("weights", [["0", "1"]])
            if decimal(weights[-1][1]) > 0:
                judge.law("a full takeover leaves zero", exact, f"{judge.name(row)} {book.equity(row)} at {price}")
        return is_empty

    with (
        mock.patch.object(ledger, "hand_over", watched_hand_over),
        mock.patch.object(liquidation, "run_waterfall", watched_waterfall),
    ):
        yield


class HeardVenue(BookVenue):
    """The simulated venue of replays, its answers heard by the judge as they are given."""

    judge: Judge | None = None

    def next_event(self, shard: Shard) -> Event | None:
        """Return the venue's next answer."""
        event = super().next_event(shard)
        if self.judge is not None and event is not None:
            message = parse(encode_event(event))
            self.judge.hear(message or {})
        return event


def parse(line: bytes) -> Document | None:
    """Return a message as a dict, or None where it is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None
