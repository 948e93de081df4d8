"""``demo --serve`` as a process of its own, as somebody at a terminal starts it, and how its page is opened."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.verb import Verb

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""
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


def wait_until(page: Page, condition: str, *, seconds: float = 60) -> None:
    """Return once a condition in the page's own language holds; fail with what the page shows if it does not in time.

    The driver's own way evaluates text in the page, which the page's policy forbids.
    """
    deadline_s = time.monotonic() + seconds
    while not page.evaluate(f"() => Boolean({condition})"):
        assert time.monotonic() < deadline_s, f"{condition} does not come true:\n{page.locator('body').inner_text()}"
        page.wait_for_timeout(50)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser without a sandbox: tests run as root in containers, and open nothing but this machine's pages."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, url: str, *, expected: tuple[str, ...] = (), **options: Any) -> Iterator[Page]:
    """Yield the page, opened; fails if the browser complains of anything but what is expected."""
    complaints: list[str] = []
    page = browser.new_page(**{"viewport": {"width": 1440, "height": 900}, **options})
    page.set_default_timeout(60_000)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    try:
        yield page
    finally:
        page.close()
    unexpected = [text for text in complaints if not any(words in text for words in expected)]
    assert unexpected == [], unexpected
