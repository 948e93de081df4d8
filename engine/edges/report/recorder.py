"""What a run looked like, collected while it runs, in memory that does not grow with the log.

``RunRecorder`` is fed every mark and every output, and keeps per symbol 600 price points, 240 bars of orders by
stage, 600 points of each fund wallet and of the totals, the largest episodes with their records, and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core.events import DEAD_LETTERS_TOPIC
from engine.core.params import Instrument
from engine.edges.report import page
from engine.edges.report.buckets import Buckets
from engine.edges.report.episodes import Body, EpisodeBoard
from engine.edges.report.exposure import Explained, ExposureSampler, Sample
from engine.edges.report.series import (
    STAGES,
    FundSeries,
    HeatMap,
    Peak,
    PriceSeries,
    StageBar,
    SymbolTotals,
    Totals,
    decimal_of,
    stage_buckets,
    totals_buckets,
)

REJECT_SAMPLES_MAX = 12


class RunRecorder:
    """Everything the report needs of one run."""

    def __init__(self, instruments: Mapping[str, Instrument] | None = None) -> None:
        """Record a run over ``instruments``, which may grow meanwhile; a symbol not in it is linear, multiplier 1."""
        self._instruments = {} if instruments is None else instruments
        self.prices: dict[str, PriceSeries] = {}
        self.stages: Buckets[StageBar] = stage_buckets()
        self.heat: dict[str, HeatMap] = {}
        self.peak = Peak()
        self.totals: Buckets[Totals] = totals_buckets()
        self.total = Totals()
        self.funds: dict[str, FundSeries] = {}
        self.symbols: dict[str, SymbolTotals] = {}
        self.episodes = EpisodeBoard()
        self.counts: dict[str, int] = {}
        self.cost = Decimal(0)
        self.held_reasons: dict[str, int] = {}
        self.released_reasons: dict[str, int] = {}
        self.samples: list[Sample] = []
        self.explained: Explained | None = None
        self.currency = ""
        self.outcomes: dict[str, int] = {}
        self.reject_samples: list[Body] = []
        self.first_ts = 0
        self.last_ts = 0
        self._handlers: dict[str, Callable[[Body], None]] = {
            "liquidation_started": self._on_started,
            "liquidation_order": self._on_order,
            "collateral_sale": self._on_sale,
            "takeover": self._on_takeover,
            "liquidation_ended": self._on_ended,
            "liquidation_held": self._on_held,
            "liquidation_released": self._on_released,
            "insurance_fund": self._on_fund,
            "bad_debt": self.episodes.on_follow_up,
            "adl_wave": self._on_wave,
            "adl_remaining": self.episodes.on_follow_up,
        }

    def on_mark(self, symbol: str, price: float, ts: int) -> None:
        """Add an accepted mark."""
        series = self.prices.get(symbol)
        if series is None:
            series = self.prices[symbol] = PriceSeries(price)
        series.on_mark(price, ts)
        self.note_time(ts)

    def note_time(self, ts: int) -> None:
        """Take note of the time of a mark, in the order of the log."""
        if ts > self.last_ts:
            self.last_ts = ts
            if self.first_ts == 0:
                self.first_ts = ts

    def on_marks(self, symbol: str, prices: npt.NDArray[np.float64], times: npt.NDArray[np.int64]) -> None:
        """Add marks of one symbol in their order."""
        self.on_mark(symbol, float(prices[0]), int(times[0]))
        self.prices[symbol].on_marks(prices[1:], times[1:])
        self.last_ts = max(self.last_ts, int(times.max()))

    def on_output(self, topic: str, body: Body) -> None:
        """Add one output record; a kind that the report does not show is counted."""
        if topic == DEAD_LETTERS_TOPIC:
            if len(self.reject_samples) < REJECT_SAMPLES_MAX:
                self.reject_samples.append(body)
            return
        kind = body["type"]
        self.counts[kind] = self.counts.get(kind, 0) + 1
        ts = body["ts"]
        if ts > self.last_ts:
            self.last_ts = ts
        if self.first_ts == 0:
            self.first_ts = ts
        handler = self._handlers.get(kind)
        if handler is not None:
            handler(body)

    def finish(self, sampler: ExposureSampler) -> None:
        """Take over the samples of a run that is over, who was left liquidatable, and what it is all counted in."""
        self.currency = sampler.shard.book.policy.valuation
        self.explained = sampler.finish()
        self.samples = sampler.samples

    def render(
        self,
        summary: dict[str, Any],
        *,
        title: str,
        inputs: list[str],
        risk_name: str,
        alternatives: Sequence[dict[str, Any]] = (),
    ) -> str:
        """Return the report: one HTML file under 1 MB that needs nothing else."""
        return page.render(
            self, summary, title=title, inputs=inputs, risk_name=risk_name, alternatives=list(alternatives)
        )

    def notional(self, symbol: str, qty: object, other_price: object = None) -> float:
        """Return what ``qty`` is worth at the symbol's last mark, or at ``other_price`` before its first.

        An inverse contract is worth its face value; all others qty x multiplier x price.
        """
        instrument = self._instruments.get(symbol)
        is_inverse, multiplier = (False, 1.0) if instrument is None else contract_size(instrument)
        value = abs(float(decimal_of(qty))) * multiplier
        if is_inverse:
            return value
        series = self.prices.get(symbol)
        return value * (series.last if series is not None else float(decimal_of(other_price)))

    def _symbol(self, symbol: str) -> SymbolTotals:
        return self.symbols.setdefault(symbol, SymbolTotals())

    def _on_started(self, body: Body) -> None:
        self.episodes.on_started(body)
        self.total.episodes += 1
        # Ids count an account's episodes from 1, which spares a set of all account names.
        self.total.accounts += body["liquidation_id"].endswith("/1")
        self.stages.at(body["ts"]).started += 1
        self.peak.add(body["ts"], liquidations=1)
        self._note_totals(body["ts"])

    def _on_order(self, body: Body) -> None:
        notional = self.notional(body["symbol"], body["qty"], body.get("limit_price"))
        self.episodes.on_order(body, notional)
        totals = self._symbol(body["symbol"])
        totals.orders += 1
        totals.ordered_notional += notional
        self._note_stage(body["ts"], body.get("stage", ""), notional)
        self._note_heat(body["ts"], body["symbol"], notional)

    def _on_sale(self, body: Body) -> None:
        self.episodes.on_order(body, 0.0)

    def _on_takeover(self, body: Body) -> None:
        taken_notional = 0.0
        for position in body.get("positions", []):
            notional = self.notional(position["symbol"], position["qty"], position.get("price"))
            totals = self._symbol(position["symbol"])
            totals.takeovers += 1
            totals.taken_notional += notional
            taken_notional += notional
            self._note_heat(body["ts"], position["symbol"], notional)
        self.episodes.on_handed_over(body, taken_notional, stage="takeover")
        self._note_stage(body["ts"], "takeover", taken_notional)
        self.total.taken_notional += taken_notional
        self._note_totals(body["ts"])

    def _on_wave(self, body: Body) -> None:
        notional = self.notional(body["symbol"], body.get("taken_qty"))
        totals = self._symbol(body["symbol"])
        totals.waves += 1
        totals.deleveraged_notional += notional
        self.episodes.on_handed_over(body, notional, stage="adl")
        self._note_stage(body["ts"], "adl", notional)
        self._note_heat(body["ts"], body["symbol"], notional)
        self.total.deleveraged_notional += notional
        self._note_totals(body["ts"])

    def _on_ended(self, body: Body) -> None:
        closed_notional = float(decimal_of(body.get("closed_notional")))
        self.episodes.on_ended(body, closed_notional)
        outcome = str(body.get("outcome"))
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.total.closed_notional += closed_notional
        self.cost += decimal_of(body.get("cost"))
        self._note_totals(body["ts"])

    def _on_held(self, body: Body) -> None:
        reason = str(body.get("reason"))
        self.held_reasons[reason] = self.held_reasons.get(reason, 0) + 1

    def _on_released(self, body: Body) -> None:
        reason = str(body.get("reason"))
        self.released_reasons[reason] = self.released_reasons.get(reason, 0) + 1

    def _on_fund(self, body: Body) -> None:
        asset = body["asset"]
        if asset not in self.funds:
            self.funds[asset] = FundSeries(body)
        self.funds[asset].on_step(body)

    def _note_stage(self, ts: int, stage: str, notional: float) -> None:
        if stage in STAGES:
            bar = self.stages.at(ts)
            bar.counts[stage] += 1
            bar.notionals[stage] += notional
            self.peak.add(ts, notional=notional)

    def _note_heat(self, ts: int, symbol: str, notional: float) -> None:
        series = self.prices.get(symbol)
        if series is not None and series.last > 0 and notional > 0:
            self.heat.setdefault(symbol, HeatMap()).add(ts, series.last, notional)

    def _note_totals(self, ts: int) -> None:
        self.total.ts = ts
        self.totals.at(ts).add(self.total)


def contract_size(instrument: Instrument) -> tuple[bool, float]:
    """Return whether the contract is inverse, and its multiplier."""
    mantissa, places = instrument.multiplier
    return instrument.is_inverse, mantissa / 10**places
