"""Whether what rows are worth may leave int64: floating-point bounds that only say where exact sums are to be made."""

from __future__ import annotations

from engine.core.kernels.compile import inlined, kernel
from engine.core.kernels.margin import IS_INVERSE, VALUE_DEN, VALUE_NUM, collateral_value
from engine.core.kernels.rows import row_standing, values_of
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
# Far from all bounds that a fill is refused for (``intake.try_room``): of one position, and of a row in all.
_SURELY_HELD, _SURELY_BORNE = 1.0e18, 7.0e18
_UNIT = 1e8


@inlined
def worth_at(spec, size, price):
    """Return what ``size`` (>= 0) is worth at ``price``, in settlement units, in floating point."""
    scale = float(size) * float(spec[VALUE_NUM]) / float(spec[VALUE_DEN])
    return scale / float(price) if spec[IS_INVERSE] != 0 else scale * float(price)


@inlined
def worth_of_symbol(t, symbol):
    """Return a bound on what a row's positions in a symbol are worth, both legs of a hedge together."""
    if symbol[PRICE] == 0:
        return 0.0
    notional = worth_at(symbol, symbol[SIZE_MAX], symbol[PRICE])
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
        mark, price = marks[position.symbol], prices[symbol[SETTLE]]
        if mark == 0 or price == 0:
            return False
        notional = worth_at(symbol, abs(position.size), mark)
        bound += (notional + abs(float(position.cost))) * max(float(price) / _UNIT, 1.0)
        id_ = next_position(t, id_)
    return bound < _SURELY_REACHED


@inlined
def is_cash_small(spec, asset_price, size, price, held, cost, balance, fee):
    """Return whether a fill of ``size`` (>= 0) moves so little that no sum or product that it takes leaves int64.

    held, cost  of the position before, balance  of its settlement asset; fee  in its units, which ``asset_price`` is of
    """
    # Of a linear contract's notional the lesser number is multiplied first, an inverse one's is wide (``margin.py``).
    product = 0.0 if spec[IS_INVERSE] != 0 else float(min(size, price)) * float(spec[VALUE_NUM])
    worth, moved = max(float(asset_price) / _UNIT, 1.0), worth_at(spec, size, price) + abs(float(fee))
    if max(moved * worth, abs(float(held)), float(max(size, price)), product) >= _SURELY_HELD:
        return False
    return (moved + abs(float(balance)) + abs(float(cost))) * worth < _SURELY_BORNE


@inlined
def has_room(t, row, spec, size, price):
    """Return whether a row may surely hold ``size`` (>= 0) of a symbol, beside all it holds, traded at ``price``."""
    at = min(price, spec[PRICE]) if spec[IS_INVERSE] != 0 else max(price, spec[PRICE])
    worth = worth_at(spec, size, at) * max(float(t.assets[spec[SETTLE], PRICE]) / _UNIT, 1.0)
    _, _, gross = row_standing(t, row)
    total = worth + float(gross)
    for asset in range(t.assets.shape[0]):
        total += abs(float(t.balances[row, asset])) * max(float(t.assets[asset, PRICE]) / _UNIT, 1.0)
    return worth < _SURELY_HELD and total < _SURELY_BORNE
