"""``liq-engine shadow``: who would have been treated differently with other parameters? Production's own inputs say.

The journal is folded twice, with production's parameters (its outputs must come out as written) and with the
candidate's. Nothing is written to any topic. Both see the same fills: those that answered production's orders are plain
fills to the candidate. Parameters that control messages set later replace the candidate's too, as they would live.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.core.shard import Shard
from engine.edges.codec import load_json
from engine.edges.fold import Fold, Line
from engine.edges.journal import OrderRecord, Position
from engine.edges.metrics.outputs import units_of
from engine.shell.follower import Follower, Origin
from engine.shell.kafka import Kafka
from engine.shell.topics import check_topics
from engine.units import format_units

# What happens to an account, as the events name it. The rest (orders, fund) follows from these.
TREATMENTS = (
    "margin_call",
    "liquidation_started",
    "liquidation_ended",
    "takeover",
    "adl",
    "adl_remaining",
    "bad_debt",
    "liquidation_held",
)


@dataclass
class Side:
    """What one set of parameters did to everybody."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)
    closed_units: int = 0
    deficit_units: Counter[str] = field(default_factory=Counter)

    def take(self, lines: Sequence[Line]) -> set[str]:
        """Count output lines; return the accounts that they are about."""
        touched = set()
        for line in lines:
            body = load_json(line.value)
            kind = body["type"]
            if kind not in TREATMENTS:
                continue
            account = body["counterparty"] if kind == "adl" else body["account"]
            name = f"{kind}:{body['outcome']}" if kind == "liquidation_ended" else kind
            self.counts.setdefault(account, Counter())[name] += 1
            self.totals[name] += 1
            touched.add(account)
            if kind == "liquidation_ended":
                self.closed_units += units_of(body["closed_notional"])
            if kind == "bad_debt":
                self.deficit_units[body["asset"]] += units_of(body["deficit"])
        return touched

    def document(self) -> dict[str, Any]:
        """Return the totals."""
        return {
            **dict(sorted(self.totals.items())),
            "closed_notional": format_units(self.closed_units),
            "deficit": {asset: format_units(amount) for asset, amount in sorted(self.deficit_units.items())},
        }


@dataclass
class Shadow:
    """Production and candidate side by side."""

    candidate: Shard
    production: Side = field(default_factory=Side)
    shadowed: Side = field(default_factory=Side)
    parted: dict[str, dict[str, Any]] = field(default_factory=dict)
    fold: Fold | None = None
    batches: int = 0
    inputs: int = 0

    async def judge(self, record: OrderRecord, records: Sequence[Any], lines: Sequence[Line], fold: Fold) -> None:
        """Fold a batch with the candidate's parameters, and note who parts ways there."""
        if self.fold is None:
            self.fold = Fold(self.candidate, Position(), logical=fold.logical)
        touched = self.production.take(lines) | self.shadowed.take(self.fold.apply(records))
        self.fold.take_batch()
        for account in touched:
            if account not in self.parted and self.of(self.production, account) != self.of(self.shadowed, account):
                self.parted[account] = {"batch": record.batch, "ts": record.clock}
        self.batches += 1
        self.inputs += len(records)

    @staticmethod
    def of(side: Side, account: str) -> dict[str, int]:
        """Return what a side did to an account."""
        return dict(side.counts.get(account, {}))

    def document(self) -> dict[str, Any]:
        """Return both totals and every account that was treated differently in the end, or at some time before."""
        return {
            "batches": self.batches,
            "inputs": self.inputs,
            "production": self.production.document(),
            "candidate": self.shadowed.document(),
            "different": [
                {
                    "account": account,
                    "since": self.parted[account],
                    "production": self.of(self.production, account),
                    "candidate": self.of(self.shadowed, account),
                }
                for account in sorted(self.parted)
            ],
        }


def shadow(kafka: Kafka, origin: Origin, candidate: Shard) -> dict[str, Any]:
    """Fold a shard's whole journal with both; return what differs."""

    async def compare() -> dict[str, Any]:
        await check_topics(kafka)
        both = Shadow(candidate)
        async with Follower(kafka, origin, judge=both.judge) as follower:
            await follower.start()
            await follower.catch_up()
        return both.document()

    return asyncio.run(compare())


def shadow_text(document: dict[str, Any]) -> str:
    """Return the comparison for a terminal."""
    lines = [f"{document['inputs']:,} inputs in {document['batches']:,} batches", ""]
    names = sorted({*document["production"], *document["candidate"]} - {"deficit"})
    lines.append(f"{'':<34}{'production':>20}{'candidate':>20}")
    ours, theirs = document["production"], document["candidate"]
    lines += [f"{name:<34}{ours.get(name, 0):>20}{theirs.get(name, 0):>20}" for name in names]
    lines += ["", f"accounts treated differently: {len(document['different'])}"]
    for entry in document["different"][:20]:
        sides = f"production {entry['production'] or 'nothing'}, candidate {entry['candidate'] or 'nothing'}"
        lines.append(f"  {entry['account']}: since batch {entry['since']['batch']}: {sides}")
    return "\n".join(lines)
