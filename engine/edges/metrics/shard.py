"""One shard's metrics: all series there at 0 from the start, counts moved on batch by batch, gauges when scraped."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product
from math import inf

from engine.core.book import INSURANCE_ROW, Book
from engine.core.events import BAD_DEBT, FEES, REJECT_REASONS, Output
from engine.core.kernels.tables import MARK_TS
from engine.core.params import Asset, Risk
from engine.core.shard import Counters, Shard
from engine.core.survey import BANDS, SurveyReport
from engine.edges.fold import Batch, Fold
from engine.edges.journal import Run
from engine.edges.metrics import catalogue as names
from engine.edges.metrics.catalogue import Catalogue
from engine.edges.metrics.families import Family, Histogram
from engine.edges.metrics.outputs import count_outputs
from engine.units import NS_PER_MS, NS_PER_S, UNIT

# Looked at in one piece, of what can be many.
SLICE = 500


class ShardMetrics:
    """The metrics of one shard for the life of the process, whatever workers come and go."""

    def __init__(self, catalogue: Catalogue, shard: int, risk: Risk, *, state: str) -> None:
        self.catalogue = catalogue
        self.label = str(shard)
        self.surveyed_s = self.snapshot_s = time.monotonic()
        self.began_ts = time.time_ns()
        # What the core had counted when we last looked.
        self.seen = Counters()
        self.symbols: list[str] = []
        self.assets: list[str] = []
        self._add_fixed()
        self.add_names(list(risk.instruments), list(risk.assets.values()), risk.policy.valuation)
        self.enter(state)

    # What is there from the start.

    def _add_fixed(self) -> None:
        known = self.catalogue
        labels: dict[Family, Sequence[Sequence[str]]] = {
            known.state: [names.STATES],
            known.halts: [names.HALTS],
            known.inputs: [names.INPUT_TOPICS],
            known.lag: [names.INPUT_TOPICS],
            known.rejected: [REJECT_REASONS],
            known.accounts: [(*BANDS, names.UNPRICED)],
            known.started: [names.CAUSES],
            known.ended: [names.OUTCOMES],
            known.stages: [names.STAGES],
            known.adl_waves: [names.ADL_RULES],
            known.holds: [names.HOLDS],
            known.held: [names.HOLDS],
            known.snapshots: [names.SNAPSHOT_RESULTS],
            known.mismatches: [names.MISMATCHES],
        }
        for family in known.families:
            if family.labels == names.SHARD:
                family.add(self.label)
        for family, values in labels.items():
            for combination in product(*values):
                family.add(self.label, *combination)
        for topic, kinds in names.OUTPUTS.items():
            for kind in kinds:
                known.outputs.add(self.label, topic, kind)

    def add_names(self, symbols: Sequence[str], assets: Sequence[Asset], valuation: str) -> None:
        """Add the series of symbols and assets."""
        known, label = self.catalogue, self.label
        for symbol in symbols:
            for family in (known.mark_age, known.backlog, known.flow_used, known.adl):
                family.add(label, symbol)
        for asset in assets:
            for family in (known.fund, known.fees, known.uncovered):
                family.add(label, asset.name)
            for family, cause in product((known.fund_received, known.fund_paid), names.FUND_CAUSES):
                family.add(label, asset.name, cause)
            if asset.price_units is None:
                known.asset_price_age.add(label, asset.name)
        for name in (*(asset.name for asset in assets), valuation):
            known.bad_debt.add(label, name)
            for payer in names.PAYERS:
                known.bad_debt_paid.add(label, name, payer)
        self.symbols += symbols
        self.assets += [asset.name for asset in assets]

    def take_new_names(self, book: Book) -> None:
        """Add what ``control`` has added."""
        symbols, assets = book.instruments[len(self.symbols) :], book.assets[len(self.assets) :]
        if symbols or assets:
            self.add_names([one.symbol for one in symbols], assets, book.policy.valuation)

    # While it comes to life, lives and ends.

    def enter(self, state: str) -> None:
        """Note the state that the shard is in."""
        for each in names.STATES:
            self.catalogue.state.put(int(each == state), self.label, each)
        self.note_progress()

    def note_progress(self) -> None:
        """Note that the shard has got on."""
        self.catalogue.last_progress.put(time.time(), self.label)

    def begin(self, shard: Shard) -> None:
        """Note what the core has counted up to now: what a recovery folds again was counted before."""
        self.seen = copy_of(shard.counters)
        self.snapshot_s = time.monotonic()
        self.take_new_names(shard.book)

    def observe(self, histogram: Histogram, seconds: float, count: int = 1) -> None:
        """Count how long something of this shard took."""
        histogram.observe(histogram.places[self.label,], seconds, count)

    def observe_fold(self, fold: Fold, arrivals: Iterable[tuple[float, int]]) -> None:
        """Note how long the last inputs took to be read and applied, and since when they, (time, count), were there."""
        known, now_s = self.catalogue, time.monotonic()
        self.observe(known.decode, fold.decode_s)
        self.observe(known.fold, fold.fold_s)
        for arrived_s, count in arrivals:
            self.observe(known.tick_to_decision, now_s - arrived_s, count)

    def observe_commit(self, fold: Fold, batch: Batch, *, oldest_s: float, began_s: float, ended_s: float) -> None:
        """Count a batch that is committed; its oldest input came at ``oldest_s``, the commit began and ended."""
        self.observe(self.catalogue.commit, ended_s - began_s)
        if batch.lines:
            self.observe(self.catalogue.tick_to_output, ended_s - oldest_s)
        self.count_batch(fold.shard, batch.runs, batch.outputs)
        self.catalogue.journal_batch.put(fold.position.batch, self.label)

    def count_batch(self, shard: Shard, runs: Sequence[Run], outputs: Sequence[Output]) -> None:
        """Count a batch that is committed."""
        known, label, now, seen = self.catalogue, self.label, shard.counters, self.seen
        self.take_new_names(shard.book)
        for run in runs:
            known.inputs.inc(run.records, label, run.topic)
        known.accepted.inc(now.accepted - seen.accepted, label)
        known.duplicates.inc(now.duplicates - seen.duplicates, label)
        known.ignored.inc(now.ignored - seen.ignored, label)
        known.notional.inc(now.notional_liquidated - seen.notional_liquidated, label)
        for reason, count in (now.rejected - seen.rejected).items():
            known.rejected.inc(count, label, reason)
        known.batches.inc(1, label)
        self.seen = copy_of(now)
        count_outputs(known, label, outputs)
        self.note_progress()

    def count_halt(self, reason: str) -> None:
        """Count an error that ended the shard."""
        self.catalogue.halts.inc(1, self.label, reason)

    def count_mismatch(self, what: str) -> None:
        """Count something that was not what was written."""
        self.catalogue.mismatches.inc(1, self.label, what)

    def count_snapshot(self, result: str) -> None:
        """Count what became of a snapshot."""
        self.catalogue.snapshots.inc(1, self.label, result)

    def put_snapshot(self, size_bytes: int) -> None:
        """Note that a snapshot was written."""
        self.count_snapshot("written")
        self.catalogue.snapshot_bytes.put(size_bytes, self.label)
        self.snapshot_s = time.monotonic()

    def put_recovery(self, seconds: float, events: int) -> None:
        """Show how far a recovery has come."""
        self.catalogue.recovery_seconds.put(seconds, self.label)
        self.catalogue.recovery_events.put(events, self.label)

    def put_survey(self, report: SurveyReport) -> None:
        """Show what a look at all accounts has found."""
        known, label = self.catalogue, self.label
        for band, count in report.bands.items():
            known.accounts.put(count, label, band)
        known.accounts.put(report.unpriced, label, names.UNPRICED)
        worst = report.riskiest[0] if report.riskiest else None
        ratio = 0 if worst is None else inf if worst.ratio is None else worst.ratio / UNIT
        known.worst_ratio.put(ratio, label)
        self.surveyed_s = time.monotonic()

    # When somebody looks.

    def refresh(self, shard: Shard) -> Iterator[None]:
        """Bring the gauges of a live shard up to date, in pieces with a ``yield`` between."""
        self.take_new_names(shard.book)
        self._put_prices(shard)
        yield
        self._put_money(shard.book)
        self._put_small(shard)
        yield
        yield from self._put_holds(shard)
        yield from self._put_flows(shard)

    def put_ages(self) -> None:
        """Bring up to date what ages while the shard does nothing."""
        now_s = time.monotonic()
        self.catalogue.survey_age.put(now_s - self.surveyed_s, self.label)
        self.catalogue.snapshot_age.put(now_s - self.snapshot_s, self.label)

    def put_lag(self, lag: Mapping[str, int]) -> None:
        """Show how far behind the shard is."""
        for topic in names.INPUT_TOPICS:
            self.catalogue.lag.put(lag.get(topic, 0), self.label, topic)

    def _put_prices(self, shard: Shard) -> None:
        known, label, now_ts, book = self.catalogue, self.label, time.time_ns(), shard.book
        marks: list[int] = book.tables.symbols[: len(book.instruments), MARK_TS].tolist()
        for symbol, ts in zip(self.symbols, marks, strict=True):
            known.mark_age.put((now_ts - (ts or self.began_ts)) / NS_PER_S, label, symbol)
        for asset, price in zip(book.assets, book.asset_prices, strict=True):
            if asset.price_units is None:
                ts = max(price.ts, price.pending_ts)
                known.asset_price_age.put((now_ts - (ts or self.began_ts)) / NS_PER_S, label, asset.name)

    def _put_money(self, book: Book) -> None:
        known, label = self.catalogue, self.label
        for index, name in enumerate(self.assets):
            known.fund.put(book.wallet(INSURANCE_ROW, index), label, name)
            known.fees.put(book.system[FEES][index], label, name)
            # What nobody paid stands there as a debt.
            known.uncovered.put(-book.system[BAD_DEBT][index], label, name)

    def _put_small(self, shard: Shard) -> None:
        known, label = self.catalogue, self.label
        known.clock.put(shard.clock / NS_PER_S, label)
        known.unconfirmed.put(len(shard.book.waiting), label)
        known.liquidations_open.put(len(shard.episodes), label)
        known.pauses.put(len(shard.paused), label)
        known.output_seq.put(shard.seq, label)

    def _put_holds(self, shard: Shard) -> Iterator[None]:
        reasons: Counter[str] = Counter()
        backlog: Counter[str] = Counter()
        # As they are now: they may change between two pieces.
        holds = iter(list(shard.holds.values()))
        while part := list(islice(holds, SLICE)):
            reasons.update(hold.reason for hold in part)
            backlog.update(hold.symbol for hold in part if hold.reason == "flow_budget" and hold.symbol is not None)
            yield
        for reason in names.HOLDS:
            self.catalogue.holds.put(reasons[reason], self.label, reason)
        for symbol in self.symbols:
            self.catalogue.backlog.put(backlog[symbol], self.label, symbol)

    def _put_flows(self, shard: Shard) -> Iterator[None]:
        book = shard.book
        since_ts = shard.clock - book.policy.flow_window_ms * NS_PER_MS
        for index, flow in list(shard.flows.items()):
            instrument = book.instruments[index]
            sent = sum(notional for ts, notional in flow.sent if ts > since_ts)
            budget = instrument.flow_budget_units
            self.catalogue.flow_used.put(sent / budget if budget else 0, self.label, instrument.symbol)
            yield


def copy_of(counters: Counters) -> Counters:
    """Return what is compared with later."""
    return Counters(
        accepted=counters.accepted,
        duplicates=counters.duplicates,
        ignored=counters.ignored,
        notional_liquidated=counters.notional_liquidated,
        rejected=Counter(counters.rejected),
    )
