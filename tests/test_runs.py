"""Runs of places for the positions of rows: nobody's place is another's, none is lost, and few are left over."""

from __future__ import annotations

import os
from random import Random, SystemRandom

import numpy as np
import pytest

from engine.core.kernels.margin import SPEC_COLUMNS
from engine.core.kernels.rows import (
    EMPTIED,
    FULL,
    LOADED_COLUMNS,
    count_positions,
    loaded_places,
    position_of,
    put_position,
    row_positions_into,
    saved_positions_into,
)
from engine.core.kernels.runs import run_places
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


def empty_tables() -> TableStore:
    """Tables of rows without positions, and symbols whose names are in another order than their numbers."""
    tables = TableStore()
    tables.open_rows(0, ROWS)
    for symbol in range(SYMBOLS):
        tables.add_symbol(np.zeros(SPEC_COLUMNS, dtype=np.int64), 0)
        tables.symbols[symbol, RANK] = symbol * 37 % SYMBOLS
    return tables


def put(tables: TableStore, row: int, symbol: int, leg: int, size: int) -> int:
    """Store a position, with more room where there is none."""
    done = put_position(tables.view, row, symbol, leg, size, -size)
    if done == FULL:
        tables.reserve_positions(symbol, count_positions(tables.view, row) + 1)
        done = put_position(tables.view, row, symbol, leg, size, -size)
    assert done != FULL
    return int(done)


def held(tables: TableStore, row: int) -> list[tuple[int, int]]:
    """The symbols and legs of a row's positions."""
    found = np.zeros((2 * SYMBOLS, 2), dtype=np.int64)
    return [(symbol, leg) for symbol, leg in found[: row_positions_into(tables.view, row, found)].tolist()]


def places_of_runs(tables: TableStore) -> list[int]:
    """Every place that is in some row's run, or was given back."""
    places: list[int] = []
    for row in range(ROWS):
        head, count = int(tables.rows[row, HEAD]), int(count_positions(tables.view, row))
        places += range(head, head + run_places(count)) if count else []
        assert tables.positions["is_last"][head : head + count].tolist() == [0] * (count - 1) + [1] * (count > 0)
    for length in range(RUN_LENGTHS):
        size = length + 1 if length < EXACT_MAX else 2 * EXACT_MAX << (length - EXACT_MAX)
        first = int(tables.settings[FREE_RUNS + length])
        while first != NONE:
            places += range(first, first + size)
            first = int(tables.positions["slot"][first])
    return places


def check_runs(tables: TableStore, book: dict[tuple[int, int, int], int]) -> None:
    """Raise AssertionError unless the tables say what ``book`` does, and each place ever taken is somebody's."""
    assert sorted(places_of_runs(tables)) == list(range(int(tables.settings[TAKEN])))
    owners: dict[int, list[int]] = {symbol: [] for symbol in range(SYMBOLS)}
    for row in range(ROWS):
        expected = sorted(
            ((symbol, leg) for owner, symbol, leg in book if owner == row),
            key=lambda place: (tables.symbols[place[0], RANK], place[1]),
        )
        assert held(tables, row) == expected
        for symbol, leg in expected:
            owners[symbol].append(row)
            assert position_of(tables.view, row, symbol, leg)[0] == book[row, symbol, leg]
    for symbol, rows in owners.items():
        base, count = tables.symbols[symbol, [BASE, COUNT]].tolist()
        assert sorted(tables.holders[base : base + count].tolist()) == rows


@pytest.mark.parametrize("number", range(6))
def test_positions_that_come_and_go_keep_their_places(number):
    random = Random(f"{SEED} runs {number}")
    print(f"seed {SEED}, runs {number}")
    tables, book = empty_tables(), dict[tuple[int, int, int], int]()
    for step in range(2_000):
        row, symbol, leg = (
            random.randrange(ROWS) % random.randint(1, ROWS),
            random.randrange(SYMBOLS),
            random.choice((1, 2)),
        )
        # Rows fill up, and empty again: from none to more than are kept apart by their number.
        size = 0 if random.random() < 0.3 + 0.4 * (step // 500 % 2) else random.randint(-9, 9)
        is_held = (row, symbol, leg) in book
        done = put(tables, row, symbol, leg, size)
        if size:
            book[row, symbol, leg] = size
        else:
            book.pop((row, symbol, leg), None)
        assert (done == EMPTIED) == (is_held and size == 0 and not held(tables, row))
        if step % 100 == 0:
            check_runs(tables, book)
    assert max(len(held(tables, row)) for row in range(ROWS)) > EXACT_MAX
    check_runs(tables, book)


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
    tables, random = empty_tables(), Random(f"{SEED} loaded")
    for _ in range(600):
        put(tables, random.randrange(ROWS), random.randrange(SYMBOLS), 0, random.randint(1, 9))
    count = int(tables.symbols[:, COUNT].sum())
    columns = np.zeros((len(LOADED_COLUMNS), count), dtype=np.int64)
    saved_positions_into(tables.view, ROWS, columns)
    loaded = empty_tables()
    loaded.add_loaded(columns)
    again = np.zeros_like(columns)
    saved_positions_into(loaded.view, ROWS, again)
    assert np.array_equal(again, columns)
    counts = [int(count_positions(loaded.view, row)) for row in range(ROWS)]
    assert loaded_places(columns) == sum(run_places(count) for count in counts if count) == loaded.settings[TAKEN]
    heads = [head for head in loaded.rows[:ROWS, HEAD].tolist() if head != NONE]
    assert heads == sorted(heads)
    assert len(loaded.positions) > loaded.settings[TAKEN], "no room for what comes next"


def test_more_positions_than_there_is_room_for_are_not_begun():
    tables = empty_tables()
    put(tables, 0, 0, 0, 1)
    tables.reserve_holders(1, 16)
    tables.settings[TAKEN] = len(tables.positions)
    before = {name: array.copy() for name, array in tables.view.arrays().items()}
    assert put_position(tables.view, 0, 1, 0, 5, -5) == FULL
    for name, array in tables.view.arrays().items():
        assert np.array_equal(array, before[name]), name
