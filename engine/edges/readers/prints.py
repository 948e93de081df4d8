"""Which vendor files are liquidation prints: read, counted, and ignored.

The engine decides liquidations, it does not copy them. A row is still checked for its time and its cells, so that a
damaged file shows.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.core.events import Ignored, Input
from engine.edges.readers.rows import RowReader
from engine.edges.readers.table import Format, Table
from engine.edges.readers.tardis import TRADE_COLUMNS


class PrintRows(RowReader):
    """Liquidation prints of any vendor."""

    def __init__(self, table: Table) -> None:
        self._time, self._clock = table.index(table.time), table.clock(table.time)
        self.note = f"liquidation prints, ignored, {table.unit_note}"

    def events(self, line: int, cells: list[str]) -> Sequence[Input]:
        self._clock(cells[self._time])
        return (Ignored(),)


FORMATS = (
    Format("tardis_liquidations", ("liquidations",), TRADE_COLUMNS, "us", PrintRows),
    Format(
        "binance_liquidations",
        ("liquidationSnapshot",),
        ("time", "side", "order_type", "average_price", "order_status"),
        "ms",
        PrintRows,
    ),
    Format(
        "hyperliquid_liquidations",
        (),
        ("time", "user", "liquidated_ntl_pos", "liquidated_account_value", "leverage_type"),
        "s",
        PrintRows,
    ),
)
