"""What do fills cost the trigger index? Keys set once before the next price, beside keys set anew at every fill.

A fill makes its row stale, and a row is stale once, however many fills of a batch are its own: what a price may not
meet are old keys, and between two fills there is none. The alternative shares the slack out over all of the row's
positions again at each fill. Both change the same positions and must end with the same keys.

Whose fills they are follows a recorded minute of Hyperliquid (4,924 fills of 750 accounts, 2025-10-27): of 64 in a row
36 are of different accounts, of 512 185, of 2,048 462. Drawn here from 1,400 active accounts by a power of their rank
it is 40, 191 and 476. What else an engine does with a fill is left out: its ledger, its message.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.hot_engine import Index
from benchmarks.hot_market import Int64Array, Market, make_market
from benchmarks.hot_path import Taken, Times
from engine.core.kernels.compile import kernel
from engine.core.kernels.rows import position_of, put_position
from engine.core.kernels.tables import PRICE
from engine.core.kernels.triggers import share_stale

ACTIVE, ACTIVITY_POWER = 1_400, 1.1
# What one read of a broker brings at most, and what ten do.
BATCHES = 500, 5_000
# A fill moves a position by a tenth of what it was, out and in again in turn.
PART = 10
ONCE, EACH = "keys set once a batch", "keys set at each fill"


def measure_fills(*, accounts: int, fills: int, walks: int, seed: int = 1) -> dict[str, Any]:
    """Return what a fill takes either way, by size of batch, and how many times as long the second way takes at best.

    walks  how often each way takes all fills
    """
    market = make_market(accounts=accounts, seed=seed)
    index = Index(market)
    trades = draw_fills(market, fills, seed)
    ways = {name_of(size, label): (size, label == EACH) for size in BATCHES for label in (ONCE, EACH)}
    taken: Taken = {name: [] for name in ways}
    positions, keys = index.view.positions.copy(), None
    for _ in range(walks):
        for name, (size, is_each) in ways.items():
            index.view.positions[:] = positions
            index.reset(market)
            taken[name].append(time_batches(index, trades, size, is_each=is_each))
            if keys is None:
                keys = index.view.keys.copy()
            if not np.array_equal(index.view.keys, keys):
                raise SystemExit(f"fills, {name}: other keys than the first way's")
    times = {name: Times.of(rounds) for name, rounds in taken.items()}
    best = {name: max(figures.mean_best, 1) for name, figures in times.items()}
    return {
        "accounts": accounts,
        "fills": fills,
        "accounts_a_batch": {str(size): round(accounts_a_batch(trades, size)) for size in BATCHES},
        "ways": times,
        "each_by_once": {
            str(size): round(best[name_of(size, EACH)] / best[name_of(size, ONCE)], 2) for size in BATCHES
        },
    }


def name_of(size: int, label: str) -> str:
    """Return what a way is called with batches of a size."""
    return f"{size:,} a batch, {label}"


def draw_fills(market: Market, count: int, seed: int) -> Int64Array:
    """Return int64[fill, 3]: row of the tables, symbol, change of the position's size."""
    rng = np.random.default_rng(seed)
    active = rng.choice(market.accounts, min(ACTIVE, market.accounts), replace=False)
    chances = np.arange(1, len(active) + 1) ** -ACTIVITY_POWER
    rows = rng.choice(active, count, p=chances / chances.sum())
    held = np.diff(market.row_base)[rows]
    places = market.row_base[rows] + (rng.random(count) * held).astype(np.int64)
    size = market.size[places]
    change = np.sign(size) * np.maximum(np.abs(size) // PART, 1)
    # Out at a position's first, third, fifth fill, in at the others: none is ever closed.
    seen: dict[int, int] = {}
    for number, place in enumerate(places.tolist()):
        seen[place] = seen.get(place, 0) + 1
        change[number] *= 1 if seen[place] % 2 else -1
    return np.stack([rows + 1, market.symbol[places], change], axis=1).astype(np.int64)


def accounts_a_batch(trades: Int64Array, size: int) -> float:
    """Return of how many different accounts the fills of a batch are, on average."""
    return float(np.mean([len(np.unique(trades[first : first + size, 0])) for first in range(0, len(trades), size)]))


def time_batches(index: Index, trades: Int64Array, size: int, *, is_each: bool) -> Int64Array:
    """Take fills batch by batch, each batch ready for a price; return the nanoseconds a fill."""
    # Compiled, and read into memory, before the clock runs.
    take_fills(index.view, trades[:0], is_each)
    taken = []
    for first in range(0, len(trades), size):
        batch = trades[first : first + size]
        started = time.perf_counter_ns()
        take_fills(index.view, batch, is_each)
        taken.append((time.perf_counter_ns() - started) // len(batch))
    return np.array(taken, dtype=np.int64)


@kernel
def take_fills(t: Any, trades: Any, is_each: Any) -> Any:
    """Change positions at the marks; leave no row stale. ``is_each``: nor after any of the fills."""
    for index in range(trades.shape[0]):
        row, symbol, change = trades[index, 0], trades[index, 1], trades[index, 2]
        size, cost = position_of(t, row, symbol, 0)
        put_position(t, row, symbol, 0, size + change, cost - change * t.symbols[symbol, PRICE])
        if is_each:
            share_stale(t)
    share_stale(t)
