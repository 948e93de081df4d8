"""Every check a change must pass, in one command: ``python -m tests [pytest arguments]``.

1. ruff, its formatter and mypy, because they are quick and name the line; what is not Python by ``tests/lint.py``.
2. The kernel tests with array bounds checked: a compiled loop that reads out of range returns whatever lies there, so
   only this pass can see it. It has a cache of its own, since a kernel compiled without the check would be taken for
   one with it. Left out where pytest arguments are given: those mean some tests in particular.
3. All tests, last, so that pytest's closing line ends the output.

All of them run whatever the earlier ones found. Exit code 1 if any failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# mypy refuses a folder without sources, so only those that have some are named.
SOURCES = [name for name in ("engine", "benchmarks", "tests") if any((ROOT / name).rglob("*.py"))]
STATIC_CHECKS = (
    ["ruff", "check", "."],
    ["ruff", "format", "--check", "."],
    ["mypy", "--strict", *SOURCES],
    ["tests.lint"],
)
KERNEL_TESTS = [
    "pytest",
    *(f"tests/test_{name}.py" for name in ("kernels", "triggers", "lines", "names", "heatmap", "distance")),
]
BOUNDS_CHECKED = {
    "NUMBA_BOUNDSCHECK": "1",
    "NUMBA_CACHE_DIR": str(ROOT / "engine" / "core" / "kernels" / "__pycache__" / "boundscheck"),
}


def main(pytest_arguments: list[str]) -> int:
    """Run the checks in order and return the exit code of all."""
    failed = [" ".join(command) for command in STATIC_CHECKS if not try_run(command)]
    if not pytest_arguments and not try_run(KERNEL_TESTS, BOUNDS_CHECKED):
        failed.append(f"{' '.join(KERNEL_TESTS)} (bounds checked)")
    if failed:
        print(f"FAILED before the tests: {'; '.join(failed)}", flush=True)
    passed = try_run(["pytest", *pytest_arguments])
    return 0 if passed and not failed else 1


def try_run(command: list[str], variables: Mapping[str, str] | None = None) -> bool:
    """Run one check with this interpreter's copy of the tool and return whether it passed."""
    settings = variables or {}
    print("$", *(f"{name}={value}" for name, value in settings.items()), *command, flush=True)
    environment = {**os.environ, **settings}
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
