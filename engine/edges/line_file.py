"""How a log of messages, a line each, comes to the machine in batches of lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from engine.core.book import Book, Int64Array
from engine.core.events import Mark, Message, Origin, Reject
from engine.core.kernels.follow import MANTISSA, PLACES, SYMBOL, TS
from engine.core.kernels.lines import split_lines_into
from engine.core.lines import Lines
from engine.edges.codec import decode
from engine.edges.line_batch import LineReader
from engine.edges.readers import LogFile
from engine.edges.readers.rows import BadRow
from engine.edges.report import RunRecorder
from engine.errors import InvariantError
from engine.units import INT64_MAX

# In place of a symbol: the line is blank.
BLANK = -2


class LineFile:
    """One log. ``broken`` holds, once all batches are read, the refusal of what broke off (damaged compression)."""

    def __init__(self, log: LogFile, book: Book, *, batch: int) -> None:
        if log.blocks is None:
            raise InvariantError(f"{log.path}: not a log of lines")
        self.blocks = log.blocks
        self.name = log.path.name
        self.book = book
        self.batch = batch
        self.reader = LineReader(book)
        self.broken: list[Message] = []
        self.lines_before = 0

    def batches(self) -> Iterator[Lines]:
        """Yield the lines of the file, at most ``batch`` at a time."""
        try:
            for block in self.blocks():
                yield from self._batches_of(block)
        except BadRow as bad:
            origin = Origin(self.name, -1, self.lines_before + 1)
            self.broken = [Message(origin, Reject(bad.reason, bad.detail, b""))]

    def _batches_of(self, block: bytes) -> Iterator[Lines]:
        count = block.count(b"\n") + (not block.endswith(b"\n"))
        begins, ends = np.zeros(count, dtype=np.int64), np.full(count, len(block), dtype=np.int64)
        buffer = np.frombuffer(block, dtype=np.uint8)
        found = split_lines_into(buffer, 0, begins, ends)
        if found < count and found:
            # The file's last line has no end.
            begins[found] = ends[found - 1] + 1
        for first in range(0, count, self.batch):
            part = slice(first, min(first + self.batch, count))
            yield self._read(buffer, block, begins[part], ends[part])
            self.lines_before += part.stop - part.start

    def _read(self, buffer: npt.NDArray[np.uint8], block: bytes, begins: Int64Array, ends: Int64Array) -> Lines:
        before = self.lines_before

        def origin(index: int) -> Origin:
            return Origin(self.name, -1, before + index + 1)

        def message(index: int) -> Message | None:
            payload = block[begins[index] : ends[index]].removesuffix(b"\r")
            event = decode(payload)
            if isinstance(event, Mark):
                lines.marks[index] = self.as_shown(event)
            elif event is None:
                lines.marks[index, SYMBOL] = BLANK
            return None if event is None else Message(origin(index), event, payload)

        lines = self.reader.read(buffer, begins, ends, message=message, origin=origin)
        return lines

    def as_shown(self, mark: Mark) -> tuple[int, int, int, int]:
        """Return a mark that was read in full as the others of its batch stand there, for the report alone."""
        mantissa, places = mark.price
        while mantissa > INT64_MAX:
            mantissa, places = mantissa // 10, places - 1
        return self.book.symbol_index.get(mark.symbol, -1), mantissa, places, mark.ts


class LineMarks:
    """The marks of a batch that has been applied, to be shown to the report as the log has them.

    ``names`` are the symbols that are shown, by their number in the book: those there are when it has been applied.
    """

    def __init__(self, lines: Lines, before: int, names: Sequence[str], recorder: RunRecorder) -> None:
        self.marks = lines.marks
        # The number of each line's message; a blank line is none.
        self.numbers = before + np.cumsum(lines.marks[:, SYMBOL] != BLANK)
        self.names = names
        self.recorder = recorder
        self.shown = 0

    def show(self, last: int) -> None:
        """Show those of the messages up to number ``last`` of all."""
        end = int(np.searchsorted(self.numbers, last, side="right"))
        marks = self.marks[self.shown : end]
        self.shown = max(self.shown, end)
        marks = marks[(marks[:, SYMBOL] >= 0) & (marks[:, SYMBOL] < len(self.names))]
        if not len(marks):
            return
        self.recorder.note_time(int(marks[0, TS]))
        marks = marks[np.argsort(marks[:, SYMBOL], kind="stable")]
        bounds = np.flatnonzero(np.diff(marks[:, SYMBOL], prepend=-1, append=-1))
        for begin, following in zip(bounds.tolist(), bounds[1:].tolist(), strict=False):
            prices = marks[begin:following, MANTISSA] / 10.0 ** marks[begin:following, PLACES]
            self.recorder.on_marks(self.names[int(marks[begin, SYMBOL])], prices, marks[begin:following, TS])
