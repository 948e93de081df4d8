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
import sys
from contextlib import ExitStack
from pathlib import Path

import yaml

from engine.tools.child import Child
from tests.alerting import ALERTMANAGER, PROMETHEUS
from tests.outside import program, try_program
from tests.prometheus import Body, Prometheus, check_running, free_port, get

INTERVAL = "500ms"
WAIT = "2s"
TOKEN = "for the desk alone"


class Chain:
    """What stands between an engine's port and a person."""

    def __init__(self, folder: Path, engine_port: int, engine_token: str) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "admin_token").write_text(engine_token)
        (folder / "webhook_token").write_text(TOKEN)
        self.alertmanager_port, self.desk_port = free_port(), free_port()
        self.write_rules()
        self.write_alertmanager()
        self.config = self.prometheus_config(engine_port)

    def write_rules(self) -> None:
        """Copy the rules, with short waits."""
        shutil.copytree(PROMETHEUS / "rules", self.folder / "rules")
        for file in (self.folder / "rules").iterdir():
            file.write_text(re.sub(r"^( +)for: \w+$", rf"\1for: {WAIT}", file.read_text(), flags=re.MULTILINE))

    def prometheus_config(self, engine_port: int) -> Body:
        """Return Prometheus' file as it stands in the repository, with the addresses and paths of here."""
        config: Body = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        config["global"] |= {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL}
        config["rule_files"] = [str(self.folder / "rules" / "*.yml")]
        (manager,) = config["alerting"]["alertmanagers"]
        manager["static_configs"] = [{"targets": [f"127.0.0.1:{self.alertmanager_port}"]}]
        (job,) = config["scrape_configs"]
        job["authorization"]["credentials_file"] = str(self.folder / "admin_token")
        job["static_configs"] = [{"targets": [f"127.0.0.1:{engine_port}"]}]
        return config

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
            self.prometheus = stack.enter_context(Prometheus(self.folder, self.config))
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def start_desk(self) -> Child:
        """Start who is told."""
        desk = str(ALERTMANAGER.parent / "desk.py")
        arguments = ("127.0.0.1", str(self.desk_port), str(self.folder / "webhook_token"))
        return Child(self.folder / "desk.txt", [sys.executable, "-S", desk, *arguments])

    def start_alertmanager(self) -> Child:
        """Start Alertmanager, without the gossip of its clusters."""
        command = [
            try_program("prometheus-alertmanager") or program("alertmanager"),
            f"--config.file={self.folder / 'alertmanager.yml'}",
            f"--storage.path={self.folder / 'alerts'}",
            f"--web.listen-address=127.0.0.1:{self.alertmanager_port}",
            "--cluster.listen-address=",
        ]
        return Child(self.folder / "alertmanager.txt", command)

    # What they say.

    def told(self) -> dict[str, Body]:
        """Return what the desk was last told of each alert, by its name."""
        lines = [json.loads(line) for line in self.desk.text.splitlines() if line.startswith("{")]
        return {line["labels"]["alertname"]: line for line in lines if "labels" in line}

    def is_told(self, alert: str, status: str) -> bool:
        """Return whether this is the last that the desk was told of an alert; AssertionError if somebody has ended."""
        for one in (self.desk, self.prometheus, self.alertmanager):
            check_running(one)
        return self.told().get(alert, {}).get("status") == status

    async def suppressed(self) -> set[str]:
        """Return the names of alerts that Alertmanager keeps to itself because of another one."""
        _, alerts = await get(f"http://127.0.0.1:{self.alertmanager_port}/api/v2/alerts")
        return {one["labels"]["alertname"] for one in alerts or [] if one["status"]["inhibitedBy"]}
