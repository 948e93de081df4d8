"""What the engine's plans close and cost beside usual rules, on the accounts of a population that a crash catches.

The population and the market are those of ``demo``. Prices fall in steps of a fifth of a per cent of the index; each
account (or isolated bucket) is taken once, at the first step that finds it liquidatable with equity left. All rules
start from that same state, and costs are those the engine expects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from benchmarks.formulas import Held, Target, Wallet, read_risk
from benchmarks.rules import RULES, Account, Done, as_units, close, sell
from benchmarks.tables import money, text_table, times
from engine.core.book import LEG_NAMES, Book
from engine.core.liquidation import Send, plan_orders
from engine.core.margin import liquidatable_rows
from engine.core.pricing import reprice_all
from engine.core.shard import Shard
from engine.edges.bookfile import load_document
from engine.edges.config import default_risk_path, load_risk
from engine.tools.market import COLLATERAL, START_NS, SYMBOLS, first_asset_prices, first_marks, make_quotes
from engine.tools.synth import make_population
from engine.units import UNIT, UNIT_DECIMALS, scaled_half_even
from tests.reference_numbers import decimal, units_floor

STEP_PPM = 2_000
DEEPEST_PPM = 330_000
OURS = "cheapest (the engine)"
# The rules whose cost every certificate states.
CERTIFIED = {"largest first": "largest_first", "pro rata": "pro_rata"}


@dataclass(slots=True)
class Row:
    """The sums of one rule, in units."""

    notional: int = 0
    sold: int = 0
    cost: int = 0
    unhealthy: int = 0
    orders: int = 0

    def add(self, account: Account, done: Done) -> None:
        """Take what the rule did to one account."""
        self.notional += as_units(done.notional(account))
        self.sold += as_units(done.sold)
        self.cost += done.cost
        self.unhealthy += not done.is_healthy(account)
        self.orders += done.orders


@dataclass(slots=True)
class RuleTable:
    """All rules over the same accounts: those the engine plans to close in part, and those it closes in full."""

    accounts: int
    bankrupt: int = 0
    partial: dict[str, Row] = field(default_factory=dict)
    full: dict[str, Row] = field(default_factory=dict)
    partial_count: int = 0
    full_count: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, account: Account, ours: Done, certificate: dict[str, Any]) -> None:
        """Take one account with the engine's plan for it."""
        done = {OURS: ours, **{name: rule(account) for name, rule in RULES.items()}}
        stated = {OURS: certificate["cost"], **{name: certificate[key] for name, key in CERTIFIED.items()}}
        for name, text in stated.items():
            if units_floor(decimal(text)) != done[name].cost:
                self.failures.append(
                    f"{account.name}: {name} costs {money(done[name].cost)}, the certificate says {text}"
                )
        after = (units_floor(decimal(certificate[f"{name}_after"])) for name in ("equity", "maintenance_margin"))
        if tuple(after) != (ours.equity, ours.maintenance):
            self.failures.append(
                f"{account.name}: the certificate's equity and margin after the plan are not the plan's"
            )
        is_full = ours.maintenance == 0
        if not is_full and not ours.is_healthy(account):
            self.failures.append(f"{account.name}: the engine's plan leaves it unhealthy")
        self.full_count += is_full
        self.partial_count += not is_full
        rows = self.full if is_full else self.partial
        for name, result in done.items():
            rows.setdefault(name, Row()).add(account, result)

    def document(self) -> dict[str, Any]:
        """Return the figures for machines, amounts in units of 1e-8."""
        groups = {"partial": (self.partial_count, self.partial), "full": (self.full_count, self.full)}
        return {
            "accounts": self.accounts,
            "bankrupt": self.bankrupt,
            "failures": self.failures,
            **{
                name: {
                    "accounts": count,
                    "rules": {rule: {key: getattr(row, key) for key in Row.__slots__} for rule, row in rows.items()},
                }
                for name, (count, rows) in groups.items()
            },
        }

    def text(self) -> str:
        """Return the tables for a terminal."""
        header = ("rule", "notional closed", "x ours", "collateral sold", "cost", "x ours", "left unhealthy", "orders")
        parts = []
        for about, count, rows in (
            ("the engine closes in part", self.partial_count, self.partial),
            ("only closing everything is left", self.full_count, self.full),
        ):
            parts.append(f"  {count:,} accounts where {about}")
            if rows:
                ours = rows[OURS]
                lines = [
                    (
                        name,
                        money(row.notional),
                        times(row.notional, ours.notional),
                        money(row.sold),
                        money(row.cost),
                        times(row.cost, ours.cost),
                        f"{row.unhealthy:,}",
                        f"{row.orders:,}",
                    )
                    for name, row in rows.items()
                ]
                parts.append(text_table([header, *lines]))
        return "\n".join(parts)


def measure_rules(*, accounts: int, seed: int) -> RuleTable:
    """Return all rules over the accounts of a population that a crash of a third catches."""
    path = default_risk_path()
    risk = load_risk(path)
    formulas_risk = read_risk(path)
    symbols = [risk.instruments[name] for name in SYMBOLS]
    document = make_population(
        accounts=accounts,
        seed=seed,
        first_marks=first_marks(symbols),
        risk=risk,
        asset_prices=first_asset_prices(symbols),
        ts=START_NS,
    )
    shard = Shard(risk)
    load_document(shard, document, "population")
    table, taken = RuleTable(accounts), set()
    for fall_ppm in range(STEP_PPM, DEEPEST_PPM + 1, STEP_PPM):
        fall(shard.book, fall_ppm)
        for row in liquidatable_rows(shard.book).tolist():
            if row in taken:
                continue
            taken.add(row)
            if shard.book.equity(row) <= 0:
                table.bankrupt += 1
                continue
            account = account_of(shard.book, row, formulas_risk)
            orders = plan_orders(shard.book, row, shard.book.positions_of(row))
            if orders.certificate is None:
                raise SystemExit(f"{account.name}: a plan without a certificate")
            table.add(account, engine_plan(shard.book, row, account, orders), orders.certificate)
    return table


def fall(book: Book, fall_ppm: int) -> None:
    """Move every mark, and the price of collateral with it, to where they are when the index has fallen this far."""
    for quote in make_quotes([book.instruments[book.symbol_index[name]] for name in SYMBOLS]):
        symbol = book.symbol_index[quote.instrument.symbol]
        price = quote.price(fall_ppm)
        book.set_mark(symbol, scaled_half_even(price, quote.instrument.price_decimals), START_NS, is_seen=True)
        name = quote.instrument.base
        if name in COLLATERAL:
            asset = book.asset_index[name]
            book.set_asset_price(asset, scaled_half_even(price, UNIT_DECIMALS), START_NS, is_seen=True)
    reprice_all(book)


def account_of(book: Book, row: int, risk: dict[str, Any]) -> Account:
    """Return a row as the rules see it: the holdings from the book, every figure from the formulas."""
    held = []
    for symbol, leg in book.positions_of(row):
        instrument, mark = book.instruments[symbol], book.marks[symbol].value
        held.append(
            Held.of(
                risk,
                instrument.symbol,
                LEG_NAMES[leg],
                Fraction(book.position(row, symbol, leg)[0]) / Fraction(10) ** instrument.size_decimals,
                Fraction(mark) / Fraction(10) ** instrument.price_decimals,
                asset_price(book, book.settle[symbol]),
            )
        )
    settles = {book.settle[symbol] for symbol, _ in book.positions_of(row)}
    wallets = tuple(
        Wallet(risk, book.assets[asset].name, book.wallet(row, asset), asset_price(book, asset))
        for asset in range(len(book.assets))
        if book.wallet(row, asset) or asset in settles
    )
    account = Account(
        name=f"{book.accounts[row]}/{book.buckets[row]}".rstrip("/"),
        equity=book.equity(row),
        held=tuple(held),
        wallets=wallets,
        target=Target.of(risk),
        min_notional=decimal(risk["policy"]["min_notional"]),
    )
    if account.maintenance != book.maintenance(row):
        raise SystemExit(f"{account.name}: margin {account.maintenance}, the engine says {book.maintenance(row)}")
    return account


def asset_price(book: Book, asset: int) -> Fraction:
    """Return an asset's price in force."""
    return Fraction(book.asset_prices[asset].value, UNIT)


def engine_plan(book: Book, row: int, account: Account, orders: Send) -> Done:
    """Return what the engine's closes and sales do."""
    sizes = {(order.symbol, order.leg): abs(order.size) for order in orders.closes}
    lots = [sizes.get((symbol, leg), 0) // book.instruments[symbol].lot_steps for symbol, leg in book.positions_of(row)]
    sales = [(book.assets[sale.asset].name, sale.amount, book.assets[sale.for_asset].name) for sale in orders.sales]
    return sell(account, close(account, lots), sales)
