"""How a shard's whole state becomes bytes and those bytes the same state again.

    magic, schema, length and SHA-256 of the header      48 bytes
    header    JSON: engine, shard, config hash, position in the journal, the list of sections, SHA-256 of the body
    body      the sections, end to end

A section is a JSON document or an array of little-endian int64, deflated where that pays. Arrays are stored column by
column: like stands beside like, and what a row-wise table of 100,000 accounts deflates to shrinks by another eighth.
Every byte is under one of the two checksums, and equal state gives equal bytes, whatever order sets were filled in.

State is written generically, by the fields of its dataclasses and the tables ``SHARD`` and ``BOOK``. An attribute that
is neither in them nor among those known to follow from others stops the encoding: nothing is forgotten silently. Fields
may come and go between versions; then the names no longer match and the snapshot is refused as of another schema.

Encoding takes no lock, starts no thread and calls no kernel, so that a forked child can do it.
"""

from __future__ import annotations

import gc
import hashlib
import struct
import zlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from itertools import repeat
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import orjson

from engine import __version__
from engine.core.book import CROSS, Book, Clearing, Int64Array, Price
from engine.core.events import Origin
from engine.core.kernels.rows import LOADED_COLUMNS, load_balances, saved_positions_into
from engine.core.kernels.tables import COST_MAX, FLAGS, SIZE_MAX, STANDING_FLAGS, Tables
from engine.core.pacing import Flow
from engine.core.params import Asset, Instrument, Policy, Risk
from engine.core.shard import Counters, Episode, Hold, SeenIds, Shard, Venue
from engine.core.tables import Array, TableStore
from engine.edges.journal import Position
from engine.errors import SnapshotError, check
from engine.units import INT64_MAX

MAGIC = b"LIQSNAP\n"
SCHEMA = 2
# Magic, schema, length of the header, SHA-256 of the header.
LEAD = struct.Struct("<8sII32s")
# What does not shrink by a tenth is stored as it is: reading it back costs more than its bytes.
WORTH_PERCENT = 90
JSON, INT64 = "json", "<i8"

SYMBOL = LOADED_COLUMNS.index("symbol")

Ids = set[tuple[str, str, str]]

# attribute -> type, of all that is written as JSON.
SHARD: dict[str, Any] = {
    "seq": int,
    "counters": Counters,
    "origin": Origin,
    "future": tuple[str, int] | None,
    "episodes": dict[int, Episode],
    "episode_counts": dict[int, int],
    "last_orders": dict[int, int],
    "order_rows": dict[tuple[str, str], int],
    "timers": list[tuple[int, str, str, str]],
    "holds": dict[int, Hold],
    "forced": set[int],
    "paused": dict[str, str],
    "flows": defaultdict[int, Flow],
    "dirty": set[int],
    "stuck": set[int],
}
BOOK: dict[str, Any] = {
    "policy": Policy,
    "policy_version": int,
    "clock": int | None,
    "instruments": list[Instrument],
    "assets": list[Asset],
    "marks": list[Price],
    "asset_prices": list[Price],
    "emptied": set[int],
    "clearing": list[Clearing],
    "system": dict[str, list[int]],
    "transfers": list[int],
}
# Of the above, what is kept under another name.
PROPERTIES = {"marks"}
# Attributes with a section of their own, those that follow from others, and scratch space.
OTHERS: dict[type, set[str]] = {
    Shard: {"number", "book", "ids", "venue", "planner", "outputs"},
    Book: {"accounts", "buckets", "tables"}
    | {"symbol_index", "specs", "tiers", "settle", "asset_index", "weights", "row_index"}
    | {"standings", "scratch", "is_scanned", "is_verified", "waiting", "_marks", "_marks_are_behind"},
    TableStore: {*Tables.__slots__, "used", "view", "found_rows"},
    SeenIds: {"limit", "current", "previous"},
}


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the body: where it is and what it holds."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int
    is_deflated: bool


@dataclass(frozen=True, slots=True)
class Header:
    """What a snapshot says of itself."""

    schema: int
    engine: str
    shard: int
    config_hash: str
    position: Position
    sections: tuple[Section, ...]
    body_bytes: int
    body_sha256: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A shard as it was, and where in the journal that was."""

    shard: Shard
    config_hash: str
    position: Position
    engine: str


def encode_snapshot(shard: Shard, *, config_hash: str, position: Position) -> bytes:
    """Return the bytes of a shard's state between two batches.

    Raises InvariantError where outputs wait to be sent (they would be lost) or an attribute is of an unknown name.
    """
    check(not shard.outputs, f"{len(shard.outputs)} outputs were not yet taken, expected none at a snapshot")
    check_covered(shard)
    body = Body()
    with collector_paused():
        write_shard(body, shard)
    stored = b"".join(body.parts)
    header = Header(
        schema=SCHEMA,
        engine=__version__,
        shard=shard.number,
        config_hash=config_hash,
        position=position,
        sections=tuple(body.sections),
        body_bytes=len(stored),
        body_sha256=hashlib.sha256(stored).hexdigest(),
    )
    head = orjson.dumps(pack(header))
    return LEAD.pack(MAGIC, SCHEMA, len(head), hashlib.sha256(head).digest()) + head + stored


def decode_snapshot(data: bytes, *, venue: Venue | None = None) -> Snapshot:
    """Return the state that ``data`` holds; raises SnapshotError naming what is wrong with it.

    ``venue`` is attached to the shard: what a simulated venue remembers is not part of a snapshot.
    """
    header = read_header(data)
    try:
        with collector_paused():
            shard = read_shard(Reader(header, data), header.shard, venue)
    except (LookupError, TypeError, ValueError) as error:
        raise SnapshotError("schema", f"written by engine {header.engine}, not by {__version__}: {error!r}") from error
    return Snapshot(shard, header.config_hash, header.position, header.engine)


def read_header(data: bytes) -> Header:
    """Return the header, every byte of ``data`` checked; raises SnapshotError."""
    if len(data) < LEAD.size:
        raise SnapshotError("torn", f"{len(data)} bytes, expected at least {LEAD.size}")
    magic, schema, head_bytes, head_sha256 = LEAD.unpack_from(data)
    if magic != MAGIC:
        raise SnapshotError("schema", f"begins with {magic!r}: not a snapshot")
    if schema != SCHEMA:
        raise SnapshotError("schema", f"schema {schema}, this engine reads {SCHEMA}")
    view = memoryview(data)
    head, body = view[LEAD.size : LEAD.size + head_bytes], view[LEAD.size + head_bytes :]
    if len(head) < head_bytes:
        raise SnapshotError("torn", f"{len(head)} bytes of the header, expected {head_bytes}")
    if hashlib.sha256(head).digest() != head_sha256:
        raise SnapshotError("checksum", "the header is not what was written")
    try:
        header: Header = unpack(Header, orjson.loads(head))
    except (LookupError, TypeError, ValueError) as error:
        raise SnapshotError("schema", f"the header has other fields: {error!r}") from error
    if len(body) < header.body_bytes:
        raise SnapshotError("torn", f"{len(body)} bytes of the body, expected {header.body_bytes}")
    if hashlib.sha256(body).hexdigest() != header.body_sha256:
        raise SnapshotError("checksum", "the body is not what was written")
    return header


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python from looking for cycles among millions of new objects that have none: it would take most of the time.

    In a forked child it would also touch, and so copy, every page of the parent's heap.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# What is written, and how it is put back.


def check_covered(shard: Shard) -> None:
    """Raise InvariantError if some object has an attribute that a snapshot would lose."""
    book = shard.book
    parts: tuple[tuple[type, Any, dict[str, Any]], ...]
    parts = (Shard, shard, SHARD), (Book, book, BOOK), (SeenIds, shard.ids, {}), (TableStore, book.tables, {})
    for kind, item, table in parts:
        names = vars(item).keys()
        check(
            names == (OTHERS[kind] | table.keys()) - PROPERTIES,
            f"{kind.__name__}: {sorted(names)}: a snapshot knows others",
        )


def write_shard(body: Body, shard: Shard) -> None:
    """Add all sections of a shard."""
    book = shard.book
    body.add_json("shard", {name: pack(getattr(shard, name)) for name in SHARD})
    body.add_json("book", {name: pack(getattr(book, name)) for name in BOOK})
    body.add_json("accounts", book.accounts)
    body.add_json("buckets", [[row, bucket] for row, bucket in enumerate(book.buckets) if bucket != CROSS])
    ids = shard.ids
    body.add_json("ids", {"limit": ids.limit, "current": grouped(ids.current), "previous": grouped(ids.previous)})
    body.add_array("largest", book.tables.symbols[:, [SIZE_MAX, COST_MAX]])
    body.add_array("flags", book.tables.rows[: len(book.accounts), FLAGS] & STANDING_FLAGS)
    held = sum(map(book.holders_count, range(len(book.instruments))))
    columns = np.zeros((len(LOADED_COLUMNS), held), dtype=np.int64)
    saved_positions_into(book.tables.view, len(book.accounts), columns)
    body.add_array("positions", columns)
    for asset, parameters in enumerate(book.assets):
        body.add_array(f"balances/{parameters.name}", book.balances(asset))


def read_shard(reader: Reader, number: int, venue: Venue | None) -> Shard:
    """Return the shard that the sections hold; tables that follow from parameters are built as a new book does."""
    values = unpack_fields(BOOK, reader.json("book"))
    assets = {asset.name: asset for asset in values["assets"]}
    instruments = {instrument.symbol: instrument for instrument in values["instruments"]}
    shard = Shard(Risk(values["policy"], assets, instruments), number=number, venue=venue)
    book = shard.book
    for name, value in values.items():
        setattr(book, name, value)
    for name, value in unpack_fields(SHARD, reader.json("shard")).items():
        setattr(shard, name, value)
    ids = reader.json("ids")
    shard.ids.limit = ids["limit"]
    shard.ids.current, shard.ids.previous = ungrouped(ids["current"]), ungrouped(ids["previous"])
    read_tables(reader, book)
    return shard


def read_tables(reader: Reader, book: Book) -> None:
    """Put back which rows there are, with their positions and balances; what prices they lack follows from these."""
    accounts = reader.json("accounts")
    buckets = [CROSS] * len(accounts)
    for row, bucket in reader.json("buckets"):
        buckets[row] = bucket
    book.restore_rows(accounts, buckets)
    tables = book.tables
    tables.rows[: len(accounts), FLAGS] = reader.array("flags")
    book.note_prices()
    tables.add_loaded(reader.array("positions"))
    for asset, parameters in enumerate(book.assets):
        load_balances(tables.view, asset, reader.array(f"balances/{parameters.name}"))
    tables.symbols[:, [SIZE_MAX, COST_MAX]] = reader.array("largest")


def grouped(ids: Ids) -> dict[str, dict[str, list[str]]]:
    """Return ids by kind and account, sorted: a third of the bytes of a list of triples."""
    groups: dict[str, dict[str, list[str]]] = {}
    for kind, account, name in ids:
        groups.setdefault(kind, {}).setdefault(account, []).append(name)
    for accounts in groups.values():
        for names in accounts.values():
            names.sort()
    return groups


def ungrouped(groups: dict[str, dict[str, list[str]]]) -> Ids:
    """Return the ids that were grouped."""
    ids: Ids = set()
    for kind, accounts in groups.items():
        for account, names in accounts.items():
            ids.update(zip(repeat(kind), repeat(account), names, strict=False))
    return ids


# Sections.


@dataclass(slots=True)
class Body:
    """The sections written so far."""

    sections: list[Section] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    def add_json(self, name: str, value: Any) -> None:
        """Add a document."""
        self._add(Section(name, JSON, (), 0, 0, False), orjson.dumps(value, option=orjson.OPT_SORT_KEYS))

    def add_array(self, name: str, table: Array) -> None:
        """Add a table of integers."""
        self._add(Section(name, INT64, table.shape, 0, 0, False), table.astype(INT64).tobytes())

    def _add(self, section: Section, raw: bytes) -> None:
        deflated = zlib.compress(raw, 1)
        is_deflated = len(deflated) * 100 < len(raw) * WORTH_PERCENT
        part = deflated if is_deflated else raw
        self.sections.append(replace(section, offset=self.size, length=len(part), is_deflated=is_deflated))
        self.parts.append(part)
        self.size += len(part)


class Reader:
    """The sections of a checked snapshot, by name."""

    def __init__(self, header: Header, data: bytes) -> None:
        self.sections = {section.name: section for section in header.sections}
        self.body = memoryview(data)[len(data) - header.body_bytes :]

    def _raw(self, section: Section) -> bytes | memoryview:
        part = self.body[section.offset : section.offset + section.length]
        return zlib.decompress(part) if section.is_deflated else part

    def json(self, name: str) -> Any:
        """Return a document."""
        return orjson.loads(self._raw(self.sections[name]))

    def array(self, name: str) -> Int64Array:
        """Return a table, read-only."""
        section = self.sections[name]
        return np.frombuffer(self._raw(section), dtype=INT64).reshape(section.shape)


# Values.


def pack(value: Any) -> Any:
    """Return a value as JSON holds it: integers beyond 64 bits as text, mappings as pairs in their order."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if -INT64_MAX <= value <= INT64_MAX else str(value)
        case dict():
            return [[pack(key), pack(item)] for key, item in value.items()]
        case list() | tuple() | deque():
            return [pack(item) for item in value]
        case set() | frozenset():
            return [pack(item) for item in sorted(value)]
    return {item.name: pack(getattr(value, item.name)) for item in fields(value)}


def unpack(hint: Any, packed: Any) -> Any:
    """Return the value of type ``hint`` that ``pack`` made ``packed`` of; a misfit raises TypeError or ValueError."""
    kind: Any = get_origin(hint) or hint
    arguments = get_args(hint)
    if kind in (Union, UnionType):
        (known,) = (argument for argument in arguments if argument is not NoneType)
        return None if packed is None else unpack(known, packed)
    if kind is int and type(packed) in (int, str):
        return int(packed)
    if kind in (bool, str) and type(packed) is kind:
        return packed
    if isinstance(kind, type) and is_dataclass(kind):
        return kind(**unpack_fields(field_types(kind), packed))
    if type(packed) is not list:
        raise TypeError(f"{packed!r} is not of type {hint}")
    if issubclass(kind, Mapping):
        worth = int if kind is Counter else arguments[1]
        pairs = {unpack(arguments[0], key): unpack(worth, item) for key, item in packed}
        return defaultdict(worth, pairs) if kind is defaultdict else kind(pairs)
    if hasattr(kind, "_fields"):
        return kind(*(unpack(type_, item) for type_, item in zip(field_types(kind).values(), packed, strict=True)))
    if kind is tuple and arguments[-1] is not Ellipsis:
        return tuple(unpack(type_, item) for type_, item in zip(arguments, packed, strict=True))
    return kind(unpack(arguments[0], item) for item in packed)


def unpack_fields(types: dict[str, Any], packed: dict[str, Any]) -> dict[str, Any]:
    """Return the values of named fields; raises ValueError unless they are those of ``types``."""
    if type(packed) is not dict or packed.keys() != types.keys():
        raise ValueError(f"fields {sorted(packed)}, expected {sorted(types)}")
    return {name: unpack(type_, packed[name]) for name, type_ in types.items()}


@cache
def field_types(kind: type) -> dict[str, Any]:
    """Return the types of a dataclass's or named tuple's fields."""
    return get_type_hints(kind)


# In pieces, for a topic whose records have a largest size.


def chunks(data: bytes, size: int) -> tuple[bytes, list[bytes]]:
    """Return a manifest and the pieces of a snapshot, at most ``size`` bytes each.

    The manifest names every piece by its hash. Published last, it vouches for the set: pieces of two snapshots, as a
    compacted topic shows them when a publisher was stopped halfway, do not pass for one.
    """
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return orjson.dumps({"chunks": [hashlib.sha256(piece).hexdigest() for piece in pieces]}), pieces


def join_chunks(manifest: bytes, pieces: Mapping[int, bytes]) -> bytes:
    """Return the snapshot that a manifest vouches for, its pieces given by number from 0; raises SnapshotError.

    Pieces beyond its last are left over from a longer one and do not matter.
    """
    try:
        hashes = unpack_fields({"chunks": list[str]}, orjson.loads(manifest))["chunks"]
    except (TypeError, ValueError) as error:
        raise SnapshotError("torn", f"the manifest cannot be read: {error}") from error
    for number, expected in enumerate(hashes):
        if number not in pieces:
            raise SnapshotError("torn", f"chunk {number} of {len(hashes)} is missing")
        if hashlib.sha256(pieces[number]).hexdigest() != expected:
            raise SnapshotError("torn", f"chunk {number} of {len(hashes)} is not of this snapshot")
    return b"".join(pieces[number] for number in range(len(hashes)))
