"""Which marks are believed: a price far from the last confirmed one waits for a second opinion.

A mark further than ``price_band`` from the last confirmed one is *unconfirmed*. Equity goes on using the confirmed
one until the next mark of the symbol lies within the band of the unconfirmed one (confirmed) or of the confirmed one
(discarded), or the mark's own index price lies within the band of it, or ``max_hold_ms`` have passed. Asset prices are
guarded alike, but a source that names itself cannot confirm itself: one broken feed, however often it repeats a
price, liquidates nobody. An asset with a ``redemption_floor`` counts at that floor until three sources have printed
less; then what they say holds at once.
"""

from __future__ import annotations

from fractions import Fraction

from engine.core.book import Price
from engine.core.params import Asset, Policy
from engine.units import PPM, Number

# What an issuer redeems at par cannot be worth much less for long: USDC stood at 0.65 on one venue in October 2025 and
# at 0.87 everywhere in March 2023. One or two sources can share a feed; three seldom do.
REDEMPTION_SOURCES = 3


def is_within(price: int, reference: int | Fraction, band_ppm: int) -> bool:
    """Return whether ``price`` lies within the band around ``reference``, the edge included."""
    room = band_ppm * reference
    return -room <= PPM * (price - reference) <= room


def is_confirmed(
    known: Price, value: int, policy: Policy, *, index: Fraction | None = None, source: str | None = None
) -> bool:
    """Return whether a new price may be used at once.

    ``known`` is the symbol's (or asset's) price state, ``value`` and ``index`` in its steps, ``index`` exact and None
    where the message carries none.
    """
    band = policy.price_band_ppm
    if band == 0 or known.value == 0 or is_within(value, known.value, band):
        return True
    if index is not None and is_within(value, index, band):
        return True
    is_second = known.pending != 0 and is_within(value, known.pending, band)
    return is_second and (source is None or source != known.pending_source)


def keep_pending(known: Price, value: int, ts: int, clock: int, source: str | None) -> None:
    """Remember an unconfirmed price; the wait counts from the first of a row of them."""
    if known.pending == 0:
        known.pending_since = clock
    known.pending, known.pending_ts, known.pending_source = value, ts, source


def doubters_after(known: Price, asset: Asset, value: int, source: str | None) -> frozenset[str]:
    """Return the sources whose latest price lies below the asset's redemption floor, this one taken in."""
    floor, name = asset.redemption_floor_units, source or ""
    if floor is None:
        return frozenset()
    return known.doubters | {name} if value < floor else known.doubters - {name}


def exact_steps(price: Number, decimals: int) -> Fraction:
    """Return a price in steps of 10**-decimals, unrounded: an index price is compared, never used."""
    mantissa, places = price
    return Fraction(mantissa * 10**decimals, 10**places)


def breaks_floor(asset: Asset, known: Price, value: int, doubters: frozenset[str]) -> bool:
    """Return whether a price goes below the redemption floor with enough sources saying so: it then holds at once.

    Once below, and on the way back, a price is one like any other: a single source's outlier has to wait.
    """
    floor = asset.redemption_floor_units
    return floor is not None and value < floor <= known.value and len(doubters) >= REDEMPTION_SOURCES


def redeemable(asset: Asset, value: int, doubters: frozenset[str]) -> int:
    """Return the price an asset counts at: its redemption floor, until enough sources say that it is worth less."""
    floor = asset.redemption_floor_units
    if floor is None or value >= floor or len(doubters) >= REDEMPTION_SOURCES:
        return value
    return floor
