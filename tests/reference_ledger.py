"""What every accepted event does to balances and positions, without any liquidation policy.

Plain double entry over CONTRACT sections 1, 2 and 4. Events are the dicts of section 2 and are taken as accepted:
the oracle judges what they do, not whether the engine should have refused them. What it ignores (a repeated id, an
older mark, a message that moves no money) returns False.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from fractions import Fraction
from math import floor
from typing import Any

from tests.reference_book import CROSS, Position, read_holdings, whole_units
from tests.reference_numbers import UNIT, decimal, half_even, show, show_units, units_floor, units_up
from tests.reference_terms import Terms, entry_price, read_terms, round_asset_price, round_mark, value_at

CLEARING = "$clearing"
FEES = "$fees"
INSURANCE = "$insurance"
IDS = {"fill": "fill_id", "transfer": "transfer_id", "conversion": "conversion_id"}
SETTINGS = {"set_instrument": ("instruments", "symbol"), "set_asset": ("assets", "asset")}
PositionKey = tuple[str, str, str, str]  # account, bucket, symbol, leg


class ReferenceLedger:
    """Balances per (account, bucket, asset) in units, and positions in cash-flow form."""

    def __init__(self, risk: dict[str, Any], book: dict[str, Any] | None = None) -> None:
        self.risk = copy.deepcopy(risk)
        self.wallets: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self.positions: dict[PositionKey, Position] = {}
        self.transfers: defaultdict[str, int] = defaultdict(int)
        self.accounts: set[str] = set()
        self.marks: dict[str, Fraction] = {}
        self.prices: dict[str, Fraction] = {}
        self.latest_ts: dict[tuple[str, str], int] = {}
        self.seen: set[tuple[str, str, str]] = set()
        if book is not None:
            self.load(book)

    def load(self, book: dict[str, Any]) -> None:
        """Take over a book: what it holds counts as transferred, ``$clearing`` takes the other side of positions."""
        self.marks = {symbol: round_mark(self.risk, symbol, text) for symbol, text in book.get("marks", {}).items()}
        self.prices = {asset: round_asset_price(text) for asset, text in book.get("asset_prices", {}).items()}
        for asset, text in book.get("insurance", {}).items():
            self.wallets[INSURANCE, CROSS, asset] += whole_units(text)
        holdings = read_holdings(book, self.risk)
        # A book that was written by a run names $clearing itself; mirroring it again would double the other side.
        is_mirrored = all(holding.account != CLEARING for holding in holdings)
        for holding in holdings:
            self.accounts.add(holding.account)
            for asset, units in holding.balances.items():
                self.wallets[holding.account, holding.bucket, asset] += units
            for position in holding.positions:
                self.positions[holding.account, holding.bucket, position.symbol, position.leg] = position
                if is_mirrored:
                    self.mirror(read_terms(self.risk, position.symbol), position.qty, position.cost)
        for asset, units in self.held().items():
            self.transfers[asset] = units

    def apply(self, event: dict[str, Any]) -> bool:
        """Fold one event into the ledger and return whether it changed anything."""
        kind = event["type"]
        if self.is_repeated(kind, event) or self.is_outdated(kind, event):
            return False
        if kind in IDS:
            self.accounts.add(event["account"])  # an account never seen is opened, and stays known when it is empty
        if kind == "mark":
            self.marks[event["symbol"]] = round_mark(self.risk, event["symbol"], event["price"])
        elif kind == "asset_price":
            self.prices[event["asset"]] = round_asset_price(event["price"])
        elif kind == "funding":
            return self.pay_funding(event["symbol"], decimal(event["rate"]))
        elif kind == "fill":
            self.fill(event)
        elif kind == "conversion":
            self.convert(event)
        elif kind == "transfer":
            units = whole_units(event["amount"])
            self.wallets[event["account"], event.get("symbol", CROSS), event["asset"]] += units
            self.transfers[event["asset"]] += units
        elif kind in SETTINGS:
            section, name = SETTINGS[kind]
            fields = {key: value for key, value in event.items() if key not in ("type", "ts", name)}
            self.risk.setdefault(section, {}).setdefault(event[name], {}).update(fields)
        elif kind == "set_policy":
            fields = {key: value for key, value in event.items() if key not in ("type", "ts")}
            self.risk.setdefault("policy", {}).update(fields)
        else:
            return False
        return True

    def is_repeated(self, kind: str, event: dict[str, Any]) -> bool:
        """Return whether this account's id was applied before, and remember it."""
        if kind not in IDS:
            return False
        key = (event["account"], kind, event[IDS[kind]])
        known = key in self.seen
        self.seen.add(key)
        return known

    def is_outdated(self, kind: str, event: dict[str, Any]) -> bool:
        """Return whether a mark or asset price is older than the last of its name, and remember its time."""
        if kind not in ("mark", "asset_price"):
            return False
        key = (kind, event["symbol"] if kind == "mark" else event["asset"])
        if event["ts"] < self.latest_ts.get(key, event["ts"]):
            return True
        self.latest_ts[key] = event["ts"]
        return False

    def fill(self, event: dict[str, Any]) -> None:
        """Book a trade: close what it closes, open the rest at the fill price, pay the fee, free an empty bucket."""
        account, symbol = event["account"], event["symbol"]
        terms = read_terms(self.risk, symbol)
        bucket = symbol if event.get("isolated", False) else CROSS
        key = (account, bucket, symbol, event.get("leg", "net"))
        qty = decimal(event["qty"]) * (1 if event["side"] == "buy" else -1)
        price = decimal(event["price"])
        closing = self.closing_part(key, qty)
        cash = self.close(terms, key, closing, price) + self.open(terms, key, qty - closing, price)
        self.mirror(terms, qty, cash)
        fee = whole_units(event.get("fee", "0"))
        self.wallets[account, bucket, terms.settle] -= fee
        self.wallets[FEES, CROSS, terms.settle] += fee
        if bucket != CROSS:
            self.free_bucket(account, bucket, terms.settle)

    def closing_part(self, key: PositionKey, qty: Fraction) -> Fraction:
        """Return the part of a signed trade that reduces the open position: none if it adds, never more than all."""
        held = self.positions[key].qty if key in self.positions else Fraction(0)
        if held * qty >= 0:
            return Fraction(0)
        return qty if abs(qty) <= abs(held) else -held

    def close(self, terms: Terms, key: PositionKey, qty: Fraction, price: Fraction) -> int:
        """Realise a reduction at average cost and return its cash, down, in units of the settlement asset.

        The released share of the cost is rounded down as well; what that leaves stays in the position's cost, so
        that wallet + cost moves by exactly the cash.
        """
        if qty == 0:
            return 0
        position = self.positions[key]
        cash = units_floor(-value_at(terms, qty, price))
        released = floor(position.cost * abs(qty) / abs(position.qty))
        self.wallets[key[0], key[1], terms.settle] += cash + released
        position.cost -= released
        position.qty += qty
        if position.qty == 0:
            del self.positions[key]
        return cash

    def open(self, terms: Terms, key: PositionKey, qty: Fraction, price: Fraction) -> int:
        """Add to a position (or begin one) and return the signed cash it took, down: against the account."""
        if qty == 0:
            return 0
        cash = units_floor(-value_at(terms, qty, price))
        position = self.positions.setdefault(key, Position(key[2], key[3], Fraction(0), 0))
        position.qty += qty
        position.cost += cash
        return cash

    def mirror(self, terms: Terms, qty: Fraction, cash: int) -> None:
        """Give ``$clearing`` the other side of what an account did; flat again, its cash moves to its wallet."""
        key = (CLEARING, CROSS, terms.symbol, "net")
        position = self.positions.setdefault(key, Position(terms.symbol, "net", Fraction(0), 0))
        position.qty -= qty
        position.cost -= cash
        if position.qty == 0:
            self.wallets[CLEARING, CROSS, terms.settle] += position.cost
            del self.positions[key]

    def free_bucket(self, account: str, bucket: str, asset: str) -> None:
        """Move a positive rest to the cross wallet once the bucket's position is gone; a deficit stays with it."""
        is_open = any(key[:2] == (account, bucket) for key in self.positions)
        rest = self.wallets[account, bucket, asset]
        if not is_open and rest > 0:
            self.wallets[account, CROSS, asset] += rest
            self.wallets[account, bucket, asset] = 0

    def pay_funding(self, symbol: str, rate: Fraction) -> bool:
        """Let every open position pay signed notional x rate, up: against the account, ``$clearing`` has the rest."""
        if symbol not in self.marks:
            return False  # nothing was ever valued, so there is no notional to pay on
        terms = read_terms(self.risk, symbol)
        for (account, bucket, held, _), position in self.positions.items():
            if held == symbol:  # $clearing is among them, and what it pays itself changes nothing
                sign = 1 if position.qty > 0 else -1
                notional = abs(value_at(terms, position.qty, self.marks[symbol]))
                paid = units_up(sign * notional * rate)
                self.wallets[account, bucket, terms.settle] -= paid
                self.wallets[CLEARING, CROSS, terms.settle] += paid
        return True

    def convert(self, event: dict[str, Any]) -> None:
        """Exchange one asset of the cross wallet for another with ``$clearing``."""
        for asset, amount, sign in (
            (event["from_asset"], event["from_amount"], -1),
            (event["to_asset"], event["to_amount"], 1),
        ):
            units = sign * whole_units(amount)
            self.wallets[event["account"], CROSS, asset] += units
            self.wallets[CLEARING, CROSS, asset] -= units

    def held(self) -> dict[str, int]:
        """Return per asset the sum of all wallets and of the signed cost of all open positions, in units."""
        sums: defaultdict[str, int] = defaultdict(int)
        for (_, _, asset), units in self.wallets.items():
            sums[asset] += units
        for position in self.positions.values():
            sums[read_terms(self.risk, position.symbol).settle] += position.cost
        return dict(sums)

    def totals(self) -> dict[str, dict[str, str]]:
        """Return per asset what is held and what was transferred; the two are equal after every event."""
        held = self.held()
        return {
            asset: {"wallets": show_units(held.get(asset, 0)), "transfers": show_units(self.transfers.get(asset, 0))}
            for asset in sorted(held.keys() | self.transfers.keys())
        }

    def to_book(self) -> dict[str, Any]:
        """Return the ledger as a book dict, ``$`` accounts and exact costs included, sorted; it loads again."""
        names = {account for account in self.accounts if not account.startswith("$")}
        # The engine's own accounts are always there, so they are written only where they hold something.
        names |= {key[0] for key, units in self.wallets.items() if units} | {key[0] for key in self.positions}
        return {
            "accounts": [self.account_record(account) for account in sorted(names)],
            "marks": {symbol: show(price) for symbol, price in sorted(self.marks.items())},
            "asset_prices": {asset: show(price) for asset, price in sorted(self.prices.items())},
        }

    def account_record(self, account: str) -> dict[str, Any]:
        """Return one account of a book dict; a bucket's margin stands with the first of its legs."""
        balances = {
            asset: show_units(units)
            for (name, bucket, asset), units in sorted(self.wallets.items())
            if name == account and bucket == CROSS and units
        }
        entries = [
            self.position_record(key, position)
            for key, position in sorted(self.positions.items(), key=lambda item: item[0])
            if key[0] == account
        ]
        for (name, bucket, _), units in sorted(self.wallets.items()):
            if name != account or bucket == CROSS or units == 0:
                continue
            legs = [entry for entry in entries if entry["symbol"] == bucket and entry["isolated"]]
            if not legs:  # margin without a position: paid in ahead of the first fill, or a deficit left behind
                legs = [{"symbol": bucket, "leg": "net", "qty": "0", "entry_price": "0", "isolated": True}]
                entries += legs
            legs[0]["margin"] = show_units(units)
        return {"account": account, "balances": balances, "positions": entries}

    def position_record(self, key: PositionKey, position: Position) -> dict[str, Any]:
        """Return one position of a book dict; ``cost`` is exact and takes precedence over the entry price."""
        terms = read_terms(self.risk, position.symbol)
        record = {"symbol": position.symbol, "leg": position.leg, "qty": show(position.qty)}
        entry = entry_price(terms, position.qty, Fraction(position.cost, UNIT))
        if entry is not None:
            record["entry_price"] = show(half_even(entry, 18))
        return {**record, "cost": show_units(position.cost), "isolated": key[1] != CROSS}
