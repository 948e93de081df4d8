"""The same from a C compiler: full recompute, a pass over the holders, and the trigger index, each beside its twin.

C is compiled with ``cc`` when there is one, for this processor; its sources are hot_ways.c and hot_index.c. What the
index in C reads and writes are arrays as the engine's kernels have them, so that the two can be held against each
other array by array, and timed on the same ones.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.hot_engine import Indexed
from benchmarks.hot_market import Int64Array, Market
from benchmarks.hot_ways import CALL_PPM, Full, Kept
from engine.core.kernels import follow, margin, segments, tables, triggers
from engine.core.kernels.tables import PRICE, Tables
from engine.core.tables import Array

SOURCES = "hot_ways.c", "hot_index.c"
# Keys are to be the same to the last bit, so no product and sum may be made one; no result depends on errno.
COMPILE = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC")


def compile_c(compiler: str = "cc") -> ctypes.CDLL | str:
    """Return the C compiled and loaded, or why it cannot be."""
    found = shutil.which(compiler)
    if found is None:
        return f"no C compiler ({compiler}) was found"
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "hot.so"
        (Path(folder) / "columns.h").write_text(columns_header(), encoding="ascii")
        sources = [str(Path(__file__).with_name(source)) for source in SOURCES]
        command = [found, *COMPILE, f"-I{folder}", *sources, "-o", str(built), "-lm"]
        run = subprocess.run(command, check=False, capture_output=True, text=True)
        if run.returncode != 0:
            return f"{compiler} ended with {run.returncode}: {run.stderr.strip()[:200]}"
        return ctypes.CDLL(str(built))


def columns_header() -> str:
    """Return the header that tells C the columns and flags of the engine's tables, by their names there.

    A system's header may have another use for a name: stdint.h has one for SIZE_MAX.
    """
    names: dict[str, int] = {}
    for module in (margin, segments, follow, triggers, tables):
        names |= {name: value for name, value in vars(module).items() if name[0] != "_" and type(value) is int}
    return "".join(f"#undef {name}\n#define {name} {value}\n" for name, value in names.items())


def function_of(function: Any, numbers: int) -> Any:
    """Return a function of the library that takes an address, then so many numbers or addresses, and gives a number."""
    function.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * numbers]
    function.restype = ctypes.c_int64
    return function


class FullArrays(ctypes.Structure):
    """``struct full`` of hot_ways.c."""

    arrays = ("row_base", "cash", "band", "size", "bands", "value_sums", "margin_sums", "touched")
    _fields_ = (*((name, ctypes.c_void_p) for name in arrays), ("rows", ctypes.c_int64))


class HolderArrays(ctypes.Structure):
    """``struct holders`` of hot_ways.c."""

    arrays = ("row", "size", "margin", "band", "bands", "standing", "touched")
    _fields_ = tuple((name, ctypes.c_void_p) for name in arrays)


def pointers(arrays: Mapping[str, Any], names: Iterable[str]) -> dict[str, int]:
    """Return where arrays lie, by name."""
    return {name: arrays[name].ctypes.data for name in names}


class FullC(Full):
    """Full recompute, compiled from C."""

    label = "full recompute, C"

    def __init__(self, market: Market, library: ctypes.CDLL) -> None:
        super().__init__(market)
        self.arrays = FullArrays(rows=market.accounts, **pointers(vars(self), FullArrays.arrays))
        self.address = ctypes.byref(self.arrays)
        self.run = function_of(library.mark_all, 4)

    def mark(self, symbol: int, price: int) -> int:
        """Value everybody."""
        base = self.band_base
        found: int = self.run(self.address, base[symbol], base[symbol + 1], price, CALL_PPM)
        return found


class HoldersC(Kept):
    """One pass over the holders, compiled from C."""

    label = "holders, C"

    def __init__(self, market: Market, library: ctypes.CDLL) -> None:
        super().__init__(market)
        self.arrays = HolderArrays(**pointers(vars(self), HolderArrays.arrays))
        self.address = ctypes.byref(self.arrays)
        self.run = function_of(library.mark_holders, 5)

    def mark(self, symbol: int, price: int) -> int:
        """Move the holders' sums."""
        before, self.marks[symbol] = self.marks[symbol], price
        found: int = self.run(self.address, self.base[symbol], self.base[symbol + 1], before, price, CALL_PPM)
        return found


class IndexArrays(ctypes.Structure):
    """``struct tables`` of hot_index.c."""

    arrays = "positions", "rows", "balances", "holders", "keys", "symbols", "assets", "tiers", "settings", "stale"
    counts = ("symbols_count",)
    _fields_ = (*((name, ctypes.c_void_p) for name in arrays), *((name, ctypes.c_int64) for name in counts))


class IndexC(Indexed):
    """The trigger index, compiled from C. It may share the engine's tables: in turn both then use the same memory."""

    label = "trigger index, C"

    def __init__(self, view: Tables, found: Array, library: ctypes.CDLL) -> None:
        if view.balances.shape[1] != 1:
            raise ValueError(f"the index in C knows one asset, the tables have {view.balances.shape[1]}")
        super().__init__(view, found)
        counts = {"symbols_count": len(view.symbols)}
        self.arrays = IndexArrays(**pointers(view.arrays(), IndexArrays.arrays), **counts)
        self.address = ctypes.byref(self.arrays)
        self.count = ctypes.c_int64()
        self.results = self.touched.ctypes.data, ctypes.addressof(self.count)
        self.run_share = function_of(library.share_stale, 0)
        self.run_find = function_of(library.concerned_rows, 2)
        self.run_follow = function_of(library.follow_marks, 6)

    def share(self) -> None:
        """Set the keys of stale rows."""
        self.run_share(self.address)

    def find(self, symbol: int, price: int) -> int:
        """Put a mark in force."""
        self.view.symbols[symbol, PRICE] = price
        found: int = self.run_find(self.address, symbol, self.results[0])
        return found

    def follow(self, marks: Int64Array, begin: int, stream: Int64Array) -> tuple[int, int]:
        """Put marks in force."""
        stop = self.run_follow(self.address, marks.ctypes.data, begin, len(marks), stream.ctypes.data, *self.results)
        return stop, self.count.value
