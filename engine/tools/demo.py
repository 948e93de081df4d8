"""What ``demo`` runs: a seeded crash over a synthetic population, through the same core and venue as any replay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.core.events import Event
from engine.core.params import Risk
from engine.edges.codec import encode_event
from engine.edges.config import load_risk
from engine.errors import InputError
from engine.tools.market import START_NS, SYMBOLS, crash_market, first_asset_prices, first_marks
from engine.tools.replay import ReplayOptions, run_replay
from engine.tools.synth import make_population, write_book


def run_demo(out: Path, *, accounts: int, seed: int, risk: Path | None, alternatives: bool = False) -> dict[str, Any]:
    """Write a population and a market to ``out``, replay them there, and return the summary.

    The files stay, so that ``replay`` on them gives the same outputs, and an edited risk file others.
    """
    parameters = load_risk(risk)
    book, events = write_market(out, parameters, accounts=accounts, seed=seed)
    return run_replay(
        ReplayOptions(
            events=[events],
            risk=parameters,
            risk_name=risk.name if risk is not None else "risk.toml",
            book=book,
            venue="book",
            out=out,
            alternatives=alternatives,
            title=f"A synthetic crash over {accounts:,} accounts, seed {seed}",
        )
    )


def write_market(out: Path, parameters: Risk, *, accounts: int, seed: int) -> tuple[Path, Path]:
    """Write a population and its market as book file and event log; return their paths. Raises InputError."""
    symbols = [parameters.instruments[name] for name in SYMBOLS if name in parameters.instruments]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error}") from error
    book = make_population(
        accounts=accounts,
        seed=seed,
        first_marks=first_marks(symbols),
        risk=parameters,
        asset_prices=first_asset_prices(symbols),
        ts=START_NS,
    )
    write_book(book, out / "book.json")
    names = [entry["account"] for entry in book["accounts"]]
    write_events(crash_market(seed=seed, symbols=symbols, accounts=names), out / "events.jsonl")
    return out / "book.json", out / "events.jsonl"


def write_events(events: Iterator[Event], path: Path) -> None:
    """Write events as an event log."""
    with path.open("wb") as file:
        file.writelines(encode_event(event) + b"\n" for event in events)
