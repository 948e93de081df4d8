"""Whether the engine of this container says it is alive (``livez``) or ready (``readyz``): exit code 0 or 1.

    python probe.py livez|readyz [SERVICE_TOML]

What Docker and Kubernetes run inside the container. Asking from inside needs no open port and puts no token into a
manifest: host, port and the token's file come from the table ``[admin]`` of the service file, as for the engine itself.
Only the standard library, so that a probe costs a bare start of Python and not an import of the engine.
"""

from __future__ import annotations

import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

SERVICE_FILE = Path("/etc/liq-engine/service.toml")
PORT = 9464
TIMEOUT_S = 3.0
# An address to listen on is not always one to connect to.
ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}


def probe_request(name: str, file: Path) -> urllib.request.Request:
    """Return the request for one of the two states, with the token where the service file names one."""
    admin = tomllib.loads(file.read_text()).get("admin", {})
    host = admin.get("host", "127.0.0.1")
    host = ANYWHERE.get(host, f"[{host}]" if ":" in host else host)
    token_file = admin.get("token_file", "")
    headers = {}
    if token_file:
        headers["Authorization"] = f"Bearer {(file.parent / token_file).read_text().strip()}"
    return urllib.request.Request(f"http://{host}:{admin.get('port', PORT)}/{name}", headers=headers)


def main(arguments: list[str]) -> int:
    """Ask, print what was answered, and return the exit code."""
    if not arguments or arguments[0] not in ("livez", "readyz"):
        print("usage: probe.py livez|readyz [SERVICE_TOML]", file=sys.stderr)
        return 2
    file = Path(arguments[1]) if len(arguments) > 1 else SERVICE_FILE
    # No proxy, whatever the environment says: the engine is in this container.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(probe_request(arguments[0], file), timeout=TIMEOUT_S) as answer:
            print(answer.read().decode(errors="replace"))
            return 0
    except urllib.error.HTTPError as error:
        print(f"{error.code}: {error.read().decode(errors='replace')}")
    except (OSError, ValueError) as error:
        # ValueError: the service file is no TOML. The reason is what `kubectl describe pod` shows.
        print(f"no answer: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
