"""What the Kafka client alone costs, in a process of its own: ``python -m benchmarks.bare relay|drain ...``.

relay   consume a record, produce it to another topic: what any service between two topics must pay
drain   consume partitions to their present end with ``getmany`` and parse each value with orjson; prints a document
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

import orjson
from aiokafka import TopicPartition

from engine.shell import oplog
from tests.brokers.clients import consumer, new_producer

# As many as the service takes at a time: fewer at once are quicker by a third than all that is there.
RECORDS_MAX = 500
FETCH_BYTES_MAX = 16 << 20


def main(arguments: list[str] | None = None) -> int:
    """Run one of the two."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["relay", "drain"])
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--source", required=True, nargs="+", metavar="TOPIC-PARTITION")
    parser.add_argument("--target", metavar="TOPIC")
    options = parser.parse_args(arguments)
    parts = [TopicPartition(name, int(number)) for name, _, number in (text.rpartition("-") for text in options.source)]
    if options.what == "relay":
        asyncio.run(relay(options.bootstrap, parts, options.target))
    else:
        print(json.dumps(asyncio.run(drain(options.bootstrap, parts))))
    return 0


async def relay(bootstrap: str, parts: list[TopicPartition], target: str) -> None:
    """Send on what comes, until the process is ended."""
    producer = new_producer(bootstrap, enable_idempotence=False)
    await producer.start()
    async with consumer(bootstrap, *parts, isolation_level="read_uncommitted", fetch_max_wait_ms=500) as client:
        oplog.configure()
        oplog.info("live")
        while True:
            for records in (await client.getmany(timeout_ms=500)).values():
                for record in records:
                    await producer.send(target, record.value, key=record.key)


async def drain(bootstrap: str, parts: list[TopicPartition]) -> dict[str, float]:
    """Return records, seconds and seconds of processor time, from the first record to the last."""
    count = 0
    sizes = {"fetch_max_bytes": FETCH_BYTES_MAX, "max_partition_fetch_bytes": FETCH_BYTES_MAX}
    async with consumer(bootstrap, *parts, fetch_max_wait_ms=500, **sizes) as client:
        ends = await client.end_offsets(parts)
        wanted = sum(ends.values())
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        while count < wanted:
            for records in (await client.getmany(timeout_ms=500, max_records=RECORDS_MAX)).values():
                for record in records:
                    orjson.loads(record.value)
                count += len(records)
    return {
        "records": count,
        "seconds": time.perf_counter() - started_s,
        "cpu_seconds": time.process_time() - started_cpu_s,
    }


if __name__ == "__main__":
    sys.exit(main())
