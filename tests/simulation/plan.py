"""A plan is all that a simulated run needs to happen again: risk, book, venue and every message, as JSON lines.

The first line is the header, each further one a message as the engine got it. Messages are concrete (times, ids and
orders included), so a plan repeats whatever the generator has become since. A plan that broke a law is shrunk by
leaving out messages as long as the same law still breaks, then kept in ``failures/``.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

FAILURES = Path(__file__).parent / "failures"
# A message takes half a millisecond, so this bounds the wait to about a minute.
SHRINK_MESSAGES_MAX = 120_000

Document = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """One run: ``lines`` are the messages; ``book`` is loaded before the first of them where there is one."""

    risk: Document
    venue: str = "none"
    seed: int = -1
    book: Document | None = None
    lines: list[bytes] = field(default_factory=list)


def plan_text(plan: Plan) -> str:
    """Return a plan as JSON lines; a message that is no UTF-8 text is written in base64."""
    header = {"risk": plan.risk, "venue": plan.venue, "seed": plan.seed, "book": plan.book}
    return "\n".join([json.dumps(header), *map(line_text, plan.lines)]) + "\n"


def line_text(line: bytes) -> str:
    """Return one message as a line of a plan: as it is if it reads back as the same bytes, else wrapped."""
    try:
        text = line.decode()
        if isinstance(json.loads(text), dict) and "\n" not in text and "base64" not in text:
            return text
    except (ValueError, RecursionError):
        pass  # wrapped below
    return json.dumps({"base64": b64encode(line).decode()})


def read_plan(path: Path) -> Plan:
    """Return the plan that a file holds."""
    header, *texts = path.read_text(encoding="utf-8").splitlines()
    return Plan(**json.loads(header), lines=[read_line(text) for text in texts])


def read_line(text: str) -> bytes:
    """Return the message that a line of a plan stands for."""
    if "base64" in text:
        return b64decode(json.loads(text)["base64"])
    return text.encode()


def save_plan(plan: Plan, law: str) -> str:
    """Write a failing plan beside the earlier ones and return where, or why that could not be done."""
    path = FAILURES / f"{law.replace(' ', '-')}-{plan.seed}.jsonl"
    try:
        path.write_text(plan_text(plan), encoding="utf-8")
    except OSError as error:
        return f"not kept: {error}"
    return str(path)


def shrink(plan: Plan, breaks: Callable[[Plan], bool]) -> Plan:
    """Return the plan without the messages that are not needed to break the same law, as judged by ``breaks``.

    Halves first, then ever smaller runs, the latest first: what happens last is most often what matters.
    """
    lines, length, messages = plan.lines, max(len(plan.lines) // 2, 1), 0
    while length and messages < SHRINK_MESSAGES_MAX:
        stop, removed = len(lines), False
        while stop > 0 and messages < SHRINK_MESSAGES_MAX:
            start = max(stop - length, 0)
            shorter = lines[:start] + lines[stop:]
            messages += len(shorter)
            if breaks(replace(plan, lines=shorter)):
                lines, removed = shorter, True
            stop = start
        length = length // 2 if length > 1 else int(removed)
    return replace(plan, lines=lines)
