"""A made-up market as plain arrays, large enough to weigh ways of following a mark: a million accounts in seconds.

Units are the engine's: sizes and prices in steps whose decimals add up to 8, money in 1e-8 of the settlement asset,
rates in parts per million. All contracts are linear with a multiplier of 1 and settle in an asset at price 1, so a
position is worth ``size x mark + cost`` and every figure here is exact. Chance comes from one seed; floats only draw.

* **Symbols**: instruments of the shipped risk file in turn, with their scales and tiers; a lot is worth $0.01 to $2.
* **Holders**: half of the accounts hold the first symbol, the others fall off by a power of their rank, such that an
  account has 4.2 positions on average. An account is more or less active: it holds from 1 to about 15.
* **Sizes**: log-normal, an account's own scale (median $1,500) times each position's.
* **Sides**: an account is a bull (two of three) or a bear, and four of five positions follow: 60 % are long. One
  account in seven is hedged: equal notionals, long and short in turn.
* **Health**: MM / E of one account in twenty lies between 0.3 and 0.79, the fewer the higher: who stands there is
  called or out of it within hours. That of the others lies below, by its logarithm, down to 0.003. Nobody is at the
  margin call's 0.8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.core.book import spec_row, tier_table
from engine.core.kernels.margin import DEDUCTION, DEDUCTION_PPM, FLOOR, RATE, VALUE_NUM
from engine.core.params import Instrument, Risk
from engine.edges.config import load_risk
from engine.units import INT64_MAX, PPM, UNIT

Int64Array = npt.NDArray[np.int64]
Rng = np.random.Generator

SYMBOLS = 200
TOP_SHARE = 0.5
# Drawn on average; who drew no position is given one, and then it is 4.2.
POSITIONS_DRAWN = 4.155
# How active the least and the most active accounts are; twice as active as the average is as far as TOP_SHARE allows.
ACTIVITY = (0.25, 1.75)
LOT_USD = (0.01, 2)
SCALE_USD, SCALE_SIGMA, POSITION_SIGMA = 1_500, 1.7, 0.7
NOTIONAL_USD = (5, 20_000_000)
BULLS, VIEW_FOLLOWED, HEDGED = 2 / 3, 0.8, 1 / 7
HEDGE_SIGMA = 0.05
ENTRY_SIGMA, ENTRY_MAX = 0.04, 0.2
HOT_SHARE, HOT_RATIO, CALM_RATIO = 0.05, (0.3, 0.79), (0.003, 0.3)
# One tick of a calm market, and the noise of a crashing one.
TICK_SIGMA = 0.0001
CRASH_SIGMA = 0.002
# How far a symbol falls for each per cent of the index.
BETA = (0.5, 1.5)


class Path(NamedTuple):
    """Marks in the order in which they come: which symbol, and its new mark in price steps."""

    symbols: Int64Array
    prices: Int64Array

    def events(self) -> Iterator[tuple[int, int]]:
        """Yield (symbol, price) as plain ints."""
        return zip(self.symbols.tolist(), self.prices.tolist(), strict=True)


class Holders(NamedTuple):
    """Positions by symbol: those of symbol s are ``order[base[s] : base[s + 1]]``, rows rising."""

    base: Int64Array
    order: Int64Array


@dataclass(frozen=True, slots=True)
class Market:
    """Who holds what at which marks.

    names, price_decimals   of each symbol
    specs      int64[symbol, 3]  as in ``engine/core/kernels/margin.py``
    tiers      int64[tier, 5]    of all symbols, those of s from ``tier_base[s]`` to ``tier_base[s + 1]``
    marks      int64[symbol]     price steps
    row, symbol, size, cost      of each position, by row, then symbol; an account has one a symbol at most
    row_base   int64[row + 1]    where a row's positions begin and end
    wallet     int64[row]        units of the settlement asset
    """

    names: list[str]
    price_decimals: list[int]
    specs: Int64Array
    tiers: Int64Array
    tier_base: Int64Array
    marks: Int64Array
    row: npt.NDArray[np.int32]
    symbol: npt.NDArray[np.int16]
    size: Int64Array
    cost: Int64Array
    row_base: Int64Array
    wallet: Int64Array

    @property
    def accounts(self) -> int:
        """How many rows there are."""
        return len(self.wallet)

    def holders(self) -> Holders:
        """Return the positions by symbol."""
        base = np.zeros(len(self.names) + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.symbol, minlength=len(self.names)), out=base[1:])
        return Holders(base, np.argsort(self.symbol, kind="stable"))

    def standings(self, marks: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return each row's equity and maintenance margin at given marks, in units."""
        value = self.size * (marks * self.specs[:, VALUE_NUM])[self.symbol]
        equity = np.add.reduceat(value + self.cost, self.row_base[:-1]) + self.wallet
        return equity, np.add.reduceat(self.margins(np.abs(value)), self.row_base[:-1])

    def margins(self, notional: Int64Array) -> Int64Array:
        """Return the maintenance margin of each position at its notional: n x rate - deduction, rounded up once."""
        tier = self.tier_base[self.symbol]
        for floors in self.upper_floors():
            tier += notional >= floors[self.symbol]
        chosen = self.tiers[tier]
        rate, millions = chosen[:, RATE], notional // PPM
        rest = (notional - millions * PPM) * rate - chosen[:, DEDUCTION_PPM]
        return millions * rate - chosen[:, DEDUCTION] + ppm_up(rest)

    def upper_floors(self) -> Iterator[Int64Array]:
        """Yield each symbol's second floor, then its third and so on; int64's end where a symbol has no such tier."""
        counts = np.diff(self.tier_base)
        for index in range(1, int(counts.max())):
            place = np.minimum(self.tier_base[:-1] + index, len(self.tiers) - 1)
            yield np.where(index < counts, self.tiers[place, FLOOR], INT64_MAX)

    def calm(self, rounds: int, seed: int = 1) -> Path:
        """Return marks that wander by about a basis point each, all symbols in turn."""
        rng = np.random.default_rng(seed)
        return self._in_turn(np.cumsum(rng.normal(0, TICK_SIGMA, (rounds, len(self.marks))), axis=0))

    def crash(self, rounds: int, fall: float = 0.2, seed: int = 1) -> Path:
        """Return marks that end ``fall`` lower on average, each symbol's by half to one and a half times as much."""
        rng = np.random.default_rng(seed)
        falls = fall * rng.uniform(*BETA, len(self.marks))
        steps = np.log1p(-falls * np.linspace(1 / rounds, 1, rounds)[:, None])
        noise = rng.normal(0, CRASH_SIGMA, steps.shape)
        noise[-1] = 0
        return self._in_turn(steps + noise)

    def gap(self, symbol: int, fall: float) -> Path:
        """Return one mark of one symbol that lies ``fall`` lower."""
        price = round(int(self.marks[symbol]) * (1 - fall))
        return Path(np.array([symbol], dtype=np.int64), np.array([price], dtype=np.int64))

    def _in_turn(self, logs: npt.NDArray[np.float64]) -> Path:
        prices = np.maximum(1, np.rint(self.marks * np.exp(logs))).astype(np.int64)
        return Path(np.tile(np.arange(len(self.marks)), len(logs)), prices.ravel())


def ppm_up(amounts: Int64Array) -> Int64Array:
    """Return amounts of a millionth of a unit in units, rounded up."""
    return -(-amounts // PPM)


def make_market(*, accounts: int, symbols: int = SYMBOLS, seed: int = 1) -> Market:
    """Return a market of so many accounts and symbols; equal arguments give equal arrays."""
    rng = np.random.default_rng(seed)
    risk = load_risk()
    plain = [instrument for instrument in risk.instruments.values() if is_plain(instrument, risk)]
    instruments = [plain[index % len(plain)] for index in range(symbols)]
    lots = np.array([instrument.lot_steps for instrument in instruments], dtype=np.int64)
    marks = np.rint(UNIT * draw_logarithm(rng, LOT_USD, symbols) / lots).astype(np.int64)
    tables = [tier_table(instrument, is_whole=False) for instrument in instruments]
    row, symbol = draw_holdings(rng, accounts, holding_chances(symbols))
    row_base = np.zeros(accounts + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=accounts), out=row_base[1:])
    size = draw_sizes(rng, row, row_base, lots[symbol], marks[symbol])
    market = Market(
        names=[f"{instrument.symbol}-{index // len(plain) + 1}" for index, instrument in enumerate(instruments)],
        price_decimals=[instrument.price_decimals for instrument in instruments],
        specs=np.array([spec_row(instrument) for instrument in instruments]),
        tiers=np.concatenate(tables),
        tier_base=np.cumsum([0, *map(len, tables)], dtype=np.int64),
        marks=marks,
        row=row,
        symbol=symbol,
        size=size,
        cost=-size * draw_entries(rng, marks[symbol]),
        row_base=row_base,
        wallet=np.zeros(accounts, dtype=np.int64),
    )
    fund_wallets(market, draw_ratios(rng, accounts))
    return market


def is_plain(instrument: Instrument, risk: Risk) -> bool:
    """Return whether a position is worth ``size x mark + cost`` units of the valuation currency."""
    is_linear = not instrument.is_inverse and (instrument.value_num, instrument.value_den) == (1, 1)
    return is_linear and risk.assets[instrument.settle].price_units == UNIT


def holding_chances(symbols: int) -> npt.NDArray[np.float64]:
    """Return which part of the accounts holds each symbol: TOP_SHARE / rank**a, adding up to POSITIONS_DRAWN.

    With fewer symbols than that takes, all are held by TOP_SHARE.
    """
    rank = np.arange(1, symbols + 1)
    low, high = 0.0, 4.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if TOP_SHARE * np.sum(rank**-middle) > POSITIONS_DRAWN else (low, middle)
    return np.asarray(TOP_SHARE * rank**-low)


def draw_holdings(
    rng: Rng, accounts: int, chances: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int16]]:
    """Return row and symbol of each position, by row, then symbol."""
    activity = rng.uniform(*ACTIVITY, accounts).astype(np.float32)
    held = [np.flatnonzero(rng.random(accounts, dtype=np.float32) < chance * activity) for chance in chances]
    counts = np.zeros(accounts, dtype=np.int64)
    for rows in held:
        counts[rows] += 1
    without = np.flatnonzero(counts == 0)
    given = rng.choice(len(chances), len(without), p=chances / chances.sum())
    counts[without] = 1
    # Symbol after symbol each holder's next place is filled, which sorts by row, then symbol.
    place = np.cumsum(counts) - counts
    symbol = np.zeros(counts.sum(), dtype=np.int16)
    symbol[place[without]] = given
    for index, rows in enumerate(held):
        symbol[place[rows]] = index
        place[rows] += 1
    return np.repeat(np.arange(accounts, dtype=np.int32), counts), symbol


def draw_sizes(
    rng: Rng, row: npt.NDArray[np.int32], row_base: Int64Array, lots: Int64Array, prices: Int64Array
) -> Int64Array:
    """Return signed sizes in steps, of at least one lot each."""
    accounts, count = len(row_base) - 1, len(row)
    is_hedged = (rng.random(accounts) < HEDGED)[row]
    scale = (SCALE_USD * np.exp(rng.normal(0, SCALE_SIGMA, accounts)))[row]
    sigma = np.where(is_hedged, HEDGE_SIGMA, POSITION_SIGMA)
    notional = np.clip(scale * np.exp(rng.normal(0, 1, count) * sigma), *NOTIONAL_USD)
    size: Int64Array = np.maximum(1, np.rint(notional * UNIT / (prices * lots))).astype(np.int64) * lots
    is_bull = (rng.random(accounts) < BULLS)[row]
    is_long = is_bull == (rng.random(count) < VIEW_FOLLOWED)
    is_even = (np.arange(count) - row_base[row]) % 2 == 0
    return np.where(np.where(is_hedged, is_even, is_long), size, -size)


def draw_entries(rng: Rng, prices: Int64Array) -> Int64Array:
    """Return an entry price around each mark, in price steps."""
    away = np.clip(rng.normal(0, ENTRY_SIGMA, len(prices)), -ENTRY_MAX, ENTRY_MAX)
    return np.rint(prices * (1 + away)).astype(np.int64)


def draw_ratios(rng: Rng, accounts: int) -> npt.NDArray[np.float64]:
    """Return the MM / E that each account starts with."""
    hot = rng.triangular(HOT_RATIO[0], HOT_RATIO[0], HOT_RATIO[1], accounts)
    calm = draw_logarithm(rng, CALM_RATIO, accounts)
    return np.where(rng.random(accounts) < HOT_SHARE, hot, calm)


def draw_logarithm(rng: Rng, between: tuple[float, float], count: int) -> npt.NDArray[np.float64]:
    """Return numbers whose logarithms lie evenly between those of two bounds."""
    low, high = between
    return np.exp(rng.uniform(log(low), log(high), count))


def fund_wallets(market: Market, ratios: npt.NDArray[np.float64]) -> None:
    """Give each account the wallet its ratio asks for; a profit that would ask for a debt is taken out first."""
    equity, maintenance = market.standings(market.marks)
    market.wallet[:] = np.ceil(maintenance / ratios).astype(np.int64) - equity
    in_debt = (market.wallet < 0)[market.row]
    market.cost[in_debt] = -market.size[in_debt] * market.marks[market.symbol[in_debt]]
    equity, _ = market.standings(market.marks)
    market.wallet[:] = np.ceil(maintenance / ratios).astype(np.int64) - (equity - market.wallet)
