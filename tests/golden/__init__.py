"""Three small logs with what a replay of them must give, to the last byte.

    crash   forty accounts of a book, two symbols falling, fills by the simulated book
    desk    no venue: fills, answers and time-outs of the log, pauses, legs, buckets, parameters, and lines to refuse
    coins   inverse contracts, coins as collateral, auto-deleveraging, shared losses

``<name>.jsonl`` is the log, ``<name>.toml`` the risk file, ``<name>.book.json`` the book where there is one, and
``<name>.summary.json`` the summary with its state hash and outputs hash. After a change that is meant to change
results, ``python -m tests.golden`` writes the summaries anew (``--logs``: the logs as well, from their seeds); the
difference belongs in the commit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.edges.config import load_risk
from engine.tools.replay import BATCH, ReplayOptions, run_replay

FOLDER = Path(__file__).resolve().parent
# name -> who fills orders
LOGS = {"crash": "book", "desk": "none", "coins": "book"}


def replay_golden(name: str, out: Path | None = None, *, events: Path | None = None, batch: int = BATCH) -> Any:
    """Return the summary of a replay of one log, without what differs from run to run."""
    book = FOLDER / f"{name}.book.json"
    options = ReplayOptions(
        [events or FOLDER / f"{name}.jsonl"],
        load_risk(FOLDER / f"{name}.toml"),
        book=book if book.is_file() else None,
        venue=LOGS[name],
        out=out,
        batch=batch,
        show_progress=False,
    )
    summary = run_replay(options)
    del summary["latency"]
    return summary


def stored_summary(name: str) -> Any:
    """Return the summary that a replay of one log must give."""
    return json.loads((FOLDER / f"{name}.summary.json").read_text())
