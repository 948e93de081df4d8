"""The AsyncAPI document says what the engine takes and says: its examples, its fields, and every message written."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from jsonschema.validators import extend

from engine.core.events import REJECT_REASONS, Message, Origin, Output, Reject
from engine.core.machine import Machine
from engine.core.params import ASSET_FIELDS, INSTRUMENT_FIELDS, POLICY_FIELDS
from engine.core.shard import Shard
from engine.edges.codec import decode, encode
from engine.edges.config import load_risk
from engine.edges.decode_fields import ENVELOPE_KEYS, LAYOUTS, SET_NAMES
from engine.edges.journal import Checked, Genesis, OrderRecord, Run, encode_genesis, encode_record
from engine.edges.snapshot import chunks
from engine.edges.topics import TOPICS, TopicSpec
from tests.golden import FOLDER, LOGS, replay_golden
from tests.outside import asyncapi_parser
from tests.scenarios import TOPICS as OUTPUT_TYPES
from tests.simulation.run import Simulation, run_seed

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "config" / "asyncapi.yaml"
# Reasons that the form of a line has, and not the book: what the schemas can tell as well.
OF_FORM = {"missing_field", "bad_type", "bad_number"}
# Markets of the simulation that together say everything there is to say.
SEEDS, EVENTS = range(12), 300

Document = dict[str, Any]

# To JSON Schema 5.0 is an integer; to the engine it is a float, as it is written (the document says so in its header).
INTEGERS = Draft7Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
Validator = extend(Draft7Validator, type_checker=INTEGERS)


@cache
def document() -> Document:
    """Return the document."""
    parsed: Document = yaml.safe_load(FILE.read_text())
    return parsed


def messages_of(topic: str) -> set[str]:
    """Return the names of a topic's messages."""
    return {*document()["channels"][topic]["messages"]}


def role_of(role: str) -> list[TopicSpec]:
    """Return the topics of a role."""
    return [topic for topic in TOPICS if topic.role == role]


INPUTS = sorted(name for topic in role_of("input") for name in messages_of(topic.name))
OUTPUTS = sorted(name for topic in role_of("output") for name in messages_of(topic.name))


@cache
def validator(name: str) -> Any:
    """Return what checks a message by its name."""
    schema = {**document()["components"]["messages"][name]["payload"], "components": document()["components"]}
    Draft7Validator.check_schema(schema)
    return Validator(schema)


def faults(name: str, body: Any) -> list[str]:
    """Return what is wrong with a message."""
    return [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(body)]


def examples(name: str) -> list[Document]:
    """Return the examples of a message."""
    return [example["payload"] for example in document()["components"]["messages"][name].get("examples", [])]


def properties(name: str) -> Document:
    """Return the fields of a message."""
    fields: Document = document()["components"]["messages"][name]["payload"]["properties"]
    return fields


# --- the document itself


def parse(file: Path) -> subprocess.CompletedProcess[str]:
    """Return what the AsyncAPI initiative's own parser says of a document."""
    node, modules = asyncapi_parser()
    command = [node, str(ROOT / "tests" / "asyncapi" / "check.js"), str(file), str(modules)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_document_is_valid() -> None:
    done = parse(FILE)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("action: receive", "action: get", "action"),
        ("'#/components/schemas/Fairness'", "'#/components/schemas/Fairnes'", "invalid-ref"),
        ("asyncapi: 3.0.0", "asyncapi: 9.0.0", "asyncapi"),
        ("    type: object\n", "    type: thing\n", "type"),
    ],
)
def test_a_mistake_in_the_document_is_seen(before: str, after: str, said: str, tmp_path: Path) -> None:
    text = FILE.read_text()
    assert before in text
    (tmp_path / "asyncapi.yaml").write_text(text.replace(before, after, 1))
    done = parse(tmp_path / "asyncapi.yaml")
    assert done.returncode == 1
    assert said in done.stdout


def test_topics_are_those_of_the_engine() -> None:
    channels = document()["channels"]
    assert {*channels} == {topic.name for topic in TOPICS}
    for topic in TOPICS:
        settings = channels[topic.name]["bindings"]["kafka"]["topicConfiguration"]
        assert channels[topic.name]["address"] == topic.name
        assert settings["cleanup.policy"] == [topic.cleanup]
        assert settings.get("retention.ms", -1) == topic.retention_ms
    used = {(one["channel"]["$ref"].rpartition("/")[2], one["action"]) for one in document()["operations"].values()}
    assert {name for name, action in used if action == "receive"} == {
        topic.name for topic in TOPICS if topic.role != "output"
    }
    assert {name for name, action in used if action == "send"} == {
        topic.name for topic in TOPICS if topic.role != "input"
    }


def test_every_message_is_on_one_topic_and_has_an_example_that_is_one() -> None:
    placed = [name for topic in TOPICS for name in messages_of(topic.name)]
    assert sorted(placed) == sorted(document()["components"]["messages"])
    for name in placed:
        assert examples(name) or name == "chunk", name
        assert [fault for body in examples(name) for fault in faults(name, body)] == []
        assert document()["components"]["messages"][name]["bindings"]["kafka"]["key"]


# --- inputs


def test_inputs_are_those_the_decoder_knows() -> None:
    assert {*INPUTS} == {*LAYOUTS} | {*SET_NAMES}


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_an_input_has_the_fields_that_the_decoder_reads(name: str) -> None:
    payload = document()["components"]["messages"][name]["payload"]
    fields = LAYOUTS[name].fields
    assert [*payload["properties"]] == ["type", *(field.name for field in fields)]
    assert payload["required"] == ["type", *(field.name for field in fields if not field.optional)]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("set_policy", POLICY_FIELDS), ("set_asset", ASSET_FIELDS), ("set_instrument", INSTRUMENT_FIELDS)],
)
def test_what_a_set_message_sets_are_the_parameters(name: str, parameters: Document) -> None:
    name_key = SET_NAMES[name][1]
    assert {*properties(name)} == {*parameters} | ENVELOPE_KEYS | ({name_key} if name_key else set())


def test_every_example_of_an_input_is_decoded_and_accepted_by_the_engine() -> None:
    machine = Machine(Shard(load_risk(None)))
    # Funding is paid at a mark.
    names = ["mark", *(name for name in INPUTS if name != "mark")]
    for number, body in enumerate((body for name in names for body in examples(name)), start=1):
        line = encode(body)
        event = decode(line)
        assert event is not None
        assert not isinstance(event, Reject), f"{body}: {event}"
        outputs = machine.apply([Message(Origin("examples", -1, number), event, line)])
        refused = [output.body for output in outputs if output.body["type"] == "reject"]
        assert refused == [], refused


def golden_lines() -> Iterator[bytes]:
    """Yield every line of the golden logs."""
    for name in LOGS:
        yield from (FOLDER / f"{name}.jsonl").read_bytes().splitlines()


def test_a_line_that_the_decoder_takes_is_an_input_of_the_document_and_one_it_refuses_for_its_form_is_none() -> None:
    accepted = refused = 0
    for line in golden_lines():
        event = decode(line)
        if isinstance(event, Reject):
            if event.reason in OF_FORM:
                body = json.loads(line)
                if body.get("type") in INPUTS and "$" not in line.decode():
                    refused += 1
                    assert faults(body["type"], body), f"{event.reason}: {line!r}"
        elif event is not None:
            accepted += 1
            body = json.loads(line)
            assert faults(body["type"], body) == [], line
    assert accepted > 1000
    assert refused > 5


MARK = {"type": "mark", "symbol": "BTCUSDT", "price": "60000", "ts": 1}
FILL = {"type": "fill", "fill_id": "f", "account": "a", "symbol": "S", "side": "buy", "qty": "1", "price": "1", "ts": 1}


@pytest.mark.parametrize(
    "body",
    [
        MARK | {"price": 60000.5},
        MARK | {"price": "6e4"},
        MARK | {"price": "+1"},
        MARK | {"price": "0.00"},
        MARK | {"price": "-1"},
        MARK | {"price": 0},
        MARK | {"price": "1."},
        MARK | {"price": "1" * 65},
        MARK | {"ts": "1"},
        MARK | {"ts": -1},
        MARK | {"ts": 2**63},
        MARK | {"symbol": ""},
        MARK | {"symbol": "S" * 65},
        MARK | {"symbol": None},
        FILL | {"side": "Buy"},
        FILL | {"leg": "both"},
        FILL | {"isolated": "true"},
        FILL | {"qty": "-1"},
        FILL | {"order_id": ""},
        FILL | {"order_id": "o" * 257},
        {"type": "transfer", "transfer_id": "t", "account": "a", "asset": "A", "amount": "-0.0", "ts": 1},
        {"type": "order_done", "order_id": "o", "account": "a", "status": "done", "ts": 1},
        {"type": "set_policy", "ts": 1, "target_buffer": 0.1},
    ],
)
def test_what_the_decoder_refuses_is_no_input_of_the_document(body: Document) -> None:
    assert isinstance(decode(json.dumps(body).encode()), Reject)
    assert faults(str(body["type"]), body)


@pytest.mark.parametrize(
    "body",
    [
        MARK | {"price": "060000.100", "index_price": None, "venue": "x"},
        MARK | {"price": 10**20, "ts": 0},
        FILL | {"leg": "long", "isolated": True, "fee": "-1.50", "order_id": None},
        FILL | {"leg": None, "isolated": None, "fee": None},
    ],
)
def test_what_is_unusual_and_right_is_an_input_for_both(body: Document) -> None:
    assert not isinstance(decode(json.dumps(body).encode()), Reject)
    assert faults(str(body["type"]), body) == []


# --- outputs


def test_outputs_have_the_fields_of_the_specification() -> None:
    assert {topic.name: messages_of(topic.name) for topic in role_of("output")} == {
        topic: {*kinds} for topic, kinds in OUTPUT_TYPES.items()
    }
    for kinds in OUTPUT_TYPES.values():
        for name, words in kinds.items():
            payload = document()["components"]["messages"][name]["payload"]
            assert payload["additionalProperties"] is False, name
            assert {*words.split()} <= {*payload["properties"]}, name
            if name != "reject":
                assert {*words.split(), "type", "ts", "shard", "seq", "output_id"} <= {*payload["required"]}, name


def test_reasons_for_a_refusal_are_the_closed_list() -> None:
    assert document()["components"]["schemas"]["RejectReason"]["enum"] == [*REJECT_REASONS]


def topic_faults(topic: str, body: Document) -> list[str]:
    """Return what keeps a message from being one of its topic's."""
    if body["type"] not in messages_of(topic):
        return [f"{topic} has no {body['type']}"]
    return faults(body["type"], body)


@pytest.mark.parametrize("name", LOGS)
def test_every_output_of_a_golden_run_is_one_of_the_document(name: str, tmp_path: Path) -> None:
    replay_golden(name, tmp_path)
    count = 0
    for topic in role_of("output"):
        for line in (tmp_path / f"{topic.name}.jsonl").read_bytes().splitlines():
            count += 1
            assert topic_faults(topic.name, json.loads(line)) == [], line
    assert count > 150


def test_every_output_of_simulated_markets_is_one_of_the_document_and_all_of_them_occur(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[Output] = []
    monkeypatch.setattr(Simulation, "finish", lambda simulation: written.extend(simulation.outputs))
    for seed in SEEDS:
        assert run_seed(seed, EVENTS).law is None
    seen = set()
    for output in spread(written):
        body = json.loads(encode(output.body))
        assert topic_faults(output.topic, body) == [], body
        seen.add(body["type"])
    assert seen == {*OUTPUTS}


def spread(outputs: Iterable[Output], most: int = 400) -> Iterator[Output]:
    """Yield outputs, of each type and set of fields no more than ``most``: some are written by the thousand."""
    counts: dict[tuple[str, ...], int] = {}
    for output in outputs:
        shape = (output.body["type"], *output.body)
        counts[shape] = counts.get(shape, 0) + 1
        if counts[shape] <= most:
            yield output


ORDER = {**examples("liquidation_order")[0]}


@pytest.mark.parametrize(
    "change",
    [
        {"type": "liquidation_ordr"},
        {"extra": 1},
        {"qty": "1.50"},
        {"qty": "-0"},
        {"qty": "1e3"},
        {"qty": 1},
        {"qty": None},
        {"leg": "net"},
        {"reduce_only": False},
        {"seq": 0},
        {"decision": {**ORDER["decision"], "extra": 1}},
        {"decision": {key: value for key, value in ORDER["decision"].items() if key != "marks"}},
        {"decision": {**ORDER["decision"], "input": {"file": "x"}}},
    ],
)
def test_an_output_that_is_not_as_it_says_is_seen(change: Document) -> None:
    assert topic_faults("liquidation-orders", ORDER) == []
    assert topic_faults("liquidation-orders", ORDER | change)


@pytest.mark.parametrize(
    ("drop", "more"),
    [
        (("topic",), {}),
        ((), {"file": "x", "line": 1}),
        (("payload",), {}),
        ((), {"payload_base64": "", "payload_bytes": 0}),
        (("payload",), {"payload_base64": ""}),
    ],
)
def test_a_refusal_has_one_place_and_one_payload(drop: tuple[str, ...], more: Document) -> None:
    (body,) = examples("reject")
    assert topic_faults("dead-letters", body) == []
    assert topic_faults("dead-letters", {key: value for key, value in body.items() if key not in drop} | more)


# --- the shards' own


def test_records_of_journal_and_snapshots_are_of_the_document() -> None:
    genesis = Genesis("dev", 3, "a" * 64, {"mark-prices": {0: 5}, "fills": {3: 0}}, "0.1.0")
    record = OrderRecord(1, (Run("fills", 3, 0, 9, 10),), 17, 4, "", "exactly_once", "0.1.0", "b" * 64)
    checked = OrderRecord(2, (), 17, 4, "c" * 64, "at_least_once", "0.1.0", "b" * 64, Checked(1, "d" * 64))
    assert faults("genesis", json.loads(encode_genesis(genesis))) == []
    assert faults("order_record", json.loads(encode_record(record))) == []
    assert faults("order_record", json.loads(encode_record(checked))) == []
    assert faults("order_record", json.loads(encode_genesis(genesis)))
    manifest, _ = chunks(b"state" * 100, 64)
    assert faults("manifest", json.loads(manifest)) == []
