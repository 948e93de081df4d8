"""Which accounts a new price (or a funding rate) moves, and which of them now need a look.

Two tables carry the state a price can change. ``holders`` is one symbol's open positions, int64[place, 7]: account
row, leg, size, cost, and the PnL, maintenance margin and notional (valuation units) that this position has in its
row's totals. ``state`` is int64[row, 6]: equity, maintenance margin and notional (sums of exact integers, so an
incremental update equals a full recompute), how many of the row's prices are unset, how many were not yet seen in the
log, flags.

A row is written to ``touched`` when its standing calls for a decision; the machine then examines it exactly. What is
written depends on sums only, never on the order of holders.
"""

from __future__ import annotations

from engine.core.kernels.arith import div_up, mul_div_rem
from engine.core.kernels.compile import inlined, kernel
from engine.core.kernels.margin import (
    VALUE_NUM,
    collateral_value,
    is_at_ratio,
    is_liquidatable,
    is_plain,
    notional_parts,
    plain_values,
    position_values,
)

ROW, LEG, SIZE, COST, PNL, MARGIN, NOTIONAL = 0, 1, 2, 3, 4, 5, 6
HOLDER_COLUMNS = 7
EQUITY, MAINTENANCE, GROSS, UNPRICED, COLD, FLAGS = 0, 1, 2, 3, 4, 5
STATE_COLUMNS = 6
# Flags of a row: an account of the engine's own is never examined; CALLED remembers that the margin call went out;
# WATCHED that a liquidation is under way or held, so that every change of price is looked at.
SYSTEM, CALLED, WATCHED = 1, 2, 4

_FUNDING_SCALE = 10**12


@inlined
def needs_a_look(equity, maintenance, unpriced, flags, below, call_ppm, rearm_ppm):
    """Return whether a row's standing calls for a decision of the machine."""
    if unpriced != 0 or flags & SYSTEM:
        return False
    if flags & WATCHED:
        return True
    if is_liquidatable(equity, maintenance, below):
        return True
    # Without positions only a debt can matter.
    if maintenance == 0 and equity < 0:
        return True
    if flags & CALLED:
        return not is_at_ratio(equity, maintenance, rearm_ppm)
    return is_at_ratio(equity, maintenance, call_ppm)


@inlined
def _overflows(before, change, after):
    """Return whether before + change = after wrapped around int64."""
    return ((before ^ after) & (change ^ after)) < 0


@kernel
def reprice_holders(holders, count, state, spec, tiers, price, asset_price, rule, touched):
    """Revalue one symbol's positions at ``price`` and list the rows that need a look.

    holders      int64[place, 7]  in and out: PnL, maintenance margin and notional are rewritten
    state        int64[row, 6]    in and out: equity, maintenance margin and notional move by the difference
    price        mark in price steps, > 0; asset_price: of the settlement asset, 1e-8 of the valuation currency
    rule         int64[3]         trigger is "below" (0/1), margin call ratio and re-arm ratio in ppm
    touched      int64[>= count]  out
    Returns the number of rows written to ``touched``, or -1 if a sum left int64 (the caller stops the shard).
    """
    found = 0
    plain, value_num = is_plain(spec, asset_price), spec[VALUE_NUM]
    below, call_ppm, rearm_ppm = rule[0] != 0, rule[1], rule[2]
    for place in range(count):
        row, size, cost = holders[place, ROW], holders[place, SIZE], holders[place, COST]
        if plain:
            pnl, margin, notional = plain_values(value_num, tiers, size, cost, price)
        else:
            pnl, margin, notional = position_values(spec, tiers, size, cost, price, asset_price)
        change = pnl - holders[place, PNL]
        equity = state[row, EQUITY] + change
        if _overflows(state[row, EQUITY], change, equity):
            return -1
        maintenance = state[row, MAINTENANCE] + margin - holders[place, MARGIN]
        state[row, EQUITY] = equity
        state[row, MAINTENANCE] = maintenance
        state[row, GROSS] += notional - holders[place, NOTIONAL]
        holders[place, PNL] = pnl
        holders[place, MARGIN] = margin
        holders[place, NOTIONAL] = notional
        if needs_a_look(equity, maintenance, state[row, UNPRICED], state[row, FLAGS], below, call_ppm, rearm_ppm):
            touched[found] = row
            found += 1
    return found


@kernel
def reprice_wallets(balances, values, count, state, weights, asset_price, rule, touched):
    """Revalue every wallet balance of one asset at ``asset_price``; twin of ``reprice_holders`` for collateral.

    balances, values  int64[row]  balance in units, its collateral value in valuation units (rewritten)
    """
    found = 0
    for row in range(count):
        if balances[row] == 0:
            continue
        value = collateral_value(weights, balances[row], asset_price)
        change = value - values[row]
        equity = state[row, EQUITY] + change
        if _overflows(state[row, EQUITY], change, equity):
            return -1
        state[row, EQUITY] = equity
        values[row] = value
        maintenance, unpriced, flags = state[row, MAINTENANCE], state[row, UNPRICED], state[row, FLAGS]
        if needs_a_look(equity, maintenance, unpriced, flags, rule[0] != 0, rule[1], rule[2]):
            touched[found] = row
            found += 1
    return found


@kernel
def funding_payment(spec, size, price, rate):
    """Return what a position pays (> 0) or receives (< 0) for ``rate`` (1e-12), rounded up: against the account."""
    floor, remainder, divisor = notional_parts(spec, abs(size), price)
    magnitude = abs(rate)
    quotient, left = mul_div_rem(floor, magnitude, _FUNDING_SCALE)
    extra, more = mul_div_rem(remainder, magnitude, divisor)
    if (size > 0) == (rate > 0):
        return quotient + div_up(left + extra + (1 if more > 0 else 0), _FUNDING_SCALE)
    return -(quotient + (left + extra) // _FUNDING_SCALE)


@kernel
def pay_funding(holders, count, spec, price, rate, payments):
    """Write what each holder pays into ``payments`` (int64[>= count], settlement units) for the ledger to post."""
    for place in range(count):
        payments[place] = funding_payment(spec, holders[place, SIZE], price, rate)


@kernel
def count_unready(holders, count, state, column, change):
    """Add ``change`` to a counter column of ``state`` once for each position of a symbol."""
    for place in range(count):
        state[holders[place, ROW], column] += change


@kernel
def count_unready_wallets(balances, count, state, column, change):
    """Add ``change`` to a counter column of ``state`` for each row with a balance in one asset."""
    for row in range(count):
        if balances[row] != 0:
            state[row, column] += change
