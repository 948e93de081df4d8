"""What a shard knows: prices, accounts, positions, balances and the parameters in force.

The unit that has its own margin test is a **row**: an account's cross margin, or one of its isolated buckets. Row
equity and maintenance margin are kept as running sums of exact integers (see ``kernels/reprice.py``); whoever changes
a size, cost or balance does it through ``set_position`` and ``set_wallet``, which keep the sums - and only
``ledger.py`` may do that. Unknown prices are 0; a row with one is never judged.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engine.core.events import BAD_DEBT, CLEARING, FEES, INSURANCE, Leg
from engine.core.kernels.margin import (
    SPEC_COLUMNS,
    TIER_COLUMNS,
    collateral_value,
    position_values,
)
from engine.core.kernels.reprice import (
    COLD,
    COST,
    EQUITY,
    FLAGS,
    GROSS,
    HOLDER_COLUMNS,
    LEG,
    MAINTENANCE,
    MARGIN,
    NOTIONAL,
    PNL,
    ROW,
    SIZE,
    STATE_COLUMNS,
    SYSTEM,
    UNPRICED,
    count_unready,
    count_unready_wallets,
)
from engine.core.params import Asset, Instrument, Policy, Risk
from engine.units import PPM

Int64Array = npt.NDArray[np.int64]

NET, LONG, SHORT = 0, 1, 2
LEG_NAMES: tuple[Leg, ...] = ("net", "long", "short")
CROSS = ""
INSURANCE_ROW = 0
_GROWTH = 2


class Holders:
    """One symbol's open positions, densely packed so that a mark walks them in one pass."""

    def __init__(self) -> None:
        self.table: Int64Array = np.zeros((8, HOLDER_COLUMNS), dtype=np.int64)
        self.count = 0
        self.places: dict[tuple[int, int], int] = {}
        # The largest |size| and |cost| that were ever held: they bound what a mark may be before a sum leaves int64.
        self.size_max = 0
        self.cost_max = 0

    def add(self, row: int, leg: int) -> int:
        """Return the place of a new, empty position."""
        if self.count == len(self.table):
            grown = np.zeros((_GROWTH * self.count, HOLDER_COLUMNS), dtype=np.int64)
            grown[: self.count] = self.table
            self.table = grown
        place = self.count
        self.table[place] = 0
        self.table[place, ROW] = row
        self.table[place, LEG] = leg
        self.places[row, leg] = place
        self.count += 1
        return place

    def remove(self, row: int, leg: int) -> None:
        """Close the gap of a position that is gone with the last one."""
        place = self.places.pop((row, leg))
        self.count -= 1
        if place != self.count:
            self.table[place] = self.table[self.count]
            moved = self.table[place]
            self.places[int(moved[ROW]), int(moved[LEG])] = place


@dataclass(slots=True)
class Clearing:
    """The other side of every fill of one symbol, as Python ints (it adds up all accounts)."""

    size: int = 0
    cost: int = 0


@dataclass(slots=True)
class Price:
    """A mark or an asset price: value in steps (0: unknown), time, and whether the log has shown it yet.

    ``pending`` is an unconfirmed price (0: none) with its time, its source, and the clock when the wait for a
    confirmation began; ``doubters`` are the sources whose latest price lies below the redemption floor (``band.py``).
    """

    value: int = 0
    ts: int = 0
    is_seen: bool = False
    pending: int = 0
    pending_ts: int = 0
    pending_source: str | None = None
    pending_since: int = 0
    doubters: frozenset[str] = frozenset()

    def copy(self) -> Price:
        """Return the same once more; ``dataclasses.replace`` takes four times as long, and each mark needs this."""
        waiting = (self.pending, self.pending_ts, self.pending_source, self.pending_since)
        return Price(self.value, self.ts, self.is_seen, *waiting, self.doubters)


@dataclass(slots=True)
class Wallets:
    """All rows' balances of one asset, with what each counts for as collateral."""

    balances: Int64Array = field(default_factory=lambda: np.zeros(8, dtype=np.int64))
    values: Int64Array = field(default_factory=lambda: np.zeros(8, dtype=np.int64))

    def reserve(self, rows: int) -> None:
        """Make room for ``rows`` rows."""
        if rows > len(self.balances):
            size = max(rows, _GROWTH * len(self.balances))
            for name in ("balances", "values"):
                grown = np.zeros(size, dtype=np.int64)
                old = getattr(self, name)
                grown[: len(old)] = old
                setattr(self, name, grown)


class Book:
    """All state of a shard. Field order follows use: parameters, prices, rows, positions, balances."""

    def __init__(self, risk: Risk) -> None:
        self.policy: Policy = risk.policy
        self.policy_version = 1
        self.rule: Int64Array = np.zeros(3, dtype=np.int64)
        self.clock: int | None = None

        self.instruments: list[Instrument] = []
        self.symbol_index: dict[str, int] = {}
        self.specs: list[Int64Array] = []
        self.tiers: list[Int64Array] = []
        self.settle: list[int] = []
        self.assets: list[Asset] = []
        self.asset_index: dict[str, int] = {}
        self.weights: list[Int64Array] = []

        self.marks: list[Price] = []
        self.asset_prices: list[Price] = []

        self.accounts: list[str] = []
        self.buckets: list[str] = []
        self.row_index: dict[tuple[str, str], int] = {}
        self.state: Int64Array = np.zeros((8, STATE_COLUMNS), dtype=np.int64)
        self.row_positions: list[list[tuple[int, int]]] = []
        # Buckets whose last position is gone, until the ledger has moved what they have left.
        self.emptied: set[int] = set()
        self.touched: Int64Array = np.zeros(8, dtype=np.int64)

        self.holders: list[Holders] = []
        self.clearing: list[Clearing] = []
        self.wallets: list[Wallets] = []
        # Balances of the engine's own accounts per asset, and what came from outside, as Python ints.
        self.system: dict[str, list[int]] = {FEES: [], CLEARING: [], BAD_DEBT: []}
        self.transfers: list[int] = []

        self.set_policy(risk.policy)
        for asset in risk.assets.values():
            self.set_asset(asset)
        for instrument in risk.instruments.values():
            self.set_instrument(instrument)
        self.open_row(INSURANCE, CROSS)

    # Parameters.

    def set_policy(self, policy: Policy) -> None:
        """Put a policy in force."""
        mode_changed = policy.tier_mode != self.policy.tier_mode
        self.policy = policy
        self.rule[:] = (policy.trigger == "below", policy.margin_call_ratio_ppm, policy.margin_call_rearm_ppm)
        if mode_changed:
            for instrument in self.instruments:
                self.set_instrument(instrument)

    def set_asset(self, asset: Asset) -> None:
        """Put an asset's parameters in force; the caller reprices what depends on them."""
        index = self.asset_index.get(asset.name)
        if index is None:
            index = self.asset_index[asset.name] = len(self.assets)
            self.assets.append(asset)
            self.weights.append(weight_table(asset))
            self.wallets.append(Wallets())
            self.wallets[index].reserve(len(self.state))
            self.asset_prices.append(Price())
            self.transfers.append(0)
            for balances in self.system.values():
                balances.append(0)
        self.assets[index] = asset
        self.weights[index] = weight_table(asset)
        if asset.price_units is not None:
            self.set_asset_price(index, asset.price_units, self.asset_prices[index].ts, is_seen=True)

    def set_instrument(self, instrument: Instrument) -> None:
        """Put an instrument's parameters in force; its scales never change while it is known."""
        index = self.symbol_index.get(instrument.symbol)
        is_whole = self.policy.tier_mode == "whole"
        if index is None:
            self.symbol_index[instrument.symbol] = len(self.instruments)
            self.instruments.append(instrument)
            self.specs.append(spec_row(instrument))
            self.tiers.append(tier_table(instrument, is_whole=is_whole))
            self.settle.append(self.asset_index[instrument.settle])
            self.marks.append(Price())
            self.holders.append(Holders())
            self.clearing.append(Clearing())
            return
        self.instruments[index] = instrument
        self.tiers[index] = tier_table(instrument, is_whole=is_whole)

    # Prices.

    def set_mark(self, symbol: int, value: int, ts: int, *, is_seen: bool) -> None:
        """Store a mark and keep count of rows that wait for it; the caller reprices the holders."""
        before = self.symbol_gaps(symbol)
        mark = self.marks[symbol]
        mark.value, mark.ts, mark.is_seen, mark.pending = value, ts, mark.is_seen or is_seen, 0
        self._count_gaps(symbol, before)

    def set_asset_price(self, asset: int, value: int, ts: int, *, is_seen: bool) -> None:
        """Store an asset price and keep count of rows that wait for it; the caller reprices."""
        settled = [symbol for symbol, settle in enumerate(self.settle) if settle == asset]
        before = [self.symbol_gaps(symbol) for symbol in settled]
        price = self.asset_prices[asset]
        was_unpriced, was_cold = price.value == 0, not price.is_seen
        price.value, price.ts, price.is_seen, price.pending = value, ts, price.is_seen or is_seen, 0
        balances = self.wallets[asset].balances
        if was_unpriced and value != 0:
            count_unready_wallets(balances, len(self.accounts), self.state, UNPRICED, -1)
        if was_cold and price.is_seen:
            count_unready_wallets(balances, len(self.accounts), self.state, COLD, -1)
        for symbol, gaps in zip(settled, before, strict=True):
            self._count_gaps(symbol, gaps)

    def restore_mark(self, symbol: int, before: Price) -> None:
        """Put a mark back in force after a new one could not be borne, and every position's values with it."""
        gaps = self.symbol_gaps(symbol)
        self.marks[symbol] = before
        self._count_gaps(symbol, gaps)
        self.revalue_symbol(symbol)

    def restore_asset_price(self, asset: int, before: Price) -> None:
        """Put an asset price back in force, with all values that depend on it; twin of ``restore_mark``."""
        value, ts, is_seen = before.value, before.ts, before.is_seen
        self.set_asset_price(asset, value, ts, is_seen=is_seen)
        self.asset_prices[asset] = before
        for row in np.flatnonzero(self.wallets[asset].balances).tolist():
            self.set_wallet(row, asset, self.wallet(row, asset))
        for symbol, settle in enumerate(self.settle):
            if settle == asset:
                self.revalue_symbol(symbol)

    def revalue_symbol(self, symbol: int) -> None:
        """Bring the values of a symbol's positions in line with the prices in force, one by one."""
        for row, leg in list(self.holders[symbol].places):
            self.set_position(row, symbol, leg, *self.position(row, symbol, leg))

    def set_mark_seen(self, symbol: int) -> None:
        """Note that the log has shown a mark of a symbol, though it is not (yet) in force."""
        mark = self.marks[symbol]
        before, mark.is_seen = self.symbol_gaps(symbol), True
        self._count_gaps(symbol, before)

    def set_asset_price_seen(self, asset: int) -> None:
        """Note that the log has shown a price of an asset, though it is not (yet) in force."""
        price = self.asset_prices[asset]
        pending = price.pending
        self.set_asset_price(asset, price.value, price.ts, is_seen=True)
        price.pending = pending

    def symbol_gaps(self, symbol: int) -> tuple[int, int]:
        """Return whether a position in ``symbol`` lacks a price (0/1), and whether one was not yet seen in the log."""
        mark, settle = self.marks[symbol], self.asset_prices[self.settle[symbol]]
        return int(mark.value == 0 or settle.value == 0), int(not (mark.is_seen and settle.is_seen))

    def asset_gaps(self, asset: int) -> tuple[int, int]:
        """Return the same two for a balance in ``asset``."""
        price = self.asset_prices[asset]
        return int(price.value == 0), int(not price.is_seen)

    def _count_gaps(self, symbol: int, before: tuple[int, int]) -> None:
        holders = self.holders[symbol]
        for column, was, now in zip((UNPRICED, COLD), before, self.symbol_gaps(symbol), strict=True):
            if was != now:
                count_unready(holders.table, holders.count, self.state, column, now - was)

    # Rows.

    def open_row(self, account: str, bucket: str) -> int:
        """Return the row of an account (or bucket), opened if it is new."""
        row = self.row_index.get((account, bucket))
        if row is None:
            row = len(self.accounts)
            if row == len(self.state):
                grown = np.zeros((_GROWTH * row, STATE_COLUMNS), dtype=np.int64)
                grown[:row] = self.state
                self.state = grown
                for wallets in self.wallets:
                    wallets.reserve(len(grown))
            self.row_index[account, bucket] = row
            self.accounts.append(account)
            self.buckets.append(bucket)
            self.row_positions.append([])
            if account == INSURANCE:
                self.state[row, FLAGS] = SYSTEM
        return row

    def equity(self, row: int) -> int:
        """Return a row's equity in valuation units."""
        return int(self.state[row, EQUITY])

    def maintenance(self, row: int) -> int:
        """Return a row's maintenance margin in valuation units."""
        return int(self.state[row, MAINTENANCE])

    def gross(self, row: int) -> int:
        """Return the sum of a row's notionals in valuation units, each rounded down."""
        return int(self.state[row, GROSS])

    def is_priced(self, row: int) -> bool:
        """Return whether every price the row depends on is known."""
        return bool(self.state[row, UNPRICED] == 0)

    def is_warm(self, row: int) -> bool:
        """Return whether the log has shown every price the row depends on."""
        return bool(self.state[row, COLD] == 0)

    # Positions and balances: written by the ledger only.

    def position(self, row: int, symbol: int, leg: int) -> tuple[int, int]:
        """Return signed size and cost of a position, (0, 0) if there is none."""
        holders = self.holders[symbol]
        place = holders.places.get((row, leg))
        if place is None:
            return 0, 0
        entry = holders.table[place]
        return int(entry[SIZE]), int(entry[COST])

    def set_position(self, row: int, symbol: int, leg: int, size: int, cost: int) -> None:
        """Store a position and move the row's sums by the difference; a size of 0 removes it."""
        holders = self.holders[symbol]
        place = holders.places.get((row, leg))
        if place is None:
            if size == 0:
                return
            place = holders.add(row, leg)
            self.row_positions[row].append((symbol, leg))
            self.row_positions[row].sort(key=self.position_order)
            unpriced, cold = self.symbol_gaps(symbol)
            self.state[row, UNPRICED] += unpriced
            self.state[row, COLD] += cold
        entry = holders.table[place]
        entry[SIZE], entry[COST] = size, cost
        holders.size_max = max(holders.size_max, abs(size))
        holders.cost_max = max(holders.cost_max, abs(cost))
        pnl, margin, notional = self.position_values(symbol, size, cost)
        self.state[row, EQUITY] += pnl - entry[PNL]
        self.state[row, MAINTENANCE] += margin - entry[MARGIN]
        self.state[row, GROSS] += notional - entry[NOTIONAL]
        entry[PNL], entry[MARGIN], entry[NOTIONAL] = pnl, margin, notional
        if size == 0:
            holders.remove(row, leg)
            self.row_positions[row].remove((symbol, leg))
            if self.buckets[row] != CROSS and not self.row_positions[row]:
                self.emptied.add(row)
            unpriced, cold = self.symbol_gaps(symbol)
            self.state[row, UNPRICED] -= unpriced
            self.state[row, COLD] -= cold

    def position_order(self, key: tuple[int, int]) -> tuple[str, int]:
        """Return the sort key of a position within its row: symbol name, then leg."""
        return self.instruments[key[0]].symbol, key[1]

    def position_values(
        self, symbol: int, size: int, cost: int, mark: int = 0, asset_price: int = 0
    ) -> tuple[int, int, int]:
        """Return PnL, maintenance margin and notional of a position in valuation units.

        At the prices in force, or at those given (0: the one in force).
        """
        mark = mark or self.marks[symbol].value
        asset_price = asset_price or self.asset_prices[self.settle[symbol]].value
        if mark == 0 or asset_price == 0 or size == 0:
            return 0, 0, 0
        values = position_values(self.specs[symbol], self.tiers[symbol], size, cost, mark, asset_price)
        return int(values[0]), int(values[1]), int(values[2])

    def wallet(self, row: int, asset: int) -> int:
        """Return a row's balance of an asset in units."""
        return int(self.wallets[asset].balances[row])

    def set_wallet(self, row: int, asset: int, balance: int) -> None:
        """Store a balance and move the row's equity by the difference in collateral value."""
        wallets = self.wallets[asset]
        before = int(wallets.balances[row])
        wallets.balances[row] = balance
        value = self.balance_value(asset, balance)
        self.state[row, EQUITY] += value - wallets.values[row]
        wallets.values[row] = value
        change = int(balance != 0) - int(before != 0)
        if change:
            unpriced, cold = self.asset_gaps(asset)
            self.state[row, UNPRICED] += change * unpriced
            self.state[row, COLD] += change * cold

    def balance_value(self, asset: int, balance: int, price: int = 0) -> int:
        """Return what a balance counts for as collateral, in valuation units, at the price in force or one given."""
        price = price or self.asset_prices[asset].value
        return 0 if price == 0 else int(collateral_value(self.weights[asset], balance, price))


def spec_row(instrument: Instrument) -> Int64Array:
    """Return an instrument as the kernels read it."""
    row = np.zeros(SPEC_COLUMNS, dtype=np.int64)
    row[:] = (instrument.is_inverse, instrument.value_num, instrument.value_den)
    return row


def tier_table(instrument: Instrument, *, is_whole: bool) -> Int64Array:
    """Return an instrument's tiers with their deductions: deduction[k] = deduction[k-1] + floor[k] x rate step."""
    rows = np.zeros((len(instrument.tiers), TIER_COLUMNS), dtype=np.int64)
    deduction, rate = 0, instrument.tiers[0].rate_ppm
    for index, tier in enumerate(instrument.tiers):
        if not is_whole:
            deduction += tier.floor_units * (tier.rate_ppm - rate)
            rate = tier.rate_ppm
        rows[index] = (tier.floor_units, tier.rate_ppm, deduction // PPM, deduction % PPM, tier.leverage_ppm)
    return rows


def weight_table(asset: Asset) -> Int64Array:
    """Return an asset's collateral weights with the constant that each slice inherits from the ones before."""
    rows = np.zeros((len(asset.weights), 4), dtype=np.int64)
    constant, weight = 0, asset.weights[0][1]
    for index, (floor, slice_weight) in enumerate(asset.weights):
        constant += floor * (weight - slice_weight)
        weight = slice_weight
        rows[index] = (floor, slice_weight, constant // PPM, constant % PPM)
    return rows
