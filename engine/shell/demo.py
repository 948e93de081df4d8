"""``liq-engine demo --serve``: a log played through one shard of this process, behind the admin server; no Kafka.

The fold, the ring of events, the survey and the metrics are those of the service, and so is all that is asked over
HTTP. What is missing is the broker: nothing is journaled, a batch counts as committed once it is applied, and the
venue is simulated. An input arrives when it is due, whatever the shard is doing then; so its latency tells of a log
that is played faster than the shard can follow.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from engine import __version__
from engine.core.events import Ignored, Message, Reject
from engine.core.params import Risk
from engine.core.shard import Shard
from engine.edges.fold import INPUT_TOPICS, Fold
from engine.edges.journal import Position
from engine.edges.metrics.service import Metrics
from engine.edges.service_config import ServiceConfig
from engine.edges.shard_book import BookSource, config_hash
from engine.edges.venue import BookVenue
from engine.shell.admin.server import AdminServer
from engine.shell.follower import Origin
from engine.shell.play import line_of
from engine.shell.status import Status
from engine.shell.surveyor import surveying
from engine.units import NS_PER_S

# So many inputs are applied before everybody else has a turn: about two ticks of all symbols of the demo.
RECORDS_MAX = 24
SHARD = 0


@dataclass(slots=True)
class Arrived:
    """An input as a broker would give it, and when it was due, ``time.monotonic``."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    due_s: float


class Player:
    """One shard under a log; offers the admin server what the service does."""

    def __init__(self, config: ServiceConfig, risk: Risk, shard: Shard, *, config_hash: str) -> None:
        self.config = config
        self.origin = Origin(SHARD, config_hash, lambda: shard)
        offsets = {topic: {0: 0} for topic in INPUT_TOPICS}
        self.fold = Fold(shard, Position(offsets=offsets), logical=lambda topic: topic)
        self.metrics = Metrics(config, risk, [SHARD], config_hash)
        self.status = Status(self.metrics.shards[SHARD])
        self.statuses = {SHARD: self.status}
        self.workers = {SHARD: self}
        self.beat_s = time.monotonic()

    async def play(self, messages: Iterable[Message], *, speed: float) -> None:
        """Play a log at ``speed`` times its own pace (0: at once), and stay when it has ended, until cancelled."""
        self.begin()
        async with surveying(self.fold.shard, self.status, self.config.survey.options()):
            async for batch in batches(messages, speed=speed):
                self.apply(batch)
            while True:
                self.apply([])
                await asyncio.sleep(self.config.heartbeat_ms / 1000)

    def begin(self) -> None:
        """Go live."""
        self.status.ring.begin(self.fold.shard.seq)
        self.status.metrics.begin(self.fold.shard)
        self.status.enter("live")
        self.status.find_lag = self.lag

    async def lag(self) -> dict[str, int]:
        """Return that nothing waits at a broker."""
        return dict.fromkeys(INPUT_TOPICS, 0)

    def apply(self, batch: list[Arrived]) -> None:
        """Apply inputs and publish what came of them; without any, a sign of life."""
        began_s, metrics = time.monotonic(), self.status.metrics
        if batch:
            self.fold.apply(batch)
            metrics.observe_fold(self.fold, [(input.due_s, 1) for input in batch])
        _, closed = self.fold.close_batch(delivery=self.config.delivery, engine=__version__)
        self.status.records += len(batch)
        self.status.batches += 1
        self.status.ring.publish(self.fold.shard.seq, closed.lines)
        self.beat_s = self.status.progressed_s = time.monotonic()
        oldest_s = min((input.due_s for input in batch), default=began_s)
        metrics.observe_commit(self.fold, closed, oldest_s=oldest_s, began_s=began_s, ended_s=self.beat_s)


async def batches(messages: Iterable[Message], *, speed: float) -> AsyncIterator[list[Arrived]]:
    """Yield inputs as they become due, at most ``RECORDS_MAX`` at once; everybody else has a turn between."""
    begun_s, first_ts, batch = time.monotonic(), None, list[Arrived]()
    offsets: Counter[str] = Counter()
    for message in messages:
        event = message.event
        if isinstance(event, Reject | Ignored):
            continue
        first_ts = event.ts if first_ts is None else first_ts
        due_s = begun_s + (event.ts - first_ts) / NS_PER_S / speed if speed > 0 else time.monotonic()
        if batch and (due_s > time.monotonic() or len(batch) == RECORDS_MAX):
            yield batch
            batch = []
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        line = line_of(event)
        batch.append(Arrived(line.topic, 0, offsets[line.topic], line.key, line.value, due_s))
        offsets[line.topic] += 1
    if batch:
        yield batch


def serve(
    config: ServiceConfig, risk: Risk, messages: Iterable[Message], *, speed: float, say: Callable[[str], None]
) -> None:
    """Play a log over the book behind the admin server until SIGINT or SIGTERM; ``say`` gets where the page is.

    The kernels are ready, ``risk`` is what the risk file says; raises InputError for a port that is taken.
    """
    shard = BookSource(config.book).new_shard(risk, SHARD, venue=BookVenue())
    player = Player(config, risk, shard, config_hash=config_hash(config.risk, config.book, config.shards))
    asyncio.run(run(player, messages, speed=speed, say=say))


async def run(player: Player, messages: Iterable[Message], *, speed: float, say: Callable[[str], None]) -> None:
    """Serve and play; raises what the playing dies of."""
    async with AdminServer(player) as server:
        host = player.config.admin.host
        say(f"http://{f'[{host}]' if ':' in host else host}:{server.port}/  (Ctrl-C ends it)")
        task = asyncio.create_task(player.play(messages, speed=speed))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        with suppress(asyncio.CancelledError):
            await task
