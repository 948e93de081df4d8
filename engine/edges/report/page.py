"""The report file: one HTML document with its styles, its script and its chart data inside.

The content security policy names the script and the style sheet by hash and allows nothing else, so that even a
mistake in escaping could not make the page run or request anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from engine.edges.report import fund, outlook, sections
from engine.edges.report.charts import (
    band_summary,
    bar_summary,
    chart_data,
    fund_charts,
    heat_maps,
    price_summary,
)
from engine.edges.report.markup import Html, duration, escape, join, timestamp
from engine.edges.report.verdict import verdict

if TYPE_CHECKING:
    from engine.edges.report.recorder import RunRecorder

# Each tells how it is read; of a folder of them the first say what the others do.
INPUTS_SHOWN_MAX = 2
# The page stays under 1 MB. Style, script and all tables take at most so much; the cards what the chart data leaves.
PAGE_BYTES_MAX = 980_000
TABLES_BYTES_MAX = 260_000
NAV = (
    *(("verdict", "Verdict"), ("market", "Prices"), ("heat", "Heat-map"), ("cascade", "Cascade"), ("fund", "Fund")),
    *(("margins", "Margin ratios"), ("falls", "Further falls"), ("policies", "Other policies")),
    *(("largest", "Largest"), ("symbols", "Symbols"), ("data", "Data"), ("speed", "Speed")),
)


def render(
    recorder: RunRecorder,
    summary: dict[str, Any],
    *,
    title: str,
    inputs: list[str],
    risk_name: str,
    alternatives: list[dict[str, Any]],
) -> str:
    """Return the whole page; ``alternatives`` are rows of ``outlook.other_policies``."""
    style, script = asset("page.css"), asset("page.js")
    policy = f"default-src 'none'; style-src '{digest(style)}'; script-src '{digest(script)}'; base-uri 'none'"
    data = embedded(chart_data(recorder))
    return (
        '<!doctype html>\n<html lang="en" class="plain"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        '<a class="skip" href="#main">Skip to the report</a>'
        f"{head(recorder, title, inputs, risk_name)}{nav()}"
        f'<main id="main">{body(recorder, summary, alternatives, PAGE_BYTES_MAX - TABLES_BYTES_MAX - len(data))}</main>'
        f'{foot()}<script type="application/json" id="chart-data">{data}</script>'
        f"<script>{script}</script></body></html>\n"
    )


@cache
def asset(name: str) -> str:
    """Return a file shipped beside this module."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def digest(text: str) -> str:
    """Return the source expression by which a content security policy allows this inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def embedded(data: dict[str, Any]) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def head(recorder: RunRecorder, title: str, inputs: list[str], risk_name: str) -> Html:
    """Return the page's head: what was replayed, under which parameters, over what time."""
    shown = ", ".join(inputs[:INPUTS_SHOWN_MAX]) or "none"
    more = f" and {len(inputs) - INPUTS_SHOWN_MAX:,} more" if len(inputs) > INPUTS_SHOWN_MAX else ""
    rows = [("Input", escape(shown + more)), ("Risk parameters", escape(risk_name))]
    if recorder.last_ts:
        span = duration(recorder.last_ts - recorder.first_ts)
        rows.append(("Time, UTC", Html(f"{timestamp(recorder.first_ts)} – {timestamp(recorder.last_ts)} ({span})")))
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    return Html(
        f'<header class="top"><p class="eyebrow">liq-engine replay report</p><h1>{escape(title)}</h1>'
        f"<dl>{facts}</dl></header>"
    )


def nav() -> Html:
    """Return the links to the sections."""
    links = "".join(f'<li><a href="#{name}">{escape(text)}</a></li>' for name, text in NAV)
    return Html(f'<nav aria-label="Sections of the report"><ul>{links}</ul></nav>')


def body(
    recorder: RunRecorder, summary: dict[str, Any], alternatives: list[dict[str, Any]], cards_bytes_max: int
) -> Html:
    """Return the sections in the order in which questions come up."""
    return join(
        (
            verdict(recorder, summary),
            *what_happened(recorder),
            *how_near(recorder, alternatives),
            section(
                "largest",
                "Largest liquidations",
                "Each opens the decision behind it: the numbers, the marks, the plan and what followed.",
                sections.largest(recorder, cards_bytes_max),
            ),
            section("symbols", "By symbol", "Notional at the mark of the moment.", sections.symbols(recorder)),
            section(
                "data",
                "Data quality",
                "What came in, what was refused, what was too old to act on.",
                sections.data_quality(recorder, summary),
            ),
            section("speed", "Throughput and latency", "Measured on the machine of this run.", sections.speed(summary)),
        )
    )


def what_happened(recorder: RunRecorder) -> tuple[Html, ...]:
    """Return prices, where liquidations struck, how they cascaded, and the fund."""
    return (
        section(
            "market",
            "Prices and liquidations",
            "Marks of the symbols with the most liquidations, each 100 at its first mark; below, on the same time "
            "axis, the orders sent and the positions taken over or auto-deleveraged.",
            join((chart("prices", price_summary(recorder), 320), chart("bars", bar_summary(recorder), 170))),
        ),
        section(
            "heat",
            "Where liquidations struck",
            "Notional ordered, taken over or deleveraged, by the price at which it was and the time; the line is the "
            "mark. The symbols with the most of it.",
            heat_hosts(recorder),
        ),
        section(
            "cascade",
            "Cascade",
            "How many liquidations began in each bar of time, and what they came to so far. Notional closed by orders "
            "counts when its episode ends, the rest as it changes hands.",
            Html(
                f"{sections.busiest(recorder)}{chart('starts', 'Liquidations started over time', 150)}"
                f'<div class="two">{chart("notional", "Notional liquidated so far", 220)}'
                f"{chart('accounts', 'Accounts liquidated so far', 220)}</div>"
            ),
        ),
        section(
            "fund",
            "Insurance fund",
            "The balance of its wallet after each step; pointing at a step shows what caused it. What positions "
            "it took over gain or lose is not in the wallet until they are closed.",
            join(
                (
                    fund_hosts(recorder),
                    fund.waterfalls(recorder),
                    fund.fund_causes(recorder),
                    fund.largest_steps(recorder),
                )
            ),
        ),
    )


def how_near(recorder: RunRecorder, alternatives: list[dict[str, Any]]) -> tuple[Html, ...]:
    """Return how near accounts were, what falls would have done, and what other policies would have."""
    return (
        section(
            "margins",
            "Margin ratios over time",
            "Accounts and buckets with positions, by maintenance margin in percent of equity, at messages evenly "
            "spread over the log. At 100 % an account is liquidated.",
            chart("bands", band_summary(recorder), 220),
        ),
        section(
            "falls",
            "If prices fell further",
            "What would be liquidatable at once if all marks, and the coins that are collateral, fell together from "
            "where they stood: before any order, at the prices after the fall.",
            join(
                (
                    chart("falls", "Notional liquidatable after a fall of all marks, over time", 220),
                    outlook.falls(recorder),
                )
            ),
        ),
        section(
            "policies",
            "What other policies would have done",
            "The same log, book and venue through the same core, with another rule for what is closed.",
            outlook.other_policies(alternatives),
        ),
    )


def heat_hosts(recorder: RunRecorder) -> Html:
    """Return the places of the heat-maps."""
    names = [symbol for symbol, _ in heat_maps(recorder)]
    if not names:
        return Html('<p class="note">Nothing was liquidated.</p>')
    return join(
        chart(f"heat-{index}", f"Liquidated notional of {name} by price and time", 240)
        for index, name in enumerate(names)
    )


def fund_hosts(recorder: RunRecorder) -> Html:
    """Return the places of the fund's charts."""
    names = [name for name, _ in fund_charts(recorder)]
    return join(chart(f"fund-{index}", f"Insurance fund, {name}", 220) for index, name in enumerate(names))


def section(name: str, title: str, lead: str, content: Html) -> Html:
    """Return a section of the page under its heading."""
    return Html(
        f'<section id="{name}" class="panel" aria-labelledby="{name}-title"><h2 id="{name}-title">{escape(title)}</h2>'
        f'<p class="lead">{escape(lead)}</p>{content}</section>'
    )


def chart(name: str, summary: str, height: int) -> Html:
    """Return the place where the script draws a chart; ``summary`` is what a screen reader says of it."""
    return Html(
        f'<figure class="chart" id="chart-{name}" data-height="{height}" aria-label="{escape(summary)}"></figure>'
    )


def foot() -> Html:
    """Return the page's last line."""
    return Html(
        "<footer><p>Times are UTC. Amounts are rounded to be read; pointing at one shows it exactly. "
        "Notionals in charts take settlement assets at par. "
        "This file is complete in itself and makes no request.</p></footer>"
    )
