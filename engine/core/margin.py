"""What one row's margin looks like to a person: every figure of ``liq-engine margin``, in contract units.

Everything is computed by the same kernels that decide, then printed; nothing here decides. Position figures are in
the settlement asset, row figures in the valuation currency.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from engine.core.book import LEG_NAMES, Book, Int64Array
from engine.core.kernels.levels import liquidatable_spans_into, liquidation_level
from engine.core.kernels.margin import (
    is_liquidatable,
    notional_parts,
    position_initial,
    position_maintenance,
    position_pnl,
    to_valuation_up,
)
from engine.core.kernels.rows import liquidatable_rows_into
from engine.core.kernels.tables import Tables
from engine.units import PPM, UNIT, div_half_even, div_up, format_scaled, format_units

ENTRY_DECIMALS = 18


@dataclass(frozen=True, slots=True)
class PositionMargin:
    """One position: sizes and prices in instrument steps, money in settlement units."""

    symbol: int
    leg: int
    size: int
    cost: int
    notional_up: int
    pnl_floor: int
    maintenance: int
    initial: int


def is_row_liquidatable(book: Book, row: int) -> bool:
    """Return whether a row must be liquidated at the prices in force."""
    return bool(is_liquidatable(book.equity(row), book.maintenance(row), book.policy.trigger == "below"))


def liquidatable_rows(book: Book, view: Tables | None = None) -> Int64Array:
    """Return the rows, but the engine's own, that must be liquidated at the prices in force, or those of ``view``."""
    count = len(book.accounts)
    found_rows = np.zeros(count, dtype=np.int64)
    return found_rows[: liquidatable_rows_into(book.tables.view if view is None else view, count, found_rows)]


def position_margins(book: Book, row: int) -> Iterator[PositionMargin]:
    """Yield the row's positions, by symbol name then leg."""
    for symbol, leg in book.positions_of(row):
        size, cost = book.position(row, symbol, leg)
        spec, tiers, mark = book.specs[symbol], book.tiers[symbol], book.marks[symbol].value
        floor, remainder, _ = notional_parts(spec, abs(size), mark)
        yield PositionMargin(
            symbol=symbol,
            leg=leg,
            size=size,
            cost=cost,
            notional_up=int(floor) + (1 if remainder else 0),
            pnl_floor=int(position_pnl(spec, size, cost, mark, UNIT)),
            maintenance=int(position_maintenance(spec, tiers, size, mark)),
            initial=int(position_initial(spec, tiers, size, mark)),
        )


def liquidation_price(book: Book, row: int, symbol: int) -> int | None:
    """Return the mark of ``symbol`` at which the row becomes liquidatable, in price steps; None if there is none."""
    legs, rest, scratch = moving_legs(book, row, symbol)
    level = liquidation_level(
        legs,
        book.specs[symbol],
        book.tiers[symbol],
        book.marks[symbol].value,
        book.instruments[symbol].mark_steps,
        book.asset_prices[book.settle[symbol]].value,
        rest,
        book.policy.trigger == "below",
        scratch,
    )
    return int(level) or None


def liquidation_ranges(book: Book, row: int, symbol: int) -> list[tuple[int | None, int | None]]:
    """Return all stretches of marks of ``symbol`` at which the row is liquidatable, first and last, in price steps.

    A hedged account has one on each side, one with ``whole`` tiers may have more. None is an end that is open: down to
    the lowest mark there is, or up to where notionals leave their bound.
    """
    legs, rest, scratch = moving_legs(book, row, symbol)
    step = book.instruments[symbol].mark_steps
    spans = np.empty((scratch.size // 2 + 1, 2), dtype=np.int64)
    found = liquidatable_spans_into(
        legs,
        book.specs[symbol],
        book.tiers[symbol],
        step,
        book.asset_prices[book.settle[symbol]].value,
        rest,
        book.policy.trigger == "below",
        scratch,
        spans,
    )
    return [(first * step or None, last * step or None) for first, last in spans[:found].tolist()]


def moving_legs(book: Book, row: int, symbol: int) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Return what moves with a symbol's mark and what does not: legs, the rest's equity and margin, a scratch."""
    legs, rest = [], np.array([book.equity(row), book.maintenance(row)], dtype=np.int64)
    for held, leg in book.positions_of(row):
        if held == symbol:
            rest -= book.held_values(row, symbol, leg)[:2]
            legs.append(book.position(row, symbol, leg))
    scratch = np.empty(3 * len(legs) * len(book.tiers[symbol]) + 2, dtype=np.int64)
    return np.array(legs, dtype=np.int64), rest, scratch


def bankruptcy_price(book: Book, row: int, symbol: int, leg: int) -> int | None:
    """Return the price at which this position, closed with all others at their own, leaves the row zero equity.

    linear: p - sign x E x (MMi / MM) / (|q| x m), the equity shared out by maintenance margin; inverse: the same
    share, through 1 / price. In price steps, on the tick, rounded toward the fund: a long up and a short down, so that
    a close at the limit costs the fund nothing (dYdX rounds the same way). None where nothing needs margin, or where
    no price does it.
    """
    maintenance, equity = book.maintenance(row), book.equity(row)
    _, margin, _ = book.held_values(row, symbol, leg)
    if maintenance == 0:
        return None
    size, _ = book.position(row, symbol, leg)
    instrument, mark = book.instruments[symbol], book.marks[symbol].value
    asset_price = book.asset_prices[book.settle[symbol]].value
    sign = 1 if size > 0 else -1
    share = sign * equity * margin * UNIT
    if instrument.is_inverse:
        worth = abs(size) * instrument.value_num * maintenance * asset_price
        if worth + share * mark <= 0:
            return None
        price = Fraction(worth * mark, worth + share * mark)
    else:
        worth = abs(size) * instrument.value_num * maintenance * asset_price
        price = mark - Fraction(share * instrument.value_den, worth)
    return round_to_tick(price, instrument.tick_steps, up=sign > 0)


def limit_price(book: Book, symbol: int, size: int, bankruptcy: int | None) -> int:
    """Return the limit of an order that closes ``size``: the bankruptcy price, drawn in to the band around the mark.

    Rounded inward (a sell up, a buy down), so that a fill is never outside the band.
    """
    instrument, mark = book.instruments[symbol], book.marks[symbol].value
    band = Fraction(book.policy.limit_band_ppm, PPM)
    if size > 0:
        floor = round_to_tick(mark * (1 - band), instrument.tick_steps, up=True)
        return floor if bankruptcy is None else max(floor, bankruptcy)
    ceiling = round_to_tick(mark * (1 + band), instrument.tick_steps, up=False)
    return ceiling if bankruptcy is None else min(ceiling, bankruptcy)


def round_to_tick(price: Fraction, tick: int, *, up: bool) -> int:
    """Return ``price`` on the tick grid, rounded up or down."""
    if up:
        return div_up(price.numerator, price.denominator * tick) * tick
    return price.numerator // (price.denominator * tick) * tick


def entry_price(book: Book, symbol: int, size: int, cost: int) -> str | None:
    """Return the average entry price as a decimal string of at most 18 decimals, half-even.

    None for an inverse position that cost nothing: no price is high enough.
    """
    instrument = book.instruments[symbol]
    scale = 10 ** (ENTRY_DECIMALS - instrument.price_decimals)
    if cost == 0:
        return None if instrument.is_inverse else "0"
    if instrument.is_inverse:
        numerator, denominator = size * instrument.value_num, cost
    else:
        numerator, denominator = -cost * instrument.value_den, size * instrument.value_num
    if denominator < 0:
        numerator, denominator = -numerator, -denominator
    return format_scaled(div_half_even(numerator * scale, denominator), ENTRY_DECIMALS)


def margin_ratio(equity: int, maintenance: int) -> str | None:
    """Return maintenance / equity, 8 decimals, rounded up; "0" where MM = 0, None where equity cannot carry it."""
    if maintenance == 0:
        return "0"
    if equity <= 0:
        return None
    return format_units(div_up(maintenance * UNIT, equity))


def statement(book: Book, row: int) -> dict[str, Any]:
    """Return one row of ``liq-engine margin`` (README, "Commands"), without its ``plan``."""
    equity, maintenance = book.equity(row), book.maintenance(row)
    positions, initial, pnl = [], 0, 0
    levels: dict[int, int | None] = {}
    for position in position_margins(book, row):
        symbol, instrument = position.symbol, book.instruments[position.symbol]
        pnl += book.held_values(row, symbol, position.leg)[0]
        initial += int(to_valuation_up(position.initial, book.asset_prices[book.settle[symbol]].value))
        if symbol not in levels:
            levels[symbol] = liquidation_price(book, row, symbol)
        decimals = instrument.price_decimals
        positions.append(
            {
                "symbol": instrument.symbol,
                "leg": LEG_NAMES[position.leg],
                "qty": format_scaled(position.size, instrument.size_decimals),
                "entry_price": entry_price(book, symbol, position.size, position.cost),
                "notional": format_units(position.notional_up),
                "unrealised_pnl": format_units(position.pnl_floor),
                "maintenance_margin": format_units(position.maintenance),
                "initial_margin": format_units(position.initial),
                "liquidation_price": format_price(levels[symbol], decimals),
                "bankruptcy_price": format_price(bankruptcy_price(book, row, symbol, position.leg), decimals),
            }
        )
    bucket = {"bucket": book.buckets[row]} if book.buckets[row] else {}
    return {
        "account": book.accounts[row],
        **bucket,
        "equity": format_units(equity),
        "wallet_value": format_units(equity - pnl),
        "unrealised_pnl": format_units(pnl),
        "maintenance_margin": format_units(maintenance),
        "initial_margin": format_units(initial),
        "margin_ratio": margin_ratio(equity, maintenance),
        "liquidatable": is_row_liquidatable(book, row),
        "positions": positions,
    }


def format_price(price: int | None, decimals: int) -> str | None:
    """Return a price in steps as a decimal string, None as None."""
    return None if price is None else format_scaled(price, decimals)
