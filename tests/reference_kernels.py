"""What every kernel must return: the same figures in plain Python ints, from the formulas of CONTRACT section 4.

No value is ever rounded on the way: each figure is one exact fraction, kept as numerator and denominator because that
is ten times as fast as ``Fraction``, and rounded once at the end. Where a kernel carries deductions, constants of
slices or running sums, the twin starts from the tiers, the slices and the positions themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

UNIT = 10**8
PPM = 10**6
FUNDING_SCALE = 10**12

# (floor in units, maintenance rate in ppm, largest leverage in ppm), (floor in units, weight in ppm)
Tier = tuple[int, int, int]
Slice = tuple[int, int]


@dataclass(frozen=True)
class Contract:
    """One instrument: size x price x num / den (linear) or size x num / price (inverse) is money in units."""

    is_inverse: bool
    num: int
    den: int
    tiers: tuple[Tier, ...] = ((0, 0, PPM),)
    is_whole: bool = False

    def notional(self, size: int, price: int) -> tuple[int, int]:
        """Return the notional in settlement units as numerator and denominator."""
        if self.is_inverse:
            return abs(size) * self.num, price
        return abs(size) * price * self.num, self.den

    def tier_at(self, size: int, price: int) -> int:
        """Return the index of the last tier whose floor the notional reaches."""
        top, bottom = self.notional(size, price)
        return tier_of([floor for floor, _, _ in self.tiers], top, bottom)


def div_up(numerator: int, denominator: int) -> int:
    """Return numerator / denominator, up; denominator > 0."""
    return -(-numerator // denominator)


def tier_of(floors: Sequence[int], top: int, bottom: int = 1) -> int:
    """Return the index of the last floor that top / bottom reaches."""
    return max(index for index, floor in enumerate(floors) if index == 0 or floor * bottom <= top)


def notional_parts(contract: Contract, size: int, price: int) -> tuple[int, int]:
    """Return the notional's whole units and what is above them, in parts of its denominator."""
    top, bottom = contract.notional(size, price)
    return top // bottom, top % bottom


def position_pnl(contract: Contract, size: int, cost: int, price: int, asset_price: int) -> int:
    """Return (value + cost) x P, down: a long linear and a short inverse position are worth +notional."""
    top, bottom = contract.notional(size, price)
    worth = top if (size >= 0) != contract.is_inverse else -top
    return (worth + cost * bottom) * asset_price // (bottom * UNIT)


def position_maintenance(contract: Contract, size: int, price: int) -> int:
    """Return the largest of n x rate - deduction over all tiers, or the tier's rate on all of it, up."""
    top, bottom = contract.notional(size, price)
    if contract.is_whole:
        return div_up(top * contract.tiers[contract.tier_at(size, price)][1], bottom * PPM)
    lines, deduction, rate_before = [], 0, contract.tiers[0][1]
    for floor, rate, _ in contract.tiers:
        deduction += floor * (rate - rate_before)
        rate_before = rate
        lines.append(top * rate - deduction * bottom)
    return div_up(max(lines), bottom * PPM)


def position_initial(contract: Contract, size: int, price: int) -> int:
    """Return notional / largest leverage of its tier, up."""
    top, bottom = contract.notional(size, price)
    return div_up(top * PPM, bottom * contract.tiers[contract.tier_at(size, price)][2])


def position_values(contract: Contract, size: int, cost: int, price: int, asset_price: int) -> tuple[int, int, int]:
    """Return PnL, down once; maintenance margin, up twice; notional, down twice; all in the valuation currency."""
    top, bottom = contract.notional(size, price)
    pnl = position_pnl(contract, size, cost, price, asset_price)
    needed = to_valuation_up(position_maintenance(contract, size, price), asset_price)
    return pnl, needed, top // bottom * asset_price // UNIT


def to_valuation_up(amount: int, asset_price: int) -> int:
    """Return amount x P, up."""
    return div_up(amount * asset_price, UNIT)


def collateral_value(slices: Sequence[Slice], balance: int, asset_price: int) -> int:
    """Return what a balance counts for, down: each slice of its value by its own weight, a debt in full."""
    value = balance * asset_price
    if balance <= 0:
        return value // UNIT
    total = 0
    for index, (floor, weight) in enumerate(slices):
        end = min(value, slices[index + 1][0] * UNIT) if index + 1 < len(slices) else value
        total += max(end - floor * UNIT, 0) * weight
    return total // (UNIT * PPM)


def is_liquidatable(equity: int, maintenance: int, below: bool) -> bool:
    """Return MM > 0 and E <= MM, or E < MM under dYdX's rule."""
    return maintenance > 0 and (equity < maintenance or (equity == maintenance and not below))


def is_at_ratio(equity: int, maintenance: int, ratio_ppm: int) -> bool:
    """Return MM / E >= ratio; any ratio is reached where there is no equity, none where no margin is needed."""
    return maintenance > 0 and (equity <= 0 or maintenance * PPM >= equity * ratio_ppm)


def funding_payment(contract: Contract, size: int, price: int, rate: int) -> int:
    """Return signed notional x rate, up: what is paid, or (below zero) received."""
    top, bottom = contract.notional(size, price)
    return div_up((top if size > 0 else -top) * rate, bottom * FUNDING_SCALE)


def needs_a_look(
    equity: int, maintenance: int, *, is_priced: bool, is_own: bool, is_called: bool, is_watched: bool, rule: list[int]
) -> bool:
    """Return whether a row's standing calls for a decision: trouble, a call to send, a call to take back, a watch."""
    below, call_ppm, rearm_ppm = rule
    if is_own or not is_priced:
        return False
    is_owing = maintenance == 0 and equity <= 0
    changes_call = (
        not is_at_ratio(equity, maintenance, rearm_ppm) if is_called else is_at_ratio(equity, maintenance, call_ppm)
    )
    return is_watched or is_liquidatable(equity, maintenance, bool(below)) or is_owing or changes_call


def row_standing(
    positions: Iterable[tuple[Contract, int, int, int, int]], balances: Iterable[tuple[Sequence[Slice], int, int]]
) -> tuple[int, int, int]:
    """Return equity, maintenance margin and notional of a row; what lacks a price (0) counts for nothing.

    positions: contract, size, cost, mark, asset price · balances: slices, balance, asset price
    """
    totals = [0, 0, 0]
    for contract, size, cost, mark, asset_price in positions:
        if mark and asset_price:
            values = position_values(contract, size, cost, mark, asset_price)
            totals = [total + value for total, value in zip(totals, values, strict=True)]
    collateral = sum(collateral_value(slices, balance, price) for slices, balance, price in balances if price)
    return totals[0] + collateral, totals[1], totals[2]


Leg = tuple[int, int]  # size, cost


def verdict_at(
    contract: Contract, legs: Iterable[Leg], price: int, asset_price: int, rest: tuple[int, int], *, below: bool
) -> bool:
    """Return whether a row is liquidatable at one price; ``rest`` is the equity and margin of all else in it."""
    equity, maintenance = rest
    for size, cost in legs:
        pnl, needed, _ = position_values(contract, size, cost, price, asset_price)
        equity, maintenance = equity + pnl, maintenance + needed
    return is_liquidatable(equity, maintenance, below)


def nearest_edge(verdicts: Sequence[bool], here: int) -> int | None:
    """Return the liquidatable index nearest to ``here`` with a healthy neighbour, the lower of two equally near.

    ``verdicts[i]`` says whether the row is liquidatable at price i; there is no price 0.
    """
    last = len(verdicts) - 1
    edges = [
        price
        for price in range(1, last + 1)
        if verdicts[price] and any(not verdicts[other] for other in (price - 1, price + 1) if 1 <= other <= last)
    ]
    return min(edges, key=lambda price: (abs(price - here), price), default=None)


def healthy_runs(verdicts: Sequence[bool]) -> int:
    """Return into how many separate stretches the healthy prices fall; convex margin makes at most one."""
    return sum(not verdicts[price] and (price == 1 or verdicts[price - 1]) for price in range(1, len(verdicts)))


@dataclass(frozen=True)
class Closing:
    """A failing position (signed size, exact signed cash it goes for), and one on the other side that closes on it."""

    failing: Leg
    held: Leg
    balance: int
    price: int
    asset_price: int

    def equity_change(self, contract: Contract, slices: Sequence[Slice], size: int) -> int:
        """Return by how much the equity of the other side changes when it closes ``size`` > 0."""
        held, cost = self.held
        released = cost * size // abs(held)
        cash = -self.failing[1] * size // abs(self.failing[0])
        left = held + size if held < 0 else held - size
        pnl, pnl_left = (
            position_pnl(contract, *leg, self.price, self.asset_price) for leg in (self.held, (left, cost - released))
        )
        value, value_after = (
            collateral_value(slices, balance, self.asset_price)
            for balance in (self.balance, self.balance + cash + released)
        )
        return pnl_left - pnl + value_after - value

    def loss(self, contract: Contract) -> int:
        """Return what takers of all of the failing position pay above its worth at the mark, up to the next unit."""
        size, cash = self.failing
        top, bottom = contract.notional(size, self.price)
        worth = (top if (size > 0) != contract.is_inverse else -top) // bottom
        return (cash - worth) * self.asset_price // UNIT + 1


def highest_first(quotients: Sequence[tuple[int, int, int, int]]) -> list[int]:
    """Return the numbers of the highest a x b / (c x d) first, equal ones in order; over zero is above all."""

    def standing(number: int) -> tuple[bool, Fraction, int]:
        over, times, under, under_times = quotients[number]
        divisor = under * under_times
        return divisor > 0, -Fraction(over * times, divisor or 1) if divisor else Fraction(0), number

    return sorted(range(len(quotients)), key=standing)
