"""Which number each name has: dense ids for accounts and symbols, looked up by their bytes inside a kernel.

Ids are given in order of arrival, 0, 1, 2 ..., and never change. ``find_name(index.table, buffer, start, length)``
does in a kernel what ``find`` does here. A name of ten characters takes less than 30 bytes, where an entry of a dict
takes over 100.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core.kernels.names import ARENA_SPARE, Names, add_name, find_name, place_names
from engine.errors import check

# Where the next name begins is kept in 32 bits: eight bytes a name less to fetch than with 64.
ARENA_BYTES_MAX = 2**32 - 1
_PLACES_MIN = 16
_ARENA_BYTES_MIN = 256


class NameIndex:
    """A set of names, each with the number of those that came before it."""

    def __init__(self) -> None:
        self._count = 0
        # What the kernels take, good until the next ``add``.
        self.table = Names(
            tags=np.zeros(_PLACES_MIN, dtype=np.uint8),
            ids=np.zeros(_PLACES_MIN, dtype=np.int32),
            starts=np.zeros(_PLACES_MIN, dtype=np.uint32),
            arena=np.zeros(_ARENA_BYTES_MIN, dtype=np.uint8),
        )

    def __len__(self) -> int:
        return self._count

    @property
    def size_bytes(self) -> int:
        """What the arrays take, room for names to come included."""
        return sum(array.nbytes for array in self.table.arrays().values())

    def find(self, name: bytes) -> int | None:
        """Return the id of a name, or None if it has none."""
        found = int(find_name(self.table, np.frombuffer(name, dtype=np.uint8), 0, len(name)))
        return found if found >= 0 else None

    def add(self, name: bytes) -> int:
        """Return the id of a name, the next free one if it had none."""
        self._reserve(len(name))
        found = int(add_name(self.table, self._count, np.frombuffer(name, dtype=np.uint8), 0, len(name)))
        self._count = max(self._count, found + 1)
        return found

    def name(self, id: int) -> str:
        """Return the name that has an id."""
        check(0 <= id < self._count, f"name id was {id}, expected 0 to {self._count - 1}")
        starts = self.table.starts
        return self.table.arena[starts[id] : starts[id + 1]].tobytes().decode()

    def _reserve(self, size_bytes: int) -> None:
        """Make room for one more name of ``size_bytes``."""
        tags, starts, arena = self.table.tags, self.table.starts, self.table.arena
        end = int(starts[self._count]) + size_bytes
        check(end <= ARENA_BYTES_MAX, f"names take {end} bytes, expected at most {ARENA_BYTES_MAX}")
        if end + ARENA_SPARE > len(arena):
            # By a quarter: this array is the largest, so room that is never used costs most here.
            self.table = self.table.replaced(arena=grown(arena, max(end + ARENA_SPARE, len(arena) * 5 // 4)))
        if self._count + 2 > len(starts):
            self.table = self.table.replaced(starts=grown(starts, 2 * len(starts)))
        # At most two thirds of the places are taken: beyond that the way to a free one soon gets long.
        if 3 * (self._count + 1) > 2 * len(tags):
            free, ids = np.zeros(2 * len(tags), dtype=np.uint8), np.zeros(2 * len(tags), dtype=np.int32)
            self.table = self.table.replaced(tags=free, ids=ids)
            place_names(self.table, self._count)


def grown(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Return a longer array that begins with what ``array`` holds."""
    longer = np.zeros(size, dtype=array.dtype)
    longer[: len(array)] = array
    return longer
