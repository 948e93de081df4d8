"""How a shard's state becomes a book file: sorted, with exact costs and the ``$`` accounts, loadable again."""

from __future__ import annotations

from typing import Any

from engine.core.book import CROSS, LEG_NAMES, Book
from engine.core.events import CLEARING
from engine.core.margin import entry_price
from engine.core.shard import Shard
from engine.units import format_scaled, format_units


def dump_book(shard: Shard) -> dict[str, Any]:
    """Return the shard's book in the form of a book file.

    Beyond what a hand-written book has: ``$`` accounts, the ``cost`` of every position, ``transfers`` (all that came
    from outside, per asset) and ``episodes`` (how many each account and bucket had, the cross row under an empty name:
    liquidation ids go on where they stopped).
    """
    book = shard.book
    names = sorted({*book.accounts, *book.system})
    marks = {
        instrument.symbol: format_scaled(mark.value, instrument.price_decimals)
        for instrument, mark in zip(book.instruments, book.marks, strict=True)
        if mark.value
    }
    prices = {
        asset.name: format_units(price.value)
        for asset, price in zip(book.assets, book.asset_prices, strict=True)
        if price.value
    }
    episodes: dict[str, dict[str, int]] = {}
    for row in sorted(shard.episode_counts, key=lambda row: (book.accounts[row], book.buckets[row])):
        episodes.setdefault(book.accounts[row], {})[book.buckets[row]] = shard.episode_counts[row]
    return {
        "accounts": [dump_system(book, name) if name in book.system else dump_account(book, name) for name in names],
        "marks": dict(sorted(marks.items())),
        "asset_prices": dict(sorted(prices.items())),
        "insurance": {},
        "ts": book.clock or 0,
        "transfers": named_amounts(book, book.transfers),
        "episodes": episodes,
    }


def dump_system(book: Book, name: str) -> dict[str, Any]:
    """Return ``$fees``, ``$clearing`` (with the other side of every position) or ``$bad_debt``."""
    positions = []
    if name == CLEARING:
        for symbol in sorted(range(len(book.instruments)), key=lambda index: book.instruments[index].symbol):
            clearing, instrument = book.clearing[symbol], book.instruments[symbol]
            if clearing.size or clearing.cost or book.holders_count(symbol):
                qty = format_scaled(clearing.size, instrument.size_decimals)
                positions.append({"symbol": instrument.symbol, "qty": qty, "cost": format_units(clearing.cost)})
    return {"account": name, "balances": named_amounts(book, book.system[name]), "positions": positions}


def dump_account(book: Book, name: str) -> dict[str, Any]:
    """Return one account with all its buckets; the cross row of a bucket-only account may not exist."""
    positions: list[dict[str, Any]] = []
    balances: list[int] = []
    buckets = {}
    for row in book.rows_of(name):
        bucket = book.buckets[row]
        if bucket == CROSS:
            balances = [book.wallet(row, asset) for asset in range(len(book.assets))]
            positions += dump_positions(book, row, margin=None)
            continue
        margin = book.wallet(row, book.settle[book.symbol_index[bucket]])
        positions += dump_positions(book, row, margin=margin)
        if margin and not book.positions_of(row):
            buckets[bucket] = format_units(margin)
    entry = {"account": name, "balances": named_amounts(book, balances), "positions": positions}
    return {**entry, "buckets": buckets} if buckets else entry


def dump_positions(book: Book, row: int, *, margin: int | None) -> list[dict[str, Any]]:
    """Return a row's positions; a bucket's margin (settlement units) stands at its first one."""
    entries = []
    for symbol, leg in book.positions_of(row):
        size, cost = book.position(row, symbol, leg)
        instrument = book.instruments[symbol]
        isolated = {} if margin is None else {"isolated": True, "margin": format_units(margin)}
        margin = None if margin is None else 0
        entries.append(
            {
                "symbol": instrument.symbol,
                "qty": format_scaled(size, instrument.size_decimals),
                "entry_price": entry_price(book, symbol, size, cost),
                "cost": format_units(cost),
                "leg": LEG_NAMES[leg],
                **isolated,
            }
        )
    return entries


def named_amounts(book: Book, amounts: list[int]) -> dict[str, str]:
    """Return non-zero amounts by asset name, sorted."""
    pairs = ((book.assets[asset].name, format_units(units)) for asset, units in enumerate(amounts) if units)
    return dict(sorted(pairs))
