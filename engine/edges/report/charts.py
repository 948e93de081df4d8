"""The figures that the page's script draws, and what each chart says in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.edges.report import sections
from engine.edges.report.exposure import FALLS_PPM
from engine.edges.report.outlook import band_names
from engine.edges.report.series import STAGES, FundSeries, PriceSeries
from engine.units import NS_PER_MS, PPM

if TYPE_CHECKING:
    from engine.edges.report.recorder import RunRecorder

PRICE_LINES_MAX = 8
FUND_CHARTS_MAX = 4
HEAT_MAPS_MAX = 3
HEAT_ROWS_MAX = 26


def top_prices(recorder: RunRecorder) -> list[tuple[str, PriceSeries]]:
    """Return the symbols worth a line: by notional liquidated, then by how often they were marked."""

    def rank(item: tuple[str, PriceSeries]) -> tuple[float, int, str]:
        totals = recorder.symbols.get(item[0])
        return (-sections.symbol_notional(totals) if totals else 0.0, -item[1].count, item[0])

    return sorted(recorder.prices.items(), key=rank)[:PRICE_LINES_MAX]


def fund_charts(recorder: RunRecorder) -> list[tuple[str, FundSeries]]:
    """Return the fund wallets worth a chart: those that moved most often."""
    return sorted(recorder.funds.items(), key=lambda item: (-item[1].steps, item[0]))[:FUND_CHARTS_MAX]


def heat_maps(recorder: RunRecorder) -> list[tuple[str, PriceSeries]]:
    """Return the symbols worth a heat-map: those with a line in which something was liquidated."""
    return [(symbol, series) for symbol, series in top_prices(recorder) if symbol in recorder.heat][:HEAT_MAPS_MAX]


def price_summary(recorder: RunRecorder) -> str:
    """Return the price chart in words."""
    lines = [
        f"{symbol} from 100 to {100 * series.last / series.first:.1f}, "
        f"low {100 * min(point.low for point in series.points) / series.first:.1f}"
        for symbol, series in top_prices(recorder)[:3]
        if series.first > 0
    ]
    return "Marks indexed to 100: " + "; ".join(lines) if lines else "No marks were recorded"


def bar_summary(recorder: RunRecorder) -> str:
    """Return the bar chart in words."""
    counts = {stage: sum(bar.counts[stage] for bar in recorder.stages.payloads) for stage in STAGES}
    return "Orders, takeovers and deleveragings over time: " + ", ".join(
        f"{counts[stage]:,} {stage}" for stage in STAGES
    )


def chart_data(recorder: RunRecorder) -> dict[str, Any]:
    """Return what the script draws; times in milliseconds since the first message."""
    base_ms = recorder.first_ts // NS_PER_MS
    return {
        "start": base_ms,
        "currency": recorder.currency,
        "span": max(recorder.last_ts // NS_PER_MS - base_ms, 1),
        "prices": [price_line(symbol, series, base_ms) for symbol, series in top_prices(recorder) if series.first > 0],
        "bars": bars(recorder, base_ms),
        "funds": [fund_line(asset_name, fund, base_ms) for asset_name, fund in fund_charts(recorder)],
        "totals": totals(recorder, base_ms),
        "heat": [heat(symbol, recorder, base_ms) for symbol, _ in heat_maps(recorder)],
        "exposure": exposure(recorder, base_ms),
    }


def price_line(symbol: str, series: PriceSeries, base_ms: int) -> dict[str, Any]:
    """Return one symbol's marks in percent of its first."""
    scale = 100 / series.first
    points = series.points
    return {
        "name": str(symbol),
        "first": digits(series.first),
        "t": [point.ts // NS_PER_MS - base_ms for point in points],
        "v": [digits(point.last * scale) for point in points],
        "low": [digits(point.low * scale) for point in points],
        "high": [digits(point.high * scale) for point in points],
    }


def bars(recorder: RunRecorder, base_ms: int) -> dict[str, Any]:
    """Return counts and notionals by stage per bucket of time."""
    buckets = recorder.stages
    return {
        "width": buckets.width_ns // NS_PER_MS,
        "t": [start_ns // NS_PER_MS - base_ms for start_ns in buckets.starts_ns],
        "started": [bar.started for bar in buckets.payloads],
        "counts": {stage: [bar.counts[stage] for bar in buckets.payloads] for stage in STAGES},
        "notionals": {stage: [digits(bar.notionals[stage]) for bar in buckets.payloads] for stage in STAGES},
    }


def fund_line(asset_name: str, fund: FundSeries, base_ms: int) -> dict[str, Any]:
    """Return one wallet of the fund, from its balance before the first step."""
    points = fund.points
    return {
        "asset": asset_name,
        "t": [fund.start_ts // NS_PER_MS - base_ms] + [point.ts // NS_PER_MS - base_ms for point in points],
        "v": [digits(float(fund.start))] + [digits(point.balance) for point in points],
        "why": [{}] + [{cause: digits(change) for cause, change in point.changes.items()} for point in points],
    }


def totals(recorder: RunRecorder, base_ms: int) -> dict[str, Any]:
    """Return the run's totals over time."""
    points = recorder.totals.payloads
    return {
        "t": [point.ts // NS_PER_MS - base_ms for point in points],
        "closed": [digits(point.closed_notional) for point in points],
        "taken": [digits(point.taken_notional) for point in points],
        "deleveraged": [digits(point.deleveraged_notional) for point in points],
        "episodes": [point.episodes for point in points],
        "accounts": [point.accounts for point in points],
    }


def heat(symbol: str, recorder: RunRecorder, base_ms: int) -> dict[str, Any]:
    """Return where on the price scale and when a symbol was liquidated: row k spans prices ratio^k to ratio^(k+1)."""
    columns = recorder.heat[symbol].columns
    ratio, cells = recorder.heat[symbol].cells(HEAT_ROWS_MAX)
    return {
        "name": symbol,
        "width": columns.width_ns // NS_PER_MS,
        "ratio": ratio,
        "cells": [[start_ns // NS_PER_MS - base_ms, row, digits(notional)] for start_ns, row, notional in cells],
    }


def exposure(recorder: RunRecorder, base_ms: int) -> dict[str, Any]:
    """Return accounts by band of margin ratio, and the notional that falls would liquidate, at each sample."""
    samples = recorder.samples
    return {
        "t": [max(sample.ts // NS_PER_MS - base_ms, 0) for sample in samples],
        "bands": {name: [sample.bands[index] for sample in samples] for index, name in enumerate(band_names())},
        "falls": {
            f"−{fall_ppm * 100 // PPM} %": [
                [digits(sample.falls[index].notional), sample.falls[index].accounts] for sample in samples
            ]
            for index, fall_ppm in enumerate(FALLS_PPM)
        },
    }


def band_summary(recorder: RunRecorder) -> str:
    """Return the accounts by margin ratio in words: as they were at first and at the end."""
    if not recorder.samples:
        return "No book was there to look at"
    sides = (("at first", recorder.samples[0]), ("at the end", recorder.samples[-1]))
    words = [
        f"{when} " + ", ".join(f"{count:,} {name}" for name, count in zip(band_names(), one.bands, strict=True))
        for when, one in sides
    ]
    return "Accounts by margin ratio: " + "; ".join(words)


def digits(value: float) -> float:
    """Return a number with seven significant digits: finer than any pixel, and a third of the bytes."""
    return float(f"{value:.7g}")
