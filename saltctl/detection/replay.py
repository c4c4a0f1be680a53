"""Replay the heat stream: handle the backlog without the service, or a range of entries again.

Replay is safe while instances of the service run, and safe to repeat: a report counts once in a window, and max_n
never goes down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

from saltctl.commands import hint_of
from saltctl.detection.decision import RaiseDecision
from saltctl.detection.detector import BatchResult, Detector
from saltctl.detection.failures import MAX_TRIES
from saltctl.detection.read_order import BATCH_ENTRIES
from saltctl.detection.service import ALIVE_SECONDS
from saltctl.errors import SaltctlError, StreamLostError
from saltctl.stores.heat.contracts import FIRST_ID, Entry, StreamInfo, id_order
from saltctl.stores.retry import backoff_seconds
from saltctl.values import check_number, check_whole

if TYPE_CHECKING:
    from saltctl.registry.registry import Registry
    from saltctl.stores.heat.stream import HeatStream

POLL_SECONDS = 0.2
WAIT_FOR_OTHERS = 2 * ALIVE_SECONDS
"""Seconds to wait for entries that other consumers hold."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """Options. ``first`` and ``last``: inclusive ids of a range; None for the backlog. ``rate``: entries a second."""

    consumer: str
    first: str | None = None
    last: str | None = None
    rate: float | None = None
    max_events: int | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Refuse a rate or number at which a replay would never end, or do nothing; raises UsageError."""
        if self.rate is not None:
            check_number("rate", self.rate, 0.1, hint="such as --rate 100")
        if self.max_events is not None:
            check_whole("max_events", self.max_events, 1, 10**15, hint="such as --max-events 1000")

    @property
    def is_range(self) -> bool:
        """Whether a range is replayed instead of the backlog."""
        return self.first is not None or self.last is not None


@dataclass
class ReplayReport:
    """Progress of a replay. ``next_id`` resumes a range; it is None at the end of the range and for the backlog.

    ``trimmed_pending``: pending entries that were trimmed before anyone handled them: their heat is lost.
    ``failed``: entries whose raise could not be done. Some of them became dead letters; ``left_pending`` did not.
    """

    read: int = 0
    claimed: int = 0
    raised: int = 0
    unchanged: int = 0
    stale: int = 0
    dead: int = 0
    drained: bool = False
    raises: list[dict[str, Any]] = field(default_factory=list)
    dry_run: bool = False
    next_id: str | None = None
    held_by_others: int = 0
    failed: int = 0
    left_pending: int = 0
    trimmed_pending: int = 0

    def add_raise(self, conversation_id: str, before: int, after: int, *, changed: bool) -> None:
        """Count a raise, and list it if it changed max_n."""
        if changed:
            self.raised += 1
            self.raises.append({"conversation_id": conversation_id, "before": before, "after": after})
        else:
            self.unchanged += 1


@dataclass(eq=False)
class Replay:
    """A replay. Iterate over :meth:`run` once.

    Args:
        detector: handles the entries, and no others; in a dry run over ``InMemorySums``.
        registry: looks up max_n for a dry run.
        options: the entries to replay.
        sleep: waits, to keep the rate.
    """

    stream: HeatStream
    detector: Detector
    registry: Registry
    options: ReplayOptions
    _: KW_ONLY
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    report: ReplayReport = field(default_factory=ReplayReport, init=False)
    _deleted: int = field(default=0, init=False)

    def run(self) -> Generator[ReplayReport, None, None]:
        """Replay. Yield the report after each batch and at the end; it is always the same, growing object.

        A raise that fails alone stops no other; it is tried again a few times, and counted as ``failed``.

        Raises:
            StreamLostError: there is no group, or Redis lost the stream during the replay.
            SaltctlError: an outage. Replay again: what was not handled is still there.
        """
        started, stream_before = self.clock(), self.stream.info()
        dry_run = self.report.dry_run = self.options.dry_run
        decisions: dict[str, RaiseDecision] = {}
        for entries in self._batches():
            if dry_run:
                self.detector.preview(entries, decisions)
            else:
                self._handle(entries)
            self.report.stale, self.report.dead = self.detector.counters.stale, self.detector.counters.dead
            self._count_trimmed()
            self.report.read += len(entries)
            yield self.report
            if self.options.rate:
                self.sleep(max(self.report.read / self.options.rate - (self.clock() - started), 0.0))
        self._check_stream(stream_before)
        self._count_trimmed()
        if dry_run:
            found = self.registry.lookup_many(list(decisions))
            for conversation_id, decision in decisions.items():
                before = found[conversation_id].write_n
                self.report.add_raise(conversation_id, before, decision.n, changed=before < decision.n)
        elif not self.options.is_range:
            self.stream.delete_idle_consumers(0.0, self.options.consumer)
        yield self.report

    def _handle(self, entries: list[Entry]) -> None:
        """Handle a batch, and try the raises again that failed for reasons of their own."""
        for attempt in range(MAX_TRIES):
            result = self.detector.handle(entries, None if self.options.is_range else self.stream)
            self._count(result)
            if result.failure is not None and not attempt:
                raise _with_hint(result.failure)
            left = set(result.left_pending)
            entries = [entry for entry in entries if entry.id in left]
            if not entries:
                return
            if result.failure is not None:
                break  # others were raised: it may be an outage of these alone
            self.sleep(backoff_seconds(attempt, longest=1.0))
        self.report.failed += len(entries)
        self.report.left_pending += len(entries)

    def _check_stream(self, before: StreamInfo) -> None:
        """Refuse to report a stream as read that Redis lost meanwhile, even if it was created again."""
        if self.stream.info().added < before.added:
            raise StreamLostError(
                f"Redis lost the heat stream {self.stream.key!r} during the replay, and its unread entries",
                hint="new heat reports raise as usual\nsaltctl stream status",
            )

    def _count_trimmed(self) -> None:
        self.report.trimmed_pending = self.detector.counters.lost + self._deleted

    def _batches(self) -> Iterator[list[Entry]]:
        if self.options.is_range:
            return self._range(self.options.first or "-", self.options.last or "+")
        return self._backlog_unchanged() if self.options.dry_run else self._backlog()

    def _next_count(self) -> int:
        """Return the size of the next batch; 0 once ``max_events`` entries were read."""
        count = max(min(BATCH_ENTRIES, int(self.options.rate or BATCH_ENTRIES)), 1)
        left = count if self.options.max_events is None else self.options.max_events - self.report.read
        return max(min(count, left), 0)

    def _range(self, first: str, last: str) -> Iterator[list[Entry]]:
        while count := self._next_count():
            entries = self.stream.range(first, last, count)
            if not entries:
                self.report.next_id = None
                self.report.drained = True
                return
            yield entries
            first = f"({entries[-1].id}"
            milliseconds, sequence = id_order(entries[-1].id)
            self.report.next_id = f"{milliseconds}-{sequence + 1}"

    def _backlog(self) -> Iterator[list[Entry]]:
        """Take the entries of an interrupted replay, then those of dead consumers, then unread ones."""
        consumer = self.options.consumer
        after = FIRST_ID
        while (count := self._next_count()) and (entries := self.stream.read_own(consumer, after, count)):
            yield entries
            after = entries[-1].id
        deadline = self.clock() + WAIT_FOR_OTHERS
        while count := self._next_count():
            entries = self._claim(count) or self.stream.read_new(consumer, count)
            if entries:
                yield entries
                continue
            group = self.stream.info().group(self.stream.group)
            own = sum(one.pending for one in group.consumers if one.name == consumer) if group else 0
            self.report.held_by_others = group.pending - own if group else 0
            if not self.report.held_by_others:
                self.report.drained = not self.report.left_pending
                return
            # Their consumers are alive and will finish, or will soon be idle for long enough to be claimed from.
            if self.clock() >= deadline:
                return
            self.sleep(POLL_SECONDS)

    def _claim(self, count: int) -> list[Entry]:
        cursor = FIRST_ID
        while True:
            cursor, entries, deleted = self.stream.claim(self.options.consumer, ALIVE_SECONDS, cursor, count)
            self._deleted += len(deleted)  # Redis has taken them off the list of pending entries
            if entries or cursor == FIRST_ID:
                self.report.claimed += len(entries)
                return entries

    def _backlog_unchanged(self) -> Iterator[list[Entry]]:
        """Read the backlog without taking it: pending entries of all consumers, then unread ones."""
        first = "-"
        while (count := self._next_count()) and (pending := self.stream.pending(first, count)):
            ids = [entry_id for entry_id, _, _ in pending]
            self.report.claimed += len(ids)
            yield self.stream.get(ids)
            first = f"({ids[-1]}"
        group = self.stream.info().group(self.stream.group)
        yield from self._range("-" if group is None else f"({group.last_delivered_id}", "+")
        self.report.next_id = None

    def _count(self, result: BatchResult) -> None:
        for raised in result.raises:
            self.report.add_raise(raised.conversation_id, raised.before, raised.after, changed=raised.changed)
        self.report.failed += result.given_up


def _with_hint(failure: Exception) -> Exception:
    if not isinstance(failure, SaltctlError):
        return failure
    return failure.with_hint(hint_of("nothing is lost", failure.hint, "saltctl stream replay"))
