"""How connections come in: at a bounded pace and in a bounded number, whoever knocks how often.

A client that opens a connection for each request costs the event loop more than what it asks for, and it cannot be
turned away before it is let in. So connections are taken one by one, ``PER_S`` a second once ``BURST`` have come at
once; the others wait in the kernel, where they cost nothing.
"""

from __future__ import annotations

import asyncio
import socket

from aiohttp import web

from engine.shell import oplog

# A page, its stream, a scrape and two probes are five.
BURST, PER_S = 50, 100.0
CONNECTIONS_MAX = 500
# Where the process may open no further file: until it may.
EXHAUSTED_S = 0.5


class Door:
    """Hands the connections of a listening socket to a server."""

    def __init__(self, server: web.Server, listener: socket.socket) -> None:
        self.server = server
        self.listener = listener
        listener.setblocking(False)
        self.task = asyncio.create_task(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        # How many may come at once, and since when that is so.
        left, since_s = float(BURST), loop.time()
        while True:
            try:
                connection, _ = await loop.sock_accept(self.listener)
            except OSError as error:
                oplog.warning("admin_accept", reason=error)
                await asyncio.sleep(EXHAUSTED_S)
                continue
            if len(self.server.connections) < CONNECTIONS_MAX:
                await loop.connect_accepted_socket(self.server, connection)
            else:
                connection.close()
            now_s = loop.time()
            left, since_s = min(BURST, left + (now_s - since_s) * PER_S) - 1, now_s
            if left < 0:
                await asyncio.sleep(-left / PER_S)

    async def close(self) -> None:
        """Let nobody in any more."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.listener.close()
