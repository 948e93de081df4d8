"""``demo --serve`` as a process of its own, as somebody at a terminal starts it."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from tests.verb import Verb

# The first start on a machine compiles the kernels.
DEADLINE_S = 400
# All that shows figures of its own has some; the card is not open.
FILLED = "document.querySelectorAll('main .fresh:not([data-state=live])').length === 0"


class Demo(Verb):
    """A running ``demo --serve``; ``url`` is that of the page."""

    def __init__(self, folder: Path, *arguments: str, token: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, **({"LIQ_ADMIN_TOKEN": token} if token is not None else {})}
        command = ["demo", "--serve", "--port", "0", "--out", str(folder), *arguments]
        super().__init__(folder / "log.txt", *command, env=env)

    @property
    def url(self) -> str:
        """Return the page's address once it is served; fail with what was said if it ends before."""
        deadline_s = time.monotonic() + DEADLINE_S
        while (found := re.search(r"http://\S+", self.text)) is None:
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline_s, self.text
            time.sleep(0.05)
        return found[0]

    def interrupt(self) -> int:
        """Press Ctrl-C; return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)
