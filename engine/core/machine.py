"""In which order things happen: ``apply(batch)`` folds messages over the book, one step at a time.

A step is one message. In it, in this order: (1) apply it; (2) timers now due, by due time then account; (3) examine
the rows it can have changed, worst first; (4) answers of the simulated venue, each a message of the same ts, until
none is left. The same messages give the same outputs in any batch size: nothing is carried from batch to batch but
the state itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from engine.core.confirm import expire_pending
from engine.core.events import DEAD_LETTERS_TOPIC, Event, Ignored, Mark, Message, Origin, Output, Reject
from engine.core.intake import DUPLICATE, IGNORED, Applied, Outcome, apply_event, key_of
from engine.core.kernels.follow import BAND_PPM, CLOCK, DUE, FUTURE_NS, STREAM_COLUMNS, SYMBOL, follow_marks
from engine.core.lines import Lines
from engine.core.liquidation import examine, note_fill, sweep_buckets
from engine.core.pricing import check_reached
from engine.core.refusal import Refusal
from engine.core.rejects import reject_fields
from engine.core.shard import Shard
from engine.core.usual_fill import try_usual_fill
from engine.errors import InvariantError
from engine.units import INT64_MAX, NS_PER_S

VENUE = Origin("venue", -1, 0)


class Machine:
    """The engine as a pure fold: same shard, same messages, same outputs."""

    def __init__(self, shard: Shard, *, verify_every: int = 0) -> None:
        self.shard = shard
        # Each so many messages the trigger index is held against a look at everybody; 0: never.
        self.verify_every = verify_every
        # What a run of usual marks is told of where the log stands.
        self.stream = np.zeros(STREAM_COLUMNS, dtype=np.int64)

    def apply(self, batch: Iterable[Message]) -> list[Output]:
        """Apply messages in order; return the outputs they caused, in order of ``seq``."""
        for message in batch:
            self.apply_one(message)
        outputs, self.shard.outputs = self.shard.outputs, []
        return outputs

    def apply_one(self, message: Message) -> None:
        """Apply one message; its outputs stay in the shard."""
        if self._is_verified_next():
            self._take_verified(message)
        else:
            self._take(message)

    def fold(self, lines: Lines) -> list[Output]:
        """Apply a batch of lines in order, as ``apply`` does the messages that they say.

        Usual marks are put in force by a kernel, many at a time, and usual fills posted by one; all else is taken in
        full, one by one.
        """
        position, count = 0, lines.count
        while position < count:
            followed = self._follow(lines, position)
            if followed == position:
                followed += 1
                if not self._fill(lines, position) and (message := lines.message(position)) is not None:
                    self.apply_one(message)
            position = followed
        outputs, self.shard.outputs = self.shard.outputs, []
        return outputs

    def _follow(self, lines: Lines, begin: int) -> int:
        """Put usual marks from ``begin`` on in force until one finds rows in need; return the first line not taken."""
        shard, book = self.shard, self.shard.book
        if lines.marks[begin, SYMBOL] < 0 or book.clock is None or not self._is_quiet():
            return begin
        due = min(shard.timers[0][0], INT64_MAX) if shard.timers else INT64_MAX
        ahead = min(book.policy.max_future_s * NS_PER_S, INT64_MAX)
        stream, marks = self.stream, lines.marks
        stream[CLOCK], stream[DUE], stream[FUTURE_NS], stream[BAND_PPM] = (
            book.clock,
            due,
            ahead,
            book.policy.price_band_ppm,
        )
        if self.verify_every:
            marks = marks[: begin + self.verify_every - 1 - shard.counters.messages % self.verify_every]
        end, found = follow_marks(book.tables.view, marks, begin, stream, book.tables.found_rows)
        if end > begin:
            book.marks_moved(int(stream[CLOCK]))
            shard.counters.messages += end - begin
            shard.counters.accepted += end - begin
            shard.origin, shard.future = lines.origin(end - 1), None
        if found:
            self._examine(set(book.tables.found_rows[:found].tolist()), "mark")
        return int(end)

    def _fill(self, lines: Lines, index: int) -> bool:
        """Apply a line without a message if it is a usual fill; return whether it was one."""
        shard, fill = self.shard, lines.fill(index)
        if fill is None or shard.book.clock is None or not self._is_quiet() or self._is_verified_next():
            return False
        applied = try_usual_fill(shard, fill)
        if applied is None:
            return False
        shard.counters.messages += 1
        shard.counters.accepted += 1
        shard.origin = lines.origin(index)
        row, may_need_look = applied
        if may_need_look:
            self._examine({row}, "fill")
        return True

    def _is_quiet(self) -> bool:
        """Return whether nothing but the next message decides what it does: only then may a kernel take it."""
        shard = self.shard
        return not (shard.venue is not None or shard.stuck or shard.dirty or shard.book.is_scanned)

    def _is_verified_next(self) -> bool:
        """Return whether the next message is one at which the trigger index is held against a look at everybody."""
        return bool(self.verify_every) and (self.shard.counters.messages + 1) % self.verify_every == 0

    def _take_verified(self, message: Message) -> None:
        """Apply one input; raises InvariantError where a look at everybody finds another row in need."""
        book = self.shard.book
        book.is_verified = True
        try:
            self._take(message)
            check_reached(book)
        except InvariantError as error:
            topic, partition, offset = message.origin
            where = f"{topic} line {offset}" if partition < 0 else f"{topic}-{partition} offset {offset}"
            raise InvariantError(f"{where}: {error}") from error
        finally:
            book.is_verified = False

    def _take(self, message: Message) -> None:
        """Apply one input and all that the simulated venue answers to it."""
        shard = self.shard
        shard.counters.messages += 1
        shard.origin = message.origin
        event = message.event
        if isinstance(event, Ignored | Reject):
            shard.future = None
        if isinstance(event, Ignored):
            shard.counters.ignored += 1
            return
        if isinstance(event, Reject):
            self._refuse(Refusal(event.reason, event.detail), event.payload, message.origin.topic)
            return
        if isinstance(event, Mark) and shard.venue is not None:
            event = shard.venue.adjust(event, shard)
        self._count(self._step(event, message.payload))
        if shard.venue is not None:
            answers = 0
            while (answer := shard.venue.next_event(shard)) is not None:
                answers += 1
                shard.origin = VENUE._replace(offset=answers)
                self._step(answer, b"")

    def _count(self, outcome: Outcome) -> None:
        """Count what became of a log message; each ends in exactly one of the four counts."""
        counters = self.shard.counters
        counters.accepted += isinstance(outcome, Applied)
        counters.duplicates += outcome == DUPLICATE
        counters.ignored += outcome == IGNORED

    def _step(self, event: Event, payload: bytes) -> Outcome:
        """Apply one message with all that follows from it in the same step."""
        shard = self.shard
        outcome = apply_event(shard, event)
        if isinstance(outcome, Refusal):
            self._refuse(outcome, payload, key_of(event))
        if not isinstance(outcome, Applied):
            return outcome
        if outcome.filled is not None:
            note_fill(shard, *outcome.filled)
        rows = {*outcome.rows, *self._due_rows(), *shard.stuck}
        sweep_buckets(shard)
        self._examine(rows, outcome.cause)
        return outcome

    def _examine(self, rows: set[int], cause: str) -> None:
        """Examine rows, and those that this brings into need, worst first."""
        shard = self.shard
        while rows or shard.dirty:
            rows |= shard.dirty
            shard.dirty.clear()
            for row in self._worst_first(rows):
                examine(shard, row, cause)
                sweep_buckets(shard)
            rows = set()

    def _refuse(self, refusal: Refusal, payload: bytes, key: str) -> None:
        shard = self.shard
        shard.counters.rejected[refusal.reason] += 1
        shard.emit(
            DEAD_LETTERS_TOPIC, key, "reject", reject_fields(refusal.reason, refusal.detail, payload, shard.origin)
        )

    def _due_rows(self) -> list[int]:
        """Let what is due happen, by due time then account: orders, holds, waits end; return the rows concerned."""
        shard, rows = self.shard, []
        while shard.timers and shard.timers[0][0] <= shard.clock:
            _, account, bucket, order_id = heapq.heappop(shard.timers)
            if not account:
                rows += expire_pending(shard, bucket)
                continue
            waiting = shard.open_order(account, order_id)
            if waiting is not None:
                shard.end_order(*waiting)
            if waiting is not None or not order_id:
                rows.append(shard.book.row_index[account, bucket])
        return rows

    def _worst_first(self, rows: set[int]) -> list[int]:
        """Return rows by E / MM, lowest first, ties by account then bucket; rows without margin last, by account."""
        if len(rows) < 2:
            return list(rows)
        book = self.shard.book

        def standing(row: int) -> tuple[bool, Fraction, str, str]:
            maintenance = book.maintenance(row)
            ratio = Fraction(book.equity(row), maintenance) if maintenance > 0 else Fraction(0)
            return maintenance <= 0, ratio, book.accounts[row], book.buckets[row]

        return sorted(rows, key=standing)
