"""The oracle's figures are right: worked examples with their arithmetic in words.

Where an exchange publishes a figure for an example, the oracle is held to that figure.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import margin_rows
from tests.reference_cases import INVERSE, book_of, long_of, only_row, perpetual, risk_of
from tests.reference_numbers import decimal, half_even, show, step_decimals
from tests.reference_terms import maintenance_margin, read_terms, read_tiers, tier_at

TIERS_FILE = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "binance_leverage_tiers.json"


def test_binance_cross_margin_example_gives_the_published_liquidation_prices():
    # Tiers of the day; the deductions they add up to are the example's maintenance amounts:
    # ETH 10k·0.15 % + 100k·0.35 % + 500k·1 % + 1M·3 % + 2M·5 % = 135,365,
    # BTC 50k·0.1 % + 250k·0.5 % + 1M·1.5 % = 16,300.
    eth = perpetual(
        ("0", "0.005", "100"),
        ("10000", "0.0065", "75"),
        ("100000", "0.01", "50"),
        ("500000", "0.02", "25"),
        ("1000000", "0.05", "10"),
        ("2000000", "0.10", "5"),
        mark_decimals=4,
    )
    btc = perpetual(
        ("0", "0.004", "125"), ("50000", "0.005", "100"), ("250000", "0.01", "50"), ("1000000", "0.025", "20"),
        mark_decimals=4,
    )  # fmt: skip
    risk = risk_of({"ETH": eth, "BTC": btc})
    positions = [long_of("3683.979", "1456.84", "ETH"), long_of("109.488", "32481.98", "BTC")]
    book = book_of({"USD": "1535443.01"}, positions, {"ETH": "1335.18", "BTC": "31967.27"})
    row = only_row(book, risk)
    # Binance prints two digits, rounded to the nearest; the contract prints the last price that liquidates.
    found = {p["symbol"]: half_even(decimal(p["liquidation_price"]), 2) for p in row["positions"]}
    assert found == {"BTC": decimal("26316.89"), "ETH": decimal("1153.26")}
    # ETH PnL 3,683.979 · (1,335.18 - 1,456.84) = -448,192.88514; BTC 109.488 · (31,967.27 - 32,481.98) = -56,354.56848
    assert row["unrealised_pnl"] == "-504547.45362"
    # ETH 4,918,775.08122 · 10 % - 135,365 = 356,512.508122; BTC 3,500,032.45776 · 2.5 % - 16,300 = 71,200.811444
    assert [p["maintenance_margin"] for p in row["positions"]] == ["71200.811444", "356512.508122"]
    # In the last tier of each: 4,918,775.08122 / 5 + 3,500,032.45776 / 20
    assert row["initial_margin"] == "1158756.639132"
    assert row["liquidatable"] is False


def test_deductions_are_the_amounts_binance_publishes():
    if not TIERS_FILE.exists():
        pytest.skip(f"no market data: {TIERS_FILE.name} is not there")
    symbols = json.loads(TIERS_FILE.read_text(), parse_float=str)["symbols"]
    assert symbols
    for symbol, rows in symbols.items():
        tiers = read_tiers([[floor, rate, leverage] for floor, _, rate, leverage, _ in rows])
        assert [tier.deduction for tier in tiers] == [decimal(row[4]) for row in rows], symbol


def test_one_long_in_all_its_figures():
    # 0.5 BTC from 60,000 at 58,000: n 29,000, PnL -1,000, MM 290, IM 29,000 / 20 = 1,450; wallet 2,000, so E 1,000.
    row = only_row(book_of({"USD": "2000"}, [long_of("0.5", "60000")], {"BTC": "58000"}), risk_of({"BTC": perpetual()}))
    assert row == {
        "account": "a",
        "equity": "1000",
        "wallet_value": "2000",
        "unrealised_pnl": "-1000",
        "maintenance_margin": "290",
        "initial_margin": "1450",
        "margin_ratio": "0.29",
        "liquidatable": False,
        "positions": [
            {
                "symbol": "BTC",
                "leg": "net",
                "qty": "0.5",
                "entry_price": "60000",
                "notional": "29000",
                "unrealised_pnl": "-1000",
                "maintenance_margin": "290",
                "initial_margin": "1450",
                # 2,000 + 0.5·(x - 60,000) = 0.005·x, x = 28,000 / 0.495 = 56,565.65..: the last tenth below it
                "liquidation_price": "56565.6",
                # 58,000 - 1,000 / 0.5
                "bankruptcy_price": "56000",
            }
        ],
    }


def test_short_is_liquidated_above_and_bankrupt_on_the_tick_below():
    # 300 - (x - 1,000)·0.7 = 0.007·x, x = 1,000 / 0.707 = 1,414.427..: the first tenth above.
    # Nothing is left at 1,000 + 300 / 0.7 = 1,428.57..: the tenth below.
    position = only_row(
        book_of({"USD": "300"}, [long_of("-0.7", "1000")], {"BTC": "1000"}), risk_of({"BTC": perpetual()})
    )["positions"][0]
    assert (position["liquidation_price"], position["bankruptcy_price"]) == ("1414.5", "1428.5")


@pytest.mark.parametrize(("trigger", "at", "price"), [("at_or_below", True, "1000"), ("below", False, "999.9")])
def test_edge_on_the_grid_counts_only_at_or_below(trigger, at, price):
    # 1 from 1,090 at 1,000 with 100: E = 100 - 90 = 10 = 1 % of 1,000, exactly on the edge.
    risk = risk_of({"BTC": perpetual()}, trigger=trigger)
    row = only_row(book_of({"USD": "100"}, [long_of("1", "1090")], {"BTC": "1000"}), risk)
    assert (row["equity"], row["maintenance_margin"], row["liquidatable"]) == ("10", "10", at)
    assert (row["margin_ratio"], row["positions"][0]["liquidation_price"]) == ("1", price)


def test_liquidation_price_is_found_from_inside_too():
    # Bankrupt: 50 + (900 - 1,000) = -50. Healthy again above 950 / 0.99 = 959.59..; E < 0 has no ratio.
    row = only_row(book_of({"USD": "50"}, [long_of("1", "1000")], {"BTC": "900"}), risk_of({"BTC": perpetual()}))
    assert (row["liquidatable"], row["margin_ratio"]) == (True, None)
    # The bankruptcy price lies on the other side of the mark: 900 + 50 / 1.
    assert row["positions"][0]["liquidation_price"] == "959.5"
    assert row["positions"][0]["bankruptcy_price"] == "950"


def test_long_with_more_cash_than_it_can_lose_has_no_liquidation_price_and_a_negative_bankruptcy_price():
    row = only_row(book_of({"USD": "1500"}, [long_of("1", "1000")], {"BTC": "1000"}), risk_of({"BTC": perpetual()}))
    assert row["positions"][0]["liquidation_price"] is None
    assert row["positions"][0]["bankruptcy_price"] == "-500"


def test_without_requirement_nothing_is_liquidatable_and_nothing_divides_by_zero():
    free = perpetual(("0", "0", "10"))
    row = only_row(book_of({"USD": "-5"}, [long_of("-1", "1000")], {"BTC": "1100"}), risk_of({"BTC": free}))
    assert (row["equity"], row["margin_ratio"], row["liquidatable"]) == ("-105", "0", False)
    assert (row["positions"][0]["liquidation_price"], row["positions"][0]["bankruptcy_price"]) == (None, None)


@pytest.mark.parametrize(
    ("mode", "price", "expected"),
    [
        ("marginal", "9999.9", "99.999"),  # one step below the floor: 1 % of 9,999.9
        ("marginal", "10000", "100"),  # on it: 5 % of 10,000 - 400
        ("marginal", "10000.1", "100.005"),  # above: 5 % of 10,000.1 - 400
        ("whole", "9999.9", "99.999"),
        ("whole", "10000", "500"),  # 5 % on all of it
    ],
)
def test_tier_that_begins_at_the_notional_holds(mode, price, expected):
    risk = risk_of({"BTC": perpetual(("0", "0.01", "50"), ("10000", "0.05", "10"))}, tier_mode=mode)
    row = only_row(book_of({"USD": "9000"}, [long_of("1", "10000")], {"BTC": price}), risk)
    assert row["maintenance_margin"] == expected
    assert row["initial_margin"] == ("199.998" if price == "9999.9" else show(decimal(price) / 10))


def test_whole_tier_liquidates_a_long_whose_price_rises():
    # At 9,990: E = 300 - 10, MM 99.9. At 10,000 the rate becomes 5 %: E 300, MM 500. Below, 9,700 / 0.99 = 9,797.97..
    tiers = ("0", "0.01", "50"), ("10000", "0.05", "10")
    risk = risk_of({"BTC": perpetual(*tiers)}, tier_mode="whole")
    row = only_row(book_of({"USD": "300"}, [long_of("1", "10000")], {"BTC": "9990"}), risk)
    assert row["positions"][0]["liquidation_price"] == "10000"
    row = only_row(book_of({"USD": "300"}, [long_of("1", "10000")], {"BTC": "9850"}), risk)
    assert row["positions"][0]["liquidation_price"] == "9797.9"


def test_healthy_at_a_single_price_is_found_from_either_side():
    # 1 long from 10,000 with 102.1; rates of the whole: 1 %, from 10,000 on 2 %, from 10,100 on 6 %.
    # At 10,099.9: 202.0 > 201.998. One step below 201.9 < 201.996, one above 202.1 < 606. Healthy below 10,000 too.
    risk = risk_of(
        {"BTC": perpetual(("0", "0.01", "50"), ("10000", "0.02", "25"), ("10100", "0.06", "10"))}, tier_mode="whole"
    )
    for mark, edge in (("10200", "10100"), ("10090", "10099.8"), ("10060", "10099.8"), ("10040", "10000")):
        row = only_row(book_of({"USD": "102.1"}, [long_of("1", "10000")], {"BTC": mark}), risk)
        assert (row["liquidatable"], row["positions"][0]["liquidation_price"]) == (True, edge)


def test_margin_ratio_is_rounded_up():
    # 1 % of 100 over 3
    row = only_row(book_of({"USD": "3"}, [long_of("1", "100")], {"BTC": "100"}), risk_of({"BTC": perpetual()}))
    assert row["margin_ratio"] == "0.33333334"


def test_inverse_long_is_counted_in_coins():
    # 10 contracts of 100 USD from 50,000 at 40,000: n = 1,000 / 40,000 = 0.025 BTC, PnL = 0.02 - 0.025 = -0.005.
    risk = risk_of({"XBT": INVERSE}, {"BTC": {}})
    book = book_of({"BTC": "0.01"}, [long_of("10", "50000", "XBT")], {"XBT": "40000"}, asset_prices={"BTC": "40000"})
    row = only_row(book, risk)
    assert (row["equity"], row["unrealised_pnl"], row["maintenance_margin"]) == ("200", "-200", "10")
    position = row["positions"][0]
    assert (position["notional"], position["unrealised_pnl"]) == ("0.025", "-0.005")
    assert (position["maintenance_margin"], position["initial_margin"]) == ("0.00025", "0.0025")
    # 0.01 + 0.02 - 1,000/x = 10/x, x = 1,010 / 0.03 = 33,666.66..
    assert position["liquidation_price"] == "33666.6"
    # 1/40,000 + 0.005/1,000 = 0.00003: 33,333.33.., up to the half
    assert position["bankruptcy_price"] == "33333.5"


def test_inverse_short_cannot_lose_more_than_its_entry_value():
    # Short 10 from 50,000: at any price it loses less than 1,000 / 50,000 = 0.02 BTC, and 0.03 are there.
    risk = risk_of({"XBT": INVERSE}, {"BTC": {}})
    book = book_of({"BTC": "0.03"}, [long_of("-10", "50000", "XBT")], {"XBT": "40000"}, asset_prices={"BTC": "40000"})
    position = only_row(book, risk)["positions"][0]
    assert (position["unrealised_pnl"], position["entry_price"]) == ("0.005", "50000")
    assert (position["liquidation_price"], position["bankruptcy_price"]) == (None, None)
    # With 0.015: 0.015 - 0.02 + 1,000/x = 10/x, x = 990 / 0.005. Whole dollars, since a step of 0.1 is a quarter of
    # a unit of BTC up there and the edge would be a matter of roundings.
    book["accounts"][0]["balances"]["BTC"] = "0.015"
    risk["instruments"]["XBT"] = {**INVERSE, "mark_decimals": 0}
    assert only_row(book, risk)["positions"][0]["liquidation_price"] == "198000"


def test_inverse_short_meets_a_whole_tier_when_the_price_falls():
    # Short 10 from 25,000 with 0.0111: E = 0.0111 - 0.04 + 1,000/x. n reaches 0.0299 at 33,444.81.. and below:
    # there MM is 5 % = 0.001495 > E 0.001, just above 1 % = 0.000299. Healthy far below, where E has grown.
    fields = {**INVERSE, "tiers": [["0", "0.01", "10"], ["0.0299", "0.05", "5"]]}
    risk = risk_of({"XBT": fields}, {"BTC": {"price": "1"}}, tier_mode="whole")
    row = only_row(book_of({"BTC": "0.0111"}, [long_of("-10", "25000", "XBT")], {"XBT": "33445.5"}), risk)
    assert row["positions"][0]["liquidation_price"] == "33444.8"


def test_hedge_legs_move_together_and_show_one_price():
    # Long 2 from 100, short 1 from 110, at 100: E = 60 + 0 + 10 = 70, MM = 2 + 1 per leg, never netted.
    # 60 + 2(x - 100) - (x - 110) = 0.03x, x = 30 / 0.97 = 30.92..
    positions = [long_of("-1", "110"), long_of("2", "100")]
    row = only_row(book_of({"USD": "60"}, positions, {"BTC": "100"}), risk_of({"BTC": perpetual()}))
    assert (row["equity"], row["maintenance_margin"]) == ("70", "3")
    assert [(p["leg"], p["qty"], p["liquidation_price"]) for p in row["positions"]] == [
        ("long", "2", "30.9"),
        ("short", "-1", "30.9"),
    ]
    # Each by its own share: 100 - 70·(2/3)/2 = 76.67 up, 100 + 70·(1/3)/1 = 123.33 down.
    assert [p["bankruptcy_price"] for p in row["positions"]] == ["76.7", "123.3"]


def test_isolated_bucket_is_its_own_row_with_its_margin_alone():
    positions = [long_of("1", "1000", isolated=True, margin="50"), long_of("1", "100", "ETH")]
    book = book_of({"USD": "40"}, positions, {"BTC": "955", "ETH": "90"})
    cross, bucket = margin_rows(book, risk_of({"BTC": perpetual(), "ETH": perpetual()}))
    assert "bucket" not in cross
    assert (cross["equity"], cross["liquidatable"]) == ("30", False)
    # 50 - 45 = 5 <= 9.55, whatever the cross wallet holds
    assert (bucket["bucket"], bucket["equity"], bucket["liquidatable"]) == ("BTC", "5", True)
    # 950 / 0.99 = 959.59..
    assert bucket["positions"][0]["liquidation_price"] == "959.5"


@pytest.mark.parametrize(
    ("coins", "value"),
    [
        ("0.5", "475"),  # 500 · 0.95
        ("1", "950"),  # the whole first slice
        ("3", "2550"),  # 1,000 · 0.95 + 2,000 · 0.8
        ("7", "4950"),  # 1,000 · 0.95 + 4,000 · 0.8 + 2,000 · 0.4
        ("-3", "-3000"),  # a debt counts in full
    ],
)
def test_collateral_is_weighted_slice_by_slice(coins, value):
    risk = risk_of({}, {"ETH": {"weights": [["0", "0.95"], ["1000", "0.8"], ["5000", "0.4"]]}})
    row = only_row(book_of({"ETH": coins}, [], {}, asset_prices={"ETH": "1000"}), risk)
    assert row["wallet_value"] == row["equity"] == value


def test_requirements_go_up_twice_and_values_down_once():
    # n = 0.001·0.1 = 0.0001: MM 1 % = 0.000001, IM /3 = 0.0000333.. up 0.00003334; P = 0.333 in the valuation currency.
    coin = perpetual(("0", "0.010001", "3"), settle="C")
    risk = risk_of({"BTC": coin}, {"C": {}})
    book = book_of({"C": "0.00000001"}, [long_of("0.001", "0.2")], {"BTC": "0.1"}, asset_prices={"C": "0.333"})
    row = only_row(book, risk)
    assert row["wallet_value"] == "0"  # 0.333 of a unit, down
    assert row["unrealised_pnl"] == "-0.0000333"  # -10,000 units · 0.333, exact
    # MM 100.01 units, up 101, · 0.333 = 33.633, up 34. IM 3,333.3.., up 3,334, · 0.333 = 1,110.222, up 1,111.
    assert (row["positions"][0]["maintenance_margin"], row["maintenance_margin"]) == ("0.00000101", "0.00000034")
    assert (row["positions"][0]["initial_margin"], row["initial_margin"]) == ("0.00003334", "0.00001111")


def test_pnl_of_a_fraction_of_a_unit_is_rounded_once_after_the_price():
    # m 0.0001: 0.001·0.0001·0.3 = 3 units paid, worth 1.5 at 0.15. PnL·P = -1.5·3 = -4.5, down -5; down twice: -6.
    small = perpetual(settle="C", multiplier="0.0001", mark_decimals=2)
    book = book_of({}, [long_of("0.001", "0.3")], {"BTC": "0.15"}, asset_prices={"C": "3"})
    row = only_row(book, risk_of({"BTC": small}, {"C": {}}))
    assert row["unrealised_pnl"] == "-0.00000005"
    assert row["positions"][0]["unrealised_pnl"] == "-0.00000002"
    assert row["positions"][0]["notional"] == "0.00000002"


def test_numbers_are_read_and_printed_as_the_contract_says():
    assert [step_decimals(decimal(step)) for step in ("0.001", "0.5", "5", "1000")] == [3, 1, 0, -3]
    assert [half_even(decimal(text), 1) for text in ("0.25", "0.35")] == [Fraction(1, 5), Fraction(2, 5)]
    assert [show(decimal(text)) for text in ("-0.50", "-0", "100", "0.00000001")] == ["-0.5", "0", "100", "0.00000001"]
    refused: Any
    for refused in ("1e5", "+1", ".5", "5.", "NaN", " 1", True, 1.5):
        with pytest.raises(ValueError, match="plain decimal"):
            decimal(refused)


def test_marks_are_rounded_half_even_to_the_default_decimals_of_the_lot():
    instrument = perpetual(lot="0.001")
    del instrument["mark_decimals"]  # 8 - 3 = 5 decimals
    row = only_row(
        book_of({"USD": "1"}, [long_of("1", "1")], {"BTC": "1.000025"}, asset_prices={"USD": "7"}),
        risk_of({"BTC": instrument}),
    )
    assert row["unrealised_pnl"] == "0.00002"
    assert row["wallet_value"] == "1"  # a price fixed in the risk file is fixed


def test_exact_cost_takes_precedence_and_a_long_entry_price_is_rounded_to_the_unit_once():
    risk = risk_of({"BTC": perpetual(), "XBT": INVERSE}, {"BTC": {"price": "10"}})
    book = book_of({}, [long_of("1", "5", cost="-100")], {"BTC": "100"})
    assert only_row(book, risk)["positions"][0]["entry_price"] == "100"
    # 3·0.000000005 = 1.5 units: half-even 2; the entry printed is the cost's own, 2 units / 3
    book = book_of({}, [long_of("3", "0.000000005")], {"BTC": "100"})
    assert only_row(book, risk)["positions"][0]["entry_price"] == "0.000000006666666667"
    # 300 / 7 = 42.857142857.. coins, half-even to 42.85714286
    book = book_of({}, [long_of("3", "7", "XBT")], {"XBT": "7"})
    assert only_row(book, risk)["positions"][0]["unrealised_pnl"] == "0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"marks": {}}, "the mark of BTC is missing"),
        ({"asset_prices": {}}, "the price of C is missing"),
        ({"accounts": [{"account": "a"}, {"account": "a"}]}, "twice"),
    ],
)
def test_what_a_book_lacks_is_named(change, message):
    book = book_of({"C": "1"}, [long_of("1", "5")], {"BTC": "100"}, asset_prices={"C": "1"})
    with pytest.raises(ValueError, match=message):
        margin_rows({**book, **change}, risk_of({"BTC": perpetual()}, {"C": {}}))


@given(
    notional=st.integers(0, 10**6),
    floors=st.lists(st.integers(1, 10**6), unique=True, max_size=4),
    data=st.data(),
)
def test_the_largest_tier_line_is_the_line_of_the_tier_the_notional_lies_in(notional, floors, data):
    ppm = st.integers(0, 10**6)
    rates = sorted(data.draw(st.lists(ppm, min_size=len(floors) + 1, max_size=len(floors) + 1)))
    rows = [(floor, show(Fraction(rate, 10**6)), 1) for floor, rate in zip([0, *sorted(floors)], rates, strict=True)]
    terms = read_terms({"instruments": {"BTC": perpetual(*rows)}}, "BTC")
    tier = tier_at(terms, Fraction(notional))
    assert maintenance_margin(terms, Fraction(notional), "marginal") == notional * tier.rate - tier.deduction
