"""The trigger index finds, at every price, exactly the rows that a look at everybody finds.

Three ways of asking: random books (``triggers.Crowd``) whose prices move in every fashion, with all else that can
happen in between; the keys themselves, which must leave nobody in need anywhere between them; and whole runs of the
machine beside one that looks at everybody. Seeds are printed by what fails; ``CI`` repeats one seed.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import numpy as np
import pytest

from engine.core import ledger
from engine.core.book import Book
from engine.core.events import Message
from engine.core.kernels.segments import ALWAYS, NEVER, build_maxima, next_crossed, put_key, segment_size, top_key
from engine.core.kernels.tables import BASE, CALLED, CAPACITY, COLD, PRICE, STALE_COUNT, UNPRICED, WATCHED
from engine.core.kernels.triggers import crossed_into, share_stale
from engine.core.machine import Machine
from engine.core.params import Asset, Instrument, Policy, Risk, Tier
from engine.core.pricing import reprice_all, try_put_asset_price, try_put_mark
from engine.core.shard import Shard
from engine.core.tables import TableStore
from engine.edges.bookfile import load_document
from engine.edges.codec import encode
from engine.edges.config import load_risk
from engine.edges.digest import state_hash
from engine.edges.readers import merge
from engine.edges.venue import VENUES
from engine.tools.demo import write_market
from engine.tools.replay import ReplayOptions, new_shard, open_logs
from engine.units import INT64_MAX, PPM, UNIT
from tests.scenarios import Desk, asset_price, buy, deposit, mark, sell, withdraw
from tests.simulation.plan import FAILURES, Plan, read_plan
from tests.simulation.run import message_of, risk_of, run_seed
from tests.triggers import ENDLESS, SCALES, SEGMENT, Crowd, Place, Prices, Scale, check_triggers, safe_prices

SEED = 20_250_310 if os.environ.get("CI") else SystemRandom().getrandbits(32)
CROWDS = 12
STEPS = 60


# ------------------------------------------------------------------------------------------------------ random books


@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: f"{scale.worth:,}")
@pytest.mark.parametrize("number", range(CROWDS))
def test_rows_found_by_the_index_are_those_found_by_looking_at_all(number, scale):
    random = Random(f"{SEED} found {number} {scale.worth}")
    crowd = Crowd(random, scale=scale)
    check_triggers(crowd.book)
    for step in range(STEPS):
        if random.random() < 0.4:
            crowd.act()
        else:
            place, found = crowd.move()
            assert found == crowd.in_need(place), (SEED, number, scale, step, place)
            answer(crowd, found)
        check_triggers(crowd.book)


def answer(crowd: Crowd, found: set[int]) -> None:
    """Do as the machine does of those found: call, watch, mend - or leave them as they are, as it may do, too."""
    random, book = crowd.random, crowd.book
    for row in sorted(found):
        match random.randrange(6):
            case 0:
                book.set_flag(row, CALLED, is_set=not book.flags(row) & CALLED)
            case 1:
                book.set_flag(row, WATCHED, is_set=True)
            case 2 | 3 | 4:
                book.set_flag(row, WATCHED, is_set=False)
                crowd.tune(row)


@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: f"{scale.worth:,}")
@pytest.mark.parametrize("number", range(CROWDS))
def test_nobody_needs_a_look_anywhere_between_its_keys(number, scale):
    """Each price a row depends on moves to the last step before a key, either side, or to a floor on the way."""
    random = Random(f"{SEED} between {number} {scale.worth}")
    crowd = Crowd(random, scale=scale)
    for step in range(STEPS):
        if random.random() < 0.6:
            crowd.act()
        else:
            answer(crowd, crowd.move()[1])
        if step % 3 == 0:
            share_stale(crowd.book.tables.view)
            for row in range(1, len(crowd.book.accounts)):
                ranges = safe_prices(crowd.book, row)
                now = {place: crowd.price(place) for place in ranges}
                if ranges and all(ranges[place][0] <= price <= ranges[place][1] for place, price in now.items()):
                    for prices in (probe(crowd, ranges) for _ in range(6)):
                        put_prices(crowd, prices)
                        assert not crowd.needs_a_look(row), (SEED, number, scale, step, row, now, prices)
                    put_prices(crowd, now)


def probe(crowd: Crowd, ranges: dict[Place, tuple[int, int]]) -> Prices:
    """Return a price for each place that reaches no key: at an end of what is safe, at a floor, or anywhere."""
    random, prices = crowd.random, {}
    for place, safe in ranges.items():
        lowest, highest = crowd.bounds(place)
        low, high = max(safe[0], lowest), min(safe[1], highest)
        floors = [price + step for price in crowd.floor_prices(place) for step in (-1, 0, 1)]
        choices = [low, low, high, high, random.randint(low, high)]
        prices[place] = random.choice(choices + [price for price in floors if low <= price <= high][:5])
    return prices


def put_prices(crowd: Crowd, prices: Prices) -> None:
    """Set prices in the tables alone: nobody is told of them."""
    for place, price in prices.items():
        crowd.entry(place)[PRICE] = price


def test_random_books_hold_what_the_index_has_to_do_with():
    """Or the tests above prove little: enough of each kind, and enough keys that are neither of the trivial ones."""
    seen = dict.fromkeys(
        ("rows", "safe", "called and safe", "needs a look", "unpriced", "inverse", "legs", "buckets", "debts", "keys"),
        0,
    )
    for number in range(60):
        crowd = Crowd(Random(f"kinds {number}"))
        for _ in range(20):
            crowd.act()
            answer(crowd, crowd.move()[1])
        book = crowd.book
        share_stale(book.tables.view)
        for row in range(1, len(book.accounts)):
            ranges = safe_prices(book, row).items()
            is_safe = all(low <= crowd.price(place) <= high for place, (low, high) in ranges)
            seen["rows"] += 1
            seen["safe"] += is_safe
            seen["called and safe"] += is_safe and book.flags(row) == CALLED
            seen["needs a look"] += crowd.needs_a_look(row)
            seen["unpriced"] += not crowd.is_priced(row)
            seen["inverse"] += any(crowd.contracts[symbol].is_inverse for symbol, _ in book.positions_of(row))
            seen["legs"] += any(leg for _, leg in book.positions_of(row))
            seen["buckets"] += bool(book.buckets[row])
            seen["debts"] += any(book.wallet(row, asset) < 0 for asset in range(len(book.assets)))
            seen["keys"] += sum((low > 1) + (high < ENDLESS - 1) for place, (low, high) in ranges if is_safe)
    assert all(count > seen["rows"] // 100 for count in seen.values()), seen
    assert seen["keys"] > seen["rows"] // 2, seen


# --------------------------------------------------------------------------------------------------------- the keys

# One account, one position of 10 at a mark of 100; a margin call at 80 % of 1 %: 12.5 of 1,000.
CALL, REARM = 800_000, 750_000
ONE_TIER = (Tier(0, 10_000, PPM),)
STEEP = (Tier(0, 10_000, PPM), Tier(1_200 * UNIT, 50_000, PPM))
STEP = 10**6  # price steps a dollar


def plain_contract(symbol: str, tiers: tuple[Tier, ...]) -> Instrument:
    """Return a contract of which one step at a price of one step is worth one unit of USD."""
    return Instrument(
        symbol=symbol,
        kind="linear",
        base="X",
        settle="USD",
        multiplier=(1, 0),
        price_tick=(1, 0),
        lot=(1, 0),
        mark_decimals=0,
        tiers=tiers,
    )


def one_position(kind: str, size: int, equity: str, tiers: tuple[Tier, ...], mode: str, flag: int) -> Book:
    """Return a book of one account with so much equity and a position of 10 coins' or dollars' worth of 100."""
    # linear: a contract is worth its price; inverse: 10,000 dollars, in coins at that price.
    value_num = UNIT // STEP if kind == "linear" else 10_000 * UNIT * STEP
    instrument = replace(plain_contract("X", tiers), kind=kind, value_num=value_num)
    policy = Policy(margin_call_ratio_ppm=CALL, margin_call_rearm_ppm=REARM, tier_mode=mode)
    book = Book(Risk(policy, {"USD": Asset("USD", price_units=UNIT)}, {"X": instrument}))
    row = book.open_row("a", "")
    worth = 1_000 * UNIT
    book.set_position(row, 0, 0, size, worth if (size < 0) == (kind == "linear") else -worth)
    book.set_wallet(row, 0, int(Fraction(equity) * UNIT))
    try_put_mark(book, 0, 100 * STEP, 1)
    book.set_flag(row, flag, is_set=True)
    share_stale(book.tables.view)
    return book


@pytest.mark.parametrize(
    ("kind", "size", "equity", "tiers", "mode", "flag", "low", "high"),
    [
        # 300 less 12.5 are 287.5: 28.75 a coin. What margin the fall frees is left out.
        pytest.param("linear", 10, "300", ONE_TIER, "marginal", 0, "71.25", None, id="long"),
        # A dollar more costs 10, and 10 x 1 % / 80 % in margin: 287.5 / 10.125 are 28.3951.
        pytest.param("linear", -10, "300", ONE_TIER, "marginal", 0, None, "128.395061", id="short"),
        # It owes 1,000 coins in dollars: n = 100,000 / p may rise by 287.5 / 1.0125, to 1,283.9506.
        pytest.param("inverse", 10, "300", ONE_TIER, "marginal", 0, "77.884615", None, id="inverse long"),
        # And fall by 287.5, to 712.5.
        pytest.param("inverse", -10, "300", ONE_TIER, "marginal", 0, None, "140.350877", id="inverse short"),
        # 217.5: to 1,200 it takes 200 and 2.5; of what is left 5 % / 80 % more make 15 / 1.0625 = 14.1176.
        pytest.param("linear", -10, "230", STEEP, "marginal", 0, None, "121.411764", id="short in a steeper tier"),
        # At 1,200 the whole is charged 5 %: a jump of 48 / 80 % = 60, where 15 are left.
        pytest.param("linear", -10, "230", STEEP, "whole", 0, None, "120", id="short before a jump"),
        # A rise brings profit, but at 1,200 the margin jumps by 60, and 17.5 are there.
        pytest.param("linear", 10, "30", STEEP, "whole", 0, "98.25", "120", id="long before a jump"),
        # Called at 11, of which 1 is above its margin; well again beyond 10 / 75 % = 13.333.
        pytest.param("linear", 10, "11", ONE_TIER, "marginal", CALLED, "99.9", "100.233333", id="called long"),
        # 1 / 10.1 up; down 2.3333 / (10 + 10 x 1 % / 75 %).
        pytest.param("linear", -10, "11", ONE_TIER, "marginal", CALLED, "99.769737", "100.099010", id="called short"),
        pytest.param("inverse", 10, "11", ONE_TIER, "marginal", CALLED, "99.901088", "100.230797", id="called inverse"),
    ],
)  # fmt: skip
def test_key_of_an_only_position_is_where_its_slack_ends(kind, size, equity, tiers, mode, flag, low, high):
    book = one_position(kind, size, equity, tiers, mode, flag)
    ((found_low, found_high),) = safe_prices(book, 1).values()
    for found, expected, nothing in ((found_low, low, 1), (found_high, high, ENDLESS - 1)):
        if expected is None:
            assert found == nothing
        else:
            # Inward by float32's rounding and no more.
            inward = (found - Fraction(expected) * STEP) * (1 if expected == low else -1)
            assert 0 < inward < 30 + Fraction(expected) * STEP / 10**6


def test_ticks_that_concern_nobody_have_nobody_looked_at():
    """A thousand accounts at a leverage of two: prices may move by a tenth a hundred times."""
    crowd = Crowd(Random("calm"), rows=0, scale=Scale(10**12, 1000))
    book, random = crowd.book, crowd.random
    book.set_policy(Policy())
    for number in range(1_000):
        row = book.open_row(f"b{number}", "")
        crowd.trade(row, random.randrange(len(book.instruments)))
    for place in crowd.places():
        crowd.put(place, crowd.starts[place])
    for row in range(1, len(book.accounts)):
        equity, maintenance, gross = crowd.standing(row)
        book.set_wallet(row, book.asset_index["USD"], gross // 2 + 2 * maintenance - equity + 10**6)
    share_stale(book.tables.view)
    marks = [place for place in crowd.places() if place[0] == "mark"]
    for _ in range(100):
        place = random.choice(marks)
        assert crowd.put(place, round(crowd.starts[place] * random.uniform(0.95, 1.05))) == set()
        assert book.tables.settings[STALE_COUNT] == 0


def test_nobody_is_looked_at_for_a_balance_that_is_gone():
    """Coins are withdrawn to the last one: their price then concerns the account no more."""
    desk = Desk(assets={"COIN": {}})
    desk.tell(asset_price("COIN", "100"), deposit("a", "5", "COIN"), withdraw("a", "490"), withdraw("a", "5", "COIN"))
    desk.tell(deposit("a", "490"), asset_price("COIN", "90"), asset_price("COIN", "1"))
    share_stale(desk.shard.book.tables.view)
    desk.tell(asset_price("COIN", "2"))
    assert desk.shard.book.tables.settings[STALE_COUNT] == 0


# -------------------------------------------------------------------------------------- what was once passed by

STEEP_WHOLE = {"BTCUSDT": {"tiers": [["0", "0.01", "50"], ["1000", "0.5", "2"], ["2000", "0.5", "2"]]}}
COINS = {name: {"weights": [["0", "0.5"]], "slippage": "0.01"} for name in ("COIN", "GOLD")}


def told_both_ways(*messages: dict[str, Any], **options: Any) -> list[str]:
    """Tell messages to a desk, and to one that looks at everybody; return what both then say, by type."""
    desk, other = Desk(**options), Desk(**options)
    other.shard.book.is_scanned = True
    for message in messages:
        assert desk.tell(message) == other.tell(message), message
    return [body["type"] for body in desk.outputs]


def test_long_that_rises_into_a_dearer_whole_tier_is_liquidated():
    """100 behind 990: at 1,001 half of it all is margin, 500.5, and equity 111."""
    said = told_both_ways(
        mark("99"), deposit("a", "100"), buy("a", "10", "99"), mark("100.1"), tier_mode="whole", instruments=STEEP_WHOLE
    )
    assert said == ["margin_call", "liquidation_started", "cancel_orders", "liquidation_order"]


def test_long_whose_margin_outgrows_its_profit_is_called():
    """A call at 2 % where a tier takes 3: 30 of 1,600 are 1.9 %, and at 400 it is 120 of 4,600."""
    terms = {"BTCUSDT": {"tiers": [["0", "0.03", "30"]]}}
    said = told_both_ways(
        mark("100"), deposit("a", "1600"), buy("a", "10", "100"), mark("400"),
        margin_call_ratio="0.02", margin_call_rearm="0.001", instruments=terms,
    )  # fmt: skip
    assert said == ["margin_call"]


def test_called_long_that_falls_out_of_a_dearer_whole_tier_can_be_called_again():
    """At 1,000 it needs 500 of its 600; at 999 it needs 9.99, and is armed anew."""
    said = told_both_ways(
        mark("100"), deposit("a", "600"), buy("a", "10", "100"), mark("99.9"), mark("100"),
        tier_mode="whole", instruments=STEEP_WHOLE,
    )  # fmt: skip
    assert said == ["margin_call", "margin_call"]


def test_called_short_that_falls_through_two_tiers_of_one_rate_can_be_called_again():
    """From 2,100 to 990: half of it from 1,000 on, and from 2,000 on no more than that."""
    said = told_both_ways(
        mark("210"), deposit("a", "1060"), sell("a", "10", "210"), mark("99"), mark("210"),
        tier_mode="whole", margin_call_rearm="0.1", instruments=STEEP_WHOLE,
    )  # fmt: skip
    assert said == ["margin_call", "margin_call"]


def test_called_row_that_needs_no_margin_any_more_can_be_called_again_whatever_the_rearm_ratio():
    """No margin up to 1,000: at 1,200 it is 100 of 110, at 900 nothing."""
    terms = {"BTCUSDT": {"tiers": [["0", "0", "50"], ["1000", "0.5", "2"]]}}
    said = told_both_ways(
        mark("120"), deposit("a", "110"), sell("a", "10", "120"), mark("90"), mark("120"),
        margin_call_rearm="0", instruments=terms,
    )  # fmt: skip
    assert said == ["margin_call", "margin_call"]


def test_debtor_left_alone_is_looked_at_by_every_price():
    """1,060 owed against 1,200 COIN and 100 GOLD at 10, each counted at half, and worth 99 % when sold.

    At 0.06 COIN is worth 72: 536 count, but 1,061.28 are there, so nothing is done. At 9.95 GOLD it is 1,056.33.
    """
    given = (
        asset_price("COIN", "1"),
        asset_price("GOLD", "10"),
        deposit("a", "1200", "COIN"),
        deposit("a", "100", "GOLD"),
    )
    falls = withdraw("a", "1060"), asset_price("COIN", "0.99"), asset_price("COIN", "0.06"), asset_price("GOLD", "9.95")
    said = told_both_ways(*given, *falls, assets=COINS)
    assert said == ["liquidation_started", "cancel_orders", "collateral_sale", "collateral_sale"]


def test_cold_account_left_alone_is_looked_at_by_every_price():
    """The book knows all prices, the log not yet that of X, which settles in COIN and has lost 5 of them.

    COIN at 193: equity 1,000 - 965 = 35, margin 10 + 19.3. A call would be due, were X shown. BTCUSDT at 99.2 leaves 27
    of 29.22: held, since it is not.
    """
    x = {"settle": "COIN", "price_tick": "0.1", "lot": "0.001", "tiers": [["0", "0.01", "50"]]}
    positions = [
        {"symbol": "X", "qty": "1", "entry_price": "15"},
        {"symbol": "BTCUSDT", "qty": "10", "entry_price": "100"},
    ]
    book = {
        "accounts": [{"account": "a", "balances": {"USDT": "1000"}, "positions": positions}],
        "marks": {"X": "10", "BTCUSDT": "100"},
        "asset_prices": {"COIN": "100"},
    }
    said = told_both_ways(
        mark("100"), asset_price("COIN", "193"), mark("99.9"), mark("99.2"),
        book=book, assets={"COIN": {}}, instruments={"X": x},
    )  # fmt: skip
    assert said == ["liquidation_held"]


def test_shares_of_a_small_position_are_not_more_than_the_slack():
    """A long of 0.011 cents behind which 0.75 cents stand, all of it margin: called at 80 %.

    648 at 47 are 30,456 units, 11,268.72 of the valuation currency at 0.37, counted as 11,268. At 12,391 equity is
    3,713,579, and 2,970,867 / 80 % are 3,713,583: called. At 12,390 it is 3,713,339 against 3,713,285: not yet.
    """
    eur = {"EUR": Asset("EUR", price_units=37_000_001)}
    x = replace(plain_contract("X", (Tier(0, PPM, PPM),)), settle="EUR")
    book = Book(Risk(Policy(), eur, {"X": x}))
    row = book.open_row("a", "")
    book.set_position(row, 0, 0, 648, -38_880)
    book.set_wallet(row, 0, 2_046_215)
    assert try_put_mark(book, 0, 47, 1) == []
    assert try_put_mark(book, 0, 12_390, 2) == []
    assert try_put_mark(book, 0, 47, 3) == []
    assert try_put_mark(book, 0, 12_391, 4) == [row]


def test_coin_contract_worth_less_than_a_unit_can_be_shared_for():
    """5 dollars at a price of 383 of them in steps of 1e-8: a hundredth of a unit, with nothing to lose."""
    crowd = Crowd(Random("dust"), rows=1, scale=Scale(10**8, 1000))
    book, usd = crowd.book, crowd.book.asset_index["USD"]
    book.set_policy(Policy())
    book.set_instrument(replace(plain_contract("DUST", ONE_TIER), kind="inverse", value_num=10**8))
    row, symbol = book.open_row("b", ""), book.symbol_index["DUST"]
    book.set_position(row, symbol, 0, 5, 0)
    try_put_mark(book, symbol, 38_316_420_204, 1)
    for balance in range(40):
        book.set_wallet(row, usd, balance)
        try_put_mark(book, symbol, 38_316_420_204 + balance, 1)
    check_triggers(book)


# ----------------------------------------------------------------------------------------------------------- the tree

CAPACITIES = (16, 32, 240, 256, 272, 1_008, 4_096, 4_112, 5_008)


class Tree:
    """One side of a segment somewhere in an array, beside the plain list of its keys."""

    def __init__(self, random: Random, capacity: int) -> None:
        self.random, self.capacity, self.base = random, capacity, random.randrange(40)
        self.side = random.randrange(2)
        end = self.base + segment_size(capacity)
        self.keys = np.full((2, end + 9), 7, dtype=np.float32)
        self.keys[:, self.base : end] = NEVER
        self.plain = [float(NEVER)] * capacity

    @property
    def place(self) -> tuple[Any, int, int, int]:
        return self.keys, self.side, self.base, self.capacity

    def put(self, slot: int, key: float) -> None:
        put_key(*self.place, slot, np.float32(key))
        self.plain[slot] = float(np.float32(key))

    def draw(self) -> float:
        """Return a key: one of a few, so that many are equal, any, or one of the trivial ones."""
        random = self.random
        return random.choice((random.randint(-3, 3), random.gauss(0, 1e6), float(ALWAYS), float(NEVER)))

    def check(self) -> None:
        """The maxima are those of the keys, each slot at a price or above it is found, and nothing else was written."""
        assert top_key(*self.place) == max(self.plain)
        prices = [self.draw() for _ in range(4)] + self.random.sample(self.plain, 4)
        for price in prices:
            slot = self.random.randrange(self.capacity + 1)
            expected = next((at for at in range(slot, self.capacity) if self.plain[at] >= price), -1)
            assert next_crossed(*self.place, slot, price) == expected
        price = self.random.choice(prices)
        assert self.crossed(price) == [slot for slot, key in enumerate(self.plain) if key >= price]
        end = self.base + segment_size(self.capacity)
        outside = np.concatenate((self.keys[:, : self.base], self.keys[:, end:]), axis=1)
        assert (outside == 7).all()
        assert (self.keys[1 - self.side, self.base : end] == NEVER).all()

    def crossed(self, price: float) -> list[int]:
        """Return all slots with a key at a price or above it, as the index walks them."""
        found, slot = [], next_crossed(*self.place, 0, price)
        while slot >= 0:
            found.append(slot)
            slot = next_crossed(*self.place, slot + 1, price)
        return found


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_tree_finds_what_a_plain_list_finds(capacity):
    random = Random(f"{SEED} tree {capacity}")
    tree = Tree(random, capacity)
    tree.check()
    for _ in range(60):
        for _ in range(random.choice((1, 3, capacity // 4))):
            tree.put(random.randrange(capacity), tree.draw())
        tree.check()


@pytest.mark.parametrize("capacity", CAPACITIES[:5])
def test_price_finds_each_slot_once_whichever_of_its_keys_it_reaches(capacity):
    """Keys so near to each other, or the wrong way round, that a price may lie beyond both of a slot's."""
    random = Random(f"{SEED} both sides {capacity}")
    store = TableStore()
    store.add_symbol(np.array([0, 1, 1], dtype=np.int64), 0)
    store.reserve_holders(0, capacity)
    symbol = store.symbols[0]
    base = int(symbol[BASE])
    for slot in range(capacity):
        for side in range(2):
            put_key(store.keys, side, base, capacity, slot, np.float32(random.randint(10, 70) * (1, -1)[side]))
    # Room for what would be wrong.
    found = np.zeros(2 * capacity, dtype=np.int32)
    low, high = store.keys[:, base : base + capacity] * [[1], [-1]]
    both = 0
    for price in range(1, 80):
        symbol[PRICE] = price
        count = crossed_into(store.view, symbol, found)
        assert sorted(found[:count].tolist()) == np.flatnonzero((price <= low) | (price >= high)).tolist()
        both += int(((price <= low) & (price >= high)).sum())
    assert both > capacity


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_maxima_built_at_once_are_those_kept_one_by_one(capacity):
    random = Random(f"{SEED} maxima {capacity}")
    tree, built = Tree(random, capacity), Tree(random, capacity)
    for slot in range(capacity):
        tree.put(slot, random.gauss(0, 1e6))
    built.plain = tree.plain
    built.keys[built.side, built.base : built.base + capacity] = tree.plain
    build_maxima(*built.place)
    built.check()
    size = segment_size(capacity)
    one, other = (some.keys[some.side, some.base : some.base + size] for some in (tree, built))
    assert (one == other).all()


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_removed_keys_leave_the_next_largest_at_the_top(capacity):
    random = Random(f"{SEED} removal {capacity}")
    tree = Tree(random, capacity)
    slots = random.sample(range(capacity), 16)
    for rank, slot in enumerate(slots):
        tree.put(slot, 100 - rank)
    for rank, slot in enumerate(slots):
        assert top_key(*tree.place) == 100 - rank
        tree.put(slot, float(NEVER))
    assert top_key(*tree.place) == NEVER


def test_segments_keep_their_keys_wherever_they_are_moved():
    """Symbols and assets grow in turn, so that each is moved past the others, and all are packed again and again."""
    random = Random(f"{SEED} segments")
    store, known = TableStore(), dict[tuple[str, int], list[float]]()
    store.reserve_rows(5)
    packed = 0
    for step in range(300):
        arrays = store.keys
        match random.randrange(5):
            case 0 if len(store.symbols) < 12:
                store.add_symbol(np.array([0, 1, 1], dtype=np.int64), 0)
                known["symbol", len(store.symbols) - 1] = []
            case 1 if len(store.assets) < 5:
                store.add_asset()
                store.set_fixed(len(store.assets) - 1, is_fixed=False)
                known["asset", len(store.assets) - 1] = [float(NEVER)] * 2 * len(store.rows)
            case 2 if len(store.symbols):
                symbol = random.randrange(len(store.symbols))
                store.reserve_holders(symbol, random.randint(1, 700))
            case 3 if len(store.rows) < 2_000:
                store.reserve_rows(len(store.rows) + random.choice((0, 1, 40)))
            case _ if known:
                name, index = random.choice(list(known))
                base, capacity, _ = (store.symbols if name == "symbol" else store.assets)[index, SEGMENT].tolist()
                for side in range(2 if capacity else 0):
                    put_key(store.keys, side, base, capacity, random.randrange(capacity), np.float32(random.random()))
                known[name, index] = keys_of(store, name, index)
        packed += arrays is not store.keys
        for (name, index), keys in known.items():
            found = keys_of(store, name, index)
            assert found[: len(keys)] == keys, (SEED, step, name, index)
            assert set(found[len(keys) :]) <= {float(NEVER)}
            known[name, index] = found
            check_segment(store, name, index)
    assert packed > 10


def keys_of(store: TableStore, name: str, index: int) -> list[float]:
    """Return the keys of a segment, both sides of a slot together."""
    base, capacity, _ = (store.symbols if name == "symbol" else store.assets)[index, SEGMENT].tolist()
    keys: list[float] = store.keys[:, base : base + capacity].T.ravel().tolist()
    return keys


def check_segment(store: TableStore, name: str, index: int) -> None:
    """The maxima of a segment lead to its largest key, and it lies within the arrays, beside the others."""
    base, capacity, _ = (store.symbols if name == "symbol" else store.assets)[index, SEGMENT].tolist()
    if capacity == 0:
        return
    assert base + segment_size(capacity) <= store.used <= store.keys.shape[1] == len(store.holders)
    for side in range(2):
        largest = store.keys[side, base : base + capacity].max()
        assert top_key(store.keys, side, base, capacity) == largest
        slot = next_crossed(store.keys, side, base, capacity, 0, float(largest))
        assert store.keys[side, base + slot] == largest


# ------------------------------------------------------------------------------------------------------------- growth


def test_book_that_grows_from_nothing_passes_nobody_by():
    """Accounts, symbols that sort before all others, assets: each added to a book that is in use."""
    random = Random(f"{SEED} growth")
    crowd = Crowd(random, rows=0, scale=SCALES[2])
    book = crowd.book
    for step in range(400):
        match random.randrange(16):
            case 0 | 1 | 2:
                crowd.add_row(f"b{step}")
            case 3 if len(book.instruments) < 40:
                crowd.add_symbol(f"A{999 - step:03}")
            case 4 if len(book.assets) < 9:
                crowd.add_asset(Asset(f"N{step}", weights=crowd.draw_weights()))
            case 5 | 6 | 7 | 8 if len(book.accounts) > 1:
                crowd.act()
            case _:
                place, found = crowd.move()
                assert found == crowd.in_need(place), (SEED, step, place)
                answer(crowd, found)
        check_triggers(book)
        assert all(is_in_order(book, row) for row in range(len(book.accounts)))
    assert len(book.accounts) > 60
    assert len(book.instruments) > 15


@pytest.mark.parametrize("scale", SCALES[1:3], ids=lambda scale: f"{scale.worth:,}")
def test_accounts_that_open_and_close_for_long_in_many_symbols_are_passed_by_by_nobody(scale):
    """Rows of up to fifty positions and legs fill and empty in turn, while accounts, symbols and assets are added."""
    random = Random(f"{SEED} churn {scale.worth}")
    crowd = Crowd(random, rows=4, scale=scale)
    book, grown, most, emptied, moved = crowd.book, Counter[str](), 0, 0, 0
    arrays = book.tables.view.arrays()
    for step in range(6_000):
        is_filling = step // 500 % 2 == 0
        if step % 40 == 0 and len(book.instruments) < 46:
            crowd.add_symbol(f"{random.choice('ABTZ')}{step}")
        if step % 60 == 0:
            crowd.add_row(f"b{step}")
        if step % 600 == 0 and len(book.assets) < 9:
            crowd.add_asset(Asset(f"N{step}", weights=crowd.draw_weights()))
        # Some accounts trade much more than others.
        row = 1 + int((len(book.accounts) - 1) * random.random() ** 4)
        mine = book.positions_of(row)
        if mine and random.random() < (0.1 if is_filling else 0.9):
            symbol, leg = random.choice(mine)
            price = crowd.price(("mark", symbol)) or crowd.starts["mark", symbol]
            ledger.fill(book, row, symbol, leg, -book.position(row, symbol, leg)[0], price)
            emptied += len(mine) == 1
        elif book.buckets[row] == "":
            crowd.trade(row, random.randrange(len(book.instruments)))
        if step % 20 == 0:
            place, found = crowd.move()
            assert found == crowd.in_need(place), (SEED, scale, step, place)
            moved += len(found)
            crowd.tune(row)
        if step % 100 == 0:
            check_triggers(book)
        most, before, arrays = max(most, len(mine)), arrays, book.tables.view.arrays()
        grown.update(name for name, array in arrays.items() if array is not before[name])
    check_triggers(book)
    # Or little of it would have been tried.
    assert most > 32
    assert min(emptied, moved) > 20, (emptied, moved)
    assert all(grown[name] > 3 for name in arrays if name != "settings"), grown


def is_in_order(book: Book, row: int) -> bool:
    """Return whether a row's positions stand by symbol name, then leg."""
    names = [(book.instruments[symbol].symbol, leg) for symbol, leg in book.positions_of(row)]
    return names == sorted(names)


def test_row_with_more_positions_than_fit_in_one_call_is_read_whole():
    """Seventy symbols held both ways: 140 positions."""
    crowd = Crowd(Random("many"), rows=1, scale=SCALES[1])
    book = crowd.book
    row = book.open_row("b", "")
    expected = []
    for number in range(70):
        crowd.add_symbol(f"M{number:02}")
        symbol = len(book.instruments) - 1
        for leg, size in ((2, -1), (1, 1)):
            book.set_position(row, symbol, leg, size, 0)
        expected += [(symbol, 1), (symbol, 2)]
        crowd.put(("mark", symbol), crowd.starts["mark", symbol])
    assert book.positions_of(row) == expected
    assert book.standing(row) == crowd.standing(row)
    check_triggers(book)


def test_price_that_becomes_fixed_has_keys_no_more_and_gets_them_back():
    """COIN is fixed at 100 and set free again: 1 COIN less 80 owed carries 10, called at 80 % of 10, at 89."""
    desk = Desk(assets={"COIN": {}})
    desk.tell(mark("100"), asset_price("COIN", "100"), deposit("a", "1", "COIN"), withdraw("a", "80"))
    desk.tell(buy("a", "1", "100"))
    book, coin = desk.shard.book, desk.shard.book.asset_index["COIN"]
    row = desk.row("a")
    for price in (None, 100 * UNIT, None):
        book.set_asset(replace(book.assets[coin], price_units=price))
        assert row not in reprice_all(book)
        share_stale(book.tables.view)
        check_triggers(book)
        assert (("price", coin) in safe_prices(book, row)) == (price is None)
        assert (book.tables.assets[coin, CAPACITY] > 0) == (price is None)
    # 81.25 - 80 are the 1.25 that 1 of margin may be 80 % of.
    assert set(try_put_asset_price(book, coin, 8_126 * UNIT // 100, 1) or []) == set()
    assert set(try_put_asset_price(book, coin, 8_125 * UNIT // 100, 2) or []) == {row}


# ----------------------------------------------------------------------------------------------- the edge of 64 bits


def edge_book(equity: int, *, size: int) -> Book:
    """Return a book of three: a crowd of one, then one with so much equity at a mark of 100, then nobody of note.

    X is worth its price in units, COIN is free and counts in full; each row has 100 COIN at 1.
    """
    assets = {"USD": Asset("USD", price_units=UNIT), "COIN": Asset("COIN")}
    book = Book(Risk(Policy(), assets, {"X": plain_contract("X", (Tier(0, 0, PPM),))}))
    book.set_mark(0, 100, 1, is_seen=True)
    book.set_asset_price(1, UNIT, 1, is_seen=True)
    for account, own in (("a", 9_210_000_000_000_000_000), ("b", equity), ("c", 500)):
        row = book.open_row(account, "")
        book.set_position(row, 0, 0, size, -100 * size)
        book.set_wallet(row, 1, 100 if size > 0 else -100)
        book.set_wallet(row, 0, own - (100 if size > 0 else -100))
    return book


def memory(book: Book) -> list[Any]:
    """Return all that a price may change."""
    rows = range(len(book.accounts))
    prices = [replace(price) for price in (*book.marks, *book.asset_prices)]
    tables = book.tables
    return [
        prices,
        [book.standing(row) for row in rows],
        [book.flags(row) for row in rows],
        tables.symbols[:, PRICE].tolist(),
        tables.assets[:, PRICE].tolist(),
        tables.rows[: len(book.accounts), [UNPRICED, COLD]].tolist(),
    ]


@pytest.mark.parametrize("what", ["mark", "asset price"])
@pytest.mark.parametrize(("equity", "size"), [(INT64_MAX - 100, 1), (-INT64_MAX + 100, -1)], ids=["gain", "loss"])
def test_price_that_takes_an_equity_out_of_64_bits_is_refused(what, equity, size):
    # 100 becomes 200: equity grows (falls) by 100 - to the last number there is, or past it.
    for beyond, is_borne in ((0, True), (1, False)):
        book = edge_book(equity + beyond * size, size=size)
        before = memory(book)
        rows = try_put_mark(book, 0, 200, 2) if what == "mark" else try_put_asset_price(book, 1, 2 * UNIT, 2)
        assert (rows is not None) == is_borne
        assert (memory(book) == before) != is_borne
        if is_borne:
            assert book.equity(2) == size * INT64_MAX
            assert rows == ([2] if size < 0 else [])
        check_triggers(book)


def test_price_is_borne_where_only_the_parts_of_a_row_are_vast():
    """Both legs of a hedge gain and lose 8e18: no sum of any row leaves 64 bits, only those of different rows would."""
    book = edge_book(0, size=1)
    row = book.open_row("d", "")
    for leg, size in ((1, 4 * 10**16), (2, -4 * 10**16)):
        book.set_position(row, 0, leg, size, -100 * size)
    assert try_put_mark(book, 0, 220, 2) is not None
    assert book.equity(row) == 0
    assert book.held_values(row, 0, 1)[0] == 4_800_000_000_000_000_000


# --------------------------------------------------------------------------------------------------- machines


def test_machine_over_the_demos_crash_says_what_one_says_that_looks_at_everybody(tmp_path):
    risk = load_risk(None)
    book, events = write_market(tmp_path, risk, accounts=400, seed=7)
    options = ReplayOptions(events=[events], risk=risk, book=book, venue="book", show_progress=False)
    messages = list(merge(open_logs(options)))
    said = compare_machines(new_shard(options), new_shard(options), messages)
    assert said > 1_000


@pytest.mark.parametrize("seed", range(100, 112))
def test_machine_over_a_simulated_market_says_what_one_says_that_looks_at_everybody(seed):
    plan = run_seed(seed, 300).plan
    compare_machines(shard_of(plan), shard_of(plan), messages_of(plan))


@pytest.mark.parametrize("path", sorted(FAILURES.glob("*.jsonl")), ids=lambda path: path.stem)
def test_machine_over_a_market_that_broke_a_law_says_what_one_says_that_looks_at_everybody(path: Path):
    plan = read_plan(path)
    compare_machines(shard_of(plan), shard_of(plan), messages_of(plan))


def messages_of(plan: Plan) -> list[Message]:
    return [message_of(line, number) for number, line in enumerate(plan.lines, start=1)]


def shard_of(plan: Plan) -> Shard:
    venue = VENUES[plan.venue]
    shard = Shard(risk_of(plan.risk), venue=venue() if venue is not None else None)
    if plan.book is not None:
        load_document(shard, plan.book, "plan")
    return shard


def compare_machines(shard: Shard, scanned: Shard, messages: list[Message]) -> int:
    """Apply messages to both; their outputs must be the same bytes, message by message. Return how many there were."""
    scanned.book.is_scanned = True
    one, other, said = Machine(shard), Machine(scanned), 0
    for number, message in enumerate(messages):
        found, expected = lines_of(one.apply([message])), lines_of(other.apply([message]))
        assert found == expected, f"message {number}: {message}"
        said += len(found)
    assert state_hash(shard) == state_hash(scanned)
    return said


def lines_of(outputs: list[Any]) -> list[bytes]:
    return [encode(output.body) for output in outputs]
