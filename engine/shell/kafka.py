"""What we ask of a Kafka client, every option said out loud: readers, writers, and the errors they raise as ours.

The only module that knows aiokafka. What it works around, with the version it was seen in (0.14):

* ``commit_transaction`` succeeds although a ``send`` in the transaction failed: every send's future is awaited first.
* A partition whose records wait in the client delays the fetches of all others of that broker: a reader is drained
  whole, never by partition. Partitions that are read at different speeds get readers of their own.
* No call has a deadline of its own: each gets one here. What a time-out leaves is unknown, so the caller starts over.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import aiokafka.producer.sender
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidProducerEpoch,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    ProducerFenced,
    TopicAlreadyExistsError,
    for_code,
)
from aiokafka.partitioner import murmur2

from engine.edges.fold import Line
from engine.edges.service_config import KafkaConfig, ServiceConfig
from engine.edges.topics import RECORD_OVERHEAD_BYTES_MAX, FoundTopic
from engine.errors import BrokerError, FencedError, InputError

# Between two transactions the coordinator finishes the first; the client asks again after this. Its own 20 ms is a
# third of our commit interval, and a coordinator on the same network is done in one or two.
aiokafka.producer.sender.BACKOFF_OVERRIDE = 0.002

FETCH_WAIT_MS = 500
# A consumer's back-off is also its pause between two attempts to connect. Only a transaction has reason to hurry.
CONSUMER_BACKOFF_MS = 100
# How long a client may take to say goodbye.
CLOSE_S = 3.0
FETCH_BYTES_MAX = 16 << 20
BATCH_BYTES = 256 << 10
# What a broker that was asked to do a thing may answer when the thing is done already.
ALREADY = (TopicAlreadyExistsError,)


class Place(NamedTuple):
    """A partition of a topic, by our name of it."""

    topic: str
    partition: int


@contextlib.asynccontextmanager
async def deadline(seconds: float, what: str) -> AsyncIterator[None]:
    """Run the body for at most ``seconds``; errors of the broker and time-outs are raised as ours, saying ``what``."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise BrokerError(f"{what}: no answer in {seconds:g} s") from error
    except (ProducerFenced, InvalidProducerEpoch) as error:
        raise FencedError(f"{what}: another instance has taken this shard over") from error
    except (OffsetOutOfRangeError, NoOffsetForPartitionError) as error:
        raise InputError(
            f"{what}: {error.args[0] if error.args else error}: the topic no longer holds records that are needed; "
            "restore them, or start from a snapshot that is newer than what was lost"
        ) from error
    except (KafkaError, OSError, AssertionError) as error:
        # aiokafka asserts where a producer that has failed is used again.
        raise BrokerError(f"{what}: {type(error).__name__}: {error}") from error


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

    async def edges(self, places: Iterable[Place]) -> tuple[dict[Place, int], dict[Place, int]]:
        """Return the first offset of each partition, and the one after its last committed record."""
        consumer = AIOKafkaConsumer(**consumer_options(self), group_id=None)
        partitions = {TopicPartition(self.physical(place.topic), place.partition): place for place in places}
        async with deadline(self.config.deadlines.start_s, "offsets"), stopping(consumer):
            await consumer.start()
            first = await consumer.beginning_offsets(list(partitions))
            last = await consumer.end_offsets(list(partitions))
        return (
            {partitions[key]: offset for key, offset in first.items()},
            {partitions[key]: offset for key, offset in last.items()},
        )

    async def committed(self, group: str, places: Iterable[Place]) -> dict[Place, int | None]:
        """Return the offsets that a group has committed, None where it has none."""
        consumer = AIOKafkaConsumer(**consumer_options(self), group_id=group)
        found = {}
        async with deadline(self.config.deadlines.start_s, "committed offsets"), stopping(consumer):
            partitions = {place: TopicPartition(self.physical(place.topic), place.partition) for place in places}
            consumer.assign(list(partitions.values()))
            await consumer.start()
            for place, partition in partitions.items():
                found[place] = await consumer.committed(partition)
        return found

    async def found_topics(self, names: Sequence[str]) -> dict[str, FoundTopic]:
        """Return the topics of ours that exist."""
        admin = AIOKafkaAdminClient(**self.connection, request_timeout_ms=self.config.kafka.request_timeout_ms)
        async with deadline(self.config.deadlines.start_s, "topics"), closing(admin):
            await admin.start()
            described = await admin.describe_topics([self.physical(name) for name in names])
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
        async with deadline(self.config.deadlines.start_s, "create topics"), closing(admin):
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
        self.consumer = AIOKafkaConsumer(**consumer_options(kafka), group_id=None)

    async def __aenter__(self) -> Reader:
        """Connect and go to the offsets."""
        async with contextlib.AsyncExitStack() as undo, deadline(self.kafka.config.deadlines.start_s, self.what):
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
            **producer_options(kafka),
            transactional_id=transactional_id,
            transaction_timeout_ms=kafka.config.kafka.transaction_timeout_ms,
        )

    async def start(self) -> None:
        """Fence every earlier owner of the id and end what it left open."""
        async with deadline(self.kafka.config.deadlines.start_s, "transactional producer"):
            await self.producer.start()

    async def commit(self, partition: int, lines: Sequence[Line], offsets: Mapping[Place, int]) -> int:
        """Write lines and input offsets in one transaction; return the offset of the last line.

        Raises FencedError where another instance has the shard. After any error the outcome is unknown: start over.
        """
        positions = {
            TopicPartition(self.kafka.physical(place.topic), place.partition): offset
            for place, offset in offsets.items()
        }
        async with deadline(self.kafka.config.deadlines.commit_s, "commit"):
            await self.producer.begin_transaction()
            sent = [await send(self.producer, self.kafka, partition, line) for line in lines]
            if positions:
                # Side by side with the lines: the broker takes a millisecond or two for either.
                group = asyncio.ensure_future(self.producer.send_offsets_to_transaction(positions, self.group))
                await asyncio.gather(*sent, group)
            acknowledged = await asyncio.gather(*sent)
            await self.producer.commit_transaction()
        return int(acknowledged[-1].offset)

    async def close(self) -> None:
        """Disconnect."""
        await stop(self.producer)


class PlainWriter:
    """A producer without transactions: each line once, in order, visible at once."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.producer = AIOKafkaProducer(**producer_options(kafka), enable_idempotence=True)

    async def start(self) -> None:
        """Connect."""
        async with deadline(self.kafka.config.deadlines.start_s, "producer"):
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


async def send(producer: AIOKafkaProducer, kafka: Kafka, partition: int | None, line: Line) -> asyncio.Future[Any]:
    """Hand one line to a producer."""
    future: asyncio.Future[Any] = await producer.send(
        kafka.physical(line.topic), line.value, key=line.key, partition=partition
    )
    return future


def partition_of(key: str, partitions: int) -> int:
    """Return the partition that Kafka's default partitioner gives a key."""
    return int((murmur2(key.encode()) & 0x7FFFFFFF) % partitions)


def connection_options(config: ServiceConfig) -> dict[str, Any]:
    """Return how to reach the cluster: addresses, encryption, credentials."""
    kafka = config.kafka
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "client_id": f"liq-engine-{config.cluster}",
        "security_protocol": kafka.security_protocol,
        "retry_backoff_ms": kafka.retry_backoff_ms,
        "metadata_max_age_ms": 60_000,
        "connections_max_idle_ms": 540_000,
    }
    if kafka.security_protocol in ("SSL", "SASL_SSL"):
        options["ssl_context"] = ssl_context(kafka)
    if kafka.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.sasl_username
        if kafka.sasl_password is not None:
            options["sasl_plain_password"] = kafka.sasl_password.get_secret_value()
    return options


def ssl_context(kafka: KafkaConfig) -> ssl.SSLContext:
    """Return the TLS context of the configuration; raises InputError where its files do not make one."""
    # Without a password of its own an encrypted key would have the terminal asked for one.
    password = kafka.key_password.get_secret_value() if kafka.key_password is not None else ""
    try:
        context = ssl.create_default_context(cafile=kafka.ca_file)
        if kafka.certificate_file is not None:
            context.load_cert_chain(kafka.certificate_file, kafka.key_file, lambda: password)
    except OSError as error:
        raise InputError(f"kafka.ca_file, certificate_file, key_file: {error}") from None
    return context


def consumer_options(kafka: Kafka) -> dict[str, Any]:
    """Return what every consumer is told."""
    return {
        **kafka.connection,
        "retry_backoff_ms": CONSUMER_BACKOFF_MS,
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "request_timeout_ms": kafka.config.kafka.request_timeout_ms,
        "fetch_max_wait_ms": FETCH_WAIT_MS,
        "fetch_min_bytes": 1,
        "fetch_max_bytes": FETCH_BYTES_MAX,
        "max_partition_fetch_bytes": FETCH_BYTES_MAX,
        "check_crcs": True,
    }


def producer_options(kafka: Kafka) -> dict[str, Any]:
    """Return what every producer is told."""
    return {
        **kafka.connection,
        "acks": "all",
        "linger_ms": 0,
        "max_batch_size": BATCH_BYTES,
        "max_request_size": kafka.config.kafka.message_bytes_max + RECORD_OVERHEAD_BYTES_MAX,
        "request_timeout_ms": kafka.config.kafka.request_timeout_ms,
        "compression_type": None,
    }


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
