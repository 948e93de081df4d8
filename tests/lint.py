"""What else than Python is linted, by what: ``python -m tests.lint`` runs all of it, as ``python -m tests`` does.

Each linter gets the files it is for; one that finds anything fails the run. The linters are packages of the extra
``dev``, so they are there wherever the tests are. Debian's promtool and amtool are not, and are used where present: the
tests that need them say so (``tests/outside.py``).
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.outside import try_program

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Linter:
    """A program with its arguments and the files it is for; a guest need not be installed, nor its files be there."""

    name: str
    command: tuple[str, ...]
    patterns: tuple[str, ...]
    is_guest: bool = False


LINTERS = (
    Linter("hadolint", ("hadolint", "--failure-threshold", "style"), ("deploy/Dockerfile",)),
    Linter(
        "compose",
        ("check-jsonschema", "--builtin-schema", "vendor.compose-spec"),
        ("deploy/compose.yaml",),
    ),
    Linter(
        "yamllint",
        ("yamllint", "--strict", "--config-file", str(ROOT / ".yamllint.yaml")),
        ("*.yaml", ".*.yaml", "config/*.yaml", "deploy/**/*.yaml", "deploy/**/*.yml"),
    ),
    Linter("shellcheck", ("shellcheck",), (".ci/run", "deploy/**/*.sh")),
    Linter(
        "prometheus",
        ("promtool", "check", "config", "--syntax-only"),
        ("deploy/prometheus/prometheus.yml",),
        is_guest=True,
    ),
    Linter("rules", ("promtool", "check", "rules"), ("deploy/prometheus/rules/*.yml",), is_guest=True),
    Linter("alertmanager", ("amtool", "check-config"), ("deploy/alertmanager/*.yml",), is_guest=True),
)


def files_of(linter: Linter, root: Path) -> list[str]:
    """Return the files that a linter is for, relative to ``root``."""
    found = {path.relative_to(root).as_posix() for pattern in linter.patterns for path in root.glob(pattern)}
    return sorted(found)


def try_complaint(linter: Linter, root: Path) -> str | None:
    """Return what a linter finds wrong below ``root``, None where that is nothing.

    Nothing to look at, or no linter to look with, is wrong as well, except with a guest.
    """
    files, path = files_of(linter, root), try_program(linter.command[0])
    if path is None or not files:
        missing = f"{linter.command[0]} is not installed" if path is None else "none of its files is there"
        return None if linter.is_guest else missing
    done = subprocess.run(
        [path, *linter.command[1:], *files], cwd=root, capture_output=True, text=True, errors="replace", check=False
    )
    return None if done.returncode == 0 else done.stdout + done.stderr


def main() -> int:
    """Run every linter, print what each finds, return the exit code of all."""
    failed = False
    for linter in LINTERS:
        complaint = try_complaint(linter, ROOT)
        if complaint is not None:
            failed = True
            print(f"{linter.name}: {complaint}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
