"""The numbers of a live book as plain lists: what the judge counts with, and compares from message to message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.core.book import Book, Price
from engine.core.shard import Shard

Lists = list[list[int]]


@dataclass(slots=True)
class View:
    """The numbers of a book as plain lists: per symbol its positions, per asset all balances, per row its figures."""

    positions: list[Lists]
    balances: Lists
    equity: list[int]
    maintenance: list[int]
    prices: list[tuple[Any, ...]]
    rest: tuple[Any, ...]

    @classmethod
    def of(cls, shard: Shard) -> View:
        """Return the view of a shard's book as it stands."""
        book, rows = shard.book, len(shard.book.accounts)
        return cls(
            [positions_in(book, symbol) for symbol in range(len(book.instruments))],
            [book.balances(asset).tolist() for asset in range(len(book.assets))],
            [book.equity(row) for row in range(rows)],
            [book.maintenance(row) for row in range(rows)],
            [price_fields(price) for price in (*book.marks, *book.asset_prices)],
            (
                [(clearing.size, clearing.cost) for clearing in book.clearing],
                [list(balances) for balances in book.system.values()],
                list(book.transfers),
                book.clock,
                {row: (hold.reason, hold.symbol, hold.since, hold.due) for row, hold in shard.holds.items()},
                [(row, tuple(episode.orders), episode.attempts) for row, episode in shard.episodes.items()],
                set(shard.forced),
                dict(shard.paused),
            ),
        )


def positions_in(book: Book, symbol: int) -> Lists:
    """Return row, leg, size and cost of each position of a symbol."""
    held = book.tables.positions[book.holder_ids(symbol)]
    fields = held[["leg", "size", "cost"]].tolist()
    return [[row, *position] for row, position in zip(book.holder_rows(symbol).tolist(), fields, strict=True)]


def price_fields(price: Price) -> tuple[Any, ...]:
    """Return all that a price is."""
    waiting = (price.pending, price.pending_ts, price.pending_source, price.pending_since) if price.pending else ()
    return price.value, price.ts, price.is_seen, price.doubters, *waiting
