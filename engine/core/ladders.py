"""At which prices a survey looks: the edges of every ladder, and what a survey of them is told to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from engine.core.book import Book, Int64Array
from engine.core.kernels.heatmap import COMMON, OWN, Ladders, moved_prices_into
from engine.core.kernels.margin import IS_INVERSE
from engine.core.kernels.tables import MARK_STEPS, PRICE, Tables
from engine.errors import ParamError
from engine.units import PPM, div_half_even

BINS_MAX = 1_000
BETA_MAX_PPM = 100 * PPM


@dataclass(frozen=True, slots=True)
class SurveyOptions:
    """What a survey reports, and how far from the prices in force it looks.

    riskiest_count   how many of the riskiest rows are named
    bins             into how many bins a ladder is divided, half of them below the price in force
    span_ppm         how far a ladder reaches to either side
    betas_ppm        how far a symbol's mark moves when the common factor moves by one; 1 where a symbol is not named
    asset_betas_ppm  the same of an asset's price; 0 where an asset is not named: collateral stays at its price
    """

    riskiest_count: int = 20
    bins: int = 100
    span_ppm: int = PPM // 2
    betas_ppm: Mapping[str, int] = field(default_factory=dict)
    asset_betas_ppm: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.riskiest_count < 1:
            raise ParamError("riskiest_count", self.riskiest_count, "must be at least 1")
        if self.bins % 2 or not 2 <= self.bins <= BINS_MAX:
            raise ParamError("bins", self.bins, f"must be even, from 2 to {BINS_MAX}")
        if not 0 < self.span_ppm < PPM:
            raise ParamError("span_ppm", self.span_ppm, f"must be above 0 and below {PPM}")
        for key, betas in (("betas_ppm", self.betas_ppm), ("asset_betas_ppm", self.asset_betas_ppm)):
            for name, beta_ppm in betas.items():
                if abs(beta_ppm) > BETA_MAX_PPM:
                    raise ParamError(f"{key}.{name}", beta_ppm, f"must be from {-BETA_MAX_PPM} to {BETA_MAX_PPM}")

    def moves_ppm(self) -> list[int]:
        """Return how far each edge lies from the price in force, rising; the middle one is 0."""
        return [div_half_even(self.span_ppm * (2 * edge - self.bins), self.bins) for edge in range(self.bins + 1)]


def betas_of(book: Book, options: SurveyOptions) -> tuple[Int64Array, Int64Array]:
    """Return the betas of all symbols and of all assets, in ppm."""
    symbols = [options.betas_ppm.get(instrument.symbol, PPM) for instrument in book.instruments]
    assets = [options.asset_betas_ppm.get(asset.name, 0) for asset in book.assets]
    return np.array(symbols, dtype=np.int64), np.array(assets, dtype=np.int64)


def ladders_of(view: Tables, betas_ppm: tuple[Int64Array, Int64Array], moves_ppm: Int64Array) -> Ladders:
    """Return the ladders around the prices of ``view``; for betas see ``betas_of``."""
    symbols, assets = view.symbols, view.assets
    marks = np.zeros((2, len(symbols), moves_ppm.size), dtype=np.int64)
    prices = np.zeros((2, len(assets), moves_ppm.size), dtype=np.int64)
    ones, units = np.full(len(symbols), PPM, dtype=np.int64), np.ones(len(assets), dtype=np.int64)
    steps = symbols[:, MARK_STEPS].copy()
    moved_prices_into(symbols[:, PRICE].copy(), steps, ones, moves_ppm, marks[OWN])
    marks[COMMON] = marks[OWN]
    if (betas_ppm[0] != PPM).any():
        moved_prices_into(symbols[:, PRICE].copy(), steps, betas_ppm[0], moves_ppm, marks[COMMON])
    moved_prices_into(assets[:, PRICE].copy(), units, betas_ppm[1], moves_ppm, prices[COMMON])
    prices[OWN] = assets[:, PRICE, None]
    lowest, highest = marks.min(axis=(0, 2)), marks.max(axis=(0, 2))
    return Ladders(
        marks=marks,
        prices=prices,
        directions=np.stack((np.ones(len(symbols), dtype=np.int64), np.sign(betas_ppm[0]))),
        price_moves=np.stack((np.zeros(len(assets), dtype=np.int64), np.sign(betas_ppm[1]))),
        mark_reach=np.where(symbols[:, IS_INVERSE] != 0, lowest, highest),
        price_reach=prices.max(axis=(0, 2)),
    )
