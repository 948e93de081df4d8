"""What a run is compared with: the rules against twins written from their own words, and the report's table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rules
from benchmarks.formulas import read_risk
from benchmarks.rule_table import account_of, fall
from engine.core.liquidation import plan_orders
from engine.core.margin import liquidatable_rows
from engine.core.params import build_policy
from engine.core.shard import Shard
from engine.edges.bookfile import load_document
from engine.edges.config import default_risk_path, load_risk
from engine.tools.alternatives import Alternative, others, plan_largest_first, plan_pro_rata
from engine.tools.market import START_NS, SYMBOLS, first_asset_prices, first_marks
from engine.tools.replay import ReplayOptions, run_replay
from engine.tools.synth import make_population
from tests.golden import FOLDER

TWINS = {"largest first": (plan_largest_first, rules.largest_first), "pro rata": (plan_pro_rata, rules.pro_rata)}


@pytest.fixture
def market() -> Shard:
    """A population before a fall."""
    risk = load_risk(default_risk_path())
    symbols = [risk.instruments[name] for name in SYMBOLS]
    document = make_population(
        accounts=1500,
        seed=3,
        first_marks=first_marks(symbols),
        risk=risk,
        asset_prices=first_asset_prices(symbols),
        ts=START_NS,
    )
    shard = Shard(risk)
    load_document(shard, document, "population")
    return shard


@pytest.mark.parametrize("name", TWINS)
def test_a_rule_closes_what_its_twin_does_but_for_lots_it_gives_back(name: str, market: Shard) -> None:
    """The twin sizes in fractions and rounds up; the engine's search gives back what it does not need after that."""
    planner, twin = TWINS[name]
    book, terms, seen = market.book, read_risk(default_risk_path()), 0
    for row in in_trouble(market):
        keys = book.positions_of(row)
        account = account_of(book, row, terms)
        orders = plan_orders(book, row, keys, planner)
        sizes = {(close.symbol, close.leg): abs(close.size) for close in orders.closes}
        ours = [sizes.get(key, 0) // book.instruments[key[0]].lot_steps for key in keys]
        expected = twin(account)
        assert orders.sales == []
        assert rules.close(account, ours).is_healthy(account) or ours == [held.lots for held in account.held]
        rests = [held.value(held.lots - count) for held, count in zip(account.held, expected.lots, strict=True)]
        if any(0 < rest < account.min_notional for rest in rests) or not any(rests):
            continue
        # One lot of the position with the fewest is the same part of the others.
        part = Fraction(1, min(held.lots for held in account.held))
        for held, count, other in zip(account.held, ours, expected.lots, strict=True):
            assert abs(count - other) <= 1 + part * held.lots, account.name
        seen += 1
    assert seen >= 20


def in_trouble(market: Shard) -> Iterator[int]:
    """Let the market fall by steps; yield each account with two positions or more when it must be liquidated first."""
    taken: set[int] = set()
    for fall_ppm in range(5_000, 300_000, 5_000):
        fall(market.book, fall_ppm)
        for row in set(liquidatable_rows(market.book).tolist()) - taken:
            taken.add(row)
            if market.book.equity(row) > 0 and len(market.book.positions_of(row)) > 1:
                yield row


def test_every_policy_of_the_engine_has_the_others_beside_it() -> None:
    fifth = {"partial": "fixed", "fraction": "0.2", "fraction_above": "0"}
    names = {
        partial: [one.name for one in others(build_policy(fields))]
        for partial, fields in {"cheapest": {"partial": "cheapest"}, "off": {"partial": "off"}, "fixed": fifth}.items()
    }
    assert names["cheapest"] == ["All at once", "20 % at a time", "Largest first", "Pro rata"]
    assert names["off"] == ["Cheapest closes", "20 % at a time", "Largest first", "Pro rata"]
    assert names["fixed"] == ["Cheapest closes", "All at once", "Largest first", "Pro rata"]


def golden_options(out: Path | None, **changes: Any) -> ReplayOptions:
    risk = load_risk(FOLDER / "crash.toml")
    options = ReplayOptions([FOLDER / "crash.jsonl"], risk, book=FOLDER / "crash.book.json", venue="book", out=out)
    return replace(options, show_progress=False, **changes)


def rows_of(out: Path) -> dict[str, list[str]]:
    section = re.search(r'<section id="policies".*?</section>', (out / "report.html").read_text(), re.DOTALL)
    assert section is not None
    found = {}
    for row in re.findall(r"<tr>(.*?)</tr>", section[0])[1:]:
        cells = [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row)]
        found[cells[0]] = cells[1:]
    return found


def test_a_row_of_the_table_is_what_a_run_under_that_policy_gives(tmp_path: Path) -> None:
    run_replay(golden_options(tmp_path / "main", alternatives=True))
    options = golden_options(tmp_path / "other")
    assert options.risk.policy.partial == "off"
    cheapest = replace(options.risk, policy=replace(options.risk.policy, partial="cheapest"))
    summary = run_replay(replace(options, risk=cheapest))
    row = rows_of(tmp_path / "main")["Cheapest closes"]
    assert [int(cell.replace(",", "")) for cell in row[1:3]] == [summary["liquidations"], summary["orders"]]
    assert row[3] == f"{float(summary['notional_liquidated']):,.2f}"


def test_other_policies_leave_the_run_itself_as_it_was(tmp_path: Path) -> None:
    with_others = run_replay(golden_options(tmp_path / "with", alternatives=True))
    without = run_replay(golden_options(tmp_path / "without"))
    assert with_others["outputs_hash"] == without["outputs_hash"] == stored_hash()
    assert rows_of(tmp_path / "without") == {}
    assert "replay --alternatives" in (tmp_path / "without" / "report.html").read_text()


def stored_hash() -> str:
    return str(json.loads((FOLDER / "crash.summary.json").read_text())["outputs_hash"])


def test_an_alternative_plans_with_the_engine_s_own_planner_unless_it_says_otherwise() -> None:
    planners = {one.name: one.planner for one in others(build_policy({}))}
    assert planners["Pro rata"] is plan_pro_rata
    assert planners["Largest first"] is plan_largest_first
    assert planners["All at once"] is Alternative("", build_policy({})).planner
