"""Write the stored summaries anew, and with ``--logs`` first the logs, from their seeds."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from random import Random

from engine.core.events import Message, Origin
from engine.core.machine import Machine
from engine.core.shard import Shard
from engine.edges.codec import decode
from engine.edges.config import load_risk
from tests.golden import FOLDER, LOGS, replay_golden
from tests.malformed import malformed_lines
from tests.scenarios import (
    MS,
    START_NS,
    Body,
    answer,
    asset_price,
    buy,
    control,
    deposit,
    done,
    funding,
    mark,
    own_id,
    sell,
)

SEEDS = {"crash": 1, "desk": 2, "coins": 3}
MESSAGES = 700


class Market:
    """Prices that wander in steps of up to ``step_ppm``, a little more often down than up."""

    def __init__(self, random: Random, prices: dict[str, int], *, step_ppm: int) -> None:
        self.random = random
        self.prices = prices
        self.step_ppm = step_ppm

    def move(self, name: str) -> str:
        """Return the next price of one name: cents, as a decimal."""
        step = self.random.randrange(-self.step_ppm * 11 // 10, self.step_ppm)
        self.prices[name] += self.prices[name] * step // 1_000_000
        return f"{self.prices[name] // 100}.{self.prices[name] % 100:02}"


def crash(random: Random) -> Iterator[Body | bytes]:
    market = Market(random, {"BTCUSDT": 10_000, "ETHUSDT": 5_000, "COIN": 1_000}, step_ppm=12_000)
    yield deposit("$insurance", "250")
    while True:
        dice, account = random.randrange(100), f"a{random.randrange(40):02}"
        if dice < 80:
            symbol = random.choice(("BTCUSDT", "ETHUSDT"))
            yield mark(market.move(symbol), symbol)
        elif dice < 86:
            yield asset_price("COIN", market.move("COIN"))
        elif dice < 90:
            yield deposit(account, str(random.randrange(-5, 30) or 1))
        elif dice < 92:
            yield funding(f"0.000{random.randrange(100, 999)}", random.choice(("BTCUSDT", "ETHUSDT")))
        else:
            side = random.choice((buy, sell))
            yield side(account, f"{random.randrange(1, 4)}", market.move("BTCUSDT"), fee="0.01")


def crash_book(random: Random) -> Body:
    accounts = []
    for number in range(40):
        sign = "" if number % 2 else "-"
        qty = {"BTCUSDT": f"{sign}{random.randrange(1, 60)}.{random.randrange(1000):03}"}
        if number % 3 == 0:
            qty["ETHUSDT"] = f"{random.choice(('', '-'))}{random.randrange(1, 40)}"
        positions = [
            {"symbol": symbol, "qty": text, "entry_price": {"BTCUSDT": "100.1", "ETHUSDT": "49.9"}[symbol]}
            for symbol, text in qty.items()
        ]
        balances = {"USDT": str(random.randrange(150, 500))}
        if number % 4 == 0:
            balances["COIN"] = f"{random.randrange(1, 90)}"
        accounts.append({"account": f"a{number:02}", "balances": balances, "positions": positions})
    marks = {"BTCUSDT": "100", "ETHUSDT": "50"}
    return {"accounts": accounts, "marks": marks, "asset_prices": {"COIN": "10"}, "ts": START_NS}


def desk(random: Random, orders: list[Body]) -> Iterator[Body | bytes]:
    market = Market(random, {"BTCUSDT": 10_000, "ETHUSDT": 5_000, "COIN": 1_000}, step_ppm=6_000)
    refused = malformed_lines()
    yield mark("100")
    yield mark("50", "ETHUSDT")
    yield asset_price("COIN", "10")
    while True:
        dice, account = random.randrange(100), f"d{random.randrange(12)}"
        isolated: Body = {"isolated": True} if account in ("d0", "d1") else {}
        if dice < 40:
            symbol = random.choice(("BTCUSDT", "ETHUSDT"))
            yield mark(market.move(symbol), symbol)
        elif dice < 55:
            side, leg = random.choice(((buy, "long"), (sell, "short")))
            legs: Body = {"leg": leg} if account == "d2" else isolated
            yield side(account, f"{random.randrange(1, 6)}", market.move("BTCUSDT"), **legs)
        elif dice < 65:
            amount = random.choice(("5", "-3", "0.000001", "12.5"))
            yield deposit(account, amount, random.choice(("USDT", "USDT", "COIN")))
        elif dice < 68:
            yield deposit(account, "10", symbol="BTCUSDT")
        elif dice < 84 and orders:
            # Mostly of late orders, in part, in full, too much, again.
            order = random.choice(orders[-4:])
            if random.random() < 0.4:
                yield done(order, random.choice(("expired", "cancelled", "filled")))
            else:
                price = str(Fraction(order["limit_price"]).__ceil__())
                yield answer(order, random.choice((order["qty"], "1", "2")), price)
        elif dice < 88:
            yield control(random.choice(("pause", "resume")), scope=random.choice(("all", "BTCUSDT")))
        elif dice < 90:
            yield control("set_policy", target_buffer=random.choice(("0", "0.1", "0.5")))
        elif dice < 91:
            yield control("set_asset", asset="COIN", weights=[["0", random.choice(("0.9", "0.8"))]])
        elif dice < 93:
            yield funding(f"-0.00{random.randrange(10, 99)}")
        else:
            yield next(line for _, line, _ in refused if 0 < len(line) <= 500 and b"\n" not in line)


def coins(random: Random) -> Iterator[Body | bytes]:
    market = Market(random, {"COINUSD": 10_000, "BTCUSDT": 20_000, "GOLD": 2_000}, step_ppm=18_000)
    for asset in ("COIN", "GOLD"):
        yield asset_price(asset, "20" if asset == "GOLD" else "100")
    yield mark("100", "COINUSD")
    yield mark("200")
    yield deposit("$insurance", "0.5", "COIN")
    for number in range(16):
        account = f"c{number:02}"
        yield deposit(account, f"{random.randrange(1, 4)}.5", "COIN")
        yield deposit(account, f"{random.randrange(1, 9)}.25", "GOLD")
        yield (buy, sell)[number % 2](account, f"{random.randrange(50, 400)}", "100", "COINUSD")
        yield (sell, buy)[number // 2 % 2](account, f"{random.randrange(5, 90)}", "200", "BTCUSDT")
    while True:
        dice, account = random.randrange(100), f"c{random.randrange(16):02}"
        if dice < 45:
            price = market.move("COINUSD")
            yield mark(price, "COINUSD")
            yield asset_price("COIN", price)
        elif dice < 75:
            yield mark(market.move("BTCUSDT"))
        elif dice < 85:
            yield asset_price("GOLD", market.move("GOLD"))
        elif dice < 93:
            yield deposit(account, random.choice(("0.5", "-0.3")), random.choice(("COIN", "GOLD")))
        else:
            yield (buy, sell)[random.randrange(2)](account, "20", market.move("COINUSD"), "COINUSD")


def write_log(name: str) -> None:
    """Write one log: a message every half second or so; now and then one is late, and one comes twice."""
    random = Random(SEEDS[name])
    if name == "crash":
        text = json.dumps(crash_book(random), indent=1)
        (FOLDER / f"{name}.book.json").write_text(text + "\n")
    machine, orders = Machine(Shard(load_risk(FOLDER / f"{name}.toml"))), list[Body]()
    messages: dict[str, Iterator[Body | bytes]] = {
        "crash": crash(random),
        "desk": desk(random, orders),
        "coins": coins(random),
    }
    lines: list[bytes] = []
    ts = START_NS
    for number, message in enumerate(islice(messages[name], MESSAGES), start=1):
        ts += random.randrange(1, 1000) * MS
        late_ns = 5_000 * MS if random.random() < 0.02 else 0
        if isinstance(message, bytes):
            line = message
        elif random.random() < 0.02:
            line = random.choice(lines)
        else:
            line = json.dumps({**message, **own_id(message, f"n{number}"), "ts": ts - late_ns}).encode()
        lines.append(line)
        event = decode(line)
        if name == "desk" and event is not None:
            outputs = machine.apply([Message(Origin(name, -1, number), event, line)])
            orders += [output.body for output in outputs if output.body["type"] == "liquidation_order"]
    (FOLDER / f"{name}.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def main(arguments: list[str]) -> None:
    for name in LOGS:
        if "--logs" in arguments:
            write_log(name)
        summary = replay_golden(name)
        (FOLDER / f"{name}.summary.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
