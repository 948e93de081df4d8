"""What the independent oracle says of the rows of a live book, without taking any figure from the engine.

Only what a row holds is read from the engine (sizes, costs, balances), and the prices in force, which ``prices.py``
tells from the messages alone; the risk parameters are kept from the messages too. There are two ways to the figures:

* ``Oracle.row`` and ``Oracle.value_of`` write the formulas of CONTRACT section 4 once more in integers, rounded once at
  the end: microseconds, so that every row can be computed after every message.
* ``Oracle.reference`` asks ``tests/reference.py``, plain fractions, for a sample of rows: it is slow, and it is the
  judge of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from engine.core.book import LEG_NAMES, Book
from tests.reference import HoldingFigures, figures_of
from tests.reference_book import Holding, Position
from tests.reference_numbers import UNIT, decimal
from tests.reference_prices import bankruptcy_price
from tests.reference_terms import Market, Terms, read_terms
from tests.simulation.prices import number

Document = dict[str, Any]

PPM = 1_000_000


class Part(NamedTuple):
    """One position of a row: what it holds, in steps and units, and what that comes to in valuation units."""

    symbol: int
    leg: int
    size: int
    cost: int
    pnl: int
    margin: int


class Figures(NamedTuple):
    """One margin test, in valuation units."""

    equity: int
    maintenance: int
    parts: list[Part]


@dataclass(frozen=True, slots=True)
class Contract:
    """One instrument in integers: ``size x price steps x num / den`` is its value in settlement units.

    Of an inverse one it is ``- size x num / (den x price steps)``. A tier is (floor, rate in ppm, deduction in ppm of a
    unit).
    """

    is_inverse: bool
    settle: int
    num: int
    den: int
    tiers: tuple[tuple[int, int, int], ...]
    is_whole: bool

    def value(self, size: int, price: int) -> tuple[int, int]:
        """Return the signed value of a size as numerator and denominator."""
        if self.is_inverse:
            return -size * self.num, self.den * price
        return size * price * self.num, self.den

    def margin(self, size: int, price: int) -> int:
        """Return the maintenance margin in settlement units, up: that much must be held."""
        num, den = self.value(size, price)
        num = abs(num)
        if self.is_whole:
            rate = max(rate for floor, rate, _ in self.tiers if floor * den <= num)
            return up(num * rate, den * PPM)
        return max(up(num * rate - deduction * den, den * PPM) for _, rate, deduction in self.tiers)


class Oracle:
    """The contract's view of one live book."""

    def __init__(self, book: Book, risk: Document) -> None:
        self.book = book
        self.risk: Document = {
            "policy": dict(risk.get("policy", {})),
            "assets": {name: dict(fields) for name, fields in risk["assets"].items()},
            "instruments": {name: dict(fields) for name, fields in risk["instruments"].items()},
        }
        self.terms: dict[str, Terms] = {}
        self.contracts: list[Contract] = []
        self.weights: list[list[tuple[int, int]]] = []
        self.keeps: list[int] = []
        self.version = 0
        self.is_confirming = False
        self.read()

    def read(self) -> None:
        """Read the parameters anew, as after a change."""
        self.version += 1
        self.terms = {symbol: read_terms(self.risk, symbol) for symbol in self.risk["instruments"]}
        book, assets = self.book, [self.risk["assets"][asset.name] for asset in self.book.assets]
        self.contracts = [self.contract(index) for index in range(len(book.instruments))]
        self.weights = [
            [(whole(floor, UNIT), whole(weight, PPM)) for floor, weight in fields.get("weights", [["0", "1"]])]
            for fields in assets
        ]
        self.keeps = [PPM - whole(fields.get("slippage", "0"), PPM) for fields in assets]

    def contract(self, index: int) -> Contract:
        """Return an instrument in the steps that the engine counts its sizes and prices in."""
        instrument = self.book.instruments[index]
        terms = self.terms[instrument.symbol]
        size_step, price_step = (
            Fraction(1, 10) ** places for places in (instrument.size_decimals, instrument.price_decimals)
        )
        scale = terms.multiplier * size_step * UNIT
        scale = scale / price_step if terms.is_inverse else scale * price_step
        return Contract(
            is_inverse=terms.is_inverse,
            settle=self.book.asset_index[terms.settle],
            num=scale.numerator,
            den=scale.denominator,
            tiers=tuple(
                (int(tier.floor * UNIT), int(tier.rate * PPM), int(tier.deduction * UNIT * PPM)) for tier in terms.tiers
            ),
            is_whole=self.word("tier_mode", "marginal") == "whole",
        )

    def change(self, message: Document) -> None:
        """Take over what an accepted ``set_*`` message sets."""
        fields = {key: value for key, value in message.items() if key not in ("type", "ts")}
        what = message["type"].removeprefix("set_")
        if what == "policy":
            self.risk["policy"] |= fields
        else:
            name = fields.pop("symbol" if what == "instrument" else "asset")
            self.risk[f"{what}s"].setdefault(name, {}).update(fields)
        self.read()

    def policy(self, key: str, default: str) -> Fraction:
        """Return a number of the policy in force."""
        return number(self.risk["policy"].get(key, default))

    def word(self, key: str, default: str) -> str:
        """Return a word of the policy in force."""
        return str(self.risk["policy"].get(key, default))

    # The figures, in integers.

    def mark(self, symbol: int) -> int:
        """Return the mark of a symbol in steps, 0 where there is none."""
        mark = self.book.marks[symbol]
        return mark.pending or mark.value if self.is_confirming else mark.value

    def price(self, asset: int) -> int:
        """Return the price of an asset in units, 0 where there is none."""
        price = self.book.asset_prices[asset]
        return price.pending or price.value if self.is_confirming else price.value

    def position(self, symbol: int, size: int, cost: int) -> tuple[int, int]:
        """Return PnL (down) and maintenance margin (up, twice) of a position; 0 where a price is missing."""
        contract = self.contracts[symbol]
        mark, price = self.mark(symbol), self.price(contract.settle)
        if not (mark and price and size):
            return 0, 0
        num, den = contract.value(size, mark)
        return (num + cost * den) * price // (den * UNIT), up(contract.margin(size, mark) * price, UNIT)

    def positions(self, symbol: int, held: list[list[int]]) -> list[tuple[int, int, int]]:
        """Return row, PnL and maintenance margin of all positions (row, leg, size, cost, ...) of a symbol."""
        contract = self.contracts[symbol]
        mark, price = self.mark(symbol), self.price(contract.settle)
        if contract.is_inverse or contract.is_whole or not (mark and price):
            return [(row, *self.position(symbol, size, cost)) for row, _, size, cost, *_ in held]
        # As ``position``, for one mark and one tier table.
        unit, den, ppm, value, found = contract.den * UNIT, contract.den, contract.den * PPM, mark * contract.num, []
        tiers = [(rate, deduction * den) for _, rate, deduction in contract.tiers]
        for row, _, size, cost, *_ in held:
            num = abs(size) * value
            margin = -min([(deduction - num * rate) // ppm for rate, deduction in tiers])
            found.append((row, (size * value + cost * den) * price // unit, -(-margin * price // UNIT)))
        return found

    def value_of(self, asset: int, balance: int) -> int:
        """Return what a balance counts for: a debt in full, else each slice of its value by its weight; down."""
        value = balance * self.price(asset)
        if value <= 0:
            return value // UNIT
        total, slices = 0, self.weights[asset]
        for index, (floor, weight) in enumerate(slices):
            above = slices[index + 1][0] * UNIT if index + 1 < len(slices) else value
            total += max(min(value, above) - floor * UNIT, 0) * weight
        return total // (UNIT * PPM)

    def row(self, row: int) -> Figures:
        """Return equity, maintenance margin and positions of a row."""
        book = self.book
        equity = sum(self.value_of(asset, book.wallet(row, asset)) for asset in range(len(book.assets)))
        maintenance, parts = 0, []
        for symbol, leg in book.positions_of(row):
            size, cost = book.position(row, symbol, leg)
            pnl, margin = self.position(symbol, size, cost)
            equity, maintenance = equity + pnl, maintenance + margin
            parts.append(Part(symbol, leg, size, cost, pnl, margin))
        return Figures(equity, maintenance, parts)

    def row_if_confirmed(self, row: int) -> Figures:
        """Return the figures of a row as they would be if every unconfirmed price were true."""
        self.is_confirming = True
        figures = self.row(row)
        self.is_confirming = False
        return figures

    def is_liquidatable(self, equity: int, maintenance: int) -> bool:
        """Return whether MM > 0 and E <= MM (or E < MM)."""
        if self.word("trigger", "at_or_below") == "below":
            return maintenance > 0 and equity < maintenance
        return maintenance > 0 and equity <= maintenance

    def has_target(self, equity: int, maintenance: int) -> bool:
        """Return whether an episode may stop: E >= (1 + b) MM, and out of the trigger."""
        buffer = self.policy("target_buffer", "0")
        return not self.is_liquidatable(equity, maintenance) and equity >= (1 + buffer) * maintenance

    def is_insolvent(self, row: int) -> bool:
        """Return whether a row without positions owes more than all it holds would bring after slippage."""
        book = self.book
        balances = [book.wallet(row, asset) for asset in range(len(book.assets))]
        if book.positions_of(row) or min(balances, default=0) >= 0 or self.row(row).equity > 0:
            return False
        return sum(self.proceeds(asset, balance) for asset, balance in enumerate(balances)) < 0

    def proceeds(self, asset: int, balance: int) -> int:
        """Return what a balance brings when it is sold, or costs where it is owed, down."""
        value = balance * self.book.asset_prices[asset].value
        return value * self.keeps[asset] // (UNIT * PPM) if balance > 0 else value // UNIT

    def fund_equity(self) -> int:
        """Return the fund's wallets at P plus its PnL at marks, without haircuts."""
        book = self.book
        wallets = [book.wallet(0, asset) * price.value // UNIT for asset, price in enumerate(book.asset_prices)]
        return sum(wallets) + sum(part.pnl for part in self.row(0).parts)

    def after_closes(self, row: int, closes: list[Document]) -> tuple[int, int]:
        """Return equity and maintenance margin of a row after closes at their expected cost."""
        book, figures = self.book, self.row(row)
        equity, maintenance = figures.equity, figures.maintenance
        left = {(part.symbol, part.leg): part for part in figures.parts}
        for close in closes:
            symbol = book.symbol_index[close["symbol"]]
            fields, contract = self.risk["instruments"][close["symbol"]], self.contracts[symbol]
            cost_ppm = sum(whole(fields.get(key, "0"), PPM) for key in ("taker_fee", "liquidation_fee", "slippage"))
            sign = -1 if close["side"] == "sell" else 1
            size = int(decimal(close["qty"]) * Fraction(10) ** book.instruments[symbol].size_decimals)
            part = next(part for part in left.values() if part.symbol == symbol and part.size * sign < 0)
            num, den = contract.value(size, book.marks[symbol].value)
            equity -= up(abs(num) * cost_ppm * book.asset_prices[contract.settle].value, den * PPM * UNIT)
            margin = self.position(symbol, part.size + sign * size, 0)[1]
            maintenance += margin - part.margin
            left[symbol, part.leg] = part._replace(size=part.size + sign * size, margin=margin)
        return equity, maintenance

    def bankruptcy_price(self, figures: Figures, symbol: int, leg: int) -> Fraction | None:
        """Return the price at which one position, closed with all others at their own, leaves zero."""
        book, instrument = self.book, self.book.instruments[symbol]
        if figures.maintenance == 0:
            return None
        part = next(part for part in figures.parts if (part.symbol, part.leg) == (symbol, leg))
        terms = self.terms[instrument.symbol]
        return bankruptcy_price(
            terms,
            part.size * Fraction(1, 10) ** instrument.size_decimals,
            mark=Fraction(book.marks[symbol].value, 10**instrument.price_decimals),
            price=Fraction(book.asset_prices[book.settle[symbol]].value, UNIT),
            equity_share=Fraction(figures.equity * part.margin, figures.maintenance) / UNIT,
        )

    # The figures, in fractions.

    def reference(self, row: int) -> HoldingFigures:
        """Return equity, margins and PnL of a row as ``tests/reference.py`` has them."""
        return figures_of(self.holding(row), self.market())

    def market(self) -> Market:
        """Return the marks and asset prices in force as the reference reads them."""
        book = self.book
        marks = {
            instrument.symbol: Fraction(mark.value, 10**instrument.price_decimals)
            for instrument, mark in zip(book.instruments, book.marks, strict=True)
            if mark.value
        }
        prices = {
            asset.name: Fraction(price.value, UNIT)
            for asset, price in zip(book.assets, book.asset_prices, strict=True)
            if price.value
        }
        return Market(self.risk, self.terms, marks, prices)

    def holding(self, row: int) -> Holding:
        """Return what a row holds."""
        book = self.book
        balances = {asset.name: book.wallet(row, index) for index, asset in enumerate(book.assets)}
        positions = []
        for symbol, leg in book.positions_of(row):
            instrument = book.instruments[symbol]
            size, cost = book.position(row, symbol, leg)
            qty = size * Fraction(1, 10) ** instrument.size_decimals
            positions.append(Position(instrument.symbol, LEG_NAMES[leg], qty, cost))
        positions.sort(key=lambda position: (position.symbol, position.leg))
        return Holding(book.accounts[row], book.buckets[row], balances, positions)


def whole(text: str | int, scale: int) -> int:
    """Return a parameter as an integer of ``1 / scale``."""
    return int(number(text) * scale)


def up(num: int, den: int) -> int:
    """Return num / den rounded up."""
    return -(-num // den)
