"""What a live shard shows of itself, as JSON-ready documents: an account, the market, liquidations, the fund.

Each is a function of the shard alone, changes nothing, and takes a time that is bounded by what it lists: the rows of
an account, the symbols, ``limit`` liquidations. Numbers are decimal strings as everywhere; times are nanoseconds, the
clock of the shard. What covers the whole book comes from the last survey (``core/survey.py``) and says when that was.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from engine.core.book import INSURANCE_ROW, LEG_NAMES, Book, Price
from engine.core.decision import asset_price_fields, collateral_fields, mark_fields, position_fields
from engine.core.distance import MILLI_DECIMALS, FactorSearch, Move, SymbolMove, distance_of
from engine.core.guards import ALL, is_stale, row_assets, row_symbols
from engine.core.heatmap import Heatmap
from engine.core.kernels.tables import COUNT
from engine.core.ladders import SurveyOptions, betas_of
from engine.core.margin import format_price
from engine.core.shard import Episode, Order, Shard
from engine.core.survey import SurveyReport
from engine.core.takeover import fund_equity
from engine.core.volatility import Sigmas
from engine.edges.accounts import account_fields, account_rows, missing_prices
from engine.units import NS_PER_MS, UNIT_DECIMALS, format_ppm, format_scaled, format_units

# The fund's positions are shown by the same code as an account's.
FUND_FIELDS = ("symbol", "qty", "entry_price", "notional", "unrealised_pnl")


def account_document(shard: Shard, account: str, options: SurveyOptions, sigmas: Sigmas) -> dict[str, Any] | None:
    """Return an account's rows as ``liq-engine margin`` prints them, and what is under way; None if it is not known.

    ``explained`` has what those figures are made of, as a decision would; ``distances`` how far each row stands from
    its liquidation. A row that lacks a price has no figures: it is listed under ``unpriced`` with the prices it waits
    for.
    """
    rows = account_rows(shard, account)
    if not rows or account.startswith("$"):
        return None
    missing = {row: sorted(missing_prices(shard.book, row)) for row in rows}
    search = FactorSearch(shard.book.tables.view, betas_of(shard.book, options))
    return {
        "account": account,
        "shard": shard.number,
        "ts": shard.clock,
        "accounts": [account_fields(shard, row) for row in rows if not missing[row]],
        "explained": [explained_fields(shard, row) for row in rows if not missing[row]],
        "distances": [distance_fields(shard, row, search, sigmas) for row in rows if not missing[row]],
        "unpriced": [{**shard.subject(row), "missing": missing[row]} for row in rows if missing[row]],
        "liquidations": [episode_fields(shard, shard.episodes[row]) for row in rows if row in shard.episodes],
        "held": [hold_fields(shard, row) for row in rows if row in shard.holds],
    }


def explained_fields(shard: Shard, row: int) -> dict[str, Any]:
    """Return what a row's figures are made of: when it is liquidatable, prices, tiers, balances and what they count."""
    book = shard.book
    return {
        **shard.subject(row),
        "trigger": book.policy.trigger,
        "valuation": book.policy.valuation,
        "marks": [mark_fields(shard, symbol) for symbol in row_symbols(book, row)],
        "asset_prices": [asset_price_fields(shard, asset) for asset in row_assets(book, row)],
        "positions": position_fields(shard, row),
        "collateral": [collateral_fields(shard, row, asset) for asset in row_assets(book, row)],
    }


def distance_fields(shard: Shard, row: int, search: FactorSearch, sigmas: Sigmas) -> dict[str, Any]:
    """Return how far a row stands from its liquidation: along the common factor, and along each of its symbols."""
    distance = distance_of(shard.book, row, search, sigmas)
    symbols = [symbol_move_fields(shard.book, move) for move in distance.symbols]
    return {**shard.subject(row), **factor_fields(distance.factor), "symbols": symbols}


def factor_fields(move: Move | None) -> dict[str, Any]:
    """Return a move of the common factor, null where none leaves the row liquidatable, and what it is in sigmas."""
    return {f"factor_{name}": value for name, value in move_fields(move).items()}


def move_fields(move: Move | None) -> dict[str, Any]:
    """Return a move as a fraction of the price, and as a multiple of a day's volatility, null where not known."""
    milli_sigma = None if move is None else move.milli_sigma
    return {
        "move": None if move is None else format_ppm(move.ppm),
        "sigmas": None if milli_sigma is None else format_scaled(milli_sigma, MILLI_DECIMALS),
    }


def symbol_move_fields(book: Book, found: SymbolMove) -> dict[str, Any]:
    """Return the way to one symbol's liquidation price, and between which marks the row is liquidatable."""
    instrument = book.instruments[found.symbol]
    ends = [[format_price(end, instrument.price_decimals) for end in stretch] for stretch in found.ranges]
    return {
        "symbol": instrument.symbol,
        "liquidation_price": format_price(found.mark, instrument.price_decimals),
        **move_fields(found.move),
        "liquidatable": [{"from": first, "to": last} for first, last in ends],
    }


def hold_fields(shard: Shard, row: int) -> dict[str, Any]:
    """Return why a row is not acted on, and since when."""
    hold = shard.holds[row]
    return {**shard.subject(row), "reason": hold.reason, "symbol": hold.symbol, "since": hold.since}


# Liquidations.


def liquidations_document(shard: Shard, *, limit: int) -> dict[str, Any]:
    """Return the liquidations and holds under way, the oldest ``limit`` of each; how many there are in all."""
    return {
        "shard": shard.number,
        "ts": shard.clock,
        "open_count": len(shard.episodes),
        "open": [episode_fields(shard, episode) for episode in islice(shard.episodes.values(), limit)],
        "held_count": len(shard.holds),
        "held": [hold_fields(shard, row) for row in islice(shard.holds, limit)],
    }


def episode_fields(shard: Shard, episode: Episode) -> dict[str, Any]:
    """Return one liquidation: what it waits for, and what it has done so far."""
    book, row = shard.book, episode.row
    return {
        "liquidation_id": episode.liquidation_id,
        **shard.subject(row),
        "stage": stage_of(shard, episode),
        "equity": format_units(book.equity(row)),
        "maintenance_margin": format_units(book.maintenance(row)),
        "orders_sent": episode.orders_count,
        "attempts": episode.attempts,
        "closed_notional": format_units(episode.closed_notional),
        "cost": format_units(episode.cost),
        "waiting": [order_fields(shard, order) for order in episode.orders.values()],
    }


def stage_of(shard: Shard, episode: Episode) -> str:
    """Return what a liquidation waits for: answers to ``orders``, the end of a hold, or a ``taker``."""
    if episode.orders:
        return "orders"
    return "taker" if episode.row in shard.stuck else "held"


def order_fields(shard: Shard, order: Order) -> dict[str, Any]:
    """Return an order or sale in flight, and when it times out."""
    book, names = shard.book, {"order_id": order.order_id, "due": order.due_ts}
    if order.is_sale:
        assets = {"asset": book.assets[order.asset].name, "for_asset": book.assets[order.for_asset].name}
        return {**names, **assets, "amount": format_units(order.amount)}
    instrument = book.instruments[order.symbol]
    return {
        **names,
        "symbol": instrument.symbol,
        "leg": LEG_NAMES[order.leg],
        "side": "sell" if order.size < 0 else "buy",
        "qty": format_scaled(abs(order.size), instrument.size_decimals),
        "left": format_scaled(abs(order.left), instrument.size_decimals),
        "limit_price": format_price(order.limit, instrument.price_decimals),
    }


# The market.


def marks_document(shard: Shard) -> dict[str, Any]:
    """Return every mark and asset price: how old against the clock, what waits to be confirmed, who depends on it."""
    book = shard.book
    counts = book.tables.symbols[:, COUNT].tolist()
    marks = []
    for symbol in sorted(range(len(book.instruments)), key=lambda index: book.instruments[index].symbol):
        instrument = book.instruments[symbol]
        fields = price_fields(shard, book.marks[symbol], instrument.price_decimals)
        held = instrument.symbol in shard.paused or ALL in shard.paused
        marks.append(
            {"symbol": instrument.symbol, **fields, "positions": counts[symbol], "paused": held},
        )
    prices = [
        {"asset": asset.name, **price_fields(shard, price, UNIT_DECIMALS), "fixed": asset.price_units is not None}
        for asset, price in sorted(zip(book.assets, book.asset_prices, strict=True), key=lambda pair: pair[0].name)
    ]
    return {"shard": shard.number, "ts": shard.clock, "marks": marks, "asset_prices": prices}


def price_fields(shard: Shard, price: Price, decimals: int) -> dict[str, Any]:
    """Return a price in force (null where unknown), its age against the clock, and the one that is not yet believed."""
    return {
        "price": format_scaled(price.value, decimals) if price.value else None,
        "price_ts": price.ts,
        "age_ms": (shard.clock - price.ts) // NS_PER_MS if price.value else None,
        "stale": bool(price.value) and is_stale(shard, price),
        "seen": price.is_seen,
        "pending": format_scaled(price.pending, decimals) if price.pending else None,
    }


# The fund.


def fund_document(shard: Shard) -> dict[str, Any]:
    """Return what the fund holds: wallets and positions at marks, its equity in the valuation currency."""
    book = shard.book
    wallets = ((asset.name, book.wallet(INSURANCE_ROW, index)) for index, asset in enumerate(book.assets))
    missing = missing_prices(book, INSURANCE_ROW)
    positions = account_fields(shard, INSURANCE_ROW)["positions"] if not missing else []
    return {
        "shard": shard.number,
        "ts": shard.clock,
        "balances": {name: format_units(units) for name, units in sorted(wallets) if units},
        "equity": None if missing else format_units(fund_equity(book)),
        "floor": format_units(book.policy.insurance_floor_units),
        "positions": [{name: position[name] for name in FUND_FIELDS} for position in positions],
    }


# What covers the whole book.


def riskiest_document(shard: Shard, report: SurveyReport, *, limit: int) -> dict[str, Any]:
    """Return the rows closest to their liquidation, or beyond it, and how many rows there are by margin ratio."""
    return {
        **survey_fields(shard, report),
        "rows": report.rows,
        "unpriced": report.unpriced,
        "bands": dict(report.bands),
        "riskiest": [
            {
                "account": risky.account,
                **({"bucket": risky.bucket} if risky.bucket else {}),
                "equity": format_units(risky.equity),
                "maintenance_margin": format_units(risky.maintenance),
                "margin_ratio": None if risky.ratio is None else format_units(risky.ratio),
                **factor_fields(risky.factor),
            }
            for risky in report.riskiest[:limit]
        ],
    }


def heatmap_document(shard: Shard, report: SurveyReport, heatmap: Heatmap) -> dict[str, Any]:
    """Return how much would be liquidated at each price of a symbol, or at each move of all of them together."""
    return {
        **survey_fields(shard, report),
        "symbol": heatmap.symbol,
        "left_out": heatmap.left_out,
        "edges": [format_scaled(edge, heatmap.decimals) for edge in heatmap.edges],
        "moves": [format_ppm(move) for move in heatmap.moves_ppm],
        "long": amounts(heatmap.long_units),
        "short": amounts(heatmap.short_units),
        "accounts": list(heatmap.rows),
        "ladder": [
            {"long": format_units(long), "short": format_units(short), "accounts": rows}
            for long, short, rows in heatmap.ladder()
        ],
    }


def survey_fields(shard: Shard, report: SurveyReport) -> dict[str, Any]:
    """Return of which shard a survey is, and when it was made."""
    return {"shard": shard.number, "ts": shard.clock, "survey_began": report.began_ts, "survey_ended": report.ended_ts}


def amounts(units: Iterable[int]) -> list[str]:
    """Return amounts as decimal strings."""
    return [format_units(amount) for amount in units]
