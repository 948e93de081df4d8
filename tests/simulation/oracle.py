"""What the independent oracle says of one row of a live book: the figures of ``tests/reference.py``, without prices.

Only what a row holds is read from the engine (sizes, costs, balances) and the marks in force; the risk parameters are
kept from the messages themselves, and every figure is computed anew.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor
from typing import Any

from engine.core.book import LEG_NAMES, Book
from tests.reference import HoldingFigures, figures_of, is_liquidatable, share_of
from tests.reference_book import Holding, Position
from tests.reference_numbers import UNIT, decimal
from tests.reference_prices import bankruptcy_price
from tests.reference_terms import Market, Terms, read_terms

Document = dict[str, Any]


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
        self.read()

    def read(self) -> None:
        """Read the instruments anew, as after a change of parameters."""
        self.terms = {symbol: read_terms(self.risk, symbol) for symbol in self.risk["instruments"]}

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
        return decimal(self.risk["policy"].get(key, default))

    def word(self, key: str, default: str) -> str:
        """Return a word of the policy in force."""
        return str(self.risk["policy"].get(key, default))

    @property
    def buffer(self) -> Fraction:
        """b of the contract: how far above its maintenance margin an account is brought."""
        return self.policy("target_buffer", "0")

    def market(self) -> Market:
        """Return the marks and asset prices in force as the oracle reads them."""
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
        for symbol, leg in book.row_positions[row]:
            instrument = book.instruments[symbol]
            size, cost = book.position(row, symbol, leg)
            qty = size * Fraction(1, 10) ** instrument.size_decimals
            positions.append(Position(instrument.symbol, LEG_NAMES[leg], qty, cost))
        positions.sort(key=lambda position: (position.symbol, position.leg))
        return Holding(book.accounts[row], book.buckets[row], balances, positions)

    def figures(self, row: int) -> HoldingFigures:
        """Return equity, margins and PnL of a row."""
        return figures_of(self.holding(row), self.market())

    def is_liquidatable(self, figures: HoldingFigures) -> bool:
        """Return whether MM > 0 and E <= MM (or E < MM)."""
        return is_liquidatable(figures, self.market())

    def has_target(self, equity: int, maintenance: int) -> bool:
        """Return whether an episode may stop: E >= (1 + b) MM, and out of the trigger."""
        below = self.word("trigger", "at_or_below") == "below"
        trouble = maintenance > 0 and (equity < maintenance if below else equity <= maintenance)
        return not trouble and equity >= (1 + self.buffer) * maintenance

    def is_insolvent(self, row: int) -> bool:
        """Return whether a row without positions owes more than all it holds would bring after slippage."""
        holding, market = self.holding(row), self.market()
        if holding.positions or min(holding.balances.values(), default=0) >= 0:
            return False
        if figures_of(holding, market).equity_units > 0:
            return False
        total = Fraction(0)
        for asset, units in holding.balances.items():
            keep = 1 - decimal(self.risk["assets"][asset].get("slippage", "0")) if units > 0 else Fraction(1)
            total += floor(units * market.price(asset) * keep) if units else 0
        return total < 0

    def bankruptcy_price(self, row: int, symbol: str, leg: str) -> Fraction | None:
        """Return the price at which one position, closed with all others at their own, leaves zero."""
        holding, market = self.holding(row), self.market()
        figures = figures_of(holding, market)
        for position, part in zip(holding.positions, figures.positions, strict=True):
            if (position.symbol, position.leg) == (symbol, leg):
                terms = self.terms[symbol]
                return bankruptcy_price(
                    terms,
                    position.qty,
                    mark=market.mark(symbol),
                    price=market.price(terms.settle),
                    equity_share=share_of(figures, part),
                )
        return None

    def fund_equity(self) -> Fraction:
        """Return the fund's wallets at P plus its PnL at marks, without haircuts."""
        holding, market = self.holding(0), self.market()
        wallets = [units * market.price(asset) for asset, units in holding.balances.items() if units]
        return sum(wallets, Fraction(0)) + sum(part.pnl_units for part in figures_of(holding, market).positions)

    def after_closes(self, row: int, closes: list[Document]) -> tuple[int, int]:
        """Return equity and maintenance margin of a row after closes at their expected cost."""
        holding, market = self.holding(row), self.market()
        equity = figures_of(holding, market).equity_units
        for close in closes:
            fields, terms = self.risk["instruments"][close["symbol"]], self.terms[close["symbol"]]
            cost_rate = sum(decimal(fields.get(key, "0")) for key in ("taker_fee", "liquidation_fee", "slippage"))
            sign = -1 if close["side"] == "sell" else 1
            position = next(p for p in holding.positions if p.symbol == close["symbol"] and p.qty * sign < 0)
            qty = decimal(close["qty"])
            mark = market.mark(terms.symbol)
            notional = qty * terms.multiplier / mark if terms.is_inverse else qty * terms.multiplier * mark
            equity -= ceil(notional * cost_rate * market.price(terms.settle) * UNIT)
            position.qty += sign * qty
        holding.positions = [position for position in holding.positions if position.qty]
        for position in holding.positions:
            position.cost = 0
        return equity, figures_of(holding, market).maintenance_units
