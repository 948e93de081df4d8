"""The service on a Kafka that asks who is there: by password or certificate, with its rights only, its secrets kept."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.conn import ScramAuthenticator
from aiokafka.errors import MessageSizeTooLargeError, TopicAuthorizationFailedError

from engine.edges.codec import LINE_BYTES_MAX
from engine.edges.topics import RECORD_OVERHEAD_BYTES_MAX
from engine.edges.warmup import warm_up
from engine.shell.kafka import Place
from engine.shell.topics import create
from tests.brokers.clients import DEADLINE_S, producer, read_all, until
from tests.brokers.real import OVERRIDE
from tests.brokers.secure import (
    ASTRAY,
    ELSEWHERE,
    EXPIRED,
    MUTUAL,
    PASSWORD,
    PROTOCOLS,
    USERS,
    Authority,
    Pair,
    SecureNode,
    encrypted,
    secure_node,
)
from tests.service_cases import (
    Body,
    Clock,
    Deployment,
    Process,
    deposit,
    in_thread,
    longs,
    mark,
    names_on,
    outcome,
    record_of,
    running,
)

# The client does not wait until a connection that came to nothing is closed, and TLS takes a moment for that.
pytestmark = [
    pytest.mark.broker,
    pytest.mark.filterwarnings("ignore:unclosed (transport|<socket):ResourceWarning"),
    pytest.mark.filterwarnings("ignore:loop is closed:ResourceWarning"),
]

CLUSTER = "eu1"
SHARDS = 2
ENGINE = "liq-engine"
WRITERS = {"mark-prices": "liq-market-data", "fills": "liq-ledger", "transfers": "liq-ledger"}
KEY_PASSWORD = "Zr7=key pass$word%"
WRONG = "Zr7=another pass$word%"
SECRETS = (*USERS.values(), KEY_PASSWORD, WRONG)
Keys = dict[str, Any]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureNode]:
    """Yield a node on which an administrator has made the topics and given every role its rights."""
    # A process that had to compile them first would be late for its test.
    warm_up()
    with secure_node(tmp_path_factory.mktemp("secure")) as found:
        office = Deployment(tmp_path_factory.mktemp("office"), found.broker.bootstrap, name=CLUSTER, shards=SHARDS)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(create, office.write().config).result() == []
        found.apply_acls(CLUSTER=CLUSTER, TOPIC_PREFIX=f"{CLUSTER}.")
        yield found
    # Here and now, where the warnings above are not errors.
    gc.collect()


@pytest.fixture(scope="module")
def certificate(node: SecureNode) -> Pair:
    """Return the engine's certificate, and its key, which a password opens."""
    pair = node.authority.issue("engine", ENGINE)
    return Pair(pair.certificate, encrypted(pair.key, KEY_PASSWORD))


@pytest.fixture
def venue(node: SecureNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """Return the cluster as one of its processes has it; the address in it is the administrator's, for the test."""
    for name in (OVERRIDE, "LIQ_SASL_PASSWORD", "LIQ_KEY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    for file, secret in {**USERS, "key-password": KEY_PASSWORD, "wrong": WRONG}.items():
        (tmp_path / file).write_text(f"{secret}\n")
        (tmp_path / file).chmod(0o600)
    (tmp_path / "junk.pem").write_text("no certificate\n")
    return Deployment(tmp_path, node.broker.bootstrap, name=CLUSTER, shards=SHARDS)


def way_in(node: SecureNode, listener: str, **keys: Any) -> Keys:
    """Return the keys of ``[kafka]`` that all who come by a listener share; ``keys`` go before them."""
    return {
        "bootstrap_servers": node.address(listener),
        "security_protocol": PROTOCOLS[listener],
        "ca_file": str(node.authority.certificate),
        **keys,
    }


def by_password(node: SecureNode, user: str = ENGINE, listener: str = PASSWORD, **keys: Any) -> Keys:
    """Return the keys of ``[kafka]`` for a user, whose password is in a file of its name."""
    login = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": user, "sasl_password_file": user}
    return way_in(node, listener, **login | keys)


def by_certificate(node: SecureNode, pair: Pair, **keys: Any) -> Keys:
    """Return the keys of ``[kafka]`` for whom a certificate names."""
    files = {"certificate_file": str(pair.certificate), "key_file": str(pair.key)}
    return way_in(node, MUTUAL, **files | keys)


@asynccontextmanager
async def writer(node: SecureNode, user: str, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    """Yield a producer of a user."""
    async with producer(
        node.address(PASSWORD),
        security_protocol="SASL_SSL",
        ssl_context=ssl.create_default_context(cafile=node.authority.certificate),
        sasl_mechanism="SCRAM-SHA-512",
        sasl_plain_username=user,
        sasl_plain_password=USERS[user],
        max_request_size=4 << 20,
        **options,
    ) as client:
        yield client


async def send_by_role(node: SecureNode, venue: Deployment, shard: int, *messages: Body) -> None:
    """Produce messages, each by whoever has the right to; the next one once the shard has committed the one before."""
    async with writer(node, "liq-market-data") as prices, writer(node, "liq-ledger") as ledger:
        clients = {"liq-market-data": prices, "liq-ledger": ledger}
        for record in map(record_of, messages):
            partition = 0 if record.topic == "mark-prices" else shard
            client = clients[WRITERS[record.topic]]
            sent = await client.send_and_wait(
                venue.topic(record.topic), record.value, key=record.key, partition=partition
            )
            await until(partial(has_taken, venue, shard, Place(record.topic, partition), sent.offset))


async def has_taken(venue: Deployment, shard: int, place: Place, offset: int) -> bool:
    """Return whether a shard has committed what stands at an offset."""
    runs = [run for entry in (await venue.journal(shard))[1:] for run in entry["runs"]]
    return any(Place(topic, number) == place and last >= offset for topic, number, _, last, _ in runs)


def assert_hidden(*texts: str) -> None:
    """Fail where a text holds a secret, as it is or as base64."""
    for secret in SECRETS:
        for form in (secret, repr(secret)[1:-1], base64.b64encode(secret.encode()).decode()):
            assert not [text for text in texts if form in text], f"the secret {secret!r} shows"
    assert not [text for text in texts if "PRIVATE KEY" in text]


# --- let in, with the rights of the role


async def live_through_a_liquidation(node: SecureNode, venue: Deployment, shard: int) -> str:
    """Run one shard in a process of its own, from nothing to a liquidation, a snapshot and SIGTERM; return its log.

    Fills and transfers come from the ledger, prices from market data; an auditor then folds it all again. What any of
    them is denied fails the test.
    """
    since = node.log_size()
    who, maker = names_on(shard, SHARDS, 2)
    tell = Clock()
    # Prices are for both shards: the ids and times of the second begin where those of the first have ended.
    tell.count = 1000 * shard
    messages = [tell({**body, "account": maker} if body.get("account") == "maker" else body) for body in longs(who)]
    with Process(venue, "run", "--shards", str(shard)) as service:
        await service.wait_for(" live")
        assert_hidden(arguments_of(service))
        await send_by_role(node, venue, shard, *messages, tell(mark("95.9")))

        async def has_published() -> bool:
            return bool(await read_all(node.broker.bootstrap, venue.topic("snapshots"), partitions=[shard]))

        await until(has_published)
        service.process.terminate()
        assert service.wait() == 0, service.text
    outputs = await venue.check_exact(shard)
    # 50 - 10 x 4.10 = 9.00 of equity against 1 % of 959: 9.59.
    (started,) = [body for body in outputs["margin-events"] if body["type"] == "liquidation_started"]
    assert (started["account"], started["equity"], started["maintenance_margin"]) == (who, "9", "9.59")
    folder = venue.folder / "auditor"
    folder.mkdir()
    (folder / "liq-auditor").write_text(USERS["liq-auditor"])
    auditor = replace(venue, folder=folder).write(kafka=by_password(node, "liq-auditor"))
    found = await auditor.check_audit("--shards", str(shard))
    assert (found["outputs"], found["difference"]) == (sum(map(len, outputs.values())), None)
    assert node.denied(since) == set()
    return service.text


def arguments_of(service: Process) -> str:
    """Return the command line of a process, as ``ps`` shows it to every user of the machine."""
    text = Path(f"/proc/{service.process.pid}/cmdline").read_text()
    assert "service.toml" in text
    return text


async def test_by_password_a_shard_lives_with_the_rights_of_its_role(node: SecureNode, venue: Deployment) -> None:
    venue.write(kafka=by_password(node), snapshots={"every_s": 1})
    assert_hidden(await live_through_a_liquidation(node, venue, 0))


async def test_by_certificate_a_shard_lives_with_the_rights_of_its_role(
    node: SecureNode, venue: Deployment, certificate: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIQ_KEY_PASSWORD", KEY_PASSWORD)
    # The test reads the file itself now and then, without the environment of the process.
    keys = by_certificate(node, certificate, key_password_file="key-password")
    venue.write(kafka=keys, snapshots={"every_s": 1})
    assert_hidden(await live_through_a_liquidation(node, venue, 1))


@pytest.mark.parametrize(
    ("user", "topics"),
    [
        (ENGINE, ["mark-prices", "control", "fills", "transfers"]),
        ("liq-ledger", ["mark-prices", "control", "journal", "liquidation-orders"]),
        ("liq-market-data", ["fills", "transfers", "control"]),
        ("liq-auditor", ["journal", "snapshots", "dead-letters"]),
    ],
)
async def test_nobody_writes_what_is_not_theirs_to_write(
    node: SecureNode, venue: Deployment, user: str, topics: list[str]
) -> None:
    """Not even a broken shard can make up a fill, nor the ledger a price. And what is denied is seen to be."""
    since = node.log_size()
    # Who writes nothing at all would be refused the id of an idempotent producer already.
    async with writer(node, user, enable_idempotence=False) as client:
        for topic in topics:
            with pytest.raises(TopicAuthorizationFailedError):
                await client.send_and_wait(venue.topic(topic), b"{}", partition=0)
    # Who may not even see a topic is refused that already.
    denied = {(who, on) for who, _, on in node.denied(since)}
    assert denied == {(user, f"Topic:LITERAL:{venue.topic(topic)}") for topic in topics}


async def test_what_is_too_long_becomes_a_dead_letter_unread_and_the_shard_lives_on(
    node: SecureNode, venue: Deployment
) -> None:
    """One byte above 1 MiB, and no JSON either: had it been parsed, the reason would be another one."""
    venue.write(kafka=by_password(node))
    who = names_on(0, SHARDS, 3)[-1]
    topic = venue.topic("transfers")
    tell = Clock()
    tell.count = 5000
    async with running(venue, 0), writer(node, "liq-ledger") as ledger:
        with pytest.raises(MessageSizeTooLargeError):
            await ledger.send_and_wait(topic, b"[" * (LINE_BYTES_MAX + RECORD_OVERHEAD_BYTES_MAX), partition=0)
        sent = await ledger.send_and_wait(topic, b"[" * (LINE_BYTES_MAX + 1), key=who.encode(), partition=0)
        last = record_of(tell({**deposit(who, "1"), "asset": "XYZ"}))
        await ledger.send_and_wait(topic, last.value, key=last.key, partition=0)

        async def both_refused() -> bool:
            found = [body for body in (await venue.outputs(0))["dead-letters"] if body["offset"] >= sent.offset]
            return [body["reason"] for body in found] == ["too_long", "unknown_asset"]

        await until(both_refused)
    letter = next(body for body in (await venue.outputs(0))["dead-letters"] if body["offset"] == sent.offset)
    assert (letter["topic"], letter["payload_bytes"]) == ("transfers", LINE_BYTES_MAX + 1)
    assert base64.b64decode(letter["payload_base64"]) == b"[" * 4096


# --- refused, with the reason


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return an authority that nobody here trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"), "Another CA")


# case -> keys of [kafka], and what the message says beside the address in them
REFUSED: dict[str, tuple[Callable[[SecureNode, Authority], Keys], list[str]]] = {
    "a wrong password": (
        lambda node, _: by_password(node, sasl_password_file="wrong"),
        ["SaslAuthenticationFailed", "kafka.sasl_password_file"],
    ),
    "a user nobody knows": (
        lambda node, _: by_password(node, sasl_username="nobody"),
        ["SaslAuthenticationFailed", "kafka.sasl_username"],
    ),
    "a mechanism the broker does not offer": (
        lambda node, _: by_password(node, sasl_mechanism="SCRAM-SHA-256"),
        ["kafka.sasl_mechanism"],
    ),
    "an authority the system does not know": (
        lambda node, _: by_password(node, ca_file=""),
        ["unable to get local issuer certificate", "kafka.ca_file"],
    ),
    "another authority": (
        lambda node, other: by_password(node, ca_file=str(other.certificate)),
        ["unable to get local issuer certificate", "kafka.ca_file"],
    ),
    "an authority whose day has passed": (
        lambda node, _: by_password(node, ca_file=str(node.authority.expired())),
        ["kafka.ca_file"],
    ),
    "a broker whose certificate's day has passed": (
        lambda node, _: by_password(node, listener=EXPIRED),
        ["certificate has expired"],
    ),
    "a broker of another name": (
        lambda node, _: by_password(node, bootstrap_servers=node.address(PASSWORD, ELSEWHERE)),
        ["not valid for '127.0.0.1'", "kafka.bootstrap_servers"],
    ),
    "no certificate where one is asked for": (
        lambda node, _: way_in(node, MUTUAL),
        ["CERTIFICATE", "kafka.certificate_file"],
    ),
    "a certificate of another authority": (
        lambda node, other: by_certificate(node, other.issue("engine", ENGINE)),
        ["CERTIFICATE", "kafka.certificate_file"],
    ),
    "a certificate whose day has passed": (
        lambda node, _: by_certificate(node, node.authority.issue("engine-past", ENGINE, days=-1)),
        ["CERTIFICATE", "kafka.certificate_file"],
    ),
    "a password where none is asked for": (
        lambda node, _: by_password(node, bootstrap_servers=node.broker.bootstrap),
        ["kafka.security_protocol"],
    ),
    "no password where one is asked for": (
        lambda node, _: way_in(node, PASSWORD, security_protocol="SSL"),
        ["kafka.security_protocol"],
    ),
    "no encryption where it is asked for": (
        lambda node, _: {"bootstrap_servers": node.address(PASSWORD)},
        ["kafka.security_protocol"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_who_is_not_let_in_ends_with_3_and_says_where_and_which_key(
    node: SecureNode, venue: Deployment, stranger: Authority, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    keys, said = REFUSED[case]
    kafka = keys(node, stranger)
    code, message = await outcome(venue.write(kafka=kafka), [0])
    assert code == 3
    assert [word for word in (kafka["bootstrap_servers"], *said) if word not in message] == [], message
    assert_hidden(message, caplog.text)


async def test_a_password_that_is_changed_while_a_shard_lives_ends_it_at_the_next_connection(
    node: SecureNode, venue: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    """The password was read once, at the start: to try it again for ever would help nobody, a new start does."""
    venue.write(kafka=by_password(node), batch={"interval_ms": 1}, deadlines={"commit_s": 1})
    async with running(venue, 0) as run:
        await in_thread(node.set_password, ENGINE, WRONG)
        try:
            for connection in [*run.worker().writer.producer.client._conns.values()]:
                connection.close()
            assert await asyncio.wait_for(run.task, DEADLINE_S) == 3
        finally:
            await in_thread(node.set_password, ENGINE, USERS[ENGINE])
    (reason,) = [line for line in caplog.text.splitlines() if "kafka.sasl_password_file" in line]
    assert "halted" in reason
    assert node.address(PASSWORD) in reason
    assert_hidden(caplog.text)


async def test_a_broker_that_sends_its_clients_on_to_a_wrong_name_is_told_by_that_name(
    node: SecureNode, venue: Deployment
) -> None:
    """The first connection is well; the one to the advertised address, which every further request takes, is not."""
    venue.write(kafka=by_password(node, listener=ASTRAY))
    code, message = await outcome(venue, [0])
    assert code == 3
    assert node.address(ASTRAY, ELSEWHERE) in message
    assert "not valid for '127.0.0.1'" in message
    assert "advertised.listeners" in message


async def test_a_broker_that_cannot_show_that_it_knows_the_password_is_not_believed(
    node: SecureNode, venue: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SCRAM has both sides prove it. An impostor with a certificate that passes still cannot."""
    check = ScramAuthenticator.process_server_final_message
    forged = "v=" + base64.b64encode(b"some other signature").decode()
    monkeypatch.setattr(ScramAuthenticator, "process_server_final_message", lambda self, _: check(self, forged))
    venue.write(kafka=by_password(node))
    code, message = await outcome(venue, [0])
    assert code == 3
    assert node.address(PASSWORD) in message
    assert "signature" in message


@pytest.mark.parametrize("user", ["stranger", "liq-ledger"])
async def test_who_lacks_the_rights_is_told_so_and_not_that_the_topics_are_missing(
    node: SecureNode, venue: Deployment, user: str
) -> None:
    venue.write(kafka=by_password(node, user))
    code, message = await outcome(venue, [0])
    assert code == 3
    assert venue.topic("journal") in message
    assert "deploy/kafka/acls.sh" in message
    assert "is missing" not in message


async def test_the_transactional_ids_of_another_cluster_are_out_of_reach(
    node: SecureNode, venue: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    """Under its name one shard could throw out another venue's."""
    venue.write(service={"cluster": "us1"}, kafka=by_password(node))
    assert (await outcome(venue, [0]))[0] == 3
    assert "TransactionalIdAuthorizationFailed" in caplog.text
    assert "liq-us1-0" in caplog.text


@pytest.mark.parametrize("case", ["a wrong password", "no certificate where one is asked for"])
async def test_the_process_says_it_in_its_last_line_and_ends(
    node: SecureNode, venue: Deployment, stranger: Authority, case: str
) -> None:
    keys, said = REFUSED[case]
    venue.write(kafka=keys(node, stranger))
    with Process(venue, "run") as service:
        assert service.wait() == 3
    last = service.text.splitlines()[-1]
    assert last.startswith("liq-engine run: ")
    assert [word for word in said if word not in last] == [], service.text
    assert "Traceback" not in service.text
    assert_hidden(service.text)


# --- keys, certificates and passwords in files


# case -> keys of [kafka] beside the engine's certificate and encrypted key, variables, exit code, what is said
KEY_CASES: dict[str, tuple[Keys, Keys, int, list[str]]] = {
    "password in a file": ({"key_password_file": "key-password"}, {}, 0, []),
    "password in the environment": ({}, {"LIQ_KEY_PASSWORD": KEY_PASSWORD}, 0, []),
    "the environment goes before the file": (
        {"key_password_file": "wrong"},
        {"LIQ_KEY_PASSWORD": KEY_PASSWORD},
        0,
        [],
    ),
    "no password": ({}, {}, 2, ["kafka.key_file", "engine.enc", "kafka.key_password_file", "LIQ_KEY_PASSWORD"]),
    "a wrong password": (
        {"key_password_file": "wrong"},
        {},
        2,
        ["kafka.key_file", "engine.enc", "kafka.key_password_file"],
    ),
    "longer than openssl takes": (
        {},
        {"LIQ_KEY_PASSWORD": WRONG * 60},
        2,
        ["kafka.key_file", "engine.enc", "LIQ_KEY_PASSWORD"],
    ),
    "no certificate": (
        {"certificate_file": "junk.pem", "key_password_file": "key-password"},
        {},
        2,
        ["kafka.certificate_file", "junk.pem"],
    ),
    "no authority": (
        {"ca_file": "junk.pem", "key_password_file": "key-password"},
        {},
        2,
        ["kafka.ca_file", "junk.pem"],
    ),
}


@pytest.mark.parametrize("case", KEY_CASES)
async def test_an_encrypted_key_is_opened_or_the_file_and_the_reason_are_named(
    node: SecureNode, venue: Deployment, certificate: Pair, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    keys, variables, expected, said = KEY_CASES[case]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    venue.write(kafka=by_certificate(node, certificate, **keys))
    code, out, err = await venue.verb("topics", "check")
    assert (code, [word for word in said if word not in err]) == (expected, []), err
    assert_hidden(out, err)


async def test_the_key_of_another_certificate_is_told_with_both_files(
    node: SecureNode, venue: Deployment, stranger: Authority, certificate: Pair
) -> None:
    other = stranger.issue("other", ENGINE)
    venue.write(kafka=by_certificate(node, Pair(certificate.certificate, other.key)))
    code, out, err = await venue.verb("topics", "check")
    assert code == 2
    assert "key values mismatch" in err
    assert [name for name in ("engine.pem", "other.key") if name not in err] == []
    assert_hidden(out, err)


# --- secrets


async def test_what_a_configuration_shows_of_itself_holds_no_secret(
    node: SecureNode, venue: Deployment, certificate: Pair
) -> None:
    files = {"certificate_file": str(certificate.certificate), "key_file": str(certificate.key)}
    venue.write(kafka=by_password(node, key_password_file="key-password", **files))
    config = venue.config
    assert config.kafka.sasl_password is not None
    assert config.kafka.key_password is not None
    _, text, _ = await venue.verb("check-config")
    _, document, _ = await venue.verb("check-config", "--json")
    shown = json.loads(document)["kafka"]
    assert (shown["sasl_username"], shown["sasl_password"], shown["key_password"]) == (ENGINE, "set", "set")
    assert_hidden(text, document, repr(config), str(config), config.model_dump_json())
    # And yet they are there.
    found = config.kafka.sasl_password.get_secret_value(), config.kafka.key_password.get_secret_value()
    assert found == (USERS[ENGINE], KEY_PASSWORD)


async def test_a_file_with_secrets_and_a_mistake_is_refused_without_them(node: SecureNode, venue: Deployment) -> None:
    venue.write(kafka=by_password(node, sasl_pasword=USERS[ENGINE], request_timeout_ms=1))
    code, out, err = await venue.verb("run")
    assert code == 2
    assert [name for name in ("kafka.sasl_pasword", "kafka.request_timeout_ms") if name not in err] == []
    assert_hidden(out, err)


def test_a_secret_that_shows_would_be_seen() -> None:
    with pytest.raises(AssertionError, match="shows"):
        assert_hidden(f"sasl_plain_password={USERS[ENGINE]!r}")
    with pytest.raises(AssertionError, match="shows"):
        assert_hidden(base64.b64encode(KEY_PASSWORD.encode()).decode())
