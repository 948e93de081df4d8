"""Small random portfolios, and the best of all whole-lot combinations for each, found by trying every one of them.

A portfolio is drawn as a risk file and holdings, the form that both the engine and ``formulas.py`` read. The rules of
the draw: lots are few, so that everything can be tried; every tier frees more than it costs (otherwise no plan in whole
lots need exist near the fractional optimum); what collateral is sold for counts in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import ceil
from random import Random
from typing import Any

from benchmarks.formulas import COSTS, Fractional, Held, Target, Wallet, fractional_optimum, sold_for
from engine.core.params import build_asset, build_instrument, build_policy
from engine.core.plan import Plan, PlanAccount, PlanCollateral, PlanPosition, plan_liquidation
from engine.units import UNIT, format_scaled, try_number, try_scaled
from tests.reference_numbers import decimal, show

SETTLEMENTS = {"USD": "1", "USDT": "0.97", "EUR": "1.01234567"}
COINS = ("GOLD", "SILVER")
LOTS_MAX = 6
COIN_STEPS_MAX = 5
# What a lot can still be cut into: eight decimals.
FINEST = 10**8
Effect = tuple[int, int, int, int]


@dataclass(frozen=True)
class Best:
    """The cheapest of all combinations that meet the target, and the cheapest of those that keep a position open."""

    cost: int | None
    cost_open: int | None
    combinations: int


@dataclass(frozen=True)
class Outcome:
    """What a plan does by the formulas: its cost, and equity and maintenance margin after it, in units."""

    cost: int
    equity: int
    maintenance: int
    lots_cost: Fraction


@dataclass(frozen=True)
class Portfolio:
    """Holdings under a risk file, in trouble: ``equity`` units are less than their target asks for."""

    risk: Mapping[str, Any]
    qtys: Mapping[str, Fraction]
    marks: Mapping[str, Fraction]
    balances: Mapping[str, int]
    prices: Mapping[str, Fraction]
    equity: int

    @cached_property
    def target(self) -> Target:
        """Return when the account is left alone."""
        return Target.of(self.risk)

    @cached_property
    def held(self) -> tuple[Held, ...]:
        """Return the positions, by symbol."""
        return tuple(
            Held.of(self.risk, symbol, "net", qty, self.marks[symbol], self.prices[settle])
            for symbol, qty in sorted(self.qtys.items())
            if (settle := self.risk["instruments"][symbol]["settle"])
        )

    @cached_property
    def wallets(self) -> dict[str, Wallet]:
        """Return the balances, zero ones of settlement assets included."""
        return {asset: Wallet(self.risk, asset, units, self.prices[asset]) for asset, units in self.balances.items()}

    @cached_property
    def bought(self) -> Wallet:
        """Return the balance that sales add to."""
        return self.wallets[sold_for(self.held, list(self.wallets.values()))]

    @cached_property
    def sellable(self) -> tuple[Wallet, ...]:
        """Return the balances that can be sold."""
        return tuple(wallet for wallet in self.wallets.values() if wallet.steps and wallet is not self.bought)

    @cached_property
    def maintenance(self) -> int:
        """Return the maintenance margin in units."""
        return sum(position.margin(position.lots) for position in self.held)

    @cached_property
    def optimum(self) -> Fractional | None:
        """Return the fractional optimum."""
        levers = [(position.cost_rate, position.slices(self.target)) for position in self.held]
        levers += [(wallet.slippage, wallet.slices()) for wallet in self.sellable]
        return fractional_optimum(levers, self.target.deficit(self.equity, self.maintenance))

    def refined(self, parts: int) -> Portfolio:
        """Return the same portfolio with every lot, and every step of an asset, cut into ``parts`` (a power of 10)."""
        places = len(str(parts)) - 1
        instruments = {
            symbol: {**fields, "lot": format_scaled(1, places)} for symbol, fields in self.risk["instruments"].items()
        }
        assets = {
            asset: {**fields, "decimals": min(fields["decimals"] + places, 8)}
            for asset, fields in self.risk["assets"].items()
        }
        return replace(self, risk={**self.risk, "instruments": instruments, "assets": assets})

    def plan(self) -> Plan:
        """Return the engine's plan."""
        return plan_liquidation(self.account(), build_policy(self.risk["policy"]))

    def account(self) -> PlanAccount:
        """Return the account as the engine's planner takes it."""
        return PlanAccount(
            self.equity,
            self.maintenance,
            tuple(self._position(symbol, qty) for symbol, qty in sorted(self.qtys.items())),
            tuple(
                PlanCollateral(build_asset(asset, self.risk["assets"][asset]), units, int(self.prices[asset] * UNIT))
                for asset, units in self.balances.items()
            ),
        )

    def _position(self, symbol: str, qty: Fraction) -> PlanPosition:
        instrument = build_instrument(symbol, self.risk["instruments"][symbol])
        size, mark = (
            steps_of(number, decimals)
            for number, decimals in (
                (qty, instrument.size_decimals),
                (self.marks[symbol], instrument.price_decimals),
            )
        )
        return PlanPosition(instrument, "net", size, mark, int(self.prices[instrument.settle] * UNIT))

    def outcome(self, plan: Plan) -> Outcome:
        """Return what the engine's plan does, by the formulas, every wallet valued anew."""
        account = self.account()
        cost, equity, maintenance, lots_cost = 0, self.equity, self.maintenance, Fraction(0)
        for close in plan.closes:
            position = self.held[close.position_index]
            lots, rest = divmod(close.qty_steps, account.positions[close.position_index].instrument.lot_steps)
            if rest or not 0 < lots <= position.lots:
                raise ValueError(f"{position.name}: {close.qty_steps} steps are not 1 to {position.lots} lots")
            cost += position.cost(lots)
            equity -= position.cost(lots)
            maintenance += position.margin(position.lots - lots) - position.margin(position.lots)
            lots_cost += position.cost_rate * position.value(1) * UNIT + 1
        received = 0
        for sale in plan.sales:
            wallet = self.wallets[sale.asset]
            steps, rest = divmod(sale.amount_units, wallet.step)
            if rest or not 0 < steps <= wallet.steps or sale.for_asset != self.bought.asset:
                raise ValueError(f"{sale}: not 1 to {wallet.steps} steps for {self.bought.asset}")
            cost += wallet.cost(steps)
            equity += wallet.worth(wallet.balance - sale.amount_units) - wallet.worth(wallet.balance)
            received += wallet.proceeds(steps, self.bought)
            lots_cost += wallet.slippage * wallet.value(1) * UNIT + 1
        equity += self.bought.worth(self.bought.balance + received) - self.bought.worth(self.bought.balance)
        return Outcome(cost, equity, maintenance, lots_cost)

    def best(self) -> Best:
        """Return the best of all combinations of whole lots and steps."""
        combinations = self._combinations()
        bought, worth = self.bought, self.bought.worth(self.bought.balance)
        cheapest: dict[bool, int] = {}
        for cost, equity, maintenance, received in combinations:
            gained = bought.worth(bought.balance + received) - worth if received else 0
            if self.target.is_met(self.equity + equity + gained, self.maintenance + maintenance):
                is_open = self.maintenance + maintenance > 0
                cheapest[is_open] = min(cost, cheapest.get(is_open, cost))
        return Best(min(cheapest.values(), default=None), cheapest.get(True), len(combinations))

    def _combinations(self) -> list[Effect]:
        """Return (cost, change of equity, change of margin, units received) of every combination."""
        found: list[Effect] = [(0, 0, 0, 0)]
        for effects in self._effects():
            found = [
                (cost + more[0], equity + more[1], margin + more[2], received + more[3])
                for cost, equity, margin, received in found
                for more in effects
            ]
        return found

    def _effects(self) -> Iterator[list[Effect]]:
        """Yield for each position and balance what every number of lots does."""
        for position in self.held:
            costs = [position.cost(lots) for lots in range(position.lots + 1)]
            whole = position.margin(position.lots)
            yield [(cost, -cost, position.margin(position.lots - lots) - whole, 0) for lots, cost in enumerate(costs)]
        for wallet in self.sellable:
            whole = wallet.worth(wallet.balance)
            yield [
                (
                    wallet.cost(steps),
                    wallet.worth(wallet.balance - steps * wallet.step) - whole,
                    0,
                    wallet.proceeds(steps, self.bought),
                )
                for steps in range(wallet.steps + 1)
            ]


def steps_of(value: Fraction, decimals: int) -> int:
    """Return a decimal in steps of 10**-decimals."""
    number = try_number(show(value))
    steps = None if number is None else try_scaled(number, decimals)
    if steps is None:
        raise ValueError(f"{value} has more than {decimals} decimals")
    return steps


def draw_portfolio(rng: Random) -> Portfolio:
    """Return a portfolio of two or three positions, one in three with collateral to sell."""
    buffer = rng.choice(("0", "0.05", "0.1", f"0.{rng.randrange(1, 1000):03d}"))
    policy = {"target_buffer": buffer, "trigger": rng.choice(("at_or_below", "below"))}
    prices = {asset: decimal(price) for asset, price in SETTLEMENTS.items()}
    instruments, marks, qtys = {}, {}, {}
    for symbol in "ABC"[: rng.randrange(2, 4)]:
        is_inverse = rng.randrange(4) == 0
        marks[symbol] = Fraction(rng.randrange(3, 30 if is_inverse else 400))
        settle = f"COIN{symbol}" if is_inverse else rng.choice(tuple(SETTLEMENTS))
        if is_inverse:
            prices[settle] = marks[symbol]
        # An inverse contract of 50 to 900 dollars, so that lots are of one order.
        kind = {"kind": "inverse", "multiplier": str(rng.randrange(50, 900))} if is_inverse else {}
        instruments[symbol] = {**draw_instrument(rng, Fraction(buffer)), "settle": settle, **kind}
        qtys[symbol] = Fraction(rng.randrange(1, LOTS_MAX + 1) * rng.choice((-1, 1)))
    settles = sorted({str(fields["settle"]) for fields in instruments.values()})
    assets: dict[str, dict[str, Any]] = {asset: {"decimals": 8} for asset in settles}
    balances = dict.fromkeys(settles, 0)
    if rng.randrange(3) == 0:
        draw_collateral(rng, assets, balances, prices)
    risk = {"policy": policy, "assets": assets, "instruments": instruments}
    drawn = Portfolio(risk, qtys, marks, balances, prices, 0)
    # Near the margin a lot or two do it; deep below it nothing short of everything does.
    equity = drawn.maintenance * (1000 - rng.randrange(rng.choice((20, 100, 400)))) // 1000
    if drawn.target.is_met(equity, drawn.maintenance):
        equity = ceil(drawn.maintenance * (1 + drawn.target.buffer)) - 1 if drawn.target.buffer else equity - 1
    return replace(drawn, equity=equity)


def draw_instrument(rng: Random, buffer: Fraction) -> dict[str, Any]:
    """Return a contract with one to three tiers whose every rate frees more than the costs take; half with a book."""
    rates = sorted(rng.sample(range(5, 200), rng.randrange(1, 4)))
    floors = [0, *sorted(rng.sample(range(1, 3000), len(rates) - 1))]
    fields = {
        "price_tick": "1",
        "lot": "1",
        "mark_decimals": 0,
        "tiers": [[str(low), f"0.{rate:03d}", "5"] for low, rate in zip(floors, rates, strict=True)],
    }
    # In 1e-5: up to 99 % of what the lowest tier frees, split among the three costs.
    costs = int(rates[0] * 100 * (1 + buffer)) * rng.randrange(100) // 100
    first, second = sorted(rng.randrange(costs + 1) for _ in range(2))
    for name, part in zip(COSTS, (first, second - first, costs - second), strict=True):
        fields[name] = format_scaled(part, 5)
    if rng.randrange(2):
        # What a venue's book would show: levels of a lot or two, and a price that worsens as they are taken.
        fields |= {"depth": rng.choice(("150", "400", "1000")), "half_spread": "0.0005", "impact": "0.02"}
    return fields


def draw_collateral(
    rng: Random, assets: dict[str, dict[str, Any]], balances: dict[str, int], prices: dict[str, Fraction]
) -> None:
    """Add one or two coins that count for less than they fetch, and sometimes a debt that they can pay."""
    for coin in COINS[: rng.randrange(1, 3)]:
        first = rng.randrange(400, 980)
        weights = [["0", f"0.{first:03d}"]]
        if rng.randrange(2):
            weights.append([str(rng.randrange(20, 300)), f"0.{rng.randrange(100, first):03d}"])
        # In thousandths, below what the first slice's haircut leaves.
        slippage = rng.randrange(1000 - first)
        assets[coin] = {"decimals": 0, "weights": weights, "slippage": f"0.{slippage:03d}"}
        balances[coin] = rng.randrange(1, COIN_STEPS_MAX + 1) * UNIT
        prices[coin] = Fraction(rng.randrange(5, 120))
    if rng.randrange(3) == 0:
        balances[rng.choice(sorted(asset for asset in balances if asset not in COINS))] = -rng.randrange(1, 500) * UNIT
