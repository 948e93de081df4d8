"""Every compiled kernel agrees with its twin in plain Python ints, on well over a million seeded cases.

Magnitudes are drawn evenly over the bits they may have, so that dust, everyday sizes and the edge of 64 bits all come
up; a third of the notionals lie on the floor of a tier or one unit beside it. A failure prints the seed and the
smallest of the cases that failed. ``ci`` repeats one seed, other runs draw a fresh one (see ``conftest.py``).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, product
from math import prod
from random import Random, SystemRandom
from typing import Any

import numpy as np
import pytest

from engine.core.book import LONG, NET, SHORT, Book, spec_row, tier_table, weight_table
from engine.core.kernels import arith, funding, levels, limits, margin, rows, triggers, waves
from engine.core.kernels.tables import (
    CALLED,
    COLD,
    GAP_COLD,
    GAP_UNPRICED,
    NONE,
    STALE_COUNT,
    SYSTEM,
    UNPRICED,
    WATCHED,
)
from engine.core.params import Asset, Instrument, Policy, Risk, Tier
from engine.core.pricing import exact_equity, mark_overflows, try_put_asset_price, try_put_mark
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


def power_cases(random: Random) -> Iterator[Case]:
    """Results on both sides of the most that there may be, and powers that no int64 holds."""
    while True:
        most, power = sized(random, INT64_MAX, 1), random.randrange(22)
        limit = most // 10 ** min(power, 18)
        yield random.choice((limit, min(limit + 1, INT64_MAX), sized(random, INT64_MAX))), power, most


def bounded_power(number: int, power: int, most: int) -> int:
    scaled = number * 10**power
    return scaled if scaled <= most else 0


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


def instrument_of(contract: Contract, symbol: str = "X", settle: str = "C") -> Instrument:
    """Return a contract as the engine's parameters say it."""
    return Instrument(
        symbol=symbol,
        kind="inverse" if contract.is_inverse else "linear",
        base=symbol,
        settle=settle,
        multiplier=(1, 0),
        price_tick=(1, 0),
        lot=(1, 0),
        mark_decimals=0,
        tiers=tuple(Tier(*tier) for tier in contract.tiers),
        value_num=contract.num,
        value_den=contract.den,
    )


def listed(contract: Contract) -> Listing:
    """Return a contract with the rows that the engine itself makes of it."""
    instrument = instrument_of(contract)
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
    "times_power_of_ten": (arith.times_power_of_ten, bounded_power, power_cases),
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
    "funding_payment": (with_spec(funding.funding_payment), of_listing(twins.funding_payment), funding_cases),
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


# Books: what rows are worth, and which of them a price concerns.

ASSETS = ("USD", "EUR", "COIN")
WATCHED_SHARE, CALLED_SHARE = 0.1, 0.3


class World:
    """A book of a few rows, and beside it everything that was put into it, for the twins to count again.

    The dollar is worth one, the euro and the coin have prices that move. Symbols are not in the order of their names.
    Most rows are healthy by a little more than their margin call asks for; some have a debt, some wait for a price.
    """

    def __init__(self, seed: str, *, is_priced: bool = True) -> None:
        self.seed = seed
        self.random = random = Random(seed)
        is_whole = random.random() < 0.3
        self.rule = [random.randrange(2), 800_000, random.choice((750_000, 300_000))]
        self.book = Book(Risk(self.draw_policy(is_whole), {"USD": Asset("USD", price_units=UNIT)}))
        self.slices: list[tuple[twins.Slice, ...]] = [((0, PPM),), ((0, PPM), (sized(random, 10**13, 1), 700_000))]
        self.slices.append(((0, 950_000), (sized(random, 10**14, 1), 400_000)))
        for name, slices in zip(ASSETS[1:], self.slices[1:], strict=True):
            self.book.set_asset(Asset(name, weights=slices))
        self.prices = [UNIT, *(random.choice((UNIT, sized(random, 10**11, 10**4))) for _ in ASSETS[1:])]
        self.contracts: list[Contract] = []
        self.marks: list[int] = []
        self.settle = [random.randrange(len(ASSETS)) for _ in range(5)]
        for name, settle in zip("SEBTA", self.settle, strict=True):
            contract, mark = self.draw_contract()
            self.contracts.append(replace(contract, is_whole=is_whole))
            self.marks.append(mark)
            self.book.set_instrument(instrument_of(contract, name, ASSETS[settle]))
        self.starts = [*self.marks], [*self.prices]
        # (row, symbol, leg) -> size, cost; (row, asset) -> balance; row -> flags
        self.held: dict[tuple[int, int, int], tuple[int, int]] = {}
        self.balances: dict[tuple[int, int], int] = {}
        self.flags = {0: SYSTEM}
        self.put_prices(is_priced)
        for number in range(12):
            self.flags[self.book.open_row(f"a{number}", "")] = 0
        for row in self.flags:
            self.fill_row(row)

    def draw_policy(self, is_whole: bool) -> Policy:
        below, call_ppm, rearm_ppm = self.rule
        return Policy(
            tier_mode="whole" if is_whole else "marginal",
            trigger="below" if below else "at_or_below",
            margin_call_ratio_ppm=call_ppm,
            margin_call_rearm_ppm=rearm_ppm,
        )

    def draw_contract(self) -> tuple[Contract, int]:
        """Return a contract and a mark at which a single size step is worth little enough."""
        for listing, _ in listings(self.random):
            mark = sized(self.random, 10**9, 10**3)
            top, bottom = listing.contract.notional(1, mark)
            if top < 10**13 * bottom:
                return listing.contract, mark
        raise AssertionError("listings are endless")

    def put_prices(self, is_priced: bool) -> None:
        """Put all prices in force, but for a mark now and then, or none but the dollar's."""
        self.prices = [price if is_priced or not asset else 0 for asset, price in enumerate(self.prices)]
        self.marks = [mark if is_priced and self.random.random() < 0.9 else 0 for mark in self.marks]
        for asset, price in enumerate(self.prices):
            if price:
                self.book.set_asset_price(asset, price, 1, is_seen=True)
        for symbol, mark in enumerate(self.marks):
            if mark:
                self.book.set_mark(symbol, mark, 1, is_seen=True)

    # What rows have.

    def fill_row(self, row: int) -> None:
        random = self.random
        for asset in range(len(ASSETS)):
            if random.random() < 0.5:
                self.set_balance(row, asset, signed(random, 10**13))
        for symbol in random.sample(range(len(self.contracts)), random.randrange(4)):
            for leg in random.choice(((NET,), (NET,), (LONG, SHORT), (SHORT,))):
                self.trade(row, symbol, leg)
        self.set_flag(row, WATCHED, is_set=random.random() < WATCHED_SHARE)
        self.set_flag(row, CALLED, is_set=random.random() < CALLED_SHARE)
        self.tune(row)

    def trade(self, row: int, symbol: int, leg: int) -> None:
        """Give a row a position of at most 1e14 units, opened near the mark."""
        contract, mark = self.contracts[symbol], self.starts[0][symbol]
        top, bottom = contract.notional(1, mark)
        size = sized(self.random, min(10**17, max(1, 10**14 * bottom // top)), 1)
        size *= {NET: self.random.choice((-1, 1)), LONG: 1, SHORT: -1}[leg]
        cost = -worth_of(contract, size, max(1, mark * self.random.randint(90, 110) // 100))
        self.set_position(row, symbol, leg, size, cost)

    def set_position(self, row: int, symbol: int, leg: int, size: int, cost: int) -> None:
        self.held[row, symbol, leg] = size, cost
        if size == 0:
            del self.held[row, symbol, leg]
        self.book.set_position(row, symbol, leg, size, cost)

    def set_balance(self, row: int, asset: int, balance: int) -> None:
        self.balances[row, asset] = balance
        self.book.set_wallet(row, asset, balance)

    def set_flag(self, row: int, flag: int, *, is_set: bool) -> None:
        self.flags[row] = self.flags[row] | flag if is_set else self.flags[row] & ~flag
        self.book.set_flag(row, flag, is_set=is_set)

    def tune(self, row: int) -> None:
        """Give a row the dollars that leave it a unit, or much more, above its margin call or its margin."""
        equity, maintenance, gross = self.standing(row)
        base = twins.div_up(maintenance * PPM, self.random.choice((PPM, self.rule[1], self.rule[2])))
        near = self.random.choice((-1, 0, 1, sized(self.random, max(1, gross // 10))))
        self.set_balance(row, 0, self.balances.get((row, 0), 0) + base + near - equity)

    # What happens.

    def move_mark(self, symbol: int) -> None:
        """Put another mark in force, between half and twice the first one."""
        start = self.starts[0][symbol]
        self.marks[symbol] = max(1, start * self.random.randint(50, 200) // 100)
        if self.random.random() < 0.5:
            self.marks[symbol] = max(1, start + self.random.randint(-2, 2))
        triggers.share_stale(self.book.tables.view)
        self.book.set_mark(symbol, self.marks[symbol], 2, is_seen=True)

    def move_price(self, asset: int) -> None:
        """Put another price of the euro or the coin in force."""
        percent = self.random.choice((100, self.random.randint(50, 200)))
        self.prices[asset] = max(1, self.starts[1][asset] * percent // 100)
        triggers.share_stale(self.book.tables.view)
        self.book.set_asset_price(asset, self.prices[asset], 2, is_seen=True)

    def live(self) -> None:
        """Change a position, a balance or a flag of somebody."""
        random, row = self.random, self.random.choice(sorted(self.flags))
        mine = [key for key in self.held if key[0] == row]
        match random.randrange(6):
            case 0 | 1 if mine:
                self.set_position(*random.choice(mine), 0, 0)
            case 2:
                self.set_balance(row, random.randrange(len(ASSETS)), random.choice((0, signed(random, 10**13))))
            case 3:
                self.set_flag(row, WATCHED, is_set=random.random() < WATCHED_SHARE)
                self.set_flag(row, CALLED, is_set=random.random() < CALLED_SHARE)
            case 4 if mine:
                self.trade(*random.choice(mine))
            case _:
                self.tune(row)

    # What the twins say.

    def standing(self, row: int) -> tuple[int, int, int]:
        """Return a row's equity, maintenance margin and notional."""
        return twins.row_standing(self.positions(row), self.piles(row))

    def positions(self, row: int) -> list[tuple[Contract, int, int, int, int]]:
        return [
            (self.contracts[symbol], size, cost, self.marks[symbol], self.prices[self.settle[symbol]])
            for (owner, symbol, _), (size, cost) in self.held.items()
            if owner == row
        ]

    def piles(self, row: int) -> list[tuple[tuple[twins.Slice, ...], int, int]]:
        return [
            (self.slices[asset], self.balances.get((row, asset), 0), self.prices[asset]) for asset in range(len(ASSETS))
        ]

    def is_priced(self, row: int) -> bool:
        """Return whether a row waits for no price."""
        return all(part[-1] and part[-2] for part in self.positions(row)) and all(
            price for _, balance, price in self.piles(row) if balance
        )

    def is_judged(self, row: int) -> bool:
        """Return whether a row may need a look at all: it waits for no price, and is not the fund's."""
        return self.is_priced(row) and not self.flags[row] & SYSTEM

    def needs_a_look(self, row: int) -> bool:
        equity, maintenance, _ = self.standing(row)
        return twins.needs_a_look(
            equity,
            maintenance,
            is_priced=self.is_priced(row),
            is_own=bool(self.flags[row] & SYSTEM),
            is_called=bool(self.flags[row] & CALLED),
            is_watched=bool(self.flags[row] & WATCHED),
            rule=self.rule,
        )

    def holders(self, symbol: int) -> list[int]:
        """Return the rows of a symbol's positions, slot by slot."""
        owners: list[int] = self.book.holder_rows(symbol).tolist()
        assert sorted(owners) == sorted(row for row, held, _ in self.held if held == symbol)
        return owners

    def owners(self, asset: int) -> list[int]:
        return sorted(row for (row, held), balance in self.balances.items() if held == asset and balance)


def worlds(name: str, count: int = 25) -> Iterator[World]:
    for number in range(count):
        yield World(f"{SEED} {name} {number}")


def found_by(kernel: Any, world: World, *given: int, room: int) -> list[int]:
    """Return the rows that a kernel writes to an array with just so much room."""
    written = np.full(room, -1, dtype=np.int32)
    found = kernel(world.book.tables.view, *given, written)
    return [int(row) for row in written[:found]]


def test_row_standing_equals_a_recount_of_all_that_was_put_into_the_row():
    for world in worlds("standing"):
        view = world.book.tables.view
        for step in range(30):
            world.live()
            world.move_mark(world.random.randrange(5))
            if step % 3 == 0:
                world.move_price(world.random.randrange(1, 3))
            view = world.book.tables.view
            expected = {row: world.standing(row) for row in world.flags}
            standings = np.zeros((len(expected), 3), dtype=np.int64)
            rows.row_standings_into(view, np.array(list(expected)), standings)
            assert {row: rows.row_standing(view, row) for row in expected} == expected, (world.seed, step)
            assert {row: world.book.standing(row) for row in expected} == expected, (world.seed, step)
            assert standings.tolist() == [list(standing) for standing in expected.values()], (world.seed, step)


def test_positions_of_a_row_come_by_name_then_leg_whatever_came_first():
    for world in worlds("order"):
        for _ in range(30):
            world.live()
            names = [instrument.symbol for instrument in world.book.instruments]
            for row in world.flags:
                mine = [(symbol, leg) for owner, symbol, leg in world.held if owner == row]
                assert world.book.positions_of(row) == sorted(mine, key=lambda key: (names[key[0]], key[1])), world.seed
            for key, position in world.held.items():
                assert rows.position_of(world.book.tables.view, *key) == position
        assert rows.position_of(world.book.tables.view, 1, 0, 7) == (0, 0)


def test_profit_of_each_holder_is_its_positions_own():
    for world in worlds("profits"):
        for symbol, contract in enumerate(world.contracts):
            ids, owners = world.book.holder_ids(symbol), world.holders(symbol)
            pnls = np.full(len(ids) + 1, 7, dtype=np.int64)
            rows.position_pnls_into(world.book.tables.view, ids, pnls)
            legs = world.book.tables.positions["leg"][ids].tolist()
            terms = world.marks[symbol], world.prices[world.settle[symbol]]
            expected = [
                twins.position_pnl(contract, *world.held[row, symbol, leg], *terms) if all(terms) else 0
                for row, leg in zip(owners, legs, strict=True)
            ]
            assert pnls.tolist() == [*expected, 7], world.seed


def test_marks_find_the_holders_in_need_and_nobody_else():
    counted = dict.fromkeys(("in need", "passed by", "looked at in vain"), 0)
    for world in worlds("marks", 40):
        for _ in range(30):
            world.live()
            symbol = world.random.choice([symbol for symbol in range(5) if world.marks[symbol]])
            world.move_mark(symbol)
            holders = world.holders(symbol)
            expected = [row for row in holders if world.needs_a_look(row)]
            all_found = found_by(triggers.all_holders_into, world, symbol, room=len(holders))
            assert all_found == expected, world.seed
            found = found_by(triggers.concerned_rows_into, world, symbol, room=len(holders))
            assert set(found) == set(expected), world.seed
            # Each position once, though a price may reach its keys of both sides.
            assert Counter(found) <= Counter(expected), world.seed
            stale = set(world.book.tables.stale[: world.book.tables.settings[STALE_COUNT]].tolist())
            counted["in need"] += len(expected)
            counted["passed by"] += sum(map(world.is_judged, set(holders) - stale))
            counted["looked at in vain"] += len(stale - set(expected))
    assert min(counted.values()) > 100, counted


def test_asset_prices_find_the_owners_in_need_and_nobody_without_a_stake():
    """A price of the euro or the coin concerns who holds it, and who has a position that settles in it."""
    counted = dict.fromkeys(("in need", "passed by"), 0)
    for world in worlds("prices", 40):
        for _ in range(30):
            world.live()
            asset = world.random.randrange(1, 3)
            world.move_price(asset)
            settled = {row for row, symbol, _ in world.held if world.settle[symbol] == asset}
            owners = world.owners(asset)
            count = len(world.flags)
            all_found = found_by(triggers.all_owners_into, world, asset, count, room=len(owners))
            assert all_found == [row for row in owners if world.needs_a_look(row)], world.seed
            expected = {row for row in {*owners, *settled} if world.needs_a_look(row)}
            found = found_by(triggers.concerned_by_asset_into, world, asset, room=count)
            assert sorted(found) == sorted(expected), world.seed
            stale = set(world.book.tables.stale[: world.book.tables.settings[STALE_COUNT]].tolist())
            counted["in need"] += len(expected)
            counted["passed by"] += sum(map(world.is_judged, {*owners, *settled} - stale))
    assert min(counted.values()) > 100, counted


def test_rows_to_be_liquidated_are_those_with_too_little_equity_but_the_fund():
    counted = dict.fromkeys(("too little", "enough"), 0)
    for world in worlds("verdicts", 60):
        for _ in range(5):
            world.live()
            world.move_mark(world.random.choice([symbol for symbol in range(5) if world.marks[symbol]]))
            expected = [
                row
                for row in world.flags
                if world.is_judged(row) and twins.is_liquidatable(*world.standing(row)[:2], bool(world.rule[0]))
            ]
            count = len(world.flags)
            assert found_by(rows.liquidatable_rows_into, world, count, room=count) == expected, world.seed
            counted["too little"] += len(expected)
            counted["enough"] += count - len(expected)
    assert min(counted.values()) > 100, counted


def test_funding_of_all_holders_is_each_holders_payment():
    paid = 0
    for world in worlds("funding", 60):
        rate = signed(world.random, twins.FUNDING_SCALE)
        for symbol, contract in enumerate(world.contracts):
            holders = world.holders(symbol)
            legs = world.book.tables.positions["leg"][world.book.holder_ids(symbol)].tolist()
            payments = np.full((len(holders) + 1, 2), 7, dtype=np.int64)
            if world.marks[symbol]:
                funding.funding_payments_into(world.book.tables.view, symbol, rate, payments)
                expected = [
                    [row, twins.funding_payment(contract, world.held[row, symbol, leg][0], world.marks[symbol], rate)]
                    for row, leg in zip(holders, legs, strict=True)
                ]
                assert payments.tolist() == [*expected, [7, 7]], world.seed
                paid += len(holders)
    assert paid > 300


def test_rows_that_wait_for_a_price_are_counted_once_a_position_and_once_a_balance():
    for number in range(40):
        world = World(f"{SEED} gaps {number}", is_priced=False)
        tables, random = world.book.tables, world.random
        for _ in range(30):
            world.live()
            place, unpriced, cold = random.randrange(8), random.randrange(2), random.randrange(2)
            if place < 5:
                rows.change_gaps(tables.view, place, unpriced, cold)
            else:
                rows.change_asset_gaps(tables.view, place - 5, len(world.flags), unpriced, cold)
            for column, gap in ((UNPRICED, GAP_UNPRICED), (COLD, GAP_COLD)):
                symbols, assets = (table[:, gap].tolist() for table in (tables.symbols, tables.assets))
                assert place >= 5 or symbols[place] == (unpriced if gap == GAP_UNPRICED else cold)
                assert place < 5 or assets[place - 5] == (unpriced if gap == GAP_UNPRICED else cold)
                for row in world.flags:
                    lacking = sum(symbols[symbol] for owner, symbol, _ in world.held if owner == row)
                    lacking += sum(assets[asset] for asset in range(3) if world.balances.get((row, asset), 0))
                    assert tables.rows[row, column] == lacking, (world.seed, row)


# Where int64 ends.


def test_bound_on_what_rows_are_worth_is_one():
    for world in worlds("bounds", 60):
        for _ in range(5):
            world.live()
            world.move_mark(world.random.choice([symbol for symbol in range(5) if world.marks[symbol]]))
            world.move_price(world.random.randrange(1, 3))
        view, count = world.book.tables.view, len(world.flags)
        equities = [world.standing(row)[0] for row in world.flags]
        assert [exact_equity(world.book, row) for row in world.flags] == equities, world.seed
        assert limits.worth_bound(view) * (1 + 1e-9) >= max(map(abs, equities)), world.seed
        assert limits.next_vast_row(view, 0, count) == NONE


@pytest.mark.parametrize(
    ("size", "cost", "wallet"),
    [
        # Bought for 100 units, worth 200 now: 100 more than the wallet, to the last number there is.
        pytest.param(1, -100, INT64_MAX - 100, id="long"),
        # Sold for 100, it costs 200 to buy back: down to the last one below zero.
        pytest.param(-1, 100, 100 - INT64_MAX, id="short"),
        # 20 billion dollars made, or lost, on top of 72 billion.
        pytest.param(2 * 10**16, -2 * 10**18, INT64_MAX - 2 * 10**18, id="long of much"),
        pytest.param(-2 * 10**16, 2 * 10**18, 2 * 10**18 - INT64_MAX, id="short of much"),
    ],
)
def test_mark_that_takes_an_equity_out_of_64_bits_changes_nothing(size, cost, wallet):
    beyond = 1 if wallet > 0 else -1
    book = edge_book(size, cost, wallet + beyond)
    assert not mark_overflows(book, 0, 200, UNIT)
    before = remembered(book)
    assert try_put_mark(book, 0, 200, 2) is None
    assert remembered(book) == before
    # One unit less is borne.
    book.set_wallet(1, 0, wallet)
    assert try_put_mark(book, 0, 200, 2) is not None
    assert book.marks[0].value == 200
    assert book.equity(1) == INT64_MAX * beyond


@pytest.mark.parametrize("sign", [1, -1], ids=["riches", "debts"])
def test_asset_price_that_takes_an_equity_out_of_64_bits_changes_nothing(sign):
    """Coins worth 2.1e18 units double in price; what is missing to the edge is there in dollars."""
    wallet = sign * (INT64_MAX - 42 * 10**17)
    book = edge_book(0, 0, wallet + sign)
    book.set_wallet(1, 1, sign * 21 * 10**17)
    before = remembered(book)
    assert try_put_asset_price(book, 1, 2 * UNIT, 2) is None
    assert remembered(book) == before
    book.set_wallet(1, 0, wallet)
    assert try_put_asset_price(book, 1, 2 * UNIT, 2) is not None
    assert book.asset_prices[1].value == 2 * UNIT
    assert book.equity(1) == sign * INT64_MAX


def test_asset_price_revalues_positions_that_settle_in_it_before_it_is_borne():
    """A coin contract has won 2.1e18 coin units; at twice the price they are all that fits beside the dollars."""
    book = edge_book(0, 0, INT64_MAX - 42 * 10**17 + 1)
    book.set_instrument(instrument_of(Contract(False, 1, 1), "Y", "COIN"))
    book.set_mark(1, 200, 1, is_seen=True)
    book.set_position(1, 1, 0, 21 * 10**15, -21 * 10**17)
    before = remembered(book)
    assert try_put_asset_price(book, 1, 2 * UNIT, 2) is None
    assert remembered(book) == before
    book.set_wallet(1, 0, INT64_MAX - 42 * 10**17)
    assert try_put_asset_price(book, 1, 2 * UNIT, 2) is not None
    assert book.equity(1) == INT64_MAX


def test_notional_and_margin_that_marks_carry_out_of_64_bits_stay_at_the_end():
    """35 billion long of one, 35 billion short of another, all of it margin: 92.2 billion is what 64 bits hold."""
    whole = Contract(False, 1, 1, ((0, PPM, PPM),))
    assets = {"USD": Asset("USD", price_units=UNIT)}
    book = Book(Risk(assets=assets, instruments={name: instrument_of(whole, name, "USD") for name in "XY"}))
    row, size, wallet = book.open_row("a", ""), 35 * 10**15, 8 * 10**17
    book.set_wallet(row, 0, wallet)
    for symbol, sign in ((0, 1), (1, -1)):
        book.set_position(row, symbol, 0, sign * size, -sign * size * 100)
    # Both at 130: 91 billion. At 132 they are 92.4 billion, which is written as 92.2 and not as less than nothing.
    for price, written in ((130, 2 * 130 * size), (132, INT64_MAX), (150, INT64_MAX)):
        for symbol in (0, 1):
            assert not mark_overflows(book, symbol, price, UNIT)
            found = try_put_mark(book, symbol, price, 1)
        assert book.standing(row) == (wallet, written, written)
        assert found == [row]


def edge_book(size: int, cost: int, wallet: int) -> Book:
    """Return a book of one row at a mark of 100, and of a coin that is worth a dollar; no margin is asked for."""
    assets = {"USD": Asset("USD", price_units=UNIT), "COIN": Asset("COIN")}
    book = Book(Risk(assets=assets, instruments={"X": instrument_of(Contract(False, 1, 1), settle="USD")}))
    book.set_mark(0, 100, 1, is_seen=True)
    book.set_asset_price(1, UNIT, 1, is_seen=True)
    row = book.open_row("a", "")
    book.set_position(row, 0, 0, size, cost)
    book.set_wallet(row, 0, wallet)
    return book


def remembered(book: Book) -> list[Any]:
    """Return all that a refused price may not have changed: the tables, keys shared out, and the prices told."""
    triggers.share_stale(book.tables.view)
    tables = [part.tobytes() for part in book.tables.view.arrays().values()]
    return [*tables, *map(replace, [*book.marks, *book.asset_prices])]


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
        counts = np.zeros(3 * len(legs) * len(self.listing.tiers) + 2, dtype=np.int64)
        level = levels.liquidation_level(*given, rest, self.below, counts)
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


def test_opposites_are_the_healthy_on_the_other_side_but_the_fund():
    counted = dict.fromkeys(("taken", "left"), 0)
    for world in worlds("opposites", 60):
        for symbol, is_long in product(range(5), (False, True)):
            ids, holders = world.book.holder_ids(symbol), world.holders(symbol)
            legs = world.book.tables.positions["leg"][ids].tolist()
            expected = []
            for id_, row, leg in zip(ids.tolist(), holders, legs, strict=True):
                equity, maintenance, _ = world.standing(row)
                is_other = (world.held[row, symbol, leg][0] < 0) == is_long
                if is_other and world.is_judged(row) and equity > maintenance:
                    expected.append([row, id_])
            found = np.full((2, len(ids)), -1, dtype=np.int64)
            count = waves.opposites_into(world.book.tables.view, symbol, is_long, *found)
            assert found[:, :count].T.tolist() == expected, world.seed
            counted["taken"] += len(expected)
            counted["left"] += len(ids) - len(expected)
    assert min(counted.values()) > 200, counted


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
