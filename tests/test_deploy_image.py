"""The image and what runs it under Docker: locked, pinned, probed; every file and command there is.

No Docker is at hand where the tests run. What a build does is checked step by step: which base it takes, what it
copies, what it installs from; the probe and the bill of materials are run for real.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.__main__ import build_parser
from engine.edges.service_file import load_service
from engine.shell.admin.server import AdminServer
from engine.shell.service import Service
from tests.outside import program
from tests.service_cases import Deployment

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
PROBE = DEPLOY / "image" / "probe.py"
PIN = DEPLOY / "image" / "pin.sh"
DIGEST = "sha256:" + "0123456789abcdef" * 4


# --- the image


def instructions(name: str) -> list[str]:
    """Return what follows each instruction of a name, in one line."""
    joined = re.sub(r"\\\n", " ", DOCKERFILE)
    return [line.partition(" ")[2] for line in joined.splitlines() if line.startswith(f"{name} ")]


def base_check() -> str:
    """Return the shell script that looks at the base's name."""
    (script,) = [text for text in instructions("RUN") if text.startswith("case ")]
    return script


@pytest.mark.parametrize(
    ("image", "unpinned", "is_built"),
    [
        (f"python:3.12-slim-bookworm@{DIGEST}", "no", True),
        ("python:3.12-slim-bookworm", "no", False),
        ("python:3.12-slim-bookworm", "yes", True),
        ("python", "", False),
    ],
)
def test_a_base_without_a_digest_is_refused_unless_for_a_look(image: str, unpinned: str, is_built: bool) -> None:
    variables = {"PYTHON_IMAGE": image, "UNPINNED": unpinned}
    done = subprocess.run(["sh", "-c", base_check()], env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is is_built, done.stderr


def test_every_stage_begins_with_the_base_that_is_named_or_with_another_stage() -> None:
    assert instructions("FROM") == ["${PYTHON_IMAGE} AS build", "build AS sbom", "${PYTHON_IMAGE}"]
    assert instructions("ARG")[0] == "PYTHON_IMAGE", "no default: nothing is built from what nobody chose"


def test_nothing_is_installed_but_what_is_locked_by_hash() -> None:
    installs = [step for script in instructions("RUN") for step in script.split("&&") if " install " in step]
    installs = [step for step in installs if "install -d" not in step]
    assert len(installs) == 3
    # The third is the wheel made here, which has no hash to compare with and no dependencies to bring.
    assert all("--require-hashes" in step or "--no-index --no-deps" in step for step in installs)


def test_the_build_tools_locked_are_those_asked_for() -> None:
    wanted = re.findall(r"^([a-z-]+)>=", (DEPLOY / "image" / "build.in").read_text(), re.MULTILINE)
    text = (DEPLOY / "image" / "build.txt").read_text()
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))
    assert {*wanted} == {"cyclonedx-bom", "hatchling", "uv"} <= {*locked}
    entries = re.split(r"\n(?=[a-z0-9-]+==)", text)[1:]
    assert len(entries) == len(locked)
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_lock_has_every_dependency_of_the_engine() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0] for text in project["dependencies"]}
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    (engine,) = [package for package in packages if package["name"] == "liq-engine"]
    locked = {dependency["name"] for dependency in engine["dependencies"]}
    assert wanted == locked, "run: uv lock"


def is_in_context(path: str) -> bool:
    """Return whether Docker sees a file of the repository: the last pattern of .dockerignore that is for it decides."""
    seen = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#"):
            parents = [path, *(str(parent) for parent in Path(path).parents)]
            if any(fnmatch.fnmatch(one, pattern) for one in parents):
                seen = line.startswith("!")
    return seen


def test_the_build_sees_what_it_needs_and_no_more() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = [path for text in instructions("COPY") for path in text.split()[:-1] if not path.startswith("--")]
    copied = [path for path in copied if not path.startswith("/") and path != "."]
    needed = [*copied, *wheel["force-include"], "engine/__main__.py", "README.md", "LICENSE", "deploy/sbom.sh"]
    assert all((ROOT / path).exists() and is_in_context(path) for path in needed), needed
    for path in (".git/config", "tests/conftest.py", ".venv/bin/python", "deploy/compose/admin_token", "secrets.txt"):
        assert not is_in_context(path)


def test_no_kernel_needs_a_library_of_threads() -> None:
    sources = (ROOT / "engine").rglob("*.py")
    assert not [path for path in sources if "parallel=True" in path.read_text()]
    assert "apt-get" not in DOCKERFILE


def test_kernels_are_compiled_for_the_cpu_under_which_they_are_looked_up() -> None:
    settings = [re.findall(r"NUMBA_CPU_\w+=\S*", text) for text in instructions("ENV")]
    compiled, looked_up = [found for found in settings if found]
    assert compiled == looked_up == ["NUMBA_CPU_NAME=generic", 'NUMBA_CPU_FEATURES=""']


def test_the_image_asks_the_engine_how_it_is() -> None:
    (check,) = instructions("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command == ["python", "-S", "/opt/liq-engine/probe.py", "livez"]
    assert instructions("USER") == ["10001:10001"]


# --- the probe


async def probe(*arguments: str) -> tuple[int, str]:
    """Return exit code and answer of a probe."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-S", str(PROBE), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.fixture
def service_of(tmp_path: Path) -> Callable[..., Service]:
    """Return a function that makes a service which has not been started, with keys of [admin]."""

    def make(**admin: Any) -> Service:
        (tmp_path / "token").write_text("open sesame\n")
        deployment = Deployment(tmp_path, "127.0.0.1:1", shards=2)
        return Service(deployment.write(admin={"port": 0, **admin}).config, range(2))

    return make


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "127.0.0.2"])
async def test_a_probe_says_what_the_engine_says(service_of: Callable[..., Service], host: str, tmp_path: Path) -> None:
    async with AdminServer(service_of(host=host, token_file="token")) as server:
        file = tmp_path / "probed.toml"
        file.write_text(f'[admin]\nhost = "{host}"\nport = {server.port}\ntoken_file = "token"\n')
        assert (await probe("livez", str(file)))[0] == 0
        # Nothing has been recovered yet: alive, and not ready, with the reason.
        code, answer = await probe("readyz", str(file))
        assert code == 1
        assert answer.startswith("503: ")


async def test_a_probe_of_an_engine_that_is_gone_fails_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "service.toml"
    file.write_text("[admin]\nport = 1\n")
    code, answer = await probe("livez", str(file))
    assert (code, answer.startswith("no answer: ")) == (1, True)
    assert (await probe("livez", str(tmp_path / "absent.toml")))[0] == 1
    file.write_text("[admin\n")
    assert (await probe("livez", str(file)))[0] == 1
    assert (await probe("healthz", str(file)))[0] == 2


# --- pins


def images() -> dict[str, str]:
    """Return the images of deploy/images.env by name."""
    lines = (DEPLOY / "images.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture
def pin(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs pin.sh in a copy, with a `docker` that gives every image the same digest."""
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "pin.sh").write_text(PIN.read_text())
    (tmp_path / "images.env").write_text((DEPLOY / "images.env").read_text())
    docker = tmp_path / "docker"
    docker.write_text(
        '#!/bin/sh\ntest "$*" = "buildx imagetools inspect $4 --format {{.Manifest.Digest}}" && echo "$ANSWER"\n'
    )
    docker.chmod(docker.stat().st_mode | stat.S_IXUSR)

    def run(*arguments: str, answer: str = DIGEST) -> subprocess.CompletedProcess[str]:
        variables = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "ANSWER": answer}
        command = ["sh", str(tmp_path / "image" / "pin.sh"), *arguments]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)

    return run


def test_pins_are_every_image_with_its_digest_and_a_moved_tag_is_seen(
    pin: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    assert pin().returncode == 0
    lock = (tmp_path / "images.lock").read_text()
    assert lock.splitlines() == [f"{name}={image}@{DIGEST}" for name, image in images().items()]
    assert pin("--check").returncode == 0
    moved = pin("--check", answer="sha256:" + "f" * 64)
    assert moved.returncode == 1
    assert (tmp_path / "images.lock").read_text() == lock


@pytest.mark.parametrize("answer", ["", "sha256:123", "Error: no such image"])
def test_an_image_without_a_digest_leaves_no_lock(
    pin: Callable[..., subprocess.CompletedProcess[str]], answer: str, tmp_path: Path
) -> None:
    assert pin(answer=answer).returncode != 0
    assert not (tmp_path / "images.lock").exists()
    assert pin("--chek").returncode == 2


# --- compose


def services() -> dict[str, Any]:
    """Return the services of the compose file."""
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"])


def own_services() -> list[str]:
    """Return the names of the services that are the engine."""
    return [name for name, service in services().items() if service["image"] == "liq-engine"]


def test_compose_names_the_images_that_are_pinned() -> None:
    defaults = {f"${{{name}:-{image}}}" for name, image in images().items()}
    args = [service["build"]["args"] for service in services().values() if "build" in service]
    used = {service["image"] for service in services().values()} - {"liq-engine"} | {
        one["PYTHON_IMAGE"] for one in args
    }
    assert used == defaults


def test_nothing_that_compose_runs_may_more_than_it_needs_or_is_open_beyond_this_machine() -> None:
    for name, service in services().items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        # Kafka writes its logs beside its programs.
        assert service.get("read_only") or "kafka" in service["image"].lower(), name


@pytest.mark.parametrize("name", own_services())
def test_compose_runs_commands_that_the_engine_has(name: str) -> None:
    words = [text.replace("${SPEED:-60}", "60") for text in services()[name]["command"]]
    assert build_parser().parse_args(words).verb == words[0]


def test_the_engine_of_compose_has_its_port_open_and_its_files_mounted(tmp_path: Path) -> None:
    engine = services()["engine"]
    files = {target: source for source, target, *_ in (text.split(":") for text in engine["volumes"])}
    for name in ("service.toml", "risk.toml", "admin_token"):
        (tmp_path / name).write_text((DEPLOY / files[f"/etc/liq-engine/{name}"]).read_text())
    text = (tmp_path / "service.toml").read_text()
    (tmp_path / "book.json").write_text("{}")
    (tmp_path / "service.toml").write_text(text.replace("/market/", f"{tmp_path}/"))
    config = load_service(tmp_path / "service.toml", {})
    assert engine["ports"] == [f"127.0.0.1:{config.admin.port}:{config.admin.port}"]
    assert config.admin.token is not None
    assert str(config.snapshots.folder).startswith("/var/lib/liq-engine/")
    assert "/var/lib/liq-engine" in files
    assert int(engine["stop_grace_period"].removesuffix("s")) > config.deadlines.drain_s


def test_what_compose_mounts_is_in_the_repository() -> None:
    for service in services().values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).is_file() or any((DEPLOY / source).glob("*")), source


def test_prometheus_of_compose_scrapes_the_engine_with_its_token_and_tells_alertmanager() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["engine:9464"]}]
    mounted = {volume.split(":")[1] for volume in services()["prometheus"]["volumes"]}
    assert job["authorization"]["credentials_file"] in mounted
    assert {Path(pattern).parent.as_posix() for pattern in config["rule_files"]} <= mounted
    (manager,) = config["alerting"]["alertmanagers"][0]["static_configs"]
    assert manager["targets"] == ["alertmanager:9093"]


# --- the documents


@pytest.mark.parametrize("name", ["README.md", "SECURITY.md"])
def test_what_a_document_names_is_there(name: str) -> None:
    text = (DEPLOY / name).read_text()
    tests = {*re.findall(r"`(?:tests/)?(test_\w+\.py)`", text)}
    assert tests
    assert {test for test in tests if not (ROOT / "tests" / test).is_file()} == set()
    linked = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [path for path in linked if not (DEPLOY / path).exists()] == []
    commands = {*re.findall(r"`liq-engine ([a-z-]+)", text)}
    assert [verb for verb in commands if verb not in str(build_parser().format_help())] == []


# --- the bill of materials


PACKAGES = ("aiokafka", "llvmlite", "numba", "numpy", "orjson")


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Return the Python of an environment in which some packages are, as far as their metadata goes."""
    venv.create(tmp_path / "environment")
    (packages,) = (tmp_path / "environment").glob("lib/python3.*/site-packages")
    for name in PACKAGES:
        info = f"{name}-{version(name)}.dist-info"
        shutil.copytree(str(distribution(name).locate_file(info)), packages / info)
    return tmp_path / "environment" / "bin" / "python"


def write_bill(python: Path, out: Path) -> int:
    """Run sbom.sh with this environment's tool; return its exit code."""
    tool = Path(program("cyclonedx-py")).parent
    variables = {**os.environ, "PATH": f"{tool}{os.pathsep}{os.environ['PATH']}"}
    command = ["sh", str(DEPLOY / "sbom.sh"), str(python), str(out)]
    return subprocess.run(command, env=variables, capture_output=True, check=False).returncode


def test_the_bill_of_materials_names_every_package_with_its_version_and_what_it_needs(
    environment: Path, tmp_path: Path
) -> None:
    assert write_bill(environment, tmp_path / "out" / "sbom.json") == 0
    bill = json.loads((tmp_path / "out" / "sbom.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "liq-engine"
    found = {component["name"]: component for component in bill["components"]}
    assert sorted(found) == sorted(PACKAGES)
    for name, component in found.items():
        assert component["purl"].startswith(f"pkg:pypi/{name}@{version(name)}")
        assert component["licenses"]
    needs = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    references = {name: component["bom-ref"] for name, component in found.items()}
    assert {references["llvmlite"], references["numpy"]} <= {*needs[references["numba"]]}


def test_two_builds_of_one_environment_have_the_same_bill_of_materials(environment: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        assert write_bill(environment, tmp_path / name) == 0
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_what_is_no_environment_has_no_bill_of_materials(tmp_path: Path) -> None:
    assert write_bill(tmp_path / "no-python", tmp_path / "out.json") != 0
    assert [*tmp_path.iterdir()] == []
