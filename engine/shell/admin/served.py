"""What the admin server is told about a process: its shards, as ``service.py`` runs them or ``demo.py`` plays them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from engine.edges.fold import Fold
from engine.edges.metrics.service import Metrics
from engine.edges.service_config import ServiceConfig
from engine.shell.follower import Origin
from engine.shell.status import Status


class Owner(Protocol):
    """Whoever has a shard: what it was made of, and its fold once it is live."""

    @property
    def origin(self) -> Origin:
        """What the shard began with."""

    @property
    def fold(self) -> Fold | None:
        """The shard, None before it is live."""


class Served(Protocol):
    """The shards of one process. ``beat_s`` is when its event loop last had a turn for it, ``time.monotonic``."""

    beat_s: float

    @property
    def config(self) -> ServiceConfig:
        """What the process was told."""

    @property
    def statuses(self) -> Mapping[int, Status]:
        """What each shard says about itself."""

    @property
    def workers(self) -> Mapping[int, Owner]:
        """Who has which shard."""

    @property
    def metrics(self) -> Metrics:
        """What is counted and measured."""
