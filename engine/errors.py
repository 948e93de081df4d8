"""What can go wrong, and who has to act on it.

    LiqEngineError
    ├── InputError          a file, config or argument is wrong: its author acts; exit code 2
    │   ├── ParamError      one risk parameter breaks a rule: key, value and rule are attributes
    │   └── SnapshotError   a snapshot cannot be used or written: reason is an attribute
    ├── BrokerError         the broker cannot be reached or refused us; exit code 3
    │   ├── FencedError     another instance has taken the shard over: this one must stop, and not try again
    │   └── RefusedError    the broker does not let us in or lacks our rights: it will not by asking again
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


class SnapshotError(InputError):
    """A snapshot cannot be used or written; ``reason`` is one word for it, of those below.

    torn            its end, or one of its chunks, is missing
    checksum        some byte is not what was written
    schema          another version of the engine wrote it, or it is no snapshot at all
    foreign_shard   of another shard
    other_config    taken under another risk file or starting book
    ahead           newer than the journal
    other_journal   the journal's record of its number is another one, or no longer there
    disk            the file or the folder cannot be read or written
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class BrokerError(LiqEngineError):
    """The broker cannot be reached, or refused what we asked."""

    exit_code = 3


class FencedError(BrokerError):
    """Another instance has taken the shard over."""


class RefusedError(BrokerError):
    """The broker knows us not, or not for this: credentials or rights are wrong, and asking again does not help."""


class InvariantError(LiqEngineError):
    """An invariant broke: the book can no longer be trusted."""


def check(condition: bool, message: str) -> None:
    """Raise ``InvariantError(message)`` unless ``condition`` holds; stays on under ``python -O``."""
    if not condition:
        raise InvariantError(message)
