"""Which accounts does a mark concern? The trigger index beside the ways that look at everybody, on the same marks.

Whoever is found deposits as much as its positions are worth, in every way alike, so that nobody is found for ever: in
the engine it would be called, or liquidated and gone. Deposits are not timed; what they make necessary is. All ways
must find the same rows at every mark they share, and keep no figure that does not follow from positions and marks.

Times are of one mark each, by the wall clock. The index and its twin in C walk a path in turn, several times; the mean
is the median of the walks' means, the best their lowest, which another process spoils last; the two are compared by
that. The others walk it once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from ctypes import CDLL
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from benchmarks.hot_c import FullC, HoldersC, IndexC, compile_c
from benchmarks.hot_engine import Batches, Index, Indexed
from benchmarks.hot_market import Int64Array, Market, Path, make_market
from benchmarks.hot_python import event_loops, mark_lines
from benchmarks.hot_ways import FullNumba, HoldersNumba, HoldersNumpy, PythonLoop, Way
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
FOUND, KEYED = "rows found", "keys set anew"

Make = Callable[[], Way]
Taken = dict[str, list[Int64Array]]


@dataclass(frozen=True, slots=True)
class Times:
    """Nanoseconds of one mark (or fill): median and lowest of the rounds' means, and percentiles of all marks."""

    events: int
    mean: int
    mean_best: int
    p50: int
    p99: int
    p99_9: int
    max: int

    @classmethod
    def of(cls, rounds: Sequence[Int64Array]) -> Times:
        """Return the figures of what each round took."""
        means = [float(times.mean()) for times in rounds]
        ordered = np.sort(np.concatenate(rounds))
        p50, p99, p99_9 = (int(ordered[-(-len(ordered) * part // 1_000) - 1]) for part in (500, 990, 999))
        return cls(len(ordered), int(median(means)), int(min(means)), p50, p99, p99_9, int(ordered[-1]))


def measure_paths(
    *, accounts: int, calm: int, crash: int, walks: int, seed: int = 1, compiler: str = "cc"
) -> dict[str, Any]:
    """Return what a mark takes, in so many rounds of a calm market and of a crash, and in a gap of the first symbol.

    walks  how often an index takes each path
    """
    market = make_market(accounts=accounts, seed=seed)
    library = compile_c(compiler)
    engine = Index(market)
    indexes: list[Indexed] = [engine]
    if not isinstance(library, str):
        indexes.append(IndexC(engine.view, engine.touched, library))
    held = {index.label: round(index.bytes_held() / accounts) for index in indexes}
    others = makers(market, library)
    return {
        "accounts": accounts,
        "positions": len(market.size),
        "symbols": len(market.names),
        "seed": seed,
        "without_c": library if isinstance(library, str) else None,
        "bytes_an_account": held,
        "calm": time_path(indexes, others, market, market.calm(calm), walks, held),
        "crash": time_path(indexes, others, market, market.crash(crash), walks, held),
        "gap": time_gap(indexes, others, market),
    }


def makers(market: Market, library: CDLL | str) -> list[Make]:
    """Return what makes each of the other ways, one at a time: together they would not fit."""
    made: list[Make] = []
    if not isinstance(library, str):
        made += [lambda: FullC(market, library), lambda: HoldersC(market, library)]
    made += [lambda: FullNumba(market), lambda: HoldersNumba(market), lambda: HoldersNumpy(market)]
    if market.accounts <= PYTHON_ACCOUNTS_MAX:
        made.append(lambda: PythonLoop(market))
    return made


def time_path(
    indexes: Sequence[Indexed], others: Sequence[Make], market: Market, path: Path, walks: int, held: dict[str, int]
) -> dict[str, Any]:
    """Walk a path with every way; return what a mark took, and how many rows were found. Notes what the others hold."""
    amounts = notionals(market)
    taken, rows = walk_indexes(indexes, market, path, amounts, walks)
    for make in others:
        way = make()
        held[way.label] = round(way.bytes_held() / market.accounts)
        way.mark(0, int(market.marks[0]))
        count = min(SLOW_MARKS, len(path.symbols)) if way.is_slow else len(path.symbols)
        found, times = walk(way, path, amounts, count)
        check_found(way.label, found, rows)
        check_kept(way, market, path, amounts, found)
        taken[way.label] = [times]
    return summed_up(taken, marks=len(path.symbols), found=sum(map(len, rows)))


def walk_indexes(
    indexes: Sequence[Indexed], market: Market, path: Path, amounts: Int64Array, walks: int
) -> tuple[Taken, list[Int64Array]]:
    """Walk a path with each index in turn, in batches and mark by mark; return the times, and the rows of each mark."""
    labels = [Batches(index).label for index in indexes] + [index.label for index in indexes]
    taken: Taken = {label: [] for label in labels}
    expected: list[Int64Array] = []
    for index in indexes:
        # Once unclocked: what was never touched is not in memory yet.
        index.reset(market)
        Batches(index).walk(Path(path.symbols[:BATCH], path.prices[:BATCH]), amounts)
    for _ in range(walks):
        for index in indexes:
            batches = Batches(index)
            for label, walked in ((batches.label, batches.walk), (index.label, partial(walk, index))):
                index.reset(market)
                rows, times = walked(path, amounts)
                expected = expected or rows
                check_found(label, rows, expected)
                taken[label].append(times)
    return taken, expected


def walk(way: Way, path: Path, amounts: Int64Array, count: int | None = None) -> tuple[list[Int64Array], Int64Array]:
    """Take the first marks of a path (or all) one by one; return the rows each found, and the nanoseconds it took."""
    clock, mark = time.perf_counter_ns, way.mark
    found, taken = [], np.zeros(len(path.symbols[:count]), dtype=np.int64)
    for number, (symbol, price) in enumerate(Path(path.symbols[:count], path.prices[:count]).events()):
        started = clock()
        rows_count = mark(symbol, price)
        taken[number] = clock() - started
        rows = way.rows(rows_count)
        found.append(rows)
        if len(rows):
            way.deposit(rows, amounts[rows])
    return found, taken


def time_gap(indexes: Sequence[Indexed], others: Sequence[Make], market: Market) -> dict[str, Any]:
    """Take the first symbol's fall by a fifth at once, several times, each from where the market began.

    An index first finds who is in need, which is what an order waits for; the keys of all that it looked at are set
    anew afterwards. The others have no keys.
    """
    amounts = notionals(market)
    ((symbol, price),) = market.gap(0, GAP_FALL).events()
    taken: Taken = {f"{index.label}: {part}": [] for part in (FOUND, KEYED) for index in indexes}
    expected: list[Int64Array] = []
    for _ in range(GAP_ROUNDS):
        for index in indexes:
            index.reset(market)
            rows, found_ns = timed_rows(index, partial(index.find, symbol, price))
            index.deposit(rows, amounts[rows])
            started = time.perf_counter_ns()
            index.share()
            taken[f"{index.label}: {KEYED}"].append(np.array([time.perf_counter_ns() - started]))
            taken[f"{index.label}: {FOUND}"].append(np.array([found_ns]))
            expected = expected or [rows]
            check_found(index.label, [rows], expected)
    for make in others:
        way = make()
        taken[way.label] = []
        for _ in range(GAP_ROUNDS):
            way.mark(symbol, int(market.marks[symbol]))
            rows, found_ns = timed_rows(way, partial(way.mark, symbol, price))
            check_found(way.label, [rows], expected)
            taken[way.label].append(np.array([found_ns]))
    return summed_up(taken, marks=GAP_ROUNDS, found=sum(map(len, expected)))


def timed_rows(way: Way, find: Callable[[], int]) -> tuple[Int64Array, int]:
    """Return the rows that a way finds, and the nanoseconds it took."""
    started = time.perf_counter_ns()
    count = find()
    taken = time.perf_counter_ns() - started
    return way.rows(count), taken


def summed_up(taken: Taken, *, marks: int, found: int) -> dict[str, Any]:
    """Return the entry of a path: its times, and how many times as long as its twin in C numba's index took at best."""
    times = {label: Times.of(rounds) for label, rounds in taken.items()}
    by_c = {}
    for label, figures in times.items():
        twin = times.get(label.replace(Index.label, IndexC.label))
        if label.startswith(Index.label) and twin is not None:
            by_c[label] = round(figures.mean_best / max(twin.mean_best, 1), 2)
    return {"marks": marks, "found": found, "ways": times, "index_by_c": by_c}


def check_found(label: str, found: Sequence[Int64Array], expected: Sequence[Int64Array]) -> None:
    """Stop the run unless a way found the expected rows at each mark it took."""
    for number, (theirs, ours) in enumerate(zip(found, expected, strict=False)):
        if not np.array_equal(theirs, ours):
            raise SystemExit(f"{label}, mark {number}: finds {len(theirs)} rows, the trigger index {len(ours)}")


def check_kept(way: Way, market: Market, path: Path, amounts: Int64Array, found: Sequence[Int64Array]) -> None:
    """Stop the run unless the equity and margin that a way keeps follow from positions, the last marks and deposits."""
    kept = way.standings()
    if kept is None:
        return
    marks = market.marks.copy()
    for symbol, price in Path(path.symbols[: len(found)], path.prices[: len(found)]).events():
        marks[symbol] = price
    equity, maintenance = market.standings(marks)
    for rows in found:
        equity[rows] += amounts[rows]
    if not (np.array_equal(kept[0], equity) and np.array_equal(kept[1], maintenance)):
        raise SystemExit(f"{way.label}: equity or margin differs from what positions and marks say")


def notionals(market: Market) -> Int64Array:
    """Return what each account's positions are worth."""
    worth = np.abs(market.size) * market.marks[market.symbol]
    return np.add.reduceat(worth, market.row_base[:-1]).astype(np.int64)


def measure_stream(*, accounts: int, rounds: int, seed: int = 1) -> dict[str, Any]:
    """Return what a mark takes from its JSON line to the decision, in a calm market: batches, one by one, and loops.

    The loops call the index for each mark, as one would who writes Python around the same kernels.
    """
    market = make_market(accounts=accounts, seed=seed)
    lines = mark_lines(market, market.calm(rounds))
    index = Index(market)
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
