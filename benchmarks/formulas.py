"""What closing lots and selling collateral do to an account: the formulas of README, "The plan", and no engine code.

Everything the benchmarks hold the engine's plans against is computed here in exact fractions of the valuation currency
and rounded where the contract rounds: margin up in the settlement asset and up again by its price, each balance's value
down, each expected cost up.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

from tests.reference_numbers import UNIT, decimal, units_floor, units_up
from tests.reference_terms import Terms, collateral_value, maintenance_margin, notional_at, read_terms

Risk = Mapping[str, Any]
# (length in the valuation currency, what a unit of it frees towards the target)
Slice = tuple[Fraction, Fraction]
COSTS = ("taker_fee", "liquidation_fee", "slippage")


def read_risk(path: Path) -> dict[str, Any]:
    """Return a risk file with its decimals as they are written."""
    return tomllib.loads(path.read_text(encoding="utf-8"), parse_float=str)


@dataclass(frozen=True)
class Target:
    """When an account is left alone: E >= (1 + buffer) MM, and out of the trigger."""

    buffer: Fraction
    is_below: bool

    @classmethod
    def of(cls, risk: Risk) -> Target:
        """Return the target of a risk file's policy."""
        policy = risk.get("policy", {})
        return cls(decimal(policy.get("target_buffer", 0)), policy.get("trigger", "at_or_below") == "below")

    def is_met(self, equity: int, maintenance: int) -> bool:
        """Return whether an account with these units of equity and margin may be left alone."""
        buffer = self.buffer
        if equity * buffer.denominator < (buffer.denominator + buffer.numerator) * maintenance:
            return False
        return maintenance <= 0 or equity > maintenance or (self.is_below and equity == maintenance)

    def deficit(self, equity: int, maintenance: int) -> Fraction:
        """Return D = (1 + b) MM - E in the valuation currency, or 0 where that is less."""
        return max(((1 + self.buffer) * maintenance - equity) / UNIT, Fraction(0))

    def needed(self, equity: int, maintenance: int) -> Fraction:
        """Return what has to be freed: the deficit, or one unit more where only that ends the trigger."""
        to_leave = Fraction(maintenance - equity + (0 if self.is_below else 1), UNIT)
        return max(self.deficit(equity, maintenance), to_leave if maintenance > 0 else Fraction(0))


@dataclass(frozen=True)
class Held:
    """A position in whole lots, at its mark."""

    terms: Terms
    leg: str
    lots: int
    lot_notional: Fraction
    cost_rate: Fraction
    price: Fraction

    @classmethod
    def of(cls, risk: Risk, symbol: str, leg: str, qty: Fraction, mark: Fraction, price: Fraction) -> Held:
        """Return ``qty`` contracts of an instrument of the risk file; ``price`` is its settlement asset's."""
        fields, terms = risk["instruments"][symbol], read_terms(dict(risk), symbol)
        lot = decimal(fields["lot"])
        lots = abs(qty) / lot
        if lots.denominator != 1:
            raise ValueError(f"{qty} {symbol} is not whole lots of {lot}")
        cost_rate = sum((decimal(fields.get(name, 0)) for name in COSTS), Fraction(0))
        return cls(terms, leg, int(lots), notional_at(terms, lot, mark), cost_rate, price)

    @property
    def name(self) -> tuple[str, str]:
        """What decides between equals."""
        return self.terms.symbol, self.leg

    def value(self, lots: int) -> Fraction:
        """Return the notional of ``lots`` in the valuation currency."""
        return lots * self.lot_notional * self.price

    def cost(self, lots: int) -> int:
        """Return the expected cost of closing ``lots``, in units, up."""
        return units_up(self.cost_rate * self.value(lots))

    def margin(self, lots: int) -> int:
        """Return the maintenance margin of ``lots``, in units."""
        return ceil(units_up(maintenance_margin(self.terms, lots * self.lot_notional, "marginal")) * self.price)

    def lots_for(self, value: Fraction) -> int:
        """Return how many whole lots are worth at least ``value``."""
        return min(ceil(value / (self.lot_notional * self.price)), self.lots)

    def slices(self, target: Target) -> list[Slice]:
        """Return the tier slices from the top: a unit at rate r frees r (1 + b) - c."""
        found, top = [], self.lots * self.lot_notional
        for tier in reversed(self.terms.tiers):
            if tier.floor < top:
                found.append(((top - tier.floor) * self.price, tier.rate * (1 + target.buffer) - self.cost_rate))
                top = tier.floor
        return found


@dataclass(frozen=True)
class Wallet:
    """A balance (units) of an asset, its price, and in which steps of how many units it can be moved."""

    risk: Risk
    asset: str
    balance: int
    price: Fraction

    @property
    def step(self) -> int:
        """The smallest amount that can be moved, in units."""
        return int(10 ** (8 - int(self._fields.get("decimals", 8))))

    @property
    def slippage(self) -> Fraction:
        """What a sale is expected to lose."""
        return decimal(self._fields.get("slippage", 0))

    @property
    def steps(self) -> int:
        """How many whole steps there are to sell."""
        return max(self.balance, 0) // self.step

    @property
    def _fields(self) -> Mapping[str, Any]:
        fields: Mapping[str, Any] = self.risk["assets"][self.asset]
        return fields

    def worth(self, balance: int) -> int:
        """Return what ``balance`` counts for, in units, down."""
        return units_floor(collateral_value(dict(self.risk), self.asset, Fraction(balance, UNIT), self.price))

    def value(self, steps: int) -> Fraction:
        """Return what ``steps`` are worth at the price."""
        return Fraction(steps * self.step, UNIT) * self.price

    def cost(self, steps: int) -> int:
        """Return the expected slippage of selling ``steps``, in units, up."""
        return units_up(self.slippage * self.value(steps))

    def proceeds(self, steps: int, bought: Wallet) -> int:
        """Return the units of ``bought`` that selling ``steps`` brings, in whole steps of it."""
        return floor(self.value(steps) * (1 - self.slippage) / bought.price * UNIT / bought.step) * bought.step

    def slices(self) -> list[Slice]:
        """Return the weight slices from the top: a unit of value of weight w frees 1 - slippage - w.

        For a balance of whole steps that is sold for an asset that counts in full.
        """
        found, top = [], self.value(self.steps)
        weights = [(decimal(low), decimal(weight)) for low, weight in self._fields.get("weights", [["0", "1"]])]
        for low, weight in reversed(weights):
            if low < top:
                found.append((top - low, 1 - self.slippage - weight))
                top = low
        return found


@dataclass(frozen=True)
class Fractional:
    """The cheapest way to free a deficit in any parts: its cost in units, and that of the last unit freed."""

    cost: Fraction
    price: Fraction


def fractional_optimum(levers: Iterable[tuple[Fraction, Sequence[Slice]]], deficit: Fraction) -> Fractional | None:
    """Return the fractional optimum over (cost rate, slices) of each lever; None where not even everything does it.

    Rates fall from slice to slice, so taking all slices in order of cost per unit freed never takes a lower one first.
    """
    if deficit <= 0:
        return Fractional(Fraction(0), Fraction(0))
    pieces = [(cost / rate, length * rate) for cost, slices in levers for length, rate in slices if rate > 0]
    total = Fraction(0)
    for price, freed in sorted(pieces):
        total += price * min(freed, deficit)
        deficit -= freed
        if deficit <= 0:
            return Fractional(total * UNIT, price)
    return None


def sold_for(held: Sequence[Held], wallets: Sequence[Wallet]) -> str:
    """Return what collateral is sold for: the largest debt, else the settlement asset of the largest position."""
    debts = [wallet for wallet in wallets if wallet.balance < 0]
    if debts:
        return min(debts, key=lambda wallet: (wallet.balance * wallet.price, wallet.asset)).asset
    return min(held, key=lambda position: (-position.value(position.lots), position.name)).terms.settle
