"""The outputs that a shard has committed of late: a ring that readers follow, each at its own pace.

Outputs of a shard are numbered without gaps, so a place in the stream is the number of the last one read. Nothing waits
for a reader: what it has not read when the ring comes round is gone, and it is told so. ``KEPT`` kinds are few and of
interest for long; the last ones of each are kept beside the ring.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from engine.edges.fold import Line

# A liquidation order carries its decision, some kilobytes; a crash writes thousands in a second.
EVENTS_MAX, BYTES_MAX = 10_000, 32 * 1024 * 1024
KEPT = frozenset({"insurance_fund", "liquidation_ended", "bad_debt"})
KEPT_MAX = 100
# Every output begins with its type: the envelope is written first.
TYPE_AT = len(b'{"type":"')


class Event(NamedTuple):
    """One committed output: its number, its type, its line."""

    seq: int
    kind: str
    data: bytes


class Ring:
    """The last outputs of one shard. ``last_seq`` is the number of the last one committed."""

    def __init__(self, *, events_max: int = EVENTS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.events_max, self.bytes_max = events_max, bytes_max
        self.events: deque[Event] = deque()
        self.size_bytes = 0
        self.last_seq = 0
        self.kept: dict[str, deque[Event]] = {kind: deque(maxlen=KEPT_MAX) for kind in KEPT}

    @property
    def first_seq(self) -> int:
        """The number of the first output that the ring has, or will have."""
        return self.last_seq - len(self.events) + 1

    def begin(self, seq: int) -> None:
        """Note the last output that the shard had committed when it came to life: the next one comes after it."""
        if seq != self.last_seq:
            self.events.clear()
            self.size_bytes, self.last_seq = 0, seq

    def publish(self, seq: int, lines: Sequence[Line]) -> None:
        """Take the outputs of a committed batch; ``seq`` is the number of the last one."""
        for number, line in enumerate(lines, start=seq - len(lines) + 1):
            kind = line.value[TYPE_AT : line.value.index(b'"', TYPE_AT)].decode()
            event = Event(number, kind, line.value)
            self.events.append(event)
            self.size_bytes += len(event.data)
            if kind in KEPT:
                self.kept[kind].append(event)
        self.last_seq = seq
        while len(self.events) > self.events_max or self.size_bytes > self.bytes_max:
            self.size_bytes -= len(self.events.popleft().data)

    def read(self, after: int, *, count_max: int, bytes_max: int) -> list[Event]:
        """Return the outputs after number ``after`` that are still there, at most so many, at least one if there is."""
        found: list[Event] = []
        size = 0
        for index in range(max(0, after + 1 - self.first_seq), len(self.events)):
            event = self.events[index]
            size += len(event.data)
            if found and (len(found) == count_max or size > bytes_max):
                break
            found.append(event)
        return found
