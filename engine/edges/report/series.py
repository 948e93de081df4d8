"""What is kept of each quantity over time: prices, orders by stage and by price, the insurance fund, totals so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from math import exp, floor, log
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.edges.report.buckets import Buckets
from engine.edges.report.markup import try_decimal
from engine.units import NS_PER_S

# Two points per pixel column of a wide screen's chart is all that can be seen.
POINTS_MAX = 600
BARS_MAX = 240
STAGES = ("full", "partial", "takeover", "adl")
HEAT_COLUMNS_MAX = 96
# A row of the heat-map as recorded: two hundred to a factor of e, finer than the map is drawn.
HEAT_ROWS_PER_E = 200
FUND_STEPS_MAX = 12


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
    """The marks of one symbol: first, last, low, high and last per bucket, and the longest time without one."""

    __slots__ = ("_buckets", "count", "first", "gap_max_ns", "gap_ts", "last", "last_ts")

    def __init__(self, first: float) -> None:
        self._buckets: Buckets[PricePoint] = Buckets(POINTS_MAX, PricePoint, PricePoint.add)
        self.first = first
        self.last = first
        self.count = 0
        self.last_ts = 0
        self.gap_max_ns = 0
        self.gap_ts = 0

    def on_mark(self, price: float, ts: int) -> None:
        """Add a mark; called once per mark of the log, so it does little."""
        if ts - self.last_ts > self.gap_max_ns and self.last_ts:
            self.gap_max_ns, self.gap_ts = ts - self.last_ts, self.last_ts
        if ts > self.last_ts:
            self.last_ts = ts
        self._put(price, ts)

    def _put(self, price: float, ts: int) -> None:
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
        self._note_gaps(times)
        while begin < len(times):
            self._put(float(prices[begin]), int(times[begin]))
            later = times[begin + 1 :] >= self._buckets.end_ns
            count = int(later.argmax()) if later.any() else len(later)
            if count:
                part, point = prices[begin + 1 : begin + 1 + count], self._buckets.payloads[-1]
                point.low, point.high = min(point.low, float(part.min())), max(point.high, float(part.max()))
                self.last = point.last = float(part[-1])
                point.ts = int(times[begin + count])
                self.count += count
            begin += 1 + count

    def _note_gaps(self, times: npt.NDArray[np.int64]) -> None:
        if not len(times):
            return
        newest = np.maximum.accumulate(np.concatenate(([self.last_ts or times[0]], times)))
        gaps = np.diff(newest)
        longest = int(gaps.argmax())
        if gaps[longest] > self.gap_max_ns:
            self.gap_max_ns, self.gap_ts = int(gaps[longest]), int(newest[longest])
        self.last_ts = int(newest[-1])

    @property
    def points(self) -> list[PricePoint]:
        """The buckets in order of time."""
        return self._buckets.payloads


@dataclass(slots=True)
class StageBar:
    """Orders, takeovers and ADL waves of one bucket of time by stage, and the liquidations that began in it."""

    started: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    notionals: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def add(self, later: StageBar) -> None:
        """Merge a later bucket into this one."""
        self.started += later.started
        for stage in STAGES:
            self.counts[stage] += later.counts[stage]
            self.notionals[stage] += later.notionals[stage]


def stage_buckets() -> Buckets[StageBar]:
    """Return an empty series of bars."""
    return Buckets(BARS_MAX, StageBar, StageBar.add)


@dataclass(slots=True)
class Peak:
    """The second of the clock in which the most was liquidated, and the second that is being added up."""

    second: int = 0
    liquidations: int = 0
    notional: float = 0.0
    busiest_second: int = 0
    busiest_liquidations: int = 0
    busiest_notional: float = 0.0

    def add(self, ts: int, *, liquidations: int = 0, notional: float = 0.0) -> None:
        """Add what happened at ``ts``."""
        second = ts // NS_PER_S
        if second != self.second:
            self.second, self.liquidations, self.notional = second, 0, 0.0
        self.liquidations += liquidations
        self.notional += notional
        if self.notional > self.busiest_notional:
            self.busiest_second, self.busiest_notional = second, self.notional
            self.busiest_liquidations = self.liquidations


class HeatMap:
    """How much notional of one symbol was liquidated at which price and when: rows of equal ratio, columns of time."""

    __slots__ = ("columns",)

    def __init__(self) -> None:
        self.columns: Buckets[dict[int, float]] = Buckets(HEAT_COLUMNS_MAX, dict, add_cells)

    def add(self, ts: int, price: float, notional: float) -> None:
        """Add what was liquidated at a price > 0."""
        column, row = self.columns.at(ts), floor(log(price) * HEAT_ROWS_PER_E)
        column[row] = column.get(row, 0.0) + notional

    def cells(self, rows_max: int) -> tuple[float, list[tuple[int, int, float]]]:
        """Return the ratio from a row's lower edge to its upper one, and (start_ns, row, notional) of each cell."""
        rows = {row for column in self.columns.payloads for row in column}
        if not rows:
            return 1.0, []
        low, high, merged = min(rows), max(rows), 1
        while high // merged - low // merged >= rows_max:
            merged += 1
        cells: dict[tuple[int, int], float] = {}
        for start_ns, column in zip(self.columns.starts_ns, self.columns.payloads, strict=True):
            for row, notional in sorted(column.items()):
                cells[start_ns, row // merged] = cells.get((start_ns, row // merged), 0.0) + notional
        return exp(merged / HEAT_ROWS_PER_E), [(start, row, notional) for (start, row), notional in cells.items()]


def add_cells(column: dict[int, float], later: dict[int, float]) -> None:
    """Merge the cells of a later column into this one."""
    for row, notional in later.items():
        column[row] = column.get(row, 0.0) + notional


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

    __slots__ = ("_buckets", "causes", "end", "largest", "low", "start", "start_ts", "steps")

    def __init__(self, body: dict[str, Any]) -> None:
        """Start at the balance before ``body``, the asset's first ``insurance_fund`` message."""
        self._buckets: Buckets[FundPoint] = Buckets(POINTS_MAX, FundPoint, FundPoint.add)
        self.causes: dict[str, CauseTotals] = {}
        # The steps that moved most, largest first, with who and why.
        self.largest: list[dict[str, Any]] = []
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
        self._rank(body, abs(change))
        totals = self.causes.setdefault(cause, CauseTotals())
        totals.count += 1
        if change >= 0:
            totals.paid_in += change
        else:
            totals.paid_out += change
        point = self._buckets.at(ts)
        point.ts, point.balance = ts, float(balance)
        point.changes[cause] = point.changes.get(cause, 0.0) + float(change)

    def _rank(self, body: dict[str, Any], moved: Decimal) -> None:
        """Keep a step if it is among the largest; of equal ones the earlier."""
        if len(self.largest) < FUND_STEPS_MAX or moved > abs(decimal_of(self.largest[-1]["change"])):
            self.largest.append(body)
            self.largest.sort(key=lambda step: -abs(decimal_of(step["change"])))
            del self.largest[FUND_STEPS_MAX:]

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
