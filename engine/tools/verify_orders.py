"""Whether an order is the one its decision planned, and whether decisions agree with each other.

The orders of one plan follow each other and carry the same decision. The parameters in a decision are those in force:
within one policy version every decision states the same ones, so that one which binds nothing in a record of its own
is still held to the others. Marks and prices never get older.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import ceil
from typing import Any

from engine.tools.verify_plan import Pacing, check_plan
from engine.tools.verify_rules import Body, Finding, Standing, check_standing, compare, demand

MARGIN = ("equity", "maintenance_margin")
ORDER_KINDS = ("liquidation_order", "collateral_sale")


class Orders:
    """What the orders so far say about the next one."""

    def __init__(self) -> None:
        self.pacing = Pacing()
        # The order before, and how many of its plan were sent, while there are more to come.
        self.plan_of: Body | None = None
        self.sent = 0
        # The contract of each symbol, as the last decision that had it described it; the last price of each asset.
        self.contracts: dict[str, Body] = {}
        self.prices: dict[str, Fraction] = {}
        self.parameters: dict[tuple[Any, ...], Any] = {}
        self.tiers: dict[tuple[int, str], list[tuple[Any, Any]]] = {}
        self.latest: dict[tuple[str, str], int] = {}
        self.lines: dict[str, int] = {}

    def interrupted(self, body: Body) -> Iterator[Finding]:
        """Yield where a record stands between the orders of one plan, or the plan was not sent to its end."""
        before = self.plan_of
        if before is not None and not (body["type"] in ORDER_KINDS and body["order_id"] == next_id(before["order_id"])):
            self.plan_of = None
            yield Finding("type", body["type"], f"order {self.sent + 1} of the plan of {before['order_id']}")

    def take(self, body: Body, *, started: Body, version: int) -> Iterator[Finding]:
        """Yield what is wrong with an order of an episode."""
        decision = body["decision"]
        if self.plan_of is None:
            self.sent = 0
            for found in self.decision(body, started=started, version=version):
                yield Finding(f"decision.{found.field}", found.stated, found.derived)
        else:
            for name, value in self.plan_of["decision"].items():
                yield from compare(f"decision.{name}", decision.get(name), value)
        planned = decision["plan"][self.sent]
        for name, value in planned.items():
            yield from compare(name, body.get(name), value)
        if body["type"] == "liquidation_order":
            yield from compare("time_in_force", body["time_in_force"], "IOC")
            yield from compare("reduce_only", body["reduce_only"], True)
            sign = "" if planned["side"] == "buy" else "-"
            legs = [
                entry["leg"]
                for entry in decision["positions"]
                if entry["symbol"] == planned["symbol"] and entry["qty"].startswith("-") != bool(sign)
            ]
            yield from compare("leg", body.get("leg", "net"), legs[0])
        self.sent += 1
        self.plan_of = body if self.sent < len(decision["plan"]) else None

    def decision(self, body: Body, *, started: Body, version: int) -> Iterator[Finding]:
        """Yield what is wrong with a decision, in itself and beside those before it."""
        decision = body["decision"]
        yield from compare("policy_version", decision["policy_version"], version)
        yield from self.in_force(decision, version)
        yield from self.not_older(decision, body["ts"])
        standing = Standing(decision)
        self.prices |= standing.prices
        yield from check_standing(standing)
        yield from check_plan(standing, self.pacing, body["ts"])
        is_first = body["seq"] == started["seq"] + 2
        for name in MARGIN if is_first else ():
            yield from compare(name, decision[name], started[name])
        if standing.positions:
            equity, maintenance = standing.equity, standing.maintenance
            is_due = standing.is_liquidatable(equity, maintenance)
            if not is_first:
                is_due = not standing.meets_target(equity, maintenance)
            yield from demand("equity", decision["equity"], "liquidatable, or below the target", holds=is_due)

    def in_force(self, decision: Body, version: int) -> Iterator[Finding]:
        """Yield where a parameter is another one than in the decisions before, under the same policy version."""
        policy = {**decision["policy"], "buffer": decision["target"]["buffer"]}
        yield from self.same("policy", (version, "policy"), policy)
        for entry in decision["instruments"]:
            name = f"instruments.{entry['symbol']}"
            self.contracts[entry["symbol"]] = entry
            terms = {key: value for key, value in entry.items() if key not in ("tiers", "next_floor")}
            yield from self.same(name, (version, entry["symbol"]), terms)
            yield from self.same_tiers(f"{name}.tiers", (version, entry["symbol"]), entry)
        for entry in decision["costs"]:
            yield from self.same(f"costs.{entry['symbol']}", (version, "costs", entry["symbol"]), entry)
        for entry in decision["collateral"]:
            terms = {key: entry[key] for key in ("weights", "decimals", "slippage")}
            yield from self.same(f"collateral.{entry['asset']}", (version, "asset", entry["asset"]), terms)

    def same(self, field: str, key: tuple[Any, ...], stated: Body) -> Iterator[Finding]:
        """Yield where a parameter differs from what was stated before."""
        known = self.parameters.setdefault(key, stated)
        for name, value in stated.items() if stated != known else ():
            yield from compare(f"{field}.{name}", value, known.get(name))

    def same_tiers(self, field: str, key: tuple[int, str], entry: Body) -> Iterator[Finding]:
        """Yield where two parts of one tier table differ as far as both go; keeps the longer."""
        table = [*map(tuple, entry["tiers"]), (entry["next_floor"], None)]
        known = self.tiers.setdefault(key, table)
        for (tier_floor, rate), (known_floor, known_rate) in zip(table, known, strict=False):
            yield from compare(field, tier_floor, known_floor)
            if rate is not None and known_rate is not None:
                yield from compare(field, rate, known_rate)
        if len(table) > len(known):
            self.tiers[key] = table

    def not_older(self, decision: Body, ts: int) -> Iterator[Finding]:
        """Yield where a mark, a price or the input is from before one that was used already, or after the clock."""
        for group, name in (("marks", "symbol"), ("asset_prices", "asset")):
            for entry in decision[group]:
                key = (group, entry[name])
                is_next = type(entry["ts"]) is int and self.latest.get(key, 0) <= entry["ts"] <= ts
                yield from demand(
                    f"{group}.{entry[name]}.ts", entry["ts"], f"of {self.latest.get(key, 0)}..{ts}", holds=is_next
                )
                self.latest[key] = entry["ts"]

    def settlement_slack(self, symbols: set[str]) -> int:
        """Return how many valuation units a takeover may leave: none, or less than a unit of a dearer asset is worth.

        Its price is that of the last decision; twice that allows for a rise since. Any for an unknown contract.
        """
        if not symbols <= self.contracts.keys():
            return UNKNOWN
        prices = [self.prices[self.contracts[symbol]["settle"]] for symbol in symbols]
        return max(0 if price == 1 else ceil(2 * price) for price in prices)


# More than any account can hold, in units.
UNKNOWN = 10**19


def next_id(order_id: str) -> str:
    """Return the id of the order after this one in its episode."""
    head, _, number = order_id.rpartition("/")
    return f"{head}/{int(number) + 1}"
