"""What the metrics say: all there at 0 from the start, counted as the outputs say, shown as prometheus_client would."""

from __future__ import annotations

import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import product
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from engine.core.events import DEAD_LETTERS_TOPIC, OUTPUT_TOPICS, REJECT_REASONS, Output
from engine.core.params import Risk
from engine.core.shard import Shard
from engine.core.survey import BANDS, Survey
from engine.edges.config import default_risk_path, load_risk
from engine.edges.fold import INPUT_TOPICS, Fold
from engine.edges.journal import Position
from engine.edges.metrics import catalogue as names
from engine.edges.metrics.catalogue import Catalogue
from engine.edges.metrics.exposition import LINES_MAX, Exposition, registry_of
from engine.edges.metrics.families import BOUNDS, Family, Histogram
from engine.edges.metrics.outputs import COUNTED
from engine.edges.metrics.service import Metrics
from engine.edges.metrics.shard import ShardMetrics
from engine.edges.service_config import ServiceConfig
from tests import golden
from tests.outside import program
from tests.service_cases import Record, golden_records, in_thread, stored

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ("crash", "desk", "coins")
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def risk() -> Risk:
    """Return the shipped parameters."""
    return load_risk(default_risk_path())


@pytest.fixture
def metrics(risk: Risk) -> Metrics:
    """Return the metrics of two shards that have not begun."""
    return Metrics(ServiceConfig(shards=2), risk, [0, 1], "0" * 64)


async def page_of(exposition: Exposition) -> bytes:
    """Return the whole page."""

    async def rest() -> None:
        pass

    return b"".join([piece async for piece in exposition.pieces(rest)])


def samples_of(page: bytes) -> Samples:
    """Return the numbers of a page as Prometheus's own parser reads them."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def by_label(samples: Mapping[Any, float], name: str, *labels: str) -> dict[Any, float]:
    """Return the numbers of one name that are not 0, by the values of these labels."""
    found = {}
    for (sample, of), value in samples.items():
        if sample == name and value:
            found[tuple(dict(of)[label] for label in labels)] = value
    return found


# --- there from the start


def combinations(risk: Risk) -> Iterator[tuple[str, set[tuple[str, ...]]]]:
    """Yield each family of a shard with all values its labels must have, written down here once more."""
    symbols, assets = list(risk.instruments), list(risk.assets)
    floating = [asset.name for asset in risk.assets.values() if asset.price_units is None]
    debts = [*assets, risk.policy.valuation]
    listed: dict[str, list[Any]] = {
        "liq_state": [["starting", "following", "recovering", "live", "draining", "stopped", "halted"]],
        "liq_halts_total": [["broker", "fenced", "refused", "input", "invariant"]],
        "liq_inputs_total": [INPUT_TOPICS],
        "liq_lag_records": [INPUT_TOPICS],
        "liq_rejected_total": [REJECT_REASONS],
        "liq_mark_age_seconds": [symbols],
        "liq_asset_price_age_seconds": [floating],
        "liq_accounts": [[*BANDS, "unpriced"]],
        "liq_liquidations_started_total": [["mark", "fill", "transfer", "funding", "policy"]],
        "liq_liquidations_ended_total": [["healthy", "closed", "taken_over", "deleveraged"]],
        "liq_liquidation_actions_total": [["partial", "full", "collateral", "takeover"]],
        "liq_adl_closes_total": [symbols],
        "liq_adl_waves_total": [["queue", "pro_rata", "water_filling"]],
        "liq_holds": [["stale_mark", "price_band", "paused", "warming_up", "flow_budget"]],
        "liq_held_total": [["stale_mark", "price_band", "paused", "warming_up", "flow_budget"]],
        "liq_flow_backlog": [symbols],
        "liq_flow_used_ratio": [symbols],
        "liq_insurance_fund_balance": [assets],
        "liq_fees_balance": [assets],
        "liq_uncovered_balance": [assets],
        "liq_bad_debt_total": [debts],
        "liq_bad_debt_paid_total": [debts, ["insurance", "adl", "socialisation", "nobody"]],
        "liq_snapshots_total": [["written", "failed", "published", "not_published"]],
        "liq_hash_mismatches_total": [["journal", "snapshot"]],
    }
    causes = ["transfer", "fill", "funding", "liquidation_fee", "surplus", "takeover", "bad_debt"]
    listed |= {f"liq_insurance_fund_{way}_total": [assets, causes] for way in ("received", "paid")}
    for name, values in listed.items():
        yield name, {("1", *combination) for combination in product(*values)}


async def test_every_combination_of_labels_is_there_at_0_before_anything_happens(metrics: Metrics, risk: Risk) -> None:
    samples = samples_of(await page_of(metrics.exposition))
    families = {family.name: family for family in metrics.catalogue.families}
    found: dict[str, set[tuple[str, ...]]] = {}
    for (name, labels), value in samples.items():
        of = dict(labels)
        if of.get("shard") == "1":
            base = name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
            family = families.get(name) or families[base]
            found.setdefault(family.name, set()).add(tuple(of[label] for label in family.labels))
            is_set = family.name in ("liq_state", "liq_last_progress_timestamp_seconds")
            assert value == 0 or is_set, (name, labels)
    expected = dict(combinations(risk))
    for name, family in families.items():
        if family.labels == ("shard",):
            expected[name] = {("1",)}
    outputs = found.pop("liq_outputs_total")
    assert found == expected
    assert {topic for _, topic, _ in outputs} == set(OUTPUT_TOPICS)
    assert len(outputs) == 16


async def test_the_state_is_one_of_its_shard_and_no_other(metrics: Metrics) -> None:
    for state in names.STATES:
        metrics.shards[0].enter(state)
        samples = samples_of(await page_of(metrics.exposition))
        assert by_label(samples, "liq_state", "shard", "state") == {("0", state): 1, ("1", "starting"): 1}


def test_no_label_could_ever_be_an_account(metrics: Metrics) -> None:
    allowed = {"shard", "state", "topic", "type", "reason", "symbol", "asset", "band", "cause", "outcome", "stage"}
    allowed |= {"payer", "rule", "result", "what", "version", "python", "numba", "cluster", "delivery", "shards"}
    used = {label for family in metrics.catalogue.families for label in family.labels}
    assert used == allowed | {"config_hash"}


# --- as the outputs say


class Desk:
    """A shard that folds a golden log in batches, and its metrics, as a live session keeps them."""

    def __init__(self, name: str) -> None:
        risk = load_risk(golden.FOLDER / f"{name}.toml")
        self.metrics = Metrics(ServiceConfig(), risk, [0], "0" * 64)
        self.shard = Shard(risk)
        self.fold = Fold(self.shard, Position(offsets={topic: {0: 0} for topic in INPUT_TOPICS}), logical=str)
        self.records: list[Record] = stored(golden_records(name))
        self.outputs: list[Output] = []

    @property
    def own(self) -> ShardMetrics:
        """Return the metrics of the shard."""
        return self.metrics.shards[0]

    def take(self, records: list[Record]) -> None:
        """Fold a batch and count it."""
        self.fold.apply(records)
        _, batch = self.fold.close_batch(delivery="exactly_once", engine="1")
        self.outputs += batch.outputs
        self.own.count_batch(self.shard, batch.runs, batch.outputs)

    def take_all(self, size: int = 97) -> None:
        """Fold the whole log."""
        for begin in range(0, len(self.records), size):
            self.take(self.records[begin : begin + size])

    async def samples(self) -> Samples:
        """Return what a scrape shows."""
        for _ in self.own.refresh(self.shard):
            pass
        return samples_of(await page_of(self.metrics.exposition))


def counted(outputs: list[Output], kind: str, *fields: str) -> dict[Any, int]:
    """Return how many outputs of one type have which values of these fields."""
    return dict(Counter(tuple(one.body[name] for name in fields) for one in outputs if one.body["type"] == kind))


def summed(outputs: list[Output], kind: str, amount: str, *fields: str) -> dict[Any, float]:
    """Return the sum of an amount of outputs of one type by the values of these fields, where it is not 0."""
    sums: dict[Any, Fraction] = defaultdict(Fraction)
    for one in outputs:
        if one.body["type"] == kind:
            sums[tuple(one.body[name] for name in fields)] += Fraction(one.body[amount])
    return {key: float(total) for key, total in sums.items() if total}


@pytest.mark.parametrize("name", GOLDEN)
async def test_the_counts_of_a_day_are_what_its_outputs_say(name: str) -> None:
    desk = Desk(name)
    desk.take_all()
    samples, outputs, counters = await desk.samples(), desk.outputs, desk.shard.counters
    assert by_label(samples, "liq_outputs_total", "topic", "type") == dict(
        Counter((one.topic, one.body["type"]) for one in outputs)
    )
    assert by_label(samples, "liq_rejected_total", "reason") == counted(outputs, "reject", "reason")
    assert by_label(samples, "liq_liquidations_started_total", "cause") == counted(
        outputs, "liquidation_started", "cause"
    )
    assert by_label(samples, "liq_liquidations_ended_total", "outcome") == counted(
        outputs, "liquidation_ended", "outcome"
    )
    stages: dict[Any, float] = dict(counted(outputs, "liquidation_order", "stage"))
    for kind, stage in (("collateral_sale", "collateral"), ("takeover", "takeover")):
        count = sum(counted(outputs, kind).values())
        stages |= {(stage,): count} if count else {}
    assert by_label(samples, "liq_liquidation_actions_total", "stage") == stages
    assert by_label(samples, "liq_held_total", "reason") == counted(outputs, "liquidation_held", "reason")
    assert by_label(samples, "liq_adl_closes_total", "symbol") == counted(outputs, "adl", "symbol")
    assert by_label(samples, "liq_adl_waves_total", "rule") == counted(outputs, "adl_wave", "rule")
    assert by_label(samples, "liq_bad_debt_total", "asset") == summed(outputs, "bad_debt", "deficit", "asset")
    paid = by_label(samples, "liq_bad_debt_paid_total", "asset", "payer")
    for field, payer in (
        ("paid_by_insurance", "insurance"),
        ("paid_by_adl", "adl"),
        ("paid_by_socialisation", "socialisation"),
        ("uncovered", "nobody"),
    ):
        found = {(asset,): value for (asset, who), value in paid.items() if who == payer}
        assert found == summed(outputs, "bad_debt", field, "asset")
    got = by_label(samples, "liq_insurance_fund_received_total", "asset", "cause")
    gave = by_label(samples, "liq_insurance_fund_paid_total", "asset", "cause")
    changes = {key: got.get(key, 0) - gave.get(key, 0) for key in {*got, *gave}}
    assert changes == pytest.approx(summed(outputs, "insurance_fund", "change", "asset", "cause"))
    assert by_label(samples, "liq_inputs_total", "topic") == dict(Counter((record.topic,) for record in desk.records))
    totals = {
        "liq_accepted_total": counters.accepted,
        "liq_duplicates_total": counters.duplicates,
        "liq_ignored_total": counters.ignored,
        "liq_liquidated_notional_total": counters.notional_liquidated / 1e8,
        "liq_liquidations_open": len(desk.shard.episodes),
        "liq_output_seq": desk.shard.seq,
    }
    assert {key: samples[key, (("shard", "0"),)] for key in totals} == totals
    handled = sum(totals[key] for key in list(totals)[:3]) + counters.rejected.total()
    assert handled == len(desk.records) == counters.messages


@pytest.mark.parametrize("name", GOLDEN)
async def test_balances_and_holds_are_those_of_the_book(name: str) -> None:
    desk = Desk(name)
    for begin in range(0, len(desk.records), 50):
        desk.take(desk.records[begin : begin + 50])
        samples, book = await desk.samples(), desk.shard.book
        for index, asset in enumerate(book.assets):
            label = (("asset", asset.name), ("shard", "0"))
            assert samples["liq_insurance_fund_balance", label] == book.wallet(0, index) / 1e8
            assert samples["liq_fees_balance", label] == book.system["$fees"][index] / 1e8
            assert samples["liq_uncovered_balance", label] == -book.system["$bad_debt"][index] / 1e8
        assert by_label(samples, "liq_holds", "reason") == dict(
            Counter((hold.reason,) for hold in desk.shard.holds.values())
        )
        backlog = by_label(samples, "liq_flow_backlog", "symbol")
        assert backlog == dict(
            Counter((hold.symbol,) for hold in desk.shard.holds.values() if hold.reason == "flow_budget")
        )


def test_the_golden_days_have_something_of_every_count() -> None:
    kinds: set[str] = set()
    for name in GOLDEN:
        desk = Desk(name)
        desk.take_all()
        kinds |= {one.body["type"] for one in desk.outputs}
    assert set(COUNTED) <= kinds


async def test_what_a_recovery_folds_again_is_not_counted_again() -> None:
    desk = Desk("desk")
    half = len(desk.records) // 2
    # Folded by whoever had the shard before; this process begins after it.
    desk.fold.apply(desk.records[:half])
    desk.fold.close_batch(delivery="exactly_once", engine="1")
    before = desk.shard.counters.accepted
    desk.own.begin(desk.shard)
    desk.take(desk.records[half:])
    samples = await desk.samples()
    assert samples["liq_accepted_total", (("shard", "0"),)] == desk.shard.counters.accepted - before
    assert by_label(samples, "liq_rejected_total", "reason") == counted(desk.outputs, "reject", "reason")


async def test_a_symbol_and_an_asset_that_control_adds_are_there_from_their_batch_on() -> None:
    desk = Desk("crash")
    ts = 1 << 60
    asset = b'{"type":"set_asset","asset":"NEW","ts":%d}' % ts
    symbol = (
        b'{"type":"set_instrument","symbol":"NEWUSDT","settle":"NEW","price_tick":"0.1","lot":"0.001",'
        b'"tiers":[["0","0.01","50"]],"ts":%d}' % ts
    )
    assert not any("NEW" in str(key) for key in await desk.samples())
    desk.take([Record("control", b"*", asset), Record("control", b"*", symbol, offset=1)])
    samples = await desk.samples()
    assert samples["liq_flow_backlog", (("shard", "0"), ("symbol", "NEWUSDT"))] == 0
    assert samples["liq_insurance_fund_balance", (("asset", "NEW"), ("shard", "0"))] == 0
    # Nobody has seen a price of it: its age is that of the process.
    for name, label in (("liq_mark_age_seconds", "symbol"), ("liq_asset_price_age_seconds", "asset")):
        (age,) = (value for key, value in samples.items() if key[0] == name and "NEW" in dict(key[1])[label])
        assert 0 <= age < 600


async def test_the_age_of_a_mark_is_that_of_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk("crash")
    desk.take_all()
    book = desk.shard.book
    now_ts = desk.shard.clock + 7_000_000_000
    monkeypatch.setattr("engine.edges.metrics.shard.time.time_ns", lambda: now_ts)
    samples = await desk.samples()
    assert len(book.instruments) > 1
    for instrument, mark in zip(book.instruments, book.marks, strict=True):
        age = samples["liq_mark_age_seconds", (("shard", "0"), ("symbol", instrument.symbol))]
        assert age == (now_ts - mark.ts) / 1e9


async def test_a_survey_is_shown_as_it_was_reported() -> None:
    desk = Desk("crash")
    desk.take(desk.records[:400])
    report = Survey(desk.shard).advance(1_000_000)
    assert report is not None
    assert report.riskiest
    desk.metrics.put_survey(0, report)
    samples = await desk.samples()
    bands = {(band,): count for band, count in report.bands.items() if count}
    assert by_label(samples, "liq_accounts", "band") == bands
    worst = report.riskiest[0]
    assert samples["liq_worst_margin_ratio", (("shard", "0"),)] == (inf if worst.ratio is None else worst.ratio / 1e8)


def test_whatever_stands_in_an_output_is_in_the_closed_sets(risk: Risk) -> None:
    kinds = {kind for kinds in names.OUTPUTS.values() for kind in kinds}
    assert set(COUNTED) <= kinds
    assert names.OUTPUTS[DEAD_LETTERS_TOPIC] == ("reject",)
    assert set(names.OUTPUTS) == set(OUTPUT_TOPICS)
    for name in GOLDEN:
        desk = Desk(name)
        before = {family.name: set(family.places) for family in desk.metrics.catalogue.families}
        desk.take_all()
        assert {family.name: set(family.places) for family in desk.metrics.catalogue.families} == before, name


# --- as prometheus_client would show it


VALUES = st.one_of(
    st.integers(-(10**18), 10**18), st.floats(allow_nan=False), st.sampled_from([inf, -inf, nan, 0, 0.1, 1e6, 1e16])
)
TEXTS = st.text(max_size=8).filter(lambda text: text.isprintable() or "\n" in text)


@given(st.lists(st.tuples(TEXTS, TEXTS, VALUES), max_size=300), st.lists(st.floats(0, 100), max_size=50))
async def test_the_page_is_byte_for_byte_what_generate_latest_gives(
    rows: list[tuple[str, str, float]], seconds: list[float]
) -> None:
    gauge = Family("gauge", "liq_x", ("zeta", "alpha"), "Some text.")
    counter = Family("counter", "liq_y_total", (), "Other \\ text.", unit=100_000_000)
    histogram = Histogram("liq_z_seconds", ("shard",), "More text.")
    families = [gauge, counter, histogram]
    exposition = Exposition(families)
    registry = registry_of(families)
    place = histogram.add("0")
    for zeta, alpha, value in rows:
        gauge.put(value, zeta, alpha)
        counter.inc(1)
    assert await page_of(exposition) == generate_latest(registry)
    # And once more, when some lines are known from the last time, and some are new.
    for second in seconds:
        histogram.observe(place, second, 3)
        gauge.put(second, "new", str(second))
    histogram.add("1")
    assert await page_of(exposition) == generate_latest(registry)


async def test_no_piece_has_more_lines_than_its_bound_and_others_have_their_turn_between(metrics: Metrics) -> None:
    turns = 0

    async def rest() -> None:
        nonlocal turns
        turns += 1

    pieces = [piece async for piece in metrics.exposition.pieces(rest)]
    # The head of a family counts as one line and has two; one may stand at the end of a piece that is full.
    assert max(piece.count(b"\n") - piece.count(b"# TYPE") for piece in pieces) <= LINES_MAX + 1
    assert turns == len(pieces) - 1 > 10


@pytest.mark.parametrize("step", range(len(BOUNDS)))
def test_a_duration_counts_in_the_bucket_that_ends_at_or_after_it(step: int) -> None:
    histogram = Histogram("liq_z_seconds", (), "Text.")
    place = histogram.add()
    histogram.observe(place, BOUNDS[step])
    assert histogram.shown()[step] == 1
    assert step == 0 or histogram.shown()[step - 1] == 0
    histogram.observe(place, BOUNDS[step] * 1.0001)
    assert histogram.shown()[step : step + 2] == [1, 2]


def test_buckets_are_half_powers_of_two_from_a_microsecond_past_the_longest_commit() -> None:
    assert BOUNDS[0] == 1e-6
    assert BOUNDS[-1] > 15
    for lower, upper in zip(BOUNDS, BOUNDS[2:], strict=False):
        assert upper / lower == pytest.approx(2, rel=1e-5)


# --- as others read it


def promtool(page: bytes) -> subprocess.CompletedProcess[bytes]:
    """Return what promtool says of a page."""
    return subprocess.run([program("promtool"), "check", "metrics"], input=page, capture_output=True, check=False)


@pytest.mark.parametrize("name", GOLDEN)
async def test_promtool_finds_nothing_to_say(name: str) -> None:
    desk = Desk(name)
    desk.take_all()
    page = await page_of(desk.metrics.exposition)
    checked = await in_thread(promtool, page)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


async def test_promtool_would_find_something() -> None:
    sheep = Family("counter", "liq_sheep", (), "Counted, and not called a total.")
    sheep.inc(1)
    page = await page_of(Exposition([sheep]))
    checked = await in_thread(promtool, page)
    assert checked.returncode != 0


def test_the_table_in_the_readme_is_the_catalogue() -> None:
    readme = (ROOT / "README.md").read_text()
    table = ["| name | type | labels | what it says |", "|---|---|---|---|"]
    for family in Catalogue().families:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        table.append(f"| `{family.name}` | {family.kind} | {labels} | {family.text} |")
    assert "\n".join(table) in readme, "\n".join(["README.md, Metrics:", *table])


def test_every_name_has_its_prefix_unit_and_sentence() -> None:
    for family in Catalogue().families:
        assert family.name.startswith("liq_")
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert family.text.endswith(".")
        if family.kind == "histogram":
            assert family.name.endswith("_seconds")
