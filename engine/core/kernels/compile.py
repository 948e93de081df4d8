"""How kernels are compiled: one decorator, cached on disk where that is safe.

numba's on-disk cache does not notice edits in *other* modules that a kernel calls, so the cache lives in a directory
named by a hash of every kernel source and of the versions that shape machine code; a changed source never meets an old
binary. numba wants to be able to write where it reads: a filled cache on a read-only file system (a container's image)
is copied to the temporary folder. Where no directory can be written kernels compile in memory: slower to start, never
wrong. This module must be imported before any kernel is decorated, which importing ``kernel`` from it ensures.

LLVM optimizes at level 1: that takes a fifth less time than level 3, and what comes out is as fast (``python -m
benchmarks``; NUMBA_OPT in the environment overrides it). Half of what is left is numba's own work in Python.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import njit, types
from numba.core.caching import FunctionCache

if "NUMBA_OPT" not in os.environ:
    numba.config.OPT = type(numba.config.OPT)(1)


def source_hash() -> str:
    """Return a hash of what shapes machine code: kernel sources, versions, the level of optimization."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    versions = (sys.version, numba.__version__, llvmlite.__version__, np.__version__, repr(numba.config.OPT))
    digest.update("\0".join(versions).encode())
    return digest.hexdigest()[:16]


def try_cache_dir() -> Path | None:
    """Return a writable directory for this source hash, or None where there is none."""
    configured = getattr(numba.config, "CACHE_DIR", "")
    parent = Path(configured) if configured else Path(__file__).parent / "__pycache__"
    name = f"kernels-{source_hash()}"
    preferred, spare = parent / name, Path(tempfile.gettempdir()) / "liq-engine" / name
    if is_writable(preferred):
        return preferred
    if not is_writable(spare):
        return None
    try:
        if preferred.is_dir():
            shutil.copytree(preferred, spare, dirs_exist_ok=True)
    except (OSError, shutil.Error):
        pass  # What could not be copied is compiled again.
    return spare


def is_writable(directory: Path) -> bool:
    """Return whether files can be made in a directory, itself made if it is not there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


CACHE_DIR = try_cache_dir()
if CACHE_DIR is not None:
    numba.config.CACHE_DIR = str(CACHE_DIR)


class KernelCache(FunctionCache):  # type: ignore[misc]  # numba has no types
    """numba's cache of one function, written by one process at a time.

    numba reads the index of a function, takes the next free number for a new signature's file, and writes both. Two
    processes that compile two signatures at once would take the same number, and one signature would be called with
    the other's code from then on.
    """

    def __init__(self, function: Callable[..., Any], directory: Path) -> None:
        super().__init__(function)
        self.lock_file = directory / "lock"

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write what a signature was compiled to."""
        with self.lock_file.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            super().save_overload(sig, data)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function`` in nopython mode, cached on disk where possible; it may not make arrays.

    Without references to count: that took two atomic additions for each array that a helper was handed, more than what
    most helpers do. The caller holds the arrays as long as the call lasts.
    """
    return _compiled(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a leaf helper that is worth inlining into its callers by LLVM."""
    return _compiled(function, forceinline=True)


def spliced(function: Callable[..., Any]) -> Any:
    """Make a helper that one kernel alone calls a part of that kernel: it is not compiled by itself."""
    return njit(_nrt=False, inline="always")(function)


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    dispatcher = njit(_nrt=False, no_cfunc_wrapper=True, **options)(function)
    if CACHE_DIR is not None:
        dispatcher._cache = KernelCache(function, CACHE_DIR)
    template_for = dispatcher.get_call_template

    def template_for_kinds(arguments: tuple[Any, ...], keywords: Any) -> Any:
        # numba takes each constant that a kernel is called with for a type of its own, and compiles it again for that.
        return template_for(tuple(map(types.unliteral, arguments)), keywords)

    dispatcher.get_call_template = template_for_kinds
    return dispatcher
