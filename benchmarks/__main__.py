"""What the hot parts cost beside their alternatives: ``python -m benchmarks [--quick] [--day] [--json FILE]``.

    paths     a mark over a population, calm, in a crash and in a gap: the trigger index, passes over the holders and
              full recomputes (numba, C, NumPy, Python), all finding the same rows
    stream    from a mark's JSON line to its decision: batches, one by one, loops with orjson and msgspec
    log       a log of marks replayed from a file, by lines in batches and with a message made of each line; ``--day``:
              as long as a day of 200 symbols, a mark a second each
    decode    one line of an event log to an event: the codec, ``json`` with ``Decimal``, ``orjson`` alone
    replay    a crash through the whole core with the simulated venue, outputs hashed, nothing written

All that is compared stands in the same run on the same data; medians, and for paths and stream also the tails. Nothing
here judges a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numba
import numpy as np

from benchmarks.decoding import decoders, log_lines
from benchmarks.hot_path import measure_paths, measure_stream
from benchmarks.hot_ways import Times
from benchmarks.tables import text_table
from engine import __version__
from engine.core.params import Instrument
from engine.edges.config import load_risk
from engine.tools.demo import write_events
from engine.tools.market import START_NS, SYMBOLS, crash_market, first_asset_prices, first_marks
from engine.tools.replay import ReplayOptions, open_logs, run_logs, run_replay
from engine.tools.synth import make_population, write_book

Timed = Callable[[], object]
# Rounds of all symbols in a calm market: enough for drift to matter, few enough for the passes to end.
CALM_ROUNDS = {100_000: 200, 1_000_000: 20}
LOG_MARKS, QUICK_MARKS, DAY_MARKS = 2_000_000, 100_000, 200 * 86_400


def main(arguments: list[str] | None = None) -> int:
    """Run the measurements, print the table, write the document; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--day", action="store_true", help=f"a log of {DAY_MARKS:,} marks instead of {LOG_MARKS:,}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    options = parser.parse_args(arguments)
    document = measure(quick=options.quick, marks=DAY_MARKS if options.day else LOG_MARKS)
    print(table(document))
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=2, default=asdict) + "\n", encoding="utf-8")
    return 0


def measure(*, quick: bool, marks: int) -> dict[str, Any]:
    """Return all figures: what was measured on, then one entry a measurement."""
    sizes = (10_000,) if quick else (100_000, 1_000_000)
    before = os.getloadavg()[0]
    paths = [
        measure_paths(accounts=accounts, calm=20 if quick else CALM_ROUNDS[accounts], crash=20 if quick else 200)
        for accounts in sizes
    ]
    return {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": round(before, 2),
            "python": platform.python_version(),
            "numba": numba.__version__,
            "numpy": np.__version__,
            "liq-engine": __version__,
        },
        "paths": paths,
        "stream": measure_stream(accounts=sizes[0], rounds=20 if quick else 50),
        "log": measure_log(marks=QUICK_MARKS if quick else marks),
        "decode": measure_decode(lines=2_000 if quick else 20_000, rounds=3 if quick else 9),
        "replay": measure_replay(
            accounts=200 if quick else 2_000, ticks=300 if quick else 1_000, rounds=1 if quick else 3
        ),
    }


def measure_log(*, marks: int) -> dict[str, Any]:
    """Return marks a second of a log replayed from its file, its lines in batches and each line a message."""
    risk = load_risk()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "marks.jsonl"
        write_marks(path, list(risk.instruments.values()), marks)
        seconds, hashes = {}, set()
        for way in ("lines in batches", "a message a line"):
            options = ReplayOptions(events=[path], risk=risk, show_progress=False)
            (log,) = open_logs(options)
            if way == "a message a line":
                log.blocks = None
            started_s = time.perf_counter()
            hashes.add(run_logs(options, [log])["state_hash"])
            seconds[way] = time.perf_counter() - started_s
        size = path.stat().st_size
    if len(hashes) != 1:
        raise SystemExit("log: the two ways left different states")
    return {"marks": marks, "bytes": size, "seconds": seconds}


def write_marks(path: Path, instruments: Sequence[Instrument], marks: int) -> None:
    """Write a log of so many marks, all symbols in turn, each wandering by half a basis point, five ms apart."""
    rng = np.random.default_rng(1)
    count = len(instruments)
    head = [b'{"type":"mark","symbol":"%s","price":"' % instrument.symbol.encode() for instrument in instruments]
    digits = [min(instrument.mark_decimals, 4) for instrument in instruments]
    prices = np.full(count, 100.0)
    with path.open("wb") as file:
        for first in range(0, marks, count):
            prices *= np.exp(rng.normal(0, 0.00005, count))
            file.write(
                b"".join(
                    b'%s%.*f","ts":%d}\n' % (head[index], digits[index], price, START_NS + (first + index) * 5_000_000)
                    for index, price in enumerate(prices.tolist()[: marks - first])
                )
            )


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
    lines = [", ".join(f"{name} {value}" for name, value in document["machine"].items())]
    for entry in document["paths"]:
        for name in ("calm", "crash", "gap"):
            about = "{accounts:,} accounts, {positions:,} positions in {symbols} symbols, seed {seed}".format(**entry)
            figures = entry[name]
            title = f"{name}: {about}; {figures['marks']:,} marks, {figures['found']:,} rows found"
            lines += ["", title, text_table(time_rows(figures["ways"]))]
        held = ", ".join(f"{way} {count:,}" for way, count in entry["bytes_an_account"].items())
        lines += ["", f"bytes an account, {entry['accounts']:,} accounts: {held}"]
        if entry["without_c"]:
            lines.append(f"C is left out: {entry['without_c']}")
    stream, log = document["stream"], document["log"]
    lines += [
        "",
        "stream: {accounts:,} accounts, {marks:,} marks as JSON lines, calm".format(**stream),
        text_table(time_rows(stream["ways"])),
        "",
        "log: {marks:,} marks, {bytes:,} bytes".format(**log),
        text_table(
            [(way, f"{took:,.1f} s", f"{log['marks'] / took:,.0f} a s") for way, took in log["seconds"].items()]
        ),
    ]
    decode, replay = document["decode"], document["replay"]
    base = next(iter(decode["median"].values()))
    rows = [(way, f"{value:,.0f} ns", f"{value / base:.1f} x") for way, value in decode["median"].items()]
    figures = replay["median"]
    about = "{accounts:,} accounts, {messages:,} messages in the log, {liquidations:,} liquidations; median of {rounds}"
    lines += [
        "",
        "decode: {lines:,} lines of {bytes_a_line} bytes; median of {rounds} rounds".format(**decode),
        text_table(rows),
        "",
        f"replay: {about.format(**replay)}",
        text_table([("whole", f"{figures['us_a_message']} us a message", f"{figures['messages_a_second']:,} a s")]),
    ]
    return "\n".join(lines)


def time_rows(ways: Mapping[str, Times]) -> list[tuple[str, ...]]:
    """Return a header and a row of microseconds a way, the last column how many times the first way's mean."""
    rows: list[tuple[str, ...]] = [("us a mark", "mean", "p50", "p99", "p99.9", "max", "marks", "x")]
    base = next(iter(ways.values())).mean
    for way, times in ways.items():
        figures = (times.mean, times.p50, times.p99, times.p99_9, times.max)
        cells = [f"{figure / 1_000:,.2f}" for figure in figures]
        rows.append((way, *cells, f"{times.events:,}", f"{times.mean / max(base, 1):,.1f}"))
    return rows


if __name__ == "__main__":
    sys.exit(main())
