"""Whether a book's trigger index holds what it promises, and random books over which that is tried.

``check_triggers`` looks at every row and changes nothing, so it can follow any run, message by message. A ``Crowd`` is
a book made of everything the index has to do with; its twin computes what each row is worth from the formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np

from engine.core import ledger
from engine.core.book import LONG, NET, SHORT, Book
from engine.core.kernels.rows import needs_a_look
from engine.core.kernels.segments import FAN
from engine.core.kernels.tables import (
    BASE,
    CALLED,
    CAPACITY,
    COUNT,
    FLAGS,
    PRICE,
    STALE,
    STALE_COUNT,
    SYSTEM,
    WATCHED,
)
from engine.core.params import Asset, Instrument, Policy, Risk, Tier
from engine.core.pricing import mark_overflows, reprice_all, try_put_asset_price, try_put_mark
from engine.units import PPM, UNIT
from tests import reference_kernels as twins
from tests.reference_kernels import Contract

# A price that a row depends on: ("mark", symbol) or ("price", asset).
Place = tuple[str, int]
Prices = dict[Place, int]
# More than any price.
ENDLESS = 2**62
SEGMENT = [BASE, CAPACITY, COUNT]


# ------------------------------------------------------------------------------------------------- what must hold


def check_triggers(book: Book) -> None:
    """Raise AssertionError where a row that needs a look could be passed by, or the index is not in order.

    A row whose keys are up to date and that needs a look must be reached by every price it depends on. A book whose
    prices have everybody looked at has no use for its keys.
    """
    if book.is_scanned:
        return
    tables = book.tables
    count = len(book.accounts)
    stale = tables.stale[: tables.settings[STALE_COUNT]].tolist()
    flags = tables.rows[:count, FLAGS].tolist()
    assert sorted(stale) == [row for row in range(count) if flags[row] & STALE], "what is stale is not in the list"
    for row, places in unreached_places(book).items():
        if not flags[row] & STALE and needs_a_look(tables.view, row):
            name = f"{book.accounts[row]} {book.buckets[row]}"
            raise AssertionError(f"{name} needs a look, and is not reached by {places}")
    for segment in (*tables.symbols, *tables.assets):
        check_maxima(book, segment[SEGMENT].tolist())


def unreached_places(book: Book) -> dict[int, list[Place]]:
    """Return, by row, the prices it depends on whose present value reaches none of its keys."""
    tables, keys = book.tables, book.tables.keys.astype(np.float64)
    unreached: dict[int, list[Place]] = {}
    stakes = [set(np.flatnonzero(book.balances(asset)).tolist()) for asset in range(len(book.assets))]
    for symbol, entry in enumerate(tables.symbols[:, [*SEGMENT, PRICE]].tolist()):
        base, _, count, price = entry
        rows = book.holder_rows(symbol).tolist()
        assert tables.positions["slot"][book.holder_ids(symbol)].tolist() == list(range(count)), (
            "a holder is not where its position says"
        )
        stakes[book.settle[symbol]].update(rows)
        falling, rising = keys[:, base : base + count]
        for slot in np.flatnonzero((falling < price) & (rising < -price)).tolist():
            unreached.setdefault(rows[slot], []).append(("mark", symbol))
    for asset, entry in enumerate(tables.assets[:, [*SEGMENT, PRICE]].tolist()):
        base, capacity, _, price = entry
        assert (capacity == 0) == (book.assets[asset].price_units is not None), "only a price that moves has keys"
        if capacity == 0:
            continue
        falling, rising = keys[:, base : base + len(book.accounts)]
        for row in np.flatnonzero((falling < price) & (rising < -price)).tolist():
            if row in stakes[asset]:
                unreached.setdefault(row, []).append(("price", asset))
            else:
                is_stale = tables.rows[row, FLAGS] & STALE
                assert is_stale or falling[row] == rising[row] == -np.inf, f"{book.accounts[row]}: a key for nothing"
    return unreached


def check_maxima(book: Book, segment: list[int]) -> None:
    """Raise AssertionError unless each maximum is that of what is below it, and no key stands behind the last slot."""
    base, width, count = segment
    keys = book.tables.keys
    if count:
        assert (keys[:, base + count : base + width] == -np.inf).all(), "a key without a holder"
    while width > 1:
        groups = -(-width // FAN)
        below, above = keys[:, base : base + width], keys[:, base + width : base + width + groups]
        maxima = np.maximum.reduceat(below, np.arange(0, width, FAN), axis=1)
        assert (above == maxima).all(), "a maximum is not that of its keys"
        base, width = base + width, groups


def safe_prices(book: Book, row: int) -> dict[Place, tuple[int, int]]:
    """Return, for each price that a row depends on, the lowest and the highest that reach none of its keys."""
    tables = book.tables
    slots = [
        (("mark", symbol), int(tables.symbols[symbol, BASE] + position["slot"]))
        for symbol in {symbol for symbol, _ in book.positions_of(row)}
        for owner, position in zip(book.holder_rows(symbol), tables.positions[book.holder_ids(symbol)], strict=True)
        if owner == row
    ]
    slots += [
        (("price", asset), int(tables.assets[asset, BASE]) + row)
        for asset in stakes_of(book, row)
        if tables.assets[asset, CAPACITY]
    ]
    ranges: dict[Place, tuple[int, int]] = {}
    for place, slot in slots:
        falling, rising = tables.keys[:, slot].tolist()
        low, high = ranges.get(place, (1, ENDLESS))
        # A key that every price reaches leaves none; one that none reaches leaves them all.
        low = max(low, math.floor(max(min(falling, ENDLESS), 0.0)) + 1)
        high = min(high, math.ceil(min(max(-rising, 0.0), ENDLESS)) - 1)
        ranges[place] = low, high
    return ranges


def stakes_of(book: Book, row: int) -> set[int]:
    """Return the assets that a row has a balance or a settlement in."""
    held = {asset for asset in range(len(book.assets)) if book.wallet(row, asset)}
    return held | {book.settle[symbol] for symbol, _ in book.positions_of(row)}


# ------------------------------------------------------------------------------------------------------ random books


@dataclass(frozen=True)
class Scale:
    """How large things are: the worth of a position in units, and how many times a price may rise or fall in all."""

    worth: int
    reach: int
    call_ppm_min: int = 1


# From a thousandth of a cent, where roundings are all there is, to a billion dollars, where floats run out of digits.
SCALES = (Scale(10**3, 1000), Scale(10**8, 1000), Scale(10**12, 300), Scale(10**17, 2, 50_000))


def sized(random: Random, low: int, high: int) -> int:
    """Return an integer from ``low`` to ``high``, all magnitudes equally likely."""
    return min(high, max(low, round(math.exp(random.uniform(math.log(low), math.log(high))))))


class Crowd:
    """A random book, in a life of any length: ``act`` changes something about it, ``move`` moves a price.

    Contracts linear and inverse, multipliers whole and broken, tiers of either mode, with equal rates and rates of
    zero; legs, buckets, the fund; assets with fixed and with free prices, haircuts in slices, debts. Many rows stand at
    a threshold, or a unit beside it; some wait for a price, or for the log to show one.
    """

    def __init__(self, random: Random, *, rows: int = 12, scale: Scale | None = None) -> None:
        self.random = random
        self.scale = scale or random.choice(SCALES)
        self.contracts: list[Contract] = []
        # Where each price began; how far it may go is counted from there.
        self.starts: Prices = {}
        self.sizes_max: list[int] = []
        self.book = Book(Risk(policy=self.draw_policy()))
        fixed = self.chance(0.7)
        self.add_asset(Asset("USD", price_units=UNIT))
        self.add_asset(Asset("EUR", price_units=37_000_001 if fixed else None, weights=self.draw_weights()))
        self.add_asset(Asset("BTC", weights=self.draw_weights()))
        self.add_asset(Asset("COIN", weights=self.draw_weights()))
        for number in range(random.randint(2, 6)):
            self.add_symbol(f"S{number}")
        for number in range(rows):
            self.add_row(f"a{number}")
        for place, start in self.starts.items():
            if self.chance(0.6):
                self.put(place, start)
            elif self.chance(0.6):
                self.load(place, start)
        for row in range(1, len(self.book.accounts)):
            self.book.set_flag(row, CALLED, is_set=self.chance(0.3))
            self.tune(row)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    # What there is.

    def draw_policy(self) -> Policy:
        random = self.random
        call = random.choice((800_000, 800_000, PPM, sized(random, self.scale.call_ppm_min, PPM)))
        rearm = random.choice((call, call * 15 // 16, random.randint(0, call), sized(random, 1, call), 0))
        return Policy(
            trigger=random.choice(("at_or_below", "below")),
            tier_mode=random.choice(("marginal", "whole")),
            margin_call_ratio_ppm=call,
            margin_call_rearm_ppm=max(rearm, self.scale.call_ppm_min if rearm else 0),
        )

    def draw_weights(self) -> tuple[twins.Slice, ...]:
        random = self.random
        floors = sorted({0, *(sized(random, 1, self.scale.worth) for _ in range(random.randrange(3)))})
        weights = sorted((random.choice((PPM, random.randint(0, PPM))) for _ in floors), reverse=True)
        return tuple(zip(floors, weights, strict=True))

    def draw_tiers(self, symbol: int) -> tuple[twins.Tier, ...]:
        """Return up to four tiers about as high as notionals go, their rates often equal, or zero."""
        random, contract, size_max = self.random, self.contracts[symbol], self.sizes_max[symbol]
        mark = self.starts["mark", symbol]
        floors = {0}
        for _ in range(random.randrange(4)):
            size = max(1, int(size_max * random.random()))
            floors.add(twins.notional_parts(contract, size, mark)[0] + random.randint(-1, 1))
        ordered = sorted(floor for floor in floors if floor >= 0)
        highest = random.choice((20_000, 100_000, 500_000, PPM))
        rates = sorted(random.choice((0, highest // 2, highest, random.randint(1, highest))) for _ in ordered)
        return tuple((floor, rate, PPM) for floor, rate in zip(ordered, rates, strict=True))

    def add_asset(self, asset: Asset) -> None:
        """Begin an asset; without a price unless that is fixed."""
        self.book.set_asset(asset)
        # A thousand units of the dearest asset are worth a position.
        start = asset.price_units or sized(self.random, 20, min(10**13, self.scale.worth * UNIT // 1000))
        self.starts["price", self.book.asset_index[asset.name]] = start

    def add_symbol(self, name: str) -> None:
        """Begin a contract, at a mark at which one step of it is no larger than a position may be."""
        random, book, asset = self.random, self.book, self.random.randrange(len(self.book.assets))
        # What a position is worth in its settlement asset has to fit in 64 bits, too.
        most = min(self.scale.worth * UNIT // self.starts["price", asset], 10**17 // self.scale.reach)
        while True:
            is_inverse = self.chance(0.35)
            if is_inverse:
                num, den = random.choice((1, 5, 100)) * 10 ** random.choice((8, 10, 14)), 1
            else:
                num, den = random.choice(((1, 1), (1, 1), (1000, 1), (1, 10), (1, 10_000), (37, 100_000), (3, 10**8)))
            start = sized(random, 20, 10**15)
            top, bottom = Contract(is_inverse, num, den).notional(1, start)
            size_max = min(most * bottom // top, 10**17)
            if size_max > 0:
                break
        symbol = len(book.instruments)
        self.contracts.append(Contract(is_inverse, num, den))
        self.sizes_max.append(size_max)
        self.starts["mark", symbol] = start
        instrument = Instrument(
            symbol=name,
            kind="inverse" if is_inverse else "linear",
            base=name,
            settle=book.assets[asset].name,
            multiplier=(1, 0),
            price_tick=(1, 0),
            lot=(1, 0),
            mark_decimals=0,
            tiers=(Tier(0, 0, PPM),),
            value_num=num,
            value_den=den,
        )
        self.set_tiers(instrument, symbol)

    def set_tiers(self, instrument: Instrument, symbol: int) -> None:
        tiers = self.draw_tiers(symbol)
        self.book.set_instrument(replace(instrument, tiers=tuple(Tier(*tier) for tier in tiers)))
        self.contracts[symbol] = replace(self.contracts[symbol], tiers=tiers)

    def add_row(self, account: str) -> None:
        """Begin an account with balances and positions, and often a bucket."""
        book, random = self.book, self.random
        row = book.open_row(account, "")
        for asset in range(len(book.assets)):
            if self.chance(0.5):
                book.set_wallet(row, asset, self.draw_balance(asset))
        for symbol in random.sample(range(len(book.instruments)), random.randint(0, min(4, len(book.instruments)))):
            if self.chance(0.2):
                bucket = book.open_row(account, book.instruments[symbol].symbol)
                book.set_wallet(bucket, book.settle[symbol], abs(self.draw_balance(book.settle[symbol])))
                self.trade(bucket, symbol)
            else:
                self.trade(row, symbol)

    def draw_balance(self, asset: int) -> int:
        """Return a balance worth no more than a position, one in five of them owed."""
        most = max(1, self.scale.worth * UNIT // self.starts["price", asset])
        return sized(self.random, 1, min(most, 10**18)) * (-1 if self.chance(0.2) else 1)

    # What it is worth, by the twin.

    def standing(self, row: int) -> tuple[int, int, int]:
        """Return equity, maintenance margin and notional of a row from the formulas."""
        book = self.book
        marks, prices = book.tables.symbols[:, PRICE].tolist(), book.tables.assets[:, PRICE].tolist()
        positions = [
            (self.contract(symbol), *book.position(row, symbol, leg), marks[symbol], prices[book.settle[symbol]])
            for symbol, leg in book.positions_of(row)
        ]
        balances = [
            (asset.weights, book.wallet(row, index), price)
            for index, (asset, price) in enumerate(zip(book.assets, prices, strict=True))
        ]
        return twins.row_standing(positions, balances)

    def contract(self, symbol: int) -> Contract:
        return replace(self.contracts[symbol], is_whole=self.book.policy.tier_mode == "whole")

    def is_priced(self, row: int) -> bool:
        """Return whether each price that a row depends on is known."""
        places = [("mark", symbol) for symbol, _ in self.book.positions_of(row)]
        places += [("price", asset) for asset in stakes_of(self.book, row)]
        return all(self.price(place) for place in places)

    def needs_a_look(self, row: int) -> bool:
        """Return whether a row calls for a decision, by the twin's rules."""
        policy, flags = self.book.policy, self.book.flags(row)
        equity, maintenance, _ = self.standing(row)
        return twins.needs_a_look(
            equity,
            maintenance,
            is_priced=self.is_priced(row),
            is_own=bool(flags & SYSTEM),
            is_called=bool(flags & CALLED),
            is_watched=bool(flags & WATCHED),
            rule=[int(policy.trigger == "below"), policy.margin_call_ratio_ppm, policy.margin_call_rearm_ppm],
        )

    def in_need(self, place: Place) -> set[int]:
        """Return the rows with a stake in a price that need a look, each of them looked at."""
        kind, index = place
        rows = range(len(self.book.accounts))
        if kind == "mark":
            holders = [row for row in rows if any(symbol == index for symbol, _ in self.book.positions_of(row))]
        else:
            holders = [row for row in rows if index in stakes_of(self.book, row)]
        return {row for row in holders if self.needs_a_look(row)}

    # What happens.

    def places(self) -> list[Place]:
        """Return the prices that a message can move."""
        assets = self.book.assets
        return [(kind, index) for kind, index in self.starts if kind == "mark" or assets[index].price_units is None]

    def price(self, place: Place) -> int:
        return int(self.entry(place)[PRICE])

    def entry(self, place: Place) -> Any:
        """Return the line of the tables that a price stands in."""
        kind, index = place
        return (self.book.tables.symbols if kind == "mark" else self.book.tables.assets)[index]

    def bounds(self, place: Place) -> tuple[int, int]:
        """Return how low and how high a price may go."""
        start = self.starts[place]
        return max(1, start // self.scale.reach), start * self.scale.reach

    def put(self, place: Place, value: int) -> set[int]:
        """Put a price in force; return the rows that the engine then wants looked at."""
        kind, index = place
        if kind == "mark":
            asset_price = self.price(("price", self.book.settle[index]))
            assert not mark_overflows(self.book, index, value, asset_price)
            rows = try_put_mark(self.book, index, value, 1)
        else:
            rows = try_put_asset_price(self.book, index, value, 1)
        assert rows is not None
        return set(rows)

    def load(self, place: Place, value: int) -> None:
        """Put a price in force as a book file does: the log has not shown it yet."""
        kind, index = place
        if kind == "mark":
            self.book.set_mark(index, value, 0, is_seen=False)
        elif self.book.assets[index].price_units is None:
            self.book.set_asset_price(index, value, 0, is_seen=False)

    def next_price(self, place: Place) -> int:
        """Return where a price goes: a step, a few percent, a gap, to somebody's key or floor, or just beside it."""
        random, before = self.random, self.price(place)
        low, high = self.bounds(place)
        if before == 0:
            return self.starts[place]
        match random.randrange(6):
            case 0:
                price = before + random.choice((-1, 1))
            case 1:
                price = round(before * random.uniform(0.97, 1.03))
            case 2:
                price = round(before * math.exp(random.uniform(-1, 1)))
            case 3 | 4:
                price = self.key_of_somebody(place)
            case _:
                price = random.choice([*self.floor_prices(place), before]) + random.randint(-1, 1)
        return min(high, max(low, price))

    def key_of_somebody(self, place: Place) -> int:
        """Return a price at a key, one step before it, or a few beyond."""
        base, capacity, count = self.entry(place)[SEGMENT].tolist()
        count = count if place[0] == "mark" else min(capacity, len(self.book.accounts))
        keys = np.abs(self.book.tables.keys[:, base : base + count].astype(np.float64)).ravel()
        finite = keys[np.isfinite(keys)].tolist()
        if not finite:
            return self.price(place)
        return math.floor(self.random.choice(finite)) + self.random.randint(-3, 3)

    def floor_prices(self, place: Place) -> list[int]:
        """Return prices at which some holder's notional reaches a floor of its tiers."""
        kind, symbol = place
        if kind != "mark":
            return []
        contract, found = self.contracts[symbol], []
        for size in {abs(size) for size in self.book.tables.positions["size"][self.book.holder_ids(symbol)].tolist()}:
            for floor, _, _ in contract.tiers[1:]:
                if contract.is_inverse:
                    found.append(size * contract.num // floor)
                else:
                    found.append(twins.div_up(floor * contract.den, size * contract.num))
        return found

    def move(self) -> tuple[Place, set[int]]:
        """Move one price; return it with the rows that the engine wants looked at."""
        place = self.random.choice(self.places())
        return place, self.put(place, self.next_price(place))

    def act(self) -> None:
        """Change something that is no price."""
        random, book = self.random, self.book
        row = random.randrange(1, len(book.accounts))
        symbol, asset = random.randrange(len(book.instruments)), random.randrange(len(book.assets))
        match random.randrange(12):
            case 0 | 1 | 2:
                if book.buckets[row] in ("", book.instruments[symbol].symbol):
                    self.trade(row, symbol)
            case 3 | 4:
                if book.buckets[row] == "" or asset == book.settle[book.symbol_index[book.buckets[row]]]:
                    amount = random.choice((self.draw_balance(asset), -book.wallet(row, asset)))
                    ledger.transfer(book, row, asset, amount)
            case 5:
                if self.price(("mark", symbol)):
                    rate = random.randint(-(10**9), 10**9)
                    ledger.fund(book, symbol, ledger.funding_payments(book, symbol, rate))
            case 6 | 7 | 8:
                self.tune(row)
            case 9:
                book.set_flag(row, WATCHED, is_set=self.chance(0.3))
            case 10:
                book.set_flag(row, CALLED, is_set=self.chance(0.7))
                self.tune(row)
            case _:
                self.change_terms(symbol, asset)

    def change_terms(self, symbol: int, asset: int) -> None:
        """Change parameters as a control message does: then all rows are looked at."""
        book, parameters = self.book, self.book.assets[asset]
        match self.random.randrange(4):
            case 0:
                book.set_policy(self.draw_policy())
            case 1:
                self.set_tiers(book.instruments[symbol], symbol)
            case 2:
                book.set_asset(replace(parameters, weights=self.draw_weights()))
            case _:
                # USD stays, so that rows can be tuned.
                if asset != book.asset_index["USD"] and self.price(("price", asset)):
                    is_fixed = parameters.price_units is not None
                    price = None if is_fixed else self.next_price(("price", asset))
                    book.set_asset(replace(parameters, price_units=price))
        reprice_all(book)

    def trade(self, row: int, symbol: int) -> None:
        """Open, change, flip or close a position; an account with an odd number holds legs of odd symbols."""
        random, book = self.random, self.book
        if row % 2 and symbol % 2:
            leg = random.choice((LONG, SHORT))
            side = 1 if leg == LONG else -1
        else:
            leg, side = NET, random.choice((-1, 1))
        held, _ = book.position(row, symbol, leg)
        wanted = 0 if held and self.chance(0.2) else side * sized(random, 1, self.sizes_max[symbol])
        if self.chance(0.5) and wanted:
            wanted = side * max(1, int(self.sizes_max[symbol] * random.random()))
        price = self.price(("mark", symbol)) or self.starts["mark", symbol]
        low, high = self.bounds(("mark", symbol))
        price = min(high, max(low, round(price * random.choice((1, random.uniform(0.7, 1.4))))))
        if wanted != held:
            ledger.fill(book, row, symbol, leg, wanted - held, price)

    def tune(self, row: int) -> None:
        """Bring a row to a threshold of its own, or near it, by dollars that it pays in or takes out."""
        random, book, policy = self.random, self.book, self.book.policy
        if book.buckets[row] != "" or not self.is_priced(row):
            return
        equity, maintenance, gross = self.standing(row)
        near = random.choice((random.randint(-2, 3), sized(random, 1, max(gross, self.scale.worth))))
        wanted = twins.div_up(maintenance * PPM, policy.margin_call_ratio_ppm) + near
        if book.flags(row) & CALLED and policy.margin_call_rearm_ppm:
            # It is well between its margin and what that is at the re-arm ratio.
            well = twins.div_up(maintenance * PPM, policy.margin_call_rearm_ppm)
            wanted = random.choice(
                (maintenance + near, well - near, random.randint(maintenance, max(maintenance, well)))
            )
        usd = book.asset_index["USD"]
        if abs(book.wallet(row, usd) + wanted - equity) < 10**18:
            ledger.transfer(book, row, usd, wanted - equity)
