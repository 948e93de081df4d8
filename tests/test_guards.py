"""When the engine keeps its hands off an account in trouble, and says so: warm-up and pause (CONTRACT 5.10)."""

from __future__ import annotations

import pytest

from tests.scenarios import (
    START_NS,
    Desk,
    answer,
    asset_price,
    buy,
    control,
    deposit,
    done,
    kinds,
    mark,
    of,
    one,
    pick,
    sell,
    withdraw,
)


def long_of(qty, symbol="BTCUSDT", entry="100", **fields):
    return {"symbol": symbol, "qty": qty, "entry_price": entry, **fields}


def book_of(*positions, balance="5", marks, **fields):
    """A book of Alice alone; with 5 against ten BTC at 100 she is under water the moment anyone looks."""
    account = {"account": "alice", "balances": {"USDT": balance}, "positions": list(positions)}
    return {"accounts": [account], "marks": marks, "ts": START_NS, **fields}


def alice_long(**options):
    desk = Desk(**options)
    desk.tell(mark("100"), deposit("alice", "20"), buy("alice", "10", "100"))
    return desk


def pause(scope="all", **fields):
    return control("pause", scope=scope, reason="venue down", **fields)


def resume(scope="all"):
    return control("resume", scope=scope, reason="venue up")


# ------------------------------------------------------------------------------------------------------------ warm-up


def test_marks_of_a_book_value_but_do_not_liquidate_until_the_log_has_shown_one():
    desk = Desk(book_of(long_of("10"), marks={"BTCUSDT": "100"}))
    assert desk.equity("alice") == "5"
    # A message that has nothing to do with her.
    assert desk.tell(deposit("bob", "1")) == []
    started = one(desk.tell(mark("100")), "liquidation_started")
    assert pick(started, "account equity cause") == ("alice", "5", "mark")


def test_account_touched_before_its_mark_is_held_and_released_by_it():
    desk = Desk(book_of(long_of("10"), marks={"BTCUSDT": "100"}))
    (held,) = desk.tell(withdraw("alice", "1"))
    assert pick(held, "type account reason") == ("liquidation_held", "alice", "warming_up")
    # Said once.
    assert desk.tell(withdraw("alice", "1")) == []
    outputs = desk.tell(mark("100"))
    assert kinds(outputs) == [
        "margin_call", "liquidation_released", "liquidation_started", "cancel_orders", "liquidation_order",
    ]  # fmt: skip
    assert pick(outputs[1], "account reason") == ("alice", "warming_up")


def test_every_symbol_of_the_account_must_have_had_a_mark():
    marks = {"BTCUSDT": "100", "ETHUSDT": "50"}
    desk = Desk(book_of(long_of("10"), long_of("1", "ETHUSDT", "50"), marks=marks))
    (held,) = desk.tell(mark("100"))
    assert pick(held, "type reason") == ("liquidation_held", "warming_up")
    assert kinds(desk.tell(mark("50", "ETHUSDT")))[1:3] == ["liquidation_released", "liquidation_started"]


def test_every_asset_without_a_fixed_price_must_have_had_one():
    book = book_of(long_of("10"), marks={"BTCUSDT": "100"}, asset_prices={"COIN": "1"})
    book["accounts"][0]["balances"]["COIN"] = "1"
    desk = Desk(book, assets={"COIN": {}})
    assert kinds(desk.tell(mark("100"))) == ["liquidation_held"]
    assert kinds(desk.tell(asset_price("COIN", "1")))[1:3] == ["liquidation_released", "liquidation_started"]


def test_settlement_asset_without_a_balance_must_have_had_a_price_as_well():
    book = book_of(long_of("10", "COINUSD"), balance="0.1", marks={"COINUSD": "100"}, asset_prices={"COIN": "100"})
    inverse = {"kind": "inverse", "settle": "COIN", "multiplier": "1", "price_tick": "0.5", "lot": "1"}
    tiers = [["0", "0.5", "2"]]
    desk = Desk(book, assets={"COIN": {}}, instruments={"COINUSD": {**inverse, "tiers": tiers}})
    desk.tell(withdraw("alice", "0.1"))
    # 10 / 100 is 0.1 coin, worth 10, so 5 are needed and nothing is there.
    assert of(desk.tell(mark("100", "COINUSD")), "liquidation_started") == []
    assert "liquidation_started" in kinds(desk.tell(asset_price("COIN", "100")))


def test_no_margin_call_before_the_account_is_warm():
    desk = Desk(book_of(long_of("10"), balance="11", marks={"BTCUSDT": "100"}))
    assert desk.tell(withdraw("alice", "0.1")) == []
    assert kinds(desk.tell(mark("100"))) == ["margin_call"]


def test_account_that_recovers_before_it_is_warm_is_released_and_left_alone():
    desk = Desk(book_of(long_of("10"), marks={"BTCUSDT": "100"}))
    desk.tell(withdraw("alice", "1"))
    (released,) = desk.tell(deposit("alice", "100"))
    assert pick(released, "type reason") == ("liquidation_released", "warming_up")
    assert desk.tell(mark("100")) == []


def test_warming_up_starts_with_an_account_that_opens_a_position_in_a_symbol_known_from_the_book():
    desk = Desk(book_of(marks={"BTCUSDT": "100"}, balance="5"))
    (held,) = desk.tell(buy("alice", "10", "100"))
    assert pick(held, "type reason") == ("liquidation_held", "warming_up")
    assert "liquidation_started" in kinds(desk.tell(mark("100")))


# -------------------------------------------------------------------------------------------------------------- pause


def test_pause_holds_whoever_gets_into_trouble_and_resume_starts_them_worst_first():
    desk = alice_long()
    desk.tell(deposit("bob", "19.5"), buy("bob", "10", "100"))
    assert desk.tell(pause()) == []
    outputs = desk.tell(mark("98.9"))
    # A margin call is no liquidation.
    assert [pick(body, "type account reason") for body in outputs] == [
        ("margin_call", "bob", None),
        ("liquidation_held", "bob", "paused"),
        ("margin_call", "alice", None),
        ("liquidation_held", "alice", "paused"),
    ]
    assert desk.tell(mark("98.8")) == []
    outputs = desk.tell(resume())
    assert [pick(body, "type account") for body in outputs] == [
        (kind, account)
        for account in ("bob", "alice")
        for kind in ("liquidation_released", "liquidation_started", "cancel_orders", "liquidation_order")
    ]


def test_pause_of_a_symbol_holds_those_who_have_it_and_names_it():
    desk = alice_long()
    desk.tell(mark("50", "ETHUSDT"), deposit("bob", "20.2"), buy("bob", "20", "50", "ETHUSDT"))
    desk.tell(pause("BTCUSDT"))
    (_, held) = desk.tell(mark("98.9"))
    assert pick(held, "type account reason symbol") == ("liquidation_held", "alice", "paused", "BTCUSDT")
    # Bob has no BTC.
    assert one(desk.tell(mark("49.9", "ETHUSDT")), "liquidation_order")["account"] == "bob"
    released = desk.tell(resume("BTCUSDT"))[0]
    assert pick(released, "type account reason symbol") == ("liquidation_released", "alice", "paused", "BTCUSDT")


def test_held_account_that_recovers_is_released_without_a_liquidation():
    desk = alice_long()
    desk.tell(pause(), mark("98.9"))
    assert kinds(desk.tell(mark("100"))) == ["liquidation_released"]
    assert desk.tell(resume()) == []


def test_held_account_that_falls_through_zero_waits_as_well():
    desk = alice_long()
    desk.tell(pause(), mark("98.9"))
    assert desk.tell(mark("90")) == []
    outputs = desk.tell(resume())
    assert kinds(outputs) == ["liquidation_released", "liquidation_started", "cancel_orders", "adl_remaining"]


def test_order_in_flight_stays_in_flight_and_its_fills_are_booked_during_a_pause():
    desk = alice_long()
    order = one(desk.tell(mark("98.9")), "liquidation_order")
    assert kinds(desk.tell(pause())) == ["liquidation_held"]
    desk.tell(answer(order, "4", "98.9"))
    assert desk.qty("alice") == "6"
    desk.tell(mark("98.2"), done(order))
    # 9 - 6 x 0.7 = 4.8 against 5.892, and nothing is sent while it lasts.
    assert of(desk.outputs, "liquidation_order") == [order]
    outputs = desk.tell(resume())
    assert kinds(outputs) == ["liquidation_released", "liquidation_order"]
    assert pick(outputs[1], "order_id qty") == ("alice/1/2", "6")


def test_account_that_cannot_be_saved_is_not_taken_over_during_a_pause():
    desk = alice_long(max_attempts=1)
    desk.tell(deposit("$insurance", "100", ts=START_NS))
    order = one(desk.tell(mark("98.9")), "liquidation_order")
    desk.tell(pause())
    assert of(desk.tell(done(order), mark("90")), "takeover") == []
    assert "takeover" in kinds(desk.tell(resume()))


@pytest.mark.parametrize("scopes", [("all", "BTCUSDT"), ("BTCUSDT", "all")])
def test_two_pauses_need_two_resumes(scopes):
    desk = alice_long()
    desk.tell(pause(scopes[0]), pause(scopes[1]), mark("98.9"))
    assert of(desk.tell(resume(scopes[0])), "liquidation_started") == []
    assert one(desk.tell(resume(scopes[1])), "liquidation_started")["account"] == "alice"


def test_change_of_the_reason_is_told_as_release_and_hold():
    desk = alice_long()
    desk.tell(pause("BTCUSDT"), mark("98.9"))
    assert [pick(body, "type reason symbol") for body in desk.tell(pause())] == [
        ("liquidation_released", "paused", "BTCUSDT"),
        ("liquidation_held", "paused", None),
    ]


def test_pause_of_an_unknown_symbol_is_refused_and_resume_of_what_runs_is_nothing():
    desk = alice_long()
    (reject,) = desk.tell(pause("NOPE"))
    assert reject["reason"] == "unknown_symbol"
    assert desk.tell(resume(), resume("BTCUSDT")) == []
    assert "liquidation_order" in kinds(desk.tell(mark("98.9")))


def test_bucket_is_held_and_released_under_its_name():
    desk = Desk()
    desk.tell(mark("100"), deposit("alice", "100"), buy("alice", "10", "100", isolated=True, fee="-20"))
    desk.tell(pause("BTCUSDT"))
    outputs = desk.tell(mark("98.9"))
    assert pick(outputs[-1], "type account bucket reason symbol") == (
        "liquidation_held", "alice", "BTCUSDT", "paused", "BTCUSDT",
    )  # fmt: skip
    assert pick(desk.tell(resume("BTCUSDT"))[0], "type bucket") == ("liquidation_released", "BTCUSDT")


def test_debt_of_an_account_without_positions_is_held_by_a_pause_of_all_only():
    desk = Desk()
    desk.tell(deposit("alice", "1"), deposit("bob", "1"), pause("BTCUSDT"))
    assert "bad_debt" in kinds(desk.tell(withdraw("alice", "2")))
    desk.tell(pause())
    assert kinds(desk.tell(withdraw("bob", "2"))) == ["liquidation_held"]
    assert "bad_debt" in kinds(desk.tell(resume("BTCUSDT"), resume()))


def test_deleveraging_waits_for_the_end_of_a_pause():
    desk = alice_long()
    desk.tell(pause(), mark("97"), deposit("bob", "100"))
    assert desk.tell(sell("bob", "10", "97")) == []
    assert one(desk.tell(resume()), "adl")["counterparty"] == "bob"
