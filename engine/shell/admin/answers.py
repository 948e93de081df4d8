"""How a request of the API is read, and how one that makes no sense is refused: always with a problem that says why.

A problem's ``code`` is for programs, its ``detail`` for people.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from engine.edges.codec import parse_strict
from engine.edges.decode_fields import Fault
from engine.shell.admin.replies import problem

RETRY = {"Retry-After": "1"}
# A question holds a handful of messages; of the tiers of a symbol there are some tens.
BODY_BYTES_MAX = 64 * 1024
NUMBER_DIGITS_MAX = 9

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RefusedError(Exception):
    """A request that is answered by a problem."""

    def __init__(self, response: web.Response) -> None:
        super().__init__()
        self.response = response


def refuse(status: int, detail: str, *, code: str, headers: dict[str, str] | None = None) -> RefusedError:
    """Return the error that answers a request with a problem."""
    return RefusedError(problem(status, detail, code=code, headers=headers))


def answering(answer: Answer) -> Answer:
    """Return a handler whose refusals are answers."""

    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            return await answer(request)
        except RefusedError as refused:
            return refused.response

    return handler


def number_in(request: web.Request, name: str, default: int, *, low: int = 0, high: int) -> int:
    """Return a whole number of the query, ``default`` where it is not given; raises RefusedError."""
    text = request.query.get(name)
    if text is None:
        return default
    is_number = text.isascii() and text.isdecimal() and len(text) <= NUMBER_DIGITS_MAX
    if not (is_number and low <= int(text) <= high):
        raise refuse(400, f"{name} was {text[:40]!r}, expected a number from {low} to {high}", code="out_of_range")
    return int(text)


def text_in(request: web.Request, name: str) -> str:
    """Return a text that the query must have; raises RefusedError."""
    text = request.query.get(name)
    if not text:
        raise refuse(400, f"{name} is missing", code="missing_field")
    return text


async def object_in(request: web.Request) -> dict[str, Any]:
    """Return the JSON object that a request carries, read as strictly as a message of the log; raises RefusedError."""
    if request.content_type != "application/json":
        raise refuse(415, f"Content-Type was {request.content_type}, expected application/json", code="bad_type")
    raw = await request.content.read(BODY_BYTES_MAX + 1) if (request.content_length or 0) <= BODY_BYTES_MAX else None
    while raw is not None and len(raw) <= BODY_BYTES_MAX and not request.content.at_eof():
        raw += await request.content.read(BODY_BYTES_MAX + 1)
    if raw is None or len(raw) > BODY_BYTES_MAX:
        raise refuse(413, f"at most {BODY_BYTES_MAX} bytes", code="too_long")
    parsed = parse_strict(raw)
    if isinstance(parsed, Fault):
        raise refuse(400, parsed.detail, code=parsed.reason)
    return parsed
