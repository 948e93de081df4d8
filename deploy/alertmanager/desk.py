"""A desk that alerts are told to: prints each alert of a webhook's messages as one line of JSON.

    python desk.py HOST PORT TOKEN_FILE

Stands in ``deploy/compose.yaml`` for what an exchange has there (a pager, a chat, a ticket system). It knows
Alertmanager by the token, whose file both read. Port 0: any that is free; the first line says which.
"""

from __future__ import annotations

import hmac
import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# Alertmanager cuts no message: a crash over hundreds of symbols is one.
BODY_BYTES_MAX = 16 << 20


class Desk(ThreadingHTTPServer):
    """The server, with the token that it expects."""

    def __init__(self, address: tuple[str, int], token: str) -> None:
        super().__init__(address, Call)
        self.expected = f"Bearer {token}".encode()


class Call(BaseHTTPRequestHandler):
    """One message. 200 once its alerts are printed; else Alertmanager sends it again (5xx) or gives it up (4xx)."""

    server: Desk

    def do_POST(self) -> None:
        """Print the alerts of the message."""
        if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), self.server.expected):
            return self.answer(401)
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal() or int(size) > BODY_BYTES_MAX:
            return self.answer(413)
        try:
            lines = lines_of(self.path.strip("/"), json.loads(self.rfile.read(int(size))))
        except (ValueError, KeyError, TypeError):
            return self.answer(400)
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
        return self.answer(200)

    def answer(self, status: int) -> None:
        """Answer without a body."""
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing of what went well."""
        if not str(code).startswith("2"):
            super().log_request(code, size)


def lines_of(route: str, message: dict[str, Any]) -> list[str]:
    """Return the alerts of a message, a line each; raises KeyError or TypeError for what is no such message."""
    kept = ("status", "labels", "annotations", "startsAt", "endsAt")
    return [json.dumps({"route": route, **{key: alert[key] for key in kept}}) for alert in message["alerts"]]


def main(arguments: list[str]) -> int:
    """Listen until told to end."""
    if len(arguments) != 3 or not arguments[1].isdecimal():
        print("usage: desk.py HOST PORT TOKEN_FILE", file=sys.stderr)
        return 2
    host, port, token_file = arguments
    # The end of a container, and of a terminal, without a traceback.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with Desk((host, int(port)), Path(token_file).read_text().strip()) as desk:
        print(json.dumps({"listens": desk.server_address[:2]}), flush=True)
        desk.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
