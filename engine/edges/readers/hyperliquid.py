"""How Hyperliquid's historical account files (non_mm_trades, non_mm_ledger_updates) are read.

A trade becomes a fill of its user, never a mark: a trade price must not trigger a liquidation, and the file holds the
trades of some accounts only. Marks come from another file, merged by time. A ledger update becomes a transfer of the
cash asset (the ``cash_asset`` of ``open_log``, else the dollar the contracts settle in).

The rows carry no ids. Fill and transfer ids are made of file name, line and time: the same file read twice applies
once, and files of the same name from different days do not collide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from zlib import crc32

from engine.core.events import Fill, Input, Transfer
from engine.edges.readers.rows import BadRow, RowReader, identity_in, number_in, positive_in, shown
from engine.edges.readers.table import Format, Table

# An id has at most 64 bytes; line and time may need 32 of them.
STEM_BYTES_MAX = 32

SIDES: dict[str, Literal["buy", "sell"]] = {"Bid": "buy", "Ask": "sell", "B": "buy", "A": "sell"}


def file_stem(table: Table) -> str:
    """Return the part of an id that stands for the file: its name without endings, a checksum if that is long."""
    stem = table.data_name.partition(".")[0]
    return stem if len(stem.encode()) <= STEM_BYTES_MAX else f"{crc32(stem.encode()):08x}"


class TradeRows(RowReader):
    """non_mm_trades: fills."""

    def __init__(self, table: Table) -> None:
        self._stem = file_stem(table)
        self._resolve = table.resolver.resolve
        self._time, self._user, self._coin = map(table.index, ("time", "user", "coin"))
        self._side, self._price, self._qty = map(table.index, ("side", "px", "sz"))
        self._clock = table.clock("time")
        self.note = f"fills of Hyperliquid accounts (no marks), {table.unit_note}, coins from the rows"

    def events(self, line: int, cells: list[str]) -> Sequence[Input]:
        ts = self._clock(cells[self._time])
        coin = identity_in("coin", cells[self._coin])
        fill = Fill(
            fill_id=f"{self._stem}:{line}:{ts}",
            account=identity_in("user", cells[self._user]),
            symbol=self._resolve(base=coin, raw=coin),
            side=side_in(cells[self._side]),
            qty=positive_in("sz", cells[self._qty]),
            price=positive_in("px", cells[self._price]),
            ts=ts,
        )
        return (fill,)


class LedgerRows(RowReader):
    """non_mm_ledger_updates: deposits and withdrawals."""

    def __init__(self, table: Table) -> None:
        self._stem, self._asset = file_stem(table), table.cash_asset
        self._time, self._user, self._delta = map(table.index, ("time", "user", "delta_usd"))
        self._clock = table.clock("time")
        self.note = f"transfers of Hyperliquid accounts in {self._asset}, {table.unit_note}"

    def events(self, line: int, cells: list[str]) -> Sequence[Input]:
        ts = self._clock(cells[self._time])
        account = identity_in("user", cells[self._user])
        amount = number_in("delta_usd", cells[self._delta])
        if amount[0] == 0:
            raise BadRow("out_of_range", "delta_usd is 0: neither a deposit nor a withdrawal")
        return (Transfer(f"{self._stem}:{line}:{ts}", account, self._asset, amount, ts),)


def side_in(text: str) -> Literal["buy", "sell"]:
    """Return the side of the account: it bought where its order was a bid."""
    side = SIDES.get(text)
    if side is None:
        raise BadRow("out_of_range" if text else "missing_field", f"side: {shown(text)} is neither Bid nor Ask")
    return side


FORMATS = (
    Format("hyperliquid_trades", ("non_mm_trades",), ("time", "user", "coin", "side", "px", "sz"), "s", TradeRows),
    Format("hyperliquid_ledger", ("non_mm_ledger_updates",), ("time", "user", "delta_usd"), "s", LedgerRows),
)
