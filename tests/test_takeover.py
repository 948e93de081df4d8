"""Who takes what nobody wants: the fund to the lot, winners the rest, and who pays for it (CONTRACT 5.7 to 5.9).

Unless told otherwise Alice puts up 20 and buys 10 BTC at 100, so she is bankrupt at 98, and at 97 ten are missing.
"""

from __future__ import annotations

from fractions import Fraction

import pytest

from tests.scenarios import (
    COIN,
    Desk,
    answer,
    asset_price,
    buy,
    converted,
    decimal,
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


def alice_long(fund="0", deposited="20", shorts=(), **options):
    """Alice is 10 long; ``shorts`` are (account, deposit, qty) sold at 100; the fund holds ``fund``."""
    desk = Desk(**options)
    desk.tell(mark("100"), deposit("alice", deposited), buy("alice", "10", "100"))
    for account, amount, qty in shorts:
        desk.tell(deposit(account, amount), sell(account, qty, "100"))
    if fund != "0":
        desk.tell(deposit("$insurance", fund))
    return desk


def positions_of(takeover):
    return [pick(position, "symbol leg qty cash price") for position in takeover["positions"]]


# ----------------------------------------------------------------------------------------------------------- takeover


def test_fund_takes_all_at_the_cash_that_leaves_exactly_nothing_and_pays_the_deficit():
    desk = alice_long(fund="10")
    outputs = desk.tell(mark("97"))
    assert kinds(outputs)[3:] == ["takeover", "bad_debt", "liquidation_ended"]
    takeover, debt, ended = outputs[3:]
    # She has 20, paid 1000: 980 makes it zero. At 97 the fund has bought 970 of value for 980.
    assert pick(takeover, "liquidation_id account equity_before") == ("alice/1", "alice", "-10")
    assert positions_of(takeover) == [("BTCUSDT", "net", "10", "980", "98")]
    assert pick(debt, "account asset deficit paid_by_insurance paid_by_adl paid_by_socialisation uncovered") == (
        "alice", "USD", "10", "10", "0", "0", "0",
    )  # fmt: skip
    assert pick(ended, "outcome equity closed_notional cost not_needed") == ("taken_over", "0", "0", "0", "0")
    assert (desk.wallet("alice"), desk.qty("alice"), desk.qty("$insurance")) == ("0", "0", "10")
    # 10 in the wallet, and 10 BTC that cost 98 and are worth 97.
    assert desk.equity("$insurance") == "0"


def test_equity_that_is_left_after_empty_orders_goes_to_the_fund_and_is_no_bad_debt():
    desk = alice_long(max_attempts=1)
    order = one(desk.tell(mark("98.9")), "liquidation_order")
    outputs = desk.tell(done(order))
    assert kinds(outputs) == ["takeover", "liquidation_ended"]
    # Worth 989, taken for 980.
    assert desk.equity("$insurance") == "9"


def test_cash_is_split_by_maintenance_margin_with_the_remainder_on_the_last_by_symbol():
    desk = Desk(max_attempts=1)
    desk.tell(mark("100"), mark("50", "ETHUSDT"), deposit("alice", "40"))
    desk.tell(buy("alice", "20", "50", "ETHUSDT"), buy("alice", "10", "100"))
    first, second = of(desk.tell(mark("98.8")), "liquidation_order")
    desk.tell(done(first))
    takeover = one(desk.tell(done(second)), "takeover")
    # 28 left: BTC has 9.88 of the 29.88 needed, 9.2583668.. rounded down, off 988; ETH the rest, off 1000.
    share = Fraction(28 * 988, 2988)
    floor = Fraction(int(share * 10**8), 10**8)
    assert [decimal(cash) for _, _, _, cash, _ in positions_of(takeover)] == [988 - floor, 1000 - (28 - floor)]
    assert [position[:3] for position in positions_of(takeover)] == [
        ("BTCUSDT", "net", "10"), ("ETHUSDT", "net", "20"),
    ]  # fmt: skip
    assert (desk.equity("alice"), desk.wallet("alice")) == ("0", "0")
    assert desk.equity("$insurance") == "28"


def test_short_is_taken_over_at_the_cash_the_account_pays():
    desk = Desk()
    desk.tell(mark("100"), deposit("bob", "20"), deposit("$insurance", "100"), sell("bob", "10", "100"))
    takeover = one(desk.tell(mark("103")), "takeover")
    # He got 1000 and has 20: all of it, 1020, buys 10 back at 102.
    assert positions_of(takeover) == [("BTCUSDT", "net", "-10", "-1020", "102")]
    assert (desk.wallet("bob"), desk.equity("$insurance")) == ("0", "90")


def test_both_legs_of_a_hedge_become_one_net_position_of_the_fund():
    desk = Desk()
    desk.tell(mark("100"), deposit("alice", "15"), deposit("$insurance", "100"))
    desk.tell(buy("alice", "10", "100", leg="long"), sell("alice", "4", "100", leg="short"))
    takeover = one(desk.tell(mark("97")), "takeover")
    # 15 - 30 + 12 = -3 over 9.7 and 3.88: -2.142857.. up to the next unit away from her, and the rest.
    assert [position[:3] for position in positions_of(takeover)] == [
        ("BTCUSDT", "long", "10"), ("BTCUSDT", "short", "-4"),
    ]  # fmt: skip
    assert (desk.qty("$insurance"), desk.equity("$insurance"), desk.equity("alice")) == ("6", "97", "0")


def test_inverse_position_is_taken_over_in_coins_and_leaves_exactly_nothing():
    inverse = {
        "kind": "inverse", "settle": "COIN", "multiplier": "100", "price_tick": "0.5", "lot": "1",
        "tiers": [["0", "0.01", "50"]],
    }  # fmt: skip
    desk = Desk(instruments={"COINUSD": inverse}, assets={"COIN": {}})
    desk.tell(asset_price("COIN", "100"), mark("100", "COINUSD"), deposit("$insurance", "10", "COIN"))
    desk.tell(deposit("alice", "0.3", "COIN"), buy("alice", "10", "100", "COINUSD"))
    outputs = desk.tell(mark("97", "COINUSD"))
    # Owed 10 coins and 0.3 in hand, so she pays 10.3: 1000 / 10.3 is the price.
    assert positions_of(one(outputs, "takeover")) == [("COINUSD", "net", "10", "-10.3", "97.08737864")]
    assert (desk.wallet("alice", "COIN"), desk.equity("alice")) == ("0", "0")
    # At 97 the position is worth 1000 / 97 = 10.3092783505.. coins: 0.0092783505.. too few, at 100 each.
    assert pick(one(outputs, "bad_debt"), "asset deficit paid_by_insurance") == ("USD", "0.92783506", "0.92783506")


def test_collateral_stays_hers_and_is_sold_for_the_debt_the_takeover_left():
    desk = Desk(assets={"COIN": COIN})
    desk.tell(asset_price("COIN", "10"), mark("100"), deposit("$insurance", "100"))
    desk.tell(deposit("alice", "10", "COIN"), buy("alice", "50", "100"))
    # 10 coins count for 90; BTC at 98 loses 100.
    outputs = desk.tell(mark("98"))
    assert kinds(outputs)[3:] == ["takeover", "collateral_sale"]
    takeover, sale = outputs[3:]
    # 90 of debt is what 90 of collateral carries: 5000 - 90.
    assert positions_of(takeover) == [("BTCUSDT", "net", "50", "4910", "98.2")]
    # 90 / 9.9 coins, up.
    assert pick(sale, "order_id amount for_asset") == ("alice/1/1", "9.0909091", "USDT")
    outputs = desk.tell(converted(sale, "90.00000009"))
    assert kinds(outputs) == ["bad_debt", "liquidation_ended"]
    # The fund lost 10 at the mark, 4910 for 4900. What remains belongs to her: 9.090909 at 0.9, and some dust.
    assert pick(outputs[0], "asset deficit paid_by_insurance") == ("USD", "10", "10")
    assert pick(outputs[1], "outcome equity") == ("taken_over", "8.18181819")
    assert (desk.wallet("alice"), desk.wallet("alice", "COIN")) == ("0.00000009", "0.9090909")


# --------------------------------------------------------------------------------------------------------- fund floor


@pytest.mark.parametrize(
    ("fund", "floor", "taken"),
    [
        # Each lot of 0.001 BTC is taken for 0.098 and worth 0.097: a thousandth lost.
        ("10", "0", "10"),
        ("9.99999999", "0", "9.999"),
        ("5", "0", "5"),
        ("5.0009", "0", "5"),
        ("5.001", "0", "5.001"),
        ("0.001", "0", "0.001"),
        ("0.00099999", "0", None),
        ("5", "4", "1"),
        ("5", "4.9995", None),
        ("5", "5", None),
        # A fund that is under its floor takes nothing, whatever it holds.
        ("5", "6", None),
    ],
)
def test_fund_takes_the_largest_number_of_lots_that_keeps_its_floor(fund, floor, taken):
    desk = alice_long(fund=fund, insurance_floor=floor)
    outputs = desk.tell(mark("97"))
    assert [positions_of(body)[0][2] for body in of(outputs, "takeover")] == ([taken] if taken else [])
    assert desk.qty("$insurance") == (taken or "0")
    assert decimal(desk.equity("$insurance")) >= (decimal(floor) if taken else decimal(fund))


def test_fund_goes_through_positions_in_symbol_order_each_as_far_as_it_can():
    desk = Desk()
    desk.tell(mark("100"), mark("50", "ETHUSDT"), deposit("alice", "40"), deposit("$insurance", "4.5"))
    desk.tell(buy("alice", "20", "50", "ETHUSDT"), buy("alice", "10", "100"))
    outputs = desk.tell(mark("95"))
    # 10 short over 9.5 and 20: BTC bears 3.2203.., which the fund has. Of the 1.2796.. left it can bear 377 lots of
    # ether at 0.00338983 each, the 378th would make it 1.2813.
    assert [position[:3] for position in positions_of(one(outputs, "takeover"))] == [
        ("BTCUSDT", "net", "10"), ("ETHUSDT", "net", "3.77"),
    ]  # fmt: skip
    assert pick(one(outputs, "adl_remaining"), "symbol qty") == ("ETHUSDT", "16.23")


def test_fund_may_buy_below_its_floor_where_the_position_lifts_it_over():
    desk = alice_long(fund="1", insurance_floor="10", max_attempts=1)
    order = one(desk.tell(mark("98.9")), "liquidation_order")
    # 9 are left in the position: 1 + 9 is the floor.
    assert "takeover" in kinds(desk.tell(done(order)))


def test_fund_is_never_liquidated_and_does_not_unwind_by_itself():
    desk = alice_long(fund="10")
    desk.tell(mark("97"))
    assert desk.tell(mark("50")) == []
    assert desk.equity("$insurance") == "-470"


def test_fund_pays_funding_like_anyone_and_says_so():
    desk = alice_long(fund="10")
    desk.tell(mark("97"))
    (fund,) = desk.tell(funding("0.001"))
    # 0.1 % of 970.
    assert pick(fund, "type asset change balance cause") == ("insurance_fund", "USDT", "-0.97", "9.03", "funding")


def test_desk_of_the_fund_unwinds_what_it_took_over():
    desk = alice_long(fund="10")
    desk.tell(mark("97"))
    (fund,) = desk.tell(sell("$insurance", "4", "99"))
    # Taken at 98: a dollar each.
    assert pick(fund, "change balance cause") == ("4", "14", "fill")
    assert desk.qty("$insurance") == "6"


def test_fund_that_already_holds_the_other_side_nets_and_realises():
    desk = alice_long(fund="10")
    desk.tell(sell("$insurance", "4", "100"))
    outputs = desk.tell(mark("97"))
    # 4 of the 10 close what it sold at 100 for 98: 8 earned.
    fund = one(outputs, "insurance_fund")
    assert pick(fund, "change balance cause account liquidation_id") == ("8", "18", "takeover", "alice", "alice/1")
    assert desk.qty("$insurance") == "6"


def test_top_up_and_withdrawal_of_the_fund_are_reported():
    desk = Desk()
    outputs = desk.tell(deposit("$insurance", "100"), withdraw("$insurance", "30"))
    assert [pick(body, "type asset change balance cause") for body in outputs] == [
        ("insurance_fund", "USDT", "100", "100", "transfer"),
        ("insurance_fund", "USDT", "-30", "70", "transfer"),
    ]


# ---------------------------------------------------------------------------------------------------------------- adl


def test_winners_close_what_the_fund_cannot_take_at_the_same_price():
    desk = alice_long(fund="4", shorts=[("bob", "100", "8"), ("carol", "1000", "8")])
    outputs = desk.tell(mark("97"))
    assert kinds(outputs)[3:] == ["takeover", "adl", "adl_wave", "bad_debt", "liquidation_ended"]
    takeover, adl, wave, debt, ended = outputs[3:]
    assert positions_of(takeover) == [("BTCUSDT", "net", "4", "392", "98")]
    # Both won 3 %; bob's 776 on 124 of equity are far more leveraged than carol's on 1024.
    assert pick(adl, "liquidation_id symbol account counterparty qty price cash") == (
        "alice/1", "BTCUSDT", "alice", "bob", "6", "98", "588",
    )  # fmt: skip
    assert pick(wave, "liquidation_id symbol rule needed_qty taken_qty counterparties largest_profit_share") == (
        "alice/1", "BTCUSDT", "queue", "6", "6", 1, "1",
    )  # fmt: skip
    assert set(wave["alternatives"]) == {"pro_rata", "water_filling"}
    # Three each under contracts held.
    assert wave["alternatives"]["pro_rata"] == {"counterparties": 2, "largest_profit_share": "0.5"}
    assert pick(debt, "deficit paid_by_insurance paid_by_adl uncovered") == ("10", "4", "6", "0")
    assert pick(ended, "outcome equity") == ("deleveraged", "0")
    # Bob sold at 100 and closed 6 at 98; he keeps 12 of the 18 that 97 would have brought.
    assert (desk.qty("bob"), desk.wallet("bob"), desk.qty("carol")) == ("-2", "112", "-8")


def test_pro_rata_takes_by_contracts_held():
    desk = alice_long(shorts=[("bob", "100", "12"), ("carol", "100", "3")], adl_rule="pro_rata")
    outputs = desk.tell(mark("97"))
    assert [pick(body, "counterparty qty cash") for body in of(outputs, "adl")] == [
        ("bob", "8", "784"), ("carol", "2", "196"),
    ]  # fmt: skip
    assert pick(one(outputs, "adl_wave"), "rule counterparties largest_profit_share") == ("pro_rata", 2, "0.8")


def test_water_filling_takes_from_the_highest_leverage_down_to_one_level():
    desk = alice_long(shorts=[("bob", "49", "16"), ("carol", "146", "16")], adl_rule="water_filling")
    outputs = desk.tell(mark("97"))
    # 1552 on 97 is 16 x, on 194 it is 8 x. Down to level L they give 16 - L and 16 - 2 L: 10 at L = 7.333..
    assert [pick(body, "counterparty qty") for body in of(outputs, "adl")] == [("bob", "8.667"), ("carol", "1.333")]


def test_cash_of_parts_is_rounded_down_and_the_last_part_takes_the_rest():
    desk = alice_long(deposited="20.00000001", shorts=[("bob", "50", "3.333"), ("carol", "100", "3.333"),
                                                        ("dave", "200", "3.334")])  # fmt: skip
    outputs = desk.tell(mark("97"))
    cash = [decimal(body["cash"]) for body in of(outputs, "adl")]
    exact = decimal("979.99999999")
    shares = [exact * decimal(body["qty"]) / 10 for body in of(outputs, "adl")]
    floors = [Fraction(int(share * 10**8), 10**8) for share in shares[:-1]]
    assert cash == [*floors, exact - sum(floors)]
    assert (desk.equity("alice"), desk.wallet("alice")) == ("0", "0")


def test_nobody_is_deleveraged_who_is_on_the_same_side_in_an_episode_or_the_fund():
    desk = alice_long(insurance_floor="1000")
    desk.tell(mark("50", "ETHUSDT"), deposit("erin", "1000"), buy("erin", "10", "100"), sell("$insurance", "10", "100"))
    # Frank is short too, but his ether has just put him under: 22 against 5 + 19.84.
    desk.tell(deposit("frank", "30"), sell("frank", "5", "100"), buy("frank", "20", "50", "ETHUSDT"))
    assert one(desk.tell(mark("49.6", "ETHUSDT")), "liquidation_started")["account"] == "frank"
    outputs = desk.tell(mark("97"))
    assert of(outputs, "adl") == []
    assert pick(one(outputs, "adl_remaining"), "liquidation_id account symbol qty") == (
        "alice/1", "alice", "BTCUSDT", "10",
    )  # fmt: skip


@pytest.mark.parametrize(("withdrawn", "is_taken"), [("50.55500000", False), ("50.55499999", True)])
def test_who_needs_all_he_has_is_not_deleveraged(withdrawn, is_taken):
    # The trigger "below" leaves an account with E = MM alone, in either sense.
    desk = alice_long(shorts=[("bob", "50", "5")], trigger="below", max_attempts=1, insurance_floor="1000")
    order = one(desk.tell(mark("98.9")), "liquidation_order")
    # Bob has 50 + 5.5 and needs 4.945.
    assert kinds(desk.tell(withdraw("bob", withdrawn))) == ["margin_call"]
    outputs = desk.tell(done(order))
    assert [body["counterparty"] for body in of(outputs, "adl")] == (["bob"] if is_taken else [])


@pytest.mark.parametrize(
    ("deposited", "qty", "left"),
    [
        # Alice at 90 is 80 short, 8 a BTC or 0.008 a lot: 22 bear 2,750 lots.
        ("22.00000001", "2.75", "0.00000001"),
        ("21.99999999", "2.749", "0.00799999"),
    ],
)
def test_winner_gives_no_more_than_he_can_pay_for_and_is_looked_at_in_the_same_step(deposited, qty, left):
    desk = alice_long()
    desk.tell(mark("90"))
    outputs = desk.tell(deposit("bob", deposited), sell("bob", "5", "90"))
    assert pick(one(outputs, "adl"), "counterparty qty") == ("bob", qty)
    started = one(outputs, "liquidation_started")
    assert pick(started, "account equity cause") == ("bob", left, "fill")
    assert outputs.index(started) > outputs.index(one(outputs, "adl_wave"))


def test_what_finds_no_counterparty_stays_open_and_is_tried_again_at_each_step():
    desk = alice_long(shorts=[("bob", "100", "4")])
    outputs = desk.tell(mark("97"))
    assert kinds(outputs)[3:] == ["adl", "adl_wave", "adl_remaining"]
    assert pick(outputs[-1], "account symbol qty") == ("alice", "BTCUSDT", "6")
    assert desk.qty("alice") == "6"
    # Nothing new to say while nothing changes.
    assert desk.tell(deposit("bob", "1")) == []
    # Carol sells 5 now: they are hers for a moment.
    outputs = desk.tell(deposit("carol", "100"), sell("carol", "5", "97"))
    assert [body["counterparty"] for body in of(outputs, "adl")] == ["carol"]
    assert pick(one(outputs, "adl_remaining"), "qty") == ("1",)
    # The last one goes to the fund, once it is topped up.
    outputs = desk.tell(deposit("$insurance", "5"))
    assert kinds(outputs) == ["insurance_fund", "takeover", "bad_debt", "liquidation_ended"]
    # 10 in all, whoever paid: 4 + 5 by winners, 1 by the fund.
    assert pick(outputs[2], "deficit paid_by_insurance paid_by_adl") == ("10", "1", "9")
    assert (desk.equity("alice"), desk.qty("alice")) == ("0", "0")


def test_stuck_account_that_recovers_keeps_its_position():
    desk = alice_long()
    assert kinds(desk.tell(mark("97")))[-1] == "adl_remaining"
    (ended,) = desk.tell(mark("99.5"))
    assert pick(ended, "outcome equity") == ("healthy", "15")
    assert desk.qty("alice") == "10"


def test_stuck_account_that_is_helped_by_a_deposit_gets_an_order_again():
    desk = alice_long()
    desk.tell(mark("97"))
    (order,) = desk.tell(deposit("alice", "15"))
    assert pick(order, "type order_id qty limit_price") == ("liquidation_order", "alice/1/1", "10", "96.5")


def test_leg_of_a_hedge_and_a_bucket_can_be_the_counterparty():
    desk = alice_long()
    desk.tell(deposit("bob", "100"), sell("bob", "4", "100", leg="short"), buy("bob", "1", "100", leg="long"))
    desk.tell(deposit("carol", "50"), sell("carol", "6", "100", isolated=True, fee="-50"))
    outputs = desk.tell(mark("97"))
    assert sorted(pick(body, "counterparty qty") for body in of(outputs, "adl")) == [("bob", "4"), ("carol", "6")]
    assert (desk.qty("bob", leg="short"), desk.qty("bob", leg="long")) == ("0", "1")
    # The bucket had 50, won 12 and goes home with all of it.
    assert desk.qty("carol", bucket="BTCUSDT") == "0"
    assert (desk.wallet("carol"), desk.wallet("carol", bucket="BTCUSDT")) == ("112", "0")


def test_isolated_bucket_is_deleveraged_under_its_own_id():
    desk = Desk()
    desk.tell(mark("100"), deposit("alice", "100"), deposit("bob", "100"), sell("bob", "10", "100"))
    desk.tell(buy("alice", "10", "100", isolated=True, fee="-20"))
    outputs = desk.tell(mark("97"))
    assert [pick(body, "type liquidation_id account bucket") for body in outputs[3:]] == [
        ("adl", "alice/BTCUSDT/1", "alice", "BTCUSDT"),
        ("adl_wave", "alice/BTCUSDT/1", "alice", "BTCUSDT"),
        ("bad_debt", "alice/BTCUSDT/1", "alice", "BTCUSDT"),
        ("liquidation_ended", "alice/BTCUSDT/1", "alice", "BTCUSDT"),
    ]
    assert desk.wallet("alice") == "100"


# ----------------------------------------------------------------------------------------------------------- bad debt


def test_parts_add_up_where_the_fund_and_winners_share_a_loss_in_odd_units():
    desk = alice_long(fund="3.33333333", deposited="20.00000007", shorts=[("bob", "50", "3.333"), ("carol", "70", "7")])
    debt = one(desk.tell(mark("97")), "bad_debt")
    # At 97 she has 20.00000007 - 30.
    assert debt["deficit"] == "9.99999993"


def test_deficit_of_two_positions_is_what_was_missing_to_the_last_unit():
    desk = Desk()
    desk.tell(mark("100"), mark("50", "ETHUSDT"), deposit("alice", "40.00000003"), deposit("$insurance", "100"))
    desk.tell(buy("alice", "20", "50", "ETHUSDT"), buy("alice", "10", "100"))
    # 40.00000003 - 50, shared out over 9.5 and 20.
    debt = one(desk.tell(mark("95")), "bad_debt")
    assert pick(debt, "deficit paid_by_insurance") == ("9.99999997", "9.99999997")
    assert desk.equity("$insurance") == "90.00000003"


def test_loss_of_an_account_without_positions_is_shared_by_winners_where_the_policy_says_so():
    desk = Desk(socialise="winners")
    desk.tell(mark("100"), deposit("alice", "5"), deposit("$insurance", "1"))
    for name, qty in (("bob", "2"), ("carol", "1")):
        desk.tell(deposit(name, "50"), sell(name, qty, "100"))
    desk.tell(deposit("dave", "50"), buy("dave", "1", "100"), mark("98"))
    # 4 and a bit owed: the fund pays 1; bob has won 4 and carol 2, so they pay 2 and 1, and dave, who has lost,
    # nothing. Of the odd unit two thirds are bob's.
    debt = one(desk.tell(withdraw("alice", "9.00000001")), "bad_debt")
    assert pick(debt, "deficit paid_by_insurance paid_by_adl paid_by_socialisation uncovered") == (
        "4.00000001", "1", "0", "3.00000001", "0",
    )  # fmt: skip
    assert [desk.wallet(name) for name in ("alice", "bob", "carol", "dave", "$bad_debt")] == [
        "0",
        "47.99999999", "49", "50", "0",
    ]  # fmt: skip


def test_winners_pay_no_more_than_they_have_won():
    desk = Desk(socialise="winners")
    desk.tell(mark("100"), deposit("alice", "5"), deposit("bob", "50"), sell("bob", "2", "100"), mark("98"))
    debt = one(desk.tell(withdraw("alice", "15")), "bad_debt")
    assert pick(debt, "deficit paid_by_socialisation uncovered") == ("10", "4", "6")
    assert desk.wallet("$bad_debt") == "-6"


def test_fund_that_has_only_another_asset_pays_nothing():
    desk = Desk(assets={"COIN": {"price": "10"}})
    desk.tell(deposit("$insurance", "100", "COIN"), deposit("alice", "1"))
    debt = one(desk.tell(withdraw("alice", "2")), "bad_debt")
    assert pick(debt, "paid_by_insurance uncovered") == ("0", "1")


def test_deficit_of_a_fill_beyond_the_bankruptcy_price_is_settled_once_at_the_end():
    desk = alice_long(fund="3")
    order = one(desk.tell(mark("98.9")), "liquidation_order")
    # Half of it goes at 96, two under: still nothing is settled, since 5 BTC are open.
    assert desk.tell(answer(order, "5", "96")) == []
    outputs = desk.tell(answer(order, "5", "99"))
    # 20 - 20 - 5 = -5.
    assert pick(one(outputs, "bad_debt"), "asset deficit paid_by_insurance uncovered") == ("USDT", "5", "3", "2")
    assert one(outputs, "liquidation_ended")["outcome"] == "closed"


def test_two_accounts_that_found_no_taker_do_not_deleverage_each_other():
    desk = alice_long()
    desk.tell(mark("97"), mark("50", "ETHUSDT"), deposit("bob", "30"), buy("bob", "20", "50", "ETHUSDT"))
    assert one(desk.tell(mark("48", "ETHUSDT")), "adl_remaining")["account"] == "bob"
    # He is short now what she is long, and both are bankrupt.
    outputs = desk.tell(sell("bob", "10", "97"))
    assert of(outputs, "adl") == []
    assert (desk.qty("alice"), desk.qty("bob")) == ("10", "-10")
