"""What the simulated venue fills, at which price, when it makes an order wait (CONTRACT 7, ``--venue book``).

Alice has 20 and is 10 BTC long from 100; at 98.9 her order sells 10 at 98 or better.
"""

from __future__ import annotations

from fractions import Fraction

import pytest

from tests.scenarios import (
    COIN,
    Desk,
    asset_price,
    buy,
    control,
    decimal,
    deposit,
    kinds,
    mark,
    of,
    one,
    pick,
    sell,
    withdraw,
)


def desk_with(deposited="20", assets=None, policy=None, **instrument):
    desk = Desk(venue=True, assets=assets, instruments={"BTCUSDT": instrument}, **(policy or {}))
    desk.tell(mark("100"), deposit("alice", deposited), buy("alice", "10", "100"))
    return desk


def average_price(desk, start="100", qty="10"):
    """What Alice sold at, from what she lost."""
    return decimal(start) + (decimal(desk.wallet("alice")) - 20) / decimal(qty)


def test_order_is_filled_at_once_at_the_mark_and_done_in_the_same_message():
    desk = desk_with()
    outputs = desk.tell(mark("98.9"))
    assert kinds(outputs) == [
        "margin_call", "liquidation_started", "cancel_orders", "liquidation_order", "liquidation_ended",
    ]  # fmt: skip
    assert {body["ts"] for body in outputs} == {desk.shard.clock}
    assert (desk.qty("alice"), desk.wallet("alice")) == ("0", "9")


@pytest.mark.parametrize(
    ("half_spread", "price"),
    [
        ("0", "98.9"),
        # 98.9 x 0.999 = 98.8011: a seller gets the tick below.
        ("0.001", "98.8"),
        # 98.9 x (1 - 0.0010111) = 98.80000221; a millionth more of the mark: 98.79990331.
        ("0.001011", "98.8"),
        ("0.001012", "98.7"),
    ],
)
def test_sale_pays_half_the_spread_rounded_down_to_the_tick(half_spread, price):
    desk = desk_with(half_spread=half_spread)
    desk.tell(mark("98.9"))
    assert average_price(desk) == decimal(price)


def test_purchase_pays_half_the_spread_rounded_up_to_the_tick():
    desk = Desk(venue=True, instruments={"BTCUSDT": {"half_spread": "0.001"}})
    desk.tell(mark("100"), deposit("bob", "20"), sell("bob", "10", "100"), mark("101.1"))
    # 101.1 x 1.001 = 101.2011, so 101.3: 13 lost.
    assert (desk.qty("bob"), desk.wallet("bob")) == ("0", "7")


def test_impact_grows_with_the_square_root_of_the_share_of_the_depth():
    # 989 of 3956 is a quarter, its root a half: 98.9 x (1 - 0.001 - 0.01 / 2) = 98.3066.
    desk = desk_with(half_spread="0.001", impact="0.01", depth="3956")
    desk.tell(mark("98.9"))
    assert average_price(desk) == decimal("98.3")


def test_irrational_root_is_rounded_against_the_account():
    # 989 / 1978 is a half: 98.9 x (1 - x / root 2) is 98.3000.. for x = 0.0085795..; a little less than that x still
    # gives 98.3, a little more 98.2.
    edge = Fraction(6, 989) ** 2 * 2
    low, high = "0.008579", "0.00858"
    assert decimal(low) ** 2 < edge < decimal(high) ** 2
    for impact, price in ((low, "98.3"), (high, "98.2")):
        desk = desk_with(impact=impact, depth="1978")
        desk.tell(mark("98.9"))
        assert average_price(desk) == decimal(price)


def test_impact_without_depth_has_no_effect():
    desk = desk_with(impact="0.01")
    desk.tell(mark("98.9"))
    assert average_price(desk) == decimal("98.9")


def test_fee_is_the_taker_fee_rounded_up_to_the_decimals_of_the_asset():
    desk = desk_with(taker_fee="0.0005", assets={"USDT": {"decimals": 2}})
    desk.tell(mark("98.9"))
    # 0.05 % of 989 is 0.4945.
    assert (desk.wallet("$fees"), desk.wallet("alice")) == ("0.5", "8.5")


def test_fill_never_goes_beyond_the_limit():
    # 1 % under 98.9 is 97.9: nothing fills at 98 or better, and the attempts are used up, one a mark.
    desk = desk_with(half_spread="0.01", policy={"max_attempts": 2})
    outputs = desk.tell(mark("98.9"))
    assert [body["order_id"] for body in of(outputs, "liquidation_order")] == ["alice/1/1", "alice/1/2"]
    assert desk.qty("alice") == "10"
    outputs = desk.tell(mark("98.9"))
    assert kinds(outputs) == ["takeover", "liquidation_ended"]
    assert desk.shard.counters.fills == 1


def test_order_fills_as_far_as_the_impact_stays_within_the_limit():
    # Alone a lot sells at 98.9, all ten at 98.9 x (1 - 0.02) = 96.92. Down to 98 it may fall by 0.9 / 98.9, so
    # (0.0091001 / 0.02)^2 = 0.207.. of the depth of 989, and a price on the tick at 98 exactly.
    desk = desk_with(impact="0.02", depth="989")
    desk.tell(mark("98.9"))
    fill = 10 - decimal(desk.qty("alice"))
    fraction = (Fraction(9, 989) / Fraction(2, 100)) ** 2
    assert fill == Fraction(int(fraction * 10 * 1000), 1000)
    assert decimal(desk.wallet("alice")) == 20 - 2 * fill


def test_depth_between_two_marks_is_all_there_is():
    # 395.6 at 98.9 is 4 BTC.
    desk = desk_with(depth="395.6", policy={"target_buffer": "1"})
    outputs = desk.tell(mark("98.9"))
    assert desk.qty("alice") == "6"
    # 9 against 2 x 5.934 wanted: the rest is ordered in the same step, and waits for the next mark.
    assert [pick(body, "order_id qty") for body in of(outputs, "liquidation_order")] == [
        ("alice/1/1", "10"), ("alice/1/2", "6"),
    ]  # fmt: skip
    assert desk.tell(deposit("bob", "1")) == []
    outputs = desk.tell(mark("98.9"))
    assert (desk.qty("alice"), one(outputs, "liquidation_ended")["outcome"]) == ("2", "healthy")


def test_lot_that_does_not_fit_the_depth_any_more_waits():
    # One unit less than 4 BTC's worth.
    desk = desk_with(depth="395.59999999")
    desk.tell(mark("98.9"))
    assert desk.qty("alice") == "6.001"


def test_second_account_gets_what_the_first_left_of_the_depth():
    desk = Desk(venue=True, instruments={"BTCUSDT": {"depth": "1483.5"}})
    desk.tell(mark("100"))
    for name, deposited in (("alice", "20"), ("bob", "19.5")):
        desk.tell(deposit(name, deposited), buy(name, "10", "100"))
    desk.tell(mark("98.9"))
    # 15 BTC: bob, the worse, all 10; alice 5, and with those she is healthy.
    assert (desk.qty("bob"), desk.qty("alice")) == ("0", "5")
    assert one(desk.outputs[-1:], "liquidation_ended")["account"] == "alice"


def test_order_that_came_too_late_for_the_depth_is_filled_by_the_next_mark():
    desk = Desk(venue=True, instruments={"BTCUSDT": {"depth": "989"}})
    desk.tell(mark("100"))
    for name, deposited in (("alice", "20"), ("bob", "19.5")):
        desk.tell(deposit(name, deposited), buy(name, "10", "100"))
    desk.tell(mark("98.9"))
    assert (desk.qty("bob"), desk.qty("alice")) == ("0", "10")
    (ended,) = desk.tell(mark("98.8"))
    assert pick(ended, "account outcome equity") == ("alice", "closed", "8")
    assert len(of(desk.outputs, "liquidation_order")) == 2


def test_order_that_was_given_up_while_it_waited_is_not_filled():
    desk = Desk(venue=True, instruments={"BTCUSDT": {"depth": "989"}}, order_timeout_ms=1000)
    desk.tell(mark("100"))
    for name, deposited in (("alice", "20"), ("bob", "19.5")):
        desk.tell(deposit(name, deposited), buy(name, "10", "100"))
    desk.tell(mark("98.9"))
    desk.wait(1000)
    # Bob took all the depth. Alice's order times out where it waits, and the next one waits in its place.
    assert [body["order_id"] for body in desk.tell(deposit("carol", "1"))] == ["alice/1/2"]
    # The depth of this mark would do for both.
    desk.tell(control("set_instrument", symbol="BTCUSDT", depth="100000"), mark("98.9"))
    assert desk.qty("alice") == "0"


def test_both_symbols_have_a_depth_of_their_own():
    desk = Desk(venue=True, instruments={"BTCUSDT": {"depth": "98.9"}})
    desk.tell(mark("100"), mark("50", "ETHUSDT"), deposit("alice", "40"))
    desk.tell(buy("alice", "10", "100"), buy("alice", "20", "50", "ETHUSDT"))
    desk.tell(mark("98.9"))
    # 29 against 29.89. One BTC is all that fits; ether has no limit; 29 carry the 9 left.
    assert (desk.qty("alice"), desk.qty("alice", "ETHUSDT")) == ("9", "0")


def test_both_legs_of_a_hedge_are_filled():
    desk = Desk(venue=True)
    desk.tell(mark("100"), deposit("alice", "30"))
    desk.tell(buy("alice", "10", "100", leg="long"), sell("alice", "5", "100", leg="short"))
    desk.tell(mark("96.9"))
    # 30 - 31 + 15.5; both orders were sent before the first was answered.
    assert (desk.qty("alice", leg="long"), desk.qty("alice", leg="short"), desk.wallet("alice")) == ("0", "0", "14.5")


def test_bucket_is_filled_in_the_bucket():
    desk = Desk(venue=True)
    desk.tell(mark("100"), deposit("bob", "100"), buy("bob", "5", "100"))
    desk.tell(buy("bob", "10", "100", isolated=True, fee="-20"))
    desk.tell(mark("98.9"))
    # 9 of the bucket's 20 come home; the 5 at large are untouched.
    assert (desk.qty("bob", bucket="BTCUSDT"), desk.qty("bob"), desk.wallet("bob")) == ("0", "5", "109")


def test_collateral_is_converted_at_the_price_less_slippage():
    desk = Desk(venue=True, assets={"COIN": COIN, "USDT": {"decimals": 2}})
    desk.tell(asset_price("COIN", "10"), deposit("alice", "10", "COIN"), withdraw("alice", "88"))
    # Down to 8.8 a coin: 87.12 would come in at most.
    outputs = desk.tell(asset_price("COIN", "8.8"))
    assert kinds(outputs) == [
        "liquidation_started",
        "cancel_orders",
        "collateral_sale",
        "bad_debt",
        "liquidation_ended",
    ]
    assert pick(one(outputs, "bad_debt"), "asset deficit") == ("USDT", "0.88")
    assert [desk.wallet("alice", asset) for asset in ("USDT", "COIN")] == ["0", "0"]
    assert [desk.wallet("$clearing", asset) for asset in ("USDT", "COIN")] == ["-87.12", "10"]


def test_conversion_brings_whole_steps_of_what_is_bought_rounded_down():
    desk = Desk(venue=True, assets={"COIN": {**COIN, "weights": [["0", "0"]]}, "USDT": {"decimals": 2}})
    desk.tell(asset_price("COIN", "3.33333333"), mark("100"), deposit("alice", "1", "COIN"))
    desk.tell(withdraw("alice", "5"))
    # 3.2999999967 for the coin.
    assert desk.wallet("$clearing") == "-3.29"


def test_all_inputs_and_answers_are_counted_each_once():
    desk = desk_with()
    desk.tell(mark("98.9"), mark("98.9", "NOPE"), mark("90", ts=1), deposit("bob", "1", transfer_id="t"))
    desk.tell(deposit("bob", "1", transfer_id="t"))
    counters = desk.shard.counters
    assert counters.fills == 2
    told = counters.accepted + counters.rejected.total() + counters.duplicates + counters.ignored
    assert counters.messages == told
