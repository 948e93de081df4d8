"""The simulated venue of replays: fills an order at once from a modelled book, deterministically.

``book``: an order fills at ``mark x (1 -+ half_spread -+ impact x sqrt(notional / depth))``, rounded against the
account to the tick, never beyond the limit, at most ``depth`` of notional between two marks of the symbol. What does
not fit in is not filled (the orders are IOC): the fill and an ``order_done`` of the same ts follow at once. Depth
refills with the symbol's next mark, and a further attempt on the same position - or any order once the depth is used
up - waits for it. Collateral is converted at ``P / P_for x (1 - slippage)``.

``impact``: as ``book``, and what was filled moves the later marks of its symbol by ``impact x sqrt(flow / depth)``,
sold down and bought up, where the flow (net notional filled) halves every ``impact_half_life_s``. So a replay can show
a cascade: liquidations that cause liquidations.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import replace
from math import isqrt

from engine.core.book import CROSS, LEG_NAMES, Book
from engine.core.debts import sale_proceeds
from engine.core.events import Conversion, Event, Fill, Mark, OrderDone, OrderStatus
from engine.core.pricing import symbol_notional
from engine.core.shard import Order, Shard
from engine.units import NS_PER_S, PPM, UNIT_DECIMALS, Number, div_half_even, div_up, scaled_half_even

# The square root is taken on this scale and rounded up: against the account, by less than a millionth of a tick.
_ROOT_SCALE = 10**12
# Binary digits of a fraction of a half-life: 2 ** -24 of one changes nothing at this scale.
_DECAY_BITS = 24


class BookVenue:
    """Fills orders against a modelled book; one per replay."""

    def __init__(self) -> None:
        self.queue: deque[Order] = deque()
        self.answers: deque[Event] = deque()
        self.waiting: dict[int, list[Order]] = defaultdict(list)
        self.depth_used: dict[int, int] = defaultdict(int)
        self.answered: dict[int, set[tuple[int, int]]] = defaultdict(set)
        self.exhausted: set[int] = set()

    def adjust(self, mark: Mark, shard: Shard) -> Mark:
        """Return the mark as it is: this venue's fills leave no trace in the log."""
        return mark

    def submit(self, order: Order) -> None:
        """Take an order: to be answered now, or at the symbol's next mark."""
        is_repeat = (order.row, order.leg) in self.answered[order.symbol]
        if not order.is_sale and (is_repeat or order.symbol in self.exhausted):
            self.waiting[order.symbol].append(order)
        else:
            self.queue.append(order)

    def mark_changed(self, symbol: int) -> None:
        """Refill the symbol's depth and let waiting orders try again."""
        self.depth_used.pop(symbol, None)
        self.answered.pop(symbol, None)
        self.exhausted.discard(symbol)
        self.queue.extend(self.waiting.pop(symbol, ()))

    def next_event(self, shard: Shard) -> Event | None:
        """Return the next answer, or None when every order in the queue has its answers."""
        while not self.answers and self.queue:
            order = self.queue.popleft()
            # The engine may have given the order up (timed out, taken over) while it waited here.
            if shard.open_order(shard.book.accounts[order.row], order.order_id) is None:
                continue
            if not order.is_sale and order.symbol in self.exhausted:
                self.waiting[order.symbol].append(order)
            else:
                self.answer(shard, order)
        return self.answers.popleft() if self.answers else None

    def answer(self, shard: Shard, order: Order) -> None:
        """Queue the fill, if any, and the ``order_done`` of one order."""
        book = shard.book
        account, ts = book.accounts[order.row], shard.clock
        fill = conversion(book, order, ts) if order.is_sale else self.fill(book, order, ts)
        status: OrderStatus = "expired"
        if fill is not None:
            self.answers.append(fill)
            status = "filled" if order.is_sale or fill_steps(book, order, fill) == abs(order.left) else "cancelled"
        self.answers.append(OrderDone(order.order_id, account, status, ts))

    def fill(self, book: Book, order: Order, ts: int) -> Fill | None:
        """Return the fill of an order against what is left of the symbol's depth, or None."""
        instrument, symbol = book.instruments[order.symbol], order.symbol
        self.answered[symbol].add((order.row, order.leg))
        mark, sells = book.marks[symbol].value, order.left < 0
        lots = abs(order.left) // instrument.lot_steps
        if instrument.depth_units is not None:
            room = instrument.depth_units - self.depth_used[symbol]
            lots_in_depth = room // symbol_notional(book, symbol, instrument.lot_steps, mark)
            if lots_in_depth <= lots:
                self.exhausted.add(symbol)
            lots = min(lots, lots_in_depth)
        lots = self.lots_within_limit(book, order, lots)
        if lots <= 0:
            return None
        size = lots * instrument.lot_steps
        price = fill_price(book, symbol, size, sells=sells)
        self.note_fill(book, symbol, -size if sells else size, ts)
        bucket = book.buckets[order.row]
        return Fill(
            fill_id=f"{order.order_id}/fill",
            account=book.accounts[order.row],
            symbol=instrument.symbol,
            side="sell" if sells else "buy",
            qty=as_number(size, instrument.size_decimals),
            price=as_number(price, instrument.price_decimals),
            ts=ts,
            fee=taker_fee(book, symbol, size, price),
            order_id=order.order_id,
            leg=LEG_NAMES[order.leg],
            isolated=bucket != CROSS,
        )

    def note_fill(self, book: Book, symbol: int, size: int, ts: int) -> None:
        """Count what a fill (signed steps) takes from the depth."""
        self.depth_used[symbol] += symbol_notional(book, symbol, abs(size), book.marks[symbol].value)

    def lots_within_limit(self, book: Book, order: Order, lots: int) -> int:
        """Return how many of ``lots`` fill within the limit: the price only worsens with the size, so halve."""
        step, sells = book.instruments[order.symbol].lot_steps, order.left < 0

        def is_within(count: int) -> bool:
            price = fill_price(book, order.symbol, count * step, sells=sells)
            return price > 0 and (price >= order.limit if sells else price <= order.limit)

        if lots <= 0 or is_within(lots):
            return lots
        low, high = 0, lots - 1
        while low < high:
            middle = (low + high + 1) // 2
            if is_within(middle):
                low = middle
            else:
                high = middle - 1
        return low


class ImpactVenue(BookVenue):
    """A book whose marks feel what was filled against it."""

    def __init__(self) -> None:
        super().__init__()
        # Per symbol: net notional filled (bought > 0), in settlement units, as of a ts.
        self.flows: dict[int, tuple[int, int]] = {}

    def adjust(self, mark: Mark, shard: Shard) -> Mark:
        """Return the mark moved by the flow that is still felt; see the module's docstring."""
        book = shard.book
        symbol = book.symbol_index.get(mark.symbol)
        if symbol is None or symbol not in self.flows:
            return mark
        instrument = book.instruments[symbol]
        flow = self.felt(book, symbol, mark.ts)
        if instrument.depth_units is None or flow == 0:
            return mark
        root = isqrt(abs(flow) * _ROOT_SCALE**2 // instrument.depth_units)
        # No flow takes a price to zero: what is felt stops at nine tenths of it.
        move = min(instrument.impact_ppm * root, PPM * _ROOT_SCALE * 9 // 10)
        mantissa, places = mark.price
        scale = PPM * _ROOT_SCALE
        moved = mantissa * (scale + move if flow > 0 else scale - move)
        digits = max(places, instrument.mark_decimals)
        return replace(mark, price=as_number(div_half_even(moved * 10 ** (digits - places), scale), digits))

    def note_fill(self, book: Book, symbol: int, size: int, ts: int) -> None:
        """Count what a fill takes from the depth, and add it to the flow."""
        super().note_fill(book, symbol, size, ts)
        notional = symbol_notional(book, symbol, abs(size), book.marks[symbol].value)
        self.flows[symbol] = (self.felt(book, symbol, ts) + (notional if size > 0 else -notional), ts)

    def felt(self, book: Book, symbol: int, ts: int) -> int:
        """Return what is left of a symbol's flow at ``ts``, rounded toward zero."""
        flow, since_ts = self.flows.get(symbol, (0, ts))
        left = decayed(abs(flow), max(0, ts - since_ts), book.policy.impact_half_life_s * NS_PER_S)
        return left if flow > 0 else -left


def decayed(amount: int, elapsed: int, half_life: int) -> int:
    """Return amount x 2 ** -(elapsed / half_life), rounded down, in integers: the same on every machine.

    Whole half-lives are shifts; the rest is a product of square roots of square roots of one half, one for each binary
    digit of the remaining fraction.
    """
    halvings, rest = divmod(elapsed, half_life)
    if halvings >= amount.bit_length():
        return 0
    factor = root = _ROOT_SCALE
    root //= 2
    for _ in range(_DECAY_BITS):
        root = isqrt(root * _ROOT_SCALE)
        rest *= 2
        if rest >= half_life:
            rest -= half_life
            factor = factor * root // _ROOT_SCALE
    return (amount * factor // _ROOT_SCALE) >> halvings


VENUES: dict[str, type[BookVenue] | None] = {"none": None, "book": BookVenue, "impact": ImpactVenue}


def fill_price(book: Book, symbol: int, size: int, *, sells: bool) -> int:
    """Return the price ``size`` steps trade at, in price steps on the tick, rounded against the account."""
    instrument, mark = book.instruments[symbol], book.marks[symbol].value
    away = instrument.half_spread_ppm * _ROOT_SCALE
    if instrument.impact_ppm and instrument.depth_units is not None:
        share = div_up(symbol_notional(book, symbol, size, mark) * _ROOT_SCALE**2, instrument.depth_units)
        away += instrument.impact_ppm * (isqrt(share - 1) + 1)
    scale = PPM * _ROOT_SCALE
    tick = instrument.tick_steps
    if sells:
        return mark * (scale - away) // (scale * tick) * tick
    return div_up(mark * (scale + away), scale * tick) * tick


def taker_fee(book: Book, symbol: int, size: int, price: int) -> Number:
    """Return the fee of a fill, rounded up to the decimals of the settlement asset."""
    asset = book.assets[book.settle[symbol]]
    units = div_up(symbol_notional(book, symbol, size, price) * book.instruments[symbol].taker_fee_ppm, PPM)
    return as_number(div_up(units, asset.step_units) * asset.step_units, UNIT_DECIMALS)


def conversion(book: Book, order: Order, ts: int) -> Conversion:
    """Return the conversion a sale gets; what it brings is rounded down to the decimals of the asset bought."""
    received = sale_proceeds(book, order.asset, order.for_asset, order.amount)
    return Conversion(
        conversion_id=f"{order.order_id}/fill",
        account=book.accounts[order.row],
        from_asset=book.assets[order.asset].name,
        from_amount=as_number(order.amount, UNIT_DECIMALS),
        to_asset=book.assets[order.for_asset].name,
        to_amount=as_number(received, UNIT_DECIMALS),
        ts=ts,
        order_id=order.order_id,
    )


def fill_steps(book: Book, order: Order, fill: Event) -> int:
    """Return the size of a fill in steps."""
    if not isinstance(fill, Fill):
        return 0
    return scaled_half_even(fill.qty, book.instruments[order.symbol].size_decimals)


def as_number(value: int, decimals: int) -> Number:
    """Return a scaled integer as an exact decimal without trailing zeros."""
    if decimals <= 0:
        return value * 10**-decimals, 0
    while decimals and value % 10 == 0:
        value, decimals = value // 10, decimals - 1
    return value, decimals
