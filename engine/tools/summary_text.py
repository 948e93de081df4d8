"""What a replay's summary says to a person at a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def summary_text(summary: dict[str, Any], out: Path | None) -> str:
    """Return the summary as aligned lines, and where the files are."""
    latency = summary["latency"]
    rejected = ", ".join(f"{reason} {count}" for reason, count in summary["rejected"].items()) or "none"
    broken = [asset for asset, sides in summary["conservation"].items() if sides["difference"] != "0"]
    lines = [
        ("messages", f"{summary['messages']:,} ({latency['events_per_s']:,.0f} a second)"),
        ("accepted", f"{summary['accepted']:,}  duplicates {summary['duplicates']:,}  ignored {summary['ignored']:,}"),
        ("rejected", rejected),
        ("liquidations", f"{summary['liquidations']:,}  orders {summary['orders']:,}  fills {summary['fills']:,}"),
        ("closed notional", summary["notional_liquidated"]),
        ("bad debt", amounts(summary["bad_debt"])),
        ("uncovered", amounts(summary["uncovered"])),
        ("insurance fund", amounts(summary["insurance"])),
        ("deleveraged", f"{summary['adl']:,}"),
        ("money conserved", f"NO: {', '.join(broken)}" if broken else "yes, to the last unit, in every asset"),
        ("state hash", summary["state_hash"]),
        ("outputs hash", summary["outputs_hash"]),
    ]
    if out is not None:
        lines.append(("report", str(out / "report.html")))
    return "\n".join(f"{name:<16} {value}" for name, value in lines)


def amounts(by_asset: dict[str, str]) -> str:
    """Return amounts per asset on one line."""
    return ", ".join(f"{amount} {asset}" for asset, amount in by_asset.items()) or "none"
