"""Every edge of every heat-map equals all rows valued anew at that edge's prices, to the last unit."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from engine.core.book import NET, Book
from engine.core.heatmap import Heatmap
from engine.core.kernels.heatmap import moved_price
from engine.core.kernels.tables import MARK_STEPS
from engine.core.ladders import SurveyOptions
from engine.core.params import Asset, Risk
from engine.core.shard import Shard
from engine.core.survey import Survey
from engine.units import UNIT
from tests import reference_levels as twin
from tests.reference_kernels import PPM, Contract
from tests.test_kernels import ASSETS, SEED, World, instrument_of
from tests.test_survey import judged_rows, report_of, shard_of

WORLDS = 60
PRICE_CASES = 60_000
# What rows may be worth at the worst of all edges, in units: 64 bits hold a little more.
BOUND = 9 * 10**18


def test_moved_price_agrees_with_its_twin():
    random = Random(f"{SEED} moved prices")
    clamped = Counter[str]()
    for _ in range(PRICE_CASES):
        price = random.getrandbits(random.randint(0, 61))
        step = random.choice((1, 1, 10, 10 ** random.randint(0, 18), random.randint(1, 10**6)))
        price = random.choice((price, price // step * step, price // (2 * step) * 2 * step + step // 2))
        beta, move = random.choice((0, PPM, random.randint(-100 * PPM, 100 * PPM))), random.randint(-PPM, PPM)
        expected = twin.moved_price(price, step, beta, move)
        assert moved_price(price, step, beta, move) == expected, (SEED, price, step, beta, move)
        clamped.update([{step: "step", price: "price", twin.PRICE_MAX: "limit"}.get(expected, "free")])
    assert min(clamped.values()) > 50, clamped
    assert len(clamped) == 4


def market_of(world: World) -> twin.Market:
    """Return the world's terms and prices, as the twin has them."""
    return twin.Market(
        contracts=tuple(world.contracts),
        settle=tuple(world.settle),
        slices=tuple(world.slices),
        marks=tuple(world.marks),
        steps=tuple(world.book.tables.symbols[:, MARK_STEPS].tolist()),
        prices=tuple(world.prices),
        below=bool(world.rule[0]),
    )


def holdings_of(world: World) -> dict[int, twin.Holding]:
    """Return what each row that is judged has."""
    return {
        row: twin.Holding(
            tuple((symbol, *position) for (owner, symbol, _), position in world.held.items() if owner == row),
            tuple(world.balances.get((row, asset), 0) for asset in range(len(ASSETS))),
        )
        for row in judged_rows(world)
    }


def levels_of(heatmap: Heatmap) -> list[twin.Level]:
    return list(zip(heatmap.long_units, heatmap.short_units, heatmap.rows, strict=True))


def draw_options(random: Random) -> SurveyOptions:
    """Return a ladder of any width and fineness, with betas of either sign."""
    betas = {name: random.choice((PPM, random.randint(-3 * PPM, 3 * PPM), 0)) for name in "SEBTA"}
    assets = {name: random.choice((0, random.randint(-PPM, 2 * PPM))) for name in ASSETS}
    return SurveyOptions(
        bins=2 * random.randint(1, 12),
        span_ppm=random.choice((500_000, 999_999, random.randint(1, 100_000))),
        betas_ppm=random.choice(({}, betas)),
        asset_betas_ppm=random.choice(({}, {}, assets)),
    )


def coarse(world: World) -> None:
    """Put some marks on a coarser grid, which they need not lie on: the grid is a parameter."""
    for symbol in range(5):
        world.book.tables.symbols[symbol, MARK_STEPS] = world.random.choice((1, 1, 10, 1000))


class Look:
    """A surveyed world with all that the twin needs: its market at each move, and the rows that 64 bits can hold."""

    def __init__(self, name: str) -> None:
        self.world = world = World(f"{SEED} {name}")
        coarse(world)
        self.options = draw_options(world.random)
        self.moves = self.options.moves_ppm()
        self.market = market_of(world)
        betas = [self.options.betas_ppm.get(name, PPM) for name in "SEBTA"]
        asset_betas = [self.options.asset_betas_ppm.get(name, 0) for name in ASSETS]
        self.moved = [self.market.moved(betas, asset_betas, move) for move in self.moves]
        own = [self.market.moved([PPM] * 5, [0] * 3, move) for move in self.moves]
        self.holdings = {
            row: holding
            for row, holding in holdings_of(world).items()
            if twin.worth_bound(holding, [*self.moved, *own]) < BOUND
        }
        self.report = report_of(Survey(shard_of(world), options=self.options), world.random.choice((1, 5, 1000)))

    def left_out(self, symbols: set[int]) -> int:
        """Return how many rows hold one of these symbols and were not judged."""
        return len({row for row, symbol, _ in self.world.held if symbol in symbols} - {0} - set(self.holdings))


def test_every_edge_of_a_symbols_heatmap_is_a_look_at_each_row_at_that_price():
    seen = Counter[str]()
    for number in range(WORLDS):
        look = Look(f"heatmap {number}")
        held = {symbol for _, symbol, _ in look.world.held if look.world.marks[symbol]}
        names = {look.world.book.instruments[symbol].symbol: symbol for symbol in sorted(held)}
        assert set(look.report.heatmaps) == set(names)
        for name, heatmap in look.report.heatmaps.items():
            expected = twin.symbol_levels(look.market, list(look.holdings.values()), names[name], look.moves)
            assert levels_of(heatmap) == expected, (look.world.seed, name, look.options)
            assert heatmap.left_out == look.left_out({names[name]}), look.world.seed
            rows = heatmap.rows
            seen["changes"] += sum(rows[edge] != rows[edge + 1] for edge in range(len(rows) - 1))
            seen["left out"] += heatmap.left_out
            seen["both sides"] += rows[0] > min(rows) < rows[-1]
    assert min(seen.values()) > 5, seen


def test_every_edge_of_the_common_factor_is_a_look_at_each_row_with_all_marks_moved():
    seen = Counter[str]()
    for number in range(WORLDS):
        look = Look(f"factor {number}")
        factor, holdings = look.report.factor, list(look.holdings.values())
        expected = [twin.factor_level(market, holdings) for market in look.moved]
        assert levels_of(factor) == expected, (look.world.seed, look.options)
        assert factor.left_out == look.left_out(set(range(5))), look.world.seed
        seen["changes"] += sum(factor.rows[edge] != factor.rows[edge + 1] for edge in range(len(factor.rows) - 1))
        seen["assets move"] += bool(look.options.asset_betas_ppm)
    # Each world draws whether its assets move: a third of them do, give or take.
    assert min(seen.values()) > 2, seen


# By hand.


def map_of(*balances_and_positions: tuple[int, tuple[int, ...]], **options: Any) -> Heatmap:
    """Return the heat-map of one linear contract at 10,000 for accounts with dollars and legs entered at the mark."""
    contract = Contract(False, 1, 1, ((0, 10_000, PPM), (2_000_000, 50_000, PPM)))
    listing = instrument_of(contract, "X", "USD")
    book = Book(Risk(assets={"USD": Asset("USD", price_units=UNIT)}, instruments={"X": listing}))
    book.set_mark(0, 10_000, 1, is_seen=True)
    for number, (balance, sizes) in enumerate(balances_and_positions):
        row = book.open_row(f"a{number}", "")
        book.set_wallet(row, 0, balance)
        for leg, size in enumerate(sizes):
            book.set_position(row, 0, leg + 1 if len(sizes) > 1 else NET, size, -size * 10_000)
    shard = Shard(Risk())
    shard.book = book
    return report_of(Survey(shard, options=SurveyOptions(**options)), 1).heatmaps["X"]


def test_a_long_and_a_short_stand_on_their_own_sides():
    """Both hold 100 at 10,000 with 110,000: ten per cent, and one of margin.

    The long is liquidatable where 110,000 + 100 (p - 10,000) <= p, from 8,989 down; the short where
    110,000 - 100 (p - 10,000) <= p, from 10,991 up.
    """
    heatmap = map_of((110_000, (100,)), (110_000, (-100,)), bins=8, span_ppm=400_000)
    assert heatmap.edges == (6_000, 7_000, 8_000, 9_000, 10_000, 11_000, 12_000, 13_000, 14_000)
    assert heatmap.long_units == (600_000, 700_000, 800_000, 0, 0, 0, 0, 0, 0)
    assert heatmap.short_units == (0, 0, 0, 0, 0, 1_100_000, 1_200_000, 1_300_000, 1_400_000)
    assert heatmap.rows == (1, 1, 1, 0, 0, 1, 1, 1, 1)
    assert heatmap.moves_ppm[::4] == (-400_000, 0, 400_000)
    # The third bin below the mark holds the long; further down it is worth less, which is no liquidation.
    assert heatmap.ladder()[:3] == ((-100_000, 0, 0), (-100_000, 0, 0), (800_000, 0, 1))
    assert heatmap.ladder()[4:6] == ((0, 1_100_000, 1), (0, 100_000, 0))


def test_a_hedged_account_counts_once_with_both_legs():
    """Long 100 and short 110 with 50,000: only the rise costs it, 10 a step and a margin of each leg."""
    heatmap = map_of((50_000, (100, -110)), bins=4, span_ppm=400_000)
    # 14,000: equity 50,000 - 40,000; margin 14,000 + 15,400.
    assert heatmap.rows == (0, 0, 0, 0, 1)
    assert (heatmap.long_units[-1], heatmap.short_units[-1]) == (1_400_000, 1_540_000)


def test_notional_of_all_together_leaves_64_bits_and_is_exact():
    """Three accounts of 4e18 units each: 12e18 units, where 64 bits end at 9.2e18."""
    heatmap = map_of(*((0, (4 * 10**14,)) for _ in range(3)), bins=2, span_ppm=1_000)
    assert heatmap.rows == (3, 3, 3)
    assert heatmap.long_units == (11_988 * 10**15, 12 * 10**18, 12_012 * 10**15)
