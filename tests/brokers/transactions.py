"""Who may write under a transactional id, and what its open transaction will make visible when it ends.

Kafka answers the request that ends a transaction once the decision is kept; the markers that make it visible come a
moment later, and until then the transactional id is told to come back (CONCURRENT_TRANSACTIONS). ``marker_delay_s`` is
that moment: whoever relies on seeing at once what he has committed is found out with a long one.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from aiokafka import errors

from tests.brokers.logs import NONE, OLD_EPOCH, PartitionLog

Partition = tuple[str, int]

INVALID_STATE = errors.InvalidTxnState.errno
UNKNOWN_PRODUCER = errors.InvalidProducerIdMapping.errno
CONCURRENT = errors.ConcurrentTransactions.errno


@dataclass(slots=True)
class Transaction:
    """The one transaction of a transactional id, and the identity of who may write it."""

    producer_id: int
    timeout_s: float
    epoch: int = -1
    # When an open transaction has been open for too long.
    deadline_s: float | None = None
    # When the markers of a decided transaction are due.
    markers_due_s: float | None = None
    # Whether the last transaction was to be committed: a repeated request to end it gets the same answer.
    committed: bool | None = None
    partitions: set[Partition] = field(default_factory=set)
    # group -> offsets that count once the transaction commits
    offsets: dict[str, dict[Partition, tuple[int, str]]] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Return whether something is undecided."""
        return self.deadline_s is not None

    @property
    def is_ending(self) -> bool:
        """Return whether it is decided and not yet visible."""
        return self.markers_due_s is not None


class Transactions:
    """The transaction coordinator and the offsets of all groups."""

    def __init__(self, log_of: Callable[[Partition], PartitionLog | None]) -> None:
        self.log_of = log_of
        self.marker_delay_s = 0.0
        self.by_id: dict[str, Transaction] = {}
        self.owners: dict[int, Transaction] = {}
        self.committed: defaultdict[str, dict[Partition, tuple[int, str]]] = defaultdict(dict)
        self.producers_count = 0

    def init_producer(self, transactional_id: str | None, timeout_ms: int) -> tuple[int, int, int]:
        """Return (error code, producer id, epoch).

        An earlier owner of the id is shut out, and what it left open is aborted; the new one comes in after that.
        """
        transaction = self.by_id.get(transactional_id) if transactional_id is not None else None
        if transaction is None:
            self.producers_count += 1
            transaction = Transaction(self.producers_count, timeout_ms / 1000)
            if transactional_id is None:
                return NONE, transaction.producer_id, 0
            self.by_id[transactional_id] = transaction
            self.owners[transaction.producer_id] = transaction
        transaction.timeout_s = timeout_ms / 1000
        if not transaction.is_ending:
            self._shut_out(transaction)
        if transaction.is_ending:
            return CONCURRENT, -1, -1
        # A new owner begins afresh: it cannot repeat the end of a transaction that was not its own.
        transaction.committed = None
        return NONE, transaction.producer_id, transaction.epoch

    def fault_of(self, transactional_id: str, producer_id: int, epoch: int) -> int:
        """Return the error code for a request in the name of a producer, 0 if it is the rightful one."""
        transaction = self.by_id.get(transactional_id)
        if transaction is None or transaction.producer_id != producer_id:
            return UNKNOWN_PRODUCER
        if transaction.epoch != epoch:
            return OLD_EPOCH
        return CONCURRENT if transaction.is_ending else NONE

    def may_write(self, producer_id: int, epoch: int, partition: Partition) -> int:
        """Return the error code for a transactional batch: its partition must have been added by its producer."""
        transaction = self.owners.get(producer_id)
        if transaction is None:
            return UNKNOWN_PRODUCER
        if transaction.epoch != epoch:
            return OLD_EPOCH
        return NONE if transaction.is_open and partition in transaction.partitions else INVALID_STATE

    def add_partitions(self, transactional_id: str, partitions: list[Partition]) -> None:
        """Open the transaction if it is not, and add partitions to it."""
        self._open(transactional_id).partitions.update(partitions)

    def add_group(self, transactional_id: str, group: str) -> None:
        """Open the transaction if it is not, and add a group to it."""
        self._open(transactional_id).offsets.setdefault(group, {})

    def hold_offset(self, transactional_id: str, group: str, partition: Partition, offset: int, metadata: str) -> int:
        """Keep an offset until the transaction ends; return an error code."""
        groups = self.by_id[transactional_id].offsets
        if group not in groups:
            return INVALID_STATE
        groups[group][partition] = (offset, metadata)
        return NONE

    def end(self, transactional_id: str, *, commit: bool) -> int:
        """Commit or abort; return an error code. The answer to a repeated request is that to the first."""
        transaction = self.by_id[transactional_id]
        if not transaction.is_open:
            return NONE if transaction.committed is commit else INVALID_STATE
        self._decide(transaction, commit=commit)
        return NONE

    def settle(self) -> bool:
        """Do what is due: write markers, abort what is open for too long and shut its producer out; tell if any was."""
        now_s = time.monotonic()
        ready = [
            each for each in self.owners.values() if each.markers_due_s is not None and each.markers_due_s <= now_s
        ]
        for transaction in ready:
            self._finish(transaction)
        overdue = [each for each in self.owners.values() if each.deadline_s is not None and each.deadline_s <= now_s]
        for transaction in overdue:
            self._shut_out(transaction)
        return bool(ready or overdue)

    def _open(self, transactional_id: str) -> Transaction:
        transaction = self.by_id[transactional_id]
        if transaction.deadline_s is None:
            transaction.deadline_s = time.monotonic() + transaction.timeout_s
        return transaction

    def _shut_out(self, transaction: Transaction) -> None:
        """Raise the epoch, so that the present owner is refused from now on, and abort what it left open."""
        transaction.epoch += 1
        if transaction.is_open:
            self._decide(transaction, commit=False)

    def _decide(self, transaction: Transaction, *, commit: bool) -> None:
        transaction.deadline_s = None
        transaction.committed = commit
        transaction.markers_due_s = time.monotonic() + self.marker_delay_s
        if self.marker_delay_s == 0:
            self._finish(transaction)

    def _finish(self, transaction: Transaction) -> None:
        """Write the markers and, after a commit, let the offsets count."""
        commit, timestamp_ms = transaction.committed is True, time.time_ns() // 1_000_000
        for partition in sorted(transaction.partitions):
            log = self.log_of(partition)
            # Its topic may have been deleted meanwhile.
            if log is not None:
                log.end_transaction(
                    transaction.producer_id, transaction.epoch, committed=commit, timestamp=timestamp_ms
                )
        if commit:
            for group, offsets in transaction.offsets.items():
                self.committed[group].update(offsets)
        transaction.partitions.clear()
        transaction.offsets.clear()
        transaction.markers_due_s = None
