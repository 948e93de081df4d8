"""What the admin server serves as its page, to whom, and ``demo --serve`` as a command: no browser needed."""

from __future__ import annotations

import re
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engine.__main__ import main
from engine.core.kernels.cache import CACHE_DIR
from engine.core.machine import Machine
from engine.core.shard import Shard
from engine.edges.config import default_risk_path, load_risk
from engine.edges.digest import state_hash
from engine.edges.service_config import AdminConfig, ServiceConfig
from engine.edges.shard_book import BookSource
from engine.edges.venue import BookVenue
from engine.edges.warmup import COMPLETE
from engine.shell.admin.page import FILES
from engine.shell.admin.server import AdminServer
from engine.shell.demo import Player, batches
from engine.shell.play import open_all
from engine.tools.demo import write_market
from tests.demos import Demo

STATIC = Path(__file__).resolve().parents[1] / "engine" / "shell" / "admin" / "static"
TOKEN = "correct horse battery staple"
RISK = load_risk(default_risk_path())


def player_of(folder: Path, **admin: Any) -> tuple[Player, Shard, Path]:
    """Return a player over the demo's population, its shard and its log."""
    book, log = write_market(folder, RISK, accounts=40, seed=2)
    shard = BookSource(book).new_shard(RISK, 0, venue=BookVenue())
    config = ServiceConfig(risk=default_risk_path(), admin=AdminConfig(port=0, **admin))
    return Player(config, RISK, shard, config_hash="00"), shard, log


async def get(server: AdminServer, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of an answer."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{server.port}{path}", headers=headers) as response,
    ):
        return response.status, dict(response.headers), await response.read()


# --- the files


def test_every_file_that_the_page_names_is_served_and_every_file_is_named() -> None:
    text = "".join(body.decode() for path, (body, _) in FILES.items() if path != "/page/uplot.js")
    named = set(re.findall(r'"(/page/[\w.]+)"', text)) | {
        f"/page/{name}" for name in re.findall(r'from "\./([\w.]+)"', text)
    }
    assert named == set(FILES) - {"/"}


def test_the_library_is_the_published_one_and_comes_with_its_licence() -> None:
    assert FILES["/page/uplot.js"][0].startswith(b"/*! https://github.com/leeoniya/uPlot (v1.6.32) */")
    assert "The MIT License" in (STATIC / "uplot.LICENSE.txt").read_text()


@pytest.mark.parametrize("words", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style="])
def test_nothing_on_the_page_can_become_markup_or_style(words: str) -> None:
    for path, (body, _) in FILES.items():
        assert words.encode() not in body, path


async def test_the_page_may_run_load_and_ask_nothing_but_what_its_server_serves(tmp_path: Path) -> None:
    player, _, _ = player_of(tmp_path)
    async with AdminServer(player) as server:
        for path, (content, kind) in FILES.items():
            status, headers, body = await get(server, path)
            assert (status, body, headers["Content-Type"]) == (200, content, f"{kind}; charset=utf-8")
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert headers["X-Content-Type-Options"] == "nosniff"


async def test_the_page_is_open_where_its_figures_ask_for_the_token(tmp_path: Path) -> None:
    player, _, _ = player_of(tmp_path, token=TOKEN)
    async with AdminServer(player) as server:
        assert (await get(server, "/"))[0] == 200
        assert (await get(server, "/page/main.js"))[0] == 200
        assert (await get(server, "/v1/status"))[0] == 401
        assert (await get(server, "/v1/status", Authorization=f"Bearer {TOKEN}"))[0] == 200
        # Under a foreign name that points here the page would keep the token for that name.
        assert (await get(server, "/", Host="evil.example"))[0] == 403


# --- the demo behind it


async def test_what_is_played_behind_the_page_is_what_a_replay_of_the_log_comes_to(tmp_path: Path) -> None:
    player, shard, log = player_of(tmp_path)
    player.begin()
    told, known = 0, player.metrics.catalogue
    async for batch in batches(open_all(RISK, [log], format=None, speed=0), speed=0):
        seq = shard.seq
        player.apply(batch)
        told += shard.seq > seq
    other = BookSource(tmp_path / "book.json").new_shard(RISK, 0, venue=BookVenue())
    Machine(other).apply(list(open_all(RISK, [log], format=None, speed=0)))
    assert shard.counters.liquidations == other.counters.liquidations > 10
    assert (shard.seq, shard.clock, state_hash(shard)) == (other.seq, other.clock, state_hash(other))
    assert player.status.ring.last_seq == shard.seq
    assert player.status.records == shard.counters.messages == other.counters.messages
    # Each input was decided on, each batch committed, and what some of them led to was waited for.
    counted = [sum(family.counts[0]) for family in (known.tick_to_decision, known.commit, known.tick_to_output)]
    assert counted == [player.status.records, player.status.batches, told]
    assert known.journal_batch.get("0") == player.status.batches > told > 0


async def test_inputs_come_at_their_own_pace_times_the_speed(tmp_path: Path) -> None:
    _, _, log = player_of(tmp_path)
    due = []
    async for batch in batches(open_all(RISK, [log], format=None, speed=500), speed=500):
        # None comes before it is due.
        assert max(arrived.due_s for arrived in batch) <= time.monotonic()
        due += [arrived.due_s for arrived in batch]
        if len(due) > 300:
            break
    assert due == sorted(due)
    # Ten symbols a second and their asset prices every fifth: 300 inputs are 28 seconds and a little.
    assert 0.05 < due[300] - due[0] < 0.06


def test_ctrl_c_ends_the_demo_and_its_page(tmp_path: Path) -> None:
    with Demo(tmp_path, "--accounts", "40", "--speed", "60") as demo:
        assert demo.url.startswith("http://127.0.0.1:")
        assert demo.interrupt() == 0
        assert "Traceback" not in demo.text


def test_a_demo_says_that_kernels_are_compiled_before_it_says_where_its_page_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if CACHE_DIR is None:
        pytest.skip("no folder to cache kernels in can be written: none says that some are missing")
    # A cache as an interrupted start leaves it: what is there is good, and nobody has said that it is all.
    cache = tmp_path / "cache"
    shutil.copytree(CACHE_DIR, cache / CACHE_DIR.name, ignore=shutil.ignore_patterns(COMPLETE))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(cache))
    told = []
    for _ in range(2):
        with Demo(tmp_path / "out", "--accounts", "40", "--speed", "60") as demo:
            url = demo.url
            told.append(demo.text.partition(url)[0])
            assert demo.interrupt() == 0
    assert told == ["compiling the kernels, once for this version: about twenty seconds\n", ""]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "70000"], "--port 70000: must be from 0 to 65535"),
        (["--speed", "-1"], "--speed -1: must not be below 0"),
        (["--speed", "nan"], "--speed nan: must not be below 0"),
    ],
)
def test_a_demo_that_cannot_be_served_says_why(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--serve", "--accounts", "40", "--out", str(tmp_path), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_demo_on_a_port_that_is_taken_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["demo", "--serve", "--accounts", "40", "--out", str(tmp_path), "--port", port]) == 2
    assert f"admin.port {port} on 127.0.0.1: Address already in use" in capsys.readouterr().err
