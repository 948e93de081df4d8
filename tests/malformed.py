"""Lines that must be refused: an endless, seeded stream of more than twenty kinds, with the reason each must get.

Most are refused by decoding alone. Those named in ``MACHINE_KINDS`` are well-formed and refused by what the book
knows: they assume that ``BTCUSDT`` and ``USDT`` are set, that the clock stands at ``CLOCK_NS`` or little later, and
(``future_ts``) that ``max_future_s`` is set to less than a year.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count, islice
from random import Random
from typing import Any

SEED = 20_240_805
CLOCK_NS = 1_722_816_000_000_000_000
YEAR_NS = 365 * 86_400 * 1_000_000_000
LINE_BYTES_MAX = 1_048_576
# A line over the limit is a megabyte; one in this many rounds keeps a long stream small.
TOO_LONG_ROUNDS = 1000

Body = dict[str, Any]


def good_body(random: Random) -> Body:
    """Return a well-formed message of one of the four commonest types."""
    kind = random.choice(("mark", "fill", "transfer", "order_done"))
    ts, account = CLOCK_NS + random.randrange(10**9), f"acct-{random.randrange(1000):06}"
    if kind == "mark":
        return {"type": "mark", "symbol": "BTCUSDT", "price": f"{random.randrange(1, 10**5)}.5", "ts": ts}
    if kind == "fill":
        return fill_body(random)
    if kind == "transfer":
        return transfer_body(random)
    order = f"{account}/1/{random.randrange(1, 9)}"
    return {"type": "order_done", "order_id": order, "account": account, "status": "filled", "ts": ts}


def fill_body(random: Random, **changes: object) -> Body:
    """Return a well-formed fill with ``changes`` made to it."""
    body = {
        "type": "fill",
        "fill_id": f"f{random.randrange(10**9)}",
        "account": f"acct-{random.randrange(1000):06}",
        "symbol": "BTCUSDT",
        "side": random.choice(("buy", "sell")),
        "qty": "0.001",
        "price": f"{random.randrange(50_000, 70_000)}",
        "ts": CLOCK_NS + random.randrange(10**9),
    }
    return body | changes


def transfer_body(random: Random, **changes: object) -> Body:
    """Return a well-formed transfer with ``changes`` made to it."""
    body = {
        "type": "transfer",
        "transfer_id": f"t{random.randrange(10**9)}",
        "account": f"acct-{random.randrange(1000):06}",
        "asset": "USDT",
        "amount": f"{random.randrange(1, 10**6)}",
        "ts": CLOCK_NS + random.randrange(10**9),
    }
    return body | changes


def as_line(body: object) -> bytes:
    """Return a message as a line, spelled with or without spaces by its own length, non-ASCII as it is."""
    text = json.dumps(body, ensure_ascii=False)
    return text.encode() if len(text) % 2 else text.replace('": ', '":').replace(', "', ',"').encode()


def not_utf8(random: Random) -> bytes:
    """A byte that no UTF-8 text holds, somewhere in a good line."""
    line = as_line(good_body(random))
    at = random.randrange(len(line) + 1)
    return line[:at] + random.choice((b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf8")) + line[at:]


def too_long(random: Random) -> bytes:
    """A good message with an ignored field that takes the line over 1 MiB."""
    body = good_body(random) | {"note": ""}
    room = LINE_BYTES_MAX - len(as_line(body))
    return as_line(body | {"note": "x" * (room + random.randrange(3, 100))})


def cut_off(random: Random) -> bytes:
    """A line that a crashed writer left unfinished."""
    line = as_line(good_body(random))
    return line[: random.randrange(1, len(line))]


def not_json(random: Random) -> bytes:
    """Text of some other kind."""
    return random.choice(
        (
            b"BTCUSDT,60000.1,1722816000000",
            b"{'type':'mark'}",
            b'{"type":"mark",}',
            b'{"type" "mark"}',
            b'{"price":01}',
            b'{"price":+1}',
            b'{"price":.5}',
            b'{"a":"tab\there"}',
            b"\xef\xbb\xbf{}",
            b'{"a":tru}',
            b"-- MARK --",
        )
    )


def two_objects(random: Random) -> bytes:
    """Two messages glued together, their line end lost."""
    return as_line(good_body(random)) + as_line(good_body(random))


def not_object(random: Random) -> bytes:
    """JSON, but no object."""
    return random.choice((b"[]", b"1", b"null", b'"mark"', b"true", b"[" + as_line(good_body(random)) + b"]"))


def nested_deep(random: Random) -> bytes:
    """An ignored field that nests deeper than any parser should follow."""
    depth = random.choice((65, 500, 1025, 20_000))
    return as_line(good_body(random))[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"


def half_surrogate(random: Random) -> bytes:
    """An escape that is half of a character, which no UTF-8 output could carry."""
    return (
        as_line(good_body(random))[:-1]
        + b',"x":"'
        + random.choice((b"\\ud800", b"\\udc00z", b"\\ud83d\\u0041"))
        + b'"}'
    )


def constant_in_text(random: Random) -> bytes:
    """NaN or Infinity where the message has no number."""
    return as_line(good_body(random))[:-1] + b',"x":' + random.choice((b"NaN", b"Infinity", b"[-Infinity]")) + b"}"


def repeated_key(random: Random) -> bytes:
    """A key that comes twice; which value counts is anybody's guess, even if they agree."""
    body = good_body(random)
    key = random.choice(list(body))
    escaped = "".join(f"\\u{ord(char):04x}" for char in key) if random.random() < 0.3 else key
    return as_line(body)[:-1] + f',"{escaped}":{json.dumps(body[key])}}}'.encode()


def repeated_key_inside(random: Random) -> bytes:
    """A key that comes twice in an object inside an ignored field."""
    return as_line(good_body(random))[:-1] + b',"x":[{"a":{"b":1,"b":' + str(random.randrange(9)).encode() + b"}}]}"


def unknown_type(random: Random) -> bytes:
    """A type the engine does not have."""
    kind = random.choice(("trade", "MARK", "fills", "", " mark", "mark-prices", "сделка"))
    return as_line(good_body(random) | {"type": kind})


def type_of_other_type(random: Random) -> bytes:
    """A type that is no string."""
    return as_line(good_body(random) | {"type": random.choice((1, None, True, ["mark"], {"is": "mark"}))})


def missing_field(random: Random) -> bytes:
    """A message without one of the fields it must have (all of a good one's)."""
    body = good_body(random)
    del body[random.choice(list(body))]
    return as_line(body)


def text_of_other_type(random: Random) -> bytes:
    """A name that is no string."""
    return as_line(fill_body(random, **{random.choice(("account", "symbol", "fill_id")): random.choice((7, None, []))}))


def number_of_other_type(random: Random) -> bytes:
    """A number that is neither a string nor a JSON number."""
    wrong = random.choice((None, True, False, [], ["1"], {}, {"value": "1"}))
    return as_line(fill_body(random, **{random.choice(("qty", "price")): wrong}))


def ts_text(random: Random) -> bytes:
    """A time in a string."""
    return as_line(transfer_body(random, ts=str(CLOCK_NS)))


def float_number(random: Random) -> bytes:
    """A JSON float for a number."""
    return as_line(transfer_body(random, amount=random.choice((0.1, 1e-9, 60000.10, 1e300, 5.0))))


def constant_number(random: Random) -> bytes:
    """NaN or Infinity, bare, for a number."""
    wrong = random.choice((float("nan"), float("inf"), -float("inf")))
    return as_line(fill_body(random, **{random.choice(("qty", "price", "ts")): wrong}))


NOT_DECIMALS = ("1e5", "+1", ".5", "5.", "1,000", "0x10", "NaN", "Infinity", "--1", "1.2.3", "1_0", "٣", "１", "-")


def text_number(random: Random) -> bytes:
    """A string that is no plain decimal."""
    wrong = random.choice(("", " 1", "1 ", "1" * 65, *NOT_DECIMALS))
    return as_line(transfer_body(random, amount=wrong))


def ts_fraction(random: Random) -> bytes:
    """A time with a fraction, or as a float."""
    return as_line(transfer_body(random, ts=random.choice((1722816000.5, 1.722816e18))))


def ts_outside(random: Random) -> bytes:
    """A time before 1970 or beyond 64 bits."""
    return as_line(fill_body(random, ts=random.choice((-1, -CLOCK_NS, 2**63, 10**25))))


def name_outside(random: Random) -> bytes:
    """A name that is empty or longer than 64 bytes."""
    name = random.choice(("", "x" * 65, "é" * 33, "x" * 5000))
    return as_line(fill_body(random, **{random.choice(("account", "symbol", "fill_id")): name}))


def amount_outside(random: Random) -> bytes:
    """A quantity or price that is not above 0, or a transfer of nothing."""
    if random.random() < 0.3:
        return as_line(transfer_body(random, amount=random.choice(("0", "-0", "0.000", 0))))
    return as_line(fill_body(random, **{random.choice(("qty", "price")): random.choice(("0", "-1", "-0.0", 0, -5))}))


def word_outside(random: Random) -> bytes:
    """A word that is not among the allowed ones."""
    key, word = random.choice((("side", "BUY"), ("side", ""), ("side", "short"), ("leg", "both"), ("leg", "")))
    return as_line(fill_body(random, **{key: word}))


def funding_digits(random: Random) -> bytes:
    """A funding rate of more than 12 decimals."""
    rate = f"{random.choice(('', '-'))}0.{random.randrange(1, 10**6):06}{random.randrange(10**6):06}7"
    return as_line({"type": "funding", "symbol": "BTCUSDT", "rate": rate, "ts": CLOCK_NS})


def parameter_float(random: Random) -> bytes:
    """A control message with a JSON float in it."""
    fields: Body = random.choice(
        ({"slippage": 0.001}, {"tiers": [[0, 0.004, 125]]}, {"weights": [["0", "1"], ["5", 0.9]]})
    )
    return as_line({"type": "set_instrument", "symbol": "BTCUSDT", "ts": CLOCK_NS} | fields)


def book_digits(random: Random) -> bytes:
    """A quantity, price, fee or amount with more digits than its instrument or asset has."""
    digits = f"1.{random.randrange(10**11):011}3"
    if random.random() < 0.3:
        return as_line(transfer_body(random, amount=digits))
    return as_line(fill_body(random, **{random.choice(("qty", "price", "fee")): digits}))


def unknown_symbol(random: Random) -> bytes:
    """A symbol nobody has set."""
    symbol = f"NOPE{random.randrange(100)}USDT"
    mark = {"type": "mark", "symbol": symbol, "price": "1", "ts": CLOCK_NS}
    return as_line(random.choice((mark, fill_body(random, symbol=symbol))))


def unknown_asset(random: Random) -> bytes:
    """An asset nobody has set."""
    asset = f"NOPE{random.randrange(100)}"
    price = {"type": "asset_price", "asset": asset, "price": "1", "ts": CLOCK_NS}
    return as_line(random.choice((price, transfer_body(random, asset=asset))))


def reserved_account(random: Random) -> bytes:
    """A message for one of the engine's own accounts other than the fund."""
    account = random.choice(("$fees", "$clearing", "$bad_debt"))
    return as_line(random.choice((transfer_body, fill_body))(random, account=account))


def future_ts(random: Random) -> bytes:
    """A mark from years ahead, always of one symbol: another key could confirm that the world has moved on."""
    ts = CLOCK_NS + random.randrange(2, 100) * YEAR_NS
    return as_line({"type": "mark", "symbol": "BTCUSDT", "price": "60000", "ts": ts})


def overflow(random: Random) -> bytes:
    """A fill whose notional no position can hold."""
    return as_line(fill_body(random, qty=random.choice(("100000000000000000000", 10**30, "9" * 60))))


def parameter_outside(random: Random) -> bytes:
    """A control message that the risk file's rules refuse."""
    wrong: Body = random.choice(
        ({"mark_stale_seconds": 5}, {"trigger": "near"}, {"target_buffer": "-1"}, {"fraction": "2"})
    )
    return as_line({"type": "set_policy", "ts": CLOCK_NS} | wrong)


Maker = Callable[[Random], bytes]

# Decoding and machine kinds alternate at first, so that the first twenty hold some of each.
KINDS: tuple[tuple[Maker, str], ...] = (
    (not_utf8, "bad_encoding"),
    (too_long, "too_long"),
    (cut_off, "bad_json"),
    (unknown_symbol, "unknown_symbol"),
    (not_object, "bad_json"),
    (repeated_key, "duplicate_key"),
    (unknown_asset, "unknown_asset"),
    (unknown_type, "unknown_type"),
    (missing_field, "missing_field"),
    (reserved_account, "reserved_account"),
    (text_of_other_type, "bad_type"),
    (float_number, "bad_number"),
    (book_digits, "surplus_digits"),
    (text_number, "bad_number"),
    (constant_number, "bad_number"),
    (future_ts, "future_ts"),
    (ts_outside, "out_of_range"),
    (amount_outside, "out_of_range"),
    (funding_digits, "surplus_digits"),
    (overflow, "overflow"),
    (not_json, "bad_json"),
    (two_objects, "bad_json"),
    (nested_deep, "bad_json"),
    (half_surrogate, "bad_json"),
    (constant_in_text, "bad_json"),
    (repeated_key_inside, "duplicate_key"),
    (type_of_other_type, "bad_type"),
    (number_of_other_type, "bad_type"),
    (ts_text, "bad_type"),
    (ts_fraction, "bad_number"),
    (name_outside, "out_of_range"),
    (word_outside, "out_of_range"),
    (parameter_float, "bad_number"),
    (parameter_outside, "out_of_range"),
)
MACHINE_KINDS = frozenset(
    maker.__name__
    for maker in (unknown_symbol, unknown_asset, reserved_account, book_digits, future_ts, overflow, parameter_outside)
)


def malformed_lines(kind_count: int = len(KINDS), *, seed: int = SEED) -> Iterator[tuple[str, bytes, str]]:
    """Return an endless stream of (kind, line, expected reason), going round the first ``kind_count`` kinds."""
    random = Random(seed)
    for round_index in count():
        for maker, reason in islice(KINDS, kind_count):
            if maker is not too_long or round_index % TOO_LONG_ROUNDS == 0:
                yield maker.__name__, maker(random), reason
