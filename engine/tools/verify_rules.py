"""What one decision record must say: every figure derived again from the figures it was made from (README, "Margin").

Written from the formulas, with fractions, and without the core: where the two disagree, one of them is wrong. A record
is read into a ``Standing``, which derives margin, bankruptcy price and limits; ``compare`` collects what is stated
otherwise. Money is an int of 1e-8 (*units*) wherever the engine rounds, and a fraction before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from math import ceil, floor
from typing import Any

from engine.units import (
    PPM_DECIMALS,
    UNIT,
    UNIT_DECIMALS,
    format_number,
    format_scaled,
    format_units,
    number_decimals,
    try_number,
)

Body = dict[str, Any]

ENTRY_DECIMALS = 18
DEDUCTION_DECIMALS = 14
SIDES = {"sell": 1, "buy": -1}


@dataclass(frozen=True, slots=True)
class Finding:
    """A field whose stated value is not the derived one."""

    field: str
    stated: Any
    derived: Any


def compare(field: str, stated: Any, derived: Any) -> Iterator[Finding]:
    """Yield a finding where the two differ."""
    if stated != derived or type(stated) is not type(derived):
        yield Finding(field, stated, derived)


def demand(field: str, stated: Any, rule: str, *, holds: bool) -> Iterator[Finding]:
    """Yield a finding where a rule does not hold."""
    if not holds:
        yield Finding(field, stated, rule)


@lru_cache(maxsize=1 << 16)
def amount(text: str) -> Fraction:
    """Return the exact value of a decimal string; raises ValueError unless it is in its shortest form."""
    number = try_number(text) if isinstance(text, str) else None
    if number is None or format_number(number) != text:
        raise ValueError(f"{text!r} is not a decimal string in its shortest form")
    return Fraction(number[0], 10 ** number[1])


def units_floor(value: Fraction) -> int:
    """Return a value in units, rounded down."""
    return floor(value * UNIT)


def units_up(value: Fraction) -> int:
    """Return a value in units, rounded up."""
    return ceil(value * UNIT)


def on_tick(price: Fraction, tick: Fraction, *, up: bool) -> Fraction:
    """Return a price on the tick grid."""
    return (ceil if up else floor)(price / tick) * tick


def show(value: Fraction, decimals: int) -> str:
    """Return a value rounded half-even to ``decimals`` as a decimal string."""
    return format_scaled(round(value * 10**decimals), decimals)


def margin_ratio(equity: int, maintenance: int) -> str | None:
    """Return MM / E, 8 decimals, up; "0" where MM = 0, None where equity cannot carry it."""
    if maintenance == 0:
        return "0"
    return None if equity <= 0 else format_units(ceil(Fraction(maintenance * UNIT, equity)))


@dataclass(frozen=True)
class Terms:
    """One contract as the record describes it, with its mark and the price of its settlement asset."""

    symbol: str
    is_inverse: bool
    settle: str
    multiplier: Fraction
    tick: Fraction
    lot: Fraction
    tiers: tuple[tuple[Fraction, Fraction], ...]
    next_floor: Fraction | None
    flow_budget: Fraction | None
    is_whole: bool
    mark: Fraction
    price: Fraction
    cost_rate: Fraction

    def notional(self, qty: Fraction) -> Fraction:
        """Return |q| x m x p, or |q| x m / p, in the settlement asset."""
        return abs(qty) * self.multiplier / self.mark if self.is_inverse else abs(qty) * self.multiplier * self.mark

    def tier(self, notional: Fraction) -> tuple[Fraction, Fraction, Fraction]:
        """Return floor, rate and deduction of the tier a notional belongs to; at a floor it begins there."""
        deduction, before = Fraction(0), self.tiers[0][1]
        found = (self.tiers[0][0], before, deduction)
        for tier_floor, rate in self.tiers:
            if tier_floor > notional:
                break
            deduction += 0 if self.is_whole else tier_floor * (rate - before)
            found, before = (tier_floor, rate, deduction), rate
        return found

    def maintenance(self, qty: Fraction) -> tuple[int, int]:
        """Return the maintenance margin in settlement units, up, and from there in valuation units, up."""
        notional = self.notional(qty)
        _, rate, deduction = self.tier(notional)
        needed = units_up(notional * rate - deduction) if qty else 0
        return needed, ceil(needed * self.price)


@dataclass(frozen=True)
class Position:
    """One leg."""

    terms: Terms
    leg: str
    qty: Fraction
    cost: Fraction

    @property
    def sign(self) -> int:
        """1 for a long, -1 for a short."""
        return 1 if self.qty > 0 else -1

    @cached_property
    def notional(self) -> Fraction:
        """The notional at the mark, in the settlement asset."""
        return self.terms.notional(self.qty)

    @cached_property
    def pnl(self) -> Fraction:
        """The unrealised PnL in the settlement asset: value at the mark plus the signed cash paid."""
        return self.cost + self.sign * (-1 if self.terms.is_inverse else 1) * self.notional

    @cached_property
    def maintenance(self) -> int:
        """The maintenance margin in valuation units."""
        return self.terms.maintenance(self.qty)[1]

    def entry_price(self) -> Fraction:
        """The average price of what is open; 0 where it cost nothing."""
        if self.cost == 0:
            return Fraction(0)
        sized = self.qty * self.terms.multiplier
        return sized / self.cost if self.terms.is_inverse else -self.cost / sized


@dataclass(frozen=True)
class Balance:
    """One wallet balance with what its asset counts for."""

    asset: str
    amount: Fraction
    price: Fraction
    weights: tuple[tuple[Fraction, Fraction], ...]
    step: Fraction
    slippage: Fraction

    def value(self, amount: Fraction) -> int:
        """Return what an amount counts for in valuation units, down: by slices of its value, a debt in full."""
        top = amount * self.price
        if top <= 0:
            return units_floor(top)
        counted = Fraction(0)
        for slice_floor, weight in reversed(self.weights):
            if slice_floor < top:
                counted += (top - slice_floor) * weight
                top = slice_floor
        return units_floor(counted)


class Standing:
    """An account (or bucket) as a decision record describes it. Raises KeyError, ValueError for what it lacks."""

    def __init__(self, decision: Body) -> None:
        self.decision = decision
        self.policy = decision["policy"]
        self.below = self.policy["trigger"] == "below"
        self.buffer = amount(decision["target"]["buffer"])
        self.prices = {entry["asset"]: amount(entry["price"]) for entry in decision["asset_prices"]}
        self.terms = {terms.symbol: terms for terms in read_terms(decision, self.prices)}
        self.positions = [
            Position(self.terms[entry["symbol"]], entry["leg"], amount(entry["qty"]), amount(entry["cost"]))
            for entry in decision["positions"]
        ]
        self.balances = [read_balance(entry, self.prices) for entry in decision["collateral"]]
        self.left_out = set(decision.get("left_out", ()))
        self.values = [balance.value(balance.amount) for balance in self.balances]
        self.pnls = [units_floor(position.pnl * position.terms.price) for position in self.positions]
        self.equity = sum(self.values) + sum(self.pnls)
        self.maintenance = sum(position.maintenance for position in self.positions)

    def is_liquidatable(self, equity: int, maintenance: int) -> bool:
        """Return whether these figures are those of an account that must be liquidated."""
        return maintenance > 0 and (equity < maintenance if self.below else equity <= maintenance)

    def meets_target(self, equity: int, maintenance: int) -> bool:
        """Return whether an episode may stop at these figures."""
        return equity >= (1 + self.buffer) * maintenance and not self.is_liquidatable(equity, maintenance)

    def closable(self) -> list[Position]:
        """Return the positions an order may close now."""
        return [position for position in self.positions if position.terms.symbol not in self.left_out]

    def bankruptcy_price(self, position: Position) -> Fraction | None:
        """Return the price at which this position, closed with all others at theirs, leaves zero; toward the fund."""
        terms = position.terms
        share = Fraction(self.equity * position.maintenance, self.maintenance * UNIT) / terms.price
        per_contract = position.sign * share / (abs(position.qty) * terms.multiplier)
        if terms.is_inverse:
            inverse = 1 / terms.mark + per_contract
            if inverse <= 0:
                return None
            price = 1 / inverse
        else:
            price = terms.mark - per_contract
        return on_tick(price, terms.tick, up=position.sign > 0)

    def limit_price(self, position: Position) -> Fraction:
        """Return the bankruptcy price drawn in to the band around the mark, on the tick, inward."""
        terms, band = position.terms, amount(self.policy["limit_band"])
        bankruptcy = self.bankruptcy_price(position)
        edge = on_tick(terms.mark * (1 - position.sign * band), terms.tick, up=position.sign > 0)
        if bankruptcy is None:
            return edge
        return max(edge, bankruptcy) if position.sign > 0 else min(edge, bankruptcy)

    def sale_limit(self, balance: Balance, for_asset: str) -> str:
        """Return P / P_for x (1 - slippage - limit_band), rounded up to 8 decimals."""
        kept = max(Fraction(0), 1 - balance.slippage - amount(self.policy["limit_band"]))
        return format_units(units_up(balance.price / self.prices[for_asset] * kept))


def read_terms(decision: Body, prices: dict[str, Fraction]) -> Iterator[Terms]:
    """Yield the contracts of a record, each with its mark and its costs."""
    marks = {entry["symbol"]: amount(entry["price"]) for entry in decision["marks"]}
    costs = {entry["symbol"]: entry for entry in decision["costs"]}
    for entry in decision["instruments"]:
        cost = costs[entry["symbol"]]
        yield Terms(
            symbol=entry["symbol"],
            is_inverse=entry["kind"] == "inverse",
            settle=entry["settle"],
            multiplier=amount(entry["multiplier"]),
            tick=amount(entry["price_tick"]),
            lot=amount(entry["lot"]),
            tiers=tuple((amount(tier_floor), amount(rate)) for tier_floor, rate in entry["tiers"]),
            next_floor=None if entry["next_floor"] is None else amount(entry["next_floor"]),
            flow_budget=None if entry["flow_budget"] is None else amount(entry["flow_budget"]),
            is_whole=decision["policy"]["tier_mode"] == "whole",
            mark=marks[entry["symbol"]],
            price=prices[entry["settle"]],
            cost_rate=amount(cost["taker_fee"]) + amount(cost["liquidation_fee"]) + amount(cost["slippage"]),
        )


def read_balance(entry: Body, prices: dict[str, Fraction]) -> Balance:
    """Return one balance of a record."""
    return Balance(
        asset=entry["asset"],
        amount=amount(entry["balance"]),
        price=prices[entry["asset"]],
        weights=tuple((amount(slice_floor), amount(weight)) for slice_floor, weight in entry["weights"]),
        step=Fraction(1, 10 ** entry["decimals"]),
        slippage=amount(entry["slippage"]),
    )


def price_decimals(entry: Body) -> int:
    """Return how many decimals a price of a contract has: with those of the lot they are 8."""
    number = try_number(entry["lot"])
    decimals = number_decimals(number) if number else 0
    return 8 - (max(decimals, 0) if entry["kind"] == "inverse" else decimals)


def check_standing(standing: Standing) -> Iterator[Finding]:
    """Yield every figure of the record's standing that does not follow from the others."""
    decision = standing.decision
    yield from compare("equity", decision["equity"], format_units(standing.equity))
    yield from compare("maintenance_margin", decision["maintenance_margin"], format_units(standing.maintenance))
    target = ceil((1 + standing.buffer) * standing.maintenance)
    yield from compare("target.equity", decision["target"]["equity"], format_units(target))
    for index, (entry, position) in enumerate(zip(decision["positions"], standing.positions, strict=True)):
        yield from check_position(f"positions[{index}]", entry, position)
    for index, (entry, value) in enumerate(zip(decision["collateral"], standing.values, strict=True)):
        yield from compare(f"collateral[{index}].value", entry["value"], format_units(value))
    held = {position.terms.symbol for position in standing.positions}
    for index, (entry, terms) in enumerate(zip(decision["instruments"], standing.terms.values(), strict=True)):
        field = f"instruments[{index}]"
        largest = max(position.notional for position in standing.positions if position.terms is terms)
        is_last = terms.tiers[-1][0] <= largest and (terms.next_floor is None or largest < terms.next_floor)
        yield from demand(f"{field}.tiers", entry["tiers"], "the last one holds for the larger leg", holds=is_last)
    yield from compare("instruments", [entry["symbol"] for entry in decision["instruments"]], sorted(held))


def check_position(field: str, entry: Body, position: Position) -> Iterator[Finding]:
    """Yield every figure of one position that does not follow from its size, cost and mark."""
    terms, notional = position.terms, position.notional
    tier_floor, rate, deduction = terms.tier(notional)
    derived = {
        "notional": format_units(units_up(notional)),
        "entry_price": show(position.entry_price(), ENTRY_DECIMALS),
        "tier_floor": show(tier_floor, UNIT_DECIMALS),
        "tier_rate": show(rate, PPM_DECIMALS),
        "deduction": show(deduction, DEDUCTION_DECIMALS),
        "unrealised_pnl": format_units(units_floor(position.pnl)),
        "maintenance_margin": format_units(terms.maintenance(position.qty)[0]),
    }
    for name, value in derived.items():
        yield from compare(f"{field}.{name}", entry[name], value)
    yield from demand(f"{field}.qty", entry["qty"], f"whole lots of {terms.lot}", holds=position.qty % terms.lot == 0)
    is_leg = position.leg in ("net", "long" if position.qty > 0 else "short")
    yield from demand(f"{field}.leg", entry["leg"], "the side of its quantity", holds=is_leg)
