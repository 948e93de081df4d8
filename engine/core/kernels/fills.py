"""A usual fill, posted in one call: what ``intake.apply_fill`` does of it to a row, and not a fill more.

Almost every fill is of one kind: of an account and a symbol that are known and priced, with no more digits than there
are steps, far from every bound. Such a fill is posted here as ``ledger.fill`` and ``ledger.pay_fee`` would; of any
other nothing is changed and nothing is said but that it is none, and the machine takes it in full. So nothing is
refused here. Whether the machine has to look at the row afterwards is told, too.
"""

from __future__ import annotations

import numpy as np

from engine.core.kernels.arith import POWERS_OF_TEN, mul_div_floor, times_power_of_ten
from engine.core.kernels.compile import inlined, kernel, subkernel
from engine.core.kernels.limits import has_room, is_cash_small
from engine.core.kernels.lines import (
    FEE,
    FEE_PLACES,
    ISOLATED,
    LEG,
    LONG,
    NET,
    PRICE_PLACES,
    QTY,
    QTY_PLACES,
    SELL,
    SHORT,
    SIDE,
)
from engine.core.kernels.lines import PRICE as LINE_PRICE
from engine.core.kernels.margin import IS_INVERSE, notional_parts
from engine.core.kernels.rows import is_call_for_a_look, put_balance, put_position, row_standing
from engine.core.kernels.runs import has_run, next_position
from engine.core.kernels.tables import (
    CAPACITY,
    COUNT,
    FLAGS,
    GAP_UNPRICED,
    HEAD,
    LOT_STEPS,
    NONE,
    PRICE,
    PRICE_DECIMALS,
    SETTLE,
    SIZE_DECIMALS,
    STEP_UNITS,
    UNPRICED,
    WATCHED,
)

# What became of a fill: nothing, it is not usual; posted; posted, and the machine has to look at the row.
UNUSUAL, POSTED, IN_NEED = 0, 1, 2
_STEPS_MAX = 4 * 10**18
_UNIT_DECIMALS = 8
_NOTHING = np.int64(0)


@inlined
def exact_steps(mantissa, places, decimals):
    """Return mantissa / 10**places (>= 0) in steps of 10**-decimals; 0 where it has more digits or may not fit."""
    if places <= decimals:
        return times_power_of_ten(mantissa, decimals - places, _STEPS_MAX)
    shift = places - decimals
    if shift > 18 or mantissa % POWERS_OF_TEN[shift] != 0:
        return _NOTHING
    return mantissa // POWERS_OF_TEN[shift]


@kernel
def post_fill(t, fills, place, row, symbol):
    """Post a fill and its fee to a cross row, if it is a usual one; return (what became of it, size, cash, fee).

    size  signed steps; cash  signed settlement units, what the row received; fee  in the same, what it paid

    fills  int64[fill, 21]  as ``read_lines_into`` leaves them (``lines.py``); this one stands at ``place``

    The caller has made sure that the account has no bucket of the symbol and is none of the engine's own, and that the
    fill is new and answers no order. Cash and what is realised are rounded down, each part of a fill that crosses zero
    apart; see ``ledger.py``, which takes the other side.
    """
    spec, leg = t.symbols[symbol], fills[place, LEG]
    asset = spec[SETTLE]
    size = exact_steps(fills[place, QTY], fills[place, QTY_PLACES], spec[SIZE_DECIMALS])
    price = exact_steps(fills[place, LINE_PRICE], fills[place, PRICE_PLACES], spec[PRICE_DECIMALS])
    fee = _NOTHING
    if fills[place, FEE_PLACES] >= 0 and fills[place, FEE] != 0:
        fee = exact_steps(abs(fills[place, FEE]), fills[place, FEE_PLACES], _UNIT_DECIMALS)
        if fee == 0 or fee % t.assets[asset, STEP_UNITS] != 0:
            return UNUSUAL, _NOTHING, _NOTHING, _NOTHING
        fee = fee if fills[place, FEE] > 0 else -fee
    if size == 0 or price == 0 or size % spec[LOT_STEPS] != 0 or fills[place, ISOLATED] != 0:
        return UNUSUAL, _NOTHING, _NOTHING, _NOTHING
    if spec[GAP_UNPRICED] != 0 or t.rows[row, UNPRICED] != 0:
        return UNUSUAL, _NOTHING, _NOTHING, _NOTHING

    # What the row holds of the symbol: this leg, and none that may not stand beside it.
    held, cost, count, is_new, id_ = _NOTHING, _NOTHING, _NOTHING, True, np.int64(t.rows[row, HEAD])
    while id_ != NONE:
        position = t.positions[id_]
        if position.symbol == symbol:
            if (position.leg == NET) != (leg == NET):
                return UNUSUAL, _NOTHING, _NOTHING, _NOTHING
            if position.leg == leg:
                held, cost, is_new = position.size, position.cost, False
        count += 1
        id_ = next_position(t, id_)
    if is_new and spec[COUNT] == spec[CAPACITY]:
        return UNUSUAL, _NOTHING, _NOTHING, _NOTHING
    asset_price, balance = t.assets[asset, PRICE], t.balances[row, asset]
    if not is_cash_small(spec, asset_price, size, price, held, cost, balance, fee):
        return UNUSUAL, _NOTHING, _NOTHING, _NOTHING
    size = -size if fills[place, SIDE] == SELL else size
    after = held + size
    if (leg == LONG and after < 0) or (leg == SHORT and after > 0):
        return UNUSUAL, _NOTHING, _NOTHING, _NOTHING
    if abs(after) > abs(held) and not has_room(t, row, spec, abs(after), price):
        return UNUSUAL, _NOTHING, _NOTHING, _NOTHING

    # What crosses zero closes the old position wholly and opens a new one.
    is_crossing = held != 0 and after != 0 and (held > 0) != (after > 0)
    # One that is closed leaves its run to the next; only the shorter one in between must be there.
    if (is_new and not has_run(t, count + 1)) or (is_crossing and count > 1 and not has_run(t, count - 1)):
        return UNUSUAL, _NOTHING, _NOTHING, _NOTHING

    # From here on it is posted.
    cash = post_part(t, row, symbol, leg, held, cost, -held if is_crossing else size, price)
    if is_crossing:
        cash += post_part(t, row, symbol, leg, _NOTHING, _NOTHING, after, price)
    if fee != 0:
        put_balance(t, row, asset, t.balances[row, asset] - fee)
    equity, maintenance, _ = row_standing(t, row)
    flags = t.rows[row, FLAGS]
    is_in_need = flags & WATCHED != 0 or is_call_for_a_look(t, flags, equity, maintenance)
    return IN_NEED if is_in_need else POSTED, size, cash, fee


@subkernel
def post_part(t, row, symbol, leg, held, cost, size, price):
    """Change a position of ``held`` and ``cost`` by ``size``, without crossing zero; return the signed cash."""
    spec = t.symbols[symbol]
    floor, remainder, _ = notional_parts(spec, abs(size), price)
    # Who sells a linear contract, or buys an inverse one, receives the notional rounded down; else it is paid, up.
    if (size > 0) == (spec[IS_INVERSE] != 0):
        cash = floor
    else:
        cash = -floor - (1 if remainder > 0 else 0)
    if held == 0 or (held > 0) == (size > 0):
        put_position(t, row, symbol, leg, held + size, cost + cash)
        return cash
    released = mul_div_floor(cost, abs(size), abs(held))
    asset = spec[SETTLE]
    put_position(t, row, symbol, leg, held + size, cost - released)
    put_balance(t, row, asset, t.balances[row, asset] + cash + released)
    return cash
