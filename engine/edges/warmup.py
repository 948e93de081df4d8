"""How kernels are made ready before the first message: every signature the core uses, compiled and cached.

Not a list of kernels to keep in step with the code: tiny markets are run through the core, and what that calls is what
gets compiled. Where the cache is not filled yet a second process takes the same steps the other way round.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from engine.core.book import CROSS, Book
from engine.core.events import AssetPrice, Event, Fill, Funding, Mark, Message, Origin, SetParams, Transfer
from engine.core.kernels.cache import CACHE_DIR
from engine.core.kernels.lines import split_lines_into
from engine.core.ladders import SurveyOptions
from engine.core.ledger import totals
from engine.core.lines import Lines
from engine.core.machine import Machine
from engine.core.margin import statement
from engine.core.params import Risk, build_asset, build_instrument
from engine.core.shard import Shard
from engine.core.survey import Survey
from engine.core.volatility import Sigmas
from engine.edges.bookfile import load_document
from engine.edges.codec import encode_event
from engine.edges.journal import Position
from engine.edges.line_batch import LineReader
from engine.edges.snapshot import decode_snapshot, encode_snapshot
from engine.edges.views import account_document
from engine.edges.what_if import what_if

# Says, beside the kernels, that all of them are there.
COMPLETE = "complete"
TERMS = {"settle": "USD", "price_tick": "0.1", "lot": "0.001", "tiers": [["0", "0.01", "50"]]}
HOLDER = {
    "account": "a",
    "balances": {"USD": "100"},
    "positions": [{"symbol": "LINEAR", "qty": "1", "entry_price": "100"}],
}


def warm_up(say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Compile every kernel or load it from the cache; return what it took. ``say`` hears of what takes long."""
    started_s = time.perf_counter()
    if is_cold():
        say("compiling the kernels, once for this version: about twenty seconds")
        with other_way_round_beside():
            go_through(STEPS)
    else:
        go_through(STEPS)
    if CACHE_DIR is not None:
        (CACHE_DIR / COMPLETE).touch()
    return {
        "kernels": len(list(CACHE_DIR.rglob("*.nbi"))) if CACHE_DIR is not None else 0,
        "seconds": round(time.perf_counter() - started_s, 2),
        "cache": str(CACHE_DIR) if CACHE_DIR is not None else None,
    }


def is_cold() -> bool:
    """Return whether there is a cache, and it is not filled yet."""
    return CACHE_DIR is not None and not (CACHE_DIR / COMPLETE).exists()


@contextmanager
def other_way_round_beside() -> Iterator[None]:
    """Go through the steps from the last to the first in another process during the block, if there is a second core.

    What either has compiled the other finds in the cache, so they meet wherever that is.
    """
    if (os.cpu_count() or 1) == 1:
        yield
        return
    with subprocess.Popen([sys.executable, "-m", "engine.edges.warmup"], stdout=subprocess.DEVNULL):
        yield


def go_through(steps: Iterable[Callable[[], object]]) -> None:
    """Take each step."""
    for step in steps:
        step()


def trade() -> None:
    """Take messages of every kind, by which nobody comes to harm."""
    apply(
        new_shard(),
        *OPENING,
        Transfer("2", "a", "BTC", (1, 0), 2),
        Fill("2", "a", "INVERSE", "buy", (1, 0), (100, 0), 3),
        Funding("LINEAR", (1, 4), 4),
        AssetPrice("BTC", (99, 0), 5),
    )


def liquidate() -> None:
    """Bring an account down that still has something of its own, and one that has not: others are deleveraged."""
    apply(
        new_shard(),
        *OPENING,
        # The mark of 80.5 leaves b bankrupt, and c and d, who have won, are deleveraged; e still has something.
        Transfer("3", "b", "USD", (2, 0), 3),
        Transfer("4", "c", "USD", (1000, 0), 3),
        Transfer("5", "d", "USD", (1000, 0), 3),
        Transfer("6", "e", "USD", (20, 0), 3),
        Fill("3", "b", "LINEAR", "buy", (1, 0), (100, 0), 3),
        Fill("4", "c", "LINEAR", "sell", (1, 0), (100, 0), 3),
        Fill("5", "d", "LINEAR", "sell", (1, 0), (100, 0), 3),
        Fill("6", "e", "LINEAR", "buy", (1, 0), (100, 0), 3),
        Mark("LINEAR", (805, 1), 6),
        SetParams("policy", "policy", 6, {"margin_call_ratio": "0.7"}),
        Mark("LINEAR", (1, 0), 7),
    )


def read_lines(book: Book | None = None) -> Lines:
    """Read a batch of lines as a log file and as a topic brings them."""
    events = (
        Mark("LINEAR", (101, 0), 2),
        Mark("LINEAR", (102, 0), 3),
        Fill("1", "a", "LINEAR", "buy", (1, 0), (1, 2), 4),
    )
    data = b"".join(encode_event(event) + b"\n" for event in events)
    buffer = np.frombuffer(data, dtype=np.uint8)
    begins, ends = np.zeros(len(events), dtype=np.int64), np.zeros(len(events), dtype=np.int64)
    split_lines_into(buffer, 0, begins, ends)
    return LineReader(book or new_shard().book).read(
        buffer, begins, ends, message=lambda _: None, origin=lambda index: Origin("warmup", -1, index)
    )


def fold_lines() -> None:
    """Take such a batch."""
    shard = held_shard()
    Machine(shard).fold(read_lines(shard.book))


def survey() -> None:
    """Survey a book."""
    Survey(held_shard()).advance(1_000_000)


def state() -> None:
    """State what a row is worth and where it would be liquidated, and what all rows add up to."""
    shard = held_shard()
    statement(shard.book, shard.book.row_index["a", CROSS])
    totals(shard.book)


def keep() -> None:
    """Write a snapshot, and read it."""
    decode_snapshot(encode_snapshot(held_shard(), config_hash="", position=Position()))


def answer() -> None:
    """Answer what the API is asked."""
    shard = held_shard()
    account_document(shard, "a", SurveyOptions(), Sigmas())
    what_if(shard, "a", [{"type": "fill", "symbol": "LINEAR", "side": "buy", "qty": "1", "price": "1"}])


# What stands at the ends has little in common, so two processes seldom compile the same at the same time.
STEPS = (trade, liquidate, fold_lines, keep, state, answer, survey, read_lines)
OPENING = (
    AssetPrice("BTC", (100, 0), 1),
    Mark("LINEAR", (100, 0), 1),
    Mark("INVERSE", (100, 0), 1),
    Transfer("1", "a", "USD", (100, 0), 2),
    Fill("1", "a", "LINEAR", "buy", (1, 0), (100, 0), 3),
)


def apply(shard: Shard, *events: Event) -> None:
    """Bring events to a shard."""
    Machine(shard).apply(Message(Origin("warmup", -1, 0), event) for event in events)


def new_shard() -> Shard:
    """Return a shard of linear contracts, so many that tables of their names grow, and an inverse one."""
    assets = {"USD": build_asset("USD", {"price": "1"}), "BTC": build_asset("BTC", {})}
    linear = ["LINEAR", *(f"LINEAR-{number}" for number in range(2, 20))]
    instruments = {
        **{name: build_instrument(name, TERMS) for name in linear},
        "INVERSE": build_instrument("INVERSE", TERMS | {"kind": "inverse", "settle": "BTC", "lot": "1"}),
    }
    return Shard(Risk(assets=assets, instruments=instruments))


def held_shard() -> Shard:
    """Return such a shard with a position in it."""
    shard = new_shard()
    load_document(shard, {"ts": 1, "marks": {"LINEAR": "100"}, "accounts": [HOLDER]}, "warmup")
    return shard


if __name__ == "__main__":
    go_through(reversed(STEPS))
