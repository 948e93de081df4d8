"""What we ask of a Kafka client, every option said out loud: readers, writers, and the errors they raise as ours.

With ``kafka_connection.py`` the only module that knows aiokafka. What it works around, seen in version 0.14:

* ``commit_transaction`` succeeds although a ``send`` in the transaction failed: every send's future is awaited first.
* A partition whose records wait in the client delays the fetches of all others of that broker: a reader is drained
  whole, never by partition. Partitions that are read at different speeds get readers of their own.
* No call has a deadline of its own: each gets one here. What a time-out leaves is unknown, so the caller starts over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import IllegalOperation, TopicAlreadyExistsError, TopicAuthorizationFailedError, for_code
from aiokafka.partitioner import murmur2

from engine.edges.fold import Line
from engine.edges.service_config import ServiceConfig
from engine.edges.topics import FoundTopic
from engine.errors import BrokerError, RefusedError
from engine.shell.kafka_connection import (
    FETCH_WAIT_MS,
    connecting,
    connection_options,
    consumer_options,
    deadline,
    producer_options,
)

# Records held at a time of a partition that is read through.
READ_MAX = 2000
# How long a client may take to say goodbye.
CLOSE_S = 3.0
# What a broker that was asked to do a thing may answer when the thing is done already.
ALREADY = (TopicAlreadyExistsError,)


class Place(NamedTuple):
    """A partition of a topic, by our name of it."""

    topic: str
    partition: int


class Kafka:
    """Connections to one cluster, as the configuration says."""

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self.prefix = config.kafka.topic_prefix
        self.connection = connection_options(config)

    def physical(self, topic: str) -> str:
        """Return the broker's name of a topic of ours."""
        return self.prefix + topic

    def logical(self, topic: str) -> str:
        """Return our name of a topic of the broker's."""
        return topic.removeprefix(self.prefix)

    def reader(self, offsets: Mapping[Place, int], *, what: str) -> Reader:
        """Return a reader of partitions from the given offsets on, to be entered as a context."""
        return Reader(self, offsets, what)

    async def committed_records(
        self, place: Place, *, since: int = 0, last_offsets: int | None = None
    ) -> AsyncGenerator[Any, None]:
        """Yield what is committed in a partition now: from offset ``since`` on, of the ``last_offsets`` where given."""
        first, last = await self.edges([place])
        begin = max(first[place], since)
        if last_offsets is not None:
            begin = max(begin, last[place] - last_offsets)
        async with self.reader({place: begin}, what=place.topic) as reader:
            while await reader.position(place) < last[place]:
                for record in await reader.read(wait_ms=100, records_max=READ_MAX):
                    yield record

    async def edges(self, places: Iterable[Place]) -> tuple[dict[Place, int], dict[Place, int]]:
        """Return the first offset of each partition, and the one after its last committed record."""
        consumer = AIOKafkaConsumer(**consumer_options(self.config, self.connection), group_id=None)
        partitions = {TopicPartition(self.physical(place.topic), place.partition): place for place in places}
        async with connecting(self.config, "offsets"), stopping(consumer):
            # Assigned first: their leaders are then known from the start, and not asked for one topic after the other.
            consumer.assign(list(partitions))
            await consumer.start()
            first = await consumer.beginning_offsets(list(partitions))
            last = await consumer.end_offsets(list(partitions))
        return (
            {partitions[key]: offset for key, offset in first.items()},
            {partitions[key]: offset for key, offset in last.items()},
        )

    async def committed(self, group: str, places: Iterable[Place]) -> dict[Place, int | None]:
        """Return the offsets that a group has committed, None where it has none."""
        consumer = AIOKafkaConsumer(**consumer_options(self.config, self.connection), group_id=group)
        found = {}
        async with connecting(self.config, "committed offsets"), stopping(consumer):
            partitions = {place: TopicPartition(self.physical(place.topic), place.partition) for place in places}
            consumer.assign(list(partitions.values()))
            await consumer.start()
            for place, partition in partitions.items():
                found[place] = await consumer.committed(partition)
        return found

    async def found_topics(self, names: Sequence[str]) -> dict[str, FoundTopic]:
        """Return the topics of ours that exist."""
        admin = AIOKafkaAdminClient(**self.connection, request_timeout_ms=self.config.kafka.request_timeout_ms)
        async with connecting(self.config, "topics"), closing(admin):
            await admin.start()
            described = await admin.describe_topics([self.physical(name) for name in names])
            hidden = [t["topic"] for t in described if t["error_code"] == TopicAuthorizationFailedError.errno]
            if hidden:
                raise RefusedError(
                    f"topics: the principal may not see {', '.join(hidden)}: it lacks the rights of its role "
                    "(deploy/kafka/acls.sh)"
                )
            counts = {
                self.logical(topic["topic"]): len(topic["partitions"]) for topic in described if not topic["error_code"]
            }
            if not counts:
                return {}
            resources = [ConfigResource(ConfigResourceType.TOPIC, self.physical(name)) for name in counts]
            settings: dict[str, dict[str, str]] = {}
            for response in await admin.describe_configs(resources):
                for _, _, _, name, entries in response.resources:
                    settings[self.logical(name)] = {entry[0]: entry[1] for entry in entries}
        return {name: FoundTopic(count, settings.get(name, {})) for name, count in counts.items()}

    async def create_topics(self, topics: Mapping[str, FoundTopic]) -> None:
        """Create topics; one that exists already is left as it is."""
        admin = AIOKafkaAdminClient(**self.connection, request_timeout_ms=self.config.kafka.request_timeout_ms)
        wanted = [
            NewTopic(
                self.physical(name),
                topic.partitions,
                self.config.kafka.replication_factor,
                topic_configs=dict(topic.settings),
            )
            for name, topic in topics.items()
        ]
        async with connecting(self.config, "create topics"), closing(admin):
            await admin.start()
            response = await admin.create_topics(wanted)
            for name, code, *rest in response.topic_errors:
                error = for_code(code)
                if code and error not in ALREADY:
                    raise BrokerError(f"topic {name}: {error.__name__}: {(rest or [''])[0]}")


class Reader:
    """Reads partitions from given offsets, committed records only."""

    def __init__(self, kafka: Kafka, offsets: Mapping[Place, int], what: str) -> None:
        self.kafka = kafka
        self.what = what
        self.partitions = {TopicPartition(kafka.physical(place.topic), place.partition): place for place in offsets}
        self.offsets = dict(offsets)
        self.consumer = AIOKafkaConsumer(**consumer_options(kafka.config, kafka.connection), group_id=None)

    async def __aenter__(self) -> Reader:
        """Connect and go to the offsets."""
        async with contextlib.AsyncExitStack() as undo, connecting(self.kafka.config, self.what):
            undo.push_async_callback(self.close)
            self.consumer.assign(list(self.partitions))
            await self.consumer.start()
            for partition, place in self.partitions.items():
                self.consumer.seek(partition, self.offsets[place])
            undo.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def read(self, *, wait_ms: int, records_max: int | None = None) -> list[Any]:
        """Return what has come, in the order of each partition; nothing after ``wait_ms`` without a record."""
        async with deadline(self.kafka.config.deadlines.start_s + wait_ms / 1000, self.what):
            found = await self.consumer.getmany(timeout_ms=wait_ms, max_records=records_max)
        return [record for records in found.values() for record in records]

    async def position(self, place: Place) -> int:
        """Return the offset of the next record that ``read`` can return."""
        partition = TopicPartition(self.kafka.physical(place.topic), place.partition)
        async with deadline(self.kafka.config.deadlines.start_s, self.what):
            return int(await self.consumer.position(partition))

    def ends(self) -> dict[Place, int]:
        """Return where what may be read of each partition ends, as the broker last said; asks nobody."""
        ends = {}
        for partition, place in self.partitions.items():
            end = self.consumer.last_stable_offset(partition)
            ends[place] = self.offsets[place] if end is None else max(self.offsets[place], end)
        return ends

    async def behind(self) -> dict[Place, int]:
        """Return how many offsets partitions are behind what may be read of them, where they are.

        Asked on a connection of its own: what a client that sticks believes does not count.
        """
        _, last = await self.kafka.edges(self.offsets)
        # What has only just come is on its way here.
        await asyncio.sleep(FETCH_WAIT_MS / 1000)
        lags = {place: offset - await self.position(place) for place, offset in last.items()}
        return {place: lag for place, lag in lags.items() if lag > 0}

    async def close(self) -> None:
        """Disconnect."""
        await stop(self.consumer)


class Writer:
    """One shard's transactional producer. Whoever starts one with the same id shuts all earlier ones out."""

    def __init__(self, kafka: Kafka, transactional_id: str, group: str) -> None:
        self.kafka = kafka
        self.group = group
        self.producer = AIOKafkaProducer(
            **producer_options(kafka.config, kafka.connection),
            transactional_id=transactional_id,
            transaction_timeout_ms=kafka.config.kafka.transaction_timeout_ms,
        )

    async def start(self) -> None:
        """Fence every earlier owner of the id and end what it left open."""
        async with connecting(self.kafka.config, "transactional producer"):
            await self.producer.start()

    async def commit(self, partition: int, lines: Sequence[Line], offsets: Mapping[Place, int]) -> int:
        """Write lines and input offsets in one transaction; return the offset of the last line.

        Raises FencedError where another instance has the shard. After any error the outcome is unknown: start over.
        """
        positions = {
            TopicPartition(self.kafka.physical(place.topic), place.partition): offset
            for place, offset in offsets.items()
        }
        sent: list[asyncio.Future[Any]] = []
        try:
            async with deadline(self.kafka.config.deadlines.commit_s, "commit"):
                await self.producer.begin_transaction()
                await self._send(partition, lines, sent)
                if positions:
                    # Side by side with the lines: the broker takes a millisecond or two for either.
                    group = self.producer.send_offsets_to_transaction(positions, self.group)
                    sent.insert(0, asyncio.ensure_future(group))
                acknowledged = await asyncio.gather(*sent)
                await self.producer.commit_transaction()
        finally:
            for future in sent:
                # Where one has failed, the others' failures say nothing new; unheard they would be told as bugs.
                future.add_done_callback(hear)
        return int(acknowledged[-1].offset)

    async def _send(self, partition: int, lines: Sequence[Line], sent: list[asyncio.Future[Any]]) -> None:
        """Hand over lines; their futures go to ``sent``."""
        try:
            for line in lines:
                future = await send(self.producer, self.kafka, partition, line)
                sent.append(future)
        except IllegalOperation:
            # The producer has failed meanwhile; what was handed over before knows of what.
            await asyncio.gather(*sent)
            raise

    async def close(self) -> None:
        """Disconnect."""
        await stop(self.producer)


class PlainWriter:
    """A producer without transactions: each line once, in order, visible at once."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.producer = AIOKafkaProducer(**producer_options(kafka.config, kafka.connection), enable_idempotence=True)

    async def start(self) -> None:
        """Connect."""
        async with connecting(self.kafka.config, "producer"):
            await self.producer.start()

    async def send(self, partition: int | None, lines: Sequence[Line]) -> list[asyncio.Future[Any]]:
        """Hand lines over; the futures tell when the broker has them. Without a partition the key decides it."""
        async with deadline(self.kafka.config.deadlines.commit_s, "send"):
            return [await send(self.producer, self.kafka, partition, line) for line in lines]

    async def wait(self, sent: Sequence[asyncio.Future[Any]]) -> None:
        """Wait until the broker has all that was sent."""
        async with deadline(self.kafka.config.deadlines.commit_s, "send"):
            await asyncio.gather(*sent)

    async def close(self) -> None:
        """Send what waits and disconnect."""
        await stop(self.producer)


def hear(future: asyncio.Future[Any]) -> None:
    """Take note of how a future ended."""
    if not future.cancelled():
        future.exception()


async def send(producer: AIOKafkaProducer, kafka: Kafka, partition: int | None, line: Line) -> asyncio.Future[Any]:
    """Hand one line to a producer."""
    future: asyncio.Future[Any] = await producer.send(
        kafka.physical(line.topic), line.value, key=line.key, partition=partition
    )
    return future


def partition_of(key: str, partitions: int) -> int:
    """Return the partition that Kafka's default partitioner gives a key."""
    return int((murmur2(key.encode()) & 0x7FFFFFFF) % partitions)


@contextlib.asynccontextmanager
async def stopping(consumer: AIOKafkaConsumer) -> AsyncIterator[None]:
    """Stop a consumer at the end, whatever happened."""
    try:
        yield
    finally:
        await stop(consumer)


async def stop(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Disconnect a client, for at most ``CLOSE_S``.

    In a task of its own: stop() cancels tasks of the client and lets their CancelledError out (those that had not yet
    begun, and fetches that wait to be tried again), which here would count as our own being cancelled.
    """
    stopped = asyncio.ensure_future(client.stop())
    _, pending = await asyncio.wait([stopped], timeout=CLOSE_S)
    for task in pending:
        task.cancel()
    if not stopped.done() or stopped.cancelled() or stopped.exception() is not None:
        # What stop() did not come to; what it complains of at the end of a failed client says nothing new.
        await asyncio.wait([asyncio.ensure_future(connections_of(client).close())], timeout=CLOSE_S)


def connections_of(client: AIOKafkaConsumer | AIOKafkaProducer) -> Any:
    """Return the connections of a client: there is no public name for what is left when its stop() fails."""
    return client._client if isinstance(client, AIOKafkaConsumer) else client.client


@contextlib.asynccontextmanager
async def closing(admin: AIOKafkaAdminClient) -> AsyncIterator[None]:
    """Close an admin client at the end, whatever happened."""
    try:
        yield
    finally:
        await admin.close()
