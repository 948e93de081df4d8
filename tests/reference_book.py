"""Who holds what: a book dict (CONTRACT section 6) split into holdings, each with its own margin test.

A holding is an account's cross wallet with its positions, or one isolated bucket: a symbol with its own margin.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tests.reference_numbers import UNIT, decimal, units_half_even
from tests.reference_terms import Terms, read_terms, value_at

CROSS = ""  # the bucket of the cross wallet; symbols are never empty, so it sorts first and cannot be mistaken


@dataclass
class Position:
    """One leg in cash-flow form: ``cost`` is the signed cash of what is open, in units of the settlement asset."""

    symbol: str
    leg: str
    qty: Fraction
    cost: int


@dataclass
class Holding:
    """One margin test: an account's cross wallet, or a bucket of it; balances in units."""

    account: str
    bucket: str
    balances: dict[str, int] = field(default_factory=dict)
    positions: list[Position] = field(default_factory=list)


def read_holdings(book: dict[str, Any], risk: dict[str, Any]) -> list[Holding]:
    """Return every holding of the book, by account then bucket, ``$`` accounts included."""
    holdings: dict[tuple[str, str], Holding] = {}
    for record in book.get("accounts", []):
        for holding in read_account(record, risk):
            key = (holding.account, holding.bucket)
            if key in holdings:
                raise ValueError(f"account {holding.account} stands in the book twice")
            holdings[key] = holding
    return [holdings[key] for key in sorted(holdings)]


def read_account(record: dict[str, Any], risk: dict[str, Any]) -> Iterator[Holding]:
    """Yield the cross holding of one account and one holding per isolated symbol."""
    account = record["account"]
    cross = Holding(account, CROSS)
    cross.balances = {asset: whole_units(text) for asset, text in record.get("balances", {}).items()}
    holdings = {CROSS: cross}
    for entry in record.get("positions", []):
        symbol = entry["symbol"]
        terms = read_terms(risk, symbol)
        bucket = symbol if entry.get("isolated", False) else CROSS
        holding = holdings.setdefault(bucket, Holding(account, bucket))
        if bucket != CROSS:
            margin = whole_units(entry.get("margin", "0"))
            holding.balances[terms.settle] = holding.balances.get(terms.settle, 0) + margin
        qty = decimal(entry["qty"])
        if qty:
            holding.positions.append(Position(symbol, entry.get("leg", "net"), qty, read_cost(terms, entry)))
    for holding in holdings.values():
        name_legs(holding)
        yield holding


def whole_units(text: str) -> int:
    """Return an amount in units; a finer one is refused, because a balance is never rounded."""
    units = decimal(text) * UNIT
    if units.denominator != 1:
        raise ValueError(f"{text} has more than 8 decimals")
    return int(units)


def read_cost(terms: Terms, entry: dict[str, Any]) -> int:
    """Return the exact ``cost`` where the book gives one, else that of its entry price, half-even, once."""
    if "cost" in entry:
        return whole_units(entry["cost"])
    return units_half_even(-value_at(terms, decimal(entry["qty"]), decimal(entry["entry_price"])))


def name_legs(holding: Holding) -> None:
    """Sort positions by symbol and leg; two of one symbol with opposite signs are its legs even where not named."""
    for symbol in {position.symbol for position in holding.positions}:
        legs = [position for position in holding.positions if position.symbol == symbol]
        if len(legs) == 1:
            continue
        if len(legs) != 2 or legs[0].qty * legs[1].qty > 0:
            raise ValueError(f"account {holding.account} holds {symbol} more than once on the same side")
        for position in legs:
            position.leg = "long" if position.qty > 0 else "short"
    holding.positions.sort(key=lambda position: (position.symbol, position.leg))
