"""What is done to a deployment while it works: kills, zombies, broker restarts, cuts; at the end all must be right.

Moments are random, drawn from the campaign's seed: an action comes when the shards together have taken a drawn count of
inputs, and up to ``JITTER_S`` later, so that it falls anywhere in the life of a batch. A kill in four falls on the next
instance too, while that is still recovering.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from random import Random

from engine.edges.journal import JOURNAL_TOPIC
from engine.tools.kafka_broker import Broker
from tests.brokers import clients
from tests.service.checker import Difference, Verdict, check_all
from tests.service.harness import (
    ENGINE,
    ROOT,
    TABLES,
    Deployment,
    Instance,
    Tables,
    Traffic,
    new_deployment,
    traffic,
)
from tests.service.workload import make_workload

SHARDS = 2
UNFENCED = ("-m", "tests.service.random_id")
JITTER_S = 0.06
FENCED = "another instance has taken this shard over"
# What a zombie needs that nobody fences: a transaction of its own that outlives its sleep.
PATIENT = {
    **TABLES,
    "kafka": {**TABLES["kafka"], "transaction_timeout_ms": 300_000},
    "deadlines": {"commit_s": 240, "progress_s": 300},
}
# Batches that a shard commits before it counts as at work; an idle one commits its heartbeats.
AT_WORK = 5


class Campaign:
    """A deployment under traffic, and the instance that serves it at the moment."""

    def __init__(
        self, deployment: Deployment, going: Traffic, stack: ExitStack, *, seed: int, program: Sequence[str]
    ) -> None:
        self.program = program
        self.deployment = deployment
        self.traffic = going
        self.stack = stack
        self.random = Random(f"campaign {seed}")
        self.started = 0
        self.instance = self.start()

    def start(self) -> Instance:
        """Start a further instance; the end of the campaign ends it."""
        self.started += 1
        return self.stack.enter_context(Instance(self.deployment, f"instance-{self.started}", self.program))

    def moments(self, count: int) -> list[int]:
        """Return so many counts of inputs, in order, spread over the workload."""
        total = len(self.deployment.workload.lines)
        return sorted(self.random.randrange(total // 50, total) for _ in range(count))

    async def until_moment(self, taken: int) -> None:
        """Return when so many inputs are taken, and a little later."""
        await self.traffic.until_taken(taken)
        # What is waited for is chance, no event: where in its batch the shard is when it is hit.
        await asyncio.sleep(self.random.uniform(0, JITTER_S))

    async def kill(self, taken: int) -> None:
        """SIGKILL at a moment, and another instance in its place."""
        await self.until_moment(taken)
        self.instance.signal(signal.SIGKILL)
        await self.instance.exit_code()
        self.instance = self.start()
        if self.random.randrange(4) == 0:
            await self.instance.until("recovering")
            await asyncio.sleep(self.random.uniform(0, JITTER_S))
            self.instance.signal(signal.SIGKILL)
            await self.instance.exit_code()
            self.instance = self.start()
        await self.instance.until("live")

    async def zombie(self, taken: int, *, is_long: bool) -> None:
        """SIGSTOP at a moment; another instance takes over and works; the first one wakes and has to go.

        After a long sleep its own deadlines have passed, and it hears of that before it hears of the other.
        """
        await self.until_moment(taken)
        zombie, stopped_s = self.instance, time.monotonic()
        zombie.signal(signal.SIGSTOP)
        self.instance = self.start()
        await self.instance.until("live")
        await self.traffic.until_more(AT_WORK)
        if is_long:
            longest_s = self.deployment.config.deadlines.commit_s + 1
            await asyncio.sleep(max(0.0, stopped_s + longest_s - time.monotonic()))
        zombie.signal(signal.SIGCONT)
        code = await zombie.exit_code()
        assert code != 0, f"a zombie ended as if all were well:\n{zombie.text[-4000:]}"
        halted = [line for line in zombie.lines_of("halted") if FENCED in line]
        assert len(halted) == SHARDS, f"not every shard of the zombie was fenced:\n{zombie.text[-4000:]}"
        await self.still_at_work()

    async def restart_broker(self, broker: Broker, *, clean: bool, taken: int) -> None:
        """Stop or SIGKILL the broker at a moment and start it again; the instance lives through it."""
        await self.until_moment(taken)
        await asyncio.to_thread(broker.stop if clean else broker.kill)
        await asyncio.to_thread(broker.start)
        await self.still_at_work()

    async def cut(self, broker: Broker, seconds: float, *, taken: int) -> None:
        """Let the broker answer nobody for a while: connections stay open and nothing comes."""
        await self.until_moment(taken)
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        await self.still_at_work()

    async def still_at_work(self) -> None:
        """Return once the instance, still the same process, has committed batches."""
        await self.traffic.until_more(AT_WORK)
        assert self.instance.is_running, f"it has ended:\n{self.instance.text[-4000:]}"

    async def until_written(self, records: int) -> None:
        """Return once the journals are so much longer, records of open transactions included."""
        target = await self.traffic.written(JOURNAL_TOPIC) + records

        async def is_written() -> bool:
            return await self.traffic.written(JOURNAL_TOPIC) >= target

        await clients.until(is_written)

    async def finish(self) -> list[Verdict]:
        """Let everything be taken and answered, stop in good order, and check all that was written."""
        await self.traffic.until_quiet()
        await self.instance.drain()
        return await examined(self.deployment)


async def negative_control(folder: Path, bootstrap: str, *, seed: int, inputs_per_shard: int) -> str:
    """Return what the checker says of a zombie that nobody fences; AssertionError if it finds nothing wrong."""
    async with campaign(
        folder, bootstrap, seed=seed, inputs_per_shard=inputs_per_shard, tables=PATIENT, program=UNFENCED
    ) as one:
        (moment,) = one.moments(1)
        await one.until_moment(moment)
        zombie = one.instance
        zombie.signal(signal.SIGSTOP)
        other = one.start()
        await other.until("live")
        # Its batches stand behind a transaction that the sleeper may have open: only the log's end shows them.
        await one.until_written(AT_WORK * SHARDS)
        zombie.signal(signal.SIGCONT)
        await one.until_written(4 * AT_WORK * SHARDS)
        for instance in (zombie, other):
            instance.signal(signal.SIGTERM)
            await instance.exit_code()
        assert zombie.lines_of("stopped"), f"the zombie had ended before:\n{zombie.text[-4000:]}"
    try:
        verdicts = await check_all(one.deployment)
    except Difference as difference:
        return str(difference)
    raise AssertionError(f"two instances wrote the same shards, and the checker finds {inputs_text(verdicts)}")


async def examined(deployment: Deployment) -> list[Verdict]:
    """Return what the checker finds, once ``liq-engine audit`` finds nothing wrong either."""
    verdicts = await check_all(deployment)
    code, said = await command(deployment, "audit")
    assert code == 0, said
    assert said.count("all as it must be") == deployment.config.shards, said
    return verdicts


async def command(deployment: Deployment, *arguments: str) -> tuple[int, str]:
    """Run a command of the engine over a deployment; return its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "engine", *arguments, "--config", str(deployment.service_file)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode()


@asynccontextmanager
async def campaign(
    folder: Path,
    bootstrap: str,
    *,
    seed: int,
    inputs_per_shard: int,
    tables: Tables = TABLES,
    program: Sequence[str] = ENGINE,
) -> AsyncIterator[Campaign]:
    """Yield a campaign with its first instance live."""
    workload = make_workload(seed=seed, inputs_per_shard=inputs_per_shard, shards=SHARDS)
    deployment = await new_deployment(folder, bootstrap, workload, shards=SHARDS, tables=tables)
    with ExitStack() as stack:
        async with traffic(deployment) as going:
            one = Campaign(deployment, going, stack, seed=seed, program=program)
            await one.instance.until("live")
            yield one


def inputs_text(verdicts: Sequence[Verdict]) -> str:
    """Return how much each shard did."""
    return ", ".join(
        f"shard {one.shard}: {one.inputs:,} inputs, {one.batches:,} batches, {one.outputs.total():,} outputs"
        for one in verdicts
    )
