"""How control messages change what is allowed and which parameters are in force, from that message of the log on."""

from __future__ import annotations

import numpy as np

from engine.core.book import Book
from engine.core.confirm import review_pending
from engine.core.events import EVENTS_TOPIC, Pause, SetParams
from engine.core.guards import ALL
from engine.core.margin import liquidatable_rows
from engine.core.params import INSTRUMENTS_MAX, Instrument, build_asset, build_instrument, build_policy
from engine.core.pricing import asset_price_overflows, reprice_all
from engine.core.refusal import Refusal
from engine.core.shard import Shard
from engine.errors import ParamError
from engine.units import format_units

# As many names as surely fit into a message of 1 MiB: 64 bytes of control characters are 384 in JSON. The rest goes
# into further messages.
CROSSED_MAX = 2_000
_SCALES = ("kind", "settle", "size_decimals", "price_decimals", "lot_steps", "value_num", "value_den")


def apply_pause(shard: Shard, event: Pause) -> list[int] | Refusal:
    """Pause or resume liquidations of a symbol or of all; return the rows whose hold may end or begin."""
    if event.scope != ALL and event.scope not in shard.book.symbol_index:
        return Refusal("unknown_symbol", f"no instrument {event.scope!r}")
    shard.advance(event.ts)
    if event.resume:
        shard.paused.pop(event.scope, None)
    else:
        shard.paused[event.scope] = event.reason or ""
    return sorted({*shard.holds, *shard.episodes})


def apply_params(shard: Shard, event: SetParams) -> list[int] | Refusal:
    """Set parameters and reprice everything; return the rows that need a look.

    Emits ``policy_changed`` with the accounts that crossed into liquidation because of it: a change of tiers or
    haircuts never liquidates silently.
    """
    book = shard.book
    before = liquidatable_rows(book)
    try:
        refusal = _set(book, event)
    except ParamError as error:
        if error.reason == "missing_field":
            return Refusal("unknown_symbol", f"{event.name!r} is not known and {error.key} is missing to create it")
        return Refusal("out_of_range", str(error))
    if refusal is not None:
        return refusal
    reviewed = review_pending(shard) if event.what == "policy" else []
    rows = reprice_all(book)
    book.policy_version += 1
    crossed = sorted({book.accounts[row] for row in np.setdiff1d(liquidatable_rows(book), before).tolist()})
    shard.advance(event.ts)
    what = event.what if event.what == "policy" else f"{event.what} {event.name}"
    for first in range(0, max(len(crossed), 1), CROSSED_MAX):
        part = crossed[first : first + CROSSED_MAX]
        fields = {"version": book.policy_version, "what": what, "crossed": part}
        shard.emit(EVENTS_TOPIC, event.name, "policy_changed", fields)
    return sorted({*rows, *reviewed, *shard.holds, *shard.episodes})


def _set(book: Book, event: SetParams) -> Refusal | None:
    if event.what == "policy":
        book.set_policy(build_policy(event.fields, book.policy))
        return None
    if event.what == "asset":
        asset_index = book.asset_index.get(event.name)
        known_asset = book.assets[asset_index] if asset_index is not None else None
        asset = build_asset(event.name, event.fields, known_asset)
        price = asset.price_units
        if price is not None and asset_index is not None and asset_price_overflows(book, asset_index, price):
            return Refusal("overflow", f"at {format_units(price)} the largest balance leaves 64 bits")
        book.set_asset(asset)
        return None
    symbol = book.symbol_index.get(event.name)
    known = book.instruments[symbol] if symbol is not None else None
    if known is None and len(book.instruments) >= INSTRUMENTS_MAX:
        return Refusal("out_of_range", f"there are {INSTRUMENTS_MAX} instruments, no more are held")
    instrument = build_instrument(event.name, event.fields, known)
    if instrument.settle not in book.asset_index:
        return Refusal("unknown_asset", f"no asset {instrument.settle!r}")
    if known is not None and _scales_differ(known, instrument):
        return Refusal("out_of_range", f"{event.name} is in use: kind, settle, lot and multiplier cannot change")
    book.set_instrument(instrument)
    return None


def _scales_differ(before: Instrument, after: Instrument) -> bool:
    return any(getattr(before, name) != getattr(after, name) for name in _SCALES)
