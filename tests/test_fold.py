"""The fold that everything goes through: which topic may say what, and the same outputs in batches of any size."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import __version__
from engine.core.events import OUTPUT_TOPICS, Ignored, Reject
from engine.core.shard import Shard
from engine.edges.config import load_risk
from engine.edges.digest import state_hash
from engine.edges.fold import INPUT_TOPICS, Batch, Fold, Line, input_of, message_of
from engine.edges.journal import (
    Checked,
    OrderRecord,
    Position,
    check_link,
    decode_journal,
    outputs_hash,
    record_hash,
)
from engine.errors import InvariantError
from engine.shell.shadow import Shadow
from tests import golden
from tests.service_cases import ROUTES, START_NS, Record, golden_records, record_of, stored

# One message of each type, as CONTRACT section 2 has it.
MESSAGES: dict[str, dict[str, Any]] = {
    "mark": {"symbol": "BTCUSDT", "price": "100"},
    "asset_price": {"asset": "COIN", "price": "2"},
    "funding": {"symbol": "BTCUSDT", "rate": "0.0001"},
    "fill": {"fill_id": "1", "account": "a", "symbol": "BTCUSDT", "side": "buy", "qty": "1", "price": "100"},
    "conversion": {
        "conversion_id": "1",
        "account": "a",
        "from_asset": "COIN",
        "from_amount": "1",
        "to_asset": "USDT",
        "to_amount": "2",
    },
    "order_done": {"order_id": "a/1/1", "account": "a", "status": "filled"},
    "transfer": {"transfer_id": "1", "account": "a", "asset": "USDT", "amount": "5"},
    "pause": {"scope": "all"},
    "resume": {"scope": "all"},
    "set_policy": {"price_band": "0.1"},
    "set_instrument": {"symbol": "BTCUSDT", "taker_fee": "0.001"},
    "set_asset": {"asset": "COIN", "slippage": "0.1"},
}
DESK = stored(golden_records("desk"))


def line_of(kind: str) -> bytes:
    return json.dumps({"type": kind, "ts": START_NS, **MESSAGES[kind]}).encode()


def new_fold(name: str = "desk", *, number: int = 0, prefix: str = "") -> Fold:
    """Return a fold that has nothing behind it."""
    shard = Shard(load_risk(golden.FOLDER / f"{name}.toml"), number=number)
    offsets = {topic: {0: 0} for topic in INPUT_TOPICS}
    return Fold(shard, Position(0, "ab" * 32, offsets), logical=lambda topic: topic.removeprefix(prefix))


# --- which topic may say what


@pytest.mark.parametrize("topic", INPUT_TOPICS)
@pytest.mark.parametrize("kind", MESSAGES)
def test_a_message_is_taken_from_its_own_topic_and_refused_on_any_other(kind: str, topic: str) -> None:
    found = input_of(b"a", line_of(kind), topic, 0) if topic != "control" else input_of(b"*", line_of(kind), topic, 0)
    if ROUTES[kind][0] == topic:
        assert not isinstance(found, Reject | Ignored)
    else:
        # A fill among the marks would be seen by every shard, and each would book it.
        assert isinstance(found, Reject)
        assert (found.reason, found.payload) == ("unknown_type", line_of(kind))
        assert topic in found.detail


@pytest.mark.parametrize("topic", INPUT_TOPICS)
def test_what_cannot_be_read_keeps_its_own_reason_on_every_topic(topic: str) -> None:
    found = input_of(b"*", b"\xff\xfe", topic, 0)
    assert isinstance(found, Reject)
    assert (found.reason, found.payload) == ("bad_encoding", b"\xff\xfe")


def test_the_topics_are_those_of_the_contract() -> None:
    assert set(INPUT_TOPICS) == {topic for topic, _ in ROUTES.values()}


@pytest.mark.parametrize("key", [None, b"", b"*", b"3"])
def test_a_control_message_is_for_all_shards_or_for_the_one_that_its_key_names(key: bytes | None) -> None:
    assert not isinstance(input_of(key, line_of("pause"), "control", 3), Ignored | Reject)


@pytest.mark.parametrize("key", [b"2", b"33", b"03", b" 3", b"3 ", b"**", b"\xff", b"BTCUSDT"])
@pytest.mark.parametrize("payload", [line_of("pause"), b"not JSON", b""])
def test_a_control_message_for_another_shard_is_ignored_whatever_it_says(key: bytes, payload: bytes) -> None:
    assert isinstance(input_of(key, payload, "control", 3), Ignored)


@pytest.mark.parametrize("topic", ["mark-prices", "fills", "transfers"])
@pytest.mark.parametrize("key", [None, b"", b"2", b"another account", b"\xff"])
def test_the_key_of_any_other_topic_decides_nothing(topic: str, key: bytes | None) -> None:
    kind = next(kind for kind, (home, _) in ROUTES.items() if home == topic)
    assert input_of(key, line_of(kind), topic, 3) == input_of(b"a", line_of(kind), topic, 3)


@pytest.mark.parametrize("topic", INPUT_TOPICS)
@pytest.mark.parametrize("value", [None, b"", b" ", b"\r\n", b"\t \n"])
def test_blank_and_deleted_values_are_nothing(topic: str, value: bytes | None) -> None:
    fold = new_fold()
    assert fold.apply([Record(topic, None, value)]) == []
    assert (fold.shard.counters.ignored, fold.shard.counters.rejected.total()) == (1, 0)


def test_an_input_says_where_it_was_by_our_name_of_the_topic() -> None:
    fold = new_fold(prefix="liq.")
    (line,) = fold.apply([Record("liq.fills", b"k", b"garbage", 0, 17)])
    body = json.loads(line.value)
    assert (body["topic"], body["partition"], body["offset"]) == ("fills", 0, 17)
    assert fold.batch.places == [("fills", 0, 17)]


def test_a_topic_within_the_prefix_of_another_deployment_is_none_of_ours() -> None:
    """``liq.fills`` and ``liq.eu.fills`` on one broker: only what stands before the name is taken off."""
    assert message_of(Record("fills", b"k", b"", 0, 1), "fills", 0).origin.topic == "fills"
    assert new_fold(prefix="liq.eu.").logical("liq.fills") == "liq.fills"


@pytest.mark.parametrize("key", [b"somebody", b"", b"42"])
def test_a_dead_letter_has_the_key_of_its_input(key: bytes) -> None:
    """CONTRACT section 3, ``dead-letters``: as the input. An account's refusals stay in one partition, in order."""
    fold = new_fold()
    refused = [Record("fills", key, b"not JSON", 0, 5), Record("fills", key, line_of("mark"), 0, 6)]
    lines = fold.apply(refused)
    assert [(line.topic, key_bytes(line)) for line in lines] == [("dead-letters", key)] * 2


def key_bytes(line: Line) -> bytes | None:
    """Return the key of an output as it goes to the broker, whether it is kept as text or as bytes."""
    key: Any = line.key
    return key.encode() if isinstance(key, str) else key


# --- batches


def folded_in(sizes: list[int]) -> tuple[list[Line], str]:
    """Return outputs and state of the golden log, taken in batches of the given sizes, the last ones in one."""
    fold, rest, lines = new_fold(), list(DESK), []
    for size in [*sizes, len(rest)]:
        part, rest = rest[:size], rest[size:]
        lines += fold.apply(part)
        fold.close_batch(delivery="exactly_once", engine=__version__)
    return lines, state_hash(fold.shard)


WHOLE = folded_in([])


def test_the_golden_log_gives_its_outputs_through_the_topics_as_well() -> None:
    """Where a message stood is all that differs, so all but that is what ``replay`` writes."""
    stored_hash = golden.stored_summary("desk")
    fold = new_fold()
    fold.apply(DESK)
    counters = fold.shard.counters
    assert counters.messages == stored_hash["messages"] == len(DESK)
    assert counters.accepted == stored_hash["accepted"]
    assert dict(counters.rejected) == stored_hash["rejected"]
    assert state_hash(fold.shard) == stored_hash["state_hash"]


def test_outputs_are_encoded_for_their_own_topics_and_keyed_by_account() -> None:
    lines, _ = WHOLE
    assert {line.topic for line in lines} == set(OUTPUT_TOPICS)
    bodies = [(line, json.loads(line.value)) for line in lines]
    assert [body["seq"] for _, body in bodies] == list(range(1, len(lines) + 1))
    for line, body in bodies:
        if line.topic in ("liquidation-orders", "bad-debt"):
            assert key_bytes(line) == body["account"].encode()


@settings(max_examples=15)
@given(st.lists(st.integers(0, 120), max_size=12))
def test_the_same_inputs_give_the_same_bytes_in_batches_of_any_size(sizes: list[int]) -> None:
    assert folded_in(sizes) == WHOLE


def test_one_message_a_batch_gives_the_same_bytes() -> None:
    assert folded_in([1] * len(DESK)) == WHOLE


# --- the order record of a batch


def test_a_closed_batch_says_what_was_in_it_and_the_next_one_begins_anew() -> None:
    fold = new_fold()
    start = copy.deepcopy(fold.position)
    lines = fold.apply(DESK[:40]) + fold.apply(DESK[40:60])
    data, batch = fold.close_batch(delivery="at_least_once", engine="9.9", checked=Checked(0, "cd" * 32))
    assert batch.lines == lines
    assert len(batch.places) == 60
    record = decode_journal(data, "here")
    assert isinstance(record, OrderRecord)
    check_link(record, start, "here")
    assert sum(run.records for run in record.runs) == 60
    assert (record.batch, record.clock, record.seq) == (1, fold.shard.clock, fold.shard.seq)
    assert (record.delivery, record.engine, record.previous) == ("at_least_once", "9.9", start.chain)
    assert record.outputs_hash == outputs_hash(line.value for line in lines) != ""
    assert record.checked == Checked(0, "cd" * 32)
    assert (fold.position.batch, fold.position.chain) == (1, record_hash(data))
    assert (fold.batch.places, fold.batch.lines) == ([], [])


def test_an_empty_batch_is_a_sign_of_life_that_moves_no_offset() -> None:
    fold = new_fold()
    fold.apply(DESK[:10])
    fold.close_batch(delivery="exactly_once", engine=__version__)
    before = copy.deepcopy(fold.position)
    data, batch = fold.close_batch(delivery="exactly_once", engine=__version__)
    record = decode_journal(data, "here")
    assert isinstance(record, OrderRecord)
    assert (record.runs, record.outputs_hash, batch.places) == ((), "", [])
    assert fold.position.offsets == before.offsets
    check_link(record, before, "here")


# --- a batch folded again


def journal_of(*sizes: int) -> list[tuple[OrderRecord, bytes, list[Record], list[Line]]]:
    """Return the golden log as a journal: record, its bytes, its inputs, its outputs."""
    fold, rest, entries = new_fold(), list(DESK), []
    for size in sizes:
        part, rest = rest[:size], rest[size:]
        lines = fold.apply(part)
        data, _ = fold.close_batch(delivery="exactly_once", engine=__version__)
        record = decode_journal(data, "here")
        assert isinstance(record, OrderRecord)
        entries.append((record, data, part, lines))
    return entries


def test_a_journal_folded_again_gives_the_same_outputs_state_and_place() -> None:
    sizes = (1, 200, 0, 130, 369)
    fold, lines = new_fold(), []
    for record, data, records, expected in journal_of(*sizes):
        check_link(record, fold.position, "here")
        again = fold.replay_batch(record, data, records)
        assert again == expected
        assert fold.position.chain == record_hash(data)
        lines += again
    assert (lines, state_hash(fold.shard)) == WHOLE
    assert fold.position.batch == len(sizes)
    # What is folded again is no part of a batch of its own.
    assert (fold.batch.places, fold.batch.lines) == ([], [])


async def test_a_shadow_keeps_nothing_of_a_batch_that_it_has_compared() -> None:
    production, both = new_fold(), Shadow(new_fold().shard)
    for record, data, records, _ in journal_of(200, 500):
        await both.judge(record, records, production.replay_batch(record, data, records), production)
    assert both.fold is not None
    assert both.production.totals == both.shadowed.totals != {}
    for fold in (production, both.fold):
        assert vars(fold.batch) == vars(Batch())


def replayed(changed: OrderRecord | None = None, inputs: list[Record] | None = None) -> None:
    """Fold the first two hundred inputs again, the record or the inputs changed."""
    ((record, data, records, _),) = journal_of(200)
    new_fold().replay_batch(changed or record, data, records if inputs is None else inputs)


def whole_record() -> OrderRecord:
    return journal_of(200)[0][0]


@pytest.mark.parametrize("difference", [1, -1])
def test_another_clock_than_the_journal_says_stops_the_fold(difference: int) -> None:
    clock = whole_record().clock
    with pytest.raises(InvariantError, match=f"batch 1: clock {clock}, the journal says {clock + difference}"):
        replayed(replace(whole_record(), clock=clock + difference))


def test_a_clock_that_is_no_number_stops_the_fold() -> None:
    text: Any = str(whole_record().clock)
    with pytest.raises(InvariantError, match="batch 1: clock"):
        replayed(replace(whole_record(), clock=text))


@pytest.mark.parametrize("difference", [1, -1])
def test_another_count_of_outputs_than_the_journal_says_stops_the_fold(difference: int) -> None:
    seq = whole_record().seq
    with pytest.raises(InvariantError, match=f"batch 1: seq {seq}, the journal says {seq + difference}"):
        replayed(replace(whole_record(), seq=seq + difference))


@pytest.mark.parametrize("text", ["", "ab" * 32])
def test_other_outputs_than_the_journal_says_stop_the_fold(text: str) -> None:
    with pytest.raises(InvariantError, match="batch 1: outputs"):
        replayed(replace(whole_record(), outputs_hash=text))


LOST = {
    "a line that was refused": lambda record: b"acct-000641" in (record.value or b""),
    "the last mark, which is the clock": lambda record: record is DESK[199],
    "every deposit": lambda record: record.topic == "transfers",
}


@pytest.mark.parametrize("is_lost", LOST.values(), ids=LOST)
def test_an_input_that_is_no_longer_there_stops_the_fold(is_lost: Callable[[Record], bool]) -> None:
    left = [record for record in DESK[:200] if not is_lost(record)]
    assert len(left) < 200
    with pytest.raises(InvariantError, match="batch 1: "):
        replayed(inputs=left)


def test_an_input_that_says_something_else_now_stops_the_fold() -> None:
    """Every price that began with a 9 begins with an 8: a market eleven per cent lower."""
    changed = [replace(each, value=(each.value or b"").replace(b'"price": "9', b'"price": "8')) for each in DESK[:200]]
    assert changed != DESK[:200]
    with pytest.raises(InvariantError, match=r"batch 1: (seq|outputs)"):
        replayed(inputs=changed)


def test_inputs_in_another_order_stop_the_fold() -> None:
    with pytest.raises(InvariantError, match=r"batch 1: (seq|outputs)"):
        replayed(inputs=sorted(DESK[:200], key=lambda record: record.topic))


def test_a_record_of_a_message_stands_on_the_topic_of_its_type() -> None:
    """The helper itself: each type of the golden log goes where the contract wants it."""
    for kind, (topic, _) in ROUTES.items():
        body = {"type": kind, "ts": START_NS, **MESSAGES[kind]}
        assert record_of(body).topic == topic
