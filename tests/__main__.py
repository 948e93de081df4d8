"""Every check a change must pass, in one command: ``python -m tests [pytest arguments]``.

ruff, its formatter and mypy first, because they are quick and name the line; pytest last, so that its closing line
ends the output. All of them run whatever the earlier ones found. Exit code 1 if any failed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# mypy refuses a folder without sources, so only those that have some are named.
SOURCES = [name for name in ("engine", "benchmarks", "tests") if any((ROOT / name).rglob("*.py"))]
STATIC_CHECKS = (
    ["ruff", "check", "."],
    ["ruff", "format", "--check", "."],
    ["mypy", "--strict", *SOURCES],
)


def main(pytest_arguments: list[str]) -> int:
    """Run the checks in order and return the exit code of all."""
    failed = [" ".join(command) for command in STATIC_CHECKS if not try_run(command)]
    if failed:
        print(f"FAILED before the tests: {'; '.join(failed)}", flush=True)
    passed = try_run(["pytest", *pytest_arguments])
    return 0 if passed and not failed else 1


def try_run(command: list[str]) -> bool:
    """Run one check with this interpreter's copy of the tool and return whether it passed."""
    print("$", *command, flush=True)
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
