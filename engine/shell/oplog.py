"""One line an event for whoever operates the service: ``event key=value ...`` on standard error."""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("liq-engine")


def configure() -> None:
    """Send lines to standard error, time first; libraries only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # The client says each time what it retries, thousands of times a second while a broker is away. What comes of it
    # is said by whoever waits for it.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logger.setLevel(logging.INFO)


def line(event: str, fields: dict[str, object]) -> str:
    """Return an event as a line; values with spaces are quoted."""
    words = [event]
    for name, value in fields.items():
        text = str(value)
        words.append(f"{name}={text!r}" if " " in text or not text else f"{name}={text}")
    return " ".join(words)


def info(event: str, **fields: object) -> None:
    """Say what happened."""
    logger.info(line(event, fields))


def warning(event: str, **fields: object) -> None:
    """Say what is allowed and probably not meant."""
    logger.warning(line(event, fields))


def bug(event: str, broken: BaseException) -> None:
    """Say what nobody foresaw, with where it came from."""
    logger.critical(line(event, {"reason": repr(broken)}), exc_info=broken)


def error(event: str, **fields: object) -> None:
    """Say what went wrong."""
    logger.error(line(event, fields))
