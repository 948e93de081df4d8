"""The reader of marks and fills takes every line of the usual form, and never for anything but what decoding finds."""

from __future__ import annotations

import os
from itertools import islice, permutations, product
from random import Random, SystemRandom
from typing import Any

import numpy as np
import pytest

from engine.core.book import LEG_NAMES
from engine.core.events import Fill, Mark, Reject
from engine.core.kernels import lines as columns
from engine.core.kernels.lines import (
    DIGITS_MAX,
    FILL,
    HANDED_OVER,
    LINE_BYTES_MAX,
    LINE_COLUMNS,
    MARK,
    NAME_BYTES_MAX,
    ORDER_ID_BYTES_MAX,
    read_lines_into,
    split_lines_into,
)
from engine.core.params import IDENTITY_BYTES_MAX
from engine.edges import codec
from engine.edges.codec import decode, encode_event
from engine.edges.decode_fields import SIDES, TEXT_BYTES_MAX
from engine.units import INT64_MAX
from tests.line_cases import (
    SIDE_NAMES,
    STALE,
    canonical_event,
    disagreements,
    items_of,
    joined,
    read_file,
    read_values,
    search,
    spelled,
    text,
)
from tests.malformed import MACHINE_KINDS, malformed_lines
from tests.real_data import REAL, csv_rows, needs

SEED = 20_250_310 if os.environ.get("CI") else SystemRandom().getrandbits(32)
CANONICAL_LINES = 10_000
MUTATED_LINES = 180_000

TS = 1_722_816_000_000_000_000
MARK_BODY = {"type": "mark", "symbol": "BTCUSDT", "price": "60000.10", "ts": TS}
FILL_BODY = {
    "type": "fill",
    "fill_id": "f1",
    "account": "acct-000017",
    "symbol": "BTCUSDT",
    "side": "sell",
    "qty": "0.5",
    "price": "60000",
    "ts": TS,
}
FULL_FILL = FILL_BODY | {"fee": "-0.10", "order_id": "acct-000017/1/2", "leg": "short", "isolated": True}
ABSENT = object()


def line_of(body: dict[str, Any], **changes: Any) -> bytes:
    """Return ``body`` as a line with ``changes`` made; ABSENT takes a field away."""
    return joined([(text(key), text(value)) for key, value in (body | changes).items() if value is not ABSENT])


def event_in(line: bytes) -> Mark | Fill | None:
    """Return what is read of one line in a buffer of its own, None if it is handed over."""
    return read_values([line]).event(0)


def check_taken(lines: list[bytes]) -> None:
    """Check that all of some lines are taken, for what decoding finds in them, in both shapes of a batch."""
    for batch in (read_values(lines), read_file([line.replace(b"\n", b" ") for line in lines])):
        for number, line in enumerate(batch.lines):
            assert batch.event(number) == decode(line), f"seed {SEED}: {line!r}"


# What is taken.


def test_a_mark_says_symbol_price_time_and_index_price() -> None:
    assert event_in(line_of(MARK_BODY)) == Mark("BTCUSDT", (600001, 1), TS)
    assert event_in(line_of(MARK_BODY, index_price="59999")) == Mark("BTCUSDT", (600001, 1), TS, (59999, 0))


def test_a_fill_says_all_its_fields() -> None:
    assert event_in(line_of(FILL_BODY)) == Fill("f1", "acct-000017", "BTCUSDT", "sell", (5, 1), (60000, 0), TS)
    assert event_in(line_of(FULL_FILL)) == Fill(
        "f1", "acct-000017", "BTCUSDT", "sell", (5, 1), (60000, 0), TS, (-1, 1), "acct-000017/1/2", "short", True
    )


def test_every_combination_of_optional_fields_is_taken() -> None:
    marks = [line_of(MARK_BODY, index_price=price) for price in (ABSENT, None, "59999.50", 59999)]
    fees, order_ids = (ABSENT, None, "0", "0.25", "-0.25", 1), (ABSENT, None, "acct-000017/1/2")
    legs, isolated = (ABSENT, None, *LEG_NAMES), (ABSENT, None, False, True)
    fills = [
        line_of(FILL_BODY, side=side, fee=fee, order_id=order_id, leg=leg, isolated=flag)
        for side, fee, order_id, leg, flag in product(SIDES, fees, order_ids, legs, isolated)
    ]
    assert len(fills) == 2 * 6 * 3 * 5 * 4
    check_taken(marks + fills)


def test_keys_may_come_in_any_order() -> None:
    orders = permutations(items_of(line_of(MARK_BODY, index_price="59999")))
    fill_items, random = items_of(line_of(FULL_FILL)), Random(SEED)
    check_taken([joined(list(order)) for order in orders])
    check_taken([joined(random.sample(fill_items, len(fill_items))) for _ in range(500)])


@pytest.mark.parametrize("space", ["", " ", "\t", "\r", "\n", "   \t\r\n" * 3])
def test_spaces_between_any_two_parts_mean_nothing(space: str) -> None:
    check_taken([joined(items_of(line_of(body)), (space, space)) for body in (MARK_BODY, FILL_BODY, FULL_FILL)])


def test_every_canonical_line_is_taken_however_it_is_spelled() -> None:
    random = Random(SEED)
    for _ in range(CANONICAL_LINES // 1000):
        events = [canonical_event(random) for _ in range(1000)]
        lines = [encode_event(event) for event in events]
        batch = read_file(lines)
        assert [batch.event(number) for number in range(1000)] == events, f"seed {SEED}"
        check_taken([spelled(random, line) for line in lines])


# Price as it is written -> mantissa and places. What is right is what decoding says; the figures are for the reader.
PRICES = [
    ('"60000.10"', (600001, 1)),
    ('"60000"', (60000, 0)),
    ('"1"', (1, 0)),
    ('"10"', (10, 0)),
    ('"100.00"', (100, 0)),
    ('"0.5"', (5, 1)),
    ('"0.00000001"', (1, 8)),
    ('"0.10000000"', (1, 1)),
    ('"007.0"', (7, 0)),
    ('"12345678"', (12345678, 0)),
    ('"123456789"', (123456789, 0)),
    ('"1234567.8"', (12345678, 1)),
    ('"12345678.87654321"', (1234567887654321, 8)),
    ('"123456789.987654321"', (123456789987654321, 9)),
    ('"999999999999999999"', (10**18 - 1, 0)),
    ('"0.99999999999999999"', (10**17 - 1, 17)),
    ('"1.00000000000000000"', (1, 0)),
    ("60000", (60000, 0)),
    ("1", (1, 0)),
    ("999999999999999999", (10**18 - 1, 0)),
]


@pytest.mark.parametrize(("written", "price"), PRICES)
def test_a_price_keeps_its_digits_and_no_zeros_behind_them(written: str, price: tuple[int, int]) -> None:
    line = line_of(MARK_BODY, price="?").replace(b'"?"', written.encode())
    assert event_in(line) == decode(line) == Mark("BTCUSDT", price, TS)


@pytest.mark.parametrize(
    ("written", "fee"),
    [
        ('"0"', (0, 0)),
        ('"-0"', (0, 0)),
        ('"0.00"', (0, 0)),
        ('"-0.00"', (0, 0)),
        ('"-0.50"', (-5, 1)),
        ('"-999999999999999999"', (1 - 10**18, 0)),
        ("0", (0, 0)),
        ("-0", (0, 0)),
        ("-7", (-7, 0)),
    ],
)
def test_a_fee_may_be_nothing_or_a_rebate(written: str, fee: tuple[int, int]) -> None:
    line = line_of(FILL_BODY, fee="?").replace(b'"?"', written.encode())
    event = event_in(line)
    assert isinstance(event, Fill)
    assert event == decode(line)
    assert event.fee == fee


@pytest.mark.parametrize("ts", [0, 1, 9, 10, 99_999_999, 10**8, 10**16 - 1, 10**16, TS, INT64_MAX])
def test_a_time_may_have_up_to_nineteen_digits(ts: int) -> None:
    assert event_in(line_of(MARK_BODY, ts=ts)) == Mark("BTCUSDT", (600001, 1), ts)


@pytest.mark.parametrize("length", range(1, NAME_BYTES_MAX + 1))
def test_a_name_of_any_length_is_found_whole(length: int) -> None:
    name = "}" * (length - 1) + "~"
    assert event_in(line_of(MARK_BODY, symbol=name)) == Mark(name, (600001, 1), TS)
    last = line_of({"price": "1", "ts": TS, "type": "mark", "symbol": name})
    assert event_in(last) == Mark(name, (1, 0), TS)


def test_limits_are_those_of_the_fields_and_one_byte_more_is_handed_over() -> None:
    assert (NAME_BYTES_MAX, ORDER_ID_BYTES_MAX) == (IDENTITY_BYTES_MAX, TEXT_BYTES_MAX)
    for key, limit in (("fill_id", 64), ("account", 64), ("symbol", 64), ("order_id", 256)):
        at_limit, beyond = (line_of(FULL_FILL, **{key: "x" * length}) for length in (limit, limit + 1))
        assert event_in(at_limit) == decode(at_limit)
        assert event_in(beyond) is None
        assert isinstance(decode(beyond), Reject)
    assert DIGITS_MAX == 18
    assert event_in(line_of(MARK_BODY, price="1" * 18)) is not None
    assert event_in(line_of(MARK_BODY, price="1" * 19)) is None
    assert event_in(line_of(MARK_BODY, price=int("1" * 19))) is None
    assert event_in(line_of(MARK_BODY, ts=INT64_MAX + 1)) is None


def test_a_line_padded_to_the_limit_is_taken_and_with_one_space_more_handed_over() -> None:
    assert LINE_BYTES_MAX <= codec.LINE_BYTES_MAX
    line = line_of(MARK_BODY)
    padded = line + b" " * (LINE_BYTES_MAX - len(line))
    assert event_in(padded) == decode(padded)
    assert event_in(padded + b" ") is None


def test_codes_are_those_of_the_book_and_the_messages() -> None:
    assert SIDE_NAMES == SIDES
    assert (columns.BUY, columns.SELL) == (0, 1)
    assert [LEG_NAMES[leg] for leg in (columns.NET, columns.LONG, columns.SHORT)] == ["net", "long", "short"]


# What is handed over.


def line_with(key: str, written: str) -> bytes:
    """Return a mark, or of a fill's own fields a fill, with the value of ``key`` written as it is given."""
    body = FULL_FILL if key in FULL_FILL and key not in MARK_BODY else MARK_BODY
    return joined([(text(name), written if name == key else text(value)) for name, value in (body | {key: 0}).items()])


GOOD = line_of(MARK_BODY)
GOOD_FILL = line_of(FULL_FILL)

# Key -> values as they are written, with spaces between, none of which is of the usual form.
ODD_WORDS = {
    "type": r"""
        null 1 true [] mark "mark mark" "" "Mark" "MARK" "mar" "marks" "markx "fill" "fillx "fills" "transfer"
        "m\u0061rk" 'mark'""",
    "price": r"""
        "0" "0.00" "-0" "-1" "-0.5" "1." ".5" "." "" "-" "+1" "1e5" "1_0" "1,0" "1.2.3" "1..2" 1.5" "--1" "1-" "NaN" "٣"
        "１" "\u0031" "1\u0030" "1 1" "1x "1"1 "1"" '1' 0 -0 -1 00 01 1.5 1.0 1. .5 1e5 1E5 +1 1_0 NaN Infinity true
        null [1] ["1"] {} {"a":1} "1111111111111111111" 1111111111111111111 "1.000000000000000000" "0000000000000000001"
        "0.000000000000000001" 18446744073709551617 "18446744073709551617" "100000000000000000000000000000000001"
        100000000000000000000000000000000001""",
    "index_price": """ "0" "-1" "" "1." 0 -1 1.5 01 nul nulx nulls Null NULL true [] {} "null" """,
    "qty": """ "0" "-1" "0.0" "-0.5" 0 -1 0.5 null "" """,
    "fee": """ "" "-" "--1" "-.5" "-1." - -01 --1 0.1 -0.1 "1111111111111111111" true nul """,
    "ts": """
        "1" -1 -0 01 00 1.0 1e3 true null [1] {} 9223372036854775808 9999999999999999999 18446744073709551616
        18446744073709551617 0000000000000000001 11111111111111111111 184467440737095516160""",
    "symbol": r"""
        "" " "a a" xa" "a"b" 'a' a 1 null true [] {} ["a"] "a\"b" "a\\" "a\" "a\ "\u0041" "\n" "é" "aé "aaaaaaa€" """,
    "order_id": r""" "" 1 true "é" "a\/b" nul """,
    "side": r""" "" "BUY" "bu" "buys" "buyx "sel" "sells" "sellx "long" "b\u0075y" buy "buy buy" 'buy' true 0 [] """,
    "leg": """ "" "Net" "ne" "nets" "netx "longx "shortx "longs" "shorts" "buy" "null" net "long long" nul 0 [] """,
    "isolated": """ tru truee fals falses True FALSE "true" "" 1 0 nul [] {} """,
}
# The same for values that hold spaces, control characters, or a great many bytes.
ODD_TEXTS = {
    "type": ('" mark"', '"mark "', '"mark" "mark"'),
    "price": ('"1 "', '" 1"', '"1 0"', "1 0", '"1\n"', '"1\x00"', "", f'"{"9" * 65}"', "9" * 65, f'"{"1" * 4000}"'),
    "ts": ("", " ", "1 1", "1" * 4000),
    "symbol": ('"a\tb"', '"a\nb"', '"a\x00b"', '"a\x1fb"', '"a" "b"', *(f'"{"x" * size}"' for size in (65, 99, 5000))),
    "order_id": (f'"{"x" * 257}"', f'"{"x" * 256}é"'),
}
# Keys that no mark has, of any value.
ODD_KEYS = ("x", "", "asset", "index_pric", "index_prize", "index_prices", *(FULL_FILL.keys() - MARK_BODY.keys()))
HANDED_OVER_LINES = [
    *(line_with(key, written) for key, words in ODD_WORDS.items() for written in words.split()),
    *(line_with(key, written) for key, texts in ODD_TEXTS.items() for written in texts),
    *(line_of(MARK_BODY, **{key: value}) for key in sorted(ODD_KEYS) for value in (None, 1, "1", True)),
    line_of(FULL_FILL, index_price="1"),
    line_of(FULL_FILL, index_price=None),
    # Fields that must be there.
    *(line_of(MARK_BODY, **{key: ABSENT}) for key in MARK_BODY),
    *(line_of(FULL_FILL, **{key: ABSENT}) for key in FILL_BODY),
    # Repeated keys, whether or not the values agree.
    *(GOOD[:-1] + b',"%s":%s}' % (key.encode(), text(value).encode()) for key, value in MARK_BODY.items()),
    *(GOOD_FILL[:-1] + b',"%s":null}' % key.encode() for key in FULL_FILL),
    # Keys that are almost right, in place of a right one.
    *(
        GOOD.replace(b'"ts"', key)
        for key in (b'"ts', b'ts"', b'xts"', b'"t"', b'"tss"', b'"Ts"', b'"t s"', b'"\\u0074s"')
    ),
    *(GOOD.replace(b'"type"', key) for key in (b'"typ"', b'"types"', b'"type', b'"Type"', b'"type" "x"', b'"typ\xe9"')),
    *(
        GOOD_FILL.replace(b'"order_id"', key)
        for key in (b'"order_i"', b'"order_ids"', b'"order_idx', b'"order_id', b"1")
    ),
    *(GOOD_FILL.replace(b'"isolated"', key) for key in (b'"isolate"', b'"isolateds"', b'"isolatedx', b'"isolated')),
    # Something before, behind or between that does not belong there, or is missing.
    *(b"", b" ", b"\r", b"\n", b"{", b"}", b"{}", b"{ }", b"}{", b"[]", b"null", b"mark", b'"', b'""', b'{"', b'{"}'),
    *(GOOD + odd for odd in (b"}", b",", b"x", b" x", b"{}", b"\x00", b"\x0b", b"\x0c", b"\xa0", GOOD, b" " + GOOD)),
    *(odd + GOOD for odd in (b"{", b",", b"x", b"[", b"1 ", b"\x00", b"\x0b", b"\xa0", b"\xef\xbb\xbf")),
    *(GOOD[:-1] + odd + b"}" for odd in (b",", b", ", b",,", b":", b":1", b" 1", b"}", b'"', b',"', b',""', b',"":1')),
    *(
        GOOD[:-1] + b',"index_price"' + odd + b"}"
        for odd in (b"", b":", b' "1"', b',"1"', b'::"1"', b':"1"."2"', b":1:1")
    ),
    *(GOOD.replace(b",", b";", 1), GOOD.replace(b":", b"=", 1), GOOD.replace(b'"', b"'"), GOOD.replace(b",", b",,", 1)),
    *(
        GOOD[:-1],
        GOOD[1:],
        b"[" + GOOD[1:],
        b"x" + GOOD[1:],
        b"[%s]" % GOOD,
        b"{%s}" % GOOD,
        b"{," + GOOD[1:],
        GOOD.replace(b"}", b"]"),
    ),
]


@pytest.mark.parametrize("line", HANDED_OVER_LINES, ids=lambda line: repr(line)[:80])
def test_whatever_is_odd_is_handed_over(line: bytes) -> None:
    assert event_in(line) is None


def test_a_row_handed_over_leaves_the_next_line_alone() -> None:
    lines = [line for odd in HANDED_OVER_LINES for line in (odd, GOOD)]
    batch = read_values(lines)
    assert [batch.event(number) for number in range(1, len(lines), 2)] == [decode(GOOD)] * len(HANDED_OVER_LINES)


# Where a line ends.


def test_a_line_cut_anywhere_is_handed_over_although_the_rest_stands_behind_it() -> None:
    braces = line_of(FULL_FILL, **dict.fromkeys(("fill_id", "account", "symbol", "order_id"), "}" * 11))
    spaced = joined(items_of(GOOD), (" ", " "))
    for line in (GOOD, line_of(MARK_BODY, index_price=1), GOOD_FILL, braces, spaced):
        whole = line.strip()
        size = len(whole)
        fields = rows_of(whole, [0] * size, list(range(size)))
        assert not fields[:, columns.KIND].any(), line
        fields = rows_of(whole, list(range(1, size)), [size] * (size - 1))
        assert not fields[:, columns.KIND].any(), line
        # Cut once more, somewhere behind: what is read too far is then soon outside the buffer.
        for cut in range(size):
            fields = rows_of(whole[:cut], [0] * cut, list(range(1, cut + 1)))
            assert not fields[:, columns.KIND].any(), whole[:cut]


def test_a_line_means_the_same_whatever_stands_around_it() -> None:
    random = Random(SEED)
    for line in (GOOD, line_of(FULL_FILL), *HANDED_OVER_LINES):
        alone = event_in(line)
        for around in (b" ", b"}", b'"', b"0", b"\\", b",", b"{", b"\n", b"\xff", random.randbytes(16)):
            surrounded = around * 9 + line + around * 9
            begin = 9 * len(around)
            fields = rows_of(surrounded, [begin], [begin + len(line)])
            assert (fields[0, columns.KIND] != HANDED_OVER) == (alone is not None), (around, line)


def test_a_line_whose_place_is_no_part_of_the_buffer_is_handed_over() -> None:
    size = len(GOOD)
    places = [(-1, size), (0, size + 1), (0, 0), (size, size), (size, 0), (5, 4), (size + 1, size + 2)]
    places += [(0, -1), (-(2**63), 2**63 - 1), (0, 2**63 - 1), (2**63 - 1, -(2**63))]
    begins, ends = zip(*places, strict=True)
    assert not rows_of(GOOD, list(begins), list(ends))[:, columns.KIND].any()
    assert rows_of(GOOD, [0], [size])[0, columns.KIND] == MARK


def rows_of(data: bytes, begins: list[int], ends: list[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    fields = np.full((len(begins), LINE_COLUMNS), STALE, dtype=np.int64)
    places = np.array(begins, dtype=np.int64), np.array(ends, dtype=np.int64)
    read_lines_into(np.frombuffer(data, dtype=np.uint8), *places, len(begins), fields)
    return fields


def test_only_the_rows_asked_for_are_written_and_of_a_mark_only_what_it_has() -> None:
    data = np.frombuffer(GOOD + line_of(FILL_BODY), dtype=np.uint8)
    begins, ends = np.array([0, len(GOOD), 0]), np.array([len(GOOD), len(data), len(GOOD)])
    fields = np.full((3, LINE_COLUMNS), STALE, dtype=np.int64)
    read_lines_into(data, begins, ends, 2, fields)
    assert fields[0, columns.KIND] == MARK
    assert (fields[0, columns.INDEX_PRICE_PLACES + 1 :] == STALE).all()
    assert fields[1, columns.KIND] == FILL
    assert (fields[2] == STALE).all()


# Lines of a file.


def lines_in(data: bytes, room: int = 100, begin: int = 0) -> list[bytes]:
    """Return the lines found in ``data`` from ``begin`` on, at most ``room`` of them."""
    begins, ends = np.full((2, room), STALE, dtype=np.int64)
    count = split_lines_into(np.frombuffer(data, dtype=np.uint8), begin, begins, ends)
    assert (begins[count:] == STALE).all()
    assert (ends[count:] == STALE).all()
    return [data[start:end] for start, end in zip(begins[:count].tolist(), ends[:count].tolist(), strict=True)]


def test_lines_end_at_a_line_feed_and_what_comes_last_without_one_is_left() -> None:
    assert lines_in(b"") == []
    assert lines_in(b"a") == []
    assert lines_in(b"\n") == [b""]
    assert lines_in(b"a\n") == [b"a"]
    assert lines_in(b"a\r\n\n b\nrest") == [b"a\r", b"", b" b"]
    assert lines_in(b"0123456\n89abcdef\n") == [b"0123456", b"89abcdef"]
    # One above a line feed differs from it in the lowest bit, which a borrow from below would carry over.
    assert lines_in(b"\n\x0b\n\x0b\x0b\n\x09\x0a\x8a") == [b"", b"\x0b", b"\x0b\x0b", b"\x09"]


def test_lines_are_found_as_splitting_finds_them() -> None:
    random = Random(SEED)
    for _ in range(2000):
        data = bytes(random.choices(b"\n\r\x0b\x8a\x00a{", k=random.randrange(60)))
        begin = random.randrange(len(data) + 1)
        assert lines_in(data, begin=begin) == data[begin:].split(b"\n")[:-1], f"seed {SEED}: {data!r} from {begin}"


def test_a_full_array_stops_the_search_and_the_next_call_goes_on_behind_it() -> None:
    random = Random(SEED)
    for _ in range(500):
        data = b"".join(random.randbytes(random.randrange(12)).replace(b"\n", b"") + b"\n" for _ in range(20))
        found: list[bytes] = []
        room = random.randrange(1, 7)
        while lines := lines_in(data, room, begin=sum(len(line) + 1 for line in found)):
            found += lines
        assert found == data.split(b"\n")[:-1], f"seed {SEED}: {data!r}, {room} at a time"
    assert lines_in(b"\n" * 5, room=0) == []


# Against decoding.


def test_no_mutated_line_is_taken_for_another_event_than_decoding_finds() -> None:
    tally = search(SEED, MUTATED_LINES)
    assert tally.faults[:1] == [], f"seed {SEED}: the line, what it was read as, what decoding finds"
    # Both are common, or the search would say little.
    assert tally.accepted > MUTATED_LINES // 10
    assert tally.handed_over > MUTATED_LINES // 2


@needs("hyperliquid_accounts_2023")
def test_every_trade_of_the_exchanges_own_record_is_taken_as_its_digits_are_written() -> None:
    trades = list(islice(csv_rows(REAL / "hyperliquid_accounts_2023" / "non_mm_trades.csv.gz"), 20_000))
    fills = [
        line_of(
            FILL_BODY,
            fill_id=str(number),
            account=trade["user"],
            symbol=f"{trade['coin']}-PERP",
            side="buy" if trade["side"] == "Bid" else "sell",
            qty=trade["sz"],
            price=trade["px"],
        )
        for number, trade in enumerate(trades)
    ]
    marks = [line_of(MARK_BODY, symbol=trade["coin"], price=trade["px"]) for trade in trades]
    assert len({trade["px"] for trade in trades}) > 1000
    check_taken(fills + marks)


def test_malformed_lines_are_never_taken() -> None:
    kinds, lines, _ = zip(*islice(malformed_lines(seed=SEED), 4000), strict=True)
    batch = read_values(lines)
    assert list(disagreements(batch)) == [], f"seed {SEED}"
    taken = {kind for number, kind in enumerate(kinds) if batch.event(number) is not None}
    assert taken <= MACHINE_KINDS
    assert {"unknown_symbol", "book_digits", "future_ts"} <= taken
