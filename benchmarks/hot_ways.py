"""What a mark costs without an index, four ways, on one market: ``python -m benchmarks.hot_ways [--accounts N] …``.

Each way answers the same question after each mark: which accounts that hold the symbol need a look, because their
MM / E has reached the margin call's 0.8 (who is liquidatable is among them) or they owe without a position.

    full recompute    every account from its positions; knows nothing but wallets, positions and marks (C, numba)
    holders           one pass over the symbol's holders, which moves the equity and margin kept for each row (C, numba)
    holders, NumPy    the same in whole-array operations
    Python            a loop over the accounts that hold the symbol, each from its positions

All are exact in integers, and are checked against each other on the market they are timed on. They are written for
what the market holds, linear contracts of multiplier 1 at asset price 1, and leave out what else the engine does for a
mark: unknown prices, flags of rows, notionals, overflow. Single thread. C is compiled with ``cc`` when there is one.

Times are of one mark each, by the wall clock, and paths are walked round by round, ways in turn; the mean is the
median of the rounds' means, the best their lowest, which another busy process spoils last. The slow ones look in the
last rounds only: full recomputes in two, Python in one.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from benchmarks.hot_market import Int64Array, Market, Path, make_market, ppm_up
from benchmarks.tables import text_table
from engine.core.kernels.arith import div_up
from engine.core.kernels.compile import inlined, kernel
from engine.core.kernels.margin import DEDUCTION, DEDUCTION_PPM, FLOOR, RATE
from engine.core.params import Policy
from engine.units import INT64_MAX, PPM

CALL_PPM = Policy().margin_call_ratio_ppm

# A band: a stretch of notionals of one symbol over which the margin is one line. Columns of the table that C reads too:
# the symbol's mark; floor <= notional < ceiling; rate in ppm; where n x rate stays within 64 bits (WIDE is 0) the
# margin is (n x rate + offset) / PPM rounded down; else it takes the tier's deduction, whole units and ppm of a unit.
BAND_PRICE, BAND_FLOOR, BAND_CEILING, BAND_RATE, OFFSET, WIDE, BAND_DEDUCTION, BAND_DEDUCTION_PPM = range(8)
BLOCK_ROWS = 256
# How far ahead a row's standing is fetched: the rows of a rarely held symbol lie a page apart, and waiting for each
# would take four times as long.
AHEAD = 32
STANDING_BYTES = 16

# Which part of the events the ways are compared on: one in so many, which meets all symbols in turn.
CHECK_EVERY = 83
GAP_ROUNDS = 5
GAP_FALL = 0.2
POINTER_BYTES = 8
LABELS = "full recompute, C", "full recompute, numba", "holders, C", "holders, numba", "holders, NumPy", "Python"
PATHS = {
    "calm": "all symbols in turn, a basis point a tick",
    "crash": "all symbols in turn, down by 10 to 30 %",
    "gap": "the first symbol down by a fifth at once",
}
COMPILE = ("-O3", "-march=native", "-shared", "-fPIC")


class Way(ABC):
    """One way to follow marks."""

    label: str
    # In how many rounds, the last ones, it looks; a slow way in fewer than there are.
    rounds_max = sys.maxsize
    # Rows, rising: what the last mark found stands in front.
    touched: npt.NDArray[np.int32]

    @abstractmethod
    def mark(self, symbol: int, price: int) -> int:
        """Take a mark; write the symbol's holders that need a look to ``touched`` and return how many they are."""

    def put(self, symbol: int, price: int) -> None:
        """Take a mark and look at nobody."""
        self.mark(symbol, price)

    def standings(self) -> tuple[Int64Array, Int64Array] | None:
        """Return each row's equity and maintenance margin where they are kept."""
        return None

    def bytes_held(self) -> int:
        """Return how many bytes it holds."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))


def band_table(market: Market) -> tuple[Int64Array, list[int]]:
    """Return the bands of all symbols by rising notional, and where each symbol's begin and the last one's end."""
    rows: list[tuple[int, ...]] = []
    base = [0]
    for symbol, mark in enumerate(market.marks.tolist()):
        tiers = market.tiers[market.tier_base[symbol] : market.tier_base[symbol + 1]].tolist()
        ceilings = [tier[FLOOR] for tier in tiers[1:]] + [INT64_MAX]
        for tier, ceiling in zip(tiers, ceilings, strict=True):
            floor, rate, deduction = tier[FLOOR], tier[RATE], (tier[DEDUCTION], tier[DEDUCTION_PPM])
            # The first notional that leaves 64 bits.
            edge = min(INT64_MAX // rate + 1, ceiling) if rate else ceiling
            if floor < edge:
                offset = PPM - 1 - (deduction[0] * PPM + deduction[1])
                rows.append((mark, floor, edge, rate, offset, 0, *deduction))
            if edge < ceiling:
                rows.append((mark, max(floor, edge), ceiling, rate, 0, 1, *deduction))
        base.append(len(rows))
    return np.array(rows, dtype=np.int64), base


class Full(Way):
    """Every account from its positions: what full recomputes hold."""

    rounds_max = 2

    def __init__(self, market: Market) -> None:
        self.bands, self.band_base = band_table(market)
        self.row_base = market.row_base.astype(np.int32)
        self.cash = market.wallet + np.add.reduceat(market.cost, market.row_base[:-1])
        self.size = market.size.copy()
        self.band = first_bands(self.band_base, market.symbol)
        begins = market.row_base[:-1:BLOCK_ROWS]
        room = int(np.diff([*begins.tolist(), len(market.size)]).max()) + 1
        self.value_sums, self.margin_sums = np.zeros(room, dtype=np.uint64), np.zeros(room, dtype=np.uint64)
        self.touched = np.zeros(market.accounts, dtype=np.int32)

    def put(self, symbol: int, price: int) -> None:
        """Note the price."""
        self.bands[self.band_base[symbol] : self.band_base[symbol + 1], BAND_PRICE] = price


def first_bands(band_base: Sequence[int], symbols: npt.NDArray[np.int16]) -> npt.NDArray[np.uint16]:
    """Return the first band of each position's symbol; where that is not the right one, the first mark corrects it."""
    if band_base[-1] > np.iinfo(np.uint16).max:
        raise SystemExit(f"{band_base[-1]} bands are more than 16 bits can number")
    return np.array(band_base, dtype=np.uint16)[symbols]


class FullNumba(Full):
    """Full recompute, compiled by numba."""

    label = "full recompute, numba"

    def mark(self, symbol: int, price: int) -> int:
        """Value everybody."""
        self.put(symbol, price)
        arrays = self.row_base, self.cash, self.band, self.size, self.bands, self.value_sums, self.margin_sums
        return int(mark_all(*arrays, self.band_base[symbol], self.band_base[symbol + 1], CALL_PPM, self.touched))


class Kept(Way):
    """Equity and margin kept for each row, positions by symbol: what passes over holders hold."""

    def __init__(self, market: Market) -> None:
        holders = market.holders()
        self.base = holders.base.tolist()
        self.marks = market.marks.tolist()
        self.bands, self.band_base = band_table(market)
        self.row = np.concatenate([market.row[holders.order], np.zeros(AHEAD, dtype=np.int32)])
        self.size = market.size[holders.order]
        self.margin = market.margins(np.abs(market.size * market.marks[market.symbol]))[holders.order]
        self.band = first_bands(self.band_base, market.symbol)[holders.order]
        self.standing = np.stack(market.standings(market.marks), axis=1)
        self.touched = np.zeros(market.accounts, dtype=np.int32)

    def standings(self) -> tuple[Int64Array, Int64Array]:
        """Return what is kept."""
        return self.standing[:, 0], self.standing[:, 1]


class HoldersNumba(Kept):
    """One pass over the holders, compiled by numba."""

    label = "holders, numba"

    def mark(self, symbol: int, price: int) -> int:
        """Move the holders' sums."""
        before, self.marks[symbol] = self.marks[symbol], price
        arrays = self.row, self.size, self.margin, self.band, self.bands, self.standing
        return int(
            mark_holders(*arrays, self.base[symbol], self.base[symbol + 1], before, price, CALL_PPM, self.touched)
        )


@inlined
def margin_of(bands: Any, band: Any, notional: Any) -> Any:
    """Return the maintenance margin of a notional within a band."""
    rate = bands[band, BAND_RATE]
    if bands[band, WIDE] == 0:
        return np.int64((np.uint64(notional) * np.uint64(rate) + np.uint64(bands[band, OFFSET])) // np.uint64(PPM))
    millions = notional // PPM
    rest = (notional - millions * PPM) * rate - bands[band, BAND_DEDUCTION_PPM]
    return millions * rate - bands[band, BAND_DEDUCTION] + div_up(rest, PPM)


@inlined
def band_of(bands: Any, band: Any, notional: Any) -> Any:
    """Return the band a notional lies in, looking first where it was."""
    while notional < bands[band, BAND_FLOOR]:
        band -= np.uint64(1)
    while notional >= bands[band, BAND_CEILING]:
        band += np.uint64(1)
    return band


@inlined
def is_in_need(equity: Any, maintenance: Any, call_ppm: Any) -> Any:
    """Return whether a row needs a look: MM >= E x ratio covers MM >= E and E <= 0; without margin only a debt does."""
    # A debt needs what no equity needs: nothing.
    amount, ratio, ppm = np.uint64(max(equity, np.int64(0))), np.uint64(call_ppm), np.uint64(PPM)
    millions = amount // ppm
    required = millions * ratio + ((amount - millions * ppm) * ratio + ppm - np.uint64(1)) // ppm
    return (np.uint64(maintenance) >= required) & ((maintenance > 0) | (equity < 0))


@kernel
def mark_all(
    row_base: Any,
    cash: Any,
    band: Any,
    size: Any,
    bands: Any,
    value_sums: Any,
    margin_sums: Any,
    begin: Any,
    end: Any,
    call_ppm: Any,
    touched: Any,
) -> Any:
    """Value all rows; write those in need that hold the symbol with the bands ``begin`` to ``end``, return how many.

    The twin of ``mark_all`` in hot_ways.c, where the arrays are described.
    """
    found = 0
    rows = cash.size
    for first in range(0, rows, BLOCK_ROWS):
        last = min(first + BLOCK_ROWS, rows)
        start = row_base[first]
        values, margins = np.uint64(0), np.uint64(0)
        value_sums[0] = margin_sums[0] = np.uint64(0)
        for place in range(np.uint64(start), np.uint64(row_base[last])):
            before = np.uint64(band[place])
            value = size[place] * bands[before, BAND_PRICE]
            notional = abs(value)
            now = band_of(bands, before, notional)
            if now != before:
                band[place] = now
            margins += np.uint64(margin_of(bands, now, notional))
            values += np.uint64(value)
            index = place - np.uint64(start) + np.uint64(1)
            value_sums[index] = values
            margin_sums[index] = margins
        for row in range(first, last):
            left, right = np.uint64(row_base[row] - start), np.uint64(row_base[row + 1] - start)
            equity = cash[row] + np.int64(value_sums[right] - value_sums[left])
            maintenance = np.int64(margin_sums[right] - margin_sums[left])
            if is_in_need(equity, maintenance, call_ppm):
                is_holder = False
                for place in range(row_base[row], row_base[row + 1]):
                    is_holder |= begin <= band[place] < end
                touched[found] = row
                found += is_holder
    return found


def fetch_code(_: Any, standing: Any, row: Any) -> Any:
    """Have the processor bring a row of ``standing`` near, to be written soon; numba has no word for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        place = builder.mul(arguments[1], ir.IntType(64)(STANDING_BYTES))
        address = builder.gep(builder.bitcast(array.data, pointer), [place])
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch")
        # To write, keep in all caches, data.
        builder.call(function, [address, number(1), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(standing, row), generate


fetch_standing = intrinsic(fetch_code)


@kernel
def mark_holders(
    rows: Any,
    sizes: Any,
    margins: Any,
    band: Any,
    bands: Any,
    standing: Any,
    first: Any,
    last: Any,
    before: Any,
    price: Any,
    call_ppm: Any,
    touched: Any,
) -> Any:
    """Move the sums of the rows with positions ``first`` to ``last``; write those in need, return how many they are.

    The twin of ``mark_holders`` in hot_ways.c, where the arrays are described.
    """
    found = 0
    change = price - before
    for place in range(np.uint64(first), np.uint64(last)):
        fetch_standing(standing, np.int64(rows[place + np.uint64(AHEAD)]))
        size = sizes[place]
        notional = abs(size) * price
        known = np.uint64(band[place])
        now = band_of(bands, known, notional)
        if now != known:
            band[place] = now
        margin = margin_of(bands, now, notional)
        row = np.uint64(rows[place])
        equity = standing[row, 0] + size * change
        maintenance = standing[row, 1] + margin - margins[place]
        standing[row, 0] = equity
        standing[row, 1] = maintenance
        margins[place] = margin
        touched[found] = rows[place]
        found += is_in_need(equity, maintenance, call_ppm)
    return found


class FullArrays(ctypes.Structure):
    """``struct full`` of hot_ways.c."""

    arrays = ("row_base", "cash", "band", "size", "bands", "value_sums", "margin_sums", "touched")
    _fields_ = (*((name, ctypes.c_void_p) for name in arrays), ("rows", ctypes.c_int64))


class HolderArrays(ctypes.Structure):
    """``struct holders`` of hot_ways.c."""

    arrays = ("row", "size", "margin", "band", "bands", "standing", "touched")
    _fields_ = tuple((name, ctypes.c_void_p) for name in arrays)


def pointers(way: Way, names: Iterable[str]) -> dict[str, int]:
    """Return where arrays of a way lie."""
    return {name: getattr(way, name).ctypes.data for name in names}


class FullC(Full):
    """Full recompute, compiled from C."""

    label = "full recompute, C"

    def __init__(self, market: Market, library: ctypes.CDLL) -> None:
        super().__init__(market)
        self.arrays = FullArrays(rows=market.accounts, **pointers(self, FullArrays.arrays))
        self.address = ctypes.byref(self.arrays)
        self.run = library.mark_all

    def mark(self, symbol: int, price: int) -> int:
        """Value everybody."""
        base = self.band_base
        found: int = self.run(self.address, base[symbol], base[symbol + 1], price, CALL_PPM)
        return found


class HoldersC(Kept):
    """One pass over the holders, compiled from C."""

    label = "holders, C"

    def __init__(self, market: Market, library: ctypes.CDLL) -> None:
        super().__init__(market)
        self.arrays = HolderArrays(**pointers(self, HolderArrays.arrays))
        self.address = ctypes.byref(self.arrays)
        self.run = library.mark_holders

    def mark(self, symbol: int, price: int) -> int:
        """Move the holders' sums."""
        before, self.marks[symbol] = self.marks[symbol], price
        found: int = self.run(self.address, self.base[symbol], self.base[symbol + 1], before, price, CALL_PPM)
        return found


def compile_c(compiler: str = "cc") -> ctypes.CDLL | str:
    """Return hot_ways.c compiled and loaded, or why it cannot be."""
    found = shutil.which(compiler)
    if found is None:
        return f"no C compiler ({compiler}) was found"
    with tempfile.TemporaryDirectory() as folder:
        built = pathlib.Path(folder) / "hot_ways.so"
        source = pathlib.Path(__file__).with_suffix(".c")
        command = [found, *COMPILE, str(source), "-o", str(built)]
        run = subprocess.run(command, check=False, capture_output=True, text=True)
        if run.returncode != 0:
            return f"{compiler} ended with {run.returncode}: {run.stderr.strip()[:200]}"
        library = ctypes.CDLL(str(built))
    library.mark_all.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 4]
    library.mark_holders.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 5]
    library.mark_all.restype = library.mark_holders.restype = ctypes.c_int64
    return library


class HoldersNumpy(Way):
    """One pass over the holders in whole-array operations."""

    label = "holders, NumPy"

    def __init__(self, market: Market) -> None:
        holders = market.holders()
        self.base = holders.base.tolist()
        self.marks = market.marks.tolist()
        self.tiers = [market.tiers[begin:end] for begin, end in pairwise(market.tier_base.tolist())]
        self.row, self.size = market.row[holders.order], market.size[holders.order]
        self.magnitude = np.abs(self.size)
        self.margin = market.margins(np.abs(market.size * market.marks[market.symbol]))[holders.order]
        self.equity, self.maintenance = market.standings(market.marks)
        self.touched = np.zeros(0, dtype=np.int32)

    def mark(self, symbol: int, price: int) -> int:
        """Move the holders' sums."""
        place = slice(self.base[symbol], self.base[symbol + 1])
        rows, kept, tiers = self.row[place], self.margin[place], self.tiers[symbol]
        notional = self.magnitude[place] * price
        tier = np.searchsorted(tiers[:, FLOOR], notional, side="right") - 1
        rate, millions = tiers[tier, RATE], notional // PPM
        rest = (notional - millions * PPM) * rate - tiers[tier, DEDUCTION_PPM]
        margin = millions * rate - tiers[tier, DEDUCTION] + ppm_up(rest)
        # Each row stands once, so one addition reaches all.
        equity = self.equity[rows] + self.size[place] * (price - self.marks[symbol])
        maintenance = self.maintenance[rows] + (margin - kept)
        self.equity[rows], self.maintenance[rows], kept[:] = equity, maintenance, margin
        self.marks[symbol] = price
        # MM >= E x ratio, the product split so that it stays within 64 bits.
        millions = equity // PPM
        required = millions * CALL_PPM + ppm_up((equity - millions * PPM) * CALL_PPM)
        in_need = (maintenance >= required) & ((maintenance > 0) | (equity < 0))
        self.touched = rows[in_need]
        return len(self.touched)

    def standings(self) -> tuple[Int64Array, Int64Array]:
        """Return what is kept."""
        return self.equity, self.maintenance


class PythonLoop(Way):
    """A loop over the accounts that hold the symbol, each from its positions."""

    label = "Python"
    rounds_max = 1

    def __init__(self, market: Market) -> None:
        self.marks = market.marks.tolist()
        self.cash = (market.wallet + np.add.reduceat(market.cost, market.row_base[:-1])).tolist()
        positions = list(zip(market.symbol.tolist(), market.size.tolist(), strict=True))
        self.positions = [positions[begin:end] for begin, end in pairwise(market.row_base.tolist())]
        holders = market.holders()
        rows = market.row[holders.order].tolist()
        self.holders = [rows[begin:end] for begin, end in pairwise(holders.base.tolist())]
        # Floor, rate, and the deduction in millionths of a unit.
        self.tiers = [
            [(floor, rate, whole * PPM + part) for floor, rate, whole, part, _ in market.tiers[begin:end].tolist()]
            for begin, end in pairwise(market.tier_base.tolist())
        ]
        self.touched = np.zeros(0, dtype=np.int32)

    def put(self, symbol: int, price: int) -> None:
        """Note the price."""
        self.marks[symbol] = price

    def mark(self, symbol: int, price: int) -> int:
        """Value the holders."""
        self.marks[symbol] = price
        marks, tiers, found = self.marks, self.tiers, []
        for row in self.holders[symbol]:
            equity, maintenance = self.cash[row], 0
            for held, size in self.positions[row]:
                value = size * marks[held]
                equity += value
                notional = abs(value)
                line = tiers[held][0]
                for tier in tiers[held]:
                    if notional < tier[0]:
                        break
                    line = tier
                maintenance -= (line[2] - notional * line[1]) // PPM
            if maintenance * PPM >= equity * CALL_PPM and (maintenance > 0 or equity < 0):
                found.append(row)
        self.touched = np.array(found, dtype=np.int32)
        return len(found)

    def bytes_held(self) -> int:
        """Return how many bytes it holds, by the lists and numbers of a thousand accounts."""
        accounts = len(self.cash)
        sample = range(0, accounts, max(1, accounts // 1_000))
        sizes = 0
        for row in sample:
            held = self.positions[row]
            sizes += sys.getsizeof(held) + sys.getsizeof(self.cash[row]) + POINTER_BYTES * 2
            # A position: its pair, its size, and its row among the holders (symbols are numbers Python has anyway).
            sizes += sum(sys.getsizeof(pair) + sys.getsizeof(pair[1]) for pair in held)
            sizes += len(held) * (sys.getsizeof(row) + POINTER_BYTES)
        return sizes * accounts // len(sample)


def make_ways(market: Market, library: ctypes.CDLL | str) -> list[Way]:
    """Return all ways that can be had here, a market each of its own."""
    built = [] if isinstance(library, str) else [FullC(market, library), HoldersC(market, library)]
    ways = [*built, FullNumba(market), HoldersNumba(market), HoldersNumpy(market), PythonLoop(market)]
    return sorted(ways, key=lambda way: LABELS.index(way.label))


def rows_found(way: Way, symbol: int, price: int) -> list[int]:
    """Return the rows that a way finds after a mark."""
    count = way.mark(symbol, price)
    rows: list[int] = way.touched[:count].tolist()
    return rows


def check_same(ways: Sequence[Way], market: Market, path: Path, *, every: int = 1) -> int:
    """Walk a path, all ways looking at one event in ``every``; return how many rows they found.

    Stops the run unless they find the same rows and have kept the figures that follow from positions and marks.
    """
    marks, found = market.marks.copy(), 0
    for number, (symbol, price) in enumerate(path.events()):
        marks[symbol] = price
        if number % every:
            for way in ways:
                way.put(symbol, price)
            continue
        rows = rows_found(ways[0], symbol, price)
        found += len(rows)
        for way in ways[1:]:
            if rows_found(way, symbol, price) != rows:
                raise SystemExit(f"{way.label} and {ways[0].label} differ at mark {number}, of {market.names[symbol]}")
    expected = market.standings(marks)
    for way in ways:
        kept = way.standings()
        if kept is not None and not all(map(np.array_equal, kept, expected)):
            raise SystemExit(f"{way.label}: equity or margin differs from what positions and marks say")
    settle(ways, market)
    return found


def settle(ways: Iterable[Way], market: Market) -> None:
    """Take all marks back to where they began."""
    for way in ways:
        for symbol, price in enumerate(market.marks.tolist()):
            way.put(symbol, price)


@dataclass(frozen=True, slots=True)
class Times:
    """Nanoseconds of one mark: median and lowest of the rounds' means, and percentiles of all marks."""

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
        means = [int(times.mean()) for times in rounds]
        ordered = np.sort(np.concatenate(rounds))
        p50, p99, p99_9 = (int(ordered[-(-len(ordered) * part // 1_000) - 1]) for part in (500, 990, 999))
        return cls(len(ordered), int(median(means)), min(means), p50, p99, p99_9, int(ordered[-1]))


def time_path(ways: Sequence[Way], market: Market, path: Path) -> dict[str, Times]:
    """Walk a path round by round with each way in turn; return what a mark took, by the way's label."""
    events, symbols = list(path.events()), len(market.names)
    rounds = [events[begin : begin + symbols] for begin in range(0, len(events), symbols)]
    taken: dict[str, list[Int64Array]] = {way.label: [] for way in ways}
    for number, marks in enumerate(rounds):
        for way in ways:
            if number < len(rounds) - way.rounds_max:
                for symbol, price in marks:
                    way.put(symbol, price)
            else:
                taken[way.label].append(time_marks(way, marks))
    settle(ways, market)
    return {label: Times.of(times) for label, times in taken.items()}


def time_gap(ways: Sequence[Way], market: Market, path: Path, rounds: int) -> dict[str, Times]:
    """Take the only mark of a path again and again, from where the market began."""
    ((symbol, price),) = path.events()
    taken: dict[str, list[Int64Array]] = {way.label: [] for way in ways}
    for number in range(rounds):
        for way in ways:
            if number < way.rounds_max:
                taken[way.label].append(time_marks(way, [(symbol, price)]))
                way.put(symbol, int(market.marks[symbol]))
    return {label: Times.of(times) for label, times in taken.items()}


def time_marks(way: Way, marks: Sequence[tuple[int, int]]) -> Int64Array:
    """Return the nanoseconds that each mark takes."""
    clock, mark = time.perf_counter_ns, way.mark
    taken = np.zeros(len(marks), dtype=np.int64)
    for number, (symbol, price) in enumerate(marks):
        started = clock()
        mark(symbol, price)
        taken[number] = clock() - started
    return taken


def measure(*, accounts: int, rounds: int, seed: int) -> dict[str, Any]:
    """Return all figures: what was measured on, then one entry a path."""
    market = make_market(accounts=accounts, seed=seed)
    library = compile_c()
    ways = make_ways(market, library)
    calm, crash, gap = market.calm(rounds), market.crash(2 * rounds), market.gap(0, GAP_FALL)
    found = check_same(ways, market, crash, every=CHECK_EVERY) + check_same(ways, market, gap)
    return {
        "accounts": accounts,
        "symbols": len(market.names),
        "positions": len(market.size),
        "positions_of_the_first": int(market.holders().base[1]),
        "rows_found_alike": found,
        "without_c": library if isinstance(library, str) else None,
        "bytes_an_account": {way.label: round(way.bytes_held() / accounts) for way in ways},
        "calm": time_path(ways, market, calm),
        "crash": time_path(ways, market, crash),
        "gap": time_gap(ways, market, gap, GAP_ROUNDS),
    }


def table(document: dict[str, Any]) -> str:
    """Return the figures for a terminal."""
    lines = [
        "{accounts:,} accounts, {positions:,} positions in {symbols} symbols, {positions_of_the_first:,} of them in "
        "the first; {rows_found_alike:,} rows found alike by all before the clock ran".format(**document)
    ]
    if document["without_c"]:
        lines.append(f"C is left out: {document['without_c']}")
    for name, about in PATHS.items():
        rows = [(f"{name}: {about}", "mean us", "best", "p50", "p99", "p99.9", "max", "marks")]
        for label, times in document[name].items():
            figures = (times.mean, times.mean_best, times.p50, times.p99, times.p99_9, times.max)
            rows.append((label, *(f"{figure / 1_000:,.1f}" for figure in figures), f"{times.events:,}"))
        lines += ["", text_table(rows)]
    held = [(label, f"{count:,}") for label, count in document["bytes_an_account"].items()]
    return "\n".join([*lines, "", text_table([("bytes an account", ""), *held])])


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables, write the document; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot_ways", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--accounts", type=int, default=100_000, help="how many accounts (100,000)")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of the calm market, twice as many crash (10)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the market (1)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all figures to FILE")
    options = parser.parse_args(arguments)
    document = measure(accounts=options.accounts, rounds=options.rounds, seed=options.seed)
    print(table(document))
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=2, default=asdict) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
