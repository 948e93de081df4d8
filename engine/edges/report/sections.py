"""The blocks of the page that are words and tables: the verdict, largest liquidations, symbols, data, speed."""

from __future__ import annotations

from decimal import Decimal
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
    try_decimal,
)
from engine.edges.report.series import CauseTotals, SymbolTotals

if TYPE_CHECKING:
    from engine.edges.report.recorder import RunRecorder

SYMBOL_ROWS_MAX = 200
# The page stays under 1 MB: the chart data takes at most 200 kB, the tables 100 kB, and the cards what is here.
CARDS_CHARS_MAX = 550_000
CARD_ROWS_MAX = (25, 12, 6, 3, 1, 0)


def verdict(recorder: RunRecorder, summary: dict[str, Any]) -> Html:
    """Return the strip that answers first: is the money all there, and what did it cost."""
    counts = recorder.counts
    rejected = sum(summary.get("rejected", {}).values())
    liquidations = int(summary.get("liquidations", 0))
    tiles = (
        tile("Liquidations", exact(liquidations), Html(f"{exact(recorder.total.accounts)} accounts or buckets")),
        tile("Notional liquidated", amount(summary.get("notional_liquidated")), orders_note(summary, counts)),
        tile("Bad debt", by_asset(summary.get("bad_debt", {})), Html("losses beyond the accounts’ equity")),
        tile(
            "Uncovered",
            by_asset(summary.get("uncovered", {})),
            Html("of it paid by nobody"),
            tone="bad" if any_above_zero(summary.get("uncovered", {})) else "good",
        ),
        fund_tile(recorder, summary),
        tile("Auto-deleveraged", exact(summary.get("adl", 0)), Html("counterparties closed")),
        tile("Rejected", exact(rejected), Html(f"of {exact(summary.get('messages', 0))} messages")),
        tile("Margin calls", exact(counts.get("margin_call", 0)), held_note(recorder)),
    )
    return Html(
        f'<section id="verdict" aria-labelledby="verdict-title">{conservation(summary)}'
        f'<ul class="tiles">{join(tiles)}</ul>{hashes(summary)}</section>'
    )


def conservation(summary: dict[str, Any]) -> Html:
    """Return whether wallets equal transfers for every asset, and by how much not."""
    rows: dict[str, dict[str, Any]] = summary.get("conservation", {})
    broken = [asset for asset, row in rows.items() if try_decimal(row.get("difference")) != 0]
    if not rows:
        tone, title, detail = "", "Conservation not reported", Html("The summary has no conservation record.")
    elif broken:
        tone, title = "bad", "Money is not conserved"
        detail = join((Html(f"{escape(a)} off by {exact(rows[a].get('difference'))}") for a in broken[:8]), ", ")
    else:
        tone, title = "good", "Conserved to the last unit"
        detail = join(
            (Html(f"{exact(row.get('wallets'))}&nbsp;{escape(asset)}") for asset, row in list(rows.items())[:8]), ", "
        )
        detail = Html(f"In all wallets exactly what was transferred in: {detail}.")
    mark = {"good": "✓", "bad": "✕", "": "?"}[tone]
    return Html(
        f'<div class="seal {tone}"><span class="mark" aria-hidden="true">{mark}</span>'
        f'<div><h2 id="verdict-title">{title}</h2><p>{detail}</p></div></div>'
    )


def tile(name: str, value: Html, note: Html, *, tone: str = "") -> Html:
    """Return one figure of the strip."""
    return Html(
        f'<li class="tile {tone}"><h3>{escape(name)}</h3><p class="figure">{value}</p><p class="sub">{note}</p></li>'
    )


def any_above_zero(amounts: dict[str, Any]) -> bool:
    """Return whether any asset's amount is more than nothing."""
    return any((try_decimal(value) or 0) > 0 for value in amounts.values())


def by_asset(amounts: dict[str, Any]) -> Html:
    """Return amounts that are not zero, one per asset, or 0."""
    shown = [(asset, value) for asset, value in amounts.items() if try_decimal(value)]
    if not shown:
        return Html("0")
    return join((Html(f'<span class="line">{amount(v)} <small>{escape(a)}</small></span>') for a, v in shown[:6]))


def orders_note(summary: dict[str, Any], counts: dict[str, int]) -> Html:
    """Return how many orders and takeovers the liquidations took."""
    return Html(f"{exact(summary.get('orders', 0))} orders, {exact(counts.get('takeover', 0))} takeovers")


def held_note(recorder: RunRecorder) -> Html:
    """Return how often a liquidation was held back, and by what."""
    if not recorder.held_reasons:
        return Html("no liquidation was held")
    parts = (f"{count:,} × {reason.replace('_', ' ')}" for reason, count in sorted(recorder.held_reasons.items()))
    return escape("held: " + ", ".join(parts))


def fund_tile(recorder: RunRecorder, summary: dict[str, Any]) -> Html:
    """Return the fund's start, low and end; of several assets the one that moved most often."""
    if not recorder.funds:
        return tile("Insurance fund", by_asset(summary.get("insurance", {})), Html("untouched"))
    asset, fund = max(recorder.funds.items(), key=lambda item: (item[1].steps, item[0]))
    end = try_decimal(summary.get("insurance", {}).get(asset))
    figure = Html(f"{amount(fund.end if end is None else end)} <small>{escape(asset)}</small>")
    note = Html(f"at the end; start {amount(fund.start)}, low {amount(fund.low)}")
    return tile("Insurance fund", figure, note)


def hashes(summary: dict[str, Any]) -> Html:
    """Return the hashes that a second run must reproduce."""
    rows = [
        (name, summary[key])
        for key, name in (("state_hash", "State hash"), ("outputs_hash", "Outputs hash"))
        if key in summary
    ]
    return Html(
        '<dl class="hashes">'
        + "".join(f"<div><dt>{k}</dt><dd><code>{escape(v)}</code></dd></div>" for k, v in rows)
        + "</dl>"
    )


def fund_causes(recorder: RunRecorder) -> Html:
    """Return what moved the fund, by asset and cause, largest first."""
    rows = [
        (
            escape(cause.replace("_", " ")),
            escape(asset),
            exact(totals.count),
            amount(totals.paid_in),
            amount(totals.paid_out),
        )
        for asset, fund in sorted(recorder.funds.items())
        for cause, totals in sorted(fund.causes.items(), key=lambda item: (-moved(item[1]), item[0]))
    ]
    if not rows:
        return Html('<p class="note">Nothing changed the insurance fund.</p>')
    return table("Insurance fund by cause", ("Cause", "Asset", "Steps", "In", "Out"), rows, left=2)


def moved(totals: CauseTotals) -> Decimal:
    """Return what a cause moved, either way."""
    return totals.paid_in - totals.paid_out


def largest(recorder: RunRecorder) -> Html:
    """Return the table of the largest liquidations and the card that explains each."""
    episodes = recorder.episodes.largest()
    if not episodes:
        return Html('<p class="note">No account was liquidated.</p>')
    columns = ("Account", "Time", "Cause", "Outcome", "Stage", "Notional", "Equity at start", "Cost", "Orders")
    body = table("Largest liquidations", columns, [episode_row(e, i) for i, e in enumerate(episodes, 1)], left=5)
    return join((body, cards(episodes)))


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
        amount(ended.get("cost")),
        exact(episode.orders_count),
    )


def cards(episodes: list[Episode]) -> Html:
    """Return the cards with the longest tables that fit into the page."""
    rendered = Html("")
    for rows_max in CARD_ROWS_MAX:
        rendered = join(card(episode, index, rows_max) for index, episode in enumerate(episodes, 1))
        if len(rendered.encode()) <= CARDS_CHARS_MAX:
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
    return join((pairs(rows), rejects(recorder, summary)))


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
    return join((record("", flat, 40), record("measure", nested, 40)) if nested else (record("", flat, 40),))
