"""Runs of places for the positions of rows: nobody's place is another's, none is lost, and few are left over.

``Plain`` says in dicts and lists what the tables must say: who holds what, at which slot of its symbol, in which order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random, SystemRandom

import numpy as np
import pytest

from engine.core.kernels.margin import SPEC_COLUMNS
from engine.core.kernels.rows import (
    EMPTIED,
    FULL,
    count_positions,
    held_at,
    holder_ids_into,
    loaded_places,
    position_of,
    put_position,
    row_positions_into,
    saved_positions_into,
)
from engine.core.kernels.runs import has_run, take_run
from engine.core.kernels.tables import (
    BASE,
    COUNT,
    EXACT_MAX,
    FREE_RUNS,
    HEAD,
    NONE,
    RANK,
    RUN_LENGTHS,
    TAKEN,
)
from engine.core.tables import TableStore

SEED = 20_250_310 if os.environ.get("CI") else SystemRandom().getrandbits(32)
ROWS, SYMBOLS = 24, 80
# More positions than any row has.
COUNT_MAX = 2 * SYMBOLS


class Plain:
    """The positions by row, symbol and leg; the holders of each symbol, by slot: the last one fills a gap."""

    def __init__(self) -> None:
        self.held: dict[tuple[int, int, int], tuple[int, int]] = {}
        self.holders: list[list[tuple[int, int]]] = [[] for _ in range(SYMBOLS)]

    def put(self, row: int, symbol: int, leg: int, size: int, cost: int) -> None:
        """Store size and cost of a position; a size of 0 removes it."""
        slots = self.holders[symbol]
        if (row, symbol, leg) not in self.held and size:
            slots.append((row, leg))
        elif (row, symbol, leg) in self.held and not size:
            slots[slots.index((row, leg))] = slots[-1]
            slots.pop()
        if size:
            self.held[row, symbol, leg] = size, cost
        else:
            self.held.pop((row, symbol, leg), None)

    def of_row(self, row: int) -> list[tuple[int, int]]:
        """Return symbol and leg of a row's positions, in their order."""
        held = [(symbol, leg) for owner, symbol, leg in self.held if owner == row]
        return sorted(held, key=lambda place: (rank_of(place[0]), place[1]))

    def saved(self) -> list[list[int]]:
        """Return row, symbol, leg, size, cost and slot of every position, row by row."""
        return [
            [row, symbol, leg, *self.held[row, symbol, leg], self.holders[symbol].index((row, leg))]
            for row in range(ROWS)
            for symbol, leg in self.of_row(row)
        ]


def rank_of(symbol: int) -> int:
    """The place of a symbol's name among all names, which is not its number."""
    return symbol * 37 % SYMBOLS


def places_for(count: int) -> int:
    """How many places a run for so many positions has: as many up to 16, then the next power of two."""
    return count if count <= EXACT_MAX else 1 << (count - 1).bit_length()


def empty_tables() -> TableStore:
    """Tables of rows without positions, and symbols whose names are in another order than their numbers."""
    tables = TableStore()
    tables.open_rows(0, ROWS)
    for symbol in range(SYMBOLS):
        tables.add_symbol(np.zeros(SPEC_COLUMNS, dtype=np.int64), 0)
        tables.symbols[symbol, RANK] = rank_of(symbol)
    return tables


def put(tables: TableStore, row: int, symbol: int, leg: int, size: int, cost: int = 0) -> int:
    """Store a position, with more room where there is none."""
    done = put_position(tables.view, row, symbol, leg, size, cost)
    if done == FULL:
        tables.reserve_positions(symbol, count_positions(tables.view, row) + 1)
        done = put_position(tables.view, row, symbol, leg, size, cost)
    assert done != FULL
    return int(done)


def held(tables: TableStore, row: int) -> list[tuple[int, int]]:
    """The symbols and legs of a row's positions."""
    found = np.zeros((COUNT_MAX, 2), dtype=np.int64)
    return [(symbol, leg) for symbol, leg in found[: row_positions_into(tables.view, row, found)].tolist()]


def free_runs(tables: TableStore) -> Iterator[tuple[int, int]]:
    """The first place and the length of each run that was given back."""
    for length in range(RUN_LENGTHS):
        first = int(tables.settings[FREE_RUNS + length])
        while first != NONE:
            yield first, length + 1 if length < EXACT_MAX else 2 * EXACT_MAX << (length - EXACT_MAX)
            first = int(tables.positions["slot"][first])


def is_run_free(tables: TableStore, count: int) -> bool:
    """Whether a run for so many positions was given back, or fits behind all that were ever taken."""
    behind = len(tables.positions) - int(tables.settings[TAKEN])
    return places_for(count) <= max([behind, *(size for _, size in free_runs(tables))])


def check_tables(tables: TableStore, plain: Plain) -> None:
    """Raise AssertionError unless the tables say what ``plain`` does, and each place ever taken is somebody's."""
    check_places(tables, plain)
    view, ids_seen = tables.view, list[int]()
    for symbol, slots in enumerate(plain.holders):
        base, count = tables.symbols[symbol, [BASE, COUNT]].tolist()
        assert tables.holders[base : base + count].tolist() == [row for row, _ in slots]
        ids = np.zeros(len(slots), dtype=np.int64)
        holder_ids_into(view, symbol, ids)
        assert ids.tolist() == [held_at(view, symbol, slot) for slot in range(len(slots))]
        for slot, (row, leg) in enumerate(slots):
            size, cost = plain.held[row, symbol, leg]
            assert tables.positions[ids[slot]].tolist()[:-1] == (size, cost, slot, symbol, leg)
            assert 0 <= ids[slot] - tables.rows[row, HEAD] < len(plain.of_row(row))
        ids_seen += ids.tolist()
    assert len(set(ids_seen)) == len(plain.held)
    columns = np.zeros((6, len(plain.held)), dtype=np.int64)
    saved_positions_into(view, ROWS, columns)
    assert columns.T.tolist() == plain.saved()
    for count in range(1, COUNT_MAX):
        assert has_run(view, count) == is_run_free(tables, count), count


def check_places(tables: TableStore, plain: Plain) -> None:
    """Raise AssertionError unless each row has its positions in a run, and each place is in one, or given back."""
    places: list[int] = []
    for row in range(ROWS):
        expected, head = plain.of_row(row), int(tables.rows[row, HEAD])
        count = len(expected)
        assert count_positions(tables.view, row) == count
        assert held(tables, row) == expected
        places += range(head, head + places_for(count)) if count else []
        assert tables.positions["is_last"][head : head + count].tolist() == [0] * (count - 1) + [1] * (count > 0)
        for symbol, leg in expected:
            assert position_of(tables.view, row, symbol, leg) == plain.held[row, symbol, leg]
    for first, size in free_runs(tables):
        places += range(first, first + size)
    assert sorted(places) == list(range(int(tables.settings[TAKEN])))


@pytest.mark.parametrize("number", range(6))
def test_positions_that_come_and_go_keep_their_places(number):
    random = Random(f"{SEED} runs {number}")
    print(f"seed {SEED}, runs {number}")
    tables, plain, most = empty_tables(), Plain(), 0
    for step in range(3_000):
        row = random.randrange(ROWS) % random.randint(1, ROWS)
        symbol, leg = random.randrange(SYMBOLS), random.choice((1, 2))
        # Rows fill up, and empty again: from none to more than are kept apart by their number.
        size = 0 if random.random() < 0.2 + 0.7 * (step // 750 % 2) else random.choice((-1, 1)) * random.randint(1, 9)
        if size == 0 and (mine := plain.of_row(row)):
            symbol, leg = random.choice(mine)
        is_held, cost = (row, symbol, leg) in plain.held, random.randint(-99, 99)
        done = put(tables, row, symbol, leg, size, cost)
        plain.put(row, symbol, leg, size, cost)
        assert (done == EMPTIED) == (is_held and size == 0 and not held(tables, row))
        if step % 50 == 0:
            check_tables(tables, plain)
            most = max(most, *(len(plain.of_row(row)) for row in range(ROWS)))
    assert most > 2 * EXACT_MAX
    check_tables(tables, plain)


def test_a_run_is_to_be_had_where_one_as_long_was_given_back_or_fits_behind_all():
    for given_back in (0, 1, 3, 17, 40):
        tables = empty_tables()
        for size in (1, 0):
            for symbol in range(given_back):
                put(tables, 0, symbol, 0, size)
        settings = tables.settings.copy()
        for room in range(70):
            tables.positions = np.resize(tables.positions, int(settings[TAKEN]) + room)
            tables.view = tables.view.replaced(positions=tables.positions)
            for count in (1, 2, 15, 16, 17, 32, 33, 64, 65):
                is_free = is_run_free(tables, count)
                assert has_run(tables.view, count) == is_free, (room, given_back, count)
                assert (tables.settings == settings).all()
                assert (take_run(tables.view, count) != NONE) == is_free, (room, given_back, count)
                tables.settings[:] = settings


def test_a_row_that_closes_where_no_room_is_left_gives_its_place_back():
    tables = empty_tables()
    for symbol in range(5):
        put(tables, 0, symbol, 0, 1)
    # No run of four is free, and none can be taken from behind.
    tables.positions = tables.positions[: int(tables.settings[TAKEN])].copy()
    tables.settings[FREE_RUNS:] = NONE
    tables.view = tables.view.replaced(positions=tables.positions)
    head = int(tables.rows[0, HEAD])
    put(tables, 0, 2, 0, 0)
    assert int(tables.rows[0, HEAD]) == head
    assert int(tables.settings[FREE_RUNS]) == head + 4
    assert sorted(held(tables, 0)) == [(0, 0), (1, 0), (3, 0), (4, 0)]


def test_accounts_that_open_and_close_forever_take_no_more_room():
    tables = empty_tables()
    for row in range(ROWS):
        for symbol in range(4):
            put(tables, row, symbol, 0, 1)
    taken = []
    for _ in range(20):
        for size in (1, 0):
            for row in range(ROWS):
                put(tables, row, 4, 0, size)
        taken.append(int(tables.settings[TAKEN]))
    assert taken[-1] == taken[1]


def test_what_is_loaded_is_what_was_saved_one_row_behind_the_other():
    plain, random = Plain(), Random(f"{SEED} loaded")
    for _ in range(600):
        size = random.choice((-1, 1)) * random.randint(1, 9)
        plain.put(random.randrange(1, ROWS), random.randrange(SYMBOLS), 0, size, random.randint(-99, 99))
    columns = np.array(plain.saved()).T.copy()
    loaded = empty_tables()
    loaded.add_loaded(columns)
    check_tables(loaded, plain)
    places = sum(places_for(len(plain.of_row(row))) for row in range(1, ROWS))
    assert loaded_places(columns) == loaded.settings[TAKEN] == places
    heads = loaded.rows[1:ROWS, HEAD].tolist()
    assert heads == sorted(heads)
    assert len(loaded.positions) > loaded.settings[TAKEN], "no room for what comes next"
    assert loaded.keys.shape[1] == loaded.used, "keys that nobody has a use for"


def test_more_positions_than_there_is_room_for_are_not_begun():
    tables = empty_tables()
    put(tables, 0, 0, 0, 1)
    tables.reserve_holders(1, 16)
    tables.settings[TAKEN] = len(tables.positions)
    before = {name: array.copy() for name, array in tables.view.arrays().items()}
    assert put_position(tables.view, 0, 1, 0, 5, -5) == FULL
    for name, array in tables.view.arrays().items():
        assert np.array_equal(array, before[name]), name
