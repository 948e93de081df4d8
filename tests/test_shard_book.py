"""A starting book divided among shards: every account once, the fund to the last digit, and what cannot be divided."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from engine.core import ledger
from engine.core.events import INSURANCE
from engine.core.shard import Shard
from engine.edges.book_dump import dump_book
from engine.edges.config import load_risk
from engine.edges.shard_book import BookSource, config_hash
from engine.errors import InputError, InvariantError
from engine.shell.kafka import partition_of
from engine.units import format_units
from tests import golden
from tests.strategies import amounts

Body = dict[str, Any]
RISK = load_risk(golden.FOLDER / "crash.toml")
BOOK = golden.FOLDER / "crash.book.json"
NAMES = st.text(min_size=1, max_size=12).filter(lambda name: not name.startswith("$"))


def divided(document: Any, shards: int) -> list[Any]:
    """Return the part of each shard."""
    source = BookSource(Path("book.json"), shards=shards, partition_of=partition_of)
    return [source.part(document, number, partition_of, RISK) for number in range(shards)]


def loaded(path: Path | None, shards: int) -> list[Shard]:
    """Return all shards with their parts of a book file."""
    source = BookSource(path, shards=shards, partition_of=partition_of)
    return [source.new_shard(RISK, number) for number in range(shards)]


def write_book(folder: Path, document: Any) -> Path:
    path = folder / "book.json"
    path.write_text(json.dumps(document))
    return path


# --- whose account it is


# Of Kafka's own tests of its partitioner: text -> murmur2, signed.
MURMUR2 = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


@pytest.mark.parametrize("shards", [1, 2, 12, 1000])
@pytest.mark.parametrize("key", MURMUR2)
def test_an_account_is_where_a_java_producer_puts_it(key: str, shards: int) -> None:
    assert partition_of(key, shards) == (MURMUR2[key] & 0x7FFFFFFF) % shards


@given(st.text(max_size=64), st.integers(1, 48))
def test_an_account_is_where_our_client_puts_it(key: str, shards: int) -> None:
    partitions = list(range(shards))
    assert partition_of(key, shards) == DefaultPartitioner()(key.encode(), partitions, partitions)


# --- every account once


@given(st.lists(NAMES, unique=True, max_size=30), st.integers(2, 7))
def test_every_account_is_on_exactly_the_shard_that_gets_its_messages(names: list[str], shards: int) -> None:
    book: Body = {"accounts": [{"account": name, "balances": {"USDT": "1"}} for name in names]}
    for number, part in enumerate(divided(book, shards)):
        # In the file's order, as they stand there.
        assert part["accounts"] == [
            entry for entry in book["accounts"] if partition_of(entry["account"], shards) == number
        ]


def test_prices_and_time_are_the_same_for_all_shards() -> None:
    book = {"accounts": [], "marks": {"BTCUSDT": "100"}, "asset_prices": {"COIN": "2"}, "ts": 17}
    for part in divided(book, 3):
        assert {key: part[key] for key in ("marks", "asset_prices", "ts")} == {
            "marks": {"BTCUSDT": "100"},
            "asset_prices": {"COIN": "2"},
            "ts": 17,
        }


def test_the_file_as_it_was_read_is_not_changed() -> None:
    book = json.loads(BOOK.read_text()) | {"insurance": {"USDT": "1000"}}
    before = json.dumps(book)
    divided(book, 3)
    assert json.dumps(book) == before


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_the_parts_of_a_real_book_add_up_to_it(tmp_path: Path, shards: int) -> None:
    document = json.loads(BOOK.read_text()) | {"insurance": {"USDT": "100.01", "COIN": "7"}}
    (whole,) = loaded(write_book(tmp_path, document), 1)
    parts = loaded(tmp_path / "book.json", shards)
    assert [shard.number for shard in parts] == list(range(shards))
    expected = {
        entry["account"]: entry for entry in dump_book(whole)["accounts"] if not entry["account"].startswith("$")
    }
    found: Body = {}
    transfers: Counter[str] = Counter()
    for shard in parts:
        ledger.check_conservation(shard.book)
        entries = {entry["account"]: entry for entry in dump_book(shard)["accounts"]}
        assert not found.keys() & {name for name in entries if not name.startswith("$")}
        found |= {name: entry for name, entry in entries.items() if not name.startswith("$")}
        for name, total in zip((asset.name for asset in shard.book.assets), ledger.totals(shard.book), strict=True):
            transfers[name] += total.transfers
    assert found == expected
    totals = zip((asset.name for asset in whole.book.assets), ledger.totals(whole.book), strict=True)
    assert transfers == {name: total.transfers for name, total in totals}


def test_a_shard_without_accounts_has_its_share_of_the_fund_all_the_same(tmp_path: Path) -> None:
    """Sixteen shards and one account: fifteen have nobody yet, and may get anybody."""
    path = write_book(
        tmp_path, {"accounts": [{"account": "only", "balances": {"USDT": "1"}}], "insurance": {"USDT": "16"}}
    )
    for shard in loaded(path, 16):
        fund = shard.book.row_index[INSURANCE, ""]
        assert format_units(shard.book.wallet(fund, shard.book.asset_index["USDT"])) == "1"


def test_without_a_book_every_shard_begins_empty() -> None:
    for shard in loaded(None, 3):
        assert shard.book.accounts == [INSURANCE]
        assert shard.clock == 0


# --- the fund


def shares(amount: Any, shards: int, asset: str) -> list[Any]:
    return [part["insurance"][asset] for part in divided({"insurance": {asset: amount}}, shards)]


# Amount, asset, shards -> the shares by shard. USDT is kept to 8 decimals here, as everything that does not say else.
STEP = "0.00000001"
SHARES = {
    "it divides": ("1000000", 4, ["250000", "250000", "250000", "250000"]),
    "a step is left over: shard 0 has it": ("1", 3, ["0.33333334", "0.33333333", "0.33333333"]),
    "three steps are left over": ("0.00000011", 4, ["0.00000005", "0.00000002", "0.00000002", "0.00000002"]),
    "less than there are shards": (STEP, 3, [STEP, "0", "0"]),
    "nothing": ("0", 3, ["0", "0", "0"]),
    "an integer": (7, 2, ["3.5", "3.5"]),
    # Minus one step, halved and rounded down, is minus one step; shard 0 owes the rest, which is nothing.
    "a fund that owes": (f"-{STEP}", 2, ["0", f"-{STEP}"]),
}


@pytest.mark.parametrize(("amount", "shards", "expected"), SHARES.values(), ids=SHARES)
def test_the_fund_is_shared_out(amount: Any, shards: int, expected: list[str]) -> None:
    assert shares(amount, shards, "USDT") == expected


def test_an_asset_of_six_decimals_is_divided_to_the_sixth() -> None:
    """A share with more digits than its asset has would be refused by the loader."""
    risk = load_risk(golden.FOLDER / "desk.toml")
    source = BookSource(Path("book.json"), shards=3, partition_of=partition_of)
    parts = [source.part({"insurance": {"USDT": "1"}}, number, partition_of, risk) for number in range(3)]
    assert [part["insurance"]["USDT"] for part in parts] == ["0.333334", "0.333333", "0.333333"]


@given(amounts(-(10**9), 10**9, 8), st.integers(2, 1000))
def test_the_shares_add_up_to_the_fund_and_only_shard_0_has_another_one(amount: str, shards: int) -> None:
    found = [Decimal(text) for text in shares(amount, shards, "USDT")]
    assert sum(found) == Decimal(amount)
    assert len(set(found[1:])) == 1
    # Shard 0 has the rest of the division, in steps.
    assert 0 <= (found[0] - found[1]) * 10**8 < shards


@pytest.mark.parametrize("amount", ["1", "1.0", 1], ids=repr)
def test_a_fund_of_one_coin_is_a_quarter_coin_for_each_of_four(tmp_path: Path, amount: Any) -> None:
    """In equal parts: coins divide to their eighth decimal, however briefly the fund's figure is written."""
    path = write_book(tmp_path, {"insurance": {"COIN": amount}})
    for shard in loaded(path, 4):
        fund = shard.book.row_index[INSURANCE, ""]
        assert format_units(shard.book.wallet(fund, shard.book.asset_index["COIN"])) == "0.25"


@pytest.mark.parametrize("amount", [None, True, "1e3", "", "abc", ["1"], {"USDT": "1"}])
def test_what_is_no_amount_is_left_to_the_loader_which_refuses_it_at_every_shard(tmp_path: Path, amount: Any) -> None:
    path = write_book(tmp_path, {"insurance": {"USDT": amount}})
    for number in range(2):
        with pytest.raises(InputError, match=r"book\.json.*insurance\.USDT"):
            BookSource(path, shards=2, partition_of=partition_of).new_shard(RISK, number)


# --- what cannot be divided


def written_by_the_engine(tmp_path: Path) -> Path:
    """Return a book as ``final-book.json`` has it."""
    (whole,) = loaded(BOOK, 1)
    return write_book(tmp_path, dump_book(whole))


def test_a_book_that_the_engine_wrote_is_one_shards_whole_state(tmp_path: Path) -> None:
    path = written_by_the_engine(tmp_path)
    with pytest.raises(InputError) as refused:
        loaded(path, 2)
    assert str(refused.value) == (
        f"{path}: a book with $bad_debt, $clearing, $fees, $insurance is one shard's whole state and cannot be divided"
        " among 2; list accounts, positions and insurance only"
    )


def test_one_shard_takes_a_book_that_the_engine_wrote(tmp_path: Path) -> None:
    (shard,) = loaded(written_by_the_engine(tmp_path), 1)
    (whole,) = loaded(BOOK, 1)
    assert dump_book(shard) == dump_book(whole)


@pytest.mark.parametrize(
    "extra", [{"accounts": [{"account": "$insurance", "balances": {"USDT": "5"}}]}, {"transfers": {}}], ids=str
)
def test_any_part_of_a_whole_state_is_refused(extra: Body) -> None:
    with pytest.raises(InputError, match="cannot be divided among 2"):
        divided({"accounts": [], **extra}, 2)


def test_an_account_that_stands_twice_is_refused_by_its_shard_and_by_no_other(tmp_path: Path) -> None:
    twice = [{"account": "a", "balances": {"USDT": "1"}}] * 2
    path = write_book(tmp_path, {"accounts": twice})
    own = partition_of("a", 2)
    source = BookSource(path, shards=2, partition_of=partition_of)
    with pytest.raises(InputError, match="stands twice"):
        source.new_shard(RISK, own)
    assert source.new_shard(RISK, 1 - own).book.accounts == [INSURANCE]


BROKEN = {
    "no object": [],
    "accounts that are no list": {"accounts": {"a": {}}},
    "an account that is no object": {"accounts": ["a"]},
    "an account without a name": {"accounts": [{"balances": {}}]},
    "an account whose name is a number": {"accounts": [{"account": 7}]},
    "a fund that is no object": {"insurance": []},
    "a key that means nothing": {"acounts": []},
}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("document", BROKEN.values(), ids=BROKEN)
def test_a_broken_book_is_refused_by_every_shard_as_by_a_single_one(tmp_path: Path, document: Any, number: int) -> None:
    """It is nobody's mistake to find later: the file is wrong for all."""
    path = write_book(tmp_path, document)
    with pytest.raises(InputError) as alone:
        loaded(path, 1)
    with pytest.raises(InputError) as shared:
        BookSource(path, shards=2, partition_of=partition_of).new_shard(RISK, number)
    assert str(shared.value) == str(alone.value)


def test_a_book_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json"):
        loaded(tmp_path / "nowhere.json", 2)


# --- the hash of what a shard begins with


def start_files(
    folder: Path, *, risk: str = "[policy]\n", book: str | None = "{}", tiers: str | None = None
) -> tuple[Path, Path | None]:
    """Write the files of a start; return risk file and book, for ``config_hash``."""
    folder.mkdir(exist_ok=True)
    (folder / "risk.toml").write_text(risk)
    if tiers is not None:
        (folder / "tiers.json").write_text(tiers)
    if book is None:
        return folder / "risk.toml", None
    (folder / "book.json").write_text(book)
    return folder / "risk.toml", folder / "book.json"


WITH_TIERS = 'tiers_file = "tiers.json"\n'
STARTS: dict[str, tuple[Body, int]] = {
    "as it is": ({}, 2),
    "another parameter": ({"risk": '[policy]\ntarget_buffer = "0.1"\n'}, 2),
    "another comment": ({"risk": "# reviewed\n[policy]\n"}, 2),
    "another book": ({"book": '{"accounts": []}'}, 2),
    "no book": ({"book": None}, 2),
    "an empty book": ({"book": ""}, 2),
    "a book of one hyphen": ({"book": "-"}, 2),
    "another number of shards": ({}, 3),
    "a tiers file": ({"risk": WITH_TIERS, "tiers": "{}"}, 2),
    "another tiers file": ({"risk": WITH_TIERS, "tiers": '{"symbols": {}}'}, 2),
    # The same bytes, cut in another place.
    "a byte moved from the tiers to the book": ({"risk": WITH_TIERS, "tiers": '{"symbols": {}', "book": "}{}"}, 2),
}


def test_every_start_has_a_hash_of_its_own(tmp_path: Path) -> None:
    found = {}
    for index, (name, (files, shards)) in enumerate(STARTS.items()):
        found[name] = config_hash(*start_files(tmp_path / str(index), **files), shards)
    assert len(set(found.values())) == len(STARTS), found


def test_the_same_start_has_the_same_hash_wherever_its_files_lie(tmp_path: Path) -> None:
    one = config_hash(*start_files(tmp_path / "here", risk=WITH_TIERS, tiers="{}"), 2)
    other = config_hash(*start_files(tmp_path / "there", risk=WITH_TIERS, tiers="{}"), 2)
    assert one == other
    assert len(one) == 64


def test_a_tiers_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    arguments = start_files(tmp_path, risk=WITH_TIERS)
    with pytest.raises(InputError, match=r"tiers\.json: cannot be read"):
        config_hash(*arguments, 2)


def test_several_shards_without_a_partitioner_are_a_mistake_of_ours() -> None:
    with pytest.raises(InvariantError, match="2 shards: partition_of is needed"):
        BookSource(BOOK, shards=2)
