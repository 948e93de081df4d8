"""How much the service takes: messages a second beside a bare consume loop, and its memory over many minutes.

The topics are filled first, the bare loop reads them (consume, parse each value with orjson, forget), then the service
starts on the same topics. Its time runs from ``live`` until every input is committed, as the journal says. With two
shards two processes run, for the service and for the bare loop: each reads all marks and its own half of the rest.

On a machine whose cores are all busy the processes take time from each other and from the broker: processor time a
message, beside the rate, does not feel that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from benchmarks.service_market import MIX, Line, Traffic
from benchmarks.service_site import Journal, Process, Site, send_all, sender
from engine.core.shard import IDS_MAX
from engine.shell.kafka import partition_of

GOAL = 0.6
ID_KINDS = ("fill", "transfer")


async def measure_throughput(
    folder: Path,
    bootstrap: str,
    *,
    accounts: int,
    messages: int,
    rounds: int,
    loads: dict[str, Sequence[str]],
    shards: Sequence[int],
) -> dict[str, Any]:
    """Return rates of every load with every number of shards: medians of the rounds."""
    found = []
    for name, kinds in loads.items():
        for count in shards:
            results = [
                await run_once(folder, bootstrap, accounts=accounts, messages=messages, kinds=kinds, shards=count)
                for _ in range(rounds)
            ]
            figures = {key: round(median(result[key] for result in results), 3) for key in results[0]}
            found.append({"load": name, "shards": count, **figures})
    return {"accounts": accounts, "messages": messages, "rounds": rounds, "runs": found, "goal": GOAL}


async def run_once(
    folder: Path, bootstrap: str, *, accounts: int, messages: int, kinds: Sequence[str], shards: int
) -> dict[str, float]:
    """Return the figures of one round, topics and all of its own."""
    traffic = Traffic(folder, accounts=accounts)
    site = await Site(folder, bootstrap, traffic.book, shards=shards).create_topics()
    lines = [*traffic.first(), *traffic.lines(messages, kinds)]
    async with sender(bootstrap) as client:
        await send_all(client, site, lines)
    counts = {shard: sum(is_for(line, shard, shards) for line in lines) for shard in range(shards)}
    bare = await run_bare(folder, site)
    if [int(each["records"]) for each in bare] != list(counts.values()):
        raise SystemExit(f"the bare loop read {[each['records'] for each in bare]}, sent were {counts}")
    journal = Journal(site)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(journal.followed())
        processes = [stack.enter_context(site.process("run", "--shards", str(shard))) for shard in counts]
        live_s = [await process.until("live") for process in processes]
        live_cpu_s = [process.cpu_s() for process in processes]
        await journal.until(counts, *processes)
        cpu_s = sum(process.cpu_s() for process in processes) - sum(live_cpu_s)
        for process in processes:
            await process.drain()
    taken, bare_taken = sum(counts.values()), sum(each["records"] for each in bare)
    seconds = max(journal.changed_s.values()) - min(live_s)
    bare_seconds = max(each["seconds"] for each in bare)
    return {
        "messages_a_second": len(lines) / seconds,
        "records_a_second": taken / seconds,
        "cpu_us_a_record": cpu_s / taken * 1e6,
        "bare_messages_a_second": len(lines) / bare_seconds,
        "bare_records_a_second": bare_taken / bare_seconds,
        "bare_cpu_us_a_record": sum(each["cpu_seconds"] for each in bare) / bare_taken * 1e6,
        "of_bare": bare_seconds / seconds,
        "records": taken,
        "batches": sum(journal.batches.values()),
        "outputs": sum(journal.seq.values()),
    }


def is_for(line: Line, shard: int, shards: int) -> bool:
    """Return whether a shard reads a line."""
    return line.topic == "mark-prices" or partition_of(line.key.decode(), shards) == shard


async def run_bare(folder: Path, site: Site) -> list[dict[str, float]]:
    """Return what the bare loops found that read what the shards will read, side by side."""
    async with AsyncExitStack() as stack:
        processes = []
        for shard in range(site.shards):
            sources = [f"{place.topic}-{place.partition}" for place in site.inputs_of(shard)]
            arguments = ["drain", "--bootstrap", site.bootstrap, "--source", *sources]
            processes.append(stack.enter_context(Process(folder, "benchmarks.bare", *arguments)))
        return [orjson.loads(await process.end()) for process in processes]


# ---------------------------------------------------------------------------------------------------------------- soak


async def measure_soak(
    folder: Path,
    bootstrap: str,
    *,
    accounts: int,
    minutes: float,
    every_s: float,
    messages_a_second: float,
    ids: int,
    snapshots_s: int,
) -> dict[str, Any]:
    """Return how the memory of a service moves that takes so many messages a second.

    The ids of the last events are remembered, so many and no more: ``ids`` events with one come first, so that memory
    that grows afterwards is not that.
    """
    traffic = Traffic(folder, accounts=accounts)
    tables = {"snapshots": {"every_s": snapshots_s}}
    site = await Site(folder, bootstrap, traffic.book, tables=tables).create_topics()
    journal = Journal(site)
    samples: list[tuple[float, float]] = []
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(journal.followed())
        process = stack.enter_context(site.process("run"))
        await process.until("live")
        client = await stack.enter_async_context(sender(bootstrap))
        await send_all(client, site, traffic.first())
        await send_all(client, site, traffic.lines(ids, ID_KINDS))
        await journal.until({0: traffic.sent}, process)
        lag_max, started_s = 0, time.monotonic()
        filled = traffic.sent
        while (now_s := time.monotonic() - started_s) < minutes * 60:
            due = filled + int(now_s * messages_a_second) - traffic.sent
            await send_all(client, site, traffic.lines(due, MIX))
            lag_max = max(lag_max, traffic.sent - journal.inputs[0])
            if now_s >= len(samples) * every_s:
                samples.append((now_s, process.rss_mb()))
            await asyncio.sleep(SLICE_S)
        await journal.until({0: traffic.sent}, process)
        samples.append((time.monotonic() - started_s, process.rss_mb()))
        await process.drain()
    quarter = max(1, len(samples) // 4)
    rss = [value for _, value in samples]
    return {
        "minutes": minutes,
        "accounts": accounts,
        "messages_a_second": round(messages_a_second),
        "messages": traffic.sent - filled,
        "ids_before": ids,
        "lag_max": lag_max,
        "samples": [[round(at_s, 1), round(value, 2)] for at_s, value in samples],
        "rss_mb_first_quarter": round(median(rss[:quarter]), 1),
        "rss_mb_last_quarter": round(median(rss[-quarter:]), 1),
        "slope_mb_an_hour": round(slope(samples) * 3600, 1),
    }


# So many are remembered twice: the ids since the last change of generations, and those of the generation before.
IDS_ALL = 2 * IDS_MAX
SLICE_S = 0.1


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line through (x, y) that fits best by least squares."""
    x_mean = sum(x for x, _ in samples) / len(samples)
    y_mean = sum(y for _, y in samples) / len(samples)
    return sum((x - x_mean) * (y - y_mean) for x, y in samples) / sum((x - x_mean) * (x - x_mean) for x, _ in samples)
