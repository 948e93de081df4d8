"""A book's tables as a kernel sees them: each array by its name, and none that is not what the kernel takes it for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba.core.errors import TypingError

from engine.core.kernels.compile import kernel
from engine.core.kernels.margin import TIER_COLUMNS, WEIGHT_COLUMNS
from engine.core.kernels.tables import ASSET_COLUMNS, POSITION, SETTINGS_COLUMNS, SYMBOL_COLUMNS, Tables

ROWS, SLOTS = 5, 48


@kernel
def seen_into(t, figures):
    """Write what a kernel sees of each array: where a value lies in it, and how large it is."""
    figures[0] = t.positions[2].size + t.positions[2].leg
    figures[1], figures[2] = t.rows[3, 2], t.rows.shape[0]
    figures[3], figures[4] = t.balances[4, 1], t.balances.shape[1]
    figures[5] = t.holders[7]
    figures[6], figures[7] = t.keys[0, 33], t.keys[1, 33]
    figures[8] = t.symbols[1][5]
    figures[9], figures[10] = t.tiers[1:3].sum(), t.tiers[1:3].shape[0]
    figures[11] = t.stale.size


@kernel
def change(t, value):
    """Write to arrays of each kind, and read what was written."""
    t.positions[1].cost = value
    t.rows[1, 1] = value
    t.keys[1, 4] = value
    t.balances[0, 0] = t.rows[1, 1] + t.positions[1].cost


@kernel
def unknown(t):
    return t.nothing


def arrays(**others: Any) -> dict[str, Any]:
    """Arrays of a small book, each value of which is another."""
    made: dict[str, Any] = {
        "positions": np.zeros(4, dtype=POSITION),
        "rows": np.arange(ROWS * 4, dtype=np.int32).reshape(ROWS, 4),
        "balances": np.arange(ROWS * 2, dtype=np.int64).reshape(ROWS, 2),
        "holders": np.arange(SLOTS, dtype=np.int32),
        "keys": np.asfortranarray(np.arange(2 * SLOTS, dtype=np.float32).reshape(2, SLOTS)),
        "symbols": np.arange(2 * SYMBOL_COLUMNS).reshape(2, -1),
        "assets": np.arange(2 * ASSET_COLUMNS).reshape(2, -1),
        "tiers": np.arange(4 * TIER_COLUMNS).reshape(4, -1),
        "weights": np.arange(2 * WEIGHT_COLUMNS).reshape(2, -1),
        "settings": np.arange(SETTINGS_COLUMNS),
        "stale": np.zeros(0, dtype=np.int32),
    }
    made["positions"]["size"], made["positions"]["leg"] = np.arange(4) * 1000, 2
    return made | others


def test_a_kernel_sees_the_arrays_by_their_names():
    figures = np.zeros(12, dtype=np.int64)
    seen_into(Tables(**arrays()), figures)
    assert figures.tolist() == [2002, 14, ROWS, 9, 2, 7, 33, 33 + SLOTS, SYMBOL_COLUMNS + 5, sum(range(5, 15)), 2, 0]


def test_what_a_kernel_writes_is_in_the_arrays():
    tables = Tables(**arrays())
    change(tables, 77)
    assert (tables.positions["cost"][1], tables.rows[1, 1], tables.keys[1, 4]) == (77, 77, 77)
    assert tables.balances[0, 0] == 154


def test_other_arrays_in_place_of_some_leave_the_others():
    tables = Tables(**arrays())
    other = tables.replaced(balances=np.full((ROWS, 3), 8))
    figures = np.zeros((2, 12), dtype=np.int64)
    seen_into(tables, figures[0])
    seen_into(other, figures[1])
    assert figures[1, [3, 4]].tolist() == [8, 3]
    assert np.delete(figures[0], [3, 4]).tolist() == np.delete(figures[1], [3, 4]).tolist()


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("balances", np.zeros((ROWS, 2), dtype=np.int32)),
        ("balances", np.zeros(ROWS, dtype=np.int64)),
        ("balances", np.zeros((2, ROWS), dtype=np.int64).T),
        ("keys", np.zeros((2, SLOTS), dtype=np.float32)),
        ("positions", np.zeros(4, dtype=np.int64)),
        ("settings", np.arange(2 * SETTINGS_COLUMNS)[::2]),
        ("settings", np.frombuffer(bytes(8 * SETTINGS_COLUMNS), dtype=np.int64)),
        ("rows", np.zeros((ROWS, 5), dtype=np.int32)),
    ],
    ids=["type", "dimensions", "order", "rows first", "fields", "gaps", "read only", "columns"],
)
def test_an_array_that_kernels_would_misread_is_refused(name, array):
    with pytest.raises(ValueError, match=f"^{name}: .* where .* is needed"):
        Tables(**arrays(**{name: array}))


def test_an_array_that_there_is_not_is_no_attribute():
    with pytest.raises(TypingError, match="nothing"):
        unknown(Tables(**arrays()))
