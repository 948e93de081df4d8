"""Where a shard's snapshots lie: one folder, written such that a crash leaves the old ones, read newest first.

A snapshot is written beside its place, forced to disk, and only then given its name; the folder is forced to disk as
well, since a name is the folder's data. What is half written never has a name that is looked at. Older snapshots go
once a newer one has been read back and verified.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.edges.snapshot import Snapshot, decode_snapshot, read_header
from engine.errors import SnapshotError, check


class SnapshotFolder:
    """The snapshots of one shard in a folder that may hold those of others."""

    def __init__(self, folder: Path, *, shard: int, keep: int = 3) -> None:
        check(keep >= 1, f"keep was {keep}, expected at least 1")
        self.folder = folder
        self.shard = shard
        self.keep = keep

    def path_of(self, batch: int) -> Path:
        """Return where the snapshot of a batch lies; names sort by number for whoever lists the folder."""
        return self.folder / f"shard-{self.shard}-{batch:019}.snapshot"

    def batches(self) -> list[int]:
        """Return the numbers of the snapshots there are by their names, newest first."""
        return sorted(self._numbers(r"\.snapshot"), reverse=True)

    def write(self, data: bytes, batch: int) -> Path:
        """Store a snapshot that stands at ``batch``, verify it, remove old ones, and return its path.

        The ``keep`` newest up to ``batch`` stay. Newer ones are none of this journal's; they stay too, for whoever has
        to find out whose they are. Raises SnapshotError if the disk does not take it; what was there is still there.
        """
        header = read_header(data)
        found = header.shard, header.position.batch
        check(found == (self.shard, batch), f"snapshot of shard and batch {found}, expected {(self.shard, batch)}")
        path = self.path_of(batch)
        with naming(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            for number in self._numbers(r"\.snapshot\.tmp"):
                temporary_of(self.path_of(number)).unlink()
            write_durably(path, data)
            if path.read_bytes() != data:
                path.unlink()
                raise SnapshotError("checksum", f"{path}: read back as other bytes than were written")
            for number in [number for number in self.batches() if number <= batch][self.keep :]:
                self.path_of(number).unlink()
        return path

    def newest(
        self, *, config_hash: str, batch_max: int, chain_of: Callable[[int], str | None]
    ) -> tuple[Snapshot | None, list[str]]:
        """Return the newest snapshot that can be gone on from, None if there is none, and why newer ones were not.

        It verifies, is of this shard and config, and its record is in the journal: no later than ``batch_max``, and
        with the hash that ``chain_of`` gives for its number (None: the journal does not hold that record).
        """
        skipped: list[str] = []
        for batch in self.batches():
            path = self.path_of(batch)
            try:
                with naming(path):
                    data = path.read_bytes()
                self._check_fits(data, config_hash, batch_max, chain_of)
                return decode_snapshot(data), skipped
            except SnapshotError as error:
                skipped.append(f"{path.name}: {error}")
        return None, skipped

    def _check_fits(self, data: bytes, config_hash: str, batch_max: int, chain_of: Callable[[int], str | None]) -> None:
        """Raise SnapshotError where a snapshot is not one of this shard, config and journal."""
        header = read_header(data)
        batch, chain = header.position.batch, header.position.chain
        if header.shard != self.shard:
            raise SnapshotError("foreign_shard", f"of shard {header.shard}, not {self.shard}")
        if header.config_hash != config_hash:
            raise SnapshotError("other_config", f"taken under {header.config_hash}, now it is {config_hash}")
        if batch > batch_max:
            raise SnapshotError("ahead", f"at batch {batch}, the journal ends with {batch_max}")
        known = chain_of(batch)
        if known is None:
            raise SnapshotError("other_journal", f"the journal does not hold batch {batch}")
        if known != chain:
            raise SnapshotError("other_journal", f"batch {batch} is {chain} here and {known} in the journal")

    def _numbers(self, ending: str) -> Iterator[int]:
        """Yield the batches of this shard's files with an ending."""
        name = re.compile(rf"shard-{self.shard}-([0-9]{{19}}){ending}")
        with naming(self.folder):
            names = [path.name for path in self.folder.iterdir()] if self.folder.exists() else []
        yield from (int(found[1]) for found in map(name.fullmatch, names) if found)


def temporary_of(path: Path) -> Path:
    """Return what a snapshot is called while it is being written."""
    return path.with_name(f"{path.name}.tmp")


def write_durably(path: Path, data: bytes) -> None:
    """Write a file such that after a crash its name stands for all of it or for what it stood for before."""
    temporary = temporary_of(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn an error of the disk into a SnapshotError that names the path."""
    try:
        yield
    except OSError as error:
        raise SnapshotError("disk", f"{path}: {error.strerror or error}") from error
