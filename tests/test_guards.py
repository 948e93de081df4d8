"""When the engine keeps its hands off an account in trouble, and says so (CONTRACT 5.10): warm-up, pause, stale marks.

``test_band.py`` has the unconfirmed prices, ``test_redemption_floor.py`` the stablecoins, ``test_pacing.py`` budgets.
"""

from __future__ import annotations

import pytest

from tests.scenarios import (
    COIN,
    MS,
    SECOND,
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


def alice_both(deposited="42", **options):
    """Alice is 10 BTC long from 100 and 20 ether from 50: with 42 she needs 10 + 20, and has 29 at 98.7."""
    desk = Desk(**options)
    desk.tell(mark("100"), mark("50", "ETHUSDT"), deposit("alice", deposited))
    desk.tell(buy("alice", "10", "100"), buy("alice", "20", "50", "ETHUSDT"))
    return desk


def stale_ether(**options):
    """Ether has been silent for two seconds, one more than allowed, when bitcoin takes Alice below her margin."""
    desk = alice_both(**{"mark_stale_ms": 1000, "max_hold_ms": 3000, **options})
    desk.wait(2000)
    return desk


def to_the_due_ts_of(desk, held, ms):
    """Move the desk's time so that the next message is the one that meets a wait of ``ms`` since ``held``."""
    desk.now = held["ts"] + ms * MS - MS


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


def test_pause_never_runs_out():
    desk = alice_long(max_hold_ms=1000)
    desk.tell(pause(), mark("98.9"))
    for _ in range(3):
        desk.wait(86_400_000)
        assert desk.tell(mark("98.9")) == []


def test_warm_up_never_runs_out():
    desk = Desk(book_of(long_of("10"), marks={"BTCUSDT": "100"}), max_hold_ms=1000)
    desk.tell(withdraw("alice", "1"))
    desk.wait(86_400_000)
    assert desk.tell(withdraw("alice", "1"), deposit("bob", "1")) == []


def test_pauses_of_all_and_of_both_symbols_end_one_by_one():
    desk = alice_both()
    desk.tell(pause("ETHUSDT"), pause(), pause("BTCUSDT"))
    assert pick(one(desk.tell(mark("98.7")), "liquidation_held"), "reason symbol") == ("paused", None)
    told = [desk.tell(resume(scope)) for scope in ("all", "BTCUSDT", "ETHUSDT")]
    assert [pick(body, "type reason symbol") for body in told[0] + told[1]] == [
        ("liquidation_released", "paused", None),
        ("liquidation_held", "paused", "BTCUSDT"),
        ("liquidation_released", "paused", "BTCUSDT"),
        ("liquidation_held", "paused", "ETHUSDT"),
    ]
    assert kinds(told[2])[:2] == ["liquidation_released", "liquidation_started"]


def test_pause_of_the_symbol_that_an_account_has_closed_does_not_concern_it():
    desk = alice_both()
    desk.tell(sell("alice", "20", "50", "ETHUSDT"), pause("ETHUSDT"))
    # 42 - 33 = 9 against 9.67.
    assert one(desk.tell(mark("96.7")), "liquidation_order")["symbol"] == "BTCUSDT"


def test_pause_takes_the_place_of_a_stale_mark_and_gives_it_back():
    desk = stale_ether()
    desk.tell(mark("98.7"))
    assert [pick(body, "type reason symbol") for body in desk.tell(pause())] == [
        ("liquidation_released", "stale_mark", "ETHUSDT"), ("liquidation_held", "paused", None),
    ]  # fmt: skip
    # The wait for ether would be over, the pause is not.
    desk.wait(3000)
    assert desk.tell(mark("98.7")) == []
    assert [pick(body, "type reason symbol") for body in desk.tell(resume())] == [
        ("liquidation_released", "paused", None), ("liquidation_held", "stale_mark", "ETHUSDT"),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------- stale prices


@pytest.mark.parametrize(("age_ns", "kind"), [(1000 * MS, "liquidation_started"), (1000 * MS + 1, "liquidation_held")])
def test_mark_as_old_as_allowed_is_good_and_one_nanosecond_older_is_stale(age_ns, kind):
    desk = alice_long(mark_stale_ms=1000)
    marked = desk.shard.book.marks[0].ts
    # 9 left against 10 needed.
    outputs = desk.tell(withdraw("alice", "11", ts=marked + age_ns))
    assert pick(one(outputs, kind), "account") == ("alice",)
    assert len({"liquidation_started", "liquidation_held"} & set(kinds(outputs))) == 1


def test_stale_symbol_of_two_holds_the_account_and_its_next_mark_releases_it():
    desk = stale_ether()
    outputs = desk.tell(mark("98.7"))
    # A margin call is no liquidation.
    assert kinds(outputs) == ["margin_call", "liquidation_held"]
    assert pick(outputs[1], "account reason symbol") == ("alice", "stale_mark", "ETHUSDT")
    # Said once.
    assert desk.tell(mark("98.7")) == []
    outputs = desk.tell(mark("50", "ETHUSDT"))
    assert kinds(outputs) == [
        "liquidation_released", "liquidation_started", "cancel_orders", "liquidation_order", "liquidation_order",
    ]  # fmt: skip
    assert pick(outputs[0], "account reason symbol") == ("alice", "stale_mark", "ETHUSDT")


def test_all_symbols_stale_are_named_one_after_the_other():
    desk = stale_ether()
    (held,) = of(desk.tell(withdraw("alice", "12.1")), "liquidation_held")
    assert held["symbol"] == "BTCUSDT"
    assert [pick(body, "type symbol") for body in desk.tell(mark("100"))] == [
        ("liquidation_released", "BTCUSDT"), ("liquidation_held", "ETHUSDT"),
    ]  # fmt: skip
    assert kinds(desk.tell(mark("50", "ETHUSDT")))[:2] == ["liquidation_released", "liquidation_started"]


def test_stale_symbol_that_the_account_does_not_have_does_not_matter():
    desk = alice_long(mark_stale_ms=1000)
    desk.tell(mark("50", "ETHUSDT"))
    desk.wait(2000)
    assert "liquidation_order" in kinds(desk.tell(mark("98.9")))


def test_mark_that_arrives_too_late_is_stale_on_arrival():
    desk = alice_long(mark_stale_ms=1000)
    late = desk.now + MS
    desk.wait(5000)
    desk.tell(deposit("bob", "1"))
    (held,) = of(desk.tell(mark("98.9", ts=late)), "liquidation_held")
    assert pick(held, "reason symbol") == ("stale_mark", "BTCUSDT")
    assert "liquidation_order" in kinds(desk.tell(mark("98.9")))


def test_stale_price_of_the_collateral_holds_the_account_under_the_name_of_the_asset():
    desk = Desk(assets={"COIN": {}}, mark_stale_ms=1000)
    desk.tell(mark("100"), asset_price("COIN", "10"), deposit("alice", "2", "COIN"), buy("alice", "10", "100"))
    desk.wait(2000)
    (held,) = of(desk.tell(mark("98.9")), "liquidation_held")
    assert pick(held, "account reason symbol") == ("alice", "stale_mark", "COIN")
    outputs = desk.tell(asset_price("COIN", "10"))
    assert kinds(outputs)[:2] == ["liquidation_released", "liquidation_started"]
    assert pick(outputs[0], "reason symbol") == ("stale_mark", "COIN")


@pytest.mark.parametrize(("age_ns", "kind"), [(1000 * MS, "liquidation_started"), (1000 * MS + 1, "liquidation_held")])
def test_asset_price_as_old_as_allowed_is_good_and_one_nanosecond_older_is_stale(age_ns, kind):
    desk = Desk(assets={"COIN": {}}, mark_stale_ms=1000)
    priced = desk.now + MS
    desk.tell(asset_price("COIN", "10"), mark("100"), deposit("alice", "2", "COIN"), buy("alice", "10", "100"))
    outputs = desk.tell(mark("98.9", ts=priced + age_ns))
    assert kind in kinds(outputs)
    assert len({"liquidation_started", "liquidation_held"} & set(kinds(outputs))) == 1


def test_stale_price_of_what_a_position_settles_in_holds_without_any_balance_in_it():
    desk = Desk(assets={"USDT": {"price": "none"}, "COIN": {"price": "1"}}, mark_stale_ms=1000)
    desk.tell(asset_price("USDT", "1"), mark("100"), deposit("alice", "20", "COIN"), buy("alice", "10", "100"))
    desk.wait(2000)
    (held,) = of(desk.tell(mark("98.9")), "liquidation_held")
    assert pick(held, "reason symbol") == ("stale_mark", "USDT")


def test_stale_price_of_an_asset_that_the_account_does_not_have_does_not_matter():
    desk = alice_long(assets={"COIN": {}}, mark_stale_ms=1000)
    desk.tell(asset_price("COIN", "10"), deposit("bob", "1", "COIN"))
    desk.wait(2000)
    assert "liquidation_order" in kinds(desk.tell(mark("98.9")))


def test_fixed_price_is_never_stale():
    desk = alice_long(mark_stale_ms=1000)
    desk.wait(86_400_000)
    assert "liquidation_order" in kinds(desk.tell(mark("98.9")))


def test_price_that_is_fixed_no_longer_is_as_old_as_it_is():
    desk = alice_long(mark_stale_ms=1000)
    desk.tell(control("set_asset", asset="USDT", price=None))
    (held,) = of(desk.tell(mark("98.9")), "liquidation_held")
    assert pick(held, "reason symbol") == ("stale_mark", "USDT")
    assert "liquidation_order" in kinds(desk.tell(asset_price("USDT", "1")))


def test_guard_of_zero_is_off():
    desk = alice_long(mark_stale_ms=0)
    desk.wait(86_400_000)
    assert "liquidation_order" in kinds(desk.tell(withdraw("alice", "11")))


def test_guard_switched_off_by_control_lets_the_held_go_and_switched_on_holds_the_next():
    desk = stale_ether()
    desk.tell(mark("98.7"))
    outputs = desk.tell(control("set_policy", mark_stale_ms=0))
    assert kinds(outputs)[:3] == ["policy_changed", "liquidation_released", "liquidation_started"]
    desk = alice_long()
    desk.wait(2000)
    desk.tell(control("set_policy", mark_stale_ms=1000))
    assert kinds(desk.tell(withdraw("alice", "11"))) == ["margin_call", "liquidation_held"]


def test_after_the_longest_wait_the_account_is_liquidated_with_the_fresh_symbol():
    desk = stale_ether()
    held = one(desk.tell(mark("98.7")), "liquidation_held")
    assert desk.tell(mark("98.7", ts=held["ts"] + 3000 * MS - 1)) == []
    outputs = desk.tell(mark("98.7", ts=held["ts"] + 3000 * MS))
    assert kinds(outputs) == ["liquidation_released", "liquidation_started", "cancel_orders", "liquidation_order"]
    order = outputs[3]
    assert pick(order, "symbol qty") == ("BTCUSDT", "10")
    outputs = desk.tell(answer(order, "10", "98.7", ts=held["ts"] + 3000 * MS))
    assert of(outputs, "liquidation_order") == []
    assert (desk.qty("alice"), desk.qty("alice", "ETHUSDT")) == ("0", "20")


def test_account_that_its_fresh_symbol_has_healed_is_in_liquidation_no_longer():
    desk = stale_ether()
    held = one(desk.tell(mark("98.7")), "liquidation_held")
    to_the_due_ts_of(desk, held, 3000)
    order = one(desk.tell(mark("98.7")), "liquidation_order")
    # 29 without bitcoin carry the 20 that ether needs: stop here, as with any mark that is stale in a healthy account.
    (ended,) = desk.tell(answer(order, "10", "98.7"))
    assert pick(ended, "type outcome equity") == ("liquidation_ended", "healthy", "29")


def test_longest_wait_ends_by_the_clock_whatever_moves_it():
    desk = stale_ether()
    held = one(desk.tell(mark("98.7")), "liquidation_held")
    # Bob's deposit: bitcoin's own mark is a second old by now and just fresh.
    desk.tell(mark("98.7", ts=held["ts"] + 2000 * MS))
    outputs = desk.tell(deposit("bob", "1", ts=held["ts"] + 3000 * MS))
    assert pick(one(outputs, "liquidation_order"), "account symbol") == ("alice", "BTCUSDT")


def test_what_is_still_stale_once_the_fresh_symbol_is_closed_is_held_and_reported_again():
    desk = stale_ether()
    held = one(desk.tell(mark("97.7")), "liquidation_held")
    to_the_due_ts_of(desk, held, 3000)
    order = one(desk.tell(mark("97.7")), "liquidation_order")
    # 42 - 23 = 19 against the 20 of ether.
    (again,) = desk.tell(answer(order, "10", "97.7"))
    assert pick(again, "type reason symbol") == ("liquidation_held", "stale_mark", "ETHUSDT")
    to_the_due_ts_of(desk, again, 3000)
    (once_more,) = desk.tell(deposit("bob", "1"))
    assert pick(once_more, "type account reason symbol") == ("liquidation_held", "alice", "stale_mark", "ETHUSDT")
    outputs = desk.tell(mark("50", "ETHUSDT"))
    assert kinds(outputs) == ["liquidation_released", "liquidation_order"]
    assert pick(outputs[1], "order_id symbol qty") == ("alice/1/2", "ETHUSDT", "20")


def test_wholly_stale_account_stays_held_and_is_reported_again_each_time_the_wait_is_over():
    desk = alice_long(mark_stale_ms=1000, max_hold_ms=3000)
    desk.wait(2000)
    held = one(desk.tell(withdraw("alice", "11")), "liquidation_held")
    for _ in range(3):
        assert desk.tell(deposit("bob", "1", ts=held["ts"] + 3000 * MS - 1)) == []
        (held,) = desk.tell(deposit("bob", "1", ts=held["ts"] + 3000 * MS))
        assert pick(held, "type account reason symbol") == ("liquidation_held", "alice", "stale_mark", "BTCUSDT")
    desk.now = held["ts"]
    assert kinds(desk.tell(mark("100")))[:2] == ["liquidation_released", "liquidation_started"]


def test_stale_price_of_the_collateral_is_waited_for_only_so_long():
    desk = Desk(assets={"COIN": {}}, mark_stale_ms=1000, max_hold_ms=3000)
    desk.tell(mark("100"), asset_price("COIN", "10"), deposit("alice", "2", "COIN"), buy("alice", "10", "100"))
    desk.wait(2000)
    held = one(desk.tell(mark("98.9")), "liquidation_held")
    to_the_due_ts_of(desk, held, 3000)
    # Bitcoin, the symbol, is fresh.
    assert pick(one(desk.tell(mark("98.9")), "liquidation_order"), "symbol qty") == ("BTCUSDT", "10")


def test_wait_without_a_limit_never_ends():
    desk = stale_ether(max_hold_ms=0)
    desk.tell(mark("98.7"))
    desk.wait(86_400_000)
    assert desk.tell(mark("98.7")) == []


@pytest.mark.parametrize(("before", "after"), [(60_000, 1_000), (1_000, 60_000), (0, 1_000)])
def test_longest_wait_changed_by_control_holds_for_those_who_wait_already(before, after):
    desk = stale_ether(max_hold_ms=before)
    held = one(desk.tell(mark("98.7")), "liquidation_held")
    desk.tell(control("set_policy", max_hold_ms=after))
    due = held["ts"] + after * MS
    assert desk.tell(mark("98.7", ts=due - 1)) == []
    outputs = desk.tell(mark("98.7", ts=due))
    assert pick(one(outputs, "liquidation_order"), "account symbol") == ("alice", "BTCUSDT")


def test_account_that_recovers_while_a_mark_is_stale_is_released_and_left_alone():
    desk = stale_ether()
    held = one(desk.tell(mark("98.7")), "liquidation_held")
    (released,) = desk.tell(mark("99.5"))
    assert pick(released, "type reason symbol") == ("liquidation_released", "stale_mark", "ETHUSDT")
    to_the_due_ts_of(desk, held, 3000)
    assert desk.tell(mark("99.5")) == []
    # A new fall is a new wait.
    again = one(desk.tell(mark("98.7")), "liquidation_held")
    assert desk.tell(mark("98.7", ts=again["ts"] + 3000 * MS - 1)) == []


def test_fill_of_an_order_in_flight_is_booked_while_its_symbol_is_stale_and_nothing_new_is_sent():
    desk = alice_long(mark_stale_ms=1000)
    order = one(desk.tell(mark("98.5")), "liquidation_order")
    desk.wait(2000)
    # 5 - 4 x 0.5 lost = 3 and the price as it was: 5 against 9.456 x 0.6.
    (held,) = desk.tell(answer(order, "4", "98.5"))
    assert pick(held, "type reason symbol") == ("liquidation_held", "stale_mark", "BTCUSDT")
    assert desk.tell(done(order)) == []
    assert desk.qty("alice") == "6"
    outputs = desk.tell(mark("98.5"))
    assert kinds(outputs) == ["liquidation_released", "liquidation_order"]
    assert pick(outputs[1], "order_id qty") == ("alice/1/2", "6")


def test_nobody_is_taken_over_at_a_stale_mark():
    desk = alice_long(mark_stale_ms=1000, max_hold_ms=3000)
    desk.tell(deposit("$insurance", "1000"))
    desk.wait(2000)
    desk.tell(withdraw("alice", "30"))
    desk.wait(3000)
    assert kinds(desk.tell(deposit("bob", "1"))) == ["liquidation_held"]
    assert "takeover" in kinds(desk.tell(mark("100")))


def test_account_under_water_gives_up_its_fresh_position_after_the_longest_wait():
    desk = stale_ether()
    desk.tell(deposit("$insurance", "1000"))
    # 42 - 100 = -58: no order can help, the fund takes what has a price.
    held = one(desk.tell(mark("90")), "liquidation_held")
    to_the_due_ts_of(desk, held, 3000)
    outputs = desk.tell(mark("90"))
    positions = one(outputs, "takeover")["positions"]
    assert [pick(position, "symbol qty") for position in positions] == [("BTCUSDT", "10")]
    assert (desk.qty("alice"), desk.qty("alice", "ETHUSDT")) == ("0", "20")


def test_symbols_that_are_stale_in_turn_do_not_prolong_the_wait():
    desk = alice_both("30.5", mark_stale_ms=1000, max_hold_ms=3000)
    held, outputs = None, []
    for number in range(8):
        desk.wait(1500)
        # 29.5 or less against 29.9: one of the two is always fresh and the other always stale.
        outputs = desk.tell(mark("99.9") if number % 2 == 0 else mark("50", "ETHUSDT"))
        held = held or one(outputs, "liquidation_held")
        if desk.now >= held["ts"] + 3000 * MS:
            break
    assert len(of(outputs, "liquidation_order")) == 1


def test_end_of_one_wait_is_no_licence_for_the_next_symbol_that_falls_silent():
    desk = stale_ether(partial="cheapest")
    held = one(desk.tell(mark("98.5")), "liquidation_held")
    to_the_due_ts_of(desk, held, 3000)
    # 27 against 29.85: bitcoin is fresh, so some of it is sold.
    order = one(desk.tell(mark("98.5")), "liquidation_order")
    assert desk.tell(mark("50", "ETHUSDT")) == []
    # Ether is back, and now bitcoin falls silent: that has just begun.
    desk.wait(1500)
    outputs = desk.tell(mark("49.8", "ETHUSDT")) + desk.tell(done(order))
    assert pick(one(outputs, "liquidation_held"), "reason symbol") == ("stale_mark", "BTCUSDT")
    assert of(outputs, "liquidation_order") == []


def test_debt_without_positions_waits_for_the_price_of_what_would_be_sold():
    desk = Desk(assets={"COIN": COIN}, mark_stale_ms=1000)
    desk.tell(asset_price("COIN", "10"), deposit("alice", "10", "COIN"))
    desk.wait(2000)
    (held,) = of(desk.tell(withdraw("alice", "100")), "liquidation_held")
    assert pick(held, "reason symbol") == ("stale_mark", "COIN")
    assert "collateral_sale" in kinds(desk.tell(asset_price("COIN", "10")))


def test_bucket_with_a_stale_mark_is_held_under_its_name_and_the_account_at_large_is_not():
    desk = Desk(mark_stale_ms=1000)
    desk.tell(mark("100"), mark("50", "ETHUSDT"), deposit("alice", "42"))
    desk.tell(buy("alice", "10", "100", isolated=True, fee="-20"), buy("alice", "20", "50", "ETHUSDT"))
    desk.wait(2000)
    desk.tell(mark("48.9", "ETHUSDT"))
    # At large: 42 - 22 = 20 against 19.56, and 48.8 leaves 18 against 19.52. The bucket had 20, and keeps 9.
    outputs = desk.tell(withdraw("alice", "11", symbol="BTCUSDT"), mark("48.8", "ETHUSDT"))
    held = one(outputs, "liquidation_held")
    assert pick(held, "account bucket reason symbol") == ("alice", "BTCUSDT", "stale_mark", "BTCUSDT")
    assert pick(one(outputs, "liquidation_order"), "bucket symbol") == (None, "ETHUSDT")


def test_stale_mark_of_the_book_is_as_old_as_the_book():
    desk = Desk(book_of(long_of("10"), marks={"BTCUSDT": "100"}, balance="20"), mark_stale_ms=1000)
    desk.tell(mark("99", "ETHUSDT", ts=START_NS + SECOND))
    # Not seen in the log comes first: it has no end of its own, while a stale mark has.
    (held,) = desk.tell(withdraw("alice", "15", ts=START_NS + SECOND + 1))
    assert held["reason"] == "warming_up"


def test_episode_that_takes_an_unpriced_position_says_what_it_waits_for():
    desk = alice_long(partial="off")
    (order,) = [body for body in desk.tell(mark("98.9")) if body["type"] == "liquidation_order"]
    assert desk.tell(buy("alice", "1", "50", symbol="ETHUSDT")) == []
    (held,) = desk.tell(done(order, "expired"))
    assert pick(held, "type account reason") == ("liquidation_held", "alice", "warming_up")
    # The first mark of ether answers it: the episode goes on with both positions.
    outputs = desk.tell(mark("50", "ETHUSDT"))
    assert kinds(outputs) == ["liquidation_released", "liquidation_order", "liquidation_order"]
