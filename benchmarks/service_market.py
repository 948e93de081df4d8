"""What the service is fed when it is measured: a ladder of accounts, or everyday traffic over a population.

A ladder is made so that each mark makes exactly one account liquidatable. All hold BTCUSDT, 1 % maintenance, in USDT.
Rung i is long ten contracts from 100, and its deposit is 10 + 0.0099 i. The i-th mark is 100 - 0.001 i: the rung has
lost 0.01 i, so its equity is 10 - 0.0001 i, and its maintenance margin is 1 % of 10 x (100 - 0.001 i), the same. One
mark before, it had 0.0099 more than it needed. What it is told to sell is bought at once, which ends its liquidation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from engine.edges.codec import encode, load_json
from engine.edges.config import load_risk
from engine.tools.market import START_NS, SYMBOLS, first_asset_prices, first_marks
from engine.tools.synth import make_population, write_book
from engine.units import format_number, format_scaled, scaled_half_even

MS = 1_000_000
SYMBOL = "BTCUSDT"
LADDER_RISK = """\
[policy]
partial = "off"
order_timeout_ms = 3_600_000
[assets.USDT]
price = 1
[instruments.BTCUSDT]
settle = "USDT"
price_tick = "0.001"
lot = "0.001"
tiers = [["0", "0.01", "50"]]
"""
# Half of the price is left then.
RUNGS_MAX = 50_000
# Of ten messages eight are marks, as on a venue where a fill comes with every few ticks.
MIX = ("mark",) * 8 + ("fill", "transfer")
MARKS_ONLY = ("mark",)
# Prices stay within so many ticks of the first: nobody is liquidated for them, and each mark moves everyone who holds.
TICKS = 5


class Line(NamedTuple):
    """One input to be sent; Kafka's partitioner gives it a partition by its key."""

    topic: str
    key: bytes
    value: bytes


class Ladder:
    """Accounts that become liquidatable one after the other, and others that hold the same and never do."""

    def __init__(self, folder: Path, *, rungs: int, bystanders: int) -> None:
        self.rungs = min(rungs, RUNGS_MAX)
        self.step = 0
        self.messages = 0
        self.risk, self.book = folder / "ladder.toml", folder / "ladder.json"
        self.risk.write_text(LADDER_RISK)
        accounts = [
            holder(f"rung-{number}", format_scaled(100_000 + 99 * number, 4), "10")
            for number in range(1, self.rungs + 1)
        ]
        accounts += [holder(f"bystander-{number}", "1000000", "1") for number in range(bystanders)]
        write_book(
            {"accounts": accounts, "marks": {SYMBOL: "100"}, "insurance": {"USDT": "0"}, "ts": START_NS}, self.book
        )

    def first(self) -> Line:
        """Return the mark that warms the accounts up: nobody is judged before the log has shown one."""
        return self._mark("100")

    def next(self) -> tuple[str, Line]:
        """Return the next account and the mark that makes it liquidatable."""
        self.step += 1
        if self.step > self.rungs:
            raise IndexError(f"the ladder has {self.rungs} rungs")
        return f"rung-{self.step}", self._mark(self.price(self.step))

    def _mark(self, price: str) -> Line:
        body = {"type": "mark", "symbol": SYMBOL, "price": price, "ts": self._ts()}
        return Line("mark-prices", SYMBOL.encode(), encode(body))

    def answer(self, order: bytes) -> Line:
        """Return the fill of an order, whole, at its account's mark."""
        body = load_json(order)
        account = body["account"]
        fill = {
            "type": "fill",
            "fill_id": body["order_id"],
            "account": account,
            "symbol": SYMBOL,
            "side": body["side"],
            "qty": body["qty"],
            "price": self.price(int(account.removeprefix("rung-"))),
            "order_id": body["order_id"],
            "ts": self._ts(),
        }
        return Line("fills", account.encode(), encode(fill))

    def price(self, step: int) -> str:
        """Return the mark of a step."""
        return format_scaled(100_000 - step, 3)

    def _ts(self) -> int:
        self.messages += 1
        return START_NS + self.messages * MS


def holder(account: str, deposit: str, qty: str) -> dict[str, Any]:
    """Return an account that is long from 100, as a book file has it."""
    positions = [{"symbol": SYMBOL, "qty": qty, "entry_price": "100"}]
    return {"account": account, "balances": {"USDT": deposit}, "positions": positions}


class Traffic:
    """A population over the symbols of ``demo``, and endless messages that leave it about as it is.

    Every account trades one symbol of its own, a lot at a time, to and fro: positions do not pile up.
    """

    def __init__(self, folder: Path, *, accounts: int, seed: int = 1) -> None:
        risk = load_risk()
        symbols = [risk.instruments[name] for name in SYMBOLS]
        marks, asset_prices = first_marks(symbols), first_asset_prices(symbols)
        population = make_population(
            accounts=accounts,
            seed=seed,
            first_marks=marks,
            risk=risk,
            asset_prices=asset_prices,
            ts=START_NS,
            hedge_ppm=0,
            isolated_ppm=0,
        )
        self.book = folder / f"population-{accounts}.json"
        write_book(population, self.book)
        self.accounts = [entry["account"] for entry in population["accounts"]]
        self.random = Random(f"traffic {seed}")
        self.asset_prices = {name: format_number(price) for name, price in asset_prices.items()}
        self.symbols = list(SYMBOLS)
        self.lots = {each.symbol: format_number(each.lot) for each in symbols}
        self.prices = {
            each.symbol: [
                format_scaled(
                    scaled_half_even(marks[each.symbol], each.price_decimals) + k * each.tick_steps, each.price_decimals
                )
                for k in range(-TICKS, TICKS + 1)
            ]
            for each in symbols
        }
        self.sent = 0

    def first(self) -> list[Line]:
        """Return a price of every symbol and asset: nobody is judged before the log has shown one."""
        lines = [
            line("mark-prices", asset, {"type": "asset_price", "asset": asset, "price": price, "ts": self._ts()})
            for asset, price in self.asset_prices.items()
        ]
        return [*lines, *(self._mark(symbol) for symbol in self.symbols)]

    def lines(self, count: int, kinds: Sequence[str]) -> Iterator[Line]:
        """Yield messages of these kinds in turn."""
        makers = {"mark": self._any_mark, "fill": self._fill, "transfer": self._transfer}
        wanted = [makers[kind] for kind in kinds]
        for number in range(count):
            yield wanted[number % len(wanted)]()

    def _any_mark(self) -> Line:
        return self._mark(self.random.choice(self.symbols))

    def _mark(self, symbol: str) -> Line:
        price = self.random.choice(self.prices[symbol])
        return line("mark-prices", symbol, {"type": "mark", "symbol": symbol, "price": price, "ts": self._ts()})

    def _fill(self) -> Line:
        number = self.random.randrange(len(self.accounts))
        account, symbol = self.accounts[number], self.symbols[number % len(self.symbols)]
        side = "buy" if self.random.randrange(2) else "sell"
        trade = {"symbol": symbol, "side": side, "qty": self.lots[symbol], "price": self.prices[symbol][TICKS]}
        body = {
            "type": "fill",
            "fill_id": f"f{self.sent}",
            "account": account,
            **trade,
            "fee": "0.001",
            "ts": self._ts(),
        }
        return line("fills", account, body)

    def _transfer(self) -> Line:
        account = self.random.choice(self.accounts)
        body = {"type": "transfer", "transfer_id": f"t{self.sent}", "account": account, "asset": "USDT"}
        return line("transfers", account, {**body, "amount": "10", "ts": self._ts()})

    def _ts(self) -> int:
        self.sent += 1
        return START_NS + self.sent * MS


def line(topic: str, key: str, body: dict[str, Any]) -> Line:
    """Return a message as an input of its topic."""
    return Line(topic, key.encode(), encode(body))
