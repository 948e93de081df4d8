"""Who would be liquidated at which price: every row valued anew, in plain ints, at every price that is asked about.

The judge of heat-maps, levels and distances. It knows nothing of ladders, spans or tier borders: it sets the marks,
adds up what each row has, and asks whether it is liquidatable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from tests.reference_kernels import PPM, UNIT, Contract, Slice, is_liquidatable, row_standing

PRICE_MAX = 4 * 10**18

# symbol, size, cost
Held = tuple[int, int, int]
# Long notional, short notional, rows.
Level = tuple[int, int, int]


@dataclass(frozen=True)
class Holding:
    """What one row has: positions by symbol, balances by asset."""

    positions: tuple[Held, ...]
    balances: tuple[int, ...]


@dataclass(frozen=True)
class Market:
    """All prices and terms: marks in steps on grids of ``steps``, asset prices in units, which asset settles what."""

    contracts: tuple[Contract, ...]
    settle: tuple[int, ...]
    slices: tuple[Sequence[Slice], ...]
    marks: tuple[int, ...]
    steps: tuple[int, ...]
    prices: tuple[int, ...]
    below: bool

    def is_liquidatable(self, holding: Holding) -> bool:
        """Return whether a row is to be liquidated at these prices."""
        return is_liquidatable(*self.standing(holding), self.below)

    def standing(self, holding: Holding) -> tuple[int, int]:
        """Return a row's equity and maintenance margin at these prices."""
        positions = [
            (self.contracts[symbol], size, cost, self.marks[symbol], self.prices[self.settle[symbol]])
            for symbol, size, cost in holding.positions
        ]
        equity, maintenance, _ = row_standing(positions, zip(self.slices, holding.balances, self.prices, strict=True))
        return equity, maintenance

    def with_mark(self, symbol: int, mark: int) -> Market:
        """Return the market with another mark of one symbol."""
        return replace(self, marks=(*self.marks[:symbol], mark, *self.marks[symbol + 1 :]))

    def moved(self, betas_ppm: Sequence[int], asset_betas_ppm: Sequence[int], move_ppm: int) -> Market:
        """Return the market after a move of the common factor."""
        marks = zip(self.marks, self.steps, betas_ppm, strict=True)
        prices = zip(self.prices, asset_betas_ppm, strict=True)
        return replace(
            self,
            marks=tuple(moved_price(mark, step, beta, move_ppm) for mark, step, beta in marks),
            prices=tuple(moved_price(price, 1, beta, move_ppm) for price, beta in prices),
        )

    def notional(self, symbol: int, size: int) -> int:
        """Return what contracts are worth in the valuation currency, down once."""
        top, bottom = self.contracts[symbol].notional(size, self.marks[symbol])
        return top * self.prices[self.settle[symbol]] // (bottom * UNIT)


def moved_price(price: int, step: int, beta_ppm: int, move_ppm: int) -> int:
    """Return price x (1 + beta x move): on the grid half-even, at least a step, at most the limit, on its side."""
    if price == 0 or beta_ppm * move_ppm == 0:
        return price
    exact = price * (1 + Fraction(beta_ppm * move_ppm, PPM * PPM))
    moved = max(round(exact / step), 1) * step
    return min(moved, price) if beta_ppm * move_ppm < 0 else min(max(moved, price), PRICE_MAX)


def worth_bound(holding: Holding, markets: Sequence[Market]) -> Fraction:
    """Return a bound on what a row is worth in any of these markets: all parts at their worst, none against another."""
    total = Fraction(0)
    prices = [max(Fraction(market.prices[asset], UNIT) for market in markets) for asset in range(len(holding.balances))]
    for asset, balance in enumerate(holding.balances):
        total += abs(balance) * max(prices[asset], Fraction(1))
    for symbol, size, cost in holding.positions:
        contract, settle = markets[0].contracts[symbol], markets[0].settle[symbol]
        notional = max(Fraction(*contract.notional(size, market.marks[symbol])) for market in markets)
        total += (notional + abs(cost)) * max(prices[settle], Fraction(1))
    return total


def symbol_level(market: Market, holdings: Sequence[Holding], symbol: int) -> Level:
    """Return what the rows that are liquidatable now hold of one symbol, and how many hold it."""
    found = [
        holding
        for holding in holdings
        if any(held == symbol for held, _, _ in holding.positions) and market.is_liquidatable(holding)
    ]
    sizes = [size for holding in found for held, size, _ in holding.positions if held == symbol]
    longs, shorts = sum(size for size in sizes if size > 0), sum(-size for size in sizes if size < 0)
    return market.notional(symbol, longs), market.notional(symbol, shorts), len(found)


def symbol_levels(market: Market, holdings: Sequence[Holding], symbol: int, moves_ppm: Sequence[int]) -> list[Level]:
    """Return the heat-map of a symbol, one level for each move of its mark."""
    marks = [moved_price(market.marks[symbol], market.steps[symbol], PPM, move) for move in moves_ppm]
    return [symbol_level(market.with_mark(symbol, mark), holdings, symbol) for mark in marks]


def factor_level(market: Market, holdings: Sequence[Holding]) -> Level:
    """Return what the rows that are liquidatable now hold in all, and how many they are."""
    found = [holding for holding in holdings if holding.positions and market.is_liquidatable(holding)]
    totals = [0, 0]
    for symbol in range(len(market.contracts)):
        sizes = [size for holding in found for held, size, _ in holding.positions if held == symbol]
        if sizes:
            totals[0] += market.notional(symbol, sum(size for size in sizes if size > 0))
            totals[1] += market.notional(symbol, sum(-size for size in sizes if size < 0))
    return totals[0], totals[1], len(found)


def nearest_move(
    market: Market,
    holding: Holding,
    betas_ppm: Sequence[int],
    asset_betas_ppm: Sequence[int],
    *,
    step_ppm: int,
    down: int,
    up: int,
) -> int | None:
    """Return the smallest move of the common factor, the fall of two alike, after which a row is to be liquidated."""
    for steps in range(max(down, up) + 1):
        for sign, limit in ((-1, down), (1, up)):
            move = sign * steps * step_ppm
            if steps <= limit and market.moved(betas_ppm, asset_betas_ppm, move).is_liquidatable(holding):
                return move
    return None


def stretches(market: Market, holding: Holding, symbol: int, marks: Sequence[int]) -> list[tuple[int, int]]:
    """Return first and last of each run of ``marks`` (rising) at which a row is to be liquidated."""
    runs: list[tuple[int, int]] = []
    before = False
    for mark in marks:
        verdict = market.with_mark(symbol, mark).is_liquidatable(holding)
        if verdict:
            runs = [*runs[:-1], (runs[-1][0], mark)] if before else [*runs, (mark, mark)]
        before = verdict
    return runs
