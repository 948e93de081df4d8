"""How a live shard looks at all its accounts beside its work: a few rows, then everybody else's turn, round by round.

A loop that is at rest comes back every ``PAUSE_S``. Under load it comes back late, after one long batch or several:
then rows are looked at for ``LATE_SHARE`` of the delay, so that a round does not take as many batches as it has slices.

The rows of a round are its own business (``core/survey.py``); what it reports is the status's, and the metrics show it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine.core.ladders import SurveyOptions
from engine.core.shard import Shard
from engine.core.survey import Survey, SurveyReport
from engine.shell import oplog
from engine.shell.status import Status

# A row with four positions costs 2 to 3 us. With 200 symbols a turn takes 0.15 ms at the median, 0.4 ms at p99.
ROWS = 50
# Between two turns: no more than a tenth of the loop's time goes into looking. A million rows take a minute.
PAUSE_S = 0.002
# What decisions that have waited for a batch wait on top of that: one fiftieth of it, and never more than two
# milliseconds. Measured: 3,000 accounts between batches of 0.1 s take 1 s, and with one slice a batch 25 s.
LATE_SHARE, TURN_S_MAX = 0.02, 0.002
# From the end of a round to the beginning of the next.
EVERY_S = 2.0


@asynccontextmanager
async def surveying(shard: Shard, status: Status, options: SurveyOptions) -> AsyncIterator[None]:
    """Survey a shard for the length of a block."""
    task = asyncio.create_task(survey_rounds(shard, status, options))
    task.add_done_callback(say_what_broke)
    try:
        yield
    finally:
        task.cancel()


async def survey_rounds(shard: Shard, status: Status, options: SurveyOptions) -> None:
    """Make one round after the other, for ever."""
    survey = Survey(shard, options=options)
    due_s = time.monotonic()
    while True:
        report = look(survey, turn_s(late_s=time.monotonic() - due_s))
        if report is not None:
            status.survey = report
            status.metrics.put_survey(report)
        pause_s = PAUSE_S if report is None else EVERY_S
        due_s = time.monotonic() + pause_s
        await asyncio.sleep(pause_s)


def turn_s(*, late_s: float) -> float:
    """Return how long to look for in a turn that the event loop gave so late."""
    return min(late_s * LATE_SHARE, TURN_S_MAX)


def look(survey: Survey, seconds: float) -> SurveyReport | None:
    """Look at one slice, and at others until so much time has passed; return the report of a round that ends."""
    until_s = time.monotonic() + seconds
    while True:
        report = survey.advance(ROWS)
        if report is not None or time.monotonic() >= until_s:
            return report


def say_what_broke(task: asyncio.Task[None]) -> None:
    """Say what a survey died of that nobody foresaw: the shard goes on without."""
    broken = None if task.cancelled() else task.exception()
    if broken is not None:
        oplog.bug("no_survey", broken)
