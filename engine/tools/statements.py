"""What ``liq-engine margin`` shows: every account's margin figures, and what would be ordered for it now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.core.params import Risk
from engine.core.shard import Shard
from engine.edges.accounts import account_fields, is_shown, missing_prices
from engine.edges.bookfile import load_book
from engine.errors import InputError


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
    return {"accounts": [account_fields(shard, row) for row in rows if is_shown(book, row)]}


def check_prices(shard: Shard, path: Path) -> None:
    """Raise InputError naming every mark and asset price that the book's accounts need and nobody gives."""
    missing = {name for row in range(len(shard.book.accounts)) for name in missing_prices(shard.book, row)}
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
