"""What would become of an account if something happened now: the account before and after, and what would be sent.

The messages are those of the log (README, "Messages in"), applied by the machine itself to an extract of the shard
(``core/extract.py``): the answer is what the account will show once the same messages have come. What they lack is
filled in: ``account``, ids, and ``ts`` as the clock of the shard.

An extract knows no other account. Where others have a part in the outcome, the answer says so (``depends_on``):

* ``winners``  positions are left that only deleveraging can place, or a loss that winners are to share
* ``others``   a price or parameter changes for everybody, or somebody waits for a time or a taker: what others do in
               the same step may draw on the fund or a flow budget first, or take this account as a counterparty
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from engine.core.events import Event, Message, Origin, Output
from engine.core.extract import account_extract
from engine.core.machine import Machine
from engine.core.shard import Shard
from engine.edges.accounts import account_fields, account_rows, missing_prices
from engine.edges.decode_fields import Fault, read_event
from engine.errors import InvariantError

CHANGES_MAX = 20
# The field by which a message is known as a repeat, and the types that concern one account alone.
ID_FIELDS = {"fill": "fill_id", "transfer": "transfer_id", "conversion": "conversion_id"}
OF_ONE_ACCOUNT = {*ID_FIELDS, "order_done"}
# What an output has for its place among all others, of which an extract knows nothing.
ENVELOPE = ("seq", "output_id", "shard")
ORIGIN = Origin("what-if", -1, 0)


class WhatIfError(Exception):
    """The question cannot be answered: ``code`` is a reject reason of a message, or says what is wrong with it."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def what_if(shard: Shard, account: str, changes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what ``changes``, one after the other, would do to an account; raises WhatIfError.

    ``shard`` is read and never changed.
    """
    turns = what_if_turns(shard, account, changes)
    while True:
        try:
            next(turns)
        except StopIteration as done:
            document: dict[str, Any] = done.value
            return document


def what_if_turns(
    shard: Shard, account: str, changes: Sequence[dict[str, Any]]
) -> Generator[None, None, dict[str, Any]]:
    """Do what ``what_if`` does, in turns of less than a millisecond; only the first one looks at ``shard``."""
    if account.startswith("$"):
        raise WhatIfError("reserved_account", f"{account} is the engine's own")
    events = [event_of(shard, account, change, index) for index, change in enumerate(changes)]
    tried = account_extract(shard, account)
    for change, event in zip(changes, events, strict=True):
        if change["type"] in ID_FIELDS:
            known = change["type"], account, getattr(event, ID_FIELDS[change["type"]])
            if known in shard.ids:
                tried.ids.add(known)
    ts, others_due = shard.clock, others_due_ts(shard)
    yield
    before = rows_of(tried, account)
    yield
    machine = Machine(tried)
    outcomes, outputs = [], []
    for number, event in enumerate(events):
        caused, outcome = try_event(machine, event, number + 1)
        outcomes.append({"type": changes[number]["type"], **outcome})
        outputs += caused
        yield
    is_of_all = any(change["type"] not in OF_ONE_ACCOUNT for change in changes)
    depends_on = dependences(tried, outputs)
    if is_of_all or (others_due is not None and others_due <= tried.clock):
        depends_on.append("others")
    return {
        "account": account,
        "shard": shard.number,
        "ts": ts,
        "changes": outcomes,
        "before": before,
        "after": rows_of(tried, account),
        "outputs": [fields_of(output) for output in outputs],
        "depends_on": depends_on,
    }


def event_of(shard: Shard, account: str, change: dict[str, Any], index: int) -> Event:
    """Return the message that a change says, completed; raises WhatIfError naming the first bad field."""
    stated = change.get("type")
    # Whatever else stands there is for the codec to refuse: a list cannot even be looked up.
    kind = stated if isinstance(stated, str) else ""
    own: dict[str, Any] = {"ts": shard.clock}
    if kind in OF_ONE_ACCOUNT:
        own["account"] = account
    if kind in ID_FIELDS:
        own[ID_FIELDS[kind]] = f"what-if/{shard.seq}/{index + 1}"
    event = read_event({**own, **change})
    if isinstance(event, Fault):
        raise WhatIfError(event.reason, f"changes[{index}]: {event.detail}")
    if getattr(event, "account", account) != account:
        raise WhatIfError("out_of_range", f"changes[{index}]: account must be {account}, whom the question is about")
    return event


def try_event(machine: Machine, event: Event, number: int) -> tuple[list[Output], dict[str, Any]]:
    """Apply a message to an extract; return the outputs, a refusal aside, and what became of the message."""
    counters = machine.shard.counters
    before = counters.accepted, counters.duplicates, counters.ignored
    try:
        outputs = machine.apply([Message(ORIGIN._replace(offset=number), event)])
    except InvariantError as error:
        raise WhatIfError("invariant", f"changes[{number - 1}] would stop the shard: {error}") from error
    after = counters.accepted, counters.duplicates, counters.ignored
    for name, count, past in zip(("accepted", "duplicate", "ignored"), after, before, strict=True):
        if count > past:
            return outputs, {"outcome": name}
    (refused,) = [output.body for output in outputs]
    return [], {"outcome": "rejected", "reason": refused["reason"], "detail": refused["detail"]}


def rows_of(shard: Shard, account: str) -> list[dict[str, Any]]:
    """Return the rows of an account; raises WhatIfError where one cannot be valued."""
    rows = account_rows(shard, account)
    missing = {name for row in rows for name in missing_prices(shard.book, row)}
    if missing:
        raise WhatIfError("unpriced", f"missing {', '.join(sorted(missing))}: needed to value the account")
    return [account_fields(shard, row) for row in rows]


def fields_of(output: Output) -> dict[str, Any]:
    """Return an output as it would be written, without its place among the others."""
    return {name: value for name, value in output.body.items() if name not in ENVELOPE}


def dependences(tried: Shard, outputs: Sequence[Output]) -> list[str]:
    """Return ``winners`` where only other accounts can bear what is left of this one."""
    kinds = {output.body["type"] for output in outputs}
    is_shared = "bad_debt" in kinds and tried.book.policy.socialise == "winners"
    return ["winners"] if tried.stuck or is_shared or kinds & {"adl", "adl_remaining"} else []


def others_due_ts(shard: Shard) -> int | None:
    """Return from which time on a step has more to do than its message; None where nobody waits for anything."""
    if shard.stuck or shard.dirty:
        return 0
    return shard.timers[0][0] if shard.timers else None
