"""A book file is loaded exactly or refused with file, place, value and rule; a book the engine wrote loads again."""

from __future__ import annotations

import json
import re

import pytest

from engine.core import ledger
from engine.core.shard import Shard
from engine.edges.book_dump import dump_book
from engine.edges.bookfile import load_book, load_document
from engine.edges.digest import state_document
from engine.errors import InputError
from tests.scenarios import (
    COIN,
    START_NS,
    Desk,
    answer,
    asset_price,
    buy,
    deposit,
    funding,
    mark,
    one,
    sell,
    tiny_risk,
    withdraw,
)

INVERSE = {
    "kind": "inverse", "settle": "COIN", "multiplier": "100", "price_tick": "0.5", "lot": "1",
    "tiers": [["0", "0.01", "50"]],
}  # fmt: skip
RISK = tiny_risk(assets={"COIN": COIN}, instruments={"COINUSD": INVERSE})


def loaded(document, risk=RISK):
    shard = Shard(risk)
    load_document(shard, document, "book.json")
    ledger.check_conservation(shard.book)
    return shard


def account_with(*positions, **fields):
    return {"accounts": [{"account": "alice", "positions": list(positions), **fields}]}


def position(qty="1", symbol="BTCUSDT", entry_price="100", **fields):
    return {"symbol": symbol, "qty": qty, "entry_price": entry_price, **fields}


def rows_of(shard, name="alice"):
    return next(entry for entry in dump_book(shard)["accounts"] if entry["account"] == name)


# ----------------------------------------------------------------------------------------------------------- accepted


def test_book_of_the_contract_loads():
    shard = loaded(
        {
            "accounts": [
                {
                    "account": "a",
                    "balances": {"USDT": "1000"},
                    "positions": [
                        {"symbol": "BTCUSDT", "qty": "-0.5", "entry_price": "60000", "leg": "net", "isolated": False,
                         "margin": "0"},
                    ],
                }
            ],
            "marks": {"BTCUSDT": "60000"}, "asset_prices": {"USDT": "1"}, "insurance": {"USDT": "7"}, "ts": 5,
        }
    )  # fmt: skip
    assert rows_of(shard, "a") == {
        "account": "a",
        "balances": {"USDT": "1000"},
        "positions": [{"symbol": "BTCUSDT", "qty": "-0.5", "entry_price": "60000", "cost": "30000", "leg": "net"}],
    }
    assert rows_of(shard, "$insurance")["balances"] == {"USDT": "7"}
    # What was loaded counts as transferred, and the other side of the position stands in the clearing account.
    assert dump_book(shard)["transfers"] == {"USDT": "1007"}
    assert rows_of(shard, "$clearing")["positions"] == [{"symbol": "BTCUSDT", "qty": "0.5", "cost": "-30000"}]
    assert shard.clock == 5


def test_book_without_anything_loads_and_leaves_the_clock_unset():
    shard = loaded({})
    assert shard.book.clock is None
    assert dump_book(shard)["ts"] == 0


def test_json_integers_are_numbers_and_trailing_zeros_do_not_count():
    fields = {"balances": {"USDT": 1000, "COIN": "0.1000000000"}}
    assert rows_of(loaded(account_with(position(2, entry_price=100), **fields))) == {
        "account": "alice",
        "balances": {"COIN": "0.1", "USDT": "1000"},
        "positions": [{"symbol": "BTCUSDT", "qty": "2", "entry_price": "100", "cost": "-200", "leg": "net"}],
    }


@pytest.mark.parametrize(
    ("entry", "cost"),
    [
        # A lot of 0.001: half a unit goes to the even neighbour.
        ("0.000015", "-0.00000002"),
        ("0.000025", "-0.00000002"),
        ("0.000025000000000001", "-0.00000003"),
        ("0.000035", "-0.00000004"),
    ],
)
def test_entry_price_of_many_digits_is_rounded_half_even_once(entry, cost):
    assert rows_of(loaded(account_with(position("0.001", entry_price=entry))))["positions"][0]["cost"] == cost


def test_exact_cost_wins_over_the_entry_price():
    entry = position("0.003", entry_price="33.33", cost="-0.10000001")
    (row,) = rows_of(loaded(account_with(entry)))["positions"]
    # 0.10000001 / 0.003
    assert (row["cost"], row["entry_price"]) == ("-0.10000001", "33.333336666666666667")


def test_inverse_position_is_worth_coins():
    # 10 x 100 / 40,000, owed to the long.
    shard = loaded(account_with(position("10", "COINUSD", "40000")))
    assert rows_of(shard)["positions"][0]["cost"] == "0.025"


def test_two_entries_of_opposite_signs_are_the_legs_even_if_they_do_not_say():
    rows = rows_of(loaded(account_with(position("-1"), position("2"))))["positions"]
    assert [(row["leg"], row["qty"]) for row in rows] == [("long", "2"), ("short", "-1")]


def test_entry_of_nothing_beside_a_short_makes_no_hedge():
    rows = rows_of(loaded(account_with(position("-1"), position("0"))))["positions"]
    assert [(row["leg"], row["qty"]) for row in rows] == [("net", "-1")]


def test_margin_of_an_isolated_position_is_additional_to_the_balances():
    book = account_with(position(isolated=True, margin="30"), balances={"USDT": "100"})
    row = rows_of(loaded(book))
    assert row["balances"] == {"USDT": "100"}
    assert (row["positions"][0]["isolated"], row["positions"][0]["margin"]) == (True, "30")


def test_cross_and_isolated_positions_of_one_symbol_stand_side_by_side():
    rows = rows_of(loaded(account_with(position("1"), position("-2", isolated=True, margin="50"))))["positions"]
    assert [(row["qty"], row["leg"], row.get("isolated", False)) for row in rows] == [
        ("1", "net", False), ("-2", "net", True),
    ]  # fmt: skip


def test_mark_of_a_book_is_rounded_half_even_like_any_mark():
    risk = tiny_risk(instruments={"BTCUSDT": {"mark_decimals": 1}})
    assert dump_book(loaded({"marks": {"BTCUSDT": "99.25"}}, risk))["marks"] == {"BTCUSDT": "99.2"}


def test_fixed_price_of_the_risk_file_wins_over_the_price_of_a_book():
    assert dump_book(loaded({"asset_prices": {"USDT": "0.99", "COIN": "3"}}))["asset_prices"] == {
        "COIN": "3", "USDT": "1",
    }  # fmt: skip


def test_largest_position_and_balance_fit():
    book = account_with(position("400000000"), balances={"USDT": "40000000000"})
    assert rows_of(loaded({**book, "marks": {"BTCUSDT": "100"}}))["positions"][0]["cost"] == "-40000000000"


# ------------------------------------------------------------------------------------------------------------ refused

# (what, the document, where, the value as it is shown, a part of the rule)
REFUSED = [
    ("a list for a book", [], "", "[]", "must be an object"),
    ("an unknown key", {"account": []}, "account", "[]", "unknown key"),
    ("accounts by name", {"accounts": {}}, "accounts", "{}", "must be a list"),
    ("an account that is a name", {"accounts": ["a"]}, "accounts[0]", "'a'", "must be an object"),
    ("an account without a name", {"accounts": [{}]}, "accounts[0].account", "None", "must be a string"),
    ("an empty name", {"accounts": [{"account": ""}]}, "accounts[0].account", "''", "1 to 64 bytes"),
    ("a name of 65 bytes", {"accounts": [{"account": "a" * 65}]}, "accounts[0].account", None, "1 to 64 bytes"),
    ("half a surrogate pair", {"accounts": [{"account": "a\ud800"}]}, "accounts[0].account", None, "surrogate"),
    ("an account twice", {"accounts": [{"account": "a"}] * 2}, "accounts[1].account", "'a'", "twice"),
    ("the fund twice", {"accounts": [{"account": "$insurance"}] * 2}, "accounts[1].account", "'$insurance'", "twice"),
    ("a name of ours", {"accounts": [{"account": "$x"}]}, "accounts[0].account", "'$x'", "the engine's own"),
    ("a misspelt account key", account_with(balance={}), "accounts[0].balance", "{}", "unknown key"),
    ("an unknown asset", account_with(balances={"X": "1"}), "accounts[0].balances.X", "'X'", "no such asset"),
    ("a text for an amount", account_with(balances={"USDT": "1e3"}), "accounts[0].balances.USDT", "'1e3'", "decimal"),
    ("a ninth decimal", account_with(balances={"USDT": "0.000000001"}), "accounts[0].balances.USDT",
     "'0.000000001'", "at most 8 decimals"),
    ("a balance beyond the bound", account_with(balances={"USDT": "40000000000.00000001"}),
     "accounts[0].balances.USDT", "'40000000000.00000001'", "bound"),
    ("a balance that is null", account_with(balances={"USDT": None}), "accounts[0].balances.USDT", "None", "decimal"),
    ("a balance that is true", account_with(balances={"USDT": True}), "accounts[0].balances.USDT", "True", "decimal"),
    ("positions by symbol", account_with(positions={}), "accounts[0].positions", "{}", "must be a list"),
    ("a misspelt position key", account_with(position(size="1")), "accounts[0].positions[0].size", "'1'",
     "unknown key"),
    ("an unknown symbol", account_with(position(symbol="X")), "accounts[0].positions[0].symbol", "'X'",
     "no such instrument"),
    ("no qty", account_with({"symbol": "BTCUSDT"}), "accounts[0].positions[0].qty", "None", "decimal"),
    ("half a lot", account_with(position("0.0005")), "accounts[0].positions[0].qty", "'0.0005'", "multiple of the lot"),
    ("no entry price", account_with({"symbol": "BTCUSDT", "qty": "1"}), "accounts[0].positions[0].entry_price",
     "None", "decimal"),
    ("an entry price of nothing", account_with(position(entry_price="0")), "accounts[0].positions[0].entry_price",
     "'0'", "above 0"),
    ("a nineteenth decimal", account_with(position(entry_price="0.0000000000000000001")),
     "accounts[0].positions[0].entry_price", "'0.0000000000000000001'", "at most 18 decimals"),
    ("a ninth decimal of a cost", account_with(position(cost="0.000000001")), "accounts[0].positions[0].cost",
     "'0.000000001'", "at most 8 decimals"),
    ("a leg nobody knows", account_with(position(leg="both")), "accounts[0].positions[0].leg", "'both'", "one of"),
    ("a leg of the other side", account_with(position("-1", leg="long")), "accounts[0].positions[0].leg", "'long'",
     "other side"),
    ("a leg beside a net position", account_with(position(leg="long"), position("2")),
     "accounts[0].positions[1].leg", "'net'", "may not mix"),
    ("an isolated leg beside a net position", account_with(position(), position("1", leg="long", isolated=True)),
     "accounts[0].positions[1].leg", "'long'", "may not mix"),
    ("a position twice", account_with(position(), position("2")), "accounts[0].positions[1].symbol", "'BTCUSDT'",
     "twice"),
    ("isolated in a string", account_with(position(isolated="true")), "accounts[0].positions[0].isolated",
     "'true'", "true or false"),
    ("a margin that is not isolated", account_with(position(margin="1")), "accounts[0].positions[0].margin", "'1'",
     "only an isolated position"),
    ("an isolated position of the fund",
     {"accounts": [{"account": "$insurance", "positions": [position(isolated=True)]}]},
     "accounts[0].positions[0].isolated", "True", "cross positions only"),
    ("a position beyond the bound", {**account_with(position("400000000.001")), "marks": {"BTCUSDT": "100"}},
     "accounts[0].positions[0].qty", "'400000000.001'", "bound"),
    ("a position beyond the bound at its mark",
     {**account_with(position("400000000", entry_price="1")), "marks": {"BTCUSDT": "100.00001"}},
     "accounts[0].positions[0].qty", "'400000000'", "bound"),
    ("a mark of an unknown symbol", {"marks": {"X": "1"}}, "marks.X", "'X'", "no such instrument"),
    ("a mark of nothing", {"marks": {"BTCUSDT": "0"}}, "marks.BTCUSDT", "'0'", "above 0"),
    ("a mark below nothing", {"marks": {"BTCUSDT": "-1"}}, "marks.BTCUSDT", "'-1'", "above 0"),
    ("a mark that rounds to nothing", {"marks": {"BTCUSDT": "0.000005"}}, "marks.BTCUSDT", "'0.000005'", "above 0"),
    ("marks in a list", {"marks": []}, "marks", "[]", "must be an object"),
    ("a price of an unknown asset", {"asset_prices": {"X": "1"}}, "asset_prices.X", "'X'", "no such asset"),
    ("a price of nothing", {"asset_prices": {"COIN": "0"}}, "asset_prices.COIN", "'0'", "above 0"),
    ("an unknown asset of the fund", {"insurance": {"X": "1"}}, "insurance.X", "'X'", "no such asset"),
    ("a time in a string", {"ts": "1"}, "ts", "'1'", "integer"),
    ("a time that is true", {"ts": True}, "ts", "True", "integer"),
    ("a time before 1970", {"ts": -1}, "ts", "-1", "integer"),
    ("a time beyond 64 bits", {"ts": 2**63}, "ts", str(2**63), "integer"),
    ("clearing that is not the other side",
     {"accounts": [{"account": "$clearing", "positions": [{"symbol": "BTCUSDT", "qty": "1", "cost": "0"}]}]},
     "accounts[0].positions[0].qty", "'1'", "other side"),
    ("transfers that do not add up", {**account_with(balances={"USDT": "5"}), "transfers": {"USDT": "6"}},
     "transfers.USDT", "'6'", "add up to 5"),
    ("episodes of a stranger", {"episodes": {"x": {"": 1}}}, "episodes.x.", "1", "account of the file"),
    ("no number of episodes", {**account_with(), "episodes": {"alice": {"": 0}}}, "episodes.alice.", "0",
     "number of episodes"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("document", "place", "value", "rule"), [entry[1:] for entry in REFUSED], ids=[entry[0] for entry in REFUSED]
)
def test_book_is_refused_with_its_place_its_value_and_the_rule(document, place, value, rule):
    with pytest.raises(InputError) as caught:
        loaded(document)
    message = str(caught.value)
    assert message.startswith(f"book.json: {place}: " + ("" if value is None else f"{value}: "))
    assert rule in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "not a book"),
        (b"{", "not a book"),
        (b'{"ts": 1.0}', "JSON float"),
        (b'{"marks": {"BTCUSDT": 6e4}}', "JSON float"),
        (b'{"marks": {"BTCUSDT": "1", "BTCUSDT": "1"}}', "duplicate key BTCUSDT"),
        (b'{"accounts": "\xff"}', "cannot be read"),
        (b"[" * 100_000, "not a book"),
    ],
)
def test_file_that_is_no_book_is_refused_by_name(tmp_path, content, rule):
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"mine.json: .*{re.escape(rule)}"):
        load_book(Shard(RISK), path)


def test_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json: cannot be read"):
        load_book(Shard(RISK), tmp_path / "nowhere.json")


def test_margins_that_add_up_beyond_the_bound_are_refused():
    legs = [position(isolated=True, margin="40000000000"), position("-1", isolated=True, margin="40000000000")]
    book = account_with(*legs, buckets={"BTCUSDT": "40000000000"})
    with pytest.raises(InputError, match="bound"):
        loaded(book)


# --------------------------------------------------------------------------------------------------------- round trip


def busy_desk():
    """A desk that has seen it all: legs, a bucket, coins, fees, funding, a takeover, a loss, an order in flight."""
    desk = Desk(risk=RISK)
    desk.tell(mark("100"), mark("50", "ETHUSDT"), asset_price("COIN", "10"), mark("40000", "COINUSD"))
    desk.tell(deposit("$insurance", "5", ts=START_NS), deposit("alice", "20"), buy("alice", "10", "100", fee="0.1"))
    desk.tell(deposit("bob", "500"), buy("bob", "1", "99.97", leg="long"), sell("bob", "3", "100.03", leg="short"))
    desk.tell(deposit("carol", "9", "COIN"), buy("carol", "7", "39999.5", "COINUSD"))
    desk.tell(buy("dave", "2", "100", isolated=True, fee="-30"), deposit("dave", "3"), buy("erin", "1", "100"))
    desk.tell(deposit("erin", "4"), sell("erin", "0.333", "100.7"), funding("0.000123"), withdraw("frank", "3"))
    desk.tell(buy("gina", "1", "50", "ETHUSDT", fee="-20"), mark("96.5"), mark("97"), deposit("bob", "0.00000001"))
    one(desk.outputs, "takeover")
    one(desk.tell(mark("30.5", "ETHUSDT")), "liquidation_order")
    return desk


def test_book_the_engine_wrote_loads_again_to_the_last_unit(tmp_path):
    desk = busy_desk()
    written = dump_book(desk.shard)
    path = tmp_path / "final-book.json"
    path.write_text(json.dumps(written))
    shard = Shard(RISK)
    load_book(shard, path)
    ledger.check_conservation(shard.book)
    assert dump_book(shard) == written
    # Valued alike, row by row.
    rows = {(row[0], row[1]): row[2:4] for row in state_document(desk.shard)["rows"]}
    assert {(row[0], row[1]): row[2:4] for row in state_document(shard)["rows"]} == rows


def test_written_book_is_sorted_and_has_every_account_once():
    written = dump_book(busy_desk().shard)
    names = [entry["account"] for entry in written["accounts"]]
    assert names == sorted(set(names))
    assert {"$bad_debt", "$clearing", "$fees", "$insurance"} <= set(names)
    for entry in written["accounts"]:
        keys = [(row.get("isolated", False), row["symbol"], row.get("leg", "net")) for row in entry["positions"]]
        assert keys == sorted(keys)
        assert list(entry["balances"]) == sorted(entry["balances"])


def test_liquidation_ids_go_on_where_the_book_stopped():
    desk = Desk()
    desk.tell(mark("100"), deposit("alice", "20"), buy("alice", "10", "100"))
    desk.tell(answer(one(desk.tell(mark("98.9")), "liquidation_order"), "10", "98.9"))
    shard = loaded(dump_book(desk.shard))
    assert shard.episode_counts[shard.book.row_index["alice", ""]] == 1


def test_run_goes_on_from_a_written_book_as_if_it_had_never_stopped():
    desk = busy_desk()
    again = Desk(dump_book(desk.shard), risk=RISK)
    again.now = desk.now
    for name in ("alice", "bob", "carol", "dave", "erin"):
        message = deposit(name, "1.23456789", transfer_id="after")
        desk.tell(message)
        again.tell(message)
    assert dump_book(again.shard) == dump_book(desk.shard)
