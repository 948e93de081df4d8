"""What the fake broker answers to each request, from the state it holds; one method an API.

The versions are those that aiokafka picks on Kafka 4.1, so that the client takes the same paths on both. Each method
gets the request and ``refusal``: an error code to answer with instead of doing anything, 0 for none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from aiokafka import errors
from aiokafka.protocol import admin, commit, coordination, fetch, metadata, offset, produce, transaction
from aiokafka.record.default_records import DefaultRecordBatch

from tests.brokers.logs import NONE, PartitionLog
from tests.brokers.transactions import Partition, Transactions

UNKNOWN_TOPIC = errors.UnknownTopicOrPartitionError.errno
TOPIC_EXISTS = errors.TopicAlreadyExistsError.errno
INVALID_PARTITIONS = errors.InvalidPartitionsError.errno
READ_COMMITTED = 1
NODE = 1
TOPIC_RESOURCE = 2
# Where a config value comes from, as DescribeConfigs tells: set on the topic, or the default.
FROM_TOPIC, FROM_DEFAULT = 1, 5
DEFAULTS = {"cleanup.policy": "delete", "max.message.bytes": "1048588", "retention.ms": "604800000"}

# name -> the one version that is spoken
APIS: dict[str, Any] = {
    "ApiVersions": admin.ApiVersionRequest_v0,
    "Metadata": metadata.MetadataRequest_v5,
    "CreateTopics": admin.CreateTopicsRequest_v3,
    "DeleteTopics": admin.DeleteTopicsRequest_v3,
    "CreatePartitions": admin.CreatePartitionsRequest_v1,
    "DescribeConfigs": admin.DescribeConfigsRequest_v2,
    "DeleteRecords": admin.DeleteRecordsRequest_v2,
    "Produce": produce.ProduceRequest_v7,
    "Fetch": fetch.FetchRequest_v11,
    "ListOffsets": offset.OffsetRequest_v3,
    "FindCoordinator": coordination.FindCoordinatorRequest_v1,
    "OffsetCommit": commit.OffsetCommitRequest_v3,
    "OffsetFetch": commit.OffsetFetchRequest_v3,
    "InitProducerId": transaction.InitProducerIdRequest_v0,
    "AddPartitionsToTxn": transaction.AddPartitionsToTxnRequest_v0,
    "AddOffsetsToTxn": transaction.AddOffsetsToTxnRequest_v0,
    "TxnOffsetCommit": transaction.TxnOffsetCommitRequest_v0,
    "EndTxn": transaction.EndTxnRequest_v0,
}
NAMES = {request.API_KEY: name for name, request in APIS.items()}


class Topic:
    """One topic: its partitions and what was configured."""

    def __init__(self, partitions: int, configs: dict[str, str]) -> None:
        self.logs = [PartitionLog() for _ in range(partitions)]
        self.configs = configs

    @property
    def settings(self) -> dict[str, str]:
        """Return what was configured over what is the default."""
        return DEFAULTS | self.configs


class State:
    """All that the fake broker remembers, and its answers."""

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}
        self.transactions = Transactions(self.log_of)
        self.host, self.port = "127.0.0.1", 0
        self.answers: dict[str, Callable[[Any, int], Any]] = {
            "ApiVersions": self.api_versions,
            "Metadata": self.metadata,
            "CreateTopics": self.create_topics,
            "DeleteTopics": self.delete_topics,
            "CreatePartitions": self.create_partitions,
            "DescribeConfigs": self.describe_configs,
            "DeleteRecords": self.delete_records,
            "Produce": self.produce,
            "Fetch": self.fetch,
            "ListOffsets": self.list_offsets,
            "FindCoordinator": self.find_coordinator,
            "OffsetCommit": self.offset_commit,
            "OffsetFetch": self.offset_fetch,
            "InitProducerId": self.init_producer_id,
            "AddPartitionsToTxn": self.add_partitions,
            "AddOffsetsToTxn": self.add_offsets,
            "TxnOffsetCommit": self.txn_offset_commit,
            "EndTxn": self.end_txn,
        }

    def log_of(self, partition: Partition) -> PartitionLog | None:
        """Return the log of a partition, None if there is no such partition."""
        topic = self.topics.get(partition[0])
        return topic.logs[partition[1]] if topic is not None and 0 <= partition[1] < len(topic.logs) else None

    def api_versions(self, request: Any, refusal: int) -> Any:
        """Say which requests are understood, each in one version."""
        spoken = [(each.API_KEY, each.API_VERSION, each.API_VERSION) for each in APIS.values()]
        return request.RESPONSE_TYPE(refusal, spoken)

    def metadata(self, request: Any, refusal: int) -> Any:
        """Describe topics: those asked for, all where none is named."""
        names = sorted(self.topics) if request.topics is None else request.topics
        topics = []
        for name in names:
            topic = self.topics.get(name)
            code = refusal or (NONE if topic is not None else UNKNOWN_TOPIC)
            count = len(topic.logs) if topic is not None and not refusal else 0
            partitions: list[tuple[Any, ...]] = [(NONE, index, NODE, [NODE], [NODE], []) for index in range(count)]
            topics.append((code, name, False, partitions))
        return request.RESPONSE_TYPE(0, [(NODE, self.host, self.port, None)], "fake", NODE, topics)

    def create_topics(self, request: Any, refusal: int) -> Any:
        """Create topics, unless that was only to be validated."""
        results = []
        for name, partitions, _, assignment, configs in request.create_topic_requests:
            count = len(assignment) or (1 if partitions == -1 else partitions)
            code = refusal or (TOPIC_EXISTS if name in self.topics else NONE if count > 0 else INVALID_PARTITIONS)
            if code == NONE and not request.validate_only:
                self.topics[name] = Topic(count, dict(configs))
            results.append((name, code, None))
        return request.RESPONSE_TYPE(0, results)

    def delete_topics(self, request: Any, refusal: int) -> Any:
        """Delete topics with all they hold."""
        results = []
        for name in request.topics:
            code = refusal or (NONE if name in self.topics else UNKNOWN_TOPIC)
            if code == NONE:
                del self.topics[name]
            results.append((name, code))
        return request.RESPONSE_TYPE(0, results)

    def create_partitions(self, request: Any, refusal: int) -> Any:
        """Give topics more partitions."""
        results = []
        for name, (count, _) in request.topic_partitions:
            topic = self.topics.get(name)
            code = refusal or (UNKNOWN_TOPIC if topic is None else NONE)
            if topic is not None and code == NONE:
                code = NONE if count > len(topic.logs) else INVALID_PARTITIONS
                if code == NONE and not request.validate_only:
                    topic.logs += [PartitionLog() for _ in range(count - len(topic.logs))]
            results.append((name, code, None))
        return request.RESPONSE_TYPE(0, results)

    def describe_configs(self, request: Any, refusal: int) -> Any:
        """Tell the settings of topics."""
        results = []
        for kind, name, wanted in request.resources:
            topic = self.topics.get(name) if kind == TOPIC_RESOURCE else None
            code = refusal or (NONE if topic is not None else UNKNOWN_TOPIC)
            entries: list[tuple[Any, ...]] = []
            if topic is not None and code == NONE:
                for key, value in sorted(topic.settings.items()):
                    if wanted is None or key in wanted:
                        source = FROM_TOPIC if key in topic.configs else FROM_DEFAULT
                        entries.append((key, value, False, source, False, []))
            results.append((code, None, kind, name, entries))
        return request.RESPONSE_TYPE(0, results)

    def delete_records(self, request: Any, refusal: int) -> Any:
        """Forget the oldest records, as retention would."""

        def trim(log: PartitionLog, before: int, _: Any) -> tuple[int, int]:
            code = log.trim(before)
            return log.start, code

        topics = [(name, partitions) for name, partitions, _ in request.topics]
        answers = self._each_partition(topics, refusal, trim, lambda code: (-1, code))
        return request.RESPONSE_TYPE(
            0, [(name, [(*answer, {}) for answer in partitions], {}) for name, partitions in answers], {}
        )

    def produce(self, request: Any, refusal: int) -> Any:
        """Append batches."""
        results = []
        for name, partitions in request.topics:
            answers = []
            for index, data in partitions:
                code, base = (refusal, -1) if refusal else self._append((name, index), data)
                answers.append((index, code, base, -1, 0))
            results.append((name, answers))
        return request.RESPONSE_TYPE(results, 0)

    def _append(self, partition: Partition, data: bytes) -> tuple[int, int]:
        log = self.log_of(partition)
        if log is None:
            return UNKNOWN_TOPIC, -1
        batch = DefaultRecordBatch(data)
        if batch.is_transactional:
            code = self.transactions.may_write(batch.producer_id, batch.producer_epoch, partition)
            if code != NONE:
                return code, -1
        return log.append(data, int(self.topics[partition[0]].settings["max.message.bytes"]))

    def fetch(self, request: Any, refusal: int) -> Any:
        """Read batches; the first that fits nowhere is sent all the same, so that a reader cannot get stuck."""
        committed = request.isolation_level == READ_COMMITTED

        def read(log: PartitionLog, _: int, start: int, __: int, bytes_max: int) -> tuple[Any, ...]:
            code, data, aborted = log.read(start, bytes_max, committed=committed)
            return (code, log.end, log.stable, log.start, aborted, -1, data)

        answers = self._each_partition(request.topics, refusal, read, lambda code: (code, -1, -1, -1, None, -1, b""))
        return request.RESPONSE_TYPE(0, NONE, 0, answers)

    def is_worth_answering(self, request: Any) -> bool:
        """Return whether a fetch need not wait: enough bytes are there, or an error is."""
        partitions = [each for _, entries in self.fetch(request, NONE).topics for each in entries]
        return any(each[1] != NONE for each in partitions) or sum(len(each[-1]) for each in partitions) >= max(
            request.min_bytes, 1
        )

    def list_offsets(self, request: Any, refusal: int) -> Any:
        """Find offsets by time."""
        committed = request.isolation_level == READ_COMMITTED

        def find(log: PartitionLog, timestamp: int) -> tuple[int, int, int]:
            return (NONE, *log.offset_at(timestamp, committed=committed))

        answers = self._each_partition(request.topics, refusal, find, lambda code: (code, -1, -1))
        return request.RESPONSE_TYPE(0, answers)

    def find_coordinator(self, request: Any, refusal: int) -> Any:
        """Name the one node there is."""
        return request.RESPONSE_TYPE(0, refusal, None, NODE, self.host, self.port)

    def offset_commit(self, request: Any, refusal: int) -> Any:
        """Keep offsets of a group whose members assign by hand."""
        offsets = self.transactions.committed[request.consumer_group]
        results = []
        for name, partitions in request.topics:
            answers = []
            for index, position, note in partitions:
                code = refusal or (NONE if self.log_of((name, index)) is not None else UNKNOWN_TOPIC)
                if code == NONE:
                    offsets[name, index] = (position, note)
                answers.append((index, code))
            results.append((name, answers))
        return request.RESPONSE_TYPE(0, results)

    def offset_fetch(self, request: Any, refusal: int) -> Any:
        """Tell offsets of a group; -1 where there is none. What an open transaction holds does not show."""
        offsets = self.transactions.committed[request.consumer_group]
        topics = request.topics
        if topics is None:
            topics = [
                (name, [index for each, index in offsets if each == name]) for name in {each for each, _ in offsets}
            ]
        answers = [
            (name, [(index, *offsets.get((name, index), (-1, "")), refusal) for index in partitions])
            for name, partitions in topics
        ]
        return request.RESPONSE_TYPE(0, answers, refusal)

    def init_producer_id(self, request: Any, refusal: int) -> Any:
        """Give a producer its identity."""
        if refusal:
            return request.RESPONSE_TYPE(0, refusal, -1, -1)
        identity = self.transactions.init_producer(request.transactional_id, request.transaction_timeout_ms)
        return request.RESPONSE_TYPE(0, *identity)

    def add_partitions(self, request: Any, refusal: int) -> Any:
        """Add partitions to the open transaction: all of them or, if one is unknown, none."""
        wanted = [(name, index) for name, partitions in request.topics for index in partitions]
        code = refusal or self._fault_of(request)
        unknown = {each for each in wanted if self.log_of(each) is None}
        if code == NONE and not unknown:
            self.transactions.add_partitions(request.transactional_id, wanted)
        not_attempted = errors.OperationNotAttempted.errno if unknown else NONE
        results = [
            (name, [(each, code or (UNKNOWN_TOPIC if (name, each) in unknown else not_attempted)) for each in indexes])
            for name, indexes in request.topics
        ]
        return request.RESPONSE_TYPE(0, results)

    def add_offsets(self, request: Any, refusal: int) -> Any:
        """Add a group to the open transaction."""
        code = refusal or self._fault_of(request)
        if code == NONE:
            self.transactions.add_group(request.transactional_id, request.group_id)
        return request.RESPONSE_TYPE(0, code)

    def txn_offset_commit(self, request: Any, refusal: int) -> Any:
        """Hold a group's offsets until the transaction ends."""
        fault = refusal or self._fault_of(request)
        hold = self.transactions.hold_offset
        results = [
            (
                name,
                [
                    (index, fault or hold(request.transactional_id, request.group_id, (name, index), position, note))
                    for index, position, note in partitions
                ],
            )
            for name, partitions in request.topics
        ]
        return request.RESPONSE_TYPE(0, results)

    def end_txn(self, request: Any, refusal: int) -> Any:
        """Commit or abort."""
        code = refusal or self._fault_of(request)
        if code == NONE:
            code = self.transactions.end(request.transactional_id, commit=request.transaction_result)
        return request.RESPONSE_TYPE(0, code)

    def _fault_of(self, request: Any) -> int:
        return self.transactions.fault_of(request.transactional_id, request.producer_id, request.producer_epoch)

    def _each_partition(
        self,
        topics: Iterable[tuple[str, list[tuple[Any, ...]]]],
        refusal: int,
        answer: Callable[..., tuple[Any, ...]],
        refuse: Callable[[int], tuple[Any, ...]],
    ) -> list[tuple[str, list[tuple[Any, ...]]]]:
        """Return (topic, [(index, *answer)]): of the log with the rest of each entry, or what ``refuse`` makes."""
        results = []
        for name, partitions in topics:
            answers = []
            for index, *rest in partitions:
                log = self.log_of((name, index))
                code = refusal or (UNKNOWN_TOPIC if log is None else NONE)
                answers.append((index, *(refuse(code) if code or log is None else answer(log, *rest))))
            results.append((name, answers))
        return results
