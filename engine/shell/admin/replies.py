"""What an answer looks like: JSON as everywhere else in the engine, and errors as ``application/problem+json``."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from engine.edges.codec import encode


def document(body: dict[str, Any], *, status: int = 200) -> web.Response:
    """Return a JSON document; no cache may keep it, since it is of this moment."""
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=encode(body), status=status, content_type="application/json", headers=headers)


def problem(
    status: int, detail: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return an error (RFC 9457): what kind it is, and what whoever asked can do about it."""
    body: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    body |= {"detail": detail} if code is None else {"detail": detail, "code": code}
    return web.Response(body=encode(body), status=status, content_type="application/problem+json", headers=headers)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what aiohttp refuses by itself (no such path, no such method, too large) as a problem."""
    try:
        return await handler(request)
    except web.HTTPClientError as error:
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return problem(error.status, f"{request.method} {request.path}: {error.reason}", headers=allowed)
