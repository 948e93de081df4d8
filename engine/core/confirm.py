"""How an unconfirmed price comes into force without a second one: its wait is over, or the policy now believes it.

``band.py`` says which prices wait; a second price is ``intake.py``'s business.
"""

from __future__ import annotations

from engine.core.band import is_within
from engine.core.book import Price
from engine.core.pricing import (
    asset_price_overflows,
    asset_rows,
    mark_overflows,
    symbol_rows,
    try_put_asset_price,
    try_put_mark,
)
from engine.core.shard import Shard
from engine.units import NS_PER_MS


def expire_pending(shard: Shard, name: str) -> list[int]:
    """Put an unconfirmed price in force once its wait is over; return the rows that need a look."""
    book, rows = shard.book, []
    wait = book.policy.max_hold_ms * NS_PER_MS
    if wait == 0:
        return []
    symbol, asset = book.symbol_index.get(name), book.asset_index.get(name)
    if symbol is not None and is_over(book.marks[symbol], shard.clock - wait):
        rows += put_pending_mark(shard, symbol)
    if asset is not None and is_over(book.asset_prices[asset], shard.clock - wait):
        rows += put_pending_asset_price(shard, asset)
    return rows


def is_over(price: Price, since: int) -> bool:
    """Return whether a price has waited for confirmation since then or longer."""
    return price.pending != 0 and price.pending_since <= since


def review_pending(shard: Shard) -> list[int]:
    """Judge every unconfirmed price by the policy now in force; return the rows of those that go in force.

    The others wait on, until the time that this policy gives them.
    """
    book, rows = shard.book, []
    wait = book.policy.max_hold_ms * NS_PER_MS
    for symbol, mark in enumerate(book.marks):
        if mark.pending and is_believed(mark, book.policy.price_band_ppm):
            rows += put_pending_mark(shard, symbol)
        elif mark.pending:
            shard.set_symbol_timer(book.instruments[symbol].symbol, mark.pending_since + wait)
    for asset, price in enumerate(book.asset_prices):
        if price.pending and is_believed(price, book.policy.price_band_ppm):
            rows += put_pending_asset_price(shard, asset)
        elif price.pending:
            shard.set_symbol_timer(book.assets[asset].name, price.pending_since + wait)
    return rows


def is_believed(price: Price, band_ppm: int) -> bool:
    """Return whether an unconfirmed price would not have to wait under this band."""
    return band_ppm == 0 or is_within(price.pending, price.value, band_ppm)


def put_pending_mark(shard: Shard, symbol: int) -> list[int]:
    """Put an unconfirmed mark in force, or drop it where a sum would leave int64; return the rows that need a look.

    What it is worth may have grown while it waited: it was bounded by the positions of its own time.
    """
    book, mark, rows = shard.book, shard.book.marks[symbol], None
    if not mark_overflows(book, symbol, mark.pending, book.asset_prices[book.settle[symbol]].value):
        rows = try_put_mark(book, symbol, mark.pending, mark.pending_ts)
    if rows is None:
        mark.pending = 0
        book.note_mark(symbol)
        return symbol_rows(book, symbol)
    if shard.venue is not None:
        shard.venue.mark_changed(symbol)
    return rows


def put_pending_asset_price(shard: Shard, asset: int) -> list[int]:
    """Put an unconfirmed asset price in force, or drop it; twin of ``put_pending_mark``."""
    book, price, rows = shard.book, shard.book.asset_prices[asset], None
    if not asset_price_overflows(book, asset, price.pending):
        rows = try_put_asset_price(book, asset, price.pending, price.pending_ts)
    if rows is None:
        price.pending = 0
        book.note_asset_price(asset)
        return asset_rows(book, asset)
    return rows
