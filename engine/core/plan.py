"""The cheapest reduce-only closes and collateral sales that make an account healthy again (README, "The plan").

How the plan is found, all in exact integers. A *lever* is a position to close or a balance to sell (``levers.py``),
its *ladder* what it gives from the top down (``certificate.py``).

1. Every position is a ladder of tier slices from the top, every asset that can be sold one of weight slices. Closing
   one unit of notional at rate r frees r x (1 + b) - c; selling one unit of value of weight w frees 1 - slippage - w.
2. The slices are cut at whole lots: a lot across two of them goes with the upper one, unless it frees nothing.
3. Slices are taken by cost per unit freed until the deficit is freed; the last one in part, rounded up to the lot. What
   frees nothing is never taken. So the rounding of each touched position costs at most a lot.
4. The margin after the plan is predicted with the contract's roundings. Where a rounding leaves it short, more is
   taken; then, from the dearest to the cheapest, each ladder gives back the lots that are not needed (prune).
5. A position whose rest would be under ``min_notional`` is closed whole, and the others are planned again around it.
6. Where nothing short of everything suffices, everything is closed.

What the contract leaves open, and how it is read here:

* *Levels of depth.* The contract knows one cost per unit of notional, so each level costs the same, and which is taken
  decides only between equals: the first ``depth`` of every position goes before the second of any, since a venue fills
  one level per mark. Depth never makes a plan smaller or dearer.
* *What a sale buys.* Proceeds that pay a debt count in full, other proceeds by the lowest weight of ``for_asset`` (an
  asset not listed has weight 1), so that a plan never counts on more than it gets. Where that weight is below 1, no
  balance is sold for more than the debt. Closing costs are counted in full, whatever the asset they are paid in.
* *Positions left out.* The account's margin may hold more than the positions given (a paused or stale symbol): those
  stay as they are, and "everything" means all that is given.
* *whole tiers.* Slices are taken as if marginal, which frees no more than the whole table does; the prediction and
  the prune go by the real table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from operator import ge
from typing import Any, Literal

from engine.core.certificate import Ladder, certificate
from engine.core.kernels.margin import is_liquidatable
from engine.core.levers import (
    Close,
    Closing,
    PlanAccount,
    PlanCollateral,
    PlanPosition,
    Sale,
    Selling,
    build_levers,
)
from engine.core.params import Policy
from engine.units import PPM, div_up, format_units

__all__ = [
    "Close",
    "Plan",
    "PlanAccount",
    "PlanCollateral",
    "PlanPosition",
    "Planner",
    "Sale",
    "Search",
    "plan_liquidation",
]

# Beyond this many levels of depth the rest of a position counts as one: it only breaks ties.
LEVELS_MAX = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """What to close and to sell, its expected cost in valuation units and why that is (nearly) the least."""

    stage: Literal["partial", "full"]
    closes: tuple[Close, ...]
    sales: tuple[Sale, ...]
    cost_units: int
    certificate: dict[str, Any]


# What makes a plan. The engine has one; ``tools/alternatives.py`` runs others beside it, to compare.
Planner = Callable[[PlanAccount, Policy], "Plan"]


def plan_liquidation(account: PlanAccount, policy: Policy) -> Plan:
    """Return what to close and to sell so that the account meets its target; empty where it already does."""
    return Search(account, policy).find()


class Search:
    """One search for a plan; ``lots`` in its methods are lots per lever, in the order of ``levers``."""

    def __init__(self, account: PlanAccount, policy: Policy) -> None:
        self.account = account
        self.policy = policy
        self.levers = build_levers(account, policy)
        # One millionth of a unit of equity, as ladders count what is freed.
        self.points = self.levers[0].ladder.scale * PPM if self.levers else 1
        self.runs = sorted(
            (run for index, lever in enumerate(self.levers) for run in _runs(index, lever.ladder)),
            key=lambda run: (run.price, run.level, self.levers[run.lever].ladder.name, run.start),
        )

    def find(self) -> Plan:
        """Return the plan: nothing where the target is met, all there is where no choice of less will do."""
        nothing = [0] * len(self.levers)
        if self.shortfall(nothing) == 0:
            return self.plan(nothing, "partial")
        lots, everything = self.try_choose(), self.everything()
        if lots is None or (any(everything) and all(map(ge, lots, everything))):
            return self.plan(everything, "full")
        return self.plan(lots, "partial")

    def everything(self) -> list[int]:
        """Return the lots that close all positions and sell nothing."""
        return [0 if lever.ladder.is_sale else lever.ladder.lots for lever in self.levers]

    def try_choose(self) -> list[int] | None:
        """Return the lots that the policy's rule closes and sells; None where it is all at once."""
        if self.policy.partial == "cheapest":
            return self.try_cheapest()
        return self.fixed() if self.policy.partial == "fixed" else None

    def try_cheapest(self) -> list[int] | None:
        """Return the lots of the cheapest plan; None where nothing short of everything suffices."""
        forced = [0] * len(self.levers)
        while True:
            lots = self.try_reach(forced)
            if lots is None:
                return None
            # What one lever gives back can make room for another to: a sale that brought less than it took.
            while self.prune(lots, forced):
                pass
            dust = self.dust(lots)
            if not dust:
                return lots
            # Each round closes at least one more position whole, so there are at most as many as positions.
            for index in dust:
                forced[index] = self.levers[index].ladder.lots

    def try_reach(self, forced: Sequence[int]) -> list[int] | None:
        """Return the forced lots and the cheapest others that meet the target together; None where none do."""
        needed = self.shortfall([0] * len(self.levers)) * self.points
        while True:
            lots = self.take(needed, forced)
            short = self.shortfall(lots)
            if short == 0:
                return lots
            freed = self.freed(lots)
            if freed < needed:
                return None
            # The roundings took more than the last lot had to spare: more than these lots free is needed.
            needed = freed + short * self.points

    def take(self, needed: int, forced: Sequence[int]) -> list[int]:
        """Return the forced lots and as many of the runs, in their order, as free ``needed``."""
        lots = list(forced)
        needed -= self.freed(forced)
        for run in self.runs:
            if needed <= 0:
                break
            if forced[run.lever]:
                continue
            length = run.stop - run.start
            if run.freed > needed:
                length = div_up(needed * length, run.freed)
            lots[run.lever] = run.start + length
            needed -= run.freed
        return lots

    def freed(self, lots: Sequence[int]) -> int:
        """Return what these lots free before any rounding, as ladders count it."""
        ladders = [lever.ladder for lever in self.levers]
        return sum(
            ladder.freed_by(ladder.value_of(count)) for ladder, count in zip(ladders, lots, strict=True) if count
        )

    def prune(self, lots: list[int], forced: Sequence[int]) -> bool:
        """Give back, from the dearest run to the cheapest, what the target does not need; return if there was any."""
        before = sum(lots)
        effects = [lever.effect(count) for lever, count in zip(self.levers, lots, strict=True)]
        for run in reversed(self.runs):
            if run.start < lots[run.lever] <= run.stop and not forced[run.lever]:
                lots[run.lever] = self.fewest(run.lever, lots[run.lever], effects)
                effects[run.lever] = self.levers[run.lever].effect(lots[run.lever])
        return sum(lots) < before

    def fewest(self, index: int, lots: int, effects: Sequence[tuple[int, int]]) -> int:
        """Return the fewest lots of one lever with which the target holds; with ``lots`` it does.

        Every run taken frees something, so the target holds from some number of lots on, and halving finds it.
        """
        equity = self.account.equity_units + sum(effect[0] for effect in effects) - effects[index][0]
        maintenance = self.account.maintenance_units + sum(effect[1] for effect in effects) - effects[index][1]
        lever = self.levers[index]
        short, enough, probe = -1, lots, lots - 1
        while enough - short > 1:
            equity_change, maintenance_change = lever.effect(probe)
            if self.short_of_target(equity + equity_change, maintenance + maintenance_change) == 0:
                enough = probe
            else:
                short = probe
            probe = (short + enough) // 2
        return enough

    def dust(self, lots: Sequence[int]) -> list[int]:
        """Return the levers whose position would keep a rest under ``min_notional``."""
        found = []
        for index, (lever, count) in enumerate(zip(self.levers, lots, strict=True)):
            ladder = lever.ladder
            is_cut = not ladder.is_sale and 0 < count < ladder.lots
            if is_cut and ladder.value - ladder.value_of(count) < self.policy.min_notional_units * ladder.scale:
                found.append(index)
        return found

    def fixed(self) -> list[int]:
        """Return ``fraction`` of each position above ``fraction_above``, up to the lot; the others, and dust, whole."""
        lots = []
        for lever in self.levers:
            ladder = lever.ladder
            part_ppm = self.policy.fraction_ppm
            if ladder.is_sale:
                part_ppm = 0
            elif ladder.value <= self.policy.fraction_above_units * ladder.scale:
                part_ppm = PPM
            lots.append(div_up(ladder.value * part_ppm, ladder.lot_value * PPM))
        for index in self.dust(lots):
            lots[index] = self.levers[index].ladder.lots
        return lots

    def shortfall(self, lots: Sequence[int]) -> int:
        """Return what is missing after these lots, in millionths of a unit; 0 where the target holds."""
        return self.short_of_target(*self.outcome(lots))

    def outcome(self, lots: Sequence[int]) -> tuple[int, int]:
        """Return equity and maintenance margin after these lots, at their expected cost."""
        equity, maintenance = self.account.equity_units, self.account.maintenance_units
        for lever, count in zip(self.levers, lots, strict=True):
            if count:
                equity_change, maintenance_change = lever.effect(count)
                equity, maintenance = equity + equity_change, maintenance + maintenance_change
        return equity, maintenance

    def short_of_target(self, equity: int, maintenance: int) -> int:
        """Return what equity misses to E >= (1 + b) MM and to leave the trigger, in millionths of a unit, or 0."""
        below = self.policy.trigger == "below"
        short = self.deficit(equity, maintenance)
        if is_liquidatable(equity, maintenance, below):
            return max(short, (maintenance - equity + (0 if below else 1)) * PPM)
        return short

    def deficit(self, equity: int, maintenance: int) -> int:
        """Return (1 + b) MM - E in millionths of a unit, or 0 where that is less."""
        return max((PPM + self.policy.target_buffer_ppm) * maintenance - PPM * equity, 0)

    def plan(self, lots: Sequence[int], stage: Literal["partial", "full"]) -> Plan:
        """Return these lots as a plan with its certificate."""
        chosen = [(lever, count) for lever, count in zip(self.levers, lots, strict=True) if count]
        cost_units = sum(lever.cost(count) for lever, count in chosen)
        equity, maintenance = self.outcome(lots)
        start = (self.account.equity_units, self.account.maintenance_units)
        ladders = [lever.ladder for lever in self.levers]
        proof = certificate(
            ladders,
            self.deficit(*start),
            self.short_of_target(*start),
            cost_units,
            is_met=self.short_of_target(equity, maintenance) == 0,
            # A whole table frees more than its marginal slices do: their optimum is no bound then.
            is_bounded=self.policy.tier_mode == "marginal",
        )
        return Plan(
            stage=stage,
            closes=tuple(lever.order(count) for lever, count in chosen if isinstance(lever, Closing)),
            sales=tuple(lever.order(count) for lever, count in chosen if isinstance(lever, Selling)),
            cost_units=cost_units,
            certificate={
                "target": format_units(div_up((PPM + self.policy.target_buffer_ppm) * start[1], PPM)),
                **proof,
                "equity_after": format_units(equity),
                "maintenance_margin_after": format_units(maintenance),
            },
        )


@dataclass(frozen=True, slots=True)
class _Run:
    """Lots ``start`` to ``stop`` of a lever: ``freed`` by all of them together, ``price`` per unit freed."""

    lever: int
    start: int
    stop: int
    level: int
    freed: int
    price: Fraction


def _runs(index: int, ladder: Ladder) -> list[_Run]:
    """Return the runs of a ladder that free something: its rungs in whole lots, cut where a level of depth ends."""

    def freed(start: int, stop: int) -> int:
        return ladder.freed_by(ladder.value_of(stop)) - ladder.freed_by(ladder.value_of(start))

    level_lots = ladder.level_lots or ladder.lots
    level_ends = range(level_lots, min(ladder.lots, level_lots * LEVELS_MAX + 1), level_lots)
    runs: list[_Run] = []
    start = end = 0
    for rung in ladder.rungs:
        if rung.freed_rate <= 0:
            break
        end += rung.length
        stop = div_up(end, ladder.lot_value)
        # The last lot may reach into rungs that cost more than they free.
        if freed(stop - 1, stop) <= 0:
            stop -= 1
        if stop <= start:
            continue
        price = Fraction(ladder.cost_ppm, rung.freed_rate)
        for first, last in pairwise([start, *(cut for cut in level_ends if start < cut < stop), stop]):
            runs.append(_Run(index, first, last, min(first // level_lots, LEVELS_MAX), freed(first, last), price))
        start = stop
    return runs
