"""A whole adversarial market from one seed: its risk parameters, its accounts, and an endless stream of messages.

The generator looks at the shard as a hostile onlooker would: it knows which orders are in flight and answers them
partly, late, twice or not at all; it knows the mark at which an account falls and goes there to the tick. All that is
random comes from ``random.Random(seed)``, so the same engine gets the same messages.

A third of the markets start from a book (``books.py``); some of their prices then stay silent for a while, so that
accounts are touched before the log has shown all they depend on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from random import Random
from typing import Any

from engine.core.book import LEG_NAMES, Book
from engine.core.events import Output
from engine.core.margin import liquidation_price
from tests.malformed import malformed_lines
from tests.reference_numbers import UNIT, decimal, half_even, show
from tests.simulation.books import make_book
from tests.simulation.choices import ASSETS, COIN_TIERS, GUARDS, INSTRUMENTS, POLICY, TIERS
from tests.simulation.invariants import Judge
from tests.simulation.prices import SCALE, number

Document = dict[str, Any]

START_NS = 1_722_816_000_000_000_000
MS = 1_000_000

STEPS_NS = (0, 0, 0, 1, MS, 10 * MS, 100 * MS, 1000 * MS, 1000 * MS, 7000 * MS, 61_000 * MS)
STATUSES = ("filled", "cancelled", "expired", "rejected")
ACCOUNTS_MAX = 10


class Market:
    """The generator of one seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.venue = self.pick(("none", "none", "none", "book", "impact"))
        self.symbols = self.random.sample(sorted(INSTRUMENTS), self.random.randint(2, 4))
        self.risk = self.make_risk()
        self.accounts = [f"a{number:02}" for number in range(self.random.randint(3, 9))]
        self.marks = {symbol: decimal(INSTRUMENTS[symbol][1]) for symbol in self.symbols}
        self.prices = {name: decimal(ASSETS[name][1]) for name in self.risk["assets"]}
        self.legs: dict[tuple[str, str], str] = {}
        self.now = START_NS
        self.count = 0
        self.past: list[bytes] = []
        self.old_orders: list[Document] = []
        self.malformed = malformed_lines(seed=seed)
        self.judge: Judge | None = None
        self.book = make_book(self) if self.chance(0.35) else None
        names = [*self.symbols, *(asset for asset in self.prices if "price" not in self.risk["assets"][asset])]
        # Prices that the log is slow to show, until so many messages have been made.
        self.silent = {name for name in names if self.book is not None and self.chance(0.4)}
        self.silence_ends = self.pick((50, 200, 600))

    def pick(self, choices: Any) -> Any:
        """Return one of some choices."""
        return self.random.choice(choices)

    def chance(self, share: float) -> bool:
        """Return True in that share of cases."""
        return self.random.random() < share

    # Parameters.

    def make_risk(self) -> Document:
        """Return random risk parameters over the symbols of this market."""
        names = {INSTRUMENTS[symbol][0]["settle"] for symbol in self.symbols} | {"USDT"}
        names |= {name for name in ASSETS if self.chance(0.4)}
        assets = {name: dict(ASSETS[name][0]) for name in sorted(names)}
        if self.chance(0.15):
            assets["USDT"] = {"weights": self.pick(([["0", "1"]], [["0", "0.99"]])), "slippage": "0.001"}
            if self.chance(0.5):
                assets["USDT"]["redemption_floor"] = "0.97"
        policy = {key: self.pick(values) for key, values in POLICY.items() if self.chance(0.7)}
        return {"policy": policy, "assets": assets, "instruments": {name: self.terms(name) for name in self.symbols}}

    def terms(self, symbol: str) -> Document:
        """Return the fields of one instrument."""
        fields = dict(INSTRUMENTS[symbol][0])
        is_coin = fields["settle"] == "BTC"
        fields["tiers"] = self.pick(COIN_TIERS if is_coin else TIERS)
        return fields | self.costs(is_coin=is_coin)

    def costs(self, *, is_coin: bool) -> Document:
        """Return random fees, slippage, depth and budget."""
        fields: Document = {}
        rates = {"slippage": ("0.001", "0.02"), "taker_fee": ("0.0005",), "liquidation_fee": ("0.005", "0.02"),
                 "half_spread": ("0.0001", "0.01"), "impact": ("0.01", "0.2")}  # fmt: skip
        for key, choices in rates.items():
            if self.chance(0.5):
                fields[key] = self.pick(choices)
        if self.chance(0.6 if self.venue == "impact" else 0.3):
            fields["depth"] = "0.5" if is_coin else self.pick(("3000", "50000"))
        if self.chance(0.3):
            fields["flow_budget"] = "0.3" if is_coin else self.pick(("1000", "10000"))
        return fields

    # The stream.

    def watch(self, judge: Judge) -> None:
        """Look over the shoulder of a judge from now on."""
        self.judge = judge

    @property
    def live(self) -> Book:
        """The book as it stands."""
        assert self.judge is not None
        return self.judge.book

    def hear(self, outputs: list[Output]) -> None:
        """Remember the orders that were sent, to answer them now or much later."""
        for output in outputs:
            if output.body["type"] in ("liquidation_order", "collateral_sale"):
                self.old_orders.append(output.body)

    def lines(self, events: int) -> Iterator[bytes]:
        """Yield the opening, then ``events`` messages."""
        yield from map(self.line, self.opening())
        kinds = [kind for kind, weight in self.kinds().items() for _ in range(weight)]
        left = events
        while left > 0:
            self.now += self.pick(STEPS_NS) if not self.chance(0.01) else self.pick((3600, 90_000)) * 1000 * MS
            # Who is stuck is tried again at each step: that is seen soon enough, and then somebody comes.
            is_stuck = self.judge is not None and self.judge.shard.stuck
            kind = self.rescue if is_stuck and self.chance(0.2) else self.pick(kinds)
            for body in kind():
                left -= 1
                yield body if isinstance(body, bytes) else self.line(body)

    def kinds(self) -> dict[Callable[[], Iterator[Any]], int]:
        """Return what can happen, with how often it does."""
        return {
            self.drift: 20, self.gap: 4, self.to_the_edge: 14, self.around_the_band: 4, self.asset_moves: 8,
            self.funding: 3, self.trade: 18, self.unpaired: 3, self.newcomer: 1, self.transfer: 7,
            self.withdraw_to_the_edge: 4, self.answers: 26, self.late_answer: 4, self.stranger: 2, self.repeat: 3,
            self.pause: 2, self.resume: 3, self.change: 3, self.fund: 2, self.broken_line: 2,
        }  # fmt: skip

    def line(self, body: Document) -> bytes:
        """Return a message as a line, completed with id and time."""
        self.count += 1
        names = {"fill": "fill_id", "transfer": "transfer_id", "conversion": "conversion_id"}
        own_id = {names[body["type"]]: f"i{self.count}"} if body["type"] in names else {}
        line = json.dumps({**own_id, "ts": self.now, **body}).encode()
        self.past.append(line)
        return line

    def opening(self) -> Iterator[Document]:
        """Yield prices, deposits and first trades."""
        for asset, price in self.prices.items():
            if "price" not in self.risk["assets"][asset] and asset not in self.silent:
                yield {"type": "asset_price", "asset": asset, "price": show(price)}
        for symbol, mark in self.marks.items():
            if symbol not in self.silent:
                yield {"type": "mark", "symbol": symbol, "price": show(mark)}
        if self.book is not None:
            return
        for account in self.accounts:
            for asset in self.risk["assets"]:
                if asset == "USDT" or self.chance(0.5):
                    yield self.deposit(account, asset)
        if self.chance(0.7):
            yield {
                "type": "transfer",
                "account": "$insurance",
                "asset": "USDT",
                "amount": self.pick(("5", "700", "20000")),
            }
        for _ in range(len(self.accounts)):
            yield from self.trade()

    def deposit(self, account: str, asset: str) -> Document:
        """Return a usual deposit."""
        worth = ASSETS[asset][2]
        decimals = 4 if asset == "ETH" else 8
        amount = show(half_even(Fraction(worth * self.random.randint(1, 2000), 1000), self.pick((0, 2, decimals))))
        return {"type": "transfer", "account": account, "asset": asset, "amount": amount if amount != "0" else "1"}

    # What can happen.

    def speaking(self, names: Any) -> list[str]:
        """Return the names whose prices the log shows by now; all of them where that would be none."""
        if self.count >= self.silence_ends:
            self.silent.clear()
        return [name for name in sorted(names) if name not in self.silent] or sorted(names)

    def drift(self) -> Iterator[Document]:
        """A mark moves a little."""
        symbol = self.pick(self.speaking(self.symbols))
        yield self.mark(symbol, self.marks[symbol] * (1 + Fraction(self.random.randint(-100, 100), 10_000)))

    def gap(self) -> Iterator[Document]:
        """A mark jumps."""
        symbol = self.pick(self.speaking(self.symbols))
        moved = self.marks[symbol] * (1 + Fraction(self.random.choice((-40, -20, -10, -5, 5, 10, 20, 40)), 100))
        start = number(INSTRUMENTS[symbol][1])
        yield self.mark(symbol, min(max(moved, start / 20), start * 20))

    def mark(self, symbol: str, price: Fraction) -> Document:
        """Return a mark; now and then an old one, one too precise, or one with an index price."""
        decimals = INSTRUMENTS[symbol][0].get("mark_decimals", 5)
        steps = max(round(price * 10**decimals), 1)
        self.marks[symbol] = price = Fraction(steps, 10**decimals)
        body: Document = {"type": "mark", "symbol": symbol, "price": text_of(steps, decimals)}
        if self.chance(0.03):
            body["ts"] = self.now - self.pick((1, MS, 3_000_000 * MS))
        if self.chance(0.05):
            body["index_price"] = show(half_even(price * self.pick((1, Fraction(11, 10))), decimals))
        if self.chance(0.05):
            body["price"] += "05" if "." in body["price"] else ".00000000005"
        return body

    def to_the_edge(self) -> Iterator[Document]:
        """A mark goes to where an account falls: exactly there, a tick before, a tick beyond, well beyond."""
        found = self.find_edge()
        if found is None:
            yield from self.drift()
            return
        symbol, price, step = found
        yield self.mark(symbol, price + self.pick((0, 0, 1, -1, 1, -1)) * step)
        if self.chance(0.3):
            yield self.mark(symbol, price * (1 + Fraction(self.random.randint(-30, 30), 1000)))

    def find_edge(self) -> tuple[str, Fraction, Fraction] | None:
        """Return a symbol and the mark at which some account falls."""
        book = self.live
        rows = [row for row in range(1, len(book.accounts)) if book.positions_of(row) and book.is_priced(row)]
        if not rows:
            return None
        row = self.pick(rows)
        index, _ = self.pick(book.positions_of(row))
        price, instrument = liquidation_price(book, row, index), book.instruments[index]
        if price is None:
            return None
        if instrument.symbol in self.silent:
            return None
        start = number(INSTRUMENTS[instrument.symbol][1])
        scale = Fraction(1, 10**instrument.price_decimals)
        edge = price * scale
        return (instrument.symbol, edge, instrument.mark_steps * scale) if start / 20 < edge < start * 20 else None

    def around_the_band(self) -> Iterator[Document]:
        """A mark goes to the edge of the price band, then one confirms it, contradicts it or strays as well.

        The edge, a step within and a step beyond, of the mark in force and of the one that waits, with an index price
        at just as fine a distance.
        """
        assert self.judge is not None
        symbol = self.pick(self.speaking(self.symbols))
        quote, band = self.judge.prices.marks[symbol], self.judge.oracle.policy("price_band", "0")
        decimals = INSTRUMENTS[symbol][0].get("mark_decimals", 5)
        start = number(INSTRUMENTS[symbol][1])
        for _ in range(self.pick((1, 2, 3))):
            base = Fraction(self.pick([value for value in (quote.value, quote.pending) if value] or [0]), SCALE)
            if not band or not start / 20 < base < start * 20:
                yield from self.drift()
                return
            price = half_even(base * (1 + self.pick((1, -1)) * min(band, Fraction(1, 2))), decimals)
            price += self.pick((0, 1, -1)) * Fraction(1, 10**decimals)
            body = self.mark(symbol, price)
            if self.chance(0.2):
                index = half_even(price / (1 + self.pick((1, -1)) * min(band, Fraction(1, 2))), 8)
                body["index_price"] = show(max(index, Fraction(1, 10**8)))
            yield body

    def asset_moves(self) -> Iterator[Document]:
        """The price of an asset moves, a stable one a little less."""
        asset = self.pick(self.speaking(self.risk["assets"]))
        spread = self.pick((5, 50, 300))
        price = self.prices[asset] * (1 + Fraction(self.random.randint(-spread, spread), 1000))
        start = number(ASSETS[asset][1])
        self.prices[asset] = min(max(half_even(price, self.pick((2, 8))), start / 4), start * 4)
        body = {"type": "asset_price", "asset": asset, "price": show(self.prices[asset])}
        if self.chance(0.9):
            body["source"] = self.pick("xyzw")
        if self.chance(0.05):
            body["price"] += "005" if "." in body["price"] else ".0000000000005"
        yield body
        # A feed that says nearly the same again, which confirms nothing, or another that agrees.
        if self.chance(0.4):
            near = half_even(self.prices[asset] * self.pick((1, Fraction(101, 100))), 8)
            source = {} if self.chance(0.5) else {"source": self.pick("xyzw")}
            yield {**body, "price": show(near), **source}

    def funding(self) -> Iterator[Document]:
        """A funding payment."""
        rate = Fraction(self.random.randint(-(10**10), 10**10), self.pick((10**12, 10**12, 10**11)))
        yield {"type": "funding", "symbol": self.pick(self.symbols), "rate": show(rate)}

    def qty(self, symbol: str, share: Fraction) -> str:
        """Return a quantity worth a share of a usual position, in lots."""
        fields, _, worth = INSTRUMENTS[symbol]
        lot = number(fields["lot"])
        unit = lot * number(fields.get("multiplier", "1"))
        value = unit / self.marks[symbol] if "kind" in fields else unit * self.marks[symbol]
        return show(max(1, int(worth * share / value)) * lot)

    def trade(self) -> Iterator[Document]:
        """Two accounts trade with each other."""
        symbol = self.pick(self.symbols)
        buyer, seller = self.random.sample(self.accounts, 2)
        share = Fraction(self.pick((1, 10, 100, 300)), 100)
        if self.chance(0.2):
            share *= 10
        qty = self.qty(symbol, share)
        yield from self.fill(buyer, symbol, "buy", qty)
        yield from self.fill(seller, symbol, "sell", qty)

    def unpaired(self) -> Iterator[Document]:
        """One account trades with the world: nobody stands on the other side."""
        symbol, account = self.pick(self.symbols), self.pick(self.accounts)
        held = self.held(account, symbol)
        side = self.pick(("buy", "sell"))
        qty = self.qty(symbol, Fraction(1, 2))
        if held and self.chance(0.6):
            side = "sell" if held > 0 else "buy"
            qty = show(abs(held) * self.pick((1, 1, 2)))
        yield from self.fill(account, symbol, side, qty)

    def rescue(self) -> Iterator[Document]:
        """Somebody with deep pockets takes the other side of who cannot be closed: the next step can deleverage it."""
        assert self.judge is not None
        book = self.live
        stuck = [row for row in sorted(self.judge.shard.stuck) if book.positions_of(row)]
        if not stuck:
            yield from self.drift()
            return
        row = self.pick(stuck)
        for index, leg in book.positions_of(row)[:]:
            symbol = book.instruments[index].symbol
            busy = {book.accounts[other] for other in self.judge.shard.episodes}
            idle = [name for name in self.accounts if name not in busy and self.mode_of(name, symbol) != "isolated"]
            size = book.position(row, index, leg)[0] * Fraction(1, 10) ** book.instruments[index].size_decimals
            if size:
                yield from self.take_side(self.pick(idle or self.accounts), symbol, -size * self.pick((1, 1, 2)))

    def take_side(self, account: str, symbol: str, size: Fraction) -> Iterator[Document]:
        """Yield a deposit worth a position, then the position."""
        fields = INSTRUMENTS[symbol][0]
        worth = abs(size) * decimal(fields.get("multiplier", "1"))
        worth = worth / self.marks[symbol] if "kind" in fields else worth * self.marks[symbol]
        amount = show(half_even(max(worth, Fraction(1)) * self.pick((1, 3)), 2))
        yield {"type": "transfer", "account": account, "asset": fields["settle"], "amount": amount}
        yield from self.fill(account, symbol, "buy" if size > 0 else "sell", show(abs(size)))

    def newcomer(self) -> Iterator[Document]:
        """An account opens."""
        account = f"a{len(self.accounts):02}"
        if len(self.accounts) < ACCOUNTS_MAX:
            self.accounts.append(account)
            yield self.deposit(account, "USDT")

    def held(self, account: str, symbol: str) -> Fraction:
        """Return what an account holds net and cross."""
        book = self.live
        index, row = book.symbol_index[symbol], book.row_index.get((account, ""))
        size = book.position(row, index, 0)[0] if row is not None else 0
        return size * Fraction(1, 10) ** book.instruments[index].size_decimals

    def fill(self, account: str, symbol: str, side: str, qty: str) -> Iterator[Document]:
        """Yield one account's side of a trade: net, on a hedge leg, or in a bucket that is first given its margin."""
        mode = self.mode_of(account, symbol)
        body: Document = {"type": "fill", "account": account, "symbol": symbol, "side": side, "qty": qty}
        fields = INSTRUMENTS[symbol][0]
        body["price"] = self.near(symbol, Fraction(self.random.randint(-20, 20), 10_000))
        if self.chance(0.3):
            body["fee"] = self.pick(("0.5", "0.00000001", "-0.1", "0"))
        if mode == "isolated":
            body["isolated"] = True
            yield {
                "type": "transfer",
                "account": account,
                "asset": fields["settle"],
                "amount": self.bucket_margin(symbol),
                "symbol": symbol,
            }
        if mode == "hedge":
            own, other = ("long", "short") if side == "buy" else ("short", "long")
            body["leg"] = other if self.leg_size(account, symbol, other) >= decimal(qty) and self.chance(0.4) else own
        yield body

    def mode_of(self, account: str, symbol: str) -> str:
        """Return how an account holds a symbol: net, on hedge legs, or isolated."""
        return str(self.legs.setdefault((account, symbol), self.pick(("net", "net", "net", "hedge", "isolated"))))

    def bucket_margin(self, symbol: str) -> str:
        """Return what a bucket is given for one trade."""
        return show(Fraction(self.random.randint(1, 300), 1000) * INSTRUMENTS[symbol][2])

    def leg_size(self, account: str, symbol: str, leg: str) -> Fraction:
        """Return the size of a hedge leg."""
        book = self.live
        index, row = book.symbol_index[symbol], book.row_index.get((account, ""))
        legs: tuple[str, ...] = LEG_NAMES
        size = book.position(row, index, legs.index(leg))[0] if row is not None else 0
        return abs(size) * Fraction(1, 10) ** book.instruments[index].size_decimals

    def near(self, symbol: str, away: Fraction) -> str:
        """Return a fill price near the mark, with as many decimals as fills may have."""
        decimals = self.live.instruments[self.live.symbol_index[symbol]].price_decimals
        return text_of(max(round(self.marks[symbol] * (1 + away) * 10**decimals), 1), decimals)

    def transfer(self) -> Iterator[Document]:
        """A deposit, or a withdrawal that need not be covered."""
        account, asset = self.pick(self.accounts), self.pick(sorted(self.risk["assets"]))
        body = self.deposit(account, asset)
        if self.chance(0.4):
            body["amount"] = f"-{body['amount']}"
        yield body

    def withdraw_to_the_edge(self) -> Iterator[Document]:
        """A withdrawal of dollars that leaves an account at its threshold, a unit above or below, or deep in debt."""
        book = self.live
        rows = [row for row in range(1, len(book.accounts)) if book.positions_of(row) and not book.buckets[row]]
        if not rows:
            return
        row = self.pick(rows)
        slack = book.equity(row) - book.maintenance(row) + self.pick((0, 0, 1, -1, UNIT, 500 * UNIT))
        if slack:
            amount = show(Fraction(-slack, UNIT))
            yield {"type": "transfer", "account": book.accounts[row], "asset": "USDT", "amount": amount}

    def answers(self) -> Iterator[Document]:
        """An order in flight is answered: in part, in full, over, better or worse than asked; or it is over."""
        assert self.judge is not None
        flights = self.judge.flights
        waiting = [order for order in self.old_orders[-40:] if not flights[order["order_id"]].is_over]
        if not waiting:
            yield from self.drift()
            return
        for order in self.random.sample(waiting, self.random.randint(1, min(3, len(waiting)))):
            yield from self.answer(order)

    def late_answer(self) -> Iterator[Document]:
        """An order that may be long over is answered."""
        if self.old_orders:
            yield from self.answer(self.pick(self.old_orders))

    def answer(self, order: Document) -> Iterator[Document]:
        """Yield one or more answers to an order."""
        done = {
            "type": "order_done",
            "order_id": order["order_id"],
            "account": order["account"],
            "status": self.pick(STATUSES),
        }
        if self.chance(0.25):
            yield done
            return
        if order["type"] == "collateral_sale":
            yield self.conversion(order)
        else:
            yield self.order_fill(order)
        if self.chance(0.4):
            yield done

    def order_fill(self, order: Document) -> Document:
        """Return a fill of an order."""
        lot = decimal(INSTRUMENTS[order["symbol"]][0]["lot"])
        lots = int(decimal(order["qty"]) / lot)
        lots = self.pick((lots, lots, max(1, lots // 2), 1, lots + 1, 3 * lots))
        away = Fraction(self.random.randint(-300, 300), 10_000)
        price = self.pick(
            (order["limit_price"], self.near(order["symbol"], Fraction(0)), self.near(order["symbol"], away))
        )
        body = {"type": "fill", "account": order["account"], "symbol": order["symbol"], "side": order["side"],
                "qty": show(lots * lot), "price": price, "order_id": order["order_id"]}  # fmt: skip
        if decimal(price) <= 0:
            body["price"] = self.near(order["symbol"], Fraction(0))
        if "leg" in order:
            body["leg"] = order["leg"]
        if "bucket" in order:
            body["isolated"] = True
        if self.chance(0.5):
            body["fee"] = self.pick(("1", "0.00000003", "30"))
        return body

    def conversion(self, order: Document) -> Document:
        """Return a conversion that answers a collateral sale, at any price."""
        step = Fraction(1, 10**4) if order["asset"] == "ETH" else Fraction(1, UNIT)
        steps = int(decimal(order["amount"]) / step)
        given = self.pick((steps, steps, max(1, steps // 2), 1, steps + 1)) * step
        worth = given * self.prices[order["asset"]] / self.prices[order["for_asset"]]
        received = half_even(worth * self.pick((1, Fraction(98, 100), Fraction(1, 2))), 4)
        return {"type": "conversion", "account": order["account"], "order_id": order["order_id"],
                "from_asset": order["asset"], "from_amount": show(given), "to_asset": order["for_asset"],
                "to_amount": show(max(received, Fraction(1, 10_000)))}  # fmt: skip

    def stranger(self) -> Iterator[Document]:
        """An ``order_done`` of an order nobody sent."""
        account = self.pick(self.accounts)
        order_id = self.pick((f"{account}/1/99", f"{account}/77/1", "x", f"{account}/1/1"))
        yield {"type": "order_done", "order_id": order_id, "account": account, "status": self.pick(STATUSES)}

    def repeat(self) -> Iterator[bytes]:
        """A line comes again, or two of the past in the wrong order."""
        for _ in range(self.pick((1, 2))):
            yield self.pick(self.past[-60:])

    def pause(self) -> Iterator[Document]:
        """Liquidations stop."""
        yield {"type": "pause", "scope": self.pick(("all", *self.symbols)), "reason": "test"}

    def resume(self) -> Iterator[Document]:
        """Liquidations go on."""
        for scope in ("all", *self.symbols) if self.chance(0.5) else (self.pick(self.symbols),):
            yield {"type": "resume", "scope": scope, "reason": "test"}

    def change(self) -> Iterator[Document]:
        """Parameters change."""
        what = self.pick(("policy", "policy", "instrument", "asset"))
        if what == "policy":
            keys = self.random.sample(GUARDS if self.chance(0.3) else sorted(POLICY), 2)
            yield {"type": "set_policy", **{key: self.pick(POLICY[key]) for key in keys}}
        elif what == "instrument":
            symbol = self.pick(self.symbols)
            is_coin = INSTRUMENTS[symbol][0]["settle"] == "BTC"
            tiers = {"tiers": self.pick(COIN_TIERS if is_coin else TIERS)} if self.chance(0.5) else {}
            yield {"type": "set_instrument", "symbol": symbol, **tiers, **self.costs(is_coin=is_coin)}
        else:
            asset = self.pick(sorted(self.risk["assets"]))
            weights = self.pick(([["0", "1"]], [["0", "0.5"]], [["0", "0.9"], ["1000", "0.2"]]))
            yield {"type": "set_asset", "asset": asset, "weights": weights, "slippage": self.pick(("0", "0.05"))}

    def fund(self) -> Iterator[Document]:
        """The fund is topped up, robbed, or its desk trades."""
        if self.chance(0.5):
            amount = self.pick(("100", "5000", "-50", "-100000"))
            yield {"type": "transfer", "account": "$insurance", "asset": "USDT", "amount": amount}
            return
        symbol = self.pick(self.symbols)
        held = self.held("$insurance", symbol)
        side = "sell" if held > 0 else "buy"
        qty = show(abs(held)) if held else self.qty(symbol, Fraction(1, 10))
        yield {
            "type": "fill",
            "account": "$insurance",
            "symbol": symbol,
            "side": side,
            "qty": qty,
            "price": self.near(symbol, Fraction(0)),
        }

    def broken_line(self) -> Iterator[bytes]:
        """A line that no parser or book should take."""
        _, line, _ = next(islice(self.malformed, self.random.randint(0, 20), None))
        if len(line) < 100_000:
            yield line


def text_of(steps: int, decimals: int) -> str:
    """Return ``steps`` of 10**-decimals as a decimal string in its shortest form."""
    digits = str(steps).rjust(decimals + 1, "0")
    return f"{digits[:-decimals]}.{digits[-decimals:]}".rstrip("0").rstrip(".") if decimals else digits
