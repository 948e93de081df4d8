"""What a stablecoin counts for while one venue after another prints it under par (``redemption_floor``).

Alice is 70 BTC long from 100 and her 100 COIN are all she has: 70 are needed. At par she has 100, at the floor of 0.97
she has 97; at 0.65, where one venue had USDe in October 2025, she has 65 and is liquidated.
"""

from __future__ import annotations

import pytest

from tests.scenarios import Desk, asset_price, buy, control, deposit, kinds, mark, of, one, pick


def alice_long(**options):
    desk = Desk(assets={"COIN": {"redemption_floor": "0.97"}}, **options)
    desk.tell(mark("100"), asset_price("COIN", "1", source="a"), deposit("alice", "100", "COIN"))
    desk.tell(buy("alice", "70", "100"))
    return desk


def prints(price, *sources, **fields):
    return [asset_price("COIN", price, source=source, **fields) for source in sources]


def depegged(**options):
    """Three sources say 0.65, and Alice, who is rich now, is still there."""
    desk = alice_long(**options)
    desk.tell(deposit("alice", "10000"), *prints("0.65", "a", "b", "c"))
    assert coin(desk) == 65_000_000
    return desk


def coin(desk):
    return desk.shard.book.asset_prices[desk.shard.book.asset_index["COIN"]].value


# With and without a band: the floor is no matter of the band.
either_way = pytest.mark.parametrize("band", ["0", "0.1"])


@either_way
def test_one_source_however_often_it_says_so_liquidates_nobody(band):
    desk = alice_long(price_band=band)
    assert desk.tell(*prints("0.65", "a", "a", "a", "a")) == []
    assert desk.equity("alice") == "97"


@either_way
def test_two_sources_liquidate_nobody_and_three_do_at_once_at_what_they_say(band):
    desk = alice_long(price_band=band)
    assert desk.tell(*prints("0.65", "a", "b", "a", "b")) == []
    assert desk.equity("alice") == "97"
    outputs = desk.tell(*prints("0.65", "c"))
    assert pick(one(outputs, "liquidation_started"), "account equity cause") == ("alice", "65", "mark")


def test_without_a_floor_the_first_source_liquidates():
    desk = Desk(assets={"COIN": {}})
    desk.tell(mark("100"), asset_price("COIN", "1"), deposit("alice", "100", "COIN"), buy("alice", "70", "100"))
    assert "liquidation_started" in kinds(desk.tell(*prints("0.65", "a")))


def test_source_that_takes_it_back_counts_no_longer():
    desk = alice_long()
    assert desk.tell(*prints("0.65", "a", "b"), *prints("1", "a"), *prints("0.65", "c")) == []
    assert desk.equity("alice") == "97"
    assert "liquidation_started" in kinds(desk.tell(*prints("0.65", "a")))


def test_sources_without_a_name_are_one():
    desk = alice_long()
    nameless = asset_price("COIN", "0.65")
    assert desk.tell(nameless, nameless, nameless, *prints("0.65", "a")) == []
    assert "liquidation_started" in kinds(desk.tell(*prints("0.65", "b")))


def test_price_at_the_floor_is_no_doubt_and_a_unit_less_is():
    desk = alice_long()
    desk.tell(deposit("alice", "10000"), *prints("0.97", "a", "b", "c"), *prints("0.65", "d", "e"))
    assert coin(desk) == 97_000_000
    desk.tell(*prints("0.96999999", "a"))
    assert coin(desk) == 96_999_999


def test_price_above_the_floor_is_taken_as_it_is():
    desk = alice_long()
    desk.tell(*prints("0.98", "a"))
    assert desk.equity("alice") == "98"
    desk.tell(*prints("0.2", "a"), *prints("1.01", "b"))
    assert desk.equity("alice") == "101"


def test_older_print_of_another_source_is_ignored_and_no_doubt():
    desk = alice_long()
    ts = desk.now
    assert desk.tell(*prints("0.65", "a", "b"), *prints("0.65", "c", ts=ts)) == []
    assert (desk.equity("alice"), desk.shard.counters.ignored) == ("97", 1)


def test_print_that_is_refused_is_no_doubt():
    desk = alice_long()
    desk.tell(*prints("0.65", "a", "b"))
    # 0.000000001 is nothing at eight decimals.
    assert kinds(desk.tell(*prints("0.000000001", "c"))) == ["reject"]
    assert desk.equity("alice") == "97"


def test_unconfirmed_price_of_a_third_source_is_not_held_by_the_band():
    desk = alice_long(price_band="0.01")
    # 0.97 is 3 % away and waits itself: 30 % of doubt are all the same to it.
    desk.tell(*prints("0.65", "a", "b"))
    outputs = desk.tell(*prints("0.65", "c"))
    assert of(outputs, "liquidation_held") == []
    assert "liquidation_started" in kinds(outputs)


def test_floor_set_by_control_judges_the_next_price():
    desk = alice_long()
    desk.tell(control("set_asset", asset="COIN", redemption_floor="0.9"), *prints("0.65", "a"))
    assert desk.equity("alice") == "90"
    outputs = desk.tell(control("set_asset", asset="COIN", redemption_floor="none"), *prints("0.65", "a"))
    assert "liquidation_started" in kinds(outputs)


def test_recovery_of_one_source_of_three_brings_the_floor_back():
    desk = depegged()
    desk.tell(*prints("1", "a"))
    assert coin(desk) == 100_000_000
    desk.tell(*prints("0.65", "b"))
    assert coin(desk) == 97_000_000


@pytest.mark.parametrize("price", ["0.0065", "0.58499999"])
def test_misprint_of_one_source_during_a_depeg_waits_as_any(price):
    # A tenth under 0.65 is 0.585; a misplaced point is far under it.
    desk = depegged(price_band="0.1")
    desk.tell(*prints(price, "a"))
    assert coin(desk) == 65_000_000
    # Where another says the same it is so.
    desk.tell(*prints(price, "b"))
    assert coin(desk) < 65_000_000


def test_depeg_goes_on_within_the_band():
    desk = depegged(price_band="0.1")
    desk.tell(*prints("0.585", "a"))
    assert coin(desk) == 58_500_000


def test_misprint_of_a_bystander_during_a_depeg_waits_as_any():
    desk = depegged(price_band="0.1")
    desk.tell(*prints("100", "d"))
    assert coin(desk) == 65_000_000
