"""The service file: every rule refuses, all errors are told at once, no secret is shown, the shipped file is sound."""

from __future__ import annotations

import json
import os
import re
import tomllib
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from engine.edges import service_file
from engine.edges.service_config import (
    KEYS,
    SECRETS,
    SUBTABLES,
    DeadlineConfig,
    KafkaConfig,
    ServiceConfig,
    values_of,
)
from engine.edges.service_file import default_service_path, load_service
from engine.edges.service_view import describe_service, service_document, service_warnings
from engine.errors import InputError
from tests.service_cases import RISK

PASSWORD = "correct-horse-battery"
SHIPPED = default_service_path()
Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes ``service.toml`` beside a risk file, a certificate, a key and a password."""
    for name in ("risk.toml", "ca.pem", "engine.pem", "engine.key"):
        (tmp_path / name).write_text("")
    (tmp_path / "password").write_text(PASSWORD + "\n")
    for name in ("engine.key", "password"):
        (tmp_path / name).chmod(0o600)

    def service_file(text: str | bytes) -> Path:
        path = tmp_path / "service.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return service_file


def refused(path: Path, env: dict[str, str] | None = None) -> InputError:
    """Return the error a file is refused with."""
    with pytest.raises(InputError) as caught:
        load_service(path, env or {})
    return caught.value


def errors_of(path: Path, env: dict[str, str] | None = None) -> list[str]:
    """Return the lines a file is refused with."""
    return str(refused(path, env)).split("\n")


def kafka(text: str) -> str:
    """Return a file with these lines in ``[kafka]``."""
    return f"[kafka]\n{text}"


SASL = kafka(
    'security_protocol = "SASL_SSL"\nca_file = "ca.pem"\nsasl_mechanism = "SCRAM-SHA-512"\n'
    'sasl_username = "liq-engine"\nsasl_password_file = "password"\n'
)
MUTUAL = kafka('security_protocol = "SSL"\ncertificate_file = "engine.pem"\nkey_file = "engine.key"\n')


def test_an_empty_file_is_one_shard_on_a_broker_of_this_machine(write: Write, tmp_path: Path) -> None:
    config = load_service(write(""), {})
    assert (config.cluster, config.shards, config.delivery, config.heartbeat_ms) == ("dev", 1, "exactly_once", 500)
    assert (config.risk, config.book) == (tmp_path / "risk.toml", None)
    assert config.kafka == KafkaConfig()
    assert (config.kafka.bootstrap_servers, config.kafka.security_protocol) == ("127.0.0.1:9092", "PLAINTEXT")
    assert (config.batch.records_max, config.batch.interval_ms, config.batch.pending_max) == (4_000, 20, 20_000)
    assert (config.snapshots.folder, config.snapshots.keep) == (tmp_path / "snapshots", 3)
    assert config.deadlines == DeadlineConfig(start_s=60, commit_s=10, progress_s=30, drain_s=5)


def test_paths_are_relative_to_the_file_and_not_to_where_the_service_starts(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "book.json").write_text("{}")
    config = load_service(write('[service]\nbook = "book.json"\n[snapshots]\nfolder = "../state"\n' + SASL), {})
    assert (config.book, config.kafka.ca_file) == (tmp_path / "book.json", tmp_path / "ca.pem")
    assert config.snapshots.folder == tmp_path / ".." / "state"


def test_an_absolute_path_stays_as_it_is(write: Write, tmp_path: Path) -> None:
    risk = tmp_path / "venue.toml"
    risk.write_text("")
    assert load_service(write(f"[service]\nrisk = '{risk}'\n"), {}).risk == risk


def test_empty_text_stands_for_none(write: Write) -> None:
    keys = ("ca_file", "certificate_file", "key_file", "key_password_file", "sasl_mechanism", "sasl_username")
    config = load_service(write('[service]\nbook = ""\n' + kafka("".join(f'{key} = ""\n' for key in keys))), {})
    assert [getattr(config.kafka, key) for key in keys] == [None] * 6
    assert config.book is None


def test_the_environment_goes_before_the_file_for_the_brokers(write: Write) -> None:
    path = write(kafka('bootstrap_servers = "a:1"'))
    assert load_service(path, {}).kafka.bootstrap_servers == "a:1"
    assert load_service(path, {"KAFKA_BOOTSTRAP_SERVERS": "b:2"}).kafka.bootstrap_servers == "b:2"
    assert load_service(path, {"KAFKA_BOOTSTRAP_SERVERS": ""}).kafka.bootstrap_servers == "a:1"


def test_the_environment_stands_in_for_a_broken_line_of_the_file(write: Write) -> None:
    path = write(kafka("bootstrap_servers = 9092"))
    assert load_service(path, {"KAFKA_BOOTSTRAP_SERVERS": "b:2"}).kafka.bootstrap_servers == "b:2"


def test_a_wrong_variable_is_named_and_not_the_key_it_stands_for(write: Write) -> None:
    assert errors_of(write(""), {"KAFKA_BOOTSTRAP_SERVERS": "broker"}) == [
        "service.toml: KAFKA_BOOTSTRAP_SERVERS: broker: must be host:port, or several of them with commas between"
    ]


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("kafka-1.internal:9092", "kafka-1.internal:9092"),
        ("a:1, b:65535 ,c:3", "a:1,b:65535,c:3"),
        ("[::1]:9092", "[::1]:9092"),
        ("10.0.0.1:9092", "10.0.0.1:9092"),
    ],
)
def test_addresses_are_taken_without_the_blanks_between(write: Write, text: str, addresses: str) -> None:
    assert load_service(write(kafka(f'bootstrap_servers = "{text}"')), {}).kafka.bootstrap_servers == addresses


@pytest.mark.parametrize(
    "text",
    ["", "kafka", "kafka:", ":9092", "a:1,", "a:1,,b:2", "a:0", "a:65536", "a:9092x", "kafka://a:1", "a b:1", "::1:2"],
)
def test_an_address_that_is_none_is_refused(write: Write, text: str) -> None:
    (line,) = errors_of(write(kafka(f'bootstrap_servers = "{text}"')))
    assert line.startswith("service.toml: kafka.bootstrap_servers: ")
    assert line.endswith("must be host:port, or several of them with commas between")


# What is written, the key and value the error names, and the rule it states.
BROKEN = {
    "unknown table": ("[kafak]\na = 1", "kafak:", "unknown key; known are service, kafka, batch, snapshots, deadlines"),
    "table that is a value": ("kafka = 5", "kafka:", "must be a table"),
    "unknown key of the service": (
        "[service]\nshard = 1",
        "service.shard:",
        "unknown key; known are cluster, shards, ",
    ),
    "unknown key of a table": (kafka("brokers = 1"), "kafka.brokers:", "unknown key; known are bootstrap_servers, "),
    "table within the service": ("[service.kafka]\nmark_partitions = 2", "service.kafka:", "unknown key"),
    "text for a count": ('[service]\nshards = "2"', "service.shards: 2:", "must be an integer"),
    "fraction for a count": ("[snapshots]\nevery_s = 1.5", "snapshots.every_s: 1.5:", "must be an integer"),
    "whole float for a count": ("[service]\nshards = 2.0", "service.shards: 2.0:", "must be an integer"),
    "truth for a count": ("[service]\nshards = true", "service.shards: true:", "must be an integer"),
    "count for a truth": ("[snapshots]\npublish = 1", "snapshots.publish: 1:", "must be true or false"),
    "fraction for a name": ("[service]\ncluster = 1.5", "service.cluster: 1.5:", "must be a string"),
    "number for a path": ("[service]\nrisk = 5", "service.risk: 5:", "must be a string"),
    "list for a path": (kafka('ca_file = ["a"]'), "kafka.ca_file: [a]:", "must be a string"),
    "no shard": ("[service]\nshards = 0", "service.shards: 0:", "at least 1"),
    "too many shards": ("[service]\nshards = 1001", "service.shards: 1001:", "at most 1000"),
    "too many partitions of marks": (kafka("mark_partitions = 17"), "kafka.mark_partitions: 17:", "at most 16"),
    "no snapshot kept": ("[snapshots]\nkeep = 0", "snapshots.keep: 0:", "at least 1"),
    "negative deadline": ("[deadlines]\ndrain_s = -1", "deadlines.drain_s: -1:", "at least 1"),
    "transaction longer than a broker allows": (
        kafka("transaction_timeout_ms = 900_001"),
        "kafka.transaction_timeout_ms: 900001:",
        "at most 900000",
    ),
    "number beyond any": (f"[service]\nshards = 1{'0' * 99}", f"service.shards: 1{'0' * 76}...:", "at most 1000"),
    "unknown delivery": (
        '[service]\ndelivery = "at_most_once"',
        "service.delivery: at_most_once:",
        "one of 'exactly_once' or 'at_least_once'",
    ),
    "unknown protocol": (
        kafka('security_protocol = "TLS"'),
        "kafka.security_protocol: TLS:",
        "one of 'PLAINTEXT', 'SSL'",
    ),
    "unknown mechanism": (
        SASL.replace("SCRAM-SHA-512", "GSSAPI"),
        "kafka.sasl_mechanism: GSSAPI:",
        "one of 'SCRAM-SHA-512', 'SCRAM-SHA-256' or 'PLAIN'",
    ),
    "no cluster": ('[service]\ncluster = ""', "service.cluster: '':", "1 to 64 letters, digits"),
    "cluster with a blank": ('[service]\ncluster = "eu 1"', "service.cluster: eu 1:", "1 to 64 letters, digits"),
    "cluster too long": (f'[service]\ncluster = "{"a" * 65}"', f"service.cluster: {'a' * 65}:", "1 to 64 letters"),
    "prefix with a slash": (kafka('topic_prefix = "liq/"'), "kafka.topic_prefix: liq/:", "at most 64 letters, digits"),
    "no risk file": ('[service]\nrisk = ""', "service.risk: '':", "must be a path"),
    "path with a zero byte": ('[service]\nbook = "a\\u0000b"', "service.book: a\0b:", "must be a path"),
    "in-sync copies above all": (
        kafka("replication_factor = 2\nmin_insync_replicas = 3"),
        "kafka.min_insync_replicas: 3:",
        "must not be above replication_factor (2): no write would be acknowledged",
    ),
    "heartbeat as slow as the watchdog": (
        "[service]\nheartbeat_ms = 20_000\n[deadlines]\nprogress_s = 20",
        "service.heartbeat_ms: 20000:",
        "must be below deadlines.progress_s (20 s)",
    ),
    "commit one second beyond its transaction": (
        "[deadlines]\ncommit_s = 11",
        "deadlines.commit_s: 11:",
        "must not be above kafka.transaction_timeout_ms (10000 ms): by then the broker has aborted it",
    ),
    "watchdog as quick as a commit": (
        "[deadlines]\nprogress_s = 10",
        "deadlines.progress_s: 10:",
        "must be above commit_s (10 s)",
    ),
    "less waiting than a batch": (
        "[batch]\npending_max = 499",
        "batch.pending_max: 499:",
        "must not be below records_max (4000)",
    ),
    "authority without TLS": (kafka('ca_file = "ca.pem"'), "kafka.ca_file: ca.pem:", "not used with PLAINTEXT"),
    "authority with a password in the clear": (
        SASL.replace("SASL_SSL", "SASL_PLAINTEXT"),
        "kafka.ca_file: ca.pem:",
        "not used with SASL_PLAINTEXT, but with SSL and SASL_SSL",
    ),
    "user without SASL": (
        MUTUAL + 'sasl_username = "liq"',
        "kafka.sasl_username: liq:",
        "not used with SSL, but with SASL_SSL",
    ),
    "SASL without a mechanism": (
        SASL.replace("SCRAM-SHA-512", ""),
        "kafka.sasl_mechanism:",
        "required with SASL_SSL",
    ),
    "SASL without a user": (SASL.replace("liq-engine", ""), "kafka.sasl_username:", "required with SASL_SSL"),
    "SASL without a password": (
        SASL.replace('"password"', '""'),
        "kafka.sasl_password_file:",
        "required with SASL_SSL, unless LIQ_SASL_PASSWORD is set",
    ),
    "certificate without its key": (
        MUTUAL.replace("engine.key", ""),
        "kafka.certificate_file: engine.pem:",
        "needs key_file as well",
    ),
    "key without its certificate": (
        MUTUAL.replace("engine.pem", ""),
        "kafka.key_file: engine.key:",
        "needs certificate_file as well",
    ),
    "password of no key": (
        kafka('security_protocol = "SSL"\nkey_password_file = "password"'),
        "kafka.key_password_file: password:",
        "needs key_file, the key it opens",
    ),
    "a name for an address": (
        '[admin]\nhost = "engine.example"',
        "admin.host: engine.example:",
        'must be an IP address of this machine or "localhost"',
    ),
    "a port beyond all ports": ("[admin]\nport = 65536", "admin.port: 65536:", "at most 65535"),
    "accounts for everybody on the network": (
        '[admin]\nhost = "0.0.0.0"',
        "admin.token_file:",
        "required with host 0.0.0.0, unless LIQ_ADMIN_TOKEN is set: whoever reaches it reads accounts",
    ),
    "accounts for everybody on the network, of IPv6": (
        '[admin]\nhost = "::"',
        "admin.token_file:",
        "required with host ::, unless",
    ),
    "a token in the service file": (
        '[admin]\ntoken = "secret"',
        "admin.token:",
        "a secret has no place in this file: name its file as token_file, or set LIQ_ADMIN_TOKEN",
    ),
}


# What the survey is told, of a market of one contract and its coin.
BROKEN_BETAS = {
    "a symbol that the risk file does not have": (
        "betas = { BTCUSDT = 1, BTCUSD = 1.5 }",
        "survey.betas.BTCUSD: 1.5:",
        "risk.toml has nothing of that name",
    ),
    "an asset where a symbol is meant": ("betas = { USDT = 1 }", "survey.betas.USDT: ", "risk.toml has nothing"),
    "an asset that the risk file does not have": (
        "asset_betas = { BTC = 1 }",
        "survey.asset_betas.BTC: ",
        "risk.toml has nothing of that name",
    ),
    "a beta beyond the bound": (
        "betas = { BTCUSDT = 100.000001 }",
        "survey.betas.BTCUSDT: 100.000001:",
        "must be at least -100 and at most 100",
    ),
    "a beta too fine": ("betas = { BTCUSDT = 0.0000001 }", "survey.betas.BTCUSDT: 0.0000001:", "at most 6 decimals"),
    "a beta that is none": ('betas = { BTCUSDT = "high" }', "survey.betas.BTCUSDT: high:", "must be a plain decimal"),
    "one beta for all": ("betas = 1", "survey.betas: 1:", "must be a table"),
}


@pytest.mark.parametrize(("text", "place", "rule"), BROKEN_BETAS.values(), ids=BROKEN_BETAS)
def test_a_wrong_beta_is_refused_with_file_symbol_value_and_rule(
    write: Write, tmp_path: Path, text: str, place: str, rule: str
) -> None:
    (tmp_path / "risk.toml").write_text(RISK)
    (line,) = errors_of(write(f"[survey]\n{text}"))
    assert line.startswith(f"service.toml: {place}")
    assert rule in line


def test_betas_are_what_the_survey_follows_the_common_factor_with(write: Write, tmp_path: Path) -> None:
    (tmp_path / "risk.toml").write_text(RISK)
    config = load_service(write('[survey]\nbetas = { BTCUSDT = 1.25 }\nasset_betas = { USDT = "-100" }'), {})
    options = config.survey.options()
    assert (options.betas_ppm, options.asset_betas_ppm) == ({"BTCUSDT": 1_250_000}, {"USDT": -100_000_000})
    assert service_document(config)["survey"] == {"betas": {"BTCUSDT": "1.25"}, "asset_betas": {"USDT": "-100"}}
    assert "betas" in describe_service(config)


def test_betas_beside_a_risk_file_that_is_wrong_name_what_is_wrong_there(write: Write, tmp_path: Path) -> None:
    (tmp_path / "risk.toml").write_text("[policy]\npartial = 'half'")
    lines = errors_of(write("[survey]\nbetas = { BTCUSDT = 1 }\n[batch]\nrecords_max = 0"))
    assert [line.split(": ")[:2] for line in lines] == [
        ["service.toml", "batch.records_max"],
        ["risk.toml", "policy.partial"],
    ]


@pytest.mark.parametrize(("text", "place", "rule"), BROKEN.values(), ids=BROKEN)
def test_a_rule_is_refused_with_file_key_value_and_rule(write: Write, text: str, place: str, rule: str) -> None:
    lines = errors_of(write(text))
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"service.toml: {place} {rule}")


# One step inside each limit: what the rules above refuse is the next one.
ALLOWED = {
    "as many in-sync copies as there are": kafka("replication_factor = 3\nmin_insync_replicas = 3"),
    "heartbeat a millisecond before the watchdog": ("[service]\nheartbeat_ms = 19_999\n[deadlines]\nprogress_s = 20"),
    "commit as long as its transaction": "[deadlines]\ncommit_s = 10",
    "watchdog a second after a commit": "[deadlines]\nprogress_s = 11",
    "as much waiting as a batch": "[batch]\npending_max = 4000",
    "most shards": "[service]\nshards = 1000",
    "longest cluster": f'[service]\ncluster = "{"a" * 64}"',
    "longest prefix": kafka(f'topic_prefix = "{"a" * 64}"'),
    "TLS with the system's authorities": kafka('security_protocol = "SSL"'),
    "mutual TLS": MUTUAL,
    "SCRAM over TLS": SASL,
    "an admin server for the network, with a token": '[admin]\nhost = "0.0.0.0"\ntoken_file = "password"',
    "an admin server of loopback, whatever it is called": '[admin]\nhost = "127.8.8.8"\nport = 0',
    "an admin server of loopback, of IPv6": '[admin]\nhost = "::1"\nport = 65_535',
    "password in the clear": SASL.replace("SASL_SSL", "SASL_PLAINTEXT").replace('"ca.pem"', '""'),
}


@pytest.mark.parametrize("text", ALLOWED.values(), ids=ALLOWED)
def test_what_lies_at_the_limit_is_taken(write: Write, text: str) -> None:
    load_service(write(text), {})


def test_all_errors_are_told_at_once_values_relations_and_files(write: Write) -> None:
    text = (
        'shard = 1\n[service]\nrisk = "none.toml"\nshards = 0\n[kafka]\nport = 1\nreplication_factor = "3"\n'
        'security_protocol = "SASL_SSL"\nsasl_password_file = "none"\n[deadlines]\ncommit_s = 11\n'
    )
    lines = errors_of(write(text))
    assert [line.split(": ")[1] for line in lines] == [
        "shard",
        "kafka.port",
        "kafka.sasl_password_file",
        "service.shards",
        "kafka.replication_factor",
        "kafka.sasl_mechanism",
        "kafka.sasl_username",
        "deadlines.commit_s",
        "service.risk",
    ]


def test_a_relation_to_a_wrong_value_is_not_told(write: Write) -> None:
    # 11 s are above the default of 10,000 ms; but what was meant by "20 s" nobody knows.
    lines = errors_of(write(kafka('transaction_timeout_ms = "20 s"\n') + "[deadlines]\ncommit_s = 11"))
    assert lines == ["service.toml: kafka.transaction_timeout_ms: 20 s: must be an integer"]


def test_a_relation_to_a_table_that_is_none_is_not_told(write: Write) -> None:
    lines = errors_of(write("kafka = 5\n[deadlines]\ncommit_s = 11"))
    assert lines == ["service.toml: kafka: must be a table"]


@pytest.mark.parametrize("key", ["risk", "book"])
@pytest.mark.parametrize("name", ["none.toml", ".", "risk.toml/x", "x" * 300])
def test_a_file_that_is_not_there_is_named_with_its_whole_path(
    write: Write, tmp_path: Path, key: str, name: str
) -> None:
    (line,) = errors_of(write(f'[service]\n{key} = "{name}"'))
    assert line.startswith(f"service.toml: service.{key}: {str(tmp_path / name)[:60]}")
    assert line.endswith(": is not a file that can be read")


def test_a_file_that_may_not_be_read_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(SASL)
    monkeypatch.setattr(os, "access", lambda file, mode: Path(file).name != "ca.pem" or mode != os.R_OK)
    (line,) = errors_of(path)
    assert line.startswith("service.toml: kafka.ca_file: ")


UNREADABLE = {
    "not TOML": (b"[service]\n\na = = 1\n", "service.toml:3: not TOML:"),
    "twice": (b"[service]\nshards = 1\nshards = 1\n", "service.toml:3: not TOML:"),
    "not UTF-8": (b"[service]\n# caf\xe9\n", "service.toml:2: not UTF-8"),
}


@pytest.mark.parametrize(("text", "start"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_file_is_refused_with_its_line(write: Write, text: bytes, start: str) -> None:
    (line,) = errors_of(write(text))
    assert line.startswith(start)


def test_a_missing_service_file_is_named(tmp_path: Path) -> None:
    (line,) = errors_of(tmp_path / "none.toml")
    assert line.startswith(f"{tmp_path / 'none.toml'}: cannot be read: No such file")


TOML_VALUES = ["true", "0", "-1", "1.5", "inf", "2026-11-21", '""', '"x"', '"a\\u0000"', "[]", "[[1]]", "{}", "{a = 1}"]


@given(
    place=st.sampled_from([(table, key) for table, keys in KEYS.items() for key in keys]),
    value=st.sampled_from(TOML_VALUES),
)
def test_any_value_of_any_key_is_taken_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str, str], value: str
) -> None:
    table, key = place
    path = tmp_path_factory.getbasetemp() / "service.toml"
    path.with_name("risk.toml").write_text("")
    path.write_text(f"[{table}]\n{key} = {value}\n")
    lines = []
    try:
        load_service(path, {})
    except InputError as error:
        lines = str(error).split("\n")
    assert all(line.startswith("service.toml: ") for line in lines), (value, lines)
    assert not lines or any(re.search(rf": {table}\.{key}[:.]", line) for line in lines), (value, lines)


# --- secrets


def test_a_password_comes_from_its_file_without_the_end_of_its_line(write: Write) -> None:
    secret = load_service(write(SASL), {}).kafka.sasl_password
    assert isinstance(secret, SecretStr)
    assert secret.get_secret_value() == PASSWORD


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_the_line_of_a_password_may_end_in_any_way(write: Write, tmp_path: Path, ending: str) -> None:
    (tmp_path / "password").write_bytes(f" pass wörd {ending}".encode())
    secret = load_service(write(SASL), {}).kafka.sasl_password
    assert secret is not None
    assert secret.get_secret_value() == " pass wörd "


def test_the_environment_goes_before_the_file_for_secrets(write: Write) -> None:
    text = SASL.replace('"password"', '"none"')
    secret = load_service(write(text), {"LIQ_SASL_PASSWORD": "from-outside"}).kafka.sasl_password
    assert secret is not None
    assert secret.get_secret_value() == "from-outside"


def test_an_empty_variable_is_none(write: Write) -> None:
    secret = load_service(write(SASL), {"LIQ_SASL_PASSWORD": ""}).kafka.sasl_password
    assert secret is not None
    assert secret.get_secret_value() == PASSWORD


def test_the_password_of_a_key_comes_from_file_or_environment(write: Write) -> None:
    from_file = load_service(write(MUTUAL + 'key_password_file = "password"'), {}).kafka.key_password
    outside = load_service(write(MUTUAL), {"LIQ_KEY_PASSWORD": "from-outside"}).kafka.key_password
    assert from_file is not None
    assert outside is not None
    assert (from_file.get_secret_value(), outside.get_secret_value()) == (PASSWORD, "from-outside")


def test_a_secret_that_the_protocol_has_no_use_for_is_not_kept(write: Write) -> None:
    config = load_service(write(""), {"LIQ_SASL_PASSWORD": PASSWORD, "LIQ_KEY_PASSWORD": PASSWORD})
    assert (config.kafka.sasl_password, config.kafka.key_password) == (None, None)


BAD_SECRETS = {
    "empty": b"",
    "an empty line": b"\n",
    "two lines": b"correct-horse\nbattery\n",
    "not UTF-8": b"correct-horse\xff",
    "with a zero byte": b"correct-horse\0",
    "without end": b"correct-horse" * 1000,
}


@pytest.mark.parametrize("content", BAD_SECRETS.values(), ids=BAD_SECRETS)
def test_a_file_that_holds_no_password_is_refused_without_showing_what_it_holds(
    write: Write, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "password").write_bytes(content)
    error = refused(write(SASL))
    assert str(error) == f"service.toml: kafka.sasl_password_file: {tmp_path / 'password'}: must be one line of text"
    assert_hidden("correct-horse", error)


@pytest.mark.parametrize("content", ["correct-horse\n", "correct-horse\udcff", "correct-horse" * 1000])
def test_a_variable_that_holds_no_password_is_refused_without_showing_what_it_holds(write: Write, content: str) -> None:
    error = refused(write(SASL), {"LIQ_SASL_PASSWORD": content})
    assert str(error) == "service.toml: LIQ_SASL_PASSWORD: must be one line of text"
    assert_hidden("correct-horse", error)


def test_a_password_file_that_cannot_be_read_is_told_once_with_its_path(write: Write, tmp_path: Path) -> None:
    (tmp_path / "password").unlink()
    assert errors_of(write(SASL)) == [
        f"service.toml: kafka.sasl_password_file: {tmp_path / 'password'}: cannot be read: No such file or directory"
    ]
    (tmp_path / "password").mkdir()
    assert errors_of(write(SASL))[0].endswith(": cannot be read: Is a directory")
    far = "/".join(["folder"] * 40)
    (error,) = errors_of(write(SASL.replace('"password"', f'"{far}/password"')))
    assert error.endswith(f"{tmp_path / far / 'password'}: cannot be read: No such file or directory")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f'sasl_password = "{PASSWORD}"', "kafka.sasl_password: a secret has no place in this file: name its file as "),
        (f'key_password = "{PASSWORD}"', "kafka.key_password: a secret has no place in this file: name its file as "),
        (f'sasl_pasword = "{PASSWORD}"', "kafka.sasl_pasword: unknown key; known are "),
        (
            f'bootstrap_servers = ["liq:{PASSWORD}@kafka:9092"]',
            "kafka.bootstrap_servers: ...@kafka:9092']: must be a string",
        ),
        (
            f'bootstrap_servers = "liq:{PASSWORD}{"x" * 99}@kafka:9092"',
            "kafka.bootstrap_servers: ...@kafka:9092: must be host:port",
        ),
        (
            f'bootstrap_servers = "liq:{PASSWORD}@kafka:9092"',
            "kafka.bootstrap_servers: ...@kafka:9092: must be host:port",
        ),
    ],
)
def test_a_password_written_into_the_file_is_refused_and_not_shown(write: Write, line: str, told: str) -> None:
    error = refused(write(kafka(line)))
    assert str(error).startswith(f"service.toml: {told}")
    assert "\n" not in str(error)
    assert_hidden(PASSWORD, error)


def test_errors_beside_a_password_do_not_show_it(write: Write) -> None:
    text = SASL.replace("[kafka]", "[kafka]\nretry_backoff_ms = 0\nmin_insync_replicas = 2\nport = 1")
    for env in ({}, {"LIQ_SASL_PASSWORD": PASSWORD}):
        error = refused(write(text), env)
        assert len(str(error).split("\n")) == 3
        assert_hidden(PASSWORD, error)


def test_a_loaded_configuration_never_shows_its_secrets(write: Write) -> None:
    config = load_service(write(SASL), {"LIQ_KEY_PASSWORD": "key-" + PASSWORD})
    shown = [repr(config), str(config), repr(config.kafka), f"{config.kafka.sasl_password}", config.model_dump_json()]
    shown += [str(config.model_dump()), json.dumps(service_document(config)), describe_service(config)]
    shown += [*service_warnings(config), str(dict(config.kafka)), str(values_of(config))]
    assert not [text for text in shown if PASSWORD in text]
    # And yet they are there.
    assert [
        secret and secret.get_secret_value() for secret in (config.kafka.sasl_password, config.kafka.key_password)
    ] == [
        PASSWORD,
        "key-" + PASSWORD,
    ]


def test_a_model_built_by_hand_does_not_show_what_it_refuses() -> None:
    for wrong in ({"sasl_pasword": PASSWORD}, {"sasl_password": PASSWORD, "retry_backoff_ms": 0}):
        with pytest.raises(ValidationError) as caught:
            KafkaConfig.model_validate(wrong)
        assert PASSWORD not in str(caught.value) + repr(caught.value)


def assert_hidden(secret: str, error: BaseException) -> None:
    """Fail where an error, or any that led to it, shows a secret to whoever prints it."""
    seen: BaseException | None = error
    while seen is not None:
        parts = [str(seen), repr(seen), *map(repr, seen.args), "".join(traceback.format_exception(seen))]
        assert not [part for part in parts if secret in part]
        seen = seen.__cause__ or seen.__context__


# --- models


def test_a_model_built_by_hand_keeps_the_relations_too() -> None:
    with pytest.raises(ValidationError, match=r"deadlines\.commit_s: must not be above kafka\.transaction_timeout_ms"):
        ServiceConfig(deadlines=DeadlineConfig(commit_s=11))


def test_a_configuration_cannot_be_changed() -> None:
    config = ServiceConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.shards = 2
    with pytest.raises(ValidationError, match="frozen"):
        config.batch.records_max = 2


# --- warnings


LOCKED = '[admin]\ntoken_file = "password"\n'
EXPOSED = [
    ("engine.key", MUTUAL, "kafka.key_file"),
    ("password", SASL, "kafka.sasl_password_file"),
    ("password", LOCKED, "admin.token_file"),
]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o444])
@pytest.mark.parametrize(("file", "text", "key"), EXPOSED)
def test_a_secret_that_others_can_read_is_warned_about(
    write: Write, tmp_path: Path, file: str, text: str, key: str, mode: int
) -> None:
    (tmp_path / file).chmod(mode)
    (warning,) = service_warnings(load_service(write(text), {}))
    assert warning.startswith(f"{key}: {tmp_path / file} has mode {mode:04o}: others than its owner can read")


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
@pytest.mark.parametrize(("file", "text", "key"), EXPOSED)
def test_a_secret_of_its_owner_alone_is_not(
    write: Write, tmp_path: Path, file: str, text: str, key: str, mode: int
) -> None:
    (tmp_path / file).chmod(mode)
    assert service_warnings(load_service(write(text), {})) == []


FAR = 'bootstrap_servers = "127.0.0.1:9092,kafka-2:9092"\n'
COPIES = "replication_factor = 3\nmin_insync_replicas = 2\n"
WARNED = {
    "nothing hidden on the way": (kafka(FAR + COPIES), "kafka.security_protocol = PLAINTEXT: whoever is on the way"),
    "a single copy": (
        kafka(FAR + 'security_protocol = "SSL"'),
        "kafka.replication_factor = 1: one lost disk takes the journal with it",
    ),
    "a token in the clear": (
        LOCKED + 'host = "0.0.0.0"',
        "admin.host = 0.0.0.0: HTTP shows the token to whoever is on the way",
    ),
    "acknowledged by one": (kafka("replication_factor = 3"), "kafka.min_insync_replicas = 1: a record counts as"),
}


@pytest.mark.parametrize(("text", "warning"), WARNED.values(), ids=WARNED)
def test_what_is_probably_not_meant_is_warned_about_once(write: Write, text: str, warning: str) -> None:
    (found,) = service_warnings(load_service(write(text), {}))
    assert found.startswith(warning)


@pytest.mark.parametrize("address", ["localhost:9092", "127.0.0.1:9092", "127.0.1.1:1", "[::1]:9092"])
def test_a_broker_of_this_machine_needs_no_protection(write: Write, address: str) -> None:
    assert service_warnings(load_service(write(kafka(f'bootstrap_servers = "{address}"')), {})) == []


@pytest.mark.parametrize("address", ["localhost.example:9092", "127.example:1", "128.0.0.1:9092"])
def test_a_broker_that_only_sounds_like_this_machine_does(write: Write, address: str) -> None:
    assert len(service_warnings(load_service(write(kafka(f'bootstrap_servers = "{address}"')), {}))) == 2


# --- views


def test_json_view_holds_every_key_and_no_more_than_that_there_is_a_password(write: Write) -> None:
    view = service_document(load_service(write(SASL), {}))
    assert json.loads(json.dumps(view)) == view
    assert {table: [*view[table]] for table in KEYS} == {
        table: [*SUBTABLES[table].model_fields] if table in SUBTABLES else [*keys] for table, keys in KEYS.items()
    }
    assert (view["ok"], view["warnings"]) == (True, [])
    assert (view["kafka"]["sasl_password"], view["kafka"]["key_password"]) == ("set", None)
    assert view["admin"]["token"] is None
    assert view["service"]["risk"].endswith("risk.toml")


def test_text_view_has_a_line_for_each_key_and_warning(write: Write, tmp_path: Path) -> None:
    (tmp_path / "password").chmod(0o644)
    lines = describe_service(load_service(write(SASL), {})).split("\n")
    assert [line for line in lines if line and not line.startswith(" ")] == [*KEYS, "warnings: 1"]
    assert len([line for line in lines if line.startswith("  ")]) == sum(map(len, KEYS.values())) + len(SECRETS) + 1
    assert any(line.split() == ["sasl_password", "set"] for line in lines)
    assert any(line.split() == ["key_file", "-"] for line in lines)


# --- the shipped file


def test_the_shipped_file_is_the_defaults_and_has_no_warning() -> None:
    config = load_service(SHIPPED, {})
    assert values_of(config) == values_of(ServiceConfig()) | {
        "service.risk": SHIPPED.with_name("risk.toml"),
        "snapshots.folder": SHIPPED.with_name("snapshots"),
    }
    assert service_warnings(config) == []


def test_the_shipped_file_states_every_key_in_the_order_of_the_models() -> None:
    tables = tomllib.loads(SHIPPED.read_text())
    assert {table: [*fields] for table, fields in tables.items()} == KEYS


def test_the_copy_packed_into_a_wheel_goes_before_a_folder_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_file, "__file__", str(tmp_path / "engine" / "edges" / "service_file.py"))
    assert default_service_path() == tmp_path / "config" / "service.toml"
    packed = tmp_path / "engine" / "_config" / "service.toml"
    packed.parent.mkdir(parents=True)
    packed.write_text("")
    assert default_service_path() == packed
