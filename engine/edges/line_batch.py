"""How a batch of raw lines is read for the machine: usual marks and fills by a kernel, others when their turn comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from engine.core.book import Book, Int64Array
from engine.core.events import Message, Origin
from engine.core.kernels.follow import MARK_COLUMNS, read_marks_into
from engine.core.kernels.lines import (
    ACCOUNT_LENGTH,
    ACCOUNT_START,
    FILL,
    FILL_ID_LENGTH,
    FILL_ID_START,
    KIND,
    LINE_COLUMNS,
    ORDER_ID_LENGTH,
    ORDER_ID_START,
    SYMBOL_LENGTH,
    SYMBOL_START,
    TS,
)
from engine.core.lines import FillLine, Lines, no_fill
from engine.core.names import NameIndex

# Of a fill: its time, and where each of its names stands, as ``FillLine`` has them.
_NAMED = [
    TS,
    *(SYMBOL_START, SYMBOL_LENGTH, ACCOUNT_START, ACCOUNT_LENGTH),
    *(FILL_ID_START, FILL_ID_LENGTH, ORDER_ID_START, ORDER_ID_LENGTH),
]


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
        bounds = np.array([0, *accumulate(map(len, values))], dtype=np.int64)
        buffer = np.frombuffer(b"".join(values), dtype=np.uint8)
        return self.read(buffer, bounds[:-1], bounds[1:], message=message, origin=origin)

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
        fills = read_marks_into(buffer, begins, ends, self.fields, self.symbols.table, marks)
        return Lines(marks, message, origin, fills_of(buffer, self.fields[:count]) if fills else no_fill)


def fills_of(buffer: npt.NDArray[np.uint8], fields: Int64Array) -> Callable[[int], FillLine | None]:
    """Return what tells the fill that a line of a batch with fills says, if it is one of the usual form.

    buffer, fields  as ``read_lines_into`` leaves them; the fields may be written anew afterwards
    """
    lines = np.flatnonzero(fields[:, KIND] == FILL)
    fills, text = fields[lines], buffer.data
    named = fills[:, _NAMED].tolist()
    places = {line: place for place, line in enumerate(lines.tolist())}

    def name(start: int, length: int) -> str:
        return str(text[start : start + length], "ascii")

    def fill(index: int) -> FillLine | None:
        place = places.get(index)
        if place is None:
            return None
        ts, symbol, symbol_size, account, account_size, fill_id, fill_id_size, order_id, order_id_size = named[place]
        names = name(symbol, symbol_size), name(account, account_size), name(fill_id, fill_id_size)
        return FillLine(fills, place, ts, *names, name(order_id, order_id_size) if order_id_size else "")

    return fill
