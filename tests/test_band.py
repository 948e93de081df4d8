"""Which prices are believed at once, which wait for a second opinion, and what they do meanwhile (CONTRACT 5.10).

The band is a tenth. Alice has 125 and is 10 BTC long from 100: at 88, a mark nobody has confirmed, she would have 5
against the 8.8 she needs; Sam is her mirror image, 10 short, and 112 would leave him 5 against 11.2.
"""

from __future__ import annotations

import pytest

from tests.scenarios import (
    MS,
    START_NS,
    Body,
    Desk,
    answer,
    asset_price,
    buy,
    control,
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

BAND: Body = {"price_band": "0.1", "max_hold_ms": 1000}
NAMED = "type account reason symbol"
HELD = ("liquidation_held", "alice", "price_band", "BTCUSDT")
RELEASED = ("liquidation_released", "alice", "price_band", "BTCUSDT")


def alice_long(**options):
    desk = Desk(**{**BAND, **options})
    desk.tell(mark("100"), deposit("alice", "125"), buy("alice", "10", "100"))
    return desk


def in_force(desk, symbol="BTCUSDT"):
    """The mark of a symbol that equity is computed with, in its smallest steps of 0.00001."""
    return desk.shard.book.marks[desk.shard.book.symbol_index[symbol]].value


def steps(price):
    return int(price.replace(".", "")) * 10 ** (5 - len(price.partition(".")[2]))


# ------------------------------------------------------------------------------------------------- what is unconfirmed


@pytest.mark.parametrize("price", ["90", "110", "100"])
def test_mark_as_far_away_as_the_band_is_believed_at_once(price):
    desk = alice_long()
    assert desk.tell(mark(price)) == []
    assert in_force(desk) == steps(price)


@pytest.mark.parametrize("price", ["89.99999", "110.00001"])
def test_mark_one_unit_beyond_the_band_is_not(price):
    desk = alice_long()
    assert desk.tell(mark(price)) == []
    assert (in_force(desk), desk.equity("alice")) == (steps("100"), "125")


@pytest.mark.parametrize(("price", "believed"), [("89.999995", True), ("89.9999949", False)])
def test_band_is_measured_on_the_mark_as_it_is_rounded(price, believed):
    # 89.999995 is rounded half-even to 90.00000, the even neighbour; a little less to 89.99999.
    desk = alice_long()
    desk.tell(mark(price))
    assert (in_force(desk) == steps("90")) is believed


def test_band_is_measured_from_the_last_confirmed_mark_so_that_a_crash_in_steps_passes():
    desk = alice_long()
    for price in ("91", "82", "74"):
        desk.tell(mark(price))
        assert in_force(desk) == steps(price)


def test_whoever_the_unconfirmed_mark_would_liquidate_is_held_and_nobody_else():
    desk = alice_long()
    desk.tell(deposit("sam", "125"), sell("sam", "10", "100"), deposit("rich", "1000"), buy("rich", "10", "100"))
    outputs = desk.tell(mark("88"))
    assert [pick(body, NAMED) for body in outputs] == [HELD]
    assert desk.equity("alice") == "125"


def test_short_is_held_by_an_unconfirmed_rise():
    desk = Desk(**BAND)
    desk.tell(mark("100"), deposit("sam", "125"), sell("sam", "10", "100"))
    assert [pick(body, "account reason") for body in desk.tell(mark("112"))] == [("sam", "price_band")]
    assert one(desk.tell(mark("112")), "liquidation_order")["side"] == "buy"


def test_nobody_is_held_for_a_mark_that_hurts_nobody():
    desk = alice_long()
    # 125 - 110 = 15 against 8.9.
    assert desk.tell(mark("89")) == []
    assert in_force(desk) == steps("100")


def test_no_margin_call_at_an_unconfirmed_mark():
    desk = alice_long()
    # 10 against 8.85: a call, were it true.
    assert desk.tell(mark("88.5")) == []
    assert kinds(desk.tell(mark("88.5"))) == ["margin_call"]


def test_first_mark_of_a_symbol_is_believed_whatever_it_is():
    desk = Desk(**BAND)
    desk.tell(mark("0.5"))
    assert in_force(desk) == steps("0.5")


def test_first_mark_of_the_log_is_measured_from_that_of_the_book():
    book = {"accounts": [], "marks": {"BTCUSDT": "100"}, "ts": START_NS}
    desk = Desk(book, **BAND)
    desk.tell(mark("111"))
    assert in_force(desk) == steps("100")
    desk.tell(mark("111"))
    assert in_force(desk) == steps("111")


def test_unconfirmed_first_mark_of_the_log_ends_the_warm_up_but_not_the_hold():
    position = {"symbol": "BTCUSDT", "qty": "10", "entry_price": "100"}
    account = {"account": "alice", "balances": {"USDT": "5"}, "positions": [position]}
    desk = Desk({"accounts": [account], "marks": {"BTCUSDT": "100"}, "ts": START_NS}, **BAND)
    (held,) = desk.tell(withdraw("alice", "1"))
    assert held["reason"] == "warming_up"
    outputs = desk.tell(mark("88"))
    assert [pick(body, "type reason") for body in outputs if body["type"] != "margin_call"] == [
        ("liquidation_released", "warming_up"), ("liquidation_held", "price_band"),
    ]  # fmt: skip
    assert "liquidation_started" in kinds(desk.tell(mark("100")))


def test_guard_of_zero_is_off():
    desk = alice_long(price_band="0")
    assert "liquidation_order" in kinds(desk.tell(mark("88")))


# -------------------------------------------------------------------------------------------- confirmed and discarded


def test_second_mark_near_the_first_confirms_it_and_the_account_is_liquidated():
    desk = alice_long()
    desk.tell(mark("88"))
    outputs = desk.tell(mark("88.1"))
    assert kinds(outputs) == [
        "margin_call", "liquidation_released", "liquidation_started", "cancel_orders", "liquidation_order",
    ]  # fmt: skip
    assert pick(outputs[1], NAMED) == RELEASED
    # The second one is in force: 125 - 119 = 6 against 8.81.
    assert pick(outputs[2], "equity maintenance_margin cause") == ("6", "8.81", "mark")
    marks = outputs[4]["decision"]["marks"]
    assert [(entry["symbol"], entry["price"]) for entry in marks] == [("BTCUSDT", "88.1")]


@pytest.mark.parametrize("price", ["135", "165"])
def test_second_mark_as_far_from_the_unconfirmed_one_as_the_band_confirms(price):
    desk = alice_long()
    desk.tell(mark("150"), mark(price))
    assert in_force(desk) == steps(price)


@pytest.mark.parametrize("price", ["134.99999", "165.00001"])
def test_second_mark_one_unit_further_does_not_and_is_now_the_one_that_waits(price):
    desk = alice_long()
    desk.tell(mark("150"), mark(price))
    assert in_force(desk) == steps("100")
    desk.tell(mark(price))
    assert in_force(desk) == steps(price)


@pytest.mark.parametrize("price", ["90", "110"])
def test_second_mark_within_the_band_of_the_confirmed_one_discards_the_first(price):
    desk = alice_long()
    desk.tell(mark("150"), mark(price))
    assert in_force(desk) == steps(price)
    # 150 is forgotten: it has to be said twice again.
    desk.tell(mark("150"))
    assert in_force(desk) == steps(price)


def test_discarded_mark_releases_the_held_without_a_liquidation():
    desk = alice_long()
    desk.tell(mark("88"))
    # 98 is 10.2 % from 88, and 2 % from 100.
    assert [pick(body, NAMED) for body in desk.tell(mark("98"))] == [RELEASED]
    assert desk.equity("alice") == "105"


def test_wait_of_a_discarded_mark_is_over_with_it():
    desk = alice_long()
    desk.tell(mark("88"), mark("98"))
    desk.wait(10_000)
    assert desk.tell(deposit("bob", "1")) == []
    assert in_force(desk) == steps("98")
    # A new one waits as long as any.
    held = one(desk.tell(mark("88")), "liquidation_held")
    assert desk.tell(deposit("bob", "1", ts=held["ts"] + 1000 * MS - 1)) == []


def test_feed_that_alternates_between_two_prices_is_measured_by_the_last():
    desk = alice_long()
    # 150, 88, 150: none is near the one before, nor near 100.
    assert kinds(desk.tell(mark("150"), mark("88"), mark("150"))) == ["liquidation_held", "liquidation_released"]
    assert in_force(desk) == steps("100")


def test_mark_older_than_the_unconfirmed_one_is_ignored_and_confirms_nothing():
    desk = alice_long()
    ts = desk.now + 10 * MS
    desk.tell(mark("88", ts=ts))
    assert desk.tell(mark("88", ts=ts - 1)) == []
    assert (in_force(desk), desk.shard.counters.ignored) == (steps("100"), 1)
    assert "liquidation_order" in kinds(desk.tell(mark("88", ts=ts)))


def test_mark_of_another_symbol_confirms_nothing():
    desk = alice_long()
    desk.tell(mark("88"), mark("88", "ETHUSDT"), mark("88", "ETHUSDT"))
    assert in_force(desk) == steps("100")


# --------------------------------------------------------------------------------------------------------------- index


@pytest.mark.parametrize("index_price", ["88", "97.77777", "80"])
def test_index_price_within_the_band_confirms_a_far_mark_at_once(index_price):
    # 97.77777 x 0.9 is a little under 88, 80 x 1.1 is 88.
    desk = alice_long()
    outputs = desk.tell(mark("88", index_price=index_price))
    assert pick(one(outputs, "liquidation_started"), "account equity") == ("alice", "5")


@pytest.mark.parametrize("index_price", ["97.77778", "79.99999", "100", "0.000001"])
def test_index_price_elsewhere_confirms_nothing(index_price):
    desk = alice_long()
    assert [pick(body, NAMED) for body in desk.tell(mark("88", index_price=index_price))] == [HELD]


def test_index_price_confirms_the_second_mark_where_the_first_had_none():
    desk = alice_long()
    desk.tell(mark("150"))
    assert "liquidation_order" in kinds(desk.tell(mark("88", index_price="88")))


def test_index_price_does_not_doubt_a_mark_within_the_band():
    desk = alice_long()
    desk.tell(mark("95", index_price="10"))
    assert in_force(desk) == steps("95")


# ------------------------------------------------------------------------------------------------------ longest wait


def test_unconfirmed_mark_is_believed_once_the_longest_wait_is_over():
    desk = alice_long()
    held = one(desk.tell(mark("88")), "liquidation_held")
    assert desk.tell(deposit("bob", "1", ts=held["ts"] + 1000 * MS - 1)) == []
    outputs = desk.tell(deposit("bob", "1", ts=held["ts"] + 1000 * MS))
    assert kinds(outputs) == [
        "margin_call", "liquidation_released", "liquidation_started", "cancel_orders", "liquidation_order",
    ]  # fmt: skip
    assert pick(outputs[2], "account equity") == ("alice", "5")


def test_wait_counts_from_the_first_of_a_row_of_unconfirmed_marks_and_the_last_is_believed():
    desk = alice_long()
    first = START_NS + 100 * MS
    desk.tell(mark("150", ts=first), mark("88", ts=first + 500 * MS))
    outputs = desk.tell(deposit("bob", "1", ts=first + 1000 * MS))
    assert pick(one(outputs, "liquidation_started"), "account equity") == ("alice", "5")
    assert in_force(desk) == steps("88")


def test_unconfirmed_mark_that_holds_nobody_is_believed_after_the_wait_as_well():
    desk = alice_long()
    desk.tell(mark("112"))
    desk.wait(1000)
    desk.tell(deposit("bob", "1"))
    assert in_force(desk) == steps("112")


def test_mark_believed_after_the_wait_is_as_old_as_it_is():
    desk = alice_long(mark_stale_ms=900)
    held = one(desk.tell(mark("88")), "liquidation_held")
    outputs = desk.tell(deposit("bob", "1", ts=held["ts"] + 1000 * MS))
    assert [pick(body, "type reason") for body in outputs if body["type"] != "margin_call"] == [
        ("liquidation_released", "price_band"), ("liquidation_held", "stale_mark"),
    ]  # fmt: skip


def test_wait_without_a_limit_never_ends():
    desk = alice_long(max_hold_ms=0)
    desk.tell(mark("88"))
    desk.wait(86_400_000)
    assert desk.tell(deposit("bob", "1")) == []
    assert in_force(desk) == steps("100")


@pytest.mark.parametrize(("before", "after"), [(60_000, 1_000), (1_000, 60_000), (0, 1_000)])
def test_longest_wait_changed_by_control_holds_for_the_mark_that_waits_already(before, after):
    desk = alice_long(max_hold_ms=before)
    held = one(desk.tell(mark("88")), "liquidation_held")
    desk.tell(control("set_policy", max_hold_ms=after))
    desk.tell(deposit("bob", "1", ts=held["ts"] + after * MS - 1))
    assert in_force(desk) == steps("100")
    outputs = desk.tell(deposit("bob", "1", ts=held["ts"] + after * MS))
    assert in_force(desk) == steps("88")
    assert one(outputs, "liquidation_started")["account"] == "alice"


# ------------------------------------------------------------------------------------------ while a mark is unconfirmed


def test_equity_goes_on_with_the_confirmed_mark():
    desk = alice_long()
    desk.tell(mark("88"), deposit("bob", "25"), buy("bob", "10", "100"))
    # Bought at the confirmed 100: nothing lost yet.
    assert (desk.equity("alice"), desk.equity("bob")) == ("125", "25")


def test_account_that_opens_into_an_unconfirmed_mark_is_held():
    desk = alice_long()
    desk.tell(mark("88"), deposit("bob", "125"))
    assert [pick(body, "type account reason") for body in desk.tell(buy("bob", "10", "100"))] == [
        ("liquidation_held", "bob", "price_band"),
    ]  # fmt: skip


def test_funding_is_paid_on_the_confirmed_mark():
    desk = alice_long()
    desk.tell(mark("88"), funding("0.001"))
    # 10 x 100 x 0.001.
    assert desk.wallet("alice") == "124"


def test_account_in_trouble_at_the_confirmed_mark_waits_as_well():
    desk = alice_long()
    desk.tell(mark("150"))
    # 9 left against 10, and at 150 she would be rich.
    outputs = desk.tell(withdraw("alice", "116"))
    assert [pick(body, NAMED) for body in outputs if body["type"] != "margin_call"] == [HELD]
    assert kinds(desk.tell(mark("100")))[:2] == ["liquidation_released", "liquidation_started"]


def test_deposit_that_carries_the_unconfirmed_mark_releases():
    desk = alice_long()
    desk.tell(mark("88"))
    # 5 + 4 against 8.8.
    assert [pick(body, NAMED) for body in desk.tell(deposit("alice", "4"))] == [RELEASED]
    assert kinds(desk.tell(mark("88"))) == ["margin_call"]


def test_order_in_flight_is_answered_during_the_wait_and_the_next_follows_it():
    desk = alice_long()
    order = one(desk.tell(mark("90"), withdraw("alice", "20")), "liquidation_order")
    # 5 against 9. A print of 70 says she is lost; nobody else says so.
    assert [pick(body, NAMED) for body in desk.tell(mark("70"))] == [HELD]
    assert of(desk.tell(answer(order, "4", "90"), done(order)), "liquidation_order") == []
    assert desk.qty("alice") == "6"
    outputs = desk.tell(mark("89.5"))
    # 5 - 3 = 2 against 5.37.
    assert kinds(outputs) == ["liquidation_released", "liquidation_order"]
    assert pick(outputs[1], "order_id qty") == ("alice/1/2", "6")


def test_nobody_is_taken_over_or_deleveraged_at_an_unconfirmed_mark():
    desk = alice_long()
    desk.tell(deposit("$insurance", "1000"), deposit("sam", "1000"), sell("sam", "10", "100"))
    assert kinds(desk.tell(mark("50"))) == ["liquidation_held"]
    assert "takeover" in kinds(desk.tell(mark("50")))


def test_both_symbols_unconfirmed_are_named_one_after_the_other():
    desk = alice_long()
    desk.tell(mark("50", "ETHUSDT"), deposit("alice", "100"), buy("alice", "20", "50", "ETHUSDT"))
    desk.tell(mark("44", "ETHUSDT"), mark("88"))
    # 225 - 120 - 120 < 0, were both true.
    assert pick(desk.outputs[-1], NAMED) == HELD
    # 105 less what ether would cost.
    assert [pick(body, "type symbol") for body in desk.tell(mark("88"))] == [
        ("liquidation_released", "BTCUSDT"), ("liquidation_held", "ETHUSDT"),
    ]  # fmt: skip
    assert "liquidation_started" in kinds(desk.tell(mark("44", "ETHUSDT")))


def test_hedge_is_not_held_for_a_mark_that_both_legs_share():
    desk = Desk(**BAND)
    desk.tell(mark("100"), deposit("alice", "25"))
    desk.tell(buy("alice", "10", "100", leg="long"), sell("alice", "10", "100", leg="short"))
    # What the long loses the short wins: 25 against 2 x 5.
    assert desk.tell(mark("50")) == []


# ------------------------------------------------------------------------------------------------------ band by control


def test_band_set_by_control_measures_the_next_mark():
    desk = alice_long(price_band="0")
    desk.tell(control("set_policy", price_band="0.01"), mark("98.99999"))
    assert in_force(desk) == steps("100")
    desk.tell(control("set_policy", price_band="0.05"), mark("95"))
    assert in_force(desk) == steps("95")


def test_narrower_band_does_not_doubt_the_mark_in_force():
    desk = alice_long()
    desk.tell(mark("92"))
    assert kinds(desk.tell(control("set_policy", price_band="0.01"))) == ["policy_changed"]
    assert in_force(desk) == steps("92")


@pytest.mark.parametrize("band", ["0", "0.12"])
def test_mark_that_waits_is_believed_once_the_band_has_room_for_it_or_is_off(band):
    desk = alice_long()
    desk.tell(mark("88"))
    outputs = desk.tell(control("set_policy", price_band=band))
    assert in_force(desk) == steps("88")
    assert {"policy_changed", "liquidation_released", "liquidation_started"} <= set(kinds(outputs))


def test_mark_that_waits_goes_on_waiting_where_the_new_band_has_no_room_for_it():
    desk = alice_long()
    desk.tell(mark("88"))
    assert kinds(desk.tell(control("set_policy", price_band="0.119999"))) == ["policy_changed"]
    assert in_force(desk) == steps("100")


# ---------------------------------------------------------------------------------------------- what leaves 64 bits


def test_unconfirmed_mark_that_an_account_cannot_bear_stops_nothing():
    desk = Desk(**BAND)
    desk.tell(mark("1"), mark("1", "ETHUSDT"), deposit("alice", "10000000"))
    desk.tell(buy("alice", "1000000", "1"), buy("alice", "1000000", "1", "ETHUSDT"))
    # A million coins at 60,000 are 60 billion, twice that is more than an account may be worth.
    desk.tell(mark("60000"), mark("60000"))
    outputs = desk.tell(mark("60000", "ETHUSDT"))
    desk.wait(1000)
    outputs += desk.tell(deposit("bob", "1"))
    assert [body["reason"] for body in of(outputs, "reject")] in ([], ["overflow"])
    # 10 million and 59,999 a coin of bitcoin; ether as it was.
    assert (desk.wallet("bob"), desk.equity("alice")) == ("1", "60009000000")


def test_position_that_outgrows_an_unconfirmed_mark_is_not_valued_at_it():
    desk = Desk(**BAND)
    desk.tell(mark("1"), deposit("alice", "39000000000"), mark("60000"))
    # 30 billion coins at 1 are within the bound of a position, at 60,000 they are not.
    desk.tell(buy("alice", "30000000000", "1"))
    desk.wait(1000)
    desk.tell(deposit("bob", "1"))
    assert desk.equity("alice") == "39000000000"


# ------------------------------------------------------------------------------------------------------- asset prices


def coin_holder(**options):
    """Alice holds 125 coins of 1 against 10 BTC from 100: with the coin at 0.85 she has 106.25, at 0.07 8.75."""
    desk = Desk(assets={"COIN": {}}, **{**BAND, **options})
    desk.tell(mark("100"), asset_price("COIN", "1"), deposit("alice", "125", "COIN"), buy("alice", "10", "100"))
    return desk


def coin(desk):
    return desk.shard.book.asset_prices[desk.shard.book.asset_index["COIN"]].value


@pytest.mark.parametrize(("price", "believed"), [("0.9", True), ("1.1", True), ("0.89999999", False),
                                                 ("1.10000001", False)])  # fmt: skip
def test_asset_price_as_far_away_as_the_band_is_believed_and_a_unit_further_is_not(price, believed):
    desk = coin_holder()
    desk.tell(asset_price("COIN", price))
    assert (coin(desk) != 10**8) is believed


def test_unconfirmed_price_of_the_collateral_holds_under_the_name_of_the_asset_and_is_confirmed_by_the_next():
    desk = coin_holder()
    (held,) = desk.tell(asset_price("COIN", "0.07"))
    assert pick(held, NAMED) == ("liquidation_held", "alice", "price_band", "COIN")
    assert desk.equity("alice") == "125"
    outputs = desk.tell(asset_price("COIN", "0.07"))
    assert pick(one(outputs, "liquidation_released"), "reason symbol") == ("price_band", "COIN")
    assert pick(one(outputs, "liquidation_started"), "equity") == ("8.75",)


def test_second_price_near_the_confirmed_one_discards_and_releases():
    desk = coin_holder()
    desk.tell(asset_price("COIN", "0.07"))
    assert kinds(desk.tell(asset_price("COIN", "1.01"))) == ["liquidation_released"]
    assert desk.equity("alice") == "126.25"


def test_named_source_cannot_confirm_itself_and_another_can():
    desk = coin_holder()
    desk.tell(asset_price("COIN", "0.07", source="a"))
    for _ in range(3):
        assert desk.tell(asset_price("COIN", "0.07", source="a")) == []
    assert "liquidation_started" in kinds(desk.tell(asset_price("COIN", "0.07", source="b")))


def test_two_sources_that_disagree_confirm_neither():
    desk = coin_holder()
    desk.tell(asset_price("COIN", "0.07", source="a"), asset_price("COIN", "5", source="b"))
    assert desk.equity("alice") == "125"


def test_unconfirmed_asset_price_is_believed_once_the_longest_wait_is_over_even_of_one_source():
    desk = coin_holder()
    held = one(desk.tell(asset_price("COIN", "0.07", source="a")), "liquidation_held")
    desk.tell(asset_price("COIN", "0.07", source="a", ts=held["ts"] + 500 * MS))
    assert desk.tell(deposit("bob", "1", ts=held["ts"] + 1000 * MS - 1)) == []
    assert "liquidation_started" in kinds(desk.tell(deposit("bob", "1", ts=held["ts"] + 1000 * MS)))


def test_price_fixed_by_control_ends_the_doubt():
    desk = coin_holder()
    desk.tell(asset_price("COIN", "0.07"))
    outputs = desk.tell(control("set_asset", asset="COIN", price="1"))
    assert kinds(outputs) == ["policy_changed", "liquidation_released"]
    assert desk.tell(asset_price("COIN", "0.07")) == []
    assert desk.equity("alice") == "125"


def test_profit_in_a_coin_whose_price_is_unconfirmed_counts_at_the_confirmed_one():
    risk = {"settle": "COIN", "price_tick": "0.1", "lot": "0.001", "tiers": [["0", "0.01", "50"]]}
    desk = Desk(assets={"COIN": {}}, instruments={"BTCCOIN": risk}, **BAND)
    desk.tell(asset_price("COIN", "1"), mark("100", "BTCCOIN"), deposit("alice", "20"))
    desk.tell(buy("alice", "10", "100", "BTCCOIN"))
    # -2 coins and 20 dollars. At 12 dollars a coin the loss would be 24.
    desk.tell(mark("99.8", "BTCCOIN"))
    (held,) = desk.tell(asset_price("COIN", "12"))
    assert pick(held, NAMED) == ("liquidation_held", "alice", "price_band", "COIN")
    assert desk.equity("alice") == "18"
    # Under water: nothing to order, nobody to take it.
    assert "adl_remaining" in kinds(desk.tell(asset_price("COIN", "12")))
