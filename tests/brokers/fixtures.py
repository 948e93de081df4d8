"""The brokers as fixtures, for ``tests/conftest.py`` to import.

kafka      a real Kafka for the whole run; tests keep apart by topics, groups and transactional ids of their own
own_kafka  a real node of one test's own, to be killed and started at will
fake       a fake broker of one test's own, with its fault plan
broker     ``fake``, then ``kafka``: what a test says about it is true of both
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.edges.warmup import warm_up
from engine.tools.kafka_broker import Broker
from tests.brokers.fake import Fake
from tests.brokers.real import NOT_RUN, Endpoint, own_node, shared_kafka

MARKER_DELAY_S = 0.05


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """Yield the real Kafka that all tests share. Kernels are there by then: no test waits for a compiler."""
    warm_up()
    with shared_kafka(tmp_path_factory.mktemp("kafka")) as endpoint:
        yield endpoint


@pytest.fixture
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Yield a real node that this test may kill."""
    with own_node(tmp_path_factory.mktemp("own-kafka")) as node:
        yield node


@pytest.fixture
def fake() -> Iterator[Fake]:
    """Yield a fake broker that runs; an error of its own fails the test."""
    with Fake() as broker:
        yield broker


@pytest.fixture
def late_fake() -> Iterator[Fake]:
    """Yield a fake broker that writes the markers of a transaction late."""
    with Fake(marker_delay_s=MARKER_DELAY_S) as broker:
        yield broker


@pytest.fixture(params=["fake", "late_fake", pytest.param("kafka", marks=pytest.mark.broker)])
def broker(request: pytest.FixtureRequest) -> Endpoint:
    """Return each broker in turn."""
    endpoint: Endpoint = request.getfixturevalue(request.param)
    return endpoint


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end of a run how many tests had no broker, and why: a skip alone is one letter among thousands."""
    reasons = [
        str(report.longrepr[2])
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and NOT_RUN in report.longrepr[2]
    ]
    if reasons:
        terminalreporter.section("broker tests were not run", yellow=True, bold=True)
        terminalreporter.line(f"{len(reasons)} tests skipped: {reasons[0].removeprefix('Skipped: ')}")
