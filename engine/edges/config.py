"""How a risk file becomes ``Risk``, and every error in it a line saying file, key, value and rule.

1. Read: TOML, its floats kept as the decimals they are written with; no binary float ever exists.
2. Shape: which tables there are (pydantic; unknown ones are refused).
3. Values: key by key through the tables of ``core/params.py``, which the ``set_*`` control messages use too.
4. Relations: tiers from ``tiers_file`` where an instrument has none, an asset for every ``settle``.

All errors of a file are collected and raised together, so that its author reads them once.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError

from engine.core.params import (
    ASSET_FIELDS,
    INSTRUMENT_FIELDS,
    INSTRUMENTS_MAX,
    POLICY_FIELDS,
    REQUIRED_INSTRUMENT_FIELDS,
    Asset,
    Instrument,
    Parser,
    Policy,
    Risk,
    Tier,
    as_number,
    build_asset,
    build_instrument,
    build_policy,
    identity,
    parse_fields,
    parse_tiers,
)
from engine.errors import InputError, ParamError
from engine.units import PPM_DECIMALS, UNIT_DECIMALS, format_scaled, try_scaled

# A deduction is a sum of floor x rate: 1e-8 of the asset times parts per million, so exact in 1e-14.
DEDUCTION_DECIMALS = UNIT_DECIMALS + PPM_DECIMALS
TIER_ROW = ("floor", "cap", "mmr", "max_leverage", "cum")
# Enough of a wrong value to find it in the file.
SHOWN_CHARS_MAX = 80

Record = TypeVar("Record")


class FloatText(str):
    """A TOML float as the text it was written with; a class of its own, because it may not serve as a name."""

    __slots__ = ()


class RiskFile(BaseModel):
    """The shape of a risk file; what its tables may hold is the business of ``core/params.py``."""

    model_config = ConfigDict(extra="forbid")

    tiers_file: StrictStr | None = None
    policy: dict[str, Any] = Field(default_factory=dict)
    assets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    instruments: dict[str, dict[str, Any]] = Field(default_factory=dict)


class Errors:
    """The errors of one load, a line each, in the order they were found."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, file: str, table: str, error: ParamError) -> None:
        """Note a broken rule as ``file: table.key: value: rule``."""
        key = f"{table}.{error.key}" if table else error.key
        value = "" if error.value is None else f" {shown(error.value)}:"
        self.lines.append(f"{file}: {key}:{value} {error.rule}")

    def raise_if_any(self) -> None:
        """Raise one InputError that holds all of them."""
        if self.lines:
            raise InputError("\n".join(self.lines))


def default_risk_path() -> Path:
    """Return the shipped risk file: the wheel's copy, or ``config/risk.toml`` of the source tree."""
    package = Path(__file__).resolve().parents[1]
    packed = package / "_config" / "risk.toml"
    # The packed copy first: beside an installed package, ``config/`` may be somebody else's.
    return packed if packed.is_file() else package.parent / "config" / "risk.toml"


def load_risk(path: Path | None = None) -> Risk:
    """Return the risk parameters of a file (default: the shipped one); raise InputError with all that is wrong."""
    path = default_risk_path() if path is None else path
    errors = Errors()
    shape = parse_shape(path.name, read_toml(path), errors)
    errors.raise_if_any()
    policy = collect(path.name, "policy", shape.policy, POLICY_FIELDS, build_policy, errors) or Policy()
    assets = load_assets(path.name, shape.assets, policy, errors)
    instruments = load_instruments(path, shape, errors)
    if len(instruments) > INSTRUMENTS_MAX:
        errors.add(path.name, "", ParamError("instruments", len(instruments), f"at most {INSTRUMENTS_MAX}"))
    errors.raise_if_any()
    for instrument in instruments.values():
        assets.setdefault(instrument.settle, build_asset(instrument.settle, own_price(instrument.settle, policy)))
    return Risk(policy, assets, instruments)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file, floats as text."""
    text = read_text(path)
    try:
        return tomllib.loads(text, parse_float=float_text)
    except RecursionError:
        raise InputError(f"{path.name}: nested too deeply") from None
    except ValueError as error:
        # "(at end of document)" carries no number: it is the last line.
        line = re.search(r"at line (\d+)", str(error))
        number = line.group(1) if line else str(max(1, len(text.splitlines())))
        raise InputError(f"{path.name}:{number}: not TOML: {error}") from None


def read_text(path: Path) -> str:
    """Return a file's text; raise InputError where it cannot be read or is not UTF-8."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path.name}:{line}: not UTF-8") from None


def float_text(text: str) -> FloatText:
    """Return a TOML float as written; ``_`` and ``+`` go, since TOML allows both in integers as well."""
    return FloatText(text.replace("_", "").removeprefix("+"))


def parse_shape(file: str, raw: dict[str, Any], errors: Errors) -> RiskFile:
    """Return the tables of a file; where they are misshapen, note each error and return none."""
    try:
        return RiskFile.model_validate(raw)
    except ValidationError as error:
        unknown = f"unknown key; known are {', '.join(RiskFile.model_fields)}"
        for problem in error.errors(include_url=False):
            key = ".".join(map(str, problem["loc"]))
            rule = unknown if problem["type"] == "extra_forbidden" else problem["msg"]
            errors.add(file, "", ParamError(key, problem["input"], rule))
        return RiskFile()


def collect(
    file: str,
    table: str,
    fields: Mapping[str, Any],
    known: dict[str, tuple[str, Parser]],
    build: Callable[[Mapping[str, Any]], Record],
    errors: Errors,
) -> Record | None:
    """Return what ``build`` makes of a table, or None with every broken rule noted."""
    found = len(errors.lines)
    for key, raw in fields.items():
        try:
            check_field(key, raw, known)
        except ParamError as error:
            errors.add(file, table, error)
    if len(errors.lines) > found:
        return None
    try:
        return build(fields)
    except ParamError as error:
        errors.add(file, table, error)
        return None


def check_field(key: str, raw: Any, known: dict[str, tuple[str, Parser]]) -> None:
    """Raise ParamError where one key, taken alone, breaks a rule."""
    if isinstance(raw, FloatText) and key in known and known[key][1] is identity:
        raise ParamError(key, raw, "must be a string", "bad_type")
    parse_fields({key: raw}, known)


def own_price(name: str, policy: Policy) -> dict[str, Any]:
    """Return the fields of an asset nobody described: the valuation currency is worth one of itself."""
    return {"price": 1} if name == policy.valuation else {}


def load_assets(file: str, tables: Mapping[str, dict[str, Any]], policy: Policy, errors: Errors) -> dict[str, Asset]:
    """Return the assets that are well described."""
    assets = {}
    for name, fields in tables.items():

        def build(fields: Mapping[str, Any], name: str = name) -> Asset:
            return build_asset(name, own_price(name, policy) | dict(fields))

        asset = collect(file, f"assets.{name}", fields, ASSET_FIELDS, build, errors)
        if asset is not None:
            assets[name] = asset
    return assets


def load_instruments(path: Path, shape: RiskFile, errors: Errors) -> dict[str, Instrument]:
    """Return the instruments that are well described, their tiers from ``tiers_file`` where they have none."""
    instruments = {}
    without_tiers = [symbol for symbol, fields in shape.instruments.items() if "tiers" not in fields]
    shared = load_tiers(path, shape.tiers_file, without_tiers, errors)
    for symbol, own in shape.instruments.items():
        fields = {"tiers": shared[symbol]} | own if symbol in shared else own
        missing = [key for key in REQUIRED_INSTRUMENT_FIELDS if key not in fields]
        for key in missing:
            errors.add(path.name, f"instruments.{symbol}", ParamError(key, None, "required", "missing_field"))

        def build(fields: Mapping[str, Any], symbol: str = symbol, missing: bool = bool(missing)) -> Instrument | None:
            return None if missing else build_instrument(symbol, fields)

        instrument = collect(path.name, f"instruments.{symbol}", fields, INSTRUMENT_FIELDS, build, errors)
        if instrument is not None:
            instruments[symbol] = instrument
    return instruments


def load_tiers(path: Path, name: str | None, wanted: list[str], errors: Errors) -> dict[str, list[list[Any]]]:
    """Return ``[floor, rate, max_leverage]`` rows of the wanted symbols that ``tiers_file`` knows."""
    if name is None:
        return {}
    # Where the file or a table is broken that is noted, and the instrument's other keys are checked all the same.
    stand_in = [[0, 0, 1]]
    try:
        symbols = read_tiers_file(path.parent / name)
    except InputError as error:
        errors.lines.append(str(error))
        return dict.fromkeys(wanted, stand_in)
    tiers = {}
    for symbol in wanted:
        if symbol in symbols:
            broken = list(tier_rows_errors(f"symbols.{symbol}", symbols[symbol]))
            for problem in broken:
                errors.add(Path(name).name, "", problem)
            tiers[symbol] = stand_in if broken else [[row[0], row[2], row[3]] for row in symbols[symbol]]
    return tiers


def read_tiers_file(path: Path) -> dict[str, Any]:
    """Return ``symbols`` of a tiers file, floats as text."""
    try:
        content = json.loads(read_text(path), parse_float=str, parse_constant=refuse_constant, object_pairs_hook=unique)
    except RecursionError:
        raise InputError(f"{path.name}: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path.name}:{error.lineno}: not JSON: {error.msg}") from None
    except ValueError as error:
        raise InputError(f"{path.name}: {error}") from None
    symbols = content.get("symbols") if isinstance(content, dict) else None
    if not isinstance(symbols, dict):
        raise InputError(f'{path.name}: must be {{"symbols": {{symbol: [[{", ".join(TIER_ROW)}], ...]}}}}')
    return symbols


def refuse_constant(name: str) -> NoReturn:
    """Refuse ``NaN`` and the infinities, which JSON does not know but Python's parser takes."""
    raise ValueError(f"{name} is not a number")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object whose keys are all different; the second of two tables would win silently."""
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice}: twice in one object")
    return result


def tier_rows_errors(key: str, rows: Any) -> Iterator[ParamError]:
    """Yield what is wrong with the rows of one symbol: their form, tier rules, gaps, deductions that do not follow."""
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(TIER_ROW) for row in rows):
        yield ParamError(key, rows, f"must be a list of [{', '.join(TIER_ROW)}]", "bad_type")
        return
    try:
        tiers = parse_tiers(key, [[floor, rate, leverage] for floor, _, rate, leverage, _ in rows])
        caps = [as_number(f"{key}[{index}].cap", row[1]) for index, row in enumerate(rows)]
        cums = [as_number(f"{key}[{index}].cum", row[4]) for index, row in enumerate(rows)]
    except ParamError as error:
        yield error
        return
    for index, (row, following) in enumerate(pairwise(rows)):
        if caps[index] != as_number(key, following[0]):
            yield ParamError(f"{key}[{index}].cap", row[1], f"must be the floor of the next tier, {following[0]}")
    for index, deduction in enumerate(deductions(tiers)):
        if try_scaled(cums[index], DEDUCTION_DECIMALS) != deduction:
            rule = f"must be the deduction that follows, {format_scaled(deduction, DEDUCTION_DECIMALS)}"
            yield ParamError(f"{key}[{index}].cum", rows[index][4], rule)


def deductions(tiers: tuple[Tier, ...]) -> list[int]:
    """Return each tier's deduction, exact, in 1e-14 (README, "Margin"); it makes the margin continuous at floors."""
    result = [0]
    for below, tier in pairwise(tiers):
        result.append(result[-1] + tier.floor_units * (tier.rate_ppm - below.rate_ppm))
    return result


def shown(value: Any) -> str:
    """Return a value about as the file spells it; a path whole, for a part of it names no file."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        text = f"[{', '.join(map(shown, value))}]"
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = repr(value) if value == "" else str(value)
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[: SHOWN_CHARS_MAX - 3]}..."
