"""A Kafka broker in a thread of the test process that does what a fault plan says; to clients an address on loopback.

What it knows: topics, idempotent and transactional producers, read_committed, offsets of groups whose members assign
by hand. What it does not: groups that share partitions among members, replication, retention, compaction, disks.
Its state outlives ``stop`` and ``start``, as a node's disk would. It is never the only proof: ``test_brokers.py`` runs
the same tests against a real Kafka.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from io import BytesIO
from types import TracebackType
from typing import Any

from aiokafka.protocol.api import RequestHeader_v1
from aiokafka.protocol.types import Int32, TaggedFields

from engine.tools.kafka_broker import free_ports
from tests.brokers.faults import Action, Faults, Moment
from tests.brokers.requests import APIS, NAMES, State

START_TIMEOUT_S = 10.0
# How often it is asked which markers are due and which transactions are open for too long.
SWEEP_S = 0.01


class DroppedError(Exception):
    """A fault cut the connection."""


class Fake:
    """One fake broker; a context manager. ``faults`` is its plan, ``bootstrap`` its address, kept over restarts.

    ``marker_delay_s`` is how long after the answer to a commit its records become visible (``transactions.py``).
    """

    def __init__(self, *, marker_delay_s: float = 0.0) -> None:
        self.faults = Faults(APIS)
        self.state = State()
        self.state.transactions.marker_delay_s = marker_delay_s
        # What went wrong in the broker itself; ``stop`` raises the first.
        self.errors: list[BaseException] = []
        (self.state.port,) = free_ports(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def bootstrap(self) -> str:
        """Return the address for clients."""
        return f"{self.state.host}:{self.state.port}"

    def start(self) -> None:
        """Serve clients from a thread of its own, with what was kept before."""
        # Bound here: a port that is taken is the caller's error, and once this returns clients can connect.
        listener = socket.create_server((self.state.host, self.state.port))
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listener, started), name="fake-broker", daemon=True)
        self._thread.start()
        if not started.wait(START_TIMEOUT_S):
            raise RuntimeError(f"the fake broker did not start within {START_TIMEOUT_S} s")

    def stop(self) -> None:
        """Cut all connections and stop listening, in the middle of whatever is going on; keep the state.

        Raises what went wrong in the broker's own code.
        """
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        self.faults.resume()
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(self._stopping.set)
            thread.join()
        if self.errors:
            raise self.errors[0]

    def restart(self) -> None:
        """Stop and start: clients lose their connections and find the broker at the same address."""
        self.stop()
        self.start()

    def __enter__(self) -> Fake:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, listener: socket.socket, started: threading.Event) -> None:
        asyncio.run(self._serve(listener, started))

    async def _serve(self, listener: socket.socket, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        server = await asyncio.start_server(self._connected, sock=listener)
        started.set()
        while not await self._stopped_within(SWEEP_S):
            if self.state.transactions.settle():
                self._wake_readers()
        server.close()
        for task, writer in self._clients.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve_client(reader, writer))
        self._clients[task] = writer
        task.add_done_callback(self._disconnected)

    def _disconnected(self, task: asyncio.Task[None]) -> None:
        self._clients.pop(task).transport.abort()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(error)

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client's requests, one at a time and in order, as Kafka does."""
        try:
            while True:
                size = Int32.decode(BytesIO(await reader.readexactly(4)))
                frame = await reader.readexactly(size)
                answer = await self._answer(frame)
                writer.write(Int32.encode(len(answer)) + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, DroppedError):
            pass  # Somebody hung up: the client, or a fault.

    async def _answer(self, frame: bytes) -> bytes:
        """Return the answer to one request, faults included."""
        body = BytesIO(frame)
        header = RequestHeader_v1.SCHEMA.decode(body)
        key, version, correlation_id, client = header
        api = NAMES[key]
        request_type = APIS[api]
        if version != request_type.API_VERSION:
            raise ValueError(f"{api} came in version {version}, expected {request_type.API_VERSION}")
        if request_type.FLEXIBLE_VERSION:
            TaggedFields.decode(body)
        request = request_type.decode(body)
        self.faults.wait_while_paused()
        self.faults.note(api, client)
        refusal = await self._suffer("before", api, client)
        response = await self._apply(api, request, refusal)
        refusal = await self._suffer("after", api, client)
        if refusal:
            # What was done stays done; this second call does nothing but word the refusal.
            response = self.state.answers[api](request, refusal)
        tags = TaggedFields.encode({}) if request_type.FLEXIBLE_VERSION else b""
        return Int32.encode(correlation_id) + tags + bytes(response.encode())

    async def _apply(self, api: str, request: Any, refusal: int) -> Any:
        """Do what a request asks for; a fetch first waits for data as long as it allows."""
        if api == "Fetch" and not refusal:
            await self._wait_for_data(request)
        response = self.state.answers[api](request, refusal)
        if api in ("Produce", "EndTxn", "InitProducerId"):
            self._wake_readers()
        return response

    async def _wait_for_data(self, request: Any) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + request.max_wait_time / 1000
        while not self.state.is_worth_answering(request) and (left_s := deadline_s - loop.time()) > 0:
            changed = self._changed
            try:
                await asyncio.wait_for(changed.wait(), left_s)
            except TimeoutError:
                return

    def _wake_readers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _suffer(self, moment: Moment, api: str, client: str) -> int:
        """Go through the faults planned for this moment; return the error code to answer with, 0 for none."""
        code = 0
        for planned in self.faults.strike(moment, api, client):
            action: Action | None = planned
            while action is not None and action.kind == "run" and action.function is not None:
                action = action.function()
            if action is None:
                continue
            if action.kind == "drop":
                raise DroppedError
            if action.kind == "delay":
                await asyncio.sleep(action.seconds)
            code = action.code or code
        return code
