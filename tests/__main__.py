"""Every check a change must pass, in one command: ``python -m tests [pytest arguments]``.

1. ruff, its formatter and mypy, because they are quick and name the line; what is not Python by ``tests/lint.py``.
2. The kernel tests with array bounds checked: a compiled loop that reads out of range returns whatever lies there, so
   only this pass can see it. It has a cache of its own, since a kernel compiled without the check would be taken for
   one with it. Left out where pytest arguments are given: those mean some tests in particular. They run beside the
   checks of 1, and are told of after them.
3. All tests, spread over the cores, last, so that pytest's closing line ends the output.

All of them run whatever the earlier ones found. Exit code 1 if any failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE, CompletedProcess

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
    *(f"tests/test_{name}.py" for name in ("kernels", "handle", "runs", "triggers", "follow", "usual_fill")),
    *(f"tests/test_{name}.py" for name in ("lines", "names", "heatmap", "distance")),
]
# Each worker begins with tests that stand together, which share what they need; who ends first takes some of another's.
SPREAD = ["-n", "auto", "--maxprocesses", "4", "--dist", "worksteal"]
BOUNDS_CHECKED = {
    "NUMBA_BOUNDSCHECK": "1",
    "NUMBA_CACHE_DIR": str(ROOT / "engine" / "core" / "kernels" / "__pycache__" / "boundscheck"),
}


def main(pytest_arguments: list[str]) -> int:
    """Run the checks in order and return the exit code of all."""
    with ThreadPoolExecutor(1) as beside:
        checked = None if pytest_arguments else beside.submit(run, KERNEL_TESTS, BOUNDS_CHECKED, stdout=PIPE)
        failed = [" ".join(command) for command in STATIC_CHECKS if not try_run(command)]
    if checked is not None:
        say(KERNEL_TESTS, BOUNDS_CHECKED)
        print(checked.result().stdout, flush=True)
        if checked.result().returncode != 0:
            failed.append(f"{' '.join(KERNEL_TESTS)} (bounds checked)")
    if failed:
        print(f"FAILED before the tests: {'; '.join(failed)}", flush=True)
    passed = try_run(["pytest", *(pytest_arguments or SPREAD)])
    return 0 if passed and not failed else 1


def try_run(command: list[str]) -> bool:
    """Run one check with this interpreter's copy of the tool and return whether it passed."""
    say(command, {})
    return run(command, {}).returncode == 0


def say(command: list[str], variables: Mapping[str, str]) -> None:
    """Print a check as one would type it."""
    print("$", *(f"{name}={value}" for name, value in variables.items()), *command, flush=True)


def run(command: list[str], variables: Mapping[str, str], *, stdout: int | None = None) -> CompletedProcess[str]:
    """Run a check to its end, what it says going where told."""
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, stdout=stdout, text=True, check=False
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
