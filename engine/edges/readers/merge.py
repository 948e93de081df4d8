"""In which order the messages of several files enter the engine: by time, then file, then line.

The order is total and stated, since every output depends on it:

1. by the time key of a message: the largest ``ts`` seen in its file up to and including it. So a file keeps its own
   (arrival) order whatever its times, and a row without a time (refused, ignored) follows the row before it;
2. at the same key, by the position of the file in ``logs`` (on the command line);
3. within a file, by line, and by order within a line.

A file is never read further than its next message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heapreplace

from engine.core.events import Message
from engine.edges.readers.logfile import LogFile

# Before any time: what stands ahead of the first time of a file comes first.
BEFORE_ALL = -(2**63)


def merge(logs: Sequence[LogFile]) -> Iterator[Message]:
    """Yield the messages of all logs in the order above."""
    streams = [iter(log) for log in logs]
    # The next message of each file, and a heap of (its key, position of the file).
    upcoming: dict[int, Message] = {}
    heap: list[tuple[int, int]] = []
    for position, stream in enumerate(streams):
        message = next(stream, None)
        if message is not None:
            upcoming[position] = message
            heap.append((getattr(message.event, "ts", BEFORE_ALL), position))
    heapify(heap)
    while heap:
        key, position = heap[0]
        stream, message = streams[position], upcoming[position]
        while True:
            yield message
            following = next(stream, None)
            if following is None:
                heappop(heap)
                break
            message = following
            ts = getattr(message.event, "ts", key)
            # At the same key this file stays first: no other has a smaller key, and at this key it is the first.
            if ts > key:
                upcoming[position] = message
                heapreplace(heap, (ts, position))
                break
