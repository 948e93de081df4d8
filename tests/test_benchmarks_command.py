"""A benchmark from a shell: what is printed, what is written, and what the exit code says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.command import BROKEN_SHOWN, Found, finish, parser_of
from engine.errors import BrokerError


@dataclass
class Figure:
    lots: int


def test_figures_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    assert finish(lambda: Found("seven lots", {"first": Figure(7)}), file) == 0
    assert capsys.readouterr() == ("seven lots\n", "")
    assert json.loads(file.read_text()) == {"first": {"lots": 7}}


def test_broken_promises_are_told_after_the_figures_and_counted_where_there_are_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, broken = tmp_path / "figures.json", [f"promise {number}" for number in range(BROKEN_SHOWN + 1)]
    assert finish(lambda: Found("table", [], broken), file) == 1
    out, err = capsys.readouterr()
    assert (out, file.read_text()) == ("table\n", "[]\n")
    assert err.splitlines() == [*(f"BROKEN: {sentence}" for sentence in broken[:-1]), "11 promises broken"]


def test_what_is_in_the_way_is_said_with_its_exit_code_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure() -> Found:
        raise BrokerError("no broker at 127.0.0.1:9092")

    assert finish(measure, tmp_path / "figures.json") == 3
    assert capsys.readouterr() == ("", "no broker at 127.0.0.1:9092\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ["How dear? ``python -m benchmarks.x [--json FILE]``.", "How dear?"])
def test_help_says_what_the_module_does_and_not_how_it_is_called(line: str) -> None:
    assert parser_of("benchmarks.x", f"{line}\n\nAt length.\n").description == "How dear?"
