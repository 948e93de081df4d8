"""How a value becomes safe, readable HTML.

``Html`` is text that may go into the page as it is. The only ways to it are ``escape`` and the builders of this
package, and the builders take ``Html``: the type checker refuses an account name that nobody escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NewType

from engine.units import NS_PER_MS, NS_PER_S, try_number

Html = NewType("Html", str)

DASH = Html("–")
# Columns of a record that hold words; they come first and align left.
TEXT_KEYS = (
    "alternatives",
    "symbol",
    "asset",
    "account",
    "leg",
    "side",
    "stage",
    "rule",
    "counterparty",
    "for_asset",
    "marks",
    "measure",
)
# Keys whose digits are a name or a place, not a quantity: no groups of three.
NAME_ENDINGS = ("id", "hash", "offset", "line", "partition", "version")
LABELS = {"ts": "time", "marks": "symbol", "qty": "quantity"}
# No honest name or figure is longer; what is cut keeps a hostile detail text from filling the page.
TEXT_CHARS_MAX = 200


def escape(value: object) -> Html:
    """Return ``value`` as text for element content or a quoted attribute, cut to 200 characters."""
    text = str(value)
    if len(text) > TEXT_CHARS_MAX:
        text = text[: TEXT_CHARS_MAX - 1] + "…"
    return Html(html.escape(text))


def join(parts: Iterable[Html], separator: str = "") -> Html:
    """Return the parts one after the other."""
    return Html(separator.join(parts))


def try_decimal(value: object) -> Decimal | None:
    """Return a number of an output or summary (decimal string, int or float) as a Decimal, or None."""
    if isinstance(value, str):
        return Decimal(value) if try_number(value) is not None else None
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        number = Decimal(str(value))
        return number if number.is_finite() else None
    return None


def grouped(number: Decimal) -> str:
    """Return a number exactly, in groups of three digits, with a minus sign of the width of a plus."""
    text = f"{number:,f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", "−") if text != "-0" else "0"


def rounded(number: Decimal) -> str:
    """Return a number with the digits a reader uses: two decimals from 1 up, four significant digits below."""
    if number == 0:
        return "0"
    if abs(number) < 1:
        return grouped(round(number, 3 - number.adjusted()))
    return f"{number:,.2f}".replace("-", "−")


def amount(value: object) -> Html:
    """Return an amount of money, rounded to be read; where that hides digits the exact figure is its tooltip."""
    number = try_decimal(value)
    if number is None:
        return DASH
    shown, exact_text = rounded(number), grouped(number)
    if number == round(number, 2):
        return Html(shown)
    return Html(f'<span title="{exact_text}">{shown}</span>')


def exact(value: object) -> Html:
    """Return a price, size or count with all its digits."""
    number = try_decimal(value)
    return DASH if number is None else Html(grouped(number))


def percent(value: object) -> Html:
    """Return a rate such as 0.004 as 0.4%."""
    number = try_decimal(value)
    return DASH if number is None else Html(f"{grouped(round(number * 100, 4))}%")


def timestamp(ts: object) -> Html:
    """Return a time in nanoseconds as UTC to the millisecond, marked up as a time."""
    if not isinstance(ts, int) or ts <= 0:
        return DASH
    seconds, rest_ns = divmod(ts, NS_PER_S)
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError):
        # A ts far outside the calendar is a valid int64; show what it says.
        return Html(f"{ts} ns")
    fraction = f".{rest_ns // NS_PER_MS:03d}" if rest_ns >= NS_PER_MS else ""
    text = f"{moment:%Y-%m-%d %H:%M:%S}{fraction}"
    return Html(f'<time datetime="{text.replace(" ", "T")}Z">{text}</time>')


def duration(span_ns: int) -> Html:
    """Return a span of time to the second, or to the millisecond under a minute."""
    if span_ns < 60 * NS_PER_S:
        return Html(f"{span_ns / NS_PER_S:.3f} s")
    return Html(str(timedelta(seconds=span_ns // NS_PER_S)))


def label(key: str) -> str:
    """Return a field name as words, not yet escaped: ``maintenance_margin`` becomes ``Maintenance margin``."""
    words = LABELS.get(key, key).replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[Html]], *, left: int = 1, show_caption: bool = False
) -> Html:
    """Return a table in a frame that scrolls sideways; the first ``left`` columns hold text, the others numbers."""

    def align(index: int) -> str:
        return "" if index < left else ' class="n"'

    head = "".join(f'<th scope="col"{align(index)}>{escape(name)}</th>' for index, name in enumerate(columns))
    body = "".join(
        "<tr>" + "".join(f"<td{align(index)}>{cell}</td>" for index, cell in enumerate(row)) + "</tr>" for row in rows
    )
    hidden = "" if show_caption else ' class="sr"'
    return Html(
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0"><table>'
        f"<caption{hidden}>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def pairs(rows: Iterable[tuple[Html, Html]]) -> Html:
    """Return names and their values as a description list."""
    return Html('<dl class="pairs">' + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in rows) + "</dl>")


def scalar(key: str, value: Any) -> Html:
    """Return one value of a record, formatted by what its key says it is."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return Html("yes" if value else "no")
    if key == "ts" or key.endswith("_ts"):
        return timestamp(value)
    if try_decimal(value) is not None and not key.endswith(NAME_ENDINGS):
        return exact(value)
    return escape(value)


def is_scalar(value: Any) -> bool:
    """Return whether a JSON value is neither an object nor an array."""
    return not isinstance(value, dict | list | tuple)


def record(key: str, value: Any, rows_max: int) -> Html:
    """Return any JSON value: objects as pairs, lists of objects as tables, all else as text.

    Lists show their first ``rows_max`` rows and say how many were left out.
    """
    if is_scalar(value):
        return scalar(key, value)
    if isinstance(value, dict):
        if value and all(isinstance(item, dict) for item in value.values()):
            return record(key, [{key: name, **item} for name, item in value.items()], rows_max)
        shown = list(value.items())[: max(rows_max, 1)]
        return join((pairs((escape(label(k)), inline(k, v)) for k, v in shown), left_out(len(value) - len(shown))))
    if value and all(isinstance(item, dict) for item in value):
        return record_table(key, list(value), rows_max)
    shown_items = value[: max(rows_max, 1)]
    return join((join((inline(key, item) for item in shown_items), ", "), left_out(len(value) - len(shown_items))))


def record_table(key: str, rows: list[dict[str, Any]], rows_max: int) -> Html:
    """Return a list of objects as a table with a column for each key that occurs in the rows shown."""
    shown = rows[:rows_max]
    columns = list(dict.fromkeys(column for row in shown for column in row))
    columns.sort(key=lambda column: column not in TEXT_KEYS)
    left = sum(column in TEXT_KEYS for column in columns)
    cells = [[inline(column, row.get(column)) for column in columns] for row in shown]
    body = table(label(key), [label(column) for column in columns], cells, left=left) if shown else Html("")
    return join((body, left_out(len(rows) - len(shown))))


def inline(key: str, value: Any) -> Html:
    """Return a value for a table cell: nested objects become ``name value`` lists."""
    if isinstance(value, dict):
        return join((Html(f"{escape(name)} {inline(name, item)}") for name, item in list(value.items())[:8]), " · ")
    if isinstance(value, list | tuple):
        return join((row_of(key, item) if isinstance(item, list) else inline(key, item) for item in value[:8]), ", ")
    return scalar(key, value)


def row_of(key: str, row: list[Any]) -> Html:
    """Return one row of a table within a cell: of ``[[0, 0.95], [20000000, 0.8]]`` each pair as ``0 → 0.95``."""
    return join((inline(key, item) for item in row[:8]), " → ")


def left_out(count: int) -> Html:
    """Return the line that says how many rows a table does not show, or nothing."""
    return Html(f'<p class="note">{count:,} more not shown.</p>') if count > 0 else Html("")
