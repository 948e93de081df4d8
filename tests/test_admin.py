"""The admin server on real sockets: who is let in, what health says of each state, what a taken port does."""

from __future__ import annotations

import asyncio
import json
import math
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engine.edges.metrics.exposition import Exposition
from engine.shell.admin import limits, metrics
from engine.shell.admin.metrics import render
from engine.shell.admin.server import AdminServer
from engine.shell.follow import Standby
from engine.shell.service import Service
from tests.brokers.clients import until
from tests.brokers.real import Endpoint
from tests.prometheus import Prometheus
from tests.service_cases import Clock, Deployment, Process, Record, book_of, deposit, longs, mark, running

broker = pytest.mark.broker
TOKEN = "correct horse battery staple"
WRONG = [None, "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \udcff"]
OPEN = ("/livez", "/readyz")


@pytest.fixture
def service_of(tmp_path: Path) -> Callable[..., Service]:
    """Return a function that makes a service of two shards which has not been started, with keys of [admin]."""

    def make(**admin: Any) -> Service:
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        deployment = Deployment(tmp_path, "127.0.0.1:1", shards=2)
        return Service(deployment.write(admin={"port": 0, **admin}).config, range(2))

    return make


ServiceOf = Callable[..., Service]


@asynccontextmanager
async def asking(service: Service, host: str = "127.0.0.1") -> AsyncIterator[Callable[..., Any]]:
    """Serve, and yield a function that asks for a path and returns status and body."""
    async with AdminServer(service) as server, aiohttp.ClientSession(f"http://{host}:{server.port}") as session:

        async def ask(path: str, token: str | None = None, **headers: str) -> tuple[int, Any]:
            if token is not None:
                headers["Authorization"] = token
            async with session.get(path, headers=headers) as response:
                return response.status, json.loads(await response.read())

        yield ask


# --- who is let in


@pytest.mark.parametrize("path", OPEN)
@pytest.mark.parametrize("keys", [{}, {"token_file": "token"}])
async def test_health_is_open_over_loopback_with_and_without_a_token_configured(
    service_of: ServiceOf, path: str, keys: dict[str, str]
) -> None:
    async with asking(service_of(**keys)) as ask:
        status, _ = await ask(path)
        assert status in (200, 503)


@pytest.mark.parametrize("token", WRONG)
async def test_what_is_not_health_asks_for_the_token_over_loopback_too(
    service_of: ServiceOf, token: str | None
) -> None:
    async with asking(service_of(token_file="token")) as ask:
        assert (await ask("/v1/anything", f"Bearer {TOKEN}"))[0] == 404
        status, body = await ask("/v1/anything", token)
        assert (status, body["status"]) == (401, 401)


async def test_scrapes_at_the_same_time_are_rendered_one_after_the_other(
    service_of: ServiceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    running_now, most = 0, 0

    async def watched(exposition: Exposition) -> bytes:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        page = await render(exposition)
        running_now -= 1
        return page

    monkeypatch.setattr(metrics, "render", watched)
    monkeypatch.setattr(limits, "GAP_S", 0)
    async with AdminServer(service_of()) as server, aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:

        async def scrape() -> tuple[int, bool]:
            async with session.get("/metrics") as response:
                page = await response.text()
                return response.status, page.startswith("# HELP") and page.endswith("\n")

        assert await asyncio.gather(*(scrape() for _ in range(8))) == [(200, True)] * 8
    assert (most, running_now) == (1, 0)


async def test_without_a_token_configured_everything_is_open_over_loopback(service_of: ServiceOf) -> None:
    async with asking(service_of()) as ask:
        assert (await ask("/v1/anything"))[0] == 404


@pytest.mark.parametrize("path", [*OPEN, "/v1/anything"])
@pytest.mark.parametrize("token", WRONG)
async def test_over_the_network_health_asks_for_the_token_too(
    service_of: ServiceOf, path: str, token: str | None
) -> None:
    async with asking(service_of(host="0.0.0.0", token_file="token"), own_address()) as ask:
        assert (await ask(path, token))[0] == 401
        assert (await ask(path, f"Bearer {TOKEN}"))[0] != 401


async def test_a_probe_over_loopback_needs_no_token_although_the_network_does(service_of: ServiceOf) -> None:
    async with asking(service_of(host="0.0.0.0", token_file="token")) as ask:
        assert (await ask("/livez"))[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9464", "127.0.0.1.evil.example", "", "[::1"])
async def test_a_web_page_whose_name_points_here_reads_nothing(service_of: ServiceOf, host: str) -> None:
    async with asking(service_of()) as ask:
        assert (await ask("/readyz", Host=host))[0] in (400, 403)
        assert (await ask("/readyz", Host="localhost:1"))[0] == 503


def own_address() -> str:
    """Return an address of this machine that is not loopback; skips where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Of a datagram socket: nothing is sent.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address: str = probe.getsockname()[0]
    return address


async def test_what_does_not_exist_is_a_problem_document(service_of: ServiceOf) -> None:
    async with AdminServer(service_of()) as server, aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
        async with session.get("/nothing") as response:
            assert (response.status, response.content_type) == (404, "application/problem+json")
        async with session.post("/livez") as response:
            assert (response.status, response.content_type) == (405, "application/problem+json")
            assert response.headers["Allow"] == "GET,HEAD"


# --- the address


async def test_a_port_that_is_taken_is_named_and_ends_the_command_with_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with Process(Deployment(tmp_path, "127.0.0.1:1").write(admin={"port": port}), "run") as process:
            assert process.wait() == 2, process.text
    assert f"admin.port {port} on 127.0.0.1: Address already in use: name another in [admin]" in process.text


# --- what health says


async def states(server: AdminServer) -> tuple[int, list[str]]:
    """Return the status of /readyz and the states of the shards in it."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{server.port}/readyz") as response,
    ):
        return response.status, [shard["state"] for shard in (await response.json())["shards"]]


async def test_a_process_that_has_not_begun_is_alive_and_not_ready(service_of: ServiceOf) -> None:
    async with asking(service_of()) as ask:
        assert await ask("/livez") == (200, {"ok": True, "stuck": []})
        status, body = await ask("/readyz")
        assert status == 503
        assert [(shard["shard"], shard["state"], shard["ready"]) for shard in body["shards"]] == [
            (0, "starting", False),
            (1, "starting", False),
        ]


@pytest.mark.parametrize("state", ["following", "recovering", "draining", "stopped", "halted"])
async def test_one_shard_that_is_not_live_is_enough_to_be_not_ready(service_of: ServiceOf, state: str) -> None:
    service = service_of()
    make_live(service, 0, lag=0)
    make_live(service, 1, lag=0)
    async with asking(service) as ask:
        assert (await ask("/readyz"))[0] == 200
        service.statuses[1].enter(state)
        status, body = await ask("/readyz")
        assert (status, [shard["ready"] for shard in body["shards"]]) == (503, [True, False])
        assert (body["shards"][0]["lag"], body["shards"][1]["lag"]) == (0, None)


@pytest.mark.parametrize(("lag", "expected"), [(20_000, 200), (20_001, 503)])
async def test_ready_up_to_the_bound_of_the_lag_and_not_beyond(service_of: ServiceOf, lag: int, expected: int) -> None:
    service = service_of()
    make_live(service, 0, lag=0)
    make_live(service, 1, lag=lag)
    async with asking(service) as ask:
        status, body = await ask("/readyz")
        assert (status, body["shards"][1]["lag"], body["shards"][1]["lag_max"]) == (expected, lag, 20_000)


async def test_a_recovering_shard_says_how_long_it_will_take_at_its_pace(service_of: ServiceOf) -> None:
    service = service_of()
    status = service.statuses[0]
    status.enter("recovering")
    status.recovery.begin(100, 500)
    async with asking(service) as ask:
        assert (await ask("/readyz"))[1]["shards"][0]["eta_seconds"] is None
        # A quarter in twenty seconds: three quarters in sixty.
        status.recovery.began_s, status.recovery.reached = time.monotonic() - 20, 200
        assert (await ask("/readyz"))[1]["shards"][0]["eta_seconds"] == pytest.approx(60, abs=5)


async def test_a_live_shard_without_progress_is_not_alive_and_a_recovering_one_is(service_of: ServiceOf) -> None:
    service = service_of()
    make_live(service, 0, lag=0)
    make_live(service, 1, lag=0)
    long_ago_s = time.monotonic() - service.config.deadlines.progress_s - 1
    async with asking(service) as ask:
        assert (await ask("/livez"))[0] == 200
        service.statuses[1].progressed_s = long_ago_s
        status, body = await ask("/livez")
        assert (status, body["stuck"][0][:24]) == (503, "shard 1: no progress in ")
        service.statuses[1].enter("recovering")
        service.statuses[1].progressed_s = long_ago_s
        assert (await ask("/livez"))[0] == 200


async def test_a_loop_without_turns_is_not_alive(service_of: ServiceOf) -> None:
    service = service_of()
    service.beat_s -= service.config.deadlines.progress_s + 1
    async with asking(service) as ask:
        status, body = await ask("/livez")
        assert (status, body["stuck"][0][:14]) == (503, "the event loop")


def make_live(service: Service, shard: int, *, lag: int) -> None:
    """Have a shard say that it is live, with so many inputs before it."""

    async def find_lag() -> dict[str, int]:
        return {"fills": lag, "mark-prices": 0}

    service.statuses[shard].enter("live")
    service.statuses[shard].find_lag = find_lag


@broker
async def test_a_real_shard_is_ready_while_it_is_live_and_its_server_ends_with_it(
    kafka: Endpoint, tmp_path: Path
) -> None:
    deployment = Deployment(tmp_path, kafka.bootstrap).write()
    await deployment.create_topics()
    async with running(deployment) as run:
        port = run.service.admin.port
        assert await states(run.service.admin) == (200, ["live"])
        await deployment.feed(*longs("alice"), mark("99"))
        assert await run.service.statuses[0].lag() == {"fills": 0, "transfers": 0, "mark-prices": 0, "control": 0}
        assert await run.drain() == 0
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


# --- metrics


@broker
async def test_a_real_prometheus_scrapes_a_real_run_and_has_its_numbers(kafka: Endpoint, tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, kafka.bootstrap).write(book=book_of("alice", "bob"))
    await deployment.create_topics()
    tell = Clock()
    with Process(deployment, "run") as engine:
        await engine.wait_for("live", "shard=0")
        await deployment.feed(tell(mark("99")), tell(deposit("alice", "10")), tell(mark("95.9")))
        await deployment.feed(Record("fills", b"nobody", b"no message"))
        port = int(re.findall(r"INFO admin .*port=(\d+)", engine.text)[0])
        with scraper_of(tmp_path / "prometheus", port) as scraper:
            await until(lambda: scraper.finds('up{job="liq-engine"} == 1'))
            assert await scraper.finds('liq_state{shard="0",state="live"} == 1')
            assert await scraper.finds("liq_lag_records == 0")
            numbers = {
                "sum(liq_inputs_total)": 4,
                'liq_inputs_total{topic="mark-prices"}': 2,
                'liq_outputs_total{type="liquidation_order"}': 1,
                'liq_liquidations_started_total{cause="mark"}': 1,
                "liq_liquidations_open": 1,
                'liq_rejected_total{reason="bad_json"}': 1,
                'liq_insurance_fund_balance{asset="USDT"}': 1000,
                "liq_tick_to_decision_seconds_count": 4,
            }
            outputs = await deployment.outputs()
            assert len(outputs["liquidation-orders"]) == 2
            found = {query: await scraper.value(query) for query in numbers}
            assert found == numbers
            # The survey looks at both: alice has 19 for a margin of 9.59, bob 9.
            bands = 'sum(liq_accounts) == 2 and on() liq_accounts{band="liquidatable"} == 1'
            await until(lambda: scraper.finds(bands))
            await until(lambda: scraper.finds("histogram_quantile(0.99, liq_commit_seconds_bucket) > 0"))
        engine.process.terminate()
        assert engine.wait() == 0


def scraper_of(folder: Path, target_port: int) -> Prometheus:
    """Return a Prometheus that scrapes one address five times a second."""
    folder.mkdir()
    scrape = {"job_name": "liq-engine", "static_configs": [{"targets": [f"127.0.0.1:{target_port}"]}]}
    times = {"scrape_interval": "200ms", "scrape_timeout": "200ms"}
    return Prometheus(folder, {"global": times, "scrape_configs": [scrape]})


async def test_the_page_of_metrics_says_what_it_is_in_and_is_open_like_health(service_of: ServiceOf) -> None:
    async with (
        AdminServer(service_of(token_file="token")) as server,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{server.port}/metrics") as response,
    ):
        page = await response.text()
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'liq_state{shard="1",state="starting"} 1.0\n' in page


async def test_scrapes_at_the_same_time_do_not_mix(service_of: ServiceOf) -> None:
    async with AdminServer(service_of()) as server, aiohttp.ClientSession() as session:

        async def scrape() -> set[str]:
            async with session.get(f"http://127.0.0.1:{server.port}/metrics") as response:
                lines = (await response.text()).splitlines()
            names = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
            assert len(names) == len(set(names)) > 300
            return set(names)

        assert len({frozenset(names) for names in await asyncio.gather(*[scrape() for _ in range(8)])}) == 1


@broker
async def test_after_a_recovery_gauges_are_right_and_counters_begin_anew(kafka: Endpoint, tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, kafka.bootstrap).write(
        book=book_of("alice"), snapshots={"every_s": 86_400, "publish": False}
    )
    await deployment.create_topics()
    tell = Clock()
    async with running(deployment) as run:
        await deployment.feed(tell(mark("99")), tell(mark("95.9")))
        # The only one there will be.
        run.worker().snapshots.taken_s = -math.inf
        (first,) = run.service.metrics.shards.values()
        known = first.catalogue
        assert (known.started.get("0", "mark"), known.accepted.get("0")) == (1, 2)

        async def is_written() -> bool:
            return known.snapshots.get("0", "written") > 0

        await until(is_written)
        assert known.snapshot_bytes.get("0") > 0
        # Behind the snapshot: what the recovery folds.
        await deployment.feed(tell(mark("95.8")), tell(deposit("bob", "7")))
    async with running(deployment) as run:
        page = await page_of(run.service.admin)
        counters = ("accepted_total", "liquidations_started_total", "outputs_total", "tick_to_decision_seconds_count")
        for name in counters:
            assert {value for key, value in page.items() if key.startswith(f"liq_{name}{{")} == {0}, name
        assert page['liq_recovery_events{shard="0"}'] >= 2
        assert page['liq_recovery_seconds{shard="0"}'] > 0
        assert page['liq_liquidations_open{shard="0"}'] == 1
        assert page['liq_insurance_fund_balance{asset="USDT",shard="0"}'] == 1000
        assert page['liq_clock_timestamp_seconds{shard="0"}'] == pytest.approx(tell.last_ts / 1e9)
        assert page['liq_state{shard="0",state="live"}'] == 1
        assert page['liq_hash_mismatches_total{shard="0",what="journal"}'] == 0


async def page_of(server: AdminServer) -> dict[str, float]:
    """Return the numbers of a page by what stands before them."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{server.port}/metrics") as response,
    ):
        lines = [line.rpartition(" ") for line in (await response.text()).splitlines() if not line.startswith("#")]
    return {name: float(number) for name, _, number in lines}


async def test_a_standby_beside_the_owner_of_the_port_goes_on_and_listens_once_it_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = owner.getsockname()[1]
        config = Deployment(tmp_path, "127.0.0.1:1").write(admin={"port": port}).config
        standby = Standby(config, 0, None)
        await standby.listen()
        assert "no_admin" in caplog.text
        assert standby.service.admin.port is None
    await standby.listen()
    try:
        assert standby.service.admin.port == port
        assert await states(standby.service.admin) == (503, ["starting"])
    finally:
        await standby.service.admin.close()
