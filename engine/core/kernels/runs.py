"""Where the positions of a row stand: side by side, in a run of places of their own.

Whoever looks at a row looks at all its positions, and one that is fetched from memory brings its neighbours along. So a
row whose number of positions changes moves to a run of another length: one that was given back if there is one that is
long enough, the shortest of them, else the places behind all that were ever taken. Up to 16 positions a run is as long
as there are positions, above that its length is a power of two, so that few lengths are to be kept apart.
"""

from __future__ import annotations

import numpy as np

from engine.core.kernels.compile import inlined, kernel, subkernel
from engine.core.kernels.tables import EXACT_MAX, FREE_RUNS, NONE, RUN_LENGTHS, TAKEN


@inlined
def next_position(t, id_):
    """Return the next position of the same row, or NONE."""
    return np.int64(NONE) if t.positions[id_].is_last != 0 else np.int64(id_) + 1


@kernel
def run_places(count):
    """Return how long a run for ``count`` positions (> 0) is."""
    if count <= EXACT_MAX:
        return np.int64(count)
    places = np.int64(2 * EXACT_MAX)
    while places < count:
        places *= 2
    return places


@inlined
def _length_of(places):
    """Return which of the lengths that runs have this is."""
    if places <= EXACT_MAX:
        return np.int64(places) - 1
    length = np.int64(EXACT_MAX)
    while places > 2 * EXACT_MAX:
        places >>= 1
        length += 1
    return length


@subkernel
def give_run(t, first, places):
    """Give back ``places`` places from ``first`` on; they may be of more than one run's length."""
    while places > 0:
        part = np.int64(min(places, EXACT_MAX))
        while part >= EXACT_MAX and 2 * part <= places:
            part *= 2
        free = FREE_RUNS + _length_of(part)
        t.positions[first].slot = t.settings[free]
        t.settings[free] = first
        first += part
        places -= part


@inlined
def _free_length(t, places):
    """Return the shortest length of which a run was given back that has so many places, or RUN_LENGTHS."""
    length = _length_of(places)
    while length < RUN_LENGTHS and t.settings[FREE_RUNS + length] == NONE:
        length += 1
    return length


@subkernel
def take_run(t, count):
    """Return the first place of a run for ``count`` positions (> 0), or NONE for want of room."""
    places = run_places(count)
    length = _free_length(t, places)
    if length < RUN_LENGTHS:
        first = t.settings[FREE_RUNS + length]
        t.settings[FREE_RUNS + length] = t.positions[first].slot
        found = length + 1 if length < EXACT_MAX else np.int64(2 * EXACT_MAX) << (length - EXACT_MAX)
        give_run(t, first + places, found - places)
        return first
    first = t.settings[TAKEN]
    if first + places > t.positions.size:
        return np.int64(NONE)
    t.settings[TAKEN] = first + places
    return first


@subkernel
def has_run(t, count):
    """Return whether there is a run for ``count`` positions (> 0) to be taken."""
    places = run_places(count)
    return _free_length(t, places) < RUN_LENGTHS or t.settings[TAKEN] + places <= t.positions.size


@subkernel
def move_run(t, first, count, wanted):
    """Move ``count`` positions to a run for ``wanted``; return its first place, or NONE for want of room."""
    target = take_run(t, wanted)
    if target != NONE:
        for index in range(min(count, wanted)):
            t.positions[target + index] = t.positions[first + index]
        give_run(t, first, run_places(count))
    return target


@subkernel
def shorten_run(t, first, count):
    """Take the last of ``count`` places out of use; return where the run begins then, or NONE if nothing is left of it.

    Where there is no other run to move to, what is left over is given back by itself.
    """
    before, after = run_places(count), run_places(max(count - 1, 1))
    if count == 1:
        give_run(t, first, before)
        return np.int64(NONE)
    t.positions[first + count - 2].is_last = 1
    if before == after:
        return first
    target = move_run(t, first, count, count - 1)
    if target == NONE:
        give_run(t, first + after, before - after)
        return first
    return target
