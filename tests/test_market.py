"""The made-up crash falls as far as it says, in order of time and on the tick, and hurts whom it should."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest

from engine.core.events import AssetPrice, Funding, Mark, Transfer
from engine.core.params import Risk, build_asset, build_instrument, build_policy
from engine.errors import InputError
from engine.tools.market import SYMBOLS, crash_market, first_asset_prices, first_marks
from engine.tools.synth import make_population

TIERS = [["0", "0.005", "100"], ["50000", "0.01", "50"], ["1000000", "0.05", "10"]]
GRID = {
    "BTCUSDT": ("0.1", "0.001"),
    "ETHUSDT": ("0.01", "0.001"),
    "SOLUSDT": ("0.01", "0.1"),
    "BNBUSDT": ("0.01", "0.01"),
    "XRPUSDT": ("0.0001", "0.1"),
    "DOGEUSDT": ("0.00001", "1"),
    "ADAUSDT": ("0.0001", "1"),
    "AVAXUSDT": ("0.001", "1"),
    "LINKUSDT": ("0.001", "0.01"),
    "LTCUSDT": ("0.01", "0.001"),
}
FIELDS: dict[str, dict[str, Any]] = {
    symbol: {"settle": "USDT", "price_tick": tick, "lot": lot, "tiers": TIERS} for symbol, (tick, lot) in GRID.items()
}
INSTRUMENTS = [build_instrument(symbol, fields) for symbol, fields in FIELDS.items()]
TICKS = 2_000


def exact(number) -> Fraction:
    mantissa, places = number
    return Fraction(mantissa, 10**places)


def crash(seed: int = 1, **changes: Any):
    arguments: dict[str, Any] = {"seed": seed, "symbols": INSTRUMENTS, "ticks": TICKS}
    return list(crash_market(**(arguments | changes)))


def paths(events) -> dict[str, list[Fraction]]:
    """Return the marks of each symbol, in order."""
    marks: dict[str, list[Fraction]] = {}
    for event in events:
        if isinstance(event, Mark):
            marks.setdefault(event.symbol, []).append(exact(event.price))
    return marks


@pytest.fixture(scope="module")
def events():
    return crash(accounts=[f"a{index}" for index in range(500)])


def test_the_table_of_first_prices_covers_what_is_tested():
    assert set(SYMBOLS) == set(GRID)


def test_time_never_runs_backwards_and_each_symbol_ticks_every_second(events):
    times = [event.ts for event in events]
    assert times == sorted(times)
    for symbol in GRID:
        own = [event.ts for event in events if isinstance(event, Mark) and event.symbol == symbol]
        assert len(own) == TICKS
        assert {later - earlier for earlier, later in pairwise(own)} == {1_000_000_000}


def test_every_mark_lies_on_the_tick_in_its_shortest_form(events):
    for event in events:
        if isinstance(event, Mark):
            mantissa, places = event.price
            assert exact(event.price) % Fraction(GRID[event.symbol][0]) == 0
            assert mantissa > 0
            assert places == 0 or mantissa % 10


def test_same_seed_same_events_and_another_seed_others():
    assert crash(7, accounts=["a"] * 100) == crash(7, accounts=["a"] * 100)
    assert crash(7) != crash(8)


def test_the_first_marks_are_those_announced(events):
    announced = first_marks(INSTRUMENTS)
    assert {symbol: marks[0] for symbol, marks in paths(events).items()} == {
        symbol: exact(price) for symbol, price in announced.items()
    }
    assert exact(announced["BTCUSDT"]) == 60_000
    assert first_asset_prices(INSTRUMENTS) == {"BTC": announced["BTCUSDT"], "ETH": announced["ETHUSDT"]}
    assert first_asset_prices(INSTRUMENTS[2:]) == {}


@pytest.mark.parametrize("seed", range(5))
def test_bitcoin_falls_25_to_35_percent_and_the_others_by_their_beta(seed):
    deepest = {symbol: 1 - min(marks) / marks[0] for symbol, marks in paths(crash(seed)).items()}
    assert Fraction("0.25") < deepest["BTCUSDT"] < Fraction("0.35")
    for symbol, (_, beta_milli) in SYMBOLS.items():
        # Twice the noise of about one percent at most.
        assert abs(deepest[symbol] - deepest["BTCUSDT"] * Fraction(beta_milli, 1_000)) < Fraction("0.02")


@pytest.mark.parametrize("seed", range(5))
def test_calm_then_a_gap_of_a_tenth_within_one_tick_then_a_recovery_in_part(seed):
    marks = paths(crash(seed))["BTCUSDT"]
    gap = TICKS * 300 // 1_000
    assert all(abs(mark / marks[0] - 1) < Fraction("0.02") for mark in marks[:gap])
    assert Fraction("0.08") < 1 - marks[gap] / marks[gap - 1] < Fraction("0.12")
    moves = [abs(later / earlier - 1) for earlier, later in pairwise(marks)]
    assert max(moves[: gap - 1] + moves[gap:]) < Fraction("0.01")
    assert Fraction("0.12") < 1 - marks[-1] / marks[0] < Fraction("0.18")


def test_collateral_prices_follow_their_symbol(events):
    last: dict[str, Any] = {}
    seen = []
    for event in events:
        if isinstance(event, Mark):
            last[event.symbol] = event.price
        elif isinstance(event, AssetPrice):
            seen.append(event.asset)
            assert event.price == last[f"{event.asset}USDT"]
    assert seen.count("BTC") == seen.count("ETH") == TICKS // 5


def test_longs_pay_funding_before_the_crash_and_shorts_in_it(events):
    rates = [event.rate for event in events if isinstance(event, Funding) and event.symbol == "BTCUSDT"]
    assert [rate[0] > 0 for rate in rates] == [True, False, False]
    assert sum(isinstance(event, Funding) for event in events) == 3 * len(GRID)


def test_one_account_in_fifty_tops_up_after_the_gap(events):
    deposits = [event for event in events if isinstance(event, Transfer)]
    assert len({deposit.transfer_id for deposit in deposits}) == len(deposits) == 10
    gap_ts = events[0].ts + TICKS * 300 // 1_000 * 1_000_000_000
    for deposit in deposits:
        assert deposit.asset == "USDT"
        assert 0 < exact(deposit.amount) <= 5_000
        assert deposit.ts > gap_ts
    assert not any(isinstance(event, Transfer) for event in crash(ticks=10))


@pytest.mark.parametrize("ticks", [1, 2, 3, 10])
def test_a_short_run_is_cut_to_size(ticks):
    assert all(len(marks) == ticks for marks in paths(crash(ticks=ticks)).values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ticks": 0}, "ticks was 0"),
        ({"interval_ms": 10}, "interval_ms 10"),
        ({"symbols": [build_instrument("NEWUSDT", FIELDS["BTCUSDT"])]}, "NEWUSDT: no first price"),
        ({"symbols": [build_instrument("XRPUSDT", FIELDS["XRPUSDT"] | {"price_tick": "1"})]}, "not on the tick"),
        (
            {
                "symbols": [
                    build_instrument(
                        "XRPUSDT", {"settle": "USDT", "lot": "0.00000001", "price_tick": "1", "tiers": TIERS}
                    )
                ]
            },
            "not on the tick",
        ),
    ],
)
def test_a_market_that_cannot_be_made_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        crash(**changes)


def test_symbols_fit_into_the_shortest_interval_allowed():
    # Ten symbols a millisecond apart and one for what happens beside them.
    times = [event.ts for event in crash(ticks=20, interval_ms=11)]
    assert times == sorted(times)


def test_the_crash_liquidates_a_tenth_of_a_population_and_leaves_some_below_zero(events):
    risk = Risk(
        policy=build_policy({}),
        assets={"USDT": build_asset("USDT", {"price": "1"})},
        instruments={instrument.symbol: instrument for instrument in INSTRUMENTS},
    )
    book = make_population(accounts=1_000, seed=1, first_marks=first_marks(INSTRUMENTS), risk=risk, isolated_ppm=0)
    history = paths(events)
    gap = TICKS * 300 // 1_000
    # At the start, around the gap and down the cascade. No order is filled here, so only the gap, which leaves no time
    # to close anything, tells who falls below zero.
    moments = [0, gap - 1, gap, *range(gap + 100, TICKS * 600 // 1_000, 50)]
    early = caught = below_zero = later = 0
    for account in book["accounts"]:
        if account["positions"]:
            measures = [equity_and_maintenance(account, history, moment) for moment in moments]
            first = next((index for index, (equity, margin) in enumerate(measures) if equity <= margin), len(moments))
            early += first < 2
            caught += first == 2
            below_zero += first == 2 and measures[first][0] < 0
            later += 2 < first < len(moments)
    # Measured for this seed: 1, 43, 38 and 107.
    assert early <= 3
    assert 25 <= below_zero <= caught <= 75
    assert 60 <= later <= 160


def equity_and_maintenance(account, history, moment) -> tuple[Fraction, Fraction]:
    """Return both in USDT, the maintenance at the rate of each position's tier."""
    equity, maintenance = Fraction(account["balances"]["USDT"]), Fraction(0)
    for row in account["positions"]:
        mark = history[row["symbol"]][moment]
        notional = abs(Fraction(row["qty"])) * mark
        equity += Fraction(row["qty"]) * (mark - Fraction(row["entry_price"]))
        maintenance += notional * max(Fraction(rate) for floor, rate, _ in TIERS if Fraction(floor) <= notional)
    return equity, maintenance
