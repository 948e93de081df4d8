"""The command that measures the service: it runs on a real broker, and what it prints adds up. No time is judged."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import service, service_delays, service_rates, service_site
from benchmarks.service_delays import percentile
from benchmarks.service_market import MARKS_ONLY, MIX, Ladder, Line, Traffic
from benchmarks.service_rates import is_for, slope
from benchmarks.service_site import Arrivals, Process, Site
from engine.core.shard import Shard
from engine.edges.config import load_risk
from engine.edges.fold import Fold
from engine.edges.journal import Position
from engine.edges.service_config import BatchConfig
from engine.edges.service_file import BOOTSTRAP_VARIABLE
from engine.edges.shard_book import BookSource
from engine.errors import BrokerError
from tests.brokers.real import Endpoint
from tests.service_cases import Record


class Folded:
    """A shard in this process that takes what the service would be sent."""

    def __init__(self, book: Path, risk: Path | None = None) -> None:
        self.shard: Shard = BookSource(book).new_shard(load_risk(risk), 0)
        self.fold = Fold(self.shard, Position(), logical=str)

    def take(self, *lines: Line) -> list[dict[str, Any]]:
        """Apply inputs; return what came out."""
        records = [Record(line.topic, line.key, line.value) for line in lines]
        return [json.loads(line.value) for line in self.fold.apply(records)]


def of_type(outputs: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [body for body in outputs if body["type"] == kind]


# --------------------------------------------------------------------------------------------------- what goes in


def test_each_mark_of_a_ladder_makes_exactly_one_account_liquidatable(tmp_path):
    ladder = Ladder(tmp_path, rungs=40, bystanders=3)
    folded = Folded(ladder.book, ladder.risk)
    # At 100 the first rung has 10.0099 for a margin of 10.
    assert of_type(folded.take(ladder.first()), "liquidation_started") == []
    for number in range(1, 41):
        account, mark = ladder.next()
        outputs = folded.take(mark)
        (order,) = of_type(outputs, "liquidation_order")
        assert account == order["account"] == f"rung-{number}"
        # Ten contracts, all of them.
        assert (order["side"], order["qty"], order["stage"]) == ("sell", "10", "full")
        # At the very edge: after n steps of 0.001 equity and margin are both 10 - 0.0001 n.
        (started,) = of_type(outputs, "liquidation_started")
        assert started["equity"] == started["maintenance_margin"]
        (ended,) = of_type(folded.take(ladder.answer(json.dumps(order).encode())), "liquidation_ended")
        assert ended["outcome"] == "closed"
    assert not folded.shard.episodes


def test_a_ladder_ends_with_its_last_rung(tmp_path):
    ladder = Ladder(tmp_path, rungs=1, bystanders=0)
    ladder.next()
    with pytest.raises(IndexError, match="has 1 rungs"):
        ladder.next()


@pytest.mark.parametrize(("kinds", "counts"), [(MIX, (80, 10, 10)), (MARKS_ONLY, (100, 0, 0))])
def test_traffic_is_what_its_name_says_and_nobody_is_liquidated_for_it(tmp_path, kinds, counts):
    traffic = Traffic(tmp_path, accounts=60)
    folded = Folded(traffic.book)
    first, lines = traffic.first(), [*traffic.lines(1_000, kinds)]
    outputs = folded.take(*first, *lines)
    assert of_type(outputs, "liquidation_order") == []
    # Every single one is taken: nothing is refused, nothing a repetition.
    counters = folded.shard.counters
    assert (counters.accepted, counters.rejected) == (len(first) + 1_000, Counter())
    by_topic = Counter(line.topic for line in lines)
    assert tuple(by_topic[topic] for topic in ("mark-prices", "fills", "transfers")) == tuple(10 * n for n in counts)


def test_every_account_message_is_for_one_shard_and_every_mark_for_all(tmp_path):
    traffic = Traffic(tmp_path, accounts=60)
    for line in traffic.lines(200, MIX):
        readers = sum(is_for(line, shard, 3) for shard in range(3))
        assert readers == (3 if line.topic == "mark-prices" else 1)


# ------------------------------------------------------------------------------------------------------- the sums


def test_percentiles_are_values_that_were_measured():
    assert [percentile([float(n) for n in range(100, 0, -1)], rank) for rank in (50, 90, 99)] == [50, 90, 99]
    assert percentile([7.0], 99) == 7


def test_slope_is_that_of_the_line_through_the_points():
    assert slope([(0, 5), (1, 7), (2, 9)]) == 2
    # Noise of +1 and -1 around 3 x, the same on both ends, does not tilt it.
    assert slope([(0, 1), (1, 2), (2, 5), (3, 10)]) == pytest.approx(3)


async def test_only_the_record_that_holds_what_is_waited_for_counts_as_arrived():
    arrivals = Arrivals(service_delays.ORDER)
    arrived = arrivals.expect(b"a")
    arrivals.take(Record("orders", b"a", b'{"type":"cancel_orders"}'))
    arrivals.take(Record("orders", b"b", b'{"type":"liquidation_order"}'))
    assert not arrived.done()
    order = b'{"type":"liquidation_order"}'
    arrivals.take(Record("orders", b"a", order))
    assert (await arrived)[1] == order
    # Another of the same account is nobody's.
    arrivals.take(Record("orders", b"a", order))
    assert not arrivals.waiting


# ------------------------------------------------------------------------------------------------------ the command


def run(monkeypatch: pytest.MonkeyPatch, kafka: Endpoint, tmp_path: Path, part: str) -> dict[str, Any]:
    """Return the document of one part in small, after it went to a file."""
    monkeypatch.setenv(BOOTSTRAP_VARIABLE, kafka.bootstrap)
    document = tmp_path / "service.json"
    assert service.main(["--quick", "--only", part, "--json", str(document)]) == 0
    found: dict[str, Any] = json.loads(document.read_text())
    assert found["sizes"] == "quick"
    assert len(found[part]["load"]) == 2
    figures: dict[str, Any] = found[part]
    return figures


@pytest.mark.broker
def test_latency_has_a_sample_of_each_way_in_every_round(kafka, monkeypatch, tmp_path, capsys):
    figures = run(monkeypatch, kafka, tmp_path, "latency")
    ways, rounds = figures["ways"], service.QUICK["latency"]["rounds"]
    assert list(ways) == ["plain", "relay", "exactly_once", "at_least_once"]
    for way in ways.values():
        assert way["samples"] == rounds
        assert 0 < way["p50"] <= way["p90"] <= way["p99"]
        assert way["times_plain_p50"] == pytest.approx(way["p50"] / ways["plain"]["p50"], abs=0.02, rel=0.02)
    text = capsys.readouterr().out
    assert "mark to order, at_least_once" in text
    assert "<= 1.5" in text


@pytest.mark.broker
def test_throughput_counts_every_record_of_both_shards(kafka, monkeypatch, tmp_path, capsys):
    figures = run(monkeypatch, kafka, tmp_path, "throughput")
    (one,) = figures["runs"]
    # Both read every mark, and the asset prices that come before.
    assert one["shards"] == 2
    assert one["records"] == 2 * (figures["messages"] + len(Traffic(tmp_path, accounts=60).first()))
    # A batch holds at most the configured number of records.
    assert one["batches"] >= max(one["shards"], one["records"] / BatchConfig().records_max)
    assert one["records_a_second"] == pytest.approx(2 * one["messages_a_second"], rel=0.01)
    assert one["of_bare"] == pytest.approx(one["messages_a_second"] / one["bare_messages_a_second"], abs=0.01)
    assert one["bare_cpu_us_a_record"] > 0
    assert one["cpu_us_a_record"] > 0
    assert "marks only, 2" in capsys.readouterr().out


@pytest.mark.broker
@pytest.mark.slow
def test_recovery_folds_all_that_came_since_the_snapshot_and_its_parts_add_up(kafka, monkeypatch, tmp_path):
    figures = run(monkeypatch, kafka, tmp_path, "recovery")
    seconds = figures["seconds"]
    assert figures["events_since_snapshot"] == service.QUICK["recovery"]["events"]
    assert figures["scale"] == 0.005
    assert figures["snapshot_mb"] > 0
    assert sum(value for part, value in seconds.items() if part != "total") == pytest.approx(seconds["total"], abs=0.01)
    assert all(value >= 0 for value in seconds.values())


@pytest.mark.broker
def test_take_over_parts_add_up_to_the_time_without_orders(kafka, monkeypatch, tmp_path):
    figures = run(monkeypatch, kafka, tmp_path, "takeover")
    (kill,) = figures["kills"]
    assert all(value >= 0 for value in kill.values())
    parts = [kill[part] for part in ("silence", "fencing", "fold", "opening", "first_order")]
    assert sum(parts) == pytest.approx(kill["total"], abs=0.01)
    assert figures["orders"] > 0


@pytest.mark.broker
def test_soak_sends_at_its_rate_and_weighs_the_process_to_the_end(kafka, monkeypatch, tmp_path):
    figures = run(monkeypatch, kafka, tmp_path, "soak")
    assert figures["ids_before"] == service.QUICK["soak"]["ids"]
    # No more than the rate allows, and there were some.
    assert 0 < figures["messages"] <= figures["minutes"] * 60 * figures["messages_a_second"]
    times_s = [at_s for at_s, _ in figures["samples"]]
    assert times_s == sorted(times_s)
    assert len(times_s) >= 3
    assert all(rss > 10 for _, rss in figures["samples"])
    assert figures["slope_mb_an_hour"] == pytest.approx(slope(figures["samples"]) * 3600, rel=0.2, abs=50)


def test_soak_runs_at_half_of_what_one_shard_sustained():
    runs = [{"shards": 2, "messages_a_second": 900.0}, {"shards": 1, "messages_a_second": 500.0}]
    assert service.soak_rate({"throughput": {"runs": runs}}) == 250
    assert service.soak_rate({}) == service.SOAK_RATE


# -------------------------------------------------------------------------------------------------- what goes wrong


def test_the_command_says_which_parts_there_are(capsys):
    assert service.main(["--only", "latency,speed"]) == 2
    assert "speed: known are latency, throughput, recovery, takeover, soak" in capsys.readouterr().err


async def test_a_service_that_ends_is_an_error_with_its_last_words_and_not_a_wait(monkeypatch, tmp_path):
    # What hangs would be ended by this.
    monkeypatch.setattr(service_site, "DEADLINE_S", 30.0)
    with (
        Process(tmp_path, "engine", "run", "--config", str(tmp_path / "none.toml")) as process,
        pytest.raises(BrokerError, match=r"(?s)engine run ended without saying 'live':.*none\.toml"),
    ):
        await process.until("live")


def test_a_process_ends_with_its_block(tmp_path):
    with Process(tmp_path, "http.server", "0", "--bind", "127.0.0.1") as process:
        assert process.process.poll() is None
        assert process.cpu_s() >= 0
        # A process that has just begun holds less than an interpreter needs.
        deadline_s = time.monotonic() + 60
        while process.rss_mb() < 5:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
    assert process.process.returncode is not None


@pytest.mark.broker
def test_throughput_refuses_figures_of_topics_that_the_bare_loop_did_not_read_whole(
    kafka, monkeypatch, tmp_path, capsys
):
    async def short(folder: Path, site: Site) -> list[dict[str, float]]:
        return [{"records": 1, "seconds": 1.0, "cpu_seconds": 1.0} for _ in range(site.shards)]

    monkeypatch.setattr(service_rates, "run_bare", short)
    monkeypatch.setenv(BOOTSTRAP_VARIABLE, kafka.bootstrap)
    with pytest.raises(SystemExit, match="the bare loop read"):
        service.main(["--quick", "--only", "throughput"])
