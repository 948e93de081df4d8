"""What the outputs of a committed batch add to the counts: by type, and what each says about liquidations and money."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from engine.core.events import Output
from engine.edges.metrics.catalogue import Catalogue
from engine.errors import check
from engine.units import try_units

Body = dict[str, Any]
# bad_debt's field -> the label of who paid
PAID_BY = {
    "paid_by_insurance": "insurance",
    "paid_by_adl": "adl",
    "paid_by_socialisation": "socialisation",
    "uncovered": "nobody",
}


def units_of(text: str) -> int:
    """Return an amount of an output in units."""
    units = try_units(text)
    check(units is not None, f"{text!r} of an output is no amount")
    return units or 0


def count_outputs(catalogue: Catalogue, shard: str, outputs: Iterable[Output]) -> None:
    """Count outputs of a shard."""
    for output in outputs:
        kind = output.body["type"]
        catalogue.outputs.inc(1, shard, output.topic, kind)
        count = COUNTED.get(kind)
        if count is not None:
            count(catalogue, shard, output.body)


def count_order(catalogue: Catalogue, shard: str, body: Body) -> None:
    """Count a liquidation order by its stage."""
    catalogue.stages.inc(1, shard, body["stage"])


def count_sale(catalogue: Catalogue, shard: str, _: Body) -> None:
    """Count a sale of collateral."""
    catalogue.stages.inc(1, shard, "collateral")


def count_takeover(catalogue: Catalogue, shard: str, _: Body) -> None:
    """Count a takeover."""
    catalogue.stages.inc(1, shard, "takeover")


def count_start(catalogue: Catalogue, shard: str, body: Body) -> None:
    """Count a liquidation begun."""
    catalogue.started.inc(1, shard, body["cause"])


def count_end(catalogue: Catalogue, shard: str, body: Body) -> None:
    """Count a liquidation ended."""
    catalogue.ended.inc(1, shard, body["outcome"])


def count_hold(catalogue: Catalogue, shard: str, body: Body) -> None:
    """Count a hold begun."""
    catalogue.held.inc(1, shard, body["reason"])


def count_adl(catalogue: Catalogue, shard: str, body: Body) -> None:
    """Count a counterparty's position closed."""
    catalogue.adl.inc(1, shard, body["symbol"])


def count_wave(catalogue: Catalogue, shard: str, body: Body) -> None:
    """Count a wave of ADL."""
    catalogue.adl_waves.inc(1, shard, body["rule"])


def count_fund(catalogue: Catalogue, shard: str, body: Body) -> None:
    """Count what the fund got or gave."""
    change = units_of(body["change"])
    family = catalogue.fund_received if change > 0 else catalogue.fund_paid
    family.inc(abs(change), shard, body["asset"], body["cause"])


def count_bad_debt(catalogue: Catalogue, shard: str, body: Body) -> None:
    """Count a deficit and who bore it."""
    asset = body["asset"]
    catalogue.bad_debt.inc(units_of(body["deficit"]), shard, asset)
    for field, payer in PAID_BY.items():
        catalogue.bad_debt_paid.inc(units_of(body[field]), shard, asset, payer)


COUNTED: dict[str, Callable[[Catalogue, str, Body], None]] = {
    "liquidation_order": count_order,
    "collateral_sale": count_sale,
    "takeover": count_takeover,
    "liquidation_started": count_start,
    "liquidation_ended": count_end,
    "liquidation_held": count_hold,
    "adl": count_adl,
    "adl_wave": count_wave,
    "insurance_fund": count_fund,
    "bad_debt": count_bad_debt,
}
