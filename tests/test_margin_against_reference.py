"""``liq-engine margin`` prints what the oracle prints, field by field, for any book.

Every figure but the plan and its certificate is compared exactly. Only the liquidation price of a row on a knife edge
may differ: where E - MM stays within the roundings of the trigger over a stretch of prices, any edge in that stretch
will do (see ``is_only_roundings``); it must be an edge all the same.
"""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, note, reject, settings
from hypothesis import strategies as st

from engine.__main__ import main
from engine.edges.config import load_risk
from engine.tools.statements import margin_document
from tests import reference_prices
from tests.reference import figures_of, freeze_rest, margin_rows
from tests.reference_book import Holding, read_holdings
from tests.reference_cases import INVERSE, book_of, long_of, perpetual, risk_of, small_books
from tests.reference_numbers import decimal, show
from tests.reference_prices import Frozen
from tests.reference_terms import read_market
from tests.strategies import rich_books, write_case

Document = dict[str, Any]


def printed_rows(folder: Path, book: Document, risk: Document) -> list[Document]:
    """Return the rows of the engine's margin document, through a book file and a risk file."""
    book_path, risk_path = write_case(folder, book, risk)
    rows: list[Document] = margin_document(book_path, load_risk(risk_path))["accounts"]
    return rows


def check_rows(folder: Path, book: Document, risk: Document, counts: Counter[str]) -> None:
    """Assert that engine and oracle agree on every field of every row; count the fields and the knife edges."""
    found, expected = printed_rows(folder, book, risk), margin_rows(book, risk)
    for row in found:
        row.pop("plan")
        row.pop("certificate", None)
    assert [name_of(row) for row in found] == [name_of(row) for row in expected]
    holdings = {(holding.account, holding.bucket): holding for holding in read_holdings(book, risk)}
    for row, other in zip(found, expected, strict=True):
        for position, twin in zip(row["positions"], other["positions"], strict=True):
            price, exact = position["liquidation_price"], twin["liquidation_price"]
            counts["liquidation prices"] += exact is not None
            if price != exact:
                frozen = frozen_at(book, risk, holdings[name_of(row)], position["symbol"])
                mark = int(decimal(book["marks"][position["symbol"]]) / frozen.terms.mark_step)
                assert is_only_roundings(frozen, price, exact, mark), (price, exact, row)
                twin["liquidation_price"] = price
                counts["knife edges"] += 1
            counts["fields"] += len(twin)
        assert row == other
        counts["fields"] += len(other)


def name_of(row: Document) -> tuple[str, str]:
    return row["account"], row.get("bucket", "")


def frozen_at(book: Document, risk: Document, holding: Holding, symbol: str) -> Frozen:
    """Return the oracle's view of one row with one symbol in motion."""
    market = read_market(book, risk)
    return freeze_rest(holding, symbol, figures_of(holding, market), market)


def is_only_roundings(frozen: Frozen, price: str | None, exact: str | None, mark: int) -> bool:
    """Return whether two answers differ only where roundings alone decide.

    Between them (beyond the one, where the other is None) E - MM never leaves the trigger by more than what rounding
    each leg's figures can take from it. What is printed is an edge: liquidatable, with a neighbour that is not; there a
    single step of a coarse grid may go far below.
    """
    steps = [int(decimal(text) / frozen.terms.mark_step) for text in (price, exact) if text is not None]
    if price is not None:
        at = steps[0]
        verdicts = [frozen.try_verdict(count, count) for count in (at - 1, at, at + 1) if count > 0]
        if not frozen.try_verdict(at, at) or all(verdicts):
            return False
    low, high = min(steps), max(steps)
    if price is not None and exact is not None and low < mark < high:
        # On the other side of the mark: what was passed over there is a flicker for as far as we look.
        way = 1 if steps[1] > mark else -1
        beyond = [count for count in range(steps[1], steps[1] + 64 * way, way) if count > 0]
        return all(abs(frozen.slack(count)) <= 2 * frozen.rounding_units for count in beyond)
    probes = {low, high, *(low + (high - low) * part // 64 for part in range(65))}
    if price is not None:
        probes.discard(steps[0])
    # Twice: what is compared are two figures, each of them rounded.
    return all(abs(frozen.slack(count)) <= 2 * frozen.rounding_units for count in probes)


# With a rate of 1 equity and margin run side by side from 2 on, one unit apart or equal; at 1 the account is far below.
STEEP_EDGE = (
    {
        "accounts": [
            {
                "account": "a",
                "balances": {"C": "-0.00000032"},
                "positions": [{"symbol": "BTC", "qty": "30", "entry_price": "1"}],
            }
        ],
        "marks": {"BTC": "5"},
        "asset_prices": {"C": "0.37"},
    },
    {
        "policy": {"tier_mode": "marginal", "trigger": "at_or_below"},
        "assets": {"USD": {"price": "1"}, "C": {}},
        "instruments": {
            "BTC": {
                "settle": "C",
                "price_tick": "1",
                "lot": "1",
                "mark_decimals": 0,
                "tiers": [["0", "0", "2"], ["0.00000001", "0.01", "2"], ["0.00000128", "1", "2"]],
                "multiplier": "0.00000003",
                "kind": "linear",
            }
        },
    },
)


def test_every_figure_of_a_small_book_is_the_oracles(tmp_path, monkeypatch):
    counts: Counter[str] = Counter()
    # The oracle gives up where E - MM is flat on its edge and only roundings decide; let it do so soon.
    monkeypatch.setattr(reference_prices, "EVALUATIONS_MAX", 5_000)

    @given(small_books())
    @example(STEEP_EDGE)
    @settings(max_examples=400)
    def check(case):
        book, risk = case
        note(json.dumps(case))
        try:
            margin_rows(book, risk)
        except reference_prices.FlatEdge:
            counts["given up"] += 1
            reject()
        check_rows(tmp_path, book, risk, counts)

    check()
    assert counts["fields"] > 5_000
    assert counts["given up"] < 20, counts
    # Half of these books put the edge on a price to the unit: a search that gave up on them would not be noticed.
    assert counts["knife edges"] < counts["liquidation prices"] / 10, counts


def test_every_figure_of_a_rich_book_is_the_oracles(tmp_path):
    counts: Counter[str] = Counter()

    @given(rich_books())
    @settings(max_examples=250)
    def check(case):
        book, risk = case
        note(json.dumps(case))
        check_rows(tmp_path, book, risk, counts)

    check()
    assert counts["fields"] > 5_000
    assert counts["liquidation prices"] > 100
    assert counts["knife edges"] == 0, counts


def only_printed(folder: Path, book: Document, risk: Document) -> Document:
    (row,) = printed_rows(folder, book, risk)
    return row


@pytest.mark.parametrize("trigger", ["at_or_below", "below"])
@pytest.mark.parametrize("units", [-1, 0, 1])
def test_account_at_the_threshold_and_a_unit_to_either_side(tmp_path, trigger, units):
    # 1 BTC from 1,090 at 1,000 with 100 dollars: E = 100 - 90 = 10 = 1 % of 1,000, then a unit less and a unit more.
    balance = show(100 + Fraction(units, 10**8))
    book, risk = book_of({"USD": balance}, [long_of("1", "1090")], {"BTC": "1000"}), risk_of(
        {"BTC": perpetual()}, trigger=trigger
    )  # fmt: skip
    row = only_printed(tmp_path, book, risk)
    assert (row["equity"], row["maintenance_margin"]) == (show(10 + Fraction(units, 10**8)), "10")
    assert row["liquidatable"] is (units < 0 or (units == 0 and trigger == "at_or_below"))
    # 10 + units of 1e-8 left over 0.99 of a dollar a dollar: only the unit below the edge moves it, by one step up.
    edge = "1000" if row["liquidatable"] else "999.9"
    assert row["positions"][0]["liquidation_price"] == edge
    assert bool(row["plan"]) is row["liquidatable"]
    check_rows(tmp_path, book, risk, Counter())


@pytest.mark.parametrize(("qty", "edge"), [("1", "950"), ("-1", "1050")])
def test_neighbour_of_the_liquidation_price_on_the_healthy_side_is_healthy(tmp_path, qty, edge):
    # Long 1 from 1,000 with 59.5: 59.5 - 50 = 9.5 = 1 % of 950. Short 1 with 60.5: 60.5 - 50 = 10.5 = 1 % of 1,050.
    sign = 1 if qty == "1" else -1
    book = book_of({"USD": show(60 - Fraction(sign, 2))}, [long_of(qty, "1000")], {"BTC": "1000"})
    risk = risk_of({"BTC": perpetual()})
    assert only_printed(tmp_path, book, risk)["positions"][0]["liquidation_price"] == edge
    for price, expected in ((decimal(edge), True), (decimal(edge) + sign * Fraction(1, 10), False)):
        moved = {**book, "marks": {"BTC": show(price)}}
        assert only_printed(tmp_path, moved, risk)["liquidatable"] is expected
        # From inside the region, or from beside it, the edge is the same price.
        assert only_printed(tmp_path, moved, risk)["positions"][0]["liquidation_price"] == edge


def test_whole_tier_above_a_long_is_the_nearest_edge(tmp_path):
    # At 9,990: E = 300 - 10, MM 99.9. At 10,000 the rate of all becomes 5 %: E 300, MM 500. Below, only at 9,797.9.
    tiers = ("0", "0.01", "50"), ("10000", "0.05", "10")
    book = book_of({"USD": "300"}, [long_of("1", "10000")], {"BTC": "9990"})
    row = only_printed(tmp_path, book, risk_of({"BTC": perpetual(*tiers)}, tier_mode="whole"))
    assert row["positions"][0]["liquidation_price"] == "10000"


def test_whole_tiers_leave_one_healthy_price_between_two_gaps(tmp_path):
    # 1 long from 10,000 with 102.1; rates of the whole: 1 %, from 10,000 on 2 %, from 10,100 on 6 %.
    # At 10,099.9: 202.0 > 201.998. One step below 201.9 < 201.996, one above 202.1 < 606. Healthy below 10,000 too.
    tiers = ("0", "0.01", "50"), ("10000", "0.02", "25"), ("10100", "0.06", "10")
    risk = risk_of({"BTC": perpetual(*tiers)}, tier_mode="whole")
    for mark, edge in (("10200", "10100"), ("10090", "10099.8"), ("10060", "10099.8"), ("10040", "10000")):
        row = only_printed(tmp_path, book_of({"USD": "102.1"}, [long_of("1", "10000")], {"BTC": mark}), risk)
        assert (row["liquidatable"], row["positions"][0]["liquidation_price"]) == (True, edge), mark


def test_first_tier_without_margin_ends_where_the_margin_begins(tmp_path):
    # Long 1 from 100 with 5 dollars, no margin up to a notional of 50, then half of what lies above. At 40 it owes 55
    # but needs nothing, so nothing triggers; from 50.1 on it needs 0.05 and E = -44.9. Healthy for good from
    # 5 + x - 100 > 0.5x - 25, x > 140.
    risk = risk_of({"BTC": perpetual(("0", "0", "50"), ("50", "0.5", "2"))})
    for mark, edge in (("40", "50.1"), ("60", "50.1"), ("130", "140"), ("150", "140")):
        row = only_printed(tmp_path, book_of({"USD": "5"}, [long_of("1", "100")], {"BTC": mark}), risk)
        assert row["positions"][0]["liquidation_price"] == edge, mark


@pytest.mark.parametrize(
    ("multiplier", "qty", "mark", "edge"),
    [
        # 3 contracts of 0.1: 0.3 from 1,000 with 30. 30 + 0.3x - 300 = 0.003x, x = 270 / 0.297 = 909.09..
        ("0.1", "3", "1000", "909"),
        # 10,000,000 contracts of 0.0001 BTC at 60,000, 1,000 BTC in all, with 6,000,000: the products of the steps
        # leave 64 bits. 6e6 + 1,000x - 60e6 = 10x, x = 54e6 / 990 = 54,545.45..
        ("0.0001", "10000000", "60000", "54545.4"),
        # One contract of 1.23456789 at 60,000: nine digits of multiplier times fourteen of price do the same.
        ("1.23456789", "1", "60000", "54545.4"),
    ],
)
def test_fractional_multiplier_is_exact_in_every_figure(tmp_path, multiplier, qty, mark, edge):
    instrument = perpetual(lot="1", multiplier=multiplier)
    worth = decimal(multiplier) * decimal(qty) * decimal(mark)
    book = book_of({"USD": show(worth / 10)}, [long_of(qty, mark)], {"BTC": mark})
    row = only_printed(tmp_path, book, risk_of({"BTC": instrument}))
    assert (row["equity"], row["maintenance_margin"]) == (show(worth / 10), show(worth / 100))
    assert row["positions"][0]["notional"] == show(worth)
    assert row["positions"][0]["liquidation_price"] == edge


@pytest.mark.parametrize("decimals", [0, 2, 6, 8])
def test_balance_counts_in_full_whatever_decimals_its_asset_has(tmp_path, decimals):
    book = book_of({"USDT": "1000"}, [], {}, insurance={"USDT": "5"})
    row = only_printed(tmp_path, book, risk_of({}, {"USDT": {"price": "1", "decimals": decimals}}))
    assert (row["wallet_value"], row["equity"]) == ("1000", "1000")


def test_binance_cross_margin_example_through_the_command_line(tmp_path, capsys):
    # The example of Binance's FAQ on liquidation prices; the tiers add up to its maintenance amounts of 16,300 (BTC)
    # and 135,365 (ETH). It prints 26,316.89 and 1,153.26, to the nearest cent; the contract prints the last of four
    # decimals that liquidates.
    eth = perpetual(
        ("0", "0.005", "100"), ("10000", "0.0065", "75"), ("100000", "0.01", "50"), ("500000", "0.02", "25"),
        ("1000000", "0.05", "10"), ("2000000", "0.10", "5"), mark_decimals=4,
    )  # fmt: skip
    btc = perpetual(
        ("0", "0.004", "125"), ("50000", "0.005", "100"), ("250000", "0.01", "50"), ("1000000", "0.025", "20"),
        mark_decimals=4,
    )  # fmt: skip
    positions = [long_of("3683.979", "1456.84", "ETH"), long_of("109.488", "32481.98", "BTC")]
    book = book_of({"USD": "1535443.01"}, positions, {"ETH": "1335.18", "BTC": "31967.27"})
    risk = risk_of({"ETH": eth, "BTC": btc})
    book_path, risk_path = write_case(tmp_path, book, risk)
    assert main(["margin", str(book_path), "--risk", str(risk_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["accounts"]
    assert (row.pop("plan"), row["liquidatable"]) == ([], False)
    assert [row] == margin_rows(book, risk)
    prices = {p["symbol"]: decimal(p["liquidation_price"]) for p in row["positions"]}
    assert {symbol: show(round(price * 100) / Fraction(100)) for symbol, price in prices.items()} == {
        "BTC": "26316.89", "ETH": "1153.26",
    }  # fmt: skip
    # ETH 4,918,775.08122 · 10 % - 135,365 = 356,512.508122; BTC 3,500,032.45776 · 2.5 % - 16,300 = 71,200.811444
    assert [p["maintenance_margin"] for p in row["positions"]] == ["71200.811444", "356512.508122"]


def test_bucket_and_hedge_rows_stand_apart_in_order(tmp_path):
    positions = [
        long_of("1", "1000", isolated=True, margin="50"),
        long_of("2", "50000", "XBT"),
        long_of("-1", "52000", "XBT"),
    ]
    risk = risk_of({"BTC": perpetual(), "XBT": INVERSE}, {"BTC": {"weights": [["0", "0.9"]]}})
    book = book_of({"BTC": "0.01"}, positions, {"BTC": "955", "XBT": "51000"}, asset_prices={"BTC": "51000"})
    book["accounts"].append({"account": "A", "balances": {"USD": "-3"}, "positions": []})
    rows = printed_rows(tmp_path, book, risk)
    assert [name_of(row) for row in rows] == [("A", ""), ("a", ""), ("a", "BTC")]
    assert [position["leg"] for position in rows[1]["positions"]] == ["long", "short"]
    # 50 - 45 = 5 <= 9.55: the bucket falls whatever the cross wallet holds.
    assert [row["liquidatable"] for row in rows] == [False, False, True]
    check_rows(tmp_path, book, risk, Counter())


@given(small_books(), st.integers(1, 60))
@settings(max_examples=100)
def test_liquidation_price_does_not_change_the_verdict_of_the_account(tmp_path_factory, case, mark):
    # Wherever the mark is put, the printed price itself is liquidatable.
    folder = tmp_path_factory.getbasetemp()
    book, risk = case
    row = only_printed(folder, {**book, "marks": {"BTC": str(mark)}}, risk)
    price = row["positions"][0]["liquidation_price"]
    if price is not None:
        assert only_printed(folder, {**book, "marks": {"BTC": price}}, risk)["liquidatable"]
