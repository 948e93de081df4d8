"""Which unit a file's times are in, and how a time becomes int64 nanoseconds UTC.

The unit is read off the magnitude of the first time; the bands meet where no market data can lie:

    s    0     .. 1e11   (year 5138)
    ms   1e11  .. 1e14   (1973-03-03 .. 5138)
    us   1e14  .. 1e17   (1973-03-03 .. 5138)
    ns   1e17  .. 2**63  (1973-03-03 .. 2262)

A later row whose time falls outside the file's band is in another unit, or damaged: it is refused, since taking it
a thousandfold wrong would move the clock. Instead of a number a time may be ISO 8601 in UTC
(``2023-02-27T15:02:26Z``, up to nine decimals of a second), shown as unit ``iso``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from engine.edges.readers.rows import BadRow, shown
from engine.units import INT64_MAX, NS_PER_MS, NS_PER_S

Clock = Callable[[str], int]

# unit -> (nanoseconds, first value of its band, first value past its band)
UNITS = {
    "s": (NS_PER_S, 0, 10**11),
    "ms": (NS_PER_MS, 10**11, 10**14),
    "us": (10**3, 10**14, 10**17),
    "ns": (1, 10**17, INT64_MAX + 1),
}
ISO = "iso"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NS_DIGITS = 9
TIME_DIGITS_MAX = 19

_ISO_UTC = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:00)", re.ASCII)


def try_unit(text: str) -> str | None:
    """Return the unit of a time by its magnitude, ``iso`` for ISO 8601, None if it is no time."""
    if _ISO_UTC.fullmatch(text):
        return ISO
    if not _is_whole(text):
        return None
    value = int(text)
    return next((unit for unit, (_, low, high) in UNITS.items() if low <= value < high), None)


def clock_of(unit: str, column: str) -> Clock:
    """Return the function that turns a cell of ``column`` into nanoseconds; it refuses times of another unit."""
    if unit == ISO:
        return lambda text: iso_ns(column, text)
    factor, low, high = UNITS[unit]

    def clock(text: str) -> int:
        if not _is_whole(text):
            raise _no_time(column, text, f"whole {unit} since 1970")
        value = int(text)
        if not low <= value < high or value * factor > INT64_MAX:
            raise BadRow("out_of_range", f"{column}: {text} is not a time in {unit}, the unit of this file")
        return value * factor

    return clock


def iso_ns(column: str, text: str) -> int:
    """Return an ISO 8601 UTC time in nanoseconds."""
    match = _ISO_UTC.fullmatch(text)
    if match is None:
        raise _no_time(column, text, "an ISO 8601 time in UTC")
    try:
        moment = datetime.fromisoformat(f"{match[1]}T{match[2]}+00:00")
    except ValueError as error:
        raise BadRow("out_of_range", f"{column}: {shown(text)}: {error}") from error
    ns = (moment - EPOCH) // timedelta(seconds=1) * NS_PER_S + int((match[3] or "").ljust(NS_DIGITS, "0"))
    if not 0 <= ns <= INT64_MAX:
        raise BadRow("out_of_range", f"{column}: {shown(text)} is not between 1970 and 2262")
    return ns


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= TIME_DIGITS_MAX


def _no_time(column: str, text: str, expected: str) -> BadRow:
    if not text:
        return BadRow("missing_field", f"{column} is empty")
    return BadRow("bad_number", f"{column}: {shown(text)} is not {expected}")
