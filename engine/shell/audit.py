"""``liq-engine audit``: is what a shard wrote what its inputs call for? Folds the journal again and compares.

1. Every order record follows the one before it, in number, hash and offsets.
2. The inputs that it names, folded by the pure core, give its clock, ``seq`` and outputs hash.
3. The output topics hold exactly those outputs: same bytes, same order, nothing between them. Under ``at_least_once``
   each is there at least once.
4. The state is the one whose hash the shard noted while it took snapshots.

The first difference ends it. Inputs are kept for a while only: ``since`` begins at a snapshot instead of the genesis,
and takes that state on trust. ``export`` writes the inputs in the order in which the shard took them, as an event log
that ``liq-engine replay`` reads.
"""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from engine.core.events import OUTPUT_TOPICS
from engine.edges.codec import encode, load_json
from engine.edges.digest import state_hash
from engine.edges.fold import Fold, Line
from engine.edges.journal import JOURNAL_TOPIC, OrderRecord, decode_journal
from engine.edges.shard_book import read_bytes
from engine.edges.snapshot import Snapshot, decode_snapshot
from engine.errors import InputError, InvariantError, SnapshotError
from engine.shell.follower import Follower, Origin
from engine.shell.kafka import Kafka, Place, Reader
from engine.shell.snapshots import chain_at
from engine.shell.topics import check_topics

READ_MAX = 2000
# An output of a committed batch is there at once or not at all.
WAIT_MS = 2000


@dataclass
class Findings:
    """What an audit found; ``difference`` is None where all is as it must be."""

    shard: int
    batches: int = 0
    inputs: int = 0
    outputs: int = 0
    repeated: int = 0
    states: int = 0
    difference: str | None = None


@dataclass
class Audit:
    """One shard's audit under way."""

    kafka: Kafka
    findings: Findings
    checked: dict[int, str]
    export: IO[bytes] | None = None
    outputs: dict[str, Outputs] = field(default_factory=dict)
    delivery: str = "exactly_once"

    async def judge(self, record: OrderRecord, records: Sequence[Any], lines: Sequence[Line], fold: Fold) -> None:
        """Compare one batch; raises InvariantError naming the first difference."""
        findings, self.delivery = self.findings, record.delivery
        for line in lines:
            findings.repeated += await self.outputs[line.topic].expect(line, record)
        if record.batch in self.checked:
            found = state_hash(fold.shard)
            if found != self.checked[record.batch]:
                raise InvariantError(
                    f"state after batch {record.batch}: {found[:16]}, the shard noted {self.checked[record.batch][:16]}"
                )
            findings.states += 1
        if self.export is not None:
            for item in records:
                self.export.write(encode(exported(item, self.kafka.logical(item.topic))) + b"\n")
        findings.batches += 1
        findings.inputs += len(records)
        findings.outputs += len(lines)


class Outputs:
    """One output partition, read in order."""

    def __init__(self, reader: Reader, place: Place, since: int) -> None:
        self.reader = reader
        self.place = place
        self.since = since
        self.pending: deque[Any] = deque()

    async def next(self, *, wait_ms: int) -> Any | None:
        """Return the next record that is later than output ``since``, None if there is none."""
        while True:
            while self.pending:
                record = self.pending.popleft()
                if self.since == 0 or load_json(record.value)["seq"] > self.since:
                    return record
            self.pending.extend(await self.reader.read(wait_ms=wait_ms, records_max=READ_MAX))
            if not self.pending:
                return None

    async def expect(self, line: Line, record: OrderRecord) -> int:
        """Raise InvariantError unless ``line`` comes next; return how many others, seen before or cut off, came first.

        Others are let pass under ``at_least_once`` only.
        """
        others = 0
        while True:
            found = await self.next(wait_ms=WAIT_MS)
            name = f"{self.place.topic}-{self.place.partition}"
            if found is None:
                raise InvariantError(f"{name}: batch {record.batch} calls for {short(line.value)}, and nothing comes")
            if found.value == line.value and found.key == line.key:
                return others
            if record.delivery == "exactly_once":
                raise InvariantError(
                    f"{name} offset {found.offset}: {short(found.value)}, batch {record.batch} calls for "
                    f"{short(line.value)}"
                )
            others += 1


def short(value: bytes) -> str:
    """Return what names an output: type and id."""
    body = load_json(value)
    return f"{body.get('type')} {body.get('output_id')} of {body.get('account', '-')}"


def exported(record: Any, topic: str) -> dict[str, Any]:
    """Return an input as a line of an exported log: where it stood, and its bytes."""
    payload = record.value or b""
    fields = {"topic": topic, "partition": record.partition, "offset": record.offset}
    fields["key"] = None if record.key is None else record.key.decode("utf-8", "replace")
    try:
        return {**fields, "payload": payload.decode()}
    except UnicodeDecodeError:
        return {**fields, "payload_base64": base64.b64encode(payload).decode()}


async def audit_shard(kafka: Kafka, origin: Origin, *, since: Snapshot | None, export: Path | None) -> Findings:
    """Audit one shard from its genesis, or from a snapshot of it, to the end of its journal."""
    findings = Findings(origin.shard)
    begin = 0 if since is None else since.shard.seq
    with ExitStack() as stack:
        file = None
        if export is not None:
            try:
                file = stack.enter_context(export.open("wb"))
            except OSError as error:
                raise InputError(f"{export}: cannot be written: {error}") from error
        audit = Audit(kafka, findings, await noted_states(kafka, origin.shard), file)
        try:
            async with AsyncExitStack() as readers:
                for topic in OUTPUT_TOPICS:
                    place = Place(topic, origin.shard)
                    first, _ = await kafka.edges([place])
                    reader = await readers.enter_async_context(kafka.reader(first, what=topic))
                    audit.outputs[topic] = Outputs(reader, place, begin)
                async with Follower(kafka, origin, judge=audit.judge) as follower:
                    await follower.start(since)
                    await follower.catch_up()
                await check_nothing_more(audit)
        except InvariantError as error:
            findings.difference = str(error)
    return findings


async def noted_states(kafka: Kafka, shard: int) -> dict[int, str]:
    """Return the state hashes that the journal holds, by batch."""
    found = {}
    # Closed at once also where a record is none: a generator that is only dropped keeps its connection for a while.
    async with aclosing(kafka.committed_records(Place(JOURNAL_TOPIC, shard))) as items:
        async for item in items:
            record = decode_journal(item.value, f"{JOURNAL_TOPIC}-{shard} offset {item.offset}")
            if isinstance(record, OrderRecord) and record.checked is not None:
                found[record.checked.batch] = record.checked.state_hash
    return found


async def check_nothing_more(audit: Audit) -> None:
    """Raise InvariantError where an output topic holds more than the journal calls for (and no shard is live).

    Under ``at_least_once`` what is left over was sent before a crash, and again after it; it is counted.
    """
    for outputs in audit.outputs.values():
        _, last = await audit.kafka.edges([outputs.place])
        while outputs.pending or await outputs.reader.position(outputs.place) < last[outputs.place]:
            found = await outputs.next(wait_ms=WAIT_MS)
            if found is None:
                break
            if audit.delivery == "exactly_once":
                name = f"{outputs.place.topic}-{outputs.place.partition} offset {found.offset}"
                raise InvariantError(f"{name}: {short(found.value)} is in no batch of the journal")
            audit.findings.repeated += 1


def audit(kafka: Kafka, origins: Sequence[Origin], *, since: Path | None, export: Path | None) -> list[Findings]:
    """Audit shards, one after the other; with ``since``, a snapshot file of the one shard, what came after it."""

    async def audit_all() -> list[Findings]:
        await check_topics(kafka)
        found = []
        for origin in origins:
            snapshot = None if since is None else await load_snapshot(kafka, origin, since)
            found.append(await audit_shard(kafka, origin, since=snapshot, export=export))
        return found

    return asyncio.run(audit_all())


async def load_snapshot(kafka: Kafka, origin: Origin, path: Path) -> Snapshot:
    """Return the snapshot in a file; raises SnapshotError where it is not one of this shard's journal."""
    snapshot = decode_snapshot(read_bytes(path))
    if snapshot.shard.number != origin.shard:
        raise SnapshotError("foreign_shard", f"{path}: of shard {snapshot.shard.number}, not {origin.shard}")
    found = await chain_at(kafka, origin.shard, snapshot.position.journal_offset)
    if found != snapshot.position.chain:
        raise SnapshotError("other_journal", f"{path}: batch {snapshot.position.batch} is not in this journal")
    return snapshot


def findings_text(findings: Sequence[Findings]) -> str:
    """Return what an audit found, a line a shard."""
    lines = []
    for one in findings:
        figures = f"{one.batches:,} batches, {one.inputs:,} inputs, {one.outputs:,} outputs, {one.states} states"
        verdict = "all as it must be" if one.difference is None else f"FIRST DIFFERENCE: {one.difference}"
        repeated = f", {one.repeated:,} outputs repeated" if one.repeated else ""
        lines.append(f"shard {one.shard}: {figures}{repeated}: {verdict}")
    return "\n".join(lines)
