"""Planted bugs, each of which the quick simulation or the unit tests must catch: ``python -m tests.mutants``.

Each is one change of one place of the engine, made in a copy of the tree. First the simulation runs some seeds, and
where it sees nothing the tests named run as well. A bug that hangs counts as caught. Names as arguments choose some.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("engine", "tests", "config", "pyproject.toml")
SEEDS = 40
TIMEOUT_S = 600
SIMULATION = ["tests.simulation.run", "--quick", str(SEEDS)]
PYTEST = ["pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no"]


@dataclass(frozen=True)
class Mutant:
    """One planted bug: ``old`` stands exactly once in ``file``; ``tests`` are those that should see it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()


LIQUIDATION = "engine/core/liquidation.py"
TAKEOVER = "engine/core/takeover.py"
INTAKE = "engine/core/intake.py"
MARGIN = "engine/core/kernels/margin.py"
LEDGER = "engine/core/ledger.py"
GUARDS = "engine/core/guards.py"
DEBTS = "engine/core/debts.py"
MACHINE = "engine/core/machine.py"
FOLLOW = "engine/core/kernels/follow.py"
FILLS = "engine/core/kernels/fills.py"
USUAL_FILL = "engine/core/usual_fill.py"
LEVELS = "engine/core/kernels/levels.py"
PRICING = "engine/core/pricing.py"
ROWS = "engine/core/kernels/rows.py"
RUNS = "engine/core/kernels/runs.py"
SEGMENTS = "engine/core/kernels/segments.py"
TABLES = "engine/core/tables.py"
TRIGGERS = "engine/core/kernels/triggers.py"
SHARES = "engine/core/kernels/shares.py"
INDEX_TESTS = ("tests/test_triggers.py",)
RUN_TESTS = ("tests/test_runs.py",)
FOLLOW_TESTS = ("tests/test_follow.py",)
FILL_TESTS = ("tests/test_usual_fill.py",)

MUTANTS = (
    Mutant(
        "trigger is strict",
        MARGIN,
        "return equity < maintenance if below else equity <= maintenance",
        "return equity < maintenance",
        ("tests/test_kernels.py",),
    ),
    Mutant(
        "margin rounds down",
        MARGIN,
        "margin = millions * rate - tiers[tier, DEDUCTION] + div_up(rest, _PPM) if",
        "margin = millions * rate - tiers[tier, DEDUCTION] + rest // _PPM if",
        ("tests/test_kernels.py",),
    ),
    Mutant(
        "floor belongs to the tier below",
        MARGIN,
        "if notional < tiers[candidate, FLOOR]:",
        "if notional <= tiers[candidate, FLOOR]:",
        ("tests/test_margin_against_reference.py",),
    ),
    Mutant(
        "haircut is forgotten on debts",
        MARGIN,
        "    if balance <= 0:\n",
        "    if balance < -_UNIT:\n",
        ("tests/test_kernels.py",),
    ),
    Mutant(
        "repeated fill is booked again",
        INTAKE,
        'shard.ids.add(("fill", event.account, event.fill_id))',
        'shard.ids.add(("fill", "", event.fill_id))',
        ("tests/test_liquidation.py",),
    ),
    Mutant(
        "old mark is taken",
        INTAKE,
        "if mark.value != 0 and event.ts < max(mark.ts, mark.pending_ts):",
        "if mark.value != 0 and event.ts < 0:",
        ("tests/test_guards.py", "tests/test_liquidation.py"),
    ),
    Mutant(
        "withdrawal is examined by nobody",
        INTAKE,
        'return Applied("transfer", (row,))',
        'return Applied("transfer")',
        ("tests/test_liquidation.py",),
    ),
    Mutant(
        "fee goes nowhere",
        LEDGER,
        "    book.system[FEES][asset] += amount\n",
        "    book.system[FEES][asset] += amount - amount % 2\n",
    ),
    Mutant(
        "clearing keeps its size", LEDGER, "        clearing.size -= part\n", "        clearing.size -= abs(part)\n"
    ),
    Mutant(
        "flip closes nothing",
        LEDGER,
        "        parts = [-held, size + held]\n",
        "        parts = [size + held, -held]\n",
    ),
    Mutant(
        "fund gives what it has not",
        DEBTS,
        "paid = min(deficit, max(0, before))",
        "paid = min(deficit, abs(before))",
        ("tests/test_takeover.py",),
    ),
    Mutant(
        "write-off is not told",
        DEBTS,
        "        if uncovered:\n            ledger.write_off(book, row, asset, uncovered)\n",
        "        if uncovered:\n            ledger.write_off(book, row, asset, uncovered + 1)\n",
    ),
    Mutant(
        "fund ignores its floor",
        TAKEOVER,
        "    floor = book.policy.insurance_floor_units\n",
        "    floor = -(10**18)\n",
        ("tests/test_takeover.py",),
    ),
    Mutant(
        "winner on the same side",
        "engine/core/kernels/waves.py",
        "if (t.positions[id_].size > 0) == is_long or",
        "if (t.positions[id_].size > 0) != is_long or",
        ("tests/test_takeover.py",),
    ),
    Mutant(
        "winner in an episode",
        TAKEOVER,
        "if int(rows[index]) in shard.episodes]",
        "if int(rows[index]) in shard.stuck]",
        ("tests/test_takeover.py",),
    ),
    Mutant(
        "last share forgets the remainder",
        TAKEOVER,
        "if not is_last:",
        "if True:",
        ("tests/test_takeover.py",),
    ),
    Mutant("zero is one short", TAKEOVER, "return -(-needed * UNIT // price)", "return -(-needed * UNIT // price) + 1"),
    Mutant(
        "healthy ends too early",
        LIQUIDATION,
        "equity >= target_equity(maintenance, policy.target_buffer_ppm):",
        "equity >= maintenance:",
        ("tests/test_liquidation.py",),
    ),
    Mutant(
        "takeover while in flight",
        LIQUIDATION,
        "    while not episode.orders:\n",
        "    while len(episode.orders) < 2:\n",
    ),
    Mutant(
        "order leaves the band",
        LIQUIDATION,
        "limit = limit_price(book, symbol, held, bankruptcy)",
        "limit = limit_price(book, symbol, held, None)",
        ("tests/test_liquidation.py",),
    ),
    Mutant(
        "liquidation fee takes what is not there",
        LIQUIDATION,
        "room = max(0, book.equity(row)) * UNIT",
        "room = max(UNIT, book.equity(row)) * UNIT",
        ("tests/test_liquidation.py",),
    ),
    Mutant(
        "fill leaves the order whole",
        LIQUIDATION,
        "    order.left -= done if order.left > 0 else -done\n",
        "    order.left -= 0 if order.left > 0 else -done\n",
    ),
    Mutant(
        "bucket keeps its rest",
        LIQUIDATION,
        "        if rest > 0 and not book.positions_of(row):",
        "        if rest > UNIT and not book.positions_of(row):",
        ("tests/test_liquidation.py",),
    ),
    Mutant(
        "pause is not heard",
        GUARDS,
        "        if book.instruments[symbol].symbol in shard.paused:\n",
        '        if "" in shard.paused:\n',
        ("tests/test_guards.py",),
    ),
    Mutant(
        "hold is not released",
        GUARDS,
        '        report(shard, row, "liquidation_released", hold)\n',
        '        report(shard, row, "liquidation_held", hold)\n',
    ),
    Mutant(
        "stale mark counts as fresh",
        GUARDS,
        "return limit_ms > 0 and shard.clock - price.ts > limit_ms * NS_PER_MS",
        "return limit_ms > 0 and shard.clock - price.ts > limit_ms * NS_PER_MS * 2",
        ("tests/test_guards.py",),
    ),
    Mutant(
        "budget is counted once",
        "engine/core/pacing.py",
        "        self.total += notional\n",
        "        self.total = notional\n",
        ("tests/test_guards.py",),
    ),
    Mutant(
        "best first",
        MACHINE,
        "        return sorted(rows, key=standing)\n",
        "        return sorted(rows, key=standing, reverse=True)\n",
        ("tests/test_liquidation.py",),
    ),
    Mutant(
        "timers fire a message late",
        MACHINE,
        "shard.timers[0][0] <= shard.clock:",
        "shard.timers[0][0] < shard.clock:",
        ("tests/test_guards.py",),
    ),
    Mutant(
        "prune stops a lot early",
        "engine/core/plan.py",
        "        while enough - short > 1:\n",
        "        while enough - short > 2:\n",
        ("tests/test_plan.py",),
    ),
    # The trigger index: each of these lets somebody be passed by.
    Mutant(
        "budgets are too large",
        SHARES,
        "budget = max(slack_per_claim * claim / highest - kept, 0.0)",
        "budget = max(1.3 * slack_per_claim * claim / highest - kept, 0.0)",
        INDEX_TESTS,
    ),
    Mutant(
        "budgets of an asset are too large",
        SHARES,
        "budget = max(slack_per_claim * claim - kept, 0.0) * _UNIT",
        "budget = max(1.3 * slack_per_claim * claim - kept, 0.0) * _UNIT",
        INDEX_TESTS,
    ),
    Mutant(
        "shares are of another figure than claims",
        SHARES,
        "claim = share_weight(float(spec[SWING_PPM]) / _PPM, float(counted))",
        "claim = share_weight(float(spec[SWING_PPM]) / _PPM, notional * worth)",
        INDEX_TESTS,
    ),
    Mutant(
        "tiers above are not walked",
        SHARES,
        "if slope > 0.0 and distance * slope >= budget:",
        "if slope > 0.0:",
        INDEX_TESTS,
    ),
    Mutant(
        "a rise brings no margin",
        SHARES,
        "        slope = max(cost + float(tiers[tier, RATE]) / _PPM * per_margin, 0.0)\n",
        "        slope = max(cost, 0.0)\n",
        INDEX_TESTS,
    ),
    Mutant(
        "a rise that brings profit is harmless",
        SHARES,
        "if float(spec[RATE_TOP]) * per_margin > _PPM:",
        "if float(spec[RATE_TOP]) * per_margin < 0.0:",
        INDEX_TESTS,
    ),
    Mutant(
        "a fall that brings a loss frees no margin",
        SHARES,
        "fallen_notional(tiers, tier_of(tiers, settled), notional, rise, per_rearm, -1.0)",
        "0.0",
        INDEX_TESTS,
    ),
    Mutant(
        "whole tiers do not jump",
        SHARES,
        "return step if step > (floor * rate + deduction) * 1e-9 else 0.0",
        "return 0.0",
        INDEX_TESTS,
    ),
    Mutant(
        "two tiers of one rate hide the jump below them",
        SHARES,
        "    while tier > 0:\n        if margin_step",
        "    if tier > 0:\n        if margin_step",
        INDEX_TESTS,
    ),
    Mutant(
        "asset may rise at will",
        SHARES,
        "high = min(price * _ASSET_RISE, price + budget / short if short > 0.0 else np.inf)",
        "high = min(price * 1e3, price + budget / short if short > 0.0 else np.inf)",
        INDEX_TESTS,
    ),
    Mutant(
        "asset does not rise",
        SHARES,
        "worth if asset[IS_FIXED] != 0 else worth * _ASSET_RISE",
        "worth if asset[IS_FIXED] != 0 else worth * 1.0",
        INDEX_TESTS,
    ),
    Mutant(
        "collateral falls at its smallest weight",
        SHARES,
        "float(t.weights[t.assets[asset, WEIGHTS_FIRST], 1])",
        "float(t.weights[t.assets[asset, WEIGHTS_FIRST + 1] - 1, 1])",
        INDEX_TESTS,
    ),
    Mutant(
        "keys are rounded outward",
        SHARES,
        "return np.float32(signed + abs(signed) * _INWARD)",
        "return np.float32(signed - abs(signed) * _INWARD)",
        INDEX_TESTS,
    ),
    Mutant(
        "nothing is kept back for roundings",
        SHARES,
        "kept = (added_up + margin * (per_margin + per_rearm)) * _SAFETY + roundings",
        "kept = 0.0",
        INDEX_TESTS,
    ),
    Mutant(
        "sides of inverse contracts are swapped",
        SHARES,
        "if (position.size > 0) != is_inverse:",
        "if position.size > 0:",
        INDEX_TESTS,
    ),
    Mutant(
        "called row has no excess",
        SHARES,
        "    if not is_called:\n        excess_per_claim = -1.0\n",
        "    excess_per_claim = -1.0\n",
        INDEX_TESTS,
    ),
    Mutant(
        "row that was looked at keeps its keys",
        TRIGGERS,
        "            mark_stale(t, row)\n            if needs_look(t, row):\n",
        "            if needs_look(t, row):\n",
        INDEX_TESTS,
    ),
    Mutant(
        "row that needs a look keeps its keys",
        TRIGGERS,
        "            mark_stale(t, row)\n            if needs_look(t, row):\n",
        "            if not needs_look(t, row):\n                mark_stale(t, row)\n            else:\n",
        INDEX_TESTS,
    ),
    Mutant(
        "change of a balance leaves the keys",
        ROWS,
        "    t.rows[row, COLD] += change * t.assets[asset, GAP_COLD]\n    mark_stale(t, row)\n",
        "    t.rows[row, COLD] += change * t.assets[asset, GAP_COLD]\n",
        INDEX_TESTS,
    ),
    Mutant(
        "change of a position leaves the keys",
        ROWS,
        "    mark_stale(t, row)\n    if size == 0:\n",
        "    if size == 0:\n",
        INDEX_TESTS,
    ),
    Mutant(
        "change of a flag leaves the keys",
        ROWS,
        "        t.rows[row, FLAGS] = after\n        mark_stale(t, row)\n",
        "        t.rows[row, FLAGS] = after\n",
        INDEX_TESTS,
    ),
    Mutant(
        "holder that moves up gets the keys of who left",
        ROWS,
        "put_key(t.keys, side, base, capacity, slot, t.keys[side, base + last])",
        "put_key(t.keys, side, base, capacity, slot, t.keys[side, base + slot])",
        INDEX_TESTS,
    ),
    Mutant(
        "stale rows are not shared for before a mark",
        PRICING,
        "    share_stale(book.tables.view)\n    before = int(entry[PRICE])\n",
        "    before = int(entry[PRICE])\n",
        INDEX_TESTS,
    ),
    Mutant(
        "change of parameters leaves the keys",
        PRICING,
        "    book.set_all_stale()\n",
        "",
        INDEX_TESTS,
    ),
    Mutant(
        "first mark has nobody looked at",
        PRICING,
        "return symbol_rows_in_need(book, symbol, look_at_all=is_new)",
        "return symbol_rows_in_need(book, symbol, look_at_all=False)",
        INDEX_TESTS,
    ),
    Mutant(
        "maxima never fall",
        SEGMENTS,
        "            if keys[side, above] > before:\n",
        "            if keys[side, above] >= before:\n",
        INDEX_TESTS,
    ),
    Mutant(
        "search skips a group",
        SEGMENTS,
        "        index = (index + FAN - 1) >> _SHIFT\n",
        "        index = (index + FAN) >> _SHIFT\n",
        INDEX_TESTS,
    ),
    Mutant(
        "packing leaves the maxima behind",
        TABLES,
        "            keys[:, self.used : self.used + size] = self.keys[:, base : base + size]\n",
        "            keys[:, self.used : self.used + size // 2] = self.keys[:, base : base + size // 2]\n",
        INDEX_TESTS,
    ),
    Mutant(
        "price finds a slot from both sides",
        TRIGGERS,
        "if side == FALLING or t.keys[FALLING, base + slot] < falling:",
        "if True:",
        INDEX_TESTS,
    ),
    Mutant(
        "price that rises finds nobody who was not found falling",
        TRIGGERS,
        "if side == FALLING or t.keys[FALLING, base + slot] < falling:",
        "if side == FALLING:",
        INDEX_TESTS,
    ),
    Mutant(
        "debtor with nothing left is passed by",
        ROWS,
        "if maintenance == 0 and equity <= 0:",
        "if maintenance == 0 and equity < 0:",
        ("tests/test_kernels.py", "tests/test_liquidation.py"),
    ),
    # Where positions stand: each of these loses one, or takes another one for it.
    Mutant("run is one place short", RUNS, "    while places < count:\n", "    while places < count - 1:\n", RUN_TESTS),
    Mutant(
        "run of another length is given back",
        RUNS,
        "give_run(t, first, run_places(count))",
        "give_run(t, first, run_places(wanted))",
        RUN_TESTS,
    ),
    Mutant(
        "rest of a longer run is lost", RUNS, "        give_run(t, first + places, found - places)\n", "", RUN_TESTS
    ),
    Mutant(
        "places left over go with the others",
        RUNS,
        "        give_run(t, first + after, before - after)\n",
        "",
        RUN_TESTS,
    ),
    Mutant("row does not end where it did", RUNS, "    t.positions[first + count - 2].is_last = 1\n", "", RUN_TESTS),
    Mutant("row ends where it did", ROWS, "[id_ - 1].is_last = 0", "[id_ - 1].is_last = 1", RUN_TESTS),
    Mutant(
        "only places behind all others are thought free",
        RUNS,
        "_free_length(t, places) < RUN_LENGTHS or ",
        "",
        RUN_TESTS,
    ),
    Mutant(
        "only places given back are thought free",
        RUNS,
        " or t.settings[TAKEN] + places <= t.positions.size",
        "",
        RUN_TESTS,
    ),
    Mutant(
        "one place more is thought free",
        RUNS,
        "t.settings[TAKEN] + places <= t.positions.size",
        "t.settings[TAKEN] + places <= t.positions.size + 1",
        RUN_TESTS,
    ),
    Mutant(
        "holder that moves up is not told its slot",
        ROWS,
        "    t.positions[held_at(t, symbol, last)].slot = slot\n",
        "",
        RUN_TESTS,
    ),
    Mutant(
        "other leg is taken for a slot's",
        ROWS,
        "(t.positions[id_].symbol != symbol or t.positions[id_].slot != slot)",
        "t.positions[id_].symbol != symbol",
        RUN_TESTS,
    ),
    Mutant(
        "positions stand by symbol number",
        ROWS,
        "return t.symbols[other.symbol, RANK] < t.symbols[symbol, RANK]",
        "return other.symbol < symbol",
        RUN_TESTS,
    ),
    Mutant(
        "loaded rows get no room of their own",
        ROWS,
        "        places += run_places(end - first)\n",
        "        places += end - first\n",
        RUN_TESTS,
    ),
    Mutant(
        "first row's positions are saved as every row's",
        ROWS,
        "    for row in range(count):\n        id_ = np.int64(t.rows[row, HEAD])\n",
        "    for row in range(count):\n        id_ = np.int64(t.rows[0, HEAD])\n",
        RUN_TESTS,
    ),
    Mutant(
        "packing leaves the holders behind",
        TABLES,
        "            holders[self.used : self.used + size] = self.holders[base : base + size]\n",
        "",
        RUN_TESTS,
    ),
    Mutant(
        "keys of what is loaded are not packed",
        TABLES,
        "        self._pack(self._keys_in_use() + sum(map(segment_size, capacities)))\n",
        "",
        RUN_TESTS,
    ),
    Mutant(
        "array that nobody may write to is handed over",
        "engine/core/kernels/handle.py",
        "is_whole and flags.writeable and is_long",
        "is_whole and is_long",
        ("tests/test_handle.py",),
    ),
    Mutant(
        "level is sought from the second border down",
        LEVELS,
        "here, borders, above - 1, -1)",
        "here, borders, above - 2, -1)",
        ("tests/test_kernels.py",),
    ),
    Mutant(
        "level above is the last healthy price",
        LEVELS,
        "return last if standing else last + way",
        "return last if standing or way > 0 else last + way",
        ("tests/test_kernels.py",),
    ),
    # The batch path: each of these puts a mark in force that is not of the usual kind, or something else than it says.
    Mutant("batch ignores the band", FOLLOW, "(stream[BAND_PPM] != 0 and", "(stream[BAND_PPM] < 0 and", FOLLOW_TESTS),
    Mutant("batch takes older marks", FOLLOW, " or ts < symbol[MARK_TS]", "", FOLLOW_TESTS),
    Mutant("batch lets timers wait", FOLLOW, "clock >= stream[DUE]", "clock > stream[DUE]", FOLLOW_TESTS),
    Mutant("batch takes a first mark", FOLLOW, "symbol[IS_OPEN] == 0 or ", "", FOLLOW_TESTS),
    Mutant(
        "batch rounds half up",
        FOLLOW,
        "rest == divisor - rest and price & 1 == 1",
        "rest == divisor - rest",
        FOLLOW_TESTS,
    ),
    Mutant("batch leaves the clock", FOLLOW, "        stream[CLOCK] = clock\n", "", FOLLOW_TESTS),
    Mutant("batch passes rows in need", FOLLOW, "if found > 0:", "if found > 99:", FOLLOW_TESTS),
    Mutant(
        "batch looks at falling prices only",
        FOLLOW,
        "            or top_key(t.keys, RISING, base, capacity) >= price_key(RISING, price)\n",
        "",
        FOLLOW_TESTS,
    ),
    Mutant(
        "batch forgets who used up a budget",
        FOLLOW,
        "                return index + 1, found\n            share_stale(t)\n",
        "                return index + 1, found\n",
        FOLLOW_TESTS,
    ),
    Mutant("batch leaves who is stuck", MACHINE, " or shard.stuck or shard.dirty", " or shard.dirty", FOLLOW_TESTS),
    # The same of fills: each of these posts one that is not usual, or something else than it says.
    Mutant("posting takes part of a lot", FILLS, "size % spec[LOT_STEPS] != 0 or ", "", FILL_TESTS),
    Mutant("posting takes isolated fills", FILLS, " or fills[place, ISOLATED] != 0", "", FILL_TESTS),
    Mutant("posting mixes legs", FILLS, "if (position.leg == NET) != (leg == NET):", "if leg > SHORT:", FILL_TESTS),
    Mutant(
        "posting crosses zero in one part",
        FILLS,
        "is_crossing = held != 0 and after != 0",
        "is_crossing = held != 0 and after == 0",
        FILL_TESTS,
    ),
    Mutant(
        "posting releases too much",
        FILLS,
        "released = mul_div_floor(cost, abs(size), abs(held))",
        "released = -mul_div_floor(-cost, abs(size), abs(held))",
        FILL_TESTS,
    ),
    Mutant("posting pays down", FILLS, "-floor - (1 if remainder > 0 else 0)", "-floor", FILL_TESTS),
    Mutant("posting overlooks who is watched", FILLS, "flags & WATCHED != 0 or is_call", "is_call", FILL_TESTS),
    Mutant(
        "crossing takes places that are not there",
        FILLS,
        "is_crossing and count > 1 and not has_run",
        "is_crossing and count < 0 and not has_run",
        FILL_TESTS,
    ),
    Mutant(
        "opening takes places that are not there",
        FILLS,
        "(is_new and not has_run(t, count + 1))",
        "(is_new and count < 0)",
        FILL_TESTS,
    ),
    Mutant("posting knows no bound of a row", FILLS, " and not has_room(", " and False and not has_room(", FILL_TESTS),
    Mutant("fill is posted twice", USUAL_FILL, "key in shard.ids or ", "", FILL_TESTS),
    Mutant("fill answers nobody", USUAL_FILL, "(fill.account, fill.order_id) in shard.order_rows or ", "", FILL_TESTS),
    Mutant("fill lets timers wait", USUAL_FILL, "shard.timers[0][0] > max", "shard.timers[0][0] >= max", FILL_TESTS),
    Mutant("fill overlooks what waits", USUAL_FILL, " or bool(book.waiting or shard.forced)", "", FILL_TESTS),
    Mutant("fill keeps a belief", USUAL_FILL, "    shard.future = None\n", "", FILL_TESTS),
)


def main(names: list[str]) -> int:
    """Plant each bug in a copy of the tree and say who caught it; return 1 if any was missed."""
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_tree(Path(folder))
        # Who cries already proves nothing about a planted bug.
        if (verdict := try_run(tree, SIMULATION)) is not None:
            print(f"the engine as it is does not pass: {verdict}")
            return 1
        files = sorted({test for mutant in chosen for test in mutant.tests})
        sound = [file for file in files if try_run(tree, [*PYTEST, file]) is None]
        for file in sorted({*files} - {*sound}):
            print(f"not used, since it fails as it is: {file}", flush=True)
        for mutant in chosen:
            verdict = try_catch(tree, mutant, sound)
            print(f"{'caught' if verdict else 'MISSED'}: {mutant.name}: {verdict or mutant.file}", flush=True)
            missed += [] if verdict else [mutant.name]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} caught")
    return int(bool(missed))


def copy_tree(tree: Path) -> Path:
    """Copy what the simulation and the tests need."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree / name)
    return tree


def try_catch(tree: Path, mutant: Mutant, sound: list[str]) -> str | None:
    """Return who caught a planted bug, or None: the simulation is asked first, then the tests that pass without it."""
    path = tree / mutant.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        tests = [test for test in mutant.tests if test in sound]
        return try_run(tree, SIMULATION) or (try_run(tree, [*PYTEST, *tests]) if tests else None)
    finally:
        path.write_text(text, encoding="utf-8")


def try_run(tree: Path, command: list[str]) -> str | None:
    """Run a module in the copy; return what it complained of, None if it is content."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tree, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} hung"
    if done.returncode == 0:
        return None
    lines = [line for line in (done.stdout.strip() or done.stderr.strip()).splitlines() if not line.startswith("!")]
    return f"{command[0]}: {(lines or [''])[-1][:120]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
