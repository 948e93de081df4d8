"""Recorded markets through the engine: real accounts, two crashes with made-up accounts, and the vendors' own files.

Nothing here is chosen to suit the engine. What the accounts of 2023 held, and at what notional the exchange liquidated
them, stands in the exchange's files; the crashes are judged by the oracle and by sums over the files they leave.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from math import ceil
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from engine.__main__ import main
from engine.core.events import Ignored, Reject
from engine.core.machine import Machine
from engine.core.shard import Shard
from engine.edges.config import load_risk
from engine.edges.digest import state_hash
from engine.tools.replay import ReplayOptions, run_logs
from engine.tools.synth import write_book
from engine.units import NS_PER_S, format_scaled
from tests.real_data import (
    REAL,
    SHIPPED_RISK,
    Window,
    Witness,
    WitnessShard,
    attended_rows,
    csv_rows,
    decided_book,
    load_both,
    messages_of,
    needs,
    oracle_row,
    risk_without,
    spread,
)
from tests.reference_numbers import half_even, show

OUTPUT_FILES = ("liquidation-orders.jsonl", "bad-debt.jsonl", "margin-events.jsonl", "dead-letters.jsonl")


def replay(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    """Run ``liq-engine replay … --json``; return its exit code and the summary it printed."""
    code = main(["replay", *map(str, arguments), "--quiet", "--json"])
    printed = capsys.readouterr().out
    return code, json.loads(printed) if printed else None


def counted(summary: dict[str, Any]) -> dict[str, Any]:
    """Return what came in and what became of it."""
    return {key: summary[key] for key in ("messages", "accepted", "rejected", "duplicates", "ignored", "fills")}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_book_adds_up(book: dict[str, Any]) -> None:
    """Wallets of all accounts, the engine's own included, plus the cost of all positions are the transfers, exactly."""
    settles = load_risk(SHIPPED_RISK).instruments
    money: dict[str, Fraction] = defaultdict(Fraction)
    open_interest: dict[str, Fraction] = defaultdict(Fraction)
    for account in book["accounts"]:
        for asset, balance in account["balances"].items():
            money[asset] += Fraction(balance)
        for symbol, balance in account.get("buckets", {}).items():
            money[settles[symbol].settle] += Fraction(balance)
        for position in account["positions"]:
            money[settles[position["symbol"]].settle] += Fraction(position["cost"]) + Fraction(
                position.get("margin", 0)
            )
            open_interest[position["symbol"]] += Fraction(position["qty"])
    transfers = {asset: Fraction(amount) for asset, amount in book["transfers"].items()}
    assert {asset: total for asset, total in money.items() if total} == transfers
    assert set(open_interest.values()) == {0}


# ------------------------------------------------------------------------------------------- 193 accounts of early 2023

ACCOUNTS_2023 = REAL / "hyperliquid_accounts_2023"
FILLS = ACCOUNTS_2023 / "non_mm_trades.csv.gz"
TRANSFERS = ACCOUNTS_2023 / "non_mm_ledger_updates.csv"
LIQUIDATIONS = ACCOUNTS_2023 / "liquidations.csv"
needs_accounts = needs("hyperliquid_accounts_2023")


@pytest.fixture(scope="module")
def accounts_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder a replay of the accounts' fills and transfers leaves, as a user would call it."""
    out = tmp_path_factory.mktemp("accounts")
    assert main(["replay", str(FILLS), str(TRANSFERS), "--out", str(out), "--quiet"]) == 0
    return out


@pytest.fixture(scope="module")
def accounts_book(accounts_run: Path) -> dict[str, Any]:
    return json.loads((accounts_run / "final-book.json").read_text(encoding="utf-8"))


def signed_size(row: dict[str, str]) -> Fraction:
    """Return what a fill of the CSV adds to the position: a bid buys, an ask sells."""
    return {"Bid": 1, "Ask": -1}[row["side"]] * Fraction(row["sz"])


@needs_accounts
def test_every_fill_and_transfer_of_the_accounts_is_accepted(accounts_run):
    summary = json.loads((accounts_run / "summary.json").read_text(encoding="utf-8"))
    # 31,450 fills and 433 deposits and withdrawals; a file of trades brings no marks, so nobody is over-levered.
    assert counted(summary) == {
        "messages": 31_883,
        "accepted": 31_883,
        "rejected": {},
        "duplicates": 0,
        "ignored": 0,
        "fills": 31_450,
    }
    assert (accounts_run / "dead-letters.jsonl").read_bytes() == b""
    assert (summary["orders"], summary["notional_liquidated"]) == (0, "0")
    deposited = show(sum((Fraction(row["delta_usd"]) for row in csv_rows(TRANSFERS)), Fraction(0)))
    assert summary["conservation"] == {"USDT": {"wallets": deposited, "transfers": deposited, "difference": "0"}}


@needs_accounts
def test_final_positions_are_the_sums_of_the_fills(accounts_book):
    expected: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for row in csv_rows(FILLS):
        expected[row["user"], f"{row['coin']}USDT"] += signed_size(row)
        # The engine's own side of each trade: what all accounts together are not.
        expected["$clearing", f"{row['coin']}USDT"] -= signed_size(row)
    held = {
        (account["account"], position["symbol"]): Fraction(position["qty"])
        for account in accounts_book["accounts"]
        for position in account["positions"]
    }
    assert len({user for user, _ in expected}) == 194
    assert {key: qty for key, qty in held.items() if qty} == {key: qty for key, qty in expected.items() if qty}


@needs_accounts
def test_every_account_ends_with_what_it_deposited_and_what_its_trades_paid(accounts_run, accounts_book):
    cash: dict[str, Fraction] = defaultdict(Fraction)
    for row in csv_rows(TRANSFERS):
        cash[row["user"]] += Fraction(row["delta_usd"])
    for row in csv_rows(FILLS):
        cash[row["user"]] -= signed_size(row) * Fraction(row["px"])
    # Fees and funding are not in the files, so a few accounts end flat and below zero: written off, and said so.
    for debt in lines_of(accounts_run / "bad-debt.jsonl"):
        assert debt["uncovered"] == debt["deficit"]
        cash[debt["account"]] += Fraction(debt["uncovered"])
    found = {
        account["account"]: sum(map(Fraction, account["balances"].values()))
        + sum(Fraction(position["cost"]) for position in account["positions"])
        for account in accounts_book["accounts"]
        if not account["account"].startswith("$")
    }
    assert found == cash
    assert_book_adds_up(accounts_book)


@dataclass(frozen=True)
class Recorded:
    """One liquidation as the exchange wrote it down."""

    ts: int
    user: str
    notional: Fraction


def recorded_cross_liquidations() -> list[Recorded]:
    return [
        Recorded(ns_of(row["time"]), row["user"], Fraction(row["liquidated_ntl_pos"]))
        for row in csv_rows(LIQUIDATIONS)
        if row["leverage_type"] == "Cross"
    ]


def ns_of(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp()) * NS_PER_S


def fill_prices() -> dict[str, list[tuple[int, Fraction]]]:
    """Return each coin's fill prices of all accounts, by time, from the CSV."""
    prices: dict[str, list[tuple[int, Fraction]]] = defaultdict(list)
    for row in csv_rows(FILLS):
        prices[f"{row['coin']}USDT"].append((ns_of(row["time"]), Fraction(row["px"])))
    return prices


def price_at(prices: list[tuple[int, Fraction]], ts: int) -> Fraction:
    """Return the last price at or before a time."""
    return prices[bisect_right(prices, ts, key=itemgetter(0)) - 1][1]


def positions_of(shard: Shard, account: str) -> Iterator[tuple[str, Fraction]]:
    """Yield symbol and signed size of what an account holds in the engine's book."""
    book = shard.book
    row = book.row_index[account, ""]
    for symbol, leg in book.positions_of(row):
        instrument = book.instruments[symbol]
        size, _ = book.position(row, symbol, leg)
        yield instrument.symbol, Fraction(format_scaled(size, instrument.size_decimals))


@needs_accounts
def test_positions_at_each_recorded_cross_liquidation_have_the_notional_the_exchange_saw(accounts_run):
    risk = load_risk(SHIPPED_RISK)
    shard = Shard(risk)
    machine = Machine(shard)
    messages = list(messages_of([FILLS, TRANSFERS], risk))
    # Only a Reject or an Ignored has no ts, and these files hold neither.
    events = [message.event for message in messages]
    times = [event.ts for event in events if not isinstance(event, Reject | Ignored)]
    assert len(times) == len(messages)
    prices, fed, table = fill_prices(), 0, []
    liquidations = sorted(recorded_cross_liquidations(), key=lambda liquidation: liquidation.ts)
    for liquidation in liquidations:
        # The fills of the liquidation itself carry its second: for the position they come after it.
        until = bisect_left(times, liquidation.ts)
        machine.apply(messages[fed:until])
        fed = until
        found = sum(
            abs(size) * price_at(prices[symbol], liquidation.ts)
            for symbol, size in positions_of(shard, liquidation.user)
        )
        table.append((abs(found / liquidation.notional - 1), liquidation, found))
    assert len(table) == 44
    worst = sorted(table, key=lambda entry: -entry[0])
    shown = "\n".join(
        f"{float(off):9.4%}  book {float(found):14.4f}  file {float(liquidation.notional):14.4f}"
        f"  {liquidation.user}  {liquidation.ts}"
        for off, liquidation, found in worst[:12]
    )
    # The last fill stands in for a mark that is not in the files, often the liquidation's own fill, which the venue
    # makes at up to 1 % from the mark: that is the maintenance margin. The data's notes promise 1.2 %.
    assert worst[0][0] <= Fraction(12, 1000), f"off by\n{shown}"
    machine.apply(messages[fed:])
    # Fed in 45 unequal parts it is the same book as in one go.
    assert state_hash(shard) == json.loads((accounts_run / "summary.json").read_text(encoding="utf-8"))["state_hash"]


# ------------------------------------------------------------------------------------- two crashes, made-up accounts

# 2021-05-19 12:30 to 13:30 UTC: 29 symbols, bitcoin from 38,314 to 30,000, most others down by a third to a half.
MAY_2021 = Window("freqtrade_binance_spot_1m_2021-05-19", 1_621_427_400, 1_621_431_000, accounts=2_000, seed=5)
# 2026-02-05 23:50 to 02-06 00:30 UTC: 10 symbols at the low of a week that took up to half of them; SUI falls 12 %.
FEBRUARY_2026 = Window(
    "freqtrade_binance_usdm_1m_2026-02-05", 1_770_335_400, 1_770_337_800, accounts=400, seed=5, pyarrow=True
)
CRASHES = [
    pytest.param(MAY_2021, id="may_2021", marks=needs(MAY_2021.folder)),
    pytest.param(FEBRUARY_2026, id="february_2026", marks=needs(FEBRUARY_2026.folder, pyarrow=True)),
]
# At least so many liquidations must have been judged by the oracle for a crash to count as one.
JUDGED_MIN = {MAY_2021.folder: 200, FEBRUARY_2026.folder: 25}


@dataclass(frozen=True)
class Crash:
    """A window with its messages, its population, and the folders that three runs of it left."""

    window: Window
    messages: list
    book: dict[str, Any]
    runs: dict[str, Path]

    def summary(self, run: str) -> dict[str, Any]:
        return json.loads((self.runs[run] / "summary.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=CRASHES)
def crash(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Crash:
    """The window through the core and the simulated venue with the shipped risk file, in batches of 1 and of 4096."""
    window, folder = request.param, tmp_path_factory.mktemp("crash")
    risk = load_risk(SHIPPED_RISK)
    messages = window.messages(risk)
    book = window.population(messages, risk)
    write_book(book, folder / "book.json")
    runs = {}
    for name, batch in (("first", 4096), ("again", 4096), ("one_by_one", 1)):
        runs[name] = folder / name
        options = ReplayOptions(
            events=[],
            risk=risk,
            book=folder / "book.json",
            venue="book",
            out=runs[name],
            batch=batch,
            show_progress=False,
        )
        run_logs(options, [], iter(messages))
    return Crash(window, messages, book, runs)


@pytest.mark.slow
def test_crash_takes_every_mark_and_liquidates_many(crash):
    summary = crash.summary("first")
    # Four marks a minute of each symbol: 60 minutes of 29, or 40 of 10.
    assert summary["messages"] == {MAY_2021.folder: 60 * 29 * 4, FEBRUARY_2026.folder: 40 * 10 * 4}[crash.window.folder]
    assert (summary["accepted"], summary["rejected"]) == (summary["messages"], {})
    assert (summary["duplicates"], summary["ignored"]) == (0, 0)
    assert summary["liquidations"] >= JUDGED_MIN[crash.window.folder]
    started = [body for body in lines_of(crash.runs["first"] / "margin-events.jsonl") if is_start(body)]
    assert len(started) == summary["liquidations"]
    # 5.9: what the parts of all bad debts add up to is what the summary says.
    debts = lines_of(crash.runs["first"] / "bad-debt.jsonl")
    total: defaultdict[str, Fraction] = defaultdict(Fraction)
    for debt in debts:
        parts = ("paid_by_insurance", "paid_by_adl", "paid_by_socialisation", "uncovered")
        assert sum(Fraction(debt[part]) for part in parts) == Fraction(debt["deficit"])
        total[debt["asset"]] += Fraction(debt["deficit"])
    assert {asset: show(Fraction(amount)) for asset, amount in total.items()} == summary["bad_debt"]


def is_start(body: dict[str, Any]) -> bool:
    return body["type"] == "liquidation_started"


@pytest.mark.slow
@pytest.mark.parametrize("other", ["again", "one_by_one"])
def test_crash_gives_the_same_bytes_again_and_in_batches_of_one(crash, other):
    for name in (*OUTPUT_FILES, "final-book.json"):
        assert (crash.runs["first"] / name).read_bytes() == (crash.runs[other] / name).read_bytes(), name
    first, second = crash.summary("first"), crash.summary(other)
    assert first.pop("latency").keys() == second.pop("latency").keys()
    assert first == second


@pytest.mark.slow
def test_crash_conserves_money_and_balances_open_interest(crash):
    final = json.loads((crash.runs["first"] / "final-book.json").read_text(encoding="utf-8"))
    assert_book_adds_up(final)
    put_in: dict[str, Fraction] = defaultdict(Fraction)
    for asset, amount in crash.book["insurance"].items():
        put_in[asset] += Fraction(amount)
    for account in crash.book["accounts"]:
        for asset, amount in account["balances"].items():
            put_in[asset] += Fraction(amount)
        for position in account["positions"]:
            # All of the window's contracts settle in USDT; an isolated position brings a margin of its own.
            put_in["USDT"] += Fraction(position.get("margin", 0))
    # Nothing is deposited during a crash: what the book brought in is all there ever was.
    assert {asset: Fraction(amount) for asset, amount in final["transfers"].items()} == put_in
    assert all(row["difference"] == "0" for row in crash.summary("first")["conservation"].values())


@pytest.fixture(scope="module", params=["filled", "unanswered"])
def witness(crash: Crash, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Witness:
    """The window once more, one message at a time, with a venue or with nobody who answers an order.

    Without the price band, so that the last mark of the log is the mark in force. Without a venue orders time out,
    and a quarter of the accounts is crash enough.
    """
    risk, oracle_risk = load_both(risk_without(tmp_path_factory.mktemp("witness"), "price_band"))
    is_filled = request.param == "filled"
    book = crash.book
    if not is_filled:
        book = Window(**{**vars(crash.window), "accounts": crash.window.accounts // 4}).population(crash.messages, risk)
    witness = Witness(WitnessShard(risk, book, venue=is_filled), oracle_risk)
    witness.run(crash.messages, looks=4 if is_filled else 8)
    return witness


@pytest.mark.slow
def test_every_liquidated_account_was_liquidatable_by_the_oracle(crash, witness):
    judged = spread(witness.shard.started, 220)
    if witness.shard.venue is not None:
        assert len(judged) >= JUDGED_MIN[crash.window.folder]
    for start in judged:
        row = oracle_row(start.book, witness.oracle_risk, start.body.get("bucket", ""))
        figures = ("equity", "maintenance_margin", "margin_ratio")
        assert [start.body[key] for key in figures] == [row[key] for key in figures], start.body
        if row["positions"]:
            assert row["liquidatable"], start.body
        else:
            # Nothing to close and yet an episode: it owes more than all it has.
            assert Fraction(row["equity"]) < 0, start.body


@pytest.mark.slow
def test_a_third_party_finds_each_decision_right_from_its_record_alone(witness):
    orders = [body for body in witness.outputs if body["type"] == "liquidation_order"]
    assert orders
    for order in spread(orders, 220):
        row = oracle_row(decided_book(order), witness.oracle_risk, "")
        decision = order["decision"]
        assert (row["equity"], row["maintenance_margin"]) == (decision["equity"], decision["maintenance_margin"])
        assert Fraction(row["equity"]) <= Fraction(decision["target"]["equity"]), order
        (held,) = [
            position
            for position in row["positions"]
            if (position["symbol"], position["leg"]) == (order["symbol"], order.get("leg", "net"))
        ]
        assert held["bankruptcy_price"] == order["bankruptcy_price"], order
        # Reduce-only: against the position, and not more than it.
        assert (order["side"] == "sell") == (Fraction(held["qty"]) > 0)
        assert 0 < Fraction(order["qty"]) <= abs(Fraction(held["qty"]))


@pytest.mark.slow
def test_no_account_the_oracle_finds_liquidatable_is_forgotten(crash, witness):
    # Looks at all accounts and buckets, the last one at the end of the window. Where nobody answers orders, some are
    # still liquidatable then, each with its open episode: the look does find what there is to find.
    assert witness.examined >= 4 * len({account for account, _ in witness.shard.book.row_index} - {"$insurance"})
    if witness.shard.venue is None:
        assert witness.under > 0
    assert witness.forgotten == []


@pytest.mark.slow
def test_the_outputs_alone_tell_who_is_being_liquidated_or_held_at_the_end(witness):
    book, shard = witness.shard.book, witness.shard
    known = {(book.accounts[row], book.buckets[row]) for row in (*shard.episodes, *shard.holds)}
    assert attended_rows(witness.outputs) == known


# --------------------------------------------------------------------------------------------------- vendors' own files

VISION, TARDIS = "binance_vision", "tardis"
FUNDING_2025 = "freqtrade_binance_usdm_1h_mark_2025-10-10"
VENDOR_FILES = [
    # (files, messages, of them accepted, refused by reason, ignored)
    ([f"{VISION}/futures-APEUSDT-aggTrades-2024-10-18.zip"], 45_342, 45_342, {}, 0),
    # 24 candles of one hour, four marks each; the spot file has no header.
    ([f"{VISION}/futures-um-klines-BTCUSDT-1h-2024-10-28.zip"], 96, 96, {}, 0),
    ([f"{VISION}/spot-klines-BTCUSDT-1h-2024-10-28.zip"], 96, 96, {}, 0),
    # Liquidation prints are read and ignored: the engine decides liquidations, it does not copy them.
    ([f"{VISION}/BTCUSD_PERP-liquidationSnapshot-2024-10-01.head.csv"], 14, 0, {}, 14),
    # The whole folder: 45,342 trades, twice 96 marks of the same hours, 14 prints.
    ([VISION], 45_548, 45_534, {}, 14),
    ([f"{TARDIS}/bitmex_trades_XBTUSD.csv"], 10, 10, {}, 0),
    # Two tickers and the funding that was due between them.
    ([f"{TARDIS}/derivative_ticker_FORMAT_ONLY.csv"], 3, 3, {}, 0),
    # Messages of an API, not of this engine: JSON lines of no known type, refused one by one, and the run goes on.
    ([f"{TARDIS}/normalized_derivative_ticker_samples.jsonl"], 133, 0, {"unknown_type": 133}, 0),
]
FEATHER_FILES = [
    # 29 symbols, 480 hours of marks, four each; funding every 8 hours (60 times) or every 4 (120).
    ([FUNDING_2025], 57_900, 57_900, {}, 0),
    # Contracts in USDC, which the shipped risk file does not have: a guess at another contract would be worse.
    (["freqtrade_hyperliquid_funding_1h_2023-2025"], 56_334, 0, {"unknown_symbol": 56_334}, 0),
]


def assert_counts(capsys, out, files, messages, accepted, rejected, ignored):
    code, summary = replay(capsys, *(REAL / name for name in files), "--out", out)
    assert code == 0
    expected = {"messages": messages, "accepted": accepted, "rejected": rejected, "ignored": ignored}
    assert counted(summary) == {**expected, "duplicates": 0, "fills": 0}
    # Each refused row is kept with its place.
    dead = lines_of(out / "dead-letters.jsonl")
    assert Counter(body["reason"] for body in dead) == rejected
    assert all(body["file"] and body["line"] >= 1 for body in dead)
    assert json.loads((out / "summary.json").read_text(encoding="utf-8")) == summary
    assert "<title>" in (out / "report.html").read_text(encoding="utf-8")


@needs(VISION)
@needs(TARDIS)
@pytest.mark.parametrize(("files", "messages", "accepted", "rejected", "ignored"), VENDOR_FILES)
def test_vendor_file_replays_to_the_end(capsys, tmp_path, files, messages, accepted, rejected, ignored):
    assert_counts(capsys, tmp_path, files, messages, accepted, rejected, ignored)


@pytest.mark.slow
@needs(FUNDING_2025, pyarrow=True)
@needs("freqtrade_hyperliquid_funding_1h_2023-2025")
@pytest.mark.parametrize(("files", "messages", "accepted", "rejected", "ignored"), FEATHER_FILES)
def test_feather_files_replay_to_the_end(capsys, tmp_path, files, messages, accepted, rejected, ignored):
    assert_counts(capsys, tmp_path, files, messages, accepted, rejected, ignored)


@needs(TARDIS)
def test_a_file_of_quotes_is_refused_by_name_with_exit_code_2(capsys):
    code = main(["replay", str(REAL / TARDIS / "huobi-dm-swap_quotes_BTC-USD.csv"), "--quiet"])
    assert code == 2
    assert "huobi-dm-swap_quotes_BTC-USD.csv: not recognised" in capsys.readouterr().err


@needs(FUNDING_2025, pyarrow=True)
def test_a_long_bitcoin_pays_twenty_days_of_recorded_funding_to_the_unit(capsys, tmp_path):
    """A long of 1.5 BTC and a short of 1.5 BTC, each with a million, through the funding of October 2025."""
    from pyarrow import feather

    files = [REAL / FUNDING_2025 / f"BTC_USDT_USDT-1h-{kind}.feather" for kind in ("funding_rate", "mark")]
    rates, candles = (feather.read_table(path).to_pydict() for path in files)
    # A lot of 0.00001 BTC leaves three decimals to the mark.
    first_mark = half_even(Fraction(repr(candles["open"][0])), 3)
    closes = dict(zip(candles["date"], candles["close"], strict=True))
    paid = {"long": Fraction(0), "short": Fraction(0)}
    for date, rate in zip(rates["date"], rates["open"], strict=True):
        # The mark in force at a settlement is the close of the hour before it; at the first one that of the book.
        closed = [close for at, close in closes.items() if at < date]
        mark = half_even(Fraction(repr(closed[-1])), 3) if closed else first_mark
        payment = Fraction("1.5") * mark * Fraction(format(rate, ".12f"))
        # Rounded against each of them: a payer pays up to the next unit, a receiver gets what is below.
        paid["long"] += Fraction(ceil(payment * 10**8), 10**8)
        paid["short"] += Fraction(ceil(-payment * 10**8), 10**8)
    assert len(rates["date"]) == 60
    book = {
        "accounts": [
            {
                "account": name,
                "balances": {"USDT": "1000000"},
                "positions": [{"symbol": "BTCUSDT", "qty": qty, "entry_price": "114000"}],
            }
            for name, qty in (("long", "1.5"), ("short", "-1.5"))
        ],
        "marks": {"BTCUSDT": show(first_mark)},
    }
    (tmp_path / "book.json").write_text(json.dumps(book), encoding="utf-8")
    code, summary = replay(capsys, *files, "--book", tmp_path / "book.json", "--out", tmp_path / "out")
    assert (code, summary["rejected"], summary["liquidations"]) == (0, {}, 0)
    final = json.loads((tmp_path / "out" / "final-book.json").read_text(encoding="utf-8"))
    wallets = {account["account"]: Fraction(account["balances"].get("USDT", 0)) for account in final["accounts"]}
    assert wallets["long"] == 1_000_000 - paid["long"]
    assert wallets["short"] == 1_000_000 - paid["short"]
    # What the two roundings leave over, at most a unit a settlement, is the clearing account's.
    assert wallets["$clearing"] == paid["long"] + paid["short"]
    assert 0 <= wallets["$clearing"] <= Fraction(60, 10**8)
