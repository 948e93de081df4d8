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
largest remainder. Equal claims are served by account, then bucket, then leg. Each rule sorts once, so a wave of
thousands of winners takes milliseconds. An equity, notional or entry notional below one unit counts as one unit: no
quotient then has a divisor of zero, and an account without equity has the highest leverage there can be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from engine.errors import check
from engine.units import PPM, div_half_even, format_ppm


@dataclass(frozen=True, slots=True)
class Winner:
    """One eligible position on the opposite side; money in valuation units.

    ``lots`` are the whole lots it holds, ``lots_max`` how many it can give up with E >= 0 after the close. ``pnl`` and
    ``entry_notional`` are the position's, ``account_notional`` and ``equity`` its account's (or bucket's).
    ``notional_per_lot`` is taken at marks and the same for all winners of a wave: they hold the same symbol.
    """

    account: str
    bucket: str
    leg: str
    lots: int
    lots_max: int
    pnl: int
    entry_notional: int
    account_notional: int
    equity: int
    notional_per_lot: Fraction


def allocate(rule: str, winners: Sequence[Winner], needed_lots: int) -> list[int]:
    """Return the lots each winner gives up, in the order given; they add up to min(needed, all that can be given)."""
    check(rule in RULES, f"adl rule was {rule!r}, expected one of {', '.join(RULES)}")
    check(needed_lots >= 0, f"needed_lots was {needed_lots}, expected >= 0")
    per_lot = winners[0].notional_per_lot if winners else Fraction(1)
    check(per_lot > 0, f"notional_per_lot was {per_lot}, expected above 0")
    for winner in winners:
        if not 0 <= winner.lots_max <= winner.lots or winner.lots == 0:
            check(False, f"{winner.account}: lots_max was {winner.lots_max}, expected 0..lots ({winner.lots})")
        if winner.notional_per_lot is not per_lot and winner.notional_per_lot != per_lot:
            check(False, f"{winner.account}: notional_per_lot was {winner.notional_per_lot}, expected one for all")
    caps = [winner.lots_max for winner in winners]
    if sum(caps) <= needed_lots:
        return caps
    if needed_lots == 0:
        return [0] * len(winners)
    return RULES[rule](winners, needed_lots)


def wave_report(rule: str, winners: Sequence[Winner], allocation: Sequence[int], needed_lots: int) -> dict[str, Any]:
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


def _fairness(winners: Sequence[Winner], allocation: Sequence[int]) -> dict[str, Any]:
    """Return how many accounts gave, and how much of the profit given up was the hardest hit one's."""
    given: dict[str, int] = {}
    for winner, lots in zip(winners, allocation, strict=True):
        if lots:
            profit = max(winner.pnl, 0) * lots // winner.lots
            given[winner.account] = given.get(winner.account, 0) + profit
    total = sum(given.values())
    share = div_half_even(max(given.values()) * PPM, total) if total else 0
    return {"counterparties": len(given), "largest_profit_share": format_ppm(share)}


def _queue(winners: Sequence[Winner], needed_lots: int) -> list[int]:
    """Return the lots taken from the highest score down, each winner to what it can give."""
    ranks = _ranks([_score(winner) for winner in winners])
    order = sorted(_by_name(winners), key=lambda index: -ranks[index])
    lots = [0] * len(winners)
    for index in order:
        lots[index] = min(winners[index].lots_max, needed_lots)
        needed_lots -= lots[index]
    return lots


def _score(winner: Winner) -> tuple[int, int]:
    """Return the queue score as (numerator, denominator > 0)."""
    entry, notional, equity = max(winner.entry_notional, 1), max(winner.account_notional, 1), max(winner.equity, 1)
    if winner.pnl > 0:
        return winner.pnl * notional, entry * equity
    return winner.pnl * equity, entry * notional


def _pro_rata(winners: Sequence[Winner], needed_lots: int) -> list[int]:
    """Return lots in proportion to the contracts held, what some cannot give shared out again among the others."""
    ranks = _ranks([(winner.lots_max, winner.lots) for winner in winners])
    rest, held = needed_lots, sum(winner.lots for winner in winners)
    capped = set()
    # From the smallest part it can give up: as long as the common part reaches a winner's own, that winner is full.
    for index in sorted(range(len(winners)), key=ranks.__getitem__):
        winner = winners[index]
        if winner.lots_max * held > rest * winner.lots:
            break
        capped.add(index)
        rest, held = rest - winner.lots_max, held - winner.lots
    shares = [winner.lots_max * held if index in capped else rest * winner.lots for index, winner in enumerate(winners)]
    return _whole_lots(winners, shares, held, needed_lots)


def _water_filling(winners: Sequence[Winner], needed_lots: int) -> list[int]:
    """Return the lots that bring the highest leverages down to the one level that takes what is needed.

    At level L a winner gives x(L) = (notional - L x equity) / notional per lot, between 0 and its cap. The sum rises as
    L falls, linearly between the levels where someone begins to give or reaches its cap; those are walked downward.
    Notional and equity are scaled so that one lot is an integer, ``lot``.
    """
    lot, scale = winners[0].notional_per_lot.numerator, winners[0].notional_per_lot.denominator
    notional = [winner.account_notional * scale for winner in winners]
    equity = [max(winner.equity, 1) * scale for winner in winners]
    begins = [(notional[index], equity[index]) for index in range(len(winners))]
    ends = [(notional[index] - winner.lots_max * lot, equity[index]) for index, winner in enumerate(winners)]
    levels = begins + ends
    ranks = _ranks(levels)
    giving: set[int] = set()
    capped: set[int] = set()
    notional_sum = equity_sum = capped_lots = 0
    # At one level everybody begins before anybody ends (begins stand first, and sorting keeps that order).
    for event in sorted(range(len(levels)), key=lambda event: -ranks[event]):
        above, below = levels[event]
        if (capped_lots * lot + notional_sum - needed_lots * lot) * below >= above * equity_sum:
            break
        index = event % len(winners)
        if event < len(winners):
            giving.add(index)
            notional_sum, equity_sum = notional_sum + notional[index], equity_sum + equity[index]
        else:
            giving.remove(index)
            capped.add(index)
            notional_sum, equity_sum = notional_sum - notional[index], equity_sum - equity[index]
            capped_lots += winners[index].lots_max
    # The level is level_sum / equity_sum.
    level_sum = notional_sum - (needed_lots - capped_lots) * lot
    shares = [0] * len(winners)
    for index in giving:
        shares[index] = notional[index] * equity_sum - level_sum * equity[index]
    for index in capped:
        shares[index] = winners[index].lots_max * lot * equity_sum
    return _whole_lots(winners, shares, lot * equity_sum, needed_lots)


def _whole_lots(winners: Sequence[Winner], shares: Sequence[int], divisor: int, total: int) -> list[int]:
    """Return shares / divisor as whole lots that add up to ``total``: down, then one each by largest remainder.

    No share exceeds its cap, a whole number, so one more lot on a share with a remainder does not either.
    """
    lots = [share // divisor for share in shares]
    order = sorted(_by_name(winners), key=lambda index: -(shares[index] % divisor))
    for index in order[: total - sum(lots)]:
        lots[index] += 1
    return lots


def _ranks(fractions: Sequence[tuple[int, int]]) -> list[int]:
    """Return integers in the order of the fractions (numerator, denominator > 0), equal where those are equal.

    Two different fractions a/b and c/d are at least 1/(bd) apart; scaled by 2**shift >= bd they are at least 1 apart,
    and so are different after rounding down.
    """
    shift = 2 * max(denominator for _, denominator in fractions).bit_length()
    return [(numerator << shift) // denominator for numerator, denominator in fractions]


def _by_name(winners: Sequence[Winner]) -> list[int]:
    """Return indices by account, bucket, leg: sorting is stable, so this is what decides between equal claims."""
    names = [(winner.account, winner.bucket, winner.leg) for winner in winners]
    return sorted(range(len(winners)), key=names.__getitem__)


RULES: dict[str, Callable[[Sequence[Winner], int], list[int]]] = {
    "queue": _queue,
    "pro_rata": _pro_rata,
    "water_filling": _water_filling,
}
