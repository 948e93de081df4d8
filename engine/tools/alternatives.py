"""What is closed under the policies that a run is compared with: all at once, a fixed part, largest first, pro rata.

The first two are policies of the engine. The other two are not; they are written here on the search that the engine
plans with - same account, ladders, roundings and target - and given to a shard in place of its planner. Everything
before and after a plan is the engine's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from engine.core.params import Policy
from engine.core.plan import Plan, PlanAccount, Planner, Search, plan_liquidation
from engine.units import PPM, div_up

FIFTH_PPM = PPM // 5
# Finer than a lot of any position: the smallest coins come in tens of millions.
PARTS = 10**10
NAMES = {"cheapest": "Cheapest closes", "off": "All at once", "fixed": "A fixed part"}


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another way to liquidate: its name for people, its policy, and what plans under it."""

    name: str
    policy: Policy
    planner: Planner = plan_liquidation


def policy_name(policy: Policy) -> str:
    """Return in words what a policy closes."""
    if policy.partial == "fixed":
        return f"{policy.fraction_ppm * 100 / PPM:g} % at a time"
    return NAMES[policy.partial]


def others(policy: Policy) -> Iterator[Alternative]:
    """Yield the alternatives to a policy."""
    fifth = replace(policy, partial="fixed", fraction_ppm=FIFTH_PPM, fraction_above_units=0)
    for other in (replace(policy, partial="cheapest"), replace(policy, partial="off"), fifth):
        if other != policy:
            yield Alternative(policy_name(other), other)
    yield Alternative("Largest first", policy, plan_largest_first)
    yield Alternative("Pro rata", policy, plan_pro_rata)


def plan_largest_first(account: PlanAccount, policy: Policy) -> Plan:
    """Return the plan that closes the largest position, then the next; the last one in part, up to the lot."""
    return LargestFirst(account, policy).find()


def plan_pro_rata(account: PlanAccount, policy: Policy) -> Plan:
    """Return the plan that closes the same part of every position, each up to the lot."""
    return ProRata(account, policy).find()


class LargestFirst(Search):
    """The engine's search over the same slices in another order: by notional, largest first, ties by symbol."""

    def __init__(self, account: PlanAccount, policy: Policy) -> None:
        super().__init__(account, policy)
        ladders = [lever.ladder for lever in self.levers]
        self.runs = sorted(
            (run for run in self.runs if not ladders[run.lever].is_sale),
            key=lambda run: (-ladders[run.lever].value, ladders[run.lever].name, run.lever, run.start),
        )

    def try_choose(self) -> list[int] | None:
        """Return the lots that this order closes; None where nothing short of everything suffices."""
        return self.try_cheapest()


class ProRata(Search):
    """The least equal part of every position with which the target holds."""

    def try_choose(self) -> list[int] | None:
        """Return that part of each in lots; None where nothing short of everything suffices."""
        if self.shortfall(self.everything()) > 0:
            return None
        short, enough = 0, PARTS
        while enough - short > 1:
            parts = (short + enough) // 2
            if self.shortfall(self.part(parts)) == 0:
                enough = parts
            else:
                short = parts
        return self.part(enough)

    def part(self, parts: int) -> list[int]:
        """Return so many ``PARTS`` of each position, up to the lot; one with a rest under ``min_notional`` whole."""
        lots = [div_up(count * parts, PARTS) for count in self.everything()]
        for index in self.dust(lots):
            lots[index] = self.levers[index].ladder.lots
        return lots
