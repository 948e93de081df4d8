"""Prometheus as a real process on a configuration of a test's own, and how it is asked."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from engine.tools.child import Child
from tests.outside import program

Body = dict[str, Any]


class Prometheus(Child):
    """A running Prometheus; a context manager that leaves nothing behind."""

    def __init__(self, folder: Path, config: Body) -> None:
        self.port = free_port()
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        super().__init__(folder / "prometheus.txt", command)

    async def query(self, text: str) -> list[Body]:
        """Return what it finds: nothing while it does not answer yet."""
        check_running(self)
        status, body = await get(f"http://127.0.0.1:{self.port}/api/v1/query", query=text)
        if status in (0, 503):
            return []
        # A query that makes no sense stays a failure.
        assert status == 200, (text, body)
        found: list[Body] = body["data"]["result"]
        return found

    async def finds(self, text: str) -> bool:
        """Return whether there is anything of which the query is true."""
        return bool(await self.query(text))

    async def value(self, text: str) -> float:
        """Return the one number of a query."""
        (found,) = await self.query(text)
        return float(found["value"][1])


def check_running(child: Child) -> None:
    """Fail with what a program has said if it has ended."""
    assert child.is_running, f"{child.log.name} ended:\n{child.text[-4000:]}"


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


async def get(address: str, **params: str) -> tuple[int, Any]:
    """Return status and document; 0 where nobody answers."""
    try:
        async with aiohttp.ClientSession() as session, session.get(address, params=params) as response:
            is_document = response.content_type == "application/json"
            return response.status, await response.json() if is_document else None
    except aiohttp.ClientError:
        return 0, None
