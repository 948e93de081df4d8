"""What keeps the admin API small: rings that hold so much, a budget of time, a door that lets in so many."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from engine.edges.codec import encode
from engine.edges.feed import KEPT_MAX, Ring
from engine.edges.fold import Line
from engine.shell.admin import door as doors
from engine.shell.admin.door import Door
from engine.shell.admin.limits import Budget
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
