"""``liq-engine verify`` believes what the engine writes, and nothing that was changed afterwards.

The forger of these tests is a careful one: whatever line is changed, the hash in the summary is made to fit again, so
that only what is derived can tell. The market is small but has one of everything: tiers, hedge legs, an isolated
bucket, an inverse contract, a contract settled in a coin, collateral with haircuts, budgets, a fund that runs dry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from engine.tools.replay import ReplayOptions, run_replay
from tests.scenarios import MS, START_NS, tiny_risk

Body = dict[str, Any]

SYMBOLS = {"BTCUSDT": 100.0, "COINPERP": 20.0, "COINUSD": 50.0, "ETHUSDT": 40.0}
INSTRUMENTS: dict[str, Body] = {
    "BTCUSDT": {
        "settle": "USDT", "price_tick": "0.1", "lot": "0.001", "taker_fee": "0.0005", "liquidation_fee": "0.001",
        "slippage": "0.001", "half_spread": "0.0005", "depth": "4000", "impact": "0.01", "flow_budget": "3000",
        "tiers": [["0", "0.01", "50"], ["800", "0.02", "25"], ["5000", "0.05", "10"], ["50000", "0.1", "5"]],
    },
    "ETHUSDT": {
        "settle": "USDT", "price_tick": "0.01", "lot": "0.01", "taker_fee": "0.0004", "slippage": "0.002",
        "multiplier": "1.5", "tiers": [["0", "0.02", "25"], ["2000", "0.04", "10"]], "flow_budget": "900",
    },
    "COINUSD": {
        "kind": "inverse", "settle": "COIN", "multiplier": "10", "price_tick": "0.05", "lot": "1",
        "taker_fee": "0.0005", "liquidation_fee": "0.002", "tiers": [["0", "0.01", "50"], ["20", "0.03", "20"]],
    },
    "COINPERP": {
        "settle": "COIN", "price_tick": "0.01", "lot": "0.5", "multiplier": "0.37", "taker_fee": "0.001",
        "tiers": [["0", "0.015", "40"], ["40", "0.05", "10"]],
    },
}  # fmt: skip
ASSETS: dict[str, Body] = {
    "COIN": {"weights": [["0", "0.95"], ["400", "0.8"], ["4000", "0.5"]], "slippage": "0.004"},
    "ALT": {"weights": [["0", "0.9"], ["300", "0.6"]], "slippage": "0.02", "decimals": 3},
}


# ------------------------------------------------------------------------------------------------------------- market


def a_book(random: Random, accounts: int) -> Body:
    """Accounts of ten to fifty times their collateral, on both sides of every symbol; a fund that is soon empty."""
    entries = [an_account(random, f"a{number:02}") for number in range(accounts)]
    marks = {symbol: f"{price:g}" for symbol, price in SYMBOLS.items()}
    prices = {"COIN": "50", "ALT": "3"}
    return {"accounts": entries, "marks": marks, "asset_prices": prices, "insurance": {"USDT": "60"}, "ts": START_NS}


def an_account(random: Random, name: str) -> Body:
    positions: list[Body] = []
    worth = 0.0
    for symbol in random.sample(sorted(SYMBOLS), random.randint(1, 3)):
        legs = (1, -1) if symbol == "ETHUSDT" and random.random() < 0.6 else (random.choice((1, -1)),)
        for sign in legs:
            price = SYMBOLS[symbol]
            value = random.choice((200, 900, 3000, 9000)) * random.uniform(0.5, 1.5)
            lots = {"BTCUSDT": (value / price / 0.001, 0.001), "ETHUSDT": (value / price / 1.5 / 0.01, 0.01),
                    "COINUSD": (value / 10, 1), "COINPERP": (value / price / 50 / 0.37 / 0.5, 0.5)}  # fmt: skip
            count, lot = lots[symbol]
            qty = f"{sign * max(round(count), 1) * lot:.3f}"
            entry = {"symbol": symbol, "qty": qty, "entry_price": f"{price * random.uniform(0.99, 1.01):.2f}"}
            if symbol == "ETHUSDT" and len(legs) == 2:
                entry["leg"] = "long" if sign > 0 else "short"
            if symbol == "BTCUSDT" and random.random() < 0.3:
                entry |= {"isolated": True, "margin": f"{value / 25:.2f}"}
            else:
                worth += value
            positions.append(entry)
    needed = max(worth, 100) / random.choice((12, 20, 30))
    balances = {"USDT": f"{needed * random.uniform(0.1, 1):.2f}", "COIN": f"{needed * random.random() / 50:.4f}"}
    if random.random() < 0.5:
        balances["ALT"] = f"{needed * random.random() / 3:.3f}"
    if random.random() < 0.2:
        balances["USDT"] = f"-{needed * 0.3:.2f}"
    return {"account": name, "balances": balances, "positions": positions}


def some_events(random: Random, messages: int) -> Iterator[Body]:
    """A fall of all prices with jumps; funding, deposits, a pause and new limits in between; one line is refused."""
    now, prices = START_NS, {**SYMBOLS, "COIN": 50.0, "ALT": 3.0}
    drift = random.choice((-0.003, -0.001, 0.003))
    for symbol, price in SYMBOLS.items():
        yield {"type": "mark", "symbol": symbol, "price": f"{price:g}", "ts": now}
    for asset in ("COIN", "ALT"):
        yield {"type": "asset_price", "asset": asset, "price": f"{prices[asset]:g}", "ts": now}
    yield {"type": "mark", "symbol": "NOSUCH", "price": "1", "ts": now}
    for number in range(messages):
        now += random.choice((20, 300, 800)) * MS
        draw = random.random()
        if number in (60, 66):
            yield {"type": ("pause", "resume")[number == 66], "scope": "ETHUSDT", "reason": "drill", "ts": now}
        elif number == 90:
            yield {"type": "set_policy", "limit_band": "0.03", "ts": now}
        elif draw < 0.03:
            yield {"type": "funding", "symbol": random.choice(list(SYMBOLS)), "rate": "0.0004", "ts": now}
        elif draw < 0.06:
            transfer = {"type": "transfer", "transfer_id": f"t{number}", "account": "a01", "asset": "USDT"}
            yield {**transfer, "amount": random.choice(("5", "-3")), "ts": now}
        elif draw < 0.08:
            transfer = {"type": "transfer", "transfer_id": f"t{number}", "account": "$insurance", "asset": "COIN"}
            yield {**transfer, "amount": "0.5", "ts": now}
        else:
            name = random.choice(list(prices))
            jump = random.choice((0, 0, 0, 0.02, 0.05))
            prices[name] *= 1 + drift + random.uniform(-0.004, 0.004) - jump * (1 if drift < 0 else -1)
            decimals = 6 if name in ("COIN", "ALT") else 2
            kind = {"type": "asset_price", "asset": name} if decimals == 6 else {"type": "mark", "symbol": name}
            yield {**kind, "price": f"{prices[name]:.{decimals}f}", "ts": now}


def run_market(folder: Path, seed: int, *, accounts: int = 14, messages: int = 160, **policy: Any) -> Path:
    """Replay one seeded market; return its output folder."""
    random = Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "book.json").write_text(json.dumps(a_book(random, accounts)))
    events = [*some_events(random, messages)]
    (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    risk = tiny_risk(assets=ASSETS, instruments=INSTRUMENTS, **policy)
    options = ReplayOptions(
        events=[folder / "log.jsonl"], risk=risk, book=folder / "book.json", venue="book", out=folder / "out",
        show_progress=False,
    )  # fmt: skip
    run_replay(options)
    return folder / "out"
