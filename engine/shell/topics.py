"""``liq-engine topics``: the declared topics, created where they are missing and compared where they exist."""

from __future__ import annotations

import asyncio

from engine.edges.service_config import ServiceConfig
from engine.edges.topics import TOPICS, FoundTopic, differences, expected_settings, partition_count
from engine.errors import InputError
from engine.shell.kafka import Kafka

NAMES = tuple(spec.name for spec in TOPICS)
RETRY_S, RETRIES = 0.1, 100


def create(config: ServiceConfig) -> list[str]:
    """Create what is missing; return what is then still not as declared. Nothing that exists is changed."""
    kafka = Kafka(config)
    wanted = {spec.name: FoundTopic(partition_count(config, spec), expected_settings(config, spec)) for spec in TOPICS}

    async def create_and_check() -> list[str]:
        found = await kafka.found_topics(NAMES)
        missing = {name: topic for name, topic in wanted.items() if name not in found}
        if missing:
            await kafka.create_topics(missing)
        found = await kafka.found_topics(NAMES)
        for _ in range(RETRIES):
            # What was created takes a moment to be told of.
            if len(found) == len(NAMES):
                break
            await asyncio.sleep(RETRY_S)
            found = await kafka.found_topics(NAMES)
        return differences(config, found)

    return asyncio.run(create_and_check())


def check(config: ServiceConfig) -> list[str]:
    """Return what is not as declared, with the remedy."""

    async def find() -> list[str]:
        return differences(config, await Kafka(config).found_topics(NAMES))

    return asyncio.run(find())


async def check_topics(kafka: Kafka) -> None:
    """Raise InputError, with the remedy, where the topics are not as declared."""
    problems = differences(kafka.config, await kafka.found_topics(NAMES))
    if problems:
        raise InputError("topics: " + "; ".join(problems))
