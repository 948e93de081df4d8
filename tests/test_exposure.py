"""How near accounts are and what a further fall would do: the figures of the report against arithmetic by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.edges.report.exposure import (
    BAND_ENDS_PERCENT,
    FALLS_PPM,
    SAMPLES_MAX,
    STRIDE_MIN,
    ExposureSampler,
    explained,
    lowered,
    sample,
    what_falls,
)
from engine.edges.report.outlook import spread
from tests.scenarios import Desk, buy, control, deposit, mark, sell

BANDS = len(BAND_ENDS_PERCENT) + 1
# So many that the samples are thinned twice.
MESSAGES = 10_000


def test_accounts_are_counted_by_margin_in_percent_of_equity():
    """Ten at 100 need 10: with 1000, 200, 100, 20 and 12 of equity that is 1, 5, 10, 50 and 83 percent."""
    desk = Desk()
    desk.tell(mark("100"), mark("100", "ETHUSDT"))
    for name, amount in zip("abcde", ("1000", "200", "100", "20", "12"), strict=True):
        desk.tell(deposit(name, amount), buy(name, "10", "100"))
    desk.tell(deposit("idle", "5"))
    # An edge belongs to the band that begins there.
    assert sample(desk.shard).bands == (1, 1, 1, 0, 1, 1, 0)


@pytest.mark.parametrize(
    ("equity", "band"),
    [("200.00000001", 0), ("200", 1), ("199.99999999", 1), ("10.00000001", BANDS - 2), ("10", BANDS - 1)],
)
def test_a_band_begins_at_its_percent(equity: str, band: int):
    desk = Desk()
    desk.tell(mark("100"), deposit("a", equity), buy("a", "10", "100"))
    assert [index for index, count in enumerate(sample(desk.shard).bands) if count] == [band]


def test_a_fall_liquidates_longs_by_their_distance_and_no_short():
    """Long ten from 100 with 60, 110 and 500 behind it; a fall of 5 % costs 50 and leaves a margin of 9.5.

    At 95 the first has 10 left, just enough; at 90 it owes 40 and the second has 10 for a margin of 9; at 80 both owe.
    """
    desk = Desk()
    desk.tell(mark("100"), deposit("a", "60"), deposit("b", "110"), deposit("c", "500"), deposit("d", "60"))
    desk.tell(*(buy(name, "10", "100") for name in "abc"), sell("d", "10", "100"))
    found = {fall.fall_ppm: (fall.accounts, fall.notional, fall.deficit) for fall in sample(desk.shard).falls}
    assert tuple(found) == FALLS_PPM
    assert found[50_000] == (0, 0.0, 0.0)
    assert found[100_000] == (1, 900.0, 40.0)
    assert found[200_000] == (2, 1600.0, 140.0 + 90.0)


def test_what_would_fall_is_what_a_mark_there_liquidates():
    desk = Desk()
    desk.tell(mark("100"))
    for number in range(2, 30):
        desk.tell(deposit(f"a{number}", str(7 * number)), buy(f"a{number}", "10", "100"))
    foreseen = what_falls(desk.shard.book, 100_000)
    assert foreseen.accounts > 5
    before = desk.shard.counters.liquidations
    desk.tell(mark("90"))
    assert desk.shard.counters.liquidations - before == foreseen.accounts


def test_looking_changes_nothing():
    desk = Desk()
    desk.tell(mark("100"), deposit("a", "60"), buy("a", "10", "100"))
    before = desk.state()
    sample(desk.shard)
    assert desk.state() == before
    assert desk.equity("a") == "60"


def test_coins_that_are_collateral_fall_with_the_marks_and_stable_ones_do_not():
    """A coin at 100 backs ten contracts from 100: a fall of a tenth costs 100, and a tenth of the coin."""
    risk: dict[str, Any] = {"assets": {"BTC": {"weights": [["0", "1"]]}}, "instruments": {"BTCUSDT": {"base": "BTC"}}}
    desk = Desk(**risk)
    price = {"type": "asset_price", "asset": "BTC", "price": "100"}
    desk.tell(mark("100"), price, deposit("a", "1.15", "BTC"), buy("a", "10", "100"), deposit("b", "115"))
    desk.tell(buy("b", "10", "100"))
    # a: 103.5 - 100 = 3.5 against 9; b: 115 - 100 = 15 against 9.
    assert what_falls(desk.shard.book, 100_000).accounts == 1


def test_no_price_falls_to_nothing():
    assert lowered(np.array([0, 1, 100, 3]), 300_000).tolist() == [0, 1, 70, 3]


def test_everyone_liquidatable_is_in_an_episode_or_held_and_nobody_is_left():
    desk = Desk()
    desk.tell(mark("100"), mark("100", "ETHUSDT"))
    for name, symbol in (("a", "BTCUSDT"), ("b", "ETHUSDT"), ("c", "BTCUSDT")):
        desk.tell(deposit(name, "300" if name == "c" else "60"), buy(name, "10", "100", symbol))
    desk.tell(control("pause", scope="ETHUSDT", reason="drill"), mark("94.5"), mark("94.5", "ETHUSDT"))
    found = explained(desk.shard)
    assert (found.liquidatable, found.in_episode, found.held, found.unexplained) == (2, 1, 1, ())


def test_an_account_that_nobody_speaks_for_is_named():
    desk = Desk()
    desk.tell(mark("100"), deposit("a", "60"), buy("a", "10", "100"), mark("94.5"))
    desk.shard.episodes.clear()
    found = explained(desk.shard)
    assert (found.liquidatable, found.unexplained) == (1, ("a",))


def test_the_fund_is_worth_its_wallet_and_what_its_positions_gained_or_lost_since():
    """The fund's desk is long ten contracts from 100: at 94.5 they have lost 55, more than the 50 in its wallet."""
    desk = Desk()
    desk.tell(mark("100"), deposit("$insurance", "50"), buy("$insurance", "10", "100"))
    assert explained(desk.shard).fund_worth == 50
    desk.tell(mark("94.5"))
    assert explained(desk.shard).fund_worth == -5


def test_samples_stay_few_and_are_of_the_same_messages_in_any_batch():
    taken = []
    for batch in (1, 7, 100):
        desk = Desk()
        sampler, told = ExposureSampler(desk.shard), 0
        while told < MESSAGES:
            count = min(batch, sampler.messages_to_next, MESSAGES - told)
            for _ in range(count):
                desk.now += 1_000_000
                desk.shard.counters.messages += 1
            desk.shard.book.clock = desk.now
            sampler.look()
            told += count
        sampler.finish()
        taken.append([one.number for one in sampler.samples])
    assert taken[0] == taken[1] == taken[2]
    assert SAMPLES_MAX / 2 < len(taken[0]) <= SAMPLES_MAX + 1
    assert taken[0][-1] == MESSAGES
    assert all(number % STRIDE_MIN == 0 for number in taken[0])


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 64])
def test_samples_shown_are_spread_from_the_last_to_the_first(count: int):
    shown = spread(range(count))
    assert len(shown) == min(count, 6)
    assert (shown[0], shown[-1]) == (count - 1, 0)
