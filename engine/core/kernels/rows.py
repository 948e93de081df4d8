"""What one row is worth, and how its positions and balances change.

The unit that has its own margin test is a *row*: an account's cross margin, or one of its isolated buckets. All
figures are computed from sizes, costs, balances and prices each time, in exact integers.
"""

from __future__ import annotations

import numpy as np

from engine.core.kernels.arith import mul_div_floor
from engine.core.kernels.compile import inlined, kernel, subkernel
from engine.core.kernels.margin import (
    IS_INVERSE,
    VALUE_DEN,
    VALUE_NUM,
    collateral_value,
    is_at_ratio,
    is_liquidatable,
    is_plain,
    notional_parts,
    plain_values,
    position_values,
)
from engine.core.kernels.runs import move_run, next_position, run_places, shorten_run, take_run
from engine.core.kernels.segments import NEVER, put_key
from engine.core.kernels.tables import (
    BALANCE_MAX,
    BASE,
    BELOW,
    CALL_PPM,
    CALLED,
    CAPACITY,
    COLD,
    COST_MAX,
    COUNT,
    FLAGS,
    GAP_COLD,
    GAP_UNPRICED,
    HAS_HAIRCUT,
    HEAD,
    NONE,
    PRICE,
    RANK,
    REARM_PPM,
    SETTLE,
    SIZE_MAX,
    STALE,
    STALE_COUNT,
    SYSTEM,
    TIERS_END,
    TIERS_FIRST,
    UNPRICED,
    WATCHED,
    WEIGHTS_END,
    WEIGHTS_FIRST,
)

_UNIT = np.int64(100_000_000)
INT64_MAX = np.int64(9_223_372_036_854_775_807)
# What ``put_position`` did. FULL: nothing, for want of room.
FULL, CHANGED, EMPTIED = -1, 0, 1
# What ``load_positions`` takes.
LOADED_COLUMNS = ("row", "symbol", "leg", "size", "cost", "slot")


@subkernel
def rounded_values(spec, tiers, size, cost, mark, asset_price):
    """Return ``position_values`` of a contract whose figures need rounding."""
    return position_values(spec, tiers, size, cost, mark, asset_price)


@inlined
def values_of(t, position):
    """Return (PnL, maintenance margin, notional) of a position in valuation units; zeros where a price is unknown."""
    symbol = position.symbol
    mark, asset_price = t.symbols[symbol, PRICE], t.assets[t.symbols[symbol, SETTLE], PRICE]
    if mark == 0 or asset_price == 0:
        return np.int64(0), np.int64(0), np.int64(0)
    if t.symbols[symbol, IS_INVERSE] == 0 and t.symbols[symbol, VALUE_DEN] == 1 and asset_price == _UNIT:
        first, end = t.symbols[symbol, TIERS_FIRST], t.symbols[symbol, TIERS_END]
        value_num = t.symbols[symbol, VALUE_NUM]
        return plain_values(value_num, t.tiers, first, end, position.size, position.cost, mark)
    tiers = t.tiers[t.symbols[symbol, TIERS_FIRST] : t.symbols[symbol, TIERS_END]]
    return rounded_values(t.symbols[symbol], tiers, position.size, position.cost, mark, asset_price)


@inlined
def notionals_of(t, position):
    """Return a position's notional, rounded down: in units of its settlement asset, and as ``values_of`` has it."""
    spec, asset_price = t.symbols[position.symbol], t.assets[t.symbols[position.symbol, SETTLE], PRICE]
    if is_plain(spec, asset_price):
        notional = abs(position.size) * spec[PRICE] * spec[VALUE_NUM]
        return notional, notional
    notional, _, _ = notional_parts(spec, abs(position.size), spec[PRICE])
    return notional, mul_div_floor(notional, asset_price, _UNIT)


@inlined
def balance_values(t, row):
    """Return what a row's balances count for as collateral, in valuation units."""
    total = np.int64(0)
    for asset in range(t.assets.shape[0]):
        balance, price = t.balances[row, asset], t.assets[asset, PRICE]
        if balance == 0 or price == 0:
            continue
        if price == _UNIT and t.assets[asset, HAS_HAIRCUT] == 0:
            total += balance
        else:
            weights = t.weights[t.assets[asset, WEIGHTS_FIRST] : t.assets[asset, WEIGHTS_END]]
            total += collateral_value(weights, balance, price)
    return total


@inlined
def standing_of(t, row):
    """Return (equity, maintenance margin, notional) of a row in valuation units, unknown prices left out.

    Assumes that the sums fit in int64, which is checked before a price is put in force (``pricing.py``).
    """
    equity, maintenance, gross = balance_values(t, row), np.int64(0), np.int64(0)
    id_ = t.rows[row, HEAD]
    while id_ != NONE:
        pnl, margin, notional = values_of(t, t.positions[id_])
        equity += pnl
        # What marks carry beyond int64 stays at its end: no more than "very much" is asked of either.
        maintenance += min(margin, INT64_MAX - maintenance)
        gross += min(notional, INT64_MAX - gross)
        id_ = next_position(t, id_)
    return equity, maintenance, gross


@kernel
def row_standing(t, row):
    """Return what ``standing_of`` does, called by name."""
    return standing_of(t, row)


@inlined
def needs_look(t, row):
    """Return whether a row's standing calls for a decision of the machine."""
    flags = t.rows[row, FLAGS]
    if t.rows[row, UNPRICED] != 0 or flags & SYSTEM:
        return False
    if flags & WATCHED:
        return True
    equity, maintenance, _ = standing_of(t, row)
    return is_call_for_a_look(t, flags, equity, maintenance)


@subkernel
def needs_a_look(t, row):
    """Return what ``needs_look`` does, called by name."""
    return needs_look(t, row)


@inlined
def is_call_for_a_look(t, flags, equity, maintenance):
    """Return whether these figures of a row that is neither watched nor the engine's own call for a decision."""
    if is_liquidatable(equity, maintenance, t.settings[BELOW] != 0):
        return True
    # Without positions only a debt can matter: what is held may bring less than it counts for (``debts.py``).
    if maintenance == 0 and equity <= 0:
        return True
    if flags & CALLED:
        return not is_at_ratio(equity, maintenance, t.settings[REARM_PPM])
    return is_at_ratio(equity, maintenance, t.settings[CALL_PPM])


@kernel
def position_pnls_into(t, ids, pnls):
    """Write the PnL of positions in valuation units."""
    for index in range(ids.size):
        pnls[index], _, _ = values_of(t, t.positions[ids[index]])


@kernel
def row_standings_into(t, rows, standings):
    """Write equity, maintenance margin and notional of rows into int64[row, 3]."""
    for index in range(rows.size):
        equity, maintenance, gross = row_standing(t, np.int64(rows[index]))
        standings[index, 0], standings[index, 1], standings[index, 2] = equity, maintenance, gross


@kernel
def liquidatable_rows_into(t, count, found_rows):
    """Write the rows that must be liquidated at the prices in force, the engine's own aside; return how many."""
    found = 0
    for row in range(count):
        if t.rows[row, UNPRICED] == 0 and t.rows[row, FLAGS] & SYSTEM == 0 and t.rows[row, HEAD] != NONE:
            equity, maintenance, _ = row_standing(t, row)
            if is_liquidatable(equity, maintenance, t.settings[BELOW] != 0):
                found_rows[found] = row
                found += 1
    return found


# Changes.


@inlined
def mark_stale(t, row):
    """Note that a row's keys are of a state that is no more."""
    if t.rows[row, FLAGS] & STALE == 0:
        t.rows[row, FLAGS] |= STALE
        t.stale[t.settings[STALE_COUNT]] = row
        t.settings[STALE_COUNT] += 1


@kernel
def set_all_stale(t, count):
    """Note that no row's keys are of the state there is."""
    for row in range(count):
        mark_stale(t, row)


@kernel
def set_flag(t, row, flag, is_set):
    """Set or clear a flag of a row, on which depends when it needs a look."""
    before = t.rows[row, FLAGS]
    after = before | flag if is_set else before & ~flag
    if after != before:
        t.rows[row, FLAGS] = after
        mark_stale(t, row)


@inlined
def find_position(t, row, symbol, leg):
    """Return the id of a row's position, or NONE."""
    id_ = t.rows[row, HEAD]
    while id_ != NONE and (t.positions[id_].symbol != symbol or t.positions[id_].leg != leg):
        id_ = next_position(t, id_)
    return id_


@kernel
def position_of(t, row, symbol, leg):
    """Return signed size and cost of a position, (0, 0) if there is none."""
    id_ = find_position(t, row, symbol, leg)
    if id_ == NONE:
        return np.int64(0), np.int64(0)
    return t.positions[id_].size, t.positions[id_].cost


@kernel
def row_positions_into(t, row, found):
    """Write symbol and leg of a row's positions into int64[position, 2], in their order; return how many there are.

    Those for which there is no room are counted only.
    """
    count, id_ = 0, t.rows[row, HEAD]
    while id_ != NONE:
        if count < found.shape[0]:
            found[count, 0], found[count, 1] = t.positions[id_].symbol, t.positions[id_].leg
        count += 1
        id_ = next_position(t, id_)
    return count


@kernel
def put_position(t, row, symbol, leg, size, cost):
    """Store a position; a size of 0 removes it. Returns CHANGED, EMPTIED (the row's last one is gone) or FULL."""
    id_ = find_position(t, row, symbol, leg)
    if id_ == NONE:
        if size == 0:
            return CHANGED
        if t.symbols[symbol, COUNT] == t.symbols[symbol, CAPACITY]:
            return FULL
        id_ = _add_position(t, row, symbol, leg, t.symbols[symbol, COUNT])
        if id_ == NONE:
            return FULL
    t.positions[id_].size, t.positions[id_].cost = size, cost
    t.symbols[symbol, SIZE_MAX] = max(t.symbols[symbol, SIZE_MAX], abs(size))
    t.symbols[symbol, COST_MAX] = max(t.symbols[symbol, COST_MAX], abs(cost))
    mark_stale(t, row)
    if size == 0:
        _remove_position(t, row, id_)
        return EMPTIED if t.rows[row, HEAD] == NONE else CHANGED
    return CHANGED


@kernel
def count_positions(t, row):
    """Return how many positions a row has."""
    count, id_ = np.int64(0), np.int64(t.rows[row, HEAD])
    while id_ != NONE:
        count += 1
        id_ = next_position(t, id_)
    return count


@subkernel
def _add_position(t, row, symbol, leg, slot):
    """Return the id of a new, empty position at a slot of its symbol, in its place in the row's run; NONE: no room."""
    count, head = count_positions(t, row), np.int64(t.rows[row, HEAD])
    if count == 0:
        head = take_run(t, 1)
    elif run_places(count + 1) != run_places(count):
        head = move_run(t, head, count, count + 1)
    if head == NONE:
        return head
    t.rows[row, HEAD] = head
    return _insert_position(t, row, count, symbol, leg, slot)


@subkernel
def _insert_position(t, row, count, symbol, leg, slot):
    """Put a new, empty position in its place among the ``count`` of a row, whose run has room; return its id."""
    segment, head = t.symbols[symbol], np.int64(t.rows[row, HEAD])
    segment[COUNT] += 1
    t.holders[segment[BASE] + slot] = row
    id_ = head + count
    while id_ > head and not _is_before(t, id_ - 1, symbol, leg):
        t.positions[id_] = t.positions[id_ - 1]
        id_ -= 1
    position = t.positions[id_]
    position.size, position.cost, position.slot, position.symbol, position.leg = 0, 0, slot, symbol, leg
    position.is_last = 1 if id_ == head + count else 0
    if id_ > head:
        t.positions[id_ - 1].is_last = 0
    t.rows[row, UNPRICED] += t.symbols[symbol, GAP_UNPRICED]
    t.rows[row, COLD] += t.symbols[symbol, GAP_COLD]
    return id_


@inlined
def _is_before(t, id_, symbol, leg):
    """Return whether a position stands before one of ``symbol`` and ``leg`` in its row."""
    other = t.positions[id_]
    if other.symbol == symbol:
        return other.leg < leg
    return t.symbols[other.symbol, RANK] < t.symbols[symbol, RANK]


@subkernel
def held_at(t, symbol, slot):
    """Return the id of the position at a slot of a symbol."""
    id_ = np.int64(t.rows[t.holders[t.symbols[symbol, BASE] + slot], HEAD])
    while id_ != NONE and (t.positions[id_].symbol != symbol or t.positions[id_].slot != slot):
        id_ = next_position(t, id_)
    return id_


@subkernel
def _remove_position(t, row, id_):
    """Close the gap that a position leaves among its symbol's holders, with the last of them, and in its row."""
    symbol, slot = np.int64(t.positions[id_].symbol), np.int64(t.positions[id_].slot)
    segment = t.symbols[symbol]
    base, capacity, last = segment[BASE], segment[CAPACITY], segment[COUNT] - 1
    t.positions[held_at(t, symbol, last)].slot = slot
    t.holders[base + slot] = t.holders[base + last]
    segment[COUNT] = last
    for side in range(2):
        put_key(t.keys, side, base, capacity, slot, t.keys[side, base + last])
        put_key(t.keys, side, base, capacity, last, NEVER)
    t.rows[row, UNPRICED] -= segment[GAP_UNPRICED]
    t.rows[row, COLD] -= segment[GAP_COLD]
    head, count = np.int64(t.rows[row, HEAD]), count_positions(t, row)
    for index in range(id_, head + count - 1):
        t.positions[index] = t.positions[index + 1]
    t.rows[row, HEAD] = shorten_run(t, head, count)


@kernel
def put_balance(t, row, asset, balance):
    """Store a balance."""
    change = int(balance != 0) - int(t.balances[row, asset] != 0)
    t.balances[row, asset] = balance
    t.assets[asset, BALANCE_MAX] = max(t.assets[asset, BALANCE_MAX], abs(balance))
    t.rows[row, UNPRICED] += change * t.assets[asset, GAP_UNPRICED]
    t.rows[row, COLD] += change * t.assets[asset, GAP_COLD]
    mark_stale(t, row)


@kernel
def load_positions(t, columns):
    """Give rows that have none their positions, each at its slot; int64[6, position], columns as LOADED_COLUMNS.

    Those of a row stand together; there must be room for ``loaded_places``.
    """
    first = 0
    while first < columns.shape[1]:
        end, row = _end_of_row(columns, first), columns[0, first]
        t.rows[row, HEAD] = take_run(t, end - first)
        for index in range(first, end):
            id_ = _insert_position(t, row, index - first, columns[1, index], columns[2, index], columns[5, index])
            t.positions[id_].size, t.positions[id_].cost = columns[3, index], columns[4, index]
        mark_stale(t, row)
        first = end


@kernel
def loaded_places(columns):
    """Return how many places ``load_positions`` takes."""
    places, first = np.int64(0), 0
    while first < columns.shape[1]:
        end = _end_of_row(columns, first)
        places += run_places(end - first)
        first = end
    return places


@inlined
def _end_of_row(columns, first):
    """Return behind which of the loaded positions those of the row of the first one end."""
    end = first + 1
    while end < columns.shape[1] and columns[0, end] == columns[0, first]:
        end += 1
    return end


@kernel
def saved_positions_into(t, count, columns):
    """Write the positions of the first ``count`` rows as ``load_positions`` takes them."""
    index = 0
    for row in range(count):
        id_ = np.int64(t.rows[row, HEAD])
        while id_ != NONE:
            position = t.positions[id_]
            columns[0, index], columns[1, index], columns[2, index] = row, position.symbol, position.leg
            columns[3, index], columns[4, index], columns[5, index] = position.size, position.cost, position.slot
            index += 1
            id_ = next_position(t, id_)


@kernel
def holder_ids_into(t, symbol, ids):
    """Write the ids of a symbol's positions, by slot, into int64[holder]."""
    for slot in range(ids.size):
        ids[slot] = held_at(t, symbol, slot)


@kernel
def load_balances(t, asset, balances):
    """Set all rows' balances of an asset."""
    for row in range(balances.size):
        if balances[row] != 0:
            put_balance(t, row, asset, balances[row])


@kernel
def change_gaps(t, symbol, unpriced, cold):
    """Note that a position of a symbol lacks ``unpriced`` (0/1) prices, and ``cold`` (0/1) in the log, from now on."""
    segment = t.symbols[symbol]
    for slot in range(segment[COUNT]):
        row = np.int64(t.holders[segment[BASE] + slot])
        t.rows[row, UNPRICED] += unpriced - segment[GAP_UNPRICED]
        t.rows[row, COLD] += cold - segment[GAP_COLD]
        mark_stale(t, row)
    segment[GAP_UNPRICED], segment[GAP_COLD] = unpriced, cold


@kernel
def change_asset_gaps(t, asset, count, unpriced, cold):
    """Note the same of a balance in an asset; ``count`` rows there are."""
    for row in range(count):
        if t.balances[row, asset] != 0:
            t.rows[row, UNPRICED] += unpriced - t.assets[asset, GAP_UNPRICED]
            t.rows[row, COLD] += cold - t.assets[asset, GAP_COLD]
            mark_stale(t, row)
    t.assets[asset, GAP_UNPRICED], t.assets[asset, GAP_COLD] = unpriced, cold
