"""A made-up market that crashes: calm, a gap of a tenth, a cascade to a third below, half of it won back.

One index moves all symbols: ``PATH`` gives its fall at certain moments, straight lines lie between. A symbol falls
``beta`` times as far and wanders around that by noise of its own, which is zero at the first tick. The deepest fall of
the index is drawn from 27 to 33 %; with the noise, a symbol of beta 1 bottoms 25 to 35 % below its start.

Beside the marks: prices of collateral assets (that of ``<asset>USDT``), funding that turns against the shorts in the
crash, and deposits of frightened traders. Chance comes from ``random.Random(seed).getrandbits`` alone and all
arithmetic is in integers, so equal arguments give equal events anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from engine.core.events import AssetPrice, Event, Funding, Mark, Transfer
from engine.core.params import Instrument
from engine.errors import InputError
from engine.units import NS_PER_MS, PPM, Number, div_half_even, format_number, try_scaled

# symbol -> (first price, beta in thousandths). Made up: round figures near what such contracts once traded at.
SYMBOLS: dict[str, tuple[Number, int]] = {
    "BTCUSDT": ((60_000, 0), 1_000),
    "ETHUSDT": ((2_500, 0), 1_150),
    "SOLUSDT": ((150, 0), 1_250),
    "BNBUSDT": ((550, 0), 1_050),
    "XRPUSDT": ((6, 1), 1_200),
    "DOGEUSDT": ((12, 2), 1_350),
    "ADAUSDT": ((4, 1), 1_250),
    "AVAXUSDT": ((28, 0), 1_300),
    "LINKUSDT": ((12, 0), 1_250),
    "LTCUSDT": ((70, 0), 1_100),
}
COLLATERAL = ("BTC", "ETH")

# (moment in thousandths of the run, fall of the index in thousandths of its deepest fall). Nothing falls before the
# first of them; its fall comes within one tick: a third of the deepest, so a tenth.
PATH = (
    (300, 330),
    (340, 280),
    (400, 550),
    (420, 480),
    (500, 820),
    (515, 740),
    (570, 1_000),
    (610, 850),
    (700, 620),
    (780, 660),
    (1_000, 500),
)
DEEPEST_PPM = (270_000, 330_000)

# 2025-01-01 00:00 UTC: any fixed moment does; a run must not depend on when it is made.
START_NS = 1_735_689_600_000_000_000
# Symbols tick one after the other, this far apart.
SYMBOL_GAP_NS = NS_PER_MS

# Noise: each tick a step of at most NOISE_STEP either way, and one part in NOISE_FADE of what there was fades:
# a deviation of about 0.2 %, which stays inside the bounds given above.
NOISE_STEP_PPM = 1_000
NOISE_FADE = 25

ASSET_PRICE_EVERY = 5
# (moment in thousandths, rate): calm longs pay, in the crash shorts do.
FUNDING = ((150, (1, 4)), (550, (-5, 4)), (900, (-1, 4)))
# Deposits arrive between these moments: after the gap, while there is still something to save.
TOP_UP_FROM, TOP_UP_TO = 310, 620
ACCOUNTS_PER_TOP_UP = 50
TOP_UP_MAX = 5_000


@dataclass(slots=True)
class Quote:
    """A symbol's price path: ``start_steps`` in 10**-price_decimals, ``noise_ppm`` where it is now."""

    instrument: Instrument
    start_steps: int
    beta_milli: int
    noise_ppm: int = 0

    def step(self, rng: Random) -> None:
        """Move the noise on by one tick."""
        move = (rng.getrandbits(32) * (2 * NOISE_STEP_PPM + 1) >> 32) - NOISE_STEP_PPM
        self.noise_ppm = div_half_even(self.noise_ppm * (NOISE_FADE - 1), NOISE_FADE) + move

    def price(self, fall_ppm: int) -> Number:
        """Return the mark, on the tick, when the index has fallen by ``fall_ppm``."""
        level_ppm = PPM - fall_ppm * self.beta_milli // 1_000 + self.noise_ppm
        tick = self.instrument.tick_steps
        steps = max(tick, div_half_even(self.start_steps * level_ppm, PPM * tick) * tick)
        return shortest(steps, self.instrument.price_decimals)


def first_marks(symbols: Sequence[Instrument]) -> dict[str, Number]:
    """Return the marks ``crash_market`` begins with."""
    return {quote.instrument.symbol: quote.price(0) for quote in make_quotes(symbols)}


def first_asset_prices(symbols: Sequence[Instrument]) -> dict[str, Number]:
    """Return the collateral prices ``crash_market`` begins with: those of COLLATERAL whose symbol takes part."""
    marks = first_marks(symbols)
    return {asset: marks[f"{asset}USDT"] for asset in COLLATERAL if f"{asset}USDT" in marks}


def crash_market(
    *,
    seed: int,
    symbols: Sequence[Instrument],
    ticks: int = 3_000,
    interval_ms: int = 1_000,
    start_ns: int = START_NS,
    accounts: Sequence[str] = (),
) -> Iterator[Event]:
    """Yield ``ticks`` marks of each symbol, in time order, and what else happens beside them.

    One of ``accounts`` in 50 deposits up to 5,000 of the first symbol's settlement asset after the gap.

    Raises InputError for a symbol SYMBOLS has no price for, and where the symbols do not fit into the interval.
    """
    quotes = make_quotes(symbols)
    if ticks < 1 or (len(quotes) + 1) * SYMBOL_GAP_NS > interval_ms * NS_PER_MS:
        raise InputError(f"ticks was {ticks}, interval_ms {interval_ms}: expected at least 1 and {len(quotes) + 1}")
    rng = Random(seed)
    low, high = DEEPEST_PPM
    deepest_ppm = low + (rng.getrandbits(32) * (high - low + 1) >> 32)
    funding = {moment * ticks // 1_000: rate for moment, rate in FUNDING}
    top_ups = draw_top_ups(rng, ticks, accounts)
    for tick in range(ticks):
        ts = start_ns + tick * interval_ms * NS_PER_MS
        fall_ppm = index_fall(tick, ticks, deepest_ppm)
        marks = {}
        for index, quote in enumerate(quotes):
            if tick:
                quote.step(rng)
            marks[quote.instrument.symbol] = quote.price(fall_ppm)
            yield Mark(quote.instrument.symbol, marks[quote.instrument.symbol], ts + index * SYMBOL_GAP_NS)
        ts += len(quotes) * SYMBOL_GAP_NS
        if tick % ASSET_PRICE_EVERY == 0:
            for asset in COLLATERAL:
                if f"{asset}USDT" in marks:
                    yield AssetPrice(asset, marks[f"{asset}USDT"], ts, "index")
        if tick in funding:
            for symbol in marks:
                yield Funding(symbol, funding[tick], ts)
        for number, account, amount in top_ups.get(tick, ()):
            yield Transfer(f"top-up-{number}", account, symbols[0].settle, (amount, 0), ts, "top-up")


def make_quotes(symbols: Sequence[Instrument]) -> list[Quote]:
    """Return each symbol at its start; InputError for one without a price in SYMBOLS."""
    quotes = []
    for instrument in symbols:
        if instrument.symbol not in SYMBOLS:
            raise InputError(f"{instrument.symbol}: no first price; known are {', '.join(SYMBOLS)}")
        price, beta_milli = SYMBOLS[instrument.symbol]
        steps = try_scaled(price, instrument.price_decimals)
        if steps is None or steps % instrument.tick_steps:
            raise InputError(f"{instrument.symbol}: first price {format_number(price)} is not on the tick")
        quotes.append(Quote(instrument, steps, beta_milli))
    return quotes


def index_fall(tick: int, ticks: int, deepest_ppm: int) -> int:
    """Return how far the index lies below its start at ``tick``, in ppm."""
    moment_ppm = tick * PPM // ticks
    if moment_ppm < PATH[0][0] * 1_000:
        return 0
    (begin, fall_begin), (end, fall_end) = next(
        (knot, later) for knot, later in pairwise(PATH) if moment_ppm < later[0] * 1_000
    )
    share_ppm = fall_begin * 1_000 + (fall_end - fall_begin) * (moment_ppm - begin * 1_000) // (end - begin)
    return deepest_ppm * share_ppm // PPM


def draw_top_ups(rng: Random, ticks: int, accounts: Sequence[str]) -> dict[int, list[tuple[int, str, int]]]:
    """Return deposits by tick: (number, account, whole units of money)."""
    top_ups: dict[int, list[tuple[int, str, int]]] = {}
    for number in range(1, len(accounts) // ACCOUNTS_PER_TOP_UP + 1):
        moment = TOP_UP_FROM + (rng.getrandbits(32) * (TOP_UP_TO - TOP_UP_FROM) >> 32)
        account = accounts[rng.getrandbits(32) * len(accounts) >> 32]
        amount = 1 + (rng.getrandbits(32) * TOP_UP_MAX >> 32)
        top_ups.setdefault(moment * ticks // 1_000, []).append((number, account, amount))
    return top_ups


def shortest(steps: int, decimals: int) -> Number:
    """Return ``steps`` x 10**-decimals without trailing zeros."""
    while decimals and steps % 10 == 0:
        steps, decimals = steps // 10, decimals - 1
    return steps, decimals
