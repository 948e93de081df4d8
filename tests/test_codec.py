"""Every line gets the answer the contract gives it: the exact event or the one right reason, never an exception."""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter
from itertools import islice
from random import Random
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.events import (
    REJECT_REASONS,
    AssetPrice,
    Conversion,
    Event,
    Fill,
    Funding,
    Mark,
    OrderDone,
    Origin,
    Pause,
    Reject,
    SetParams,
    Transfer,
)
from engine.core.rejects import reject_fields
from engine.edges.codec import decode, decode_strict, encode, encode_event
from engine.units import Number
from tests.malformed import KINDS, MACHINE_KINDS, NOT_DECIMALS, malformed_lines

MIB = 1_048_576
TS = 1_722_816_000_000_000_000
ABSENT = object()

MARK = {"type": "mark", "symbol": "BTCUSDT", "price": "60000.10", "ts": TS}
ASSET_PRICE = {"type": "asset_price", "asset": "USDT", "price": "0.9998", "ts": TS}
FUNDING = {"type": "funding", "symbol": "BTCUSDT", "rate": "-0.0001", "ts": TS}
FILL = {
    "type": "fill",
    "fill_id": "f1",
    "account": "a",
    "symbol": "BTCUSDT",
    "side": "sell",
    "qty": "0.5",
    "price": "60000",
    "ts": TS,
}
CONVERSION = {
    "type": "conversion",
    "conversion_id": "c1",
    "account": "a",
    "from_asset": "BTC",
    "from_amount": "0.1",
    "to_asset": "USDT",
    "to_amount": "5990",
    "ts": TS,
}
ORDER_DONE = {"type": "order_done", "order_id": "a/1/1", "account": "a", "status": "filled", "ts": TS}
TRANSFER = {"type": "transfer", "transfer_id": "t1", "account": "a", "asset": "USDT", "amount": "-10", "ts": TS}
PAUSE = {"type": "pause", "scope": "all", "ts": TS}
SET_POLICY = {"type": "set_policy", "ts": TS, "target_buffer": "0.05"}
SET_INSTRUMENT = {"type": "set_instrument", "symbol": "BTCUSDT", "ts": TS, "tiers": [["0", "0.004", 125]]}
BODIES = (
    MARK,
    ASSET_PRICE,
    FUNDING,
    FILL,
    CONVERSION,
    ORDER_DONE,
    TRANSFER,
    PAUSE,
    PAUSE | {"type": "resume"},
    SET_POLICY,
    SET_INSTRUMENT,
    {"type": "set_asset", "asset": "USDT", "ts": TS, "price": None},
)


def line_of(body: dict[str, Any], **changes: Any) -> bytes:
    """Return ``body`` as a line with ``changes`` made; ABSENT takes a field away."""
    return json.dumps({key: value for key, value in (body | changes).items() if value is not ABSENT}).encode()


def padded(size_bytes: int) -> bytes:
    """Return a good mark of exactly ``size_bytes``, filled up with an ignored field."""
    line = line_of(MARK, note="")
    return line[:-2] + b"x" * (size_bytes - len(line)) + b'"}'


def nested(depth: int) -> bytes:
    """Return a good mark whose ignored field makes it ``depth`` brackets deep, its own included."""
    return line_of(MARK)[:-1] + b',"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


NOT_TEXTS: tuple[Any, ...] = (None, 1, 1.5, True, [], ["mark"], {})
NOT_NUMBERS: tuple[Any, ...] = (None, True, False, [], ["1"], {}, {"value": "1"})

REFUSED: list[tuple[str, bytes]] = [
    ("bad_encoding", b'{"type":"mark\xff"}'),
    ("bad_encoding", b"\xff"),
    ("bad_encoding", b'{"x":"\xed\xa0\x80"}'),
    ("bad_encoding", b'{"x":"\xc0\xaf"}'),
    ("bad_encoding", line_of(MARK)[:-1] + b',"x":"\xc3"}'),
    ("too_long", padded(MIB + 1)),
    ("too_long", b"\xff" * (MIB + 1)),
    ("too_long", b" " * (MIB + 1)),
    ("bad_json", b"{"),
    ("bad_json", b"mark"),
    ("bad_json", b"[]"),
    ("bad_json", b"null"),
    ("bad_json", b'"mark"'),
    ("bad_json", b"1.5"),
    ("bad_json", b"{} {}"),
    ("bad_json", b"{'type':'mark'}"),
    ("bad_json", b'{"type":"mark",}'),
    ("bad_json", b'{"x":"\t"}'),
    ("bad_json", b'{"x":"\\x41"}'),
    ("bad_json", b"\xef\xbb\xbf" + line_of(MARK)),
    ("bad_json", line_of(MARK)[:-1]),
    ("bad_json", line_of(MARK).replace(b'"60000.10"', b"+1")),
    ("bad_json", line_of(MARK).replace(b'"60000.10"', b".5")),
    ("bad_json", line_of(MARK).replace(b'"60000.10"', b"5.")),
    ("bad_json", line_of(MARK).replace(b'"60000.10"', b"01")),
    ("bad_json", line_of(MARK, x=float("nan"))),
    ("bad_json", line_of(MARK, x=[-float("inf")])),
    ("bad_json", line_of(MARK, price=["NaN"]).replace(b'"NaN"', b"NaN")),
    ("bad_json", line_of(MARK, symbol=float("inf"))),
    ("bad_json", b'{"price":NaN}'),
    ("bad_json", b'{"type":"set_policy","ts":1,"reason":NaN}'),
    ("bad_json", b'[{"a":1,"a":1}]'),
    ("bad_json", nested(65)),
    ("bad_json", nested(20_000)),
    ("bad_json", b'{"a":' * 20_000),
    ("bad_json", line_of(MARK, symbol="\ud800")),
    ("bad_json", line_of(MARK, x=["\udc00"])),
    ("bad_json", line_of(MARK)[:-1] + b',"\\udfff":1}'),
    ("duplicate_key", b'{"type":"mark","type":"mark"}'),
    ("duplicate_key", line_of(MARK)[:-1] + b',"price":"60000.10"}'),
    ("duplicate_key", line_of(MARK)[:-1] + b',"x":1,"x":2}'),
    ("duplicate_key", line_of(MARK)[:-1] + b',"x":{"a":1,"a":2}}'),
    ("duplicate_key", line_of(MARK)[:-1] + b',"x":[[{"a":{"b":1,"b":2}}]]}'),
    ("duplicate_key", line_of(MARK)[:-1] + b',"pri\\u0063e":"1"}'),
    ("missing_field", b"{}"),
    ("missing_field", line_of(MARK, type=ABSENT)),
    *(("bad_type", line_of(MARK, type=kind)) for kind in NOT_TEXTS),
    *(("unknown_type", line_of(MARK, type=kind)) for kind in ("", "Mark", "mark ", "trade", "set_", "x" * 10_000)),
    *(("missing_field", line_of(body, **{key: ABSENT})) for body in BODIES for key in ("ts",)),
    *(("missing_field", line_of(FILL, **{key: ABSENT})) for key in FILL if key != "type"),
    *(("bad_type", line_of(FILL, **{key: None})) for key in FILL if key != "type"),
    *(("bad_type", line_of(FILL, **{key: []})) for key in (*FILL, "fee", "order_id", "leg", "isolated")),
    *(("missing_field", line_of(CONVERSION, **{key: ABSENT})) for key in CONVERSION),
    *(("missing_field", line_of(TRANSFER, **{key: ABSENT})) for key in TRANSFER),
    *(("missing_field", line_of(ORDER_DONE, **{key: ABSENT})) for key in ORDER_DONE),
    ("missing_field", line_of(PAUSE, scope=ABSENT)),
    ("missing_field", line_of(SET_INSTRUMENT, symbol=ABSENT)),
    *(("bad_type", line_of(MARK, price=wrong)) for wrong in NOT_NUMBERS),
    *(("bad_type", line_of(MARK, index_price=wrong)) for wrong in NOT_NUMBERS if wrong is not None),
    *(("bad_type", line_of(MARK, ts=wrong)) for wrong in (None, "1", str(TS), True, [TS])),
    *(("bad_type", line_of(FILL, isolated=wrong)) for wrong in ("true", 1, 0, "")),
    ("bad_type", line_of(FILL, order_id=5)),
    ("bad_type", line_of(TRANSFER, reason=5)),
    ("bad_type", line_of(ASSET_PRICE, source=True)),
    ("bad_type", line_of(SET_INSTRUMENT, symbol=5)),
    *(
        ("bad_number", line_of(MARK, price=wrong))
        for wrong in (60000.1, 1.0, 0.0, -1.5, 1e300, float("nan"), float("inf"))
    ),
    *(
        ("bad_number", line_of(MARK).replace(b'"60000.10"', wrong))
        for wrong in (b"1e5", b"1E+2", b"0.5", b"1e999", b"-Infinity")
    ),
    *(("bad_number", line_of(TRANSFER, amount=wrong)) for wrong in NOT_DECIMALS),
    *(
        ("bad_number", line_of(TRANSFER, amount=wrong))
        for wrong in ("", " ", " 1", "1 ", "1\n", "1\x00", "9" * 65, 10**64)
    ),
    *(("bad_number", line_of(MARK, index_price=wrong)) for wrong in ("", 1.5, "1e5")),
    *(("bad_number", line_of(FILL, fee=wrong)) for wrong in ("", 0.1, float("nan"))),
    *(("bad_number", line_of(MARK, ts=wrong)) for wrong in (1.0, 1.5, 1e18, float("nan"), 10**64)),
    ("bad_number", line_of(SET_POLICY, target_buffer=0.05)),
    ("bad_number", line_of(SET_POLICY, target_buffer=float("nan"))),
    ("bad_number", line_of(SET_INSTRUMENT, tiers=[["0", 0.004, 125]])),
    ("bad_number", line_of(SET_INSTRUMENT, x={"a": [float("inf")]})),
    ("surplus_digits", line_of(FUNDING, rate="0.0000000000001")),
    ("surplus_digits", line_of(FUNDING, rate="-1.1234567890123")),
    *(("out_of_range", line_of(MARK, ts=wrong)) for wrong in (-1, 2**63, 2**64, 10**30)),
    *(("out_of_range", line_of(MARK, price=wrong)) for wrong in ("0", "-1", "-0", "0.000", 0, -1)),
    *(("out_of_range", line_of(MARK, index_price=wrong)) for wrong in ("0", "-1")),
    *(("out_of_range", line_of(ASSET_PRICE, price=wrong)) for wrong in ("0", "-1")),
    *(("out_of_range", line_of(FILL, qty=wrong)) for wrong in ("0", "-1", 0)),
    *(("out_of_range", line_of(FILL, price=wrong)) for wrong in ("0", "-1", -(10**30))),
    *(("out_of_range", line_of(TRANSFER, amount=wrong)) for wrong in ("0", "-0.0", 0)),
    *(("out_of_range", line_of(CONVERSION, from_amount=wrong)) for wrong in ("0", "-1")),
    *(("out_of_range", line_of(CONVERSION, to_amount=wrong)) for wrong in ("0", "-1")),
    *(("out_of_range", line_of(FILL, side=wrong)) for wrong in ("", "BUY", "long")),
    *(("out_of_range", line_of(FILL, leg=wrong)) for wrong in ("", "Long", "both")),
    *(("out_of_range", line_of(ORDER_DONE, status=wrong)) for wrong in ("", "done", "FILLED")),
    *(("out_of_range", line_of(MARK, symbol=wrong)) for wrong in ("", "x" * 65, "é" * 33, "😀" * 17, "x" * 100_000)),
    *(("out_of_range", line_of(FILL, **{key: "x" * 65})) for key in ("fill_id", "account", "symbol")),
    *(("out_of_range", line_of(FILL, order_id=wrong)) for wrong in ("", "x" * 257)),
    ("out_of_range", line_of(TRANSFER, reason="x" * 257)),
    ("out_of_range", line_of(TRANSFER, symbol="")),
    ("out_of_range", line_of(ASSET_PRICE, source="é" * 129)),
    ("out_of_range", line_of(PAUSE, scope="")),
    ("out_of_range", line_of(SET_INSTRUMENT, symbol="x" * 65)),
    # The first bad field in the contract's order decides, whatever stands behind it or first in the line.
    ("missing_field", line_of({"ts": "late", "price": 1.5} | MARK, symbol=ABSENT)),
    ("bad_number", line_of({"ts": "late"} | MARK, price=1.5, ts="late")),
    ("missing_field", line_of(FUNDING, rate="0.0000000000001", ts=ABSENT)),
    ("out_of_range", line_of(FILL, side="up", qty=1.5, price=None)),
]


@pytest.mark.parametrize(("reason", "line"), REFUSED, ids=lambda value: str(value)[:60])
def test_line_is_refused_for_the_one_right_reason(reason: str, line: bytes) -> None:
    refused = decode(line)
    assert isinstance(refused, Reject)
    assert (refused.reason, refused.payload) == (reason, line)
    assert 0 < len(refused.detail) < 200
    assert refused == decode_strict(line)


def test_every_reason_that_needs_no_book_is_in_the_table() -> None:
    needs_book = {
        "unknown_symbol",
        "unknown_asset",
        "reserved_account",
        "future_ts",
        "overflow",
        "bad_bucket",
        "bad_leg",
    }
    assert {reason for reason, _ in REFUSED} == set(REJECT_REASONS) - needs_book


ACCEPTED: list[tuple[bytes, Event]] = [
    (line_of(MARK), Mark("BTCUSDT", (600001, 1), TS)),
    (line_of(MARK, index_price="59999"), Mark("BTCUSDT", (600001, 1), TS, (59999, 0))),
    (line_of(MARK, index_price=59999), Mark("BTCUSDT", (600001, 1), TS, (59999, 0))),
    (line_of(MARK, index_price=None), Mark("BTCUSDT", (600001, 1), TS)),
    (line_of(MARK, price=60000), Mark("BTCUSDT", (60000, 0), TS)),
    (line_of(MARK, price=10**20), Mark("BTCUSDT", (10**20, 0), TS)),
    (line_of(MARK, price=10**63), Mark("BTCUSDT", (10**63, 0), TS)),
    (line_of(MARK, price="9" * 64), Mark("BTCUSDT", (10**64 - 1, 0), TS)),
    (line_of(MARK, ts=0), Mark("BTCUSDT", (600001, 1), 0)),
    (line_of(MARK, ts=2**63 - 1), Mark("BTCUSDT", (600001, 1), 2**63 - 1)),
    (line_of(MARK).replace(str(TS).encode(), b"-0"), Mark("BTCUSDT", (600001, 1), 0)),
    (line_of(MARK, symbol="x" * 64), Mark("x" * 64, (600001, 1), TS)),
    (line_of(MARK, symbol="😀" * 16), Mark("😀" * 16, (600001, 1), TS)),
    (line_of(MARK, symbol='a:"b\\\n'), Mark('a:"b\\\n', (600001, 1), TS)),
    (line_of(MARK, x=1.5, y=[1e300, {"a": None}], z=10**100), Mark("BTCUSDT", (600001, 1), TS)),
    (line_of(MARK)[:-1] + b',"x":1e999}', Mark("BTCUSDT", (600001, 1), TS)),
    (b" \t" + line_of(MARK) + b" \r\n", Mark("BTCUSDT", (600001, 1), TS)),
    (padded(MIB), Mark("BTCUSDT", (600001, 1), TS)),
    (padded(MIB) + b"\r\n", Mark("BTCUSDT", (600001, 1), TS)),
    (nested(64), Mark("BTCUSDT", (600001, 1), TS)),
    (line_of(MARK, x="[" * 5000), Mark("BTCUSDT", (600001, 1), TS)),
    (line_of(ASSET_PRICE), AssetPrice("USDT", (9998, 4), TS)),
    (line_of(ASSET_PRICE, source="é" * 128), AssetPrice("USDT", (9998, 4), TS, "é" * 128)),
    (line_of(FUNDING), Funding("BTCUSDT", (-1, 4), TS)),
    (line_of(FUNDING, rate="0.0000000000010"), Funding("BTCUSDT", (1, 12), TS)),
    (line_of(FUNDING, rate="0"), Funding("BTCUSDT", (0, 0), TS)),
    (line_of(FILL), Fill("f1", "a", "BTCUSDT", "sell", (5, 1), (60000, 0), TS)),
    (
        line_of(FILL, fee=None, order_id=None, leg=None, isolated=None),
        Fill("f1", "a", "BTCUSDT", "sell", (5, 1), (60000, 0), TS),
    ),
    (
        line_of(FILL, fee="-0.10", order_id="x" * 256, leg="short", isolated=True),
        Fill("f1", "a", "BTCUSDT", "sell", (5, 1), (60000, 0), TS, (-1, 1), "x" * 256, "short", True),
    ),
    (line_of(FILL, fee="0", isolated=False), Fill("f1", "a", "BTCUSDT", "sell", (5, 1), (60000, 0), TS, (0, 0))),
    (line_of(FILL, qty=2, price=3, fee=-1), Fill("f1", "a", "BTCUSDT", "sell", (2, 0), (3, 0), TS, (-1, 0))),
    (line_of(CONVERSION), Conversion("c1", "a", "BTC", (1, 1), "USDT", (5990, 0), TS)),
    (line_of(ORDER_DONE), OrderDone("a/1/1", "a", "filled", TS)),
    (line_of(TRANSFER, reason="", symbol="BTCUSDT"), Transfer("t1", "a", "USDT", (-10, 0), TS, "", "BTCUSDT")),
    (line_of(PAUSE), Pause("all", False, TS)),
    (line_of(PAUSE, type="resume", reason="calm", scope="BTCUSDT"), Pause("BTCUSDT", True, TS, "calm")),
    (line_of(SET_POLICY), SetParams("policy", "policy", TS, {"target_buffer": "0.05"})),
    (
        line_of(SET_INSTRUMENT, reason="quarterly", shard=1, seq=2),
        SetParams("instrument", "BTCUSDT", TS, {"tiers": [["0", "0.004", 125]]}),
    ),
    (
        b'{"type":"set_asset","asset":"X","ts":1,"decimals":6,"price":null,"symbol":"kept","big":100000000000000000000}',
        SetParams("asset", "X", 1, {"decimals": 6, "price": None, "symbol": "kept", "big": 10**20}),
    ),
]


@pytest.mark.parametrize(("line", "event"), ACCEPTED, ids=lambda value: str(value)[:60])
def test_line_says_exactly_this_event(line: bytes, event: Event) -> None:
    # By their repr, because True == 1 == 1.0.
    assert repr(decode(line)) == repr(decode_strict(line)) == repr(event)


@pytest.mark.parametrize("line", [b"", b" ", b"\r", b"\n", b"\r\n", b" \t \r\n", b" " * MIB])
def test_blank_line_is_nothing(line: bytes) -> None:
    assert decode(line) is None


def test_line_end_is_no_part_of_what_was_refused() -> None:
    assert decode(b"{\r\n") == decode(b"{\r") == decode(b"{")


def test_trailing_zeros_do_not_count_and_thirty_digits_survive() -> None:
    assert decode(line_of(MARK, price="60000.10")) == decode(line_of(MARK, price="60000.1"))
    assert decode(line_of(MARK, price="007.0")) == decode(line_of(MARK, price=7))
    assert decode(line_of(MARK, price="123456789012345.678901234567891")) == Mark(
        "BTCUSDT", (123456789012345678901234567891, 15), TS
    )


def test_answer_does_not_depend_on_how_deep_the_caller_is() -> None:
    lines = [nested(64), nested(65), line_of(SET_POLICY, x=json.loads("[" * 60 + "]" * 60)), line_of(MARK)]

    def decoded_below(frames_count: int) -> list[str]:
        return decoded_below(frames_count - 1) if frames_count else [repr(decode(line)) for line in lines]

    assert decoded_below(500) == decoded_below(0)


def shortest(mantissa: int, places: int) -> Number:
    """Return mantissa / 10**places as decoding gives it, without trailing zeros."""
    while places and mantissa % 10 == 0:
        mantissa, places = mantissa // 10, places - 1
    return mantissa, places


names = st.text(min_size=1, max_size=16)
numbers = st.builds(shortest, st.integers(-(10**30), 10**30), st.integers(0, 20))
positives = numbers.filter(lambda number: number[0] > 0)
times = st.integers(0, 2**63 - 1)
remarks = st.none() | st.text(max_size=64)
order_ids = st.text(min_size=1, max_size=64)
raw_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=6,
)
raw_fields = st.dictionaries(
    st.text(max_size=8).filter(lambda key: key not in ("type", "ts", "reason", "shard", "seq", "symbol", "asset")),
    raw_values,
    max_size=4,
)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Mark, names, positives, times, st.none() | positives),
    st.builds(AssetPrice, names, positives, times, remarks),
    st.builds(Funding, names, st.builds(shortest, st.integers(), st.integers(0, 12)), times),
    st.builds(
        Fill,
        names,
        names,
        names,
        st.sampled_from(("buy", "sell")),
        positives,
        positives,
        times,
        st.none() | numbers,
        st.none() | order_ids,
        st.sampled_from(("net", "long", "short")),
        st.booleans(),
    ),
    st.builds(Conversion, names, names, names, positives, names, positives, times, st.none() | order_ids),
    st.builds(OrderDone, order_ids, names, st.sampled_from(("filled", "cancelled", "expired", "rejected")), times),
    st.builds(
        Transfer, names, names, names, numbers.filter(lambda number: number[0] != 0), times, remarks, st.none() | names
    ),
    st.builds(Pause, names, st.booleans(), times, remarks),
    st.builds(SetParams, st.sampled_from(("instrument", "asset")), names, times, raw_fields),
    st.builds(SetParams, st.just("policy"), st.just("policy"), times, raw_fields),
)


@given(events)
def test_event_survives_the_wire(event: Event) -> None:
    line = encode_event(event)
    assert b"\n" not in line
    assert repr(decode(line)) == repr(decode_strict(line)) == repr(event)


def test_every_event_class_is_in_the_round_trip() -> None:
    assert {type(decode(line_of(body))) for body in BODIES} == set(get_args(Event))
    for body in BODIES:
        event = decode(line_of(body))
        assert event is not None
        assert not isinstance(event, Reject)
        assert decode(encode_event(event)) == event


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode()))
def test_random_bytes_get_an_answer_and_both_paths_the_same(line: bytes) -> None:
    assert repr(decode(line)) == repr(decode_strict(line))


PIECES = (
    *(bytes([byte]) for byte in b'"\\{}[]:, 0-+.e\x00\t\r\xff'),
    *(b"1e5", b"1.5", b"100000000000000000000", b"NaN", b"Infinity", b"null", b"true", b"[]", b"{}"),
    *(b"\\u0061", b"\\ud800", b"\xc3\xa9"),
    *(b',"x":1.5', b',"x":{"ts":1}', b',"price":"1"', b',"ts":1', b',"qty":2', b',"x":[{"a":1,"a":2}]'),
)
SWAPPED: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, 10**20, 2**63, 2**64, -(2**63) - 1, float("nan")),
    *("", "1", "1e5", "0", "NaN", "a:b", "[", "buy", "net", "x" * 65, "é" * 40),
    *([], {}, [1], [0.5], {"a": 1}, {"a": [1e5]}),
)


def mutated(random: Random) -> bytes:
    """Return a good line with its values swapped, its keys changed or doubled, its bytes flipped, cut or padded."""
    body: dict[str, Any] = dict(random.choice(BODIES))
    for _ in range(random.choice((0, 0, 1, 2))):
        body[random.choice([*body, "fee", "leg", "isolated", "order_id", "index_price", "x"])] = random.choice(SWAPPED)
    items = list(body.items())
    if random.random() < 0.2:
        items.insert(random.randrange(len(items) + 1), random.choice(items))
    random.shuffle(items)
    separator = random.choice((":", ": "))
    pairs = (
        json.dumps(key) + separator + json.dumps(value, ensure_ascii=random.random() < 0.5) for key, value in items
    )
    line = bytearray(("{" + ",".join(pairs) + "}").encode())
    for _ in range(random.choice((0, 0, 0, 1, 1, 2, 5))):
        at = random.randrange(len(line) + 1)
        if random.random() < 0.5:
            line[at:at] = random.choice(PIECES)
        elif random.random() < 0.5:
            del line[at : at + random.choice((1, 1, 2, 8))]
        else:
            line[at : at + 1] = bytes([random.randrange(256)])
    return bytes(line)


def holds_float(value: object) -> bool:
    """Return whether a float hides anywhere in a value."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, float) or any(map(holds_float, children))


@pytest.mark.parametrize("seed", range(4))
def test_fast_and_strict_path_agree_on_mutated_lines_and_let_no_float_through(seed: int) -> None:
    random = Random(seed)
    outcomes: Counter[str] = Counter()
    for _ in range(5000):
        line = mutated(random)
        event = decode(line)
        assert repr(event) == repr(decode_strict(line)), line
        outcomes[event.reason if isinstance(event, Reject) else type(event).__name__] += 1
        if not isinstance(event, Reject) and event is not None:
            assert not any(holds_float(getattr(event, name)) for name in event.__slots__), line
    # The mutations reach what they are meant to: each event class and each reason a short line can get.
    reachable = {reason for reason, _ in REFUSED} - {"too_long", "surplus_digits"}
    assert set(outcomes) >= reachable | {kind.__name__ for kind in get_args(Event)}
    assert sum(outcomes[kind.__name__] for kind in get_args(Event)) > 1000


def test_malformed_lines_are_refused_for_the_reason_they_promise() -> None:
    lines_of: dict[str, set[bytes]] = {}
    for kind, line, reason in islice(malformed_lines(), 6000):
        lines_of.setdefault(kind, set()).add(line)
        event = decode(line)
        if kind in MACHINE_KINDS:
            assert event is not None, line
            assert not isinstance(event, Reject), line
        else:
            assert isinstance(event, Reject), line
            assert event.reason == reason, line
    assert len(lines_of) == len(KINDS) > 20
    assert all(len(lines) > 1 for kind, lines in lines_of.items() if kind != "too_long")


def test_malformed_lines_repeat_with_their_seed_and_stop_at_the_kinds_asked_for() -> None:
    first = list(islice(malformed_lines(20), 100))
    assert first == list(islice(malformed_lines(20), 100))
    assert first != list(islice(malformed_lines(20, seed=1), 100))
    assert len({kind for kind, _, _ in first}) == 20
    assert MACHINE_KINDS & {kind for kind, _, _ in first}


def test_encoded_body_is_one_line_in_the_order_given() -> None:
    assert encode({"type": "x", "b": "1\n", "a": [1, None, True]}) == b'{"type":"x","b":"1\\n","a":[1,null,true]}'


TOPIC = Origin("fills", 3, 42)


def test_reject_says_topic_partition_offset_or_file_and_line() -> None:
    assert reject_fields("bad_json", "not JSON", b"{", TOPIC) == {
        "reason": "bad_json",
        "detail": "not JSON",
        "topic": "fills",
        "partition": 3,
        "offset": 42,
        "payload": "{",
    }
    from_file = reject_fields("bad_json", "not JSON", b"{", Origin("day.jsonl", -1, 7))
    assert list(from_file) == ["reason", "detail", "file", "line", "payload"]
    assert (from_file["file"], from_file["line"]) == ("day.jsonl", 7)


@pytest.mark.parametrize("payload", [b"", b"x" * 4096, "é".encode() * 2048])
def test_reject_keeps_up_to_four_kib_of_text_as_it_is(payload: bytes) -> None:
    fields = reject_fields("bad_json", "", payload, TOPIC)
    assert fields["payload"].encode() == payload
    assert "payload_base64" not in fields


@pytest.mark.parametrize("payload", [b"x" * 4097, "é".encode() * 2049, b"\xff", b"\xff" * 5000])
def test_reject_keeps_the_first_four_kib_of_anything_else_in_base64(payload: bytes) -> None:
    fields = reject_fields("bad_encoding", "", payload, TOPIC)
    assert b64decode(fields["payload_base64"]) == payload[:4096]
    assert fields["payload_bytes"] == len(payload)
    assert "payload" not in fields
    assert json.loads(encode(fields)) == fields
