"""What a certificate must say: the least any plan can cost, and what two usual rules would cost (README, "The plan").

A *ladder* is what closing one position, or selling one balance, gives from the top down. Each of its rungs is a slice
of value (a tier, a weight) that frees at one rate; the bound takes all rungs in order of cost per unit freed. Values
are fractions of the valuation currency; only what is printed is rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from engine.tools.verify_rules import (
    Balance,
    Body,
    Finding,
    Position,
    Standing,
    amount,
    compare,
    units_floor,
    units_up,
)
from engine.units import UNIT, format_scaled, format_units

DUAL_PRICE_DECIMALS = 12
# One unit of equity takes an account out of a trigger that holds at equality.
ONE_UNIT = Fraction(1, UNIT)


@dataclass(frozen=True)
class Ladder:
    """A position to close or a balance to sell, from the top down: (length, freed per unit) of each slice of value."""

    name: tuple[int, str, str]
    value: Fraction
    lot_value: Fraction
    cost_rate: Fraction
    rungs: tuple[tuple[Fraction, Fraction], ...]

    def freed_by(self, value: Fraction) -> Fraction:
        """Return what the first ``value`` frees."""
        freed = Fraction(0)
        for length, rate in self.rungs:
            freed += min(length, value) * rate
            value -= min(length, value)
        return freed

    def try_value_freeing(self, needed: Fraction) -> Fraction | None:
        """Return the least value that frees ``needed``; None where none does."""
        value = Fraction(0)
        for length, rate in self.rungs:
            if needed <= 0:
                break
            if rate <= 0:
                return None
            part = min(length, needed / rate)
            value, needed = value + part, needed - part * rate
        return value if needed <= 0 else None

    def cost_up(self, value: Fraction) -> int:
        """Return the cost in units of ``value`` in whole lots."""
        return units_up(self.cost_rate * min(ceil(value / self.lot_value) * self.lot_value, self.value))


@dataclass(frozen=True)
class Target:
    """What collateral is sold for, at which weight the proceeds count, and for how much at most."""

    asset: str
    weight: Fraction
    room: Fraction | None


def close_ladder(standing: Standing, position: Position) -> Ladder:
    """Return tier slices from the top: closing a unit at rate r frees r x (1 + b) - c."""
    terms, rungs = position.terms, []
    value = top = position.notional * terms.price
    for tier_floor, rate in reversed(terms.tiers):
        if tier_floor * terms.price < top:
            rungs.append((top - tier_floor * terms.price, rate * (1 + standing.buffer) - terms.cost_rate))
            top = tier_floor * terms.price
    name = (0, terms.symbol, position.leg)
    return Ladder(name, value, terms.notional(terms.lot) * terms.price, terms.cost_rate, tuple(rungs))


def sale_target(standing: Standing, closes: Sequence[Ladder]) -> Target:
    """Return the largest debt, else the settlement asset of the largest position."""
    debts = [balance for balance in standing.balances if balance.amount < 0]
    if debts:
        debt = min(debts, key=lambda balance: (balance.amount * balance.price, balance.asset))
        return Target(debt.asset, Fraction(1), None if debt.weights[-1][1] == 1 else -debt.amount)
    largest = min(closes, key=lambda ladder: (-ladder.value, ladder.name))
    settle = standing.terms[largest.name[1]].settle
    weight = next(balance.weights[-1][1] for balance in standing.balances if balance.asset == settle)
    return Target(settle, weight, None)


def try_sale_ladder(standing: Standing, balance: Balance, target: Target) -> Ladder | None:
    """Return weight slices from the top: a unit of weight w frees (1 - slippage) x the target's weight - w."""
    kept = balance.price * (1 - balance.slippage)
    lots = floor(balance.amount / balance.step)
    if target.room is not None:
        lots = min(lots, floor(target.room * standing.prices[target.asset] / (kept * balance.step)))
    if lots <= 0 or balance.asset == target.asset:
        return None
    rungs, top = [], balance.amount * balance.price
    value = left = lots * balance.step * balance.price
    for slice_floor, weight in reversed(balance.weights):
        length = min(top - slice_floor, left)
        if length > 0:
            rungs.append((length, (1 - balance.slippage) * target.weight - weight))
            top, left = top - length, left - length
    return Ladder((1, balance.asset, ""), value, balance.step * balance.price, balance.slippage, tuple(rungs))


def check_certificate(standing: Standing, certificate: Body) -> Iterator[Finding]:
    """Yield what of the certificate does not follow from the standing alone, whatever the plan is."""
    equity, maintenance = Fraction(standing.equity, UNIT), Fraction(standing.maintenance, UNIT)
    deficit = needed = max((1 + standing.buffer) * maintenance - equity, Fraction(0))
    if standing.is_liquidatable(standing.equity, standing.maintenance):
        needed = max(deficit, maintenance - equity + (0 if standing.below else ONE_UNIT))
    closes = [close_ladder(standing, position) for position in standing.closable()]
    target = sale_target(standing, closes)
    sales = [ladder for balance in standing.balances if (ladder := try_sale_ladder(standing, balance, target))]
    # A whole table frees more than its marginal slices do: there is no bound then.
    is_bounded = standing.policy["tier_mode"] == "marginal"
    optimum = fractional_optimum([*closes, *sales], deficit) if is_bounded else None
    bound = None if optimum is None else units_floor(optimum[0])
    cost = units_floor(amount(certificate["cost"]))
    outcome = [units_floor(amount(certificate[name])) for name in ("equity_after", "maintenance_margin_after")]
    # What misses the target may well cost less.
    has_gap = bound is not None and standing.meets_target(*outcome)
    derived = {
        "target": format_units(ceil((1 + standing.buffer) * standing.maintenance)),
        "deficit": format_units(units_up(deficit)),
        "bound": None if bound is None else format_units(bound),
        "dual_price": None if optimum is None else dual_price(optimum[1]),
        "gap": format_units(cost - (bound or 0)) if has_gap else None,
        "largest_first": format_units(largest_first(closes, needed)),
        "pro_rata": format_units(pro_rata(closes, needed)),
    }
    for name, value in derived.items():
        yield from compare(f"certificate.{name}", certificate[name], value)


def dual_price(price: Fraction) -> str:
    """Return the cost of the last unit freed as the certificate prints it, rounded down."""
    return format_scaled(floor(price * 10**DUAL_PRICE_DECIMALS), DUAL_PRICE_DECIMALS)


def fractional_optimum(ladders: Sequence[Ladder], deficit: Fraction) -> tuple[Fraction, Fraction] | None:
    """Return the least cost of freeing the deficit in any parts, and that of the last unit; None: no way."""
    if deficit == 0:
        return Fraction(0), Fraction(0)
    slices = [
        (ladder.cost_rate / rate, length * rate) for ladder in ladders for length, rate in ladder.rungs if rate > 0
    ]
    cost = Fraction(0)
    for price, freed in sorted(slices):
        cost += price * min(freed, deficit)
        deficit -= freed
        if deficit <= 0:
            return cost, price
    return None


def largest_first(closes: Sequence[Ladder], needed: Fraction) -> int:
    """Return the cost in units of closing the largest position first, whole, then the next, until it is enough."""
    cost = 0
    for ladder in sorted(closes, key=lambda ladder: (-ladder.value, ladder.name)):
        value = ladder.try_value_freeing(needed)
        if value is not None:
            return cost + ladder.cost_up(value)
        cost += ladder.cost_up(ladder.value)
        needed -= ladder.freed_by(ladder.value)
    return cost


def pro_rata(closes: Sequence[Ladder], needed: Fraction) -> int:
    """Return the cost in units of closing the least common part of every position that frees what is needed."""
    if needed <= 0:
        return 0
    ends = set()
    for ladder in closes:
        end = Fraction(0)
        for length, _ in ladder.rungs:
            end += length
            ends.add(end / ladder.value)
    part_before = freed_before = Fraction(0)
    for part in sorted(ends):
        freed = sum((ladder.freed_by(ladder.value * part) for ladder in closes), Fraction(0))
        if freed >= needed:
            # Between two ends what is freed grows linearly.
            part_needed = part_before + (part - part_before) * (needed - freed_before) / (freed - freed_before)
            return sum(ladder.cost_up(part_needed * ladder.value) for ladder in closes)
        part_before, freed_before = part, freed
    return sum(ladder.cost_up(ladder.value) for ladder in closes)
