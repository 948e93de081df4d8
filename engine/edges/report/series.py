"""What is kept of each quantity over time: prices, orders by stage, the insurance fund, totals so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.edges.report.buckets import Buckets
from engine.edges.report.markup import try_decimal

# Two points per pixel column of a wide screen's chart is all that can be seen.
POINTS_MAX = 600
BARS_MAX = 240
STAGES = ("full", "partial", "takeover", "adl")


@dataclass(slots=True)
class PricePoint:
    """The marks of one symbol in one bucket of time."""

    low: float = float("inf")
    high: float = float("-inf")
    last: float = 0.0
    ts: int = 0

    def add(self, later: PricePoint) -> None:
        """Merge a later bucket into this one."""
        self.low = min(self.low, later.low)
        self.high = max(self.high, later.high)
        self.last, self.ts = later.last, later.ts


class PriceSeries:
    """The marks of one symbol: first, last, and low, high and last per bucket."""

    __slots__ = ("_buckets", "count", "first", "last")

    def __init__(self, first: float) -> None:
        self._buckets: Buckets[PricePoint] = Buckets(POINTS_MAX, PricePoint, PricePoint.add)
        self.first = first
        self.last = first
        self.count = 0

    def on_mark(self, price: float, ts: int) -> None:
        """Add a mark; called once per mark of the log, so it does little."""
        self.count += 1
        self.last = price
        point = self._buckets.at(ts)
        if price < point.low:
            point.low = price
        if price > point.high:
            point.high = price
        point.last = price
        point.ts = ts

    def on_marks(self, prices: npt.NDArray[np.float64], times: npt.NDArray[np.int64]) -> None:
        """Add marks in their order; those of one bucket together."""
        begin = 0
        while begin < len(times):
            self.on_mark(float(prices[begin]), int(times[begin]))
            later = times[begin + 1 :] >= self._buckets.end_ns
            count = int(later.argmax()) if later.any() else len(later)
            if count:
                part, point = prices[begin + 1 : begin + 1 + count], self._buckets.payloads[-1]
                point.low, point.high = min(point.low, float(part.min())), max(point.high, float(part.max()))
                self.last = point.last = float(part[-1])
                point.ts = int(times[begin + count])
                self.count += count
            begin += 1 + count

    @property
    def points(self) -> list[PricePoint]:
        """The buckets in order of time."""
        return self._buckets.payloads


@dataclass(slots=True)
class StageBar:
    """Orders, takeovers and ADL waves of one bucket of time: how many and how much, by stage."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    notionals: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def add(self, later: StageBar) -> None:
        """Merge a later bucket into this one."""
        for stage in STAGES:
            self.counts[stage] += later.counts[stage]
            self.notionals[stage] += later.notionals[stage]


def stage_buckets() -> Buckets[StageBar]:
    """Return an empty series of bars."""
    return Buckets(BARS_MAX, StageBar, StageBar.add)


@dataclass(slots=True)
class Totals:
    """The run's totals so far, as of ``ts``."""

    ts: int = 0
    closed_notional: float = 0.0
    taken_notional: float = 0.0
    deleveraged_notional: float = 0.0
    episodes: int = 0
    accounts: int = 0

    def add(self, later: Totals) -> None:
        """Merge a later bucket into this one: the later totals hold."""
        self.ts, self.episodes, self.accounts = later.ts, later.episodes, later.accounts
        self.closed_notional, self.taken_notional = later.closed_notional, later.taken_notional
        self.deleveraged_notional = later.deleveraged_notional


def totals_buckets() -> Buckets[Totals]:
    """Return an empty series of totals."""
    return Buckets(POINTS_MAX, Totals, Totals.add)


@dataclass(slots=True)
class FundPoint:
    """The fund's balance after the last step of a bucket, and what changed it, by cause."""

    ts: int = 0
    balance: float = 0.0
    changes: dict[str, float] = field(default_factory=dict)

    def add(self, later: FundPoint) -> None:
        """Merge a later bucket into this one."""
        self.ts, self.balance = later.ts, later.balance
        for cause, change in later.changes.items():
            self.changes[cause] = self.changes.get(cause, 0.0) + change


@dataclass(slots=True)
class CauseTotals:
    """What one cause has moved in and out of the fund; exact, since a reader will add these up."""

    count: int = 0
    paid_in: Decimal = Decimal(0)
    paid_out: Decimal = Decimal(0)


class FundSeries:
    """The insurance fund's wallet of one asset."""

    __slots__ = ("_buckets", "causes", "end", "low", "start", "start_ts", "steps")

    def __init__(self, body: dict[str, Any]) -> None:
        """Start at the balance before ``body``, the asset's first ``insurance_fund`` message."""
        self._buckets: Buckets[FundPoint] = Buckets(POINTS_MAX, FundPoint, FundPoint.add)
        self.causes: dict[str, CauseTotals] = {}
        self.start = decimal_of(body["balance"]) - decimal_of(body["change"])
        self.start_ts = body["ts"]
        self.low = self.end = self.start
        self.steps = 0

    def on_step(self, body: dict[str, Any]) -> None:
        """Add one ``insurance_fund`` message."""
        balance, change, ts = decimal_of(body["balance"]), decimal_of(body["change"]), body["ts"]
        cause = str(body["cause"])
        self.steps += 1
        self.end = balance
        if balance < self.low:
            self.low = balance
        totals = self.causes.setdefault(cause, CauseTotals())
        totals.count += 1
        if change >= 0:
            totals.paid_in += change
        else:
            totals.paid_out += change
        point = self._buckets.at(ts)
        point.ts, point.balance = ts, float(balance)
        point.changes[cause] = point.changes.get(cause, 0.0) + float(change)

    @property
    def points(self) -> list[FundPoint]:
        """The buckets in order of time."""
        return self._buckets.payloads


@dataclass(slots=True)
class SymbolTotals:
    """What one symbol's liquidations came to."""

    orders: int = 0
    ordered_notional: float = 0.0
    takeovers: int = 0
    taken_notional: float = 0.0
    waves: int = 0
    deleveraged_notional: float = 0.0


def decimal_of(value: object) -> Decimal:
    """Return a number of an output as a Decimal, 0 where it is none (this page never stops a run)."""
    number = try_decimal(value)
    return Decimal(0) if number is None else number
