"""Whole markets from a seed keep every promise; markets that once broke one are run again first.

``LIQ_SIMULATION_SEEDS`` raises the number of seeds, ``LIQ_SIMULATION_EVENTS`` that of messages each. A seed that breaks
a law is printed with the fewest messages that still break it, and kept in ``simulation/failures``.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from itertools import groupby

import pytest

from tests.mutants import MUTANTS, ROOT
from tests.scenarios import words
from tests.simulation import plan as plans
from tests.simulation.market import Market
from tests.simulation.plan import Plan, plan_text, read_plan, save_plan, shrink
from tests.simulation.run import EVENTS, Result, explain, run_plan, run_seed, run_seeds

SEEDS = int(os.environ.get("LIQ_SIMULATION_SEEDS", "256"))
EVENTS_EACH = int(os.environ.get("LIQ_SIMULATION_EVENTS", str(EVENTS)))
# How many different laws are explained; the first few are enough to begin with.
EXPLAINED_MAX = 3
# What a run over many seeds must have seen, or it proves nothing about it.
SEEN = words("""adl adl_remaining adl_wave bad_debt cancel_orders collateral_sale insurance_fund liquidation_ended
    liquidation_held liquidation_order liquidation_released liquidation_started margin_call policy_changed reject
    takeover""")


@pytest.mark.parametrize("path", sorted(plans.FAILURES.glob("*.jsonl")), ids=lambda path: path.stem)
def test_market_that_once_broke_a_law_keeps_it(path):
    result = run_plan(read_plan(path))
    assert result.law is None, result.detail


@pytest.mark.slow
def test_every_law_holds_in_many_markets():
    results = run_seeds(range(SEEDS), EVENTS_EACH)
    checks: Counter[str] = sum((result.checks for result in results), Counter())
    kinds: Counter[str] = sum((result.kinds for result in results), Counter())
    messages = sum(len(result.plan.lines) for result in results)
    print(f"{SEEDS} seeds, {messages} messages, {kinds.total()} outputs, {checks.total()} checks of {len(checks)} laws")
    broken = sorted(
        (result for result in results if result.law), key=lambda result: (result.law, len(result.plan.lines))
    )
    firsts = [next(group) for _, group in groupby(broken, key=lambda result: result.law)]
    report = "\n\n".join(explain(result) for result in firsts[:EXPLAINED_MAX])
    assert not broken, f"{len(broken)} of {SEEDS} seeds broke {len(firsts)} laws\n{report}"
    assert set(SEEN) <= set(kinds), f"never seen: {set(SEEN) - set(kinds)}"


def test_seed_makes_the_same_market_every_time():
    first, second = run_seed(7, 60), run_seed(7, 60)
    assert first.plan == second.plan
    assert len(first.plan.lines) > 60
    assert run_seed(8, 60).plan != first.plan


def test_plan_reads_back_as_it_was_written(tmp_path):
    market = Market(3)
    odd = [b'{"type": "mark"}', b"\xff\xfe", b"[1]", b'{"x": "base64"}', b'{"a": 1} ', b"", b'{"price": NaN}']
    plan = Plan(risk=market.risk, venue="book", seed=3, lines=odd)
    path = tmp_path / "plan.jsonl"
    path.write_text(plan_text(plan), encoding="utf-8")
    assert read_plan(path) == plan
    # One header, one line a message.
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1 + len(odd)


def test_plan_is_shrunk_to_what_breaks():
    lines = [str(number).encode() for number in range(100)]
    plan = Plan(risk={}, lines=lines)

    def breaks(shorter: Plan) -> bool:
        return {b"3", b"50", b"97"} <= set(shorter.lines)

    assert shrink(plan, breaks).lines == [b"3", b"50", b"97"]
    assert shrink(replace(plan, lines=[b"3", b"50", b"97"]), breaks).lines == [b"3", b"50", b"97"]


def test_plan_that_cannot_be_kept_is_said_to_be_so(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "FAILURES", tmp_path / "nowhere")
    assert save_plan(Plan(risk={}), "law").startswith("not kept:")
    monkeypatch.setattr(plans, "FAILURES", tmp_path)
    assert read_plan(tmp_path / "a-law-5.jsonl" if save_plan(Plan(risk={}, seed=5), "a law") else tmp_path).seed == 5


def test_broken_law_is_explained_by_the_fewest_messages(tmp_path, monkeypatch):
    """A fund whose floor nobody keeps: the explanation names the law, and its plan breaks it again."""
    monkeypatch.setattr(plans, "FAILURES", tmp_path)
    monkeypatch.setattr("engine.core.takeover.fund_capacity", lambda book, share: share.left)
    result = first_broken("fund keeps its floor")
    text = explain(result)
    assert text.startswith(f"seed {result.plan.seed} broke: fund keeps its floor")
    (path,) = tmp_path.iterdir()
    kept = read_plan(path)
    assert len(kept.lines) < 15 < len(result.plan.lines)
    assert run_plan(kept).law == "fund keeps its floor"
    assert all(json.loads(line) for line in kept.lines)


def first_broken(law: str) -> Result:
    """Return the first of the first seeds that breaks a law."""
    return next(result for result in map(run_seed, range(20)) if result.law == law)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_still_has_its_place(mutant):
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert mutant.old != mutant.new
