"""What a shard of several begins with: its part of the starting book, and the hash that names files and part.

An account belongs to the shard that its key is partitioned to. Each shard has a fund of its own: the book's
``insurance`` is shared out in equal parts, what does not divide goes to shard 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.core.params import Risk
from engine.core.shard import Shard, Venue
from engine.edges.bookfile import load_document, read_document
from engine.errors import InputError, check
from engine.units import format_scaled, try_number, try_scaled

PartitionOf = Callable[[str, int], int]


class BookSource:
    """A starting book, or none, for all shards; ``partition_of`` says whose an account is, where there are several."""

    def __init__(self, path: Path | None, *, shards: int = 1, partition_of: PartitionOf | None = None) -> None:
        check(shards == 1 or partition_of is not None, f"{shards} shards: partition_of is needed to divide the book")
        self.path = path
        self.shards = shards
        self.partition_of = partition_of

    def new_shard(self, risk: Risk, number: int, *, venue: Venue | None = None) -> Shard:
        """Return a shard with its part of the book; raises InputError as ``load_book`` does."""
        shard = Shard(risk, number=number, venue=venue)
        if self.path is not None:
            document = read_document(self.path)
            if self.partition_of is not None and self.shards > 1:
                document = self.part(document, number, self.partition_of, risk)
            load_document(shard, document, str(self.path))
        return shard

    def part(self, document: Any, number: int, partition_of: PartitionOf, risk: Risk) -> Any:
        """Return the accounts of one shard and its share of the fund."""
        if not isinstance(document, dict) or not isinstance(document.get("accounts", []), list):
            return document
        names = [entry.get("account") for entry in document.get("accounts", []) if isinstance(entry, dict)]
        own = sorted(name for name in names if isinstance(name, str) and name.startswith("$"))
        if own or "transfers" in document:
            raise InputError(
                f"{self.path}: a book with {', '.join(own) or 'transfers'} is one shard's whole state and cannot be "
                f"divided among {self.shards}; list accounts, positions and insurance only"
            )
        accounts = [
            entry
            for entry in document.get("accounts", [])
            if not isinstance(entry, dict)
            or not isinstance(entry.get("account"), str)
            or partition_of(entry["account"], self.shards) == number
        ]
        insurance = document.get("insurance", {})
        if isinstance(insurance, dict):
            insurance = {
                name: self.share(amount, risk.assets[name].decimals, number) if name in risk.assets else amount
                for name, amount in insurance.items()
            }
        return {**document, "accounts": accounts, "insurance": insurance}

    def share(self, amount: Any, decimals: int, number: int) -> Any:
        """Return one shard's part of an amount, in the smallest steps of its asset; what is none is the loader's."""
        parsed = try_number(str(amount)) if isinstance(amount, str | int) and not isinstance(amount, bool) else None
        steps = None if parsed is None else try_scaled(parsed, decimals)
        if steps is None:
            return amount
        part = steps // self.shards
        return format_scaled(steps - part * (self.shards - 1) if number == 0 else part, decimals)


def config_hash(risk: Path, book: Path | None, shards: int) -> str:
    """Return the SHA-256 over what a shard begins with: risk file (and the tiers file it names), book, shard count.

    Over the bytes of the files: what a comment says cannot change a result, but whether it can is not ours to judge.
    """
    digest = hashlib.sha256()
    for path in (risk, tiers_path(risk), book):
        if path is not None:
            data = read_bytes(path)
            digest.update(len(data).to_bytes(8, "big") + data)
        else:
            digest.update(b"-")
    digest.update(json.dumps({"shards": shards}).encode())
    return digest.hexdigest()


def tiers_path(risk: Path) -> Path | None:
    """Return the tiers file that a risk file names."""
    import tomllib

    name = tomllib.loads(read_bytes(risk).decode()).get("tiers_file")
    return risk.parent / name if isinstance(name, str) else None


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes; raises InputError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
