"""One of our commands as a process of its own, as somebody at a terminal starts it, its log in a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from engine.tools.child import Child

ROOT = Path(__file__).resolve().parents[1]


class Verb(Child):
    """``python -m engine ARGUMENTS``; a context manager that leaves nothing behind."""

    def __init__(self, log: Path, *arguments: str, env: Mapping[str, str] = os.environ) -> None:
        super().__init__(log, [sys.executable, "-m", "engine", *arguments], cwd=ROOT, env=env)
