"""Which liquidations were the largest, and what each consisted of.

An episode's rank is the notional that was closed, taken over and deleveraged; while that is unknown, the largest step
of orders sent (retries of an order that found no buyer must not add up). It only ever grows, so the board's best 50
are exact although most episodes leave nothing behind: an episode off the board keeps a few numbers until it ends, one
on it also the records that explain it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SHOWN_MAX = 50
# Four times what is shown: an episode near the edge keeps its first decision even if it drops out and comes back.
BOARD_MAX = 200
# A crash of a whole market; beyond it the oldest open episodes lose what explains them, not their place in the totals.
OPEN_MAX = 100_000
RECORDS_MAX = 20

Body = dict[str, Any]


@dataclass(slots=True)
class Details:
    """The records that explain one episode, the first of each kind; ``decision`` is that of its first order."""

    decision: Body | None = None
    orders: list[Body] = field(default_factory=list)
    follow_ups: list[Body] = field(default_factory=list)


@dataclass(slots=True)
class Episode:
    """One liquidation of one account or bucket."""

    liquidation_id: str
    account: str
    bucket: str | None
    ts: int
    cause: str | None = None
    started: Body | None = None
    ended: Body | None = None
    orders_count: int = 0
    stage: str = ""
    notional: float = 0.0
    handed_notional: float = 0.0
    step_ts: int = -1
    step_notional: float = 0.0
    details: Details | None = None


class EpisodeBoard:
    """All open episodes briefly, the largest ones in full."""

    def __init__(self) -> None:
        self._open: dict[str, Episode] = {}
        self._board: dict[str, Episode] = {}
        self._entry_notional = -1.0

    def on_started(self, body: Body) -> None:
        """Open the episode of a ``liquidation_started``."""
        episode = self._episode(body)
        episode.cause = body.get("cause")
        episode.started = body
        self._raise(episode, 0.0)

    def on_order(self, body: Body, notional: float) -> None:
        """Add a ``liquidation_order`` or ``collateral_sale``."""
        episode = self._episode(body)
        ts = body["ts"]
        if ts != episode.step_ts:
            episode.step_ts = ts
            episode.step_notional = 0.0
        episode.step_notional += notional
        episode.orders_count += 1
        if not episode.handed_notional:
            episode.stage = body.get("stage", episode.stage)
        self._raise(episode, episode.step_notional)
        details = episode.details
        if details is None:
            return
        if details.decision is None:
            details.decision = body.get("decision")
        if len(details.orders) < RECORDS_MAX:
            details.orders.append({key: value for key, value in body.items() if key != "decision"})

    def on_handed_over(self, body: Body, notional: float, *, stage: str) -> None:
        """Add a ``takeover`` or an ``adl_wave`` that moved positions worth ``notional``."""
        episode = self._episode(body)
        episode.stage = stage
        episode.handed_notional += notional
        self._raise(episode, episode.handed_notional)
        self.on_follow_up(body)

    def on_ended(self, body: Body, closed_notional: float) -> None:
        """Close the episode of a ``liquidation_ended``."""
        episode = self._episode(body)
        episode.ended = body
        self._raise(episode, closed_notional + episode.handed_notional)
        self._open.pop(episode.liquidation_id, None)

    def on_follow_up(self, body: Body) -> None:
        """Add what the episode led to (bad debt, ADL), if it is on the board."""
        episode = self._board.get(body.get("liquidation_id", ""))
        if episode is not None and episode.details is not None and len(episode.details.follow_ups) < RECORDS_MAX:
            episode.details.follow_ups.append(body)

    def largest(self) -> list[Episode]:
        """Return the largest episodes, largest first, ties by id."""
        ranked = sorted(self._board.values(), key=lambda episode: (-episode.notional, episode.liquidation_id))
        return ranked[:SHOWN_MAX]

    def _episode(self, body: Body) -> Episode:
        liquidation_id = body["liquidation_id"]
        episode = self._open.get(liquidation_id) or self._board.get(liquidation_id)
        if episode is None:
            episode = Episode(liquidation_id, body["account"], body.get("bucket"), body["ts"])
            self._open[liquidation_id] = episode
            if len(self._open) > OPEN_MAX:
                del self._open[next(iter(self._open))]
        return episode

    def _raise(self, episode: Episode, notional: float) -> None:
        """Let the episode's rank grow to ``notional`` and give it its place on the board."""
        episode.notional = max(episode.notional, notional)
        if episode.details is not None:
            return
        if len(self._board) >= BOARD_MAX:
            if episode.notional <= self._entry_notional:
                return
            lowest = min(self._board.values(), key=lambda other: other.notional)
            if episode.notional <= lowest.notional:
                self._entry_notional = lowest.notional
                return
            lowest.details = None
            del self._board[lowest.liquidation_id]
        episode.details = Details()
        self._board[episode.liquidation_id] = episode
