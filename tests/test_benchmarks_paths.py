"""The commands that show what a mark and a fill cost: small runs, every figure's place, lies they must catch.

No time is judged here.
"""

from __future__ import annotations

import json
import re
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import pytest

from benchmarks import exactness, hot_fill_lines, hot_fills
from benchmarks.__main__ import Sizes, fill_lines, main, path_lines
from benchmarks.hot_c import IndexC, compile_c
from benchmarks.hot_engine import Batches, Index, Indexed
from benchmarks.hot_fill_lines import EVENTS, LINES, measure_fill_lines
from benchmarks.hot_fills import accounts_a_batch, draw_fills, measure_fills, time_batches
from benchmarks.hot_market import Market, make_market
from benchmarks.hot_path import (
    BATCH,
    GAP_ROUNDS,
    SLOW_MARKS,
    Times,
    makers,
    measure_paths,
    measure_stream,
    notionals,
    time_gap,
    time_path,
    walk,
)
from benchmarks.hot_ways import HoldersNumpy
from engine.core.kernels.rows import set_all_stale, set_flag
from engine.core.kernels.tables import CALLED, NONE, RATE_TOP, RATE_UNBOUNDED, STALE_COUNT, WATCHED, Tables
from engine.core.kernels.triggers import next_unreached_row

TINY = Sizes(
    paths=((200, 1, 2),),
    walks=2,
    fill_accounts=200,
    fills=1_200,
    stream_accounts=100,
    stream_rounds=2,
    log_marks=300,
    decode_lines=20,
    decode_rounds=1,
    replay_accounts=20,
    replay_ticks=30,
    replay_rounds=2,
)
TIMES = {"events", "mean", "mean_best", "p50", "p99", "p99_9", "max"}
OTHERS = ["full recompute, numba", "holders, numba", "holders, NumPy", "Python"]
OTHERS_C = ["full recompute, C", "holders, C"]
INDEXES = ["trigger index, 256 marks a call", "trigger index"]
INDEXES_C = ["trigger index, C, 256 marks a call", "trigger index, C"]


@pytest.fixture(scope="module")
def library():
    return compile_c()


@pytest.fixture(scope="module")
def with_c(library):
    """The library, where there is a C compiler."""
    if isinstance(library, str):
        pytest.skip(library)
    return library


@pytest.fixture(scope="module")
def market():
    return make_market(accounts=300, symbols=12, seed=3)


@pytest.fixture
def index(market):
    return Index(market)


# ---------------------------------------------------------------------------------------------------------- the clock


def test_the_mean_is_the_median_of_the_rounds_the_best_their_lowest_and_percentiles_are_of_all_marks():
    rounds = [np.array([10, 20]), np.array([30, 1_000]), np.array([40, 50])]
    # Means 15, 515 and 45. Of six the third is the smallest that half do not exceed.
    assert Times.of(rounds) == Times(events=6, mean=45, mean_best=15, p50=30, p99=1_000, p99_9=1_000, max=1_000)
    thousand = Times(events=1_000, mean=500, mean_best=500, p50=500, p99=990, p99_9=999, max=1_000)
    assert Times.of([np.arange(1, 1_001)]) == thousand


# ----------------------------------------------------------------------------------------------------- the engine's way


def test_a_shard_made_of_a_market_has_the_standings_of_the_market(market, index):
    equity, maintenance = market.standings(market.marks)
    book = index.shard.book
    assert [book.standing(row + 1)[:2] for row in range(300)] == list(
        zip(equity.tolist(), maintenance.tolist(), strict=True)
    )


def test_marks_in_batches_find_at_each_mark_whom_marks_one_by_one_find(market, index):
    path, amounts = market.crash(30), notionals(market)
    assert len(path.symbols) > BATCH
    one_by_one, _ = walk(index, path, amounts)
    index.reset(market)
    in_batches, times = Batches(index).walk(path, amounts)
    assert sum(map(len, one_by_one)) > 50
    assert all(map(np.array_equal, in_batches, one_by_one))
    # 256 marks, and the 104 that are left.
    assert times.shape == (2,)


def test_after_a_reset_everything_is_as_it_was_in_the_beginning(market, index):
    fresh = Index(market)
    Batches(index).walk(market.crash(4), notionals(market))
    assert not np.array_equal(index.view.keys, fresh.view.keys)
    index.reset(market)
    assert np.array_equal(index.view.keys, fresh.view.keys)
    assert np.array_equal(index.view.balances, fresh.view.balances)
    assert [mark.value for mark in index.shard.book.marks] == market.marks.tolist()


def test_finding_sets_no_key_and_setting_keys_leaves_nobody_stale(market, index):
    ((symbol, price),) = market.gap(0, 0.2).events()
    before = index.view.keys.copy()
    found = index.rows(index.find(symbol, price))
    looked_at = int(index.view.settings[STALE_COUNT])
    assert 0 < len(found) < looked_at
    assert np.array_equal(index.view.keys, before)
    index.share()
    assert index.view.settings[STALE_COUNT] == 0
    assert not np.array_equal(index.view.keys, before)


# ------------------------------------------------------------------------------------------------------ the index in C


def in_c_beside(index: Index, library: Any) -> IndexC:
    """The index in C on tables of its own, equal to those of an index."""
    view = Tables(**{name: array.copy(order="K") for name, array in index.view.arrays().items()})
    return IndexC(view, index.touched.copy(), library)


@pytest.fixture
def in_c(index, with_c):
    return in_c_beside(index, with_c)


def test_the_index_in_c_sets_every_key_as_numba_does_to_the_last_bit(market, index, in_c):
    amounts = notionals(market)
    for path in (market.calm(5), market.crash(20), market.gap(0, 0.2)):
        for way in (index, in_c):
            way.reset(market)
        ours, _ = Batches(index).walk(path, amounts)
        theirs, _ = Batches(in_c).walk(path, amounts)
        assert all(map(np.array_equal, ours, theirs))
        assert np.array_equal(index.view.keys, in_c.view.keys)
        assert np.array_equal(index.view.symbols, in_c.view.symbols)
    assert np.isfinite(index.view.keys).sum() > 500


def test_the_index_in_c_shares_out_the_excess_of_called_rows_and_has_watched_ones_looked_at(market, index, in_c):
    # A hundred accounts stand at MM / E = 0.9 and were called: well again below 0.75, to be liquidated from 1 on.
    equity, maintenance = market.standings(market.marks)
    called = np.arange(0, 300, 3)
    change = (maintenance * 10 // 9 - equity)[called]
    for way in (index, in_c):
        way.deposit(called, change)
        for row in called.tolist():
            set_flag(way.view, row + 1, CALLED, True)
        set_flag(way.view, 2, WATCHED, True)
        # Whoever is watched is found by any mark of a symbol it holds: by the very first one, of the first symbol.
        assert way.follow(Batches(way).lines_of(market.calm(1)), 0, np.array([0, 2, 0, 0])) == (1, 1)
        assert way.rows(1).tolist() == [1]
        way.share()
    assert np.array_equal(index.view.keys, in_c.view.keys)
    for symbol, price in market.crash(10).events():
        assert np.array_equal(index.rows(index.mark(symbol, price)), in_c.rows(in_c.mark(symbol, price)))
        assert np.array_equal(index.view.keys, in_c.view.keys)


def test_the_index_in_c_walks_up_tiers_at_whose_floors_the_margin_jumps(market, index, with_c):
    # As with tier_mode "whole": no deductions, one rate for all of a position, and three times what it was.
    before = np.isfinite(index.view.keys[1]).sum()
    index.view.tiers[:, [2, 3]] = 0
    index.view.tiers[:, 1] *= 3
    index.view.symbols[:, RATE_TOP] = RATE_UNBOUNDED
    in_c = in_c_beside(index, with_c)
    for way in (index, in_c):
        set_all_stale(way.view, 301)
        way.share()
    assert np.array_equal(index.view.keys, in_c.view.keys)
    # Longs have keys for a rise too, now that it can cost more margin than it brings.
    assert np.isfinite(index.view.keys[1]).sum() > before


@pytest.mark.parametrize("fault", ["unknown", "older", "band", "future", "due", "odd scale"])
def test_following_in_c_stops_before_the_same_mark_as_the_engine(market, index, in_c, fault):
    marks = Batches(index).lines_of(market.calm(2))
    marks[:, 3] = range(100, 124)
    # Clock, when a timer is due, how far ahead a mark may be, price band in ppm.
    stream = np.array([99, 10_000, 0, 0], dtype=np.int64)
    place = 17
    if fault == "unknown":
        marks[place, 0] = -1
    elif fault == "older":
        marks[place, 3] = 3
    elif fault == "band":
        stream[3] = 20_000
        marks[place, 1] = marks[place, 1] * 103 // 100
    elif fault == "future":
        stream[2] = 5
        marks[place, 3] += 50
    elif fault == "due":
        stream[1] = 100 + place
    else:
        # The same price with digits too many, a half to be rounded to even among them, is as good as any.
        marks[place, 1], marks[place, 2] = marks[place, 1] * 10 + 5, marks[place, 2] + 1
        place = len(marks)
    streams = stream.copy(), stream.copy()
    ended = [way.follow(marks, 0, own) for way, own in zip((index, in_c), streams, strict=True)]
    assert ended == [(place, 0), (place, 0)]
    assert np.array_equal(*streams)
    assert np.array_equal(index.view.symbols, in_c.view.symbols)


def test_following_in_c_leaves_a_vast_price_to_exact_sums_where_the_engine_does(market, index, in_c):
    ended = []
    for power in range(11):
        line = Batches(index).lines_of(market.gap(0, 0))
        line[0, 1] *= 10**power
        for way in (index, in_c):
            way.reset(market)
        ours, theirs = (way.follow(line, 0, np.array([0, 10, 0, 0])) for way in (index, in_c))
        assert ours == theirs, power
        ended.append(ours[0])
    # Ten or a hundred times the mark is put in force; from some power on none is.
    assert ended == sorted(ended, reverse=True)
    assert ended[2] == 1
    assert ended[-1] == 0


def test_the_index_in_c_refuses_tables_of_several_assets(index, with_c):
    view = index.view.replaced(balances=np.zeros((301, 2), dtype=np.int64))
    with pytest.raises(ValueError, match="knows one asset, the tables have 2"):
        IndexC(view, index.touched, with_c)


# ------------------------------------------------------------------------------------------------------------ the paths


def indexes_of(index: Index, library: Any) -> list[Indexed]:
    """The engine's index and, where there is a C compiler, its twin on the same tables."""
    return [index] if isinstance(library, str) else [index, IndexC(index.view, index.touched, library)]


def test_every_way_takes_the_path_and_finds_the_same_rows(market, index, library):
    indexes: list[Indexed] = indexes_of(index, library)
    held: dict[str, int] = {}
    entry = time_path(indexes, makers(market, library), market, market.crash(10), 3, held)
    events = {label: times.events for label, times in entry["ways"].items()}
    slow = {label: SLOW_MARKS for label in ("full recompute, C", *OTHERS) if label != "holders, numba"}
    # 120 marks, three times: in a batch each, or one by one.
    expected = {INDEXES[0]: 3, INDEXES[1]: 120 * 3, "holders, numba": 120} | slow
    if not isinstance(library, str):
        expected |= {INDEXES_C[0]: 3, INDEXES_C[1]: 120 * 3, "holders, C": 120}
        assert list(entry["index_by_c"]) == INDEXES
    else:
        del expected["full recompute, C"]
    assert events == expected
    assert entry["marks"] == 120
    assert entry["found"] > 50
    assert sorted(held) == sorted(label for label in expected if not label.startswith("trigger index"))


class Forgetful(HoldersNumpy):
    """Leaves the last row out."""

    label = "forgetful"

    def mark(self, symbol: int, price: int) -> int:
        return max(0, super().mark(symbol, price) - 1)


class Careless(HoldersNumpy):
    """Adds a unit to an account's equity where it matters to nobody."""

    label = "careless"

    def mark(self, symbol: int, price: int) -> int:
        self.equity[self.row[self.base[symbol]]] += symbol == 3
        return super().mark(symbol, price)


class Asleep(Index):
    """Finds nobody."""

    label = "asleep"

    def find(self, symbol: int, price: int) -> int:
        super().find(symbol, price)
        return 0


def test_a_way_that_forgets_a_row_is_caught(market, index):
    with pytest.raises(SystemExit, match=r"forgetful, mark \d+: finds \d+ rows, the trigger index \d+"):
        time_path([index], [lambda: Forgetful(market)], market, market.crash(2), 1, {})
    with pytest.raises(SystemExit, match="forgetful, mark 0: finds"):
        time_gap([index], [lambda: Forgetful(market)], market)
    # Where nobody is in need, there is nothing to see.
    assert time_path([index], [lambda: Forgetful(market)], market, market.calm(1), 1, {})["found"] == 0


def test_a_way_that_keeps_a_wrong_unit_is_caught(market, index):
    with pytest.raises(SystemExit, match="careless: equity or margin differs"):
        time_path([index], [lambda: Careless(market)], market, market.calm(1), 1, {})


def test_an_index_that_finds_others_than_the_engines_is_caught(market, index):
    asleep = Asleep(market)
    with pytest.raises(SystemExit, match=r"asleep, mark \d+: finds 0 rows"):
        time_path([index, asleep], [], market, market.crash(2), 1, {})
    with pytest.raises(SystemExit, match="asleep, mark 0: finds 0 rows"):
        time_gap([index, asleep], [], market)


def test_a_gap_is_found_several_times_from_the_same_start_and_its_keys_are_a_line_of_their_own(market, index, library):
    indexes: list[Indexed] = indexes_of(index, library)
    entry = time_gap(indexes, makers(market, library), market)
    labels = [f"{way.label}: {part}" for part in ("rows found", "keys set anew") for way in indexes]
    others = [*([] if isinstance(library, str) else OTHERS_C), *OTHERS]
    assert list(entry["ways"]) == [*labels, *others]
    assert {times.events for times in entry["ways"].values()} == {GAP_ROUNDS}
    ((symbol, price),) = market.gap(0, 0.2).events()
    numpy = HoldersNumpy(market)
    assert entry["marks"] == GAP_ROUNDS
    assert entry["found"] == numpy.mark(symbol, price) > 10
    # Twice in a row: each round begins where the market does.
    assert time_gap(indexes, [], market)["found"] == entry["found"]


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("no-such-compiler", "no C compiler (no-such-compiler) was found"), ("false", "false ended with 1: ")],
)
def test_without_c_its_lines_are_left_out_and_the_table_says_why(compiler, reason):
    entry = measure_paths(accounts=100, calm=1, crash=1, walks=1, compiler=compiler)
    assert entry["without_c"] == reason
    assert list(entry["calm"]["ways"]) == [*INDEXES, *OTHERS]
    text = "\n".join(path_lines(entry))
    assert f"C is left out: {reason}" in text
    assert ", C " not in text
    assert "same algorithm in C" not in text


# ------------------------------------------------------------------------------------------------------------ the fills


def test_fills_change_positions_and_close_none(market, index):
    trades = draw_fills(market, 2_000, seed=1)
    before = index.view.positions["size"].copy()
    time_batches(index, trades, 500, is_each=False)
    after = index.view.positions["size"]
    assert np.all(np.sign(after) == np.sign(before))
    assert 0 < np.sum(after != before) < len(before)
    assert np.all(index.view.symbols[:, 10] == np.diff(market.holders().base))


@pytest.mark.parametrize("is_each", [False, True])
def test_after_a_batch_of_fills_no_row_is_stale_and_nobody_is_missed(market, index, is_each):
    time_batches(index, draw_fills(market, 1_000, seed=2), 250, is_each=is_each)
    assert index.view.settings[STALE_COUNT] == 0
    assert next_unreached_row(index.view, 0, 301) == NONE


def test_both_ways_of_taking_fills_end_with_the_same_keys_which_are_others_than_before(market, index):
    trades, before = draw_fills(market, 1_000, seed=2), index.view.keys.copy()
    other = Index(market)
    time_batches(index, trades, 100, is_each=False)
    time_batches(other, trades, 1_000, is_each=True)
    assert np.array_equal(index.view.keys, other.view.keys)
    assert not np.array_equal(index.view.keys, before)


def test_fills_are_of_as_many_accounts_as_recorded_ones():
    trades = draw_fills(make_market(accounts=5_000, symbols=5), 40_960, seed=1)
    # Of 64 in a row 36 different ones, of 512 185, of 2,048 462.
    assert [accounts_a_batch(trades, size) for size in (64, 512, 2_048)] == pytest.approx([36, 185, 462], rel=0.12)


def test_the_entry_of_fills_says_what_was_taken(library):
    entry = measure_fills(accounts=300, fills=6_000, walks=3)
    assert (entry["accounts"], entry["fills"]) == (300, 6_000)
    batches = {label: times.events for label, times in entry["ways"].items()}
    assert batches == {
        "500 a batch, keys set once a batch": 12 * 3,
        "500 a batch, keys set at each fill": 12 * 3,
        # The last one has the 1,000 that are left.
        "5,000 a batch, keys set once a batch": 2 * 3,
        "5,000 a batch, keys set at each fill": 2 * 3,
    }
    assert list(entry["accounts_a_batch"]) == list(entry["each_by_once"]) == ["500", "5000"]
    assert 50 < entry["accounts_a_batch"]["500"] < entry["accounts_a_batch"]["5000"] <= 300
    assert fill_lines(entry)[1].startswith("fills: 300 accounts, 6,000 fills; of a batch of 500 of ")


def test_fills_whose_keys_are_set_otherwise_are_caught(monkeypatch):
    right = hot_fills.take_fills
    # Told to set keys at each fill, it takes one fill less.
    monkeypatch.setattr(hot_fills, "take_fills", lambda t, trades, is_each: right(t, trades[is_each:], is_each))
    with pytest.raises(SystemExit, match="fills, 500 a batch, keys set at each fill: other keys than the first way's"):
        measure_fills(accounts=100, fills=300, walks=1)


# ----------------------------------------------------------------------------------------------------------- exactness


def test_exactness_compares_so_many_ticks_and_says_what_happened_in_them(capsys, monkeypatch):
    # Several stretches, so that what one leaves the next one takes up.
    monkeypatch.setattr(exactness, "STRETCH", 7_000)
    assert exactness.main(["--ticks", "40000", "--accounts", "400", "--seed", "5"]) == 0
    out, err = capsys.readouterr()
    said, figures = out.split("; ")
    assert said == "40,000 ticks, 400 accounts, seed 5: equal"
    counts = {name: int(count.replace(",", "")) for count, name in (part.split(" ", 1) for part in figures.split(", "))}
    assert list(counts) == ["rows found", "gaps", "payments", "trades", "calls", "deposits\n"]
    assert counts["trades"] > 2_000
    assert all(counts.values())
    assert "7,000 ticks" in err
    assert "40,000 ticks" in err


class Untold(Index):
    """An index that nobody has told of what accounts have lost."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.view.balances[1:20, 0] = -(10**15)


def test_exactness_names_the_first_tick_at_which_a_row_is_missed(capsys, monkeypatch):
    monkeypatch.setattr(exactness, "Index", Untold)
    assert exactness.main(["--ticks", "10000", "--accounts", "300"]) == 1
    assert re.fullmatch(
        r"tick \d+ of \w+-\d: a look at all finds a row that the index does not\n", capsys.readouterr().out
    )


# ---------------------------------------------------------------------------------------------------------- the command


def test_a_stream_is_brought_in_batches_one_by_one_and_by_loops():
    entry = measure_stream(accounts=50, rounds=2)
    assert entry["marks"] == 400
    events = {label: times.events for label, times in entry["ways"].items()}
    loops = dict.fromkeys(("orjson per event", "msgspec per event"), 400)
    assert events == {"lines, 256 a batch": 2, "lines, 1 a batch": 400} | loops


def test_fill_lines_are_posted_by_a_kernel_and_leave_the_same_book_as_messages():
    entry = measure_fill_lines(accounts=50, fills=1_000, walks=2)
    assert (entry["fills"], entry["posted"]) == (1_000, 1_000)
    assert {name: times.events for name, times in entry["ways"].items()} == {LINES: 4 * 2, EVENTS: 4 * 2}


def test_fill_lines_that_leave_another_book_are_caught(monkeypatch):
    monkeypatch.setattr(hot_fill_lines, "by_events", lambda shard: lambda part: None)
    with pytest.raises(SystemExit, match="fills, a message a line: another book than the first way's"):
        measure_fill_lines(accounts=50, fills=300, walks=1)


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory) -> tuple[dict[str, Any], str]:
    """What a quick run of tiny sizes writes and prints."""
    file = tmp_path_factory.mktemp("benchmarks") / "figures.json"
    with redirect_stdout(StringIO()) as printed:
        assert main(["--quick", "--json", str(file)], quick=TINY) == 0
    return json.loads(file.read_text()), printed.getvalue()


def test_the_document_says_what_was_measured_on_and_how_much(quick_run):
    document, _ = quick_run
    assert list(document) == ["machine", "paths", "fills", "stream", "fill_lines", "log", "decode", "replay"]
    assert set(document["machine"]) == {"processor", "cores", "load", "python", "numba", "numpy", "liq-engine"}
    (entry,) = document["paths"]
    assert (entry["accounts"], entry["symbols"], entry["seed"]) == (200, 200, 1)
    assert (entry["calm"]["marks"], entry["crash"]["marks"], entry["gap"]["marks"]) == (200, 400, GAP_ROUNDS)
    assert (document["fills"]["accounts"], document["fills"]["fills"]) == (200, 1_200)
    assert (document["stream"]["accounts"], document["stream"]["marks"]) == (100, 400)
    assert (document["log"]["marks"], list(document["log"]["seconds"])) == (
        300,
        ["lines in batches", "a message a line"],
    )
    decode = document["decode"]
    assert (decode["lines"], decode["rounds"]) == (20, 1)
    assert list(decode["median"]) == ["codec", "json + Decimal", "orjson alone"]
    replay = document["replay"]
    assert (replay["accounts"], replay["rounds"]) == (20, 2)
    assert set(replay["median"]) == {"seconds", "messages_a_second", "us_a_message"}


def test_every_line_of_times_has_all_figures_in_their_order(quick_run):
    document, _ = quick_run
    (entry,) = document["paths"]
    for ways in (*(entry[name]["ways"] for name in ("calm", "crash", "gap")), document["fills"]["ways"]):
        for figures in ways.values():
            assert set(figures) == TIMES
            assert 0 < figures["mean_best"] <= figures["mean"]
            assert figures["p50"] <= figures["p99"] <= figures["p99_9"] <= figures["max"]


def test_the_table_has_a_line_for_every_way_and_the_ratios(quick_run, library):
    document, text = quick_run
    lines = text.splitlines()
    (entry,) = document["paths"]
    titles = [line.split(":")[0] for line in lines if line and not line.startswith(" ")]
    assert titles[1:] == [
        *("calm", "crash", "gap", "bytes an account, 200 accounts"),
        *("fills", "stream", "fill lines", "log", "decode", "replay"),
    ]
    for ways in (*(entry[name]["ways"] for name in ("calm", "crash", "gap")), document["fills"]["ways"]):
        for label in ways:
            assert any(line.startswith(f"    {label}  ") for line in lines), label
    assert "best of keys set at each fill by that of keys set once a batch: " in text
    if not isinstance(library, str):
        assert text.count("numba's best by that of the same algorithm in C: ") == 3
    # A row that is found is found alike, and the first line is what the others are held against.
    assert f"400 marks, {entry['crash']['found']:,} rows found" in text
    assert [line.rsplit(maxsplit=1)[-1] for line in lines if line.startswith(f"    {INDEXES[0]}  ")] == ["1.0", "1.0"]
