"""``liq-engine play``: any log that ``replay`` reads, produced to the input topics at its own pace, or faster.

Keys and partitions are as on a venue's own feed: marks by symbol, fills and transfers by account, control to all.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from engine.core.events import (
    AssetPrice,
    Conversion,
    Event,
    Fill,
    Funding,
    Ignored,
    Mark,
    Message,
    OrderDone,
    Reject,
    Transfer,
)
from engine.core.params import Risk
from engine.edges.codec import decode, encode_event
from engine.edges.fold import Line
from engine.edges.readers import SymbolResolver, expand_paths, merge, open_log
from engine.edges.service_config import ServiceConfig
from engine.errors import InputError
from engine.shell.kafka import Kafka, PlainWriter
from engine.shell.topics import check_topics
from engine.units import NS_PER_S

# So many are handed over before the broker's answers are awaited: memory stays bounded.
WINDOW = 2000


def line_of(event: Event) -> Line:
    """Return an event as a record of its topic."""
    match event:
        case Mark() | Funding():
            return Line("mark-prices", event.symbol.encode(), encode_event(event))
        case AssetPrice():
            return Line("mark-prices", event.asset.encode(), encode_event(event))
        case Fill() | Conversion() | OrderDone():
            return Line("fills", event.account.encode(), encode_event(event))
        case Transfer():
            return Line("transfers", event.account.encode(), encode_event(event))
        case _:
            return Line("control", b"*", encode_event(event))


async def play(kafka: Kafka, messages: Iterable[Message], *, speed: float) -> Counter[str]:
    """Produce messages; ``speed`` 60 lets an hour of the log pass in a minute, 0 as fast as the broker takes it.

    Returns how many went to each topic, and how many lines of the log were none (``refused``, ``ignored``).
    """
    await check_topics(kafka)
    writer = PlainWriter(kafka)
    sent: list[asyncio.Future[object]] = []
    counts: Counter[str] = Counter()
    begun_s, first_ts = time.monotonic(), None
    try:
        await writer.start()
        for message in messages:
            event = message.event
            if isinstance(event, Reject | Ignored):
                counts["refused" if isinstance(event, Reject) else "ignored"] += 1
                continue
            first_ts = event.ts if first_ts is None else first_ts
            if speed > 0:
                wait_s = begun_s + (event.ts - first_ts) / NS_PER_S / speed - time.monotonic()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
            line = line_of(event)
            counts[line.topic] += 1
            sent += await writer.send(None, [line])
            if len(sent) >= WINDOW:
                await writer.wait(sent)
                sent.clear()
        await writer.wait(sent)
    finally:
        await writer.close()
    return counts


def play_logs(
    config: ServiceConfig, risk: Risk, events: Sequence[Path], *, format: str | None, speed: float
) -> dict[str, int]:
    """Produce logs, merged by time as ``replay`` merges them; return the counts of ``play``."""
    messages = open_all(risk, events, format=format, speed=speed)
    return dict(sorted(asyncio.run(play(Kafka(config), messages, speed=speed)).items()))


def open_all(risk: Risk, events: Sequence[Path], *, format: str | None, speed: float) -> Iterator[Message]:
    """Return the messages of logs, merged by time; raises InputError."""
    if not speed >= 0:
        raise InputError(f"--speed {speed:g}: must not be below 0")
    paths = expand_paths(list(events))
    if not paths:
        raise InputError("no event log: name at least one file or a folder that holds some")
    resolver = SymbolResolver(risk.instruments.values())
    return merge([open_log(path, format=format, resolve=resolver, decode=decode) for path in paths])


def play_text(counts: dict[str, int]) -> str:
    """Return the counts for a terminal."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "nothing to play"
