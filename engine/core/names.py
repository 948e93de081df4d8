"""Which number each name has: dense ids for accounts and symbols, looked up by their bytes inside a kernel.

Ids are given in order of arrival, 0, 1, 2 ..., and never change. ``find_name(*index.table, buffer, start, length)``
does in a kernel what ``find`` does here. A name of ten characters takes less than 30 bytes, where an entry of a dict
takes over 100.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core.kernels.names import ARENA_SPARE, add_name, find_name, place_names
from engine.errors import check

# Where the next name begins is kept in 32 bits: eight bytes a name less to fetch than with 64.
ARENA_BYTES_MAX = 2**32 - 1
_PLACES_MIN = 16
_ARENA_BYTES_MIN = 256


class NameIndex:
    """A set of names, each with the number of those that came before it."""

    def __init__(self) -> None:
        self._count = 0
        self._tags = np.zeros(_PLACES_MIN, dtype=np.uint8)
        self._ids = np.zeros(_PLACES_MIN, dtype=np.int32)
        self._starts = np.zeros(_PLACES_MIN, dtype=np.uint32)
        self._arena = np.zeros(_ARENA_BYTES_MIN, dtype=np.uint8)

    def __len__(self) -> int:
        return self._count

    @property
    def table(self) -> tuple[npt.NDArray[Any], ...]:
        """The arrays that the kernels take, good until the next ``add``."""
        return self._tags, self._ids, self._starts, self._arena

    @property
    def size_bytes(self) -> int:
        """What the arrays take, room for names to come included."""
        return sum(array.nbytes for array in self.table)

    def find(self, name: bytes) -> int | None:
        """Return the id of a name, or None if it has none."""
        found = int(find_name(*self.table, np.frombuffer(name, dtype=np.uint8), 0, len(name)))
        return found if found >= 0 else None

    def add(self, name: bytes) -> int:
        """Return the id of a name, the next free one if it had none."""
        self._reserve(len(name))
        found = int(add_name(*self.table, self._count, np.frombuffer(name, dtype=np.uint8), 0, len(name)))
        self._count = max(self._count, found + 1)
        return found

    def name(self, id: int) -> str:
        """Return the name that has an id."""
        check(0 <= id < self._count, f"name id was {id}, expected 0 to {self._count - 1}")
        return self._arena[self._starts[id] : self._starts[id + 1]].tobytes().decode()

    def _reserve(self, size_bytes: int) -> None:
        """Make room for one more name of ``size_bytes``."""
        end = int(self._starts[self._count]) + size_bytes
        check(end <= ARENA_BYTES_MAX, f"names take {end} bytes, expected at most {ARENA_BYTES_MAX}")
        if end + ARENA_SPARE > len(self._arena):
            # By a quarter: this array is the largest, so room that is never used costs most here.
            self._arena = grown(self._arena, max(end + ARENA_SPARE, len(self._arena) * 5 // 4))
        if self._count + 2 > len(self._starts):
            self._starts = grown(self._starts, 2 * len(self._starts))
        # At most two thirds of the places are taken: beyond that the way to a free one soon gets long.
        if 3 * (self._count + 1) > 2 * len(self._tags):
            places = 2 * len(self._tags)
            self._tags, self._ids = np.zeros(places, dtype=np.uint8), np.zeros(places, dtype=np.int32)
            place_names(*self.table, self._count)


def grown(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Return a longer array that begins with what ``array`` holds."""
    longer = np.zeros(size, dtype=array.dtype)
    longer[: len(array)] = array
    return longer
