"""The project keeps the rules of ``tidy.py``, and each rule is known to catch what it is there for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.tidy import ENGINE_LINES_MAX, EXEMPT, RULES, Source, problems_of

ROOT = Path(__file__).resolve().parents[1]
RULE_NAMED = {rule.__name__: rule for rule in RULES}

CORE = "engine/core/machine.py"
CODEC = "engine/edges/codec.py"
KERNEL = "engine/core/kernels/margin.py"
# Spelled in parts: this file is itself under the rules.
MARKER = "TO" + "DO"
HOME = "/" + "root"

# (rule, path, source with one fault). The paths need not exist.
CAUGHT = [
    ("rings_point_inward", "engine/errors.py", "from engine.core import book"),
    ("rings_point_inward", "engine/units.py", "import engine.edges.config"),
    ("rings_point_inward", CORE, "from engine.edges.codec import decode"),
    ("rings_point_inward", CORE, "from engine.edges import codec"),
    ("rings_point_inward", CORE, "from engine import edges"),
    ("rings_point_inward", CORE, "from engine import *"),
    ("rings_point_inward", CORE, "from ..edges import codec"),
    ("rings_point_inward", KERNEL, "from ...shell.kafka import Producer"),
    ("rings_point_inward", "engine/core/__init__.py", "from ..tools import replay"),
    ("rings_point_inward", CORE, "def late():\n    from engine.edges import codec"),
    ("rings_point_inward", CODEC, "from engine.shell import worker"),
    ("rings_point_inward", CODEC, "from engine.tools import replay"),
    ("rings_point_inward", "engine/shell/worker.py", "from engine.tools import replay"),
    ("rings_point_inward", "engine/tools/replay.py", "from engine.shell import worker"),
    ("rings_point_inward", "engine/tools/replay.py", "from engine.__main__ import main"),
    ("rings_point_inward", "engine/tools/demo.py", "from tests.reference import margin"),
    ("rings_point_inward", "engine/helpers.py", "from engine.units import UNIT"),
    ("imports_are_written_out", CODEC, "import importlib\nimportlib.import_module('engine.shell.kafka')"),
    ("imports_are_written_out", CODEC, "__import__('engine.shell.kafka')"),
    ("libraries_stay_home", CORE, "import orjson"),
    ("libraries_stay_home", "engine/tools/replay.py", "from orjson import dumps"),
    ("libraries_stay_home", "engine/shell/worker.py", "from aiokafka.errors import KafkaError"),
    ("libraries_stay_home", "engine/shell/worker.py", "import prometheus_client as prometheus"),
    ("libraries_stay_home", "engine/shell/service.py", "from aiohttp import web"),
    ("libraries_stay_home", "engine/core/params.py", "import pydantic"),
    ("libraries_stay_home", "engine/edges/snapshot.py", "import pyarrow.feather"),
    ("libraries_stay_home", "engine/tools/demo.py", "def show():\n    from rich.console import Console"),
    ("libraries_stay_home", "engine/edges/config.py", "import uvloop"),
    ("core_is_pure", CORE, "import time"),
    ("core_is_pure", CORE, "from datetime import datetime"),
    ("core_is_pure", KERNEL, "import random"),
    ("core_is_pure", KERNEL, "import numpy as np\nnp.random.rand()"),
    ("core_is_pure", KERNEL, "from numpy.random import default_rng"),
    ("core_is_pure", CORE, "import logging.handlers"),
    ("core_is_pure", CORE, "import os"),
    ("core_is_pure", CORE, "from io import BytesIO"),
    ("core_is_pure", CORE, "from pathlib import Path"),
    ("core_is_pure", CORE, "import asyncio"),
    ("core_is_pure", CORE, "import socket"),
    ("core_is_pure", "engine/units.py", "import threading"),
    ("core_opens_nothing", CORE, "open('book.json')"),
    ("core_opens_nothing", CORE, "path.read_bytes()"),
    ("core_opens_nothing", CORE, "os.environ['CI']"),
    ("core_opens_nothing", "engine/units.py", "os.getenv('CI')"),
    ("core_is_integer", CORE, "x = float('1')"),
    ("core_is_integer", CORE, "def f(x: float) -> int: ..."),
    ("core_is_integer", KERNEL, "x = 0.5"),
    ("core_is_integer", KERNEL, "x = 1e8"),
    ("core_is_integer", KERNEL, "x = np.float64(1)"),
    ("core_is_integer", KERNEL, "x = equity / margin"),
    ("core_is_integer", KERNEL, "x /= 2"),
    ("modules_say_what_they_are", CORE, "x = 1"),
    ("modules_say_what_they_are", CORE, ""),
    ("modules_say_what_they_are", CORE, '"""The machine"""'),
    ("modules_say_what_they_are", CORE, '"""The machine, which\n\nis long.\n"""'),
    ("errors_are_named", CORE, "try:\n    x\nexcept:\n    pass"),
    ("errors_are_named", CODEC, "try:\n    x\nexcept Exception:\n    pass"),
    ("errors_are_named", CODEC, "try:\n    x\nexcept (ValueError, Exception) as error:\n    pass"),
    ("errors_are_named", "tests/test_x.py", "try:\n    x\nexcept builtins.BaseException:\n    pass"),
    ("printing_is_for_tools", CORE, "print(1)"),
    ("printing_is_for_tools", "engine/shell/service.py", "print('started')"),
    ("files_fit_a_reader", CORE, "x = 1\n" * (ENGINE_LINES_MAX + 1)),
    ("oracle_is_independent", "tests/reference.py", "from engine.units import div_up"),
    ("oracle_is_independent", "tests/reference_ledger.py", "def f():\n    import engine"),
    ("oracle_is_independent", "tests/reference.py", "from ..engine import units"),
    ("oracle_is_independent", "tests/reference.py", "from tests.builders import book"),
    ("nothing_is_unfinished", "README.md", f"# Start\n\n{MARKER}: write this"),
    ("nothing_is_unfinished", CORE, f"x = 1  # {MARKER} later"),
    ("no_machine_is_named", "tests/test_x.py", f"DATA = '{HOME}/data'"),
    ("no_machine_is_named", "README.md", f"run `{HOME}/bin/liq-engine`"),
    ("lock_names_public_hosts", "uv.lock", 'source = { registry = "https://mirror.example/simple" }'),
    ("lock_names_public_hosts", "uv.lock", 'url = "https://pypi.org.example:8080/x.whl"'),
]

# (rule, path, source that comes close and is right)
ALLOWED = [
    ("rings_point_inward", "engine/__main__.py", "from engine.shell import worker\nfrom engine.tools import replay"),
    ("rings_point_inward", "engine/shell/worker.py", "from ..edges import codec\nfrom .kafka import Producer"),
    ("rings_point_inward", "engine/tools/replay.py", "from engine import __version__\nfrom engine.edges import codec"),
    ("rings_point_inward", CORE, "from engine.core.kernels.margin import reprice\nfrom ..units import UNIT"),
    ("libraries_stay_home", "engine/edges/codec_fast.py", "import orjson"),
    ("libraries_stay_home", "engine/edges/readers/candles.py", "import pyarrow.feather as feather"),
    ("core_is_pure", CODEC, "import time, os"),
    ("core_opens_nothing", "engine/edges/readers/merge.py", "open('x')"),
    ("core_is_integer", CORE, "x = a // b + 10**8"),
    ("core_is_integer", "engine/edges/venue.py", "x = 0.5"),
    ("modules_say_what_they_are", CORE, '"""The machine: a fold.\n\nAnd more\n"""'),
    ("errors_are_named", CODEC, "try:\n    x\nexcept (ValueError, OSError):\n    pass"),
    ("printing_is_for_tools", "engine/tools/demo.py", "print(1)"),
    ("files_fit_a_reader", CORE, "x = 1\n" * ENGINE_LINES_MAX),
    (
        "oracle_is_independent",
        "tests/reference.py",
        "from fractions import Fraction\nfrom tests import reference_ledger",
    ),
    ("no_machine_is_named", "README.md", f"see https://example.org{HOME}/x and ..{HOME}/x"),
    ("lock_names_public_hosts", "uv.lock", 'url = "https://files.pythonhosted.org/packages/x.whl"'),
]


@cache
def project_sources() -> tuple[Source, ...]:
    """Return every text file of the project: what git tracks or would track, or all files where there is no git."""
    sources = []
    for path in sorted(project_paths()):
        try:
            sources.append(Source(path, (ROOT / path).read_bytes().decode()))
        except UnicodeDecodeError:
            continue  # A binary file: no rule is about those.
    return tuple(sources)


def project_paths() -> list[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return list(walked_paths())
    # A tracked file may have been deleted and not yet committed.
    return [path for path in listing.decode().split("\0") if path and (ROOT / path).is_file()]


def walked_paths() -> Iterator[str]:
    for folder, names, files in os.walk(ROOT):
        names[:] = [name for name in names if name == ".ci" or not name.startswith((".", "_", "venv", "build", "dist"))]
        yield from ((Path(folder) / file).relative_to(ROOT).as_posix() for file in files)


@pytest.mark.parametrize("rule_name", RULE_NAMED)
def test_the_project_keeps(rule_name: str) -> None:
    problems = []
    for source in project_sources():
        if (rule_name, source.path) not in EXEMPT:
            problems += problems_of(RULE_NAMED[rule_name], source)
    assert not problems, "\n".join(["", *problems])


@pytest.mark.parametrize(("rule_name", "path", "text"), CAUGHT)
def test_a_rule_catches(rule_name: str, path: str, text: str) -> None:
    assert problems_of(RULE_NAMED[rule_name], Source(path, text))


@pytest.mark.parametrize(("rule_name", "path", "text"), ALLOWED)
def test_a_rule_allows(rule_name: str, path: str, text: str) -> None:
    assert problems_of(RULE_NAMED[rule_name], Source(path, text)) == []


def test_every_rule_is_known_to_catch_something() -> None:
    assert {rule_name for rule_name, _, _ in CAUGHT} == set(RULE_NAMED)


@pytest.mark.parametrize(("rule_name", "path"), EXEMPT)
def test_no_exemption_outlives_its_need(rule_name: str, path: str) -> None:
    source = next(source for source in project_sources() if source.path == path)
    assert problems_of(RULE_NAMED[rule_name], source)


def test_the_rules_see_the_project_with_and_without_git() -> None:
    expected = {"engine/errors.py", "engine/core/events.py", "tests/tidy.py", "pyproject.toml", "uv.lock", ".ci/run"}
    assert expected <= {source.path for source in project_sources()}
    assert expected <= set(walked_paths())
