"""How a live shard looks at all its accounts beside its work: a few rows, then everybody else's turn, round by round.

The rows of a round are its own business (``core/survey.py``); what it reports is the status's, and the metrics show it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine.core.shard import Shard
from engine.core.survey import Survey
from engine.shell import oplog
from engine.shell.status import Status

# A row with four positions costs 2 to 3 us: under 0.2 ms a turn, with what each call costs by itself.
ROWS = 50
# Between two turns: no more than a tenth of the loop's time goes into looking. A million rows take a minute.
PAUSE_S = 0.002
# From the end of a round to the beginning of the next.
EVERY_S = 2.0


@asynccontextmanager
async def surveying(shard: Shard, status: Status) -> AsyncIterator[None]:
    """Survey a shard for the length of a block."""
    task = asyncio.create_task(survey_rounds(shard, status))
    task.add_done_callback(say_what_broke)
    try:
        yield
    finally:
        task.cancel()


async def survey_rounds(shard: Shard, status: Status) -> None:
    """Make one round after the other, for ever."""
    survey = Survey(shard)
    while True:
        report = survey.advance(ROWS)
        if report is not None:
            status.survey = report
            status.metrics.put_survey(report)
        await asyncio.sleep(PAUSE_S if report is None else EVERY_S)


def say_what_broke(task: asyncio.Task[None]) -> None:
    """Say what a survey died of that nobody foresaw: the shard goes on without."""
    broken = None if task.cancelled() else task.exception()
    if broken is not None:
        oplog.bug("no_survey", broken)
