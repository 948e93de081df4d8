"""A lever is one thing a plan can pull: a position to close or a balance to sell, in whole lots (README, "The plan").

Each lever says what it gives in two ways. Its *ladder* is the exact, unrounded model the cheapest plan is looked for
in: closing one unit of notional at rate r frees r x (1 + b) - c, selling one unit of value of weight w frees
1 - slippage - w. Its *effect* is what pulling it does to equity and maintenance margin once the contract's roundings
are applied; a plan is only believed once the effects say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

from engine.core.certificate import Ladder, Rung
from engine.core.params import Asset, Instrument, Policy
from engine.errors import check
from engine.units import PPM, UNIT, div_up


@dataclass(frozen=True, slots=True)
class PlanPosition:
    """A position that may be closed: signed size and mark in the instrument's steps, price of its settlement asset."""

    instrument: Instrument
    leg: str
    size_steps: int
    mark_steps: int
    settle_price_units: int


@dataclass(frozen=True, slots=True)
class PlanCollateral:
    """A wallet balance and the price of its asset."""

    asset: Asset
    balance_units: int
    price_units: int


@dataclass(frozen=True, slots=True)
class PlanAccount:
    """What a plan starts from: the margin as the engine computed it, and all that may be closed or sold."""

    equity_units: int
    maintenance_units: int
    positions: tuple[PlanPosition, ...]
    collaterals: tuple[PlanCollateral, ...] = ()


@dataclass(frozen=True, slots=True)
class Close:
    """Close ``qty_steps`` (> 0) of the position at ``position_index``."""

    position_index: int
    qty_steps: int


@dataclass(frozen=True, slots=True)
class Sale:
    """Sell ``amount_units`` of ``asset`` for ``for_asset``."""

    asset: str
    amount_units: int
    for_asset: str


def build_levers(account: PlanAccount, policy: Policy) -> list[Closing | Selling]:
    """Return a lever for each open position and each balance that can be sold, their ladders on one scale."""
    for position in account.positions:
        priced = position.mark_steps > 0 and position.settle_price_units > 0
        check(priced, f"{position.instrument.symbol}: mark or settlement price was not above 0")
    for item in account.collaterals:
        check(item.price_units > 0, f"{item.asset.name}: price_units was {item.price_units}, expected above 0")
    scale = lcm(UNIT, *(UNIT * _divisor(position) for position in account.positions))
    closings = [
        Closing(index, position, policy, scale)
        for index, position in enumerate(account.positions)
        if position.size_steps
    ]
    target = _try_target(account, closings)
    if target is None:
        return list(closings)
    sellings = [
        Selling(item, target, scale)
        for item in account.collaterals
        if item.balance_units >= item.asset.step_units and item.asset.name != target.name
    ]
    return [*closings, *(selling for selling in sellings if selling.ladder.value > 0)]


def _divisor(position: PlanPosition) -> int:
    """Return what the notional of any size of a position is a whole number of parts of, in settlement units."""
    return position.mark_steps if position.instrument.is_inverse else position.instrument.value_den


class Closing:
    """The lever of one position: closing its lots lowers the margin and costs fees and slippage."""

    def __init__(self, index: int, position: PlanPosition, policy: Policy, scale: int) -> None:
        item = position.instrument
        self.index = index
        self.size = abs(position.size_steps)
        self.lot_steps = item.lot_steps
        self.settle = item.settle
        self.settle_price = position.settle_price_units
        # The notional of n steps is n x step_notional / divisor, in settlement units.
        self.step_notional = item.value_num * (1 if item.is_inverse else position.mark_steps)
        self.divisor = _divisor(position)
        self.cost_ppm = item.taker_fee_ppm + item.liquidation_fee_ppm + item.slippage_ppm
        self.tiers = _tier_rows(item, policy)
        self.maintenance_before = self.maintenance(self.size)
        self.ladder = self._ladder(position, policy, scale)

    def _ladder(self, position: PlanPosition, policy: Policy, scale: int) -> Ladder:
        """Return tier slices from the top: a unit at rate r frees r x (1 + b) - c."""
        grains_per_unit = self.settle_price * (scale // UNIT)
        step_value = self.step_notional * grains_per_unit // self.divisor
        value = top = self.size * step_value
        rungs = []
        for floor_units, rate_ppm, _ in reversed(self.tiers):
            floor = floor_units * grains_per_unit
            if floor < top:
                rungs.append(Rung(top - floor, rate_ppm * (PPM + policy.target_buffer_ppm) - self.cost_ppm * PPM))
                top = floor
        lot_value, depth = self.lot_steps * step_value, position.instrument.depth_units
        level_lots = None if depth is None else max(depth * grains_per_unit // lot_value, 1)
        name = (0, position.instrument.symbol, position.leg)
        return Ladder(name, scale, value, lot_value, self.cost_ppm, tuple(rungs), level_lots)

    def maintenance(self, steps: int) -> int:
        """Return the maintenance margin of ``steps``: up in the settlement asset, then up by its price."""
        notional = steps * self.step_notional
        rate_ppm, deduction = 0, 0
        for floor_units, tier_rate_ppm, tier_deduction in self.tiers:
            if notional < floor_units * self.divisor:
                break
            rate_ppm, deduction = tier_rate_ppm, tier_deduction
        margin = div_up(notional * rate_ppm - deduction * self.divisor, self.divisor * PPM)
        return div_up(margin * self.settle_price, UNIT)

    def steps(self, lots: int) -> int:
        """Return the size of ``lots``; the last may be a part of one."""
        return min(lots * self.lot_steps, self.size)

    def cost(self, lots: int) -> int:
        """Return the expected cost of closing ``lots``: c x notional at the mark, in valuation units, rounded up."""
        notional = self.steps(lots) * self.step_notional
        return div_up(notional * self.cost_ppm * self.settle_price, self.divisor * PPM * UNIT)

    def effect(self, lots: int) -> tuple[int, int]:
        """Return how closing ``lots`` changes equity and maintenance margin."""
        return -self.cost(lots), self.maintenance(self.size - self.steps(lots)) - self.maintenance_before

    def order(self, lots: int) -> Close:
        """Return ``lots`` as a close."""
        return Close(self.index, self.steps(lots))


def _tier_rows(instrument: Instrument, policy: Policy) -> list[tuple[int, int, int]]:
    """Return (floor, rate, deduction in ppm of a unit) of each tier; ``whole`` tables have no deductions."""
    rows: list[tuple[int, int, int]] = []
    deduction = rate_before = 0
    for tier in instrument.tiers:
        if policy.tier_mode == "marginal":
            deduction += tier.floor_units * (tier.rate_ppm - rate_before)
        rows.append((tier.floor_units, tier.rate_ppm, deduction))
        rate_before = tier.rate_ppm
    return rows


@dataclass(frozen=True, slots=True)
class _Target:
    """What collateral is sold for.

    ``weight_ppm`` is what proceeds count at, ``step_units`` what they are rounded down to (a venue pays whole steps of
    the asset's decimals), ``room_units`` how much is wanted at most (None: any).
    """

    name: str
    price_units: int
    weight_ppm: int
    step_units: int
    room_units: int | None = None


class Selling:
    """The lever of one balance: selling it for an asset that counts in full frees its haircut and costs slippage."""

    def __init__(self, item: PlanCollateral, target: _Target, scale: int) -> None:
        self.item = item
        self.target = target
        self.value_before = self.value(item.balance_units)
        asset = item.asset
        grains_per_unit = item.price_units * (scale // UNIT)
        step_value = asset.step_units * grains_per_unit
        value = self._lots_sellable() * step_value
        rungs = self._rungs(item.balance_units * grains_per_unit, value, scale)
        self.ladder = Ladder((1, asset.name, ""), scale, value, step_value, asset.slippage_ppm, rungs)

    def _lots_sellable(self) -> int:
        """Return how many steps of the asset may be sold: all whole ones, as far as the target has room for them."""
        asset, room = self.item.asset, self.target.room_units
        lots = self.item.balance_units // asset.step_units
        if room is None:
            return lots
        proceeds_ppm = asset.step_units * self.item.price_units * (PPM - asset.slippage_ppm)
        return min(lots, room * self.target.price_units * PPM // proceeds_ppm)

    def _rungs(self, top: int, sellable: int, scale: int) -> tuple[Rung, ...]:
        """Return weight slices from the top: a unit of weight w frees (1 - slippage) x the target's weight - w."""
        asset, rungs = self.item.asset, []
        gained = (PPM - asset.slippage_ppm) * self.target.weight_ppm
        for floor_units, weight_ppm in reversed(asset.weights):
            length = min(top - floor_units * scale, sellable)
            if length > 0:
                rungs.append(Rung(length, gained - weight_ppm * PPM))
                top, sellable = top - length, sellable - length
        return tuple(rungs)

    def value(self, balance_units: int) -> int:
        """Return what a balance >= 0 counts for: by slices of its value, rounded down once."""
        value = balance_units * self.item.price_units
        counted, top = 0, value
        for floor_units, weight_ppm in reversed(self.item.asset.weights):
            if floor_units * UNIT < top:
                counted += (top - floor_units * UNIT) * weight_ppm
                top = floor_units * UNIT
        return counted // (UNIT * PPM)

    def cost(self, lots: int) -> int:
        """Return the expected slippage of selling ``lots``, rounded up."""
        value = lots * self.item.asset.step_units * self.item.price_units
        return div_up(value * self.item.asset.slippage_ppm, UNIT * PPM)

    def effect(self, lots: int) -> tuple[int, int]:
        """Return how selling ``lots`` changes equity, down, and maintenance margin, not at all."""
        amount = lots * self.item.asset.step_units
        proceeds = proceeds_floor(self.item, amount, self.target)
        gained = proceeds * self.target.price_units * self.target.weight_ppm // (UNIT * PPM)
        return self.value(self.item.balance_units - amount) - self.value_before + gained, 0

    def order(self, lots: int) -> Sale:
        """Return ``lots`` as a sale."""
        return Sale(self.item.asset.name, lots * self.item.asset.step_units, self.target.name)


def _try_target(account: PlanAccount, closings: Sequence[Closing]) -> _Target | None:
    """Return the largest debt, else the settlement asset of the largest position, else None."""
    debts = [item for item in account.collaterals if item.balance_units < 0]
    if debts:
        debt = min(debts, key=_by_value)
        is_full_weight = debt.asset.weights[-1][1] == PPM
        room = None if is_full_weight else -debt.balance_units
        return _Target(debt.asset.name, debt.price_units, PPM, debt.asset.step_units, room)
    if not closings:
        return None
    largest = min(closings, key=lambda closing: (-closing.ladder.value, closing.ladder.name))
    listed = {item.asset.name: item.asset for item in account.collaterals}
    asset = listed.get(largest.settle, Asset(largest.settle))
    return _Target(asset.name, largest.settle_price, asset.weights[-1][1], asset.step_units)


def proceeds_floor(item: PlanCollateral, amount_units: int, target: _Target) -> int:
    """Return the units of the target that a sale brings: at P / P_for x (1 - slippage), down to its whole steps."""
    value = amount_units * item.price_units * (PPM - item.asset.slippage_ppm)
    return value // (target.price_units * PPM * target.step_units) * target.step_units


def _by_value(item: PlanCollateral) -> tuple[int, str]:
    """Return the order of balances: the largest value, held or owed, first."""
    return -abs(item.balance_units) * item.price_units, item.asset.name
