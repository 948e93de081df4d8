"""How long a scrape holds up the event loop: the engine's page in pieces beside ``generate_latest``, in one run.

    python -m benchmarks.scrape [--series 1000] [--scrapes 200] [--json FILE]

A server of aiohttp in this process, as the service has it, with the metrics of one shard, the shipped risk file and
further symbols until there are so many series. Since the scrape before, every value has changed (the worst case) or one
in twenty has (the usual one). A client in a process of its own scrapes over loopback. A *stall* is one turn of the
event loop, from its ``select`` to the next, with all that aiohttp does; the longest turn of each scrape counts. It is
told as time on the processor, and as time on the wall, which on a busy machine is longer by what others took.

    incremental      the engine's: pieces, with a turn for everybody else between them
    generate_latest  prometheus_client's, of the same registry, in one go

Both are judged by the same stopwatch, and both answers are read by prometheus_client's parser and compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from statistics import median
from typing import Any, NamedTuple

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.command import Found, finish, parser_of
from engine.edges.config import default_risk_path, load_risk
from engine.edges.metrics.exposition import CONTENT_TYPE, registry_of
from engine.edges.metrics.families import Histogram
from engine.edges.metrics.service import Metrics
from engine.edges.service_config import ServiceConfig
from engine.shell.admin.metrics import render, send_page

CLIENT = """\
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
for line in sys.stdin:
    connection.request("GET", line.strip())
    sys.stdout.write(str(len(connection.getresponse().read())) + "\\n")
    sys.stdout.flush()
"""
WAYS = ("incremental", "generate_latest")
CHANGED = {"all": 1, "one in twenty": 20}


class Stall(NamedTuple):
    """The longest turn of the event loop: on the processor, and on the wall."""

    cpu_s: float = 0.0
    wall_s: float = 0.0


class Stopwatch:
    """Notes how long each turn of the event loop takes, from its ``select`` to the next."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.longest = Stall()
        self.loop = loop

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Time every turn for the length of a block."""
        # No loop shows its selector, and between two calls of it lies a turn.
        selector = self.loop._selector  # type: ignore[attr-defined]
        select = selector.select
        woke = time.thread_time(), time.perf_counter()

        def timed(timeout: float | None = None) -> Any:
            nonlocal woke
            cpu_s, wall_s = time.thread_time() - woke[0], time.perf_counter() - woke[1]
            self.longest = Stall(max(self.longest.cpu_s, cpu_s), max(self.longest.wall_s, wall_s))
            found = select(timeout)
            woke = time.thread_time(), time.perf_counter()
            return found

        selector.select = timed
        try:
            yield
        finally:
            selector.select = select

    def lap(self) -> Stall:
        """Return the longest turn since the last call."""
        longest, self.longest = self.longest, Stall()
        return longest


def metrics_of(series: int) -> Metrics:
    """Return the metrics of a shard with so many series, or a few more."""
    risk = load_risk(default_risk_path())
    metrics = Metrics(ServiceConfig(), risk, [0], "0" * 64)
    while lines_of(metrics) < series:
        metrics.shards[0].add_names([f"X{lines_of(metrics)}USDT"], [], risk.policy.valuation)
    return metrics


def lines_of(metrics: Metrics) -> int:
    """Return how many lines with a number a page has."""
    return sum(len(family.places) * family.width for family in metrics.catalogue.families)


def change(metrics: Metrics, number: int, every: int) -> None:
    """Give each ``every``-th series another value."""
    for family in metrics.catalogue.families:
        for place in range(len(family.places)):
            if place % every == number % every:
                if isinstance(family, Histogram):
                    family.observe(place, 1.1e-6)
                else:
                    family.values[place] += 1.000_1


def server_of(metrics: Metrics) -> web.Application:
    """Return a server with both ways to answer."""
    registry = registry_of(metrics.catalogue.families)

    async def incremental(request: web.Request) -> web.StreamResponse:
        return await send_page(request, await render(metrics.exposition))

    async def whole(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/incremental", incremental)
    app.router.add_get("/generate_latest", whole)
    return app


@contextlib.asynccontextmanager
async def client_of(app: web.Application) -> AsyncIterator[Callable[[str], Awaitable[int]]]:
    """Serve, and yield a function that has the client scrape one way and returns the bytes it got."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, str(port), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )

    async def scrape(way: str) -> int:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"/{way}\n".encode())
        return int(await process.stdout.readline())

    try:
        yield scrape
    finally:
        process.kill()
        await process.wait()
        await runner.cleanup()


async def measure(series: int, scrapes: int) -> dict[str, Any]:
    """Return the stalls of each way."""
    metrics = metrics_of(series)
    watch = Stopwatch(asyncio.get_running_loop())
    found: dict[str, Any] = {"series": lines_of(metrics), "scrapes": scrapes, "same": await is_same(metrics)}
    async with client_of(server_of(metrics)) as scrape:
        with watch.running():
            for name, every in CHANGED.items():
                stalls: dict[str, list[Stall]] = {way: [] for way in WAYS}
                for number in range(scrapes):
                    for way in WAYS:
                        change(metrics, number, every)
                        gc.collect()
                        # What came before is not this scrape's.
                        await asyncio.sleep(0)
                        watch.lap()
                        await scrape(way)
                        stalls[way].append(watch.lap())
                found[name] = {way: figures(each) for way, each in stalls.items()}
    return found


def figures(stalls: list[Stall]) -> dict[str, float]:
    """Return what is told of many stalls, in milliseconds."""
    found = {}
    for clock in Stall._fields:
        ordered = sorted(getattr(stall, clock) for stall in stalls)
        found[f"{clock}_median"] = median(ordered)
        found[f"{clock}_p99"] = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return {name.replace("_s_", "_ms_"): round(seconds * 1000, 3) for name, seconds in found.items()}


async def is_same(metrics: Metrics) -> bool:
    """Return whether both pages say the same, to the byte and to prometheus_client's parser."""

    async def rest() -> None:
        pass

    mine = b"".join([piece async for piece in metrics.exposition.pieces(rest)])
    theirs = generate_latest(registry_of(metrics.catalogue.families))
    read = [list(text_string_to_metric_families(page.decode())) for page in (mine, theirs)]
    return mine == theirs and read[0] == read[1]


def text_of(found: dict[str, Any]) -> str:
    """Return the figures as a table."""
    same = "the same to the byte" if found["same"] else "DIFFERENT"
    lines = [
        f"{found['series']:,} series, {found['scrapes']} scrapes each way, pages {same}; longest turn of the loop, ms",
        f"{'values changed':<16}{'way':<18}{'cpu median':>12}{'cpu p99':>12}{'wall median':>12}{'wall p99':>12}",
    ]
    for name in CHANGED:
        for way, each in found[name].items():
            lines.append(f"{name:<16}{way:<18}" + "".join(f"{value:>12.3f}" for value in each.values()))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = parser_of("benchmarks.scrape", __doc__)
    parser.add_argument("--series", type=int, default=1_000, help="at least so many (1000)")
    parser.add_argument("--scrapes", type=int, default=200, help="each way (200)")
    options = parser.parse_args(arguments)
    return finish(lambda: found_in(asyncio.run(measure(options.series, options.scrapes))), options.json)


def found_in(figures: dict[str, Any]) -> Found:
    """Return the figures as they are printed and written."""
    return Found(text_of(figures), figures, () if figures["same"] else ["the two pages differ"])


if __name__ == "__main__":
    sys.exit(main())
