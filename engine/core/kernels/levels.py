"""At which marks an account is liquidatable, all other prices frozen (README, "Liquidation price").

Between two prices at which a position enters another tier, equity less maintenance margin is linear in the price of a
linear contract, and in its inverse for an inverse one: it rises or falls, so an account changes its standing at most
once there. The edge nearest to the mark is therefore found by walking outward from tier border to tier border until
the standing has changed, then halving. The test is the exact one, roundings included, on the grid of printable marks:
the printed price is liquidatable, its neighbour on the healthy side is not.
"""

from __future__ import annotations

import numpy as np

from engine.core.kernels.arith import mul_div_floor
from engine.core.kernels.compile import inlined, kernel, subkernel
from engine.core.kernels.margin import (
    FLOOR,
    IS_INVERSE,
    VALUE_DEN,
    VALUE_NUM,
    is_liquidatable,
    position_values,
)

_NOTIONAL_MAX = np.int64(4_000_000_000_000_000_000)
_UNIT = np.int64(100_000_000)


@inlined
def slack_parts(legs, spec, tiers, price, asset_price, rest):
    """Return (equity, maintenance) of a row with one symbol repriced.

    legs  int64[leg, 2]  size and cost of the symbol's positions; rest  int64[2]  equity and margin of all others
    """
    equity, maintenance = rest[0], rest[1]
    for leg in range(legs.shape[0]):
        pnl, margin, _ = position_values(spec, tiers, legs[leg, 0], legs[leg, 1], price, asset_price)
        equity += pnl
        maintenance += margin
    return equity, maintenance


@subkernel
def price_bounds(legs, spec, asset_price, step):
    """Return the lowest and highest grid count (price = count x step) at which no notional leaves its bound."""
    size = np.int64(1)
    for leg in range(legs.shape[0]):
        size = max(size, abs(legs[leg, 0]))
    bound = _NOTIONAL_MAX if asset_price <= _UNIT else mul_div_floor(_NOTIONAL_MAX, _UNIT, asset_price)
    if spec[IS_INVERSE] != 0:
        return mul_div_floor(size, spec[VALUE_NUM], bound) // step + 1, _NOTIONAL_MAX // step
    return np.int64(1), price_of_notional(spec, size, bound) // step


@subkernel
def price_of_notional(spec, size, notional):
    """Return the price in steps at which ``size`` > 0 is worth ``notional`` > 0, rounded down, at most the bound."""
    if spec[IS_INVERSE] != 0:
        if size // notional >= _NOTIONAL_MAX // spec[VALUE_NUM]:
            return _NOTIONAL_MAX
        return min(_NOTIONAL_MAX, mul_div_floor(size, spec[VALUE_NUM], notional))
    worth = size * spec[VALUE_NUM]
    if notional // worth >= _NOTIONAL_MAX // spec[VALUE_DEN]:
        return _NOTIONAL_MAX
    return min(_NOTIONAL_MAX, mul_div_floor(notional, spec[VALUE_DEN], worth))


@subkernel
def tier_borders_into(legs, spec, tiers, step, low, high, counts):
    """Write the grid counts around every price at which a leg changes its tier, and both ends, in rising order.

    Returns how many there are: at most 3 x legs x tiers + 2.
    """
    counts[0], counts[1] = low, high
    found = 2
    for leg in range(legs.shape[0]):
        for tier in range(1, tiers.shape[0]):
            border = price_of_notional(spec, abs(legs[leg, 0]), tiers[tier, FLOOR]) // step
            for count in range(border - 1, border + 2):
                if low < count < high:
                    place = found
                    while counts[place - 1] > count:
                        counts[place] = counts[place - 1]
                        place -= 1
                    counts[place] = count
                    found += 1
    return found


@kernel
def liquidation_level(legs, spec, tiers, mark, step, asset_price, rest, below, counts):
    """Return the liquidation price nearest to ``mark`` in price steps, or 0 if there is none.

    legs    int64[leg, 2]  size and cost of the symbol's open positions (both legs move together)
    mark    current mark in price steps, on the grid; step: grid of printable marks, in price steps
    rest    int64[2]       equity and maintenance margin of everything else in the row
    counts  int64[>= 3 x legs x tiers + 2]  scratch
    """
    low, high = price_bounds(legs, spec, asset_price, step)
    here = mark // step
    if here < low or here > high:
        return np.int64(0)
    borders = counts[: tier_borders_into(legs, spec, tiers, step, low, high, counts)]
    above = np.int64(0)
    while above < borders.size and borders[above] <= here:
        above += 1
    down = _edge(legs, spec, tiers, step, asset_price, rest, below, here, borders, above - 1, -1)
    up = _edge(legs, spec, tiers, step, asset_price, rest, below, here, borders, above, 1)
    if down == 0 or (up != 0 and abs(up - here) < abs(here - down)):
        return up * step
    return down * step


@kernel
def liquidatable_spans_into(legs, spec, tiers, step, asset_price, rest, below, counts, spans):
    """Write the stretches of grid counts at which the row is liquidatable, rising; return how many there are.

    For the arguments see ``liquidation_level``; spans  int64[>= counts / 2, 2]  first and last count of each, 0 where
    it goes on as far down, or up, as notionals keep their bound. Each end is exact, its neighbour outside healthy;
    what may stay unseen is a flicker of roundings alone, where equity and margin run side by side within a few units.
    """
    low, high = price_bounds(legs, spec, asset_price, step)
    if low > high:
        return 0
    borders = counts[: tier_borders_into(legs, spec, tiers, step, low, high, counts)]
    known, found = borders[0], 0
    standing = _is_liquidatable_at(legs, spec, tiers, known * step, asset_price, rest, below)
    spans[0, 0] = 0
    for index in range(1, borders.size):
        border = borders[index]
        if _is_liquidatable_at(legs, spec, tiers, border * step, asset_price, rest, below) != standing:
            last = _last_before_change(legs, spec, tiers, step, asset_price, rest, below, known, border)
            if standing:
                spans[found, 1] = last
                found += 1
            else:
                spans[found, 0] = last + 1
            standing = not standing
        known = border
    if standing:
        spans[found, 1] = 0
        found += 1
    return found


@subkernel
def _is_liquidatable_at(legs, spec, tiers, price, asset_price, rest, below):
    equity, maintenance = slack_parts(legs, spec, tiers, price, asset_price, rest)
    return is_liquidatable(equity, maintenance, below)


@subkernel
def _edge(legs, spec, tiers, step, asset_price, rest, below, here, borders, index, way):
    """Return the liquidatable count at the first change of standing from ``here``, or 0.

    ``borders`` are gone along from ``index`` on, upward (``way`` 1) or downward (-1).
    """
    standing = _is_liquidatable_at(legs, spec, tiers, here * step, asset_price, rest, below)
    known = here
    while 0 <= index < borders.size:
        border = borders[index]
        if _is_liquidatable_at(legs, spec, tiers, border * step, asset_price, rest, below) != standing:
            last = _last_before_change(legs, spec, tiers, step, asset_price, rest, below, known, border)
            return last if standing else last + way
        known = border
        index += way
    return np.int64(0)


@subkernel
def _last_before_change(legs, spec, tiers, step, asset_price, rest, below, known, other):
    """Return the last count from ``known`` towards ``other`` with the standing of ``known``; that of ``other`` differs.

    Between the two, which lie in one tier of each leg, the standing changes once.
    """
    standing = _is_liquidatable_at(legs, spec, tiers, known * step, asset_price, rest, below)
    while abs(other - known) > 1:
        middle = known + (other - known) // 2
        if _is_liquidatable_at(legs, spec, tiers, middle * step, asset_price, rest, below) == standing:
            known = middle
        else:
            other = middle
    return known
