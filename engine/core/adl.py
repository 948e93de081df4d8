"""Auto-deleveraging takes lots from winners by one of three rules and says how fair it was.

A *winner* is an eligible opposite position: which ones are, and at what cash their lots change hands, is decided by the
caller. A *wave* takes ``needed_lots`` of one symbol from them, or all they can give if that is less:

* ``queue``          the highest score first, each to what it can give. Score: PnL% x leverage for a winner, PnL% /
                     leverage for a loser; PnL% = PnL / entry notional, leverage = account notional / equity.
* ``pro_rata``       in proportion to the contracts held; who can give less than that gives what it can, and the rest is
                     shared out again among the others.
* ``water_filling``  the highest leverage is reduced first, down to one common level; who has nothing more to give in
                     this symbol drops out above it. Leverage is taken at marks before the transfer.

Everything is exact: ratios are compared as fractions, shares are whole lots - rounded down, then one more each by
largest remainder. Equal claims are served by account, then bucket, then leg. An equity, notional or entry notional
below one unit counts as one unit: no quotient then has a divisor of zero, and an account without equity has the highest
leverage there can be.

A wave of thousands of winners mostly takes from a few of them, and takes a millisecond: whoever comes first by score or
by leverage is taken off a heap (``kernels/waves.py``) until enough is given, and no other is ever put in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from heapq import heappop, heappush
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core.book import Int64Array
from engine.core.kernels.waves import heap_into, pop_into, profits_into
from engine.errors import check
from engine.units import INT64_MAX, PPM, div_half_even, format_ppm

AnyArray = npt.NDArray[Any]

# How many come off a heap at a time: as many as most waves need, few enough to cost nothing where fewer do.
_HEADS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Winners:
    """The eligible positions on the opposite side, one number of each array for each; money in valuation units.

    They stand in the order of account, bucket and leg, which decides between equal claims. ``accounts`` holds the same
    number >= 0 for all positions of an account. ``lots`` are the whole lots it holds, ``lots_max`` how many it can give
    up with E >= 0 after the close. ``pnl`` and ``entry_notional`` are the position's, ``account_notional`` and
    ``equity`` its account's (or bucket's). ``notional_per_lot`` is taken at marks and one for all of them: they hold
    the same symbol.
    """

    accounts: Int64Array
    lots: Int64Array
    lots_max: Int64Array
    pnl: Int64Array
    entry_notional: Int64Array
    account_notional: Int64Array
    equity: Int64Array
    notional_per_lot: Fraction


def allocate(rule: str, winners: Winners, needed_lots: int) -> Int64Array:
    """Return the lots each winner gives up; they add up to min(needed, all that can be given)."""
    check(rule in RULES, f"adl rule was {rule!r}, expected one of {', '.join(RULES)}")
    check(needed_lots >= 0, f"needed_lots was {needed_lots}, expected >= 0")
    per_lot, lots, lots_max = winners.notional_per_lot, winners.lots, winners.lots_max
    check(per_lot > 0, f"notional_per_lot was {per_lot}, expected above 0")
    for index in np.flatnonzero((lots_max < 0) | (lots_max > lots) | (lots == 0))[:1]:
        check(False, f"winner {index}: lots_max was {lots_max[index]}, expected 0..lots ({lots[index]})")
    if _sum(lots_max) <= needed_lots:
        return lots_max
    if needed_lots == 0:
        return np.zeros_like(lots_max)
    return RULES[rule](winners, needed_lots)


def wave_report(rule: str, winners: Winners, allocation: Int64Array, needed_lots: int) -> dict[str, Any]:
    """Return the fairness of a wave beside what the other two rules would have done to the same winners.

    counterparties         accounts that gave up at least one lot
    largest_profit_share   the largest part one account bears of all unrealised profit given up. A position gives up
                           PnL x lots taken / lots held, in whole units rounded down, and nothing where it has no
                           profit. Six decimals, half-even; "0" where no profit was given up
    alternatives           {rule: {counterparties, largest_profit_share}}
    """
    alternatives = {
        other: _fairness(winners, allocate(other, winners, needed_lots)) for other in RULES if other != rule
    }
    return _fairness(winners, allocation) | {"alternatives": alternatives}


def _fairness(winners: Winners, allocation: Int64Array) -> dict[str, Any]:
    """Return how many accounts gave, and how much of the profit given up was the hardest hit one's."""
    givers = np.flatnonzero(allocation)
    if givers.size == 0:
        return {"counterparties": 0, "largest_profit_share": format_ppm(0)}
    profits = np.zeros(givers.size, dtype=np.int64)
    profits_into(winners.pnl[givers], allocation[givers], winners.lots[givers], profits)
    # The positions of an account stand side by side.
    begins = np.flatnonzero(np.diff(winners.accounts[givers], prepend=-1))
    given = np.add.reduceat(_exact(profits, givers.size), begins)
    total = int(given.sum())
    share = div_half_even(int(given.max()) * PPM, total) if total else 0
    return {"counterparties": begins.size, "largest_profit_share": format_ppm(share)}


def _queue(winners: Winners, needed_lots: int) -> Int64Array:
    """Return the lots taken from the highest score down, each winner to what it can give."""
    lots = np.zeros_like(winners.lots)
    for index in _highest_first(*_scores(winners)):
        lots[index] = min(int(winners.lots_max[index]), needed_lots)
        needed_lots -= int(lots[index])
        if needed_lots == 0:
            break
    return lots


def _scores(winners: Winners) -> tuple[Int64Array, Int64Array]:
    """Return the queue scores, two factors above the line and two below: (PnL / entry) x or / (notional / equity)."""
    notional, equity = np.maximum(winners.account_notional, 1), np.maximum(winners.equity, 1)
    has_won = winners.pnl > 0
    over = np.column_stack((winners.pnl, np.where(has_won, notional, equity)))
    under = np.column_stack((np.maximum(winners.entry_notional, 1), np.where(has_won, equity, notional)))
    return over, under


def _pro_rata(winners: Winners, needed_lots: int) -> Int64Array:
    """Return lots in proportion to the contracts held, what some cannot give shared out again among the others."""
    lots, rest, held = winners.lots_max.copy(), needed_lots, _sum(winners.lots)
    is_open = np.ones(lots.size, dtype=np.bool_)
    # Only who can give less than it holds and than is needed can be asked for more than it can give. From the smallest
    # part it can give up: as long as the common part reaches a winner's own, that winner is full.
    limited = np.flatnonzero(lots < np.minimum(winners.lots, needed_lots))
    for place in _highest_first(_quotient(winners.lots[limited]), _quotient(lots[limited])):
        index = limited[place]
        own, whole = int(lots[index]), int(winners.lots[index])
        if own * held > rest * whole:
            break
        is_open[index] = False
        rest, held = rest - own, held - whole
    lots[is_open] = _whole_lots(_exact(winners.lots[is_open], max(rest, lots.size)) * rest, held, rest)
    return lots


def _water_filling(winners: Winners, needed_lots: int) -> Int64Array:
    """Return the lots that bring the highest leverages down to the one level that takes what is needed.

    At level L a winner gives x(L) = (notional - L x equity) / notional per lot, between 0 and its cap. The sum rises as
    L falls, linearly between the levels where someone begins to give or reaches its cap; those are walked downward.
    Notional and equity are scaled so that one lot is an integer, ``lot``.
    """
    lot, scale = winners.notional_per_lot.numerator, winners.notional_per_lot.denominator
    notionals, equities = winners.account_notional, np.maximum(winners.equity, 1)
    # Two different levels a/b and c/d are at least 1/(bd) apart; scaled by 2**shift >= bd they are at least 1 apart,
    # and so are different after rounding down.
    shift = 2 * (int(equities.max()) * scale).bit_length()

    def level(index: int, *, is_end: bool) -> tuple[int, int]:
        """Return the level at which a winner begins to give or reaches its cap, as (numerator, denominator)."""
        given = int(winners.lots_max[index]) if is_end else 0
        return int(notionals[index]) * scale - given * lot, int(equities[index]) * scale

    def event(index: int, *, is_end: bool) -> tuple[int, bool, int]:
        """Return what sorts by level, the highest first; at one level everybody begins before anybody ends."""
        above, below = level(index, is_end=is_end)
        return -((above << shift) // below), is_end, index

    highest_first = _highest_first(_quotient(notionals), _quotient(equities))
    events = [event(next(highest_first), is_end=False)]
    giving: set[int] = set()
    lots = np.zeros_like(winners.lots)
    notional_sum = equity_sum = capped_lots = 0
    while True:
        _, is_end, index = heappop(events)
        above, below = level(index, is_end=is_end)
        if (capped_lots * lot + notional_sum - needed_lots * lot) * below >= above * equity_sum:
            break
        notional, equity = level(index, is_end=False)
        if is_end:
            giving.remove(index)
            notional_sum, equity_sum = notional_sum - notional, equity_sum - equity
            lots[index] = winners.lots_max[index]
            capped_lots += int(lots[index])
        else:
            giving.add(index)
            notional_sum, equity_sum = notional_sum + notional, equity_sum + equity
            heappush(events, event(index, is_end=True))
            # Nobody begins above the one before.
            for following in islice(highest_first, 1):
                heappush(events, event(following, is_end=False))
    # The level is level_sum / equity_sum.
    rest = needed_lots - capped_lots
    level_sum = notional_sum - rest * lot
    givers = sorted(giving)
    shares = [int(notionals[i]) * scale * equity_sum - level_sum * int(equities[i]) * scale for i in givers]
    lots[givers] = _whole_lots(np.array(shares, dtype=np.object_), lot * equity_sum, rest)
    return lots


def _whole_lots(shares: AnyArray, divisor: int, total: int) -> Int64Array:
    """Return shares / divisor as whole lots that add up to ``total``: down, then one each by largest remainder.

    No share exceeds its cap, a whole number, so one more lot on a share with a remainder does not either.
    """
    lots: Int64Array = (shares // divisor).astype(np.int64)
    odd = total - int(lots.sum())
    if odd:
        remainders = shares % divisor
        least = np.partition(remainders, -odd)[-odd]
        is_larger = remainders > least
        lots[is_larger] += 1
        lots[np.flatnonzero(remainders == least)[: odd - int(is_larger.sum())]] += 1
    return lots


def _highest_first(over: Int64Array, under: Int64Array) -> Iterator[int]:
    """Yield the numbers of the highest quotients first, equal ones in order; see ``heap_into`` for the factors."""
    heap, heads, left = np.zeros(len(over), dtype=np.int64), np.zeros(_HEADS, dtype=np.int64), len(over)
    heap_into(over, under, heap)
    while left:
        taken = pop_into(over, under, heap, left, heads)
        yield from heads[:taken].tolist()
        left -= taken


def _quotient(numbers: Int64Array) -> Int64Array:
    """Return one side of a plain quotient as the factors that ``_highest_first`` takes."""
    return np.column_stack((numbers, np.ones_like(numbers)))


def _sum(numbers: Int64Array) -> int:
    """Return the exact sum of numbers >= 0."""
    return int(_exact(numbers, numbers.size).sum())


def _exact(numbers: Int64Array, factor: int) -> AnyArray:
    """Return numbers >= 0 in a form in which ``factor`` times the largest is exact: int64, else Python ints."""
    return numbers if int(numbers.max(initial=0)) * factor <= INT64_MAX else numbers.astype(np.object_)


RULES: dict[str, Callable[[Winners, int], Int64Array]] = {
    "queue": _queue,
    "pro_rata": _pro_rata,
    "water_filling": _water_filling,
}
