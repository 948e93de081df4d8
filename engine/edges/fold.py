"""How a shard's inputs become its state and outputs, batch by batch: live, recovered, followed, audited alike.

Whatever reads the inputs, the same fold turns a batch of them into output lines and moves the position in the journal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from engine.core.events import (
    DEAD_LETTERS_TOPIC,
    AssetPrice,
    Conversion,
    Event,
    Fill,
    Funding,
    Ignored,
    Input,
    Mark,
    Message,
    OrderDone,
    Origin,
    Output,
    Pause,
    Reject,
    SetParams,
    Transfer,
)
from engine.core.kernels.follow import SYMBOL
from engine.core.lines import Lines, no_fill
from engine.core.machine import Machine
from engine.core.shard import Shard
from engine.edges.codec import decode, encode
from engine.edges.journal import Checked, OrderRecord, Position, Run, encode_record, outputs_hash, record_hash, runs_of
from engine.edges.line_batch import LineReader
from engine.errors import check

# What may come from a topic: its messages (README, "Messages in"), since an event elsewhere would be seen by the wrong
# shards, and what was refused as it was read.
TYPES: dict[str, tuple[type[Event | Reject], ...]] = {
    "mark-prices": (Reject, Mark, AssetPrice, Funding),
    "fills": (Reject, Fill, Conversion, OrderDone),
    "transfers": (Reject, Transfer),
    "control": (Reject, Pause, SetParams),
}
INPUT_TOPICS = tuple(TYPES)
MARKS_TOPIC, FILLS_TOPIC = "mark-prices", "fills"


class Record(Protocol):
    """An input as a broker gives it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


class Line(NamedTuple):
    """One output record, encoded."""

    topic: str
    key: bytes | None
    value: bytes


def message_of(record: Record, topic: str, shard: int) -> Message:
    """Return an input record as the machine takes it; ``topic`` is its name without a prefix."""
    payload = record.value or b""
    return Message(Origin(topic, record.partition, record.offset), input_of(record.key, payload, topic, shard), payload)


def input_of(key: bytes | None, payload: bytes, topic: str, shard: int) -> Input:
    """Return what an input says: refused on a topic that does not take it, ignored if blank or for another shard."""
    if topic == "control" and key not in (None, b"", b"*", str(shard).encode()):
        return Ignored()
    event = decode(payload)
    if event is None:
        return Ignored()
    if isinstance(event, TYPES[topic]):
        return event
    return Reject("unknown_type", f"{topic} does not take this type of message", payload)


def line_of(output: Output, source: Record) -> Line:
    """Return an output encoded; a dead letter has the key of the input that it came of."""
    key = source.key if output.topic == DEAD_LETTERS_TOPIC else output.key.encode()
    return Line(output.topic, key, encode(output.body))


class Batch:
    """The inputs applied since the last order record, and the outputs they caused."""

    def __init__(self) -> None:
        self.places: list[Origin] = []
        self.outputs: list[Output] = []
        self.lines: list[Line] = []
        # The inputs as its order record names them, once it is closed.
        self.runs: Sequence[Run] = ()


class Fold:
    """One shard with its place in the journal; ``logical`` turns a topic's name at the broker into ours."""

    def __init__(self, shard: Shard, position: Position, *, logical: Callable[[str], str]) -> None:
        self.shard = shard
        self.machine = Machine(shard)
        self.reader = LineReader(shard.book)
        self.position = position
        self.logical = logical
        self.batch = Batch()
        # How long the last batch took to read, and to apply.
        self.decode_s = self.fold_s = 0.0

    def apply(self, records: Sequence[Record]) -> list[Line]:
        """Apply inputs in the given order; return their outputs, which the open batch keeps too."""
        topics = {topic: self.logical(topic) for topic in {record.topic for record in records}}
        places = [Origin(topics[record.topic], record.partition, record.offset) for record in records]
        # Each record counts as a message, from this one on.
        first, began_s = self.shard.counters.messages + 1, time.perf_counter()
        read = self.read(records, places)
        read_s = time.perf_counter()
        outputs = self.machine.fold(read)
        lines = [line_of(output, records[output.message - first]) for output in outputs]
        self.decode_s, self.fold_s = read_s - began_s, time.perf_counter() - read_s
        self.batch.places += places
        self.batch.outputs += outputs
        self.batch.lines += lines
        return lines

    def read(self, records: Sequence[Record], places: Sequence[Origin]) -> Lines:
        """Return inputs as the machine takes them; marks and fills are such only where they came as such."""
        lines = self.reader.read_values(
            [record.value or b"" for record in records],
            message=lambda index: message_of(records[index], places[index].topic, self.shard.number),
            origin=places.__getitem__,
        )
        others = [index for index, place in enumerate(places) if place.topic != MARKS_TOPIC]
        if others:
            lines.marks[others, SYMBOL] = -1
        if lines.fill is not no_fill:
            fill = lines.fill
            lines.fill = lambda index: fill(index) if places[index].topic == FILLS_TOPIC else None
        return lines

    def close_batch(self, *, delivery: str, engine: str, checked: Checked | None = None) -> tuple[bytes, Batch]:
        """Return the order record of the open batch, which begins anew, and move the position past it."""
        batch, position = self.take_batch(), self.position
        record = OrderRecord(
            batch=position.batch + 1,
            runs=runs_of(batch.places),
            clock=self.shard.clock,
            seq=self.shard.seq,
            outputs_hash=outputs_hash(line.value for line in batch.lines),
            delivery=delivery,
            engine=engine,
            previous=position.chain,
            checked=checked,
        )
        data = encode_record(record)
        self.step_to(record, data)
        batch.runs = record.runs
        return data, batch

    def take_batch(self) -> Batch:
        """Return the open batch, which begins anew."""
        batch, self.batch = self.batch, Batch()
        return batch

    def replay_batch(self, record: OrderRecord, data: bytes, records: Sequence[Record]) -> list[Line]:
        """Apply the batch of an order record; raises InvariantError where clock, seq or outputs come out differently.

        ``check_link`` must have passed.
        """
        lines = self.apply(records)
        self.take_batch()
        name = f"batch {record.batch}"
        clock, seq, found = self.shard.clock, self.shard.seq, outputs_hash(line.value for line in lines)
        check(clock == record.clock, f"{name}: clock {clock}, the journal says {record.clock}")
        check(seq == record.seq, f"{name}: seq {seq}, the journal says {record.seq}")
        check(
            found == record.outputs_hash, f"{name}: outputs {found[:12]}, the journal says {record.outputs_hash[:12]}"
        )
        self.step_to(record, data)
        return lines

    def step_to(self, record: OrderRecord, data: bytes) -> None:
        """Move the position past a record."""
        position = self.position
        position.batch, position.chain = record.batch, record_hash(data)
        position.advance(record.runs)
