"""All that one shard remembers: the book, the episodes under way, what was already seen, what was counted.

Only data and its bookkeeping live here; ``intake.py`` says how a message changes it, ``liquidation.py`` how an
unhealthy account is dealt with, ``machine.py`` in which order.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.core.book import CROSS, INSURANCE_ROW, Book
from engine.core.events import EVENTS_TOPIC, INSURANCE, Event, Mark, Origin, Output
from engine.core.kernels.tables import WATCHED
from engine.core.pacing import Flow
from engine.core.params import Risk
from engine.core.plan import Planner, plan_liquidation
from engine.units import NS_PER_MS, format_units

# How many ids of each kind are remembered: a repeat within this many accepted events is recognised.
IDS_MAX = 1 << 20


@dataclass(slots=True)
class Order:
    """A liquidation order or collateral sale in flight; sizes in steps, amounts in units."""

    order_id: str
    row: int
    due_ts: int
    symbol: int = -1
    leg: int = 0
    size: int = 0
    left: int = 0
    limit: int = 0
    bankruptcy: int | None = None
    is_filled: bool = False
    asset: int = -1
    for_asset: int = -1
    amount: int = 0

    @property
    def is_sale(self) -> bool:
        """True for a collateral sale."""
        return self.asset >= 0


@dataclass(slots=True)
class Episode:
    """One liquidation of one row, from ``liquidation_started`` to ``liquidation_ended``."""

    row: int
    liquidation_id: str
    orders: dict[str, Order] = field(default_factory=dict)
    orders_count: int = 0
    attempts: int = 0
    outcome: str | None = None
    # What was filled: symbol, leg, signed steps, worth in valuation units.
    closed: list[tuple[int, int, int, int]] = field(default_factory=list)
    closed_notional: int = 0
    cost: int = 0
    paid_by_insurance: int = 0
    paid_by_adl: int = 0
    remaining: dict[tuple[int, int], int] = field(default_factory=dict)


@dataclass(slots=True)
class Hold:
    """Why a row is not acted on, since when, and when it is looked at again whatever happens (clock; 0: never)."""

    reason: str
    symbol: str | None
    since: int
    due: int = 0


@dataclass(slots=True)
class Counters:
    """What ``summary.json`` reports; amounts in units."""

    messages: int = 0
    accepted: int = 0
    duplicates: int = 0
    ignored: int = 0
    fills: int = 0
    orders: int = 0
    liquidations: int = 0
    adl: int = 0
    notional_liquidated: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    bad_debt: Counter[str] = field(default_factory=Counter)
    uncovered: Counter[str] = field(default_factory=Counter)


class SeenIds:
    """The ids of accepted events, in two generations so that forgetting the oldest costs nothing."""

    def __init__(self, limit: int = IDS_MAX) -> None:
        self.limit = limit
        self.current: set[tuple[str, str, str]] = set()
        self.previous: set[tuple[str, str, str]] = set()

    def __contains__(self, key: tuple[str, str, str]) -> bool:
        return key in self.current or key in self.previous

    def add(self, key: tuple[str, str, str]) -> None:
        """Remember (kind, account, id)."""
        if len(self.current) >= self.limit:
            self.previous, self.current = self.current, set()
        self.current.add(key)


class Venue(Protocol):
    """Where orders go in a simulation: answers with fills and ``order_done``s, each a message of the same ts."""

    def adjust(self, mark: Mark, shard: Shard) -> Mark:
        """Return a mark of the log as the market shows it after what was filled before."""

    def submit(self, order: Order) -> None:
        """Take an order that the machine has just sent."""

    def mark_changed(self, symbol: int) -> None:
        """Note that a new mark of ``symbol`` is in force."""

    def next_event(self, shard: Shard) -> Event | None:
        """Return the next answer, or None when there is none before the next input."""


class Shard:
    """The mutable state of one shard."""

    def __init__(self, risk: Risk, *, number: int = 0, venue: Venue | None = None) -> None:
        self.number = number
        self.book = Book(risk)
        self.venue = venue
        self.planner: Planner = plan_liquidation
        self.seq = 0
        self.outputs: list[Output] = []
        self.counters = Counters()
        self.ids = SeenIds()
        self.origin = Origin("", -1, 0)
        # (key, ts) of the message before, if it was refused for being too far ahead of the clock.
        self.future: tuple[str, int] | None = None
        self.episodes: dict[int, Episode] = {}
        self.episode_counts: dict[int, int] = {}
        self.last_orders: dict[int, int] = {}
        # By account too: an account may be named like another's bucket, and its order ids then look alike.
        self.order_rows: dict[tuple[str, str], int] = {}
        self.timers: list[tuple[int, str, str, str]] = []
        self.holds: dict[int, Hold] = {}
        # Rows whose stale or unconfirmed hold ran out: they go on with what is fresh until they need nothing any more.
        self.forced: set[int] = set()
        self.paused: dict[str, str] = {}
        self.flows: dict[int, Flow] = defaultdict(Flow)
        # Rows that an action on another row has changed, to be examined in the same step.
        self.dirty: set[int] = set()
        # Rows whose waterfall found no taker; tried again at each step.
        self.stuck: set[int] = set()

    @property
    def clock(self) -> int:
        """The largest accepted ts; 0 while unset."""
        return self.book.clock or 0

    def advance(self, ts: int) -> None:
        """Move the clock to an accepted message's ts, before anything that the message causes is written."""
        self.book.clock = max(self.clock, ts)

    def emit(self, topic: str, key: str, kind: str, fields: dict[str, Any]) -> None:
        """Append one output record with its envelope."""
        self.seq += 1
        body = {
            "type": kind,
            "ts": self.clock,
            "shard": self.number,
            "seq": self.seq,
            "output_id": f"{self.number}-{self.seq}",
            **fields,
        }
        self.outputs.append(Output(topic, key, body, self.counters.messages))

    def subject(self, row: int) -> dict[str, Any]:
        """Return the fields that name a row in an output: account, and bucket where it is one."""
        bucket = self.book.buckets[row]
        fields: dict[str, Any] = {"account": self.book.accounts[row]}
        return {**fields, "bucket": bucket} if bucket != CROSS else fields

    def watch(self, row: int) -> None:
        """Set or clear the flag that makes every price change of the row looked at."""
        self.book.set_flag(row, WATCHED, is_set=row in self.episodes or row in self.holds)

    def open_episode(self, row: int) -> Episode:
        """Return a new episode with its deterministic id."""
        number = self.episode_counts[row] = self.episode_counts.get(row, 0) + 1
        bucket = self.book.buckets[row]
        name = f"{self.book.accounts[row]}/{bucket}/{number}" if bucket else f"{self.book.accounts[row]}/{number}"
        episode = self.episodes[row] = Episode(row, name)
        self.counters.liquidations += 1
        self.watch(row)
        return episode

    def close_episode(self, episode: Episode) -> None:
        """Forget an episode; its order numbers stay known, so that a late ``order_done`` is not a stranger."""
        self.last_orders[episode.row] = episode.orders_count
        del self.episodes[episode.row]
        self.stuck.discard(episode.row)
        self.forced.discard(episode.row)
        self.watch(episode.row)

    def next_order_id(self, episode: Episode) -> str:
        """Return the id of the episode's next order or sale."""
        episode.orders_count += 1
        self.counters.orders += 1
        return f"{episode.liquidation_id}/{episode.orders_count}"

    def send(self, episode: Episode, order: Order) -> None:
        """Put an order in flight: remembered, timed, and offered to the simulated venue if there is one."""
        episode.orders[order.order_id] = order
        self.order_rows[self.book.accounts[order.row], order.order_id] = order.row
        self.set_timer(order.row, order.due_ts, order.order_id)
        if self.venue is not None:
            self.venue.submit(order)

    def set_timer(self, row: int, due_ts: int, order_id: str) -> None:
        """Have a row examined once the clock reaches ``due_ts``; ``order_id`` names an order that then times out."""
        heapq.heappush(self.timers, (due_ts, self.book.accounts[row], self.book.buckets[row], order_id))

    def set_symbol_timer(self, name: str, due_ts: int) -> None:
        """Have an unconfirmed price of a symbol (or asset) looked at again once the clock reaches ``due_ts``."""
        heapq.heappush(self.timers, (due_ts, "", name, ""))

    def due_ts(self) -> int:
        """Return when an order sent now times out."""
        return self.clock + self.book.policy.order_timeout_ms * NS_PER_MS

    def open_order(self, account: str, order_id: str | None) -> tuple[Episode, Order] | None:
        """Return the account's order in flight with this id and its episode, or None."""
        if order_id is None:
            return None
        row = self.order_rows.get((account, order_id))
        if row is None:
            return None
        episode = self.episodes[row]
        return episode, episode.orders[order_id]

    def end_order(self, episode: Episode, order: Order) -> None:
        """Take an order out of flight; one that ended with nothing filled is an attempt."""
        del episode.orders[order.order_id]
        del self.order_rows[self.book.accounts[order.row], order.order_id]
        if not order.is_filled:
            episode.attempts += 1

    def is_known_order(self, account: str, order_id: str) -> bool:
        """Return whether the engine once sent this order to this account."""
        head, _, order_number = order_id.rpartition("/")
        owner, _, episode_number = head.rpartition("/")
        bucket = CROSS if owner == account else owner.removeprefix(f"{account}/")
        row = self.book.row_index.get((account, bucket))
        if row is None or not (order_number.isdecimal() and episode_number.isdecimal()):
            return False
        episodes, number = self.episode_counts.get(row, 0), int(episode_number)
        if not 1 <= number <= episodes or int(order_number) < 1:
            return False
        episode = self.episodes.get(row)
        last = episode.orders_count if episode is not None else self.last_orders.get(row, 0)
        return number < episodes or int(order_number) <= last

    def note_fund(self, asset: int, before: int, cause: str, **names: str) -> None:
        """Emit ``insurance_fund`` if the fund's wallet of an asset has changed since it held ``before``."""
        balance = self.book.wallet(INSURANCE_ROW, asset)
        if balance != before:
            fields = {
                "asset": self.book.assets[asset].name,
                "change": format_units(balance - before),
                "balance": format_units(balance),
                "cause": cause,
                **names,
            }
            self.emit(EVENTS_TOPIC, names.get("account", INSURANCE), "insurance_fund", fields)
