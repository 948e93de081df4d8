"""A deployment of the service to be measured: service file, topics, processes, what they say, how far they are.

Site      folder, service file, topics under a prefix of their own
Process   one ``python -m ...`` with its log, its signals, its memory and processor time; gone after its block
Arrivals  the moment at which records come to a consumer of ours
Journal   how many inputs each shard has committed, and since when
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition

from benchmarks.service_market import Line
from engine.edges.config import default_risk_path
from engine.edges.journal import JOURNAL_TOPIC, Genesis, decode_journal
from engine.edges.service_config import ServiceConfig
from engine.edges.service_file import BOOTSTRAP_VARIABLE, load_service
from engine.errors import BrokerError
from engine.shell.topics import create
from engine.tools.child import Child
from tests.brokers.clients import consumer, new_producer, unique

ROOT = Path(__file__).resolve().parents[1]
# Only ends what hangs: a million events over 100,000 accounts take long on a busy machine.
DEADLINE_S = 7_200.0
POLL_S = 0.005
PAGE = os.sysconf("SC_PAGE_SIZE")
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
# So many are handed to the client before the broker's answers are awaited.
WINDOW = 5_000
BATCH_BYTES = 256 << 10
LOG_TIME = "%Y-%m-%d %H:%M:%S"

Tables = Mapping[str, Mapping[str, object]]


@dataclass
class Site:
    """One cluster of the service; ``tables`` go over what the service file has by default."""

    folder: Path
    bootstrap: str
    book: Path
    risk: Path | None = None
    shards: int = 1
    delivery: str = "exactly_once"
    tables: Tables | None = None

    def __post_init__(self) -> None:
        self.name = unique("bench")
        self.configure(self.tables or {})

    def configure(self, tables: Tables) -> None:
        """Write the service file; snapshots are not taken unless ``tables`` say so."""
        usual: Tables = {
            "service": {
                "cluster": self.name,
                "shards": self.shards,
                "risk": str(self.risk or default_risk_path()),
                "book": str(self.book),
                "delivery": self.delivery,
            },
            "kafka": {"bootstrap_servers": self.bootstrap, "topic_prefix": f"{self.name}."},
            "snapshots": {"folder": f"{self.name}-snapshots", "every_s": 86_400},
            "admin": {"port": 0},
        }
        names = {**usual, **tables}
        text = ""
        for name in names:
            keys = {**usual.get(name, {}), **tables.get(name, {})}
            text += "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])
        self.file.write_text(text)

    @property
    def file(self) -> Path:
        """Return the service file."""
        return self.folder / f"{self.name}.toml"

    @property
    def config(self) -> ServiceConfig:
        """Return the configuration as the service reads it."""
        return load_service(self.file, {})

    def topic(self, name: str) -> str:
        """Return what a topic is called at the broker."""
        return f"{self.name}.{name}"

    async def create_topics(self) -> Site:
        """Create all topics, as the verb does."""
        problems = await asyncio.to_thread(create, self.config)
        if problems:
            raise BrokerError("; ".join(problems))
        return self

    def inputs_of(self, shard: int) -> list[TopicPartition]:
        """Return the input partitions that a shard reads."""
        own = [TopicPartition(self.topic(topic), shard) for topic in ("fills", "transfers")]
        return [*own, TopicPartition(self.topic("mark-prices"), 0), TopicPartition(self.topic("control"), 0)]

    def process(self, *arguments: str) -> Process:
        """Return a process of ``liq-engine``, to be entered as a context."""
        return Process(self.folder, "engine", *arguments, "--config", str(self.file))


class Process(Child):
    """``python -m MODULE ARGUMENTS``, running."""

    def __init__(self, folder: Path, module: str, *arguments: str) -> None:
        self.name = " ".join((module, *arguments[:1]))
        self.started_s = time.time()
        environment = {key: value for key, value in os.environ.items() if key != BOOTSTRAP_VARIABLE}
        command = [sys.executable, "-m", module, *arguments]
        super().__init__(folder / f"{unique(module)}.log", command, cwd=ROOT, env=environment)

    async def until(self, event: str) -> float:
        """Return when it said that an event came (seconds since the epoch), once it has."""
        deadline_s = time.monotonic() + DEADLINE_S
        while (said_s := self.said_s(event)) is None:
            if not self.is_running:
                raise BrokerError(f"{self.name} ended without saying {event!r}:\n{self.text[-2000:]}")
            if time.monotonic() > deadline_s:
                raise BrokerError(f"{self.name} has not said {event!r} in {DEADLINE_S:.0f} s:\n{self.text[-2000:]}")
            await asyncio.sleep(POLL_S)
        return said_s

    def said_s(self, event: str) -> float | None:
        """Return when it first said that an event came, None if it has not."""
        found = re.search(rf"^(\S+ [\d:]+),(\d+) \w+ {event}\b", self.text, re.MULTILINE)
        return time.mktime(time.strptime(found[1], LOG_TIME)) + int(found[2]) / 1000 if found else None

    def field(self, event: str, name: str) -> str:
        """Return a value of the first line about an event."""
        found = re.search(rf"^.* {event}\b.* {name}=(\S+)", self.text, re.MULTILINE)
        if found is None:
            raise BrokerError(f"no {event} with {name}:\n{self.text[-2000:]}")
        return found[1]

    def cpu_s(self) -> float:
        """Return the seconds of processor time it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

    def rss_mb(self) -> float:
        """Return the memory it holds, in MB of a million bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE / 1e6

    async def end(self) -> str:
        """Return what it has said, once it has ended by itself."""
        await asyncio.to_thread(self.process.wait, DEADLINE_S)
        if self.process.returncode != 0:
            raise BrokerError(f"{self.name} ended with {self.process.returncode}: {self.text[-2000:]}")
        return self.text

    async def drain(self) -> str:
        """Have it finish in good order; return what it has said."""
        self.process.send_signal(signal.SIGTERM)
        return await self.end()


@asynccontextmanager
async def sender(bootstrap: str) -> AsyncIterator[AIOKafkaProducer]:
    """Yield a producer with the options of the service's own."""
    client = new_producer(bootstrap, enable_idempotence=False, max_batch_size=BATCH_BYTES)
    try:
        await client.start()
        yield client
    finally:
        await client.stop()


async def send_all(client: AIOKafkaProducer, site: Site, lines: Iterable[Line]) -> None:
    """Send lines in order; return once the broker has them."""
    sent = []
    for line in lines:
        sent.append(await client.send(site.topic(line.topic), line.value, key=line.key))
        if len(sent) == WINDOW:
            await asyncio.gather(*sent)
            sent.clear()
    await asyncio.gather(*sent)


@asynccontextmanager
async def tail(
    bootstrap: str, parts: Sequence[TopicPartition], take: Callable[[Any], None], *, level: str = "read_committed"
) -> AsyncIterator[asyncio.Task[None]]:
    """Have ``take`` called with every record from the first on, during the block; yields the task that does it."""

    async def read(client: Any) -> None:
        while True:
            for records in (await client.getmany(timeout_ms=500)).values():
                for record in records:
                    take(record)

    async with consumer(bootstrap, *parts, isolation_level=level, fetch_max_wait_ms=500) as client:
        task = asyncio.create_task(read(client))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Arrivals:
    """Who waits for a record of a key that holds some bytes, and when the first of each came."""

    def __init__(self, holding: bytes = b"") -> None:
        self.holding = holding
        self.waiting: dict[bytes, asyncio.Future[tuple[float, bytes]]] = {}

    def take(self, record: Any) -> None:
        """Note a record; one that nobody waits for, or that does not hold what it should, is none of ours."""
        if self.holding in record.value and record.key in self.waiting:
            waiter = self.waiting.pop(record.key)
            waiter.set_result((time.perf_counter(), record.value))

    def expect(self, key: bytes) -> asyncio.Future[tuple[float, bytes]]:
        """Return what will hold time and value of the record with this key."""
        return self.waiting.setdefault(key, asyncio.get_running_loop().create_future())


class Journal:
    """How many inputs each shard has committed, as its journal says."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.inputs = dict.fromkeys(range(site.shards), 0)
        self.changed_s = dict.fromkeys(range(site.shards), 0.0)
        self.seq = dict.fromkeys(range(site.shards), 0)
        self.batches = dict.fromkeys(range(site.shards), 0)

    def take(self, record: Any) -> None:
        """Note an order record."""
        entry = decode_journal(record.value, f"{record.topic}-{record.partition} offset {record.offset}")
        if isinstance(entry, Genesis) or not entry.runs:
            return
        self.inputs[record.partition] += sum(run.records for run in entry.runs)
        self.changed_s[record.partition] = time.time()
        self.seq[record.partition] = entry.seq
        self.batches[record.partition] += 1

    async def until(self, counts: Mapping[int, int], *processes: Process) -> None:
        """Return once each shard has committed so many; raises BrokerError where that cannot be waited for."""
        deadline_s = time.monotonic() + DEADLINE_S
        while any(self.inputs[shard] < count for shard, count in counts.items()):
            ended = [process for process in processes if process.process.poll() is not None]
            if ended or time.monotonic() > deadline_s:
                said = "\n".join(process.text[-2000:] for process in ended or processes)
                raise BrokerError(f"committed {self.inputs} of {dict(counts)}:\n{said}")
            await asyncio.sleep(POLL_S)

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[Journal]:
        """Follow it during the block."""
        places = [TopicPartition(self.site.topic(JOURNAL_TOPIC), shard) for shard in self.inputs]
        async with tail(self.site.bootstrap, places, self.take):
            yield self
