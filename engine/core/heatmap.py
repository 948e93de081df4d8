"""How much would be liquidated at which price: the exact heat-map of one symbol, or of the common factor.

At each *edge* - a price of a symbol, all other prices standing still, or a move of all marks together - stand the
rows that are liquidatable there and the notional of what they hold: for a symbol their positions in that symbol, for
the common factor all their positions, at that edge's own prices. The middle edge is the price in force.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.core.book import Book, Int64Array
from engine.core.kernels.heatmap import (
    COMMON,
    FIGURES,
    LIMB_BITS,
    LIMBS,
    LONG_HIGH,
    LONG_LOW,
    OWN,
    SHORT_HIGH,
    SHORT_LOW,
    STACK_DEPTH,
    Ladders,
    heat_rows,
)
from engine.core.kernels.tables import Tables
from engine.units import PPM, PPM_DECIMALS, UNIT, div_half_even


@dataclass(frozen=True, slots=True)
class Heatmap:
    """Rows and notional that are liquidatable at each edge; money in units of the valuation currency, rounded down.

    ``edges`` rise, in 10**-decimals: prices of the symbol, or the common factor as a price of its own that stands at
    1 now. ``rows`` counts accounts and isolated buckets. ``left_out``: rows that lack a price, or that are worth so
    much that 64 bits may not hold it at every edge.
    """

    symbol: str | None
    decimals: int
    edges: tuple[int, ...]
    long_units: tuple[int, ...]
    short_units: tuple[int, ...]
    rows: tuple[int, ...]
    left_out: int

    @property
    def middle(self) -> int:
        """The index of the edge that is the price in force."""
        return len(self.edges) // 2

    @property
    def moves_ppm(self) -> tuple[int, ...]:
        """How far each edge lies from the price in force, in ppm of it, half-even."""
        mark = self.edges[self.middle]
        return tuple(div_half_even((edge - mark) * PPM, mark) for edge in self.edges)

    def ladder(self) -> tuple[tuple[int, int, int], ...]:
        """Return long and short notional and rows that each bin adds as the price leaves the one in force.

        Bin i lies between the edges i and i + 1. What is liquidatable at the middle edge is in no bin. A figure below
        zero is possible: a row may be healthy again further out, and notional changes with the price.
        """
        levels = tuple(zip(self.long_units, self.short_units, self.rows, strict=True))
        bins = []
        for index in range(len(levels) - 1):
            inner, outer = (index + 1, index) if index < self.middle else (index, index + 1)
            bins.append(
                (
                    levels[outer][0] - levels[inner][0],
                    levels[outer][1] - levels[inner][1],
                    levels[outer][2] - levels[inner][2],
                )
            )
        return tuple(bins)


class HeatTally:
    """What the rows looked at so far put on each ladder: contracts and rows, as differences from edge to edge."""

    def __init__(self, ladders: Ladders) -> None:
        _, symbols, edges = ladders.marks.shape
        self.ladders = ladders
        self.rows: Int64Array = np.zeros((symbols + 1, edges), dtype=np.int64)
        self.sizes: Int64Array = np.zeros((2, symbols, edges, LIMBS), dtype=np.int64)
        self.left_out: Int64Array = np.zeros(symbols + 1, dtype=np.int64)
        self._scratch = np.zeros((edges, FIGURES), dtype=np.int64), np.zeros(STACK_DEPTH, dtype=np.int64)
        # Long and short notional of the common factor, of the symbols taken so far.
        self.common: list[list[int]] = [[0] * edges, [0] * edges]

    def add_rows(self, view: Tables, first: int, end: int) -> None:
        """Look at the rows from ``first`` to ``end``."""
        heat_rows(view, self.ladders, first, end, self.rows, self.sizes, self.left_out, *self._scratch)

    def take_symbol(self, book: Book, symbol: int) -> Heatmap:
        """Return the heat-map of a symbol, and add what it brings to that of the common factor.

        About 0.2 ms for 100 bins. All contracts of one side are worth what they are together, rounded down once.
        """
        own, common = (self._notionals(book, kind, symbol) for kind in (OWN, COMMON))
        for total, notional in zip(self.common, common, strict=True):
            total[:] = map(int.__add__, total, notional)
        instrument = book.instruments[symbol]
        return Heatmap(
            symbol=instrument.symbol,
            decimals=instrument.price_decimals,
            edges=tuple(self.ladders.marks[OWN, symbol].tolist()),
            long_units=tuple(own[0]),
            short_units=tuple(own[1]),
            rows=tuple(np.cumsum(self.rows[symbol]).tolist()),
            left_out=int(self.left_out[symbol]),
        )

    def factor(self, moves_ppm: Int64Array) -> Heatmap:
        """Return the heat-map of the common factor, once every symbol has been taken."""
        return Heatmap(
            symbol=None,
            decimals=PPM_DECIMALS,
            edges=tuple((PPM + moves_ppm).tolist()),
            long_units=tuple(self.common[0]),
            short_units=tuple(self.common[1]),
            rows=tuple(np.cumsum(self.rows[-1]).tolist()),
            left_out=int(self.left_out[-1]),
        )

    def _notionals(self, book: Book, kind: int, symbol: int) -> tuple[list[int], list[int]]:
        """Return the notional of what is liquidatable at each edge, long and short."""
        instrument, settle = book.instruments[symbol], book.settle[symbol]
        sizes = np.cumsum(self.sizes[kind, symbol], axis=0)
        marks, prices = self.ladders.marks[kind, symbol].tolist(), self.ladders.prices[kind, settle].tolist()
        sides: tuple[list[int], list[int]] = ([], [])
        for side, high, low in zip(sides, (LONG_HIGH, SHORT_HIGH), (LONG_LOW, SHORT_LOW), strict=True):
            limbs = zip(sizes[:, high].tolist(), sizes[:, low].tolist(), marks, prices, strict=True)
            for size_high, size_low, mark, price in limbs:
                worth = ((size_high << int(LIMB_BITS)) + size_low) * instrument.value_num * price
                if instrument.is_inverse:
                    side.append(worth // (mark * UNIT))
                else:
                    side.append(worth * mark // (instrument.value_den * UNIT))
        return sides
