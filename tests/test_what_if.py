"""What a what-if says is what comes to pass: asked before a message, compared once the message has really come."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from engine.core.events import Output
from engine.core.machine import Machine
from engine.core.shard import Shard
from engine.edges.accounts import account_fields, account_rows, missing_prices
from engine.edges.bookfile import load_document
from engine.edges.codec import decode
from engine.edges.journal import Position
from engine.edges.snapshot import encode_snapshot
from engine.edges.what_if import ENVELOPE, OF_ONE_ACCOUNT, WhatIfError, what_if
from tests.scenarios import Desk, buy, control, deposit, mark, sell, withdraw, words
from tests.simulation.run import message_of, risk_of, run_seed

SEEDS = range(12)
EVENTS = 150
# What an account can meet with in a step because of others.
OF_OTHERS = {"adl", "adl_wave", "takeover", "bad_debt", "insurance_fund", "liquidation_order", "liquidation_held"}

Document = dict[str, Any]


def rows_of(shard: Shard, account: str) -> list[Document] | None:
    """Return an account's rows as the API shows them, None where they cannot be valued."""
    rows = account_rows(shard, account)
    if any(missing_prices(shard.book, row) for row in rows):
        return None
    return [account_fields(shard, row) for row in rows]


def outputs_about(account: str, outputs: list[Output]) -> list[Document]:
    """Return the outputs about an account, without their place among all others."""
    bodies = [output.body for output in outputs if output.body.get("account") == account]
    return [{name: value for name, value in body.items() if name not in ENVELOPE} for body in bodies]


def without_input(bodies: list[Document]) -> list[Document]:
    """Return outputs without the place of the message that caused them: a question has none."""
    texts = json.loads(json.dumps(bodies))
    for body in texts:
        body.get("decision", {}).pop("input", None)
    found: list[Document] = texts
    return found


def accounts_asked(shard: Shard, body: Document) -> list[str]:
    """Return the account a message is about; where it is about all, those in trouble and one that is not."""
    if body["type"] in OF_ONE_ACCOUNT:
        return [body["account"]]
    rows = [*shard.episodes, *shard.holds, *range(1, len(shard.book.accounts))][:3]
    return sorted({shard.book.accounts[row] for row in rows} - {"$insurance"})


def snapshot_of(shard: Shard) -> bytes:
    """Return all of a shard's state."""
    return encode_snapshot(shard, config_hash="", position=Position(0, "", {}, 0))


class Questions:
    """One simulated market without a venue, asked about before each of its messages."""

    def __init__(self, seed: int) -> None:
        self.plan = run_seed(seed, EVENTS).plan
        self.shard = Shard(risk_of(self.plan.risk))
        if self.plan.book is not None:
            load_document(self.shard, self.plan.book, "plan")
        self.machine = Machine(self.shard)
        self.count = 0
        self.seen: Counter[str] = Counter()

    def run(self) -> None:
        for line in self.plan.lines:
            self.count += 1
            self.tell(line)
        assert snapshot_of(self.shard) == snapshot_of(self.unasked()), f"seed {self.plan.seed}: a question left a trace"

    def unasked(self) -> Shard:
        """Return the shard as it is where nobody has asked."""
        shard = Shard(risk_of(self.plan.risk))
        if self.plan.book is not None:
            load_document(shard, self.plan.book, "plan")
        Machine(shard).apply(message_of(line, number) for number, line in enumerate(self.plan.lines, start=1))
        return shard

    def tell(self, line: bytes) -> None:
        """Ask about a message, apply it, and compare."""
        message = message_of(line, self.count)
        asked = self.ask(line) if type(decode(line)).__name__ not in ("Reject", "NoneType") else {}
        outputs = self.machine.apply([message])
        for account, answer in asked.items():
            self.compare(account, answer, outputs)

    def ask(self, line: bytes) -> dict[str, Document]:
        body = json.loads(line)
        asked = {}
        for account in accounts_asked(self.shard, body):
            try:
                asked[account] = what_if(self.shard, account, [body])
            except WhatIfError as error:
                self.seen[error.code] += 1
        return asked

    def compare(self, account: str, answer: Document, outputs: list[Output]) -> None:
        """Assert that an answer has come true, unless it says on whom it depends and they have acted."""
        others = [output.body for output in outputs if output.body.get("account") != account]
        is_disturbed = any(body["type"] in OF_OTHERS for body in others)
        self.seen["of others" if is_disturbed else "+".join(answer["depends_on"]) or "alone"] += 1
        if "winners" in answer["depends_on"] or ("others" in answer["depends_on"] and is_disturbed):
            return
        self.seen.update(body["type"] for body in answer["outputs"])
        (change,) = answer["changes"]
        self.seen[change["outcome"]] += 1
        place = f"seed {self.plan.seed}, message {self.count}, {account}"
        assert answer["after"] == rows_of(self.shard, account), place
        if change["outcome"] != "rejected":
            about = [body for body in answer["outputs"] if body.get("account") == account]
            assert without_input(about) == without_input(outputs_about(account, outputs)), place


def test_what_is_said_before_a_message_is_what_comes_of_it() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        questions = Questions(seed)
        questions.run()
        seen += questions.seen
    # A market in which nothing happens would prove nothing.
    wanted = "alone winners others accepted rejected duplicate ignored liquidation_started liquidation_order takeover"
    assert set(wanted.split()) <= set(seen), seen


def test_an_extract_knows_every_attribute_that_a_shard_and_a_book_have() -> None:
    """Whoever gives a shard a new memory decides here whether it goes along into an extract."""
    desk = Desk()
    shard = """number book venue seq outputs counters ids origin future episodes episode_counts last_orders order_rows
        timers holds forced paused flows dirty stuck planner"""
    book = """tables policy policy_version clock instruments symbol_index specs tiers settle assets asset_index weights
        _marks _marks_are_behind asset_prices waiting accounts buckets row_index emptied standings scratch is_scanned
        is_verified clearing system transfers"""
    assert set(vars(desk.shard)) == set(words(shard))
    assert set(vars(desk.shard.book)) == set(words(book))


def test_a_trader_who_asks_whether_a_withdrawal_is_safe_is_told_what_would_be_sold() -> None:
    """Ten long from 100 with 50: at 100 all is well. Without 45 of them 5 is left against 1 % of 1,000: liquidated."""
    desk = Desk()
    desk.tell(mark("100"), deposit("alice", "50"), buy("alice", "10", "100"))
    safe = what_if(desk.shard, "alice", [body_of(withdraw("alice", "30"))])
    assert [row["liquidatable"] for row in safe["after"]] == [False]
    assert (safe["outputs"], safe["depends_on"]) == ([], [])
    unsafe = what_if(desk.shard, "alice", [body_of(withdraw("alice", "45"))])
    assert [row["equity"] for row in unsafe["before"] + unsafe["after"]] == ["50", "5"]
    assert [row["liquidatable"] for row in unsafe["after"]] == [True]
    sent = desk.tell(withdraw("alice", "45"))
    assert [body["type"] for body in unsafe["outputs"]] == [body["type"] for body in sent]
    (order,) = (body for body in unsafe["outputs"] if body["type"] == "liquidation_order")
    (really,) = (body for body in sent if body["type"] == "liquidation_order")
    for name in ("order_id", "qty", "limit_price", "bankruptcy_price", "stage"):
        assert order[name] == really[name]


def test_several_changes_come_one_after_the_other() -> None:
    """A deposit first makes room for the short that alone would not be carried."""
    desk = Desk()
    desk.tell(mark("100"), deposit("bob", "5"), sell("bob", "1", "100"))
    short = body_of(sell("bob", "9", "100"))
    alone = what_if(desk.shard, "bob", [short])
    funded = what_if(desk.shard, "bob", [body_of(deposit("bob", "20")), short])
    assert [row["liquidatable"] for row in alone["after"] + funded["after"]] == [True, False]
    assert [change["outcome"] for change in funded["changes"]] == ["accepted", "accepted"]


def test_a_stricter_tier_is_asked_about_before_it_is_set() -> None:
    desk = Desk()
    desk.tell(mark("100"), deposit("alice", "50"), buy("alice", "10", "100"))
    stricter = control("set_instrument", symbol="BTCUSDT", tiers=[["0", "0.06", "10"]])
    answer = what_if(desk.shard, "alice", [stricter])
    assert [row["maintenance_margin"] for row in answer["before"] + answer["after"]] == ["10", "60"]
    assert answer["depends_on"] == ["others"]
    assert desk.shard.book.policy_version == 1
    desk.tell(stricter)
    assert answer["after"] == rows_of(desk.shard, "alice")


def test_an_account_never_seen_can_be_asked_about() -> None:
    desk = Desk()
    desk.tell(mark("100"))
    answer = what_if(desk.shard, "carol", [body_of(deposit("carol", "7"))])
    assert (answer["before"], [row["equity"] for row in answer["after"]]) == ([], ["7"])
    assert "carol" not in desk.shard.book.accounts


REFUSED = {
    "a float": ({"type": "fill", "symbol": "BTCUSDT", "side": "buy", "qty": 1.5, "price": "1"}, "bad_number"),
    "a field missing": ({"type": "fill", "symbol": "BTCUSDT", "side": "buy"}, "missing_field"),
    "no type": ({"symbol": "BTCUSDT"}, "missing_field"),
    "a type of outputs": ({"type": "adl"}, "unknown_type"),
    "a type that is a list": ({"type": []}, "bad_type"),
    "a type that is an object": ({"type": {}}, "bad_type"),
    "another account": ({"type": "transfer", "account": "bob", "asset": "USDT", "amount": "1"}, "out_of_range"),
    "a position that nobody has priced": (
        {"type": "fill", "symbol": "ETHUSDT", "side": "buy", "qty": "1", "price": "100"},
        "unpriced",
    ),
}


@pytest.mark.parametrize(("change", "code"), REFUSED.values(), ids=REFUSED)
def test_a_question_that_makes_no_sense_says_why(change: Document, code: str) -> None:
    desk = Desk()
    desk.tell(mark("100"), deposit("alice", "50"))
    with pytest.raises(WhatIfError) as refused:
        what_if(desk.shard, "alice", [change])
    assert refused.value.code == code


def test_what_the_log_would_refuse_is_no_error_but_the_answer() -> None:
    desk = Desk()
    desk.tell(mark("100"), deposit("alice", "50"), buy("alice", "1", "100", fill_id="known"))
    repeated = body_of(buy("alice", "1", "100", fill_id="known"))
    odd = {"type": "fill", "symbol": "BTCUSDT", "side": "buy", "qty": "0.0001", "price": "100"}
    answer = what_if(desk.shard, "alice", [repeated, odd])
    assert [change["outcome"] for change in answer["changes"]] == ["duplicate", "rejected"]
    assert answer["changes"][1]["reason"] == "surplus_digits"
    assert answer["before"] == answer["after"]


def body_of(body: Document) -> Document:
    """Return a message of the scenarios as a question has it: without what the desk gives each."""
    return {name: value for name, value in body.items() if name != "ts"}
