"""Which topics there are: one declaration, to create them by, to check them against at start, to show them from.

``liq-engine topics show`` prints it; ``deploy/kafka/acls.sh`` says who may do what with each: a test compares the two.

How long a topic is kept follows from what it is for. Marks, fills and transfers are what the journal points at: kept
for the audit window, within which any hour can be folded again. 200 symbols with a mark a second are 17 million marks
a day, of 135 bytes: 70 GB in 30 days, a copy, before compression. Journal and control are small and never deleted: a
hash chain with its beginning cut off proves nothing, and which parameters were in force is asked years later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.core.events import BAD_DEBT_TOPIC, DEAD_LETTERS_TOPIC, EVENTS_TOPIC, ORDERS_TOPIC
from engine.edges.service_config import ServiceConfig

DAY_MS = 86_400_000
AUDIT_WINDOW_MS = 30 * DAY_MS
OUTPUTS_KEPT_MS = 365 * DAY_MS
FOREVER = -1

# A batch of one record: 61 bytes of its own, up to 31 of the record's, and the key, an account of at most 64 bytes.
# With Kafka's default, 1 MiB + 12, an input of 1 MiB would be refused.
RECORD_OVERHEAD_BYTES_MAX = 1024

# The one codec that every client has and that the engine reads without a further library: what writers of inputs send
# in another is stored in this one, instead of stopping every shard that comes to it.
INPUT_SETTINGS = {"compression.type": "gzip"}
# The last snapshot is all that is wanted: compacted within the hour, so that a shard does not read past old ones. The
# last segment is never compacted, so it must not last long.
SNAPSHOT_SETTINGS = {
    "segment.ms": "600000",
    "min.cleanable.dirty.ratio": "0.1",
    "max.compaction.lag.ms": "3600000",
    "delete.retention.ms": str(DAY_MS),
}

# setting -> why it is as it is
REASONS = {
    "cleanup.policy": "what is kept decides what can be replayed",
    "compression.type": "a shard cannot read lz4, snappy or zstd",
    "max.message.bytes": "a message the engine takes or makes must fit",
    "message.timestamp.type": "the time of a record is its writer's",
    "min.insync.replicas": "what was acknowledged must outlive a broker",
    "retention.bytes": "nothing may be deleted before its time",
    "retention.ms": "what the journal points at must be there to be read again",
    "unclean.leader.election.enable": "a leader that lags would lose what was acknowledged",
}
COMPACTION_REASON = "a shard that starts reads all that is not compacted"
# More of these does no harm; -1 is more than any number. Of the others of the snapshots less does none.
MORE_IS_FINE = ("delete.retention.ms", "max.message.bytes", "retention.bytes", "retention.ms")
LESS_IS_FINE = ("max.compaction.lag.ms", "min.cleanable.dirty.ratio", "segment.ms")
READABLE_CODECS = ("gzip", "uncompressed")


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic as declared; ``settings`` are those that not every topic has."""

    name: str
    role: Literal["input", "output", "state"]
    partitions: Literal["shards", "marks", "one"]
    key: str
    cleanup: Literal["delete", "compact"]
    retention_ms: int
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FoundTopic:
    """One topic as the broker describes it."""

    partitions: int
    settings: Mapping[str, str]


TOPICS = (
    TopicSpec("mark-prices", "input", "marks", "symbol or asset", "delete", AUDIT_WINDOW_MS, INPUT_SETTINGS),
    TopicSpec("control", "input", "one", "shard or *", "delete", FOREVER, INPUT_SETTINGS),
    TopicSpec("fills", "input", "shards", "account", "delete", AUDIT_WINDOW_MS, INPUT_SETTINGS),
    TopicSpec("transfers", "input", "shards", "account", "delete", AUDIT_WINDOW_MS, INPUT_SETTINGS),
    TopicSpec(ORDERS_TOPIC, "output", "shards", "account", "delete", OUTPUTS_KEPT_MS),
    TopicSpec(BAD_DEBT_TOPIC, "output", "shards", "account", "delete", OUTPUTS_KEPT_MS),
    TopicSpec(EVENTS_TOPIC, "output", "shards", "account", "delete", OUTPUTS_KEPT_MS),
    TopicSpec(DEAD_LETTERS_TOPIC, "output", "shards", "as the input", "delete", AUDIT_WINDOW_MS),
    TopicSpec("journal", "state", "shards", "shard", "delete", FOREVER),
    TopicSpec("snapshots", "state", "shards", "shard and chunk", "compact", FOREVER, SNAPSHOT_SETTINGS),
)


def topic_specs() -> tuple[TopicSpec, ...]:
    """Return all topics: inputs, outputs, the shards' own."""
    return TOPICS


def topic_name(config: ServiceConfig, name: str) -> str:
    """Return what a topic is called on this broker."""
    return f"{config.kafka.topic_prefix}{name}"


def transactional_id(config: ServiceConfig, shard: int) -> str:
    """Return the id of a shard's producer: the same on every host, so that a new owner fences the one before."""
    return f"liq-{config.cluster}-{shard}"


def group_id(config: ServiceConfig, shard: int) -> str:
    """Return the group under which a shard commits its offsets."""
    return f"liq-{config.cluster}-{shard}"


def partition_count(config: ServiceConfig, spec: TopicSpec) -> int:
    """Return how many partitions a topic has."""
    return {"shards": config.shards, "marks": config.kafka.mark_partitions, "one": 1}[spec.partitions]


def expected_settings(config: ServiceConfig, spec: TopicSpec) -> dict[str, str]:
    """Return all settings of a topic that matter here, as Kafka spells them; others are the cluster's business."""
    settings = {
        "cleanup.policy": spec.cleanup,
        # What the writer chose: the engine compresses only with what it can read again.
        "compression.type": "producer",
        "max.message.bytes": str(config.kafka.message_bytes_max + RECORD_OVERHEAD_BYTES_MAX),
        "message.timestamp.type": "CreateTime",
        "min.insync.replicas": str(config.kafka.min_insync_replicas),
        "unclean.leader.election.enable": "false",
    }
    if spec.cleanup == "delete":
        settings |= {"retention.bytes": "-1", "retention.ms": str(spec.retention_ms)}
    return settings | dict(spec.settings)


def differences(config: ServiceConfig, found: Mapping[str, FoundTopic]) -> list[str]:
    """Return what keeps the topics found on a broker from being the declared ones, a sentence with its remedy each.

    ``found`` is by our names, without the prefix. What goes further than declared (kept for longer, larger messages)
    is no difference.
    """
    sentences: list[str] = []
    for spec in topic_specs():
        topic = found.get(spec.name)
        if topic is None:
            sentences.append(
                f"topic {topic_name(config, spec.name)} is missing: liq-engine topics create makes it, with"
                f" {counted(partition_count(config, spec), 'partition')} and replication factor"
                f" {config.kafka.replication_factor}; a shard's own principal may not"
            )
        else:
            sentences += [*partition_differences(config, spec, topic), *setting_differences(config, spec, topic)]
    return sentences


def partition_differences(config: ServiceConfig, spec: TopicSpec, found: FoundTopic) -> Iterator[str]:
    """Yield what is wrong with the number of partitions."""
    expected = partition_count(config, spec)
    if found.partitions == expected:
        return
    start = f"topic {topic_name(config, spec.name)} has {counted(found.partitions, 'partition')}, "
    if spec.partitions == "one":
        yield f"{start}expected 1: its messages are for all shards in one order; delete it and create it again"
        return
    key, whose = {"shards": ("service.shards", "an account"), "marks": ("kafka.mark_partitions", "a symbol")}[
        spec.partitions
    ]
    yield (
        f"{start}config says {key} = {expected}: partition counts are for life, since they say where the messages of"
        f" {whose} are; set {key} = {found.partitions}, or create all topics anew under another kafka.topic_prefix"
    )


def setting_differences(config: ServiceConfig, spec: TopicSpec, found: FoundTopic) -> Iterator[str]:
    """Yield what is wrong with the settings."""
    name = topic_name(config, spec.name)
    if not found.settings:
        yield f"topic {name} does not tell its settings: the principal lacks DescribeConfigs (deploy/kafka/acls.sh)"
        return
    for key, expected in expected_settings(config, spec).items():
        value = found.settings.get(key)
        if value is None or not is_enough(key, value, expected):
            yield (
                f"topic {name} has {key} = {'(unknown)' if value is None else value}, expected {expected}:"
                f" {REASONS.get(key, COMPACTION_REASON)}; kafka-configs.sh --alter --entity-type topics"
                f" --entity-name {name} --add-config {key}={expected}"
            )


def is_enough(key: str, value: str, expected: str) -> bool:
    """Return whether a setting does what the declared one is for."""
    if key in MORE_IS_FINE:
        return quantity(value) >= quantity(expected)
    if key in LESS_IS_FINE:
        return quantity(value) <= quantity(expected)
    return value == expected or (key == "compression.type" and value in READABLE_CODECS)


def quantity(text: str) -> float:
    """Return a number of Kafka's settings, in which -1 stands for no limit."""
    return float("inf") if text == "-1" else float(text)


def topics_document(config: ServiceConfig) -> dict[str, Any]:
    """Return what ``liq-engine topics show --json`` prints."""
    topics = [
        {
            "topic": topic_name(config, spec.name),
            "role": spec.role,
            "key": spec.key,
            "partitions": partition_count(config, spec),
            "replication_factor": config.kafka.replication_factor,
            "settings": expected_settings(config, spec),
        }
        for spec in topic_specs()
    ]
    return {"cluster": config.cluster, "topics": topics}


def topics_text(config: ServiceConfig) -> str:
    """Return what ``liq-engine topics show`` prints: a line a topic, then the settings of all and those of some."""
    header = ("topic", "role", "partitions", "copies", "kept", "key")
    rows = [header] + [
        (
            topic_name(config, spec.name),
            spec.role,
            str(partition_count(config, spec)),
            str(config.kafka.replication_factor),
            kept(spec),
            spec.key,
        )
        for spec in topic_specs()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    settings = {topic_name(config, spec.name): expected_settings(config, spec) for spec in topic_specs()}
    shared = dict(set.intersection(*(set(own.items()) for own in settings.values())))
    lines += ["", "all of them", f"  {settings_text(shared)}"]
    for name, own in settings.items():
        lines += ["", name, f"  {settings_text({key: own[key] for key in own.keys() - shared.keys()})}"]
    return "\n".join(lines)


def settings_text(settings: Mapping[str, str]) -> str:
    """Return settings in one line, by name."""
    return " ".join(f"{key}={value}" for key, value in sorted(settings.items()))


def kept(spec: TopicSpec) -> str:
    """Return how long a topic's records are kept."""
    if spec.cleanup == "compact":
        return "last of each key"
    return "for ever" if spec.retention_ms == FOREVER else counted(spec.retention_ms // DAY_MS, "day")


def counted(count: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
