"""What ``liq-engine margin`` must print: the slow oracle, in plain ints and fractions, written from CONTRACT.md alone.

Shares no code with ``engine``: where the two disagree, the page decides. Its parts:

    reference_numbers   decimals in and out, the roundings
    reference_terms     formulas of section 4, before rounding
    reference_book      a book dict as holdings: cross wallets and isolated buckets
    reference (here)    holdings to figures to rows
    reference_prices    liquidation and bankruptcy price
    reference_ledger    events to balances and positions
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

from tests.reference_book import CROSS, Holding, Position, read_holdings
from tests.reference_numbers import UNIT, half_even, show, show_units, units_floor, units_up
from tests.reference_prices import Frozen, bankruptcy_price, liquidation_price
from tests.reference_terms import (
    Market,
    collateral_value,
    entry_price,
    initial_margin,
    maintenance_margin,
    notional_at,
    policy_of,
    read_market,
    value_at,
)

ENTRY_DECIMALS = 18
RATIO_DECIMALS = 8


@dataclass(frozen=True)
class PositionFigures:
    """One leg at its mark; exact values in the settlement asset, units in the valuation currency."""

    notional: Fraction
    pnl: Fraction
    maintenance_settle_units: int
    initial_settle_units: int
    pnl_units: int
    maintenance_units: int
    initial_units: int


@dataclass(frozen=True)
class HoldingFigures:
    """One margin test, in units of the valuation currency."""

    wallet_units: int
    pnl_units: int
    maintenance_units: int
    initial_units: int
    positions: list[PositionFigures]

    @property
    def equity_units(self) -> int:
        """Collateral after haircut plus unrealised PnL."""
        return self.wallet_units + self.pnl_units


def margin_rows(book: dict[str, Any], risk: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of ``liq-engine margin`` without ``plan``, by account then bucket, no ``$`` rows."""
    market = read_market(book, risk)
    return [row_of(holding, market) for holding in read_holdings(book, risk) if not holding.account.startswith("$")]


def row_of(holding: Holding, market: Market) -> dict[str, Any]:
    """Return one row: an account, or one isolated bucket of it."""
    figures = figures_of(holding, market)
    return {
        "account": holding.account,
        **({} if holding.bucket == CROSS else {"bucket": holding.bucket}),
        "equity": show_units(figures.equity_units),
        "wallet_value": show_units(figures.wallet_units),
        "unrealised_pnl": show_units(figures.pnl_units),
        "maintenance_margin": show_units(figures.maintenance_units),
        "initial_margin": show_units(figures.initial_units),
        "margin_ratio": margin_ratio(figures),
        "liquidatable": is_liquidatable(figures, market),
        "positions": [
            position_row(holding, position, figures, market, part)
            for position, part in zip(holding.positions, figures.positions, strict=True)
        ],
    }


def figures_of(holding: Holding, market: Market) -> HoldingFigures:
    """Return a holding's figures; each collateral value is rounded down on its own, sums are exact."""
    positions = [position_figures(position, market) for position in holding.positions]
    collateral = [
        collateral_value(market.risk, asset, Fraction(units, UNIT), market.price(asset))
        for asset, units in holding.balances.items()
        if units
    ]
    return HoldingFigures(
        wallet_units=sum(units_floor(value) for value in collateral),
        pnl_units=sum(part.pnl_units for part in positions),
        maintenance_units=sum(part.maintenance_units for part in positions),
        initial_units=sum(part.initial_units for part in positions),
        positions=positions,
    )


def position_figures(position: Position, market: Market) -> PositionFigures:
    """Return one leg's figures at its mark: requirements up twice, each PnL·P down once."""
    terms = market.instruments[position.symbol]
    mark, price = market.mark(position.symbol), market.price(terms.settle)
    notional = notional_at(terms, position.qty, mark)
    pnl = value_at(terms, position.qty, mark) + Fraction(position.cost, UNIT)
    tier_mode = policy_of(market.risk, "tier_mode", "marginal")
    # Up in the settlement asset first, because that is what must be held, then up again in the common currency.
    maintenance = units_up(maintenance_margin(terms, notional, tier_mode))
    initial = units_up(initial_margin(terms, notional))
    return PositionFigures(
        notional=notional,
        pnl=pnl,
        maintenance_settle_units=maintenance,
        initial_settle_units=initial,
        pnl_units=units_floor(pnl * price),
        maintenance_units=ceil(maintenance * price),
        initial_units=ceil(initial * price),
    )


def is_liquidatable(figures: HoldingFigures, market: Market) -> bool:
    """Return whether MM > 0 and E <= MM, or E < MM where the policy's trigger is ``below``."""
    if policy_of(market.risk, "trigger", "at_or_below") == "below":
        return figures.maintenance_units > 0 and figures.equity_units < figures.maintenance_units
    return figures.maintenance_units > 0 and figures.equity_units <= figures.maintenance_units


def margin_ratio(figures: HoldingFigures) -> str | None:
    """Return MM / E to 8 decimals, up; None where there is no equity to divide by, 0 where nothing is required."""
    if figures.maintenance_units == 0:
        return "0"
    if figures.equity_units <= 0:
        return None
    scale = 10**RATIO_DECIMALS
    return show(Fraction(ceil(Fraction(figures.maintenance_units * scale, figures.equity_units)), scale))


def position_row(
    holding: Holding, position: Position, figures: HoldingFigures, market: Market, part: PositionFigures
) -> dict[str, Any]:
    """Return one position of a row, in its settlement asset."""
    terms = market.instruments[position.symbol]
    entry = entry_price(terms, position.qty, Fraction(position.cost, UNIT))
    frozen = freeze_rest(holding, position.symbol, figures, market)
    edge = liquidation_price(frozen, market.mark(position.symbol))
    bankruptcy = bankruptcy_price(
        terms,
        position.qty,
        mark=market.mark(position.symbol),
        price=market.price(terms.settle),
        equity_share=share_of(figures, part),
    )
    return {
        "symbol": position.symbol,
        "leg": position.leg,
        "qty": show(position.qty),
        "entry_price": None if entry is None else show(half_even(entry, ENTRY_DECIMALS)),
        "notional": show_units(units_up(part.notional)),
        "unrealised_pnl": show_units(units_floor(part.pnl)),
        "maintenance_margin": show_units(part.maintenance_settle_units),
        "initial_margin": show_units(part.initial_settle_units),
        "liquidation_price": None if edge is None else show(edge),
        "bankruptcy_price": None if bankruptcy is None else show(bankruptcy),
    }


def share_of(figures: HoldingFigures, part: PositionFigures) -> Fraction | None:
    """Return the equity that falls to one position, E·MM_i/MM in the valuation currency, or None where MM = 0."""
    if figures.maintenance_units == 0:
        return None
    return Fraction(figures.equity_units * part.maintenance_units, figures.maintenance_units) / UNIT


def freeze_rest(holding: Holding, symbol: str, figures: HoldingFigures, market: Market) -> Frozen:
    """Return the holding with all but the mark of ``symbol`` frozen: both legs of a hedge stay in motion."""
    moving = [i for i, position in enumerate(holding.positions) if position.symbol == symbol]
    terms = market.instruments[symbol]
    return Frozen(
        terms=terms,
        legs=[holding.positions[i] for i in moving],
        price=market.price(terms.settle),
        equity_units=figures.equity_units - sum(figures.positions[i].pnl_units for i in moving),
        maintenance_units=figures.maintenance_units - sum(figures.positions[i].maintenance_units for i in moving),
        tier_mode=policy_of(market.risk, "tier_mode", "marginal"),
        below=policy_of(market.risk, "trigger", "at_or_below") == "below",
    )


def brute_force_liquidation_price(
    book: dict[str, Any], risk: dict[str, Any], account: str, symbol: str, *, grid_max: int, bucket: str = CROSS
) -> str | None:
    """Return the liquidation price by valuing the whole account anew at every grid price from 1 to ``grid_max``.

    The search's judge on small grids: it knows nothing of tiers, slopes or sides. An edge is a liquidatable price
    with a neighbour that is not; the nearest to the mark is printed, the lower of two equally near.
    """
    market = read_market(book, risk)
    (holding,) = [h for h in read_holdings(book, risk) if (h.account, h.bucket) == (account, bucket)]
    step = market.instruments[symbol].mark_step
    flags = [False] * (grid_max + 1)
    for steps in range(1, grid_max + 1):
        moved = Market(risk, market.instruments, {**market.marks, symbol: steps * step}, market.prices)
        flags[steps] = is_liquidatable(figures_of(holding, moved), moved)
    edges = [
        steps
        for steps in range(1, grid_max + 1)
        if flags[steps] and any(not flags[n] for n in (steps - 1, steps + 1) if 1 <= n <= grid_max)
    ]
    if not edges:
        return None
    return show(min(edges, key=lambda steps: (abs(steps * step - market.mark(symbol)), steps)) * step)
