"""How much may be sent of a symbol now: one flow budget per symbol, shared by all accounts, worst first.

The notional of orders of a symbol sent within the last ``flow_window_ms`` stays within its ``flow_budget``. An order
that does not fit is cut to the whole lots that do; the rest waits until older orders leave the window. An account below
``emergency_ratio`` x maintenance margin is sent whole and uses the budget up.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from engine.core.book import Book
from engine.core.pricing import symbol_notional
from engine.units import NS_PER_MS, PPM


@dataclass(slots=True)
class Flow:
    """What was sent of one symbol: (ts, notional in settlement units), oldest first, and their sum."""

    sent: deque[tuple[int, int]] = field(default_factory=deque)
    total: int = 0

    def note(self, ts: int, notional: int) -> None:
        """Count an order."""
        self.sent.append((ts, notional))
        self.total += notional

    def forget(self, before_ts: int) -> None:
        """Drop what was sent at or before ``before_ts``."""
        while self.sent and self.sent[0][0] <= before_ts:
            self.total -= self.sent.popleft()[1]


def lots_that_fit(book: Book, flow: Flow, symbol: int, lots: int) -> int:
    """Return how many of ``lots`` a symbol's budget has room for; ``flow`` must hold what is in the window only."""
    instrument = book.instruments[symbol]
    if instrument.flow_budget_units is None:
        return lots
    per_lot = symbol_notional(book, symbol, instrument.lot_steps, book.marks[symbol].value)
    return max(0, min(lots, (instrument.flow_budget_units - flow.total) // per_lot))


def room_ts(book: Book, flow: Flow) -> int | None:
    """Return when the oldest order leaves the window, or None if nothing is in it."""
    return flow.sent[0][0] + book.policy.flow_window_ms * NS_PER_MS if flow.sent else None


def is_emergency(book: Book, row: int) -> bool:
    """Return whether a row is so far below its margin that it does not wait for the budget."""
    return book.equity(row) * PPM < book.policy.emergency_ratio_ppm * book.maintenance(row)
