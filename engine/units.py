"""How a decimal becomes an integer and back, and which way each division rounds.

Three integer scales carry everything that decides or moves money:

* money   1e-8 of its asset (``UNIT``), or of the valuation currency
* rates   parts per million (``PPM``); funding rates parts per 1e12 (``FUNDING_SCALE``)
* prices and sizes   steps whose decimals add up to 8, so that size x price is money exactly

Python ints are exact and unbounded; the int64 twins for kernels are in ``core/kernels/arith.py``.
"""

from __future__ import annotations

import re

UNIT = 100_000_000
UNIT_DECIMALS = 8
PPM = 1_000_000
PPM_DECIMALS = 6
FUNDING_SCALE = 10**12
FUNDING_DECIMALS = 12
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
INT64_MAX = 2**63 - 1

# $40B in units: a position's largest notional. Twice this still fits in int64, with room for a sum.
POSITION_UNITS_MAX = 4 * 10**18
# $80B in units: an account's largest gross notional plus collateral.
ACCOUNT_UNITS_MAX = 8 * 10**18

# An exact decimal number: (mantissa, places), value = mantissa / 10**places, places >= 0, no trailing zeros.
Number = tuple[int, int]

_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?", re.ASCII)
# Longer than any number a venue prints; bounds the work a hostile line can ask for.
NUMBER_CHARS_MAX = 64


def try_number(text: str) -> Number | None:
    """Return the exact value of a plain decimal such as ``-0.50``, or None if it is anything else.

    Refused: exponents, a leading ``+``, ``NaN``, infinities, spaces, ``.5``, ``5.``, more than 64 characters.
    """
    if len(text) > NUMBER_CHARS_MAX or _DECIMAL.fullmatch(text) is None:
        return None
    whole, point, fraction = text.partition(".")
    if point:
        fraction = fraction.rstrip("0")
        return int(whole + fraction), len(fraction)
    return int(whole), 0


def number_decimals(number: Number) -> int:
    """Return the decimals of a step size: 3 for 0.001, 0 for 5, -3 for 1000."""
    mantissa, places = number
    if places or mantissa == 0:
        return places
    decimals = 0
    while mantissa % 10 == 0:
        mantissa, decimals = mantissa // 10, decimals - 1
    return decimals


def try_scaled(number: Number, decimals: int) -> int | None:
    """Return ``number`` x 10**decimals if that is an integer, else None (it has surplus digits)."""
    mantissa, places = number
    if places <= decimals:
        return int(mantissa * 10 ** (decimals - places))
    quotient, rest = divmod(mantissa, 10 ** (places - decimals))
    return None if rest else quotient


def try_units(text: str) -> int | None:
    """Return a plain decimal in units, or None if it is anything else or has surplus digits."""
    number = try_number(text)
    return None if number is None else try_scaled(number, UNIT_DECIMALS)


def scaled_half_even(number: Number, decimals: int) -> int:
    """Return ``number`` x 10**decimals rounded half to even (marks and asset prices only)."""
    mantissa, places = number
    if places <= decimals:
        return int(mantissa * 10 ** (decimals - places))
    return div_half_even(mantissa, 10 ** (places - decimals))


def div_half_even(numerator: int, denominator: int) -> int:
    """Return numerator / denominator rounded half to even; denominator > 0."""
    quotient, rest = divmod(numerator, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and quotient & 1):
        quotient += 1
    return quotient


def div_up(numerator: int, denominator: int) -> int:
    """Return numerator / denominator rounded toward plus infinity; denominator > 0."""
    return -(-numerator // denominator)


def format_scaled(value: int, decimals: int) -> str:
    """Return ``value`` / 10**decimals in its shortest plain form: no exponent, no trailing zeros, never ``-0``."""
    if decimals <= 0:
        return str(value * 10**-decimals)
    sign = "-" if value < 0 else ""
    whole, fraction = divmod(abs(value), 10**decimals)
    if fraction == 0:
        return f"{sign}{whole}"
    return f"{sign}{whole}.{fraction:0{decimals}d}".rstrip("0")


def format_units(units: int) -> str:
    """Return an amount of money as a decimal string."""
    return format_scaled(units, UNIT_DECIMALS)


def format_ppm(ppm: int) -> str:
    """Return a rate as a decimal string."""
    return format_scaled(ppm, PPM_DECIMALS)


def format_number(number: Number) -> str:
    """Return an exact decimal as a string."""
    return format_scaled(number[0], number[1])
