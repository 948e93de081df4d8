"""What must hold at the moment an output is written, while the book still stands as it did when it was decided.

``Onlooker`` remembers what outputs and messages have said so far; a broken law raises ``Broken`` with its name, by
which a plan is shrunk. What must hold between two messages is in ``invariants.py``.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from engine.core.book import INSURANCE_ROW, LEG_NAMES, Book
from engine.core.margin import is_row_liquidatable
from engine.core.shard import Shard
from tests.reference import HoldingFigures
from tests.reference_numbers import UNIT, decimal, show
from tests.scenarios import CAUSES, DECISION, ENVELOPE, HOLDS, OUTCOMES, TOPICS, check_numbers, words
from tests.simulation.oracle import Document, Oracle

NS_PER_MS = 1_000_000
# A waterfall retried at each simulated fill can say thousands of things; what says more than this goes on for ever.
OUTPUTS_MAX = 10_000
PARTS = ("paid_by_insurance", "paid_by_adl", "paid_by_socialisation", "uncovered")


class Broken(AssertionError):
    """A law of the contract does not hold."""

    def __init__(self, law: str, detail: object) -> None:
        super().__init__(f"{law}: {detail}")
        self.law = law


def units(text: str) -> int:
    """Return an amount of an output in units."""
    return int(decimal(text) * UNIT)


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
    # Every so many messages the oracle recomputes all rows, not only those that outputs speak of.
    every: int = 8
    checks: Counter[str] = field(default_factory=Counter)
    seq: int = 0
    messages: int = 0
    stories: dict[int, Story] = field(default_factory=dict)
    episodes: Counter[int] = field(default_factory=Counter)
    held: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    flights: dict[str, Flight] = field(default_factory=dict)
    answers: set[tuple[Any, ...]] = field(default_factory=set)
    paused: set[str] = field(default_factory=set)
    deposited: Counter[str] = field(default_factory=Counter)
    uncovered: Counter[str] = field(default_factory=Counter)
    fund: dict[str, int] = field(default_factory=dict)
    flows: dict[str, deque[tuple[int, Fraction]]] = field(default_factory=lambda: defaultdict(deque))
    touched: set[int] = field(default_factory=set)
    liquidatable_before: set[int] = field(default_factory=set)
    decision: Document | None = None
    started: list[Fraction] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    message: Document = field(default_factory=dict)
    paused_before: set[str] = field(default_factory=set)
    waiting: int | None = None
    answered: tuple[Flight, Fraction, bool] | None = None
    accepted_ids: set[tuple[Any, ...]] = field(default_factory=set)
    had_position: set[int] = field(default_factory=set)
    marks_ts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with what a loaded book brought."""
        book = self.book
        self.seq = self.shard.seq
        for index, asset in enumerate(book.assets):
            self.deposited[asset.name] = book.transfers[index]
            self.fund[asset.name] = book.wallet(INSURANCE_ROW, index)
            self.uncovered[asset.name] = -book.system["$bad_debt"][index]
        self.episodes.update(self.shard.episode_counts)

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

    def figures(self, row: int) -> HoldingFigures:
        """Return the oracle's figures of a row."""
        return self.oracle.figures(row)

    def rows(self) -> range:
        """Return all rows but the fund's."""
        return range(1, len(self.book.accounts))

    def liquidatable_rows(self) -> set[int]:
        """Return the rows the engine says must be liquidated."""
        book = self.book
        return {row for row in self.rows() if book.is_priced(row) and is_row_liquidatable(book, row)}

    # Each output, while the book stands as it did when it was decided.

    def on_output(self, topic: str, key: str, body: Document) -> None:
        """Judge one output."""
        kind = body["type"]
        self.seq += 1
        self.kinds[kind] += 1
        self.law("a step ends", self.kinds.total() <= OUTPUTS_MAX, f"the last of {self.kinds}: {body}")
        self.law("seq", (body["seq"], body["output_id"]) == (self.seq, f"0-{self.seq}"), body)
        required = set(words(TOPICS[topic][kind])) - ({"file", "line"} if kind == "reject" else set())
        missing = {*ENVELOPE, *required} - set(body)
        self.law("fields", not missing and body["ts"] == self.shard.clock, f"{kind} lacks {missing}")
        check_numbers(body)
        if kind != "reject" and "account" in body:
            self.law("key", key == body["account"], body)
            self.touched.add(self.row_of(body))
        judge = getattr(self, f"on_{kind}", None)
        if judge is not None:
            judge(body)

    def on_liquidation_started(self, body: Document) -> None:
        """Only the unhealthy are liquidated, one episode at a time, each under its next number."""
        row = self.row_of(body)
        figures = self.figures(row)
        equity, maintenance = figures.equity_units, figures.maintenance_units
        stated = units(body["equity"]), units(body["maintenance_margin"])
        self.law("figures of a start", stated == (equity, maintenance), body)
        unhealthy = self.oracle.is_liquidatable(figures) or self.oracle.is_insolvent(row)
        self.law("no healthy account is liquidated", unhealthy, body)
        self.law("one episode at a time", row not in self.stories, body)
        self.law("nobody held is liquidated", row not in self.held and not self.is_paused(row), body)
        self.law("nobody cold is liquidated", self.book.is_warm(row), body)
        self.law("cause", body["cause"] in CAUSES, body)
        self.episodes[row] += 1
        expected = f"{self.name(row)}/{self.episodes[row]}"
        self.law("liquidation id", body["liquidation_id"] == expected, f"{body} instead of {expected}")
        self.stories[row] = Story(expected)
        if maintenance > 0:
            self.started.append(Fraction(equity, maintenance))

    def is_paused(self, row: int) -> bool:
        """Return whether a pause covers a row."""
        symbols = {self.book.instruments[symbol].symbol for symbol, _ in self.book.row_positions[row]}
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
        for other in self.flights.values():
            twin = all(other.order.get(key) == body.get(key) for key in ("account", "bucket", "symbol", "leg"))
            if twin and other.order["type"] == "liquidation_order":
                is_over = other.is_over or other.due <= self.shard.clock
                self.law("no second order for what is in flight", is_over, (other.order["order_id"], body["order_id"]))
        self.law("no order without equity", book.equity(row) > 0, body)
        price, stale_ns = book.marks[symbol], int(self.oracle.policy("mark_stale_ms", "0")) * NS_PER_MS
        is_fresh = not price.pending and (stale_ns == 0 or self.shard.clock - price.ts <= stale_ns)
        self.law("no order at a mark nobody stands behind", is_fresh, f"{price}: {body}")
        bankruptcy = self.oracle.bankruptcy_price(row, body["symbol"], body.get("leg", "net"))
        expected = None if bankruptcy is None else show(bankruptcy)
        self.law("bankruptcy price", body["bankruptcy_price"] == expected, f"{body} instead of {expected}")
        self.check_limit(body, symbol)
        self.check_budget(body, row, symbol)
        self.fly(body, abs(change))

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
        self.fly(body, decimal(body["amount"]))

    def fly(self, body: Document, amount: Fraction) -> None:
        """Remember an order that is now in flight."""
        due = self.shard.clock + int(self.oracle.policy("order_timeout_ms", "5000")) * NS_PER_MS
        self.flights[body["order_id"]] = Flight(body, due, amount)

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
        figures, oracle = self.figures(row), self.oracle
        stated = units(decision["equity"]), units(decision["maintenance_margin"])
        self.law("figures of a decision", stated == (figures.equity_units, figures.maintenance_units), decision)
        plan = decision["plan"]
        closes = [order for order in plan if "symbol" in order]
        if len(closes) < len(plan) or not closes or oracle.word("partial", "cheapest") != "cheapest":
            return
        budgets = [
            oracle.risk["instruments"][position["symbol"]].get("flow_budget", "none")
            for position in decision["positions"]
        ]
        if closes[0]["stage"] != "partial" or any(budget != "none" for budget in budgets):
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
        tick = decimal(self.oracle.risk["instruments"][body["symbol"]]["price_tick"])
        self.law("limit on the tick", (limit / tick).denominator == 1, body)
        bankruptcy = body["bankruptcy_price"]
        if body["side"] == "sell":
            edge = max(mark * (1 - band), decimal(bankruptcy or "0"))
            self.law("limit", edge <= limit < edge + tick, f"{edge}: {body}")
        else:
            ceiling = mark * (1 + band)
            edge = ceiling if bankruptcy is None else min(ceiling, decimal(bankruptcy))
            self.law("limit", edge - tick < limit <= edge, f"{edge}: {body}")

    def check_budget(self, body: Document, row: int, symbol: int) -> None:
        """What was sent of a symbol within the window stays within its budget, but for emergencies."""
        oracle, book = self.oracle, self.book
        terms, flow = oracle.terms[body["symbol"]], self.flows[body["symbol"]]
        mark, qty = oracle.market().mark(body["symbol"]), decimal(body["qty"])
        flow.append((self.shard.clock, qty * terms.multiplier * (1 / mark if terms.is_inverse else mark)))
        window = int(oracle.policy("flow_window_ms", "1000")) * NS_PER_MS
        budget = oracle.risk["instruments"][body["symbol"]].get("flow_budget", "none")
        ratio = oracle.policy("emergency_ratio", "0")
        if budget != "none" and book.equity(row) >= ratio * book.maintenance(row):
            sent = sum(notional for ts, notional in flow if ts > self.shard.clock - window)
            self.law("flow budget", sent <= decimal(budget), f"{sent} of {budget}: {body['order_id']}")

    def on_liquidation_ended(self, body: Document) -> None:
        """An episode ends healthy or empty, with nothing in flight, and the books of its waterfall closed."""
        row, story, book = self.row_of(body), self.story(body), self.book
        figures = self.figures(row)
        self.law("equity of an end", units(body["equity"]) == figures.equity_units, body)
        self.law("outcome", body["outcome"] in OUTCOMES, body)
        if body["outcome"] == "healthy":
            met = self.oracle.has_target(figures.equity_units, figures.maintenance_units)
            self.law("healthy means healthy", met, (body, figures.maintenance_units))
        else:
            self.law("an end leaves nothing", not book.row_positions[row] and figures.equity_units >= 0, body)
        self.law("nothing in flight at the end", not self.shard.episodes[row].orders, body)
        if story.waterfalls == 1 and not self.shard.episodes[row].remaining:
            deficit = max(-story.equity_before, 0)
            self.law("deficit of a waterfall", story.paid == deficit, f"{story.paid} of {deficit}: {body}")
        del self.stories[row]
        for flight in self.flights.values():
            if flight.order["liquidation_id"] == body["liquidation_id"]:
                flight.is_over = True

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
            self.law("fees take what is there", change > 0 and self.book.equity(row) >= -1, body)

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
        slack = len(self.book.assets) + 2 * len(self.book.row_positions[INSURANCE_ROW])
        self.law("fund keeps its floor", self.oracle.fund_equity() >= floor - slack, body)

    def on_liquidation_held(self, body: Document) -> None:
        """A hold has a reason of the list; an equal one is said again only by one that ran out."""
        row = self.row_of(body)
        self.law("reason of a hold", body["reason"] in HOLDS, body)
        self.held[row] = body["reason"], body.get("symbol")

    def on_liquidation_released(self, body: Document) -> None:
        """Only who was held is released, and of that."""
        row = self.row_of(body)
        self.law("release of a hold", self.held.pop(row, None) == (body["reason"], body.get("symbol")), body)

    def on_policy_changed(self, body: Document) -> None:
        """Says who crossed because of it; from here on the oracle goes by the new parameters."""
        self.oracle.change(self.message)
        crossed = sorted({self.book.accounts[row] for row in self.liquidatable_rows() - self.liquidatable_before})
        self.law("who crossed", body["crossed"] == crossed, f"{body} instead of {crossed}")
