"""A snapshot is the whole state, or it is refused: restored runs go on to the same bytes, and no damage passes.

The state is compared by walking every attribute of every object, so that one added later and forgotten fails here. Of
the tables that kernels read, what they say is compared, every column of it: where in memory it stands, and with how
much room, is another matter after a restart, and so are the keys of the trigger index.
"""

from __future__ import annotations

import copy
import errno
import gc
import os
import resource
import struct
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import orjson
import pytest

from engine import __version__
from engine.core.book import Book, Clearing, Price
from engine.core.events import Mark, Message, Origin
from engine.core.kernels.tables import (
    BALANCE_MAX,
    BASE,
    CALLED,
    CAPACITY,
    COST_MAX,
    FLAGS,
    HEAD,
    IS_BEHIND,
    PRICE,
    RANK,
    SIZE_MAX,
    STALE_COUNT,
    STANDING_FLAGS,
    UNPRICED,
    Tables,
)
from engine.core.lines import Lines
from engine.core.machine import Machine
from engine.core.pacing import Flow
from engine.core.params import Asset, Instrument, Policy, Risk, build_asset, build_instrument, build_policy
from engine.core.pricing import symbol_rows, try_put_asset_price, try_put_mark
from engine.core.shard import Counters, Episode, Hold, Order, Shard
from engine.core.tables import TableStore
from engine.edges import snapshot as snapshots
from engine.edges.bookfile import load_document
from engine.edges.codec import encode
from engine.edges.config import load_risk
from engine.edges.digest import state_document, state_hash
from engine.edges.journal import Position
from engine.edges.snapshot import (
    SHARD,
    chunks,
    decode_snapshot,
    encode_snapshot,
    join_chunks,
    pack,
    read_header,
    unpack,
)
from engine.edges.snapshot_files import SnapshotFolder
from engine.edges.venue import VENUES, BookVenue
from engine.errors import InvariantError, SnapshotError
from engine.units import INT64_MAX, UNIT
from tests import golden
from tests.scenarios import ASSETS, COIN, INSTRUMENTS, Desk, asset_price, buy, control, deposit, funding, mark, sell
from tests.simulation.plan import FAILURES, Plan, read_plan
from tests.simulation.run import message_of, risk_of, run_seed
from tests.triggers import check_triggers

CONFIG = "c0ffee" * 8
CHAIN = "ab" * 32
AT = Position(7, CHAIN, {"fills": {0: 41}, "mark-prices": {0: 900, 1: 901}, "control": {}}, journal_offset=15)


def snapshot_of(shard: Shard, batch: int = AT.batch, chain: str = CHAIN, config: str = CONFIG) -> bytes:
    return encode_snapshot(shard, config_hash=config, position=replace(AT, batch=batch, chain=chain))


# -------------------------------------------------------------------------------------------------------- comparison

# What a snapshot does not hold: a simulated venue, a planner that is tried out, outputs (there are none between
# batches), scratch space, figures remembered; and what is compared by its meaning (``said_by_tables``).
EXCEPTED = {
    (Shard, "venue"),
    (Shard, "planner"),
    (Shard, "outputs"),
    *((Book, name) for name in ("scratch", "standings", "_marks", "_marks_are_behind")),
    *((TableStore, name) for name in Tables.__slots__ if name not in ("tiers", "weights")),
    *((TableStore, name) for name in ("view", "found_rows", "used")),
}


def differences(left: Any, right: Any, path: str) -> Iterator[str]:
    """Yield where two states differ, down to types and the order of mappings."""
    if type(left) is not type(right):
        yield f"{path}: {type(left).__name__}, {type(right).__name__}"
    elif isinstance(left, np.ndarray):
        if left.dtype != right.dtype or left.shape != right.shape or left.flags != right.flags:
            yield f"{path}: {left.dtype} {left.shape} {left.flags}, {right.dtype} {right.shape} {right.flags}"
        elif not np.array_equal(left, right):
            yield f"{path}: {left}, {right}"
    elif isinstance(left, dict):
        if list(left) != list(right) or getattr(left, "default_factory", 0) != getattr(right, "default_factory", 0):
            yield f"{path}: keys {list(left)}, {list(right)}"
        else:
            for key, item in left.items():
                yield from differences(item, right[key], f"{path}[{key!r}]")
    elif isinstance(left, list | tuple | deque):
        if len(left) != len(right):
            yield f"{path}: {left}, {right}"
        for index, (one, other) in enumerate(zip(left, right, strict=False)):
            yield from differences(one, other, f"{path}[{index}]")
    elif isinstance(left, set | frozenset | str | int | NoneType):
        if left != right:
            yield f"{path}: {left}, {right}"
    else:
        yield from object_differences(left, right, path)


def object_differences(left: Any, right: Any, path: str) -> Iterator[str]:
    names = attributes(left)
    assert names, f"{path}: {left!r} has no attribute to compare"
    if names != attributes(right):
        yield f"{path}: {names}, {attributes(right)}"
        return
    for name in names:
        if (type(left), name) not in EXCEPTED:
            yield from differences(getattr(left, name), getattr(right, name), f"{path}.{name}")
    if isinstance(left, Book):
        yield from differences(said_by_tables(left), said_by_tables(right), f"{path}.tables")


def said_by_tables(book: Book) -> dict[str, Any]:
    """What the tables of a book say: each column of each, wherever it stands."""
    tables, count = book.tables, len(book.accounts)
    rows = np.delete(tables.rows[:count], HEAD, axis=1)
    rows[:, FLAGS - 1] &= STANDING_FLAGS
    return {
        # Asked first: kernels put marks in force that are told to the list when somebody asks.
        "marks": book.marks,
        "symbols": np.delete(tables.symbols, [BASE, CAPACITY], axis=1),
        "assets": np.delete(tables.assets, [BASE, CAPACITY, BALANCE_MAX], axis=1),
        "assets with keys": (tables.assets[:, CAPACITY] > 0).tolist(),
        "settings": tables.settings[:STALE_COUNT],
        "rows": rows,
        "balances": tables.balances[:count].copy(),
        "empty rows": not tables.rows[count:].any() and not tables.balances[count:].any(),
        "positions": [book.positions_of(row) for row in range(count)],
        "holders": [book.holder_rows(symbol).tolist() for symbol in range(len(book.instruments))],
        "held": [tables.positions[book.holder_ids(symbol)].tolist() for symbol in range(len(book.instruments))],
        "standings": [book.standing(row) for row in range(count)],
        "seen by kernels": [part is getattr(tables, name) for name, part in tables.view.arrays().items()],
    }


def attributes(item: Any) -> list[str]:
    """The names of an object's attributes, in slots or not."""
    slots = [name for kind in type(item).__mro__ for name in kind.__dict__.get("__slots__", ())]
    return sorted({*slots, *vars(item)} if hasattr(item, "__dict__") else slots)


def assert_same(left: Shard, right: Shard) -> None:
    found = list(differences(left, right, "shard"))
    assert not found, "\n".join(found[:10])


# ----------------------------------------------------------------------------------------------------------- markets


@dataclass(frozen=True)
class Log:
    """A log with what it starts from."""

    risk: Risk
    venue: str
    book: Any
    lines: list[bytes]

    def messages(self) -> list[Message]:
        return [message_of(line, number) for number, line in enumerate(self.lines, start=1)]

    def shard(self) -> Shard:
        venue = VENUES[self.venue]
        shard = Shard(self.risk, number=3, venue=venue() if venue is not None else None)
        if self.book is not None:
            load_document(shard, self.book, "book")
        return shard


def golden_log(name: str) -> Log:
    book = golden.FOLDER / f"{name}.book.json"
    document = orjson.loads(book.read_bytes()) if book.is_file() else None
    lines = (golden.FOLDER / f"{name}.jsonl").read_bytes().splitlines()
    return Log(load_risk(golden.FOLDER / f"{name}.toml"), golden.LOGS[name], document, lines)


def plan_log(plan: Plan) -> Log:
    return Log(risk_of(plan.risk), plan.venue, plan.book, plan.lines)


def restored(shard: Shard, batch: int = AT.batch) -> Shard:
    """The shard that a snapshot of a shard gives, at a venue that holds the restored orders where it held the others.

    Between two messages a venue remembers orders that wait for depth, and it shares them with the shard.
    """
    again = decode_snapshot(snapshot_of(shard, batch)).shard
    twins: dict[int, Any] = {}
    for row, episode in shard.episodes.items():
        twins |= {id(order): again.episodes[row].orders[name] for name, order in episode.orders.items()}
    again.venue = copy.deepcopy(shard.venue, twins)
    return again


def lines_of(outputs: list[Any]) -> list[bytes]:
    return [encode(output.body) for output in outputs]


def check_restarts(log: Log, random: Random, *, chance: float) -> set[str]:
    """Run a log twice, once restored from a snapshot now and then; return what was there at a snapshot."""
    plain, restarted, seen = Machine(log.shard()), Machine(log.shard()), set[str]()
    for number, message in enumerate(log.messages(), start=1):
        assert lines_of(plain.apply([message])) == lines_of(restarted.apply([message])), f"message {number}"
        if random.random() < chance:
            restarted = Machine(restored(restarted.shard, number))
            assert_same(plain.shard, restarted.shard)
            check_triggers(restarted.shard.book)
            seen |= {name for part in (plain.shard, plain.shard.book) for name in vars(part) if is_filled(part, name)}
    assert_same(plain.shard, restarted.shard)
    check_triggers(restarted.shard.book)
    assert state_hash(plain.shard) == state_hash(restarted.shard)
    return seen


def is_filled(part: Any, name: str) -> bool:
    value = getattr(part, name)
    return isinstance(value, dict | list | set | tuple) and len(value) > 0


def market_log(seed: int) -> Log:
    """The messages of a simulated market; whether it keeps its laws is judged elsewhere."""
    return plan_log(run_seed(seed, 150).plan)


@pytest.mark.parametrize("name", golden.LOGS)
def test_golden_log_goes_on_from_snapshots_to_the_same_bytes(name):
    log = golden_log(name)
    assert check_restarts(log, Random(name), chance=0.15) >= {"episodes", "order_rows", "timers", "last_orders"}


@pytest.mark.parametrize("path", sorted(FAILURES.glob("*.jsonl")), ids=lambda path: path.stem)
def test_market_that_once_broke_a_law_goes_on_from_a_snapshot_after_every_message(path):
    assert check_restarts(plan_log(read_plan(path)), Random(0), chance=1) >= {"accounts", "clearing"}


def test_simulated_markets_go_on_from_snapshots_with_all_there_is_to_remember():
    seen = set[str]()
    # In the market of seed 33 a bucket is emptied while its episode goes on.
    for seed in (*range(11), 33):
        seen |= check_restarts(market_log(seed), Random(seed), chance=0.15)
    assert seen >= {
        "episodes", "episode_counts", "last_orders", "order_rows", "timers", "holds", "forced", "paused", "flows",
        "stuck", "emptied",
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------------- the state


def small_risk(**policy: Any) -> Risk:
    return Risk(
        policy=build_policy(policy),
        assets={name: build_asset(name, terms) for name, terms in {**ASSETS, "COIN": COIN}.items()},
        instruments={name: build_instrument(name, terms) for name, terms in INSTRUMENTS.items()},
    )


def busy_shard() -> Shard:
    """Two accounts on BTCUSDT, one in a bucket on ETHUSDT, one with coins; the mark fell, and an order is in flight.

    a1 is long 10 from 100 with 60 behind it. At 95 its equity is 60 - 50 = 10 and 1 % of 950 is 9.5: a margin call.
    At 94.9 it is 9 against 9.49: an order. The parameters were changed on the way, and a symbol was added.
    """
    desk = Desk(assets={"COIN": COIN}, partial="off", margin_call_ratio="0.9", max_future_s=3600)
    desk.tell(mark("100"), mark("50", "ETHUSDT"), asset_price("COIN", "10"))
    desk.tell(
        deposit("a1", "60"), deposit("a2", "500"), deposit("a3", "20", symbol="ETHUSDT"), deposit("ä4", "3", "COIN")
    )
    desk.tell(buy("a1", "10", "100"), sell("a2", "10", "100"))
    desk.tell(buy("a3", "2", "50", "ETHUSDT", isolated=True), sell("a2", "2", "50", "ETHUSDT"))
    desk.tell(
        control("set_instrument", symbol="NEW", settle="USDT", price_tick="0.5", lot="1", tiers=[["0", "0.1", "5"]])
    )
    desk.tell(control("set_asset", asset="GOLD", weights=[["0", "0.5"]]), control("set_policy", target_buffer="0.1"))
    desk.tell(control("pause", scope="ETHUSDT", reason="the venue is down"), funding("0.0001", "ETHUSDT"))
    desk.tell(mark("95"), mark("94.9"))
    assert [order.left for episode in desk.shard.episodes.values() for order in episode.orders.values()] == [-10_000]
    return desk.shard


@cache
def busy_bytes() -> bytes:
    return snapshot_of(busy_shard())


def test_snapshot_carries_where_it_stands_and_who_took_it():
    found = decode_snapshot(busy_bytes())
    assert (found.config_hash, found.position, found.engine) == (CONFIG, AT, __version__)


def test_parameters_set_by_control_are_in_force_again():
    shard = decode_snapshot(busy_bytes()).shard
    assert [instrument.symbol for instrument in shard.book.instruments] == ["BTCUSDT", "ETHUSDT", "NEW"]
    assert (shard.book.policy.target_buffer_ppm, shard.book.policy_version) == (100_000, 4)
    assert_same(busy_shard(), shard)


def test_fresh_shard_comes_back_as_it_is():
    assert_same(Shard(small_risk(), number=5), decode_snapshot(snapshot_of(Shard(small_risk(), number=5))).shard)


def test_snapshot_of_a_restored_shard_has_the_same_bytes():
    assert snapshot_of(decode_snapshot(busy_bytes()).shard) == busy_bytes()


def test_order_in_which_sets_were_filled_does_not_show():
    one, other = busy_shard(), busy_shard()
    for attribute, account in (("current", "a{}"), ("previous", "a")):
        names = [("fill", account.format(number), f"id{number}") for number in range(500)]
        setattr(one.ids, attribute, set(names))
        names.reverse()
        setattr(other.ids, attribute, set(names))
        orders = [list(getattr(shard.ids, attribute)) for shard in (one, other)]
        assert orders[0] != orders[1], "the two sets do not show what is tested"
    assert snapshot_of(one) == snapshot_of(other)


@pytest.mark.parametrize("assets", [[], ["USDT", "COIN"]], ids=["nothing at all", "two assets"])
def test_book_without_instruments_comes_back_as_it_is(assets):
    """Instruments may come by control alone; a snapshot does not wait for the first one."""
    plain = Shard(Risk(assets={name: build_asset(name, {**ASSETS, "COIN": COIN}[name]) for name in assets}))
    again = restored(plain)
    assert_same(plain, again)
    for shard in (plain, again):
        shard.book.set_asset(build_asset("USDT", ASSETS["USDT"]))
        shard.book.set_instrument(build_instrument("BTCUSDT", INSTRUMENTS["BTCUSDT"]))
        shard.book.set_position(shard.book.open_row("a", ""), 0, 0, 1_000, -1)
    assert_same(plain, again)


def test_tables_grow_on_after_a_restart():
    """Twenty accounts hold a contract each, and coins. Forty more than there is room for come after the restart."""
    plain = Shard(small_risk())
    put_prices(plain.book, 1_000)
    add_accounts(plain.book, range(20))
    again = restored(plain)
    room = [int(again.book.tables.symbols[0, CAPACITY]), len(again.book.tables.rows), len(again.book.tables.positions)]
    for shard in (plain, again):
        add_accounts(shard.book, range(20, 60))
    assert max(room) < 60
    assert_same(plain, again)
    # At 100 all of them are well; at 94 each has lost 6 of 5 and what 3 coins count for, 0.27.
    for price in (1_000, 999, 940, 1_100):
        concerned = [put_prices(shard.book, price) for shard in (plain, again)]
        assert concerned[0] == concerned[1] == (set(range(1, 61)) if price == 940 else set())
        for shard in (plain, again):
            check_triggers(shard.book)


def add_accounts(book: Book, numbers: range) -> None:
    """Each is long one BTC from 100 with five dollars and three coins of ten cents; every third one was out between."""
    for number in numbers:
        row = book.open_row(f"a{number}", "")
        book.set_wallet(row, book.asset_index["USDT"], 5 * UNIT)
        book.set_wallet(row, book.asset_index["COIN"], 3 * UNIT)
        book.set_position(row, 0, 0, 1_000, -100 * UNIT)
        if number % 3 == 0:
            book.set_position(row, 0, 0, 0, 0)
            book.set_position(row, 0, 0, 1_000, -100 * UNIT)


def put_prices(book: Book, mark_tenths: int) -> set[int]:
    """Put a mark of BTC (in steps of 0.1) and the price of a coin in force; return the rows that need a look."""
    steps = 10 ** (book.instruments[0].price_decimals - 1)
    rows = try_put_mark(book, 0, mark_tenths * steps, 1)
    more = try_put_asset_price(book, book.asset_index["COIN"], UNIT // 10, 1)
    assert rows is not None
    assert more is not None
    return {*rows, *more}


def test_removed_positions_leave_their_order_behind():
    """Of slots 0 to 3 the first is closed: the last moves there, and the holders keep their own order."""
    plain = Shard(small_risk())
    rows = [plain.book.open_row(f"a{number}", "") for number in range(4)]
    for row in rows:
        plain.book.set_position(row, 0, 0, 1_000 * row, -1)
    plain.book.set_position(rows[0], 0, 0, 0, 0)
    assert symbol_rows(plain.book, 0) == [4, 2, 3]
    assert plain.book.largest(0) == (4_000, 1)
    again = restored(plain)
    assert_same(plain, again)
    # And as they move on: the next to go is closed by the last again.
    for shard in (plain, again):
        shard.book.set_position(rows[3], 0, 0, 0, 0)
        assert symbol_rows(shard.book, 0) == [3, 2]
    assert_same(plain, again)
    # The largest there ever was is gone, and still bounds which marks are borne.
    assert again.book.largest(0) == (4_000, 1)


def test_marks_that_a_kernel_put_in_force_are_in_the_snapshot():
    """A calm mark, folded with its line, is told to the book's list only when somebody asks."""
    folded, taken = busy_shard(), busy_shard()
    assert folded.clock is not None
    ts, origin = folded.clock + 1, Origin("log", -1, 1)
    marks = np.array([[1, 501, 1, ts]], dtype=np.int64)
    Machine(folded).fold(Lines(marks, lambda line: None, lambda line: origin))
    Machine(taken).apply([Message(origin, Mark("ETHUSDT", (501, 1), ts))])
    assert folded.book.tables.symbols[:, IS_BEHIND].tolist() == [0, 1, 0], "the kernel left it to the machine"
    assert_same(taken, decode_snapshot(snapshot_of(folded)).shard)


def test_both_legs_and_names_out_of_order_come_back_in_order():
    """A hedged account opens its short first, and a symbol that sorts before the others comes last by control."""
    plain = Shard(small_risk())
    plain.book.set_instrument(replace(plain.book.instruments[0], symbol="AAA"))
    row = plain.book.open_row("a", "")
    for symbol, leg in ((1, 2), (2, 0), (1, 1), (0, 0)):
        plain.book.set_position(row, symbol, leg, 1_000, -1)
    assert plain.book.positions_of(row) == [(2, 0), (0, 0), (1, 1), (1, 2)]
    assert_same(plain, restored(plain))


def test_venue_is_attached_to_the_restored_shard():
    venue = BookVenue()
    assert decode_snapshot(busy_bytes(), venue=venue).shard.venue is venue
    assert decode_snapshot(busy_bytes()).shard.venue is None


WIDE = 3 * 10**20


def sample(hint: Any, numbers: Iterator[int]) -> Any:
    """A value of a type that no field has by default: numbers beyond 64 bits, of both signs, no two alike."""
    kind: Any = get_origin(hint) or hint
    arguments = get_args(hint)
    if kind is UnionType:
        return sample(next(argument for argument in arguments if argument is not NoneType), numbers)
    if kind is bool:
        return True
    if kind is int:
        number = next(numbers)
        return (number, -WIDE - number, WIDE + number)[number % 3]
    if kind is str:
        return f"näme\n\0{next(numbers)}"
    if is_dataclass(kind) or hasattr(kind, "_fields"):
        assert isinstance(kind, type)
        return kind(*(sample(type_, numbers) for type_ in get_type_hints(kind).values()))
    if issubclass(kind, dict):
        worth = int if kind is Counter else arguments[1]
        pairs = {sample(arguments[0], numbers): sample(worth, numbers) for _ in range(2)}
        return defaultdict(worth, pairs) if kind is defaultdict else kind(pairs)
    if kind is tuple and arguments[-1] is not Ellipsis:
        return tuple(sample(type_, numbers) for type_ in arguments)
    return kind(sample(arguments[0], numbers) for _ in range(2))


KINDS = (Policy, Asset, Instrument, Price, Clearing, Episode, Order, Hold, Counters, Flow, Origin)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_of_a_record_survives_whatever_it_holds(kind):
    value = sample(kind, iter(range(1, 1000)))
    if is_dataclass(kind):
        plain = [item for item in fields(kind) if getattr(value, item.name) in (item.default, 0, "", None)]
        assert not plain, f"{plain}: the sample holds nothing there"
    assert not list(differences(value, unpack(kind, orjson.loads(orjson.dumps(pack(value)))), kind.__name__))


def test_every_attribute_of_a_shard_survives_whatever_it_holds():
    shard, numbers = busy_shard(), iter(range(1, 10_000))
    for name, hint in SHARD.items():
        setattr(shard, name, sample(hint, numbers))
    assert_same(shard, decode_snapshot(snapshot_of(shard)).shard)


def test_amounts_beyond_64_bits_survive():
    """A venue's clearing side adds up every trade there ever was: 300 trillion a contract are 3 x 10^22 units."""
    shard = busy_shard()
    for clearing in shard.book.clearing:
        clearing.size, clearing.cost = -WIDE, 100 * WIDE
    shard.book.transfers[0] = -(10**40)
    shard.book.system["$fees"][0] = 2**63
    shard.counters.notional_liquidated = WIDE
    shard.book.tables.symbols[0, [SIZE_MAX, COST_MAX]] = INT64_MAX - 1, INT64_MAX
    again = decode_snapshot(snapshot_of(shard)).shard
    assert_same(shard, again)
    assert again.book.transfers[0] == -(10**40)
    assert again.book.largest(0) == (INT64_MAX - 1, INT64_MAX)


def test_both_generations_of_ids_are_remembered():
    shard = busy_shard()
    shard.ids.limit = 9
    before = set(shard.ids.current)
    while ("fill", "ä\n", "0") not in shard.ids.previous:
        shard.ids.add(("fill", "ä\n", str(len(shard.ids.current) - len(before))))
        before &= shard.ids.current
    again = decode_snapshot(snapshot_of(shard)).shard
    assert (again.ids.limit, again.ids.current, again.ids.previous) == (9, shard.ids.current, shard.ids.previous)
    assert ("fill", "ä\n", "0") in again.ids


OWNERS: dict[str, Callable[[Shard], Any]] = {
    "Shard": lambda shard: shard,
    "Book": lambda shard: shard.book,
    "TableStore": lambda shard: shard.book.tables,
    "SeenIds": lambda shard: shard.ids,
}


@pytest.mark.parametrize("kind", OWNERS)
def test_attribute_that_a_snapshot_would_lose_stops_it(kind):
    shard = busy_shard()
    OWNERS[kind](shard).added_later = 1
    with pytest.raises(InvariantError, match=f"{kind}: .*added_later"):
        snapshot_of(shard)


def test_outputs_that_wait_to_be_sent_stop_a_snapshot():
    shard = busy_shard()
    shard.emit("margin-events", "a1", "margin_call", {})
    with pytest.raises(InvariantError, match="1 outputs were not yet taken"):
        snapshot_of(shard)


def test_number_that_is_none_of_pythons_stops_a_snapshot():
    shard = busy_shard()
    # What the types forbid is what a line without types, in a kernel's wake, could still do.
    shard.last_orders[0] = np.int64(1)  # type: ignore[assignment]
    with pytest.raises(TypeError):
        snapshot_of(shard)


CHANGES: dict[str, Callable[[Shard], Any]] = {
    "a number": lambda shard: setattr(shard, "seq", shard.seq + 1),
    "a type": lambda shard: setattr(shard.counters, "adl", False),
    "an order in flight": lambda shard: setattr(first_order(shard), "limit", 1),
    "a set": lambda shard: shard.stuck.add(1),
    "a heap's order": lambda shard: shard.timers.reverse(),
    "a mapping's order": lambda shard: shard.episode_counts.update({row: shard.episode_counts.pop(row) for row in [1]}),
    "a default": lambda shard: setattr(shard, "flows", dict(shard.flows)),
    "a position": lambda shard: shard.book.set_position(1, 0, 0, 1_000, -1),
    "a position's cost": lambda shard: shard.book.tables.positions["cost"].__setitem__(shard.book.holder_ids(0)[1], 7),
    "the order of a symbol's holders": lambda shard: shard.book.holder_rows(0)[::-1].sort(),
    "the order of a row's positions": lambda shard: swap_positions(shard.book, 2),
    "a balance": lambda shard: shard.book.set_wallet(2, 0, 7),
    "a balance where no row is": lambda shard: add_debris(shard.book),
    "a flag of a row": lambda shard: shard.book.set_flag(2, CALLED, is_set=True),
    "how many prices a row lacks": lambda shard: shard.book.tables.rows.__setitem__((2, UNPRICED), 1),
    "how symbols are ordered": lambda shard: shard.book.tables.symbols.__setitem__((2, RANK), 9),
    "the largest cost there was": lambda shard: shard.book.tables.symbols.__setitem__((0, COST_MAX), INT64_MAX),
    "a mark that a kernel put in force": lambda shard: fall_behind(shard.book),
    "the rule that kernels follow": lambda shard: shard.book.tables.set_rule(below=True, call_ppm=1, rearm_ppm=1),
    "whether an asset has keys": lambda shard: shard.book.tables.set_fixed(1, is_fixed=True),
    "an array that kernels do not see": lambda shard: setattr(
        shard.book.tables, "balances", shard.book.tables.balances.copy()
    ),
    "a table of parameters": lambda shard: shard.book.tiers[0].__setitem__((0, 1), 7),
    "the same as kernels see it": lambda shard: shard.book.tables.tiers.__setitem__((0, 1), 7),
    "a new attribute of the tables": lambda shard: setattr(shard.book.tables, "added_later", 1),
    "an id": lambda shard: shard.ids.current.pop(),
    "a new attribute": lambda shard: setattr(shard.book, "added_later", 1),
}


def swap_positions(book: Book, row: int) -> None:
    """Have a row of two positions name the second one first."""
    first = int(book.tables.rows[row, HEAD])
    pair = book.tables.positions[first : first + 2]
    pair[:] = pair[::-1].copy()
    pair["is_last"] = 0, 1


def add_debris(book: Book) -> None:
    """Leave something where the next account will begin."""
    book.tables.reserve_rows(len(book.accounts) + 1)
    book.tables.balances[len(book.accounts), 0] = 7


def fall_behind(book: Book) -> None:
    """Do as the kernel does that puts marks in force."""
    book.tables.symbols[0, [PRICE, IS_BEHIND]] = 7, 1
    book.marks_moved(book.clock or 0)


def first_order(shard: Shard) -> Order:
    return next(order for episode in shard.episodes.values() for order in episode.orders.values())


@pytest.mark.parametrize("what", CHANGES)
def test_comparison_of_states_sees_a_change_of(what):
    left, right = busy_shard(), busy_shard()
    for shard in (left, right):
        shard.episode_counts |= {1: 1, 2: 1}
        shard.set_timer(1, 1, "")
    assert_same(left, right)
    CHANGES[what](right)
    assert list(differences(left, right, "shard"))


def test_collector_is_left_as_it_was():
    for is_enabled in (True, False):
        (gc.enable if is_enabled else gc.disable)()
        try:
            decode_snapshot(snapshot_of(busy_shard()))
            assert gc.isenabled() is is_enabled
        finally:
            gc.enable()


def test_forked_child_writes_the_state_of_its_birth_while_the_parent_goes_on(tmp_path):
    shard = busy_shard()
    expected = snapshot_of(shard)
    child = os.fork()
    if child == 0:
        # Nothing of the tests may run on in the child, not even after an error.
        try:
            (tmp_path / "bytes").write_bytes(snapshot_of(shard))
        finally:
            os._exit(0)
    Machine(shard).apply([Message(Origin("log", -1, 1), Mark("BTCUSDT", (50, 0), shard.clock + 1))])
    os.waitpid(child, 0)
    assert (tmp_path / "bytes").read_bytes() == expected != snapshot_of(replace_outputs(shard))


def replace_outputs(shard: Shard) -> Shard:
    shard.outputs.clear()
    return shard


# ------------------------------------------------------------------------------------------------------------- damage


def refusal(data: bytes) -> str:
    with pytest.raises(SnapshotError) as caught:
        decode_snapshot(data)
    return caught.value.reason


def flipped(data: bytes, at: int, mask: int = 0x10) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def body_start(data: bytes) -> int:
    return len(data) - read_header(data).body_bytes


def test_every_flipped_byte_of_lead_and_header_is_noticed():
    data = busy_bytes()
    for at in range(body_start(data)):
        expected = {"schema"} if at < 12 else {"torn", "checksum"} if at < 16 else {"checksum"}
        assert refusal(flipped(data, at)) in expected, at


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_flipped_byte_in_any_section_is_noticed(mask):
    data = busy_bytes()
    header, start = read_header(data), body_start(busy_bytes())
    names = {section.name for section in header.sections}
    assert names >= {"shard", "book", "accounts", "buckets", "ids", "flags", "largest", "positions", "balances/GOLD"}
    assert {section.is_deflated for section in header.sections} == {True, False}
    for section in header.sections:
        for at in {0, section.length // 2, section.length - 1} if section.length else ():
            assert refusal(flipped(data, start + section.offset + at, mask)) == "checksum", section.name


def test_sections_lie_end_to_end_so_that_no_byte_is_outside():
    header, end = read_header(busy_bytes()), 0
    for section in header.sections:
        assert section.offset == end
        end += section.length
    assert end == header.body_bytes


def test_snapshot_cut_short_anywhere_is_torn():
    data = busy_bytes()
    header, start = read_header(data), body_start(data)
    ends = {start + section.offset + section.length + step for section in header.sections for step in (-1, 0, 1)}
    for length in {*range(start), *ends} - {len(data), len(data) + 1}:
        assert refusal(data[:length]) == "torn", length


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(lambda data: b"", "torn", id="empty file"),
        pytest.param(lambda data: bytes(1000), "schema", id="zeros"),
        pytest.param(lambda data: b"PK\x03\x04" * 100, "schema", id="another kind of file"),
        pytest.param(lambda data: data + b"\0", "checksum", id="a byte too many"),
        pytest.param(lambda data: data + data, "checksum", id="twice"),
    ],
)
def test_what_is_no_snapshot_is_refused(spoil, reason):
    assert refusal(spoil(busy_bytes())) == reason


@pytest.mark.parametrize("schema", [1, 3])
def test_snapshot_of_another_schema_is_refused_by_its_number(schema):
    data = bytearray(busy_bytes())
    struct.pack_into("<I", data, 8, schema)
    with pytest.raises(SnapshotError, match=f"schema: schema {schema}, this engine reads 2"):
        decode_snapshot(bytes(data))


@pytest.mark.parametrize("kind", [Counters, Order, Policy, Position], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("change", ["one more", "one less"])
def test_snapshot_with_other_fields_is_refused_as_of_another_engine(monkeypatch, kind, change):
    def other(value):
        packed = pack(value)
        if type(value) is not kind:
            return packed
        return packed | {"added": 1} if change == "one more" else dict(list(packed.items())[1:])

    monkeypatch.setattr(snapshots, "pack", other)
    assert refusal(snapshot_of(busy_shard())) == "schema"


# ------------------------------------------------------------------------------------------------------------- chunks


@pytest.mark.parametrize("size", [1, 7, 1000, 10**9])
def test_chunks_join_to_the_same_bytes(size):
    data = busy_bytes()
    manifest, pieces = chunks(data, size)
    assert max(map(len, pieces)) <= size
    assert len(pieces) == -(-len(data) // size)
    assert join_chunks(manifest, dict(enumerate(pieces))) == data


def test_chunks_left_over_from_a_longer_snapshot_do_not_matter():
    manifest, pieces = chunks(busy_bytes(), 1000)
    assert join_chunks(manifest, {**dict(enumerate(pieces)), len(pieces): b"older"}) == busy_bytes()


def test_chunks_of_two_snapshots_do_not_pass_for_one():
    """The publisher of a second snapshot stopped halfway: the first chunks are new, the manifest is the old one."""
    manifest, pieces = chunks(busy_bytes(), 1000)
    _, newer = chunks(snapshot_of(busy_shard(), batch=8), 1000)
    for done in range(1, len(pieces)):
        torn = {**dict(enumerate(pieces)), **dict(enumerate(newer[:done]))}
        with pytest.raises(SnapshotError, match=f"torn: chunk 0 of {len(pieces)} is not of this snapshot"):
            join_chunks(manifest, torn)


@pytest.mark.parametrize("number", [0, 3, -1])
def test_missing_chunk_is_named(number):
    manifest, pieces = chunks(busy_bytes(), 1000)
    number %= len(pieces)
    found = {index: piece for index, piece in enumerate(pieces) if index != number}
    with pytest.raises(SnapshotError, match=f"torn: chunk {number} of {len(pieces)} is missing"):
        join_chunks(manifest, found)


def test_chunks_in_another_order_are_noticed():
    manifest, pieces = chunks(busy_bytes(), 1000)
    with pytest.raises(SnapshotError, match="chunk 1 of"):
        join_chunks(manifest, dict(enumerate([pieces[0], pieces[2], pieces[1], *pieces[3:]])))


@pytest.mark.parametrize("spoil", [b"", b"{", b"[]", b'{"chunks": 3}', b'{"chunks": [3]}', b'{"other": []}', b"\xff"])
def test_manifest_that_is_none_is_torn(spoil):
    with pytest.raises(SnapshotError, match="torn: the manifest cannot be read"):
        join_chunks(spoil, {})


# ------------------------------------------------------------------------------------------------------------- folder


class Journal:
    """A journal whose record of batch n has the hash ``<letter>n``, from ``first`` on."""

    def __init__(self, last: int, *, letter: str = "j", first: int = 0) -> None:
        self.last, self.letter, self.first = last, letter, first
        self.asked: list[int] = []

    def chain_of(self, batch: int) -> str | None:
        self.asked.append(batch)
        return f"{self.letter}{batch}" if batch >= self.first else None

    def write(self, folder: SnapshotFolder, batch: int, config: str = CONFIG) -> Path:
        shard = Shard(small_risk(), number=folder.shard)
        shard.seq = batch * 10
        return folder.write(snapshot_of(shard, batch, f"{self.letter}{batch}", config), batch)

    def newest(self, folder: SnapshotFolder, config: str = CONFIG) -> tuple[int | None, list[str]]:
        """The ``seq`` of the newest snapshot that fits, and what was skipped, by batch and reason."""
        found, skipped = folder.newest(config_hash=config, batch_max=self.last, chain_of=self.chain_of)
        words = [text.split(":")[:2] for text in skipped]
        return found.shard.seq if found else None, [f"{int(name.split('-')[2][:19])}{reason}" for name, reason in words]


@pytest.fixture
def folder(tmp_path):
    return SnapshotFolder(tmp_path / "data" / "snapshots", shard=2)


def filled(folder: SnapshotFolder, *batches: int) -> Journal:
    journal = Journal(max(batches))
    for batch in batches:
        journal.write(folder, batch)
    return journal


def names_in(folder: SnapshotFolder) -> list[str]:
    return sorted(path.name for path in folder.folder.iterdir())


def test_first_start_finds_no_snapshot_and_no_folder(folder):
    assert Journal(0).newest(folder) == (None, [])
    assert not folder.folder.exists()


def test_newest_snapshot_is_found_and_the_three_newest_are_kept(folder):
    journal = filled(folder, 1, 2, 10, 99, 100)
    assert folder.batches() == [100, 99, 10]
    assert journal.newest(folder) == (1000, [])
    assert names_in(folder) == [path.name for path in map(folder.path_of, (10, 99, 100))]


def test_keep_says_how_many_stay(tmp_path):
    folder = SnapshotFolder(tmp_path, shard=0, keep=1)
    filled(folder, 1, 2)
    assert folder.batches() == [2]
    with pytest.raises(InvariantError, match="keep was 0"):
        SnapshotFolder(tmp_path, shard=0, keep=0)


def test_shards_share_a_folder_without_seeing_each_other(tmp_path):
    twelve, one = SnapshotFolder(tmp_path, shard=12), SnapshotFolder(tmp_path, shard=1)
    filled(twelve, 1, 2, 3)
    journal = filled(one, 5, 6, 7, 8)
    assert (twelve.batches(), one.batches()) == ([3, 2, 1], [8, 7, 6])
    assert journal.newest(one) == (80, [])


def test_snapshot_from_a_lost_future_stays_and_costs_no_good_one_its_place(folder):
    """The journal was lost and began anew: what stands at batch 1,000,000 is none of its snapshots."""
    Journal(0, letter="k").write(folder, 1_000_000)
    journal = filled(folder, 1, 2, 3, 4)
    assert folder.batches() == [1_000_000, 4, 3, 2]
    assert journal.newest(folder) == (40, ["1000000 ahead"])
    assert journal.asked == [4]


DAMAGE: dict[str, tuple[Callable[[Path, Journal], Any], str]] = {
    "cut short": (lambda path, journal: path.write_bytes(path.read_bytes()[:-1]), "torn"),
    "emptied": (lambda path, journal: path.write_bytes(b""), "torn"),
    "a flipped bit": (
        lambda path, journal: path.write_bytes(flipped(path.read_bytes(), path.stat().st_size - 1)),
        "checksum",
    ),
    "of another schema": (lambda path, journal: path.write_bytes(flipped(path.read_bytes(), 8)), "schema"),
    "unreadable": (lambda path, journal: make_unreadable(path), "disk"),
    "of another shard": (
        lambda path, journal: path.write_bytes(snapshot_of(Shard(small_risk(), number=1), 3, "j3")),
        "foreign_shard",
    ),
    "of another config": (
        lambda path, journal: path.write_bytes(snapshot_of(Shard(small_risk(), number=2), 3, "j3", "other")),
        "other_config",
    ),
    "of another journal": (
        lambda path, journal: path.write_bytes(snapshot_of(Shard(small_risk(), number=2), 3, "k3")),
        "other_journal",
    ),
    "ahead of the journal": (lambda path, journal: setattr(journal, "last", 2), "ahead"),
}


def make_unreadable(path: Path) -> None:
    """Put a folder where the file was: not even the superuser reads that."""
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("what", DAMAGE)
def test_newest_that_does_not_fit_is_skipped_with_its_reason(folder, what):
    journal = filled(folder, 1, 2, 3)
    spoil, reason = DAMAGE[what]
    spoil(folder.path_of(3), journal)
    assert journal.newest(folder) == (20, [f"3 {reason}"])


def test_snapshot_with_a_name_that_is_not_its_own_is_judged_by_what_it_says(folder):
    """Batch 3 renamed to 1 would pass for an old one; the journal ends with 2."""
    journal = filled(folder, 2, 3)
    folder.path_of(3).rename(folder.path_of(1))
    journal.last = 2
    assert journal.newest(folder) == (20, [])
    folder.path_of(2).unlink()
    assert journal.newest(folder) == (None, ["1 ahead"])


def test_journal_that_no_longer_holds_a_record_has_no_use_for_its_snapshot(folder):
    filled(folder, 1, 2)
    assert Journal(9, first=3).newest(folder) == (None, ["2 other_journal", "1 other_journal"])


def test_reasons_say_what_was_expected_and_found(folder):
    filled(folder, 1)
    _, (reason,) = folder.newest(config_hash=CONFIG, batch_max=5, chain_of=lambda batch: "f00")
    assert reason == f"{folder.path_of(1).name}: other_journal: batch 1 is j1 here and f00 in the journal"
    _, (reason,) = folder.newest(config_hash=CONFIG, batch_max=5, chain_of=lambda batch: None)
    assert reason == f"{folder.path_of(1).name}: other_journal: the journal does not hold batch 1"
    _, (reason,) = folder.newest(config_hash="beef", batch_max=5, chain_of=lambda batch: "j1")
    assert reason == f"{folder.path_of(1).name}: other_config: taken under {CONFIG}, now it is beef"


def test_all_damaged_is_as_none(folder):
    journal = filled(folder, 1, 2, 3)
    for batch in (1, 2, 3):
        folder.path_of(batch).write_bytes(b"")
    assert journal.newest(folder) == (None, ["3 torn", "2 torn", "1 torn"])


def test_file_that_is_being_written_is_never_picked_up_and_goes_with_the_next_one(folder, monkeypatch):
    """The process is killed while the bytes are on their way to the disk: no handler of ours runs."""
    journal = filled(folder, 1)

    def killed(_file):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        journal.write(folder, 2)
    monkeypatch.undo()
    temporary = f"{folder.path_of(2).name}.tmp"
    assert names_in(folder) == sorted([folder.path_of(1).name, temporary])
    assert (folder.folder / temporary).read_bytes()[:8] == snapshots.MAGIC
    journal.last = 3
    assert journal.newest(folder) == (10, [])
    journal.write(folder, 3)
    assert names_in(folder) == [folder.path_of(1).name, folder.path_of(3).name]


def test_bytes_are_on_disk_before_the_name_and_the_name_before_old_ones_go(folder, monkeypatch):
    steps: list[str] = []
    fsync, rename, remove = os.fsync, Path.replace, Path.unlink
    journal = filled(folder, 1, 2, 3)

    def noted_fsync(file: int) -> None:
        is_folder = os.path.samestat(os.fstat(file), folder.folder.stat())
        steps.append("sync folder" if is_folder else f"sync {os.fstat(file).st_size} bytes")
        fsync(file)

    def noted_replace(path: Path, target: Path) -> Path:
        steps.append(f"name {target.name}")
        return rename(path, target)

    def noted_unlink(path: Path) -> None:
        steps.append(f"remove {path.name}")
        remove(path)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    monkeypatch.setattr(Path, "unlink", noted_unlink)
    path = journal.write(folder, 4)
    assert steps == [
        f"sync {path.stat().st_size} bytes", f"name {path.name}", "sync folder", f"remove {folder.path_of(1).name}",
    ]  # fmt: skip


def test_disk_that_is_full_leaves_the_old_snapshots_and_nothing_half_written(folder):
    """The system lets no file grow beyond 1,000 bytes, where a snapshot needs more."""
    journal = filled(folder, 1, 2)
    before = names_in(folder)
    with files_at_most(1000), pytest.raises(SnapshotError, match=r"disk: .*3\.snapshot: File too large") as caught:
        journal.write(folder, 3)
    assert caught.value.exit_code == 2
    assert names_in(folder) == before
    journal.last = 3
    assert journal.newest(folder) == (20, [])


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_disk_that_fails_only_when_forced_is_noticed(folder, monkeypatch):
    journal = filled(folder, 1, 2)

    def full(_file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SnapshotError, match=r"disk: .*3\.snapshot: No space left"):
        journal.write(folder, 3)
    assert folder.batches() == [2, 1]
    assert len(names_in(folder)) == 2


def test_folder_that_may_not_be_written_or_read_is_named(folder):
    journal = filled(folder, 1)
    folder.folder.chmod(0o500)
    with unprivileged(), pytest.raises(SnapshotError, match=r"disk: .*snapshots?.*: Permission denied"):
        journal.write(folder, 2)
    folder.folder.chmod(0)
    with unprivileged(), pytest.raises(SnapshotError, match=r"disk: .*snapshots: Permission denied"):
        journal.newest(folder)
    folder.folder.chmod(0o700)
    assert folder.batches() == [1]


@contextmanager
def unprivileged() -> Iterator[None]:
    """Nothing is forbidden to the superuser: be the owner of nothing for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_folder_where_a_file_stands_is_named(tmp_path):
    folder = SnapshotFolder(tmp_path / "snapshots", shard=0)
    folder.folder.write_text("a file")
    with pytest.raises(SnapshotError, match=r"disk: .*1\.snapshot: File exists"):
        Journal(1).write(folder, 1)
    with pytest.raises(SnapshotError, match=r"disk: .*snapshots: Not a directory"):
        Journal(1).newest(folder)


def test_snapshot_that_reads_back_as_other_bytes_is_taken_away_again(folder, monkeypatch):
    journal = filled(folder, 1, 2, 3)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: flipped(read(path), 999))
    with pytest.raises(SnapshotError, match=r"checksum: .*4\.snapshot: read back as other"):
        journal.write(folder, 4)
    assert folder.batches() == [3, 2, 1]


def test_bytes_that_are_no_snapshot_of_this_shard_and_batch_are_not_written(folder):
    for data, error in (
        (snapshot_of(Shard(small_risk(), number=2), 8), InvariantError),
        (snapshot_of(Shard(small_risk(), number=1), 7), InvariantError),
        (busy_bytes()[:-1], SnapshotError),
    ):
        with pytest.raises(error):
            folder.write(data, 7)
    assert not folder.folder.exists()


# ----------------------------------------------------------------------------------------------------- the state hash

# What a later output depends on; each of these changed alone is another state.
INFLUENCES: dict[str, Callable[[Shard], Any]] = {
    "a parameter set by control": lambda shard: shard.book.set_policy(replace(shard.book.policy, max_attempts=9)),
    "a tier": lambda shard: shard.book.set_instrument(replace(shard.book.instruments[0], taker_fee_ppm=9)),
    "a haircut": lambda shard: shard.book.set_asset(replace(shard.book.assets[1], slippage_ppm=9)),
    "the limit of an order in flight": lambda shard: setattr(first_order(shard), "limit", 1),
    "its bankruptcy price": lambda shard: setattr(first_order(shard), "bankruptcy", WIDE),
    "whether it was filled": lambda shard: setattr(first_order(shard), "is_filled", True),
    "what was closed so far": lambda shard: shard.episodes[1].closed.append((0, 0, -1, WIDE)),
    "what found no counterparty": lambda shard: shard.episodes[1].remaining.update({(0, 0): 5}),
    "how many orders an episode had": lambda shard: shard.last_orders.update({2: 1}),
    "a timer": lambda shard: shard.set_timer(1, shard.clock + 1, ""),
    "a row that found no taker": lambda shard: shard.stuck.add(1),
    "a row that waited its time": lambda shard: shard.forced.add(1),
    "a bucket to be swept": lambda shard: shard.book.emptied.add(3),
    "the largest position there was": lambda shard: shard.book.tables.symbols.__setitem__((0, SIZE_MAX), INT64_MAX),
    "the largest cost there was": lambda shard: shard.book.tables.symbols.__setitem__((0, COST_MAX), INT64_MAX),
    "a margin call that went out": lambda shard: shard.book.set_flag(2, CALLED, is_set=True),
    "a mark that a kernel put in force": lambda shard: fall_behind(shard.book),
    "a message too far ahead": lambda shard: setattr(shard, "future", ("BTCUSDT", 5)),
    "whether the clock is set": lambda shard: setattr(shard.book, "clock", None),
    "which generation an id is in": lambda shard: shard.ids.previous.add(shard.ids.current.pop()),
    "which shard it is": lambda shard: setattr(shard, "number", 1),
}


@pytest.mark.parametrize("what", INFLUENCES)
def test_state_hash_tells(what):
    one, other = busy_shard(), busy_shard()
    if what == "whether the clock is set":
        one.book.clock = 0
    assert (state_hash(one) == state_hash(other)) is (what != "whether the clock is set")
    INFLUENCES[what](other)
    assert state_hash(one) != state_hash(other)


def test_state_hash_is_the_same_after_a_restart_and_says_nothing_of_rows():
    assert state_hash(decode_snapshot(busy_bytes()).shard) == state_hash(busy_shard())
    assert b'"row"' not in encode(state_document(busy_shard()))
