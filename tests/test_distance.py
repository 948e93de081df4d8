"""The nearest move that leaves a row liquidatable is the one that trying every move finds; no nearer one is missed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import isqrt
from random import Random

import pytest

from engine.core import distance
from engine.core.book import LONG, NET, SHORT, Book
from engine.core.distance import DOWN_STEPS, STEP_PPM, UP_STEPS, FactorSearch
from engine.core.ladders import SurveyOptions, betas_of
from engine.core.margin import liquidation_price, liquidation_ranges
from engine.core.params import Asset, Policy, Risk
from engine.core.shard import Shard
from engine.core.survey import Survey
from engine.core.volatility import DAY_NS, SEEN_NS_MIN, Sigmas, Variance, Volatility
from engine.units import NS_PER_S, PPM, UNIT, div_half_even
from tests import reference_levels as twin
from tests.reference_kernels import Contract
from tests.test_heatmap import BOUND, coarse, draw_options, holdings_of, market_of
from tests.test_kernels import SEED, World, instrument_of
from tests.test_survey import report_of, shard_of

WORLDS = 40
RANGE_CASES = 400
GRID_END = 300


@pytest.fixture
def few_steps(monkeypatch):
    """Follow the common factor in steps of one per cent, that all of them can be tried."""
    for name, value in (("STEP_PPM", 10_000), ("DOWN_STEPS", 99), ("UP_STEPS", 200)):
        monkeypatch.setattr(distance, name, value)


@pytest.mark.usefixtures("few_steps")
def test_nearest_move_of_the_common_factor_is_the_first_of_all_tried():
    seen = Counter[str]()
    for number in range(WORLDS):
        world = World(f"{SEED} distance {number}")
        coarse(world)
        options, market = draw_options(world.random), market_of(world)
        betas = betas_of(world.book, options)
        search = FactorSearch(world.book.tables.view, betas)
        plain = betas[0].tolist(), betas[1].tolist()
        ends = [market.moved(*plain, move) for move in (-990_000, 0, 2_000_000)]
        for row, holding in holdings_of(world).items():
            expected = twin.nearest_move(market, holding, *plain, step_ppm=10_000, down=99, up=200)
            is_vast = twin.worth_bound(holding, ends) >= BOUND
            assert search.move_ppm(row) == (None if is_vast else expected), (world.seed, row, options)
            kind = "vast" if is_vast else "none" if expected is None else "now" if expected == 0 else "down"
            seen["up" if kind == "down" and (expected or 0) > 0 else kind] += 1
    assert min(seen["none"], seen["now"], seen["down"], seen["up"]) > 3, seen


def test_a_basis_point_before_the_nearest_move_the_row_is_healthy():
    checked = 0
    for number in range(WORLDS):
        world = World(f"{SEED} basis points {number}")
        market, ones = market_of(world), ([PPM] * 5, [0] * 3)
        search = FactorSearch(world.book.tables.view, betas_of(world.book, SurveyOptions()))
        for row, holding in holdings_of(world).items():
            move = search.move_ppm(row)
            if move:
                inner = move + STEP_PPM if move < 0 else move - STEP_PPM
                assert market.moved(*ones, move).is_liquidatable(holding), (world.seed, row)
                assert not market.moved(*ones, inner).is_liquidatable(holding), (world.seed, row)
                assert -DOWN_STEPS * STEP_PPM <= move <= UP_STEPS * STEP_PPM
                checked += 1
    assert checked > 50


def test_riskiest_rows_carry_their_distance():
    world = World(f"{SEED} risky distances")
    search = FactorSearch(world.book.tables.view, betas_of(world.book, SurveyOptions()))
    riskiest = report_of(Survey(shard_of(world)), 3).riskiest
    assert riskiest
    assert [risky.factor for risky in riskiest] == [search.move(risky.row, None) for risky in riskiest]


# One contract on a small grid: every mark can be tried.


def small_book(contract: Contract, legs: list[tuple[int, int]], balance: int, mark: int) -> Book:
    policy = Policy(tier_mode="whole" if contract.is_whole else "marginal")
    book = Book(Risk(policy, {"USD": Asset("USD", price_units=UNIT)}))
    book.set_instrument(instrument_of(contract, "X", "USD"))
    book.set_mark(0, mark, 1, is_seen=True)
    row = book.open_row("a", "")
    book.set_wallet(row, 0, balance)
    for leg, (size, cost) in zip((LONG, SHORT) if len(legs) > 1 else (NET,), legs, strict=True):
        book.set_position(row, 0, leg, size, cost)
    return book


def test_all_stretches_of_liquidatable_marks_are_those_of_trying_every_mark():
    """Margins of thousands of units, so that roundings of one unit decide nothing but where a stretch ends."""
    random, seen = Random(f"{SEED} stretches"), Counter[int]()
    for _ in range(RANGE_CASES):
        is_inverse = random.random() < 0.3
        value = 10**9 if is_inverse else 10_000
        mark, like = random.randint(1, GRID_END), random.randint(20, 400)
        # Tiers that a position of about this size leaves near the mark, and rates far apart.
        here = value * like // mark if is_inverse else value * like * mark
        floors = sorted({0, *(here * random.randint(20, 250) // 100 for _ in range(random.randrange(3)))})
        rates = sorted(random.choice((10_000, 30_000, random.randint(10_000, 900_000))) for _ in floors)
        tiers = tuple((floor, rate, PPM) for floor, rate in zip(floors, rates, strict=True))
        contract = Contract(is_inverse, value, 1, tiers, random.random() < 0.4)
        legs = []
        for side in random.choice(((1,), (-1,), (1, -1), (1, -1))):
            size, entry = side * random.randint(like * 3 // 4, like), random.randint(1, GRID_END)
            top, bottom = contract.notional(size, entry)
            worth = top // bottom
            legs.append((size, -worth if (side > 0) != is_inverse else worth))
        # Mostly healthy at the mark, or not far from it, so that there are two sides to fall to.
        market = twin.Market((contract,), (0,), (((0, PPM),),), (mark,), (1,), (UNIT,), False)
        bare = twin.Holding(tuple((0, *leg) for leg in legs), (0,))
        equity, maintenance = market.standing(bare)
        balance = maintenance - equity + random.randint(-(10**6), 10 ** random.randint(1, 8))
        book = small_book(contract, legs, balance, mark)
        holding = replace(bare, balances=(balance,))
        ranges = liquidation_ranges(book, 1, 0)
        closed = [(first or 1, min(last or GRID_END, GRID_END)) for first, last in ranges]
        found = [(first, last) for first, last in closed if first <= last]
        expected = twin.stretches(market, holding, 0, range(1, GRID_END + 1))
        assert found == expected, (SEED, contract, legs, balance, mark)
        seen[len(found)] += 1
        nearest = liquidation_price(book, 1, 0)
        assert nearest is None or any(nearest in ends for ends in ranges)
    assert min(seen[0], seen[1], seen[2]) > 5, seen


def test_whole_tiers_liquidate_a_long_on_its_way_up():
    """One at 100,000; 1 % of margin up to 150,000, then 40 % on the whole. Margins are rounded up to the unit."""
    contract = Contract(False, 1, 1, ((0, 10_000, PPM), (150_000, 400_000, PPM)), True)
    # With 40,000: down from where 40,000 + p - 100,000 <= 0.01 p. At 150,000 equity is 90,000, margin 60,000: healthy.
    book = small_book(contract, [(1, -100_000)], 40_000, 100_000)
    assert liquidation_ranges(book, 1, 0) == [(None, 60_607)]
    # With 5,000: at 150,000 equity of 55,000 meets a margin of 60,000, until p - 95,000 > 0.4 p.
    book.set_wallet(1, 0, 5_000)
    assert liquidation_ranges(book, 1, 0) == [(None, 95_960), (150_000, 158_334)]


def test_stretches_of_a_short_and_of_who_is_past_saving_are_open_at_their_end():
    """A short of one from 100 with 20 has 2 at 118, where its margin is 1.18, so 2; with a debt of 200 it has none."""
    contract = Contract(False, 1, 1, ((0, 10_000, PPM),))
    book = small_book(contract, [(-1, 100)], 20, 100)
    assert liquidation_ranges(book, 1, 0) == [(118, None)]
    book.set_wallet(1, 0, -200)
    assert liquidation_ranges(book, 1, 0) == [(None, None)]


# Sigmas.


def test_volatility_of_a_mark_that_moves_one_per_cent_every_hour():
    """Twenty-four moves of one per cent a day: sqrt(24) per cent, 4.898 %, whatever their sign."""
    volatility, mark, ts = Volatility(), 10**9, NS_PER_S
    for hour in range(24 * 30):
        volatility.note([mark], [PPM], ts)
        mark = div_half_even(mark * (101 if hour % 2 else 99), 100)
        ts += DAY_NS // 24
    sigma = volatility.symbols[0].sigma_ppm()
    assert sigma is not None
    assert abs(sigma - isqrt(24 * 10**8)) <= 1
    assert volatility.factor.sigma_ppm() == sigma


def test_memory_of_the_volatility_fades_with_the_books_time():
    variance = Variance()
    variance.add(50_000_000, DAY_NS // 24)
    stormy = variance.sigma_ppm()
    for _ in range(24 * 5):
        variance.add(0, DAY_NS // 24)
    calm = variance.sigma_ppm()
    assert stormy is not None
    assert calm is not None
    assert 0 < calm < stormy // 20


def test_sigma_is_unknown_until_enough_time_was_seen_and_where_nothing_moved():
    variance = Variance()
    variance.add(10_000_000, SEEN_NS_MIN - 1)
    assert variance.sigma_ppm() is None
    variance.add(0, 2)
    assert variance.sigma_ppm() is not None
    still = Variance()
    still.add(0, DAY_NS)
    assert still.sigma_ppm() is None


def test_the_factor_moves_as_the_symbols_do_over_their_betas():
    """One symbol rises by two per cent with a beta of 2, one falls by one with a beta of -1: a rise of one."""
    volatility = Volatility()
    volatility.note([10_000, 10_000], [2 * PPM, -PPM], NS_PER_S)
    volatility.note([10_200, 9_900], [2 * PPM, -PPM], NS_PER_S + DAY_NS)
    assert volatility.factor.sigma_ppm() == 10_000
    assert [variance.sigma_ppm() for variance in volatility.symbols] == [20_000, 10_000]


def test_time_that_does_not_pass_is_no_return():
    volatility = Volatility()
    volatility.note([10_000], [PPM], 5)
    volatility.note([20_000], [PPM], 5)
    volatility.note([0], [PPM], 4)
    volatility.note([10_100, 7], [PPM, PPM], 5 + DAY_NS)
    assert [variance.sigma_ppm() for variance in volatility.symbols] == [10_000, None]


def test_distance_of_a_long_in_per_cent_and_in_sigmas():
    """100 at 10,000 with 110,000 is liquidatable at 8,989: 10.11 % away; where a day moves 1 %, 10 sigmas."""
    contract = Contract(False, 1, 1, ((0, 10_000, PPM),))
    book = small_book(contract, [(100, -1_000_000)], 110_000, 9_900)
    shard = Shard(Risk())
    shard.book, book.clock = book, NS_PER_S
    survey = Survey(shard)
    assert report_of(survey, 10).began_ts == NS_PER_S
    book.set_mark(0, 10_000, 2, is_seen=True)
    book.clock = NS_PER_S + DAY_NS
    (risky,) = report_of(survey, 10).riskiest
    found = distance_now(book, survey.volatility.sigmas())
    (symbol,) = found.symbols
    # (10,000 - 9,900) / 9,900 = 1.0101 %, in ppm 10,101.
    assert (symbol.symbol, symbol.mark, symbol.ranges) == (0, 8_989, ((None, 8_989),))
    assert symbol.move == distance.Move(-101_100, 101_100 * 1_000 // 10_101)
    # In whole basis points: 8,989 is -10.11 %.
    assert risky.factor == found.factor == distance.Move(-101_100, 101_100 * 1_000 // 10_101)


def test_a_symbol_that_came_after_the_survey_has_a_distance_and_no_sigma():
    book = small_book(Contract(False, 1, 1, ((0, 10_000, PPM),)), [(100, -1_000_000)], 110_000, 10_000)
    (symbol,) = distance_now(book, Sigmas(10_000, ())).symbols
    assert symbol.move == distance.Move(-101_100, None)


def test_a_row_without_positions_or_prices_has_no_distance():
    contract = Contract(False, 1, 1, ((0, 10_000, PPM),))
    book = small_book(contract, [(100, -1_000_000)], 110_000, 0)
    empty = book.open_row("b", "")
    for row in (1, empty):
        assert distance_now(book, Sigmas(), row) == distance.Distance(None, ())


def distance_now(book: Book, sigmas: Sigmas, row: int = 1) -> distance.Distance:
    """Return how far a row stands, every beta 1."""
    return distance.distance_of(book, row, FactorSearch(book.tables.view, betas_of(book, SurveyOptions())), sigmas)
