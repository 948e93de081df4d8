"""Whether the records of a run fit together: numbering, episodes, holds, takeovers, the fund, bad debt, the summary.

``Trail.take`` is told every record in order of ``seq`` and yields what does not follow from it and those before;
``close`` compares what was counted with the summary. What no record tells (fills, transfers, what a venue answered)
is not derived.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from engine.tools.verify_orders import Orders
from engine.tools.verify_rules import Body, Finding, amount, compare, demand, margin_ratio, price_decimals, show
from engine.units import UNIT, UNIT_DECIMALS

FILES = {
    "liquidation-orders": ("cancel_orders", "liquidation_order", "collateral_sale"),
    "margin-events": (
        "margin_call", "liquidation_started", "liquidation_ended", "takeover", "adl", "adl_wave", "adl_remaining",
        "insurance_fund", "liquidation_held", "liquidation_released", "policy_changed",
    ),
    "bad-debt": ("bad_debt",),
    "dead-letters": ("reject",),
}  # fmt: skip
PARTS = ("paid_by_insurance", "paid_by_adl", "paid_by_socialisation", "uncovered")
VENUE = "venue"

Row = tuple[str, str]


@dataclass
class Episode:
    """What was seen of one liquidation that has not ended."""

    started: Body
    orders: int = 0
    takeovers: list[Body] = field(default_factory=list)
    deleveraged: bool = False
    remaining: bool = False
    # What changed hands, and whether orders or a debt paid for it moved the equity since.
    handed_over: set[str] = field(default_factory=set)
    settled: bool = False
    wave: list[Body] = field(default_factory=list)
    fund_paid: dict[str, Fraction] = field(default_factory=dict)
    loss: Fraction = Fraction(0)


class Trail:
    """All that the records so far say about the next one."""

    def __init__(self) -> None:
        self.seq = 0
        self.before: Body = {}
        self.version = 1
        self.counts: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.venue_rejects = 0
        self.episodes: dict[Row, Episode] = {}
        self.numbers: dict[Row, int] = {}
        self.holds: dict[Row, tuple[Any, ...]] = {}
        self.fund: dict[str, Fraction] = {}
        self.bad_debt: dict[str, Fraction] = defaultdict(Fraction)
        self.uncovered: dict[str, Fraction] = defaultdict(Fraction)
        self.closed_notional = Fraction(0)
        self.orders = Orders()

    def take(self, file: str, body: Body) -> Iterator[Finding]:
        """Yield what is wrong with one record."""
        yield from self.envelope(file, body)
        kind = body["type"]
        self.counts[kind] += 1
        yield from self.orders.interrupted(body)
        if self.before.get("type") == "liquidation_started":
            yield from compare("type", kind, "cancel_orders")
        row = (body.get("account", ""), body.get("bucket", ""))
        match kind:
            case "liquidation_order" | "collateral_sale":
                yield from self.order(body, row)
            case "margin_call":
                yield from ratio(body)
            case "liquidation_started":
                yield from self.started(body, row)
            case "cancel_orders":
                is_next = self.before.get("type") == "liquidation_started"
                yield from demand("type", kind, "directly after liquidation_started", holds=is_next)
                yield from self.in_episode(body, row)
            case "takeover":
                yield from self.takeover(body, row)
            case "adl" | "adl_wave" | "adl_remaining":
                yield from self.deleveraging(body, row)
            case "liquidation_ended":
                yield from self.ended(body, row)
            case "bad_debt":
                yield from self.debt(body, row)
            case "insurance_fund":
                yield from self.fund_changed(body)
            case "liquidation_held" | "liquidation_released":
                yield from self.held(body, row)
            case "policy_changed":
                yield from compare("version", body["version"], self.version + 1)
                yield from compare("crossed", body["crossed"], sorted(set(body["crossed"])))
                self.version = body["version"]
            case "reject":
                self.rejected[body["reason"]] += 1
                self.venue_rejects += body.get("file") == VENUE
        self.before = body

    def envelope(self, file: str, body: Body) -> Iterator[Finding]:
        """Yield what is wrong with type, number, id, shard and time."""
        yield from compare("seq", body["seq"], self.seq + 1)
        self.seq = body["seq"]
        yield from compare("output_id", body["output_id"], f"{body['shard']}-{body['seq']}")
        yield from compare("shard", body["shard"], self.before.get("shard", body["shard"]))
        is_later = type(body["ts"]) is int and body["ts"] >= self.before.get("ts", 0)
        yield from demand("ts", body["ts"], "not before the record before", holds=is_later)
        is_home = body["type"] in FILES[file]
        yield from demand("type", body["type"], f"one of {', '.join(FILES[file])}", holds=is_home)

    # Episodes.

    def in_episode(self, body: Body, row: Row) -> Iterator[Finding]:
        """Yield where a record does not belong to the open episode of its row, or the row is held."""
        episode = self.episodes.get(row)
        open_id = episode.started["liquidation_id"] if episode else None
        yield from compare("liquidation_id", body["liquidation_id"], open_id)
        yield from demand("type", body["type"], "nothing while the row is held", holds=row not in self.holds)

    def started(self, body: Body, row: Row) -> Iterator[Finding]:
        """Yield what is wrong with the beginning of an episode."""
        yield from ratio(body)
        yield from demand("type", body["type"], "one episode at a time", holds=row not in self.episodes)
        is_due = amount(body["equity"]) <= amount(body["maintenance_margin"])
        yield from demand("equity", body["equity"], "at most the maintenance margin", holds=is_due)
        name, _, number = body["liquidation_id"].rpartition("/")
        yield from compare("liquidation_id", name, "/".join(part for part in row if part))
        # A book that was written by a run before goes on with its numbers.
        first = int(number) if number.isdecimal() and int(number) > 0 else 1
        yield from compare("liquidation_id", number, str(self.numbers.get(row, first - 1) + 1))
        self.numbers[row] = int(number)
        self.episodes[row] = Episode(body)

    def order(self, body: Body, row: Row) -> Iterator[Finding]:
        """Yield what is wrong with an order or a sale."""
        yield from self.in_episode(body, row)
        episode = self.episodes[row]
        episode.orders += 1
        episode.settled = True
        yield from compare("order_id", body["order_id"], f"{body['liquidation_id']}/{episode.orders}")
        yield from self.orders.take(body, started=episode.started, version=self.version)

    def takeover(self, body: Body, row: Row) -> Iterator[Finding]:
        """Yield what is wrong with the positions that the fund took."""
        yield from self.in_episode(body, row)
        episode = self.episodes[row]
        episode.takeovers.append(body)
        episode.handed_over |= {entry["symbol"] for entry in body["positions"]}
        episode.settled = False
        yield from demand("positions", body["positions"], "at least one", holds=bool(body["positions"]))
        for index, entry in enumerate(body["positions"]):
            yield from self.exact_price(f"positions[{index}].", entry)

    def exact_price(self, field: str, entry: Body) -> Iterator[Finding]:
        """Yield where the price printed for a quantity and its cash is not theirs; nothing for an unknown contract."""
        terms = self.orders.contracts.get(entry["symbol"])
        qty, cash = amount(entry["qty"]), amount(entry["cash"])
        if terms is None:
            return
        yield from demand(f"{field}qty", entry["qty"], "whole lots", holds=qty != 0 and qty % amount(terms["lot"]) == 0)
        sized = qty * amount(terms["multiplier"])
        if cash == 0:
            price = None if terms["kind"] == "inverse" else Fraction(0)
        else:
            price = -sized / cash if terms["kind"] == "inverse" else cash / sized
        derived = [None if price is None else show(sign * price, price_decimals(terms)) for sign in (1, -1)]
        # A quantity without a side may be that of a short.
        is_signed = "leg" in entry
        yield from compare(f"{field}price", entry["price"], derived[not is_signed and entry["price"] == derived[1]])

    def deleveraging(self, body: Body, row: Row) -> Iterator[Finding]:
        """Yield what is wrong with a winner's part, a wave of them, or what found none."""
        yield from self.in_episode(body, row)
        episode = self.episodes[row]
        episode.settled = False
        if body["type"] == "adl_remaining":
            episode.remaining = True
            return
        episode.deleveraged = True
        episode.handed_over.add(body["symbol"])
        if body["type"] == "adl":
            episode.wave.append(body)
            yield from self.exact_price("", body)
            return
        parts, episode.wave = episode.wave, []
        taken = sum((amount(part["qty"]) for part in parts), Fraction(0))
        yield from compare("taken_qty", body["taken_qty"], show(taken, UNIT_DECIMALS))
        yield from demand(
            "needed_qty", body["needed_qty"], "no less than taken", holds=amount(body["needed_qty"]) >= taken
        )
        yield from compare("counterparties", body["counterparties"], len({part["counterparty"] for part in parts}))
        cash = sum((amount(part["cash"]) for part in parts), Fraction(0))
        for part in parts:
            yield from compare("symbol", part["symbol"], body["symbol"])
            # Each part is rounded down and the last takes the rest: a unit for every part at the most.
            uneven = abs(amount(part["cash"]) - cash * amount(part["qty"]) / taken) * UNIT
            rule = f"the same cash per lot for {part['counterparty']}"
            yield from demand("cash", part["cash"], rule, holds=uneven <= len(parts))

    def ended(self, body: Body, row: Row) -> Iterator[Finding]:
        """Yield what is wrong with the end of an episode."""
        yield from self.in_episode(body, row)
        episode = self.episodes.pop(row)
        gone = "deleveraged" if episode.deleveraged else "taken_over" if episode.takeovers else "closed"
        yield from demand("outcome", body["outcome"], f"healthy or {gone}", holds=body["outcome"] in ("healthy", gone))
        yield from demand("type", "adl", "followed by its adl_wave", holds=not episode.wave)
        equity, closed, spare = (amount(body[name]) for name in ("equity", "closed_notional", "not_needed"))
        yield from demand("equity", body["equity"], "not below zero", holds=equity >= 0)
        is_spare = 0 <= spare <= (closed if gone == "closed" else 0)
        yield from demand("not_needed", body["not_needed"], "a part of what was closed by choice", holds=is_spare)
        is_traded = bool(episode.orders) or closed == amount(body["cost"]) == 0
        yield from demand("closed_notional", body["closed_notional"], "0 without an order", holds=is_traded)
        self.closed_notional += closed
        if body["outcome"] in ("taken_over", "deleveraged") and not episode.settled:
            slack = self.orders.settlement_slack(episode.handed_over)
            yield from demand("equity", body["equity"], "zero after a takeover", holds=equity * UNIT <= slack)
        if len(episode.takeovers) == 1 and not episode.remaining and body["outcome"] != "healthy":
            lost = max(-amount(episode.takeovers[0]["equity_before"]), Fraction(0))
            yield from compare("bad debt of the episode", show(episode.loss, UNIT_DECIMALS), show(lost, UNIT_DECIMALS))

    # Money.

    def debt(self, body: Body, row: Row) -> Iterator[Finding]:
        """Yield what is wrong with a loss beyond an account's equity."""
        yield from self.in_episode(body, row)
        deficit, asset = amount(body["deficit"]), body["asset"]
        parts = [amount(body[name]) for name in PARTS]
        yield from compare("deficit", body["deficit"], show(sum(parts, Fraction(0)), UNIT_DECIMALS))
        yield from demand(
            "deficit", body["deficit"], "above zero, of parts above zero", holds=min(parts) >= 0 < deficit
        )
        self.bad_debt[asset] += deficit
        self.uncovered[asset] += parts[3]
        episode = self.episodes[row]
        if asset in episode.fund_paid or parts[2] or parts[3]:
            episode.settled = True
            yield from compare(
                "paid_by_insurance",
                body["paid_by_insurance"],
                show(episode.fund_paid.pop(asset, Fraction(0)), UNIT_DECIMALS),
            )
        else:
            is_waterfall = bool(episode.takeovers) or episode.deleveraged
            yield from demand(
                "deficit", body["deficit"], "a loss of a takeover", holds=is_waterfall and not episode.loss
            )
            episode.loss = deficit

    def fund_changed(self, body: Body) -> Iterator[Finding]:
        """Yield where a balance of the fund is not the one before plus the change."""
        asset, change, balance = body["asset"], amount(body["change"]), amount(body["balance"])
        yield from demand("change", body["change"], "not zero", holds=change != 0)
        yield from compare(
            "balance", body["balance"], show(self.fund.get(asset, balance - change) + change, UNIT_DECIMALS)
        )
        self.fund[asset] = balance
        if body["cause"] != "bad_debt":
            return
        for episode in self.episodes.values():
            if episode.started["liquidation_id"] == body["liquidation_id"]:
                episode.fund_paid[asset] = episode.fund_paid.get(asset, Fraction(0)) - change

    def held(self, body: Body, row: Row) -> Iterator[Finding]:
        """Yield where holds and releases of a row do not alternate; the same hold may be reported again."""
        hold, is_held = (body["reason"], body.get("symbol")), body["type"] == "liquidation_held"
        before = self.holds.get(row)
        fits = before in (None, hold) if is_held else before == hold
        yield from demand("reason", body["reason"], f"the other end of {before}", holds=fits)
        if is_held:
            self.holds[row] = hold
        else:
            self.holds.pop(row, None)

    def close(self, summary: Body) -> Iterator[Finding]:
        """Yield where the summary does not say what was counted."""
        sums = {"bad_debt": self.bad_debt, "uncovered": self.uncovered}
        counted = {
            "orders": self.counts["liquidation_order"] + self.counts["collateral_sale"],
            "liquidations": self.counts["liquidation_started"],
            "adl": self.counts["adl"],
            "rejected": dict(sorted(self.rejected.items())),
        } | {
            name: {asset: show(sums[name][asset], UNIT_DECIMALS) for asset in sorted(sums[name]) if sums[name][asset]}
            for name in sums
        }
        for name, derived in counted.items():
            yield from compare(name, summary[name], derived)
        answered = sum(summary[name] for name in ("accepted", "duplicates", "ignored")) + sum(self.rejected.values())
        yield from compare("messages", summary["messages"], answered - self.venue_rejects)
        for asset, balance in sorted(self.fund.items()):
            yield from compare(f"insurance.{asset}", summary["insurance"].get(asset, "0"), show(balance, UNIT_DECIMALS))
        stated = amount(summary["notional_liquidated"])
        fits = stated == self.closed_notional if not self.episodes else stated >= self.closed_notional
        total = show(self.closed_notional, UNIT_DECIMALS)
        yield from demand(
            "notional_liquidated", summary["notional_liquidated"], f"{total} in ended episodes", holds=fits
        )
        for asset, sides in summary["conservation"].items():
            left = amount(sides["wallets"]) - amount(sides["transfers"])
            yield from compare(f"conservation.{asset}.difference", sides["difference"], show(left, UNIT_DECIMALS))
            yield from compare(f"conservation.{asset}.difference", sides["difference"], "0")


def ratio(body: Body) -> Iterator[Finding]:
    """Yield where a margin ratio is not that of the equity and margin beside it."""
    equity, maintenance = (int(amount(body[name]) * UNIT) for name in ("equity", "maintenance_margin"))
    yield from compare("margin_ratio", body["margin_ratio"], margin_ratio(equity, maintenance))
