"""How far a row stands from its liquidation, along the common factor and along each of its symbols."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.core.book import Book, Int64Array
from engine.core.kernels.distance import UNKNOWN, first_step
from engine.core.kernels.heatmap import FIGURES, STACK_DEPTH, Ladders
from engine.core.kernels.tables import Tables
from engine.core.ladders import ladders_of
from engine.core.margin import liquidation_price, liquidation_ranges
from engine.core.volatility import Sigmas
from engine.units import PPM, div_half_even

# The common factor is followed in steps of a basis point, down to almost nothing and up to three times where it stands.
STEP_PPM = 100
DOWN_STEPS, UP_STEPS = 9_999, 20_000
# Sigmas are counted in thousandths.
MILLI_DECIMALS = 3


@dataclass(frozen=True, slots=True)
class Move:
    """A move that leaves a row liquidatable: signed ppm, and how many daily sigmas that is, in thousandths, down.

    ``milli_sigma`` is None where the volatility is not known.
    """

    ppm: int
    milli_sigma: int | None


@dataclass(frozen=True, slots=True)
class SymbolMove:
    """Where one symbol's mark leaves a row liquidatable, all else standing still.

    mark    the nearest such mark, the liquidation price; None where there is none, and so is ``move``, the way to it
    ranges  all stretches of such marks, see ``liquidation_ranges``
    """

    symbol: int
    mark: int | None
    move: Move | None
    ranges: tuple[tuple[int | None, int | None], ...]


@dataclass(frozen=True, slots=True)
class Distance:
    """The nearest moves that leave a row liquidatable.

    ``factor`` is that of the common factor, in whole basis points, 0 where the row is liquidatable now; None where none
    between -99.99 % and +200 % is, or where a price is missing. ``symbols`` in the order of the row's positions.
    """

    factor: Move | None
    symbols: tuple[SymbolMove, ...]


def distance_of(book: Book, row: int, search: FactorSearch, sigmas: Sigmas) -> Distance:
    """Return how far a row stands from its liquidation at the prices in force, which ``search`` must begin at."""
    held = dict.fromkeys(symbol for symbol, _ in book.positions_of(row))
    return Distance(
        factor=search.move(row, sigmas.factor_ppm),
        symbols=tuple(symbol_move(book, row, symbol, sigmas) for symbol in held) if book.is_priced(row) else (),
    )


class FactorSearch:
    """What it takes to follow the common factor from the prices of ``view``; for betas see ``betas_of``."""

    def __init__(self, view: Tables, betas_ppm: tuple[Int64Array, Int64Array]) -> None:
        self.view = view
        self.betas_ppm = betas_ppm
        reach: Int64Array = np.array([-DOWN_STEPS, 0, UP_STEPS], dtype=np.int64) * STEP_PPM
        self.ladders: Ladders = ladders_of(view, betas_ppm, reach)
        self._figures = np.zeros((STACK_DEPTH + 1, FIGURES), dtype=np.int64)
        self._stack = np.zeros(STACK_DEPTH, dtype=np.int64)

    def move(self, row: int, sigma_ppm: int | None) -> Move | None:
        """Return the nearest move at which a row is liquidatable, with what it is in sigmas; None where none is."""
        ppm = self.move_ppm(row)
        return None if ppm is None else move_of(ppm, sigma_ppm)

    def move_ppm(self, row: int) -> int | None:
        """Return the nearest move at which a row is liquidatable; the fall of two alike, None where there is none."""
        down, up = self._steps(row, -STEP_PPM, DOWN_STEPS), self._steps(row, STEP_PPM, UP_STEPS)
        if down is not None and (up is None or down <= up):
            return -down * STEP_PPM
        return None if up is None else up * STEP_PPM

    def _steps(self, row: int, step_ppm: int, steps: int) -> int | None:
        """Return the first of so many steps at which a row is liquidatable, or None."""
        found = int(
            first_step(self.view, self.ladders, row, *self.betas_ppm, step_ppm, steps, self._figures, self._stack)
        )
        return None if found == UNKNOWN or found > steps else found


def symbol_move(book: Book, row: int, symbol: int, sigmas: Sigmas) -> SymbolMove:
    """Return the move of one symbol to its liquidation price, and all marks that are beyond one."""
    level, mark = liquidation_price(book, row, symbol), book.marks[symbol].value
    return SymbolMove(
        symbol=symbol,
        mark=level,
        move=None if level is None else move_of(div_half_even((level - mark) * PPM, mark), sigmas.of_symbol(symbol)),
        ranges=tuple(liquidation_ranges(book, row, symbol)),
    )


def move_of(ppm: int, sigma_ppm: int | None) -> Move:
    """Return a move with what it is in sigmas."""
    return Move(ppm, None if sigma_ppm is None else abs(ppm) * 10**MILLI_DECIMALS // sigma_ppm)
