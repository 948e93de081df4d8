"""Which rows a new price concerns, without looking at the others: the trigger index.

A row needs a look once its *slack* is used up: F = E - MM / c, where c is the margin call ratio, or 1 for a row whose
margin call went out. Such a row needs one, too, once it is well again: once its *excess* G = MM / r - E is used up,
where r is the re-arm ratio. Both are sums over the row's positions and balances, and each of these moves with one
price (a position in an asset without a fixed price: with two, see below). So the slack, and for a called row the
excess, is shared out as budgets over them (``shares.py``), and each gets the two prices at which it alone will have
used its budget up: the *keys* of the position among the holders of its symbol (``segments.py``). While every price is
strictly on the safe side of its keys no budget is exceeded, so the slack is not used up, so the row does not need a
look. Where a price reaches a key the row is looked at exactly (``rows.py``). A key decides when somebody looks, never
what comes of it: how the slack is split changes the cost of a tick, not its outputs.

**Why nothing is missed.** Be a position's notional n (in its settlement asset), P the price of that asset.

1. Its PnL changes by as much as n, up or down: down with a fall of n for a linear long and an inverse short, with a
   rise of n for the other two. Its margin rises with n, and falls with n.
2. Where n falls and takes PnL with it, the slack falls by no more than n does, for the margin only helps. Where n
   rises, the slack falls by the rise of MM(n) / c, and by the rise of n itself, or less that where it brings profit:
   the tiers are walked upward, a jump between "whole" tiers included. The excess is used up the other way round: by a
   rise of n where that brings profit, for the margin only adds to it; where n falls by what MM(n) / r falls by, and
   the fall itself, or less that where it brings a loss - at most at the present rate, down to the floor of the tier
   where a jump may be.
3. Where P is not fixed, v = PnL - MM / c in the settlement asset counts v x P. From (v, P) to (v', P') it loses
   (v - v') x P' + v x (P - P'). The first part is the position's, taken at the highest P' for which the keys hold; the
   second, with all positions that settle in the asset and the balance in it, is a budget of the asset's own: linear in
   P but for the slices of collateral, whose weights only shrink with the value, so that the first one bounds them.
4. Rounding: every figure is rounded once or twice, by a unit each time, before and after the move. So much is kept
   back of the slack for each position and balance, and a part in 10**12 of what was added up, since keys are computed
   in floating point. A key is stored as float32, moved toward the price by more than it can have been rounded by.

Nobody is lost between states either: a row whose positions, balances, flags or unset prices change is *stale*, and the
keys of stale rows are set before the next price is put in force (``share_stale``). A row that needs a look already, or
is watched, gets keys that every price reaches.
"""

from __future__ import annotations

import numpy as np

from engine.core.kernels.compile import inlined, kernel, subkernel
from engine.core.kernels.fetch import fetch
from engine.core.kernels.rows import mark_stale, needs_a_look, needs_look
from engine.core.kernels.runs import next_position
from engine.core.kernels.segments import FAN, next_crossed
from engine.core.kernels.shares import FALLING, price_key, share_row
from engine.core.kernels.tables import (
    BASE,
    CAPACITY,
    COUNT,
    FLAGS,
    HEAD,
    NONE,
    POSITION,
    PRICE,
    ROW_COLUMNS,
    STALE,
    STALE_COUNT,
)

# How many rows are brought near at once, and how many lines of positions of each: five positions and more.
TOGETHER, LINES, LINE_BYTES = 32, 3, 64
POSITION_BYTES, ROW_BYTES, BALANCE_BYTES, KEYS_BYTES = POSITION.itemsize, 4 * ROW_COLUMNS, 8, 8


@kernel
def share_stale(t):
    """Share the slack of all stale rows out anew; to be called before a price is put in force."""
    for first in range(0, t.settings[STALE_COUNT], TOGETHER):
        rows = t.stale[first : min(first + TOGETHER, t.settings[STALE_COUNT])]
        fetch_rows(t, rows)
        fetch_keys(t, rows)
        for index in range(rows.size):
            row = np.int64(rows[index])
            t.rows[row, FLAGS] &= ~STALE
            share_row(t, row)
    t.settings[STALE_COUNT] = 0


@kernel
def concerned_rows_into(t, symbol, found_rows):
    """Write the holders of a symbol that need a look at its mark; return how many: twice a row with both its legs.

    The slack of each row that was looked at is to be shared out anew. found_rows  int32[>= holders]
    """
    segment = t.symbols[symbol]
    if segment[COUNT] == 0:
        return 0
    count = crossed_into(t, segment, found_rows)
    for index in range(count):
        found_rows[index] = t.holders[segment[BASE] + found_rows[index]]
    return look_at(t, found_rows, count)


@kernel
def concerned_by_asset_into(t, asset, found_rows):
    """Write the rows that need a look at an asset's price; else as ``concerned_rows_into``."""
    segment = t.assets[asset]
    if segment[CAPACITY] == 0:
        return 0
    return look_at(t, found_rows, crossed_into(t, segment, found_rows))


@subkernel
def crossed_into(t, segment, found_slots):
    """Write the slots of a segment of which its price reaches a key; return how many."""
    base, capacity, count = segment[BASE], segment[CAPACITY], 0
    falling = price_key(FALLING, segment[PRICE])
    for side in range(2):
        price = price_key(side, segment[PRICE])
        slot = next_crossed(t.keys, side, base, capacity, 0, price)
        while slot >= 0:
            if side == FALLING or t.keys[FALLING, base + slot] < falling:
                found_slots[count] = slot
                count += 1
            slot = next_crossed(t.keys, side, base, capacity, slot + 1, price)
    return count


@subkernel
def look_at(t, rows, count):
    """Look at the first ``count`` of ``rows``, all stale then; move those in need to the front, return how many."""
    found = 0
    for first in range(0, count, TOGETHER):
        end = min(first + TOGETHER, count)
        fetch_rows(t, rows[first:end])
        for index in range(first, end):
            row = np.int64(rows[index])
            mark_stale(t, row)
            if needs_look(t, row):
                rows[found] = row
                found += 1
    return found


@inlined
def fetch_rows(t, rows):
    """Have what rows are made of brought near."""
    for index in range(rows.size):
        row = np.int64(rows[index])
        fetch(t.rows, row * ROW_BYTES)
        fetch(t.balances, row * t.balances.shape[1] * BALANCE_BYTES)
    for index in range(rows.size):
        head = np.int64(t.rows[rows[index], HEAD])
        if head != NONE:
            for line in range(LINES):
                fetch(t.positions, head * POSITION_BYTES + line * LINE_BYTES)


@inlined
def fetch_keys(t, rows):
    """Have the keys of rows' positions brought near, and the maxima above them."""
    for index in range(rows.size):
        id_ = t.rows[rows[index], HEAD]
        while id_ != NONE:
            segment, slot = t.symbols[t.positions[id_].symbol], np.int64(t.positions[id_].slot)
            fetch(t.keys, (segment[BASE] + slot) * KEYS_BYTES)
            fetch(t.keys, (segment[BASE] + segment[CAPACITY] + slot // FAN) * KEYS_BYTES)
            id_ = next_position(t, id_)


@kernel
def next_unreached_row(t, row, count):
    """Return the first row from ``row`` on that needs a look though no price reaches a key of it, or NONE.

    Stale rows aside, and those of which no price can change anything. There is none, unless this module is wrong.
    """
    for candidate in range(row, count):
        if t.rows[candidate, FLAGS] & STALE == 0 and not is_reached(t, candidate) and needs_a_look(t, candidate):
            return candidate
    return NONE


@inlined
def is_reached(t, row):
    """Return whether a price reaches one of a row's keys, or the row has none."""
    id_, has_key = t.rows[row, HEAD], t.rows[row, HEAD] != NONE
    while id_ != NONE:
        position = t.positions[id_]
        segment = t.symbols[position.symbol]
        for side in range(2):
            if t.keys[side, segment[BASE] + position.slot] >= price_key(side, segment[PRICE]):
                return True
        id_ = next_position(t, id_)
    for asset in range(t.assets.shape[0]):
        segment = t.assets[asset]
        if segment[CAPACITY] != 0 and t.balances[row, asset] != 0:
            has_key = True
            for side in range(2):
                if t.keys[side, segment[BASE] + row] >= price_key(side, segment[PRICE]):
                    return True
    return not has_key


@kernel
def all_holders_into(t, symbol, found_rows):
    """Write the holders of a symbol that need a look, each looked at; return how many, as ``concerned_rows_into``."""
    segment, found = t.symbols[symbol], 0
    for slot in range(segment[COUNT]):
        row = np.int64(t.holders[segment[BASE] + slot])
        if needs_a_look(t, row):
            # Where the machine leaves it alone, any price it depends on may be the next that matters.
            mark_stale(t, row)
            found_rows[found] = row
            found += 1
    return found


@kernel
def all_owners_into(t, asset, count, found_rows):
    """Write the rows with a balance in an asset that need a look, each looked at; return how many."""
    found = 0
    for row in range(count):
        if t.balances[row, asset] != 0 and needs_a_look(t, row):
            mark_stale(t, row)
            found_rows[found] = row
            found += 1
    return found
