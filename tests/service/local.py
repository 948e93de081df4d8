"""One shard in the test's own process on a fake broker: what a fault at one particular request leaves behind.

A worker under a client id of its own can be cut off at a boundary of its requests: to the broker it is then as dead as
after SIGKILL, and unlike a dead one it can come back with whatever it had in hand.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Protocol
from unittest.mock import patch

import pytest

from engine.edges.journal import JOURNAL_TOPIC
from engine.edges.metrics.service import Metrics
from engine.errors import BrokerError, FencedError
from engine.shell.kafka import Kafka
from engine.shell.service import Service, origins_of
from engine.shell.snapshots import Snapshots
from engine.shell.status import Status
from engine.shell.worker import Worker
from tests.brokers.fake import Fake
from tests.brokers.faults import Action, Boundary, Moment, drop, run
from tests.service.checker import Verdict, check_all
from tests.service.harness import Deployment, Instance, Traffic, new_deployment, until
from tests.service.workload import make_workload

# Batches of 40, hardly a heartbeat, no snapshots (a fork of a test is another test), nothing waits for long.
TABLES = {
    "service": {"heartbeat_ms": 1_000},
    "kafka": {"mark_partitions": 1},
    "batch": {"records_max": 40, "interval_ms": 5, "pending_max": 100},
    "snapshots": {"every_s": 86_400, "publish": False},
    "deadlines": {"start_s": 30, "commit_s": 10, "progress_s": 30, "drain_s": 1},
}
# What an unknown outcome is waited for; in a service file it could not be below a second.
WAIT_S = 0.3
# Two or three batches, in which the market falls.
INPUTS = 40
ACCOUNTS = 60
# Inputs sent for one unknown outcome: more than one batch.
CHUNK = 24
FOR_EVER = 1 << 30


class Death(Protocol):
    """``replaced_at`` or ``killed_at``."""

    __name__: str

    def __call__(
        self, fake: Fake, folder: Path, boundary: Boundary, /, *, seed: int
    ) -> Coroutine[Any, Any, Verdict | None]:
        """Return what was done in a run with a death at a boundary, None if it does not have that boundary."""


@asynccontextmanager
async def local(folder: Path, fake: Fake, *, seed: int, inputs: int = INPUTS) -> AsyncIterator[Traffic]:
    """Yield a deployment of one shard and its traffic: nothing is sent yet, the journal is watched."""
    workload = make_workload(seed=seed, inputs_per_shard=inputs, shards=1, accounts=ACCOUNTS)
    deployment = await new_deployment(folder, fake.bootstrap, workload, shards=1, tables=TABLES)
    going = Traffic(deployment)
    going.tasks = [asyncio.create_task(going.watch())]
    try:
        yield going
        going.check()
    finally:
        for task in going.tasks:
            task.cancel()
        await asyncio.gather(*going.tasks, return_exceptions=True)
        await going.hang_up()


def worker_of(deployment: Deployment, client: str) -> Worker:
    """Return a worker whose producer is known to the broker as ``client``; what its readers ask for changes nothing."""
    kafka, (risk, (origin,)) = Kafka(deployment.config), origins_of(deployment.config, [0])
    metrics = Metrics(deployment.config, risk, [0], origin.config_hash).shards[0]
    with patch.dict(kafka.connection, client_id=client):
        return Worker(kafka, origin, Snapshots(kafka, 0, origin.config_hash, metrics), Status(metrics))


async def check_shut_out(worker: Worker, error: BaseException | None) -> None:
    """Assert that a worker has ended because the shard is another's, and would not take it back.

    A client that fails with all it had in hand at once does not always say of what: then the journal does, which a
    worker that was live looks at before it starts over. One that was not live yet ends for good at any such error.
    """
    assert isinstance(error, BrokerError), repr(error)
    if not isinstance(error, FencedError) and worker.fold is not None:
        with pytest.raises(FencedError):
            await worker.check_ours()


async def replaced_at(fake: Fake, folder: Path, boundary: Boundary, *, seed: int) -> Verdict | None:
    """Cut a worker off at a boundary, let another do its work, let the first one come back; return what was done.

    None if a whole run does not have that boundary. One of the two must be fenced: the first, unless it comes back
    with the very request that fences, which then shuts the second out.
    """
    loop, died = asyncio.get_running_loop(), asyncio.Event()

    def die() -> Action:
        fake.faults.cut_off("first")
        loop.call_soon_threadsafe(died.set)
        return drop

    async with local(folder, fake, seed=seed) as going:
        await going.send(going.deployment.workload.lines)
        fake.faults.at(boundary, run(die), client="first")
        workers = [worker_of(going.deployment, "first")]
        tasks = [asyncio.create_task(workers[0].run())]
        try:
            await until(lambda: died.is_set() or is_done(going), f"{boundary} or the end of the inputs")
            if not died.is_set():
                # A heartbeat would have that boundary, sooner or later.
                fake.faults.reset()
                workers[0].draining.set()
                await tasks[0]
                await check_all(going.deployment)
                return None
            workers.append(worker_of(going.deployment, "second"))
            tasks.append(asyncio.create_task(workers[1].run()))
            await until(lambda: is_done(going) or tasks[1].done(), "the second to do the work")
            # It was only cut off, and finds its way back with whatever it had in hand.
            fake.faults.reset()
            await until(lambda: any(task.done() for task in tasks), "one of the two to be shut out")
            fenced = 0 if tasks[0].done() else 1
            error = tasks[fenced].exception()
            await check_shut_out(workers[fenced], error)
            assert fenced == 0 or boundary[1] == "InitProducerId", f"the second was shut out by a zombie: {error}"
            workers[1 - fenced].draining.set()
            await tasks[1 - fenced]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        (verdict,) = await check_all(going.deployment)
        return verdict


def is_done(going: Traffic) -> bool:
    """Return whether the shard has committed all inputs there are."""
    going.check()
    return going.lag(0) == 0


async def killed_at(fake: Fake, folder: Path, boundary: Boundary, *, seed: int) -> Verdict | None:
    """SIGKILL a process at a boundary and let another do its work; return what was done.

    None if a whole run does not have that boundary.
    """
    async with local(folder, fake, seed=seed) as going:
        await going.send(going.deployment.workload.lines)
        instances: list[Instance] = []
        killed: list[Instance] = []

        def kill() -> None:
            killed.extend(instances)
            instances[0].signal(signal.SIGKILL)

        fake.faults.at(boundary, run(kill), client=client_of(going.deployment))
        with Instance(going.deployment, "first") as first:
            instances.append(first)
            await until(
                lambda: bool(killed) or is_done(going), f"{boundary} or the end of the inputs", lambda: first.text
            )
            # A heartbeat would have that boundary, sooner or later.
            fake.faults.reset()
            if not killed:
                await first.drain()
                await check_all(going.deployment)
                return None
            assert await first.exit_code() == -signal.SIGKILL
        with Instance(going.deployment, "second") as second:
            await second.until("live")
            await until(lambda: is_done(going), "the second to do the work", lambda: second.text)
            await second.drain()
        (verdict,) = await check_all(going.deployment)
        return verdict


def client_of(deployment: Deployment) -> str:
    """Return the client id of an instance."""
    return str(Kafka(deployment.config).connection["client_id"])


async def every_boundary(
    death: Death, fake: Fake, folder: Path, moment: Moment, api: str, *, seed: int
) -> list[Verdict]:
    """Return what was done in a run with a death at each of the requests of an API: one run for each."""
    verdicts: list[Verdict] = []
    while True:
        number = len(verdicts) + 1
        fake.faults.reset()
        verdict = await death(fake, folder / f"{moment}-{api}-{number}", (moment, api, number), seed=seed)
        if verdict is None:
            return verdicts
        verdicts.append(verdict)


async def unknown_outcomes(fake: Fake, folder: Path, moment: Moment, count: int, *, seed: int) -> Verdict:
    """Let so many commits end without an answer, ``before`` they are done or ``after``; return what was done in all."""
    random = Random(f"outcomes {seed}")
    lost = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with local(folder, fake, seed=seed, inputs=CHUNK * count) as going:
        deployment = going.deployment
        deadlines = deployment.config.deadlines.model_copy(update={"commit_s": WAIT_S, "drain_s": WAIT_S})
        service = Service(deployment.config.model_copy(update={"deadlines": deadlines}), [0])
        client = client_of(deployment)

        def lose() -> Action:
            for api in ("EndTxn", "InitProducerId"):
                fake.faults.before(api, action=drop, times=FOR_EVER, client=client)
            loop.call_soon_threadsafe(lost.set)
            return drop

        life = asyncio.create_task(service.supervise(service.origins[0]))
        try:
            lines = deployment.workload.lines
            for number in range(count):
                await until(
                    lambda: life.done() or (0 in service.workers and is_in(service.workers[0], "live")),
                    "the shard to be live",
                )
                worker = service.workers[0]
                lost.clear()
                fake.faults.at((moment, "EndTxn", random.randrange(1, 4)), run(lose), client=client)
                await going.send(lines[number * CHUNK : (number + 1) * CHUNK])
                await until(lambda: lost.is_set() or life.done(), "a commit to be lost")
                # Only then is the old producer gone, which would ask again.
                await until(partial(is_replaced, service, worker, life), "the shard to start over")
                assert not life.done(), "an unknown outcome ended the shard for good"
                assert await going.is_undecided(JOURNAL_TOPIC) == (moment == "before")
                fake.faults.reset()
            await going.send(lines[count * CHUNK :])
            await until(lambda: is_done(going), "all inputs to be taken")
            await until(lambda: is_in(service.workers[0], "live"), "the shard to be live")
            service.workers[0].draining.set()
            assert await life == 0
        finally:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
        (verdict,) = await check_all(deployment)
        return verdict


def is_replaced(service: Service, worker: Worker, life: asyncio.Task[int]) -> bool:
    """Return whether the shard has started over, or has ended."""
    return life.done() or service.workers[0] is not worker


def is_in(worker: Worker, state: str) -> bool:
    """Return whether a worker is in a state."""
    return worker.status.state == state
