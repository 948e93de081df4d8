"""What the fake broker keeps of one partition: raw record batches, who wrote them, which transactions are open.

Batches stay the bytes that the producer sent, but for the base offset, which lies outside their checksum. A producer's
batches are checked as Kafka does: epoch, sequence, and a repeat of one of its last five is answered with the offset
it got the first time.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

from aiokafka import errors
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.util import calc_crc32c

NO_PRODUCER = -1
SEQUENCES = 1 << 31
# base offset, length, leader epoch, magic, crc | attributes, last offset delta, first and max timestamp, producer id,
# producer epoch, base sequence, count of records. The checksum covers what is right of the bar.
BATCH_HEAD = struct.Struct(">qiibI")
BATCH_BODY = struct.Struct(">hiqqqhii")
LENGTH_FROM = struct.calcsize(">qi")
TRANSACTIONAL_AND_CONTROL = 0x30
LATEST, EARLIEST = -1, -2

NONE = errors.NoError.errno
CORRUPT_MESSAGE = errors.CorruptRecordException.errno
MESSAGE_TOO_LARGE = errors.MessageSizeTooLargeError.errno
OUT_OF_ORDER = errors.OutOfOrderSequenceNumber.errno
OLD_EPOCH = errors.InvalidProducerEpoch.errno
OFFSET_OUT_OF_RANGE = errors.OffsetOutOfRangeError.errno


@dataclass(slots=True)
class Batch:
    """One stored batch."""

    first: int
    last: int
    timestamp: int
    data: bytes


@dataclass(slots=True)
class Producer:
    """What a partition knows of an idempotent producer; ``recent`` holds (first sequence, last sequence, offset)."""

    epoch: int
    next_sequence: int | None = None
    recent: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=5))


class PartitionLog:
    """One partition."""

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self.batches: list[Batch] = []
        self.producers: dict[int, Producer] = {}
        # producer id -> its first offset in the open transaction
        self.open: dict[int, int] = {}
        # (producer id, first offset, offset of the marker)
        self.aborted: list[tuple[int, int, int]] = []

    @property
    def stable(self) -> int:
        """Return the last stable offset: before it nothing is undecided."""
        return min(self.open.values(), default=self.end)

    def append(self, data: bytes, size_max: int) -> tuple[int, int]:
        """Store what a producer sent; return (error code, base offset)."""
        if len(data) > size_max:
            return MESSAGE_TOO_LARGE, -1
        batch = DefaultRecordBatch(data)
        length = struct.unpack_from(">i", data, LENGTH_FROM - 4)[0]
        if length != len(data) - LENGTH_FROM or batch.magic != 2 or not batch.validate_crc():
            return CORRUPT_MESSAGE, -1
        if batch.producer_id != NO_PRODUCER:
            code, known_offset = self._check_sequence(batch)
            if code != NONE or known_offset is not None:
                return code, -1 if known_offset is None else known_offset
            if batch.is_transactional:
                self.open.setdefault(batch.producer_id, self.end)
        return NONE, self._store(data, batch.last_offset_delta, batch.max_timestamp)

    def _check_sequence(self, batch: DefaultRecordBatch) -> tuple[int, int | None]:
        """Return (error code, None) for a new batch and (0, its offset) for a repeated one."""
        producer = self.producers.setdefault(batch.producer_id, Producer(batch.producer_epoch))
        first = batch.base_sequence
        last = (first + batch.last_offset_delta) % SEQUENCES
        if batch.producer_epoch < producer.epoch:
            return OLD_EPOCH, None
        if batch.producer_epoch > producer.epoch:
            if first != 0:
                return OUT_OF_ORDER, None
            producer = self.producers[batch.producer_id] = Producer(batch.producer_epoch)
        for known_first, known_last, offset in producer.recent:
            if (known_first, known_last) == (first, last):
                return NONE, offset
        if producer.next_sequence not in (None, first):
            return OUT_OF_ORDER, None
        producer.next_sequence = (last + 1) % SEQUENCES
        producer.recent.append((first, last, self.end))
        return NONE, None

    def _store(self, data: bytes, last_offset_delta: int, timestamp: int) -> int:
        base = self.end
        self.end = base + last_offset_delta + 1
        self.batches.append(Batch(base, self.end - 1, timestamp, struct.pack(">q", base) + data[8:]))
        return base

    def end_transaction(self, producer_id: int, epoch: int, *, committed: bool, timestamp: int) -> None:
        """Write the marker that ends a producer's transaction; from it on, an older epoch is refused here."""
        first = self.open.pop(producer_id, None)
        marker = self._store(control_batch(producer_id, epoch, committed, timestamp), 0, timestamp)
        if first is not None and not committed:
            self.aborted.append((producer_id, first, marker))
        producer = self.producers.setdefault(producer_id, Producer(epoch))
        if producer.epoch < epoch:
            self.producers[producer_id] = Producer(epoch)

    def read(self, offset: int, bytes_max: int, *, committed: bool) -> tuple[int, bytes, list[tuple[int, int]]]:
        """Return (error code, batches from the one that holds ``offset``, aborted transactions among them).

        At least one batch where there is one, whatever its size; with ``committed`` none that is undecided.
        """
        if not self.start <= offset <= self.end:
            return OFFSET_OUT_OF_RANGE, b"", []
        bound = self.stable if committed else self.end
        found: list[bytes] = []
        size, last = 0, -1
        for batch in self.batches[max(bisect_right(self.batches, offset, key=lambda each: each.first) - 1, 0) :]:
            if batch.last >= bound or (found and size + len(batch.data) > bytes_max):
                break
            if batch.last >= offset:
                found.append(batch.data)
                size, last = size + len(batch.data), batch.last
        among = [(producer, first) for producer, first, marker in self.aborted if marker >= offset and first <= last]
        return NONE, b"".join(found), among if committed else []

    def offset_at(self, timestamp: int, *, committed: bool) -> tuple[int, int]:
        """Return (timestamp, offset) of the first record at or after ``timestamp``; (-1, -1) if there is none."""
        if timestamp == LATEST:
            return -1, self.stable if committed else self.end
        if timestamp == EARLIEST:
            return -1, self.start
        for batch in self.batches:
            if batch.timestamp >= timestamp and batch.last >= self.start:
                for record in DefaultRecordBatch(batch.data):
                    if record.timestamp >= timestamp and record.offset >= self.start:
                        return record.timestamp, record.offset
        return -1, -1

    def trim(self, offset: int) -> int:
        """Forget what lies before ``offset``, as retention would; return an error code."""
        target = self.end if offset == -1 else offset
        if not self.start <= target <= self.end:
            return OFFSET_OUT_OF_RANGE
        self.start = target
        self.batches = [batch for batch in self.batches if batch.last >= target]
        return NONE


def control_batch(producer_id: int, epoch: int, committed: bool, timestamp: int) -> bytes:
    """Return the batch of one control record that ends a transaction.

    Its key is (version 0, type: 0 abort, 1 commit), its value (version 0, coordinator epoch 0). Lengths are varints,
    doubled because of their sign: 16 bytes of record, 4 of key, 6 of value.
    """
    key, value = struct.pack(">hh", 0, int(committed)), struct.pack(">hi", 0, 0)
    record = bytes([2 * 16, 0, 0, 0, 2 * len(key), *key, 2 * len(value), *value, 0])
    body = BATCH_BODY.pack(TRANSACTIONAL_AND_CONTROL, 0, timestamp, timestamp, producer_id, epoch, -1, 1) + record
    size = BATCH_HEAD.size - LENGTH_FROM + len(body)
    return BATCH_HEAD.pack(0, size, 0, 2, calc_crc32c(body)) + body
