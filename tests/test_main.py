"""The command line: what each verb prints, writes and returns, in this process and once in one of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine import __version__
from engine.__main__ import main, replayed
from engine.core import ledger
from engine.edges.config import default_risk_path
from tests.golden import FOLDER
from tests.scenarios import START_NS, mark

ROOT = Path(__file__).resolve().parents[1]

RISK = """
[policy]
partial = "off"
[assets.USDT]
price = 1
[assets.COIN]
weights = [[0, 0.9]]
[instruments.BTCUSDT]
settle = "USDT"
price_tick = 0.1
lot = 0.001
tiers = [[0, 0.01, 50]]
[instruments.ETHUSDT]
settle = "USDT"
price_tick = 0.1
lot = 0.01
tiers = [[0, 0.02, 25]]
"""


@pytest.fixture
def files(tmp_path):
    """A risk file, and a book of Alice in trouble at 98.9, Bob well and Carol beyond saving, in a bucket."""
    (tmp_path / "risk.toml").write_text(RISK)
    long = {"symbol": "BTCUSDT", "qty": "10", "entry_price": "100"}
    book = {
        "accounts": [
            {"account": "carol", "positions": [{**long, "isolated": True, "margin": "11"}]},
            {"account": "bob", "balances": {"USDT": "1000", "COIN": "1"}, "positions": [{**long, "qty": "-1"}]},
            {"account": "alice", "balances": {"USDT": "20"}, "positions": [long]},
        ],
        "marks": {"BTCUSDT": "98.9"},
        "asset_prices": {"COIN": "10"},
    }
    (tmp_path / "book.json").write_text(json.dumps(book))
    (tmp_path / "log.jsonl").write_text(
        "\n".join(json.dumps({**mark(price, symbol), "ts": START_NS + number}) for number, (price, symbol) in enumerate(
            [("98.9", "BTCUSDT"), ("50", "ETHUSDT"), ("98.8", "BTCUSDT")]
        ))
    )  # fmt: skip
    return tmp_path


def told(capsys, *arguments):
    """The one JSON document a verb prints with ``--json``."""
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    """What a verb that ends with exit code 2 says, on stderr only."""
    assert main([*map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


# ------------------------------------------------------------------------------------------------------------- margin


def test_margin_prints_every_figure_of_every_account(files, capsys):
    document = told(capsys, "margin", files / "book.json", "--risk", files / "risk.toml")
    assert [(row["account"], row.get("bucket")) for row in document["accounts"]] == [
        ("alice", None), ("bob", None), ("carol", None), ("carol", "BTCUSDT"),
    ]  # fmt: skip
    alice = document["accounts"][0]
    assert alice == {
        "account": "alice",
        # 20 - 10 x 1.1; 1 % of 989 and a fiftieth of it.
        "equity": "9",
        "wallet_value": "20",
        "unrealised_pnl": "-11",
        "maintenance_margin": "9.89",
        "initial_margin": "19.78",
        "margin_ratio": "1.09888889",
        "liquidatable": True,
        "plan": [
            {
                "symbol": "BTCUSDT",
                "side": "sell",
                "qty": "10",
                "limit_price": "98",
                "bankruptcy_price": "98",
                "stage": "full",
            }
        ],
        # Nothing is charged for a close here, so none is dearer than another; with nothing left E stays at 9.
        "certificate": {
            "target": "9.89",
            "deficit": "0.89",
            "bound": "0",
            "dual_price": "0",
            "cost": "0",
            "gap": "0",
            "largest_first": "0",
            "pro_rata": "0",
            "equity_after": "9",
            "maintenance_margin_after": "0",
        },
        "positions": [
            {
                "symbol": "BTCUSDT",
                "leg": "net",
                "qty": "10",
                "entry_price": "100",
                "notional": "989",
                "unrealised_pnl": "-11",
                "maintenance_margin": "9.89",
                "initial_margin": "19.78",
                # 20 + 10 (p - 100) = 0.1 p at 980 / 9.9 = 98.98989898..: the last price that is liquidatable.
                "liquidation_price": "98.98989",
                "bankruptcy_price": "98",
            }
        ],
    }


def test_margin_of_a_healthy_account_has_no_plan_and_counts_coins_after_their_haircut(files, capsys):
    bob = told(capsys, "margin", files / "book.json", "--risk", files / "risk.toml")["accounts"][1]
    # 1000 and nine tenths of 10, and 1.1 won.
    assert (bob["wallet_value"], bob["unrealised_pnl"], bob["equity"]) == ("1009", "1.1", "1010.1")
    assert (bob["liquidatable"], bob["plan"]) == (False, [])


def test_margin_of_an_account_beyond_saving_plans_a_takeover_without_a_limit(files, capsys):
    bucket = told(capsys, "margin", files / "book.json", "--risk", files / "risk.toml")["accounts"][3]
    assert (bucket["equity"], bucket["margin_ratio"]) == ("0", None)
    assert [(order["stage"], order["limit_price"], order["qty"]) for order in bucket["plan"]] == [
        ("takeover", None, "10")
    ]


def test_margin_for_people_names_every_account(files, capsys):
    assert main(["margin", str(files / "book.json"), "--risk", str(files / "risk.toml")]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^alice: LIQUIDATABLE .*equity 9 ", text, re.MULTILINE)
    assert re.search(r"^bob: ok .*equity 1010\.1 ", text, re.MULTILINE)
    assert re.search(r"^carol/BTCUSDT: LIQUIDATABLE .*ratio - ", text, re.MULTILINE)


def test_margin_names_every_mark_and_price_that_is_missing(files, capsys):
    book = json.loads((files / "book.json").read_text())
    book["accounts"][2]["positions"].append({"symbol": "ETHUSDT", "qty": "1", "entry_price": "50"})
    (files / "book.json").write_text(json.dumps({"accounts": book["accounts"]}))
    message = refused(capsys, "margin", files / "book.json", "--risk", files / "risk.toml")
    assert "book.json: missing asset_prices.COIN, marks.BTCUSDT, marks.ETHUSDT" in message


def test_margin_needs_no_price_of_what_nobody_holds(files, capsys):
    document = {"accounts": [{"account": "a", "balances": {"USDT": "5"}}]}
    (files / "book.json").write_text(json.dumps(document))
    (row,) = told(capsys, "margin", files / "book.json", "--risk", files / "risk.toml")["accounts"]
    assert (row["equity"], row["margin_ratio"], row["plan"], row["positions"]) == ("5", "0", [], [])


def test_margin_refuses_a_broken_book_and_risk_file_by_name(files, capsys):
    (files / "bad.json").write_text('{"marks": {"NOPE": "1"}}')
    assert "bad.json: marks.NOPE" in refused(capsys, "margin", files / "bad.json", "--risk", files / "risk.toml")
    (files / "bad.toml").write_text("[policy]\ntriger = 1\n")
    assert "bad.toml: policy.triger: 1: unknown key" in refused(
        capsys, "margin", files / "book.json", "--risk", files / "bad.toml"
    )
    assert "nowhere.json" in refused(capsys, "margin", files / "nowhere.json", "--risk", files / "risk.toml")


# ------------------------------------------------------------------------------------------------------------- replay


def test_replay_writes_its_files_and_prints_the_summary(files, capsys):
    out = files / "out"
    summary = told(
        capsys, "replay", files / "log.jsonl", "--risk", files / "risk.toml", "--book", files / "book.json",
        "--venue", "book", "--out", out, "--quiet",
    )  # fmt: skip
    assert summary == json.loads((out / "summary.json").read_bytes())
    assert set(summary) == {
        "messages", "accepted", "rejected", "duplicates", "ignored", "fills", "orders", "liquidations",
        "notional_liquidated", "bad_debt", "uncovered", "insurance", "adl", "conservation", "state_hash",
        "outputs_hash", "latency",
    }  # fmt: skip
    # Alice sells 10 at 98.9 by an order; the fund takes over Carol's bucket at exactly what it is worth.
    assert (summary["liquidations"], summary["orders"], summary["notional_liquidated"]) == (2, 1, "989")
    started = [json.loads(line) for line in (out / "margin-events.jsonl").read_bytes().splitlines()]
    assert [body["account"] for body in started if body["type"] == "liquidation_started"] == ["carol", "alice"]


def test_replay_without_a_folder_writes_nothing(files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    before = sorted(files.iterdir())
    told(capsys, "replay", "log.jsonl", "--risk", "risk.toml", "--quiet")
    assert sorted(files.iterdir()) == before


def test_replay_for_people_says_that_money_is_conserved(files, capsys):
    assert main(["replay", str(files / "log.jsonl"), "--risk", str(files / "risk.toml"), "--quiet"]) == 0
    printed = capsys.readouterr()
    assert "money conserved  yes" in printed.out
    assert "state hash" in printed.out
    assert printed.err == ""


def test_replay_of_a_golden_log_from_the_command_line_gives_its_stored_hashes(capsys):
    summary = told(
        capsys, "replay", FOLDER / "crash.jsonl", "--risk", FOLDER / "crash.toml", "--book", FOLDER / "crash.book.json",
        "--venue", "book", "--batch", "13", "--quiet",
    )  # fmt: skip
    del summary["latency"]
    assert summary == json.loads((FOLDER / "crash.summary.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere.jsonl", "--risk", "risk.toml"], "nowhere.jsonl"),
        (["log.jsonl", "--risk", "nowhere.toml"], "nowhere.toml"),
        (["log.jsonl", "--risk", "risk.toml", "--book", "nowhere.json"], "nowhere.json"),
        (["log.jsonl", "--risk", "risk.toml", "--book", "log.jsonl"], "log.jsonl"),
        (["risk.toml", "--risk", "risk.toml"], "risk.toml"),
        (["log.jsonl", "--risk", "risk.toml", "--format", "scroll"], "--format scroll"),
        (["log.jsonl", "--risk", "risk.toml", "--out", "log.jsonl"], "log.jsonl"),
    ],
)
def test_replay_names_what_it_cannot_use(files, capsys, monkeypatch, arguments, named):
    monkeypatch.chdir(files)
    assert refused(capsys, "replay", *arguments, "--quiet").startswith(f"liq-engine replay: {named}")


def test_broken_invariant_is_exit_code_one(files, capsys, monkeypatch):
    def lose_a_unit(book):
        book.transfers[0] += 1
        check(book)

    check = ledger.check_conservation
    monkeypatch.setattr(ledger, "check_conservation", lose_a_unit)
    assert main(["replay", str(files / "log.jsonl"), "--risk", str(files / "risk.toml"), "--quiet"]) == 1
    assert "USDT: wallets 0 != transfers 1" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- other verbs


def test_demo_needs_nothing_and_writes_a_run_that_replays_to_the_same_hashes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    summary = told(capsys, "demo", "--accounts", "150", "--seed", "3", "--out", "shown")
    assert summary["liquidations"] > 0
    assert all(asset["difference"] == "0" for asset in summary["conservation"].values())
    assert (tmp_path / "shown" / "report.html").read_bytes().startswith(b"<!")
    again = told(capsys, "replay", "shown/events.jsonl", "--book", "shown/book.json", "--venue", "book", "--quiet")
    assert (again["state_hash"], again["outputs_hash"]) == (summary["state_hash"], summary["outputs_hash"])


def test_synth_writes_a_balanced_book_that_margin_reads(files, capsys):
    arguments = ["synth", "--accounts", 40, "--seed", 7, "--marks", files / "log.jsonl", "--risk", files / "risk.toml"]
    document = told(capsys, *arguments, "--out", files / "people.json")
    assert (document["accounts"], document["seed"], document["symbols"]) == (40, 7, ["BTCUSDT", "ETHUSDT"])
    first = (files / "people.json").read_bytes()
    told(capsys, *arguments, "--out", files / "people.json")
    assert (files / "people.json").read_bytes() == first
    rows = told(capsys, "margin", files / "people.json", "--risk", files / "risk.toml")["accounts"]
    assert len({row["account"] for row in rows}) == 40
    assert not any(row["liquidatable"] for row in rows)


def test_synth_names_the_history_that_has_no_mark(files, capsys):
    (files / "none.jsonl").write_text(json.dumps({**mark("1", "NOPE"), "ts": 1}))
    message = refused(
        capsys, "synth", "--accounts", 5, "--marks", files / "none.jsonl", "--risk", files / "risk.toml",
        "--out", files / "people.json",
    )  # fmt: skip
    assert "none.jsonl" in message
    assert not (files / "people.json").exists()


def test_check_config_describes_a_file_and_the_shipped_one(files, capsys):
    document = told(capsys, "check-config", files / "risk.toml")
    assert (document["ok"], document["instruments"], document["assets"]) == (True, 2, 2)
    assert document["policy"]["partial"] == "off"
    shipped = told(capsys, "check-config")
    assert shipped["instruments"] >= 10
    assert told(capsys, "check-config", "--risk", default_risk_path()) == shipped
    assert main(["check-config"]) == 0
    assert "instruments: " in capsys.readouterr().out


def test_check_config_lists_all_that_is_wrong(files, capsys):
    (files / "bad.toml").write_text(RISK.replace("lot = 0.001", "lot = 0").replace('"off"', '"half"'))
    message = refused(capsys, "check-config", files / "bad.toml")
    assert "bad.toml: policy.partial: half" in message
    assert "bad.toml: instruments.BTCUSDT.lot: 0" in message


def test_warmup_says_how_many_kernels_are_ready(capsys):
    document = told(capsys, "warmup")
    assert document["kernels"] > 5
    assert main(["warmup"]) == 0
    assert "kernels ready" in capsys.readouterr().out


def test_version_names_the_engine_and_what_shapes_its_results(capsys):
    document = told(capsys, "version")
    assert document["liq-engine"] == __version__
    assert {"python", "numba", "numpy", "orjson"} <= set(document)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["margin"],
        ["replay"],
        ["replay", "log.jsonl", "--venue", "moon"],
        ["replay", "log.jsonl", "--batch", "many"],
        ["synth", "--accounts", "5"],
        ["margin", "book.json", "--verbose"],
    ],
)
def test_command_that_makes_no_sense_is_exit_code_two(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: liq-engine" in capsys.readouterr().err


@pytest.mark.parametrize("venue", ["none", "book", "impact"])
def test_every_venue_of_the_contract_runs(venue, files, capsys):
    summary = told(
        capsys, "replay", files / "log.jsonl", "--risk", files / "risk.toml", "--book", files / "book.json",
        "--venue", venue, "--quiet",
    )  # fmt: skip
    assert summary["liquidations"] == 2


# -------------------------------------------------------------------------------------------------- in its own process


def run(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "engine", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["margin", "{files}/book.json", "--risk", "{files}/risk.toml"],
        ["replay", "{files}/log.jsonl", "--risk", "{files}/risk.toml", "--book", "{files}/book.json", "--quiet"],
        ["demo", "--accounts", "60", "--out", "{files}/demo"],
        ["synth", "--accounts", "9", "--marks", "{files}/log.jsonl", "--risk", "{files}/risk.toml", "--out",
         "{files}/people.json"],
        ["check-config", "{files}/risk.toml"],
        ["warmup"],
        ["version"],
    ],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_verb_runs_in_a_process_of_its_own(arguments, files):
    done = run(*(argument.format(files=files) for argument in arguments), "--json")
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)


def test_exit_codes_and_streams_of_a_process(files):
    missing = run("margin", files / "nowhere.json", "--risk", files / "risk.toml")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert re.fullmatch(r"liq-engine margin: .*nowhere\.json: cannot be read.*\n", missing.stderr)
    assert run("margin").returncode == 2


def test_reader_that_stops_early_is_no_error(files):
    # More than a pipe holds, so that writing goes on after ``head`` has gone.
    accounts = [{"account": f"a{number:05}", "balances": {"USDT": "1"}} for number in range(3000)]
    (files / "book.json").write_text(json.dumps({"accounts": accounts}))
    command = f"'{sys.executable}' -m engine margin '{files}/book.json' --risk '{files}/risk.toml' | head -n 1"
    shown = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("a00000: ok ")


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["day/a.jsonl"], "a.jsonl"),
        (["day/a.jsonl", "night/b.jsonl"], "a.jsonl and b.jsonl"),
        (["day/a.jsonl", "day/b.jsonl", "day/c.jsonl"], "3 files of day"),
        (["day/a.jsonl", "day/b.jsonl", "night/c.jsonl"], "3 files"),
        (["a.jsonl", "b.jsonl", "c.jsonl"], "3 files"),
    ],
)
def test_heading_of_a_report_is_short_however_many_files_were_replayed(paths: list[str], words: str) -> None:
    assert replayed([Path(text) for text in paths]) == words
