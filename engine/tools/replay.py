"""How event logs run through the core without a server: ``replay``, the same fold as live, files at both ends."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

from engine.core import ledger
from engine.core.events import DEAD_LETTERS_TOPIC, INSURANCE, OUTPUT_TOPICS, Mark, Message, Output
from engine.core.machine import Machine
from engine.core.params import Risk
from engine.core.shard import Shard
from engine.edges.book_dump import dump_book
from engine.edges.codec import decode, encode
from engine.edges.digest import state_hash
from engine.edges.line_file import LineFile, LineMarks
from engine.edges.readers import LogFile, SymbolResolver, expand_paths, merge, open_log
from engine.edges.report import RunRecorder
from engine.edges.shard_book import BookSource, PartitionOf
from engine.edges.venue import VENUES
from engine.errors import InputError
from engine.tools.progress import Progress
from engine.units import INT64_MAX, format_units

BATCH = 4096


@dataclass(slots=True)
class ReplayOptions:
    """What a replay is asked to do; with ``shards`` above 1 it is one of them, with its part of the book."""

    events: list[Path]
    risk: Risk
    risk_name: str = "risk.toml"
    book: Path | None = None
    venue: str = "none"
    out: Path | None = None
    format: str | None = None
    title: str = "Replay"
    batch: int = BATCH
    verify_every: int = 0
    show_progress: bool = True
    shard: int = 0
    shards: int = 1
    partition_of: PartitionOf | None = None


@dataclass(slots=True)
class Timing:
    """How long batches took, per message, in microseconds of wall time inside the core."""

    started_s: float = field(default_factory=time.perf_counter)
    per_message_us: list[float] = field(default_factory=list)
    core_s: float = 0.0

    def note(self, seconds: float, messages: int) -> None:
        """Take the time of one batch."""
        self.core_s += seconds
        self.per_message_us.append(seconds / messages * 1e6)

    def summary(self, messages: int) -> dict[str, float]:
        """Return the figures of ``summary.json``; the only part that differs from run to run."""
        elapsed_s = time.perf_counter() - self.started_s
        ranked = sorted(self.per_message_us) or [0.0]
        return {
            "elapsed_s": round(elapsed_s, 3),
            "core_s": round(self.core_s, 3),
            "events_per_s": round(messages / elapsed_s, 1) if elapsed_s else 0.0,
            "batch_mean_us_p50": round(ranked[len(ranked) // 2], 3),
            "batch_mean_us_p99": round(ranked[len(ranked) * 99 // 100], 3),
            "batch_mean_us_max": round(ranked[-1], 3),
        }


def open_logs(options: ReplayOptions) -> list[LogFile]:
    """Return the event logs named on the command line, recognised; raises InputError."""
    resolver = SymbolResolver(options.risk.instruments.values())
    paths = expand_paths(options.events)
    if not paths:
        raise InputError("no event log: name at least one file or a folder that holds some")
    return [
        open_log(path, format=options.format, resolve=resolver, decode=decode, shard=options.shard) for path in paths
    ]


def new_shard(options: ReplayOptions) -> Shard:
    """Return a shard with the book loaded and the simulated venue attached."""
    if options.venue not in VENUES:
        raise InputError(f"venue {options.venue!r}: must be one of {', '.join(VENUES)}")
    venue = VENUES[options.venue]
    source = BookSource(options.book, shards=options.shards, partition_of=options.partition_of)
    return source.new_shard(options.risk, options.shard, venue=venue() if venue is not None else None)


def run_replay(options: ReplayOptions) -> dict[str, Any]:
    """Replay the logs; write the output files if ``out`` is set; return the summary.

    Raises InputError for files that cannot be used and InvariantError if money was not conserved.
    """
    return run_logs(options, open_logs(options))


def run_logs(options: ReplayOptions, logs: list[LogFile], messages: Iterator[Message] | None = None) -> dict[str, Any]:
    """Replay logs that are open, or messages that somebody has read already; see ``run_replay``."""
    shard = new_shard(options)
    machine = Machine(shard, verify_every=options.verify_every)
    recorder, timing = RunRecorder(options.risk.instruments), Timing()
    writer = OutputWriter(options.out, recorder)
    sizes = sum(log.size_bytes for log in logs) or 1
    if messages is None and len(logs) == 1 and logs[0].blocks is not None:
        batches = fold_lines(machine, logs[0], options, recorder, timing)
    else:
        batches = fold_messages(machine, messages or merge(logs), options, recorder, timing)

    def fraction() -> float:
        return sum(log.progress() * log.size_bytes for log in logs) / sizes

    with writer, Progress(fraction, enabled=options.show_progress) as progress:
        for outputs, marks in batches:
            writer.write(outputs, marks)
            progress.update(shard.counters.messages, shard.counters.liquidations)
    ledger.check_conservation(shard.book)
    result = summary(shard, writer.digest.hexdigest(), timing)
    if options.out is not None:
        write_json(options.out / "final-book.json", dump_book(shard))
        write_json(options.out / "summary.json", result)
        notes = [log.note for log in logs]
        page = recorder.render(result, title=options.title, inputs=notes, risk_name=options.risk_name)
        (options.out / "report.html").write_text(page, encoding="utf-8")
    return result


class Marks(Protocol):
    """The marks of a batch, to be shown to the report in step with its outputs, which it values at them."""

    def show(self, last: int) -> None:
        """Show those of the messages up to number ``last`` of all."""


class MessageMarks:
    """The marks among messages; ``names`` are the symbols that are shown."""

    def __init__(self, batch: Sequence[Message], before: int, names: Container[str], recorder: RunRecorder) -> None:
        self.upcoming = deque(enumerate(batch, start=before + 1))
        self.names = names
        self.recorder = recorder

    def show(self, last: int) -> None:
        """Show those of the messages up to number ``last`` of all."""
        while self.upcoming and self.upcoming[0][0] <= last:
            event = self.upcoming.popleft()[1].event
            if isinstance(event, Mark) and event.symbol in self.names:
                mantissa, places = event.price
                self.recorder.on_mark(event.symbol, mantissa / 10**places, event.ts)


def fold_messages(
    machine: Machine, messages: Iterator[Message], options: ReplayOptions, recorder: RunRecorder, timing: Timing
) -> Iterator[tuple[list[Output], Marks]]:
    """Apply messages batch by batch; yield the outputs of each, and its marks."""
    counters = machine.shard.counters
    while batch := list(islice(messages, options.batch)):
        before, started_s = counters.messages, time.perf_counter()
        outputs = machine.apply(batch)
        timing.note(time.perf_counter() - started_s, len(batch))
        yield outputs, MessageMarks(batch, before, options.risk.instruments, recorder)


def fold_lines(
    machine: Machine, log: LogFile, options: ReplayOptions, recorder: RunRecorder, timing: Timing
) -> Iterator[tuple[list[Output], Marks]]:
    """Apply a log of nothing but messages block by block, its usual marks without a message each.

    Other logs wait for each other line by line, and vendors' rows are no lines of ours.
    """
    names, counters = list(options.risk.instruments), machine.shard.counters
    file = LineFile(log, machine.shard.book, batch=options.batch)
    for lines in file.batches():
        before, started_s = counters.messages, time.perf_counter()
        outputs = machine.fold(lines)
        timing.note(time.perf_counter() - started_s, lines.count)
        yield outputs, LineMarks(lines, before, names, recorder)
    yield machine.apply(file.broken), MessageMarks((), 0, names, recorder)


class OutputWriter:
    """Writes output records to one file per topic, and hashes all of them in order of ``seq``."""

    def __init__(self, out: Path | None, recorder: RunRecorder) -> None:
        self.out = out
        self.recorder = recorder
        self.digest = hashlib.sha256()
        self.files: dict[str, IO[bytes]] = {}
        self.stack = ExitStack()

    def __enter__(self) -> OutputWriter:
        if self.out is not None:
            try:
                self.out.mkdir(parents=True, exist_ok=True)
                for topic in OUTPUT_TOPICS:
                    self.files[topic] = self.stack.enter_context((self.out / f"{topic}.jsonl").open("wb"))
            except OSError as error:
                raise InputError(f"{self.out}: cannot be written: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def write(self, outputs: list[Output], marks: Marks) -> None:
        """Write records, in order; where a report is wanted, show it each with the marks there were."""
        for output in outputs:
            line = encode(output.body) + b"\n"
            self.digest.update(line)
            if self.files:
                self.files[output.topic].write(line)
            if self.files and output.topic != DEAD_LETTERS_TOPIC:
                marks.show(output.message)
                self.recorder.on_output(output.topic, output.body)
        if self.files:
            marks.show(INT64_MAX)


def summary(shard: Shard, outputs_hash: str, timing: Timing) -> dict[str, Any]:
    """Return ``summary.json`` (README, "Files"); all but ``latency`` is the same on every run."""
    book, counters = shard.book, shard.counters
    fund = book.row_index[INSURANCE, ""]
    return {
        "messages": counters.messages,
        "accepted": counters.accepted,
        "rejected": dict(sorted(counters.rejected.items())),
        "duplicates": counters.duplicates,
        "ignored": counters.ignored,
        "fills": counters.fills,
        "orders": counters.orders,
        "liquidations": counters.liquidations,
        "notional_liquidated": format_units(counters.notional_liquidated),
        "bad_debt": {asset: format_units(units) for asset, units in sorted(counters.bad_debt.items()) if units},
        "uncovered": {asset: format_units(units) for asset, units in sorted(counters.uncovered.items()) if units},
        "insurance": {
            asset.name: format_units(book.wallet(fund, index))
            for index, asset in sorted(enumerate(book.assets), key=lambda pair: pair[1].name)
            if book.wallet(fund, index)
        },
        "adl": counters.adl,
        "conservation": {
            asset.name: {
                "wallets": format_units(total.wallets),
                "transfers": format_units(total.transfers),
                "difference": format_units(total.wallets - total.transfers),
            }
            for asset, total in sorted(
                zip(book.assets, ledger.totals(book), strict=True), key=lambda pair: pair[0].name
            )
            if total.wallets or total.transfers
        },
        "state_hash": state_hash(shard),
        "outputs_hash": outputs_hash,
        "latency": timing.summary(counters.messages),
    }


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document as one line of JSON and a newline."""
    path.write_bytes(encode(document) + b"\n")
