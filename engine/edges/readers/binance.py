"""How Binance Vision files (klines, markPriceKlines, aggTrades, fundingRate) are read.

The rows name no symbol: it is the first part of the file's name (of a zip, its member's), as in
``BTCUSDT-1h-2024-10-28.csv``. ``markPriceKlines`` and ``klines`` have the same names and columns; both become marks,
and which of the two it is only the user's choice of file tells. The price of an aggregated trade is taken as a mark.
Files with and without a header are read; without, the number of columns says which they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from engine.core.events import Funding, Input, Mark
from engine.edges.readers.candles import CandleRows
from engine.edges.readers.rows import RowReader, number_in, positive_in
from engine.edges.readers.table import Format, Table
from engine.errors import InputError

_SYMBOL_BEFORE = re.compile(
    r"(?:^|-)([A-Z0-9]+(?:_[A-Z0-9]+)?)-(?:aggTrades|fundingRate|\d+(?:mo|[smhdw]))(?=[-.]|$)", re.IGNORECASE
)
_SYMBOL_FIRST = re.compile(r"[A-Z0-9]{2,}(?:_[A-Z0-9]+)?(?=[-.]|$)")


def named_symbol(table: Table) -> tuple[str, str]:
    """Return (symbol, how it was mapped) from the name of the file."""
    name = table.data_name
    match = _SYMBOL_BEFORE.search(name)
    raw = match[1] if match else _first_symbol(table)
    symbol = table.resolver.resolve(raw=raw)
    return symbol, table.resolver.describe(raw, symbol)


def _first_symbol(table: Table) -> str:
    match = _SYMBOL_FIRST.match(table.data_name)
    if match is None:
        place = table.container.source.path
        raise InputError(f"{place}: which symbol? the file name must begin with it, as in BTCUSDT-1m-2024-10-28.csv")
    return match[0]


class KlineRows(CandleRows):
    """klines and markPriceKlines: candles."""

    def __init__(self, table: Table) -> None:
        symbol, mapping = named_symbol(table)
        super().__init__(table, symbol=symbol, what=f"Binance candles of {mapping}")


class AggTradeRows(RowReader):
    """aggTrades: the last price as the mark."""

    def __init__(self, table: Table) -> None:
        self._symbol, mapping = named_symbol(table)
        self._time, self._price = table.index("transact_time"), table.index("price")
        self._clock = table.clock("transact_time")
        self.note = f"Binance trade prices of {mapping} taken as marks, {table.unit_note}"

    def events(self, line: int, cells: list[str]) -> Sequence[Input]:
        return (Mark(self._symbol, positive_in("price", cells[self._price]), self._clock(cells[self._time])),)


class FundingRows(RowReader):
    """fundingRate: settlements."""

    def __init__(self, table: Table) -> None:
        self._symbol, mapping = named_symbol(table)
        self._time, self._rate = table.index("calc_time"), table.index("last_funding_rate")
        self._clock = table.clock("calc_time")
        self.note = f"Binance funding of {mapping}, {table.unit_note}"

    def events(self, line: int, cells: list[str]) -> Sequence[Input]:
        ts = self._clock(cells[self._time])
        return (Funding(self._symbol, number_in("last_funding_rate", cells[self._rate]), ts),)


KLINE_LAYOUT = (
    *("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count"),
    *("taker_buy_volume", "taker_buy_quote_volume", "ignore"),
)
AGG_TRADE_LAYOUT = (
    *("agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time", "is_buyer_maker"),
)
FUNDING_LAYOUT = ("calc_time", "funding_interval_hours", "last_funding_rate")

FORMATS = (
    Format(
        "binance_klines",
        ("klines", "markPriceKlines"),
        ("open_time", "open", "high", "low", "close"),
        "ms",
        KlineRows,
        (KLINE_LAYOUT,),
    ),
    Format(
        "binance_agg_trades",
        ("aggTrades",),
        ("transact_time", "agg_trade_id", "price", "is_buyer_maker"),
        "ms",
        AggTradeRows,
        # Spot files have one column more.
        (AGG_TRADE_LAYOUT, (*AGG_TRADE_LAYOUT, "is_best_match")),
    ),
    Format(
        "binance_funding_rate",
        ("fundingRate",),
        ("calc_time", "last_funding_rate"),
        "ms",
        FundingRows,
        (FUNDING_LAYOUT,),
    ),
)
