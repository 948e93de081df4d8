"""How an account that can no longer carry its positions is dealt with, from the margin call to the end.

One *episode* per row at a time. ``examine`` is called for every row a step may have changed; it either finds nothing
to do, holds the row for a stated reason, or starts or goes on with an episode. ``decide`` says what comes next and
changes nothing; ``pursue`` carries it out and asks again, until the row is healthy, empty, or something is in flight.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from engine.core import ledger
from engine.core.book import CROSS, INSURANCE_ROW, LEG_NAMES, Book
from engine.core.debts import Sale, is_insolvent, owed_assets, plan_sales, sale_of, settle_debts
from engine.core.decision import decision_record, standing_fields, target_equity
from engine.core.episode import end_episode, start_episode
from engine.core.events import EVENTS_TOPIC, ORDERS_TOPIC
from engine.core.guards import (
    Obstacle,
    hold_for_budget,
    is_liquidatable_if_confirmed,
    open_positions,
    stale_obstacle,
    try_obstacle,
    update_hold,
)
from engine.core.kernels.margin import is_at_ratio
from engine.core.kernels.tables import CALLED
from engine.core.margin import bankruptcy_price, format_price, is_row_liquidatable, limit_price
from engine.core.pacing import is_emergency, lots_that_fit
from engine.core.plan import PlanAccount, PlanCollateral, Planner, PlanPosition, plan_liquidation
from engine.core.pricing import symbol_notional
from engine.core.shard import Episode, Order, Shard
from engine.core.takeover import run_waterfall
from engine.errors import check
from engine.units import NS_PER_MS, PPM, UNIT, format_scaled


@dataclass(frozen=True, slots=True)
class Close:
    """A reduce-only order to send: ``size`` is the signed change of the position, prices in steps."""

    symbol: int
    leg: int
    size: int
    limit: int
    bankruptcy: int | None
    stage: str


@dataclass(frozen=True, slots=True)
class End:
    """The episode is over."""

    outcome: str


@dataclass(frozen=True, slots=True)
class Send:
    """Orders to send now; ``uncut`` holds the closes of the whole plan where a flow budget left less of it."""

    closes: list[Close] = field(default_factory=list)
    sales: list[Sale] = field(default_factory=list)
    certificate: dict[str, Any] | None = None
    uncut: list[Close] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TakeOver:
    """The positions that may be acted on go to the fund and to winners."""


@dataclass(frozen=True, slots=True)
class SettleDebts:
    """Nothing is left to sell: the fund pays what it can, the rest is written off."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Only positions without a fresh mark are left: held (again) for the first of them."""

    obstacle: Obstacle


@dataclass(frozen=True, slots=True)
class Pace:
    """Nothing fits into the flow budget of ``symbol`` now."""

    symbol: int


Decision = End | Send | TakeOver | SettleDebts | Wait


def examine(shard: Shard, row: int, cause: str) -> None:
    """Look at one row and do what its standing calls for."""
    book, episode = shard.book, shard.episodes.get(row)
    if row == INSURANCE_ROW:
        return
    if not book.is_priced(row):
        if row in shard.holds or (episode is not None and not episode.orders):
            # It has taken a position that nobody has priced yet: what comes next cannot be decided, and that is said.
            update_hold(shard, row, Obstacle("warming_up"))
        return
    if episode is None:
        if book.is_warm(row):
            call_margin(shard, row)
        in_trouble = is_row_liquidatable(book, row) or is_insolvent(book, row)
        would_be = in_trouble or is_liquidatable_if_confirmed(book, row)
        if update_hold(shard, row, try_obstacle(shard, row) if would_be else None) or not in_trouble:
            shard.forced.discard(row)
            return
        episode = start_episode(shard, row, cause)
    else:
        obstacle, hold = try_obstacle(shard, row), shard.holds.get(row)
        if obstacle is not None and not episode.orders and isinstance(decide(shard, episode), End):
            obstacle = None
        # Whether the budget has room shows only when there is something to send.
        is_paced = obstacle is None and hold is not None and hold.reason == "flow_budget"
        if not is_paced and update_hold(shard, row, obstacle):
            return
    pursue(shard, episode)


def call_margin(shard: Shard, row: int) -> None:
    """Send a margin call once per crossing of the call ratio; re-arm it below the re-arm ratio."""
    book, policy = shard.book, shard.book.policy
    equity, maintenance = book.equity(row), book.maintenance(row)
    is_called = bool(book.flags(row) & CALLED)
    if not is_called and is_at_ratio(equity, maintenance, policy.margin_call_ratio_ppm):
        book.set_flag(row, CALLED, is_set=True)
        shard.emit(EVENTS_TOPIC, book.accounts[row], "margin_call", standing_fields(shard, row))
    elif is_called and not is_at_ratio(equity, maintenance, policy.margin_call_rearm_ppm):
        book.set_flag(row, CALLED, is_set=False)


def pursue(shard: Shard, episode: Episode) -> None:
    """Carry the episode on until it ends, waits for an answer, or is held."""
    row = episode.row
    while not episode.orders:
        decision: Decision | Pace = decide(shard, episode)
        if isinstance(decision, Send):
            decision = fit_budget(shard, row, decision)
        match decision:
            case Wait(obstacle):
                shard.forced.discard(row)
                update_hold(shard, row, obstacle)
                return
            case Pace(symbol):
                hold_for_budget(shard, row, symbol)
                return
        update_hold(shard, row, None)
        match decision:
            case End(outcome):
                end_episode(shard, episode, outcome)
                # What was closed may have brought the row below the re-arm ratio: its next crossing is a new one.
                call_margin(shard, row)
                return
            case Send():
                send_orders(shard, episode, decision)
            case TakeOver():
                if not run_waterfall(shard, episode) and episode.remaining:
                    shard.stuck.add(row)
                    return
                shard.stuck.discard(row)
            case SettleDebts():
                settle_debts(shard, episode)


def decide(shard: Shard, episode: Episode) -> Decision:
    """Return what comes next for a row in an episode with nothing in flight; changes nothing."""
    book, row, policy = shard.book, episode.row, shard.book.policy
    equity, maintenance = book.equity(row), book.maintenance(row)
    if not book.positions_of(row):
        if equity > 0 or not owed_assets(book, row):
            return End(episode.outcome or "closed")
        sales = plan_sales(book, row)
        return Send(sales=sales) if sales else SettleDebts()
    if not is_row_liquidatable(book, row) and equity >= target_equity(maintenance, policy.target_buffer_ppm):
        return End("healthy")
    keys = open_positions(shard, row)
    obstacle = stale_obstacle(shard, row) if not keys else None
    if obstacle is not None:
        return Wait(obstacle)
    # E <= takeover_ratio x MM; with a ratio of 0 that is E <= 0.
    if equity * PPM <= policy.takeover_ratio_ppm * maintenance or episode.attempts >= policy.max_attempts:
        return TakeOver()
    return plan_orders(book, row, keys, shard.planner)


def plan_orders(book: Book, row: int, keys: list[tuple[int, int]], planner: Planner = plan_liquidation) -> Send:
    """Return the closes and collateral sales that the policy orders for a row now, with their certificate.

    ``keys`` are the positions that may be closed (symbol, leg): all, or those whose marks are fresh.
    """
    positions = tuple(
        PlanPosition(
            instrument=book.instruments[symbol],
            leg=LEG_NAMES[leg],
            size_steps=book.position(row, symbol, leg)[0],
            mark_steps=book.marks[symbol].value,
            settle_price_units=book.asset_prices[book.settle[symbol]].value,
        )
        for symbol, leg in keys
    )
    settles = {book.settle[symbol] for symbol, _ in keys}
    collaterals = tuple(
        PlanCollateral(book.assets[asset], book.wallet(row, asset), book.asset_prices[asset].value)
        for asset in range(len(book.assets))
        if book.wallet(row, asset) or asset in settles
    )
    account = PlanAccount(book.equity(row), book.maintenance(row), positions, collaterals)
    plan = planner(account, book.policy)
    closes = []
    for close in plan.closes:
        symbol, leg = keys[close.position_index]
        held = book.position(row, symbol, leg)[0]
        bankruptcy = bankruptcy_price(book, row, symbol, leg)
        limit = limit_price(book, symbol, held, bankruptcy)
        size = -close.qty_steps if held > 0 else close.qty_steps
        closes.append(Close(symbol, leg, size, limit, bankruptcy, plan.stage))
    sales = [sale_of(book, sale.asset, sale.for_asset, sale.amount_units) for sale in plan.sales]
    return Send(closes, sales, plan.certificate)


def fit_budget(shard: Shard, row: int, orders: Send) -> Send | Pace:
    """Return the orders cut to what the flow budgets have room for, or whose budget is in the way of all of them."""
    book = shard.book
    closes, blocked = [], None
    for close in orders.closes:
        step, flow = book.instruments[close.symbol].lot_steps, shard.flows[close.symbol]
        lots = abs(close.size) // step
        flow.forget(shard.clock - book.policy.flow_window_ms * NS_PER_MS)
        room = lots if is_emergency(book, row) else lots_that_fit(book, flow, close.symbol, lots)
        if room < lots and blocked is None:
            blocked = close.symbol
        if room > 0:
            size = room * step if close.size > 0 else -room * step
            flow.note(shard.clock, symbol_notional(book, close.symbol, abs(size), book.marks[close.symbol].value))
            closes.append(replace(close, size=size))
    if blocked is None:
        return orders
    # A sale is the rest of a plan whose closes do the work: alone it would be planned again, ever smaller, at once.
    return replace(orders, closes=closes, uncut=orders.closes) if closes else Pace(blocked)


def send_orders(shard: Shard, episode: Episode, orders: Send) -> None:
    """Send closes and sales, each with the same decision record."""
    book, row = shard.book, episode.row
    planned: list[Close | Sale] = [*orders.closes, *orders.sales]
    check(bool(planned), f"{episode.liquidation_id}: nothing planned for an account that must be liquidated")
    plan = plan_fields(book, orders.closes, orders.sales)
    wanted = plan_fields(book, orders.uncut, orders.sales) if orders.uncut else None
    decision = decision_record(shard, row, plan, wanted, orders.certificate)
    for fields, order in zip(plan, planned, strict=True):
        order_id = shard.next_order_id(episode)
        names = {"order_id": order_id, "liquidation_id": episode.liquidation_id, **shard.subject(row)}
        if isinstance(order, Close):
            sent = Order(
                order_id,
                row,
                shard.due_ts(),
                symbol=order.symbol,
                leg=order.leg,
                size=order.size,
                left=order.size,
                limit=order.limit,
                bankruptcy=order.bankruptcy,
            )
            terms = {"time_in_force": "IOC", "reduce_only": True}
            leg = {"leg": LEG_NAMES[order.leg]} if order.leg else {}
            body = {**names, **leg, **fields, **terms, "decision": decision}
            shard.emit(ORDERS_TOPIC, book.accounts[row], "liquidation_order", body)
        else:
            sent = Order(
                order_id, row, shard.due_ts(), asset=order.asset, for_asset=order.for_asset, amount=order.amount
            )
            body = {**names, **fields, "decision": decision}
            shard.emit(ORDERS_TOPIC, book.accounts[row], "collateral_sale", body)
        shard.send(episode, sent)


def plan_fields(book: Book, closes: list[Close], sales: list[Sale]) -> list[dict[str, str | None]]:
    """Return closes and sales as ``plan`` prints them."""
    return [*(close_fields(book, close) for close in closes), *(sale.fields(book) for sale in sales)]


def close_fields(book: Book, close: Close) -> dict[str, str | None]:
    """Return a close as ``plan`` and ``liquidation_order`` print it."""
    instrument = book.instruments[close.symbol]
    return {
        "symbol": instrument.symbol,
        "side": "sell" if close.size < 0 else "buy",
        "qty": format_scaled(abs(close.size), instrument.size_decimals),
        "limit_price": format_price(close.limit, instrument.price_decimals),
        "bankruptcy_price": format_price(close.bankruptcy, instrument.price_decimals),
        "stage": close.stage,
    }


def note_fill(shard: Shard, episode: Episode, order: Order, size: int, price: int, paid: int) -> None:
    """Account for a fill of an order in flight: what is left of it, the liquidation fee, what it cost.

    ``size`` signed steps, ``price`` steps, ``paid`` the trading fee in settlement units.
    """
    book, row, symbol = shard.book, episode.row, order.symbol
    instrument, asset = book.instruments[symbol], book.settle[symbol]
    asset_price = book.asset_prices[asset].value
    notional = symbol_notional(book, symbol, abs(size), price)
    episode.attempts = 0
    order.is_filled = True
    done = min(abs(size), abs(order.left))
    order.left -= done if order.left > 0 else -done
    # The fee never takes what the account does not have: a deficit is settled once, at the end.
    room = max(0, book.equity(row)) * UNIT // asset_price if asset_price else 0
    fee = min(-(-notional * instrument.liquidation_fee_ppm // PPM), room)
    surplus = min(beaten(book, order, size, price), room - fee) if book.policy.surplus == "insurance" else 0
    for amount, cause in ((fee, "liquidation_fee"), (surplus, "surplus")):
        if amount > 0:
            before = book.wallet(INSURANCE_ROW, asset)
            ledger.pay_insurance(book, row, asset, amount)
            names = {"account": book.accounts[row], "liquidation_id": episode.liquidation_id}
            shard.note_fund(asset, before, cause, **names)
    at_mark, at_fill = (ledger.fill_cash(book, symbol, size, at) for at in (book.marks[symbol].value, price))
    worth = notional * asset_price // UNIT
    episode.closed.append((symbol, order.leg, size, worth))
    episode.closed_notional += worth
    episode.cost += (paid + fee + surplus + at_mark - at_fill) * asset_price // UNIT
    shard.counters.notional_liquidated += worth
    if order.left == 0:
        shard.end_order(episode, order)


def beaten(book: Book, order: Order, size: int, price: int) -> int:
    """Return by how much a fill was better than the order's bankruptcy price, in settlement units."""
    if order.bankruptcy is None or order.bankruptcy <= 0:
        return 0
    symbol = order.symbol
    return max(0, ledger.fill_cash(book, symbol, size, price) - ledger.fill_cash(book, symbol, size, order.bankruptcy))


def sweep_buckets(shard: Shard) -> None:
    """Move what buckets whose last position is gone have left to their accounts' cross wallets.

    A bucket that waits for its first position keeps its deposit; one in an episode is swept when that ends.
    """
    book = shard.book
    for row in sorted(book.emptied):
        if row in shard.episodes:
            continue
        book.emptied.discard(row)
        asset = book.settle[book.symbol_index[book.buckets[row]]]
        rest = book.wallet(row, asset)
        if rest > 0 and not book.positions_of(row):
            cross = book.open_row(book.accounts[row], CROSS)
            ledger.pay_row(book, row, cross, asset, rest)
            shard.dirty.add(cross)
