"""The life of a liquidation, as a trader would tell it: from the margin call to the last fill (CONTRACT 5.1 to 5.6).

Unless told otherwise Alice puts up 20 and buys 10 BTC at 100. At a mark of p her equity is 20 + 10·(p − 100) and her
maintenance margin 0.1·p: she is at the edge just under 99, and bankrupt at 98.
"""

from __future__ import annotations

import pytest

from tests.scenarios import (
    COIN,
    MS,
    START_NS,
    Desk,
    answer,
    asset_price,
    buy,
    control,
    converted,
    deposit,
    done,
    funding,
    kinds,
    mark,
    of,
    one,
    pick,
    sell,
    withdraw,
)


def alice_long(deposited="20", **options):
    desk = Desk(**options)
    assert desk.tell(mark("100"), deposit("alice", deposited), buy("alice", "10", "100")) == []
    return desk


def ordered(desk, price="98.9"):
    """Alice's order after the mark fell to ``price``: at 98.9 she has 9 and needs 9.89."""
    return one(desk.tell(mark(price)), "liquidation_order")


# ------------------------------------------------------------------------------------------------------- margin call


def test_margin_call_says_what_is_needed_and_what_is_there():
    # 20 - 10 x 1 = 10 left, 1 % of 990 needed.
    (call,) = alice_long().tell(mark("99"))
    assert pick(call, "type account equity maintenance_margin margin_ratio") == (
        "margin_call", "alice", "10", "9.9", "0.99",
    )  # fmt: skip


def test_margin_call_comes_once_per_crossing_and_is_rearmed_below_three_quarters():
    desk = alice_long()
    # 0.1 p = 0.8 (10 p - 980) at p = 784 / 7.9 = 99.240506..: one step of the mark above it, nothing.
    assert desk.tell(mark("99.24051")) == []
    assert kinds(desk.tell(mark("99.2405"))) == ["margin_call"]
    assert desk.tell(mark("99"), mark("99.3"), mark("99.1")) == []
    # 0.1 p = 0.75 (10 p - 980) at p = 735 / 7.4 = 99.324324..: at 99.32432 the ratio is still above it.
    assert desk.tell(mark("99.32432"), mark("99.2")) == []
    assert desk.tell(mark("99.32433")) == []
    assert kinds(desk.tell(mark("99.2"))) == ["margin_call"]


def test_margin_call_precedes_a_liquidation_that_gaps_over_it():
    assert kinds(alice_long().tell(mark("98.9"))) == [
        "margin_call", "liquidation_started", "cancel_orders", "liquidation_order",
    ]  # fmt: skip


def test_margin_call_of_a_position_opened_after_a_liquidation_is_a_new_crossing():
    desk = alice_long()
    desk.tell(answer(ordered(desk), "10", "98.9"))
    # All closed: nothing is needed any more, far below the re-arm ratio. With 9 left she buys 9 more, needing 8.901.
    (call,) = desk.tell(buy("alice", "9", "98.9"))
    assert pick(call, "type equity maintenance_margin") == ("margin_call", "9", "8.901")


def test_margin_call_after_a_liquidation_that_ended_far_below_the_rearm_ratio_is_a_new_crossing():
    desk = alice_long()
    order = ordered(desk)
    # Half sold at the mark: 9 stand against 4.945, a ratio of 0.55.
    assert pick(desk.tell(answer(order, "5", "98.9"), done(order))[-1], "type outcome") == (
        "liquidation_ended", "healthy",
    )  # fmt: skip
    # At 98 she has 9 - 5 x 0.9 = 4.5 and needs 4.9: past the call in one step. At 98.1: 5 against 4.905, 0.98.
    assert kinds(desk.tell(mark("98.1"))) == ["margin_call"]


# ------------------------------------------------------------------------------------------------- trigger and start


@pytest.mark.parametrize(
    ("trigger", "deposited", "is_liquidated"),
    [
        # At 99 she needs 9.9 and has lost 10.
        ("at_or_below", "19.90000001", False),
        ("at_or_below", "19.9", True),
        ("at_or_below", "19.89999999", True),
        ("below", "19.90000001", False),
        ("below", "19.9", False),
        ("below", "19.89999999", True),
    ],
)
def test_trigger_is_exact_to_the_last_unit(trigger, deposited, is_liquidated):
    outputs = alice_long(deposited, trigger=trigger).tell(mark("99"))
    assert kinds(outputs)[:2] == ["margin_call", "liquidation_started"][: 1 + is_liquidated]


def test_start_says_why_cancels_her_orders_and_sends_the_close_in_one_step():
    desk = alice_long()
    desk.tell(mark("99"))
    started, cancel, order = desk.tell(mark("98.9"))
    # 9 left, 9.89 needed: 9.89 / 9 = 1.098888.. rounded up.
    assert pick(started, "type account equity maintenance_margin margin_ratio liquidation_id cause") == (
        "liquidation_started", "alice", "9", "9.89", "1.09888889", "alice/1", "mark",
    )  # fmt: skip
    assert pick(cancel, "type account liquidation_id") == ("cancel_orders", "alice", "alice/1")
    assert pick(order, "type order_id liquidation_id account symbol side qty stage time_in_force reduce_only") == (
        "liquidation_order", "alice/1/1", "alice/1", "alice", "BTCUSDT", "sell", "10", "full", "IOC", True,
    )  # fmt: skip
    assert "leg" not in order
    assert "bucket" not in order
    assert len({body["ts"] for body in (started, cancel, order)}) == 1


def test_decision_holds_all_that_is_needed_to_check_the_order():
    desk = Desk(instruments={"BTCUSDT": {"taker_fee": "0.0005"}}, target_buffer="0.1")
    desk.tell(mark("100"), deposit("alice", "20"), buy("alice", "10", "100"), mark("98.9"))
    decision = one(desk.outputs, "liquidation_order")["decision"]
    assert pick(decision, "equity maintenance_margin policy_version") == ("9", "9.89", 1)
    # 1.1 x 9.89
    assert decision["target"] == {"buffer": "0.1", "equity": "10.879"}
    assert decision["marks"] == [{"symbol": "BTCUSDT", "price": "98.9", "ts": START_NS + 4 * MS}]
    assert [pick(price, "asset price") for price in decision["asset_prices"]] == [("USDT", "1")]
    (position,) = decision["positions"]
    assert pick(position, "symbol leg qty entry_price notional tier_rate deduction maintenance_margin") == (
        "BTCUSDT", "net", "10", "100", "989", "0.01", "0", "9.89",
    )  # fmt: skip
    assert [pick(item, "asset balance value") for item in decision["collateral"]] == [("USDT", "20", "20")]
    assert [pick(item, "symbol taker_fee liquidation_fee slippage") for item in decision["costs"]] == [
        ("BTCUSDT", "0.0005", "0", "0")
    ]
    assert [pick(item, "symbol side qty limit_price bankruptcy_price stage") for item in decision["plan"]] == [
        ("BTCUSDT", "sell", "10", "98", "98", "full")
    ]
    # The mark was the fourth line of the log.
    assert decision["input"] == {"file": "log.jsonl", "line": 4}


@pytest.mark.parametrize(
    ("name", "message", "cause"),
    [
        ("a mark", mark("98.9"), "mark"),
        # She takes out 10.1: 9.9 left against 10.
        ("a withdrawal", withdraw("alice", "10.1"), "transfer"),
        # 1.01 % of 1000 is 10.1.
        ("a funding payment", funding("0.0101"), "funding"),
        # 10 more at 100 for a fee of 1: 19 against 20.
        ("a fill", buy("alice", "10", "100", fee="1"), "fill"),
        # 3 % of 1000 is 30.
        ("a change of tiers", control("set_instrument", symbol="BTCUSDT", tiers=[["0", "0.03", "20"]]), "policy"),
    ],
)
def test_start_names_its_cause(name, message, cause):
    assert one(alice_long().tell(message), "liquidation_started")["cause"] == cause


# ------------------------------------------------------------------------------------------------------- limit price


def test_limit_is_the_bankruptcy_price_where_the_band_allows_it():
    # A long has 9 left for 10 BTC: 0.9 each under 98.9.
    assert pick(ordered(alice_long()), "limit_price bankruptcy_price") == ("98", "98")
    desk = Desk()
    desk.tell(mark("100"), deposit("bob", "20"), sell("bob", "10", "100"))
    # The short at 101.1: 9 left, 0.9 each above.
    order = one(desk.tell(mark("101.1")), "liquidation_order")
    assert pick(order, "side qty limit_price bankruptcy_price") == ("buy", "10", "102", "102")


def test_bankruptcy_price_is_rounded_toward_the_fund():
    # 9.05 left is 0.905 each: 97.995 is not on the tick of 0.1; a long goes up, a short at 102.005 down.
    assert pick(ordered(alice_long("20.05")), "limit_price bankruptcy_price") == ("98", "98")
    desk = Desk()
    desk.tell(mark("100"), deposit("bob", "20.05"), sell("bob", "10", "100"))
    assert pick(one(desk.tell(mark("101.1")), "liquidation_order"), "limit_price bankruptcy_price") == ("102", "102")


def test_limit_is_drawn_into_the_band_and_rounded_inward():
    # Half a percent under 98.9 is 98.4055: a sell no lower than 98.5, although bankruptcy is at 98.
    order = ordered(alice_long(limit_band="0.005"))
    assert pick(order, "limit_price bankruptcy_price") == ("98.5", "98")
    desk = Desk(limit_band="0.005")
    desk.tell(mark("100"), deposit("bob", "20"), sell("bob", "10", "100"))
    # Half a percent above 101.1 is 101.6055.
    order = one(desk.tell(mark("101.1")), "liquidation_order")
    assert pick(order, "limit_price bankruptcy_price") == ("101.6", "102")


def test_each_of_two_positions_has_its_share_of_the_equity_in_its_bankruptcy_price():
    desk = Desk()
    desk.tell(mark("100"), mark("50", "ETHUSDT"), deposit("alice", "40"))
    desk.tell(buy("alice", "10", "100"), buy("alice", "20", "50", "ETHUSDT"))
    # BTC down 1.2 costs 12: 28 against 9.88 + 20 = 29.88. BTC's share is 28 x 9.88 / 29.88 = 9.2583.., 0.9258 each,
    # 97.8742 up to 97.9; ETH's 18.7416.. is 0.937 each, 49.063 up to 49.1.
    orders = of(desk.tell(mark("98.8")), "liquidation_order")
    assert [pick(order, "order_id symbol qty bankruptcy_price") for order in orders] == [
        ("alice/1/1", "BTCUSDT", "10", "97.9"),
        ("alice/1/2", "ETHUSDT", "20", "49.1"),
    ]
    assert orders[0]["decision"] == orders[1]["decision"]


# ------------------------------------------------------------------------------------------------------------- fills


def test_fill_of_the_whole_order_ends_the_episode_with_its_figures():
    desk = alice_long()
    (ended,) = desk.tell(answer(ordered(desk), "10", "98.5", fee="0.5"))
    # 0.4 under the mark on 10 BTC and half a dollar of fee cost 4.5 of the 9 that were left.
    assert pick(ended, "type liquidation_id account outcome equity closed_notional cost") == (
        "liquidation_ended", "alice/1", "alice", "closed", "4.5", "985", "4.5",
    )  # fmt: skip
    # With 4.5 she could still carry 450 at 1 %: 4.55 BTC at 98.9 need 4.49995, one lot more 4.500939. Sold at 98.5.
    assert ended["not_needed"] == "448.175"
    assert (desk.qty("alice"), desk.wallet("alice"), desk.wallet("$fees")) == ("0", "4.5", "0.5")


def test_part_of_an_order_filled_leaves_the_rest_in_flight():
    desk = alice_long()
    order = ordered(desk)
    assert desk.tell(answer(order, "4", "98.9"), mark("98.7"), answer(order, "5.999", "98.9")) == []
    assert one(desk.tell(answer(order, "0.001", "98.9")), "liquidation_ended")["outcome"] == "closed"


def test_episode_stops_once_healthy_although_positions_are_left():
    desk = alice_long()
    order = ordered(desk)
    (ended,) = desk.tell(answer(order, "4", "98.9"), done(order, "cancelled"))
    # 9 against 6 x 0.989; she could carry 9.1 BTC (8.9999), so 3.1 of the 4 sold were not needed: 306.59.
    assert pick(ended, "outcome equity closed_notional cost not_needed") == ("healthy", "9", "395.6", "0", "306.59")
    assert desk.qty("alice") == "6"


def test_episode_goes_on_until_the_buffer_is_there():
    desk = alice_long(target_buffer="0.5")
    order = ordered(desk)
    # 9 against 6.1 x 0.989 = 6.0329, out of the trigger, but 1.5 x 6.0329 = 9.04935 are wanted.
    (second,) = desk.tell(answer(order, "3.9", "98.9"), done(order))
    assert pick(second, "order_id qty") == ("alice/1/2", "6.1")
    # One lot more would have done: 1.5 x 6.068 x 0.989 = 9.0019 still short, 6.066: 8.9989.
    (ended,) = desk.tell(answer(second, "0.034", "98.9"), done(second))
    assert pick(ended, "outcome not_needed") == ("healthy", "0")


def test_order_done_before_any_fill_sends_the_next_order_at_the_new_mark():
    desk = alice_long()
    order = ordered(desk)
    (second,) = desk.tell(mark("98.7"), done(order))
    # 7 left is 0.7 each under 98.7.
    assert pick(second, "order_id qty limit_price") == ("alice/1/2", "10", "98")
    assert second["decision"]["equity"] == "7"


def test_order_done_of_a_stranger_is_ignored_and_of_an_ended_order_changes_nothing():
    desk = alice_long()
    order = ordered(desk)
    counters = desk.shard.counters
    for strange in ({"order_id": "alice/1/2"}, {"order_id": "alice/2/1"}, {"account": "bob"}, {"order_id": "x"}):
        before = desk.state()
        assert desk.tell({**done(order), **strange}) == []
        assert desk.state() == before
    assert (counters.ignored, counters.accepted) == (4, 4)
    desk.tell(answer(order, "10", "98.9"))
    before = desk.state()["book"]["accounts"]
    assert desk.tell(done(order, "filled")) == []
    assert desk.state()["book"]["accounts"] == before
    assert (counters.ignored, counters.accepted) == (4, 6)


def test_second_episode_counts_on():
    desk = alice_long()
    desk.tell(answer(ordered(desk), "10", "98.9"))
    desk.tell(deposit("alice", "11"), buy("alice", "10", "98.9"))
    order = one(desk.tell(mark("97.8")), "liquidation_order")
    assert pick(order, "liquidation_id order_id") == ("alice/2", "alice/2/1")


# ------------------------------------------------------------------------------------------------ waiting and giving up


def test_order_times_out_by_the_clock_and_not_a_nanosecond_sooner():
    desk = alice_long(order_timeout_ms=5000)
    sent_ts = ordered(desk)["ts"]
    assert desk.tell(deposit("bob", "1", ts=sent_ts + 5000 * MS - 1)) == []
    (second,) = desk.tell(deposit("bob", "1", ts=sent_ts + 5000 * MS))
    assert pick(second, "order_id ts") == ("alice/1/2", sent_ts + 5000 * MS)


def test_message_that_is_refused_or_ignored_lets_no_order_time_out():
    desk = alice_long()
    late_ts = ordered(desk)["ts"] + 60_000 * MS
    outputs = desk.tell(mark("98", "NOPE", ts=late_ts), done({"order_id": "x", "account": "x"}, ts=late_ts))
    assert kinds(outputs) == ["reject"]


def test_orders_time_out_by_due_time_and_the_worst_account_is_served_first():
    desk = Desk()
    desk.tell(mark("100"), deposit("alice", "20"), deposit("bob", "19.99"))
    desk.tell(buy("alice", "10", "100"), buy("bob", "10", "100"), mark("98.9"))
    desk.wait(5000)
    assert [body["account"] for body in desk.tell(deposit("carol", "1"))] == ["bob", "alice"]


def test_never_a_second_order_while_one_is_in_flight_however_far_it_falls():
    desk = alice_long(max_attempts=1, takeover_ratio="0.5")
    order = ordered(desk)
    assert desk.tell(mark("98.5"), mark("98.1"), mark("97"), deposit("alice", "0.5"), funding("0.001")) == []
    # 20.5 - 0.97 - 30 is below zero: no order any more, the fund is next, and it has nothing either.
    assert "liquidation_order" not in kinds(desk.tell(done(order)))


def test_takeover_after_as_many_empty_orders_as_the_policy_says():
    desk = alice_long(max_attempts=3)
    second = one(desk.tell(done(ordered(desk))), "liquidation_order")
    third = one(desk.tell(done(second)), "liquidation_order")
    takeover, ended = desk.tell(done(third))
    # Worth 9 more than nothing: 10 BTC for 980 instead of 989.
    assert takeover["positions"] == [
        {"symbol": "BTCUSDT", "leg": "net", "qty": "10", "cash": "980", "price": "98"}
    ]  # fmt: skip
    assert pick(takeover, "equity_before") == ("9",)
    assert pick(ended, "outcome equity closed_notional") == ("taken_over", "0", "0")
    assert of(desk.outputs, "bad_debt") == []


def test_any_fill_sets_the_attempts_back():
    desk = alice_long(max_attempts=2)
    second = one(desk.tell(done(ordered(desk))), "liquidation_order")
    third = one(desk.tell(answer(second, "0.001", "98.9"), done(second)), "liquidation_order")
    fourth = one(desk.tell(done(third)), "liquidation_order")
    assert kinds(desk.tell(done(fourth))) == ["takeover", "liquidation_ended"]


def test_two_empty_orders_of_one_round_are_two_attempts():
    desk = Desk(max_attempts=2)
    desk.tell(mark("100"), mark("50", "ETHUSDT"), deposit("alice", "40"))
    desk.tell(buy("alice", "10", "100"), buy("alice", "20", "50", "ETHUSDT"))
    first, second = of(desk.tell(mark("98.8")), "liquidation_order")
    assert desk.tell(done(first)) == []
    assert kinds(desk.tell(done(second))) == ["takeover", "liquidation_ended"]


@pytest.mark.parametrize(
    ("deposited", "expected"),
    [
        # Down 2 on 10 BTC is 20.
        ("20.00000001", "liquidation_order"),
        ("20", "takeover"),
    ],
)
def test_no_order_is_sent_for_an_account_without_equity(deposited, expected):
    desk = alice_long(deposited)
    assert kinds(desk.tell(mark("98")))[:4] == ["margin_call", "liquidation_started", "cancel_orders", expected]


@pytest.mark.parametrize(
    ("deposited", "expected"),
    [
        # At 98.9 half of 9.89 is 4.945, and she has lost 11.
        ("15.94500001", "liquidation_order"),
        ("15.945", "takeover"),
        ("15.94499999", "takeover"),
    ],
)
def test_takeover_ratio_hands_over_while_there_is_something_left(deposited, expected):
    desk = alice_long(deposited, takeover_ratio="0.5")
    assert expected in kinds(desk.tell(mark("98.9")))


def test_fill_that_comes_after_the_time_out_is_an_ordinary_fill_without_liquidation_fee():
    desk = alice_long(instruments={"BTCUSDT": {"liquidation_fee": "0.001"}})
    order = ordered(desk)
    desk.wait(5000)
    second = one(desk.tell(deposit("bob", "1")), "liquidation_order")
    desk.tell(deposit("$insurance", "1", ts=desk.shard.clock))
    # The first order fills after all: 10 sold at 98.9, nobody takes a fee, and the second is still in flight.
    assert desk.tell(answer(order, "10", "98.9")) == []
    assert (desk.qty("alice"), desk.wallet("alice"), desk.wallet("$insurance")) == ("0", "9", "1")
    # It fills as well: she is short 10 now. 0.1 % of 989 is the fee, and 8.011 do not carry 9.89.
    outputs = desk.tell(answer(second, "10", "98.9"))
    assert pick(one(outputs, "insurance_fund"), "change cause") == ("0.989", "liquidation_fee")
    third = one(outputs, "liquidation_order")
    assert pick(third, "order_id side qty") == ("alice/1/3", "buy", "10")


def test_fill_larger_than_the_order_is_booked_as_it_is():
    desk = alice_long()
    (ended,) = desk.tell(answer(ordered(desk), "12", "98.9"))
    # 9 carry the 2 BTC she is now short of.
    assert pick(ended, "outcome equity closed_notional") == ("healthy", "9", "1186.8")
    assert desk.qty("alice") == "-2"


def test_fill_that_names_the_order_of_another_account_is_an_ordinary_fill():
    desk = alice_long(instruments={"BTCUSDT": {"liquidation_fee": "0.001"}})
    order = ordered(desk)
    desk.tell(deposit("bob", "100"))
    assert desk.tell({**answer(order, "10", "98.9"), "account": "bob"}) == []
    assert (desk.qty("alice"), desk.qty("bob"), desk.wallet("bob")) == ("10", "-10", "100")


def test_fill_on_the_other_side_that_names_the_order_is_an_ordinary_fill():
    desk = alice_long(instruments={"BTCUSDT": {"liquidation_fee": "0.001"}})
    order = ordered(desk)
    assert desk.tell(answer({**order, "side": "buy"}, "1", "98.9")) == []
    assert (desk.qty("alice"), desk.wallet("$insurance")) == ("11", "0")
    # The order is in flight for all of its ten.
    (second,) = of(desk.tell(answer(order, "10", "98.9")), "insurance_fund")
    assert second["change"] == "0.989"


def test_fill_repeated_with_its_id_is_counted_and_changes_nothing():
    desk = alice_long()
    fill = answer(ordered(desk), "4", "98.9", fill_id="f-1")
    desk.tell(fill)
    before = desk.state()
    assert desk.tell(fill) == []
    assert desk.state() == before
    assert desk.shard.counters.duplicates == 1


# ------------------------------------------------------------------------------------------------ fees of liquidation


@pytest.mark.parametrize(
    ("price", "fee", "taken", "left", "deficit"),
    [
        # 0.5 % of 988 is 4.94; 20 - 12 = 8 are there.
        ("98.8", "0", ["4.94"], "3.06", []),
        # 0.5 % of 984 is 4.92, and 20 - 16 = 4 are there.
        ("98.4", "0", ["4"], "0", []),
        # The venue's own fee goes first.
        ("98.4", "3.5", ["0.5"], "0", []),
        ("98.4", "4", [], "0", []),
        # A hundred-millionth short is a loss, and no fee makes it larger.
        ("98.4", "4.00000001", [], "0", ["0.00000001"]),
    ],
)
def test_liquidation_fee_never_takes_more_than_is_there(price, fee, taken, left, deficit):
    desk = alice_long(instruments={"BTCUSDT": {"liquidation_fee": "0.005"}})
    outputs = desk.tell(answer(ordered(desk), "10", price, fee=fee))
    assert [
        pick(body, "asset change balance cause account liquidation_id") for body in of(outputs, "insurance_fund")
    ] == [("USDT", amount, amount, "liquidation_fee", "alice", "alice/1") for amount in taken]
    assert [debt["deficit"] for debt in of(outputs, "bad_debt")] == deficit
    assert one(outputs, "liquidation_ended")["equity"] == left


def test_liquidation_fee_of_a_fill_in_parts_is_taken_each_time():
    desk = alice_long(instruments={"BTCUSDT": {"liquidation_fee": "0.001"}})
    order = ordered(desk)
    desk.tell(answer(order, "4", "98.9"), answer(order, "6", "98.9"))
    # 0.1 % of 395.6 and of 593.4.
    assert [pick(body, "change balance") for body in of(desk.outputs, "insurance_fund")] == [
        ("0.3956", "0.3956"), ("0.5934", "0.989"),
    ]  # fmt: skip
    ended = one(desk.outputs, "liquidation_ended")
    assert pick(ended, "equity cost") == ("8.011", "0.989")


def test_surplus_over_the_bankruptcy_price_goes_to_the_fund_where_the_policy_says_so():
    desk = alice_long(surplus="insurance", instruments={"BTCUSDT": {"liquidation_fee": "0.001"}})
    outputs = desk.tell(answer(ordered(desk), "10", "98.5"))
    # Bankrupt at 98, sold at 98.5: 5 better. She has 5; 0.985 of it is the fee, so 4.015 are left to give.
    assert [pick(body, "change balance cause") for body in of(outputs, "insurance_fund")] == [
        ("0.985", "0.985", "liquidation_fee"), ("4.015", "5", "surplus"),
    ]  # fmt: skip
    assert desk.wallet("alice") == "0"


def test_surplus_of_a_part_leaves_what_the_rest_of_the_position_is_worth():
    desk = alice_long(surplus="insurance")
    outputs = desk.tell(answer(ordered(desk), "1", "98.5"))
    # 0.5 better than 98 on 1 BTC.
    assert pick(one(outputs, "insurance_fund"), "change cause") == ("0.5", "surplus")
    # 9 - 0.4 under the mark - 0.5.
    assert desk.equity("alice") == "8.1"


# -------------------------------------------------------------------------------------------------- several in a step


def test_worst_account_first_and_ties_by_name():
    desk = Desk()
    desk.tell(mark("100"))
    for name, deposited in (("dave", "20"), ("carol", "19.5"), ("bob", "20"), ("alice", "19.9")):
        desk.tell(deposit(name, deposited), buy(name, "10", "100"))
    # All are 10 long at 98.9 and lost 11: carol has 8.5, alice 8.9, bob and dave 9.
    started = of(desk.tell(mark("98.9")), "liquidation_started")
    assert [body["account"] for body in started] == ["carol", "alice", "bob", "dave"]


def test_worst_is_the_lowest_fraction_of_equity_to_margin_not_the_largest_hole():
    desk = Desk()
    desk.tell(mark("100"), deposit("alice", "200"), buy("alice", "100", "100"))
    desk.tell(deposit("bob", "19.9"), buy("bob", "10", "100"))
    # Alice has 90 of 98.9 (0.91), bob 8.9 of 9.89 (0.899..).
    started = of(desk.tell(mark("98.9")), "liquidation_started")
    assert [body["account"] for body in started] == ["bob", "alice"]


def test_account_without_margin_comes_after_all_that_need_some():
    desk = Desk(assets={"COIN": {}})
    desk.tell(asset_price("COIN", "10"), mark("100"))
    # Aaron owes 100 COIN against 1,500 USDT; Zoe has 8 COIN and is 10 BTC long.
    desk.tell(deposit("aaron", "1500"), withdraw("aaron", "100", "COIN"))
    desk.tell(deposit("zoe", "2", "COIN"), withdraw("zoe", "1"), buy("zoe", "10", "100"))
    desk.tell(withdraw("aaron", "400"))
    # One price moves both: COIN falls for Zoe, and for Aaron it cannot rise in the same step, so his debt is in USDT.
    desk.tell(deposit("adam", "150", "COIN"), withdraw("adam", "1200"))
    started = of(desk.tell(asset_price("COIN", "5.4")), "liquidation_started")
    # Zoe: 10.8 - 1 = 9.8 of 10. Adam: 810 - 1200 < 0 and no margin.
    assert [body["account"] for body in started] == ["zoe", "adam"]


def test_cross_wallet_comes_before_the_bucket_of_the_same_standing():
    desk = Desk()
    desk.tell(mark("100"), deposit("alice", "20"))
    desk.tell(buy("alice", "10", "100", isolated=True, fee="-20"), buy("alice", "10", "100", isolated=False))
    started = of(desk.tell(mark("98.9")), "liquidation_started")
    assert [body.get("bucket") for body in started] == [None, "BTCUSDT"]


# ------------------------------------------------------------------------------------------------------------- hedges


def test_both_legs_of_a_hedge_need_margin_and_are_closed_each_on_its_own():
    desk = Desk()
    desk.tell(mark("100"), deposit("alice", "30"))
    desk.tell(buy("alice", "10", "100", leg="long"), sell("alice", "5", "100", leg="short"))
    # At 98: 30 - 20 + 10 = 20 against 9.8 + 4.9: healthy. At 97.1: 30 - 29 + 14.5 = 15.5 against 14.565.
    assert "liquidation_order" not in kinds(desk.tell(mark("98"), mark("97.1")))
    # At 96.9: 30 - 31 + 15.5 = 14.5 against 14.535. Two thirds of the equity stand for the long leg: 9.6666 is
    # 0.96666 each under 96.9, 95.9333 up to 96; a third for the short one: 97.8666 down to 97.8.
    orders = of(desk.tell(mark("96.9")), "liquidation_order")
    assert [pick(order, "order_id leg side qty bankruptcy_price") for order in orders] == [
        ("alice/1/1", "long", "sell", "10", "96"),
        ("alice/1/2", "short", "buy", "5", "97.8"),
    ]
    assert desk.tell(answer(orders[1], "5", "97")) == []
    assert (desk.qty("alice", leg="short"), desk.qty("alice", leg="long")) == ("0", "10")
    # 14.5 - 5 x 0.1 = 14 against 9.69: healthy, once the long order is out of the way.
    (ended,) = desk.tell(done(orders[0]))
    assert pick(ended, "outcome equity") == ("healthy", "14")


# ------------------------------------------------------------------------------------------------------------ buckets


def bucket_long(**options):
    """Alice has 100 at large, and 20 in a bucket of 10 BTC."""
    desk = Desk(**options)
    desk.tell(mark("100"), deposit("alice", "100"), deposit("alice", "20", symbol="BTCUSDT"))
    desk.tell(buy("alice", "10", "100", isolated=True))
    return desk


def test_deposit_waits_in_the_bucket_for_its_position():
    desk = Desk()
    desk.tell(mark("100"), deposit("alice", "20", symbol="BTCUSDT"))
    assert desk.wallet("alice", bucket="BTCUSDT") == "20"


def test_bucket_is_liquidated_alone_under_its_own_id_and_sends_its_rest_home():
    desk = bucket_long()
    assert (desk.equity("alice"), desk.equity("alice", "BTCUSDT")) == ("100", "20")
    outputs = desk.tell(mark("98.9"))
    assert {body["bucket"] for body in outputs} == {"BTCUSDT"}
    assert one(outputs, "liquidation_started")["liquidation_id"] == "alice/BTCUSDT/1"
    order = one(outputs, "liquidation_order")
    assert pick(order, "order_id account bucket qty limit_price") == (
        "alice/BTCUSDT/1/1", "alice", "BTCUSDT", "10", "98",
    )  # fmt: skip
    (ended,) = desk.tell(answer(order, "10", "98.5"))
    # 5 of the 20 are left and join the 100.
    assert pick(ended, "bucket outcome equity") == ("BTCUSDT", "closed", "5")
    assert (desk.wallet("alice"), desk.wallet("alice", bucket="BTCUSDT")) == ("105", "0")


def test_bucket_does_not_draw_on_the_cross_wallet_and_its_deficit_is_its_own():
    desk = bucket_long()
    order = one(desk.tell(mark("98.9")), "liquidation_order")
    outputs = desk.tell(answer(order, "10", "97"))
    # Sold 30 under the entry with 20 there: 10 short, and 100 at large stay where they are.
    debt = one(outputs, "bad_debt")
    assert pick(debt, "liquidation_id account bucket asset deficit uncovered") == (
        "alice/BTCUSDT/1", "alice", "BTCUSDT", "USDT", "10", "10",
    )  # fmt: skip
    assert (desk.wallet("alice"), desk.wallet("alice", bucket="BTCUSDT"), desk.wallet("$bad_debt")) == (
        "100",
        "0",
        "-10",
    )


def test_cross_wallet_does_not_draw_on_a_bucket():
    desk = bucket_long()
    desk.tell(deposit("alice", "50", symbol="BTCUSDT"))
    started = one(desk.tell(withdraw("alice", "100"), buy("alice", "1", "100", fee="1")), "liquidation_started")
    assert "bucket" not in started
    assert desk.equity("alice", "BTCUSDT") == "70"


def test_bucket_closed_by_its_owner_sends_its_rest_home_at_once():
    desk = bucket_long()
    assert desk.tell(sell("alice", "4", "101", isolated=True)) == []
    assert desk.wallet("alice", bucket="BTCUSDT") == "24"
    assert desk.tell(sell("alice", "6", "101", isolated=True)) == []
    assert (desk.wallet("alice"), desk.wallet("alice", bucket="BTCUSDT")) == ("130", "0")


def test_rest_of_a_bucket_can_save_the_cross_account():
    desk = bucket_long()
    order = one(desk.tell(withdraw("alice", "91"), buy("alice", "9.5", "100")), "liquidation_order")
    # 9 carry less than the 9.5 needed. The 20 of the closed bucket come to it before anyone looks at it again.
    desk.tell(sell("alice", "10", "100", isolated=True))
    assert one(desk.tell(done(order)), "liquidation_ended")["outcome"] == "healthy"


def test_account_named_like_the_bucket_of_another_has_orders_of_its_own():
    desk = bucket_long()
    desk.tell(deposit("alice/BTCUSDT", "20"), buy("alice/BTCUSDT", "10", "100"))
    first, second = of(desk.tell(mark("98.9")), "liquidation_order")
    assert [first["account"], second["account"]] == ["alice", "alice/BTCUSDT"]
    assert one(desk.tell(answer(second, "10", "98.9")), "liquidation_ended")["account"] == "alice/BTCUSDT"
    assert one(desk.tell(answer(first, "10", "98.9")), "liquidation_ended")["account"] == "alice"


# -------------------------------------------------------------------------------------------------------------- debts


def test_debt_that_the_rest_carries_is_left_alone():
    desk = Desk(assets={"COIN": COIN})
    desk.tell(asset_price("COIN", "10"), deposit("alice", "10", "COIN"))
    # 100 of coin at 0.9 is 90: owing 89.99999999 leaves something.
    assert desk.tell(withdraw("alice", "89.99999999")) == []
    assert desk.equity("alice") == "0.00000001"


def test_debt_is_a_case_only_once_a_sale_of_all_would_not_pay_it():
    desk = Desk(assets={"COIN": COIN})
    desk.tell(asset_price("COIN", "10"), deposit("alice", "10", "COIN"))
    # 10 coins sold one percent under the price bring 99.
    assert desk.tell(withdraw("alice", "99")) == []
    outputs = desk.tell(withdraw("alice", "0.00000001"))
    assert kinds(outputs) == ["liquidation_started", "cancel_orders", "collateral_sale"]
    # 10 x (1 - 0.01 - 0.05) is the least a coin may go for.
    assert pick(outputs[-1], "order_id account asset amount for_asset limit_price") == (
        "alice/1/1", "alice", "COIN", "10", "USDT", "9.4",
    )  # fmt: skip
    # It brings a little more than expected, and nothing is left of the debt.
    (ended,) = desk.tell(converted(outputs[-1], "99.5"))
    assert pick(ended, "outcome equity") == ("closed", "0.49999999")


def test_price_at_which_a_holding_counts_for_just_what_is_owed_makes_the_debt_a_case():
    desk = Desk(assets={"COIN": {"slippage": "0.01"}})
    desk.tell(asset_price("COIN", "1.01"), deposit("alice", "100", "COIN"), withdraw("alice", "100"))
    # 100 coins sold one percent under a price of 1 bring 99.
    outputs = desk.tell(asset_price("COIN", "1"))
    assert desk.equity("alice") == "0"
    assert kinds(outputs) == ["liquidation_started", "cancel_orders", "collateral_sale"]


def test_largest_holding_is_sold_first_and_only_as_much_as_the_debt_needs():
    desk = Desk(assets={"COIN": COIN, "GOLD": {"weights": [["0", "0"]], "decimals": 2}})
    desk.tell(asset_price("COIN", "10"), asset_price("GOLD", "100"), mark("100"))
    desk.tell(deposit("alice", "5", "COIN"), deposit("alice", "3", "GOLD"), buy("alice", "40", "100"))
    # 45 of coin carry the 40 needed. BTC at 99.8 costs 8: 37 against 39.92.
    order = one(desk.tell(mark("99.8")), "liquidation_order")
    outputs = desk.tell(answer(order, "40", "98.1"))
    # She owes 76 and has coin counted at 45. 300 of gold is the larger: 0.76 of it, whatever it counts for.
    assert [pick(sale, "order_id asset amount for_asset limit_price") for sale in of(outputs, "collateral_sale")] == [
        ("alice/1/2", "GOLD", "0.76", "USDT", "95")
    ]
    (ended,) = desk.tell(converted(outputs[-1], "76"))
    assert pick(ended, "outcome equity") == ("closed", "45")
    assert [desk.wallet("alice", asset) for asset in ("USDT", "COIN", "GOLD")] == ["0", "5", "2.24"]


def test_sale_is_rounded_up_to_the_decimals_of_what_is_sold():
    desk = Desk(assets={"GOLD": {"weights": [["0", "0"]], "decimals": 2}})
    desk.tell(asset_price("GOLD", "100"), mark("100"), deposit("alice", "3", "GOLD"), deposit("alice", "10"))
    order = one(desk.tell(buy("alice", "10", "100")), "liquidation_order")
    # 10 - 20.5 = -10.5: a tenth of gold and a bit.
    sale = one(desk.tell(answer(order, "10", "97.95")), "collateral_sale")
    assert sale["amount"] == "0.11"


def test_what_no_collateral_covers_is_paid_by_the_fund_as_far_as_its_wallet_goes():
    desk = Desk(assets={"COIN": COIN})
    desk.tell(asset_price("COIN", "10"), deposit("alice", "10", "COIN"))
    desk.tell(deposit("$insurance", "3"))
    sale = one(desk.tell(withdraw("alice", "110")), "collateral_sale")
    fund, debt, ended = desk.tell(converted(sale, "99"))
    # 11 short: 3 from the fund, 8 stand on the loss account.
    assert pick(fund, "asset change balance cause account liquidation_id") == (
        "USDT", "-3", "0", "bad_debt", "alice", "alice/1",
    )  # fmt: skip
    assert pick(debt, "asset deficit paid_by_insurance paid_by_adl paid_by_socialisation uncovered") == (
        "USDT", "11", "3", "0", "0", "8",
    )  # fmt: skip
    assert pick(ended, "outcome equity") == ("closed", "0")
    assert [desk.wallet(name) for name in ("alice", "$insurance", "$bad_debt")] == ["0", "0", "-8"]


def test_one_bad_debt_message_for_each_asset_owed():
    desk = Desk(assets={"COIN": COIN})
    desk.tell(asset_price("COIN", "10"))
    desk.tell(deposit("alice", "100"), withdraw("alice", "5", "COIN"))
    outputs = desk.tell(withdraw("alice", "107"))
    # 7 dollars and 5 coins owed, and nothing to sell.
    assert [pick(debt, "asset deficit uncovered") for debt in of(outputs, "bad_debt")] == [
        ("COIN", "5", "5"), ("USDT", "7", "7"),
    ]  # fmt: skip


def test_sale_that_times_out_is_ordered_again():
    desk = Desk(assets={"COIN": COIN})
    desk.tell(asset_price("COIN", "10"), deposit("alice", "10", "COIN"))
    first = one(desk.tell(withdraw("alice", "110")), "collateral_sale")
    desk.wait(5000)
    second = one(desk.tell(asset_price("COIN", "9")), "collateral_sale")
    assert pick(second, "order_id amount limit_price") == ("alice/1/2", "10", "8.46")
    # The first comes after all: booked, and the second stays in flight until it is done.
    assert desk.tell(converted(first, "99")) == []
    assert kinds(desk.tell(done(second))) == ["bad_debt", "liquidation_ended"]


def test_withdrawal_beyond_all_is_applied_and_the_loss_shown():
    desk = Desk()
    desk.tell(deposit("alice", "5"))
    outputs = desk.tell(withdraw("alice", "7"))
    assert kinds(outputs) == ["liquidation_started", "cancel_orders", "bad_debt", "liquidation_ended"]
    assert pick(outputs[0], "equity maintenance_margin margin_ratio cause") == ("-2", "0", "0", "transfer")
    assert pick(outputs[2], "deficit uncovered") == ("2", "2")
    assert desk.wallet("alice") == "0"


# ------------------------------------------------------------------------------------------------------------ control


def test_policy_change_names_those_it_pushed_over_the_edge():
    desk = Desk()
    desk.tell(mark("100"))
    for name, deposited in (("carol", "12"), ("bob", "100"), ("alice", "15"), ("dave", "9")):
        desk.tell(deposit(name, deposited), buy(name, "10", "100"))
    # Dave is being liquidated already; 2 % of 1000 is too much for carol and alice.
    outputs = desk.tell(control("set_instrument", symbol="BTCUSDT", tiers=[["0", "0.02", "25"]]))
    assert pick(outputs[0], "type version what crossed") == (
        "policy_changed", 2, "instrument BTCUSDT", ["alice", "carol"],
    )  # fmt: skip
    started = of(outputs, "liquidation_started")
    assert [pick(body, "account cause") for body in started] == [("carol", "policy"), ("alice", "policy")]
    assert all(body["decision"]["policy_version"] == 2 for body in of(outputs, "liquidation_order"))


def test_policy_change_takes_effect_from_its_message_on():
    desk = alice_long()
    (changed,) = desk.tell(control("set_policy", order_timeout_ms=10, limit_band="0.005"))
    assert pick(changed, "type version what crossed") == ("policy_changed", 2, "policy", [])
    order = ordered(desk)
    assert order["limit_price"] == "98.5"
    desk.wait(10)
    assert kinds(desk.tell(deposit("bob", "1"))) == ["liquidation_order"]


def test_haircut_change_can_push_over_the_edge():
    desk = Desk(assets={"COIN": {}})
    desk.tell(asset_price("COIN", "10"), mark("100"), deposit("alice", "1.1", "COIN"), buy("alice", "10", "100"))
    outputs = desk.tell(control("set_asset", asset="COIN", weights=[["0", "0.9"]]))
    # 11 at 0.9 is 9.9 against 10.
    assert pick(outputs[0], "what crossed") == ("asset COIN", ["alice"])
    assert one(outputs, "liquidation_started")["equity"] == "9.9"


def test_new_instrument_is_traded_from_its_message_on():
    desk = Desk()
    desk.tell(deposit("alice", "20"))
    fields = {"settle": "USDT", "price_tick": "0.01", "lot": "1", "tiers": [["0", "0.05", "10"]]}
    assert kinds(desk.tell(mark("2", "NEW"))) == ["reject"]
    (changed,) = desk.tell(control("set_instrument", symbol="NEW", **fields))
    assert pick(changed, "type what crossed") == ("policy_changed", "instrument NEW", [])
    desk.tell(mark("2", "NEW"), buy("alice", "100", "2", "NEW"))
    # 20 - 100 x 0.11 = 9 against 5 % of 189.
    assert one(desk.tell(mark("1.89", "NEW")), "liquidation_started")["maintenance_margin"] == "9.45"


def test_new_asset_is_deposited_from_its_message_on():
    desk = Desk()
    assert kinds(desk.tell(deposit("alice", "1", "COIN"))) == ["reject"]
    desk.tell(control("set_asset", asset="COIN", price="3", weights=[["0", "0.5"]]), deposit("alice", "1", "COIN"))
    assert desk.equity("alice") == "1.5"


def test_instrument_in_use_keeps_its_scales():
    desk = alice_long()
    before = desk.state()
    (reject,) = desk.tell(control("set_instrument", symbol="BTCUSDT", lot="0.01"))
    assert reject["reason"] == "out_of_range"
    assert desk.state() == before


# ----------------------------------------------------------------------------------------------------------- messages


def test_outputs_carry_the_clock_and_not_the_time_of_an_older_message():
    desk = alice_long()
    clock = desk.shard.clock
    outputs = desk.tell(withdraw("alice", "10.1", ts=START_NS - 5000 * MS))
    assert {body["ts"] for body in outputs} == {clock}


def test_older_mark_of_a_symbol_is_ignored_and_one_of_the_same_time_is_not():
    desk = alice_long()
    newest_ts = desk.now
    desk.tell(mark("99.5", ts=newest_ts))
    assert desk.tell(mark("98.9", ts=newest_ts - 1)) == []
    assert desk.shard.counters.ignored == 1
    assert desk.equity("alice") == "15"
    assert "liquidation_order" in kinds(desk.tell(mark("98.9", ts=newest_ts)))


def test_account_without_a_mark_is_never_judged():
    desk = Desk()
    assert desk.tell(deposit("alice", "1"), buy("alice", "10", "100")) == []
    assert "liquidation_started" in kinds(desk.tell(mark("100")))
