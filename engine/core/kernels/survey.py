"""How many rows stand in which band of MM / E, and which stand worst: a look at a slice of the rows.

Nothing is written but the caller's tallies: a survey can be made at any time and changes no decision.
"""

from __future__ import annotations

import numpy as np

from engine.core.kernels.arith import mul_wide
from engine.core.kernels.compile import inlined, kernel
from engine.core.kernels.margin import is_at_ratio, is_liquidatable
from engine.core.kernels.rows import standing_of
from engine.core.kernels.tables import BELOW, FLAGS, HEAD, NONE, SYSTEM, UNPRICED

# Columns of ``riskiest``.
ROW, EQUITY, MAINTENANCE = 0, 1, 2
RISKIEST_COLUMNS = 3


@kernel
def survey_rows(t, first, end, floors_ppm, bands, riskiest, counts):
    """Tally the rows from ``first`` to ``end`` that have positions, the engine's own aside.

    floors_ppm  int64[band]     lowest MM / E of each band, rising from 0; liquidatable rows have a band of their own
    bands       int64[band + 1] how many rows stand in each, the liquidatable ones last; added to
    riskiest    int64[place, 3] ROW, EQUITY, MAINTENANCE, lowest E / MM first, of equal ones the lower row
    counts      int64[2]        how many places of ``riskiest`` are taken; how many rows lack a price: these are not
                                judged

    Assumes that the rows' sums fit in int64, which is checked before a price is put in force.
    """
    for row in range(first, end):
        if t.rows[row, HEAD] == NONE or t.rows[row, FLAGS] & SYSTEM:
            continue
        if t.rows[row, UNPRICED] != 0:
            counts[1] += 1
            continue
        equity, maintenance, _ = standing_of(t, row)
        bands[band_of(equity, maintenance, t.settings[BELOW] != 0, floors_ppm)] += 1
        if maintenance > 0:
            counts[0] = _keep(riskiest, counts[0], row, equity, maintenance)


@inlined
def band_of(equity, maintenance, below, floors_ppm):
    """Return in which band a row stands; one past the last floor if it is liquidatable."""
    if is_liquidatable(equity, maintenance, below):
        return floors_ppm.size
    band = 0
    while band + 1 < floors_ppm.size and is_at_ratio(equity, maintenance, floors_ppm[band + 1]):
        band += 1
    return band


@inlined
def is_riskier(equity, maintenance, other_equity, other_maintenance):
    """Return whether E / MM is less than the other's; both margins > 0. Cross-multiplied in 128 bits."""
    if (equity < 0) != (other_equity < 0):
        return equity < 0
    high, low = mul_wide(np.uint64(abs(equity)), np.uint64(other_maintenance))
    other_high, other_low = mul_wide(np.uint64(abs(other_equity)), np.uint64(maintenance))
    if equity < 0:
        return high > other_high or (high == other_high and low > other_low)
    return high < other_high or (high == other_high and low < other_low)


@inlined
def _keep(riskiest, taken, row, equity, maintenance):
    """Put a row in its place if there is one for it; return how many places are taken then."""
    place = taken
    while place > 0:
        above = riskiest[place - 1]
        if not is_riskier(equity, maintenance, above[EQUITY], above[MAINTENANCE]):
            break
        place -= 1
    if place == riskiest.shape[0]:
        return taken
    taken = min(taken + 1, riskiest.shape[0])
    for below in range(taken - 1, place, -1):
        for column in range(RISKIEST_COLUMNS):
            riskiest[below, column] = riskiest[below - 1, column]
    riskiest[place, ROW], riskiest[place, EQUITY], riskiest[place, MAINTENANCE] = row, equity, maintenance
    return taken
