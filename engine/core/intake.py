"""How each input message changes the book: accepted, refused with a reason, or nothing new.

Every check comes before the first change, so a refused message leaves no trace. What needs no book (types, number
syntax, signs) was checked when the message was decoded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.core import ledger
from engine.core.band import breaks_floor, doubters_after, exact_steps, is_confirmed, keep_pending, redeemable
from engine.core.book import CROSS, INSURANCE_ROW, LEG_NAMES, LONG, NET, SHORT, Book
from engine.core.control import apply_params, apply_pause
from engine.core.events import (
    INSURANCE,
    AssetPrice,
    Conversion,
    Event,
    Fill,
    Funding,
    Mark,
    OrderDone,
    Pause,
    SetParams,
    Transfer,
)
from engine.core.pricing import (
    INT64_BOUND,
    asset_price_overflows,
    asset_rows,
    mark_overflows,
    symbol_notional,
    symbol_rows,
    try_put_asset_price,
    try_put_mark,
)
from engine.core.refusal import Refusal
from engine.core.shard import Episode, Order, Shard
from engine.units import (
    ACCOUNT_UNITS_MAX,
    FUNDING_DECIMALS,
    FUNDING_SCALE,
    NS_PER_MS,
    NS_PER_S,
    POSITION_UNITS_MAX,
    UNIT,
    UNIT_DECIMALS,
    Number,
    format_number,
    scaled_half_even,
    try_scaled,
)


@dataclass(slots=True)
class Applied:
    """What an accepted message did: the rows to examine, and the cause that their decisions state."""

    cause: str
    rows: Iterable[int] = ()
    filled: tuple[Episode, Order, int, int, int] | None = None


IGNORED = "ignored"
DUPLICATE = "duplicate"

Outcome = Applied | Refusal | str


def apply_event(shard: Shard, event: Event) -> Outcome:
    """Apply one event to the book.

    Returns ``Applied``, a ``Refusal`` (nothing changed), or IGNORED / DUPLICATE (nothing changed, counted).
    """
    refusal = try_future(shard, event)
    if refusal is not None:
        return refusal
    match event:
        case Mark():
            return apply_mark(shard, event)
        case Fill():
            return apply_fill(shard, event)
        case OrderDone():
            return apply_order_done(shard, event)
        case AssetPrice():
            return apply_asset_price(shard, event)
        case Funding():
            return apply_funding(shard, event)
        case Transfer():
            return apply_transfer(shard, event)
        case Conversion():
            return apply_conversion(shard, event)
        case Pause():
            done = apply_pause(shard, event)
        case SetParams():
            done = apply_params(shard, event)
    return done if isinstance(done, Refusal) else Applied("policy", done)


def key_of(event: Event) -> str:
    """Return the key an event's topic is partitioned by."""
    match event:
        case Mark() | Funding():
            return event.symbol
        case AssetPrice():
            return event.asset
        case Fill() | Conversion() | OrderDone() | Transfer():
            return event.account
        case Pause():
            return event.scope
        case SetParams():
            return event.name


def try_future(shard: Shard, event: Event) -> Refusal | None:
    """Return a refusal for an event too far ahead of the clock, or None.

    A single broken source must not drag the clock ahead; a second key that says the same time means that the world
    has moved on while nothing came in.
    """
    before, shard.future = shard.future, None
    limit = shard.book.policy.max_future_s * NS_PER_S
    if limit == 0 or shard.book.clock is None or event.ts <= shard.book.clock + limit:
        return None
    key = key_of(event)
    if before is not None and before[0] != key and abs(event.ts - before[1]) <= limit:
        return None
    shard.future = (key, event.ts)
    return Refusal("future_ts", f"ts {event.ts} is more than {limit // NS_PER_S} s ahead of {shard.book.clock}")


def apply_mark(shard: Shard, event: Mark) -> Outcome:
    """Put a mark in force and reprice its holders."""
    book = shard.book
    symbol = book.symbol_index.get(event.symbol)
    if symbol is None:
        return Refusal("unknown_symbol", f"no instrument {event.symbol!r}")
    mark = book.marks[symbol]
    if mark.value != 0 and event.ts < max(mark.ts, mark.pending_ts):
        return IGNORED
    instrument = book.instruments[symbol]
    price = scaled_half_even(event.price, instrument.mark_decimals) * instrument.mark_steps
    if price <= 0:
        return Refusal("out_of_range", f"mark {format_number(event.price)} is 0 at {instrument.mark_decimals} decimals")
    if mark_overflows(book, symbol, price, book.asset_prices[book.settle[symbol]].value):
        return Refusal("overflow", f"at {format_number(event.price)} the largest position leaves 64 bits")
    index = None
    if event.index_price is not None and book.policy.price_band_ppm:
        index = exact_steps(event.index_price, instrument.price_decimals)
    if is_confirmed(mark, price, book.policy, index=index):
        rows = try_put_mark(book, symbol, price, event.ts)
        if rows is None:
            return Refusal("overflow", f"at {format_number(event.price)} an account leaves 64 bits")
        shard.advance(event.ts)
        if shard.venue is not None:
            shard.venue.mark_changed(symbol)
        return Applied("mark", rows)
    shard.advance(event.ts)
    keep_pending(mark, price, event.ts, shard.clock, None)
    book.set_mark_seen(symbol)
    shard.set_symbol_timer(event.symbol, mark.pending_since + book.policy.max_hold_ms * NS_PER_MS)
    return Applied("mark", symbol_rows(book, symbol))


def apply_asset_price(shard: Shard, event: AssetPrice) -> Outcome:
    """Put an asset price in force and reprice balances in the asset and positions settled in it."""
    book = shard.book
    asset = book.asset_index.get(event.asset)
    if asset is None:
        return Refusal("unknown_asset", f"no asset {event.asset!r}")
    price = book.asset_prices[asset]
    if book.assets[asset].price_units is not None or (price.value != 0 and event.ts < max(price.ts, price.pending_ts)):
        return IGNORED
    units = scaled_half_even(event.price, UNIT_DECIMALS)
    if units <= 0:
        return Refusal("out_of_range", f"price {format_number(event.price)} is 0 at {UNIT_DECIMALS} decimals")
    doubters = doubters_after(price, book.assets[asset], units, event.source)
    is_agreed = breaks_floor(book.assets[asset], price, units, doubters)
    units = redeemable(book.assets[asset], units, doubters)
    if asset_price_overflows(book, asset, units):
        return Refusal("overflow", f"at {format_number(event.price)} the largest balance leaves 64 bits")
    if is_agreed or is_confirmed(price, units, book.policy, source=event.source):
        rows = try_put_asset_price(book, asset, units, event.ts)
        if rows is None:
            return Refusal("overflow", f"at {format_number(event.price)} an account leaves 64 bits")
        price.doubters = doubters
        shard.advance(event.ts)
        return Applied("mark", rows)
    shard.advance(event.ts)
    price.doubters = doubters
    keep_pending(price, units, event.ts, shard.clock, event.source)
    book.set_asset_price_seen(asset)
    shard.set_symbol_timer(event.asset, price.pending_since + book.policy.max_hold_ms * NS_PER_MS)
    return Applied("mark", asset_rows(book, asset))


def apply_funding(shard: Shard, event: Funding) -> Outcome:
    """Post a funding payment to every open position of a symbol."""
    book = shard.book
    symbol = book.symbol_index.get(event.symbol)
    if symbol is None:
        return Refusal("unknown_symbol", f"no instrument {event.symbol!r}")
    rate = try_scaled(event.rate, FUNDING_DECIMALS)
    if rate is None:
        return Refusal("surplus_digits", f"rate {format_number(event.rate)}: at most {FUNDING_DECIMALS} decimals")
    if abs(rate) > FUNDING_SCALE:
        return Refusal("out_of_range", f"rate {format_number(event.rate)}: at most 1 either way")
    if book.marks[symbol].value == 0 and book.holders_count(symbol):
        return Refusal("out_of_range", f"no mark of {event.symbol} yet to compute payments with")
    asset = book.settle[symbol]
    payments = ledger.funding_payments(book, symbol, rate)
    if any(abs(book.wallet(row, asset)) + abs(amount) > INT64_BOUND for row, amount in payments):
        return Refusal("overflow", f"at rate {format_number(event.rate)} a balance leaves 64 bits")
    shard.advance(event.ts)
    before = book.wallet(INSURANCE_ROW, asset)
    ledger.fund(book, symbol, payments)
    rows = [row for row, _ in payments]
    shard.note_fund(asset, before, "funding")
    return Applied("funding", rows)


def try_reserved(account: str, *, fund_allowed: bool) -> Refusal | None:
    """Return a refusal for one of the engine's own accounts, or None."""
    if not account.startswith("$") or (fund_allowed and account == INSURANCE):
        return None
    return Refusal("reserved_account", f"{account!r} is the engine's own")


def try_amount(book: Book, asset: int, amount: Number) -> int | Refusal:
    """Return an amount in units, or a refusal if it has more decimals than the asset."""
    decimals = book.assets[asset].decimals
    if try_scaled(amount, decimals) is None:
        return Refusal(
            "surplus_digits", f"{format_number(amount)} {book.assets[asset].name}: at most {decimals} decimals"
        )
    return scaled_half_even(amount, UNIT_DECIMALS)


def apply_transfer(shard: Shard, event: Transfer) -> Outcome:
    """Post a deposit or withdrawal, to the cross wallet or to an isolated bucket."""
    book = shard.book
    refusal = try_reserved(event.account, fund_allowed=True)
    if refusal is not None:
        return refusal
    asset = book.asset_index.get(event.asset)
    if asset is None:
        return Refusal("unknown_asset", f"no asset {event.asset!r}")
    if ("transfer", event.account, event.transfer_id) in shard.ids:
        return DUPLICATE
    bucket = CROSS if event.symbol is None else event.symbol
    if bucket != CROSS:
        symbol = book.symbol_index.get(bucket)
        if symbol is None:
            return Refusal("unknown_symbol", f"no instrument {bucket!r}")
        refusal = try_bucket(book, event, asset, symbol)
        if refusal is not None:
            return refusal
    units = try_amount(book, asset, event.amount)
    if isinstance(units, Refusal):
        return units
    row = book.row_index.get((event.account, bucket))
    balance = units + (book.wallet(row, asset) if row is not None else 0)
    if worth_of(abs(balance), book.asset_prices[asset].value) > POSITION_UNITS_MAX:
        return Refusal("overflow", f"the balance would exceed {POSITION_UNITS_MAX // UNIT}")
    shard.advance(event.ts)
    shard.ids.add(("transfer", event.account, event.transfer_id))
    row = book.open_row(event.account, bucket)
    before = book.wallet(INSURANCE_ROW, asset)
    ledger.transfer(book, row, asset, units)
    shard.note_fund(asset, before, "transfer")
    return Applied("transfer", (row,))


def try_bucket(book: Book, event: Transfer, asset: int, symbol: int) -> Refusal | None:
    """Return a refusal for a transfer that no isolated bucket can take, or None."""
    if event.account == INSURANCE:
        return Refusal("bad_bucket", f"{INSURANCE} has no isolated buckets")
    if book.settle[symbol] != asset:
        settle = book.assets[book.settle[symbol]].name
        return Refusal("bad_bucket", f"the bucket of {event.symbol} holds {settle}, not {event.asset}")
    if event.amount[0] < 0 and (event.account, event.symbol) not in book.row_index:
        return Refusal("bad_bucket", f"{event.account} has no bucket {event.symbol} to withdraw from")
    return None


def apply_fill(shard: Shard, event: Fill) -> Outcome:
    """Post a trade and its fee; where it answers an order in flight, tell the episode."""
    book = shard.book
    refusal = try_reserved(event.account, fund_allowed=True)
    if refusal is not None:
        return refusal
    symbol = book.symbol_index.get(event.symbol)
    if symbol is None:
        return Refusal("unknown_symbol", f"no instrument {event.symbol!r}")
    if ("fill", event.account, event.fill_id) in shard.ids:
        return DUPLICATE
    terms = fill_terms(book, event, symbol)
    if isinstance(terms, Refusal):
        return terms
    size, price, fee = terms
    leg = LEG_NAMES.index(event.leg)
    bucket = event.symbol if event.isolated else CROSS
    refusal = try_leg(book, event, symbol, leg, size) or try_room(book, event, symbol, leg, bucket, size, price)
    if refusal is not None:
        return refusal
    shard.advance(event.ts)
    shard.ids.add(("fill", event.account, event.fill_id))
    shard.counters.fills += 1
    row = book.open_row(event.account, bucket)
    asset = book.settle[symbol]
    before = book.wallet(INSURANCE_ROW, asset)
    ledger.fill(book, row, symbol, leg, size, price)
    if fee:
        ledger.pay_fee(book, row, asset, fee)
    if row == INSURANCE_ROW:
        shard.note_fund(asset, before, "fill")
    answered = shard.open_order(event.account, event.order_id)
    if answered is not None:
        episode, order = answered
        if (order.row, order.symbol, order.leg) == (row, symbol, leg) and order.size * size > 0:
            return Applied("fill", (row,), (episode, order, size, price, fee))
    return Applied("fill", (row,))


def fill_terms(book: Book, event: Fill, symbol: int) -> tuple[int, int, int] | Refusal:
    """Return signed size and price in steps and the fee in units, or a refusal for surplus digits."""
    instrument = book.instruments[symbol]
    size = try_scaled(event.qty, instrument.size_decimals)
    if size is None or size % instrument.lot_steps:
        lot = format_number(instrument.lot)
        return Refusal("surplus_digits", f"qty {format_number(event.qty)} is not a multiple of the lot {lot}")
    price = try_scaled(event.price, instrument.price_decimals)
    if price is None:
        decimals = instrument.price_decimals
        return Refusal("surplus_digits", f"price {format_number(event.price)}: at most {decimals} decimals")
    fee = try_amount(book, book.settle[symbol], event.fee) if event.fee is not None else 0
    if isinstance(fee, Refusal):
        return fee
    return size if event.side == "buy" else -size, price, fee


def try_leg(book: Book, event: Fill, symbol: int, leg: int, size: int) -> Refusal | None:
    """Return a refusal where legs and net would mix in one (account, symbol), or a leg would change its side."""
    if event.account == INSURANCE and (event.isolated or leg != NET):
        return Refusal("bad_bucket" if event.isolated else "bad_leg", f"{INSURANCE} holds cross net positions only")
    held = 0
    for bucket in (CROSS, event.symbol):
        row = book.row_index.get((event.account, bucket))
        if row is None:
            continue
        for other_symbol, other in book.positions_of(row):
            if other_symbol == symbol and (other == NET) != (leg == NET):
                return Refusal("bad_leg", f"{event.account} holds {event.symbol} as {LEG_NAMES[other]}")
        if bucket == (event.symbol if event.isolated else CROSS):
            held = book.position(row, symbol, leg)[0]
    if (leg == LONG and held + size < 0) or (leg == SHORT and held + size > 0):
        return Refusal("bad_leg", f"the {event.leg} leg of {event.symbol} would change its side")
    return None


def try_room(book: Book, event: Fill, symbol: int, leg: int, bucket: str, size: int, price: int) -> Refusal | None:
    """Return a refusal if the position or the account would outgrow its bound, or None.

    Bounds are checked when a fill arrives, so that a tick is not what finds them. A fill that reduces is let in.
    """
    row = book.row_index.get((event.account, bucket))
    held = book.position(row, symbol, leg)[0] if row is not None else 0
    fee = abs(scaled_half_even(event.fee, UNIT_DECIMALS)) if event.fee is not None else 0
    cash = symbol_notional(book, symbol, abs(size), price)
    cost = book.position(row, symbol, leg)[1] if row is not None else 0
    balance = book.wallet(row, book.settle[symbol]) if row is not None else 0
    asset_price = book.asset_prices[book.settle[symbol]].value or UNIT
    moved = abs(balance) + abs(cost) + cash + fee
    if worth_of(max(fee, cash), asset_price) > POSITION_UNITS_MAX or worth_of(moved, asset_price) > INT64_BOUND:
        return Refusal("overflow", "the fill's cash leaves 64 bits")
    if abs(held + size) <= abs(held):
        return None
    highest = max(price, book.marks[symbol].value)
    lowest = min(price, book.marks[symbol].value or price)
    at = lowest if book.instruments[symbol].is_inverse else highest
    notional = symbol_notional(book, symbol, abs(held + size), at)
    worth = worth_of(notional, asset_price)
    if max(price, worth) > POSITION_UNITS_MAX:
        return Refusal("overflow", f"the position would exceed {POSITION_UNITS_MAX // UNIT}")
    if row is not None and worth + row_gross(book, row) > ACCOUNT_UNITS_MAX:
        return Refusal("overflow", f"the account would exceed {ACCOUNT_UNITS_MAX // UNIT} gross")
    return None


def worth_of(amount: int, asset_price: int) -> int:
    """Return the larger of what an amount (>= 0) is in settlement units and in valuation units: both must fit."""
    return max(amount, amount * asset_price // UNIT)


def row_gross(book: Book, row: int) -> int:
    """Return the sum of a row's notionals and absolute balances in valuation units."""
    total = book.gross(row)
    for asset, price in enumerate(book.asset_prices):
        total += abs(book.wallet(row, asset)) * (price.value or UNIT) // UNIT
    return total


def apply_conversion(shard: Shard, event: Conversion) -> Outcome:
    """Post a sale of collateral; where it answers a sale in flight, tell the episode."""
    book = shard.book
    refusal = try_reserved(event.account, fund_allowed=False)
    if refusal is not None:
        return refusal
    for name in (event.from_asset, event.to_asset):
        if name not in book.asset_index:
            return Refusal("unknown_asset", f"no asset {name!r}")
    if ("conversion", event.account, event.conversion_id) in shard.ids:
        return DUPLICATE
    source, target = book.asset_index[event.from_asset], book.asset_index[event.to_asset]
    given = try_amount(book, source, event.from_amount)
    if isinstance(given, Refusal):
        return given
    received = try_amount(book, target, event.to_amount)
    if isinstance(received, Refusal):
        return received
    known = book.row_index.get((event.account, CROSS))
    for asset, amount in ((source, given), (target, received)):
        balance = amount + (abs(book.wallet(known, asset)) if known is not None else 0)
        if worth_of(balance, book.asset_prices[asset].value) > POSITION_UNITS_MAX:
            return Refusal("overflow", f"the balance would exceed {POSITION_UNITS_MAX // UNIT}")
    shard.advance(event.ts)
    shard.ids.add(("conversion", event.account, event.conversion_id))
    row = book.open_row(event.account, CROSS)
    ledger.convert(book, row, source, given, target, received)
    answered = shard.open_order(event.account, event.order_id)
    if answered is not None:
        episode, order = answered
        if order.row == row and order.asset == source:
            episode.attempts = 0
            order.is_filled = True
            order.amount -= given
            if order.amount <= 0:
                shard.end_order(episode, order)
    return Applied("fill", (row,))


def apply_order_done(shard: Shard, event: OrderDone) -> Outcome:
    """Take an order out of flight; a stranger is ignored, one that has ended already changes nothing."""
    answered = shard.open_order(event.account, event.order_id)
    if answered is not None:
        shard.advance(event.ts)
        episode, order = answered
        shard.end_order(episode, order)
        return Applied("fill", (order.row,))
    if not shard.is_known_order(event.account, event.order_id):
        return IGNORED
    shard.advance(event.ts)
    return Applied("fill")
