"""How a book file becomes a shard's state.

Loaded balances count as transfers, and ``$clearing`` takes the other side of loaded positions. A book that the engine
wrote (``book_dump.py``) carries exact costs and the ``$`` accounts, and loads again to the same state.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from engine.core import ledger
from engine.core.book import CROSS, INSURANCE_ROW, LEG_NAMES, LONG, NET, SHORT, Book
from engine.core.debts import is_insolvent
from engine.core.events import CLEARING, INSURANCE
from engine.core.params import Instrument, identity
from engine.core.pricing import reprice_all, symbol_notional
from engine.core.shard import Shard
from engine.errors import InputError, ParamError
from engine.units import (
    INT64_MAX,
    POSITION_UNITS_MAX,
    UNIT_DECIMALS,
    Number,
    format_units,
    scaled_half_even,
    try_number,
    try_scaled,
)

ENTRY_DECIMALS = 18
_TOP_KEYS = ("accounts", "marks", "asset_prices", "insurance", "ts", "transfers", "episodes")
_ACCOUNT_KEYS = ("account", "balances", "positions", "buckets")
_POSITION_KEYS = ("symbol", "qty", "entry_price", "cost", "leg", "isolated", "margin")


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the file a value stands, for the error that names it.

    ``is_exact`` marks a book that the engine wrote: realised profit has 8 decimals whatever its asset's ``decimals``.
    """

    file: str
    path: str
    is_exact: bool = False

    def at(self, part: str) -> Place:
        """Return a place further down."""
        return Place(self.file, f"{self.path}.{part}" if self.path else part, self.is_exact)

    def fail(self, value: object, rule: str) -> NoReturn:
        """Raise InputError with file, place, value and rule."""
        raise InputError(f"{self.file}: {self.path}: {value!r}: {rule}")


def load_book(shard: Shard, path: Path) -> None:
    """Load a book file into a fresh shard; raises InputError with file, place, value and rule."""
    load_document(shard, read_document(path), str(path))


def read_document(path: Path) -> Any:
    """Return the JSON of a book file, nothing of it checked yet; raises InputError where it is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    try:
        return json.loads(text, parse_float=_refuse_float, object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a book: {error}") from error


def _refuse_float(text: str) -> NoReturn:
    raise ValueError(f"{text} is a JSON float; write numbers as decimal strings")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        names = sorted({name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1})
        raise ValueError(f"duplicate key {', '.join(names)}")
    return document


def load_document(shard: Shard, document: Any, file: str) -> None:
    """Load a parsed book; see ``load_book``."""
    book = shard.book
    fields = as_object(document, Place(file, ""))
    place = Place(file, "", is_exact="transfers" in fields)
    check_keys(fields, _TOP_KEYS, place)
    ts = fields.get("ts", 0)
    if isinstance(ts, bool) or not isinstance(ts, int) or not 0 <= ts <= INT64_MAX:
        place.at("ts").fail(ts, "must be an integer, nanoseconds")
    if ts > 0:
        book.clock = ts
    load_prices(book, fields, place, ts)
    for name, value in as_object(fields.get("insurance", {}), place.at("insurance")).items():
        spot = place.at(f"insurance.{name}")
        asset = asset_named(book, name, spot)
        add_balance(book, INSURANCE_ROW, asset, balance_units(book, asset, value, spot), spot)
    clearing: tuple[dict[str, Any], Place] | None = None
    seen: set[str] = set()
    for index, value in enumerate(as_list(fields.get("accounts", []), place.at("accounts"))):
        spot = place.at(f"accounts[{index}]")
        account = as_object(value, spot)
        if account.get("account") == CLEARING:
            clearing = account, spot
        load_account(book, account, seen, spot)
    if clearing is not None:
        load_clearing(book, *clearing)
    load_history(shard, fields, place)
    reprice_all(book)
    # No mark will ever touch who has no position and only assets of a fixed price: the next step looks at its debts.
    shard.dirty.update(row for row in range(1, len(book.accounts)) if book.is_warm(row) and is_insolvent(book, row))


def load_prices(book: Book, fields: dict[str, Any], place: Place, ts: int) -> None:
    """Load marks and asset prices; they value, but an account is first examined on prices of the log."""
    for name, value in as_object(fields.get("marks", {}), place.at("marks")).items():
        spot = place.at(f"marks.{name}")
        symbol = symbol_named(book, name, spot)
        instrument = book.instruments[symbol]
        price = scaled_half_even(number(value, spot), instrument.mark_decimals) * instrument.mark_steps
        if not 0 < price <= POSITION_UNITS_MAX:
            spot.fail(value, "must be a price above 0")
        book.set_mark(symbol, price, ts, is_seen=False)
    for name, value in as_object(fields.get("asset_prices", {}), place.at("asset_prices")).items():
        spot = place.at(f"asset_prices.{name}")
        asset = asset_named(book, name, spot)
        price = scaled_half_even(number(value, spot), UNIT_DECIMALS)
        if not 0 < price <= POSITION_UNITS_MAX:
            spot.fail(value, "must be a price above 0")
        # A fixed price of the risk file wins, as it does over asset_price messages.
        if book.assets[asset].price_units is None:
            book.set_asset_price(asset, price, ts, is_seen=False)


def load_account(book: Book, fields: dict[str, Any], seen: set[str], place: Place) -> None:
    """Load one account: balances, cross and isolated positions."""
    check_keys(fields, _ACCOUNT_KEYS, place)
    name = fields.get("account")
    try:
        account = identity("account", name)
    except ParamError as error:
        place.at("account").fail(name, error.rule)
    if account.startswith("$") and account != INSURANCE:
        if account not in book.system:
            place.at("account").fail(
                account, f"names with $ are the engine's own: {INSURANCE}, {', '.join(book.system)}"
            )
        load_system_account(book, account, fields, place)
        return
    if account in seen:
        place.at("account").fail(account, "stands twice in the file")
    seen.add(account)
    row = book.open_row(account, CROSS)
    for asset_name, value in as_object(fields.get("balances", {}), place.at("balances")).items():
        spot = place.at(f"balances.{asset_name}")
        asset = asset_named(book, asset_name, spot)
        add_balance(book, row, asset, balance_units(book, asset, value, spot), spot)
    for symbol_name, value in as_object(fields.get("buckets", {}), place.at("buckets")).items():
        spot = place.at(f"buckets.{symbol_name}")
        symbol = symbol_named(book, symbol_name, spot)
        amount = balance_units(book, book.settle[symbol], value, spot)
        add_balance(book, book.open_row(account, symbol_name), book.settle[symbol], amount, spot)
    positions = as_list(fields.get("positions", []), place.at("positions"))
    entries = [as_object(entry, place.at(f"positions[{index}]")) for index, entry in enumerate(positions)]
    for index, entry in enumerate(entries):
        load_position(book, account, entry, entries, place.at(f"positions[{index}]"))


def load_position(book: Book, account: str, entry: dict[str, Any], entries: list[dict[str, Any]], place: Place) -> None:
    """Load one position; its cost is exact where given, else the entry price's, rounded half-even to the unit once."""
    check_keys(entry, _POSITION_KEYS, place)
    symbol = symbol_named(book, entry.get("symbol"), place.at("symbol"))
    instrument = book.instruments[symbol]
    size = try_scaled(number(entry.get("qty"), place.at("qty")), instrument.size_decimals)
    if size is None or size % instrument.lot_steps:
        place.at("qty").fail(entry["qty"], "must be a multiple of the lot")
    isolated = entry.get("isolated", False)
    if not isinstance(isolated, bool):
        place.at("isolated").fail(isolated, "must be true or false")
    row = book.open_row(account, instrument.symbol if isolated else CROSS)
    margin = balance_units(book, book.settle[symbol], entry.get("margin", 0), place.at("margin"))
    if margin and not isolated:
        place.at("margin").fail(entry["margin"], "only an isolated position has a margin of its own")
    if isolated and account == INSURANCE:
        place.at("isolated").fail(isolated, f"{INSURANCE} holds cross positions only")
    add_balance(book, row, book.settle[symbol], margin, place.at("margin"))
    if size == 0:
        return
    leg = position_leg(book, entry, entries, size, place)
    if book.position(row, symbol, leg)[0]:
        place.at("symbol").fail(instrument.symbol, "stands twice in the account")
    check_legs(book, account, instrument.symbol, symbol, leg, place)
    cost = position_cost(instrument, entry, size, place)
    price = book.marks[symbol].value
    if max(abs(cost), symbol_notional(book, symbol, abs(size), price) if price else 0) > POSITION_UNITS_MAX:
        place.at("qty").fail(entry["qty"], "the position exceeds its bound of 4e10")
    ledger.load_position(book, row, symbol, leg, size, cost)


def position_leg(book: Book, entry: dict[str, Any], entries: list[dict[str, Any]], size: int, place: Place) -> int:
    """Return a position's leg; two entries of one symbol with opposite signs are the legs even if they do not say."""
    name = entry.get("leg")
    if name is not None and name not in LEG_NAMES:
        place.at("leg").fail(name, f"must be one of {', '.join(LEG_NAMES)}")
    twins = [
        other
        for other in entries
        if other is not entry
        and other.get("symbol") == entry.get("symbol")
        and other.get("isolated", False) == entry.get("isolated", False)
        and sign_of(other.get("qty")) * size < 0
    ]
    own = LONG if size > 0 else SHORT
    leg = LEG_NAMES.index(name) if name is not None else NET
    if leg == NET and twins:
        leg = own
    if leg not in (NET, own):
        place.at("leg").fail(name, f"qty {entry['qty']} is on the other side")
    return leg


def sign_of(qty: Any) -> int:
    """Return the sign of a raw quantity; 0 for what is none, which is refused at its own place."""
    value = qty if isinstance(qty, int) else (try_number(qty) or (0, 0))[0] if isinstance(qty, str) else 0
    return (value > 0) - (value < 0)


def check_legs(book: Book, account: str, name: str, symbol: int, leg: int, place: Place) -> None:
    """Refuse legs and net of one symbol in one account."""
    for bucket in (CROSS, name):
        row = book.row_index.get((account, bucket))
        for other_symbol, other in book.positions_of(row) if row is not None else ():
            if other_symbol == symbol and (other == NET) != (leg == NET):
                place.at("leg").fail(LEG_NAMES[leg], "legs and net may not mix in one symbol of an account")


def position_cost(instrument: Instrument, entry: dict[str, Any], size: int, place: Place) -> int:
    """Return the signed cash paid for a position, in settlement units."""
    if entry.get("cost") is not None:
        return money(entry["cost"], place.at("cost"))
    mantissa, places = number(entry.get("entry_price"), place.at("entry_price"))
    if places > ENTRY_DECIMALS:
        place.at("entry_price").fail(entry["entry_price"], f"at most {ENTRY_DECIMALS} decimals")
    if mantissa <= 0:
        place.at("entry_price").fail(entry["entry_price"], "must be above 0")
    steps = Fraction(mantissa * 10**instrument.price_decimals, 10**places)
    if instrument.is_inverse:
        return round(size * instrument.value_num / steps)
    return round(-size * steps * Fraction(instrument.value_num, instrument.value_den))


def load_system_account(book: Book, account: str, fields: dict[str, Any], place: Place) -> None:
    """Load the balances of ``$fees``, ``$clearing`` or ``$bad_debt``, as a book written by the engine has them."""
    if account != CLEARING and as_list(fields.get("positions", []), place.at("positions")):
        place.at("positions").fail(fields["positions"], f"{account} holds no positions")
    for name, value in as_object(fields.get("balances", {}), place.at("balances")).items():
        spot = place.at(f"balances.{name}")
        ledger.load_system_balance(book, account, asset_named(book, name, spot), money(value, spot))


def load_clearing(book: Book, fields: dict[str, Any], place: Place) -> None:
    """Load what ``$clearing`` holds, after all positions: its size must be the other side of theirs."""
    for index, value in enumerate(as_list(fields.get("positions", []), place.at("positions"))):
        spot = place.at(f"positions[{index}]")
        entry = as_object(value, spot)
        symbol = symbol_named(book, entry.get("symbol"), spot.at("symbol"))
        size = try_scaled(number(entry.get("qty"), spot.at("qty")), book.instruments[symbol].size_decimals)
        if size != book.clearing[symbol].size:
            spot.at("qty").fail(entry["qty"], "is not the other side of the positions in the file")
        ledger.load_clearing(book, symbol, money(entry.get("cost"), spot.at("cost")))


def load_history(shard: Shard, fields: dict[str, Any], place: Place) -> None:
    """Load what a book written by the engine adds: the transfers it knows of, and how many episodes each row had."""
    book = shard.book
    for name, value in as_object(fields.get("transfers", {}), place.at("transfers")).items():
        spot = place.at(f"transfers.{name}")
        found = book.transfers[asset_named(book, name, spot)]
        if money(value, spot) != found:
            spot.fail(value, f"the balances and costs of the file add up to {format_units(found)}")
    for account, counts in as_object(fields.get("episodes", {}), place.at("episodes")).items():
        for bucket, count in as_object(counts, place.at(f"episodes.{account}")).items():
            spot = place.at(f"episodes.{account}.{bucket}")
            if (account, CROSS) not in book.row_index or (bucket != CROSS and bucket not in book.symbol_index):
                spot.fail(count, "must name an account of the file, and a bucket of it")
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                spot.fail(count, "must be a number of episodes")
            shard.episode_counts[book.open_row(account, bucket)] = count


def check_keys(fields: dict[str, Any], known: tuple[str, ...], place: Place) -> None:
    """Refuse keys that mean nothing here: a misspelt one must not be lost."""
    for key, value in fields.items():
        if key not in known:
            place.at(key).fail(value, f"unknown key; known are {', '.join(known)}")


def as_list(value: Any, place: Place) -> list[Any]:
    """Return a JSON list or fail."""
    if not isinstance(value, list):
        place.fail(value, "must be a list")
    return value


def as_object(value: Any, place: Place) -> dict[str, Any]:
    """Return a JSON object or fail."""
    if not isinstance(value, dict):
        place.fail(value, "must be an object")
    return value


def number(value: Any, place: Place) -> Number:
    """Return an exact decimal or fail."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value, 0
    result = try_number(value) if isinstance(value, str) else None
    if result is None:
        place.fail(value, "must be a decimal string such as '60000.10', or an integer")
    return result


def balance_units(book: Book, asset: int, value: Any, place: Place) -> int:
    """Return a balance in units; a hand-written one has at most the decimals of its asset."""
    decimals = book.assets[asset].decimals
    if not place.is_exact and try_scaled(number(value, place), decimals) is None:
        place.fail(value, f"at most {decimals} decimals")
    return money(value, place)


def money(value: Any, place: Place) -> int:
    """Return an amount in units or fail."""
    units = try_scaled(number(value, place), UNIT_DECIMALS)
    if units is None:
        place.fail(value, f"at most {UNIT_DECIMALS} decimals")
    return units


def symbol_named(book: Book, name: Any, place: Place) -> int:
    """Return the index of a symbol or fail."""
    if not isinstance(name, str) or name not in book.symbol_index:
        place.fail(name, "no such instrument in the risk file")
    return book.symbol_index[name]


def asset_named(book: Book, name: str, place: Place) -> int:
    """Return the index of an asset or fail."""
    if name not in book.asset_index:
        place.fail(name, "no such asset in the risk file")
    return book.asset_index[name]


def add_balance(book: Book, row: int, asset: int, units: int, place: Place) -> None:
    """Post a loaded balance as a transfer."""
    if abs(units) + abs(book.wallet(row, asset)) > POSITION_UNITS_MAX:
        place.fail(format_units(units), "exceeds the bound of 4e10")
    ledger.transfer(book, row, asset, units)
