"""The life of one shard: fence the predecessor, recover, go live, drain.

    starting -> recovering -> live -> draining -> stopped
                                   \\-> halted (any error: nothing is retried in place, the shard starts over)

Going live, in this order: (1) start the transactional producer, which fences the old owner and ends its transaction;
(2) fold the journal to its end, from the newest snapshot that verifies; (3) check that the committed input offsets are
the journal's; (4) read on from there.

What happens while it is live is in ``session.py``.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from engine import __version__
from engine.core.events import OUTPUT_TOPICS
from engine.edges.fold import INPUT_TOPICS, Fold
from engine.edges.journal import JOURNAL_TOPIC, Genesis, Offsets, Position, encode_genesis, record_hash
from engine.edges.service_config import ServiceConfig
from engine.edges.topics import group_id, transactional_id
from engine.errors import FencedError, InputError, InvariantError, check
from engine.shell import oplog
from engine.shell.follower import Follower, Origin
from engine.shell.inbox import Inbox
from engine.shell.kafka import Kafka, Place, PlainWriter, Writer
from engine.shell.session import Session, journal_line, places_of
from engine.shell.snapshots import Snapshots
from engine.shell.status import Status
from engine.shell.surveyor import surveying

ACCOUNT_TOPICS = ("fills", "transfers")
PRICE_TOPICS = ("mark-prices", "control")


class Worker:
    """One shard on Kafka."""

    def __init__(self, kafka: Kafka, origin: Origin, snapshots: Snapshots, status: Status) -> None:
        self.kafka = kafka
        self.config: ServiceConfig = kafka.config
        self.origin = origin
        self.snapshots = snapshots
        self.shard = origin.shard
        self.status = status
        self.draining = asyncio.Event()
        # What this worker has made of the shard, once it is live.
        self.fold: Fold | None = None
        group = group_id(self.config, self.shard)
        self.writer = Writer(kafka, transactional_id=transactional_id(self.config, self.shard), group=group)
        self.plain = PlainWriter(kafka) if self.config.delivery == "at_least_once" else None

    def enter(self, state: str, **fields: object) -> None:
        """Move to a state and say so."""
        self.status.enter(state)
        oplog.info(state, shard=self.shard, **fields)

    async def run(self, standby: Follower | None = None) -> None:
        """Live until told to drain; raises what ends the shard otherwise. A standby's fold spares the recovery."""
        try:
            await self.writer.start()
            if self.plain is not None:
                await self.plain.start()
            fold = await self.recover(standby)
            await self.live(fold)
        finally:
            if self.status.state != "stopped":
                self.status.enter("halted")
            await self.writer.close()
            if self.plain is not None:
                await self.plain.close()

    async def recover(self, standby: Follower | None) -> Fold:
        """Return the fold of all that is committed."""
        started_s = time.monotonic()
        self.enter("recovering")
        async with standby or Follower(self.kafka, self.origin) as follower:
            self.status.recovery = follower.recovery
            if standby is None:
                await follower.start(await self.snapshots.newest())
            try:
                await follower.catch_up()
            except InvariantError:
                self.status.metrics.count_mismatch("journal")
                raise
            fold = follower.fold
        if fold is None:
            return await self.begin()
        await self.check_offsets(fold.position)
        self.enter(
            "recovered",
            batch=fold.position.batch,
            events=follower.events,
            seconds=round(time.monotonic() - started_s, 3),
        )
        return fold

    async def begin(self) -> Fold:
        """Write the genesis of a new journal: the inputs are read from their first offsets on.

        Raises InputError where the shard has a past, and only its journal is empty: everything would be done again.
        """
        places = [
            *(Place(topic, self.shard) for topic in ACCOUNT_TOPICS),
            *(Place("mark-prices", number) for number in range(self.config.kafka.mark_partitions)),
            Place("control", 0),
        ]
        await self.check_no_past(places)
        first, _ = await self.kafka.edges(places)
        offsets: Offsets = {topic: {} for topic in INPUT_TOPICS}
        for place, offset in first.items():
            offsets[place.topic][place.partition] = offset
        genesis = Genesis(self.config.cluster, self.shard, self.origin.config_hash, offsets, __version__)
        data = encode_genesis(genesis)
        journal_offset = await self.writer.commit(self.shard, [journal_line(self.shard, data)], first)
        position = Position(0, record_hash(data), {topic: dict(of) for topic, of in offsets.items()}, journal_offset)
        shard = self.origin.new_shard()
        self.enter("began", accounts=len(shard.book.accounts))
        return Fold(shard, position, logical=self.kafka.logical)

    async def check_no_past(self, inputs: Sequence[Place]) -> None:
        """Raise InputError where outputs, committed offsets or deleted records show that there was a journal."""
        journal, outputs = Place(JOURNAL_TOPIC, self.shard), [Place(topic, self.shard) for topic in OUTPUT_TOPICS]
        first, last = await self.kafka.edges([journal, *outputs])
        committed = await self.kafka.committed(self.writer.group, inputs)
        # A genesis that was cut off leaves offsets without records: only records that were deleted move the beginning.
        traces = [f"{journal.topic} begins at offset {first[journal]}"] if first[journal] else []
        traces += [f"{place.topic} has held records" for place in outputs if last[place]]
        traces += [f"{place.topic} has a committed offset" for place in inputs if committed[place] is not None]
        if traces:
            raise InputError(
                f"journal-{self.shard} is empty, but the shard has a past: {', '.join(traces)}. Restore the journal, "
                "or begin anew under another cluster and topic_prefix"
            )

    async def check_ours(self) -> None:
        """Raise FencedError where the journal has gone on without us since we were live.

        Whoever lost the broker starts over, which fences the shard's owner. Has another instance become that meanwhile
        (this one stood still for a while: a frozen machine, a network cut on one side), it is not to be thrown out. The
        one record that may be there is our last, whose outcome we do not know.
        """
        if self.fold is None:
            return
        place, position = Place(JOURNAL_TOPIC, self.shard), self.fold.position
        records = self.kafka.committed_records(place, since=position.journal_offset + 1)
        if {record_hash(record.value) async for record in records} - {position.chain}:
            raise FencedError(f"shard {self.shard}: another instance has taken this shard over")

    async def check_offsets(self, position: Position) -> None:
        """Raise InvariantError unless the committed offsets are those of the journal.

        They were committed in the transactions of its records: anything else means that someone moved them, or that two
        instances wrote one journal. None at all means nothing: the broker forgets those of a partition to which nobody
        has committed for ``offsets.retention.minutes``. The journal is what counts.
        """
        wanted = places_of(position.offsets)
        committed = await self.kafka.committed(self.writer.group, wanted)
        for place, offset in wanted.items():
            found = committed[place]
            if found is None:
                oplog.warning("offset_forgotten", shard=self.shard, topic=place.topic, partition=place.partition)
            check(
                found in (None, offset),
                f"shard {self.shard}: committed offset of {place.topic}-{place.partition} is {found}, the journal says "
                f"{offset}: restore the group's offsets, or find out who wrote them",
            )

    async def live(self, fold: Fold) -> None:
        """Read, apply and commit until told to drain."""
        offsets = places_of(fold.position.offsets)
        async with AsyncExitStack() as stack:
            readers = []
            for topics in (ACCOUNT_TOPICS, PRICE_TOPICS):
                part = {place: offset for place, offset in offsets.items() if place.topic in topics}
                readers.append(await stack.enter_async_context(self.kafka.reader(part, what=" and ".join(topics))))
            inbox = Inbox(
                readers, pending_max=self.config.batch.pending_max, progress_s=self.config.deadlines.progress_s
            )
            stack.push_async_callback(self.snapshots.close)
            stack.push_async_callback(inbox.close)
            inbox.open()
            self.fold = fold
            self.status.ring.begin(fold.shard.seq)
            self.status.metrics.begin(fold.shard)
            spare_what_is_there()
            self.enter("live", batch=fold.position.batch, seq=fold.shard.seq)
            session = Session(fold, inbox, self.writer, self.plain, self.snapshots, self.config, self.status)
            self.status.find_lag = session.lag
            await stack.enter_async_context(surveying(fold.shard, self.status, self.config.survey.options()))
            while not self.draining.is_set():
                await session.step()
            self.enter("draining")
            await session.drain()
        self.enter("stopped", batch=fold.position.batch, seq=fold.shard.seq)


def spare_what_is_there() -> None:
    """Have the garbage collector look only at what comes from now on, once it has looked at all there is.

    A look at everything (compiled kernels, accounts) stops the loop for a tenth of a second or more. Messages hardly
    ever call for one, but requests over HTTP leave cycles behind, and a storm of them calls for one again and again.
    """
    gc.collect()
    gc.freeze()
