"""The OpenAPI document is a valid one, and a real service answers whatever is made up from it as it says."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from engine.edges.openapi import openapi_document
from engine.shell.admin.server import build_app
from engine.shell.service import Service
from tests.brokers.fake import Fake
from tests.service_cases import Clock, Deployment, Process, longs, mark

DOCUMENT = openapi_document()
# A 503 is described (a shard that is not live, no survey yet); a 500 is not, and fails the first of them.
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
# A stream has no end to wait for; its tests are in test_admin_api.py.
ENDLESS = "/v1/events"
EXAMPLES = 40
PATHS = sorted(set(DOCUMENT["paths"]) - {ENDLESS})


def test_every_schema_of_the_document_is_one() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert "description" in schema or schema.get("type"), name


def test_every_route_of_v1_is_described_and_nothing_else(fake: Fake, tmp_path: Path) -> None:
    service = Service(Deployment(tmp_path, fake.bootstrap).write().config, [0])
    routes = {
        (resource.canonical, route.method.lower())
        for resource in build_app(service).router.resources()
        for route in resource
        if resource.canonical.startswith("/v1/") and route.method != "HEAD"
    }
    assert routes == {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a live service of a process of its own, with an account that is being liquidated."""
    folder = tmp_path_factory.mktemp("openapi")
    tell = Clock()
    with Fake() as fake:
        deployment = Deployment(folder, fake.bootstrap).write(admin={"port": 0, "loop_percent": 100})
        asyncio.run(deployment.create_topics())
        with Process(deployment, "run") as process:
            asyncio.run(process.wait_for(" live "))
            asyncio.run(deployment.feed(*map(tell, longs("alice", "bob")), tell(mark("95.9"))))
            port = re.search(r" admin host=\S+ port=(\d+)", process.text)
            assert port is not None, process.text
            yield f"http://127.0.0.1:{port[1]}"


@pytest.mark.parametrize("path", PATHS)
def test_whatever_is_asked_the_answer_is_as_described(url: str, path: str) -> None:
    """What is made up is mostly wrong, so most answers are problems; a few questions that are right come first."""
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    schema.config.update(base_url=url)
    statuses: Counter[int] = Counter()
    operation = next(iter(schema[path].values()))

    @given(case=operation.as_strategy())
    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
    def check(case: Any) -> None:
        response = case.call()
        statuses[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    check()
    # Somebody who is not let in, or is turned away, tests nothing.
    assert statuses.total() > statuses[401] + statuses[403] + statuses[429], statuses
    print(path, dict(statuses))
