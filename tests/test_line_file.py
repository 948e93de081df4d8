"""A log read in batches of lines says what it says line by line; ``replay --verify`` finds an index that is wrong."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import numpy as np
import pytest

from engine.__main__ import main
from engine.core import pricing
from engine.core.events import Mark, Message, Origin, Output, Reject
from engine.core.kernels.follow import MANTISSA, PLACES, SYMBOL, TS
from engine.core.kernels.segments import NEVER
from engine.core.kernels.tables import BASE
from engine.core.kernels.triggers import concerned_by_asset_into, concerned_rows_into
from engine.core.machine import Machine
from engine.core.shard import Shard
from engine.edges import codec
from engine.edges.codec import decode, encode_event
from engine.edges.config import load_risk
from engine.edges.digest import state_hash
from engine.edges.line_file import LineFile
from engine.edges.readers import LogFile, SymbolResolver, merge, open_log, source
from engine.errors import InvariantError
from engine.tools.replay import ReplayOptions, run_replay
from engine.tools.synth import make_population
from engine.units import NS_PER_S
from tests.golden import LOGS, replay_golden
from tests.malformed import malformed_lines
from tests.real_data import REAL, SHIPPED_RISK, messages_of, needs
from tests.scenarios import (
    MS,
    START_NS,
    Body,
    Desk,
    asset_price,
    buy,
    control,
    deposit,
    mark,
    own_id,
    sell,
    tiny_risk,
    withdraw,
)
from tests.strategies import toml_of

SEED = 20_230_311 if os.environ.get("CI") else SystemRandom().getrandbits(32)
FILES = ["liquidation-orders.jsonl", "bad-debt.jsonl", "margin-events.jsonl", "dead-letters.jsonl", "final-book.json"]
# Tiny, so that they are reached.
BLOCK_BYTES, LINE_BYTES_MAX, BATCH = 300, 200, 3

# ------------------------------------------------------------------------------------------------------- both readers


def line_of(body: Body, number: int) -> bytes:
    return json.dumps({**own_id(body, f"id-{number}"), "ts": START_NS + number * MS, **body}).encode()


def lines_of(*bodies: Body | bytes) -> list[bytes]:
    return [body if isinstance(body, bytes) else line_of(body, number) for number, body in enumerate(bodies, start=1)]


def log_of(path: Path, data: bytes) -> LogFile:
    path.write_bytes(data)
    return opened(path)


def opened(path: Path) -> LogFile:
    return open_log(path, format="jsonl", resolve=SymbolResolver([]), decode=decode)


def read_whole(log: LogFile, shard: Shard, batch: int) -> tuple[list[Message], list[Output]]:
    """Read a log in batches, and fold it: its messages as they would be if each was asked for, and the outputs.

    What stands in a batch as a mark is checked to be what the message says.
    """
    messages, outputs = [], []
    machine = Machine(shard)
    file = LineFile(log, shard.book, batch=batch)
    for lines in file.batches():
        assert 0 < lines.count <= batch
        marks = lines.marks.copy()
        for index in range(lines.count):
            message = lines.message(index)
            messages += [] if message is None else [message]
            if marks[index, SYMBOL] >= 0:
                symbol = shard.book.instruments[marks[index, SYMBOL]].symbol
                assert message is not None
                assert isinstance(message.event, Mark)
                price = int(marks[index, MANTISSA]), int(marks[index, PLACES])
                assert message.event == Mark(symbol, price, int(marks[index, TS]), message.event.index_price)
        lines.marks[:] = marks
        outputs += machine.fold(lines)
    messages += file.broken
    return messages, outputs + machine.apply(file.broken)


def reasons_of(messages: Sequence[Message]) -> list[str]:
    return [message.event.reason for message in messages if isinstance(message.event, Reject)]


def check_reads_alike(log: LogFile, *, batch: int = BATCH) -> list[Message]:
    """Check that a log in batches says, causes and leaves what it does message by message; return the messages."""
    one_by_one, in_batches = Shard(tiny_risk()), Shard(tiny_risk())
    expected = list(merge([log]))
    expected_outputs = Machine(one_by_one).apply(expected)
    messages, outputs = read_whole(log, in_batches, batch)
    assert messages == expected
    assert outputs == expected_outputs
    assert asdict(in_batches.counters) == asdict(one_by_one.counters)
    assert in_batches.origin == one_by_one.origin
    assert state_hash(in_batches) == state_hash(one_by_one)
    return messages


DAY = lines_of(
    mark("100"),
    deposit("a", "60"),
    b"",
    buy("a", "10", "100"),
    mark("99.000001"),
    mark("101", "ETHUSDT"),
    b"  \t",
    b'{"type":"mark","symbol":"BTC',
    mark("94.5"),
    mark("1", "DOGEUSDT"),
    b"\xff\xfe",
    mark("94.4", "BTCUSDT", index_price="94.39"),
    control("set_instrument", symbol="ETHUSDT", mark_decimals=1),
    mark("101.25", "ETHUSDT"),
    b"garbage " * 70,
    mark("101.35", "ETHUSDT"),
)


@pytest.fixture
def tiny_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of more than 200 bytes are too long."""
    monkeypatch.setattr(source, "LINE_BYTES_MAX", LINE_BYTES_MAX)
    monkeypatch.setattr(codec, "LINE_BYTES_MAX", LINE_BYTES_MAX)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last_end", ["", "\n", "\n\n", "\r"])
def test_a_block_may_end_at_any_byte(
    line_end: bytes, last_end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_limits: None
) -> None:
    data = line_end.join(DAY) + last_end.encode()
    path = tmp_path / "day.jsonl"
    for block_bytes in (1, 2, 3, *range(5, 140, 9), len(data) - 1, len(data), len(data) + 1):
        monkeypatch.setattr(source, "BLOCK_BYTES", block_bytes)
        messages = check_reads_alike(log_of(path, data), batch=BATCH if block_bytes > 1 else 1000)
        assert reasons_of(messages) == ["bad_json", "bad_encoding", "too_long"]
        assert [message.origin.offset for message in messages] == [1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16]


@pytest.mark.parametrize("shape", [b"", b"\n", b"\r\n", b"\n\n\n", b" ", b"\r"], ids=repr)
def test_a_file_of_nothing_says_nothing(shape: bytes, tmp_path: Path) -> None:
    assert check_reads_alike(log_of(tmp_path / "empty.jsonl", shape)) == []


def test_one_line_with_and_without_an_end_is_one_message(tmp_path: Path) -> None:
    for end in (b"", b"\n", b"\r\n"):
        (message,) = check_reads_alike(log_of(tmp_path / "one.jsonl", line_of(mark("100"), 1) + end))
        assert message.origin == ("one.jsonl", -1, 1)
        assert message.payload == line_of(mark("100"), 1)


@pytest.mark.parametrize("batch", [1, 2, 7, 4096])
def test_lines_keep_their_numbers_in_batches_of_any_size(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "BLOCK_BYTES", BLOCK_BYTES)
    messages = check_reads_alike(log_of(tmp_path / "day.jsonl", b"\n".join(DAY)), batch=batch)
    assert [message.payload for message in messages] == [line for line in DAY if line.strip()]


def test_the_last_line_of_a_block_of_many_may_have_no_end(tmp_path: Path) -> None:
    log = log_of(tmp_path / "day.jsonl", b"\n".join(DAY))
    data = log.path.read_bytes()
    log.blocks = lambda: iter([data])
    messages = check_reads_alike(log)
    assert messages[-1].payload == DAY[-1]


def test_a_line_just_short_of_too_long_is_taken_and_one_byte_more_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_limits: None
) -> None:
    """Spaces make a mark as long as may be; the reader of usual marks would take a longer one, too."""
    monkeypatch.setattr(source, "BLOCK_BYTES", BLOCK_BYTES)
    shortest = line_of(deposit("a", "1"), 2)
    fits = shortest[:-1] + b" " * (LINE_BYTES_MAX - len(shortest)) + b"}"
    too_long = shortest[:-1] + b" " * (LINE_BYTES_MAX + 1 - len(shortest)) + b"}"
    messages = check_reads_alike(log_of(tmp_path / "long.jsonl", b"\n".join([fits, too_long, too_long[:-1], fits])))
    kinds = [type(message.event).__name__ for message in messages]
    assert kinds == ["Transfer", "Reject", "Reject", "Transfer"]
    assert reasons_of(messages) == ["too_long", "bad_json"]


@pytest.mark.parametrize("lost", [1, 4, 9, 20, 60, 200])
def test_a_gzip_cut_short_says_what_came_before_the_cut_and_that_it_was_cut(lost: int, tmp_path: Path) -> None:
    random = Random(SEED)
    lines = lines_of(*(mark(f"100.{random.getrandbits(40)}") for _ in range(300)))
    packed = gzip.compress(b"\n".join(lines) + b"\n")[:-lost]
    messages = check_reads_alike(log_of(tmp_path / "cut.jsonl.gz", packed), batch=100)
    assert reasons_of(messages) == ["bad_encoding"]
    assert (messages[-1].origin.offset, messages[-1].payload) == (len(messages), b"")
    assert 100 < len(messages) <= 301


def test_malformed_lines_between_marks_are_refused_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK_BYTES", 10_000)
    random, lines = Random(SEED), []
    for number, (_, line, _) in zip(range(300), malformed_lines(), strict=False):
        usual = [line_of(mark(f"{random.randint(90, 110)}", symbol), number) for symbol in ("BTCUSDT", "ETHUSDT")]
        lines += [line, *random.choices([*usual, b"", usual[0] + b"\r"], k=random.randint(0, 3))]
    messages = check_reads_alike(log_of(tmp_path / "mixed.jsonl", b"\n".join(lines)), batch=64)
    assert len(reasons_of(messages)) >= 200


def test_only_a_log_of_messages_is_read_so(tmp_path: Path) -> None:
    path, risk = tmp_path / "BTCUSDT-1m.csv", load_risk(SHIPPED_RISK)
    path.write_text("open_time,open,high,low,close,volume\n1621382400000,1,2,1,2,5\n")
    log = open_log(path, format="binance_klines", resolve=SymbolResolver(risk.instruments.values()), decode=decode)
    with pytest.raises(InvariantError, match=r"BTCUSDT-1m\.csv: not a log of lines"):
        LineFile(log, Shard(risk).book, batch=1)


# ------------------------------------------------------------------------------------------------------------ replays


RISK: dict[str, Any] = {
    "policy": {"partial": "off", "order_timeout_ms": 20},
    "assets": {"USDT": {"price": "1"}},
    "instruments": {
        "BTCUSDT": {"settle": "USDT", "price_tick": "0.1", "lot": "0.001", "tiers": [["0", "0.01", "50"]]},
        "ETHUSDT": {"settle": "USDT", "price_tick": "0.1", "lot": "0.01", "tiers": [["0", "0.02", "25"]]},
    },
}


def slide() -> list[Body]:
    """BTC falls from 120 to 80 by a quarter of a dollar a step, ETH goes nowhere; four longs, one after the other.

    ETH's mark is the first message of all. Each account is long ten from 120, with 60, 120, 180 and 240 behind it.
    """
    bodies = [mark("100.125", "ETHUSDT"), mark("120")]
    for number in range(1, 5):
        bodies += [deposit(f"a{number}", str(60 * number)), buy(f"a{number}", "10", "120")]
    for step in range(160):
        bodies += [mark(f"{120 - (step + 1) / 4}"), mark(f"100.{step % 7}5", "ETHUSDT")]
    return bodies


def replayed(folder: Path, events: Sequence[Path], **options: Any) -> tuple[Body, Path]:
    """Replay logs; return the summary, without what differs from run to run, and the folder with the outputs."""
    risk = folder / "risk.toml"
    risk.write_text(toml_of(RISK))
    out = folder / f"out-{len(list(folder.iterdir()))}"
    request = ReplayOptions(list(events), load_risk(risk), out=out, show_progress=False, **options)
    summary = run_replay(request)
    del summary["latency"]
    return summary, out


def bytes_of(out: Path, *more: str) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in (*FILES, *more)}


def page_of(out: Path) -> str:
    """The report without how fast the run was."""
    page = (out / "report.html").read_text()
    timed = re.search(r'<section id="speed".*?</section>', page, re.DOTALL)
    assert timed is not None
    return page.replace(timed[0], "")


def chart_of(out: Path) -> Body:
    found = re.search(r'id="chart-data">(.*?)</script>', (out / "report.html").read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_a_replay_gives_the_same_bytes_in_batches_of_any_size(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"\n".join(lines_of(*slide(), b"garbage")))
    runs = [replayed(tmp_path, [log], batch=batch) for batch in (1, 7, 4096)]
    assert runs[0][0]["liquidations"] == 4
    assert runs[0][0] == runs[1][0] == runs[2][0]
    assert bytes_of(runs[0][1]) == bytes_of(runs[1][1]) == bytes_of(runs[2][1])


def test_a_report_draws_the_same_in_batches_of_any_size(tmp_path: Path) -> None:
    """``--batch`` never changes a result: not what was liquidated for how much, nor when the first mark came."""
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"\n".join(lines_of(*slide())))
    outs = [replayed(tmp_path, [log], batch=batch)[1] for batch in (1, 7, 4096)]
    assert chart_of(outs[0])["start"] == START_NS // MS + 1
    check_same_pages(outs)


def check_same_pages(outs: list[Path]) -> None:
    charts = [chart_of(out) for out in outs]
    for chart in charts[1:]:
        for part, drawn in charts[0].items():
            assert chart[part] == drawn, part
    pages = [page_of(out) for out in outs]
    assert pages[0] == pages[1] == pages[2]


@pytest.mark.parametrize("name", LOGS)
def test_a_report_of_a_golden_log_draws_the_same_in_batches_of_any_size(name: str, tmp_path: Path) -> None:
    for batch in (1, 7, 4096):
        replay_golden(name, tmp_path / str(batch), batch=batch)
    check_same_pages([tmp_path / str(batch) for batch in (1, 7, 4096)])


def test_a_log_cut_in_two_is_the_same_log(tmp_path: Path) -> None:
    """Two files are merged message by message, one is read in batches: only file and line in the outputs differ."""
    lines = lines_of(*slide())
    paths = [tmp_path / name for name in ("all.jsonl", "one.jsonl", "two.jsonl")]
    for path, part in zip(paths, (lines, lines[:171], lines[171:]), strict=True):
        path.write_bytes(b"\n".join(part) + b"\n")
    (whole, whole_out), (halves, halves_out) = replayed(tmp_path, paths[:1]), replayed(tmp_path, paths[1:])
    assert whole.pop("outputs_hash") != halves.pop("outputs_hash")
    assert whole == halves
    for name in FILES:
        found, expected = (without_places((out / name).read_bytes()) for out in (halves_out, whole_out))
        assert found == expected
    assert chart_of(halves_out) == chart_of(whole_out)


def without_places(data: bytes) -> bytes:
    return re.sub(rb'"file":"[a-z]+\.jsonl","line":[0-9]+', b"", data)


def test_marks_of_a_symbol_that_the_log_brings_are_charted_alike_from_one_file_and_from_two(tmp_path: Path) -> None:
    new = control("set_instrument", symbol="SOLUSDT", **RISK["instruments"]["ETHUSDT"])
    lines = lines_of(mark("100"), mark("1", "SOLUSDT"), new, mark("2", "SOLUSDT"), mark("3", "SOLUSDT"), mark("101"))
    paths = [tmp_path / name for name in ("all.jsonl", "one.jsonl", "two.jsonl")]
    for path, part in zip(paths, (lines, lines[:3], lines[3:]), strict=True):
        path.write_bytes(b"\n".join(part))
    charts = [chart_of(replayed(tmp_path, events)[1]) for events in (paths[:1], paths[1:])]
    assert charts[0] == charts[1]
    (brought,) = (line for line in charts[0]["prices"] if line["name"] == "SOLUSDT")
    # Not the mark that was rejected because nobody knew the symbol yet.
    assert (brought["first"], brought["v"]) == (2.0, [100.0, 150.0])


@pytest.mark.parametrize("price", ["60000.12345678901", "0.1", "123456789012345678", "5" * 30, "0." + "3" * 30])
def test_a_price_is_charted_as_the_nearest_float_whichever_way_it_was_read(price: str, tmp_path: Path) -> None:
    lines = lines_of(mark("100"), mark(price), mark("101"))
    paths = [tmp_path / name for name in ("all.jsonl", "one.jsonl", "two.jsonl")]
    for path, part in zip(paths, (lines, lines[:1], lines[1:]), strict=True):
        path.write_bytes(b"\n".join(part))
    charts = [chart_of(replayed(tmp_path, events)[1])["prices"] for events in (paths[:1], paths[1:])]
    assert charts[0] == charts[1]


@pytest.mark.parametrize("batch", ["0", "-1", "-4096"])
def test_a_batch_of_nothing_is_bad_input(batch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, naming it: a replay of no messages that ends well would be worse than none."""
    log, risk = tmp_path / "log.jsonl", tmp_path / "risk.toml"
    log.write_bytes(line_of(mark("100"), 1))
    risk.write_text(toml_of(RISK))
    try:
        code = main(["replay", str(log), "--risk", str(risk), "--batch", batch, "--quiet"])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert "batch" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- verify


def verified(folder: Path, log: Path, every: int, *more: str) -> int:
    risk = folder / "risk.toml"
    if not risk.is_file():
        risk.write_text(toml_of(RISK))
    return main(["replay", str(log), "--risk", str(risk), "--verify", str(every), "--quiet", "--json", *more])


CRASH = "freqtrade_binance_spot_1m_2021-05-19"


@needs(CRASH)
@pytest.mark.parametrize("every", [1, 10])
def test_a_recorded_crash_holds_against_a_look_at_everybody(
    every: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """2021-05-19, 12:50 to 13:15 UTC: bitcoin from 35,000 to 30,000, ether from 2,400 to 1,900."""
    risk = load_risk(SHIPPED_RISK)
    since = 1_621_428_600 * NS_PER_S
    events = [
        message.event
        for message in messages_of([REAL / CRASH / f"{coin}_USDT-1m.json.gz" for coin in ("BTC", "ETH")], risk)
        if isinstance(message.event, Mark) and since <= message.event.ts < since + 25 * 60 * NS_PER_S
    ]
    first = {event.symbol: event.price for event in reversed(events)}
    book = make_population(accounts=200, seed=5, first_marks=first, asset_prices={}, risk=risk, ts=since)
    log = tmp_path / "crash.jsonl"
    log.write_bytes(b"\n".join(encode_event(event) for event in events))
    (tmp_path / "book.json").write_text(json.dumps(book))
    arguments = ["replay", str(log), "--book", str(tmp_path / "book.json"), "--quiet", "--json"]
    arguments += ["--risk", str(SHIPPED_RISK)]
    assert main(arguments) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main([*arguments, "--verify", str(every)]) == 0
    looked_at = json.loads(capsys.readouterr().out)
    assert looked_at["liquidations"] > 20
    for summary in (plain, looked_at):
        del summary["latency"]
    assert looked_at == plain


def missing_last(kernel: Any) -> Any:
    """A search that loses the last row it has found."""
    return lambda *arguments: max(kernel(*arguments) - 1, 0)


def test_a_row_that_the_index_misses_is_named_with_its_file_line_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten long from 100 with 60: at 95 there are 10 left and 9.5 are needed, more than the four fifths of a call."""
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"\n".join(lines_of(mark("100"), deposit("a", "60"), b"", buy("a", "10", "100"), mark("95"))))
    assert verified(tmp_path, log, 1) == 0
    monkeypatch.setattr(pricing, "concerned_rows_into", missing_last(concerned_rows_into))
    assert verified(tmp_path, log, 1) == 1
    assert capsys.readouterr().err == (
        "liq-engine replay: log.jsonl line 5: price of BTCUSDT: only a look at all holders finds "
        "a: equity 10, maintenance margin 9.5\n"
    )


def test_the_same_error_of_an_asset_price_is_named_as_the_asset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One COIN at 100 against ten short from 100: at 5 no more than 5 are behind them."""
    coin = {"policy": RISK["policy"], "assets": {**RISK["assets"], "COIN": {}}, "instruments": RISK["instruments"]}
    (tmp_path / "risk.toml").write_text(toml_of(coin))
    log = tmp_path / "log.jsonl"
    bodies = [asset_price("COIN", "100"), mark("100"), deposit("a", "1", "COIN"), sell("a", "10", "100")]
    log.write_bytes(b"\n".join(lines_of(*bodies, asset_price("COIN", "5"))))
    assert verified(tmp_path, log, 1) == 0
    monkeypatch.setattr(pricing, "concerned_by_asset_into", missing_last(concerned_by_asset_into))
    assert verified(tmp_path, log, 5) == 1
    found = capsys.readouterr().err
    assert found == (
        "liq-engine replay: log.jsonl line 5: price of COIN: only a look at all holders finds "
        "a: equity 5, maintenance margin 10\n"
    )


@pytest.mark.parametrize(("every", "code"), [(1, 1), (2, 1), (3, 0), (4, 1), (5, 0), (8, 1), (9, 0), (0, 0)])
def test_only_every_so_many_messages_one_is_held_against_a_look(
    every: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Message 8 of 9, on line 9, is the one at which somebody is missed; usual marks and a blank line stand before."""
    marks: list[Body | bytes] = [mark("99.75"), b"", mark("99.5"), mark("99.25"), mark("99")]
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"\n".join(lines_of(mark("100"), deposit("a", "60"), buy("a", "10", "100"), *marks, mark("95"))))
    monkeypatch.setattr(pricing, "concerned_rows_into", missing_last(concerned_rows_into))
    assert verified(tmp_path, log, every) == code


def test_a_row_out_of_every_keys_reach_is_found() -> None:
    """An account with an open order is looked at with every mark of BTC; without keys no mark would find it."""
    desk = Desk()
    desk.tell(mark("100"), mark("100", "ETHUSDT"), deposit("a", "60"), buy("a", "10", "100"), mark("94.5"))
    desk.tell(mark("101", "ETHUSDT"))
    book = desk.shard.book
    pricing.check_reached(book)
    symbol = book.symbol_index["BTCUSDT"]
    book.tables.keys[:, int(book.tables.symbols[symbol, BASE])] = NEVER
    with pytest.raises(InvariantError, match=r"out of every key's reach: a: equity 5, maintenance margin 9\.45"):
        pricing.check_reached(book)
    # Verification finds it with a message that has nothing to do with it, and names that one.
    machine = Machine(desk.shard, verify_every=1)
    event = decode(line_of(mark("102", "ETHUSDT"), 99))
    assert isinstance(event, Mark)
    with pytest.raises(InvariantError, match=r"^log\.jsonl line 7: out of every key's reach: a: equity 5"):
        machine.apply([Message(Origin("log.jsonl", -1, 7), event)])
    with pytest.raises(InvariantError, match=r"^mark-prices-3 offset 71: out of every key's reach: a: equity 5"):
        machine.apply([Message(Origin("mark-prices", 3, 71), event)])


def test_a_row_that_only_the_index_finds_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    desk.tell(mark("100"), deposit("a", "60"), buy("a", "10", "100"))
    row = desk.row("a")

    def find_a(_view: Any, _symbol: int, found_rows: Any) -> int:
        found_rows[0] = row
        return 1

    monkeypatch.setattr(pricing, "concerned_rows_into", find_a)
    desk.shard.book.is_verified = True
    with pytest.raises(InvariantError, match=r"only the trigger index finds a: equity 50, maintenance margin 9\.9"):
        desk.tell(mark("99"))


def test_marks_in_a_batch_stand_as_they_are_for_the_report(tmp_path: Path) -> None:
    """Also those that were refused or ignored: the report shows what the log has. None of them is put in force."""
    shard = Shard(tiny_risk())
    older = mark("90", ts=START_NS)
    log = log_of(
        tmp_path / "log.jsonl", b"\n".join(lines_of(mark("100"), older, mark("1", "DOGEUSDT"), withdraw("a", "1"), b""))
    )
    (lines,) = LineFile(log, shard.book, batch=9).batches()
    Machine(shard).fold(lines)
    assert lines.marks[:, SYMBOL].tolist() == [0, 0, -1, -1]
    assert lines.marks[:2, MANTISSA].tolist() == [100, 90]
    assert np.array_equal(lines.marks[:2, TS], [START_NS + MS, START_NS])
