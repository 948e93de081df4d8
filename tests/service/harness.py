"""A deployment of the service as an operator has it: a service file, topics, processes that run ``liq-engine run``.

    Deployment   folder, service file, book, topics
    Instance     one process, its log, the signals it gets; gone at the end of its block, whatever happens
    Traffic      sends a workload and answers orders, never further ahead of the shards than a window; knows from the
                 journals how far each shard is, so that whoever waits waits for work done and not for time to pass

Broker restarts are lived through: a client that fails is made anew, and what it did not see acknowledged is sent again
(inputs may come twice; what the topics hold is what counts).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from engine.core.events import ORDERS_TOPIC
from engine.edges.config import default_risk_path
from engine.edges.journal import JOURNAL_TOPIC, Genesis, decode_journal
from engine.edges.service_config import ServiceConfig
from engine.edges.service_file import load_service
from engine.edges.topics import TOPICS, expected_settings, partition_count
from engine.tools.child import Child
from tests.brokers.clients import consumer, new_producer, new_topic, unique
from tests.service.workload import INPUT_TOPICS, Line, Venue, Workload

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ("-m", "engine")
# Generous: a loaded machine is slow, and a deadline only ends what hangs.
DEADLINE_S = 120.0
POLL_S = 0.01
# The longest line a workload has is a little over a megabyte.
REQUEST_BYTES_MAX = 4 << 20
# So many inputs may be ahead of the slowest shard: there is always work, and a restart has a backlog.
WINDOW = 1_200
BURST = 60
LEVELS = ("read_committed", "read_uncommitted")

Tables = Mapping[str, Mapping[str, object]]
# Small, so that each is met: snapshots every second, batches of 40, two partitions of marks.
TABLES: Tables = {
    "service": {"heartbeat_ms": 100},
    "kafka": {"mark_partitions": 2, "request_timeout_ms": 10_000},
    "batch": {"records_max": 40, "interval_ms": 10, "pending_max": 1_000},
    "snapshots": {"every_s": 1, "keep": 2},
    "deadlines": {"commit_s": 4, "progress_s": 15},
    "admin": {"port": 0},
}


@dataclass(frozen=True)
class Deployment:
    """One cluster of the service in a folder, its topics on a broker under a prefix of its own."""

    folder: Path
    config: ServiceConfig
    workload: Workload

    @property
    def service_file(self) -> Path:
        """Return the service file."""
        return self.folder / "service.toml"

    def name(self, topic: str) -> str:
        """Return the broker's name of a topic."""
        return f"{self.config.kafka.topic_prefix}{topic}"

    def places(self, topic: str) -> list[TopicPartition]:
        """Return all partitions of a topic."""
        spec = next(spec for spec in TOPICS if spec.name == topic)
        return [TopicPartition(self.name(topic), number) for number in range(partition_count(self.config, spec))]

    def inputs_of(self, shard: int) -> list[TopicPartition]:
        """Return the input partitions that a shard reads."""
        own = [TopicPartition(self.name(topic), shard) for topic in ("fills", "transfers")]
        return [*own, *self.places("mark-prices"), *self.places("control")]


async def new_deployment(
    folder: Path, bootstrap: str, workload: Workload, *, shards: int, tables: Tables = TABLES
) -> Deployment:
    """Write the deployment's files and create its topics with the declared settings."""
    deployment = written(folder, bootstrap, workload, shards=shards, tables=tables)
    for spec in TOPICS:
        await new_topic(
            bootstrap,
            partitions=partition_count(deployment.config, spec),
            configs=expected_settings(deployment.config, spec),
            name=deployment.name(spec.name),
        )
    return deployment


def written(folder: Path, bootstrap: str, workload: Workload, *, shards: int, tables: Tables) -> Deployment:
    """Write service file and book to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    name = unique("chaos")
    service = {"cluster": name, "shards": shards, "risk": str(default_risk_path()), "book": "book.json"}
    kafka = {"bootstrap_servers": bootstrap, "topic_prefix": f"{name}."}
    whole = {**tables, "service": {**service, **tables["service"]}, "kafka": {**kafka, **tables["kafka"]}}
    (folder / "service.toml").write_text(toml_text(whole))
    workload.write_book(folder / "book.json")
    # Without the environment: a broker that it names is the one that ``bootstrap`` was taken from.
    return Deployment(folder, load_service(folder / "service.toml", {}), workload)


def toml_text(tables: Tables) -> str:
    """Return tables of plain values as TOML, which spells such values as JSON does."""
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()), ""]
    return "\n".join(lines)


class Instance(Child):
    """One process of the service, under a name of its own in the deployment's folder."""

    def __init__(self, deployment: Deployment, name: str, program: Sequence[str] = ENGINE) -> None:
        self.shards = range(deployment.config.shards)
        command = [sys.executable, *program, "run", "--config", str(deployment.service_file)]
        environment = {key: value for key, value in os.environ.items() if key != "KAFKA_BOOTSTRAP_SERVERS"}
        super().__init__(deployment.folder / f"{name}.log", command, cwd=ROOT, env=environment)

    def lines_of(self, event: str) -> list[str]:
        """Return its lines about one kind of event."""
        return [line for line in self.text.splitlines() if re.search(rf" (?:INFO|ERROR|CRITICAL) {event}\b", line)]

    def shards_in(self, event: str) -> Counter[int]:
        """Return how often each shard has said that an event came."""
        return Counter(int(found[1]) for line in self.lines_of(event) if (found := re.search(r"\bshard=(\d+)", line)))

    async def until(self, event: str) -> None:
        """Return once every shard has said ``event``; AssertionError if it ends before or takes too long."""

        def is_said() -> bool:
            found = self.shards_in(event)
            is_there = all(found[shard] for shard in self.shards)
            if not is_there and not self.is_running:
                raise AssertionError(f"ended with {self.process.returncode} and not {event!r}:\n{self.text[-4000:]}")
            return is_there

        await until(is_said, f"{self.log.name}: {event!r} of every shard", lambda: self.text)

    async def exit_code(self) -> int:
        """Return the exit code once it has ended by itself."""
        await until(lambda: not self.is_running, f"{self.log.name}: the end", lambda: self.text)
        return int(self.process.returncode)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone: a snapshot's child goes on, as it would."""
        self.process.send_signal(number)

    async def drain(self) -> None:
        """Let it finish in good order."""
        self.signal(signal.SIGTERM)
        code = await self.exit_code()
        assert code == 0, f"ended with {code}:\n{self.text[-4000:]}"
        assert set(self.shards_in("stopped")) == set(self.shards), self.text[-4000:]


async def until(condition: Callable[[], bool], what: str, explain: Callable[[], str] = str) -> None:
    """Return once ``condition`` holds; AssertionError saying ``what`` was waited for if that takes too long."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                if condition():
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"not within {DEADLINE_S:.0f} s: {what}\n{explain()[-4000:]}") from None


class Traffic:
    """What goes in and what comes out while the shards live and die."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.bootstrap = deployment.config.kafka.bootstrap_servers
        self.venue = Venue(deployment.workload.seed, deployment.workload.risk)
        self.ends: Counter[TopicPartition] = Counter()
        # Per shard: the next offset of each input partition, the count of inputs, as its journal says.
        self.taken: dict[int, dict[TopicPartition, int]] = {n: {} for n in range(deployment.config.shards)}
        self.inputs: Counter[int] = Counter()
        self.batches: Counter[int] = Counter()
        self.answered: dict[TopicPartition, int] = dict.fromkeys(deployment.places(ORDERS_TOPIC), 0)
        self.is_fed = False
        self.changed = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self._producer: AIOKafkaProducer | None = None
        self._turn = asyncio.Lock()

    async def send(self, lines: Sequence[Line]) -> None:
        """Send lines in order, again by a new client where one fails; return once the broker has them."""
        async with self._turn:
            while True:
                try:
                    if self._producer is None:
                        self._producer = new_producer(self.bootstrap, max_request_size=REQUEST_BYTES_MAX)
                        await self._producer.start()
                    for record in await asyncio.gather(*[await self._hand_over(line) for line in lines]):
                        place = TopicPartition(record.topic, record.partition)
                        self.ends[place] = max(self.ends[place], record.offset + 1)
                    return
                except (KafkaError, OSError):
                    await self.hang_up()
                    await asyncio.sleep(POLL_S)

    async def _hand_over(self, line: Line) -> asyncio.Future[Any]:
        assert self._producer is not None
        topic = self.deployment.name(line.topic)
        sent: asyncio.Future[Any] = await self._producer.send(topic, line.value, key=line.key)
        return sent

    async def hang_up(self) -> None:
        """Give the producer up."""
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                await producer.stop()
            except (KafkaError, OSError):
                pass  # It has failed before; what it had not delivered is sent again.

    async def feed(self) -> None:
        """Send the workload, never more than the window ahead of the slowest shard."""
        lines = self.deployment.workload.lines
        for start in range(0, len(lines), BURST):
            await self.send(lines[start : start + BURST])
            while max(self.lag(shard) for shard in self.taken) > WINDOW:
                self.changed.clear()
                await self.changed.wait()
        self.is_fed = True

    async def watch(self) -> None:
        """Read the journals as they grow."""

        async def note(record: Any) -> None:
            entry = decode_journal(record.value, f"{record.topic}-{record.partition} offset {record.offset}")
            shard = record.partition
            if isinstance(entry, Genesis):
                return
            for run in entry.runs:
                self.taken[shard][TopicPartition(self.deployment.name(run.topic), run.partition)] = run.last + 1
                self.inputs[shard] += run.records
            self.batches[shard] = entry.batch
            self.changed.set()

        await tail(self.bootstrap, dict.fromkeys(self.deployment.places(JOURNAL_TOPIC), 0), note)

    async def answer(self) -> None:
        """Answer orders as they come out."""

        async def reply(record: Any) -> None:
            lines = [*self.venue.answers(record.value)]
            if lines:
                await self.send(lines)

        await tail(self.bootstrap, self.answered, reply)

    def lag(self, shard: int) -> int:
        """Return how many inputs a shard has not committed."""
        taken = self.taken[shard]
        return sum(self.ends[place] - taken.get(place, 0) for place in self.deployment.inputs_of(shard))

    def check(self) -> None:
        """Raise what one of the tasks has failed with."""
        for task in self.tasks:
            if task.done():
                task.result()

    def is_done(self, condition: bool) -> bool:
        """Return ``condition``, as long as there is still somebody who could bring it about."""
        self.check()
        return condition

    async def until_taken(self, count: int) -> None:
        """Return once the shards together have committed ``count`` inputs."""
        await until(
            lambda: self.is_done(self.inputs.total() >= count), f"{count} inputs", lambda: f"there are {self.inputs}"
        )

    async def until_more(self, batches: int) -> None:
        """Return once every shard has committed so many batches more."""
        target = {shard: self.batches[shard] + batches for shard in self.taken}
        await until(
            lambda: self.is_done(all(self.batches[shard] >= wanted for shard, wanted in target.items())),
            f"batches {target}",
            lambda: f"there are {self.batches}",
        )

    async def until_quiet(self) -> None:
        """Return once all that was sent is taken, every order that came of it answered, the answers taken too."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                self.check()
                ends = self.ends.copy()
                is_taken = self.is_fed and not any(self.lag(shard) for shard in self.taken)
                if is_taken and await self._all_answered() and ends == self.ends and not self._turn.locked():
                    return
                await asyncio.sleep(POLL_S)

    async def _all_answered(self) -> bool:
        """Return whether every order is answered; one in an open transaction is not there yet, so it is none."""
        decided, written = [await self.ends_of(ORDERS_TOPIC, level) for level in LEVELS]
        return decided == written == self.answered

    async def ends_of(self, topic: str, level: str) -> dict[TopicPartition, int]:
        """Return the ends of a topic's partitions; those that are read uncommitted lie behind open transactions."""
        places = self.deployment.places(topic)
        async with consumer(self.bootstrap, *places, start=None, isolation_level=level) as client:
            ends: dict[TopicPartition, int] = await client.end_offsets(places)
            return ends

    async def written(self, topic: str) -> int:
        """Return how much a topic holds, open transactions included."""
        return sum((await self.ends_of(topic, LEVELS[1])).values())

    async def is_undecided(self, topic: str) -> bool:
        """Return whether a transaction is open in a topic."""
        decided, written = [await self.ends_of(topic, level) for level in LEVELS]
        return decided != written


async def tail(bootstrap: str, offsets: dict[TopicPartition, int], take: Callable[[Any], Any]) -> None:
    """Hand over committed records as they come, for ever; ``offsets`` says how far it is, and is moved on.

    An offset moves past what is no record too (a transaction's marker), as soon as the client has.
    """
    while True:
        try:
            async with consumer(bootstrap, *offsets, start=None) as client:
                for place, offset in offsets.items():
                    client.seek(place, offset)
                await follow(client, offsets, take)
        except (KafkaError, OSError):
            await asyncio.sleep(POLL_S)


async def follow(client: AIOKafkaConsumer, offsets: dict[TopicPartition, int], take: Callable[[Any], Any]) -> None:
    """Hand over the records of one client until it fails."""
    while True:
        found = await client.getmany(timeout_ms=50)
        for records in found.values():
            for record in records:
                await take(record)
                offsets[TopicPartition(record.topic, record.partition)] = record.offset + 1
        for place in offsets:
            offsets[place] = await client.position(place)


@asynccontextmanager
async def traffic(deployment: Deployment) -> AsyncIterator[Traffic]:
    """Yield the traffic of a deployment, under way."""
    going = Traffic(deployment)
    going.tasks = [asyncio.create_task(work()) for work in (going.watch, going.answer, going.feed)]
    try:
        yield going
        going.check()
    finally:
        for task in going.tasks:
            task.cancel()
        await asyncio.gather(*going.tasks, return_exceptions=True)
        await going.hang_up()


def input_places(deployment: Deployment) -> list[TopicPartition]:
    """Return all input partitions."""
    return [place for topic in INPUT_TOPICS for place in deployment.places(topic)]
