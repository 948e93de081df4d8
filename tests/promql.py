"""Which series a PromQL expression asks for, and by which labels it groups.

As much of the language as rules and boards use. Whether an expression is PromQL at all is promtool's to say: this finds
the names in one that is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

KEYWORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "bool", "offset", "group_left", "group_right"}
CLAUSE = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
WINDOW = re.compile(r"\[[^]]*\]")
# A name that is not called as a function.
SELECTOR = re.compile(r"(?<![\w:.])([A-Za-z_:][\w:]*)\s*(\{[^}]*\})?(?!\s*\()(?![\w:])")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')

Series = dict[str, str]


@dataclass(frozen=True)
class Selector:
    """A metric's name with its matchers: (label, operator, value)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]

    def finds(self, series: Series) -> bool:
        """Return whether a series of the metric is among those asked for."""
        return all(is_matched(series.get(label, ""), operator, value) for label, operator, value in self.matchers)


def is_matched(found: str, operator: str, value: str) -> bool:
    """Return whether a label's value passes one matcher."""
    equal = re.fullmatch(value, found) is not None if "~" in operator else found == value
    return equal is not operator.startswith("!")


def selectors_of(expression: str) -> list[Selector]:
    """Return every selector of an expression."""
    text = WINDOW.sub(" ", CLAUSE.sub(" ", expression))
    found = []
    for name, braces in SELECTOR.findall(text):
        if name not in KEYWORDS:
            found.append(Selector(name, tuple(MATCHER.findall(braces))))
    return found


def grouping_of(expression: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return the label lists of an expression, each with its keyword."""
    return [
        (keyword, tuple(label.strip() for label in labels.split(",") if label.strip()))
        for keyword, labels in CLAUSE.findall(expression)
    ]


def complaints(expression: str, known: Mapping[str, list[Series]], absent: frozenset[str] = frozenset()) -> list[str]:
    """Return what an expression asks for that is not there, or that nothing could ever give.

    known   the series of each metric, with the labels that scraping adds
    absent  labels that ``without`` may name although no series here has them (another way to scrape adds them)
    """
    found, labels = [], set(absent)
    for selector in selectors_of(expression):
        series = known.get(selector.metric)
        if series is None:
            found.append(f"no metric {selector.metric}")
            continue
        own = {label for one in series for label in one}
        labels |= own
        found += [f"{selector.metric} has no label {label}" for label, *_ in selector.matchers if label not in own]
        found += [f"{selector.metric}: nothing is {label}={value}" for label, value in unmet(selector, series)]
        if not any(selector.finds(one) for one in series):
            found.append(f"nothing matches {selector}")
    for keyword, names in grouping_of(expression):
        allowed = labels if keyword == "without" else labels - absent
        found += [f"{keyword}: no label {name}" for name in names if name not in allowed]
    return found


def unmet(selector: Selector, series: list[Series]) -> list[tuple[str, str]]:
    """Return the values that a selector names, alternative by alternative, and that no series has."""
    named = [
        (label, part)
        for label, operator, value in selector.matchers
        for part in (value.strip("()").split("|") if "~" in operator else [value])
    ]
    return [(label, part) for label, part in named if not any(re.fullmatch(part, one.get(label, "")) for one in series)]
