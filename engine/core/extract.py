"""A few rows of a shard as a shard of its own, on which messages can be tried without touching the real one.

The extract holds everything that a step reads and that is not about other accounts: all parameters and prices with
what waits to be confirmed, the fund, and of the rows asked for their positions, balances, flags, episodes with orders
in flight, holds and timers. So the machine does on it what it would do on the shard itself, except where it looks for
others: winners to be deleveraged, accounts that share a loss, orders of others that use up a flow budget.

Its cost grows with the symbols there are and with what the rows hold, never with the accounts of the shard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from engine.core.book import INSURANCE_ROW, Book
from engine.core.events import INSURANCE
from engine.core.pacing import Flow
from engine.core.params import Risk
from engine.core.shard import Episode, Shard


def account_extract(shard: Shard, account: str) -> Shard:
    """Return a shard that holds the fund and all rows of one account; a shard without the account gives none of it."""
    return extract(shard, sorted({*shard.book.rows_of(account)} - {INSURANCE_ROW}))


def extract(shard: Shard, rows: Sequence[int]) -> Shard:
    """Return a shard that holds the fund and these rows, in this order; the ids of past messages stay behind."""
    book = shard.book
    copied = Shard(Risk(book.policy, {}, {}), number=shard.number)
    copied.book = copy_market(book)
    places = {INSURANCE_ROW: INSURANCE_ROW}
    for row in rows:
        places[row] = copied.book.open_row(book.accounts[row], book.buckets[row])
    for row, place in places.items():
        copy_row(book, row, copied.book, place)
    copied.seq, copied.origin, copied.future = shard.seq, shard.origin, shard.future
    copied.paused = dict(shard.paused)
    copied.flows.update({symbol: Flow(deque(flow.sent), flow.total) for symbol, flow in shard.flows.items()})
    copy_episodes(shard, copied, places)
    return copied


def copy_market(book: Book) -> Book:
    """Return a book with the same parameters, prices and postings of the engine's own accounts, and with no rows."""
    copied = Book(Risk(book.policy, {}, {}))
    copied.policy_version, copied.clock = book.policy_version, book.clock
    copied.instruments, copied.symbol_index = list(book.instruments), dict(book.symbol_index)
    copied.specs, copied.tiers, copied.settle = list(book.specs), list(book.tiers), list(book.settle)
    copied.assets, copied.asset_index = list(book.assets), dict(book.asset_index)
    copied.weights = list(book.weights)
    copied.marks = [replace(mark) for mark in book.marks]
    copied.asset_prices = [replace(price) for price in book.asset_prices]
    copied.waiting = set(book.waiting)
    copied.clearing = [replace(clearing) for clearing in book.clearing]
    copied.system = {name: list(balances) for name, balances in book.system.items()}
    copied.transfers = list(book.transfers)
    copied.is_scanned = book.is_scanned
    copied.tables.take_parameters(book.tables)
    return copied


def copy_row(book: Book, row: int, copied: Book, place: int) -> None:
    """Give a row of the copy what a row of the book holds."""
    for asset in range(len(book.assets)):
        balance = book.wallet(row, asset)
        if balance:
            copied.set_wallet(place, asset, balance)
    for symbol, leg in book.positions_of(row):
        copied.set_position(place, symbol, leg, *book.position(row, symbol, leg))
    copied.set_flag(place, book.flags(row), is_set=True)
    if row in book.emptied:
        copied.emptied.add(place)


def copy_episodes(shard: Shard, copied: Shard, places: dict[int, int]) -> None:
    """Give the rows of the copy, at ``places``, the liquidations, holds and timers that they have."""
    for row, place in places.items():
        if row in shard.episodes:
            copied.episodes[place] = episode = copy_episode(shard.episodes[row], place)
            names = {(shard.book.accounts[row], order_id): place for order_id in episode.orders}
            copied.order_rows.update(names)
        if row in shard.holds:
            copied.holds[place] = replace(shard.holds[row])
        if row in shard.episode_counts:
            copied.episode_counts[place] = shard.episode_counts[row]
        if row in shard.last_orders:
            copied.last_orders[place] = shard.last_orders[row]
    for source, target in (
        (shard.forced, copied.forced),
        (shard.dirty, copied.dirty),
        (shard.stuck, copied.stuck),
    ):
        target.update(places[row] for row in places.keys() & source)
    # What waits for a price has no account. What is left of a heap in its order is one again.
    own = {"", *copied.book.accounts} - {INSURANCE}
    copied.timers = sorted(timer for timer in shard.timers if timer[1] in own)


def copy_episode(episode: Episode, row: int) -> Episode:
    """Return a liquidation as it stands, of a row under its number in the copy."""
    orders = {order_id: replace(order, row=row) for order_id, order in episode.orders.items()}
    return replace(episode, row=row, orders=orders, closed=list(episode.closed), remaining=dict(episode.remaining))
