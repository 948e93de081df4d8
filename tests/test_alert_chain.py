"""From a real engine through Prometheus and Alertmanager to a desk: what goes wrong is told, and that it is over."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.alert_chain import Chain
from tests.alerting import PROMETHEUS, board_expressions, rules
from tests.brokers.clients import until
from tests.brokers.real import Endpoint
from tests.prometheus import free_port
from tests.service_cases import Clock, Deployment, Process, Record, book_of, deposit, mark

pytestmark = [pytest.mark.broker, pytest.mark.slow]

ENGINE_TOKEN = "compose-like"
RUNBOOK = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]["external_labels"]["runbook"]


async def deployed(kafka: Endpoint, folder: Path) -> tuple[Deployment, int]:
    """Return a deployment with two accounts whose engine has a port of its own, for this life and the next."""
    (folder / "token").write_text(ENGINE_TOKEN)
    (folder / "token").chmod(0o600)
    port = free_port()
    deployment = Deployment(folder, kafka.bootstrap)
    deployment.write(book=book_of("alice", "bob"), admin={"port": port, "token_file": "token"})
    await deployment.create_topics()
    return deployment, port


async def test_an_engine_is_killed_and_the_desk_is_told_and_told_again_when_it_is_back(
    kafka: Endpoint, tmp_path: Path
) -> None:
    deployment, port = await deployed(kafka, tmp_path)
    instance = f"127.0.0.1:{port}"
    tell = Clock(start_ns=time.time_ns())
    with Chain(tmp_path / "chain", port, ENGINE_TOKEN) as chain:

        async def is_told(alert: str, status: str = "firing") -> bool:
            return chain.is_told(alert, status)

        with Process(deployment, "run") as engine:
            await engine.wait_for("live", "shard=0")
            await until(lambda: chain.prometheus.finds("shard:liq_live:max == 1 and on (job) liq_rejected_total == 0"))

            # A sender goes wrong: a fifth of what comes is no message. That can wait for the morning.
            await deployment.feed(tell(mark("99")), *[tell(deposit("alice", "1")) for _ in range(3)])
            await deployment.feed(Record("fills", b"nobody", b"no message"))
            await until(lambda: is_told("LiqRejects"))
            rejects = chain.told()["LiqRejects"]
            assert rejects["route"] == "warning"
            assert rejects["labels"] == {
                "alertname": "LiqRejects",
                "instance": instance,
                "job": "liq-engine",
                "severity": "warning",
                "shard": "0",
            }
            assert rejects["annotations"]["summary"] == "Shard 0 refuses 20% of its inputs"
            assert rejects["annotations"]["runbook_url"] == f"{RUNBOOK}#rejects"

            engine.process.send_signal(signal.SIGKILL)
            assert engine.wait() == -signal.SIGKILL
        await until(lambda: is_told("LiqEngineDown"))
        await until(lambda: is_told("LiqShardNotLive"))
        down, orphan = (chain.told()[name] for name in ("LiqEngineDown", "LiqShardNotLive"))
        assert (down["route"], orphan["route"]) == ("critical", "critical")
        assert down["labels"]["instance"] == instance
        assert down["annotations"]["summary"] == f"The engine at {instance} does not answer"
        assert down["annotations"]["runbook_url"] == f"{RUNBOOK}#engine-down"
        # Not of an instance: any other may serve the shard.
        assert orphan["labels"] == {
            "alertname": "LiqShardNotLive",
            "job": "liq-engine",
            "severity": "critical",
            "shard": "0",
        }

        # What was known of the instance that is down is kept back; that nobody serves its shard is not.
        async def is_rejects_alone_kept_back() -> bool:
            return "LiqRejects" in await chain.suppressed()

        await until(is_rejects_alone_kept_back)
        assert not {"LiqEngineDown", "LiqShardNotLive"} & await chain.suppressed()

        with Process(deployment, "run") as engine:
            await engine.wait_for("live", "shard=0")
            await until(lambda: is_told("LiqEngineDown", "resolved"))
            await until(lambda: is_told("LiqShardNotLive", "resolved"))
            assert chain.told()["LiqEngineDown"]["route"] == "critical"
            engine.process.terminate()
            assert engine.wait() == 0


async def test_every_expression_of_board_and_rules_is_answered_from_a_scraped_run(
    kafka: Endpoint, tmp_path: Path
) -> None:
    deployment, port = await deployed(kafka, tmp_path)
    tell = Clock(start_ns=time.time_ns())
    with Chain(tmp_path / "chain", port, ENGINE_TOKEN) as chain, Process(deployment, "run") as engine:
        await engine.wait_for("live", "shard=0")

        await until(lambda: chain.prometheus.finds('liq_inputs_total{topic="mark-prices"} == 0'))
        # bob is liquidated: 95.9 leaves him 9.00 for a margin of 9.59. One message is refused.
        await deployment.feed(tell(mark("99")), tell(deposit("alice", "10")), tell(mark("95.9")))
        await deployment.feed(Record("fills", b"nobody", b"no message"))

        async def is_counted() -> bool:
            # Recorded from two scrapes at least, the second with the inputs; the message that is refused came last, and
            # a scrape may have passed between it and the others.
            finds, decided = (
                chain.prometheus.finds,
                "shard:liq_tick_to_decision_seconds:p99 > 0 and shard:liq_lag_seconds:estimate == 0",
            )
            finds = chain.prometheus.finds
            return await finds(decided) and await finds("increase(liq_rejected_total[1m]) > 0")

        await until(is_counted)
        silent = set()
        for title, text in board_expressions():
            if not await chain.prometheus.finds(text):
                silent.add(title)
        # What shows nothing while all is well; the market of this test has no asset with a price of its own.
        assert silent == {
            "Halts",
            "Asset price age",
            "Waiting for flow budget",
            "Auto-deleveraging",
            "Fund: received and paid",
            "Who bore it",
        }
        for rule in rules("alert"):
            await chain.prometheus.query(rule["expr"])
        engine.process.terminate()
        assert engine.wait() == 0
