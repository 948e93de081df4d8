"""How a name in a buffer of bytes becomes a dense id, without a Python object in between.

An open-addressing table over an arena of names (``Names``). A place is found by the hash and then by going on to the
next one. Tags lie close together, so that going on is cheap and a name that is not there is mostly known by them alone.
Ids are given in order of arrival: they, and so all that depends on them, do not depend on the hash. Room is made in
``core/names.py``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import types

from engine.core.kernels.compile import inlined, kernel
from engine.core.kernels.handle import Handle, HandleType
from engine.core.kernels.lines import full_word, word_at

# Names in the arena are read by whole words.
ARENA_SPARE = 8

_U0, _U1, _U3, _U8, _U32, _U56 = (np.uint64(number) for number in (0, 1, 3, 8, 32, 56))
_ALL = np.uint64(2**64 - 1)
_FREE = np.uint8(0)
# Odd, with ones and zeros well mixed: 2**64 over the golden ratio, and a prime of xxHash.
_SPREAD, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


class Names(Handle):
    """The arrays of one table.

    tags    uint8[place]    0: the place is free, else some bits of its name's hash; a power of two of places, some free
    ids     int32[place]    whose place it is
    starts  uint32[id + 1]  where each name begins in the arena, and in the last place where the next one will
    arena   uint8[byte]     all names one behind the other in order of their ids, then at least ``ARENA_SPARE`` bytes
    """

    tags: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.uint32]
    arena: npt.NDArray[np.uint8]

    __slots__ = tuple(__annotations__)
    _numba_type_ = HandleType(
        "Names",
        {
            "tags": (types.Array(types.uint8, 1, "C"), (None,)),
            "ids": (types.Array(types.int32, 1, "C"), (None,)),
            "starts": (types.Array(types.uint32, 1, "C"), (None,)),
            "arena": (types.Array(types.uint8, 1, "C"), (None,)),
        },
    )


@kernel
def find_name(names, buffer, start, length):
    """Return the id of the name of ``length`` bytes at ``start`` in ``buffer`` (uint8[byte]), -1 if it has none."""
    first, size = np.uint64(start), np.uint64(length)
    hashed = hash_of(buffer, first, first + size)
    place = place_of(names, buffer, first, size, hashed)
    return np.int64(names.ids[place]) if names.tags[place] != _FREE else np.int64(-1)


@kernel
def add_name(names, count, buffer, start, length):
    """Return the id of a name, ``count`` if it was not among the first ``count`` ids and is now the next.

    The caller has made room: a free place besides the one taken, ``count + 2`` starts, and ``length`` bytes in the
    arena behind ``starts[count]`` beside the spare ones.
    """
    first, size = np.uint64(start), np.uint64(length)
    hashed = hash_of(buffer, first, first + size)
    place = place_of(names, buffer, first, size, hashed)
    if names.tags[place] == _FREE:
        target = np.uint64(names.starts[count])
        for offset in range(size):
            names.arena[target + offset] = buffer[first + offset]
        names.tags[place] = tag_of(hashed)
        names.ids[place] = count
        names.starts[count + 1] = target + size
    return np.int64(names.ids[place])


@kernel
def place_names(names, count):
    """Put the first ``count`` names into a table that is all free."""
    last = np.uint64(names.tags.size) - _U1
    for name in range(count):
        hashed = hash_of(names.arena, np.uint64(names.starts[name]), np.uint64(names.starts[name + 1]))
        place = hashed & last
        while names.tags[place] != _FREE:
            place = (place + _U1) & last
        names.tags[place] = tag_of(hashed)
        names.ids[place] = name


@inlined
def place_of(names, buffer, start, length, hashed):
    """Return the place of a name, or the free one where it belongs."""
    last, tag = np.uint64(names.tags.size) - _U1, tag_of(hashed)
    place = hashed & last
    while names.tags[place] != _FREE:
        if names.tags[place] == tag:
            name = np.uint64(names.ids[place])
            found, end = np.uint64(names.starts[name]), np.uint64(names.starts[name + _U1])
            if end - found == length and is_same(names, found, buffer, start, length):
                break
        place = (place + _U1) & last
    return place


@inlined
def is_same(names, found, buffer, start, length):
    """Return whether the ``length`` bytes at ``found`` in the arena are those at ``start`` in the buffer."""
    at, end = start, start + length
    while at < end:
        if full_word(names.arena, found) & mask_of(end - at) != name_word(buffer, at, end):
            return False
        found += _U8
        at += _U8
    return True


@inlined
def hash_of(buffer, at, end):
    """Return 64 bits that depend on every byte from ``at`` to ``end`` and on how many they are."""
    mixed = (end - at) * _SPREAD
    while at < end:
        mixed = (mixed ^ name_word(buffer, at, end)) * _MIX
        mixed ^= mixed >> _U32
        at += _U8
    return mixed * _SPREAD


@inlined
def tag_of(hashed):
    """Return the bits of a hash that stand in for a name; never 0. Its place is made of others."""
    return np.uint8((hashed >> _U56) | _U1)


@inlined
def name_word(buffer, at, end):
    """Return what ``word_at`` returns; in the middle of a buffer with one read also where the name ends sooner."""
    if at + _U8 <= np.uint64(buffer.size):
        return full_word(buffer, at) & mask_of(end - at)
    return word_at(buffer, at, end)


@inlined
def mask_of(count):
    """Return ones for the first ``count`` bytes of a word, all of them from eight on."""
    return _ALL if count >= _U8 else (_U1 << (count << _U3)) - _U1
