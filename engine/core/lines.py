"""A batch of inputs as the machine takes them: the usual marks already read, of the others how to get the message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.core.book import Int64Array
from engine.core.events import Message, Origin


@dataclass(frozen=True, slots=True)
class Lines:
    """Inputs in their order; whoever reads them from files or a broker makes these.

    marks    int64[line, 4]  columns of ``kernels/follow.py``: what the line says if it is a mark of the usual form
    message  returns a line decoded in full, by its index; None where it is blank
    origin   returns where a line came from, by its index
    """

    marks: Int64Array
    message: Callable[[int], Message | None]
    origin: Callable[[int], Origin]

    @property
    def count(self) -> int:
        """How many lines there are."""
        return len(self.marks)

    def part(self, begin: int, end: int) -> Lines:
        """Return the lines from ``begin`` on, before ``end``."""
        return Lines(
            self.marks[begin:end], lambda index: self.message(begin + index), lambda index: self.origin(begin + index)
        )
