"""In which order a shard took its inputs: the order records of its journal, each chained to the one before.

Kafka orders only inside a partition, so the interleaving that a shard chose is written down: with the outputs of a
batch, in the same transaction, goes one order record. Who reads the journal and fetches the inputs that it names, in
its order, gets the same book and the same outputs.

    record 0       the genesis: cluster, shard, hash of risk file and book, first offset of every input partition
    record n > 0   the runs of input that batch n consists of, clock and output ``seq`` after it, hash of its outputs

Every record holds the SHA-256 of the one before. A run names first and last offset and the count of records between
them, because offsets have gaps: a transaction's marker takes one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from engine.edges.codec import encode, load_json
from engine.errors import InvariantError

JOURNAL_TOPIC = "journal"
SCHEMA = 1
Offsets = dict[str, dict[int, int]]


class Run(NamedTuple):
    """Consecutive records of one input partition: offsets ``first`` to ``last``, both included."""

    topic: str
    partition: int
    first: int
    last: int
    records: int


@dataclass(frozen=True, slots=True)
class Checked:
    """The hash of the whole state as it was after an earlier batch, found while a snapshot was taken."""

    batch: int
    state_hash: str


@dataclass(frozen=True, slots=True)
class Genesis:
    """What a shard began with; ``config_hash`` covers the risk file and the starting book."""

    cluster: str
    shard: int
    config_hash: str
    offsets: Offsets
    engine: str


@dataclass(frozen=True, slots=True)
class OrderRecord:
    """Which input came next. ``clock`` and ``seq`` (of the last output) are as after the batch."""

    batch: int
    runs: tuple[Run, ...]
    clock: int
    seq: int
    outputs_hash: str
    delivery: str
    engine: str
    previous: str
    checked: Checked | None = None


@dataclass(slots=True)
class Position:
    """How far a fold has come: the last record it holds (number, hash, offset) and the next offset of every input."""

    batch: int = 0
    chain: str = ""
    offsets: Offsets = field(default_factory=dict)
    journal_offset: int = -1

    def advance(self, runs: Iterable[Run]) -> None:
        """Move past the runs of a batch."""
        for run in runs:
            self.offsets[run.topic][run.partition] = run.last + 1


def record_hash(data: bytes) -> str:
    """Return what the next record's ``previous`` must be."""
    return hashlib.sha256(data).hexdigest()


def outputs_hash(lines: Iterable[bytes]) -> str:
    """Return the SHA-256 of a batch's output lines, each with its line end; "" where there are none."""
    digest, is_empty = hashlib.sha256(), True
    for line in lines:
        digest.update(line + b"\n")
        is_empty = False
    return "" if is_empty else digest.hexdigest()


def runs_of(places: Sequence[tuple[str, int, int]]) -> tuple[Run, ...]:
    """Return (topic, partition, offset) of a batch's inputs, in order, as runs."""
    runs = []
    for (topic, partition), group in groupby(places, key=itemgetter(0, 1)):
        offsets = [offset for _, _, offset in group]
        runs.append(Run(topic, partition, offsets[0], offsets[-1], len(offsets)))
    return tuple(runs)


def encode_genesis(genesis: Genesis) -> bytes:
    """Return record 0 of a journal."""
    offsets = {
        topic: {str(number): offset for number, offset in part.items()} for topic, part in genesis.offsets.items()
    }
    return encode(
        {
            "schema": SCHEMA,
            "batch": 0,
            "cluster": genesis.cluster,
            "shard": genesis.shard,
            "config_hash": genesis.config_hash,
            "offsets": offsets,
            "engine": genesis.engine,
        }
    )


def encode_record(record: OrderRecord) -> bytes:
    """Return an order record as it stands in the journal."""
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "batch": record.batch,
        "runs": [list(run) for run in record.runs],
        "clock": record.clock,
        "seq": record.seq,
        "outputs_hash": record.outputs_hash,
        "delivery": record.delivery,
        "engine": record.engine,
        "previous": record.previous,
    }
    if record.checked is not None:
        body["checked"] = [record.checked.batch, record.checked.state_hash]
    return encode(body)


def decode_journal(data: bytes, place: str) -> Genesis | OrderRecord:
    """Return what a journal record says; raises InvariantError naming its ``place`` where it is none."""
    try:
        body = load_json(data)
        if body["schema"] != SCHEMA:
            raise InvariantError(f"{place}: schema {body['schema']}, this version reads {SCHEMA}")
        if body["batch"] == 0:
            offsets = {topic: {int(key): at for key, at in part.items()} for topic, part in body["offsets"].items()}
            return Genesis(body["cluster"], body["shard"], body["config_hash"], offsets, body["engine"])
        return OrderRecord(
            batch=body["batch"],
            runs=tuple(run_in(raw) for raw in body["runs"]),
            clock=body["clock"],
            seq=body["seq"],
            outputs_hash=body["outputs_hash"],
            delivery=body["delivery"],
            engine=body["engine"],
            previous=body["previous"],
            checked=Checked(*body["checked"]) if "checked" in body else None,
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InvariantError(f"{place}: not an order record: {error}") from error


def run_in(raw: Any) -> Run:
    """Return a run of a record; raises ValueError where it is none."""
    topic, *numbers = raw
    if type(topic) is not str or len(numbers) != 4 or any(type(number) is not int for number in numbers):
        raise ValueError(f"run {raw}")
    return Run(topic, *numbers)


def check_link(record: OrderRecord, position: Position, place: str) -> None:
    """Raise InvariantError unless ``record`` is the next one after ``position``, its runs where the last ones ended."""
    if record.batch != position.batch + 1:
        raise InvariantError(f"{place}: batch {record.batch}, expected {position.batch + 1}")
    if record.previous != position.chain:
        raise InvariantError(f"{place}: batch {record.batch} follows {record.previous[:12]}, not {position.chain[:12]}")
    ends: dict[tuple[str, int], int] = {}
    for run in record.runs:
        key = run.topic, run.partition
        expected = ends.get(key, position.offsets.get(run.topic, {}).get(run.partition, -1))
        if expected < 0 or run.first < expected or not 1 <= run.records <= run.last - run.first + 1:
            raise InvariantError(f"{place}: run {run} does not follow offset {expected}")
        ends[key] = run.last + 1
