"""Makes the pictures of the README: ``python -m tests.screenshots [FOLDER]`` (``deploy/images``).

The page is taken in the middle of the crash that ``demo --serve`` plays, the report is that of ``demo``.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page

from engine.__main__ import main
from tests.browser import chromium, opened, wait_until
from tests.demos import FILLED, Demo
from tests.verb import ROOT

FOLDER = ROOT / "deploy" / "images"
PICTURE_BYTES_MAX = 300_000
# Width, height, scheme of each picture.
SIZES: tuple[tuple[int, int, Literal["dark", "light"]], ...] = ((1440, 1300, "dark"), (360, 1500, "light"))
# From before the first fall to the second, when positions are liquidated by the dozen: what the heat-map shows.
BEGINNING, MOMENT = "00:14:30", "00:22:30"


def picture(page: Page, path: Path, *, height: int) -> None:
    """Save the upper part of a page, so high."""
    width = page.viewport_size["width"] if page.viewport_size else 1440
    page.screenshot(path=path, clip={"x": 0, "y": 0, "width": width, "height": height}, full_page=True)
    size = path.stat().st_size
    assert size < PICTURE_BYTES_MAX, f"{path.name} has {size} bytes, expected below {PICTURE_BYTES_MAX}"


def page_pictures(
    browser: Browser, url: str, folder: Path, *, beginning: str = BEGINNING, moment: str = MOMENT
) -> None:
    """Save a picture of each size as soon as the shard's clock has reached a moment; charts begin at another."""
    clock = "document.getElementById('clock').textContent.split(', ')[1]"
    with ExitStack() as stack:
        pages = [
            stack.enter_context(opened(browser, url, viewport={"width": width, "height": 900}, color_scheme=scheme))
            for width, _, scheme in SIZES
        ]
        wait_until(pages[0], f"{clock} >= '{beginning}'", seconds=600)
        for page in pages:
            # The charts begin when the page is opened.
            page.reload()
        wait_until(pages[0], f"{clock} >= '{moment}'", seconds=600)
        for page, (width, height, _) in zip(pages, SIZES, strict=True):
            wait_until(page, FILLED)
            wait_until(page, "document.querySelector('#heatmap canvas') !== null")
            picture(page, folder / f"page-{width}.png", height=height)


def report_pictures(browser: Browser, folder: Path, out: Path) -> None:
    """Make a report and save a picture of each size."""
    if main(["demo", "--out", str(out)]) != 0:
        raise SystemExit(1)
    for width, height, scheme in SIZES:
        with opened(browser, (out / "report.html").as_uri(), color_scheme=scheme) as page:
            page.set_viewport_size({"width": width, "height": 900})
            picture(page, folder / f"report-{width}.png", height=height)


def make_all(folder: Path) -> None:
    """Make all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as out, chromium() as browser:
        with Demo(Path(out) / "live", "--speed", "8", "--accounts", "2000") as demo:
            page_pictures(browser, demo.url, folder)
        report_pictures(browser, folder, Path(out) / "report")


if __name__ == "__main__":
    make_all(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
