"""What the kernels see of a book: its arrays, whose growth is ``core/tables.py``'s business.

Nothing that a price can change is stored. A position is its size and its cost, a row a run of positions (``runs.py``)
and a line of balances; equity and margin are computed from them when somebody asks (``rows.py``). So a tick that
concerns nobody costs nobody anything, and no sum can go stale. Which rows a tick does concern is what ``keys`` are for
(``triggers.py``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import from_dtype, types

from engine.core.kernels.handle import Handle, HandleType
from engine.core.kernels.margin import TIER_COLUMNS, WEIGHT_COLUMNS

# One open position, 24 bytes. Those of a row stand side by side (``runs.py``), by symbol name then leg; ``is_last``
# (0/1) says where they end. ``slot`` is a position's place among the holders of its symbol.
POSITION = np.dtype(
    [
        ("size", np.int64),
        ("cost", np.int64),
        ("slot", np.int32),
        ("symbol", np.int16),
        ("leg", np.int8),
        ("is_last", np.int8),
    ],
    align=True,
)
NONE = -1

# Columns of ``rows``: the first position; how many of the row's prices are unset, how many were not yet seen in the
# log; flags.
HEAD, UNPRICED, COLD, FLAGS = 0, 1, 2, 3
ROW_COLUMNS = 4
# An account of the engine's own is never examined; CALLED remembers that the margin call went out; WATCHED that a
# liquidation is under way or held, so that every change of price is looked at; STALE that the row's keys are of a state
# that is no more.
SYSTEM, CALLED, WATCHED, STALE = 1, 2, 4, 8
STANDING_FLAGS = SYSTEM | CALLED | WATCHED

# Columns of ``symbols`` and ``assets``; what both have stands at the same place. A row of ``symbols`` begins as the
# ``spec`` of ``margin.py``. PRICE: the mark in steps, or the price of the asset in 1e-8 of the valuation currency, 0
# where unknown. BASE and CAPACITY: the segment of ``keys`` (``segments.py``), of COUNT holders; that of an asset has a
# slot for each row, or CAPACITY 0 where its price is fixed. GAP_UNPRICED, GAP_COLD: whether a position (or balance)
# lacks a price (0/1), and whether one was not yet seen in the log. SIZE_MAX, COST_MAX, BALANCE_MAX: the largest there
# ever were; they bound what a price may be. SWING: how far a price may move, in proportion to others.
PRICE = 3
SETTLE, TIERS_FIRST, TIERS_END, RANK = 4, 5, 6, 7
IS_FIXED, WEIGHTS_FIRST, WEIGHTS_END, HAS_HAIRCUT = 4, 5, 6, 7
BASE, CAPACITY, COUNT = 8, 9, 10
GAP_UNPRICED, GAP_COLD = 11, 12
SIZE_MAX, COST_MAX, SWING_PPM = 13, 14, 15
BALANCE_MAX = 13
# Of a mark: its time; whether the next one may be put in force at once (there is one, the log has shown it, none waits
# for confirmation); on which grid it is rounded; whether ``Book.marks`` is yet to be told of it.
MARK_TS, IS_OPEN, MARK_DECIMALS, MARK_STEPS, IS_BEHIND = 16, 17, 18, 19, 20
# The highest maintenance rate, in ppm, or RATE_UNBOUNDED where margin jumps from tier to tier.
RATE_TOP = 21
RATE_UNBOUNDED = 1 << 62
# What the numbers of a fill must be multiples of: how many decimals the steps of sizes and of prices have, how many
# steps a lot is, and how many units the smallest amount of the asset.
SIZE_DECIMALS, PRICE_DECIMALS, LOT_STEPS = 22, 23, 24
STEP_UNITS = 14
SYMBOL_COLUMNS = 25
ASSET_COLUMNS = 15

# Columns of ``settings``: the trigger is "below" (0/1), margin call ratio and re-arm ratio in ppm, how many rows are in
# ``stale``; how many places of ``positions`` were ever taken, and for each length of a run the first place of one that
# was given back, or NONE: whose ``slot`` is that of the next.
BELOW, CALL_PPM, REARM_PPM, STALE_COUNT, TAKEN, FREE_RUNS = 0, 1, 2, 3, 4, 5
# Runs are of 1 to 16 places, or of 32, 64 and so on, up to 2**20.
EXACT_MAX, RUN_LENGTHS = 16, 32
SETTINGS_COLUMNS = FREE_RUNS + RUN_LENGTHS


class Tables(Handle):
    """The arrays of one book; names beside a shape index it.

    positions  POSITION[id]
    rows       int32[row, 4]
    balances   int64[row, asset]    units of the asset
    holders    int32[slot]          row that holds a position at a slot of a symbol's segment
    keys       float32[side, slot]  where a falling (0) and a rising (1) price concerns the slot; both side by side
    symbols    int64[symbol, 25]
    assets     int64[asset, 15]
    tiers      int64[tier, 5]       those of a symbol from TIERS_FIRST to TIERS_END
    weights    int64[slice, 4]      those of an asset from WEIGHTS_FIRST to WEIGHTS_END
    settings   int64[37]
    stale      int32[row]           rows whose keys are to be set anew
    """

    positions: npt.NDArray[np.void]
    rows: npt.NDArray[np.int32]
    balances: npt.NDArray[np.int64]
    holders: npt.NDArray[np.int32]
    keys: npt.NDArray[np.float32]
    symbols: npt.NDArray[np.int64]
    assets: npt.NDArray[np.int64]
    tiers: npt.NDArray[np.int64]
    weights: npt.NDArray[np.int64]
    settings: npt.NDArray[np.int64]
    stale: npt.NDArray[np.int32]

    __slots__ = tuple(__annotations__)
    _numba_type_ = HandleType(
        "Tables",
        {
            "positions": (types.Array(from_dtype(POSITION), 1, "C"), (None,)),
            "rows": (types.Array(types.int32, 2, "C"), (None, ROW_COLUMNS)),
            "balances": (types.Array(types.int64, 2, "C"), (None, None)),
            "holders": (types.Array(types.int32, 1, "C"), (None,)),
            "keys": (types.Array(types.float32, 2, "F"), (2, None)),
            "symbols": (types.Array(types.int64, 2, "C"), (None, SYMBOL_COLUMNS)),
            "assets": (types.Array(types.int64, 2, "C"), (None, ASSET_COLUMNS)),
            "tiers": (types.Array(types.int64, 2, "C"), (None, TIER_COLUMNS)),
            "weights": (types.Array(types.int64, 2, "C"), (None, WEIGHT_COLUMNS)),
            "settings": (types.Array(types.int64, 1, "C"), (SETTINGS_COLUMNS,)),
            "stale": (types.Array(types.int32, 1, "C"), (None,)),
        },
    )
