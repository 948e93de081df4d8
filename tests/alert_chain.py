"""Prometheus, Alertmanager and the desk as real processes, on the files of ``deploy/``, told to hurry.

    Chain   the three of them around an engine's port; a context manager that leaves nothing behind
    told    the last that the desk was told of each alert

What differs from the files: addresses, paths, and times. Intervals are a fraction of a second; an alert waits for two
seconds wherever its rule says to wait.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.alerting import ALERTMANAGER, PROMETHEUS
from tests.outside import program, try_program

INTERVAL = "500ms"
WAIT = "2s"
TOKEN = "for the desk alone"
Body = dict[str, Any]


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


class Program:
    """A process with its log in a file; killed at the end."""

    def __init__(self, log: Path, *command: str) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def text(self) -> str:
        """Return what it has said; AssertionError with that if it has ended."""
        text = self.log.read_text(errors="replace")
        assert self.process.poll() is None, f"{self.log.name} ended:\n{text[-4000:]}"
        return text


class Chain:
    """What stands between an engine's port and a person."""

    def __init__(self, folder: Path, engine_port: int, engine_token: str) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "admin_token").write_text(engine_token)
        (folder / "webhook_token").write_text(TOKEN)
        self.prometheus_port, self.alertmanager_port, self.desk_port = free_port(), free_port(), free_port()
        self.write_rules()
        self.write_prometheus(engine_port)
        self.write_alertmanager()

    def write_rules(self) -> None:
        """Copy the rules, with short waits."""
        shutil.copytree(PROMETHEUS / "rules", self.folder / "rules")
        for file in (self.folder / "rules").iterdir():
            file.write_text(re.sub(r"^( +)for: \w+$", rf"\1for: {WAIT}", file.read_text(), flags=re.MULTILINE))

    def write_prometheus(self, engine_port: int) -> None:
        """Write Prometheus' file as it stands in the repository, with the addresses and paths of here."""
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        config["global"] |= {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL}
        config["rule_files"] = [str(self.folder / "rules" / "*.yml")]
        (manager,) = config["alerting"]["alertmanagers"]
        manager["static_configs"] = [{"targets": [f"127.0.0.1:{self.alertmanager_port}"]}]
        (job,) = config["scrape_configs"]
        job["authorization"]["credentials_file"] = str(self.folder / "admin_token")
        job["static_configs"] = [{"targets": [f"127.0.0.1:{engine_port}"]}]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def write_alertmanager(self) -> None:
        """Write Alertmanager's file as it stands in the repository, with the desk of here, and in a hurry."""
        text = ALERTMANAGER.read_text().replace("desk:8080", f"127.0.0.1:{self.desk_port}")
        text = text.replace("/etc/alertmanager/webhook_token", str(self.folder / "webhook_token"))
        text = re.sub(r"(group_wait|group_interval): \w+", rf"\1: {INTERVAL}", text)
        (self.folder / "alertmanager.yml").write_text(text)

    def __enter__(self) -> Chain:
        with ExitStack() as stack:
            self.desk = stack.enter_context(self.start_desk())
            self.alertmanager = stack.enter_context(self.start_alertmanager())
            self.prometheus = stack.enter_context(self.start_prometheus())
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def start_desk(self) -> Program:
        """Start who is told."""
        desk = str(ALERTMANAGER.parent / "desk.py")
        arguments = ("127.0.0.1", str(self.desk_port), str(self.folder / "webhook_token"))
        return Program(self.folder / "desk.txt", sys.executable, "-S", desk, *arguments)

    def start_alertmanager(self) -> Program:
        """Start Alertmanager, without the gossip of its clusters."""
        return Program(
            self.folder / "alertmanager.txt",
            try_program("prometheus-alertmanager") or program("alertmanager"),
            f"--config.file={self.folder / 'alertmanager.yml'}",
            f"--storage.path={self.folder / 'alerts'}",
            f"--web.listen-address=127.0.0.1:{self.alertmanager_port}",
            "--cluster.listen-address=",
        )

    def start_prometheus(self) -> Program:
        """Start Prometheus."""
        return Program(
            self.folder / "prometheus.txt",
            program("prometheus"),
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.prometheus_port}",
        )

    # What they say.

    def told(self) -> dict[str, Body]:
        """Return what the desk was last told of each alert, by its name."""
        lines = [json.loads(line) for line in self.desk.text().splitlines() if line.startswith("{")]
        return {line["labels"]["alertname"]: line for line in lines if "labels" in line}

    def is_told(self, alert: str, status: str) -> bool:
        """Return whether this is the last that the desk was told of an alert; AssertionError if somebody has ended."""
        for one in (self.prometheus, self.alertmanager):
            one.text()
        return self.told().get(alert, {}).get("status") == status

    async def query(self, text: str) -> list[Body]:
        """Return what Prometheus finds: nothing while it does not answer yet."""
        self.prometheus.text()
        status, body = await get(f"http://127.0.0.1:{self.prometheus_port}/api/v1/query", query=text)
        if status in (0, 503):
            return []
        assert status == 200, (text, body)
        found: list[Body] = body["data"]["result"]
        return found

    async def suppressed(self) -> set[str]:
        """Return the names of alerts that Alertmanager keeps to itself because of another one."""
        _, alerts = await get(f"http://127.0.0.1:{self.alertmanager_port}/api/v2/alerts")
        return {one["labels"]["alertname"] for one in alerts or [] if one["status"]["inhibitedBy"]}


async def get(address: str, **params: str) -> tuple[int, Any]:
    """Return status and document; 0 where nobody answers."""
    try:
        async with aiohttp.ClientSession() as session, session.get(address, params=params) as response:
            is_document = response.content_type == "application/json"
            return response.status, await response.json() if is_document else None
    except aiohttp.ClientError:
        return 0, None
