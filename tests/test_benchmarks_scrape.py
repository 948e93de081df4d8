"""The command that measures scrapes: both pages are the same, and each way has its figures. No time is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import scrape


def test_the_command_measures_both_ways_on_the_same_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    assert scrape.main(["--series", "1000", "--scrapes", "3", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["same"]
    assert 1000 <= found["series"] < 1010
    for changed in scrape.CHANGED:
        for way in scrape.WAYS:
            figures = found[changed][way]
            assert list(figures) == ["cpu_ms_median", "cpu_ms_p99", "wall_ms_median", "wall_ms_p99"]
            assert min(figures.values()) > 0
    assert "pages the same to the byte" in capsys.readouterr().out


def test_a_page_that_differs_ends_the_command_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scrape, "generate_latest", lambda _: b"liq_x 1\n")
    assert scrape.main(["--series", "10", "--scrapes", "1"]) == 1
    assert "DIFFERENT" in capsys.readouterr().out
