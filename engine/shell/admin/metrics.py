"""``/metrics``: the page that Prometheus scrapes, brought up to date, rendered and sent a piece at a time.

It is sent once all of it is there: a client that is woken for every piece takes the processor from us in the middle of
rendering the next one. One scrape at a time: many side by side would each have a piece in every turn of the loop.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from engine.edges.metrics.exposition import CONTENT_TYPE, Exposition
from engine.shell.admin.served import Served

# What goes to the socket in one turn: to copy it takes about as long as to render a piece.
SENT_BYTES = 16 * 1024


def add_routes(app: web.Application, service: Served) -> None:
    """Add the route of metrics."""
    one_scrape = asyncio.Lock()

    async def metrics(request: web.Request) -> web.StreamResponse:
        async with one_scrape:
            for shard in service.statuses:
                await refresh(service, shard)
            page = await render(service.metrics.exposition)
        return await send_page(request, page)

    app.router.add_get("/metrics", metrics)


async def render(exposition: Exposition) -> bytes:
    """Return the page, rendered a piece in each turn of the event loop."""
    await turn()
    return b"".join([piece async for piece in exposition.pieces(turn)])


async def send_page(request: web.Request, page: bytes) -> web.StreamResponse:
    """Send a page, some of it in each turn of the event loop."""
    response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
    response.content_length = len(page)
    await response.prepare(request)
    for begin in range(0, len(page), SENT_BYTES):
        await turn()
        await response.write(page[begin : begin + SENT_BYTES])
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
