"""Auto-deleveraging: who gives how many lots under each rule, and what the fairness meter says about it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.adl import RULES, Winner, allocate, wave_report
from engine.errors import InvariantError
from engine.units import UNIT


def winner(account, lots, *, lots_max=None, pnl=0, entry=1000, notional=1000, equity=100, bucket="", leg="net", lot=10):
    """A winner with money in whole dollars: by default $1,000 at 10x, in lots of $10."""
    return Winner(
        account=account,
        bucket=bucket,
        leg=leg,
        lots=lots,
        lots_max=lots if lots_max is None else lots_max,
        pnl=pnl * UNIT,
        entry_notional=entry * UNIT,
        account_notional=notional * UNIT,
        equity=equity * UNIT,
        notional_per_lot=Fraction(lot * UNIT),
    )


# ----------------------------------------------------------------------------------------------------------- queue


def test_queue_serves_the_highest_profit_times_leverage_first():
    winners = [
        winner("a", 10, pnl=100, equity=500),  # 10 % x 2 = 0.2
        winner("b", 10, pnl=50, equity=100),  # 5 % x 10 = 0.5
        winner("c", 10, pnl=200, equity=500),  # 20 % x 2 = 0.4
    ]
    assert allocate("queue", winners, 15) == [0, 10, 5]


def test_queue_puts_losers_last_and_among_them_the_most_leveraged_first():
    winners = [
        winner("a", 10, pnl=-100, equity=500),  # -10 % / 2 = -0.05
        winner("b", 10, pnl=-100, equity=100),  # -10 % / 10 = -0.01
        winner("c", 10, pnl=0),  # 0
        winner("d", 10, pnl=1, equity=10_000),  # 0.1 % x 0.1 = 0.0001
    ]
    assert allocate("queue", winners, 25) == [0, 5, 10, 10]
    assert allocate("queue", winners, 35) == [5, 10, 10, 10]


def test_queue_breaks_ties_by_account_then_bucket_then_leg():
    winners = [
        winner("b", 10, pnl=10),
        winner("a", 10, pnl=10, bucket="BTCUSDT"),
        winner("a", 10, pnl=10, leg="short"),
        winner("a", 10, pnl=10, leg="long"),
    ]
    assert allocate("queue", winners, 25) == [0, 5, 10, 10]
    assert allocate("queue", winners, 35) == [5, 10, 10, 10]


def test_queue_sees_a_difference_of_one_unit_among_billions():
    """Two scores that agree to 18 digits: 64-bit floats would call them equal and let the name decide."""
    higher = replace(winner("b", 5), pnl=10**18, entry_notional=10**18, account_notional=10**18, equity=10**17)
    lower = replace(higher, account="a", pnl=10**18 - 1)
    assert allocate("queue", [lower, higher], 5) == [0, 5]


def test_queue_takes_no_more_than_a_winner_can_give():
    winners = [winner("a", 10, lots_max=3, pnl=100), winner("b", 10, pnl=10)]
    assert allocate("queue", winners, 8) == [3, 5]


def test_an_account_without_equity_is_the_most_leveraged_of_all():
    winners = [winner("a", 10, pnl=500), winner("b", 10, pnl=1, equity=0)]
    assert allocate("queue", winners, 10) == [0, 10]
    assert allocate("water_filling", winners, 10) == [0, 10]


# -------------------------------------------------------------------------------------------------------- pro rata


def test_pro_rata_takes_the_same_part_of_every_position():
    assert allocate("pro_rata", [winner("a", 10), winner("b", 30), winner("c", 60)], 50) == [5, 15, 30]


def test_pro_rata_gives_the_odd_lots_to_the_largest_remainders_then_by_account():
    # 10 of 30: 3.33, 3.33, 3.33 - one lot left over, remainders equal: the first account.
    assert allocate("pro_rata", [winner("c", 10), winner("b", 10), winner("a", 10)], 10) == [3, 3, 4]
    # 5 of 12: 0.83, 1.67, 2.5 - two left over, to 0.83 and 1.67.
    assert allocate("pro_rata", [winner("a", 2), winner("b", 4), winner("c", 6)], 5) == [1, 2, 2]


def test_pro_rata_shares_out_again_what_one_cannot_give():
    # Of 60 lots a would give 20 and can give 2: b and c share the other 58.
    winners = [winner("a", 30, lots_max=2), winner("b", 30), winner("c", 30)]
    assert allocate("pro_rata", winners, 60) == [2, 29, 29]


def test_pro_rata_fills_a_second_cap_that_only_the_redistribution_reaches():
    # Of 30, ten each. a gives 1; of 29, b would give 14.5 and can give 12; c the other 17.
    winners = [winner("a", 30, lots_max=1), winner("b", 30, lots_max=12), winner("c", 30)]
    assert allocate("pro_rata", winners, 30) == [1, 12, 17]


# --------------------------------------------------------------------------------------------------- water filling


def test_water_filling_brings_the_highest_leverages_down_to_one_level():
    winners = [
        winner("a", 100, notional=1000, equity=50),  # 20x
        winner("b", 100, notional=1000, equity=100),  # 10x
        winner("c", 100, notional=1000, equity=500),  # 2x
    ]
    # Down to 10x costs a $500 = 50 lots, and nobody else anything.
    assert allocate("water_filling", winners, 50) == [50, 0, 0]
    # 75 lots = $750: 2000 - 750 = 1250 left on 150 of equity, 8 1/3x: a keeps 416.67, b 833.33.
    # a 58.33, b 16.67: floors 58 and 16, the odd lot to the larger remainder, b.
    assert allocate("water_filling", winners, 75) == [58, 17, 0]


def test_water_filling_lets_a_winner_drop_out_at_its_cap():
    # a is at 20x but its leverage comes from another symbol: here it holds only 5 lots.
    winners = [winner("a", 5, notional=1000, equity=50), winner("b", 100, notional=1000, equity=100)]
    assert allocate("water_filling", winners, 20) == [5, 15]


def test_water_filling_is_exact_where_a_lot_is_a_fraction_of_a_unit():
    first = replace(winner("a", 100), notional_per_lot=Fraction(1, 3), account_notional=30, equity=1)
    # 30x and 15x. 48 lots are 16 units: a to 15x takes 15 (45 lots); the 16th is shared 1 : 2 by equity.
    assert allocate("water_filling", [first, replace(first, account="b", equity=2)], 48) == [46, 2]


# --------------------------------------------------------------------------------------------------------- all three


@pytest.mark.parametrize("rule", RULES)
def test_all_is_taken_where_less_than_needed_can_be_given_and_nothing_where_nothing_is_needed(rule):
    winners = [winner("a", 10, lots_max=4), winner("b", 3), winner("c", 5, lots_max=0)]
    assert allocate(rule, winners, 8) == [4, 3, 0]
    assert allocate(rule, winners, 7) == [4, 3, 0]
    assert sum(allocate(rule, winners, 6)) == 6
    assert allocate(rule, winners, 0) == [0, 0, 0]
    assert allocate(rule, [], 5) == []


def test_what_makes_no_sense_stops_the_engine():
    with pytest.raises(InvariantError, match="adl rule was 'lottery'"):
        allocate("lottery", [winner("a", 1)], 1)
    with pytest.raises(InvariantError, match="needed_lots was -1"):
        allocate("queue", [winner("a", 1)], -1)
    with pytest.raises(InvariantError, match="lots_max was 2"):
        allocate("queue", [winner("a", 1, lots_max=2)], 1)
    with pytest.raises(InvariantError, match="notional_per_lot"):
        allocate("queue", [winner("a", 1), winner("b", 1, lot=20)], 1)


@st.composite
def waves(draw):
    """Up to eight winners of small, often equal figures, and a need up to a little more than they hold."""
    figure = st.integers(0, 12)
    lot = Fraction(draw(st.integers(1, 4)), draw(st.integers(1, 3)))
    winners = []
    for number in range(draw(st.integers(1, 8))):
        lots = draw(st.integers(1, 9))
        winners.append(
            Winner(
                account=f"a{draw(st.integers(0, 9))}",
                bucket="",
                leg=str(number),
                lots=lots,
                lots_max=draw(st.integers(0, lots)),
                pnl=draw(st.integers(-9, 9)),
                entry_notional=draw(figure),
                account_notional=int(lots * lot) + draw(figure),
                equity=draw(figure),
                notional_per_lot=lot,
            )
        )
    return winners, draw(st.integers(0, sum(winner.lots for winner in winners) + 2))


@given(waves())
def test_every_rule_takes_exactly_what_it_can_and_does_not_depend_on_the_order_given(wave):
    winners, needed = wave
    for rule in RULES:
        lots = allocate(rule, winners, needed)
        assert sum(lots) == min(needed, sum(winner.lots_max for winner in winners))
        assert all(0 <= taken <= winner.lots_max for taken, winner in zip(lots, winners, strict=True))
        assert allocate(rule, winners[::-1], needed) == lots[::-1]


@given(waves())
def test_queue_never_passes_over_a_higher_score(wave):
    winners, needed = wave
    lots = allocate("queue", winners, needed)

    def score(winner):
        percent = Fraction(winner.pnl, max(winner.entry_notional, 1))
        leverage = Fraction(max(winner.account_notional, 1), max(winner.equity, 1))
        return percent * leverage if winner.pnl > 0 else percent / leverage

    for taken, receiver in zip(lots, winners, strict=True):
        for other_taken, other in zip(lots, winners, strict=True):
            if taken and other_taken < other.lots_max:
                assert score(receiver) >= score(other)


@given(waves())
def test_pro_rata_is_the_same_part_of_each_within_one_lot_unless_capped(wave):
    winners, needed = wave
    lots = allocate("pro_rata", winners, needed)
    for taken, giver in zip(lots, winners, strict=True):
        for other_taken, other in zip(lots, winners, strict=True):
            # One lot less of anybody's is a smaller part than one lot more of anybody's who could still give.
            if taken and other_taken < other.lots_max:
                assert (taken - 1) * other.lots < (other_taken + 1) * giver.lots


@given(waves())
def test_water_filling_leaves_nobody_more_than_a_lot_above_another_who_gave(wave):
    winners, needed = wave
    lots = allocate("water_filling", winners, needed)

    def leverage(winner, taken):
        return (winner.account_notional - taken * winner.notional_per_lot) / max(winner.equity, 1)

    for taken, giver in zip(lots, winners, strict=True):
        for other_taken, other in zip(lots, winners, strict=True):
            if taken and other_taken < other.lots_max:
                assert leverage(giver, taken - 1) > leverage(other, other_taken + 1)


# ---------------------------------------------------------------------------------------------------- fairness meter


def test_report_says_who_bore_how_much_of_the_profit_and_what_the_other_rules_would_have_done():
    winners = [
        winner("a", 10, pnl=300, equity=100),  # score 3: queue takes all ten, profit 300
        winner("b", 10, pnl=100, equity=100),  # score 1
        winner("c", 10, pnl=-50, equity=50),
    ]
    report = wave_report("queue", winners, allocate("queue", winners, 12), 12)
    assert report == {
        "counterparties": 2,
        "largest_profit_share": "0.9375",  # a gives up 300, b 2/10 of 100 = 20: 300 / 320
        "alternatives": {
            # four lots each: 120 and 40, c has no profit to give up: 120 / 160
            "pro_rata": {"counterparties": 3, "largest_profit_share": "0.75"},
            # c from 20x to 10x takes $500 and holds $100 here: ten lots; a and b one each: 30 and 10
            "water_filling": {"counterparties": 3, "largest_profit_share": "0.75"},
        },
    }


def test_report_counts_an_account_once_and_no_profit_is_no_share():
    winners = [winner("a", 10, pnl=10), winner("a", 10, pnl=30, bucket="BTCUSDT"), winner("b", 10, pnl=20)]
    report = wave_report("pro_rata", winners, [10, 10, 10], 40)
    assert report["counterparties"] == 2
    assert report["largest_profit_share"] == "0.666667"  # (10 + 30) / 60
    losers = [winner("a", 10, pnl=-10), winner("b", 10, pnl=0)]
    assert wave_report("queue", losers, [10, 10], 20)["largest_profit_share"] == "0"
    assert wave_report("queue", losers, [0, 0], 0)["counterparties"] == 0
