"""Whether to restart the process (``/livez``) and whether it does its work (``/readyz``).

``/livez``   503 where the loop, or a live shard, has made no progress for ``deadlines.progress_s``: a shard at rest
             commits every ``heartbeat_ms``, so one that does not is stuck. A shard that recovers or has halted does not
             count: a restart would only have it begin again, or halt again.
``/readyz``  200 where all shards of this process are live and none is further behind than ``batch.pending_max``
             inputs, else 503. Either way it says of each shard its state, its lag, and while it recovers how long
             that will take by what it has done so far.
"""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from engine.shell.admin.replies import document
from engine.shell.admin.served import Served


def add_routes(app: web.Application, service: Served) -> None:
    """Add the routes of health."""

    async def livez(_: web.Request) -> web.Response:
        stuck = stuck_parts(service)
        return document({"ok": not stuck, "stuck": stuck}, status=503 if stuck else 200)

    async def readyz(_: web.Request) -> web.Response:
        shards = [await shard_document(service, shard) for shard in service.statuses]
        is_ready = all(shard["ready"] for shard in shards)
        return document({"ready": is_ready, "shards": shards}, status=200 if is_ready else 503)

    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)


def stuck_parts(service: Served) -> list[str]:
    """Return what has made no progress for longer than it may, a sentence each."""
    now_s, limit_s = time.monotonic(), service.config.deadlines.progress_s
    ages = {"the event loop": now_s - service.beat_s}
    for shard, status in service.statuses.items():
        if status.state == "live":
            ages[f"shard {shard}"] = now_s - status.progressed_s
    return [f"{name}: no progress in {age_s:.1f} s" for name, age_s in ages.items() if age_s > limit_s]


async def shard_document(service: Served, shard: int) -> dict[str, Any]:
    """Return what is known of one shard."""
    status = service.statuses[shard]
    by_topic = await status.lag()
    lag, lag_max = None if by_topic is None else sum(by_topic.values()), service.config.batch.pending_max
    found = {
        "shard": shard,
        "ready": status.state == "live" and lag is not None and lag <= lag_max,
        "state": status.state,
        "state_seconds": round(time.monotonic() - status.entered_s, 3),
        "lag": lag,
        "lag_max": lag_max,
        "batches": status.batches,
    }
    return found | ({"eta_seconds": status.recovery.eta_s()} if status.state == "recovering" else {})
