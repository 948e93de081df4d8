"""What a mark costs without an index: ways to follow it that look at everybody, or at all who hold the symbol.

Each way answers the same question after each mark: which accounts that hold the symbol need a look, because their
MM / E has reached the margin call's 0.8 (who is liquidatable is among them) or they owe without a position.

    full recompute    every account from its positions; knows nothing but wallets, positions and marks (numba; C)
    holders           one pass over the symbol's holders, which moves the equity and margin kept for each row (numba; C)
    holders, NumPy    the same in whole-array operations
    Python            a loop over the accounts that hold the symbol, each from its positions

All are exact in integers. They are written for what the market holds, linear contracts of multiplier 1 at asset price
1, and leave out what else the engine does for a mark: unknown prices, flags of rows, notionals, overflow. Single
thread. Those in C stand in ``hot_c.py``; ``hot_path.py`` walks them all over the same marks.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.hot_market import Int64Array, Market, ppm_up
from engine.core.kernels.arith import div_up
from engine.core.kernels.compile import inlined, kernel
from engine.core.kernels.fetch import fetch
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
POINTER_BYTES = 8


class Way(ABC):
    """One way to follow marks."""

    label: str
    # Whether a mark costs so much, and all of them about the same, that a few tell.
    is_slow = False
    # What the last mark found stands in front.
    touched: npt.NDArray[np.int32] | Int64Array

    @abstractmethod
    def mark(self, symbol: int, price: int) -> int:
        """Take a mark; write the symbol's holders that need a look to ``touched`` and return how many they are."""

    @abstractmethod
    def deposit(self, rows: Int64Array, amounts: Int64Array) -> None:
        """Add to the wallets of rows, each there once."""

    def rows(self, count: int) -> Int64Array:
        """Return the rows that the last mark found, rising; ``count`` is what it returned."""
        return self.touched[:count].astype(np.int64)

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

    is_slow = True

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

    def deposit(self, rows: Int64Array, amounts: Int64Array) -> None:
        """Add to the cash."""
        self.cash[rows] += amounts


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
        begin, end = self.band_base[symbol], self.band_base[symbol + 1]
        self.bands[begin:end, BAND_PRICE] = price
        arrays = self.row_base, self.cash, self.band, self.size, self.bands, self.value_sums, self.margin_sums
        return int(mark_all(*arrays, begin, end, CALL_PPM, self.touched))


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

    def deposit(self, rows: Int64Array, amounts: Int64Array) -> None:
        """Add to the equity."""
        self.standing[rows, 0] += amounts

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
    return (np.uint64(maintenance) >= required) & ((maintenance > 0) | (equity <= 0))


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
        fetch(standing, np.int64(rows[place + np.uint64(AHEAD)]) * STANDING_BYTES)
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


class HoldersNumpy(Way):
    """One pass over the holders in whole-array operations."""

    label = "holders, NumPy"
    is_slow = True

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
        in_need = (maintenance >= required) & ((maintenance > 0) | (equity <= 0))
        self.touched = rows[in_need]
        return len(self.touched)

    def deposit(self, rows: Int64Array, amounts: Int64Array) -> None:
        """Add to the equity."""
        self.equity[rows] += amounts

    def standings(self) -> tuple[Int64Array, Int64Array]:
        """Return what is kept."""
        return self.equity, self.maintenance


class PythonLoop(Way):
    """A loop over the accounts that hold the symbol, each from its positions."""

    label = "Python"
    is_slow = True

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

    def deposit(self, rows: Int64Array, amounts: Int64Array) -> None:
        """Add to the cash."""
        for row, amount in zip(rows.tolist(), amounts.tolist(), strict=True):
            self.cash[row] += amount

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
            if maintenance * PPM >= equity * CALL_PPM and (maintenance > 0 or equity <= 0):
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
