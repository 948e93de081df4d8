"""The text that Prometheus scrapes, rendered a few lines at a time, so that no scrape holds up a decision.

What stands before a number never changes and is rendered once; a line is rendered again only where its number is
another than at the last scrape. Between two pieces others have their turn. The numbers of a family are of one instant.

The same families are a collector of prometheus_client, whose ``generate_latest`` must give the same bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from engine.edges.metrics.families import Family, Number, line_prefix

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
# Lines of one piece, the head of a family among them: about 1 us for one that has changed. A turn then takes a fraction
# of the one in which aiohttp reads the request.
LINES_MAX = 24
HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})


def number_text(value: Number) -> str:
    """Return a number as Prometheus writes it."""
    # The library annotates most of itself, and not this function.
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


class Page:
    """The lines of one family, as they were last rendered."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.series = 0
        text = family.text.translate(HELP_ESCAPES)
        self.head = f"# HELP {family.name} {text}\n# TYPE {family.name} {family.kind}\n".encode()
        self.prefixes: list[str] = []
        self.lines: list[bytes] = []
        self.values: list[Number | None] = []

    def grow(self) -> None:
        """Take in the series that are new."""
        if self.series < len(self.family.places):
            prefixes = [line_prefix(name, labels) for name, labels in self.family.names(self.series)]
            self.series = len(self.family.places)
            self.prefixes += prefixes
            self.lines += [b""] * len(prefixes)
            self.values += [None] * len(prefixes)

    def piece(self, values: Sequence[Number], begin: int, end: int) -> bytes:
        """Return the lines from ``begin`` to ``end`` with their values."""
        shown, lines, prefixes = self.values, self.lines, self.prefixes
        for index in range(begin, end):
            value = values[index]
            if value != shown[index]:
                shown[index] = value
                lines[index] = f"{prefixes[index]}{number_text(value)}\n".encode()
        return b"".join(lines[begin:end])


class Exposition:
    """All families as text."""

    def __init__(self, families: Iterable[Family]) -> None:
        self.pages = [Page(family) for family in families]

    async def pieces(self, rest: Callable[[], Awaitable[None]]) -> AsyncIterator[bytes]:
        """Yield the text in pieces; ``rest`` is awaited between two."""
        parts: list[bytes] = []
        room = LINES_MAX
        for page in self.pages:
            page.grow()
            values = page.family.shown()
            parts.append(page.head)
            begin, room = 0, room - 1
            while begin < len(values):
                if room <= 0:
                    yield b"".join(parts)
                    parts.clear()
                    room = LINES_MAX
                    await rest()
                end = min(len(values), begin + room)
                parts.append(page.piece(values, begin, end))
                begin, room = end, room - (end - begin)
        yield b"".join(parts)


class Collector:
    """The same families, for prometheus_client."""

    def __init__(self, families: Sequence[Family]) -> None:
        self.families = families

    def collect(self) -> Iterable[Metric]:
        """Yield each family with its samples."""
        for family in self.families:
            metric = Metric(family.name.removesuffix("_total"), family.text, family.kind)
            for (name, labels), value in zip(family.names(), family.shown(), strict=True):
                metric.add_sample(name, labels, value)
            yield metric


def registry_of(families: Sequence[Family]) -> CollectorRegistry:
    """Return a registry of prometheus_client with the same numbers."""
    registry = CollectorRegistry()
    registry.register(Collector(families))
    return registry
