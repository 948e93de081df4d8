"""How new prices reach the accounts: one kernel call per symbol or asset, and the rows that then need a look."""

from __future__ import annotations

import numpy as np

from engine.core.book import Book, Int64Array
from engine.core.kernels.limits import next_vast_row, worth_bound
from engine.core.kernels.tables import NONE, PRICE
from engine.core.kernels.triggers import (
    all_holders_into,
    all_owners_into,
    concerned_by_asset_into,
    concerned_rows_into,
    next_unreached_row,
    share_stale,
)
from engine.core.tables import Array
from engine.errors import InvariantError, check
from engine.units import INT64_MAX, POSITION_UNITS_MAX, UNIT, format_units

# No sum that a kernel forms may be larger: int64 ends a little further on.
INT64_BOUND = 9 * 10**18


def symbol_notional(book: Book, symbol: int, size: int, price: int) -> int:
    """Return the notional of ``size`` >= 0 at ``price`` in settlement units, rounded up, as an unbounded int."""
    instrument = book.instruments[symbol]
    if instrument.is_inverse:
        return -(-size * instrument.value_num // price)
    return -(-size * price * instrument.value_num // instrument.value_den)


# Which prices can be borne.


def mark_overflows(book: Book, symbol: int, mark: int, asset_price: int) -> bool:
    """Return whether a symbol's largest position, PnL and all, would leave int64 at these prices."""
    return mark > POSITION_UNITS_MAX or position_worth_max(book, symbol, mark, asset_price) > INT64_BOUND


def asset_price_overflows(book: Book, asset: int, price: int) -> bool:
    """Return whether the largest balance or position that depends on an asset's price would leave int64."""
    balances = book.balances(asset)
    largest = max(int(balances.max()), -int(balances.min()))
    if price > POSITION_UNITS_MAX or largest * price // UNIT > INT64_BOUND:
        return True
    return any(
        book.marks[symbol].value and mark_overflows(book, symbol, book.marks[symbol].value, price)
        for symbol in book.settled_in(asset)
    )


def position_worth_max(book: Book, symbol: int, mark: int, asset_price: int) -> int:
    """Return a bound on what any position of a symbol is worth at these prices, in valuation units."""
    size, cost = book.largest(symbol)
    return (symbol_notional(book, symbol, size, mark) + cost) * max(asset_price, UNIT) // UNIT


def row_overflows(book: Book) -> bool:
    """Return whether some row's equity leaves int64 at the prices the tables hold.

    Books in which the largest positions and balances together come near to that are rare, and only in those every row
    is looked at.
    """
    if worth_bound(book.tables.view) <= INT64_BOUND:
        return False
    row = next_vast_row(book.tables.view, 0, len(book.accounts))
    while row != NONE:
        if not -INT64_MAX <= exact_equity(book, row) <= INT64_MAX:
            return True
        row = next_vast_row(book.tables.view, row + 1, len(book.accounts))
    return False


def exact_equity(book: Book, row: int) -> int:
    """Return a row's equity at the prices the tables hold, as an unbounded int."""
    marks, prices = book.tables.symbols[:, PRICE], book.tables.assets[:, PRICE]
    total = 0
    for asset, price in enumerate(prices.tolist()):
        if price:
            total += book.balance_value(asset, book.wallet(row, asset), price)
    for symbol, leg in book.positions_of(row):
        mark, price = int(marks[symbol]), int(prices[book.settle[symbol]])
        if mark and price:
            total += book.position_values(symbol, *book.position(row, symbol, leg), mark, price)[0]
    return total


# Putting them in force.


def try_put_mark(book: Book, symbol: int, value: int, ts: int) -> list[int] | None:
    """Put a mark in force; return the rows that need a look (a row may occur twice).

    None, and nothing is changed, where an account's equity would leave int64; ``mark_overflows`` must be False.
    """
    if not put_where_borne(book, book.tables.symbols[symbol], value):
        return None
    is_new = book.set_mark(symbol, value, ts, is_seen=True)
    return symbol_rows_in_need(book, symbol, look_at_all=is_new)


def try_put_asset_price(book: Book, asset: int, value: int, ts: int) -> list[int] | None:
    """Put an asset price in force; twin of ``try_put_mark``."""
    if not put_where_borne(book, book.tables.assets[asset], value):
        return None
    is_new = book.set_asset_price(asset, value, ts, is_seen=True)
    return asset_rows_in_need(book, asset, look_at_all=is_new)


def put_where_borne(book: Book, entry: Int64Array, value: int) -> bool:
    """Put a price in its line of the tables where every row can bear it; return whether it stands there now."""
    share_stale(book.tables.view)
    before = int(entry[PRICE])
    entry[PRICE] = value
    if row_overflows(book):
        entry[PRICE] = before
        return False
    return True


def symbol_rows_in_need(book: Book, symbol: int, *, look_at_all: bool) -> list[int]:
    """Return the holders of a symbol that need a look: by the index, or each of them looked at."""
    view, found_rows = book.tables.view, book.tables.found_rows
    if look_at_all or book.is_scanned:
        return rows_of(found_rows, all_holders_into(view, symbol, found_rows))
    rows = rows_of(found_rows, concerned_rows_into(view, symbol, found_rows))
    if book.is_verified:
        looked_at = rows_of(found_rows, all_holders_into(view, symbol, found_rows))
        check_same_rows(book, rows, looked_at, book.instruments[symbol].symbol)
    return rows


def asset_rows_in_need(book: Book, asset: int, *, look_at_all: bool) -> list[int]:
    """Return the rows with a stake in an asset that need a look: by the index, or each of them looked at."""
    view, found_rows, count = book.tables.view, book.tables.found_rows, len(book.accounts)
    if not (look_at_all or book.is_scanned):
        rows = rows_of(found_rows, concerned_by_asset_into(view, asset, found_rows))
        if book.is_verified:
            looked_at = asset_rows_in_need(book, asset, look_at_all=True)
            check_same_rows(book, rows, looked_at, book.assets[asset].name)
        return rows
    rows = rows_of(found_rows, all_owners_into(view, asset, count, found_rows))
    for symbol in book.settled_in(asset):
        rows += symbol_rows_in_need(book, symbol, look_at_all=True)
    return rows


def check_same_rows(book: Book, found: list[int], looked_at: list[int], name: str) -> None:
    """Raise InvariantError naming the first row that the index and a look at everybody do not agree on."""
    for row in sorted(set(found) ^ set(looked_at)):
        whose = "only a look at all holders" if row in set(looked_at) else "only the trigger index"
        check(False, f"price of {name}: {whose} finds {standing_text(book, row)}")


def check_reached(book: Book) -> None:
    """Raise InvariantError naming the first row that needs a look though no price reaches a key of it."""
    row = next_unreached_row(book.tables.view, 0, len(book.accounts))
    if row != NONE:
        raise InvariantError(f"out of every key's reach: {standing_text(book, row)}")


def standing_text(book: Book, row: int) -> str:
    """Return a row's name and figures."""
    name = book.accounts[row] + (f" ({book.buckets[row]})" if book.buckets[row] else "")
    equity, maintenance, _ = book.standing(row)
    return f"{name}: equity {format_units(equity)}, maintenance margin {format_units(maintenance)}"


def rows_of(found_rows: Array, found: int) -> list[int]:
    """Return what a kernel has found."""
    rows: list[int] = found_rows[:found].tolist()
    return rows


def reprice_all(book: Book) -> list[int]:
    """Look at every row with a stake in a priced asset, as after a change of parameters; return those in need.

    Raises InvariantError if an equity leaves int64.
    """
    check(not row_overflows(book), "an equity left 64 bits after a change of parameters")
    book.set_all_stale()
    rows: list[int] = []
    for asset, price in enumerate(book.asset_prices):
        if price.value:
            rows += asset_rows_in_need(book, asset, look_at_all=True)
    return rows


def symbol_rows(book: Book, symbol: int) -> list[int]:
    """Return the rows with a position in a symbol."""
    rows: list[int] = book.holder_rows(symbol).tolist()
    return rows


def asset_rows(book: Book, asset: int) -> list[int]:
    """Return the rows with a balance in an asset or a position settled in it."""
    rows: list[int] = np.flatnonzero(book.balances(asset)).tolist()
    for symbol in book.settled_in(asset):
        rows += symbol_rows(book, symbol)
    return rows
