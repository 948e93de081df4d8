"""At which mark an account becomes liquidatable, all other prices frozen (README, "Liquidation price").

The slack equity - maintenance margin is concave in one symbol's price (linear contracts) or in its inverse (inverse
contracts): PnL is linear, maintenance margin convex. So the healthy prices form one interval, and its edges are found
by widening steps away from a healthy price, then halving. The test is the exact one, roundings included, on the grid
of printable marks, so the printed price is liquidatable and its neighbour on the healthy side is not.
"""

from __future__ import annotations

import numpy as np

from engine.core.kernels.arith import mul_div_floor
from engine.core.kernels.compile import kernel
from engine.core.kernels.margin import (
    IS_INVERSE,
    VALUE_DEN,
    VALUE_NUM,
    is_liquidatable,
    position_values,
)

_NOTIONAL_MAX = np.int64(4_000_000_000_000_000_000)
_UNIT = np.int64(100_000_000)


@kernel
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


@kernel
def price_bounds(legs, spec, asset_price, step):
    """Return the lowest and highest grid count (price = count x step) at which no notional leaves its bound."""
    size = np.int64(0)
    for leg in range(legs.shape[0]):
        size = max(size, abs(legs[leg, 0]))
    bound = _NOTIONAL_MAX if asset_price <= _UNIT else mul_div_floor(_NOTIONAL_MAX, _UNIT, asset_price)
    if spec[IS_INVERSE] != 0:
        return mul_div_floor(size, spec[VALUE_NUM], bound) // step + 1, _NOTIONAL_MAX // step
    return np.int64(1), min(_NOTIONAL_MAX, mul_div_floor(bound, spec[VALUE_DEN], size * spec[VALUE_NUM])) // step


@kernel
def liquidation_level(legs, spec, tiers, mark, step, asset_price, rest, below):
    """Return the liquidation price nearest to ``mark`` in price steps, or 0 if there is none.

    legs    int64[leg, 2]  size and cost of the symbol's open positions (both legs move together)
    mark    current mark in price steps, on the grid; step: grid of printable marks, in price steps
    rest    int64[2]       equity and maintenance margin of everything else in the row
    """
    low, high = price_bounds(legs, spec, asset_price, step)
    here = mark // step
    if here < low or here > high:
        return np.int64(0)
    equity, maintenance = slack_parts(legs, spec, tiers, mark, asset_price, rest)
    if is_liquidatable(equity, maintenance, below):
        healthy = _healthiest(legs, spec, tiers, step, asset_price, rest, low, high)
        equity, maintenance = slack_parts(legs, spec, tiers, healthy * step, asset_price, rest)
        if is_liquidatable(equity, maintenance, below):
            return np.int64(0)
        return _bisect(legs, spec, tiers, step, asset_price, rest, below, healthy, here) * step
    down = _edge(legs, spec, tiers, step, asset_price, rest, below, here, low)
    up = _edge(legs, spec, tiers, step, asset_price, rest, below, here, high)
    if down == 0 or (up != 0 and up - here < here - down):
        return up * step
    return down * step


@kernel
def _edge(legs, spec, tiers, step, asset_price, rest, below, here, bound):
    """Return the nearest liquidatable count between a healthy ``here`` and ``bound``, or 0 if there is none."""
    direction = np.int64(1) if bound > here else np.int64(-1)
    width = np.int64(1)
    healthy = here
    while healthy != bound:
        probe = healthy + direction * width
        if (probe - bound) * direction > 0:
            probe = bound
        equity, maintenance = slack_parts(legs, spec, tiers, probe * step, asset_price, rest)
        if is_liquidatable(equity, maintenance, below):
            return _bisect(legs, spec, tiers, step, asset_price, rest, below, healthy, probe)
        healthy = probe
        if width < 2_000_000_000_000_000_000:
            width *= 2
    return np.int64(0)


@kernel
def _bisect(legs, spec, tiers, step, asset_price, rest, below, healthy, liquidatable):
    """Return the liquidatable count next to the healthy side, given one count on either side of the edge."""
    while abs(healthy - liquidatable) > 1:
        middle = healthy + (liquidatable - healthy) // 2
        equity, maintenance = slack_parts(legs, spec, tiers, middle * step, asset_price, rest)
        if is_liquidatable(equity, maintenance, below):
            liquidatable = middle
        else:
            healthy = middle
    return liquidatable


@kernel
def _healthiest(legs, spec, tiers, step, asset_price, rest, low, high):
    """Return the count with the largest slack between ``low`` and ``high``: the peak of a concave function."""
    while high - low > 2:
        third = (high - low) // 3
        left, right = low + third, high - third
        equity, maintenance = slack_parts(legs, spec, tiers, left * step, asset_price, rest)
        slack_left = equity - maintenance
        equity, maintenance = slack_parts(legs, spec, tiers, right * step, asset_price, rest)
        if slack_left < equity - maintenance:
            low = left + 1
        else:
            high = right - 1
    best, best_slack = low, np.int64(0)
    for count in range(low, high + 1):
        equity, maintenance = slack_parts(legs, spec, tiers, count * step, asset_price, rest)
        if count == low or equity - maintenance > best_slack:
            best, best_slack = count, equity - maintenance
    return best
