"""Who may ask what: the bearer token of the configuration, and what is open without it.

    over loopback       health and metrics are open; the rest as well, where no token is configured
    over the network    everything asks for the token, without which the service does not start on such an address
    either way          the files of the page are open: they are the same everywhere and hold no data

A request without a token must name this machine in its Host: else a web page that somebody here looks at could have a
name of its own point to loopback, and read what is open there.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from engine.edges.service_config import AdminConfig, is_loopback
from engine.shell.admin.page import FILES
from engine.shell.admin.replies import problem

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})


def guard(config: AdminConfig) -> Middleware:
    """Return the middleware that lets requests in or refuses them."""
    secret = config.token.get_secret_value().encode() if config.token is not None else None

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if secret is not None and has_token(request, secret):
            return await handler(request)
        is_open = request.path in FILES or (is_from_here(request) and (secret is None or request.path in OPEN_PATHS))
        if not is_open:
            return problem(401, "send Authorization: Bearer TOKEN", headers={"WWW-Authenticate": "Bearer"})
        if is_from_here(request) and not is_loopback(name_of(request.host)):
            return problem(403, f"Host {request.host!r} is no name of this machine: ask localhost, or send the token")
        return await handler(request)

    return check


def has_token(request: web.Request, secret: bytes) -> bool:
    """Return whether a request carries the token; takes as long whatever part of it is wrong."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    given = token.strip().encode(errors="surrogateescape")
    return scheme.lower() == "bearer" and hmac.compare_digest(given, secret)


def is_from_here(request: web.Request) -> bool:
    """Return whether a request came over loopback."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return peer is not None and is_loopback(peer[0])


def name_of(host: str) -> str:
    """Return the name in a Host header, without port and brackets; nothing where it makes no sense."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
