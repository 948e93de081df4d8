"""How a fill of the usual form is applied without a message: what ``intake.apply_fill`` does of it, and in one step.

The machine's other half is in ``kernels/fills.py``. Here is tested what kernels do not know: names, ids, times.
"""

from __future__ import annotations

from engine.core import ledger
from engine.core.book import CROSS
from engine.core.kernels.fills import IN_NEED, UNUSUAL
from engine.core.lines import FillLine
from engine.core.shard import Shard
from engine.units import NS_PER_S


def try_usual_fill(shard: Shard, fill: FillLine) -> tuple[int, bool] | None:
    """Apply a fill that is usual in every respect; return its row and whether that may need a look, else None.

    None: nothing has changed. The caller has made sure that the clock is set and nothing waits for the next message.

    Why a row that needs no look is not examined: it is priced, has no episode and no hold, is neither liquidatable nor
    insolvent, and has not crossed the ratio of its margin call either way. Then ``liquidation.examine`` changes
    nothing, unless a price waits to be confirmed, or the row is one of those that go on with what is fresh.
    """
    book = shard.book
    symbol, row = book.symbol_index.get(fill.symbol), book.row_index.get((fill.account, CROSS))
    if symbol is None or row is None or fill.account.startswith("$") or (fill.account, fill.symbol) in book.row_index:
        return None
    key = ("fill", fill.account, fill.fill_id)
    if key in shard.ids or (fill.account, fill.order_id) in shard.order_rows or not is_timely(shard, fill.ts):
        return None
    done = ledger.try_post_fill(book, row, symbol, fill.fills, fill.place)
    if done == UNUSUAL:
        return None
    shard.advance(fill.ts)
    shard.ids.add(key)
    shard.counters.fills += 1
    shard.future = None
    return row, done == IN_NEED or bool(book.waiting or shard.forced)


def is_timely(shard: Shard, ts: int) -> bool:
    """Return whether a message of ``ts`` is not too far ahead of the clock, and leaves all timers where they are."""
    ahead_ns = shard.book.policy.max_future_s * NS_PER_S
    if ahead_ns and ts > shard.clock + ahead_ns:
        return False
    return not shard.timers or shard.timers[0][0] > max(shard.clock, ts)
