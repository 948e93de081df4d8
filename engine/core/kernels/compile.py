"""How kernels are compiled: one decorator, cached on disk where that is safe.

numba's on-disk cache does not notice edits in *other* modules that a kernel calls, so the cache lives in a directory
named by a hash of every kernel source and of the versions that shape machine code; a changed source never meets an old
binary. numba wants to be able to write where it reads: a filled cache on a read-only file system (a container's image)
is copied to the temporary folder. Where no directory can be written kernels compile in memory: slower to start, never
wrong. This module must be imported before any kernel is decorated, which importing ``kernel`` from it ensures.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import njit


def source_hash() -> str:
    """Return a hash of all kernel sources and of Python, numba, llvmlite and numpy versions."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    versions = (sys.version, numba.__version__, llvmlite.__version__, np.__version__)
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


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function`` in nopython mode, cached on disk where possible; it may not make arrays.

    Without references to count: that took two atomic additions for each array that a helper was handed, more than what
    most helpers do. The caller holds the arrays as long as the call lasts.
    """
    return njit(cache=CACHE_DIR is not None, _nrt=False)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a leaf helper that is worth inlining into its callers by LLVM."""
    return njit(cache=CACHE_DIR is not None, forceinline=True, _nrt=False)(function)
