"""A command as a process of its own: one of ours as somebody starts it, its log in a file, or any until it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from engine.tools.child import Child

ROOT = Path(__file__).resolve().parents[1]


class Verb(Child):
    """``python -m engine ARGUMENTS``; a context manager that leaves nothing behind."""

    def __init__(self, log: Path, *arguments: str, env: Mapping[str, str] = os.environ) -> None:
        super().__init__(log, [sys.executable, "-m", "engine", *arguments], cwd=ROOT, env=env)


def said(*command: str, env: Mapping[str, str] = os.environ) -> subprocess.CompletedProcess[str]:
    """Return what a command printed, once it has ended well."""
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done
