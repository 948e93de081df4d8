"""What a shard knows: prices, accounts, positions, balances and the parameters in force.

The unit that has its own margin test is a **row**: an account's cross margin, or one of its isolated buckets. What
kernels read is in ``tables``, written through ``set_position`` and ``set_wallet`` - which only ``ledger.py`` may call -
and the setters of prices and parameters. A row's equity and margin are computed when somebody asks, and remembered
until something changes. Unknown prices are 0; a row with one is never judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.core.events import BAD_DEBT, CLEARING, FEES, INSURANCE, Leg
from engine.core.kernels.margin import SPEC_COLUMNS, TIER_COLUMNS, collateral_value, position_values
from engine.core.kernels.rows import (
    EMPTIED,
    FULL,
    change_asset_gaps,
    change_gaps,
    count_positions,
    holder_ids_into,
    position_of,
    put_balance,
    put_position,
    row_positions_into,
    row_standing,
    set_all_stale,
    set_flag,
)
from engine.core.kernels.tables import (
    BASE,
    COLD,
    COST_MAX,
    COUNT,
    FLAGS,
    GAP_COLD,
    GAP_UNPRICED,
    IS_BEHIND,
    IS_OPEN,
    LOT_STEPS,
    MARK_DECIMALS,
    MARK_STEPS,
    MARK_TS,
    PRICE,
    PRICE_DECIMALS,
    RANK,
    SIZE_DECIMALS,
    SIZE_MAX,
    STANDING_FLAGS,
    STEP_UNITS,
    SYSTEM,
    UNPRICED,
)
from engine.core.params import Asset, Instrument, Policy, Risk
from engine.core.tables import TableStore
from engine.units import INT64_MAX, PPM

Int64Array = npt.NDArray[np.int64]

NET, LONG, SHORT = 0, 1, 2
LEG_NAMES: tuple[Leg, ...] = ("net", "long", "short")
CROSS = ""
INSURANCE_ROW = 0
# Positions of a row that are read in one call; most rows have fewer.
_POSITIONS_MAX = 64


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


class Book:
    """All state of a shard. Field order follows use: parameters, prices, rows, what is posted."""

    def __init__(self, risk: Risk) -> None:
        self.tables = TableStore()
        self.policy: Policy = risk.policy
        self.policy_version = 1
        self.clock: int | None = None

        self.instruments: list[Instrument] = []
        self.symbol_index: dict[str, int] = {}
        self.specs: list[Int64Array] = []
        self.tiers: list[Int64Array] = []
        self.settle: list[int] = []
        self.assets: list[Asset] = []
        self.asset_index: dict[str, int] = {}
        self.weights: list[Int64Array] = []

        self._marks: list[Price] = []
        # Whether kernels have put marks in force that ``_marks`` do not say yet.
        self._marks_are_behind = False
        self.asset_prices: list[Price] = []
        # The marks and asset prices of which one waits to be confirmed.
        self.waiting: set[tuple[str, int]] = set()

        self.accounts: list[str] = []
        self.buckets: list[str] = []
        self.row_index: dict[tuple[str, str], int] = {}
        # Buckets whose last position is gone, until the ledger has moved what they have left.
        self.emptied: set[int] = set()
        self.standings: dict[int, tuple[int, int, int]] = {}
        self.scratch: Int64Array = np.zeros((_POSITIONS_MAX, 2), dtype=np.int64)
        # Whether every price has all rows looked at that depend on it, as if there were no trigger index.
        self.is_scanned = False
        # Whether every price has that done beside the trigger index, and the two compared.
        self.is_verified = False

        self.clearing: list[Clearing] = []
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
        self.tables.set_rule(
            below=policy.trigger == "below",
            call_ppm=policy.margin_call_ratio_ppm,
            rearm_ppm=policy.margin_call_rearm_ppm,
        )
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
            self.asset_prices.append(Price())
            self.transfers.append(0)
            for balances in self.system.values():
                balances.append(0)
            self.tables.add_asset()
            self._count_asset_gaps(index)
        self.assets[index] = asset
        self.weights[index] = weight_table(asset)
        self.tables.set_weights(index, self.weights[index])
        self.tables.set_fixed(index, is_fixed=asset.price_units is not None)
        self.tables.assets[index, STEP_UNITS] = asset.step_units
        self.standings.clear()
        if asset.price_units is not None:
            self.set_asset_price(index, asset.price_units, self.asset_prices[index].ts, is_seen=True)

    def set_instrument(self, instrument: Instrument) -> None:
        """Put an instrument's parameters in force; its scales never change while it is known."""
        index = self.symbol_index.get(instrument.symbol)
        tiers = tier_table(instrument, is_whole=self.policy.tier_mode == "whole")
        if index is None:
            index = self.symbol_index[instrument.symbol] = len(self.instruments)
            self.instruments.append(instrument)
            self.specs.append(spec_row(instrument))
            self.tiers.append(tiers)
            self.settle.append(self.asset_index[instrument.settle])
            self._marks.append(Price())
            self.clearing.append(Clearing())
            self.tables.add_symbol(self.specs[index], self.settle[index])
            for rank, name in enumerate(sorted(self.symbol_index)):
                self.tables.symbols[self.symbol_index[name], RANK] = rank
            self._count_gaps(index)
        self.instruments[index] = instrument
        self.tiers[index] = tiers
        self.tables.set_tiers(index, tiers)
        # More steps than any price has leave each mark to exact integers.
        grid = instrument.mark_decimals, min(instrument.mark_steps, INT64_MAX)
        self.tables.symbols[index, [MARK_DECIMALS, MARK_STEPS]] = grid
        scales = instrument.size_decimals, instrument.price_decimals, min(instrument.lot_steps, INT64_MAX)
        self.tables.symbols[index, [SIZE_DECIMALS, PRICE_DECIMALS, LOT_STEPS]] = scales
        self.standings.clear()

    # Prices.

    @property
    def marks(self) -> list[Price]:
        """The marks by symbol."""
        if self._marks_are_behind:
            self._marks_are_behind = False
            moved = np.flatnonzero(self.tables.symbols[:, IS_BEHIND])
            for symbol, price, ts in zip(
                moved.tolist(), *self.tables.symbols[moved][:, [PRICE, MARK_TS]].T.tolist(), strict=True
            ):
                self._marks[symbol].value, self._marks[symbol].ts = price, ts
            self.tables.symbols[moved, IS_BEHIND] = 0
        return self._marks

    @marks.setter
    def marks(self, marks: list[Price]) -> None:
        self._marks = marks

    def marks_moved(self, clock: int) -> None:
        """Take note that a kernel has put marks in force, and moved the clock."""
        self._marks_are_behind = True
        self.clock = clock
        self.standings.clear()

    def note_mark(self, symbol: int) -> None:
        """Tell the kernels whether a symbol's next mark may be put in force at once: none waits to be confirmed."""
        mark = self.marks[symbol]
        is_open = mark.value != 0 and mark.is_seen and mark.pending == 0
        self.tables.symbols[symbol, [IS_OPEN, MARK_TS]] = is_open, max(mark.ts, mark.pending_ts)
        (self.waiting.add if mark.pending else self.waiting.discard)(("mark", symbol))

    def note_asset_price(self, asset: int) -> None:
        """Note whether a price of an asset waits to be confirmed."""
        (self.waiting.add if self.asset_prices[asset].pending else self.waiting.discard)(("asset", asset))

    def set_mark(self, symbol: int, value: int, ts: int, *, is_seen: bool) -> bool:
        """Store a mark and keep count of rows that wait for it; return whether some wait no more.

        The caller looks at the rows it concerns.
        """
        mark = self.marks[symbol]
        mark.value, mark.ts, mark.is_seen, mark.pending = value, ts, mark.is_seen or is_seen, 0
        self.tables.symbols[symbol, PRICE] = value
        self.standings.clear()
        self.note_mark(symbol)
        return self._count_gaps(symbol)

    def set_asset_price(self, asset: int, value: int, ts: int, *, is_seen: bool) -> bool:
        """Store an asset price and keep count of rows that wait for it; twin of ``set_mark``."""
        price = self.asset_prices[asset]
        price.value, price.ts, price.is_seen, price.pending = value, ts, price.is_seen or is_seen, 0
        self.tables.assets[asset, PRICE] = value
        self.standings.clear()
        self.note_asset_price(asset)
        return self._count_asset_gaps(asset)

    def set_mark_seen(self, symbol: int) -> None:
        """Note that the log has shown a mark of a symbol, though it is not (yet) in force."""
        self.marks[symbol].is_seen = True
        self.note_mark(symbol)
        self._count_gaps(symbol)

    def set_asset_price_seen(self, asset: int) -> None:
        """Note that the log has shown a price of an asset, though it is not (yet) in force."""
        self.asset_prices[asset].is_seen = True
        self.note_asset_price(asset)
        self._count_asset_gaps(asset)

    def note_prices(self) -> None:
        """Bring the tables in line with ``marks`` and ``asset_prices``, which somebody else has set."""
        self.tables.symbols[:, PRICE] = [mark.value for mark in self.marks]
        for symbol in range(len(self.marks)):
            self.note_mark(symbol)
        self.tables.assets[:, PRICE] = [price.value for price in self.asset_prices]
        self.standings.clear()
        for asset in range(len(self.assets)):
            self.note_asset_price(asset)
            self._count_asset_gaps(asset)

    def _count_gaps(self, symbol: int) -> bool:
        """Keep count of the rows whose position in ``symbol`` lacks a price; return whether that has changed."""
        mark, settle = self.marks[symbol], self.asset_prices[self.settle[symbol]]
        unpriced = int(mark.value == 0 or settle.value == 0)
        cold = int(not (mark.is_seen and settle.is_seen))
        if self.tables.symbols[symbol, [GAP_UNPRICED, GAP_COLD]].tolist() == [unpriced, cold]:
            return False
        change_gaps(self.tables.view, symbol, unpriced, cold)
        return True

    def _count_asset_gaps(self, asset: int) -> bool:
        """Keep count of the rows whose balance in ``asset``, or a position settled in it, lacks a price."""
        price = self.asset_prices[asset]
        unpriced, cold = int(price.value == 0), int(not price.is_seen)
        changed: bool = self.tables.assets[asset, [GAP_UNPRICED, GAP_COLD]].tolist() != [unpriced, cold]
        if changed:
            change_asset_gaps(self.tables.view, asset, len(self.accounts), unpriced, cold)
        for symbol in self.settled_in(asset):
            changed |= self._count_gaps(symbol)
        return changed

    def settled_in(self, asset: int) -> list[int]:
        """Return the symbols that settle in an asset."""
        return [symbol for symbol, settle in enumerate(self.settle) if settle == asset]

    # Rows.

    def open_row(self, account: str, bucket: str) -> int:
        """Return the row of an account (or bucket), opened if it is new."""
        row = self.row_index.get((account, bucket))
        if row is None:
            row = self.row_index[account, bucket] = len(self.accounts)
            self.accounts.append(account)
            self.buckets.append(bucket)
            self.tables.open_rows(row, row + 1)
            if account == INSURANCE:
                self.tables.rows[row, FLAGS] = SYSTEM
        return row

    def restore_rows(self, accounts: list[str], buckets: list[str]) -> None:
        """Put rows in place of those there are, without positions, balances and flags."""
        self.accounts, self.buckets = accounts, buckets
        self.row_index = {key: row for row, key in enumerate(zip(accounts, buckets, strict=True))}
        self.tables.open_rows(0, len(accounts))

    def rows_of(self, account: str) -> list[int]:
        """Return the rows of an account: the cross row, if it has one, then its buckets by name."""
        rows = (self.row_index.get((account, bucket)) for bucket in (CROSS, *self.symbol_index))
        return sorted((row for row in rows if row is not None), key=self.buckets.__getitem__)

    def standing(self, row: int) -> tuple[int, int, int]:
        """Return a row's equity, maintenance margin and notional in valuation units, each notional rounded down."""
        known = self.standings.get(row)
        if known is None:
            equity, maintenance, gross = row_standing(self.tables.view, row)
            known = self.standings[row] = int(equity), int(maintenance), int(gross)
        return known

    def equity(self, row: int) -> int:
        """Return a row's equity in valuation units."""
        return self.standing(row)[0]

    def maintenance(self, row: int) -> int:
        """Return a row's maintenance margin in valuation units."""
        return self.standing(row)[1]

    def gross(self, row: int) -> int:
        """Return the sum of a row's notionals in valuation units, each rounded down."""
        return self.standing(row)[2]

    def is_priced(self, row: int) -> bool:
        """Return whether every price the row depends on is known."""
        return bool(self.tables.rows[row, UNPRICED] == 0)

    def is_warm(self, row: int) -> bool:
        """Return whether the log has shown every price the row depends on."""
        return bool(self.tables.rows[row, COLD] == 0)

    def flags(self, row: int) -> int:
        """Return what is remembered of a row: SYSTEM, CALLED, WATCHED."""
        return int(self.tables.rows[row, FLAGS]) & STANDING_FLAGS

    def set_flag(self, row: int, flag: int, *, is_set: bool) -> None:
        """Set or clear a flag of a row."""
        set_flag(self.tables.view, row, flag, is_set)

    def set_all_stale(self) -> None:
        """Have all rows' keys set anew, after a change of parameters."""
        set_all_stale(self.tables.view, len(self.accounts))

    # Positions and balances: written by the ledger only.

    def positions_of(self, row: int) -> list[tuple[int, int]]:
        """Return symbol and leg of a row's positions, by symbol name then leg."""
        count = row_positions_into(self.tables.view, row, self.scratch)
        if count > len(self.scratch):
            self.scratch = np.zeros((2 * count, 2), dtype=np.int64)
            row_positions_into(self.tables.view, row, self.scratch)
        return [(symbol, leg) for symbol, leg in self.scratch[:count].tolist()]

    def holders_count(self, symbol: int) -> int:
        """Return how many positions are open in a symbol."""
        return int(self.tables.symbols[symbol, COUNT])

    def largest(self, symbol: int) -> tuple[int, int]:
        """Return the largest |size| and |cost| that were ever held of a symbol."""
        size, cost = self.tables.symbols[symbol, [SIZE_MAX, COST_MAX]].tolist()
        return size, cost

    def holder_rows(self, symbol: int) -> Int64Array:
        """Return the rows of a symbol's positions, by slot, as a view."""
        base, count = self.tables.symbols[symbol, [BASE, COUNT]].tolist()
        rows: Int64Array = self.tables.holders[base : base + count]
        return rows

    def holder_ids(self, symbol: int) -> Int64Array:
        """Return the ids of a symbol's positions, by slot."""
        ids = np.zeros(self.holders_count(symbol), dtype=np.int64)
        holder_ids_into(self.tables.view, symbol, ids)
        return ids

    def position(self, row: int, symbol: int, leg: int) -> tuple[int, int]:
        """Return signed size and cost of a position, (0, 0) if there is none."""
        size, cost = position_of(self.tables.view, row, symbol, leg)
        return int(size), int(cost)

    def set_position(self, row: int, symbol: int, leg: int, size: int, cost: int) -> None:
        """Store a position; a size of 0 removes it."""
        self.standings.pop(row, None)
        done = put_position(self.tables.view, row, symbol, leg, size, cost)
        if done == FULL:
            self.tables.reserve_positions(symbol, count_positions(self.tables.view, row) + 1)
            done = put_position(self.tables.view, row, symbol, leg, size, cost)
        if done == EMPTIED and self.buckets[row] != CROSS:
            self.emptied.add(row)

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

    def held_values(self, row: int, symbol: int, leg: int) -> tuple[int, int, int]:
        """Return PnL, maintenance margin and notional of a row's position at the prices in force."""
        return self.position_values(symbol, *self.position(row, symbol, leg))

    def balances(self, asset: int) -> Int64Array:
        """Return all rows' balances of an asset in units, as a view."""
        column: Int64Array = self.tables.balances[: len(self.accounts), asset]
        return column

    def wallet(self, row: int, asset: int) -> int:
        """Return a row's balance of an asset in units."""
        return int(self.tables.balances[row, asset])

    def set_wallet(self, row: int, asset: int, balance: int) -> None:
        """Store a balance."""
        self.standings.pop(row, None)
        put_balance(self.tables.view, row, asset, balance)

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
