"""A shard folded along its journal as others write it: recovery to the end, a standby for ever, an audit with a judge.

1. Start from the newest snapshot that verifies and whose journal record is still the journal's, else from the genesis.
2. Read the journal on, committed records only; check each record's link; fetch the inputs it names; fold them.

Clock, ``seq`` and outputs of every batch must come out as the journal says, or ``InvariantError`` is raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from engine.core.shard import Shard
from engine.edges.fold import Fold, Line
from engine.edges.journal import (
    JOURNAL_TOPIC,
    Genesis,
    OrderRecord,
    Position,
    check_link,
    decode_journal,
    record_hash,
)
from engine.edges.snapshot import Snapshot
from engine.errors import InputError, InvariantError
from engine.shell import oplog
from engine.shell.inputs import Inputs
from engine.shell.kafka import Kafka, Place, Reader
from engine.shell.status import Recovery

READ_MAX = 500


@dataclass(frozen=True)
class Origin:
    """What a shard begins with where it has no past: parameters and book, and the hash that names both."""

    shard: int
    config_hash: str
    new_shard: Callable[[], Shard]


# What else is done with a batch: its order record, its inputs, the outputs they gave, and the fold after it.
Judge = Callable[[OrderRecord, Sequence[Any], Sequence[Line], Fold], Awaitable[None]]


class Follower:
    """One shard and how far along its journal it is; ``fold`` is None until there is a journal."""

    def __init__(self, kafka: Kafka, origin: Origin, *, judge: Judge | None = None) -> None:
        self.kafka = kafka
        self.origin = origin
        self.judge = judge
        self.place = Place(JOURNAL_TOPIC, origin.shard)
        self.fold: Fold | None = None
        self.inputs = Inputs(kafka)
        self.stack = AsyncExitStack()
        self.tail: Reader | None = None
        self.events = 0
        # How far the present catch_up() has come.
        self.recovery = Recovery()

    async def __aenter__(self) -> Follower:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self, snapshot: Snapshot | None = None) -> None:
        """Begin at a snapshot, which must be one of this journal, or at the genesis."""
        first, _ = await self.kafka.edges([self.place])
        offset = first[self.place]
        if snapshot is not None:
            position = snapshot.position
            offset = position.journal_offset + 1
            self.fold = Fold(snapshot.shard, position, logical=self.kafka.logical)
            oplog.info("snapshot_loaded", shard=self.origin.shard, batch=position.batch, seq=snapshot.shard.seq)
        self.tail = await self.stack.enter_async_context(self.kafka.reader({self.place: offset}, what=JOURNAL_TOPIC))

    async def step(self, *, wait_ms: int) -> int:
        """Fold what has come since; return how many order records that was."""
        if self.tail is None:
            raise InvariantError("start() comes first")
        records = await self.tail.read(wait_ms=wait_ms, records_max=READ_MAX)
        for record in records:
            await self._take(record.offset, record.value)
        return len(records)

    async def catch_up(self) -> None:
        """Fold all that is in the journal now."""
        if self.tail is None:
            raise InvariantError("start() comes first")
        _, last = await self.kafka.edges([self.place])
        recovery, events = self.recovery, self.events
        recovery.begin(await self.tail.position(self.place), last[self.place])
        while (reached := await self.tail.position(self.place)) < last[self.place]:
            await self.step(wait_ms=100)
            recovery.reached, recovery.events = reached, self.events - events
        recovery.end()

    async def _take(self, offset: int, data: bytes) -> None:
        place = f"{JOURNAL_TOPIC}-{self.place.partition} offset {offset}"
        record = decode_journal(data, place)
        if isinstance(record, Genesis):
            self._begin(record, data, place)
        else:
            if self.fold is None:
                raise InputError(
                    f"{place}: the journal begins with batch {record.batch} and no snapshot goes with it: the records "
                    "before it were deleted (retention.ms of the journal must be -1)"
                )
            check_link(record, self.fold.position, place)
            records = await self.inputs.take(record.runs)
            lines = self.fold.replay_batch(record, data, records)
            self.events += len(records)
            if self.judge is not None:
                await self.judge(record, records, lines, self.fold)
        if self.fold is not None:
            self.fold.position.journal_offset = offset

    def _begin(self, genesis: Genesis, data: bytes, place: str) -> None:
        if self.fold is not None:
            raise InvariantError(f"{place}: a second genesis")
        if (genesis.cluster, genesis.shard) != (self.kafka.config.cluster, self.origin.shard):
            raise InputError(f"{place}: journal of {genesis.cluster}, shard {genesis.shard}")
        if genesis.config_hash != self.origin.config_hash:
            raise InputError(
                f"{place}: began with another risk file or book ({genesis.config_hash[:12]}, here "
                f"{self.origin.config_hash[:12]}): start with those, and change parameters by control messages"
            )
        offsets = {topic: dict(numbers) for topic, numbers in genesis.offsets.items()}
        position = Position(0, record_hash(data), offsets=offsets)
        self.fold = Fold(self.origin.new_shard(), position, logical=self.kafka.logical)

    async def close(self) -> None:
        """Disconnect; the fold stays."""
        await self.inputs.close()
        await self.stack.aclose()
        self.tail = None
