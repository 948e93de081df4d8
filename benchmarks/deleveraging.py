"""Whom does auto-deleveraging hit, and how hard, under each rule? ``python -m benchmarks.deleveraging [--accounts N]``.

For each of a few symbols: a population whose accounts all survive a fall of that symbol, one account that does not, an
insurance fund without money. The same book and the same fall go through the core three times, once under each
``adl_rule``; all that differs is whom the wave takes the contracts from. Every figure is computed from the book before
the wave, the ``adl`` records and the book after it, by the formulas of the contract; the ``adl_wave`` record of each
run must say the same, and its ``alternatives`` what the other two runs really did. Exit code 1 where one does not.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from benchmarks.command import Found, finish, parser_of
from benchmarks.formulas import read_risk
from benchmarks.tables import text_table
from engine.core.events import Mark, Message, Origin
from engine.core.machine import Machine
from engine.core.margin import is_row_liquidatable
from engine.core.params import Risk, build_policy
from engine.core.shard import Shard
from engine.edges.book_dump import dump_book
from engine.edges.bookfile import load_document
from engine.edges.config import default_risk_path, load_risk
from engine.tools.market import START_NS, SYMBOLS, first_asset_prices, first_marks, make_quotes
from engine.tools.synth import make_population
from engine.units import NS_PER_S, Number, format_number, format_scaled
from tests.reference import HoldingFigures, figures_of
from tests.reference_book import Holding, read_holdings
from tests.reference_numbers import UNIT, decimal, show
from tests.reference_terms import read_market

ADL_RULES = ("queue", "pro_rata", "water_filling")
WAVES = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
FALL_PPM = 100_000
# What the account that fails holds, as a part of all contracts on the other side, and with what behind it.
SIZE_PART = Fraction(1, 4)
MARGIN_PART = Fraction(1, 20)
FAILING = "failing"
WINNERS_SHOWN = 5
Document = dict[str, Any]
# An account and a bucket of it, and which leg of the symbol.
Seat = tuple[str, str, str]


def main(arguments: list[str] | None = None) -> int:
    """Run the waves, print the tables, write the document; return 1 where a record and a run disagree."""
    parser = parser_of("benchmarks.deleveraging", __doc__)
    parser.add_argument("--accounts", type=int, default=2_000, help="how many accounts (2,000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the population (1)")
    options = parser.parse_args(arguments)
    return finish(lambda: measure(options.accounts, options.seed), options.json)


def measure(accounts: int, seed: int) -> Found:
    """Return what a wave in each of the symbols comes to."""
    waves = [measure_wave(symbol, accounts=accounts, seed=seed) for symbol in WAVES]
    return Found(
        text="\n\n".join(wave_text(runs) for runs in waves),
        document=[wave_document(runs) for runs in waves],
        broken=[failure for runs in waves for failure in disagreements(runs)],
    )


@dataclass(frozen=True)
class Scene:
    """A book before the fall of one symbol, and the marks after it."""

    symbol: str
    risk: Risk
    formulas_risk: Document
    book: Document
    price: Number

    @cached_property
    def before(self) -> dict[Seat, Winner]:
        """Return the winners at the mark after the fall, before anything is taken."""
        return winners_of(self, self.book)


@dataclass(frozen=True)
class Winner:
    """One position on the other side: lots held and its profit in units."""

    lots: int
    profit: int


@dataclass(frozen=True)
class Run:
    """One rule's wave: its record, the lots taken from each winner, and the highest leverage left."""

    rule: str
    scene: Scene
    wave: Document
    taken: Mapping[Seat, int]
    highest_leverage: Fraction

    @property
    def lots(self) -> int:
        """How many lots were taken in all."""
        return sum(self.taken.values())

    @property
    def counterparties(self) -> int:
        """How many accounts gave something."""
        return len({account for account, _, _ in self.taken})

    @cached_property
    def largest_profit_share(self) -> str:
        """The largest part one account bears of all the profit given up: six decimals, half-even."""
        given: Counter[str] = Counter()
        for seat, lots in self.taken.items():
            winner = self.scene.before[seat]
            given[seat[0]] += max(winner.profit, 0) * lots // winner.lots
        return show(round(Fraction(max(given.values()), given.total()), 6)) if given.total() else "0"

    @property
    def largest_own_share(self) -> Fraction:
        """The largest part of its own profit in the symbol that one winner gives up."""
        return max(Fraction(lots, self.scene.before[seat].lots) for seat, lots in self.taken.items())


def measure_wave(symbol: str, *, accounts: int, seed: int) -> list[Run]:
    """Return the same wave under each rule."""
    scene = make_scene(symbol, accounts=accounts, seed=seed)
    return [run_wave(scene, rule) for rule in ADL_RULES]


def make_scene(symbol: str, *, accounts: int, seed: int) -> Scene:
    """Return a book in which one account goes under when ``symbol`` falls, and everybody else stays healthy."""
    path = default_risk_path()
    risk, formulas_risk = load_risk(path), read_risk(path)
    symbols = [risk.instruments[name] for name in SYMBOLS]
    book = make_population(
        accounts=accounts,
        seed=seed,
        first_marks=first_marks(symbols),
        risk=risk,
        asset_prices=first_asset_prices(symbols),
        ts=START_NS,
        insurance_ppm=0,
    )
    (quote,) = make_quotes([risk.instruments[symbol]])
    scene = Scene(symbol, risk, formulas_risk, book, quote.price(FALL_PPM))
    doomed = doomed_accounts(scene)
    survivors = [entry for entry in book["accounts"] if entry["account"] not in doomed]
    survived = {**book, "accounts": survivors}
    lots = sum(winner.lots for winner in winners_of(scene, survived).values())
    failing = failing_account(scene, int(lots * SIZE_PART))
    return replace(scene, book={**survived, "accounts": [*survivors, failing]})


def doomed_accounts(scene: Scene) -> set[str]:
    """Return the accounts that the fall leaves liquidatable, one of their buckets at least."""
    shard = Shard(scene.risk)
    load_document(shard, fallen(scene, scene.book), "population")
    return {account for row, account in enumerate(shard.book.accounts) if is_row_liquidatable(shard.book, row)}


def failing_account(scene: Scene, lots: int) -> Document:
    """Return an account long ``lots`` at the first mark, with less behind it than the fall takes."""
    instrument = scene.risk.instruments[scene.symbol]
    qty = format_scaled(lots * instrument.lot_steps, instrument.size_decimals)
    mark = scene.book["marks"][scene.symbol]
    margin = int(decimal(qty) * decimal(mark) * MARGIN_PART)
    position = {"symbol": scene.symbol, "qty": qty, "entry_price": mark}
    return {"account": FAILING, "balances": {instrument.settle: str(margin)}, "positions": [position]}


def fallen(scene: Scene, book: Document) -> Document:
    """Return a book at the marks after the fall."""
    return {**book, "marks": {**book["marks"], scene.symbol: format_number(scene.price)}}


def winners_of(scene: Scene, book: Document) -> dict[Seat, Winner]:
    """Return everybody short of the symbol after the fall."""
    lot = decimal(scene.formulas_risk["instruments"][scene.symbol]["lot"])
    names = {
        entry["account"] for entry in book["accounts"] if any(is_short(scene, held) for held in entry["positions"])
    }
    return {
        (holding.account, holding.bucket, position.leg): Winner(int(-position.qty / lot), figure.pnl_units)
        for holding, figures in valued(scene, book, names)
        for position, figure in zip(holding.positions, figures.positions, strict=True)
        if position.symbol == scene.symbol and position.qty < 0
    }


def is_short(scene: Scene, position: Document) -> bool:
    """Return whether a book file's position is short of the symbol."""
    return bool(position["symbol"] == scene.symbol and decimal(position["qty"]) < 0)


def valued(scene: Scene, book: Document, names: Container[str]) -> Iterator[tuple[Holding, HoldingFigures]]:
    """Yield the holdings of some accounts with their figures after the fall, by the formulas."""
    chosen = {**book, "accounts": [entry for entry in book["accounts"] if entry["account"] in names]}
    market = read_market(fallen(scene, book), scene.formulas_risk)
    for holding in read_holdings(chosen, scene.formulas_risk):
        yield holding, figures_of(holding, market)


def highest_leverage(scene: Scene, book: Document) -> Fraction:
    """Return the highest leverage, notional over equity, of those still short: who is not has no more to give."""
    left = winners_of(scene, book).keys() & scene.before.keys()
    seats = {(account, bucket) for account, bucket, _ in left}
    market, highest = read_market(fallen(scene, book), scene.formulas_risk), Fraction(0)
    for holding, figures in valued(scene, book, {account for account, _ in seats}):
        if (holding.account, holding.bucket) in seats and figures.equity_units > 0:
            notional = Fraction(0)
            for position, figure in zip(holding.positions, figures.positions, strict=True):
                notional += figure.notional * market.price(market.instruments[position.symbol].settle)
            highest = max(highest, notional * UNIT / figures.equity_units)
    return highest


def run_wave(scene: Scene, rule: str) -> Run:
    """Return what the core does when the symbol falls, under one rule."""
    shard = Shard(replace(scene.risk, policy=build_policy({"adl_rule": rule}, scene.risk.policy)))
    load_document(shard, scene.book, "population")
    mark = Message(Origin("fall", -1, 1), Mark(scene.symbol, scene.price, START_NS + NS_PER_S))
    # A winner the wave leaves with nothing may fail in the same step; that is another wave.
    outputs = [body for output in Machine(shard).apply([mark]) if (body := output.body).get("account") == FAILING]
    waves = [body for body in outputs if body["type"] == "adl_wave"]
    if len(waves) != 1:
        raise SystemExit(f"{scene.symbol}, {rule}: expected one wave for {FAILING}, got {len(waves)}")
    taken: Counter[Seat] = Counter()
    legs = {(account, bucket): leg for account, bucket, leg in scene.before}
    lot = decimal(scene.formulas_risk["instruments"][scene.symbol]["lot"])
    for body in outputs:
        if body["type"] == "adl":
            name = (body["counterparty"], body.get("counterparty_bucket", ""))
            taken[(*name, legs[name])] += int(decimal(body["qty"]) / lot)
    return Run(rule, scene, waves[0], taken, highest_leverage(scene, dump_book(shard)))


def disagreements(runs: list[Run]) -> Iterator[str]:
    """Yield where a record does not say what the run did, or its alternatives not what the other runs did."""
    by_rule = {run.rule: run for run in runs}
    for run in runs:
        name = f"{run.scene.symbol}, {run.rule}"
        lot = decimal(run.scene.formulas_risk["instruments"][run.scene.symbol]["lot"])
        if run.lots != runs[0].lots:
            yield f"{name}: {run.lots} lots were taken, under {runs[0].rule} {runs[0].lots}"
        if any(lots > run.scene.before[seat].lots for seat, lots in run.taken.items()):
            yield f"{name}: a winner lost more than it held"
        stated = {"rule": run.wave["rule"], "taken": decimal(run.wave["taken_qty"])} | fairness_stated(run.wave)
        done = {"rule": run.rule, "taken": run.lots * lot} | fairness(run)
        if stated != done:
            yield f"{name}: the record says {stated}, the run did {done}"
        alternatives = {rule: fairness_stated(figures) for rule, figures in run.wave["alternatives"].items()}
        others = {rule: fairness(other) for rule, other in by_rule.items() if rule != run.rule}
        if alternatives != others:
            yield f"{name}: the alternatives are {alternatives}, the runs did {others}"


def fairness_stated(record: Mapping[str, Any]) -> Document:
    """Return what a record says of a wave's fairness."""
    return {name: record[name] for name in ("counterparties", "largest_profit_share")}


def fairness(run: Run) -> Document:
    """Return what a run did, in the words of the record."""
    return {"counterparties": run.counterparties, "largest_profit_share": run.largest_profit_share}


def largest_winners(runs: list[Run]) -> list[Seat]:
    """Return the winners with the largest profit before the wave."""
    before = runs[0].scene.before
    return sorted(before, key=lambda seat: (-before[seat].profit, seat))[:WINNERS_SHOWN]


def wave_text(runs: list[Run]) -> str:
    """Return the rules of one wave side by side, for a terminal."""
    scene = runs[0].scene
    rows = [
        ("", *(run.rule for run in runs)),
        ("lots taken", *(f"{run.lots:,}" for run in runs)),
        ("counterparties", *(f"{run.counterparties:,}" for run in runs)),
        ("largest part of all profit given up", *(percent(decimal(run.largest_profit_share)) for run in runs)),
        ("largest part of one winner's own profit", *(percent(run.largest_own_share) for run in runs)),
        ("highest leverage left, of those still short", *(f"{float(run.highest_leverage):.2f}" for run in runs)),
    ]
    for seat in largest_winners(runs):
        winner = scene.before[seat]
        name = "/".join(part for part in seat if part not in ("", "net"))
        about = f"  {name}: profit {winner.profit / UNIT:,.0f}, {winner.lots:,} lots"
        rows.append((about, *(f"{run.taken.get(seat, 0):,}" for run in runs)))
    agreed = "agree" if not list(disagreements(runs)) else "DO NOT AGREE"
    return (
        f"{scene.symbol}: falls {percent(Fraction(FALL_PPM, 10**6))}, {len(scene.before):,} winners hold "
        f"{sum(winner.lots for winner in scene.before.values()):,} lots\n{text_table(rows)}\n"
        f"    the records' own figures and alternatives {agreed} with the runs"
    )


def percent(part: Fraction) -> str:
    """Return a fraction in per cent."""
    return f"{float(100 * part):.2f} %"


def wave_document(runs: list[Run]) -> Document:
    """Return the figures of one wave for machines."""
    return {
        "symbol": runs[0].scene.symbol,
        "winners": len(runs[0].scene.before),
        "rules": {
            run.rule: {
                "lots": run.lots,
                "counterparties": run.counterparties,
                "largest_profit_share": run.largest_profit_share,
                "largest_own_share": float(run.largest_own_share),
                "highest_leverage": float(run.highest_leverage),
                "largest_winners": {"/".join(seat): run.taken.get(seat, 0) for seat in largest_winners(runs)},
                "alternatives": run.wave["alternatives"],
            }
            for run in runs
        },
        "disagreements": list(disagreements(runs)),
    }


if __name__ == "__main__":
    sys.exit(main())
