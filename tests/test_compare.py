"""Two runs of one log side by side: what is said of them, and which pairs are refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from engine.__main__ import main
from engine.edges.config import load_risk
from engine.tools.compare import compare
from engine.tools.compare_text import compare_text
from engine.tools.replay import ReplayOptions, run_replay
from engine.units import format_units
from tests.scenarios import Body, buy, deposit, mark, own_id, sell
from tests.strategies import toml_of

RISK: dict[str, Any] = {
    "policy": {"partial": "cheapest"},
    "assets": {"USDT": {"price": "1"}},
    "instruments": {
        "BTCUSDT": {
            "settle": "USDT",
            "price_tick": "0.1",
            "lot": "0.001",
            "tiers": [["0", "0.01", "50"]],
            "slippage": "0.001",
            "taker_fee": "0.001",
        },
    },
}
AT_ONCE = {**RISK, "policy": {"partial": "off"}}
STRICTER = {
    **RISK,
    "instruments": {"BTCUSDT": {**RISK["instruments"]["BTCUSDT"], "tiers": [["0", "0.03", "30"]]}},
}


def crash() -> list[Body]:
    """Three longs of ten from 100, with 60, 75 and 500 behind them, and one short; then a slide to 94.5."""
    bodies = [mark("100")]
    for name, amount in (("thin", "60"), ("fair", "75"), ("rich", "500")):
        bodies += [deposit(name, amount), buy(name, "10", "100")]
    return [*bodies, deposit("short", "1000"), sell("short", "30", "100"), *(mark(p) for p in ("97", "95", "94.5"))]


def ran(folder: Path, name: str, risk: Body, bodies: list[Body], **options: Any) -> Path:
    """The folder of a replay."""
    log, risk_file = folder / f"{name}-in" / "log.jsonl", folder / f"{name}.toml"
    log.parent.mkdir()
    lines = [json.dumps({**own_id(body, f"id-{n}"), "ts": n * 10**9, **body}) for n, body in enumerate(bodies, 1)]
    log.write_text("\n".join(lines))
    risk_file.write_text(toml_of(risk))
    out = folder / name
    run_replay(ReplayOptions([log], load_risk(risk_file), venue="book", out=out, show_progress=False, **options))
    return out


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    return ran(tmp_path, "a", RISK, crash()), ran(tmp_path, "b", AT_ONCE, crash())


def figure(document: Body, name: str) -> tuple[Any, ...]:
    row = next(row for row in document["figures"] if row["name"] == name)
    return row["a"], row["b"], row["difference"]


def ended_costs(out: Path) -> dict[str, int]:
    costs: dict[str, int] = {}
    for line in (out / "margin-events.jsonl").read_text().splitlines():
        body = json.loads(line)
        if body["type"] == "liquidation_ended":
            costs[body["account"]] = costs.get(body["account"], 0) + round(float(body["cost"]) * 1e8)
    return costs


def test_closing_a_part_is_told_from_closing_all_by_parameters_figures_and_cost(runs: tuple[Path, Path]) -> None:
    document = compare(*runs)
    assert document["parameters"] == [{"name": "policy.partial", "a": "cheapest", "b": "off"}]
    assert not document["same"]
    closed_a, closed_b, difference = figure(document, "notional_liquidated")
    assert float(closed_a) < float(closed_b)
    assert float(difference) == pytest.approx(float(closed_b) - float(closed_a))
    costs = [ended_costs(out) for out in runs]
    assert document["costs"]["total_a"] == format_units(sum(costs[0].values()))
    assert document["costs"]["total_b"] == format_units(sum(costs[1].values()))
    assert {row["account"] for row in document["costs"]["accounts"]} == {"thin"}
    # Closing ten where a part would do costs the thin account more.
    assert document["costs"]["cheaper_in_a"] == 1
    assert document["costs"]["cheaper_in_b"] == 0


def test_first_output_that_differs_is_placed_and_the_policy_it_states_is_not_the_difference(
    runs: tuple[Path, Path],
) -> None:
    first = compare(*runs)["first_difference"]
    for name in ("a", "b"):
        assert first[name]["file"] == "liquidation-orders.jsonl"
        assert first[name]["type"] == "liquidation_order"
        assert first[name]["account"] == "thin"
    fields = [row["field"] for row in first["fields"]]
    assert "qty" in fields
    assert not any(field.startswith("decision.policy.") for field in fields)


def test_accounts_liquidated_in_one_run_only_are_named(tmp_path: Path) -> None:
    document = compare(ran(tmp_path, "a", RISK, crash()), ran(tmp_path, "b", STRICTER, crash()))
    assert document["only_in_a"] == []
    assert document["only_in_b"] == ["fair"]
    assert "liquidated in B only: 1: fair" in compare_text(document)
    tiers = next(row for row in document["parameters"] if row["name"] == "instruments.BTCUSDT.tiers")
    assert (tiers["a"], tiers["b"]) == ([["0", "0.01", "50"]], [["0", "0.03", "30"]])


def test_the_same_run_twice_differs_in_nothing(tmp_path: Path) -> None:
    document = compare(ran(tmp_path, "a", RISK, crash()), ran(tmp_path, "b", RISK, crash()))
    assert document["same"]
    assert (document["parameters"], document["first_difference"]) == ([], None)
    assert document["costs"]["accounts"] == []
    assert all(row["difference"] in (0, "0", None) for row in document["figures"])
    assert "outputs: the same, to the last byte" in compare_text(document)


def test_a_run_that_says_more_differs_where_the_other_ends(tmp_path: Path) -> None:
    a = ran(tmp_path, "a", RISK, crash())
    b = ran(tmp_path, "b", RISK, crash())
    lines = (b / "margin-events.jsonl").read_bytes().splitlines(keepends=True)
    (b / "margin-events.jsonl").write_bytes(b"".join(lines[:-1]))
    first = compare(a, b)["first_difference"]
    assert first["a"]["seq"] == json.loads(lines[-1])["seq"]
    assert first["b"] is None


def test_a_log_packed_is_the_same_log(tmp_path: Path) -> None:
    a = ran(tmp_path, "a", RISK, crash())
    packed, out = tmp_path / "packed.jsonl.gz", tmp_path / "packed"
    packed.write_bytes(gzip.compress((tmp_path / "a-in" / "log.jsonl").read_bytes()))
    options = ReplayOptions([packed], load_risk(tmp_path / "a.toml"), venue="book", out=out, show_progress=False)
    run_replay(options)
    document = compare(a, out)
    assert document["first_difference"] is None
    # Its decisions name another file, so the bytes are not the same.
    assert not document["same"]
    assert "but for the policy and file they name" in compare_text(document)


def test_runs_of_different_logs_or_books_are_refused_as_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = ran(tmp_path, "a", RISK, crash())
    other = ran(tmp_path, "other", RISK, crash()[:-1])
    book = tmp_path / "book.json"
    book.write_text('{"accounts": []}')
    with_book = ran(tmp_path, "with_book", RISK, crash(), book=book)
    for folder, named in (
        (other, "different logs"),
        (with_book, "different starting books"),
        (tmp_path, "not a run"),
        (tmp_path / "nowhere", "no such folder"),
    ):
        assert main(["compare", str(a), str(folder)]) == 2
        assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("run.json", "[]", "must be an object"),
        ("run.json", "{", "not JSON"),
        ("summary.json", "{}", "lacks"),
        ("summary.json", "nonsense", "cannot be read"),
        ("margin-events.jsonl", "{}\n", "not a record"),
    ],
)
def test_a_folder_with_a_broken_file_is_bad_input(
    runs: tuple[Path, Path], file: str, text: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs[1] / file).write_text(text)
    assert main(["compare", *map(str, runs)]) == 2
    assert named in capsys.readouterr().err


def test_compare_speaks_to_people_and_to_machines(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, runs)]) == 0
    said = capsys.readouterr().out
    for words in ("policy.partial", "cheapest -> off", "first output that differs", "cost to accounts", "B - A"):
        assert words in said
    assert main(["compare", *map(str, runs), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == compare(*runs)
