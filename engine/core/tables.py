"""The arrays that the kernels read and write, and how they grow.

What each holds says ``kernels/tables.py``. They grow by an eighth, so that adding is cheap on average and little stands
empty; only this module makes them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core.kernels.margin import DEDUCTION, DEDUCTION_PPM, FLOOR, RATE, SPEC_COLUMNS, TIER_COLUMNS, WEIGHT_COLUMNS
from engine.core.kernels.rows import LOADED_COLUMNS, load_positions, loaded_places
from engine.core.kernels.runs import run_places
from engine.core.kernels.segments import FAN, NEVER, build_maxima, segment_size
from engine.core.kernels.tables import (
    ASSET_COLUMNS,
    BASE,
    BELOW,
    CALL_PPM,
    CAPACITY,
    COUNT,
    FREE_RUNS,
    HAS_HAIRCUT,
    HEAD,
    IS_FIXED,
    NONE,
    POSITION,
    RATE_TOP,
    RATE_UNBOUNDED,
    REARM_PPM,
    ROW_COLUMNS,
    SETTINGS_COLUMNS,
    SETTLE,
    SWING_PPM,
    SYMBOL_COLUMNS,
    TAKEN,
    TIERS_END,
    TIERS_FIRST,
    WEIGHTS_END,
    WEIGHTS_FIRST,
    Tables,
)
from engine.units import PPM

Int64Array = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

_ROOM = 16


class TableStore:
    """The tables of one book. ``view`` is what kernels take; it is another one whenever an array was made anew."""

    def __init__(self) -> None:
        self.positions: Array = np.zeros(0, dtype=POSITION)
        self.rows: Array = np.zeros((0, ROW_COLUMNS), dtype=np.int32)
        self.balances: Array = np.zeros((0, 0), dtype=np.int64)
        self.holders: Array = np.zeros(_ROOM, dtype=np.int32)
        self.keys: Array = np.full((2, _ROOM), NEVER, dtype=np.float32, order="F")
        self.symbols: Array = np.zeros((0, SYMBOL_COLUMNS), dtype=np.int64)
        self.assets: Array = np.zeros((0, ASSET_COLUMNS), dtype=np.int64)
        self.tiers: Array = np.zeros((0, TIER_COLUMNS), dtype=np.int64)
        self.weights: Array = np.zeros((0, WEIGHT_COLUMNS), dtype=np.int64)
        self.settings: Array = np.zeros(SETTINGS_COLUMNS, dtype=np.int64)
        self.stale: Array = np.zeros(0, dtype=np.int32)
        # Where kernels write which rows a price concerns: room for all holders of any symbol, or all rows.
        self.found_rows: Array = np.zeros(_ROOM, dtype=np.int32)
        # How much of ``holders`` and ``keys`` is given out.
        self.used = 0
        self.settings[FREE_RUNS:] = NONE
        self.view = self._view()

    def _view(self) -> Tables:
        return Tables(**{name: getattr(self, name) for name in Tables.__slots__})

    # Rows.

    def reserve_rows(self, count: int) -> None:
        """Make room for ``count`` rows."""
        room = len(self.rows)
        if count <= room:
            return
        room = max(count, _grown(room))
        self._reserve_found(room)
        self.rows = with_room(self.rows, room)
        self.balances = with_room(self.balances, room)
        self.stale = with_room(self.stale, room)
        for asset in self.assets:
            if asset[CAPACITY]:
                self._move(asset, room)
        self.view = self._view()

    def open_rows(self, first: int, end: int) -> None:
        """Begin rows, from ``first`` to before ``end``."""
        self.reserve_rows(end)
        self.rows[first:end, HEAD] = NONE

    # Positions.

    def reserve_positions(self, symbol: int, count: int) -> None:
        """Make room for a row to have ``count`` positions, one more than it has, of a symbol."""
        self._reserve_places(run_places(count))
        segment = self.symbols[symbol]
        if segment[COUNT] == segment[CAPACITY]:
            self._move(segment, _grown(int(segment[CAPACITY])))
        self.view = self._view()

    def reserve_holders(self, symbol: int, count: int) -> None:
        """Make room for ``count`` positions of a symbol in all."""
        segment = self.symbols[symbol]
        if count > segment[CAPACITY]:
            self._move(segment, count)
            self.view = self._view()

    def _reserve_places(self, count: int) -> None:
        """Have ``count`` places behind all that were ever taken."""
        wanted = int(self.settings[TAKEN]) + count
        if wanted > len(self.positions):
            self.positions = with_room(self.positions, max(wanted + _ROOM, _grown(len(self.positions))))
            self.view = self._view()

    def add_loaded(self, columns: Int64Array) -> None:
        """Add the positions of rows that have none, those of a row together; columns as LOADED_COLUMNS of ``rows.py``.

        Leaves a sixteenth of room, so that what comes next need not wait for larger tables.
        """
        places = int(loaded_places(columns))
        self._reserve_places(places + places // _ROOM)
        counts = np.bincount(columns[LOADED_COLUMNS.index("symbol")], minlength=len(self.symbols)).tolist()
        capacities = [_capacity(count + count // _ROOM) for count in counts]
        self._pack(self._keys_in_use() + sum(map(segment_size, capacities)))
        for symbol, capacity in enumerate(capacities):
            self.reserve_holders(symbol, capacity)
        self.view = self._view()
        load_positions(self.view, columns)

    # Symbols and assets.

    def add_symbol(self, spec: Int64Array, settle: int) -> None:
        """Add a symbol without holders."""
        self.symbols = with_room(self.symbols, len(self.symbols) + 1)
        symbol = self.symbols[-1]
        symbol[:SPEC_COLUMNS] = spec
        symbol[SETTLE] = settle
        symbol[[TIERS_FIRST, TIERS_END]] = len(self.tiers)
        self.view = self._view()

    def add_asset(self) -> None:
        """Add an asset that nobody holds."""
        self.assets = with_room(self.assets, len(self.assets) + 1)
        self.assets[-1, [WEIGHTS_FIRST, WEIGHTS_END]] = len(self.weights)
        balances = np.zeros((len(self.rows), len(self.assets)), dtype=np.int64)
        balances[:, :-1] = self.balances
        self.balances = balances
        self.view = self._view()

    def set_tiers(self, symbol: int, tiers: Int64Array) -> None:
        """Put a symbol's tiers in place of those it had. Swings follow the lowest rate: venues set it by volatility."""
        self.tiers = spliced(self.tiers, self.symbols, slice(TIERS_FIRST, TIERS_END + 1), symbol, tiers)
        self.symbols[symbol, SWING_PPM] = tiers[0, RATE]
        self.symbols[symbol, RATE_TOP] = RATE_UNBOUNDED if has_jumps(tiers) else tiers[:, RATE].max()
        self.view = self._view()

    def set_weights(self, asset: int, weights: Int64Array) -> None:
        """Put an asset's collateral weights in place of those it had."""
        self.weights = spliced(self.weights, self.assets, slice(WEIGHTS_FIRST, WEIGHTS_END + 1), asset, weights)
        self.assets[asset, HAS_HAIRCUT] = len(weights) > 1 or weights[0, 1] != PPM
        self.view = self._view()

    def set_fixed(self, asset: int, *, is_fixed: bool) -> None:
        """Note whether an asset's price is a parameter; one that is not has keys for each row."""
        entry = self.assets[asset]
        entry[IS_FIXED] = is_fixed
        if is_fixed:
            entry[[BASE, CAPACITY]] = 0
        elif entry[CAPACITY] == 0:
            self._move(entry, max(len(self.rows), _ROOM))
        self.view = self._view()

    def set_rule(self, *, below: bool, call_ppm: int, rearm_ppm: int) -> None:
        """Put the policy's trigger and its margin call ratios in force."""
        self.settings[[BELOW, CALL_PPM, REARM_PPM]] = below, call_ppm, rearm_ppm

    def take_parameters(self, other: TableStore) -> None:
        """Take over the symbols and assets of another store, prices and parameters, without anybody who holds them."""
        self.symbols, self.tiers = other.symbols.copy(), other.tiers.copy()
        self.assets, self.weights = other.assets.copy(), other.weights.copy()
        self.settings[[BELOW, CALL_PPM, REARM_PPM]] = other.settings[[BELOW, CALL_PPM, REARM_PPM]]
        self.symbols[:, [BASE, CAPACITY, COUNT]] = 0
        self.assets[:, [BASE, CAPACITY]] = 0
        self.balances = np.zeros((len(self.rows), len(self.assets)), dtype=np.int64)
        for asset in self.assets:
            if not asset[IS_FIXED]:
                self._move(asset, max(len(self.rows), _ROOM))
        self.view = self._view()

    # Segments.

    def _move(self, segment: Int64Array, capacity: int) -> None:
        """Give a segment room for ``capacity`` slots, elsewhere."""
        capacity = _capacity(capacity)
        self._reserve_found(capacity)
        size = segment_size(capacity)
        if self.used + size > self.keys.shape[1]:
            self._pack(_grown(self._keys_in_use() + size))
        base, before = self.used, int(segment[CAPACITY])
        self.used += size
        self.keys[:, base : base + size] = NEVER
        copied = slice(int(segment[BASE]), int(segment[BASE]) + before)
        self.keys[:, base : base + before] = self.keys[:, copied]
        self.holders[base : base + before] = self.holders[copied]
        segment[[BASE, CAPACITY]] = base, capacity
        for side in range(2):
            build_maxima(self.keys, side, base, capacity)

    def _reserve_found(self, count: int) -> None:
        if len(self.found_rows) < count:
            self.found_rows = np.zeros(count, dtype=np.int32)

    def _segments(self) -> list[Int64Array]:
        return [segment for table in (self.symbols, self.assets) for segment in table if segment[CAPACITY]]

    def _keys_in_use(self) -> int:
        return sum(segment_size(int(segment[CAPACITY])) for segment in self._segments())

    def _pack(self, room: int) -> None:
        """Move all segments to other arrays, side by side: what was left behind by those that grew is given up."""
        keys = np.full((2, room), NEVER, dtype=np.float32, order="F")
        holders = np.zeros(room, dtype=np.int32)
        self.used = 0
        for segment in self._segments():
            base, size = int(segment[BASE]), segment_size(int(segment[CAPACITY]))
            keys[:, self.used : self.used + size] = self.keys[:, base : base + size]
            holders[self.used : self.used + size] = self.holders[base : base + size]
            segment[BASE] = self.used
            self.used += size
        self.keys, self.holders = keys, holders


def _capacity(count: int) -> int:
    """Return how many slots a segment for ``count`` has."""
    return -(-max(count, _ROOM) // FAN) * FAN


def _grown(count: int) -> int:
    return count + count // 8


def has_jumps(tiers: Int64Array) -> bool:
    """Return whether the margin that a table asks for jumps at any of its floors."""
    for below, above in pairwise(tiers.tolist()):
        deducted = (above[DEDUCTION] - below[DEDUCTION]) * PPM + above[DEDUCTION_PPM] - below[DEDUCTION_PPM]
        if above[FLOOR] * (above[RATE] - below[RATE]) != deducted:
            return True
    return False


def with_room(table: Array, count: int) -> Array:
    """Return a table of ``count`` entries, the first of them given, the others zero."""
    roomy = np.zeros((count, *table.shape[1:]), dtype=table.dtype)
    roomy[: len(table)] = table
    return roomy


def spliced(parts: Array, owners: Array, columns: slice, index: int, part: Int64Array) -> Array:
    """Return a table of parts with one in place of another; bring where each owner's begins and ends in line."""
    first, end = owners[index, columns].tolist()
    bounds = owners[:, columns]
    bounds[bounds[:, 0] >= end] += len(part) - (end - first)
    bounds[index] = first, first + len(part)
    return np.concatenate((parts[:first], part, parts[end:]))
