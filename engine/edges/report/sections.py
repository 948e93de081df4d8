"""The blocks of the page that are tables of the run: largest liquidations, symbols, data, speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.edges.report.card import card, outcome
from engine.edges.report.episodes import Episode
from engine.edges.report.markup import (
    DASH,
    Html,
    amount,
    duration,
    escape,
    exact,
    join,
    label,
    pairs,
    record,
    table,
    timestamp,
)
from engine.edges.report.series import PriceSeries, SymbolTotals
from engine.units import NS_PER_S

if TYPE_CHECKING:
    from engine.edges.report.recorder import RunRecorder

SYMBOL_ROWS_MAX = 200
GAP_ROWS_MAX = 12
SPEED_NAMES = {
    "elapsed_s": "Whole run, s",
    "core_s": "In the core, s",
    "events_per_s": "Messages a second",
    "batch_mean_us_p50": "Mean of a batch, median, µs a message",
    "batch_mean_us_p99": "Mean of a batch, p99, µs a message",
    "batch_mean_us_max": "Mean of a batch, worst, µs a message",
}
CARD_ROWS_MAX = (25, 12, 6, 3, 1, 0)


def busiest(recorder: RunRecorder) -> Html:
    """Return the busiest second in words."""
    peak = recorder.peak
    if not peak.busiest_notional:
        return Html("")
    return Html(
        f'<p class="note">The busiest second was {timestamp(peak.busiest_second * NS_PER_S)}: '
        f"{peak.busiest_liquidations:,} liquidations began, and orders, takeovers and deleveraging came to "
        f"{peak.busiest_notional:,.0f}.</p>"
    )


def largest(recorder: RunRecorder, cards_bytes_max: int) -> Html:
    """Return the table of the largest liquidations and the card that explains each."""
    episodes = recorder.episodes.largest()
    if not episodes:
        return Html('<p class="note">No account was liquidated.</p>')
    columns = (
        *("Account", "Time", "Cause", "Outcome", "Stage", "Notional", "Equity before", "after"),
        *("MM before", "Cost", "Orders"),
    )
    body = table("Largest liquidations", columns, [episode_row(e, i) for i, e in enumerate(episodes, 1)], left=5)
    return join((body, cards(episodes, cards_bytes_max)))


def episode_row(episode: Episode, index: int) -> tuple[Html, ...]:
    """Return one episode's row; its first cell opens the card."""
    started, ended = episode.started or {}, episode.ended or {}
    button = Html(
        f'<button class="open" data-card="card-{index}" aria-haspopup="dialog">{escape(episode.account)}</button>'
    )
    bucket = Html(f' <span class="tag">{escape(episode.bucket)}</span>') if episode.bucket else Html("")
    return (
        join((button, bucket)),
        timestamp(episode.ts),
        escape(episode.cause or "–"),
        outcome(episode),
        Html(f'<span class="stage {escape(episode.stage)}">{escape(episode.stage)}</span>') if episode.stage else DASH,
        amount(episode.notional),
        amount(started.get("equity")),
        amount(ended.get("equity")),
        amount(started.get("maintenance_margin")),
        amount(ended.get("cost")),
        exact(episode.orders_count),
    )


def cards(episodes: list[Episode], bytes_max: int) -> Html:
    """Return the cards with the longest tables that fit into the page."""
    rendered = Html("")
    for rows_max in CARD_ROWS_MAX:
        rendered = join(card(episode, index, rows_max) for index, episode in enumerate(episodes, 1))
        if len(rendered.encode()) <= bytes_max:
            break
    return rendered


def symbols(recorder: RunRecorder) -> Html:
    """Return what each symbol's liquidations came to, largest first."""
    ranked = sorted(recorder.symbols.items(), key=lambda item: (-symbol_notional(item[1]), item[0]))
    if not ranked:
        return Html('<p class="note">No symbol saw a liquidation.</p>')
    columns = (
        "Symbol",
        "Orders",
        "Notional ordered",
        "Takeovers",
        "Notional taken over",
        "ADL waves",
        "Notional deleveraged",
    )
    rows = [
        (
            escape(symbol),
            exact(totals.orders),
            amount(totals.ordered_notional),
            exact(totals.takeovers),
            amount(totals.taken_notional),
            exact(totals.waves),
            amount(totals.deleveraged_notional),
        )
        for symbol, totals in ranked[:SYMBOL_ROWS_MAX]
    ]
    return table("Liquidations by symbol", columns, rows)


def symbol_notional(totals: SymbolTotals) -> float:
    """Return how much of a symbol was ordered, taken over and deleveraged; an order sent again counts again."""
    return totals.ordered_notional + totals.taken_notional + totals.deleveraged_notional


def data_quality(recorder: RunRecorder, summary: dict[str, Any]) -> Html:
    """Return what came in, what was refused and why."""
    keys = ("messages", "accepted", "duplicates", "ignored", "fills")
    rows = [(escape(label(key)), exact(summary[key])) for key in keys if key in summary]
    if recorder.last_ts:
        rows.append((Html("From"), timestamp(recorder.first_ts)))
        rows.append((Html("To"), timestamp(recorder.last_ts)))
        rows.append((Html("Time span"), duration(recorder.last_ts - recorder.first_ts)))
    return join((pairs(rows), rejects(recorder, summary), holds(recorder), gaps(recorder)))


def holds(recorder: RunRecorder) -> Html:
    """Return how often liquidations were held, by reason, and how many of the holds ended."""
    if not recorder.held_reasons:
        return Html('<p class="note">No liquidation was held: no mark was stale or doubtful, no budget full.</p>')
    rows = [
        (escape(reason.replace("_", " ")), exact(count), exact(recorder.released_reasons.get(reason, 0)))
        for reason, count in sorted(recorder.held_reasons.items(), key=lambda item: (-item[1], item[0]))
    ]
    return table("Liquidations held, by reason", ("Reason", "Held", "Released"), rows, show_caption=True)


def gaps(recorder: RunRecorder) -> Html:
    """Return the longest time each symbol was without a mark, and how old its last one was at the end."""
    if not recorder.prices:
        return Html("")

    def rank(item: tuple[str, PriceSeries]) -> tuple[int, str]:
        return -max(item[1].gap_max_ns, recorder.last_ts - item[1].last_ts), item[0]

    rows = [
        (
            escape(symbol),
            exact(series.count),
            escape(duration(series.gap_max_ns)),
            timestamp(series.gap_ts),
            escape(duration(max(recorder.last_ts - series.last_ts, 0))),
        )
        for symbol, series in sorted(recorder.prices.items(), key=rank)[:GAP_ROWS_MAX]
    ]
    columns = ("Symbol", "Marks", "Longest gap", "Gap from", "Age at the end")
    return table("Gaps between marks, longest first", columns, rows, show_caption=True)


def rejects(recorder: RunRecorder, summary: dict[str, Any]) -> Html:
    """Return the refused messages by reason, and the first few of them."""
    reasons = sorted(summary.get("rejected", {}).items(), key=lambda item: (-item[1], item[0]))
    reasons = [(reason, count) for reason, count in reasons if count]
    if not reasons:
        return Html('<p class="note">No message was rejected.</p>')
    by_reason = table(
        "Rejected messages by reason", ("Reason", "Messages"), [(escape(r), exact(c)) for r, c in reasons]
    )
    samples = [
        (escape(body.get("reason", "")), escape(body.get("detail", "")), escape(place(body)))
        for body in recorder.reject_samples
    ]
    if not samples:
        return by_reason
    first = table("First rejected messages", ("Reason", "Detail", "Where"), samples, left=3, show_caption=True)
    return join((by_reason, first))


def place(body: dict[str, Any]) -> str:
    """Return where a refused message came from: file and line, or topic, partition and offset."""
    if "file" in body:
        return f"{body['file']}:{body.get('line', '?')}"
    return f"{body.get('topic', '?')}[{body.get('partition', '?')}] @ {body.get('offset', '?')}"


def speed(summary: dict[str, Any]) -> Html:
    """Return throughput and latency as the summary has them."""
    latency = summary.get("latency")
    if not latency:
        return Html('<p class="note">No latency was measured.</p>')
    nested = {key: value for key, value in latency.items() if isinstance(value, dict)}
    flat = {key: value for key, value in latency.items() if key not in nested}
    shown = pairs((escape(SPEED_NAMES.get(key, label(key))), exact(value)) for key, value in flat.items())
    return join((shown, record("measure", nested, 40)) if nested else (shown,))
