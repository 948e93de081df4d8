"""Two hashes that say whether two runs were the same: of all outputs in order, and of the state they left."""

from __future__ import annotations

import hashlib
from typing import Any

from engine.core.shard import Episode, Order, Shard
from engine.edges.book_dump import dump_book
from engine.edges.codec import encode
from engine.edges.snapshot import pack


def state_document(shard: Shard) -> dict[str, Any]:
    """Return everything that can influence a later output, in a canonical order, but for what a refusal leaves.

    The ids of past events are represented by their number: they are inputs, already covered by the log.
    """
    book = shard.book
    return {
        "book": dump_book(shard),
        "shard": shard.number,
        "seq": shard.seq,
        "clock": book.clock,
        "policy_version": book.policy_version,
        "policy": pack(book.policy),
        "assets": pack(book.assets),
        "instruments": pack(book.instruments),
        "marks": pack(book.marks),
        "asset_prices": pack(book.asset_prices),
        # The largest position there ever was bounds the marks that are accepted.
        "bounds": [book.largest(symbol) for symbol in range(len(book.instruments))],
        "rows": [
            [account, bucket, *book.standing(row)[:2], book.flags(row)]
            for account, bucket, row in sorted(zip(book.accounts, book.buckets, range(len(book.accounts)), strict=True))
        ],
        "emptied": names_of(shard, book.emptied),
        "episodes": [episode_document(shard.episodes[row]) for row in sorted(shard.episodes)],
        "last_orders": sorted(
            [book.accounts[row], book.buckets[row], count] for row, count in shard.last_orders.items()
        ),
        "timers": sorted(shard.timers),
        "holds": sorted(
            [book.accounts[row], book.buckets[row], hold.reason, hold.symbol or "", hold.since, hold.due]
            for row, hold in shard.holds.items()
        ),
        "forced": names_of(shard, shard.forced),
        "stuck": names_of(shard, shard.stuck),
        "flows": [[symbol, pack(flow.sent)] for symbol, flow in sorted(shard.flows.items()) if flow.sent],
        "paused": dict(sorted(shard.paused.items())),
        "ids": [len(shard.ids.previous), len(shard.ids.current)],
    }


def names_of(shard: Shard, rows: set[int]) -> list[list[str]]:
    """Return rows by account and bucket."""
    return sorted([shard.book.accounts[row], shard.book.buckets[row]] for row in rows)


def episode_document(episode: Episode) -> dict[str, Any]:
    """Return an episode with its orders in flight."""
    return {**document_of(episode), "orders": [document_of(order) for order in episode.orders.values()]}


def document_of(record: Episode | Order) -> dict[str, Any]:
    """Return a record by its fields, but for its row: ids name the account, and rows may be in another order."""
    document: dict[str, Any] = pack(record)
    del document["row"]
    return document


def state_hash(shard: Shard) -> str:
    """Return the SHA-256 of the canonical state document, in hex.

    With it goes the one thing that a refusal leaves behind: the message that was too far ahead of the clock, since a
    second one is believed.
    """
    return hashlib.sha256(encode({**state_document(shard), "future": shard.future})).hexdigest()
