"""A made-up population keeps what it promises: balanced to the lot, healthy, levered and spread as documented.

Health is computed here from the raw risk tables and the printed book, in Fractions, with no arithmetic of the engine.
"""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from statistics import median
from typing import Any

import pytest

from engine.core.params import Risk, build_asset, build_instrument, build_policy
from engine.errors import InputError
from engine.tools.synth import describe_population, make_population, write_book
from engine.units import try_number

DEEP = [["0", "0.004", "125"], ["50000", "0.01", "50"], ["1000000", "0.05", "10"], ["50000000", "0.15", "3"]]
SHALLOW = [["0", "0.01", "50"], ["5000", "0.05", "10"], ["100000", "0.25", "2"], ["1000000", "0.5", "1"]]

ASSETS: dict[str, dict[str, Any]] = {
    "USDT": {"decimals": 6, "price": "1"},
    "USDC": {"decimals": 6, "price": "0.9998", "weights": [["0", "0.99"]]},
    "BTC": {"decimals": 8, "weights": [["0", "0.95"], ["50000.3", "0.9"], ["500000.7", "0.5"]]},
    "ETH": {"decimals": 8},
}
INSTRUMENTS: dict[str, dict[str, Any]] = {
    "BTCUSDT": {"settle": "USDT", "price_tick": "0.1", "lot": "0.001", "tiers": DEEP},
    "1000PEPEUSDT": {"settle": "USDT", "price_tick": "0.0000001", "lot": "10", "tiers": SHALLOW},
    "ETHUSDC": {"settle": "USDC", "price_tick": "0.01", "lot": "0.001", "tiers": DEEP},
    "DOGEUSDT": {"settle": "USDT", "price_tick": "0.00001", "lot": "1", "multiplier": "10", "tiers": SHALLOW},
    "COARSEUSDT": {"settle": "USDT", "price_tick": "1", "lot": "1", "tiers": SHALLOW},
    "BTCUSD": {
        "kind": "inverse",
        "settle": "BTC",
        "price_tick": "0.5",
        "lot": "1",
        "multiplier": "100",
        "tiers": [["0", "0.004", "125"], ["20", "0.02", "20"]],
    },
}
MARKS = {
    "BTCUSDT": "60000.123",
    "1000PEPEUSDT": "0.0101234",
    "ETHUSDC": "2500",
    "DOGEUSDT": "0.12",
    "COARSEUSDT": "3.3",
    "BTCUSD": "60010",
}
# 50 symbols, the first the deepest, of which a lot costs next to nothing.
WIDE: dict[str, dict[str, Any]] = {
    f"S{rank:02}USDT": {
        "settle": "USDT",
        "price_tick": "0.01",
        "lot": "0.001",
        "tiers": [["0", "0.005", "100"], [str(10_000_000 // rank), "0.1", "5"]],
    }
    for rank in range(1, 51)
}
WIDE_MARKS = dict.fromkeys(WIDE, "10")


def make_risk(instruments: dict[str, dict[str, Any]]) -> Risk:
    return Risk(
        policy=build_policy({}),
        assets={name: build_asset(name, fields) for name, fields in ASSETS.items()},
        instruments={symbol: build_instrument(symbol, fields) for symbol, fields in instruments.items()},
    )


def numbers(texts: dict[str, str]):
    return {name: try_number(text) for name, text in texts.items()}


def narrow(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "accounts": 1_500,
        "seed": 1,
        "first_marks": numbers(MARKS),
        "risk": make_risk(INSTRUMENTS),
        "asset_prices": numbers({"BTC": "60005"}),
        "isolated_ppm": 200_000,
        "collateral_ppm": 400_000,
    }
    return make_population(**(arguments | changes))


@pytest.fixture(scope="module")
def book():
    return narrow()


@pytest.fixture(scope="module")
def wide():
    return make_population(accounts=4_000, seed=3, first_marks=numbers(WIDE_MARKS), risk=make_risk(WIDE))


def every_position(book):
    return [position for account in book["accounts"] for position in account["positions"]]


def notional_and_profit(book, position) -> tuple[Fraction, Fraction]:
    """Return both in the settlement asset."""
    instrument = INSTRUMENTS.get(position["symbol"]) or WIDE[position["symbol"]]
    size = Fraction(position["qty"]) * Fraction(instrument.get("multiplier", "1"))
    mark, entry = Fraction(book["marks"][position["symbol"]]), Fraction(position["entry_price"])
    if instrument.get("kind") == "inverse":
        return abs(size) / mark, size * (1 / entry - 1 / mark)
    return abs(size) * mark, size * (mark - entry)


def tier_of(position, notional: Fraction) -> tuple[Fraction, Fraction]:
    """Return (maintenance rate, largest leverage)."""
    tiers = (INSTRUMENTS.get(position["symbol"]) or WIDE[position["symbol"]])["tiers"]
    row = [row for row in tiers if Fraction(row[0]) <= notional][-1]
    return Fraction(row[1]), Fraction(row[2])


def price_of(book, asset: str) -> Fraction:
    return Fraction(ASSETS[asset].get("price") or book["asset_prices"][asset])


def counted(book, asset: str, amount: str) -> Fraction:
    """Return the value of a balance after its haircut."""
    slices = ASSETS[asset].get("weights", [["0", "1"]])
    value = Fraction(amount) * price_of(book, asset)
    ends = [Fraction(row[0]) for row in slices[1:]] + [max(value, Fraction(slices[-1][0]))]
    parts = [
        max(Fraction(0), min(value, end) - Fraction(floor)) * Fraction(weight)
        for (floor, weight), end in zip(slices, ends, strict=True)
    ]
    return sum(parts, Fraction(0))


def pots(book):
    """Return (equity, maintenance, initial margin, notional) of each account's cross part and each bucket."""
    result = []
    for account in book["accounts"]:
        cross = [position for position in account["positions"] if "margin" not in position]
        wallet = sum(counted(book, asset, text) for asset, text in account["balances"].items())
        parts = [(wallet, cross)]
        for position in account["positions"]:
            if "margin" in position:
                assert position["isolated"] is True
                parts.append((counted(book, settle_of(position), position["margin"]), [position]))
        for collateral, positions in parts:
            equity, maintenance, initial, total = collateral, Fraction(0), Fraction(0), Fraction(0)
            for position in positions:
                price = price_of(book, settle_of(position))
                notional, profit = notional_and_profit(book, position)
                rate, leverage = tier_of(position, notional)
                equity += profit * price
                maintenance += notional * rate * price
                initial += notional / leverage * price
                total += notional * price
            result.append((equity, maintenance, initial, total))
    return result


def settle_of(position) -> str:
    return (INSTRUMENTS.get(position["symbol"]) or WIDE[position["symbol"]])["settle"]


def leverages(book) -> list[float]:
    return [float(notional / equity) for equity, _, _, notional in pots(book) if notional]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("accounts", [2, 3, 7, 400])
def test_longs_and_shorts_of_each_symbol_cancel(accounts, seed):
    book = narrow(accounts=accounts, seed=seed)
    assert len({account["account"] for account in book["accounts"]}) == accounts
    open_lots = dict.fromkeys(MARKS, Fraction(0))
    for position in every_position(book):
        open_lots[position["symbol"]] += Fraction(position["qty"])
    assert every_position(book)
    assert set(open_lots.values()) == {0}


def test_every_symbol_has_open_interest(book):
    assert {position["symbol"] for position in every_position(book)} == set(MARKS)


def test_same_seed_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_book(narrow(accounts=200, seed=seed), tmp_path / name)
    first, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == again
    assert first != other
    assert json.loads(first) == narrow(accounts=200, seed=5)


def test_a_book_that_cannot_be_written_names_its_path(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        write_book({}, tmp_path / "nowhere" / "book.json")


@pytest.mark.parametrize("name", ["book", "wide"])
def test_every_account_and_bucket_starts_healthy(name, request):
    for equity, maintenance, initial, notional in pots(request.getfixturevalue(name)):
        assert equity > 0
        assert equity >= Fraction("1.049") * initial
        assert maintenance <= Fraction("0.651") * equity
        assert (maintenance > 0) == (notional > 0)


def test_equity_is_the_drawn_size_to_the_cent_whatever_the_contract_and_the_haircut():
    # Sizes are drawn in whole dollars; PnL of every kind and haircuts by slice are made good in the deposit.
    fine = {symbol: text for symbol, text in MARKS.items() if symbol != "COARSEUSDT"}
    book = narrow(isolated_ppm=0, first_marks=numbers(fine))
    book["accounts"] = [account for account in book["accounts"] if account["account"].startswith("trader")]
    unbound = [equity for equity, maintenance, initial, _ in pots(book) if equity > 2 * max(initial, maintenance)]
    assert len(unbound) > 1_000
    assert all(abs(equity - round(equity)) < Fraction("0.01") for equity in unbound)
    # Of these, some hold more coins than the first slice of the haircut.
    assert any(Fraction(account["balances"].get("BTC", "0")) * 60_005 > 500_000 for account in book["accounts"])


@pytest.mark.parametrize("name", ["book", "wide"])
def test_all_numbers_are_within_their_digits(name, request):
    book = request.getfixturevalue(name)
    for position in every_position(book):
        instrument = INSTRUMENTS.get(position["symbol"]) or WIDE[position["symbol"]]
        assert Fraction(position["qty"]) % Fraction(instrument["lot"]) == 0
        assert Fraction(position["qty"]) != 0
        assert Fraction(position["entry_price"]) % Fraction(instrument["price_tick"]) == 0
        assert Fraction(position["entry_price"]) > 0
    amounts = [item for account in book["accounts"] for item in account["balances"].items()]
    amounts += [(settle_of(row), row["margin"]) for row in every_position(book) if "margin" in row]
    amounts += book["insurance"].items()
    for asset, text in amounts:
        assert (Fraction(text) * 10 ** ASSETS[asset]["decimals"]).denominator == 1
        assert Fraction(text) > 0


def test_first_marks_are_the_marks_of_the_book_rounded_as_marks_are(book):
    # A lot of 0.001 leaves five decimals for the mark, one of ten leaves nine.
    assert book["marks"] == MARKS
    assert narrow(accounts=2, first_marks={"BTCUSDT": (60_000_1234565, 7)})["marks"] == {"BTCUSDT": "60000.12346"}


def test_some_entries_are_in_profit_and_some_at_a_loss(wide):
    profits = [notional_and_profit(wide, position)[1] > 0 for position in every_position(wide)]
    assert 0.4 < sum(profits) / len(profits) < 0.6


def test_number_of_positions_averages_four_with_a_heavy_tail(wide):
    counts = [len({row["symbol"] for row in account["positions"]}) for account in wide["accounts"]]
    assert 3.6 < sum(counts) / len(counts) < 4.4
    assert median(counts) <= 3
    assert max(counts) >= 30
    # Accounts with fifteen symbols or more: one in thirty-three.
    assert 0.015 < sum(count >= 15 for count in counts) / len(counts) < 0.045


def test_the_first_symbol_is_held_by_about_half_and_the_others_by_rank(wide):
    holders = Counter(
        symbol for account in wide["accounts"] for symbol in {row["symbol"] for row in account["positions"]}
    )
    shares = [holders[symbol] / len(wide["accounts"]) for symbol in WIDE]
    assert 0.4 < shares[0] < 0.6
    assert shares[0] > 1.3 * shares[1] > 1.3 * shares[3] > 1.3 * shares[9] > 1.3 * shares[40] > 0


def test_popularity_follows_the_brackets_not_the_order_of_the_files():
    turned = dict(reversed(WIDE.items()))
    book = make_population(
        accounts=400, seed=1, first_marks=numbers(dict(reversed(WIDE_MARKS.items()))), risk=make_risk(turned)
    )
    holders = Counter(position["symbol"] for position in every_position(book))
    assert holders.most_common(1)[0][0] == "S01USDT"


def test_sizes_have_the_documented_median_and_tail(wide):
    traders = [
        equity
        for equity, _, _, _ in pots({**wide, "accounts": [a for a in wide["accounts"] if a["account"][0] == "t"]})
    ]
    equities = sorted(map(float, traders))
    assert 2_000 < median(equities) < 4_000
    assert 15_000 < equities[len(equities) * 90 // 100] < 80_000
    assert 400_000 < equities[len(equities) * 99 // 100] < 1_600_000
    assert 2_000_000 < equities[-1] < 16_000_000


def test_leverage_of_a_position_has_median_five_and_of_an_account_two():
    # With every position isolated, each bucket shows the leverage its position was opened for.
    alone = make_population(
        accounts=2_000,
        seed=1,
        first_marks=numbers(WIDE_MARKS),
        risk=make_risk(WIDE),
        isolated_ppm=1_000_000,
        hedge_ppm=0,
    )
    assert 4 < median(leverages(alone)) < 6
    together = make_population(
        accounts=2_000, seed=1, first_marks=numbers(WIDE_MARKS), risk=make_risk(WIDE), isolated_ppm=0
    )
    assert 1.5 < median(leverages(together)) < 2.8
    assert max(leverages(together)) > 25


def test_no_position_is_levered_above_its_tier_allows():
    # Five times is the most the first tier allows, and half of the draws of leverage ask for more.
    capped = {symbol: fields | {"tiers": [["0", "0.01", "5"], ["1000", "0.2", "2"]]} for symbol, fields in WIDE.items()}
    book = make_population(accounts=500, seed=1, first_marks=numbers(WIDE_MARKS), risk=make_risk(capped))
    for account in book["accounts"]:
        equity = sum(counted(book, asset, text) for asset, text in account["balances"].items())
        initial = Fraction(0)
        for position in account["positions"]:
            notional, profit = notional_and_profit(book, position)
            equity += profit + Fraction(position.get("margin", "0"))
            initial += notional / (5 if notional < 1000 else 2)
        assert equity >= initial * Fraction("1.049")


def test_small_accounts_lean_long_and_large_ones_short(wide):
    sides: dict[str, list[bool]] = {"small": [], "large": []}
    for account in wide["accounts"]:
        equity = sum(Fraction(text) for text in account["balances"].values())
        kind = "small" if equity < 9_000 else "large" if equity > 120_000 else None
        if kind and account["account"].startswith("trader"):
            sides[kind] += [not row["qty"].startswith("-") for row in account["positions"]]
    share = {kind: sum(longs) / len(longs) for kind, longs in sides.items()}
    # 64 % hold a long view and four in five positions follow it: 0.64 x 0.8 + 0.36 x 0.2 = 58 %.
    assert 0.55 < share["small"] < 0.62
    assert share["large"] < 0.5


def test_makers_are_one_in_200_and_levered_at_most_twice(wide):
    makers = [account for account in wide["accounts"] if account["account"].startswith("maker")]
    assert len(makers) == 20
    assert max(leverages({**wide, "accounts": makers})) < 2.01
    assert min(equity for equity, *_ in pots({**wide, "accounts": makers})) > 999_999


def test_hedged_accounts_hold_both_legs_and_never_mix_them_with_net(wide):
    hedged = 0
    for account in wide["accounts"]:
        legs: dict[str, list[str]] = {}
        for row in account["positions"]:
            legs.setdefault(row["symbol"], []).append(row["leg"])
            assert row["leg"] in ("net", "short" if row["qty"].startswith("-") else "long")
        assert all(sorted(both) in (["net"], ["long"], ["short"], ["long", "short"]) for both in legs.values())
        hedged += any(len(both) == 2 for both in legs.values())
    assert 0.035 < hedged / len(wide["accounts"]) < 0.065


def test_one_position_in_twenty_is_isolated(wide):
    rows = [row for row in every_position(wide) if row["leg"] == "net"]
    assert 0.035 < sum("margin" in row for row in rows) / len(rows) < 0.065


def test_shares_can_be_switched_off():
    book = narrow(accounts=400, hedge_ppm=0, isolated_ppm=0, collateral_ppm=0, insurance_ppm=0)
    assert {row["leg"] for row in every_position(book)} == {"net"}
    assert not any("margin" in row for row in every_position(book))
    assert all(len(account["balances"]) == 1 for account in book["accounts"])
    assert set(book["insurance"].values()) == {"0"}


def test_collateral_is_held_only_in_assets_with_a_known_price(book):
    holders = Counter(asset for account in book["accounts"] for asset in account["balances"])
    # ETH has neither a fixed price nor a given one.
    assert set(holders) == {"USDT", "USDC", "BTC"}
    assert book["asset_prices"] == {"BTC": "60005"}
    mixed = sum(len(account["balances"]) > 1 for account in book["accounts"])
    assert 0.33 < mixed / len(book["accounts"]) < 0.47


def test_the_fund_holds_a_share_of_open_interest_in_each_settlement_asset(book):
    interest = dict.fromkeys(book["insurance"], Fraction(0))
    for position in every_position(book):
        if not position["qty"].startswith("-"):
            interest[settle_of(position)] += notional_and_profit(book, position)[0]
    assert set(book["insurance"]) == {"USDT", "USDC", "BTC"}
    for asset, notional in interest.items():
        unit = Fraction(1, 10 ** ASSETS[asset]["decimals"])
        assert 0 <= Fraction(book["insurance"][asset]) - notional / 500 <= 2 * unit


def test_volatility_widens_the_entries():
    def spread(volatility: float) -> Fraction:
        book = narrow(accounts=300, volatility={"BTCUSDT": volatility})
        entries = [Fraction(row["entry_price"]) for row in every_position(book) if row["symbol"] == "BTCUSDT"]
        return max(entries) - min(entries)

    # Three deviations of 1 % either way are 3,600 at most; those of 10 % reach further.
    assert 1_800 < spread(0.01) <= 3_601 < spread(0.10)


def test_a_symbol_the_risk_file_does_not_know_takes_no_part():
    book = narrow(accounts=50, first_marks=numbers({"BTCUSDT": "60000", "UNKNOWN": "1"}))
    assert set(book["marks"]) == {"BTCUSDT"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accounts": 1}, "at least 2"),
        ({"first_marks": {}}, "none of the symbols"),
        ({"first_marks": {"UNKNOWN": (1, 0)}}, "UNKNOWN"),
        ({"first_marks": {"BTCUSDT": (0, 0)}}, "BTCUSDT: first mark"),
        ({"asset_prices": None}, "BTCUSD: no price for its settlement asset BTC"),
    ],
)
def test_what_cannot_be_populated_is_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        narrow(**changes)


def test_a_settlement_asset_worth_nothing_beyond_a_cap_is_refused():
    risk = make_risk({"BTCUSDT": INSTRUMENTS["BTCUSDT"]})
    capped = build_asset("USDT", {"price": "1", "weights": [["0", "1"], ["1000", "0"]]})
    with pytest.raises(InputError, match=r"assets\.USDT\.weights"):
        narrow(risk=Risk(risk.policy, {"USDT": capped}, risk.instruments))


def test_description_counts_what_the_book_holds(book):
    lines = describe_population(book, make_risk(INSTRUMENTS))
    isolated = sum("margin" in row for row in every_position(book))
    assert lines[0].startswith("accounts 1,500, ")
    assert lines[1].startswith(f"positions {len(every_position(book)):,}, ")
    assert lines[1].endswith(f"isolated {isolated:,}")
    longs = [row for row in every_position(book) if not row["qty"].startswith("-")]
    interest = sum((notional_and_profit(book, row)[0] * price_of(book, settle_of(row)) for row in longs), Fraction(0))
    told = int(lines[2].removeprefix("open interest ").removesuffix(" USD").replace(",", ""))
    assert abs(told - interest) <= 1
    assert lines[-1] == "insurance fund " + ", ".join(f"{text} {name}" for name, text in book["insurance"].items())
