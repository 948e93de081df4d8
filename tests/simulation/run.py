"""Run simulated markets: ``python -m tests.simulation.run [SEED ...]`` prints what a seed breaks, with its shrunk plan.

A run goes over its messages one by one under the judge, while the generator looks on and makes the next. The book it
leaves must load again to the same book. One run in ``AGAIN`` goes over its messages once more, in batches of seven
through a plain shard, and another one through a shard that has everybody looked at by every price, without the trigger
index: both must give the same outputs and state.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context

from engine.core.events import Ignored, Message, Origin, Output
from engine.core.machine import Machine
from engine.core.params import Risk, build_asset, build_instrument, build_policy
from engine.core.shard import Shard
from engine.edges.book_dump import dump_book
from engine.edges.bookfile import load_document
from engine.edges.codec import decode, encode
from engine.edges.digest import state_hash
from engine.edges.venue import VENUES
from engine.errors import LiqEngineError
from tests.simulation.invariants import Judge
from tests.simulation.market import Market
from tests.simulation.oracle import Document, Oracle
from tests.simulation.outputs import Broken, WatchedShard
from tests.simulation.plan import Plan, plan_text, save_plan, shrink
from tests.simulation.prices import Prices
from tests.simulation.watch import HEARD_VENUES, parse, watching

LOG = "plan.jsonl"
BATCH = 7
AGAIN = 8
SEEDS = 256
EVENTS = 2000
QUICK_EVENTS = 300
# What a bug of the engine or a broken law raises; anything else (memory, an interrupt) ends the run.
BREAKS = (AssertionError, LiqEngineError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError)


@dataclass
class Result:
    """What became of one run."""

    plan: Plan
    checks: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    # Reasons, causes, outcomes, and the shape of the market.
    seen: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    processor_s: float = 0.0
    law: str | None = None
    detail: str = ""


def risk_of(document: Document) -> Risk:
    """Return the risk parameters of a plan."""
    return Risk(
        policy=build_policy(document["policy"]),
        assets={name: build_asset(name, fields) for name, fields in document["assets"].items()},
        instruments={name: build_instrument(name, fields) for name, fields in document["instruments"].items()},
    )


def message_of(line: bytes, number: int) -> Message:
    """Return a line of a plan as the machine takes it."""
    return Message(Origin(LOG, -1, number), decode(line) or Ignored(), line)


class Simulation:
    """One market under the judge."""

    def __init__(self, plan: Plan) -> None:
        heard = HEARD_VENUES[plan.venue]
        venue = heard() if heard is not None else None
        self.shard = WatchedShard(risk_of(plan.risk), venue=venue)
        if plan.book is not None:
            load_document(self.shard, plan.book, "plan")
        oracle = Oracle(self.shard.book, plan.risk)
        self.judge = Judge(self.shard, oracle, Prices(oracle.risk, plan.book))
        self.shard.judge = self.judge
        if plan.book is not None:
            self.judge.check_loaded(plan.book)
        if venue is not None:
            venue.judge = self.judge
        self.machine = Machine(self.shard)
        self.plan = plan
        self.outputs: list[Output] = []

    def tell(self, line: bytes) -> list[Output]:
        """Apply one message and check every law; return what it caused."""
        judge, counters = self.judge, self.shard.counters
        judge.expect(parse(line))
        event = message_of(line, len(self.plan.lines) + 1)
        self.plan.lines.append(line)
        before = counters.accepted, counters.duplicates, counters.ignored
        outputs = self.machine.apply([event])
        after = counters.accepted, counters.duplicates, counters.ignored
        verdict = ("accepted", "duplicate", "ignored", "rejected")[
            next((index for index in range(3) if after[index] != before[index]), 3)
        ]
        judge.learn(verdict, [output.body["type"] for output in outputs])
        self.outputs += outputs
        return outputs

    def finish(self) -> None:
        """Check what must hold of the run as a whole."""
        judge, shard = self.judge, self.shard
        for row in range(len(shard.book.accounts)):
            judge.check_reference(row)
        dump = json.loads(encode(dump_book(shard)))
        judge.law("a book loads again", reload(shard, dump) == dump, "the book it dumps is another")
        if self.plan.seed % AGAIN == 0:
            self.run_again("batching", BATCH)
        elif self.plan.seed % AGAIN == AGAIN // 2:
            self.run_again("looking at everybody", 1, is_scanned=True)

    def run_again(self, what: str, batch: int, *, is_scanned: bool = False) -> None:
        """Run the messages once more without anybody looking on; ``what`` is the difference that must make none."""
        judge, shard, kind = self.judge, self.shard, VENUES[self.plan.venue]
        plain = Shard(risk_of(self.plan.risk), venue=kind() if kind is not None else None)
        plain.book.is_scanned = is_scanned
        if self.plan.book is not None:
            load_document(plain, self.plan.book, "plan")
        machine, outputs = Machine(plain), []
        messages = [message_of(line, number) for number, line in enumerate(self.plan.lines, start=1)]
        for start in range(0, len(messages), batch):
            outputs += machine.apply(messages[start : start + batch])
        judge.law(f"{what} changes no output", outputs == self.outputs, first_difference(outputs, self.outputs))
        judge.law(f"{what} changes no state", state_hash(plain) == state_hash(shard), "another state hash")


def reload(shard: Shard, dump: Document) -> Document:
    """Return the dump of a shard that has loaded a dump, under the parameters now in force."""
    book = shard.book
    risk = Risk(
        policy=book.policy,
        assets={asset.name: asset for asset in book.assets},
        instruments={instrument.symbol: instrument for instrument in book.instruments},
    )
    again = Shard(risk)
    load_document(again, dump, "dump")
    document: Document = json.loads(encode(dump_book(again)))
    return document


def first_difference(found: list[Output], expected: list[Output]) -> object:
    """Return the first pair of outputs that differ."""
    pairs = zip(found, expected, strict=False)
    return next((pair for pair in pairs if pair[0] != pair[1]), (len(found), len(expected)))


def run_plan(plan: Plan) -> Result:
    """Run the messages of a plan."""
    fresh = replace(plan, lines=[])
    return judge_run(fresh, iter(plan.lines))


def run_seed(seed: int, events: int = EVENTS) -> Result:
    """Make a market from a seed and run it."""
    market = Market(seed)
    plan = Plan(risk=market.risk, venue=market.venue, seed=seed, book=market.book, lines=[])
    return judge_run(plan, market.lines(events), market)


def judge_run(plan: Plan, lines: Iterator[bytes], market: Market | None = None) -> Result:
    """Run messages one by one until they end or break something."""
    started_s = time.process_time()
    result, simulation = Result(plan), None
    # Nothing here leaves cycles behind worth looking for two thousand times.
    gc.disable()
    try:
        simulation = Simulation(plan)
        if market is not None:
            market.watch(simulation.judge)
        with watching(simulation.judge):
            for line in lines:
                outputs = simulation.tell(line)
                if market is not None:
                    market.hear(outputs)
        simulation.finish()
    except BREAKS as error:
        result.law = error.law if isinstance(error, Broken) else place_of(error)
        result.detail = str(error)
    finally:
        gc.enable()
    if simulation is not None:
        result.checks = simulation.judge.checks
        result.kinds = Counter(output.body["type"] for output in simulation.outputs)
        result.seen = seen_in(plan, simulation.outputs)
    result.messages, result.processor_s = len(plan.lines), time.process_time() - started_s
    return result


def seen_in(plan: Plan, outputs: list[Output]) -> Counter[str]:
    """Return what a run has shown, by name."""
    shape = "no book" if plan.book is None else f"book, clock {'set' if plan.book['ts'] else 'unset'}"
    seen = Counter([f"venue {plan.venue}", shape])
    for output in outputs:
        for key in ("reason", "cause", "outcome", "stage"):
            if key in output.body:
                seen[f"{output.body['type']} {output.body[key]}"] += 1
    return seen


def place_of(error: BaseException) -> str:
    """Return an error's kind and the function it came from: by this two runs that fail alike are told."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f"{type(error).__name__} in {frame.tb_frame.f_code.co_name}" if frame else type(error).__name__


def explain(result: Result) -> str:
    """Return what a broken run broke, with its shrunk plan, which is kept for the tests."""
    law = result.law
    if run_plan(result.plan).law != law:
        return f"seed {result.plan.seed} broke: {result.detail}\nbut its messages alone do not: look at the generator"
    small = shrink(result.plan, lambda plan: run_plan(plan).law == law)
    again = run_plan(small)
    where = save_plan(small, "".join(char if char.isalnum() else "-" for char in law or ""))
    return f"seed {result.plan.seed} broke: {again.detail or result.detail}\n{where}\n{plan_text(small)}"


def run_seeds(seeds: Sequence[int], events: int = EVENTS, workers: int = 2) -> list[Result]:
    """Run many seeds on some processes; of those that break nothing the messages are not kept."""
    # Spawned, not forked: numba's threads do not survive a fork, and newer Pythons warn of it.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        return list(pool.map(run_light, seeds, [events] * len(seeds), chunksize=2))


def run_light(seed: int, events: int) -> Result:
    """Run a seed in a worker process."""
    result = run_seed(seed, events)
    return result if result.law else replace(result, plan=replace(result.plan, lines=[]))


def closing_line(results: Sequence[Result]) -> str:
    """Return what was run, in one line."""
    checks = sum((result.checks for result in results), Counter[str]())
    outputs = sum(result.kinds.total() for result in results)
    messages, seconds = sum(result.messages for result in results), sum(result.processor_s for result in results)
    return (
        f"{len(results)} seeds, {messages:,} messages, {outputs:,} outputs, {checks.total():,} checks of {len(checks)} "
        f"laws after every message ({checks['figures of the reference']:,} rows recounted in fractions), "
        f"{seconds:.0f} s of processor time"
    )


def main(arguments: list[str]) -> int:
    """Run the seeds named, or all, and explain each that breaks a law not yet explained.

    ``--quick N`` runs short markets of the first N seeds and stops at the first that breaks anything, without shrinking
    it.
    """
    if arguments[:1] == ["--quick"]:
        quick = (run_seed(seed, QUICK_EVENTS) for seed in range(int(arguments[1])))
        result = next((result for result in quick if result.law), None)
        print(result.detail if result else "every law holds")
        return int(result is not None)
    results = run_seeds([int(text) for text in arguments] or range(SEEDS))
    laws: set[str] = set()
    for result in results:
        if result.law is not None:
            seen = f"seed {result.plan.seed} broke: {result.law}"
            print(seen if result.law in laws else explain(result), flush=True)
            laws.add(result.law)
    print(dict(sum((result.kinds for result in results), Counter[str]())))
    print(closing_line(results))
    return int(bool(laws))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
