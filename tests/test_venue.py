"""What the simulated venues fill, at which price, when they make an order wait, which marks they move (CONTRACT 7).

Alice has 20 and is 10 BTC long from 100; at 98.9 her order sells 10 at 98 or better.
"""

from __future__ import annotations

import json
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest

from engine.core.events import Message, Origin
from engine.core.machine import Machine
from engine.core.shard import Shard
from engine.edges.codec import decode
from engine.edges.digest import state_document
from engine.edges.venue import ImpactVenue
from tests.scenarios import (
    COIN,
    SECOND,
    START_NS,
    Body,
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
    tiny_risk,
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


def test_depth_refills_and_a_waiting_order_goes_on_when_an_unconfirmed_mark_is_believed_after_its_wait():
    policy = {"target_buffer": "1", "price_band": "0.1", "max_hold_ms": 1000}
    desk = desk_with(depth="395.6", policy=policy)
    desk.tell(mark("98.9"))
    # Four are sold, the order for six waits for the next mark. That is 120, and nobody believes it for a second.
    desk.tell(mark("120"))
    assert desk.qty("alice") == "6"
    desk.wait(1000)
    desk.tell(deposit("bob", "1"))
    # 395.6 at 120 is 3.296 bitcoin, of the order for six.
    assert desk.qty("alice") == "2.704"


def test_unconfirmed_mark_fills_nothing_and_refills_nothing():
    desk = desk_with(depth="395.6", policy={"target_buffer": "1", "price_band": "0.1"})
    desk.tell(mark("98.9"), mark("120"))
    assert desk.qty("alice") == "6"
    desk.tell(mark("98.9"))
    assert desk.qty("alice") == "2"


# ------------------------------------------------------------------------------------------------------------- impact

# Ten bitcoin at 98.9 are 989, a quarter of this depth; its root is a half.
DEPTH = "3956"
HALF_LIFE_S = 60


def impact_desk(impact="0.01", depth=DEPTH, deposited="20", policy=None, **instrument):
    """Alice is 10 long, on a venue whose marks feel what is sold."""
    fields = {"BTCUSDT": {"impact": impact, "depth": depth, **instrument}}
    desk = Desk(instruments=fields, **(policy or {}))
    desk.shard.venue = ImpactVenue()
    desk.tell(mark("100"), deposit("alice", deposited), buy("alice", "10", "100"))
    return desk


def in_force(desk, symbol="BTCUSDT"):
    index = desk.shard.book.symbol_index[symbol]
    instrument = desk.shard.book.instruments[index]
    return Fraction(desk.shard.book.marks[index].value, 10**instrument.price_decimals)


def root(value, digits=40):
    """The square root of a fraction, to far more digits than a mark has."""
    with localcontext() as context:
        context.prec = digits
        return Fraction((Decimal(value.numerator) / Decimal(value.denominator)).sqrt())


def halved(amount, seconds):
    """What is left of an amount after some seconds."""
    with localcontext() as context:
        context.prec = 40
        return amount * Fraction(Decimal(2) ** (-Decimal(str(seconds)) / HALF_LIFE_S))


def moved(price, flow, *, impact="0.01", depth=DEPTH, decimals=5):
    """The mark that a log's ``price`` becomes after ``flow`` (sold < 0), on its grid."""
    move = decimal(impact) * root(abs(flow) / decimal(depth)) * (1 if flow > 0 else -1)
    return Fraction(round(decimal(price) * (1 + move) * 10**decimals), 10**decimals)


def test_later_mark_is_lower_by_the_root_of_the_share_of_the_depth_that_was_sold():
    desk = impact_desk()
    desk.tell(mark("98.9"))
    assert desk.qty("alice") == "0"
    # Of the same moment, so that nothing is forgotten: 98.9 x (1 - 0.01 / 2) = 98.4055.
    desk.tell(mark("98.9", ts=desk.now))
    assert in_force(desk) == moved("98.9", Fraction(-989)) == Fraction("98.4055")


def test_later_mark_is_higher_by_what_was_bought():
    desk = Desk(instruments={"BTCUSDT": {"impact": "0.01", "depth": "4044"}})
    desk.shard.venue = ImpactVenue()
    desk.tell(mark("100"), deposit("bob", "20"), sell("bob", "10", "100"), mark("101.1"))
    assert desk.qty("bob") == "0"
    # Ten at 101.1 are 1011, a quarter of 4044: 101.1 x 1.005 = 101.6055.
    desk.tell(mark("101.1", ts=desk.now))
    assert in_force(desk) == Fraction("101.6055")


@pytest.mark.parametrize("impact", ["0.000001", "0.003", "0.0173"])
@pytest.mark.parametrize("depth", ["989", "1978", "50000.00000001"])
@pytest.mark.parametrize("price", ["98.9", "97.12345", "61.00001"])
def test_moved_mark_is_the_square_root_law_to_the_last_unit(impact, depth, price):
    desk = impact_desk(impact, depth)
    desk.tell(mark("98.9"))
    sold = (10 - decimal(desk.qty("alice"))) * decimal("98.9")
    desk.tell(mark(price, ts=desk.now))
    assert sold > 0
    assert in_force(desk) == moved(price, -sold, impact=impact, depth=depth)


@pytest.mark.parametrize(
    "seconds", ["0.000000001", "1", "15", "30", "59.999999999", "60", "90", "120", "600.5", "3600"]
)
def test_what_was_sold_is_forgotten_by_half_each_half_life(seconds):
    desk = impact_desk()
    desk.tell(mark("98.9"))
    desk.tell(mark("98.9", ts=desk.now + int(decimal(seconds) * SECOND)))
    expected = moved("98.9", -halved(Fraction(989), seconds))
    assert abs(in_force(desk) - expected) <= Fraction(1, 10**5)


def test_after_one_half_life_half_of_it_is_felt_and_after_two_a_quarter():
    # 0.01 x root of an eighth is 0.35355 %: 98.9 less 0.34966. Of a sixteenth 0.25 %: 0.24725.
    for half_lives, price in ((1, "98.55034"), (2, "98.65275")):
        desk = impact_desk()
        desk.tell(mark("98.9"))
        desk.tell(mark("98.9", ts=desk.now + half_lives * HALF_LIFE_S * SECOND))
        assert in_force(desk) == Fraction(price)


def test_half_life_is_the_policy_s():
    desk = impact_desk(policy={"impact_half_life_s": 5})
    desk.tell(mark("98.9"))
    desk.tell(mark("98.9", ts=desk.now + 5 * SECOND))
    assert in_force(desk) == Fraction("98.55034")


def test_in_the_end_the_log_s_mark_is_back():
    desk = impact_desk()
    desk.tell(mark("98.9"))
    desk.tell(mark("98.9", ts=desk.now + 100 * HALF_LIFE_S * SECOND))
    assert in_force(desk) == Fraction("98.9")


def test_mark_in_force_stays_until_the_next():
    desk = impact_desk()
    desk.tell(mark("98.9"), deposit("bob", "1"))
    assert in_force(desk) == Fraction("98.9")


def test_each_symbol_feels_what_was_sold_of_it_and_nothing_else():
    ether = {"impact": "0.01", "depth": "3976"}
    desk = Desk(instruments={"BTCUSDT": {"impact": "0.01", "depth": DEPTH}, "ETHUSDT": ether})
    desk.shard.venue = ImpactVenue()
    desk.tell(mark("100"), mark("50", "ETHUSDT"), deposit("alice", "20"), buy("alice", "10", "100"))
    desk.tell(deposit("bob", "25"), buy("bob", "20", "50", "ETHUSDT"), mark("98.9"), mark("50", "ETHUSDT"))
    assert (desk.qty("alice"), in_force(desk, "ETHUSDT")) == ("0", Fraction(50))
    # 19 against 19.88: twenty at 49.7 are 994, a quarter of what there is of ether.
    desk.tell(mark("49.7", "ETHUSDT"))
    assert desk.qty("bob", "ETHUSDT") == "0"
    desk.tell(mark("49.7", "ETHUSDT", ts=desk.now), mark("98.9", ts=START_NS + 3600 * SECOND))
    assert (in_force(desk, "ETHUSDT"), in_force(desk)) == (Fraction("49.4515"), Fraction("98.9"))


def test_marks_before_anything_is_filled_are_those_of_the_log():
    desk = impact_desk()
    desk.tell(mark("99.12345"))
    assert in_force(desk) == Fraction("99.12345")


def test_fill_is_priced_as_with_the_book_and_within_the_limit():
    outcomes = []
    for venue in (True, False):
        desk = Desk(venue=venue, instruments={"BTCUSDT": {"impact": "0.02", "depth": "989"}})
        if not venue:
            desk.shard.venue = ImpactVenue()
        desk.tell(mark("100"), deposit("alice", "20"), buy("alice", "10", "100"))
        order = of(desk.tell(mark("98.9")), "liquidation_order")[0]
        outcomes.append((desk.qty("alice"), desk.wallet("alice")))
        # What was sold went at the limit of 98, and what would have gone lower stayed.
        sold = 10 - decimal(desk.qty("alice"))
        assert decimal(desk.wallet("alice")) == 20 - (100 - decimal(order["limit_price"])) * sold
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("instrument", [{"impact": "0"}, {"depth": "none"}])
def test_without_impact_or_depth_nothing_is_moved(instrument):
    desk = impact_desk(**{"impact": "0.01", "depth": DEPTH, **instrument})
    desk.tell(mark("98.9"))
    assert desk.qty("alice") == "0"
    desk.tell(mark("98.9", ts=desk.now))
    assert in_force(desk) == Fraction("98.9")


def test_impact_is_off_by_default():
    desk = Desk()
    desk.shard.venue = ImpactVenue()
    desk.tell(mark("100"), deposit("alice", "20"), buy("alice", "10", "100"), mark("98.9"))
    assert desk.qty("alice") == "0"
    desk.tell(mark("98.9", ts=desk.now))
    assert in_force(desk) == Fraction("98.9")


def test_book_venue_moves_no_mark():
    desk = desk_with(impact="0.01", depth=DEPTH)
    desk.tell(mark("98.9"))
    desk.tell(mark("98.9", ts=desk.now))
    assert in_force(desk) == Fraction("98.9")


def test_sales_and_purchases_take_each_other_back():
    desk = impact_desk(impact="0.001")
    desk.tell(deposit("bob", "20"), sell("bob", "10", "100"), mark("98.9"))
    ts = desk.now
    # 989 sold; at 101.5, fed as 101.44925, bob's ten are bought: 1014.4925 - 989 = 25.4925 remain bought.
    desk.tell(mark("101.5", ts=ts))
    assert in_force(desk) == moved("101.5", Fraction(-989), impact="0.001") == Fraction("101.44925")
    assert desk.qty("bob") == "0"
    desk.tell(mark("100", ts=ts))
    assert in_force(desk) == moved("100", Fraction("25.4925"), impact="0.001")


def test_two_sales_add_up_before_the_root_is_taken():
    desk = impact_desk(impact="0.001")
    desk.tell(deposit("bob", "20"), buy("bob", "10", "100"), mark("98.9"))
    assert (desk.qty("alice"), desk.qty("bob")) == ("0", "0")
    desk.tell(mark("98.9", ts=desk.now))
    assert in_force(desk) == moved("98.9", Fraction(-1978), impact="0.001")


def test_earlier_sale_has_faded_when_the_later_one_joins_it():
    desk = impact_desk(impact="0.001")
    desk.tell(deposit("bob", "22"), buy("bob", "10", "100"), mark("98.9"))
    assert (desk.qty("alice"), desk.qty("bob")) == ("0", "10")
    # 494.5 are left of 989 after a minute: 98.65 is fed as 98.61512, where bob has 8.15 against 9.86.
    later = desk.now + HALF_LIFE_S * SECOND
    desk.tell(mark("98.65", ts=later))
    assert in_force(desk) == moved("98.65", Fraction("-494.5"), impact="0.001") == Fraction("98.61512")
    assert desk.qty("bob") == "0"
    desk.tell(mark("98.65", ts=later))
    assert in_force(desk) == moved("98.65", Fraction("-494.5") - Fraction("986.1512"), impact="0.001")


@pytest.mark.parametrize(
    ("mark_decimals", "price", "fed"),
    [
        # 98.9 x 0.995 = 98.4055, and 98.7 x 0.995 = 98.2065: in the middle the even one.
        (1, "98.9", "98.4"),
        (2, "98.9", "98.41"),
        (3, "98.9", "98.406"),
        (3, "98.7", "98.206"),
        # 98.945678901234 x 0.995 = 98.45095..
        (1, "98.945678901234", "98.5"),
    ],
)
def test_mark_that_is_fed_stays_on_the_grid_of_marks(mark_decimals, price, fed):
    desk = impact_desk(mark_decimals=mark_decimals)
    desk.tell(mark("98.9"))
    assert desk.qty("alice") == "0"
    desk.tell(mark(price, ts=desk.now))
    assert in_force(desk) == Fraction(fed)


def test_liquidation_causes_the_next_one():
    def day(venue):
        desk = impact_desk()
        if venue == "book":
            desk = desk_with(impact="0.01", depth=DEPTH)
        # Bob has 10.7 at 98.9, against 9.89; at 98.4 he would have 5.8 against 9.84.
        desk.tell(deposit("bob", "21.7"), buy("bob", "10", "100"))
        desk.tell(mark("98.9"), mark("98.9"))
        return {body["account"] for body in of(desk.outputs, "liquidation_started")}

    assert day("book") == {"alice"}
    assert day("impact") == {"alice", "bob"}


def test_flow_beyond_all_depth_leaves_a_tenth_of_the_price():
    desk = impact_desk(impact="0.001", depth="989")
    desk.tell(mark("98.9"))
    assert desk.qty("alice") == "0"
    desk.tell(control("set_instrument", symbol="BTCUSDT", impact="10"), mark("98.9", ts=desk.now))
    assert in_force(desk) == Fraction("9.89")


def test_decision_states_the_mark_that_was_fed():
    desk = impact_desk()
    desk.tell(deposit("bob", "21.7"), buy("bob", "10", "100"), mark("98.9"))
    outputs = desk.tell(mark("98.9", ts=desk.now))
    (entry,) = of(outputs, "liquidation_order")[0]["decision"]["marks"]
    assert entry["price"] == "98.4055"


def test_moved_mark_outside_the_band_waits_like_any():
    desk = impact_desk(policy={"price_band": "0.004"})
    desk.tell(mark("99.6"), mark("99.25"), mark("98.9"))
    assert desk.qty("alice") == "0"
    # Moved by 0.5 %.
    desk.tell(mark("98.9", ts=desk.now))
    assert in_force(desk) == Fraction("98.9")


def test_mark_of_an_unknown_symbol_is_refused_as_ever():
    desk = impact_desk()
    assert kinds(desk.tell(mark("98.9"), mark("1", "NOPE"))[-1:]) == ["reject"]


def test_same_log_gives_the_same_bytes_in_one_batch_and_line_by_line():
    log: list[Body] = [mark("100")]
    for number in range(6):
        log += [deposit(f"a{number}", f"2{number}"), buy(f"a{number}", "10", "100")]
        log += [deposit(f"b{number}", f"2{number}"), sell(f"b{number}", "10", "100")]
    log += [mark(price) for price in ("98.9", "98.7", "98.9", "99.9", "101.5", "101.9", "98.2", "97.7", "100")]
    lines = []
    for number, body in enumerate(log):
        ids = {"transfer_id": f"t{number}"} if body["type"] == "transfer" else {"fill_id": f"f{number}"}
        extra = {} if body["type"] == "mark" else ids
        lines.append(json.dumps({**body, **extra, "ts": START_NS + number * 7 * SECOND}).encode())
    results = []
    for size in (1, 4, len(lines)):
        fields = {"BTCUSDT": {"impact": "0.01", "depth": "5000", "half_spread": "0.0001"}}
        shard = Shard(tiny_risk(instruments=fields), venue=ImpactVenue())
        machine, outputs = Machine(shard), []
        messages = []
        for number, line in enumerate(lines):
            event = decode(line)
            assert event is not None
            messages.append(Message(Origin("log", -1, number), event, line))
        for start in range(0, len(messages), size):
            outputs += machine.apply(messages[start : start + size])
        results.append((outputs, state_document(shard)))
    assert results[0] == results[1] == results[2]
    assert len({output.body["account"] for output in results[0][0] if output.body["type"] == "liquidation_order"}) > 3
