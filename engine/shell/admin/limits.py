"""How much of the event loop the admin API may take: requests one by one, and a budget of its time.

One loop serves Kafka and HTTP, so what a request costs a decision is the time for which it holds the loop. A turn of
the loop runs all that is ready: were fifty requests taken up as they come, a decision would wait for all fifty. So
they pass a *gate*, one at a time and ``GAP_S`` apart: a decision, which takes some turns of the loop, meets a few.

Each request of the API is charged for what it took, measured, and for what it costs to be read and answered. The charge
comes off a bucket that refills at a share of real time (``admin.loop_percent``) and holds ``BURST_S``. Whoever finds it
empty gets 429 with Retry-After, held back for ``DELAY_S`` and then at a gate of their own: refusals come so far apart
that they take half of the share at most, however many are due. How fast connections come in is bounded by ``door.py``.

Health and metrics have a gate of their own and no budget: they are what shows a storm, and a probe that fails in one
makes it worse.
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
# What reading a request and writing an answer costs beside what the handler does. Measured on the loop's thread, one
# after the other without a break: 0.11 to 0.17 ms over a connection that stays, 0.3 to 0.45 ms over one that comes and
# goes. Now and then, after other work, it is more: 0.6 and 1.0 ms, of which a part is the loop's own.
OVERHEAD_S = 0.0005
# From one request to the next: what a page asks for at once has come within a tenth of a second, and whoever hammers
# the probes, which no budget limits, takes a tenth of the loop.
GAP_S = 0.004
DELAY_S = 0.5
# Of the budget's share, the part that refusals may take: it is lost to answers.
REFUSALS_SHARE = 0.5
LIMITED = "/v1/"


class Gate:
    """Lets those who come pass in their order, one in a turn of the event loop, ``gap_s`` apart at least."""

    def __init__(self, gap_s: float) -> None:
        self.gap_s = gap_s
        self.lock = asyncio.Lock()
        # From when on the next one may pass.
        self.open_s = 0.0

    async def pass_through(self, delay_s: float = 0.0) -> None:
        """Return when it is our turn, ``delay_s`` from now at the earliest; who is behind us waits for that, too."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + delay_s
        async with self.lock:
            await asyncio.sleep(max(due_s, self.open_s) - loop.time())
            self.open_s = loop.time() + self.gap_s


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


def one_by_one() -> Middleware:
    """Return the middleware that takes up one request after the other, health and metrics beside all others."""
    limited, others = Gate(GAP_S), Gate(GAP_S)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        await (limited if request.path.startswith(LIMITED) else others).pass_through()
        return await handler(request)

    return check


def limit(budget: Budget) -> Middleware:
    """Return the middleware that turns requests away while the budget is used up."""
    refusals = Gate(OVERHEAD_S / (budget.share * REFUSALS_SHARE))

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith(LIMITED):
            return await handler(request)
        budget.charge(OVERHEAD_S)
        wait_s = budget.wait_s()
        if wait_s > 0:
            await refusals.pass_through(DELAY_S)
            headers = {"Retry-After": str(math.ceil(wait_s))}
            return problem(429, f"the API has used up its share of {budget.share:.0%} of the engine", headers=headers)
        return await handler(request)

    return check
