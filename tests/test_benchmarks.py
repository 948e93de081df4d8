"""The commands that show how good plans and waterfalls are: small runs, claims by hand, and lies they must catch."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from benchmarks import crashes, deleveraging, plans, portfolios, rule_table
from benchmarks.formulas import Held, Target, fractional_optimum
from benchmarks.portfolios import Portfolio
from benchmarks.rules import Account, at_once, fixed_part, largest_first, pro_rata
from benchmarks.tables import markdown_table, share, text_table
from engine.core import takeover
from engine.core.adl import allocate, wave_report
from engine.core.liquidation import plan_orders
from engine.core.plan import Close, plan_liquidation
from tests.reference_numbers import show

UNIT = 10**8
FLAT = [["0", "0.01", "50"]]


def risk_of(buffer: str = "0", **instruments: Any) -> dict[str, Any]:
    """Contracts of one lot at 1 % maintenance and 0.1 % cost, settled in dollars."""
    base = {"settle": "USD", "price_tick": "1", "lot": "1", "mark_decimals": 0, "tiers": FLAT, "slippage": "0.001"}
    return {
        "policy": {"target_buffer": buffer},
        "assets": {"USD": {"decimals": 8}},
        "instruments": {symbol: base | fields for symbol, fields in instruments.items()},
    }


def portfolio(risk: dict[str, Any], equity: str, balances: dict[str, int] | None = None, **qtys: int) -> Portfolio:
    """A portfolio at $100 a contract; balances in whole coins of $100, dollars at one."""
    return Portfolio(
        risk=risk,
        qtys={symbol: Fraction(qty) for symbol, qty in qtys.items()},
        marks=dict.fromkeys(qtys, Fraction(100)),
        balances={"USD": 0} | {coin: coins * UNIT for coin, coins in (balances or {}).items()},
        prices={"USD": Fraction(1), "COIN": Fraction(100)},
        equity=int(Fraction(equity) * UNIT),
    )


def dollars(text: str) -> int:
    return int(Fraction(text) * UNIT)


# ------------------------------------------------------------------------------------ the best of all combinations


def test_best_combination_of_one_position_is_the_deficit_by_what_a_lot_frees():
    # 10 contracts: MM 10. E = 7.5: D = 2.5. One frees 1 - 0.1 = 0.9: three, at 0.1 each. Eleven choices, none to all.
    best = portfolio(risk_of(A={}), "7.5", A=10).best()
    assert (best.cost, best.cost_open, best.combinations) == (dollars("0.3"), dollars("0.3"), 11)


def test_best_combination_takes_a_dear_lot_only_where_the_cheap_ones_do_not_reach():
    # B's one contract is worth ten of A's: MM 20. It frees 10 - 2 = 8 for 2. D = 2.5: three of A do it for 0.3.
    risk = risk_of(A={}, B={"multiplier": "10", "slippage": "0.002"})
    start = portfolio(risk, "17.5", A=10, B=1)
    assert start.maintenance == dollars("20")
    assert start.best().cost == dollars("0.3")
    # E = 7: D = 13. All of A free 9; B frees 8, and the other 5 take six of A (5.4): 2 + 0.6.
    assert replace(start, equity=dollars("7")).best().cost == dollars("2.6")


def test_best_combination_sells_a_coin_where_its_haircut_is_dearer_than_its_slippage():
    # A coin of $100 at weight 0.5 counts 50; sold at 1 % slippage it brings 99: 49 freed for 1. D = 2.5 needs three
    # contracts for 0.3, D = 9.5 all ten (9, and MM = 0 at E = -0.5: too little) - or the coin alone, for 1.
    risk = risk_of(A={})
    risk["assets"]["COIN"] = {"decimals": 0, "weights": [["0", "0.5"]], "slippage": "0.01"}
    start = portfolio(risk, "7.5", {"COIN": 1}, A=10)
    assert start.best().cost == dollars("0.3")
    assert replace(start, equity=dollars("0.5")).best().cost == dollars("1")
    assert start.best().combinations == 22


def test_everything_closed_is_the_only_way_where_no_lot_may_stay():
    # E = 1.05: ten contracts cost 1, which leaves 0.05 and no margin; nine leave 0.15 against a margin of 1.
    best = portfolio(risk_of(A={}), "1.05", A=10).best()
    assert (best.cost, best.cost_open) == (dollars("1"), None)
    # E = 0.95: not even that.
    assert portfolio(risk_of(A={}), "0.95", A=10).best().cost is None


def test_fractional_optimum_takes_the_slice_that_frees_most_for_its_cost():
    # $600 at 4 % above $500, 1 % below; 0.1 % cost. The top 100 free 3.9 for 0.1, the rest 0.9 per 100 for 0.1.
    risk = risk_of(A={"tiers": [["0", "0.01", "50"], ["500", "0.04", "20"]]})
    held = Held.of(risk, "A", "net", Fraction(-6), Fraction(100), Fraction(1))
    slices = held.slices(Target.of(risk))
    assert slices == [(Fraction(100), Fraction(39, 1000)), (Fraction(500), Fraction(9, 1000))]
    found = fractional_optimum([(held.cost_rate, slices)], Fraction("4.8"))
    assert found is not None
    # 3.9 for 0.1, and 0.9 for 0.1.
    assert (found.cost, found.price) == (Fraction(dollars("0.2")), Fraction(1, 9))
    assert fractional_optimum([(held.cost_rate, slices)], Fraction("8.5")) is None


def test_finer_lots_are_the_same_portfolio():
    start = portfolio(risk_of(A={}), "7.5", A=10)
    fine = start.refined(1000)
    assert (fine.maintenance, fine.held[0].lots) == (start.maintenance, 10_000)
    # 2.5 / 0.9 = 2.7778: 2.778 contracts.
    assert fine.plan().closes == (Close(0, 2778),)


# ---------------------------------------------------------------------------------------------------------- the rules


def account(equity: str, risk: dict[str, Any], min_notional: int = 0, **qtys: int) -> Account:
    held = tuple(
        Held.of(risk, symbol, "net", Fraction(qty), Fraction(100), Fraction(1)) for symbol, qty in sorted(qtys.items())
    )
    return Account("a", dollars(equity), held, (), Target.of(risk), Fraction(min_notional))


def test_rules_close_what_their_names_say():
    # A 10 and B 40 contracts: MM 50, E = 45: D = 5. Each contract frees 0.9: 5.6.
    risk = risk_of(A={}, B={})
    start = account("45", risk, A=10, B=40)
    # All from B: 6. Of both the same part, 5.56 / 50: 1.1 of A and 4.4 of B, so 2 and 5.
    assert largest_first(start).lots == (0, 6)
    assert pro_rata(start).lots == (2, 5)
    assert at_once(start).lots == (10, 40)
    # A fifth of each is 2 and 8, which free 9: one round is enough.
    done = fixed_part(start)
    assert (done.lots, done.orders, done.cost, done.is_healthy(start)) == ((2, 8), 2, dollars("1"), True)


def test_a_fifth_at_a_time_goes_on_until_it_is_enough_or_nothing_is_left():
    # E = 32: D = 18. First round 2 and 8 (9 freed), then a fifth of 8 and of 32: 2 and 7, 8.1 freed, then 2 and 5.
    start = account("32", risk_of(A={}, B={}), A=10, B=40)
    done = fixed_part(start)
    assert (done.lots, done.orders) == ((6, 20), 6)
    # 1 + 0.9 + 0.7.
    assert done.cost == dollars("2.6")
    # E = 4 does not pay for closing 50 contracts: nothing is left, and it owes 1.
    broke = account("4", risk_of(A={}, B={}), A=10, B=40)
    done = fixed_part(broke)
    assert (done.lots, done.equity, done.is_healthy(broke)) == ((10, 40), dollars("-1"), False)


def test_a_fifth_takes_the_rest_with_it_where_too_little_would_stay():
    start = account("32", risk_of(A={}, B={}), min_notional=900, A=10, B=40)
    assert fixed_part(start).lots == (10, 15)  # $800 of A would stay after the first round


def test_largest_first_goes_on_to_the_next_position_only_when_all_of_one_was_not_enough():
    # E = 10: D = 40. All 40 of B free 36, the other 4 take five of A (4.5).
    start = account("10", risk_of(A={}, B={}), A=10, B=40)
    assert largest_first(start).lots == (5, 40)


# ------------------------------------------------------------------------------------------------------ plans, whole


def test_plans_command_finds_nothing_wrong_and_says_what_it_counted(tmp_path, capsys):
    document = tmp_path / "plans.json"
    assert plans.main(["--portfolios", "60", "--accounts", "200", "--json", str(document)]) == 0
    found = json.loads(document.read_text())
    figures, rules = found["portfolios"], found["rules"]
    assert (figures["portfolios"], figures["unhealthy"], figures["failures"]) == (60, 0, [])
    assert figures["partial"] + figures["full"] == 60
    assert 0 < figures["best"] <= figures["partial"]
    assert figures["gap_max"] < 1_000
    ours, others = rules["partial"]["rules"][rule_table.OURS], rules["partial"]["rules"]
    assert rules["partial"]["accounts"] > 10
    assert ours["unhealthy"] == 0
    assert set(others) == {rule_table.OURS, "largest first", "pro rata", "all at once", "a fifth at a time"}
    assert all(rule["notional"] > 0 and rule["orders"] > 0 for rule in others.values())
    assert others["all at once"]["cost"] > ours["cost"]
    text = capsys.readouterr().out
    assert "portfolios: 60" in text
    assert "cheapest (the engine)" in text


def one_lot_less(start, policy):
    plan = plan_liquidation(start, policy)
    if plan.stage == "full" or not plan.closes:
        return plan
    first = plan.closes[0]
    step = start.positions[first.position_index].instrument.lot_steps
    rest = () if first.qty_steps == step else (replace(first, qty_steps=first.qty_steps - step),)
    return replace(plan, closes=(*rest, *plan.closes[1:]))


def everything(start, policy):
    plan = plan_liquidation(start, policy)
    closes = tuple(Close(index, abs(item.size_steps)) for index, item in enumerate(start.positions))
    return plan if plan.stage == "full" else replace(plan, closes=closes, sales=())


def full_in_name_only(start, policy):
    return replace(plan_liquidation(start, policy), stage="full")


def bound_a_unit_too_high(start, policy):
    plan = plan_liquidation(start, policy)
    bound = Fraction(plan.certificate["bound"] or 0) + Fraction(1, UNIT)
    return replace(plan, certificate=plan.certificate | {"bound": show(bound)})


@pytest.mark.parametrize(
    ("planner", "said"),
    [
        (one_lot_less, "left unhealthy"),
        (everything, "more than the optimum and a lot of each"),
        (full_in_name_only, "closed in full, with a position left"),
        (bound_a_unit_too_high, "certificate: bound is"),
    ],
)
def test_plans_command_catches_a_planner_that_breaks_a_promise(monkeypatch, planner, said):
    monkeypatch.setattr(portfolios, "plan_liquidation", planner)
    figures = plans.measure_portfolios(portfolios=40, seed=1)
    assert any(said in failure for failure in figures.failures)


@pytest.mark.parametrize("name", ["cost", "largest_first", "pro_rata", "equity_after"])
def test_plans_command_catches_a_certificate_that_misstates_a_rule(monkeypatch, capsys, name):
    def lying(*arguments):
        orders = plan_orders(*arguments)
        assert orders.certificate is not None
        return replace(orders, certificate=orders.certificate | {name: "12.34"})

    monkeypatch.setattr(rule_table, "plan_orders", lying)
    assert plans.main(["--portfolios", "1", "--accounts", "100"]) == 1
    assert "BROKEN" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ deleveraging


@pytest.fixture
def one_wave(monkeypatch):
    monkeypatch.setattr(deleveraging, "WAVES", ("ETHUSDT",))


def test_deleveraging_command_shows_the_same_wave_under_three_rules(one_wave, tmp_path, capsys):
    document = tmp_path / "waves.json"
    assert deleveraging.main(["--accounts", "200", "--json", str(document)]) == 0
    ((wave),) = json.loads(document.read_text())
    rules = wave["rules"]
    assert list(rules) == ["queue", "pro_rata", "water_filling"]
    assert len({figures["lots"] for figures in rules.values()}) == 1
    assert rules["queue"]["lots"] > 0
    # Pro rata asks everybody, the queue as few as it can.
    assert rules["queue"]["counterparties"] < rules["pro_rata"]["counterparties"] <= wave["winners"]
    assert rules["water_filling"]["highest_leverage"] <= rules["pro_rata"]["highest_leverage"]
    assert wave["disagreements"] == []
    assert "agree with the runs" in capsys.readouterr().out


def lie_about_an_alternative(report):
    rule, figures = next(iter(report["alternatives"].items()))
    more = {**figures, "counterparties": figures["counterparties"] + 1}
    return {**report, "alternatives": {**report["alternatives"], rule: more}}


def lie_about_itself(report):
    return {**report, "largest_profit_share": "0.123456"}


@pytest.mark.parametrize(
    ("lie", "said"), [(lie_about_an_alternative, "the alternatives are"), (lie_about_itself, "the record says")]
)
def test_deleveraging_command_catches_a_record_that_the_runs_do_not_bear_out(one_wave, monkeypatch, capsys, lie, said):
    monkeypatch.setattr(takeover, "wave_report", lambda *arguments: lie(wave_report(*arguments)))
    assert deleveraging.main(["--accounts", "100"]) == 1
    assert said in capsys.readouterr().err


def test_deleveraging_command_catches_a_rule_that_takes_less(one_wave, monkeypatch, capsys):
    def short(rule, winners, needed):
        return allocate(rule, winners, needed - 1 if rule == "pro_rata" else needed)

    monkeypatch.setattr(takeover, "allocate", short)
    assert deleveraging.main(["--accounts", "100"]) == 1
    assert "lots were taken, under queue" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- crashes


@pytest.fixture
def recorded(tmp_path):
    """Two coins at one-minute candles: half an hour of calm, then a third lower within ten minutes."""
    folder = tmp_path / "data" / "freqtrade_binance_spot_1m_2021-05-19"
    folder.mkdir(parents=True)
    for coin, price in (("BTC", 40_000), ("ETH", 3_000)):
        levels = [100] * 30 + [100 - 3 * minute for minute in range(1, 12)]
        candles = [
            [1_621_400_000_000 + 60_000 * minute, *[price * level // 100] * 4, 1] for minute, level in enumerate(levels)
        ]
        (folder / f"{coin}_USDT-1m.json.gz").write_bytes(gzip.compress(json.dumps(candles).encode()))
    return tmp_path / "data"


def arguments(data: Path, *more: str) -> list[str]:
    return ["--data", str(data), "--only", "2021-05-19", "--venue", "book", "--accounts", "60", *more]


def test_crashes_command_replays_verifies_and_fails_where_an_output_was_changed(
    recorded, tmp_path, monkeypatch, capsys
):
    document = tmp_path / "crashes.json"
    assert crashes.main(arguments(recorded, "--json", str(document), "--out", str(tmp_path / "out"))) == 0
    (row,) = json.loads(document.read_text())
    # Two coins, 41 candles of four marks.
    assert (row["name"], row["messages"]) == ("2021-05-19, book", 2 * 41 * 4)
    assert row["liquidations"] > 0
    assert row["orders"] > 0
    assert (row["difference"], row["differences_count"]) == ("0", 0)
    assert Fraction(row["fund_low"]) <= min(Fraction(row["fund_start"]), Fraction(row["fund_end"]))
    assert 0 <= Fraction(row["not_needed"]) <= Fraction(row["closed_notional"])
    summary = json.loads((tmp_path / "out" / "2021-05-19" / "book" / "summary.json").read_text())
    assert Fraction(row["fund_end"]) == Fraction(summary["insurance"]["USDT"])
    assert "| 2021-05-19, book | 328 |" in capsys.readouterr().out
    # The same outputs with one figure changed afterwards.
    body = summary | {"liquidations": summary["liquidations"] + 1}
    (tmp_path / "out" / "2021-05-19" / "book" / "summary.json").write_text(json.dumps(body))
    monkeypatch.setattr(crashes, "run_replay", lambda *_: None)
    assert crashes.main(arguments(recorded, "--out", str(tmp_path / "out"))) == 1
    assert "liquidations" in capsys.readouterr().err


def test_crashes_command_says_what_is_missing(recorded, capsys):
    assert crashes.main(["--data", str(recorded)]) == 2
    assert "2022-05 LUNA" in capsys.readouterr().err
    assert crashes.main(["--only", "1929"]) == 2
    assert "known are 2021-05-19" in capsys.readouterr().err
    assert crashes.main(arguments(recorded, "--venue", "none")) == 2
    assert "must be one of book, impact" in capsys.readouterr().err


def test_crashes_command_fails_as_the_replay_does(recorded, tmp_path, capsys):
    book = tmp_path / "out" / "2021-05-19"
    book.mkdir(parents=True)
    (book / "book").write_text("a file where the outputs should go")
    assert crashes.main(arguments(recorded, "--out", str(tmp_path / "out"))) == 1
    assert "the replay ended with 2" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- tables


def test_tables_align_numbers_to_the_right():
    rows = [("", "lots"), ("queue", "1,000"), ("pro rata", "7")]
    assert text_table(rows) == "               lots\n    queue     1,000\n    pro rata      7"
    assert markdown_table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"
    assert (share(1, 4), share(1, 0)) == ("25.00 %", "-")
