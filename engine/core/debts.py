"""What happens to debts of an account without positions: collateral is sold first, then the fund pays, then a loss.

A debt with equity above zero is left alone: the collateral carries it.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.core import ledger
from engine.core.book import CROSS, INSURANCE_ROW, Book
from engine.core.events import BAD_DEBT_TOPIC
from engine.core.shard import Episode, Shard
from engine.units import PPM, UNIT, div_up, format_units


@dataclass(frozen=True, slots=True)
class Sale:
    """Collateral to sell: ``amount`` units of one asset for another; ``limit`` in for_asset per asset, 1e-8."""

    asset: int
    for_asset: int
    amount: int
    limit: int

    def fields(self, book: Book) -> dict[str, str | None]:
        """Return the sale as ``plan`` and ``collateral_sale`` print it."""
        return {
            "asset": book.assets[self.asset].name,
            "amount": format_units(self.amount),
            "for_asset": book.assets[self.for_asset].name,
            "limit_price": format_units(self.limit),
        }


def owed_assets(book: Book, row: int) -> list[int]:
    """Return the assets a row owes, by name."""
    owed = [asset for asset in range(len(book.assets)) if book.wallet(row, asset) < 0]
    return sorted(owed, key=lambda asset: book.assets[asset].name)


def is_insolvent(book: Book, row: int) -> bool:
    """Return whether a row without positions owes more than all else it holds would bring after slippage."""
    if book.positions_of(row) or book.equity(row) > 0 or not owed_assets(book, row):
        return False
    return sum(proceeds(book, row, asset) for asset in range(len(book.assets))) < 0


def proceeds(book: Book, row: int, asset: int) -> int:
    """Return what a balance brings when sold, or costs when owed, in valuation units, rounded down."""
    balance, price = book.wallet(row, asset), book.asset_prices[asset].value
    if balance <= 0:
        return balance * price // UNIT
    return balance * price * (PPM - book.assets[asset].slippage_ppm) // (UNIT * PPM)


def plan_sales(book: Book, row: int) -> list[Sale]:
    """Return sales that cover the row's largest debt, largest collateral first, as far as they reach."""
    prices = [price.value for price in book.asset_prices]
    debts = owed_assets(book, row)
    target = min(debts, key=lambda asset: (book.wallet(row, asset) * prices[asset], book.assets[asset].name))
    needed = div_up(-book.wallet(row, target) * prices[target], UNIT)
    held = [asset for asset in range(len(book.assets)) if book.wallet(row, asset) > 0 and prices[asset]]
    held.sort(key=lambda asset: (-book.wallet(row, asset) * prices[asset], book.assets[asset].name))
    sales = []
    for asset in held:
        parameters = book.assets[asset]
        per_unit = prices[asset] * (PPM - parameters.slippage_ppm)
        step = parameters.step_units
        wanted = div_up(needed * UNIT * PPM, per_unit * step) * step
        amount = min(wanted, book.wallet(row, asset) // step * step)
        # Dust - finer than the asset's decimals, or too little to bring one step of the asset owed - stays.
        if sale_proceeds(book, asset, target, amount) == 0:
            continue
        sales.append(Sale(asset, target, amount, sale_limit(book, asset, target)))
        needed -= amount * per_unit // (UNIT * PPM)
        if needed <= 0:
            break
    return sales


def sale_of(book: Book, asset_name: str, for_asset_name: str, amount: int) -> Sale:
    """Return a planned sale with its limit."""
    asset, for_asset = book.asset_index[asset_name], book.asset_index[for_asset_name]
    return Sale(asset, for_asset, amount, sale_limit(book, asset, for_asset))


def sale_proceeds(book: Book, asset: int, for_asset: int, amount: int) -> int:
    """Return the units of ``for_asset`` that ``amount`` is expected to bring, rounded down to its decimals."""
    keep = PPM - book.assets[asset].slippage_ppm
    step = book.assets[for_asset].step_units
    value = amount * book.asset_prices[asset].value * keep
    return value // (book.asset_prices[for_asset].value * PPM * step) * step


def sale_limit(book: Book, asset: int, for_asset: int) -> int:
    """Return P / P_for x (1 - slippage - limit_band), rounded up to 8 decimals: a seller's limit rounds inward."""
    keep = max(0, PPM - book.assets[asset].slippage_ppm - book.policy.limit_band_ppm)
    return div_up(book.asset_prices[asset].value * UNIT * keep, book.asset_prices[for_asset].value * PPM)


def settle_debts(shard: Shard, episode: Episode) -> None:
    """Pay every asset owed from the fund's wallet of it, then from winners if so configured, and write off the rest."""
    book, row = shard.book, episode.row
    account = book.accounts[row]
    for asset in owed_assets(book, row):
        name = book.assets[asset].name
        deficit = -book.wallet(row, asset)
        before = book.wallet(INSURANCE_ROW, asset)
        paid = min(deficit, max(0, before))
        if paid:
            ledger.pay_insurance(book, row, asset, -paid)
            shard.note_fund(asset, before, "bad_debt", account=account, liquidation_id=episode.liquidation_id)
        shared = socialise(shard, row, asset, deficit - paid) if book.policy.socialise == "winners" else 0
        uncovered = deficit - paid - shared
        if uncovered:
            ledger.write_off(book, row, asset, uncovered)
        emit_bad_debt(shard, episode, name, deficit, paid, 0, shared, uncovered)


def emit_bad_debt(
    shard: Shard, episode: Episode, asset: str, deficit: int, insurance: int, adl: int, shared: int, uncovered: int
) -> None:
    """Write one ``bad_debt`` record; the four parts add up to the deficit."""
    shard.counters.bad_debt[asset] += deficit
    shard.counters.uncovered[asset] += uncovered
    fields = {
        "liquidation_id": episode.liquidation_id,
        **shard.subject(episode.row),
        "asset": asset,
        "deficit": format_units(deficit),
        "paid_by_insurance": format_units(insurance),
        "paid_by_adl": format_units(adl),
        "paid_by_socialisation": format_units(shared),
        "uncovered": format_units(uncovered),
    }
    shard.emit(BAD_DEBT_TOPIC, shard.book.accounts[episode.row], "bad_debt", fields)


def socialise(shard: Shard, row: int, asset: int, amount: int) -> int:
    """Take ``amount`` pro rata from rows with unrealised profit, nobody more than that profit; return what was taken.

    Floors first, then one unit each by largest remainder, then account, so that the sum is exact.
    """
    book, price = shard.book, shard.book.asset_prices[asset].value
    profits: dict[int, int] = {}
    for other in range(1, len(book.accounts)):
        # A bucket holds nothing but its settlement asset, so it cannot pay in another.
        bucket = book.buckets[other]
        can_pay = bucket == CROSS or book.settle[book.symbol_index[bucket]] == asset
        if can_pay and other != row and other not in shard.episodes and book.is_priced(other):
            profit = sum(book.held_values(other, symbol, leg)[0] for symbol, leg in book.positions_of(other))
            units = min(profit, book.equity(other) - book.maintenance(other)) * UNIT // price
            if units > 0:
                profits[other] = units
    total = sum(profits.values())
    amount = min(amount, total)
    if amount <= 0:
        return 0
    shares = {other: amount * units // total for other, units in profits.items()}
    rest = amount - sum(shares.values())
    order = sorted(
        profits, key=lambda other: (-(amount * profits[other] % total), book.accounts[other], book.buckets[other])
    )
    for other in order[:rest]:
        shares[other] += 1
    for other, units in shares.items():
        if units:
            ledger.pay_row(book, other, row, asset, units)
            shard.dirty.add(other)
    return amount
