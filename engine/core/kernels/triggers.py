"""Which rows a new price concerns, without looking at the others: the trigger index.

A row needs a look once its *slack* is used up: F = E - MM / c, where c is the margin call ratio, or 1 for a row whose
margin call went out. Such a row needs one, too, once it is well again: once its *excess* G = MM / r - E is used up,
where r is the re-arm ratio. Both are sums over the row's positions and balances, and each of these moves with one
price (a position in an asset without a fixed price: with two, see below). So the slack, and for a called row the
excess, is shared out as budgets over them, and each gets the two prices at which it alone will have used its budget
up: the *keys* of the position among the holders of its symbol (``segments.py``). While every price is strictly on the
safe side of its keys no budget is exceeded, so the slack is not used up, so the row does not need a look. Where a
price reaches a key the row is looked at exactly (``rows.py``). A key decides when somebody looks, never what comes of
it: how the slack is split changes the cost of a tick, not its outputs.

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

The share of a position goes with (swing x notional) ** (5/8), swing standing for how far its price may move: the best
split lies near the power 2/3, and this one costs four square roots.
"""

from __future__ import annotations

import math

import numpy as np

from engine.core.kernels.compile import inlined, kernel
from engine.core.kernels.margin import (
    DEDUCTION,
    DEDUCTION_PPM,
    FLOOR,
    IS_INVERSE,
    RATE,
    VALUE_DEN,
    VALUE_NUM,
    notional_parts,
    tier_of,
)
from engine.core.kernels.rows import (
    INT64_MAX,
    balance_values,
    is_call_for_a_look,
    mark_stale,
    needs_a_look,
    needs_look,
    values_of,
)
from engine.core.kernels.segments import ALWAYS, NEVER, next_crossed, put_key, top_key
from engine.core.kernels.tables import (
    BASE,
    CALL_PPM,
    CALLED,
    CAPACITY,
    COUNT,
    FLAGS,
    HEAD,
    IS_FIXED,
    NONE,
    PRICE,
    REARM_PPM,
    SETTLE,
    STALE,
    STALE_COUNT,
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
    """Return a position's claim on the slack: (swing x value) ** (5/8)."""
    exposure = math.sqrt(swing * value + 1.0)
    return exposure * math.sqrt(math.sqrt(exposure))


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


@kernel
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
    segment = t.symbols[position.symbol]
    put_key(t.keys, FALLING, segment[BASE], segment[CAPACITY], position.slot, falling)
    put_key(t.keys, RISING, segment[BASE], segment[CAPACITY], position.slot, rising)


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
        id_ = t.positions[id_].next
    return False


@kernel
def put_all_keys(t, row, falling):
    """Give all positions and assets of a row the same key: NEVER, or one that every price reaches."""
    id_ = t.rows[row, HEAD]
    while id_ != NONE:
        put_keys(t, t.positions[id_], falling, NEVER)
        id_ = t.positions[id_].next
    for asset in range(t.assets.shape[0]):
        if t.assets[asset, CAPACITY] != 0:
            put_asset_keys(t, row, asset, falling if has_stake(t, row, asset) else NEVER, NEVER)


@kernel
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
        id_ = position.next
    if is_call_for_a_look(t, flags, equity, maintenance):
        put_all_keys(t, row, ALWAYS)
        return
    for asset in range(t.assets.shape[0]):
        if t.assets[asset, CAPACITY] != 0 and has_stake(t, row, asset):
            claims += asset_claim(t, row, asset, per_margin)
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
        id_ = position.next
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
    notional_floor, _, _ = notional_parts(spec, abs(position.size), spec[PRICE])
    tier, notional = tier_of(tiers, notional_floor), float(notional_floor)
    # Of the very figure that its claim was added up from: shares of more than the whole would be no bound.
    _, _, counted = values_of(t, position)
    claim = share_weight(float(spec[SWING_PPM]) / _PPM, float(counted))
    highest = worth if asset[IS_FIXED] != 0 else worth * _ASSET_RISE
    kept = notional * _SAFETY + 2.0
    budget = max(slack_per_claim * claim / highest - kept, 0.0)
    rise = -1.0
    if excess_per_claim >= 0.0:
        rise = max(excess_per_claim * claim / highest - kept, 0.0)
    # A linear long and an inverse short lose with their notional.
    if (position.size > 0) != is_inverse:
        low, high = notional - budget, risen_notional(tiers, tier, notional, budget, per_margin, -1.0)
        if rise >= 0.0:
            low = max(low, fallen_notional(tiers, tier, notional, rise, per_rearm, -1.0))
            high = min(high, notional + rise)
    else:
        low, high = 0.0, risen_notional(tiers, tier, notional, budget, per_margin, 1.0)
        if rise >= 0.0:
            low = fallen_notional(tiers, tier, notional, rise, per_rearm, 1.0)
    low_price = 0.0 if low <= 0.0 else low / scale
    high_price = high / scale
    if is_inverse:
        # What is worth less than a unit and has nothing to lose is looked at whatever the price.
        low_price = scale / high if high > 0.0 else np.inf
        high_price = np.inf if low <= 0.0 else scale / low
    falling = NEVER if low_price <= 0.0 else key_at(FALLING, low_price)
    rising = NEVER if high_price == np.inf else key_at(RISING, high_price)
    put_keys(t, position, falling, rising)


@kernel
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
        id_ = position.next
    return balance, settled


@kernel
def asset_claim(t, row, asset, per_margin):
    """Return a stake's claim on the slack."""
    balance, settled = asset_stakes(t, row, asset, per_margin)
    return share_weight(_ASSET_SWING, (abs(balance) + abs(settled)) * float(t.assets[asset, PRICE]) / _UNIT)


@kernel
def share_asset(t, row, asset, slack_per_claim, excess_per_claim, per_margin, per_rearm):
    """Set a row's keys among those of an asset to the prices at which its stake will have used up its budgets."""
    if not has_stake(t, row, asset):
        put_asset_keys(t, row, asset, NEVER, NEVER)
        return
    price = float(t.assets[asset, PRICE])
    claim = asset_claim(t, row, asset, per_margin)
    balance, settled = asset_stakes(t, row, asset, per_margin)
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


@kernel
def share_stale(t):
    """Share the slack of all stale rows out anew; to be called before a price is put in force."""
    for index in range(t.settings[STALE_COUNT]):
        row = np.int64(t.stale[index])
        t.rows[row, FLAGS] &= ~STALE
        share_row(t, row)
    t.settings[STALE_COUNT] = 0


@kernel
def concerned_rows_into(t, symbol, found_rows):
    """Write the holders of a symbol that need a look at its mark; return how many (a row may occur twice).

    The slack of each row that was looked at is to be shared out anew. found_rows  int64[>= 2 x holders]
    """
    segment, found = t.symbols[symbol], 0
    base, capacity = segment[BASE], segment[CAPACITY]
    if segment[COUNT] == 0:
        return found
    for side in range(2):
        price = price_key(side, segment[PRICE])
        if top_key(t.keys, side, base, capacity) < price:
            continue
        slot = next_crossed(t.keys, side, base, capacity, 0, price)
        while slot >= 0:
            row = np.int64(t.positions[t.holders[base + slot]].row)
            mark_stale(t, row)
            if needs_look(t, row):
                found_rows[found] = row
                found += 1
            slot = next_crossed(t.keys, side, base, capacity, slot + 1, price)
    return found


@kernel
def concerned_by_asset_into(t, asset, found_rows):
    """Write the rows that need a look at an asset's price; twin of ``concerned_rows_into``."""
    segment, found = t.assets[asset], 0
    base, capacity = segment[BASE], segment[CAPACITY]
    if capacity == 0:
        return found
    for side in range(2):
        price = price_key(side, t.assets[asset, PRICE])
        slot = next_crossed(t.keys, side, base, capacity, 0, price)
        while slot >= 0:
            mark_stale(t, slot)
            if needs_a_look(t, slot):
                found_rows[found] = slot
                found += 1
            slot = next_crossed(t.keys, side, base, capacity, slot + 1, price)
    return found


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
        id_ = position.next
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
    """Write the holders of a symbol that need a look, each looked at; return how many (a row may occur twice)."""
    segment, found = t.symbols[symbol], 0
    for slot in range(segment[COUNT]):
        row = np.int64(t.positions[t.holders[segment[BASE] + slot]].row)
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
