"""Lines for the reader of marks and fills: canonical ones, which it must take, and mutated ones, where it may not err.

Whatever it takes must be exactly the event that ``decode`` finds in the line; there is no mistake in handing a line
over. ``python -m tests.line_cases --lines 3000000`` looks for a line where they differ and exits 1 if there is one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random, SystemRandom
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core.book import LEG_NAMES
from engine.core.events import Fill, Mark, Side
from engine.core.kernels import lines as columns
from engine.core.kernels.lines import (
    DIGITS_MAX,
    HANDED_OVER,
    LINE_COLUMNS,
    MARK,
    NAME_BYTES_MAX,
    ORDER_ID_BYTES_MAX,
    read_lines_into,
    split_lines_into,
)
from engine.edges.codec import decode, encode_event
from engine.units import INT64_MAX, Number

BATCH_LINES = 512
MUTATIONS_PER_EVENT = 4
FAULTS_SHOWN = 10
# What rows hold before they are written: no column may be right by accident.
STALE = -7
SIDE_NAMES: tuple[Side, ...] = ("buy", "sell")

Rows = list[list[int]]


@dataclass(frozen=True)
class Batch:
    """Lines in one buffer, as the reader gets them, and the rows it made of them."""

    data: bytes
    lines: list[bytes]
    rows: Rows

    def event(self, number: int) -> Mark | Fill | None:
        """Return the event of a row, None if its line is handed over."""
        return event_of(self.data, self.rows[number])


def read_values(values: Sequence[bytes]) -> Batch:
    """Read values joined without anything between, as a batch of Kafka records is."""
    ends = np.cumsum([len(value) for value in values], dtype=np.int64)
    begins = ends - np.array([len(value) for value in values], dtype=np.int64)
    data = b"".join(values)
    return Batch(data, list(values), read_rows(data, begins, ends))


def read_file(lines: Sequence[bytes], line_end: bytes = b"\n") -> Batch:
    """Read lines as those of a file; none of them may hold a line feed."""
    data = b"".join(line + line_end for line in lines)
    begins, ends = np.zeros((2, len(lines)), dtype=np.int64)
    if split_lines_into(np.frombuffer(data, dtype=np.uint8), 0, begins, ends) != len(lines):
        raise AssertionError(f"not {len(lines)} lines: {data!r}")
    return Batch(data, list(lines), read_rows(data, begins, ends))


def read_rows(data: bytes, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Rows:
    """Return the rows that the reader makes of lines in a buffer of just these bytes."""
    fields = np.full((len(begins), LINE_COLUMNS), STALE, dtype=np.int64)
    read_lines_into(np.frombuffer(data, dtype=np.uint8), begins, ends, len(begins), fields)
    rows: Rows = fields.tolist()
    return rows


def event_of(data: bytes, row: list[int]) -> Mark | Fill | None:
    """Return the event that a row says, None if its line is handed over."""

    def name(column: int) -> str:
        return data[row[column] : row[column] + row[column + 1]].decode("ascii")

    def number(column: int) -> Number:
        return row[column], row[column + 1]

    def optional(column: int) -> Number | None:
        return None if row[column + 1] == -1 else number(column)

    if row[columns.KIND] == HANDED_OVER:
        return None
    symbol, price, ts = name(columns.SYMBOL_START), number(columns.PRICE), row[columns.TS]
    if row[columns.KIND] == MARK:
        return Mark(symbol, price, ts, optional(columns.INDEX_PRICE))
    return Fill(
        name(columns.FILL_ID_START),
        name(columns.ACCOUNT_START),
        symbol,
        SIDE_NAMES[row[columns.SIDE]],
        number(columns.QTY),
        price,
        ts,
        optional(columns.FEE),
        name(columns.ORDER_ID_START) if row[columns.ORDER_ID_LENGTH] else None,
        LEG_NAMES[row[columns.LEG]],
        {0: False, 1: True}[row[columns.ISOLATED]],
    )


# Canonical events and their spellings.


def canonical_event(random: Random) -> Mark | Fill:
    """Return a mark or a fill of the form the reader knows, any of its optional fields there or not."""
    ts = random.choice((random.randrange(10**18, 2 * 10**18), random.randrange(INT64_MAX), 0, INT64_MAX))
    symbol, price = plain_name(random), number(random)
    if random.random() < 0.4:
        return Mark(symbol, price, ts, maybe(random, number(random)))
    fee_sign = random.choice((1, -1))
    fee_mantissa, fee_places = random.choice((number(random), (0, 0)))
    return Fill(
        plain_name(random),
        plain_name(random),
        symbol,
        random.choice(("buy", "sell")),
        number(random),
        price,
        ts,
        maybe(random, (fee_sign * fee_mantissa, fee_places)),
        maybe(random, plain_name(random, ORDER_ID_BYTES_MAX)),
        random.choice(LEG_NAMES),
        random.random() < 0.5,
    )


def maybe(random: Random, value: Any) -> Any:
    return value if random.random() < 0.5 else None


def number(random: Random) -> Number:
    """Return an exact number > 0 of at most 18 digits, zeros before and behind the point included."""
    places = random.choice((0, 0, 1, 2, 4, 8, random.randrange(DIGITS_MAX)))
    digits = random.randint(1, DIGITS_MAX - places)
    mantissa = random.randrange(1, 10 ** random.randint(1, digits + places))
    while places and mantissa % 10 == 0:
        mantissa, places = mantissa // 10, places - 1
    return mantissa, places


PLAIN = "".join(chr(code) for code in range(32, 128) if chr(code) not in '"\\')
USUAL = ("BTCUSDT", "ETH-PERP", "acct-000017", "acct-000017/1/2", "a", "1000PEPEUSDT", "{", "}", "},{", " ", ":", ",")


def plain_name(random: Random, bytes_max: int = NAME_BYTES_MAX) -> str:
    """Return a name of plain ASCII of any length that is allowed."""
    if random.random() < 0.6:
        return random.choice(USUAL)
    length = random.choice((1, 7, 8, 9, 15, 16, 17, bytes_max, random.randint(1, bytes_max)))
    return "".join(random.choices(PLAIN, k=length))


SPACES = ("", " ", "\t", "\r", "\n", "  ", " \r\n\t ")


def spelled(random: Random, line: bytes) -> bytes:
    """Return a line with its keys in another order and with spaces, or as it is."""
    items = items_of(line)
    if random.random() < 0.5:
        random.shuffle(items)
    return joined(items, random.choice((("", ""), (" ", " "), (random.choice(SPACES), random.choice(SPACES)))))


def items_of(line: bytes) -> list[tuple[str, str]]:
    """Return the keys and the values of a canonical line, each as it is written."""
    return [(text(key), text(value)) for key, value in json.loads(line).items()]


# JSON with nothing escaped that need not be.
text = json.JSONEncoder(ensure_ascii=False).encode


def joined(items: list[tuple[str, str]], spaces: tuple[str, str] = ("", "")) -> bytes:
    """Return an object with ``spaces`` before and behind each colon and comma and each brace."""
    before, behind = spaces
    fields = f"{before},{behind}".join(f"{key}{before}:{behind}{value}" for key, value in items)
    return f"{before}{{{behind}{fields}{before}}}{behind}".encode()


# Mutations. Each value is written as it would stand in the line.

NUMBERS = (
    *(
        '"1."',
        '".5"',
        '"."',
        '"-0"',
        '"-0.00"',
        '"+1"',
        '"1e5"',
        '"1E5"',
        '"0x1"',
        '"1_0"',
        '"1 "',
        '" 1"',
        '""',
        '"-"',
    ),
    *('"--1"', '"1-"', '"1.2.3"', '"1..2"', '"-.5"', '"007"', '"00.10"', '"0.000"', '"0"', '"-1"', '"-1.50"', '"1,5"'),
    *('"٣"', '"１"', '"\\u0031"', '"NaN"', '"Infinity"', '"1', '1"', "'1'", '"1""', '"1"1', '"1\n"', '"1\x00"'),
    *(
        "1.5",
        "1.0",
        "1e5",
        "1E5",
        "-1",
        "-0",
        "0",
        "00",
        "01",
        "-01",
        "+1",
        ".5",
        "1.",
        "1 2",
        "--1",
        "-",
        "1_0",
        "0.0",
    ),
    *("NaN", "Infinity", "-Infinity", "1e999", "0x1", "1l"),
    *(str(2**exponent + change) for exponent in (31, 32, 53, 63, 64) for change in (-1, 0, 1)),
    *(f'"{2**exponent + change}"' for exponent in (31, 32, 53, 63, 64) for change in (-1, 0, 1)),
)
OTHERS = (
    *("null", "nul", "nulls", "Null", "NULL", "n", "true", "false", "True", "tru", "truee", "fals", "t", "f"),
    *("[]", "{}", '["1"]', '{"a":1}', '{"ts":1}', "[[]]", "", " ", "[", "]", "{", "}"),
)
TEXTS = (
    *('""', '"', '" "', '"a\\"b"', '"a\\\\"', '"\\u0041"', '"\\n"', '"\\', '"é"', '"é', '"€uro"', '"😀"', '"a\x00b"'),
    *('"a\tb"', '"a\nb"', '"a\x1fb"', '"a\x7fb"', '"{"', '"}"', '"}}"', '"a:b"', '"a,b"', '"[a]"', "'a'", "a"),
    *(f'"{"x" * length}"' for length in (7, 8, 9, 63, 64, 65, 255, 256, 257, 5000)),
    *(f'"{"x" * length}é"' for length in (6, 7, 8, 62, 63, 64)),
)
WORDS = (
    *('"mark"', '"fill"', '"Mark"', '"mark "', '"marks"', '"transfer"', '"mar"', '"filled"', "mark", '"fill', 'mark"'),
    *('"buy"', '"sell"', '"BUY"', '"bu"', '"buys"', '"sel"', '"sells"', '"net"', '"long"', '"short"', '"ne"', '"nets"'),
    *('"longs"', '"lon"', '"shorts"', '"shor"', '"null"', '"true"', "'buy'", '" buy"', '"buy" "sell"'),
)
KEYS = (
    *("type", "ts", "symbol", "price", "index_price", "qty", "fee", "fill_id", "account", "order_id", "side", "leg"),
    *("isolated", "asset", "rate", "source", "x", "", "t", "tt", "typ", "types", "tss", "Ts", "prices", "index_pric"),
    *("index_prices", "index_pr", "order_i", "order_ids", "isolate", "isolateds", "symbo", "symbols", "accounts"),
    *("\\u0074s", "ts\\u0000", "é", "qt", "qtys", "fe", "fees", "le", "legs", "sid", "sides", "fill_ids", "fill-id"),
)
BYTES = b'"\\{}[]:,. -+eEnulltrf0123456789\t\n\r\x00\x0b\x1f\x7f\x80\xc3\xff'

Items = list[tuple[str, str]]


def with_value(random: Random, items: Items) -> Items:
    """Give a key another value: of the field's own kind and perhaps odd, or one that is odd for any field."""
    at = random.randrange(len(items))
    key = items[at][0]
    items[at] = (key, odd_value(random) if random.random() < 0.3 else near_value(random, key.strip('"')))
    return items


def near_value(random: Random, key: str) -> str:
    """Return what a field may hold, or something close to it."""
    if key in ("price", "index_price", "qty", "fee", "ts"):
        return digits(random, is_text=key != "ts")
    if key in ("side", "leg", "type", "isolated"):
        return random.choice((*WORDS, "true", "false", "null"))
    return text(plain_name(random)) if random.random() < 0.5 else random.choice(TEXTS)


def odd_value(random: Random) -> str:
    kind = random.randrange(4)
    if kind == 0:
        return random.choice(NUMBERS)
    if kind == 1:
        return random.choice((*TEXTS, *WORDS))
    return random.choice(OTHERS) if kind == 2 else digits(random, is_text=random.random() < 0.8)


def digits(random: Random, *, is_text: bool) -> str:
    """Return a number of up to 24 digits, many of them 0, mostly with a point in it: a string, now and then bare."""
    text = "".join(random.choices("0123456789" + "0" * random.choice((0, 5, 40)), k=random.randrange(25)))
    if random.random() < (0.6 if is_text else 0.1):
        point = random.randrange(len(text) + 1)
        text = f"{text[:point]}.{text[point:]}"
    if random.random() < 0.1:
        text = f"-{text}"
    return f'"{text}"' if is_text == (random.random() < 0.9) else text


def with_key(random: Random, items: Items) -> Items:
    """Rename a key, to one that is there already or to another."""
    at = random.randrange(len(items))
    items[at] = (f'"{random.choice(KEYS)}"', items[at][1])
    return items


def with_field(random: Random, items: Items) -> Items:
    """Add a field: unknown, repeated, or one that is there in other messages only."""
    value = random.choice((odd_value(random), random.choice(items)[1], "null"))
    items.insert(random.randrange(len(items) + 1), (f'"{random.choice(KEYS)}"', value))
    return items


def without_field(random: Random, items: Items) -> Items:
    """Leave a field out."""
    items.pop(random.randrange(len(items)))
    return items


def with_values_swapped(random: Random, items: Items) -> Items:
    """Let two fields have each other's values."""
    first, second = random.randrange(len(items)), random.randrange(len(items))
    (key, value), (other_key, other_value) = items[first], items[second]
    items[first], items[second] = (key, other_value), (other_key, value)
    return items


def flipped(random: Random, line: bytes) -> bytes:
    """Put another byte in the place of one."""
    at = random.randrange(len(line))
    return line[:at] + odd_byte(random) + line[at + 1 :]


def odd_byte(random: Random) -> bytes:
    return bytes([random.choice(BYTES)]) if random.random() < 0.8 else random.randbytes(1)


def shorter(random: Random, line: bytes) -> bytes:
    """Leave a few bytes out."""
    at = random.randrange(len(line))
    return line[:at] + line[at + random.choice((1, 1, 1, 2, 8, random.randrange(1, 40))) :]


def longer(random: Random, line: bytes) -> bytes:
    """Put a byte in."""
    at = random.randrange(len(line) + 1)
    return line[:at] + odd_byte(random) + line[at:]


def doubled(random: Random, line: bytes) -> bytes:
    """Say a few bytes twice."""
    at = random.randrange(len(line))
    end = at + random.choice((1, 1, 2, 8, random.randrange(1, 60)))
    return line[:end] + line[at:end] + line[end:]


def moved(random: Random, line: bytes) -> bytes:
    """Let two stretches change places."""
    first, second, third = sorted(random.randrange(len(line) + 1) for _ in range(3))
    return line[:first] + line[second:third] + line[first:second] + line[third:]


def with_other_number(random: Random, line: bytes) -> bytes:
    """Write another number in the place of one, its quotes left as they are."""
    found = list(re.finditer(rb"[0-9.]+", line))
    if not found:
        return line
    spot = random.choice(found)
    return (
        line[: spot.start()]
        + random.choice((digits(random, is_text=True), random.choice(NUMBERS))).strip('"').encode()
        + line[spot.end() :]
    )


def cut(random: Random, line: bytes) -> bytes:
    """End anywhere."""
    return line[: random.randrange(len(line))]


ITEM_MUTATIONS: tuple[Callable[[Random, Items], Items], ...] = (
    *(with_value,) * 6,
    with_key,
    with_field,
    without_field,
    with_values_swapped,
)
BYTE_MUTATIONS: tuple[Callable[[Random, bytes], bytes], ...] = (
    flipped,
    shorter,
    longer,
    doubled,
    moved,
    *(with_other_number,) * 3,
    cut,
)


def mutated(random: Random, line: bytes) -> bytes:
    """Return a canonical line with one change or a few."""
    items = items_of(line)
    if random.random() < 0.5:
        random.shuffle(items)
    is_structured = random.random() < 0.6
    if is_structured:
        for _ in range(random.choice((1, 1, 1, 1, 1, 2))):
            items = random.choice(ITEM_MUTATIONS)(random, items)
            if not items:
                break
    line = joined(items, (random.choice(SPACES), random.choice(SPACES)) if random.random() < 0.2 else ("", ""))
    if not is_structured or random.random() < 0.05:
        for _ in range(random.choice((1, 1, 1, 1, 2, 4))):
            line = random.choice(BYTE_MUTATIONS)(random, line) or b"{"
    return line


def mutated_lines(random: Random) -> Iterator[bytes]:
    """Return mutated lines without end; what was cut off a line comes after it, where reading on would find it."""
    while True:
        line = encode_event(canonical_event(random))
        for _ in range(MUTATIONS_PER_EVENT):
            yield mutated(random, line)
        if random.random() < 0.2:
            at = random.randrange(1, len(line))
            yield line[:at]
            yield line[at:]


def read_any(random: Random, lines: list[bytes]) -> Batch:
    """Read lines in one of the shapes that batches come in."""
    if random.random() < 0.5:
        return read_values(lines)
    return read_file([line.replace(b"\n", b" ") for line in lines], random.choice((b"\n", b"\r\n")))


def disagreements(batch: Batch) -> Iterator[tuple[bytes, object, object]]:
    """Yield each line that was taken for another event than decoding gives: the line, the row's event, decoding's."""
    for number, line in enumerate(batch.lines):
        found = batch.event(number)
        if found is not None and found != (expected := decode(line)):
            yield line, found, expected


@dataclass
class Tally:
    """What became of the lines of a search; ``faults`` are the lines taken for another event than they are."""

    lines: int = 0
    accepted: int = 0
    handed_over: int = 0
    faults: list[tuple[bytes, object, object]] = field(default_factory=list)


def search(seed: int, lines_count: int) -> Tally:
    """Read ``lines_count`` mutated lines, and those that fill the last batch."""
    random, tally = Random(seed), Tally()
    stream = mutated_lines(random)
    while tally.lines < lines_count:
        batch = read_any(random, [next(stream) for _ in range(BATCH_LINES)])
        accepted = sum(row[columns.KIND] != HANDED_OVER for row in batch.rows)
        tally.lines += len(batch.lines)
        tally.accepted += accepted
        tally.handed_over += len(batch.lines) - accepted
        tally.faults += disagreements(batch)
    return tally


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.line_cases", description=__doc__)
    parser.add_argument("--lines", type=int, default=3_000_000)
    parser.add_argument("--seed", type=int, default=SystemRandom().getrandbits(32))
    options = parser.parse_args(arguments)
    tally = search(options.seed, options.lines)
    for line, found, expected in tally.faults[:FAULTS_SHOWN]:
        print(f"{line!r}\n  read as {found}\n  decoded {expected}")
    print(
        f"seed {options.seed}: {tally.lines} lines, {tally.accepted} accepted, {tally.handed_over} handed over, "
        f"{len(tally.faults)} disagreements"
    )
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
