"""Inputs fetched again, in the order that order records name them: for recovery, standby, audit and shadow.

Every partition has a reader of its own, since the journal may want thousands of one before the next of another, and
records of one partition that wait in a shared client would hold up all others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from engine.edges.journal import Run
from engine.errors import InputError
from engine.shell.kafka import Kafka, Place, Reader

READ_MAX = 2000
# How long a record that the journal names may take to come: it was read before, so it is there or it is lost.
WAIT_MS = 200
WAITS_MAX = 50


class Partition:
    """One input partition, read from an offset on, run by run."""

    def __init__(self, reader: Reader, place: Place) -> None:
        self.reader = reader
        self.place = place
        self.pending: deque[Any] = deque()

    async def take(self, run: Run) -> list[Any]:
        """Return the records of a run; raises InputError where the topic holds others than the journal says."""
        taken: list[Any] = []
        waits = 0
        while len(taken) < run.records:
            if not self.pending:
                self.pending.extend(await self.reader.read(wait_ms=WAIT_MS, records_max=READ_MAX))
                waits = 0 if self.pending else waits + 1
                if waits == WAITS_MAX:
                    break
                continue
            record = self.pending.popleft()
            if record.offset >= run.first:
                taken.append(record)
            if record.offset >= run.last:
                break
        if len(taken) != run.records or (taken and (taken[0].offset, taken[-1].offset) != (run.first, run.last)):
            raise InputError(
                f"{run.topic}-{run.partition}: the journal names {run.records} records from offset {run.first} to "
                f"{run.last}, the topic gives {len(taken)}: it was truncated, compacted or made anew"
            )
        return taken


class Inputs:
    """All input partitions of a shard."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.partitions: dict[Place, Partition] = {}
        self.stack = AsyncExitStack()

    async def take(self, runs: Sequence[Run]) -> list[Any]:
        """Return the records of a batch, in its order."""
        records: list[Any] = []
        for run in runs:
            records += await (await self._partition(run)).take(run)
        return records

    async def _partition(self, run: Run) -> Partition:
        place = Place(run.topic, run.partition)
        partition = self.partitions.get(place)
        if partition is None:
            reader = self.kafka.reader({place: run.first}, what=f"{run.topic}-{run.partition}")
            await self.stack.enter_async_context(reader)
            partition = self.partitions[place] = Partition(reader, place)
        return partition

    async def close(self) -> None:
        """Disconnect."""
        await self.stack.aclose()
        self.partitions.clear()
