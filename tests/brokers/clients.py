"""Kafka clients as the tests need them: opened for a block, closed after it, every option that matters written out.

The options are those the service sets, so that what a test shows is what the service gets. A client whose start
failed is closed too: left to the collector, its warning would fail some later test.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import ProducerFenced

DEADLINE_S = 30.0
BACKOFF_MS = 10


def unique(prefix: str) -> str:
    """Return a name that no other test, and no earlier run against the same broker, has used."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


@asynccontextmanager
async def admin_client(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """Yield an admin client."""
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await client.start()
        yield client
    finally:
        await client.close()


async def new_topic(
    bootstrap: str, *, partitions: int = 1, configs: dict[str, str] | None = None, name: str | None = None
) -> str:
    """Create a topic of the test's own and return its name, once its partitions can be written."""
    topic = name or unique("topic")
    async with admin_client(bootstrap) as client:
        request = NewTopic(topic, partitions, 1, topic_configs=configs)
        response = await client.create_topics([request])
        assert [code for _, code, *_ in response.topic_errors] == [0], response

        async def can_be_written() -> bool:
            found = (await client.describe_topics([topic]))[0]["partitions"]
            return len(found) == partitions and all(each["leader"] >= 0 for each in found)

        await until(can_be_written)
    return topic


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return once ``condition`` holds; raise TimeoutError if that takes too long."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if await condition():
                return
            await asyncio.sleep(BACKOFF_MS / 1000)


def new_producer(bootstrap: str, transactional_id: str | None = None, **options: Any) -> AIOKafkaProducer:
    """Return a producer that is not yet started: transactional with an id, else idempotent."""
    settings: dict[str, Any] = {
        "acks": "all",
        "enable_idempotence": True,
        "retry_backoff_ms": BACKOFF_MS,
        "linger_ms": 0,
        "transactional_id": transactional_id,
    }
    return AIOKafkaProducer(bootstrap_servers=bootstrap, **settings | options)


@asynccontextmanager
async def producer(
    bootstrap: str, transactional_id: str | None = None, **options: Any
) -> AsyncIterator[AIOKafkaProducer]:
    """Yield a started producer: transactional with an id, else idempotent."""
    client = new_producer(bootstrap, transactional_id, **options)
    try:
        await client.start()
        yield client
    finally:
        await client.stop()


@asynccontextmanager
async def zombie(bootstrap: str, transactional_id: str, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    """Yield a producer that another will have shut out by the end of the block: that its stop then fails is no news."""
    client = new_producer(bootstrap, transactional_id, **options)
    try:
        await client.start()
        yield client
    finally:
        try:
            await client.stop()
        except ProducerFenced:
            pass


@asynccontextmanager
async def consumer(
    bootstrap: str, *partitions: TopicPartition, start: int | None = 0, **options: Any
) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer that was assigned ``partitions`` and stands at offset ``start`` of each (None: nowhere yet)."""
    settings = {
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "retry_backoff_ms": BACKOFF_MS,
        "fetch_max_wait_ms": 100,
    }
    client = AIOKafkaConsumer(bootstrap_servers=bootstrap, **settings | options)
    try:
        await client.start()
        client.assign(partitions)
        if start is not None:
            for partition in partitions:
                client.seek(partition, start)
        yield client
    finally:
        await client.stop()


async def read_all(bootstrap: str, topic: str, *, partitions: Sequence[int] = (0,), **options: Any) -> list[bytes]:
    """Return the values of all records up to the present end: the last stable offset, unless ``options`` say else."""
    parts = [TopicPartition(topic, index) for index in partitions]
    async with asyncio.timeout(DEADLINE_S), consumer(bootstrap, *parts, **options) as client:
        ends = await client.end_offsets(parts)
        values: list[bytes] = []
        while any([await client.position(part) < ends[part] for part in parts]):
            for records in (await client.getmany(timeout_ms=50)).values():
                values += [record.value for record in records if record.value is not None]
        return values


async def read_settled(bootstrap: str, topic: str, *, partitions: Sequence[int] = (0,)) -> list[bytes]:
    """Return the values of all committed records once no transaction is undecided.

    A commit is answered a moment before its markers are written: who reads at once may find nothing yet.
    """
    parts = [TopicPartition(topic, index) for index in partitions]

    async def is_settled() -> bool:
        ends = []
        for level in ("read_committed", "read_uncommitted"):
            async with consumer(bootstrap, *parts, start=None, isolation_level=level) as client:
                ends.append(await client.end_offsets(parts))
        return ends[0] == ends[1]

    await until(is_settled)
    return await read_all(bootstrap, topic, partitions=partitions)


async def committed_offset(bootstrap: str, group: str, topic: str, partition: int = 0) -> int | None:
    """Return a group's committed offset."""
    part = TopicPartition(topic, partition)
    async with consumer(bootstrap, part, start=None, group_id=group) as client:
        offset: int | None = await client.committed(part)
        return offset
