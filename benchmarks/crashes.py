"""What do recorded crashes do to a population of accounts? ``python -m benchmarks.crashes [--only NAME] [--venue V] …``

For each crash: a population is made up for the market's first marks (``synth``), the recorded marks are replayed over
it with each simulated venue, each replay a process of its own, and what it wrote is derived again by ``verify``. One
row a replay, as a Markdown table:

    fund         wallet of the insurance fund at the start, its lowest and its last balance, and what the fund is worth
                 at the last marks with the positions it took over
    not needed   of the closed notional, the part that could stand open again at the marks its episode ended at
    difference   the largest amount by which any asset's wallets and transfers differ: must be 0
    verified     orders and events that ``verify`` derived again

Exit code 1 where a difference is not 0 or a record cannot be derived, 2 where a market's data is missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.command import Found, finish, parser_of
from benchmarks.formulas import read_risk
from benchmarks.tables import markdown_table, share
from engine.core.events import EVENTS_TOPIC, INSURANCE
from engine.edges.config import default_risk_path, load_risk
from engine.errors import InputError, LiqEngineError
from engine.tools.population import population_for
from engine.tools.verify import verdict_text, verify
from tests.reference import figures_of
from tests.reference_book import read_holdings
from tests.reference_numbers import UNIT, decimal, show
from tests.reference_terms import read_market

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "real"
VENUES = ("book", "impact")


@dataclass(frozen=True)
class Crash:
    """A recorded market: which files of which folder."""

    name: str
    folder: str
    pattern: str


CRASHES = (
    Crash("2021-05-19", "freqtrade_binance_spot_1m_2021-05-19", "*-1m.json.gz"),
    Crash("2022-05 LUNA", "freqtrade_okx_swap_5m_2022-05-luna", "*-5m-futures.feather"),
    Crash("2022-11 FTX", "freqtrade_okx_swap_5m_2022-11-ftx", "*-5m-futures.feather"),
    Crash("2025-10-10", "freqtrade_bybit_linear_5m_2025-10-10", "*-5m-futures.feather"),
    Crash("2026-02-05", "freqtrade_binance_usdm_1m_2026-02-05", "*-1m-futures.feather"),
)
HEADER = (
    "crash, venue",
    "messages",
    "seconds",
    "liquidations",
    "notional",
    "bad debt",
    "fund start",
    "low",
    "end",
    "worth at end",
    "ADL",
    "not needed",
    "difference",
    "verified",
)


def main(arguments: list[str] | None = None) -> int:
    """Replay the crashes, print the table, write the document; return the exit code."""
    parser = parser_of("benchmarks.crashes", __doc__)
    parser.add_argument("--accounts", type=int, default=20_000, help="how many accounts (20,000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the population (1)")
    parser.add_argument("--only", metavar="NAME", help=f"crashes whose name holds NAME: {names(CRASHES)}")
    parser.add_argument("--venue", default=",".join(VENUES), help="venues, separated by commas (book,impact)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="keep books and outputs there (a folder that goes away)"
    )
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="recorded markets (../shared/data/real)")
    options = parser.parse_args(arguments)
    return finish(lambda: measure(options), options.json)


def measure(options: argparse.Namespace) -> Found:
    """Return a row a replay; raises LiqEngineError."""
    chosen = [crash for crash in CRASHES if options.only is None or options.only.lower() in crash.name.lower()]
    venues = options.venue.split(",")
    check_request(options, chosen, venues)
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out if options.out is not None else Path(temporary)
        rows = list(replay_all(options, chosen, venues, out))
    table = markdown_table(HEADER, [cells(row) for row in rows])
    broken = [row for row in rows if row["difference"] != "0" or row["differences_count"]]
    return Found(
        text=f"{options.accounts:,} accounts, seed {options.seed}\n\n{table}",
        document=rows,
        broken=[f"{row['name']}: difference {row['difference']}, {row['verdict']}" for row in broken],
    )


def check_request(options: argparse.Namespace, chosen: Sequence[Crash], venues: Sequence[str]) -> None:
    """Raise InputError for a name, a venue, a folder or a library that is not there, before hours are spent."""
    if not chosen:
        raise InputError(f"--only {options.only}: no such crash; known are {names(CRASHES)}")
    for venue in venues:
        if venue not in VENUES:
            raise InputError(f"--venue {venue}: must be one of {', '.join(VENUES)}")
    for crash in chosen:
        files_of(crash, options.data)
    if any(crash.pattern.endswith(".feather") for crash in chosen) and find_spec("pyarrow") is None:
        raise InputError("pyarrow is missing, which reads feather: install the extra parquet")


def names(crashes: Sequence[Crash]) -> str:
    """Return the names of crashes in one string."""
    return ", ".join(crash.name for crash in crashes)


def files_of(crash: Crash, data: Path) -> list[Path]:
    """Return the files of a crash, by name; InputError where there are none."""
    files = sorted((data / crash.folder).glob(crash.pattern))
    if not files:
        raise InputError(f"{crash.name}: no {crash.pattern} in {data / crash.folder}: the recorded market is missing")
    return files


def replay_all(
    options: argparse.Namespace, chosen: Sequence[Crash], venues: Sequence[str], out: Path
) -> Iterator[dict[str, Any]]:
    """Yield the figures of each crash with each venue."""
    for crash in chosen:
        folder = out / crash.name.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        files, book = files_of(crash, options.data), folder / "book.json"
        population_for(files, risk=load_risk(), accounts=options.accounts, seed=options.seed, out=book, format=None)
        for venue in venues:
            print(f"{crash.name}, {venue} …", file=sys.stderr, flush=True)
            run_replay(files, book, venue, folder / venue)
            yield figures(f"{crash.name}, {venue}", book, folder / venue)


def run_replay(files: Sequence[Path], book: Path, venue: str, out: Path) -> None:
    """Replay files over a book in a process of its own; raises LiqEngineError where it fails."""
    command = [sys.executable, "-m", "engine", "replay", *map(str, files)]
    command += ["--book", str(book), "--venue", venue, "--out", str(out), "--quiet", "--json"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise LiqEngineError(f"{venue}: the replay ended with {done.returncode}: {done.stderr.strip()}")


def figures(name: str, book: Path, out: Path) -> dict[str, Any]:
    """Return the row of one replay from what it wrote, amounts as decimal strings."""
    summary = json.loads((out / "summary.json").read_bytes())
    start = sum((decimal(text) for text in json.loads(book.read_bytes())["insurance"].values()), Fraction(0))
    balances, closed, spare = fund_balances(start, out)
    verdict = verify(out)
    differences = [abs(decimal(total["difference"])) for total in summary["conservation"].values()]
    return {
        "name": name,
        "messages": summary["messages"],
        "seconds": summary["latency"]["elapsed_s"],
        "liquidations": summary["liquidations"],
        "notional": summary["notional_liquidated"],
        "bad_debt": summary["bad_debt"],
        "uncovered": summary["uncovered"],
        "fund_start": show(start),
        "fund_low": show(min(balances)),
        "fund_end": show(balances[-1]),
        "fund_worth": show(fund_worth(out)),
        "adl": summary["adl"],
        "closed_notional": show(closed),
        "not_needed": show(spare),
        "difference": show(max(differences, default=Fraction(0))),
        "orders": verdict.orders,
        "events": verdict.events,
        "differences_count": verdict.differences_count,
        "verdict": verdict_text(verdict),
    }


def fund_balances(start: Fraction, out: Path) -> tuple[list[Fraction], Fraction, Fraction]:
    """Return the fund's balances event by event, all assets at par, and Σ notional closed and not needed."""
    balances, closed, spare = [start], Fraction(0), Fraction(0)
    with (out / f"{EVENTS_TOPIC}.jsonl").open("rb") as file:
        for line in file:
            body = json.loads(line)
            if body["type"] == "insurance_fund":
                balances.append(balances[-1] + decimal(body["change"]))
            elif body["type"] == "liquidation_ended":
                closed += decimal(body["closed_notional"])
                spare += decimal(body["not_needed"])
    return balances, closed, spare


def fund_worth(out: Path) -> Fraction:
    """Return the fund's equity at the last marks, positions it took over included, by the formulas."""
    risk = read_risk(default_risk_path())
    book = json.loads((out / "final-book.json").read_bytes())
    fund = {**book, "accounts": [entry for entry in book["accounts"] if entry["account"] == INSURANCE]}
    market = read_market(book, risk)
    return sum(
        (Fraction(figures_of(holding, market).equity_units, UNIT) for holding in read_holdings(fund, risk)), Fraction(0)
    )


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row for the table, money in thousands."""
    bad_debt = ", ".join(f"{thousands(text)} {asset}" for asset, text in row["bad_debt"].items()) or "0"
    return (
        row["name"],
        f"{row['messages']:,}",
        f"{row['seconds']:,.0f}",
        f"{row['liquidations']:,}",
        thousands(row["notional"]),
        bad_debt,
        *(thousands(row[name]) for name in ("fund_start", "fund_low", "fund_end", "fund_worth")),
        f"{row['adl']:,}",
        share(float(decimal(row["not_needed"])), float(decimal(row["closed_notional"]))),
        row["difference"],
        f"{row['orders']:,} / {row['events']:,}" if not row["differences_count"] else "NO",
    )


def thousands(text: str) -> str:
    """Return an amount in thousands."""
    return f"{float(decimal(text)) / 1000:,.1f} k"


if __name__ == "__main__":
    sys.exit(main())
