"""A real Kafka node can be had, killed and started again, and never outlives who started it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.errors import BrokerError, InputError
from engine.tools.kafka_broker import Broker, KafkaMissingError, bring_jars, java_command, one_at_a_time, pinned_version
from tests.__main__ import SPREAD
from tests.brokers.clients import new_topic, producer, read_settled, unique, zombie
from tests.brokers.real import External, do_without, need_kafka, shared_kafka

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 60.0


@pytest.mark.broker
@pytest.mark.slow
async def test_a_killed_node_comes_back_with_what_it_acknowledged(own_kafka: Broker) -> None:
    address, name = own_kafka.bootstrap, unique("txn")
    topic = await new_topic(address)
    async with zombie(address, name) as old:
        async with old.transaction():
            await old.send_and_wait(topic, b"committed", partition=0)
        await old.begin_transaction()
        await old.send_and_wait(topic, b"left open", partition=0)
        own_kafka.kill()
        assert own_kafka.pid is None
        own_kafka.start()
        assert own_kafka.bootstrap == address
        async with producer(address, name) as new, new.transaction():
            await new.send_and_wait(topic, b"committed after", partition=0)
    assert await read_settled(address, topic) == [b"committed", b"committed after"]
    own_kafka.restart()
    assert await read_settled(address, topic) == [b"committed", b"committed after"]


@pytest.mark.broker
@pytest.mark.slow
def test_a_node_ends_with_the_process_that_started_it_even_if_that_is_killed(tmp_path: Path) -> None:
    need_kafka()
    program = (
        "import signal, sys; from pathlib import Path; from engine.tools.kafka_broker import Broker\n"
        "node = Broker(Path(sys.argv[1])); node.start(); print(node.pid, flush=True); signal.pause()\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert starter.stdout is not None
    with starter, starter.stdout:
        pid = int(starter.stdout.readline())
        assert is_alive(pid)
        starter.kill()
    try:
        wait_until_gone(pid)
    finally:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.broker
@pytest.mark.slow
def test_a_node_that_cannot_start_says_why(tmp_path: Path) -> None:
    need_kafka()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        node = Broker(tmp_path, port=taken.getsockname()[1])
        with pytest.raises(BrokerError, match=r"ended while it was starting.*(?s:.*)Address already in use"):
            node.start()
    assert node.pid is None


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that is dead and not yet reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while is_alive(pid):
        assert time.monotonic() < deadline_s, f"process {pid} outlived its starter"
        time.sleep(0.02)


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a machine's programs: it has none, nor anything cached."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return programs


def install(programs: Path, name: str, script: str) -> None:
    """Put a shell script on the bare machine."""
    path = programs / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("version", ["17", "17.0.15", "21-ea", "25.0.1"])
def test_java_17_and_later_will_do(bare_machine: Path, version: str) -> None:
    install(bare_machine, "java", f"echo 'openjdk version \"{version}\" 2025-04-15' >&2")
    assert java_command() == str(bare_machine / "java")


@pytest.mark.parametrize("version", ["16.0.2", "11.0.23", "1.8.0_402"])
def test_an_older_java_is_named_with_what_it_says(bare_machine: Path, version: str) -> None:
    install(bare_machine, "java", f"echo 'openjdk version \"{version}\"' >&2")
    with pytest.raises(KafkaMissingError, match=f'(?s)not Java 17 or later.*"{version}"'):
        java_command()


def test_without_java_the_message_says_what_to_install(bare_machine: Path) -> None:
    with pytest.raises(KafkaMissingError, match=r"no java found.*openjdk-17-jre-headless"):
        java_command()


def test_java_home_goes_before_the_path(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(bare_machine, "java", "echo 'openjdk version \"11\"'")
    home = bare_machine.parent / "jdk"
    (home / "bin").mkdir(parents=True)
    install(home / "bin", "java", "echo 'openjdk version \"21\"'")
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert java_command() == str(home / "bin" / "java")


def test_without_maven_the_message_says_what_to_install(bare_machine: Path) -> None:
    with pytest.raises(KafkaMissingError, match=r"no mvn found.*Debian: maven"):
        bring_jars()


def test_maven_is_asked_once_and_what_it_brought_is_kept(bare_machine: Path) -> None:
    # The last argument is -DoutputDirectory=FOLDER.
    install(
        bare_machine,
        "mvn",
        'for last; do :; done; folder="${last#*=}"; /bin/mkdir -p "$folder"; : > "$folder/kafka_2.13-4.jar"\n'
        'echo "$@" >> "${0%/*}/asked"',
    )
    jars = bring_jars()
    assert jars.parent == bare_machine.parent / "cache" / "liq-engine"
    assert jars.name.startswith("kafka-4.1.1-")
    assert [each.name for each in jars.iterdir()] == ["kafka_2.13-4.jar"]
    assert bring_jars() == jars
    (asked,) = (bare_machine / "asked").read_text().splitlines()
    assert f"-f {ROOT / 'deploy' / 'kafka' / 'pom.xml'} dependency:copy-dependencies" in asked
    # Nothing half done lies about.
    assert list(jars.parent.iterdir()) == [jars]


@pytest.mark.parametrize("script", ["echo 'Could not resolve host' >&2; exit 1", "echo 'Could not resolve host'"])
def test_a_maven_that_brings_nothing_is_quoted_and_leaves_nothing(bare_machine: Path, script: str) -> None:
    """Whether it fails, or says that it did well and brought no Kafka."""
    install(bare_machine, "mvn", script)
    with pytest.raises(KafkaMissingError, match="could not bring Kafka's jars: Could not resolve host"):
        bring_jars()
    assert list((bare_machine.parent / "cache" / "liq-engine").iterdir()) == []


def test_a_pom_without_a_pinned_version_is_refused() -> None:
    with pytest.raises(InputError, match=r"kafka\.version is missing"):
        pinned_version(b"<project/>")


@pytest.mark.parametrize(("in_ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_machine_without_kafka_skips_for_a_newcomer_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, in_ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", in_ci)
    # Both are expected here, lest the wrong one skip this very test.
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception)) as raised:
        do_without("no java")
    assert raised.type is outcome
    assert str(raised.value).endswith("no java; or name a running one in KAFKA_BOOTSTRAP_SERVERS")


def test_a_broker_named_in_the_environment_is_used_and_none_is_started(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka.example:9092")
    # To look for an own node on this bare machine would then fail, and not skip, this test.
    monkeypatch.setenv("CI", "true")
    with shared_kafka(bare_machine / "unused") as endpoint:
        assert endpoint == External("kafka.example:9092")


def test_one_process_at_a_time_brings_anything(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with one_at_a_time(folder):
        other = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


@pytest.mark.parametrize("spread", [[], SPREAD], ids=["alone", "spread"])
@pytest.mark.parametrize(("in_ci", "exit_code"), [("", 0), ("true", 1)])
def test_a_run_without_kafka_ends_by_saying_so(
    bare_machine: Path, in_ci: str, exit_code: int, spread: list[str]
) -> None:
    """The whole way: pytest itself, over one test that needs Kafka, on a machine without java."""
    settings = {**os.environ, "CI": in_ci}
    settings.pop("KAFKA_BOOTSTRAP_SERVERS", None)
    test = "tests/test_brokers.py::test_records_are_read_in_the_order_they_were_sent"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *spread, test]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert "no java found: Kafka needs Java 17 or later" in done.stdout
    expected = "2 passed, 1 error" if in_ci else "1 tests skipped: no real Kafka: no java found"
    assert expected in done.stdout
