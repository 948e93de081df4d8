"""``/``: the live page, a program for browsers that asks the API like anybody else. Its files hold no data.

So they are given to whoever asks (``auth.py``), and the page asks for the token where the API does. The content
security policy lets it run, load and ask nothing but what this server serves, and write no text as markup (trusted
types): a name of an account can do nothing on it.
"""

from __future__ import annotations

from importlib import resources

from aiohttp import web

from engine.shell.admin.served import Served

TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
POLICY = "; ".join(
    (
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self'"),
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
        *("require-trusted-types-for 'script'", "trusted-types 'none'"),
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # An engine that was upgraded serves other files under the same names.
    "Cache-Control": "no-cache",
}
INDEX = "/"


def page_files() -> dict[str, tuple[bytes, str]]:
    """Return content and type of each file of the page by its path; what the licence says comes with the library."""
    files = {}
    for file in resources.files(__package__).joinpath("static").iterdir():
        kind = TYPES.get(f".{file.name.rpartition('.')[2]}")
        if kind is not None:
            path = INDEX if file.name == "index.html" else f"/page/{file.name}"
            files[path] = (file.read_bytes(), kind)
    return files


FILES = page_files()


def add_routes(app: web.Application, _: Served) -> None:
    """Add a route for each file."""

    async def file(request: web.Request) -> web.Response:
        body, kind = FILES[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=HEADERS)

    for path in FILES:
        app.router.add_get(path, file)
