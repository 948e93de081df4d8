"""How a series of any length fits into a fixed number of time buckets.

A bucket covers ``[k * width_ns, (k + 1) * width_ns)``. When one bucket too many is opened the width doubles and
neighbours merge, until they fit. The grid is anchored at the epoch, so that the result depends on the
observations alone and two series with the same width have the same edges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from engine.errors import check
from engine.units import NS_PER_MS

Payload = TypeVar("Payload")

# Fine enough for a one-second demo; a day is 18 doublings away, each a pass over a few hundred buckets.
FIRST_WIDTH_NS = NS_PER_MS


class Buckets(Generic[Payload]):
    """At most ``count_max`` payloads, one per bucket of time that saw something."""

    __slots__ = ("_count_max", "_empty", "_end_ns", "_merge_into", "payloads", "starts_ns", "width_ns")

    def __init__(
        self, count_max: int, empty: Callable[[], Payload], merge_into: Callable[[Payload, Payload], None]
    ) -> None:
        """Keep payloads made by ``empty``; ``merge_into(earlier, later)`` folds the later one into the earlier."""
        check(count_max >= 1, f"count_max was {count_max}, expected >= 1")
        self._count_max = count_max
        self._empty = empty
        self._merge_into = merge_into
        self._end_ns = -1
        self.width_ns = FIRST_WIDTH_NS
        self.starts_ns: list[int] = []
        self.payloads: list[Payload] = []

    def at(self, ts: int) -> Payload:
        """Return the payload of the bucket that holds ``ts``, to be changed in place.

        A ``ts`` before the newest bucket goes into the newest: what arrives late is news of now.
        """
        if ts >= self._end_ns:
            self._open(ts)
        return self.payloads[-1]

    @property
    def end_ns(self) -> int:
        """Where the newest bucket ends."""
        return self._end_ns

    def _open(self, ts: int) -> None:
        self.starts_ns.append(ts - ts % self.width_ns)
        self.payloads.append(self._empty())
        while len(self.starts_ns) > self._count_max:
            self._double_width()
        self._end_ns = self.starts_ns[-1] + self.width_ns

    def _double_width(self) -> None:
        self.width_ns *= 2
        starts_ns: list[int] = []
        payloads: list[Payload] = []
        for start_ns, payload in zip(self.starts_ns, self.payloads, strict=True):
            wide_start_ns = start_ns - start_ns % self.width_ns
            if starts_ns and starts_ns[-1] == wide_start_ns:
                self._merge_into(payloads[-1], payload)
            else:
                starts_ns.append(wide_start_ns)
                payloads.append(payload)
        self.starts_ns = starts_ns
        self.payloads = payloads
