"""A child process ends with its parent, whatever becomes of that, takes its own children along, and keeps its log."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from engine.tools.child import Child
from tests.test_kafka_broker import is_alive, wait_until_gone
from tests.verb import ROOT

# Says its number and that of a child of its own, and waits.
PARENT = "sleep 600 & echo $$ $!; wait"


def numbers_of(child: Child) -> list[int]:
    """Return what the program has said once it has."""
    deadline_s = time.monotonic() + 60
    while not child.text.endswith("\n"):
        assert child.is_running, child.text
        assert time.monotonic() < deadline_s, child.text
        time.sleep(0.01)
    return [int(text) for text in child.text.split()]


def test_an_ended_child_leaves_no_child_of_its_own_and_is_ended_once(tmp_path: Path) -> None:
    with Child(tmp_path / "log.txt", ["sh", "-c", PARENT]) as child:
        numbers = numbers_of(child)
        assert all(map(is_alive, numbers))
        child.kill()
        assert not child.is_running
        for number in numbers:
            wait_until_gone(number)


def test_a_child_that_has_ended_by_itself_is_no_error(tmp_path: Path) -> None:
    with Child(tmp_path / "log.txt", ["sh", "-c", "echo done; exit 3"]) as child:
        assert child.process.wait(60) == 3
    assert child.text == "done\n"


def test_a_log_is_gone_on_with_and_each_child_tells_its_own_part(tmp_path: Path) -> None:
    for words in ("first", "second"):
        with Child(tmp_path / "log.txt", ["echo", words]) as child:
            child.process.wait(60)
        assert child.text == f"{words}\n"
    assert (tmp_path / "log.txt").read_text() == "first\nsecond\n"


def test_a_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import signal, sys; from pathlib import Path; from engine.tools.child import Child\n"
        f"child = Child(Path(sys.argv[1]), ['sh', '-c', {PARENT!r}]); print(child.process.pid, flush=True)\n"
        "signal.pause()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "log.txt")]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent, parent.stdout:
        number = int(parent.stdout.readline())
        assert is_alive(number)
        parent.kill()
    wait_until_gone(number)
