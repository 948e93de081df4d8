"""How much of the event loop the admin API may take: a budget of its time, so that decisions hardly notice a storm.

One loop serves Kafka and HTTP, so what a request costs a decision is the time for which it holds the loop. Each request
is charged for what it took, measured, and for what it costs to be read and answered. The charge comes off a bucket that
refills at a share of real time (``admin.loop_percent``) and holds ``BURST_S``. Whoever finds it empty gets 429 with
Retry-After, held back for ``DELAY_S``: a client that asks again at once asks no faster than that on each of its
connections. How fast those come in is bounded by ``door.py``.

Health and metrics are not limited: they are what shows a storm, and a probe that fails in one makes it worse.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from engine.shell.admin.replies import problem

# As much as a page that opens asks for at once: about a hundred accounts.
BURST_S = 0.05
# What reading a request and writing an answer costs beside what the handler does, measured with ``benchmarks.storm``.
OVERHEAD_S = 0.0003
DELAY_S = 0.5
LIMITED = "/v1/"


class Budget:
    """Time of the event loop that may be taken, in seconds."""

    def __init__(self, *, share: float, burst_s: float = BURST_S) -> None:
        self.share, self.burst_s = share, burst_s
        self.left_s = burst_s
        self.filled_s = time.monotonic()

    def wait_s(self) -> float:
        """Return after how long there is something left; 0 where there is."""
        now_s = time.monotonic()
        self.left_s = min(self.burst_s, self.left_s + (now_s - self.filled_s) * self.share)
        self.filled_s = now_s
        return max(0.0, -self.left_s / self.share) if self.left_s <= 0 else 0.0

    def charge(self, seconds: float) -> None:
        """Take off what something cost, even where more than there is."""
        self.left_s -= seconds

    @contextmanager
    def charged(self) -> Iterator[None]:
        """Charge for a block that holds the loop throughout."""
        begun_s = time.perf_counter()
        try:
            yield
        finally:
            self.charge(time.perf_counter() - begun_s)


BUDGET: web.AppKey[Budget] = web.AppKey("budget", Budget)


def limit(budget: Budget) -> Middleware:
    """Return the middleware that turns requests away while the budget is used up."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith(LIMITED):
            return await handler(request)
        budget.charge(OVERHEAD_S)
        wait_s = budget.wait_s()
        if wait_s > 0:
            await asyncio.sleep(DELAY_S)
            headers = {"Retry-After": str(math.ceil(wait_s))}
            return problem(429, f"the API has used up its share of {budget.share:.0%} of the engine", headers=headers)
        return await handler(request)

    return check
