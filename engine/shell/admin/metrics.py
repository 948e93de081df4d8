"""``/metrics``: the page that Prometheus scrapes, brought up to date and sent a piece at a time."""

from __future__ import annotations

import asyncio

from aiohttp import web

from engine.edges.metrics.exposition import CONTENT_TYPE, Exposition
from engine.shell.admin.served import Served


def add_routes(app: web.Application, service: Served) -> None:
    """Add the route of metrics."""

    async def metrics(request: web.Request) -> web.StreamResponse:
        for shard in service.statuses:
            await refresh(service, shard)
        return await send_page(request, service.metrics.exposition)

    app.router.add_get("/metrics", metrics)


async def send_page(request: web.Request, exposition: Exposition) -> web.StreamResponse:
    """Send the page, a piece in each turn of the event loop."""
    response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
    await response.prepare(request)
    await turn()
    async for piece in exposition.pieces(turn):
        await response.write(piece)
    return response


async def turn() -> None:
    """Let everybody else have their turn."""
    await asyncio.sleep(0)


async def refresh(service: Served, shard: int) -> None:
    """Bring a shard's gauges up to date."""
    status, worker = service.statuses[shard], service.workers.get(shard)
    metrics = status.metrics
    metrics.put_ages()
    metrics.put_recovery(status.recovery.seconds(), status.recovery.events)
    metrics.put_lag(await status.lag() or {})
    if worker is not None and worker.fold is not None:
        for _ in metrics.refresh(worker.fold.shard):
            await turn()
    await turn()
