"""The live page in a real browser over a real ``run``: a crash comes through the topics of a real Kafka."""

from __future__ import annotations

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest
from playwright.sync_api import Page

from engine.edges.config import default_risk_path, load_risk
from engine.tools.demo import write_market
from tests.brokers.real import Endpoint
from tests.browser import chromium, needs_chromium, opened, wait_until
from tests.demos import FILLED
from tests.page_figures import Heard, check_figures
from tests.service_cases import Body, Deployment, Process

pytestmark = [needs_chromium, pytest.mark.broker, pytest.mark.slow]
# A quarter of an hour of calm in ten seconds, and a quarter of an hour of falling in as many.
SPEED = "90"
ACCOUNTS = 300


def test_figures_of_a_crash_through_kafka_are_those_of_the_api_and_in_the_end_those_of_the_topics(
    kafka: Endpoint, tmp_path: Path
) -> None:
    book, log = write_market(tmp_path, load_risk(None), accounts=ACCOUNTS, seed=1)
    deployment = Deployment(tmp_path, kafka.bootstrap)
    deployment.write(book=json.loads(book.read_bytes()), risk=default_risk_path().read_text(), admin={"port": 0})
    asyncio.run(deployment.create_topics())
    with Process(deployment, "run") as run, chromium() as browser:
        with opened(browser, page_of(run)) as page:
            heard = Heard(page)
            wait_until(page, "document.querySelector('#shard-rows .tag')?.textContent === 'live'")
            with Process(deployment, "play", str(log), "--speed", SPEED) as play:
                wait_until(page, "Number(document.querySelector('#tile-debt data')?.value) > 0", seconds=300)
                wait_until(page, FILLED)
                assert page.locator("#overall").inner_text() == "LIVE"
                check_figures(page, heard)
                assert play.wait() == 0, play.text
            check_debts(page, outputs_of(deployment, page)["bad-debt"])
        run.process.terminate()
        assert run.wait() == 0, run.text


def page_of(run: Process) -> str:
    """Return the page's address once its shard is live; fail with the log if the service ends before."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, run.wait_for(" live ")).result()
    found = re.search(r" admin host=(\S+) port=(\d+)", run.text)
    assert found is not None, run.text
    return f"http://{found[1]}:{found[2]}/"


def outputs_of(deployment: Deployment, page: Page) -> dict[str, list[Body]]:
    """Return what stands in the output topics once all that was played has been taken and no more comes."""
    ends = "async () => (await (await fetch('/v1/status')).json()).shards[0].seq"
    seq = -1
    while seq != (seq := page.evaluate(ends)):
        page.wait_for_timeout(1000)
    # The browser's driver has a loop of its own in this thread.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, deployment.outputs()).result()


def check_debts(page: Page, debts: list[Body]) -> None:
    """Assert that the page comes to show exactly the deficits that were published, by asset."""
    totals: dict[str, Decimal] = {}
    for body in debts:
        totals[body["asset"]] = totals.get(body["asset"], Decimal(0)) + Decimal(body["deficit"])
    assert totals
    expected = json.dumps(sorted(float(total) for total in totals.values()))
    shown = "[...document.querySelectorAll('#tile-debt data')].map((node) => Number(node.value)).sort((a, b) => a - b)"
    wait_until(page, f"{shown}.every((value, at) => Math.abs(value - {expected}[at]) < 1e-6)")
    assert page.locator("#tile-debt data").count() == len(totals)
