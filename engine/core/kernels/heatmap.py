"""At which edges of a ladder a row is liquidatable, exactly, without valuing it at each of them.

A *ladder* is a rising row of edges; along it either one symbol's price moves and all else stands still, or all marks
(and asset prices) move together, each by its beta. What a position gains along the ladder only ever rises or only ever
falls, and so does what margin it needs: a notional rises or falls with its price, margin never falls with notional
(``whole`` tiers jump up at a floor, and that is all), and rounding keeps the order of what is rounded. So the figures
at the two ends of a span bound those in between,

    E <= rising(right) + falling(left),    MM >= margin_rising(left) + margin_falling(right),

and the other way round. Where even the best of these is liquidatable, or even the worst is not, every edge of the span
is judged by the very figures that ``is_liquidatable`` would see there, without looking. Other spans are halved, down to
a single edge, which is valued exactly. Nothing is assumed of tiers, contracts, roundings or of how many stretches a row
is liquidatable in: a hedged account is found on both sides. No row is valued more often than once an edge; a one-sided
one about log2(edges) times.

Two things would break the order, and are met: the legs of a hedge are taken together where their sum is exact, because
apart they rise and fall by far more than their sum moves; and where the price of a settlement asset moves as well, a
profit times that price need neither rise nor fall, so such a row is valued at every edge.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.core.kernels.arith import mul_div_rem
from engine.core.kernels.compile import inlined, kernel, subkernel
from engine.core.kernels.limits import is_within_reach
from engine.core.kernels.margin import IS_INVERSE, VALUE_NUM, collateral_value, is_liquidatable, is_plain, plain_values
from engine.core.kernels.rows import INT64_MAX, rounded_values, standing_of, values_of
from engine.core.kernels.runs import next_position
from engine.core.kernels.tables import (
    BELOW,
    FLAGS,
    HEAD,
    NONE,
    SETTLE,
    SYSTEM,
    TIERS_END,
    TIERS_FIRST,
    UNPRICED,
    WEIGHTS_END,
    WEIGHTS_FIRST,
)

# The two kinds of ladder.
OWN, COMMON = 0, 1
# Columns of a row's figures at an edge: PnL (and collateral) that rises along the ladder and that falls, margin too.
RISING, FALLING, MARGIN_RISING, MARGIN_FALLING = 0, 1, 2, 3
FIGURES = 4
# Columns of ``sizes``: contracts in two limbs, because all accounts together may hold more than 64 bits say.
LONG_HIGH, LONG_LOW, SHORT_HIGH, SHORT_LOW = 0, 1, 2, 3
LIMBS = 4
LIMB_BITS = np.int64(31)
_LIMB_MASK = np.int64((1 << 31) - 1)
# What ``judge`` says of a span that is to be halved.
_UNKNOWN = -1
# Enough for 2**62 edges.
STACK_DEPTH = 64

_PPM = np.int64(1_000_000)
_PPM2 = np.int64(1_000_000_000_000)
# No mark is beyond this.
_PRICE_MAX = np.int64(4_000_000_000_000_000_000)


class Ladders(NamedTuple):
    """Prices at the edges of every ladder; the first index is OWN or COMMON.

    marks         int64[2, symbol, edge]  price steps; 0 where no mark is known
    prices        int64[2, asset, edge]   1e-8 of the valuation currency; those of OWN all alike
    directions    int64[2, symbol]        1 where the marks rise along the ladder, -1 where they fall, 0: they stand
    price_moves   int64[2, asset]         the same of asset prices
    mark_reach    int64[symbol]           the price of any ladder at which a notional is largest
    price_reach   int64[asset]            the highest price of any ladder
    """

    marks: npt.NDArray[np.int64]
    prices: npt.NDArray[np.int64]
    directions: npt.NDArray[np.int64]
    price_moves: npt.NDArray[np.int64]
    mark_reach: npt.NDArray[np.int64]
    price_reach: npt.NDArray[np.int64]


@subkernel
def moved_price(price, step, beta_ppm, move_ppm):
    """Return price x (1 + beta x move), half-even on the grid of ``step``, at least one step and at most the limit.

    Never on the other side of ``price``, where that is off the grid or less than a step. An unknown price stays 0.
    """
    turn = beta_ppm * move_ppm
    if price == 0 or turn == 0:
        return price
    # Mostly beta is 1, and then smaller numbers say the same, a few times as fast.
    scale, whole = (_PPM2 + turn, _PPM2) if turn % _PPM != 0 else (_PPM + turn // _PPM, _PPM)
    if scale <= 0:
        return min(step, price)
    # What the quotient could not hold is more than twice the limit.
    if price > INT64_MAX // (scale // whole + 1):
        return _PRICE_MAX
    quotient, remainder = mul_div_rem(price, scale, whole)
    count = quotient // step
    rest = quotient - count * step
    # Twice the rest less the step, without doubling what may be large; twice the remainder is less than 2.
    over = rest - (step - rest)
    is_half = (over == 0 and remainder == 0) or (over == -1 and 2 * remainder == whole)
    is_more = over > 0 or (over == 0 and remainder > 0) or (over == -1 and 2 * remainder > whole)
    if is_more or (is_half and count % 2 == 1):
        count += 1
    moved = max(count, np.int64(1)) * step
    return min(moved, price) if turn < 0 else min(max(moved, price), _PRICE_MAX)


@kernel
def moved_prices_into(prices, steps, betas_ppm, moves_ppm, moved):
    """Write each of ``prices`` at each of the moves into int64[price, move]."""
    for index in range(prices.size):
        for edge in range(moves_ppm.size):
            moved[index, edge] = moved_price(prices[index], steps[index], betas_ppm[index], moves_ppm[edge])


@kernel
def heat_rows(t, ladders, first, end, rows, sizes, left_out, figures, stack):
    """Add what the rows from ``first`` to ``end`` put on every ladder, the engine's own aside.

    rows      int64[symbol + 1, edge]        how many rows begin to be liquidatable at an edge, less those that end;
                                             those of the common factor come last
    sizes     int64[2, symbol, edge, LIMBS]  the same of the contracts they hold
    left_out  int64[symbol + 1]              rows with a position that lack a price, or may leave 64 bits
    figures   int64[edge, FIGURES], stack int64[STACK_DEPTH]  scratch
    """
    for row in range(first, end):
        if t.rows[row, HEAD] == NONE or t.rows[row, FLAGS] & SYSTEM:
            continue
        if t.rows[row, UNPRICED] == 0 and is_within_reach(t, row, ladders.mark_reach, ladders.price_reach):
            _heat_row(t, ladders, row, rows, sizes, figures, stack)
        else:
            _leave_out(t, row, left_out)


@subkernel
def _leave_out(t, row, left_out):
    """Count a row as left out of each ladder it stands on."""
    left_out[left_out.size - 1] += 1
    id_, before = t.rows[row, HEAD], np.int64(-1)
    while id_ != NONE:
        symbol = np.int64(t.positions[id_].symbol)
        # A symbol that came after the round had begun has no ladder in it.
        if symbol != before and symbol < left_out.size - 1:
            left_out[symbol] += 1
        before, id_ = symbol, next_position(t, id_)


@subkernel
def _heat_row(t, ladders, row, rows, sizes, figures, stack):
    equity, maintenance, _ = standing_of(t, row)
    head = np.int64(t.rows[row, HEAD])
    total, is_tame = np.int64(0), True
    while head != NONE:
        symbol = t.positions[head].symbol
        pnl_held, margin_held = np.int64(0), np.int64(0)
        stop = head
        while stop != NONE and t.positions[stop].symbol == symbol:
            pnl, margin, _ = values_of(t, t.positions[stop])
            pnl_held += pnl
            margin_held += margin
            stop = next_position(t, stop)
        total += pnl_held
        is_tame = is_tame and ladders.price_moves[COMMON, t.symbols[symbol, SETTLE]] == 0
        _climb(
            t, ladders, OWN, row, head, stop, equity - pnl_held, maintenance - margin_held, True,
            rows[symbol], sizes, figures, stack,
        )  # fmt: skip
        head = stop
    collateral = np.int64(0) if has_moving_balance(t, ladders, row) else equity - total
    _climb(
        t, ladders, COMMON, row, np.int64(t.rows[row, HEAD]), np.int64(NONE), collateral, np.int64(0), is_tame,
        rows[rows.shape[0] - 1], sizes, figures, stack,
    )  # fmt: skip


@inlined
def has_moving_balance(t, ladders, row):
    """Return whether a row's collateral moves with the common factor."""
    for asset in range(ladders.price_moves.shape[1]):
        if ladders.price_moves[COMMON, asset] != 0 and t.balances[row, asset] != 0:
            return True
    return False


@subkernel
def _climb(t, ladders, kind, row, head, stop, equity, maintenance, is_tame, rows, sizes, figures, stack):
    """Find the edges at which a row is liquidatable; note where its stretches begin and end.

    head, stop           the row's positions that move: from one to before the other
    equity, maintenance  of all that does not
    is_tame              whether what moves only ever rises or only ever falls
    """
    below = t.settings[BELOW] != 0
    last = figures.shape[0] - 1
    figures_at(t, ladders, kind, row, head, stop, np.int64(0), figures[0])
    figures_at(t, ladders, kind, row, head, stop, last, figures[last])
    standing = is_liquidatable_at(figures[0], equity, maintenance, below)
    if standing:
        _note(t, kind, head, stop, 0, 1, rows, sizes)
    left, depth = 0, 1
    stack[0] = last
    while depth > 0:
        right = stack[depth - 1]
        verdict = judge(figures[left], figures[right], equity, maintenance, below) if is_tame else _UNKNOWN
        if verdict == _UNKNOWN:
            if right - left > 1:
                middle = (left + right) // 2
                figures_at(t, ladders, kind, row, head, stop, middle, figures[middle])
                stack[depth] = middle
                depth += 1
                continue
            verdict = int(is_liquidatable_at(figures[right], equity, maintenance, below))
        if verdict != int(standing):
            standing = not standing
            _note(t, kind, head, stop, left + 1, 1 if standing else -1, rows, sizes)
        left = right
        depth -= 1


@inlined
def judge(left, right, equity, maintenance, below):
    """Return 1 where every edge after ``left`` up to ``right`` is liquidatable, 0 where none is, else -1: unknown.

    left, right  int64[FIGURES] at the lower and the higher end of a span; the rest of the row stands still
    """
    best = equity + right[RISING] + left[FALLING]
    least = maintenance + left[MARGIN_RISING] + right[MARGIN_FALLING]
    if is_liquidatable(best, least, below):
        return 1
    worst = equity + left[RISING] + right[FALLING]
    most = maintenance + right[MARGIN_RISING] + left[MARGIN_FALLING]
    return _UNKNOWN if is_liquidatable(worst, most, below) else 0


@inlined
def is_liquidatable_at(figures, equity, maintenance, below):
    """Return whether a row with these figures is liquidatable; the rest of it stands still."""
    return is_liquidatable(
        equity + figures[RISING] + figures[FALLING],
        maintenance + figures[MARGIN_RISING] + figures[MARGIN_FALLING],
        below,
    )


@subkernel
def figures_at(t, ladders, kind, row, head, stop, edge, figures):
    """Write what positions (and, where they move, balances) are worth at an edge into int64[FIGURES]."""
    for column in range(FIGURES):
        figures[column] = 0
    id_ = head
    while id_ != stop:
        position = t.positions[id_]
        symbol = position.symbol
        entry = t.symbols[symbol]
        mark, price = ladders.marks[kind, symbol, edge], ladders.prices[kind, entry[SETTLE], edge]
        direction, side = ladders.directions[kind, symbol], position.size
        if is_plain(entry, price):
            pnl, margin, _ = plain_values(
                entry[VALUE_NUM], t.tiers, entry[TIERS_FIRST], entry[TIERS_END], position.size, position.cost, mark
            )
            side = _net_size(t, id_, head)
        else:
            tiers = t.tiers[entry[TIERS_FIRST] : entry[TIERS_END]]
            pnl, margin, _ = rounded_values(entry, tiers, position.size, position.cost, mark, price)
        figures[RISING if (side >= 0) == (direction >= 0) else FALLING] += pnl
        # A notional rises with the mark, that of an inverse contract falls.
        figures[MARGIN_RISING if (entry[IS_INVERSE] == 0) == (direction >= 0) else MARGIN_FALLING] += margin
        id_ = next_position(t, id_)
    if kind == COMMON and has_moving_balance(t, ladders, row):
        _add_balances(t, ladders, row, edge, figures)


@inlined
def _net_size(t, id_, head):
    """Return the size of a position with the other leg of its hedge, from ``head`` on, if there is one."""
    position = t.positions[id_]
    if position.leg == 0:
        return position.size
    net, other = np.int64(0), head
    while other != NONE:
        if t.positions[other].symbol == position.symbol:
            net += t.positions[other].size
        other = next_position(t, other)
    return net


@subkernel
def _add_balances(t, ladders, row, edge, figures):
    """Add what a row's balances count for at an edge of the common factor: a debt grows with its asset's price."""
    for asset in range(ladders.prices.shape[1]):
        balance = t.balances[row, asset]
        if balance != 0:
            weights = t.weights[t.assets[asset, WEIGHTS_FIRST] : t.assets[asset, WEIGHTS_END]]
            value = collateral_value(weights, balance, ladders.prices[COMMON, asset, edge])
            is_rising = (balance >= 0) == (ladders.price_moves[COMMON, asset] >= 0)
            figures[RISING if is_rising else FALLING] += value


@subkernel
def _note(t, kind, head, stop, edge, sign, rows, sizes):
    """Note that a row begins (1) or ends (-1) to be liquidatable at an edge."""
    rows[edge] += sign
    id_ = head
    while id_ != stop:
        position = t.positions[id_]
        place = sizes[kind, position.symbol, edge]
        size = abs(position.size)
        column = LONG_HIGH if position.size >= 0 else SHORT_HIGH
        place[column] += sign * (size >> LIMB_BITS)
        place[column + 1] += sign * (size & _LIMB_MASK)
        id_ = next_position(t, id_)
