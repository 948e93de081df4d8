"""The long version of ``tests/test_service_chaos.py``: ``python -m tests.service.chaos`` prints a table.

Every scenario runs over a deployment of its own, on a Kafka node of its own (or the fake broker), and ends with the
checker and ``liq-engine audit``. ``--seed`` repeats a run's random choices; what the machine does between them differs.

    python -m tests.service.chaos                                  everything, with the full counts
    python -m tests.service.chaos --only kills zombies --kills 5   some of it, or less
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from random import SystemRandom
from typing import Any

from engine.edges.warmup import warm_up
from engine.tools.kafka_broker import Broker
from tests.brokers.fake import Fake
from tests.brokers.faults import TRANSACTIONAL, Moment
from tests.service.campaign import Campaign, campaign, inputs_text, negative_control
from tests.service.local import Death, every_boundary, killed_at, replaced_at, unknown_outcomes

MOMENTS: tuple[Moment, Moment] = ("before", "after")
COLUMNS = (34, 8, 9)


class Run:
    """What was asked for, and where it goes."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.seed: int = options.seed
        self.inputs: int = options.inputs

    async def on_kafka(self, name: str, moments: int, act: Callable[[Campaign, Broker, int], Awaitable[None]]) -> str:
        """Do something at so many moments of a campaign on a node of its own."""
        folder = self.folder / name
        with Broker(folder / "kafka") as broker:
            async with campaign(folder / "run", broker.bootstrap, seed=self.seed, inputs_per_shard=self.inputs) as one:
                for moment in one.moments(moments):
                    await act(one, broker, moment)
                verdicts = await one.finish()
        return inputs_text(verdicts)

    async def kills(self) -> str:
        """SIGKILL at random moments."""
        return await self.on_kafka("kills", self.options.kills, lambda one, _, moment: one.kill(moment))

    async def zombies(self) -> str:
        """SIGSTOP, and SIGCONT once another has taken over: at once and after a long sleep in turn."""
        is_long = True

        async def zombie(one: Campaign, _: Broker, moment: int) -> None:
            nonlocal is_long
            is_long = not is_long
            await one.zombie(moment, is_long=is_long)

        return await self.on_kafka("zombies", self.options.zombies, zombie)

    async def restarts(self) -> str:
        """Broker restarts, clean and by SIGKILL in turn."""
        is_clean = False

        async def restart(one: Campaign, broker: Broker, moment: int) -> None:
            nonlocal is_clean
            is_clean = not is_clean
            await one.restart_broker(broker, clean=is_clean, taken=moment)

        return await self.on_kafka("restarts", self.options.restarts, restart)

    async def cut(self) -> str:
        """A broker that stands still."""
        return await self.on_kafka("cut", 1, lambda one, broker, at: one.cut(broker, self.options.cut, taken=at))

    async def control(self) -> str:
        """A zombie that nobody fences."""
        folder = self.folder / "control"
        with Broker(folder / "kafka") as broker:
            said = await negative_control(
                folder / "run", broker.bootstrap, seed=self.seed, inputs_per_shard=self.inputs
            )
        return f"caught: {said}"

    async def boundaries(self) -> str:
        """Cut off at every request, replaced, back as a zombie."""
        return await self.on_fake(replaced_at)

    async def sigkills(self) -> str:
        """SIGKILL at every request."""
        return await self.on_fake(killed_at)

    async def on_fake(self, death: Death) -> str:
        """Let a shard die at every request that it sends; a fake broker for each API."""
        runs = 0
        for moment in MOMENTS:
            for api in TRANSACTIONAL:
                with Fake() as fake:
                    folder = self.folder / death.__name__
                    runs += len(await every_boundary(death, fake, folder, moment, api, seed=self.seed))
        return f"{runs} runs, one for each boundary of {', '.join(TRANSACTIONAL)}"

    async def outcomes(self) -> str:
        """Commits without an answer."""
        said = []
        for moment in MOMENTS:
            with Fake() as fake:
                folder = self.folder / f"outcomes-{moment}"
                verdict = await unknown_outcomes(fake, folder, moment, self.options.outcomes, seed=self.seed)
            said.append(f"{moment}: {inputs_text([verdict])}")
        return "; ".join(said)


def scenarios(run: Run) -> dict[str, tuple[str, Callable[[], Coroutine[Any, Any, str]]]]:
    """Return all scenarios by name: what they do, in words and in deed."""
    options = run.options
    return {
        "kills": (f"{options.kills} SIGKILLs", run.kills),
        "zombies": (f"{options.zombies} zombies", run.zombies),
        "restarts": (f"{options.restarts} broker restarts", run.restarts),
        "cut": (f"broker stands still for {options.cut:g} s", run.cut),
        "sigkills": ("SIGKILL at every request", run.sigkills),
        "boundaries": ("zombie at every request", run.boundaries),
        "outcomes": (f"2 x {options.outcomes} unknown outcomes", run.outcomes),
        "control": ("negative control", run.control),
    }


def row(cells: Sequence[str]) -> str:
    """Return a line of the table."""
    return "  ".join([*(cell.ljust(width) for cell, width in zip(cells, COLUMNS, strict=False)), cells[-1]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios one after the other; return 1 if one of them found something wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.service.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--zombies", type=int, default=10)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--cut", type=float, default=20.0, metavar="SECONDS")
    parser.add_argument("--outcomes", type=int, default=100)
    parser.add_argument("--inputs", type=int, default=20_000, help="inputs a shard (20000)")
    parser.add_argument("--seed", type=int, default=SystemRandom().getrandbits(32))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some scenarios of all")
    options = parser.parse_args(arguments)
    # What the client tries again is the point of it all, and shards that halt are meant to.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("liq-engine").setLevel(logging.CRITICAL)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="liq-chaos-") as folder:
        chosen = scenarios(Run(options, Path(folder)))
        unknown = sorted(set(options.only or ()) - set(chosen))
        if unknown:
            parser.error(f"unknown scenarios {', '.join(unknown)}; there are {', '.join(chosen)}")
        warm_up()
        print(f"seed {options.seed}", flush=True)
        print(row(("scenario", "verdict", "seconds", "what was done")), flush=True)
        for name in options.only or chosen:
            said, act = chosen[name]
            started_s = time.monotonic()
            try:
                verdict, found = "exact", asyncio.run(act())
            except AssertionError as error:
                verdict, found = "WRONG", str(error)
                failed += 1
            print(row((said, verdict, f"{time.monotonic() - started_s:.1f}", found)), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
