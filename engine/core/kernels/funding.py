"""What a funding rate makes each position pay or receive."""

from __future__ import annotations

from engine.core.kernels.arith import div_up, mul_div_rem
from engine.core.kernels.compile import inlined, kernel
from engine.core.kernels.margin import notional_parts
from engine.core.kernels.rows import held_at
from engine.core.kernels.tables import BASE, COUNT, PRICE

_FUNDING_SCALE = 10**12


@inlined
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
def funding_payments_into(t, symbol, rate, payments):
    """Write row and payment (settlement units) of each holder of a symbol into int64[>= holders, 2]."""
    segment = t.symbols[symbol]
    for slot in range(segment[COUNT]):
        payments[slot, 0] = t.holders[segment[BASE] + slot]
        payments[slot, 1] = funding_payment(segment, t.positions[held_at(t, symbol, slot)].size, segment[PRICE], rate)
