"""What a service configuration says, in text, in JSON, and in warnings about what was probably not meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.edges.config import shown
from engine.edges.service_config import KEYS, TLS, ServiceConfig, is_loopback, values_of
from engine.units import format_ppm

LOOPBACK = re.compile(r"(?:localhost|127\.[0-9.]+|\[::1\]):[0-9]+")
READABLE_BY_OTHERS = 0o077


def service_warnings(config: ServiceConfig) -> list[str]:
    """Return what is allowed but probably not meant, a sentence each."""
    kafka = config.kafka
    found = [*exposed_files(config)]
    if not all(LOOPBACK.fullmatch(address) for address in kafka.bootstrap_servers.split(",")):
        if kafka.security_protocol not in TLS:
            found.append(
                f"kafka.security_protocol = {kafka.security_protocol}: whoever is on the way to the broker can read"
                " and change what is sent"
            )
        if kafka.replication_factor == 1:
            found.append("kafka.replication_factor = 1: one lost disk takes the journal with it")
    if kafka.replication_factor > 1 and kafka.min_insync_replicas == 1:
        found.append("kafka.min_insync_replicas = 1: a record counts as written while one broker alone has it")
    if not is_loopback(config.admin.host):
        found.append(
            f"admin.host = {config.admin.host}: HTTP shows the token to whoever is on the way: let a proxy with TLS or"
            " a network of its own be between"
        )
    return found


def exposed_files(config: ServiceConfig) -> Iterator[str]:
    """Yield a warning for each file with a secret that others than its owner can read."""
    kafka = config.kafka
    files = {f"kafka.{key}": getattr(kafka, key) for key in ("key_file", "key_password_file", "sasl_password_file")}
    for place, file in {**files, "admin.token_file": config.admin.token_file}.items():
        if file is not None and (mode := file.stat().st_mode & 0o777) & READABLE_BY_OTHERS:
            yield f"{place}: {file} has mode {mode:04o}: others than its owner can read the secret; chmod 600"


def service_document(config: ServiceConfig) -> dict[str, Any]:
    """Return what ``check-config --json`` prints for a service file without errors; of a secret, that there is one."""
    document: dict[str, Any] = {"ok": True}
    for place, value in values_of(config).items():
        table, _, key = place.partition(".")
        document.setdefault(table, {})[key] = plain(value)
    return document | {"warnings": service_warnings(config)}


def plain(value: object) -> object:
    """Return a value as JSON holds it; of a secret only that it is set."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {name: format_ppm(beta_ppm) for name, beta_ppm in value.items()}
    return value if value is None or isinstance(value, str | int) else "set"


def describe_service(config: ServiceConfig) -> str:
    """Return what ``check-config`` prints for a service file without errors."""
    document = service_document(config)
    lines = []
    for name in KEYS:
        lines += [
            name,
            *(f"  {key:<22} {'-' if value is None else shown(value)}" for key, value in document[name].items()),
        ]
        lines.append("")
    lines.append(f"warnings: {len(document['warnings'])}")
    return "\n".join([*lines, *(f"  {warning}" for warning in document["warnings"])])
