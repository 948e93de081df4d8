"""The heat-map's benchmark compares every edge with brute force, and says so where one differs."""

from __future__ import annotations

from benchmarks import heatmap
from engine.core.heatmap import HeatTally


def test_both_ways_agree_on_a_small_market(capsys):
    assert heatmap.main(["--accounts", "300", "--symbols", "7"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("300 accounts, ")
    assert out.count("the same") == 2
    assert "calls of 100 rows" in out


def test_one_contract_too_many_at_one_edge_is_told(monkeypatch, capsys):
    add_rows = HeatTally.add_rows

    def add_one_more(tally, view, first, end):
        add_rows(tally, view, first, end)
        tally.sizes[0, 3, 50, 1] += 1

    monkeypatch.setattr(HeatTally, "add_rows", add_one_more)
    assert heatmap.main(["--accounts", "300", "--symbols", "7"]) == 1
    assert "NOT THE SAME" in capsys.readouterr().out
