"""Where the fake broker misbehaves: an action before or after the n-th request of an API, of all clients or of one.

    broker.faults.before("EndTxn", n=3, action=drop)         the third commit never arrives
    broker.faults.after("EndTxn", action=drop)               the next one is done, but its answer is lost
    broker.faults.after("Produce", action=delay(0.2))        an answer that is late
    broker.faults.before("AddPartitionsToTxn", action=fail(51), times=2)
    broker.faults.after("TxnOffsetCommit", action=run(process.kill), client="liq-0")

``before``: the request has arrived and nothing has been done. ``after``: all is done and nothing was answered.
Between the two lies every boundary a crash can fall on; ``boundaries`` lists them for what has been seen so far.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

# The requests that make up a transaction, in the order in which a producer sends them.
TRANSACTIONAL = ("InitProducerId", "AddPartitionsToTxn", "Produce", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn")

Moment = Literal["before", "after"]
# (moment, API, which of its requests, counted from 1)
Boundary = tuple[Moment, str, int]


@dataclass(frozen=True)
class Action:
    """What happens at a boundary; see ``drop``, ``delay``, ``fail`` and ``run``."""

    kind: Literal["drop", "delay", "fail", "run"]
    seconds: float = 0.0
    code: int = 0
    function: Callable[[], Action | None] | None = None


# Cut the connection without an answer.
drop = Action("drop")


def delay(seconds: float) -> Action:
    """Go on after a while; requests behind it on the same connection wait too."""
    return Action("delay", seconds=seconds)


def fail(code: int) -> Action:
    """Answer with an error code of the protocol, in each place of the answer that has room for one."""
    return Action("fail", code=code)


def run(function: Callable[[], Action | None]) -> Action:
    """Call ``function`` in the broker's thread, which stands still meanwhile; then do what it returns, or go on."""
    return Action("run", function=function)


@dataclass
class Rule:
    """One fault: it strikes the n-th matching request from now on and the ``times - 1`` after it."""

    moment: Moment
    api: str
    client: str | None
    first: int
    last: int
    action: Action
    seen: int = 0


class Faults:
    """The fault plan of one broker; tests change it from their thread while the broker's thread reads it."""

    def __init__(self, apis: Collection[str]) -> None:
        self.apis = apis
        self.counts: Counter[tuple[str, str]] = Counter()
        self._rules: list[Rule] = []
        self._cut_off: set[str] = set()
        self._lock = threading.Lock()
        self._running = threading.Event()
        self._running.set()

    def before(self, api: str, *, n: int = 1, action: Action, times: int = 1, client: str | None = None) -> None:
        """Plan an action for when the n-th request from now on has arrived; ``client`` is a client_id."""
        self._plan("before", api, n, action, times, client)

    def after(self, api: str, *, n: int = 1, action: Action, times: int = 1, client: str | None = None) -> None:
        """Plan an action for when the n-th request from now on has been done and not yet been answered."""
        self._plan("after", api, n, action, times, client)

    def at(self, boundary: Boundary, action: Action, client: str | None = None) -> None:
        """Plan an action for one of the ``boundaries``."""
        moment, api, n = boundary
        self._plan(moment, api, n, action, 1, client)

    def cut_off(self, client: str) -> None:
        """Drop every request of a client from now on: to the broker it is dead, and it may come back as a zombie."""
        with self._lock:
            self._cut_off.add(client)

    def reset(self) -> None:
        """Forget all plans and counts, and let clients that were cut off come back."""
        with self._lock:
            self._rules.clear()
            self._cut_off.clear()
            self.counts.clear()

    def pause(self) -> None:
        """Let the broker stand still, as SIGSTOP would: connections open, nothing is read or answered."""
        self._running.clear()

    def resume(self) -> None:
        """Let a paused broker go on with what has arrived meanwhile."""
        self._running.set()

    def count(self, api: str, client: str | None = None) -> int:
        """Return how many requests of an API have arrived, of one client or of all."""
        with self._lock:
            return sum(n for (who, what), n in self.counts.items() if what == api and client in (None, who))

    def boundaries(
        self, apis: Collection[str] = TRANSACTIONAL, client: str | None = None
    ) -> list[tuple[Moment, str, int]]:
        """Return every boundary that the requests seen so far had: feed them to ``at``, one for each fresh run."""
        moments: tuple[Moment, Moment] = ("before", "after")
        return [(moment, api, n) for api in apis for n in range(1, self.count(api, client) + 1) for moment in moments]

    def wait_while_paused(self) -> None:
        """Block the broker's thread while it is paused."""
        self._running.wait()

    def note(self, api: str, client: str) -> None:
        """Count a request that has arrived."""
        with self._lock:
            self.counts[client, api] += 1

    def strike(self, moment: Moment, api: str, client: str) -> list[Action]:
        """Return what happens to a request at one of its two moments, in the order of the plans."""
        actions = []
        with self._lock:
            if moment == "before" and client in self._cut_off:
                return [drop]
            for rule in self._rules:
                if rule.moment == moment and rule.api == api and rule.client in (None, client):
                    rule.seen += 1
                    if rule.first <= rule.seen <= rule.last:
                        actions.append(rule.action)
        return actions

    def _plan(self, moment: Moment, api: str, n: int, action: Action, times: int, client: str | None) -> None:
        if api not in self.apis:
            raise ValueError(f"{api!r} is not a request of the fake broker: {', '.join(sorted(self.apis))}")
        if n < 1 or times < 1:
            raise ValueError(f"n was {n} and times {times}, expected 1 or more")
        with self._lock:
            self._rules.append(Rule(moment, api, client, n, n + times - 1, action))
