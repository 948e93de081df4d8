"""How the oracle reads, rounds and prints decimals: exact fractions in, the shortest decimal string out.

Shares nothing with ``engine.units`` on purpose: two readings of one page that agree are worth more than one.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import ceil, floor

UNIT = 10**8  # money is counted in 1e-8 of its asset, whatever decimals the asset itself has
DECIMALS_MAX = 60  # more than any product of contract numbers needs; a longer one is not a finite decimal

_PLAIN = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)


def decimal(value: str | int) -> Fraction:
    """Return a contract number exactly; floats, exponents and signs other than ``-`` raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, str | int) or not _PLAIN.fullmatch(str(value)):
        raise ValueError(f"{value!r} is not a plain decimal")
    return Fraction(value)


def step_decimals(step: Fraction) -> int:
    """Return the decimals of a step size: 3 for 0.001, 0 for 5, -3 for 1000."""
    decimals = 0
    while (step * Fraction(10) ** decimals).denominator != 1:
        decimals += 1
    while (step * Fraction(10) ** (decimals - 1)).denominator == 1:
        decimals -= 1
    return decimals


def half_even(value: Fraction, decimals: int) -> Fraction:
    """Return ``value`` rounded half to even to ``decimals`` decimals (negative: to tens, hundreds, ...)."""
    scale = Fraction(10) ** decimals
    return round(value * scale) / scale


def units_floor(value: Fraction) -> int:
    """Return an amount in units of 1e-8, down: the side for whatever an account owns."""
    return floor(value * UNIT)


def units_up(value: Fraction) -> int:
    """Return an amount in units of 1e-8, up: the side for whatever an account must hold."""
    return ceil(value * UNIT)


def units_half_even(value: Fraction) -> int:
    """Return an amount in units of 1e-8, half to even: for a loaded cost, which favours nobody."""
    return round(value * UNIT)


def show(value: Fraction) -> str:
    """Return a finite decimal in its shortest plain form: no exponent, no trailing zeros, never ``-0``."""
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
        if places > DECIMALS_MAX:
            raise ValueError(f"{value} has no finite decimal form")
    digits = str(abs(value.numerator * 10**places // value.denominator)).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def show_units(units: int) -> str:
    """Return an amount in units of 1e-8 as a decimal string."""
    return show(Fraction(units, UNIT))
