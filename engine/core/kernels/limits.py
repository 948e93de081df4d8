"""Whether what rows are worth may leave int64: floating-point bounds that only say where exact sums are to be made."""

from __future__ import annotations

from engine.core.kernels.compile import inlined, kernel
from engine.core.kernels.margin import IS_INVERSE, VALUE_DEN, VALUE_NUM, collateral_value
from engine.core.kernels.rows import values_of
from engine.core.kernels.runs import next_position
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
# Below this all sums of a row do: its margin is at most its notional.
_SURELY_REACHED = 9.0e18
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
            id_ = next_position(t, id_)
        if abs(equity) > _SURELY_INT64:
            return candidate
    return NONE


@inlined
def is_within_reach(t, row, marks, prices):
    """Return whether what a row is worth surely fits in int64 at prices that go as far as these, which are all known.

    marks  int64[symbol]  the price at which a position's notional is largest; prices  int64[asset]  the highest
    A table that is shorter than the book, or 0, is a price that is not known.
    """
    bound = 0.0
    for asset in range(t.assets.shape[0]):
        if t.balances[row, asset] != 0:
            if asset >= prices.size or prices[asset] == 0:
                return False
            bound += abs(float(t.balances[row, asset])) * max(float(prices[asset]) / _UNIT, 1.0)
    id_ = t.rows[row, HEAD]
    while id_ != NONE:
        position = t.positions[id_]
        if position.symbol >= marks.size or t.symbols[position.symbol, SETTLE] >= prices.size:
            return False
        symbol = t.symbols[position.symbol]
        mark, price = float(marks[position.symbol]), float(prices[symbol[SETTLE]])
        if mark == 0.0 or price == 0.0:
            return False
        scale = abs(float(position.size)) * float(symbol[VALUE_NUM]) / float(symbol[VALUE_DEN])
        notional = scale / mark if symbol[IS_INVERSE] != 0 else scale * mark
        bound += (notional + abs(float(position.cost))) * max(price / _UNIT, 1.0)
        id_ = next_position(t, id_)
    return bound < _SURELY_REACHED
