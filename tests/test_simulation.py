"""Whole markets from a seed keep every promise; markets that once broke one are run again first.

``LIQ_SIMULATION_SEEDS`` and ``LIQ_SIMULATION_EVENTS`` change the number of seeds and of messages each: 144 take four
minutes of processor time and see every kind of event, ``python -m tests.simulation.run`` takes more. A seed that breaks
a law is printed with the fewest messages that still break it, and kept in ``simulation/failures``.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from itertools import groupby

import pytest

from engine.core.book import Book
from tests.mutants import MUTANTS, ROOT
from tests.scenarios import CAUSES, HOLDS, OUTCOMES, words
from tests.simulation import invariants
from tests.simulation import plan as plans
from tests.simulation.market import Market
from tests.simulation.plan import Plan, plan_text, read_plan, save_plan, shrink
from tests.simulation.prices import SCALE, Prices
from tests.simulation.run import EVENTS, QUICK_EVENTS, Result, closing_line, explain, run_plan, run_seed, run_seeds

SEEDS = int(os.environ.get("LIQ_SIMULATION_SEEDS", "144"))
EVENTS_EACH = int(os.environ.get("LIQ_SIMULATION_EVENTS", str(EVENTS)))
# How many different laws are explained; the first few are enough to begin with.
EXPLAINED_MAX = 3
# What a run over many seeds must have seen, or it proves nothing about it.
KINDS = words("""adl adl_remaining adl_wave bad_debt cancel_orders collateral_sale insurance_fund liquidation_ended
    liquidation_held liquidation_order liquidation_released liquidation_started margin_call policy_changed reject
    takeover""")
SEEN = {
    *(f"liquidation_held {reason}" for reason in HOLDS),
    *(f"liquidation_released {reason}" for reason in HOLDS),
    *(f"liquidation_started {cause}" for cause in CAUSES),
    *(f"liquidation_ended {outcome}" for outcome in OUTCOMES),
    *(f"venue {venue}" for venue in ("none", "book", "impact")),
    "liquidation_order partial",
    "liquidation_order full",
    "no book",
    "book, clock set",
    "book, clock unset",
}


@pytest.mark.parametrize("path", sorted(plans.FAILURES.glob("*.jsonl")), ids=lambda path: path.stem)
def test_market_that_once_broke_a_law_keeps_it(path):
    result = run_plan(read_plan(path))
    assert result.law is None, result.detail


@pytest.mark.slow
def test_every_law_holds_in_many_markets(capsys):
    results = run_seeds(range(SEEDS), EVENTS_EACH)
    with capsys.disabled():
        print(f"\n{closing_line(results)}")
    broken = sorted((result for result in results if result.law), key=lambda result: (result.law, result.messages))
    firsts = [next(group) for _, group in groupby(broken, key=lambda result: result.law)]
    report = "\n\n".join(explain(result) for result in firsts[:EXPLAINED_MAX])
    assert not broken, f"{len(broken)} of {SEEDS} seeds broke {len(firsts)} laws\n{report}"
    kinds: Counter[str] = sum((result.kinds for result in results), Counter())
    seen: Counter[str] = sum((result.seen for result in results), Counter())
    assert set(KINDS) <= set(kinds), f"never seen: {set(KINDS) - set(kinds)}"
    assert set(seen) >= SEEN, f"never seen: {SEEN - set(seen)}"


def test_oracle_in_integers_is_the_reference_in_fractions_after_every_message(monkeypatch):
    monkeypatch.setattr(invariants, "EVERY", 1)
    for seed in (2, 5, 6):
        result = run_seed(seed, 150)
        assert result.law is None, result.detail
        # One row after each message, in turn, and every row at the end.
        assert result.checks["figures of the reference"] > 0.8 * result.messages


def test_seed_makes_the_same_market_every_time():
    first, second = run_seed(7, 60), run_seed(7, 60)
    assert first.plan == second.plan
    assert len(first.plan.lines) > 60
    assert run_seed(8, 60).plan != first.plan


def test_closing_line_adds_up_what_was_run():
    results = [run_seed(seed, 40) for seed in (1, 2)]
    line = closing_line(results)
    assert line.startswith(f"2 seeds, {results[0].messages + results[1].messages} messages, ")
    assert f"{sum(result.checks.total() for result in results):,} checks" in line
    assert line.endswith("s of processor time")


def test_books_come_in_every_shape():
    books = [market.book for market in map(Market, range(200)) if market.book is not None]
    assert 50 < len(books) < 90
    accounts = [account for book in books for account in book["accounts"]]
    entries = [entry for account in accounts for entry in account["positions"]]
    assert {entry.get("leg") for entry in entries} == {None, "long", "short"}
    margins = {(entry.get("isolated", False), "margin" in entry) for entry in entries}
    assert margins == {(False, False), (True, True), (True, False)}
    assert any(is_unnamed_hedge(account["positions"]) for account in accounts)
    assert any(balance.startswith("-") for account in accounts for balance in account["balances"].values())
    assert any(len(entry["entry_price"].partition(".")[2]) > 12 for entry in entries)
    held = [{entry["symbol"] for account in book["accounts"] for entry in account["positions"]} for book in books]
    assert any(symbols - {*book["marks"]} for symbols, book in zip(held, books, strict=True))
    assert {book["ts"] > 0 for book in books} == {True, False}


def is_unnamed_hedge(entries):
    """Return whether two entries of one symbol with opposite signs do not say that they are legs."""
    sides = {(entry["symbol"], entry["qty"][0] == "-") for entry in entries if "leg" not in entry}
    return any((symbol, not is_short) in sides for symbol, is_short in sides)


# ------------------------------------------------------------------------------------------- the model of the prices

X = {"settle": "USD", "price_tick": "0.1", "lot": "1", "mark_decimals": 1, "tiers": [["0", "0.01", "50"]]}
RISK = {
    "policy": {"price_band": "0.1", "max_hold_ms": 1000},
    "assets": {"USD": {"price": "1"}, "USDC": {"redemption_floor": "0.97"}, "BTC": {}},
    "instruments": {"X": X},
}


def test_mark_beyond_the_band_waits_for_a_second_one():
    """100 is in force; 120 waits; 109 lies within a tenth of 120 (108 to 132): it confirms, and is in force itself."""
    prices = told(mark("100"), mark("120"))
    assert state(prices) == ("100", "120")
    assert state(told(mark("109"), prices=prices)) == ("109", None)


def test_mark_within_the_band_of_the_one_in_force_drops_the_one_that_waits():
    assert state(told(mark("100"), mark("120"), mark("107.9"))) == ("107.9", None)
    # 110.1 is beyond both bands, 90 to 110 and 117 to 143: it waits instead of 130.
    assert state(told(mark("100"), mark("130"), mark("110.1"))) == ("100", "110.1")


def test_edge_of_the_band_is_within_it():
    assert state(told(mark("100"), mark("110"))) == ("110", None)
    assert state(told(mark("100"), mark("110.1"))) == ("100", "110.1")
    # Half-even to one decimal: 110.05 is 110, 110.15 is 110.2.
    assert state(told(mark("100"), mark("110.05"))) == ("110", None)
    assert state(told(mark("100"), mark("110.15"))) == ("100", "110.2")


def test_own_index_price_confirms_a_mark_and_is_not_rounded():
    # 121 lies 11 above 110, exactly a tenth of it.
    assert state(told(mark("100"), mark("121", index_price="110"))) == ("121", None)
    assert state(told(mark("100"), mark("121", index_price="109.99999999999"))) == ("100", "121")


def test_wait_ends_after_the_longest_hold_counted_from_the_first_of_a_row():
    prices = told(mark("100"), mark("150", ts=10), mark("200", ts=500))
    told({"type": "funding", "symbol": "X", "rate": "0", "ts": 1009 * 10**6}, prices=prices)
    assert state(prices) == ("100", "200")
    told({"type": "funding", "symbol": "X", "rate": "0", "ts": 1010 * 10**6}, prices=prices)
    assert state(prices) == ("200", None)


def test_older_mark_is_outdated_also_when_the_last_one_waits():
    prices = told(mark("100", ts=5), mark("150", ts=9))
    assert prices.is_outdated(mark("100", ts=8))
    assert not prices.is_outdated(mark("100", ts=9))


def test_named_source_cannot_confirm_itself():
    prices = told(asset("BTC", "100", "a"), asset("BTC", "50", "a"), asset("BTC", "50", "a"))
    assert prices.assets["BTC"].value == 100 * SCALE
    assert told(asset("BTC", "52", "b"), prices=prices).assets["BTC"].value == 52 * SCALE


def test_fixed_price_wins_over_every_source():
    prices = told()
    assert prices.assets["USD"].value == SCALE
    assert prices.is_outdated(asset("USD", "2", "a"))


def test_redeemable_asset_counts_at_its_floor_until_three_sources_have_printed_less():
    prices = told(
        asset("USDC", "1", "a"), asset("USDC", "0.8", "a"), asset("USDC", "0.8", "b"), asset("USDC", "0.8", "a")
    )
    assert prices.assets["USDC"].value == SCALE * 97 // 100
    told(asset("USDC", "0.8", "c"), prices=prices)
    assert prices.assets["USDC"].value == SCALE * 8 // 10
    # Below the floor the band rules: 0.08 of one source waits.
    told(asset("USDC", "0.08", "a"), prices=prices)
    assert (prices.assets["USDC"].value, prices.assets["USDC"].pending) == (SCALE * 8 // 10, SCALE * 8 // 100)


def mark(price, *, ts=0, **fields):
    return {"type": "mark", "symbol": "X", "price": price, "ts": ts * 10**6, **fields}


def asset(name, price, source):
    return {"type": "asset_price", "asset": name, "price": price, "source": source, "ts": 0}


def told(*messages, prices=None):
    prices = prices or Prices(json.loads(json.dumps(RISK)))
    for message in messages:
        prices.hear(message)
    return prices


def state(prices):
    """The mark of X in force and the one that waits, as decimals."""
    quote = prices.marks["X"]
    return tuple(f"{value / SCALE:.10g}" if value else None for value in (quote.value, quote.pending))


# --------------------------------------------------------------------------------------------------- laws that can fail

# What is planted, and the laws of which one must cry. (More, in the text of the engine, are in ``mutants.py``.)
PLANTED = [
    ("engine.core.intake.is_confirmed", lambda *_, **__: True, {"the mark in force", "the asset price in force"}),
    ("engine.core.machine.expire_pending", lambda *_: [], {"the mark in force", "the asset price in force"}),
    ("engine.core.control.review_pending", lambda *_: [], {"the mark in force", "the asset price in force"}),
    ("engine.core.liquidation.call_margin", lambda *_: None, {"nobody misses a call"}),
]


@pytest.mark.parametrize(("place", "bug", "laws"), PLANTED, ids=[place for place, _, _ in PLANTED])
def test_planted_bug_is_seen(place, bug, laws, monkeypatch):
    monkeypatch.setattr(place, bug)
    assert first_broken(laws).law in laws


def test_account_of_a_book_examined_before_its_prices_were_shown_is_seen(monkeypatch):
    monkeypatch.setattr(Book, "is_warm", lambda *_: True)
    laws = {"nobody cold is called", "nobody cold is liquidated", "who is touched cold is held"}
    assert first_broken(laws).plan.book is not None


def test_broken_law_is_explained_by_the_fewest_messages(tmp_path, monkeypatch):
    """A fund whose floor nobody keeps: the explanation names the law, and its plan breaks it again."""
    monkeypatch.setattr(plans, "FAILURES", tmp_path)
    monkeypatch.setattr("engine.core.takeover.fund_capacity", lambda book, share: share.left)
    result = first_broken({"fund keeps its floor"})
    text = explain(result)
    assert text.startswith(f"seed {result.plan.seed} broke: fund keeps its floor")
    (path,) = tmp_path.iterdir()
    kept = read_plan(path)
    assert len(kept.lines) < 15 < len(result.plan.lines)
    assert run_plan(kept).law == "fund keeps its floor"
    assert all(json.loads(line) for line in kept.lines)


def first_broken(laws: set[str]) -> Result:
    """Return the first of the first seeds that breaks one of some laws."""
    results = (run_seed(seed, QUICK_EVENTS) for seed in range(60))
    return next(result for result in results if result.law in laws)


# -------------------------------------------------------------------------------------------------------------- plans


def test_plan_reads_back_as_it_was_written(tmp_path):
    market = Market(3)
    odd = [b'{"type": "mark"}', b"\xff\xfe", b"[1]", b'{"x": "base64"}', b'{"a": 1} ', b"", b'{"price": NaN}']
    plan = Plan(risk=market.risk, venue="book", seed=3, book=market.book, lines=odd)
    path = tmp_path / "plan.jsonl"
    path.write_text(plan_text(plan), encoding="utf-8")
    assert read_plan(path) == plan
    assert plan.book is not None
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


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_still_has_its_place(mutant):
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    assert mutant.old != mutant.new
    # What is no Python is caught by whoever imports it.
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")
