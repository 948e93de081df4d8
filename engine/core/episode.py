"""How an episode begins and ends, and what its last record says about it."""

from __future__ import annotations

from engine.core.debts import emit_bad_debt
from engine.core.decision import standing_fields, target_equity
from engine.core.events import EVENTS_TOPIC, ORDERS_TOPIC
from engine.core.shard import Episode, Shard
from engine.units import format_units


def start_episode(shard: Shard, row: int, cause: str) -> Episode:
    """Open an episode: say so, and have the account's own orders cancelled."""
    account = shard.book.accounts[row]
    episode = shard.open_episode(row)
    names = {"liquidation_id": episode.liquidation_id, "cause": cause}
    shard.emit(EVENTS_TOPIC, account, "liquidation_started", {**standing_fields(shard, row), **names})
    cancel = {**shard.subject(row), "liquidation_id": episode.liquidation_id}
    shard.emit(ORDERS_TOPIC, account, "cancel_orders", cancel)
    return episode


def end_episode(shard: Shard, episode: Episode, outcome: str) -> None:
    """Close an episode, with its bad debt if the waterfall bore a loss."""
    book, row = shard.book, episode.row
    deficit = episode.paid_by_insurance + episode.paid_by_adl
    if deficit > 0:
        emit_bad_debt(
            shard, episode, book.policy.valuation, deficit, episode.paid_by_insurance, episode.paid_by_adl, 0, 0
        )
    fields = {
        "liquidation_id": episode.liquidation_id,
        **shard.subject(row),
        "outcome": outcome,
        "equity": format_units(book.equity(row)),
        "closed_notional": format_units(episode.closed_notional),
        "cost": format_units(episode.cost),
        "not_needed": format_units(not_needed(shard, episode)),
    }
    shard.emit(EVENTS_TOPIC, book.accounts[row], "liquidation_ended", fields)
    shard.close_episode(episode)


def not_needed(shard: Shard, episode: Episode) -> int:
    """Return how much closed notional could stand open again at the marks with the target still met.

    The last closes are put back first, in whole lots; putting back at the mark changes margin, not equity. What they
    were worth when they were closed counts, in valuation units, rounded down: never more than ``closed_notional``.
    Nothing counts where positions were taken over: they were not closed by choice.
    """
    book, row = shard.book, episode.row
    if episode.outcome is not None:
        return 0
    equity, maintenance = book.equity(row), book.maintenance(row)
    reopened: dict[tuple[int, int], int] = {}
    total = 0
    for symbol, leg, traded, worth in reversed(episode.closed):
        instrument = book.instruments[symbol]
        held = book.position(row, symbol, leg)[0] + reopened.get((symbol, leg), 0)
        margin = book.position_values(symbol, held, 0)[1]
        low, high = 0, abs(traded) // instrument.lot_steps
        sign = -1 if traded > 0 else 1
        while low < high:
            middle = (low + high + 1) // 2
            more = book.position_values(symbol, held + sign * middle * instrument.lot_steps, 0)[1] - margin
            if equity >= target_equity(maintenance + more, book.policy.target_buffer_ppm):
                low = middle
            else:
                high = middle - 1
        size = sign * low * instrument.lot_steps
        maintenance += book.position_values(symbol, held + size, 0)[1] - margin
        reopened[symbol, leg] = reopened.get((symbol, leg), 0) + size
        total += worth * abs(size) // abs(traded)
    return total
