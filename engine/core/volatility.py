"""How much marks move: the daily volatility of each symbol and of the common factor, from the marks a survey sees.

Realised variance with a fading memory: the squares of the returns from one look to the next, and the time they took,
each weighing e times less a day later. Only reports are made of it; no decision, output or state hash depends on it,
and it begins anew with the process.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from engine.units import NS_PER_S, PPM, div_half_even

DAY_NS = 86_400 * NS_PER_S
# Before it has seen this much of the book's time it says nothing.
SEEN_NS_MIN = 300 * NS_PER_S
# Returns are squared in parts of 1e-9, so that the calm of a stable coin is not rounded away.
_FINE = 1_000_000_000


@dataclass(slots=True)
class Variance:
    """Faded sums: squared returns in 1e-18, and the nanoseconds they took."""

    squares: int = 0
    seen_ns: int = 0

    def add(self, return_fine: int, elapsed_ns: int) -> None:
        """Take in one return, in 1e-9; what was before fades by its age."""
        self.squares = self.squares * DAY_NS // (DAY_NS + elapsed_ns) + return_fine * return_fine
        self.seen_ns = self.seen_ns * DAY_NS // (DAY_NS + elapsed_ns) + elapsed_ns

    def sigma_ppm(self) -> int | None:
        """Return the standard deviation of a day's return in ppm, down; None before enough was seen, or where 0."""
        if self.seen_ns < SEEN_NS_MIN:
            return None
        return isqrt(self.squares * DAY_NS // self.seen_ns) * PPM // _FINE or None


@dataclass(frozen=True, slots=True)
class Sigmas:
    """Daily volatilities as they stood at one moment, in ppm, None where unknown; a symbol that came later has none."""

    factor_ppm: int | None = None
    symbols_ppm: tuple[int | None, ...] = ()

    def of_symbol(self, symbol: int) -> int | None:
        """Return the volatility of one symbol."""
        return self.symbols_ppm[symbol] if symbol < len(self.symbols_ppm) else None


class Volatility:
    """The variances of all symbols and of the common factor: the mean move of all symbols over their mean beta."""

    def __init__(self) -> None:
        self.symbols: list[Variance] = []
        self.factor = Variance()
        self._marks: list[int] = []
        self._ts = 0

    def note(self, marks: list[int], betas_ppm: list[int], ts: int) -> None:
        """Take in the marks (0: unknown) at a later time of the book's clock; at an earlier or equal one do nothing."""
        if ts <= self._ts:
            return
        self.symbols += [Variance() for _ in marks[len(self.symbols) :]]
        elapsed_ns, total, betas = ts - self._ts, 0, 0
        for variance, before, mark, beta_ppm in zip(self.symbols, self._marks, marks, betas_ppm, strict=False):
            if before and mark:
                return_fine = (mark - before) * _FINE // before
                variance.add(return_fine, elapsed_ns)
                total, betas = total + return_fine, betas + beta_ppm
        if betas:
            self.factor.add(div_half_even(total * PPM * (1 if betas > 0 else -1), abs(betas)), elapsed_ns)
        self._marks, self._ts = marks, ts

    def sigmas(self) -> Sigmas:
        """Return the volatilities as they stand now."""
        return Sigmas(self.factor.sigma_ppm(), tuple(variance.sigma_ppm() for variance in self.symbols))
