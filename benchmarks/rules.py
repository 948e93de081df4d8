"""What usual ways to liquidate close, beside the engine's: largest first, pro rata, all at once, a fifth at a time.

Each rule is written from its own words on ``formulas.py``; it sees the account as the engine does - same positions,
same marks, same margin, same costs - and says how many lots of each position it closes, in how many orders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from benchmarks.formulas import Held, Slice, Target, Wallet
from engine.units import UNIT

FIXED = Fraction(1, 5)


@dataclass(frozen=True)
class Account:
    """An account in trouble: units of equity and maintenance margin, positions and balances."""

    name: str
    equity: int
    held: tuple[Held, ...]
    wallets: tuple[Wallet, ...]
    target: Target
    min_notional: Fraction

    @property
    def maintenance(self) -> int:
        """The maintenance margin in units."""
        return sum(position.margin(position.lots) for position in self.held)

    @property
    def needed(self) -> Fraction:
        """What has to be freed, in the valuation currency."""
        return self.target.needed(self.equity, self.maintenance)


@dataclass(frozen=True)
class Done:
    """What a rule did: lots closed of each position, orders sent, expected cost and equity and margin after, in units.

    ``sold`` is the value of collateral sold.
    """

    lots: tuple[int, ...]
    orders: int
    cost: int
    equity: int
    maintenance: int
    sold: Fraction = Fraction(0)

    def notional(self, account: Account) -> Fraction:
        """Return the notional closed, in the valuation currency."""
        return sum((held.value(lots) for held, lots in zip(account.held, self.lots, strict=True)), Fraction(0))

    def is_healthy(self, account: Account) -> bool:
        """Return whether the account may be left alone; one without positions must not owe more than it has."""
        return self.equity >= 0 and account.target.is_met(self.equity, self.maintenance)


def close(account: Account, lots: Sequence[int]) -> Done:
    """Return what closing these lots does, one order a position."""
    cost = sum(held.cost(count) for held, count in zip(account.held, lots, strict=True))
    left = sum(held.margin(held.lots - count) for held, count in zip(account.held, lots, strict=True))
    return Done(tuple(lots), sum(map(bool, lots)), cost, account.equity - cost, left)


def largest_first(account: Account) -> Done:
    """Close the largest position as far as needed, the next one only when all of it was not enough."""
    needed, lots = account.needed, dict.fromkeys(account.held, 0)
    for held in sorted(account.held, key=lambda held: (-held.value(held.lots), held.name)):
        if needed <= 0:
            break
        slices = held.slices(account.target)
        value = try_value_freeing(slices, needed)
        lots[held] = held.lots if value is None else held.lots_for(value)
        needed = Fraction(0) if value is not None else needed - sum(length * rate for length, rate in slices)
    return close(account, list(lots.values()))


def try_value_freeing(slices: Sequence[Slice], needed: Fraction) -> Fraction | None:
    """Return the least value from the top that frees ``needed``, or None where a slice stops helping before."""
    value = Fraction(0)
    for length, rate in slices:
        if rate <= 0:
            return None
        if length * rate >= needed:
            return value + needed / rate
        value, needed = value + length, needed - length * rate
    return None


def pro_rata(account: Account) -> Done:
    """Close the same part of every position, the least that is enough, each up to the lot; all where none is."""
    curves = [(held, held.slices(account.target)) for held in account.held]

    def freed(part: Fraction) -> Fraction:
        return sum((freed_by(slices, part * held.value(held.lots)) for held, slices in curves), Fraction(0))

    corners = sorted({end / held.value(held.lots) for held, slices in curves for end in ends(slices)})
    before = Fraction(0)
    for corner in corners:
        if freed(corner) >= account.needed:
            # Straight between two corners.
            low, high = freed(before), freed(corner)
            part = before + (corner - before) * (account.needed - low) / (high - low)
            return close(account, [held.lots_for(part * held.value(held.lots)) for held in account.held])
        before = corner
    return at_once(account)


def freed_by(slices: Sequence[Slice], value: Fraction) -> Fraction:
    """Return what closing ``value`` from the top frees."""
    freed = Fraction(0)
    for length, rate in slices:
        part = min(length, value)
        freed, value = freed + part * rate, value - part
    return freed


def ends(slices: Sequence[Slice]) -> list[Fraction]:
    """Return where each slice ends."""
    return [sum((length for length, _ in slices[:count]), Fraction(0)) for count in range(1, len(slices) + 1)]


def at_once(account: Account) -> Done:
    """Close everything."""
    return close(account, [held.lots for held in account.held])


def fixed_part(account: Account) -> Done:
    """Close a fifth of what is left of each position, again and again until it is enough or nothing is left.

    Every round is one order a position, up to the lot; a rest under ``min_notional`` goes with it.
    """
    open_lots = [held.lots for held in account.held]
    done = close(account, [0] * len(open_lots))
    cost = orders = 0
    while any(open_lots) and not done.is_healthy(account):
        for index, held in enumerate(account.held):
            lots = ceil(FIXED * open_lots[index])
            if held.value(open_lots[index] - lots) < account.min_notional:
                lots = open_lots[index]
            open_lots[index] -= lots
            orders += bool(lots)
            cost += held.cost(lots)
        left = sum(held.margin(lots) for held, lots in zip(account.held, open_lots, strict=True))
        closed = tuple(held.lots - lots for held, lots in zip(account.held, open_lots, strict=True))
        done = Done(closed, orders, cost, account.equity - cost, left)
    return done


RULES: dict[str, Callable[[Account], Done]] = {
    "largest first": largest_first,
    "pro rata": pro_rata,
    "all at once": at_once,
    "a fifth at a time": fixed_part,
}


def sell(account: Account, done: Done, sales: Sequence[tuple[str, int, str]]) -> Done:
    """Return what was done with sales beside it: (asset, amount in units, for which asset)."""
    wallets = {wallet.asset: wallet for wallet in account.wallets}
    cost, equity, sold = done.cost, done.equity, Fraction(0)
    received = dict.fromkeys(wallets, 0)
    for asset, amount, bought in sales:
        wallet = wallets[asset]
        steps = amount // wallet.step
        cost, sold = cost + wallet.cost(steps), sold + wallet.value(steps)
        received[asset] -= amount
        received[bought] += wallet.proceeds(steps, wallets[bought])
    equity += sum(
        wallet.worth(wallet.balance + received[wallet.asset]) - wallet.worth(wallet.balance)
        for wallet in account.wallets
    )
    return Done(done.lots, done.orders + len(sales), cost, equity, done.maintenance, sold)


def as_units(value: Fraction) -> int:
    """Return an amount of the valuation currency in units, down."""
    return int(value * UNIT // 1)
