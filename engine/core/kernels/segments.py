"""Where in a symbol's holders a price finds somebody: a 16-ary tree of maxima over keys.

A *segment* is a run of ``keys`` for one symbol (or asset): first one key for each slot, then the maxima of each 16 of
them, then of each 16 of those, up to one. A key is a price with a sign: a falling price p concerns a slot whose key is
>= p, a rising one a slot whose key is >= -p, so that one comparison serves both sides. Where nobody is concerned, the
topmost maximum says so, and 16 keys are one line of the cache.
"""

from __future__ import annotations

import numpy as np

from engine.core.kernels.compile import inlined, kernel

FAN = 16
_SHIFT = 4
NEVER = np.float32(-np.inf)
ALWAYS = np.float32(np.inf)
_NOBODY = -1


@kernel
def segment_size(capacity):
    """Return how many keys a segment of ``capacity`` slots (> 0, a multiple of 16) takes, maxima included."""
    size, width = capacity, capacity
    while width > 1:
        width = (width + FAN - 1) >> _SHIFT
        size += width
    return size


@inlined
def top_key(keys, side, base, capacity):
    """Return the largest key of a segment."""
    return keys[side, base + segment_size(capacity) - 1]


@inlined
def put_key(keys, side, base, capacity, slot, key):
    """Store the key of a slot and bring the maxima above it in line."""
    before = keys[side, base + slot]
    if before == key:
        return
    keys[side, base + slot] = key
    index, width = slot, capacity
    while width > 1:
        group, below = index & ~(FAN - 1), base
        base += width
        above = base + (index >> _SHIFT)
        if key >= before:
            if keys[side, above] >= key:
                return
            top = key
        else:
            # Only a key that was the largest of its group can have been what is above it.
            if keys[side, above] > before:
                return
            top = keys[side, below + group]
            for other in range(group + 1, min(group + FAN, width)):
                top = max(top, keys[side, below + other])
        before = keys[side, above]
        if before == top:
            return
        keys[side, above] = key = top
        index >>= _SHIFT
        width = (width + FAN - 1) >> _SHIFT


@inlined
def next_crossed(keys, side, base, capacity, slot, price_key):
    """Return the first slot from ``slot`` on whose key is >= ``price_key``, or -1."""
    level, index, width, begin = 0, slot, capacity, base
    while True:
        # Up: the rest of each group, until one holds a key that is large enough.
        if index >= width:
            return _NOBODY
        stop = min((index | (FAN - 1)) + 1, width)
        while index < stop and keys[side, begin + index] < price_key:
            index += 1
        if index < stop:
            break
        if width == 1:
            return _NOBODY
        index = (index + FAN - 1) >> _SHIFT
        begin += width
        width = (width + FAN - 1) >> _SHIFT
        level += 1
    # Down: into the first of 16 that is, each time.
    while level > 0:
        level -= 1
        begin, width = base, capacity
        for _ in range(level):
            begin += width
            width = (width + FAN - 1) >> _SHIFT
        index <<= _SHIFT
        while keys[side, begin + index] < price_key:
            index += 1
    return index


@kernel
def build_maxima(keys, side, base, capacity):
    """Compute all maxima of a segment from its keys."""
    width = capacity
    while width > 1:
        above = base + width
        groups = (width + FAN - 1) >> _SHIFT
        for group in range(groups):
            top = keys[side, base + group * FAN]
            for index in range(group * FAN + 1, min((group + 1) * FAN, width)):
                top = max(top, keys[side, base + index])
            keys[side, above + group] = top
        base, width = above, groups
