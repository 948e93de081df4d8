"""Each vendor format becomes the right events, bad rows are refused with file, line and reason, the rest goes on."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from engine.core.events import Fill, Funding, Ignored, Mark, Origin, Reject, Transfer
from engine.core.params import Instrument, build_instrument
from engine.edges.codec import decode
from engine.edges.readers import FORMAT_NAMES, LogFile, SymbolResolver, expand_paths, open_log
from engine.edges.readers.rows import LINE_BYTES_MAX, try_decimal
from engine.errors import InputError

REAL = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "real"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the recorded market data is not beside the repository")

T_S = 1_621_123_200  # 2021-05-16 00:00:00 UTC
T_MS, T_US, T_NS = T_S * 10**3, T_S * 10**6, T_S * 10**9
MINUTE_NS = 60 * 10**9
TICKER_HEADER = (
    "exchange,symbol,timestamp,local_timestamp,funding_timestamp,funding_rate,predicted_funding_rate,"
    "open_interest,last_price,index_price,mark_price"
)
TRADES_HEADER = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount"
FILLS_HEADER = "time,user,coin,side,px,sz,crossed"


def instrument(symbol: str, base: str, settle: str) -> Instrument:
    fields = {"base": base, "settle": settle, "price_tick": "0.1", "lot": "0.001", "tiers": [[0, "0.01", 50]]}
    return build_instrument(symbol, fields)


RISK = SymbolResolver([instrument("BTCUSDT", "BTC", "USDT"), instrument("ETHUSDT", "ETH", "USDT")])


def write(path: Path, text: str | bytes) -> Path:
    """Write ``text`` gzipped or zipped as the ending of ``path`` says."""
    data = text.encode() if isinstance(text, str) else text
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zip":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("CHECKSUM.txt", "not this one")
            archive.writestr(f"{path.stem}.csv", data)
        data = packed.getvalue()
    path.write_bytes(data)
    return path


def opened(path: Path, format: str | None = None, resolver: SymbolResolver = RISK, **options: Any) -> LogFile:
    return open_log(path, format=format, resolve=resolver, decode=decode, **options)


def events_of(path: Path, format: str | None = None) -> list:
    return [message.event for message in opened(path, format)]


def rejects_of(path: Path) -> list[tuple[str, int, str]]:
    """Return (file, line, reason) of each refused row."""
    return [
        (message.origin.topic, message.origin.offset, message.event.reason)
        for message in opened(path)
        if isinstance(message.event, Reject)
    ]


# --- event log


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz", "log.txt"])
def test_event_log_keeps_lines_and_skips_blank_ones(tmp_path, name):
    mark = {"type": "mark", "symbol": "BTCUSDT", "price": "60000.10", "ts": 5}
    path = write(tmp_path / name, f"{json.dumps(mark)}\r\n\n  \n{{broken\n{json.dumps(mark | {'ts': 6})}")
    messages = list(opened(path))
    assert [message.origin for message in messages] == [Origin(name, -1, line) for line in (1, 4, 5)]
    assert messages[0].event == Mark("BTCUSDT", (600001, 1), 5)
    assert messages[0].payload == json.dumps(mark).encode()
    assert isinstance(messages[1].event, Reject)
    assert (messages[1].event.reason, messages[1].payload) == ("bad_json", b"{broken")
    assert messages[2].event == Mark("BTCUSDT", (600001, 1), 6)


def test_line_of_one_mebibyte_is_read_and_one_byte_more_is_too_long(tmp_path):
    mark = b'{"type":"mark","symbol":"BTCUSDT","price":"1","ts":5,"x":"'
    fits = mark + b"a" * (LINE_BYTES_MAX - len(mark) - 2) + b'"}'
    over = fits[:-2] + b'a"}'
    lines = [fits + b"\r", over, b"b" * (5 * LINE_BYTES_MAX), fits, over]
    messages = list(opened(write(tmp_path / "log.jsonl", b"\n".join(lines))))
    reasons = [getattr(message.event, "reason", "mark") for message in messages]
    assert reasons == ["mark", "too_long", "too_long", "mark", "too_long"]
    assert max(len(message.payload) for message in messages) < 2 * LINE_BYTES_MAX


def test_progress_runs_from_nothing_to_all_and_never_back(tmp_path):
    row = '{"type":"mark","symbol":"BTCUSDT","price":"1","ts":5}\n'
    log = opened(write(tmp_path / "log.jsonl", row * 20_000))
    seen = [log.progress()] + [log.progress() for _ in log] + [log.progress()]
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 1)
    assert any(0 < fraction < 1 for fraction in seen)


# --- candles


def test_rising_candle_visits_its_low_first_and_falling_one_its_high(tmp_path):
    rows = [[T_MS, 10.0, 12.5, 9.0, 11.0, 1.5], [T_MS + 60_000, 11.0, 11.5, 8.0, 8.25, 1]]
    path = write(tmp_path / "BTC_USDT-1m.json.gz", json.dumps(rows))
    prices = [(10, 0), (9, 0), (125, 1), (11, 0), (11, 0), (115, 1), (8, 0), (825, 2)]
    assert events_of(path) == [
        Mark("BTCUSDT", price, T_NS + quarter * MINUTE_NS // 4) for quarter, price in enumerate(prices)
    ]


def test_candle_that_closes_where_it_opened_counts_as_rising(tmp_path):
    path = write(tmp_path / "BTC_USDT-1h.json", json.dumps([[T_MS, 10, 12, 9, 10.0, 1]]))
    assert [mark.price[0] for mark in events_of(path)] == [10, 9, 12, 10]


BAD_CANDLES = [
    ("NaN,12,9,10,1", "bad_number"),
    ("10,null,9,10,1", "bad_number"),
    ("10,12,-9,10,1", "out_of_range"),
    ("10,12,0,10,1", "out_of_range"),
    ("10,12,10.5,11,1", "out_of_range"),  # low above open
    ("11,12,10.5,10,1", "out_of_range"),  # low above close
    ("10,9.5,9,9.2,1", "out_of_range"),  # high below open
    ("9.2,9.5,9,10,1", "out_of_range"),  # high below close
    ("10,12,9,10", "missing_field"),
    ("10,12,9,,1", "missing_field"),
    ("[10],12,9,10,1", "bad_json"),
]


@pytest.mark.parametrize(("prices", "reason"), BAD_CANDLES)
def test_bad_json_candle_is_refused_whole_and_the_next_is_read(tmp_path, prices, reason):
    good = f"[{T_MS},10,12,9,10,1]"
    path = write(tmp_path / "BTC_USDT-1m.json", f"[{good}, [{T_MS + 60_000},{prices}],{good}]")
    messages = list(opened(path))
    refused = next(message for message in messages if isinstance(message.event, Reject))
    assert rejects_of(path)[0] == (path.name, 2, reason)
    assert refused.payload.startswith(f"[{T_MS + 60_000},".encode())
    assert [message.event for message in messages[:4]] == [message.event for message in messages[-4:]]


def test_json_candles_cut_short_end_with_a_refusal(tmp_path):
    path = write(tmp_path / "BTC_USDT-1m.json", f"[[{T_MS},10,12,9,10,1],[{T_MS + 60_000},10,12")
    assert rejects_of(path) == [(path.name, 2, "missing_field"), (path.name, 3, "bad_json")]


@pytest.mark.parametrize("text", ["[]", " [ ] "])
def test_empty_list_of_candles_has_no_messages(tmp_path, text):
    assert events_of(write(tmp_path / "BTC_USDT-1m.json", text)) == []


def test_timeframe_comes_from_the_name_else_from_the_spacing_else_it_is_asked_for(tmp_path):
    two = json.dumps([[T_MS, 1, 1, 1, 1, 1], [T_MS + 300_000, 1, 1, 1, 1, 1]])
    by_name = events_of(write(tmp_path / "BTC_USDT-1h.json", two))
    assert by_name[1].ts - by_name[0].ts == 15 * MINUTE_NS
    by_spacing = events_of(write(tmp_path / "BTCUSDT.json", two))
    assert (by_spacing[1].symbol, by_spacing[1].ts - by_spacing[0].ts) == ("BTCUSDT", 75 * 10**9)
    with pytest.raises(InputError, match="how long is a candle"):
        opened(write(tmp_path / "ETHUSDT.json", json.dumps([[T_MS, 1, 1, 1, 1, 1]])))


def feather(path: Path, rows: list[tuple], unit: str = "ms") -> Path:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.feather import write_feather

    date, *prices = zip(*rows, strict=True)
    columns = [arrow.array(date, arrow.timestamp(unit, tz="UTC"))] + [arrow.array(p, arrow.float64()) for p in prices]
    names = ["date", "open", "high", "low", "close", "volume"]
    write_feather(arrow.Table.from_arrays(columns, names=names), path, compression="lz4")
    return path


def test_feather_floats_become_their_shortest_decimal(tmp_path):
    nan = float("nan")
    rows = [
        (T_MS, 0.1, 5e-05 + 0.3, 1e-07, 0.25, nan),
        (T_MS + 1, nan, 1.0, 1.0, 1.0, 0.0),
        (None, 1.0, 1.0, 1.0, 1.0, 0.0),
    ]
    path = feather(tmp_path / "BTC_USDT_USDT-5m-mark.feather", rows)
    log = opened(path)
    assert (log.time_unit, log.format) == ("ms", "freqtrade_candles")
    assert log.note == "freqtrade mark candles of BTC/USDT:USDT → BTCUSDT, 5m, times in ms"
    assert [m.event.price for m in log if isinstance(m.event, Mark)] == [(1, 1), (1, 7), (30005, 5), (25, 2)]
    assert rejects_of(path) == [(path.name, 2, "bad_number"), (path.name, 3, "missing_field")]


def test_feather_funding_rate_stands_in_open_and_is_paid_at_its_date(tmp_path):
    path = feather(tmp_path / "BTC_USDT_USDT-1h-funding_rate.feather", [(T_NS + 7, -5.08844e-05, 0, 0, 0, 0)], "ns")
    assert opened(path).time_unit == "ns"
    assert events_of(path) == [Funding("BTCUSDT", (-508844, 10), T_NS + 7)]


def test_feather_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    path = feather(tmp_path / "BTC_USDT_USDT-5m-mark.feather", [(T_MS, 1.0, 1.0, 1.0, 1.0, 0.0)])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'liq-engine\[parquet\]'"):
        opened(path)


def test_feather_of_other_columns_or_kind_is_refused(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.feather import write_feather

    path = tmp_path / "BTC_USDT_USDT-5m-mark.feather"
    write_feather(arrow.table({"date": [1], "open": [1.0]}), path)
    with pytest.raises(InputError, match="no column high, low, close"):
        opened(path)
    index = feather(tmp_path / "BTC_USDT_USDT-5m-premiumIndex.feather", [(T_MS, 1.0, 1.0, 1.0, 1.0, 0.0)])
    with pytest.raises(InputError, match="not recognised"):
        opened(index)


# --- Binance Vision

KLINE = f"{T_MS},10,12.50,9,11,5.1,{T_MS + 59_999},3,8,2,1,0\n"
KLINE_HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,"
    "taker_buy_volume,taker_buy_quote_volume,ignore\n"
)


@pytest.mark.parametrize("header", [KLINE_HEADER, ""])
@pytest.mark.parametrize("name", ["BTCUSDT-1m-2021-05-16.zip", "BTCUSDT-1m-2021-05-16.csv", "um-BTCUSDT-1m-x.csv.gz"])
def test_klines_with_and_without_header_and_however_packed(tmp_path, name, header):
    log = opened(write(tmp_path / name, header + KLINE))
    assert log.format == "binance_klines"
    assert "BTCUSDT → BTCUSDT, 1m, times in ms" in log.note
    assert [event.price for event in events_of(tmp_path / name)] == [(10, 0), (9, 0), (125, 1), (11, 0)]
    assert {message.origin for message in log} == {Origin(name, -1, 2 if header else 1)}


def test_aggregated_trades_become_marks_in_either_width(tmp_path):
    futures = f"1,0.7097,19.0,5,5,{T_MS},false\n2,x,19.0,6,6,{T_MS},true\n3,0.71,1,7,7,{T_MS + 1},true,9\n"
    path = write(tmp_path / "BTCUSDT-aggTrades-2021-05-16.csv", futures)
    assert events_of(path)[0] == Mark("BTCUSDT", (7097, 4), T_NS)
    assert rejects_of(path) == [(path.name, 2, "bad_number"), (path.name, 3, "bad_type")]
    spot = write(tmp_path / "ETHUSDT-aggTrades-2025-05-16.csv", f"1,2500.10,1,5,5,{T_US},False,True\n")
    assert (opened(spot).time_unit, events_of(spot)) == ("us", [Mark("ETHUSDT", (25001, 1), T_NS)])


def test_funding_rates_of_binance(tmp_path):
    header = "calc_time,funding_interval_hours,last_funding_rate\n"
    path = write(tmp_path / "BTCUSDT-fundingRate-2021-05.zip", f"{header}{T_MS},8,0.00010000\n{T_MS},8,\n")
    assert events_of(path)[0] == Funding("BTCUSDT", (1, 4), T_NS)
    assert rejects_of(path) == [(path.name, 3, "missing_field")]


def test_binance_file_whose_name_has_no_symbol_is_asked_for_one(tmp_path):
    with pytest.raises(InputError, match="which symbol"):
        opened(write(tmp_path / "klines.csv", KLINE))


# --- Tardis


def ticker(second: float, funding_second: float | str, rate: str, mark: str = "100", index: str = "") -> str:
    due = funding_second if isinstance(funding_second, str) else int(T_US + funding_second * 10**6)
    us = int(T_US + second * 10**6)
    return f"binance-futures,BTCUSDT,{us},{us},{due},{rate},,1,99,{index},{mark}"


def ticker_file(tmp_path: Path, *rows: str) -> Path:
    return write(
        tmp_path / "binance-futures_derivative_ticker_2021-05-16_BTCUSDT.csv.gz", "\n".join((TICKER_HEADER, *rows))
    )


def test_ticker_gives_a_mark_with_its_index_and_ignores_a_row_without_one(tmp_path):
    path = ticker_file(tmp_path, ticker(1, "", "", "100.50", "100.4"), ticker(2, "", "", ""), ticker(3, "", "", "1e2"))
    assert opened(path).time_unit == "us"
    assert events_of(path) == [
        Mark("BTCUSDT", (1005, 1), T_NS + 10**9, (1004, 1)),
        Ignored(),
        Mark("BTCUSDT", (100, 0), T_NS + 3 * 10**9),
    ]


def fundings(path: Path) -> list[tuple[int, tuple[int, int]]]:
    """Return (seconds, rate) of the settlements of a ticker file."""
    return [((e.ts - T_NS) // 10**9, e.rate) for e in events_of(path) if isinstance(e, Funding)]


def test_settlement_is_paid_once_with_the_last_rate_announced_for_it(tmp_path):
    rows = [
        ticker(1, 10, "0.1"),
        ticker(9, 10, "0.2"),
        ticker(12, 10, "0.3"),
        ticker(13, 20, "0.4"),
        ticker(25, 30, "0.5"),
    ]
    path = ticker_file(tmp_path, *rows)
    assert fundings(path) == [(10, (2, 1)), (20, (4, 1))]
    kinds = [type(event).__name__ for event in events_of(path)]
    assert kinds == ["Mark", "Mark", "Funding", "Mark", "Mark", "Funding", "Mark"]


def test_settlement_replaced_by_a_later_one_is_over_and_is_not_paid_again(tmp_path):
    rows = [ticker(1, 10, "0.1"), ticker(8, 20, "0.2"), ticker(9, 10, "0.1"), ticker(11, 20, "0.2")]
    assert fundings(ticker_file(tmp_path, *rows)) == [(10, (1, 1))]


def test_settlement_before_the_file_is_not_paid_and_one_between_two_rows_is(tmp_path):
    assert fundings(ticker_file(tmp_path, ticker(5, 4, "0.1"), ticker(6, 4, "0.1"))) == []
    assert fundings(ticker_file(tmp_path, ticker(5, 4, "0.1"), ticker(65, 60, "0.2"))) == [(60, (2, 1))]


def test_settlement_at_midnight_is_paid_by_the_file_that_ends_there(tmp_path):
    day = 86_400
    assert fundings(ticker_file(tmp_path, ticker(day - 59, day, "0.1"))) == [(day, (1, 1))]
    assert fundings(ticker_file(tmp_path, ticker(day - 61, day, "0.1"))) == []
    assert fundings(ticker_file(tmp_path, ticker(day - 59, day - 1, "0.1"))) == []
    assert fundings(ticker_file(tmp_path, ticker(day, day, "0.1"), ticker(day + 1, 2 * day, "0.1"))) == []


def test_bad_ticker_row_moves_neither_mark_nor_funding(tmp_path):
    rows = [ticker(1, 10, "0.1"), ticker(11, 20, "x"), ticker(12, 20, "0.2", "-1"), ticker(13, 20, "0.2")]
    path = ticker_file(tmp_path, *rows)
    assert rejects_of(path) == [(path.name, 3, "bad_number"), (path.name, 4, "out_of_range")]
    assert fundings(path) == [(10, (1, 1))]


def test_trades_are_marks_and_liquidations_of_the_same_columns_are_ignored(tmp_path):
    rows = f"{TRADES_HEADER}\nbitmex,XBTUSD,{T_US},{T_US},a,sell,8531.5,2152\nbitmex,,{T_US},{T_US},a,sell,1,1\n"
    trades = write(tmp_path / "bitmex_trades_XBTUSD.csv", rows)
    assert events_of(trades)[0] == Mark("XBTUSD", (85315, 1), T_NS)
    assert rejects_of(trades) == [(trades.name, 3, "missing_field")]
    liquidations = write(tmp_path / "bitmex_liquidations_XBTUSD.csv", rows)
    assert events_of(liquidations) == [Ignored()] * 2
    assert opened(trades, "liquidations").format == "tardis_liquidations"


# --- Hyperliquid


def test_hyperliquid_trades_become_fills_and_never_marks(tmp_path):
    rows = [
        "2021-05-16T00:00:00Z,0xa,BTC,Bid,1655.5,0.0452,true",
        "2021-05-16T00:00:00.5Z,0xa,DOGE,Ask,1,2,false",
        "2021-05-16T00:00:00Z,0xa,BTC,Buy,1,1,true",
        "2021-05-16T25:00:00Z,0xa,BTC,Bid,1,1,true",
        "2021-05-16 noon,0xa,BTC,Bid,1,1,true",
        f"2021-05-16T00:00:00Z,{'a' * 65},BTC,Bid,1,1,true",
        "2021-05-16T00:00:00Z,0xa,BTC,Bid,1,0,true",
        "2021-05-16T00:00:00Z,0xa,BTC,Bid",
    ]
    path = write(tmp_path / "non_mm_trades.csv.gz", "\n".join([FILLS_HEADER, *rows, "\n"]))
    assert opened(path).time_unit == "iso"
    fills = [event for event in events_of(path) if not isinstance(event, Reject)]
    assert fills == [
        Fill(f"non_mm_trades:2:{T_NS}", "0xa", "BTCUSDT", "buy", (452, 4), (16555, 1), T_NS),
        Fill(f"non_mm_trades:3:{T_NS + 5 * 10**8}", "0xa", "DOGE", "sell", (2, 0), (1, 0), T_NS + 5 * 10**8),
    ]
    reasons = ["out_of_range", "out_of_range", "bad_number", "out_of_range", "out_of_range", "missing_field"]
    assert rejects_of(path) == [(path.name, line, reason) for line, reason in enumerate(reasons, start=4)]


def test_ledger_updates_become_transfers_of_the_cash_asset(tmp_path):
    text = "time,user,delta_usd\n2021-05-16T00:00:00Z,0xa,-1.10\n2021-05-16T00:00:00Z,0xa,0\n"
    path = write(tmp_path / "non_mm_ledger_updates.csv", text)
    assert events_of(path)[0] == Transfer(f"non_mm_ledger_updates:2:{T_NS}", "0xa", "USDT", (-11, 1), T_NS)
    assert rejects_of(path) == [(path.name, 3, "out_of_range")]
    in_usdc = opened(path, cash_asset="USDC")
    assert next(iter(in_usdc)).event == Transfer(f"non_mm_ledger_updates:2:{T_NS}", "0xa", "USDC", (-11, 1), T_NS)


@pytest.mark.parametrize(
    ("settles", "cash"), [(["USDT", "USD", "USDC"], "USDC"), (["USDT", "USD"], "USD"), (["USDT"], "USDT"), ([], "USDT")]
)
def test_cash_asset_is_the_dollar_that_contracts_settle_in(settles, cash):
    assert SymbolResolver([instrument(f"BTC{s}", "BTC", s) for s in settles]).cash_asset() == cash


def test_liquidation_prints_are_ignored_but_checked_for_their_time(tmp_path):
    header = "time,user,liquidated_ntl_pos,liquidated_account_value,leverage_type"
    path = write(tmp_path / "liquidations.csv", f"{header}\n2021-05-16T00:00:00Z,0xa,356.8,2.9,Cross\n,0xa,1,1,Cross\n")
    assert events_of(path)[0] == Ignored()
    assert rejects_of(path) == [(path.name, 3, "missing_field")]


# --- what all share


@pytest.mark.parametrize(
    ("unit", "time", "ns"),
    [
        ("s", 10**11 - 1, None),
        ("ms", 10**11, 10**17),
        ("s", T_S, T_NS),
        ("ms", T_MS, T_NS),
        ("us", T_US, T_NS),
        ("ns", T_NS, T_NS),
        ("ns", 2**63 - 1, 2**63 - 1),
    ],
)
def test_unit_is_read_off_the_first_time_and_others_are_refused(tmp_path, unit, time, ns):
    other = T_S if unit != "s" else T_MS
    text = f"{TRADES_HEADER}\n" + "".join(f"x,BTCUSDT,{t},,a,sell,1,1\n" for t in ("", time, other))
    path = write(tmp_path / "x_trades.csv", text)
    assert opened(path).time_unit == unit
    first, second, third = events_of(path)
    assert (first.reason, third.reason) == ("missing_field", "out_of_range")
    if ns is None:  # Year 5138 does not fit into 64 bits of nanoseconds.
        assert second.reason == "out_of_range"
    else:
        assert second == Mark("BTCUSDT", (1, 0), ns)


def test_rows_of_bad_bytes_or_bad_shape_are_refused_one_by_one(tmp_path):
    good = f"x,BTCUSDT,{T_US},{T_US},a,sell,1,1".encode()
    bad = [
        good.replace(b",a,", b",\xff,"),
        good + b",1",
        good[:-4],
        good.replace(b",a,", b',"a,'),
        b"z" * (LINE_BYTES_MAX + 1),
    ]
    path = write(
        tmp_path / "x_trades.csv.gz", b"\n".join([TRADES_HEADER.encode(), *bad, good.replace(b",a,", b',"a,b",')])
    )
    reasons = ["bad_encoding", "bad_type", "missing_field", "bad_type", "too_long"]
    assert rejects_of(path) == [(path.name, line, reason) for line, reason in enumerate(reasons, start=2)]
    assert events_of(path)[-1] == Mark("BTCUSDT", (1, 0), T_NS)


def test_damaged_gzip_yields_what_could_be_read_and_then_a_refusal(tmp_path):
    rows = "".join(f"x,BTCUSDT,{T_US + i * 7919},,{i * i},sell,{i + 1},1\n" for i in range(30_000))
    whole = gzip.compress(f"{TRADES_HEADER}\n{rows}".encode())
    path = tmp_path / "x_trades.csv.gz"
    path.write_bytes(whole[: len(whole) * 3 // 4])
    events = events_of(path)
    assert all(isinstance(event, Mark) for event in events[:-1])
    assert len(events) > 1000
    assert (events[-1].reason, rejects_of(path)[0][1]) == ("bad_encoding", len(events) + 1)


def test_file_too_damaged_to_recognise_is_an_input_error(tmp_path):
    for name, data in {"a.csv.gz": gzip.compress(b"x" * 99)[:12], "b.zip": b"PK\x03\x04 and no archive"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=name):
            opened(tmp_path / name)
    changed = write(tmp_path / "BTCUSDT-1m-2021-05-16.zip", KLINE)
    changed.write_bytes(changed.read_bytes().replace(b",12.50,", b",12.51,"))
    with pytest.raises(InputError, match="Bad CRC-32"):
        opened(changed)
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("readme.txt", "no table")
    with pytest.raises(InputError, match=r"a zip archive without a \.csv"):
        opened(tmp_path / "c.zip")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0.50", (5, 1)),
        ("-0.0", (0, 0)),
        ("100", (100, 0)),
        ("5e-05", (5, 5)),
        ("1.2300e+01", (123, 1)),
        ("10e-1", (1, 0)),
        ("1E3", (1000, 0)),
        *(
            (text, None)
            for text in ("", ".5", "5.", "+1", "1_0", " 1", "1e", "e5", "1e9999", "nan", "inf", "٣", "²", "1" * 65)
        ),
    ],
)
def test_decimals_are_exact_or_refused(text, number):
    assert try_decimal(text) == number


def test_unrecognised_and_missing_files_say_what_was_seen_and_what_is_known(tmp_path):
    path = write(tmp_path / "quotes.csv", "exchange,symbol,ask_price\nx,y,1\n")
    with pytest.raises(InputError) as raised:
        opened(path)
    assert all(word in str(raised.value) for word in ("quotes.csv", "exchange,symbol,ask_price", *FORMAT_NAMES))
    with pytest.raises(InputError, match="no such file"):
        opened(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="begins with nothing"):
        opened(write(tmp_path / "empty.csv", ""))
    with pytest.raises(InputError, match="needs the column timestamp"):
        opened(path, "tardis_trades")
    with pytest.raises(InputError, match="unknown; known are jsonl"):
        opened(path, "parquet")


def test_folder_stands_for_the_known_files_in_it_by_name(tmp_path):
    names = ["b.jsonl", "a.jsonl", "notes.md"]
    for name in names:
        write(tmp_path / name, "{}\n" if name.endswith("jsonl") else "# notes")
    named = write(tmp_path / "notes.md", "# notes")
    assert expand_paths([named, tmp_path]) == [named, tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no file of a known format"):
        expand_paths([tmp_path / "empty"])


RESOLVED = [
    ({"raw": "BTCUSDT"}, ["BTCUSDT", "BTC-USDT"], "BTCUSDT"),
    *(
        ({"base": "BTC", "quote": "USDT"}, [name], name)
        for name in ("BTC-USDT", "BTC_USDT", "BTC/USDT", "BTC/USDT:USDT")
    ),
    *(({"base": "BTC", "quote": "USDT"}, [name], name) for name in ("BTC-USDT-SWAP", "BTCUSDT_PERP", "XBT")),
    ({"base": "BTC", "quote": "USDT"}, ["XBT", "XBT2"], "BTCUSDT"),
    ({"raw": "BTCUSDT"}, ["BTC-USDT-SWAP"], "BTC-USDT-SWAP"),
    ({"raw": "BTCUSDT"}, ["BTC-USDT-SWAP", "BTC_USDT"], "BTCUSDT"),
    ({"base": "BTC", "raw": "BTC"}, ["BTC", "BTCUSDT"], "BTC"),
    ({"base": "BTC", "raw": "BTC"}, ["BTC-PERP"], "BTC-PERP"),
    ({"base": "BTC", "raw": "BTC"}, ["BTC-USDC", "BTCUSDT"], "BTC-USDC"),
    ({"base": "BTC", "raw": "BTC"}, ["XBT"], "XBT"),
    ({"base": "BTC", "raw": "BTC"}, ["XBT", "XBT2"], "BTC"),
]


@pytest.mark.parametrize(("name", "known", "symbol"), RESOLVED)
def test_vendor_names_find_their_symbol_or_stay_plain(name, known, symbol):
    assert SymbolResolver([instrument(each, "BTC", "USDT") for each in known]).resolve(**name) == symbol


def test_bare_coin_is_never_a_coin_margined_contract():
    fields = {"kind": "inverse", "base": "BTC", "settle": "BTC", "multiplier": "100", "price_tick": "0.1", "lot": "1"}
    inverse = build_instrument("BTCUSD_PERP", fields | {"tiers": [[0, "0.01", 50]]})
    assert SymbolResolver([inverse]).resolve(base="BTC", raw="BTC") == "BTC"
    assert SymbolResolver([inverse]).resolve(raw="BTCUSD_PERP") == "BTCUSD_PERP"
    both = SymbolResolver([inverse, instrument("XBT", "BTC", "USDT")])
    assert both.resolve(base="BTC", raw="BTC") == "XBT"


def test_second_reading_gives_the_same_messages(tmp_path):
    log = opened(ticker_file(tmp_path, ticker(1, 10, "0.1"), ticker(12, 20, "0.2")))
    assert list(log) == list(log) != []


# --- recorded files

COUNTS = [
    ("freqtrade_binance_usdm_1m_2026-02-05/ZEC_USDT_USDT-1m-futures.feather", Mark, 4 * 12_104),
    ("freqtrade_bybit_linear_5m_2025-10-10/AVAX_USDT_USDT-5m-futures.feather", Mark, 4 * 5_760),
    ("freqtrade_bybit_linear_5m_2025-10-10/AVAX_USDT_USDT-1h-mark.feather", Mark, 4 * 480),
    ("freqtrade_bybit_linear_5m_2025-10-10/AVAX_USDT_USDT-1h-funding_rate.feather", Funding, 60),
    ("freqtrade_hyperliquid_funding_1h_2023-2025/BTC_USDC_USDC-1h-funding_rate.feather", Funding, 18_778),
    ("freqtrade_okx_swap_5m_2022-05-luna/BTC_USDT_USDT-5m-futures.feather", Mark, 4 * 4_032),
    ("binance_vision/futures-APEUSDT-aggTrades-2024-10-18.zip", Mark, 45_342),
    ("binance_vision/futures-um-klines-BTCUSDT-1h-2024-10-28.zip", Mark, 4 * 24),
    ("binance_vision/spot-klines-BTCUSDT-1h-2024-10-28.zip", Mark, 4 * 24),
    ("binance_vision/BTCUSD_PERP-liquidationSnapshot-2024-10-01.head.csv", Ignored, 14),
    ("hyperliquid_accounts_2023/non_mm_trades.csv.gz", Fill, 31_450),
    ("hyperliquid_accounts_2023/non_mm_ledger_updates.csv", Transfer, 433),
    ("hyperliquid_accounts_2023/liquidations.csv", Ignored, 52),
    ("tardis/bitmex_trades_XBTUSD.csv", Mark, 10),
]


@needs_real
@pytest.mark.parametrize(("name", "kind", "count"), COUNTS)
def test_recorded_file_gives_all_its_rows_and_refuses_none(name, kind, count):
    if name.endswith("feather"):
        pytest.importorskip("pyarrow")
    kinds = [type(event) for event in events_of(REAL / name)]
    assert (len(kinds), set(kinds)) == (count, {kind})


@needs_real
def test_format_sample_of_tardis_gives_two_marks_and_the_settlement_between_them():
    events = events_of(REAL / "tardis/derivative_ticker_FORMAT_ONLY.csv")
    assert [type(event) for event in events] == [Mark, Funding, Mark]
    assert events[1] == Funding("XBTUSD", (15, 5), 1_583_020_860 * 10**9)


@needs_real
@pytest.mark.parametrize(
    "name",
    [
        "tardis/huobi-dm-swap_quotes_BTC-USD.csv",
        "tardis/deribit_incremental_book_L2_BTC-PERPETUAL.csv",
        "binance_usdm_small/LUNAUSDT_2022-05-12.json",
        "binance_forceorder_csv/binance_2024-08-17.csv",
        "multi_venue_1h_2025-2026/open_interest.parquet",
    ],
)
def test_recorded_file_of_another_kind_is_not_mistaken(name):
    with pytest.raises(InputError, match="not recognised"):
        opened(REAL / name)
