"""What must hold at the moment an output is written, while the book still stands as it did when it was decided.

``Onlooker`` remembers what outputs and messages have said so far; a broken law raises ``Broken`` with its name, by
which a plan is shrunk. What must hold between two messages is in ``invariants.py``. Prices are those of the engine's
book: they change only before anything is decided, and ``invariants.py`` compares them with a model of its own after
each message.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from engine.core.book import INSURANCE_ROW, LEG_NAMES, Book
from engine.core.shard import Shard
from engine.edges.codec import encode
from tests.reference_numbers import UNIT, decimal, show
from tests.scenarios import (
    CAUSES,
    DECISION,
    ENVELOPE,
    HOLDS,
    NULLABLE,
    NUMBER_FIELDS,
    OUTCOMES,
    TOPICS,
    check_numbers,
    words,
)
from tests.simulation.oracle import Document, Figures, Oracle
from tests.simulation.prices import Prices, Quote

NS_PER_MS = 1_000_000
UNIT_DECIMALS = 8
# A waterfall retried at each simulated fill can say thousands of things; what says more than this goes on for ever.
OUTPUTS_MAX = 50_000
# Holds that run out; a pause or a warm-up never does.
LIMITED = ("stale_mark", "price_band")
PARTS = ("paid_by_insurance", "paid_by_adl", "paid_by_socialisation", "uncovered")

# topic and type -> the fields it must have.
REQUIRED = {
    (topic, kind): {*ENVELOPE, *words(names)} - ({"file", "line"} if kind == "reject" else set())
    for topic, records in TOPICS.items()
    for kind, names in records.items()
}
# What ``check_numbers`` looks for one value at a time, found in the written line at once: a number that is no string,
# or not in its shortest form.
SHORTEST = r'"-?(?:0|[1-9][0-9]*)(?:\.[0-9]*[1-9])?"'
MISWRITTEN = re.compile(
    rf'"(?:{"|".join(sorted({*NUMBER_FIELDS} - NULLABLE))})":(?!{SHORTEST})'
    rf'|"(?:{"|".join(sorted(NULLABLE))})":(?!{SHORTEST}|null)'
    rf'|[:,\[]-?\d+[.eE]|"-0"'.encode()
)


class Broken(AssertionError):
    """A law of the contract does not hold."""

    def __init__(self, law: str, detail: object) -> None:
        super().__init__(f"{law}: {detail}")
        self.law = law


def units(text: str) -> int:
    """Return an amount in units; one with more than 8 decimals is none."""
    whole, _, rest = text.partition(".")
    if len(rest) > UNIT_DECIMALS:
        raise ValueError(f"{text} has more than {UNIT_DECIMALS} decimals")
    return int(whole + rest) * 10 ** (UNIT_DECIMALS - len(rest))


@dataclass
class Flight:
    """An order as an onlooker sees it: what was asked for, what came back, until when it may be out."""

    order: Document
    due: int
    left: Fraction
    is_over: bool = False


@dataclass
class Story:
    """What an onlooker knows of one open episode."""

    liquidation_id: str
    orders_count: int = 0
    waterfalls: int = 0
    equity_before: int = 0
    paid: int = 0
    left_behind: bool = False
    flights: list[Flight] = field(default_factory=list)


class WatchedShard(Shard):
    """A shard whose every output is judged as it is written."""

    judge: Onlooker | None = None

    def emit(self, topic: str, key: str, kind: str, fields: dict[str, Any]) -> None:
        """Write the output, then have it judged."""
        super().emit(topic, key, kind, fields)
        if self.judge is not None:
            self.judge.on_output(topic, key, self.outputs[-1].body)


@dataclass
class Onlooker:
    """What is remembered of the messages and outputs so far, and the laws each output keeps."""

    shard: WatchedShard
    oracle: Oracle
    prices: Prices
    checks: Counter[str] = field(default_factory=Counter)
    seq: int = 0
    messages: int = 0
    stories: dict[int, Story] = field(default_factory=dict)
    episodes: Counter[int] = field(default_factory=Counter)
    held: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    held_since: dict[int, int] = field(default_factory=dict)
    # Of each row the last hold that ended: its reason, its beginning, the output that said so.
    released: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    called: set[int] = field(default_factory=set)
    # Within a step a row may fall below the re-arm ratio, be deleveraged and cross again: of these either is right.
    deleveraged: set[int] = field(default_factory=set)
    flights: dict[str, Flight] = field(default_factory=dict)
    # The last order of each position.
    last_flights: dict[tuple[Any, ...], Flight] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    uncovered: Counter[str] = field(default_factory=Counter)
    fund: dict[str, int] = field(default_factory=dict)
    flows: dict[str, deque[tuple[int, Fraction]]] = field(default_factory=lambda: defaultdict(deque))
    liquidatable_before: set[int] = field(default_factory=set)
    decision: Document | None = None
    started: list[Fraction] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    message: Document = field(default_factory=dict)
    # The price that the message under way shows, which the model learns of once it was accepted.
    showing: Quote | None = None

    @property
    def book(self) -> Book:
        """The book as it stands."""
        return self.shard.book

    def law(self, name: str, holds: bool, detail: object = "") -> None:
        """Count one check of a law; raise if it is broken."""
        self.checks[name] += 1
        if not holds:
            raise Broken(name, detail)

    def name(self, row: int) -> str:
        """Return how a person names a row."""
        return f"{self.book.accounts[row]}/{self.book.buckets[row]}".rstrip("/")

    def row_of(self, body: Document) -> int:
        """Return the row an output speaks of."""
        return self.book.row_index[body["account"], body.get("bucket", "")]

    # What the log has shown, by the model of prices.

    def is_priced(self, row: int) -> bool:
        """Return whether every price the row depends on is known."""
        return self.prices.all_seen or all(quote.value or quote is self.showing for quote in self.quotes(row))

    def is_warm(self, row: int) -> bool:
        """Return whether the log has shown every price the row depends on."""
        return self.prices.all_seen or all(quote.is_seen or quote is self.showing for quote in self.quotes(row))

    def quotes(self, row: int) -> list[Quote]:
        """Return the prices that a row's equity depends on: its marks, what they settle in, its balances."""
        book, model = self.book, self.prices
        symbols = {symbol for symbol, _ in book.positions_of(row)}
        assets = {book.settle[symbol] for symbol in symbols}
        assets |= {asset for asset in range(len(book.assets)) if book.wallet(row, asset)}
        marks = [model.marks[book.instruments[symbol].symbol] for symbol in symbols]
        return marks + [model.assets[book.assets[asset].name] for asset in assets]

    # Each output, while the book stands as it did when it was decided.

    def on_output(self, topic: str, key: str, body: Document) -> None:
        """Judge one output."""
        kind = body["type"]
        self.seq += 1
        self.kinds[kind] += 1
        self.law("a step ends", self.kinds.total() <= OUTPUTS_MAX, kind)
        self.law("seq", (body["seq"], body["output_id"]) == (self.seq, f"0-{self.seq}"), body)
        is_whole = REQUIRED[topic, kind] <= body.keys() and body["ts"] == self.shard.clock
        self.law("fields", is_whole, body)
        if kind == "reject":
            check_numbers(body)
        else:
            self.law("numbers are written exactly", not MISWRITTEN.search(encode(body)), body)
            self.law("key", "account" not in body or key == body["account"], body)
        judge = getattr(self, f"on_{kind}", None)
        if judge is not None:
            judge(body)

    def check_stated(self, body: Document) -> Figures:
        """Check the figures that an output states of a row, and return the oracle's."""
        figures = self.oracle.row(self.row_of(body))
        stated = units(body["equity"]), units(body["maintenance_margin"])
        self.law("stated figures", stated == figures[:2], (body, figures))
        return figures

    def on_margin_call(self, body: Document) -> None:
        """A call is made once per crossing of the call ratio, at true figures, of an account that is warm."""
        row, figures = self.row_of(body), self.check_stated(body)
        self.law("no call without need", self.is_at_ratio(*figures[:2], "margin_call_ratio", "0.8"), body)
        self.law("one call per crossing", row not in self.called or row in self.deleveraged, body)
        self.deleveraged.discard(row)
        self.law("nobody cold is called", self.is_warm(row), body)
        self.called.add(row)

    def is_at_ratio(self, equity: int, maintenance: int, key: str, default: str) -> bool:
        """Return whether MM / E has reached a ratio of the policy."""
        ratio = self.oracle.policy(key, default)
        return maintenance > 0 and (equity <= 0 or maintenance * ratio.denominator >= ratio.numerator * equity)

    def on_liquidation_started(self, body: Document) -> None:
        """Only the unhealthy are liquidated, one episode at a time, each under its next number."""
        row, oracle = self.row_of(body), self.oracle
        equity, maintenance, _ = self.check_stated(body)
        unhealthy = oracle.is_liquidatable(equity, maintenance) or oracle.is_insolvent(row)
        self.law("no healthy account is liquidated", unhealthy, body)
        self.law("one episode at a time", row not in self.stories, body)
        self.law("nobody held is liquidated", row not in self.held and not self.is_paused(row), body)
        self.law("nobody cold is liquidated", self.is_warm(row), body)
        self.law("cause", body["cause"] in CAUSES, body)
        self.episodes[row] += 1
        expected = f"{self.name(row)}/{self.episodes[row]}"
        self.law("liquidation id", body["liquidation_id"] == expected, f"{body} instead of {expected}")
        self.stories[row] = Story(expected)
        # Without margin it is a debt that is dealt with, and the call of the last positions is over.
        if not self.is_at_ratio(equity, maintenance, "margin_call_rearm", "0.75"):
            self.called.discard(row)
        if maintenance > 0:
            self.started.append(Fraction(equity, maintenance))

    def is_paused(self, row: int) -> bool:
        """Return whether a pause covers a row."""
        symbols = {self.book.instruments[symbol].symbol for symbol, _ in self.book.positions_of(row)}
        return "all" in self.paused or bool(symbols & self.paused)

    def story(self, body: Document) -> Story:
        """Return the open episode an output belongs to."""
        story = self.stories.get(self.row_of(body))
        known = story is not None and story.liquidation_id == body["liquidation_id"]
        self.law("belongs to an open episode", known, body)
        assert story is not None
        return story

    def on_cancel_orders(self, body: Document) -> None:
        """Belongs to an open episode."""
        self.story(body)

    def on_liquidation_order(self, body: Document) -> None:
        """Reduce-only, one in flight per position, within limit and budget, and enough by its own plan."""
        row, story, book = self.row_of(body), self.story(body), self.book
        self.check_order(body, story)
        symbol = book.symbol_index[body["symbol"]]
        leg = LEG_NAMES.index(body.get("leg", "net"))
        instrument = book.instruments[symbol]
        held = book.position(row, symbol, leg)[0] * Fraction(1, 10) ** instrument.size_decimals
        change = decimal(body["qty"]) * (1 if body["side"] == "buy" else -1)
        self.law("reduce-only", held * change < 0 and 0 < abs(change) <= abs(held), f"{held} held: {body}")
        self.law("order terms", (body["time_in_force"], body["reduce_only"]) == ("IOC", True), body)
        before = self.last_flights.get((row, symbol, leg))
        is_over = before is None or before.is_over or before.due <= self.shard.clock
        self.law("no second order for what is in flight", is_over, (before, body))
        figures = self.oracle.row(row)
        self.law("no order without equity", figures.equity > 0, body)
        price, stale_ns = book.marks[symbol], int(self.oracle.policy("mark_stale_ms", "0")) * NS_PER_MS
        is_fresh = not price.pending and (stale_ns == 0 or self.shard.clock - price.ts <= stale_ns)
        self.law("no order at a mark nobody stands behind", is_fresh, f"{price}: {body}")
        bankruptcy = self.oracle.bankruptcy_price(figures, symbol, leg)
        expected = None if bankruptcy is None else show(bankruptcy)
        self.law("bankruptcy price", body["bankruptcy_price"] == expected, f"{body} instead of {expected}")
        self.check_limit(body, symbol)
        self.check_budget(body, figures, symbol)
        self.last_flights[row, symbol, leg] = self.fly(body, abs(change), story)

    def on_collateral_sale(self, body: Document) -> None:
        """Sells what is there, on the grid of the asset, for another asset."""
        row, story, book = self.row_of(body), self.story(body), self.book
        self.check_order(body, story)
        asset = book.asset_index[body["asset"]]
        amount = units(body["amount"])
        possible = 0 < amount <= book.wallet(row, asset) and amount % book.assets[asset].step_units == 0
        self.law("sale of what is there", possible and body["for_asset"] != body["asset"], body)
        market, fields = self.oracle.market(), self.oracle.risk["assets"]
        rate = market.price(body["asset"]) / market.price(body["for_asset"])
        keep = 1 - decimal(fields[body["asset"]].get("slippage", "0"))
        proceeds = decimal(body["amount"]) * rate * keep * 10 ** int(fields[body["for_asset"]].get("decimals", 8))
        self.law("a sale brings something", proceeds >= 1, body)
        self.fly(body, decimal(body["amount"]), story)

    def fly(self, body: Document, amount: Fraction, story: Story) -> Flight:
        """Remember an order that is now in flight."""
        due = self.shard.clock + int(self.oracle.policy("order_timeout_ms", "5000")) * NS_PER_MS
        flight = self.flights[body["order_id"]] = Flight(body, due, amount)
        story.flights.append(flight)
        return flight

    def check_order(self, body: Document, story: Story) -> None:
        """An order has its next number, a decision, and nobody forbids it."""
        row = self.row_of(body)
        story.orders_count += 1
        self.law("order id", body["order_id"] == f"{story.liquidation_id}/{story.orders_count}", body)
        self.law("no order from the held", row not in self.held and not self.is_paused(row), body)
        decision = body["decision"]
        self.law("decision is complete", set(DECISION) <= set(decision), set(DECISION) - set(decision))
        if decision is not self.decision:
            self.decision = decision
            self.check_decision(row, decision)

    def check_decision(self, row: int, decision: Document) -> None:
        """A decision states the oracle's figures; a cheapest plan reaches the target, and with no lot less."""
        figures, oracle = self.oracle.row(row), self.oracle
        stated = units(decision["equity"]), units(decision["maintenance_margin"])
        self.law("figures of a decision", stated == figures[:2], decision)
        plan = decision["wanted"] if "wanted" in decision else decision["plan"]
        closes = [order for order in plan if "symbol" in order]
        if len(closes) < len(plan) or not closes or oracle.word("partial", "cheapest") != "cheapest":
            return
        if closes[0]["stage"] != "partial":
            return
        self.law("partial closes suffice", oracle.has_target(*oracle.after_closes(row, closes)), decision)
        if oracle.policy("min_notional", "0"):
            return
        for index, close in enumerate(closes):
            fewer = decimal(close["qty"]) - decimal(oracle.risk["instruments"][close["symbol"]]["lot"])
            rest = [*closes[:index], {**close, "qty": show(fewer)}, *closes[index + 1 :]]
            self.law("no lot too many", not oracle.has_target(*oracle.after_closes(row, rest)), (close, decision))

    def check_limit(self, body: Document, symbol: int) -> None:
        """The limit is the bankruptcy price, drawn in to the band around the mark, on the tick."""
        book = self.book
        mark = Fraction(book.marks[symbol].value, 10 ** book.instruments[symbol].price_decimals)
        band, limit = self.oracle.policy("limit_band", "0.05"), decimal(body["limit_price"])
        tick = self.oracle.terms[body["symbol"]].price_tick
        self.law("limit on the tick", (limit / tick).denominator == 1, body)
        bankruptcy = body["bankruptcy_price"]
        if body["side"] == "sell":
            edge = max(mark * (1 - band), decimal(bankruptcy or "0"))
            self.law("limit", edge <= limit < edge + tick, f"{edge}: {body}")
        else:
            ceiling = mark * (1 + band)
            edge = ceiling if bankruptcy is None else min(ceiling, decimal(bankruptcy))
            self.law("limit", edge - tick < limit <= edge, f"{edge}: {body}")

    def check_budget(self, body: Document, figures: Figures, symbol: int) -> None:
        """What was sent of a symbol within the window stays within its budget, but for emergencies."""
        oracle, book = self.oracle, self.book
        terms, flow = oracle.terms[body["symbol"]], self.flows[body["symbol"]]
        mark = Fraction(book.marks[symbol].value, 10 ** book.instruments[symbol].price_decimals)
        flow.append(
            (self.shard.clock, decimal(body["qty"]) * terms.multiplier * (1 / mark if terms.is_inverse else mark))
        )
        window = int(oracle.policy("flow_window_ms", "1000")) * NS_PER_MS
        budget = oracle.risk["instruments"][body["symbol"]].get("flow_budget", "none")
        ratio = oracle.policy("emergency_ratio", "0")
        if budget != "none" and figures.equity >= ratio * figures.maintenance:
            sent = sum(notional for ts, notional in flow if ts > self.shard.clock - window)
            self.law("flow budget", sent <= decimal(budget), f"{sent} of {budget}: {body['order_id']}")

    def on_liquidation_ended(self, body: Document) -> None:
        """An episode ends healthy or empty, with nothing in flight, and the books of its waterfall closed."""
        row, story, book = self.row_of(body), self.story(body), self.book
        equity, maintenance, _ = self.oracle.row(row)
        self.law("equity of an end", units(body["equity"]) == equity, body)
        self.law("outcome", body["outcome"] in OUTCOMES, body)
        if body["outcome"] == "healthy":
            self.law("healthy means healthy", self.oracle.has_target(equity, maintenance), (body, maintenance))
        else:
            self.law("an end leaves nothing", not book.positions_of(row) and equity >= 0, body)
        self.law("nothing in flight at the end", not self.shard.episodes[row].orders, body)
        if story.waterfalls == 1 and not self.shard.episodes[row].remaining:
            deficit = max(-story.equity_before, 0)
            # A position that had to stay, its mark being stale, keeps its part of the loss.
            as_told = story.paid <= deficit if story.left_behind else story.paid == deficit
            self.law("deficit of a waterfall", as_told, f"{story.paid} of {deficit}: {body}")
        del self.stories[row]
        for flight in story.flights:
            flight.is_over = True
        if not self.is_at_ratio(equity, maintenance, "margin_call_rearm", "0.75"):
            self.called.discard(row)

    def on_bad_debt(self, body: Document) -> None:
        """The four parts add up to the deficit; what is uncovered is remembered against ``$bad_debt``."""
        story = self.story(body)
        parts = [units(body[part]) for part in PARTS]
        self.law("bad debt adds up", sum(parts) == units(body["deficit"]) > 0 and min(parts) >= 0, body)
        if body["asset"] == self.oracle.word("valuation", "USD") and body["asset"] not in self.book.asset_index:
            story.paid += units(body["deficit"])
        else:
            self.uncovered[body["asset"]] += units(body["uncovered"])

    def on_insurance_fund(self, body: Document) -> None:
        """Every change of the fund's wallet is told, exactly; it pays no debt with what it does not have."""
        asset, change, balance = body["asset"], units(body["change"]), units(body["balance"])
        self.fund[asset] = self.fund.get(asset, 0) + change
        self.law("fund balance", change != 0 and self.fund[asset] == balance, f"{self.fund[asset]}: {body}")
        if body["cause"] == "bad_debt":
            self.law("fund pays what it holds", change < 0 <= balance, body)
        if body["cause"] in ("liquidation_fee", "surplus"):
            # Where the asset has a haircut or a price, roundings may take a unit more.
            row = self.row_of({"account": body["account"], "bucket": self.bucket_of(body["liquidation_id"])})
            self.law("fees take what is there", change > 0 and self.oracle.row(row).equity >= -1, body)

    def bucket_of(self, liquidation_id: str) -> str:
        """Return the bucket of an open episode."""
        rows = [row for row, story in self.stories.items() if story.liquidation_id == liquidation_id]
        self.law("belongs to an open episode", len(rows) == 1, liquidation_id)
        return self.book.buckets[rows[0]]

    def on_takeover(self, body: Document) -> None:
        """The fund takes no more than leaves its equity at its floor."""
        self.story(body)
        floor = self.oracle.policy("insurance_floor", "0") * UNIT
        # Its wallets and each of its positions are rounded on their own.
        slack = len(self.book.assets) + 2 * len(self.book.positions_of(INSURANCE_ROW))
        self.law("fund keeps its floor", self.oracle.fund_equity() >= floor - slack, body)

    def on_liquidation_held(self, body: Document) -> None:
        """A hold has a reason of the list; one that follows another of the same reason at once goes on counting."""
        row, reason = self.row_of(body), body["reason"]
        self.law("reason of a hold", reason in HOLDS, body)
        before, since, seq = self.released.get(row, ("", 0, 0))
        goes_on = row not in self.held and before == reason and seq + 1 == self.seq
        # What is fresh is acted on once the wait is over: who is held again then has nothing fresh, and waits anew.
        self.held_since[row] = since if goes_on and not self.is_over(reason, since) else self.shard.clock
        self.held[row] = reason, body.get("symbol")

    def is_over(self, reason: str, since: int) -> bool:
        """Return whether a hold of a limited reason has lasted its time."""
        limit = int(self.oracle.policy("max_hold_ms", "60000")) * NS_PER_MS
        return reason in LIMITED and limit > 0 and self.shard.clock >= since + limit

    def on_liquidation_released(self, body: Document) -> None:
        """Only who was held is released, and of that."""
        row = self.row_of(body)
        self.law("release of a hold", self.held.pop(row, None) == (body["reason"], body.get("symbol")), body)
        self.released[row] = body["reason"], self.held_since[row], self.seq

    def on_policy_changed(self, body: Document) -> None:
        """Says who crossed because of it; from here on the oracle goes by the new parameters."""
        # What was forgotten under a shorter window of the flow budget does not count under a longer one.
        start = self.shard.clock - int(self.oracle.policy("flow_window_ms", "1000")) * NS_PER_MS
        for flow in self.flows.values():
            while flow and flow[0][0] <= start:
                flow.popleft()
        self.oracle.change(self.message)
        crossed = sorted({self.book.accounts[row] for row in self.liquidatable_rows() - self.liquidatable_before})
        self.law("who crossed", body["crossed"] == crossed, f"{body} instead of {crossed}")

    def liquidatable_rows(self) -> set[int]:
        """Return the rows that must be liquidated at the prices in force."""
        oracle, book = self.oracle, self.book
        rows = (row for row in range(1, len(book.accounts)) if self.is_priced(row))
        return {row for row in rows if oracle.is_liquidatable(*oracle.row(row)[:2])}
