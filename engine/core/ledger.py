"""How money and positions move: the only code that changes a balance.

Every posting has equal legs, so for every asset

    sum of wallets of all rows and ``$`` accounts + sum of costs of open positions (``$clearing``'s included)
        = sum of transfers

exactly, after every posting (``totals``). A position is (size, cost), cost the signed cash paid for what is open:
opening adds the fill's cash to the cost; closing takes the closed share of the cost out and realises it against the
fill's cash. The share is rounded down, and what rounding leaves stays in the position's cost, so that equity is exact
whatever the split. ``$clearing`` takes the other side of every fill and never realises.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.core.book import INSURANCE_ROW, Book, Int64Array
from engine.core.events import BAD_DEBT, CLEARING, FEES
from engine.core.kernels.fills import UNUSUAL, post_fill
from engine.core.kernels.funding import funding_payments_into
from engine.errors import check


@dataclass(frozen=True, slots=True)
class Totals:
    """The two sides of the conservation law for one asset, in units."""

    wallets: int
    transfers: int


def transfer(book: Book, row: int, asset: int, amount: int) -> None:
    """Post a deposit (> 0) or withdrawal (< 0) from outside."""
    book.set_wallet(row, asset, book.wallet(row, asset) + amount)
    book.transfers[asset] += amount


def fill(book: Book, row: int, symbol: int, leg: int, size: int, price: int) -> None:
    """Post a trade of ``size`` (signed) at ``price`` against ``$clearing``.

    A fill that crosses zero closes the old position wholly and opens a new one, each part with its own cash.
    """
    held, _ = book.position(row, symbol, leg)
    parts = [size]
    if held * size < 0 and abs(size) > abs(held):
        parts = [-held, size + held]
    for part in parts:
        cash = fill_cash(book, symbol, part, price)
        trade(book, row, symbol, leg, part, cash)
        clearing = book.clearing[symbol]
        clearing.size -= part
        clearing.cost -= cash


def fill_cash(book: Book, symbol: int, size: int, price: int) -> int:
    """Return the signed cash of a trade in settlement units, rounded down: against the account.

    linear: -size x price (a buyer pays); inverse: +size / price (a long is short the coin's value in contracts).
    """
    instrument = book.instruments[symbol]
    if instrument.is_inverse:
        return size * instrument.value_num // price
    return -size * price * instrument.value_num // instrument.value_den


def trade(book: Book, row: int, symbol: int, leg: int, size: int, cash: int) -> None:
    """Change a position by ``size`` for ``cash``, realising what is closed; must not cross zero."""
    held, cost = book.position(row, symbol, leg)
    if held * size >= 0:
        book.set_position(row, symbol, leg, held + size, cost + cash)
        return
    check(abs(size) <= abs(held), f"a trade of {size} would cross zero from {held}")
    released = cost * abs(size) // abs(held)
    asset = book.settle[symbol]
    book.set_position(row, symbol, leg, held + size, cost - released)
    book.set_wallet(row, asset, book.wallet(row, asset) + cash + released)


def pay_fee(book: Book, row: int, asset: int, amount: int) -> None:
    """Post a trading fee (> 0) or rebate (< 0) between a row and ``$fees``."""
    book.set_wallet(row, asset, book.wallet(row, asset) - amount)
    book.system[FEES][asset] += amount


def try_post_fill(book: Book, row: int, symbol: int, fills: Int64Array, place: int) -> int:
    """Post a usual fill and its fee, as ``fill`` and ``pay_fee`` do; return what ``kernels/fills.py`` made of it.

    UNUSUAL: nothing has changed. ``fills`` and ``place`` as ``post_fill`` takes them.
    """
    done, size, cash, fee = post_fill(book.tables.view, fills, place, row, symbol)
    if done != UNUSUAL:
        book.standings.pop(row, None)
        clearing = book.clearing[symbol]
        clearing.size -= size
        clearing.cost -= cash
        book.system[FEES][book.settle[symbol]] += fee
    return int(done)


def pay_insurance(book: Book, row: int, asset: int, amount: int) -> None:
    """Post ``amount`` from a row to ``$insurance`` (< 0: the fund pays the row)."""
    book.set_wallet(row, asset, book.wallet(row, asset) - amount)
    book.set_wallet(INSURANCE_ROW, asset, book.wallet(INSURANCE_ROW, asset) + amount)


def pay_row(book: Book, source: int, target: int, asset: int, amount: int) -> None:
    """Post ``amount`` from one row to another (a bucket's rest to its cross wallet, a winner's share of a loss)."""
    book.set_wallet(source, asset, book.wallet(source, asset) - amount)
    book.set_wallet(target, asset, book.wallet(target, asset) + amount)


def write_off(book: Book, row: int, asset: int, amount: int) -> None:
    """Post a debt that no pool covered to ``$bad_debt``: the row is freed of it, the hole stays visible."""
    book.set_wallet(row, asset, book.wallet(row, asset) + amount)
    book.system[BAD_DEBT][asset] -= amount


def convert(book: Book, row: int, from_asset: int, from_amount: int, to_asset: int, to_amount: int) -> None:
    """Post a sale of collateral against ``$clearing``."""
    book.set_wallet(row, from_asset, book.wallet(row, from_asset) - from_amount)
    book.system[CLEARING][from_asset] += from_amount
    book.set_wallet(row, to_asset, book.wallet(row, to_asset) + to_amount)
    book.system[CLEARING][to_asset] -= to_amount


def funding_payments(book: Book, symbol: int, rate: int) -> list[tuple[int, int]]:
    """Return (row, amount) of every open position's funding payment; amounts in units, > 0 where the row pays.

    ``rate`` in 1e-12. Payments are rounded against the account.
    """
    payments = np.zeros((book.holders_count(symbol), 2), dtype=np.int64)
    if len(payments):
        funding_payments_into(book.tables.view, symbol, rate, payments)
    return [(row, amount) for row, amount in payments.tolist()]


def fund(book: Book, symbol: int, payments: list[tuple[int, int]]) -> None:
    """Post funding payments against ``$clearing``, which keeps the dust of their roundings."""
    asset = book.settle[symbol]
    for row, amount in payments:
        book.set_wallet(row, asset, book.wallet(row, asset) - amount)
        book.system[CLEARING][asset] += amount


def hand_over(book: Book, row: int, symbol: int, leg: int, size: int, cash: int, taker: int, taker_leg: int) -> None:
    """Move ``size`` (signed, of the row's position) to ``taker`` for ``cash``, the exact cash the row receives.

    The taker's position changes by ``size`` for ``-cash``; where that closes part of what it held (the fund nets, an
    auto-deleveraged winner closes) the closing part takes its share of the cash, rounded down, the rest the remainder.
    """
    trade(book, row, symbol, leg, -size, cash)
    held, _ = book.position(taker, symbol, taker_leg)
    closing = min(abs(size), abs(held)) if held * size < 0 else 0
    direction = 1 if size > 0 else -1
    closing_cash = -cash * closing // abs(size)
    if closing:
        trade(book, taker, symbol, taker_leg, direction * closing, closing_cash)
    if closing < abs(size):
        trade(book, taker, symbol, taker_leg, direction * (abs(size) - closing), -cash - closing_cash)


def load_position(book: Book, row: int, symbol: int, leg: int, size: int, cost: int) -> None:
    """Post a position of a book file; ``$clearing`` takes the other side."""
    trade(book, row, symbol, leg, size, cost)
    clearing = book.clearing[symbol]
    clearing.size -= size
    clearing.cost -= cost


def load_system_balance(book: Book, account: str, asset: int, amount: int) -> None:
    """Post a balance of ``$fees``, ``$clearing`` or ``$bad_debt`` from a book file; counts as a transfer."""
    book.system[account][asset] += amount
    book.transfers[asset] += amount


def load_clearing(book: Book, symbol: int, cost: int) -> None:
    """Set the cost that ``$clearing`` is known to hold of a symbol; the difference counts as a transfer.

    ``$clearing`` never realises, so its cost mirrors all trades that ever were, not only the costs still open.
    """
    clearing = book.clearing[symbol]
    book.transfers[book.settle[symbol]] += cost - clearing.cost
    clearing.cost = cost


def totals(book: Book) -> list[Totals]:
    """Return, per asset, wallets plus costs of all accounts against all transfers; equal unless money was lost.

    A full recount in Python ints, independent of the running sums.
    """
    sums = [
        sum(book.balances(asset).tolist()) + sum(balances[asset] for balances in book.system.values())
        for asset in range(len(book.assets))
    ]
    for symbol, clearing in enumerate(book.clearing):
        costs = sum(book.tables.positions["cost"][book.holder_ids(symbol)].tolist())
        sums[book.settle[symbol]] += costs + clearing.cost
    return [Totals(wallets, transfers) for wallets, transfers in zip(sums, book.transfers, strict=True)]


def check_conservation(book: Book) -> None:
    """Raise InvariantError unless money is conserved in every asset and open interest balances in every symbol."""
    for asset, total in enumerate(totals(book)):
        name = book.assets[asset].name
        check(total.wallets == total.transfers, f"{name}: wallets {total.wallets} != transfers {total.transfers}")
    for symbol, clearing in enumerate(book.clearing):
        open_size = sum(book.tables.positions["size"][book.holder_ids(symbol)].tolist())
        name = book.instruments[symbol].symbol
        check(open_size + clearing.size == 0, f"{name}: open interest off by {open_size}")
