"""Which price of each symbol and asset is in force, told from the messages alone (README, "Guards" and its decisions).

A model of its own: it shares no code with the engine and looks at none of its state. Prices are integers of 1e-18, so
that any mark is exact; a new one is rounded half-even when it arrives (a mark to ``mark_decimals``, an asset price to
8), ignored when it is older than the last of its name, and *unconfirmed* while it lies further than ``price_band`` from
the one in force. An unconfirmed price comes into force

* when the next lies within the band of it - not from the same named source, which cannot confirm itself,
* when its own ``index_price`` lies within the band,
* when ``max_hold_ms`` have passed since the first of a row of unconfirmed ones came,
* when a change of policy leaves it within the band, or switches the guard off,

and is dropped when the next price lies within the band of the one in force. An asset with a ``redemption_floor``
counts at that floor until three sources have printed less: the price that breaks it then holds at once, and the band
rules what comes after. Prices so far off that a sum would leave 64 bits are not made here; ``tests/test_band.py`` has
those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import Any

from tests.reference_numbers import decimal
from tests.reference_terms import ASSET_PRICE_DECIMALS, read_terms

Document = dict[str, Any]

# More decimals than any price has.
DECIMALS = 18
SCALE = 10**DECIMALS
NS_PER_MS = 1_000_000
REDEMPTION_SOURCES = 3
DEFAULTS = {"price_band": "0", "max_hold_ms": 60_000, "mark_stale_ms": 0}

# The same few texts are read again and again.
number = cache(decimal)


@dataclass(slots=True)
class Quote:
    """What is known of one price; 0 is no price."""

    value: int = 0
    ts: int = 0
    is_seen: bool = False
    pending: int = 0
    pending_ts: int = 0
    pending_source: str | None = None
    pending_since: int = 0
    doubters: set[str] = field(default_factory=set)

    @property
    def latest_ts(self) -> int:
        """The time of the last price that was taken, in force or not."""
        return max(self.ts, self.pending_ts if self.pending else 0)

    def put(self, value: int, ts: int) -> None:
        """Put a price in force."""
        self.value, self.ts, self.pending = value, ts, 0


class Prices:
    """All prices of one run; ``risk`` is the document in force, kept by whoever hears the ``set_*`` messages."""

    def __init__(self, risk: Document, book: Document | None = None) -> None:
        self.risk = risk
        self.marks = {symbol: Quote() for symbol in risk["instruments"]}
        self.assets = {asset: Quote() for asset in risk["assets"]}
        self.mark_decimals = {symbol: read_terms(risk, symbol).mark_decimals for symbol in self.marks}
        book = book or {}
        self.clock = book.get("ts", 0)
        # Nothing is examined before the first accepted message.
        self.is_running = False
        # Whether every price there is was shown by the log: then nobody is cold.
        self.all_seen = False
        for symbol, text in book.get("marks", {}).items():
            self.marks[symbol].put(rounded(text, self.mark_decimals[symbol]), self.clock)
        for asset, text in book.get("asset_prices", {}).items():
            self.assets[asset].put(rounded(text, ASSET_PRICE_DECIMALS), self.clock)
        for asset in self.assets:
            self.fix(asset)

    def quotes(self) -> Iterator[Quote]:
        """Yield all prices."""
        yield from self.marks.values()
        yield from self.assets.values()

    def policy(self, key: str) -> Fraction:
        """Return a number of the policy in force."""
        return number(self.risk["policy"].get(key, DEFAULTS[key]))

    def is_fixed(self, asset: str) -> bool:
        """Return whether the risk file fixes the price of an asset."""
        return bool(self.risk["assets"][asset].get("price", "none") != "none")

    def fix(self, asset: str) -> None:
        """Put the fixed price of an asset in force, where it has one."""
        if self.is_fixed(asset):
            quote = self.assets[asset]
            quote.put(rounded(self.risk["assets"][asset]["price"], DECIMALS), quote.ts)
            quote.is_seen = True

    # Messages.

    def is_outdated(self, message: Document) -> bool:
        """Return whether a well-formed price must be ignored: older than the last of its name, or of a fixed asset."""
        if message["type"] == "mark":
            quote = self.marks[message["symbol"]]
        else:
            quote = self.assets[message["asset"]]
            if self.is_fixed(message["asset"]):
                return True
        return quote.value != 0 and message["ts"] < quote.latest_ts

    def hear(self, message: Document) -> None:
        """Take over what an accepted message says: what it sets, what runs out by its time."""
        self.clock, self.is_running = max(self.clock, message["ts"]), True
        kind = message["type"]
        if kind == "mark":
            self.hear_mark(message)
        elif kind == "asset_price":
            self.hear_asset_price(message)
        elif kind == "set_asset":
            self.assets.setdefault(message["asset"], Quote())
            self.fix(message["asset"])
        elif kind == "set_instrument":
            symbol = message["symbol"]
            self.marks.setdefault(symbol, Quote())
            self.mark_decimals[symbol] = read_terms(self.risk, symbol).mark_decimals
        elif kind == "set_policy":
            self.look_again()
        wait = int(self.policy("max_hold_ms")) * NS_PER_MS
        for quote in self.quotes():
            if quote.pending and wait and self.clock >= quote.pending_since + wait:
                quote.put(quote.pending, quote.pending_ts)
        if not self.all_seen or kind.startswith("set_"):
            self.all_seen = all(
                quote.is_seen and quote.value for quote in (*self.marks.values(), *self.assets.values())
            )

    def hear_mark(self, message: Document) -> None:
        """Take a mark."""
        symbol = message["symbol"]
        value, quote = rounded(message["price"], self.mark_decimals[symbol]), self.marks[symbol]
        index = message.get("index_price")
        if self.is_believed(quote, value) or (index is not None and self.is_near(value, decimal(index) * SCALE)):
            quote.put(value, message["ts"])
        else:
            self.wait(quote, value, message["ts"], None)
        quote.is_seen = True

    def hear_asset_price(self, message: Document) -> None:
        """Take an asset price of one source."""
        quote, source = self.assets[message["asset"]], message.get("source")
        value = rounded(message["price"], ASSET_PRICE_DECIMALS)
        floor = self.risk["assets"][message["asset"]].get("redemption_floor", "none")
        is_agreed = False
        if floor == "none":
            quote.doubters.clear()
        else:
            least = rounded(floor, DECIMALS)
            (quote.doubters.add if value < least else quote.doubters.discard)(source or "")
            are_enough = len(quote.doubters) >= REDEMPTION_SOURCES
            is_agreed = are_enough and value < least <= quote.value
            value = value if are_enough else max(value, least)
        if is_agreed or self.is_believed(quote, value, source):
            quote.put(value, message["ts"])
        else:
            self.wait(quote, value, message["ts"], source)
        quote.is_seen = True

    def is_believed(self, quote: Quote, value: int, source: str | None = None) -> bool:
        """Return whether a price may be used at once, by what is known of earlier ones."""
        if quote.value == 0 or self.policy("price_band") == 0 or self.is_near(value, quote.value):
            return True
        is_second = quote.pending != 0 and self.is_near(value, quote.pending)
        return is_second and (source is None or source != quote.pending_source)

    def is_near(self, value: int, reference: Fraction | int) -> bool:
        """Return whether a price lies within the band around another, the edge included."""
        room = self.policy("price_band") * reference
        return -room <= value - reference <= room

    def wait(self, quote: Quote, value: int, ts: int, source: str | None) -> None:
        """Keep a price that nobody has confirmed."""
        if quote.pending == 0:
            quote.pending_since = self.clock
        quote.pending, quote.pending_ts, quote.pending_source = value, ts, source

    def look_again(self) -> None:
        """Judge unconfirmed prices by a new policy."""
        for quote in self.quotes():
            if quote.pending and (self.policy("price_band") == 0 or self.is_near(quote.pending, quote.value)):
                quote.put(quote.pending, quote.pending_ts)

    # What the guards ask.

    def is_stale(self, quote: Quote) -> bool:
        """Return whether a price is older than the policy allows."""
        limit = int(self.policy("mark_stale_ms")) * NS_PER_MS
        return limit > 0 and self.clock - quote.ts > limit


def rounded(text: str | int, decimals: int) -> int:
    """Return a price of a message, half-even to some decimals."""
    whole, _, rest = str(text).partition(".")
    if len(rest) <= decimals:
        return int(whole + rest) * 10 ** (DECIMALS - len(rest))
    quotient, left = divmod(int(whole + rest), 10 ** (len(rest) - decimals))
    half = 5 * 10 ** (len(rest) - decimals - 1)
    quotient += left > half or (left == half and quotient % 2 == 1)
    return quotient * 10 ** (DECIMALS - decimals)
