"""What a live shard does all day: take what has come, apply it, commit it.

A batch is committed at once when it caused outputs, else when it is ``interval_ms`` old or ``records_max`` long: its
outputs, its order record and its input offsets in one transaction. An idle shard commits an empty batch every
``heartbeat_ms``, so that a standby sees that it lives.

In the mode ``at_least_once`` outputs go out the moment they are made, by a producer of their own, and the order record
is committed once the broker has them: after a crash an output may come twice (or differently, where the inputs behind
it were not yet in the journal), under the same ``output_id``.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from engine import __version__
from engine.edges.fold import Fold, Line
from engine.edges.journal import JOURNAL_TOPIC, Offsets
from engine.edges.service_config import ServiceConfig
from engine.shell.inbox import Inbox
from engine.shell.kafka import Place, PlainWriter, Writer
from engine.shell.snapshots import Snapshots
from engine.shell.status import Status

# The longest wait for records: how late a sign of life, a snapshot or the end of the service may be noticed.
IDLE_S = 0.05
# Offsets of partitions without traffic are committed again now and then, lest the broker forgets them.
REFRESH_S = 3600.0


class Session:
    """One stretch of live work on a fold."""

    def __init__(
        self,
        fold: Fold,
        inbox: Inbox,
        writer: Writer,
        plain: PlainWriter | None,
        snapshots: Snapshots,
        config: ServiceConfig,
        status: Status,
    ) -> None:
        self.fold = fold
        self.inbox = inbox
        self.writer = writer
        self.plain = plain
        self.snapshots = snapshots
        self.config = config
        self.status = status
        self.metrics = status.metrics
        self.shard = fold.shard.number
        self.sent: list[asyncio.Future[Any]] = []
        # When the open batch was begun, and when its oldest input arrived.
        self.opened_s = self.oldest_s = time.monotonic()
        # The first commit is due at once: whoever had the shard before sees that it has a new owner.
        self.committed_s = -1e9
        self.refreshed_s = -REFRESH_S

    async def step(self) -> None:
        """Take and apply what has come; commit, take a snapshot, or give up where that is due."""
        records = await self.inbox.take(
            self.config.batch.records_max - len(self.fold.batch.places), wait_s=self.wait_s()
        )
        if records:
            await self.apply(records)
        if self.is_due():
            await self.commit()
            self.snapshots.tend(self.fold)

    async def lag(self) -> dict[str, int]:
        """Return how many inputs of each topic are there and not committed, as far as the readers know."""
        is_busy = bool(self.inbox.pending or self.fold.batch.places)
        lags: Counter[str] = Counter()
        for reader in self.inbox.readers:
            for place, end in reader.ends().items():
                # Behind the last record there may be markers of transactions: read past, and nobody's input.
                reached = self.fold.position.offsets[place.topic][place.partition]
                lags[place.topic] += max(0, end - (reached if is_busy else await reader.position(place)))
        return dict(lags)

    async def drain(self) -> None:
        """Commit what is applied."""
        if self.fold.batch.places:
            await self.commit()

    async def apply(self, records: Sequence[Any]) -> None:
        """Apply records, in the order they came."""
        if not self.fold.batch.places:
            self.opened_s = time.monotonic()
            self.oldest_s = self.inbox.taken[0][0]
        self.metrics.catalogue.waiting.put(len(self.inbox.pending), self.metrics.label)
        lines = self.fold.apply(records)
        self.status.records += len(records)
        self.metrics.observe_fold(self.fold, self.inbox.taken)
        if self.plain is not None and lines:
            self.sent += await self.plain.send(self.shard, lines)

    def wait_s(self) -> float:
        """Return how long to wait for records before a commit may be due."""
        if not self.fold.batch.places:
            return IDLE_S
        return min(IDLE_S, max(0.0, self.opened_s + self.config.batch.interval_ms / 1000 - time.monotonic()))

    def is_due(self) -> bool:
        """Return whether to commit now."""
        batch, now = self.fold.batch, time.monotonic()
        if not batch.places:
            return now >= self.committed_s + self.config.heartbeat_ms / 1000
        is_old = now >= self.opened_s + self.config.batch.interval_ms / 1000
        # What has gone out already does not wait for the commit.
        is_awaited = bool(batch.lines) and self.plain is None
        return is_awaited or is_old or len(batch.places) >= self.config.batch.records_max

    async def commit(self) -> None:
        """Commit the open batch: its outputs (or that the broker has them), its order record, its input offsets."""
        started_s = time.monotonic()
        data, batch = self.fold.close_batch(
            delivery=self.config.delivery, engine=__version__, checked=self.snapshots.take_checked()
        )
        record, seq = journal_line(self.shard, data), self.fold.shard.seq
        lines = [record]
        if self.plain is None:
            lines = [*batch.lines, record]
        else:
            await self.plain.wait(self.sent)
            self.sent.clear()
        position = self.fold.position
        offsets = places_of(position.offsets)
        if started_s < self.refreshed_s + REFRESH_S:
            touched = {(topic, number) for topic, number, _ in batch.places}
            offsets = {place: offset for place, offset in offsets.items() if place in touched}
        else:
            self.refreshed_s = started_s
        position.journal_offset = await self.writer.commit(self.shard, lines, offsets)
        self.committed_s = self.status.progressed_s = time.monotonic()
        self.status.batches += 1
        self.status.ring.publish(seq, batch.lines)
        self.metrics.observe_commit(
            self.fold, batch, oldest_s=self.oldest_s, began_s=started_s, ended_s=self.committed_s
        )


def journal_line(shard: int, data: bytes) -> Line:
    """Return an order record as a line of the journal."""
    return Line(JOURNAL_TOPIC, str(shard).encode(), data)


def places_of(offsets: Offsets) -> dict[Place, int]:
    """Return the next offset of every input partition."""
    return {Place(topic, number): offset for topic, numbers in offsets.items() for number, offset in numbers.items()}
