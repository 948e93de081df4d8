"""What the live page shows beside what the API answered: every answer is kept, every figure compared with its own."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Page, Response

Body = dict[str, Any]


class Heard:
    """Every answer that a page got, by its path and the data's time as the page shows it."""

    def __init__(self, page: Page) -> None:
        self.responses: list[Response] = []
        page.on("response", self.hear)

    def hear(self, response: Response) -> None:
        """Keep an answer."""
        self.responses.append(response)

    def streams(self) -> list[Response]:
        """Return the streams of events that it opened."""
        return [response for response in self.responses if urlsplit(response.url).path == "/v1/events"]

    def bodies(self, path: str, key: str = "ts") -> dict[int, Body]:
        """Return the documents of one path: of the one shard there is, where they are by shards."""
        found = {}
        for response in self.responses:
            if urlsplit(response.url).path == path and response.status == 200:
                body = response.json()
                body = body["shards"][0] if "shards" in body else body
                if key in body:
                    found[round(body[key] / 1e6)] = body
        return found


def shown(page: Page, panel: str, source: str) -> tuple[int, dict[str, list[str]]]:
    """Return the time that a panel says its data has, and its exact figures by the id of where they stand, at once."""
    script = """([panel, source]) => {
      const part = document.querySelector(panel);
      const label = part.querySelector(`.fresh[data-source=${source}]`);
      const nodes = [...part.querySelectorAll("data")];
      const name = (node) => node.closest("[id]").id;
      const found = {};
      for (const node of nodes) (found[name(node)] ??= []).push(node.value);
      return [Number(label.dataset.ms), found];
    }"""
    ms, figures = page.evaluate(script, [panel, source])
    return ms, figures


def check_figures(page: Page, heard: Heard) -> None:
    """Assert that fund, marks, riskiest accounts and liquidations are those of the answers of the time shown."""
    ms, found = shown(page, "#fund", "fund")
    fund = heard.bodies("/v1/insurance-fund")[ms]
    held = [one[name] for one in fund["positions"] for name in ("qty", "unrealised_pnl")]
    assert found["fund-rows"] == [*fund["balances"].values(), *held]
    ms, found = shown(page, "#marks", "marks")
    marks = heard.bodies("/v1/marks")[ms]
    texts = [body["price"] for body in (*marks["marks"], *marks["asset_prices"]) if body["price"]]
    assert set(found["mark-rows"]) >= set(texts) - {"1"}
    ms, found = shown(page, "#risky", "riskiest")
    riskiest = heard.bodies("/v1/accounts/riskiest", "survey_began")[ms]
    fields = ("margin_ratio", "factor_move", "factor_sigmas", "equity", "maintenance_margin")
    rows = [body[name] for body in riskiest["riskiest"] for name in fields if body[name] is not None]
    assert len(riskiest["riskiest"]) == 20
    assert found["risky-rows"] == rows
    assert [int(text) for text in found["bands"]] == list(riskiest["bands"].values())
    ms, found = shown(page, "#glance", "liquidations")
    assert found["tile-open"] == [str(heard.bodies("/v1/liquidations")[ms]["open_count"])]
