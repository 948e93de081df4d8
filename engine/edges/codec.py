"""How one JSON line becomes an event and an event one JSON line.

``decode`` never raises: whatever the bytes, it returns an event, a ``Reject`` with a reason of the contract, or None
for a blank line. Two paths lead there, and tests hold them to the same answers:

* strict   stdlib ``json``, which shows every key, float, integer and NaN as it was written. It defines what is right.
* fast     ``orjson``, for lines where it provably loses nothing: as many colons as keys (so flat and without a repeated
           key), no array (so not nested deep). It only accepts; what it would refuse goes to the strict path.
"""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from typing import Any, TypeGuard

import orjson

from engine.core.events import Event, Fill, Mark, Pause, Reject, SetParams
from engine.core.params import IDENTITY_BYTES_MAX
from engine.edges.decode_fields import (
    LAYOUTS,
    LEGS,
    SET_NAMES,
    SIDES,
    Fault,
    count_nans_for_numbers,
    read_event,
)
from engine.units import INT64_MAX, NUMBER_CHARS_MAX, format_number, try_number

LINE_BYTES_MAX = 1_048_576
# A limit of our own, because the parsers' depend on the version and on how deep the caller's stack is already,
# and the same line must get the same answer everywhere. Real messages nest three deep (tiers).
NESTING_MAX = 64
# No field that takes a name takes less; those that take more are left to the strict path.
FAST_NAME_BYTES_MAX = IDENTITY_BYTES_MAX
# As numbers: looking for one byte is three times as fast as looking for a byte string.
ARRAY, COLON = ord("["), ord(":")


def decode(line: bytes) -> Event | Reject | None:
    """Return the event a line says, a ``Reject`` saying why it says none, or None if it is blank."""
    if len(line) <= LINE_BYTES_MAX and ARRAY not in line:
        try:
            body = orjson.loads(line)
        except orjson.JSONDecodeError:
            return decode_strict(line)
        # Every key, at any depth, has its colon: as many colons as distinct top-level keys leaves none repeated.
        if type(body) is dict and line.count(COLON) == len(body):
            event = try_fast(body)
            if event is not None:
                return event
    return decode_strict(line)


def try_fast(body: dict[str, Any]) -> Event | None:
    """Return the event of a parsed line, or None if anything about it is unusual."""
    kind = body.get("type")
    event: Event | None = None
    if kind == "mark":
        event = try_mark(body)
    elif kind == "fill":
        event = try_fill(body)
    if event is not None:
        return event
    outcome = read_event(body)
    # A fault may be orjson's doing: an integer beyond 64 bits comes as a float.
    return None if isinstance(outcome, Fault) else outcome


def try_mark(body: dict[str, Any]) -> Mark | None:
    """Return a mark whose fields are all of the usual form, or None."""
    symbol, raw_price, ts, raw_index = body.get("symbol"), body.get("price"), body.get("ts"), body.get("index_price")
    if not is_name(symbol) or type(ts) is not int or not 0 <= ts <= INT64_MAX or type(raw_price) is not str:
        return None
    price = try_number(raw_price)
    if price is None or price[0] <= 0:
        return None
    if raw_index is None:
        return Mark(symbol, price, ts)
    index_price = try_number(raw_index) if type(raw_index) is str else None
    if index_price is None or index_price[0] <= 0:
        return None
    return Mark(symbol, price, ts, index_price)


def try_fill(body: dict[str, Any]) -> Fill | None:
    """Return a fill whose fields are all of the usual form, or None."""
    get = body.get
    fill_id, account, symbol, ts, order_id = get("fill_id"), get("account"), get("symbol"), get("ts"), get("order_id")
    if not (is_name(fill_id) and is_name(account) and is_name(symbol) and (order_id is None or is_name(order_id))):
        return None
    side, leg, isolated = get("side"), get("leg", "net"), get("isolated", False)
    # Tuples, not sets: the value may be a list, which has no hash.
    if side not in SIDES or leg not in LEGS or type(isolated) is not bool:
        return None
    if type(ts) is not int or not 0 <= ts <= INT64_MAX:
        return None
    raw_qty, raw_price, raw_fee = get("qty"), get("price"), get("fee", "0")
    if not (type(raw_qty) is str and type(raw_price) is str and type(raw_fee) is str):
        return None
    qty, price, fee = try_number(raw_qty), try_number(raw_price), try_number(raw_fee)
    if qty is None or price is None or fee is None or qty[0] <= 0 or price[0] <= 0:
        return None
    return Fill(fill_id, account, symbol, side, qty, price, ts, fee if "fee" in body else None, order_id, leg, isolated)


def is_name(value: Any) -> TypeGuard[str]:
    """Return whether ``value`` is a string that is short enough for any field that takes one, and not empty."""
    if type(value) is not str or not 0 < len(value) <= FAST_NAME_BYTES_MAX:
        return False
    return value.isascii() or len(value.encode()) <= FAST_NAME_BYTES_MAX


def decode_strict(line: bytes) -> Event | Reject | None:
    """Return what ``decode`` returns, by the path that sees everything and names what is wrong."""
    line = line.rstrip(b"\r\n")
    if len(line) > LINE_BYTES_MAX:
        return Reject("too_long", f"{len(line)} bytes, at most {LINE_BYTES_MAX}", line)
    if not line.strip():
        return None
    parsed = parse_strict(line)
    outcome = parsed if isinstance(parsed, Fault) else read_event(parsed)
    return Reject(outcome.reason, outcome.detail, line) if isinstance(outcome, Fault) else outcome


def parse_strict(line: bytes) -> dict[str, Any] | Fault:
    """Return the JSON object of a line, or why it is none. A parser's own words are left out: they change with it."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return Fault("bad_encoding", f"not UTF-8 at byte {error.start}")
    if nesting_of(line) > NESTING_MAX:
        return Fault("bad_json", f"nested deeper than {NESTING_MAX}")
    seen = Seen()
    decoder = json.JSONDecoder(object_pairs_hook=seen.pairs, parse_int=seen.integer, parse_constant=seen.constant)
    try:
        body = decoder.decode(text)
        if "\\u" in text:
            json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return Fault("bad_json", "a string holds half of a surrogate pair")
    except (ValueError, RecursionError):
        return Fault("bad_json", "not JSON")
    if type(body) is not dict:
        return Fault("bad_json", "not an object")
    if seen.constants_count != count_nans_for_numbers(body):
        return Fault("bad_json", "NaN and Infinity are not JSON")
    if seen.repeated_key is not None:
        return Fault("duplicate_key", f"{json.dumps(seen.repeated_key[:40])} is there twice")
    return body


class Seen:
    """What a plain dict would hide about one line: repeated keys, NaN and Infinity, overlong integers."""

    def __init__(self) -> None:
        self.repeated_key: str | None = None
        self.constants_count = 0

    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Return an object's pairs as a dict, noting the first key that comes a second time."""
        body = dict(pairs)
        if len(body) != len(pairs) and self.repeated_key is None:
            keys = set()
            for key, _ in pairs:
                if key in keys:
                    self.repeated_key = key
                    break
                keys.add(key)
        return body

    def constant(self, _word: str) -> float:
        """Return NaN for ``NaN``, ``Infinity`` and ``-Infinity``; no other JSON text yields one."""
        self.constants_count += 1
        return math.nan

    def integer(self, digits: str) -> int | float:
        """Return an integer, or for one longer than any number may be a float, which no field takes."""
        return int(digits) if len(digits) <= NUMBER_CHARS_MAX else math.inf


# A JSON string, also one that the line's end cuts off: it matches at every quote, so the search never starts over.
STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
BRACKET_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in BRACKET_STEPS)


def nesting_of(line: bytes) -> int:
    """Return how deep the brackets of a line nest, or a bound on it where that is shallow enough anyway."""
    count_max = line.count(b"[") + line.count(b"{")
    if count_max <= NESTING_MAX:
        return count_max
    brackets = STRING.sub(b"", line).translate(None, NOT_BRACKETS)
    return max(accumulate(map(BRACKET_STEPS.__getitem__, brackets)), default=0)


def encode(body: dict[str, Any]) -> bytes:
    """Return one JSON line, without its line end, keys in the order of ``body``."""
    return orjson.dumps(body)


def load_json(data: bytes) -> Any:
    """Return a JSON document that ``encode`` wrote; raises ValueError where it is none."""
    return orjson.loads(data)


def encode_event(event: Event) -> bytes:
    """Return the line that decodes to ``event``; optional fields that hold their default are left out."""
    if isinstance(event, SetParams):
        return encode(set_params_body(event))
    kind = ("resume" if event.resume else "pause") if isinstance(event, Pause) else TYPE_NAMES[type(event)]
    body: dict[str, Any] = {"type": kind}
    for name, _, optional, default in LAYOUTS[kind].fields:
        value = getattr(event, name)
        if not optional or value != default:
            body[name] = format_number(value) if type(value) is tuple else value
    return encode(body)


TYPE_NAMES = {layout.build: kind for kind, layout in LAYOUTS.items()}


def set_params_body(event: SetParams) -> dict[str, Any]:
    """Return the message that sets ``event.fields``, its name and time first."""
    kind = f"set_{event.what}"
    name_key = SET_NAMES[kind][1]
    body: dict[str, Any] = {"type": kind} | ({name_key: event.name} if name_key else {}) | {"ts": event.ts}
    return body | {key: writable(raw) for key, raw in event.fields.items()}


def writable(raw: Any) -> Any:
    """Return a raw value such that orjson writes it as it was read; integers beyond 64 bits are passed as text."""
    if type(raw) is int and not -INT64_MAX <= raw <= INT64_MAX:
        return orjson.Fragment(str(raw))
    if type(raw) is dict:
        return {key: writable(child) for key, child in raw.items()}
    return [writable(child) for child in raw] if type(raw) is list else raw
