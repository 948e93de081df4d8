"""Whether what rows are worth may leave int64: floating-point bounds that only say where exact sums are to be made."""

from __future__ import annotations

from engine.core.kernels.compile import inlined, kernel
from engine.core.kernels.margin import IS_INVERSE, VALUE_DEN, VALUE_NUM, collateral_value
from engine.core.kernels.rows import values_of
from engine.core.kernels.tables import (
    BALANCE_MAX,
    COST_MAX,
    HEAD,
    NONE,
    PRICE,
    SETTLE,
    SIZE_MAX,
    WEIGHTS_END,
    WEIGHTS_FIRST,
)

# Beyond this a sum of floats cannot rule out that the exact one leaves int64.
_SURELY_INT64 = 9.2e18
_UNIT = 1e8


@inlined
def worth_of_symbol(t, symbol):
    """Return a bound on what a row's positions in a symbol are worth, both legs of a hedge together."""
    mark = float(symbol[PRICE])
    if mark == 0.0:
        return 0.0
    scale = float(symbol[SIZE_MAX]) * float(symbol[VALUE_NUM]) / float(symbol[VALUE_DEN])
    notional = scale / mark if symbol[IS_INVERSE] != 0 else scale * mark
    return 2.0 * (notional + float(symbol[COST_MAX])) * max(float(t.assets[symbol[SETTLE], PRICE]) / _UNIT, 1.0)


@kernel
def worth_bound(t):
    """Return a bound, in floating point, on what any row is worth at the prices there are."""
    bound = 0.0
    for symbol in range(t.symbols.shape[0]):
        bound += worth_of_symbol(t, t.symbols[symbol])
    for asset in range(t.assets.shape[0]):
        bound += float(t.assets[asset, BALANCE_MAX]) * float(t.assets[asset, PRICE]) / _UNIT
    return bound


@kernel
def next_vast_row(t, row, count):
    """Return the first row from ``row`` on whose equity, in floating point, may not fit in int64, or NONE."""
    for candidate in range(row, count):
        equity = 0.0
        for asset in range(t.assets.shape[0]):
            balance, price = t.balances[candidate, asset], t.assets[asset, PRICE]
            if balance != 0 and price != 0:
                weights = t.weights[t.assets[asset, WEIGHTS_FIRST] : t.assets[asset, WEIGHTS_END]]
                equity += float(collateral_value(weights, balance, price))
        id_ = t.rows[candidate, HEAD]
        while id_ != NONE:
            pnl, _, _ = values_of(t, t.positions[id_])
            equity += float(pnl)
            id_ = t.positions[id_].next
        if abs(equity) > _SURELY_INT64:
            return candidate
    return NONE
