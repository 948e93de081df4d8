"""Who takes the positions of an account that cannot be saved, and at what exact cash: the fund, then the winners.

Takeover and auto-deleveraging move positions at one price per position: the one that leaves the account with exactly
zero equity. The account's equity is split over its positions by maintenance margin, the remainder on the last one by
symbol; each part of a position takes its share of the cash rounded down, the last part the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from engine.core import ledger
from engine.core.adl import Winner, allocate, wave_report
from engine.core.book import CROSS, INSURANCE_ROW, LEG_NAMES, NET, Book, Int64Array
from engine.core.events import EVENTS_TOPIC
from engine.core.guards import open_positions
from engine.core.kernels.reprice import COST, EQUITY, LEG, MAINTENANCE, MARGIN, PNL, ROW, SIZE, UNPRICED
from engine.core.ledger import fill_cash
from engine.core.pricing import INT64_BOUND, symbol_notional
from engine.core.shard import Episode, Shard
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
    return not book.row_positions[row]


def is_as_stuck_as_before(shard: Shard, episode: Episode, keys: list[tuple[int, int]]) -> bool:
    """Return whether it shows at a glance that what found no taker before finds none now.

    A waterfall that is stuck is tried again at each step; in a crash these are many. With E <= 0 every part is a loss,
    so a fund under its floor takes nothing, and without a healthy holder on the other side nobody can be deleveraged.
    """
    book, row = shard.book, episode.row
    sizes = {key: book.position(row, *key)[0] for key in keys}
    if episode.remaining != sizes or book.equity(row) > 0 or fund_equity(book) >= book.policy.insurance_floor_units:
        return False
    return not any(len(healthy_opposites(book, symbol, size)) for (symbol, _), size in sizes.items())


def exact_shares(book: Book, row: int) -> list[Share]:
    """Return the row's positions with the exact cash that leaves it zero equity, in symbol order.

    Each position's cash brings the row from its equity before to that less the position's part, at the value balances
    have as collateral: so each part carries the haircut of what its own close turns from profit into a balance.
    """
    equity, maintenance = book.equity(row), book.maintenance(row)
    keys = book.row_positions[row]
    balances = [book.wallet(row, asset) for asset in range(len(book.assets))]
    entries = [book.holders[symbol].table[book.holders[symbol].places[row, leg]] for symbol, leg in keys]
    pnl_left = sum(int(entry[PNL]) for entry in entries)
    shares, given = [], 0
    for index, ((symbol, leg), entry) in enumerate(zip(keys, entries, strict=True)):
        size, cost = book.position(row, symbol, leg)
        asset = book.settle[symbol]
        is_last = index == len(keys) - 1
        part = equity - given
        if not is_last:
            # Parts of a loss are rounded away from zero, but never beyond what is left of it: no unit is lost twice.
            part = max(equity * int(entry[MARGIN]) // maintenance, min(part, 0))
        given += part
        pnl_left -= int(entry[PNL])
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


def take_part(share: Share, size: int) -> tuple[int, int]:
    """Take ``size`` steps (signed) off what is left; return their cash and their part of the equity."""
    if size == share.left:
        cash, equity = share.cash_left, share.equity_left
    else:
        cash = share.cash * abs(size) // abs(share.size)
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
        cash = share.cash_left if size == share.left else share.cash * abs(size) // abs(share.size)
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
    for symbol, leg in book.row_positions[INSURANCE_ROW]:
        holders = book.holders[symbol]
        total += int(holders.table[holders.places[INSURANCE_ROW, leg], PNL])
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


@dataclass(frozen=True, slots=True)
class Candidate:
    """A winner with where its position stands."""

    row: int
    leg: int
    winner: Winner


def deleverage(shard: Shard, episode: Episode, share: Share) -> None:
    """Close what is left of a position against winners on the other side, by the policy's rule, at the same cash."""
    book, instrument = shard.book, shard.book.instruments[share.symbol]
    needed = abs(share.left) // instrument.lot_steps
    candidates = find_winners(shard, episode, share)
    if not candidates:
        return
    winners = [candidate.winner for candidate in candidates]
    allocation = allocate(book.policy.adl_rule, winners, needed)
    sign = 1 if share.left > 0 else -1
    for candidate, lots in zip(candidates, allocation, strict=True):
        if lots:
            deleverage_one(shard, episode, share, candidate, sign * lots * instrument.lot_steps)
    scale = instrument.lot_steps
    fields = {
        "liquidation_id": episode.liquidation_id,
        **shard.subject(episode.row),
        "symbol": instrument.symbol,
        "rule": book.policy.adl_rule,
        **wave_report(book.policy.adl_rule, winners, allocation, needed),
        "needed_qty": format_scaled(needed * scale, instrument.size_decimals),
        "taken_qty": format_scaled(sum(allocation) * scale, instrument.size_decimals),
    }
    shard.emit(EVENTS_TOPIC, book.accounts[episode.row], "adl_wave", fields)
    episode.outcome = "deleveraged"


def deleverage_one(shard: Shard, episode: Episode, share: Share, candidate: Candidate, size: int) -> None:
    """Move ``size`` of the failing position onto one winner, which closes that much of its own."""
    book, instrument = shard.book, shard.book.instruments[share.symbol]
    cash, equity = take_part(share, size)
    ledger.hand_over(book, episode.row, share.symbol, share.leg, size, cash, candidate.row, candidate.leg)
    episode.paid_by_adl += max(0, -equity)
    shard.counters.adl += 1
    shard.dirty.add(candidate.row)
    counterparty = book.accounts[candidate.row]
    bucket = book.buckets[candidate.row]
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


def find_winners(shard: Shard, episode: Episode, share: Share) -> list[Candidate]:
    """Return who may be deleveraged against a position: other side, healthy, no episode.

    Each can give what is needed at the most, and no more than leaves it E >= 0.
    """
    book, symbol = shard.book, share.symbol
    instrument = book.instruments[symbol]
    asset_price = book.asset_prices[book.settle[symbol]].value
    mark = book.marks[symbol].value
    # What takers of the whole position pay above its worth at the mark: their loss, spread over its lots.
    paid_above = share.cash - fill_cash(book, symbol, -share.size, mark)
    loss, loss_lots = paid_above * asset_price // UNIT + 1, abs(share.size) // instrument.lot_steps
    needed = abs(share.left) // instrument.lot_steps
    per_lot = Fraction(symbol_notional(book, symbol, instrument.lot_steps, mark) * asset_price, UNIT)
    has_haircut = book.assets[book.settle[symbol]].weights != FULL_WEIGHT
    found = []
    for row, leg, size, cost, pnl in healthy_opposites(book, symbol, share.size)[
        :, [ROW, LEG, SIZE, COST, PNL]
    ].tolist():
        if row in (INSURANCE_ROW, episode.row) or row in shard.episodes:
            continue
        equity = book.equity(row)
        lots = abs(size) // instrument.lot_steps
        lots_max = min(lots, needed)
        if has_haircut or loss * lots_max > equity * loss_lots:
            lots_max = lots_within_equity(book, share, row, leg, lots_max)
        if lots_max <= 0:
            continue
        winner = Winner(
            account=book.accounts[row],
            bucket=book.buckets[row],
            leg=LEG_NAMES[leg],
            lots=lots,
            lots_max=lots_max,
            pnl=pnl,
            entry_notional=abs(cost) * asset_price // UNIT,
            account_notional=book.gross(row),
            equity=equity,
            notional_per_lot=per_lot,
        )
        found.append(Candidate(row, leg, winner))
    found.sort(key=lambda candidate: (candidate.winner.account, candidate.winner.bucket, candidate.leg))
    return found


def healthy_opposites(book: Book, symbol: int, size: int) -> Int64Array:
    """Return the holders' entries (columns of ``kernels/reprice.py``) on the other side of ``size`` with E > MM."""
    holders = book.holders[symbol]
    table = holders.table[: holders.count]
    standing = book.state[table[:, ROW]]
    is_healthy = (standing[:, EQUITY] > standing[:, MAINTENANCE]) & (standing[:, UNPRICED] == 0)
    found: Int64Array = table[is_healthy & (np.sign(table[:, SIZE]) != np.sign(size))]
    return found


def lots_within_equity(book: Book, share: Share, row: int, leg: int, lots: int) -> int:
    """Return how many of ``lots`` a winner can close with E >= 0 after.

    Where the settlement asset has a haircut, a close costs more than its loss: profit that counted in full becomes a
    balance that counts at its weight. The equity after k lots is computed exactly, and falls with k, so halving finds
    the largest.
    """
    symbol, asset = share.symbol, book.settle[share.symbol]
    held, cost = book.position(row, symbol, leg)
    balance, step = book.wallet(row, asset), book.instruments[symbol].lot_steps
    sign = 1 if share.size > 0 else -1
    pnl_before = book.position_values(symbol, held, cost)[0]

    def after(count: int) -> int:
        size = count * step
        released = cost * size // abs(held)
        cash = -share.cash * size // abs(share.size)
        pnl = book.position_values(symbol, held + sign * size, cost - released)[0]
        wallet_change = book.balance_value(asset, balance + cash + released) - book.balance_value(asset, balance)
        return book.equity(row) - pnl_before + pnl + wallet_change

    low, high = 0, lots
    while low < high:
        middle = (low + high + 1) // 2
        if after(middle) >= 0:
            low = middle
        else:
            high = middle - 1
    return low
