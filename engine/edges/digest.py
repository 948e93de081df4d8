"""Two hashes that say whether two runs were the same: of all outputs in order, and of the state they left."""

from __future__ import annotations

import hashlib
from typing import Any

from engine.core.book import Price
from engine.core.kernels.reprice import EQUITY, FLAGS, MAINTENANCE
from engine.core.shard import Episode, Shard
from engine.edges.book_dump import dump_book
from engine.edges.codec import encode


def state_document(shard: Shard) -> dict[str, Any]:
    """Return everything that can influence a later output, in a canonical order.

    The ids of past events are represented by their number: they are inputs, already covered by the log.
    """
    book = shard.book
    return {
        "book": dump_book(shard),
        "seq": shard.seq,
        "policy_version": book.policy_version,
        "marks": [price_document(price) for price in book.marks],
        "asset_prices": [price_document(price) for price in book.asset_prices],
        "rows": [
            [account, bucket, int(equity), int(maintenance), int(flags)]
            for account, bucket, (equity, maintenance, flags) in sorted(
                zip(
                    book.accounts,
                    book.buckets,
                    book.state[: len(book.accounts), [EQUITY, MAINTENANCE, FLAGS]].tolist(),
                    strict=True,
                )
            )
        ],
        "episodes": [episode_document(shard.episodes[row]) for row in sorted(shard.episodes)],
        "holds": sorted(
            [book.accounts[row], book.buckets[row], hold.reason, hold.symbol or "", hold.since, hold.due]
            for row, hold in shard.holds.items()
        ),
        "forced": sorted([book.accounts[row], book.buckets[row]] for row in shard.forced),
        "flows": [[symbol, list(flow.sent)] for symbol, flow in sorted(shard.flows.items()) if flow.sent],
        "paused": dict(sorted(shard.paused.items())),
        "ids": len(shard.ids.current) + len(shard.ids.previous),
    }


def price_document(price: Price) -> list[Any]:
    """Return a price with what waits for confirmation."""
    waiting = [price.pending, price.pending_ts, price.pending_source, price.pending_since]
    return [price.value, price.ts, price.is_seen, *waiting, sorted(price.doubters)]


def episode_document(episode: Episode) -> dict[str, Any]:
    """Return an episode with its orders in flight."""
    orders = [
        [order.order_id, order.due_ts, order.symbol, order.leg, order.size, order.left, order.asset, order.amount]
        for order in episode.orders.values()
    ]
    return {
        "liquidation_id": episode.liquidation_id,
        "orders_count": episode.orders_count,
        "attempts": episode.attempts,
        "outcome": episode.outcome,
        "paid": [episode.paid_by_insurance, episode.paid_by_adl],
        "orders": orders,
    }


def state_hash(shard: Shard) -> str:
    """Return the SHA-256 of the canonical state document, in hex."""
    return hashlib.sha256(encode(state_document(shard))).hexdigest()
