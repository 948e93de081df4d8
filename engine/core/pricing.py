"""How new prices reach the accounts: one kernel call per symbol or asset, and the rows that then need a look."""

from __future__ import annotations

import numpy as np

from engine.core.book import Book, Int64Array
from engine.core.kernels.reprice import ROW, reprice_holders, reprice_wallets
from engine.errors import InvariantError
from engine.units import POSITION_UNITS_MAX, UNIT

# No sum that a kernel forms may be larger: int64 ends a little further on.
INT64_BOUND = 9 * 10**18


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


def try_reprice_symbol(book: Book, symbol: int) -> list[int] | None:
    """Revalue all positions of a symbol at its mark; return the rows that need a look (a row may occur twice).

    None if a row's equity would leave int64: some positions are then revalued and some not, and the caller must put
    the old mark back in force.
    """
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
    return None if found < 0 else touched[:found].tolist()


def try_reprice_asset(book: Book, asset: int) -> list[int] | None:
    """Revalue all balances in an asset and all positions settled in it; return the rows that need a look, or None."""
    price = book.asset_prices[asset].value
    if price == 0:
        return []
    wallets, count = book.wallets[asset], len(book.accounts)
    touched = scratch(book, count)
    found = reprice_wallets(
        wallets.balances, wallets.values, count, book.state, book.weights[asset], price, book.rule, touched
    )
    if found < 0:
        return None
    rows: list[int] = touched[:found].tolist()
    for symbol, settle in enumerate(book.settle):
        if settle == asset:
            more = try_reprice_symbol(book, symbol)
            if more is None:
                return None
            rows += more
    return rows


def reprice_asset(book: Book, asset: int) -> list[int]:
    """Revalue what depends on an asset's price, which must not leave int64; see ``try_reprice_asset``."""
    rows = try_reprice_asset(book, asset)
    if rows is None:
        raise InvariantError(f"equity left 64 bits at a price of {book.assets[asset].name}")
    return rows


def try_put_mark(book: Book, symbol: int, value: int, ts: int) -> list[int] | None:
    """Put a mark in force and revalue its holders; return the rows that need a look.

    None, and nothing is changed, where an account's equity would leave int64; ``mark_overflows`` must be False.
    """
    before = book.marks[symbol].copy()
    book.set_mark(symbol, value, ts, is_seen=True)
    rows = try_reprice_symbol(book, symbol)
    if rows is None:
        book.restore_mark(symbol, before)
    return rows


def try_put_asset_price(book: Book, asset: int, value: int, ts: int) -> list[int] | None:
    """Put an asset price in force and revalue what depends on it; twin of ``try_put_mark``."""
    before = book.asset_prices[asset].copy()
    book.set_asset_price(asset, value, ts, is_seen=True)
    rows = try_reprice_asset(book, asset)
    if rows is None:
        book.restore_asset_price(asset, before)
    return rows


def mark_overflows(book: Book, symbol: int, mark: int, asset_price: int) -> bool:
    """Return whether a symbol's largest position, PnL and all, would leave int64 at these prices."""
    holders = book.holders[symbol]
    largest = symbol_notional(book, symbol, holders.size_max, mark) + holders.cost_max
    return mark > POSITION_UNITS_MAX or largest * max(asset_price, UNIT) // UNIT > INT64_BOUND


def asset_price_overflows(book: Book, asset: int, price: int) -> bool:
    """Return whether the largest balance or position that depends on an asset's price would leave int64."""
    balances = book.wallets[asset].balances[: len(book.accounts)]
    largest = max(int(balances.max()), -int(balances.min()))
    if price > POSITION_UNITS_MAX or largest * price // UNIT > INT64_BOUND:
        return True
    return any(
        settle == asset and book.marks[symbol].value and mark_overflows(book, symbol, book.marks[symbol].value, price)
        for symbol, settle in enumerate(book.settle)
    )


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
