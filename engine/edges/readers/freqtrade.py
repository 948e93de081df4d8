"""How freqtrade's candle and funding files (feather and JSON) are read.

A file is named ``BASE_QUOTE_SETTLE-TIMEFRAME-KIND`` (spot: ``BASE_QUOTE-TIMEFRAME``). KIND ``mark`` is the mark price;
``futures`` and spot are last prices taken as marks; of ``funding_rate`` the rate stands in ``open``, ``date`` is the
settlement, and the timeframe means nothing. Other kinds (``index``, ``premiumIndex``) carry no mark and are not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from engine.core.events import Funding, Input
from engine.edges.readers.candles import CandleRows
from engine.edges.readers.containers import FEATHER_COLUMNS
from engine.edges.readers.rows import RowReader, number_in
from engine.edges.readers.table import Format, Table

WHAT = {"mark": "mark candles", "futures": "last-price candles", "": "spot candles"}
FUNDING_KIND = "funding_rate"

_NAME = re.compile(r"([^_.]+)_([^-_.]+)(?:_([^-_.]+))?-\d+[smhdwM](?:-([A-Za-z_]+))?\.")


def try_format(data_name: str) -> str | None:
    """Return which format a file of this name holds; a name that is not freqtrade's is taken for candles."""
    match = _NAME.match(data_name)
    kind = (match[4] or "") if match else ""
    if kind == FUNDING_KIND:
        return "freqtrade_funding"
    return "freqtrade_candles" if kind in WHAT else None


def named_pair(table: Table) -> tuple[str, str, str]:
    """Return (symbol, how it was mapped, kind) from the name of the file."""
    match = _NAME.match(table.data_name)
    if match is None:
        raw = table.data_name.partition(".")[0].partition("-")[0]
        symbol = table.resolver.resolve(raw=raw)
        return symbol, table.resolver.describe(raw, symbol), ""
    base, quote, settle, kind = match.groups(default="")
    symbol = table.resolver.resolve(base=base, quote=quote, settle=settle or quote)
    pair = f"{base}/{quote}:{settle}" if settle else f"{base}/{quote}"
    return symbol, table.resolver.describe(pair, symbol), kind


class FreqtradeCandleRows(CandleRows):
    """Candles of freqtrade."""

    def __init__(self, table: Table) -> None:
        symbol, mapping, kind = named_pair(table)
        super().__init__(table, symbol=symbol, what=f"freqtrade {WHAT.get(kind, 'candles')} of {mapping}")


class FreqtradeFundingRows(RowReader):
    """Funding settlements of freqtrade."""

    def __init__(self, table: Table) -> None:
        self._symbol, mapping, _ = named_pair(table)
        self._date, self._rate, self._clock = table.index("date"), table.index("open"), table.clock("date")
        self.note = f"freqtrade funding of {mapping}, {table.unit_note}"

    def events(self, line: int, cells: list[str]) -> Sequence[Input]:
        ts = self._clock(cells[self._date])
        return (Funding(self._symbol, number_in("open", cells[self._rate]), ts),)


FORMATS = (
    Format("freqtrade_candles", (), FEATHER_COLUMNS, "ms", FreqtradeCandleRows),
    Format("freqtrade_funding", (), ("date", "open"), "ms", FreqtradeFundingRows),
)
