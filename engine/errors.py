"""What can go wrong, and who has to act on it.

    LiqEngineError
    ├── InputError          a file, config or argument is wrong: its author acts; exit code 2
    │   └── ParamError      one risk parameter breaks a rule: key, value and rule are attributes
    ├── BrokerError         the broker cannot be reached or refused us; exit code 3
    └── InvariantError      our bug: state can no longer be trusted; stop, restart from the log; exit code 1

A message that is refused is not an exception: it is a ``Reject`` event, and the stream goes on.
"""

from __future__ import annotations


class LiqEngineError(Exception):
    """The base of every error this package raises on purpose."""

    exit_code = 1


class InputError(LiqEngineError):
    """A file, a config or an argument is wrong; the message names file, place, value and rule."""

    exit_code = 2


class ParamError(InputError):
    """One risk parameter breaks one rule."""

    def __init__(self, key: str, value: object, rule: str, reason: str = "out_of_range") -> None:
        super().__init__(f"{key}: {value!r}: {rule}")
        self.key = key
        self.value = value
        self.rule = rule
        self.reason = reason


class BrokerError(LiqEngineError):
    """The broker cannot be reached, or refused what we asked."""

    exit_code = 3


class InvariantError(LiqEngineError):
    """An invariant broke: the book can no longer be trusted."""


def check(condition: bool, message: str) -> None:
    """Raise ``InvariantError(message)`` unless ``condition`` holds; stays on under ``python -O``."""
    if not condition:
        raise InvariantError(message)
