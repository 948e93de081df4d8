"""At which prices a row's slack is used up: the slack shared out as budgets, and the keys these come to.

Why a row whose keys are set so needs no look before a price reaches one of them is told in ``triggers.py``; the numbers
in brackets below are its.

The share of a position goes with the square root of swing x notional, swing standing for how far its price may move.
With powers from 1/2 to 3/4 as few rows are looked at in a calm market (within 8 %), in a crash the fewest with 1/2;
linear shares cost a fifth more.
"""

from __future__ import annotations

import math

import numpy as np

from engine.core.kernels.compile import inlined, subkernel
from engine.core.kernels.margin import DEDUCTION, DEDUCTION_PPM, FLOOR, IS_INVERSE, RATE, VALUE_DEN, VALUE_NUM, tier_of
from engine.core.kernels.rows import INT64_MAX, balance_values, is_call_for_a_look, notionals_of, values_of
from engine.core.kernels.runs import next_position
from engine.core.kernels.segments import ALWAYS, NEVER, put_key
from engine.core.kernels.tables import (
    BASE,
    CALL_PPM,
    CALLED,
    CAPACITY,
    FLAGS,
    HEAD,
    IS_FIXED,
    NONE,
    PRICE,
    RATE_TOP,
    REARM_PPM,
    SETTLE,
    SWING_PPM,
    SYSTEM,
    TIERS_END,
    TIERS_FIRST,
    UNPRICED,
    WATCHED,
    WEIGHTS_FIRST,
)

FALLING, RISING = 0, 1
_PPM = 1e6
_UNIT = 1e8
# Kept back of every budget, for what floating point adds up wrongly.
_SAFETY = 1e-12
# More than rounding to float32 moves a number by.
_INWARD = 1.3e-7
# How far an asset's price may rise before the rows with positions in it are looked at whatever happens.
_ASSET_RISE = 1.05
# Swings are relative: that of an asset without a fixed price, beside those of instruments (their lowest rate).
_ASSET_SWING = 0.01


@inlined
def share_weight(swing, value):
    """Return a position's claim on the slack: the square root of swing x value."""
    return math.sqrt(swing * value + 1.0)


@inlined
def price_key(side, price):
    """Return what the keys of a side are compared with at a price."""
    return float(price) if side == FALLING else -float(price)


@inlined
def key_at(side, price):
    """Return the key that concerns the slot no later than at ``price``."""
    signed = price if side == FALLING else -price
    return np.float32(signed + abs(signed) * _INWARD)


@inlined
def margin_step(tiers, tier):
    """Return by how much margin jumps from one tier to the next at its floor: nothing in a marginal table."""
    floor = float(tiers[tier + 1, FLOOR])
    rate = float(tiers[tier + 1, RATE] - tiers[tier, RATE]) / _PPM
    deduction = float(tiers[tier + 1, DEDUCTION] - tiers[tier, DEDUCTION])
    deduction += float(tiers[tier + 1, DEDUCTION_PPM] - tiers[tier, DEDUCTION_PPM]) / _PPM
    step = floor * rate - deduction
    # What floating point leaves of a difference of equals is no jump.
    return step if step > (floor * rate + deduction) * 1e-9 else 0.0


@subkernel
def risen_notional(tiers, tier, notional, budget, per_margin, cost):
    """Return the notional at which a rise and the margin it brings, times ``per_margin``, have used up a budget.

    cost  what a unit of the rise itself takes: 1, or -1 where it brings profit
    """
    while True:
        slope = max(cost + float(tiers[tier, RATE]) / _PPM * per_margin, 0.0)
        if tier + 1 == tiers.shape[0]:
            return notional + budget / slope if slope > 0.0 else np.inf
        floor = float(tiers[tier + 1, FLOOR])
        distance = max(floor - notional, 0.0)
        if slope > 0.0 and distance * slope >= budget:
            return notional + budget / slope
        budget -= distance * slope
        step = margin_step(tiers, tier) * per_margin
        if step > budget:
            return floor
        budget -= step
        notional = floor
        tier += 1


@inlined
def fallen_notional(tiers, tier, notional, budget, per_margin, cost):
    """Return the notional at which a fall and the margin it frees, times ``per_margin``, have used up a budget.

    cost  what a unit of the fall itself takes: 1, or -1 where it brings a loss
    """
    slope = max(cost + float(tiers[tier, RATE]) / _PPM * per_margin, 0.0)
    fallen = notional - budget / slope if slope > 0.0 else 0.0
    while tier > 0:
        if margin_step(tiers, tier - 1) > 0.0:
            return max(fallen, float(tiers[tier, FLOOR]))
        tier -= 1
    return fallen


@inlined
def put_keys(t, position, falling, rising):
    """Store both keys of a position."""
    segment, slot = t.symbols[position.symbol], np.int64(position.slot)
    put_key(t.keys, FALLING, segment[BASE], segment[CAPACITY], slot, falling)
    put_key(t.keys, RISING, segment[BASE], segment[CAPACITY], slot, rising)


@inlined
def put_asset_keys(t, row, asset, falling, rising):
    """Store both keys of a row among those of an asset, if that has any."""
    segment = t.assets[asset]
    if segment[CAPACITY] != 0:
        put_key(t.keys, FALLING, segment[BASE], segment[CAPACITY], row, falling)
        put_key(t.keys, RISING, segment[BASE], segment[CAPACITY], row, rising)


@inlined
def has_stake(t, row, asset):
    """Return whether a row has a balance in an asset or a position that settles in it."""
    if t.balances[row, asset] != 0:
        return True
    id_ = t.rows[row, HEAD]
    while id_ != NONE:
        if t.symbols[t.positions[id_].symbol, SETTLE] == asset:
            return True
        id_ = next_position(t, id_)
    return False


@subkernel
def put_all_keys(t, row, falling):
    """Give all positions and assets of a row the same key: NEVER, or one that every price reaches."""
    id_ = t.rows[row, HEAD]
    while id_ != NONE:
        put_keys(t, t.positions[id_], falling, NEVER)
        id_ = next_position(t, id_)
    for asset in range(t.assets.shape[0]):
        if t.assets[asset, CAPACITY] != 0:
            put_asset_keys(t, row, asset, falling if has_stake(t, row, asset) else NEVER, NEVER)


@inlined
def share_row(t, row):
    """Share a row's slack out over its positions and assets anew."""
    flags = t.rows[row, FLAGS]
    if flags & SYSTEM or t.rows[row, UNPRICED] != 0:
        put_all_keys(t, row, NEVER)
        return
    if flags & WATCHED:
        put_all_keys(t, row, ALWAYS)
        return
    is_called = flags & CALLED != 0
    per_margin = 1.0 if is_called else _PPM / float(t.settings[CALL_PPM])
    per_rearm = _PPM / float(t.settings[REARM_PPM]) if t.settings[REARM_PPM] > 0 else 0.0
    equity, maintenance = balance_values(t, row), np.int64(0)
    claims, added_up, roundings = 0.0, abs(float(equity)), 4.0
    id_ = t.rows[row, HEAD]
    while id_ != NONE:
        position = t.positions[id_]
        pnl, margin, notional = values_of(t, position)
        equity += pnl
        maintenance += min(margin, INT64_MAX - maintenance)
        claims += share_weight(float(t.symbols[position.symbol, SWING_PPM]) / _PPM, float(notional))
        added_up += abs(float(pnl)) + float(notional)
        worth = float(t.assets[t.symbols[position.symbol, SETTLE], PRICE]) / _UNIT
        roundings += 4.0 * (1.0 + worth) * (1.0 + per_margin + per_rearm)
        id_ = next_position(t, id_)
    if is_call_for_a_look(t, flags, equity, maintenance):
        put_all_keys(t, row, ALWAYS)
        return
    for asset in range(t.assets.shape[0]):
        if t.assets[asset, CAPACITY] != 0 and has_stake(t, row, asset):
            balance, settled = asset_stakes(t, row, asset, per_margin)
            claims += asset_claim(balance, settled, float(t.assets[asset, PRICE]))
            roundings += 4.0
    margin = float(maintenance)
    kept = (added_up + margin * (per_margin + per_rearm)) * _SAFETY + roundings
    slack = float(equity) - margin * per_margin - kept
    excess = margin * per_rearm - float(equity) - kept
    # Without a re-arm ratio a called row is well only once it needs no margin at all: no excess says when.
    if slack <= 0.0 or (is_called and (per_rearm == 0.0 or excess <= 0.0)):
        put_all_keys(t, row, ALWAYS)
        return
    if claims == 0.0:
        put_all_keys(t, row, NEVER)
        return
    slack_per_claim, excess_per_claim = slack / claims, excess / claims
    if not is_called:
        excess_per_claim = -1.0
    id_ = t.rows[row, HEAD]
    while id_ != NONE:
        position = t.positions[id_]
        share_position(t, position, slack_per_claim, excess_per_claim, per_margin, per_rearm)
        id_ = next_position(t, id_)
    for asset in range(t.assets.shape[0]):
        if t.assets[asset, CAPACITY] != 0:
            share_asset(t, row, asset, slack_per_claim, excess_per_claim, per_margin, per_rearm)


@inlined
def share_position(t, position, slack_per_claim, excess_per_claim, per_margin, per_rearm):
    """Set the keys of a position to the prices at which it will have used up its budgets (< 0: it has none)."""
    spec = t.symbols[position.symbol]
    tiers = t.tiers[spec[TIERS_FIRST] : spec[TIERS_END]]
    asset = t.assets[spec[SETTLE]]
    worth = float(asset[PRICE]) / _UNIT
    # Notional a price step (linear) or times the price (inverse), in settlement units.
    scale = abs(float(position.size)) * float(spec[VALUE_NUM]) / float(spec[VALUE_DEN])
    is_inverse = spec[IS_INVERSE] != 0
    # The very figure that its claim was added up from: shares of more than the whole would be no bound.
    settled, counted = notionals_of(t, position)
    notional = float(settled)
    claim = share_weight(float(spec[SWING_PPM]) / _PPM, float(counted))
    highest = worth if asset[IS_FIXED] != 0 else worth * _ASSET_RISE
    kept = notional * _SAFETY + 2.0
    budget = max(slack_per_claim * claim / highest - kept, 0.0)
    rise = -1.0
    if excess_per_claim >= 0.0:
        rise = max(excess_per_claim * claim / highest - kept, 0.0)
    # A linear long and an inverse short lose with their notional.
    if (position.size > 0) != is_inverse:
        low, high = notional - budget, np.inf
        # Where each unit of notional brings more than its margin takes, a rise takes nothing.
        if float(spec[RATE_TOP]) * per_margin > _PPM:
            high = risen_notional(tiers, tier_of(tiers, settled), notional, budget, per_margin, -1.0)
        if rise >= 0.0:
            low = max(low, fallen_notional(tiers, tier_of(tiers, settled), notional, rise, per_rearm, -1.0))
            high = min(high, notional + rise)
    else:
        low, high = 0.0, risen_notional(tiers, tier_of(tiers, settled), notional, budget, per_margin, 1.0)
        if rise >= 0.0:
            low = fallen_notional(tiers, tier_of(tiers, settled), notional, rise, per_rearm, 1.0)
    low_price = 0.0 if low <= 0.0 else low / scale
    high_price = high / scale
    if is_inverse:
        # What is worth less than a unit and has nothing to lose is looked at whatever the price.
        low_price = scale / high if high > 0.0 else np.inf
        high_price = np.inf if low <= 0.0 else scale / low
    falling = NEVER if low_price <= 0.0 else key_at(FALLING, low_price)
    rising = NEVER if high_price == np.inf else key_at(RISING, high_price)
    put_keys(t, position, falling, rising)


@subkernel
def asset_stakes(t, row, asset, per_margin):
    """Return (balance at its largest weight, sum of PnL - margin x per_margin of what settles in it), in units."""
    balance = float(t.balances[row, asset])
    if balance > 0.0:
        balance *= float(t.weights[t.assets[asset, WEIGHTS_FIRST], 1]) / _PPM
    settled, worth = 0.0, float(t.assets[asset, PRICE]) / _UNIT
    id_ = t.rows[row, HEAD]
    while id_ != NONE:
        position = t.positions[id_]
        if t.symbols[position.symbol, SETTLE] == asset:
            pnl, margin, _ = values_of(t, position)
            settled += (float(pnl) - float(margin) * per_margin) / worth
        id_ = next_position(t, id_)
    return balance, settled


@inlined
def asset_claim(balance, settled, price):
    """Return the claim on the slack of a stake in an asset."""
    return share_weight(_ASSET_SWING, (abs(balance) + abs(settled)) * price / _UNIT)


@inlined
def share_asset(t, row, asset, slack_per_claim, excess_per_claim, per_margin, per_rearm):
    """Set a row's keys among those of an asset to the prices at which its stake will have used up its budgets."""
    if not has_stake(t, row, asset):
        put_asset_keys(t, row, asset, NEVER, NEVER)
        return
    price = float(t.assets[asset, PRICE])
    balance, settled = asset_stakes(t, row, asset, per_margin)
    claim = asset_claim(balance, settled, price)
    kept = (abs(balance) + abs(settled)) * price * _SAFETY / _UNIT + 2.0
    budget = max(slack_per_claim * claim - kept, 0.0) * _UNIT
    long_, short = max(balance, 0.0) + max(settled, 0.0), max(-balance, 0.0) + max(-settled, 0.0)
    low = price - budget / long_ if long_ > 0.0 else 0.0
    high = min(price * _ASSET_RISE, price + budget / short if short > 0.0 else np.inf)
    if excess_per_claim >= 0.0:
        balance, settled = asset_stakes(t, row, asset, per_rearm)
        rise = max(excess_per_claim * claim - kept, 0.0) * _UNIT
        long_, short = max(balance, 0.0) + max(settled, 0.0), max(-balance, 0.0) + max(-settled, 0.0)
        high = min(high, price + rise / long_ if long_ > 0.0 else np.inf)
        low = max(low, price - rise / short if short > 0.0 else 0.0)
    falling = NEVER if low <= 0.0 else key_at(FALLING, low)
    put_asset_keys(t, row, asset, falling, key_at(RISING, high))
