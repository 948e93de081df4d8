"""``liq-engine run``: the shards of one process, from their start to the signal that ends them.

Every shard has a worker of its own and depends on no other: one that halts says so, and the others go on. A worker that
lost the broker starts over from the journal, after a pause; one that was fenced, or that found its state in doubt,
does not. The process ends when all have ended, with the worst of their exit codes.

SIGTERM or SIGINT: take no more, commit what is applied, leave; at the second one: leave.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from engine.core.params import Risk
from engine.edges.config import load_risk
from engine.edges.metrics.service import Metrics
from engine.edges.service_config import ServiceConfig
from engine.edges.service_view import service_warnings
from engine.edges.shard_book import BookSource, config_hash
from engine.edges.warmup import warm_up
from engine.errors import BrokerError, FencedError, InputError, LiqEngineError, RefusedError
from engine.shell import oplog
from engine.shell.admin.server import AdminServer
from engine.shell.follower import Follower, Origin
from engine.shell.kafka import Kafka, partition_of
from engine.shell.snapshots import Snapshots
from engine.shell.status import Status
from engine.shell.topics import check_topics
from engine.shell.worker import Worker

# After losing the broker: first this long, then twice as long each time, up to the second figure.
PAUSE_S, PAUSE_MAX_S = 0.2, 5.0
# How often the event loop is seen to turn.
BEAT_S = 0.1
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(config: ServiceConfig, shards: Sequence[int]) -> int:
    """Run shards until they end or a signal comes; return the exit code."""
    oplog.configure()
    return asyncio.run(Service(config, shards).run())


def shards_of(config: ServiceConfig, *, shards: str | None, instance: str | None) -> list[int]:
    """Return the shards named by ``--shards 0,3`` or by ``--instance i/N``, all without either; raises InputError."""
    everything = range(config.shards)
    if shards is not None and instance is not None:
        raise InputError("--shards and --instance: give one of them")
    if instance is not None:
        ordinal, _, count = instance.partition("/")
        if not (ordinal.isdecimal() and count.isdecimal() and int(ordinal) < int(count)):
            raise InputError(f"--instance {instance}: must be i/N with i below N, as in 0/3")
        return [shard for shard in everything if shard % int(count) == int(ordinal)]
    if shards is None:
        return list(everything)
    names = shards.split(",")
    if not all(name.isdecimal() and int(name) in everything for name in names):
        raise InputError(f"--shards {shards}: must be numbers from 0 to {config.shards - 1}, as in 0,3")
    return sorted({int(name) for name in names})


def origins_of(config: ServiceConfig, shards: Iterable[int]) -> tuple[Risk, list[Origin]]:
    """Return the parameters, and what each shard begins with; raises InputError for files that cannot be used."""
    risk, source = load_risk(config.risk), book_source(config)
    named = config_hash(config.risk, config.book, config.shards)
    return risk, [Origin(shard, named, partial(source.new_shard, risk, shard)) for shard in shards]


def book_source(config: ServiceConfig) -> BookSource:
    """Return the starting book of all shards."""
    return BookSource(config.book, shards=config.shards, partition_of=partition_of)


def say_what_broke(task: asyncio.Task[int]) -> None:
    """Say what a shard died of that nobody foresaw, at once: the other shards go on."""
    broken = None if task.cancelled() else task.exception()
    if broken is not None:
        oplog.bug("halted", broken)


def kind_of(error: LiqEngineError) -> str:
    """Return what kind of error ended a shard, as the metrics name it."""
    kinds = {FencedError: "fenced", RefusedError: "refused", BrokerError: "broker", InputError: "input"}
    return next((name for kind, name in kinds.items() if isinstance(error, kind)), "invariant")


def exit_code_of(task: asyncio.Task[int]) -> int:
    """Return a shard's exit code: 3 where it was cut off (the broker did not answer in time), 1 where it broke."""
    if task.cancelled():
        return BrokerError.exit_code
    return 1 if task.exception() is not None else task.result()


async def live(worker: Worker, standby: Follower | None) -> None:
    """Run a worker; the end of a failed client's own task, which gets out, does not count as our being cancelled."""
    try:
        await worker.run(standby)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise BrokerError("a client of the broker was cut off") from error


class Service:
    """The shards of one process."""

    def __init__(self, config: ServiceConfig, shards: Sequence[int]) -> None:
        self.config = config
        self.kafka = Kafka(config)
        risk, self.origins = origins_of(config, shards)
        self.workers: dict[int, Worker] = {}
        named = self.origins[0].config_hash if self.origins else ""
        self.metrics = Metrics(config, risk, shards, named)
        self.statuses = {shard: Status(metrics) for shard, metrics in self.metrics.shards.items()}
        self.admin = AdminServer(self)
        # When the event loop last had a turn for us.
        self.beat_s = time.monotonic()
        self.draining = asyncio.Event()
        self.tasks: list[asyncio.Task[int]] = []

    async def run(self) -> int:
        """Run all shards; return the worst of their exit codes."""
        if not self.origins:
            oplog.info("nothing_to_do", shards=self.config.shards)
            return 0
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.on_signal, number)
        for warning in service_warnings(self.config):
            oplog.warning("config", warning=warning)
        async with self.admin, self.beating():
            await self.warm()
            await check_topics(self.kafka)
            return await self.run_all(self.supervise(origin) for origin in self.origins)

    async def warm(self) -> None:
        """Make the kernels ready while the loop goes on."""
        oplog.info("warming")
        # A thread that ends with it: one that stayed would be there when a shard forks to take a snapshot.
        with ThreadPoolExecutor(1) as pool:
            warmed = await asyncio.get_running_loop().run_in_executor(pool, warm_up)
        oplog.info("warm", seconds=warmed["seconds"], cache=warmed["cache"])

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Note, for the length of a block, that the event loop has turns for us."""

        async def beat() -> None:
            while True:
                self.beat_s = time.monotonic()
                await asyncio.sleep(BEAT_S)
                self.metrics.observe_loop_lag(max(0.0, time.monotonic() - self.beat_s - BEAT_S))

        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            task.cancel()

    async def run_all(self, shards: Iterable[Coroutine[Any, Any, int]]) -> int:
        """Run the lives of shards side by side, none ended by another's end; return the worst of their exit codes."""
        self.tasks = [asyncio.create_task(shard) for shard in shards]
        for task in self.tasks:
            task.add_done_callback(say_what_broke)
        await asyncio.wait(self.tasks)
        return max(exit_code_of(task) for task in self.tasks)

    def on_signal(self, number: int) -> None:
        """Drain at the first signal, leave at the second."""
        if self.draining.is_set():
            os._exit(128 + number)
        oplog.info("signal", number=number)
        self.drain()

    def drain(self) -> None:
        """Have every shard commit what it has applied, and end."""
        self.draining.set()
        for worker in self.workers.values():
            worker.draining.set()
        asyncio.get_running_loop().call_later(self.config.deadlines.drain_s, self.give_up)

    def give_up(self) -> None:
        """End the shards that did not drain in time; what they had not committed is done again at the next start."""
        for task in self.tasks:
            if not task.done():
                oplog.error("not_drained", seconds=self.config.deadlines.drain_s)
                task.cancel()

    async def supervise(self, origin: Origin, standby: Follower | None = None) -> int:
        """Run one shard, again from the journal whenever the broker was lost; return its exit code."""
        pause_s, before, status = PAUSE_S, None, self.statuses[origin.shard]
        while not self.draining.is_set():
            worker: Worker | None = None
            try:
                if before is not None:
                    await before.check_ours()
                snapshots = Snapshots(self.kafka, origin.shard, origin.config_hash, status.metrics)
                worker = Worker(self.kafka, origin, snapshots, status)
                self.workers[origin.shard] = worker
                await live(worker, standby)
            except LiqEngineError as error:
                oplog.error("halted", shard=origin.shard, reason=error)
                status.metrics.count_halt(kind_of(error))
                is_lost = isinstance(error, BrokerError) and not isinstance(error, FencedError | RefusedError)
                if worker is not None and worker.fold is not None:
                    pause_s, before = PAUSE_S, worker
                if not is_lost or before is None:
                    return error.exit_code
            else:
                return 0
            standby = None
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
        return 0
