"""Every alert fires and keeps silent where it should, asks for what is there, has its runbook, reaches its receiver."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from engine.tools.child import Child
from tests.alerting import (
    ALERTMANAGER,
    OF_THE_OPERATOR,
    PROMETHEUS,
    RESOURCE,
    ROOT,
    cases,
    known_series,
    page,
    resource,
    rules,
)
from tests.brokers.clients import DEADLINE_S
from tests.outside import program
from tests.prometheus import check_running
from tests.promql import Series, complaints, selectors_of

ALERTS = sorted({rule["alert"] for rule in rules("alert")})
# What the issue of every night is made of: each has an alert of its own.
WANTED = {
    "LiqEngineDown", "LiqShardNotLive", "LiqMarkStale", "LiqLag", "LiqDecisionsSlow", "LiqBadDebt", "LiqFundDrawdown",
    "LiqRejects", "LiqSnapshotOld", "LiqHashMismatch", "LiqNoProgress",
}  # fmt: skip
DESK = ALERTMANAGER.parent / "desk.py"


def promtool_tests(folder: Path) -> subprocess.CompletedProcess[str]:
    """Return what promtool says of the cases in a folder like ``deploy/prometheus``."""
    files = [str(path) for path in sorted((folder / "tests").glob("*.yml"))]
    return subprocess.run([program("promtool"), "test", "rules", *files], capture_output=True, text=True, check=False)


def anchors() -> set[str]:
    """Return where links into the README can point, as GitHub and GitLab name its headings."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- they fire, and they do not


def test_promtool_finds_that_every_case_comes_out_as_written() -> None:
    done = promtool_tests(PROMETHEUS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_case_that_fires_and_one_that_does_not(alert: str) -> None:
    expected = [case["exp_alerts"] for case in cases() if case["alertname"] == alert]
    assert [] in expected
    fired = [one for alerts in expected for one in alerts]
    severities = {rule["labels"]["severity"] for rule in rules("alert") if rule["alert"] == alert}
    assert {one["exp_labels"]["severity"] for one in fired} == severities


# (rules file, before, after): a mistake in each kind of rule that some case must see.
MISTAKES = [
    ("engine.yml", "== 0\n        for: 15s", "== 0\n        for: 5s"),
    ("engine.yml", "liq_last_progress_timestamp_seconds > 10", "liq_last_progress_timestamp_seconds > 15"),
    ("engine.yml", "shard:liq_lag_seconds:estimate > 10", "shard:liq_lag_seconds:estimate > 9"),
    ("engine.yml", "liq_snapshot_age_seconds > 900 and on (job, instance, shard) liq_state{state=\"live\"} == 1",
     "liq_snapshot_age_seconds > 900"),
    ("engine.yml", "unless shard:liq_live:max == 1", "unless shard:liq_live:max"),
    ("engine.yml", "max without (instance, pod) (liq_shards)", "sum without (instance, pod) (liq_shards)"),
    ("engine.yml", "(max_over_time(shard:liq_live:max[1h]))", "(shard:liq_live:max)"),
    ("recorded.yml", "max without (instance, pod, state) (liq_state", "max without (pod, state) (liq_state"),
    ("recorded.yml", "sum without (instance, pod, topic) (liq_lag_records)",
     "max without (instance, pod, topic) (liq_lag_records)"),
    ("risk.yml", "sum without (reason)", "max without (reason)"),
    ("risk.yml", "> 0.01", "> 0.005"),
    ("risk.yml", 'liq_holds{reason!="flow_budget"}', "liq_holds"),
    ("risk.yml", "[1h]) > 0) > 0.5", "[1h]) > 0) > 0.7"),
    ("risk.yml", "min without (symbol)", "max without (symbol)"),
    ("risk.yml", "is {{ $value | humanizeDuration }} old", "is {{ $value }} old"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "before", "after"), MISTAKES)
def test_the_cases_see_a_mistake(file: str, before: str, after: str, tmp_path: Path) -> None:
    shutil.copytree(PROMETHEUS, tmp_path / "prometheus")
    changed = tmp_path / "prometheus" / "rules" / file
    assert before in changed.read_text()
    changed.write_text(changed.read_text().replace(before, after, 1))
    done = promtool_tests(tmp_path / "prometheus")
    assert done.returncode == 1
    assert "FAILED" in done.stdout + done.stderr
    assert "exp:[" in done.stdout + done.stderr, "not a case that came out otherwise"


def test_what_must_not_go_unseen_has_an_alert() -> None:
    assert set(ALERTS) >= WANTED


# --- what they ask for and what they say


async def test_every_rule_asks_for_series_and_labels_that_the_exposition_has() -> None:
    known = known_series(await page())
    for rule in rules("alert"):
        assert complaints(rule["expr"], known, OF_THE_OPERATOR) == [], rule["alert"]


KNOWN: dict[str, list[Series]] = {
    "liq_state": [{"job": "j", "shard": "0", "state": "live"}, {"job": "j", "shard": "0", "state": "halted"}],
    "liq_lag_records": [{"job": "j", "shard": "0"}],
}


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ('max by (shard) (liq_state{state="live"}) == 1', None),
        ('sum without (shard, pod) (rate(liq_lag_records[5m])) > 1 and on (job) liq_state{state=~"live|halted"}', None),
        ("liq_stat == 1", "no metric liq_stat"),
        ("rate(liq_state_total[5m])", "no metric liq_state_total"),
        ('liq_state{stat="live"}', "liq_state has no label stat"),
        ('liq_state{state="alive"}', "liq_state: nothing is state=alive"),
        ('liq_state{state=~"live|alive"}', "liq_state: nothing is state=alive"),
        ('liq_state{state!="gone"}', "liq_state: nothing is state=gone"),
        ("sum by (instance) (liq_lag_records)", "by: no label instance"),
        ("sum by (pod) (liq_lag_records)", "by: no label pod"),
        ("liq_lag_records and on (symbol) liq_state", "on: no label symbol"),
    ],
)
def test_an_expression_that_asks_for_what_is_not_there_is_seen(expression: str, complaint: str | None) -> None:
    found = complaints(expression, KNOWN, OF_THE_OPERATOR)
    assert found == [] if complaint is None else complaint in found


def test_no_name_of_an_expression_is_missed() -> None:
    expression = (
        'histogram_quantile(0.99, sum by (le) (rate(a_bucket{x="1"}[5m]))) / (b:c:max offset 1h) unless time() > d'
    )
    assert [one.metric for one in selectors_of(expression)] == ["a_bucket", "b:c:max", "d"]


@pytest.mark.parametrize("rule", rules("alert"), ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_says_what_is_the_matter_and_links_to_a_section_of_the_runbook(rule: dict) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    base, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert base == "{{ $externalLabels.runbook }}"
    assert anchor in anchors()
    text = (ROOT / "README.md").read_text()
    section = re.search(rf"^#### {anchor.replace('-', ' ')}\n(.+?)^#", text, re.MULTILINE | re.DOTALL | re.IGNORECASE)
    assert section is not None
    assert f"`{rule['alert']}`" in section[1], "the section does not name it"


def test_the_runbook_names_no_alert_that_is_not_there() -> None:
    assert set(re.findall(r"`(Liq[A-Z]\w+)`", (ROOT / "README.md").read_text())) == set(ALERTS)


def test_prometheus_knows_where_the_runbook_is_and_does_not_tell_it_as_a_label() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert config["global"]["external_labels"]["runbook"].startswith("https://")
    assert config["alerting"]["alert_relabel_configs"] == [{"action": "labeldrop", "regex": "runbook"}]
    assert [job["job_name"] for job in config["scrape_configs"]] == ["liq-engine"]


# --- whom they reach


@pytest.mark.parametrize("severity", ["critical", "warning"])
def test_an_alert_goes_where_its_severity_belongs(severity: str) -> None:
    command = [program("amtool"), "config", "routes", "test", f"--config.file={ALERTMANAGER}", f"severity={severity}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{severity}\n")


def test_amtool_finds_a_mistake_in_the_routes(tmp_path: Path) -> None:
    wrong = tmp_path / "alertmanager.yml"
    wrong.write_text(ALERTMANAGER.read_text().replace("receiver: critical", "receiver: nobody", 1))
    done = subprocess.run([program("amtool"), "check-config", str(wrong)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "nobody" in done.stdout + done.stderr


def test_inhibitions_name_alerts_that_are_there() -> None:
    rules_ = yaml.safe_load(ALERTMANAGER.read_text())["inhibit_rules"]
    matchers = [matcher for rule in rules_ for side in ("source", "target") for matcher in rule[f"{side}_matchers"]]
    named = {found[1] for matcher in matchers if (found := re.search(r'alertname!?="(\w+)"', matcher))}
    assert named <= set(ALERTS)


def test_no_token_stands_in_the_routes() -> None:
    receivers = yaml.safe_load(ALERTMANAGER.read_text())["receivers"]
    for receiver in receivers:
        (hook,) = receiver["webhook_configs"]
        assert set(hook["http_config"]["authorization"]) == {"credentials_file"}
        assert hook["send_resolved"] is True


# --- the desk of compose


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[tuple[str, Child]]:
    """Yield the address of a desk and its process."""
    (tmp_path / "token").write_text("open sesame\n")
    command = [sys.executable, "-S", str(DESK), "127.0.0.1", "0", str(tmp_path / "token")]
    with Child(tmp_path / "desk.txt", command) as child:
        deadline_s = time.monotonic() + DEADLINE_S
        while not child.text.endswith("\n"):
            check_running(child)
            assert time.monotonic() < deadline_s, "it does not listen"
            time.sleep(0.01)
        host, port = json.loads(child.text)["listens"]
        yield f"http://{host}:{port}/critical", child


def post(address: str, body: bytes, token: str | None = "open sesame") -> int:
    """Return the status that a desk answers with."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(address, data=body, headers=headers, method="POST")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


ALERT = {
    "status": "firing",
    "labels": {"alertname": "LiqEngineDown"},
    "annotations": {"summary": "The engine does not answer"},
    "startsAt": "2026-11-22T02:00:00Z",
    "endsAt": "0001-01-01T00:00:00Z",
}


def test_the_desk_prints_a_line_for_each_alert_with_the_way_it_came(desk: tuple[str, Child]) -> None:
    address, child = desk
    message = {"version": "4", "alerts": [{**ALERT, "generatorURL": "http://x"}, {**ALERT, "status": "resolved"}]}
    assert post(address, json.dumps(message).encode()) == 200
    lines = [json.loads(line) for line in child.text.splitlines()[1:]]
    assert lines == [{"route": "critical", **ALERT}, {"route": "critical", **ALERT, "status": "resolved"}]


@pytest.mark.parametrize(
    ("body", "token", "status"),
    [
        (b'{"alerts": []}', None, 401),
        (b'{"alerts": []}', "open", 401),
        (b"no json", "open sesame", 400),
        (b"[]", "open sesame", 400),
        (b'{"alerts": [{}]}', "open sesame", 400),
    ],
)
def test_the_desk_takes_nothing_without_the_token_and_no_other_message(
    desk: tuple[str, Child], body: bytes, token: str | None, status: int
) -> None:
    address, child = desk
    assert post(address, body, token) == status
    assert not [line for line in child.text.splitlines()[1:] if line.startswith("{")]


def test_alertmanager_finds_the_desk_and_its_token_where_compose_puts_them() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    mounts = {
        name: dict(volume.split(":")[1::-1] for volume in compose[name]["volumes"]) for name in ("alertmanager", "desk")
    }
    (_, _, script, host, port, token) = compose["desk"]["command"]
    assert (mounts["desk"][script], host) == ("./alertmanager/desk.py", "0.0.0.0")
    for receiver in yaml.safe_load(ALERTMANAGER.read_text())["receivers"]:
        (hook,) = receiver["webhook_configs"]
        assert hook["url"] == f"http://desk:{port}/{receiver['name']}"
        file = hook["http_config"]["authorization"]["credentials_file"]
        assert mounts["alertmanager"][file] == mounts["desk"][token]


# --- on Kubernetes


def test_the_operator_gets_the_same_rules() -> None:
    assert RESOURCE.read_text() == resource(), "run: python -m tests.alerting"
