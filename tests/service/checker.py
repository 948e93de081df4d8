"""Is what the shards wrote what their inputs call for? Read with a plain client, folded again, compared byte for byte.

Shares with the service only the pure core and the form of a journal record; not the code that recovers, follows or
audits. ``Difference`` names the first thing that is not as it must be:

1. The journal: one genesis, then batches 1, 2, 3 ..., each with the SHA-256 of the record before it, its runs where the
   last ones of their partition ended: every input taken once, none left out.
2. The outputs: each of the four topics holds exactly what the fold gives, the same bytes in the same order.
3. Their ``seq``: 1, 2, 3 ... over all four topics together.
4. The committed offsets of the shard's group: those of the journal.
5. Money is conserved in what the fold leaves.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from aiokafka import TopicPartition

from engine.core.events import DEAD_LETTERS_TOPIC, OUTPUT_TOPICS, Output
from engine.core.ledger import check_conservation
from engine.core.machine import Machine
from engine.core.shard import Shard
from engine.edges.codec import encode
from engine.edges.fold import message_of
from engine.edges.journal import JOURNAL_TOPIC, Genesis, OrderRecord, decode_journal
from engine.edges.topics import group_id
from engine.errors import InvariantError
from engine.shell.service import origins_of
from tests.brokers.clients import DEADLINE_S, committed_offset, consumer
from tests.service.harness import Deployment, input_places

Value = tuple[bytes | None, bytes | None]


class Difference(AssertionError):
    """What a shard wrote is not what its inputs call for."""


@dataclass
class Record:
    """A record as any client reads it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True)
class Evidence:
    """All that was read about one shard; topics by our names."""

    shard: int
    journal: Sequence[Record]
    inputs: Mapping[tuple[str, int], Mapping[int, Record]]
    outputs: Mapping[str, Sequence[Value]]
    committed: Mapping[tuple[str, int], int | None]


@dataclass
class Verdict:
    """What a shard that is as it must be has done."""

    shard: int
    batches: int = 0
    inputs: int = 0
    outputs: Counter[str] = field(default_factory=Counter)


def expect(condition: bool, message: str) -> None:
    """Raise Difference unless ``condition`` holds."""
    if not condition:
        raise Difference(message)


def judge(evidence: Evidence, new_shard: Callable[[], Shard]) -> Verdict:
    """Return what a shard did, if that is what its inputs call for; raises Difference."""
    verdict = Verdict(evidence.shard)
    genesis, records = decoded(evidence)
    shard = new_shard()
    machine = Machine(shard)
    offsets = {(topic, number): offset for topic, part in genesis.offsets.items() for number, offset in part.items()}
    wanted: dict[str, list[Value]] = {topic: [] for topic in OUTPUT_TOPICS}
    for record in records:
        name = f"shard {evidence.shard} batch {record.batch}"
        taken = list(inputs_of(evidence, record, offsets, name))
        for output in machine.apply([message_of(one, one.topic, evidence.shard) for one in taken]):
            wanted[output.topic].append((key_of(output, evidence), encode(output.body)))
        expect(shard.clock == record.clock, f"{name}: clock {shard.clock}, the journal says {record.clock}")
        expect(shard.seq == record.seq, f"{name}: seq {shard.seq}, the journal says {record.seq}")
        verdict.inputs += len(taken)
    verdict.batches = len(records)
    for topic, values in wanted.items():
        expect_same(f"{topic}-{evidence.shard}", evidence.outputs[topic], values)
        verdict.outputs[topic] = len(values)
    expect_every_seq(evidence)
    for place, records_of in evidence.inputs.items():
        end = max(records_of, default=-1) + 1
        expect(offsets[place] == end, f"{place}: taken up to {offsets[place]}, it ends at {end}")
        found = evidence.committed[place]
        expect(found == offsets[place], f"{place}: committed {found}, the journal says {offsets[place]}")
    try:
        check_conservation(shard.book)
    except InvariantError as error:
        raise Difference(f"shard {evidence.shard}: {error}") from error
    return verdict


def decoded(evidence: Evidence) -> tuple[Genesis, list[OrderRecord]]:
    """Return the journal's genesis and its batches, once each is known to follow the one before."""
    expect(bool(evidence.journal), f"shard {evidence.shard}: the journal is empty")
    first, *rest = evidence.journal
    genesis = decode_journal(first.value or b"", "genesis")
    if not isinstance(genesis, Genesis):
        raise Difference(f"shard {evidence.shard}: the journal begins with batch {genesis.batch}")
    records, previous = [], first
    for number, found in enumerate(rest, start=1):
        name = f"journal-{evidence.shard} offset {found.offset}"
        record = decode_journal(found.value or b"", name)
        if isinstance(record, Genesis):
            raise Difference(f"{name}: a second genesis")
        expect(record.batch == number, f"{name}: batch {record.batch}, expected {number}")
        chain = hashlib.sha256(previous.value or b"").hexdigest()
        expect(record.previous == chain, f"{name}: batch {number} does not follow the record before it")
        records.append(record)
        previous = found
    return genesis, records


def inputs_of(
    evidence: Evidence, record: OrderRecord, offsets: dict[tuple[str, int], int], name: str
) -> Iterable[Record]:
    """Yield the inputs of a batch; ``offsets`` moves past them. Input topics have no gaps: nobody here aborts there."""
    for run in record.runs:
        place = run.topic, run.partition
        expect(place in evidence.inputs, f"{name}: takes from {place}, which is not the shard's")
        expect(run.first == offsets[place], f"{name}: {place} from {run.first}, the last ended at {offsets[place]}")
        expect(run.records == run.last - run.first + 1, f"{name}: {run} counts wrong")
        for offset in range(run.first, run.last + 1):
            expect(offset in evidence.inputs[place], f"{name}: {place} holds no offset {offset}")
            yield evidence.inputs[place][offset]
        offsets[place] = run.last + 1


def key_of(output: Output, evidence: Evidence) -> bytes | None:
    """Return the key an output has at the broker: an account, of a dead letter that of the input it is about."""
    if output.topic != DEAD_LETTERS_TOPIC:
        return output.key.encode()
    place = output.body["topic"], output.body["partition"]
    return evidence.inputs[place][output.body["offset"]].key


def expect_same(name: str, found: Sequence[Value], wanted: Sequence[Value]) -> None:
    """Raise Difference at the first output that is another, is missing, or is one too many."""
    for number, (one, other) in enumerate(zip(found, wanted, strict=False)):
        expect(one == other, f"{name}: output {number} is {said(one)}, the inputs call for {said(other)}")
    expect(len(found) == len(wanted), f"{name}: {len(found)} outputs, the inputs call for {len(wanted)}")


def expect_every_seq(evidence: Evidence) -> None:
    """Raise Difference unless the outputs are numbered 1, 2, 3 ... over the four topics."""
    found = sorted(json.loads(value or b"{}")["seq"] for values in evidence.outputs.values() for _, value in values)
    for number, seq in enumerate(found, start=1):
        expect(seq == number, f"shard {evidence.shard}: seq {seq} where {number} is due")


def said(value: Value) -> str:
    """Return an output such that it can be recognised."""
    return f"{(value[0] or b'').decode()} {(value[1] or b'')[:200].decode(errors='replace')}"


async def gather(deployment: Deployment) -> list[Evidence]:
    """Read everything about a deployment at rest, with a plain client."""
    inputs: dict[tuple[str, int], dict[int, Record]] = {}
    for place in input_places(deployment):
        records = await read_partition(deployment, place)
        inputs[records_name(deployment, place)] = {record.offset: record for record in records}
    evidence = []
    for shard in range(deployment.config.shards):
        own = [records_name(deployment, place) for place in deployment.inputs_of(shard)]
        outputs = {}
        for topic in OUTPUT_TOPICS:
            found = await read_partition(deployment, TopicPartition(deployment.name(topic), shard))
            outputs[topic] = [(record.key, record.value) for record in found]
        evidence.append(
            Evidence(
                shard,
                await read_partition(deployment, TopicPartition(deployment.name(JOURNAL_TOPIC), shard)),
                {place: inputs[place] for place in own},
                outputs,
                await committed_of(deployment, shard),
            )
        )
    return evidence


def records_name(deployment: Deployment, place: TopicPartition) -> tuple[str, int]:
    """Return a partition by our name of its topic."""
    return place.topic.removeprefix(deployment.config.kafka.topic_prefix), place.partition


async def committed_of(deployment: Deployment, shard: int) -> dict[tuple[str, int], int | None]:
    """Return the offsets that a shard has committed."""
    bootstrap, group = deployment.config.kafka.bootstrap_servers, group_id(deployment.config, shard)
    return {
        records_name(deployment, place): await committed_offset(bootstrap, group, place.topic, place.partition)
        for place in deployment.inputs_of(shard)
    }


async def read_partition(deployment: Deployment, place: TopicPartition) -> list[Record]:
    """Return all committed records of a partition."""
    found: list[Record] = []
    topic, _ = records_name(deployment, place)
    async with asyncio.timeout(DEADLINE_S), consumer(deployment.config.kafka.bootstrap_servers, place) as client:
        end = (await client.end_offsets([place]))[place]
        while await client.position(place) < end:
            for records in (await client.getmany(timeout_ms=50)).values():
                found += [Record(topic, one.partition, one.offset, one.key, one.value) for one in records]
    return found


async def check_all(deployment: Deployment) -> list[Verdict]:
    """Return what each shard of a deployment at rest has done; raises Difference."""
    found = await gather(deployment)
    _, origins = origins_of(deployment.config, [one.shard for one in found])
    return [judge(one, origin.new_shard) for one, origin in zip(found, origins, strict=True)]
