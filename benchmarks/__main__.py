"""What the hot parts cost beside their alternatives: ``python -m benchmarks [--quick] [--day] [--json FILE]``.

    paths     a mark over a population, calm, in a crash and in a gap: the trigger index, passes over the holders and
              full recomputes (numba, C, NumPy, Python), all finding the same rows
    fills     fills that change positions: keys set once before the next price, or at every fill
    stream    from a mark's JSON line to its decision: batches, one by one, loops with orjson and msgspec
    fill lines  from a fill's JSON line to its decision: a kernel over batches of lines, a message for each line
    log       a log of marks replayed from a file, by lines in batches and with a message made of each line; ``--day``:
              as long as a day of 200 symbols, a mark a second each
    decode    one line of an event log to an event: the codec, ``json`` with ``Decimal``, ``orjson`` alone
    replay    a crash through the whole core with the simulated venue, outputs hashed, nothing written

All that is compared stands in the same run on the same data; medians, and for paths, fills and stream also the tails.
Nothing here judges a time.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numba
import numpy as np

from benchmarks.command import finish, parser_of, told
from benchmarks.decoding import decoders, log_lines
from benchmarks.hot_fill_lines import measure_fill_lines
from benchmarks.hot_fills import measure_fills
from benchmarks.hot_path import Times, measure_paths, measure_stream
from benchmarks.tables import text_table
from engine import __version__
from engine.core.params import Instrument
from engine.edges.config import load_risk
from engine.tools.demo import write_events
from engine.tools.market import START_NS, SYMBOLS, crash_market, first_asset_prices, first_marks
from engine.tools.replay import ReplayOptions, open_logs, run_logs, run_replay
from engine.tools.synth import make_population, write_book

Timed = Callable[[], object]
LOG_MARKS, QUICK_MARKS, DAY_MARKS = 2_000_000, 100_000, 200 * 86_400


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything a run takes."""

    # Accounts, rounds of all symbols in a calm market, and in a crash. Calm rounds are enough for drift to matter, few
    # enough for the passes to end.
    paths: tuple[tuple[int, int, int], ...] = ((100_000, 200, 200), (1_000_000, 20, 200))
    # How often an index takes each path, and all fills: the shorter they are, the more another process spoils.
    walks: int = 3
    fill_accounts: int = 1_000_000
    fills: int = 50_000
    stream_accounts: int = 100_000
    stream_rounds: int = 50
    log_marks: int = LOG_MARKS
    decode_lines: int = 20_000
    decode_rounds: int = 9
    replay_accounts: int = 2_000
    replay_ticks: int = 1_000
    replay_rounds: int = 3


FULL = Sizes()
QUICK = Sizes(
    paths=((10_000, 20, 20),),
    walks=15,
    fill_accounts=30_000,
    fills=20_000,
    stream_accounts=10_000,
    stream_rounds=20,
    log_marks=QUICK_MARKS,
    decode_lines=2_000,
    decode_rounds=3,
    replay_accounts=200,
    replay_ticks=300,
    replay_rounds=1,
)


def main(arguments: list[str] | None = None, *, quick: Sizes = QUICK) -> int:
    """Run the measurements, print the table, write the document; return 0. ``quick`` is what ``--quick`` takes."""
    parser = parser_of("benchmarks", __doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--day", action="store_true", help=f"a log of {DAY_MARKS:,} marks instead of {LOG_MARKS:,}")
    options = parser.parse_args(arguments)
    full = replace(FULL, log_marks=DAY_MARKS) if options.day else FULL
    return finish(lambda: told(measure(quick if options.quick else full), table), options.json)


def measure(sizes: Sizes) -> dict[str, Any]:
    """Return all figures: what was measured on, then one entry a measurement."""
    before = os.getloadavg()[0]
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
        "paths": [
            measure_paths(accounts=accounts, calm=calm, crash=crash, walks=sizes.walks)
            for accounts, calm, crash in sizes.paths
        ],
        "fills": measure_fills(accounts=sizes.fill_accounts, fills=sizes.fills, walks=sizes.walks),
        "stream": measure_stream(accounts=sizes.stream_accounts, rounds=sizes.stream_rounds),
        "fill_lines": measure_fill_lines(accounts=sizes.stream_accounts, fills=sizes.fills, walks=sizes.walks),
        "log": measure_log(marks=sizes.log_marks),
        "decode": measure_decode(lines=sizes.decode_lines, rounds=sizes.decode_rounds),
        "replay": measure_replay(accounts=sizes.replay_accounts, ticks=sizes.replay_ticks, rounds=sizes.replay_rounds),
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
        lines += path_lines(entry)
    lines += fill_lines(document["fills"])
    stream, log = document["stream"], document["log"]
    lines += [
        "",
        "stream: {accounts:,} accounts, {marks:,} marks as JSON lines, calm".format(**stream),
        text_table(time_rows(stream["ways"])),
        "",
        "fill lines: {accounts:,} accounts, {fills:,} fills as JSON lines, {posted:,} posted by a kernel".format(
            **document["fill_lines"]
        ),
        text_table(time_rows(document["fill_lines"]["ways"], unit="fill")),
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


def path_lines(entry: Mapping[str, Any]) -> list[str]:
    """Return the tables of one population."""
    about = "{accounts:,} accounts, {positions:,} positions in {symbols} symbols, seed {seed}".format(**entry)
    lines = []
    for name in ("calm", "crash", "gap"):
        figures = entry[name]
        title = f"{name}: {about}; {figures['marks']:,} marks, {figures['found']:,} rows found"
        lines += ["", title, text_table(time_rows(figures["ways"]))]
        if figures["index_by_c"]:
            ratios = ", ".join(f"{ratio:.2f} ({way})" for way, ratio in figures["index_by_c"].items())
            lines.append(f"    numba's best by that of the same algorithm in C: {ratios}")
    held = ", ".join(f"{way} {count:,}" for way, count in entry["bytes_an_account"].items())
    lines += ["", f"bytes an account, {entry['accounts']:,} accounts: {held}"]
    if entry["without_c"]:
        lines.append(f"C is left out: {entry['without_c']}")
    return lines


def fill_lines(entry: Mapping[str, Any]) -> list[str]:
    """Return the table of fills."""
    whose = ", ".join(f"{size} of {accounts:,} accounts" for size, accounts in entry["accounts_a_batch"].items())
    ratios = ", ".join(f"{ratio:.2f} ({size} a batch)" for size, ratio in entry["each_by_once"].items())
    return [
        "",
        "fills: {accounts:,} accounts, {fills:,} fills; of a batch of ".format(**entry) + whose,
        text_table(time_rows(entry["ways"], unit="fill")),
        f"    best of keys set at each fill by that of keys set once a batch: {ratios}",
    ]


def time_rows(ways: Mapping[str, Times], unit: str = "mark") -> list[tuple[str, ...]]:
    """Return a header and a row of microseconds a way, the last column how many times the first way's mean."""
    rows: list[tuple[str, ...]] = [(f"us a {unit}", "mean", "best", "p50", "p99", "p99.9", "max", f"{unit}s", "x")]
    base = next(iter(ways.values())).mean
    for way, times in ways.items():
        figures = (times.mean, times.mean_best, times.p50, times.p99, times.p99_9, times.max)
        cells = [f"{figure / 1_000:,.2f}" for figure in figures]
        rows.append((way, *cells, f"{times.events:,}", f"{times.mean / max(base, 1):,.1f}"))
    return rows


if __name__ == "__main__":
    sys.exit(main())
