"""What a format needs to know of the file it reads: columns, clock, first times, names.

``Format`` describes one vendor format; ``Table`` is one file opened as it. Which reader makes events of the rows is
the format's business, how rows are found the container's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from engine.core.events import Input
from engine.edges.readers.containers import Container
from engine.edges.readers.rows import BadRow, RowReader
from engine.edges.readers.symbols import SymbolResolver
from engine.edges.readers.times import ISO, Clock, clock_of, try_unit
from engine.errors import InputError

# How many rows are looked at for a first time: a file whose first hundred rows have none is not of the format.
SAMPLE_ROWS = 100


@dataclass(frozen=True, slots=True)
class Format:
    """One vendor format.

    name      as ``--format`` takes it; ``aliases`` are the vendor's own words for it
    columns   those it cannot do without; the first holds the row's time
    unit      the unit of the times if no row tells
    layouts   the columns of files without a header, told apart by their number
    reader    makes the row reader of one pass over a table
    """

    name: str
    aliases: tuple[str, ...]
    columns: tuple[str, ...]
    unit: str
    reader: Callable[[Table], RowReader]
    layouts: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """One file as rows and columns.

    time    the column that holds a row's time
    unit    what its times are in
    times   the times of its first two readable rows, nanoseconds
    """

    container: Container
    time: str
    unit: str
    times: tuple[int, ...]
    resolver: SymbolResolver
    cash_asset: str

    @property
    def data_name(self) -> str:
        """The name that tells about the content: a zip member's or the file's."""
        return self.container.source.data_name

    @property
    def unit_note(self) -> str:
        """How the times are written, in words."""
        return "ISO 8601 times" if self.unit == ISO else f"times in {self.unit}"

    def index(self, column: str) -> int:
        """Return where ``column`` stands."""
        return self.container.columns.index(column)

    def try_index(self, column: str) -> int | None:
        """Return where ``column`` stands, None if the file has no such column."""
        return self.container.columns.index(column) if column in self.container.columns else None

    def clock(self, column: str) -> Clock:
        """Return the function that reads the times of ``column``."""
        return clock_of(self.unit, column)

    def parse(self, reader: RowReader) -> Callable[[int, bytes], Sequence[Input]]:
        """Return the function from a row's number and bytes to its events."""
        cells, events = self.container.cells, reader.events
        return lambda line, row: events(line, cells(row))


def open_table(container: Container, layout: Format, resolver: SymbolResolver, cash_asset: str) -> Table:
    """Return the file as a table of ``layout``, the unit of its times detected; a missing column raises."""
    missing = [name for name in layout.columns if name not in container.columns]
    if missing:
        have = ", ".join(container.columns)
        raise InputError(f"{container.source.path}: {layout.name} needs the column {missing[0]}, the file has {have}")
    time = layout.columns[0]
    texts = sample_times(container, container.columns.index(time))
    unit = container.unit or next((unit for unit in map(try_unit, texts) if unit is not None), layout.unit)
    return Table(container, time, unit, first_times(texts, clock_of(unit, time)), resolver, cash_asset)


def sample_times(container: Container, column: int) -> list[str]:
    """Return the time cells of the first rows, those that can be split."""
    texts = []
    try:
        for _, row in islice(container.rows(), SAMPLE_ROWS):
            try:
                texts.append(container.cells(row)[column])
            except BadRow:
                continue  # The pass over the file will refuse it, with its line.
    except BadRow:
        pass  # The file breaks off here; the pass over it will say so.
    container.source.position = 0
    return texts


def first_times(texts: Sequence[str], clock: Clock) -> tuple[int, ...]:
    """Return the first two times that can be read."""
    times: list[int] = []
    for text in texts:
        try:
            times.append(clock(text))
        except BadRow:
            continue  # As above.
        if len(times) == 2:
            break
    return tuple(times)
