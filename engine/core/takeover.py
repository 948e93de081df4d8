"""Who takes the positions of an account that cannot be saved, and at what exact cash: the fund, then the winners.

Takeover and auto-deleveraging move positions at one price per position: the one that leaves the account with exactly
zero equity. The account's equity is split over its positions by maintenance margin, the remainder on the last one by
symbol; each part of a position takes its share of the cash rounded down, the last part the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from weakref import WeakKeyDictionary

import numpy as np

from engine.core import ledger
from engine.core.adl import Winners, allocate, wave_report
from engine.core.book import CROSS, INSURANCE_ROW, LEG_NAMES, NET, Book, Int64Array
from engine.core.events import EVENTS_TOPIC
from engine.core.guards import open_positions
from engine.core.kernels.rows import position_pnls_into, row_standings_into
from engine.core.kernels.tables import FLAGS, WATCHED
from engine.core.kernels.waves import (
    ASSET_PRICE,
    FAILING_CASH,
    FAILING_SIZE,
    HAS_HAIRCUT,
    LOSS,
    LOSS_LOTS,
    LOT_STEPS,
    MARK,
    WAVE_COLUMNS,
    equity_change,
    lots_within_equity_into,
    opposites_into,
)
from engine.core.ledger import fill_cash
from engine.core.pricing import INT64_BOUND, symbol_notional
from engine.core.shard import Episode, Shard
from engine.core.tables import Array
from engine.units import PPM, UNIT, div_up, format_scaled, format_units

# A haircut beyond this factor is as good as no weight at all.
_WEIGHT_MIN = 1_000
# What the weights of an asset without any haircut are.
FULL_WEIGHT = ((0, PPM),)


@dataclass(slots=True)
class Share:
    """One position of the failing account with its part of the equity and the exact cash it goes for.

    ``equity`` in valuation units (negative: a loss the taker bears), ``cash`` in settlement units; ``left`` what is
    still to be placed, in steps.
    """

    symbol: int
    leg: int
    size: int
    equity: int
    cash: int
    left: int
    cash_left: int
    equity_left: int


def run_waterfall(shard: Shard, episode: Episode) -> bool:
    """Place the row's positions with the fund and then with winners; return whether the row has none left.

    A position without a fresh mark stays, with its part of the equity: nothing changes hands at a price that nobody
    stands behind.
    """
    book, row = shard.book, episode.row
    equity_before = book.equity(row)
    may_go = open_positions(shard, row)
    if is_as_stuck_as_before(shard, episode, may_go):
        return False
    shares = [share for share in exact_shares(book, row) if (share.symbol, share.leg) in may_go]
    takeover(shard, episode, shares, equity_before)
    remaining: dict[tuple[int, int], int] = {}
    for share in shares:
        if share.left:
            deleverage(shard, episode, share)
        if share.left:
            remaining[share.symbol, share.leg] = share.left
    if remaining and remaining != episode.remaining:
        for (symbol, _), left in remaining.items():
            instrument = book.instruments[symbol]
            fields = {
                "liquidation_id": episode.liquidation_id,
                **shard.subject(row),
                "symbol": instrument.symbol,
                "qty": format_scaled(abs(left), instrument.size_decimals),
            }
            shard.emit(EVENTS_TOPIC, book.accounts[row], "adl_remaining", fields)
    episode.remaining = remaining
    return not book.positions_of(row)


def is_as_stuck_as_before(shard: Shard, episode: Episode, keys: list[tuple[int, int]]) -> bool:
    """Return whether it shows at a glance that what found no taker before finds none now.

    A waterfall that is stuck is tried again at each step; in a crash these are many. Without a healthy holder on the
    other side nobody can be deleveraged. The fund takes nothing where one lot of each position costs it more than it
    has above its floor, and with E <= 0 that can be told from the position's part of the loss, -E x MMi / MM, down:

    Be n the positions, P the highest price of their settlement assets, all without a haircut, and K the part less
    n + 2 + P. ``exact_shares`` rounds each part to a unit, and each balance to one that is worth less than P, so the
    position's cash exceeds its worth at the mark by more than K. The cash of some of its lots is rounded down, which
    is worth less than P: it exceeds theirs by more than K / lots - P for each. With K / lots - P at least what the
    fund has above its floor, any lot leaves it under. That is so if the part is at least (that + n + 2 + 2 P) x lots.
    A fund under its floor takes all or nothing, so for it the part need only be that much once, or anything where the
    fund is further under: as the part is never negative, the same comparison says it. What is less than a lot is left
    to the waterfall itself.
    """
    book, row = shard.book, episode.row
    sizes = {key: book.position(row, *key)[0] for key in keys}
    equity, maintenance = book.equity(row), book.maintenance(row)
    if episode.remaining != sizes or equity > 0 or maintenance == 0:
        return False
    settles = {book.settle[symbol] for symbol, _ in book.positions_of(row)}
    if any(book.assets[asset].weights != FULL_WEIGHT for asset in settles):
        return False
    roundings = len(book.positions_of(row)) + 2 + 2 * div_up(max(book.asset_prices[a].value for a in settles), UNIT)
    room = fund_equity(book) - book.policy.insurance_floor_units + roundings
    for (symbol, leg), size in sizes.items():
        lot_steps = book.instruments[symbol].lot_steps
        part = -equity * book.held_values(row, symbol, leg)[1] // maintenance
        if abs(size) < lot_steps or part < room * div_up(abs(size), lot_steps):
            return False
    return not any(healthy_opposites(shard, symbol, size)[1].size for (symbol, _), size in sizes.items())


def exact_shares(book: Book, row: int) -> list[Share]:
    """Return the row's positions with the exact cash that leaves it zero equity, in symbol order.

    Each position's cash brings the row from its equity before to that less the position's part, at the value balances
    have as collateral: so each part carries the haircut of what its own close turns from profit into a balance.
    """
    equity, maintenance = book.equity(row), book.maintenance(row)
    keys = book.positions_of(row)
    balances = [book.wallet(row, asset) for asset in range(len(book.assets))]
    entries = [book.held_values(row, symbol, leg) for symbol, leg in keys]
    pnl_left = sum(pnl for pnl, _, _ in entries)
    shares, given = [], 0
    for index, ((symbol, leg), (pnl, margin, _)) in enumerate(zip(keys, entries, strict=True)):
        size, cost = book.position(row, symbol, leg)
        asset = book.settle[symbol]
        is_last = index == len(keys) - 1
        part = equity - given
        if not is_last:
            # Parts of a loss are rounded away from zero, but never beyond what is left of it: no unit is lost twice.
            part = max(equity * margin // maintenance, min(part, 0))
        given += part
        pnl_left -= pnl
        balance = balance_worth(book, balances, asset, equity - given - pnl_left)
        cash = balance - balances[asset] - cost
        balances[asset] = balance
        shares.append(Share(symbol, leg, size, part, cash, size, cash, part))
    return shares


def balance_worth(book: Book, balances: list[int], asset: int, target: int) -> int:
    """Return the smallest balance of ``asset`` that makes these balances together worth at least ``target``.

    Where its last slice has (nearly) no weight, no balance may do it: then 0, and debts stay to be settled.
    """
    others = sum(book.balance_value(other, balance) for other, balance in enumerate(balances) if other != asset)
    needed, price = target - others, book.asset_prices[asset].value
    if needed <= 0:
        # A debt counts in full: the largest that the rest still carries.
        return -(-needed * UNIT // price)
    if book.assets[asset].weights == FULL_WEIGHT:
        return div_up(needed * UNIT, price)
    # What is worth more than 64 bits hold is no balance.
    low, high = 0, min(_WEIGHT_MIN * div_up(needed * UNIT, price), INT64_BOUND * UNIT // max(price, UNIT))
    if book.balance_value(asset, high) < needed:
        return 0
    while low < high:
        middle = (low + high) // 2
        if book.balance_value(asset, middle) >= needed:
            high = middle
        else:
            low = middle + 1
    return low


def part_cash(share: Share, size: int) -> int:
    """Return the cash of ``size`` steps of what is left: its share rounded down, the last part the rest."""
    return share.cash_left if size == share.left else share.cash * abs(size) // abs(share.size)


def take_part(share: Share, size: int) -> tuple[int, int]:
    """Take ``size`` steps (signed) off what is left; return their cash and their part of the equity."""
    cash, equity = part_cash(share, size), share.equity_left
    if size != share.left:
        # Each part of a loss is rounded away from zero, but never beyond what is left of it.
        equity = max(share.equity * abs(size) // abs(share.size), min(share.equity_left, 0))
    share.left -= size
    share.cash_left -= cash
    share.equity_left -= equity
    return cash, equity


def takeover(shard: Shard, episode: Episode, shares: list[Share], equity_before: int) -> None:
    """Hand positions to the fund, in symbol order, as many lots of each as it can carry."""
    book, row, taken = shard.book, episode.row, []
    for share in shares:
        size = fund_capacity(book, share)
        if size == 0:
            continue
        instrument, asset = book.instruments[share.symbol], book.settle[share.symbol]
        cash, equity = take_part(share, size)
        before = book.wallet(INSURANCE_ROW, asset)
        ledger.hand_over(book, row, share.symbol, share.leg, size, cash, INSURANCE_ROW, NET)
        episode.paid_by_insurance += max(0, -equity)
        shard.note_fund(asset, before, "takeover", account=book.accounts[row], liquidation_id=episode.liquidation_id)
        taken.append(
            {
                "symbol": instrument.symbol,
                "leg": LEG_NAMES[share.leg],
                "qty": format_scaled(size, instrument.size_decimals),
                "cash": format_units(cash),
                "price": cash_price(book, share.symbol, size, cash),
            }
        )
    if taken:
        fields = {
            "liquidation_id": episode.liquidation_id,
            **shard.subject(row),
            "equity_before": format_units(equity_before),
            "positions": taken,
        }
        shard.emit(EVENTS_TOPIC, book.accounts[row], "takeover", fields)
        episode.outcome = episode.outcome or "taken_over"


def fund_capacity(book: Book, share: Share) -> int:
    """Return the largest part (signed steps, whole lots) that leaves the fund's equity at or above its floor.

    The fund's equity changes by what the part is worth at the mark less its cash: proportionally to the lots, up to
    the rounding of the cash, so halving finds the largest.
    """
    floor = book.policy.insurance_floor_units
    equity = fund_equity(book)
    instrument = book.instruments[share.symbol]
    lots = abs(share.left) // instrument.lot_steps
    sign = 1 if share.left > 0 else -1

    def after(count: int) -> int:
        size = sign * count * instrument.lot_steps
        cash = part_cash(share, size)
        worth = fill_cash(book, share.symbol, -size, book.marks[share.symbol].value)
        return equity + (worth - cash) * book.asset_prices[book.settle[share.symbol]].value // UNIT

    if after(lots) >= floor:
        return share.left
    if equity < floor:
        return 0
    low, high = 0, lots - 1
    while low < high:
        middle = (low + high + 1) // 2
        if after(middle) >= floor:
            low = middle
        else:
            high = middle - 1
    return sign * low * instrument.lot_steps


def fund_equity(book: Book) -> int:
    """Return the fund's wallets at their prices plus its PnL at marks, without haircuts, in valuation units."""
    total = 0
    for asset, price in enumerate(book.asset_prices):
        total += book.wallet(INSURANCE_ROW, asset) * price.value // UNIT
    for symbol, leg in book.positions_of(INSURANCE_ROW):
        total += book.held_values(INSURANCE_ROW, symbol, leg)[0]
    return total


def cash_price(book: Book, symbol: int, size: int, cash: int) -> str | None:
    """Return the price that ``cash`` for ``size`` means, on the instrument's price grid, rounded half-even."""
    instrument = book.instruments[symbol]
    if instrument.is_inverse:
        if cash == 0:
            return None
        price = Fraction(-size * instrument.value_num, cash)
    else:
        price = Fraction(cash * instrument.value_den, size * instrument.value_num)
    return format_scaled(round(price), instrument.price_decimals)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The winners of a wave with where their positions stand."""

    rows: Int64Array
    legs: Int64Array
    winners: Winners


def deleverage(shard: Shard, episode: Episode, share: Share) -> None:
    """Close what is left of a position against winners on the other side, by the policy's rule, at the same cash."""
    book, instrument = shard.book, shard.book.instruments[share.symbol]
    needed = abs(share.left) // instrument.lot_steps
    candidates = try_winners(shard, share)
    if candidates is None:
        return
    winners = candidates.winners
    allocation = allocate(book.policy.adl_rule, winners, needed).copy()
    step = instrument.lot_steps if share.left > 0 else -instrument.lot_steps
    for index in np.flatnonzero(allocation).tolist():
        row, leg, size = int(candidates.rows[index]), int(candidates.legs[index]), step * int(allocation[index])
        if is_solvent_after(book, share, row, leg, size):
            deleverage_one(shard, episode, share, row, leg, size)
        else:
            allocation[index] = 0
    if not allocation.any():
        return
    scale = instrument.lot_steps
    fields = {
        "liquidation_id": episode.liquidation_id,
        **shard.subject(episode.row),
        "symbol": instrument.symbol,
        "rule": book.policy.adl_rule,
        **wave_report(book.policy.adl_rule, winners, allocation, needed),
        "needed_qty": format_scaled(needed * scale, instrument.size_decimals),
        "taken_qty": format_scaled(int(allocation.sum()) * scale, instrument.size_decimals),
    }
    shard.emit(EVENTS_TOPIC, book.accounts[episode.row], "adl_wave", fields)
    episode.outcome = "deleveraged"


def is_solvent_after(book: Book, share: Share, taker: int, taker_leg: int, size: int) -> bool:
    """Return whether a winner has E >= 0 after it closed ``size`` of its position, to the last unit.

    Whoever takes the last part pays what the roundings of the others left over. Where that is more than it has, its
    part stays open and is tried again.
    """
    symbol, asset = share.symbol, book.settle[share.symbol]
    wave = wave_terms(book, symbol, size, part_cash(share, size))
    position = (*book.position(taker, symbol, taker_leg), book.wallet(taker, asset))
    terms = book.specs[symbol], book.tiers[symbol], book.weights[asset]
    return bool(book.equity(taker) + equity_change(wave, position, *terms, int(wave[LOSS_LOTS])) >= 0)


def deleverage_one(shard: Shard, episode: Episode, share: Share, taker: int, taker_leg: int, size: int) -> None:
    """Move ``size`` of the failing position onto one winner, which closes that much of its own."""
    book, instrument = shard.book, shard.book.instruments[share.symbol]
    cash, equity = take_part(share, size)
    ledger.hand_over(book, episode.row, share.symbol, share.leg, size, cash, taker, taker_leg)
    episode.paid_by_adl += max(0, -equity)
    shard.counters.adl += 1
    shard.dirty.add(taker)
    counterparty = book.accounts[taker]
    bucket = book.buckets[taker]
    fields = {
        "liquidation_id": episode.liquidation_id,
        "symbol": instrument.symbol,
        **shard.subject(episode.row),
        "counterparty": counterparty,
        **({"counterparty_bucket": bucket} if bucket != CROSS else {}),
        "qty": format_scaled(abs(size), instrument.size_decimals),
        "price": cash_price(book, share.symbol, size, cash),
        "cash": format_units(cash),
    }
    shard.emit(EVENTS_TOPIC, book.accounts[episode.row], "adl", fields)


def try_winners(shard: Shard, share: Share) -> Candidates | None:
    """Return who may be deleveraged against a position, by account, bucket and leg, or None where nobody may.

    Each can give what is needed at the most, and no more than leaves it E >= 0.
    """
    book, symbol = shard.book, share.symbol
    instrument, asset_price = book.instruments[symbol], book.asset_prices[book.settle[symbol]].value
    rows, ids = healthy_opposites(shard, symbol, share.size)
    if not ids.size:
        return None
    order = name_order(book)
    # A row has one position on this side, so its leg never decides.
    places = np.argsort(order.ranks[rows])
    rows, ids = rows[places], ids[places]
    positions = book.tables.positions[ids]
    lots = np.abs(positions["size"]) // instrument.lot_steps
    lots_max = np.minimum(lots, abs(share.left) // instrument.lot_steps)
    standings = np.zeros((ids.size, 3), dtype=np.int64)
    row_standings_into(book.tables.view, rows, standings)
    lots_within_equity(book, share, rows, positions, standings[:, 0], lots_max)
    can_give = lots_max > 0
    if not can_give.any():
        return None
    positions, ids, rows = positions[can_give], ids[can_give], rows[can_give]
    pnls = np.zeros(ids.size, dtype=np.int64)
    position_pnls_into(book.tables.view, ids, pnls)
    equity, _, gross = columns(standings[can_give])
    notional_per_lot = symbol_notional(book, symbol, instrument.lot_steps, book.marks[symbol].value) * asset_price
    winners = Winners(
        accounts=order.accounts[rows],
        lots=lots[can_give],
        lots_max=lots_max[can_give],
        pnl=pnls,
        entry_notional=to_valuation(np.abs(positions["cost"]), asset_price),
        account_notional=gross,
        equity=equity,
        notional_per_lot=Fraction(notional_per_lot, UNIT),
    )
    return Candidates(rows, positions["leg"], winners)


def healthy_opposites(shard: Shard, symbol: int, size: int) -> tuple[Int64Array, Int64Array]:
    """Return rows with E > MM that have a position on the other side of ``size``, and the ids of these positions.

    Not the fund's, and nobody's who is in an episode.
    """
    book = shard.book
    found = np.zeros((2, book.holders_count(symbol)), dtype=np.int64)
    rows, ids = found[:, : opposites_into(book.tables.view, symbol, size > 0, found[0], found[1])]
    # Whoever is in an episode is watched, and few of the healthy are.
    watched = np.flatnonzero(book.tables.rows[rows, FLAGS] & WATCHED)
    busy = [index for index in watched.tolist() if int(rows[index]) in shard.episodes]
    return np.delete(rows, busy), np.delete(ids, busy)


def lots_within_equity(
    book: Book, share: Share, rows: Int64Array, positions: Array, equities: Int64Array, lots_max: Int64Array
) -> None:
    """Lower ``lots_max`` to what the rows that hold ``positions`` can close with E >= 0 after."""
    symbol, asset = share.symbol, book.settle[share.symbol]
    wave = wave_terms(book, symbol, share.size, share.cash)
    lots_within_equity_into(
        wave,
        np.ascontiguousarray(positions["size"]),
        np.ascontiguousarray(positions["cost"]),
        book.balances(asset)[rows],
        np.ascontiguousarray(equities),
        book.specs[symbol],
        book.tiers[symbol],
        book.weights[asset],
        lots_max,
    )


def wave_terms(book: Book, symbol: int, size: int, cash: int) -> Int64Array:
    """Return what is the same for all who take some of ``size`` steps that go for ``cash``: see the kernels."""
    asset = book.settle[symbol]
    mark, asset_price = book.marks[symbol].value, book.asset_prices[asset].value
    # What takers of the whole position pay above its worth at the mark: their loss, spread over its lots.
    loss = (cash - fill_cash(book, symbol, -size, mark)) * asset_price // UNIT + 1
    lot_steps = book.instruments[symbol].lot_steps
    wave = np.zeros(WAVE_COLUMNS, dtype=np.int64)
    wave[FAILING_SIZE], wave[FAILING_CASH], wave[LOT_STEPS] = size, cash, lot_steps
    wave[LOSS], wave[LOSS_LOTS] = loss, abs(size) // lot_steps
    wave[MARK], wave[ASSET_PRICE] = mark, asset_price
    wave[HAS_HAIRCUT] = book.assets[asset].weights != FULL_WEIGHT
    return wave


def columns(table: Int64Array) -> Int64Array:
    """Return a table by column, each in one piece."""
    return np.ascontiguousarray(table.T)


def to_valuation(amounts: Int64Array, asset_price: int) -> Int64Array:
    """Return settlement units >= 0 in valuation units, rounded down."""
    if asset_price == UNIT:
        return amounts
    return np.array([amount * asset_price // UNIT for amount in amounts.tolist()], dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class NameOrder:
    """Where each row stands by account, then bucket, and the number of its account."""

    ranks: Int64Array
    accounts: Int64Array


_name_orders: WeakKeyDictionary[Book, NameOrder] = WeakKeyDictionary()


def name_order(book: Book) -> NameOrder:
    """Return the order of the book's rows; it is made anew only where rows were opened since, for none ever closes."""
    known = _name_orders.get(book)
    if known is None or known.ranks.size != len(book.accounts):
        rows = sorted(range(len(book.accounts)), key=book.buckets.__getitem__)
        rows.sort(key=book.accounts.__getitem__)
        ranks = np.empty(len(rows), dtype=np.int64)
        ranks[rows] = np.arange(len(rows))
        numbers: dict[str, int] = {}
        accounts = [numbers.setdefault(account, len(numbers)) for account in book.accounts]
        known = _name_orders[book] = NameOrder(ranks, np.array(accounts, dtype=np.int64))
    return known
