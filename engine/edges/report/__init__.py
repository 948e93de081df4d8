"""What a replay leaves for a human: one HTML file that explains the run, fed by ``RunRecorder`` while it goes.

    recorder  ``RunRecorder``: takes marks and outputs, keeps bounded aggregates, renders at the end
    exposure  ``ExposureSampler``: looks at all accounts now and then, how near they are and what a fall would do
    buckets   time buckets that merge pairwise when full, so that memory does not grow with the log
    episodes  the board of the largest liquidations, with the records that explain each
    page      the file itself: head, sections, chart data, inlined ``page.css`` and ``page.js``
    sections  the blocks of the page between head and charts
    card      one liquidation explained: the rule, the numbers in it, the orders, what followed
    markup    escaping, numbers, times and tables

Everything here is for display: floats are fine, nothing flows back into a decision. The page makes no request: styles,
script and data are inside, and its content security policy allows that one script and no other.
"""

from __future__ import annotations

from engine.edges.report.exposure import ExposureSampler
from engine.edges.report.recorder import RunRecorder

__all__ = ["ExposureSampler", "RunRecorder"]
