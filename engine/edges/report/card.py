"""Why one account was liquidated, and by how much: its decision record, with the formulas filled in.

A card shows what the record holds and invents nothing: a formula appears where all its numbers are in the record,
and a key this module does not know is shown as it is.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from engine.edges.report.episodes import Body, Details, Episode
from engine.edges.report.markup import (
    Html,
    amount,
    escape,
    grouped,
    join,
    label,
    left_out,
    pairs,
    percent,
    record,
    timestamp,
    try_decimal,
)

# Shown in sections of their own; all other keys of a decision follow under "Also in the record".
HEADLINE_KEYS = ("equity", "maintenance_margin")
MARGIN_KEYS = ("notional", "tier_rate", "deduction", "maintenance_margin")
SECTION_TITLES = {
    "positions": "Positions when it was decided",
    "marks": "Marks used",
    "asset_prices": "Asset prices used",
    "collateral": "Collateral",
    "plan": "Plan",
    "costs": "Costs",
    "target": "Target",
    "certificate": "Certificate",
    "policy": "Policy",
    "instruments": "Contracts",
}
FOLLOW_UP_TITLES = {
    "takeover": "Takeover by the insurance fund",
    "bad_debt": "Bad debt",
    "adl_wave": "Auto-deleveraging",
    "adl_remaining": "Waiting for a counterparty",
}
ENVELOPE_KEYS = ("type", "seq", "shard", "output_id", "account", "liquidation_id", "bucket")


def card(episode: Episode, index: int, rows_max: int) -> Html:
    """Return the dialog that explains an episode; ``rows_max`` bounds each of its tables."""
    details = episode.details or Details()
    decision = details.decision or {}
    parts = (
        heading(episode, index),
        Html('<div class="card-body">'),
        formulas(episode, decision),
        decision_sections(decision, rows_max),
        orders_section(details.orders, episode.orders_count, rows_max),
        follow_up_sections(details.follow_ups, rows_max),
        Html("</div>"),
    )
    return Html(f'<dialog id="card-{index}" aria-labelledby="card-{index}-title">{join(parts)}</dialog>')


def heading(episode: Episode, index: int) -> Html:
    """Return who, when and how it ended, with the button that closes the card."""
    bucket = f' <span class="tag">{escape(episode.bucket)} isolated</span>' if episode.bucket else ""
    return Html(
        f'<header class="card-head"><div><p class="eyebrow">Liquidation {escape(episode.liquidation_id)}</p>'
        f'<h3 id="card-{index}-title">{escape(episode.account)}{bucket}</h3>'
        f"<p>{timestamp(episode.ts)} UTC · {outcome(episode)}</p></div>"
        '<form method="dialog"><button class="close" aria-label="Close" autofocus>×</button></form></header>'
    )


def outcome(episode: Episode) -> Html:
    """Return how the episode ended as a tag."""
    if episode.ended is None:
        return Html('<span class="tag">open at the end</span>')
    word = str(episode.ended.get("outcome", "ended"))
    tone = {"healthy": "good", "closed": "", "taken_over": "bad", "deleveraged": "bad"}.get(word, "")
    return Html(f'<span class="tag {tone}">{escape(word.replace("_", " "))}</span>')


def formulas(episode: Episode, decision: Body) -> Html:
    """Return the test that failed and the amount to be freed, with the account's numbers in them."""
    source = decision or episode.started or {}
    equity, margin = try_decimal(source.get("equity")), try_decimal(source.get("maintenance_margin"))
    if equity is None or margin is None:
        return Html('<p class="note">No decision was kept for this liquidation.</p>')
    lines = [trigger_line(equity, margin)]
    target = decision.get("target")
    buffer = try_decimal(target.get("buffer")) if isinstance(target, dict) else None
    if buffer is not None:
        lines.append(needed_line(equity, margin, buffer))
    figures = [
        (Html("Equity"), amount(equity)),
        (Html("Maintenance margin"), amount(margin)),
        (Html("Margin ratio"), percent(margin / equity if equity > 0 else None)),
        (Html("Cause"), escape(episode.cause or "–")),
    ]
    ended = episode.ended or {}
    figures += [
        (escape(label(key)), amount(ended[key])) for key in ("closed_notional", "cost", "not_needed") if key in ended
    ]
    return Html(f'{pairs(figures)}<section class="formulas"><h4>Why</h4>{join(lines)}</section>')


def trigger_line(equity: Decimal, margin: Decimal) -> Html:
    """Return E against MM: the comparison that makes an account liquidatable."""
    sign = "<" if equity < margin else "=" if equity == margin else ">"
    verdict = "liquidatable" if equity <= margin else "not liquidatable on these numbers"
    return Html(
        f'<p class="formula"><var>E</var> {amount(equity)} <b>{escape(sign)}</b> <var>MM</var> {amount(margin)}'
        f" <span>→ {verdict}</span></p>"
    )


def needed_line(equity: Decimal, margin: Decimal, buffer: Decimal) -> Html:
    """Return D = (1 + b) · MM − E: what the plan has to free."""
    needed = (1 + buffer) * margin - equity
    return Html(
        f'<p class="formula"><var>D</var> = (1 + {grouped(buffer)}) · {amount(margin)} − {signed(equity)}'
        f" = <b>{amount(needed)}</b> <span>to be freed</span></p>"
    )


def signed(number: Decimal) -> Html:
    """Return a number as a term of a sum, in brackets if it is negative."""
    return Html(f"({amount(number)})") if number < 0 else amount(number)


def decision_sections(decision: Body, rows_max: int) -> Html:
    """Return each part of the decision record under its own heading."""
    parts = []
    for key, title in SECTION_TITLES.items():
        value = decision.get(key)
        if value:
            body = positions_body(value, rows_max) if key == "positions" else record(key, value, rows_max)
            parts.append(section(title, body))
    rest = {key: value for key, value in decision.items() if key not in HEADLINE_KEYS and key not in SECTION_TITLES}
    if rest:
        parts.append(section("Also in the record", rest_pairs(rest, rows_max)))
    return join(parts)


def rest_pairs(rest: Body, rows_max: int) -> Html:
    """Return keys without a section of their own: long lists as tables, the others as pairs."""
    tables = {
        key: value for key, value in rest.items() if isinstance(value, list) and value and isinstance(value[0], dict)
    }
    flat = {key: value for key, value in rest.items() if key not in tables}
    parts = [record("", flat, max(rows_max, 12))] if flat else []
    parts += [record(key, value, rows_max) for key, value in tables.items()]
    return join(parts)


def positions_body(positions: Any, rows_max: int) -> Html:
    """Return the positions, and below them each one's maintenance margin as a worked formula."""
    if not isinstance(positions, list):
        return record("positions", positions, rows_max)
    rows, lines = [], []
    for position in positions:
        line = try_margin_line(position) if isinstance(position, dict) else None
        rows.append(position if line is None else {key: position[key] for key in position if key not in MARGIN_KEYS})
        lines.append(Html("") if line is None else line)
    return join((record("positions", rows, rows_max), *lines[:rows_max]))


def try_margin_line(position: Body) -> Html | None:
    """Return ``MM = notional × rate − deduction`` of one position, None if the record lacks a figure."""
    notional, rate, deduction, margin = (try_decimal(position.get(key)) for key in MARGIN_KEYS)
    if notional is None or rate is None or deduction is None or margin is None:
        return None
    return Html(
        f'<p class="formula"><var>MM</var> of {escape(position.get("symbol", "?"))} = {amount(notional)} × '
        f"{grouped(rate)} − {amount(deduction)} = <b>{amount(margin)}</b></p>"
    )


def orders_section(orders: list[Body], count: int, rows_max: int) -> Html:
    """Return the orders and sales sent, in order; of a long episode the first ones."""
    if not orders:
        return Html("")
    rows = [{"at": timestamp_text(order["ts"]), **strip(order)} for order in orders]
    note = Html(
        '<p class="note">The limit is the bankruptcy price, drawn in to the mark by the limit band and rounded '
        "inward to the tick; a limit at the bankruptcy price costs the fund nothing.</p>"
    )
    hidden_count = count - len(orders)
    return section("Orders sent", join((note, record("orders", rows, rows_max), left_out(hidden_count))))


def follow_up_sections(follow_ups: list[Body], rows_max: int) -> Html:
    """Return what came after the orders: takeover, bad debt, deleveraging."""
    parts = []
    for body in follow_ups:
        title = FOLLOW_UP_TITLES.get(str(body.get("type")), "Then")
        tables = {key: value for key, value in body.items() if isinstance(value, list | dict)}
        flat = {key: value for key, value in strip(body).items() if key not in tables}
        shown = [record("", flat, 12)] + [record(key, value, rows_max) for key, value in tables.items()]
        parts.append(section(title, join(shown)))
    return join(parts)


def strip(body: Body) -> Body:
    """Return a message without what the card's head already says."""
    dropped = (*ENVELOPE_KEYS, "ts", "time_in_force", "reduce_only")
    return {key: value for key, value in body.items() if key not in dropped}


def timestamp_text(ts: object) -> str:
    """Return the time of day of ``ts``; the card's head has the date."""
    return timestamp(ts).split(" ")[-1].removesuffix("</time>")


def section(title: str, body: Html) -> Html:
    """Return a titled part of the card."""
    return Html(f"<section><h4>{escape(title)}</h4>{body}</section>")
