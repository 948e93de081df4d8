"""Auto-deleveraging: who gives how many lots under each rule, and what the fairness meter says about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core import adl, takeover
from engine.core.adl import RULES, Winners
from engine.core.shard import Shard
from engine.edges.digest import state_hash
from engine.errors import InvariantError
from engine.units import UNIT
from tests.scenarios import Desk, buy, control, decimal, deposit, kinds, mark, of, one, pick, sell, withdraw


@dataclass(frozen=True)
class Winner:
    """One winner as a trader would write it down; ``winners_of`` makes the engine's arrays of many."""

    account: str
    bucket: str
    leg: str
    lots: int
    lots_max: int
    pnl: int
    entry_notional: int
    account_notional: int
    equity: int
    notional_per_lot: Fraction

    @property
    def name(self):
        return self.account, self.bucket, self.leg


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


def winners_of(winners):
    """The engine's arrays, which stand in the order of names."""
    ordered = sorted(winners, key=lambda winner: winner.name)
    numbers = {account: number for number, account in enumerate(sorted({winner.account for winner in winners}))}
    figures = ("lots", "lots_max", "pnl", "entry_notional", "account_notional", "equity")
    return Winners(
        accounts=np.array([numbers[winner.account] for winner in ordered], dtype=np.int64),
        notional_per_lot=winners[0].notional_per_lot if winners else Fraction(1),
        **{name: np.array([getattr(winner, name) for winner in ordered], dtype=np.int64) for name in figures},
    )


def by_name(winners):
    """The places of winners in the order of names."""
    return sorted(range(len(winners)), key=lambda place: winners[place].name)


def allocate(rule, winners, needed):
    """What each winner gives, in the order given here."""
    lots = [0] * len(winners)
    for place, taken in zip(by_name(winners), adl.allocate(rule, winners_of(winners), needed).tolist(), strict=True):
        lots[place] = taken
    return lots


def wave_report(rule, winners, lots, needed):
    ordered = np.array([lots[place] for place in by_name(winners)], dtype=np.int64)
    return adl.wave_report(rule, winners_of(winners), ordered, needed)


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
        allocate("queue", [winner("a", 1, lot=0)], 1)


@st.composite
def waves(draw):
    """Up to eight winners of small, often equal figures, now and then forty; a need up to a bit more than they hold.

    One in two waves is of billions: the same figures, give or take a few, so large that no product fits in 64 bits.
    """
    figure = st.integers(0, 12)
    scale = draw(st.sampled_from((1, 10**16)))
    lot = Fraction(draw(st.integers(1, 4)), draw(st.integers(1, 3)))

    def large(number):
        return max(0, number * scale + (draw(st.integers(-2, 2)) if scale > 1 and number else 0))

    winners = []
    for number in range(draw(st.one_of(st.integers(1, 8), st.just(40)))):
        lots = max(1, large(draw(st.integers(1, 9))))
        pnl = draw(st.integers(-9, 9))
        winners.append(
            Winner(
                account=f"a{draw(st.integers(0, 9))}",
                bucket="",
                leg=f"{number:02}",
                lots=lots,
                lots_max=min(lots, large(draw(st.integers(0, 9)))),
                pnl=large(pnl) if pnl > 0 else -large(-pnl),
                entry_notional=large(draw(figure)),
                account_notional=int(lots * lot) + large(draw(figure)),
                equity=large(draw(figure)),
                notional_per_lot=lot,
            )
        )
    return winners, draw(st.integers(0, sum(winner.lots for winner in winners) + 2))


def score(winner):
    """The queue's score, from the contract's words."""
    percent = Fraction(winner.pnl, max(winner.entry_notional, 1))
    leverage = Fraction(max(winner.account_notional, 1), max(winner.equity, 1))
    return percent * leverage if winner.pnl > 0 else percent / leverage


def queue_by_hand(winners, needed):
    lots = [0] * len(winners)
    for place in sorted(by_name(winners), key=lambda place: -score(winners[place])):
        lots[place] = min(winners[place].lots_max, needed)
        needed -= lots[place]
    return lots


def part_by_contracts(winner, part):
    """What a winner gives where all give the same part of what they hold, if they can."""
    return min(part * winner.lots, Fraction(winner.lots_max))


def part_above(winner, level):
    """What a winner gives to come down to a leverage, if it can."""
    lots = (winner.account_notional - level * max(winner.equity, 1)) / winner.notional_per_lot
    return min(max(lots, Fraction(0)), Fraction(winner.lots_max))


def level_of(levels, total, needed):
    """Where ``total``, which rises along these levels and is straight between them, is what is needed."""
    for before, after in pairwise(levels):
        low, high = total(before), total(after)
        if high >= needed:
            return before + (after - before) * (needed - low) / (high - low) if high > low else before
    raise AssertionError("more is needed than can be given")


def shares_by_hand(rule, winners, needed):
    """The exact shares of the two rules that share out, in fractions of lots."""
    if rule == "pro_rata":
        part, levels = part_by_contracts, [Fraction(winner.lots_max, winner.lots) for winner in winners]
        levels = sorted({Fraction(0), *levels})
    else:
        part, levels = part_above, []
        for giver in winners:
            least = giver.account_notional - giver.lots_max * giver.notional_per_lot
            levels += [Fraction(notional, max(giver.equity, 1)) for notional in (giver.account_notional, least)]
        levels = sorted(set(levels), reverse=True)
    level = level_of(levels, lambda level: sum(part(winner, level) for winner in winners), needed)
    return [part(winner, level) for winner in winners]


def by_hand(rule, winners, needed):
    """What each winner gives, worked out in fractions, from the rules in words."""
    if sum(winner.lots_max for winner in winners) <= needed:
        return [winner.lots_max for winner in winners]
    if rule == "queue" or needed == 0:
        return queue_by_hand(winners, needed)
    shares = shares_by_hand(rule, winners, needed)
    assert sum(shares) == needed
    lots = [int(share) for share in shares]
    largest = sorted(by_name(winners), key=lambda place: lots[place] - shares[place])
    for place in largest[: needed - sum(lots)]:
        lots[place] += 1
    return lots


@given(waves())
def test_every_rule_gives_what_its_words_say_to_the_last_lot(wave):
    winners, needed = wave
    for rule in RULES:
        assert allocate(rule, winners, needed) == by_hand(rule, winners, needed), rule


@given(waves())
def test_fairness_is_what_each_account_gives_up_of_its_profit(wave):
    winners, needed = wave
    for rule in RULES:
        lots = by_hand(rule, winners, needed)
        given_up = {giver.account: 0 for giver, taken in zip(winners, lots, strict=True) if taken}
        for giver, taken in zip(winners, lots, strict=True):
            if taken:
                given_up[giver.account] += max(giver.pnl, 0) * taken // giver.lots
        total = sum(given_up.values())
        share = round(Fraction(max(given_up.values()), total), 6) if total else Fraction(0)
        report = wave_report(rule, winners, lots, needed)
        assert (report["counterparties"], Fraction(report["largest_profit_share"])) == (len(given_up), share)
        assert set(report["alternatives"]) == set(RULES) - {rule}


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


# --------------------------------------------------------------------------------------------------- waves in a book


def stuck_alice(**options):
    """Alice put up 20, is 10 long at 100, and at 97 owes 10 that nobody takes: the fund is empty, nobody is short."""
    desk = Desk(**options)
    desk.tell(mark("100"), deposit("alice", "20"), buy("alice", "10", "100"))
    assert kinds(desk.tell(mark("97")))[-1] == "adl_remaining"
    return desk


def test_equal_claims_in_a_book_are_served_by_name_whenever_their_accounts_were_opened():
    desk = stuck_alice()
    # Both are 4 short at 97 with 100 behind it; hugo, the second by name, was there first. Alice needs 10.
    desk.tell(sell("hugo", "4", "97", fee="-100"))
    assert desk.qty("alice") == "6"
    # The same again in three accounts that did not exist when the first wave was dealt with: 2 of each would do.
    shard = desk.shard
    names = ("zoe", "ada", "max")
    for name in names:
        shard.book.open_row(name, "")
    desk.tell(mark("97.1"), *(deposit(name, "100") for name in names))
    assert desk.qty("alice") == "6"
    desk.tell(mark("99.5"))
    for name in names:
        desk.tell(sell(name, "4", "99.5"))
    outputs = desk.tell(mark("97"))
    assert [pick(body, "counterparty qty") for body in of(outputs, "adl")] == [("ada", "4"), ("max", "2")]


@pytest.mark.parametrize("rule", RULES)
def test_waves_do_not_depend_on_the_order_in_which_accounts_were_opened(rule):
    """Thirty shorts, a third of them alike, against one who holds half of what they do."""
    shorts = [(f"s{number:02}", 100 + 7 * (number % 10), 1 + number % 5) for number in range(30)]
    shuffled = Random(5).sample(shorts, len(shorts))
    waves = []
    for order in (shorts, shorts[::-1], shuffled):
        desk = Desk(adl_rule=rule)
        desk.tell(mark("100"), deposit("alice", "90"), buy("alice", "45", "100"))
        for name, amount, qty in order:
            desk.tell(deposit(name, str(amount)), sell(name, str(qty), "100"))
        outputs = desk.tell(mark("97"))
        waves.append([pick(body, "counterparty qty cash") for body in of(outputs, "adl")])
        waves.append([pick(one(outputs, "adl_wave"), "counterparties largest_profit_share")])
        waves.append([one(outputs, "adl_wave")["alternatives"]])
        assert desk.qty("alice") == "0"
    assert waves[:3] == waves[3:6] == waves[6:]
    assert sum(decimal(qty) for _, qty, _ in waves[0]) == 45


def alice_loses_a_coin_on_three_lots():
    """Alice has half a coin of 60,000 dollars and loses one and a half: who takes her lots, worth 1.5, pays 2.5.

    All is paused, so that others can come in at the mark that ruined her.
    """
    contract = {"settle": "COIN", "price_tick": "0.01", "lot": "1", "tiers": [["0", "0.01", "50"]]}
    desk = Desk(instruments={"ABCCOIN": contract}, assets={"COIN": {"price": "60000"}})
    desk.tell(mark("1", "ABCCOIN"), deposit("alice", "0.5", "COIN"), buy("alice", "3", "1", "ABCCOIN"))
    desk.tell(control("pause", scope="all", reason="drill"), mark("0.5", "ABCCOIN"))
    return desk


@pytest.mark.parametrize(("deposited", "is_taken"), [("20000.00039999", False), ("20000.0004", True)])
def test_who_takes_the_last_part_can_pay_what_the_others_roundings_left_over(deposited, is_taken):
    desk = alice_loses_a_coin_on_three_lots()
    for name, amount in (("bob", "50000"), ("cat", "50000"), ("dan", deposited)):
        desk.tell(deposit(name, amount), sell(name, "1", "0.5", "ABCCOIN"))
    outputs = desk.tell(control("resume", scope="all", reason="drill"))
    # A third is 0.83333333.., which bob and cat pay rounded down, so that dan's is 0.83333334: that is 0.33333334 coins
    # or 20,000.0004 dollars more than a lot is worth.
    parts = [("bob", "0.83333333"), ("cat", "0.83333333"), ("dan", "0.83333334")][: 3 if is_taken else 2]
    assert [pick(body, "counterparty cash") for body in of(outputs, "adl")] == parts
    wave = pick(one(outputs, "adl_wave"), "needed_qty taken_qty counterparties")
    assert wave == (("3", "3", 3) if is_taken else ("3", "2", 2))
    assert desk.equity("dan") == ("0" if is_taken else deposited)
    assert desk.qty("alice", "ABCCOIN") == ("0" if is_taken else "1")
    if not is_taken:
        outputs = desk.tell(deposit("dan", "0.00000001"))
        assert [body["counterparty"] for body in of(outputs, "adl")] == ["dan"]


def test_wave_from_which_nothing_can_be_taken_is_none():
    desk = alice_loses_a_coin_on_three_lots()
    desk.tell(deposit("$insurance", "40000"), deposit("dan", "20000.0002"), sell("dan", "1", "0.5", "ABCCOIN"))
    outputs = desk.tell(control("resume", scope="all", reason="drill"))
    # The fund pays 1.66666666 for two lots worth 1, and has 0.0004 dollars left. Dan cannot pay the
    # 0.83333334 that are left to be paid.
    assert positions(one(outputs, "takeover")) == [("ABCCOIN", "2")]
    assert kinds(outputs)[-1] == "adl_remaining"
    assert (of(outputs, "adl_wave"), desk.equity("dan"), desk.equity("$insurance")) == ([], "20000.0002", "0.0004")


# -------------------------------------------------------------------------------------------- what is stuck stays stuck


def test_fund_takes_the_first_lot_as_soon_as_it_has_what_one_costs():
    desk = stuck_alice()
    # A lot of 0.001 BTC goes for 0.098 and is worth 0.097.
    assert kinds(desk.tell(deposit("$insurance", "0.00099999"))) == ["insurance_fund"]
    outputs = desk.tell(deposit("$insurance", "0.00000001"))
    assert kinds(outputs) == ["insurance_fund", "takeover", "adl_remaining"]
    assert pick(outputs[-1], "qty") == ("9.999",)


def test_fund_under_its_floor_takes_a_haircut_position_that_lifts_it_over():
    # 100 of collateral count for 90. At 98.02 she has lost 99: E = -9, but who takes all pays 4900 for 4901.
    desk = Desk(assets={"USDT": {"price": "1", "weights": [["0", "0.9"]]}}, insurance_floor="3")
    desk.tell(mark("100"), deposit("alice", "100"), buy("alice", "50", "100"))
    assert kinds(desk.tell(mark("98.02")))[-1] == "adl_remaining"
    # At 98.1 E is -5 still, and who takes all gains 5: the floor of 3 is reached.
    outputs = desk.tell(mark("98.1"))
    assert kinds(outputs)[:1] == ["takeover"]
    assert (desk.qty("alice"), desk.equity("$insurance")) == ("0", "5")


def test_empty_fund_takes_the_lots_whose_part_of_the_loss_is_less_than_a_unit():
    # 0.00000001 missing over ten thousand lots: the cash of all but the last is rounded down to what they are worth.
    desk = Desk()
    desk.tell(mark("100"), deposit("alice", "29.99999999"), buy("alice", "10", "100"))
    outputs = desk.tell(mark("97"))
    assert positions(one(outputs, "takeover")) == [("BTCUSDT", "9.999")]
    # The last lot takes the remainder, one unit too much, at each step anew.
    assert desk.tell(mark("50", "ETHUSDT")) == []
    assert desk.tell(deposit("$insurance", "0.00000001"))[-1]["type"] == "liquidation_ended"


def positions(takeover_body):
    return [pick(position, "symbol qty") for position in takeover_body["positions"]]


@pytest.fixture
def glances(monkeypatch):
    """Let every waterfall that is stuck at a glance run in full all the same: nothing may come of it.

    Whether each was, and whether the fund was under its floor.
    """
    seen = []
    glance, waterfall = takeover.is_as_stuck_as_before, takeover.run_waterfall

    def look(shard, episode, keys):
        is_under = takeover.fund_equity(shard.book) < shard.book.policy.insurance_floor_units
        seen.append((glance(shard, episode, keys), is_under))
        return False

    def run(shard: Shard, episode):
        before, calls = (shard.seq, state_hash(shard)), len(seen)
        result = waterfall(shard, episode)
        if seen[calls][0]:
            assert (shard.seq, state_hash(shard), result) == (*before, False)
        return result

    monkeypatch.setattr(takeover, "is_as_stuck_as_before", look)
    monkeypatch.setattr("engine.core.liquidation.run_waterfall", run)
    return seen


def test_what_is_stuck_at_a_glance_finds_no_taker_in_full(glances):
    for seed in range(24):
        sink(Desk(**random_terms(Random(seed))), Random(seed))
    # Stuck with a fund under its floor, and with one that is not; and not to be told at a glance.
    assert min(glances.count(verdict) for verdict in ((True, True), (True, False), (False, False))) > 30


def random_terms(random):
    """A settlement asset at any price, now and then with a haircut, and a fund that may or must keep something."""
    haircut = random.choice(({}, {}, {"weights": [["0", "0.9"]]}))
    usdt = {"price": random.choice(("1", "0.9998", "3")), **haircut}
    return {"assets": {"USDT": usdt}, "insurance_floor": random.choice(("0", "1"))}


def sink(desk, random):
    """Longs who owe between nothing and a lot more, and a fund about its floor by units, lots and dollars."""
    desk.tell(mark("100"), mark("50", "ETHUSDT"))
    for name in ("ann", "ben", "cat"):
        desk.tell(deposit(name, f"{random.randint(15, 40)}.{random.randrange(10**8):08}"))
        desk.tell(buy(name, random.choice(("10", "0.001", "3.333")), "100"))
        desk.tell(buy(name, random.choice(("20", "0.01", "7.77")), "50", "ETHUSDT"))
    for _ in range(40):
        units = random.choice((1, 3, 10**3, 10**5, 10**8)) * random.randint(1, 9)
        amount = f"{units // UNIT}.{units % UNIT:08}"
        bitcoin, ether = f"{random.randint(90, 98)}.{random.randrange(10)}", f"{random.randint(44, 49)}"
        desk.tell(
            random.choice(
                (
                    mark(bitcoin),
                    mark(ether, "ETHUSDT"),
                    deposit("$insurance", amount),
                    withdraw("$insurance", amount),
                )
            )
        )
