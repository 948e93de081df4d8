"""The replay report says what the run's outputs say, stays small whatever the run, and lets no name become markup."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from decimal import Decimal
from html.parser import HTMLParser
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.params import build_instrument
from engine.edges.report import RunRecorder
from engine.edges.report.buckets import FIRST_WIDTH_NS, Buckets
from engine.edges.report.episodes import BOARD_MAX, OPEN_MAX, SHOWN_MAX, EpisodeBoard
from engine.edges.report.exposure import BAND_ENDS_PERCENT, FALLS_PPM, SAMPLES_MAX, Explained, Fall, Sample
from engine.edges.report.markup import amount, duration, escape, exact, grouped, percent, record, rounded, timestamp
from engine.edges.report.series import BARS_MAX, POINTS_MAX, HeatMap, PriceSeries
from engine.units import NS_PER_MS, NS_PER_S

START = 1_621_382_400 * NS_PER_S
HOSTILE = '"><img src=x onerror=alert(1)></script><b>'
SUMMARY = {
    "messages": 12_345,
    "accepted": 12_300,
    "rejected": {"bad_number": 40, "future_ts": 5},
    "duplicates": 2,
    "ignored": 1,
    "fills": 9,
    "orders": 7,
    "liquidations": 6,
    "notional_liquidated": "1234567.891",
    "bad_debt": {"USD": "17.5"},
    "uncovered": {"USD": "0"},
    "insurance": {"USDT": "982.5"},
    "adl": 3,
    "conservation": {"USDT": {"wallets": "5000.00000001", "transfers": "5000.00000001", "difference": "0"}},
    "state_hash": "5e1f" * 16,
    "outputs_hash": "ab12" * 16,
    "latency": {"events_per_second": 250_000, "step_us": {"p50": 2.5, "p99": 40}},
}


def feed(recorder, kind, ts=START, topic="margin-events", **fields):
    recorder.on_output(topic, {"type": kind, "ts": ts, "shard": 0, "seq": 1, "output_id": "0/1", **fields})


def liquidate(recorder, account, *, qty="2", ts=START, symbol="BTCUSDT", decision=None, ended=None, n=1):
    """One account is started, one order goes out and, with ``ended``, the episode closes that much."""
    ids = {"account": account, "liquidation_id": f"{account}/{n}"}
    margins = {"equity": "90", "maintenance_margin": "100", "margin_ratio": "1.11111112"}
    feed(recorder, "liquidation_started", ts, **ids, **margins, cause="mark")
    order = {"symbol": symbol, "side": "sell", "qty": qty, "limit_price": "99", "bankruptcy_price": "98.5"}
    feed(
        recorder,
        "liquidation_order",
        ts,
        "liquidation-orders",
        **ids,
        order_id=f"{account}/{n}/1",
        **order,
        stage="partial",
        decision=decision or {},
    )
    if ended is not None:
        cost = {"cost": "1.5", "not_needed": "0", "equity": "88"}
        feed(recorder, "liquidation_ended", ts, **ids, outcome="healthy", closed_notional=ended, **cost)


def rendered(recorder, summary=SUMMARY, title="A run", inputs=("events.jsonl",), risk_name="risk.toml"):
    return recorder.render(summary, title=title, inputs=list(inputs), risk_name=risk_name)


class Reader(HTMLParser):
    """Collects the elements of a page and its text, and sees that every element that was opened is closed."""

    VOID = ("meta", "img", "link", "input", "br")

    def __init__(self, page):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self._stack: list[str] = []
        self.feed(page)
        self.close()
        assert self._stack == []
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._stack.append(tag)

    def handle_endtag(self, tag):
        assert self._stack.pop() == tag

    def handle_data(self, data):
        if self._stack and self._stack[-1] not in ("script", "style"):
            self.texts.append(data)


def chart_data(page):
    return json.loads(found(r'id="chart-data">(.*?)</script>', page)[1])


def found(pattern, text):
    match = re.search(pattern, text, re.DOTALL)
    assert match is not None, f"no {pattern} in the page"
    return match


def test_verdict_shows_the_summary_with_thousands_separators():
    text = Reader(rendered(RunRecorder())).text
    assert "Conserved to the last unit" in text
    assert "5,000.00000001 USDT" in text.replace("\xa0", " ")
    for figure in ("1,234,567.89", "17.50", "of 12,345 messages", "5e1f" * 16, "982.50"):
        assert figure in text


def test_one_unit_too_many_is_not_conserved():
    row = {"wallets": "5000.00000001", "transfers": "5000", "difference": "0.00000001"}
    text = Reader(rendered(RunRecorder(), SUMMARY | {"conservation": {"USDT": row}})).text
    assert "Money is not conserved" in text
    assert "USDT off by 0.00000001" in text
    assert "Conserved to the last unit" not in text


def test_a_missing_difference_is_not_taken_for_zero():
    text = Reader(rendered(RunRecorder(), SUMMARY | {"conservation": {"USDT": {"wallets": "1"}}})).text
    assert "Money is not conserved" in text


def test_a_run_without_anything_renders():
    text = Reader(rendered(RunRecorder(), {})).text
    for sentence in (
        "Conservation not reported",
        "No account was liquidated.",
        "No message was rejected.",
        "No latency was measured.",
    ):
        assert sentence in text


def test_fund_start_low_and_end_are_exact():
    recorder = RunRecorder()
    balances = (("-300.25", "699.75", "bad_debt"), ("0.00000001", "699.75000001", "liquidation_fee"))
    for second, (change, balance, cause) in enumerate(balances):
        feed(recorder, "insurance_fund", START + second, asset="USDT", change=change, balance=balance, cause=cause)
    fund = recorder.funds["USDT"]
    assert (fund.start, fund.low, fund.end) == (Decimal("1000"), Decimal("699.75"), Decimal("699.75000001"))
    text = Reader(rendered(recorder)).text
    assert "start 1,000.00, low 699.75" in text
    assert "bad debt USDT 1 0 −300.25" in text
    assert chart_data(rendered(recorder))["funds"][0]["why"] == [{}, {"bad_debt": -300.25, "liquidation_fee": 1e-8}]


def test_card_fills_in_the_formulas_with_the_numbers_of_the_decision():
    recorder = RunRecorder()
    position = {"symbol": "BTCUSDT", "leg": "net", "qty": "2", "notional": "200000", "maintenance_margin": "9250"}
    decision = {
        "equity": "9000.5",
        "maintenance_margin": "9250",
        "target": {"buffer": "0.05", "equity": "9712.5"},
        "positions": [position | {"tier_rate": "0.05", "deduction": "750"}],
        "marks": [{"symbol": "BTCUSDT", "price": "100000.5", "ts": START}],
        "collateral": [{"asset": "FDUSD", "balance": "12", "weights": [["0", "0.95"], ["20000000", "0.8"]]}],
        "policy_version": 1234,
        "input": {"topic": "mark-prices", "partition": 0, "offset": 7654321},
    }
    liquidate(recorder, "alice", decision=decision, ended="150")
    text = Reader(rendered(recorder)).text
    assert "E 9,000.50 < MM 9,250.00 → liquidatable" in text
    # (1 + 0.05) x 9250 - 9000.5 = 712
    assert "D = (1 + 0.05) · 9,250.00 − 9,000.50 = 712.00 to be freed" in text
    assert "MM of BTCUSDT = 200,000.00 × 0.05 − 750.00 = 9,250.00" in text
    # 9250 / 9000.5, by the card's own two figures.
    assert "102.7721%" in text
    assert "0 → 0.95, 20,000,000 → 0.8" in text
    assert "100,000.5 2021-05-19 00:00:00" in text
    assert "offset 7654321" in text
    assert "98.5" in text


def test_card_of_a_takeover_without_an_order_shows_the_takeover_and_the_start():
    recorder = RunRecorder()
    ids = {"account": "bob", "liquidation_id": "bob/1"}
    feed(recorder, "liquidation_started", **ids, equity="-50", maintenance_margin="10", cause="mark")
    positions = [{"symbol": "ETHUSDT", "leg": "net", "qty": "-3", "cash": "6050", "price": "2000"}]
    feed(recorder, "takeover", **ids, equity_before="-50", positions=positions)
    feed(recorder, "bad_debt", topic="bad-debt", **ids, asset="USD", deficit="50", paid_by_insurance="50")
    feed(recorder, "liquidation_ended", **ids, outcome="taken_over", closed_notional="0", cost="0")
    text = Reader(rendered(recorder)).text
    assert "E −50.00 < MM 10.00 → liquidatable" in text
    assert "Takeover by the insurance fund" in text
    assert "6,050" in text
    assert recorder.episodes.largest()[0].notional == 6000.0
    assert chart_data(rendered(recorder))["totals"]["taken"] == [6000.0]


def test_retries_of_an_order_do_not_add_up_but_orders_of_one_step_do():
    board = EpisodeBoard()
    order = {"liquidation_id": "a/1", "account": "a", "stage": "full"}
    for ts in (1, 2, 3):
        board.on_order(order | {"ts": ts}, 100.0)
    assert board.largest()[0].notional == 100.0
    board.on_order(order | {"ts": 3}, 50.0)
    assert board.largest()[0].notional == 150.0
    board.on_ended(order | {"ts": 4}, 420.0)
    assert board.largest()[0].notional == 420.0


@pytest.mark.parametrize("seed", range(8))
def test_board_holds_the_largest_episodes_exactly(seed):
    dice = random.Random(seed)
    board = EpisodeBoard()
    best: dict[str, float] = {}
    for ts in range(3000):
        name = f"a{dice.randrange(6 * BOARD_MAX)}/1"
        notional = float(dice.randrange(dice.choice((20, 10_000))))
        board.on_order({"liquidation_id": name, "account": name, "ts": ts}, notional)
        best[name] = max(best.get(name, 0.0), notional)
    assert len(best) > 3 * BOARD_MAX
    expected = sorted(best.values(), reverse=True)[:SHOWN_MAX]
    assert [episode.notional for episode in board.largest()] == expected
    assert all(best[episode.liquidation_id] == episode.notional for episode in board.largest())
    on_board = sorted((episode.notional for episode in board._board.values()), reverse=True)
    assert on_board == sorted(best.values(), reverse=True)[:BOARD_MAX]


def test_board_forgets_the_small_and_keeps_the_records_of_the_large():
    board = EpisodeBoard()
    for number in range(BOARD_MAX * 3):
        body = {"liquidation_id": f"a{number}/1", "account": f"a{number}", "ts": 1, "decision": {"n": number}}
        board.on_order(body, float(number))
        board.on_ended(body, float(number))
    assert len(board._board) == BOARD_MAX
    assert len(board._open) == 0
    largest = board.largest()
    decisions = [episode.details.decision for episode in largest[:3] if episode.details]
    assert decisions == [{"n": 599}, {"n": 598}, {"n": 597}]


def test_open_episodes_are_bounded():
    board = EpisodeBoard()
    for number in range(OPEN_MAX + 500):
        board.on_order({"liquidation_id": f"a{number}/1", "account": "a", "ts": 1}, 1.0)
    assert len(board._open) == OPEN_MAX


def test_first_episodes_count_accounts():
    recorder = RunRecorder()
    for account, n in (("a", 1), ("a", 2), ("b", 1), ("a", 11)):
        liquidate(recorder, account, n=n)
    assert (recorder.total.accounts, recorder.total.episodes) == (2, 4)


def test_notional_uses_the_mark_and_the_contract():
    fields = {"settle": "USDT", "price_tick": "0.1", "lot": "0.001", "tiers": [["0", "0.01", "50"]]}
    linear = build_instrument("X", fields | {"multiplier": "0.01"})
    inverse = build_instrument("XUSD", fields | {"kind": "inverse", "lot": "1", "multiplier": "100", "settle": "X"})
    recorder = RunRecorder({"X": linear, "XUSD": inverse})
    assert recorder.notional("X", "-3", "40") == pytest.approx(1.2)
    recorder.on_mark("X", 50.0, START)
    recorder.on_mark("XUSD", 50.0, START)
    assert recorder.notional("X", "-3", "40") == pytest.approx(1.5)
    # An inverse contract of 100 dollars is worth 100 dollars at any price.
    assert recorder.notional("XUSD", "7") == 700.0
    assert recorder.notional("unknown", "2", "30") == 60.0


def test_symbol_table_holds_orders_takeovers_and_deleveragings():
    recorder = RunRecorder()
    recorder.on_mark("BTCUSDT", 1000.0, START)
    liquidate(recorder, "a", qty="2")
    assert "BTCUSDT 1 2,000.00 0 0 0 0" in Reader(rendered(recorder)).text
    ids = {"account": "a", "liquidation_id": "a/1"}
    feed(recorder, "takeover", **ids, positions=[{"symbol": "BTCUSDT", "leg": "net", "qty": "-0.5", "price": "1"}])
    # Two waves for what the fund could not take: of 1.25 needed 1 was found, and 0.25 later.
    feed(recorder, "adl_wave", **ids, symbol="BTCUSDT", rule="queue", needed_qty="1.25", taken_qty="1")
    feed(recorder, "adl_wave", **ids, symbol="BTCUSDT", rule="queue", needed_qty="0.25", taken_qty="0.25")
    assert "BTCUSDT 1 2,000.00 1 500.00 2 1,250.00" in Reader(rendered(recorder)).text


def test_a_deleveraged_account_counts_with_what_the_winners_took():
    recorder = RunRecorder()
    recorder.on_mark("BTCUSDT", 100.0, START)
    ids = {"account": "bob", "liquidation_id": "bob/1"}
    feed(recorder, "liquidation_started", **ids, equity="-50", maintenance_margin="10", cause="mark")
    feed(recorder, "adl_wave", **ids, symbol="BTCUSDT", rule="queue", needed_qty="30", taken_qty="30")
    feed(recorder, "liquidation_ended", **ids, outcome="deleveraged", closed_notional="0", cost="0")
    (episode,) = recorder.episodes.largest()
    assert (episode.notional, episode.stage) == (3000.0, "adl")
    data = chart_data(rendered(recorder))
    assert (data["totals"]["deleveraged"], data["bars"]["notionals"]["adl"]) == ([3000.0], [3000.0])


def test_rejects_are_shown_by_reason_with_the_first_of_them():
    recorder = RunRecorder()
    reject = {"reason": "bad_number", "detail": "price: '6e4'", "file": "events.jsonl", "line": 17}
    feed(recorder, "reject", topic="dead-letters", **reject)
    feed(recorder, "reject", topic="dead-letters", reason="overflow", detail="", topic_in="x", partition=2, offset=9)
    text = Reader(rendered(recorder)).text
    assert "bad_number 40 future_ts 5" in text
    assert "events.jsonl:17" in text
    assert "[2] @ 9" in text
    assert chart_data(rendered(recorder))["bars"]["t"] == []


def hostile_run():
    recorder = RunRecorder()
    recorder.on_mark(HOSTILE, 100.0, START)
    recorder.on_mark(HOSTILE, 90.0, START + NS_PER_S)
    decision = {HOSTILE: HOSTILE, "positions": [{"symbol": HOSTILE, HOSTILE: "1"}], "marks": {HOSTILE: {"price": "1"}}}
    liquidate(recorder, HOSTILE, symbol=HOSTILE, decision=decision | {"plan": [[HOSTILE]]}, ended="5")
    feed(recorder, "liquidation_held", account=HOSTILE, reason=HOSTILE)
    feed(recorder, "insurance_fund", asset=HOSTILE, change="1", balance="1", cause=HOSTILE)
    wave = {"symbol": HOSTILE, "rule": HOSTILE, "taken_qty": "1", "alternatives": {HOSTILE: {HOSTILE: "1"}}}
    feed(recorder, "adl_wave", liquidation_id=f"{HOSTILE}/1", **wave)
    feed(recorder, "reject", topic="dead-letters", reason=HOSTILE, detail=HOSTILE, file=HOSTILE, line=1)
    hostile = {HOSTILE: "1"}
    summary = SUMMARY | {
        "rejected": {HOSTILE: 1},
        "bad_debt": hostile,
        "insurance": hostile,
        "conservation": {HOSTILE: {"wallets": HOSTILE, "difference": HOSTILE}},
        "state_hash": HOSTILE,
        "latency": {HOSTILE: {HOSTILE: HOSTILE}},
    }
    return rendered(recorder, summary, title=HOSTILE, inputs=[HOSTILE], risk_name=HOSTILE)


def test_no_text_of_a_run_becomes_markup():
    page = hostile_run()
    reader = Reader(page)
    tags = {tag for tag, _ in reader.elements}
    assert "img" not in tags
    assert [tag for tag, _ in reader.elements].count("script") == 2
    assert not any(name.startswith("on") for _, attributes in reader.elements for name in attributes)
    assert chart_data(page)["prices"][0]["name"] == HOSTILE
    assert not set("<>&") & set(found(r'id="chart-data">(.*?)</script>', page)[1])
    # The name stands there as text, in heading, tables and cards.
    assert reader.text.count(HOSTILE) >= 10


def test_page_requests_nothing_and_allows_only_its_own_script():
    page = rendered(RunRecorder())
    reader = Reader(page)
    assert not any({"src", "href"} & attributes.keys() for tag, attributes in reader.elements if tag != "a")
    assert set(re.findall(r"https?://[^\"' ]*", page)) == {"http://www.w3.org/2000/svg"}
    policy = next(
        attributes["content"]
        for tag, attributes in reader.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    for element, directive in (("script", "script-src"), ("style", "style-src")):
        inline = found(rf"<{element}>(.*?)</{element}>", page)[1]
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    # Inline styles would be refused by this very policy.
    assert not any("style" in attributes for _, attributes in reader.elements)


def test_every_control_and_region_has_a_name():
    recorder = RunRecorder()
    liquidate(recorder, "alice")
    page = rendered(recorder)
    identifiers = [attributes["id"] for _, attributes in Reader(page).elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for tag, attributes in Reader(page).elements:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in identifiers
        if tag == "figure" or attributes.get("role") == "region":
            assert attributes["aria-label"]
        if "data-card" in attributes:
            assert attributes["data-card"] in identifiers


def test_page_of_a_huge_run_stays_under_a_megabyte():
    recorder = RunRecorder()
    symbols = [f"COIN{number}USDT" for number in range(300)]
    name = "<" * 60
    positions = [{"symbol": s, "leg": "net", "qty": "1.234", "notional": "123456.12345678"} for s in symbols]
    marks = {s: {"price": "123.456", "ts": START} for s in symbols}
    decision = {"equity": "1", "maintenance_margin": "2", "positions": positions, "marks": marks, "plan": positions}
    for step in range(700):
        for symbol in symbols[:10]:
            recorder.on_mark(symbol, 100.0 + step % 17 * 1.234567, START + step * 61 * NS_PER_S)
    for number in range(400):
        ts = START + number * 100 * NS_PER_S
        liquidate(recorder, f"{name}{number}", ts=ts, symbol=symbols[number % 300], decision=decision, ended="10.5")
        feed(recorder, "insurance_fund", ts, asset="USDT", change="1.23456789", balance="12345.6789", cause="fee")
    page = rendered(recorder)
    assert len(page.encode()) < 1_000_000
    assert page.count("<dialog") == SHOWN_MAX
    assert "more not shown" in page


def test_page_of_a_run_that_fills_every_chart_stays_under_a_megabyte():
    """Six hundred points of eight prices, four funds, all cells of three heat-maps, and samples at their most."""
    recorder = RunRecorder()
    for step in range(1200):
        ts = START + step * NS_PER_S
        for number in range(8):
            symbol = f"COIN{number}USDT"
            recorder.on_mark(symbol, 1000.0 * 1.002 ** ((step * 379 + number) % 400) / 7, ts)
            liquidate(recorder, f"account-{number}-{step}", qty=str(1 + number + step / 1000), ts=ts, symbol=symbol)
        for number in range(4):
            fields = {"asset": f"COIN{number}", "change": "-1.23456789", "balance": "12345.6789"}
            for cause in ("bad_debt", "liquidation_fee", "takeover"):
                feed(recorder, "insurance_fund", ts, cause=cause, **fields)
    falls = tuple(Fall(fall_ppm, 12345, 123456789.123, 1234567.89) for fall_ppm in FALLS_PPM)
    bands = (123456,) * (len(BAND_ENDS_PERCENT) + 1)
    recorder.samples = [Sample(k, START + k * NS_PER_S, bands, falls) for k in range(SAMPLES_MAX + 1)]
    page = rendered(recorder)
    assert sum(len(one["cells"]) for one in chart_data(page)["heat"]) > 3000
    assert len(page.encode()) < 1_000_000


def test_heat_map_holds_each_notional_at_the_mark_of_its_moment():
    recorder = RunRecorder()
    for second, price in enumerate((100.0, 90.0, 90.5, 80.0)):
        recorder.on_mark("BTCUSDT", price, START + second * NS_PER_S)
        liquidate(recorder, f"a{second}", ts=START + second * NS_PER_S, qty="2")
        liquidate(recorder, f"b{second}", ts=START + second * NS_PER_S, qty="3")
    (heat,) = chart_data(rendered(recorder))["heat"]
    for (_, row, notional), price in zip(heat["cells"], (100.0, 90.0, 90.5, 80.0), strict=True):
        assert heat["ratio"] ** row <= price < heat["ratio"] ** (row + 1)
        assert notional == pytest.approx(5 * price)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(1e-6, 1e6), st.floats(0.01, 1e6)), min_size=1, max_size=80))
def test_a_heat_map_loses_nothing_however_far_it_is_merged(added):
    heat, ts = HeatMap(), START
    for gap_ms, price, notional in added:
        ts += gap_ms * NS_PER_MS
        heat.add(ts, price, notional)
    ratio, cells = heat.cells(26)
    rows = [row for _, row, _ in cells]
    assert max(rows) - min(rows) < 26
    assert sum(notional for _, _, notional in cells) == pytest.approx(sum(notional for _, _, notional in added))
    low, high = min(price for _, price, _ in added), max(price for _, price, _ in added)
    assert ratio ** min(rows) <= low * 1.000001
    assert high <= ratio ** (max(rows) + 1) * 1.000001


def test_fund_waterfall_leads_from_the_start_to_the_end_by_its_causes():
    recorder, balance = RunRecorder(), Decimal(1000)
    steps = (("-300.25", "bad_debt", "a/1"), ("50", "liquidation_fee", "b/1"), ("-100", "bad_debt", "c/1"))
    for second, (change, cause, name) in enumerate(steps):
        balance += Decimal(change)
        fields = {"change": change, "balance": str(balance), "cause": cause, "liquidation_id": name}
        feed(recorder, "insurance_fund", START + second, asset="USDT", **fields)
    page = rendered(recorder)
    drawn = found(r'<figure class="waterfall".*?</figure>', page)[0]
    assert re.findall(r'<span class="n">(.*?)</span>', drawn) == ["1,000.00", "−400.25", "+50.00", "649.75"]
    sides = re.findall(r'<rect class="\w+" x="([\d.]+)"[^>]* width="([\d.]+)"', drawn)
    bars = [(float(x), float(width)) for x, width in sides]
    # Each bar begins where the one before it ended: down from the start's right edge, then up to the end's.
    (start_x, start_w), (debt_x, debt_w), (fee_x, fee_w), (end_x, end_w) = bars
    assert debt_x + debt_w == pytest.approx(start_x + start_w, abs=0.2)
    assert fee_x == pytest.approx(debt_x, abs=0.2)
    assert fee_x + fee_w == pytest.approx(end_x + end_w, abs=0.2)
    # The steps that moved most come first, with whose they were.
    text = Reader(page).text
    assert text.index("a/1") < text.index("c/1") < text.index("b/1")


def test_busiest_second_counts_what_began_and_what_moved_in_it():
    recorder = RunRecorder()
    recorder.on_mark("BTCUSDT", 100.0, START)
    for account, ts in (("a", 0), ("b", 5), ("c", 5.9), ("d", 6)):
        liquidate(recorder, account, ts=START + int(ts * NS_PER_S), qty="3")
    text = Reader(rendered(recorder)).text
    assert "The busiest second was 2021-05-19 00:00:05 : 2 liquidations began" in text
    assert "came to 600." in text


def test_gaps_between_marks_are_named_with_the_longest_first():
    recorder = RunRecorder()
    for second in (0, 1, 2, 62, 63):
        recorder.on_mark("BTCUSDT", 100.0, START + second * NS_PER_S)
    recorder.on_marks("ETHUSDT", np.array([1.0, 2.0, 3.0]), np.array([0, 5, 9]) * NS_PER_S + START)
    text = Reader(rendered(recorder)).text
    assert "BTCUSDT 5 0:01:00 2021-05-19 00:00:02 0.000 s" in text
    # Its last mark is older than its longest gap.
    assert "ETHUSDT 3 5.000 s 2021-05-19 00:00:00 54.000 s" in text
    assert text.index("BTCUSDT 5 ") < text.index("ETHUSDT 3 ")


def test_holds_are_counted_by_reason_with_those_that_ended():
    recorder = RunRecorder()
    for account in ("a", "b"):
        feed(recorder, "liquidation_held", account=account, reason="stale_mark")
    feed(recorder, "liquidation_released", account="a", reason="stale_mark")
    assert "stale mark 2 1" in Reader(rendered(recorder)).text


@pytest.mark.parametrize(
    ("summary", "words", "tone"),
    [
        ({"bad_debt": {}, "uncovered": {}}, "No bad debt", "good"),
        ({"bad_debt": {"USD": "17.5"}, "uncovered": {"USD": "0"}}, "Bad debt, all of it paid", "bad"),
        ({"bad_debt": {"USD": "17.5"}, "uncovered": {"USD": "0.00000001"}}, "Losses are uncovered", "bad"),
    ],
)
def test_verdict_on_losses(summary, words, tone):
    page = rendered(RunRecorder(), SUMMARY | summary)
    assert found(r'<li class="check (\w*)"><span[^>]*>.</span><p><strong>' + words, page)[1] == tone


@pytest.mark.parametrize(
    ("explained", "words"),
    [
        (Explained(0, 0, 0, ()), "Everyone is explained Nobody is liquidatable at the end."),
        (Explained(3, 2, 1, ()), "Of 3 liquidatable at the end: 2 in liquidation, 1 held for a stated reason."),
        (Explained(2, 1, 0, ("<bob>",)), "Somebody was forgotten Liquidatable, in no liquidation and not held: <bob>"),
        (None, "Who was left at the end was not looked at"),
    ],
)
def test_verdict_on_who_was_left(explained, words):
    recorder = RunRecorder()
    recorder.explained = explained
    assert words in Reader(rendered(recorder)).text


@pytest.mark.parametrize(
    ("change", "worth", "words", "tone"),
    [
        ("50", "1300", "The fund held", "good"),
        ("50", "0", "The fund held", "good"),
        ("50", "-0.00000001", "The fund is under water", "bad"),
        ("-50", "1300", "The fund paid", "bad"),
    ],
)
def test_verdict_on_the_fund_counts_what_its_positions_lost(change, worth, words, tone):
    recorder = RunRecorder()
    recorder.explained, recorder.currency = Explained(0, 0, 0, (), Decimal(worth)), "USD"
    feed(recorder, "insurance_fund", START, asset="USDT", change=change, balance="1000", cause="takeover")
    page = rendered(recorder)
    assert found(r'<li class="check (\w*)"><span[^>]*>.</span><p><strong>' + words, page)[1] == tone
    assert f"it is worth {rounded(Decimal(worth))} USD at the last marks" in Reader(page).text


def test_same_run_gives_the_same_bytes():
    def run():
        recorder = RunRecorder()
        for number in range(3000):
            recorder.on_mark("BTCUSDT", 100.0 + number % 7, START + number * 977 * NS_PER_MS)
        liquidate(recorder, "a", ended="3")
        return rendered(recorder)

    assert run() == run()


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(1, 1000)), min_size=1, max_size=200),
    st.integers(1, 12),
)
def test_merged_buckets_equal_buckets_of_the_final_width(gaps, count_max):
    buckets: Buckets[list[float]] = Buckets(count_max, list, list.extend)
    ts, seen = START, []
    for gap, value in gaps:
        ts += gap * NS_PER_MS
        buckets.at(ts).append(value)
        seen.append((ts, value))
    expected: dict[int, list[float]] = {}
    for at, value in seen:
        expected.setdefault(at - at % buckets.width_ns, []).append(value)
    assert dict(zip(buckets.starts_ns, buckets.payloads, strict=True)) == expected
    assert len(expected) <= count_max
    # No wider than it has to be: at half the width they would not have fitted.
    if buckets.width_ns > FIRST_WIDTH_NS:
        half = buckets.width_ns // 2
        assert len({at - at % half for at, _ in seen}) > count_max


def test_a_late_observation_goes_into_the_newest_bucket():
    buckets: Buckets[list[str]] = Buckets(4, list, list.extend)
    buckets.at(START + 5 * NS_PER_MS).append("first")
    buckets.at(START).append("late")
    assert buckets.payloads == [["first", "late"]]


def test_prices_keep_low_high_and_last_of_every_mark():
    series = PriceSeries(100.0)
    prices = [100.0 + (number * 37 % 101) / 10 for number in range(5000)]
    for number, price in enumerate(prices):
        series.on_mark(price, START + number * NS_PER_S)
    points = series.points
    assert POINTS_MAX / 2 <= len(points) <= POINTS_MAX
    width = next(width for width in (1 << k for k in range(64)) if len({n * 1000 // width for n in range(5000)}) <= 600)
    first_ms = START // NS_PER_MS
    buckets: dict[int, list[float]] = {}
    for number, price in enumerate(prices):
        buckets.setdefault((first_ms + number * 1000) // width, []).append(price)
    expected = [(min(bucket), max(bucket), bucket[-1]) for bucket in buckets.values()]
    assert [(point.low, point.high, point.last) for point in points] == expected
    assert (series.first, series.count) == (100.0, 5000)


def random_marks(seed, count):
    """Prices and times that mostly go forward: by nothing, a little, an hour; some come late."""
    rng = random.Random(seed)
    steps = (0, 0, 1, NS_PER_MS, 700 * NS_PER_MS, 3600 * NS_PER_S, -5 * NS_PER_S)
    times, now = [], START
    for _ in range(count):
        now += rng.choice(steps)
        times.append(now)
    return np.array([rng.uniform(50, 150) for _ in times]), np.array(times, dtype=np.int64)


@given(st.integers(0, 2**32), st.integers(1, 2000), st.lists(st.integers(1, 700), max_size=6))
def test_marks_many_at_a_time_leave_the_same_series_as_one_by_one(seed, count, sizes):
    prices, times = random_marks(seed, count)
    one_by_one, at_once, in_parts = (RunRecorder() for _ in range(3))
    for price, ts in zip(prices.tolist(), times.tolist(), strict=True):
        one_by_one.on_mark("BTCUSDT", price, ts)
    at_once.on_marks("BTCUSDT", prices, times)
    bounds = sorted({0, count, *(bound for bound in accumulate(sizes) if bound < count)})
    for begin, end in pairwise(bounds):
        in_parts.on_marks("BTCUSDT", prices[begin:end], times[begin:end])
    for recorder in (at_once, in_parts):
        expected, series = one_by_one.prices["BTCUSDT"], recorder.prices["BTCUSDT"]
        assert series.points == expected.points
        assert (series.first, series.last, series.count) == (expected.first, expected.last, expected.count)
        gaps = [(one.gap_max_ns, one.gap_ts, one.last_ts) for one in (series, expected)]
        assert gaps[0] == gaps[1]
        assert (recorder.first_ts, recorder.last_ts) == (one_by_one.first_ts, one_by_one.last_ts)


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_marks_at_the_end_of_a_bucket_belong_to_the_next(offset):
    """A bucket is a millisecond wide at first: what comes within it is one point."""
    series, times = PriceSeries(1.0), np.array([START, START + NS_PER_MS + offset, START + 5 * NS_PER_MS])
    series.on_marks(np.array([1.0, 3.0, 2.0]), times)
    assert [(point.low, point.high, point.last, point.ts) for point in series.points] == [
        *([(1.0, 3.0, 3.0, START + NS_PER_MS - 1)] if offset < 0 else []),
        *([(1.0, 1.0, 1.0, START), (3.0, 3.0, 3.0, START + NS_PER_MS + offset)] if offset >= 0 else []),
        (2.0, 2.0, 2.0, START + 5 * NS_PER_MS),
    ]


def test_no_marks_leave_a_series_as_it_is():
    series = PriceSeries(7.0)
    series.on_marks(np.zeros(0), np.zeros(0, dtype=np.int64))
    assert (series.first, series.last, series.count, series.points) == (7.0, 7.0, 0, [])


def test_bars_stay_bounded_and_count_every_order():
    recorder = RunRecorder()
    for number in range(2000):
        liquidate(recorder, f"a{number}", ts=START + number * 13 * NS_PER_S, qty="1")
    bars = recorder.stages.payloads
    assert len(bars) <= BARS_MAX
    assert sum(bar.counts["partial"] for bar in bars) == 2000
    assert sum(bar.notionals["partial"] for bar in bars) == pytest.approx(2000 * 99.0)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (amount("1234567.891"), '<span title="1,234,567.891">1,234,567.89</span>'),
        (amount("1000"), "1,000.00"),
        (amount("-0.000012345678"), '<span title="−0.000012345678">−0.00001235</span>'),
        (amount("-0"), "0"),
        (amount(None), "–"),
        (amount("1e5"), "–"),
        (amount(float("nan")), "–"),
        (exact("60000.10"), "60,000.1"),
        (exact(True), "–"),
        (percent("1.11111112"), "111.1111%"),
        (duration(90 * NS_PER_S), "0:01:30"),
        (duration(1_500_000), "0.002 s"),
        (escape('<a href="x">'), "&lt;a href=&quot;x&quot;&gt;"),
        (timestamp(0), "–"),
        (timestamp(2**63 - 1), '<time datetime="2262-04-11T23:47:16.854Z">2262-04-11 23:47:16.854</time>'),
        (grouped(Decimal("-0")), "0"),
        (record("x", {"is_held": True, "why": None}, 5), "<dt>Is held</dt><dd>yes</dd></div><div><dt>Why</dt><dd>–"),
    ],
)
def test_values_are_formatted_for_a_reader(shown, expected):
    assert expected in shown
    assert shown == expected or shown.startswith("<dl")


def test_long_texts_are_cut():
    assert len(escape("x" * 10_000)) == 200


def test_a_list_says_how_many_rows_it_leaves_out():
    rows = [{"symbol": f"S{number}", "qty": "1"} for number in range(7)]
    text = Reader(record("plan", rows, 3)).text
    assert "S2" in text
    assert "S3" not in text
    assert "4 more not shown." in text
