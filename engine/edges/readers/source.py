"""How a file's bytes are read in bounded memory, whether it is plain, gzipped or zipped.

A ``Source`` tells the compression by magic bytes, never by extension, and hands out blocks or numbered lines; of a
zip it reads the first ``.csv`` member. It may be read any number of times, always from the start. ``position`` is
how far the compressed file has been consumed, for a progress display.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Protocol, cast

from engine.edges.readers.rows import LINE_BYTES_MAX, BadRow
from engine.errors import InputError

BLOCK_BYTES = 256 * 1024
HEAD_BYTES = 64 * 1024
HEAD_CHARS_SHOWN = 120
GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK\x03\x04"
# What the decompressors of the standard library raise on damaged or cut data; BadGzipFile is an OSError.
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)


class Readable(Protocol):
    """What all the streams below can do: give some bytes, at least one before the end."""

    def read1(self, size: int, /) -> bytes: ...


class Source:
    """The bytes of one file.

    name       the file's own name, used in origins
    data_name  the name that tells about the content: a zip member's, else the file's without ``.gz``
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.position = 0
        try:
            if not path.is_file():
                raise InputError(f"{path}: no such file")
            self.size_bytes = path.stat().st_size
            with path.open("rb") as raw:
                magic = raw.read(4)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        self._is_gzip = magic.startswith(GZIP_MAGIC)
        self._is_zip = magic == ZIP_MAGIC
        self._member = try_csv_member(path) if self._is_zip else None
        self.data_name = (self._member or self.name.removesuffix(".gz")).rpartition("/")[2]
        self.head = self._read_head()

    def blocks(self) -> Iterator[bytes]:
        """Yield the uncompressed content, block by block; raise ``BadRow`` where the compressed data is damaged."""
        self.position = 0
        try:
            with self.path.open("rb") as raw, self._unpacked(raw) as stream:
                # read1: of a stream that is cut short, what comes before the cut is still handed out.
                while block := stream.read1(BLOCK_BYTES):
                    self.position = raw.tell()
                    yield block
        except DAMAGE as error:
            raise BadRow("bad_encoding", f"compressed data is damaged or cut short: {error}") from error
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}") from error
        self.position = self.size_bytes

    def line_blocks(self) -> Iterator[bytes]:
        """Yield the content in blocks of whole lines; the last one's end may be missing.

        A line past the limit is cut off somewhere behind it.
        """
        tail = b""
        for block in self.blocks():
            head, newline, rest = (tail + block).rpartition(b"\n")
            if newline:
                yield head + newline
            tail = rest[: LINE_BYTES_MAX + 1]
        if tail:
            yield tail

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield (line number from 1, line without its line end); a line is cut off somewhere past the limit."""
        for number, line in enumerate(self.split(b"\n"), start=1):
            yield number, line[:-1] if line.endswith(b"\r") else line

    def split(self, separator: bytes) -> Iterator[bytes]:
        """Yield what stands between one-byte separators, the rest after the last one included if not empty."""
        tail = b""
        for block in self.blocks():
            parts = (tail + block).split(separator)
            # A part that outgrows the limit stays just over it, so that it is still refused as too long while
            # memory stays bounded by the limit and one block.
            tail = parts.pop()[: LINE_BYTES_MAX + 1]
            yield from parts
        if tail:
            yield tail

    def first_line(self) -> str:
        """Return the first line as text, for recognition: undecodable bytes are replaced, a BOM removed."""
        return self.head.split(b"\n", 1)[0].decode("utf-8", "replace").removeprefix("\ufeff").rstrip("\r")

    def begins(self) -> str:
        """Return what the file begins with, in words."""
        if self._is_zip and self._member is None:
            return "a zip archive without a .csv"
        first = self.first_line()
        return f"it begins with {first[:HEAD_CHARS_SHOWN]!r}" if first else "it begins with nothing"

    def _read_head(self) -> bytes:
        head = b""
        try:
            for block in self.blocks():
                head += block
                if len(head) >= HEAD_BYTES:
                    break
        except BadRow as bad:
            # What could be read may still be recognised; the pass over the file will refuse the rest.
            if not head:
                raise InputError(f"{self.path}: {bad.detail}") from bad
        self.position = 0
        return head

    @contextmanager
    def _unpacked(self, raw: BufferedReader) -> Iterator[Readable]:
        if self._member is not None:
            with zipfile.ZipFile(raw) as archive, archive.open(self._member) as stream:
                yield cast(Readable, stream)  # Its declared type is too narrow: what open gives has read1.
        elif self._is_zip:
            yield BytesIO()
        elif self._is_gzip:
            with gzip.GzipFile(fileobj=raw) as stream:
                yield stream
        else:
            yield raw


def try_csv_member(path: Path) -> str | None:
    """Return the name of the first CSV file in a zip archive, None if it holds none."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if name.lower().endswith(".csv")), None)
            if name is not None:
                archive.open(name).close()
            return name
    # RuntimeError: it is encrypted, or packed by a method this Python does not know.
    except (zipfile.BadZipFile, RuntimeError) as error:
        raise InputError(f"{path}: zip archive cannot be read: {error}") from error
