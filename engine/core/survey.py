"""How the whole book stands: a look at every row, a few at a time, that changes nothing.

A *round* looks once at each row; ``advance`` takes it some rows further, so that whoever calls it between two batches
is held up for a bounded time, and returns a ``SurveyReport`` when the round has ended. All rows of a round are valued
at the prices in force when it began, so that the report is one picture; what they hold and the parameters are as they
are when looked at, and a row that changes later in the round is as it was. Nothing here is part of the shard's state:
no output and no state hash depends on whether a survey is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from engine.core.book import Int64Array
from engine.core.distance import FactorSearch, Move
from engine.core.heatmap import Heatmap, HeatTally
from engine.core.kernels.survey import RISKIEST_COLUMNS, survey_rows
from engine.core.kernels.tables import PRICE, Tables
from engine.core.ladders import SurveyOptions, betas_of, ladders_of
from engine.core.shard import Shard
from engine.core.volatility import Sigmas, Volatility
from engine.units import UNIT, div_up

# The lowest MM / E of each band, in ppm, and what the bands are called; rows to be liquidated are the last one.
BAND_FLOORS_PPM = (0, 200_000, 400_000, 600_000, 800_000, 900_000)
BANDS = ("0-0.2", "0.2-0.4", "0.4-0.6", "0.6-0.8", "0.8-0.9", "0.9-1", "liquidatable")
# As how many rows it counts to begin a round, and to lay out its ladders; to make one heat-map or find one distance.
BEGINNING_ROWS, CLOSING_ROWS = 100, 100


@dataclass(frozen=True, slots=True)
class RiskyRow:
    """One of the rows closest to their liquidation, or beyond it; money in units of the valuation currency.

    ``ratio`` is MM / E in 1e-8, up; None where E <= 0. ``factor`` is the nearest move of the common factor, in whole
    basis points, that leaves the row liquidatable: 0 where it is so already, None where no move between -99.99 % and
    +200 % does it. It is found at the end of the round, of the row as it is then.
    """

    account: str
    bucket: str
    row: int
    equity: int
    maintenance: int
    ratio: int | None
    factor: Move | None


@dataclass(frozen=True, slots=True)
class SurveyReport:
    """What one round found. Rows without positions, and the engine's own, are in none of the counts.

    began_ts, ended_ts  the book's clock at both ends of the round; prices are those of its beginning
    rows                how many rows were judged; ``bands`` adds up to it
    unpriced            how many lack a price and were not judged
    bands               rows by MM / E, one count for each of ``BANDS``
    riskiest            lowest E / MM first, equal ones by account, then bucket
    heatmaps            of each symbol that somebody holds, by its name
    factor              of the common factor
    sigmas              the volatilities that moves are measured by
    """

    began_ts: int
    ended_ts: int
    rows: int
    unpriced: int
    bands: dict[str, int]
    riskiest: tuple[RiskyRow, ...]
    heatmaps: dict[str, Heatmap]
    factor: Heatmap
    sigmas: Sigmas


class Round:
    """What one round has found so far, and the prices it values all rows at: those in force when it began."""

    def __init__(self, shard: Shard, options: SurveyOptions) -> None:
        self.book = shard.book
        self.options = options
        self.began_ts = shard.clock
        tables = shard.book.tables
        self.marks: Int64Array = tables.symbols[:, PRICE].copy()
        self.asset_prices: Int64Array = tables.assets[:, PRICE].copy()
        self.next_row = 0
        self.bands: Int64Array = np.zeros(len(BANDS), dtype=np.int64)
        self.riskiest: Int64Array = np.zeros((options.riskiest_count, RISKIEST_COLUMNS), dtype=np.int64)
        self.counts: Int64Array = np.zeros(2, dtype=np.int64)
        self.moves_ppm: Int64Array = np.array(options.moves_ppm(), dtype=np.int64)
        # None until the ladders are laid out.
        self.heat: HeatTally | None = None
        # The symbols whose heat-map is still to be made.
        self.symbols_left = np.flatnonzero(self.marks)[::-1].tolist()
        self.heatmaps: dict[str, Heatmap] = {}
        # Of the riskiest rows, as many as have been taken already.
        self.risky: list[RiskyRow] = []

    @property
    def is_closed(self) -> bool:
        """Whether all is made that is made of the rows once they have been looked at."""
        return not self.symbols_left and len(self.risky) == self.counts[0]

    def lay_out(self) -> None:
        """Lay out the ladders around the round's prices."""
        self.heat = HeatTally(ladders_of(self.view(), betas_of(self.book, self.options), self.moves_ppm))

    def view(self) -> Tables:
        """Return the tables at the round's prices; one that was not known when it began is the one in force now.

        For one call only: tables are made anew when they grow.
        """
        tables = self.book.tables.view
        symbols, assets = tables.symbols.copy(), tables.assets.copy()
        for table, prices in ((symbols, self.marks), (assets, self.asset_prices)):
            known = np.flatnonzero(prices)
            table[known, PRICE] = prices[known]
        return tables.replaced(symbols=symbols, assets=assets)


class Survey:
    """Rounds over all rows of a shard, one after the other."""

    def __init__(self, shard: Shard, *, options: SurveyOptions | None = None) -> None:
        self.shard = shard
        self.options = options or SurveyOptions()
        self._round: Round | None = None
        self._floors_ppm = np.array(BAND_FLOORS_PPM, dtype=np.int64)
        self.volatility = Volatility()

    def advance(self, rows: int) -> SurveyReport | None:
        """Look at so many further rows; return the report of a round that ends with this call, else None.

        A row with four positions costs about 2 microseconds (100 bins). What else there is to do counts as rows, too:
        to begin, to lay out the ladders, and at the end to make the heat-map of each symbol and to find the distance of
        each of the riskiest rows. With 200 symbols 99 of 100 calls for 100 rows take half a millisecond of processor
        time or less, and the longest 0.7 to 0.9 (``benchmarks.heatmap``).
        """
        left = rows
        if self._round is None:
            self._round = self._begin()
            left -= BEGINNING_ROWS
        round_ = self._round
        if round_.heat is None and left > 0:
            round_.lay_out()
            left -= BEGINNING_ROWS
        if round_.heat is not None and left > 0:
            left = self._look(round_, round_.heat, left)
        while round_.heat is not None and left > 0 and not round_.is_closed:
            self._close_one(round_, round_.heat)
            left -= CLOSING_ROWS
        if round_.heat is None or round_.next_row < len(self.shard.book.accounts) or not round_.is_closed:
            return None
        self._round = None
        return self._report(round_, round_.heat)

    def _begin(self) -> Round:
        round_ = Round(self.shard, self.options)
        betas_ppm, _ = betas_of(self.shard.book, self.options)
        self.volatility.note(round_.marks.tolist(), betas_ppm.tolist(), round_.began_ts)
        return round_

    def _look(self, round_: Round, heat: HeatTally, rows: int) -> int:
        """Look at further rows; return how many of them there were none of any more."""
        first, end = round_.next_row, min(round_.next_row + rows, len(self.shard.book.accounts))
        if first < end:
            view = round_.view()
            survey_rows(view, first, end, self._floors_ppm, round_.bands, round_.riskiest, round_.counts)
            heat.add_rows(view, first, end)
            round_.next_row = end
        return rows - (end - first)

    def _close_one(self, round_: Round, heat: HeatTally) -> None:
        """Make the next heat-map, or take the next of the riskiest rows once all are made."""
        book = self.shard.book
        if round_.symbols_left:
            symbol = round_.symbols_left.pop()
            if book.holders_count(symbol):
                round_.heatmaps[book.instruments[symbol].symbol] = heat.take_symbol(book, symbol)
            return
        search = FactorSearch(round_.view(), betas_of(book, self.options))
        row, equity, maintenance = round_.riskiest[len(round_.risky)].tolist()
        round_.risky.append(
            RiskyRow(
                account=book.accounts[row],
                bucket=book.buckets[row],
                row=row,
                equity=equity,
                maintenance=maintenance,
                ratio=div_up(maintenance * UNIT, equity) if equity > 0 else None,
                factor=search.move(row, self.volatility.factor.sigma_ppm()),
            )
        )

    def _report(self, round_: Round, heat: HeatTally) -> SurveyReport:
        return SurveyReport(
            began_ts=round_.began_ts,
            ended_ts=self.shard.clock,
            rows=int(round_.bands.sum()),
            unpriced=int(round_.counts[1]),
            bands=dict(zip(BANDS, round_.bands.tolist(), strict=True)),
            riskiest=tuple(sorted(round_.risky, key=risk_key)),
            heatmaps=dict(sorted(round_.heatmaps.items())),
            factor=heat.factor(round_.moves_ppm),
            sigmas=self.volatility.sigmas(),
        )


def risk_key(risky: RiskyRow) -> tuple[Fraction, str, str]:
    """Return what the riskiest rows are sorted by."""
    return Fraction(risky.equity, risky.maintenance), risky.account, risky.bucket
