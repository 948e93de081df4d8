"""Order records: what was written is read again, one follows from the one before, and nothing else passes for one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.edges.journal import (
    SCHEMA,
    Checked,
    Genesis,
    OrderRecord,
    Position,
    Run,
    check_link,
    decode_journal,
    encode_genesis,
    encode_record,
    outputs_hash,
    record_hash,
    runs_of,
)
from engine.errors import InvariantError

PLACE = "journal-0 offset 7"
TOPICS = ("mark-prices", "fills", "transfers", "control")
OFFSETS_MAX = 2**63 - 1
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
OFFSETS = st.integers(0, OFFSETS_MAX)

FIRST = Genesis("eu1", 0, "c0" * 32, {"fills": {0: 10}, "mark-prices": {0: 20, 1: 5}}, "0.1")
GENESIS = encode_genesis(FIRST)


def at_genesis() -> Position:
    """Return where a fold stands that has read record 0."""
    return Position(0, record_hash(GENESIS), {topic: dict(part) for topic, part in FIRST.offsets.items()})


def batch_of(*runs: Run, position: Position | None = None, **changes: Any) -> OrderRecord:
    """Return the record of the batch that follows a position, the genesis unless told."""
    after = position or at_genesis()
    record = OrderRecord(
        batch=after.batch + 1,
        runs=runs,
        clock=100,
        seq=3,
        outputs_hash="",
        delivery="exactly_once",
        engine="0.1",
        previous=after.chain,
    )
    return replace(record, **changes)


@st.composite
def offsets_tables(draw: st.DrawFn) -> dict[str, dict[int, int]]:
    return draw(st.dictionaries(st.sampled_from(TOPICS), st.dictionaries(st.integers(0, 99), OFFSETS, max_size=3)))


@st.composite
def order_records(draw: st.DrawFn) -> OrderRecord:
    """Draw a record with any values of the right kind; whether it follows another is not its own affair."""
    runs = draw(
        st.lists(st.builds(Run, st.sampled_from(TOPICS), st.integers(0, 99), OFFSETS, OFFSETS, OFFSETS), max_size=4)
    )
    return OrderRecord(
        batch=draw(st.integers(1, OFFSETS_MAX)),
        runs=tuple(runs),
        clock=draw(OFFSETS),
        seq=draw(OFFSETS),
        outputs_hash=draw(st.just("") | HASHES),
        delivery=draw(st.sampled_from(["exactly_once", "at_least_once"])),
        engine=draw(st.text(max_size=10)),
        previous=draw(HASHES),
        checked=draw(st.none() | st.builds(Checked, st.integers(0, OFFSETS_MAX), HASHES)),
    )


@st.composite
def places(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """Draw a batch's inputs: partitions in any order, offsets of each rising, with gaps where markers stand."""
    steps = draw(st.lists(st.tuples(st.sampled_from(["fills", "mark-prices"]), st.integers(0, 1), st.integers(1, 3))))
    ends: dict[tuple[str, int], int] = {("fills", 0): 9, ("mark-prices", 0): 19, ("mark-prices", 1): 4}
    found = []
    for topic, number, step in steps:
        partition = number if topic == "mark-prices" else 0
        ends[topic, partition] += step
        found.append((topic, partition, ends[topic, partition]))
    return found


# --- what is written is read again


@given(st.builds(Genesis, st.text(max_size=20), st.integers(0, 999), HASHES, offsets_tables(), st.text(max_size=10)))
def test_a_genesis_is_read_as_it_was_written(genesis: Genesis) -> None:
    assert decode_journal(encode_genesis(genesis), PLACE) == genesis


@given(order_records())
def test_an_order_record_is_read_as_it_was_written(record: OrderRecord) -> None:
    data = encode_record(record)
    assert decode_journal(data, PLACE) == record
    # The hash is over the bytes, so the same record must have the same ones.
    again = decode_journal(data, PLACE)
    assert isinstance(again, OrderRecord)
    assert encode_record(again) == data


def test_a_record_is_plain_json_that_an_auditor_can_read_without_us() -> None:
    record = batch_of(Run("fills", 0, 10, 12, 2), checked=Checked(4, "ab" * 32))
    assert json.loads(encode_record(record)) == {
        "schema": SCHEMA,
        "batch": 1,
        "runs": [["fills", 0, 10, 12, 2]],
        "clock": 100,
        "seq": 3,
        "outputs_hash": "",
        "delivery": "exactly_once",
        "engine": "0.1",
        "previous": hashlib.sha256(GENESIS).hexdigest(),
        "checked": [4, "ab" * 32],
    }


# --- runs


def test_neighbours_of_one_partition_are_one_run_and_a_gap_does_not_end_it() -> None:
    # Offset 12 is the marker that ended the transaction of 10 and 11: nobody ever reads it.
    batch = [("fills", 0, 10), ("fills", 0, 11), ("fills", 0, 13), ("mark-prices", 1, 5), ("fills", 0, 14)]
    assert runs_of(batch) == (
        Run("fills", 0, 10, 13, 3),
        Run("mark-prices", 1, 5, 5, 1),
        Run("fills", 0, 14, 14, 1),
    )


def test_partitions_of_one_topic_are_runs_of_their_own() -> None:
    assert runs_of([("mark-prices", 0, 7), ("mark-prices", 1, 8)]) == (
        Run("mark-prices", 0, 7, 7, 1),
        Run("mark-prices", 1, 8, 8, 1),
    )


def test_an_empty_batch_has_no_runs() -> None:
    assert runs_of([]) == ()


@given(places())
def test_runs_say_which_records_came_in_which_order(batch: list[tuple[str, int, int]]) -> None:
    """Whoever has each partition's records and the runs puts the batch together again, record by record."""
    stored: dict[tuple[str, int], list[int]] = {}
    for topic, partition, offset in batch:
        stored.setdefault((topic, partition), []).append(offset)
    rebuilt = []
    for run in runs_of(batch):
        between = [at for at in stored[run.topic, run.partition] if run.first <= at <= run.last]
        assert len(between) == run.records
        rebuilt += [(run.topic, run.partition, at) for at in between]
    assert rebuilt == batch


@given(places())
def test_a_batch_as_it_was_taken_follows_and_moves_the_position_behind_its_last_records(
    batch: list[tuple[str, int, int]],
) -> None:
    position = at_genesis()
    check_link(batch_of(*runs_of(batch)), position, PLACE)
    position.advance(runs_of(batch))
    for topic, numbers in FIRST.offsets.items():
        for number, first in numbers.items():
            last = max((at for name, part, at in batch if (name, part) == (topic, number)), default=first - 1)
            assert position.offsets[topic][number] == last + 1


# --- outputs


def test_the_hash_of_outputs_is_that_of_their_lines_as_a_file_holds_them() -> None:
    assert outputs_hash([b'{"seq":1}', b'{"seq":2}']) == hashlib.sha256(b'{"seq":1}\n{"seq":2}\n').hexdigest()


def test_a_batch_without_outputs_has_no_hash_and_one_empty_line_has() -> None:
    assert outputs_hash([]) == ""
    assert outputs_hash([b""]) == hashlib.sha256(b"\n").hexdigest()


# --- the chain


def chain(count: int) -> list[tuple[OrderRecord, bytes]]:
    """Return a journal: each batch takes two fills and leaves a gap of one."""
    position, records = at_genesis(), []
    for number in range(count):
        first = 10 + 3 * number
        record = batch_of(Run("fills", 0, first, first + 1, 2), position=position, clock=number, seq=number)
        data = encode_record(record)
        records.append((record, data))
        position.batch, position.chain = record.batch, record_hash(data)
        position.advance(record.runs)
    return records


def first_break(journal: list[bytes]) -> int | None:
    """Return the index of the first record that does not follow from those before it."""
    position = at_genesis()
    for index, data in enumerate(journal):
        try:
            record = decode_journal(data, PLACE)
            assert isinstance(record, OrderRecord)
            check_link(record, position, PLACE)
        except InvariantError:
            return index
        position.batch, position.chain = record.batch, record_hash(data)
        position.advance(record.runs)
    return None


def test_a_whole_journal_has_no_break() -> None:
    assert first_break([data for _, data in chain(5)]) is None


@given(st.data())
def test_one_flipped_bit_breaks_the_chain_there_or_at_the_next_record(data: st.DataObject) -> None:
    journal = [bytearray(each) for _, each in chain(4)]
    index = data.draw(st.integers(0, 2))
    at = data.draw(st.integers(0, len(journal[index]) - 1))
    journal[index][at] ^= 1 << data.draw(st.integers(0, 7))
    assert first_break([bytes(each) for each in journal]) in (index, index + 1)


@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_record_left_out_breaks_the_chain_where_it_was(index: int) -> None:
    journal = [data for _, data in chain(5)]
    del journal[index]
    assert first_break(journal) == index


def test_a_record_written_twice_breaks_the_chain_at_the_second() -> None:
    journal = [data for _, data in chain(3)]
    assert first_break([journal[0], journal[1], journal[1], journal[2]]) == 2


def test_two_records_that_changed_places_break_the_chain() -> None:
    one, two, three = (data for _, data in chain(3))
    assert first_break([one, three, two]) == 1


def test_a_record_that_another_owner_wrote_at_the_same_place_is_told_from_the_right_one() -> None:
    """Two instances that both believed to have the shard: same number, same inputs, another past."""
    record = replace(chain(2)[1][0], previous="ee" * 32)
    assert first_break([chain(1)[0][1], encode_record(record)]) == 1


@pytest.mark.parametrize("batch", [0, 2, 3])
def test_a_number_that_is_not_the_next_is_refused_with_both(batch: int) -> None:
    with pytest.raises(InvariantError, match=rf"{PLACE}: batch {batch}, expected 1"):
        check_link(batch_of(batch=batch), at_genesis(), PLACE)


def test_a_wrong_previous_hash_is_refused_with_the_beginning_of_both() -> None:
    with pytest.raises(InvariantError, match=rf"batch 1 follows {'e' * 12}, not {at_genesis().chain[:12]}"):
        check_link(batch_of(previous="e" * 64), at_genesis(), PLACE)


FOLLOWING = {
    "where the last one ended": [Run("fills", 0, 10, 10, 1)],
    "behind the marker of a transaction": [Run("fills", 0, 11, 11, 1)],
    "behind a stretch that was deleted": [Run("fills", 0, 5000, 5001, 2)],
    "with gaps inside": [Run("fills", 0, 10, 19, 2)],
    "without gaps": [Run("fills", 0, 10, 19, 10)],
    "two of one partition, another between": [
        Run("fills", 0, 10, 11, 2),
        Run("mark-prices", 1, 5, 5, 1),
        Run("fills", 0, 12, 12, 1),
    ],
    "no inputs: a sign of life": [],
}


@pytest.mark.parametrize("runs", FOLLOWING.values(), ids=FOLLOWING)
def test_runs_that_follow(runs: list[Run]) -> None:
    check_link(batch_of(*runs), at_genesis(), PLACE)


NOT_FOLLOWING = {
    "an input taken again": [Run("fills", 0, 9, 10, 2)],
    "an input taken twice in one batch": [Run("fills", 0, 10, 12, 3), Run("fills", 0, 12, 13, 2)],
    "backwards in one batch": [Run("fills", 0, 20, 20, 1), Run("fills", 0, 11, 11, 1)],
    "more records than offsets": [Run("fills", 0, 10, 11, 3)],
    "no records": [Run("fills", 0, 10, 11, 0)],
    "the end before the beginning": [Run("fills", 0, 12, 11, 1)],
    "a partition the shard does not read": [Run("fills", 1, 10, 10, 1)],
    "a topic the shard does not read": [Run("orders", 0, 10, 10, 1)],
}


@pytest.mark.parametrize("runs", NOT_FOLLOWING.values(), ids=NOT_FOLLOWING)
def test_runs_that_do_not_follow_are_named(runs: list[Run]) -> None:
    with pytest.raises(InvariantError, match=rf"{PLACE}: run Run\(.* does not follow offset"):
        check_link(batch_of(*runs), at_genesis(), PLACE)


# --- what is no order record

RECORD = json.loads(encode_record(batch_of(Run("fills", 0, 10, 10, 1))))
FOREIGN = {
    "no bytes": b"",
    "not JSON": b"order",
    "cut off": encode_record(batch_of())[:-1],
    "not an object": b"[1]",
    "null": b"null",
    "an object of somebody else": b'{"orderId": 17}',
    "no batch": json.dumps({**RECORD, "batch": None}).encode(),
    "a batch before the first": json.dumps({**RECORD, "batch": -1}).encode(),
    "a batch as text": json.dumps({**RECORD, "batch": "1"}).encode(),
    "no runs": json.dumps({**RECORD, "runs": None}).encode(),
    "runs that are none": json.dumps({**RECORD, "runs": [[1]]}).encode(),
    "a run whose offset is text": json.dumps({**RECORD, "runs": [["fills", 0, "10", 10, 1]]}).encode(),
    "a run without an end": json.dumps({**RECORD, "runs": [["fills", 0, 10, None, 1]]}).encode(),
    "a run with a list for a topic": json.dumps({**RECORD, "runs": [[["fills"], 0, 10, 10, 1]]}).encode(),
    "checked by halves": json.dumps({**RECORD, "checked": [4]}).encode(),
    "a genesis without offsets": json.dumps({**json.loads(GENESIS), "offsets": None}).encode(),
    "a genesis whose partition is no number": json.dumps(
        {**json.loads(GENESIS), "offsets": {"fills": {"a": 1}}}
    ).encode(),
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_order_record_is_refused_with_its_place(data: bytes) -> None:
    """As it is read, or at the latest as the next link: never as another error, which would pass for a bug of ours."""
    with pytest.raises(InvariantError, match=PLACE):
        check_link(order_record(data), at_genesis(), PLACE)


def order_record(data: bytes) -> OrderRecord:
    record = decode_journal(data, PLACE)
    assert isinstance(record, OrderRecord)
    return record


@pytest.mark.parametrize("missing", ["schema", "batch", "runs", "clock", "seq", "outputs_hash", "delivery", "previous"])
def test_a_record_that_lacks_a_field_is_refused(missing: str) -> None:
    body = {key: value for key, value in RECORD.items() if key != missing}
    with pytest.raises(InvariantError, match=f"{PLACE}: not an order record: '{missing}'"):
        decode_journal(json.dumps(body).encode(), PLACE)


def test_a_record_of_a_later_version_says_which_one_this_reads() -> None:
    data = json.dumps({**RECORD, "schema": SCHEMA + 1}).encode()
    with pytest.raises(InvariantError, match=f"{PLACE}: schema {SCHEMA + 1}, this version reads {SCHEMA}"):
        decode_journal(data, PLACE)


def test_a_deleted_value_is_no_order_record() -> None:
    """A topic that was compacted by mistake gives records without a value."""
    nothing: Any = None
    with pytest.raises(InvariantError, match=PLACE):
        decode_journal(nothing, PLACE)
