"""How a page is opened in a real browser, and what it may not do there: complain, or ask for what it should not."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""
needs_chromium = pytest.mark.skipif(
    not CHROMIUM, reason="no Chromium to open the page (Debian: apt-get install chromium)"
)

# Returns, for each visible text, what it says, its contrast to what is behind it, and the contrast WCAG AA asks for.
CONTRASTS = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const channel = (v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest("script, .sr")) continue;
    const style = getComputedStyle(node);
    const ink = luminance(parse(node instanceof SVGElement ? style.fill : style.color));
    const back = luminance(ground(node));
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const contrast = (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
    found.push([node.textContent.trim().slice(0, 40), contrast, large ? 3 : 4.5]);
  }
  return found;
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser without a sandbox: tests run as root in containers, and open nothing but this machine's pages."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, url: str, *, expected: tuple[str, ...] = (), is_alone: bool = False, **options: Any
) -> Iterator[Page]:
    """Yield the page, opened; fails if the browser complains of anything but what is expected.

    ``is_alone``: it is one file, and whatever it asks for beside that is a complaint.
    """
    complaints: list[str] = []
    page = browser.new_page(**{"viewport": {"width": 1440, "height": 900}, **options})
    page.set_default_timeout(60_000)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    if is_alone:
        page.on("request", lambda request: complaints.append(request.url) if request.url != url else None)
    page.goto(url)
    try:
        yield page
    finally:
        page.close()
    unexpected = [text for text in complaints if not any(words in text for words in expected)]
    assert unexpected == [], unexpected


def wait_until(page: Page, condition: str, *, seconds: float = 60) -> None:
    """Return once a condition in the page's own language holds; fail with what the page shows if it does not in time.

    The driver's own way evaluates text in the page, which the page's policy forbids.
    """
    deadline_s = time.monotonic() + seconds
    while not page.evaluate(f"() => Boolean({condition})"):
        assert time.monotonic() < deadline_s, f"{condition} does not come true:\n{page.locator('body').inner_text()}"
        page.wait_for_timeout(50)
