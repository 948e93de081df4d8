"""What the service costs on a real Kafka: ``python -m benchmarks.service [--quick] [--only PARTS] [--json FILE]``.

    latency      from a mark's ``send`` to the arrival of the order it causes, both modes, beside a plain topic
    throughput   messages a second with one shard and with two, beside a bare consume loop over the same topics
    recovery     from the start of a killed shard's process until it is live, part by part
    takeover     from the kill of a live shard to the first order of its standby, part by part
    soak         memory over ``--minutes``, at half of the sustained rate

The broker is the one that KAFKA_BOOTSTRAP_SERVERS names, else one brought by Maven that ends with the command. The
service runs in processes of its own. All shares the machine: what is compared stands in the same run. Nothing here
judges a time. ``--quick`` shows that all of it runs; its figures are of a service that has hardly begun.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiokafka

from benchmarks.command import Found, finish, parser_of, told
from benchmarks.service_delays import MODES, measure_latency, measure_takeover
from benchmarks.service_market import MARKS_ONLY, MIX
from benchmarks.service_rates import IDS_ALL, measure_soak, measure_throughput
from benchmarks.service_recovery import FULL_EVENTS, measure_recovery
from benchmarks.tables import text_table
from engine import __version__
from engine.edges.service_file import BOOTSTRAP_VARIABLE
from engine.errors import InputError
from engine.tools.kafka_broker import Broker

PARTS = ("latency", "throughput", "recovery", "takeover", "soak")
LOADS = {"8 marks, 1 fill, 1 transfer": MIX, "marks only": MARKS_ONLY}
# Of the sustained rate, where the run has measured none: half of what a slow laptop does.
SOAK_RATE = 1_000.0
SOAK_MINUTES = 20.0

SIZES: dict[str, dict[str, Any]] = {
    "latency": {"rounds": 1_000, "warm_rounds": 50, "bystanders": 10_000},
    "throughput": {"accounts": 10_000, "messages": 100_000, "rounds": 3, "loads": LOADS, "shards": (1, 2)},
    "recovery": {"accounts": 100_000, "events": FULL_EVENTS},
    "takeover": {"kills": 5, "heartbeat_ms": 100, "silence_s": 0.5, "bystanders": 10_000},
    "soak": {"accounts": 10_000, "every_s": 10.0, "ids": IDS_ALL, "snapshots_s": 300},
}
QUICK: dict[str, dict[str, Any]] = {
    "latency": {"rounds": 20, "warm_rounds": 2, "bystanders": 100},
    "throughput": {
        "accounts": 200,
        "messages": 2_000,
        "rounds": 1,
        "loads": {"marks only": MARKS_ONLY},
        "shards": (2,),
    },
    "recovery": {"accounts": 1_000, "events": 5_000},
    "takeover": {"kills": 1, "heartbeat_ms": 50, "silence_s": 0.2, "bystanders": 100},
    "soak": {"accounts": 200, "every_s": 0.2, "ids": 1_000, "snapshots_s": 1},
}
QUICK_MINUTES = 0.03


def main(arguments: list[str] | None = None) -> int:
    """Run the measurements, print the table, write the document; return the exit code."""
    parser = parser_of("benchmarks.service", __doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that all of it runs")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PARTS", help="some of them, with commas between")
    parser.add_argument("--minutes", type=float, metavar="N", help=f"of the soak ({SOAK_MINUTES:g})")
    options = parser.parse_args(arguments)
    # The client warns of each thing it tries again.
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    minutes = options.minutes or (QUICK_MINUTES if options.quick else SOAK_MINUTES)
    return finish(lambda: found_in(options.only.split(","), quick=options.quick, minutes=minutes), options.json)


def found_in(parts: Sequence[str], *, quick: bool, minutes: float) -> Found:
    """Return the figures as they are printed and written; raises InputError for a part that is none."""
    if unknown := [part for part in parts if part not in PARTS]:
        raise InputError(f"--only {','.join(unknown)}: known are {', '.join(PARTS)}")
    return told(measure(parts, quick=quick, minutes=minutes), table)


def measure(parts: Sequence[str], *, quick: bool, minutes: float) -> dict[str, Any]:
    """Return all figures: what was measured on, then one entry a part."""
    sizes = QUICK if quick else SIZES
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="liq-engine-")))
        bootstrap = os.environ.get(BOOTSTRAP_VARIABLE)
        if bootstrap is None:
            bootstrap = stack.enter_context(Broker(folder / "kafka")).bootstrap
        document: dict[str, Any] = {"machine": machine(), "sizes": "quick" if quick else "full"}
        for part in PARTS:
            if part not in parts:
                continue
            print(f"{part} ...", file=sys.stderr)
            own = folder / part
            own.mkdir()
            size = {**sizes[part]}
            if part == "soak":
                size |= {"minutes": minutes, "messages_a_second": soak_rate(document)}
            before = os.getloadavg()
            figures = asyncio.run(MEASURES[part](own, bootstrap, **size))
            document[part] = {**figures, "load": [round(before[0], 2), round(os.getloadavg()[0], 2)]}
    return document


MEASURES: dict[str, Any] = {
    "latency": measure_latency,
    "throughput": measure_throughput,
    "recovery": measure_recovery,
    "takeover": measure_takeover,
    "soak": measure_soak,
}


def soak_rate(document: Mapping[str, Any]) -> float:
    """Return half of what one shard sustained in this run."""
    runs = document.get("throughput", {}).get("runs", [])
    rates = [run["messages_a_second"] for run in runs if run["shards"] == 1]
    return rates[0] / 2 if rates else SOAK_RATE


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "aiokafka": aiokafka.__version__,
        "liq-engine": __version__,
    }


# --------------------------------------------------------------------------------------------------------------- table


def table(document: Mapping[str, Any]) -> str:
    """Return the figures for a terminal; how busy the machine was stands with each part."""
    lines = [", ".join(f"{name} {value}" for name, value in document["machine"].items()), f"sizes: {document['sizes']}"]
    for part, rows_of in ROWS.items():
        if part in document:
            entry = document[part]
            title, rows = rows_of(entry)
            load = "load {:.2f} before, {:.2f} after".format(*entry["load"])
            lines += ["", f"{part}: {title}; {load}", text_table(rows)]
    return "\n".join(lines)


def latency_rows(entry: Mapping[str, Any]) -> tuple[str, list[tuple[str, ...]]]:
    """Return title and rows of the latencies."""
    names = {
        "plain": "plain topic: produce, consume",
        "relay": "bare relay: produce, consume, produce, consume",
        **{mode: f"mark to order, {mode}" for mode in MODES},
    }
    rows: list[tuple[str, ...]] = [("", "p50 ms", "p90 ms", "p99 ms", "x plain p50", "goal")]
    for name, way in entry["ways"].items():
        goal = f"<= {entry['goals'][name]:g}" if name in entry["goals"] else ""
        figures = [f"{way[key]:.2f}" for key in ("p50", "p90", "p99", "times_plain_p50")]
        rows.append((names[name], *figures, goal))
    about = "{rounds:,} samples of each, {samples_a_second} a second, {bystanders:,} other accounts hold the symbol"
    return about.format(**entry), rows


def throughput_rows(entry: Mapping[str, Any]) -> tuple[str, list[tuple[str, ...]]]:
    """Return title and rows of the rates."""
    rows: list[tuple[str, ...]] = [
        ("load, shards", "messages/s", "records/s", "bare records/s", "of bare", "goal", "us cpu/record", "bare us cpu")
    ]
    for run in entry["runs"]:
        rates = [f"{run[key]:,.0f}" for key in ("messages_a_second", "records_a_second", "bare_records_a_second")]
        cpu = [f"{run[key]:.1f}" for key in ("cpu_us_a_record", "bare_cpu_us_a_record")]
        ratio = [f"{run['of_bare']:.1%}", f">= {entry['goal']:.0%}"]
        rows.append((f"{run['load']}, {run['shards']}", *rates, *ratio, *cpu))
    about = "{messages:,} messages waiting, {accounts:,} accounts; median of {rounds}".format(**entry)
    return f"{about}; two shards are two processes, and each reads all marks", rows


def recovery_rows(entry: Mapping[str, Any]) -> tuple[str, list[tuple[str, ...]]]:
    """Return title and rows of the recovery."""
    seconds = entry["seconds"]
    rows: list[tuple[str, ...]] = [("", *seconds), ("seconds", *(f"{value:.2f}" for value in seconds.values()))]
    about = (
        "{accounts:,} accounts, {events_since_snapshot:,} events since the snapshot ({scale:g} of the full size), "
        "{fold_us_an_event} us an event"
    )
    return about.format(**entry), rows


def takeover_rows(entry: Mapping[str, Any]) -> tuple[str, list[tuple[str, ...]]]:
    """Return title and rows of the take-overs."""
    names = [name for name in entry["kills"][0] if name != "kill"]
    rows: list[tuple[str, ...]] = [("seconds", *names)]
    rows += [(f"kill {one['kill']}", *(f"{one[name]:.3f}" for name in names)) for one in entry["kills"]]
    about = "heartbeat {heartbeat_ms} ms, taken over after {take_over_after_s} s of silence; goal: under {goal:g} s"
    return about.format(**entry), rows


def soak_rows(entry: Mapping[str, Any]) -> tuple[str, list[tuple[str, ...]]]:
    """Return title and rows of the soak."""
    first, last = (entry[f"rss_mb_{quarter}_quarter"] for quarter in ("first", "last"))
    rows: list[tuple[str, ...]] = [
        ("", "first quarter", "last quarter", "MB an hour", "most behind"),
        ("RSS, MB", f"{first:,.1f}", f"{last:,.1f}", f"{entry['slope_mb_an_hour']:+,.1f}", f"{entry['lag_max']:,}"),
    ]
    about = "{minutes:g} minutes at {messages_a_second:,} messages a second, after {ids_before:,} events with an id"
    return about.format(**entry), rows


ROWS = {
    "latency": latency_rows,
    "throughput": throughput_rows,
    "recovery": recovery_rows,
    "takeover": takeover_rows,
    "soak": soak_rows,
}


if __name__ == "__main__":
    sys.exit(main())
