"""The fake broker fails where its plan says and nowhere else, and what it keeps is right whatever was cut off.

The engine's own promise, an input affects the outputs once, rests on the client and the broker together. So a small
transactional copier, shaped as the service is, runs here into a fault at every boundary its requests have.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import ConcurrentTransactions, InvalidTxnState, KafkaError
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from tests.brokers.clients import (
    DEADLINE_S,
    committed_offset,
    consumer,
    new_topic,
    producer,
    read_all,
    unique,
)
from tests.brokers.fake import Fake
from tests.brokers.faults import TRANSACTIONAL, Action, delay, drop, fail, run
from tests.brokers.logs import CORRUPT_MESSAGE, NONE, OLD_EPOCH, OUT_OF_ORDER, PartitionLog, control_batch

INPUTS = [b"%d" % number for number in range(6)]
# Three transactions of two inputs each, in the six requests of which one has to be first to name the producer.
REQUESTS = {
    "InitProducerId": 1,
    "AddPartitionsToTxn": 3,
    "Produce": 3,
    "AddOffsetsToTxn": 3,
    "TxnOffsetCommit": 3,
    "EndTxn": 3,
}
BOUNDARIES = [
    (moment, api, n) for api in REQUESTS for n in range(1, REQUESTS[api] + 1) for moment in ("before", "after")
]


class Copier:
    """Copies ``source`` to ``target`` two inputs a transaction, offsets included, as one shard does its work."""

    def __init__(self, bootstrap: str, source: str, target: str) -> None:
        self.bootstrap = bootstrap
        self.source, self.target = TopicPartition(source, 0), target
        self.group = self.name = "copier"

    async def run(self, client_id: str = "copier") -> None:
        """Take over from whoever had the id, begin at the committed offset, and stop at the end of the source."""
        part = self.source
        async with (
            producer(self.bootstrap, self.name, client_id=client_id) as client,
            consumer(self.bootstrap, part, start=None, group_id=self.group, client_id=client_id) as reader,
        ):
            position = await reader.committed(part) or 0
            reader.seek(part, position)
            while position < len(INPUTS):
                records = [await reader.getone() for _ in range(2)]
                position = records[-1].offset + 1
                async with client.transaction():
                    futures = [await client.send(self.target, record.value, partition=0) for record in records]
                    await asyncio.gather(*futures)
                    await client.send_offsets_to_transaction({part: position}, self.group)


async def prepared_copier(fake: Fake) -> Copier:
    """Return a copier with its source filled, and the fault plan counting from now."""
    source, target = await new_topic(fake.bootstrap, name="source"), await new_topic(fake.bootstrap, name="target")
    async with producer(fake.bootstrap) as client:
        for value in INPUTS:
            await client.send_and_wait(source, value, partition=0)
    fake.faults.reset()
    return Copier(fake.bootstrap, source, target)


async def assert_copied_once(fake: Fake) -> None:
    assert await read_all(fake.bootstrap, "target") == INPUTS
    assert await committed_offset(fake.bootstrap, "copier", "source") == len(INPUTS)


async def test_the_boundaries_of_a_run_are_those_its_requests_have(fake: Fake) -> None:
    copier = await prepared_copier(fake)
    await copier.run()
    await assert_copied_once(fake)
    assert {api: fake.faults.count(api, "copier") for api in TRANSACTIONAL} == REQUESTS
    assert fake.faults.boundaries(client="copier") == BOUNDARIES


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=lambda boundary: "-".join(map(str, boundary)))
async def test_a_connection_cut_at_any_boundary_neither_loses_nor_doubles(fake: Fake, boundary) -> None:
    copier = await prepared_copier(fake)
    fake.faults.at(boundary, drop, client="copier")
    await asyncio.wait_for(copier.run(), DEADLINE_S)
    await assert_copied_once(fake)
    # The request that was cut off came a second time: the fault did strike.
    assert fake.faults.count(boundary[1], "copier") == REQUESTS[boundary[1]] + 1


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=lambda boundary: "-".join(map(str, boundary)))
async def test_a_worker_that_dies_at_any_boundary_and_walks_again_is_replaced_and_shut_out(
    fake: Fake, boundary
) -> None:
    copier = await prepared_copier(fake)
    loop, died = asyncio.get_running_loop(), asyncio.Event()
    # A client that was shut out leaves futures with errors that nobody asks for; the loop would print them.
    loop.set_exception_handler(lambda *_: None)

    def die() -> Action:
        fake.faults.cut_off("first")
        loop.call_soon_threadsafe(died.set)
        return drop

    fake.faults.at(boundary, run(die), client="first")
    first = asyncio.create_task(copier.run("first"))
    await asyncio.wait_for(died.wait(), DEADLINE_S)
    await asyncio.wait_for(copier.run("second"), DEADLINE_S)
    await assert_copied_once(fake)
    # The first one was only cut off, and finds its way back with whatever it had in hand.
    fake.faults.reset()
    await asyncio.wait([first], timeout=DEADLINE_S)
    assert first.done()
    assert first.exception() is None or isinstance(first.exception(), KafkaError)
    await assert_copied_once(fake)


async def test_a_batch_whose_answer_was_lost_is_kept_once_and_keeps_its_offset(fake: Fake) -> None:
    topic = await new_topic(fake.bootstrap)
    async with producer(fake.bootstrap) as client:
        await client.send_and_wait(topic, b"first", partition=0)
        fake.faults.after("Produce", action=drop)
        assert (await client.send_and_wait(topic, b"second", partition=0)).offset == 1
        assert (await client.send_and_wait(topic, b"third", partition=0)).offset == 2
    assert await read_all(fake.bootstrap, topic) == [b"first", b"second", b"third"]


async def test_an_error_before_a_commit_leaves_it_undone_and_one_after_it_done(fake: Fake) -> None:
    topic = await new_topic(fake.bootstrap)
    seen: list[int] = []

    def look() -> None:
        log = fake.state.log_of((topic, 0))
        seen.append(log.stable if log is not None else -1)

    for plan in (fake.faults.before, fake.faults.after):
        plan("EndTxn", n=1, times=2, action=fail(ConcurrentTransactions.errno))
        plan("EndTxn", n=3, action=run(look))
        async with producer(fake.bootstrap, unique("txn"), client_id="client") as client, client.transaction():
            await client.send_and_wait(topic, b"x", partition=0)
        # Refused twice, then served.
        assert fake.faults.count("EndTxn", "client") == 3
        fake.faults.reset()
    # Refused before: at the third request the record (offset 0) is still undecided. Its marker takes offset 1.
    # Refused after: record (2) and marker (3) were there from the first request on, and no marker came twice.
    assert seen == [0, 4]
    assert await read_all(fake.bootstrap, topic) == [b"x", b"x"]


async def test_an_error_that_no_client_retries_ends_the_transaction(fake: Fake) -> None:
    topic = await new_topic(fake.bootstrap)
    fake.faults.before("EndTxn", action=fail(InvalidTxnState.errno))
    async with producer(fake.bootstrap, unique("txn")) as client:
        await client.begin_transaction()
        await client.send_and_wait(topic, b"x", partition=0)
        with pytest.raises(KafkaError):
            await client.commit_transaction()
    assert await read_all(fake.bootstrap, topic) == []


async def test_a_delayed_request_is_overtaken_by_another_clients(fake: Fake) -> None:
    topic = await new_topic(fake.bootstrap)
    async with producer(fake.bootstrap, client_id="slow") as slow, producer(fake.bootstrap, client_id="quick") as quick:
        # Both are connected and know the topic before it matters who is quicker.
        await slow.send_and_wait(topic, b"0", partition=0)
        await quick.send_and_wait(topic, b"1", partition=0)
        fake.faults.before("Produce", action=delay(0.5), client="slow")
        late = await slow.send(topic, b"3", partition=0)
        assert (await quick.send_and_wait(topic, b"2", partition=0)).offset == 2
        assert (await late).offset == 3


async def test_a_paused_broker_answers_nobody_and_goes_on_where_it_stood(fake: Fake) -> None:
    topic = await new_topic(fake.bootstrap)
    async with producer(fake.bootstrap) as client:
        await client.send_and_wait(topic, b"before", partition=0)
        fake.faults.pause()
        sent = await client.send(topic, b"while paused", partition=0)
        done, _ = await asyncio.wait([sent], timeout=0.2)
        assert not done
        fake.faults.resume()
        assert (await asyncio.wait_for(sent, DEADLINE_S)).offset == 1


async def test_a_fault_strikes_the_request_it_was_planned_for_and_no_other(fake: Fake) -> None:
    struck: list[str] = []

    def strike(name: str) -> Callable[[], None]:
        return lambda: struck.append(f"{name} at {fake.faults.count('Produce')}")

    topic = await new_topic(fake.bootstrap)
    fake.faults.after("Produce", n=2, times=2, action=run(strike("second and third")))
    fake.faults.before("Produce", n=1, client="somebody else", action=run(strike("never")))
    async with producer(fake.bootstrap, client_id="client") as client:
        for _ in range(4):
            await client.send_and_wait(topic, b"x", partition=0)
    assert struck == ["second and third at 2", "second and third at 3"]
    assert (fake.faults.count("Produce", "client"), fake.faults.count("Produce", "somebody else")) == (4, 0)


@pytest.mark.parametrize(("api", "n", "times"), [("EndTransaction", 1, 1), ("EndTxn", 0, 1), ("EndTxn", 1, 0)])
async def test_a_plan_that_can_never_strike_is_refused(fake: Fake, api: str, n: int, times: int) -> None:
    with pytest.raises(ValueError, match=r"EndTransaction|expected 1 or more"):
        fake.faults.before(api, n=n, times=times, action=drop)


async def test_a_fake_broker_that_was_restarted_has_all_it_had_and_clients_find_it_again(fake: Fake) -> None:
    topic = await new_topic(fake.bootstrap)
    async with producer(fake.bootstrap, unique("txn")) as client:
        async with client.transaction():
            await client.send_and_wait(topic, b"before", partition=0)
        await client.begin_transaction()
        await client.send_and_wait(topic, b"across", partition=0)
        fake.restart()
        await client.commit_transaction()
    assert await read_all(fake.bootstrap, topic) == [b"before", b"across"]


def test_what_goes_wrong_in_the_fake_broker_itself_is_raised_when_it_stops() -> None:
    fake = Fake()
    fake.start()
    with socket.create_connection(("127.0.0.1", fake.state.port)) as client:
        # Metadata (3) in version 99, correlation 1, no client id.
        frame = struct.pack(">hhih", 3, 99, 1, -1)
        client.sendall(struct.pack(">i", len(frame)) + frame)
        assert client.recv(1) == b""
    with pytest.raises(ValueError, match="Metadata came in version 99, expected 5"):
        fake.stop()


def batch_of(sequence: int, *, records: int = 1, epoch: int = 0) -> bytes:
    """Return a batch of producer 7."""
    builder = DefaultRecordBatchBuilder(2, 0, False, 7, epoch, sequence, 1 << 16)
    for index in range(records):
        builder.append(index, timestamp=1, key=None, value=b"x", headers=[])
    return bytes(builder.build())


def test_a_producers_batches_are_taken_in_sequence_and_repeats_of_the_last_five_get_their_first_offset() -> None:
    log = PartitionLog()
    # Batches of two records: sequences 0, 2, 4, ... at offsets of the same number.
    for sequence in range(0, 12, 2):
        assert log.append(batch_of(sequence, records=2), 1 << 20) == (NONE, sequence)
    assert log.append(batch_of(2, records=2), 1 << 20) == (NONE, 2)
    assert log.append(batch_of(0, records=2), 1 << 20)[0] == OUT_OF_ORDER
    assert log.append(batch_of(13), 1 << 20)[0] == OUT_OF_ORDER
    assert log.append(batch_of(12, epoch=1), 1 << 20)[0] == OUT_OF_ORDER
    assert log.append(batch_of(0, epoch=1), 1 << 20) == (NONE, 12)
    assert log.append(batch_of(12), 1 << 20)[0] == OLD_EPOCH
    assert log.end == 13


def test_a_damaged_batch_is_refused() -> None:
    sound = batch_of(0)
    for position in (len(sound) - 1, len(sound) // 2):
        damaged = bytearray(sound)
        damaged[position] ^= 1
        assert PartitionLog().append(bytes(damaged), 1 << 20)[0] == CORRUPT_MESSAGE
    assert PartitionLog().append(sound + b"x", 1 << 20)[0] == CORRUPT_MESSAGE


@pytest.mark.parametrize("committed", [True, False])
def test_a_marker_is_a_control_batch_with_a_valid_checksum(committed: bool) -> None:
    batch = DefaultRecordBatch(control_batch(7, 3, committed, 1234))
    assert batch.validate_crc()
    assert batch.is_control_batch
    assert batch.is_transactional
    assert (batch.producer_id, batch.producer_epoch, batch.max_timestamp, batch.next_offset) == (7, 3, 1234, 1)
    (record,) = batch
    assert (record.key, record.value) == (struct.pack(">hh", 0, committed), struct.pack(">hi", 0, 0))
