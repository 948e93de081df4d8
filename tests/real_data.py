"""What the tests on recorded markets share: the files, a shard that keeps a witness, and the oracle's view of it.

The recorded data lies beside the repository and is not part of it; tests that need a folder of it carry ``needs``
and are skipped, saying so, where it is absent.
"""

from __future__ import annotations

import csv
import gzip
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from engine.core.events import Mark, Message
from engine.core.machine import Machine
from engine.core.params import Risk
from engine.core.shard import Shard
from engine.edges.book_dump import dump_account
from engine.edges.bookfile import load_document
from engine.edges.codec import decode
from engine.edges.config import load_risk
from engine.edges.readers import SymbolResolver, expand_paths, merge, open_log
from engine.edges.venue import BookVenue
from engine.tools.synth import make_population
from engine.units import NS_PER_S
from tests.reference import figures_of, is_liquidatable, margin_rows
from tests.reference_book import read_holdings
from tests.reference_numbers import show
from tests.reference_terms import read_market

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "real"
SHIPPED_RISK = ROOT / "config" / "risk.toml"

Body = dict[str, Any]


def needs(folder: str, *, pyarrow: bool = False) -> pytest.MarkDecorator:
    """Skip a test where a folder of the recorded data, or the library that reads it, is absent."""
    if not (REAL / folder).is_dir():
        return pytest.mark.skipif(True, reason=f"the recorded market data has no {folder} beside the repository")
    return pytest.mark.skipif(
        pyarrow and find_spec("pyarrow") is None, reason="pyarrow, which reads feather, is absent"
    )


def csv_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file, gzipped or not, as text: nothing of the engine takes part."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        yield from csv.DictReader(file)


def messages_of(paths: Iterable[Path], risk: Risk) -> Iterator[Message]:
    """Yield the messages of files and folders, merged by time, as ``replay`` reads them."""
    resolver = SymbolResolver(risk.instruments.values())
    logs = [open_log(path, format=None, resolve=resolver, decode=decode) for path in expand_paths(paths)]
    return merge(logs)


def risk_without(tmp_path: Path, *keys: str) -> Path:
    """Write the shipped risk file with some guards of its policy off, and return where it is."""
    lines = SHIPPED_RISK.read_text(encoding="utf-8").splitlines()
    for key in keys:
        (index,) = [index for index, line in enumerate(lines) if line.startswith(f"{key} = ")]
        lines[index] = f"{key} = 0"
    path = tmp_path / "risk.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def exact(number: tuple[int, int]) -> Fraction:
    """Return a decimal as the readers hold it (mantissa, places) as a fraction."""
    return Fraction(number[0], 10 ** number[1])


@dataclass(frozen=True)
class Window:
    """A stretch of a recorded market and how many made-up accounts live through it."""

    folder: str
    since_s: int
    until_s: int
    accounts: int
    seed: int
    pyarrow: bool = False

    def messages(self, risk: Risk) -> list[Message]:
        """Return the marks of the window, in the order of replay."""
        since, until = self.since_s * NS_PER_S, self.until_s * NS_PER_S
        return [message for message in messages_of([REAL / self.folder], risk) if since <= ts_of(message) < until]

    def population(self, messages: Iterable[Message], risk: Risk) -> Body:
        """Return a book of accounts that opened their positions around the first marks of the window."""
        first: dict[str, Any] = {}
        for message in messages:
            assert isinstance(message.event, Mark)
            first.setdefault(message.event.symbol, message.event.price)
        return make_population(
            accounts=self.accounts,
            seed=self.seed,
            first_marks=first,
            asset_prices={},
            risk=risk,
            ts=self.since_s * NS_PER_S,
        )


def ts_of(message: Message) -> int:
    assert isinstance(message.event, Mark)
    return message.event.ts


@dataclass
class Started:
    """One ``liquidation_started`` with the account as it stood at that moment, in the form of a book file."""

    body: Body
    book: Body


class WitnessShard(Shard):
    """A shard that writes down, with each liquidation that starts, what the account held just then."""

    def __init__(self, risk: Risk, book: Body, *, venue: bool) -> None:
        super().__init__(risk, venue=BookVenue() if venue else None)
        self.marks: dict[str, str] = {}
        self.started: list[Started] = []
        load_document(self, book, "book.json")

    def emit(self, topic: str, key: str, kind: str, fields: dict[str, Any]) -> None:
        super().emit(topic, key, kind, fields)
        if kind == "liquidation_started":
            account = dump_account(self.book, fields["account"])
            self.started.append(Started(self.outputs[-1].body, {"accounts": [account], "marks": dict(self.marks)}))


@dataclass
class Witness:
    """A run of a window, message by message: all outputs, and what the oracle needs to judge them.

    Marks are those of the messages, not the engine's; positions and balances are the engine's.
    """

    shard: WitnessShard
    oracle_risk: Body
    outputs: list[Body] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    examined: int = 0
    under: int = 0

    def run(self, messages: list[Message], *, looks: int) -> None:
        """Feed the messages; look at all accounts ``looks`` times, the last time at the end."""
        machine = Machine(self.shard)
        stops = {len(messages) * look // looks for look in range(1, looks + 1)}
        for count, message in enumerate(messages, start=1):
            assert isinstance(message.event, Mark)
            self.shard.marks[message.event.symbol] = show(exact(message.event.price))
            self.outputs += [output.body for output in machine.apply([message])]
            if count in stops:
                self.look()

    def look(self) -> None:
        """Note every account that the oracle finds liquidatable although nothing is open or held for it."""
        attended = attended_rows(self.outputs)
        accounts = [name for name in dict.fromkeys(self.shard.book.accounts) if not name.startswith("$")]
        book = {"accounts": [dump_account(self.shard.book, name) for name in accounts], "marks": self.shard.marks}
        market = read_market(book, self.oracle_risk)
        for holding in read_holdings(book, self.oracle_risk):
            self.examined += 1
            if is_liquidatable(figures_of(holding, market), market):
                self.under += 1
                if (holding.account, holding.bucket) not in attended:
                    self.forgotten.append(f"{holding.account}/{holding.bucket} at message of {self.shard.clock}")


def attended_rows(outputs: Iterable[Body]) -> set[tuple[str, str]]:
    """Return the accounts and buckets with an open episode or hold, by the outputs alone."""
    opens: dict[tuple[str, str], set[str]] = {}
    steps = {
        "liquidation_started": ("episode", True),
        "liquidation_ended": ("episode", False),
        "liquidation_held": ("hold", True),
        "liquidation_released": ("hold", False),
    }
    for body in outputs:
        if body["type"] in steps:
            what, begins = steps[body["type"]]
            reasons = opens.setdefault((body["account"], body.get("bucket", "")), set())
            reasons.add(what) if begins else reasons.discard(what)
    return {row for row, reasons in opens.items() if reasons}


def oracle_row(book: Body, oracle_risk: Body, bucket: str) -> Body:
    """Return what the oracle says of one row of a one-account book, looking only at the symbols it holds."""
    symbols = {position["symbol"] for account in book["accounts"] for position in account["positions"]}
    instruments = {symbol: oracle_risk["instruments"][symbol] for symbol in sorted(symbols)}
    marks = {symbol: book["marks"][symbol] for symbol in symbols}
    rows = margin_rows({**book, "marks": marks}, {**oracle_risk, "instruments": instruments})
    (row,) = [row for row in rows if row.get("bucket", "") == bucket]
    return row


def decided_book(order: Body) -> Body:
    """Return the account as the decision of one of its orders describes it: a third party has nothing else."""
    decision = order["decision"]
    positions = [{key: held[key] for key in ("symbol", "leg", "qty", "cost")} for held in decision["positions"]]
    balances = {held["asset"]: held["balance"] for held in decision["collateral"]}
    account = {"account": order["account"], "balances": balances, "positions": positions}
    marks = {mark["symbol"]: mark["price"] for mark in decision["marks"]}
    prices = {price["asset"]: price["price"] for price in decision["asset_prices"]}
    return {"accounts": [account], "marks": marks, "asset_prices": prices}


def load_both(path: Path) -> tuple[Risk, Body]:
    """Return a risk file as the engine reads it and as the oracle does, decimals kept as they are written."""
    return load_risk(path), tomllib.loads(path.read_text(encoding="utf-8"), parse_float=str)


def spread(items: list[Any], count: int) -> list[Any]:
    """Return at most ``count`` items, evenly spread over the list."""
    return items if len(items) <= count else [items[len(items) * index // count] for index in range(count)]
