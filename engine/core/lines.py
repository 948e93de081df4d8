"""A batch of inputs as the machine takes them: usual marks and fills read, of the others how to get the message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from engine.core.book import Int64Array
from engine.core.events import Message, Origin


class FillLine(NamedTuple):
    """A fill of the usual form: its names and its time, and where what else it says stands.

    fills  int64[fill, 21]  columns of ``kernels/lines.py``; this one stands at ``place``
    """

    fills: Int64Array
    place: int
    ts: int
    symbol: str
    account: str
    fill_id: str
    order_id: str


def no_fill(_index: int) -> FillLine | None:
    """Return that no line is a fill of the usual form: each that is a fill is decoded in full."""
    return None


@dataclass(slots=True)
class Lines:
    """Inputs in their order; whoever reads them from files or a broker makes these.

    marks    int64[line, 4]  columns of ``kernels/follow.py``: what the line says if it is a mark of the usual form
    message  returns a line decoded in full, by its index; None where it is blank
    origin   returns where a line came from, by its index
    fill     returns what a line says if it is a fill of the usual form, by its index; else None
    """

    marks: Int64Array
    message: Callable[[int], Message | None]
    origin: Callable[[int], Origin]
    fill: Callable[[int], FillLine | None] = no_fill

    @property
    def count(self) -> int:
        """How many lines there are."""
        return len(self.marks)

    def part(self, begin: int, end: int) -> Lines:
        """Return the lines from ``begin`` on, before ``end``."""
        return Lines(
            self.marks[begin:end],
            lambda index: self.message(begin + index),
            lambda index: self.origin(begin + index),
            lambda index: self.fill(begin + index),
        )
