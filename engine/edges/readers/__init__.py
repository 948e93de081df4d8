"""How event logs and vendors' files become messages, in one stated order.

    open_log(path, format=…, resolve=…, decode=…) -> LogFile     one file, recognised or named
    merge(logs) -> Iterator[Message]                             several, by time, file, line
    expand_paths(paths) -> list[Path]                            folders become the recognisable files in them

A ``LogFile`` yields ``Message(origin, event, payload)``; origin is file name, -1 and line (of JSON and feather: row).
A bad row yields a ``Reject`` with a reason of the closed list, and the file goes on. All text formats are read
in bounded memory and may be gzipped or (CSV) zipped.

    format                     what it is                                           becomes
    jsonl                      the messages of the contract, one a line             as ``decode`` says
    kafka_records              inputs in a shard's order, of ``audit --export``     as they were at the broker
    tardis_derivative_ticker   CSV: mark, index, funding                            marks, funding (see tardis.py)
    tardis_trades              CSV: trades                                          last price as mark
    tardis_liquidations        CSV: liquidation prints                              ignored
    binance_klines             Binance Vision klines, markPriceKlines               four marks a candle (see candles.py)
    binance_agg_trades         Binance Vision aggTrades                             last price as mark
    binance_funding_rate       Binance Vision fundingRate                           funding
    binance_liquidations       Binance Vision liquidationSnapshot                   ignored
    freqtrade_candles          feather or JSON candles                              four marks a candle
    freqtrade_funding          feather or JSON ``…-funding_rate``                   funding
    hyperliquid_trades         CSV non_mm_trades                                    fills, never marks
    hyperliquid_ledger         CSV non_mm_ledger_updates                            transfers
    hyperliquid_liquidations   CSV liquidations                                     ignored

The vendors' own words (``derivative_ticker``, ``markPriceKlines``, ``non_mm_trades``, …) name the same formats.
Numbers keep the decimal they are written with; times are in the unit their magnitude shows (see times.py);
vendors' names become the risk file's symbols (see symbols.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from engine.core.events import Input, Message
from engine.edges.readers.kafka_records import KAFKA_RECORDS, open_kafka_records
from engine.edges.readers.logfile import LogFile
from engine.edges.readers.merge import merge
from engine.edges.readers.recognise import (
    FORMAT_NAMES,
    FORMATS,
    JSONL,
    container_of,
    format_named,
    format_of,
    try_recognise,
)
from engine.edges.readers.rows import messages
from engine.edges.readers.source import Source
from engine.edges.readers.symbols import SymbolResolver
from engine.edges.readers.table import open_table
from engine.errors import InputError

__all__ = ["open_log", "merge", "expand_paths", "LogFile", "SymbolResolver", "FORMAT_NAMES"]

Decode = Callable[[bytes], Input | None]


def open_log(
    path: Path,
    *,
    format: str | None,
    resolve: SymbolResolver,
    decode: Decode,
    cash_asset: str | None = None,
    shard: int = 0,
) -> LogFile:
    """Return the log in a file, its format recognised unless it is named.

    ``decode`` turns a line of ``jsonl`` into an event, None for a blank one. ``cash_asset`` is what a vendor's dollar
    amounts are in; by default the dollar that the contracts settle in. ``shard`` is whose control messages are taken.

    Raises InputError if the file is missing, unreadable, of no known format or not of the named one.
    """
    source = Source(path)
    name = format_named(format) if format is not None else format_of(source)
    if name == JSONL:
        return open_jsonl(source, decode)
    if name == KAFKA_RECORDS:
        return open_kafka_records(source, shard)
    return open_vendor(source, name, resolve, cash_asset or resolve.cash_asset())


def open_jsonl(source: Source, decode: Decode) -> LogFile:
    """Return a log of the contract's own messages."""

    def parse(line: int, row: bytes) -> Sequence[Input]:
        event = decode(row)
        return () if event is None else (event,)

    def read() -> Iterator[Message]:
        return messages(source.name, source.lines(), parse, end=tuple)

    return LogFile(
        source, format=JSONL, time_unit="ns", note="event log, times in ns", read=read, blocks=source.line_blocks
    )


def open_vendor(source: Source, name: str, resolver: SymbolResolver, cash_asset: str) -> LogFile:
    """Return a log read from a vendor's file."""
    layout = FORMATS[name]
    table = open_table(container_of(source, layout), layout, resolver, cash_asset)

    def read() -> Iterator[Message]:
        reader = layout.reader(table)
        return messages(source.name, table.container.rows(), table.parse(reader), reader.end)

    return LogFile(source, format=name, time_unit=table.unit, note=layout.reader(table).note, read=read)


def expand_paths(paths: Iterable[Path]) -> list[Path]:
    """Return ``paths`` with each folder replaced by the recognisable files directly in it, by name."""
    files = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = [file for file in sorted(path.iterdir()) if file.is_file() and try_recognise(Source(file)) is not None]
        if not found:
            raise InputError(f"{path}: no file of a known format in this folder. Known are {', '.join(FORMAT_NAMES)}")
        files += found
    return files
