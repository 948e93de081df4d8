"""The rules and boards of ``deploy/``, and the series that a real exposition has for them.

``python -m tests.alerting`` writes the rules once more, as the resource that the Prometheus operator reads.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from engine.edges.config import default_risk_path, load_risk
from engine.edges.metrics.service import Metrics
from engine.edges.service_config import ServiceConfig
from tests.promql import Series, complaints, grouping_of, selectors_of

ROOT = Path(__file__).resolve().parents[1]
PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTMANAGER = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
BOARDS = ROOT / "deploy" / "grafana" / "boards"
RULES = ("recorded", "engine", "risk")
RESOURCE = ROOT / "deploy" / "kubernetes" / "components" / "alert-rules" / "prometheus-rule.yaml"
RESOURCE_HEAD = """\
# The rules of deploy/prometheus/rules, where they are changed, for the Prometheus operator.
# Made by `python -m tests.alerting`.
"""
# What scraping adds; and what the Prometheus operator adds beside it, and the rules leave out where they sum.
TARGET = {"job": "liq-engine", "instance": "engine:9464"}
OF_THE_OPERATOR = frozenset({"pod"})

Body = dict[str, Any]


def groups() -> list[Body]:
    """Return the groups of all rule files."""
    files = [yaml.safe_load((PROMETHEUS / "rules" / f"{name}.yml").read_text()) for name in RULES]
    return [group for file in files for group in file["groups"]]


def rules(kind: str) -> list[Body]:
    """Return all rules of a kind: ``alert`` or ``record``."""
    return [rule for group in groups() for rule in group["rules"] if kind in rule]


def cases() -> list[Body]:
    """Return the cases that promtool tests alerts with."""
    files = [yaml.safe_load(path.read_text()) for path in sorted((PROMETHEUS / "tests").glob("*.yml"))]
    return [case for file in files for test in file["tests"] for case in test["alert_rule_test"]]


def board_expressions(*, shard: str = ".*", window: str = "1m") -> list[tuple[str, str]]:
    """Return (panel, expression) of all boards, with Grafana's variables put in."""
    found = []
    for path in sorted(BOARDS.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                text = target["expr"].replace("$shard", shard).replace("$job", ".*").replace("$__rate_interval", window)
                found.append((panel["title"], text))
    return found


async def page() -> str:
    """Return the exposition of an engine of two shards that has just started: all series are there from the start."""

    async def rest() -> None:
        pass

    metrics = Metrics(ServiceConfig(shards=2), load_risk(default_risk_path()), [0, 1], "0" * 64)
    return b"".join([piece async for piece in metrics.exposition.pieces(rest)]).decode()


def known_series(exposition: str) -> dict[str, list[Series]]:
    """Return the series of a scrape by metric, those that scraping and the recording rules add included."""
    known: dict[str, list[Series]] = {"up": [TARGET]}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            known.setdefault(sample.name, []).append({**sample.labels, **TARGET})
    for rule in rules("record"):
        assert complaints(rule["expr"], known, OF_THE_OPERATOR) == [], rule["record"]
        known[rule["record"]] = recorded(rule["expr"], known)
    return known


def recorded(expression: str, known: dict[str, list[Series]]) -> list[Series]:
    """Return the series that a recording rule gives: those of its first metric, without what it sums over."""
    first = selectors_of(expression)[0]
    gone = {label for keyword, labels in grouping_of(expression) if keyword == "without" for label in labels}
    gone |= {"le"} if "histogram_quantile" in expression else set()
    kept = {tuple((k, v) for k, v in one.items() if k not in gone) for one in known[first.metric] if first.finds(one)}
    return [dict(one) for one in sorted(kept)]


@cache
def resource() -> str:
    """Return the rules as a resource of Kubernetes."""
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "liq-engine", "labels": {"app.kubernetes.io/name": "liq-engine"}},
        "spec": {"groups": groups()},
    }
    return RESOURCE_HEAD + yaml.safe_dump(document, sort_keys=False, width=90, allow_unicode=True)


def main() -> int:
    """Write the resource."""
    RESOURCE.write_text(resource())
    return 0


if __name__ == "__main__":
    sys.exit(main())
