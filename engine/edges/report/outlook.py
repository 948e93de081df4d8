"""What might have been: what a further fall would liquidate, and what other policies would have done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from engine.edges.report.exposure import BAND_ENDS_PERCENT, FALLS_SHOWN_PPM
from engine.edges.report.markup import Html, amount, escape, exact, join, table, timestamp
from engine.edges.report.verdict import by_asset
from engine.units import PPM

if TYPE_CHECKING:
    from engine.edges.report.recorder import RunRecorder

SAMPLES_SHOWN = 6
Shown = TypeVar("Shown")
POLICIES_NOTE = (
    '<p class="note">Everything else is the same: trigger, target, limits, waterfall. All at once and a fixed part are '
    "policies of the engine. Largest first closes the largest position, whole, before it touches the next; pro rata "
    "closes the least equal part of each that reaches the target; both sell collateral only where no position is left. "
    "What is promised is the cheapest plan at each moment; over a whole run another way may come out cheaper, since an "
    "account kept a little larger meets other prices. A policy that the log itself sets applies to all.</p>"
)


def band_names() -> list[str]:
    """Return the bands of margin ratio in words, the safest first."""
    edges = [0, *BAND_ENDS_PERCENT]
    inner = [f"{low}–{high} %" for low, high in zip(edges, BAND_ENDS_PERCENT, strict=False)]
    return [*inner, "liquidatable"]


def falls(recorder: RunRecorder) -> Html:
    """Return what falls would liquidate, at the end and at times spread over the run."""
    if not recorder.samples:
        return Html('<p class="note">No book was there to look at.</p>')
    rows = [
        (
            timestamp(sample.ts),
            Html(f"−{fall.fall_ppm * 100 // PPM} %"),
            exact(fall.accounts),
            amount(fall.notional),
            amount(fall.deficit),
        )
        for sample in spread(recorder.samples)
        for fall in sample.falls
        if fall.fall_ppm in FALLS_SHOWN_PPM
    ]
    columns = ("At", "All marks", "Accounts", "Notional", "Losses beyond equity")
    return table("What a further fall would liquidate", columns, rows, left=2)


def spread(samples: Sequence[Shown]) -> list[Shown]:
    """Return the last sample and some before it, evenly spread, the last first."""
    count = min(SAMPLES_SHOWN, len(samples))
    indexes = sorted({round(k * (len(samples) - 1) / max(count - 1, 1)) for k in range(count)}, reverse=True)
    return [samples[index] for index in indexes]


def other_policies(alternatives: list[dict[str, Any]]) -> Html:
    """Return the run beside the same log under other policies, or how to get it."""
    if not alternatives:
        return Html(
            '<p class="note">Not asked for: <code>replay --alternatives</code> runs the log once more for each of '
            "them.</p>"
        )
    rows = [
        (
            join(
                (escape(row["policy"]), Html(' <span class="tag">this run</span>') if row["is_this_run"] else Html(""))
            ),
            exact(row["accounts"]),
            exact(row["liquidations"]),
            exact(row["orders"]),
            amount(row["notional_liquidated"]),
            amount(row["cost"]),
            by_asset(row["bad_debt"]),
            by_asset(row["uncovered"]),
            by_asset(row["insurance"]),
            exact(row["adl"]),
        )
        for row in alternatives
    ]
    columns = (
        *("Policy", "Accounts", "Liquidations", "Orders", "Notional closed", "Cost to accounts"),
        *("Bad debt", "Uncovered", "Fund at the end", "Deleveraged"),
    )
    return join((table("The same log under other policies", columns, rows), Html(POLICIES_NOTE)))
