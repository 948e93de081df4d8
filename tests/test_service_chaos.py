"""An input affects the outputs once, whatever is killed: processes, brokers, requests, at moments drawn from a seed.

The short version of ``python -m tests.service.chaos``. What the shards wrote is read with a plain client and folded
again by ``tests/service/checker.py``, which must call the negative control wrong, and anything that was tampered with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import SystemRandom

import pytest

from engine.core.events import BAD_DEBT_TOPIC, EVENTS_TOPIC, FEES, ORDERS_TOPIC
from engine.core.shard import Shard
from engine.edges.warmup import warm_up
from engine.tools.kafka_broker import Broker
from tests.brokers.fake import Fake
from tests.brokers.faults import TRANSACTIONAL, Moment
from tests.brokers.real import Endpoint
from tests.service.campaign import campaign, negative_control
from tests.service.checker import Difference, Evidence, Verdict, gather, judge
from tests.service.harness import until
from tests.service.local import every_boundary, is_done, local, replaced_at, unknown_outcomes, worker_of

KILLS, ZOMBIES, OUTCOMES = 8, 2, 10
INPUTS = 2_500


@pytest.fixture
def seed(record_property: Callable[[str, object], None]) -> int:
    """Return a fresh seed, printed with a failure: ``python -m tests.service.chaos --seed`` takes it."""
    number = SystemRandom().getrandbits(32)
    print(f"seed {number}")
    record_property("seed", number)
    return number


def expect_work(verdicts: Sequence[Verdict], inputs: int) -> None:
    """Fail unless every shard had enough to do, orders and refusals among it."""
    for verdict in verdicts:
        assert verdict.inputs >= inputs, verdict
        assert all(verdict.outputs.values()), verdict


@pytest.mark.broker
async def test_shards_killed_at_random_moments_and_then_hung_write_each_output_once(
    kafka: Endpoint, tmp_path: Path, seed: int
) -> None:
    async with campaign(tmp_path, kafka.bootstrap, seed=seed, inputs_per_shard=INPUTS) as one:
        moments = one.moments(KILLS + ZOMBIES)
        for moment in moments[:KILLS]:
            await one.kill(moment)
        for number, moment in enumerate(moments[KILLS:]):
            await one.zombie(moment, is_long=number % 2 == 1)
        verdicts = await one.finish()
    expect_work(verdicts, INPUTS)


@pytest.mark.broker
async def test_shards_live_through_a_broker_that_is_restarted_and_one_that_is_killed(
    own_kafka: Broker, tmp_path: Path, seed: int
) -> None:
    async with campaign(tmp_path, own_kafka.bootstrap, seed=seed, inputs_per_shard=INPUTS) as one:
        for clean, moment in zip((True, False), one.moments(2), strict=True):
            await one.restart_broker(own_kafka, clean=clean, taken=moment)
        verdicts = await one.finish()
    expect_work(verdicts, INPUTS)


@pytest.mark.broker
async def test_an_engine_that_fences_nobody_is_caught_by_the_checker(
    kafka: Endpoint, tmp_path: Path, seed: int
) -> None:
    said = await negative_control(tmp_path, kafka.bootstrap, seed=seed, inputs_per_shard=INPUTS)
    # The second of two records for one place in the journal.
    assert "batch" in said, said


@pytest.mark.parametrize("api", TRANSACTIONAL)
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_shard_cut_off_at_any_request_is_replaced_and_fenced_when_it_comes_back(
    fake: Fake, tmp_path: Path, seed: int, moment: Moment, api: str
) -> None:
    warm_up()
    verdicts = await every_boundary(replaced_at, fake, tmp_path, moment, api, seed=seed)
    # One request to begin with; of each other at least one for the genesis and one for each of two batches.
    assert len(verdicts) >= (1 if api == "InitProducerId" else 3)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_commit_whose_outcome_is_unknown_is_found_done_or_undone_and_gone_on_from(
    fake: Fake, tmp_path: Path, seed: int, moment: Moment
) -> None:
    warm_up()
    verdict = await unknown_outcomes(fake, tmp_path, moment, OUTCOMES, seed=seed)
    assert verdict.batches > OUTCOMES


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evidence, Callable[[], Shard]]:
    """Return what a shard has written in a run without faults, and what it began with."""

    async def undisturbed() -> tuple[Evidence, Callable[[], Shard]]:
        with Fake() as broker:
            async with local(tmp_path_factory.mktemp("sound"), broker, seed=5, inputs=200) as going:
                await going.send(going.deployment.workload.lines)
                worker = worker_of(going.deployment, "only")
                life = asyncio.create_task(worker.run())
                await until(lambda: life.done() or is_done(going), "all inputs to be taken")
                worker.draining.set()
                await life
                (found,) = await gather(going.deployment)
                return found, worker.origin.new_shard

    warm_up()
    return asyncio.run(undisturbed())


def test_a_run_without_faults_is_as_it_must_be(evidence: tuple[Evidence, Callable[[], Shard]]) -> None:
    found, new_shard = evidence
    verdict = judge(found, new_shard)
    expect_work([verdict], 200)
    assert verdict.batches == len(found.journal) - 1 > 3


def with_output(found: Evidence, topic: str, change: Callable[[list], list]) -> Evidence:
    return replace(found, outputs={**found.outputs, topic: change(list(found.outputs[topic]))})


def with_unread_input(found: Evidence) -> Evidence:
    place = ("fills", 0)
    records = dict(found.inputs[place])
    end = max(records) + 1
    records[end] = replace(records[end - 1], offset=end)
    return replace(found, inputs={**found.inputs, place: records})


TAMPERED: dict[str, tuple[Callable[[Evidence], Evidence], str]] = {
    "an order is lost": (lambda found: with_output(found, ORDERS_TOPIC, lambda one: one[:-1]), "outputs, the inputs"),
    "an order comes twice": (lambda found: with_output(found, ORDERS_TOPIC, lambda one: [*one, one[-1]]), "outputs, t"),
    "two events are swapped": (
        lambda found: with_output(found, EVENTS_TOPIC, lambda one: [one[1], one[0], *one[2:]]),
        "output 0 is",
    ),
    "a digit of a deficit differs": (
        lambda found: with_output(
            found,
            BAD_DEBT_TOPIC,
            lambda one: [(one[0][0], one[0][1].replace(b'"deficit":"', b'"deficit":"9')), *one[1:]],
        ),
        "output 0 is",
    ),
    "an order has another key": (
        lambda found: with_output(found, ORDERS_TOPIC, lambda one: [(b"another", one[0][1]), *one[1:]]),
        "output 0 is another",
    ),
    "a batch is missing": (
        lambda found: replace(found, journal=[*found.journal[:2], *found.journal[3:]]),
        "expected 2",
    ),
    "a batch comes twice": (lambda found: replace(found, journal=[*found.journal, found.journal[-1]]), "expected"),
    "the journal begins anew": (lambda found: replace(found, journal=[*found.journal, found.journal[0]]), "second gen"),
    "the journal is empty": (lambda found: replace(found, journal=[]), "the journal is empty"),
    "an input was never taken": (with_unread_input, "it ends at"),
    "an offset was moved": (
        lambda found: replace(found, committed={**found.committed, ("control", 0): 0}),
        "committed 0",
    ),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_the_checker_names_what_was_tampered_with(evidence: tuple[Evidence, Callable[[], Shard]], case: str) -> None:
    found, new_shard = evidence
    tamper, said = TAMPERED[case]
    with pytest.raises(Difference, match=said):
        judge(tamper(found), new_shard)


def test_the_checker_notices_a_unit_of_money_that_came_from_nowhere(
    evidence: tuple[Evidence, Callable[[], Shard]],
) -> None:
    found, new_shard = evidence

    def richer_shard() -> Shard:
        shard = new_shard()
        # The fees are in no output: only the sum of all wallets can show it.
        shard.book.system[FEES][0] += 1
        return shard

    with pytest.raises(Difference, match="wallets"):
        judge(found, richer_shard)
