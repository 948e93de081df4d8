"""Several files become one stream by time, then file, then line, the same each time."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.events import Ignored, Mark, Message, Origin, Reject
from engine.edges.codec import decode
from engine.edges.readers import LogFile, SymbolResolver, expand_paths, merge, open_log
from engine.edges.readers.source import Source

REAL = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "real"
CRASH = REAL / "freqtrade_binance_spot_1m_2021-05-19"
needs_crash = pytest.mark.skipif(not CRASH.is_dir(), reason="the recorded market data is not beside the repository")


def write_log(path: Path, times: list[int | None]) -> LogFile:
    """Write an event log with a mark at each time, a broken line where it is None."""
    rows = [
        "broken" if ts is None else json.dumps({"type": "mark", "symbol": "A", "price": "1", "ts": ts}) for ts in times
    ]
    path.write_text("".join(f"{row}\n" for row in rows))
    return open_log(path, format=None, resolve=SymbolResolver([]), decode=decode)


def places(messages: list[Message]) -> list[str]:
    return [f"{message.origin.topic[0]}{message.origin.offset}" for message in messages]


def test_equal_times_go_by_place_on_the_command_line_then_by_line(tmp_path):
    b, a = write_log(tmp_path / "b.jsonl", [5, 7, 7, 9]), write_log(tmp_path / "a.jsonl", [5, 5, 7, 8])
    assert places(list(merge([b, a]))) == ["b1", "a1", "a2", "b2", "b3", "a3", "a4", "b4"]
    assert places(list(merge([a, b]))) == ["a1", "a2", "b1", "a3", "b2", "b3", "a4", "b4"]


def test_late_row_keeps_its_place_in_its_file(tmp_path):
    a, b = write_log(tmp_path / "a.jsonl", [10, 3, 11]), write_log(tmp_path / "b.jsonl", [4, 10, 11])
    assert places(list(merge([a, b]))) == ["b1", "a1", "a2", "b2", "a3", "b3"]


def test_row_without_a_time_follows_the_row_before_it(tmp_path):
    a, b = write_log(tmp_path / "a.jsonl", [None, 10, None, 20, None]), write_log(tmp_path / "b.jsonl", [1, 15])
    assert places(list(merge([b, a]))) == ["a1", "b1", "a2", "a3", "b2", "a4", "a5"]


def test_nothing_and_empty_files_merge_to_nothing(tmp_path):
    empty = write_log(tmp_path / "a.jsonl", [])
    assert list(merge([])) == list(merge([empty])) == []
    assert places(list(merge([empty, write_log(tmp_path / "b.jsonl", [1])]))) == ["b1"]


def test_no_file_is_read_further_than_its_next_message(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("x")
    taken = []

    def read():
        for line in range(3):
            taken.append(line)
            yield Message(Origin("a", -1, line), Ignored())

    stream = merge([LogFile(Source(path), format="jsonl", time_unit="ns", note="", read=read)])
    next(stream)
    assert taken == [0]


streams = st.lists(st.lists(st.one_of(st.none(), st.integers(0, 6)), max_size=8), max_size=5)


@given(streams)
def test_order_is_that_of_sorting_by_time_key_file_and_line(tmp_path_factory, files):
    source = Source(Path(__file__))

    def log(file: int, times: list[int | None]) -> LogFile:
        def event(ts):
            return Reject("bad_json", "", b"") if ts is None else Mark("A", (1, 0), ts)

        messages = [Message(Origin(str(file), -1, line), event(ts)) for line, ts in enumerate(times)]
        return LogFile(source, format="jsonl", time_unit="ns", note="", read=lambda: iter(messages))

    keyed = []
    for file, times in enumerate(files):
        for line in range(len(times)):
            known = [ts for ts in times[: line + 1] if ts is not None]
            keyed.append((max(known, default=-1), file, line))
    merged = [(int(m.origin.topic), m.origin.offset) for m in merge([log(*item) for item in enumerate(files)])]
    assert merged == [(file, line) for _, file, line in sorted(keyed)]


def marked(message: Message) -> tuple:
    """Return what identifies a mark of the recorded crash: time, file, row, price."""
    assert isinstance(message.event, Mark)
    return message.event.ts, message.origin.topic, message.origin.offset, message.event.price


@needs_crash
def test_recorded_crash_of_29_symbols_merges_whole_in_order_and_twice_the_same():
    logs = [open_log(path, format=None, resolve=SymbolResolver([]), decode=decode) for path in expand_paths([CRASH])]
    assert len(logs) == 29
    first = [marked(message) for message in merge(logs)]
    assert len(first) == 29 * 4 * 6_997
    # All files have the same minutes, so at each quarter of a minute the files follow each other by name.
    assert all(earlier[:2] < later[:2] for earlier, later in pairwise(first))
    assert all(one == marked(other) for one, other in zip(first, merge(logs), strict=True))
    assert all(log.progress() == 1 for log in logs)
