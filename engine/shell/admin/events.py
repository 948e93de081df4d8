"""``/v1/events``: the outputs of committed batches as they come, as server-sent events.

    id     the place in the stream after this event, ``shard:seq`` for each shard asked for, commas between
    event  the output's type
    data   the output, byte for byte as it stands in its topic

Last-Event-ID resumes there, as far as the ring reaches back (``edges/feed.py``); what is gone by then is named by a
``gap`` event, and stands in the topics. Who reads too slowly to keep within the ring is told so by ``dropped`` and cut
off. Streams look at the rings some times a second and take a bounded amount each time: nobody waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping

from aiohttp import web

from engine.edges.codec import encode
from engine.edges.feed import Event, Ring
from engine.shell.admin.answers import RETRY, answering, number_in, refuse
from engine.shell.admin.served import Served

STREAMS_MAX = 16
# How often a stream looks whether there is something, and how much it then takes at most: 5 MB a second.
PACE_S, EVENTS_MAX, BYTES_MAX = 0.05, 500, 256 * 1024
# A comment now and then tells both ends, and whatever stands between, that the connection lives.
HEARTBEAT_S = 10.0
# A client that takes nothing for so long is gone.
WRITE_S = 30.0
PLACE_CHARS_MAX = 4_000

Places = dict[int, int]


class Streams:
    """All event streams of a process."""

    def __init__(self, service: Served) -> None:
        self.service = service
        self.open_count = 0
        self.is_closing = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer ``/v1/events`` until the client hangs up, reads too slowly, or the service ends."""
        rings = self.rings(request)
        kinds = {kind for text in request.query.getall("type", []) for kind in text.split(",")}
        places = self.begin(request, rings)
        if self.open_count >= STREAMS_MAX:
            raise refuse(429, f"{STREAMS_MAX} streams are open, as many as there may be", code="streams", headers=RETRY)
        self.open_count += 1
        try:
            return await self.stream(request, rings, places, kinds)
        finally:
            self.open_count -= 1

    def rings(self, request: web.Request) -> dict[int, Ring]:
        """Return the ring of the shard that a request names, or of all of this process."""
        rings = {number: status.ring for number, status in self.service.statuses.items()}
        if "shard" not in request.query:
            return rings
        number = number_in(request, "shard", 0, high=self.service.config.shards - 1)
        if number not in rings:
            raise refuse(421, f"shard {number} is served by another process", code="other_process")
        return {number: rings[number]}

    def begin(self, request: web.Request, rings: Mapping[int, Ring]) -> Places:
        """Return where a stream begins: after Last-Event-ID, or with what comes next."""
        given = request.headers.get("Last-Event-ID", request.query.get("last_event_id", ""))
        known = places_in(given) if given else {}
        # A number beyond the end is of another cluster: as good as none.
        return {shard: min(known.get(shard, ring.last_seq), ring.last_seq) for shard, ring in rings.items()}

    async def stream(
        self, request: web.Request, rings: Mapping[int, Ring], places: Places, kinds: set[str]
    ) -> web.StreamResponse:
        """Write what comes; a connection that breaks is the usual end."""
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        with contextlib.suppress(ConnectionError, TimeoutError):
            await response.prepare(request)
            await self.write(response, [beat(places), *gaps("gap", rings, places)])
            written_s = time.monotonic()
            while not self.is_closing:
                if lost := gaps("dropped", rings, places):
                    await self.write(response, lost)
                    return response
                frames = take(rings, places, kinds)
                if not frames and time.monotonic() >= written_s + HEARTBEAT_S:
                    frames = [beat(places)]
                if frames:
                    await self.write(response, frames)
                    written_s = time.monotonic()
                await asyncio.sleep(PACE_S)
        return response

    async def write(self, response: web.StreamResponse, frames: list[bytes]) -> None:
        """Write frames; raises TimeoutError where the client takes nothing."""
        async with asyncio.timeout(WRITE_S):
            await response.write(b"".join(frames))

    async def close(self, _: web.Application) -> None:
        """Have all streams end: the service does."""
        self.is_closing = True


def take(rings: Mapping[int, Ring], places: Places, kinds: set[str]) -> list[bytes]:
    """Return what has come since, as frames, and move the places on; all types where none is named."""
    frames = []
    for shard, ring in rings.items():
        for event in ring.read(places[shard], count_max=EVENTS_MAX, bytes_max=BYTES_MAX):
            places[shard] = event.seq
            if not kinds or event.kind in kinds:
                frames.append(frame(places, event))
    return frames


def gaps(kind: str, rings: Mapping[int, Ring], places: Places) -> list[bytes]:
    """Return an event for each shard of which something after its place is gone; the place moves past that."""
    frames = []
    for shard, ring in rings.items():
        if places[shard] + 1 < ring.first_seq:
            lost = {"shard": shard, "first_seq": places[shard] + 1, "last_seq": ring.first_seq - 1}
            places[shard] = ring.first_seq - 1
            frames.append(frame(places, Event(places[shard], kind, encode(lost))))
    return frames


def frame(places: Places, event: Event) -> bytes:
    """Return an event as it is written."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (place_text(places), event.kind.encode(), event.data)


def beat(places: Places) -> bytes:
    """Return a sign of life, which also tells the client how far it has come."""
    return b": alive\nid: %b\n\n" % place_text(places)


def place_text(places: Places) -> bytes:
    """Return the places as an event's id."""
    return ",".join(f"{shard}:{seq}" for shard, seq in places.items()).encode()


def places_in(text: str) -> Places:
    """Return the places that an id says; raises RefusedError where it is none."""
    places = {}
    for part in text[:PLACE_CHARS_MAX].split(","):
        shard, _, seq = part.partition(":")
        if not (part.isascii() and shard.isdecimal() and seq.isdecimal() and len(part) < 40):
            raise refuse(400, f"Last-Event-ID was {text[:40]!r}, expected shard:seq", code="bad_number")
        places[int(shard)] = int(seq)
    return places


def add_routes(app: web.Application, service: Served) -> None:
    """Add the route of events."""
    streams = Streams(service)
    app.router.add_get("/v1/events", answering(streams.answer))
    app.on_shutdown.append(streams.close)
