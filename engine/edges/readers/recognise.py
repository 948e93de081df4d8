"""Which format a file has: by magic bytes, by its header, and where there is none by the shape of its first row.

Only what is told apart with certainty is recognised; anything else must be named with ``--format``. Two pairs share
their columns: Tardis trades and liquidations (told apart by "liquidation" in the path), and Binance klines and
markPriceKlines (read alike).
"""

from __future__ import annotations

import json

from engine.edges.readers import binance, freqtrade, hyperliquid, prints, tardis
from engine.edges.readers.containers import FEATHER_MAGIC, Container, Csv, Feather, JsonRows, csv_cells
from engine.edges.readers.kafka_records import KAFKA_RECORDS
from engine.edges.readers.rows import BadRow, try_decimal
from engine.edges.readers.source import Source
from engine.edges.readers.table import Format
from engine.edges.readers.times import try_unit
from engine.errors import InputError

JSONL = "jsonl"
JSONL_ENDINGS = (".jsonl", ".ndjson")

FORMATS: dict[str, Format] = {
    layout.name: layout
    for layout in (*tardis.FORMATS, *binance.FORMATS, *freqtrade.FORMATS, *hyperliquid.FORMATS, *prints.FORMATS)
}
FORMAT_NAMES = (JSONL, KAFKA_RECORDS, *FORMATS)
_SPELLINGS = {
    spelling.lower(): layout.name for layout in FORMATS.values() for spelling in (layout.name, *layout.aliases)
} | {JSONL: JSONL, KAFKA_RECORDS: KAFKA_RECORDS}
# A header is tried against these; freqtrade's files have other containers and names of their own.
_BY_HEADER = [FORMATS[name] for name in FORMATS if not name.startswith("freqtrade")]


def format_named(name: str) -> str:
    """Return the format that ``--format name`` means."""
    found = _SPELLINGS.get(name.lower())
    if found is None:
        raise InputError(f"--format {name}: unknown; known are {', '.join(FORMAT_NAMES)}")
    return found


def format_of(source: Source) -> str:
    """Return the name of a file's format; raise, naming what was seen and what is known, if it has none."""
    name = try_recognise(source)
    if name is None:
        known = ", ".join(FORMAT_NAMES)
        raise InputError(f"{source.path}: not recognised: {source.begins()}. Known formats (--format): {known}")
    return name


def try_recognise(source: Source) -> str | None:
    """Return the name of a file's format, or None."""
    start = source.head.lstrip()
    if start[:1] == b"{" and is_exported(start.split(b"\n", 1)[0]):
        return KAFKA_RECORDS
    if source.data_name.lower().endswith(JSONL_ENDINGS):
        return JSONL
    if source.head.startswith(FEATHER_MAGIC) or start[:1] == b"[":
        return freqtrade.try_format(source.data_name)
    if start[:1] == b"{":
        return JSONL if is_message(start.split(b"\n", 1)[0]) else None
    cells = first_cells(source)
    return _by_shape(cells, source.data_name) if is_data(cells) else _by_header(cells, str(source.path))


def container_of(source: Source, layout: Format) -> Container:
    """Return the rows of a file that is to be read as ``layout``."""
    if source.head.startswith(FEATHER_MAGIC):
        return Feather(source)
    if source.head.lstrip()[:1] == b"[":
        return JsonRows(source)
    cells = first_cells(source)
    if not is_data(cells):
        return Csv(source, cells, has_header=True)
    for columns in layout.layouts:
        if len(columns) == len(cells):
            return Csv(source, columns, has_header=False)
    raise InputError(f"{source.path}: {layout.name} without a header cannot have {len(cells)} columns")


def first_cells(source: Source) -> list[str]:
    """Return the cells of a file's first line; of a line that is no CSV, one that fits nothing."""
    try:
        return csv_cells(source.first_line())
    except BadRow:
        return [""]


def is_message(line: bytes) -> bool:
    """Return whether a line is a JSON object with a ``type``, as every message is."""
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(body, dict) and "type" in body


def is_exported(line: bytes) -> bool:
    """Return whether a line is a record that ``audit --export`` wrote; the start of a long one is enough."""
    return line.startswith(b'{"topic":') and b'"offset":' in line


def is_data(cells: list[str]) -> bool:
    """Return whether a first line is a row already: a header does not begin with a number or a time."""
    return try_decimal(cells[0]) is not None or try_unit(cells[0]) is not None


def _by_header(cells: list[str], path: str) -> str | None:
    header = set(cells)
    fitting = [layout.name for layout in _BY_HEADER if header.issuperset(layout.columns)]
    if "tardis_liquidations" in fitting:
        return "tardis_liquidations" if "liquidation" in path.lower() else "tardis_trades"
    return fitting[0] if fitting else None


def _by_shape(cells: list[str], data_name: str) -> str | None:
    """Return the Binance format a first row without a header belongs to."""
    units = [try_unit(cell) for cell in cells]
    match len(cells):
        case 12 if units[0] is not None and units[0] == units[6]:
            return "binance_klines"
        case 7 | 8 if cells[6].lower() in ("true", "false") and units[5] in ("ms", "us"):
            return "binance_agg_trades"
        case 3 if "fundingrate" in data_name.lower():
            return "binance_funding_rate"
    return None
