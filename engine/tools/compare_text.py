"""What a comparison of two runs says to a person at a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

COSTS_SHOWN_MAX = 20
NAMES_SHOWN_MAX = 12
PARAMETERS_SHOWN_MAX = 20
VALUE_CHARS_MAX = 28


def compare_text(document: dict[str, Any]) -> str:
    """Return the comparison as aligned lines."""
    lines = [f"A  {document['a']}", f"B  {document['b']}", ""]
    lines += parameter_lines(document["parameters"])
    lines += ["", *figure_lines(document["figures"]), "", *first_lines(document)]
    lines += ["", *account_lines(document), "", *cost_lines(document["costs"])]
    return "\n".join(lines)


def parameter_lines(parameters: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the parameters that differ."""
    if not parameters:
        yield "parameters: the same"
        return
    yield f"parameters that differ: {len(parameters)}"
    for row in parameters[:PARAMETERS_SHOWN_MAX]:
        yield f"  {row['name']:<34} {cut(row['a'])} -> {cut(row['b'])}"
    if len(parameters) > PARAMETERS_SHOWN_MAX:
        yield f"  and {len(parameters) - PARAMETERS_SHOWN_MAX:,} more"


def figure_lines(figures: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the figures side by side."""
    yield f"{'':<24} {'A':>26} {'B':>26} {'B - A':>26}"
    for row in figures:
        if row["difference"] is None:
            same = "the same" if row["a"] == row["b"] else "differs"
            yield f"{row['name']:<24} {row['a'][:16]:>26} {row['b'][:16]:>26} {same:>26}"
        else:
            yield f"{row['name']:<24} {row['a']:>26} {row['b']:>26} {row['difference']:>26}"


def first_lines(document: dict[str, Any]) -> Iterator[str]:
    """Yield the first output that differs, and in what."""
    first = document["first_difference"]
    if first is None:
        yield "outputs: the same" + (
            ", to the last byte" if document["same"] else " but for the policy and file they name"
        )
        return
    yield "first output that differs"
    for name in ("a", "b"):
        place = first[name]
        if place is None:
            yield f"  {name.upper()}  has no more"
        else:
            what = f"{place['type']} {place.get('liquidation_id', place.get('account', ''))}".rstrip()
            yield f"  {name.upper()}  {place['file']}:{place['line']} seq {place['seq']} at {place['ts']}: {what}"
    for row in first["fields"]:
        yield f"     {row['field']}: {cut(row['a'])} | {cut(row['b'])}"


def account_lines(document: dict[str, Any]) -> Iterator[str]:
    """Yield who was liquidated in one run only."""
    for key, name in (("only_in_a", "A"), ("only_in_b", "B")):
        accounts = document[key]
        shown = ", ".join(accounts[:NAMES_SHOWN_MAX])
        more = f" and {len(accounts) - NAMES_SHOWN_MAX:,} more" if len(accounts) > NAMES_SHOWN_MAX else ""
        yield f"liquidated in {name} only: {len(accounts):,}{': ' if accounts else ''}{shown}{more}"


def cost_lines(costs: dict[str, Any]) -> Iterator[str]:
    """Yield what it cost, in all and for the accounts where it differs most."""
    yield f"cost to accounts: {costs['total_a']} in A, {costs['total_b']} in B, difference {costs['difference']}"
    yield (
        f"  {costs['accounts_both']:,} accounts liquidated in both; cheaper in A for {costs['cheaper_in_a']:,}, "
        f"in B for {costs['cheaper_in_b']:,}"
    )
    for row in costs["accounts"][:COSTS_SHOWN_MAX]:
        yield f"  {row['account']:<24} {row['a']:>22} {row['b']:>22} {row['difference']:>22}"
    if len(costs["accounts"]) > COSTS_SHOWN_MAX:
        yield f"  and {len(costs['accounts']) - COSTS_SHOWN_MAX:,} more"


def cut(value: object) -> str:
    """Return a value as text of one line."""
    text = "none" if value is None else str(value)
    return text if len(text) <= VALUE_CHARS_MAX else text[: VALUE_CHARS_MAX - 1] + "…"
