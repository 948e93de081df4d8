"""The fault table: what can go wrong, the log that makes it go wrong, what comes out: ``python -m tests.faults``.

One row for each guard, protection and refusal. The log is given as the lines of a file, byte for byte; each line goes
through the codec and the machine, and the *last* one triggers what the row names. A row also says what must not come
out, and where a parameter stands behind it, with which value of that parameter nothing of the kind happens.

The market is that of ``scenarios.py``: BTCUSDT needs 1 %, ETHUSDT 2 %, and everything is closed at once. Time
starts at 1 s. ``BEFORE`` says who stands there: Alice has 20 and ten bitcoin from 100; at 98.9 she has 9 against the
9.89 that she needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.scenarios import Body, Desk

BEFORE = b"""
{"type": "mark", "symbol": "BTCUSDT", "price": "100", "ts": 1000000000}
{"type": "mark", "symbol": "ETHUSDT", "price": "50", "ts": 1000000000}
{"type": "transfer", "transfer_id": "d1", "account": "alice", "asset": "USDT", "amount": "20", "ts": 1000000000}
{"type": "fill", "fill_id": "f1", "account": "alice", "symbol": "BTCUSDT", "side": "buy", "qty": "10", "price": "100", \
"ts": 1000000000}
"""
# Alice holds coins instead of dollars: 20 of them at 1.
BEFORE_COINS = b"""
{"type": "mark", "symbol": "BTCUSDT", "price": "100", "ts": 1000000000}
{"type": "asset_price", "asset": "COIN", "price": "1", "ts": 1000000000, "source": "a"}
{"type": "transfer", "transfer_id": "d1", "account": "alice", "asset": "COIN", "amount": "20", "ts": 1000000000}
{"type": "fill", "fill_id": "f1", "account": "alice", "symbol": "BTCUSDT", "side": "buy", "qty": "10", "price": "100", \
"ts": 1000000000}
"""
# And 20 ether from 50 that need another 20, with 22 more to carry them: at 98.7 she has 29 against 29.87.
AND_ETHER = b"""
{"type": "transfer", "transfer_id": "d2", "account": "alice", "asset": "USDT", "amount": "22", "ts": 1000000000}
{"type": "fill", "fill_id": "f2", "account": "alice", "symbol": "ETHUSDT", "side": "buy", "qty": "20", "price": "50", \
"ts": 1000000000}
"""
BOB = b"""
{"type": "transfer", "transfer_id": "d3", "account": "bob", "asset": "USDT", "amount": "19", "ts": 1000000000}
{"type": "fill", "fill_id": "f3", "account": "bob", "symbol": "BTCUSDT", "side": "buy", "qty": "10", "price": "100", \
"ts": 1000000000}
"""
SAM = b"""
{"type": "transfer", "transfer_id": "d4", "account": "sam", "asset": "USDT", "amount": "100", "ts": 1000000000}
{"type": "fill", "fill_id": "f4", "account": "sam", "symbol": "BTCUSDT", "side": "sell", "qty": "10", "price": "100", \
"ts": 1000000000}
"""
FALL = b"""
{"type": "mark", "symbol": "BTCUSDT", "price": "98.9", "ts": 2000000000}
"""
COIN: Body = {"COIN": {}}
STABLE: Body = {"COIN": {"redemption_floor": "0.97"}}
ORDER = "liquidation_order"
ACTIONS = ("liquidation_started", ORDER, "collateral_sale", "takeover", "adl")


@dataclass(frozen=True)
class Fault:
    """One row: ``log`` says in words what its ``lines`` after ``before`` are.

    ``comes`` are the records of the last line, in order among the others: type and some of its fields. None of the
    types in ``never`` may come out of any line. ``counted`` is the counter that the last line raises by one; ``again``:
    the last record was told before as well. With the options in ``off`` the last line does not bring all of it.
    """

    name: str
    log: str
    lines: bytes
    comes: tuple[tuple[str, Body], ...] = ()
    never: tuple[str, ...] = ()
    counted: str = "accepted"
    again: bool = False
    before: bytes = BEFORE
    options: Body = field(default_factory=dict)
    off: Body | None = None
    book: Body | None = None
    venue: bool = False

    def all_lines(self) -> list[bytes]:
        """Every line of the log, those that set the stage first."""
        return [line for line in (self.before + b"\n" + self.lines).split(b"\n") if line]


@dataclass(frozen=True)
class Told:
    """What became of a fault's log: the records of all lines but the last, those of the last, and its count."""

    earlier: list[Body]
    last: list[Body]
    counted: str
    desk: Desk


def told(fault: Fault, **changed: Any) -> Told:
    """Run the log of a fault line by line, every promise of ``scenarios.py`` checked after each."""
    desk = Desk(fault.book, venue=fault.venue, **{**fault.options, **changed})
    earlier: list[Body] = []
    *lines, trigger = fault.all_lines()
    for line in lines:
        earlier += desk.tell_line(line)
    before = counts(desk)
    last = desk.tell_line(trigger)
    (counted,) = [name for name, count in counts(desk).items() if count != before[name]]
    return Told(earlier, last, counted, desk)


def counts(desk: Desk) -> dict[str, int]:
    """The four counts of which a message ends in exactly one."""
    counters = desk.shard.counters
    return {
        "accepted": counters.accepted,
        "rejected": counters.rejected.total(),
        "duplicates": counters.duplicates,
        "ignored": counters.ignored,
    }


def holds(body: Body, kind: str, fields: Body) -> bool:
    """Whether a record is of a type and has these fields; a field given as None must be absent or null."""
    return body["type"] == kind and all(body.get(name) == value for name, value in fields.items())


def held(reason: str, account: str = "alice", symbol: str | None = None) -> tuple[str, Body]:
    return "liquidation_held", {"account": account, "reason": reason, "symbol": symbol}


def released(reason: str, account: str = "alice", symbol: str | None = None) -> tuple[str, Body]:
    return "liquidation_released", {"account": account, "reason": reason, "symbol": symbol}


def started(account: str = "alice", **fields: Any) -> tuple[str, Body]:
    return "liquidation_started", {"account": account, **fields}


def order(account: str = "alice", **fields: Any) -> tuple[str, Body]:
    return ORDER, {"account": account, **fields}


def refused(name: str, log: str, line: bytes, *, reason: str, before: bytes = BEFORE, **options: Any) -> Fault:
    """A line that is refused for ``reason``: one dead letter, and nothing else."""
    return Fault(
        name,
        log,
        line,
        comes=(("reject", {"reason": reason}),),
        never=ACTIONS,
        counted="rejected",
        before=before,
        options=options,
    )


PRICES = (
    Fault(
        "stale mark",
        "ether silent for 3 s; bitcoin falls to 98.7",
        b'{"type": "mark", "symbol": "BTCUSDT", "price": "98.7", "ts": 4000000000}',
        comes=(held("stale_mark", symbol="ETHUSDT"),),
        never=ACTIONS,
        before=BEFORE + AND_ETHER,
        options={"mark_stale_ms": 2000},
        off={"mark_stale_ms": 0},
    ),
    Fault(
        "stale mark: fresh again",
        "… then ether's mark arrives",
        b"""
{"type": "mark", "symbol": "BTCUSDT", "price": "98.7", "ts": 4000000000}
{"type": "mark", "symbol": "ETHUSDT", "price": "50", "ts": 4000000000}""",
        comes=(released("stale_mark", symbol="ETHUSDT"), started(), order(symbol="BTCUSDT"), order(symbol="ETHUSDT")),
        before=BEFORE + AND_ETHER,
        options={"mark_stale_ms": 2000},
        off={"mark_stale_ms": 0},
    ),
    Fault(
        "stale mark: waited long enough",
        "… or stays silent for a minute",
        b"""
{"type": "mark", "symbol": "BTCUSDT", "price": "98.7", "ts": 4000000000}
{"type": "mark", "symbol": "BTCUSDT", "price": "98.7", "ts": 64000000000}""",
        comes=(released("stale_mark", symbol="ETHUSDT"), started(), order(symbol="BTCUSDT", qty="10")),
        before=BEFORE + AND_ETHER,
        options={"mark_stale_ms": 2000},
        off={"mark_stale_ms": 2000, "max_hold_ms": 0},
    ),
    Fault(
        "all marks stale",
        "all silent; Alice takes out 11; a minute passes",
        b"""
{"type": "transfer", "transfer_id": "w1", "account": "alice", "asset": "USDT", "amount": "-11", "ts": 4000000000}
{"type": "transfer", "transfer_id": "d9", "account": "carol", "asset": "USDT", "amount": "1", "ts": 64000000000}""",
        comes=(held("stale_mark", symbol="BTCUSDT"),),
        never=(*ACTIONS, "liquidation_released"),
        again=True,
        options={"mark_stale_ms": 2000},
        off={"mark_stale_ms": 2000, "max_hold_ms": 0},
    ),
    Fault(
        "stale asset price",
        "the collateral's price silent for 3 s; bitcoin falls",
        b'{"type": "mark", "symbol": "BTCUSDT", "price": "98.9", "ts": 4000000000}',
        comes=(held("stale_mark", symbol="COIN"),),
        never=ACTIONS,
        before=BEFORE_COINS,
        options={"assets": COIN, "mark_stale_ms": 2000},
        off={"mark_stale_ms": 0},
    ),
    Fault(
        "price band",
        "bitcoin prints 98.5, 1.5 % away",
        b'{"type": "mark", "symbol": "BTCUSDT", "price": "98.5", "ts": 2000000000}',
        comes=(held("price_band", symbol="BTCUSDT"),),
        never=(*ACTIONS, "margin_call"),
        options={"price_band": "0.01"},
        off={"price_band": "0"},
    ),
    Fault(
        "price band: confirmed",
        "… and again 98.6",
        b"""
{"type": "mark", "symbol": "BTCUSDT", "price": "98.5", "ts": 2000000000}
{"type": "mark", "symbol": "BTCUSDT", "price": "98.6", "ts": 3000000000}""",
        comes=(released("price_band", symbol="BTCUSDT"), started(equity="6"), order(qty="10")),
        options={"price_band": "0.01"},
        off={"price_band": "0"},
    ),
    Fault(
        "price band: discarded",
        "… or 99.8 after all",
        b"""
{"type": "mark", "symbol": "BTCUSDT", "price": "98.5", "ts": 2000000000}
{"type": "mark", "symbol": "BTCUSDT", "price": "99.8", "ts": 3000000000}""",
        comes=(released("price_band", symbol="BTCUSDT"),),
        never=ACTIONS,
        options={"price_band": "0.01"},
        off={"price_band": "0"},
    ),
    Fault(
        "price band: index confirms",
        "98.5 with an index of 98.4",
        b'{"type": "mark", "symbol": "BTCUSDT", "price": "98.5", "index_price": "98.4", "ts": 2000000000}',
        comes=(started(equity="5"), order(qty="10")),
        never=("liquidation_held",),
        options={"price_band": "0.01"},
        off={"price_band": "0.001"},
    ),
    Fault(
        "price band: waited long enough",
        "98.5, then nothing of bitcoin for a minute",
        b"""
{"type": "mark", "symbol": "BTCUSDT", "price": "98.5", "ts": 2000000000}
{"type": "mark", "symbol": "ETHUSDT", "price": "50", "ts": 62000000000}""",
        comes=(released("price_band", symbol="BTCUSDT"), started(equity="5")),
        options={"price_band": "0.01"},
        off={"price_band": "0.01", "max_hold_ms": 0},
    ),
    Fault(
        "asset price outside the band",
        "one source says the collateral is worth 0.45, twice",
        b"""
{"type": "asset_price", "asset": "COIN", "price": "0.45", "ts": 2000000000, "source": "a"}
{"type": "asset_price", "asset": "COIN", "price": "0.45", "ts": 3000000000, "source": "a"}""",
        never=ACTIONS,
        before=BEFORE_COINS,
        options={"assets": COIN, "price_band": "0.1"},
    ),
    Fault(
        "asset price outside the band: confirmed",
        "… and another source as well",
        b"""
{"type": "asset_price", "asset": "COIN", "price": "0.45", "ts": 2000000000, "source": "a"}
{"type": "asset_price", "asset": "COIN", "price": "0.45", "ts": 3000000000, "source": "b"}""",
        comes=(released("price_band", symbol="COIN"), started(equity="9")),
        before=BEFORE_COINS,
        options={"assets": COIN, "price_band": "0.1"},
        off={"price_band": "0"},
    ),
    Fault(
        "depeg on one source",
        "source a prints 0.45 for a coin redeemed at 0.97",
        b'{"type": "asset_price", "asset": "COIN", "price": "0.45", "ts": 2000000000, "source": "a"}',
        never=(*ACTIONS, "liquidation_held", "margin_call"),
        before=BEFORE_COINS,
        options={"assets": STABLE},
    ),
    Fault(
        "depeg on three sources",
        "… b and c as well",
        b"""
{"type": "asset_price", "asset": "COIN", "price": "0.45", "ts": 2000000000, "source": "a"}
{"type": "asset_price", "asset": "COIN", "price": "0.45", "ts": 3000000000, "source": "b"}
{"type": "asset_price", "asset": "COIN", "price": "0.45", "ts": 4000000000, "source": "c"}""",
        comes=(started(equity="9"), order(qty="10")),
        before=BEFORE_COINS,
        options={"assets": STABLE},
        off={"assets": COIN},
    ),
    Fault(
        "warm-up",
        "a book with a mark; money leaves before the log has one",
        b'{"type": "transfer", "transfer_id": "w1", "account": "eve", "asset": "USDT", "amount": "-1", '
        b'"ts": 2000000000}',
        comes=(held("warming_up", "eve"),),
        never=(*ACTIONS, "margin_call"),
        before=b"",
        book={
            "accounts": [
                {
                    "account": "eve",
                    "balances": {"USDT": "5"},
                    "positions": [{"symbol": "BTCUSDT", "qty": "10", "entry_price": "100"}],
                }
            ],
            "marks": {"BTCUSDT": "100"},
            "ts": 1_000_000_000,
        },
    ),
)

OPERATOR = (
    Fault(
        "pause of a symbol",
        "bitcoin paused; bitcoin falls",
        b"""
{"type": "pause", "scope": "BTCUSDT", "reason": "venue down", "ts": 2000000000}"""
        + FALL,
        comes=(held("paused", symbol="BTCUSDT"),),
        never=ACTIONS,
    ),
    Fault(
        "pause of another symbol",
        "ether paused; bitcoin falls",
        b"""
{"type": "pause", "scope": "ETHUSDT", "reason": "venue down", "ts": 2000000000}"""
        + FALL,
        comes=(started(), order(symbol="BTCUSDT", qty="10")),
        never=("liquidation_held",),
    ),
    Fault(
        "pause of all",
        "all paused; bitcoin falls",
        b"""
{"type": "pause", "scope": "all", "reason": "upgrade", "ts": 2000000000}"""
        + FALL,
        comes=(held("paused"),),
        never=ACTIONS,
    ),
    Fault(
        "resume",
        "… and all resumed",
        b"""
{"type": "pause", "scope": "all", "reason": "upgrade", "ts": 2000000000}"""
        + FALL
        + b'{"type": "resume", "scope": "all", "reason": "done", "ts": 2000000000}',
        comes=(released("paused"), started(cause="policy"), order(qty="10")),
    ),
    Fault(
        "policy change that crosses accounts",
        "the rate of bitcoin is set to 2 %",
        b'{"type": "set_instrument", "symbol": "BTCUSDT", "tiers": [["0", "0.02", "25"]], "ts": 2000000000}',
        comes=(("policy_changed", {"crossed": ["alice"], "version": 2}), started(cause="policy"), order(qty="10")),
    ),
    Fault(
        "policy change that crosses nobody",
        "the rate of ether is set to 3 %",
        b'{"type": "set_instrument", "symbol": "ETHUSDT", "tiers": [["0", "0.03", "25"]], "ts": 2000000000}',
        comes=(("policy_changed", {"crossed": [], "version": 2}),),
        never=ACTIONS,
    ),
)

PACED: Body = {"BTCUSDT": {"flow_budget": "1088"}}
UNPACED: Body = {"instruments": {"BTCUSDT": {}}}
PACING = (
    Fault(
        "flow budget: cut",
        "Bob (worse) and Alice fall; 1088 a second may be sent",
        FALL,
        comes=(order("bob", qty="10"), order("alice", qty="1.001")),
        before=BEFORE + BOB,
        options={"instruments": PACED},
        off=UNPACED,
    ),
    Fault(
        "flow budget: used up",
        "Bob and Alice fall; 989 a second may be sent",
        FALL,
        comes=(order("bob", qty="10"), held("flow_budget", symbol="BTCUSDT")),
        before=BEFORE + BOB,
        options={"instruments": {"BTCUSDT": {"flow_budget": "989"}}},
        off=UNPACED,
    ),
    Fault(
        "flow budget: room again",
        "… a second later",
        FALL + b'{"type": "mark", "symbol": "ETHUSDT", "price": "50", "ts": 3000000000}',
        comes=(released("flow_budget", symbol="BTCUSDT"), order("alice", qty="10")),
        before=BEFORE + BOB,
        options={"instruments": {"BTCUSDT": {"flow_budget": "989"}}},
        off=UNPACED,
    ),
    Fault(
        "emergency bypass",
        "Bob at less than 0.85 x his margin; 100 may be sent",
        FALL,
        comes=(order("bob", qty="10"), held("flow_budget", symbol="BTCUSDT")),
        before=BEFORE + BOB,
        options={"instruments": {"BTCUSDT": {"flow_budget": "100"}}, "emergency_ratio": "0.85"},
        off={"emergency_ratio": "0"},
    ),
)

EXECUTION = (
    Fault(
        "order time-out",
        "the order of 98.9 is not answered for 5 s",
        FALL + b'{"type": "mark", "symbol": "ETHUSDT", "price": "50", "ts": 7000000000}',
        comes=(order(order_id="alice/1/2", qty="10"),),
        off={"order_timeout_ms": 60_000},
    ),
    Fault(
        "order in flight",
        "the order is out; bitcoin falls further",
        FALL + b'{"type": "mark", "symbol": "BTCUSDT", "price": "98.8", "ts": 3000000000}',
        never=("takeover",),
    ),
    Fault(
        "no answer at all",
        "one attempt allowed; it times out; the fund has 100",
        b'{"type": "transfer", "transfer_id": "t", "account": "$insurance", "asset": "USDT", "amount": "100", '
        b'"ts": 1000000000}' + FALL + b'{"type": "mark", "symbol": "ETHUSDT", "price": "50", "ts": 7000000000}',
        comes=(
            ("takeover", {"account": "alice", "equity_before": "9"}),
            ("liquidation_ended", {"outcome": "taken_over"}),
        ),
        options={"max_attempts": 1},
        off={"max_attempts": 2},
    ),
    Fault(
        "over-fill",
        "the order of 10 is filled with 12",
        FALL
        + b'{"type": "fill", "fill_id": "x", "account": "alice", "symbol": "BTCUSDT", "side": "sell", "qty": "12", '
        b'"price": "98.9", "order_id": "alice/1/1", "ts": 3000000000}',
        comes=(("liquidation_ended", {"outcome": "healthy", "equity": "9"}),),
        never=("reject",),
    ),
    Fault(
        "late fill",
        "… it timed out, was taken over, and is filled after that",
        b'{"type": "transfer", "transfer_id": "t", "account": "$insurance", "asset": "USDT", "amount": "100", '
        b'"ts": 1000000000}'
        + FALL
        + b'{"type": "mark", "symbol": "ETHUSDT", "price": "50", "ts": 7000000000}\n'
        + b'{"type": "fill", "fill_id": "x", "account": "alice", "symbol": "BTCUSDT", "side": "sell", "qty": "10", '
        b'"price": "98.9", "order_id": "alice/1/1", "ts": 7000000000}',
        comes=(started(liquidation_id="alice/2", cause="fill"),),
        never=("reject",),
        options={"max_attempts": 1},
    ),
    Fault(
        "withdrawal race",
        "Alice takes out 11 of her 20 before the engine can stop it",
        b'{"type": "transfer", "transfer_id": "w1", "account": "alice", "asset": "USDT", "amount": "-11", '
        b'"ts": 2000000000}',
        comes=(started(cause="transfer", equity="9"), order(qty="10")),
        never=("reject",),
    ),
    Fault(
        "withdrawal of more than there is",
        "Carol, without positions, takes out 5 of her 3",
        b"""
{"type": "transfer", "transfer_id": "d9", "account": "carol", "asset": "USDT", "amount": "3", "ts": 2000000000}
{"type": "transfer", "transfer_id": "w9", "account": "carol", "asset": "USDT", "amount": "-5", "ts": 2000000000}""",
        comes=(("bad_debt", {"account": "carol", "asset": "USDT", "deficit": "2", "uncovered": "2"}),),
    ),
    Fault(
        "gap through zero",
        "bitcoin at 97, Alice at -10; the fund has 100",
        b'{"type": "transfer", "transfer_id": "t", "account": "$insurance", "asset": "USDT", "amount": "100", '
        b'"ts": 1000000000}\n{"type": "mark", "symbol": "BTCUSDT", "price": "97", "ts": 2000000000}',
        comes=(
            ("takeover", {"account": "alice", "equity_before": "-10"}),
            ("bad_debt", {"deficit": "10", "paid_by_insurance": "10", "uncovered": "0"}),
        ),
        never=(ORDER,),
    ),
    Fault(
        "empty fund",
        "bitcoin at 97; the fund has nothing, Sam is short",
        b'{"type": "mark", "symbol": "BTCUSDT", "price": "97", "ts": 2000000000}',
        comes=(
            ("adl", {"account": "alice", "counterparty": "sam", "qty": "10", "price": "98", "cash": "980"}),
            ("bad_debt", {"deficit": "10", "paid_by_insurance": "0", "paid_by_adl": "10"}),
            ("liquidation_ended", {"outcome": "deleveraged", "equity": "0"}),
        ),
        never=(ORDER, "takeover"),
        before=BEFORE + SAM,
    ),
    Fault(
        "no counterparty",
        "bitcoin at 97; no fund and nobody short",
        b'{"type": "mark", "symbol": "BTCUSDT", "price": "97", "ts": 2000000000}',
        comes=(("adl_remaining", {"account": "alice", "symbol": "BTCUSDT", "qty": "10"}),),
        never=("bad_debt", "takeover", "adl", "liquidation_ended"),
    ),
    Fault(
        "thin market",
        "the venue has a depth of 395.6: four of ten are sold",
        FALL,
        comes=(order(order_id="alice/1/1", qty="10"), ("liquidation_ended", {"outcome": "healthy"})),
        options={"instruments": {"BTCUSDT": {"depth": "395.6"}}},
        off={"instruments": {"BTCUSDT": {"half_spread": "0.02"}}},
        venue=True,
    ),
)

DEPOSIT = (
    b'{"type": "transfer", "transfer_id": "x", "account": "alice", "asset": "USDT", "amount": "1", "ts": 2000000000'
)
FEED = (
    Fault(
        "repeated fill",
        "the fill of Alice's ten comes again",
        b'{"type": "fill", "fill_id": "f1", "account": "alice", "symbol": "BTCUSDT", "side": "buy", "qty": "10", '
        b'"price": "100", "ts": 2000000000}',
        never=(*ACTIONS, "reject"),
        counted="duplicates",
    ),
    Fault(
        "repeated transfer",
        "Alice's deposit comes again",
        b'{"type": "transfer", "transfer_id": "d1", "account": "alice", "asset": "USDT", "amount": "20", '
        b'"ts": 2000000000}',
        never=(*ACTIONS, "reject"),
        counted="duplicates",
    ),
    Fault(
        "older mark",
        "a mark of 90 that is a nanosecond older than the last",
        b'{"type": "mark", "symbol": "BTCUSDT", "price": "90", "ts": 999999999}',
        never=(*ACTIONS, "reject"),
        counted="ignored",
    ),
    Fault(
        "end of an unknown order",
        "order_done of an order nobody sent",
        b'{"type": "order_done", "order_id": "alice/1/1", "account": "alice", "status": "filled", "ts": 2000000000}',
        never=(*ACTIONS, "reject"),
        counted="ignored",
    ),
    Fault(
        "price of an asset that is fixed",
        "somebody prints 0.5 for dollars",
        b'{"type": "asset_price", "asset": "USDT", "price": "0.5", "ts": 2000000000}',
        never=(*ACTIONS, "reject"),
        counted="ignored",
    ),
    refused(
        "far-future time",
        "a mark two minutes ahead, one allowed",
        b'{"type": "mark", "symbol": "BTCUSDT", "price": "98.9", "ts": 121000000000}',
        reason="future_ts",
        max_future_s=60,
    ),
    Fault(
        "far-future time: the world moved on",
        "marks of ether and then bitcoin, two minutes ahead both",
        b"""
{"type": "mark", "symbol": "ETHUSDT", "price": "50", "ts": 121000000000}
{"type": "mark", "symbol": "BTCUSDT", "price": "98.9", "ts": 121000000000}""",
        comes=(started(), order(qty="10")),
        options={"max_future_s": 60},
    ),
    refused(
        "half a character", "an account name cut in its umlaut", DEPOSIT + b', "reason": "\xc3"}', reason="bad_encoding"
    ),
    refused(
        "endless line",
        "a note of a MiB",
        DEPOSIT + b', "note": "' + b"x" * 2**20 + b'"}',
        reason="too_long",
    ),
    refused("bad JSON", "a deposit cut off before its end", DEPOSIT, reason="bad_json"),
    refused("key twice", "a deposit with two amounts", DEPOSIT + b', "amount": "2"}', reason="duplicate_key"),
    refused("unknown message", "type deposit", b'{"type": "deposit", "ts": 2000000000}', reason="unknown_type"),
    refused(
        "missing field",
        "a transfer without an id",
        b'{"type": "transfer", "account": "alice", "asset": "USDT", "amount": "1", "ts": 2000000000}',
        reason="missing_field",
    ),
    refused(
        "wrong type",
        "a time in quotes",
        b'{"type": "mark", "symbol": "BTCUSDT", "price": "98.9", "ts": "2000000000"}',
        reason="bad_type",
    ),
    refused(
        "float for money",
        "a mark of 98.9 without quotes",
        b'{"type": "mark", "symbol": "BTCUSDT", "price": 98.9, "ts": 2000000000}',
        reason="bad_number",
    ),
    refused(
        "surplus digits",
        "half a lot is bought",
        b'{"type": "fill", "fill_id": "x", "account": "alice", "symbol": "BTCUSDT", "side": "buy", "qty": "0.0005", '
        b'"price": "100", "ts": 2000000000}',
        reason="surplus_digits",
    ),
    refused(
        "mark of nothing",
        "bitcoin at 0",
        b'{"type": "mark", "symbol": "BTCUSDT", "price": "0", "ts": 2000000000}',
        reason="out_of_range",
    ),
    refused(
        "unknown symbol",
        "a mark of a contract that is not listed",
        b'{"type": "mark", "symbol": "NOPEUSDT", "price": "1", "ts": 2000000000}',
        reason="unknown_symbol",
    ),
    refused(
        "unknown asset",
        "a deposit of a coin that is not listed",
        b'{"type": "transfer", "transfer_id": "x", "account": "alice", "asset": "NOPE", "amount": "1", '
        b'"ts": 2000000000}',
        reason="unknown_asset",
    ),
    refused(
        "account of the engine",
        "a withdrawal from $fees",
        b'{"type": "transfer", "transfer_id": "x", "account": "$fees", "asset": "USDT", "amount": "-1", '
        b'"ts": 2000000000}',
        reason="reserved_account",
    ),
    refused(
        "more than 64 bits hold",
        "a deposit of a hundred billion",
        b'{"type": "transfer", "transfer_id": "x", "account": "alice", "asset": "USDT", "amount": "100000000000", '
        b'"ts": 2000000000}',
        reason="overflow",
    ),
    refused(
        "money of another kind for a bucket",
        "coins for the bucket of bitcoin in dollars",
        b'{"type": "transfer", "transfer_id": "x", "account": "alice", "asset": "COIN", "amount": "1", '
        b'"symbol": "BTCUSDT", "ts": 2000000000}',
        reason="bad_bucket",
        assets=COIN,
    ),
    refused(
        "legs and net mixed",
        "Alice, net long, opens a short leg",
        b'{"type": "fill", "fill_id": "x", "account": "alice", "symbol": "BTCUSDT", "side": "sell", "qty": "1", '
        b'"price": "100", "leg": "short", "ts": 2000000000}',
        reason="bad_leg",
    ),
)

FAULTS: tuple[Fault, ...] = (*PRICES, *OPERATOR, *PACING, *EXECUTION, *FEED)

SHOWN = {
    "reject": "reason",
    "liquidation_held": "account reason symbol",
    "liquidation_released": "account reason symbol",
    "liquidation_started": "account equity maintenance_margin",
    ORDER: "account symbol qty limit_price",
    "takeover": "account equity_before",
    "adl": "account counterparty qty price",
    "adl_remaining": "account symbol qty",
    "bad_debt": "account deficit paid_by_insurance paid_by_adl uncovered",
    "liquidation_ended": "account outcome equity",
    "policy_changed": "version crossed",
}


def in_words(body: Body) -> str:
    """A record as the table shows it: its type and what a reader asks for first."""
    values = [body.get(name) for name in SHOWN[body["type"]].split()]
    return " ".join([body["type"], *(str(value) for value in values if value is not None)])


def outcome(fault: Fault) -> list[str]:
    """What the last line of a fault really brings, a line each: the records named in the row, or how it was counted."""
    result = told(fault)
    named = [body for body in result.last if any(holds(body, *expected) for expected in fault.comes)]
    return [in_words(body) for body in named] or [f"nothing; counted: {result.counted}"]


def table() -> str:
    """The whole table as text."""
    rows = [("fault", "log", "what comes out")]
    for fault in FAULTS:
        for number, words in enumerate(outcome(fault)):
            rows.append((fault.name, fault.log, words) if number == 0 else ("", "", words))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    rows.insert(1, ("-" * widths[0], "-" * widths[1], "-" * max(len(row[2]) for row in rows)))
    return "\n".join(f"{name:{widths[0]}}  {log:{widths[1]}}  {words}".rstrip() for name, log, words in rows)


if __name__ == "__main__":
    print(table())
