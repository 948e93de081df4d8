"""What a shard says about itself while it comes to life, lives and ends: state, progress, lag, recovery."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from engine.core.survey import SurveyReport
from engine.edges.feed import Ring
from engine.edges.metrics.shard import ShardMetrics


@dataclass
class Recovery:
    """How far a recovery has come: order records of the journal, inputs folded, and when it began and ended."""

    began_s: float = 0.0
    ended_s: float | None = None
    # Of the journal: the offset it began at, the next one, the one where it ends.
    first: int = 0
    reached: int = 0
    last: int = 0
    events: int = 0

    def begin(self, first: int, last: int) -> None:
        """Note where it begins, and where it will end."""
        self.began_s, self.ended_s, self.events = time.monotonic(), None, 0
        self.first = self.reached = first
        self.last = last

    def end(self) -> None:
        """Note that all is folded."""
        self.reached, self.ended_s = self.last, time.monotonic()

    def seconds(self) -> float:
        """Return how long it took, or has taken so far; 0 before it has begun."""
        if not self.began_s:
            return 0.0
        return (self.ended_s if self.ended_s is not None else time.monotonic()) - self.began_s

    def eta_s(self) -> float | None:
        """Return how long it will still take at the pace so far, None where that cannot be said yet."""
        done = self.reached - self.first
        return round(self.seconds() * (self.last - self.reached) / done, 1) if done > 0 else None


@dataclass
class Status:
    """What a shard says about itself; one for the life of the process, whatever workers come and go."""

    metrics: ShardMetrics
    state: str = "starting"
    records: int = 0
    batches: int = 0
    entered_s: float = field(default_factory=time.monotonic)
    # When the shard last changed its state or committed.
    progressed_s: float = field(default_factory=time.monotonic)
    recovery: Recovery = field(default_factory=Recovery)
    # What it has committed of late.
    ring: Ring = field(default_factory=Ring)
    # While it is live: how many inputs are known to be there and not committed, by topic.
    find_lag: Callable[[], Awaitable[dict[str, int]]] | None = None
    # What the last look at all its accounts has found.
    survey: SurveyReport | None = None

    def enter(self, state: str) -> None:
        """Move to a state."""
        self.state = state
        self.entered_s = self.progressed_s = time.monotonic()
        self.metrics.enter(state)
        if state != "live":
            self.find_lag = None

    async def lag(self) -> dict[str, int] | None:
        """Return how many inputs of each topic are known to be there and not committed; None unless it is live."""
        return await self.find_lag() if self.find_lag is not None else None
