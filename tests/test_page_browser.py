"""The live page in a real browser over ``demo --serve``: its figures are the API's, and it says when they are old."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser

from engine.core.events import Message, Origin
from engine.edges.codec import decode, encode
from engine.edges.config import load_risk
from engine.edges.service_config import AdminConfig, ServiceConfig
from engine.edges.shard_book import BookSource
from engine.shell.admin.server import AdminServer
from engine.shell.demo import Player
from tests.browser import CONTRASTS, chromium, needs_chromium, opened, wait_until
from tests.demos import FILLED, Demo
from tests.page_figures import Heard, check_figures
from tests.screenshots import PICTURE_BYTES_MAX, page_pictures
from tests.service_cases import RISK, Clock, mark

pytestmark = [needs_chromium, pytest.mark.slow]
TOKEN = "correct horse battery staple"
# What a browser writes to its console when a request is refused, or finds nobody.
REFUSED, NOBODY = "401 (Unauthorized)", "net::ERR_"
SCHEMES: list[Literal["dark", "light"]] = ["dark", "light"]
Body = dict[str, Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def crash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page over a crash that is running: a minute of calm, then two of falling."""
    with Demo(tmp_path_factory.mktemp("crash"), "--accounts", "400", "--speed", "15") as demo:
        yield demo.url


# --- as it is seen


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_every_panel_is_live_and_nothing_overflows_sideways(browser: Browser, crash: str, width: int) -> None:
    with opened(browser, crash, viewport={"width": width, "height": 800}) as page:
        wait_until(page, FILLED)
        assert page.locator("#overall").inner_text() == "LIVE"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("#risky-rows button.open").first.press("Enter")
        page.locator("#card-body .formula").first.wait_for()
        assert page.evaluate("document.getElementById('card').scrollWidth") <= width


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_has_enough_contrast(browser: Browser, crash: str, scheme: Literal["dark", "light"]) -> None:
    with opened(browser, crash, color_scheme=scheme, reduced_motion="reduce") as page:
        wait_until(page, FILLED)
        found = page.evaluate(CONTRASTS)
        assert len(found) > 100
        assert [(text, round(contrast, 2)) for text, contrast, needed in found if contrast < needed] == []
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) < 150) == (scheme == "dark")


def test_every_control_and_region_has_a_name(browser: Browser, crash: str) -> None:
    with opened(browser, crash) as page:
        wait_until(page, FILLED)
        unnamed = """() => [...document.querySelectorAll(
            "button, input, select, section, dialog, [role], [tabindex='0']")]
          .filter((node) => {
            const by = node.getAttribute("aria-labelledby");
            const name = by ? document.getElementById(by)?.textContent : node.getAttribute("aria-label")
              ?? (node.labels?.length ? node.labels[0].textContent : node.textContent);
            return !name?.trim() && node.getAttribute("role") !== "status" && node.getAttribute("role") !== "alert";
          }).map((node) => node.outerHTML.slice(0, 80))"""
        assert page.evaluate(unnamed) == []
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the figures"


# --- what it says


def test_figures_on_the_page_are_those_of_the_api_at_that_time_during_the_crash(browser: Browser, crash: str) -> None:
    with opened(browser, crash) as page:
        heard = Heard(page)
        wait_until(page, "Number(document.querySelector('#tile-debt data')?.value) > 0", seconds=300)
        wait_until(page, FILLED)
        check_figures(page, heard)
        surveys = heard.bodies("/v1/accounts/riskiest", "survey_began").values()
        assert any(body["factor_sigmas"] for survey in surveys for body in survey["riskiest"])


def test_what_is_read_is_the_exact_figure_rounded(browser: Browser, crash: str) -> None:
    with opened(browser, crash) as page:
        wait_until(page, FILLED)
        pairs = page.evaluate("[...document.querySelectorAll('#fund-rows data')].map((n) => [n.value, n.textContent])")
        assert pairs
        for exact, text in pairs:
            read = Decimal(text.replace(",", "").replace("−", "-"))
            assert abs(read - Decimal(exact)) <= Decimal("0.005"), (exact, text)


def test_ladder_of_a_symbol_and_its_table_are_what_the_api_answers(browser: Browser, crash: str) -> None:
    with opened(browser, crash) as page:
        heard = Heard(page)
        wait_until(page, FILLED)
        with page.expect_response(lambda response: "symbol=ETHUSDT" in response.url and response.status == 200):
            page.get_by_label("Symbol", exact=True).select_option("ETHUSDT")
        wait_until(page, FILLED)
        page.locator("#ladder summary").click()
        page.locator("#ladder tbody tr").first.wait_for()
        ms = int(page.locator("#heat > header .fresh").get_attribute("data-ms") or 0)
        shown_rows = page.locator("#ladder tbody tr").all_inner_texts()
        answers = [response for response in heard.responses if "symbol=ETHUSDT" in response.url]
        bodies = [response.json()["shards"][0] for response in answers if response.status == 200]
        ladder = next(body["ladder"] for body in bodies if round(body["survey_began"] / 1e6) == ms)
        assert len(shown_rows) == len([step for step in ladder if step["long"] != "0" or step["short"] != "0"]) > 5


def test_card_opens_by_keyboard_explains_the_figures_of_the_api_and_gives_the_focus_back(
    browser: Browser, crash: str
) -> None:
    with opened(browser, crash) as page:
        heard = Heard(page)
        wait_until(page, FILLED)
        button = page.locator("#risky-rows button.open").first
        account = button.inner_text()
        button.focus()
        page.keyboard.press("Enter")
        page.locator("#card-body .formula").first.wait_for()
        assert page.locator("#card-title").inner_text() == account
        assert page.evaluate("document.activeElement.closest('dialog') !== null")
        wait_until(page, "document.querySelector('#card .fresh').dataset.state === 'live'")
        script = """() => [Number(document.querySelector("#card .fresh").dataset.ms),
          Object.fromEntries([...document.querySelectorAll("#card-body [data-field] data")]
            .map((node) => [node.parentElement.dataset.field, node.value])),
          [...document.querySelectorAll("#card-body table")].map((table) =>
            [...table.tBodies[0].rows].map((row) => [...row.querySelectorAll("data")].map((node) => node.value)))]"""
        ms, fields, tables = page.evaluate(script)
        body = next(
            found
            for response in heard.responses
            if parse_qs(urlsplit(response.url).query).get("account") == [account] and response.status == 200
            for found in [response.json()]
            if round(found["ts"] / 1e6) == ms
        )
        row, explained, distance = body["accounts"][0], body["explained"][0], body["distances"][0]
        said = {name: row[name] for name in ("equity", "maintenance_margin", "margin_ratio")}
        said |= {name: distance[name] for name in ("factor_move", "factor_sigmas")}
        assert fields == {name: text for name, text in said.items() if text is not None}
        names = ("qty", "notional", "deduction", "maintenance_margin", "unrealised_pnl")
        for cells, position in zip(tables[1], explained["positions"], strict=True):
            assert set(cells) >= {position[name] for name in names}
        for cells, position in zip(tables[2], row["positions"], strict=True):
            (symbol,) = [one for one in distance["symbols"] if one["symbol"] == position["symbol"]]
            ends = [end for stretch in symbol["liquidatable"] for end in (stretch["from"], stretch["to"])]
            levels = [position["liquidation_price"], symbol["move"], symbol["sigmas"], *ends]
            levels += [position["bankruptcy_price"], position["entry_price"]]
            assert cells == [text for text in levels if text is not None]
        page.keyboard.press("Escape")
        assert page.locator("#card").is_hidden()
        assert page.evaluate("document.activeElement.className") == "open"


def test_arrow_keys_read_a_chart_out(browser: Browser, crash: str) -> None:
    with opened(browser, crash) as page:
        wait_until(page, "document.querySelector('#ladder canvas') !== null")
        page.locator("#ladder .frame").focus()
        page.keyboard.press("Home")
        assert "−50 % to −49 %" in page.locator("#ladder .readout").inner_text()
        page.keyboard.press("ArrowRight")
        assert "−49 % to −48 %" in page.locator("#ladder .readout").inner_text()


def test_events_come_once_each_and_go_on_after_a_break_where_they_stopped(browser: Browser, crash: str) -> None:
    newest = "Number(document.querySelector('#ticker li')?.dataset.seq ?? 0)"
    with opened(browser, crash) as page:
        heard = Heard(page)
        wait_until(page, "document.querySelectorAll('#ticker li').length > 10", seconds=300)
        page.get_by_role("button", name="Pause").press("Enter")
        stopped = page.evaluate(newest)
        seq_of = "async () => (await (await fetch('/v1/status')).json()).shards[0].seq"
        deadline_s = time.monotonic() + 300
        while page.evaluate(seq_of) < stopped + 50:
            assert time.monotonic() < deadline_s, "nothing happens any more"
            page.wait_for_timeout(100)
        with page.expect_response(lambda response: "/v1/events" in response.url) as resumed:
            page.get_by_role("button", name="Go on").press("Enter")
        place = int(resumed.value.request.headers["last-event-id"].partition(":")[2])
        assert place >= stopped
        wait_until(page, f"{newest} > {place}", seconds=300)
        rows = page.evaluate("[...document.querySelectorAll('#ticker li')].map((node) => node.dataset.seq)")
        seqs = [int(text) for text in rows]
        assert seqs == events_between(crash, heard, seqs[-1], seqs[0])[::-1]


def test_kinds_of_events_can_be_chosen(browser: Browser, crash: str) -> None:
    with opened(browser, crash) as page:
        wait_until(page, FILLED)
        chosen = "type=liquidation_order,collateral_sale&"
        with page.expect_response(lambda response: chosen in response.url and response.status == 200):
            for box in page.locator("#kinds input").all()[1:]:
                box.uncheck()
        page.locator("#kinds input").first.press("Space")
        wait_until(page, "document.querySelector('#events .fresh').textContent.includes('no kind is chosen')")


def test_a_lost_connection_is_said_at_once_and_so_is_its_return(browser: Browser, crash: str) -> None:
    with opened(browser, crash, expected=(NOBODY,)) as page:
        wait_until(page, FILLED)
        page.context.set_offline(True)
        wait_until(page, "document.querySelector('#marks .fresh').textContent.includes('connection lost')", seconds=8)
        assert page.locator("#overall").inner_text() == "STALE"
        page.context.set_offline(False)
        wait_until(page, FILLED)


def events_between(url: str, heard: Heard, first: int, last: int) -> list[int]:
    """Return the numbers of all events of the kinds that the page asked for, as a stream of our own has them."""
    kinds = parse_qs(urlsplit(heard.streams()[0].url).query)["type"][0]
    numbers: list[int] = []
    place = 0
    with urlopen(f"{url}v1/events?type={kinds}&last_event_id=0:{first - 1}", timeout=60) as stream:
        for line in stream:
            if line.startswith(b"id: 0:"):
                place = int(line[6:])
            # A sign of life has a place, too, and is no event.
            if line.startswith(b"event: "):
                numbers.append(place)
            if numbers[-1:] == [last]:
                return numbers
    raise AssertionError(f"the stream ended at {numbers[-1:]}")


def test_pause_stops_the_page_says_so_and_goes_on(browser: Browser, crash: str) -> None:
    with opened(browser, crash) as page:
        wait_until(page, FILLED)
        page.get_by_role("button", name="Pause").press("Enter")
        wait_until(page, "document.getElementById('overall').textContent === 'STALE'")
        assert "paused here" in page.locator("#marks > header .fresh").inner_text()
        page.get_by_role("button", name="Go on").press("Enter")
        wait_until(page, FILLED)


def test_pictures_of_the_readme_can_be_made_again(browser: Browser, crash: str, tmp_path: Path) -> None:
    page_pictures(browser, crash, tmp_path, beginning="00:00:10", moment="00:15:00")
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"page-1440.png", "page-360.png"}
    assert all(20_000 < size < PICTURE_BYTES_MAX for size in sizes.values()), sizes


# --- who may see it, and when it is old


def test_token_is_asked_for_once_and_figures_are_stale_when_the_log_ends_and_when_the_engine_does(
    browser: Browser, tmp_path: Path
) -> None:
    states = "[...document.querySelectorAll('main .fresh')].map((node) => node.dataset.state)"
    arguments = "--accounts", "60", "--speed", "0"
    with (
        Demo(tmp_path, *arguments, token=TOKEN) as demo,
        opened(browser, demo.url, expected=(REFUSED, NOBODY)) as page,
    ):
        for token, then in (("wrong", "That is not the token."), (TOKEN, "")):
            page.get_by_label("Token", exact=True).fill(token)
            page.get_by_role("button", name="Open").click()
            if then:
                page.get_by_text(then).wait_for()
        wait_until(page, "document.querySelectorAll('#mark-rows data').length > 0")
        assert page.locator("#gate").is_hidden()
        page.reload()
        wait_until(page, "document.querySelectorAll('#mark-rows data').length > 0")
        assert page.locator("#gate").is_hidden()
        assert TOKEN not in page.content()
        # The log has ended: the engine answers, and what it answers gets old.
        wait_until(page, "document.querySelector('#marks .fresh').textContent.includes('the same for')")
        assert demo.interrupt() == 0
        wait_until(page, "document.querySelector('#marks .fresh').textContent.includes('connection lost')")
        wait_until(page, f"{states}.every((state) => state === 'stale')")
        assert page.locator("#announce").inner_text().startswith("Some figures are stale")


HOSTILE = '<img src=x onerror=alert(1)>"&amp;'


@contextmanager
def served(player: Player, messages: list[Message]) -> Iterator[str]:
    """Serve a player from a thread; yields the address of its page."""
    addresses: list[str] = []
    ready, end = threading.Event(), threading.Event()

    async def serve() -> None:
        async with AdminServer(player) as server:
            addresses.append(f"http://127.0.0.1:{server.port}/")
            task = asyncio.create_task(player.play(messages, speed=1))
            ready.set()
            await asyncio.to_thread(end.wait)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(60)
        yield addresses[0]
    finally:
        end.set()
        thread.join()


def test_a_name_that_looks_like_markup_is_text_wherever_it_is_shown(browser: Browser, tmp_path: Path) -> None:
    """The account is liquidated at 96: it is among the riskiest, in the ticker and on a card."""
    (tmp_path / "risk.toml").write_text(RISK)
    position = {"symbol": "BTCUSDT", "qty": "10", "entry_price": "100"}
    entries = [{"account": HOSTILE, "balances": {"USDT": "48"}, "positions": [position]}]
    (tmp_path / "book.json").write_bytes(encode({"accounts": entries, "insurance": {"USDT": "10"}}))
    config = ServiceConfig(risk=tmp_path / "risk.toml", admin=AdminConfig(port=0, loop_percent=100))
    risk = load_risk(config.risk)
    shard = BookSource(tmp_path / "book.json").new_shard(risk, 0)
    tell = Clock()
    lines = [encode(tell(mark(price))) for price in ("100", "96", *["96.1", "96"] * 20_000)]
    events = [decode(line) for line in lines]
    messages = [Message(Origin("log", 0, number), event) for number, event in enumerate(events) if event is not None]
    with served(Player(config, risk, shard, config_hash="00"), messages) as url, opened(browser, url) as page:
        wait_until(page, "document.querySelectorAll('#risky-rows button').length > 0")
        wait_until(page, "document.querySelectorAll('#ticker li').length > 0")
        assert page.locator("#risky-rows button").first.inner_text() == HOSTILE
        assert page.locator("#ticker button").first.inner_text() == HOSTILE
        page.locator("#risky-rows button").first.press("Enter")
        page.locator("#card-body .verdict.bad").wait_for()
        assert page.locator("#card-title").inner_text() == HOSTILE
        assert page.locator("img").count() == 0
