"""Every reason of the closed list, from the line of the log to the dead letter, with its neighbour that is accepted.

A refused line leaves one record that says where it stands and what it was, and nothing else: the state afterwards is
the state before, and the next line finds everything in order.
"""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

import pytest

from engine.core import control as control_messages
from engine.core.events import REJECT_REASONS
from engine.edges.config import load_risk
from engine.tools.replay import ReplayOptions, run_replay
from tests.scenarios import (
    MS,
    SECOND,
    START_NS,
    Desk,
    asset_price,
    buy,
    control,
    deposit,
    funding,
    kinds,
    mark,
    one,
    own_id,
    pick,
    sell,
    withdraw,
)

TS = {"ts": START_NS + 100 * MS}
LINE_BYTES_MAX = 1_048_576

# What stands before each case: Alice is 10 long, Bob holds two legs, Carol has a bucket.
SETUP = (
    mark("100"),
    deposit("alice", "1000"),
    buy("alice", "10", "100"),
    deposit("bob", "1000"),
    buy("bob", "2", "100", leg="long"),
    sell("bob", "1", "100", leg="short"),
    buy("carol", "1", "100", isolated=True, fee="-50"),
)
RISK_TOML = """
[policy]
partial = "off"
max_future_s = 60
[assets.USDT]
price = 1
[assets.COIN]
decimals = 2
[instruments.BTCUSDT]
settle = "USDT"
price_tick = 0.1
lot = 0.001
tiers = [[0, 0.01, 50]]
[instruments.ETHUSDT]
settle = "USDT"
price_tick = 0.1
lot = 0.01
tiers = [[0, 0.02, 25]]
"""


class Case(NamedTuple):
    """A line that is refused for ``reason``, and one as near to it as can be that is not."""

    reason: str
    what: str
    refused: bytes
    accepted: bytes


def line(body: dict[str, Any] | bytes) -> bytes:
    """A message as a line, with an id and a time where it lacks them."""
    if isinstance(body, bytes):
        return body
    return json.dumps({**own_id(body, "case"), **TS, **body}).encode()


def case(reason: str, what: str, refused: dict[str, Any] | bytes, accepted: dict[str, Any] | bytes) -> Case:
    return Case(reason, what, line(refused), line(accepted))


def of_length(size: int) -> bytes:
    """A good deposit that is exactly ``size`` bytes long."""
    head = line(deposit("alice", "1"))[:-1] + b', "note": "'
    return head + b"x" * (size - len(head) - 2) + b'"}'


def without(body: dict[str, Any], name: str) -> bytes:
    whole = json.loads(line(body))
    del whole[name]
    return json.dumps(whole).encode()


def conversion(**fields: Any) -> dict[str, Any]:
    body = {"type": "conversion", "account": "alice", "from_asset": "USDT", "from_amount": "1"}
    return {**body, "to_asset": "COIN", "to_amount": "1", **fields}


def policy(**fields: Any) -> dict[str, Any]:
    return control("set_policy", **fields)


DEPOSIT = deposit("alice", "1")
NEW = {"settle": "USDT", "price_tick": "0.1", "lot": "0.001", "tiers": [["0", "0.01", "50"]]}

CASES = (
    case("bad_encoding", "half a character", line(deposit("J\xfcrgen", "1")).replace(b"\\u00fc", b"\xfc"),
         line(deposit("J\xfcrgen", "1")).replace(b"\\u00fc", "\xfc".encode())),
    case("too_long", "one byte over a MiB", of_length(LINE_BYTES_MAX + 1), of_length(LINE_BYTES_MAX)),
    case("bad_json", "cut off", line(DEPOSIT)[:-1], DEPOSIT),
    case("bad_json", "two in one line", line(DEPOSIT) * 2, DEPOSIT),
    case("bad_json", "no object", b"[" + line(DEPOSIT) + b"]", DEPOSIT),
    case("duplicate_key", "amount twice", line(DEPOSIT)[:-1] + b', "amount": "1"}', DEPOSIT),
    case("unknown_type", "of another case", {**DEPOSIT, "type": "Transfer"}, DEPOSIT),
    case("missing_field", "no amount", without(DEPOSIT, "amount"), DEPOSIT),
    case("missing_field", "no ts", without(DEPOSIT, "ts"), DEPOSIT),
    case("missing_field", "no id", without(DEPOSIT, "transfer_id"), DEPOSIT),
    case("missing_field", "no type", without(DEPOSIT, "type"), DEPOSIT),
    case("bad_type", "ts in a string", {**DEPOSIT, "ts": str(START_NS)}, {**DEPOSIT, "ts": START_NS}),
    case("bad_type", "a list for an account", {**DEPOSIT, "account": ["alice"]}, DEPOSIT),
    case("bad_type", "a flag in a string", buy("carol", "1", "100", isolated="true"),
         buy("carol", "1", "100", isolated=True)),
    case("bad_number", "a JSON float", {**DEPOSIT, "amount": 1.5}, {**DEPOSIT, "amount": "1.5"}),
    case("bad_number", "a float that is whole", {**DEPOSIT, "amount": 1.0}, {**DEPOSIT, "amount": 1}),
    case("bad_number", "an exponent", {**DEPOSIT, "amount": "1e3"}, {**DEPOSIT, "amount": "1000"}),
    case("bad_number", "a leading plus", {**DEPOSIT, "amount": "+1"}, {**DEPOSIT, "amount": "-1"}),
    case("bad_number", "NaN", {**DEPOSIT, "amount": "NaN"}, DEPOSIT),
    case("bad_number", "an infinity", line({**DEPOSIT, "amount": float("inf")}), DEPOSIT),
    case("surplus_digits", "half a lot", buy("alice", "0.0015", "100"), buy("alice", "0.0010", "100")),
    case("surplus_digits", "a sixth decimal of a price", buy("alice", "1", "99.999999"), buy("alice", "1", "99.99999")),
    case("surplus_digits", "a ninth decimal of an amount", deposit("alice", "0.000000011"),
         deposit("alice", "0.000000010")),
    case("surplus_digits", "a third decimal of the asset", deposit("alice", "0.011", "COIN"),
         deposit("alice", "0.01", "COIN")),
    case("surplus_digits", "a ninth decimal of a fee", buy("alice", "1", "100", fee="0.000000001"),
         buy("alice", "1", "100", fee="0.00000001")),
    case("surplus_digits", "a third decimal of what is sold", conversion(from_asset="COIN", from_amount="0.001",
         to_asset="USDT"), conversion(from_asset="COIN", from_amount="0.01", to_asset="USDT")),
    case("surplus_digits", "a thirteenth decimal of a rate", funding("0.0000000000011"), funding("0.000000000001")),
    case("out_of_range", "nothing bought", buy("alice", "0", "100"), buy("alice", "0.001", "100")),
    case("out_of_range", "a price of nothing", buy("alice", "1", "0"), buy("alice", "1", "0.00001")),
    case("out_of_range", "a transfer of nothing", deposit("alice", "0"), deposit("alice", "0.00000001")),
    case("out_of_range", "a name of 65 bytes", deposit("a" * 65, "1"), deposit("a" * 64, "1")),
    case("out_of_range", "an empty name", deposit("", "1"), deposit("a", "1")),
    case("out_of_range", "a side of another case", {**buy("alice", "1", "100"), "side": "BUY"}, buy("alice", "1", "1")),
    case("out_of_range", "a time before 1970", {**DEPOSIT, "ts": -1}, {**DEPOSIT, "ts": 0}),
    case("out_of_range", "a mark that rounds to nothing", mark("0.000005"), mark("0.0000051")),
    case("out_of_range", "an asset price that rounds to nothing", asset_price("COIN", "0.000000005"),
         asset_price("COIN", "0.0000000051")),
    case("out_of_range", "a rate of more than one", funding("1.000000000001"), funding("1")),
    case("out_of_range", "a rate of more than minus one", funding("-1.000000000001"), funding("-1")),
    case("out_of_range", "a call ratio above one", policy(margin_call_ratio="1.000001"), policy(margin_call_ratio="1")),
    case("out_of_range", "a re-arm above the call", policy(margin_call_rearm="0.800001"),
         policy(margin_call_rearm="0.8")),
    case("out_of_range", "a policy key nobody knows", policy(mark_stale_seconds=1), policy(mark_stale_ms=1)),
    case("out_of_range", "a rate that shrinks",
         control("set_instrument", symbol="BTCUSDT", tiers=[["0", "0.01", "50"], ["9", "0.009", "50"]]),
         control("set_instrument", symbol="BTCUSDT", tiers=[["0", "0.01", "50"], ["9", "0.01", "50"]])),
    case("out_of_range", "another lot", control("set_instrument", symbol="BTCUSDT", lot="0.01"),
         control("set_instrument", symbol="BTCUSDT", lot="0.001")),
    case("unknown_symbol", "a mark", mark("1", "NOPE"), mark("100", "BTCUSDT")),
    case("unknown_symbol", "a fill", buy("alice", "1", "1", "NOPE"), buy("alice", "1", "1", "ETHUSDT")),
    case("unknown_symbol", "a funding", funding("0.1", "NOPE"), funding("0.1", "ETHUSDT")),
    case("unknown_symbol", "a bucket", deposit("alice", "1", symbol="NOPE"), deposit("alice", "1", symbol="ETHUSDT")),
    case("unknown_symbol", "a pause", control("pause", scope="NOPE"), control("pause", scope="ETHUSDT")),
    case("unknown_symbol", "a new instrument without a lot",
         control("set_instrument", symbol="NEW", **{key: value for key, value in NEW.items() if key != "lot"}),
         control("set_instrument", symbol="NEW", **NEW)),
    case("unknown_asset", "a transfer", deposit("alice", "1", "NOPE"), deposit("alice", "1", "COIN")),
    case("unknown_asset", "a price", asset_price("NOPE", "1"), asset_price("COIN", "1")),
    case("unknown_asset", "what is sold", conversion(from_asset="NOPE"), conversion()),
    case("unknown_asset", "what is bought", conversion(to_asset="NOPE"), conversion()),
    case("unknown_asset", "what a new instrument settles in",
         control("set_instrument", symbol="NEW", **{**NEW, "settle": "NOPE"}),
         control("set_instrument", symbol="NEW", **NEW)),
    case("reserved_account", "a deposit to the fees", deposit("$fees", "1"), deposit("$insurance", "1")),
    case("reserved_account", "a fill of the other side", buy("$clearing", "1", "100"), buy("$insurance", "1", "100")),
    case("reserved_account", "a deposit to the loss", deposit("$bad_debt", "1"), deposit("bad_debt", "1")),
    case("reserved_account", "a name nobody uses yet", deposit("$new", "1"), deposit("new", "1")),
    case("reserved_account", "a conversion of the fund", conversion(account="$insurance"), conversion()),
    # The clock stands at the last message of the setup, the seventh.
    case("future_ts", "a minute and a nanosecond ahead", {**DEPOSIT, "ts": START_NS + 7 * MS + 60 * SECOND + 1},
         {**DEPOSIT, "ts": START_NS + 7 * MS + 60 * SECOND}),
    case("overflow", "a position of 40 billion and a lot", buy("dave", "400000000.001", "100"),
         buy("dave", "400000000", "100")),
    case("overflow", "a balance of 40 billion and a unit", deposit("dave", "40000000000.00000001"),
         deposit("dave", "40000000000")),
    case("overflow", "a debt of 40 billion and a unit", withdraw("dave", "40000000000.00000001"),
         withdraw("dave", "40000000000")),
    case("overflow", "a mark that makes ten coins worth 90 billion and more", mark("9000000000.00001"),
         mark("8999999899")),
    case("overflow", "a fee beyond all money", buy("alice", "1", "100", fee="9" * 25),
         buy("alice", "1", "100", fee="9")),
    case("overflow", "a sale at a price beyond all money", sell("alice", "10", "9" * 25), sell("alice", "10", "9")),
    case("bad_bucket", "coins for a bucket of dollars", deposit("carol", "1", "COIN", symbol="BTCUSDT"),
         deposit("carol", "1", symbol="BTCUSDT")),
    case("bad_bucket", "out of a bucket that is not there", withdraw("alice", "1", symbol="BTCUSDT"),
         withdraw("carol", "1", symbol="BTCUSDT")),
    case("bad_bucket", "a bucket of the fund", deposit("$insurance", "1", symbol="BTCUSDT"),
         deposit("$insurance", "1")),
    case("bad_bucket", "an isolated fill of the fund", buy("$insurance", "1", "100", isolated=True),
         buy("$insurance", "1", "100")),
    case("bad_leg", "a leg beside a net position", buy("alice", "1", "100", leg="long"), buy("alice", "1", "100")),
    case("bad_leg", "a net fill beside legs", buy("bob", "1", "100"), buy("bob", "1", "100", leg="long")),
    case("bad_leg", "a lot more than the leg holds", sell("bob", "2.001", "100", leg="long"),
         sell("bob", "2", "100", leg="long")),
    case("bad_leg", "a lot more than the short leg owes", buy("bob", "1.001", "100", leg="short"),
         buy("bob", "1", "100", leg="short")),
    case("bad_leg", "an isolated leg beside a net position", buy("alice", "1", "100", leg="long", isolated=True),
         buy("alice", "1", "100", isolated=True)),
    case("bad_leg", "a leg of the fund", buy("$insurance", "1", "100", leg="long"), buy("$insurance", "1", "100")),
)  # fmt: skip


def desk_with_setup() -> Desk:
    desk = Desk(assets={"COIN": {"decimals": 2}}, max_future_s=60)
    assert desk.tell(*SETUP) == []
    return desk


@pytest.mark.parametrize("case", CASES, ids=[f"{case.reason}: {case.what}" for case in CASES])
def test_line_is_refused_and_leaves_nothing_behind_and_its_neighbour_is_accepted(case):
    desk = desk_with_setup()
    before, counters = desk.state(), desk.shard.counters
    (reject,) = desk.tell_line(case.refused)
    assert pick(reject, "type reason file line") == ("reject", case.reason, "log.jsonl", len(SETUP) + 1)
    assert reject["detail"]
    if len(case.refused) <= 4096 and case.reason != "bad_encoding":
        assert reject["payload"].encode() == case.refused
    else:
        assert base64.b64decode(reject["payload_base64"]) == case.refused[:4096]
        assert reject["payload_bytes"] == len(case.refused)
    assert desk.state() == before
    assert (counters.rejected, counters.accepted) == ({case.reason: 1}, len(SETUP))
    assert "reject" not in kinds(desk.tell_line(case.accepted))
    assert counters.accepted == len(SETUP) + 1


def test_every_reason_of_the_list_is_in_the_table():
    assert {case.reason for case in CASES} == set(REJECT_REASONS)


def test_log_of_refused_lines_leaves_the_book_of_a_log_without_them(tmp_path):
    (tmp_path / "risk.toml").write_text(RISK_TOML)
    risk = load_risk(tmp_path / "risk.toml")
    start = Desk()
    setup = [json.dumps(start.complete({**own_id(body, f"{n}"), **body})).encode() for n, body in enumerate(SETUP)]
    logs = {"good": setup, "mixed": [*setup, *(case.refused for case in CASES)]}
    results = {}
    for name, lines in logs.items():
        (tmp_path / f"{name}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        options = ReplayOptions([tmp_path / f"{name}.jsonl"], risk, out=tmp_path / name, show_progress=False)
        results[name] = run_replay(options)
    records = [json.loads(text) for text in (tmp_path / "mixed" / "dead-letters.jsonl").read_bytes().splitlines()]
    assert [pick(record, "type reason file line") for record in records] == [
        ("reject", case.reason, "mixed.jsonl", len(setup) + number) for number, case in enumerate(CASES, start=1)
    ]
    assert (tmp_path / "mixed" / "final-book.json").read_bytes() == (tmp_path / "good" / "final-book.json").read_bytes()
    assert sum(results["mixed"]["rejected"].values()) == len(CASES)
    assert results["mixed"]["accepted"] == len(setup)
    assert results["good"]["rejected"] == {}


# ------------------------------------------------------------------------------------------------------- future times


def test_first_message_sets_the_clock_whenever_it_is():
    desk = Desk(max_future_s=60)
    assert desk.tell(deposit("alice", "1", ts=2**62)) == []
    assert desk.shard.clock == 2**62


def test_book_with_a_time_sets_the_clock_and_one_without_does_not():
    far = START_NS + 61 * SECOND
    assert kinds(Desk({"ts": START_NS}, max_future_s=60).tell(deposit("alice", "1", ts=far))) == ["reject"]
    assert Desk({"ts": 0}, max_future_s=60).tell(deposit("alice", "1", ts=far)) == []


def test_second_key_that_says_the_same_time_is_believed_and_the_world_has_moved_on():
    desk = Desk(max_future_s=60)
    desk.tell(mark("100", ts=START_NS))
    far = START_NS + 3600 * SECOND
    assert kinds(desk.tell(mark("101", ts=far))) == ["reject"]
    # The same key again is the same broken source.
    assert kinds(desk.tell(mark("101", ts=far + 1))) == ["reject"]
    assert desk.tell(mark("50", "ETHUSDT", ts=far + 1 + 60 * SECOND)) == []
    assert desk.shard.clock == far + 1 + 60 * SECOND


@pytest.mark.parametrize("away_ns", [60 * SECOND + 1, -60 * SECOND - 1])
def test_second_key_that_says_another_time_is_not_believed(away_ns):
    desk = Desk(max_future_s=60)
    desk.tell(mark("100", ts=START_NS))
    far = START_NS + 3600 * SECOND
    assert kinds(desk.tell(mark("101", ts=far), mark("50", "ETHUSDT", ts=far + away_ns))) == ["reject", "reject"]
    assert desk.shard.clock == START_NS


def test_confirmation_must_follow_at_once():
    desk = Desk(max_future_s=60)
    desk.tell(mark("100", ts=START_NS))
    far = START_NS + 3600 * SECOND
    outputs = desk.tell(mark("101", ts=far), mark("100", ts=START_NS + 1), mark("50", "ETHUSDT", ts=far))
    assert kinds(outputs) == ["reject", "reject"]


def test_guard_that_is_off_lets_any_time_pass():
    desk = Desk()
    assert desk.tell(mark("100", ts=START_NS), mark("50", "ETHUSDT", ts=2**63 - 1)) == []


# ------------------------------------------------------------------------------------------- what would leave 64 bits


def test_conversions_that_add_up_beyond_the_bound_are_refused():
    desk = Desk(assets={"COIN": {"price": "1"}})
    amounts = {"from_asset": "COIN", "from_amount": "1", "to_asset": "USDT", "to_amount": "20000000000"}
    for _ in range(2):
        assert desk.tell({"type": "conversion", "account": "alice", **amounts}) == []
    (reject,) = desk.tell({"type": "conversion", "account": "alice", **amounts, "to_amount": "0.00000001"})
    assert reject["reason"] == "overflow"
    assert desk.wallet("alice") == "40000000000"


def test_fees_that_add_up_beyond_the_bound_are_refused():
    desk = Desk()
    desk.tell(mark("100"))
    outputs = desk.tell(*(buy("alice", "1", "100", fee="30000000000") for _ in range(4)))
    assert one(outputs[-1:], "reject")["reason"] == "overflow"


def test_an_instrument_more_than_a_position_can_name_is_refused(monkeypatch):
    monkeypatch.setattr(control_messages, "INSTRUMENTS_MAX", 3)
    desk = Desk()
    terms = {"settle": "USDT", "price_tick": "0.1", "lot": "0.001", "tiers": [["0", "0.01", "50"]]}
    assert len(desk.shard.book.instruments) == 2
    assert "reject" not in kinds(desk.tell(control("set_instrument", symbol="THIRD", **terms)))
    (reject,) = desk.tell(control("set_instrument", symbol="FOURTH", **terms))
    assert (reject["reason"], reject["detail"]) == ("out_of_range", "there are 3 instruments, no more are held")
    # Those there are may still be changed.
    assert "reject" not in kinds(desk.tell(control("set_instrument", symbol="THIRD", price_tick="0.2")))


def test_fee_in_coins_is_bounded_by_what_the_coins_are_worth():
    inverse = {"kind": "inverse", "settle": "COIN", "lot": "1", "price_tick": "0.5", "tiers": [["0", "0.01", "50"]]}
    desk = Desk(assets={"COIN": {}}, instruments={"COINUSD": inverse})
    desk.tell(asset_price("COIN", "100"), mark("100", "COINUSD"), deposit("alice", "1000", "COIN"))
    before = desk.state()
    (reject,) = desk.tell(buy("alice", "1", "100", "COINUSD", fee="400000000.00000001"))
    assert reject["reason"] == "overflow"
    assert desk.state() == before
    # What is worth 40 billion is let in.
    assert "reject" not in kinds(desk.tell(buy("alice", "1", "100", "COINUSD", fee="400000000")))


def test_price_of_an_asset_that_is_fixed_too_high_for_a_balance_is_refused():
    desk = Desk(assets={"COIN": {}})
    desk.tell(asset_price("COIN", "1"), deposit("alice", "40000000000", "COIN"))
    before = desk.state()
    (reject,) = desk.tell(control("set_asset", asset="COIN", price="1000000000"))
    assert reject["reason"] in ("overflow", "out_of_range")
    assert desk.state() == before


def test_marks_that_are_bearable_one_by_one_but_not_together_are_refused():
    desk = Desk()
    desk.tell(mark("1"), mark("1", "ETHUSDT"), deposit("alice", "10000000"))
    desk.tell(buy("alice", "1000000", "1"), buy("alice", "1000000", "1", "ETHUSDT"))
    # A million coins at 60,000 are 60 billion, twice that is more than an account may be worth.
    assert desk.tell(mark("60000")) == []
    (reject,) = desk.tell(mark("60000", "ETHUSDT"))
    assert reject["reason"] == "overflow"


def test_funding_that_adds_up_beyond_the_bound_is_refused():
    desk = Desk()
    desk.tell(mark("100"), buy("$insurance", "390000000", "100"))
    outputs = desk.tell(*(funding("1") for _ in range(4)))
    assert one(outputs[-1:], "reject")["reason"] == "overflow"
