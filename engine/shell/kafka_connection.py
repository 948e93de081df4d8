"""How a client reaches the brokers and, where they do not let it in, why: options, deadlines, errors as ours.

A client of aiokafka tells no more than that it could not connect. Who has to act must know more, so one connection is
then opened to see: what went wrong, in the words of whoever noticed it, and the keys of the configuration to look at.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiokafka.producer.sender
from aiokafka.conn import create_conn
from aiokafka.errors import (
    IllegalOperation,
    InvalidProducerEpoch,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    ProducerFenced,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from engine.edges.service_config import KafkaConfig, ServiceConfig
from engine.edges.topics import RECORD_OVERHEAD_BYTES_MAX
from engine.errors import BrokerError, FencedError, InputError, RefusedError

# Between two transactions the coordinator finishes the first; the client asks again after this. Its own 20 ms is a
# third of our commit interval, and a coordinator on the same network is done in one or two.
aiokafka.producer.sender.BACKOFF_OVERRIDE = 0.002

FETCH_WAIT_MS = 500
# A consumer's back-off is also its pause between two attempts to connect. Only a transaction has reason to hurry.
CONSUMER_BACKOFF_MS = 100
FETCH_BYTES_MAX = 16 << 20
BATCH_BYTES = 256 << 10


@contextlib.asynccontextmanager
async def deadline(seconds: float, what: str) -> AsyncIterator[None]:
    """Run the body for at most ``seconds``; errors of the broker and time-outs are raised as ours, saying ``what``."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise BrokerError(f"{what}: no answer in {seconds:g} s") from error
    except (ProducerFenced, InvalidProducerEpoch) as error:
        raise FencedError(f"{what}: another instance has taken this shard over") from error
    except (OffsetOutOfRangeError, NoOffsetForPartitionError) as error:
        raise InputError(
            f"{what}: {error.args[0] if error.args else error}: the topic no longer holds records that are needed; "
            "restore them, or start from a snapshot that is newer than what was lost"
        ) from error
    except MessageSizeTooLargeError as error:
        raise InputError(
            f"{what}: {error}: raise kafka.message_bytes_max, and max.message.bytes of the topics"
        ) from error
    except (KafkaError, IllegalOperation, OSError, AssertionError) as error:
        # aiokafka asserts, or calls it illegal, where a producer that has failed is used again.
        raise BrokerError(f"{what}: {type(error).__name__}: {error}") from error


@contextlib.asynccontextmanager
async def connecting(config: ServiceConfig, what: str) -> AsyncIterator[None]:
    """Run a body that opens connections; where it finds no broker to talk to, the error says why and which key it is.

    The client itself tells no more than that it could not connect: so one connection is opened to see.
    """
    try:
        async with deadline(config.deadlines.start_s, what):
            yield
    except BrokerError as error:
        cause = (
            await try_cause(config) if isinstance(error.__cause__, KafkaConnectionError | NodeNotReadyError) else None
        )
        if cause is None:
            raise
        raise worded(what, *cause) from error
    except ValueError as error:
        # The client's word for a broker that cannot prove, as SCRAM wants it, that it knows the password.
        cause = await try_cause(config)
        raise (worded(what, *cause) if cause is not None else BrokerError(f"{what}: {error}")) from error


# What is said of a certificate -> whose it is: past its day, for other names, for other addresses. Else: an authority.
CERTIFICATE_KEYS = {
    10: "the broker's, or that of kafka.ca_file",
    62: "kafka.bootstrap_servers, or the broker's advertised.listeners",
    64: "kafka.bootstrap_servers, or the broker's advertised.listeners",
}


async def try_cause(config: ServiceConfig) -> tuple[str, BaseException] | None:
    """Return the address of a broker that does not let us in and what happened there; None if all do."""
    # Each broker names all others: a list that grows while it is walked, every address once.
    addresses = config.kafka.bootstrap_servers.split(",")
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            others = await brokers_at(config, host.strip("[]"), int(port))
        except (KafkaError, OSError, EOFError, TimeoutError, ValueError, AssertionError) as error:
            return address, error
        addresses += [other for other in others if other not in addresses]
    return None


def worded(what: str, address: str, cause: BaseException) -> BrokerError:
    """Return the error that says why a broker does not let us in; one that will not do so later is ``RefusedError``."""
    chain = [cause]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    text = f"{what}: {address}: {reason_of(chain)}"
    is_refused = any(isinstance(one, SaslAuthenticationFailed | UnsupportedSaslMechanismError) for one in chain)
    return RefusedError(text) if is_refused else BrokerError(text)


async def brokers_at(config: ServiceConfig, host: str, port: int) -> list[str]:
    """Return the addresses of all brokers, as the one at an address tells them."""
    options = {
        key: value for key, value in connection_options(config).items() if key.startswith(("sasl", "ssl", "security"))
    }
    connection = await create_conn(host, port, **options, request_timeout_ms=config.kafka.request_timeout_ms)
    try:
        metadata = await connection.send(MetadataRequest([]))
    finally:
        closed = connection.close()
        if closed is not None:
            await closed
    return [f"{broker[1]}:{broker[2]}" for broker in metadata.brokers]


def reason_of(chain: Sequence[BaseException]) -> str:
    """Return what went wrong, in the words of whoever noticed it, and the keys that have to do with it."""
    for one in chain:
        if isinstance(one, ssl.SSLCertVerificationError):
            return f"{one.verify_message}: {CERTIFICATE_KEYS.get(one.verify_code, 'kafka.ca_file')}"
        if isinstance(one, ssl.SSLError) and any(word in str(one.reason) for word in ("CERTIFICATE", "UNKNOWN_CA")):
            return f"{one.reason}: the broker asks for a certificate, and does not take kafka.certificate_file for one"
        if isinstance(one, SaslAuthenticationFailed):
            return f"{one}: kafka.sasl_username, kafka.sasl_password_file (or LIQ_SASL_PASSWORD)"
        if isinstance(one, UnsupportedSaslMechanismError):
            return "the broker does not offer kafka.sasl_mechanism"
        if isinstance(one, ConnectionRefusedError | socket.gaierror | TimeoutError):
            return f"{one or 'no answer'}: kafka.bootstrap_servers"
        if isinstance(one, ValueError):
            # SCRAM has the broker prove, too, that it knows the password.
            return f"{one} What answers there may not be the broker"
    return f"{chain[-1]!r}: kafka.security_protocol is not that of the listener?"


def connection_options(config: ServiceConfig) -> dict[str, Any]:
    """Return how to reach the cluster: addresses, encryption, credentials."""
    kafka = config.kafka
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "client_id": f"liq-engine-{config.cluster}",
        "security_protocol": kafka.security_protocol,
        "retry_backoff_ms": kafka.retry_backoff_ms,
        "metadata_max_age_ms": 60_000,
        "connections_max_idle_ms": 540_000,
    }
    if kafka.security_protocol in ("SSL", "SASL_SSL"):
        options["ssl_context"] = ssl_context(kafka)
    if kafka.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.sasl_username
        if kafka.sasl_password is not None:
            options["sasl_plain_password"] = kafka.sasl_password.get_secret_value()
    return options


def ssl_context(kafka: KafkaConfig) -> ssl.SSLContext:
    """Return the TLS context of the configuration; raises InputError where its files do not make one."""
    try:
        context = ssl.create_default_context(cafile=kafka.ca_file)
    except OSError as error:
        raise InputError(f"kafka.ca_file: {kafka.ca_file}: {error}") from None
    if kafka.certificate_file is not None:
        # Without a password of its own an encrypted key would have the terminal asked for one.
        password = kafka.key_password.get_secret_value() if kafka.key_password is not None else ""
        asked: list[bool] = []

        def tell() -> str:
            asked.append(True)
            return password

        try:
            context.load_cert_chain(kafka.certificate_file, kafka.key_file, tell)
        except (OSError, ValueError) as error:
            files = f"kafka.certificate_file: {kafka.certificate_file}; kafka.key_file: {kafka.key_file}"
            if asked:
                how = "does not open it" if password else "is not given"
                raise InputError(
                    f"{files}: the key is encrypted and its password (kafka.key_password_file, LIQ_KEY_PASSWORD) {how}"
                ) from None
            raise InputError(f"{files}: {error}") from None
    return context


def consumer_options(config: ServiceConfig, connection: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every consumer is told, beside how to reach the cluster."""
    return {
        **connection,
        "retry_backoff_ms": CONSUMER_BACKOFF_MS,
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "request_timeout_ms": config.kafka.request_timeout_ms,
        "fetch_max_wait_ms": FETCH_WAIT_MS,
        "fetch_min_bytes": 1,
        "fetch_max_bytes": FETCH_BYTES_MAX,
        "max_partition_fetch_bytes": FETCH_BYTES_MAX,
        "check_crcs": True,
    }


def producer_options(config: ServiceConfig, connection: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every producer is told, beside how to reach the cluster."""
    return {
        **connection,
        "acks": "all",
        "linger_ms": 0,
        "max_batch_size": BATCH_BYTES,
        "max_request_size": config.kafka.message_bytes_max + RECORD_OVERHEAD_BYTES_MAX,
        "request_timeout_ms": config.kafka.request_timeout_ms,
        "compression_type": None,
    }
