"""What a storm of API requests does to decisions: ``python -m benchmarks.storm [--quick] [--json FILE]``.

From the ``send`` of a mark to the arrival of the liquidation order that it causes, on a real Kafka, exactly once, in
turns of three kinds:

    calm    nobody asks anything
    beside  the same storm against an admin server of another process: what its clients and their answers take from the
            machine, and nothing from the engine's event loop
    storm   the storm against the engine

The storm: connections that ask for accounts and what-ifs as fast as they are answered, and more that are opened anew
for each request. The broker is the one that KAFKA_BOOTSTRAP_SERVERS names, else one brought by Maven that ends with the
command. All of it shares the machine; nothing here judges a time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka import AIOKafkaProducer, TopicPartition

from benchmarks.command import finish, parser_of, told
from benchmarks.service_delays import ORDER, PERCENTILES, RATE, Way, percentile
from benchmarks.service_market import SYMBOL, Ladder
from benchmarks.service_site import Arrivals, Process, Site, send_all, sender, tail
from benchmarks.tables import text_table
from engine.core.events import ORDERS_TOPIC
from engine.edges.service_file import BOOTSTRAP_VARIABLE, load_service
from engine.shell import oplog
from engine.shell.admin.server import AdminServer
from engine.shell.service import Service
from engine.tools.kafka_broker import Broker

KINDS = ("calm", "beside", "storm")
SIZES = {"turns": 10, "samples": 100, "warm": 25, "bystanders": 10_000}
QUICK = {"turns": 1, "samples": 20, "warm": 5, "bystanders": 100}
# Connections that stay, and that are opened for one request each.
STAYING, PASSING = 48, 16
FILL = {"type": "fill", "symbol": SYMBOL, "side": "sell", "qty": "1", "price": "100"}
QUESTION = {"account": "bystander-1", "changes": [FILL]}


def main(arguments: list[str] | None = None) -> int:
    """Measure, or be one of the processes of a measurement; return the exit code."""
    parser = parser_of("benchmarks.storm", __doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that all of it runs")
    parser.add_argument("--ask", metavar="URL", help="be the storm against this server, until ended")
    parser.add_argument("--serve", type=Path, metavar="CONFIG", help="be the other server, until ended")
    options = parser.parse_args(arguments)
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    if options.ask or options.serve:
        oplog.configure()
        asyncio.run(ask(options.ask) if options.ask else serve_beside(options.serve))
        return 0
    return finish(lambda: told(measure(QUICK if options.quick else SIZES), table), options.json)


def measure(sizes: dict[str, int]) -> dict[str, Any]:
    """Return all figures."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="liq-engine-")))
        bootstrap = os.environ.get(BOOTSTRAP_VARIABLE) or stack.enter_context(Broker(folder / "kafka")).bootstrap
        return asyncio.run(measure_storm(folder, bootstrap, **sizes))


async def measure_storm(
    folder: Path, bootstrap: str, *, turns: int, samples: int, warm: int, bystanders: int
) -> dict[str, Any]:
    """Return the percentiles of each kind of turn in milliseconds, and what became of the storm's requests."""
    ladder = Ladder(folder, rungs=turns * (samples + warm) * len(KINDS) + warm, bystanders=bystanders)
    site = Site(folder, bootstrap, ladder.book, ladder.risk, tables={"admin": {"port": 0}})
    ways = {kind: Way(Arrivals(ORDER)) for kind in KINDS}
    answers: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    async with AsyncExitStack() as stack:
        await site.create_topics()
        engine = stack.enter_context(site.process("run"))
        beside = stack.enter_context(Process(folder, "benchmarks.storm", "--serve", str(site.file)))
        urls = {"storm": await url_of(engine), "beside": await url_of(beside)}
        await engine.until("live")
        client = await stack.enter_async_context(sender(bootstrap))
        desk = Desk(site, ladder, client, ways)
        orders = TopicPartition(site.topic(ORDERS_TOPIC), 0)
        await stack.enter_async_context(tail(bootstrap, [orders], desk.take))
        await send_all(client, site, [ladder.first()])
        for turn in range(turns):
            for kind in KINDS[turn % len(KINDS) :] + KINDS[: turn % len(KINDS)]:
                async with storming(folder, urls.get(kind), answers[kind]):
                    for number in range(warm + samples):
                        await desk.sample(kind, is_counted=number >= warm)
    return {
        "turns": turns,
        "samples_a_turn": samples,
        "bystanders": bystanders,
        "connections": {"staying": STAYING, "passing": PASSING},
        "unit": "ms",
        "kinds": {kind: figures(way.seconds, answers[kind]) for kind, way in ways.items()},
    }


def figures(seconds: list[float], answers: Counter[str]) -> dict[str, Any]:
    """Return percentiles in milliseconds, and the answers a second by status."""
    spent_s = answers.pop("seconds", 0) or 1
    return {
        **{f"p{rank}": round(percentile(seconds, rank) * 1e3, 3) for rank in PERCENTILES},
        "samples": len(seconds),
        "answers_a_second": {name: round(count / spent_s, 1) for name, count in sorted(answers.items())},
    }


class Desk:
    """Sends the marks, times the orders, answers them."""

    def __init__(self, site: Site, ladder: Ladder, client: AIOKafkaProducer, ways: dict[str, Way]) -> None:
        self.site, self.ladder, self.client, self.ways = site, ladder, client, ways
        self.next_s = time.perf_counter()

    def take(self, record: Any) -> None:
        """Give a record to whoever waits for it."""
        for way in self.ways.values():
            way.arrivals.take(record)

    async def sample(self, kind: str, *, is_counted: bool) -> None:
        """Time one order, ``RATE`` a second; the first ones after a change do not count."""
        way = self.ways[kind]
        account, mark = self.ladder.next()
        order = await way.time_one(self.client, self.site.topic(mark.topic), mark, account)
        if not is_counted:
            way.seconds.pop()
        answer = self.ladder.answer(order)
        await self.client.send(self.site.topic(answer.topic), answer.value, key=answer.key)
        self.next_s = max(self.next_s + 1 / RATE, time.perf_counter())
        await asyncio.sleep(self.next_s - time.perf_counter())


async def url_of(process: Process) -> str:
    """Return where the admin server of a process listens."""
    await process.until("admin")
    return f"http://127.0.0.1:{process.field('admin', 'port')}"


@asynccontextmanager
async def storming(folder: Path, url: str | None, answers: Counter[str]) -> AsyncIterator[None]:
    """Let a storm rage during the block, and add up its answers; without a server there is none."""
    if url is None:
        yield
        return
    with Process(folder, "benchmarks.storm", "--ask", url) as storm:
        await storm.until("storming")
        yield
        answers.update(answered(await storm.drain()))


def answered(text: str) -> dict[str, float]:
    """Return what a storm said of its answers: the last line."""
    found: dict[str, float] = json.loads(text.strip().rpartition("\n")[2])
    return found


# The processes.


async def serve_beside(config: Path) -> None:
    """Be an admin server without shards that live, until ended."""
    async with AdminServer(Service(load_service(config, {}), [0])):
        await asyncio.Event().wait()


async def ask(url: str) -> None:
    """Be the storm, until SIGTERM; then say what was answered."""
    begun, ended = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    answers: Counter[str] = Counter()
    begun_s = time.monotonic()
    tasks = [
        asyncio.create_task(keep_asking(url, answers, begun, is_staying=number < STAYING))
        for number in range(STAYING + PASSING)
    ]
    await begun.wait()
    oplog.info("storming")
    await ended.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps({**answers, "seconds": time.monotonic() - begun_s}))


async def keep_asking(url: str, answers: Counter[str], begun: asyncio.Event, *, is_staying: bool) -> None:
    """Ask for accounts and what-ifs in turn, as fast as the answers come."""
    connector = aiohttp.TCPConnector(force_close=not is_staying)
    async with aiohttp.ClientSession(url, connector=connector) as session:
        number = 0
        while True:
            number += 1
            try:
                if number % 4 == 0:
                    request = session.post("/v1/what-if", json=QUESTION)
                else:
                    request = session.get(f"/v1/accounts/bystander-{number % 100}")
                async with request as response:
                    await response.read()
                    answers[str(response.status)] += 1
                    begun.set()
            except (aiohttp.ClientError, TimeoutError):
                answers["refused"] += 1


def table(document: dict[str, Any]) -> str:
    """Return the figures for a terminal."""
    rows = [["ms from a mark to its order", *(f"p{rank}" for rank in PERCENTILES), "p99 to calm", "answers a second"]]
    calm = document["kinds"]["calm"]["p99"]
    for kind, found in document["kinds"].items():
        times = f"{found['p99'] / calm:.3f}"
        asked = ", ".join(f"{name}: {count:g}" for name, count in found["answers_a_second"].items()) or "-"
        rows.append([kind, *(f"{found[f'p{rank}']:.1f}" for rank in PERCENTILES), times, asked])
    return text_table(rows)


if __name__ == "__main__":
    sys.exit(main())
