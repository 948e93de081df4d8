"""How a batch of raw lines is read for the machine: usual marks by a kernel, other lines when their turn comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from engine.core.book import Book, Int64Array
from engine.core.events import Message, Origin
from engine.core.kernels.follow import MARK_COLUMNS, marks_into
from engine.core.kernels.lines import LINE_COLUMNS, read_lines_into
from engine.core.lines import Lines
from engine.core.names import NameIndex


class LineReader:
    """Reads batches of lines for one book."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.symbols = NameIndex()
        self.fields: Int64Array = np.zeros((0, LINE_COLUMNS), dtype=np.int64)

    def read_values(
        self,
        values: Sequence[bytes],
        *,
        message: Callable[[int], Message | None],
        origin: Callable[[int], Origin],
    ) -> Lines:
        """Return lines that came one by one."""
        lengths = np.array([len(value) for value in values], dtype=np.int64)
        ends = np.cumsum(lengths)
        buffer = np.frombuffer(b"".join(values), dtype=np.uint8)
        return self.read(buffer, ends - lengths, ends, message=message, origin=origin)

    def read(
        self,
        buffer: npt.NDArray[np.uint8],
        begins: Int64Array,
        ends: Int64Array,
        *,
        message: Callable[[int], Message | None],
        origin: Callable[[int], Origin],
    ) -> Lines:
        """Return the lines of a buffer that begin and end where said; see ``Lines`` for the rest."""
        count = len(ends)
        for instrument in self.book.instruments[len(self.symbols) :]:
            self.symbols.add(instrument.symbol.encode())
        if len(self.fields) < count:
            self.fields = np.zeros((count, LINE_COLUMNS), dtype=np.int64)
        marks = np.empty((count, MARK_COLUMNS), dtype=np.int64)
        read_lines_into(buffer, begins, ends, count, self.fields)
        marks_into(buffer, self.fields, *self.symbols.table, marks)
        return Lines(marks, message, origin)
