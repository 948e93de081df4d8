"""A plan is certified by the least any plan can cost, beside what two usual rules would have cost (README, "The plan").

A *ladder* is what one position gives when it is closed, or one balance when it is sold, from the top down. Its rungs
are slices of value (a maintenance tier, a collateral weight), each freeing at its own constant rate; the deeper, the
less. So each ladder's first rungs are its best, and the linear program "free the deficit at least cost" is solved by
taking all rungs in order of cost per unit freed: the *fractional optimum*. No plan in whole lots can cost less.

Weak duality makes it checkable without trusting the order: for any price y >= 0 of a unit freed, every plan costs at
least y x deficit - sum over rungs of max(0, y x freed rate - cost rate) x length. ``dual_price``, the cost of the last
unit freed, makes this bound equal to the fractional optimum.

Scales, all integers and exact: a value is counted in *grains*, 1 / ``scale`` of a valuation unit, where ``scale`` is
common to the ladders of an account and such that every lot and slice is whole grains; freed rates are in 1e-12
(``RATE``), cost rates in ppm, and what is freed in grains x 1e-12.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any

from engine.units import PPM, div_up, format_scaled, format_units

RATE = PPM * PPM
DUAL_PRICE_DECIMALS = 12


@dataclass(frozen=True, slots=True)
class Rung:
    """A slice of value, each unit of which frees ``freed_rate`` towards the target (below zero: it costs more)."""

    length: int
    freed_rate: int


@dataclass(frozen=True, slots=True)
class Ladder:
    """One position to close or one balance to sell, from the top down, in grains.

    ``name`` decides ties: (0 for a close or 1 for a sale, symbol or asset, leg). ``lot_value`` is the smallest step,
    ``level_lots`` how many lots one level of depth takes (None: all).
    """

    name: tuple[int, str, str]
    scale: int
    value: int
    lot_value: int
    cost_ppm: int
    rungs: tuple[Rung, ...]
    level_lots: int | None = None

    @property
    def is_sale(self) -> bool:
        """True where collateral is sold, False where a position is closed."""
        return self.name[0] == 1

    @property
    def lots(self) -> int:
        """How many lots there are; the last may be a part of one."""
        return div_up(self.value, self.lot_value)

    def value_of(self, lots: int) -> int:
        """Return the value of the first ``lots``."""
        return min(lots * self.lot_value, self.value)

    def freed_by(self, value: int, parts: int = 1) -> int:
        """Return ``parts`` times what the first ``value`` / ``parts`` grains free."""
        freed = 0
        for rung in self.rungs:
            length = rung.length * parts
            if value <= length:
                return freed + value * rung.freed_rate
            freed += length * rung.freed_rate
            value -= length
        return freed

    def cost_up(self, value: int) -> int:
        """Return the expected cost of ``value`` rounded up to whole lots, in units, rounded up."""
        return div_up(self.cost_ppm * self.value_of(div_up(value, self.lot_value)), self.scale * PPM)


def certificate(
    ladders: Sequence[Ladder],
    deficit_ppm: int,
    needed_ppm: int,
    cost_units: int,
    *,
    is_met: bool,
    is_bounded: bool,
) -> dict[str, Any]:
    """Return the certificate of a plan that costs ``cost_units``, as decimal strings.

    deficit        (1 + b) MM - E, or 0 where that is less; rounded up
    bound          the fractional optimum, rounded down; null where not even everything frees the deficit, and with
                   tier_mode = "whole"
    dual_price     cost of the last unit freed in it, rounded down; null likewise
    cost, gap      of the plan: its expected cost, and how far that is above the bound (null without one, and where the
                   plan misses the target, ``is_met``: what frees too little may well cost less)
    largest_first  the largest position closed first, as much as ``needed``, then the next; in whole lots, like the plan
    pro_rata       the same fraction of every position, each rounded up to the lot

    ``needed`` is the deficit, or one unit more where that unit takes the account out of the trigger; both are in
    millionths of a unit. A rule that does not reach it short of everything costs what closing everything does.
    Without ``is_bounded`` the ladders understate what a close frees, and there is no bound, dual price or gap.
    """
    optimum = fractional_optimum(ladders, deficit_ppm) if is_bounded else None
    bound_units = floor(optimum[0]) if optimum else None
    price = format_scaled(floor(optimum[1] * 10**DUAL_PRICE_DECIMALS), DUAL_PRICE_DECIMALS) if optimum else None
    closes = [ladder for ladder in ladders if not ladder.is_sale]
    return {
        "deficit": format_units(div_up(deficit_ppm, PPM)),
        "bound": None if bound_units is None else format_units(bound_units),
        "dual_price": price,
        "cost": format_units(cost_units),
        "gap": None if bound_units is None or not is_met else format_units(cost_units - bound_units),
        "largest_first": format_units(largest_first(closes, needed_ppm)),
        "pro_rata": format_units(pro_rata(closes, needed_ppm)),
    }


def fractional_optimum(ladders: Sequence[Ladder], deficit_ppm: int) -> tuple[Fraction, Fraction] | None:
    """Return the least cost in units of freeing the deficit in any parts, and that of the last unit; None: no way."""
    if deficit_ppm <= 0 or not ladders:
        return None if deficit_ppm > 0 else (Fraction(0), Fraction(0))
    scale = ladders[0].scale
    rungs = [
        (Fraction(ladder.cost_ppm * PPM, rung.freed_rate), rung.freed_rate * rung.length)
        for ladder in ladders
        for rung in ladder.rungs
        if rung.freed_rate > 0
    ]
    cost, needed = Fraction(0), deficit_ppm * scale * PPM
    for price, freed in sorted(rungs):
        cost += price * min(freed, needed)
        needed -= freed
        if needed <= 0:
            return Fraction(cost, scale * RATE), price
    return None


def largest_first(closes: Sequence[Ladder], needed_ppm: int) -> int:
    """Return the cost of closing the largest position first, each whole before the next, until enough is freed."""
    cost_units = 0
    needed = needed_ppm * PPM * closes[0].scale if closes else 0
    for ladder in sorted(closes, key=lambda ladder: (-ladder.value, ladder.name)):
        value = try_value_freeing(ladder, needed)
        if value is not None:
            return cost_units + ladder.cost_up(value)
        cost_units += ladder.cost_up(ladder.value)
        needed -= ladder.freed_by(ladder.value)
    return cost_units


def try_value_freeing(ladder: Ladder, needed: int) -> int | None:
    """Return the least value of one ladder, from the top, that frees ``needed``; None where none does."""
    value = 0
    for rung in ladder.rungs:
        if needed <= 0:
            break
        if rung.freed_rate <= 0:
            return None
        part = min(rung.length, div_up(needed, rung.freed_rate))
        value, needed = value + part, needed - part * rung.freed_rate
    return value if needed <= 0 else None


def pro_rata(closes: Sequence[Ladder], needed_ppm: int) -> int:
    """Return the cost of closing the same fraction of every position, the least that frees what is needed."""
    if needed_ppm <= 0 or not closes:
        return 0
    needed = needed_ppm * PPM * closes[0].scale
    part_before = freed_before = Fraction(0)
    for part in sorted({part for ladder in closes for part in rung_ends(ladder)}):
        above, below = part.numerator, part.denominator
        freed = Fraction(sum(ladder.freed_by(ladder.value * above, below) for ladder in closes), below)
        if freed >= needed:
            # Between two ends, what is freed grows linearly.
            rise = Fraction(needed - freed_before, freed - freed_before)
            part_needed = part_before + (part - part_before) * rise
            return sum(ladder.cost_up(ceil(part_needed * ladder.value)) for ladder in closes)
        part_before, freed_before = part, freed
    return sum(ladder.cost_up(ladder.value) for ladder in closes)


def rung_ends(ladder: Ladder) -> list[Fraction]:
    """Return where each rung ends, as a fraction of the ladder."""
    ends, end = [], 0
    for rung in ladder.rungs:
        end += rung.length
        ends.append(Fraction(end, ladder.value))
    return ends
