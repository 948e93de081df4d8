"""A survey says of a whole book what a look at each of its rows says, in slices of any size, and changes nothing."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from engine.core.book import NET, Book
from engine.core.distance import Move
from engine.core.ladders import SurveyOptions
from engine.core.params import Asset, Risk
from engine.core.shard import Shard
from engine.core.survey import BAND_FLOORS_PPM, BANDS, BEGINNING_ROWS, Survey, SurveyReport
from engine.errors import ParamError
from engine.units import PPM, UNIT
from tests import reference_kernels as twins
from tests.test_kernels import SEED, World, instrument_of

WORLDS = 60


def shard_of(world: World) -> Shard:
    """Return a shard around the world's book."""
    shard = Shard(Risk())
    shard.book = world.book
    return shard


def report_of(survey: Survey, slice_rows: int) -> SurveyReport:
    """Return what a round finds whose calls look at so many rows each."""
    for _ in range(10_000):
        report = survey.advance(slice_rows)
        if report is not None:
            return report
    raise AssertionError("the round has no end")


def judged_rows(world: World) -> list[int]:
    """Return the rows with positions that are priced, the engine's own aside."""
    return [row for row in world.flags if world.is_judged(row) and any(owner == row for owner, _, _ in world.held)]


def band_of(world: World, row: int) -> str:
    """Return the name of the band a row stands in, from exact fractions."""
    equity, maintenance, _ = world.standing(row)
    if twins.is_liquidatable(equity, maintenance, bool(world.rule[0])):
        return "liquidatable"
    if maintenance == 0:
        return BANDS[0]
    ratio = Fraction(maintenance, equity)
    return BANDS[sum(ratio >= Fraction(floor, twins.PPM) for floor in BAND_FLOORS_PPM[1:])]


def risk_key(world: World, row: int) -> tuple[Fraction, str, str]:
    equity, maintenance, _ = world.standing(row)
    return Fraction(equity, maintenance), world.book.accounts[row], world.book.buckets[row]


def test_bands_and_riskiest_rows_are_those_of_a_look_at_each_row():
    seen = dict.fromkeys((*BANDS, "unpriced"), 0)
    for number in range(3 * WORLDS):
        world = World(f"{SEED} survey {number}")
        if number % 3 == 0:  # Some owe more than they have, by more than 64 bits times a margin can say.
            for row in judged_rows(world)[:3]:
                world.set_balance(row, 0, -world.random.randint(10**13, 10**16))
        report = report_of(Survey(shard_of(world), options=SurveyOptions(riskiest_count=2)), 4)
        rows = judged_rows(world)
        expected = dict.fromkeys(BANDS, 0)
        for row in rows:
            expected[band_of(world, row)] += 1
        holders = {row for row, _, _ in world.held} - {0}
        assert report.bands == expected, world.seed
        assert (report.rows, report.unpriced) == (len(rows), len(holders) - len(rows)), world.seed
        # Of equals at the end of the list those that were opened first are kept.
        needy = [row for row in rows if world.standing(row)[1]]
        worst = sorted(needy, key=lambda row: (risk_key(world, row)[0], row))[:2]
        worst.sort(key=lambda row: risk_key(world, row))
        found = [(risky.row, risky.equity, risky.maintenance) for risky in report.riskiest]
        assert found == [(row, *world.standing(row)[:2]) for row in worst], world.seed
        for band, count in [*expected.items(), ("unpriced", report.unpriced)]:
            seen[band] += count
    assert min(seen.values()) > 0, seen


def test_ratio_of_the_riskiest_is_rounded_up_and_none_without_equity():
    ratios = []
    for number in range(WORLDS):
        world = World(f"{SEED} ratios {number}")
        for row in judged_rows(world)[:2]:
            world.set_balance(row, 0, -(10**15))
        for risky in report_of(Survey(shard_of(world)), 100).riskiest:
            ratios.append(risky.ratio)
            if risky.equity <= 0:
                assert risky.ratio is None
            else:
                exact = Fraction(risky.maintenance * twins.UNIT, risky.equity)
                assert risky.ratio is not None
                assert 0 <= risky.ratio - exact < 1
    assert None in ratios
    assert any(ratio is not None for ratio in ratios)


@pytest.mark.parametrize("slice_rows", [1, 2, 3, 7, 13, 1000])
def test_a_still_book_gives_the_same_report_in_slices_of_any_size(slice_rows):
    for number in range(10):
        world = World(f"{SEED} slices {number}")
        survey = Survey(shard_of(world))
        assert report_of(survey, slice_rows) == report_of(survey, 5), world.seed


def test_a_round_values_all_rows_at_the_prices_it_began_with():
    world = World(f"{SEED} prices of the beginning")
    world.marks[0] = world.starts[0][0]
    world.book.set_mark(0, world.marks[0], 1, is_seen=True)
    shard = shard_of(world)
    expected = report_of(Survey(shard), 100)
    survey = Survey(shard)
    assert survey.advance(1) is None
    for symbol in range(5):
        if world.marks[symbol]:
            world.move_mark(symbol)
    assert report_of(survey, 3) == expected
    assert report_of(survey, 100) != expected


def test_a_row_that_changes_after_it_was_looked_at_counts_as_it_was():
    world = World(f"{SEED} changed rows")
    shard = shard_of(world)
    expected = report_of(Survey(shard), 100)
    survey, row = Survey(shard), judged_rows(world)[0]
    # The rows before it, and what it takes to begin.
    assert survey.advance(2 * BEGINNING_ROWS + row + 1) is None
    world.set_balance(row, 0, -(10**13))
    report = report_of(survey, 100)
    assert replace(report, riskiest=()) == replace(expected, riskiest=())
    # Only its distance, which is found last, is that of the row as it is then: it is liquidatable now.
    risky = [replace(found, factor=Move(0, None)) if found.row == row else found for found in expected.riskiest]
    assert list(report.riskiest) == risky
    assert report_of(survey, 100).riskiest[0].row == row


def test_a_survey_writes_nothing_to_the_tables():
    world = World(f"{SEED} untouched")
    before = {name: table.copy() for name, table in world.book.tables.view.arrays().items()}
    report_of(Survey(shard_of(world)), 3)
    for name, table in world.book.tables.view.arrays().items():
        assert np.array_equal(table, before[name]), name


def test_equal_ratios_stand_by_account_name():
    """Four short the same, with the same debt; the last to come is the first by name."""
    contract = twins.Contract(False, 1, 1, ((0, 10_000, PPM),))
    book = Book(
        Risk(assets={"USD": Asset("USD", price_units=UNIT)}, instruments={"X": instrument_of(contract, "X", "USD")})
    )
    book.set_mark(0, 10_000, 1, is_seen=True)
    shard = Shard(Risk())
    shard.book = book
    for name in "dcba":
        book.set_position(book.open_row(name, ""), 0, NET, -100, 10**6)
        book.set_wallet(book.open_row(name, ""), 0, 10**5)
    report = report_of(Survey(shard, options=SurveyOptions(riskiest_count=3)), 2)
    # Of equals the first three that were opened are kept; those stand by name.
    assert [risky.account for risky in report.riskiest] == ["b", "c", "d"]
    assert {(risky.equity, risky.maintenance, risky.ratio) for risky in report.riskiest} == {(10**5, 10**4, UNIT // 10)}


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"riskiest_count": 0}, "riskiest_count"),
        ({"bins": 7}, "bins"),
        ({"bins": 0}, "bins"),
        ({"bins": 1002}, "bins"),
        ({"span_ppm": 0}, "span_ppm"),
        ({"span_ppm": 1_000_000}, "span_ppm"),
        ({"betas_ppm": {"X": 100_000_001}}, "betas_ppm.X"),
        ({"asset_betas_ppm": {"X": -100_000_001}}, "asset_betas_ppm.X"),
    ],
)
def test_options_that_make_no_ladder_are_refused(options, key):
    with pytest.raises(ParamError, match=key):
        SurveyOptions(**options)


def test_a_book_without_accounts_has_a_report():
    report = report_of(Survey(Shard(Risk())), 1)
    assert (report.rows, report.riskiest, set(report.bands.values())) == (0, (), {0})


def test_what_comes_after_a_round_has_begun_is_left_out_of_its_heatmaps():
    """An account with a contract and a coin that come while the rows are looked at: neither has a ladder."""
    world = World(f"{SEED} latecomers")
    shard = shard_of(world)
    survey, book = Survey(shard, options=SurveyOptions(bins=4)), world.book
    held = {row for row, _, _ in world.held} - {0}
    for _ in range(3):
        assert survey.advance(1) is None
    terms = instrument_of(twins.Contract(False, 1, 1, ((0, 10_000, PPM),)), "NEW", "LATE")
    book.set_asset(Asset("LATE", price_units=UNIT))
    book.set_instrument(terms)
    symbol, row = book.symbol_index["NEW"], book.open_row("late", "")
    book.set_mark(symbol, 10_000, 1, is_seen=True)
    book.set_position(row, symbol, NET, 100, -1_000_000)
    book.set_wallet(row, book.asset_index["LATE"], 1)
    report = report_of(survey, 2)
    assert report.rows + report.unpriced == len(held) + 1
    assert "late" in [risky.account for risky in report.riskiest]
    assert "NEW" not in report.heatmaps
    # The next round has all of it.
    after = report_of(survey, 2)
    assert after.heatmaps["NEW"].rows == (1, 1, 1, 0, 0)
    assert after.factor.left_out == report.factor.left_out - 1
