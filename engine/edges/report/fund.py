"""What moved the insurance fund: from its first balance to its last, cause by cause, and the steps that moved most."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from engine.edges.report.markup import Html, amount, escape, exact, grouped, join, rounded, table, timestamp
from engine.edges.report.series import CauseTotals, FundSeries

if TYPE_CHECKING:
    from engine.edges.report.recorder import RunRecorder

# A bar is drawn in units of its own box, which the page stretches to the width there is.
BAR_WIDTH = 600


def waterfalls(recorder: RunRecorder) -> Html:
    """Return a waterfall of each wallet that moved."""
    return join(waterfall(asset, fund) for asset, fund in sorted(recorder.funds.items()))


def waterfall(asset: str, fund: FundSeries) -> Html:
    """Return one wallet's way from start to end: a bar for each cause, beginning where the last one ended."""
    steps = [(cause.replace("_", " "), totals.paid_in + totals.paid_out) for cause, totals in ranked(fund)]
    levels = [fund.start]
    for _, change in steps:
        levels.append(levels[-1] + change)
    # A bar from zero would hide every change of a large fund: the scale begins a little below the lowest level.
    low, high = min(levels), max(levels)
    low, high = low - (high - low) / 8, high if high > low else high + 1
    rows = [step("Start", low, fund.start, fund.start, "plain", low, high)]
    for index, (cause, change) in enumerate(steps):
        tone = "good" if change >= 0 else "bad"
        rows.append(step(cause, levels[index], levels[index + 1], change, tone, low, high))
    rows.append(step("End", low, fund.end, fund.end, "plain", low, high))
    words = f"Insurance fund in {asset} from {grouped(fund.start)} to {grouped(fund.end)}, by cause"
    return Html(
        f'<figure class="waterfall" aria-label="{escape(words)}">'
        f"<figcaption>{escape(asset)}, by cause</figcaption>{join(rows)}</figure>"
    )


def step(name: str, begin: Decimal, end: Decimal, shown: Decimal, tone: str, low: Decimal, high: Decimal) -> Html:
    """Return one row of a waterfall: its name, a bar between two levels, and its figure."""
    left, right = sorted((begin, end))
    scale = BAR_WIDTH / (high - low)
    x, width = (left - low) * scale, max((right - left) * scale, Decimal(1))
    sign = "+" if tone == "good" else ""
    return Html(
        f'<div class="step"><span>{escape(name)}</span>'
        f'<svg viewBox="0 0 {BAR_WIDTH} 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="{tone}" x="{x:.1f}" y="0" width="{width:.1f}" height="1"/></svg>'
        f'<span class="n">{sign}{rounded(shown)}</span></div>'
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
        for cause, totals in ranked(fund)
    ]
    if not rows:
        return Html('<p class="note">Nothing changed the insurance fund.</p>')
    return table("Insurance fund by cause", ("Cause", "Asset", "Steps", "In", "Out"), rows, left=2)


def largest_steps(recorder: RunRecorder) -> Html:
    """Return the single steps that moved most, with who and why."""
    rows = [
        (
            timestamp(step["ts"]),
            escape(str(step["cause"]).replace("_", " ")),
            escape(step.get("liquidation_id", step.get("account", "–"))),
            escape(asset),
            amount(step["change"]),
            amount(step["balance"]),
        )
        for asset, fund in sorted(recorder.funds.items())
        for step in fund.largest
    ]
    if not rows:
        return Html("")
    columns = ("Time", "Cause", "Liquidation", "Asset", "Change", "Balance after")
    return table("Largest steps of the fund", columns, rows, left=4, show_caption=True)


def ranked(fund: FundSeries) -> list[tuple[str, CauseTotals]]:
    """Return a wallet's causes, those that moved most first."""
    return sorted(fund.causes.items(), key=lambda item: (-moved(item[1]), item[0]))


def moved(totals: CauseTotals) -> Decimal:
    """Return what a cause moved, either way."""
    return totals.paid_in - totals.paid_out
