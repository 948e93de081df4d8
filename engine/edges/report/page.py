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

from engine.edges.report import sections
from engine.edges.report.markup import Html, duration, escape, join, timestamp
from engine.edges.report.series import STAGES, FundSeries, PriceSeries
from engine.units import NS_PER_MS

if TYPE_CHECKING:
    from engine.edges.report.recorder import RunRecorder

PRICE_LINES_MAX = 8
FUND_CHARTS_MAX = 4
INPUTS_SHOWN_MAX = 6


def render(recorder: RunRecorder, summary: dict[str, Any], *, title: str, inputs: list[str], risk_name: str) -> str:
    """Return the whole page."""
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
        f'{head(recorder, title, inputs, risk_name)}<main id="main">{body(recorder, summary)}</main>'
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


def body(recorder: RunRecorder, summary: dict[str, Any]) -> Html:
    """Return the sections in the order in which questions come up."""
    funds = [asset_name for asset_name, _ in fund_charts(recorder)]
    fund_hosts = join(chart(f"fund-{index}", f"Insurance fund, {name}", 220) for index, name in enumerate(funds))
    return join(
        (
            sections.verdict(recorder, summary),
            section(
                "market",
                "Prices and liquidations",
                "Marks of the symbols with the most liquidations, each 100 at its first mark; below, on the same time "
                "axis, the orders sent and the positions taken over or auto-deleveraged.",
                join((chart("prices", price_summary(recorder), 320), chart("bars", bar_summary(recorder), 170))),
            ),
            section(
                "fund",
                "Insurance fund",
                "The balance of its wallet after each step; pointing at a step shows what caused it. What positions "
                "it took over gain or lose is not in the wallet until they are closed.",
                join((fund_hosts, sections.fund_causes(recorder))),
            ),
            section(
                "totals",
                "Liquidated so far",
                "Notional closed by orders counts when its episode ends, the rest as it changes hands.",
                Html(
                    f'<div class="two">{chart("notional", "Notional liquidated so far", 220)}'
                    f"{chart('accounts', 'Accounts liquidated so far', 220)}</div>"
                ),
            ),
            section(
                "largest",
                "Largest liquidations",
                "Each opens the decision behind it: the numbers, the marks, the plan and what followed.",
                sections.largest(recorder),
            ),
            section("symbols", "By symbol", "Notional at the mark of the moment.", sections.symbols(recorder)),
            Html('<div class="two">'),
            section(
                "data", "Data quality", "What came in and what was refused.", sections.data_quality(recorder, summary)
            ),
            section("speed", "Throughput and latency", "Measured on the machine of this run.", sections.speed(summary)),
            Html("</div>"),
        )
    )


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
        "This file is complete in itself and makes no request.</p></footer>"
    )


def top_prices(recorder: RunRecorder) -> list[tuple[str, PriceSeries]]:
    """Return the symbols worth a line: by notional liquidated, then by how often they were marked."""

    def rank(item: tuple[str, PriceSeries]) -> tuple[float, int, str]:
        totals = recorder.symbols.get(item[0])
        return (-sections.symbol_notional(totals) if totals else 0.0, -item[1].count, item[0])

    return sorted(recorder.prices.items(), key=rank)[:PRICE_LINES_MAX]


def fund_charts(recorder: RunRecorder) -> list[tuple[str, FundSeries]]:
    """Return the fund wallets worth a chart: those that moved most often."""
    return sorted(recorder.funds.items(), key=lambda item: (-item[1].steps, item[0]))[:FUND_CHARTS_MAX]


def price_summary(recorder: RunRecorder) -> str:
    """Return the price chart in words."""
    lines = [
        f"{symbol} from 100 to {100 * series.last / series.first:.1f}, "
        f"low {100 * min(point.low for point in series.points) / series.first:.1f}"
        for symbol, series in top_prices(recorder)[:3]
        if series.first > 0
    ]
    return "Marks indexed to 100: " + "; ".join(lines) if lines else "No marks were recorded"


def bar_summary(recorder: RunRecorder) -> str:
    """Return the bar chart in words."""
    counts = {stage: sum(bar.counts[stage] for bar in recorder.stages.payloads) for stage in STAGES}
    return "Orders, takeovers and deleveragings over time: " + ", ".join(
        f"{counts[stage]:,} {stage}" for stage in STAGES
    )


def chart_data(recorder: RunRecorder) -> dict[str, Any]:
    """Return what the script draws; times in milliseconds since the first message."""
    base_ms = recorder.first_ts // NS_PER_MS
    return {
        "start": base_ms,
        "span": max(recorder.last_ts // NS_PER_MS - base_ms, 1),
        "prices": [price_line(symbol, series, base_ms) for symbol, series in top_prices(recorder) if series.first > 0],
        "bars": bars(recorder, base_ms),
        "funds": [fund_line(asset_name, fund, base_ms) for asset_name, fund in fund_charts(recorder)],
        "totals": totals(recorder, base_ms),
    }


def price_line(symbol: str, series: PriceSeries, base_ms: int) -> dict[str, Any]:
    """Return one symbol's marks in percent of its first."""
    scale = 100 / series.first
    points = series.points
    return {
        "name": str(symbol),
        "first": digits(series.first),
        "t": [point.ts // NS_PER_MS - base_ms for point in points],
        "v": [digits(point.last * scale) for point in points],
        "low": [digits(point.low * scale) for point in points],
        "high": [digits(point.high * scale) for point in points],
    }


def bars(recorder: RunRecorder, base_ms: int) -> dict[str, Any]:
    """Return counts and notionals by stage per bucket of time."""
    buckets = recorder.stages
    return {
        "width": buckets.width_ns // NS_PER_MS,
        "t": [start_ns // NS_PER_MS - base_ms for start_ns in buckets.starts_ns],
        "counts": {stage: [bar.counts[stage] for bar in buckets.payloads] for stage in STAGES},
        "notionals": {stage: [digits(bar.notionals[stage]) for bar in buckets.payloads] for stage in STAGES},
    }


def fund_line(asset_name: str, fund: FundSeries, base_ms: int) -> dict[str, Any]:
    """Return one wallet of the fund, from its balance before the first step."""
    points = fund.points
    return {
        "asset": asset_name,
        "t": [fund.start_ts // NS_PER_MS - base_ms] + [point.ts // NS_PER_MS - base_ms for point in points],
        "v": [digits(float(fund.start))] + [digits(point.balance) for point in points],
        "why": [{}] + [{cause: digits(change) for cause, change in point.changes.items()} for point in points],
    }


def totals(recorder: RunRecorder, base_ms: int) -> dict[str, Any]:
    """Return the run's totals over time."""
    points = recorder.totals.payloads
    return {
        "t": [point.ts // NS_PER_MS - base_ms for point in points],
        "closed": [digits(point.closed_notional) for point in points],
        "taken": [digits(point.taken_notional) for point in points],
        "deleveraged": [digits(point.deleveraged_notional) for point in points],
        "episodes": [point.episodes for point in points],
        "accounts": [point.accounts for point in points],
    }


def digits(value: float) -> float:
    """Return a number with seven significant digits: finer than any pixel, and a third of the bytes."""
    return float(f"{value:.7g}")
