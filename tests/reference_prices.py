"""At which mark an account becomes liquidatable, and at which a position leaves nothing: two prices, found exactly.

The liquidation price is searched on the mark grid with the account's own rounded figures, never with a formula that
could differ from them by a unit. Roundings make those figures jump up and down by a few units near the edge, whole
tiers make them jump by a lot; so nothing is assumed monotone but each leg's PnL and margin alone:

    1. Cut the grid where a leg changes tier. Between two cuts E - MM before rounding is a straight line (in the
       price, or in 1/price for an inverse contract), so on a piece it lies between its ends, give or take roundings.
    2. Halve a piece until those bounds, or the sums of the legs' own bounds, decide it; take the half nearer to the
       mark first. What is found is the nearest grid price on the other side of the trigger.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor, lcm

from tests.reference_book import Position
from tests.reference_numbers import UNIT, units_floor, units_up
from tests.reference_terms import Terms, maintenance_margin, notional_at, value_at

# Ends a search on a slope so flat that only roundings decide; a real account needs a few hundred evaluations.
EVALUATIONS_MAX = 200_000


class FlatEdge(RuntimeError):
    """The search gives up: E - MM hardly moves from price to price, and only roundings decide where it ends."""


@dataclass
class Frozen:
    """A holding with everything frozen but the legs of one symbol; units are of the valuation currency."""

    terms: Terms
    legs: list[Position]
    price: Fraction
    equity_units: int
    maintenance_units: int
    tier_mode: str
    below: bool
    figures: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def at(self, steps: int) -> list[tuple[int, int]]:
        """Return each leg's (PnL, MM) in units at one price of the mark grid."""
        if steps not in self.figures:
            if len(self.figures) >= EVALUATIONS_MAX:
                raise FlatEdge(f"{self.terms.symbol}: E - MM is flat on its edge, only roundings decide")
            self.figures[steps] = [self.leg_at(leg, steps * self.terms.mark_step) for leg in self.legs]
        return self.figures[steps]

    def leg_at(self, leg: Position, mark: Fraction) -> tuple[int, int]:
        """Return one leg's PnL, down, and MM, up in the settlement asset and up again, in units."""
        pnl = value_at(self.terms, leg.qty, mark) + Fraction(leg.cost, UNIT)
        notional = notional_at(self.terms, leg.qty, mark)
        maintenance = units_up(maintenance_margin(self.terms, notional, self.tier_mode))
        return units_floor(pnl * self.price), ceil(maintenance * self.price)

    def slack(self, steps: int) -> int:
        """Return E - MM in units at one price of the mark grid."""
        return self.equity_units - self.maintenance_units + sum(pnl - margin for pnl, margin in self.at(steps))

    def try_verdict(self, low: int, high: int) -> bool | None:
        """Return whether the account is liquidatable at every price from ``low`` to ``high`` (True) or at none (False).

        None where the bounds decide neither; never where ``low`` is ``high``. Both must lie in one piece.
        """
        pairs = list(zip(self.at(low), self.at(high), strict=True))
        margin_low = self.maintenance_units + sum(min(a[1], b[1]) for a, b in pairs)
        margin_high = self.maintenance_units + sum(max(a[1], b[1]) for a, b in pairs)
        equity_low = self.equity_units + sum(min(a[0], b[0]) for a, b in pairs)
        equity_high = self.equity_units + sum(max(a[0], b[0]) for a, b in pairs)
        ends = self.slack(low), self.slack(high)
        slack_low = max(equity_low - margin_high, min(ends) - self.rounding_units)
        slack_high = min(equity_high - margin_low, max(ends) + self.rounding_units)
        if margin_low > 0 and (slack_high < 0 or (slack_high == 0 and not self.below)):
            return True
        if margin_high == 0 or slack_low > 0 or (slack_low == 0 and self.below):
            return False
        return None

    @property
    def rounding_units(self) -> int:
        """The most by which roundings lower E - MM: per leg one unit of PnL, of MM, and of MM·P one settlement unit."""
        return ceil(len(self.legs) * (2 + self.price))

    def cuts(self) -> list[int]:
        """Return the grid prices that end a piece: the last ones before a leg changes tier."""
        ends = set()
        for leg in self.legs:
            unit_notional = abs(leg.qty) * self.terms.multiplier
            for tier in self.terms.tiers[1:]:
                if self.terms.is_inverse:  # the notional falls with the price and equals the floor at the last one
                    ends.add(floor(unit_notional / tier.floor / self.terms.mark_step))
                else:  # the notional reaches the floor at the first price after the cut
                    ends.add(ceil(tier.floor / unit_notional / self.terms.mark_step) - 1)
        return sorted(ends)


def liquidation_price(frozen: Frozen, mark: Fraction) -> Fraction | None:
    """Return the liquidatable grid price nearest to the mark whose neighbour is not liquidatable, or None.

    From inside the region it is the last liquidatable price before the nearest healthy one. Of two equally near
    the lower is taken.
    """
    start = int(mark / frozen.terms.mark_step)
    is_inside = frozen.try_verdict(start, start)
    below = find_below(frozen, start, wanted=not is_inside)
    above = find_above(frozen, start, wanted=not is_inside)
    back = 1 if is_inside else 0  # what was found is healthy then; the edge is one step back toward the mark
    edges = [steps for steps in (below and below + back, above and above - back) if steps]
    if not edges:
        return None
    return min(edges, key=lambda steps: (abs(steps - start), steps)) * frozen.terms.mark_step


def find_below(frozen: Frozen, start: int, *, wanted: bool) -> int | None:
    """Return the highest price under ``start`` at which ``is liquidatable`` is ``wanted``, or None above 0."""
    high = start - 1
    for cut in [*reversed(frozen.cuts()), 0]:
        if cut < high:
            found = find_in_piece(frozen, cut + 1, high, wanted=wanted, upward=False)
            if found is not None:
                return found
            high = cut
    return None


def find_above(frozen: Frozen, start: int, *, wanted: bool) -> int | None:
    """Return the lowest price over ``start`` at which ``is liquidatable`` is ``wanted``, or None."""
    low = start + 1
    for cut in frozen.cuts():
        if cut >= low:
            found = find_in_piece(frozen, low, cut, wanted=wanted, upward=True)
            if found is not None:
                return found
            low = cut + 1
    while True:  # the last piece has no end: look at it in stretches, each as long as the way so far
        found = find_in_piece(frozen, low, 2 * low, wanted=wanted, upward=True)
        if found is not None or is_settled(frozen, 2 * low, wanted=wanted):
            return found
        low = 2 * low + 1


def is_settled(frozen: Frozen, steps: int, *, wanted: bool) -> bool:
    """Return whether no price from ``steps`` up, all in the last piece, can have the ``wanted`` verdict."""
    if frozen.terms.is_inverse:
        # Values approach zero: past this price they are less than the finest fraction a cost times P can have
        # (1e-8 of a unit), so that every rounded figure stays what it is.
        finest = Fraction(1, 10**8 * UNIT)
        nearest = max(abs(leg.qty) * frozen.terms.multiplier for leg in frozen.legs) * max(frozen.price, Fraction(1))
        return steps * frozen.terms.mark_step > nearest / finest
    rate = frozen.terms.tiers[-1].rate
    if rate == 0 and frozen.maintenance_units == 0:
        return True  # nothing is ever required, so nothing is ever liquidatable
    slope = sum((leg.qty - abs(leg.qty) * rate for leg in frozen.legs), Fraction(0)) * frozen.terms.multiplier
    slack = frozen.slack(steps)
    if wanted and slope >= 0 and slack > frozen.rounding_units:
        return True
    if not wanted and slope <= 0 and slack < -frozen.rounding_units:
        return True
    # Level and on its edge: only roundings move, and they repeat; the last stretch, half the way, has shown them all.
    return slope == 0 and steps // 2 >= rounding_period(frozen)


def rounding_period(frozen: Frozen) -> int:
    """Return a count of grid steps after which every rounded figure of a linear contract has moved by whole units."""
    period = 1
    for leg in frozen.legs:
        units_a_step = leg.qty * frozen.terms.multiplier * frozen.terms.mark_step * UNIT
        margin_a_step = units_a_step * frozen.terms.tiers[-1].rate
        # MM is rounded twice: whole settlement units first, and these times P must be whole again.
        twice = margin_a_step.denominator * frozen.price.denominator
        period = lcm(period, (units_a_step * frozen.price).denominator, twice)
    return period


def find_in_piece(frozen: Frozen, low: int, high: int, *, wanted: bool, upward: bool) -> int | None:
    """Return the first price of a piece, from below or from above, with the ``wanted`` verdict, or None."""
    verdict = frozen.try_verdict(low, high)
    if verdict is not None:
        return None if verdict != wanted else low if upward else high
    middle = (low + high) // 2
    halves = [(low, middle), (middle + 1, high)]
    for part in halves if upward else reversed(halves):
        found = find_in_piece(frozen, *part, wanted=wanted, upward=upward)
        if found is not None:
            return found
    return None


def bankruptcy_price(
    terms: Terms, qty: Fraction, *, mark: Fraction, price: Fraction, equity_share: Fraction | None
) -> Fraction | None:
    """Return the price at which closing the position uses up ``equity_share``, on the tick on the fund's side.

    A long is sold: up to the tick, so that what it brings is never less than what was counted on. A short is bought
    back: down. None where nothing is required (no share), or where an inverse position cannot lose its share.
    """
    if equity_share is None:
        return None
    sign = 1 if qty > 0 else -1
    move = sign * equity_share / (price * abs(qty) * terms.multiplier)
    if terms.is_inverse:
        reciprocal = 1 / mark + move
        if reciprocal <= 0:
            return None
        exact = 1 / reciprocal
    else:
        exact = mark - move
    ticks = exact / terms.price_tick
    return (ceil(ticks) if qty > 0 else floor(ticks)) * terms.price_tick
