"""Fills that a kernel posts change what they change as messages, and whatever is unusual about one is left to those."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from random import Random
from typing import Any

import pytest

from engine.core.book import CROSS, LONG, NET, SHORT
from engine.core.events import CLEARING, FEES, Origin
from engine.core.kernels.lines import QTY
from engine.core.params import Risk
from engine.core.shard import Shard
from engine.edges.venue import BookVenue
from engine.units import format_scaled, format_units
from tests.scenarios import (
    MS,
    SECOND,
    START_NS,
    Body,
    answer,
    asset_price,
    buy,
    control,
    deposit,
    kinds,
    mark,
    of,
    one,
    sell,
    tiny_risk,
    withdraw,
    words,
)
from tests.test_follow import (
    BAND,
    BATCHES,
    SEED,
    Feed,
    Run,
    applied,
    both,
    check_same,
    folded,
    lines_of,
    new_fold,
    records_of,
    shortened,
)
from tests.test_follow import LONG as HELD

STREAMS, VAST_BOOKS = 12, 250
# Digits of a lot and how many of its last one it is.
LOTS = {"BTCUSDT": (3, 1), "ETHUSDT": (2, 1), "XBTUSD": (0, 1), "COINED": (1, 1), "MINI": (1, 5)}
# The first four lines of HELD: two first marks, a deposit, and the first position of a symbol, for which room is made.
BEFORE = [0, 1, 2, 3]


def wallet(run: Run, account: str, asset: str = "USDT") -> str:
    book = run.shard.book
    return format_units(book.wallet(book.row_index[account, CROSS], book.asset_index[asset]))


def position(run: Run, account: str, symbol: str = "BTCUSDT", leg: int = NET) -> tuple[str, str]:
    """Signed quantity and cash paid."""
    book = run.shard.book
    index = book.symbol_index[symbol]
    size, cost = book.position(book.row_index[account, CROSS], index, leg)
    return format_scaled(size, book.instruments[index].size_decimals), format_units(cost)


# ----------------------------------------------------------------------------------------------------- random streams


class Trading(Feed):
    """A made-up day of traders: mostly fills of every kind that is usual, and everything that makes one unusual."""

    def __init__(self, random: Random) -> None:
        # What everybody would hold if every fill was taken, in lots.
        self.held: Counter[tuple[str, str, str]] = Counter()
        # Line -> what its fill does, where that was meant to be usual.
        self.meant: dict[int, str] = {}
        self.newcomers = 0
        super().__init__(random)

    def weights(self) -> dict[Callable[[], None], int]:
        often = {self.trade: 60, self.shrink: 50, self.hedge: 30, self.strange: 40, self.arrive: 8, self.answer: 6}
        marks = {self.usual: 30, self.jump: 3, self.gap: 2, self.cash: 8, self.price: 2, self.fund: 1}
        return often | marks | self.rarely()

    def fill(self, account: str, symbol: str, lots: int, **fields: Any) -> None:
        """Say a fill of so many lots, sold where negative."""
        digits, steps = LOTS[symbol]
        self.later()
        self.held[account, symbol, fields.get("leg", "net")] += lots
        random = self.random
        fee = random.choice((None, None, "0", "0.01", "-0.0025", "0.12345678", "0.5", -1))
        order_id = random.choice((None, None, None, f"{account}/9/9", "my order"))
        extra = {key: value for key, value in (("fee", fee), ("order_id", order_id)) if value is not None}
        side = buy if lots > 0 else sell
        qty, price = format_scaled(abs(lots) * steps, digits), self.text(symbol)[:8].rstrip(".")
        self.say(side(account, qty, price, symbol), **{**extra, **fields})

    def mean(self, what: str) -> None:
        self.meant[len(self.lines)] = what

    def trade(self, account: str | None = None) -> None:
        """Open or add, mostly; some sell what they hold and more."""
        account = account or self.random.choice(self.accounts)
        symbol, random = self.some(), self.random
        if symbol not in LOTS:
            return
        worth = 10 ** LOTS[symbol][0] * (100 if symbol == "XBTUSD" else 1)
        held, lots = self.held[account, symbol, "net"], random.choice((-1, 1)) * random.randint(1, 12 * worth)
        self.mean("open" if not held else "cross" if held * lots < 0 and abs(lots) > abs(held) else "change")
        self.fill(account, symbol, lots)

    def shrink(self) -> None:
        """Close a part of what is held, all of it, or more than all."""
        held = {key: lots for key, lots in self.held.items() if lots and key[2] == "net"}
        if not held:
            return
        (account, symbol, _), lots = self.random.choice(list(held.items()))
        closed = self.random.choice((lots, lots, self.random.randint(1, abs(lots)), 2 * lots, lots * 3 // 2))
        closed = abs(closed)
        self.mean("close" if closed == abs(lots) else "cross" if closed > abs(lots) else "change")
        self.fill(account, symbol, -closed if lots > 0 else closed)

    def hedge(self) -> None:
        """Change a leg; now and then it is one too many to close."""
        random = self.random
        account, symbol, leg = random.choice(("h0", "h1")), random.choice(("ETHUSDT", "XBTUSD")), "long"
        sign = 1
        if random.random() < 0.5:
            leg, sign = "short", -1
        held = abs(self.held[account, symbol, leg])
        grows = random.random() < 0.6
        lots = random.randint(1, 500) if grows else random.choice((held, held // 2 or 1, held + 1))
        if not lots:
            return
        if not self.held[account, symbol, leg]:
            self.say(deposit(account, str(1_000 * self.wealth)))
            self.say(deposit(account, str(20 * self.wealth), "BTC"))
        self.mean("hedge")
        self.fill(account, symbol, sign * (lots if grows else -lots), leg=leg)

    def arrive(self) -> None:
        """Somebody new, with a transfer first or without one, and trades at once."""
        self.newcomers += 1
        account = f"n{self.newcomers}"
        if self.random.random() < 0.7:
            self.say(deposit(account, str(self.random.randint(1, 100) * self.wealth)))
            self.mean("newcomer")
        self.fill(account, "BTCUSDT", self.random.choice((-1, 1)) * self.random.randint(1, 9_000))
        self.accounts.append(account)

    def strange(self) -> None:
        random = self.random
        account, symbol = random.choice(self.accounts), random.choice(list(LOTS))
        # Of dollars: what is worth so much in coins need not fit in 64 bits.
        huge = str(random.randint(1, 9)) + "0" * random.choice((5, 6, 7, 8, 11, 13, 17))
        changes: list[Body] = [
            {"qty": "0.0005"}, {"qty": "0.25"}, {"qty": "0"}, {"qty": "-1"}, {"qty": 1.5}, {"qty": huge},
            {"price": "100.123456789"}, {"price": "100.1234567"}, {"price": "0"}, {"price": huge}, {"price": "0.00001"},
            {"fee": "0.123456789"}, {"fee": "1e3"}, {"fee": huge}, {"fee": f"-{huge}"}, {"symbol": "DOGEUSDT"},
            {"account": "$insurance"}, {"account": "$insurance", "symbol": "BTCUSDT", "fee": "0.01"},
            {"account": "$fees"}, {"account": "$nobody"}, {"isolated": True}, {"isolated": False}, {"leg": "long"},
            {"leg": "short"}, {"leg": "both"}, {"fill_id": f"id-{random.randrange(len(self.lines))}"},
            {"ts": self.now - random.randint(1, 30 * MS)},
            *[{"ts": self.now + ahead * SECOND} for ahead in (59, 60, 61, 300)],
            {"account": "né"}, {"fill_id": "né"}, {"note": "unknown"}, {"order_id": f"{account}/1/1"},
            {"qty": huge, "price": huge}, {"account": "a0", "symbol": "BTCUSDT"}, {"fee": "0.00"}, {"fee": "-0"},
        ]  # fmt: skip
        change = random.choice(changes)
        if change.get("ts", 0) > self.now and not self.risk.policy.max_future_s:
            change = {}
        if huge in "".join(map(str, change.values())):
            symbol = random.choice(("BTCUSDT", "ETHUSDT", "MINI"))
        side = random.choice((buy, sell))
        self.say(side(account, "1", self.text(symbol)[:8].rstrip("."), symbol), **change)


@cache
def trading(number: int) -> Trading:
    return Trading(Random(f"{SEED}/fills/{number}"))


def told(number: int, batch: int, lines: Sequence[bytes]) -> Run:
    """Tell a stream's lines, some of them looked at by everybody, too; of some the orders are filled by a book."""
    shard = Shard(trading(number).risk, venue=BookVenue() if number % 6 == 5 else None)
    return folded(shard, lines, batch, verify_every=5 if number % 3 == 2 else 0)


def told_one_by_one(number: int, lines: Sequence[bytes]) -> Run:
    return applied(Shard(trading(number).risk, venue=BookVenue() if number % 6 == 5 else None), lines)


def is_other(number: int, batch: int, lines: Sequence[bytes]) -> bool:
    """Return whether some lines of a stream do anything else in batches."""
    return told(number, batch, lines).seen() != told_one_by_one(number, lines).seen()


@pytest.mark.parametrize("number", range(STREAMS))
def test_a_stream_of_fills_in_batches_does_what_it_does_line_by_line(number: int) -> None:
    lines = trading(number).lines
    expected = told_one_by_one(number, lines).seen()
    for batch in BATCHES:
        if told(number, batch, lines).seen() == expected:
            continue
        shortest = shortened(lines, partial(is_other, number, batch))
        text = "\n".join(line.decode("latin-1") for line in shortest)
        where = f"seed {SEED}, stream {number}, batches of {batch}; the same with\n{text}\n"
        check_same(told(number, batch, shortest), told_one_by_one(number, shortest).seen(), where)


def test_the_streams_hold_every_kind_of_usual_fill_and_every_kind_that_is_none() -> None:
    """What never happens in them, they cannot compare."""
    taken: Counter[str] = Counter()
    said: Counter[str] = Counter()
    fills = kernels = 0
    for number in range(STREAMS):
        stream = trading(number)
        run = told(number, 4096, stream.lines)
        said.update(kinds(run.bodies))
        said.update(run.reasons)
        said.update({f"started by {body['cause']}": 1 for body in of(run.bodies, "liquidation_started")})
        said.update({name: getattr(run.shard.counters, name) for name in ("duplicates", "ignored")})
        if run.shard.venue is None:
            usual = {n for n, line in enumerate(stream.lines) if b'"type": "fill"' in line} - {*run.decoded}
            taken.update(stream.meant[n] for n in usual if n in stream.meant)
            fills, kernels = fills + run.shard.counters.fills, kernels + len(usual)
    assert [name for name in ("open", "change", "close", "cross", "hedge", "newcomer") if taken[name] < 5] == []
    expected = words(
        """liquidation_started liquidation_order liquidation_ended margin_call surplus_digits unknown_symbol
        reserved_account bad_leg bad_number out_of_range overflow future_ts duplicates"""
    )
    assert [name for name in (*expected, "started by fill") if not said[name]] == [], f"seed {SEED}"
    # The tables of so few accounts are often full where one opens a position, and such a fill is a message.
    assert kernels > fills // 5, f"seed {SEED}: {kernels} of {fills}"


# ------------------------------------------------------------------------------------------------------- any magnitude


def vast_lines(random: Random) -> list[bytes]:
    """A book of one symbol whose numbers may be of any size, and a few fills of it."""
    symbol = random.choice(list(LOTS))
    digits, steps = LOTS[symbol]

    def number(low: int, high: int, places: int) -> str:
        return format_scaled(random.randint(1, 9 * 10 ** random.randint(low, high)), places)

    def qty() -> str:
        return format_scaled(random.randint(1, 9 * 10 ** random.randint(0, largest)) * steps, digits)

    # Steps of a price and of a size that make about so much money, or far less.
    bound = random.choice((14, 18, 19, 20))
    at = random.randint(0, bound)
    largest = bound - at if symbol != "XBTUSD" else random.randint(0, 12)
    asset = {"XBTUSD": "BTC", "COINED": "COIN"}.get(symbol, "USDT")
    bodies: list[Body | bytes] = [
        *(asset_price(name, number(0, 7, 8)) for name in ("BTC", "COIN")),
        mark(number(max(at - 1, 0), at, 8 - digits), symbol),
        *(deposit(account, number(0, 18, 8), asset) for account in ("a", "b")),
        *(buy(account, format_scaled(steps, digits), number(at, at, 8 - digits), symbol) for account in ("a", "b")),
    ]
    for _ in range(random.randint(1, 6)):
        side, fee = random.choice((buy, sell)), random.choice((None, number(0, 18, 8), f"-{number(0, 18, 8)}"))
        price = number(max(at - 1, 0), at, 8 - digits)
        bodies.append(side(random.choice("ab"), qty(), price, symbol, **({"fee": fee} if fee else {})))
    return lines_of(*bodies)


def test_fills_of_any_size_are_posted_to_the_unit_and_refused_where_they_leave_64_bits() -> None:
    random, risk = Random(SEED), trading(0).risk
    taken, reasons = 0, Counter[str]()
    for _ in range(VAST_BOOKS):
        lines = vast_lines(random)
        run = folded(Shard(risk), lines, 4096)
        text = "\n".join(line.decode() for line in lines)
        check_same(run, applied(Shard(risk), lines).seen(), f"seed {SEED}:\n{text}\n")
        taken += len(lines) - len(run.decoded)
        reasons.update(run.reasons)
    assert taken > VAST_BOOKS // 2, f"seed {SEED}"
    assert reasons["overflow"] > VAST_BOOKS // 10, f"seed {SEED}"


# ------------------------------------------------------------------------------------------------------------ scenarios


def test_usual_fills_are_decoded_by_nobody() -> None:
    """60 + (-1000 - 202 + 510 + 1188 - 490) = 66 when all is closed, less fees of 0.05 - 0.01."""
    run = both(
        *HELD,
        buy("a", "2", "101", fee="0.05"),
        sell("a", "5", "102", fee="-0.01"),
        sell("a", "12", "99"),
        buy("a", "5", "98", order_id="my own"),
    )
    assert run.decoded == BEFORE
    assert (wallet(run, "a"), position(run, "a"), run.outputs) == ("65.96", ("0", "0"), [])
    counters, book = run.shard.counters, run.shard.book
    assert (counters.messages, counters.accepted, counters.fills) == (8, 8, 5)
    assert (run.shard.clock, run.shard.origin.offset) == (START_NS + 8 * MS, 8)
    assert (book.system[FEES], book.system[CLEARING]) == ([4_000_000], [0])


def test_what_is_closed_is_realised_rounded_down_and_the_rest_stays_in_the_cost() -> None:
    """Of 3 bought for 100 + 100 + 100.00001 one is sold: a third of the cost, -100.00000333..., is -100.00000334."""
    thirds = [*HELD, deposit("b", "60"), buy("b", "2", "100"), buy("b", "1", "100.00001"), sell("b", "1", "100")]
    run = both(*thirds)
    assert run.decoded == [*BEFORE, 4]
    assert (wallet(run, "b"), position(run, "b")) == ("59.99999666", ("2", "-200.00000666"))


def test_a_fill_that_crosses_zero_closes_what_there_was_and_opens_the_rest_each_rounded_apart() -> None:
    """Inverse: bought 1 contract at 3 for 0.33333333 coins down, sold 3 at 7: 1/7 and 2/7 of a coin, each up."""
    coins = tiny_risk(
        assets={"BTC": {"price": "1"}},
        instruments={
            "XBTUSD": {
                "kind": "inverse", "settle": "BTC", "lot": "1", "price_tick": "0.5", "tiers": [["0", "0.01", "50"]],
            }
        },
    )  # fmt: skip
    bodies = [mark("5", "XBTUSD"), *(deposit(name, "9", "BTC") for name in "ab")]
    trades = [buy("a", "1", "3", "XBTUSD"), buy("b", "1", "3", "XBTUSD"), sell("b", "3", "7", "XBTUSD")]
    run = both(*bodies, *trades, risk=coins)
    assert run.decoded == [0, 1, 2, 3]
    # 9 + 0.33333333 - 0.14285715, and -0.28571429 paid for the two that are short.
    assert (wallet(run, "b", "BTC"), position(run, "b", "XBTUSD")) == ("9.19047618", ("-2", "-0.28571429"))


def test_legs_are_two_positions_and_neither_changes_its_side() -> None:
    legs = [
        buy("b", "10", "100", leg="long"),
        sell("b", "7", "100", leg="short"),
        buy("b", "7", "101", leg="short"),
        sell("b", "10.001", "100", leg="long"),
        sell("b", "1", "100"),
        sell("b", "10", "100", leg="long"),
        sell("b", "1", "100"),
    ]
    run = both(*HELD, deposit("b", "100"), *legs)
    assert run.reasons == ["bad_leg", "bad_leg"]
    assert run.decoded == [*BEFORE, 4, 8, 9]
    assert [position(run, "b", leg=leg)[0] for leg in (NET, LONG, SHORT)] == ["-1", "0", "0"]
    assert wallet(run, "b") == "93"


# What the traders say before -> the fill, and why it is refused (None: it is accepted, in full).
UNUSUAL: dict[str, tuple[list[Body], Body, str | None]] = {
    "of a symbol that is not listed": ([], buy("a", "1", "100", "DOGEUSDT"), "unknown_symbol"),
    "of an account never seen": ([], buy("b", "1", "100"), None),
    "of the fund": ([], buy("$insurance", "1", "100"), None),
    "of another account of the engine": ([], buy("$fees", "1", "100"), "reserved_account"),
    "of part of a lot": ([], buy("a", "0.0005", "100"), "surplus_digits"),
    "at a price between two steps": ([], buy("a", "1", "100.000001"), "surplus_digits"),
    "with a fee of part of a unit": ([], buy("a", "1", "100", fee="0.000000001"), "surplus_digits"),
    "of nothing": ([], buy("a", "0", "100"), "out_of_range"),
    "of less than nothing": ([], buy("a", "-1", "100"), "out_of_range"),
    "of a number that is a float": ([], {**buy("a", "1", "100"), "qty": 1.5}, "bad_number"),
    "of a leg beside a net position": ([], buy("a", "1", "100", leg="long"), "bad_leg"),
    "beyond all bounds": ([], buy("a", "1000000000", "100"), "overflow"),
    "near the bounds": ([deposit("a", "1000000000")], buy("a", "120000000", "100"), None),
    "isolated": ([], buy("a", "0.001", "100", isolated=True), None),
    "isolated, of a bucket that is there": (
        [deposit("a", "50", symbol="ETHUSDT")],
        buy("a", "1", "100", "ETHUSDT", isolated=True),
        None,
    ),
    "of an account with a bucket of the symbol": ([deposit("a", "50", symbol="BTCUSDT")], buy("a", "1", "100"), None),
    "the first of a symbol": ([], buy("a", "0.01", "100", "ETHUSDT"), None),
    "of an account that is spelled unusually": ([deposit("né", "50")], buy("né", "1", "100"), None),
    "further ahead than a minute": ([], buy("a", "1", "100", ts=START_NS + 66 * SECOND), "future_ts"),
}


@pytest.mark.parametrize(("before", "fill", "reason"), UNUSUAL.values(), ids=UNUSUAL)
def test_a_fill_that_is_unusual_is_taken_in_full_in_its_place(
    request: pytest.FixtureRequest, before: list[Body], fill: Body, reason: str | None
) -> None:
    usual = [sell("a", "1", "100"), buy("a", "1", "100")]
    run = both(*HELD, *before, *usual, fill, *usual, risk=tiny_risk(max_future_s=60))
    assert run.reasons == ([] if reason is None else [reason])
    at = len(HELD) + len(before) + len(usual)
    assert at in run.decoded
    # What stands before it is usual, unless the account has a bucket that makes all its fills of the symbol unusual.
    if "of the symbol" not in request.node.callspec.id:
        assert run.decoded[: at - 1] == [*range(len(HELD) + len(before)), at]


def test_the_last_time_ahead_that_is_believed_is_usual_and_a_fill_between_two_keys_breaks_the_belief() -> None:
    limit = START_NS + 4 * MS + 60 * SECOND
    edge = both(*HELD, buy("a", "1", "100", ts=limit), risk=tiny_risk(max_future_s=60))
    assert (edge.decoded, edge.shard.clock) == (BEFORE, limit)
    ahead = START_NS + 100 * SECOND
    far, other = mark("101", ts=ahead), mark("102", "ETHUSDT", ts=ahead + 1)
    assert both(*HELD, far, other, risk=tiny_risk(max_future_s=60)).reasons == ["future_ts"]
    broken = both(*HELD, far, buy("a", "1", "100"), other, risk=tiny_risk(max_future_s=60))
    assert (broken.reasons, broken.decoded) == (["future_ts", "future_ts"], [*BEFORE, 4, 6])


def test_an_older_fill_is_usual_and_leaves_the_clock() -> None:
    run = both(*HELD, buy("a", "1", "100", ts=START_NS))
    assert (run.decoded, run.shard.clock) == (BEFORE, START_NS + 4 * MS)


def test_a_fill_told_twice_in_one_batch_is_one_fill_and_of_another_account_it_is_another() -> None:
    first, other = buy("a", "1", "100", fill_id="x"), sell("b", "1", "100", fill_id="x")
    run = both(*HELD, deposit("b", "60"), first, {**first, "qty": "2"}, other, other)
    assert (run.shard.counters.duplicates, run.shard.counters.fills) == (2, 3)
    assert (position(run, "a")[0], position(run, "b")[0]) == ("11", "-1")
    assert run.decoded == [*BEFORE, 4, 6, 8]


def test_an_account_that_a_transfer_of_the_same_batch_opens_trades_at_once() -> None:
    run = both(*HELD, deposit("new", "60"), buy("new", "1", "100"), withdraw("new", "1"), sell("new", "1", "101"))
    assert (wallet(run, "new"), run.decoded) == ("60", [*BEFORE, 4, 6])


def test_a_market_that_opens_in_the_middle_of_a_batch_is_traded_in_it() -> None:
    """Its first fill has no room yet and no mark; with a mark the second one is usual."""
    terms = {"settle": "USDT", "price_tick": "0.01", "lot": "0.1", "tiers": [["0", "0.02", "25"]]}
    new = control("set_instrument", symbol="SOLUSDT", **terms)
    trade = buy("a", "1", "150", "SOLUSDT")
    run = both(*HELD, trade, new, trade, trade, mark("150", "SOLUSDT"), trade, sell("a", "1", "100"))
    assert run.reasons == ["unknown_symbol"]
    # Nor is anything else of the account usual, until all that it holds is priced.
    assert run.decoded == [*BEFORE, 4, 5, 6, 7, 8]
    unpriced = both(*HELD, new, trade, sell("a", "1", "100"), mark("150", "SOLUSDT"), sell("a", "1", "100"))
    assert unpriced.decoded == [*BEFORE, 4, 5, 6, 7]


def test_a_size_is_a_whole_number_of_lots_also_where_steps_are_finer() -> None:
    """Lots of 0.5 are counted in steps of 0.1, of which 0.2 is two."""
    halves = tiny_risk(instruments={"BTCUSDT": {"lot": "0.5"}})
    trades = [buy("a", qty, "100") for qty in ("0.5", "0.2", "1.50", "0.25", "0.8")]
    run = both(*HELD, *trades, risk=halves)
    assert (run.reasons, run.decoded) == (["surplus_digits"] * 3, [*BEFORE, 5, 7, 8])
    assert position(run, "a")[0] == "12"


def test_a_fee_is_in_the_decimals_of_its_asset() -> None:
    cents = tiny_risk(assets={"USDT": {"decimals": 2}})
    fees = [buy("a", "0.001", "100", fee=fee) for fee in ("0.01", "0.001", "-0.01", "-0.015", "0.010")]
    run = both(*HELD, *fees, risk=cents)
    assert (run.reasons, run.decoded) == (["surplus_digits", "surplus_digits"], [*BEFORE, 5, 7])
    assert wallet(run, "a") == "59.99"


# ---------------------------------------------------------------------------------------------------- rows in need


def test_a_fill_that_brings_its_account_into_need_is_one_message_like_any_other() -> None:
    """Thirty more at 101 leave 60 - 30 = 30 of equity, and forty at 100 need 40."""
    run = both(*HELD, buy("a", "30", "101"), mark("100"))
    assert kinds(run.bodies) == ["margin_call", "liquidation_started", "cancel_orders", "liquidation_order"]
    start, order = one(run.bodies, "liquidation_started"), one(run.bodies, "liquidation_order")
    assert (start["cause"], start["equity"], start["maintenance_margin"]) == ("fill", "30", "40")
    assert order["decision"]["input"] == {"file": "log.jsonl", "line": 5}
    assert 4 not in run.decoded
    # A simulated venue answers in the same step, whatever message the order is of.
    filled = both(*HELD, buy("a", "30", "101"), mark("100"), venue=True)
    assert one(filled.bodies, "liquidation_ended")["ts"] == START_NS + 5 * MS


@pytest.mark.parametrize(("qty", "calls"), [("37.999", 0), ("38", 1)])
def test_a_margin_call_goes_out_with_the_lot_that_crosses_its_ratio(qty: str, calls: int) -> None:
    """60 x 0.8 = 48: forty-eight contracts at 100 need so much."""
    run = both(*HELD, buy("a", qty, "100"))
    assert (len(of(run.bodies, "margin_call")), run.decoded) == (calls, BEFORE)


def test_a_call_is_armed_again_by_a_fill_that_reduces_enough() -> None:
    """Re-armed below 0.75 x 60 = 45 of margin; the next crossing is a call of its own."""
    trades = [buy("a", "38", "100"), sell("a", "3", "100"), buy("a", "3", "100"), sell("a", "3.001", "100")]
    run = both(*HELD, *trades, buy("a", "3.001", "100"))
    assert [body["ts"] - START_NS for body in of(run.bodies, "margin_call")] == [5 * MS, 9 * MS]
    assert run.decoded == BEFORE


def test_an_account_that_closes_with_exactly_nothing_and_owes_what_its_coins_do_not_bring_is_seen() -> None:
    """-100 USDT and 100 COIN at 1: equity 0, but sold with 1 % slippage the coins bring 99. Nothing needs margin."""
    risk = tiny_risk(assets={"COIN": {"price": "1", "slippage": "0.01"}})
    bodies = [*HELD, deposit("b", "100", "COIN"), buy("b", "10", "100")]
    run = both(*bodies, sell("b", "10", "90"), risk=risk)
    assert kinds(run.bodies)[:3] == ["liquidation_started", "cancel_orders", "collateral_sale"]
    assert run.decoded == [*BEFORE, 4]
    assert both(*bodies, sell("b", "10", "90.00001"), risk=risk).outputs == []


def test_a_fill_in_an_episode_that_answers_its_order_is_taken_in_full_and_another_one_is_not() -> None:
    sent = [*HELD, mark("94.5")]
    order = one(both(*sent).bodies, "liquidation_order")
    answered = both(*sent, answer(order, "10", "94.5"))
    assert kinds(answered.bodies)[-1] == "liquidation_ended"
    assert answered.decoded == [*BEFORE, 5]
    # The account's own fill of all it has: the order stays in flight, and the row waits for its answer.
    own = both(*sent, sell("a", "10", "94.5"), mark("94", "ETHUSDT"))
    assert (kinds(own.bodies)[-1], own.decoded) == ("liquidation_order", BEFORE)
    # Somebody else's fill may carry the same id.
    stranger = {**answer(order, "1", "94.5"), "account": "b"}
    assert both(*HELD, deposit("b", "60"), mark("94.5"), stranger).decoded == [*BEFORE, 4]


def test_an_order_times_out_with_the_fill_of_its_time_and_not_a_nanosecond_sooner() -> None:
    """The order of message 7 is given up at its ts + 5 s, whoever's fill it is that says so."""
    others = [*HELD, deposit("b", "60"), buy("b", "1", "100"), mark("94.5")]
    sent = START_NS + 7 * MS
    for wait, orders, decoded in ((5 * SECOND - 1, 1, []), (5 * SECOND, 2, [7])):
        run = both(*others, buy("b", "0.001", "100", ts=sent + wait))
        assert len(of(run.bodies, "liquidation_order")) == orders
        assert run.decoded == [*BEFORE, 4, *decoded]


def test_while_a_price_waits_a_fill_may_hold_its_account() -> None:
    """130 waits to be confirmed; four more sold short would then leave 100 - 150, one alone 100 - 30."""
    shorts = [*HELD, deposit("b", "100"), sell("b", "1", "100"), mark("130"), sell("b", "4", "100")]
    run = both(*shorts, risk=BAND)
    held = one(run.bodies, "liquidation_held")
    assert (held["account"], held["reason"], held["ts"]) == ("b", "price_band", START_NS + 8 * MS)
    assert run.decoded == [*BEFORE, 4, 6]
    # And the fill that closes them releases it.
    assert kinds(both(*shorts, buy("b", "5", "100"), risk=BAND).bodies)[-1] == "liquidation_released"


def test_what_found_no_taker_is_tried_again_with_every_fill() -> None:
    """At 80 the account owes 150 and the fund has nothing: nobody takes the ten contracts until b is short of them."""
    stuck = [*HELD, deposit("b", "5000"), buy("b", "1", "100", "ETHUSDT"), mark("80"), buy("b", "1", "100", "ETHUSDT")]
    run = both(*stuck, sell("b", "10", "100"), sell("b", "1", "100", "ETHUSDT"))
    assert [body["counterparty"] for body in of(run.bodies, "adl")] == ["b"]
    assert one(run.bodies, "liquidation_ended")["ts"] == START_NS + 9 * MS
    # Only the last one, when nothing is stuck any more, is usual.
    assert run.decoded == [*BEFORE, 4, 5, 7, 8]


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_every_so_many_messages_a_fill_is_taken_in_full_and_changes_nothing(every: int) -> None:
    lines = lines_of(*HELD, *(trade("a", "1", f"10{n}") for n in range(8) for trade in (buy, sell)))
    for batch in BATCHES:
        run = folded(Shard(tiny_risk()), lines, batch, verify_every=every)
        check_same(run, applied(Shard(tiny_risk()), lines).seen(), f"batches of {batch}")
        assert run.decoded == sorted({*BEFORE} | {n for n in range(len(lines)) if (n + 1) % every == 0})


def test_a_fill_before_the_clock_is_set_is_taken_in_full() -> None:
    run = both(buy("a", "1", "100"), buy("a", "1", "100"), risk=Risk())
    assert (run.reasons, run.decoded) == (["unknown_symbol"] * 2, [0, 1])


# ---------------------------------------------------------------------------------------------------------- from Kafka


def test_a_fill_is_one_only_where_it_came_as_one() -> None:
    fold, records = new_fold(), records_of(*HELD, *(buy("a", "1", "100") for _ in range(5)))
    for index, topic in ((5, "mark-prices"), (6, "transfers")):
        records[index].topic = f"liq.{topic}"
    records[7].topic, records[7].key = "liq.control", b"*"
    letters = [json.loads(line.value) for line in fold.apply(records)]
    assert [(body["reason"], body["topic"], body["offset"]) for body in letters] == [
        ("unknown_type", "mark-prices", 45),
        ("unknown_type", "transfers", 46),
        ("unknown_type", "control", 47),
    ]
    assert fold.shard.counters.fills == 3
    assert fold.shard.origin == ("fills", 0, 48)


def test_a_batch_read_later_leaves_the_fills_of_one_read_before_as_they_are() -> None:
    """Lines may be read ahead: what they say is theirs."""
    fold, records = new_fold(), records_of(*HELD, buy("a", "1", "100"))
    others = records_of(*(sell("zz", "99", "1") for _ in records))
    lines, _ = (fold.read(each, [Origin("fills", 0, record.offset) for record in each]) for each in (records, others))
    found = lines.fill(len(records) - 1)
    assert found is not None
    assert (found.account, found.fills[found.place, QTY], lines.fill(0)) == ("a", 1, None)
