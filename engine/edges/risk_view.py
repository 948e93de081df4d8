"""What the risk parameters in force say, in text, in JSON, and in warnings about what was probably not meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.core.params import ASSET_FIELDS, INSTRUMENT_FIELDS, POLICY_FIELDS, Asset, Instrument, Policy, Risk
from engine.units import PPM, UNIT, format_number, format_ppm, format_units


def describe_risk(risk: Risk) -> str:
    """Return what ``check-config`` prints for a file without errors: policy, assets, instruments, warnings."""
    lines = ["policy"]
    lines += [f"  {key:<20} {value}" for key, value in policy_fields(risk.policy).items()]
    lines += ["", f"assets: {len(risk.assets)}"]
    lines += [f"  {describe_asset(asset)}" for asset in risk.assets.values()]
    lines += ["", f"instruments: {len(risk.instruments)}"]
    lines += [f"  {describe_instrument(instrument)}" for instrument in risk.instruments.values()]
    found = warnings(risk)
    lines += ["", f"warnings: {len(found)}"]
    lines += [f"  {text}" for text in found]
    return "\n".join(lines)


def risk_as_json(risk: Risk) -> dict[str, Any]:
    """Return what ``check-config --json`` prints for a file without errors."""
    return {
        "ok": True,
        "policy": policy_fields(risk.policy),
        "assets": len(risk.assets),
        "instruments": len(risk.instruments),
        "warnings": warnings(risk),
    }


def policy_fields(policy: Policy) -> dict[str, Any]:
    """Return a policy as its file would state it: rates and amounts as decimal strings."""
    return stated_fields(policy, POLICY_FIELDS)


def risk_fields(risk: Risk) -> dict[str, Any]:
    """Return every parameter in force under its full name, such as ``instruments.BTCUSDT.taker_fee``."""
    fields = {f"policy.{key}": value for key, value in policy_fields(risk.policy).items()}
    for name, asset in risk.assets.items():
        fields |= {f"assets.{name}.{key}": value for key, value in stated_fields(asset, ASSET_FIELDS).items()}
    for symbol, instrument in risk.instruments.items():
        stated = stated_fields(instrument, INSTRUMENT_FIELDS)
        fields |= {f"instruments.{symbol}.{key}": value for key, value in stated.items()}
    return fields


def stated_fields(record: Policy | Asset | Instrument, known: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Return a record's settable fields as a risk file would state them."""
    return {key: stated(attribute, getattr(record, attribute)) for key, (attribute, _) in known.items()}


def stated(attribute: str, value: Any) -> Any:
    """Return one value as a risk file would state it; rows of a table as lists."""
    if attribute == "tiers":
        return [
            [format_units(tier.floor_units), format_ppm(tier.rate_ppm), format_ppm(tier.leverage_ppm)] for tier in value
        ]
    if attribute == "weights":
        return [[format_units(floor_units), format_ppm(weight_ppm)] for floor_units, weight_ppm in value]
    if attribute in ("multiplier", "price_tick", "lot"):
        return format_number(value)
    if value is not None and attribute.endswith("_ppm"):
        return format_ppm(value)
    if value is not None and attribute.endswith("_units"):
        return format_units(value)
    return value


def describe_asset(asset: Asset) -> str:
    """Return one line about an asset."""
    price = "from the log" if asset.price_units is None else format_units(asset.price_units)
    weights = " > ".join(format_ppm(weight) for _, weight in asset.weights)
    return f"{asset.name:<14} price {price:<12} weight {weights}"


def describe_instrument(instrument: Instrument) -> str:
    """Return one line about an instrument."""
    first, last = instrument.tiers[0], instrument.tiers[-1]
    return (
        f"{instrument.symbol:<14} {instrument.kind:<7} {instrument.settle:<5} tiers {len(instrument.tiers):>2}"
        f"  maintenance {format_ppm(first.rate_ppm)} to {format_ppm(last.rate_ppm)}"
        f"  leverage {format_ppm(first.leverage_ppm)} to {format_ppm(last.leverage_ppm)}"
    )


def warnings(risk: Risk) -> list[str]:
    """Return what is allowed but probably not meant, a sentence each."""
    found = [*policy_warnings(risk.policy)]
    unpriced = [asset.name for asset in risk.assets.values() if asset.price_units is None]
    if unpriced and risk.policy.mark_stale_ms == 0:
        found.append(f"assets {', '.join(unpriced)}: priced by the log, and mark_stale_ms = 0 lets a price grow old")
    own = risk.assets.get(risk.policy.valuation)
    if own is not None and own.price_units != UNIT:
        found.append(f"assets.{own.name}: the valuation currency should have the fixed price 1")
    if not risk.instruments:
        found.append("no instruments: every fill and mark will be rejected")
    for instrument in risk.instruments.values():
        found += [f"instruments.{instrument.symbol}: {text}" for text in instrument_warnings(instrument, risk.policy)]
    return found


def policy_warnings(policy: Policy) -> Iterator[str]:
    """Yield the warnings about ``[policy]``."""
    if policy.mark_stale_ms == 0:
        yield "policy: mark_stale_ms = 0: a dead price feed is not noticed"
    if policy.price_band_ppm == 0:
        yield "policy: price_band = 0: one wrong mark can liquidate healthy accounts"
    if policy.limit_band_ppm == 0:
        yield "policy: limit_band = 0: a limit at the mark hardly fills in a falling market; accounts go to takeover"
    if policy.target_buffer_ppm == 0:
        yield "policy: target_buffer = 0: an account leaves liquidation at its edge and returns at the next tick"
    if policy.takeover_ratio_ppm == PPM:
        yield "policy: takeover_ratio = 1: the fund takes over every account before an order is tried"


def instrument_warnings(instrument: Instrument, policy: Policy) -> Iterator[str]:
    """Yield the warnings about one instrument."""
    for index, tier in enumerate(instrument.tiers):
        if tier.rate_ppm * tier.leverage_ppm > PPM * PPM:
            rate = format_ppm(tier.rate_ppm)
            yield f"tiers[{index}]: initial margin 1/max_leverage is below the maintenance rate {rate}"
    costs_ppm = instrument.taker_fee_ppm + instrument.liquidation_fee_ppm + instrument.slippage_ppm
    freed_ppm = instrument.tiers[0].rate_ppm * (PPM + policy.target_buffer_ppm) // PPM
    if policy.partial == "cheapest" and costs_ppm >= freed_ppm:
        costs, freed = format_ppm(costs_ppm), format_ppm(freed_ppm)
        yield f"tiers[0]: fees and slippage {costs} eat the {freed} that closing frees: no partial liquidation there"
    if instrument.flow_budget_units == 0:
        yield "flow_budget = 0: no order ever fits; leave it out for no limit"
    if instrument.impact_ppm and instrument.depth_units is None:
        yield "impact without depth has no effect"
