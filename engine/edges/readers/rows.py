"""How one row of a vendor file becomes events, or a refusal with its reason.

A ``RowReader`` knows one format: it turns the cells of a row into events and raises ``BadRow`` for a row it refuses;
``messages`` drives it and turns each refusal into a ``Reject`` with file and line, so that the stream goes on.

Numbers keep the exact decimal they are written with. Vendors print some small floats with an exponent (``5e-05``);
that too is read exactly. Nothing here computes with binary floats.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

from engine.core.events import Input, Message, Origin, Reject
from engine.core.params import IDENTITY_BYTES_MAX
from engine.errors import InputError
from engine.units import NUMBER_CHARS_MAX, Number, try_number

LINE_BYTES_MAX = 1024 * 1024
DETAIL_CHARS_MAX = 80

Parse = Callable[[int, bytes], Sequence[Input]]

_EXPONENT = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)[eE]([+-]?[0-9]{1,3})", re.ASCII)


class BadRow(InputError):
    """One row is refused; ``reason`` is from the closed list, ``detail`` names column and value."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class RowReader(ABC):
    """The rows of one format; made anew for each pass over the file, so it may keep state."""

    note = ""

    @abstractmethod
    def events(self, line: int, cells: list[str]) -> Sequence[Input]:
        """Return the events of one row, in order; raise ``BadRow`` to refuse it."""

    def end(self) -> Sequence[Input]:
        """Return the events that are due once the last row was read."""
        return ()


def messages(
    file_name: str, records: Iterable[tuple[int, bytes]], parse: Parse, end: Callable[[], Sequence[Input]]
) -> Iterator[Message]:
    """Yield the messages of a file: per record its events or its refusal, and at last what ``end`` gives."""
    line = 0
    try:
        for line, payload in records:
            origin = Origin(file_name, -1, line)
            try:
                events = parse(line, payload)
            except BadRow as bad:
                yield Message(origin, Reject(bad.reason, bad.detail, payload), payload)
                continue
            for event in events:
                yield Message(origin, event, payload)
    except BadRow as bad:
        # The records themselves broke off (damaged compression): what was read before it stands.
        yield Message(Origin(file_name, -1, line + 1), Reject(bad.reason, bad.detail, b""))
    for event in end():
        yield Message(Origin(file_name, -1, line), event)


def text_of(payload: bytes) -> str:
    """Return a row as text, or refuse it as too long or not UTF-8."""
    if len(payload) > LINE_BYTES_MAX:
        raise BadRow("too_long", f"the row is longer than {LINE_BYTES_MAX} bytes")
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise BadRow("bad_encoding", f"byte {error.start} of the row is not UTF-8") from error


def shown(text: str) -> str:
    """Return a value as it may stand in a detail: quoted, cut to a length that a hostile row cannot choose."""
    return repr(text if len(text) <= DETAIL_CHARS_MAX else text[:DETAIL_CHARS_MAX] + "…")


# Prices repeat (a close is often the next open, a quiet market stays on a few ticks); a hit costs a tenth of a parse.
@lru_cache(maxsize=1 << 16)
def try_decimal(text: str) -> Number | None:
    """Return the exact value of a decimal, with or without an exponent of up to three digits, else None."""
    whole, _, fraction = text.partition(".")
    # The common case, without the regular expression of try_number, which costs half of the parse.
    if whole.isdigit() and fraction.isdigit() and text.isascii() and len(text) <= NUMBER_CHARS_MAX:
        fraction = fraction.rstrip("0")
        return int(whole + fraction), len(fraction)
    number = try_number(text)
    if number is not None:
        return number
    match = _EXPONENT.fullmatch(text) if len(text) <= NUMBER_CHARS_MAX else None
    return _shifted(try_number(match[1]), int(match[2])) if match else None


def _shifted(number: Number | None, exponent: int) -> Number | None:
    """Return ``number`` x 10**exponent."""
    if number is None:
        return None
    mantissa, places = number[0], number[1] - exponent
    if places < 0:
        return mantissa * 10**-places, 0
    while places and mantissa % 10 == 0:
        mantissa, places = mantissa // 10, places - 1
    return mantissa, places


def number_in(column: str, text: str) -> Number:
    """Return a cell as an exact decimal."""
    number = try_decimal(text)
    if number is None:
        if not text:
            raise BadRow("missing_field", f"{column} is empty")
        raise BadRow("bad_number", f"{column}: {shown(text)} is not a decimal number")
    return number


def positive_in(column: str, text: str) -> Number:
    """Return a cell as an exact decimal above zero: a price or a quantity."""
    number = number_in(column, text)
    if number[0] <= 0:
        raise BadRow("out_of_range", f"{column}: {shown(text)} is not above 0")
    return number


def identity_in(column: str, text: str) -> str:
    """Return a cell as the name of an account, a symbol or an asset."""
    if not text:
        raise BadRow("missing_field", f"{column} is empty")
    if len(text.encode()) > IDENTITY_BYTES_MAX:
        raise BadRow("out_of_range", f"{column}: {shown(text)} is longer than {IDENTITY_BYTES_MAX} bytes")
    return text
