"""Whether the outputs of a replay can be believed: every record derived again, without the core that wrote it.

Reads the four record files and the summary of an output folder, in order of ``seq``, and derives each order from its
own ``decision``, each event from those before it, the summary from all of them. Shares no code with the engine's core
(``tests/test_verify.py`` sees to that), so an error there does not hide here.

Every figure of a decision is held to the others, but for a few no record bears on: which input it followed (``input``),
the exact time of a mark or price (never older than one used before, never of the future), digits of a price that
rounding swallows, and ``maintenance_margin_after`` where a flow budget cut more than one order of a plan (it is bounded
then). A parameter that binds nothing is held to what other decisions of the same policy version say. All of that, and
a line lost at the very end, still shows in ``outputs_hash``.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from engine.errors import InputError
from engine.tools.verify_rules import Body, Finding
from engine.tools.verify_trail import FILES, Trail

SHOWN_MAX = 20
SUMMARY = "summary.json"
# What deriving from a record that lacks a field, or holds nonsense, ends in.
BROKEN = (KeyError, ValueError, TypeError, IndexError, AttributeError, StopIteration, ZeroDivisionError)


class Record(NamedTuple):
    """One line of an output file."""

    seq: int
    file: str
    line: int
    raw: bytes
    body: Body


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a stated value is not the derived one."""

    file: str
    line: int
    field: str
    stated: Any
    derived: Any


@dataclass(slots=True)
class Verdict:
    """What was verified, and the first differences of all that were found."""

    orders: int = 0
    events: int = 0
    differences_count: int = 0
    differences: list[Difference] = field(default_factory=list)

    def note(self, file: str, line: int, found: Iterator[Finding]) -> None:
        """Keep what was found in one line; a line that cannot be derived from is a difference itself."""
        try:
            for finding in found:
                self.add(Difference(file, line, finding.field, finding.stated, finding.derived))
        except BROKEN as error:
            self.add(
                Difference(file, line, "record", f"{type(error).__name__}: {error}", "all that is needed to check it")
            )

    def add(self, difference: Difference) -> None:
        """Count a difference, and keep it if it is among the first."""
        self.differences_count += 1
        if len(self.differences) < SHOWN_MAX:
            self.differences.append(difference)


def verify(out: Path) -> Verdict:
    """Return the verdict on an output folder; raises InputError for one that cannot be read."""
    summary = read_summary(out / SUMMARY)
    verdict, trail, digest = Verdict(), Trail(), hashlib.sha256()
    # Merged by seq, so that no file is in memory; one that is not in order shows as a gap.
    for record in heapq.merge(*(read_records(out, name) for name in FILES), key=lambda record: record.seq):
        digest.update(record.raw)
        if record.body.get("type") in ("liquidation_order", "collateral_sale"):
            verdict.orders += 1
        else:
            verdict.events += 1
        verdict.note(record.file, record.line, trail.take(record.file.removesuffix(".jsonl"), record.body))
    verdict.note(SUMMARY, 1, trail.close(summary))
    if summary.get("outputs_hash") != digest.hexdigest():
        stated = summary.get("outputs_hash")
        verdict.add(Difference(SUMMARY, 1, "outputs_hash", stated, digest.hexdigest()))
    return verdict


def read_summary(path: Path) -> Body:
    """Return the summary of a run."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: not a summary: must be an object")
    return document


def read_records(out: Path, name: str) -> Iterator[Record]:
    """Yield the records of one file; raises InputError for a line that is none."""
    path = out / f"{name}.jsonl"
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                body = json.loads(raw)
                if not isinstance(body, dict) or type(body.get("seq")) is not int:
                    raise InputError(f"{path}:{number}: not a record: must be an object with a whole number as seq")
                yield Record(body["seq"], path.name, number, raw, body)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON lines: {error}") from error


def verdict_document(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict for machines."""
    return {
        "orders": verdict.orders,
        "events": verdict.events,
        "differences_count": verdict.differences_count,
        "differences": [
            {name: getattr(difference, name) for name in Difference.__slots__} for difference in verdict.differences
        ],
    }


def verdict_text(verdict: Verdict) -> str:
    """Return the verdict for a terminal."""
    if not verdict.differences:
        return f"{verdict.orders:,} orders, {verdict.events:,} events verified"
    lines = [
        f"{item.file}:{item.line}: {item.field}: stated {json.dumps(item.stated)}, derived {json.dumps(item.derived)}"
        for item in verdict.differences
    ]
    count = verdict.differences_count
    more = f", the first {len(lines)} of them above" if count > len(lines) else ""
    return "\n".join([*lines, f"{count:,} difference{'s' if count > 1 else ''}{more}"])
