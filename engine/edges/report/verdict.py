"""The strip that answers first: is the money all there, is anybody forgotten, who lost, and what did it come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.edges.report.markup import Html, amount, escape, exact, join, rounded, try_decimal
from engine.edges.report.series import FundSeries

if TYPE_CHECKING:
    from engine.edges.report.recorder import RunRecorder

SIGNS = {"good": "✓", "bad": "✕", "": "?"}
NAMES_MAX = 8


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
        f'<section id="verdict" aria-labelledby="verdict-title">{conservation(summary)}{checks(recorder, summary)}'
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
    return Html(
        f'<div class="seal {tone}"><span class="mark" aria-hidden="true">{SIGNS[tone]}</span>'
        f'<div><h2 id="verdict-title">{title}</h2><p>{detail}</p></div></div>'
    )


def checks(recorder: RunRecorder, summary: dict[str, Any]) -> Html:
    """Return the other questions that have a yes or no, each in colour and in words."""
    found = (everyone_explained(recorder), losses(summary), fund_change(recorder, summary))
    return Html('<ul class="checks">' + "".join(check_item(*one) for one in found) + "</ul>")


def check_item(tone: str, title: str, detail: str) -> Html:
    """Return one answer; the sign says the same as the colour."""
    return Html(
        f'<li class="check {tone}"><span class="mark" aria-hidden="true">{SIGNS[tone]}</span>'
        f"<p><strong>{escape(title)}</strong> <span>{escape(detail)}</span></p></li>"
    )


def everyone_explained(recorder: RunRecorder) -> tuple[str, str, str]:
    """Return whether each account liquidatable at the end is in liquidation or held for a stated reason."""
    explained = recorder.explained
    if explained is None:
        return "", "Who was left at the end was not looked at", "No book was there to look at."
    if explained.unexplained:
        names = ", ".join(explained.unexplained[:NAMES_MAX])
        return "bad", "Somebody was forgotten", f"Liquidatable, in no liquidation and not held: {names}"
    if not explained.liquidatable:
        return "good", "Everyone is explained", "Nobody is liquidatable at the end."
    parts = f"{explained.in_episode:,} in liquidation, {explained.held:,} held for a stated reason"
    return "good", "Everyone is explained", f"Of {explained.liquidatable:,} liquidatable at the end: {parts}."


def losses(summary: dict[str, Any]) -> tuple[str, str, str]:
    """Return whether any account lost more than it had, and whether somebody paid for it."""
    if any_above_zero(summary.get("uncovered", {})):
        return "bad", "Losses are uncovered", f"Paid by nobody: {in_words(summary['uncovered'])}."
    if any_above_zero(summary.get("bad_debt", {})):
        return "bad", "Bad debt, all of it paid", f"Beyond the accounts’ equity: {in_words(summary['bad_debt'])}."
    return "good", "No bad debt", "No account lost more than it had."


def fund_change(recorder: RunRecorder, summary: dict[str, Any]) -> tuple[str, str, str]:
    """Return whether the wallet of the fund that moved most often ended above where it began."""
    if not recorder.funds:
        return "good", "The fund is untouched", in_words(summary.get("insurance", {})) or "It holds nothing."
    asset, fund = main_fund(recorder)
    change = fund.end - fund.start
    words = f"by {rounded(abs(change))} {asset}, from {rounded(fund.start)}{worth_in_words(recorder)}."
    if change < 0:
        return "bad", "The fund paid", f"Its wallet fell {words}"
    if recorder.explained is not None and recorder.explained.fund_worth < 0:
        return "bad", "The fund is under water", f"Its wallet grew {words}"
    return "good", "The fund held", f"Its wallet grew {words}"


def worth_in_words(recorder: RunRecorder) -> str:
    """Return what the fund is worth with the positions it took over, as the end of a sentence, or nothing."""
    if recorder.explained is None:
        return ""
    worth = rounded(recorder.explained.fund_worth)
    return f"; with the positions it took over it is worth {worth} {recorder.currency} at the last marks"


def in_words(amounts: dict[str, Any]) -> str:
    """Return amounts that are not zero as text."""
    shown = [(asset, try_decimal(value)) for asset, value in amounts.items()]
    return ", ".join(f"{rounded(value)} {asset}" for asset, value in shown if value)


def main_fund(recorder: RunRecorder) -> tuple[str, FundSeries]:
    """Return the fund's wallet that moved most often."""
    return max(recorder.funds.items(), key=lambda item: (item[1].steps, item[0]))


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
    asset, fund = main_fund(recorder)
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
