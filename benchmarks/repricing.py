"""One mark over all holders of a symbol, three ways: the engine's kernel, vectorised NumPy, a plain Python loop.

All three do the whole of what the engine needs from a mark: each position's PnL, maintenance margin and notional, the
change of each row's sums, and the list of rows that need a look. All start from a copy of the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core.kernels.margin import DEDUCTION, DEDUCTION_PPM, FLOOR, RATE, VALUE_NUM, is_plain
from engine.core.kernels.reprice import (
    CALLED,
    COST,
    EQUITY,
    FLAGS,
    GROSS,
    MAINTENANCE,
    MARGIN,
    NOTIONAL,
    PNL,
    ROW,
    SIZE,
    SYSTEM,
    UNPRICED,
    WATCHED,
    reprice_holders,
)
from engine.core.shard import Shard
from engine.edges.bookfile import load_document
from engine.edges.config import load_risk
from engine.units import PPM

Int64Array = npt.NDArray[np.int64]
# The mark falls by a tenth and rises again, so that positions change tier and some rows are in need of a look.
SWING_PPM = 100_000


@dataclass(slots=True)
class Repricing:
    """The tables a mark of one symbol changes, and the mark."""

    symbol: str
    holders: Int64Array
    state: Int64Array
    spec: Int64Array
    tiers: Int64Array
    rule: Int64Array
    touched: Int64Array
    prices: tuple[int, int]
    price: int
    asset_price: int
    # The same positions and rows as lists, for the loop: converting would cost it more than computing.
    lists: tuple[list[list[int]], list[list[int]]]

    @property
    def count(self) -> int:
        """How many positions there are."""
        return len(self.holders)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Repricing:
        """Return the tables of the most held symbol of a book, on their own."""
        shard = Shard(load_risk())
        load_document(shard, document, "population")
        book = shard.book
        symbol = max(range(len(book.holders)), key=lambda index: book.holders[index].count)
        instrument, holders = book.instruments[symbol], book.holders[symbol]
        mark, asset_price = book.marks[symbol].value, book.asset_prices[book.settle[symbol]].value
        if not is_plain(book.specs[symbol], asset_price):
            raise SystemExit(f"{instrument.symbol}: the NumPy pass is written for linear contracts at price 1")
        step, table, state = instrument.mark_steps, holders.table[: holders.count], book.state[: len(book.accounts)]
        return cls(
            symbol=instrument.symbol,
            holders=table.copy(),
            state=state.copy(),
            spec=book.specs[symbol],
            tiers=book.tiers[symbol],
            rule=book.rule,
            touched=np.zeros(holders.count, dtype=np.int64),
            prices=(mark, mark * (PPM - SWING_PPM) // (PPM * step) * step),
            price=mark,
            asset_price=asset_price,
            lists=(table.tolist(), state.tolist()),
        )

    def moved(self) -> Repricing:
        """Move the mark to the other of its two prices."""
        self.price = self.prices[self.price == self.prices[0]]
        return self


def reprice_by_kernel(data: Repricing) -> list[int]:
    """Return the rows in need of a look after the engine's own pass."""
    found = reprice_holders(
        data.holders,
        data.count,
        data.state,
        data.spec,
        data.tiers,
        data.price,
        data.asset_price,
        data.rule,
        data.touched,
    )
    return [int(row) for row in data.touched[:found]]


def reprice_by_numpy(data: Repricing) -> list[int]:
    """Return the same from whole-array operations: everything in integers, so a little more than a float version."""
    holders, state, tiers = data.holders, data.state, data.tiers
    rows, size = holders[:, ROW], holders[:, SIZE]
    value = size * (data.price * int(data.spec[VALUE_NUM]))
    notional = np.abs(value)
    tier = tiers[np.searchsorted(tiers[:, FLOOR], notional, side="right") - 1]
    millions, rest = np.divmod(notional, PPM)
    margin = millions * tier[:, RATE] - tier[:, DEDUCTION] - (tier[:, DEDUCTION_PPM] - rest * tier[:, RATE]) // PPM
    columns = [PNL, MARGIN, NOTIONAL]
    figures = np.stack((holders[:, COST] + value, margin, notional), axis=1)
    # Each row stands once (no hedge mode), so one addition reaches all.
    state[rows[:, None], [EQUITY, MAINTENANCE, GROSS]] += figures - holders[:, columns]
    holders[:, columns] = figures
    standing = state[rows]
    equity, maintenance, flags = standing[:, EQUITY], standing[:, MAINTENANCE], standing[:, FLAGS]
    below, call_ppm, rearm_ppm = data.rule.tolist()
    in_need = (maintenance > 0) & ((equity < maintenance) if below else (equity <= maintenance))
    in_need |= (maintenance == 0) & (equity < 0)
    ratio_ppm = np.where(flags & CALLED, rearm_ppm, call_ppm)
    # MM >= E x ratio, the product split so that it stays within 64 bits.
    required = equity // PPM * ratio_ppm - (-(equity % PPM) * ratio_ppm) // PPM
    is_at_ratio = (maintenance > 0) & ((equity <= 0) | (maintenance >= required))
    in_need |= is_at_ratio != ((flags & CALLED) != 0)
    in_need |= (flags & WATCHED) != 0
    return [int(row) for row in rows[in_need & (standing[:, UNPRICED] == 0) & ((flags & SYSTEM) == 0)]]


def reprice_by_loop(data: Repricing) -> list[int]:
    """Return the same from a loop over Python ints in lists."""
    holders, state = data.lists
    tiers = data.tiers.tolist()
    below, call_ppm, rearm_ppm = data.rule.tolist()
    price = data.price * int(data.spec[VALUE_NUM])
    found = []
    for entry in holders:
        size, row = entry[SIZE], state[entry[ROW]]
        value = size * price
        notional = abs(value)
        tier = tiers[0]
        for candidate in tiers:
            if notional < candidate[FLOOR]:
                break
            tier = candidate
        margin = -(-(notional * tier[RATE] - tier[DEDUCTION] * PPM - tier[DEDUCTION_PPM]) // PPM)
        pnl = entry[COST] + value
        row[EQUITY] += pnl - entry[PNL]
        row[MAINTENANCE] += margin - entry[MARGIN]
        row[GROSS] += notional - entry[NOTIONAL]
        entry[PNL], entry[MARGIN], entry[NOTIONAL] = pnl, margin, notional
        equity, maintenance, flags = row[EQUITY], row[MAINTENANCE], row[FLAGS]
        if row[UNPRICED] or flags & SYSTEM:
            continue
        is_called = bool(flags & CALLED)
        ratio_ppm = rearm_ppm if is_called else call_ppm
        is_at_ratio = maintenance > 0 and (equity <= 0 or maintenance * PPM >= equity * ratio_ppm)
        is_liquidatable = maintenance > 0 and (equity < maintenance if below else equity <= maintenance)
        if flags & WATCHED or is_liquidatable or (maintenance == 0 and equity < 0) or is_at_ratio != is_called:
            found.append(entry[ROW])
    return found


def check_same(found: Sequence[list[int]], *tables: tuple[npt.ArrayLike, npt.ArrayLike]) -> None:
    """Stop the run unless all ways found the same rows and left the same (positions, rows)."""
    same_rows = all(rows == found[0] for rows in found)
    if not same_rows or not all(
        np.array_equal(left, first) for pair in tables for left, first in zip(pair, tables[0], strict=True)
    ):
        raise SystemExit("reprice: the ways that are compared do not agree")
