"""Numbers by label, in plain lists: gauges, counters and histograms, as cheap to add to as a list.

A *series* is one number of a family, named by the values of its labels; ``add`` gives it its place, from where on it is
there, at 0. A histogram has a row of counts for each.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import Literal

Kind = Literal["gauge", "counter", "histogram"]
Number = int | float
Labels = tuple[str, ...]

# Each bucket ends at sqrt(2) times the end of the one before: 1 us to 16.8 s, past every deadline of a commit.
BOUNDS = tuple(round(1e-6 * 2 ** (step / 2), 12) for step in range(49))
ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Family:
    """Gauges or counters of one name; ``values`` are whole numbers of ``1 / unit``, or floats."""

    def __init__(self, kind: Kind, name: str, labels: Labels, text: str, *, unit: int = 1) -> None:
        self.kind: Kind = kind
        self.name = name
        self.labels = labels
        self.text = text
        self.unit = unit
        self.places: dict[Labels, int] = {}
        self.values: list[Number] = []

    def add(self, *labels: str) -> int:
        """Return the place of a series, which is there from now on."""
        place = self.places.get(labels)
        if place is None:
            place = self.places[labels] = len(self.places)
            self._grow()
        return place

    def _grow(self) -> None:
        self.values.append(0)

    def put(self, value: Number, *labels: str) -> None:
        """Set a gauge."""
        self.values[self.add(*labels)] = value

    def inc(self, amount: Number, *labels: str) -> None:
        """Count; a series that is not there yet is there from now on."""
        self.values[self.add(*labels)] += amount

    def get(self, *labels: str) -> Number:
        """Return the number of a series."""
        return self.values[self.places[labels]]

    def shown(self) -> list[Number]:
        """Return what is shown now, one number for each of ``names``."""
        return self.values[:] if self.unit == 1 else [value / self.unit for value in self.values]

    def names(self, begin: int = 0) -> list[tuple[str, dict[str, str]]]:
        """Return name and labels of each line that is shown, from the ``begin``-th series on."""
        return [(self.name, dict(zip(self.labels, labels, strict=True))) for labels in list(self.places)[begin:]]

    @property
    def width(self) -> int:
        """How many lines a series has."""
        return 1


class Histogram(Family):
    """How long things took, in seconds, in the buckets of ``BOUNDS``."""

    def __init__(self, name: str, labels: Labels, text: str) -> None:
        super().__init__("histogram", name, labels, text)
        self.counts: list[list[int]] = []
        self.sums: list[float] = []

    def _grow(self) -> None:
        self.counts.append([0] * (len(BOUNDS) + 1))
        self.sums.append(0.0)

    def observe(self, place: int, seconds: float, count: int = 1) -> None:
        """Count ``count`` things that took so long each."""
        self.counts[place][bisect_left(BOUNDS, seconds)] += count
        self.sums[place] += seconds * count

    def shown(self) -> list[Number]:
        """Return the running counts of the buckets, count and sum of each series."""
        found: list[Number] = []
        for counts, total in zip(self.counts, self.sums, strict=True):
            found += accumulate(counts)
            found += (found[-1], total)
        return found

    def names(self, begin: int = 0) -> list[tuple[str, dict[str, str]]]:
        """Return name and labels of each line that is shown, from the ``begin``-th series on."""
        found = []
        for labels in list(self.places)[begin:]:
            own = dict(zip(self.labels, labels, strict=True))
            found += [(f"{self.name}_bucket", {**own, "le": bound}) for bound in (*map(str, BOUNDS), "+Inf")]
            found += [(f"{self.name}_count", own), (f"{self.name}_sum", own)]
        return found

    @property
    def width(self) -> int:
        """How many lines a series has."""
        return len(BOUNDS) + 3


def line_prefix(name: str, labels: dict[str, str]) -> str:
    """Return what stands before the number: name and labels in the order of their names."""
    inside = ",".join(f'{key}="{labels[key].translate(ESCAPES)}"' for key in sorted(labels))
    return f"{name}{{{inside}}} " if inside else f"{name} "
