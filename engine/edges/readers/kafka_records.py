"""Inputs as a shard took them from Kafka: what ``liq-engine audit --export`` writes, a JSON object a line.

    {"topic": "fills", "partition": 0, "offset": 17, "key": "alice", "payload": "{…}"}

``payload_base64`` stands for ``payload`` where the bytes are not UTF-8. The order of the file is the order of the
journal, and every message keeps the place it had at the broker: a replay gives the outputs of the live run, byte for
byte.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from engine.core.events import Message, Origin
from engine.edges.codec import load_json
from engine.edges.fold import INPUT_TOPICS, input_of
from engine.edges.readers.logfile import LogFile
from engine.edges.readers.source import Source
from engine.errors import InputError

KAFKA_RECORDS = "kafka_records"
FIELDS = ("topic", "partition", "offset")


def open_kafka_records(source: Source, shard: int) -> LogFile:
    """Return the log in an exported file, as ``shard`` takes it; a damaged line raises InputError when it is read.

    Nothing is skipped: a log that is to prove something must be whole.
    """

    def read() -> Iterator[Message]:
        for number, line in source.lines():
            yield message_in(line, f"{source.name}:{number}", shard)

    return LogFile(source, format=KAFKA_RECORDS, time_unit="ns", note="inputs in a shard's order", read=read)


def message_in(line: bytes, place: str, shard: int) -> Message:
    """Return the message of a line; raises InputError naming its ``place``."""
    body = body_of(line, place)
    topic, partition, offset = (body[name] for name in FIELDS)
    if topic not in INPUT_TOPICS or type(partition) is not int or type(offset) is not int:
        raise InputError(f"{place}: {topic}-{partition} offset {offset}: not a place of an input topic")
    try:
        encoded = body.get("payload_base64")
        payload = body["payload"].encode() if encoded is None else base64.b64decode(encoded, validate=True)
        key = None if body["key"] is None else body["key"].encode()
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{place}: key or payload: {error}") from error
    return Message(Origin(topic, partition, offset), input_of(key, payload, topic, shard), payload)


def body_of(line: bytes, place: str) -> dict[str, Any]:
    """Return the object of a line with all its fields; raises InputError."""
    try:
        body = load_json(line)
    except ValueError as error:
        raise InputError(f"{place}: not JSON") from error
    if not is_record(body):
        raise InputError(f"{place}: not an exported record: {', '.join(FIELDS)}, key and payload are its fields")
    return dict(body)


def is_record(body: object) -> bool:
    """Return whether a JSON value has the fields of an exported record."""
    return isinstance(body, dict) and all(name in body for name in (*FIELDS, "key"))
