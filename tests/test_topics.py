"""The topics: what is declared, what is found wrong on a broker and what is not, and who may do what with each."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.core.events import OUTPUT_TOPICS
from engine.edges.codec import LINE_BYTES_MAX
from engine.edges.fold import INPUT_TOPICS
from engine.edges.journal import JOURNAL_TOPIC
from engine.edges.service_config import KafkaConfig, ServiceConfig
from engine.edges.topics import (
    DAY_MS,
    FoundTopic,
    TopicSpec,
    differences,
    expected_settings,
    group_id,
    partition_count,
    topic_name,
    topic_specs,
    topics_document,
    topics_text,
    transactional_id,
)

ACLS = Path(__file__).resolve().parents[1] / "deploy" / "kafka" / "acls.sh"
INPUTS = {"mark-prices", "control", "fills", "transfers"}
OUTPUTS = {"liquidation-orders", "bad-debt", "margin-events", "dead-letters"}
STATE = {"journal", "snapshots"}
EUROPE = ServiceConfig(
    cluster="eu1",
    shards=12,
    kafka=KafkaConfig(topic_prefix="liq.", mark_partitions=4, replication_factor=3, min_insync_replicas=2),
)


def named(name: str) -> TopicSpec:
    """Return one of the declared topics."""
    return next(spec for spec in topic_specs() if spec.name == name)


def found_as_declared(config: ServiceConfig) -> dict[str, FoundTopic]:
    """Return the topics, by our names, as a broker describes them after they were created as declared."""
    return {
        spec.name: FoundTopic(partition_count(config, spec), expected_settings(config, spec)) for spec in topic_specs()
    }


def with_setting(name: str, key: str, value: str | None) -> list[str]:
    """Return what is said of one setting that is not as declared, None for one the broker does not tell."""
    found = found_as_declared(EUROPE)
    settings = {**found[name].settings, key: value}
    told = {key: value for key, value in settings.items() if value is not None}
    return differences(EUROPE, {**found, name: FoundTopic(found[name].partitions, told)})


# --- declaration


def test_topics_are_those_of_the_contract_and_the_shards_own() -> None:
    assert len({spec.name for spec in topic_specs()}) == len(topic_specs())
    assert {
        role: {spec.name for spec in topic_specs() if spec.role == role} for role in ("input", "output", "state")
    } == {
        "input": INPUTS,
        "output": OUTPUTS,
        "state": STATE,
    }


def test_every_topic_the_core_writes_is_declared() -> None:
    assert set(OUTPUT_TOPICS) == {spec.name for spec in topic_specs() if spec.role == "output"}


def test_what_a_shard_folds_and_its_journal_are_declared() -> None:
    assert set(INPUT_TOPICS) == {spec.name for spec in topic_specs() if spec.role == "input"}
    assert JOURNAL_TOPIC in {spec.name for spec in topic_specs() if spec.role == "state"}


def test_names_carry_the_prefix_as_it_stands() -> None:
    assert (topic_name(EUROPE, "fills"), topic_name(ServiceConfig(), "fills")) == ("liq.fills", "fills")


def test_ids_are_of_cluster_and_shard_and_never_of_a_host() -> None:
    assert (transactional_id(EUROPE, 7), group_id(EUROPE, 7)) == ("liq-eu1-7", "liq-eu1-7")


def test_whatever_is_keyed_by_account_has_a_partition_a_shard() -> None:
    counts = {spec.name: partition_count(EUROPE, spec) for spec in topic_specs()}
    assert (counts.pop("mark-prices"), counts.pop("control")) == (4, 1)
    assert set(counts.values()) == {12}


def test_inputs_are_never_compacted_and_the_journal_never_ends() -> None:
    for spec in topic_specs():
        settings = expected_settings(EUROPE, spec)
        assert settings["cleanup.policy"] == ("compact" if spec.name == "snapshots" else "delete")
        assert settings.get("retention.bytes") == (None if spec.name == "snapshots" else "-1")
    assert expected_settings(EUROPE, named("journal"))["retention.ms"] == "-1"
    assert expected_settings(EUROPE, named("control"))["retention.ms"] == "-1"


def test_inputs_that_are_read_together_again_are_kept_for_the_same_30_days() -> None:
    kept = {expected_settings(EUROPE, named(name))["retention.ms"] for name in ("mark-prices", "fills", "transfers")}
    assert kept == {str(30 * DAY_MS)} == {"2592000000"}


def test_outputs_are_kept_for_at_least_as_long_as_the_inputs_they_follow_from() -> None:
    inputs = named("fills").retention_ms
    assert all(spec.retention_ms >= inputs for spec in topic_specs() if spec.role == "output")


def test_an_input_as_long_as_the_engine_takes_fits_with_its_key() -> None:
    # 61 bytes of the batch, 31 of the record at the most, 64 of the account; Kafka's own default leaves 12.
    for spec in topic_specs():
        assert int(expected_settings(ServiceConfig(), spec)["max.message.bytes"]) >= LINE_BYTES_MAX + 61 + 31 + 64


def test_copies_follow_the_configuration() -> None:
    assert {expected_settings(EUROPE, spec)["min.insync.replicas"] for spec in topic_specs()} == {"2"}
    assert {topic["replication_factor"] for topic in topics_document(EUROPE)["topics"]} == {3}


# --- differences


@pytest.mark.parametrize("config", [ServiceConfig(), EUROPE])
def test_topics_created_as_declared_have_no_differences(config: ServiceConfig) -> None:
    assert differences(config, found_as_declared(config)) == []


def test_topics_of_others_are_not_looked_at() -> None:
    others = {"orders": FoundTopic(1, {}), "payments": FoundTopic(3, {"cleanup.policy": "compact"})}
    assert differences(EUROPE, found_as_declared(EUROPE) | others) == []


def test_an_empty_broker_lacks_every_topic() -> None:
    lines = differences(EUROPE, {})
    assert len(lines) == len(topic_specs())
    assert lines[0] == (
        "topic liq.mark-prices is missing: liq-engine topics create makes it, with 4 partitions and replication factor"
        " 3; a shard's own principal may not"
    )


def test_accounts_on_another_number_of_partitions_are_refused_with_both_ways_out() -> None:
    found = found_as_declared(EUROPE)
    found["fills"] = FoundTopic(3, found["fills"].settings)
    (line,) = differences(EUROPE, found)
    assert line == (
        "topic liq.fills has 3 partitions, config says service.shards = 12: partition counts are for life, since they"
        " say where the messages of an account are; set service.shards = 3, or create all topics anew under another"
        " kafka.topic_prefix"
    )


@pytest.mark.parametrize("partitions", [3, 5])
def test_marks_on_one_partition_more_or_less_are_refused(partitions: int) -> None:
    found = found_as_declared(EUROPE)
    found["mark-prices"] = FoundTopic(partitions, found["mark-prices"].settings)
    (line,) = differences(EUROPE, found)
    assert line.startswith(f"topic liq.mark-prices has {partitions} partitions, config says kafka.mark_partitions = 4:")
    assert f"set kafka.mark_partitions = {partitions}," in line


def test_control_on_two_partitions_has_no_order() -> None:
    found = found_as_declared(EUROPE)
    found["control"] = FoundTopic(2, found["control"].settings)
    (line,) = differences(EUROPE, found)
    assert line.startswith(
        "topic liq.control has 2 partitions, expected 1: its messages are for all shards in one order"
    )


# Topic, setting, what the broker has instead.
WRONG = {
    "a compacted input": ("fills", "cleanup.policy", "compact"),
    "an input compacted and deleted": ("fills", "cleanup.policy", "compact,delete"),
    "snapshots deleted by age": ("snapshots", "cleanup.policy", "delete"),
    "marks kept a millisecond too short": ("mark-prices", "retention.ms", str(30 * DAY_MS - 1)),
    "a journal that ends": ("journal", "retention.ms", str(3650 * DAY_MS)),
    "a full disk before the time": ("journal", "retention.bytes", "1073741824"),
    "one copy acknowledged": ("journal", "min.insync.replicas", "1"),
    "as many acknowledged as there are": ("journal", "min.insync.replicas", "3"),
    "Kafka's own size": ("mark-prices", "max.message.bytes", "1048588"),
    "times of the broker": ("fills", "message.timestamp.type", "LogAppendTime"),
    "a leader that lags": ("journal", "unclean.leader.election.enable", "true"),
    "inputs as their writers pack them": ("fills", "compression.type", "producer"),
    "inputs a shard cannot read": ("mark-prices", "compression.type", "lz4"),
    "a journal its own shard cannot read": ("journal", "compression.type", "zstd"),
    "snapshots hardly ever compacted": ("snapshots", "min.cleanable.dirty.ratio", "0.5"),
    "a segment that is never closed": ("snapshots", "segment.ms", "604800000"),
    "compacted at some time": ("snapshots", "max.compaction.lag.ms", "9223372036854775807"),
    "not told": ("fills", "retention.ms", None),
}


@pytest.mark.parametrize(("name", "key", "value"), WRONG.values(), ids=WRONG)
def test_a_setting_is_refused_with_its_reason_and_the_command_that_sets_it(
    name: str, key: str, value: str | None
) -> None:
    (line,) = with_setting(name, key, value)
    expected = found_as_declared(EUROPE)[name].settings[key]
    assert line.startswith(f"topic liq.{name} has {key} = {value or '(unknown)'}, expected {expected}: ")
    assert line.endswith(
        f"kafka-configs.sh --alter --entity-type topics --entity-name liq.{name} --add-config {key}={expected}"
    )


def test_a_broker_that_does_not_tell_is_one_sentence_about_the_right_that_is_lacking() -> None:
    found = found_as_declared(EUROPE) | {"fills": FoundTopic(12, {})}
    assert differences(EUROPE, found) == [
        "topic liq.fills does not tell its settings: the principal lacks DescribeConfigs (deploy/kafka/acls.sh)"
    ]


FINE = {
    "marks kept for a year": ("mark-prices", "retention.ms", str(365 * DAY_MS)),
    "marks kept for ever": ("mark-prices", "retention.ms", "-1"),
    "larger messages": ("fills", "max.message.bytes", "4194304"),
    "inputs not compressed": ("fills", "compression.type", "uncompressed"),
    "outputs compressed": ("margin-events", "compression.type", "gzip"),
    "snapshots compacted sooner": ("snapshots", "max.compaction.lag.ms", "60000"),
    "snapshots in short segments": ("snapshots", "segment.ms", "60000"),
    "a setting of the cluster's own": ("fills", "segment.bytes", "1048576"),
}


@pytest.mark.parametrize(("name", "key", "value"), FINE.values(), ids=FINE)
def test_what_goes_further_than_declared_is_left_alone(name: str, key: str, value: str) -> None:
    assert with_setting(name, key, value) == []


# --- views


def test_json_view_holds_what_it_takes_to_create_each_topic() -> None:
    document = topics_document(EUROPE)
    assert json.loads(json.dumps(document)) == document
    assert document["cluster"] == "eu1"
    assert [topic["topic"] for topic in document["topics"]] == [f"liq.{spec.name}" for spec in topic_specs()]
    assert document["topics"][2] == {
        "topic": "liq.fills",
        "role": "input",
        "key": "account",
        "partitions": 12,
        "replication_factor": 3,
        "settings": {
            "cleanup.policy": "delete",
            "compression.type": "gzip",
            "max.message.bytes": "1049600",
            "message.timestamp.type": "CreateTime",
            "min.insync.replicas": "2",
            "retention.bytes": "-1",
            "retention.ms": "2592000000",
            "unclean.leader.election.enable": "false",
        },
    }


def test_text_view_has_a_line_a_topic_and_every_setting_of_each() -> None:
    text = topics_text(EUROPE)
    table, shared, *own = text.split("\n\n")
    rows = {line.split()[0]: line for line in table.split("\n")[1:]}
    assert rows["liq.mark-prices"].split("  ")[-1].strip() == "symbol or asset"
    assert "for ever" in rows["liq.journal"]
    assert "30 days" in rows["liq.fills"]
    common = shared.split("\n")[1].split()
    for block, spec in zip(own, topic_specs(), strict=True):
        name, line = block.split("\n")
        assert name == f"liq.{spec.name}"
        assert dict(pair.split("=") for pair in [*common, *line.split()]) == expected_settings(EUROPE, spec)


# --- rights


@dataclass(frozen=True)
class Right:
    """One right that the script gives."""

    principal: str
    operation: str
    resource: str
    name: str
    is_prefix: bool


def run_acls(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the script with only these variables set."""
    bash = shutil.which("bash")
    assert bash is not None
    return subprocess.run(
        [bash, str(ACLS), *arguments],
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        check=False,
    )


def rights_of(output: str) -> set[Right]:
    """Return all rights that the printed commands give."""
    rights = set()
    for line in output.splitlines():
        command, *words = shlex.split(line)
        assert command == "kafka-acls.sh"
        assert words.pop(words.index("--add")) == "--add"
        options = list(zip(words[::2], words[1::2], strict=True))
        (principal,) = [value for option, value in options if option == "--allow-principal"]
        is_prefix = ("--resource-pattern-type", "prefixed") in options
        resources = [(o, v) for o, v in options if o in ("--topic", "--group", "--transactional-id")]
        known = {
            "--bootstrap-server",
            "--command-config",
            "--allow-principal",
            "--operation",
            "--resource-pattern-type",
        }
        assert {option for option, _ in options} <= known | {option for option, _ in resources}
        rights |= {
            Right(principal.removeprefix("User:"), operation, option.removeprefix("--"), name, is_prefix)
            for option, name in resources
            for given, operation in options
            if given == "--operation"
        }
    return rights


@pytest.fixture(scope="module")
def rights() -> set[Right]:
    """Return the rights in Europe: its cluster, its prefix, the principals as they come."""
    done = run_acls(CLUSTER=EUROPE.cluster, TOPIC_PREFIX=EUROPE.kafka.topic_prefix)
    assert (done.returncode, done.stderr) == (0, "")
    return rights_of(done.stdout)


def topics_of(rights: set[Right], principal: str, operation: str) -> set[str]:
    """Return the topics with which a principal may do something, without the prefix."""
    found = {right for right in rights if (right.principal, right.operation) == (principal, operation)}
    return {right.name.removeprefix("liq.") for right in found if right.resource == "topic"}


def test_the_script_knows_exactly_the_declared_topics(rights: set[Right]) -> None:
    declared = {topic_name(EUROPE, spec.name) for spec in topic_specs()}
    assert {right.name for right in rights if right.resource == "topic"} == declared
    assert not [right for right in rights if right.resource == "topic" and right.is_prefix]


def test_a_shard_reads_inputs_and_state_and_writes_outputs_and_state(rights: set[Right]) -> None:
    roles = {role: {spec.name for spec in topic_specs() if spec.role == role} for role in ("input", "output", "state")}
    assert topics_of(rights, "liq-engine", "Read") == roles["input"] | roles["state"]
    assert topics_of(rights, "liq-engine", "Write") == roles["output"] | roles["state"]
    assert topics_of(rights, "liq-engine", "DescribeConfigs") == {spec.name for spec in topic_specs()}


@pytest.mark.parametrize(
    ("resource", "operation", "own"),
    [("transactional-id", "Write", transactional_id(EUROPE, 11)), ("group", "Read", group_id(EUROPE, 11))],
)
def test_a_shard_has_the_ids_of_its_cluster_to_itself(
    rights: set[Right], resource: str, operation: str, own: str
) -> None:
    ids = [right for right in rights if right.resource == resource]
    (right,) = [right for right in ids if own.startswith(right.name)]
    assert (right.principal, right.operation, right.is_prefix) == ("liq-engine", operation, True)
    # Neither another cluster's, nor those of whoever reads this one.
    others = [other.name for other in ids if other != right]
    assert not [name for name in ("liq-eu2-11", *others) if name.startswith(right.name)]


def test_each_input_has_one_writer_who_can_do_nothing_else(rights: set[Right]) -> None:
    writers = {
        name: {r.principal for r in rights if r.operation == "Write" and r.name == f"liq.{name}"} for name in INPUTS
    }
    assert writers == {
        "mark-prices": {"liq-market-data"},
        "fills": {"liq-ledger"},
        "transfers": {"liq-ledger"},
        "control": {"liq-operator"},
    }
    of_writers = {
        right for right in rights if right.principal in {*writers["mark-prices"], "liq-ledger", "liq-operator"}
    }
    assert {(right.operation, right.name.removeprefix("liq.")) for right in of_writers} == {
        ("Write", name) for name in INPUTS
    }


def test_readers_see_outputs_and_auditors_everything_and_both_write_nothing(rights: set[Right]) -> None:
    assert topics_of(rights, "liq-reader", "Read") == OUTPUTS
    assert topics_of(rights, "liq-auditor", "Read") == INPUTS | OUTPUTS | STATE
    assert {right.operation for right in rights if right.principal in ("liq-reader", "liq-auditor")} == {
        "Read",
        "DescribeConfigs",
    }


def test_nobody_may_create_alter_or_delete(rights: set[Right]) -> None:
    assert {right.operation for right in rights} == {"Read", "Write", "DescribeConfigs"}


def test_principals_brokers_and_the_administrators_file_are_told_by_the_environment() -> None:
    done = run_acls(
        ENGINE="User:CN=liq engine,O=Venue",
        READER="",
        KAFKA_BOOTSTRAP_SERVERS="a:1,b:2",
        COMMAND_CONFIG="admin files/client.properties",
    )
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert all(
        line[1:5] == ["--bootstrap-server", "a:1,b:2", "--command-config", "admin files/client.properties"]
        for line in lines
    )
    principals = {line[line.index("--allow-principal") + 1] for line in lines}
    assert "User:CN=liq engine,O=Venue" in principals
    assert len(principals) == 5
    assert {right.name for right in rights_of(done.stdout) if right.resource == "topic"} == INPUTS | OUTPUTS | STATE


def test_apply_runs_the_very_commands_it_prints_and_stops_at_the_first_that_fails(tmp_path: Path) -> None:
    tool = tmp_path / "kafka-acls.sh"
    tool.write_text('#!/bin/sh\nprintf "%s\\n" "$*" >>"$LOG"\ntest "$(wc -l <"$LOG")" -lt "$FAIL_AT"\n')
    tool.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    printed = [" ".join(shlex.split(line)[1:]) for line in run_acls().stdout.splitlines()]
    done = run_acls("--apply", PATH=path, LOG=str(tmp_path / "all"), FAIL_AT="99")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "all").read_text().splitlines() == printed
    failed = run_acls("--apply", PATH=path, LOG=str(tmp_path / "some"), FAIL_AT="3")
    assert failed.returncode != 0
    assert (tmp_path / "some").read_text().splitlines() == printed[:3]


@pytest.mark.parametrize("arguments", [["--aply"], ["--apply", "now"], ["-h"]])
def test_an_unknown_argument_is_refused_and_nothing_printed(arguments: list[str]) -> None:
    done = run_acls(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: acls.sh [--apply]" in done.stderr
