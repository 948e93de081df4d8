"""When a live shard takes snapshots, and which one a starting shard goes on from.

A snapshot is taken by a forked child: it holds the state of that instant while the parent goes on, which loses no more
than the time of the fork (its pages are copied only where either writes). The child also finds the hash of the whole
state, which the next order record notes, for ``liq-engine audit``. Then the file is published in chunks to the
``snapshots`` topic, so that a lost disk is not a lost shard.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from engine.edges.codec import encode, load_json
from engine.edges.digest import state_hash
from engine.edges.fold import Fold, Line
from engine.edges.journal import JOURNAL_TOPIC, Checked, record_hash
from engine.edges.metrics.shard import ShardMetrics
from engine.edges.snapshot import Snapshot, chunks, encode_snapshot, join_chunks, read_header
from engine.edges.snapshot_files import SnapshotFolder
from engine.errors import LiqEngineError, SnapshotError
from engine.shell import oplog
from engine.shell.kafka import Kafka, Place, PlainWriter

SNAPSHOTS_TOPIC = "snapshots"
MANIFEST = "manifest"
# Published in turn: while one set of chunks is being replaced, and so is none, the other is whole.
SLOTS = ("even", "odd")
# A record of the journal that a snapshot names is there at once or not at all.
PROBE_MS = 2000
# So far back from the end of a journal there surely is a record.
TAIL = 100


class Snapshots:
    """The snapshots of one shard: folder, child that writes one, task that publishes one."""

    def __init__(self, kafka: Kafka, shard: int, config_hash: str, metrics: ShardMetrics) -> None:
        self.kafka = kafka
        self.config = kafka.config.snapshots
        self.shard = shard
        self.config_hash = config_hash
        self.metrics = metrics
        self.folder = SnapshotFolder(self.config.folder, shard=shard, keep=self.config.keep)
        self.taken_s = time.monotonic()
        self.taken_batch = 0
        self.child: Child | None = None
        self.checked: Checked | None = None
        self.publishing: asyncio.Task[None] | None = None
        self.slot = SLOTS[0]

    async def newest(self) -> Snapshot | None:
        """Return the newest snapshot that can be gone on from: of the folder, else of the topic; None without one."""
        snapshot = await self._newest_of_folder()
        if snapshot is None and await self._fetch():
            snapshot = await self._newest_of_folder()
        return snapshot

    async def _newest_of_folder(self) -> Snapshot | None:
        chains: dict[int, str] = {}
        for batch in self.folder.batches():
            try:
                header = read_header(self.folder.path_of(batch).read_bytes())
            except (SnapshotError, OSError):
                # The folder says why it is of no use, when it comes to it.
                continue
            chain = await chain_at(self.kafka, self.shard, header.position.journal_offset)
            if chain is not None:
                chains[batch] = chain
        snapshot, skipped = self.folder.newest(
            config_hash=self.config_hash, batch_max=await self._last_batch(), chain_of=chains.get
        )
        for reason in skipped:
            oplog.error("snapshot_skipped", shard=self.shard, reason=reason)
            self.metrics.count_mismatch("snapshot")
        return snapshot

    async def _last_batch(self) -> int:
        """Return the number of the journal's last record, 0 without one."""
        # A marker of a transaction takes an offset of its own, one that was aborted those of its records, too.
        batch = 0
        async for record in self.kafka.committed_records(Place(JOURNAL_TOPIC, self.shard), last_offsets=TAIL):
            batch = load_json(record.value)["batch"]
        return batch

    async def _fetch(self) -> bool:
        """Bring the published snapshot to the folder; return whether there was a whole one."""
        records = self.kafka.committed_records(Place(SNAPSHOTS_TOPIC, self.shard))
        latest: dict[str, bytes] = {record.key.decode(): record.value async for record in records}
        stored = [self._store(slot, latest) for slot in SLOTS]
        return any(stored)

    def _store(self, slot: str, latest: Mapping[str, bytes]) -> bool:
        """Put the snapshot of a slot into the folder; return whether there was a whole one."""
        manifest = latest.get(f"{slot}/{MANIFEST}")
        if manifest is None:
            return False
        names = (name.removeprefix(f"{slot}/") for name in latest if name.startswith(f"{slot}/"))
        pieces = {int(name): latest[f"{slot}/{name}"] for name in names if name.isdecimal()}
        try:
            data = join_chunks(manifest, pieces)
            path = self.folder.write(data, read_header(data).position.batch)
        except SnapshotError as error:
            oplog.error("snapshot_skipped", shard=self.shard, reason=f"{SNAPSHOTS_TOPIC}-{self.shard} {slot}: {error}")
            self.metrics.count_mismatch("snapshot")
            return False
        oplog.info("snapshot_fetched", shard=self.shard, path=path, bytes=len(data))
        return True

    def take_checked(self) -> Checked | None:
        """Return the state hash that was found since the last call."""
        checked, self.checked = self.checked, None
        return checked

    def tend(self, fold: Fold) -> None:
        """Take a snapshot if one is due, between two batches; see to the one under way."""
        if self.child is not None:
            self._reap(self.child)
        elif time.monotonic() >= self.taken_s + self.config.every_s and fold.position.batch > self.taken_batch:
            self.taken_s, self.taken_batch = time.monotonic(), fold.position.batch
            self.child = Child(self, fold)

    def _reap(self, child: Child) -> None:
        result = child.try_result()
        if result is None:
            return
        self.child = None
        if "error" in result:
            oplog.error("snapshot_failed", shard=self.shard, batch=child.batch, reason=result["error"])
            self.metrics.count_snapshot("failed")
            return
        seconds = round(time.monotonic() - child.started_s, 3)
        oplog.info(
            "snapshot", shard=self.shard, batch=child.batch, seconds=seconds, fork_ms=child.fork_ms, path=result["path"]
        )
        self.checked = Checked(child.batch, result["state_hash"])
        self.metrics.put_snapshot(Path(result["path"]).stat().st_size)
        if self.config.publish and (self.publishing is None or self.publishing.done()):
            self.publishing = asyncio.create_task(self._publish(Path(result["path"]).read_bytes()))

    async def _publish(self, data: bytes) -> None:
        """Send a snapshot to its topic, the manifest last; a failure is said, and the next one tried."""
        writer = PlainWriter(self.kafka)
        slot = self.slot = SLOTS[SLOTS.index(self.slot) - 1]
        try:
            manifest, pieces = chunks(data, self.kafka.config.kafka.message_bytes_max)
            await writer.start()
            for number, piece in enumerate(pieces):
                await writer.wait(
                    await writer.send(self.shard, [Line(SNAPSHOTS_TOPIC, f"{slot}/{number}".encode(), piece)])
                )
            last = Line(SNAPSHOTS_TOPIC, f"{slot}/{MANIFEST}".encode(), manifest)
            await writer.wait(await writer.send(self.shard, [last]))
            self.metrics.count_snapshot("published")
        except (LiqEngineError, OSError) as error:
            oplog.error("snapshot_not_published", shard=self.shard, reason=error)
            self.metrics.count_snapshot("not_published")
        finally:
            await writer.close()

    async def close(self) -> None:
        """End what is under way; a snapshot half written is nothing, a manifest not sent vouches for none."""
        if self.child is not None:
            self.child.kill()
            self.child = None
        if self.publishing is not None:
            self.publishing.cancel()
            await asyncio.gather(self.publishing, return_exceptions=True)


async def chain_at(kafka: Kafka, shard: int, offset: int) -> str | None:
    """Return the hash of the record at an offset of a shard's journal, None if there is none."""
    place = Place(JOURNAL_TOPIC, shard)
    first, last = await kafka.edges([place])
    if not first[place] <= offset < last[place]:
        return None
    async with kafka.reader({place: offset}, what=JOURNAL_TOPIC) as reader:
        records = await reader.read(wait_ms=PROBE_MS, records_max=1)
    return record_hash(records[0].value) if records and records[0].offset == offset else None


class Child:
    """A forked copy of this process that writes one snapshot and ends."""

    def __init__(self, snapshots: Snapshots, fold: Fold) -> None:
        self.batch = fold.position.batch
        self.started_s = time.monotonic()
        self.said = b""
        self.pipe, child_end = os.pipe()
        os.set_blocking(self.pipe, False)
        self.pid = os.fork()
        if self.pid == 0:
            write_and_exit(snapshots, fold, child_end)
        os.close(child_end)
        self.fork_ms = round((time.monotonic() - self.started_s) * 1000, 1)

    def try_result(self) -> dict[str, str] | None:
        """Return what the child has to say once it has ended, None before."""
        try:
            while part := os.read(self.pipe, 65_536):
                self.said += part
        except BlockingIOError:
            return None
        os.waitpid(self.pid, 0)
        os.close(self.pipe)
        try:
            result: dict[str, str] = load_json(self.said)
        except ValueError:
            return {"error": "the child process died"}
        return result

    def kill(self) -> None:
        """End the child."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.pipe)


def write_and_exit(snapshots: Snapshots, fold: Fold, pipe: int) -> NoReturn:
    """Write a snapshot, say how it went, and end without running anything of the parent's."""
    # A look of the garbage collector at what is alive would copy every page of it.
    gc.disable()
    # What the parent has open would stay open after its end: an address it listens on could not be had again.
    os.closerange(3, pipe)
    os.closerange(pipe + 1, os.sysconf("SC_OPEN_MAX"))
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.nice(5)
    result = {"error": "failed without a word"}
    try:
        data = encode_snapshot(fold.shard, config_hash=snapshots.config_hash, position=fold.position)
        path = snapshots.folder.write(data, fold.position.batch)
        result = {"path": str(path), "state_hash": state_hash(fold.shard)}
    except (LiqEngineError, OSError, MemoryError) as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    finally:
        os.write(pipe, encode(result))
        os._exit(0)
