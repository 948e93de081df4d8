"""``liq-engine dev``: the whole service on this machine, with a market to watch: from nothing to a live liquidation.

A broker is already there; this creates the topics, runs the shards, plays a log to the input topics and shows what
comes out of the output topics, as any consumer of them would see it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, suppress
from typing import Any

from engine.core.events import OUTPUT_TOPICS, Message
from engine.edges.codec import load_json
from engine.edges.service_config import ServiceConfig
from engine.errors import InputError
from engine.shell import oplog, topics
from engine.shell.kafka import Kafka, Place
from engine.shell.play import play
from engine.shell.service import Service

Say = Callable[[str], None]
# What is worth a line of its own, with these of its fields; the rest is counted.
TOLD = {
    "margin_call": ("equity", "maintenance_margin", "margin_ratio"),
    "liquidation_started": ("equity", "maintenance_margin", "cause"),
    "liquidation_order": ("symbol", "side", "qty", "limit_price", "stage"),
    "collateral_sale": ("asset", "amount", "for_asset", "limit_price"),
    "takeover": ("equity_before",),
    "bad_debt": ("deficit", "asset", "paid_by_insurance", "paid_by_adl", "uncovered"),
}
# The log is played, and for so long nothing has come out any more.
QUIET_S = 3.0


def dev(config: ServiceConfig, messages: Iterable[Message], *, speed: float, stay: bool, say: Say) -> int:
    """Create the topics, run all shards, play a log; return the exit code of the service.

    ``say`` gets a line for each output worth one.
    Without ``stay`` it ends once the log is played and the outputs have gone quiet.
    """
    problems = topics.create(config)
    if problems:
        raise InputError("topics: " + "; ".join(problems))
    oplog.configure()
    return asyncio.run(run(config, messages, speed=speed, stay=stay, say=say))


async def run(config: ServiceConfig, messages: Iterable[Message], *, speed: float, stay: bool, say: Say) -> int:
    """Serve, play and show, all at once; whichever of them breaks ends the others."""
    service = Service(config, range(config.shards))
    screen = Screen(service.kafka, say)

    async def play_to_the_end() -> None:
        counts = await play(service.kafka, messages, speed=speed)
        oplog.info("played", **counts)
        if not stay:
            await screen.be_quiet(QUIET_S)
            service.drain()

    async with AsyncExitStack() as stack:
        for work in (screen.show(), play_to_the_end()):
            stack.push_async_callback(cancelled, asyncio.create_task(work))
        code = await service.run()
    say(screen.summary())
    return code


async def cancelled(task: asyncio.Task[None]) -> None:
    """End a task; what it failed with is raised."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class Screen:
    """Says what comes out of the output topics, and counts it."""

    def __init__(self, kafka: Kafka, say: Say) -> None:
        self.kafka = kafka
        self.say = say
        self.counts: Counter[str] = Counter()
        self.heard = asyncio.Event()

    async def show(self) -> None:
        """Say outputs from the first on, as they are committed."""
        places = [Place(topic, shard) for topic in OUTPUT_TOPICS for shard in range(self.kafka.config.shards)]
        first, _ = await self.kafka.edges(places)
        async with self.kafka.reader(first, what="outputs") as reader:
            while True:
                for record in await reader.read(wait_ms=200):
                    self.heard.set()
                    self.tell(load_json(record.value))

    def tell(self, body: dict[str, Any]) -> None:
        """Count one output; say it if it is of a kind worth a line."""
        kind = body["type"]
        self.counts[kind] += 1
        if kind in TOLD:
            subject = body.get("liquidation_id") or body["account"]
            figures = "  ".join(f"{name} {body[name]}" for name in TOLD[kind] if body[name] is not None)
            self.say(f"{kind:<20} {subject:<24} {figures}")

    async def be_quiet(self, seconds: float) -> None:
        """Return once nothing has come out for so long."""
        with suppress(TimeoutError):
            while True:
                self.heard.clear()
                async with asyncio.timeout(seconds):
                    await self.heard.wait()

    def summary(self) -> str:
        """Return how many outputs of each kind there were."""
        return ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.counts.items())) or "nothing came out"
