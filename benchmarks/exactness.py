"""Does the trigger index miss nobody? ``python -m benchmarks.exactness [--ticks N] [--accounts N] [--seed S]``.

Random ticks over a made-up market, small moves and now and then a gap; after each of them the holders that the index
finds are compared with those that a look at every holder finds. Between ticks positions are traded, closed and opened,
funding is paid, margin calls go out and are taken back, and whoever is liquidatable deposits. All of it runs in one
kernel, so that a hundred million ticks take minutes. Exit code 1 at the first difference, which is named.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np

from benchmarks.hot_engine import Index
from benchmarks.hot_market import make_market
from engine.core.kernels.compile import inlined, kernel
from engine.core.kernels.margin import is_liquidatable
from engine.core.kernels.rows import FULL, held_at, mark_stale, put_balance, put_position, row_standing
from engine.core.kernels.tables import BASE, CALLED, COUNT, FLAGS, PRICE
from engine.core.kernels.triggers import all_holders_into, concerned_rows_into, share_stale

TICKS = 100_000_000
ACCOUNTS = 1_000
# Ticks a call of the kernel: how often it says how far it is.
STRETCH = 1_000_000
# One tick in so many is a gap, brings funding to its symbol's holders, is followed by a trade.
GAP, FUNDING, TRADE = 1_000, 5_000, 8
# Tallies: rows found, gaps, payments, trades, calls that went out or were taken back, deposits.
FOUND, GAPS, PAYMENTS, TRADES, CALLS, DEPOSITS = range(6)


@inlined
def next_random(state: Any) -> Any:
    """Return 63 random bits (xorshift64*)."""
    bits = state[0]
    bits ^= bits >> np.uint64(12)
    bits ^= bits << np.uint64(25)
    bits ^= bits >> np.uint64(27)
    state[0] = bits
    return np.int64((bits * np.uint64(2685821657736338717)) >> np.uint64(1))


@kernel
def run_ticks(
    t: Any, first_marks: Any, state: Any, ticks: Any, by_index: Any, by_looking: Any, seen: Any, tallies: Any
) -> Any:
    """Take random ticks; return -1, or the symbol of the first at which the two ways differ.

    seen  int64[row]  the number of the tick that last found a row, across calls; tallies  int64[6]  as named above
    """
    for _ in range(ticks):
        share_stale(t)
        seen[0] += 1
        symbol = next_random(state) % t.symbols.shape[0]
        move_mark(t, first_marks, state, symbol, tallies)
        found = concerned_rows_into(t, symbol, by_index)
        looked_at = all_holders_into(t, symbol, by_looking)
        for index in range(found):
            seen[by_index[index]] = seen[0]
        for index in range(looked_at):
            if seen[by_looking[index]] != seen[0]:
                return symbol
        tallies[FOUND] += looked_at
        for index in range(looked_at):
            deal_with(t, by_looking[index], tallies)
        if next_random(state) % FUNDING == 0:
            pay_funding(t, state, symbol, tallies)
        if next_random(state) % TRADE == 0:
            trade(t, state, symbol, tallies)
    return np.int64(-1)


@inlined
def move_mark(t: Any, first_marks: Any, state: Any, symbol: Any, tallies: Any) -> Any:
    """Move a mark by up to five basis points, in a gap by up to a fifth, back toward its first one when far away."""
    price = t.symbols[symbol, PRICE]
    span = np.int64(100_000_000)
    reach = np.int64(50_000)
    if next_random(state) % GAP == 0:
        reach = np.int64(20_000_000)
        tallies[GAPS] += 1
    move = next_random(state) % (2 * reach + 1) - reach
    if price > 3 * first_marks[symbol]:
        move = -abs(move)
    elif 3 * price < first_marks[symbol]:
        move = abs(move)
    change = np.int64(float(price) * float(move) / float(span))
    t.symbols[symbol, PRICE] = max(np.int64(1), price + change)


@kernel
def deal_with(t: Any, row: Any, tallies: Any) -> Any:
    """Do what the machine would: a call goes out or is taken back, who must be liquidated deposits instead."""
    equity, maintenance, gross = row_standing(t, row)
    if is_liquidatable(equity, maintenance, False) or equity < 0:
        put_balance(t, row, 0, t.balances[row, 0] + max(gross // 4, maintenance * 2) + max(-equity, 0) + 1_000_000)
        tallies[DEPOSITS] += 1
    else:
        t.rows[row, FLAGS] ^= CALLED
        mark_stale(t, row)
        tallies[CALLS] += 1


@kernel
def pay_funding(t: Any, state: Any, symbol: Any, tallies: Any) -> Any:
    """Have each holder pay or receive up to a basis point of what it holds."""
    rate = next_random(state) % 201 - 100
    segment = t.symbols[symbol]
    for slot in range(segment[COUNT]):
        row, position = np.int64(t.holders[segment[BASE] + slot]), t.positions[held_at(t, symbol, slot)]
        payment = position.size * segment[PRICE] // 1_000_000 * rate
        put_balance(t, row, 0, t.balances[row, 0] - payment)
        tallies[PAYMENTS] += 1


@kernel
def trade(t: Any, state: Any, symbol: Any, tallies: Any) -> Any:
    """Change, close or turn a holder's position at the mark, or open one for a row that has none."""
    segment = t.symbols[symbol]
    price = segment[PRICE]
    if segment[COUNT] == 0 or next_random(state) % 4 == 0:
        row = 1 + next_random(state) % (t.rows.shape[0] - 1)
        size = (next_random(state) % 2_000_001 - 1_000_000) * 100
        for slot in range(segment[COUNT]):
            if t.holders[segment[BASE] + slot] == row:
                return
        if size != 0 and put_position(t, row, symbol, 0, size, -size * price) == FULL:
            return
    else:
        slot = next_random(state) % segment[COUNT]
        row, position = np.int64(t.holders[segment[BASE] + slot]), t.positions[held_at(t, symbol, slot)]
        held, cost = position.size, position.cost
        part = next_random(state) % 4
        # Closed, halved, turned or doubled: what is closed is realised.
        size = np.int64(0) if part == 0 else held // 2 if part == 1 else -held if part == 2 else 2 * held
        if abs(size) > 1_000_000_000_000_000 // price:
            size = np.int64(0)
        put_position(t, row, symbol, 0, size, -size * price)
        put_balance(t, row, 0, t.balances[row, 0] + held * price + cost)
    tallies[TRADES] += 1


def main(arguments: list[str] | None = None) -> int:
    """Run; print how far it is and what it did; return 0, or 1 at the first difference."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exactness", description=(__doc__ or "").split("?")[0])
    parser.add_argument("--ticks", type=int, default=TICKS, help=f"how many ({TICKS:,})")
    parser.add_argument("--accounts", type=int, default=ACCOUNTS, help=f"how many ({ACCOUNTS:,})")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    market = make_market(accounts=options.accounts, seed=options.seed)
    index = Index(market)
    tables, rows = index.view, options.accounts + 1
    assert len(tables.rows) == rows
    state = np.array([options.seed * 2 + 1], dtype=np.uint64)
    first_marks, tallies = market.marks.copy(), np.zeros(6, dtype=np.int64)
    by_index, by_looking = np.zeros((2, rows), dtype=np.int32)
    seen, started_s, done = np.zeros(rows, dtype=np.int64), time.perf_counter(), 0
    while done < options.ticks:
        stretch = min(STRETCH, options.ticks - done)
        symbol = int(run_ticks(tables, first_marks, state, stretch, by_index, by_looking, seen, tallies))
        if symbol >= 0:
            print(f"tick {int(seen[0]):,} of {market.names[symbol]}: a look at all finds a row that the index does not")
            return 1
        done += stretch
        print(f"\r{done:,} ticks, {time.perf_counter() - started_s:,.0f} s", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    names = ("rows found", "gaps", "payments", "trades", "calls", "deposits")
    figures = ", ".join(f"{count:,} {name}" for name, count in zip(names, tallies.tolist(), strict=True))
    print(f"{done:,} ticks, {options.accounts:,} accounts, seed {options.seed}: equal; {figures}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
