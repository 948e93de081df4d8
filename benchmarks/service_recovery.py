"""How long a killed shard takes to be live again: from the start of the process, part by part.

1. A service with a book of so many accounts takes a snapshot, then ends in good order.
2. It runs again and takes no snapshot any more, while so many events come: marks, fills and transfers, 8 to 1 to 1.
3. When all are committed it is killed (SIGKILL), and started once more: that is what is timed.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks.service_market import MIX, Traffic
from benchmarks.service_site import Journal, Site, send_all, sender

FULL_EVENTS = 1_000_000
# What the log says at the end of each part.
PARTS = {
    "imports": "warming",
    "kernels": "warm",
    "fencing": "recovering",
    "snapshot": "snapshot_loaded",
    "fold": "recovered",
    "opening": "live",
}
SOON = {"snapshots": {"every_s": 1}}


async def measure_recovery(folder: Path, bootstrap: str, *, accounts: int, events: int) -> dict[str, Any]:
    """Return the seconds of each part."""
    traffic = Traffic(folder, accounts=accounts)
    site = await Site(folder, bootstrap, traffic.book, tables=SOON).create_topics()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(sender(bootstrap))
        with site.process("run") as process:
            await process.until("live")
            await send_all(client, site, traffic.first())
            await process.until("snapshot")
            snapshot_bytes = size_of(process.field("snapshot", "path"))
            snapshot_batch = int(process.field("snapshot", "batch"))
            await process.drain()
        site.configure({})
        journal = await stack.enter_async_context(Journal(site).followed())
        with site.process("run") as process:
            await process.until("live")
            await send_all(client, site, traffic.lines(events, MIX))
            await journal.until({0: traffic.sent}, process)
            process.kill()
        with site.process("run") as process:
            live_s = await process.until("live")
            said_s = {part: await process.until(event) for part, event in PARTS.items()}
            recovered = int(process.field("recovered", "events"))
            rss_mb = process.rss_mb()
            await process.drain()
    times_s = [process.started_s, *said_s.values()]
    return {
        "accounts": accounts,
        "events_since_snapshot": recovered,
        "snapshot_mb": round(snapshot_bytes / 1e6, 1),
        "snapshot_batch": snapshot_batch,
        "batches": journal.batches[0],
        "rss_mb": round(rss_mb, 1),
        "seconds": {
            **{part: round(end - start, 3) for part, start, end in zip(said_s, times_s, times_s[1:], strict=False)},
            "total": round(live_s - process.started_s, 3),
        },
        "fold_us_an_event": round((said_s["fold"] - said_s["snapshot"]) / max(1, recovered) * 1e6, 1),
        "scale": round(recovered / FULL_EVENTS, 4),
    }


def size_of(path: str) -> int:
    """Return the bytes of a file."""
    return Path(path).stat().st_size
