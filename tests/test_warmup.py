"""``liq-engine warmup``: all kernels are there before the first message, and two processes may fill a cache at once."""

from __future__ import annotations

import fcntl
import json
import os
import sys

import pytest
from numba.core.caching import FunctionCache

from engine.core.kernels.cache import KernelCache, source_hash
from engine.core.kernels.rows import needs_a_look
from tests.verb import said

# What has been compiled for which types, or loaded from the cache.
COMPILED = """
import gc
from numba.core.dispatcher import Dispatcher


def compiled():
    return {
        (found.py_func.__name__, str(types))
        for found in gc.get_objects()
        if isinstance(found, Dispatcher)
        for types in found.overloads
    }
"""
CRASH = """
import json, sys
from pathlib import Path
from engine.edges.warmup import warm_up
from engine.tools.demo import run_demo

warm_up()
before = compiled()
run_demo(Path(sys.argv[1]), accounts=300, seed=1, risk=None)
print(json.dumps({"before": len(before), "later": sorted(compiled() - before)}))
"""
# A market whose only asset has a fixed price, and one where a price is awaited: their first tables differ.
MARKET = """
import json, sys
from engine.core.events import Fill, Mark, Message, Origin, SetParams, Transfer
from engine.core.machine import Machine
from engine.core.params import Risk, build_asset, build_instrument
from engine.core.shard import Shard
from engine.core.ladders import SurveyOptions
from engine.core.survey import Survey
from engine.core.volatility import Sigmas
from engine.edges.codec import encode_event
from engine.edges.journal import Position
from engine.edges.line_batch import LineReader
from engine.edges.snapshot import decode_snapshot, encode_snapshot
from engine.edges.views import account_document
from engine.edges.warmup import warm_up
from engine.edges.what_if import what_if

warm_up()
before = compiled()
SALE = {"type": "fill", "symbol": "X", "side": "sell", "qty": "1", "price": "100"}
DEPOSIT = {"type": "transfer", "asset": "USD", "amount": "5"}
tiers = [["0", "0.01", "50"]]
terms = {"settle": "USD", "price_tick": "0.1", "lot": "0.001", "tiers": tiers}
assets = {"USD": build_asset("USD", {"price": "1"}), "BTC": build_asset("BTC", {})}
held = {name: assets[name] for name in sys.argv[1].split(",")}
shard = Shard(Risk(assets=held, instruments={"X": build_instrument("X", terms)}))

def fold(*events):
    places = [Origin("test", -1, number) for number in range(len(events))]
    lines = LineReader(shard.book).read_values(
        [encode_event(event) for event in events], message=places.index, origin=places.__getitem__
    )
    Machine(shard).fold(lines)


events = [
    Mark("X", (100, 0), 1),
    Transfer("1", "alice", "USD", (50, 0), 2),
    Fill("1", "alice", "X", "buy", (1, 0), (100, 0), 3),
]
Machine(shard).apply(Message(Origin("test", -1, 0), event) for event in events)
steps = {
    # Both as usual as can be: neither is asked for as a message.
    "lines": lambda: fold(Mark("X", (101, 0), 4), Fill("2", "alice", "X", "sell", (2, 0), (101, 0), 4, (1, 1))),
    "an account": lambda: account_document(shard, "alice", SurveyOptions(), Sigmas()),
    "an unknown account": lambda: account_document(shard, "bob", SurveyOptions(), Sigmas()),
    "a fill": lambda: what_if(shard, "alice", [SALE]),
    "a deposit of a new account": lambda: what_if(shard, "bob", [DEPOSIT]),
    "a policy": lambda: Machine(shard).apply([Message(Origin("test", -1, 1), SetParams("policy", "policy", 4))]),
    "a survey": lambda: Survey(shard).advance(1_000_000),
    "a snapshot": lambda: decode_snapshot(encode_snapshot(shard, config_hash="", position=Position())),
}
late = {}
for name, step in steps.items():
    step()
    now = compiled()
    late[name], before = sorted({kernel for kernel, _ in now - before}), now
print(json.dumps(late))
"""


def test_crash_needs_no_kernel_that_the_warm_up_has_not_compiled(tmp_path):
    found = json.loads(said(sys.executable, "-c", COMPILED + CRASH, str(tmp_path)).stdout.splitlines()[-1])
    assert found["before"] > 40
    assert found["later"] == []


@pytest.mark.parametrize("assets", ["USD", "USD,BTC"])
def test_the_first_request_and_the_first_change_of_parameters_find_all_kernels_ready(assets):
    late = json.loads(said(sys.executable, "-c", COMPILED + MARKET, assets).stdout)
    assert len(late) == 8
    assert {step: kernels for step, kernels in late.items() if kernels} == {}


def test_empty_cache_is_filled_by_two_processes_once(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    told = []
    for _ in range(2):
        done = said(sys.executable, "-m", "engine", "warmup", "--json", env=environment)
        told.append((json.loads(done.stdout)["kernels"], done.stderr))
    (cold, first), (warm, second) = told
    assert cold == warm > 100
    assert first == "compiling the kernels, once for this version: about twenty seconds\n"
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
