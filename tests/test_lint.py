"""The linters find nothing in the project, and each is known to find what it is there for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.lint import LINTERS, ROOT, Linter, files_of, try_complaint
from tests.outside import program

LINTER_NAMED = {linter.name: linter for linter in LINTERS}

# (linter, file, text in it, what it is changed to, what the linter then says)
PLANTED = [
    ("hadolint", "deploy/Dockerfile", "WORKDIR /src", "WORKDIR src", "DL3000"),
    ("hadolint", "deploy/Dockerfile", "USER 10001:10001", "USER root", "DL3002"),
    ("hadolint", "deploy/Dockerfile", "COPY . .", "ADD . .", "DL3020"),
    ("compose", "deploy/compose.yaml", "cap_drop: [ALL]", "cap_drop: ALL", "is not of type 'array'"),
    ("compose", "deploy/compose.yaml", "stop_grace_period:", "stop_grace:", "stop_grace"),
    (
        "yamllint",
        "deploy/kubernetes/base/service.yaml",
        "  clusterIP: None",
        "  clusterIP: None\n  clusterIP: a",
        "dupl",
    ),
    ("yamllint", "config/asyncapi.yaml", "asyncapi: 3.0.0\n", "asyncapi: 3.0.0   \n", "trailing spaces"),
    ("shellcheck", "deploy/sbom.sh", 'mkdir -p "$(dirname "$out")"', "mkdir -p $(dirname $out)", "SC2046"),
    ("shellcheck", "deploy/image/pin.sh", 'digest_of "${1#*=}"', "digest_of ${1#*=}", "SC2086"),
    ("prometheus", "deploy/prometheus/prometheus.yml", "job_name:", "jobname:", "jobname"),
]


@pytest.mark.parametrize("name", LINTER_NAMED)
def test_a_linter_finds_nothing_in_the_project(name: str) -> None:
    assert try_complaint(LINTER_NAMED[name], ROOT) is None


@pytest.mark.parametrize(("name", "file", "before", "after", "said"), PLANTED)
def test_a_linter_finds_what_is_planted(
    name: str, file: str, before: str, after: str, said: str, tmp_path: Path
) -> None:
    linter = LINTER_NAMED[name]
    program(linter.command[0])
    for path in files_of(linter, ROOT):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    assert try_complaint(linter, tmp_path) is None
    text = (tmp_path / file).read_text()
    assert before in text
    (tmp_path / file).write_text(text.replace(before, after, 1))
    assert said in (try_complaint(linter, tmp_path) or "")


def test_every_linter_is_known_to_find_something() -> None:
    # Rules and routes have tests of their own, which fire them.
    assert {name for name, *_ in PLANTED} == {*LINTER_NAMED} - {"rules", "alertmanager"}


def test_a_linter_without_its_program_or_files_is_a_complaint(tmp_path: Path) -> None:
    absent = Linter("absent", ("no-such-program",), ("README.md",))
    assert try_complaint(absent, ROOT) == "no-such-program is not installed"
    assert try_complaint(LINTER_NAMED["hadolint"], tmp_path) == "none of its files is there"
    assert try_complaint(LINTER_NAMED["rules"], tmp_path) is None
