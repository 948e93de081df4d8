"""What a ``reject`` record says: why a message was refused, where it was, and its bytes as far as they fit."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from engine.core.events import Origin

# Enough for any message a venue sends; what is longer is found again by its offset or line.
PAYLOAD_BYTES_MAX = 4096


def reject_fields(reason: str, detail: str, payload: bytes, origin: Origin) -> dict[str, Any]:
    """Return the fields of a ``reject`` record, without ``type`` and the envelope all outputs carry."""
    return {"reason": reason, "detail": detail} | place_fields(origin) | payload_fields(payload)


def place_fields(origin: Origin) -> dict[str, Any]:
    """Return where a message came from: topic, partition and offset, or file and line."""
    if origin.partition >= 0:
        return {"topic": origin.topic, "partition": origin.partition, "offset": origin.offset}
    return {"file": origin.topic, "line": origin.offset}


def payload_fields(payload: bytes) -> dict[str, Any]:
    """Return the refused bytes: as text if that is all of them, else the first 4 KiB in base64 and their number."""
    if len(payload) <= PAYLOAD_BYTES_MAX:
        try:
            return {"payload": payload.decode()}
        except UnicodeDecodeError:
            pass  # shown as base64 below
    return {"payload_base64": b64encode(payload[:PAYLOAD_BYTES_MAX]).decode(), "payload_bytes": len(payload)}
