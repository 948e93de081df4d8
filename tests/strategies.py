"""Random books, risk files and event streams for the tests that hold the engine to the oracle.

Amounts are drawn on the grids the contract allows (lots, ticks, decimals of an asset), so that everything drawn is
accepted; what must be refused has tests of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.reference import margin_rows
from tests.reference_cases import INVERSE, perpetual, risk_of
from tests.reference_numbers import decimal, half_even, show

Document = dict[str, Any]

TIERS = [("0", "0.004", "125"), ("5000", "0.005", "100"), ("25000", "0.01", "50"), ("100000", "0.05", "10")]
# One of each kind: whole units, fractions of units, coins, a coin-settled linear one, a large lot, a fine tick.
INSTRUMENTS = {
    "BTC": perpetual(*TIERS),
    "MINI": perpetual(*TIERS, multiplier="0.00037", mark_decimals=3),
    "MEGA": perpetual(*TIERS, lot="1000", price_tick="0.0000001", mark_decimals=9),
    "HALF": perpetual(*TIERS, lot="0.5", multiplier="2.5"),
    "XBT": {**INVERSE, "tiers": [["0", "0.005", "100"], ["0.1", "0.01", "50"], ["2", "0.1", "5"]]},
    "COINED": perpetual(*TIERS, settle="COIN"),
}
ASSETS = {
    "BTC": {"weights": [["0", "0.95"], ["5000", "0.8"], ["50000", "0.4"]]},
    "COIN": {"price": "0.37"},
    "ETH": {"weights": [["0", "0.9"], ["10000", "0"]]},
    "DUST": {"weights": [["0", "1"], ["0.00000007", "0.333333"]], "decimals": 2},
}
# Where a mark of each symbol and a price of each asset usually is, and how many decimals it is drawn with.
MARKS: dict[str, tuple[Fraction | int, int]] = {
    "BTC": (60_000, 1),
    "MINI": (1_500, 3),
    "MEGA": (Fraction(2, 1000), 9),
    "HALF": (40, 1),
    "XBT": (50_000, 1),
    "COINED": (100, 1),
}
PRICES: dict[str, tuple[Fraction | int, int]] = {"BTC": (50_000, 8), "ETH": (3_000, 8), "DUST": (Fraction(1, 10**6), 8)}


def toml_of(risk: Document) -> str:
    """Return a risk dict as the text of a risk file."""
    lines = table_lines("policy", risk.get("policy", {}))
    for section in ("assets", "instruments"):
        for name, fields in risk.get(section, {}).items():
            lines += table_lines(f"{section}.{json.dumps(name)}", fields)
    return "\n".join(lines) + "\n"


def table_lines(name: str, fields: Document) -> list[str]:
    """Return one TOML table; JSON spells strings, integers and lists as TOML does."""
    return [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in fields.items())]


def write_case(folder: Path, book: Document, risk: Document) -> tuple[Path, Path]:
    """Write a book file and a risk file into ``folder``; return their paths."""
    book_path, risk_path = folder / "book.json", folder / "risk.toml"
    book_path.write_text(json.dumps(book), encoding="utf-8")
    risk_path.write_text(toml_of(risk), encoding="utf-8")
    return book_path, risk_path


def amounts(low: int, high: int, decimals: int) -> st.SearchStrategy[str]:
    """Decimal strings from ``low`` to ``high`` in steps of 10**-decimals."""
    return st.integers(low, high).map(lambda steps: show(Fraction(steps, 10**decimals)))


def around(middle: Fraction | int, decimals: int, times: int = 3) -> st.SearchStrategy[str]:
    """Decimal strings from a ``times``-th of ``middle`` to ``times`` it, on the grid of ``decimals``."""
    steps = int(middle * 10**decimals)
    return amounts(max(1, steps // times), steps * times, decimals)


def quantities(symbol: str, mark: Fraction, worth_max: int) -> st.SearchStrategy[str]:
    """Quantities > 0 in lots, worth up to about ``worth_max`` dollars or coins' worth at ``mark``."""
    fields = INSTRUMENTS[symbol]
    lot, multiplier = decimal(fields["lot"]), decimal(fields.get("multiplier", "1"))
    value = lot * multiplier if "kind" in fields else lot * multiplier * mark
    return st.integers(1, max(1, int(worth_max / value))).map(lambda lots: show(lots * lot))


# Books for ``liq-engine margin``.


@st.composite
def rich_books(draw: st.DrawFn) -> tuple[Document, Document]:
    """A book of up to four accounts with any positions and collateral, some on the very edge; and its risk."""
    policy = {
        "tier_mode": draw(st.sampled_from(["marginal", "marginal", "whole"])),
        "trigger": draw(st.sampled_from(["at_or_below", "below"])),
    }
    risk = risk_of(INSTRUMENTS, ASSETS, **policy)
    marks = {symbol: draw(around(*MARKS[symbol])) for symbol in INSTRUMENTS}
    prices = {asset: draw(around(*PRICES[asset])) for asset in PRICES}
    names = draw(st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4, unique=True))
    records = [draw(accounts(name, marks)) for name in names]
    book = {"accounts": records, "marks": marks, "asset_prices": prices}
    if draw(st.booleans()):
        records[0]["balances"]["USD"] = draw(edge_balance(book, risk, names[0]))
    return book, risk


@st.composite
def accounts(draw: st.DrawFn, name: str, marks: Document) -> Document:
    """One account: net positions, hedges, isolated buckets, and balances of either sign in any asset."""
    positions: list[Document] = []
    for symbol in draw(st.lists(st.sampled_from(sorted(INSTRUMENTS)), max_size=4, unique=True)):
        shape = draw(st.sampled_from(["long", "short", "hedge", "isolated", "isolated hedge"]))
        for sign in (1, -1) if "hedge" in shape else (draw(st.sampled_from([1, -1])),):
            entry = draw_position(draw, symbol, sign if shape != "short" else -1, marks)
            if "hedge" in shape:
                entry["leg"] = "long" if sign > 0 else "short"
            if "isolated" in shape:
                entry |= {"isolated": True, "margin": draw(amounts(-(10**9), 10**12, 8))}
            positions.append(entry)
    balances = draw(
        st.dictionaries(st.sampled_from(["USD", "BTC", "COIN", "ETH", "DUST"]), amounts(-(10**6), 10**7, 2))
    )
    if "BTC" in balances:  # coins are dear: some, not thousands
        balances["BTC"] = draw(amounts(-(10**8), 3 * 10**8, 8))
    return {"account": name, "balances": balances, "positions": positions}


def draw_position(draw: st.DrawFn, symbol: str, sign: int, marks: Document) -> Document:
    """Return a position of up to some 200,000 dollars, entered within a few percent of the mark or anywhere."""
    mark = decimal(marks[symbol])
    worth_max = draw(st.sampled_from([100, 10_000, 200_000]))
    qty = show(sign * decimal(draw(quantities(symbol, mark, worth_max))))
    decimals = MARKS[symbol][1]
    near = st.integers(-30, 30).map(lambda tenths: show(half_even(mark * (1000 + tenths) / 1000, decimals)))
    entry = draw(st.one_of(near.filter(lambda price: decimal(price) > 0), around(*MARKS[symbol])))
    return {"symbol": symbol, "qty": qty, "entry_price": entry}


@st.composite
def edge_balance(draw: st.DrawFn, book: Document, risk: Document, account: str) -> str:
    """A balance of dollars that leaves the account at its threshold, a unit above or a unit below."""
    balances = next(entry["balances"] for entry in book["accounts"] if entry["account"] == account)
    row = next(row for row in margin_rows(book, risk) if row["account"] == account and "bucket" not in row)
    held = decimal(balances.get("USD", "0"))
    missing = decimal(row["maintenance_margin"]) - decimal(row["equity"])
    return show(held + missing + Fraction(draw(st.integers(-1, 1)), 10**8))


# Event streams for the ledger.

LEDGER_INSTRUMENTS = {**INSTRUMENTS, "HEDGE": perpetual(*TIERS), "ISO": perpetual(*TIERS, settle="COIN")}
LEDGER_MARKS = {**MARKS, "HEDGE": (700, 1), "ISO": (30, 1)}
BUCKETS = {"ISO": "COIN", "BTC": "USD"}  # symbols that are traded isolated, and what their buckets hold


@dataclass(frozen=True)
class Plan:
    """One thing to happen before it is known what it meets: a hedge leg is closed by ``share`` of what is there."""

    event: Document
    share: Fraction = Fraction(1)


def opening_prices() -> list[Document]:
    """Return the marks and asset prices every stream begins with, so that whatever follows can be valued."""
    marks = [{"type": "mark", "symbol": name, "price": show(Fraction(LEDGER_MARKS[name][0]))} for name in LEDGER_MARKS]
    prices = [{"type": "asset_price", "asset": name, "price": show(Fraction(PRICES[name][0]))} for name in PRICES]
    return [{**event, "ts": 1} for event in marks + prices]


@st.composite
def streams(draw: st.DrawFn, min_size: int, max_size: int) -> list[Plan]:
    """Events of any kind around one to three symbols, so that positions are added to, reduced and flipped often."""
    symbols = draw(st.lists(st.sampled_from(sorted(LEDGER_INSTRUMENTS)), min_size=1, max_size=3, unique=True))
    return draw(st.lists(plans(symbols), min_size=min_size, max_size=max_size))


@st.composite
def plans(draw: st.DrawFn, symbols: list[str]) -> Plan:
    """One event of any kind; ids repeat now and then, marks and asset prices come late now and then."""
    kind = draw(st.sampled_from(["fill"] * 6 + ["mark"] * 3 + ["asset_price", "funding", "transfer", "conversion"]))
    event: Document = {"type": kind, "ts": draw(st.integers(1, 50))}
    if kind in ("fill", "transfer", "conversion"):
        event["account"] = draw(st.sampled_from(["a", "b", "c"]))
        event[f"{kind}_id"] = str(draw(st.integers(0, 60)))
    symbol = draw(st.sampled_from(symbols))
    if kind == "mark":
        middle, decimals = LEDGER_MARKS[symbol]
        return Plan(event | {"symbol": symbol, "price": draw(around(middle, decimals + 2))})
    if kind == "asset_price":
        asset = draw(st.sampled_from(sorted(PRICES)))
        return Plan(event | {"asset": asset, "price": draw(around(PRICES[asset][0], 10))})
    if kind == "funding":
        return Plan(event | {"symbol": symbol, "rate": draw(amounts(-(10**10), 10**10, 12))})
    if kind == "transfer":
        return Plan(event | draw(transfers()))
    if kind == "conversion":
        sold, bought = draw(st.permutations(["USD", "BTC", "ETH"]))[:2]
        given, taken = draw(amounts(1, 10**9, 8)), draw(amounts(1, 10**9, 8))
        return Plan(event | {"from_asset": sold, "from_amount": given, "to_asset": bought, "to_amount": taken})
    return draw(fills(event, symbol))


@st.composite
def transfers(draw: st.DrawFn) -> Document:
    """A deposit or a withdrawal, now and then of an isolated bucket or of the fund."""
    asset = draw(st.sampled_from(["USD", "BTC", "COIN", "ETH"]))
    fields = {"asset": asset, "amount": draw(amounts(-(10**9), 10**10, 8).filter(lambda text: text != "0"))}
    place = draw(st.sampled_from(["cross", "cross", "cross", "bucket", "fund"]))
    if place == "bucket":
        symbol = draw(st.sampled_from(sorted(BUCKETS)))
        fields |= {"symbol": symbol, "asset": BUCKETS[symbol]}
    return fields | ({"account": "$insurance"} if place == "fund" else {})


@st.composite
def fills(draw: st.DrawFn, event: Document, symbol: str) -> Plan:
    """A trade that opens, adds, reduces or flips, with a fee or a rebate; the fund trades net positions only."""
    middle, decimals = LEDGER_MARKS[symbol]
    lot = decimal(LEDGER_INSTRUMENTS[symbol]["lot"])
    event = event | {"symbol": symbol, "side": draw(st.sampled_from(["buy", "sell"]))}
    event |= {
        "qty": draw(st.integers(1, 12).map(lambda lots: show(lots * lot))),
        "price": draw(around(middle, decimals)),
    }
    if draw(st.booleans()):
        event["fee"] = draw(amounts(-100, 10_000, 8))
    if symbol == "HEDGE":
        event["leg"] = draw(st.sampled_from(["long", "short"]))
    elif symbol == "ISO" or (symbol == "BTC" and draw(st.booleans())):
        event["isolated"] = True
    elif draw(st.integers(0, 5)) == 0:
        event["account"] = "$insurance"
    return Plan(event, Fraction(1, draw(st.sampled_from([1, 1, 2, 3]))))
