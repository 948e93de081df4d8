"""What the hot path is measured against: the made-up market, ways to follow a mark, loops. No time is judged."""

from __future__ import annotations

import sys
from decimal import Decimal
from itertools import pairwise
from math import gcd
from typing import Any

import numpy as np
import pytest

from benchmarks.hot_c import FullC, HoldersC, compile_c
from benchmarks.hot_market import Market, Path, make_market
from benchmarks.hot_python import event_loops, mark_lines, price_steps, run_orjson, try_msgspec
from benchmarks.hot_ways import CALL_PPM, FullNumba, HoldersNumba, HoldersNumpy, PythonLoop, Way, band_table
from engine.core.events import Mark
from engine.edges.codec import decode
from engine.edges.config import load_risk
from engine.units import POSITION_UNITS_MAX, PPM, UNIT, scaled_half_even, try_number
from tests.reference_kernels import Contract, needs_a_look, position_maintenance

RULE = [0, CALL_PPM, 750_000]
# 1 % of the first $1,000, 5 % of what is above.
TIERS = ((0, 10_000), (1_000 * UNIT, 50_000))
KINDS: tuple[Any, ...] = FullC, FullNumba, HoldersC, HoldersNumba, HoldersNumpy, PythonLoop


@pytest.fixture(scope="module")
def library():
    return compile_c()


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.label)
def make_way(request, library):
    """Each way in turn, as what makes it of a market."""
    kind = request.param
    if kind not in (FullC, HoldersC):
        return kind
    if isinstance(library, str):
        pytest.skip(library)
    return lambda market: kind(market, library)


@pytest.fixture(scope="module")
def market():
    return make_market(accounts=300, symbols=12, seed=3)


@pytest.fixture(scope="module")
def large():
    return make_market(accounts=20_000)


def market_of(accounts: list[tuple[int, dict[int, tuple[int, int]]]], *, marks: list[int], tiers: Any) -> Market:
    """A market by hand: of each account its wallet and, by symbol, size and cost; one tier table for all symbols."""
    table, deduction, rate = [], 0, tiers[0][1]
    for floor, rate_ppm in tiers:
        deduction += floor * (rate_ppm - rate)
        rate = rate_ppm
        table.append((floor, rate_ppm, deduction // PPM, deduction % PPM, PPM))
    held = [
        (row, symbol, *position)
        for row, (_, positions) in enumerate(accounts)
        for symbol, position in positions.items()
    ]
    row, symbol, size, cost = (list(column) for column in zip(*held, strict=True))
    return Market(
        names=[f"S{number}" for number in range(len(marks))],
        price_decimals=[0] * len(marks),
        specs=np.array([(0, 1, 1)] * len(marks)),
        tiers=np.array(table * len(marks), dtype=np.int64),
        tier_base=np.arange(len(marks) + 1) * len(table),
        marks=np.array(marks, dtype=np.int64),
        row=np.array(row, dtype=np.int32),
        symbol=np.array(symbol, dtype=np.int16),
        size=np.array(size, dtype=np.int64),
        cost=np.array(cost, dtype=np.int64),
        row_base=np.cumsum([0, *(len(positions) for _, positions in accounts)]),
        wallet=np.array([wallet for wallet, _ in accounts], dtype=np.int64),
    )


class Oracle:
    """Equity, margin and who needs a look, position by position from the formulas of the contract."""

    def __init__(self, market: Market) -> None:
        self.marks = market.marks.tolist()
        self.contracts = [
            Contract(False, 1, 1, tuple((floor, rate, leverage) for floor, rate, _, _, leverage in tiers))
            for tiers in (market.tiers[begin:end].tolist() for begin, end in pairwise(market.tier_base.tolist()))
        ]
        self.accounts: list[list[tuple[int, int, int]]] = [[] for _ in range(market.accounts)]
        for row, *position in zip(*(array.tolist() for array in positions_of(market)), strict=True):
            self.accounts[row].append(tuple(position))
        self.wallets = market.wallet.tolist()

    def standing(self, row: int) -> tuple[int, int]:
        equity, maintenance = self.wallets[row], 0
        for symbol, size, cost in self.accounts[row]:
            equity += size * self.marks[symbol] + cost
            maintenance += position_maintenance(self.contracts[symbol], size, self.marks[symbol])
        return equity, maintenance

    def mark(self, symbol: int, price: int) -> list[int]:
        self.marks[symbol] = price
        return [
            row
            for row, positions in enumerate(self.accounts)
            if any(held == symbol for held, _, _ in positions) and self.is_in_need(*self.standing(row))
        ]

    @staticmethod
    def is_in_need(equity: int, maintenance: int) -> bool:
        return needs_a_look(
            equity, maintenance, is_priced=True, is_own=False, is_called=False, is_watched=False, rule=RULE
        )


def rows_found(way: Way, symbol: int, price: int) -> list[int]:
    """The rows that a way finds after a mark."""
    return way.rows(way.mark(symbol, price)).tolist()


def take_back(way: Way, market: Market) -> None:
    """Take all marks back to where they began."""
    for symbol, price in enumerate(market.marks.tolist()):
        way.mark(symbol, price)


def positions_of(market: Market) -> tuple[np.ndarray, ...]:
    return market.row, market.symbol, market.size, market.cost


# ------------------------------------------------------------------------------------------------------ the market


def test_positions_lie_by_account_then_symbol_and_no_account_has_none_or_one_twice(large):
    places = large.row.astype(np.int64) * len(large.names) + large.symbol
    assert np.all(np.diff(places) > 0)
    assert np.array_equal(np.unique(large.row), np.arange(20_000))
    assert np.array_equal(large.row_base, np.searchsorted(large.row, np.arange(20_001)))


def test_half_of_the_accounts_hold_the_first_symbol_and_fewer_each_after_it(large):
    holders = np.diff(large.holders().base)
    assert len(holders) == 200
    assert holders[0] / 20_000 == pytest.approx(0.5, abs=0.02)
    tenths = holders.reshape(10, 20).sum(axis=1)
    assert np.all(np.diff(tenths) < 0)
    assert len(large.size) / 20_000 == pytest.approx(4.2, abs=0.1)
    counts = np.diff(large.row_base)
    assert counts.min() == 1
    assert 12 <= counts.max() <= 20


def test_holders_are_the_positions_by_symbol_rows_rising(large):
    base, order = large.holders()
    assert np.array_equal(np.sort(order), np.arange(len(large.size)))
    for symbol in (0, 7, 199):
        own = order[base[symbol] : base[symbol + 1]]
        assert set(large.symbol[own].tolist()) == {symbol}
        assert np.all(np.diff(large.row[own]) > 0)


def test_scales_and_tiers_are_those_of_the_risk_files_linear_instruments_in_turn(large):
    risk = load_risk()
    linear = [instrument for instrument in risk.instruments.values() if instrument.kind == "linear"]
    for symbol in (0, 1, 78, 79, 199):
        instrument = linear[symbol % len(linear)]
        assert large.names[symbol] == f"{instrument.symbol}-{symbol // len(linear) + 1}"
        assert instrument.size_decimals + large.price_decimals[symbol] == 8
        assert large.specs[symbol].tolist() == [0, 1, 1]
        tiers = large.tiers[large.tier_base[symbol] : large.tier_base[symbol + 1], :2].tolist()
        assert tiers == [[tier.floor_units, tier.rate_ppm] for tier in instrument.tiers]
        own = large.size[large.symbol == symbol]
        assert np.all(own % instrument.lot_steps == 0)
        # A lot for a cent to two dollars.
        assert UNIT // 100 <= large.marks[symbol] * instrument.lot_steps <= 2 * UNIT
    assert len(set(large.names)) == 200


def test_nobody_starts_at_the_margin_call_and_one_in_twenty_stands_close_to_it(large):
    equity, maintenance = large.standings(large.marks)
    assert np.all(10 * maintenance < 8 * equity)
    assert np.all(large.wallet >= 0)
    ratio = maintenance / equity
    assert np.mean(ratio > 0.3) == pytest.approx(0.05, abs=0.01)
    assert np.mean(ratio > 0.6) < np.mean(ratio > 0.3) / 5
    assert ratio.max() > 0.75
    assert ratio.min() < 0.004


def test_three_of_five_positions_are_long_and_some_accounts_hedge(large):
    assert np.mean(large.size > 0) == pytest.approx(0.6, abs=0.02)
    value = large.size * large.marks[large.symbol] / UNIT
    net = np.abs(np.add.reduceat(value, large.row_base[:-1]))
    gross = np.add.reduceat(np.abs(value), large.row_base[:-1])
    # One in seven, of which half hold an even number of positions: long and short within a few per cent.
    assert np.mean(net < gross / 20) > 0.05
    notional = np.abs(value)
    assert np.median(notional) == pytest.approx(1_500, rel=0.1)
    assert np.log(notional).std() > 1.5


def test_equal_seeds_make_equal_markets_and_others_do_not(market):
    again, other = make_market(accounts=300, symbols=12, seed=3), make_market(accounts=300, symbols=12, seed=4)
    assert all(map(np.array_equal, positions_of(again), positions_of(market)))
    assert np.array_equal(again.wallet, market.wallet)
    assert not np.array_equal(other.wallet, market.wallet)


def test_of_a_few_symbols_each_is_held_by_half_and_a_share_of_those_who_drew_none():
    few = make_market(accounts=20_000, symbols=3)
    # An account as active as x draws none with (1 - x / 2)**3: 0.195 on average, so each symbol gains a third of that.
    assert np.diff(few.holders().base) / 20_000 == pytest.approx([0.5 + 0.195 / 3] * 3, abs=0.01)


def test_standings_are_the_formulas_of_the_contract(market):
    marks = market.crash(4).prices[-12:]
    equity, maintenance = market.standings(marks)
    oracle = Oracle(market)
    oracle.marks = marks.tolist()
    assert [oracle.standing(row) for row in range(300)] == list(zip(equity.tolist(), maintenance.tolist(), strict=True))


def test_calm_marks_move_each_symbol_in_turn_by_about_a_basis_point(large):
    path = large.calm(rounds=3)
    assert path.symbols.tolist() == list(range(200)) * 3
    moves = np.diff(path.prices.reshape(3, 200), axis=0, prepend=large.marks[None]) / large.marks
    assert moves.std() == pytest.approx(0.0001, rel=0.1)
    assert np.array_equal(path.prices, large.calm(rounds=3).prices)


def test_a_crash_takes_all_symbols_down_together_by_a_tenth_to_three(large):
    prices = large.crash(rounds=10).prices.reshape(10, 200)
    falls = 1 - prices / large.marks
    assert np.all((falls[-1] >= 0.0999) & (falls[-1] <= 0.3001))
    assert falls[-1].min() < 0.11
    assert falls[-1].max() > 0.29
    # Half way in time is half way down.
    assert falls[4] == pytest.approx(falls[-1] / 2, abs=0.01)


def test_a_gap_is_one_mark(large):
    assert list(large.gap(7, 0.2).events()) == [(7, round(int(large.marks[7]) * 0.8))]


# ---------------------------------------------------------------------------------------------------------- the ways


@pytest.mark.parametrize(
    ("wallet", "is_found"), [("12.5", True), ("12.50000001", False), ("10", True), ("9.99999999", True), ("-1", True)]
)
def test_an_account_is_found_from_four_fifths_of_its_equity_on(make_way, wallet, is_found):
    # Ten contracts bought at $100: $1,000 lie in the second tier, which takes 5 % less $40: MM = 10, at E = wallet.
    # The other account holds as much of another symbol and has nothing: a mark of the first is not about it.
    units = int(Decimal(wallet) * UNIT)
    bought = (10, -1_000 * UNIT)
    way = make_way(market_of([(units, {0: bought}), (0, {1: bought})], marks=[90 * UNIT, 100 * UNIT], tiers=TIERS))
    assert rows_found(way, 0, 100 * UNIT) == [0] * is_found


def test_a_short_is_found_as_its_mark_rises_and_let_go_as_it_falls(make_way):
    # Five contracts sold at $100 with a wallet of $20. At 102: notional 510, MM 5.10, E = 20 - 10 = 10.
    # At 103: MM 5.15, E = 5. At 101: MM 5.05, E = 15; at 102.68: MM 5.134, E = 6.6; at 102.72: 5.136 of 6.4.
    way = make_way(market_of([(20 * UNIT, {0: (-5, 500 * UNIT)})], marks=[100 * UNIT], tiers=TIERS))
    assert rows_found(way, 0, 102 * UNIT) == []
    assert rows_found(way, 0, 103 * UNIT) == [0]
    assert rows_found(way, 0, 10_268 * UNIT // 100) == []
    assert rows_found(way, 0, 10_272 * UNIT // 100) == [0]
    assert rows_found(way, 0, 101 * UNIT) == []


def test_a_hedged_account_is_judged_by_both_of_its_symbols(make_way):
    # Long 8 of the first, short 8 of the second, both at $100, wallet $40, MM 16. The first falls to 97: E = 16.
    # The second follows to 97: E = 40 again, and MM 15.52.
    held = {0: (8, -800 * UNIT), 1: (-8, 800 * UNIT)}
    way = make_way(market_of([(40 * UNIT, held)], marks=[100 * UNIT, 100 * UNIT], tiers=TIERS))
    assert rows_found(way, 0, 97 * UNIT) == [0]
    assert rows_found(way, 1, 97 * UNIT) == []


def threshold_market(tiers: tuple[tuple[int, int], ...], price: int, *, before: int) -> tuple[Market, list[int]]:
    """Two accounts for each of many sizes: one whose equity at ``price`` is just low enough, one with a unit more."""
    contract = Contract(False, 1, 1, tuple((floor, rate, PPM) for floor, rate in tiers))
    rng = np.random.default_rng(5)
    sizes = {1, POSITION_UNITS_MAX // price, *(POSITION_UNITS_MAX // price >> shift for shift in range(0, 50, 3))}
    for floor, _ in tiers[1:]:
        # The smallest size in the tier, the largest below it.
        sizes |= {-(-floor // price), -(-floor // price) - 1}
    # Around 2**63 / rate the product of notional and rate leaves 64 bits.
    for _, rate in tiers:
        edge = 2**63 // rate // price
        sizes |= {edge - 1, edge, edge + 1}
    sizes |= set(rng.integers(1, 10**6, 50).tolist())
    # A margin of whole units, and one a millionth above, which costs a unit: in each tier where the rate allows it.
    deduction, rate_before = 0, tiers[0][1]
    for floor, rate in tiers:
        deduction, rate_before = deduction + floor * (rate - rate_before), rate
        if gcd(rate, 10) == 1:
            for rest in (0, 1):
                size = (deduction + rest) * pow(rate * price, -1, PPM) % PPM
                for least in (floor, max(floor, POSITION_UNITS_MAX // 2)):
                    sizes.add(size + -(-(least - size * price) // (price * PPM)) * PPM)
    accounts = []
    for number, size in enumerate(sorted(size for size in sizes if 0 < size * price <= POSITION_UNITS_MAX)):
        signed = size if number % 3 else -size
        most = position_maintenance(contract, signed, price) * PPM // CALL_PPM
        accounts += [(most + more, {0: (signed, -signed * price)}) for more in (0, 1)]
    return market_of(accounts, marks=[before], tiers=tiers), list(range(0, len(accounts), 2))


@pytest.mark.parametrize("symbol", ["BTCUSDT", "SOLUSDT", "ICPUSDT", "odd rates"])
@pytest.mark.parametrize("price", [99_999_989, 7_919])
def test_margins_are_exact_to_the_unit_from_one_step_to_forty_billion_dollars(make_way, symbol, price):
    tiers: tuple[tuple[int, int], ...] = ((0, 4_001), (1_000 * UNIT, 33_333), (10**7 * UNIT, 500_001))
    if symbol != "odd rates":
        tiers = tuple((tier.floor_units, tier.rate_ppm) for tier in load_risk().instruments[symbol].tiers)
    # From nearly half the price: many positions change their tier with the mark.
    market, expected = threshold_market(tiers, price, before=price * 5 // 9)
    assert len(expected) > 60
    assert rows_found(make_way(market), 0, price) == expected


def test_every_way_finds_what_the_formulas_find_through_calm_crash_and_gap(market, make_way):
    way, found = make_way(market), 0
    for path in (market.calm(3), market.crash(6), market.gap(0, 0.2)):
        oracle = Oracle(market)
        for symbol, price in path.events():
            expected = oracle.mark(symbol, price)
            assert rows_found(way, symbol, price) == expected
            found += len(expected)
        take_back(way, market)
    assert found > 500


def test_bands_cut_tiers_where_the_product_with_the_rate_leaves_64_bits(market):
    bands, base = band_table(market)
    for symbol, (begin, end) in enumerate(pairwise(base)):
        own = bands[begin:end].tolist()
        assert [row[1] for row in own] == [0, *(row[2] for row in own[:-1])]
        assert own[-1][2] == 2**63 - 1
        for _, floor, ceiling, rate, _, wide, *_ in own:
            assert wide == ((ceiling - 1) * rate > 2**63 - 1)
            assert wide == (floor * rate > 2**63 - 1)
        floors = market.tiers[market.tier_base[symbol] : market.tier_base[symbol + 1], 0].tolist()
        assert set(floors) <= {row[1] for row in own}


@pytest.mark.parametrize("kind", [HoldersNumba, HoldersNumpy])
def test_what_passes_over_holders_keep_is_what_positions_and_marks_say(market, kind):
    way, path = kind(market), market.crash(4)
    for symbol, price in path.events():
        way.mark(symbol, price)
    assert all(map(np.array_equal, way.standings(), market.standings(path.prices[-12:])))
    # Back at the first marks, each sum is again what it was.
    take_back(way, market)
    assert all(map(np.array_equal, way.standings(), market.standings(market.marks)))


def test_who_is_found_is_found_no_more_once_it_has_deposited_enough(make_way, market):
    way, (symbol, price) = make_way(market), next(market.gap(0, 0.2).events())
    rows = way.rows(way.mark(symbol, price))
    assert len(rows) > 10
    way.deposit(rows[1:], np.full(len(rows) - 1, 10**18))
    assert rows_found(way, symbol, price) == rows[:1].tolist()


def test_bytes_count_every_array_a_way_holds(market):
    count, rows = len(market.size), market.accounts
    holders = HoldersNumpy(market)
    # A position: row 4, size, its magnitude and margin 8 each. An account: equity and margin.
    assert holders.bytes_held() == 28 * count + 16 * rows
    numba = HoldersNumba(market)
    # A position: row 4, size and margin 8 each, band 2. An account: 16 of standing, 4 to write its row to.
    assert numba.bytes_held() == 22 * count + 20 * rows + 4 * 32 + numba.bands.nbytes
    # A pair, a size and a row of some 30 bytes at the very least for each position.
    assert PythonLoop(market).bytes_held() > 100 * count


# ---------------------------------------------------------------------------------------------------------- the loops


def test_lines_decode_to_the_marks_of_the_path(market):
    path = market.crash(2)
    lines = mark_lines(market, path)
    assert len(lines) == 24
    before = 0
    for line, (symbol, price) in zip(lines, path.events(), strict=True):
        event = decode(line)
        assert isinstance(event, Mark)
        assert event.symbol == market.names[symbol]
        assert scaled_half_even(event.price, market.price_decimals[symbol]) == price
        assert event.ts > before
        before = event.ts


def run_both_ways(loop: Any, market: Market, path: Path) -> None:
    """Have a loop bring the lines of a path to a list: it holds the path."""
    marks: list[tuple[int, int]] = []
    times = loop(mark_lines(market, path), market, lambda symbol, price: marks.append((symbol, price)))
    assert marks == list(path.events())
    assert times.shape == (len(marks),)
    assert np.all(times > 0)


def test_orjson_brings_every_mark_in_order(market):
    run_both_ways(run_orjson, market, market.crash(3))


def test_msgspec_brings_every_mark_in_order(market):
    pytest.importorskip("msgspec")
    run_both_ways(try_msgspec(), market, market.crash(3))


def test_orjson_passes_over_what_is_no_mark(market):
    marks: list[tuple[int, int]] = []
    lines = [b'{"type":"pause","scope":"all","reason":"x","ts":1}', *mark_lines(market, market.gap(2, 0.1))]
    run_orjson(lines, market, lambda symbol, price: marks.append((symbol, price)))
    assert marks == list(market.gap(2, 0.1).events())


def test_without_msgspec_its_loop_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "msgspec", None)
    assert event_loops() == {"orjson per event": run_orjson, "msgspec per event": "msgspec is not installed"}


@pytest.mark.parametrize(
    ("text", "decimals", "steps"),
    [
        ("60000.1", 3, 60_000_100),
        ("0.00012345", 8, 12_345),
        ("7", 2, 700),
        ("7.000", 2, 700),
        # Half a step goes to the even one.
        ("1.25", 1, 12),
        ("1.35", 1, 14),
        ("1.2500001", 1, 13),
    ],
)
def test_a_price_becomes_steps_as_the_engine_scales_it(text, decimals, steps):
    number = try_number(text)
    assert number is not None
    assert price_steps(text, decimals) == scaled_half_even(number, decimals) == steps


@pytest.mark.parametrize(
    "text", ["", ".", ".5", "5.", "+1", "-1", "1e3", "1_000", " 1", "1 ", "1.2.3", "NaN", "١", "1.٢"]
)
def test_a_price_that_is_no_plain_decimal_is_refused(text):
    with pytest.raises(ValueError, match="not a plain decimal"):
        price_steps(text, 2)
