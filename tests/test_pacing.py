"""How much of a symbol is sent at a time, who goes first and who waits (CONTRACT 5.11).

A bitcoin is 98.9 when Alice's 10 have to be sold; the budget of 400 in a second has room for 4.044 of them (399.9516),
not for a lot more (400.0505). With a target buffer of 1 she has to go on until she has twice what she needs.
"""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scenarios import (
    MS,
    Desk,
    answer,
    buy,
    control,
    decimal,
    deposit,
    done,
    kinds,
    mark,
    of,
    one,
    pick,
    sell,
)

NAMED = "type account reason symbol"
WINDOW_MS = 1000


def paced(budget="400", instruments=None, **options):
    """A desk whose bitcoin has a budget."""
    fields = {"BTCUSDT": {"flow_budget": budget}, **(instruments or {})}
    return Desk(instruments=fields, **{"target_buffer": "1", "max_attempts": 100, **options})


def alice_long(budget="400", deposited="20", **options):
    desk = paced(budget, **options)
    desk.tell(mark("100"), deposit("alice", deposited), buy("alice", "10", "100"))
    return desk


def with_bob(desk, deposited="19"):
    desk.tell(deposit("bob", deposited), buy("bob", "10", "100"))
    return desk


def orders_of(outputs):
    return [pick(body, "account qty") for body in of(outputs, "liquidation_order")]


def notional(order):
    """What an order counts for: at the mark it was decided at."""
    (price,) = [entry["price"] for entry in order["decision"]["marks"] if entry["symbol"] == order["symbol"]]
    return decimal(order["qty"]) * decimal(price)


# ------------------------------------------------------------------------------------------------------ cut and waited


def test_order_that_does_not_fit_is_cut_to_the_lots_that_do():
    desk = alice_long()
    outputs = desk.tell(mark("98.9"))
    assert orders_of(outputs) == [("alice", "4.044")]
    assert of(outputs, "liquidation_held") == []


@pytest.mark.parametrize(
    ("budget", "qty"), [("989", "10"), ("988.99999999", "9.999"), ("988.9011", "9.999"), ("988.90109999", "9.998")]
)
def test_budget_is_used_to_the_last_unit(budget, qty):
    # Ten are 989, one lot is 0.0989.
    desk = alice_long(budget)
    assert orders_of(desk.tell(mark("98.9"))) == [("alice", qty)]


def test_rest_waits_until_the_order_has_left_the_window():
    desk = alice_long()
    order = one(desk.tell(mark("98.9")), "liquidation_order")
    # 9 against twice 5.890484: not enough.
    (held,) = desk.tell(answer(order, "4.044", "98.9"))
    assert pick(held, NAMED) == ("liquidation_held", "alice", "flow_budget", "BTCUSDT")
    assert desk.tell(mark("98.9", ts=order["ts"] + WINDOW_MS * MS - 1)) == []
    outputs = desk.tell(deposit("bob", "1", ts=order["ts"] + WINDOW_MS * MS))
    assert pick(outputs[0], NAMED) == ("liquidation_released", "alice", "flow_budget", "BTCUSDT")
    assert orders_of(outputs) == [("alice", "4.044")]
    assert len(outputs) == 2


def test_equals_are_sent_by_name_until_the_room_is_used_up():
    desk = paced("400", target_buffer="0")
    desk.tell(mark("100"))
    for name in ("ann", "ben", "cat", "dan"):
        desk.tell(deposit(name, "2.2"), buy(name, "2", "100"))
    # 2.2 - 2 = 0.2 against 1.98. 198 each: two fit into 400, and of the third four hundredths of a coin.
    outputs = desk.tell(mark("99"))
    assert orders_of(outputs) == [("ann", "2"), ("ben", "2"), ("cat", "0.04")]
    assert [pick(body, NAMED) for body in of(outputs, "liquidation_held")] == [
        ("liquidation_held", "dan", "flow_budget", "BTCUSDT"),
    ]  # fmt: skip


def test_unused_budget_is_not_saved_up():
    desk = alice_long()
    desk.wait(10_000)
    assert orders_of(desk.tell(mark("98.9"))) == [("alice", "4.044")]


def test_window_slides_so_that_orders_leave_it_one_by_one():
    desk = paced("400", target_buffer="0")
    desk.tell(mark("100"), deposit("ann", "2.2"), buy("ann", "2", "100"))
    desk.tell(deposit("alice", "20"), buy("alice", "10", "100"))
    # 0.4 against 1.982: Ann sends 2 at 99.1, that is 198.2. Alice has 11 against 9.91.
    first = one(desk.tell(mark("99.1")), "liquidation_order")
    assert pick(first, "account qty") == ("ann", "2")
    desk.wait(500)
    # Left are 201.8, at 98.9 that is 2.040.
    second = one(desk.tell(mark("98.9")), "liquidation_order")
    assert pick(second, "account qty") == ("alice", "2.04")
    desk.tell(done(second))
    # Ann's leaves it a second after it was sent: room for 400 - 2.04 x 98.9 = 198.244, that is 2.004.
    third = one(desk.tell(deposit("bob", "1", ts=first["ts"] + WINDOW_MS * MS)), "liquidation_order")
    assert pick(third, "account qty") == ("alice", "2.004")
    desk.tell(done(third))
    # Alice's first leaves it half a second later: room for 400 - 198.1956.
    fourth = one(desk.tell(deposit("bob", "1", ts=second["ts"] + WINDOW_MS * MS)), "liquidation_order")
    assert pick(fourth, "account qty") == ("alice", "2.04")


def test_order_counts_from_when_it_was_sent_whatever_became_of_it():
    desk = alice_long()
    order = one(desk.tell(mark("98.9")), "liquidation_order")
    # Nothing was filled; it was sent all the same.
    assert kinds(desk.tell(done(order, "rejected"))) == ["liquidation_held"]


def test_answer_that_comes_after_the_window_is_followed_at_once():
    desk = alice_long()
    order = one(desk.tell(mark("98.9")), "liquidation_order")
    desk.wait(WINDOW_MS)
    assert orders_of(desk.tell(answer(order, "4.044", "98.9"))) == [("alice", "4.044")]


def test_account_that_recovers_while_it_waits_is_released_and_its_liquidation_ends():
    desk = alice_long()
    order = one(desk.tell(mark("98.9")), "liquidation_order")
    desk.tell(answer(order, "4.044", "98.9"))
    outputs = desk.tell(deposit("alice", "100"))
    assert kinds(outputs) == ["liquidation_released", "liquidation_ended"]
    assert pick(outputs[1], "outcome") == ("healthy",)
    desk.wait(WINDOW_MS)
    assert desk.tell(mark("98.9")) == []


def test_wait_for_room_does_not_run_out():
    desk = alice_long("0.05", max_hold_ms=1000)
    desk.tell(mark("98.9"))
    desk.wait(86_400_000)
    assert desk.tell(mark("98.9")) == []


def test_account_that_falls_through_zero_while_it_waits_is_taken_over_without_budget():
    desk = alice_long("0.05")
    desk.tell(deposit("$insurance", "1000"), mark("98.9"))
    outputs = desk.tell(mark("97"))
    assert kinds(outputs)[0] == "liquidation_released"
    assert "takeover" in kinds(outputs)


def test_pause_takes_the_place_of_the_wait_and_gives_it_back():
    desk = alice_long("0.05")
    desk.tell(mark("98.9"))
    outputs = desk.tell(control("pause", scope="all", reason="x"), control("resume", scope="all", reason="x"))
    assert [pick(body, "type reason symbol") for body in outputs] == [
        ("liquidation_released", "flow_budget", "BTCUSDT"),
        ("liquidation_held", "paused", None),
        ("liquidation_released", "paused", None),
        ("liquidation_held", "flow_budget", "BTCUSDT"),
    ]


# ------------------------------------------------------------------------------------------------------- who goes first


def test_worst_account_gets_the_room_and_the_other_waits():
    desk = with_bob(alice_long("989"))
    outputs = desk.tell(mark("98.9"))
    # 8 against 9.89, and 9 against 9.89.
    assert orders_of(outputs) == [("bob", "10")]
    assert [pick(body, NAMED) for body in of(outputs, "liquidation_held")] == [
        ("liquidation_held", "alice", "flow_budget", "BTCUSDT"),
    ]  # fmt: skip


def test_next_account_gets_what_the_worst_left_cut_to_lots():
    desk = with_bob(alice_long("1088"))
    # 99 are left: 1.001 at 98.9 is 98.9989.
    assert orders_of(desk.tell(mark("98.9"))) == [("bob", "10"), ("alice", "1.001")]


def test_who_waits_longest_is_not_served_first_but_who_is_worst():
    desk = with_bob(alice_long("989"))
    desk.tell(deposit("carol", "19.9"), buy("carol", "10", "100"))
    order = one(desk.tell(mark("98.9")), "liquidation_order")
    assert order["account"] == "bob"
    # Carol, who had 8.9 and waited with Alice, takes out a dollar more than all have.
    desk.tell(done(order), deposit("carol", "-5"))
    outputs = desk.tell(deposit("dan", "1", ts=order["ts"] + WINDOW_MS * MS))
    assert orders_of(outputs) == [("carol", "10")]


def test_each_symbol_has_a_budget_of_its_own():
    desk = alice_long("0.05", "45", instruments={"ETHUSDT": {"flow_budget": "500"}})
    desk.tell(mark("50", "ETHUSDT"), buy("alice", "20", "50", "ETHUSDT"))
    # 45 - 16 = 29 against 9.84 + 20: ether is sent in part, bitcoin not at all.
    outputs = desk.tell(mark("98.4"))
    assert [pick(body, "symbol qty") for body in of(outputs, "liquidation_order")] == [("ETHUSDT", "10")]
    order = one(outputs, "liquidation_order")
    (held,) = desk.tell(answer(order, "10", "50"))
    assert pick(held, NAMED) == ("liquidation_held", "alice", "flow_budget", "BTCUSDT")


def test_symbol_without_a_budget_is_sent_whole():
    desk = paced("400", target_buffer="0")
    desk.tell(mark("50", "ETHUSDT"), deposit("alice", "25"), buy("alice", "20", "50", "ETHUSDT"))
    # 25 - 6 = 19 against 19.88.
    assert orders_of(desk.tell(mark("49.7", "ETHUSDT"))) == [("alice", "20")]


def test_legs_of_a_hedge_share_the_budget():
    desk = paced("400", target_buffer="0")
    desk.tell(mark("100"), deposit("alice", "20"))
    desk.tell(buy("alice", "10", "100", leg="long"), sell("alice", "2", "100", leg="short"))
    # 20 - 15 + 3 = 8 against 11.82. 400 / 98.5 is 4.06: all of it for the long leg.
    outputs = desk.tell(mark("98.5"))
    assert [pick(body, "leg qty") for body in of(outputs, "liquidation_order")] == [("long", "4.06")]


def test_bucket_and_account_share_the_budget():
    desk = paced("989", target_buffer="0")
    desk.tell(mark("100"), deposit("alice", "20"), buy("alice", "10", "100"))
    desk.tell(buy("alice", "10", "100", isolated=True, fee="-19"))
    outputs = desk.tell(mark("98.9"))
    assert [pick(body, "bucket qty") for body in of(outputs, "liquidation_order")] == [("BTCUSDT", "10")]
    assert pick(one(outputs, "liquidation_held"), "account bucket reason") == ("alice", None, "flow_budget")


def test_partial_close_is_cut_like_any():
    # 9 against 9.89: 0.9 bitcoin, 89.01, would do, whatever is left of the budget.
    orders = [
        one(alice_long(budget, partial="cheapest", target_buffer="0").tell(mark("98.9")), "liquidation_order")
        for budget in ("89.01", "50")
    ]
    assert [pick(order, "qty stage") for order in orders] == [("0.9", "partial"), ("0.505", "partial")]


def test_budget_of_an_inverse_contract_is_in_its_coin():
    fields = {"kind": "inverse", "settle": "COIN", "multiplier": "100", "price_tick": "0.5", "lot": "1"}
    contract = {"COINUSD": {**fields, "tiers": [["0", "0.01", "50"]], "flow_budget": "5"}}
    desk = paced("400", contract, assets={"COIN": {"price": "100"}}, target_buffer="0")
    # Ten contracts of 100 dollars are 10 coins at 100 and 10.15 at 98.5: four of them fit into 5 coins.
    desk.tell(mark("100", "COINUSD"), deposit("alice", "0.25", "COIN"), buy("alice", "10", "100", "COINUSD"))
    assert orders_of(desk.tell(mark("98.5", "COINUSD"))) == [("alice", "4")]


# ------------------------------------------------------------------------------------------------------------ emergency


@pytest.mark.parametrize(("deposited", "qty"), [("15.945", "4.044"), ("15.94499999", "10")])
def test_account_below_the_emergency_ratio_is_sent_whole(deposited, qty):
    # 11 lost; half of 9.89 is 4.945.
    desk = alice_long(deposited=deposited, emergency_ratio="0.5")
    assert orders_of(desk.tell(mark("98.9"))) == [("alice", qty)]


def test_emergency_uses_the_budget_up_for_the_others():
    desk = with_bob(alice_long("989", emergency_ratio="0.5"), "15")
    outputs = desk.tell(mark("98.9"))
    assert orders_of(outputs) == [("bob", "10")]
    assert pick(one(outputs, "liquidation_held"), NAMED) == ("liquidation_held", "alice", "flow_budget", "BTCUSDT")


def test_emergency_beyond_the_budget_has_to_leave_the_window_before_anybody_else_is_sent():
    desk = with_bob(alice_long("400", emergency_ratio="0.5"), "15")
    order = one(desk.tell(mark("98.9")), "liquidation_order")
    assert pick(order, "account qty") == ("bob", "10")
    assert desk.tell(deposit("dan", "1", ts=order["ts"] + WINDOW_MS * MS - 1)) == []
    outputs = desk.tell(deposit("dan", "1", ts=order["ts"] + WINDOW_MS * MS))
    assert orders_of(outputs) == [("alice", "4.044")]


def test_account_that_waits_and_falls_below_the_emergency_ratio_goes_at_once():
    desk = alice_long("0.05", emergency_ratio="0.5")
    assert kinds(desk.tell(mark("98.9")))[-1] == "liquidation_held"
    # 4.9 against half of 9.849, and 5 against half of 9.85.
    assert desk.tell(mark("98.5")) == []
    outputs = desk.tell(mark("98.49"))
    assert kinds(outputs) == ["liquidation_released", "liquidation_order"]
    assert orders_of(outputs) == [("alice", "10")]


def test_ratio_of_zero_is_no_emergency():
    desk = alice_long(deposited="11.1")
    # 0.1 left.
    assert orders_of(desk.tell(mark("98.9"))) == [("alice", "4.044")]


# -------------------------------------------------------------------------------------------------- changed by control


@pytest.mark.parametrize(("budget", "qty"), [("500", "1.011"), ("none", "5.956"), ("100000", "5.956")])
def test_larger_budget_is_used_in_the_same_step(budget, qty):
    desk = alice_long()
    order = one(desk.tell(mark("98.9")), "liquidation_order")
    desk.tell(answer(order, "4.044", "98.9"))
    outputs = desk.tell(control("set_instrument", symbol="BTCUSDT", flow_budget=budget))
    # 500 - 399.9516 is 1.011 bitcoin.
    assert kinds(outputs) == ["policy_changed", "liquidation_released", "liquidation_order"]
    assert orders_of(outputs) == [("alice", qty)]


def test_smaller_budget_counts_what_was_sent_before():
    desk = with_bob(alice_long("1978"))
    order = one(desk.tell(mark("99")), "liquidation_order")
    assert pick(order, "account qty") == ("bob", "10")
    desk.tell(control("set_instrument", symbol="BTCUSDT", flow_budget="1000"))
    # Bob's 990 of the 1000 are used: 0.101 bitcoin are left for Alice.
    assert orders_of(desk.tell(mark("98.9"))) == [("alice", "0.101")]


def test_shorter_window_lets_the_waiting_go_in_the_same_step():
    desk = alice_long()
    order = one(desk.tell(mark("98.9")), "liquidation_order")
    desk.tell(answer(order, "4.044", "98.9"))
    desk.wait(100)
    outputs = desk.tell(control("set_policy", flow_window_ms=100))
    assert orders_of(outputs) == [("alice", "4.044")]


def test_longer_window_keeps_the_waiting_for_as_long():
    desk = alice_long()
    order = one(desk.tell(mark("98.9")), "liquidation_order")
    desk.tell(answer(order, "4.044", "98.9"), control("set_policy", flow_window_ms=5000))
    assert desk.tell(deposit("bob", "1", ts=order["ts"] + WINDOW_MS * MS)) == []
    assert desk.tell(deposit("bob", "1", ts=order["ts"] + 5 * WINDOW_MS * MS - 1)) == []
    assert orders_of(desk.tell(deposit("bob", "1", ts=order["ts"] + 5 * WINDOW_MS * MS))) == [("alice", "4.044")]


def test_budget_given_to_a_symbol_that_had_none_counts_what_was_sent_within_the_window():
    desk = with_bob(alice_long("none"))
    order = one(desk.tell(mark("99")), "liquidation_order")
    assert pick(order, "account qty") == ("bob", "10")
    outputs = desk.tell(control("set_instrument", symbol="BTCUSDT", flow_budget="990"), mark("98.9"))
    assert orders_of(outputs) == []
    assert pick(one(outputs, "liquidation_held"), "account reason") == ("alice", "flow_budget")


# -------------------------------------------------------------------------------------------------- smaller than a lot


def test_budget_smaller_than_one_lot_holds_until_a_lot_fits():
    fields = {"BTCUSDT": {"flow_budget": "985", "lot": "10"}}
    desk = Desk(instruments=fields)
    desk.tell(mark("100"), deposit("alice", "20"), buy("alice", "10", "100"))
    # One lot is ten bitcoin: 989.
    assert [pick(body, NAMED) for body in desk.tell(mark("98.9"))[-1:]] == [
        ("liquidation_held", "alice", "flow_budget", "BTCUSDT"),
    ]  # fmt: skip
    desk.wait(10 * WINDOW_MS)
    assert desk.tell(mark("98.9"), mark("98.6"), mark("98.50001")) == []
    outputs = desk.tell(mark("98.5"))
    assert kinds(outputs) == ["liquidation_released", "liquidation_order"]
    assert orders_of(outputs) == [("alice", "10")]


def test_budget_of_nothing_holds_all_but_the_emergency():
    desk = with_bob(alice_long("0", emergency_ratio="0.5"), "15")
    outputs = desk.tell(mark("98.9"))
    assert orders_of(outputs) == [("bob", "10")]
    assert one(outputs, "liquidation_held")["account"] == "alice"


# ----------------------------------------------------------------------------------------------------------- any market


MOVES = st.lists(
    st.tuples(st.sampled_from(["98.9", "98.8", "98.5", "98.2", "99.5"]), st.sampled_from([1, 100, 400, 999, 1000])),
    min_size=3,
    max_size=12,
)


@settings(max_examples=40)
@given(MOVES, st.sampled_from(["50", "400", "989", "1500"]), st.sampled_from(["none", "book"]))
def test_no_window_ever_holds_more_than_the_budget_and_no_order_is_cut_without_need(moves, budget, venue):
    desk = paced(budget, venue=venue == "book", target_buffer="0.5")
    desk.tell(mark("100"))
    for number in range(5):
        desk.tell(deposit(f"a{number}", f"20.{number}"), buy(f"a{number}", "10", "100"))
    for price, ms in [("98.9", 1), *moves]:
        desk.wait(ms)
        outputs = desk.tell(mark(price))
        if venue == "none":
            desk.tell(*(done(order) for order in of(outputs, "liquidation_order")[::2]))
    sent: list[tuple[int, Fraction]] = []
    for order in of(desk.outputs, "liquidation_order"):
        used = sum(worth for ts, worth in sent if ts > order["ts"] - WINDOW_MS * MS)
        sent.append((order["ts"], notional(order)))
        room = Fraction(budget) - used
        assert notional(order) <= room, order
        if decimal(order["qty"]) < decimal(order["decision"]["positions"][0]["qty"]):
            one_lot = notional(order) / decimal(order["qty"]) / 1000
            assert notional(order) + one_lot > room, order
    assert sent
