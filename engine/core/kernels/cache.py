"""Where compiled kernels are kept: a directory on disk, which no edit and no second process can make wrong.

numba's on-disk cache does not notice edits in *other* modules that a kernel calls, so the cache lives in a directory
named by a hash of every kernel source and of the versions that shape machine code; a changed source never meets an old
binary. numba wants to be able to write where it reads: a filled cache on a read-only file system (a container's image)
is copied to the temporary folder. Where no directory can be written kernels compile in memory: slower to start, never
wrong.

The code of a kernel calls others by name (``compile.py``). A name that cannot be found ends the process, so what a
kernel calls is kept beside its code, and is there before that is loaded.
"""

from __future__ import annotations

import fcntl
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
from numba.core.caching import CompileResultCacheImpl, FunctionCache


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


class Codec(CompileResultCacheImpl):  # type: ignore[misc]  # numba has no types
    """How the code of a kernel is kept: behind the names, places and signatures of the kernels that it calls."""

    def reduce(self, result: Any) -> tuple[Any, ...]:
        """Return what is written."""
        return tuple(result.library.calls.items()), super().reduce(result)

    def rebuild(self, target: Any, written: tuple[Any, ...]) -> Any:
        """Return what was written, all that it calls loaded; None where one of these has another name or place by now.

        Another place: a module that is started has the name ``__main__``, and its own when it is imported.
        """
        calls, data = written
        for name, (module, function, signature) in calls:
            called = getattr(sys.modules.get(module), function, None)
            if called is None:
                return None
            called.compile(signature)
            if called.overloads[signature].fndesc.mangled_name != name:
                return None
        result = super().rebuild(target, data)
        result.library.calls = dict(calls)
        return result


class KernelCache(FunctionCache):  # type: ignore[misc]  # numba has no types
    """numba's cache of one function, written by one process at a time.

    numba reads the index of a function, takes the next free number for a new signature's file, and writes both. Two
    processes that compile two signatures at once would take the same number, and one signature would be called with
    the other's code from then on.
    """

    _impl_class = Codec

    def __init__(self, function: Callable[..., Any], directory: Path) -> None:
        super().__init__(function)
        self.lock_file = directory / "lock"

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write what a signature was compiled to."""
        with self.lock_file.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            super().save_overload(sig, data)
