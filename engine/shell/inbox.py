"""Where a live shard's inputs wait: two readers fill one queue in the order in which records arrive.

Accounts (fills and transfers) and prices (marks and control) are read side by side, so that a flood of one does not
hold back the other. When ``pending_max`` records wait, the readers stop reading until there is room again: memory is
bounded however slow the outputs are.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from engine.errors import BrokerError
from engine.shell.kafka import Reader

# How long a reader's call may take without a record; only how soon an idle reader notices its end depends on it.
POLL_MS = 200
READ_MAX = 500
# The least time between two looks at whether a reader has stuck.
WATCH_S = 0.1


class Inbox:
    """Records that were read and not yet taken."""

    def __init__(self, readers: Sequence[Reader], *, pending_max: int, progress_s: float) -> None:
        self.readers = readers
        self.pending_max = pending_max
        self.progress_s = progress_s
        self.pending: deque[Any] = deque()
        # When what waits arrived: (time, count) of each read, in the order of ``pending``.
        self.arrivals: deque[tuple[float, int]] = deque()
        # The same of what was taken last.
        self.taken: list[tuple[float, int]] = []
        self.arrived = asyncio.Event()
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.tasks: list[asyncio.Task[None]] = []
        # When each reader last had something, or was last found to have nothing to read.
        self.heard_s = [time.monotonic() for _ in readers]

    def open(self) -> None:
        """Begin to read."""
        work = [self._read(index, reader) for index, reader in enumerate(self.readers)]
        self.tasks = [asyncio.create_task(part) for part in (*work, self._watch())]

    async def _read(self, index: int, reader: Reader) -> None:
        try:
            while True:
                if not self.has_room.is_set():
                    await self.has_room.wait()
                    self.heard_s[index] = time.monotonic()
                records = await reader.read(wait_ms=POLL_MS, records_max=READ_MAX)
                if records:
                    now_s = self.heard_s[index] = time.monotonic()
                    self.pending.extend(records)
                    self.arrivals.append((now_s, len(records)))
                    self.arrived.set()
                    if len(self.pending) >= self.pending_max:
                        self.has_room.clear()
        finally:
            # Whoever waits for records learns that none will come.
            self.arrived.set()

    async def take(self, count_max: int, *, wait_s: float) -> list[Any]:
        """Return what waits, at most ``count_max``, as soon as there is something; [] after ``wait_s`` without.

        Raises what a reader failed with, and BrokerError where one has stuck.
        """
        self._check_tasks()
        if not self.pending:
            self.arrived.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self.arrived.wait()
            except TimeoutError:
                return []
        count = min(count_max, len(self.pending))
        taken = [self.pending.popleft() for _ in range(count)]
        self.taken = self._take_arrivals(count)
        if len(self.pending) < self.pending_max:
            self.has_room.set()
        return taken

    def _take_arrivals(self, count: int) -> list[tuple[float, int]]:
        """Return when the first ``count`` of what waited arrived."""
        taken = []
        while count:
            arrived_s, there = self.arrivals.popleft()
            if there > count:
                self.arrivals.appendleft((arrived_s, there - count))
            taken.append((arrived_s, min(there, count)))
            count -= taken[-1][1]
        return taken

    async def _watch(self) -> None:
        """End with BrokerError where a reader has had nothing for ``progress_s`` although records wait for it.

        A consumer can stick without a word; starting over is what helps.
        """
        while True:
            # Never at once again: a reader that is held back is overdue for as long as that lasts.
            await asyncio.sleep(max(0.0, min(self.heard_s) + self.progress_s - time.monotonic()) + WATCH_S)
            for index, reader in enumerate(self.readers):
                if time.monotonic() < self.heard_s[index] + self.progress_s or not self.has_room.is_set():
                    # It had something, or is being held back.
                    continue
                behind = await reader.behind()
                if behind:
                    raise BrokerError(f"no record in {self.progress_s:g} s, although some wait: {behind}")
                self.heard_s[index] = time.monotonic()

    def _check_tasks(self) -> None:
        for task in self.tasks:
            if task.done():
                task.result()

    async def close(self) -> None:
        """Stop reading."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
