"""The oracle's ledger is right: what each event moves, with the arithmetic in words."""

from __future__ import annotations

import pytest

from tests.reference import margin_rows
from tests.reference_cases import INVERSE, book_of, fill, long_of, perpetual, risk_of, transfer
from tests.reference_ledger import ReferenceLedger

RISK = risk_of({"BTC": perpetual(), "XBT": INVERSE, "MINI": perpetual(multiplier="0.0001")}, {"BTC": {}})


def after(*events, risk=RISK, book=None):
    """The ledger after the events, every one of them applied and every asset conserved."""
    ledger = ReferenceLedger(risk, book)
    for event in events:
        assert ledger.apply(event)
        assert all(total["wallets"] == total["transfers"] for total in ledger.totals().values())
    return ledger


def record_of(ledger, account="a"):
    """What the written book says of one account: balances, and positions as (symbol, leg, qty, cost, margin)."""
    (record,) = [r for r in ledger.to_book()["accounts"] if r["account"] == account]
    positions = [
        (entry["symbol"], entry["leg"], entry["qty"], entry.get("cost"), entry.get("margin"))
        for entry in record["positions"]
    ]
    return record["balances"], positions


def test_partial_close_releases_its_share_of_the_cost_and_keeps_the_remainder():
    # 0.003 for 0.1 each is 30,000 units; one unit more makes the cost -30,001 = -0.00030001.
    book = book_of({}, [long_of("0.003", "0.1", cost="-0.00030001")], {})
    # A third of -30,001 is -10,000.33.., down -10,001; sold at 0.2 for 20,000: 9,999 realised, -20,000 stays.
    ledger = after(fill(1, "sell", "0.001", "0.2"), book=book)
    assert record_of(ledger) == ({"USD": "0.00009999"}, [("BTC", "net", "0.002", "-0.0002", None)])


def test_adding_averages_and_flipping_closes_wholly_before_it_opens():
    # 1 at 100 and 1 at 110 cost 210; 3 sold at 120: 2 bring 240, realised 30, and 1 short opens for +120.
    ledger = after(fill(1, "buy", "1", "100"), fill(2, "buy", "1", "110"), fill(3, "sell", "3", "120"))
    assert record_of(ledger) == ({"USD": "30"}, [("BTC", "net", "-1", "120", None)])
    assert record_of(ledger, "$clearing") == ({}, [("BTC", "net", "1", "-150", None)])
    assert ledger.to_book()["accounts"][-1]["positions"][0]["entry_price"] == "120"


def test_flat_clearing_keeps_what_the_accounts_won():
    ledger = after(fill(1, "buy", "1", "100"), fill(2, "sell", "1", "90"))
    assert record_of(ledger) == ({"USD": "-10"}, [])
    assert record_of(ledger, "$clearing") == ({"USD": "10"}, [])


@pytest.mark.parametrize(
    ("side", "cost"),
    [
        ("buy", "-0.00000004"),  # 0.001·0.0001·0.35 = 3.5 units are paid: 4
        ("sell", "0.00000003"),  # 3.5 are received: 3
    ],
)
def test_fraction_of_a_unit_goes_against_the_account(side, cost):
    assert record_of(after(fill(1, side, "0.001", "0.35", symbol="MINI")))[1][0][3] == cost


def test_each_part_of_a_flip_is_rounded_on_its_own():
    # Long 0.001 at 0.35 cost 4. Sell 0.002 at 0.33: 3.3 come in, 3, realised -1; 3.3 again open the short, 3.
    ledger = after(fill(1, "buy", "0.001", "0.35", symbol="MINI"), fill(2, "sell", "0.002", "0.33", symbol="MINI"))
    assert record_of(ledger) == ({"USD": "-0.00000001"}, [("MINI", "net", "-0.001", "0.00000003", None)])


def test_inverse_trades_move_coins():
    # 10 at 50,000: a long is owed 1,000 / 50,000 = 0.02; closed at 30,000 for 0.0333333333.., up: -0.01333334 in all.
    ledger = after(fill(1, "buy", "10", "50000", symbol="XBT"), fill(2, "sell", "10", "30000", symbol="XBT"))
    assert record_of(ledger) == ({"BTC": "-0.01333334"}, [])


def test_fee_goes_to_the_fee_account_and_a_rebate_comes_from_it():
    ledger = after(fill(1, "buy", "1", "100", fee="0.05"), fill(2, "buy", "1", "100", fee="-0.02"))
    assert record_of(ledger)[0] == {"USD": "-0.03"}
    assert record_of(ledger, "$fees") == ({"USD": "0.03"}, [])


def test_funding_is_paid_by_longs_to_shorts_each_rounded_against_itself():
    # 0.001·0.1 = 10,000 units of notional at 0.00005: 0.5. The long pays 1, the short receives 0, clearing keeps 1.
    mark = {"type": "mark", "ts": 1, "symbol": "BTC", "price": "0.1"}
    funding = {"type": "funding", "ts": 1, "symbol": "BTC", "rate": "0.00005"}
    ledger = after(fill(1, "buy", "0.001", "0.1"), fill(1, "sell", "0.001", "0.1", account="b"), mark, funding)
    assert record_of(ledger)[0] == {"USD": "-0.00000001"}
    assert record_of(ledger, "b")[0] == {}
    assert record_of(ledger, "$clearing") == ({"USD": "0.00000001"}, [])


def test_inverse_funding_is_paid_on_the_coins():
    # 1,000 / 40,000 = 0.025 BTC at 0.001
    mark = {"type": "mark", "ts": 1, "symbol": "XBT", "price": "40000"}
    funding = {"type": "funding", "ts": 1, "symbol": "XBT", "rate": "0.001"}
    ledger = after(fill(1, "buy", "10", "40000", symbol="XBT"), mark, funding)
    assert record_of(ledger)[0] == {"BTC": "-0.000025"}


def test_bucket_pays_for_itself_and_its_rest_comes_home_when_the_position_is_gone():
    opened = [transfer(1, "50", symbol="BTC"), fill(1, "buy", "1", "100", isolated=True, fee="1")]
    ledger = after(transfer(2, "7"), *opened)
    assert record_of(ledger) == ({"USD": "7"}, [("BTC", "net", "1", "-100", "49")])
    # Half closed at 80 loses 10 and the bucket stays; the rest at 60 loses 20: 49 - 30 = 19 go home.
    assert ledger.apply(fill(2, "sell", "0.5", "80", isolated=True))
    assert record_of(ledger)[1] == [("BTC", "net", "0.5", "-50", "39")]
    assert ledger.apply(fill(3, "sell", "0.5", "60", isolated=True))
    assert record_of(ledger) == ({"USD": "26"}, [])


def test_deficit_of_a_bucket_stays_in_the_bucket():
    ledger = after(
        transfer(1, "50", symbol="BTC"), transfer(2, "7"),
        fill(1, "buy", "1", "100", isolated=True), fill(2, "sell", "1", "20", isolated=True),
    )  # fmt: skip
    assert record_of(ledger) == ({"USD": "7"}, [("BTC", "net", "0", None, "-30")])
    cross, bucket = margin_rows(ledger.to_book(), RISK)
    assert (cross["equity"], bucket["equity"], bucket["positions"]) == ("7", "-30", [])


def test_hedge_legs_are_two_positions():
    ledger = after(fill(1, "buy", "2", "100", leg="long"), fill(2, "sell", "1", "110", leg="short"))
    assert ledger.apply(fill(3, "sell", "1", "120", leg="long"))
    assert record_of(ledger) == (
        {"USD": "20"},
        [("BTC", "long", "1", "-100", None), ("BTC", "short", "-1", "110", None)],
    )


def test_conversion_exchanges_with_clearing():
    conversion = {"type": "conversion", "ts": 1, "conversion_id": "1", "account": "a"}
    conversion |= {"from_asset": "BTC", "from_amount": "0.5", "to_asset": "USD", "to_amount": "20000"}
    ledger = after(transfer(1, "2", asset="BTC"), conversion)
    assert record_of(ledger)[0] == {"BTC": "1.5", "USD": "20000"}
    assert record_of(ledger, "$clearing")[0] == {"BTC": "0.5", "USD": "-20000"}
    assert ledger.totals() == {
        "BTC": {"wallets": "2", "transfers": "2"},
        "USD": {"wallets": "0", "transfers": "0"},
    }


def test_repeated_ids_and_older_marks_are_ignored():
    ledger = after(transfer(1, "5"), {"type": "mark", "ts": 5, "symbol": "BTC", "price": "10"})
    written = ledger.to_book()
    assert not ledger.apply(transfer(1, "9"))
    assert not ledger.apply({"type": "mark", "ts": 4, "symbol": "BTC", "price": "11"})
    assert not ledger.apply({"type": "order_done", "ts": 9, "order_id": "x", "account": "a", "status": "filled"})
    assert not ledger.apply({"type": "funding", "ts": 9, "symbol": "XBT", "rate": "1"})
    assert ledger.to_book() == written
    # An id is the account's own, and of one kind of event; a mark of the same time is a newer one.
    assert ledger.apply(transfer(1, "9", account="b"))
    assert ledger.apply(fill(1, "buy", "1", "10"))
    assert ledger.apply({"type": "mark", "ts": 5, "symbol": "BTC", "price": "12"})


def test_parameters_are_in_force_from_their_message_on():
    book = book_of({"USD": "10"}, [long_of("1", "100")], {"BTC": "100"})
    settings = [
        {"type": "set_instrument", "ts": 1, "symbol": "BTC", "tiers": [["0", "0.1", "5"]]},
        {"type": "set_policy", "ts": 1, "trigger": "below"},
        {"type": "set_asset", "ts": 1, "asset": "EUR", "price": "1.1"},
    ]
    ledger = after(*settings, book=book)
    (row,) = margin_rows(ledger.to_book(), ledger.risk)
    assert (row["maintenance_margin"], row["equity"], row["liquidatable"]) == ("10", "10", False)
    assert ledger.risk["assets"]["EUR"] == {"price": "1.1"}
    assert RISK["instruments"]["BTC"]["tiers"] == [["0", "0.01", "20"]]


def test_loaded_book_counts_as_transferred_and_names_legs_by_their_signs():
    book = book_of({"USD": "10"}, [long_of("1", "100"), long_of("-3", "90")], {}, insurance={"USD": "4"})
    ledger = after(book=book)
    assert [position[:3] for position in record_of(ledger)[1]] == [("BTC", "long", "1"), ("BTC", "short", "-3")]
    # The other side: 2 long that cost 270 - 100
    assert record_of(ledger, "$clearing") == ({}, [("BTC", "net", "2", "-170", None)])
    assert record_of(ledger, "$insurance") == ({"USD": "4"}, [])
    assert ledger.totals() == {"USD": {"wallets": "14", "transfers": "14"}}
