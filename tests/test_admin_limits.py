"""What keeps the admin API small: rings that hold so much, a budget of time, gates, a door that lets in so many."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from engine.edges.codec import encode
from engine.edges.feed import KEPT_MAX, Ring
from engine.edges.fold import Line
from engine.shell.admin import door as doors
from engine.shell.admin import limits
from engine.shell.admin.door import Door
from engine.shell.admin.limits import Budget, Gate, limit, one_by_one
from tests.brokers.clients import until


def lines(count: int, kind: str = "margin_call", size: int = 0) -> list[Line]:
    return [Line("margin-events", b"a", encode({"type": kind, "pad": "x" * size})) for _ in range(count)]


def numbers(ring: Ring, after: int, count_max: int = 100, bytes_max: int = 1 << 20) -> list[int]:
    return [event.seq for event in ring.read(after, count_max=count_max, bytes_max=bytes_max)]


def test_a_ring_holds_the_last_outputs_and_says_which_they_are() -> None:
    ring = Ring(events_max=4)
    assert (ring.first_seq, numbers(ring, 0)) == (1, [])
    ring.publish(3, lines(3))
    assert (ring.first_seq, numbers(ring, 0), numbers(ring, 2), numbers(ring, 3)) == (1, [1, 2, 3], [3], [])
    ring.publish(3, [])
    ring.publish(6, lines(3))
    assert (ring.first_seq, ring.last_seq, numbers(ring, 0)) == (3, 6, [3, 4, 5, 6])
    assert numbers(ring, 3, count_max=2) == [4, 5]


def test_a_ring_is_bounded_in_bytes_and_a_read_gives_at_least_one_output() -> None:
    ring = Ring(bytes_max=2_500)
    ring.publish(3, lines(3, size=1_000))
    assert numbers(ring, 0) == [2, 3]
    assert numbers(ring, 1, bytes_max=10) == [2]
    assert ring.size_bytes == sum(len(event.data) for event in ring.events) <= 2_500


def test_a_shard_that_comes_to_life_elsewhere_in_its_numbers_begins_anew() -> None:
    ring = Ring()
    ring.publish(3, lines(3))
    ring.begin(3)
    assert numbers(ring, 0) == [1, 2, 3]
    ring.begin(5)
    assert (ring.first_seq, numbers(ring, 0)) == (6, [])
    ring.publish(6, lines(1))
    assert numbers(ring, 5) == [6]


def test_what_is_kept_beside_the_ring_outlives_it_and_is_bounded() -> None:
    ring = Ring(events_max=1)
    ring.publish(1, lines(1, "bad_debt"))
    ring.publish(200, lines(199, "insurance_fund"))
    assert [event.seq for event in ring.kept["bad_debt"]] == [1]
    assert [event.seq for event in ring.kept["insurance_fund"]] == list(range(201 - KEPT_MAX, 201))


@pytest.mark.parametrize(("charge_s", "share"), [(0.2, 0.1), (1.05, 0.5)])
def test_a_budget_that_is_used_up_is_waited_for_at_its_share(charge_s: float, share: float) -> None:
    budget = Budget(share=share, burst_s=0.05)
    assert budget.wait_s() == 0
    budget.charge(charge_s)
    wanted_s = (charge_s - 0.05) / share
    assert wanted_s / 2 < budget.wait_s() <= wanted_s
    # So much later it is there again, and never more than the burst.
    budget.filled_s -= wanted_s + 1_000
    assert budget.wait_s() == 0
    assert budget.left_s == 0.05


class Turns:
    """Counts the turns of the event loop."""

    def __init__(self) -> None:
        self.count = 0
        self.task = asyncio.create_task(self._count())

    async def _count(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


@pytest.fixture
async def turns() -> AsyncIterator[Turns]:
    """Count turns for the length of a test."""
    counted = Turns()
    yield counted
    counted.task.cancel()


async def test_who_comes_at_once_passes_a_gate_in_order_each_in_a_turn_of_its_own(turns: Turns) -> None:
    gate, passed = Gate(gap_s=0), []

    async def come(number: int) -> None:
        await gate.pass_through()
        passed.append((number, turns.count))

    await asyncio.gather(*(come(number) for number in range(10)))
    assert [number for number, _ in passed] == list(range(10))
    assert len({turn for _, turn in passed}) == 10


async def test_who_is_held_back_comes_no_sooner_and_who_gives_up_leaves_no_gap() -> None:
    loop, gate = asyncio.get_running_loop(), Gate(gap_s=0.01)
    begun_s = loop.time()
    first, given_up, last = [asyncio.create_task(gate.pass_through(0.03)) for _ in range(3)]
    await asyncio.sleep(0)
    given_up.cancel()
    await first
    assert round(loop.time() - begun_s, 6) >= 0.03
    await last
    assert round(loop.time() - begun_s, 6) >= 0.04


@asynccontextmanager
async def answering(*middlewares: Middleware, turns: Turns) -> AsyncIterator[tuple[int, list[int]]]:
    """Yield the port of a server behind ``middlewares``, and in which turns of the loop requests were taken up."""
    taken_up = []

    async def answer(_: web.Request) -> web.Response:
        taken_up.append(turns.count)
        return web.Response()

    app = web.Application(middlewares=middlewares)
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1], taken_up
    finally:
        await runner.cleanup()


async def ask_at_once(port: int, path: str, count: int) -> list[bytes]:
    """Have so many connections ask before the loop can look at any of them; return the first lines of the answers."""
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    for _, writer in streams:
        writer.write(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
    answers = [await reader.readline() for reader, _ in streams]
    for _, writer in streams:
        writer.close()
    return answers


@pytest.mark.parametrize("path", ["/v1/marks", "/livez", "/nowhere"])
async def test_requests_that_come_at_once_are_taken_up_in_turns_of_their_own(
    path: str, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "GAP_S", 0)
    async with answering(one_by_one(), turns=turns) as (port, taken_up):
        assert await ask_at_once(port, path, 20) == [b"HTTP/1.1 200 OK\r\n"] * 20
        assert len(set(taken_up)) == 20


async def test_refusals_are_let_go_one_by_one_and_take_half_of_the_share(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DELAY_S", 0)
    budget = Budget(share=0.5)
    budget.charge(1_000)
    let_go = []

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        let_go.append((turns.count, asyncio.get_running_loop().time()))
        return response

    async with answering(note, limit(budget), turns=turns) as (port, taken_up):
        assert set(await ask_at_once(port, "/v1/marks", 20)) == {b"HTTP/1.1 429 Too Many Requests\r\n"}
    assert (taken_up, len({turn for turn, _ in let_go})) == ([], 20)
    # Each costs 0.5 ms, of the loop's time a quarter may go into them: 2 ms for each.
    assert round(let_go[-1][1] - let_go[0][1], 6) >= 19 * 0.002


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[web.Server, int]]:
    """Yield a server behind a door, and its port."""

    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="here")

    server = web.Server(answer)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    port = listener.getsockname()[1]
    door = Door(server, listener)
    try:
        yield server, port
    finally:
        await door.close()
        await server.shutdown(0)


async def test_who_knocks_too_often_waits_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "BURST", 3)
    monkeypatch.setattr(doors, "PER_S", 0.001)
    async with opened() as (server, port):
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]

        async def are_in() -> bool:
            return len(server.connections) >= 4

        # Three at once, one that finds nothing left and has the next ones wait.
        await until(are_in)
        for _, writer in streams:
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert all([(await reader.readline()).startswith(b"HTTP/1.1 200") for reader, _ in streams[:4]])
        assert len(server.connections) == 4
        for _, writer in streams:
            writer.close()


async def test_one_connection_too_many_is_closed_and_room_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "CONNECTIONS_MAX", 2)
    async with opened() as (server, port):
        first, second, third = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        assert await third[0].read() == b""
        first[1].close()

        async def is_room() -> bool:
            return len(server.connections) < 2

        await until(is_room)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        for _, other in (second, third, (reader, writer)):
            other.close()
