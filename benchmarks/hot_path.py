"""Which accounts does a mark concern? The trigger index beside the ways that look at everybody, on the same marks.

Whoever is found deposits as much as its positions are worth, in every way alike, so that nobody is found for ever: in
the engine it would be called, or liquidated and gone. Deposits are not timed; what they make necessary is. All ways
must find the same rows at every mark they share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.hot_engine import Batches, Index
from benchmarks.hot_market import Int64Array, Market, Path, make_market
from benchmarks.hot_python import event_loops, mark_lines
from benchmarks.hot_ways import (
    Full,
    FullC,
    FullNumba,
    HoldersC,
    HoldersNumba,
    HoldersNumpy,
    Kept,
    PythonLoop,
    Times,
    Way,
    compile_c,
)
from engine.core.events import Message, Origin
from engine.core.machine import Machine
from engine.edges.codec import decode
from engine.edges.line_batch import LineReader

GAP_FALL = 0.2
GAP_ROUNDS = 5
# Marks from the start of a path that a slow way takes; what they cost hardly depends on the mark.
SLOW_MARKS = 40
# A list of tuples of a million accounts takes gigabytes.
PYTHON_ACCOUNTS_MAX = 200_000
BATCH = 256

Make = Callable[[], Way]


def measure_paths(*, accounts: int, calm: int, crash: int, seed: int = 1) -> dict[str, Any]:
    """Return what a mark takes, in so many rounds of a calm market and of a crash, and in a gap of the first symbol."""
    market = make_market(accounts=accounts, seed=seed)
    library = compile_c()
    index = Index(market)
    document: dict[str, Any] = {
        "accounts": accounts,
        "positions": len(market.size),
        "symbols": len(market.names),
        "seed": seed,
        "without_c": library if isinstance(library, str) else None,
        "bytes_an_account": {index.label: round(index.bytes_held() / accounts)},
    }
    for name, path in (("calm", market.calm(calm)), ("crash", market.crash(crash)), ("gap", gap_rounds(market))):
        document[name] = time_path(index, makers(market, library), market, path, document["bytes_an_account"])
    return document


def makers(market: Market, library: Any) -> list[Make]:
    """Return what makes each of the other ways, one at a time: together they would not fit."""
    made: list[Make] = [lambda: HoldersNumba(market), lambda: FullNumba(market), lambda: HoldersNumpy(market)]
    if not isinstance(library, str):
        made += [lambda: HoldersC(market, library), lambda: FullC(market, library)]
    if market.accounts <= PYTHON_ACCOUNTS_MAX:
        made.append(lambda: PythonLoop(market))
    return made


def gap_rounds(market: Market) -> Path:
    """Return the first symbol's fall by a fifth at once, and its way back, several times."""
    ((symbol, fallen),) = market.gap(0, GAP_FALL).events()
    prices = [fallen, int(market.marks[symbol])] * GAP_ROUNDS
    return Path(np.full(len(prices), symbol, dtype=np.int64), np.array(prices, dtype=np.int64))


def time_path(index: Index, others: Sequence[Make], market: Market, path: Path, held: dict[str, int]) -> dict[str, Any]:
    """Walk a path with every way; return what a mark took, and how many rows were found."""
    amounts = notionals(market)
    batches = Batches(index, market)
    # Once unclocked: what was never touched is not in memory yet.
    batches.walk(Path(path.symbols[:BATCH], path.prices[:BATCH]), amounts)
    index.reset(market)
    times = {batches.label: Times.of([batches.walk(path, amounts)])}
    index.reset(market)
    rows, taken = walk(index, path, amounts, len(path.symbols))
    times[index.label] = Times.of([taken])
    index.reset(market)
    for make in others:
        way = make()
        held[way.label] = round(way.bytes_held() / market.accounts)
        is_slow = isinstance(way, Full | HoldersNumpy | PythonLoop)
        count = min(SLOW_MARKS, len(path.symbols)) if is_slow else len(path.symbols)
        way.mark(0, int(market.marks[0]))
        found, taken = walk(way, path, amounts, count)
        for number, (ours, theirs) in enumerate(zip(rows, found, strict=False)):
            if not np.array_equal(np.sort(theirs), ours):
                raise SystemExit(f"{way.label}, mark {number}: finds {len(theirs)} rows, the index {len(ours)}")
        times[way.label] = Times.of([taken])
    return {"marks": len(path.symbols), "found": sum(map(len, rows)), "ways": times}


def notionals(market: Market) -> Int64Array:
    """Return what each account's positions are worth."""
    worth = np.abs(market.size) * market.marks[market.symbol]
    return np.add.reduceat(worth, market.row_base[:-1]).astype(np.int64)


def walk(way: Way, path: Path, amounts: Int64Array, count: int) -> tuple[list[Int64Array], Int64Array]:
    """Take the first marks of a path one by one; return the rows that each found, and the nanoseconds it took."""
    clock, mark = time.perf_counter_ns, way.mark
    found, taken = [], np.zeros(count, dtype=np.int64)
    for number, (symbol, price) in enumerate(path.events()):
        if number == count:
            break
        started = clock()
        rows_count = mark(symbol, price)
        taken[number] = clock() - started
        rows = way.touched[:rows_count].astype(np.int64)
        found.append(rows)
        if rows_count:
            deposit(way, rows, amounts[rows])
    return found, taken


def deposit(way: Way, rows: Int64Array, amounts: Int64Array) -> None:
    """Add to the wallets of rows, wherever a way keeps them."""
    match way:
        case Index():
            way.deposit(rows, amounts)
        case Kept():
            way.standing[rows, 0] += amounts
        case HoldersNumpy():
            way.equity[rows] += amounts
        case PythonLoop():
            for row, amount in zip(rows.tolist(), amounts.tolist(), strict=True):
                way.cash[row] += amount
        case Full():
            way.cash[rows] += amounts


def measure_stream(*, accounts: int, rounds: int, seed: int = 1) -> dict[str, Any]:
    """Return what a mark takes from its JSON line to the decision, in a calm market: batches, one by one, and loops.

    The loops call the index for each mark, as one would who writes Python around the same kernels.
    """
    market = make_market(accounts=accounts, seed=seed)
    lines = mark_lines(market, market.calm(rounds))
    index = Index(market)
    Batches(index, market)
    ways: dict[str, Times] = {}
    for batch in (BATCH, 1):
        index.reset(market)
        fold_lines(index, lines[:BATCH], batch)
        index.reset(market)
        ways[f"lines, {batch} a batch"] = Times.of([fold_lines(index, lines, batch)])
    for name, loop in event_loops().items():
        index.reset(market)
        if not isinstance(loop, str):
            loop(lines[:BATCH], market, index.mark)
            index.reset(market)
            ways[name] = Times.of([loop(lines, market, index.mark)])
    return {"accounts": accounts, "marks": len(lines), "ways": ways}


def origin_of(number: int) -> Origin:
    """Return a place for a line."""
    return Origin("", -1, number)


def message_of(lines: Sequence[bytes], number: int) -> Message | None:
    """Return a line as a message."""
    event = decode(lines[number])
    return None if event is None else Message(origin_of(number), event, lines[number])


def fold_lines(index: Index, lines: Sequence[bytes], batch: int) -> Int64Array:
    """Bring lines to the machine in batches; return the nanoseconds a line, batch by batch."""
    shard = index.shard
    machine, reader = Machine(shard), LineReader(shard.book)
    taken = np.zeros(-(-len(lines) // batch), dtype=np.int64)
    for number in range(len(taken)):
        part = lines[number * batch : (number + 1) * batch]
        started = time.perf_counter_ns()
        machine.fold(reader.read_values(part, message=partial(message_of, part), origin=origin_of))
        taken[number] = (time.perf_counter_ns() - started) // len(part)
    return taken
