"""Which real Kafka the tests run against: the one KAFKA_BOOTSTRAP_SERVERS names, else a node started for them.

Where neither can be had, the tests are skipped, and the end of the run says so; under CI they fail instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from engine.tools.kafka_broker import Broker, KafkaMissingError, bring_jars, java_command
from tests import outside

OVERRIDE = "KAFKA_BOOTSTRAP_SERVERS"
NOT_RUN = "no real Kafka"


class Endpoint(Protocol):
    """A broker as clients see it."""

    @property
    def bootstrap(self) -> str:
        """Return the address for clients."""


@dataclass(frozen=True)
class External:
    """A broker that somebody else runs."""

    bootstrap: str


@contextmanager
def shared_kafka(folder: Path) -> Iterator[Endpoint]:
    """Yield the broker that all tests share: the external one if there is one, else an own node."""
    address = os.environ.get(OVERRIDE)
    if address:
        yield External(address)
        return
    with own_node(folder) as node:
        yield node


@contextmanager
def own_node(folder: Path) -> Iterator[Broker]:
    """Yield a node that runs, and end it at once afterwards: its data is not needed any more."""
    need_kafka()
    node = Broker(folder)
    try:
        node.start()
        yield node
    finally:
        node.kill()


def need_kafka() -> None:
    """Return if this machine can run Kafka; its jars are there then."""
    try:
        java_command()
        bring_jars()
    except KafkaMissingError as error:
        do_without(str(error))


def do_without(reason: str) -> NoReturn:
    """Fail under CI, else skip, saying what is missing and what would help."""
    outside.do_without(f"{NOT_RUN}: {reason}; or name a running one in {OVERRIDE}")
