"""What moved the insurance fund: from its first balance to its last, cause by cause, and the steps that moved most."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from engine.edges.report.markup import Html, amount, escape, exact, grouped, join, table, timestamp
from engine.edges.report.series import CauseTotals, FundSeries

if TYPE_CHECKING:
    from engine.edges.report.recorder import RunRecorder

# Drawn in units of its own box, which the page scales to its width.
ROW_HEIGHT, LABEL_WIDTH, BAR_WIDTH, VALUE_WIDTH = 28, 170, 430, 150


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
    rows = [bar("Start", low, fund.start, fund.start, "plain", low, high, 0)]
    for index, (cause, change) in enumerate(steps):
        tone = "good" if change >= 0 else "bad"
        rows.append(bar(cause, levels[index], levels[index + 1], change, tone, low, high, index + 1))
    rows.append(bar("End", low, fund.end, fund.end, "plain", low, high, len(steps) + 1))
    width, height = LABEL_WIDTH + BAR_WIDTH + VALUE_WIDTH, ROW_HEIGHT * len(rows)
    words = f"Insurance fund in {asset} from {grouped(fund.start)} to {grouped(fund.end)}, by cause"
    return Html(
        f'<figure class="waterfall" tabindex="0" aria-label="{escape(words)}">'
        f"<figcaption>{escape(asset)}, by cause</figcaption>"
        f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{join(rows)}</svg></figure>'
    )


def bar(
    name: str, begin: Decimal, end: Decimal, shown: Decimal, tone: str, low: Decimal, high: Decimal, index: int
) -> Html:
    """Return one row of a waterfall: its name, a bar between two levels, and its figure."""
    left, right = sorted((begin, end))
    scale = BAR_WIDTH / (high - low)
    x, width = LABEL_WIDTH + (left - low) * scale, max((right - left) * scale, Decimal(1))
    y, middle = index * ROW_HEIGHT + 5, index * ROW_HEIGHT + 19
    sign = "+" if tone == "good" else ""
    return Html(
        f'<text x="0" y="{middle}">{escape(name)}</text>'
        f'<rect class="{tone}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW_HEIGHT - 10}"/>'
        f'<text class="n" x="{LABEL_WIDTH + BAR_WIDTH + VALUE_WIDTH}" y="{middle}">'
        f"{sign}{grouped(round(shown, 2))}</text>"
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
