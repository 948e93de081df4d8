"""How far the common factor has to move until a row is liquidatable: the first of many small steps, up or down.

The search goes out from the prices in force, span by span, and judges spans as a heat-map does (``heatmap.py``), so
that the step it names is exact: the row is liquidatable there, and at no step before. A row whose positions move
together costs some twenty valuations; one that is hedged across symbols costs more, the closer its gains and losses
cancel out, and never more than one a step.
"""

from __future__ import annotations

import numpy as np

from engine.core.kernels.compile import kernel, subkernel
from engine.core.kernels.heatmap import (
    COMMON,
    FIGURES,
    figures_at,
    has_moving_balance,
    is_liquidatable_at,
    judge,
    moved_price,
)
from engine.core.kernels.limits import is_within_reach
from engine.core.kernels.rows import standing_of, values_of
from engine.core.kernels.runs import next_position
from engine.core.kernels.tables import BELOW, HEAD, MARK_STEPS, NONE, PRICE, SETTLE, UNPRICED

# What ``first_step`` says of a row that cannot be judged: it lacks a price, or may leave 64 bits on the way.
UNKNOWN = -1


@kernel
def first_step(t, ladders, row, betas_ppm, asset_betas_ppm, step_ppm, steps, figures, stack):
    """Return after how many steps of the common factor a row is liquidatable for the first time.

    0: it is now; ``steps`` + 1: after none of them; UNKNOWN.

    ladders   reach as far as the steps do; their first edge is overwritten
    step_ppm  < 0: down
    figures   int64[STACK_DEPTH + 1, FIGURES], stack int64[STACK_DEPTH]  scratch
    """
    if t.rows[row, UNPRICED] != 0 or not is_within_reach(t, row, ladders.mark_reach, ladders.price_reach):
        return UNKNOWN
    below = t.settings[BELOW] != 0
    equity, is_tame = _standing_still(t, ladders, row)
    _figures_after(t, ladders, row, betas_ppm, asset_betas_ppm, 0, figures[0])
    if is_liquidatable_at(figures[0], equity, 0, below):
        return 0
    near, depth = 0, 1
    stack[0] = steps
    _figures_after(t, ladders, row, betas_ppm, asset_betas_ppm, step_ppm * steps, figures[1])
    while depth > 0:
        far = stack[depth - 1]
        left, right = (0, depth) if step_ppm > 0 else (depth, 0)
        # The nearer end is healthy, so no span is surely liquidatable; it may surely not be.
        is_open = not is_tame or judge(figures[left], figures[right], equity, 0, below) != 0
        if is_open and far - near > 1:
            middle = (near + far) // 2
            stack[depth] = middle
            depth += 1
            _figures_after(t, ladders, row, betas_ppm, asset_betas_ppm, step_ppm * middle, figures[depth])
            continue
        if is_open and is_liquidatable_at(figures[depth], equity, 0, below):
            return far
        near = far
        for column in range(FIGURES):
            figures[0, column] = figures[depth, column]
        depth -= 1
    return steps + 1


@subkernel
def _standing_still(t, ladders, row):
    """Return what of a row's equity does not move, and whether what moves only ever rises or only ever falls."""
    equity, _, _ = standing_of(t, row)
    is_tame, id_ = True, t.rows[row, HEAD]
    while id_ != NONE:
        pnl, _, _ = values_of(t, t.positions[id_])
        equity -= pnl
        is_tame = is_tame and ladders.price_moves[COMMON, t.symbols[t.positions[id_].symbol, SETTLE]] == 0
        id_ = next_position(t, id_)
    return np.int64(0) if has_moving_balance(t, ladders, row) else equity, is_tame


@subkernel
def _figures_after(t, ladders, row, betas_ppm, asset_betas_ppm, move_ppm, figures):
    """Write what moves of a row after a move of the common factor into int64[FIGURES]."""
    for asset in range(t.assets.shape[0]):
        price = moved_price(t.assets[asset, PRICE], 1, asset_betas_ppm[asset], move_ppm)
        ladders.prices[COMMON, asset, 0] = price
    id_ = t.rows[row, HEAD]
    while id_ != NONE:
        symbol = t.positions[id_].symbol
        entry = t.symbols[symbol]
        ladders.marks[COMMON, symbol, 0] = moved_price(entry[PRICE], entry[MARK_STEPS], betas_ppm[symbol], move_ppm)
        id_ = next_position(t, id_)
    figures_at(t, ladders, COMMON, row, np.int64(t.rows[row, HEAD]), np.int64(NONE), np.int64(0), figures)
