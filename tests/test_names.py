"""A name's number is that of its first coming, whatever the name, however many there are and however they are found."""

from __future__ import annotations

import os
from random import Random, SystemRandom

import numpy as np
import numpy.typing as npt
import pytest

from engine.core import names as names_module
from engine.core.kernels import names as kernels
from engine.core.kernels.names import ARENA_SPARE, add_name, find_name
from engine.core.names import NameIndex
from engine.errors import InvariantError

SEED = 20_250_310 if os.environ.get("CI") else SystemRandom().getrandbits(32)

# Names that are close to each other: empty, parts of one another, around the eight bytes that are compared at a time,
# differing in the first, the last or a middle byte, in a zero at the end, in case, and beyond ASCII.
KIN = [
    *("", " ", "a", "aa", "ab", "b", "A", "acct", "acct-", "acct-1", "acct-10", "acct-100", "acct-1000", "acct-10000"),
    *(char * count for char in "ax\0é€😀" for count in (1, 2, 7, 8, 9, 15, 16, 17, 23, 24, 25, 63, 64, 65, 300)),
    *("x" * at + "y" + "x" * (23 - at) for at in range(24)),
    *("1234567\0", "12345678", "12345678\0", "123456789", "\0x", "x\0", "é", "e\u0301", "ß", "ss", "币安", "🚀🚀"),
]
# Some are made twice above.
DISTINCT = list(dict.fromkeys(KIN))


def bytes_array(data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8)


def test_ids_count_from_zero_in_order_of_arrival_and_stay() -> None:
    index = NameIndex()
    assert len(index) == 0
    assert [index.add(name) for name in (b"eth", b"btc", b"eth", b"sol", b"btc")] == [0, 1, 0, 2, 1]
    assert len(index) == 3
    assert [index.find(name) for name in (b"eth", b"btc", b"sol")] == [0, 1, 2]
    assert [index.find(name) for name in (b"xrp", b"", b"et", b"ethx")] == [None, None, None, None]
    assert [index.name(id) for id in range(3)] == ["eth", "btc", "sol"]


def test_an_empty_index_finds_nothing_and_the_empty_name_is_a_name() -> None:
    index = NameIndex()
    assert index.find(b"") is None
    assert index.find(b"a") is None
    assert index.add(b"") == 0
    assert index.find(b"") == 0
    assert index.name(0) == ""
    assert index.find(b"a") is None


def test_names_that_are_nearly_the_same_have_ids_of_their_own() -> None:
    index = NameIndex()
    for id, name in enumerate(DISTINCT):
        assert index.find(name.encode()) is None, repr(name)
        assert index.add(name.encode()) == id, repr(name)
    assert [index.add(name.encode()) for name in DISTINCT] == list(range(len(DISTINCT)))
    assert [index.name(id) for id in range(len(index))] == DISTINCT


def test_random_names_have_the_ids_that_a_dict_gives_them() -> None:
    random = Random(SEED)
    for _ in range(200):
        index, known = NameIndex(), dict[bytes, int]()
        alphabet = random.choice((b"a", b"ab", b"ab\0\xff", bytes(range(256))))
        for _ in range(300):
            name = bytes(random.choices(alphabet, k=random.choice((0, 1, 3, 7, 8, 9, 16, random.randrange(70)))))
            assert index.find(name) == known.get(name), f"seed {SEED}: {name!r}"
            if random.random() < 0.7:
                assert index.add(name) == known.setdefault(name, len(known)), f"seed {SEED}: {name!r}"
            assert len(index) == len(known)
        assert [index.find(name) for name in known] == list(known.values()), f"seed {SEED}"


def test_a_hundred_thousand_names_keep_their_ids_while_the_table_grows() -> None:
    names = [f"acct-{number * 7919 % 100_000:06}" for number in range(100_000)]
    index, sizes = NameIndex(), set()
    for id, name in enumerate(names):
        assert index.add(name.encode()) == id
        sizes.add(tuple(len(array) for array in index.table.arrays().values()))
        if id & (id + 1) == 0:
            assert [index.find(known.encode()) for known in names[: id + 1]] == list(range(id + 1))
            assert all(index.find(other.encode()) is None for other in names[id + 1 : id + 100])
    assert [index.find(name.encode()) for name in names] == list(range(100_000))
    assert [index.name(id) for id in range(0, 100_000, 997)] == names[::997]
    assert len(sizes) > 10
    # Eleven bytes of name, and at its emptiest: three places of five bytes, two starts of four, a quarter of the arena.
    assert index.size_bytes < 100_000 * (11 * 1.25 + 3 * 5 + 2 * 4) + 1000


def test_places_are_at_most_two_thirds_taken() -> None:
    index = NameIndex()
    for number in range(3000):
        index.add(str(number).encode())
        tags, ids, starts, arena = index.table.arrays().values()
        taken = int(np.count_nonzero(tags))
        assert taken == len(index) == number + 1
        assert 3 * taken <= 2 * len(tags)
        assert len(tags) == len(ids)
        assert len(tags) & (len(tags) - 1) == 0
        assert len(starts) > len(index)
        assert len(arena) >= starts[len(index)] + ARENA_SPARE


def test_a_name_longer_than_all_room_so_far_is_kept_whole() -> None:
    index = NameIndex()
    long = "".join(chr(0x4E00 + number) for number in range(5000))
    assert index.add(b"short") == 0
    assert index.add(long.encode()) == 1
    assert index.add(long.encode()[:-1]) == 2
    assert index.name(1) == long
    assert index.find(long.encode()) == 1
    assert index.find(b"short") == 0


def test_a_kernel_finds_a_name_wherever_it_stands_in_a_buffer() -> None:
    index = NameIndex()
    known = [name.encode() for name in DISTINCT]
    for name in known:
        index.add(name)
    for around in (b"", b"x", b'"', b"\0" * 9, b"acct-1000" * 3):
        for id, name in enumerate(known):
            buffer = bytes_array(around + name + around)
            assert find_name(index.table, buffer, len(around), len(name)) == id, (around, name)
            assert add_name(index.table, len(index), buffer, len(around), len(name)) == id, (around, name)
    # What follows in the buffer is a known name itself, and would make one of several of these if it were read along.
    before, behind = b"acct-1000", b"acct-10000"
    for name in (b"acct-2", b"xx\0", b"x" * 26, b"\0" * 10, b"zz"):
        buffer = bytes_array(before + name + behind)
        assert find_name(index.table, buffer, len(before), len(name)) == -1


def test_a_name_added_from_the_middle_of_a_buffer_is_that_name_only() -> None:
    index = NameIndex()
    index.add(b"first")
    buffer = bytes_array(b'{"account":"acct-000017","leg":"net"}')
    assert add_name(index.table, 1, buffer, 12, 11) == 1
    # The index was not told, so it does not count it; what stands in the arrays is what a batch would find.
    assert find_name(index.table, bytes_array(b"acct-000017"), 0, 11) == 1
    assert find_name(index.table, bytes_array(b"acct-00001"), 0, 10) == -1
    assert index.table.arena[5:16].tobytes() == b"acct-000017"


def test_names_that_meet_at_one_place_with_one_tag_are_told_apart_by_their_bytes() -> None:
    index = NameIndex()
    names = [f"{number:x}".encode() for number in range(5000)]
    for name in names:
        index.add(name)
    tags, ids = index.table.tags, index.table.ids
    hashes = [hash_in_python(name) for name in names]
    last = len(tags) - 1
    met = {(hashed & last, hashed >> 56 | 1) for hashed in hashes}
    assert len(met) < len(names), "no two names share place and tag: the test says nothing"
    assert [index.find(name) for name in names] == list(range(5000))
    moved = sum(int(ids[hashed & last]) != id for id, hashed in enumerate(hashes))
    assert moved > 500


def hash_in_python(name: bytes) -> int:
    """Return what ``hash_of`` returns."""
    mask = 2**64 - 1
    mixed = len(name) * int(kernels._SPREAD) & mask
    for at in range(0, len(name), 8):
        mixed = (mixed ^ int.from_bytes(name[at : at + 8], "little")) * int(kernels._MIX) & mask
        mixed ^= mixed >> 32
    return mixed * int(kernels._SPREAD) & mask


def test_ids_are_asked_for_only_if_they_were_given() -> None:
    index = NameIndex()
    index.add(b"a")
    for id in (-1, 1, 2):
        with pytest.raises(InvariantError, match=rf"name id was {id}, expected 0 to 0"):
            index.name(id)


def test_names_beyond_what_32_bits_can_point_at_stop_the_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "ARENA_BYTES_MAX", 10)
    index = NameIndex()
    index.add(b"12345")
    index.add(b"67890")
    with pytest.raises(InvariantError, match="names take 11 bytes, expected at most 10"):
        index.add(b"x")
    assert len(index) == 2
    assert index.find(b"67890") == 1
