"""The engine's own way of following a mark, over the same made-up market as the others."""

from __future__ import annotations

import time
from abc import abstractmethod

import numpy as np

from benchmarks.hot_market import Int64Array, Market, Path
from benchmarks.hot_ways import Way
from engine.core.book import CROSS
from engine.core.events import INSURANCE
from engine.core.kernels.follow import MANTISSA, MARK_COLUMNS, PLACES, SYMBOL, TS, follow_marks
from engine.core.kernels.rows import load_balances, put_balance, set_all_stale
from engine.core.kernels.tables import (
    COST_MAX,
    FLAGS,
    MARK_DECIMALS,
    MARK_TS,
    PRICE,
    SIZE_MAX,
    STALE_COUNT,
    SYSTEM,
    Tables,
)
from engine.core.kernels.triggers import concerned_rows_into, share_stale
from engine.core.params import Asset, Instrument, Policy, Risk, Tier
from engine.core.shard import Shard
from engine.core.tables import Array
from engine.units import INT64_MAX, UNIT, UNIT_DECIMALS


def shard_of(market: Market) -> Shard:
    """Return a shard with the market's accounts, their names a number each, the fund beside them."""
    asset = Asset("USD", price_units=UNIT)
    instruments = {name: instrument_of(market, index) for index, name in enumerate(market.names)}
    shard = Shard(Risk(Policy(), {"USD": asset}, instruments))
    book = shard.book
    book.restore_rows([INSURANCE, *map(str, range(market.accounts))], [CROSS] * (market.accounts + 1))
    tables = book.tables
    tables.rows[book.row_index[INSURANCE, CROSS], FLAGS] = SYSTEM
    holders = market.holders()
    slots = np.zeros(len(market.size), dtype=np.int64)
    for symbol, mark in enumerate(market.marks.tolist()):
        book.set_mark(symbol, mark, 0, is_seen=True)
        held = holders.order[holders.base[symbol] : holders.base[symbol + 1]]
        slots[held] = np.arange(len(held))
    legs = np.zeros(len(market.size), dtype=np.int64)
    tables.add_loaded(
        np.vstack([market.row + 1, market.symbol, legs, market.size, market.cost, slots]).astype(np.int64)
    )
    load_balances(tables.view, 0, np.concatenate(([0], market.wallet)))
    # What may be put in force without a sum in exact integers depends on the largest positions there are.
    for column, figures in ((SIZE_MAX, market.size), (COST_MAX, market.cost)):
        np.maximum.at(tables.symbols[:, column], market.symbol, np.abs(figures))
    share_stale(tables.view)
    return shard


def instrument_of(market: Market, index: int) -> Instrument:
    """Return a symbol's instrument, with the tiers and the scale that the market has of it."""
    tiers = market.tiers[market.tier_base[index] : market.tier_base[index + 1]].tolist()
    decimals = market.price_decimals[index]
    return Instrument(
        symbol=market.names[index],
        kind="linear",
        base="",
        settle="USD",
        multiplier=(1, 0),
        price_tick=(1, max(decimals, 0)),
        lot=(1, max(UNIT_DECIMALS - decimals, 0)),
        mark_decimals=max(decimals, 0),
        size_decimals=UNIT_DECIMALS - decimals,
        price_decimals=decimals,
        tiers=tuple(Tier(floor, rate, leverage) for floor, rate, _, _, leverage in tiers),
    )


class Indexed(Way):
    """A trigger index over tables of the engine's form; the first row is the fund's."""

    touched: Array

    def __init__(self, view: Tables, found: Array) -> None:
        self.view = view
        self.touched = found

    @abstractmethod
    def share(self) -> None:
        """Set the keys of stale rows."""

    @abstractmethod
    def find(self, symbol: int, price: int) -> int:
        """Put a mark in force; write the rows that need a look, some perhaps twice, and return how many were written.

        The keys of those that were looked at are yet to be set.
        """

    @abstractmethod
    def follow(self, marks: Int64Array, begin: int, stream: Int64Array) -> tuple[int, int]:
        """Put marks in force from ``begin`` on, as ``follow_marks`` does; return what it returns."""

    def mark(self, symbol: int, price: int) -> int:
        """Take a mark."""
        self.share()
        return self.find(symbol, price)

    def rows(self, count: int) -> Int64Array:
        """Return the rows that were found, rising, each once."""
        return np.unique(self.touched[:count]).astype(np.int64) - 1

    def deposit(self, rows: Int64Array, amounts: Int64Array) -> None:
        """Add to the wallets of rows."""
        for row, amount in zip((rows + 1).tolist(), amounts.tolist(), strict=True):
            put_balance(self.view, row, 0, int(self.view.balances[row, 0]) + amount)

    def reset(self, market: Market) -> None:
        """Go back to where the market began."""
        self.view.balances[1 : market.accounts + 1, 0] = market.wallet
        self.view.rows[:, FLAGS] &= SYSTEM
        self.view.symbols[:, PRICE] = market.marks
        self.view.symbols[:, MARK_TS] = 0
        self.view.settings[STALE_COUNT] = 0
        set_all_stale(self.view, market.accounts + 1)
        self.share()

    def bytes_held(self) -> int:
        """Return how many bytes it holds, room for growth included."""
        return self.touched.nbytes + sum(array.nbytes for array in self.view.arrays().values())


class Index(Indexed):
    """The engine's trigger index, a call for each mark, as when a service takes them one by one."""

    label = "trigger index"

    def __init__(self, market: Market) -> None:
        self.shard = shard_of(market)
        tables = self.shard.book.tables
        super().__init__(tables.view, tables.found_rows)

    def share(self) -> None:
        """Set the keys of stale rows."""
        share_stale(self.view)

    def find(self, symbol: int, price: int) -> int:
        """Put a mark in force."""
        self.view.symbols[symbol, PRICE] = price
        return int(concerned_rows_into(self.view, symbol, self.touched))

    def follow(self, marks: Int64Array, begin: int, stream: Int64Array) -> tuple[int, int]:
        """Put marks in force."""
        position, count = follow_marks(self.view, marks, begin, stream, self.touched)
        return int(position), int(count)

    def reset(self, market: Market) -> None:
        """Go back to where the market began, with the book that the machine sees."""
        book = self.shard.book
        book.clock = None
        for symbol, mark in enumerate(market.marks.tolist()):
            book.set_mark(symbol, mark, 0, is_seen=True)
        self.shard.episodes.clear()
        super().reset(market)


class Batches:
    """A trigger index fed with marks many at a time, as the machine feeds it (``Machine.fold``)."""

    size = 256

    def __init__(self, index: Indexed) -> None:
        self.index = index
        self.label = f"{index.label}, {self.size} marks a call"

    def walk(self, path: Path, amounts: Int64Array) -> tuple[list[Int64Array], Int64Array]:
        """Walk a path; who is found deposits its amount. Returns the rows each mark found, and ns a mark by batch."""
        marks = self.lines_of(path)
        stream = np.array([0, INT64_MAX, 0, 0], dtype=np.int64)
        found = [np.zeros(0, dtype=np.int64)] * len(marks)
        taken = []
        for first in range(0, len(marks), self.size):
            batch, position, spent = marks[first : first + self.size], 0, 0
            while position < len(batch):
                started = time.perf_counter_ns()
                position, count = self.index.follow(batch, position, stream)
                spent += time.perf_counter_ns() - started
                if count:
                    rows = found[first + position - 1] = self.index.rows(count)
                    self.index.deposit(rows, amounts[rows])
            started = time.perf_counter_ns()
            self.index.share()
            taken.append((spent + time.perf_counter_ns() - started) // len(batch))
        return found, np.array(taken, dtype=np.int64)

    def lines_of(self, path: Path) -> Int64Array:
        """Return a path as the reader of lines would hand it over, all marks of one time."""
        marks = np.zeros((len(path.symbols), MARK_COLUMNS), dtype=np.int64)
        marks[:, SYMBOL], marks[:, MANTISSA], marks[:, TS] = path.symbols, path.prices, 1
        marks[:, PLACES] = self.index.view.symbols[path.symbols, MARK_DECIMALS]
        return marks
