"""A made-up population for a market: who holds what, with how much behind it, open interest balanced to the lot.

Every distribution is a table of quantiles read with integer interpolation, and the only source of chance is
``random.Random(seed).getrandbits``. No ``exp`` or ``log`` takes part, so equal arguments give equal bytes anywhere.

* **Size** (``SIZE_USD``): equity, median 3,000, one in a hundred above 800,000, the largest 15 million.
* **Positions** (``POSITION_COUNT``): one for a third of the accounts, 4 on average, up to 60, never more than there are
  symbols. A position too small for one lot is not opened.
* **Symbols**: drawn by 1/rank (Zipf); the rank follows the floor of the last tier, because a venue grants the deepest
  market the widest brackets. With 50 symbols about half of the accounts hold the first; with fewer, more of them.
* **Leverage** (``LEVERAGE_MILLI``): of a position against the margin set aside for it, median 5, half of that for
  accounts above 100,000; never above 10/11 of its tier's ``max_leverage``. Only a part of the wallet is set aside
  (``WALLET_USED_PPM``, median 45 %), so that the account as a whole is levered about twice.
* **Sides**: an account has a view and four of five positions follow it. Small accounts are long more often (64 %),
  those above 100,000 short (58 %). The rest is held by **market makers**, one account in 200, levered at most twice.
* **Entry prices** (``ENTRY_MILLI``): around the first mark by the symbol's volatility (default 4 %), in profit or loss,
  nearer the more leverage (who bought far away with 50x is no longer here).
* **Collateral**: the settlement asset; 15 % of the accounts hold 20 to 80 % of it in another asset with a known price.
* **Hedge mode**: 5 % of the accounts, both legs of one symbol open. **Isolated**: 5 % of the positions of the others.
* **Health**: every account and bucket starts with E >= 1.05 initial margin and MM / E <= 0.65.
* **Insurance fund**: 0.2 % of open interest (one side), in each settlement asset.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from engine.core.events import Leg
from engine.core.params import Asset, Instrument, Risk, as_number
from engine.errors import InputError
from engine.units import (
    POSITION_UNITS_MAX,
    PPM,
    UNIT,
    UNIT_DECIMALS,
    Number,
    div_up,
    format_scaled,
    format_units,
    scaled_half_even,
)

# Shares of the population, in ppm; each table below holds the value at every one of them.
SHARES_PPM = (0, 100_000, 250_000, 500_000, 750_000, 900_000, 970_000, 990_000, 999_000, PPM)
SIZE_USD = (50, 250, 900, 3_000, 12_000, 50_000, 200_000, 800_000, 4_000_000, 15_000_000)
POSITION_COUNT = (1, 1, 1, 3, 5, 9, 15, 26, 45, 61)
LEVERAGE_MILLI = (1_000, 2_000, 3_000, 5_000, 10_000, 20_000, 40_000, 60_000, 90_000, 100_000)
WALLET_USED_PPM = (50_000, 120_000, 250_000, 450_000, 700_000, 850_000, 920_000, 940_000, 950_000, 950_000)
# Thousandths of the symbol's volatility: about the normal distribution's quantiles, cut at three deviations.
ENTRY_MILLI = (-3_000, -1_282, -674, 0, 674, 1_282, 1_881, 2_326, 2_800, 3_000)

# Whoever is larger than this levers half as much and leans to the short side.
LARGE_USD = 100_000
# (size below which it holds, chance of a long view)
LONG_PPM = ((10_000, 640_000), (LARGE_USD, 540_000), (SIZE_USD[-1], 420_000))
VIEW_FOLLOWED_PPM = 800_000
VOLATILITY = 0.04
# |PnL| stays within this part of a position's margin, so that no wallet has to be negative.
ENTRY_PNL_PPM = 800_000
# Room at the start, so that the first ticks liquidate nobody: below a tier's leverage, above initial margin, and in
# the margin ratio.
LEVERAGE_ROOM_PPM = 1_100_000
INITIAL_ROOM_PPM = 1_050_000
MARGIN_RATIO_PPM = 650_000
ACCOUNTS_PER_MAKER = 200
# A symbol's imbalance is split over this many makers: one account with all of it would be the market.
MAKERS_PER_SYMBOL = 3
MAKER_LEVERAGE_MILLI = 2_000
MAKER_SIZE_USD = 1_000_000


@dataclass(frozen=True, slots=True)
class Market:
    """An instrument at its first mark.

    ``mark`` in price steps; ``settle_price`` in valuation units; a lot's notional is ``lot_num / lot_den`` units of the
    settlement asset.
    """

    instrument: Instrument
    mark: int
    settle_price: int
    volatility_ppm: int
    lot_num: int
    lot_den: int

    def notional_up(self, lots: int) -> int:
        """Return the notional of ``lots`` in units of the settlement asset."""
        return div_up(abs(lots) * self.lot_num, self.lot_den)

    def lots_within(self, value: int, leverage_milli: int) -> int:
        """Return the most lots that ``value`` of margin may carry at ``leverage_milli`` and under each tier's cap."""
        margin = value * UNIT // self.settle_price
        tiers = self.instrument.tiers
        ceilings = [tier.floor_units for tier in tiers[1:]] + [POSITION_UNITS_MAX]
        most = 0
        for tier, ceiling in zip(tiers, ceilings, strict=True):
            leverage_ppm = min(leverage_milli * 1_000, tier.leverage_ppm * PPM // LEVERAGE_ROOM_PPM)
            lots = min(margin * leverage_ppm // PPM, ceiling - 1) * self.lot_den // self.lot_num
            if self.notional_up(lots) >= tier.floor_units:
                most = lots
        return most

    def value_up(self, units: int) -> int:
        """Return an amount of the settlement asset in the valuation currency, rounded up."""
        return div_up(units * self.settle_price, UNIT)

    def margins_up(self, lots: int) -> tuple[int, int]:
        """Return (maintenance, initial margin) in the valuation currency.

        Maintenance is the tier's rate on the whole notional: exact for whole tiers, never too low for marginal ones.
        """
        notional = self.notional_up(lots)
        tier = next(tier for tier in reversed(self.instrument.tiers) if tier.floor_units <= notional)
        maintenance = div_up(notional * tier.rate_ppm, PPM)
        initial = div_up(notional * PPM, tier.leverage_ppm)
        return self.value_up(maintenance), self.value_up(initial)

    def pnl_floor(self, lots: int, entry: int) -> int:
        """Return the PnL in the valuation currency of signed ``lots`` opened at ``entry`` price steps."""
        instrument = self.instrument
        gain = lots * instrument.lot_steps * (self.mark - entry) * instrument.value_num
        divisor = entry * self.mark if instrument.is_inverse else instrument.value_den
        return gain * self.settle_price // (divisor * UNIT)


@dataclass(frozen=True, slots=True)
class Position:
    """Signed ``lots`` opened at ``entry``; ``margin`` (valuation units) is what was set aside for it."""

    market: Market
    lots: int
    entry: int
    margin: int
    leg: Leg = "net"
    isolated: bool = False

    def notional_value_up(self) -> int:
        """Return the notional in the valuation currency."""
        return self.market.value_up(self.market.notional_up(self.lots))


@dataclass(frozen=True, slots=True)
class Mix:
    """What the traders are drawn from."""

    markets: tuple[Market, ...]
    cumulative: tuple[int, ...]
    assets: Mapping[str, tuple[Asset, int]]
    hedge_ppm: int
    isolated_ppm: int
    collateral_ppm: int


def make_population(
    *,
    accounts: int,
    seed: int,
    first_marks: Mapping[str, Number],
    risk: Risk,
    asset_prices: Mapping[str, Number] | None = None,
    volatility: Mapping[str, float] | None = None,
    ts: int = 0,
    hedge_ppm: int = 50_000,
    isolated_ppm: int = 50_000,
    collateral_ppm: int = 150_000,
    insurance_ppm: int = 2_000,
) -> dict[str, Any]:
    """Return a book file (README, "Files") of ``accounts`` accounts, drawn as the module says.

    Symbols of ``first_marks`` the risk file does not know take no part. An asset without a fixed price serves as
    collateral only where ``asset_prices`` names it: an account whose collateral never has a price is never examined.

    Raises InputError for fewer than two accounts (one has nobody to trade with), when no symbol is left, and where a
    settlement asset has no price.
    """
    if accounts < 2:
        raise InputError(f"accounts was {accounts}, expected at least 2: each position needs another side")
    prices = price_assets(risk, asset_prices or {})
    markets = rank_markets(first_marks, risk, prices, volatility or {})
    weights = [PPM * len(markets) // rank for rank in range(1, len(markets) + 1)]
    mix = Mix(markets, tuple(accumulate(weights)), prices, hedge_ppm, isolated_ppm, collateral_ppm)
    rng = Random(seed)
    makers_count = max(1, accounts // ACCOUNTS_PER_MAKER)
    width = len(str(accounts))
    net_lots: Counter[str] = Counter()
    long_lots: Counter[str] = Counter()
    traders = []
    for index in range(1, accounts - makers_count + 1):
        size, positions = draw_trader(rng, mix)
        count_lots(positions, net_lots, long_lots)
        traders.append(render_account(rng, mix, f"trader-{index:0{width}}", size, positions))
    makers = []
    for index, positions in enumerate(make_makers(rng, mix, net_lots, makers_count), start=1):
        count_lots(positions, net_lots, long_lots)
        makers.append(render_account(rng, mix, f"maker-{index:0{width}}", maker_size(positions), positions))
    return {
        "accounts": makers + traders,
        "marks": {
            market.instrument.symbol: format_scaled(market.mark, market.instrument.price_decimals) for market in markets
        },
        "asset_prices": {
            name: format_units(price) for name, (asset, price) in prices.items() if asset.price_units is None
        },
        "insurance": make_insurance(mix, long_lots, insurance_ppm),
        "ts": ts,
    }


def write_book(book: Mapping[str, Any], path: Path) -> None:
    """Write a book file; the same book gives the same bytes."""
    try:
        path.write_text(json.dumps(book, separators=(",", ":")) + "\n", encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from error


def price_assets(risk: Risk, asset_prices: Mapping[str, Number]) -> dict[str, tuple[Asset, int]]:
    """Return each asset whose price (valuation units) is fixed or given; a fixed price wins."""
    priced = {}
    for name, asset in risk.assets.items():
        if asset.price_units is not None:
            priced[name] = asset, asset.price_units
        elif name in asset_prices:
            priced[name] = asset, scaled_half_even(asset_prices[name], UNIT_DECIMALS)
    return priced


def rank_markets(
    first_marks: Mapping[str, Number],
    risk: Risk,
    prices: Mapping[str, tuple[Asset, int]],
    volatility: Mapping[str, float],
) -> tuple[Market, ...]:
    """Return the markets of known symbols, the most popular first; equal brackets keep the risk file's order."""
    markets = []
    for symbol, instrument in risk.instruments.items():
        if symbol not in first_marks:
            continue
        if instrument.settle not in prices:
            raise InputError(f"{symbol}: no price for its settlement asset {instrument.settle}")
        volatility_ppm = round(volatility.get(symbol, VOLATILITY) * PPM)
        markets.append(make_market(instrument, first_marks[symbol], prices[instrument.settle][1], volatility_ppm))
    if not markets:
        raise InputError(f"none of the symbols with a mark ({', '.join(first_marks) or 'none'}) is in the risk file")
    return tuple(sorted(markets, key=lambda market: -market.value_up(market.instrument.tiers[-1].floor_units)))


def make_market(instrument: Instrument, mark: Number, settle_price: int, volatility_ppm: int) -> Market:
    """Return ``instrument`` at ``mark``, rounded as the engine rounds a mark."""
    steps = scaled_half_even(mark, instrument.mark_decimals) * instrument.mark_steps
    if steps <= 0:
        raise InputError(f"{instrument.symbol}: first mark was {mark[0] / 10 ** mark[1]:g}, expected above 0")
    lot_value = instrument.lot_steps * instrument.value_num
    if instrument.is_inverse:
        return Market(instrument, steps, settle_price, volatility_ppm, lot_value, steps)
    return Market(instrument, steps, settle_price, volatility_ppm, lot_value * steps, instrument.value_den)


def below(rng: Random, limit: int) -> int:
    """Return a uniform integer in [0, limit)."""
    return rng.getrandbits(32) * limit >> 32


def draw(rng: Random, table: Sequence[int]) -> int:
    """Return a value drawn from a table of quantiles, rounded down; always below its last."""
    share = below(rng, PPM)
    index = bisect_right(SHARES_PPM, share)
    share_low, share_high = SHARES_PPM[index - 1 : index + 1]
    low, high = table[index - 1 : index + 1]
    return low + (high - low) * (share - share_low) // (share_high - share_low)


def draw_trader(rng: Random, mix: Mix) -> tuple[int, list[Position]]:
    """Return a trader's equity (valuation units) and positions."""
    size_usd = draw(rng, SIZE_USD)
    leverage_milli = draw(rng, LEVERAGE_MILLI) // (2 if size_usd > LARGE_USD else 1)
    budget = size_usd * UNIT * draw(rng, WALLET_USED_PPM) // PPM
    long_ppm = next(chance for limit, chance in LONG_PPM if size_usd < limit)
    view = 1 if below(rng, PPM) < long_ppm else -1
    slots = [
        (market, view if below(rng, PPM) < VIEW_FOLLOWED_PPM else -view)
        for market in draw_markets(rng, mix, draw(rng, POSITION_COUNT))
    ]
    is_hedged = below(rng, PPM) < mix.hedge_ppm
    if is_hedged:
        slots.insert(1, (slots[0][0], -slots[0][1]))
    weights = [1 + below(rng, 4) for _ in slots]
    positions = []
    for (market, side), weight in zip(slots, weights, strict=True):
        margin = budget * weight // sum(weights)
        lots = market.lots_within(margin, leverage_milli)
        entry = draw_entry(rng, market, leverage_milli)
        is_isolated = not is_hedged and below(rng, PPM) < mix.isolated_ppm
        leg: Leg = "net" if not is_hedged else "long" if side > 0 else "short"
        if lots:
            positions.append(Position(market, side * lots, entry, margin, leg, is_isolated))
    return size_usd * UNIT, positions


def draw_markets(rng: Random, mix: Mix, count: int) -> list[Market]:
    """Return ``count`` different markets (all, where there are fewer), popular ones more often."""
    chosen: dict[int, Market] = {}
    while len(chosen) < min(count, len(mix.markets)):
        index = bisect_right(mix.cumulative, below(rng, mix.cumulative[-1]))
        chosen[index] = mix.markets[index]
    return list(chosen.values())


def draw_entry(rng: Random, market: Market, leverage_milli: int) -> int:
    """Return an entry price in steps, on the tick."""
    offset_ppm = draw(rng, ENTRY_MILLI) * market.volatility_ppm // 1_000
    reach_ppm = min(ENTRY_PNL_PPM * 1_000 // leverage_milli, PPM // 2)
    offset_ppm = max(-reach_ppm, min(reach_ppm, offset_ppm))
    tick = market.instrument.tick_steps
    return max(tick, market.mark * (PPM + offset_ppm) // PPM // tick * tick)


def count_lots(positions: Sequence[Position], net: Counter[str], long: Counter[str]) -> None:
    """Add ``positions`` to the signed lots and to the long lots of their symbols."""
    for position in positions:
        net[position.market.instrument.symbol] += position.lots
        long[position.market.instrument.symbol] += max(position.lots, 0)


def make_makers(rng: Random, mix: Mix, net_lots: Mapping[str, int], count: int) -> list[list[Position]]:
    """Return the makers' positions: together the other side of what the traders hold net, to the lot."""
    inventories: list[list[Position]] = [[] for _ in range(count)]
    parts = min(MAKERS_PER_SYMBOL, count)
    for rank, market in enumerate(mix.markets):
        net = net_lots[market.instrument.symbol]
        each, rest = divmod(abs(net), parts)
        for part in range(parts):
            lots = (each + (part < rest)) * (-1 if net > 0 else 1)
            entry = draw_entry(rng, market, MAKER_LEVERAGE_MILLI)
            if lots:
                inventories[(rank * parts + part) % count].append(Position(market, lots, entry, 0))
    return inventories


def maker_size(positions: Sequence[Position]) -> int:
    """Return the equity that keeps a maker at MAKER_LEVERAGE or below, in valuation units."""
    notional = sum(position.notional_value_up() for position in positions)
    return max(MAKER_SIZE_USD * UNIT, div_up(notional * 1_000, MAKER_LEVERAGE_MILLI))


def deposit_needed(positions: Sequence[Position], target: int) -> int:
    """Return the collateral value that gives ``positions`` equity of ``target`` or, where it asks more, health."""
    margins = [position.market.margins_up(position.lots) for position in positions]
    maintenance = sum(margin for margin, _ in margins)
    initial = sum(margin for _, margin in margins)
    equity = max(target, div_up(maintenance * PPM, MARGIN_RATIO_PPM), div_up(initial * INITIAL_ROOM_PPM, PPM))
    # The entry was drawn near the mark, but a coarse tick or an inverse contract can put more profit into it.
    profit = sum(position.market.pnl_floor(position.lots, position.entry) for position in positions)
    return max(equity - profit, equity // 5)


def render_account(rng: Random, mix: Mix, account: str, size: int, positions: Sequence[Position]) -> dict[str, Any]:
    """Return an account of the book file, funded so that its equity is ``size`` and it starts healthy."""
    cross = [position for position in positions if not position.isolated]
    set_aside = sum(position.margin for position in positions if position.isolated)
    largest = max(positions, default=None, key=Position.notional_value_up)
    settle = (largest.market if largest else mix.markets[0]).instrument.settle
    balances = draw_balances(rng, mix, settle, deposit_needed(cross, size - set_aside))
    return {
        "account": account,
        "balances": {asset: format_units(units) for asset, units in sorted(balances.items())},
        "positions": [render_position(mix, position) for position in positions],
    }


def draw_balances(rng: Random, mix: Mix, settle: str, value: int) -> dict[str, int]:
    """Return balances in units that together count for ``value``, mostly of ``settle``."""
    balances = {}
    others = [name for name in mix.assets if name != settle]
    if others and below(rng, PPM) < mix.collateral_ppm:
        asset, price = mix.assets[others[below(rng, len(others))]]
        share = value * (200_000 + below(rng, 600_000)) // PPM
        units = share * UNIT // price // asset.step_units * asset.step_units
        if units:
            balances[asset.name] = units
            value -= counted_value_floor(asset, units * price // UNIT)
    balances[settle] = amount_up(*mix.assets[settle], value)
    return balances


def counted_value_floor(asset: Asset, value: int) -> int:
    """Return what ``value`` of an asset counts for after its haircut, slice by slice."""
    ceilings = [floor for floor, _ in asset.weights[1:]] + [max(value, asset.weights[-1][0])]
    counted = sum(
        max(0, min(value, ceiling) - floor) * weight
        for (floor, weight), ceiling in zip(asset.weights, ceilings, strict=True)
    )
    return counted // PPM


def amount_up(asset: Asset, price: int, counted: int) -> int:
    """Return the units of ``asset`` that count for ``counted`` after the haircut (counted_value_floor inverted)."""
    value = None
    for index, (floor, weight) in enumerate(asset.weights):
        is_last = index + 1 == len(asset.weights)
        room = 0 if is_last else (asset.weights[index + 1][0] - floor) * weight // PPM
        if weight and (is_last or counted <= room):
            value = floor + div_up(counted * PPM, weight)
            break
        counted -= room
    if value is None:
        raise InputError(f"assets.{asset.name}.weights: beyond the last floor nothing counts; no account can be backed")
    return div_up(value * UNIT, price * asset.step_units) * asset.step_units


def render_position(mix: Mix, position: Position) -> dict[str, Any]:
    """Return a position of the book file; an isolated one carries the margin that keeps it healthy."""
    instrument = position.market.instrument
    row: dict[str, Any] = {
        "symbol": instrument.symbol,
        "qty": format_scaled(position.lots * instrument.lot_steps, instrument.size_decimals),
        "entry_price": format_scaled(position.entry, instrument.price_decimals),
        "leg": position.leg,
    }
    if position.isolated:
        margin = deposit_needed([position], position.margin)
        row |= {"isolated": True, "margin": format_units(amount_up(*mix.assets[instrument.settle], margin))}
    return row


def make_insurance(mix: Mix, long_lots: Mapping[str, int], insurance_ppm: int) -> dict[str, str]:
    """Return the fund's balance in each settlement asset: a part of its open interest."""
    fund: Counter[str] = Counter()
    for market in mix.markets:
        notional = market.notional_up(long_lots[market.instrument.symbol])
        fund[market.instrument.settle] += div_up(notional * insurance_ppm, PPM)
    steps = {name: mix.assets[name][0].step_units for name in fund}
    return {name: format_units(div_up(units, steps[name]) * steps[name]) for name, units in sorted(fund.items())}


def describe_population(book: Mapping[str, Any], risk: Risk) -> list[str]:
    """Return a book of make_population in a few lines: how many, how much, how levered, how near the edge."""
    prices = price_assets(risk, {name: as_number(name, text) for name, text in book["asset_prices"].items()})
    marks = {symbol: as_number(symbol, text) for symbol, text in book["marks"].items()}
    markets = {market.instrument.symbol: market for market in rank_markets(marks, risk, prices, {})}
    interest: Counter[str] = Counter()
    legs: Counter[str] = Counter()
    leverages_milli, ratios_ppm = [], []
    for account in book["accounts"]:
        positions, equity = read_account(account, markets, prices)
        for position in positions:
            legs["isolated" if position.isolated else position.leg] += 1
            if position.lots > 0:
                interest[position.market.instrument.symbol] += position.notional_value_up()
        if positions and equity > 0:
            maintenance = sum(position.market.margins_up(position.lots)[0] for position in positions)
            leverages_milli.append(sum(map(Position.notional_value_up, positions)) * 1_000 // equity)
            ratios_ppm.append(maintenance * PPM // equity)
    leverages_milli.sort()
    shares = [(percent, len(leverages_milli) * percent // 100) for percent in (10, 50, 90, 99) if leverages_milli]
    near = [(percent, sum(ratio >= percent * PPM // 100 for ratio in ratios_ppm)) for percent in (10, 25, 50)]
    return [
        f"accounts {len(book['accounts']):,}, with positions {len(leverages_milli):,}",
        f"positions {legs.total():,}, hedge legs {legs['long'] + legs['short']:,}, isolated {legs['isolated']:,}",
        f"open interest {interest.total() / UNIT:,.0f} {risk.policy.valuation}",
        *(f"  {symbol} {value / UNIT:,.0f}" for symbol, value in interest.most_common(5)),
        "leverage " + ", ".join(f"{percent}% {leverages_milli[index] / 1_000:.1f}x" for percent, index in shares),
        "margin ratio " + ", ".join(f"{count:,} at {percent}%" for percent, count in near) + " or above",
        "insurance fund " + ", ".join(f"{text} {name}" for name, text in book["insurance"].items()),
    ]


def read_account(
    account: Mapping[str, Any], markets: Mapping[str, Market], prices: Mapping[str, tuple[Asset, int]]
) -> tuple[list[Position], int]:
    """Return the positions of an account of a book file, and its equity with that of its buckets (valuation units)."""
    wallets = list(account["balances"].items())
    positions = []
    for row in account["positions"]:
        market = markets[row["symbol"]]
        instrument = market.instrument
        steps = scaled_half_even(as_number("qty", row["qty"]), instrument.size_decimals)
        entry = scaled_half_even(as_number("entry_price", row["entry_price"]), instrument.price_decimals)
        wallets.append((instrument.settle, row.get("margin", "0")))
        positions.append(Position(market, steps // instrument.lot_steps, entry, 0, row["leg"], "margin" in row))
    equity = sum(position.market.pnl_floor(position.lots, position.entry) for position in positions)
    for name, text in wallets:
        asset, price = prices[name]
        equity += counted_value_floor(asset, scaled_half_even(as_number(name, text), UNIT_DECIMALS) * price // UNIT)
    return positions, equity
