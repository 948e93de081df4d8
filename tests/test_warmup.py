"""``liq-engine warmup``: all kernels are there before the first message, and two processes may fill a cache at once."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys

import pytest
from numba.core.caching import FunctionCache

from engine.core.kernels.compile import KernelCache, source_hash
from engine.core.kernels.rows import needs_a_look
from tests.verb import ROOT

# What is compiled for which types, first by the warm-up, then by a crash.
SIGNATURES = """
import json, sys
from pathlib import Path
from numba.core.registry import CPUDispatcher
from engine.edges.warmup import warm_up
from engine.tools.demo import run_demo

def signatures():
    return {
        f"{module.__name__}.{name} {signature}"
        for module in list(sys.modules.values())
        if (getattr(module, "__name__", None) or "").startswith("engine.core.kernels")
        for name, value in vars(module).items()
        if isinstance(value, CPUDispatcher) and value.py_func.__module__ == module.__name__
        for signature in value.signatures
    }

warm_up()
warm = signatures()
run_demo(Path(sys.argv[1]), accounts=300, seed=1, risk=None)
print(json.dumps({"warm": sorted(warm), "later": sorted(signatures() - warm)}))
"""


def said(*command, env=os.environ):
    """Return what a command of its own process printed."""
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Return what the warm-up compiled in a new process, and what a crash did after it."""
    done = said(sys.executable, "-c", SIGNATURES, str(tmp_path_factory.mktemp("demo")))
    return json.loads(done.stdout.splitlines()[-1])


def test_crash_needs_no_kernel_that_the_warm_up_has_not_compiled(compiled):
    assert len(compiled["warm"]) > 40
    assert compiled["later"] == []


def test_empty_cache_is_filled_by_two_processes_once(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    told = []
    for _ in range(2):
        done = said(sys.executable, "-m", "engine", "warmup", "--json", env=environment)
        told.append((json.loads(done.stdout)["kernels"], done.stderr))
    (cold, first), (warm, second) = told
    assert cold == warm > 100
    assert first == "compiling the kernels, once for this version: about half a minute\n"
    assert second == ""
    # Some are called with 32 and with 64 bits; none is compiled anew for each constant that it is called with.
    assert len(list(tmp_path.rglob("*.nbc"))) < 1.1 * cold


def test_what_a_kernel_was_compiled_to_is_written_by_one_process_at_a_time(monkeypatch, tmp_path):
    tried = []

    def save(cache, signature, data):
        with cache.lock_file.open("w") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        tried.append((signature, data))

    monkeypatch.setattr(FunctionCache, "save_overload", save)
    KernelCache(source_hash, tmp_path).save_overload("signature", "data")
    assert tried == [("signature", "data")]
    assert isinstance(needs_a_look._cache, KernelCache)
