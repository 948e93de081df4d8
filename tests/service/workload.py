"""What a chaos run feeds the shards: a crash over a small population, its traders, a desk, and much that is refused.

Everything comes from one seed: the book, the inputs in the order in which they are sent, and how the venue answers an
order that comes out (wholly, in parts, twice, never), which depends on the order's id alone. Marks stand 50 ms of event
time apart, so that an order waits (``order_timeout_ms``) for a hundred rounds of marks before it is given up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from engine.core.events import Event, Mark
from engine.core.params import Risk
from engine.edges.config import load_risk
from engine.shell.play import line_of
from engine.tools.market import START_NS, SYMBOLS, crash_market, first_asset_prices, first_marks
from engine.tools.synth import make_population, write_book
from engine.units import format_number
from tests.malformed import malformed_lines, too_long

MS = 1_000_000
INTERVAL_MS = 50
# Of a shard's inputs so many parts in a hundred are marks and what goes with them, which every shard reads.
MARKS_SHARE = 75
# Of the account messages: trades, deposits and withdrawals, lines that are refused; the rest is a desk at its controls.
TRADES, TRANSFERS, REFUSED = 70, 88, 98
INPUT_TOPICS = ("mark-prices", "fills", "transfers", "control")


class Line(NamedTuple):
    """One input to be sent; the key decides the partition, as on a venue's own feed."""

    topic: str
    key: bytes
    value: bytes | None


@dataclass(frozen=True)
class Workload:
    """A starting book and the inputs that go over it."""

    seed: int
    risk: Risk
    book: dict[str, Any]
    lines: Sequence[Line]

    def write_book(self, path: Path) -> None:
        """Write the starting book to a file."""
        write_book(self.book, path)


def make_workload(*, seed: int, inputs_per_shard: int, shards: int, accounts: int = 300) -> Workload:
    """Return a workload that gives each shard at least ``inputs_per_shard`` inputs, but for the answers to orders."""
    risk = load_risk(None)
    symbols = [risk.instruments[name] for name in SYMBOLS]
    book = make_population(
        accounts=accounts,
        seed=seed,
        first_marks=first_marks(symbols),
        risk=risk,
        asset_prices=first_asset_prices(symbols),
        ts=START_NS,
    )
    names = [entry["account"] for entry in book["accounts"]]
    ticks = -(-inputs_per_shard * MARKS_SHARE // (100 * len(symbols)))
    market = list(crash_market(seed=seed, symbols=symbols, ticks=ticks, interval_ms=INTERVAL_MS, accounts=names))
    # Accounts do not share out evenly among shards: a fifth more than an even share.
    own = shards * (inputs_per_shard * (100 - MARKS_SHARE) // 100) * 6 // 5
    return Workload(seed, risk, book, tuple(woven(market, Crowd(seed, risk, names), own)))


def woven(market: Sequence[Event], crowd: Crowd, count: int) -> Iterator[Line]:
    """Yield the market's events with ``count`` lines of the crowd spread evenly among them."""
    sent = 0
    for number, event in enumerate(market, start=1):
        if isinstance(event, Mark):
            crowd.marks[event.symbol] = format_number(event.price)
        line = line_of(event)
        yield Line(line.topic, line.key or b"", line.value)
        while sent * len(market) < count * number:
            sent += 1
            yield crowd.line(event.ts)


class Crowd:
    """Everybody who sends messages that are no prices."""

    def __init__(self, seed: int, risk: Risk, accounts: Sequence[str]) -> None:
        self.random = Random(f"crowd {seed}")
        self.risk = risk
        # The last ones are not in the book: a message opens them.
        self.accounts = [*accounts, *(f"newcomer-{number}" for number in range(len(accounts) // 10))]
        self.marks: dict[str, str] = {}
        self.sent = 0
        # Without the lines of a megabyte: one of them is in every run, below.
        self.refused = (line for kind, line, _ in malformed_lines(seed=seed) if kind != too_long.__name__)
        self.longest = too_long(self.random)

    def line(self, ts: int) -> Line:
        """Return the next line, at event time ``ts``."""
        self.sent += 1
        part = self.random.randrange(100)
        account = self.random.choice(self.accounts)
        if part < TRADES:
            return Line("fills", account.encode(), encode_json(self.trade(account, ts)))
        if part < TRANSFERS:
            return Line("transfers", account.encode(), encode_json(self.transfer(account, ts)))
        if part < REFUSED:
            return Line(self.random.choice(INPUT_TOPICS), account.encode(), self.refused_value())
        return self.control(ts)

    def trade(self, account: str, ts: int) -> dict[str, Any]:
        """Return a trade at the mark; one in ten repeats an id that was there before, perhaps of another shard."""
        symbol = self.random.choice(sorted(self.marks))
        number = self.sent if self.random.randrange(10) else self.random.randrange(self.sent)
        price = Decimal(self.marks[symbol])
        lots = 1 + int(self.random.randrange(10, 3_000) / price / lot_of(self.risk, symbol))
        return {
            "type": "fill",
            "fill_id": f"trade-{number}",
            "account": account,
            "symbol": symbol,
            "side": self.random.choice(("buy", "sell")),
            "qty": text(lots * lot_of(self.risk, symbol)),
            "price": self.marks[symbol],
            "fee": "0.05",
            "ts": ts,
        }

    def transfer(self, account: str, ts: int) -> dict[str, Any]:
        """Return a deposit, or a withdrawal that may leave too little."""
        account = account if self.random.randrange(40) else "$insurance"
        amount = self.random.randrange(1, 2_000)
        sign = -1 if self.random.randrange(3) == 0 and account != "$insurance" else 1
        body = {"type": "transfer", "transfer_id": f"move-{self.sent}", "account": account, "asset": "USDT"}
        return body | {"amount": str(sign * amount), "ts": ts}

    def refused_value(self) -> bytes | None:
        """Return what no shard accepts: malformed, in the wrong topic, blank, without a value, a megabyte long."""
        if self.longest:
            value, self.longest = self.longest, b""
            return value
        part = self.random.randrange(8)
        if part == 0:
            return self.random.choice((None, b"", b"  \r\n"))
        return next(self.refused)

    def control(self, ts: int) -> Line:
        """Return what a desk does on a bad day; some of it for one shard only."""
        symbol = self.random.choice(sorted(self.marks))
        body: dict[str, Any] = self.random.choice(
            (
                {"type": "pause", "scope": symbol, "reason": "drill"},
                {"type": "resume", "scope": symbol, "reason": "drill"},
                {"type": "resume", "scope": symbol, "reason": "drill"},
                {"type": "set_policy", "target_buffer": f"0.{self.random.randrange(5, 30):02}"},
                {"type": "set_instrument", "symbol": symbol, "slippage": f"0.00{self.random.randrange(1, 9)}"},
            )
        )
        key = self.random.choice((b"*", b"*", b"0", b"1", b"nobody"))
        return Line("control", key, encode_json(body | {"ts": ts}))


class Venue:
    """Answers orders as they come out; the same order always gets the same answers."""

    def __init__(self, seed: int, risk: Risk) -> None:
        self.seed = seed
        self.risk = risk

    def answers(self, value: bytes) -> Iterator[Line]:
        """Yield what follows an output of ``liquidation-orders``."""
        order = json.loads(value)
        if order["type"] == "cancel_orders":
            return
        random = Random(f"venue {self.seed} {order['order_id']}")
        part = random.randrange(100)
        if order["type"] == "collateral_sale":
            bodies = [*self.conversions(order, part)]
        else:
            bodies = [*self.fills(order, part)]
        base = {"account": order["account"], "order_id": order["order_id"], "ts": order["ts"] + MS}
        for body in bodies:
            yield Line("fills", order["account"].encode(), encode_json(body | base))

    def fills(self, order: dict[str, Any], part: int) -> Iterator[dict[str, Any]]:
        """Yield the answers to an order: mostly filled at its limit, else in part, twice, late, or not at all."""
        qty, lot = Decimal(order["qty"]), lot_of(self.risk, order["symbol"])
        half = qty / 2 // lot * lot
        fill = {"type": "fill", "fill_id": f"{order['order_id']}/fill", "symbol": order["symbol"]}
        fill |= {"side": order["side"], "price": order["limit_price"], "fee": "0.01"}
        fill |= {"leg": order.get("leg", "net"), "isolated": "bucket" in order}
        done = {"type": "order_done", "status": "filled"}
        if part < 60:
            yield from (fill | {"qty": order["qty"]}, done)
        elif part < 75 and half > 0:
            yield from (fill | {"qty": text(half)}, done | {"status": "cancelled"})
        elif part < 82 and half > 0:
            rest = fill | {"fill_id": f"{order['order_id']}/rest", "qty": text(qty - half)}
            yield from (fill | {"qty": text(half)}, rest, fill | {"qty": text(half)})
        elif part < 92:
            yield done | {"status": "expired"}
        elif part < 96:
            yield from (done | {"status": "rejected"}, fill | {"qty": order["qty"]})

    def conversions(self, order: dict[str, Any], part: int) -> Iterator[dict[str, Any]]:
        """Yield the answers to a sale of collateral."""
        step = Decimal(1).scaleb(-self.risk.assets[order["for_asset"]].decimals)
        received = (Decimal(order["amount"]) * Decimal(order["limit_price"])).quantize(step, ROUND_DOWN)
        if part < 80 and received > 0:
            sale = {"type": "conversion", "conversion_id": f"{order['order_id']}/fill"}
            sale |= {"from_asset": order["asset"], "from_amount": order["amount"]}
            yield sale | {"to_asset": order["for_asset"], "to_amount": text(received)}
            yield {"type": "order_done", "status": "filled"}
        elif part < 95:
            yield {"type": "order_done", "status": "expired"}


def lot_of(risk: Risk, symbol: str) -> Decimal:
    """Return the smallest quantity of an instrument."""
    instrument = risk.instruments[symbol]
    return Decimal(instrument.lot_steps).scaleb(-instrument.size_decimals)


def text(number: Decimal) -> str:
    """Return a number without an exponent."""
    return f"{number:f}"


def encode_json(body: dict[str, Any]) -> bytes:
    """Return a message as its writer would spell it."""
    return json.dumps(body, separators=(",", ":")).encode()
