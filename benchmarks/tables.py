"""How the benchmarks print: aligned columns for a terminal, or the same rows as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows (a header, if there is one, is the first): the first column left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("    " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under a header as Markdown, numbers to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def money(units: int) -> str:
    """Return units of 1e-8 as an amount with its thousands set apart, to the cent."""
    return f"{units / 10**8:,.2f}"


def share(part: float, whole: float) -> str:
    """Return part / whole in per cent, or a dash where there is no whole."""
    return f"{100 * part / whole:.2f} %" if whole else "-"


def times(value: float, base: float) -> str:
    """Return how many times ``base`` a value is, or a dash where there is no base."""
    return f"{value / base:.3f}" if base else "-"
