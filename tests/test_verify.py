"""``liq-engine verify`` believes what the engine writes, and nothing that was changed afterwards.

The forger of these tests is a careful one: whatever line is changed, the hash in the summary is made to fit again, so
that only what is derived can tell. The market is small but has one of everything: tiers, hedge legs, an isolated
bucket, an inverse contract, a contract settled in a coin, collateral with haircuts, budgets, a fund that runs dry.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.__main__ import main
from engine.core import certificate, debts, liquidation, plan, shard, takeover
from engine.tools.replay import ReplayOptions, run_replay
from engine.tools.verify import Difference, verdict_text, verify
from tests.scenarios import MS, START_NS, Desk, buy, deposit, mark, one, tiny_risk

Body = dict[str, Any]
Record = tuple[str, Body]

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
            entry: Body = {"symbol": symbol, "qty": qty, "entry_price": f"{price * random.uniform(0.99, 1.01):.2f}"}
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


def run_market(folder: Path, seed: int, *, instruments: dict[str, Body] | None = None, **policy: Any) -> Path:
    """Replay one seeded market; return its output folder."""
    random = Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "book.json").write_text(json.dumps(a_book(random, accounts=14)))
    events = [*some_events(random, messages=160)]
    (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    risk = tiny_risk(assets=ASSETS, instruments=instruments or INSTRUMENTS, **policy)
    options = ReplayOptions(
        events=[folder / "log.jsonl"], risk=risk, book=folder / "book.json", venue="book", out=folder / "out",
        show_progress=False,
    )  # fmt: skip
    run_replay(options)
    return folder / "out"


def without(*keys: str) -> dict[str, Body]:
    """The instruments without some of their fields."""
    return {
        symbol: {key: value for key, value in terms.items() if key not in keys} for symbol, terms in INSTRUMENTS.items()
    }


# ------------------------------------------------------------------------------------------------------------ forging

FILES = ("liquidation-orders", "margin-events", "bad-debt", "dead-letters")


class Output:
    """The records of a run in order of ``seq``, with their files, and its summary: read, changed, written again."""

    def __init__(self, records: list[Record], summary: Body) -> None:
        self.records = records
        self.summary = summary

    def __repr__(self) -> str:
        return f"an output of {len(self.records)} records"

    @classmethod
    def read(cls, out: Path) -> Output:
        lines = [
            (name, json.loads(line)) for name in FILES for line in (out / f"{name}.jsonl").read_bytes().splitlines()
        ]
        lines.sort(key=lambda record: record[1]["seq"])
        return cls(lines, json.loads((out / "summary.json").read_bytes()))

    def write(self, out: Path, *, rehash: bool = True) -> Path:
        """Write all files, with the hash that fits them."""
        out.mkdir(parents=True, exist_ok=True)
        lines = [(name, json.dumps(body, separators=(",", ":")).encode() + b"\n") for name, body in self.records]
        for name in FILES:
            (out / f"{name}.jsonl").write_bytes(b"".join(line for file, line in lines if file == name))
        digest = hashlib.sha256(b"".join(line for _, line in lines)).hexdigest()
        summary = {**self.summary, "outputs_hash": digest} if rehash else self.summary
        (out / "summary.json").write_text(json.dumps(summary))
        return out

    def bodies(self, kind: str) -> list[Body]:
        return [body for _, body in self.records if body["type"] == kind]

    def first(self, kind: str, where: Callable[[Body], object] = lambda body: True) -> Body:
        """The first record of a kind for which something is true."""
        return next(body for body in self.bodies(kind) if where(body))

    def drop(self, body: Body) -> None:
        """Remove a record and number the others as if it had never been."""
        self.records[:] = [record for record in self.records if record[1] is not body]
        self.renumber()

    def insert(self, before: Body, file: str, **fields: Any) -> None:
        """Put a record before another one, with its row, and number the others as if it had always been."""
        index = next(number for number, (_, body) in enumerate(self.records) if body is before)
        row: Body = {key: before[key] for key in ("account", "bucket") if key in before}
        self.records.insert(index, (file, {"ts": before["ts"], "shard": 0, **row, **fields}))
        self.renumber()

    def renumber(self) -> None:
        """Count all records from 1."""
        for seq, (_, other) in enumerate(self.records, start=1):
            other["seq"], other["output_id"] = seq, f"0-{seq}"

    def same_plan(self, order: Body) -> list[Body]:
        """All orders that were sent with an order: they state the same decision."""
        return [body for _, body in self.records if body.get("decision") == order["decision"]]


def fields_of(found: list[Difference]) -> list[str]:
    return [difference.field for difference in found]


def one_of_everything(output: Output) -> bool:
    """Whether a run has all that the tampering below looks for."""
    kinds = {body["type"] for _, body in output.records}
    orders = [*output.bodies("liquidation_order"), *output.bodies("collateral_sale")]
    wanted = [
        {"takeover", "adl", "adl_wave", "bad_debt", "liquidation_held", "liquidation_released", "reject"} <= kinds,
        any("leg" in order for order in orders),
        any("bucket" in order for order in orders),
        any(is_partial(order) for order in orders),
        any(order.get("stage") == "full" for order in orders),
        any("asset" in order and order["decision"]["positions"] for order in orders),
        any("asset" in order and not order["decision"]["positions"] for order in orders),
        any(len(order["decision"]["plan"]) > 1 for order in orders),
        any(terms["kind"] == "inverse" for order in orders for terms in order["decision"]["instruments"]),
        any(body["asset"] == "USD" for body in output.bodies("bad_debt")),
        any(body["asset"] != "USD" for body in output.bodies("bad_debt")),
    ]
    return all(wanted)


def is_partial(order: Body) -> bool:
    """An order that closes a part of the only position it was planned for."""
    return order.get("stage") == "partial" and len(order["decision"]["plan"]) == 1


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Output:
    """A run that has one of everything."""
    for seed in (104, 23, 119, 69, 60, 59):
        policy: Body = {"partial": "cheapest", "target_buffer": "0.1", "price_band": "0.04", "max_hold_ms": 1000}
        folder = tmp_path_factory.mktemp("sample")
        output = Output.read(run_market(folder, seed, min_notional="5", adl_rule="pro_rata", **policy))
        if one_of_everything(output):
            return output
    raise AssertionError("no seed has one of everything any more: name others")


@pytest.fixture(scope="session")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Output:
    """A run without flow budgets, so that every plan is in its record whole."""
    folder = tmp_path_factory.mktemp("uncut")
    return Output.read(
        run_market(folder, 3, instruments=without("flow_budget"), partial="cheapest", target_buffer="0.1")
    )


# ----------------------------------------------------------------------------------------------------------- believed

CHEAPEST = {"partial": "cheapest"}
MARKETS: dict[str, Body] = {
    "cheapest with a buffer": {**CHEAPEST, "target_buffer": "0.1", "min_notional": "5"},
    "cheapest with whole tiers, strictly below": {**CHEAPEST, "tier_mode": "whole", "trigger": "below"},
    "cheapest with a close limit": {**CHEAPEST, "limit_band": "0.002", "surplus": "insurance", "max_attempts": 1},
    "off": {"partial": "off", "takeover_ratio": "0.1", "adl_rule": "water_filling"},
    "fixed": {"partial": "fixed", "fraction": "0.3", "fraction_above": "500", "min_notional": "20"},
    "stale marks and a price band": {
        **CHEAPEST, "target_buffer": "0.25", "mark_stale_ms": 2500, "price_band": "0.02", "max_hold_ms": 1000,
        "emergency_ratio": "0.5", "adl_rule": "pro_rata",
    },
}  # fmt: skip


@pytest.mark.parametrize("policy", MARKETS.values(), ids=MARKETS)
@pytest.mark.parametrize("seed", [11, 104])
def test_what_the_engine_writes_is_verified(tmp_path: Path, seed: int, policy: Body) -> None:
    verdict = verify(run_market(tmp_path, seed, **policy))
    assert verdict.differences == [], verdict_text(verdict)
    assert verdict.orders > 5
    assert verdict.events > 40


def test_a_sample_written_again_unchanged_is_verified(tmp_path: Path, sample: Output, uncut: Output) -> None:
    for output in (sample, uncut):
        verdict = verify(output.write(tmp_path))
        assert verdict.differences == [], verdict_text(verdict)
        orders = len(output.bodies("liquidation_order")) + len(output.bodies("collateral_sale"))
        assert (verdict.orders, verdict.events) == (orders, len(output.records) - orders)


def test_an_output_without_any_order_is_verified(tmp_path: Path) -> None:
    output = Output([], {})
    counts = {"messages": 0, "accepted": 0, "duplicates": 0, "ignored": 0, "orders": 0, "liquidations": 0, "adl": 0}
    nothing: Body = {"rejected": {}, "bad_debt": {}, "uncovered": {}, "insurance": {}, "conservation": {}}
    output.summary.update(**counts, **nothing, notional_liquidated="0")
    assert verify(output.write(tmp_path)).differences == []


def test_verifying_loads_nothing_of_the_core() -> None:
    code = "import sys, engine.tools.verify; print([name for name in sys.modules if name.startswith('engine.core')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "numba" not in done.stdout


# ----------------------------------------------------------------------------------------------------------- tampering


def nudged(text: str, digit: int = -1) -> str:
    """A number with one digit one up (9 becomes 8)."""
    places = [index for index, char in enumerate(text) if char.isdigit()]
    place = places[digit]
    return text[:place] + ("8" if text[place] == "9" else str(int(text[place]) + 1)) + text[place + 1 :]


def in_decision(where: Callable[[Body], object], change: Callable[[Body], None]) -> Callable[[Output], None]:
    """Change the decision of the first order like this, and of all orders that share it."""

    def forge(output: Output) -> None:
        order = next(body for _, body in output.records if "decision" in body and where(body))
        for body in output.same_plan(order):
            change(body["decision"])

    return forge


def everywhere(change: Callable[[Body], None]) -> Callable[[Output], None]:
    """Change all decisions alike, so that they agree with each other."""

    def forge(output: Output) -> None:
        for _, body in output.records:
            if "decision" in body:
                change(body["decision"])

    return forge


def figure(*path: str | int, where: Callable[[Body], object] = is_partial, digit: int = -1) -> Callable[[Output], None]:
    """Nudge one figure of a decision."""

    def change(decision: Body) -> None:
        node: Any = decision
        for key in path[:-1]:
            node = node[key]
        value = node[path[-1]]
        node[path[-1]] = nudged(value, digit) if isinstance(value, str) else value + 1

    return in_decision(where, change)


def planned(
    name: str, value: Callable[[Body], Any], where: Callable[[Body], object] = is_partial
) -> Callable[[Output], None]:
    """Change a field of an order and of its entry in the plan, in all orders of the plan."""

    def forge(output: Output) -> None:
        order = next(body for _, body in output.records if "decision" in body and where(body))
        index = next(
            number
            for number, entry in enumerate(order["decision"]["plan"])
            if all(order.get(key) == entry[key] for key in entry)
        )
        forged = value(order)
        for body in output.same_plan(order):
            body["decision"]["plan"][index][name] = forged
        order[name] = forged

    return forge


def put(
    kind: str, name: str, value: Any, where: Callable[[Body], object] = lambda body: True
) -> Callable[[Output], None]:
    """Set a field of the first record of a kind; a function is applied to what it was."""

    def forge(output: Output) -> None:
        body = output.first(kind, where)
        body[name] = value(body[name]) if callable(value) else value

    return forge


def drop(kind: str, where: Callable[[Body], object] = lambda body: True) -> Callable[[Output], None]:
    """Remove the first record of a kind, and number the others as if it had never been."""
    return lambda output: output.drop(output.first(kind, where))


def total(name: str, value: Callable[[Any], Any]) -> Callable[[Output], None]:
    """Change a figure of the summary."""
    return lambda output: output.summary.update({name: value(output.summary[name])})


OTHER = {"buy": "sell", "sell": "buy", "long": "short", "short": "long"}


def as_policy(name: str, value: str) -> Callable[[Output], None]:
    """Say in all decisions that the policy was another one."""
    return everywhere(lambda decision: decision["policy"].update({name: value}))


def split_a_lot(decision: Body) -> None:
    decision["positions"][0]["qty"] += "00001" if "." in decision["positions"][0]["qty"] else ".00001"


def swap_legs(decision: Body) -> None:
    for entry in decision["positions"]:
        entry["leg"] = OTHER.get(entry["leg"], "net")


def raise_the_buffer(decision: Body) -> None:
    decision["target"]["buffer"] = "0.9"


def lower_the_next_tier(decision: Body) -> None:
    for terms in decision["instruments"]:
        terms["next_floor"] = "1"


def is_later(order: Body) -> bool:
    """A partial close that did not follow on the beginning of its episode."""
    return is_partial(order) and not order["order_id"].endswith("/1")


def is_full(order: Body) -> bool:
    return order.get("stage") == "full"


def is_beside_a_sale(order: Body) -> bool:
    return order.get("stage") == "partial" and any("asset" in entry for entry in order["decision"]["plan"])


def less_a_lot(order: Body) -> str:
    """The quantity of an order, one lot less."""
    (lot,) = (terms["lot"] for terms in order["decision"]["instruments"] if terms["symbol"] == order["symbol"])
    return f"{Decimal(order['qty']) - Decimal(lot):f}".rstrip("0").rstrip(".")


def nudge(name: str) -> Callable[[Body], str]:
    return lambda order: nudged(order[name])


def is_budgeted(order: Body) -> bool:
    return is_partial(order) and order["symbol"] == "BTCUSDT"


def was_cut(order: Body) -> bool:
    """Whether a flow budget left less of the plan than was wanted."""
    return "wanted" in order["decision"]


def want(decision: Body, *, more_lots: int) -> None:
    """Say that more lots of the first close that was cut were wanted."""
    sent = {(entry.get("symbol"), entry.get("side")): entry for entry in decision["plan"]}
    entry = next(
        entry
        for entry in decision["wanted"]
        if "symbol" in entry and entry != sent.get((entry["symbol"], entry["side"]))
    )
    lot = next(Decimal(terms["lot"]) for terms in decision["instruments"] if terms["symbol"] == entry["symbol"])
    entry["qty"] = str(Decimal(entry["qty"]) + more_lots * lot)


def is_sale(order: Body) -> bool:
    return "asset" in order and bool(order["decision"]["positions"])


def is_debt_sale(order: Body) -> bool:
    return "asset" in order and not order["decision"]["positions"]


def is_leg(order: Body) -> bool:
    return "leg" in order


def has_symbols(order: Body) -> bool:
    return len(order["decision"]["plan"]) > 1


def is_handed_over(body: Body) -> bool:
    """Whether an account lost all it had: nothing is left but what a unit of a coin is worth."""
    return body["outcome"] in ("taken_over", "deleveraged") and Decimal(body["equity"]) < Decimal("0.000001")


def has_ratio(body: Body) -> bool:
    return body["margin_ratio"] is not None


def second_of_a_plan(output: Output) -> Body:
    return output.same_plan(output.first("liquidation_order", has_symbols))[1]


def is_loss(body: Body) -> bool:
    return body["asset"] == "USD"


def skip_episode(output: Output) -> None:
    """An account's first liquidation is called its second, from beginning to end."""
    old = output.first("liquidation_started")["liquidation_id"]
    later = output.first("liquidation_started", lambda body: body["liquidation_id"].endswith("/2"))["liquidation_id"]
    for _, body in output.records:
        if body.get("liquidation_id") == later:
            body["liquidation_id"] = later[:-1] + "7"
        assert body.get("liquidation_id") != old[:-1] + "7"


def repeat(kind: str) -> Callable[[Output], None]:
    """Write a record twice."""

    def forge(output: Output) -> None:
        index = next(number for number, (_, body) in enumerate(output.records) if body["type"] == kind)
        output.records.insert(index, copy.deepcopy(output.records[index]))

    return forge


def lose(kind: str) -> Callable[[Output], None]:
    """Remove a record and leave its number out."""

    def forge(output: Output) -> None:
        output.records.remove(next(record for record in output.records if record[1]["type"] == kind))

    return forge


def cheapen_collateral(decision: Body) -> None:
    entry = next(entry for entry in decision["asset_prices"] if entry["asset"] == "COIN")
    entry["price"] = nudged(entry["price"], 0)


def forget_the_policy(decision: Body) -> None:
    del decision["policy"]


def close_left_out(decision: Body) -> None:
    decision["left_out"] = [decision["plan"][0]["symbol"]]


def nudge_takeover(output: Output, name: str) -> None:
    """Nudge a figure of the first position that was taken over."""
    entry = output.first("takeover")["positions"][0]
    entry[name] = nudged(entry[name])


def split_lot(output: Output) -> None:
    """Let the fund take a hundred millionth more of a position than there is."""
    entry = output.first("takeover")["positions"][0]
    entry["qty"] = f"{Decimal(entry['qty']) + Decimal('0.00000001'):f}"


def lose_the_only_wave(output: Output) -> None:
    """Leave out what sums up the deleveraging of an episode that had one wave."""
    names = [body["liquidation_id"] for body in output.bodies("adl_wave")]
    ended = {body["liquidation_id"] for body in output.bodies("liquidation_ended")}
    only = [name for name in names if names.count(name) == 1 and name in ended]
    output.drop(output.first("adl_wave", lambda body: body["liquidation_id"] == only[0]))


def begin_otherwise(output: Output) -> None:
    """State another equity at the beginning than in the order that followed at once."""
    orders = {body["seq"]: body for body in output.bodies("liquidation_order")}
    started = output.first("liquidation_started", lambda body: body["seq"] + 2 in orders)
    started["equity"] = nudged(started["equity"])


def overpay(output: Output) -> None:
    """Let the fund bear more than the loss, and the winners less than nothing."""
    body = output.first("bad_debt", is_loss)
    paid, earned = Decimal(body["paid_by_insurance"]), Decimal(body["paid_by_adl"])
    body.update(paid_by_insurance=str(paid + 1000), paid_by_adl=str(earned - 1000))


def shift_to_the_fund(output: Output) -> None:
    """Let the fund have paid for a debt, of which its account says nothing."""
    body = output.first("bad_debt", lambda body: not is_loss(body) and body["uncovered"] != "0")
    paid, uncovered = Decimal(body["paid_by_insurance"]), Decimal(body["uncovered"])
    body.update(paid_by_insurance=f"{paid + uncovered / 2:f}", uncovered=f"{uncovered / 2:f}")


def invent_a_loss(output: Output) -> None:
    """Let an account have lost more than it had although it kept its positions."""
    ended = output.first("liquidation_ended", lambda body: body["outcome"] == "healthy")
    parts = {
        "deficit": "5",
        "paid_by_insurance": "5",
        "paid_by_adl": "0",
        "paid_by_socialisation": "0",
        "uncovered": "0",
    }
    output.insert(ended, "bad-debt", type="bad_debt", liquidation_id=ended["liquidation_id"], asset="USD", **parts)


def heal(output: Output) -> None:
    """Call an account healthy that went to the fund without an order."""
    index = next(number for number, (_, body) in enumerate(output.records) if body["type"] == "takeover")
    started = output.records[index - 2][1]
    assert started["type"] == "liquidation_started"
    started.update(equity="200", maintenance_margin="100", margin_ratio="0.5")


def rename_episode(output: Output) -> None:
    """Name one episode and all its orders after somebody else."""
    old = output.first("liquidation_started")["liquidation_id"]
    for _, body in output.records:
        if body.get("liquidation_id") == old:
            body.update(liquidation_id="nobody/1")
        if body.get("order_id", "").startswith(f"{old}/"):
            body.update(order_id=f"nobody/1{body['order_id'].removeprefix(old)}")


def hold_before(kind: str) -> Callable[[Output], None]:
    """Have a row held when something is done to it."""

    def forge(output: Output) -> None:
        body = output.first(kind)
        output.insert(body, "margin-events", type="liquidation_held", reason="paused")

    return forge


def in_a_crowd(output: Output, body: Body) -> bool:
    """Whether others were deleveraged for the same position, so that their cash per lot can be compared."""
    parts = [other for other in output.bodies("adl") if other["liquidation_id"] == body["liquidation_id"]]
    return len(parts) > 1 and len({(part["ts"], part["symbol"]) for part in parts}) == 1


# What a forger does -> (how, the field in which it shows).
FORGERIES: dict[str, tuple[Callable[[Output], None], str]] = {
    # Orders.
    "an order closes a lot less than planned": (planned("qty", less_a_lot), "decision.certificate.cost"),
    "an order is for another quantity than the plan": (put("liquidation_order", "qty", nudged), "qty"),
    "an order opens instead of closing": (planned("side", lambda order: OTHER[order["side"]]), "decision.plan[0].side"),
    "a limit is a digit off": (planned("limit_price", nudge("limit_price")), "decision.plan[0].limit_price"),
    "a bankruptcy price is a digit off": (
        planned("bankruptcy_price", nudge("bankruptcy_price")), "decision.plan[0].bankruptcy_price",
    ),
    "a partial close is called full": (planned("stage", lambda order: "full"), "decision.plan: qty of"),
    "an order may rest in the book": (put("liquidation_order", "time_in_force", "GTC"), "time_in_force"),
    "an order may grow the position": (put("liquidation_order", "reduce_only", False), "reduce_only"),
    "an order number is left out": (put("liquidation_order", "order_id", nudged), "order_id"),
    "an order is of another episode": (put("liquidation_order", "liquidation_id", nudged), "liquidation_id"),
    "an order closes the other leg": (
        put("liquidation_order", "leg", OTHER.__getitem__, is_leg), "leg",
    ),
    "an order of a plan is missing": (drop("liquidation_order", has_symbols), "order_id"),
    "a plan is planned twice": (
        in_decision(is_partial, lambda decision: decision["plan"].append(decision["plan"][0])), "decision.plan[1].qty",
    ),
    "orders of one plan state different decisions": (
        lambda output: second_of_a_plan(output)["decision"].update(equity="1"),
        "decision.equity",
    ),
    "a symbol that was left out is closed": (in_decision(is_partial, close_left_out), "decision.plan[0].symbol"),
    # What an order was made from.
    "equity": (figure("equity"), "decision.equity"),
    "maintenance margin": (figure("maintenance_margin"), "decision.maintenance_margin"),
    "equity of a later order": (figure("equity", where=is_later), "decision.equity"),
    "maintenance margin of a later order": (
        figure("maintenance_margin", where=is_later), "decision.maintenance_margin",
    ),
    "a policy that takes over sooner": (as_policy("takeover_ratio", "0.99"), "decision.equity"),
    "a policy that leaves no small rest": (as_policy("min_notional", "100000"), "decision.plan: qty of"),
    "a target that the plan does not reach": (everywhere(raise_the_buffer), "decision.certificate.equity_after"),
    "a tier that begins below the notional": (everywhere(lower_the_next_tier), "decision.instruments["),
    "the target": (figure("target", "equity"), "decision.target.equity"),
    "the buffer": (figure("target", "buffer"), "decision.policy.buffer"),
    "a mark": (figure("marks", 0, "price"), "decision.positions[0].notional"),
    "a mark of the future": (figure("marks", 0, "ts", digit=3), "decision.marks"),
    "the price of a coin": (in_decision(is_sale, cheapen_collateral), "decision.collateral"),
    "the size of a position": (figure("positions", 0, "qty"), "decision.positions[0].notional"),
    "a position of a part of a lot": (in_decision(is_partial, split_a_lot), "decision.positions[0].qty"),
    "a leg on the other side": (in_decision(is_leg, swap_legs), "decision.positions["),
    "what a position cost": (figure("positions", 0, "cost"), "decision.positions[0].unrealised_pnl"),
    "a profit": (figure("positions", 0, "unrealised_pnl"), "decision.positions[0].unrealised_pnl"),
    "an entry price": (figure("positions", 0, "entry_price"), "decision.positions[0].entry_price"),
    "a rate": (figure("positions", 0, "tier_rate"), "decision.positions[0].tier_rate"),
    "a deduction": (figure("positions", 0, "deduction"), "decision.positions[0].deduction"),
    "a tier": (figure("instruments", 0, "tiers", 0, 1), "decision.instruments"),
    "a tick": (figure("instruments", 0, "price_tick"), "decision.instruments"),
    "a multiplier": (figure("instruments", 0, "multiplier"), "decision.positions[0].notional"),
    "a budget": (figure("instruments", 0, "flow_budget", where=is_budgeted), "decision.instruments.BTCUSDT.flow"),
    "the next tier": (figure("instruments", 0, "next_floor", where=is_budgeted), "decision.instruments.BTCUSDT.tiers"),
    "the window of the budgets": (figure("policy", "flow_window_ms"), "decision.policy.flow_window_ms"),
    "a fee": (figure("costs", 0, "taker_fee"), "decision.costs"),
    "a balance": (figure("collateral", 0, "balance"), "decision.collateral[0].value"),
    "a collateral value": (figure("collateral", 0, "value"), "decision.collateral[0].value"),
    "a weight": (figure("collateral", 0, "weights", 0, 1), "decision.collateral"),
    "the least notional": (figure("policy", "min_notional"), "decision.policy.min_notional"),
    "the limit band": (figure("policy", "limit_band"), "decision.policy.limit_band"),
    "the policy version": (figure("policy_version"), "decision.policy_version"),
    "a record without its policy": (in_decision(is_partial, forget_the_policy), "record"),
    # The certificate.
    "the deficit": (figure("certificate", "deficit"), "decision.certificate.deficit"),
    "the bound": (figure("certificate", "bound"), "decision.certificate.bound"),
    "the dual price": (figure("certificate", "dual_price"), "decision.certificate.dual_price"),
    "the cost": (figure("certificate", "cost"), "decision.certificate.cost"),
    "the gap": (figure("certificate", "gap"), "decision.certificate.gap"),
    "what largest first costs": (figure("certificate", "largest_first"), "decision.certificate.largest_first"),
    "what pro rata costs": (figure("certificate", "pro_rata"), "decision.certificate.pro_rata"),
    "equity after the plan": (figure("certificate", "equity_after"), "decision.certificate.equity_after"),
    "margin after the plan": (
        figure("certificate", "maintenance_margin_after"), "decision.certificate.maintenance_margin_after",
    ),
    "more was wanted than the certificate pays for": (
        in_decision(was_cut, lambda decision: want(decision, more_lots=1)), "decision.certificate.cost",
    ),
    "less was wanted than was sent": (
        in_decision(was_cut, lambda decision: want(decision, more_lots=-10_000)), "decision.wanted",
    ),
    "a plan that nothing cut says what was wanted": (
        in_decision(is_partial, lambda decision: decision.update(wanted=decision["plan"])), "decision.wanted",
    ),
    "a bound above the cost": (figure("certificate", "bound", digit=0), "decision.certificate.cost"),
    # Sales of collateral.
    "everything is closed and called partial": (
        planned("stage", lambda order: "partial", is_full), "decision.plan: stage of",
    ),
    "everything is closed, and yet something is sold": (
        planned("stage", lambda order: "full", is_beside_a_sale), "decision.plan: sales",
    ),
    "more is sold for a debt than there is": (
        planned("amount", lambda order: "9999999", is_debt_sale), "decision.plan[0].amount",
    ),
    "more is sold beside a close than there is": (
        planned("amount", lambda order: "9999999", is_sale), "decision.plan: amount",
    ),
    "an asset is sold for itself": (planned("for_asset", lambda order: order["asset"], is_sale), "decision.plan: for"),
    "more is sold beside a close": (planned("amount", nudge("amount"), is_sale), "decision.certificate"),
    "more is sold for a debt": (planned("amount", nudge("amount"), is_debt_sale), "decision.plan"),
    "another asset is bought": (planned("for_asset", lambda order: "ALT", is_debt_sale), "decision.plan"),
    "the limit of a sale is a digit off": (planned("limit_price", nudge("limit_price"), is_sale), "decision.plan["),
    # Numbers and times.
    "a record is lost": (lose("margin_call"), "seq"),
    "a record is written twice": (repeat("insurance_fund"), "seq"),
    "a refusal is written twice": (repeat("reject"), "seq"),
    "an output id is another's": (put("margin_call", "output_id", nudged), "output_id"),
    "a record is of another shard": (put("takeover", "shard", 1), "shard"),
    "a record is of an earlier time": (put("liquidation_ended", "ts", START_NS - 1), "ts"),
    "a record is in another file": (
        lambda output: output.records.__setitem__(0, ("bad-debt", output.records[0][1])), "type",
    ),
    # Episodes.
    "an episode is not begun": (drop("liquidation_started"), "liquidation_id"),
    "an episode is not ended": (drop("liquidation_ended", lambda body: body["account"] == "a01"), "type"),
    "nobody's own orders are cancelled": (drop("cancel_orders"), "type"),
    "an episode is left out": (skip_episode, "liquidation_id"),
    "a healthy account is liquidated": (put("liquidation_started", "equity", "999999"), "equity"),
    "a margin ratio": (put("liquidation_started", "margin_ratio", nudged, has_ratio), "margin_ratio"),
    "a margin call's ratio": (put("margin_call", "margin_ratio", nudged, has_ratio), "margin_ratio"),
    "an outcome": (put("liquidation_ended", "outcome", "closed", is_handed_over), "outcome"),
    "something is left after a takeover": (
        put("liquidation_ended", "equity", "0.01", is_handed_over),
        "equity",
    ),
    "a debt is left": (put("liquidation_ended", "equity", "-1"), "equity"),
    "a hold ends twice": (
        put("liquidation_held", "reason", "paused", lambda body: body["reason"] == "price_band"), "reason",
    ),
    "a hold is forgotten": (drop("liquidation_held"), "reason"),
    "a release is forgotten": (drop("liquidation_released"), "type"),
    "a policy is skipped": (put("policy_changed", "version", 3), "version"),
    "a healthy account is liquidated with a ratio to match": (heal, "equity"),
    "an episode begins with another equity than its first order": (begin_otherwise, "decision.equity"),
    "an episode is named after another account": (rename_episode, "liquidation_id"),
    "orders are cancelled later on": (
        lambda output: output.insert(
            output.first("liquidation_ended"), "liquidation-orders", type="cancel_orders",
            liquidation_id=output.first("liquidation_ended")["liquidation_id"],
        ),
        "type",
    ),
    "an order is sent for a row that is held": (hold_before("liquidation_order"), "type"),
    "an episode begins while the row is held": (hold_before("liquidation_started"), "type"),
    "who crossed is not in order": (put("policy_changed", "crossed", ["b", "a"]), "crossed"),
    # Takeover, deleveraging, the fund, bad debt.
    "a close that was not needed where there was none": (
        put("liquidation_ended", "not_needed", "1", is_handed_over), "not_needed",
    ),
    "something was closed without an order": (
        put("liquidation_ended", "closed_notional", "5", lambda body: is_handed_over(body) and body["cost"] == "0"),
        "closed_notional",
    ),
    "a wave is not told": (lose_the_only_wave, "type"),
    "a takeover of nothing": (put("takeover", "positions", []), "positions"),
    "a takeover of half a lot": (split_lot, "positions[0].qty"),
    "a winner gives another contract": (put("adl", "symbol", "NOSUCH"), "symbol"),
    "the price of a takeover": (lambda output: nudge_takeover(output, "price"), "positions[0].price"),
    "the quantity of a takeover": (lambda output: nudge_takeover(output, "qty"), "positions[0]"),
    "what is lost at a takeover": (
        put("takeover", "equity_before", nudged, lambda body: body["equity_before"].startswith("-")), "bad debt",
    ),
    "a winner pays more than the others": (
        lambda output: output.first("adl", lambda body: in_a_crowd(output, body)).update(cash="1"), "cash",
    ),
    "a winner gives more than the wave says": (put("adl", "qty", lambda qty: f"{qty}5"), "taken_qty"),
    "a wave takes more than it needs": (put("adl_wave", "needed_qty", "0"), "needed_qty"),
    "a wave counts its winners wrong": (put("adl_wave", "counterparties", lambda count: count + 1), "counterparties"),
    "a winner is left out": (drop("adl"), "taken_qty"),
    "the fund's balance": (put("insurance_fund", "balance", nudged), "balance"),
    "the fund's change": (
        lambda output: output.bodies("insurance_fund")[-1].update(change="123.456"), "balance",
    ),
    "a loss": (put("bad_debt", "deficit", nudged), "deficit"),
    "what the fund paid": (put("bad_debt", "paid_by_insurance", nudged), "deficit"),
    "a loss and what the fund paid for it": (
        lambda output: output.first("bad_debt", is_loss).update(deficit="77", paid_by_insurance="77", paid_by_adl="0"),
        "bad debt",
    ),
    "a loss that never was": (drop("bad_debt", is_loss), "bad debt"),
    "a winner is paid for a loss that the fund bore": (overpay, "deficit"),
    "the fund paid what it did not": (shift_to_the_fund, "paid_by_insurance"),
    "a loss of an account that lost nothing": (invent_a_loss, "deficit"),
    "the fund changed by nothing": (
        lambda output: output.insert(
            output.bodies("insurance_fund")[-1], "margin-events", type="insurance_fund", asset="BTC", change="0",
            balance="0", cause="fill",
        ),
        "change",
    ),
    # The summary.
    "orders": (total("orders", lambda count: count + 1), "orders"),
    "liquidations": (total("liquidations", lambda count: count + 1), "liquidations"),
    "deleveraged positions": (total("adl", lambda count: count - 1), "adl"),
    "messages": (total("messages", lambda count: count + 1), "messages"),
    "refusals": (drop("reject"), "rejected"),
    "losses": (total("bad_debt", lambda amounts: {**amounts, "USD": "0.1"}), "bad_debt"),
    "what nobody paid": (total("uncovered", lambda amounts: {**amounts, "USD": "0.1"}), "uncovered"),
    "the fund at the end": (total("insurance", lambda amounts: {**amounts, "USDT": "0.1"}), "insurance.USDT"),
    "what was closed": (total("notional_liquidated", lambda amount: "1"), "notional_liquidated"),
    "money from nowhere, told as such": (
        lambda output: output.summary["conservation"].update(BTC={"wallets": "2", "transfers": "1", "difference": "1"}),
        "conservation.BTC.difference",
    ),
    "money from nowhere": (
        lambda output: output.summary["conservation"]["USDT"].update(wallets="1"), "conservation.USDT.difference",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("forge", "field"), FORGERIES.values(), ids=FORGERIES)
def test_a_forgery_is_found(tmp_path: Path, sample: Output, forge: Callable[[Output], None], field: str) -> None:
    output = copy.deepcopy(sample)
    forge(output)
    found = verify(output.write(tmp_path)).differences
    assert any(difference.field.startswith(field) for difference in found), fields_of(found)


def test_a_changed_byte_that_no_figure_depends_on_still_changes_the_hash(tmp_path: Path, sample: Output) -> None:
    output = copy.deepcopy(sample)
    output.first("liquidation_order")["decision"]["input"]["line"] += 1
    sample.write(tmp_path)
    unchanged = json.loads((tmp_path / "summary.json").read_bytes())
    verdict = verify(Output(output.records, unchanged).write(tmp_path, rehash=False))
    assert fields_of(verdict.differences) == ["outputs_hash"]


# -------------------------------------------------------------------------------------------------------- any one digit

# Figures that no other figure bears on, as ``engine/tools/verify.py`` says; the floor of the next tier is held to what
# other decisions say of the contract, but here some contract stands in one decision only.
INFORMATIONAL = re.compile(r"input\..*|(marks|asset_prices)\.\d+\.ts|instruments\.\d+\.next_floor")


def figures(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every number of a decision, with the way to it."""
    if isinstance(node, dict | list):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from figures(child, (*path, key))
    elif type(node) is int or (isinstance(node, str) and re.fullmatch(r"-?[0-9.]+", node)):
        yield path, str(node)


def digits(decision: Body) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """Every digit of every number that must be found out, with its place in the text."""
    for path, text in figures(decision):
        name = ".".join(map(str, path))
        if INFORMATIONAL.fullmatch(name):
            continue
        # A ten-thousandth of a coin's price moves a value even of a small balance; a millionth may be rounded away.
        last = text.find(".") + 5 if re.fullmatch(r"asset_prices\.\d+\.price", name) and "." in text else len(text)
        yield from ((path, place) for place, char in enumerate(text[:last]) if char.isdigit())


@given(order=st.integers(0, 10**6), figure=st.integers(0, 10**6), step=st.integers(1, 9))
def test_any_one_digit_of_any_decision_is_found(
    uncut: Output, tmp_path_factory: pytest.TempPathFactory, order: int, figure: int, step: int
) -> None:
    output = copy.deepcopy(uncut)
    decisions = [body["decision"] for _, body in output.records if "decision" in body]
    decision = decisions[order % len(decisions)]
    choices = [*digits(decision)]
    path, place = choices[figure % len(choices)]
    node: Any = decision
    for key in path[:-1]:
        node = node[key]
    text = str(node[path[-1]])
    forged = text[:place] + str((int(text[place]) + step) % 10) + text[place + 1 :]
    node[path[-1]] = int(forged) if type(node[path[-1]]) is int else forged
    out = output.write(tmp_path_factory.mktemp("digit"))
    assert verify(out).differences, f"{path}: {text} became {forged}"


@given(place=st.integers(0, 10**6), copies=st.sampled_from([0, 2]))
def test_any_line_lost_or_repeated_is_found(
    sample: Output, tmp_path_factory: pytest.TempPathFactory, place: int, copies: int
) -> None:
    # Lost at the very end it leaves no gap: only the hash knows of it.
    index = place % (len(sample.records) - 1)
    records = [*sample.records]
    records[index : index + 1] = [sample.records[index]] * copies
    out = Output(records, sample.summary).write(tmp_path_factory.mktemp("line"))
    assert "seq" in fields_of(verify(out).differences)


def test_the_last_line_lost_shows_in_the_hash(tmp_path: Path, sample: Output) -> None:
    sample.write(tmp_path)
    unchanged = json.loads((tmp_path / "summary.json").read_bytes())
    out = Output(sample.records[:-1], unchanged).write(tmp_path, rehash=False)
    assert "outputs_hash" in fields_of(verify(out).differences)


# ------------------------------------------------------------------------------------------------------- faulty engines


def beyond_the_limit(limit_price: Callable[..., int]) -> Callable[..., int]:
    def fault(book: Any, symbol: int, size: int, bankruptcy: int | None) -> int:
        tick = book.instruments[symbol].tick_steps
        return limit_price(book, symbol, size, bankruptcy) - (tick if size > 0 else -tick)

    return fault


def a_tenth_too_early(is_liquidatable: Callable[..., bool]) -> Callable[..., bool]:
    return lambda book, row: is_liquidatable(book, row) or 0 < book.equity(row) * 10 <= book.maintenance(row) * 11


def a_unit_forgotten(note_fund: Callable[..., None]) -> Callable[..., None]:
    return lambda self, asset, before, cause, **names: note_fund(self, asset, before - 1, cause, **names)


def counted_by_two(next_order_id: Callable[..., str]) -> Callable[..., str]:
    def fault(self: Any, episode: Any) -> str:
        episode.orders_count += 1
        return next_order_id(self, episode)

    return fault


def twice_as_dear(fractional_optimum: Callable[..., Any]) -> Callable[..., Any]:
    def fault(ladders: Any, deficit_ppm: int) -> Any:
        optimum = fractional_optimum(ladders, deficit_ppm)
        return optimum and (2 * optimum[0], optimum[1])

    return fault


def a_gift(exact_shares: Callable[..., Any]) -> Callable[..., Any]:
    def fault(book: Any, row: int) -> Any:
        shares = exact_shares(book, row)
        shares[-1].cash += 1_000_000
        shares[-1].cash_left += 1_000_000
        return shares

    return fault


def a_lot_to_spare(prune: Callable[..., None]) -> Callable[..., None]:
    return lambda self, lots, forced: lots.__setitem__(0, lots[0] + 1)


# What is wrong with an engine -> (where, what, how it is broken, the field in which it shows).
FAULTS: dict[str, tuple[Any, str, Callable[[Any], Any], str]] = {
    "a limit beyond the bankruptcy price": (liquidation, "limit_price", beyond_the_limit, "decision.plan["),
    "more is closed than the target needs": (plan.Search, "prune", a_lot_to_spare, "decision.plan: qty"),
    "budgets are not kept": (
        liquidation,
        "lots_that_fit",
        lambda original: lambda *given: given[3],
        "decision.plan: qty",
    ),
    "healthy accounts are liquidated": (liquidation, "is_row_liquidatable", a_tenth_too_early, "decision.equity"),
    "the fund's account is wrong": (shard.Shard, "note_fund", a_unit_forgotten, "balance"),
    "order numbers have gaps": (shard.Shard, "next_order_id", counted_by_two, "order_id"),
    "the bound is no bound": (certificate, "fractional_optimum", twice_as_dear, "decision.certificate.bound"),
    "a takeover leaves something": (takeover, "exact_shares", a_gift, "equity"),
    "collateral is sold at any price": (debts, "sale_limit", lambda original: lambda *given: 1, "decision.plan["),
}


@pytest.mark.parametrize(("place", "name", "fault", "field"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_engine_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, fault: Callable[[Any], Any], field: str
) -> None:
    monkeypatch.setattr(place, name, fault(getattr(place, name)))
    found = verify(run_market(tmp_path, 104, partial="cheapest", target_buffer="0.1", min_notional="5")).differences
    assert any(difference.field.startswith(field) for difference in found), fields_of(found)


def test_a_loss_of_one_unit_over_three_positions_is_a_loss_of_one_unit() -> None:
    terms = {"settle": "USDT", "price_tick": "0.1", "lot": "0.01", "tiers": [["0", "0.02", "25"]]}
    desk = Desk(instruments={"SOLUSDT": terms})
    desk.tell(mark("100"), mark("50", "ETHUSDT"), mark("50", "SOLUSDT"), deposit("$insurance", "100"))
    desk.tell(deposit("alice", "39.99999999"), buy("alice", "10", "100"))
    desk.tell(buy("alice", "10", "50", "ETHUSDT"), buy("alice", "10", "50", "SOLUSDT"))
    # 40 are lost on 39.99999999: however the unit is split over the three, no part of it is lost twice.
    debt = one(desk.tell(mark("96")), "bad_debt")
    assert (debt["deficit"], debt["paid_by_insurance"]) == ("0.00000001", "0.00000001")


# --------------------------------------------------------------------------------------------------------- command line


def test_the_command_says_how_much_was_verified(
    tmp_path: Path, sample: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    sample.write(tmp_path)
    orders = len(sample.bodies("liquidation_order")) + len(sample.bodies("collateral_sale"))
    assert main(["verify", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{orders} orders, {len(sample.records) - orders} events verified\n"
    assert main(["verify", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {
        "orders": orders, "events": len(sample.records) - orders, "differences_count": 0, "differences": [],
    }  # fmt: skip


def test_the_command_names_file_line_field_and_both_values(
    tmp_path: Path, sample: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    output = copy.deepcopy(sample)
    order = output.first("liquidation_order")
    line = [body for name, body in output.records if name == "liquidation-orders"].index(order) + 1
    was, order["qty"] = order["qty"], "0.5"
    output.write(tmp_path)
    assert main(["verify", str(tmp_path)]) == 1
    assert capsys.readouterr().out == (
        f'liquidation-orders.jsonl:{line}: qty: stated "0.5", derived "{was}"\n1 difference\n'
    )
    assert main(["verify", str(tmp_path), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["differences"]
    expected = {"file": "liquidation-orders.jsonl", "line": line, "field": "qty", "stated": "0.5", "derived": was}
    assert found == expected


def test_the_first_twenty_differences_are_shown_and_all_are_counted(
    tmp_path: Path, sample: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    output = copy.deepcopy(sample)
    for _, body in output.records:
        body["output_id"] = "forged"
    output.write(tmp_path)
    assert main(["verify", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21
    assert lines[-1] == f"{len(output.records)} differences, the first 20 of them above"


UNUSABLE: dict[str, Callable[[Path], object]] = {
    "no summary": lambda out: (out / "summary.json").unlink(),
    "a summary that is no object": lambda out: (out / "summary.json").write_text("[]"),
    "no file of events": lambda out: (out / "margin-events.jsonl").unlink(),
    "a line that is cut": lambda out: (out / "bad-debt.jsonl").write_text('{"seq": 1'),
    "a line that is no record": lambda out: (out / "bad-debt.jsonl").write_text("[]\n"),
    "a record without a number": lambda out: (out / "bad-debt.jsonl").write_text('{"seq": "1"}\n'),
    "bytes that are no text": lambda out: (out / "bad-debt.jsonl").write_bytes(b"\xff\n"),
}


@pytest.mark.parametrize("spoil", UNUSABLE.values(), ids=UNUSABLE)
def test_what_cannot_be_read_is_bad_input(
    tmp_path: Path, sample: Output, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object]
) -> None:
    spoil(sample.write(tmp_path))
    assert main(["verify", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"liq-engine verify: {tmp_path}")
    assert captured.err.count("\n") == 1


def test_a_folder_that_is_not_there_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert "summary.json: cannot be read" in capsys.readouterr().err
