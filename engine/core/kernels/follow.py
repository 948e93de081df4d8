"""Usual marks, put in force a batch at a time: what ``intake.apply_mark`` does of them, and not a line more.

Almost every mark is of one kind: of a known symbol, not older than the last, inside the price band, with no timer due.
Such marks are put in force here, one after the other, until one finds rows in need: whose they are is told, and the
machine decides. The first mark that is anything else stops the run, too, and the machine takes it in full; so nothing
is decided here, and nothing refused.
"""

from __future__ import annotations

import numpy as np

from engine.core.kernels.arith import POWERS_OF_TEN, times_power_of_ten
from engine.core.kernels.compile import inlined, kernel
from engine.core.kernels.limits import worth_bound, worth_of_symbol
from engine.core.kernels.lines import FILL, KIND, MARK, PRICE_PLACES, SYMBOL_LENGTH, SYMBOL_START, read_lines_into
from engine.core.kernels.lines import PRICE as LINE_PRICE
from engine.core.kernels.lines import TS as LINE_TS
from engine.core.kernels.names import find_name
from engine.core.kernels.segments import top_key
from engine.core.kernels.shares import FALLING, RISING, price_key
from engine.core.kernels.tables import (
    BASE,
    CAPACITY,
    IS_BEHIND,
    IS_OPEN,
    MARK_DECIMALS,
    MARK_STEPS,
    MARK_TS,
    PRICE,
)
from engine.core.kernels.triggers import concerned_rows_into, share_stale

# A mark: its symbol, -1 where the line is none or its symbol is not known; its price as mantissa / 10**places, > 0; ts.
SYMBOL, MANTISSA, PLACES, TS = 0, 1, 2, 3
MARK_COLUMNS = 4
# Where a stream stands: the clock, when the next timer is due, how far ahead of the clock a message may be (0: any),
# and the price band (0: none).
CLOCK, DUE, FUTURE_NS, BAND_PPM = 0, 1, 2, 3
STREAM_COLUMNS = 4
# What a mark is refused for is decided in exact integers elsewhere; here it is enough to be far from it.
_PRICE_MAX = 4 * 10**18
_WORTH_MAX = 8.9e18
_PPM = 1e6


@kernel
def read_marks_into(buffer, begins, ends, fields, names, marks):
    """Write what each line says, and of each the mark that it is, if its symbol is known; return how many are fills.

    buffer ... fields        as ``read_lines_into`` takes and leaves them (``lines.py``)
    names                    those of the symbols, in the order of their numbers (``names.py``)
    marks  int64[line, 4]    out, columns above
    """
    read_lines_into(buffer, begins, ends, marks.shape[0], fields)
    fills = 0
    for line in range(marks.shape[0]):
        marks[line, SYMBOL] = -1
        if fields[line, KIND] == FILL:
            fills += 1
        if fields[line, KIND] == MARK:
            start, length = fields[line, SYMBOL_START], fields[line, SYMBOL_LENGTH]
            marks[line, SYMBOL] = find_name(names, buffer, start, length)
            marks[line, MANTISSA], marks[line, PLACES] = fields[line, LINE_PRICE], fields[line, PRICE_PLACES]
            marks[line, TS] = fields[line, LINE_TS]
    return fills


@inlined
def scaled_price(mantissa, places, decimals, steps):
    """Return mantissa / 10**places rounded half to even to ``decimals``, times ``steps``; 0 where it may not fit."""
    if places <= decimals:
        price = times_power_of_ten(mantissa, decimals - places, _PRICE_MAX)
    else:
        if places - decimals > 18:
            return np.int64(0)
        divisor = POWERS_OF_TEN[places - decimals]
        price, rest = mantissa // divisor, mantissa % divisor
        # 2 x rest may leave int64, what is missing to the divisor does not.
        if rest > divisor - rest or (rest == divisor - rest and price & 1 == 1):
            price += 1
    return price * steps if price <= _PRICE_MAX // steps else np.int64(0)


@kernel
def follow_marks(t, marks, begin, stream, found_rows):
    """Put marks in force from ``begin`` on; return (index of the first that is not, how many rows the last one found).

    Ends behind a mark that finds rows in need, and before one that is not of the usual kind.

    marks       int64[mark, 4]  columns above
    stream      int64[4]        columns above; the clock moves on
    found_rows  int32[>= holders of any symbol]  out: the rows in need, twice where it has both its legs
    """
    share_stale(t)
    worth = worth_bound(t)
    for index in range(begin, marks.shape[0]):
        if marks[index, SYMBOL] < 0:
            return index, 0
        symbol, ts = t.symbols[marks[index, SYMBOL]], marks[index, TS]
        clock = max(stream[CLOCK], ts)
        if symbol[IS_OPEN] == 0 or ts < symbol[MARK_TS] or clock >= stream[DUE]:
            return index, 0
        if stream[FUTURE_NS] != 0 and ts - stream[CLOCK] > stream[FUTURE_NS]:
            return index, 0
        before = symbol[PRICE]
        price = scaled_price(marks[index, MANTISSA], marks[index, PLACES], symbol[MARK_DECIMALS], symbol[MARK_STEPS])
        room = float(stream[BAND_PPM]) * float(before) * (1.0 - 1e-9)
        if price == 0 or (stream[BAND_PPM] != 0 and abs(float(price) - float(before)) * _PPM > room):
            return index, 0
        change = -worth_of_symbol(t, symbol)
        symbol[PRICE] = price
        change += worth_of_symbol(t, symbol)
        if worth + change > _WORTH_MAX:
            symbol[PRICE] = before
            return index, 0
        worth += change
        symbol[MARK_TS], symbol[IS_BEHIND] = ts, 1
        stream[CLOCK] = clock
        base, capacity = symbol[BASE], symbol[CAPACITY]
        if capacity != 0 and (
            top_key(t.keys, FALLING, base, capacity) >= price_key(FALLING, price)
            or top_key(t.keys, RISING, base, capacity) >= price_key(RISING, price)
        ):
            found = concerned_rows_into(t, marks[index, SYMBOL], found_rows)
            if found > 0:
                return index + 1, found
            share_stale(t)
    return marks.shape[0], 0
