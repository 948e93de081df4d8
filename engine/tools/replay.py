"""How event logs run through the core without a server: ``replay``, the same fold as live, files at both ends."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

from engine.core import ledger
from engine.core.book import INSURANCE_ROW
from engine.core.events import DEAD_LETTERS_TOPIC, OUTPUT_TOPICS, Mark, Message, Output, SetParams
from engine.core.machine import Machine
from engine.core.params import Instrument, Risk
from engine.core.shard import Shard
from engine.edges.book_dump import dump_book
from engine.edges.codec import decode, encode
from engine.edges.digest import state_hash
from engine.edges.line_file import LineFile, LineMarks
from engine.edges.readers import LogFile, SymbolResolver, expand_paths, merge, open_log
from engine.edges.report import ExposureSampler, RunRecorder
from engine.edges.risk_view import risk_fields
from engine.edges.shard_book import BookSource, PartitionOf
from engine.edges.venue import VENUES
from engine.errors import InputError
from engine.tools.alternatives import Alternative, others, policy_name
from engine.tools.progress import Progress
from engine.units import INT64_MAX, format_units

BATCH = 4096
RUN_FILE = "run.json"


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
    alternatives: bool = False


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
    run = Run(machine, options)
    writer = OutputWriter(options.out, run.recorder)
    with writer, Progress(fraction_of(logs), enabled=options.show_progress) as progress:
        for outputs, marks in fold(run, logs, messages):
            writer.write(outputs, marks)
            run.look()
            progress.update(shard.counters.messages, shard.counters.liquidations)
    ledger.check_conservation(shard.book)
    result = summary(shard, writer.digest.hexdigest(), run.timing)
    if options.out is not None:
        write_json(options.out / "final-book.json", dump_book(shard))
        write_json(options.out / "summary.json", result)
        write_json(options.out / RUN_FILE, run_document(options, logs))
        run.recorder.finish(run.sampler)
        notes = [log.note for log in logs]
        page = run.recorder.render(
            result,
            title=options.title,
            inputs=notes,
            risk_name=options.risk_name,
            alternatives=beside(options, logs, run, result) if options.alternatives else (),
        )
        (options.out / "report.html").write_text(page, encoding="utf-8")
    return result


def fraction_of(logs: Sequence[LogFile]) -> Callable[[], float]:
    """Return what says how much of the logs has been read, 0 to 1."""
    sizes = sum(log.size_bytes for log in logs) or 1
    return lambda: sum(log.progress() * log.size_bytes for log in logs) / sizes


def beside(options: ReplayOptions, logs: Sequence[LogFile], run: Run, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the figures of this run, and those of the same logs under other policies."""
    policy = options.risk.policy
    this = {**figures_of(result, run.recorder), "policy": policy_name(policy), "is_this_run": True}
    return [this, *(run_other(options, logs, other) for other in others(policy))]


def run_other(options: ReplayOptions, logs: Sequence[LogFile], other: Alternative) -> dict[str, Any]:
    """Return the figures of the logs under another policy; nothing is written. Raises as ``run_replay``."""
    risk = replace(options.risk, policy=other.policy)
    options = replace(options, risk=risk, out=None)
    shard = new_shard(options)
    shard.planner = other.planner
    run = Run(Machine(shard), options)
    with Progress(fraction_of(logs), enabled=options.show_progress) as progress:
        for outputs, _ in fold(run, logs):
            for output in outputs:
                run.recorder.on_output(output.topic, output.body)
            progress.update(shard.counters.messages, shard.counters.liquidations)
    ledger.check_conservation(shard.book)
    figures = figures_of(summary(shard, "", run.timing), run.recorder)
    return {**figures, "policy": other.name, "is_this_run": False}


def figures_of(result: dict[str, Any], recorder: RunRecorder) -> dict[str, Any]:
    """Return what the report compares: figures of the summary, and what only the outputs say."""
    keys = ("liquidations", "orders", "notional_liquidated", "bad_debt", "uncovered", "insurance", "adl")
    figures = {key: result[key] for key in keys}
    return {**figures, "accounts": recorder.total.accounts, "cost": f"{recorder.cost:f}"}


def run_document(options: ReplayOptions, logs: Sequence[LogFile]) -> dict[str, Any]:
    """Return what was run, so that two runs can be compared: hashes of log and book, and every parameter.

    The hash of the log is of its files' content in their order, uncompressed; null where messages came without files.
    """
    digest = hashlib.sha256()
    for log in logs:
        log.content_into(digest)
    return {
        "log_hash": digest.hexdigest() if logs else None,
        "book_hash": hashlib.sha256(options.book.read_bytes()).hexdigest() if options.book is not None else None,
        "shard": f"{options.shard}/{options.shards}",
        "venue": options.venue,
        "risk": risk_fields(options.risk),
    }


class Run:
    """A machine at work with what watches it: the clock of its batches, the report and the samples for it."""

    def __init__(self, machine: Machine, options: ReplayOptions) -> None:
        self.machine = machine
        self.batch = options.batch
        self.timing = Timing()
        self.is_shown = options.out is not None
        # All the log has made known so far, in the book's order; the report looks contracts up here.
        self.instruments: dict[str, Instrument] = dict(options.risk.instruments)
        self.recorder = RunRecorder(self.instruments)
        self.sampler = ExposureSampler(machine.shard)

    @property
    def messages(self) -> int:
        """How many messages have been applied."""
        return self.machine.shard.counters.messages

    @property
    def room(self) -> int:
        """How many messages may be applied before somebody has to look: a sample is of the same one in any batch."""
        return min(self.batch, self.sampler.messages_to_next) if self.is_shown else self.batch

    def note(self, seconds: float, messages: int) -> None:
        """Take note that messages were applied."""
        self.timing.note(seconds, messages)
        for instrument in self.machine.shard.book.instruments[len(self.instruments) :]:
            self.instruments[instrument.symbol] = instrument

    def look(self) -> None:
        """Take a sample for the report, if one is wanted and due."""
        if self.is_shown:
            self.sampler.look()


class Marks(Protocol):
    """The marks of a batch, to be shown to the report in step with its outputs, which it values at them."""

    def show(self, last: int) -> None:
        """Show those of the messages up to number ``last`` of all."""


class MessageMarks:
    """The marks among messages; ``names`` are the symbols known before them, and grow with those they bring."""

    def __init__(self, batch: Sequence[Message], before: int, names: set[str], run: Run) -> None:
        self.upcoming = deque(enumerate(batch, start=before + 1))
        self.names = names
        self.run = run

    def show(self, last: int) -> None:
        """Show those of the messages up to number ``last`` of all."""
        while self.upcoming and self.upcoming[0][0] <= last:
            event = self.upcoming.popleft()[1].event
            if isinstance(event, Mark) and event.symbol in self.names:
                mantissa, places = event.price
                self.run.recorder.on_mark(event.symbol, mantissa / 10**places, event.ts)
            elif isinstance(event, SetParams) and event.name in self.run.instruments:
                self.names.add(event.name)


def fold(
    run: Run, logs: Sequence[LogFile], messages: Iterator[Message] | None = None
) -> Iterator[tuple[list[Output], Marks]]:
    """Apply logs, or messages that somebody has read already, batch by batch."""
    if messages is None and len(logs) == 1 and logs[0].blocks is not None:
        return fold_lines(run, logs[0])
    return fold_messages(run, messages or merge(logs))


def fold_messages(run: Run, messages: Iterator[Message]) -> Iterator[tuple[list[Output], Marks]]:
    """Apply messages batch by batch; yield the outputs of each, and its marks."""
    names = set(run.instruments)
    while batch := list(islice(messages, run.room)):
        before, started_s = run.messages, time.perf_counter()
        outputs = run.machine.apply(batch)
        run.note(time.perf_counter() - started_s, len(batch))
        yield outputs, MessageMarks(batch, before, names, run)


def fold_lines(run: Run, log: LogFile) -> Iterator[tuple[list[Output], Marks]]:
    """Apply a log of nothing but messages block by block, its usual marks without a message each.

    Other logs wait for each other line by line, and vendors' rows are no lines of ours.
    """
    file = LineFile(log, run.machine.shard.book, batch=run.batch)
    for block in file.batches():
        begin = 0
        while begin < block.count:
            lines = block.part(begin, begin + run.room)
            before, started_s = run.messages, time.perf_counter()
            outputs = run.machine.fold(lines)
            run.note(time.perf_counter() - started_s, lines.count)
            yield outputs, LineMarks(lines, before, list(run.instruments), run.recorder)
            begin += lines.count
    yield run.machine.apply(file.broken), MessageMarks((), 0, set(), run)


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
            asset.name: format_units(book.wallet(INSURANCE_ROW, index))
            for index, asset in sorted(enumerate(book.assets), key=lambda pair: pair[1].name)
            if book.wallet(INSURANCE_ROW, index)
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
