"""How a test tells a trading day to one shard: messages in, outputs out, and every promise checked after each message.

``Desk.tell`` takes messages as the dicts of CONTRACT section 2, sends each through the codec as a line of a log and
returns what it caused. A message without ``ts`` or id gets the desk's own time, one millisecond later each time, and
a number. After every message: money is conserved, open interest balances, the running sums are what a full
recount gives, ``seq`` has no gap, ids count from 1, every output has the fields and number forms of section 3, no
healthy account is liquidated and no unhealthy one forgotten.

The market is small enough for mental arithmetic: BTCUSDT and ETHUSDT at prices of about 100, 1 % and 2 % maintenance.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from engine.core import ledger
from engine.core.book import LEG_NAMES
from engine.core.events import Message, Origin, Output
from engine.core.machine import Machine
from engine.core.margin import is_row_liquidatable
from engine.core.params import Risk, build_asset, build_instrument, build_policy
from engine.core.shard import Shard
from engine.edges.bookfile import load_document
from engine.edges.codec import decode, encode
from engine.edges.digest import state_document
from engine.edges.venue import BookVenue
from engine.units import format_scaled, format_units
from tests.triggers import check_triggers

START_NS = 1_722_816_000_000_000_000
MS = 1_000_000
SECOND = 1_000 * MS
LOG = "log.jsonl"

Body = dict[str, Any]

ASSETS: dict[str, Body] = {"USDT": {"price": "1"}}
INSTRUMENTS: dict[str, Body] = {
    "BTCUSDT": {"settle": "USDT", "price_tick": "0.1", "lot": "0.001", "tiers": [["0", "0.01", "50"]]},
    "ETHUSDT": {"settle": "USDT", "price_tick": "0.1", "lot": "0.01", "tiers": [["0", "0.02", "25"]]},
}
COIN: Body = {"weights": [["0", "0.9"]], "slippage": "0.01"}


def words(text: str) -> list[str]:
    return text.split()


# topic -> type -> the fields it must have beside the envelope; a bucket's messages carry `bucket` as well.
TOPICS = {
    "liquidation-orders": {
        "cancel_orders": """account liquidation_id""",
        "liquidation_order": """order_id liquidation_id account symbol side qty limit_price bankruptcy_price
            time_in_force reduce_only stage decision""",
        "collateral_sale": """order_id liquidation_id account asset amount for_asset limit_price decision""",
    },
    "bad-debt": {
        "bad_debt": """liquidation_id account asset deficit paid_by_insurance paid_by_adl paid_by_socialisation
            uncovered""",
    },
    "margin-events": {
        "margin_call": """account equity maintenance_margin margin_ratio""",
        "liquidation_started": """account equity maintenance_margin margin_ratio liquidation_id cause""",
        "liquidation_ended": """liquidation_id account outcome equity closed_notional cost not_needed""",
        "takeover": """liquidation_id account equity_before positions""",
        "adl": """liquidation_id symbol account counterparty qty price cash""",
        "adl_wave": """liquidation_id symbol rule needed_qty taken_qty counterparties largest_profit_share
            alternatives""",
        "adl_remaining": """liquidation_id account symbol qty""",
        "insurance_fund": """asset change balance cause""",
        "liquidation_held": """account reason""",
        "liquidation_released": """account reason""",
        "policy_changed": """version what crossed""",
    },
    "dead-letters": {"reject": """reason detail file line"""},
}
TOPIC_OF = {kind: topic for topic, records in TOPICS.items() for kind in records}
ENVELOPE = words("type ts shard seq output_id")
DECISION = words(
    "equity maintenance_margin target marks asset_prices positions collateral costs plan policy_version input"
)
CAUSES = ("mark", "fill", "transfer", "funding", "policy")
OUTCOMES = ("healthy", "closed", "taken_over", "deleveraged")
HOLDS = ("stale_mark", "price_band", "paused", "warming_up", "flow_budget")

NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?")
NUMBER_FIELDS = words(
    """equity maintenance_margin margin_ratio qty limit_price bankruptcy_price amount deficit paid_by_insurance
    paid_by_adl paid_by_socialisation uncovered change balance price cash closed_notional cost not_needed
    equity_before needed_qty taken_qty largest_profit_share entry_price notional tier_floor tier_rate deduction
    unrealised_pnl value buffer taker_fee liquidation_fee slippage"""
)
# A price that does not exist, and a ratio to no equity.
NULLABLE = {"margin_ratio", "bankruptcy_price", "price"}


# ---------------------------------------------------------------------------------------------------------- messages


def mark(price: str, symbol: str = "BTCUSDT", **fields: Any) -> Body:
    return {"type": "mark", "symbol": symbol, "price": price, **fields}


def asset_price(asset: str, price: str, **fields: Any) -> Body:
    return {"type": "asset_price", "asset": asset, "price": price, **fields}


def funding(rate: str, symbol: str = "BTCUSDT", **fields: Any) -> Body:
    return {"type": "funding", "symbol": symbol, "rate": rate, **fields}


def deposit(account: str, amount: str, asset: str = "USDT", **fields: Any) -> Body:
    return {"type": "transfer", "account": account, "asset": asset, "amount": amount, **fields}


def withdraw(account: str, amount: str, asset: str = "USDT", **fields: Any) -> Body:
    return deposit(account, f"-{amount}", asset, **fields)


def buy(account: str, qty: str, price: str, symbol: str = "BTCUSDT", **fields: Any) -> Body:
    return {"type": "fill", "account": account, "symbol": symbol, "side": "buy", "qty": qty, "price": price, **fields}


def sell(account: str, qty: str, price: str, symbol: str = "BTCUSDT", **fields: Any) -> Body:
    return {**buy(account, qty, price, symbol, **fields), "side": "sell"}


def answer(order: Body, qty: str, price: str, **fields: Any) -> Body:
    """A fill of a liquidation order."""
    names = {"order_id": order["order_id"]}
    if "leg" in order:
        names["leg"] = order["leg"]
    isolated = {"isolated": True} if "bucket" in order else {}
    side = {"buy": buy, "sell": sell}[order["side"]]
    return side(order["account"], qty, price, order["symbol"], **names, **isolated, **fields)


def done(order: Body, status: str = "expired", **fields: Any) -> Body:
    body = {"type": "order_done", "order_id": order["order_id"], "account": order["account"], "status": status}
    return {**body, **fields}


def converted(sale: Body, received: str, amount: str | None = None, **fields: Any) -> Body:
    """A conversion that answers a collateral sale, for all of it unless told."""
    given = {"from_asset": sale["asset"], "from_amount": amount or sale["amount"]}
    names = {"account": sale["account"], "order_id": sale["order_id"]}
    return {"type": "conversion", **names, **given, "to_asset": sale["for_asset"], "to_amount": received, **fields}


def control(kind: str, **fields: Any) -> Body:
    return {"type": kind, **fields}


def own_id(body: Body, text: str) -> Body:
    """The id field that a message of this type has, if it has one."""
    names = {"fill": "fill_id", "transfer": "transfer_id", "conversion": "conversion_id"}
    return {names[body["type"]]: text} if body["type"] in names else {}


# -------------------------------------------------------------------------------------------------------------- desk


def tiny_risk(
    *, assets: dict[str, Body] | None = None, instruments: dict[str, Body] | None = None, **policy: Any
) -> Risk:
    """The small market; ``instruments`` and ``assets`` change single fields of it or add new ones."""
    assets = {name: {**ASSETS.get(name, {}), **fields} for name, fields in {**ASSETS, **(assets or {})}.items()}
    changed = {**INSTRUMENTS, **(instruments or {})}
    merged = {symbol: {**INSTRUMENTS.get(symbol, {}), **fields} for symbol, fields in changed.items()}
    return Risk(
        policy=build_policy({"partial": "off", **policy}),
        assets={name: build_asset(name, fields) for name, fields in assets.items()},
        instruments={symbol: build_instrument(symbol, fields) for symbol, fields in merged.items()},
    )


class Desk:
    """One shard, told one message after another."""

    def __init__(self, book: Body | None = None, *, venue: bool = False, risk: Risk | None = None, **options: Any):
        self.shard = Shard(risk or tiny_risk(**options), venue=BookVenue() if venue else None)
        if book is not None:
            load_document(self.shard, book, "book.json")
        self.machine = Machine(self.shard)
        self.now = START_NS
        self.line = 0
        self.outputs: list[Body] = []
        self.seq = 0
        self.orders_counts: Counter[tuple[str, str]] = Counter()
        self.episodes_counts: Counter[tuple[str, ...]] = Counter()

    def tell(self, *bodies: Body) -> list[Body]:
        """Apply messages one by one; return all outputs they caused, in order."""
        found = []
        for body in bodies:
            found += self.tell_line(json.dumps(self.complete(body)).encode())
        return found

    def tell_line(self, line: bytes) -> list[Body]:
        """Apply one raw line of the log."""
        self.line += 1
        event = decode(line)
        assert event is not None, f"{line!r} is blank"
        outputs = self.machine.apply([Message(Origin(LOG, -1, self.line), event, line)])
        for output in outputs:
            self.check_output(output)
        self.check_state()
        bodies = [output.body for output in outputs]
        self.outputs += bodies
        return bodies

    def complete(self, body: Body) -> Body:
        """Return a message with ts and id, if it has none of its own."""
        self.now += MS
        return {**own_id(body, f"id-{self.line + 1}"), "ts": self.now, **body}

    def wait(self, ms: int) -> None:
        """Let the desk's time pass; the engine hears of it with the next message."""
        self.now += ms * MS

    # What an account has, as decimal strings.

    def row(self, account: str, bucket: str = "") -> int:
        return self.shard.book.row_index[account, bucket]

    def equity(self, account: str, bucket: str = "") -> str:
        return format_units(self.shard.book.equity(self.row(account, bucket)))

    def wallet(self, account: str, asset: str = "USDT", bucket: str = "") -> str:
        book = self.shard.book
        if account in book.system:
            return format_units(book.system[account][book.asset_index[asset]])
        return format_units(book.wallet(self.row(account, bucket), book.asset_index[asset]))

    def qty(self, account: str, symbol: str = "BTCUSDT", *, leg: str = "net", bucket: str = "") -> str:
        book = self.shard.book
        index = book.symbol_index[symbol]
        legs: tuple[str, ...] = LEG_NAMES
        size, _ = book.position(self.row(account, bucket), index, legs.index(leg))
        return format_scaled(size, book.instruments[index].size_decimals)

    def state(self) -> Body:
        """All that can influence a later output except ``seq``, which a dead letter moves as well."""
        document = state_document(self.shard)
        del document["seq"]
        return document

    # What must hold after every message.

    def check_state(self) -> None:
        shard, book = self.shard, self.shard.book
        ledger.check_conservation(book)
        check_triggers(book)
        for row, account in enumerate(book.accounts):
            is_judged = not account.startswith("$") and book.is_priced(row) and book.is_warm(row)
            if is_judged and is_row_liquidatable(book, row):
                assert row in shard.episodes or row in shard.holds, f"{account} is forgotten"
        for row, episode in shard.episodes.items():
            assert episode.orders or row in shard.holds or row in shard.stuck, f"{book.accounts[row]} waits for nothing"

    def check_output(self, output: Output) -> None:
        body = output.body
        kind = body["type"]
        assert output.topic == TOPIC_OF[kind]
        missing = {*ENVELOPE, *words(TOPICS[output.topic][kind])} - set(body)
        assert not missing, f"{kind} lacks {missing}"
        self.seq += 1
        assert body["seq"] == self.seq
        assert body["output_id"] == f"{body['shard']}-{body['seq']}"
        assert (body["ts"], body["shard"]) == (self.shard.clock, 0), f"{kind} is not of the clock: {body}"
        assert json.loads(encode(body)) == body
        check_numbers(body)
        if kind != "reject" and "account" in body:
            assert output.key == body["account"]
        if kind == "liquidation_started":
            self.check_start(body)
        elif kind in ("liquidation_order", "collateral_sale"):
            self.check_order(body)
        elif kind == "liquidation_ended":
            assert body["outcome"] in OUTCOMES
        elif kind in ("liquidation_held", "liquidation_released"):
            assert body["reason"] in HOLDS
        elif kind == "bad_debt":
            parts = [decimal(value) for key, value in body.items() if key.startswith("paid_by") or key == "uncovered"]
            assert len(parts) == 4
            assert sum(parts) == decimal(body["deficit"]) > 0
            assert all(part >= 0 for part in parts)

    def check_start(self, body: Body) -> None:
        names = [body["account"], *([body["bucket"]] if "bucket" in body else [])]
        self.episodes_counts[tuple(names)] += 1
        assert body["liquidation_id"] == "/".join([*names, str(self.episodes_counts[tuple(names)])])
        assert body["cause"] in CAUSES
        equity, maintenance = decimal(body["equity"]), decimal(body["maintenance_margin"])
        assert equity <= maintenance, f"a healthy account is liquidated: {body}"

    def check_order(self, body: Body) -> None:
        key = (body["account"], body["liquidation_id"])
        self.orders_counts[key] += 1
        assert body["order_id"] == f"{body['liquidation_id']}/{self.orders_counts[key]}"
        decision = body["decision"]
        assert set(DECISION) <= set(decision), f"the decision lacks {set(DECISION) - set(decision)}"
        assert all(isinstance(price["ts"], int) for price in (*decision["marks"], *decision["asset_prices"]))
        if body["type"] == "liquidation_order":
            assert (body["time_in_force"], body["reduce_only"]) == ("IOC", True)
            assert body["stage"] in ("partial", "full")


def check_numbers(value: Any, name: str = "") -> None:
    """No float anywhere; every number is a decimal string in its shortest form."""
    assert type(value) is not float, f"{name} is a float"
    if isinstance(value, dict):
        for key, child in value.items():
            check_numbers(child, key)
    elif isinstance(value, list):
        for child in value:
            check_numbers(child, name)
    elif name in NUMBER_FIELDS and not (value is None and name in NULLABLE):
        assert type(value) is str, f"{name} is {value!r}"
        assert NUMBER.fullmatch(value), f"{name} is {value!r}"
        assert value != "-0"


def decimal(text: str) -> Fraction:
    return Fraction(text)


# ----------------------------------------------------------------------------------------------------------- reading


def kinds(outputs: Iterable[Body]) -> list[str]:
    return [body["type"] for body in outputs]


def of(outputs: Iterable[Body], kind: str) -> list[Body]:
    return [body for body in outputs if body["type"] == kind]


def one(outputs: Iterable[Body], kind: str) -> Body:
    (body,) = of(outputs, kind)
    return body


def pick(body: Body, names: str) -> tuple:
    """The values of some fields, named in one string."""
    return tuple(body.get(name) for name in names.split())
