"""What ``liq-engine margin`` shows: every account's margin figures, and what would be ordered for it now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.core.book import CROSS
from engine.core.liquidation import Send, TakeOver, decide, plan_fields
from engine.core.margin import bankruptcy_price, format_price, is_row_liquidatable, statement
from engine.core.params import Risk
from engine.core.shard import Episode, Shard
from engine.edges.bookfile import load_book
from engine.errors import InputError
from engine.units import format_scaled


def margin_document(path: Path, risk: Risk) -> dict[str, Any]:
    """Return the document of ``liq-engine margin`` for a book file; raises InputError naming a missing price."""
    shard = Shard(risk)
    load_book(shard, path)
    check_prices(shard, path)
    book = shard.book
    rows = sorted(
        (row for row, account in enumerate(book.accounts) if not account.startswith("$")),
        key=lambda row: (book.accounts[row], book.buckets[row]),
    )
    return {"accounts": [account_fields(shard, row) for row in rows if is_shown(shard, row)]}


def is_shown(shard: Shard, row: int) -> bool:
    """Return whether a row is worth a line: an emptied bucket is not."""
    book = shard.book
    return book.buckets[row] == CROSS or bool(book.positions_of(row)) or book.equity(row) != 0


def account_fields(shard: Shard, row: int) -> dict[str, Any]:
    """Return one row with its plan, in the order of the contract."""
    fields = statement(shard.book, row)
    positions = fields.pop("positions")
    return {**fields, **next_orders(shard, row), "positions": positions}


def next_orders(shard: Shard, row: int) -> dict[str, Any]:
    """Return ``plan``, what a liquidation starting now would order (nothing unless the row is liquidatable).

    With it, where it is the outcome of a choice, its ``certificate``: why that is (nearly) the cheapest.
    """
    book = shard.book
    if not is_row_liquidatable(book, row):
        return {"plan": []}
    match decide(shard, Episode(row, "")):
        case Send() as orders:
            return {"plan": plan_fields(book, orders.closes, orders.sales), "certificate": orders.certificate}
        case TakeOver():
            return {"plan": takeover_fields(shard, row)}
    return {"plan": []}


def takeover_fields(shard: Shard, row: int) -> list[dict[str, Any]]:
    """Return the positions that would go to the fund: no order, hence no limit."""
    book, entries = shard.book, []
    for symbol, leg in book.positions_of(row):
        instrument = book.instruments[symbol]
        size, _ = book.position(row, symbol, leg)
        bankruptcy = bankruptcy_price(book, row, symbol, leg)
        entries.append(
            {
                "symbol": instrument.symbol,
                "side": "sell" if size > 0 else "buy",
                "qty": format_scaled(abs(size), instrument.size_decimals),
                "limit_price": None,
                "bankruptcy_price": format_price(bankruptcy, instrument.price_decimals),
                "stage": "takeover",
            }
        )
    return entries


def check_prices(shard: Shard, path: Path) -> None:
    """Raise InputError naming every mark and asset price that the book's accounts need and nobody gives."""
    book, missing = shard.book, set()
    for row in range(len(book.accounts)):
        for symbol, _ in book.positions_of(row):
            if book.marks[symbol].value == 0:
                missing.add(f"marks.{book.instruments[symbol].symbol}")
            if book.asset_prices[book.settle[symbol]].value == 0:
                missing.add(f"asset_prices.{book.assets[book.settle[symbol]].name}")
        missing |= {
            f"asset_prices.{book.assets[asset].name}"
            for asset, price in enumerate(book.asset_prices)
            if price.value == 0 and book.wallet(row, asset)
        }
    if missing:
        raise InputError(f"{path}: missing {', '.join(sorted(missing))}: needed to value the accounts")


def table_text(document: dict[str, Any]) -> str:
    """Return the document for a terminal: one line a row, its positions and plan indented."""
    return "\n".join(line for row in document["accounts"] for line in row_lines(row))


def row_lines(row: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of one row."""
    name = f"{row['account']}/{row['bucket']}" if "bucket" in row else row["account"]
    state = "LIQUIDATABLE" if row["liquidatable"] else "ok"
    ratio = "-" if row["margin_ratio"] is None else row["margin_ratio"]
    yield (
        f"{name}: {state}  equity {row['equity']}  maintenance {row['maintenance_margin']}  ratio {ratio}"
        f"  initial {row['initial_margin']}  wallet {row['wallet_value']}  pnl {row['unrealised_pnl']}"
    )
    for position in row["positions"]:
        yield (
            f"    {position['symbol']} {position['leg']} {position['qty']} @ {position['entry_price']}"
            f"  notional {position['notional']}  pnl {position['unrealised_pnl']}"
            f"  maintenance {position['maintenance_margin']}"
            f"  liquidation {position['liquidation_price'] or '-'}"
            f"  bankruptcy {position['bankruptcy_price'] or '-'}"
        )
    for order in row["plan"]:
        yield "    plan: " + "  ".join(f"{key} {value}" for key, value in order.items() if value is not None)
    certificate = row.get("certificate")
    if certificate is not None:
        figures = (f"{name} {value or '-'}" for name, value in certificate.items())
        yield "    certificate: " + "  ".join(figures)
