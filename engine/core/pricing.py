"""How new prices reach the accounts: one kernel call per symbol or asset, and the rows that then need a look."""

from __future__ import annotations

import numpy as np

from engine.core.book import Book, Int64Array
from engine.core.kernels.reprice import ROW, reprice_holders, reprice_wallets
from engine.errors import check


def symbol_notional(book: Book, symbol: int, size: int, price: int) -> int:
    """Return the notional of ``size`` >= 0 at ``price`` in settlement units, rounded up, as an unbounded int."""
    instrument = book.instruments[symbol]
    if instrument.is_inverse:
        return -(-size * instrument.value_num // price)
    return -(-size * price * instrument.value_num // instrument.value_den)


def scratch(book: Book, rows: int) -> Int64Array:
    """Return the array kernels write row numbers to, large enough for ``rows``."""
    if len(book.touched) < rows:
        book.touched = np.zeros(2 * rows, dtype=np.int64)
    return book.touched


def reprice_symbol(book: Book, symbol: int) -> list[int]:
    """Revalue all positions of a symbol at its mark; return the rows that need a look (a row may occur twice)."""
    price, asset_price = book.marks[symbol].value, book.asset_prices[book.settle[symbol]].value
    holders = book.holders[symbol]
    if price == 0 or asset_price == 0 or holders.count == 0:
        return []
    touched = scratch(book, holders.count)
    found = reprice_holders(
        holders.table,
        holders.count,
        book.state,
        book.specs[symbol],
        book.tiers[symbol],
        price,
        asset_price,
        book.rule,
        touched,
    )
    check(found >= 0, f"equity left 64 bits at mark {price} of {book.instruments[symbol].symbol}")
    return [] if found == 0 else [int(row) for row in touched[:found]]


def reprice_asset(book: Book, asset: int) -> list[int]:
    """Revalue all balances in an asset and all positions settled in it; return the rows that need a look."""
    price = book.asset_prices[asset].value
    if price == 0:
        return []
    wallets, count = book.wallets[asset], len(book.accounts)
    touched = scratch(book, count)
    found = reprice_wallets(
        wallets.balances, wallets.values, count, book.state, book.weights[asset], price, book.rule, touched
    )
    check(found >= 0, f"equity left 64 bits at price {price} of {book.assets[asset].name}")
    rows = [int(row) for row in touched[:found]]
    for symbol, settle in enumerate(book.settle):
        if settle == asset:
            rows.extend(reprice_symbol(book, symbol))
    return rows


def reprice_all(book: Book) -> list[int]:
    """Revalue everything, as after a change of parameters; return the rows that need a look."""
    rows: list[int] = []
    for asset in range(len(book.assets)):
        rows.extend(reprice_asset(book, asset))
    return rows


def symbol_rows(book: Book, symbol: int) -> list[int]:
    """Return the rows with a position in a symbol."""
    holders = book.holders[symbol]
    return [int(row) for row in holders.table[: holders.count, ROW]]


def asset_rows(book: Book, asset: int) -> list[int]:
    """Return the rows with a balance in an asset or a position settled in it."""
    rows = [int(row) for row in np.flatnonzero(book.wallets[asset].balances[: len(book.accounts)])]
    for symbol, settle in enumerate(book.settle):
        if settle == asset:
            rows.extend(symbol_rows(book, symbol))
    return rows
