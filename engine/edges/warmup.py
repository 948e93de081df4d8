"""How kernels are made ready before the first message: every signature the core uses, compiled and cached."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from engine.core.book import CROSS
from engine.core.events import AssetPrice, Event, Fill, Funding, Mark, Message, Origin, Transfer
from engine.core.kernels.compile import CACHE_DIR
from engine.core.kernels.lines import split_lines_into
from engine.core.machine import Machine
from engine.core.margin import statement
from engine.core.params import Risk, build_asset, build_instrument
from engine.core.shard import Shard
from engine.core.survey import Survey
from engine.edges.codec import encode_event
from engine.edges.line_batch import LineReader

_TIERS = [["0", "0.01", "50"]]
_TERMS = {"settle": "USD", "price_tick": "0.1", "lot": "0.001", "tiers": _TIERS}


def follow(shard: Shard) -> None:
    """Take a batch of lines as a log file and as a topic brings them."""
    data = b"".join(encode_event(Mark("LINEAR", (price, 0), 6 + price)) + b"\n" for price in (1, 2))
    buffer = np.frombuffer(data, dtype=np.uint8)
    begins, ends = np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)
    split_lines_into(buffer, 0, begins, ends)
    lines = LineReader(shard.book).read(
        buffer, begins, ends, message=lambda _: None, origin=lambda index: Origin("warmup", -1, index)
    )
    Machine(shard).fold(lines)


def warm_up() -> dict[str, Any]:
    """Run a tiny market through the whole core, which compiles every kernel; return what it took.

    Not a list of kernels to keep in step with the code: what the core calls is what gets compiled.
    """
    started_s = time.perf_counter()
    assets = {"USD": build_asset("USD", {"price": "1"}), "BTC": build_asset("BTC", {})}
    instruments = {
        "LINEAR": build_instrument("LINEAR", _TERMS),
        "INVERSE": build_instrument("INVERSE", _TERMS | {"kind": "inverse", "settle": "BTC", "lot": "1"}),
    }
    shard = Shard(Risk(assets=assets, instruments=instruments))
    origin = Origin("warmup", -1, 0)
    events: list[Event] = [
        AssetPrice("BTC", (100, 0), 1),
        Mark("LINEAR", (100, 0), 1),
        Mark("INVERSE", (100, 0), 1),
        Transfer("1", "a", "USD", (100, 0), 2),
        Transfer("2", "a", "BTC", (1, 0), 2),
        Fill("1", "a", "LINEAR", "buy", (1, 0), (100, 0), 3),
        Fill("2", "a", "INVERSE", "buy", (1, 0), (100, 0), 3),
        # The last mark leaves b bankrupt, and c and d, who have won, are deleveraged.
        Transfer("3", "b", "USD", (2, 0), 3),
        Transfer("4", "c", "USD", (1000, 0), 3),
        Transfer("5", "d", "USD", (1000, 0), 3),
        Fill("3", "b", "LINEAR", "buy", (1, 0), (100, 0), 3),
        Fill("4", "c", "LINEAR", "sell", (1, 0), (100, 0), 3),
        Fill("5", "d", "LINEAR", "sell", (1, 0), (100, 0), 3),
        Funding("LINEAR", (1, 4), 4),
        AssetPrice("BTC", (99, 0), 5),
        Mark("LINEAR", (1, 0), 6),
    ]
    Machine(shard).apply(Message(origin, event) for event in events)
    statement(shard.book, shard.book.row_index["a", CROSS])
    Survey(shard).advance(1_000_000)
    follow(shard)
    return {
        "kernels": len(list(CACHE_DIR.rglob("*.nbi"))) if CACHE_DIR is not None else 0,
        "seconds": round(time.perf_counter() - started_s, 2),
        "cache": str(CACHE_DIR) if CACHE_DIR is not None else None,
    }
