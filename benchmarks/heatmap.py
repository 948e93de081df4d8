"""What do exact heat-maps cost beside valuing every row at every edge? ``python -m benchmarks.heatmap [--accounts N]``.

A made-up market (``hot_market.py``), 200 symbols, 101 edges on each ladder and on that of the common factor, as it is
and after a fall of all marks by a fifth. Both ways run over the same book in the same process, and every count of rows
and contracts at every edge must be the same: exit code 1 where one is not. Then a survey is made in slices, as a
service makes it between two batches, and the calls are timed one by one. All times are the processor's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.command import Found, finish, parser_of
from benchmarks.hot_engine import shard_of
from benchmarks.hot_market import Int64Array, Market, make_market
from benchmarks.tables import text_table
from engine.core.heatmap import HeatTally
from engine.core.kernels.compile import kernel
from engine.core.kernels.heatmap import COMMON, LIMB_BITS, LONG_HIGH, OWN, SHORT_HIGH
from engine.core.kernels.margin import is_liquidatable
from engine.core.kernels.rows import row_standing
from engine.core.kernels.runs import next_position
from engine.core.kernels.tables import BELOW, HEAD, NONE, PRICE
from engine.core.ladders import SurveyOptions, betas_of, ladders_of
from engine.core.shard import Shard
from engine.core.survey import Survey

FALLS = (0.0, 0.2)
SLICE_ROWS = 100
LONG, SHORT = 0, 1


@kernel
def brute_force(t: Any, marks: Any, first: Any, end: Any, rows: Any, sizes: Any) -> None:
    """Value each row at every edge of every ladder it stands on, and add up who is liquidatable there.

    marks  int64[2, symbol, edge]  as in ``Ladders``; those in force are put back each time
    rows   int64[symbol + 1, edge], sizes  int64[2, symbol, edge, 2]  long and short contracts
    """
    below = t.settings[BELOW] != 0
    symbols, edges = marks.shape[1], marks.shape[2]
    middle = edges // 2
    for row in range(first, end):
        id_ = t.rows[row, HEAD]
        while id_ != NONE:
            symbol = t.positions[id_].symbol
            for edge in range(edges):
                t.symbols[symbol, PRICE] = marks[OWN, symbol, edge]
                equity, maintenance, _ = row_standing(t, row)
                if is_liquidatable(equity, maintenance, below):
                    rows[symbol, edge] += 1
                    _add(t, id_, sizes[OWN, symbol, edge])
            t.symbols[symbol, PRICE] = marks[OWN, symbol, middle]
            id_ = next_position(t, id_)
    for edge in range(edges):
        for symbol in range(symbols):
            t.symbols[symbol, PRICE] = marks[COMMON, symbol, edge]
        for row in range(first, end):
            equity, maintenance, _ = row_standing(t, row)
            if is_liquidatable(equity, maintenance, below):
                rows[symbols, edge] += 1
                id_ = t.rows[row, HEAD]
                while id_ != NONE:
                    _add(t, id_, sizes[COMMON, t.positions[id_].symbol, edge])
                    id_ = next_position(t, id_)
    for symbol in range(symbols):
        t.symbols[symbol, PRICE] = marks[OWN, symbol, middle]


@kernel
def _add(t: Any, id_: Any, sizes: Any) -> None:
    """Add a position's contracts to its side."""
    size = t.positions[id_].size
    sizes[LONG if size >= 0 else SHORT] += abs(size)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of processor time that both ways took over all rows, and whether they found the same."""

    accounts: int
    exact_s: float
    brute_s: float
    is_equal: bool

    def cells(self, label: str) -> list[str]:
        """Return a line of the table: microseconds a row, and how many times faster."""
        exact_us, brute_us = (seconds / self.accounts * 1e6 for seconds in (self.exact_s, self.brute_s))
        verdict = "the same" if self.is_equal else "NOT THE SAME"
        return [label, f"{exact_us:.2f}", f"{brute_us:.1f}", f"{brute_us / exact_us:.1f}", verdict]


def main(arguments: list[str] | None = None) -> int:
    """Time both ways and the slices, print the tables; return 1 where the ways do not agree."""
    parser = parser_of("benchmarks.heatmap", __doc__)
    parser.add_argument("--accounts", type=int, default=100_000, help="how many accounts (100,000)")
    parser.add_argument("--symbols", type=int, default=200, help="how many symbols (200)")
    options = parser.parse_args(arguments)
    return finish(lambda: measure(options.accounts, options.symbols), options.json)


def measure(accounts: int, symbols: int) -> Found:
    """Return what both ways cost, and the slices of a survey."""
    market = make_market(accounts=accounts, symbols=symbols)
    shard = shard_of(market)
    timings = {f"all marks {fall:.0%} lower" if fall else "as it is": time_both(shard, market, fall) for fall in FALLS}
    header = ["microseconds a row", "bounds", "every edge", "times", "found"]
    table = text_table([header, *(timing.cells(label) for label, timing in timings.items())])
    size, slices = f"{accounts:,} accounts, {len(market.size):,} positions, {symbols} symbols", slice_times(shard)
    return Found(
        text=f"{size}\n{table}\n{slices_text(slices)}",
        document={**timings, "slices_ns": slices.tolist()},
        broken=[f"{label}: the two ways do not agree" for label, timing in timings.items() if not timing.is_equal],
    )


def time_both(shard: Shard, market: Market, fall: float) -> Timing:
    """Time both ways over all rows with all marks lower by ``fall``."""
    book = shard.book
    for symbol, mark in enumerate(market.marks.tolist()):
        book.set_mark(symbol, max(1, round(mark * (1 - fall))), 0, is_seen=True)
    view, options = book.tables.view, SurveyOptions()
    ladders = ladders_of(view, betas_of(book, options), np.array(options.moves_ppm(), dtype=np.int64))
    tally, count = HeatTally(ladders), len(book.accounts)
    # Compiled over nobody first.
    tally.add_rows(view, 0, 0)
    rows, sizes = np.zeros_like(tally.rows), np.zeros((*tally.sizes.shape[:3], 2), dtype=np.int64)
    brute_force(view, ladders.marks, 0, 0, rows, sizes)
    exact_s = seconds(lambda: tally.add_rows(view, 1, count))
    brute_s = seconds(lambda: brute_force(view, ladders.marks, 1, count, rows, sizes))
    is_equal = agrees(tally, rows, sizes)
    return Timing(market.accounts, exact_s, brute_s, is_equal)


def agrees(tally: HeatTally, rows: Int64Array, sizes: Int64Array) -> bool:
    """Return whether the tally says of every edge what brute force does, nobody left out."""
    levels = np.cumsum(tally.sizes, axis=2)
    contracts = np.stack([(levels[..., high] << LIMB_BITS) + levels[..., high + 1] for high in (LONG_HIGH, SHORT_HIGH)])
    same_sizes = np.array_equal(np.moveaxis(contracts, 0, -1), sizes)
    return same_sizes and np.array_equal(np.cumsum(tally.rows, axis=1), rows) and not tally.left_out.any()


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


def slice_times(shard: Shard) -> Int64Array:
    """Return the nanoseconds of each call of a round in slices."""
    survey, taken, report = Survey(shard), [], None
    survey.advance(len(shard.book.accounts) * 1_000)
    while report is None:
        started = time.thread_time_ns()
        report = survey.advance(SLICE_ROWS)
        taken.append(time.thread_time_ns() - started)
    return np.array(taken, dtype=np.int64)


def slices_text(taken: Int64Array) -> str:
    """Return what is to be said of the slices."""
    middle, high = np.percentile(taken, [50, 99]) / 1e3
    return (
        f"a round in {len(taken):,} calls of {SLICE_ROWS} rows: median {middle:.0f}, 99 % {high:.0f}, the first "
        f"{taken[0] / 1e3:.0f}, the longest {taken.max() / 1e3:.0f} microseconds; {taken.sum() / 1e9:.2f} s in all"
    )


if __name__ == "__main__":
    sys.exit(main())
