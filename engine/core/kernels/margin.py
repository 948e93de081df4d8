"""What one position or one balance is worth, and what margin it needs (README, "Margin").

Scales: sizes and prices in an instrument's steps, money in units of 1e-8. ``spec`` is one row of the instrument table:
[is_inverse, value_num, value_den]; ``tiers`` its maintenance tiers, int64[tier, 5]: floor in units, rate in ppm,
deduction as whole units and parts per million of a unit, largest leverage in ppm.

Rounding. A notional that is not a whole number of units (inverse, fractional multiplier) is carried as
(floor, remainder, divisor), so that every figure below is rounded once: requirements up, values down - both against the
account, since a cent too much margin costs a trade and a cent too little costs the fund. Nested floors are exact:
floor((n + x) / m) = floor((n + floor(x)) / m) for integers n, m.
"""

from __future__ import annotations

import numpy as np

from engine.core.kernels.arith import div_up, mul_div_floor, mul_div_rem, mul_div_up
from engine.core.kernels.compile import inlined, inlined_kernel, kernel

IS_INVERSE, VALUE_NUM, VALUE_DEN = 0, 1, 2
SPEC_COLUMNS = 3
FLOOR, RATE, DEDUCTION, DEDUCTION_PPM, LEVERAGE = 0, 1, 2, 3, 4
TIER_COLUMNS = 5
WEIGHT_COLUMNS = 4

_PPM = np.int64(1_000_000)
_UNIT = np.int64(100_000_000)


@inlined_kernel
def notional_parts(spec, size, price):
    """Return the notional of ``size`` (>= 0) at ``price`` as (floor, remainder, divisor) in settlement units."""
    if spec[IS_INVERSE] != 0:
        quotient, remainder = mul_div_rem(size, spec[VALUE_NUM], price)
        return quotient, remainder, price
    if spec[VALUE_DEN] == 1:
        return size * price * spec[VALUE_NUM], np.int64(0), np.int64(1)
    # The notional fits in int64; size x price alone need not, nor the larger of them times the numerator.
    less, more = (size, price) if size < price else (price, size)
    quotient, remainder = mul_div_rem(more, less * spec[VALUE_NUM], spec[VALUE_DEN])
    return quotient, remainder, spec[VALUE_DEN]


@inlined_kernel
def position_pnl(spec, size, cost, price, asset_price):
    """Return the unrealised PnL of a position in valuation units, rounded down once.

    linear: size x price + cost; inverse: cost - |size| / price, signed by side. ``cost`` is the signed cash paid.
    """
    floor, remainder, divisor = notional_parts(spec, abs(size), price)
    # A long linear and a short inverse position gain +notional; the other two lose it.
    if (size >= 0) == (spec[IS_INVERSE] == 0):
        pnl = cost + floor
    elif remainder == 0:
        pnl = cost - floor
    else:
        pnl = cost - floor - 1
        remainder = divisor - remainder
    if asset_price == _UNIT:
        return pnl
    # pnl x P in 1e-16, plus what the remainder adds; both parts floored, which floors the exact sum or one less -
    # so the carry between the two fractions is kept.
    quotient = mul_div_floor(pnl, asset_price, _UNIT)
    fraction = _fraction(pnl, asset_price)
    if remainder != 0:
        extra, _ = mul_div_rem(remainder, asset_price, divisor)
        quotient += (fraction + extra) // _UNIT
    return quotient


@inlined
def _fraction(amount, asset_price):
    """Return amount x price modulo one unit, in 1e-16: what the floor of the product left behind."""
    return ((amount % _UNIT) * (asset_price % _UNIT)) % _UNIT


@inlined_kernel
def tier_of(tiers, notional):
    """Return the index of the tier ``notional`` belongs to; a notional equal to a floor begins there."""
    index = 0
    for candidate in range(1, tiers.shape[0]):
        if notional < tiers[candidate, FLOOR]:
            break
        index = candidate
    return index


@inlined_kernel
def position_maintenance(spec, tiers, size, price):
    """Return the maintenance margin of a position in settlement units: notional x rate - deduction, rounded up once.

    ``whole`` tables carry deductions of zero, so one formula serves both tier modes.
    """
    if size == 0:
        return np.int64(0)
    floor, remainder, divisor = notional_parts(spec, abs(size), price)
    tier = tier_of(tiers, floor)
    rate = tiers[tier, RATE]
    millions = floor // _PPM
    rest = (floor - millions * _PPM) * rate - tiers[tier, DEDUCTION_PPM]
    if remainder != 0:
        extra, left = mul_div_rem(remainder, rate, divisor)
        rest += extra + (1 if left > 0 else 0)
    return millions * rate - tiers[tier, DEDUCTION] + div_up(rest, _PPM)


@kernel
def position_initial(spec, tiers, size, price):
    """Return the initial margin of a position in settlement units: notional / max leverage of its tier, rounded up."""
    if size == 0:
        return np.int64(0)
    floor, remainder, divisor = notional_parts(spec, abs(size), price)
    leverage = tiers[tier_of(tiers, floor), LEVERAGE]
    quotient, left = mul_div_rem(floor, _PPM, leverage)
    # ceil((floor + remainder / divisor) x 1e6 / leverage): the fractions are compared exactly.
    if remainder != 0:
        extra, more = mul_div_rem(remainder, _PPM, divisor)
        return quotient + div_up(left + extra + (1 if more > 0 else 0), leverage)
    return quotient + (1 if left > 0 else 0)


@inlined
def plain_values(value_num, tiers, tier, tiers_end, size, cost, price):
    """Return (PnL, maintenance margin, notional) of a position whose figures are whole units of the valuation currency.

    For linear contracts with a whole multiplier, settled in an asset at price 1 - nearly every position of nearly every
    book: nothing is rounded but the margin, and that takes a quarter of the time. Its tiers are those from ``tier`` to
    ``tiers_end``.
    """
    notional = abs(size) * price * value_num
    while tier + 1 < tiers_end and notional >= tiers[tier + 1, FLOOR]:
        tier += 1
    rate = tiers[tier, RATE]
    millions = notional // _PPM
    rest = (notional - millions * _PPM) * rate - tiers[tier, DEDUCTION_PPM]
    margin = millions * rate - tiers[tier, DEDUCTION] + div_up(rest, _PPM) if size != 0 else np.int64(0)
    return cost + (notional if size >= 0 else -notional), margin, notional


@inlined
def is_plain(spec, asset_price):
    """Return whether ``plain_values`` holds for a contract."""
    return spec[IS_INVERSE] == 0 and spec[VALUE_DEN] == 1 and asset_price == _UNIT


@inlined_kernel
def position_values(spec, tiers, size, cost, price, asset_price):
    """Return (PnL, maintenance margin, notional) of a position in valuation units; PnL and notional rounded down."""
    if is_plain(spec, asset_price):
        return plain_values(spec[VALUE_NUM], tiers, 0, tiers.shape[0], size, cost, price)
    pnl = position_pnl(spec, size, cost, price, asset_price)
    margin = to_valuation_up(position_maintenance(spec, tiers, size, price), asset_price)
    floor, _, _ = notional_parts(spec, abs(size), price)
    return pnl, margin, mul_div_floor(floor, asset_price, _UNIT)


@inlined_kernel
def to_valuation_up(amount, asset_price):
    """Return a requirement of ``amount`` settlement units in valuation units, rounded up."""
    return amount if asset_price == _UNIT else mul_div_up(amount, asset_price, _UNIT)


@kernel
def collateral_value(weights, balance, asset_price):
    """Return what ``balance`` units count for as collateral, in valuation units, rounded down once.

    weights  int64[slice, 4]  floor of the slice in valuation units, weight in ppm, then the constant that earlier,
                              dearer slices add, as whole units and ppm of a unit
    A debt counts in full; a positive balance by slices of its value.
    """
    if balance <= 0:
        return balance if asset_price == _UNIT else mul_div_floor(balance, asset_price, _UNIT)
    value, fraction = balance, np.int64(0)
    if asset_price != _UNIT:
        value, fraction = mul_div_rem(balance, asset_price, _UNIT)
    index = 0
    for candidate in range(1, weights.shape[0]):
        if value < weights[candidate, 0]:
            break
        index = candidate
    weight = weights[index, 1]
    if weight == _PPM and weights[index, 2] == 0 and weights[index, 3] == 0:
        return value
    millions = value // _PPM
    rest = (value - millions * _PPM) * weight + weights[index, 3] + fraction * weight // _UNIT
    return millions * weight + weights[index, 2] + rest // _PPM


@inlined_kernel
def is_liquidatable(equity, maintenance, below):
    """Return whether an account must be liquidated: it needs margin, and its equity does not exceed it.

    The only place where this comparison is written. ``below``: dYdX's rule, strictly less.
    """
    if maintenance <= 0:
        return False
    return equity < maintenance if below else equity <= maintenance


@inlined_kernel
def is_at_ratio(equity, maintenance, ratio_ppm):
    """Return whether maintenance / equity >= ratio; an account that needs no margin never is.

    Cross-multiplied: MM >= E x ratio, and for an integer MM that is MM >= ceil(E x ratio).
    """
    if maintenance <= 0:
        return False
    if equity <= 0:
        return True
    millions = equity // _PPM
    return maintenance >= millions * ratio_ppm + div_up((equity - millions * _PPM) * ratio_ppm, _PPM)
