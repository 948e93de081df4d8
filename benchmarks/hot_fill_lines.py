"""What does a fill take from its JSON line to the decision? Lines in batches beside a message for each line.

Both read the same bytes, check the same things and must end with the same positions, wallets and money: in one way a
kernel reads a batch of lines and posts each usual fill, in the other the codec (orjson, then every check by name) makes
an event of each line and the machine applies that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.hot_engine import shard_of
from benchmarks.hot_fills import draw_fills
from benchmarks.hot_market import Int64Array, Market, make_market
from benchmarks.hot_path import BATCH, Taken, Times, message_of, origin_of
from engine.core.machine import Machine
from engine.core.shard import Shard
from engine.edges.codec import encode
from engine.edges.line_batch import LineReader
from engine.tools.market import START_NS
from engine.units import NS_PER_MS, UNIT_DECIMALS, format_scaled

LINES, EVENTS = f"lines, {BATCH} a batch", "a message a line"
Take = Callable[[Sequence[bytes]], object]


def measure_fill_lines(*, accounts: int, fills: int, walks: int, seed: int = 1) -> dict[str, Any]:
    """Return what a fill takes either way, by batch, and how many were posted by a kernel.

    walks  how often each way takes all fills
    """
    market = make_market(accounts=accounts, seed=seed)
    lines = fill_lines(market, draw_fills(market, fills, seed))
    taken: Taken = {LINES: [], EVENTS: []}
    expected, decoded = None, [0]
    for _ in range(walks):
        for name, way in ((LINES, partial(by_lines, decoded)), (EVENTS, by_events)):
            shard = shard_of(market)
            # The marks are there, and so is a time.
            shard.book.clock = START_NS
            taken[name].append(time_batches(way(shard), lines))
            found = state_of(shard)
            expected = expected or found
            if found != expected:
                raise SystemExit(f"fills, {name}: another book than the first way's")
    ways = {name: Times.of(rounds) for name, rounds in taken.items()}
    return {"accounts": accounts, "fills": fills, "posted": fills - decoded[0] // walks, "ways": ways}


def fill_lines(market: Market, trades: Int64Array) -> list[bytes]:
    """Return fills at the marks as lines of an event log, a millisecond apart, each with a fee."""
    lines = []
    for number, (row, symbol, change) in enumerate(trades.tolist()):
        decimals = market.price_decimals[symbol]
        names = {"type": "fill", "fill_id": f"f{number}", "account": str(row - 1), "symbol": market.names[symbol]}
        qty, price = abs(change), int(market.marks[symbol])
        numbers = {
            "side": "buy" if change > 0 else "sell",
            "qty": format_scaled(qty, UNIT_DECIMALS - decimals),
            "price": format_scaled(price, decimals),
            "fee": format_scaled(qty * price // 10_000, UNIT_DECIMALS),
        }
        lines.append(encode({**names, **numbers, "ts": START_NS + number * NS_PER_MS}))
    return lines


def by_lines(decoded: list[int], shard: Shard) -> Take:
    """Return what takes a batch as lines; ``decoded`` counts those that had to be made a message."""
    machine, reader = Machine(shard), LineReader(shard.book)

    def take(part: Sequence[bytes]) -> None:
        def message(number: int) -> Any:
            decoded[0] += 1
            return message_of(part, number)

        machine.fold(reader.read_values(part, message=message, origin=origin_of))

    return take


def by_events(shard: Shard) -> Take:
    """Return what makes a message of each line of a batch."""
    machine = Machine(shard)
    return lambda part: machine.apply(filter(None, (message_of(part, number) for number in range(len(part)))))


def time_batches(take: Take, lines: Sequence[bytes]) -> Int64Array:
    """Take lines batch by batch; return the nanoseconds a line."""
    taken = []
    for first in range(0, len(lines), BATCH):
        part = lines[first : first + BATCH]
        started = time.perf_counter_ns()
        take(part)
        taken.append((time.perf_counter_ns() - started) // len(part))
    return np.array(taken, dtype=np.int64)


def state_of(shard: Shard) -> tuple[object, ...]:
    """Return what fills change."""
    tables, counters = shard.book.tables, shard.counters
    clearing = [(each.size, each.cost) for each in shard.book.clearing]
    return (
        *(tables.positions[name].tobytes() for name in ("size", "cost")),
        tables.balances.tobytes(),
        *(clearing, shard.book.system, shard.clock, shard.seq),
        *(counters.accepted, counters.fills, counters.rejected),
    )
