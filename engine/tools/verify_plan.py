"""Whether the orders of a decision are the right ones: sizes, sides, limits, target and pace (README, "The plan").

The plan must meet the target after its expected costs with no lot to spare, or close everything. Where a flow budget
left less of it, the record also holds the plan as it was wanted, and what was sent must be what the budget had room
for. Which of several equally cheap plans was taken is not derived: the rules leave it open.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil, floor

from engine.tools.verify_certificate import check_certificate, close_ladder, sale_target, try_sale_ladder
from engine.tools.verify_rules import (
    Balance,
    Body,
    Finding,
    Position,
    Standing,
    Terms,
    amount,
    compare,
    demand,
    show,
    units_floor,
    units_up,
)
from engine.units import NS_PER_MS, UNIT, format_units

QTY_DECIMALS = 8


@dataclass(frozen=True)
class Close:
    """How much of a position is planned to be closed."""

    position: Position
    qty: Fraction

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the position is left."""
        return self.qty == abs(self.position.qty)

    @property
    def rest(self) -> Fraction:
        """What stays open."""
        return abs(self.position.qty) - self.qty

    def is_dust(self, standing: Standing) -> bool:
        """Whether the rest is worth less than the policy leaves open."""
        terms = self.position.terms
        return self.rest > 0 and terms.notional(self.rest) * terms.price < amount(standing.policy["min_notional"])

    def cost(self) -> int:
        """The expected cost in units: c x notional at the mark, up."""
        terms = self.position.terms
        return units_up(terms.notional(self.qty) * terms.price * terms.cost_rate)

    def margin_freed(self) -> int:
        """By how many units the maintenance margin falls."""
        return self.position.maintenance - self.position.terms.maintenance(self.rest)[1]


@dataclass(frozen=True)
class Sale:
    """A balance of which ``amount`` is sold; the proceeds count by ``weight``."""

    balance: Balance
    amount: Fraction
    for_price: Fraction
    weight: Fraction

    def cost(self) -> int:
        """The expected slippage in units, up."""
        return units_up(self.amount * self.balance.price * self.balance.slippage)

    def gain(self) -> int:
        """By how many units equity changes: what the proceeds count for, less what the balance counted for."""
        proceeds = units_floor(self.amount * self.balance.price * (1 - self.balance.slippage) / self.for_price)
        gained = floor(proceeds * self.for_price * self.weight)
        return gained + self.balance.value(self.balance.amount - self.amount) - self.balance.value(self.balance.amount)


@dataclass
class Flow:
    """What was sent of one symbol within the window: (ts, notional in units)."""

    sent: deque[tuple[int, int]] = field(default_factory=deque)
    total: int = 0


class Pacing:
    """How much each symbol's flow budget has room for, from the orders seen so far.

    Once the window was changed nothing is known: what was forgotten under a shorter one is not in the records.
    """

    def __init__(self) -> None:
        self.flows: dict[str, Flow] = defaultdict(Flow)
        self.windows: set[int] = set()

    def try_room(self, terms: Terms, clock: int, window_ms: int) -> Fraction | None:
        """Return the quantity in whole lots that may be sent now; None where that cannot be told."""
        self.windows.add(window_ms)
        if len(self.windows) > 1:
            return None
        flow = self.flows[terms.symbol]
        while flow.sent and flow.sent[0][0] <= clock - window_ms * NS_PER_MS:
            flow.total -= flow.sent.popleft()[1]
        budget = units_floor(terms.flow_budget or Fraction(0))
        return max((budget - flow.total) // units_up(terms.notional(terms.lot)), 0) * terms.lot

    def note(self, terms: Terms, clock: int, qty: Fraction) -> None:
        """Count what was sent."""
        notional = units_up(terms.notional(qty))
        self.flows[terms.symbol].sent.append((clock, notional))
        self.flows[terms.symbol].total += notional


def check_plan(standing: Standing, pacing: Pacing, clock: int) -> Iterator[Finding]:
    """Yield what is wrong with the plan of a decision taken at ``clock``; notes in ``pacing`` what it sends."""
    decision = standing.decision
    sales = [entry for entry in decision["plan"] if "symbol" not in entry]
    if not standing.positions:
        yield from check_debt_sales(standing, sales)
    sent = yield from check_entries(standing, "plan")
    if not standing.positions:
        return
    wanted = sent
    if "wanted" in decision:
        wanted = yield from check_entries(standing, "wanted")
        wanted_sales = [entry for entry in decision["wanted"] if "symbol" not in entry]
        yield from compare("wanted: sales", wanted_sales, sales)
        yield from demand("wanted", decision["wanted"], "more than what was sent", holds=wanted != sent)
    takeover = amount(standing.policy["takeover_ratio"])
    is_sound = standing.equity > takeover * standing.maintenance
    yield from demand("equity", decision["equity"], f"above {takeover} of the margin: no takeover", holds=is_sound)
    yield from check_certificate(standing, decision["certificate"])
    yield from check_pace(standing, pacing, clock, sent, wanted)
    closes = [Close(standing.positions[index], qty) for index, qty in wanted.items()]
    closes = [close for close in closes if close.position.terms.symbol not in standing.left_out]
    stages = [entry for name in ("plan", "wanted") for entry in decision.get(name, ()) if "symbol" in entry]
    is_full = any(entry["stage"] == "full" for entry in stages)
    yield from check_wanted(standing, closes, is_full=is_full)
    sold = yield from check_sold(standing, sales)
    yield from check_stage(closes, stages, sales)
    yield from check_outcome(standing, closes, sold)


def check_entries(standing: Standing, name: str) -> Generator[Finding, None, dict[int, Fraction]]:
    """Yield what is wrong with the entries of ``plan`` or ``wanted``; return what they close, by position."""
    closed = dict.fromkeys(range(len(standing.positions)), Fraction(0))
    for index, entry in enumerate(standing.decision[name]):
        if "symbol" in entry:
            yield from check_close(f"{name}[{index}]", entry, standing, closed)
        else:
            yield from check_sale(f"{name}[{index}]", entry, standing)
    return closed


def check_close(name: str, entry: Body, standing: Standing, sent: dict[int, Fraction]) -> Iterator[Finding]:
    """Yield what is wrong with one close; add its quantity to ``sent`` by position."""
    qty = amount(entry["qty"])
    sign = 1 if entry["side"] == "sell" else -1
    found = [
        index
        for index, position in enumerate(standing.positions)
        if position.terms.symbol == entry["symbol"] and position.sign == sign
    ]
    if not found or entry["side"] not in ("buy", "sell"):
        yield Finding(f"{name}.side", entry["side"], "against a position of the symbol")
        return
    position = standing.positions[found[0]]
    is_reducing = 0 < qty <= abs(position.qty) - sent[found[0]] and qty % position.terms.lot == 0
    yield from demand(f"{name}.qty", entry["qty"], "whole lots, within the position", holds=is_reducing)
    is_open = position.terms.symbol not in standing.left_out
    yield from demand(f"{name}.symbol", entry["symbol"], "a symbol that was not left out", holds=is_open)
    sent[found[0]] += qty
    bankruptcy = standing.bankruptcy_price(position)
    stated = entry["bankruptcy_price"]
    yield from compare(f"{name}.bankruptcy_price", stated, None if bankruptcy is None else show(bankruptcy, 14))
    yield from compare(f"{name}.limit_price", entry["limit_price"], show(standing.limit_price(position), 14))


def check_sale(name: str, entry: Body, standing: Standing) -> Iterator[Finding]:
    """Yield what is wrong with one sale of collateral."""
    balance = next(balance for balance in standing.balances if balance.asset == entry["asset"])
    sold = amount(entry["amount"])
    is_held = 0 < sold <= balance.amount and sold % balance.step == 0
    yield from demand(f"{name}.amount", entry["amount"], "whole steps, within the balance", holds=is_held)
    yield from compare(f"{name}.limit_price", entry["limit_price"], standing.sale_limit(balance, entry["for_asset"]))


def check_sold(standing: Standing, sales: Sequence[Body]) -> Generator[Finding, None, list[Sale]]:
    """Yield where collateral is sold for another asset, or for more of it, than the largest need; return the sales."""
    target = sale_target(standing, [close_ladder(standing, position) for position in standing.closable()])
    sold = []
    for entry in sales:
        balance = next(balance for balance in standing.balances if balance.asset == entry["asset"])
        sale = Sale(balance, amount(entry["amount"]), standing.prices[entry["for_asset"]], target.weight)
        ladder = try_sale_ladder(standing, balance, target)
        is_useful = ladder is not None and sale.amount * balance.price <= ladder.value
        yield from demand("plan: amount", entry["amount"], "what the debt has room for", holds=is_useful)
        yield from compare("plan: for_asset", entry["for_asset"], target.asset)
        sold.append(sale)
    return sold


def check_pace(
    standing: Standing, pacing: Pacing, clock: int, sent: dict[int, Fraction], wanted: dict[int, Fraction]
) -> Iterator[Finding]:
    """Yield where what is sent of a position is not what was wanted, as far as the budget has room."""
    is_emergency = standing.equity < amount(standing.policy["emergency_ratio"]) * standing.maintenance
    for index, position in enumerate(standing.positions):
        terms, qty = position.terms, sent[index]
        is_paced = terms.flow_budget is not None and not is_emergency
        room = pacing.try_room(terms, clock, standing.policy["flow_window_ms"]) if is_paced else None
        if is_paced and room is None:
            name = f"plan: qty of {terms.symbol}"
            yield from demand(name, show(qty, QTY_DECIMALS), "no more than wanted", holds=qty <= wanted[index])
        else:
            expected = wanted[index] if room is None else min(wanted[index], room)
            yield from compare(f"plan: qty of {terms.symbol}", show(qty, QTY_DECIMALS), show(expected, QTY_DECIMALS))
        if qty:
            pacing.note(terms, clock, qty)


def check_wanted(standing: Standing, closes: Sequence[Close], *, is_full: bool) -> Iterator[Finding]:
    """Yield where the policy has a rule for how much of a position is closed, and it says otherwise."""
    for close in closes:
        wanted = try_wanted(standing, close.position, is_full=is_full)
        if wanted is not None:
            name = f"plan: qty of {close.position.terms.symbol}"
            yield from compare(name, show(close.qty, QTY_DECIMALS), show(wanted, QTY_DECIMALS))


def try_wanted(standing: Standing, position: Position, *, is_full: bool) -> Fraction | None:
    """Return how much of a position the policy closes, where that is a rule and not the outcome of a search."""
    policy, terms, whole = standing.policy, position.terms, abs(position.qty)
    if is_full or policy["partial"] == "off":
        return whole
    if policy["partial"] != "fixed":
        return None
    if position.notional * terms.price <= amount(policy["fraction_above"]):
        return whole
    qty = ceil(whole * amount(policy["fraction"]) / terms.lot) * terms.lot
    return whole if Close(position, qty).is_dust(standing) else qty


def check_stage(closes: Sequence[Close], stages: Sequence[Body], sales: Sequence[Body]) -> Iterator[Finding]:
    """Yield where the stage is not "full" for a plan that closes everything and "partial" for any other."""
    derived = "full" if all(close.is_whole for close in closes) else "partial"
    for entry in stages:
        yield from compare(f"plan: stage of {entry['symbol']}", entry["stage"], derived)
    is_alone = not sales or all(stage == "partial" for stage in (derived, *(entry["stage"] for entry in stages)))
    yield from demand("plan: sales", len(sales), "no sale where everything is closed", holds=is_alone)


def check_outcome(standing: Standing, closes: Sequence[Close], sales: Sequence[Sale]) -> Iterator[Finding]:
    """Yield where cost and standing after the plan are not what the certificate says, or not what they must be."""
    certificate = standing.decision["certificate"]
    cost = sum(close.cost() for close in closes) + sum(sale.cost() for sale in sales)
    equity, maintenance = outcome(standing, closes, sales)
    yield from compare("certificate.cost", certificate["cost"], format_units(cost))
    stated = certificate["maintenance_margin_after"]
    yield from compare("certificate.maintenance_margin_after", stated, format_units(maintenance))
    yield from compare("certificate.equity_after", certificate["equity_after"], format_units(equity))
    is_met = standing.meets_target(equity, maintenance)
    if standing.policy["partial"] == "cheapest" and not all(close.is_whole for close in closes):
        rule = "meets the target after the plan"
        yield from demand("certificate.equity_after", certificate["equity_after"], rule, holds=is_met)
        yield from check_spare(standing, closes, sales)
    # What misses the target may cost less.
    if is_met and certificate["bound"] is not None:
        is_bounded = amount(certificate["bound"]) <= amount(certificate["cost"])
        yield from demand("certificate.cost", certificate["cost"], "no less than the bound", holds=is_bounded)


def outcome(standing: Standing, closes: Sequence[Close], sales: Sequence[Sale]) -> tuple[int, int]:
    """Return equity and maintenance margin after a plan, at its expected cost."""
    equity = standing.equity - sum(close.cost() for close in closes) + sum(sale.gain() for sale in sales)
    return equity, standing.maintenance - sum(close.margin_freed() for close in closes)


def check_spare(standing: Standing, closes: Sequence[Close], sales: Sequence[Sale]) -> Iterator[Finding]:
    """Yield where a close could give back a lot, or leaves less than ``min_notional`` open."""
    for index, close in enumerate(closes):
        symbol = close.position.terms.symbol
        if not close.qty or close.is_whole:
            continue
        stated = show(close.qty, QTY_DECIMALS)
        yield from demand(
            f"plan: qty of {symbol}", stated, "the rest above min_notional", holds=not close.is_dust(standing)
        )
        less = [*closes[:index], replace(close, qty=close.qty - close.position.terms.lot), *closes[index + 1 :]]
        is_needed = not standing.meets_target(*outcome(standing, less, sales))
        yield from demand(f"plan: qty of {symbol}", stated, "no lot more than the target needs", holds=is_needed)


def check_debt_sales(standing: Standing, sales: Sequence[Body]) -> Iterator[Finding]:
    """Yield where an account without positions does not sell what its largest debt needs, largest holding first."""
    debts = [balance for balance in standing.balances if balance.amount < 0]
    stated = standing.decision["equity"]
    yield from demand("equity", stated, "a debt and no equity", holds=bool(debts) and standing.equity <= 0)
    target = min(debts, key=lambda balance: (balance.amount * balance.price, balance.asset))
    needed = Fraction(units_up(-target.amount * target.price), UNIT)
    derived = []
    held = [balance for balance in standing.balances if balance.amount > 0]
    for balance in sorted(held, key=lambda balance: (-balance.amount * balance.price, balance.asset)):
        kept = balance.price * (1 - balance.slippage)
        wanted = ceil(needed / (kept * balance.step)) * balance.step
        sold = min(wanted, floor(balance.amount / balance.step) * balance.step)
        # Too little to bring one step of the asset owed stays.
        if needed <= 0 or floor(sold * kept / (target.price * target.step)) == 0:
            continue
        derived.append((balance.asset, show(sold, QTY_DECIMALS), target.asset))
        needed -= Fraction(units_floor(sold * kept), UNIT)
    found = [(entry["asset"], entry["amount"], entry["for_asset"]) for entry in sales]
    yield from compare("plan", found, derived)
