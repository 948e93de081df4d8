"""What an opened log is: a name, a note to the user, and its messages in the order of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from engine.core.events import Message
from engine.edges.readers.rows import BadRow
from engine.edges.readers.source import Source


class Digest(Protocol):
    """A hash that takes bytes."""

    def update(self, data: bytes, /) -> None: ...


class LogFile:
    """One event log, ready to be read; each iteration reads it from the start.

    path        where it is
    format      the name of its format
    time_unit   the unit of its times: ``s``, ``ms``, ``us``, ``ns``, or ``iso`` for ISO 8601
    note        one line for people: what was recognised, unit, symbol mapping
    size_bytes  its size on disk
    blocks      of a file that holds nothing but messages, a line each: its bytes in blocks of whole lines
    """

    def __init__(
        self,
        source: Source,
        *,
        format: str,
        time_unit: str,
        note: str,
        read: Callable[[], Iterator[Message]],
        blocks: Callable[[], Iterator[bytes]] | None = None,
    ) -> None:
        self.path: Path = source.path
        self.format = format
        self.time_unit = time_unit
        self.note = note
        self.size_bytes = source.size_bytes
        self.blocks = blocks
        self._source = source
        self._read = read

    def __iter__(self) -> Iterator[Message]:
        return self._read()

    def content_into(self, digest: Digest) -> None:
        """Feed a hash with the content, uncompressed; of a damaged file with what can be read of it."""
        try:
            for block in self._source.blocks():
                digest.update(block)
        except BadRow:
            return

    def progress(self) -> float:
        """Return how much of the file the latest iteration has consumed, 0 to 1."""
        return self._source.position / self.size_bytes if self.size_bytes else 1.0
