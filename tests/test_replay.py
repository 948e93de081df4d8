"""The same log gives the same bytes: stored results, any batch size, any line end, and garbage in between."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import islice
from pathlib import Path

import pytest

from engine.core import ledger
from engine.edges.config import load_risk
from engine.errors import InputError, InvariantError
from engine.tools.replay import ReplayOptions, run_replay
from tests.golden import FOLDER, LOGS, replay_golden, stored_summary
from tests.malformed import CLOCK_NS, KINDS, malformed_lines
from tests.scenarios import MS, TOPICS, deposit, mark, pick

OUTPUTS = [f"{topic}.jsonl" for topic in TOPICS]
FILES = [*OUTPUTS, "final-book.json"]


def records_of(out: Path, name: str):
    return [json.loads(line) for line in (out / name).read_bytes().splitlines()]


def all_records(out: Path):
    """All output records in order of ``seq``, as (body, line)."""
    lines = [line for name in OUTPUTS for line in (out / name).read_bytes().splitlines(keepends=True)]
    return sorted(((json.loads(line), line) for line in lines), key=lambda pair: pair[0]["seq"])


def bytes_of(out: Path):
    return {name: (out / name).read_bytes() for name in FILES}


# ------------------------------------------------------------------------------------------------------------- golden


@pytest.mark.parametrize("name", LOGS)
def test_golden_log_gives_its_stored_summary_and_hashes(name):
    assert replay_golden(name) == stored_summary(name), "if this was meant: python -m tests.golden"


def test_golden_logs_hold_something_of_everything():
    totals: Counter[str] = Counter()
    for name in LOGS:
        summary = stored_summary(name)
        totals.update({key: summary[key] for key in ("liquidations", "orders", "adl", "duplicates", "ignored")})
        totals.update({f"bad debt in {asset}": 1 for asset in summary["bad_debt"]})
        totals.update({"uncovered": len(summary["uncovered"]), "rejected": len(summary["rejected"])})
        assert all(asset["difference"] == "0" for asset in summary["conservation"].values())
    assert {key for key, count in totals.items() if count} >= {
        "liquidations", "orders", "adl", "duplicates", "ignored", "bad debt in USD", "bad debt in USDT", "uncovered",
    }  # fmt: skip
    assert totals["rejected"] > 10


@pytest.mark.parametrize("name", LOGS)
def test_batches_of_any_size_give_the_same_bytes(name, tmp_path):
    summaries = [replay_golden(name, tmp_path / str(batch), batch=batch) for batch in (4096, 1, 7)]
    assert summaries[0] == summaries[1] == summaries[2]
    assert bytes_of(tmp_path / "4096") == bytes_of(tmp_path / "1") == bytes_of(tmp_path / "7")


@pytest.mark.parametrize("name", LOGS)
def test_second_run_gives_the_same_bytes(name, tmp_path):
    first, second = replay_golden(name, tmp_path / "1"), replay_golden(name, tmp_path / "2")
    assert first == second
    assert bytes_of(tmp_path / "1") == bytes_of(tmp_path / "2")


@pytest.mark.parametrize("name", LOGS)
def test_summary_says_what_the_files_say(name, tmp_path):
    summary = replay_golden(name, tmp_path)
    records = all_records(tmp_path)
    assert [body["seq"] for body, _ in records] == list(range(1, len(records) + 1))
    assert hashlib.sha256(b"".join(line for _, line in records)).hexdigest() == summary["outputs_hash"]
    counts = Counter(body["type"] for body, _ in records)
    assert summary["liquidations"] == counts["liquidation_started"]
    assert summary["orders"] == counts["liquidation_order"] + counts["collateral_sale"]
    assert summary["adl"] == counts["adl"]
    assert summary["rejected"] == dict(
        sorted(Counter(body["reason"] for body, _ in records if body["type"] == "reject").items())
    )
    for key, field in (("bad_debt", "deficit"), ("uncovered", "uncovered")):
        sums: defaultdict[str, Fraction] = defaultdict(Fraction)
        for body, _ in records:
            if body["type"] == "bad_debt":
                sums[body["asset"]] += Fraction(body[field])
        assert {asset: Fraction(text) for asset, text in summary[key].items()} == {
            asset: total for asset, total in sums.items() if total
        }
    written = json.loads((tmp_path / "summary.json").read_bytes())
    assert set(written) == {*summary, "latency"}
    assert {key: written[key] for key in summary} == summary
    assert (
        sum(summary["rejected"].values()) + sum(summary[key] for key in ("accepted", "duplicates", "ignored"))
        == (summary["messages"])
    )


@pytest.mark.parametrize("name", LOGS)
def test_insurance_of_the_summary_is_the_last_balance_reported(name, tmp_path):
    summary = replay_golden(name, tmp_path)
    balances = {body["asset"]: body["balance"] for body, _ in all_records(tmp_path) if body["type"] == "insurance_fund"}
    assert summary["insurance"] == {asset: text for asset, text in balances.items() if text != "0"}


@pytest.mark.parametrize("name", LOGS)
def test_final_book_of_a_run_starts_another(name, tmp_path):
    summary = replay_golden(name, tmp_path / "first")
    (tmp_path / "one.jsonl").write_text(json.dumps({**deposit("late", "1"), "transfer_id": "late", "ts": CLOCK_NS}))
    risk = load_risk(FOLDER / f"{name}.toml")
    book = tmp_path / "first" / "final-book.json"
    again = run_replay(ReplayOptions([tmp_path / "one.jsonl"], risk, book=book, show_progress=False))
    assert again["insurance"] == summary["insurance"]
    before = {asset: sides["transfers"] for asset, sides in summary["conservation"].items()}
    after = {asset: sides["transfers"] for asset, sides in again["conservation"].items()}
    assert Fraction(after.pop("USDT")) == Fraction(before.pop("USDT", "0")) + 1
    assert after == before


# ---------------------------------------------------------------------------------------------------------- line ends


@pytest.mark.parametrize("name", LOGS)
def test_crlf_gives_the_same_bytes(name, tmp_path):
    lines = (FOLDER / f"{name}.jsonl").read_bytes().splitlines()
    (tmp_path / f"{name}.jsonl").write_bytes(b"\r\n".join(lines) + b"\r\n")
    summary = replay_golden(name, tmp_path / "out", events=tmp_path / f"{name}.jsonl")
    assert summary == stored_summary(name)


@pytest.mark.parametrize("name", LOGS)
def test_gzip_without_a_last_line_end_gives_the_same_bytes(name, tmp_path):
    (tmp_path / f"{name}.jsonl").write_bytes(gzip.compress((FOLDER / f"{name}.jsonl").read_bytes().rstrip(b"\n")))
    assert replay_golden(name, events=tmp_path / f"{name}.jsonl") == stored_summary(name)


@pytest.mark.parametrize("name", LOGS)
def test_blank_lines_are_nothing_but_lines(name, tmp_path):
    lines = (FOLDER / f"{name}.jsonl").read_bytes().splitlines()
    (tmp_path / f"{name}.jsonl").write_bytes(b"\n\r\n  \n".join(lines) + b"\n\n")
    spread = replay_golden(name, tmp_path / "spread", events=tmp_path / f"{name}.jsonl")
    plain = replay_golden(name, tmp_path / "plain")
    # Only the line numbers in decisions and dead letters are others: three lines where one was.
    assert spread.pop("outputs_hash") != plain.pop("outputs_hash")
    assert spread == plain
    assert (tmp_path / "spread" / "final-book.json").read_bytes() == (
        tmp_path / "plain" / "final-book.json"
    ).read_bytes()
    for (body, _), (other, _) in zip(all_records(tmp_path / "spread"), all_records(tmp_path / "plain"), strict=True):
        assert without_lines(body) == without_lines(other)
        if body["type"] == "reject":
            assert body["line"] == 3 * other["line"] - 2


def without_lines(value):
    if isinstance(value, dict):
        return {key: without_lines(child) for key, child in value.items() if key != "line"}
    return [without_lines(child) for child in value] if isinstance(value, list) else value


# ------------------------------------------------------------------------------------------------------------ garbage

MALFORMED_COUNT = 100_000
GOOD_EVERY = 10


def good_lines(count: int):
    """Deposits to a thousand accounts, and a mark now and then."""
    for number in range(count):
        ts = CLOCK_NS + number * MS
        body = mark(f"{60_000 + number % 100}") if number % 5 == 0 else deposit(f"g{number % 1000}", f"{number}.25")
        names = {} if number % 5 == 0 else {"transfer_id": f"good-{number}"}
        yield json.dumps({**body, **names, "ts": ts}).encode()


@pytest.mark.slow
def test_a_hundred_thousand_malformed_lines_are_all_kept_and_the_good_ones_between_all_applied(tmp_path):
    risk_file = tmp_path / "risk.toml"
    text = (FOLDER / "desk.toml").read_text()
    risk_file.write_text(text.replace("max_future_s = 86_400", "max_future_s = 86_400\nmargin_call_ratio = 1"))
    risk = load_risk(risk_file)
    expected, number = [], 0
    good = good_lines(1 + MALFORMED_COUNT // GOOD_EVERY)
    kinds = set()
    with (tmp_path / "mixed.jsonl").open("wb") as mixed, (tmp_path / "good.jsonl").open("wb") as alone:
        for index, (kind, line, reason) in enumerate(islice(malformed_lines(), MALFORMED_COUNT)):
            if index % GOOD_EVERY == 0:
                good_line = next(good)
                mixed.write(good_line + b"\n")
                alone.write(good_line + b"\n")
                number += 1
            mixed.write(line + b"\n")
            number += 1
            expected.append((reason, "mixed.jsonl", number))
            kinds.add(kind)
    assert len(kinds) == len(KINDS) >= 20
    summaries = {}
    for name in ("mixed", "good"):
        options = ReplayOptions([tmp_path / f"{name}.jsonl"], risk, out=tmp_path / name, show_progress=False)
        summaries[name] = run_replay(options)
    with (tmp_path / "mixed" / "dead-letters.jsonl").open("rb") as letters:
        found = [pick(json.loads(line), "reason file line") for line in letters]
    assert found == expected
    assert summaries["mixed"]["accepted"] == summaries["good"]["accepted"] == MALFORMED_COUNT // GOOD_EVERY
    assert summaries["mixed"]["rejected"] == dict(sorted(Counter(reason for reason, _, _ in expected).items()))
    final_books = [(tmp_path / name / "final-book.json").read_bytes() for name in ("mixed", "good")]
    assert final_books[0] == final_books[1]


# ------------------------------------------------------------------------------------------------------------ running


def test_folder_holds_all_files_of_the_contract(tmp_path):
    replay_golden("crash", tmp_path / "deep" / "out")
    names = {path.name for path in (tmp_path / "deep" / "out").iterdir()}
    assert names == {*FILES, "summary.json", "run.json", "report.html"}


def test_log_split_by_kind_is_merged_by_time(tmp_path):
    """Marks in one file and the rest in another are the same log: no two messages of it have the same ts."""
    lines = [json.dumps({**mark(f"{100 - n}.5"), "ts": CLOCK_NS + 10 * n}) for n in range(20)]
    rest = [
        json.dumps({**deposit("a", f"{n}"), "transfer_id": f"{n}", "ts": CLOCK_NS + 10 * n + 5}) for n in range(1, 20)
    ]
    together = [line for pair in zip(lines, ["", *rest], strict=True) for line in pair[::-1] if line]
    (tmp_path / "all.jsonl").write_text("\n".join(sorted(together, key=lambda line: json.loads(line)["ts"])))
    (tmp_path / "marks.jsonl").write_text("\n".join(lines))
    (tmp_path / "rest.jsonl").write_text("\n".join(rest))
    risk = load_risk(FOLDER / "desk.toml")
    hashes = {
        run_replay(ReplayOptions([tmp_path / name for name in names], risk, show_progress=False))["state_hash"]
        for names in (["all.jsonl"], ["marks.jsonl", "rest.jsonl"], ["rest.jsonl", "marks.jsonl"])
    }
    assert len(hashes) == 1


def test_money_that_is_lost_stops_the_run_as_our_fault(monkeypatch):
    """The books are recounted at the end; what breaks there is an invariant, not an input."""

    def lose_a_unit(book):
        book.transfers[0] += 1
        check(book)

    check = ledger.check_conservation
    monkeypatch.setattr(ledger, "check_conservation", lose_a_unit)
    with pytest.raises(InvariantError, match=r"USDT: wallets .* != transfers"):
        replay_golden("crash")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"events": []}, "no event log"),
        ({"events": [Path("nowhere.jsonl")]}, r"nowhere\.jsonl: no such file"),
        ({"venue": "moon"}, "venue 'moon'"),
        ({"book": Path("nowhere.json")}, r"nowhere\.json: cannot be read"),
    ],
)
def test_what_cannot_be_replayed_is_named(change, message):
    arguments = {"events": [FOLDER / "crash.jsonl"], "risk": load_risk(FOLDER / "crash.toml"), "show_progress": False}
    with pytest.raises(InputError, match=message):
        run_replay(ReplayOptions(**{**arguments, **change}))
