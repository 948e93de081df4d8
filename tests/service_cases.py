"""What the tests of the service share: a small market, its messages as records of topics, a service to run and read.

The market is made for mental arithmetic: BTCUSDT at prices of about 100 with 1 % maintenance, all in USDT. ``long``
says which accounts are there: alice and whoever else, each long ten contracts from 100 with a deposit of 50. Notional
at 96 is 960, so maintenance 9.60, and equity 50 - 40 = 10: near, and at 95.90 it is 9.00 against 9.59: liquidatable.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from aiokafka import TopicPartition
from aiokafka.partitioner import DefaultPartitioner

from engine.__main__ import main
from engine.core import ledger
from engine.core.shard import Shard
from engine.edges.config import load_risk
from engine.edges.fold import Fold
from engine.edges.journal import Position
from engine.edges.service_config import ServiceConfig
from engine.edges.service_file import load_service
from engine.edges.shard_book import BookSource
from engine.edges.topics import TOPICS, expected_settings
from engine.errors import LiqEngineError
from engine.shell.kafka import partition_of
from engine.shell.service import Service
from engine.shell.topics import create
from engine.shell.worker import Worker
from tests import golden
from tests.brokers.clients import DEADLINE_S, consumer, new_topic, producer, read_all, read_settled, unique, until
from tests.brokers.real import OVERRIDE
from tests.verb import Verb

OUTPUTS = ("liquidation-orders", "bad-debt", "margin-events", "dead-letters")
# type of a message -> the topic that CONTRACT section 2 gives it, and the field that is its key
ROUTES = {
    "mark": ("mark-prices", "symbol"),
    "asset_price": ("mark-prices", "asset"),
    "funding": ("mark-prices", "symbol"),
    "fill": ("fills", "account"),
    "conversion": ("fills", "account"),
    "order_done": ("fills", "account"),
    "transfer": ("transfers", "account"),
    "pause": ("control", None),
    "resume": ("control", None),
    "set_policy": ("control", None),
    "set_instrument": ("control", None),
    "set_asset": ("control", None),
}
RISK = """\
[policy]
limit_band = "0.2"
[assets.USDT]
price = 1
[instruments.BTCUSDT]
settle = "USDT"
price_tick = "0.1"
lot = "0.001"
tiers = [["0", "0.01", "50"]]
"""
START_NS = 1_722_816_000_000_000_000
Body = dict[str, Any]
Result = TypeVar("Result")


@dataclass
class Record:
    """An input record, as a broker gives it or as it is to be sent; the offset counts in its partition."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int = 0
    offset: int = 0


def record_of(body: Body) -> Record:
    """Return a message as a record of its topic."""
    topic, field_name = ROUTES[body["type"]]
    key = body[field_name] if field_name is not None else "*"
    return Record(topic, key.encode(), json.dumps(body).encode())


def golden_records(name: str) -> list[Record]:
    """Return a golden log as records on one partition a topic; what is no message stands among the fills."""
    records = []
    for line in (golden.FOLDER / f"{name}.jsonl").read_bytes().splitlines():
        try:
            routed = record_of(json.loads(line))
            # Its own bytes: some of the lines are there for what a second encoding would mend.
            records.append(Record(routed.topic, routed.key, line))
        except (ValueError, KeyError, TypeError, AttributeError):
            records.append(Record("fills", b"somebody", line))
    return records


def stored(records: Iterable[Record]) -> list[Record]:
    """Return records with the offsets they get in their partitions, one after the other."""
    ends: dict[tuple[str, int], int] = {}
    found = []
    for record in records:
        place = record.topic, record.partition
        found.append(Record(record.topic, record.key, record.value, record.partition, ends.get(place, 0)))
        ends[place] = ends.get(place, 0) + 1
    return found


# -------------------------------------------------------------------------------------------------- the small market


class Clock:
    """Numbers messages: each a millisecond after the one before, with an id of its own."""

    def __init__(self, *, start_ns: int = START_NS) -> None:
        self.start_ns = start_ns
        self.count = 0

    @property
    def last_ts(self) -> int:
        """Return the time of the last message."""
        return self.start_ns + self.count * 1_000_000

    def __call__(self, body: Body) -> Body:
        self.count += 1
        named = {"fill": "fill_id", "transfer": "transfer_id"}.get(body["type"])
        own = {named: f"{self.start_ns}/{self.count}"} if named is not None else {}
        return {"ts": self.last_ts, **own, **body}


def mark(price: str) -> Body:
    return {"type": "mark", "symbol": "BTCUSDT", "price": price}


def deposit(account: str, amount: str) -> Body:
    return {"type": "transfer", "account": account, "asset": "USDT", "amount": amount}


def fill(account: str, side: str, qty: str, price: str, **fields: Any) -> Body:
    return {
        "type": "fill",
        "account": account,
        "symbol": "BTCUSDT",
        "side": side,
        "qty": qty,
        "price": price,
        **fields,
    }


def longs(*accounts: str) -> list[Body]:
    """Return how accounts come to be long ten contracts from 100 with 50 of their own, and the other side of it."""
    deposits = [deposit("maker", "1000000"), *(deposit(account, "50") for account in accounts)]
    fills = [
        fill("maker", "sell", str(10 * len(accounts)), "100"),
        *(fill(name, "buy", "10", "100") for name in accounts),
    ]
    return [mark("100"), *deposits, *fills]


def book_of(*accounts: str, insurance: str = "1000") -> Body:
    """Return a book with the same positions."""
    entries = [
        {
            "account": name,
            "balances": {"USDT": "50"},
            "positions": [{"symbol": "BTCUSDT", "qty": "10", "entry_price": "100"}],
        }
        for name in accounts
    ]
    return {"accounts": entries, "marks": {"BTCUSDT": "100"}, "insurance": {"USDT": insurance}}


def names_on(shard: int, shards: int, count: int) -> list[str]:
    """Return names of accounts that Kafka's own partitioner puts on a shard."""
    names = (f"a{number}" for number in itertools.count())
    return list(islice((name for name in names if place_of(name.encode(), shards) == shard), count))


def place_of(key: bytes, partitions: int) -> int:
    """Return where Kafka's own partitioner puts a key."""
    numbers = list(range(partitions))
    return int(DefaultPartitioner()(key, numbers, numbers))


# -------------------------------------------------------------------------------------------------------- deployment


@dataclass
class Deployment:
    """One cluster's files in a folder, and its topics under a prefix of its own."""

    folder: Path
    bootstrap: str
    name: str = field(default_factory=lambda: unique("t"))
    shards: int = 1
    # How many inputs were sent.
    sent: int = 0

    def write(self, *, book: Body | None = None, risk: str = RISK, **tables: Body) -> Deployment:
        """Write risk file, book and service file; keys of ``tables`` go over those that make tests quick."""
        (self.folder / "risk.toml").write_text(risk)
        if book is not None:
            (self.folder / "book.json").write_text(json.dumps(book))
        quick: dict[str, Body] = {
            "service": {
                "cluster": self.name,
                "shards": self.shards,
                "risk": "risk.toml",
                "book": "book.json" if (self.folder / "book.json").exists() else "",
                "heartbeat_ms": 50,
            },
            "kafka": {"bootstrap_servers": self.bootstrap, "topic_prefix": f"{self.name}."},
            "batch": {"interval_ms": 5},
            "snapshots": {"every_s": 86_400},
            "admin": {"port": 0},
        }
        lines: list[str] = []
        for name in {**quick, **tables}:
            keys = quick.get(name, {}) | tables.get(name, {})
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        self.file.write_text("\n".join(lines) + "\n")
        return self

    @property
    def file(self) -> Path:
        """Return where the service file lies."""
        return self.folder / "service.toml"

    @property
    def config(self) -> ServiceConfig:
        """Return the configuration as the service reads it."""
        return load_service(self.file, {})

    def topic(self, name: str) -> str:
        """Return what a topic is called at the broker."""
        return f"{self.name}.{name}"

    async def create_topics(self, **settings: dict[str, str]) -> Deployment:
        """Create all topics, as the verb does, those that are named with settings of their own before."""
        for name, own in settings.items():
            spec = next(spec for spec in TOPICS if spec.name == name)
            configs = expected_settings(self.config, spec) | own
            await new_topic(self.bootstrap, partitions=self.shards, configs=configs, name=self.topic(name))
        problems = await in_thread(create, self.config)
        assert problems == []
        return self

    async def feed(self, *messages: Body | Record) -> None:
        """Send messages to one live shard such that it takes them in this order, and wait until it has committed them.

        Two topics are read side by side: what follows on another topic is sent when what goes before is committed.
        """
        records = [each if isinstance(each, Record) else record_of(each) for each in messages]
        for _, group in groupby(records, key=lambda record: record.topic):
            await self.send(*group)
            await self.wait_for_batch(self.sent)

    async def send(self, *messages: Body | Record) -> None:
        """Produce messages to their topics, each in order, and wait until the broker has them."""
        records = [each if isinstance(each, Record) else record_of(each) for each in messages]
        async with producer(self.bootstrap, max_request_size=4 << 20) as client:
            sent: list[asyncio.Future[Any]] = []
            for record in records:
                counts = {"mark-prices": 1, "control": 1}.get(record.topic, self.shards)
                partition = record.partition or place_of(record.key or b"", counts)
                topic = self.topic(record.topic)
                sent.append(await client.send(topic, record.value, key=record.key, partition=partition))
            await asyncio.gather(*sent)
        self.sent += len(records)

    async def outputs(self, shard: int = 0) -> dict[str, list[Body]]:
        """Return what a shard has committed, by topic."""
        raw = await self.raw_outputs(shard)
        return {topic: [json.loads(line) for line in lines] for topic, lines in raw.items()}

    async def raw_outputs(self, shard: int = 0) -> dict[str, list[bytes]]:
        """Return the bytes of it."""
        read = [read_settled(self.bootstrap, self.topic(topic), partitions=[shard]) for topic in OUTPUTS]
        return dict(zip(OUTPUTS, await asyncio.gather(*read), strict=True))

    async def journal(self, shard: int = 0) -> list[Body]:
        """Return the journal of a shard."""
        values = await read_settled(self.bootstrap, self.topic("journal"), partitions=[shard])
        return [json.loads(value) for value in values]

    async def inputs(self) -> dict[tuple[str, int], dict[int, Record]]:
        """Return all inputs by partition and offset, read by a plain consumer."""
        counts = {"mark-prices": 1, "control": 1, "fills": self.shards, "transfers": self.shards}
        parts = [TopicPartition(self.topic(name), number) for name in counts for number in range(counts[name])]
        found: dict[tuple[str, int], dict[int, Record]] = {
            (name, n): {} for name in counts for n in range(counts[name])
        }
        async with asyncio.timeout(DEADLINE_S), consumer(self.bootstrap, *parts, start=None) as client:
            ends, starts = await client.end_offsets(parts), await client.beginning_offsets(parts)
            for part in parts:
                client.seek(part, starts[part])
            while any([await client.position(part) < ends[part] for part in parts]):
                for part, records in (await client.getmany(timeout_ms=50)).items():
                    topic = part.topic.removeprefix(f"{self.name}.")
                    for one in records:
                        found[topic, part.partition][one.offset] = Record(
                            part.topic, one.key, one.value, part.partition, one.offset
                        )
        return found

    async def folded(self, shard: int = 0) -> tuple[dict[str, list[bytes]], Shard]:
        """Return outputs and state that the inputs give in the journal's order, folded here and now in one go."""
        journal, inputs = await self.journal(shard), await self.inputs()
        records = []
        for topic, partition, first, last, count in (run for entry in journal[1:] for run in entry["runs"]):
            of_run = [record for offset, record in inputs[topic, partition].items() if first <= offset <= last]
            assert len(of_run) == count, (topic, partition, first, last, count)
            records += of_run
        config = self.config
        source = BookSource(config.book, shards=self.shards, partition_of=partition_of)
        state = source.new_shard(load_risk(config.risk), shard)
        fold = Fold(state, Position(), logical=lambda name: name.removeprefix(f"{self.name}."))
        found: dict[str, list[bytes]] = {topic: [] for topic in OUTPUTS}
        for line in fold.apply(records):
            found[line.topic].append(line.value)
        ledger.check_conservation(state.book)
        return found, state

    async def check_exact(self, shard: int = 0) -> dict[str, list[Body]]:
        """Assert that a shard's outputs are to the byte what its inputs call for, ``seq`` from 1; return them."""
        expected, _ = await self.folded(shard)
        found = await self.raw_outputs(shard)
        assert found == expected
        outputs = {topic: [json.loads(line) for line in lines] for topic, lines in found.items()}
        numbers = sorted(body["seq"] for bodies in outputs.values() for body in bodies)
        assert numbers == list(range(1, len(numbers) + 1))
        return outputs

    async def check_audit(self, *arguments: str) -> Body:
        """Assert that ``audit`` finds nothing; return what it counted, of the first shard."""
        code, out, _ = await self.verb("audit", *arguments, "--json")
        document = json.loads(out)
        assert code == 0, document
        first: Body = document["shards"][0]
        return first

    async def verb(self, verb: str, *arguments: str) -> tuple[int, str, str]:
        """Run a command that ends by itself; return exit code, stdout and stderr."""
        return await in_thread(run_verb, verb, *arguments, "--config", str(self.file))

    async def wait_for_batch(self, count: int, shard: int = 0) -> None:
        """Return once a shard has committed that many inputs in all."""

        async def is_there() -> bool:
            values = await read_all(self.bootstrap, self.topic("journal"), partitions=[shard])
            return sum(run[4] for value in values[1:] for run in json.loads(value)["runs"]) >= count

        await until(is_there)


async def in_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """Return what a function returns that runs an event loop of its own; its thread ends with it.

    A thread that stayed would be there when a shard of this process forks to take a snapshot.
    """
    with ThreadPoolExecutor(1) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


def run_verb(verb: str, *arguments: str) -> tuple[int, str, str]:
    """Run a command in this process; return exit code, stdout and stderr."""
    out, err = StringIO(), StringIO()
    with patch.dict(os.environ), redirect_stdout(out), redirect_stderr(err):
        os.environ.pop(OVERRIDE, None)
        code = main([verb, *arguments])
    return code, out.getvalue(), err.getvalue()


# ----------------------------------------------------------------------------------------------- services to be run


class Running:
    """A service in this process."""

    def __init__(self, service: Service, task: asyncio.Task[int]) -> None:
        self.service = service
        self.task = task

    def worker(self, shard: int = 0) -> Worker:
        """Return the present worker of a shard."""
        return self.service.workers[shard]

    async def wait_live(self, *shards: int) -> None:
        """Return once the shards are live; raises what ended the service before."""

        async def is_live() -> bool:
            if self.task.done():
                self.task.result()
                raise AssertionError("the service ended before it was live")
            workers = self.service.workers
            return all(number in workers and workers[number].status.state == "live" for number in shards or (0,))

        await until(is_live)

    async def crash(self) -> None:
        """End it where it stands, as far as that goes without a kill; nothing if it has ended."""
        for task in (*self.service.tasks, self.task):
            task.cancel()
        await asyncio.gather(*self.service.tasks, self.task, return_exceptions=True)

    async def drain(self) -> int:
        """Tell it to finish, as SIGTERM does; return its exit code."""
        self.service.on_signal(15)
        return await asyncio.wait_for(self.task, DEADLINE_S)


@asynccontextmanager
async def running(deployment: Deployment, *shards: int) -> AsyncIterator[Running]:
    """Yield a service in this process that is live; drained at the end if it still runs."""
    service = Service(deployment.config, shards or range(deployment.shards))
    run = Running(service, asyncio.create_task(service.run()))
    try:
        await run.wait_live(*(shards or range(deployment.shards)))
        yield run
        if not run.task.done():
            assert await run.drain() == 0
    finally:
        await run.crash()


async def outcome(deployment: Deployment, shards: Sequence[int] | None = None) -> tuple[int, str]:
    """Return exit code and message of a service that is expected to end by itself; raises TimeoutError if not."""
    service = Service(deployment.config, range(deployment.shards) if shards is None else shards)
    run = Running(service, asyncio.create_task(service.run()))
    try:
        return await asyncio.wait_for(asyncio.shield(run.task), DEADLINE_S), ""
    except LiqEngineError as error:
        return error.exit_code, str(error)
    finally:
        await run.crash()


class Process(Verb):
    """A command about a deployment."""

    def __init__(self, deployment: Deployment, *arguments: str) -> None:
        # The broker is the one of the deployment, whatever the run of the tests was told.
        env = {name: value for name, value in os.environ.items() if name != OVERRIDE}
        log = deployment.folder / f"{unique('log')}.txt"
        super().__init__(log, *arguments, "--config", str(deployment.file), env=env)

    async def wait_for(self, *words: str, count: int = 1) -> None:
        """Return once ``count`` lines hold all the words; fail with the log if it ends before, or says too little."""

        async def is_said() -> bool:
            if sum(all(word in line for word in words) for line in self.text.splitlines()) >= count:
                return True
            assert self.process.poll() is None, self.text
            return False

        try:
            await until(is_said)
        except TimeoutError as error:
            raise AssertionError(f"{words} not in the log:\n{self.text}") from error

    def wait(self) -> int:
        """Return its exit code once it has ended by itself; what it said is in ``text``."""
        deadline_s = time.monotonic() + DEADLINE_S
        while (code := self.process.poll()) is None:
            assert time.monotonic() < deadline_s, f"it does not end:\n{self.text}"
            time.sleep(0.02)
        return code
