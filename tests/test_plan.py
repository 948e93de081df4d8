"""The cheapest partial plan: told as a risk officer would, and against every combination of lots there is."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise, product
from math import ceil, floor
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.core.book import spec_row, tier_table, weight_table
from engine.core.kernels.margin import collateral_value, position_maintenance, to_valuation_up
from engine.core.levers import Closing, Selling, build_levers
from engine.core.params import build_asset, build_instrument, build_policy
from engine.core.plan import (
    Close,
    Plan,
    PlanAccount,
    PlanCollateral,
    PlanPosition,
    Sale,
    plan_liquidation,
)
from engine.errors import InvariantError
from engine.units import PPM, UNIT, format_ppm, format_scaled, try_scaled

FLAT = [["0", "0.01", "50"]]
USD = PlanCollateral(build_asset("USDT", {}), 0, UNIT)


def dollars(text: str) -> int:
    """Return a decimal string in units."""
    mantissa, _, fraction = text.partition(".")
    units = try_scaled((int(mantissa + fraction), len(fraction)), 8)
    assert units is not None
    return units


def position(symbol: str, qty: int, *, mark: int = 100, leg: str = "net", price: int = UNIT, **fields: Any):
    """A position of whole contracts in lots of one; by default at $100, 1 % maintenance, no costs."""
    instrument = build_instrument(
        symbol, {"settle": "USDT", "price_tick": "0.01", "lot": "1", "tiers": FLAT, "slippage": "0.001"} | fields
    )
    size, mark_steps = try_scaled((qty, 0), instrument.size_decimals), try_scaled((mark, 0), instrument.price_decimals)
    assert size is not None
    assert mark_steps is not None
    return PlanPosition(instrument, leg, size, mark_steps, price)


def collateral(name: str, balance: str, price: str, **fields: Any) -> PlanCollateral:
    return PlanCollateral(build_asset(name, fields), dollars(balance), dollars(price))


def account(equity: str, *positions: PlanPosition, collaterals: tuple = (), policy: Any = None) -> PlanAccount:
    """An account with the maintenance margin its positions need, by the contract's formula."""
    tier_mode = policy.tier_mode if policy else "marginal"
    maintenance = sum(margin(item, item.size_steps, tier_mode) for item in positions)
    return PlanAccount(dollars(equity), maintenance, positions, collaterals)


def qtys(plan: Plan, start: PlanAccount) -> dict[str, int]:
    """What a plan closes, in contracts by symbol."""
    closed = {}
    for close in plan.closes:
        instrument = start.positions[close.position_index].instrument
        closed[instrument.symbol] = close.qty_steps * 10**-instrument.size_decimals
    return closed


# ------------------------------------------------------------------ the contract's formulas, written a second time


def notional(item: PlanPosition, steps: int) -> Fraction:
    """Notional in settlement units: size x price x multiplier, or size x multiplier / price where inverse."""
    terms = item.instrument
    if terms.is_inverse:
        return Fraction(abs(steps) * terms.value_num, item.mark_steps)
    return Fraction(abs(steps) * item.mark_steps * terms.value_num, terms.value_den)


def margin(item: PlanPosition, steps: int, tier_mode: str = "marginal") -> int:
    """MM: the largest of n x rate - deduction over the tiers, up to the unit, then up by P."""
    size, deduction, rate_before, lines = notional(item, steps), Fraction(0), Fraction(0), []
    for tier in item.instrument.tiers:
        rate = Fraction(tier.rate_ppm, PPM)
        deduction += tier.floor_units * (rate - rate_before)
        rate_before = rate
        if tier_mode == "marginal":
            lines.append(size * rate - deduction)
        elif size >= tier.floor_units:
            lines = [size * rate]
    return ceil(Fraction(ceil(max(lines)) * item.settle_price_units, UNIT))


def closing_cost(item: PlanPosition, steps: int) -> int:
    """c x notional in the valuation currency, rounded up."""
    terms = item.instrument
    cost = Fraction(terms.taker_fee_ppm + terms.liquidation_fee_ppm + terms.slippage_ppm, PPM)
    return ceil(cost * notional(item, steps) * Fraction(item.settle_price_units, UNIT))


def is_met(equity: int, maintenance: int, policy: Any) -> bool:
    """E >= (1 + b) MM and out of the trigger."""
    if equity < (1 + Fraction(policy.target_buffer_ppm, PPM)) * maintenance:
        return False
    return maintenance <= 0 or equity > maintenance or (policy.trigger == "below" and equity == maintenance)


def outcome(start: PlanAccount, closed: dict[int, int], tier_mode: str = "marginal") -> tuple[int, int]:
    """Equity and maintenance margin after closing steps by position index."""
    equity, maintenance = start.equity_units, start.maintenance_units
    for index, steps in closed.items():
        item = start.positions[index]
        equity -= closing_cost(item, steps)
        maintenance += margin(item, abs(item.size_steps) - steps, tier_mode) - margin(item, item.size_steps, tier_mode)
    return equity, maintenance


# ------------------------------------------------------------------------------------------- one position, in words


def test_one_position_closes_deficit_by_price_times_rate_less_cost_rounded_up_to_the_lot():
    # 1,000 contracts at $100: notional 100,000, MM 1,000. E = 950: D = 50.
    # One contract frees 100 x (1 % - 0.1 %) = $0.90: 55.6 contracts, so 56, at 0.1 % of $5,600.
    start = account("950", position("A", 1000))
    plan = plan_liquidation(start, build_policy({}))
    assert plan == Plan("partial", (Close(0, 56),), (), dollars("5.6"), plan.certificate)
    assert plan.certificate == {
        "target": "1000",
        "deficit": "50",
        "bound": "5.55555555",  # 0.1 % of 50 / 0.9 %
        "dual_price": "0.111111111111",
        "cost": "5.6",
        "gap": "0.04444445",
        "largest_first": "5.6",
        "pro_rata": "5.6",
        "equity_after": "944.4",
        "maintenance_margin_after": "944",
    }


def test_buffer_raises_the_target_and_what_each_contract_frees():
    # (1 + 10 %) x 1,000 - 950 = 150; a contract frees 100 x (1.1 % - 0.1 %) = $1: exactly 150 contracts.
    # 950 - 15 = 935 = 1.1 x 850. No rounding, and above the trigger: not one more.
    start = account("950", position("A", -1000))
    plan = plan_liquidation(start, build_policy({"target_buffer": "0.1"}))
    assert plan.closes == (Close(0, 150),)
    assert plan.certificate["gap"] == "0"


@pytest.mark.parametrize(("trigger", "contracts"), [("at_or_below", 51), ("below", 50)])
def test_equity_equal_to_margin_is_enough_only_where_the_trigger_is_below(trigger, contracts):
    # D = 45; 45 / 0.90 = exactly 50, after which E = MM = 945... still liquidatable "at" it.
    start = account("955", position("A", 1000))
    assert plan_liquidation(start, build_policy({"trigger": trigger})).closes == (Close(0, contracts),)


def test_account_exactly_at_its_margin_closes_one_lot_and_one_that_meets_its_target_nothing():
    start = account("1000", position("A", 1000))
    assert plan_liquidation(start, build_policy({})).closes == (Close(0, 1),)
    plan = plan_liquidation(start, build_policy({"trigger": "below"}))
    assert (plan.stage, plan.closes, plan.sales, plan.cost_units) == ("partial", (), (), 0)
    assert (plan.certificate["largest_first"], plan.certificate["pro_rata"]) == ("0", "0")


def test_inverse_position_is_sized_in_coins_at_the_coin_s_price():
    # 10,000 one-dollar contracts at $50 a coin: 200 coins; MM 2 coins, $100. E = 95.5: D = 4.5.
    # A contract is $1: frees 1 % - 0.1 % of it, 0.009: 500 exactly, plus one to leave the trigger.
    item = position("C", -10_000, mark=50, price=50 * UNIT, kind="inverse", settle="COIN")
    plan = plan_liquidation(account("95.5", item), build_policy({}))
    assert (plan.closes, plan.cost_units) == ((Close(0, 501),), dollars("0.501"))


def test_all_three_costs_count():
    costs: Any = {"slippage": "0.001", "taker_fee": "0.0005", "liquidation_fee": "0.0025"}  # 0.4 %
    # One contract frees 100 x (1 % - 0.4 %) = 0.60: 50 / 0.6 = 83.3.
    plan = plan_liquidation(account("950", position("A", 1000, **costs)), build_policy({}))
    assert (plan.closes, plan.cost_units) == ((Close(0, 84),), dollars("33.6"))


def test_last_odd_part_of_a_lot_goes_with_the_position():
    # Lots of 20, but 1,010 held: the lot was changed under it. The last of 51 lots is 10 contracts.
    start = account("1910", position("A", 1010, lot="20"), position("B", 1000, slippage="0.02"))
    # D = 100: 112 contracts, six lots. D = 900: 1,000 contracts free 900, the target without the trigger's unit.
    assert qtys(plan_liquidation(start, build_policy({})), start) == {"A": 120}
    start = account("1110", position("A", 1010, lot="20"), position("B", 1000, slippage="0.02"))
    assert qtys(plan_liquidation(start, build_policy({})), start) == {"A": 1010}


# ------------------------------------------------------------------------------------------------------------ tiers

# 1 % up to $50,000 and 4 % on what is above.
TIERS = [["0", "0.01", "50"], ["50000", "0.04", "20"]]


def test_top_slice_frees_at_its_own_rate_and_the_next_one_at_less():
    # 100,000: MM 500 + 2,000. A contract of the top 500 frees 100 x (4 % - 0.1 %) = 3.90; below, 0.90.
    item = position("A", 1000, tiers=TIERS)
    # D = 390: exactly 100 contracts, and one to leave the trigger.
    assert plan_liquidation(account("2110", item), build_policy({})).closes == (Close(0, 101),)
    # D = 1,959: the whole top slice frees 1,950, the other 9 take 10, and one to leave the trigger.
    assert plan_liquidation(account("541", item), build_policy({})).closes == (Close(0, 511),)


def test_lot_across_two_slices_counts_for_what_both_parts_free():
    # Lots of 40 contracts: the 13th spans contracts 481..520. Twelve free 1,872, it 20 x 3.9 + 20 x 0.9 = 96.
    item = position("A", 1000, tiers=TIERS, lot="40")
    # D = 1,967.9 is within 13 lots (1,968), D = 1,968.1 is not.
    for equity, contracts in (("532.1", 520), ("531.9", 560)):
        start = account(equity, item)
        assert qtys(plan_liquidation(start, build_policy({})), start) == {"A": contracts}


def test_two_positions_close_the_top_slice_of_both_before_the_rest_of_either():
    # Both $60,000: the top 100 contracts of each free 3.90, below 0.90. D = 785: all of A's and B's tops
    # free 780, and 6 more of A, first by name, 5.4.
    start = account("1015", position("B", 600, tiers=TIERS), position("A", -600, tiers=TIERS))
    plan = plan_liquidation(start, build_policy({}))
    assert qtys(plan, start) == {"A": 106, "B": 100}


def test_dearer_position_is_left_alone_while_the_cheaper_one_suffices():
    # A frees 100 x (1 - 0.1) % = 0.9 at 0.1; B 100 x (1 - 0.5) % = 0.5 at 0.5.
    start = account("1950", position("B", 1000, slippage="0.005"), position("A", 1000))
    assert qtys(plan_liquidation(start, build_policy({})), start) == {"A": 56}
    # E = 1,000: D = 1,000. All of A frees 900 and B the other 100: 200, and one to leave the trigger.
    start = account("1000", position("B", 1000, slippage="0.005"), position("A", 1000))
    plan = plan_liquidation(start, build_policy({}))
    assert (qtys(plan, start), plan.cost_units) == ({"A": 1000, "B": 201}, dollars("200.5"))
    # Rules that ignore costs: the largest first (equal, so A) happens to do the same; pro rata frees 1.4 per pair.
    assert plan.certificate["largest_first"] == "200.5"
    assert plan.certificate["pro_rata"] == "429"  # 715 of each (1,000 / 1.4): 71.5 + 357.5


def test_equal_costs_are_taken_by_symbol_then_leg():
    start = account("1950", position("B", 1000), position("A", 1000))
    assert qtys(plan_liquidation(start, build_policy({})), start) == {"A": 56}
    hedge = account("1950", position("A", -1000, leg="short"), position("A", 1000, leg="long"))
    assert plan_liquidation(hedge, build_policy({})).closes == (Close(1, 56),)


def test_hedge_legs_are_margined_and_closed_each_for_itself():
    # Two legs of $100,000 need 2,000 together; D = 1,200 takes the long (900) and 334 of the short (300.6).
    hedge = account("800", position("A", -1000, leg="short"), position("A", 1000, leg="long"))
    plan = plan_liquidation(hedge, build_policy({}))
    assert (plan.stage, plan.closes) == ("partial", (Close(0, 334), Close(1, 1000)))


def test_among_equals_the_first_level_of_every_book_goes_before_the_second_of_any():
    # A book takes $3,000, 30 contracts, at a time. 56 are needed: 30 of A, then 26 of B instead of more of A.
    start = account("1950", position("B", 1000, depth="3000"), position("A", 1000, depth="3000"))
    assert qtys(plan_liquidation(start, build_policy({})), start) == {"A": 30, "B": 26}
    # A dearer B is no reason to pay more: depth never changes what a plan costs.
    start = account("1950", position("B", 1000, depth="3000", slippage="0.002"), position("A", 1000, depth="3000"))
    assert qtys(plan_liquidation(start, build_policy({})), start) == {"A": 56}


# ----------------------------------------------------------------------------------------- what does not help, prune


def test_position_whose_close_costs_more_than_it_frees_is_never_touched():
    # B's margin is 1 %, its cost 1.5 %: closing it makes things worse.
    start = account("1950", position("B", 1000), position("A", 1000, slippage="0.015"))
    assert qtys(plan_liquidation(start, build_policy({})), start) == {"B": 56}


def test_lot_that_reaches_into_a_slice_that_costs_more_than_it_frees_is_not_taken():
    # Cost 2 %: the top slice (4 %) frees 2 a contract, the one below (1 %) loses 1. In lots of 40 contracts the 13th
    # frees 20 x 2 - 20 x 1 = 20, the 14th loses 40: at most 980 can be freed, by 13 lots.
    item = position("A", 1000, tiers=TIERS, lot="40", slippage="0.02")
    start = account("1520.1", item)  # D = 979.9
    plan = plan_liquidation(start, build_policy({}))
    assert (plan.stage, qtys(plan, start)) == ("partial", {"A": 520})
    start = account("1519.9", item)  # D = 980.1
    plan = plan_liquidation(start, build_policy({}))
    assert (plan.stage, qtys(plan, start)) == ("full", {"A": 1000})
    # The fractional optimum could stop at the slice's end, where 1,000 would be free: 2 cost for 2 freed.
    assert plan.certificate["bound"] == "980.1"


def test_lot_that_frees_less_than_nothing_in_all_is_left_even_where_it_begins_in_a_good_slice():
    # As before in lots of 80: six free 960; the seventh frees 20 x 2 and loses 60 x 1.
    item = position("A", 1000, tiers=TIERS, lot="80", slippage="0.02")
    for equity, stage, contracts in (("1540.1", "partial", 480), ("1539.9", "full", 1000)):
        start = account(equity, item)
        plan = plan_liquidation(start, build_policy({}))
        assert (plan.stage, qtys(plan, start)) == (stage, {"A": contracts})


def test_plan_holds_after_roundings_where_they_outweigh_the_lots():
    # A lot is 3 units of money, 1,000 of them: margin 30, equity 29. Unrounded, 75 lots would do (2 / 0.027). But any
    # cost is at least one unit, 28 are left, and margin, rounded up, is below that only from 100 lots on: 0.03 x 900.
    item = position("A", 1, lot="0.00000001", price_tick="1", mark=3)
    start = PlanAccount(29, 30, (replace(item, size_steps=1000),))
    assert plan_liquidation(start, build_policy({})).closes == (Close(0, 100),)


def test_everything_is_closed_where_nothing_less_suffices_and_no_collateral_is_sold_for_it():
    coin = collateral("COIN", "10", "5", weights=[["0", "0.9"]])  # frees 5 at most
    start = account("50", position("A", 1000), position("B", 1000, slippage="0.02"), collaterals=(coin,))
    plan = plan_liquidation(start, build_policy({}))
    assert (plan.stage, plan.closes, plan.sales) == ("full", (Close(0, 1000), Close(1, 1000)), ())
    assert (plan.certificate["bound"], plan.certificate["dual_price"], plan.certificate["gap"]) == (None, None, None)
    assert plan.certificate["cost"] == plan.certificate["largest_first"] == plan.certificate["pro_rata"] == "2100"


def test_prune_gives_back_the_cheap_lots_that_a_large_last_lot_makes_needless():
    # A: 20 contracts, 0.9 free each, 18 in all. B: lots of 50 contracts, dearer, 40 free each. D = 20 takes all of A
    # and one lot of B - and with that lot, A is not needed at all.
    start = account("1000", position("A", 20), position("B", 1000, lot="50", slippage="0.002"))
    plan = plan_liquidation(start, build_policy({}))
    assert qtys(plan, start) == {"B": 50}
    # D = 40 exactly: the lot leaves E = MM, and one contract of A takes the account out of the trigger.
    start = account("980", position("A", 20), position("B", 1000, lot="50", slippage="0.002"))
    assert qtys(plan_liquidation(start, build_policy({})), start) == {"A": 1, "B": 50}


def test_rest_under_min_notional_is_closed_with_its_position():
    # D = 854.5: 950 of 1,000 contracts, which leaves $5,000: kept at a minimum of $5,000, closed below it.
    start = account("1145.5", position("A", 1000), position("B", 1000, slippage="0.02"))
    assert qtys(plan_liquidation(start, build_policy({"min_notional": "5000"})), start) == {"A": 950}
    assert qtys(plan_liquidation(start, build_policy({"min_notional": "5001"})), start) == {"A": 1000}


def test_others_are_planned_again_around_a_position_closed_as_dust():
    # D = 95: A, the cheapest, frees 90; seven of B's 1,000 contracts the rest, 0.8 each. With a minimum of $99,400,
    # B's rest of $99,300 is dust: all of B goes and frees 800, and A, no longer needed, stays.
    start = account("1005", position("A", 100), position("B", 1000, slippage="0.002"))
    assert qtys(plan_liquidation(start, build_policy({"min_notional": "99300"})), start) == {"A": 100, "B": 7}
    assert qtys(plan_liquidation(start, build_policy({"min_notional": "99400"})), start) == {"B": 1000}


def test_dust_whose_close_sets_the_account_back_is_made_up_for_elsewhere():
    # A costs 2 %: its top slice (4 %) frees 2 a contract, the one below loses 1. MM 2,500 + 2,000, D = 900: 450 of A,
    # and one to leave the trigger. With a minimum of $60,000 its rest is dust, and all of A frees only 500 x 2 - 500:
    # B, dearer, makes up for the other 400 with 0.3 a contract, 1,333.3.
    start = account("3600", position("A", 1000, tiers=TIERS, slippage="0.02"), position("B", 2000, slippage="0.007"))
    assert qtys(plan_liquidation(start, build_policy({})), start) == {"A": 451}
    assert qtys(plan_liquidation(start, build_policy({"min_notional": "60000"})), start) == {"A": 1000, "B": 1334}


# ------------------------------------------------------------------------------------------------------- collateral


def test_collateral_is_sold_where_that_is_cheaper_than_closing():
    # A coin of weight 0.8 frees 1 - 0.01 - 0.8 = 0.19 per dollar at 0.01: 0.053 per unit freed. Closing: 0.111.
    coin = collateral("COIN", "100", "50", decimals=2, weights=[["0", "0.8"]], slippage="0.01")
    start = account("950", position("A", 1000), collaterals=(coin, USD))
    plan = plan_liquidation(start, build_policy({}))
    # D = 50: 50 / 0.19 = $263.16 = 5.2632 coins, up to 5.27. Slippage 1 % of $263.50.
    assert (plan.closes, plan.sales) == ((), (Sale("COIN", dollars("5.27"), "USDT"),))
    assert (plan.stage, plan.cost_units) == ("partial", dollars("2.635"))
    # E = 950 - 5.27 x 40 + 263.5 x 0.99
    assert plan.certificate["equity_after"] == "1000.065"


def test_collateral_runs_out_and_closing_does_the_rest():
    # 10 coins at $50: $500 x 0.19 = 95 freed; D = 100: the other 5 take 6 contracts, which free 5.4 - so that of the
    # coins, whose steps are whole ones here, none can be kept: one is worth 9.5.
    coin = collateral("COIN", "10", "50", decimals=0, weights=[["0", "0.8"]], slippage="0.01")
    start = account("900", position("A", 1000), collaterals=(coin, USD))
    plan = plan_liquidation(start, build_policy({}))
    assert (plan.closes, plan.sales) == ((Close(0, 6),), (Sale("COIN", dollars("10"), "USDT"),))


def test_slices_of_low_weight_are_sold_from_the_top_and_the_rest_kept():
    # $1,000 of coins: weight 0.98 up to $600, then 0.5. The top $400 frees 0.49 a dollar, what is below 0.01 at the
    # same cost of 0.01 - dearer than closing (0.11 per unit freed). D = 200: $400 frees 196, 5 contracts the rest.
    coin = collateral("COIN", "20", "50", decimals=0, weights=[["0", "0.98"], ["600", "0.5"]], slippage="0.01")
    start = account("800", position("A", 1000), collaterals=(coin, USD))
    plan = plan_liquidation(start, build_policy({}))
    assert (plan.closes, plan.sales) == ((Close(0, 5),), (Sale("COIN", dollars("8"), "USDT"),))


def test_collateral_that_frees_nothing_is_kept():
    coin = collateral("COIN", "100", "50", weights=[["0", "0.99"]], slippage="0.01")
    start = account("950", position("A", 1000), collaterals=(coin, USD))
    assert plan_liquidation(start, build_policy({})).sales == ()


def test_collateral_is_sold_for_the_largest_debt_else_for_what_the_largest_position_settles_in():
    coin = collateral("COIN", "100", "50", weights=[["0", "0.5"]])
    other = collateral("OTHER", "-10", "5")
    policy = build_policy({})
    small = position("A", 100)
    large = position("B", 1000, settle="USDC")
    without_debt = account("1000", small, large, collaterals=(coin, USD))
    assert [sale.for_asset for sale in plan_liquidation(without_debt, policy).sales] == ["USDC"]
    owing = account("1000", small, large, collaterals=(coin, collateral("USDT", "-49", "1"), other))
    assert [sale.for_asset for sale in plan_liquidation(owing, policy).sales] == ["OTHER"]
    owing = account("1000", small, large, collaterals=(coin, collateral("USDT", "-51", "1"), other))
    assert [sale.for_asset for sale in plan_liquidation(owing, policy).sales] == ["USDT"]


def test_what_the_position_settles_in_is_not_sold_for_itself_and_counts_by_its_own_weight():
    # The coin would free 1 - 0.8 at full weight; the settlement asset's own weight of 0.85 leaves 0.05 per dollar.
    coin = collateral("COIN", "100", "50", weights=[["0", "0.8"]])
    settle = collateral("USDT", "500", "1", weights=[["0", "0.85"]])
    start = account("950", position("A", 1000), collaterals=(coin, settle))
    plan = plan_liquidation(start, build_policy({}))
    # D = 50: $1,000 of coins: 20, and the smallest amount more to leave the trigger.
    (sale,) = plan.sales
    assert (sale.asset, sale.for_asset) == ("COIN", "USDT")
    assert dollars("20") < sale.amount_units <= dollars("20") + 2
    # At 0.75 it would be a loss.
    settle = collateral("USDT", "500", "1", weights=[["0", "0.75"]])
    assert (
        plan_liquidation(account("950", position("A", 1000), collaterals=(coin, settle)), build_policy({})).sales == ()
    )


def test_no_more_is_sold_than_the_debt_where_more_would_count_for_less():
    # $100 are owed, and more of that asset would have weight 0.5 only: $100 of the coin free 20, closing the other 30.
    coin = collateral("COIN", "100", "50", decimals=0, weights=[["0", "0.8"]])
    debt = collateral("EUR", "-50", "2", weights=[["0", "0.5"]])
    start = account("950", position("A", 1000), collaterals=(coin, debt))
    plan = plan_liquidation(start, build_policy({}))
    assert plan.sales == (Sale("COIN", dollars("2"), "EUR"),)
    assert plan.closes == (Close(0, 34),)


# ---------------------------------------------------------------------------------------------------- other policies


def test_whole_tiers_are_planned_as_if_marginal_and_give_back_what_the_jump_frees():
    # 520 contracts, $52,000 at 4 % on all of it: 2,080. Below $50,000 it is 1 %: 21 contracts free 2,080 - 499 = 1,581
    # at once. D = 1,080: as if marginal 20 x 3.9 + 1,114 contracts; the real table makes do with 21.
    policy = build_policy({"tier_mode": "whole"})
    start = account("2000", position("A", 520, tiers=TIERS), position("B", 1000), policy=policy)
    assert start.maintenance_units == dollars("3080")
    assert qtys(plan_liquidation(start, policy), start) == {"A": 21}
    # $50,000 exactly belongs to the tier that begins there.
    assert margin(start.positions[0], 500, "whole") == dollars("2000")


def test_whole_tiers_are_closed_in_full_where_no_part_suffices():
    # E = 40 pays for margin on no rest at all: closing k contracts costs 0.1 k and leaves 520 - k to be covered.
    policy = build_policy({"tier_mode": "whole"})
    start = account("40", position("A", 520, tiers=TIERS), policy=policy)
    plan = plan_liquidation(start, policy)
    assert (plan.stage, plan.closes) == ("full", (Close(0, 520),))


def test_off_closes_everything_at_once():
    start = account("1999", position("A", 1000), position("B", -1000))
    plan = plan_liquidation(start, build_policy({"partial": "off"}))
    assert (plan.stage, plan.closes, plan.cost_units) == ("full", (Close(0, 1000), Close(1, 1000)), dollars("200"))
    assert plan.certificate["bound"] == "0.11111111"


def test_fixed_closes_a_fraction_of_the_large_positions_and_the_small_ones_whole():
    policy = build_policy({"partial": "fixed", "fraction": "0.25", "fraction_above": "10000"})
    start = account("50", position("A", 101), position("B", 100), position("C", 1001))
    plan = plan_liquidation(start, policy)
    assert (plan.stage, qtys(plan, start)) == ("partial", {"A": 26, "B": 100, "C": 251})  # up to the lot
    small = account("1", position("B", 100))
    assert plan_liquidation(small, policy).stage == "full"


def test_positions_left_out_keep_their_margin():
    # Another 500 of margin belong to a symbol that may not be traded now: only A can give, and D counts it.
    start = PlanAccount(dollars("1450"), dollars("1500"), (position("A", 1000),))
    assert plan_liquidation(start, build_policy({})).closes == (Close(0, 56),)
    coin, debt = collateral("COIN", "100", "50", weights=[["0", "0.5"]]), collateral("USDT", "-60", "1")
    plan = plan_liquidation(replace(start, positions=(), collaterals=(coin, debt)), build_policy({}))
    assert (plan.stage, plan.closes, len(plan.sales)) == ("partial", (), 1)
    nothing = replace(start, positions=())
    plan = plan_liquidation(nothing, build_policy({}))
    assert (plan.closes, plan.sales, plan.certificate["bound"]) == ((), (), None)


def test_price_of_zero_stops_the_engine():
    with pytest.raises(InvariantError, match="A: mark or settlement price"):
        plan_liquidation(account("1", position("A", 1, mark=0)), build_policy({}))
    bad = PlanCollateral(USD.asset, 1, 0)
    with pytest.raises(InvariantError, match="USDT: price_units was 0"):
        plan_liquidation(account("1", position("A", 1000), collaterals=(bad,)), build_policy({}))


# ------------------------------------------------------------------------------------ against every possible plan


@st.composite
def portfolios(draw, *, helping=False):
    """One to three positions of one to eight lots, any tiers, costs and prices; ``helping``: every close frees."""
    positions = []
    for symbol in "ABC"[: draw(st.integers(1, 3))]:
        rates = sorted(draw(st.lists(st.integers(5, 200), min_size=1, max_size=3)))
        floors = sorted(draw(st.sets(st.integers(1, 3000), min_size=len(rates) - 1, max_size=len(rates) - 1)))
        cost = draw(st.integers(0, rates[0] - 1 if helping else 60))
        inverse = draw(st.booleans())
        mark = draw(st.integers(3, 30 if inverse else 400))
        positions.append(
            position(
                symbol,
                draw(st.integers(1, 8)) * draw(st.sampled_from((-1, 1))),
                mark=mark,
                price=draw(st.sampled_from((UNIT, 97 * UNIT // 100, 101_234_567))),
                kind="inverse" if inverse else "linear",
                multiplier=draw(st.sampled_from(("1", "3", "0.7"))) if not inverse else str(30 * mark),
                tiers=[
                    [str(floor), format_scaled(rate, 3), "5"] for floor, rate in zip([0, *floors], rates, strict=True)
                ],
                slippage=format_scaled(cost, 3),
                depth=draw(st.sampled_from(("none", "150", "1000"))),
            )
        )
    maintenance = sum(margin(item, item.size_steps) for item in positions)
    policy = build_policy(
        {
            "target_buffer": draw(st.sampled_from(("0", "0.05", "0.5"))),
            "trigger": draw(st.sampled_from(("at_or_below", "below"))),
        }
    )
    equity = maintenance * draw(st.integers(0, 1000)) // 1000
    return PlanAccount(equity, maintenance, tuple(positions)), policy


def every_plan(start, policy):
    """Yield (cost, steps closed by position) of every combination of whole lots that meets the target."""
    ladders = [[lots * item.instrument.lot_steps for lots in range(size_in_lots(item) + 1)] for item in start.positions]
    for combination in product(*ladders):
        closed = dict(enumerate(combination))
        if is_met(*outcome(start, closed), policy):
            yield sum(closing_cost(start.positions[index], steps) for index, steps in closed.items()), closed


def size_in_lots(item: PlanPosition) -> int:
    return abs(item.size_steps) // item.instrument.lot_steps


def lots_cost(start, plan):
    """The cost of one lot of each touched position, and a unit of rounding for each."""
    touched = [start.positions[close.position_index] for close in plan.closes]
    return sum(closing_cost(item, item.instrument.lot_steps) + 1 for item in touched)


@settings(max_examples=150)
@given(portfolios())
def test_no_combination_of_lots_is_cheaper_by_more_than_a_lot_of_each_touched_position(case):
    start, policy = case
    assume(not is_met(start.equity_units, start.maintenance_units, policy))
    plan = plan_liquidation(start, policy)
    everything = {index: abs(item.size_steps) for index, item in enumerate(start.positions)}
    plans = [(cost, closed) for cost, closed in every_plan(start, policy) if closed != everything]
    if not plans:
        assert plan.stage == "full"
        assert {close.position_index: close.qty_steps for close in plan.closes} == everything
        return
    closed = {close.position_index: close.qty_steps for close in plan.closes}
    equity, maintenance = outcome(start, closed)
    assert plan.stage == "partial"
    assert is_met(equity, maintenance, policy)
    assert plan.cost_units == start.equity_units - equity
    cheapest = min(cost for cost, _ in plans)
    assert plan.cost_units <= cheapest + lots_cost(start, plan)
    # The bound is below every plan, and the certificate says what happened.
    certificate = plan.certificate
    assert dollars(certificate["bound"]) <= cheapest
    assert dollars(certificate["gap"]) == plan.cost_units - dollars(certificate["bound"])
    assert (dollars(certificate["equity_after"]), dollars(certificate["maintenance_margin_after"])) == (
        equity,
        maintenance,
    )


@settings(max_examples=150)
@given(portfolios(helping=True))
def test_plan_keeps_its_promise_against_the_fractional_optimum(case):
    start, policy = case
    assume(not is_met(start.equity_units, start.maintenance_units, policy))
    plan = plan_liquidation(start, policy)
    certificate = plan.certificate
    if plan.stage == "partial":
        assert 0 <= dollars(certificate["gap"]) <= lots_cost(start, plan)
    if certificate["bound"] is not None:
        # Weak duality, for the price printed: no plan can beat y x deficit - what rungs earn at that price.
        price, bound = Fraction(certificate["dual_price"]), Fraction(dollars(certificate["deficit"])) - 1
        bound *= price
        for lever in build_levers(start, policy):
            for rung in lever.ladder.rungs:
                gain = price * Fraction(rung.freed_rate, PPM * PPM) - Fraction(lever.ladder.cost_ppm, PPM)
                bound -= max(gain, Fraction(0)) * Fraction(rung.length, lever.ladder.scale)
        assert bound <= dollars(certificate["bound"]) + 1


@settings(max_examples=60)
@given(portfolios(helping=True))
def test_every_close_is_needed(case):
    """One lot less of any position misses the target: nobody is liquidated further than needed."""
    start, policy = case
    plan = plan_liquidation(start, policy)
    assume(plan.stage == "partial")
    closed = {close.position_index: close.qty_steps for close in plan.closes}
    for index, steps in closed.items():
        less = closed | {index: steps - start.positions[index].instrument.lot_steps}
        assert not is_met(*outcome(start, less), policy)


WEIGHTS = st.sampled_from(([["0", "1"]], [["0", "0.9"], ["200", "0.6"]], [["0", "0.5"]]))


@st.composite
def wallets(draw):
    """Two coins that may be sold, and the asset all positions settle in, held or owed."""
    held = [
        collateral(
            name,
            format_scaled(draw(st.integers(0, 10**9)), 8),
            draw(st.sampled_from(("0.97", "37", "41234.5678"))),
            decimals=draw(st.sampled_from((0, 2, 8))),
            weights=draw(WEIGHTS),
            slippage=draw(st.sampled_from(("0", "0.01", "0.2"))),
        )
        for name in ("COIN", "DUST")
    ]
    settle = collateral("USDT", draw(st.sampled_from(("-1000", "-3", "0", "500"))), "1", weights=draw(WEIGHTS))
    return (*held, settle)


def collateral_worth(item: PlanCollateral, balance: int) -> int:
    """b x P by slices of weight, in full where owed, down."""
    value, counted = Fraction(balance * item.price_units, UNIT), Fraction(0)
    if balance <= 0:
        return floor(value)
    for (low, weight), (high, _) in pairwise([*item.asset.weights, (10**30, 0)]):
        counted += max(min(value, Fraction(high)) - low, Fraction(0)) * Fraction(weight, PPM)
    return floor(counted)


@settings(max_examples=150)
@given(portfolios(), wallets())
def test_target_holds_once_sales_are_booked_and_every_wallet_is_valued_anew(case, items):
    start, policy = case
    start = replace(start, collaterals=items)
    plan = plan_liquidation(start, policy)
    balances = {item.asset.name: item.balance_units for item in items}
    by_name = {item.asset.name: item for item in items}
    for sale in plan.sales:
        item, target = by_name[sale.asset], by_name[sale.for_asset]
        assert sale.amount_units % item.asset.step_units == 0
        assert 0 < sale.amount_units <= item.balance_units
        kept = 1 - Fraction(item.asset.slippage_ppm, PPM)
        balances[sale.asset] -= sale.amount_units
        balances[sale.for_asset] += floor(sale.amount_units * item.price_units * kept / target.price_units)
    equity, maintenance = outcome(start, {close.position_index: close.qty_steps for close in plan.closes})
    equity += sum(
        collateral_worth(item, balances[item.asset.name]) - collateral_worth(item, item.balance_units) for item in items
    )
    if plan.stage == "partial":
        assert is_met(equity, maintenance, policy)
        if plan.certificate["bound"] is not None:
            assert plan.cost_units >= dollars(plan.certificate["bound"])
    else:
        assert plan.sales == ()


@pytest.mark.parametrize("equity", ["1", "900", "1500", "2300", "2700"])
def test_gap_vanishes_where_lots_are_tiny(equity):
    fine: Any = {"lot": "0.000001", "tiers": TIERS}
    start = account(
        equity, position("A", 600, **fine), position("B", 700, slippage="0.003", **fine), position("C", 500, **fine)
    )
    plan = plan_liquidation(start, build_policy({"target_buffer": "0.02"}))
    assert plan.stage == "partial" if equity != "1" else plan.stage == "full"
    if plan.stage == "partial":
        # A lot is $0.0001, its cost at most 0.3 % of that: below a millionth of a dollar.
        assert 0 <= dollars(plan.certificate["gap"]) <= 3 * 30 + 3
        assert dollars(plan.certificate["cost"]) <= dollars(plan.certificate["largest_first"])
        assert dollars(plan.certificate["cost"]) <= dollars(plan.certificate["pro_rata"])


# ------------------------------------------------------------------------------------- the same margin as the kernels


@settings(max_examples=200)
@given(portfolios(), st.sampled_from(("marginal", "whole")), st.data())
def test_predicted_margin_is_what_the_kernels_will_compute(case, tier_mode, data):
    start, _ = case
    policy = build_policy({"tier_mode": tier_mode})
    for item, lever in zip(start.positions, build_levers(start, policy), strict=True):
        terms = item.instrument
        tiers = tier_table(terms, is_whole=tier_mode == "whole")
        assert isinstance(lever, Closing)
        rest = data.draw(st.integers(0, abs(item.size_steps)))
        in_settle = position_maintenance(spec_row(terms), tiers, rest, item.mark_steps)
        assert lever.maintenance(rest) == to_valuation_up(in_settle, item.settle_price_units)
        assert lever.maintenance(rest) == margin(item, rest, tier_mode)


@given(st.integers(0, 10**15), st.integers(1, 10**13), st.integers(0, 10**10), st.integers(0, PPM), st.integers(0, PPM))
def test_predicted_collateral_is_what_the_kernels_will_compute(balance, price, floor, weight, drop):
    rows = [["0", format_ppm(weight)], [str(floor + 1), format_ppm(max(weight - drop, 0))]]
    item = PlanCollateral(build_asset("COIN", {"weights": rows}), balance + UNIT, price)
    start = account("950", position("A", 1000), collaterals=(item, USD))
    lever = build_levers(start, build_policy({}))[-1]
    assert isinstance(lever, Selling)
    for held in (balance, balance + UNIT):
        assert lever.value(held) == collateral_value(weight_table(item.asset), held, price)
