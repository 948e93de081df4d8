"""Which risk parameters exist, what each may be, and the integers the core computes with.

One table per section (``POLICY_FIELDS``, ``ASSET_FIELDS``, ``INSTRUMENT_FIELDS``) names every key with its parser
and default; the risk file and the ``set_*`` control messages go through the same tables, so both know the same
keys and the same rules. Raw values are decimal strings, ints or bools (a risk file's TOML floats arrive as the text
they were written with). A rule that is broken raises ``ParamError(key, value, rule)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import gcd
from typing import Any

from engine.errors import ParamError
from engine.units import (
    INT64_MAX,
    POSITION_UNITS_MAX,
    PPM,
    PPM_DECIMALS,
    UNIT,
    UNIT_DECIMALS,
    Number,
    format_number,
    number_decimals,
    scaled_half_even,
    try_number,
    try_scaled,
)

IDENTITY_BYTES_MAX = 64
MAX_LEVERAGE = 1000
# No venue has a lot, tick or multiplier beyond a million; a bound keeps every derived scale inside 64 bits.
STEP_MAX = 1_000_000
STEP_DECIMALS_MAX = 14


@dataclass(frozen=True, slots=True)
class Policy:
    """How the engine acts; every field is a key of ``[policy]`` in the README, "Risk file"."""

    valuation: str = "USD"
    trigger: str = "at_or_below"
    tier_mode: str = "marginal"
    margin_call_ratio_ppm: int = 800_000
    margin_call_rearm_ppm: int = 750_000
    target_buffer_ppm: int = 0
    partial: str = "cheapest"
    fraction_ppm: int = 200_000
    fraction_above_units: int = 0
    min_notional_units: int = 0
    limit_band_ppm: int = 50_000
    order_timeout_ms: int = 5_000
    max_attempts: int = 3
    takeover_ratio_ppm: int = 0
    surplus: str = "account"
    insurance_floor_units: int = 0
    adl_rule: str = "queue"
    socialise: str = "off"
    mark_stale_ms: int = 0
    price_band_ppm: int = 0
    max_hold_ms: int = 60_000
    flow_window_ms: int = 1_000
    emergency_ratio_ppm: int = 0
    max_future_s: int = 0
    impact_half_life_s: int = 60


@dataclass(frozen=True, slots=True)
class Asset:
    """A collateral or settlement asset.

    ``price_units`` is a fixed price in the valuation currency, or None where prices come from the log.
    ``weights`` are slices (floor in valuation units, weight in ppm) of the value of a positive balance. Below
    ``redemption_floor_units`` (None: none) a price is only believed once several sources have printed it.
    """

    name: str
    decimals: int = UNIT_DECIMALS
    price_units: int | None = None
    weights: tuple[tuple[int, int], ...] = ((0, PPM),)
    slippage_ppm: int = 0
    redemption_floor_units: int | None = None

    @property
    def step_units(self) -> int:
        """The smallest amount that can be moved from outside, in units."""
        return int(10 ** (UNIT_DECIMALS - self.decimals))


@dataclass(frozen=True, slots=True)
class Tier:
    """From ``floor_units`` of notional on: the maintenance rate and the largest leverage."""

    floor_units: int
    rate_ppm: int
    leverage_ppm: int


@dataclass(frozen=True, slots=True)
class Instrument:
    """A perpetual contract.

    Sizes are counted in 10**-size_decimals contracts and prices in 10**-price_decimals quote, such that for a linear
    contract size x price x value_num / value_den is money units (value_num / value_den is the multiplier), and for an
    inverse one size x value_num / price is money units of the settlement coin (value_den is 1).
    """

    symbol: str
    kind: str
    base: str
    settle: str
    multiplier: Number
    price_tick: Number
    lot: Number
    mark_decimals: int
    tiers: tuple[Tier, ...]
    slippage_ppm: int = 0
    taker_fee_ppm: int = 0
    liquidation_fee_ppm: int = 0
    flow_budget_units: int | None = None
    half_spread_ppm: int = 0
    depth_units: int | None = None
    impact_ppm: int = 0
    size_decimals: int = field(default=0)
    price_decimals: int = field(default=0)
    lot_steps: int = field(default=1)
    tick_steps: int = field(default=1)
    mark_steps: int = field(default=1)
    value_num: int = field(default=1)
    value_den: int = field(default=1)

    @property
    def is_inverse(self) -> bool:
        """True for a coin-settled contract whose notional is qty x multiplier / price."""
        return self.kind == "inverse"


# A position names its symbol in 16 bits.
INSTRUMENTS_MAX = 32_767


@dataclass(frozen=True, slots=True)
class Risk:
    """All risk parameters: what a risk file holds."""

    policy: Policy = field(default_factory=Policy)
    assets: Mapping[str, Asset] = field(default_factory=dict)
    instruments: Mapping[str, Instrument] = field(default_factory=dict)


Parser = Callable[[str, Any], Any]


def as_number(key: str, value: Any) -> Number:
    """Return a raw value as an exact decimal."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ParamError(key, value, "must be a decimal string or an integer", "bad_type")
    if isinstance(value, int):
        return value, 0
    number = try_number(value)
    if number is None:
        raise ParamError(key, value, "must be a plain decimal: no exponent, no sign but '-', no spaces", "bad_number")
    return number


def scaled(
    decimals: int, low: int = 0, high: int = INT64_MAX, *, low_open: bool = False, high_open: bool = False
) -> Parser:
    """Return a parser for a decimal of at most ``decimals`` decimals between ``low`` and ``high`` (scaled ints)."""

    def parse(key: str, value: Any) -> int:
        number = as_number(key, value)
        result = try_scaled(number, decimals)
        if result is None:
            raise ParamError(key, value, f"at most {decimals} decimals", "surplus_digits")
        if result < low or result > high or (low_open and result == low) or (high_open and result == high):
            bounds = f"{'above' if low_open else 'at least'} {low / 10**decimals:g}"
            if high != INT64_MAX:
                bounds += f" and {'below' if high_open else 'at most'} {high / 10**decimals:g}"
            raise ParamError(key, value, f"must be {bounds}")
        return result

    return parse


def integer(low: int, high: int) -> Parser:
    """Return a parser for a whole number between ``low`` and ``high``."""
    return scaled(0, low, high)


def choice(*allowed: str) -> Parser:
    """Return a parser for one of a few words."""

    def parse(key: str, value: Any) -> str:
        if not isinstance(value, str):
            raise ParamError(key, value, f"must be one of {', '.join(allowed)}", "bad_type")
        if value not in allowed:
            raise ParamError(key, value, f"must be one of {', '.join(allowed)}")
        return value

    return parse


def optional(parser: Parser) -> Parser:
    """Return a parser that also takes ``none`` (the word, or null) for None."""

    def parse(key: str, value: Any) -> Any:
        return None if value is None or value == "none" else parser(key, value)

    return parse


def identity(key: str, value: Any) -> str:
    """Return a non-empty name of at most 64 bytes."""
    if not isinstance(value, str):
        raise ParamError(key, value, "must be a string", "bad_type")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise ParamError(key, value, "holds half of a surrogate pair", "bad_type") from error
    if not 0 < size <= IDENTITY_BYTES_MAX:
        raise ParamError(key, value, f"must be 1 to {IDENTITY_BYTES_MAX} bytes")
    return value


def positive_number(key: str, value: Any) -> Number:
    """Return an exact decimal > 0."""
    number = as_number(key, value)
    if number[0] <= 0 or number[0] > STEP_MAX * 10 ** number[1]:
        raise ParamError(key, value, f"must be above 0 and at most {STEP_MAX}")
    return number


def table(columns: tuple[tuple[str, Parser], ...]) -> Parser:
    """Return a parser for a list of rows with the given columns, floors from 0 and strictly rising."""

    def parse(key: str, value: Any) -> tuple[tuple[Any, ...], ...]:
        if not isinstance(value, list | tuple) or not value:
            raise ParamError(key, value, f"must be a list of [{', '.join(name for name, _ in columns)}]", "bad_type")
        rows = []
        for index, row in enumerate(value):
            if not isinstance(row, list | tuple) or len(row) != len(columns):
                expected = ", ".join(name for name, _ in columns)
                raise ParamError(f"{key}[{index}]", row, f"must be [{expected}]", "bad_type")
            rows.append(
                tuple(parser(f"{key}[{index}].{name}", cell) for (name, parser), cell in zip(columns, row, strict=True))
            )
        if rows[0][0] != 0:
            raise ParamError(f"{key}[0]", value[0], "the first floor must be 0")
        for index in range(1, len(rows)):
            if rows[index][0] <= rows[index - 1][0]:
                raise ParamError(f"{key}[{index}]", value[index], "floors must rise from tier to tier")
        return tuple(rows)

    return parse


rate = scaled(PPM_DECIMALS, 0, PPM)
money = scaled(UNIT_DECIMALS, 0, POSITION_UNITS_MAX)


def parse_weights(key: str, value: Any) -> tuple[tuple[int, int], ...]:
    """Return collateral weights by slice; a weight may not grow with the value (a bigger pile is not safer)."""
    rows: tuple[tuple[int, int], ...] = table((("floor", money), ("weight", rate)))(key, value)
    for index in range(1, len(rows)):
        if rows[index][1] > rows[index - 1][1]:
            raise ParamError(f"{key}[{index}]", value[index], "weights may not grow from slice to slice")
    return rows


def parse_tiers(key: str, value: Any) -> tuple[Tier, ...]:
    """Return maintenance tiers; a rate may not shrink with the notional."""
    # Below 1 an initial margin would exceed the notional, and its sum the bounds that notionals keep.
    leverage = scaled(PPM_DECIMALS, PPM, MAX_LEVERAGE * PPM)
    columns = (("floor", money), ("maintenance_rate", rate), ("max_leverage", leverage))
    tiers = tuple(Tier(*row) for row in table(columns)(key, value))
    for index in range(1, len(tiers)):
        if tiers[index].rate_ppm < tiers[index - 1].rate_ppm:
            raise ParamError(f"{key}[{index}]", value[index], "rates may not shrink from tier to tier")
    return tiers


# key -> (attribute, parser)
POLICY_FIELDS: dict[str, tuple[str, Parser]] = {
    "valuation": ("valuation", identity),
    "trigger": ("trigger", choice("at_or_below", "below")),
    "tier_mode": ("tier_mode", choice("marginal", "whole")),
    "margin_call_ratio": ("margin_call_ratio_ppm", scaled(PPM_DECIMALS, 0, PPM, low_open=True)),
    "margin_call_rearm": ("margin_call_rearm_ppm", rate),
    "target_buffer": ("target_buffer_ppm", scaled(PPM_DECIMALS, 0, 10 * PPM)),
    "partial": ("partial", choice("cheapest", "off", "fixed")),
    "fraction": ("fraction_ppm", scaled(PPM_DECIMALS, 0, PPM, low_open=True)),
    "fraction_above": ("fraction_above_units", money),
    "min_notional": ("min_notional_units", money),
    "limit_band": ("limit_band_ppm", scaled(PPM_DECIMALS, 0, PPM, high_open=True)),
    "order_timeout_ms": ("order_timeout_ms", integer(1, 86_400_000)),
    "max_attempts": ("max_attempts", integer(1, 1_000_000)),
    "takeover_ratio": ("takeover_ratio_ppm", rate),
    "surplus": ("surplus", choice("account", "insurance")),
    "insurance_floor": ("insurance_floor_units", money),
    "adl_rule": ("adl_rule", choice("queue", "pro_rata", "water_filling")),
    "socialise": ("socialise", choice("off", "winners")),
    "mark_stale_ms": ("mark_stale_ms", integer(0, 86_400_000_000)),
    "price_band": ("price_band_ppm", scaled(PPM_DECIMALS, 0, 10 * PPM)),
    "max_hold_ms": ("max_hold_ms", integer(0, 86_400_000_000)),
    "flow_window_ms": ("flow_window_ms", integer(1, 86_400_000)),
    "emergency_ratio": ("emergency_ratio_ppm", rate),
    "max_future_s": ("max_future_s", integer(0, 3_153_600_000)),
    "impact_half_life_s": ("impact_half_life_s", integer(1, 86_400_000)),
}

ASSET_FIELDS: dict[str, tuple[str, Parser]] = {
    "decimals": ("decimals", integer(0, UNIT_DECIMALS)),
    "price": ("price_units", optional(scaled(UNIT_DECIMALS, 0, 10**9 * UNIT, low_open=True))),
    "weights": ("weights", parse_weights),
    "slippage": ("slippage_ppm", scaled(PPM_DECIMALS, 0, PPM, high_open=True)),
    "redemption_floor": ("redemption_floor_units", optional(scaled(UNIT_DECIMALS, 0, 10**9 * UNIT, low_open=True))),
}

INSTRUMENT_FIELDS: dict[str, tuple[str, Parser]] = {
    "kind": ("kind", choice("linear", "inverse")),
    "base": ("base", identity),
    "settle": ("settle", identity),
    "multiplier": ("multiplier", positive_number),
    "price_tick": ("price_tick", positive_number),
    "lot": ("lot", positive_number),
    "mark_decimals": ("mark_decimals", integer(-18, 18)),
    "tiers": ("tiers", parse_tiers),
    "slippage": ("slippage_ppm", scaled(PPM_DECIMALS, 0, PPM, high_open=True)),
    "taker_fee": ("taker_fee_ppm", scaled(PPM_DECIMALS, 0, PPM, high_open=True)),
    "liquidation_fee": ("liquidation_fee_ppm", scaled(PPM_DECIMALS, 0, PPM, high_open=True)),
    "flow_budget": ("flow_budget_units", optional(money)),
    "half_spread": ("half_spread_ppm", scaled(PPM_DECIMALS, 0, PPM, high_open=True)),
    "depth": ("depth_units", optional(scaled(UNIT_DECIMALS, 0, POSITION_UNITS_MAX, low_open=True))),
    "impact": ("impact_ppm", scaled(PPM_DECIMALS, 0, 10 * PPM)),
}


def parse_fields(fields: Mapping[str, Any], known: dict[str, tuple[str, Parser]]) -> dict[str, Any]:
    """Return attribute values for the keys of ``fields``; an unknown key raises."""
    values = {}
    for key, raw in fields.items():
        if key not in known:
            raise ParamError(key, raw, f"unknown key; known are {', '.join(known)}")
        attribute, parser = known[key]
        values[attribute] = parser(key, raw)
    return values


def attributes(record: Policy | Asset | Instrument, known: dict[str, tuple[str, Parser]]) -> dict[str, Any]:
    """Return the settable attributes of a record, to be changed and built again."""
    return {attribute: getattr(record, attribute) for attribute, _ in known.values()}


def build_policy(fields: Mapping[str, Any], base: Policy | None = None) -> Policy:
    """Return ``base`` (default: the defaults of the contract) with ``fields`` set."""
    policy = Policy(**(attributes(base or Policy(), POLICY_FIELDS) | parse_fields(fields, POLICY_FIELDS)))
    if policy.margin_call_rearm_ppm > policy.margin_call_ratio_ppm:
        raise ParamError("margin_call_rearm", fields.get("margin_call_rearm"), "must not be above margin_call_ratio")
    return policy


def build_asset(name: str, fields: Mapping[str, Any], base: Asset | None = None) -> Asset:
    """Return asset ``name`` with ``fields`` set over ``base``."""
    values = attributes(base, ASSET_FIELDS) if base else {}
    return Asset(identity("asset", name), **(values | parse_fields(fields, ASSET_FIELDS)))


REQUIRED_INSTRUMENT_FIELDS = ("settle", "price_tick", "lot", "tiers")


def build_instrument(symbol: str, fields: Mapping[str, Any], base: Instrument | None = None) -> Instrument:
    """Return instrument ``symbol`` with ``fields`` set over ``base``, its integer scales derived.

    Raises ParamError with reason ``missing_field`` where a new instrument is incomplete.
    """
    if base is None:
        for key in REQUIRED_INSTRUMENT_FIELDS:
            if key not in fields:
                raise ParamError(key, None, "required", "missing_field")
    values: dict[str, Any] = {"kind": "linear", "base": symbol, "multiplier": (1, 0)}
    if base is not None:
        values = attributes(base, INSTRUMENT_FIELDS)
        if "lot" in fields and "mark_decimals" not in fields:
            del values["mark_decimals"]
    values |= parse_fields(fields, INSTRUMENT_FIELDS)
    values |= derive_scales(values)
    return Instrument(symbol=identity("symbol", symbol), **values)


def derive_scales(values: dict[str, Any]) -> dict[str, int]:
    """Return ``mark_decimals`` and the integer scales of an instrument: size x price is money without a division.

    Prices carry 8 - decimals(lot) decimals. An inverse contract's size never has negative decimals: its notional is a
    quotient anyway, and the numerator would outgrow 64 bits (a lot of 100 one-dollar contracts would need 10**20).
    """
    is_inverse = values["kind"] == "inverse"
    lot_decimals = number_decimals(values["lot"])
    size_decimals = max(lot_decimals, 0) if is_inverse else lot_decimals
    price_decimals = UNIT_DECIMALS - size_decimals
    if not 0 <= price_decimals <= STEP_DECIMALS_MAX:
        raise ParamError("lot", format_number(values["lot"]), f"must have -{STEP_DECIMALS_MAX - 8} to 8 decimals")
    mark_decimals = values.get("mark_decimals", price_decimals)
    if mark_decimals > price_decimals:
        rule = f"lot and mark together need {lot_decimals + mark_decimals} decimals; at most 8 are exact"
        raise ParamError("mark_decimals", mark_decimals, rule)
    tick_steps = try_scaled(values["price_tick"], price_decimals)
    if tick_steps is None:
        needed = lot_decimals + number_decimals(values["price_tick"])
        rule = f"lot and price together need {needed} decimals; at most 8 are exact"
        raise ParamError("price_tick", format_number(values["price_tick"]), rule)
    numerator, places = values["multiplier"]
    if is_inverse:
        scale, rest = divmod(numerator * 10 ** (2 * price_decimals), 10**places)
        if rest or scale > 2**63 - 1:
            rule = "lot and multiplier leave no room in 64 bits"
            raise ParamError("multiplier", format_number(values["multiplier"]), rule)
        value_num, value_den = scale, 1
    else:
        common = gcd(numerator, 10**places)
        value_num, value_den = numerator // common, 10**places // common
        if max(value_num, value_den) > POSITION_UNITS_MAX:
            raise ParamError("multiplier", format_number(values["multiplier"]), "must have at most 18 digits")
    return {
        "mark_decimals": mark_decimals,
        "size_decimals": size_decimals,
        "price_decimals": price_decimals,
        "lot_steps": scaled_half_even(values["lot"], size_decimals),
        "tick_steps": tick_steps,
        "mark_steps": 10 ** (price_decimals - mark_decimals),
        "value_num": value_num,
        "value_den": value_den,
    }
