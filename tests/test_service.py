"""The service on a real Kafka: from nothing to live, drained, recovered, followed, audited, refused."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from engine.core.events import Message, Origin
from engine.core.shard import Shard
from engine.edges.codec import LINE_BYTES_MAX, decode
from engine.edges.config import load_risk
from engine.edges.digest import state_hash
from engine.edges.journal import Checked
from engine.edges.snapshot import decode_snapshot, encode_snapshot
from engine.edges.snapshot_files import SnapshotFolder
from engine.errors import BrokerError, InputError
from engine.shell import play as playing
from engine.shell.follow import Standby
from engine.shell.inbox import READ_MAX, Inbox
from engine.shell.kafka import Kafka, Reader
from engine.shell.play import play
from engine.shell.service import shards_of
from tests import golden
from tests.brokers.clients import DEADLINE_S, admin_client, consumer, producer, read_all, read_settled, until
from tests.brokers.fake import Fake
from tests.brokers.faults import delay
from tests.brokers.real import Endpoint
from tests.service_cases import (
    OUTPUTS,
    RISK,
    START_NS,
    Body,
    Clock,
    Deployment,
    Process,
    Record,
    Running,
    book_of,
    deposit,
    fill,
    golden_records,
    in_thread,
    longs,
    mark,
    names_on,
    outcome,
    place_of,
    record_of,
    run_verb,
    running,
)

broker = pytest.mark.broker
DESK_RISK = (golden.FOLDER / "desk.toml").read_text()
DESK = golden_records("desk")
STRICTER = RISK.replace('["0", "0.01", "50"]', '["0", "0.02", "50"]')
FOREVER = 1 << 30


@pytest.fixture
def deployment(kafka: Endpoint, tmp_path: Path) -> Deployment:
    """Return a cluster of one shard that has neither files nor topics yet."""
    return Deployment(tmp_path, kafka.bootstrap)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:
    """Return a function that gives the lines of the service's log that hold all of some words."""
    caplog.set_level(logging.INFO, "liq-engine")

    def lines(*words: str) -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.name == "liq-engine"]
        return [line for line in found if all(word in line for word in words)]

    return lines


Log = Callable[..., list[str]]


async def live_for(deployment: Deployment, *messages: Body | Record) -> None:
    """Let one shard live until it has taken these messages, in this order, and committed them."""
    async with running(deployment):
        await deployment.feed(*messages)


async def live_through(deployment: Deployment, records: Sequence[Record]) -> None:
    """Let one shard live until it has committed these messages, in whatever order it takes them."""
    async with running(deployment):
        await deployment.send(*records)
        await deployment.wait_for_batch(deployment.sent)


async def take_snapshot(run: Running, shard: int = 0) -> Path:
    """Have a live shard take a snapshot now; return its path once it is written, published and noted."""
    snapshots = run.worker(shard).snapshots
    before = snapshots.folder.batches()
    snapshots.taken_s = -math.inf

    async def is_done() -> bool:
        # The next order record has taken its hash along.
        is_noted = snapshots.child is None and snapshots.checked is None
        is_published = not snapshots.config.publish or (
            snapshots.publishing is not None and snapshots.publishing.done()
        )
        return is_noted and is_published and snapshots.folder.batches() != before

    await until(is_done)
    return snapshots.folder.path_of(snapshots.folder.batches()[0])


async def delete_before(deployment: Deployment, topic: str, offset: int, partition: int = 0) -> None:
    """Delete the records of a partition before an offset, as retention would; -1: all of them."""
    async with admin_client(deployment.bootstrap) as admin:
        place = TopicPartition(deployment.topic(topic), partition)
        await admin.delete_records({place: RecordsToDelete(before_offset=offset)})


# --- from nothing


@broker
async def test_a_shard_starts_from_nothing_and_liquidates_who_falls_below_maintenance(deployment: Deployment) -> None:
    await deployment.write().create_topics()
    tell = Clock()
    await live_for(deployment, *map(tell, longs("alice")), tell(mark("95.9")))
    outputs = await deployment.check_exact()
    # 50 - 10 x 4.10 = 9.00 of equity against 1 % of 959: 9.59.
    (started,) = [body for body in outputs["margin-events"] if body["type"] == "liquidation_started"]
    assert (started["account"], started["equity"], started["maintenance_margin"]) == ("alice", "9", "9.59")
    assert [body["type"] for body in outputs["liquidation-orders"]] == ["cancel_orders", "liquidation_order"]
    first = (await deployment.journal())[0]
    assert (first["batch"], first["cluster"], first["shard"]) == (0, deployment.name, 0)
    assert first["offsets"] == {topic: {"0": 0} for topic in ("mark-prices", "fills", "transfers", "control")}
    found = await deployment.check_audit()
    assert (found["inputs"], found["outputs"]) == (6, sum(map(len, outputs.values())))


@broker
async def test_inputs_that_were_there_before_the_first_start_are_taken_and_those_deleted_are_not_missed(
    deployment: Deployment,
) -> None:
    """A venue that runs its topics for a month before it runs us: retention has taken the two oldest of three marks."""
    await deployment.write().create_topics()
    tell = Clock()
    await deployment.send(tell(mark("90")), tell(mark("91")), tell(mark("100")))
    await delete_before(deployment, "mark-prices", 2)
    deployment.sent = 1
    await live_for(deployment, *map(tell, longs("alice")[1:]), tell(mark("95.9")))
    outputs = await deployment.check_exact()
    assert [body["account"] for body in outputs["liquidation-orders"]] == ["alice", "alice"]
    assert (await deployment.journal())[0]["offsets"]["mark-prices"] == {"0": 2}
    assert (await deployment.check_audit())["inputs"] == 6


@broker
async def test_two_shards_divide_a_book_and_each_sees_every_mark(deployment: Deployment) -> None:
    """Two accounts a shard, one fund of 1001: 500.50 each. One mark liquidates all four, each on its own shard."""
    deployment.shards = 2
    own = [names_on(shard, 2, 2) for shard in (0, 1)]
    await deployment.write(book=book_of(*own[0], *own[1], insurance="1001")).create_topics()
    tell = Clock()
    async with running(deployment):
        topped_up = [tell(deposit(accounts[0], "0.01")) for accounts in own]
        await deployment.send(*topped_up, tell(mark("95.9")))
        for shard in (0, 1):
            await deployment.wait_for_batch(2, shard)
    for shard in (0, 1):
        outputs = await deployment.check_exact(shard)
        orders = [body for body in outputs["liquidation-orders"] if body["type"] == "liquidation_order"]
        assert sorted(body["account"] for body in orders) == sorted(own[shard])
        assert {body["shard"] for bodies in outputs.values() for body in bodies} == {shard}
        _, state = await deployment.folded(shard)
        assert state.book.wallet(0, state.book.asset_index["USDT"]) == 500_50000000
    assert (await deployment.check_audit("--shards", "0"))["inputs"] == 2
    code, out, _ = await deployment.verb("audit")
    assert code == 0
    assert out.count("all as it must be") == 2


@broker
async def test_four_partitions_of_marks_are_one_market(deployment: Deployment) -> None:
    await deployment.write(kafka={"mark_partitions": 4}).create_topics()
    tell = Clock()
    by_hand = [replace(record_of(tell(mark(str(100 + number)))), partition=number) for number in range(4)]
    await live_for(deployment, *map(tell, longs("alice")), *by_hand)
    runs = [tuple(run[:2]) for entry in (await deployment.journal())[1:] for run in entry["runs"]]
    assert {("mark-prices", number) for number in range(4)} <= set(runs)
    await deployment.check_audit()


# --- which shards


SHARDS_NAMED = {
    "all": (None, None, [0, 1, 2, 3, 4]),
    "one": ("3", None, [3]),
    "some, in any order, some twice": ("4,0,4", None, [0, 4]),
    "the first of two instances": (None, "0/2", [0, 2, 4]),
    "the second of two": (None, "1/2", [1, 3]),
    "the only instance": (None, "0/1", [0, 1, 2, 3, 4]),
    "an instance too many has none": (None, "6/7", []),
}


@pytest.mark.parametrize(("shards", "instance", "expected"), SHARDS_NAMED.values(), ids=SHARDS_NAMED)
def test_shards_named(
    deployment_of_five: Deployment, shards: str | None, instance: str | None, expected: list[int]
) -> None:
    assert shards_of(deployment_of_five.config, shards=shards, instance=instance) == expected


@pytest.fixture
def deployment_of_five(tmp_path: Path) -> Deployment:
    """Return a cluster of five shards that no broker has."""
    return Deployment(tmp_path, "127.0.0.1:1", shards=5).write()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_every_shard_belongs_to_exactly_one_instance(deployment_of_five: Deployment, count: int) -> None:
    parts = [shards_of(deployment_of_five.config, shards=None, instance=f"{n}/{count}") for n in range(count)]
    assert sorted(shard for part in parts for shard in part) == [0, 1, 2, 3, 4]


SHARDS_REFUSED = {
    "one that is not there": ("5", None),
    "below the first": ("-1", None),
    "nothing": ("", None),
    "an end without a number": ("1,", None),
    "a range": ("0-3", None),
    "words": ("all", None),
    "both": ("0", "0/2"),
    "an instance outside": (None, "2/2"),
    "of none": (None, "0/0"),
    "without a count": (None, "1"),
    "negative": (None, "-1/2"),
    "with a third part": (None, "0/2/3"),
}


@pytest.mark.parametrize(("shards", "instance"), SHARDS_REFUSED.values(), ids=SHARDS_REFUSED)
def test_shards_refused_with_the_option_named(
    deployment_of_five: Deployment, shards: str | None, instance: str | None
) -> None:
    named = "--instance" if instance is not None else "--shards"
    with pytest.raises(InputError, match=f"{named}.*: (must be|give one of them)"):
        shards_of(deployment_of_five.config, shards=shards, instance=instance)


@broker
async def test_an_instance_runs_its_own_shards_and_leaves_the_others_alone(deployment: Deployment) -> None:
    deployment.shards = 2
    await deployment.write().create_topics()
    tell = Clock()
    async with running(deployment, *shards_of(deployment.config, shards=None, instance="1/2")):
        await deployment.send(tell(mark("100")))
        await deployment.wait_for_batch(1, 1)
    assert await deployment.journal(0) == []
    assert len(await deployment.journal(1)) >= 2


async def test_an_instance_without_shards_ends_at_once_and_well(deployment_of_five: Deployment, log: Log) -> None:
    assert await outcome(deployment_of_five, shards=[]) == (0, "")
    assert log("nothing_to_do", "shards=5")


# --- the end


@broker
async def test_sigterm_commits_what_was_applied_and_ends_well(deployment: Deployment) -> None:
    """Sent in the middle of work. What was taken is committed, what was not is taken by the next life: all exact."""
    deployment.shards = 2
    book = book_of(*names_on(0, 2, 3), *names_on(1, 2, 3))
    await deployment.write(book=book, batch={"interval_ms": 500}).create_topics()
    tell = Clock()
    flood = [tell(mark(str(100 - number % 5))) for number in range(2000)]
    with Process(deployment, "run") as process:
        await process.wait_for(" live ", count=2)
        await deployment.send(*flood)
        await deployment.wait_for_batch(1)
        process.process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        for shard in (0, 1):
            assert f"INFO stopped shard={shard}" in process.text
    for shard in (0, 1):
        journal = await deployment.journal(shard)
        ends = {(run[0], run[1]): run[3] + 1 for entry in journal[1:] for run in entry["runs"]}
        group = f"liq-{deployment.name}-{shard}"
        place = TopicPartition(deployment.topic("mark-prices"), 0)
        async with consumer(deployment.bootstrap, place, start=None, group_id=group) as client:
            assert await client.committed(place) == ends["mark-prices", 0]
        await deployment.check_exact(shard)


@broker
async def test_the_batch_in_hand_is_committed_before_the_end(deployment: Deployment) -> None:
    """A batch may stay open for a second here; told to end, the shard does not wait for that, nor throw it away."""
    await deployment.write(batch={"interval_ms": 1000}).create_topics()
    tell = Clock()
    async with running(deployment) as run:
        await deployment.send(*[tell(mark(str(100 - number))) for number in range(5)])

        async def is_applied() -> bool:
            return run.worker().status.records == 5

        await until(is_applied)
        assert await run.drain() == 0
    assert sum(batch[4] for entry in (await deployment.journal())[1:] for batch in entry["runs"]) == 5


# A commit may take as long as a test holds it, however slow the machine: no shard starts over because of that.
PATIENT: Body = {
    "kafka": {"transaction_timeout_ms": 900_000, "request_timeout_ms": 600_000},
    "deadlines": {"commit_s": 800, "progress_s": 3_600, "drain_s": 600},
}
IMPATIENT_TO_END = {**PATIENT, "deadlines": {**PATIENT["deadlines"], "drain_s": 1}}


@pytest.fixture
def hanging(fake: Fake, tmp_path: Path) -> Iterator[tuple[Deployment, Fake]]:
    """Yield a cluster whose broker can be made to answer nothing, and the broker; at the end it answers again."""
    deployment = Deployment(tmp_path, fake.bootstrap)
    deployment.write(**IMPATIENT_TO_END)
    try:
        yield deployment, fake
    finally:
        fake.faults.resume()


async def test_sigterm_ends_a_shard_whose_broker_does_not_answer_within_its_own_deadline(
    hanging: tuple[Deployment, Fake],
) -> None:
    """A commit may take 800 s here, the end of the service one."""
    deployment, fake = hanging
    await deployment.create_topics()
    with Process(deployment, "run") as process:
        await process.wait_for(" live ")
        fake.faults.pause()
        process.process.send_signal(signal.SIGTERM)
        assert process.wait() == 3
        assert "not_drained seconds=1" in process.text


async def test_a_second_sigterm_ends_it_at_once(hanging: tuple[Deployment, Fake]) -> None:
    deployment, fake = hanging
    deployment.write(**PATIENT)
    await deployment.create_topics()
    with Process(deployment, "run") as process:
        await process.wait_for(" live ")
        fake.faults.pause()
        process.process.send_signal(signal.SIGTERM)
        await process.wait_for("signal number=15")
        process.process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + 15


# --- refused at the start


@broker
async def test_the_command_says_why_it_does_not_start_and_ends_with_the_right_code(deployment: Deployment) -> None:
    """Topics that are not there: 2, naming each with its remedy. A broker that is not there: 3."""
    deployment.write()
    alone = Deployment(deployment.folder / "alone", "127.0.0.1:1")
    alone.folder.mkdir()
    alone.write()
    with Process(deployment, "run") as unprepared, Process(alone, "run") as lonely:
        assert unprepared.wait() == 2
        assert lonely.wait() == 3
        for name in ("mark-prices", "control", "fills", "transfers", *OUTPUTS, "journal", "snapshots"):
            assert f"topic {deployment.topic(name)} is missing: liq-engine topics create" in unprepared.text
        assert "liq-engine run: topics: " in lonely.text
        assert "127.0.0.1:1" in lonely.text


@broker
async def test_another_number_of_shards_than_the_topics_have_is_refused(deployment: Deployment) -> None:
    await deployment.write().create_topics()
    deployment.shards = 2
    code, message = await outcome(deployment.write())
    assert code == 2
    assert f"topic {deployment.topic('fills')} has 1 partition, config says service.shards = 2" in message
    assert "set service.shards = 1, or create all topics anew under another kafka.topic_prefix" in message


@broker
@pytest.mark.parametrize("changed", ["risk file", "book"])
async def test_other_files_than_the_journal_began_with_are_refused(
    deployment: Deployment, log: Log, changed: str
) -> None:
    await deployment.write(book=book_of("alice")).create_topics()
    tell = Clock()
    await live_for(deployment, tell(mark("100")))
    files: Body = {"risk": STRICTER} if changed == "risk file" else {"book": book_of("alice", "bob")}
    assert await outcome(deployment.write(**files)) == (2, "")
    (halted,) = log("halted")
    assert "began with another risk file or book" in halted
    assert "change parameters by control messages" in halted
    # Nothing was written, and with the files of before it goes on.
    before = await deployment.journal()
    await live_for(deployment.write(risk=RISK, book=book_of("alice")), tell(mark("99")))
    assert (await deployment.journal())[: len(before)] == before
    await deployment.check_exact()


@broker
async def test_a_journal_of_another_cluster_is_refused(deployment: Deployment, log: Log) -> None:
    """Two deployments that were given the same prefix: the second one sees that these topics are taken."""
    await deployment.write().create_topics()
    await live_for(deployment, Clock()(mark("100")))
    assert (await outcome(deployment.write(service={"cluster": "other"})))[0] == 2
    (halted,) = log("halted")
    assert f"journal of {deployment.name}, shard 0" in halted


@broker
async def test_committed_offsets_that_somebody_moved_stop_the_shard(deployment: Deployment, log: Log) -> None:
    await deployment.write().create_topics()
    tell = Clock()
    await live_for(deployment, *[tell(mark("100")) for _ in range(5)])
    place = TopicPartition(deployment.topic("mark-prices"), 0)
    async with consumer(deployment.bootstrap, place, start=None, group_id=f"liq-{deployment.name}-0") as client:
        await client.commit({place: 2})
    assert await outcome(deployment) == (1, "")
    (halted,) = log("halted")
    assert "committed offset of mark-prices-0 is 2, the journal says 5: restore the group's offsets" in halted


@broker
async def test_committed_offsets_that_the_broker_forgot_do_not_stop_the_shard(
    deployment: Deployment, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka drops the offset of a partition to which nothing was committed for a week. The journal knows it."""
    await deployment.write().create_topics()
    tell = Clock()
    await live_for(deployment, tell(mark("100")))
    committed = Kafka.committed

    async def forgetful(self: Kafka, group: str, places: Any) -> Any:
        found = await committed(self, group, places)
        assert set(found.values()) == {0, 1}
        return {place: None if place.topic == "control" else offset for place, offset in found.items()}

    monkeypatch.setattr(Kafka, "committed", forgetful)
    await live_for(deployment, tell(mark("99")))
    assert log("offset_forgotten", "topic=control", "partition=0")
    await deployment.check_exact()


@broker
async def test_the_second_of_two_instances_has_the_shard_and_the_first_ends_fenced(
    deployment: Deployment, log: Log
) -> None:
    await deployment.write().create_topics()
    tell = Clock()
    async with running(deployment) as first:
        await deployment.send(tell(mark("100")))
        await deployment.wait_for_batch(1)
        async with running(deployment):
            assert await asyncio.wait_for(first.task, DEADLINE_S) == 3
            assert log("halted", "shard=0", "another instance has taken this shard over")
            await deployment.send(tell(mark("99")))
            await deployment.wait_for_batch(2)
    await deployment.check_exact()


# --- recovery


async def lived_with_a_snapshot(deployment: Deployment, **tables: Body) -> Path:
    """Let a shard take 300 messages of the desk's day, a snapshot, and 200 more; return the snapshot's path."""
    await deployment.write(risk=DESK_RISK, **tables).create_topics()
    async with running(deployment) as run:
        await deployment.send(*DESK[:300])
        await deployment.wait_for_batch(300)
        path = await take_snapshot(run)
        await deployment.send(*DESK[300:500])
        await deployment.wait_for_batch(500)
    return path


async def check_recovered(deployment: Deployment, log: Log, *, events: int) -> None:
    """Let the shard take the rest of the day: it went on from the right state if all outputs are to the byte."""
    await live_through(deployment, DESK[500:])
    (recovered,) = log("recovered", "shard=0")
    assert f"events={events} " in recovered
    outputs = await deployment.check_exact()
    assert outputs["liquidation-orders"]
    await deployment.check_audit()


@broker
async def test_recovery_goes_on_from_the_snapshot_on_disk(deployment: Deployment, log: Log) -> None:
    await lived_with_a_snapshot(deployment, snapshots={"publish": False})
    await check_recovered(deployment, log, events=200)
    assert log("snapshot_loaded", "shard=0")


@broker
async def test_recovery_brings_the_snapshot_back_where_the_disk_was_lost(deployment: Deployment, log: Log) -> None:
    path = await lived_with_a_snapshot(deployment)
    data = path.read_bytes()
    shutil.rmtree(path.parent)
    await check_recovered(deployment, log, events=200)
    assert log("snapshot_fetched", str(path))
    assert path.read_bytes() == data


@broker
async def test_recovery_folds_the_whole_journal_where_there_is_no_snapshot_at_all(
    deployment: Deployment, log: Log
) -> None:
    path = await lived_with_a_snapshot(deployment, snapshots={"publish": False})
    shutil.rmtree(path.parent)
    await check_recovered(deployment, log, events=500)
    assert not log("snapshot_loaded")


def damaged(path: Path, config_hash: str) -> dict[str, bytes]:
    """Return what may lie beside a good snapshot, by the reason for which it is of no use, oldest first."""
    data = path.read_bytes()
    good = decode_snapshot(data)
    position = good.position

    def other(shard: Shard = good.shard, config: str = config_hash, **changes: Any) -> bytes:
        return encode_snapshot(shard, config_hash=config, position=replace(position, **changes))

    middle = len(data) // 2
    return {
        "torn": data[:-100],
        "checksum": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "foreign_shard": other(Shard(load_risk(golden.FOLDER / "desk.toml"), number=1)),
        "other_config": other(config="00" * 32),
        "other_journal": other(chain="ab" * 32),
        "ahead": other(batch=10**6, journal_offset=10**6),
    }


@broker
@pytest.mark.parametrize("is_good_left", [True, False], ids=["a good one is left", "none is left"])
async def test_every_damaged_snapshot_is_passed_over_with_its_reason(
    deployment: Deployment, log: Log, is_good_left: bool
) -> None:
    path = await lived_with_a_snapshot(deployment, snapshots={"publish": False})
    folder = SnapshotFolder(path.parent, shard=0)
    (batch,) = folder.batches()
    files = damaged(path, (await deployment.journal())[0]["config_hash"])
    names = {}
    for number, (reason, data) in enumerate(files.items(), start=1):
        names[reason] = folder.path_of(10**6 if reason == "ahead" else batch + number)
        names[reason].write_bytes(data)
    if not is_good_left:
        path.unlink()
    await check_recovered(deployment, log, events=200 if is_good_left else 500)
    skipped = log("snapshot_skipped", "shard=0")
    assert len(skipped) == len(files)
    for reason, file in names.items():
        assert [line for line in skipped if f"{file.name}: {reason}: " in line], (reason, skipped)
    assert bool(log("snapshot_loaded", f"batch={batch} ")) == is_good_left


@broker
async def test_a_damaged_snapshot_on_the_topic_is_passed_over_too(deployment: Deployment, log: Log) -> None:
    path = await lived_with_a_snapshot(deployment)
    shutil.rmtree(path.parent)
    topic, place = deployment.topic("snapshots"), TopicPartition(deployment.topic("snapshots"), 0)
    async with consumer(deployment.bootstrap, place) as client:
        keys = [record.key for record in (await client.getmany(timeout_ms=5000))[place]]
    (piece,) = [key for key in keys if key.endswith(b"/0")]
    async with producer(deployment.bootstrap) as client:
        await client.send_and_wait(topic, b"a piece of something else", key=piece, partition=0)
    await check_recovered(deployment, log, events=500)
    assert log("snapshot_skipped", "snapshots-0")


# --- records that are gone


@broker
async def test_a_journal_without_its_beginning_stops_the_shard_with_the_remedy(
    deployment: Deployment, log: Log
) -> None:
    path = await lived_with_a_snapshot(deployment, snapshots={"publish": False})
    await delete_before(deployment, "journal", 2)
    saved = path.read_bytes()
    path.unlink()
    assert await outcome(deployment) == (2, "")
    (halted,) = log("halted")
    assert "no snapshot goes with it" in halted
    assert "retention.ms of the journal must be -1" in halted
    # The remedy: a snapshot, which needs only what comes after it.
    path.write_bytes(saved)
    await live_for(deployment)
    assert log("recovered", "events=200 ")


@broker
async def test_a_snapshot_whose_own_record_is_gone_says_so(deployment: Deployment, log: Log) -> None:
    path = await lived_with_a_snapshot(deployment, snapshots={"publish": False})
    offset = decode_snapshot(path.read_bytes()).position.journal_offset
    await delete_before(deployment, "journal", offset + 1)
    assert await outcome(deployment) == (2, "")
    (skipped,) = log("snapshot_skipped")
    assert f"{path.name}: other_journal: the journal does not hold batch" in skipped


@broker
async def test_a_journal_that_was_emptied_is_never_begun_anew(deployment: Deployment, log: Log) -> None:
    """Its inputs are still there: to take them again would liquidate everybody twice."""
    await deployment.write().create_topics()
    tell = Clock()
    await live_for(deployment, *map(tell, longs("alice")), tell(mark("95.9")))
    before = await deployment.raw_outputs()
    await delete_before(deployment, "journal", -1)
    code = await refused_or_drained(deployment)
    assert await deployment.raw_outputs() == before
    assert code == 2
    (halted,) = log("halted")
    assert "journal" in halted


async def refused_or_drained(deployment: Deployment) -> int:
    """Return the exit code of a service that ought to refuse; should it go live, what it did there is left to see."""
    service_task = asyncio.create_task(outcome(deployment))
    try:
        code, _ = await service_task
    except TimeoutError:
        return 0
    return code


@broker
async def test_inputs_that_the_journal_names_and_the_topic_no_longer_has_stop_the_shard(
    deployment: Deployment, log: Log
) -> None:
    path = await lived_with_a_snapshot(deployment, snapshots={"publish": False})
    offset = decode_snapshot(path.read_bytes()).position.offsets["fills"][0]
    await delete_before(deployment, "fills", offset)
    saved = path.read_bytes()
    path.unlink()
    assert await outcome(deployment) == (2, "")
    (halted,) = log("halted")
    assert "fills-0" in halted
    assert "restore them, or start from a snapshot that is newer than what was lost" in halted
    # With the snapshot nothing that is lost is needed.
    path.write_bytes(saved)
    await live_for(deployment)
    assert log("recovered", "events=200 ")


@broker
async def test_inputs_deleted_before_they_were_taken_stop_the_shard(deployment: Deployment, log: Log) -> None:
    """Three marks came while nobody was live, and were deleted: what they would have done nobody knows."""
    await deployment.write().create_topics()
    tell = Clock()
    await live_for(deployment, tell(mark("100")))
    await deployment.send(*[tell(mark(price)) for price in ("99", "98", "97")])
    await delete_before(deployment, "mark-prices", 3)
    assert await outcome(deployment) == (2, "")
    (halted,) = log("halted")
    assert "mark-prices" in halted
    assert "no longer holds records that are needed" in halted


# --- the audit


# After the desk's day, in which topics are read side by side and so any order may fall out: one account that is surely
# liquidated. zoe has 50 and is long ten from 99: at 94.9 she has 50 - 41 = 9 against 9.49.
LATE = Clock(start_ns=START_NS + 3_600 * 10**9)
EPILOGUE = [
    *(LATE({"type": "resume", "scope": scope}) for scope in ("all", "BTCUSDT", "ETHUSDT")),
    LATE(mark("99")),
    LATE(deposit("zoe", "50")),
    LATE(fill("zoe", "buy", "10", "99")),
    LATE(mark("94.9")),
]


class Finished:
    """A cluster that has lived and ended, for tests that only read what it left."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.file = str(deployment.file)

    def audit(self, *arguments: str) -> tuple[int, str]:
        """Return exit code and text of an audit."""
        code, out, _ = run_verb("audit", *arguments, "--config", self.file)
        return code, out


@pytest.fixture(scope="module")
def desk(kafka: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Return a shard that has had the desk's day, lines to refuse among it, with a snapshot at noon."""
    deployment = Deployment(tmp_path_factory.mktemp("desk"), kafka.bootstrap)

    async def live() -> None:
        await lived_with_a_snapshot(deployment)
        async with running(deployment):
            await deployment.send(*DESK[500:])
            await deployment.wait_for_batch(700)
            await deployment.feed(*EPILOGUE)

    asyncio.run(live())
    return Finished(deployment)


@broker
def test_an_audit_of_a_whole_day_finds_nothing_and_counts_it(desk: Finished) -> None:
    code, out = desk.audit("--json")
    (found,) = json.loads(out)["shards"]
    outputs = asyncio.run(desk.deployment.raw_outputs())
    assert code == 0
    assert found == {
        "shard": 0,
        "batches": len(asyncio.run(desk.deployment.journal())) - 1,
        "inputs": 707,
        "outputs": sum(map(len, outputs.values())),
        "repeated": 0,
        "states": 1,
        "difference": None,
    }
    code, out = desk.audit()
    assert (code, out.count("all as it must be")) == (0, 1)


@broker
def test_an_audit_can_begin_at_a_snapshot_and_then_counts_only_what_came_after_it(desk: Finished) -> None:
    """The snapshot of noon has 300 of the 707 inputs in it."""
    (path,) = (desk.deployment.folder / "snapshots").iterdir()
    code, out = desk.audit("--since", str(path), "--shards", "0", "--json")
    (found,) = json.loads(out)["shards"]
    batch = decode_snapshot(path.read_bytes()).position.batch
    assert (code, found["difference"], found["inputs"]) == (0, None, 407)
    assert found["batches"] == len(asyncio.run(desk.deployment.journal())) - 1 - batch


Reading = Callable[[list[Any]], list[Any]]


@pytest.fixture
def as_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Reading], None]:
    """Return a function that lets every reader of a topic see its records changed: a disk that lies."""

    def change(topic: str, reading: Reading) -> None:
        read = Reader.read

        async def lying(self: Reader, **options: Any) -> list[Any]:
            records = await read(self, **options)
            return reading(records) if any(place.topic == topic for place in self.offsets) else records

        monkeypatch.setattr(Reader, "read", lying)

    return change


def with_value(record: Any, value: bytes) -> Any:
    """Return a record as the broker gives it with another value."""
    return SimpleNamespace(
        topic=record.topic, partition=record.partition, offset=record.offset, key=record.key, value=value
    )


@broker
def test_an_audit_finds_one_digit_of_an_order_changed(desk: Finished, as_read: Callable[[str, Reading], None]) -> None:
    (order, *_) = [
        body
        for body in asyncio.run(desk.deployment.outputs())["liquidation-orders"]
        if body["type"] == "liquidation_order"
    ]
    name = order["output_id"]

    def change(records: list[Any]) -> list[Any]:
        own = f'"output_id":"{name}"'.encode()
        return [
            with_value(each, each.value.replace(b'"qty":"', b'"qty":"1', 1)) if own in each.value else each
            for each in records
        ]

    as_read("liquidation-orders", change)
    code, out = desk.audit()
    assert code == 1
    place = r"FIRST DIFFERENCE: liquidation-orders-0 offset "
    assert place in out
    # What is there and what ought to be have the same name here.
    assert out.count(f"liquidation_order {name} of {order['account']}") == 2


@broker
@pytest.mark.parametrize("topic", OUTPUTS)
def test_an_audit_finds_an_output_that_is_missing(
    desk: Finished, as_read: Callable[[str, Reading], None], topic: str
) -> None:
    body = asyncio.run(desk.deployment.outputs())[topic][-1]

    def lose(records: list[Any]) -> list[Any]:
        return [each for each in records if json.loads(each.value)["seq"] != body["seq"]]

    as_read(topic, lose)
    code, out = desk.audit()
    assert code == 1
    assert f"{topic}-0: batch" in out
    assert f"calls for {body['type']} {body['output_id']} of {body.get('account', '-')}, and nothing comes" in out


@broker
def test_an_audit_finds_an_output_under_another_key(desk: Finished, as_read: Callable[[str, Reading], None]) -> None:
    """Another key is another account's partition to whoever reads the topic."""

    def change(records: list[Any]) -> list[Any]:
        found = [with_value(each, each.value) for each in records]
        for each in found:
            each.key = b"somebody else"
        return found

    as_read("bad-debt", change)
    code, out = desk.audit()
    assert (code, "FIRST DIFFERENCE: bad-debt-0 offset" in out) == (1, True)


@broker
def test_an_audit_finds_an_input_that_says_something_else_now(
    desk: Finished, as_read: Callable[[str, Reading], None]
) -> None:
    """All fills after noon at another price: some account's equity differs, and with it some output."""

    def change(records: list[Any]) -> list[Any]:
        return [
            with_value(each, each.value.replace(b'"price": "9', b'"price": "8')) if each.offset > 200 else each
            for each in records
        ]

    as_read("fills", change)
    code, out = desk.audit()
    assert code == 1
    assert "FIRST DIFFERENCE: batch" in out
    assert "the journal says" in out


@broker
def test_an_audit_finds_a_noted_state_that_the_inputs_do_not_give(
    desk: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def noted(*_: Any) -> dict[int, str]:
        return {3: "ab" * 32}

    monkeypatch.setattr("engine.shell.audit.noted_states", noted)
    code, out = desk.audit()
    assert (code, "FIRST DIFFERENCE: state after batch 3:" in out) == (1, True)
    assert f"the shard noted {'ab' * 8}" in out


@broker
async def test_a_shard_that_notes_a_wrong_state_is_found_by_its_audit(deployment: Deployment) -> None:
    """As if memory had rotted without a trace in any output: only the hash of the whole state can tell."""
    await deployment.write().create_topics()
    tell = Clock()
    async with running(deployment) as run:
        await deployment.send(tell(mark("100")))
        await deployment.wait_for_batch(1)
        run.worker().snapshots.checked = Checked(1, "cd" * 32)
        await deployment.send(tell(mark("99")))
        await deployment.wait_for_batch(2)
    code, out, _ = await deployment.verb("audit")
    assert (code, "FIRST DIFFERENCE: state after batch 1:" in out) == (1, True)


@broker
@pytest.mark.parametrize("has_more", [True, False], ids=["in the middle", "at the end"])
async def test_an_audit_finds_an_order_that_somebody_else_wrote(deployment: Deployment, has_more: bool) -> None:
    await deployment.write().create_topics()
    tell = Clock()
    await live_for(deployment, *map(tell, longs("alice", "bob")), tell(mark("95.9")))
    (order, *_) = [
        body for body in (await deployment.outputs())["liquidation-orders"] if body["type"] == "liquidation_order"
    ]
    forged = {**order, "qty": "0.001", "output_id": "0-999"}
    async with producer(deployment.bootstrap) as client:
        topic = deployment.topic("liquidation-orders")
        await client.send_and_wait(topic, json.dumps(forged).encode(), key=b"alice", partition=0)
    if has_more:
        # After the time an order may take (5 s) it is sent again: an output behind the forged one.
        later = {**tell(mark("95.8")), "ts": order["ts"] + 6_000_000_000}
        await live_for(deployment, later)
    code, out, _ = await deployment.verb("audit")
    assert code == 1
    assert f"liquidation_order 0-999 of {order['account']}" in out
    assert ("calls for" in out) == has_more
    assert ("is in no batch of the journal" in out) != has_more


@broker
async def test_an_order_record_that_somebody_else_wrote_stops_audit_and_shard(deployment: Deployment, log: Log) -> None:
    await deployment.write().create_topics()
    await live_for(deployment, Clock()(mark("100")))
    journal = await deployment.journal()
    forged = {**journal[-1], "batch": len(journal), "runs": [], "previous": "ee" * 32}
    async with producer(deployment.bootstrap) as client:
        topic = deployment.topic("journal")
        await client.send_and_wait(topic, json.dumps(forged).encode(), key=b"0", partition=0)
    code, out, _ = await deployment.verb("audit")
    assert (code, f"batch {len(journal)} follows eeeeeeeeeeee" in out) == (1, True)
    assert await outcome(deployment) == (1, "")
    assert log("halted", f"batch {len(journal)} follows eeeeeeeeeeee")


@broker
@pytest.mark.parametrize("verb", ["audit", "shadow", "play"])
async def test_a_verb_that_finds_no_topics_names_them_and_ends_with_2(deployment: Deployment, verb: str) -> None:
    deployment.write()
    log_file = deployment.folder / "log.jsonl"
    log_file.write_text(json.dumps(Clock()(mark("100"))) + "\n")
    extra = {"audit": [], "shadow": ["--risk", str(deployment.folder / "risk.toml")], "play": [str(log_file)]}[verb]
    code, _, err = await deployment.verb(verb, *extra)
    assert code == 2, err
    assert f"topic {deployment.topic('mark-prices' if verb == 'play' else 'journal')} is missing" in err


# --- a live run and a replay


@broker
def test_a_replay_of_the_exported_inputs_gives_the_live_outputs_byte_for_byte(desk: Finished, tmp_path: Path) -> None:
    log_file, out = tmp_path / "inputs.jsonl", tmp_path / "out"
    assert desk.audit("--shards", "0", "--export", str(log_file))[0] == 0
    assert len(log_file.read_bytes().splitlines()) == 707
    risk = str(desk.deployment.folder / "risk.toml")
    code, printed, _ = run_verb("replay", str(log_file), "--risk", risk, "--out", str(out), "--json", "--quiet")
    assert code == 0
    live = asyncio.run(desk.deployment.raw_outputs())
    for topic in OUTPUTS:
        assert (out / f"{topic}.jsonl").read_bytes() == b"".join(line + b"\n" for line in live[topic]), topic
    _, state = asyncio.run(desk.deployment.folded())
    assert json.loads(printed)["state_hash"] == state_hash(state)


@broker
async def test_one_shard_of_two_is_replayed_as_that_shard(deployment: Deployment) -> None:
    """With its part of the book, its number in every output, and the control messages that are for it."""
    deployment.shards = 2
    own = names_on(1, 2, 2)
    await deployment.write(book=book_of(*names_on(0, 2, 2), *own)).create_topics()
    tell = Clock()
    pauses = [
        Record("control", key, json.dumps(tell({"type": "pause", "scope": "all"})).encode()) for key in (b"0", b"\xff")
    ]
    # A deleted value, spaces around a text, bytes that are none.
    odd = [Record("fills", b"somebody", value, 1) for value in (None, b" no JSON \n", b"\xff\n")]
    async with running(deployment):
        await deployment.send(tell(deposit(own[0], "0.01")), *pauses, *odd, tell(mark("95.9")))
        await deployment.wait_for_batch(7, 1)
    log_file, out = deployment.folder / "inputs.jsonl", deployment.folder / "out"
    await deployment.check_audit("--shards", "1", "--export", str(log_file))
    files = ["--risk", str(deployment.folder / "risk.toml"), "--book", str(deployment.folder / "book.json")]
    options = ["--shard", "1/2", "--out", str(out), "--quiet"]
    code, _, err = await in_thread(run_verb, "replay", str(log_file), *files, *options)
    assert code == 0, err
    live = await deployment.raw_outputs(1)
    # Shard 0 is paused, shard 1 is not: both of its accounts are liquidated.
    assert len(live["liquidation-orders"]) == 4
    for topic in OUTPUTS:
        assert (out / f"{topic}.jsonl").read_bytes() == b"".join(line + b"\n" for line in live[topic]), topic


# --- a standby


@asynccontextmanager
async def standing_by(deployment: Deployment, *, take_over_after: float | None) -> AsyncIterator[Running]:
    """Yield a standby in this process; drained at the end."""
    standby = Standby(deployment.config, 0, take_over_after)
    run = Running(standby.service, asyncio.create_task(standby.run()))
    try:
        yield run
        assert await run.drain() == 0
    finally:
        await run.crash()


@broker
@pytest.mark.parametrize("stopped_by", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped for a while"])
async def test_a_standby_takes_over_from_a_live_shard_that_falls_silent(
    deployment: Deployment, log: Log, stopped_by: signal.Signals
) -> None:
    """Killed in the middle of work; or only stopped, by a host that swaps, and woken when it is too late."""
    await deployment.write().create_topics()
    tell = Clock()
    with Process(deployment, "run") as live:
        await live.wait_for(" live ")
        await deployment.feed(*map(tell, longs("alice", "bob")), tell(mark("96.5")))
        async with standing_by(deployment, take_over_after=2) as standby:

            async def is_following() -> bool:
                return bool(log("following", "shard=0"))

            await until(is_following)
            assert not standby.service.workers
            live.process.send_signal(stopped_by)
            await deployment.send(tell(mark("95.9")))
            await standby.wait_live()
            assert log("taking_over", "shard=0")
            await deployment.wait_for_batch(9)
            live.process.send_signal(signal.SIGCONT)
            assert live.wait() == (3 if stopped_by == signal.SIGSTOP else -signal.SIGKILL)
            assert ("another instance has taken this shard over" in live.text) == (stopped_by == signal.SIGSTOP)
            await deployment.send(tell(mark("95")))
            await deployment.wait_for_batch(10)
    outputs = await deployment.check_exact()
    started = [body["account"] for body in outputs["margin-events"] if body["type"] == "liquidation_started"]
    assert started == ["alice", "bob"]
    await deployment.check_audit()


@broker
async def test_a_standby_that_may_not_take_over_follows_and_leaves_when_told(deployment: Deployment, log: Log) -> None:
    await deployment.write().create_topics()
    tell = Clock()
    await live_for(deployment, tell(mark("100")))
    async with standing_by(deployment, take_over_after=None) as standby:

        async def has_followed() -> bool:
            return bool(log("following", "shard=0"))

        await until(has_followed)
        async with running(deployment):
            await deployment.send(tell(mark("99")))
            await deployment.wait_for_batch(2)
        assert not standby.service.workers
    assert not log("taking_over")


@pytest.mark.parametrize("seconds", ["0.1", "0.05", "0", "-1", "nan"])
def test_a_standby_that_would_take_over_a_healthy_shard_is_refused(
    deployment_of_five: Deployment, seconds: str
) -> None:
    """A shard gives a sign of life every 50 ms here: two of them missing is not yet a death."""
    code, _, err = run_verb("follow", "--take-over-after", seconds, "--config", str(deployment_of_five.file))
    assert code == 2
    assert f"--take-over-after {seconds}: must be more than twice service.heartbeat_ms (50)" in err


# --- a shadow


@broker
async def test_a_shadow_says_exactly_who_would_have_been_treated_differently(deployment: Deployment) -> None:
    """At 96.5 alice has 50 - 35 = 15 and bob 200 - 35 = 165. 1 % of 965 is 9.65, which both have; 2 % is 19.30."""
    await deployment.write().create_topics()
    tell = Clock()
    more = tell(deposit("bob", "150"))
    await live_for(deployment, *map(tell, longs("alice", "bob")), more, tell(mark("96.5")))
    before = await deployment.raw_outputs(), await deployment.journal()
    same, stricter = deployment.folder / "same.toml", deployment.folder / "stricter.toml"
    same.write_text(RISK)
    stricter.write_text(STRICTER)
    code, out, _ = await deployment.verb("shadow", "--risk", str(same), "--json")
    document = json.loads(out)
    assert (code, document["different"], document["inputs"]) == (0, [], 9)
    assert document["production"] == document["candidate"]
    code, out, _ = await deployment.verb("shadow", "--risk", str(stricter), "--json")
    document = json.loads(out)
    (alice,) = document["different"]
    assert (code, alice["account"], alice["production"]) == (0, "alice", {})
    assert alice["candidate"] == {"margin_call": 1, "liquidation_started": 1}
    assert alice["since"]["ts"] == tell.last_ts
    code, out, _ = await deployment.verb("shadow", "--risk", str(stricter))
    assert "accounts treated differently: 1\n  alice: since batch" in out
    assert (await deployment.raw_outputs(), await deployment.journal()) == before


# --- playing a log


async def on_topic(deployment: Deployment, topic: str, partition: int = 0) -> list[tuple[bytes, Any]]:
    """Return what lies on an input topic: key and event."""
    place = TopicPartition(deployment.topic(topic), partition)
    found = []
    async with asyncio.timeout(DEADLINE_S), consumer(deployment.bootstrap, place) as client:
        ends = await client.end_offsets([place])
        while await client.position(place) < ends[place]:
            for records in (await client.getmany(timeout_ms=50)).values():
                found += [(record.key, decode(record.value)) for record in records]
    return found


@broker
async def test_play_sends_every_message_of_a_log_to_its_topic_partition_and_key(deployment: Deployment) -> None:
    """The desk's day on two shards. Lines that are no messages are counted, and go nowhere."""
    deployment.shards = 2
    await deployment.write(risk=DESK_RISK).create_topics()
    code, out, _ = await deployment.verb("play", str(golden.FOLDER / "desk.jsonl"), "--speed", "0", "--json")
    assert code == 0
    expected: dict[tuple[str, int], list[tuple[bytes, Any]]] = {}
    refused = 0
    for record in DESK:
        event = decode(record.value or b"")
        if type(event).__name__ == "Reject":
            refused += 1
            continue
        assert record.key is not None
        partition = 0
        if record.topic in ("fills", "transfers"):
            partition = place_of(record.key, 2)
        expected.setdefault((record.topic, partition), []).append((record.key, event))
    found = {}
    for topic, counts in (("mark-prices", 1), ("control", 1), ("fills", 2), ("transfers", 2)):
        for partition in range(counts):
            if events := await on_topic(deployment, topic, partition):
                found[topic, partition] = events
    assert found == expected
    totals = {topic: sum(len(events) for (name, _), events in found.items() if name == topic) for topic, _ in found}
    assert json.loads(out) == {**totals, "refused": refused}
    assert refused > 20


VENDOR_FILE = """\
open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore
1722816000000,100.0,101.0,99.0,100.5,0,1722816059999,0,60,0,0,0
1722816060000,100.5,oops,100.0,100.2,0,1722816119999,0,60,0,0,0
1722816120000,100.2,100.9,99.5,99.8,0,1722816179999,0,60,0,0,0
"""


@broker
async def test_play_sends_a_vendors_file_as_the_marks_that_replay_makes_of_it(deployment: Deployment) -> None:
    """Two minutes of candles, four marks each, and a row that is none."""
    await deployment.write().create_topics()
    file = deployment.folder / "BTCUSDT-1m-2024-08-05.csv"
    file.write_text(VENDOR_FILE)
    code, out, _ = await deployment.verb("play", str(file), "--speed", "0", "--json")
    assert (code, json.loads(out)) == (0, {"mark-prices": 8, "refused": 1})
    sent = await on_topic(deployment, "mark-prices")
    assert {key for key, _ in sent} == {b"BTCUSDT"}
    prices = [event.price[0] / 10 ** event.price[1] for _, event in sent]
    assert {prices[0], prices[3], prices[4], prices[7]} == {100.0, 100.5, 100.2, 99.8}
    assert (max(prices), min(prices)) == (101.0, 99.0)
    times = [event.ts for _, event in sent]
    assert times == sorted(times)


class Watch:
    """A clock that runs only while somebody sleeps, and a writer that notes what it says when a line is sent."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.sent_s: list[float] = []

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def send(self, _partition: int | None, lines: Sequence[Any]) -> list[Any]:
        self.sent_s += [self.now_s - 1000.0 for _ in lines]
        return []

    async def wait(self, _what: Any) -> None:
        pass


# Messages at these seconds of a log; the third is older than the second, as a late one is.
AT_S = [10, 70, 40, 130]
PACES = {
    "as it happened": (1.0, [0, 60, 60, 120]),
    "an hour a minute": (60.0, [0, 1, 1, 2]),
    "at half speed": (0.5, [0, 120, 120, 240]),
    "at once": (0.0, [0, 0, 0, 0]),
}


@pytest.mark.parametrize(("speed", "expected"), PACES.values(), ids=PACES)
async def test_play_keeps_the_pace_of_the_log(
    monkeypatch: pytest.MonkeyPatch, deployment_of_five: Deployment, speed: float, expected: list[float]
) -> None:
    watch = Watch()
    monkeypatch.setattr(playing, "check_topics", watch.wait)
    monkeypatch.setattr(playing, "PlainWriter", lambda _: watch)
    monkeypatch.setattr(playing, "time", SimpleNamespace(monotonic=lambda: watch.now_s))
    monkeypatch.setattr(playing, "asyncio", SimpleNamespace(sleep=watch.sleep))
    events = [decode(json.dumps({**mark("100"), "ts": second * 10**9}).encode()) for second in AT_S]
    messages = [Message(Origin("log", -1, line), event) for line, event in enumerate(events, 1) if event is not None]
    assert await play(Kafka(deployment_of_five.config), messages, speed=speed) == {"mark-prices": 4}
    assert watch.sent_s == expected


@pytest.mark.parametrize("speed", ["-1", "-0.5", "nan"])
def test_play_refuses_a_speed_that_is_none(deployment_of_five: Deployment, speed: str) -> None:
    log_file = deployment_of_five.folder / "log.jsonl"
    log_file.write_text(json.dumps(Clock()(mark("100"))) + "\n")
    code, _, err = run_verb("play", str(log_file), "--speed", speed, "--config", str(deployment_of_five.file))
    assert (code, f"--speed {speed}" in err) == (2, True), err


# --- delivery


# No sign of life for a minute: the commit that is held is that of the order.
QUIET: Body = {"heartbeat_ms": 60_000}


@asynccontextmanager
async def held_commits(owner: Any, name: str) -> AsyncIterator[asyncio.Event]:
    """Hold every call of a method until the block ends; the event tells that one has come."""
    method, has_come, may_go = getattr(owner, name), asyncio.Event(), asyncio.Event()

    async def held(*arguments: Any) -> Any:
        has_come.set()
        await may_go.wait()
        return await method(*arguments)

    setattr(owner, name, held)
    try:
        yield has_come
    finally:
        setattr(owner, name, method)
        may_go.set()


@broker
async def test_exactly_once_an_order_is_seen_when_its_batch_is_committed_and_not_before(
    deployment: Deployment,
) -> None:
    await deployment.write(service=QUIET, **PATIENT).create_topics()
    tell = Clock()
    topic = deployment.topic("liquidation-orders")
    async with running(deployment) as run:
        await deployment.feed(*map(tell, longs("alice")))
        async with held_commits(run.worker().writer.producer, "commit_transaction"):
            await deployment.send(tell(mark("95.9")))

            async def is_written() -> bool:
                return len(await read_all(deployment.bootstrap, topic, isolation_level="read_uncommitted")) == 2

            await until(is_written)
            assert await read_all(deployment.bootstrap, topic) == []
        await deployment.wait_for_batch(6)
        assert len(await read_settled(deployment.bootstrap, topic)) == 2
    await deployment.check_exact()


@broker
async def test_at_least_once_an_order_is_seen_at_once_and_after_a_crash_again_with_the_same_id(
    deployment: Deployment,
) -> None:
    """The crash comes between the order and its order record, which is when a repeat is due."""
    await deployment.write(service={"delivery": "at_least_once", **QUIET}, **PATIENT).create_topics()
    tell = Clock()
    topic = deployment.topic("liquidation-orders")
    async with running(deployment) as run:
        await deployment.feed(*map(tell, longs("alice")))
        async with held_commits(run.worker().writer, "commit"):
            await deployment.send(tell(mark("95.9")))

            async def is_seen() -> bool:
                return len(await read_all(deployment.bootstrap, topic)) == 2

            await until(is_seen)
            await run.crash()
    await live_through(deployment, [])
    sent = await read_settled(deployment.bootstrap, topic)
    assert len(sent) == 4
    assert sent[:2] == sent[2:]
    expected, _ = await deployment.folded()
    assert sent[:2] == expected["liquidation-orders"]
    found = await deployment.check_audit()
    # The margin call and the start of the liquidation came twice as well.
    assert found["repeated"] == 4


async def test_at_least_once_the_order_record_waits_until_the_broker_has_the_orders(fake: Fake, tmp_path: Path) -> None:
    """The other way round a crash between the two would lose them: the next life begins behind their inputs."""
    deployment = Deployment(tmp_path, fake.bootstrap)
    await deployment.write(service={"delivery": "at_least_once", **QUIET}, **PATIENT).create_topics()
    tell = Clock()
    async with running(deployment) as run:
        await deployment.feed(*map(tell, longs("alice")))
        async with held_commits(run.worker().plain, "wait") as is_waiting:
            await deployment.send(tell(mark("95.9")))
            await asyncio.wait_for(is_waiting.wait(), DEADLINE_S)
            runs = [each for entry in (await deployment.journal())[1:] for each in entry["runs"]]
            assert sum(each[4] for each in runs) == 5
        await deployment.wait_for_batch(6)
    await deployment.check_exact()


@broker
async def test_inputs_of_a_transaction_that_was_aborted_are_never_taken(deployment: Deployment) -> None:
    """A ledger that writes in transactions of its own, and takes one back."""
    await deployment.write().create_topics()
    tell = Clock()
    topic = deployment.topic("mark-prices")
    async with running(deployment), producer(deployment.bootstrap, f"{deployment.name}-feed") as client:
        for price, is_meant in (("100", True), ("1", False), ("99", True)):
            await client.begin_transaction()
            await client.send_and_wait(topic, json.dumps(tell(mark(price))).encode(), key=b"BTCUSDT", partition=0)
            await (client.commit_transaction() if is_meant else client.abort_transaction())
        await deployment.wait_for_batch(2)
    _, state = await deployment.folded()
    assert (state.counters.messages, state.book.marks[0].value) == (2, 99 * 10**5)
    # The markers of the three transactions and the mark that was taken back have offsets, and are no inputs.
    runs = [each for entry in (await deployment.journal())[1:] for each in entry["runs"]]
    assert (runs[0][2], runs[-1][3], sum(each[4] for each in runs)) == (0, 4, 2)
    await deployment.check_audit()


# --- when something is slow or stuck


class Source:
    """A reader whose topic never ends, or that breaks after some reads."""

    def __init__(self, *, reads: int = FOREVER) -> None:
        self.reads = reads
        self.read_count = 0

    async def read(self, *, wait_ms: int, records_max: int) -> list[int]:
        """Return as much as may be asked for."""
        await asyncio.sleep(0)
        if self.read_count == self.reads:
            raise BrokerError("the broker is gone")
        self.read_count += 1
        return [self.read_count] * records_max


@asynccontextmanager
async def inbox_of(*sources: Any, pending_max: int) -> AsyncIterator[Inbox]:
    inbox = Inbox(sources, pending_max=pending_max, progress_s=3600)
    inbox.open()
    try:
        yield inbox
    finally:
        await inbox.close()


async def test_what_waits_is_bounded_however_slowly_it_is_taken() -> None:
    """Two readers of 500 each: at most one read of either is under way when the bound is reached."""
    async with inbox_of(Source(), Source(), pending_max=1000) as inbox:
        sizes = []
        for _ in range(500):
            for _ in range(5):
                await asyncio.sleep(0)
            sizes.append(len(inbox.pending))
            await inbox.take(7, wait_s=1)
        assert 1000 <= max(sizes) < 1000 + 2 * READ_MAX


async def test_reading_goes_on_when_there_is_room_again() -> None:
    source = Source()
    async with inbox_of(source, pending_max=500) as inbox:
        taken: list[int] = []
        while len(taken) < 5000:
            taken += await inbox.take(500, wait_s=1)
    # In the order of the reads, none lost, none twice.
    assert taken[:5000] == [number for number in range(1, 11) for _ in range(500)]


async def test_the_failure_of_a_reader_is_raised_once_what_it_had_read_is_taken() -> None:
    async with inbox_of(Source(reads=2), pending_max=10_000) as inbox:
        taken: list[int] = []
        with pytest.raises(BrokerError, match="the broker is gone"):
            await take_often(inbox, 1000, taken)
    assert len(taken) == 2 * READ_MAX


async def test_the_failure_of_one_reader_is_not_hidden_by_a_flood_from_the_other() -> None:
    """Fills without end and no marks any more: that shard would never liquidate again, and say nothing."""
    async with inbox_of(Source(reads=0), Source(), pending_max=2000) as inbox:
        with pytest.raises(BrokerError, match="the broker is gone"):
            await take_often(inbox, 1000, [])


async def take_often(inbox: Inbox, times: int, taken: list[int]) -> None:
    for _ in range(times):
        taken += await inbox.take(300, wait_s=1)


async def test_a_broker_that_is_slow_to_take_outputs_stops_the_reading_of_inputs(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = Deployment(tmp_path, fake.bootstrap)
    deployment.write(batch={"pending_max": 600, "records_max": 300, "interval_ms": 5})
    await deployment.create_topics()
    tell = Clock()
    await deployment.send(*[tell(mark("100")) for _ in range(4000)])
    fake.faults.before("Produce", action=delay(0.05), times=FOREVER)
    sizes: list[int] = []
    take = Inbox.take

    async def watched(self: Inbox, count_max: int, *, wait_s: float) -> list[Any]:
        sizes.append(len(self.pending))
        return await take(self, count_max, wait_s=wait_s)

    monkeypatch.setattr(Inbox, "take", watched)
    await live_through(deployment, [])
    assert 600 <= max(sizes) < 600 + READ_MAX
    await deployment.check_exact()


async def test_a_consumer_that_gets_no_answers_any_more_is_found_out(fake: Fake, tmp_path: Path, log: Log) -> None:
    """The broker takes fetches and never answers, while the topic grows: the client would wait without a word."""
    deployment = Deployment(tmp_path, fake.bootstrap)
    deployment.write(kafka={"request_timeout_ms": 600_000}, deadlines={"commit_s": 1, "progress_s": 2})
    await deployment.create_topics()
    tell = Clock()
    async with running(deployment) as run:
        await deployment.feed(tell(mark("100")))
        client = f"liq-engine-{deployment.name}"
        fake.faults.before("Fetch", action=delay(3600), times=FOREVER, client=client)
        # The fetch that was waiting at the broker when the fault began still gets its answer.
        await deployment.send(tell(mark("99")))

        async def is_taken() -> bool:
            return run.worker().status.records == 2

        await until(is_taken)
        await deployment.send(tell(mark("98")))

        async def is_said() -> bool:
            return bool(log("halted", "no record in 2 s, although some wait"))

        await until(is_said)
        await run.crash()


@broker
async def test_a_stuck_reader_of_prices_is_found_out_although_fills_keep_coming(
    deployment: Deployment, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marks wait and are not read. Trade goes on, so something is read all the time; nobody would be liquidated."""
    deployment.write(deadlines={"commit_s": 1, "progress_s": 2})
    await deployment.create_topics()
    tell = Clock()
    async with running(deployment) as run:
        await deployment.feed(*map(tell, longs("alice")))
        read = Reader.read

        async def stuck(self: Reader, *, wait_ms: int, records_max: int | None = None) -> list[Any]:
            if any(place.topic == "mark-prices" for place in self.offsets):
                await asyncio.sleep(wait_ms / 1000)
                return []
            return await read(self, wait_ms=wait_ms, records_max=records_max)

        monkeypatch.setattr(Reader, "read", stuck)
        # The read under way when it got stuck may still end as it should.
        await deployment.send(tell(mark("99")), tell(mark("98")))
        await deployment.send(tell(mark("97")), tell(mark("95.9")))

        async def is_said() -> bool:
            await deployment.send(tell(deposit("maker", "1")))
            return bool(log("halted", "no record in 2 s, although some wait"))

        try:
            await until(is_said)
        finally:
            monkeypatch.undo()
            await run.crash()


@broker
async def test_a_quiet_market_is_no_stuck_consumer(deployment: Deployment, log: Log) -> None:
    deployment.write(deadlines={"commit_s": 1, "progress_s": 2})
    await deployment.create_topics()
    async with running(deployment) as run:
        worker = run.worker()
        await deployment.send(Clock()(mark("100")))
        await deployment.wait_for_batch(1)
        start = worker.status.batches

        async def has_been_quiet() -> bool:
            # A sign of life every 50 ms: sixty of them are three seconds, more than the two it may be silent.
            return worker.status.batches > start + 60

        await until(has_been_quiet)
    assert not log("halted")


@broker
async def test_work_goes_on_while_it_is_asked_whether_a_quiet_reader_is_stuck(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fill for two seconds, and the broker is slow to say that there is none: the marks must not wait for that."""
    deployment.write(deadlines={"commit_s": 1, "progress_s": 2})
    await deployment.create_topics()
    tell = Clock()
    is_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def slow(_: Reader) -> dict[Any, int]:
        is_asked.set()
        await may_answer.wait()
        return {}

    monkeypatch.setattr(Reader, "behind", slow)
    async with running(deployment):
        await asyncio.wait_for(is_asked.wait(), DEADLINE_S)
        try:
            await deployment.feed(tell(mark("100")))
        finally:
            may_answer.set()


# --- what cannot be read


def padded(size: int) -> bytes:
    """Return a mark of exactly so many bytes: fields that are unknown are ignored."""
    body = Clock()(mark("100"))
    empty = json.dumps({**body, "note": ""}).encode()
    return json.dumps({**body, "note": "x" * (size - len(empty))}).encode()


@broker
async def test_dead_letters_hold_what_could_not_be_read_and_the_stream_goes_on(deployment: Deployment) -> None:
    await deployment.write().create_topics()
    garbage, text = bytes(range(256)) * 20, b"not JSON " * 1000
    inputs = [
        Record("mark-prices", b"BTCUSDT", padded(LINE_BYTES_MAX)),
        Record("mark-prices", b"BTCUSDT", padded(LINE_BYTES_MAX + 1)),
        Record("mark-prices", b"\xff\x00", garbage),
        Record("mark-prices", None, text),
        Record("mark-prices", b"", b"{"),
        Record("mark-prices", b"BTCUSDT", None),
        Record("mark-prices", b"BTCUSDT", json.dumps(Clock()(deposit("alice", "5"))).encode()),
    ]
    await live_for(deployment, *inputs, Clock()(mark("101")))
    letters = (await deployment.check_exact())["dead-letters"]
    found = [(body["offset"], body["reason"]) for body in letters]
    assert found == [(1, "too_long"), (2, "bad_encoding"), (3, "bad_json"), (4, "bad_json"), (6, "unknown_type")]
    assert {(body["topic"], body["partition"]) for body in letters} == {("mark-prices", 0)}
    long, binary, words, brace, _ = letters
    assert (long["payload_bytes"], base64.b64decode(long["payload_base64"])) == (
        LINE_BYTES_MAX + 1,
        padded(LINE_BYTES_MAX + 1)[:4096],
    )
    assert (binary["payload_bytes"], base64.b64decode(binary["payload_base64"])) == (5120, garbage[:4096])
    assert (words["payload_bytes"], base64.b64decode(words["payload_base64"])) == (9000, text[:4096])
    assert brace["payload"] == "{"
    place = TopicPartition(deployment.topic("dead-letters"), 0)
    async with consumer(deployment.bootstrap, place) as client:
        keys = [record.key for record in (await client.getmany(timeout_ms=5000))[place]]
    assert keys == [b"BTCUSDT", b"\xff\x00", None, b"", b"BTCUSDT"]
    await deployment.check_audit()


@broker
async def test_an_input_beyond_every_limit_of_ours_is_one_dead_letter(deployment: Deployment) -> None:
    """Three mebibytes, where the topic was given room for four: read, refused, and the next one taken."""
    await deployment.write().create_topics(fills={"max.message.bytes": str(4 << 20)})
    tell = Clock()
    await live_for(deployment, Record("fills", b"alice", b"x" * (3 << 20)), tell(mark("100")))
    (letter,) = (await deployment.check_exact())["dead-letters"]
    assert (letter["reason"], letter["payload_bytes"]) == ("too_long", 3 << 20)


@broker
async def test_one_parameter_that_makes_thousands_of_long_names_cross_fits_through_the_cap(
    deployment: Deployment,
) -> None:
    """A control character is six bytes in JSON: three thousand such names are more than a mebibyte, the cap."""
    names = [f"{number:04}" + "\x01" * 60 for number in range(3_000)]
    # 2 % of 1000 are 20, more than the 15 that each has; nobody is liquidated while all is paused.
    book = book_of(*names)
    for entry in book["accounts"]:
        entry["balances"] = {"USDT": "15"}
    await deployment.write(book=book).create_topics()
    tell = Clock()
    pause = tell({"type": "pause", "scope": "all"})
    stricter = tell({"type": "set_instrument", "symbol": "BTCUSDT", "tiers": [["0", "0.02", "50"]]})
    await live_for(deployment, pause, stricter)
    events = (await deployment.check_exact())["margin-events"]
    changes = [body for body in events if body["type"] == "policy_changed"]
    assert [name for body in changes for name in body["crossed"]] == sorted(names)


def test_fill_of_the_small_market_is_a_fill() -> None:
    """The helper itself: what it makes is taken as a message."""
    assert type(decode(json.dumps(Clock()(fill("a", "buy", "1", "100"))).encode())).__name__ == "Fill"
