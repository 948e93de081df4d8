"""What it costs to bring marks to a compiled engine from Python, one JSON line after the other.

These are the loops one would write around the engine's single-mark path: read the line with a fast library, look the
symbol up, scale the price exactly to the instrument's steps, call. Nothing else is checked, neither times nor repeated
keys. The caller gives the path, so that all loops, and what they are compared with, run the same code behind it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import orjson

from benchmarks.hot_market import Int64Array, Market, Path
from engine.edges.codec import encode
from engine.tools.market import START_NS
from engine.units import NS_PER_MS, format_scaled, scaled_half_even

# symbol index, price steps
OnMark = Callable[[int, int], object]
Loop = Callable[[Sequence[bytes], Market, OnMark], Int64Array]


def mark_lines(market: Market, path: Path) -> list[bytes]:
    """Return a path as lines of an event log, a millisecond apart."""
    lines = []
    for number, (symbol, price) in enumerate(path.events()):
        text = format_scaled(price, market.price_decimals[symbol])
        ts = START_NS + number * NS_PER_MS
        lines.append(encode({"type": "mark", "symbol": market.names[symbol], "price": text, "ts": ts}))
    return lines


def event_loops() -> dict[str, Loop | str]:
    """Return the loops by what reads the line; in place of one that cannot run here, why."""
    return {"orjson per event": run_orjson, "msgspec per event": try_msgspec()}


def run_orjson(lines: Sequence[bytes], market: Market, on_mark: OnMark) -> Int64Array:
    """Bring each mark to ``on_mark``; return the nanoseconds from each line to the next."""
    symbols = {name: index for index, name in enumerate(market.names)}
    decimals, loads, clock = market.price_decimals, orjson.loads, time.perf_counter_ns
    clocks = [clock()]
    for line in lines:
        body = loads(line)
        if body["type"] == "mark":
            symbol = symbols[body["symbol"]]
            on_mark(symbol, price_steps(body["price"], decimals[symbol]))
        clocks.append(clock())
    return spans(clocks)


def try_msgspec() -> Loop | str:
    """Return the same loop with a decoder of msgspec made for marks, or that msgspec is not installed."""
    try:
        msgspec: Any = import_module("msgspec")
    except ImportError:
        return "msgspec is not installed"
    fields = [("symbol", str), ("price", str), ("ts", int)]
    decoder = msgspec.json.Decoder(msgspec.defstruct("Mark", fields, tag_field="type", tag="mark"))

    def run_msgspec(lines: Sequence[bytes], market: Market, on_mark: OnMark) -> Int64Array:
        symbols = {name: index for index, name in enumerate(market.names)}
        decimals, decode, clock = market.price_decimals, decoder.decode, time.perf_counter_ns
        clocks = [clock()]
        for line in lines:
            mark = decode(line)
            symbol = symbols[mark.symbol]
            on_mark(symbol, price_steps(mark.price, decimals[symbol]))
            clocks.append(clock())
        return spans(clocks)

    return run_msgspec


def spans(clocks: Sequence[int]) -> Int64Array:
    """Return the time from each reading of a clock to the next."""
    return np.array([later - earlier for earlier, later in pairwise(clocks)], dtype=np.int64)


def price_steps(text: str, decimals: int) -> int:
    """Return a plain decimal > 0 in steps of 10**-decimals, half-even where it has more digits; else ValueError."""
    whole, point, fraction = text.partition(".")
    if not (text.isascii() and whole.isdigit() and (fraction.isdigit() if point else True)):
        raise ValueError(f"{text!r} is not a plain decimal")
    if len(fraction) <= decimals:
        return int(whole + fraction.ljust(decimals, "0"))
    return scaled_half_even((int(whole + fraction), len(fraction)), decimals)
