"""What the hot parts cost beside their plain alternatives: ``python -m benchmarks [--quick] [--json FILE]``.

    reprice   one mark of the top symbol over everyone who holds it: the compiled pass, the same in NumPy, in Python
    decode    one line of an event log to an event: the codec, ``json`` with ``Decimal``, ``orjson`` alone
    replay    an event log through the whole core with the simulated venue, outputs hashed, nothing written

Rounds of the alternatives alternate, and the median of each is shown, in processor time, so that what else the machine
does weighs on none of them. The ways to reprice must first agree on every figure and every row in need of a look, and
the replays on their outputs. Nothing here judges a time.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numba
import numpy as np

from benchmarks.decoding import decoders, log_lines
from benchmarks.repricing import Repricing, check_same, reprice_by_kernel, reprice_by_loop, reprice_by_numpy
from engine import __version__
from engine.edges.config import load_risk
from engine.tools.demo import write_events
from engine.tools.market import START_NS, SYMBOLS, crash_market, first_asset_prices, first_marks
from engine.tools.replay import ReplayOptions, run_replay
from engine.tools.synth import make_population, write_book

Timed = Callable[[], object]


def main(arguments: list[str] | None = None) -> int:
    """Run the measurements, print the table, write the document; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the data and fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    options = parser.parse_args(arguments)
    document = measure(quick=options.quick)
    print(table(document))
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(*, quick: bool) -> dict[str, Any]:
    """Return all figures: what was measured on, then one entry a measurement."""
    accounts = 2_000 if quick else 20_000
    return {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "numba": numba.__version__,
            "numpy": np.__version__,
            "liq-engine": __version__,
        },
        "reprice": measure_reprice(accounts=accounts, rounds=5 if quick else 15),
        "decode": measure_decode(lines=2_000 if quick else 20_000, rounds=3 if quick else 9),
        "replay": measure_replay(
            accounts=200 if quick else 2_000, ticks=300 if quick else 1_000, rounds=1 if quick else 3
        ),
    }


def population(accounts: int) -> dict[str, Any]:
    """Return a seeded population over the symbols of ``demo``, as a book file has it.

    Without hedge mode: with one position a row NumPy can add to all rows at once, and all three ways see the same sums.
    """
    risk = load_risk()
    symbols = [risk.instruments[name] for name in SYMBOLS]
    return make_population(
        accounts=accounts,
        seed=1,
        first_marks=first_marks(symbols),
        risk=risk,
        asset_prices=first_asset_prices(symbols),
        ts=START_NS,
        hedge_ppm=0,
    )


def measure_reprice(*, accounts: int, rounds: int) -> dict[str, Any]:
    """Return nanoseconds per position of one pass over the holders of the most held symbol."""
    book = population(accounts)
    ways: dict[str, Callable[[Repricing], list[int]]] = {
        "kernel": reprice_by_kernel,
        "numpy": reprice_by_numpy,
        "python": reprice_by_loop,
    }
    tables = {name: Repricing.of(book) for name in ways}
    holders, in_need = tables["kernel"].count, 0
    for _ in range(2):
        # Two passes that are not timed: they compile the kernel, and show that all three do the same.
        found = [way(tables[name].moved()) for name, way in ways.items()]
        kernel, numpy = tables["kernel"], tables["numpy"]
        check_same(found, (kernel.holders, kernel.state), (numpy.holders, numpy.state), tables["python"].lists)
        in_need = max(in_need, len(found[0]))
    timed: dict[str, Timed] = {name: partial(run_moved, way, tables[name]) for name, way in ways.items()}
    return {
        "accounts": accounts,
        "symbol": tables["kernel"].symbol,
        "positions": holders,
        "in_need_of_a_look": in_need,
        "rounds": rounds,
        "unit": "ns a position",
        "median": per_item(medians_s(timed, rounds), holders),
    }


def run_moved(way: Callable[[Repricing], object], data: Repricing) -> None:
    """Move the mark and revalue."""
    way(data.moved())


def run_lines(decode: Callable[[bytes], object], log: list[bytes]) -> None:
    """Decode every line."""
    for line in log:
        decode(line)


def measure_decode(*, lines: int, rounds: int) -> dict[str, Any]:
    """Return nanoseconds per line of decoding marks, fills and transfers."""
    log = log_lines(lines)
    timed: dict[str, Timed] = {}
    for name, decode in decoders().items():
        timed[name] = partial(run_lines, decode, log)
        timed[name]()
    return {
        "lines": lines,
        "bytes_a_line": round(sum(map(len, log)) / lines, 1),
        "rounds": rounds,
        "unit": "ns a line",
        "median": per_item(medians_s(timed, rounds), lines),
    }


def measure_replay(*, accounts: int, ticks: int, rounds: int) -> dict[str, Any]:
    """Return events a second of whole replays of a crash: files read, decoded, folded, outputs encoded and hashed."""
    risk = load_risk()
    symbols = [risk.instruments[name] for name in SYMBOLS]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        book, events = Path(folder) / "book.json", Path(folder) / "events.jsonl"
        write_book(population(accounts), book)
        write_events(crash_market(seed=1, symbols=symbols, ticks=ticks), events)
        for _ in range(rounds):
            started_s = time.process_time()
            options = ReplayOptions(events=[events], risk=risk, book=book, venue="book", show_progress=False)
            summary = run_replay(options)
            results.append((time.process_time() - started_s, summary))
    elapsed_s = median(seconds for seconds, _ in results)
    first = results[0][1]
    if any(summary["outputs_hash"] != first["outputs_hash"] for _, summary in results):
        raise SystemExit("replay: two runs of one log differ")
    return {
        "accounts": accounts,
        "messages": first["messages"],
        "accepted": first["accepted"],
        "liquidations": first["liquidations"],
        "rounds": rounds,
        "median": {
            "seconds": round(elapsed_s, 3),
            "messages_a_second": round(first["messages"] / elapsed_s),
            "us_a_message": round(elapsed_s / first["messages"] * 1e6, 1),
        },
    }


def medians_s(timed: Mapping[str, Timed], rounds: int) -> dict[str, float]:
    """Return the median seconds of processor time of each, rounds alternating between them."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, run in timed.items():
            started_s = time.process_time()
            run()
            seconds[name].append(time.process_time() - started_s)
    return {name: median(values) for name, values in seconds.items()}


def per_item(seconds: Mapping[str, float], items: int) -> dict[str, float]:
    """Return nanoseconds an item."""
    return {name: round(value / items * 1e9, 1) for name, value in seconds.items()}


def table(document: Mapping[str, Any]) -> str:
    """Return the figures for a terminal, each alternative with how many times the first one's time it takes."""
    machine, replay = document["machine"], document["replay"]
    lines = [", ".join(f"{name} {value}" for name, value in machine.items()), ""]
    for name, about in (
        (
            "reprice",
            "{accounts:,} accounts, {positions:,} positions in {symbol}, {in_need_of_a_look:,} in need of a look",
        ),
        ("decode", "{lines:,} lines of {bytes_a_line} bytes"),
    ):
        entry = document[name]
        lines.append(f"{name}: {about.format(**entry)}; median of {entry['rounds']} rounds")
        base = next(iter(entry["median"].values()))
        for way, value in entry["median"].items():
            lines.append(f"    {way:<16}{value:>12,.1f} {entry['unit']:<14}{value / base:>8.1f} x")
        lines.append("")
    figures = replay["median"]
    about = "{accounts:,} accounts, {messages:,} messages in the log, {liquidations:,} liquidations; median of {rounds}"
    lines += [
        f"replay: {about.format(**replay)}",
        f"    {'whole':<16}{figures['us_a_message']:>12,} us a message   {figures['messages_a_second']:,} a second",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
