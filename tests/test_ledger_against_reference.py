"""Money moves as the oracle's ledger says, event by event, and a written book is the whole of it.

Streams of any events run through the machine, from JSON lines on, with all liquidations paused: what remains is double
entry. After every event every balance, position and total is compared.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, note, settings

from engine.core import ledger
from engine.core.book import CROSS, LEG_NAMES, Book
from engine.core.events import BAD_DEBT, BAD_DEBT_TOPIC, CLEARING, FEES, ORDERS_TOPIC, Message, Origin, Output
from engine.core.machine import Machine
from engine.core.shard import Shard
from engine.edges.book_dump import dump_book
from engine.edges.bookfile import load_book
from engine.edges.codec import decode
from engine.edges.config import load_risk
from engine.edges.digest import state_document, state_hash
from engine.tools.statements import margin_document
from tests.reference import figures_of, margin_rows
from tests.reference_book import read_holdings
from tests.reference_cases import INVERSE, fill, perpetual, risk_of, transfer
from tests.reference_ledger import ReferenceLedger
from tests.reference_numbers import UNIT, decimal, show
from tests.reference_terms import read_market
from tests.strategies import ASSETS, LEDGER_INSTRUMENTS, Plan, opening_prices, streams, toml_of

Document = dict[str, Any]
Positions = dict[tuple[str, str, str, str], tuple[Fraction, int]]  # account, bucket, symbol, leg: qty and cost
PAUSE = {"type": "pause", "scope": "all", "reason": "only money moves here", "ts": 0}
RISK = risk_of(LEDGER_INSTRUMENTS, ASSETS)
# Kinds that the machine accepts exactly when the oracle's ledger takes them as something new.
COUNTED = ("fill", "transfer", "conversion", "mark")


class Run:
    """One shard and the oracle's ledger, fed the same events."""

    def __init__(self, folder: Path, risk: Document = RISK) -> None:
        path = folder / "risk.toml"
        path.write_text(toml_of(risk), encoding="utf-8")
        self.risk = load_risk(path)
        self.shard = Shard(self.risk)
        self.reference = ReferenceLedger(risk)
        self.lines = 0
        self.feed(PAUSE)

    @property
    def book(self) -> Book:
        return self.shard.book

    def feed(self, event: Document) -> list[Output]:
        """Take one event through decoder and machine; return the outputs."""
        self.lines += 1
        line = json.dumps(event).encode()
        decoded = decode(line)
        assert decoded is not None
        return Machine(self.shard).apply([Message(Origin("events.jsonl", -1, self.lines), decoded, line)])

    def step(self, event: Document) -> None:
        """Feed both one event and compare all they hold."""
        before, refused = self.shard.counters.accepted, self.shard.counters.rejected.total()
        outputs = self.feed(event)
        is_new = self.reference.apply(event)
        assert [output.body for output in outputs if output.topic in (ORDERS_TOPIC, BAD_DEBT_TOPIC)] == []
        assert self.shard.counters.rejected.total() == refused, outputs
        if event["type"] in COUNTED:
            assert (self.shard.counters.accepted > before) == is_new
        self.compare()

    def compare(self) -> None:
        """Assert that shard and oracle hold the same, to the unit, and that nothing was lost."""
        assert balances_of(self.book) == {
            key: units
            for key, units in self.reference.wallets.items()
            if units and key[0] not in (CLEARING, FEES, BAD_DEBT)
        }
        held, cleared = self.oracle_positions()
        assert positions_of(self.book) == held
        sizes = {
            instrument.symbol: Fraction(clearing.size, 1) / Fraction(10) ** instrument.size_decimals
            for instrument, clearing in zip(self.book.instruments, self.book.clearing, strict=True)
            if clearing.size
        }
        assert sizes == cleared
        for name in (FEES, CLEARING):
            assert self.engine_system(name) == self.oracle_system(name), name
        totals = {
            asset.name: {
                "wallets": show(Fraction(total.wallets, UNIT)),
                "transfers": show(Fraction(total.transfers, UNIT)),
            }
            for asset, total in zip(self.book.assets, ledger.totals(self.book), strict=True)
        }
        nothing = {"wallets": "0", "transfers": "0"}
        assert {name: total for name, total in totals.items() if total != nothing} == {
            name: total for name, total in self.reference.totals().items() if total != nothing
        }
        ledger.check_conservation(self.book)

    def oracle_positions(self) -> tuple[Positions, dict[str, Fraction]]:
        """Return the accounts' positions as (qty, cost), and what is left with ``$clearing`` of each symbol."""
        held: Positions = {}
        cleared = {}
        for key, position in self.reference.positions.items():
            if key[0] == CLEARING:
                cleared[key[2]] = position.qty
            else:
                held[key] = position.qty, position.cost
        return held, cleared

    def engine_system(self, name: str) -> dict[str, int]:
        """Return what a ``$`` account holds of each asset, its wallet and the cost of its positions together."""
        sums: defaultdict[str, int] = defaultdict(int)
        for asset, units in zip(self.book.assets, self.book.system[name], strict=True):
            sums[asset.name] += units
        for symbol, clearing in enumerate(self.book.clearing):
            if name == CLEARING:
                sums[self.book.assets[self.book.settle[symbol]].name] += clearing.cost
        return {asset: units for asset, units in sums.items() if units}

    def oracle_system(self, name: str) -> dict[str, int]:
        """Return the same of the oracle."""
        sums: defaultdict[str, int] = defaultdict(int)
        for (account, _, asset), units in self.reference.wallets.items():
            if account == name:
                sums[asset] += units
        for (account, _, symbol, _), position in self.reference.positions.items():
            if account == name:
                sums[self.reference.risk["instruments"][symbol]["settle"]] += position.cost
        return {asset: units for asset, units in sums.items() if units}

    def realise(self, plan: Plan) -> Document:
        """Return the event of a plan as the ledger's state allows it, with an order to it that no feed would break.

        A fill against a hedge leg closes a share of it, or opens the leg where there is none. Only a bucket that was
        ever opened can be withdrawn from.
        """
        event = dict(plan.event)
        if event["type"] == "fill" and "leg" in event:
            held = self.reference.positions.get((event["account"], CROSS, event["symbol"], event["leg"]))
            opening = "buy" if event["leg"] == "long" else "sell"
            if held is None or event["side"] == opening:
                event["side"] = opening
            else:
                lot = decimal(LEDGER_INSTRUMENTS[event["symbol"]]["lot"])
                event["qty"] = show(-(-abs(held.qty) * plan.share // lot) * lot)
        if event["type"] == "transfer" and "symbol" in event:
            is_open = (event["account"], event["symbol"]) in self.book.row_index
            event["amount"] = event["amount"] if is_open else event["amount"].removeprefix("-")
        return event


def balances_of(book: Book) -> dict[tuple[str, str, str], int]:
    """Return every balance that is not zero, by account, bucket and asset."""
    return {
        (account, bucket, asset.name): book.wallet(row, index)
        for row, (account, bucket) in enumerate(zip(book.accounts, book.buckets, strict=True))
        for index, asset in enumerate(book.assets)
        if book.wallet(row, index)
    }


def positions_of(book: Book) -> Positions:
    """Return (qty, cost) of every position, by account, bucket, symbol and leg."""
    found: Positions = {}
    for row in range(len(book.accounts)):
        for symbol, leg in book.positions_of(row):
            size, cost = book.position(row, symbol, leg)
            instrument = book.instruments[symbol]
            key = book.accounts[row], book.buckets[row], instrument.symbol, LEG_NAMES[leg]
            found[key] = Fraction(size) / Fraction(10) ** instrument.size_decimals, cost
    return found


def run_of(folder: Path, steps: list[Plan]) -> Run:
    """Return a run after the opening prices and the plans, compared after each of them."""
    run, events = Run(folder), []
    try:
        for event in opening_prices():
            run.step(event)
        for plan in steps:
            events.append(run.realise(plan))
            run.step(events[-1])
    finally:
        note("\n".join(map(json.dumps, events)))
    return run


def test_every_balance_and_position_is_the_oracles_after_every_event(tmp_path):
    kinds: defaultdict[str, int] = defaultdict(int)

    @given(streams(10, 60))
    @settings(max_examples=200)
    def check(steps):
        run_of(tmp_path, steps)
        for plan in steps:
            kinds[plan.event["type"]] += 1

    check()
    assert min(kinds[kind] for kind in ("fill", "transfer", "conversion", "mark", "asset_price", "funding")) > 50, kinds


def loaded(run: Run, folder: Path, document: Document) -> Shard:
    """Return a new shard with a written book."""
    path = folder / "book.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    shard = Shard(run.risk)
    load_book(shard, path)
    return shard


def test_written_book_loads_to_the_same_state_and_the_same_margin(tmp_path):
    @given(streams(5, 40))
    @settings(max_examples=100)
    def check(steps):
        run = run_of(tmp_path, steps)
        written = dump_book(run.shard)
        again = loaded(run, tmp_path, written)
        assert dump_book(again) == written
        assert standings(again) == standings(run.shard)
        # What a book does not hold: ids, counters, holds, when each mark came. A second loading has the same of it.
        assert state_hash(loaded(run, tmp_path, dump_book(again))) == state_hash(again)
        found = margin_document(tmp_path / "book.json", run.risk)
        (tmp_path / "oracle.json").write_text(json.dumps(run.reference.to_book()), encoding="utf-8")
        assert margin_document(tmp_path / "oracle.json", run.risk) == found
        for row, expected in zip(found["accounts"], margin_rows(run.reference.to_book(), RISK), strict=True):
            row.pop("plan")
            row.pop("certificate", None)
            assert without_levels(row) == without_levels(expected)

    check()


def standings(shard: Shard) -> list[list[Any]]:
    """Return equity and margin of every row that is worth anything: a book has no place for an emptied bucket."""
    return [row[:4] for row in state_document(shard)["rows"] if any(row[2:4])]


def without_levels(row: Document) -> Document:
    """Return a row without liquidation prices, which have tests of their own."""
    return row | {"positions": [{**position, "liquidation_price": None} for position in row["positions"]]}


def test_book_written_in_mid_stream_goes_on_as_if_nothing_had_happened(tmp_path):
    @given(streams(0, 30), streams(1, 20))
    @settings(max_examples=60)
    def check(before, after):
        run = run_of(tmp_path, before)
        other = Run(tmp_path)
        other.shard = loaded(run, tmp_path, dump_book(run.shard))
        other.feed(PAUSE)
        other.shard.ids = run.shard.ids  # ids are no part of a book: a repeat is recognised by the log it came from
        for plan in after:
            event = run.realise(replace(plan, event=plan.event | {"ts": plan.event["ts"] + 1000}))
            if event["type"] in ("fill", "transfer", "conversion"):  # both runs share one memory of ids
                event[f"{event['type']}_id"] = f"later {run.lines}"
            run.step(event)
            other.feed(event | {key: f"{text} again" for key, text in event.items() if key.endswith("_id")})
            assert dump_book(other.shard) == dump_book(run.shard)

    check()


# What no random stream draws.


PLAIN_RISK = risk_of({"BTC": perpetual(), "XBT": INVERSE}, {"BTC": {}, "USDT": {"price": "1"}, "USDC": {"price": "1"}})
PLAIN_PRICES = [
    {"type": "mark", "symbol": "BTC", "price": "100", "ts": 1},
    {"type": "mark", "symbol": "XBT", "price": "60000", "ts": 1},
    {"type": "asset_price", "asset": "BTC", "price": "60000", "ts": 1},
]


def plain_run(folder: Path, *events: Document) -> Run:
    """A run over a dollar contract and a coin one, after the events."""
    run = Run(folder, PLAIN_RISK)
    for event in (*PLAIN_PRICES, *events):
        run.step(event)
    return run


def test_bucket_paid_in_ahead_of_its_first_fill_keeps_its_margin(tmp_path):
    # 50 go into the bucket, 1 is bought at 100 and sold at 80: 30 are left when the position is gone, and go home.
    run = plain_run(tmp_path, transfer(1, "50", symbol="BTC"))
    assert balances_of(run.book) == {("a", "BTC", "USD"): 50 * UNIT}
    run.step(fill(1, "buy", "1", "100", isolated=True))
    assert balances_of(run.book) == {("a", "BTC", "USD"): 50 * UNIT}
    run.step(fill(2, "sell", "1", "80", isolated=True))
    assert balances_of(run.book) == {("a", "", "USD"): 30 * UNIT}


def test_margin_added_to_a_bucket_with_a_position_stays_there(tmp_path):
    run = plain_run(tmp_path, fill(1, "buy", "1", "100", isolated=True), transfer(1, "50", symbol="BTC"))
    assert balances_of(run.book) == {("a", "BTC", "USD"): 50 * UNIT}


def test_marks_and_fills_of_a_contract_with_nine_digits_of_multiplier_are_taken(tmp_path):
    # 1.23456789 · 60,000 = 74,074.0734 paid, 1.23456789 · 61,000 = 75,308.64129 received: 1,234.56789 won.
    run = Run(tmp_path, risk_of({"ODD": perpetual(lot="1", multiplier="1.23456789")}))
    for event in (
        {"type": "mark", "symbol": "ODD", "price": "60000", "ts": 1},
        fill(1, "buy", "1", "60000", symbol="ODD"),
        {"type": "mark", "symbol": "ODD", "price": "61000", "ts": 2},
    ):
        run.step(event)
    assert run.book.equity(run.book.row_index["a", ""]) == 123456789000
    run.step(fill(2, "sell", "1", "61000", symbol="ODD"))
    assert balances_of(run.book) == {("a", "", "USD"): 123456789000}


BILLIONS = "30000000000"  # 3e18 units; 64 bits hold three times as much


@pytest.mark.parametrize(
    ("opening", "repeated"),
    [
        # Selling 1 at 1,000,000,000,000 brings 1e20 units: 64 bits hold 9.2e18.
        ([fill(1, "buy", "1", "100")], [fill(2, "sell", "1", "1000000000000")]),
        (
            [fill(1, "buy", "1", "100", account="$insurance")],
            [fill(2, "sell", "1", "1000000000000", account="$insurance")],
        ),
        ([], [fill(1, "buy", "1", "100", fee="100000000000000000000")]),
        ([], [fill(1, "buy", "1", "100", fee="-100000000000000000000")]),
        # Each is harmless by itself; together they are not.
        ([], [fill(1, "buy", "0.001", "1", fee=BILLIONS), fill(1, "sell", "0.001", "1", fee=BILLIONS)]),
        (
            [],
            [
                {"type": "conversion", "ts": 1, "conversion_id": "1", "account": "a"}
                | {"from_asset": "USDC", "from_amount": BILLIONS, "to_asset": "USD", "to_amount": "1"}
            ],
        ),
        ([], [transfer(1, BILLIONS), transfer(2, BILLIONS, asset="USDT"), transfer(3, BILLIONS, asset="USDC")]),
        # 500,000 BTC at 40,000, 20 billion dollars, pay all of it each time.
        (
            [{"type": "mark", "symbol": "BTC", "price": "40000", "ts": 1}, fill(1, "buy", "500000", "40000")],
            [{"type": "funding", "symbol": "BTC", "rate": "1", "ts": 1}],
        ),
        # Short 30 billion dollars at 60,000 a coin, 500,000 coins: at 10,000 it is 3,000,000 coins, which at 60,000
        # each are 1.8e19 units of dollars.
        (
            [fill(1, "sell", "300000000", "60000", symbol="XBT")],
            [{"type": "mark", "symbol": "XBT", "price": "10000", "ts": 1}],
        ),
    ],
    ids=[
        "closing price", "closing price of the fund", "fee", "rebate", "fees", "conversions", "deposits", "funding",
        "mark",
    ],
)  # fmt: skip
def test_what_would_leave_64_bits_is_refused_whole_and_the_stream_goes_on(tmp_path, opening, repeated):
    run = plain_run(tmp_path, *opening)
    for number in range(20):
        event = repeated[number % len(repeated)]
        event |= {key: f"again {number}" for key in event if key in ("fill_id", "transfer_id", "conversion_id")}
        before = dump_book(run.shard)
        outputs = run.feed(event)
        if run.shard.counters.rejected:
            break
        assert run.reference.apply(event)
        run.compare()
        assert_equity_holds(run, PLAIN_RISK)
    assert [(output.body["type"], output.body.get("reason")) for output in outputs] == [("reject", "overflow")]
    assert dump_book(run.shard) == before
    run.step(transfer(99, "1", account="b"))


def assert_equity_holds(run: Run, risk: Document) -> None:
    """Assert that the running sums, which have 64 bits, are what the oracle makes of the balances and positions."""
    book = run.reference.to_book()
    market = read_market(book, risk)
    for holding in read_holdings(book, risk):
        row = run.book.row_index.get((holding.account, holding.bucket))
        if row is not None:
            assert run.book.equity(row) == figures_of(holding, market).equity_units, holding.account
