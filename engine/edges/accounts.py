"""What an account's margin state looks like, row by row: the figures, and what would be ordered for it now.

``liq-engine margin`` prints these rows for a book file, the admin API for a live shard: one code, so one answer.
"""

from __future__ import annotations

from typing import Any

from engine.core.book import CROSS, Book
from engine.core.liquidation import Send, TakeOver, decide, plan_fields
from engine.core.margin import bankruptcy_price, format_price, is_row_liquidatable, statement
from engine.core.shard import Episode, Shard
from engine.units import format_scaled


def account_rows(shard: Shard, account: str) -> list[int]:
    """Return the rows of an account that are worth a line: the cross row first, then its buckets by name."""
    return [row for row in shard.book.rows_of(account) if is_shown(shard.book, row)]


def is_shown(book: Book, row: int) -> bool:
    """Return whether a row is worth a line: an emptied bucket is not."""
    return book.buckets[row] == CROSS or bool(book.positions_of(row)) or book.equity(row) != 0


def account_fields(shard: Shard, row: int) -> dict[str, Any]:
    """Return one row with its plan, in the order of the contract; every price it needs must be known."""
    fields = statement(shard.book, row)
    positions = fields.pop("positions")
    return {**fields, **next_orders(shard, row), "positions": positions}


def next_orders(shard: Shard, row: int) -> dict[str, Any]:
    """Return ``plan``, what a liquidation starting now would order (nothing unless the row is liquidatable).

    With it, where it is the outcome of a choice, its ``certificate``: why that is (nearly) the cheapest.
    """
    book = shard.book
    if not is_row_liquidatable(book, row):
        return {"plan": []}
    match decide(shard, Episode(row, "")):
        case Send() as orders:
            return {"plan": plan_fields(book, orders.closes, orders.sales), "certificate": orders.certificate}
        case TakeOver():
            return {"plan": takeover_fields(shard, row)}
    return {"plan": []}


def takeover_fields(shard: Shard, row: int) -> list[dict[str, Any]]:
    """Return the positions that would go to the fund: no order, hence no limit."""
    book, entries = shard.book, []
    for symbol, leg in book.positions_of(row):
        instrument = book.instruments[symbol]
        size, _ = book.position(row, symbol, leg)
        bankruptcy = bankruptcy_price(book, row, symbol, leg)
        entries.append(
            {
                "symbol": instrument.symbol,
                "side": "sell" if size > 0 else "buy",
                "qty": format_scaled(abs(size), instrument.size_decimals),
                "limit_price": None,
                "bankruptcy_price": format_price(bankruptcy, instrument.price_decimals),
                "stage": "takeover",
            }
        )
    return entries


def missing_prices(book: Book, row: int) -> set[str]:
    """Return the prices that a row needs and nobody has given, as ``marks.X`` and ``asset_prices.Y``."""
    missing = set()
    for symbol, _ in book.positions_of(row):
        if book.marks[symbol].value == 0:
            missing.add(f"marks.{book.instruments[symbol].symbol}")
        if book.asset_prices[book.settle[symbol]].value == 0:
            missing.add(f"asset_prices.{book.assets[book.settle[symbol]].name}")
    missing |= {
        f"asset_prices.{book.assets[asset].name}"
        for asset, price in enumerate(book.asset_prices)
        if price.value == 0 and book.wallet(row, asset)
    }
    return missing
