"""What the engine relies on a broker for, shown on the fake broker and on a real Kafka alike.

A case that holds on one of them only means that the fake one lies, or that our idea of Kafka is wrong.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    MessageSizeTooLargeError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    ProducerFenced,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)
from aiokafka.protocol.api import Request

from tests.brokers.clients import (
    DEADLINE_S,
    admin_client,
    committed_offset,
    consumer,
    new_topic,
    producer,
    read_all,
    read_settled,
    unique,
    until,
    zombie,
)
from tests.brokers.fake import Fake
from tests.brokers.real import Endpoint
from tests.brokers.requests import APIS


async def send_all(client: Any, topic: str, *values: bytes, partition: int = 0) -> list[int]:
    """Send records in order and return their offsets once all are acknowledged."""
    futures = [await client.send(topic, value, partition=partition) for value in values]
    return [metadata.offset for metadata in await asyncio.gather(*futures)]


async def test_records_are_read_in_the_order_they_were_sent(broker: Endpoint) -> None:
    topic = await new_topic(broker.bootstrap)
    values = [b"%d" % number for number in range(1000)]
    # Small batches, so that the order has to hold across many requests.
    async with producer(broker.bootstrap, max_batch_size=1024) as client:
        assert await send_all(client, topic, *values) == list(range(1000))
    assert await read_all(broker.bootstrap, topic) == values


async def test_key_headers_and_timestamp_of_a_record_arrive_as_sent(broker: Endpoint) -> None:
    topic = await new_topic(broker.bootstrap)
    part = TopicPartition(topic, 0)
    async with producer(broker.bootstrap) as client:
        await client.send_and_wait(topic, b"v", key=b"k", partition=0, timestamp_ms=1234, headers=[("h", b"1")])
    async with consumer(broker.bootstrap, part) as reader:
        record = await asyncio.wait_for(reader.getone(), DEADLINE_S)
    assert (record.key, record.value, record.timestamp, record.headers) == (b"k", b"v", 1234, (("h", b"1"),))
    assert record.offset == 0


async def test_a_reader_that_seeks_into_a_batch_gets_the_rest_of_it(broker: Endpoint) -> None:
    topic = await new_topic(broker.bootstrap)
    async with producer(broker.bootstrap, linger_ms=50) as client:
        await send_all(client, topic, *[b"%d" % number for number in range(10)])
    async with consumer(broker.bootstrap, TopicPartition(topic, 0), start=7) as reader:
        assert [(await asyncio.wait_for(reader.getone(), DEADLINE_S)).value for _ in range(3)] == [b"7", b"8", b"9"]


async def test_a_reader_at_the_end_gets_what_is_sent_later(broker: Endpoint) -> None:
    topic = await new_topic(broker.bootstrap)
    async with producer(broker.bootstrap) as client, consumer(broker.bootstrap, TopicPartition(topic, 0)) as reader:
        waiting = asyncio.ensure_future(reader.getone())
        await client.send_and_wait(topic, b"late", partition=0)
        assert (await asyncio.wait_for(waiting, DEADLINE_S)).value == b"late"


async def test_partitions_are_logs_of_their_own(broker: Endpoint) -> None:
    topic = await new_topic(broker.bootstrap, partitions=3)
    async with producer(broker.bootstrap) as client:
        for partition in (0, 1, 2):
            assert await send_all(client, topic, b"a%d" % partition, b"b%d" % partition, partition=partition) == [0, 1]
    for partition in (0, 1, 2):
        found = await read_all(broker.bootstrap, topic, partitions=[partition])
        assert found == [b"a%d" % partition, b"b%d" % partition]


async def test_a_record_is_found_by_its_time(broker: Endpoint) -> None:
    topic = await new_topic(broker.bootstrap)
    part = TopicPartition(topic, 0)
    async with producer(broker.bootstrap) as client:
        for number in range(5):
            await client.send_and_wait(topic, b"x", partition=0, timestamp_ms=1000 + 10 * number)
    async with consumer(broker.bootstrap, part) as reader:
        # 1015 lies between the second record (1010) and the third (1020).
        assert (await reader.offsets_for_times({part: 1015}))[part].offset == 2
        assert (await reader.offsets_for_times({part: 1041}))[part] is None


async def test_what_a_transaction_wrote_is_seen_once_it_is_committed(broker: Endpoint) -> None:
    topic = await new_topic(broker.bootstrap, partitions=2)
    async with producer(broker.bootstrap, unique("txn")) as client:
        await client.begin_transaction()
        await send_all(client, topic, b"one")
        await send_all(client, topic, b"two", partition=1)
        assert await read_all(broker.bootstrap, topic, partitions=[0, 1]) == []
        assert len(await read_all(broker.bootstrap, topic, partitions=[0, 1], isolation_level="read_uncommitted")) == 2
        await client.commit_transaction()
    assert sorted(await read_settled(broker.bootstrap, topic, partitions=[0, 1])) == [b"one", b"two"]


async def test_what_an_aborted_transaction_wrote_is_never_seen(broker: Endpoint) -> None:
    topic = await new_topic(broker.bootstrap)
    async with producer(broker.bootstrap, unique("txn")) as client:
        for number in range(6):
            await client.begin_transaction()
            await send_all(client, topic, b"%d" % number, b"%d again" % number)
            await (client.abort_transaction() if number % 2 else client.commit_transaction())
    assert await read_settled(broker.bootstrap, topic) == [b"0", b"0 again", b"2", b"2 again", b"4", b"4 again"]
    assert len(await read_all(broker.bootstrap, topic, isolation_level="read_uncommitted")) == 12


async def test_an_open_transaction_holds_back_what_others_write_behind_it(broker: Endpoint) -> None:
    topic = await new_topic(broker.bootstrap)
    async with producer(broker.bootstrap, unique("txn")) as slow, producer(broker.bootstrap) as other:
        await send_all(other, topic, b"before")
        await slow.begin_transaction()
        await send_all(slow, topic, b"open")
        await send_all(other, topic, b"behind")
        assert await read_all(broker.bootstrap, topic) == [b"before"]
        await slow.abort_transaction()
    assert await read_settled(broker.bootstrap, topic) == [b"before", b"behind"]


async def test_two_transactions_that_overlap_are_told_apart(broker: Endpoint) -> None:
    topic = await new_topic(broker.bootstrap)
    async with producer(broker.bootstrap, unique("txn")) as first, producer(broker.bootstrap, unique("txn")) as second:
        await first.begin_transaction()
        await second.begin_transaction()
        await send_all(first, topic, b"first")
        await send_all(second, topic, b"second")
        await send_all(first, topic, b"first again")
        await second.commit_transaction()
        await first.abort_transaction()
    assert await read_settled(broker.bootstrap, topic) == [b"second"]


async def test_offsets_in_a_transaction_count_from_its_commit(broker: Endpoint) -> None:
    topic, group, name = await new_topic(broker.bootstrap), unique("group"), unique("txn")
    part = TopicPartition(topic, 0)
    async with producer(broker.bootstrap, name) as client:
        await client.begin_transaction()
        await send_all(client, topic, b"a")
        await client.send_offsets_to_transaction({part: 5}, group)
        assert await committed_offset(broker.bootstrap, group, topic) is None
        await client.commit_transaction()
    # Taking the id over waits until all that was decided under it can be seen.
    async with producer(broker.bootstrap, name) as client:
        assert await committed_offset(broker.bootstrap, group, topic) == 5
        await client.begin_transaction()
        await client.send_offsets_to_transaction({part: 9}, group)
        await client.abort_transaction()
    async with producer(broker.bootstrap, name):
        assert await committed_offset(broker.bootstrap, group, topic) == 5


async def test_offsets_committed_by_a_consumer_are_kept_for_its_group_alone(broker: Endpoint) -> None:
    topic, group = await new_topic(broker.bootstrap), unique("group")
    part = TopicPartition(topic, 0)
    async with consumer(broker.bootstrap, part, group_id=group) as reader:
        await reader.commit({part: 3})
    assert await committed_offset(broker.bootstrap, group, topic) == 3
    assert await committed_offset(broker.bootstrap, unique("group"), topic) is None


async def test_a_new_owner_of_a_transactional_id_shuts_the_old_one_out(broker: Endpoint) -> None:
    topic, name = await new_topic(broker.bootstrap), unique("txn")
    async with zombie(broker.bootstrap, name) as old:
        await old.begin_transaction()
        await send_all(old, topic, b"of the old one")
        async with producer(broker.bootstrap, name) as new, new.transaction():
            await send_all(new, topic, b"of the new one")
        with pytest.raises(ProducerFenced):
            await old.commit_transaction()
    assert await read_settled(broker.bootstrap, topic) == [b"of the new one"]


async def test_a_zombie_cannot_write_into_the_transaction_of_its_heir(broker: Endpoint) -> None:
    topic, name = await new_topic(broker.bootstrap), unique("txn")
    async with zombie(broker.bootstrap, name) as old:
        await old.begin_transaction()
        await send_all(old, topic, b"of the old one")
        async with producer(broker.bootstrap, name) as new, new.transaction():
            await send_all(new, topic, b"of the new one")
            # The partition is in an open transaction of this very id: only the epoch tells the two apart.
            with pytest.raises(ProducerFenced):
                await send_all(old, topic, b"of the old one, late")
    assert await read_settled(broker.bootstrap, topic) == [b"of the new one"]


async def test_starting_a_producer_settles_what_its_predecessor_left_open(broker: Endpoint) -> None:
    topic, name, group = await new_topic(broker.bootstrap), unique("txn"), unique("group")
    async with zombie(broker.bootstrap, name) as old:
        await old.begin_transaction()
        await send_all(old, topic, b"half")
        await old.send_offsets_to_transaction({TopicPartition(topic, 0): 5}, group)
        async with producer(broker.bootstrap, name), producer(broker.bootstrap) as other:
            # Nothing is held back any more, and the offsets are those before.
            await send_all(other, topic, b"behind")
            assert await read_all(broker.bootstrap, topic) == [b"behind"]
            assert await committed_offset(broker.bootstrap, group, topic) is None


async def test_a_transaction_left_open_too_long_is_aborted_and_its_producer_shut_out(broker: Endpoint) -> None:
    topic = await new_topic(broker.bootstrap)
    async with zombie(broker.bootstrap, unique("txn"), transaction_timeout_ms=1000) as slow:
        await slow.begin_transaction()
        await send_all(slow, topic, b"too slow")
        async with producer(broker.bootstrap) as other:
            await send_all(other, topic, b"behind")

        async def is_decided() -> bool:
            return await read_all(broker.bootstrap, topic) == [b"behind"]

        await until(is_decided)
        with pytest.raises(ProducerFenced):
            await slow.commit_transaction()
    assert await read_all(broker.bootstrap, topic) == [b"behind"]


async def test_a_commit_succeeds_although_a_send_in_it_failed_unless_the_send_is_awaited(broker: Endpoint) -> None:
    """Why the service awaits every send future before it commits."""
    topic = await new_topic(broker.bootstrap, configs={"max.message.bytes": "2000"})
    async with producer(broker.bootstrap, unique("txn")) as client:
        await client.begin_transaction()
        await send_all(client, topic, b"small")
        oversize = await client.send(topic, b"x" * 5000, partition=0)
        await client.commit_transaction()
        with pytest.raises(MessageSizeTooLargeError):
            await oversize
    assert await read_settled(broker.bootstrap, topic) == [b"small"]


async def test_sending_to_an_unknown_topic_fails_and_creates_nothing(broker: Endpoint) -> None:
    topic = unique("nowhere")
    async with producer(broker.bootstrap, request_timeout_ms=1000) as client:
        with pytest.raises(UnknownTopicOrPartitionError):
            await client.send(topic, b"x", partition=0)
    async with admin_client(broker.bootstrap) as admin:
        assert topic not in await admin.list_topics()


@pytest.mark.parametrize("position", [1, 9])
async def test_a_position_outside_the_log_is_an_error_and_moves_nowhere(broker: Endpoint, position: int) -> None:
    """Of offsets 0 to 4 retention has taken 0, 1 and 2: 1 lies before what is left, 9 behind it."""
    topic = await new_topic(broker.bootstrap)
    part = TopicPartition(topic, 0)
    async with producer(broker.bootstrap) as client:
        await send_all(client, topic, *[b"%d" % number for number in range(5)])
    async with admin_client(broker.bootstrap) as admin:
        assert (await admin.delete_records({part: RecordsToDelete(before_offset=3)}))[part] == 3
    async with consumer(broker.bootstrap, part, start=position) as reader:
        with pytest.raises(OffsetOutOfRangeError):
            await asyncio.wait_for(reader.getone(), DEADLINE_S)
        assert await reader.beginning_offsets([part]) == {part: 3}
        assert await reader.end_offsets([part]) == {part: 5}
        reader.seek(part, 3)
        assert (await asyncio.wait_for(reader.getone(), DEADLINE_S)).value == b"3"


async def test_a_group_without_an_offset_is_an_error_and_not_a_start_somewhere(broker: Endpoint) -> None:
    topic = await new_topic(broker.bootstrap)
    async with producer(broker.bootstrap) as client:
        await send_all(client, topic, b"x")
    part = TopicPartition(topic, 0)
    async with consumer(broker.bootstrap, part, start=None, group_id=unique("group")) as reader:
        with pytest.raises(NoOffsetForPartitionError):
            await asyncio.wait_for(reader.getone(), DEADLINE_S)


async def test_the_settings_of_a_compacted_topic_can_be_read_back(broker: Endpoint) -> None:
    configs = {"cleanup.policy": "compact", "segment.ms": "600000", "min.cleanable.dirty.ratio": "0.1"}
    topic = await new_topic(broker.bootstrap, configs=configs)
    async with admin_client(broker.bootstrap) as admin:
        wanted = dict.fromkeys([*configs, "max.message.bytes"], "")
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic, wanted)])
    ((code, _, _, name, entries),) = answer.resources
    assert (code, name) == (0, topic)
    assert {entry[0]: entry[1] for entry in entries} == configs | {"max.message.bytes": "1048588"}


async def test_a_topic_is_created_once_grows_and_goes(broker: Endpoint) -> None:
    topic = await new_topic(broker.bootstrap, partitions=2)
    async with admin_client(broker.bootstrap) as admin:
        again = await admin.create_topics([NewTopic(topic, 2, 1)])
        assert [code for _, code, *_ in again.topic_errors] == [TopicAlreadyExistsError.errno]
        await admin.create_partitions({topic: NewPartitions(4)})

        async def has_grown() -> bool:
            return len((await admin.describe_topics([topic]))[0]["partitions"]) == 4

        async def is_gone() -> bool:
            return topic not in await admin.list_topics()

        await until(has_grown)
        await admin.delete_topics([topic])
        await until(is_gone)


@pytest.mark.broker
async def test_the_client_picks_the_same_versions_on_the_fake_broker_as_on_kafka(fake: Fake, kafka: Endpoint) -> None:
    assert await picked_versions(fake.bootstrap) == await picked_versions(kafka.bootstrap)


async def picked_versions(bootstrap: str) -> dict[str, int]:
    """Return the version in which the client would send each request, but ApiVersions, which goes out unasked."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        connection = await client._get_conn(client.get_random_node())
        spoken = connection._versions
    finally:
        await client.close()
    picked = {}
    for builder in Request.__subclasses__():
        names = [name for name, request in APIS.items() if request in builder._CLASSES and name != "ApiVersions"]
        for name in names:
            least, most = spoken[builder.API_KEY]
            picked[name] = max(each.API_VERSION for each in builder._CLASSES if least <= each.API_VERSION <= most)
    assert set(picked) == set(APIS) - {"ApiVersions"}
    return picked
