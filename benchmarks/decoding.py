"""One line of an event log read three ways: the codec, the standard library with ``Decimal``, ``orjson`` alone.

The last two check nothing: no types, no ranges, no digits, no repeated keys, and (orjson) a float would pass. They
are the floor of what a hand-written reader would pay before its first check.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from random import Random
from typing import Any

import orjson

from engine.edges.codec import decode, encode
from engine.tools.market import START_NS

# Of ten messages eight are marks, as on a venue where a fill comes with every few ticks.
KINDS = ("mark",) * 8 + ("fill", "transfer")
NUMBERS = ("price", "index_price", "qty", "fee", "amount")


def log_lines(count: int) -> list[bytes]:
    """Return ``count`` well-formed lines, the same each time."""
    rng = Random(1)
    return [encode(message(rng, number)) for number in range(count)]


def message(rng: Random, number: int) -> dict[str, Any]:
    """Return one message with numbers of everyday length."""
    ts = START_NS + number * 1_000_000
    kind = KINDS[number % len(KINDS)]
    price = f"{rng.randrange(50_000, 70_000)}.{rng.randrange(10)}"
    account = f"account-{rng.randrange(100_000)}"
    if kind == "mark":
        return {"type": kind, "symbol": "BTCUSDT", "price": price, "ts": ts}
    if kind == "fill":
        qty, fee = f"0.{rng.randrange(1, 1_000):03d}", f"0.{rng.randrange(1, 10_000):04d}"
        names = {"type": kind, "fill_id": f"f{number}", "account": account, "symbol": "BTCUSDT", "side": "buy"}
        return {**names, "qty": qty, "price": price, "fee": fee, "ts": ts}
    amount = str(rng.randrange(1, 10_000))
    return {"type": kind, "transfer_id": f"t{number}", "account": account, "asset": "USDT", "amount": amount, "ts": ts}


def decoders() -> dict[str, Callable[[bytes], object]]:
    """Return what is compared, the engine's first."""
    return {"codec": decode, "json + Decimal": decode_with_decimals, "orjson alone": orjson.loads}


def decode_with_decimals(line: bytes) -> dict[str, Any]:
    """Return a parsed line, its numbers as exact decimals."""
    body: dict[str, Any] = json.loads(line)
    for name in NUMBERS:
        if name in body:
            body[name] = Decimal(body[name])
    return body
