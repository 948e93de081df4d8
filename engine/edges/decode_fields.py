"""Which fields each input message has, in the contract's order, and what each may hold.

``read_event`` turns one parsed JSON object into an event, or into the ``Fault`` of its first bad field. The tables
below are README, "Input messages", written down once: decoding reads them, and encoding writes by them.

Floats never pass: a parser hands over a JSON float as ``float``, whose value nobody looks at, an integer as ``int``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

from engine.core.events import (
    AssetPrice,
    Conversion,
    Event,
    Fill,
    Funding,
    Mark,
    OrderDone,
    Pause,
    SetParams,
    Transfer,
)
from engine.core.params import IDENTITY_BYTES_MAX
from engine.units import FUNDING_DECIMALS, INT64_MAX, NUMBER_CHARS_MAX, Number, try_number

# An order id is built from names: ``<account>/<symbol>/<episode>/<order>`` outgrows the 64 bytes of one name.
TEXT_BYTES_MAX = 256

SIDES = ("buy", "sell")
LEGS = ("net", "long", "short")
ORDER_STATUSES = ("filled", "cancelled", "expired", "rejected")


class Fault(NamedTuple):
    """Why a message is refused: a reason of the contract's closed list, and what was expected instead of what."""

    reason: str
    detail: str


Reader = Callable[[str, Any], Any]


class Field(NamedTuple):
    """One field of a message. An optional one that is absent or null takes the event's own default."""

    name: str
    read: Reader
    optional: bool = False
    default: Any = None


class Layout(NamedTuple):
    """One message type: what builds its event, and its fields in the order they are checked."""

    build: Callable[..., Event]
    fields: tuple[Field, ...]


def read_event(body: dict[str, Any]) -> Event | Fault:
    """Return the event a parsed message says, or the fault of its first bad field."""
    kind = body.get("type")
    if type(kind) is not str:
        return wrong_type("type", kind, "a string") if "type" in body else missing("type")
    if kind in SET_NAMES:
        return read_set_params(body, kind)
    layout = LAYOUTS.get(kind)
    if layout is None:
        return Fault("unknown_type", f"type: {shown(kind)} is not a message type")
    values = read_fields(body, layout.fields)
    if isinstance(values, Fault):
        return values
    # The one limit of digits that no table can change, so it needs no book.
    if kind == "funding" and values["rate"][1] > FUNDING_DECIMALS:
        return Fault("surplus_digits", f"rate: {values['rate'][1]} decimals, at most {FUNDING_DECIMALS}")
    return layout.build(**values)


def read_fields(body: dict[str, Any], fields: tuple[Field, ...]) -> dict[str, Any] | Fault:
    """Return the values of ``fields`` by name, or the first fault; what is not in ``fields`` is not looked at."""
    values = {}
    for name, read, optional, _ in fields:
        raw = body.get(name)
        if raw is None and optional:
            continue
        if raw is None and name not in body:
            return missing(name)
        value = read(name, raw)
        if isinstance(value, Fault):
            return value
        values[name] = value
    return values


# Keys around a message, not of it; everything else in a ``set_*`` is a parameter.
ENVELOPE_KEYS = frozenset(("type", "ts", "reason", "shard", "seq"))

# type -> (what is set, the field that names it)
SET_NAMES: dict[str, tuple[Literal["policy", "instrument", "asset"], str | None]] = {
    "set_policy": ("policy", None),
    "set_instrument": ("instrument", "symbol"),
    "set_asset": ("asset", "asset"),
}


def read_set_params(body: dict[str, Any], kind: str) -> SetParams | Fault:
    """Return a ``set_*`` message with its parameters still raw; only floats are refused here.

    Which keys exist and what they may hold is for ``core/params.py``, which the risk file goes through as well.
    """
    what, name_key = SET_NAMES[kind]
    values = read_fields(body, NAMED_FIELDS[name_key])
    if isinstance(values, Fault):
        return values
    fields = parameters(body, name_key)
    for key, raw in fields.items():
        if count_floats(raw):
            return Fault("bad_number", f"{key}: a number must be a decimal string or an integer, not a JSON float")
    return SetParams(what, values[name_key] if name_key else what, values["ts"], fields)


def parameters(body: dict[str, Any], name_key: str | None) -> dict[str, Any]:
    """Return the keys of a ``set_*`` message that set something, in the order they came."""
    return {key: raw for key, raw in body.items() if key not in ENVELOPE_KEYS and key != name_key}


def count_floats(raw: Any, *, only_nan: bool = False) -> int:
    """Return how many floats (or NaNs) a JSON value holds, at any depth the parser let through."""
    if type(raw) is float:
        return int(not only_nan or raw != raw)
    children = raw.values() if type(raw) is dict else raw if type(raw) is list else ()
    return sum(count_floats(child, only_nan=only_nan) for child in children)


def count_nans_for_numbers(body: dict[str, Any]) -> int:
    """Return how many NaNs stand where the message has a number: those are bad numbers, all others bad JSON."""
    kind = body.get("type")
    if type(kind) is not str:
        return 0
    if kind in SET_NAMES:
        raws = [body.get("ts"), *parameters(body, SET_NAMES[kind][1]).values()]
        return sum(count_floats(raw, only_nan=True) for raw in raws)
    fields = LAYOUTS[kind].fields if kind in LAYOUTS else ()
    numbers = (body.get(field.name) for field in fields if field.read in NUMBER_READERS)
    return sum(type(raw) is float and raw != raw for raw in numbers)


def read_number(name: str, raw: Any) -> Number | Fault:
    """Return an exact decimal."""
    kind = type(raw)
    if kind is int:
        return raw, 0
    if kind is not str:
        return float_fault(name) if kind is float else wrong_type(name, raw, "a decimal string or an integer")
    number = try_number(raw)
    return number if number is not None else Fault("bad_number", f"{name}: {shown(raw)} is not a plain decimal")


def read_positive(name: str, raw: Any) -> Number | Fault:
    """Return an exact decimal > 0."""
    number = read_number(name, raw)
    if isinstance(number, Fault) or number[0] > 0:
        return number
    return Fault("out_of_range", f"{name}: must be above 0")


def read_nonzero(name: str, raw: Any) -> Number | Fault:
    """Return an exact decimal that is not 0."""
    number = read_number(name, raw)
    if isinstance(number, Fault) or number[0] != 0:
        return number
    return Fault("out_of_range", f"{name}: must not be 0")


def read_ts(name: str, raw: Any) -> int | Fault:
    """Return a time: a JSON integer, because a string or a rounded float would be somebody's unit mistake."""
    if type(raw) is not int:
        return float_fault(name) if type(raw) is float else wrong_type(name, raw, "an integer of nanoseconds")
    return raw if 0 <= raw <= INT64_MAX else Fault("out_of_range", f"{name}: must be 0 to 2**63 - 1")


NUMBER_READERS = (read_number, read_positive, read_nonzero, read_ts)


def read_flag(name: str, raw: Any) -> bool | Fault:
    """Return true or false."""
    return raw if type(raw) is bool else wrong_type(name, raw, "true or false")


def text(bytes_max: int, *, bytes_min: int = 1) -> Reader:
    """Return a reader of strings of ``bytes_min`` to ``bytes_max`` bytes of UTF-8."""

    def read(name: str, raw: Any) -> str | Fault:
        if type(raw) is not str:
            return wrong_type(name, raw, "a string")
        size_bytes = len(raw.encode())
        if bytes_min <= size_bytes <= bytes_max:
            return raw
        return Fault("out_of_range", f"{name}: {size_bytes} bytes, must be {bytes_min} to {bytes_max}")

    return read


def word(*allowed: str) -> Reader:
    """Return a reader of one of a few words."""

    def read(name: str, raw: Any) -> str | Fault:
        if type(raw) is not str:
            return wrong_type(name, raw, "a string")
        return raw if raw in allowed else Fault("out_of_range", f"{name}: must be one of {', '.join(allowed)}")

    return read


def missing(name: str) -> Fault:
    """Return the fault of an absent field."""
    return Fault("missing_field", f"{name}: required")


def wrong_type(name: str, raw: Any, expected: str) -> Fault:
    """Return the fault of a value of another JSON type."""
    return Fault("bad_type", f"{name}: must be {expected}, was {JSON_NAMES[type(raw)]}")


def float_fault(name: str) -> Fault:
    """Return the fault of a JSON float, or of an integer with more digits than a number may have."""
    return Fault(
        "bad_number",
        f"{name}: must be a decimal string or an integer of at most {NUMBER_CHARS_MAX} characters, not a JSON float",
    )


def shown(value: str) -> str:
    """Return the start of a string in JSON's escapes: ASCII, the same on every version, short enough for a log line."""
    return json.dumps(value[:40])


JSON_NAMES = {
    bool: "a boolean",
    dict: "an object",
    float: "a float",
    int: "an integer",
    list: "an array",
    str: "a string",
    type(None): "null",
}

identity = text(IDENTITY_BYTES_MAX)
order_identity = text(TEXT_BYTES_MAX)
# Said by people for people: an empty one says nothing, which is no ground to refuse money.
remark = text(TEXT_BYTES_MAX, bytes_min=0)

NAMED_FIELDS: dict[str | None, tuple[Field, ...]] = {
    None: (Field("ts", read_ts),),
    "symbol": (Field("symbol", identity), Field("ts", read_ts)),
    "asset": (Field("asset", identity), Field("ts", read_ts)),
}

PAUSE_FIELDS = (Field("scope", identity), Field("reason", remark, optional=True), Field("ts", read_ts))

LAYOUTS: dict[str, Layout] = {
    "mark": Layout(
        Mark,
        (
            Field("symbol", identity),
            Field("price", read_positive),
            Field("ts", read_ts),
            Field("index_price", read_positive, optional=True),
        ),
    ),
    "asset_price": Layout(
        AssetPrice,
        (
            Field("asset", identity),
            Field("price", read_positive),
            Field("ts", read_ts),
            Field("source", remark, optional=True),
        ),
    ),
    "funding": Layout(
        Funding,
        (Field("symbol", identity), Field("rate", read_number), Field("ts", read_ts)),
    ),
    "fill": Layout(
        Fill,
        (
            Field("fill_id", identity),
            Field("account", identity),
            Field("symbol", identity),
            Field("side", word(*SIDES)),
            Field("qty", read_positive),
            Field("price", read_positive),
            Field("ts", read_ts),
            Field("fee", read_number, optional=True),
            Field("order_id", order_identity, optional=True),
            Field("leg", word(*LEGS), optional=True, default="net"),
            Field("isolated", read_flag, optional=True, default=False),
        ),
    ),
    "conversion": Layout(
        Conversion,
        (
            Field("conversion_id", identity),
            Field("account", identity),
            Field("from_asset", identity),
            Field("from_amount", read_positive),
            Field("to_asset", identity),
            Field("to_amount", read_positive),
            Field("ts", read_ts),
            Field("order_id", order_identity, optional=True),
        ),
    ),
    "order_done": Layout(
        OrderDone,
        (
            Field("order_id", order_identity),
            Field("account", identity),
            Field("status", word(*ORDER_STATUSES)),
            Field("ts", read_ts),
        ),
    ),
    "transfer": Layout(
        Transfer,
        (
            Field("transfer_id", identity),
            Field("account", identity),
            Field("asset", identity),
            Field("amount", read_nonzero),
            Field("ts", read_ts),
            Field("reason", remark, optional=True),
            Field("symbol", identity, optional=True),
        ),
    ),
    "pause": Layout(partial(Pause, resume=False), PAUSE_FIELDS),
    "resume": Layout(partial(Pause, resume=True), PAUSE_FIELDS),
}
