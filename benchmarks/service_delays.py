"""How long from the ``send`` of a mark to the arrival of the liquidation order that it causes, in both delivery modes.

Both services run side by side, and beside them a bare relay (consume, produce) in a process of its own. In every round
each of them gets one sample, and so does a plain topic without anything between: sent here, received here. Who comes
first in a round goes round. An order is answered by the fill that ends the liquidation, after its time was taken.

A plain topic is passed once. From a mark to an order there are two topics to pass, whatever stands between them: that
is what the relay shows.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition

from benchmarks.service_market import Ladder, Line
from benchmarks.service_site import Arrivals, Process, Site, send_all, sender, tail
from engine.core.events import ORDERS_TOPIC
from engine.edges.codec import load_json
from engine.errors import BrokerError
from tests.brokers.clients import new_topic

RATE = 50
# A sample that takes so long is an outage, not a delay.
SAMPLE_S = 60.0
PERCENTILES = (50, 90, 99)
# What an order holds, and what else goes to its topic (``cancel_orders``, before it) does not.
ORDER = b'"type":"liquidation_order"'
MODES = ("exactly_once", "at_least_once")
LEVELS = {"exactly_once": "read_committed", "at_least_once": "read_uncommitted"}


@dataclass
class Way:
    """One way from here to here: a topic to send to, whoever waits at its end, the seconds it took."""

    arrivals: Arrivals = field(default_factory=Arrivals)
    seconds: list[float] = field(default_factory=list)

    async def time_one(self, client: AIOKafkaProducer, topic: str, line: Line, key: str) -> bytes:
        """Send a line; return what came back under ``key``, and note how long it took."""
        arrived = self.arrivals.expect(key.encode())
        started_s = time.perf_counter()
        await client.send(topic, line.value, key=line.key)
        try:
            arrived_s, value = await asyncio.wait_for(arrived, SAMPLE_S)
        except TimeoutError as error:
            raise BrokerError(f"{topic}: nothing came of {key} in {SAMPLE_S:.0f} s") from error
        self.seconds.append(arrived_s - started_s)
        return value


async def measure_latency(
    folder: Path, bootstrap: str, *, rounds: int, warm_rounds: int, bystanders: int
) -> dict[str, Any]:
    """Return percentiles of all four ways, in milliseconds."""
    ladders: dict[str, Ladder] = {}
    async with AsyncExitStack() as stack:
        ways = {name: Way() for name in ("plain", "relay")} | {mode: Way(Arrivals(ORDER)) for mode in MODES}
        sites: dict[str, Site] = {}
        services: list[Process] = []
        for mode in MODES:
            (folder / mode).mkdir()
            ladders[mode] = Ladder(folder / mode, rungs=rounds + warm_rounds, bystanders=bystanders)
            site = Site(folder / mode, bootstrap, ladders[mode].book, ladders[mode].risk, delivery=mode)
            sites[mode] = await site.create_topics()
            services.append(stack.enter_context(site.process("run")))
            orders = TopicPartition(site.topic(ORDERS_TOPIC), 0)
            await stack.enter_async_context(tail(bootstrap, [orders], ways[mode].arrivals.take, level=LEVELS[mode]))
        plain, relay_in, relay_out = [await new_topic(bootstrap) for _ in range(3)]
        arguments = ["relay", "--bootstrap", bootstrap, "--source", f"{relay_in}-0", "--target", relay_out]
        relay = stack.enter_context(Process(folder, "benchmarks.bare", *arguments))
        for process in (*services, relay):
            await process.until("live")
        for name, topic in (("plain", plain), ("relay", relay_out)):
            place = TopicPartition(topic, 0)
            await stack.enter_async_context(
                tail(bootstrap, [place], ways[name].arrivals.take, level="read_uncommitted")
            )
        client = await stack.enter_async_context(sender(bootstrap))
        for mode in MODES:
            await send_all(client, sites[mode], [ladders[mode].first()])

        async def sample(name: str, number: int) -> None:
            if name in sites:
                site, ladder = sites[name], ladders[name]
                account, mark = ladder.next()
                order = await ways[name].time_one(client, site.topic(mark.topic), mark, account)
                answer = ladder.answer(order)
                await client.send(site.topic(answer.topic), answer.value, key=answer.key)
            else:
                # The same bytes, more or less, under a key of their own.
                line = Line("", b"sample-%d" % number, ladders[MODES[0]].first().value)
                await ways[name].time_one(client, plain if name == "plain" else relay_in, line, line.key.decode())

        try:
            await run_rounds(list(ways), sample, rounds + warm_rounds)
        except BrokerError as error:
            said = "\n".join(process.text[-2000:] for process in services)
            raise BrokerError(f"{error}:\n{said}") from error
    found = {name: way.seconds[warm_rounds:] for name, way in ways.items()}
    base = percentile(found["plain"], 50)
    return {
        "rounds": rounds,
        "bystanders": bystanders,
        "samples_a_second": RATE,
        "unit": "ms",
        "ways": {
            name: {
                **{f"p{rank}": round(percentile(seconds, rank) * 1e3, 3) for rank in PERCENTILES},
                "times_plain_p50": round(percentile(seconds, 50) / base, 2),
                "samples": len(seconds),
            }
            for name, seconds in found.items()
        },
        "goals": {"exactly_once": 4.0, "at_least_once": 1.5},
    }


async def run_rounds(names: list[str], sample: Any, rounds: int) -> None:
    """Take one sample of each in every round, ``RATE`` a second, each time beginning with another."""
    next_s = time.perf_counter()
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            await sample(name, number)
            next_s = max(next_s + 1 / RATE, time.perf_counter())
            await asyncio.sleep(next_s - time.perf_counter())


def percentile(values: list[float], rank: int) -> float:
    """Return the smallest value that ``rank`` per cent of all do not exceed."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * rank // 100) - 1]


# ------------------------------------------------------------------------------------------------------------ takeover


async def measure_takeover(
    folder: Path, bootstrap: str, *, kills: int, heartbeat_ms: int, silence_s: float, bystanders: int
) -> dict[str, Any]:
    """Return, for each kill of a live shard with a standby beside it, what the time to its first order consists of."""
    found = []
    ladder = Ladder(folder, rungs=RUNGS_PER_KILL * kills, bystanders=bystanders)
    tables = {"service": {"heartbeat_ms": heartbeat_ms}}
    site = await Site(folder, bootstrap, ladder.book, ladder.risk, tables=tables).create_topics()
    async with AsyncExitStack() as stack:
        live = stack.enter_context(site.process("run"))
        await live.until("live")
        client = await stack.enter_async_context(sender(bootstrap))
        await send_all(client, site, [ladder.first()])
        desk = Desk(site, ladder, client)
        places = [TopicPartition(site.topic(ORDERS_TOPIC), 0)]
        await stack.enter_async_context(tail(bootstrap, places, desk.take))
        for kill in range(kills):
            standby = stack.enter_context(site.process("follow", "--take-over-after", str(silence_s)))
            await standby.until("following")
            feeding = asyncio.create_task(desk.feed())
            try:
                await desk.until_order(after_seq=0)
                await asyncio.sleep(SETTLE_S)
                killed_s = time.time()
                live.kill()
                said = {event: await standby.until(event) for event in TAKE_OVER}
                # What is numbered above what it had folded when it went live is its own doing.
                order_s = await desk.until_order(after_seq=int(standby.field("live", "seq")))
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
            found.append(
                {
                    "kill": kill + 1,
                    "silence": said["taking_over"] - killed_s,
                    "fencing": said["recovering"] - said["taking_over"],
                    "fold": said["recovered"] - said["recovering"],
                    "opening": said["live"] - said["recovered"],
                    "first_order": order_s - said["live"],
                    "total": order_s - killed_s,
                }
            )
            live = standby
    return {
        "kills": [{name: round(value, 3) for name, value in entry.items()} for entry in found],
        "heartbeat_ms": heartbeat_ms,
        "take_over_after_s": silence_s,
        "bystanders": bystanders,
        "orders": len(desk.arrived_s),
        "unit": "s",
        "goal": 2.0,
    }


# What the standby says, in this order.
TAKE_OVER = ("taking_over", "recovering", "recovered", "live")
# The marks of a minute.
RUNGS_PER_KILL = 60 * RATE
# How long a shard and its standby run undisturbed, inputs flowing, before it is killed.
SETTLE_S = 1.0


class Desk:
    """Sends a mark each fiftieth of a second, answers the orders, remembers when each came."""

    def __init__(self, site: Site, ladder: Ladder, client: AIOKafkaProducer) -> None:
        self.site = site
        self.ladder = ladder
        self.client = client
        self.arrived_s: dict[int, float] = {}
        self.orders: asyncio.Queue[bytes] = asyncio.Queue()
        self.arrived = asyncio.Event()

    def take(self, record: Any) -> None:
        """Note an order."""
        if ORDER not in record.value:
            return
        self.arrived_s[load_json(record.value)["seq"]] = time.time()
        self.orders.put_nowait(record.value)
        self.arrived.set()

    async def feed(self) -> None:
        """Send marks and answers, for ever."""
        while True:
            _, mark = self.ladder.next()
            answers = [self.ladder.answer(self.orders.get_nowait()) for _ in range(self.orders.qsize())]
            await send_all(self.client, self.site, [mark, *answers])
            await asyncio.sleep(1 / RATE)

    async def until_order(self, *, after_seq: int) -> float:
        """Return when the first order came whose number is above ``after_seq``."""
        while not (later := [seq for seq in self.arrived_s if seq > after_seq]):
            self.arrived.clear()
            try:
                await asyncio.wait_for(self.arrived.wait(), SAMPLE_S)
            except TimeoutError as error:
                raise BrokerError(f"no order in {SAMPLE_S:.0f} s") from error
        return self.arrived_s[min(later)]
