"""What a refused message answers: a reason from the closed list, and what exactly was wrong."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing was changed; ``reason`` is one of ``events.REJECT_REASONS``."""

    reason: str
    detail: str
