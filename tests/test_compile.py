"""Kernels call each other by name: what one calls is there before its own code is, whoever compiled either.

A name that nobody knows ends the process, so whatever may leave one unknown is done to a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.core.kernels.arith import mul_div_floor
from engine.core.kernels.cache import CACHE_DIR
from engine.core.kernels.compile import kernel
from engine.core.kernels.rows import row_standing
from engine.edges.warmup import held_shard
from tests.verb import ROOT, said

# The value of an inverse contract takes the kernel ``rounded_values``, which is no part of ``row_standing``.
INVERSE = """
import json
from engine.core.book import CROSS
from engine.core.events import Fill, Transfer
from engine.core.kernels.rows import rounded_values, row_standing
from engine.edges.warmup import OPENING, apply, new_shard

shard = new_shard()
bought = Fill("2", "a", "INVERSE", "buy", (700, 0), (100, 0), 3)
apply(shard, *OPENING, Transfer("2", "a", "BTC", (1, 0), 2), bought)
standing = [int(figure) for figure in row_standing(shard.book.tables.view, shard.book.row_index["a", CROSS])]
compiled = {kernel.__name__: sum(kernel.stats.cache_misses.values()) for kernel in (row_standing, rounded_values)}
print(json.dumps([standing, compiled]))
"""
# Another name for a function, as another version of numba might give it.
RENAMED = """
from engine.core.kernels.compile import KernelCompiler

once = KernelCompiler._compile_core


def renamed(self):
    self.state.func_id.filename += ".moved"
    return once(self)


KernelCompiler._compile_core = renamed
"""
# The names of what two kernels call, in a process that has compiled some functions before.
NAMES = """
import json, sys
from numba import njit, types
from engine.core.kernels.rows import rounded_values, row_standing
from engine.core.kernels.tables import Tables

for _ in range(int(sys.argv[1])):
    njit(lambda: 0)()
row_standing.compile((Tables._numba_type_, types.int64))
(standing,), (rounded,) = row_standing.overloads.values(), rounded_values.overloads.values()
print(json.dumps([rounded.fndesc.mangled_name, sorted(standing.library.calls)]))
"""


# A module of two kernels, one of which calls the other.
PAIR = """
from engine.core.kernels.compile import kernel, subkernel


@subkernel
def doubled(number):
    return 2 * number


@kernel
def one_more(number):
    return doubled(number) + 1


if __name__ == "__main__":
    print(one_more(20))
"""


@kernel
def halves_into(values, halves):
    """Write the floor of half of each value."""
    for index in range(values.size):
        halves[index] = mul_div_floor(values[index], 1, 2)


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, str]:
    """An environment whose cache has what the tests' own has, but not ``rounded_values``."""
    if CACHE_DIR is None:
        pytest.skip("no folder to cache kernels in can be written")
    said(sys.executable, "-c", INVERSE)
    shutil.copytree(CACHE_DIR, tmp_path / CACHE_DIR.name, ignore=shutil.ignore_patterns("rows.rounded_values-*"))
    assert list(CACHE_DIR.rglob("rows.rounded_values-*"))
    return {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}


def asked(program: str, *arguments: str, env: dict[str, str]) -> Any:
    """Return what a program of its own process found."""
    return json.loads(said(sys.executable, "-c", program, *arguments, env=env).stdout)


def test_called_kernel_that_the_cache_lacks_is_compiled_before_its_caller_is_loaded(cache):
    usual, none = asked(INVERSE, env=dict(os.environ))
    assert none == {"row_standing": 0, "rounded_values": 0}
    assert usual[2] > 0
    assert asked(INVERSE, env=cache) == [usual, {"row_standing": 0, "rounded_values": 1}]
    assert asked(INVERSE, env=cache) == [usual, none]


def test_caller_is_compiled_anew_where_a_kernel_that_it_calls_has_another_name(cache):
    usual, none = asked(INVERSE, env=dict(os.environ))
    assert asked(RENAMED + INVERSE, env=cache) == [usual, {"row_standing": 1, "rounded_values": 1}]
    # Both are kept under the names that they have since, and found by them.
    assert asked(INVERSE, env=cache) == [usual, none]


def test_a_kernel_has_the_same_name_whenever_it_is_compiled(tmp_path):
    first, later = (
        asked(NAMES, count, env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / count)}) for count in ("0", "3")
    )
    assert first == later
    name, called = first
    assert name in called


def test_kernels_of_a_module_that_was_started_are_good_where_it_is_imported(tmp_path):
    (tmp_path / "pair.py").write_text(PAIR)
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    for command in ("-m pair", "-c", "-m pair", "-c"):
        program = ["import pair; print(pair.one_more(20))"] if command == "-c" else []
        assert said(sys.executable, *command.split(), *program, env=env).stdout == "41\n"


def test_what_only_kernels_call_is_called_by_a_test_through_one():
    assert mul_div_floor(np.int64(7), np.int64(10**18), np.int64(10**18)) == 7
    values = np.array([5, -5, 0])
    halves_into(values, halves := np.zeros(3, dtype=np.int64))
    assert halves.tolist() == [2, -3, 0] == [int(mul_div_floor(value, np.int64(1), np.int64(2))) for value in values]


def test_code_of_a_called_kernel_is_no_part_of_its_caller():
    row_standing(held_shard().book.tables.view, 0)
    for result in row_standing.overloads.values():
        assert any("rounded_values" in name for name in result.library.calls)
        # What is inlined is: ``standing_of`` is no call.
        assert not any("standing_of" in name for name in result.library.calls)
