"""How Tardis CSV files (derivative_ticker and trades) are read.

* A ticker row gives a mark, with its index price where there is one; a row without a mark price is ignored.
* A trade gives a mark: where nothing better was recorded, the last price stands for the mark. Prefer a ticker file.

Funding: ``funding_timestamp`` is the next settlement and ``funding_rate`` the rate that will be paid then. A
settlement is paid once, at its own time and with the last rate announced for it, when the file's clock
(``local_timestamp``, else ``timestamp``) passes it or the row announces a later one, whichever comes first. One that
lies before the file's first row was paid before. Tardis cuts its files at midnight, where most venues also settle:
at the end of a file a settlement at midnight is paid if the last row is less than a minute before it; the next file,
whose clock begins after it, does not pay it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.core.events import Event, Funding, Ignored, Input, Mark
from engine.edges.readers.rows import RowReader, identity_in, number_in, positive_in
from engine.edges.readers.table import Format, Table
from engine.units import NS_PER_S, Number

DAY_NS = 86_400 * NS_PER_S
CUT_NS = 60 * NS_PER_S
SYMBOLS_NOTE = "symbols from the rows"


@dataclass(slots=True)
class Settlement:
    """What the rows of one symbol said last about its funding: clock, next settlement and rate, last one paid."""

    clock_ns: int
    due_ns: int
    rate: Number | None
    paid_ns: int

    @property
    def is_open(self) -> bool:
        """True if the next settlement was still ahead when it was last heard of, and is not paid."""
        return self.clock_ns < self.due_ns and self.due_ns > self.paid_ns


class TickerRows(RowReader):
    """derivative_ticker: marks and funding."""

    def __init__(self, table: Table) -> None:
        self._resolve = table.resolver.resolve
        self._symbol, self._time, self._mark = map(table.index, ("symbol", "timestamp", "mark_price"))
        self._index = table.try_index("index_price")
        self._local = table.try_index("local_timestamp")
        self._due, self._rate = table.try_index("funding_timestamp"), table.try_index("funding_rate")
        self._clock, self._clock_local = table.clock("timestamp"), table.clock("local_timestamp")
        self._clock_due = table.clock("funding_timestamp")
        self._settlements: dict[str, Settlement] = {}
        self.note = f"marks and funding of Tardis tickers, {table.unit_note}, {SYMBOLS_NOTE}"

    def events(self, line: int, cells: list[str]) -> Sequence[Input]:
        symbol = self._resolve(raw=identity_in("symbol", cells[self._symbol]))
        ts = self._clock(cells[self._time])
        marks = self._marks(symbol, ts, cells)
        return self._funding(symbol, ts, cells) + marks or (Ignored(),)

    def end(self) -> Sequence[Input]:
        return tuple(
            Funding(symbol, last.rate, last.due_ns)
            for symbol, last in sorted(self._settlements.items())
            if last.is_open
            and last.rate is not None
            and last.due_ns % DAY_NS == 0
            and last.due_ns - last.clock_ns <= CUT_NS
        )

    def _marks(self, symbol: str, ts: int, cells: list[str]) -> tuple[Event, ...]:
        text = cells[self._mark]
        if not text:
            return ()
        index_text = "" if self._index is None else cells[self._index]
        index_price = positive_in("index_price", index_text) if index_text else None
        return (Mark(symbol, positive_in("mark_price", text), ts, index_price),)

    def _funding(self, symbol: str, ts: int, cells: list[str]) -> tuple[Event, ...]:
        """Return the settlements that this row shows to be over, and remember what it announces."""
        due_text = "" if self._due is None else cells[self._due]
        rate_text = "" if self._rate is None else cells[self._rate]
        local_text = "" if self._local is None else cells[self._local]
        now = self._clock_local(local_text) if local_text else ts
        last = self._settlements.get(symbol)
        due = self._clock_due(due_text) if due_text else last.due_ns if last else 0
        rate = number_in("funding_rate", rate_text) if rate_text else last.rate if last else None
        if last is None:
            self._settlements[symbol] = Settlement(now, due, rate, 0)
            return ()
        paid: list[Event] = []
        if last.is_open and (now >= last.due_ns or due > last.due_ns) and last.rate is not None:
            paid.append(Funding(symbol, last.rate, last.due_ns))
            last.paid_ns = last.due_ns
        # One that was announced and passed between two rows.
        if last.clock_ns < due <= now and due > last.paid_ns and rate is not None:
            paid.append(Funding(symbol, rate, due))
            last.paid_ns = due
        last.clock_ns, last.due_ns, last.rate = max(now, last.clock_ns), due, rate
        return tuple(paid)


class TradeRows(RowReader):
    """trades: the last price as the mark."""

    def __init__(self, table: Table) -> None:
        self._resolve = table.resolver.resolve
        self._symbol, self._time, self._price = map(table.index, ("symbol", "timestamp", "price"))
        self._clock = table.clock("timestamp")
        self.note = f"trade prices of Tardis taken as marks, {table.unit_note}, {SYMBOLS_NOTE}"

    def events(self, line: int, cells: list[str]) -> Sequence[Input]:
        symbol = self._resolve(raw=identity_in("symbol", cells[self._symbol]))
        return (Mark(symbol, positive_in("price", cells[self._price]), self._clock(cells[self._time])),)


TRADE_COLUMNS = ("timestamp", "exchange", "symbol", "id", "side", "price", "amount")

FORMATS = (
    Format(
        "tardis_derivative_ticker",
        ("derivative_ticker",),
        ("timestamp", "exchange", "symbol", "mark_price"),
        "us",
        TickerRows,
    ),
    Format("tardis_trades", ("trades",), TRADE_COLUMNS, "us", TradeRows),
)
