"""The admin server of one process: started before the shards, so that a recovery can be watched; ended after them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from aiohttp import web

from engine.edges.service_config import is_address
from engine.errors import InputError, InvariantError
from engine.shell import oplog
from engine.shell.admin import api, auth, events, health, metrics, page
from engine.shell.admin.answers import BODY_BYTES_MAX
from engine.shell.admin.door import Door
from engine.shell.admin.limits import BUDGET, Budget, limit, one_by_one
from engine.shell.admin.replies import problems
from engine.shell.admin.served import Served

AddRoutes = Callable[[web.Application, Served], None]
# Each module that answers something adds its routes here.
ROUTES: tuple[AddRoutes, ...] = (
    health.add_routes,
    metrics.add_routes,
    api.add_routes,
    events.add_routes,
    page.add_routes,
)
# At the end, how long answers under way may take to finish.
SHUTDOWN_S = 1.0
BACKLOG = 64


class AdminServer:
    """HTTP on ``admin.host`` and ``admin.port``; a context manager. ``port`` is the one it listens on, once it does."""

    def __init__(self, service: Served) -> None:
        self.service = service
        self.config = service.config.admin
        self.port: int | None = None
        self.runner: web.AppRunner | None = None
        self.door: Door | None = None

    async def __aenter__(self) -> AdminServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen; raises InputError where the address is not to be had."""
        listener = self._bind()
        self.port = listener.getsockname()[1]
        self.runner = web.AppRunner(
            build_app(self.service), access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S
        )
        await self.runner.setup()
        server = self.runner.server
        if server is None:
            raise InvariantError("a runner that is set up has a server")
        self.door = Door(server, listener)
        oplog.info("admin", host=self.config.host, port=self.port)

    def _bind(self) -> socket.socket:
        # Bound here and not by the loop, which would look the name up in a thread of its own: a thread that is there
        # when a snapshot forks.
        host = "127.0.0.1" if self.config.host == "localhost" else self.config.host
        family = socket.AF_INET6 if is_address(host) and ":" in host else socket.AF_INET
        try:
            return socket.create_server((host, self.config.port), family=family, backlog=BACKLOG)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise InputError(
                f"admin.port {self.config.port} on {self.config.host}: {reason}: name another in "
                "[admin] of the service file (0: any that is free)"
            ) from error

    async def close(self) -> None:
        """Stop listening; nothing where it never did."""
        runner, door, self.runner, self.door, self.port = self.runner, self.door, None, None, None
        if door is not None:
            await door.close()
        if runner is not None:
            await runner.cleanup()


def build_app(service: Served) -> web.Application:
    """Return the application with all its routes."""
    budget = Budget(share=service.config.admin.loop_percent / 100)
    middlewares = [one_by_one(), problems, auth.guard(service.config.admin), limit(budget)]
    app = web.Application(middlewares=middlewares, client_max_size=BODY_BYTES_MAX)
    app[BUDGET] = budget
    for add_routes in ROUTES:
        add_routes(app, service)
    return app
