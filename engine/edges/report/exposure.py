"""How near the accounts are to liquidation, and what a further fall would liquidate, at sampled messages of the run.

A sample is taken of the state after message number k times a stride. The stride doubles whenever there are too many
samples, so the log's length, never the batch size, says which ones are left.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from engine.core.book import INSURANCE_ROW, Book
from engine.core.guards import try_obstacle
from engine.core.kernels.rows import row_standings_into
from engine.core.kernels.tables import PRICE, Tables
from engine.core.margin import liquidatable_rows
from engine.core.shard import Shard
from engine.units import PPM, UNIT

# What the table shows at the end; the others fill the chart in between.
FALLS_SHOWN_PPM = (50_000, 100_000, 200_000)
FALLS_PPM = (20_000, 50_000, 100_000, 150_000, 200_000, 300_000)
# A band ends where margin ratio MM / E reaches its number of percent; the last band holds what is liquidatable.
BAND_ENDS_PERCENT = (5, 10, 20, 40, 70, 100)
SAMPLES_MAX = 256
STRIDE_MIN = 16
# Looking at every account a few times may not outweigh the run: large populations are sampled less often.
ROWS_PER_MESSAGE = 64


@dataclass(frozen=True, slots=True)
class Fall:
    """What a fall of all marks would liquidate at once: how many, of what notional, and their losses beyond equity."""

    fall_ppm: int
    accounts: int
    notional: float
    deficit: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at all accounts with positions: how many in each band of margin ratio, and what falls would do."""

    number: int
    ts: int
    bands: tuple[int, ...]
    falls: tuple[Fall, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """Who is liquidatable at the end: how many in an episode, held, or neither; and what the fund is worth then."""

    liquidatable: int
    in_episode: int
    held: int
    unexplained: tuple[str, ...]
    # Wallets and positions, in the valuation currency.
    fund_worth: Decimal = Decimal(0)


class ExposureSampler:
    """The samples of one run."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        stride = max(STRIDE_MIN, len(shard.book.accounts) // ROWS_PER_MESSAGE)
        self.stride = 1 << (stride - 1).bit_length()
        self.samples: list[Sample] = []

    @property
    def messages_to_next(self) -> int:
        """How many messages there are until the next sample is due."""
        return self.stride - self.shard.counters.messages % self.stride

    def look(self) -> None:
        """Take a sample if one is due at the message that was applied last."""
        number = self.shard.counters.messages
        if number % self.stride or self.shard.clock == 0 or (self.samples and self.samples[-1].number == number):
            return
        self.samples.append(sample(self.shard))
        if len(self.samples) > SAMPLES_MAX:
            self.stride *= 2
            self.samples = [kept for kept in self.samples if kept.number % self.stride == 0]

    def finish(self) -> Explained:
        """Take the last sample and return who is liquidatable at the end, and why nobody has acted on it."""
        number = self.shard.counters.messages
        if not self.samples or self.samples[-1].number != number:
            self.samples.append(sample(self.shard))
        return explained(self.shard)


def sample(shard: Shard) -> Sample:
    """Return a look at all accounts as they stand."""
    book = shard.book
    standings = standings_of(book.tables.view, np.arange(len(book.accounts)))
    falls = tuple(what_falls(book, fall_ppm) for fall_ppm in FALLS_PPM)
    return Sample(shard.counters.messages, shard.clock, margin_bands(standings), falls)


def margin_bands(standings: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """Return how many rows with a margin requirement are in each band; the engine's own row is none of them."""
    equity, margin = standings[:, 0].astype(float), standings[:, 1].astype(float)
    is_counted = margin > 0
    is_counted[INSURANCE_ROW] = False
    ratio = np.full(len(standings), np.inf)
    np.divide(margin, equity, out=ratio, where=equity > 0)
    bands = np.searchsorted(np.array(BAND_ENDS_PERCENT) / 100, ratio[is_counted], side="right")
    return tuple(np.bincount(bands, minlength=len(BAND_ENDS_PERCENT) + 1).tolist())


def what_falls(book: Book, fall_ppm: int) -> Fall:
    """Return what is liquidatable if every mark falls at once, and with it each coin that is some contract's base.

    A step of the price grid is the least a price can be. Nothing of the book changes.
    """
    view = fallen(book, fall_ppm)
    rows = liquidatable_rows(book, view)
    standings = standings_of(view, rows)
    deficit = -standings[:, 0][standings[:, 0] < 0].astype(float).sum()
    return Fall(fall_ppm, len(rows), float(standings[:, 2].astype(float).sum()) / UNIT, float(deficit) / UNIT)


def fallen(book: Book, fall_ppm: int) -> Tables:
    """Return the book's tables with lower prices; unknown ones (0) stay unknown."""
    view = book.tables.view
    bases = {instrument.base for instrument in book.instruments}
    coins = [index for index, asset in enumerate(book.assets) if asset.price_units is None and asset.name in bases]
    symbols, assets = view.symbols.copy(), view.assets.copy()
    symbols[:, PRICE] = lowered(symbols[:, PRICE], fall_ppm)
    assets[coins, PRICE] = lowered(assets[coins, PRICE], fall_ppm)
    return view.replaced(symbols=symbols, assets=assets)


def lowered(prices: npt.NDArray[np.int64], fall_ppm: int) -> npt.NDArray[np.int64]:
    """Return prices less a part of themselves, rounded up to a step, so that none that is known becomes 0."""
    left = PPM - fall_ppm
    return prices // PPM * left + -(-(prices % PPM) * left // PPM)


def standings_of(view: Tables, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return equity, maintenance margin and notional of rows in units, as int64[row, 3]."""
    standings = np.zeros((len(rows), 3), dtype=np.int64)
    row_standings_into(view, rows, standings)
    return standings


def explained(shard: Shard) -> Explained:
    """Return who is liquidatable now, and of those who is in an episode, who is held, and whom nobody speaks for."""
    book = shard.book
    rows = liquidatable_rows(book).tolist()
    waiting = [row for row in rows if row not in shard.episodes]
    unexplained = [row for row in waiting if row not in shard.holds and try_obstacle(shard, row) is None]
    return Explained(
        liquidatable=len(rows),
        in_episode=len(rows) - len(waiting),
        held=len(waiting) - len(unexplained),
        unexplained=tuple(book.accounts[row] for row in unexplained),
        fund_worth=Decimal(book.equity(INSURANCE_ROW)) / UNIT,
    )
