"""The risk file: every rule refuses, all errors are told at once, decimals stay exact, the shipped file is sound."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from engine.core.params import Instrument, Policy, Risk
from engine.edges import config
from engine.edges.config import DEDUCTION_DECIMALS, FloatText, deductions, default_risk_path, load_risk, read_toml
from engine.edges.risk_view import describe_risk, risk_as_json, warnings
from engine.errors import InputError

REAL_TIERS = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "binance_leverage_tiers.json"

BTC = """
[instruments.BTCUSDT]
base = "BTC"
settle = "USDT"
price_tick = 0.1
lot = 0.001
tiers = [[0, 0.004, 125], [50000, 0.005, 100]]
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Return a function that writes ``risk.toml`` and, where given, ``tiers.json`` beside it."""

    def risk_file(text: str | bytes, tiers: Any = None) -> Path:
        path = tmp_path / "risk.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        if tiers is not None:
            content = tiers if isinstance(tiers, str) else json.dumps({"symbols": tiers})
            (tmp_path / "tiers.json").write_text(content)
        return path

    return risk_file


def errors_of(path: Path) -> list[str]:
    """Return the lines a file is refused with."""
    with pytest.raises(InputError) as caught:
        load_risk(path)
    return str(caught.value).split("\n")


def btc(key: str, value: str) -> str:
    """Return the BTC instrument with one key set to a TOML value."""
    kept = [line for line in BTC.splitlines() if not line.startswith(f"{key} ")]
    return "\n".join([*kept, f"{key} = {value}"])


def test_missing_keys_take_the_defaults_of_the_contract(write: Any) -> None:
    risk = load_risk(write(BTC))
    instrument = risk.instruments["BTCUSDT"]
    assert risk.policy == Policy()
    assert (risk.policy.limit_band_ppm, risk.policy.max_attempts, risk.policy.adl_rule) == (50_000, 3, "queue")
    assert (instrument.kind, instrument.multiplier, instrument.mark_decimals) == ("linear", (1, 0), 5)
    assert (instrument.flow_budget_units, instrument.depth_units, instrument.taker_fee_ppm) == (None, None, 0)


def test_empty_file_is_a_policy_without_instruments(write: Any) -> None:
    assert load_risk(write("")) == Risk()


def test_more_instruments_than_positions_can_name_are_refused(write: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(config, "INSTRUMENTS_MAX", 1)
    assert len(load_risk(write(BTC)).instruments) == 1
    with pytest.raises(InputError, match=r"risk\.toml: instruments: 2: at most 1$"):
        load_risk(write(BTC + BTC.replace("BTCUSDT", "ETHUSDT")))


def test_toml_floats_are_read_as_the_decimals_they_are_written_with(write: Any) -> None:
    path = write("[policy]\na = 0.1\nb = 0.0000001\nc = 1_000.50\nd = +0.30000000000000004\n")
    read = read_toml(path)["policy"]
    assert read == {"a": "0.1", "b": "0.0000001", "c": "1000.50", "d": "0.30000000000000004"}
    assert {type(value) for value in read.values()} == {FloatText}


@pytest.mark.parametrize("spelling", ["0.0675", '"0.0675"', "0.06750", "+0.0675"])
def test_a_rate_is_the_same_number_in_every_spelling(write: Any, spelling: str) -> None:
    assert load_risk(write(f"[policy]\ntarget_buffer = {spelling}")).policy.target_buffer_ppm == 67_500


def test_a_float_with_seventeen_digits_is_refused_and_not_rounded(write: Any) -> None:
    assert errors_of(write("[policy]\ntarget_buffer = 0.30000000000000004")) == [
        "risk.toml: policy.target_buffer: 0.30000000000000004: at most 6 decimals"
    ]


# What is written, the key and value the error names, and the rule it states.
BROKEN = {
    "unknown top-level key": ("polcy = 1", "polcy: 1:", "unknown key; known are tiers_file, policy"),
    "unknown policy key": ("[policy]\ntarget_bufer = 0", "policy.target_bufer: 0:", "unknown key"),
    "unknown asset key": ("[assets.USDT]\nhaircut = 0", "assets.USDT.haircut: 0:", "unknown key"),
    "unknown instrument key": (btc("tick", "1"), "instruments.BTCUSDT.tick: 1:", "unknown key"),
    "table that is a value": ("policy = 5", "policy: 5:", "dictionary"),
    "instrument that is a value": ("[instruments]\nX = 5", "instruments.X: 5:", "dictionary"),
    "tiers_file that is a number": ("tiers_file = 5", "tiers_file: 5:", "string"),
    "exponent": ("[policy]\nfraction_above = 1e3", "policy.fraction_above: 1e3:", "plain decimal"),
    "infinity": ("[policy]\nfraction_above = inf", "policy.fraction_above: inf:", "plain decimal"),
    "not a number": ("[policy]\nfraction_above = -nan", "policy.fraction_above: -nan:", "plain decimal"),
    "truth for a number": (
        "[policy]\nmax_attempts = true",
        "policy.max_attempts: true:",
        "decimal string or an integer",
    ),
    "date for a number": ("[policy]\nmax_attempts = 2020-01-01", "policy.max_attempts: 2020-01-01:", "decimal string"),
    "fraction for a count": ("[policy]\nmax_attempts = 1.5", "policy.max_attempts: 1.5:", "at most 0 decimals"),
    "below the range": ("[policy]\nmargin_call_ratio = 0", "policy.margin_call_ratio: 0:", "above 0"),
    "above the range": ("[policy]\ntakeover_ratio = 1.000001", "policy.takeover_ratio: 1.000001:", "at most 1"),
    "negative": ("[policy]\nprice_band = -0.1", "policy.price_band: -0.1:", "at least 0"),
    "number beyond 64 bits": (
        f"[policy]\nmin_notional = 1{'0' * 99}",
        f"policy.min_notional: 1{'0' * 76}...:",
        "at most",
    ),
    "unknown word": ('[policy]\nadl_rule = "fifo"', "policy.adl_rule: fifo:", "one of queue, pro_rata"),
    "number for a word": ("[policy]\npartial = 1", "policy.partial: 1:", "one of cheapest"),
    "number for a name": ("[policy]\nvaluation = 1.5", "policy.valuation: 1.5:", "must be a string"),
    "empty name": (btc("settle", '""'), "instruments.BTCUSDT.settle: '':", "1 to 64 bytes"),
    "rearm above call": (
        "[policy]\nmargin_call_ratio = 0.5\nmargin_call_rearm = 0.6",
        "policy.margin_call_rearm: 0.6:",
        "not be above margin_call_ratio",
    ),
    "asset decimals": ("[assets.X]\ndecimals = 9", "assets.X.decimals: 9:", "at most 8"),
    "asset price zero": ("[assets.X]\nprice = 0", "assets.X.price: 0:", "above 0"),
    "weight above one": ("[assets.X]\nweights = [[0, 1.1]]", "assets.X.weights[0].weight: 1.1:", "at most 1"),
    "weights that grow": (
        "[assets.X]\nweights = [[0, 0.5], [10, 0.6]]",
        "assets.X.weights[1]: [10, 0.6]:",
        "may not grow",
    ),
    "weights from above zero": ("[assets.X]\nweights = [[5, 0.5]]", "assets.X.weights[0]: [5, 0.5]:", "must be 0"),
    "no tiers": (BTC.replace("tiers", "# tiers"), "instruments.BTCUSDT.tiers:", "required"),
    "no lot": (BTC.replace("lot", "# lot"), "instruments.BTCUSDT.lot:", "required"),
    "empty tiers": (btc("tiers", "[]"), "instruments.BTCUSDT.tiers: []:", "must be a list of"),
    "short tier": (btc("tiers", "[[0, 0.1]]"), "instruments.BTCUSDT.tiers[0]: [0, 0.1]:", "must be [floor"),
    "first floor": (
        btc("tiers", "[[1, 0.1, 5]]"),
        "instruments.BTCUSDT.tiers[0]: [1, 0.1, 5]:",
        "first floor must be 0",
    ),
    "floors out of order": (
        btc("tiers", "[[0, 0.1, 5], [9, 0.2, 4], [9, 0.3, 3]]"),
        "instruments.BTCUSDT.tiers[2]: [9, 0.3, 3]:",
        "floors must rise",
    ),
    "shrinking rate": (
        btc("tiers", "[[0, 0.005, 5], [9, 0.004, 4]]"),
        "instruments.BTCUSDT.tiers[1]: [9, 0.004, 4]:",
        "rates may not shrink",
    ),
    "leverage zero": (btc("tiers", "[[0, 0.1, 0]]"), "instruments.BTCUSDT.tiers[0].max_leverage: 0:", "at least 1"),
    "lot zero": (btc("lot", "0"), "instruments.BTCUSDT.lot: 0:", "above 0"),
    "lot and tick beyond 8 decimals": (
        btc("price_tick", "0.000001"),
        "instruments.BTCUSDT.price_tick:",
        "together need 9 decimals",
    ),
    "lot and marks beyond 8 decimals": (btc("mark_decimals", "6"), "instruments.BTCUSDT.mark_decimals: 6:", "need 9"),
    "depth zero": (btc("depth", "0"), "instruments.BTCUSDT.depth: 0:", "above 0"),
    "unknown kind": (btc("kind", '"quanto"'), "instruments.BTCUSDT.kind: quanto:", "linear, inverse"),
}


@pytest.mark.parametrize(("text", "place", "rule"), BROKEN.values(), ids=BROKEN)
def test_rule_is_refused_with_file_key_value_and_rule(write: Any, text: str, place: str, rule: str) -> None:
    lines = errors_of(write(text))
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"risk.toml: {place}")
    assert rule in lines[0]


def test_all_errors_are_told_at_once_in_the_order_of_the_tables(write: Any) -> None:
    text = "[policy]\npartial = 'half'\nfraction = 2\n[assets.X]\nprice = 0\n[instruments.Y]\nlot = 0\nkind = 'x'\n"
    lines = errors_of(write(text))
    keys = [line.split(": ")[1].removesuffix(":") for line in lines]
    assert keys == [
        "policy.partial",
        "policy.fraction",
        "assets.X.price",
        "instruments.Y.settle",
        "instruments.Y.price_tick",
        "instruments.Y.tiers",
        "instruments.Y.lot",
        "instruments.Y.kind",
    ]


# What is written, and how the one line starts that says why it cannot be read.
UNREADABLE = {
    "not TOML": (b"[policy]\n\na = = 1\n", "risk.toml:3: not TOML:"),
    "cut off": (b"[policy]\na = [1,\n", "risk.toml:2: not TOML:"),
    "twice": (b"[policy]\nprice_band = 1\nprice_band = 1\n", "risk.toml:3: not TOML:"),
    "not UTF-8": (b"[policy]\n# caf\xe9\n", "risk.toml:2: not UTF-8"),
    "nested without end": (b"a = " + b"[" * 100_000, "risk.toml: nested too deeply"),
    "integer without end": (b"\na = " + b"9" * 5_000, "risk.toml:"),
}


@pytest.mark.parametrize(("text", "start"), UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_file_is_refused_with_its_line(write: Any, text: bytes, start: str) -> None:
    (line,) = errors_of(write(text))
    assert line.startswith(start)


def test_missing_file_is_named(tmp_path: Path) -> None:
    (line,) = errors_of(tmp_path / "none.toml")
    assert line.startswith(f"{tmp_path / 'none.toml'}: cannot be read: No such file")


def test_settlement_asset_without_a_table_takes_the_defaults(write: Any) -> None:
    asset = load_risk(write(BTC)).assets["USDT"]
    assert (asset.decimals, asset.price_units, asset.weights) == (8, None, ((0, 1_000_000),))


@pytest.mark.parametrize("table", ["", "[assets.USDT]\ndecimals = 6\n"])
def test_the_valuation_currency_is_worth_one_of_itself(write: Any, table: str) -> None:
    risk = load_risk(write('[policy]\nvaluation = "USDT"\n' + table + BTC))
    assert risk.assets["USDT"].price_units == 10**8


ROWS = [[0, 50000, "0.004", 125, 0], [50000, 600000, "0.005", 100, 50], [600000, 1000000, "0.0065", 75, 950]]
NO_TIERS = 'tiers_file = "tiers.json"\n' + BTC.replace("tiers =", "# tiers =")


def test_tiers_file_fills_the_instruments_that_have_no_tiers_of_their_own(write: Any) -> None:
    own = BTC.replace("BTCUSDT", "OWN")
    risk = load_risk(write(NO_TIERS + own, {"BTCUSDT": ROWS, "OWN": ROWS, "OTHER": ["nonsense"]}))
    assert [tier.rate_ppm for tier in risk.instruments["BTCUSDT"].tiers] == [4_000, 5_000, 6_500]
    assert len(risk.instruments["OWN"].tiers) == 2
    assert set(risk.instruments) == {"BTCUSDT", "OWN"}


def test_tiers_file_keeps_json_numbers_exact(write: Any) -> None:
    text = '{"about": 1, "symbols": {"BTCUSDT": [[0, 0.1, 0.000001, 7.5, 0], [0.1, 9, 0.000003, 1, 0.0000002]]}}'
    first, second = load_risk(write(NO_TIERS, text)).instruments["BTCUSDT"].tiers
    assert (first.rate_ppm, first.leverage_ppm, second.floor_units) == (1, 7_500_000, 10_000_000)


def changed(row: int, column: int, value: Any) -> list[list[Any]]:
    """Return ROWS with one cell changed."""
    rows = [list(cells) for cells in ROWS]
    rows[row][column] = value
    return rows


BROKEN_TIERS = {
    "gap": (changed(0, 1, 49999), "symbols.BTCUSDT[0].cap: 49999: must be the floor of the next tier, 50000"),
    "cum one too low": (changed(2, 4, 949), "symbols.BTCUSDT[2].cum: 949: must be the deduction that follows, 950"),
    "cum a hair too high": (changed(1, 4, "50.00000000000001"), "symbols.BTCUSDT[1].cum: 50.00000000000001: must be"),
    "cum beyond any digit": (
        changed(1, 4, "50.000000000000001"),
        "symbols.BTCUSDT[1].cum: 50.000000000000001: must be",
    ),
    "cum of the first": (changed(0, 4, 1), "symbols.BTCUSDT[0].cum: 1: must be the deduction that follows, 0"),
    "shrinking rate": (changed(1, 2, "0.003"), "symbols.BTCUSDT[1]: [50000, 0.003, 100]: rates may not shrink"),
    "exponent": (changed(1, 0, "5e4"), "symbols.BTCUSDT[1].floor: 5e4: must be a plain decimal"),
    "cap not a number": (changed(1, 1, None), "symbols.BTCUSDT[1].cap: must be a decimal string"),
    "short row": ([[0, 1, "0.1"]], "symbols.BTCUSDT: [[0, 1, 0.1]]: must be a list of [floor, cap, mmr"),
    "not rows": ({"a": 1}, "symbols.BTCUSDT: {'a': 1}: must be a list of [floor, cap, mmr"),
}


@pytest.mark.parametrize(("rows", "start"), BROKEN_TIERS.values(), ids=BROKEN_TIERS)
def test_broken_tiers_file_is_refused_with_its_own_name(write: Any, rows: Any, start: str) -> None:
    (line,) = errors_of(write(NO_TIERS, {"BTCUSDT": rows}))
    assert line.startswith(f"tiers.json: {start}")


UNREADABLE_TIERS = {
    "not JSON": ('{"symbols":\n{,}}', "tiers.json:2: not JSON:"),
    "not an object": ("[]", 'tiers.json: must be {"symbols":'),
    "no symbols": ("{}", 'tiers.json: must be {"symbols":'),
    "NaN": ('{"symbols": {"BTCUSDT": [[NaN, 1, 1, 1, 1]]}}', "tiers.json: NaN is not a number"),
    "a symbol twice": ('{"symbols": {"BTCUSDT": [], "BTCUSDT": []}}', "tiers.json: BTCUSDT: twice in one object"),
    "nested without end": ("[" * 100_000, "tiers.json: nested too deeply"),
}


@pytest.mark.parametrize(("text", "start"), UNREADABLE_TIERS.values(), ids=UNREADABLE_TIERS)
def test_unreadable_tiers_file_is_refused(write: Any, text: str, start: str) -> None:
    (line,) = errors_of(write(NO_TIERS, text))
    assert line.startswith(start)


def test_missing_tiers_file_is_told_with_the_other_errors(write: Any) -> None:
    lines = errors_of(write(NO_TIERS + "taker_fee = 2\n"))
    assert len(lines) == 2
    assert "tiers.json: cannot be read" in lines[0]
    assert lines[1].startswith("risk.toml: instruments.BTCUSDT.taker_fee: 2:")


def test_symbol_missing_from_the_tiers_file_is_told(write: Any) -> None:
    assert errors_of(write(NO_TIERS, {"ETHUSDT": ROWS})) == ["risk.toml: instruments.BTCUSDT.tiers: required"]


SOUND_POLICY = "[policy]\nmark_stale_ms = 1\nprice_band = 0.1\ntarget_buffer = 0.1\n"
SOUND = SOUND_POLICY + "[assets.USDT]\nprice = 1\n" + BTC

WARNED = {
    "stale guard off": (SOUND.replace("mark_stale_ms = 1", ""), "mark_stale_ms = 0"),
    "band off": (SOUND.replace("price_band = 0.1", ""), "price_band = 0"),
    "no buffer": (SOUND.replace("target_buffer = 0.1", ""), "target_buffer = 0"),
    "limit at the mark": (SOUND.replace("[policy]", "[policy]\nlimit_band = 0"), "limit_band = 0"),
    "takeover at once": (SOUND.replace("[policy]", "[policy]\ntakeover_ratio = 1"), "takeover_ratio = 1"),
    "no instruments": (SOUND_POLICY, "no instruments"),
    "initial below maintenance": (SOUND.replace("125]", "251]"), "tiers[0]: initial margin"),
    "fees eat what is freed": (SOUND + "liquidation_fee = 0.0044", "tiers[0]: fees and slippage 0.0044"),
    "budget zero": (SOUND + "flow_budget = 0", "flow_budget = 0"),
    "impact without depth": (SOUND + "impact = 0.1", "impact without depth"),
    "valuation currency off one": (SOUND + "[assets.USD]\nprice = 2", "fixed price 1"),
}


@pytest.mark.parametrize(("text", "warning"), WARNED.values(), ids=WARNED)
def test_what_is_probably_not_meant_is_warned_about_once(write: Any, text: str, warning: str) -> None:
    (found,) = warnings(load_risk(write(text)))
    assert warning in found


@pytest.mark.parametrize("ending", ["", "liquidation_fee = 0.004399"])
def test_a_sound_file_has_no_warnings_up_to_the_limit(write: Any, ending: str) -> None:
    assert warnings(load_risk(write(SOUND.replace("125]", "250]") + ending))) == []


def test_asset_without_a_price_is_named_where_stale_prices_are_let_through(write: Any) -> None:
    found = warnings(load_risk(write(SOUND.replace("mark_stale_ms = 1", "").replace("price = 1", ""))))
    assert any("assets USDT:" in text for text in found)


def test_json_view_states_the_policy_as_its_file_would(write: Any) -> None:
    view = risk_as_json(load_risk(write(SOUND)))
    assert json.loads(json.dumps(view)) == view
    assert (view["ok"], view["assets"], view["instruments"], view["warnings"]) == (True, 1, 1, [])
    assert (view["policy"]["target_buffer"], view["policy"]["fraction_above"]) == ("0.1", "0")
    assert (view["policy"]["max_attempts"], view["policy"]["adl_rule"]) == (3, "queue")


def test_the_policy_in_the_json_view_loads_again_as_the_same_policy(write: Any) -> None:
    policy = load_risk(default_risk_path()).policy
    lines = [f"{key} = {json.dumps(value)}" for key, value in risk_as_json(Risk(policy))["policy"].items()]
    assert load_risk(write("[policy]\n" + "\n".join(lines))).policy == policy


def test_text_view_has_a_line_for_each_instrument_and_warning(write: Any) -> None:
    lines = describe_risk(load_risk(write(SOUND + "flow_budget = 0"))).split("\n")
    assert sum("BTCUSDT" in line for line in lines) == 2
    assert "instruments: 1" in lines
    assert "warnings: 1" in lines


def test_the_copy_packed_into_a_wheel_goes_before_a_folder_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "__file__", str(tmp_path / "engine" / "edges" / "config.py"))
    assert default_risk_path() == tmp_path / "config" / "risk.toml"
    packed = tmp_path / "engine" / "_config" / "risk.toml"
    packed.parent.mkdir(parents=True)
    packed.write_text("")
    assert default_risk_path() == packed


@pytest.fixture(scope="module")
def shipped() -> Risk:
    return load_risk(None)


def test_shipped_file_loads_without_a_warning(shipped: Risk) -> None:
    assert warnings(shipped) == []
    assert len(shipped.instruments) >= 60
    assert sum(instrument.is_inverse for instrument in shipped.instruments.values()) >= 2
    assert {"USDT", "USDC", "USD", "BTC", "ETH", "BNB", "FDUSD"} <= set(shipped.assets)


def test_shipped_guards_buffers_and_budgets_are_on(shipped: Risk) -> None:
    policy = shipped.policy
    on = (policy.target_buffer_ppm, policy.mark_stale_ms, policy.price_band_ppm, policy.emergency_ratio_ppm)
    assert all(on)
    assert policy.max_future_s > 0
    # One-hour candles give a mark each quarter of an hour; the bound must let two of them pass.
    assert policy.mark_stale_ms >= 2 * 3_600_000
    assert all(instrument.flow_budget_units for instrument in shipped.instruments.values())


# Those beyond the published brackets: May 2021, and what 2025 and 2026 brought.
HISTORIES = [
    *("ALGO", "BAT", "BTT", "DASH", "EGLD", "EOS", "IOTA", "MATIC", "NANO", "NEO", "XTZ"),
    *("VET", "HYPE", "TRUMP", "KAS", "ONDO", "ORCA", "WLFI", "PIPPIN", "NAORIS", "FARTCOIN", "kPEPE"),
]


@pytest.mark.parametrize("name", HISTORIES)
def test_shipped_file_knows_the_symbols_of_the_market_histories(shipped: Risk, name: str) -> None:
    assert shipped.instruments[f"{name}USDT"].settle == "USDT"


def test_shipped_closing_frees_margin_in_every_tier(shipped: Risk) -> None:
    for instrument in shipped.instruments.values():
        costs = instrument.taker_fee_ppm + instrument.liquidation_fee_ppm + instrument.slippage_ppm
        assert costs < instrument.tiers[0].rate_ppm, instrument.symbol


def test_margin_of_every_shipped_tier_table_is_continuous_at_its_floors(shipped: Risk) -> None:
    # The deduction is what makes rate x notional - deduction agree from both sides of a floor.
    for instrument in shipped.instruments.values():
        cuts = deductions(instrument.tiers)
        for k in range(1, len(cuts)):
            floor = instrument.tiers[k].floor_units
            below = floor * instrument.tiers[k - 1].rate_ppm - cuts[k - 1]
            assert floor * instrument.tiers[k].rate_ppm - cuts[k] == below, (instrument.symbol, k)


def real_tiers() -> dict[str, list[list[Any]]]:
    """Return Binance's brackets, numbers as exact decimals, or skip where the data is not at hand."""
    if not REAL_TIERS.is_file():
        pytest.skip(f"{REAL_TIERS.name} is not at hand")
    symbols: dict[str, list[list[Any]]] = json.loads(REAL_TIERS.read_text(), parse_float=Decimal)["symbols"]
    return symbols


def as_rows(instrument: Instrument) -> list[tuple[Fraction, Fraction, Fraction]]:
    """Return the tiers of an instrument as exact numbers."""
    return [
        (Fraction(tier.floor_units, 10**8), Fraction(tier.rate_ppm, 10**6), Fraction(tier.leverage_ppm, 10**6))
        for tier in instrument.tiers
    ]


def test_shipped_tiers_equal_the_published_brackets(shipped: Risk) -> None:
    brackets = real_tiers()
    assert len(brackets) == 54
    for symbol, rows in brackets.items():
        published = [(Fraction(row[0]), Fraction(row[2]), Fraction(row[3])) for row in rows]
        assert as_rows(shipped.instruments[symbol]) == published, symbol


def test_deductions_of_the_shipped_tiers_equal_the_published_maintenance_amounts(shipped: Risk) -> None:
    for symbol, rows in real_tiers().items():
        cuts = [Fraction(cut, 10**DEDUCTION_DECIMALS) for cut in deductions(shipped.instruments[symbol].tiers)]
        assert cuts == [Fraction(row[4]) for row in rows], symbol


def test_the_published_file_itself_serves_as_a_tiers_file(write: Any, shipped: Risk) -> None:
    rows = real_tiers()["BTCUSDT"]
    text = f"tiers_file = '{REAL_TIERS}'\n" + NO_TIERS.partition("\n")[2]
    tiers = load_risk(write(text)).instruments["BTCUSDT"].tiers
    assert tiers == shipped.instruments["BTCUSDT"].tiers
    assert len(tiers) == len(rows)
