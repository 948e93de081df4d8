"""The Grafana board: every expression is PromQL and asks for what the exposition has; every metric is on it."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.edges.metrics.catalogue import Catalogue
from tests.alerting import BOARDS, OF_THE_OPERATOR, ROOT, board_expressions, known_series, page, rules
from tests.outside import program
from tests.promql import complaints, selectors_of

GRAFANA = ROOT / "deploy" / "grafana"
BOARD: dict[str, Any] = json.loads((BOARDS / "liq-engine.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def check_rules(expressions: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Return what promtool says of expressions, read as recording rules."""
    named = [{"record": f"panel:number:{number}", "expr": text} for number, text in enumerate(expressions)]
    file = folder / "board.yml"
    # JSON is YAML.
    file.write_text(json.dumps({"groups": [{"name": "board", "rules": named}]}))
    return subprocess.run(
        [program("promtool"), "check", "rules", str(file)], capture_output=True, text=True, check=False
    )


def test_promtool_parses_every_expression(tmp_path: Path) -> None:
    expressions = [text for _, text in board_expressions()]
    assert len(expressions) > 60
    assert not [text for text in expressions if "$" in text], "a variable that nobody sets"
    done = check_rules(expressions, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert check_rules([f"{expressions[0]} ==="], tmp_path).returncode != 0


@pytest.mark.parametrize("shard", [".*", "(0|1)"])
async def test_every_expression_asks_for_series_and_labels_that_the_exposition_has(shard: str) -> None:
    known = known_series(await page())
    found = [(title, complaints(text, known, OF_THE_OPERATOR)) for title, text in board_expressions(shard=shard)]
    assert [one for one in found if one[1]] == []


def test_every_metric_is_on_the_board_or_in_a_rule_that_is() -> None:
    recorded = {rule["record"]: rule["expr"] for rule in rules("record")}
    seen = {one.metric for _, text in board_expressions() for one in selectors_of(text)}
    seen |= {one.metric for name, text in recorded.items() if name in seen for one in selectors_of(text)}
    names = {re.sub(r"_bucket$", "", name) for name in seen}
    assert {family.name for family in Catalogue().families} <= names


def test_every_rule_is_used() -> None:
    asked = [text for _, text in board_expressions()] + [rule["expr"] for rule in rules("alert")]
    seen = {one.metric for text in asked for one in selectors_of(text)}
    assert {rule["record"] for rule in rules("record")} <= seen


def test_legends_name_labels_that_their_expression_keeps() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            labels = re.findall(r"{{(\w+)}}", target["legendFormat"])
            kept = re.match(r"-? ?(?:\w+\(\d*,? ?)?(?:max|min|sum) by \(([^)]*)\)", target["expr"])
            if kept and "histogram_quantile" not in target["expr"]:
                assert set(labels) <= {label.strip() for label in kept[1].split(",")}, panel["title"]


def test_panels_have_a_name_a_sentence_and_a_place_of_their_own() -> None:
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert all(panel["description"].endswith(".") for panel in PANELS)
    assert all(panel["gridPos"]["x"] >= 0 and panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)
    for one, other in combinations((panel["gridPos"] for panel in BOARD["panels"]), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_grafana_finds_the_board_and_its_figures_where_compose_puts_them() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
    provisioned = {Path(source).name: target for source, target in mounts.items() if "provisioning" in source}
    assert set(provisioned) == {path.name for path in (GRAFANA / "provisioning").iterdir()}
    for name, target in provisioned.items():
        kind, _ = name.split(".")
        assert target == f"/etc/grafana/provisioning/{kind}/liq-engine.yaml"
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards.yaml").read_text())["providers"]
    assert provider["options"]["path"] == mounts["./grafana/boards"]
    (source,) = yaml.safe_load((GRAFANA / "provisioning" / "datasources.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (variable,) = [one for one in BOARD["templating"]["list"] if one["type"] == "datasource"]
    assert variable["current"]["value"] == source["uid"]
    used = {panel["datasource"]["uid"] for panel in PANELS}
    assert used == {"${datasource}"}
