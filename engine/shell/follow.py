"""``liq-engine follow``: a hot standby, which folds a shard's journal as it is written and can take the shard over.

The live instance commits at least every ``heartbeat_ms``. When nothing has come for ``take_over_after`` seconds, the
standby starts the transactional producer: that fences the old owner, dead or only slow, and ends its transaction. What
is still in the journal is folded, and the shard is live here.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from engine.edges.service_config import ServiceConfig
from engine.errors import InputError
from engine.shell import oplog
from engine.shell.follower import Follower, Origin
from engine.shell.service import SIGNALS, Service
from engine.shell.snapshots import Snapshots
from engine.shell.topics import check_topics

POLL_MS = 50
REPORT_S = 10.0


def follow(config: ServiceConfig, shard: int, *, take_over_after: float | None) -> int:
    """Follow a shard until a signal comes, or until it is taken over and ends here; return the exit code."""
    if take_over_after is not None and not take_over_after * 1000 > 2 * config.heartbeat_ms:
        raise InputError(
            f"--take-over-after {take_over_after:g}: must be more than twice service.heartbeat_ms "
            f"({config.heartbeat_ms}), or a healthy shard is taken over"
        )
    oplog.configure()
    return asyncio.run(Standby(config, shard, take_over_after).run())


class Standby:
    """One shard's standby."""

    def __init__(self, config: ServiceConfig, shard: int, take_over_after: float | None) -> None:
        self.service = Service(config, [shard])
        (self.status,) = self.service.statuses.values()
        self.take_over_after = take_over_after

    async def run(self) -> int:
        """Follow, take over, serve."""
        service = self.service
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, service.on_signal, number)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(service.beating())
            stack.push_async_callback(service.admin.close)
            await self.listen()
            await service.warm()
            await check_topics(service.kafka)
            (origin,) = service.origins
            follower = await self.follow(origin)
            if follower is None:
                return 0
            oplog.info("taking_over", shard=origin.shard, batch=follower.fold.position.batch if follower.fold else 0)
            await self.listen()
            return await service.run_all([service.supervise(origin, follower)])

    async def listen(self) -> None:
        """Start the admin server, or say why not: beside its owner on one machine the port may be the owner's.

        At the takeover it is tried once more: then the shard matters, and not who can look at it.
        """
        if self.service.admin.port is not None:
            return
        try:
            await self.service.admin.start()
        except InputError as error:
            oplog.warning("no_admin", reason=error)

    async def follow(self, origin: Origin) -> Follower | None:
        """Follow until the shard is to be taken over; return what then goes on, None when told to leave."""
        self.status.enter("following")
        follower = Follower(self.service.kafka, origin)
        snapshots = Snapshots(self.service.kafka, origin.shard, origin.config_hash, self.status.metrics)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(follower)
            await follower.start(await snapshots.newest())
            if not await self.watch(follower):
                return None
            # From here on the worker closes it.
            stack.pop_all()
        return follower

    async def watch(self, follower: Follower) -> bool:
        """Fold what comes; return True when the shard is to be taken over, False when told to leave."""
        await follower.catch_up()
        oplog.info("following", shard=follower.origin.shard, batch=follower.fold.position.batch if follower.fold else 0)
        heard_s = reported_s = time.monotonic()
        while not self.service.draining.is_set():
            records = await follower.step(wait_ms=POLL_MS)
            now = time.monotonic()
            if records:
                heard_s = now
            elif self.take_over_after is not None and now >= heard_s + self.take_over_after:
                return True
            if follower.fold is not None and now >= reported_s + REPORT_S:
                reported_s = now
                fold = follower.fold
                oplog.info("following", shard=fold.shard.number, batch=fold.position.batch, seq=fold.shard.seq)
        return False
