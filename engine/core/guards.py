"""Why an account that should be liquidated is not acted on right now, and when that ends.

A hold has a reason of a closed list: ``warming_up`` (a price it depends on was not yet seen in the log), ``paused``,
``stale_mark``, ``price_band`` (an unconfirmed price), ``flow_budget``. Beginning and end are events. ``stale_mark`` and
``price_band`` hold for at most ``max_hold_ms``: then the account is liquidated with the symbols that are fresh; one
without any stays held and is reported again. A pause or a warm-up never runs out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.core.book import Book, Price
from engine.core.events import EVENTS_TOPIC
from engine.core.kernels.margin import is_liquidatable
from engine.core.pacing import room_ts
from engine.core.pricing import INT64_BOUND, asset_price_overflows, mark_overflows
from engine.core.shard import Hold, Shard
from engine.units import NS_PER_MS

ALL = "all"
_LIMITED = ("stale_mark", "price_band")


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stands in the way of acting on a row."""

    reason: str
    symbol: str | None = None


def try_obstacle(shard: Shard, row: int) -> Obstacle | None:
    """Return why a row may not be acted on now, or None; the first that applies, symbols by name."""
    book = shard.book
    if not book.is_warm(row):
        return Obstacle("warming_up")
    if ALL in shard.paused:
        return Obstacle("paused")
    for symbol in row_symbols(book, row):
        if book.instruments[symbol].symbol in shard.paused:
            return Obstacle("paused", book.instruments[symbol].symbol)
    obstacle = stale_obstacle(shard, row)
    if obstacle is None:
        # Its wait was for what is fresh again: the next price that falls silent is waited for anew.
        shard.forced.discard(row)
    if row in shard.forced and (fresh_positions(shard, row) or not book.positions_of(row)):
        return None
    return obstacle


def stale_obstacle(shard: Shard, row: int) -> Obstacle | None:
    """Return the row's first stale or unconfirmed price as an obstacle, or None."""
    book = shard.book
    for symbol in row_symbols(book, row):
        name = book.instruments[symbol].symbol
        if book.marks[symbol].pending:
            return Obstacle("price_band", name)
        if is_stale(shard, book.marks[symbol]):
            return Obstacle("stale_mark", name)
    for asset in row_assets(book, row):
        if book.asset_prices[asset].pending:
            return Obstacle("price_band", book.assets[asset].name)
        if book.assets[asset].price_units is None and is_stale(shard, book.asset_prices[asset]):
            return Obstacle("stale_mark", book.assets[asset].name)
    return None


def is_stale(shard: Shard, price: Price) -> bool:
    """Return whether a price is older than the policy allows."""
    limit_ms = shard.book.policy.mark_stale_ms
    return limit_ms > 0 and shard.clock - price.ts > limit_ms * NS_PER_MS


def row_symbols(book: Book, row: int) -> list[int]:
    """Return the symbols of a row's positions, by name."""
    return list(dict.fromkeys(symbol for symbol, _ in book.positions_of(row)))


def row_assets(book: Book, row: int) -> list[int]:
    """Return the assets a row's equity depends on, by name: its balances and what its positions settle in."""
    assets = {asset for asset in range(len(book.assets)) if book.wallet(row, asset)}
    assets |= {book.settle[symbol] for symbol, _ in book.positions_of(row)}
    return sorted(assets, key=lambda asset: book.assets[asset].name)


def fresh_positions(shard: Shard, row: int) -> list[tuple[int, int]]:
    """Return the row's positions whose own mark is confirmed and not stale."""
    book = shard.book
    return [
        (symbol, leg)
        for symbol, leg in book.positions_of(row)
        if not book.marks[symbol].pending and not is_stale(shard, book.marks[symbol])
    ]


def open_positions(shard: Shard, row: int) -> list[tuple[int, int]]:
    """Return the row's positions that may be acted on: all, or the fresh ones where it waited its time."""
    return fresh_positions(shard, row) if row in shard.forced else shard.book.positions_of(row)


def is_liquidatable_if_confirmed(book: Book, row: int) -> bool:
    """Return whether a row would be liquidatable if every unconfirmed price it depends on were true.

    A price at which a position or balance would leave int64 never will be: it is dropped when its wait is over.
    """
    if not book.waiting:
        return False
    equity, maintenance = book.equity(row), book.maintenance(row)
    waiting = False
    for symbol, leg in book.positions_of(row):
        mark, asset = book.marks[symbol], book.settle[symbol]
        asset_price = book.asset_prices[asset].pending
        if not (mark.pending or asset_price):
            continue
        in_force = book.asset_prices[asset].value
        if mark_overflows(book, symbol, mark.pending or mark.value, asset_price or in_force):
            continue
        waiting = True
        pnl_now, margin_now, _ = book.held_values(row, symbol, leg)
        pnl, margin, _ = book.position_values(symbol, *book.position(row, symbol, leg), mark.pending, asset_price)
        equity += pnl - pnl_now
        maintenance += margin - margin_now
    for asset, price in enumerate(book.asset_prices):
        if price.pending and book.wallet(row, asset) and not asset_price_overflows(book, asset, price.pending):
            waiting = True
            balance = book.wallet(row, asset)
            equity += book.balance_value(asset, balance, price.pending) - book.balance_value(asset, balance)
    # What one position may be worth, many together may exceed: the sign of the comparison is all that matters.
    bounded = min(max(equity, -INT64_BOUND), INT64_BOUND), min(maintenance, INT64_BOUND)
    return waiting and bool(is_liquidatable(*bounded, book.policy.trigger == "below"))


def update_hold(shard: Shard, row: int, obstacle: Obstacle | None) -> bool:
    """Begin, change, time out or end the hold of a row, each with its event; return whether the row is held.

    A hold that goes on for the same reason keeps its beginning, whichever symbol it is for: symbols that are stale in
    turn do not prolong the wait.
    """
    hold, since = shard.holds.get(row), shard.clock
    if hold is not None and obstacle is not None and hold.reason == obstacle.reason:
        if has_run_out(shard, hold):
            if fresh_positions(shard, row):
                shard.forced.add(row)
                obstacle = None
            elif hold.symbol == obstacle.symbol:
                begin_hold(shard, row, obstacle, since)
                return True
        elif hold.symbol == obstacle.symbol:
            set_end(shard, row, hold)
            return True
        else:
            since = hold.since
    if hold is not None:
        del shard.holds[row]
        report(shard, row, "liquidation_released", hold)
    if obstacle is not None:
        begin_hold(shard, row, obstacle, since)
    shard.watch(row)
    return obstacle is not None


def begin_hold(shard: Shard, row: int, obstacle: Obstacle, since: int) -> None:
    """Hold a row (again), say so, and see to it that a limited hold is looked at when it runs out."""
    hold = shard.holds[row] = Hold(obstacle.reason, obstacle.symbol, since)
    report(shard, row, "liquidation_held", hold)
    set_end(shard, row, hold)


def limit_ns(shard: Shard, hold: Hold) -> int:
    """Return how long a hold may last by the policy in force; 0: as long as its reason does."""
    return shard.book.policy.max_hold_ms * NS_PER_MS if hold.reason in _LIMITED else 0


def has_run_out(shard: Shard, hold: Hold) -> bool:
    """Return whether a limited hold has lasted its time."""
    limit = limit_ns(shard, hold)
    return limit > 0 and shard.clock >= hold.since + limit


def set_end(shard: Shard, row: int, hold: Hold) -> None:
    """Have a row looked at when its limited hold runs out, which a change of the policy can move."""
    limit = limit_ns(shard, hold)
    if hold.reason in _LIMITED and hold.due != (due := hold.since + limit if limit else 0):
        hold.due = due
        if due:
            shard.set_timer(row, due, "")


def hold_for_budget(shard: Shard, row: int, symbol: int) -> None:
    """Hold a row until the flow budget of a symbol has room again; one timer at a time."""
    obstacle = Obstacle("flow_budget", shard.book.instruments[symbol].symbol)
    hold = shard.holds.get(row)
    if hold is None or (hold.reason, hold.symbol) != (obstacle.reason, obstacle.symbol):
        update_hold(shard, row, obstacle)
        hold = shard.holds[row]
    elif shard.clock < hold.due:
        return
    ts = room_ts(shard.book, shard.flows[symbol])
    # Without anything in the window a budget below one lot is what is in the way, and no time will change that.
    hold.due = ts or 0
    if ts is not None:
        shard.set_timer(row, ts, "")


def report(shard: Shard, row: int, kind: str, hold: Hold) -> None:
    """Emit the beginning or the end of a hold."""
    symbol: dict[str, Any] = {"symbol": hold.symbol} if hold.symbol is not None else {}
    fields = {**shard.subject(row), "reason": hold.reason, **symbol}
    shard.emit(EVENTS_TOPIC, shard.book.accounts[row], kind, fields)
