"""Where two runs of one log differ: figures, the first output, who was liquidated in one only, what it cost whom.

Both folders are what ``replay --out`` (or ``demo``) left. Runs of different logs or books answer no question about
their parameters, so they are refused.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.tools.replay import RUN_FILE
from engine.tools.verify import SUMMARY, Record, read_records, read_summary
from engine.tools.verify_rules import Body
from engine.tools.verify_trail import FILES
from engine.units import format_units, try_units

# Figures of the summary that are one count; those by asset or reason follow one by one.
COUNTS = ("accepted", "duplicates", "ignored", "fills", "orders", "liquidations", "adl")
BY_NAME = ("bad_debt", "uncovered", "insurance")
HASHES = ("state_hash", "outputs_hash")
FIELDS_SHOWN_MAX = 8
# What a record says of its run and not of what was done: each decision states its policy, and the log's name.
ECHO = ("decision.policy.", "decision.input.file", "file")


@dataclass(slots=True)
class Liquidated:
    """What liquidation came to for the accounts of one run."""

    cost_units: dict[str, int] = field(default_factory=dict)
    notional_units: dict[str, int] = field(default_factory=dict)

    def note(self, body: Body) -> None:
        """Take a record: who starts counts as liquidated, what an episode cost is known when it ends."""
        if body.get("type") == "liquidation_started":
            self.cost_units.setdefault(body["account"], 0)
        elif body.get("type") == "liquidation_ended":
            account = body["account"]
            self.cost_units[account] = self.cost_units.get(account, 0) + units_of(body["cost"])
            closed = units_of(body["closed_notional"])
            self.notional_units[account] = self.notional_units.get(account, 0) + closed


def compare(a: Path, b: Path) -> dict[str, Any]:
    """Return where run B differs from run A; differences are B less A.

    Raises InputError where a folder is no run, or where they are not of one log and one book.
    """
    runs = [read_run(folder) for folder in (a, b)]
    check_comparable(a, b, *runs)
    summaries = [read_summary(folder / SUMMARY) for folder in (a, b)]
    liquidated = Liquidated(), Liquidated()
    try:
        first = first_difference(a, b, *liquidated)
        compared = figures(*summaries)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{a}, {b}: a record or figure lacks {error}") from error
    return {
        "a": str(a),
        "b": str(b),
        "same": summaries[0].get("outputs_hash") == summaries[1].get("outputs_hash"),
        "parameters": parameters(*runs),
        "figures": compared,
        "first_difference": first,
        "only_in_a": sorted(liquidated[0].cost_units.keys() - liquidated[1].cost_units.keys()),
        "only_in_b": sorted(liquidated[1].cost_units.keys() - liquidated[0].cost_units.keys()),
        "costs": costs(*liquidated),
    }


def read_run(folder: Path) -> Body:
    """Return what was run into a folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: name two that replay --out wrote")
    path = folder / RUN_FILE
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{folder}: not a run: it has no {RUN_FILE}, which replay --out writes") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("risk"), dict):
        raise InputError(f"{path}: must be an object with the parameters of the run")
    return document


def check_comparable(a: Path, b: Path, run_a: Body, run_b: Body) -> None:
    """Raise InputError where the runs did not begin with the same log, book and part of it."""
    names = {"log_hash": "logs", "book_hash": "starting books", "shard": "shards"}
    for key, what in names.items():
        one, other = run_a.get(key), run_b.get(key)
        if one != other:
            raise InputError(f"{a} and {b} are runs of different {what} ({short(one)} and {short(other)})")
    if run_a.get("log_hash") is None:
        raise InputError(f"{a} and {b}: their messages came from no file, so that nobody knows if they were the same")


def short(value: object) -> str:
    """Return a hash cut to what tells two apart."""
    return "none" if value is None else str(value)[:12]


def parameters(run_a: Body, run_b: Body) -> list[dict[str, Any]]:
    """Return the parameters, the venue among them, that the runs do not share."""
    risk_a, risk_b = run_a["risk"] | {"venue": run_a.get("venue")}, run_b["risk"] | {"venue": run_b.get("venue")}
    keys = sorted(risk_a.keys() | risk_b.keys())
    return [
        {"name": key, "a": risk_a.get(key), "b": risk_b.get(key)} for key in keys if risk_a.get(key) != risk_b.get(key)
    ]


def figures(summary_a: Body, summary_b: Body) -> list[dict[str, Any]]:
    """Return the figures of both summaries side by side, amounts with their asset; a hash has no difference."""
    rows = []
    for key in COUNTS:
        one, other = summary_a[key], summary_b[key]
        rows.append({"name": key, "a": one, "b": other, "difference": other - one})
    rows.append(amount_row("notional_liquidated", summary_a["notional_liquidated"], summary_b["notional_liquidated"]))
    for key in BY_NAME:
        names = sorted(summary_a[key].keys() | summary_b[key].keys())
        rows += [
            amount_row(f"{key}.{name}", summary_a[key].get(name, "0"), summary_b[key].get(name, "0")) for name in names
        ]
    for reason in sorted(summary_a["rejected"].keys() | summary_b["rejected"].keys()):
        one, other = summary_a["rejected"].get(reason, 0), summary_b["rejected"].get(reason, 0)
        rows.append({"name": f"rejected.{reason}", "a": one, "b": other, "difference": other - one})
    return rows + [{"name": key, "a": summary_a[key], "b": summary_b[key], "difference": None} for key in HASHES]


def amount_row(name: str, a: str, b: str) -> dict[str, Any]:
    """Return two amounts and their exact difference."""
    return {"name": name, "a": a, "b": b, "difference": format_units(units_of(b) - units_of(a))}


def first_difference(a: Path, b: Path, liquidated_a: Liquidated, liquidated_b: Liquidated) -> dict[str, Any] | None:
    """Return the first output that differs in more than the policy and file it names; None if there is none.

    Both runs are read to their end, and who was liquidated is noted.
    """
    first = None
    for one, other in zip_longest(outputs(a), outputs(b)):
        for record, liquidated in ((one, liquidated_a), (other, liquidated_b)):
            if record is not None:
                liquidated.note(record.body)
        if first is None and (one is None or other is None or one.raw != other.raw):
            fields = differing(one, other)
            if fields or one is None or other is None:
                first = {"a": place(one), "b": place(other), "fields": fields}
    return first


def outputs(folder: Path) -> Iterator[Record]:
    """Yield a run's outputs in their order."""
    return heapq.merge(*(read_records(folder, name) for name in FILES), key=lambda record: record.seq)


def place(record: Record | None) -> dict[str, Any] | None:
    """Return which output it is; None where a run has no more."""
    if record is None:
        return None
    named: dict[str, Any] = {
        key: record.body[key] for key in ("type", "ts", "account", "liquidation_id") if key in record.body
    }
    return {"file": record.file, "line": record.line, "seq": record.seq, **named}


def differing(one: Record | None, other: Record | None) -> list[dict[str, Any]]:
    """Return the first fields in which two outputs differ, by their path."""
    if one is None or other is None:
        return []
    left, right = dict(leaves("", one.body)), dict(leaves("", other.body))
    paths = [path for path in left | right if left.get(path) != right.get(path) and not path.startswith(ECHO)]
    return [{"field": path, "a": left.get(path), "b": right.get(path)} for path in paths[:FIELDS_SHOWN_MAX]]


def leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each value of a record that holds no others, under its path."""
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(f"{path}.{key}" if path else str(key), item)
    else:
        yield path, value


def costs(a: Liquidated, b: Liquidated) -> dict[str, Any]:
    """Return what ended liquidations cost their accounts in each run, in all and where it differs most."""
    changes = {
        account: b.cost_units.get(account, 0) - a.cost_units.get(account, 0) for account in a.cost_units | b.cost_units
    }
    ranked = sorted((account for account in changes if changes[account]), key=lambda name: (-abs(changes[name]), name))
    total_a, total_b = sum(a.cost_units.values()), sum(b.cost_units.values())
    return {
        "accounts_a": len(a.cost_units),
        "accounts_b": len(b.cost_units),
        "accounts_both": len(a.cost_units.keys() & b.cost_units.keys()),
        "cheaper_in_a": sum(change > 0 for change in changes.values()),
        "cheaper_in_b": sum(change < 0 for change in changes.values()),
        "total_a": format_units(total_a),
        "total_b": format_units(total_b),
        "difference": format_units(total_b - total_a),
        "accounts": [
            {
                "account": account,
                "a": format_units(a.cost_units.get(account, 0)),
                "b": format_units(b.cost_units.get(account, 0)),
                "difference": format_units(changes[account]),
                "closed_notional_a": format_units(a.notional_units.get(account, 0)),
                "closed_notional_b": format_units(b.notional_units.get(account, 0)),
            }
            for account in ranked
        ],
    }


def units_of(text: str) -> int:
    """Return an amount of an output in units."""
    units = try_units(text)
    if units is None:
        raise InputError(f"{text!r}: not an amount")
    return units
