"""One of our commands as a process of its own, as somebody at a terminal starts it, its log in a file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[1]


class Verb:
    """``python -m engine ARGUMENTS``; a context manager that leaves nothing behind."""

    def __init__(self, log: Path, *arguments: str, env: Mapping[str, str] = os.environ) -> None:
        self.log = log
        with log.open("wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine", *arguments],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def text(self) -> str:
        """Return what it has said so far."""
        return self.log.read_text(errors="replace")
