"""Marks that are put in force many at a time change what they change one by one, whatever stands between them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from random import Random, SystemRandom
from typing import Any

import numpy as np
import pytest

from engine.core import ledger
from engine.core.book import Book
from engine.core.events import Message, Origin, Output
from engine.core.kernels.follow import MARK_COLUMNS, SYMBOL, scaled_price
from engine.core.kernels.tables import BALANCE_MAX, COST_MAX, FLAGS, IS_OPEN, MARK_TS, PRICE, SIZE_MAX, STANDING_FLAGS
from engine.core.lines import Lines
from engine.core.machine import Machine
from engine.core.params import Risk
from engine.core.shard import Shard
from engine.edges.bookfile import load_document
from engine.edges.codec import decode
from engine.edges.digest import state_document, state_hash
from engine.edges.fold import INPUT_TOPICS, Fold
from engine.edges.journal import Position
from engine.edges.line_batch import LineReader
from engine.edges.snapshot import decode_snapshot, encode_snapshot
from engine.edges.venue import BookVenue
from engine.units import INT64_MAX, POSITION_UNITS_MAX, format_scaled, scaled_half_even
from tests.scenarios import (
    LOG,
    MS,
    SECOND,
    START_NS,
    Body,
    asset_price,
    buy,
    control,
    deposit,
    funding,
    kinds,
    mark,
    of,
    one,
    own_id,
    sell,
    tiny_risk,
    withdraw,
)
from tests.service_cases import Record, record_of
from tests.triggers import check_triggers

SEED = 20_251_010 if os.environ.get("CI") else SystemRandom().getrandbits(32)
BATCHES = (1, 7, 256, 4096)
STREAMS, STREAM_LINES = 12, 450
PRICES = 1_000_000

# -------------------------------------------------------------------------------------------------------- both ways


@dataclass
class Run:
    """A shard that was told some lines: its outputs, and which lines, from 0, somebody had to decode."""

    shard: Shard
    outputs: list[Output] = field(default_factory=list)
    decoded: list[int] = field(default_factory=list)

    @property
    def bodies(self) -> list[Body]:
        return [output.body for output in self.outputs]

    @property
    def reasons(self) -> list[str]:
        """Why lines were refused, in order."""
        return [body["reason"] for body in of(self.bodies, "reject")]

    def mark(self, symbol: str = "BTCUSDT") -> str:
        """The mark in force."""
        book = self.shard.book
        index = book.symbol_index[symbol]
        return format_scaled(book.marks[index].value, book.instruments[index].price_decimals)

    def seen(self) -> dict[str, Any]:
        """Everything there is to see of it, and what the kernels will meet at the next mark."""
        shard = self.shard
        return {
            "outputs": self.outputs,
            "counters": asdict(shard.counters),
            "origin": shard.origin,
            "future": shard.future,
            "waiting": shard.book.waiting,
            "state": state_document(shard),
            "hash": state_hash(shard),
            "open": shard.book.tables.symbols[:, [PRICE, MARK_TS, IS_OPEN]].tolist(),
            "ids": (shard.ids.current, shard.ids.previous),
            "tables": held_in(shard.book),
        }


def held_in(book: Book) -> dict[str, Any]:
    """What the kernels hold of rows and positions, places among holders and maxima included."""
    tables, symbols = book.tables, range(len(book.instruments))
    rows = tables.rows[: len(book.accounts)].copy()
    # When keys are set is nobody's business, as long as they are by the next price.
    rows[:, FLAGS] &= STANDING_FLAGS
    return {
        "rows": rows.tolist(),
        "balances": tables.balances[: len(book.accounts)].tolist(),
        "holders": [tables.positions[book.holder_ids(symbol)].tolist() for symbol in symbols],
        "largest": tables.symbols[:, [SIZE_MAX, COST_MAX]].tolist() + tables.assets[:, BALANCE_MAX].tolist(),
    }


def applied(shard: Shard, lines: Sequence[bytes]) -> Run:
    """Tell a shard lines one by one."""
    run, machine = Run(shard), Machine(shard)
    for number, line in enumerate(lines, start=1):
        event = decode(line)
        if event is not None:
            run.outputs += machine.apply([Message(Origin(LOG, -1, number), event, line)])
    return run


def folded(shard: Shard, lines: Sequence[bytes], batch: int, *, verify_every: int = 0) -> Run:
    """Tell a shard lines so many at a time."""
    run, machine, reader = Run(shard), Machine(shard, verify_every=verify_every), LineReader(shard.book)
    for first in range(0, len(lines), batch):
        run.outputs += machine.fold(read(reader, lines[first : first + batch], first, run.decoded))
    return run


def read(reader: LineReader, part: Sequence[bytes], first: int, decoded: list[int]) -> Lines:
    ends = np.cumsum([len(line) for line in part], dtype=np.int64)
    begins = ends - np.array([len(line) for line in part], dtype=np.int64)

    def origin(index: int) -> Origin:
        return Origin(LOG, -1, first + index + 1)

    def message(index: int) -> Message | None:
        decoded.append(first + index)
        event = decode(part[index])
        return None if event is None else Message(origin(index), event, part[index])

    return reader.read(np.frombuffer(b"".join(part), dtype=np.uint8), begins, ends, message=message, origin=origin)


def lines_of(*bodies: Body | bytes) -> list[bytes]:
    """Return messages as lines, each a millisecond after the one before and with an id, unless it has its own."""
    lines = []
    for number, body in enumerate(bodies, start=1):
        named = (
            {**own_id(body, f"id-{number}"), "ts": START_NS + number * MS, **body} if isinstance(body, dict) else None
        )
        lines.append(body if isinstance(body, bytes) else json.dumps(named).encode())
    return lines


def both(*bodies: Body | bytes, risk: Risk | None = None, venue: bool = False) -> Run:
    """Check that some messages do the same both ways, in batches of any size; return the run of one batch."""
    lines, risk = lines_of(*bodies), risk or tiny_risk()
    shards = [Shard(risk, venue=BookVenue() if venue else None) for _ in (0, *BATCHES)]
    expected = applied(shards[0], lines).seen()
    runs = [folded(shard, lines, batch) for shard, batch in zip(shards[1:], BATCHES, strict=True)]
    for batch, run in zip(BATCHES, runs, strict=True):
        check_same(run, expected, f"batches of {batch}")
    return runs[-1]


def check_same(run: Run, expected: dict[str, Any], where: str) -> None:
    seen = run.seen()
    for name, value in expected.items():
        assert seen[name] == value, f"{where}: other {name}"
    ledger.check_conservation(run.shard.book)
    check_triggers(run.shard.book)


# Both symbols have a mark of the log: the first one of each is nobody's usual one.
OPENING = [mark("100"), mark("100", "ETHUSDT")]


# ----------------------------------------------------------------------------------------------------- random streams


class Feed:
    """A made-up day: mostly usual marks, and everything that may stand between them."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.now = START_NS
        self.lines: list[bytes] = []
        self.prices = dict.fromkeys(("BTCUSDT", "ETHUSDT", "XBTUSD", "COINED", "MINI"), 100 * 10**6)
        self.accounts = [f"a{number}" for number in range(12)]
        policy = {
            "price_band": random.choice(("0", "0.03", "0.03")),
            "max_future_s": random.choice((0, 60)),
            "mark_stale_ms": random.choice((0, 0, 300)),
            "partial": random.choice(("off", "cheapest")),
            "trigger": random.choice(("at_or_below", "below")),
            "tier_mode": random.choice(("marginal", "whole")),
            "adl_rule": random.choice(("queue", "pro_rata", "water_filling")),
            "socialise": random.choice(("off", "winners")),
        }
        coin = {"weights": [["0", "0.95"], ["300", "0.5"]], "slippage": "0.01"}
        self.risk = tiny_risk(
            **policy,
            max_hold_ms=200,
            order_timeout_ms=50,
            max_attempts=2,
            flow_window_ms=100,
            assets={"BTC": coin, "COIN": coin},
            instruments={
                "BTCUSDT": {"liquidation_fee": "0.001", "taker_fee": "0.0005"},
                "ETHUSDT": {"flow_budget": "150", "tiers": [["0", "0.01", "50"], ["900", "0.03", "20"]]},
                "XBTUSD": {
                    "kind": "inverse", "settle": "BTC", "lot": "1", "price_tick": "0.5", "mark_decimals": 2,
                    "tiers": [["0", "0.01", "50"]],
                },
                "COINED": {"settle": "COIN", "lot": "0.1", "price_tick": "0.1", "tiers": [["0", "0.02", "25"]]},
                "MINI": {
                    "settle": "USDT", "lot": "0.5", "multiplier": "0.37", "price_tick": "0.1",
                    "tiers": [["0", "0.02", "25"]],
                },
            },
        )  # fmt: skip
        # How far everybody is from the edge: in a poor market few marks concern nobody, in a rich one nearly all.
        self.wealth = random.choice((1, 5, 30, 30))
        self.open()
        weights = self.weights()
        for make in random.choices(list(weights), list(weights.values()), k=STREAM_LINES):
            make()

    def weights(self) -> dict[Callable[[], None], int]:
        """How often what is said."""
        often = {self.usual: 90, self.jump: 6, self.gap: 6, self.odd: 5, self.late: 4, self.far: 3, self.trade: 4}
        return often | {self.cash: 3, self.price: 4, self.fund: 1, self.answer: 2, **self.rarely()}

    def rarely(self) -> dict[Callable[[], None], int]:
        return {self.command: 2, self.again: 2, self.garbage: 2}

    def say(self, body: Body, **fields: Any) -> None:
        fields = {"ts": self.now, **own_id(body, f"id-{len(self.lines)}"), **fields}
        self.lines.append(json.dumps({**body, **fields}).encode())

    def later(self) -> None:
        self.now += self.random.choice((0, 0, 1, MS, 5 * MS, 25 * MS))

    def open(self) -> None:
        """Everybody comes with ten contracts of something and little behind them; some hold two sides, or a bucket."""
        random = self.random
        for asset in ("BTC", "COIN"):
            self.say(asset_price(asset, "100"))
        for symbol in self.prices:
            self.say(mark("100", symbol))
        self.say(deposit("$insurance", str(random.choice((1, 50, 5000)) * self.wealth)))
        for number, account in enumerate(self.accounts):
            asset = random.choice(("USDT", "USDT", "BTC", "COIN"))
            amount = random.randint(25, 300) if asset == "USDT" else random.randint(1, 4)
            self.say(deposit(account, str(amount * self.wealth), asset))
            for _ in range(random.randint(1, 3)):
                self.trade(account)
            if number % 4 == 0:
                self.say(deposit(account, str(random.randint(25, 80) * self.wealth), symbol="BTCUSDT"))
                self.say(buy(account, "10", "100", isolated=True))
            if number % 4 == 1:
                self.say(buy(account, "10", "100", "ETHUSDT", leg="long"))
                self.say(sell(account, "7", "100", "ETHUSDT", leg="short"))

    def some(self) -> str:
        return self.random.choice(list(self.prices))

    def text(self, symbol: str) -> str:
        """The symbol's price with as many digits as a venue may print, exact halves of a step among them."""
        whole, rest = divmod(self.prices[symbol], 10**6)
        more = self.random.choice(("", "", "", "5", "500", "4999999", "5000001", "50000000000", "499999999999999999"))
        digits = self.random.choice((6, 6, 5, 2, 1))
        return f"{whole}.{f'{rest:06d}'[:digits]}{more}"

    def move(self, symbol: str, ppm: int) -> None:
        self.prices[symbol] += self.prices[symbol] * ppm // 10**6

    def usual(self) -> None:
        self.later()
        symbol = self.some()
        self.move(symbol, self.random.randint(-2500, 2500))
        self.say(mark(self.text(symbol), symbol))

    def jump(self) -> None:
        symbol = self.some()
        self.move(symbol, self.random.choice((-1, 1)) * self.random.randint(5_000, 35_000))
        self.say(mark(self.text(symbol), symbol))

    def gap(self) -> None:
        """Far away: of some, the index says the same; some stay there, some were a glitch."""
        symbol, before = self.some(), dict(self.prices)
        self.move(symbol, self.random.choice((-1, 1)) * self.random.randint(40_000, 200_000))
        index = {"index_price": self.text(symbol)} if self.random.random() < 0.3 else {}
        self.say(mark(self.text(symbol), symbol, **index))
        if self.random.random() < 0.5:
            self.prices = before

    def odd(self) -> None:
        texts = "0.0000000001", "0", "-5", "9" * 18, "9" * 19, "40000000000000", "1e2", "0.500000000000000001", "7" * 30
        self.say(mark(self.random.choice(texts), self.some()))

    def late(self) -> None:
        symbol = self.some()
        self.say(mark(self.text(symbol), symbol), ts=self.now - self.random.randint(1, 30 * MS))

    def far(self) -> None:
        """Ahead of the clock: by one key, or by two in a row."""
        ahead = self.now + self.random.choice((59, 60, 61, 300)) * SECOND * bool(self.risk.policy.max_future_s)
        symbols = self.random.sample(["BTCUSDT", "ETHUSDT", "NOBODY"], self.random.randint(1, 2))
        for symbol in symbols:
            self.say(mark(self.text("ETHUSDT"), symbol), ts=ahead)
        if len(symbols) == 2:
            self.now = ahead

    def trade(self, account: str | None = None) -> None:
        random, symbol = self.random, self.some()
        qty = str(random.choice((1, 5, 10, 10, 20)) * (100 if symbol == "XBTUSD" else 1))
        side = random.choice((buy, sell))
        self.say(side(account or random.choice(self.accounts), qty, self.text(symbol)[:8], symbol))

    def cash(self) -> None:
        way = self.random.choice((deposit, deposit, withdraw))
        self.say(way(self.random.choice(self.accounts), str(self.random.randint(1, 40) * self.wealth)))

    def price(self) -> None:
        moved = self.random.choice((99, 100, 101, 97, 104, 60))
        self.say(asset_price(self.random.choice(("BTC", "COIN")), str(moved), source=self.random.choice("xyz")))

    def fund(self) -> None:
        self.say(funding(self.random.choice(("0.0005", "-0.01")), self.some()))

    def answer(self) -> None:
        """To an order that may have been sent."""
        account, random = self.random.choice(self.accounts), self.random
        order_id = f"{account}/{random.randint(1, 2)}/{random.randint(1, 3)}"
        if random.random() < 0.5:
            self.say({"type": "order_done", "order_id": order_id, "account": account, "status": "expired"})
        else:
            self.say(random.choice((buy, sell))(account, "3", "100", self.some(), order_id=order_id))

    def command(self) -> None:
        """An operator's: some stop everything, some change what a mark is rounded to, some open a market."""
        random, number = self.random, len(self.lines)
        tiers = {"price_tick": "0.1", "lot": "0.01", "tiers": [["0", "0.01", "50"]]}
        market: Body = {"symbol": f"NEW{number}", "settle": "USDT", **tiers}
        commands = [
            control("pause", scope=random.choice(("all", "BTCUSDT"))),
            control("resume", scope="all"),
            control("resume", scope="BTCUSDT"),
            control("set_instrument", symbol=self.some(), mark_decimals=random.randint(0, 3)),
            control("set_policy", price_band=random.choice(("0", "0.03", "0.1"))),
            control("set_instrument", **market),
        ]
        command = random.choice(commands)
        self.say(command)
        if command is commands[-1]:
            self.prices[market["symbol"]] = 100 * 10**6
            self.say(mark("100", market["symbol"]))
            self.trade()

    def again(self) -> None:
        self.lines.append(self.random.choice(self.lines))

    def garbage(self) -> None:
        cut = self.random.choice(self.lines)[:-3]
        self.lines.append(self.random.choice((b"", b"   ", b"\r", b"{}", b"\xff\xfe", b"[]", b"null", cut)))


@cache
def feed(number: int) -> Feed:
    return Feed(Random(f"{SEED}/{number}"))


def shard_of(number: int) -> Shard:
    """A shard for a stream; of some the orders are filled by a simulated book."""
    return Shard(feed(number).risk, venue=BookVenue() if number % 6 == 5 else None)


def told(number: int, batch: int, lines: Sequence[bytes]) -> Run:
    """Tell a stream's lines, some of them looked at by everybody, too."""
    return folded(shard_of(number), lines, batch, verify_every=5 if number % 3 == 2 else 0)


@cache
def one_by_one(number: int) -> Run:
    return applied(shard_of(number), feed(number).lines)


@pytest.mark.parametrize("number", range(STREAMS))
def test_a_stream_in_batches_does_what_it_does_line_by_line(number: int) -> None:
    lines = feed(number).lines
    expected = one_by_one(number).seen()
    for batch in BATCHES:
        if told(number, batch, lines).seen() == expected:
            continue
        shortest = shortened(lines, partial(is_other, number, batch))
        text = "\n".join(line.decode("latin-1") for line in shortest)
        where = f"seed {SEED}, stream {number}, batches of {batch}; the same with\n{text}\n"
        check_same(told(number, batch, shortest), applied(shard_of(number), shortest).seen(), where)


def is_other(number: int, batch: int, lines: Sequence[bytes]) -> bool:
    """Return whether some lines of a stream do anything else in batches."""
    return told(number, batch, lines).seen() != applied(shard_of(number), lines).seen()


def shortened(lines: list[bytes], fails: Callable[[list[bytes]], bool], *, tries: int = 300) -> list[bytes]:
    """Return some of the lines that fail like all of them, found in a bounded number of tries."""
    size = len(lines)
    while size:
        first = 0
        while first < len(lines) and tries:
            rest = lines[:first] + lines[first + size :]
            tries -= 1
            if fails(rest):
                lines = rest
            else:
                first += size
        size //= 2
    return lines


def test_failing_lines_are_shortened_to_those_that_matter() -> None:
    lines = [str(number).encode() for number in range(100)]
    assert shortened(lines, lambda part: b"17" in part and b"60" in part) == [b"17", b"60"]


def test_the_streams_hold_something_of_everything() -> None:
    """What never happens in them, they cannot compare: one message in ten, at least, is the kernel's own doing."""
    said: Counter[str] = Counter()
    followed = messages = 0
    for number in range(STREAMS):
        run = one_by_one(number)
        said.update(kinds(run.bodies))
        said.update(run.reasons)
        said.update(body["reason"] for body in of(run.bodies, "liquidation_held"))
        said.update({name: getattr(run.shard.counters, name) for name in ("duplicates", "ignored", "fills")})
        if run.shard.venue is None:
            messages += run.shard.counters.messages
            again = told(number, 4096, feed(number).lines)
            followed += again.shard.counters.messages - sum(
                decode(feed(number).lines[n]) is not None for n in again.decoded
            )
    expected = """liquidation_started liquidation_order liquidation_ended takeover adl bad_debt collateral_sale
        margin_call liquidation_held policy_changed unknown_symbol out_of_range overflow future_ts bad_json bad_number
        duplicates ignored fills price_band paused"""
    assert [name for name in expected.split() if not said[name]] == [], f"seed {SEED}"
    assert followed > messages // 10, f"seed {SEED}"


# ------------------------------------------------------------------------------------------------------ usual or not


def test_usual_marks_are_decoded_by_nobody() -> None:
    run = both(*OPENING, *(mark(f"100.{n}", symbol) for n in range(9) for symbol in ("BTCUSDT", "ETHUSDT")))
    assert run.decoded == [0, 1]
    assert (run.mark(), run.mark("ETHUSDT")) == ("100.8", "100.8")
    assert (run.shard.counters.accepted, run.shard.clock, run.outputs) == (20, START_NS + 20 * MS, [])
    assert run.shard.origin == (LOG, -1, 20)


def test_of_marks_of_the_same_time_the_last_one_holds_and_an_older_one_is_ignored() -> None:
    late, now = START_NS + SECOND, START_NS + SECOND + 1
    run = both(*OPENING, mark("101", ts=now), mark("102", ts=now), mark("103", ts=late), mark("99", "ETHUSDT", ts=late))
    assert (run.mark(), run.mark("ETHUSDT")) == ("102", "99")
    assert (run.shard.counters.ignored, run.shard.clock) == (1, now)
    # ETH's own last mark is older still: behind the clock, and usual all the same.
    assert run.decoded == [0, 1, 4]


@pytest.mark.parametrize(
    ("price", "in_force"),
    [
        ("100.000005", "100"),
        ("100.000015", "100.00002"),
        ("100.000025", "100.00002"),
        ("100.0000250", "100.00002"),
        ("100.000025000000001", "100.00003"),
        ("100.000024999999999", "100.00002"),
        ("100.999995", "101"),
        ("0.00000500000000001", "0.00001"),
        ("0.50000000000000001", "0.5"),
        ("7", "7"),
    ],
)
def test_a_mark_of_more_digits_is_rounded_half_to_even(price: str, in_force: str) -> None:
    """CONTRACT section 1: BTCUSDT is traded in lots of 0.001, so its mark has 8 - 3 = 5 decimals."""
    run = both(*OPENING, mark(price))
    assert run.mark() == in_force
    assert run.decoded == [0, 1]


def test_other_decimals_hold_from_their_message_on_in_the_middle_of_a_batch() -> None:
    commands = [control("set_instrument", symbol="BTCUSDT", mark_decimals=digits) for digits in (0, -1, 5)]
    marks = [both(*OPENING, *commands[:count], mark("104.5"), mark("115.00001")).mark() for count in range(4)]
    # 115.00001 to units is 115, to tens 120; 115 would be half, and even is 120 as well.
    assert marks == ["115.00001", "115", "120", "115.00001"]
    run = both(
        *OPENING, mark("104.5"), commands[0], mark("104.5"), commands[1], mark("105"), commands[2], mark("105.5")
    )
    assert run.decoded == [0, 1, 3, 5, 7]
    assert run.mark() == "105.5"


def test_decimals_so_few_that_no_price_is_left_refuse_every_mark() -> None:
    """-18 is allowed: a mark is then a multiple of 10**18, and a step of the engine is 1e-5 of a dollar."""
    run = both(*OPENING, control("set_instrument", symbol="BTCUSDT", mark_decimals=-18), mark("101"), mark("9" * 19))
    assert run.reasons == ["out_of_range", "overflow"]
    assert run.mark() == "100"


UNUSUAL = {
    "of nobody's symbol": (mark("1", "DOGEUSDT"), "unknown_symbol"),
    "nothing once it is rounded": (mark("0.000004"), "out_of_range"),
    "half of the smallest step is none": (mark("0.000005"), "out_of_range"),
    "more than any position may be worth": (mark("40000000000000.1"), "overflow"),
    "of nineteen digits": (mark("9" * 19), "overflow"),
    "further ahead than a minute": (mark("100", ts=START_NS + 62 * SECOND), "future_ts"),
    "no price": (mark("0"), "out_of_range"),
    "a float": (b'{"type":"mark","symbol":"BTCUSDT","price":1.5,"ts":1}', "bad_number"),
}


@pytest.mark.parametrize(("unusual", "reason"), UNUSUAL.values(), ids=UNUSUAL)
def test_a_mark_that_is_refused_is_refused_in_its_place(unusual: Body | bytes, reason: str) -> None:
    run = both(*OPENING, mark("101"), unusual, mark("102"), risk=tiny_risk(max_future_s=60))
    assert run.reasons == [reason]
    assert one(run.bodies, "reject")["line"] == 4
    assert (run.mark(), run.decoded) == ("102", [0, 1, 3])


def test_the_last_price_that_fits_is_taken_and_the_next_one_refused() -> None:
    """4e18 steps of 1e-5 are 40,000,000,000,000."""
    run = both(*OPENING, mark("40000000000000"), mark("40000000000000.00001"))
    assert (run.mark(), run.reasons) == ("40000000000000", ["overflow"])


def test_a_time_ahead_is_believed_from_the_second_key_and_a_mark_between_them_breaks_it() -> None:
    ahead = START_NS + 100 * SECOND
    far, other = mark("101", ts=ahead), mark("102", "ETHUSDT", ts=ahead + 1)
    believed = both(*OPENING, far, other, risk=tiny_risk(max_future_s=60))
    assert (believed.reasons, believed.shard.clock) == (["future_ts"], ahead + 1)
    broken = both(*OPENING, far, mark("100.5"), other, risk=tiny_risk(max_future_s=60))
    assert (broken.reasons, broken.shard.clock) == (["future_ts", "future_ts"], START_NS + 4 * MS)
    assert broken.shard.future == ("ETHUSDT", ahead + 1)
    # Sixty seconds ahead is not further ahead than sixty seconds.
    edge = both(*OPENING, mark("101", ts=START_NS + 2 * MS + 60 * SECOND), risk=tiny_risk(max_future_s=60))
    assert (edge.reasons, edge.decoded) == ([], [0, 1])


def test_blank_lines_count_as_nothing_and_line_numbers_go_on() -> None:
    run = both(*OPENING, b"", mark("101"), b"  \r", b"\r", mark("1", "DOGEUSDT"), b"")
    assert (run.shard.counters.messages, one(run.bodies, "reject")["line"]) == (4, 7)


def test_an_empty_batch_is_nothing() -> None:
    shard = Shard(tiny_risk())
    nothing = Lines(np.zeros((0, MARK_COLUMNS), dtype=np.int64), lambda _: None, lambda _: Origin(LOG, -1, 0))
    assert Machine(shard).fold(nothing) == []
    assert (shard.counters.messages, shard.book.clock) == (0, None)


def test_marks_of_a_book_that_the_log_has_not_shown_are_no_usual_ones() -> None:
    """Warm-up: an account is first examined once each of its symbols had a mark in the log."""
    risk = tiny_risk()
    position = {"symbol": "BTCUSDT", "qty": "10", "entry_price": "100"}
    document = {"accounts": [{"account": "a", "balances": {"USDT": "5"}, "positions": [position]}]}
    runs = []
    for batch in (0, *BATCHES):
        shard = Shard(risk)
        load_document(shard, {**document, "marks": {"BTCUSDT": "100", "ETHUSDT": "100"}, "ts": START_NS}, "book.json")
        lines = lines_of(mark("100", "ETHUSDT"), mark("100"), mark("101", "ETHUSDT"))
        runs.append(folded(shard, lines, batch) if batch else applied(shard, lines))
        check_same(runs[-1], runs[0].seen(), f"batches of {batch}")
    # 5 of equity against 10 of margin, since ever: told at the first mark that the log shows.
    assert one(runs[0].bodies, "liquidation_started")["ts"] == START_NS + 2 * MS
    assert runs[-1].decoded == [0, 1]


# -------------------------------------------------------------------------------------------------------- price band


BAND = tiny_risk(price_band="0.1", max_hold_ms=60_000)


@pytest.mark.parametrize(("price", "is_held"), [("110", False), ("90", False), ("110.00001", True), ("89.99999", True)])
def test_a_mark_on_the_edge_of_the_band_is_in_force_and_one_a_step_beyond_waits(price: str, is_held: bool) -> None:
    run = both(*OPENING, mark(price), mark("100", "ETHUSDT"), risk=BAND)
    assert run.mark() == ("100" if is_held else price)
    assert run.shard.book.waiting == ({("mark", 0)} if is_held else set())


def test_the_edge_of_the_band_is_exact_also_where_floats_run_out_of_digits() -> None:
    """A step of 1e-5 on 60,000,000 is less than a billionth of the band, on 3,600,000,000,000 less than a float has."""
    for start, edge, beyond in (
        ("60000000", "66000000", "66000000.00001"),
        ("3600000000000", "3960000000000", "3960000000000.00001"),
        ("3600000000000.00003", "3960000000000.00003", "3960000000000.00004"),
    ):
        assert both(mark(start), mark(edge), risk=BAND).mark() == edge
        assert both(mark(start), mark(beyond), risk=BAND).mark() == start


def test_while_a_mark_waits_the_next_one_confirms_it_or_drops_it() -> None:
    waits = [*OPENING, mark("130")]
    confirmed = both(*waits, mark("131"), mark("132"), risk=BAND)
    assert (confirmed.mark(), confirmed.decoded) == ("132", [0, 1, 2, 3])
    dropped = both(*waits, mark("105"), mark("131"), risk=BAND)
    assert (dropped.mark(), dropped.decoded) == ("105", [0, 1, 2, 3, 4])
    # 100 is within the band of 105 and of 100, though not of 130.
    assert both(*waits, mark("160"), mark("100"), mark("101"), risk=BAND).mark() == "101"


def test_a_mark_older_than_one_that_waits_is_ignored_also_once_that_is_dropped() -> None:
    ahead = START_NS + SECOND
    older = mark("101", ts=ahead - 1)
    run = both(*OPENING, mark("130", ts=ahead), older, mark("102", ts=ahead), older, mark("103", ts=ahead), risk=BAND)
    assert (run.shard.counters.ignored, run.mark()) == (2, "103")
    assert run.decoded == [0, 1, 2, 3, 4, 5]


def test_a_mark_that_waited_in_vain_still_has_the_last_time() -> None:
    """1000 waits from second 1 on; meanwhile somebody buys $10B at 100, whom it would carry out of 64 bits."""
    begun = START_NS + SECOND
    trades = [deposit("a", "2000000000", ts=begun), buy("a", "100000000", "100", ts=begun)]
    over = mark("101", "ETHUSDT", ts=begun + 60 * SECOND)
    older, newer = mark("102", ts=begun - 1), mark("103", ts=begun)
    run = both(*OPENING, mark("1000", ts=begun), *trades, over, older, risk=BAND)
    assert (run.shard.book.waiting, run.mark(), run.shard.counters.ignored) == (set(), "100", 1)
    assert both(*OPENING, mark("1000", ts=begun), *trades, over, older, newer, risk=BAND).mark() == "103"


def test_an_index_price_confirms_what_lies_outside_the_band_and_changes_nothing_inside() -> None:
    run = both(*OPENING, mark("130", index_price="131"), mark("131", index_price="1"), mark("160"), risk=BAND)
    assert (run.mark(), run.shard.book.waiting) == ("131", {("mark", 0)})
    assert run.decoded == [0, 1, 2, 4]


def test_a_wait_ends_at_its_time_with_a_mark_of_another_symbol() -> None:
    begun = START_NS + SECOND
    for wait, price in ((60 * SECOND - 1, "100"), (60 * SECOND, "130")):
        other = mark("101", "ETHUSDT", ts=begun + wait)
        run = both(*OPENING, mark("100", ts=begun), mark("130", ts=begun), other, risk=BAND)
        assert run.mark() == price


def test_a_band_that_is_set_or_lifted_holds_from_its_message_on() -> None:
    narrow, off = (control("set_policy", price_band=band) for band in ("0.01", "0"))
    run = both(*OPENING, mark("150"), narrow, mark("160"), mark("151"), off, mark("300"))
    assert (run.mark(), run.shard.book.waiting) == ("300", set())
    assert both(*OPENING, mark("150"), narrow, mark("160")).mark() == "150"


# ---------------------------------------------------------------------------------------------------- who is concerned


# A long of ten at 100 with 60 behind it; MM is 1 % of 1000.
LONG = [*OPENING, deposit("a", "60"), buy("a", "10", "100")]


def test_a_mark_that_concerns_somebody_is_one_message_like_any_other() -> None:
    """At 95 there are 10 left of 60, and 9.5 are needed; half a dollar further the account has 5."""
    run = both(*LONG, *(mark(price) for price in ("99", "98", "95", "94.5", "94.4")))
    assert kinds(run.bodies) == ["margin_call", "liquidation_started", "cancel_orders", "liquidation_order"]
    call, start = one(run.bodies, "margin_call"), one(run.bodies, "liquidation_started")
    assert (call["ts"], call["equity"], start["ts"], start["equity"]) == (
        START_NS + 7 * MS,
        "10",
        START_NS + 8 * MS,
        "5",
    )
    assert one(run.bodies, "liquidation_order")["decision"]["input"] == {"file": LOG, "line": 8}


def test_a_decision_shows_the_marks_in_force_with_their_times_though_no_message_brought_them() -> None:
    both_held = [
        *LONG,
        buy("a", "1", "100", "ETHUSDT"),
        mark("99.5", "ETHUSDT"),
        mark("99.25", "ETHUSDT"),
        mark("94.5"),
    ]
    run = both(*both_held)
    shown = of(run.bodies, "liquidation_order")[0]["decision"]["marks"]
    assert [(each["symbol"], each["price"], each["ts"]) for each in shown] == [
        ("BTCUSDT", "94.5", START_NS + 8 * MS),
        ("ETHUSDT", "99.25", START_NS + 7 * MS),
    ]
    assert 6 not in run.decoded


def test_symbols_without_a_holder_left_concern_nobody() -> None:
    run = both(*LONG, sell("a", "10", "100"), mark("1"), mark("1000"))
    assert run.decoded == [0, 1, 2, 3]
    assert run.shard.counters.accepted == 7


def test_who_used_up_one_budget_has_less_for_the_other_symbol_from_that_mark_on() -> None:
    """Ten of each from 100 with 200: BTC at 92 takes 80, and ETH at 91 90 more; neither alone would be a call.

    30 are left, and 9.2 + 18.2 = 27.4 are needed: more than four fifths.
    """
    both_held = [*OPENING, deposit("a", "200"), buy("a", "10", "100"), buy("a", "10", "100", "ETHUSDT")]
    run = both(*both_held, mark("92"), mark("91", "ETHUSDT"))
    call = one(run.bodies, "margin_call")
    assert (call["equity"], call["ts"]) == ("30", START_NS + 7 * MS)
    # Nor did anybody decode the mark that found the account.
    assert run.decoded == [0, 1, 2, 3, 4]
    # BTC alone concerns nobody, ETH alone neither.
    assert both(*both_held, mark("92")).decoded == both(*both_held, mark("91", "ETHUSDT")).decoded == [0, 1, 2, 3, 4]


def test_a_simulated_book_refills_with_every_mark_also_one_that_concerns_nobody() -> None:
    """1000 of depth: 945 of it go to the first account's ten at 94.5; at 94.4 the other's five are worth 472.

    That one has 36 - 28 = 8 left, and with 4 withdrawn less than the 4.72 needed.
    """
    risk = tiny_risk(instruments={"BTCUSDT": {"depth": "1000"}})
    second = [deposit("b", "36"), buy("b", "5", "100")]
    run = both(*LONG, *second, mark("94.5"), mark("94.4"), withdraw("b", "4"), risk=risk, venue=True)
    ended = [(body["account"], body["closed_notional"]) for body in of(run.bodies, "liquidation_ended")]
    assert ended == [("a", "945"), ("b", "472")]


def test_an_order_times_out_with_the_mark_of_its_time_and_not_a_nanosecond_sooner() -> None:
    """``order_timeout_ms`` is 5000: the order of message 5 is given up at its ts + 5 s, and a second one sent."""
    sent = START_NS + 5 * MS
    for wait, orders in ((5 * SECOND - 1, 1), (5 * SECOND, 2)):
        run = both(*LONG, mark("94.5"), mark("99", "ETHUSDT", ts=sent + wait))
        assert len(of(run.bodies, "liquidation_order")) == orders
        assert run.shard.clock == sent + wait


def test_timers_beyond_the_end_of_time_hold_up_nothing() -> None:
    """A ts is any int64: an order sent a second before the last one is due four seconds after it."""
    bodies = [*LONG, mark("94.5"), mark("101", "ETHUSDT"), mark("102", "ETHUSDT")]
    run = both(*({**body, "ts": INT64_MAX - SECOND} for body in bodies))
    assert len(of(run.bodies, "liquidation_order")) == 1
    assert run.mark("ETHUSDT") == "102"


def test_what_found_no_taker_is_tried_again_with_every_mark() -> None:
    """Five contracts of loss 15 each cost 75; the fund has 10 above its floor, and 10 more with each dollar of ETH.

    At 80 the account has 50 - 200 = -150, so its ten contracts are taken at 95, 15 above the mark.
    """
    fund = [deposit("$insurance", "60"), buy("$insurance", "10", "100", "ETHUSDT")]
    marks = [mark(price, "ETHUSDT") for price in ("101", "100.5", "104", "99", "130")]
    bodies = [*OPENING, *fund, deposit("a", "50"), buy("a", "10", "100"), mark("80"), *marks, mark("131", "ETHUSDT")]
    run = both(*bodies, risk=tiny_risk(insurance_floor="50"))
    takeovers = of(run.bodies, "takeover")
    assert len(takeovers) >= 2
    assert {body["ts"] - START_NS for body in takeovers} > {7 * MS}
    assert one(run.bodies, "liquidation_ended")["ts"] == START_NS + 12 * MS
    # The mark that found the account is a usual one; so is the last, for nothing is stuck any more.
    assert run.decoded == [*range(6), *range(7, 12)]


def test_a_paused_symbol_holds_the_account_whatever_its_marks() -> None:
    pause, resume = (control(word, scope="BTCUSDT") for word in ("pause", "resume"))
    run = both(*LONG, pause, mark("94.5"), mark("94.4"), mark("99", "ETHUSDT"), resume, mark("94.3"))
    assert kinds(run.bodies)[:2] == ["margin_call", "liquidation_held"]
    assert one(run.bodies, "liquidation_started")["ts"] == START_NS + 9 * MS


def test_a_mark_that_carries_somebody_out_of_64_bits_is_refused() -> None:
    """$35B long from 100; at 160 that is 56 and 35 of cost on the other side: 91 of the 90 that a sum may be."""
    bodies = [*OPENING, deposit("a", "8000000000"), buy("a", "350000000", "100"), sell("b", "350000000", "100")]
    run = both(*bodies, mark("150"), mark("160"), mark("151"), mark("99", "ETHUSDT"), mark("90"))
    assert run.reasons == ["overflow"]
    assert run.mark() == "90"
    # It leaves no trace: who is looked at next is looked at with the mark before.
    last = both(*bodies, mark("150"), mark("160"))
    assert (last.reasons, last.mark(), last.shard.book.tables.symbols[0, PRICE]) == (["overflow"], "150", 15_000_000)


def test_marks_of_a_market_that_opens_in_the_middle_of_a_batch() -> None:
    new = control(
        "set_instrument", symbol="SOLUSDT", settle="USDT", price_tick="0.01", lot="0.1", tiers=[["0", "0.02", "25"]]
    )
    first, sol = mark("150", "SOLUSDT"), [mark(price, "SOLUSDT") for price in ("151", "140", "134.5")]
    trade = [deposit("a", "200"), buy("a", "10", "150", "SOLUSDT")]
    run = both(*OPENING, first, new, first, mark("101"), *trade, *sol, mark("102"))
    assert run.reasons == ["unknown_symbol"]
    # 10 x 15.5 of loss leave 45 of 200, and 2 % of 1345 are 26.9; at 134.5 nothing happens yet.
    assert (run.mark("SOLUSDT"), kinds(run.bodies)) == ("134.5", ["reject", "policy_changed"])
    assert kinds(both(*OPENING, new, first, *trade, *sol, mark("132", "SOLUSDT")).bodies)[-1] == "liquidation_order"


def test_a_market_that_is_new_to_one_batch_is_usual_in_the_next() -> None:
    new = control(
        "set_instrument", symbol="SOLUSDT", settle="USDT", price_tick="0.01", lot="0.1", tiers=[["0", "0.02", "25"]]
    )
    lines = lines_of(*OPENING, new, *(mark(f"15{n}", "SOLUSDT") for n in range(5)))
    run = folded(Shard(tiny_risk()), lines, 6)
    assert run.decoded == [0, 1, 2, 3, 4, 5]
    assert run.mark("SOLUSDT") == "154"


def test_a_book_in_which_prices_have_everybody_looked_at_takes_every_line_in_full() -> None:
    lines = lines_of(*LONG, mark("99"), mark("98", "ETHUSDT"))
    shard = Shard(tiny_risk())
    shard.book.is_scanned = True
    run = folded(shard, lines, 4096)
    assert run.decoded == [*range(len(lines))]
    assert run.seen() == applied(Shard(tiny_risk()), lines).seen()


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_every_so_many_messages_one_is_taken_in_full_and_changes_nothing(every: int) -> None:
    lines = lines_of(*OPENING, *(mark(f"100.{n}") for n in range(8)), b"", *(mark(f"101.{n}") for n in range(9)))
    for batch in BATCHES:
        run = folded(Shard(tiny_risk()), lines, batch, verify_every=every)
        check_same(run, applied(Shard(tiny_risk()), lines).seen(), f"batches of {batch}")
        # The blank line, number 10, is no message: what comes behind it counts one less.
        looked_at = {n for n in range(len(lines)) if n != 10 and (n + (n < 10)) % every == 0}
        assert run.decoded == sorted({0, 1, 10} | looked_at)


def test_a_snapshot_between_batches_knows_the_marks_that_no_message_brought() -> None:
    lines = lines_of(*LONG, mark("99"), mark("101", "ETHUSDT"), mark("94.5"), mark("99", "ETHUSDT"), mark("97"))
    for cut in range(5, len(lines)):
        run = folded(Shard(tiny_risk()), lines[:cut], 4096)
        position = Position(0, "ab" * 32, {topic: {0: 0} for topic in INPUT_TOPICS})
        data = encode_snapshot(run.shard, config_hash="00" * 32, position=position)
        restored = decode_snapshot(data).shard
        assert state_hash(restored) == state_hash(run.shard)
        again, straight = folded(restored, lines[cut:], 2), folded(run.shard, lines[cut:], 2)
        assert (again.bodies, state_hash(restored)) == (straight.bodies, state_hash(run.shard))


# ------------------------------------------------------------------------------------------------------------ rounding


def test_a_scaled_price_is_the_exact_one_wherever_it_fits_and_0_where_it_may_not() -> None:
    rng = np.random.default_rng(SEED)
    places = rng.integers(0, 21, PRICES)
    decimals = np.where(rng.random(PRICES) < 0.7, rng.integers(0, 12, PRICES), rng.integers(-18, 19, PRICES))
    powers = np.where(rng.random(PRICES) < 0.7, rng.integers(0, 6, PRICES), rng.integers(0, 19, PRICES))
    mantissas = rng.integers(1, INT64_MAX, PRICES) >> rng.integers(0, 62, PRICES)
    # Half of a step above a multiple of it, or a unit beside that.
    step = 10 ** np.clip(places - decimals, 1, 18)
    halves = mantissas // 2 // step * step + step // 2 + rng.integers(-1, 2, PRICES)
    is_half = (places > decimals) & (places - decimals <= 18) & (rng.random(PRICES) < 0.5)
    mantissas = np.where(is_half, halves, np.maximum(mantissas, 1))
    columns = (mantissas.tolist(), places.tolist(), decimals.tolist(), [10**power for power in powers.tolist()])
    fits = 0
    for case in zip(*columns, strict=True):
        mantissa, fraction, kept, steps = case
        exact = scaled_half_even((mantissa, fraction), kept) * steps
        is_taken = -18 <= fraction - kept <= 18 and exact <= POSITION_UNITS_MAX
        fits += is_taken
        assert scaled_price(*case) == (exact if is_taken else 0), f"seed {SEED}: {case}"
    assert fits > PRICES // 3
    assert int(is_half.sum()) > PRICES // 10


# ---------------------------------------------------------------------------------------------------------- from Kafka


def new_fold(*, number: int = 0) -> Fold:
    offsets = {topic: {0: 0} for topic in INPUT_TOPICS}
    shard = Shard(tiny_risk(), number=number)
    return Fold(shard, Position(0, "ab" * 32, offsets), logical=lambda topic: topic.removeprefix("liq."))


def records_of(*bodies: Body) -> list[Record]:
    """Return messages as records of their topics at the broker, each at an offset of its own."""
    records = [record_of(json.loads(line)) for line in lines_of(*bodies)]
    return [
        Record(f"liq.{each.topic}", each.key, each.value, each.partition, offset)
        for offset, each in enumerate(records, start=40)
    ]


def test_a_mark_is_one_only_where_it_came_as_one() -> None:
    """Every shard reads all marks, but only its own fills: a mark among the fills would be seen by one shard alone."""
    fold, records = new_fold(), records_of(*OPENING, mark("101"), mark("102"), mark("103"), mark("104"))
    for index, topic in ((3, "fills"), (4, "transfers")):
        records[index].topic = f"liq.{topic}"
    records[5] = Record("liq.control", b"*", records[5].value, 0, 45)
    lines = fold.apply(records)
    letters = [json.loads(line.value) for line in lines]
    assert [(body["reason"], body["topic"], body["offset"]) for body in letters] == [
        ("unknown_type", "fills", 43),
        ("unknown_type", "transfers", 44),
        ("unknown_type", "control", 45),
    ]
    assert Run(fold.shard).mark() == "101"
    assert fold.shard.counters.accepted == 3


def test_a_command_for_another_shard_is_ignored_between_marks_and_one_for_all_is_obeyed() -> None:
    decimals = control("set_instrument", symbol="BTCUSDT", mark_decimals=0)
    for key, price, ignored in ((b"1", "104.5", 1), (b"*", "104", 0), (b"3", "104", 0)):
        fold, records = new_fold(number=3), records_of(*OPENING, decimals, mark("104.5"))
        records[2].key = key
        fold.apply(records)
        assert (Run(fold.shard).mark(), fold.shard.counters.ignored) == (price, ignored)


def test_dead_letters_between_usual_marks_have_the_keys_of_their_inputs() -> None:
    unknown, worthless = mark("1", "DOGEUSDT"), mark("0.000004")
    fold = new_fold()
    records = records_of(*OPENING, mark("101"), unknown, mark("102"), worthless, mark("103"), deposit("a", "x"))
    lines = fold.apply(records)
    assert [(line.topic, line.key) for line in lines] == [
        ("dead-letters", b"DOGEUSDT"),
        ("dead-letters", b"BTCUSDT"),
        ("dead-letters", b"a"),
    ]
    assert fold.shard.counters.messages == len(records)
    assert fold.shard.origin == ("transfers", 0, 47)


def test_records_in_one_batch_or_in_many_give_the_same_outputs_and_state() -> None:
    bodies = [*LONG, mark("99"), mark("94.5"), mark("1", "DOGEUSDT"), mark("101", "ETHUSDT"), withdraw("a", "1")]
    folds = []
    for size in BATCHES:
        fold, records = new_fold(), records_of(*bodies)
        lines = [line for n in range(0, len(records), size) for line in fold.apply(records[n : n + size])]
        folds.append((lines, state_hash(fold.shard), asdict(fold.shard.counters), fold.shard.origin))
    assert folds[0] == folds[1] == folds[2] == folds[3]
    assert "liquidation_order" in [json.loads(line.value)["type"] for line in folds[0][0]]


def test_values_are_told_apart_though_nothing_stands_between_them() -> None:
    """A record without a value, or with half a message, does not lean on the next one's bytes."""
    fold, records = new_fold(), records_of(*OPENING, mark("101"), mark("102"))
    whole = records[2].value or b""
    records[2].value = whole[:-1]
    records.insert(3, Record("liq.mark-prices", b"BTCUSDT", None, 0, 60))
    records.insert(3, Record("liq.mark-prices", b"BTCUSDT", b"", 0, 61))
    lines = fold.read(records, [Origin("mark-prices", 0, record.offset) for record in records])
    assert lines.marks[:, SYMBOL].tolist() == [0, 1, -1, -1, -1, 0]
    assert [json.loads(line.value)["reason"] for line in fold.apply(records)] == ["bad_json"]
    assert (fold.shard.counters.ignored, Run(fold.shard).mark()) == (2, "102")
