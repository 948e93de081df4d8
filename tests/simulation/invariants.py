"""What must hold between any two messages, and of deeds that leave no output of their own.

A ``Judge`` looks at the whole book after each message. After **every** one of them it

* recounts the money of each asset and the open interest of each symbol, the fund's wallet and the written-off debt;
* computes equity and maintenance margin of every row anew, by the oracle's formulas in integers (what has the size,
  cost, balance and prices it had before is taken from before);
* compares every price in force or waiting, and the clock, with the model of ``prices.py``;
* looks that nobody unhealthy is without an episode or a stated hold, that holds and calls are true and told, that
  episodes wait for something, timers fired, and empty buckets sent their rest home;
* looks that the trigger index is in order, and that whoever needs a look is reached by every price it depends on;
* finds the book as it was where the message was refused, ignored or a repeat.

Every ``EVERY``th message, one row in turn is also computed by the reference in plain fractions, and the ledger's own
recount runs. A message that will be refused has the whole state document compared as well, once in ``EVERY_REFUSAL``.
Deeds are judged as they happen (``watch.py``): positions handed over, waterfalls, fills of liquidation orders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from engine.core import ledger
from engine.core.book import INSURANCE_ROW, Price
from engine.core.events import Fill
from engine.core.shard import Order
from engine.edges.digest import state_document
from tests.reference_numbers import UNIT, decimal
from tests.simulation.oracle import Document, Figures, up
from tests.simulation.outputs import Flight, Onlooker, units
from tests.simulation.prices import DECIMALS, Quote
from tests.simulation.view import Lists, View
from tests.triggers import check_triggers

EVERY = 32
EVERY_REFUSAL = 8
# What is rounded when a step closes at a fair price, in units of the settlement asset: cash, fees, PnL, margin.
ROUNDINGS = 4
IDS = {"fill": "fill_id", "transfer": "transfer_id", "conversion": "conversion_id"}


@dataclass
class Judge(Onlooker):
    """The laws of the book as a whole."""

    deposited: Counter[str] = field(default_factory=Counter)
    answers: set[tuple[Any, ...]] = field(default_factory=set)
    accepted_ids: set[tuple[Any, ...]] = field(default_factory=set)
    had_position: set[int] = field(default_factory=set)
    answered: tuple[Flight, Any, bool] | None = None
    paused_before: set[str] = field(default_factory=set)
    waiting: int | None = None
    refusals: int = 0
    kind: str = ""
    is_accepted: bool = False
    state: Document | None = None
    figures_before: tuple[str, Figures, int] | None = None
    # What was computed last, with the prices and parameters it holds for: values by balance, figures of positions.
    wallets_known: dict[int, tuple[Any, dict[int, int]]] = field(default_factory=dict)
    positions_known: dict[int, tuple[Any, Lists, list[tuple[int, int, int]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin with what a loaded book brought."""
        book = self.book
        self.seq = self.shard.seq
        self.view = View.of(self.shard)
        for index, asset in enumerate(book.assets):
            self.deposited[asset.name] = book.transfers[index]
            self.fund[asset.name] = book.wallet(INSURANCE_ROW, index)
            self.uncovered[asset.name] = -book.system["$bad_debt"][index]
        self.episodes.update(self.shard.episode_counts)

    def check_loaded(self, document: Document) -> None:
        """What a hand-written book brings counts as transferred, and is worth what the oracle says from the start."""
        self.deposited = Counter({asset: units(text) for asset, text in document["insurance"].items()})
        for account in document["accounts"]:
            for asset, text in account["balances"].items():
                self.deposited[asset] += units(text)
            for entry in account["positions"]:
                self.deposited[self.oracle.terms[entry["symbol"]].settle] += units(entry.get("margin", "0"))
        self.check_prices()
        self.check_money()
        self.check_figures()

    # Before and after a message.

    def expect(self, message: Document | None) -> None:
        """Hear a message before the machine does: what it sets holds within its own step."""
        self.messages += 1
        self.message = message = message or {}
        self.kind = str(message.get("type"))
        self.decision = None
        self.started.clear()
        self.kinds.clear()
        self.paused_before, self.answered, self.waiting = set(self.paused), None, None
        kind = self.kind
        if kind == "transfer" and str(message.get("symbol")) in self.book.symbol_index:
            row = self.book.row_index.get((str(message.get("account")), message["symbol"]))
            if row is None or not (self.book.positions_of(row) or row in self.shard.episodes):
                self.waiting = self.bucket_wallet() + try_units(message.get("amount"))
        elif kind == "pause":
            self.paused.add(str(message.get("scope")))
        elif kind == "resume":
            self.paused.discard(str(message.get("scope")))
        elif kind in ("fill", "conversion", "order_done") and "account" in message:
            self.hear(message)
        elif kind in ("mark", "asset_price"):
            known = self.prices.marks if kind == "mark" else self.prices.assets
            self.showing = known.get(str(message.get("symbol" if kind == "mark" else "asset")))
        elif kind in ("set_policy", "set_asset", "set_instrument"):
            self.liquidatable_before = self.liquidatable_rows()
        self.state = None
        if not message or (kind in IDS and own_id(message) in self.accepted_ids):
            self.refusals += 1
            if self.refusals % EVERY_REFUSAL == 0:
                self.state = state_document(self.shard)

    def bucket_wallet(self) -> int:
        """Return what the bucket that the message names holds."""
        book, symbol = self.book, self.message["symbol"]
        row = book.row_index.get((str(self.message.get("account")), symbol))
        return 0 if row is None else book.wallet(row, book.settle[book.symbol_index[symbol]])

    def hear(self, message: Document) -> None:
        """Note a fill, a conversion or an ``order_done`` that answers an order in flight."""
        flight = self.flights.get(str(message.get("order_id")))
        kind = message.get("type")
        if flight is None or message["account"] != flight.order["account"]:
            return
        self.answered = flight, flight.left, flight.is_over
        if kind == "order_done":
            flight.is_over = True
            return
        if own_id(message) in self.answers:
            return
        self.answers.add(own_id(message))
        sides = flight.order.get("side"), flight.order.get("symbol")
        if kind == "fill" and sides == (message["side"], message["symbol"]):
            flight.left -= decimal(message["qty"])
        elif kind == "conversion" and flight.order.get("asset") == message["from_asset"]:
            flight.left -= decimal(message["from_amount"])
        flight.is_over |= flight.left <= 0

    def learn(self, verdict: str, rejects: list[str]) -> None:
        """Take over what the message said, ``verdict`` being what the engine counted it as; then check everything."""
        message = self.message
        before, self.view = self.view, View.of(self.shard)
        self.is_accepted, self.showing = verdict == "accepted", None
        if self.is_accepted:
            self.check_accepted(message)
        else:
            self.paused = self.paused_before
            if self.answered is not None and verdict == "rejected":
                flight, left, is_over = self.answered
                flight.left, flight.is_over = left, is_over
            self.law("refusals are told", rejects == ["reject"] * (verdict == "rejected"), (verdict, rejects))
            self.law("refusals change nothing", self.view == before, (verdict, message))
            if self.state is not None:
                after = state_document(self.shard)
                self.law("refusals leave no trace", {**self.state, "seq": 0} == {**after, "seq": 0}, (verdict, message))
            if verdict == "ignored" and self.kind in ("mark", "asset_price"):
                self.law("only old prices are ignored", self.prices.is_outdated(message), message)
        self.after()

    def check_accepted(self, message: Document) -> None:
        """What is accepted was not accepted before, no old price, and does to balances what it says."""
        kind = self.kind
        if kind in IDS:
            self.law("what repeats is not booked again", own_id(message) not in self.accepted_ids, message)
            self.accepted_ids.add(own_id(message))
        if kind in ("mark", "asset_price"):
            self.law("an old price is not taken", not self.prices.is_outdated(message), message)
        if kind == "transfer":
            self.deposited[message["asset"]] += units(str(message["amount"]))
            if self.waiting is not None:
                self.law("a bucket keeps its transfer", self.bucket_wallet() == self.waiting, message)
        self.prices.hear(message)

    def after(self) -> None:
        """Check all that must hold between two messages."""
        self.check_prices()
        self.check_money()
        self.check_figures()
        self.check_standing()
        self.check_episodes()
        self.check_buckets()
        self.check_holds()
        self.check_index()
        if self.messages % EVERY == 0:
            ledger.check_conservation(self.book)
            self.check_reference(self.messages // EVERY % len(self.book.accounts))
        if self.kinds.keys().isdisjoint(("adl", "bad_debt", "takeover")) and self.shard.venue is None:
            self.law("worst first", self.started == sorted(self.started), self.started)

    def check_prices(self) -> None:
        """Every price is what the messages make of it."""
        book, model = self.book, self.prices
        clocks = self.shard.clock, model.clock
        self.law("the clock is the latest accepted time", clocks[0] == clocks[1], clocks)
        for instrument, mark in zip(book.instruments, book.marks, strict=True):
            quote = model.marks[instrument.symbol]
            if not is_price(mark, quote, 10 ** (DECIMALS - instrument.price_decimals)):
                self.law("the mark in force", False, f"{instrument.symbol}: {mark} instead of {quote}")
        for asset, price in zip(book.assets, book.asset_prices, strict=True):
            quote = model.assets[asset.name]
            if not is_price(price, quote, 10 ** (DECIMALS - 8)):
                self.law("the asset price in force", False, f"{asset.name}: {price} instead of {quote}")
        self.checks["the mark in force"] += len(book.marks)
        self.checks["the asset price in force"] += len(book.assets)

    def check_money(self) -> None:
        """Money is conserved and open interest balanced; the fund and bad debt moved as they said."""
        book, view = self.book, self.view
        totals = [sum(balances) for balances in view.balances]
        for balances in book.system.values():
            totals = [total + balance for total, balance in zip(totals, balances, strict=True)]
        for symbol, positions in enumerate(view.positions):
            clearing = book.clearing[symbol]
            totals[book.settle[symbol]] += clearing.cost + sum([position[3] for position in positions])
            if clearing.size + sum([position[2] for position in positions]):
                self.law("open interest balances", False, (symbol, clearing, positions))
        names = [asset.name for asset in book.assets]
        for law, found, told in (
            ("money conserved", totals, self.deposited),
            ("fund says what it does", [balances[INSURANCE_ROW] for balances in view.balances], self.fund),
            ("uncovered is told", [-balance for balance in book.system["$bad_debt"]], self.uncovered),
        ):
            expected = [told.get(name, 0) for name in names]
            self.law(law, found == expected, (names, found, expected))
            self.checks[law] += len(names) - 1
        self.checks["open interest balances"] += len(view.positions)

    def check_figures(self) -> None:
        """What the book says of every row is what the oracle computes anew."""
        view = self.view
        equity, maintenance = [0] * len(view.equity), [0] * len(view.equity)
        for asset, balances in enumerate(view.balances):
            for row, value in enumerate(self.wallet_values(asset, balances)):
                equity[row] += value
        for symbol, positions in enumerate(view.positions):
            for row, pnl, margin in self.position_values(symbol, positions):
                equity[row] += pnl
                maintenance[row] += margin
        self.checks["equity and margin"] += len(equity)
        if (equity, maintenance) != (view.equity, view.maintenance):
            pairs = zip(equity, maintenance, view.equity, view.maintenance, strict=True)
            wrong = {self.name(row): pair for row, pair in enumerate(pairs) if pair[:2] != pair[2:]}
            self.law("equity and margin", False, f"E and MM of the oracle, then of the book: {wrong}")

    def wallet_values(self, asset: int, balances: list[int]) -> list[int]:
        """Return what each row's balance of an asset counts for; each different one is computed once per price."""
        oracle = self.oracle
        terms = oracle.version, oracle.price(asset)
        known_terms, known = self.wallets_known.get(asset, (None, {}))
        if terms != known_terms:
            known = {0: 0}
            self.wallets_known[asset] = terms, known
        for balance in balances:
            if balance not in known:
                known[balance] = oracle.value_of(asset, balance)
        return [known[balance] for balance in balances]

    def position_values(self, symbol: int, positions: Lists) -> list[tuple[int, int, int]]:
        """Return row, PnL and maintenance margin of a symbol's positions, as before where nothing has changed since."""
        oracle = self.oracle
        terms = oracle.version, oracle.mark(symbol), oracle.price(self.book.settle[symbol])
        known = self.positions_known.get(symbol)
        if known is not None and known[0] == terms and known[1] == positions:
            return known[2]
        values = oracle.positions(symbol, positions)
        self.positions_known[symbol] = terms, positions, values
        return values

    def check_reference(self, row: int) -> None:
        """The figures of a row, in fractions and in integers, and whether it can pay what it owes."""
        if not self.is_priced(row):
            return
        figures, reference = self.oracle.row(row), self.oracle.reference(row)
        expected = reference.equity_units, reference.maintenance_units
        self.law("figures of the reference", figures[:2] == expected, f"{self.name(row)}: {figures} {expected}")

    # Who must be dealt with.

    def check_standing(self) -> None:
        """Who must be liquidated is, or is held; who must be called was."""
        view = self.view
        call = self.oracle.policy("margin_call_ratio", "0.8")
        num, den = call.numerator, call.denominator
        debtors = {row for balances in view.balances if min(balances) < 0 for row in below_zero(balances)}
        debtors -= {row for row, maintenance in enumerate(view.maintenance) if maintenance}
        self.checks["nobody is forgotten"] += len(view.equity)
        self.checks["nobody misses a call"] += len(view.equity)
        # No ratio is above 1, so who is in trouble has also reached it.
        rows = {
            row
            for row, (equity, maintenance) in enumerate(zip(view.equity, view.maintenance, strict=True))
            if maintenance and (equity <= 0 or maintenance * den >= num * equity)
        }
        for row in (rows | debtors | self.called) - self.shard.episodes.keys() - {INSURANCE_ROW}:
            self.check_row(row, is_to_call=row in rows)

    def check_row(self, row: int, *, is_to_call: bool) -> None:
        """Check one row that has reached the call ratio, owes something, or was called before."""
        if not self.is_priced(row):
            return
        # Who is cold is not examined, but held if a message touches it.
        is_warm = self.is_warm(row)
        if row not in self.shard.holds and self.in_trouble(row):
            self.law("nobody is forgotten", not is_warm or not self.prices.is_running, self.name(row))
            self.law("who is touched cold is held", row not in self.subjects(), self.name(row))
        if is_warm and is_to_call:
            self.law("nobody misses a call", row in self.called or row in self.deleveraged, self.name(row))
        elif is_warm and not self.is_at_ratio(
            self.view.equity[row], self.view.maintenance[row], "margin_call_rearm", "0.75"
        ):
            self.called.discard(row)
            self.deleveraged.discard(row)

    def subjects(self) -> set[int]:
        """Return the rows that the message speaks of, or that it gave a new mark."""
        message, book = self.message, self.book
        if not self.is_accepted:
            return set()
        if self.kind == "mark":
            symbol = book.symbol_index[message["symbol"]]
            is_in_force = not book.marks[symbol].pending
            return {position[0] for position in self.view.positions[symbol]} if is_in_force else set()
        if self.kind not in IDS:
            return set()
        is_bucket = self.kind == "transfer" or message.get("isolated") is True
        return {book.row_index[message["account"], (is_bucket and message.get("symbol")) or ""]}

    def in_trouble(self, row: int) -> bool:
        """Return whether a row must be dealt with."""
        equity, maintenance = self.view.equity[row], self.view.maintenance[row]
        if maintenance:
            return self.oracle.is_liquidatable(equity, maintenance)
        return equity <= 0 and self.oracle.is_insolvent(row)

    def check_episodes(self) -> None:
        """Each open episode was announced, waits for something, and nothing in flight is overdue."""
        shard = self.shard
        self.law("episodes are told", self.stories.keys() == shard.episodes.keys(), (self.stories, shard.episodes))
        for row, episode in shard.episodes.items():
            waits = bool(episode.orders) or row in shard.holds or row in shard.stuck
            self.law("episode waits for something", waits, row)
            for order in episode.orders.values():
                self.law("timeouts fire", order.due_ts > shard.clock, order)
                flight = self.flights[order.order_id]
                self.law("what is over is not in flight", not flight.is_over, order)

    def check_buckets(self) -> None:
        """A bucket whose position is gone has sent its rest home."""
        book = self.book
        rows = {position[0] for positions in self.view.positions for position in positions}
        emptied = self.had_position - rows - self.shard.episodes.keys()
        for row in emptied:
            if book.buckets[row]:
                rest = book.wallet(row, book.settle[book.symbol_index[book.buckets[row]]])
                self.law("an empty bucket sends its rest home", rest <= 0, f"{self.name(row)} {rest}")
        self.had_position = (self.had_position | rows) - emptied

    def check_holds(self) -> None:
        """Each hold was announced, is about somebody in trouble, and its reason is true."""
        shard, oracle = self.shard, self.oracle
        told = {row: (hold.reason, hold.symbol) for row, hold in shard.holds.items()}
        self.law("holds are told", told == self.held, (told, self.held))
        for row, hold in shard.holds.items():
            if row not in shard.episodes and self.is_priced(row):
                trouble = self.in_trouble(row) or oracle.is_liquidatable(*oracle.row_if_confirmed(row)[:2])
                self.law("only the unhealthy are held", trouble, (row, hold))
            self.law("hold has its reason", self.is_reason(row, hold.reason, hold.symbol), (row, hold))
            self.law("holds run out", not self.is_over(hold.reason, self.held_since[row]), (row, hold))
            self.law("who waits is looked at in time", not hold.due or hold.due > shard.clock, (row, hold))

    def check_index(self) -> None:
        """No price passes anybody by that needs a look."""
        try:
            check_triggers(self.book)
        except AssertionError as error:
            self.law("nobody is passed by", False, error)
        self.checks["nobody is passed by"] += len(self.view.equity)

    def is_reason(self, row: int, reason: str, name: str | None) -> bool:
        """Return whether what a hold says is so."""
        book, model = self.book, self.prices
        if reason == "warming_up":
            return not self.is_warm(row)
        if reason == "paused":
            return (name or "all") in self.paused
        if reason == "flow_budget":
            return name in book.symbol_index
        is_symbol = any(book.instruments[symbol].symbol == name for symbol, _ in book.positions_of(row))
        quote = (model.marks if is_symbol else model.assets).get(name or "")
        if quote is None:
            return False
        return quote.pending != 0 if reason == "price_band" else model.is_stale(quote)

    # Deeds without an output of their own.

    def hand_over(self, row: int, symbol: int, leg: int, size: int, taker: int, taker_leg: int) -> None:
        """Check who gives and who takes a position, before it happens."""
        book, shard = self.book, self.shard
        held, theirs = book.position(row, symbol, leg)[0], book.position(taker, symbol, taker_leg)[0]
        self.law("never more than owed", held * size > 0 and abs(size) <= abs(held), (row, held, size))
        self.law("whole lots", size % book.instruments[symbol].lot_steps == 0, (row, size))
        if taker != INSURANCE_ROW:
            equity, maintenance, _ = self.oracle.row(taker)
            opposite = theirs * size < 0 and abs(size) <= abs(theirs)
            self.law("only the other side is deleveraged", opposite, (taker, theirs, size))
            self.law("only the healthy are deleveraged", taker not in shard.episodes and equity > maintenance, taker)

    def handed_over(self, taker: int) -> None:
        """Check what a takeover left of the taker."""
        if taker != INSURANCE_ROW:
            self.deleveraged.add(taker)
            self.law("winners stay solvent", self.oracle.row(taker).equity >= 0, self.name(taker))

    def waterfall_begins(self, row: int) -> None:
        """Remember the equity that the first waterfall of an episode starts from."""
        story = self.stories[row]
        story.waterfalls += 1
        if story.waterfalls == 1:
            story.equity_before = self.oracle.row(row).equity

    def waterfall_ends(self, row: int, last: int, is_empty: bool) -> None:
        """A waterfall says that nothing is left where nothing is, and then leaves exactly zero.

        In steps of the last settlement asset: exactly zero where one is worth a unit of the valuation currency.
        """
        book = self.book
        self.law("empty means empty", is_empty == (not book.positions_of(row)), row)
        self.stories[row].left_behind |= not is_empty and not self.shard.episodes[row].remaining
        settle = book.settle[last]
        if is_empty and self.oracle.weights[settle][-1][1] > 0:
            equity, price = self.oracle.row(row).equity, self.oracle.price(settle)
            self.law("a full takeover leaves zero", 0 <= equity * UNIT < price, f"{self.name(row)} {equity} at {price}")

    def fill_begins(self, event: Fill) -> None:
        """Remember how a row stands before a fill of its order in flight."""
        answered = self.shard.open_order(event.account, event.order_id)
        self.figures_before = None
        if answered is not None:
            _, order = answered
            settle = self.book.settle[order.symbol] if order.symbol >= 0 else 0
            fund = self.book.wallet(INSURANCE_ROW, settle)
            self.figures_before = order.order_id, self.oracle.row(order.row), fund

    def fill_ends(self, order: Order, size: int, price: int, paid: int, left: int) -> None:
        """A close at the bankruptcy price or better, its fees set aside, takes nobody further from health.

        At that price a position takes its share of the equity with it, no more than the part of the margin that it
        frees: E / MM cannot fall. Where profit is paid in an asset with a haircut it can, so those are left out.
        """
        if self.figures_before is None or self.figures_before[0] != order.order_id:
            return
        _, before, fund = self.figures_before
        settle, oracle = self.book.settle[order.symbol], self.oracle
        held = sum(part.size for part in before.parts if (part.symbol, part.leg) == (order.symbol, order.leg))
        is_close = held * size < 0 and abs(size) <= min(abs(held), abs(left))
        if before.equity <= 0 or not is_close or oracle.weights[settle] != [(0, 1_000_000)]:
            return
        bankruptcy = oracle.bankruptcy_price(before, order.symbol, order.leg)
        at = Fraction(price, 10 ** self.book.instruments[order.symbol].price_decimals)
        if bankruptcy is not None and (at < bankruptcy if size < 0 else at > bankruptcy):
            return
        fees = paid + self.book.wallet(INSURANCE_ROW, settle) - fund
        after, unit = oracle.row(order.row), up(oracle.price(settle), UNIT)
        slack = ROUNDINGS * max(unit, 1)
        equity = after.equity + up(fees * oracle.price(settle), UNIT) + slack
        no_further = equity * before.maintenance >= before.equity * (after.maintenance - slack)
        self.law("each step brings nobody further from health", no_further, (before, after, order, at, fees))


def own_id(message: Document) -> tuple[Any, ...]:
    """Return what makes a message idempotent."""
    kind = str(message["type"])
    return kind, str(message.get("account")), str(message.get(IDS[kind]))


def below_zero(balances: list[int]) -> Iterator[int]:
    """Yield the rows that owe."""
    return (row for row, balance in enumerate(balances) if balance < 0)


def is_price(price: Price, quote: Quote, scale: int) -> bool:
    """Return whether a price of the engine, ``scale`` times finer in the model, is what the model says."""
    if (price.value * scale, price.ts, price.is_seen) != (quote.value, quote.ts, quote.is_seen):
        return False
    if not (price.pending or quote.pending):
        return True
    found = price.pending * scale, price.pending_ts, price.pending_source, price.pending_since
    return found == (quote.pending, quote.pending_ts, quote.pending_source, quote.pending_since)


def try_units(amount: object) -> int:
    """Return an amount of a message in units, 0 where it is none."""
    try:
        return units(str(amount))
    except ValueError:
        return 0
