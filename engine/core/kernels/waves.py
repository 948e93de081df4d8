"""Which positions a wave of auto-deleveraging may take from, how much of each, and in what order (CONTRACT 5.8).

A crash brings thousands of waves over thousands of holders: what looks at all of them is here, and what concerns the
few that give something is in ``adl.py`` and ``takeover.py``. Comparisons are exact: products are as wide as they get.
"""

from __future__ import annotations

import numpy as np

from engine.core.kernels.arith import mul_div_floor, mul_wide
from engine.core.kernels.compile import inlined, kernel, subkernel
from engine.core.kernels.margin import collateral_value, position_values
from engine.core.kernels.rows import held_at, row_standing
from engine.core.kernels.tables import BASE, COUNT, FLAGS, SYSTEM, UNPRICED

_U0 = np.uint64(0)
_U1 = np.uint64(1)


@kernel
def opposites_into(t, symbol, is_long, rows, ids):
    """Write which rows with E > MM, the fund aside, have a position on the other side, and its id; return how many.

    t          the tables of the book
    is_long    whether the failing position is long
    rows, ids  int64[>= holders]  out
    """
    segment, found = t.symbols[symbol], 0
    for slot in range(segment[COUNT]):
        row, id_ = np.int64(t.holders[segment[BASE] + slot]), held_at(t, symbol, slot)
        if (t.positions[id_].size > 0) == is_long or t.rows[row, FLAGS] & SYSTEM or t.rows[row, UNPRICED] != 0:
            continue
        equity, maintenance, _ = row_standing(t, row)
        if equity > maintenance:
            rows[found], ids[found] = row, id_
            found += 1
    return found


# What is the same for all winners of a wave, in one array: the failing position (signed steps, signed cash it goes
# for) and the steps of a lot; what its takers lose in all, and on how many lots; the two prices; whether the
# settlement asset counts for less than its price.
FAILING_SIZE, FAILING_CASH, LOT_STEPS, LOSS, LOSS_LOTS, MARK, ASSET_PRICE, HAS_HAIRCUT = range(8)
WAVE_COLUMNS = 8


@kernel
def lots_within_equity_into(wave, sizes, costs, balances, equities, spec, tiers, weights, lots_max):
    """Lower ``lots_max`` to what each winner can close with E >= 0 after.

    wave                              int64[8]        columns above
    sizes, costs, balances, equities  int64[winner]   position, wallet of the settlement asset, equity (> 0) of its row
    spec, tiers, weights              of the instrument and its settlement asset, as in ``margin.py``
    lots_max                          int64[winner]   in: at most what it holds and what is needed; out

    Without a haircut a close costs its part of the loss, so that mostly one comparison shows that all can be given, but
    for roundings: who closes is looked at once more, with the very cash it pays. With a haircut it costs more: profit
    that counted in full becomes a balance that counts at its weight. The equity after k lots is computed exactly then,
    and falls with k, so halving finds the largest.
    """
    for winner in range(sizes.size):
        if wave[HAS_HAIRCUT] == 0 and not _is_more(wave[LOSS], lots_max[winner], equities[winner], wave[LOSS_LOTS]):
            continue
        position = sizes[winner], costs[winner], balances[winner]
        low, high = np.int64(0), lots_max[winner]
        while low < high:
            middle = (low + high + 1) // 2
            if equities[winner] + equity_change(wave, position, spec, tiers, weights, middle) >= 0:
                low = middle
            else:
                high = middle - 1
        lots_max[winner] = low


@inlined
def _is_more(left, left_times, right, right_times):
    """Return whether left x left_times > right x right_times; left of any sign, the others >= 0."""
    if left <= 0:
        return False
    left_high, left_low = mul_wide(np.uint64(left), np.uint64(left_times))
    right_high, right_low = mul_wide(np.uint64(right), np.uint64(right_times))
    return left_high > right_high or (left_high == right_high and left_low > right_low)


@kernel
def equity_change(wave, position, spec, tiers, weights, lots):
    """Return by how much a row's equity changes when it closes ``lots`` of a position at the wave's cash.

    position  its size, its cost, and the row's wallet of the settlement asset
    The shares of the cost and of the cash are rounded down, as the ledger posts them. Assumes that what the close
    leaves in the wallet fits in int64, as positions of at most 4e18 units see to.
    """
    size, cost, balance = position
    closed = lots * wave[LOT_STEPS]
    released = mul_div_floor(cost, closed, abs(size))
    cash = mul_div_floor(-wave[FAILING_CASH], closed, abs(wave[FAILING_SIZE]))
    left = size + closed if wave[FAILING_SIZE] > 0 else size - closed
    mark, asset_price = wave[MARK], wave[ASSET_PRICE]
    pnl, _, _ = position_values(spec, tiers, size, cost, mark, asset_price)
    pnl_left, _, _ = position_values(spec, tiers, left, cost - released, mark, asset_price)
    value = collateral_value(weights, balance, asset_price)
    return pnl_left - pnl + collateral_value(weights, balance + cash + released, asset_price) - value


@kernel
def profits_into(pnl, taken, lots, profits):
    """Write the profit that each position gives up: PnL x lots taken / lots held, down; 0 where there is no profit.

    pnl, taken, lots, profits  int64[winner]; 0 <= taken <= lots, lots > 0
    """
    for winner in range(pnl.size):
        profits[winner] = mul_div_floor(max(pnl[winner], np.int64(0)), taken[winner], lots[winner])


@kernel
def heap_into(over, under, heap):
    """Write the winners' numbers as a heap with the highest quotient on top, for ``pop_into``.

    over, under  int64[winner, 2]  two factors above the line and two below; all >= 0, but ``over[:, 0]`` of any sign
    heap         int64[winner]     out
    """
    for winner in range(heap.size):
        heap[winner] = winner
    for place in range(heap.size // 2 - 1, -1, -1):
        _sink(over, under, heap, heap.size, place)


@kernel
def pop_into(over, under, heap, count, found):
    """Take the highest quotients off a heap of ``count`` and write their winners to ``found``; return how many.

    heap   int64[>= count]  in and out: what is left of it stands in front
    found  int64[wanted]    out, highest first, equal ones by their number
    """
    taken = min(count, found.size)
    for index in range(taken):
        found[index] = heap[0]
        count -= 1
        heap[0] = heap[count]
        _sink(over, under, heap, count, 0)
    return taken


@inlined
def _sink(over, under, heap, count, place):
    """Let what stands at ``place`` of a heap sink until nothing below it comes first."""
    sinking = heap[place]
    child = 2 * place + 1
    while child < count:
        if child + 1 < count and comes_first(over, under, heap[child + 1], heap[child]):
            child += 1
        if not comes_first(over, under, heap[child], sinking):
            break
        heap[place] = heap[child]
        place, child = child, 2 * child + 1
    heap[place] = sinking


@subkernel
def comes_first(over, under, left, right):
    """Return whether the quotient of ``left`` is higher than that of ``right``, or as high and its number lower.

    over, under as in ``heap_into``. Cross-multiplied in 256 bits; a divisor of zero is higher than any other.
    """
    left_sign, right_sign = np.sign(over[left, 0]), np.sign(over[right, 0])
    if left_sign != right_sign:
        return left_sign > right_sign
    upper = product_wide(over[left, 0], over[left, 1], under[right, 0], under[right, 1])
    lower = product_wide(over[right, 0], over[right, 1], under[left, 0], under[left, 1])
    for word in range(3, -1, -1):
        if upper[word] != lower[word]:
            return (upper[word] > lower[word]) == (left_sign >= 0)
    return left < right


@inlined
def product_wide(first, second, third, fourth):
    """Return |first| x second x third x fourth as four uint64, lowest first; int64, none but the first below 0."""
    left_high, left_low = mul_wide(np.uint64(abs(first)), np.uint64(second))
    right_high, right_low = mul_wide(np.uint64(third), np.uint64(fourth))
    low_carry, word0 = mul_wide(left_low, right_low)
    cross1_high, cross1_low = mul_wide(left_low, right_high)
    cross2_high, cross2_low = mul_wide(left_high, right_low)
    top_high, top_low = mul_wide(left_high, right_high)
    word1, carry = _add(low_carry, cross1_low, cross2_low)
    word2, carry2 = _add(cross1_high, cross2_high, top_low)
    word2, carry3 = _add(word2, carry, _U0)
    return word0, word1, word2, top_high + carry2 + carry3


@inlined
def _add(first, second, third):
    """Return the sum of three uint64 and its carry, 0 to 2."""
    partial = first + second
    total = partial + third
    carry = (_U1 if partial < first else _U0) + (_U1 if total < third else _U0)
    return total, carry
