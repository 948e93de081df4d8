"""Exact integer arithmetic for kernels: 128-bit products, divisions that say which way they round.

numba wraps int64 silently and turns int64 mixed with uint64 into float64, so wide values are pairs of uint64 and
every constant is typed. Twins in Python ints: ``a * b // c`` and ``engine.units.div_up``.
"""

from __future__ import annotations

import numpy as np

from engine.core.kernels.compile import inlined, subkernel

# Those of ten that fit in int64.
POWERS_OF_TEN = np.array([10**power for power in range(19)], dtype=np.int64)

_MASK32 = np.uint64(0xFFFFFFFF)
_U32 = np.uint64(32)
_U1 = np.uint64(1)
_U0 = np.uint64(0)
_U63 = np.uint64(63)
_BASE = np.uint64(1 << 32)
# Both factors below this: their product fits in int64 and the plain path is exact.
_NARROW = np.int64(3_037_000_499)


@inlined
def mul_wide(left, right):
    """Return the 128-bit product of two uint64 as (high, low)."""
    left_high, left_low = left >> _U32, left & _MASK32
    right_high, right_low = right >> _U32, right & _MASK32
    low = left_low * right_low
    middle = left_high * right_low + (low >> _U32)
    carry = left_low * right_high + (middle & _MASK32)
    high = left_high * right_high + (middle >> _U32) + (carry >> _U32)
    return high, (carry << _U32) | (low & _MASK32)


@subkernel
def div_wide(high, low, divisor):
    """Return quotient and remainder of (high, low) / divisor, all uint64; needs high < divisor.

    Knuth's algorithm D with two 32-bit digits (TAOCP 4.3.1).
    """
    if high == _U0:
        return low // divisor, low % divisor
    shift = _U0
    normal = divisor
    while (normal >> _U63) == _U0:
        normal <<= _U1
        shift += _U1
    if shift != _U0:
        high = (high << shift) | (low >> (np.uint64(64) - shift))
        low <<= shift
    normal_high, normal_low = normal >> _U32, normal & _MASK32
    low_high, low_low = low >> _U32, low & _MASK32

    upper = high // normal_high
    rest = high % normal_high
    while upper >= _BASE or upper * normal_low > ((rest << _U32) | low_high):
        upper -= _U1
        rest += normal_high
        if rest >= _BASE:
            break
    middle = ((high << _U32) | low_high) - upper * normal

    lower = middle // normal_high
    rest = middle % normal_high
    while lower >= _BASE or lower * normal_low > ((rest << _U32) | low_low):
        lower -= _U1
        rest += normal_high
        if rest >= _BASE:
            break
    remainder = (((middle << _U32) | low_low) - lower * normal) >> shift
    return (upper << _U32) | lower, remainder


@inlined
def mul_div_rem(left, right, divisor):
    """Return (quotient, remainder) of left x right / divisor for non-negative int64, divisor > 0.

    Assumes the quotient fits in int64, which ingest checks (POSITION_UNITS_MAX).
    """
    if left < _NARROW and right < _NARROW:
        product = left * right
        quotient = product // divisor
        return quotient, product - quotient * divisor
    high, low = mul_wide(np.uint64(left), np.uint64(right))
    wide_quotient, wide_remainder = div_wide(high, low, np.uint64(divisor))
    return np.int64(wide_quotient), np.int64(wide_remainder)


@inlined
def mul_div_floor(left, right, divisor):
    """Return left x right / divisor rounded down; left signed, right >= 0, divisor > 0."""
    if left >= 0:
        quotient, _ = mul_div_rem(left, right, divisor)
        return quotient
    quotient, remainder = mul_div_rem(-left, right, divisor)
    return -quotient - (1 if remainder > 0 else 0)


@inlined
def mul_div_up(left, right, divisor):
    """Return left x right / divisor rounded up; left signed, right >= 0, divisor > 0."""
    return -mul_div_floor(-left, right, divisor)


@inlined
def div_up(numerator, divisor):
    """Return numerator / divisor rounded up; divisor > 0."""
    return -((-numerator) // divisor)


@inlined
def times_power_of_ten(number, power, most):
    """Return number x 10**power (both >= 0), or 0 where that is more than ``most``."""
    if power > 18 or number > most // POWERS_OF_TEN[power]:
        return np.int64(0)
    return number * POWERS_OF_TEN[power]
