"""How a program runs as a process of ours: what it says goes to a file, and however we end, it ends with us."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

# Waits until its input ends, which it does when we are gone, however that came about; then ends the program.
GUARD = 'read -r _; kill -9 "-$0"'


class Child:
    """A running program, its log in a file; a context manager that leaves nothing behind.

    It has a session of its own: Ctrl-C in our terminal is ours to answer, and it ends with all that it has started. A
    log that is there is gone on with; ``text`` is what this process has said.
    """

    def __init__(
        self, log: Path, command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        self.log_start = log.stat().st_size if log.is_file() else 0
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
            )
        guard = ["sh", "-c", GUARD, str(self.process.pid)]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True)

    @property
    def text(self) -> str:
        """Return what it has said so far."""
        with self.log.open("rb") as log:
            log.seek(self.log_start)
            return log.read().decode(errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def kill(self) -> None:
        """End it and all that it has started at once, as a power cut would. The second time nothing happens."""
        if self._guard.returncode is not None:
            return
        # The guard first: once the process is reaped, its number may be given to another one.
        self._guard.kill()
        self._guard.communicate()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # It and its children have ended before.
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
