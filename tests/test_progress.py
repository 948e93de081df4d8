"""The progress display is silent between its intervals, exact at them, and never touches stdout."""

from __future__ import annotations

import io
import sys

import pytest

from engine.tools import progress
from engine.tools.progress import Progress, seconds_text


class Clock:
    """Time that moves when told to."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


def test_a_line_every_two_seconds_with_rate_percent_and_time_left(clock):
    stream = io.StringIO()
    bar = Progress(lambda: 0.25, stream, clock=clock)
    clock.now_s += 1.9
    bar.update(1_000, 1)
    assert stream.getvalue() == ""
    clock.now_s += 0.1
    # 3000 events in 2 s are 1500 a second; a quarter took 2 s, three quarters will take 6.
    bar.update(3_000, 4)
    assert stream.getvalue() == "replay: 25.0%, 3,000 events, 1,500 events/s, 4 liquidations, 6.0 s left\n"


def test_rate_is_that_of_the_last_interval(clock):
    stream = io.StringIO()
    bar = Progress(None, stream, clock=clock)
    clock.now_s += 2
    bar.update(10_000, 0)
    clock.now_s += 4
    bar.update(11_000, 2)
    assert stream.getvalue().splitlines() == [
        "replay: 10,000 events, 5,000 events/s, 0 liquidations",
        "replay: 11,000 events, 250 events/s, 2 liquidations",
    ]


def test_frequent_updates_ask_for_the_fraction_only_when_a_line_is_due(clock):
    asked = []

    def fraction():
        asked.append(clock.now_s)
        return 0.5

    bar = Progress(fraction, io.StringIO(), clock=clock)
    for count in range(1000):
        clock.now_s += 0.01
        bar.update(count, 0)
    assert 4 <= len(asked) <= 5


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.0, "replay: 0.0%, 10 events, 5 events/s, 0 liquidations\n"),
        (1.7, "replay: 100.0%, 10 events, 5 events/s, 0 liquidations, 0.0 s left\n"),
        (-1.0, "replay: 0.0%, 10 events, 5 events/s, 0 liquidations\n"),
    ],
)
def test_a_fraction_at_or_beyond_its_limits_is_shown_within_them(clock, fraction, expected):
    stream = io.StringIO()
    bar = Progress(lambda: fraction, stream, clock=clock)
    clock.now_s += 2
    bar.update(10, 0)
    assert stream.getvalue() == expected


def test_close_shows_the_result_once(clock):
    stream = io.StringIO()
    with Progress(lambda: 1.0, stream, clock=clock) as bar:
        clock.now_s += 1
        bar.update(500, 3)
        clock.now_s += 1
    bar.close()
    bar.update(501, 3)
    assert stream.getvalue() == "replay: 500 events in 2.0 s, 250 events/s, 3 liquidations\n"


def test_close_at_once_divides_by_no_time(clock):
    stream = io.StringIO()
    Progress(None, stream, clock=clock).close()
    assert stream.getvalue() == "replay: 0 events in 0.0 s, 0 events/s, 0 liquidations\n"


def test_an_error_inside_closes_and_goes_on_up(clock):
    stream = io.StringIO()
    with pytest.raises(ValueError, match="broken"), Progress(None, stream, clock=clock):
        raise ValueError("broken")
    assert stream.getvalue().startswith("replay: 0 events")


def test_disabled_says_nothing(clock):
    stream = io.StringIO()
    with Progress(lambda: 0.5, stream, enabled=False, clock=clock) as bar:
        clock.now_s += 10
        bar.update(10, 1)
    assert stream.getvalue() == ""


def test_default_stream_is_stderr_and_stdout_stays_clean(clock, capsys):
    with Progress(None, clock=clock) as bar:
        clock.now_s += 3
        bar.update(30, 0)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "10 events/s" in captured.err


def test_a_terminal_gets_a_bar_and_then_one_line(clock, monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    stream = Terminal()
    with Progress(lambda: 0.5, stream, clock=clock) as bar:
        clock.now_s += 0.1
        bar.update(100, 2)
        assert "50%" in stream.getvalue()
        assert "1,000 events/s, 2 liquidations, 0.1 s left" in stream.getvalue()
        assert "━" in stream.getvalue()
    assert stream.getvalue().endswith("100 events in 0.1 s, 1,000 events/s, 2 liquidations\n")
    assert capsys.readouterr().out == ""


def test_a_terminal_without_rich_gets_lines(clock, monkeypatch):
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    stream = Terminal()
    bar = Progress(None, stream, clock=clock)
    clock.now_s += 2
    bar.update(4, 0)
    assert stream.getvalue() == "replay: 4 events, 2 events/s, 0 liquidations\n"
    assert "rich" not in type(bar._display).__module__ + type(bar._display).__name__
    assert sys.stderr is not stream


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1:00"), (60.0, "1:00"), (3599.6, "1:00:00"), (3723.0, "1:02:03")],
)
def test_durations_read_as_a_clock(seconds, text):
    assert seconds_text(seconds) == text
