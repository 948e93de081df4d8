"""What a simulated market is made of: contracts of every kind, assets with haircuts, tiers, and every word of a policy.

Limits are small, so that a few hundred messages reach them.
"""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]

# symbol -> fields, mark it starts at, worth of a usual position in its settlement asset
INSTRUMENTS: dict[str, tuple[Document, str, int]] = {
    "BTCUSDT": ({"settle": "USDT", "price_tick": "0.1", "lot": "0.001"}, "60000", 20_000),
    "ALT": ({"settle": "USDT", "price_tick": "0.01", "lot": "10", "multiplier": "0.1", "mark_decimals": 4}, "3", 5_000),
    "HALF": (
        {"settle": "USDT", "price_tick": "0.5", "lot": "0.5", "multiplier": "2.5", "mark_decimals": 2},
        "40",
        9_000,
    ),
    "MEGA": ({"settle": "USDT", "price_tick": "0.0000001", "lot": "1000", "mark_decimals": 9}, "0.002", 3_000),
    "XBT": (
        {"kind": "inverse", "settle": "BTC", "multiplier": "100", "price_tick": "0.5", "lot": "1", "mark_decimals": 1},
        "60000",
        1,
    ),
    "COINED": ({"settle": "BTC", "price_tick": "0.0001", "lot": "0.1", "mark_decimals": 5}, "0.05", 1),
}
ASSETS: dict[str, tuple[Document, str, int]] = {
    "USDT": ({"price": "1"}, "1", 4_000),
    "BTC": ({"weights": [["0", "0.95"], ["20000", "0.8"], ["100000", "0.4"]], "slippage": "0.01"}, "60000", 1),
    "ETH": ({"weights": [["0", "0.9"], ["5000", "0"]], "slippage": "0.02", "decimals": 4}, "3000", 2),
}
TIERS = (
    [["0", "0.01", "50"]],
    [["0", "0.005", "100"], ["5000", "0.01", "50"], ["20000", "0.05", "10"]],
    [["0", "0.02", "25"], ["1000", "0.1", "5"], ["50000", "0.5", "1"]],
)
COIN_TIERS = ([["0", "0.01", "50"]], [["0", "0.005", "100"], ["0.1", "0.01", "50"], ["1", "0.1", "5"]])
POLICY: dict[str, list[Any]] = {
    "trigger": ["at_or_below", "at_or_below", "below"],
    "tier_mode": ["marginal", "marginal", "marginal", "whole"],
    "margin_call_ratio": ["0.8", "1"],
    "margin_call_rearm": ["0.75", "0.5"],
    "target_buffer": ["0", "0", "0.05", "0.5", "0.123457"],
    "partial": ["cheapest", "cheapest", "cheapest", "off", "fixed"],
    "fraction": ["0.2", "0.5", "0.000001"],
    "fraction_above": ["0", "1000"],
    "min_notional": ["0", "0", "10", "2000"],
    "limit_band": ["0.05", "0.001", "0.5"],
    "order_timeout_ms": [1, 1000, 5000, 60_000],
    "max_attempts": [1, 2, 3],
    "takeover_ratio": ["0", "0", "0.2", "1"],
    "surplus": ["account", "insurance"],
    "insurance_floor": ["0", "0", "500"],
    "adl_rule": ["queue", "pro_rata", "water_filling"],
    "socialise": ["off", "off", "winners"],
    "mark_stale_ms": [0, 0, 0, 2000, 600_000],
    "price_band": ["0", "0", "0.05", "0.3"],
    "max_hold_ms": [0, 1000, 60_000],
    "flow_window_ms": [1, 1000, 60_000],
    "emergency_ratio": ["0", "0.3", "1"],
    "max_future_s": [0, 0, 86_400],
}
# What holds accounts and prices back: changed more often than the rest, since much waits on it.
GUARDS = ("price_band", "max_hold_ms", "mark_stale_ms")
