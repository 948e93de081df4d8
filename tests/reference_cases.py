"""Short ways to write the risk, book and event dicts of the oracle's tests, and a strategy for small random ones."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import strategies as st

from tests.reference import margin_rows
from tests.reference_numbers import decimal, half_even, show

INVERSE = {
    "kind": "inverse", "settle": "BTC", "multiplier": "100", "price_tick": "0.5", "lot": "1", "mark_decimals": 1,
    "tiers": [["0", "0.01", "10"]],
}  # fmt: skip


def perpetual(*tiers, **fields):
    """One linear perpetual settled in USD, lot 0.001, tick 0.1, marks to 1 decimal, 1 % maintenance unless told."""
    rows = [list(tier) for tier in tiers] or [["0", "0.01", "20"]]
    return {"settle": "USD", "price_tick": "0.1", "lot": "0.001", "mark_decimals": 1, "tiers": rows, **fields}


def risk_of(instruments, assets=None, **policy):
    return {"policy": policy, "assets": {"USD": {"price": "1"}, **(assets or {})}, "instruments": instruments}


def book_of(balances, positions, marks, **fields):
    account = {"account": "a", "balances": balances, "positions": positions}
    return {"accounts": [account], "marks": marks, **fields}


def long_of(qty, entry, symbol="BTC", **fields):
    return {"symbol": symbol, "qty": qty, "entry_price": entry, **fields}


def fill(number, side, qty, price, **fields):
    """A fill of account ``a`` in BTC unless told."""
    event = {"type": "fill", "ts": 1, "fill_id": str(number), "account": "a", "symbol": "BTC", "side": side}
    return {**event, "qty": qty, "price": price, **fields}


def transfer(number, amount, **fields):
    """A transfer of dollars to account ``a`` unless told."""
    event = {"type": "transfer", "ts": 1, "transfer_id": str(number), "account": "a", "asset": "USD", "amount": amount}
    return {**event, **fields}


def only_row(book, risk):
    (row,) = margin_rows(book, risk)
    return row


@st.composite
def small_books(draw):
    """A hedge or one leg on a grid of small whole prices, in dollars or in dust where roundings rule; and its risk."""
    unit = draw(st.sampled_from([Fraction(1), Fraction(1, 10**8)]))
    is_inverse = draw(st.booleans())
    rates = sorted(draw(st.lists(st.sampled_from(["0", "0.01", "0.07", "0.2", "0.5", "1"]), min_size=3, max_size=3)))
    floors = [Fraction(0), *sorted(draw(st.lists(st.integers(1, 900), min_size=2, max_size=2, unique=True)))]
    tiers = [[show(floor * unit), rate, "2"] for floor, rate in zip(floors, rates, strict=True)]
    multiplier = unit * draw(st.sampled_from([1, 3, Fraction(1, 2)])) * (100 if is_inverse else 1)
    instrument = perpetual(
        *tiers, lot="1", mark_decimals=0, price_tick="1", settle="C", multiplier=show(multiplier),
        kind="inverse" if is_inverse else "linear",
    )  # fmt: skip
    entry = st.integers(1, 40).map(str)
    legs = [long_of(str(sign * draw(st.integers(1, 30))), draw(entry)) for sign in (1, -1)]
    legs = draw(st.sampled_from([legs, legs[:1], legs[1:]]))
    price = draw(st.sampled_from(["1", "0.37", "3.3", "41"]))
    book = book_of({}, legs, {"BTC": draw(entry)}, asset_prices={"C": price})
    modes = {"tier_mode": st.sampled_from(["marginal", "whole"]), "trigger": st.sampled_from(["at_or_below", "below"])}
    risk = risk_of({"BTC": instrument}, {"C": {}}, **draw(st.fixed_dictionaries(modes)))
    book["accounts"][0]["balances"]["C"] = draw(st.one_of(any_balance(unit), knife_edge_balance(book, risk)))
    return book, risk


def any_balance(unit):
    """Balances of the same order as the positions."""
    return st.integers(-900, 900).map(lambda amount: show(unit * amount))


@st.composite
def knife_edge_balance(draw, book, risk):
    """A balance that puts the edge, give or take a few units, at a price of its own: there only roundings decide."""
    price = decimal(book["asset_prices"]["C"])
    row = only_row({**book, "marks": {"BTC": str(draw(st.integers(1, 60)))}}, risk)
    missing = (decimal(row["maintenance_margin"]) - decimal(row["unrealised_pnl"])) / price
    return show(half_even(missing, 8) + Fraction(draw(st.integers(-4, 4)), 10**8))
