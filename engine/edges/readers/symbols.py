"""Which symbol of the risk file a vendor's name means.

Tried in this order, the first that fits wins:

1. the vendor's own name, if the risk file has it;
2. BASE and QUOTE in the usual spellings: BTCUSDT, BTC-USDT, BTC_USDT, BTC/USDT, BTC/USDT:USDT, BTC-USDT-SWAP,
   BTCUSDT_PERP, BTC-USDT-PERP; for a bare coin (Hyperliquid) the coin, COIN-PERP, then the same with USD, USDC, USDT;
3. the one instrument whose name is the same but for case, separators and a PERP or SWAP at its end;
4. the one instrument with that base and settlement asset; for a bare coin, with that base.

A bare coin never means a coin-margined (inverse) contract.

If nothing fits, or more than one does, the plainest name is returned: the core refuses it as ``unknown_symbol``,
which is counted and kept. A guess between two contracts would be worse.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set

from engine.core.params import Instrument

DOLLARS = ("USD", "USDC", "USDT")
CASH_ORDER = ("USDC", "USD", "USDT")

_SEPARATORS = re.compile(r"[-_/]")
# Not at the start: there is a coin called PERP.
_PERPETUAL = re.compile(r"(?<=.)(PERPETUAL|PERP|SWAP)$")


class SymbolResolver:
    """Vendor names to symbols of one risk file."""

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self._symbols: set[str] = set()
        self._inverse: set[str] = set()
        self._settles: set[str] = set()
        self._by_shape: dict[str, list[str]] = defaultdict(list)
        self._by_pair: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._by_base: dict[str, list[str]] = defaultdict(list)
        self._resolved: dict[tuple[str | None, ...], str] = {}
        for instrument in instruments:
            self._symbols.add(instrument.symbol)
            if instrument.is_inverse:
                self._inverse.add(instrument.symbol)
            self._settles.add(instrument.settle)
            self._by_shape[shape(instrument.symbol)].append(instrument.symbol)
            self._by_pair[instrument.base, instrument.settle].append(instrument.symbol)
            self._by_base[instrument.base].append(instrument.symbol)

    def resolve(
        self, *, base: str | None = None, quote: str | None = None, settle: str | None = None, raw: str | None = None
    ) -> str:
        """Return the symbol for a vendor's ``raw`` name, or for its parts; ``base`` alone is a bare coin."""
        name = (base, quote, settle, raw)
        symbol = self._resolved.get(name)
        if symbol is None:
            symbol = self._resolved[name] = self._find(base, quote, settle, raw)
        return symbol

    def knows(self, symbol: str) -> bool:
        """True if the risk file has this symbol."""
        return symbol in self._symbols

    def cash_asset(self) -> str:
        """Return the dollar that contracts settle in: USDC if any does, else USD if any does, else USDT."""
        return next((asset for asset in CASH_ORDER if asset in self._settles), CASH_ORDER[-1])

    def describe(self, name: str, symbol: str) -> str:
        """Return how ``name`` was mapped, for a note to the user."""
        return f"{name} → {symbol}" if self.knows(symbol) else f"{name} → {symbol} (not in the risk file)"

    def _find(self, base: str | None, quote: str | None, settle: str | None, raw: str | None) -> str:
        names = [raw] if raw else []
        if base:
            names += spellings(base, quote, settle) if quote else coin_spellings(base)
        # A bare coin's fills are dollar-margined: booked on a coin-margined contract they would be other money.
        barred = self._inverse if base and not quote else frozenset()
        for name in names:
            if name in self._symbols and name not in barred:
                return name
        pools = [self._by_shape.get(shape(name)) for name in names]
        if base:
            pools.append(self._by_pair.get((base, settle or quote)) if quote else self._by_base.get(base))
        for pool in pools:
            if (symbol := only(pool, barred)) is not None:
                return symbol
        return f"{base}{quote}" if base and quote else raw or base or ""


def spellings(base: str, quote: str, settle: str | None) -> list[str]:
    """Return the usual names of the contract on a pair."""
    joined = [f"{base}{separator}{quote}" for separator in ("", "-", "_", "/")]
    perpetual = [f"{base}/{quote}:{settle or quote}", f"{base}-{quote}-SWAP", f"{base}{quote}_PERP"]
    return [*joined, *perpetual, f"{base}-{quote}-PERP"]


def coin_spellings(coin: str) -> list[str]:
    """Return the usual names of the dollar contract on a coin."""
    return [coin, f"{coin}-PERP", *_dollar_spellings(coin)]


def _dollar_spellings(coin: str) -> Iterator[str]:
    for dollar in DOLLARS:
        yield from spellings(coin, dollar, None)


def shape(name: str) -> str:
    """Return a name without case, separators, settlement part and a PERP or SWAP at its end."""
    return _PERPETUAL.sub("", _SEPARATORS.sub("", name.partition(":")[0]).upper())


def only(symbols: Sequence[str] | None, barred: Set[str]) -> str | None:
    """Return the single symbol that is not barred, None if there is none or more than one."""
    allowed = [symbol for symbol in symbols or () if symbol not in barred]
    return allowed[0] if len(allowed) == 1 else None
