"""The engine's own way of following a mark, over the same made-up market as the others."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.hot_market import Int64Array, Market, Path
from benchmarks.hot_ways import Way
from engine.core.book import CROSS
from engine.core.events import INSURANCE
from engine.core.kernels.follow import MANTISSA, MARK_COLUMNS, PLACES, SYMBOL, TS, follow_marks
from engine.core.kernels.rows import load_balances, put_balance
from engine.core.kernels.tables import FLAGS, MARK_DECIMALS, MARK_TS, PRICE, STALE_COUNT, SYSTEM
from engine.core.kernels.triggers import concerned_rows_into, share_stale
from engine.core.params import Asset, Instrument, Policy, Risk, Tier
from engine.core.shard import Shard
from engine.units import INT64_MAX, UNIT


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
        lot=(1, max(8 - decimals, 0)),
        mark_decimals=max(decimals, 0),
        tiers=tuple(Tier(floor, rate, leverage) for floor, rate, _, _, leverage in tiers),
    )


class Index(Way):
    """The trigger index, a call for each mark, as when a service takes them one by one."""

    label = "trigger index"

    def __init__(self, market: Market) -> None:
        self.shard = shard_of(market)
        self.book = self.shard.book
        self.view = self.book.tables.view
        self.found = self.book.tables.found_rows
        self.touched = np.zeros(len(self.found), dtype=np.int32)

    def mark(self, symbol: int, price: int) -> int:
        """Take a mark."""
        share_stale(self.view)
        self.view.symbols[symbol, PRICE] = price
        count = int(concerned_rows_into(self.view, symbol, self.found))
        if count:
            rows = np.unique(self.found[:count]) - 1
            count = len(rows)
            self.touched[:count] = rows
        return count

    def deposit(self, rows: Int64Array, amounts: Int64Array) -> None:
        """Add to the wallets of rows."""
        for row, amount in zip((rows + 1).tolist(), amounts.tolist(), strict=True):
            put_balance(self.view, row, 0, int(self.view.balances[row, 0]) + amount)

    def reset(self, market: Market) -> None:
        """Go back to where the market began."""
        self.view.balances[1 : market.accounts + 1, 0] = market.wallet
        self.view.rows[:, FLAGS] &= SYSTEM
        self.view.settings[STALE_COUNT] = 0
        self.book.clock = None
        for symbol, mark in enumerate(market.marks.tolist()):
            self.book.set_mark(symbol, mark, 0, is_seen=True)
        self.shard.episodes.clear()
        self.book.set_all_stale()
        share_stale(self.view)

    def bytes_held(self) -> int:
        """Return how many bytes it holds, room for growth included."""
        return sum(array.nbytes for array in self.view)


class Batches:
    """The trigger index fed with marks many at a time, as the machine feeds it (``Machine.fold``)."""

    label = "trigger index, 256 marks a call"
    size = 256

    def __init__(self, index: Index, market: Market) -> None:
        self.index = index
        self.market = market
        book = index.book
        for symbol in range(len(market.names)):
            book.marks[symbol].is_seen = True
            book.note_mark(symbol)

    def walk(self, path: Path, amounts: Int64Array) -> Int64Array:
        """Walk a path; who is found deposits its amount. Returns the nanoseconds a mark, batch by batch."""
        view, found = self.index.view, self.index.found
        marks = np.zeros((len(path.symbols), MARK_COLUMNS), dtype=np.int64)
        marks[:, SYMBOL], marks[:, MANTISSA], marks[:, TS] = path.symbols, path.prices, 1
        marks[:, PLACES] = view.symbols[path.symbols, MARK_DECIMALS]
        view.symbols[:, MARK_TS] = 0
        stream = np.array([0, INT64_MAX, 0, 0], dtype=np.int64)
        taken = []
        for first in range(0, len(marks), self.size):
            batch, position, spent = marks[first : first + self.size], 0, 0
            while position < len(batch):
                started = time.perf_counter_ns()
                position, count = follow_marks(view, batch, position, stream, found)
                spent += time.perf_counter_ns() - started
                if count:
                    rows = np.unique(found[:count]) - 1
                    self.index.deposit(rows, amounts[rows])
            started = time.perf_counter_ns()
            share_stale(view)
            taken.append((spent + time.perf_counter_ns() - started) // len(batch))
        return np.array(taken, dtype=np.int64)
