"""Are the engine's plans the cheapest there are? ``python -m benchmarks.plans [--portfolios N] [--accounts N] …``.

    portfolios   random small ones, the plan of each beside every combination of whole lots; the same with lots cut into
                 a thousand parts and into the finest there are
    rules        the accounts of a population that a crash catches: what the plan closes and costs, and what usual rules
                 would have

Combinations and rules are computed by ``formulas.py`` without the engine. Exit code 1 where a promise breaks: a plan
that leaves an account unhealthy, costs more than the fractional optimum and a lot of each position it touches, or more
in fine lots than the best combination of coarse ones and a fine lot of each; or a certificate that is not right.

Costs are the planner's: taker fee, liquidation fee and slippage, all proportional to the notional. Half of the
contracts have a book (depth, spread, impact), which decides which of two equally cheap closes goes first and nothing
else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from fractions import Fraction
from math import floor
from random import Random
from typing import Any

from benchmarks.command import Found, finish, parser_of
from benchmarks.portfolios import FINEST, Best, Outcome, Portfolio, draw_portfolio
from benchmarks.rule_table import measure_rules
from benchmarks.tables import share, text_table
from engine.core.plan import Plan
from tests.reference_numbers import decimal, units_floor

FINE = 1_000


@dataclass(slots=True)
class Figures:
    """What was found over all portfolios; costs in units of 1e-8."""

    portfolios: int = 0
    combinations: int = 0
    sold: int = 0
    partial: int = 0
    unhealthy: int = 0
    best: int = 0
    above_sum: int = 0
    above_max: int = 0
    best_sum: int = 0
    above_part_max: Fraction = Fraction(0)
    full: int = 0
    full_only: int = 0
    full_cheapest: int = 0
    fine_below: int = 0
    fine_compared: int = 0
    finest: int = 0
    gap_max: int = 0
    failures: list[str] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    """Run both measurements, print the tables, write the document; return 1 where a promise broke."""
    parser = parser_of("benchmarks.plans", __doc__)
    parser.add_argument("--portfolios", type=int, default=10_000, help="how many random portfolios (10,000)")
    parser.add_argument("--accounts", type=int, default=1_000, help="how many accounts in the crash (1,000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of portfolios and population (1)")
    options = parser.parse_args(arguments)
    return finish(lambda: measure(options.portfolios, options.accounts, options.seed), options.json)


def measure(portfolios: int, accounts: int, seed: int) -> Found:
    """Return what both measurements find."""
    figures = measure_portfolios(portfolios=portfolios, seed=seed)
    rules = measure_rules(accounts=accounts, seed=seed)
    text = (
        f"{portfolios_text(figures)}\n\nrules: {accounts:,} accounts, a fall of a third in steps; "
        f"{rules.bankrupt:,} jumped below zero within a step and are left out\n{rules.text()}"
    )
    document = {"portfolios": figures_document(figures), "rules": rules.document()}
    return Found(text, document, [*figures.failures, *rules.failures])


def measure_portfolios(*, portfolios: int, seed: int) -> Figures:
    """Return the figures of random portfolios, each against all its combinations."""
    figures, rng = Figures(), Random(seed)
    for number in range(portfolios):
        portfolio = draw_portfolio(rng)
        for failure in weigh(figures, portfolio):
            figures.failures.append(f"portfolio {number} of seed {seed}: {failure}")
    return figures


def weigh(figures: Figures, portfolio: Portfolio) -> Iterator[str]:
    """Add one portfolio to the figures; yield what is wrong with the engine's plans for it."""
    plan, best = portfolio.plan(), portfolio.best()
    outcome = portfolio.outcome(plan)
    figures.portfolios += 1
    figures.combinations += best.combinations
    figures.sold += bool(plan.sales)
    yield from check_certificate(portfolio, plan, outcome)
    if plan.stage == "full":
        weigh_full(figures, outcome, best)
        if outcome.maintenance:
            figures.unhealthy += 1
            yield "closed in full, with a position left"
        return
    figures.partial += 1
    if not portfolio.target.is_met(outcome.equity, outcome.maintenance):
        figures.unhealthy += 1
        yield f"left unhealthy: equity {outcome.equity}, margin {outcome.maintenance} units"
        return
    if best.cost is None or outcome.cost < best.cost:
        yield f"meets the target at {outcome.cost} units, which no combination does"
        return
    yield from check_optimum(portfolio, outcome)
    above = outcome.cost - best.cost
    figures.best += above == 0
    figures.best_sum += best.cost
    figures.above_sum += above
    figures.above_max = max(figures.above_max, above)
    if best.cost:
        figures.above_part_max = max(figures.above_part_max, Fraction(above, best.cost))
    yield from weigh_refined(figures, portfolio, best.cost)


def weigh_full(figures: Figures, outcome: Outcome, best: Best) -> None:
    """Count whether closing everything was all there was, the cheapest there was, or neither."""
    figures.full += 1
    if best.cost_open is None:
        figures.full_only += 1
    elif outcome.equity >= 0 and outcome.cost == best.cost:
        figures.full_cheapest += 1


def check_optimum(portfolio: Portfolio, outcome: Outcome) -> Iterator[str]:
    """Yield where a plan in whole lots costs more than the fractional optimum and a lot of each touched position."""
    optimum = portfolio.optimum
    if optimum is None:
        yield "meets the target, which the fractional optimum cannot"
    elif outcome.cost > optimum.cost + outcome.lots_cost:
        allowed = float(optimum.cost + outcome.lots_cost)
        yield f"costs {outcome.cost} units, more than the optimum and a lot of each: {allowed:.1f}"


def weigh_refined(figures: Figures, portfolio: Portfolio, best_cost: int) -> Iterator[str]:
    """Yield where finer lots cost more than the best combination of coarse ones, or where the gap does not close."""
    for parts in (FINE, FINEST):
        refined = portfolio.refined(parts)
        plan = refined.plan()
        outcome = refined.outcome(plan)
        yield from check_certificate(refined, plan, outcome)
        if plan.stage == "partial" and not refined.target.is_met(outcome.equity, outcome.maintenance):
            figures.unhealthy += 1
            yield f"lots in {parts} parts: left unhealthy"
        if outcome.cost > best_cost + outcome.lots_cost:
            yield f"lots in {parts} parts: costs {outcome.cost} units, whole lots {best_cost}"
        if parts == FINE:
            figures.fine_compared += 1
            figures.fine_below += outcome.cost < best_cost
        elif plan.stage == "partial" and refined.optimum is not None:
            gap = outcome.cost - floor(refined.optimum.cost)
            figures.finest += 1
            figures.gap_max = max(figures.gap_max, gap)
            if gap > outcome.lots_cost + rounding_cost(refined):
                yield f"the finest lots: {gap} units above the optimum"


def rounding_cost(portfolio: Portfolio) -> Fraction:
    """Return what the contract's roundings can cost, in units: what they take has to be freed at the dearest price.

    The margin of a rest is rounded up in the settlement asset and again by its price, each cost and each balance once;
    one unit takes the account out of its trigger.
    """
    freed = sum((2 + position.price for position in portfolio.held), Fraction(1))
    freed += sum((3 + portfolio.bought.price for _ in portfolio.sellable), Fraction(0))
    levers = [(position.cost_rate, position.slices(portfolio.target)) for position in portfolio.held]
    levers += [(wallet.slippage, wallet.slices()) for wallet in portfolio.sellable]
    return freed * max(cost / rate for cost, slices in levers for _, rate in slices if rate > 0)


def check_certificate(portfolio: Portfolio, plan: Plan, outcome: Outcome) -> Iterator[str]:
    """Yield where cost, bound, gap or the account after the plan are not what the formulas say."""
    optimum = portfolio.optimum
    bound = None if optimum is None else floor(optimum.cost)
    is_met = portfolio.target.is_met(outcome.equity, outcome.maintenance)
    derived = {
        "cost": outcome.cost,
        "bound": bound,
        "gap": outcome.cost - bound if bound is not None and is_met else None,
        "equity_after": outcome.equity,
        "maintenance_margin_after": outcome.maintenance,
    }
    for name, value in derived.items():
        text = plan.certificate[name]
        stated = None if text is None else units_floor(decimal(text))
        if stated != value and not (name == "equity_after" and is_rounding(portfolio, plan, stated, value)):
            yield f"certificate: {name} is {text}, by the formulas {value} units"


def is_rounding(portfolio: Portfolio, plan: Plan, stated: int | None, derived: int | None) -> bool:
    """Return whether equity is stated a little low: each sale's gain is rounded down on its own, a balance but once."""
    if stated is None or derived is None:
        return False
    return 0 <= derived - stated <= len(plan.sales) * (1 + portfolio.bought.price)


def portfolios_text(figures: Figures) -> str:
    """Return the figures for a terminal."""
    worse = figures.partial - figures.best
    rows = [
        ("combinations tried", f"{figures.combinations:,}", ""),
        ("plans that sell collateral", f"{figures.sold:,}", ""),
        ("left unhealthy", f"{figures.unhealthy:,}", "0 promised"),
        ("closed in part", f"{figures.partial:,}", share(figures.partial, figures.portfolios)),
        ("  as cheap as the best combination", f"{figures.best:,}", share(figures.best, figures.partial)),
        ("  dearer than it", f"{worse:,}", share(worse, figures.partial)),
        ("    by at most", dollars(figures.above_max), f"{float(100 * figures.above_part_max):.1f} % of a best cost"),
        ("    by on average, where dearer", dollars(figures.above_sum / worse if worse else 0), ""),
        ("  all plans above all best", dollars(figures.above_sum), share(figures.above_sum, figures.best_sum)),
        ("closed in full", f"{figures.full:,}", share(figures.full, figures.portfolios)),
        ("  nothing else would do", f"{figures.full_only:,}", share(figures.full_only, figures.full)),
        ("  and cheapest so", f"{figures.full_cheapest:,}", share(figures.full_cheapest, figures.full)),
        (
            "  a dearer combination keeps a position",
            f"{figures.full - figures.full_only - figures.full_cheapest:,}",
            "",
        ),
        (
            f"lots in {FINE:,} parts: cheaper",
            f"{figures.fine_below:,}",
            share(figures.fine_below, figures.fine_compared),
        ),
        ("finest lots: largest gap to the optimum", dollars(figures.gap_max), f"of {figures.finest:,} plans"),
    ]
    return f"portfolios: {figures.portfolios:,}, every combination of whole lots\n{text_table(rows)}"


def dollars(units: float) -> str:
    """Return units as an amount with all its digits."""
    return f"{units / 10**8:,.8f}"


def figures_document(figures: Figures) -> dict[str, Any]:
    """Return the figures for machines, amounts in units of 1e-8."""
    document = {item.name: getattr(figures, item.name) for item in fields(figures)}
    return {**document, "above_part_max": float(figures.above_part_max)}


if __name__ == "__main__":
    sys.exit(main())
