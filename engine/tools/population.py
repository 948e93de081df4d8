"""How ``synth`` fits a population to a market history: the first mark of every symbol, known prices of collateral."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.core.events import AssetPrice, Mark
from engine.core.params import Risk
from engine.edges.codec import decode
from engine.edges.readers import SymbolResolver, expand_paths, open_log
from engine.errors import InputError
from engine.tools.synth import describe_population, make_population, write_book
from engine.units import Number


def population_for(
    marks: list[Path], *, risk: Risk, accounts: int, seed: int, out: Path, format: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Write a population for the histories in ``marks``; return a document and lines that describe it."""
    first_marks, first_prices, ts = first_prices_of(marks, risk, format)
    book = make_population(
        accounts=accounts, seed=seed, first_marks=first_marks, asset_prices=first_prices, risk=risk, ts=ts
    )
    write_book(book, out)
    lines = describe_population(book, risk)
    document = {"book": str(out), "accounts": accounts, "seed": seed, "symbols": sorted(book["marks"]), "notes": lines}
    return document, [*lines, f"written to {out}"]


def first_prices_of(
    paths: list[Path], risk: Risk, format: str | None
) -> tuple[dict[str, Number], dict[str, Number], int]:
    """Return the first mark per symbol, the first price per asset and the earliest time in these files.

    A file of one symbol is left after its first mark; an event log is read through.
    """
    resolver = SymbolResolver(risk.instruments.values())
    first_marks: dict[str, Number] = {}
    first_prices: dict[str, Number] = {}
    start_ts: int | None = None
    for path in expand_paths(paths):
        log = open_log(path, format=format, resolve=resolver, decode=decode)
        for message in log:
            event = message.event
            if isinstance(event, Mark):
                first_marks.setdefault(event.symbol, event.price)
            elif isinstance(event, AssetPrice):
                first_prices.setdefault(event.asset, event.price)
            else:
                continue
            start_ts = event.ts if start_ts is None else min(start_ts, event.ts)
            if log.format != "jsonl":
                break
    known = {symbol: price for symbol, price in first_marks.items() if symbol in risk.instruments}
    if not known or start_ts is None:
        raise InputError(f"no mark of an instrument of the risk file in {', '.join(map(str, paths))}")
    return known, first_prices, start_ts
