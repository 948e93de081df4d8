"""Every compiled kernel agrees with its twin in plain Python ints, on well over a million seeded cases.

Magnitudes are drawn evenly over the bits they may have, so that dust, everyday sizes and the edge of 64 bits all come
up; a third of the notionals lie on the floor of a tier or one unit beside it. A failure prints the seed and the
smallest of the cases that failed. ``ci`` repeats one seed, other runs draw a fresh one (see ``conftest.py``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from math import prod
from random import Random, SystemRandom
from typing import Any

import numpy as np
import pytest

from engine.core.book import spec_row, tier_table, weight_table
from engine.core.kernels import arith, levels, margin, reprice, waves
from engine.core.params import Asset, Instrument, Tier
from tests import reference_kernels as twins
from tests.reference_kernels import PPM, UNIT, Contract

SEED = 20_250_310 if os.environ.get("CI") else SystemRandom().getrandbits(32)
# Positions are stopped at 4e18 units when they are opened; marks may carry them to twice that.
POSITION_MAX = 4 * 10**18
NOTIONAL_MAX = 2 * POSITION_MAX
INT64_MAX = 2**63 - 1
CASES = 60_000
CASES_PER_CONTRACT = 60

Case = tuple[Any, ...]


def sized(random: Random, high: int, low: int = 0) -> int:
    """Return an integer from ``low`` to ``high``, every number of bits equally likely, and now and then a limit."""
    if random.random() < 0.05:
        return random.choice((low, high, min(high, low + 1)))
    return min(high, max(low, random.getrandbits(random.randint(0, max(1, high.bit_length())))))


def signed(random: Random, high: int) -> int:
    return random.choice((-1, 1)) * sized(random, high)


def uint64(random: Random) -> int:
    """Return any 64 bits, often runs of ones or a power of two, where carries and estimates go wrong."""
    bits = random.getrandbits(random.randint(1, 64))
    return random.choice((bits, 2**64 - 1 - bits, 1 << random.randrange(64), 2**64 - (1 << random.randrange(64))))


# Arithmetic: the contract of each helper is in its docstring.


def mul_wide_cases(random: Random) -> Iterator[Case]:
    while True:
        yield np.uint64(uint64(random)), np.uint64(uint64(random))


def div_wide_cases(random: Random) -> Iterator[Case]:
    while True:
        divisor = uint64(random) or 1
        yield np.uint64(uint64(random) % divisor), np.uint64(uint64(random)), np.uint64(divisor)


def mul_div_cases(random: Random) -> Iterator[Case]:
    """Factors whose quotient fits in int64, which is what ingest sees to."""
    while True:
        left, right, divisor = (
            sized(random, INT64_MAX),
            sized(random, INT64_MAX),
            sized(random, INT64_MAX, 1),
        )
        if left * right // divisor >= INT64_MAX:
            left = sized(random, INT64_MAX * divisor // right)
        yield left, right, divisor


def signed_mul_div_cases(random: Random) -> Iterator[Case]:
    for left, right, divisor in mul_div_cases(random):
        yield random.choice((-1, 1)) * left, right, divisor


def div_up_cases(random: Random) -> Iterator[Case]:
    while True:
        yield signed(random, INT64_MAX), sized(random, INT64_MAX, 1)


def product_wide_cases(random: Random) -> Iterator[Case]:
    """Four factors, many of them runs of ones and powers of two; some whose product just passes 2**192, by carries."""
    while True:
        first, *rest = (uint64(random) & INT64_MAX for _ in range(4))
        if random.random() < 0.3:
            rest = [random.getrandbits(43) | 1 << 43 for _ in range(3)]
            first = min(twins.div_up(2**192, prod(rest)), INT64_MAX)
        yield random.choice((-1, 1)) * first, *rest


def rate_up_cases(random: Random) -> Iterator[Case]:
    while True:
        yield signed(random, NOTIONAL_MAX), sized(random, PPM)


def wide_product(left: Any, right: Any) -> tuple[int, int]:
    return divmod(int(left) * int(right), 2**64)


def wide_quotient(high: Any, low: Any, divisor: Any) -> tuple[int, int]:
    return divmod((int(high) << 64) + int(low), int(divisor))


def product_words(first: int, *rest: int) -> tuple[int, ...]:
    """Return the words of a product of 256 bits, lowest first."""
    product = abs(first) * prod(rest)
    return tuple(product >> shift & (2**64 - 1) for shift in (0, 64, 128, 192))


# Positions.


@dataclass(frozen=True)
class Listing:
    """One contract as the twin sees it and as the kernels do."""

    contract: Contract
    spec: Any
    tiers: Any


def listings(random: Random) -> Iterator[tuple[Listing, list[tuple[int, int]]]]:
    """Contracts of any kind, each with positions and prices, some of which meet the contract's floors exactly."""
    while True:
        is_inverse = random.random() < 0.35
        if is_inverse:  # multiplier x 10**(2 x price decimals)
            num, den = random.choice((1, 5, 10, 100)) * 10 ** random.choice((8, 10, 14, 16)), 1
        else:
            num, den = random.choice(((1, 1), (1, 1), (1000, 1), (1, 10), (1, 10_000), (37, 100_000), (3, 10**8)))
        bare = Contract(is_inverse, num, den)
        positions = [position(random, bare) for _ in range(CASES_PER_CONTRACT)]
        floors = {sized(random, POSITION_MAX, 1) for _ in range(random.randrange(4))}
        for size, price in random.sample(positions, 3):
            floors.add(twins.notional_parts(bare, size, price)[0] + random.choice((-1, 0, 1)))
        ordered = [0, *sorted(floor for floor in floors if 0 < floor <= POSITION_MAX)]
        rates = sorted(sized(random, PPM) for _ in ordered)
        leverages = [sized(random, 1000 * PPM, PPM) for _ in ordered]
        tiers = tuple(zip(ordered, rates, leverages, strict=True))
        contract = Contract(is_inverse, num, den, tiers, random.random() < 0.3)
        yield listed(contract), [near_floor(random, contract, *pair) for pair in positions]


def position(random: Random, contract: Contract) -> tuple[int, int]:
    """Return a size and a price whose notional is within bounds."""
    price = sized(random, 10 ** random.choice((6, 14, 18)), 1)
    top, bottom = contract.notional(1, price)
    size_max = min(NOTIONAL_MAX * bottom // top, 2**62)
    return sized(random, size_max), price


def near_floor(random: Random, contract: Contract, size: int, price: int) -> tuple[int, int]:
    """Return the pair, or one whose notional is the last to miss a floor, or the first to reach it."""
    floor = random.choice(contract.tiers)[0]
    top, bottom = contract.notional(1, price)
    size_at = twins.div_up(floor * bottom, top) - random.choice((0, 1))
    if random.random() < 0.65 or not 0 < size_at * top <= NOTIONAL_MAX * bottom or size_at > 2**62:
        return size, price
    return size_at, price


def listed(contract: Contract) -> Listing:
    """Return a contract with the rows that the engine itself makes of it."""
    instrument = Instrument(
        symbol="X",
        kind="inverse" if contract.is_inverse else "linear",
        base="X",
        settle="C",
        multiplier=(1, 0),
        price_tick=(1, 0),
        lot=(1, 0),
        mark_decimals=0,
        tiers=tuple(Tier(*tier) for tier in contract.tiers),
        value_num=contract.num,
        value_den=contract.den,
    )
    return Listing(contract, spec_row(instrument), tier_table(instrument, is_whole=contract.is_whole))


def positions(random: Random) -> Iterator[tuple[Listing, int, int]]:
    """(listing, signed size, price)."""
    for listing, pairs in listings(random):
        for size, price in pairs:
            yield listing, random.choice((-1, 1)) * size, price


def asset_price_for(random: Random, worth: int) -> int:
    """Return a price of the settlement asset at which ``worth`` of it stays within bounds: one in three is 1."""
    price_max = NOTIONAL_MAX * UNIT // worth if worth else POSITION_MAX
    if random.random() < 0.33 and price_max >= UNIT:
        return UNIT
    return sized(random, max(1, min(price_max, POSITION_MAX)), 1)


def parts_cases(random: Random) -> Iterator[Case]:
    for listing, size, price in positions(random):
        yield listing, abs(size), price


def pnl_cases(random: Random) -> Iterator[Case]:
    """Costs near the position's value, where PnL is small, or anything a position may have cost."""
    for listing, size, price in positions(random):
        worth = twins.notional_parts(listing.contract, size, price)[0]
        cost = signed(random, POSITION_MAX)
        if random.random() < 0.5:
            paid = min(POSITION_MAX, max(0, worth + random.randint(-3, 3)))
            cost = -paid if (size >= 0) != listing.contract.is_inverse else paid
        if abs(cost) + worth < INT64_MAX:
            yield listing, size, cost, price, asset_price_for(random, abs(cost) + worth)


def tier_cases(random: Random) -> Iterator[Case]:
    for listing, size, price in positions(random):
        yield listing, twins.notional_parts(listing.contract, size, price)[0]


def funding_cases(random: Random) -> Iterator[Case]:
    for listing, size, price in positions(random):
        if size:
            yield listing, size, price, signed(random, twins.FUNDING_SCALE)


def to_valuation_cases(random: Random) -> Iterator[Case]:
    while True:
        amount = sized(random, NOTIONAL_MAX)
        yield amount, asset_price_for(random, amount)


def of_listing(twin: Callable[..., Any]) -> Callable[..., Any]:
    """Return the twin with a listing in place of its contract."""
    return lambda listing, *rest: twin(listing.contract, *rest)


def with_spec(kernel: Any) -> Callable[..., Any]:
    return lambda listing, *rest: kernel(listing.spec, *rest)


def with_tiers(kernel: Any) -> Callable[..., Any]:
    return lambda listing, *rest: kernel(listing.spec, listing.tiers, *rest)


def parts_of(listing: Listing, size: int, price: int) -> tuple[int, int]:
    """Return what the kernel says, its remainder in parts of the twin's denominator."""
    floor, remainder, divisor = margin.notional_parts(listing.spec, size, price)
    assert 0 <= remainder < divisor
    return floor, remainder


# Balances and verdicts.


@dataclass(frozen=True)
class Pile:
    """One asset's collateral weights as the twin sees them and as the kernel does."""

    slices: tuple[twins.Slice, ...]
    table: Any


def collateral_cases(random: Random) -> Iterator[Case]:
    while True:
        floors = sorted({0, *(sized(random, POSITION_MAX, 1) for _ in range(random.randrange(4)))})
        weights = sorted((sized(random, PPM) for _ in floors), reverse=True)
        if random.random() < 0.3:
            weights[0] = PPM
        slices = tuple(zip(floors, weights, strict=True))
        pile = Pile(slices, weight_table(Asset("X", weights=slices)))
        for _ in range(CASES_PER_CONTRACT):
            balance = signed(random, POSITION_MAX)
            asset_price = asset_price_for(random, abs(balance))
            if random.random() < 0.35:  # the last balance under a floor, or the first to reach it
                at = twins.div_up(random.choice(floors) * UNIT, asset_price) - random.choice((0, 1))
                balance = at if at <= POSITION_MAX else balance
            yield pile, balance, asset_price


def verdict_cases(random: Random) -> Iterator[Case]:
    while True:
        maintenance = sized(random, NOTIONAL_MAX)
        equity = random.choice((signed(random, NOTIONAL_MAX), maintenance + random.randint(-2, 2)))
        yield equity, maintenance, random.random() < 0.5


def ratio_cases(random: Random) -> Iterator[Case]:
    """Half of the margins lie at the ratio, give or take a unit."""
    while True:
        equity, ratio = signed(random, NOTIONAL_MAX), sized(random, PPM)
        at = max(0, equity) * ratio // PPM + random.randint(-1, 2)
        yield equity, random.choice((sized(random, NOTIONAL_MAX), max(0, at))), ratio


TABLE: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[[Random], Iterator[Case]]]] = {
    "mul_wide": (arith.mul_wide, wide_product, mul_wide_cases),
    "product_wide": (waves.product_wide, product_words, product_wide_cases),
    "div_wide": (arith.div_wide, wide_quotient, div_wide_cases),
    "mul_div_rem": (arith.mul_div_rem, lambda a, b, c: divmod(a * b, c), mul_div_cases),
    "mul_div_floor": (arith.mul_div_floor, lambda a, b, c: a * b // c, signed_mul_div_cases),
    "mul_div_up": (arith.mul_div_up, lambda a, b, c: twins.div_up(a * b, c), signed_mul_div_cases),
    "div_up": (arith.div_up, twins.div_up, div_up_cases),
    "rate_up": (arith.rate_up, lambda amount, rate: twins.div_up(amount * rate, PPM), rate_up_cases),
    "notional_parts": (parts_of, of_listing(twins.notional_parts), parts_cases),
    "position_pnl": (with_spec(margin.position_pnl), of_listing(twins.position_pnl), pnl_cases),
    "position_maintenance": (
        with_tiers(margin.position_maintenance), of_listing(twins.position_maintenance), positions,
    ),
    "position_values": (with_tiers(margin.position_values), of_listing(twins.position_values), pnl_cases),
    "position_initial": (with_tiers(margin.position_initial), of_listing(twins.position_initial), positions),
    "tier_of": (
        lambda listing, notional: margin.tier_of(listing.tiers, notional),
        lambda listing, notional: twins.tier_of([floor for floor, _, _ in listing.contract.tiers], notional),
        tier_cases,
    ),
    "to_valuation_up": (margin.to_valuation_up, twins.to_valuation_up, to_valuation_cases),
    "collateral_value": (
        lambda pile, balance, price: margin.collateral_value(pile.table, balance, price),
        lambda pile, balance, price: twins.collateral_value(pile.slices, balance, price),
        collateral_cases,
    ),
    "is_liquidatable": (margin.is_liquidatable, twins.is_liquidatable, verdict_cases),
    "is_at_ratio": (margin.is_at_ratio, twins.is_at_ratio, ratio_cases),
    "funding_payment": (with_spec(reprice.funding_payment), of_listing(twins.funding_payment), funding_cases),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_kernel_agrees_with_its_twin(name):
    kernel, twin, draw = TABLE[name]
    failed = [case for case in islice(draw(Random(f"{SEED} {name}")), CASES) if kernel(*case) != twin(*case)]
    if failed:
        case = min(failed, key=weight_of)
        pytest.fail(f"seed {SEED}: {len(failed)} of {CASES}; {name}{case}: {kernel(*case)}, expected {twin(*case)}")


def weight_of(case: Case) -> int:
    """Return how large the numbers of a case are: the smallest is the easiest to follow by hand."""
    return sum(abs(int(part)).bit_length() for part in case if not isinstance(part, Listing | Pile))


def test_the_twins_are_asked_more_than_a_million_times():
    assert CASES * len(TABLE) >= 1_000_000


@pytest.mark.parametrize("divisor", [1, 2, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_wide_division_at_the_edges_of_its_digits(divisor):
    near = [0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 2, 2**64 - 1]
    for high in {part for part in (*near, divisor - 1, divisor - 2) if 0 <= part < divisor}:
        for low in near:
            given = np.uint64(high), np.uint64(low), np.uint64(divisor)
            assert arith.div_wide(*given) == wide_quotient(*given), given


@pytest.mark.parametrize(("is_whole", "margins"), [(False, (99, 100, 105)), (True, (99, 500, 505))])
def test_notional_on_a_floor_belongs_to_the_tier_that_begins_there(is_whole, margins):
    # 1 % up to 10,000, then 5 %: at 9,900, 10,000 and 10,100 units. Marginal: 1 % of 9,900; 5 % less 400 above.
    listing = listed(Contract(False, 1, 1, ((0, 10_000, 50 * PPM), (10_000, 50_000, 10 * PPM)), is_whole))
    found = [margin.position_maintenance(listing.spec, listing.tiers, 1, price) for price in (9_900, 10_000, 10_100)]
    assert tuple(found) == margins
    # One unit under the floor is rounded up: 99.99 is 100.
    assert margin.position_maintenance(listing.spec, listing.tiers, 1, 9_999) == 100


def test_notional_of_a_fractional_multiplier_is_exact_where_size_times_price_leaves_64_bits():
    # 10,000,000 contracts of 0.0001 BTC at 60,000.00000000: 1,000 BTC, 60,000,000 dollars. The product of the steps
    # alone is 6e19, more than 64 bits hold.
    listing = listed(Contract(False, 1, 10_000))
    assert parts_of(listing, 10_000_000, 60_000 * UNIT) == (60_000_000 * UNIT, 0)


# Repricing.


class World:
    """Rows, the holders of a few symbols and the wallets of a few assets: what a shard's tables look like."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.rows = 12
        self.prices = [UNIT, sized(random, 10**11, 1)]
        self.piles = [Pile(slices, weight_table(Asset("X", weights=slices))) for slices in self.slices()]
        self.balances = [self.draw_balances() for _ in self.piles]
        self.values = [np.zeros(self.rows, dtype=np.int64) for _ in self.piles]
        listed_at = [self.draw_listing() for _ in range(4)]
        self.listings, self.marks = [listing for listing, _ in listed_at], [mark for _, mark in listed_at]
        self.settle = [random.randrange(2) for _ in self.listings]
        self.holders = [self.draw_holders(symbol) for symbol in range(len(self.listings))]
        self.rule = np.array([random.randrange(2), 800_000, 750_000], dtype=np.int64)
        self.state = np.zeros((self.rows, reprice.STATE_COLUMNS), dtype=np.int64)
        self.state[:, reprice.UNPRICED] = [random.random() < 0.1 for _ in range(self.rows)]
        self.state[:, reprice.FLAGS] = [random.choice((0, 0, 0, 1, 2, 4, 6)) for _ in range(self.rows)]
        self.touched = np.zeros(64, dtype=np.int64)

    def slices(self) -> Iterable[tuple[twins.Slice, ...]]:
        return [((0, PPM),), ((0, 950_000), (sized(self.random, 10**14, 1), 400_000))]

    def draw_listing(self) -> tuple[Listing, int]:
        """Return a contract and a mark at which a single size step is worth little enough."""
        for listing, _ in listings(self.random):
            mark = sized(self.random, 10**9, 10**3)
            top, bottom = listing.contract.notional(1, mark)
            if top < 10**14 * bottom:
                return listing, mark
        raise AssertionError("listings are endless")

    def draw_balances(self) -> Any:
        return np.array([self.random.choice((0, 1)) * signed(self.random, 10**14) for _ in range(self.rows)])

    def draw_holders(self, symbol: int) -> Any:
        """Return a table of positions of at most 1e15 units each, room for more behind them."""
        contract, mark = self.listings[symbol].contract, self.marks[symbol]
        rows = self.random.sample(range(self.rows), 7)
        table = np.zeros((len(rows) + 2, reprice.HOLDER_COLUMNS), dtype=np.int64)
        for place, row in enumerate(rows):
            top, bottom = contract.notional(1, mark)
            size = sized(self.random, min(10**18, max(1, 10**15 * bottom // top)), 1)
            table[place, :4] = row, 0, self.random.choice((-1, 1)) * size, signed(self.random, 10**15)
        return table

    def move_mark(self, symbol: int, mark: int) -> list[int]:
        """Put a mark in force; return the rows that the kernel wants looked at, in the order of holders."""
        self.marks[symbol] = mark
        listing, table = self.listings[symbol], self.holders[symbol]
        given = listing.spec, listing.tiers, mark, self.prices[self.settle[symbol]], self.rule, self.touched
        found = reprice.reprice_holders(table, len(table) - 2, self.state, *given)
        return [int(row) for row in self.touched[:found]]

    def move_asset(self, asset: int, price: int) -> list[int]:
        """Put an asset price in force: wallets first, then the positions settled in it."""
        self.prices[asset] = price
        pile, balances, values = self.piles[asset], self.balances[asset], self.values[asset]
        given = self.state, pile.table, price, self.rule, self.touched
        found = reprice.reprice_wallets(balances, values, self.rows, *given)
        rows = [int(row) for row in self.touched[:found]]
        for symbol, settle in enumerate(self.settle):
            if settle == asset:
                self.move_mark(symbol, self.marks[symbol])
        return rows

    def standings(self) -> list[list[int]]:
        """Return every row's equity, maintenance margin and notional as the kernels have kept them."""
        standings: list[list[int]] = self.state[:, [reprice.EQUITY, reprice.MAINTENANCE, reprice.GROSS]].tolist()
        return standings

    def recount(self) -> list[list[int]]:
        """Return the same, all of it valued anew by the twins."""
        totals = [[0, 0, 0] for _ in range(self.rows)]
        for asset, pile in enumerate(self.piles):
            for row in range(self.rows):
                balance = int(self.balances[asset][row])
                totals[row][0] += twins.collateral_value(pile.slices, balance, self.prices[asset])
        for symbol, listing in enumerate(self.listings):
            mark, price = self.marks[symbol], self.prices[self.settle[symbol]]
            for row, _, size, cost, *_ in self.holders[symbol][:-2].tolist():
                values = twins.position_values(listing.contract, size, cost, mark, price)
                totals[row] = [total + value for total, value in zip(totals[row], values, strict=True)]
        return totals

    def is_wanted(self, row: int) -> bool:
        """Return whether the row calls for a decision, by the recount's rules."""
        equity, maintenance, *_ = self.standings()[row]
        flags = int(self.state[row, reprice.FLAGS])
        return twins.needs_a_look(
            equity,
            maintenance,
            is_priced=self.state[row, reprice.UNPRICED] == 0,
            is_own=bool(flags & reprice.SYSTEM),
            is_called=bool(flags & reprice.CALLED),
            is_watched=bool(flags & reprice.WATCHED),
            rule=self.rule.tolist(),
        )


@pytest.mark.parametrize("number", range(40))
def test_incremental_reprice_equals_a_full_recount_and_names_the_rows_in_need(number):
    random = Random(f"{SEED} world {number}")
    world = World(random)
    for asset, price in enumerate(world.prices):
        world.move_asset(asset, price)
    for step in range(40):
        if random.random() < 0.3:
            asset = 1
            rows = world.move_asset(asset, sized(random, 10**11, 1))
            looked_at = [row for row in range(world.rows) if world.balances[asset][row] != 0]
            # Positions settled in the asset moved after the wallets: the standing is judged on the wallets alone.
            assert set(rows) <= set(looked_at)
        else:
            symbol = random.randrange(4)
            before = world.marks[symbol]
            rows = world.move_mark(symbol, max(1, before * random.randint(80, 125) // 100))
            looked_at = [int(row) for row in world.holders[symbol][:-2, reprice.ROW]]
            assert rows == [row for row in looked_at if world.is_wanted(row)], (SEED, number, step)
        assert world.standings() == world.recount(), (SEED, number, step)
    assert not any(world.holders[symbol][-2:].any() for symbol in range(4)), "wrote beyond the count"


@pytest.mark.parametrize("number", range(40))
def test_repriced_wallets_name_the_rows_in_need_and_skip_empty_ones(number):
    random = Random(f"{SEED} wallets {number}")
    world = World(random)
    world.settle = [0] * len(world.settle)  # nothing is settled in the second asset: only wallets move
    for asset, price in enumerate(world.prices):
        world.move_asset(asset, price)
    for _ in range(20):
        rows = world.move_asset(1, sized(random, 10**11, 1))
        held = [row for row in range(world.rows) if world.balances[1][row] != 0]
        assert rows == [row for row in held if world.is_wanted(row)], (SEED, number)
        assert world.standings() == world.recount(), (SEED, number)


@pytest.mark.parametrize(("equity", "found"), [(INT64_MAX - 100, 0), (INT64_MAX - 99, -1)])
def test_reprice_says_when_a_sum_leaves_64_bits(equity, found):
    # One contract bought for 100 is worth 200 now: equity grows by 100, to the last number there is or past it.
    listing = listed(Contract(False, 1, 1))
    rule, touched = np.array([0, 800_000, 750_000], dtype=np.int64), np.zeros(4, dtype=np.int64)
    state = np.zeros((1, reprice.STATE_COLUMNS), dtype=np.int64)
    state[0, reprice.EQUITY] = equity
    holders = np.zeros((1, reprice.HOLDER_COLUMNS), dtype=np.int64)
    holders[0, [reprice.SIZE, reprice.COST]] = 1, -100
    given = state.copy(), listing.spec, listing.tiers, 200, UNIT, rule, touched
    assert reprice.reprice_holders(holders, 1, *given) == found
    # And 100 more of an asset that counts in full.
    balances, values = np.array([100], dtype=np.int64), np.array([0], dtype=np.int64)
    table = weight_table(Asset("X"))
    assert reprice.reprice_wallets(balances, values, 1, state, table, UNIT, rule, touched) == found


@pytest.mark.parametrize("number", range(60))
def test_funding_of_all_holders_is_each_holders_payment(number):
    random = Random(f"{SEED} funding {number}")
    listing, pairs = next(listings(random))
    price = pairs[0][1]
    sizes = [size or 1 for size, at in pairs if listing.contract.notional(size, price)[0] <= NOTIONAL_MAX and at]
    holders = np.zeros((len(sizes) + 1, reprice.HOLDER_COLUMNS), dtype=np.int64)
    holders[:-1, reprice.SIZE] = [random.choice((-1, 1)) * size for size in sizes]
    payments = np.full(len(sizes) + 1, 7, dtype=np.int64)
    rate = signed(random, twins.FUNDING_SCALE)
    reprice.pay_funding(holders, len(sizes), listing.spec, price, rate, payments)
    expected = [
        twins.funding_payment(listing.contract, int(size), price, rate) for size in holders[:-1, reprice.SIZE].tolist()
    ]
    assert payments.tolist() == [*expected, 7], (SEED, number)


def test_rows_that_wait_for_a_price_are_counted_once_a_position_and_once_a_balance():
    random = Random(f"{SEED} unready")
    for _ in range(300):
        rows = 6
        holders = np.zeros((12, reprice.HOLDER_COLUMNS), dtype=np.int64)
        holders[:, reprice.ROW] = [random.randrange(rows) for _ in range(12)]
        balances = np.array([random.choice((0, -5, 5)) for _ in range(rows)], dtype=np.int64)
        state = np.array(
            [[random.randrange(9) for _ in range(reprice.STATE_COLUMNS)] for _ in range(rows)], dtype=np.int64
        )
        column, change = random.choice((reprice.UNPRICED, reprice.COLD)), random.choice((-1, 1))
        count, wallets = random.randrange(13), random.randrange(rows + 1)
        expected = state.copy()
        for row in range(rows):
            positions_held = holders[:count, reprice.ROW].tolist().count(row)
            has_balance = row < wallets and balances[row] != 0
            expected[row, column] += change * (positions_held + int(has_balance))
        reprice.count_unready(holders, count, state, column, change)
        reprice.count_unready_wallets(balances, wallets, state, column, change)
        assert state.tolist() == expected.tolist(), SEED


# The liquidation price, against trying every price of a small grid.

GRID = 90


@dataclass(frozen=True)
class Frozen:
    """A row with all but one symbol's mark frozen."""

    listing: Listing
    legs: list[twins.Leg]
    asset_price: int
    rest: tuple[int, int]
    below: bool
    mark: int
    step: int

    def level(self) -> int:
        """Return what the kernel says, in grid counts."""
        legs = np.array(self.legs, dtype=np.int64)
        rest = np.array(self.rest, dtype=np.int64)
        given = legs, self.listing.spec, self.listing.tiers, self.mark * self.step, self.step, self.asset_price
        level = levels.liquidation_level(*given, rest, self.below)
        assert level % self.step == 0
        return int(level) // self.step

    def verdicts(self) -> list[bool]:
        """Return the verdict at every grid count; there is no price 0."""
        return [False] + [self.verdict(count) for count in range(1, GRID + 1)]

    def verdict(self, count: int) -> bool:
        given = self.listing.contract, self.legs, count * self.step, self.asset_price, self.rest
        return twins.verdict_at(*given, below=self.below)


def frozen_rows(random: Random, *, is_whole: bool) -> Iterator[Frozen]:
    """Rows on a grid of 40 small prices, their sizes large enough that no rounding decides anything."""
    while True:
        is_inverse = random.random() < 0.4
        step = random.choice((1, 10))
        num = random.choice((1, 3)) * (10**6 if is_inverse else 1)
        scale = 10**6 if not is_inverse else 10**4 * step
        notional = scale * (step if not is_inverse else 10**6 // step)
        floors = sorted(random.sample(range(1, 900), 2))
        rates = sorted(random.choice((0, 10_000, 70_000, 200_000, 500_000)) for _ in range(3))
        tiers = tuple((floor * notional, rate, 2 * PPM) for floor, rate in zip((0, *floors), rates, strict=True))
        listing = listed(Contract(is_inverse, num, 1, tiers, is_whole))
        legs = []
        for sign in random.choice(((1,), (-1,), (1, -1))):
            size, entry = random.randint(1, 30) * scale, random.randint(1, 40)
            top, bottom = listing.contract.notional(size, entry * step)
            legs.append((sign * size, -sign * top // bottom if not is_inverse else sign * top // bottom))
        asset_price = random.choice((UNIT, UNIT * 41, UNIT * 37 // 100))
        rest = random.randint(-900, 900) * notional * asset_price // UNIT, random.choice((0, 5 * notional))
        yield Frozen(listing, legs, asset_price, rest, random.random() < 0.5, random.randint(1, 40), step)


@pytest.mark.parametrize("is_whole", [False, True], ids=["marginal", "whole"])
def test_liquidation_level_is_the_nearest_edge_of_all_prices(is_whole):
    random = Random(f"{SEED} levels {is_whole}")
    found_edges = 0
    for frozen in islice(frozen_rows(random, is_whole=is_whole), 3_000):
        verdicts = frozen.verdicts()
        expected, found = twins.nearest_edge(verdicts, frozen.mark), frozen.level()
        if expected is None and found:
            # Marks are at most 40, so what lies beyond the grid of 90 is further away than all below the mark.
            assert found >= GRID, (SEED, frozen)
            continue
        assert found == (expected or 0), (SEED, frozen)
        found_edges += expected is not None
    assert found_edges > 1_000


@pytest.mark.parametrize(("size", "num", "den"), [(1, 1, 10), (3, 1, 10), (999, 1, 10_000), (5, 3, 10**8), (7, 1, 1)])
def test_bounds_of_a_small_position_leave_room_for_every_price(size, num, den):
    # A few steps of a contract with a fine multiplier meet the bound of 4e18 only at prices that no mark can have.
    listing = listed(Contract(False, num, den))
    low, high = levels.price_bounds(np.array([[size, 0]], dtype=np.int64), listing.spec, UNIT, 1)
    assert low == 1
    assert 10**15 <= high <= POSITION_MAX
    assert listing.contract.notional(size, int(high))[0] <= POSITION_MAX * den


@pytest.mark.parametrize("is_whole", [False, True], ids=["marginal", "whole"])
def test_levels_are_drawn_where_healthy_prices_fall_into_several_stretches(is_whole):
    # Marginal margin is convex, so that healthy prices hang together - but for a first tier that needs no margin,
    # where an account without equity counts as healthy. Whole tiers jump, and may leave gaps anywhere.
    random = Random(f"{SEED} stretches")
    counts = [
        (twins.healthy_runs(frozen.verdicts()), frozen.listing.contract.tiers[0][1] == 0 and frozen.rest[1] == 0)
        for frozen in islice(frozen_rows(random, is_whole=is_whole), 1_000)
    ]
    assert max(runs for runs, is_free in counts if is_free) > 1
    assert (max(runs for runs, is_free in counts if not is_free) > 1) == is_whole


# Waves of auto-deleveraging.


@pytest.mark.parametrize("number", range(40))
def test_opposites_are_the_healthy_on_the_other_side_but_the_fund(number):
    random = Random(f"{SEED} opposites {number}")
    rows, count = 12, random.randrange(30)
    state = np.array([[random.randint(-2, 2) for _ in range(reprice.STATE_COLUMNS)] for _ in range(rows)])
    state[:, reprice.UNPRICED] = [random.random() < 0.2 for _ in range(rows)]
    state[:, reprice.FLAGS] = [random.randrange(8) for _ in range(rows)]
    holders = np.zeros((count + 3, reprice.HOLDER_COLUMNS), dtype=np.int64)
    holders[:, reprice.ROW] = [random.randrange(rows) for _ in holders]
    holders[:, reprice.SIZE] = [random.choice((-1, 1)) * random.randint(1, 9) for _ in holders]
    is_long = random.random() < 0.5
    expected = []
    for place in range(count):
        equity, maintenance, _, unpriced, _, flags = state[holders[place, reprice.ROW]].tolist()
        is_other = (holders[place, reprice.SIZE] < 0) == is_long
        if is_other and equity > maintenance and not unpriced and not flags & reprice.SYSTEM:
            expected.append(place)
    places = np.full(count + 1, -1, dtype=np.int64)
    found = waves.opposites_into(holders, count, state, is_long, places)
    assert places[:found].tolist() == expected, (SEED, number)
    assert set(places[found:].tolist()) == {-1}


@dataclass(frozen=True)
class Close:
    """One winner's close as the twin sees it, with the instrument and the collateral it is about."""

    listing: Listing
    pile: Pile
    closing: twins.Closing
    lot_steps: int

    def wave(self) -> Any:
        """Return what the kernels are told of the wave, as the core works it out."""
        size, cash = self.closing.failing
        given = {
            waves.FAILING_SIZE: size,
            waves.FAILING_CASH: cash,
            waves.LOT_STEPS: self.lot_steps,
            waves.LOSS: self.closing.loss(self.listing.contract),
            waves.LOSS_LOTS: abs(size) // self.lot_steps,
            waves.MARK: self.closing.price,
            waves.ASSET_PRICE: self.closing.asset_price,
            waves.HAS_HAIRCUT: self.pile.slices != ((0, PPM),),
        }
        return np.array([given[column] for column in range(waves.WAVE_COLUMNS)], dtype=np.int64)

    def equity_change(self, lots: int) -> int:
        """Return what the twin says of a close of so many lots."""
        return self.closing.equity_change(self.listing.contract, self.pile.slices, lots * self.lot_steps)


def closes(random: Random) -> Iterator[tuple[Close, int]]:
    """A close and the most lots it may be of: any contract, cash near the worth, one asset in two with a haircut."""
    for listing, pairs in listings(random):
        for _, price in random.sample(pairs, 5):
            top, bottom = listing.contract.notional(1, price)
            lot_steps = random.choice((1, 10, 1000))
            most = 10**17 * bottom // top // lot_steps
            if most == 0:
                continue
            lots, held_lots = (sized(random, min(most, 10**15), 1) for _ in range(2))
            sign = random.choice((-1, 1))
            size, held = sign * lots * lot_steps, -sign * held_lots * lot_steps
            worth, held_worth = (worth_of(listing.contract, leg, price) for leg in (size, held))
            asset_price = asset_price_for(random, 2 * (abs(worth) + abs(held_worth)) + 4 * 10**17)
            cash = worth + sized(random, 10**17) * random.choice((-1, 1, 1, 1))
            cost, balance = signed(random, 10**17) - held_worth, signed(random, 10**17)
            slices = ((0, PPM),) if random.random() < 0.5 else ((0, 950_000), (sized(random, 10**16, 1), 400_000))
            pile = Pile(slices, weight_table(Asset("X", weights=slices)))
            closing = twins.Closing((size, cash), (held, cost), balance, price, asset_price)
            yield Close(listing, pile, closing, lot_steps), min(lots, held_lots)


def worth_of(contract: Contract, size: int, price: int) -> int:
    """Return the cash that selling a position at a price brings, down."""
    top, bottom = contract.notional(size, price)
    return (top if (size > 0) != contract.is_inverse else -top) // bottom


def test_equity_changes_by_what_a_close_moves_from_the_position_to_the_wallet():
    random = Random(f"{SEED} closes")
    for close, most in islice(closes(random), 20_000):
        closing, lots = close.closing, random.randint(1, most)
        position = (*closing.held, closing.balance)
        given = close.wave(), position, close.listing.spec, close.listing.tiers, close.pile.table, lots
        assert waves.equity_change(*given) == close.equity_change(lots), (SEED, close, lots)


def test_winners_give_all_the_lots_that_leave_them_solvent_and_not_one_more():
    random = Random(f"{SEED} solvency")
    counted = {"all": 0, "some": 0, "none": 0}
    for close, most in islice(closes(random), 20_000):
        closing, wave = close.closing, close.wave()
        # Equities about what closing all of it, or some of it, costs.
        cost = -close.equity_change(random.choice((most, random.randint(1, most))))
        equity = max(1, cost + random.choice((-1, 0, 0, 1, signed(random, 10**6))))
        columns = ([value] for value in (*closing.held, closing.balance, equity))
        arrays = [np.array(column, dtype=np.int64) for column in columns]
        lots_max = np.array([most], dtype=np.int64)
        terms = close.listing.spec, close.listing.tiers, close.pile.table
        waves.lots_within_equity_into(wave, *arrays, *terms, lots_max)
        lots = int(lots_max[0])
        assert 0 <= lots <= most
        # Where nothing but the close's part of the loss was looked at, less than a rounding may be missing.
        is_plain = not wave[waves.HAS_HAIRCUT] and closing.loss(close.listing.contract) * most <= equity * int(
            wave[waves.LOSS_LOTS]
        )
        assert lots == most or not is_plain
        rounding = twins.div_up(closing.asset_price, UNIT) + 2 if is_plain else 0
        assert lots == 0 or equity + close.equity_change(lots) >= -rounding, (SEED, close, equity, lots)
        assert lots == most or equity + close.equity_change(lots + 1) < 0, (SEED, close, equity, lots)
        counted["all" if lots == most else "some" if lots else "none"] += 1
    assert min(counted.values()) > 500


def test_profits_given_up_are_in_proportion_to_the_lots_taken():
    random = Random(f"{SEED} profits")
    pnl = [signed(random, INT64_MAX) for _ in range(20_000)]
    lots = [sized(random, INT64_MAX, 1) for _ in pnl]
    taken = [sized(random, held) for held in lots]
    arrays = [np.array(values, dtype=np.int64) for values in (pnl, taken, lots)]
    profits = np.zeros(len(pnl), dtype=np.int64)
    waves.profits_into(*arrays, profits)
    assert profits.tolist() == [max(won, 0) * some // held for won, some, held in zip(pnl, taken, lots, strict=True)]


def quotient(random: Random, high: int, near: list[int]) -> tuple[int, int, int, int]:
    """Return two factors above the line, the first of any sign, and two below: four of anything, or near those given.

    A divisor of zero stands only under a number above zero.
    """
    figures = [sized(random, high) for _ in near]
    if random.random() < 0.5:
        figures = [max(0, min(high, figure + random.randint(-1, 1))) for figure in near]
    over, times, under, under_times = figures
    times = max(times, 1)
    return (random.choice((-1, 1, 1)) * over if under and under_times else max(over, 1)), times, under, under_times


@pytest.mark.parametrize("number", range(120))
def test_heap_gives_the_highest_quotients_first_and_equal_ones_in_order(number):
    random = Random(f"{SEED} heap {number}")
    # Figures of a few units, where many are equal, to such that four of them fill 252 bits.
    high = random.choice((3, 50, 10**9, INT64_MAX))
    near = [sized(random, high) for _ in range(4)]
    quotients = [quotient(random, high, near) for _ in range(random.choice((0, 1, 2, 3, 17, 100)))]
    factors = np.array(quotients, dtype=np.int64).reshape(-1, 4)
    over, under = np.ascontiguousarray(factors[:, :2]), np.ascontiguousarray(factors[:, 2:])
    heap, heads = np.zeros(len(quotients), dtype=np.int64), np.zeros(16, dtype=np.int64)
    waves.heap_into(over, under, heap)
    found: list[int] = []
    while taken := waves.pop_into(over, under, heap, len(quotients) - len(found), heads):
        found += heads[:taken].tolist()
    assert found == twins.highest_first(quotients), (SEED, number)
