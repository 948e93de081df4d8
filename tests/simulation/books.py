"""A starting book for a simulated market: healthy accounts, indebted ones and some under water, in every shape.

Balances and debts, net positions, both legs of a hedge (named or not), isolated buckets with and without margin, a
fund, marks and asset prices or none of them, a clock that is set or not. Entry prices lie up to a third away from the
mark, so some of the accounts must be liquidated the moment the log has shown their prices, and none before.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tests.reference_numbers import show

if TYPE_CHECKING:
    from tests.simulation.market import Market

Document = dict[str, Any]


def make_book(market: Market) -> Document:
    """Return a book over the accounts, symbols and assets of a market."""
    pick, chance = market.pick, market.chance
    is_free = {asset: "price" not in fields for asset, fields in market.risk["assets"].items()}
    return {
        "accounts": [make_account(market, account) for account in market.accounts if chance(0.8)],
        "marks": {symbol: show(mark) for symbol, mark in market.marks.items() if chance(0.9)},
        "asset_prices": {
            asset: show(price) for asset, price in market.prices.items() if is_free[asset] and chance(0.9)
        },
        "insurance": {"USDT": pick(("5", "700", "20000"))} if chance(0.7) else {},
        "ts": pick((0, market.now - 3_600_000_000_000, market.now - 1, market.now, market.now + 5_000_000_000)),
    }


def make_account(market: Market, account: str) -> Document:
    """Return one account of a book."""
    balances = {}
    for asset in market.risk["assets"]:
        if market.chance(0.7):
            amount = market.deposit(account, asset)["amount"]
            balances[asset] = f"-{amount}" if market.chance(0.1) else amount
    positions = [
        entry for symbol in market.symbols if market.chance(0.6) for entry in make_positions(market, account, symbol)
    ]
    return {"account": account, "balances": balances, "positions": positions}


def make_positions(market: Market, account: str, symbol: str) -> Iterator[Document]:
    """Yield what an account holds of one symbol: a net position, an isolated one, or one or two legs."""
    mode, is_long = market.mode_of(account, symbol), market.chance(0.5)
    entry = make_position(market, symbol, is_long=is_long)
    if mode == "isolated":
        # Without margin it stands on its profit alone.
        margin = {"margin": market.bucket_margin(symbol)} if market.chance(0.9) else {}
        yield {**entry, "isolated": True, **margin}
    elif mode == "hedge":
        is_twin = market.chance(0.5)
        # Two of opposite signs are the legs even where they are not named.
        named = not (is_twin and market.chance(0.5))
        yield {**entry, "leg": "long" if is_long else "short"} if named else entry
        if is_twin:
            other = make_position(market, symbol, is_long=not is_long)
            yield {**other, "leg": "short" if is_long else "long"} if named else other
    else:
        yield entry


def make_position(market: Market, symbol: str, *, is_long: bool) -> Document:
    """Return a position on one side, entered up to a third away from the mark."""
    share = Fraction(market.pick((1, 10, 100, 300, 1000)), 100)
    qty = market.qty(symbol, share)
    away = Fraction(market.random.randint(-10, 10) if market.chance(0.6) else market.random.randint(-33, 33), 100)
    entry = market.marks[symbol] * (1 + away)
    if market.chance(0.2):
        # As finely as an average of many fills: 18 decimals.
        entry += Fraction(market.random.randint(0, 10**9), 10**18)
    return {"symbol": symbol, "qty": qty if is_long else f"-{qty}", "entry_price": show(entry)}
