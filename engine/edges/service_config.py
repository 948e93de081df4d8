"""What a service is told: the tables of ``service.toml``, what each value may be, and what must hold between them.

How a file and the environment become a ``ServiceConfig``, and every error in them a line, is the business of
``service_file.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from engine.core.ladders import BETA_MAX_PPM, SurveyOptions
from engine.core.params import scaled
from engine.errors import ParamError
from engine.units import PPM_DECIMALS

# In names of topics and in transactional ids. A topic's name has at most 249 characters, our longest 18.
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
# Of one run in an order record: the longest topic name and four numbers. At worst every input is a run of its own.
RUN_BYTES_MAX = 64
BETA = scaled(PPM_DECIMALS, -BETA_MAX_PPM, BETA_MAX_PPM)
SASL = ("SASL_PLAINTEXT", "SASL_SSL")
TLS = ("SSL", "SASL_SSL")
SASL_KEYS = ("sasl_mechanism", "sasl_username", "sasl_password_file")
TLS_KEYS = ("ca_file", "certificate_file", "key_file", "key_password_file")


def to_path(value: object, info: ValidationInfo) -> object:
    """Return text, or the path that a default is, relative to the folder of the file."""
    if not isinstance(value, str | Path):
        return value
    if not value or "\0" in str(value):
        raise ValueError("must be a path")
    folder: Path = (info.context or {}).get("folder", Path())
    return folder / value


def to_optional_path(value: object, info: ValidationInfo) -> object:
    """Return text as a path, None where it is empty."""
    return None if value == "" else to_path(value, info)


def to_optional(value: object) -> object:
    """Return None for the empty text, which stands for it in the file."""
    return None if value == "" else value


def to_beta(value: object) -> int:
    """Return a beta in ppm of a decimal string, an integer or a float as it is written."""
    try:
        ppm: int = BETA("beta", value)
    except ParamError as error:
        raise ValueError(error.rule) from error
    return ppm


FilePath = Annotated[Path, BeforeValidator(to_path)]
OptionalPath = Annotated[Path | None, BeforeValidator(to_optional_path)]
OptionalText = Annotated[str | None, BeforeValidator(to_optional)]
Beta = Annotated[int, BeforeValidator(to_beta)]
Mechanism = Annotated[Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] | None, BeforeValidator(to_optional)]


def is_address(text: str) -> bool:
    """Return whether text is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine alone."""
    return host == "localhost" or (is_address(host) and ip_address(host).is_loopback)


class Table(BaseModel):
    """A table: values of the type the file gives them, nothing unknown, nothing changed later."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, hide_input_in_errors=True
    )


class KafkaConfig(Table):
    """Where the broker is, how it lets us in, and how many partitions and copies its topics have."""

    bootstrap_servers: str = "127.0.0.1:9092"
    topic_prefix: str = ""
    # Every shard reads all of them, and each adds latency (at the median 0.8 ms with 16, 1.3 ms with 128).
    mark_partitions: int = Field(default=1, ge=1, le=16)
    replication_factor: int = Field(default=1, ge=1, le=32)
    min_insync_replicas: int = Field(default=1, ge=1, le=32)
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ca_file: OptionalPath = None
    certificate_file: OptionalPath = None
    key_file: OptionalPath = None
    key_password_file: OptionalPath = None
    key_password: SecretStr | None = None
    sasl_mechanism: Mechanism = None
    sasl_username: OptionalText = None
    sasl_password_file: OptionalPath = None
    sasl_password: SecretStr | None = None
    request_timeout_ms: int = Field(default=10_000, ge=100, le=600_000)
    retry_backoff_ms: int = Field(default=5, ge=1, le=1_000)
    # Brokers refuse more than 15 minutes (transaction.max.timeout.ms).
    transaction_timeout_ms: int = Field(default=10_000, ge=1_000, le=900_000)
    # Not below what an input may have.
    message_bytes_max: int = Field(default=1_048_576, ge=1_048_576, le=104_857_600)

    @field_validator("bootstrap_servers")
    @classmethod
    def check_bootstrap(cls, text: str) -> str:
        """Return the addresses without blanks between them."""
        addresses = [address.strip() for address in text.split(",")]
        for address in addresses:
            found = ADDRESS.fullmatch(address)
            if found is None or not 1 <= int(found[1]) <= 65_535:
                raise ValueError("must be host:port, or several of them with commas between")
        return ",".join(addresses)

    @field_validator("topic_prefix")
    @classmethod
    def check_prefix(cls, text: str) -> str:
        """Return a prefix with which names are still names to Kafka."""
        if text and not NAME.fullmatch(text):
            raise ValueError("at most 64 letters, digits, dots, underscores and hyphens")
        return text


class BatchConfig(Table):
    """When a batch is closed, and how much may wait for the next one."""

    records_max: int = Field(default=4_000, ge=1, le=100_000)
    interval_ms: int = Field(default=20, ge=1, le=1_000)
    pending_max: int = Field(default=20_000, ge=1, le=10_000_000)


class SnapshotConfig(Table):
    """Where snapshots go, how often they are taken, how many are kept."""

    folder: FilePath = Path("snapshots")
    every_s: int = Field(default=300, ge=1, le=86_400)
    keep: int = Field(default=3, ge=1, le=1_000)
    publish: bool = True


class DeadlineConfig(Table):
    """After how long without an answer a shard stops and says so."""

    start_s: int = Field(default=60, ge=1, le=86_400)
    commit_s: int = Field(default=10, ge=1, le=900)
    progress_s: int = Field(default=30, ge=1, le=3_600)
    drain_s: int = Field(default=5, ge=1, le=600)


class AdminConfig(Table):
    """Where the admin server listens, and the token that it asks for (``engine/shell/admin``)."""

    host: str = "127.0.0.1"
    # 0: any that is free.
    port: int = Field(default=9464, ge=0, le=65_535)
    token_file: OptionalPath = None
    token: SecretStr | None = None
    # How much of the event loop's time requests of the API may take; beyond it they are turned away.
    loop_percent: int = Field(default=10, ge=1, le=100)

    @field_validator("host")
    @classmethod
    def check_host(cls, text: str) -> str:
        """Return an address of this machine."""
        if text != "localhost" and not is_address(text):
            raise ValueError('must be an IP address of this machine or "localhost"')
        return text


class SurveyConfig(Table):
    """What the survey takes the common factor for: how far prices move when it does, 1 and 0 where nothing is said."""

    betas: dict[str, Beta] = {}
    asset_betas: dict[str, Beta] = {}

    def options(self) -> SurveyOptions:
        """Return what the survey is told."""
        return SurveyOptions(betas_ppm=self.betas, asset_betas_ppm=self.asset_betas)


class ServiceConfig(Table):
    """All that the service is told; the keys of ``[service]`` stand beside the other tables."""

    cluster: str = "dev"
    shards: int = Field(default=1, ge=1, le=1_000)
    risk: FilePath = Path("risk.toml")
    book: OptionalPath = None
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    heartbeat_ms: int = Field(default=500, ge=10, le=60_000)
    kafka: KafkaConfig = KafkaConfig()
    batch: BatchConfig = BatchConfig()
    snapshots: SnapshotConfig = SnapshotConfig()
    deadlines: DeadlineConfig = DeadlineConfig()
    admin: AdminConfig = AdminConfig()
    survey: SurveyConfig = SurveyConfig()

    @field_validator("cluster")
    @classmethod
    def check_cluster(cls, text: str) -> str:
        """Return a name that a transactional id can be made of."""
        if not NAME.fullmatch(text):
            raise ValueError("1 to 64 letters, digits, dots, underscores and hyphens")
        return text

    @model_validator(mode="after")
    def check_relations(self) -> ServiceConfig:
        """Return itself, where no relation is broken."""
        broken = [f"{place}: {rule}" for place, rule in broken_relations(values_of(self), set())]
        if broken:
            raise ValueError("; ".join(broken))
        return self


class Secret(NamedTuple):
    """A secret: its table, its key, the key that names its file, its variable, the protocols it is for (none: any)."""

    table: str
    key: str
    file_key: str
    variable: str
    protocols: tuple[str, ...]


SECRETS = (
    Secret("kafka", "sasl_password", "sasl_password_file", "LIQ_SASL_PASSWORD", SASL),
    Secret("kafka", "key_password", "key_password_file", "LIQ_KEY_PASSWORD", TLS),
    Secret("admin", "token", "token_file", "LIQ_ADMIN_TOKEN", ()),
)
SECRET_OF = {secret.key: secret for secret in SECRETS}
SUBTABLES: dict[str, type[Table]] = {
    "kafka": KafkaConfig,
    "batch": BatchConfig,
    "snapshots": SnapshotConfig,
    "deadlines": DeadlineConfig,
    "admin": AdminConfig,
    "survey": SurveyConfig,
}
# table -> the keys its file may hold
KEYS = {"service": [key for key in ServiceConfig.model_fields if key not in SUBTABLES]} | {
    name: [key for key in table.model_fields if key not in SECRET_OF] for name, table in SUBTABLES.items()
}


def values_of(config: ServiceConfig) -> dict[str, Any]:
    """Return all values by ``table.key``."""
    values = {f"service.{key}": getattr(config, key) for key in KEYS["service"]}
    for name in SUBTABLES:
        values |= {f"{name}.{key}": value for key, value in getattr(config, name)}
    return values


def broken_relations(values: Mapping[str, Any], wrong: set[str]) -> Iterator[tuple[str, str]]:
    """Yield key and rule of each broken relation that no wrong value takes part in."""
    for places, holds, rule in relations(values):
        if not holds and wrong.isdisjoint(places):
            yield places[0], rule


def relations(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], bool, str]]:
    """Yield what must hold between values: the keys it is about, first the one to change; if it holds; the rule."""
    progress_s, commit_s = values["deadlines.progress_s"], values["deadlines.commit_s"]
    timeout_ms, copies = values["kafka.transaction_timeout_ms"], values["kafka.replication_factor"]
    yield (
        ("service.heartbeat_ms", "deadlines.progress_s"),
        values["service.heartbeat_ms"] < progress_s * 1000,
        f"must be below deadlines.progress_s ({progress_s} s): else a shard at rest looks like one that hangs",
    )
    yield (
        ("kafka.min_insync_replicas", "kafka.replication_factor"),
        values["kafka.min_insync_replicas"] <= copies,
        f"must not be above replication_factor ({copies}): no write would be acknowledged",
    )
    yield from security_relations(values)
    yield (
        ("admin.token_file", "admin.host", "admin.token"),
        values["admin.token"] is not None or is_loopback(values["admin.host"]),
        f"required with host {values['admin.host']}, unless LIQ_ADMIN_TOKEN is set: whoever reaches it reads accounts",
    )
    yield (
        ("batch.records_max", "kafka.message_bytes_max"),
        values["batch.records_max"] * RUN_BYTES_MAX <= values["kafka.message_bytes_max"],
        f"an order record of so many runs of {RUN_BYTES_MAX} bytes may not fit message_bytes_max",
    )
    yield (
        ("batch.pending_max", "batch.records_max"),
        values["batch.pending_max"] >= values["batch.records_max"],
        f"must not be below records_max ({values['batch.records_max']}): no batch could be filled",
    )
    yield (
        ("deadlines.commit_s", "kafka.transaction_timeout_ms"),
        commit_s * 1000 <= timeout_ms,
        f"must not be above kafka.transaction_timeout_ms ({timeout_ms} ms): by then the broker has aborted it",
    )
    yield (
        ("deadlines.progress_s", "deadlines.commit_s"),
        progress_s > commit_s,
        f"must be above commit_s ({commit_s} s): else a commit that may still succeed counts as no progress",
    )


def security_relations(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], bool, str]]:
    """Yield what must hold between the security protocol and what it needs or has no use for."""
    protocol = values["kafka.security_protocol"]
    about = {key: (f"kafka.{key}", "kafka.security_protocol") for key in (*TLS_KEYS, *SASL_KEYS)}
    given = {key: values[f"kafka.{key}"] is not None for key in (*TLS_KEYS, *SASL_KEYS)}
    # Whoever names a certificate or a password believes that it protects something: one without a use is refused.
    for key in TLS_KEYS:
        yield about[key], not given[key] or protocol in TLS, f"not used with {protocol}, but with SSL and SASL_SSL"
    for key in SASL_KEYS:
        yield about[key], not given[key] or protocol in SASL, f"not used with {protocol}, but with SASL_SSL"
    for key in ("sasl_mechanism", "sasl_username"):
        yield about[key], given[key] or protocol not in SASL, f"required with {protocol}"
    yield (
        (*about["sasl_password_file"], "kafka.sasl_password"),
        values["kafka.sasl_password"] is not None or protocol not in SASL,
        f"required with {protocol}, unless LIQ_SASL_PASSWORD is set",
    )
    for key, partner in (("certificate_file", "key_file"), ("key_file", "certificate_file")):
        yield (f"kafka.{key}", f"kafka.{partner}"), not given[key] or given[partner], f"needs {partner} as well"
    is_opened = not given["key_password_file"] or given["key_file"]
    yield ("kafka.key_password_file", "kafka.key_file"), is_opened, "needs key_file, the key it opens"
