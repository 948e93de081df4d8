"""How a file's rows are found: lines of CSV, arrays in a JSON list, rows of a feather table.

Each container yields (row number, bytes of the row) and splits such bytes into cells, so that the formats need not
know what they are read from and every row, whatever its container, can be kept as bytes when it is refused.

Row numbers count from 1: of a CSV they are line numbers, the header included; of JSON and feather, rows.
"""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from engine.edges.readers.rows import LINE_BYTES_MAX, BadRow, shown, text_of
from engine.edges.readers.source import Source
from engine.errors import InputError

FEATHER_MAGIC = b"ARROW1"
CANDLE_COLUMNS = ("date", "open", "high", "low", "close", "volume")
FEATHER_COLUMNS = CANDLE_COLUMNS[:-1]
FEATHER_ROWS_MAX = 1 << 14


class Container(ABC):
    """The rows of one file; ``unit`` is the unit of its times where the file itself states it."""

    unit: str | None = None

    def __init__(self, source: Source, columns: Sequence[str]) -> None:
        self.source = source
        self.columns = tuple(columns)

    @abstractmethod
    def rows(self) -> Iterator[tuple[int, bytes]]:
        """Yield (row number, bytes of the row) from the start of the file."""

    @abstractmethod
    def cells(self, row: bytes) -> list[str]:
        """Return the cells of a row, at least one for each column; raise ``BadRow`` if it has not so many."""


class Csv(Container):
    """Lines of comma-separated cells; the first is the header if there is one."""

    def __init__(self, source: Source, columns: Sequence[str], *, has_header: bool) -> None:
        super().__init__(source, columns)
        self._has_header = has_header

    def rows(self) -> Iterator[tuple[int, bytes]]:
        for number, line in self.source.lines():
            if line and not line.isspace() and not (number == 1 and self._has_header):
                yield number, line

    def cells(self, row: bytes) -> list[str]:
        return checked(csv_cells(text_of(row)), self.columns, is_exact=True)


class JsonRows(Container):
    """A list of flat lists, ``[[time, open, …], …]``, read piece by piece.

    The numbers are taken as the text they are written with; a JSON parser would make binary floats of them, or hold
    the whole file in memory.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source, CANDLE_COLUMNS)

    def rows(self) -> Iterator[tuple[int, bytes]]:
        number, is_closed = 0, False
        for piece in self.source.split(b"]"):
            body = piece.strip(b" \t\r\n,")
            if number == 0:
                body = body.removeprefix(b"[").lstrip()
            # Between the last row's bracket and the list's own stands nothing.
            is_closed = not body
            if body:
                number += 1
                yield number, body + b"]" if len(body) <= LINE_BYTES_MAX else body
        if not is_closed:
            raise BadRow("bad_json", "the file ends before its list does")

    def cells(self, row: bytes) -> list[str]:
        text = text_of(row)
        inner = text[1:-1]
        if not text.startswith("[") or "[" in inner or "{" in inner:
            raise BadRow("bad_json", f"{shown(text)} is not a list of numbers")
        # Some write the numbers as strings; the rest of a REST answer's columns is of no use here.
        return checked([cell.strip(' \t\r\n"') for cell in inner.split(",")], self.columns, is_exact=False)


class Feather(Container):
    """An Arrow file with the columns of a candle; floats become the shortest decimal that reads back as them."""

    def __init__(self, source: Source) -> None:
        super().__init__(source, FEATHER_COLUMNS)
        with self._opened() as table:
            missing = [name for name in FEATHER_COLUMNS if name not in table.schema.names]
            if missing:
                raise InputError(f"{source.path}: no column {', '.join(missing)} among {', '.join(table.schema.names)}")
            date = table.schema.field("date").type
        self.unit = getattr(date, "unit", None)
        if self.unit is None and str(date) != "int64":
            raise InputError(f"{source.path}: the column date is of type {date}, expected timestamp or int64")

    def rows(self) -> Iterator[tuple[int, bytes]]:
        self.source.position = 0
        number = 0
        with self._opened() as table:
            for index in range(table.num_record_batches):
                batch = table.get_batch(index).select(FEATHER_COLUMNS)
                for first in range(0, batch.num_rows, FEATHER_ROWS_MAX):
                    for row in feather_lines(batch.slice(first, FEATHER_ROWS_MAX)):
                        number += 1
                        yield number, row
                    done = min(first + FEATHER_ROWS_MAX, batch.num_rows)
                    share = self.source.size_bytes * (index * batch.num_rows + done)
                    self.source.position = share // (table.num_record_batches * batch.num_rows)
        self.source.position = self.source.size_bytes

    def cells(self, row: bytes) -> list[str]:
        return row.decode().split(",")

    def _opened(self) -> Any:
        try:
            import pyarrow as arrow
        except ImportError as error:
            hint = "reading feather needs pyarrow: pip install 'liq-engine[parquet]'"
            raise InputError(f"{self.source.path}: {hint}") from error
        try:
            return arrow.ipc.open_file(arrow.memory_map(str(self.source.path)))
        except (arrow.ArrowInvalid, OSError) as error:
            raise InputError(f"{self.source.path}: not a readable feather file: {error}") from error


def feather_lines(batch: Any) -> Iterator[bytes]:
    """Yield each row of a record batch as a line of CSV, an absent value as an empty cell."""
    times, *prices = (batch.column(name) for name in FEATHER_COLUMNS)
    columns = [column.to_pylist() for column in (times.cast("int64"), *prices)]
    for row in zip(*columns, strict=True):
        yield ",".join("" if value is None else repr(value) for value in row).encode()


def csv_cells(line: str) -> list[str]:
    """Return the cells of one line; vendors hardly ever quote, so the slow way is for lines with a quote in them."""
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise BadRow("bad_type", f"quotes do not match: {error}") from error


def checked(cells: list[str], columns: Sequence[str], *, is_exact: bool) -> list[str]:
    """Return ``cells`` if there is one for each column (and, if exact, none left over)."""
    if len(cells) < len(columns):
        raise BadRow("missing_field", f"{len(cells)} cells, no {columns[len(cells)]}")
    if is_exact and len(cells) > len(columns):
        raise BadRow("bad_type", f"{len(cells)} cells for {len(columns)} columns")
    return cells
