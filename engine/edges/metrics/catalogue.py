"""Which metrics there are, and what each says. The README's table is made of this."""

from __future__ import annotations

from engine.edges.metrics.families import Family, Histogram, Labels
from engine.units import UNIT

SHARD: Labels = ("shard",)
# The values that labels may have, as far as they are known before the risk file is read.
STATES = ("starting", "following", "recovering", "live", "draining", "stopped", "halted")
INPUT_TOPICS = ("mark-prices", "fills", "transfers", "control")
OUTPUTS = {
    "liquidation-orders": ("cancel_orders", "liquidation_order", "collateral_sale"),
    "bad-debt": ("bad_debt",),
    "margin-events": (
        "margin_call",
        "liquidation_started",
        "liquidation_ended",
        "takeover",
        "adl",
        "adl_wave",
        "adl_remaining",
        "insurance_fund",
        "liquidation_held",
        "liquidation_released",
        "policy_changed",
    ),
    "dead-letters": ("reject",),
}
HALTS = ("broker", "fenced", "refused", "input", "invariant")
HOLDS = ("stale_mark", "price_band", "paused", "warming_up", "flow_budget")
CAUSES = ("mark", "fill", "transfer", "funding", "policy")
OUTCOMES = ("healthy", "closed", "taken_over", "deleveraged")
STAGES = ("partial", "full", "collateral", "takeover")
FUND_CAUSES = ("transfer", "fill", "funding", "liquidation_fee", "surplus", "takeover", "bad_debt")
PAYERS = ("insurance", "adl", "socialisation", "nobody")
ADL_RULES = ("queue", "pro_rata", "water_filling")
SNAPSHOT_RESULTS = ("written", "failed", "published", "not_published")
MISMATCHES = ("journal", "snapshot")
UNPRICED = "unpriced"


class Catalogue:
    """All families, an attribute each; ``families`` has them in the order of the page."""

    def __init__(self) -> None:
        self.families: list[Family] = []
        self._add_service()
        self._add_latencies()
        self._add_flow()
        self._add_market()
        self._add_liquidations()
        self._add_money()
        self._add_durability()

    def _gauge(self, name: str, text: str, labels: Labels = SHARD, *, unit: int = 1) -> Family:
        self.families.append(Family("gauge", f"liq_{name}", labels, text, unit=unit))
        return self.families[-1]

    def _counter(self, name: str, text: str, labels: Labels = SHARD, *, unit: int = 1) -> Family:
        self.families.append(Family("counter", f"liq_{name}_total", labels, text, unit=unit))
        return self.families[-1]

    def _histogram(self, name: str, text: str, labels: Labels = SHARD) -> Histogram:
        family = Histogram(f"liq_{name}_seconds", labels, text)
        self.families.append(family)
        return family

    def _add_service(self) -> None:
        self.build_info = self._gauge(
            "build_info", "1; which engine on which Python and numba.", ("version", "python", "numba")
        )
        self.config_info = self._gauge(
            "config_info",
            "1; the cluster, its delivery and shards, and the hash of risk file and book.",
            ("cluster", "delivery", "shards", "config_hash"),
        )
        self.shards = self._gauge("shards", "How many shards the cluster has, whoever serves them.", ())
        self.start_timestamp = self._gauge("start_timestamp_seconds", "When this process started, Unix time.", ())
        self.state = self._gauge("state", "1 for the state a shard is in, 0 for the others.", ("shard", "state"))
        self.last_progress = self._gauge(
            "last_progress_timestamp_seconds", "When the shard last committed or changed its state, Unix time."
        )
        self.halts = self._counter(
            "halts", "How often a shard was ended by an error, by its kind.", ("shard", "reason")
        )
        self.loop_lag = self._histogram("loop_lag", "How late the event loop came back to a task it was to wake.", ())

    def _add_latencies(self) -> None:
        self.tick_to_decision = self._histogram(
            "tick_to_decision", "From the arrival of an input to the end of the fold that decided on it, each input."
        )
        self.tick_to_output = self._histogram(
            "tick_to_output", "From the arrival of a batch's oldest input to the commit of its outputs, each batch."
        )
        self.decode = self._histogram("decode", "Reading the lines of a batch by the kernel, each batch.")
        self.fold = self._histogram(
            "fold", "Applying a batch: kernels, decisions, and the encoding of outputs, each batch."
        )
        self.commit = self._histogram("commit", "The transaction of a batch, or of a sign of life.")

    def _add_flow(self) -> None:
        self.inputs = self._counter("inputs", "Inputs committed.", ("shard", "topic"))
        self.accepted = self._counter("accepted", "Inputs that were applied.")
        self.rejected = self._counter("rejected", "Inputs refused, by reason.", ("shard", "reason"))
        self.duplicates = self._counter("duplicates", "Inputs that were there before.")
        self.ignored = self._counter("ignored", "Inputs that are well formed and change nothing: old, blank, foreign.")
        self.outputs = self._counter("outputs", "Outputs committed.", ("shard", "topic", "type"))
        self.batches = self._counter("batches", "Batches committed, signs of life included.")
        self.lag = self._gauge(
            "lag_records", "Inputs at the broker and not committed, as it last said; 0 unless live.", ("shard", "topic")
        )
        self.waiting = self._gauge("waiting_records", "Inputs read and not yet folded.")

    def _add_market(self) -> None:
        self.mark_age = self._gauge(
            "mark_age_seconds",
            "Age of the newest mark of a symbol by the wall clock; without one, since the process started.",
            ("shard", "symbol"),
        )
        self.asset_price_age = self._gauge(
            "asset_price_age_seconds", "The same of an asset whose price is not fixed.", ("shard", "asset")
        )
        self.clock = self._gauge("clock_timestamp_seconds", "The shard's clock: the largest accepted ts, Unix time.")
        self.unconfirmed = self._gauge("unconfirmed_prices", "Marks and asset prices that wait to be confirmed.")
        self.accounts = self._gauge(
            "accounts",
            "Accounts and isolated buckets with positions by margin ratio MM/E, of the last survey.",
            ("shard", "band"),
        )
        self.worst_ratio = self._gauge(
            "worst_margin_ratio", "The highest MM/E of the last survey; +Inf where E <= 0, 0 without positions."
        )
        self.survey_age = self._gauge(
            "survey_age_seconds", "Since the last survey of all accounts ended; without one, since the process started."
        )

    def _add_liquidations(self) -> None:
        self.liquidations_open = self._gauge("liquidations_open", "Liquidations under way.")
        self.started = self._counter("liquidations_started", "Liquidations begun, by cause.", ("shard", "cause"))
        self.ended = self._counter("liquidations_ended", "Liquidations ended, by outcome.", ("shard", "outcome"))
        self.stages = self._counter(
            "liquidation_actions",
            "Orders that close a part or all, sales of collateral, takeovers, by stage.",
            ("shard", "stage"),
        )
        self.notional = self._counter(
            "liquidated_notional", "Notional closed by liquidation orders, in the valuation currency.", unit=UNIT
        )
        self.adl = self._counter("adl_closes", "Positions of counterparties closed by ADL.", ("shard", "symbol"))
        self.adl_waves = self._counter("adl_waves", "Waves of ADL, by rule.", ("shard", "rule"))
        self.holds = self._gauge(
            "holds", "Accounts that need a liquidation or may, and are held, by reason.", ("shard", "reason")
        )
        self.held = self._counter("held", "Holds begun or reported again, by reason.", ("shard", "reason"))
        self.backlog = self._gauge(
            "flow_backlog", "Accounts that wait for the flow budget of a symbol.", ("shard", "symbol")
        )
        self.flow_used = self._gauge(
            "flow_used_ratio",
            "The part of a symbol's flow budget that orders of the present window have used; 0 without a budget.",
            ("shard", "symbol"),
        )
        self.pauses = self._gauge("paused_scopes", "Scopes that control has paused: everything, or symbols.")

    def _add_money(self) -> None:
        self.fund = self._gauge(
            "insurance_fund_balance", "The fund's wallet, in the asset.", ("shard", "asset"), unit=UNIT
        )
        self.fund_received = self._counter(
            "insurance_fund_received",
            "What the fund got, in the asset, by cause.",
            ("shard", "asset", "cause"),
            unit=UNIT,
        )
        self.fund_paid = self._counter(
            "insurance_fund_paid", "What the fund gave, in the asset, by cause.", ("shard", "asset", "cause"), unit=UNIT
        )
        self.fees = self._gauge(
            "fees_balance", "Trading fees taken, less those paid, in the asset.", ("shard", "asset"), unit=UNIT
        )
        self.bad_debt = self._counter("bad_debt", "Deficits, in their asset.", ("shard", "asset"), unit=UNIT)
        self.bad_debt_paid = self._counter(
            "bad_debt_paid", "Who bore the deficits; the parts add up to them.", ("shard", "asset", "payer"), unit=UNIT
        )
        self.uncovered = self._gauge(
            "uncovered_balance", "Deficits that nobody has covered, in the asset.", ("shard", "asset"), unit=UNIT
        )

    def _add_durability(self) -> None:
        self.journal_batch = self._gauge("journal_batch", "Number of the last order record.")
        self.output_seq = self._gauge("output_seq", "Number of the last output.")
        self.snapshot_age = self._gauge(
            "snapshot_age_seconds", "Since the last snapshot was written; without one, since the shard went live."
        )
        self.snapshot_bytes = self._gauge("snapshot_bytes", "Size of the last snapshot written.")
        self.snapshots = self._counter("snapshots", "Snapshots, by what became of them.", ("shard", "result"))
        self.recovery_seconds = self._gauge("recovery_seconds", "How long the last recovery took, or takes so far.")
        self.recovery_events = self._gauge("recovery_events", "Inputs that the last recovery has folded.")
        self.mismatches = self._counter(
            "hash_mismatches",
            "What was found not to be what was written: the journal folded again, a snapshot read.",
            ("shard", "what"),
        )
