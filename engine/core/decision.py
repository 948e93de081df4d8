"""What a third party needs to check a decision: every figure that went into it, exact, in contract notation.

The record is written with each order. It holds no float and nothing that is not state or input: whoever has it can
recompute equity, maintenance margin, bankruptcy and limit price, plan and certificate with pencil and paper, without
the risk file; ``liq-engine verify`` does. Of the parameters it holds what bears on the order: of a tier table the part
up to the tier that holds and the floor of the next, of the policy what decides whether, how much and at which limit.
"""

from __future__ import annotations

from typing import Any

from engine.core.book import LEG_NAMES
from engine.core.guards import fresh_positions, row_assets, row_symbols
from engine.core.kernels.margin import DEDUCTION, DEDUCTION_PPM, FLOOR, RATE, notional_parts, tier_of
from engine.core.margin import entry_price, margin_ratio, position_margins
from engine.core.params import Policy
from engine.core.rejects import place_fields
from engine.core.shard import Shard
from engine.units import PPM, format_number, format_ppm, format_scaled, format_units


def decision_record(
    shard: Shard,
    row: int,
    plan: list[dict[str, Any]],
    wanted: list[dict[str, Any]] | None,
    certificate: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the ``decision`` of the orders in ``plan`` for a row, at the prices in force.

    ``wanted`` is the plan before a flow budget cut it, None where none did. ``certificate`` says why the plan (the
    wanted one) is (nearly) the cheapest; sales of an account without positions need none.
    """
    book = shard.book
    equity, maintenance = book.equity(row), book.maintenance(row)
    symbols = row_symbols(book, row)
    left_out = symbols_left_out(shard, row)
    return {
        "equity": format_units(equity),
        "maintenance_margin": format_units(maintenance),
        "target": {
            "buffer": format_ppm(book.policy.target_buffer_ppm),
            "equity": format_units(target_equity(maintenance, book.policy.target_buffer_ppm)),
        },
        "policy": policy_fields(book.policy),
        "marks": [mark_fields(shard, symbol) for symbol in symbols],
        "asset_prices": [asset_price_fields(shard, asset) for asset in row_assets(book, row)],
        "instruments": [instrument_fields(shard, row, symbol) for symbol in symbols],
        "positions": position_fields(shard, row),
        "collateral": [collateral_fields(shard, row, asset) for asset in row_assets(book, row)],
        "costs": [cost_fields(shard, symbol) for symbol in symbols],
        **({"left_out": left_out} if left_out else {}),
        "plan": plan,
        **({"wanted": wanted} if wanted is not None else {}),
        **({"certificate": certificate} if certificate is not None else {}),
        "policy_version": book.policy_version,
        "input": place_fields(shard.origin),
    }


def target_equity(maintenance: int, buffer_ppm: int) -> int:
    """Return (1 + buffer) x MM, rounded up: the equity at which an episode may stop."""
    return maintenance - (-maintenance * buffer_ppm // PPM)


def policy_fields(policy: Policy) -> dict[str, Any]:
    """Return the rules that decide whether an order is sent, for how much, at which limit and how much of it now."""
    fixed = {
        "fraction": format_ppm(policy.fraction_ppm),
        "fraction_above": format_units(policy.fraction_above_units),
    }
    return {
        "trigger": policy.trigger,
        "tier_mode": policy.tier_mode,
        "partial": policy.partial,
        **(fixed if policy.partial == "fixed" else {}),
        "min_notional": format_units(policy.min_notional_units),
        "limit_band": format_ppm(policy.limit_band_ppm),
        "takeover_ratio": format_ppm(policy.takeover_ratio_ppm),
        "flow_window_ms": policy.flow_window_ms,
        "emergency_ratio": format_ppm(policy.emergency_ratio_ppm),
    }


def symbols_left_out(shard: Shard, row: int) -> list[str]:
    """Return the symbols that no order may close now: a row that waited its time goes on with its fresh marks only."""
    if row not in shard.forced:
        return []
    book, fresh = shard.book, {symbol for symbol, _ in fresh_positions(shard, row)}
    return [book.instruments[symbol].symbol for symbol in row_symbols(book, row) if symbol not in fresh]


def mark_fields(shard: Shard, symbol: int) -> dict[str, Any]:
    """Return a mark as it was used."""
    instrument, mark = shard.book.instruments[symbol], shard.book.marks[symbol]
    return {"symbol": instrument.symbol, "price": format_scaled(mark.value, instrument.price_decimals), "ts": mark.ts}


def asset_price_fields(shard: Shard, asset: int) -> dict[str, Any]:
    """Return an asset price as it was used."""
    price = shard.book.asset_prices[asset]
    return {"asset": shard.book.assets[asset].name, "price": format_units(price.value), "ts": price.ts}


def instrument_fields(shard: Shard, row: int, symbol: int) -> dict[str, Any]:
    """Return a contract's terms, its tiers up to the one that holds for the row's larger leg, and the next floor."""
    book, instrument, tiers = shard.book, shard.book.instruments[symbol], shard.book.tiers[symbol]
    sizes = [abs(book.position(row, held, leg)[0]) for held, leg in book.positions_of(row) if held == symbol]
    floor, _, _ = notional_parts(book.specs[symbol], max(sizes), book.marks[symbol].value)
    count = int(tier_of(tiers, floor)) + 1
    above = instrument.tiers[count : count + 1]
    return {
        "symbol": instrument.symbol,
        "kind": instrument.kind,
        "settle": instrument.settle,
        "multiplier": format_number(instrument.multiplier),
        "price_tick": format_number(instrument.price_tick),
        "lot": format_number(instrument.lot),
        "tiers": [[format_units(tier.floor_units), format_ppm(tier.rate_ppm)] for tier in instrument.tiers[:count]],
        "next_floor": format_units(above[0].floor_units) if above else None,
        "flow_budget": None if instrument.flow_budget_units is None else format_units(instrument.flow_budget_units),
    }


def position_fields(shard: Shard, row: int) -> list[dict[str, Any]]:
    """Return the row's positions with the tier that holds for each."""
    book, fields = shard.book, []
    for position in position_margins(book, row):
        instrument, tiers = book.instruments[position.symbol], book.tiers[position.symbol]
        spec, mark = book.specs[position.symbol], book.marks[position.symbol].value
        floor, _, _ = notional_parts(spec, abs(position.size), mark)
        tier = tiers[tier_of(tiers, floor)]
        fields.append(
            {
                "symbol": instrument.symbol,
                "leg": LEG_NAMES[position.leg],
                "qty": format_scaled(position.size, instrument.size_decimals),
                "entry_price": entry_price(book, position.symbol, position.size, position.cost),
                "cost": format_units(position.cost),
                "notional": format_units(position.notional_up),
                "tier_floor": format_units(int(tier[FLOOR])),
                "tier_rate": format_ppm(int(tier[RATE])),
                "deduction": format_scaled(int(tier[DEDUCTION]) * PPM + int(tier[DEDUCTION_PPM]), 14),
                "unrealised_pnl": format_units(position.pnl_floor),
                "maintenance_margin": format_units(position.maintenance),
            }
        )
    return fields


def collateral_fields(shard: Shard, row: int, asset: int) -> dict[str, Any]:
    """Return a balance with what it counts for, and what selling it is expected to lose."""
    book = shard.book
    parameters, balance = book.assets[asset], book.wallet(row, asset)
    return {
        "asset": parameters.name,
        "balance": format_units(balance),
        "weights": [[format_units(floor), format_ppm(weight)] for floor, weight in parameters.weights],
        "value": format_units(book.balance_value(asset, balance)),
        "decimals": parameters.decimals,
        "slippage": format_ppm(parameters.slippage_ppm),
    }


def cost_fields(shard: Shard, symbol: int) -> dict[str, Any]:
    """Return the cost rates a close of this symbol is expected to have."""
    instrument = shard.book.instruments[symbol]
    return {
        "symbol": instrument.symbol,
        "taker_fee": format_ppm(instrument.taker_fee_ppm),
        "liquidation_fee": format_ppm(instrument.liquidation_fee_ppm),
        "slippage": format_ppm(instrument.slippage_ppm),
    }


def standing_fields(shard: Shard, row: int) -> dict[str, Any]:
    """Return the subject and margin figures that several events share."""
    equity, maintenance = shard.book.equity(row), shard.book.maintenance(row)
    return {
        **shard.subject(row),
        "equity": format_units(equity),
        "maintenance_margin": format_units(maintenance),
        "margin_ratio": margin_ratio(equity, maintenance),
    }
