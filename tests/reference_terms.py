"""What the risk file says about one position: its value, margins and cash, as exact fractions.

The formulas of CONTRACT section 4, one function each, before any rounding; who rounds which way is said by the
callers. A risk dict has the shape of the parsed risk file: ``{"policy": {..}, "assets": {..}, "instruments": {..}}``.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tests.reference_numbers import decimal, half_even, step_decimals

DEFAULT_WEIGHTS = [["0", "1"]]
ASSET_PRICE_DECIMALS = 8


@dataclass(frozen=True)
class Tier:
    """From ``floor`` of notional on: maintenance rate, its deduction, largest leverage."""

    floor: Fraction
    rate: Fraction
    deduction: Fraction
    max_leverage: Fraction


@dataclass(frozen=True)
class Terms:
    """One instrument of the risk file."""

    symbol: str
    is_inverse: bool
    settle: str
    multiplier: Fraction
    price_tick: Fraction
    mark_decimals: int
    tiers: tuple[Tier, ...]

    @property
    def mark_step(self) -> Fraction:
        """The distance between two neighbours on the mark grid."""
        return 1 / Fraction(10) ** self.mark_decimals


def read_terms(risk: dict[str, Any], symbol: str) -> Terms:
    """Return the instrument ``symbol`` with the contract's defaults filled in."""
    if symbol not in risk.get("instruments", {}):
        raise ValueError(f"instrument {symbol} is not in the risk file")
    fields = risk["instruments"][symbol]
    lot = decimal(fields["lot"])
    return Terms(
        symbol=symbol,
        is_inverse=fields.get("kind", "linear") == "inverse",
        settle=fields["settle"],
        multiplier=decimal(fields.get("multiplier", 1)),
        price_tick=decimal(fields["price_tick"]),
        mark_decimals=int(fields.get("mark_decimals", 8 - step_decimals(lot))),
        tiers=read_tiers(fields["tiers"]),
    )


def read_tiers(rows: list[list[Any]]) -> tuple[Tier, ...]:
    """Return the tiers with deduction_k = deduction_(k-1) + floor_k x (rate_k - rate_(k-1)), deduction_0 = 0."""
    tiers: list[Tier] = []
    for row in rows:
        floor, rate, max_leverage = (decimal(cell) for cell in row)
        deduction = tiers[-1].deduction + floor * (rate - tiers[-1].rate) if tiers else Fraction(0)
        tiers.append(Tier(floor, rate, deduction, max_leverage))
    return tuple(tiers)


def tier_at(terms: Terms, notional: Fraction) -> Tier:
    """Return the tier a notional lies in; one equal to a floor belongs to the tier that begins there."""
    return [tier for tier in terms.tiers if tier.floor <= notional][-1]


def value_at(terms: Terms, qty: Fraction, price: Fraction) -> Fraction:
    """Return what ``qty`` is worth in the settlement asset, signed so that PnL = value + cost.

    Linear q·m·p. Inverse -q·m/p: a long in contracts is short of the coin it is settled in.
    """
    return -qty * terms.multiplier / price if terms.is_inverse else qty * terms.multiplier * price


def notional_at(terms: Terms, qty: Fraction, price: Fraction) -> Fraction:
    """Return the notional in the settlement asset: |q|·m·p, or |q|·m/p for an inverse contract."""
    return abs(value_at(terms, qty, price))


def maintenance_margin(terms: Terms, notional: Fraction, tier_mode: str) -> Fraction:
    """Return max over the tiers of n·rate - deduction, or in ``whole`` mode the tier's rate on all of it."""
    if tier_mode == "whole":
        return notional * tier_at(terms, notional).rate
    return max(notional * tier.rate - tier.deduction for tier in terms.tiers)


def initial_margin(terms: Terms, notional: Fraction) -> Fraction:
    """Return notional / max_leverage of its tier."""
    return notional / tier_at(terms, notional).max_leverage


def entry_price(terms: Terms, qty: Fraction, cost: Fraction) -> Fraction | None:
    """Return the price at which ``qty`` was worth what it cost, or None for an inverse position that cost nothing."""
    if not terms.is_inverse:
        return -cost / (qty * terms.multiplier)
    return qty * terms.multiplier / cost if cost else None


def collateral_value(risk: dict[str, Any], asset: str, amount: Fraction, price: Fraction) -> Fraction:
    """Return what a wallet balance counts for: each slice of its value by its weight, a debt in full."""
    value = amount * price
    if value < 0:
        return value
    rows = risk["assets"].get(asset, {}).get("weights", DEFAULT_WEIGHTS)
    slices = [(decimal(floor), decimal(weight)) for floor, weight in rows]
    total = Fraction(0)
    for index, (floor, weight) in enumerate(slices):
        ceiling = min(value, slices[index + 1][0]) if index + 1 < len(slices) else value
        total += max(ceiling - floor, Fraction(0)) * weight
    return total


def policy_of(risk: dict[str, Any], key: str, default: str) -> str:
    """Return one word of the policy, or the contract's default for an absent key."""
    return str(risk.get("policy", {}).get(key, default))


@dataclass(frozen=True)
class Market:
    """The risk dict and its instruments, with the marks and asset prices that hold now, rounded as they arrive."""

    risk: dict[str, Any]
    instruments: dict[str, Terms]
    marks: dict[str, Fraction]
    prices: dict[str, Fraction]

    def mark(self, symbol: str) -> Fraction:
        """Return the mark of ``symbol``; a missing one is the caller's error and named."""
        if symbol not in self.marks:
            raise ValueError(f"the mark of {symbol} is missing")
        return self.marks[symbol]

    def price(self, asset: str) -> Fraction:
        """Return the price of ``asset``: fixed in the risk file, else the latest; the valuation currency is worth 1."""
        fixed = self.risk.get("assets", {}).get(asset, {}).get("price", "none")
        if fixed != "none":
            return decimal(fixed)
        if asset in self.prices:
            return self.prices[asset]
        if asset == policy_of(self.risk, "valuation", "USD"):
            return Fraction(1)
        raise ValueError(f"the price of {asset} is missing")


def read_market(book: dict[str, Any], risk: dict[str, Any]) -> Market:
    """Return the market of a book: marks half-even to mark_decimals, asset prices half-even to 8 decimals."""
    instruments = {symbol: read_terms(risk, symbol) for symbol in risk.get("instruments", {})}
    marks = {symbol: round_mark(risk, symbol, text) for symbol, text in book.get("marks", {}).items()}
    prices = {asset: round_asset_price(text) for asset, text in book.get("asset_prices", {}).items()}
    return Market(risk, instruments, marks, prices)


def round_mark(risk: dict[str, Any], symbol: str, text: str) -> Fraction:
    """Return a mark as it is used: half-even on the instrument's grid, because venues publish more digits."""
    return half_even(decimal(text), read_terms(risk, symbol).mark_decimals)


def round_asset_price(text: str) -> Fraction:
    """Return an asset price as it is used: half-even to 8 decimals."""
    return half_even(decimal(text), ASSET_PRICE_DECIMALS)
