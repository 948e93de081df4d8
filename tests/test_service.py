"""The service on a real Kafka: from nothing to live, drained, recovered, followed, audited, refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.brokers.real import Endpoint
from tests.service_cases import Clock, Deployment, book_of, deposit, fill, longs, mark, names_on, running

pytestmark = pytest.mark.broker


@pytest.fixture
def deployment(kafka: Endpoint, tmp_path: Path) -> Deployment:
    """Return a cluster of one shard that has neither files nor topics yet."""
    return Deployment(tmp_path, kafka.bootstrap)


# --- from nothing


async def test_a_shard_starts_from_nothing_and_liquidates_who_falls_below_maintenance(deployment: Deployment) -> None:
    await deployment.write().create_topics()
    tell = Clock()
    async with running(deployment):
        await deployment.send(*map(tell, longs("alice")), tell(mark("95.9")))
        await deployment.wait_for_batch(6)
    outputs = await deployment.check_exact()
    # 50 - 10 x 4.10 = 9.00 of equity against 1 % of 959: 9.59.
    (started,) = [body for body in outputs["margin-events"] if body["type"] == "liquidation_started"]
    assert (started["account"], started["equity"], started["maintenance_margin"]) == ("alice", "9", "9.59")
    assert [body["type"] for body in outputs["liquidation-orders"]] == ["cancel_orders", "liquidation_order"]
    journal = await deployment.journal()
    assert journal[0]["offsets"] == {
        "mark-prices": {"0": 0},
        "fills": {"0": 0},
        "transfers": {"0": 0},
        "control": {"0": 0},
    }
    found = await deployment.check_audit()
    assert (found["inputs"], found["outputs"], found["difference"]) == (6, len(sum(outputs.values(), [])), None)
