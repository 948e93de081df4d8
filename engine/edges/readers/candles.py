"""How a candle becomes four marks.

A candle of [t, t + f) says which prices were reached but not when. It is read as the path that moves least,

    close >= open:   open, low, high, close
    close <  open:   open, high, low, close

one price at each quarter: t, t + f/4, t + f/2, t + 3f/4. So the close is a quarter of the timeframe old when the
next open comes, the marks of a symbol are evenly spaced, and every extreme is seen. f is taken from the file name
(``1m``, ``5m``, ``1h``), else from the spacing of the first two rows.

A candle whose prices are not all above zero, or do not satisfy low <= open, close <= high, is refused whole: one
wrong extreme would liquidate people at a price that never was.
"""

from __future__ import annotations

import re

from engine.core.events import Mark
from engine.edges.readers.rows import BadRow, RowReader, positive_in
from engine.edges.readers.table import Table
from engine.errors import InputError
from engine.units import NS_PER_S, Number

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
# A month (``1M``) has no fixed length, so such a file is read by its spacing.
_TIMEFRAME = re.compile(r"(?:^|[-_])([1-9][0-9]{0,3})([smhdw])(?=[-_.]|$)")


class CandleRows(RowReader):
    """Candles of one symbol, from whichever container and vendor."""

    def __init__(self, table: Table, *, symbol: str, what: str) -> None:
        timeframe_ns = timeframe(table)
        self._symbol = symbol
        self._offsets = (0, timeframe_ns // 4, timeframe_ns // 2, timeframe_ns * 3 // 4)
        self._time, self._clock = table.index(table.time), table.clock(table.time)
        self._open, self._high = table.index("open"), table.index("high")
        self._low, self._close = table.index("low"), table.index("close")
        self.note = f"{what}, {timeframe_name(timeframe_ns)}, {table.unit_note}"

    def events(self, line: int, cells: list[str]) -> tuple[Mark, Mark, Mark, Mark]:
        ts = self._clock(cells[self._time])
        open_ = positive_in("open", cells[self._open])
        high = positive_in("high", cells[self._high])
        low = positive_in("low", cells[self._low])
        close = positive_in("close", cells[self._close])
        first, second = (low, high) if is_rising(open_, high, low, close) else (high, low)
        symbol = self._symbol
        _, quarter, half, three_quarters = self._offsets
        return (
            Mark(symbol, open_, ts),
            Mark(symbol, first, ts + quarter),
            Mark(symbol, second, ts + half),
            Mark(symbol, close, ts + three_quarters),
        )


def is_rising(open_: Number, high: Number, low: Number, close: Number) -> bool:
    """Return close >= open; raise ``BadRow`` unless low <= open, close <= high."""
    places = max(open_[1], high[1], low[1], close[1])
    prices = [mantissa * int(10 ** (places - have)) for mantissa, have in (open_, high, low, close)]
    first, top, bottom, last = prices
    if bottom > first or bottom > last:
        raise BadRow("out_of_range", "low is above open or close")
    if top < first or top < last:
        raise BadRow("out_of_range", "high is below open or close")
    return last >= first


def timeframe(table: Table) -> int:
    """Return the length of the table's candles in nanoseconds."""
    match = _TIMEFRAME.search(table.data_name)
    if match:
        return int(match[1]) * SECONDS[match[2]] * NS_PER_S
    spacing = table.times[1] - table.times[0] if len(table.times) == 2 else 0
    if spacing <= 0:
        place = table.container.source.path
        raise InputError(
            f"{place}: how long is a candle? neither the file name (as in BTCUSDT-1m) nor the first rows say"
        )
    return spacing


def timeframe_name(timeframe_ns: int) -> str:
    """Return a timeframe as people write it: ``5m``."""
    seconds, rest = divmod(timeframe_ns, NS_PER_S)
    if rest or seconds == 0:
        return f"{timeframe_ns} ns"
    unit = next(unit for unit in ("w", "d", "h", "m", "s") if seconds % SECONDS[unit] == 0)
    return f"{seconds // SECONDS[unit]}{unit}"
