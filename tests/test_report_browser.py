"""The replay report in a real browser: it draws, agrees with the summary, and can be used by keyboard at any width."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from engine.edges.config import load_risk
from engine.tools.replay import ReplayOptions, run_replay
from tests.browser import CONTRASTS, chromium, needs_chromium, opened
from tests.golden import FOLDER
from tests.test_report import hostile_run

pytestmark = needs_chromium
PAGE_BYTES_MAX = 1_000_000
VIEWPORT = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a replay in which all kinds of charts and tables have something to show."""
    out = tmp_path_factory.mktemp("report") / "out"
    options = ReplayOptions(
        [FOLDER / "crash.jsonl"],
        load_risk(FOLDER / "crash.toml"),
        book=FOLDER / "crash.book.json",
        venue="book",
        out=out,
        alternatives=True,
        show_progress=False,
    )
    run_replay(options)
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for all tests of this file."""
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser, run: Path) -> Iterator[Page]:
    """The report, opened; whatever the browser complains of or asks for fails the test."""
    with opened(browser, (run / "report.html").as_uri(), is_alone=True, viewport=VIEWPORT) as found:
        yield found


def summary_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_bytes())


def test_report_of_a_run_stays_under_a_megabyte(run: Path) -> None:
    assert (run / "report.html").stat().st_size < PAGE_BYTES_MAX


def test_every_chart_is_drawn(page: Page) -> None:
    charts = page.locator("figure.chart")
    assert charts.count() >= 10
    for chart in charts.all():
        name = chart.get_attribute("id")
        assert chart.locator("svg :is(path.trace, rect)").count() > 0, f"{name} is empty"
        assert "NaN" not in chart.inner_html(), f"{name} has a coordinate that is no number"


def test_every_axis_says_what_it_counts(page: Page) -> None:
    units = page.locator("figure.chart:has(svg) .unit").all_text_contents()
    assert len(units) == page.locator("figure.chart:has(svg)").count() >= 10
    assert "" not in units
    assert {"first mark = 100", "USD", "USDT", "liquidations", "price", "accounts and buckets"} <= set(units)


@pytest.mark.parametrize("width", [360, 1440])
def test_no_cell_of_a_heat_map_covers_the_next(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    script = """(svg) => [...svg.querySelectorAll("rect")].map((one) => ["x", "y", "width"].map(
      (name) => Number(one.getAttribute(name))))"""
    charts = page.locator("#chart-falls svg, [id^=chart-heat] svg").all()
    assert len(charts) >= 2
    for chart in charts:
        cells = sorted(chart.evaluate(script), key=lambda cell: (cell[1], cell[0]))
        for (x, y, size), (following_x, following_y, _) in itertools.pairwise(cells):
            assert y != following_y or x + size <= following_x + 0.01


def test_figures_on_the_page_equal_the_summary(page: Page, run: Path) -> None:
    summary = summary_of(run)
    tiles = {tile.locator("h3").inner_text(): tile.locator(".figure") for tile in page.locator(".tile").all()}

    def shown(name: str) -> list[Decimal]:
        """The figures of a tile, exact where the tooltip has more digits than the text."""
        exact = [span.get_attribute("title") for span in tiles[name].locator("[title]").all()]
        texts = [text for text in exact if text] or re.findall(r"[\d.,]*\d", tiles[name].inner_text())
        return [Decimal(text.replace(",", "")) for text in texts]

    assert summary["liquidations"] > 20
    assert shown("Liquidations") == [summary["liquidations"]]
    assert shown("Auto-deleveraged") == [summary["adl"]]
    assert shown("Rejected") == [sum(summary["rejected"].values())]
    assert shown("Notional liquidated") == [Decimal(summary["notional_liquidated"])]
    assert shown("Insurance fund") == [Decimal(summary["insurance"]["USDT"])]
    assert shown("Bad debt") == ([Decimal(text) for text in summary["bad_debt"].values()] or [Decimal(0)])
    assert page.locator(".hashes code").all_inner_texts() == [summary["state_hash"], summary["outputs_hash"]]
    this_run = page.locator("#policies tr", has_text="this run").locator("td").all_inner_texts()
    assert [int(text.replace(",", "")) for text in this_run[2:4]] == [summary["liquidations"], summary["orders"]]


def test_verdict_is_in_words_beside_its_colours(page: Page) -> None:
    verdicts = [" ".join(text.split()) for text in page.locator("#verdict :is(.seal, .check)").all_inner_texts()]
    assert [("✓" in text or "✕" in text) for text in verdicts] == [True] * 4
    assert "Conserved to the last unit" in verdicts[0]
    assert "Everyone is explained" in verdicts[1]


def test_card_opens_and_closes_by_keyboard_and_focus_returns(page: Page) -> None:
    button = page.locator("button.open").first
    button.focus()
    page.keyboard.press("Enter")
    card = page.locator("dialog[open]")
    assert card.count() == 1
    assert card.locator("h3").inner_text().startswith(button.inner_text())
    assert "MM" in card.locator(".formula").first.inner_text()
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert page.evaluate("document.activeElement.className") == "open"


def test_card_opens_by_its_link(browser: Browser, run: Path) -> None:
    page = browser.new_page()
    page.goto((run / "report.html").as_uri() + "#card-2")
    assert page.locator("dialog[open]").get_attribute("id") == "card-2"
    page.close()


def test_keyboard_reaches_the_report_past_the_links(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_arrow_keys_read_a_chart_out(page: Page) -> None:
    chart = page.locator("#chart-prices svg")
    chart.focus()
    page.keyboard.press("End")
    tip = page.locator("#chart-prices .tip[role=status]")
    last = " ".join(tip.inner_text().split())
    page.keyboard.press("Home")
    assert "UTC" not in last
    assert last != " ".join(tip.inner_text().split())
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_page_has_its_landmarks_and_every_link_a_target(page: Page) -> None:
    for landmark in ("header.top", "nav[aria-label]", "main", "footer"):
        assert page.locator(landmark).count() == 1, landmark
    targets = [link.get_attribute("href") for link in page.locator("nav a").all()]
    assert len(targets) >= 10
    for target in targets:
        assert target is not None
        assert page.locator(target).count() == 1, target


def test_every_chart_has_its_figures_as_a_table(page: Page, run: Path) -> None:
    for chart in page.locator("figure.chart").all():
        chart.locator("summary").click()
        rows = chart.locator("tbody tr")
        # The browser tells of the opening a moment later.
        rows.first.wait_for()
        assert set(rows.last.locator("td").all_inner_texts()[1:]) != {"–"}, chart.get_attribute("id")
    last = page.locator("#chart-accounts tbody tr").last.locator("td").all_inner_texts()
    assert int(last[-1].replace(",", "")) == summary_of(run)["liquidations"]


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_nothing_overflows_sideways(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("button.open").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('dialog[open]').scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(page: Page, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    found = page.evaluate(CONTRASTS)
    assert len(found) > 200
    assert [(text, round(contrast, 2)) for text, contrast, needed in found if contrast < needed] == []


def test_dark_is_dark_and_light_is_light(page: Page) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme="light" if scheme == "light" else "dark")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds[scheme] = sum(map(int, re.findall(r"\d+", ground)))
    assert grounds["dark"] < 150 < 600 < grounds["light"]


def test_names_that_look_like_markup_are_drawn_as_text(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(hostile_run(), encoding="utf-8")
    with opened(browser, path.as_uri(), is_alone=True, viewport=VIEWPORT) as page:
        assert page.locator("img").count() == 0
        assert page.locator("#chart-prices .legend button").inner_text().startswith('">')
        page.locator("button.open").first.click()
        assert page.locator("dialog[open] h3").inner_text().startswith('">')
