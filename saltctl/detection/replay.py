"""Replay of the heat stream: works through the backlog without the service, or a range once more.

Safe beside running instances and safe to repeat: a report counts once in a window, and max_n never goes down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from saltctl.detection.detector import BatchResult, Detector, RaiseDecision
from saltctl.detection.service import ALIVE_SECONDS
from saltctl.errors import SaltctlError
from saltctl.registry.registry import Lookup
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import FIRST_ID, Claimed, Entry, StreamInfo, id_order

BATCH = 1000
POLL_SECONDS = 0.2
WAIT_FOR_OTHERS = 2 * ALIVE_SECONDS


class ReplayStream(Protocol):
    """What is replayed. See ``HeatStream`` for the semantics."""

    group: str

    def read_own(self, consumer: str, after: str, count: int) -> list[Entry]: ...  # noqa: D102
    def read_new(self, consumer: str, count: int, block: float = 0.0) -> list[Entry]: ...  # noqa: D102
    def claim(self, consumer: str, idle: float, cursor: str, count: int) -> Claimed: ...  # noqa: D102
    def acknowledge(self, ids: Sequence[str]) -> int: ...  # noqa: D102
    def delete_idle_consumers(self, idle: float, name: str | None = None) -> list[str]: ...  # noqa: D102
    def range(self, first: str, last: str, count: int) -> list[Entry]: ...  # noqa: D102
    def pending(self, first: str, count: int, *, consumer: str | None = None) -> list[tuple[str, str, float]]: ...  # noqa: D102
    def get(self, ids: Sequence[str]) -> dict[str, list[bytes]]: ...  # noqa: D102
    def info(self) -> StreamInfo: ...  # noqa: D102


class Lookups(Protocol):
    """Where a dry run learns what is held: ``Registry``."""

    def lookup_many(self, conversation_ids: Sequence[str]) -> dict[str, Lookup]:
        """How many salts conversations have now."""
        ...


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """``first`` and ``last``: ids of a range, both inclusive; None for the backlog. ``rate``: entries a second."""

    consumer: str
    first: str | None = None
    last: str | None = None
    rate: float | None = None
    max_events: int | None = None
    dry_run: bool = False

    @property
    def is_range(self) -> bool:
        """Whether a range is replayed, rather than the backlog."""
        return self.first is not None or self.last is not None


@dataclass
class ReplayReport:
    """What a replay did so far. ``next_id``: where a range goes on; None at its end and for a backlog."""

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


class InMemorySums:
    """Sums in memory, for dry runs: of what is replayed alone."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, int], dict[str, int]] = {}

    def add(self, reports: Sequence[HeatReport]) -> list[int]:
        """Add reports, each once."""
        totals = []
        for report in reports:
            part = self._parts.setdefault((report.conversation_id, report.window), {})
            part[report.server] = max(part.get(report.server, 0), report.writes)
            totals.append(sum(part.values()))
        return totals


class KeepNothing:
    """Dead letters of a range or a dry run: they were kept when they were first read, or will be."""

    def add(self, letters: Sequence[tuple[Entry, str]]) -> None:
        """Keep nothing."""


class Replay:
    """A replay. Iterate over :meth:`run` once; every item is the same report as it grows, the last one whole.

    Args:
        stream: the heat stream.
        detector: handles entries; in a dry run over :class:`InMemorySums`.
        lookups: the registry, for dry runs.
        options: what is replayed.
        clock: monotonic seconds.
        sleep: waits, for the rate.
    """

    def __init__(
        self,
        stream: ReplayStream,
        detector: Detector,
        lookups: Lookups,
        options: ReplayOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._stream = stream
        self._detector = detector
        self._lookups = lookups
        self._options = options
        self._clock = clock
        self._sleep = sleep
        self._needs: dict[str, RaiseDecision] = {}
        self.report = ReplayReport(dry_run=options.dry_run)

    def run(self) -> Generator[ReplayReport, None, None]:
        """Do it.

        Raises:
            StreamLostError: there is no stream, or no group.
            UnavailableError, AccessDeniedError, ConfigurationError: a server failed; what was not handled stays
                pending or unread, and running it again goes on there.
        """
        started = self._clock()
        for entries, source in self._batches():
            if self._options.dry_run:
                self._simulate(entries)
            else:
                self._note(self._detector.handle(entries, source))
            self.report.read += len(entries)
            yield self.report
            if self._options.rate:
                self._sleep(max(self.report.read / self._options.rate - (self._clock() - started), 0.0))
        if self._options.dry_run:
            self._compare()
        elif not self._options.is_range:
            self._stream.delete_idle_consumers(0.0, self._options.consumer)
        yield self.report

    def _batches(self) -> Iterator[tuple[list[Entry], ReplayStream | None]]:
        if self._options.is_range:
            return ((entries, None) for entries in self._range(self._options.first or "-", self._options.last or "+"))
        if self._options.dry_run:
            return ((entries, None) for entries in self._backlog_unchanged())
        return ((entries, self._stream) for entries in self._backlog())

    def _room(self) -> int:
        """How many entries may be read next; 0 at the end of --max-events."""
        most = BATCH if not self._options.rate else max(min(BATCH, int(self._options.rate)), 1)
        if self._options.max_events is None:
            return most
        return max(min(most, self._options.max_events - self.report.read), 0)

    def _range(self, first: str, last: str) -> Iterator[list[Entry]]:
        while room := self._room():
            entries = self._stream.range(first, last, room)
            if not entries:
                self.report.next_id = None
                self.report.drained = True
                return
            yield entries
            first = f"({entries[-1].id}"
            self.report.next_id = _following(entries[-1].id)

    def _backlog(self) -> Iterator[list[Entry]]:
        """Own entries of a replay that was broken off, what dead consumers hold, then what nobody has read."""
        consumer = self._options.consumer
        after = "0"
        while (room := self._room()) and (entries := self._stream.read_own(consumer, after, room)):
            yield entries
            after = entries[-1].id
        deadline = self._clock() + WAIT_FOR_OTHERS
        while room := self._room():
            entries = self._claim(room) or self._stream.read_new(consumer, room)
            if entries:
                yield entries
                continue
            group = self._stream.info().group(self._stream.group)
            self.report.held_by_others = 0 if group is None else group.pending
            if not self.report.held_by_others:
                self.report.drained = True
                return
            # Their consumer is either alive and about to finish, or will be silent for long enough to be dead.
            if self._clock() >= deadline:
                return
            self._sleep(POLL_SECONDS)

    def _claim(self, count: int) -> list[Entry]:
        cursor = FIRST_ID
        while True:
            claimed = self._stream.claim(self._options.consumer, ALIVE_SECONDS, cursor, count)
            if claimed.entries or claimed.cursor == FIRST_ID:
                self.report.claimed += len(claimed.entries)
                return claimed.entries
            cursor = claimed.cursor

    def _backlog_unchanged(self) -> Iterator[list[Entry]]:
        """The same entries, looked at without taking them: pending ones of everybody, then the unread."""
        first = "-"
        while (room := self._room()) and (rows := self._stream.pending(first, room)):
            found = self._stream.get([entry_id for entry_id, _, _ in rows])
            self.report.claimed += len(rows)
            yield [Entry(entry_id, found.get(entry_id)) for entry_id, _, _ in rows]
            first = f"({rows[-1][0]}"
        group = self._stream.info().group(self._stream.group)
        yield from self._range("-" if group is None else f"({group.last_delivered_id}", "+")
        self.report.next_id = None

    def _note(self, done: BatchResult) -> None:
        report = self.report
        report.stale += done.stale
        report.dead += done.dead
        for result in done.raises:
            if result.changed:
                report.raised += 1
                report.raises.append(
                    {"conversation_id": result.conversation_id, "before": result.before, "after": result.after}
                )
            else:
                report.unchanged += 1
        if done.failure is not None:
            raise _resumable(done.failure)

    def _simulate(self, entries: Sequence[Entry]) -> None:
        needs, done = self._detector.preview(entries)
        self.report.stale += done.stale
        self.report.dead += done.dead
        for need in needs:
            held = self._needs.get(need.conversation_id)
            if held is None or held.n < need.n:
                self._needs[need.conversation_id] = need

    def _compare(self) -> None:
        held = self._lookups.lookup_many(list(self._needs))
        for conversation_id, need in self._needs.items():
            before = held[conversation_id].max_n
            if before < need.n:
                self.report.raised += 1
                raised = {"conversation_id": conversation_id, "before": before, "after": need.n}
                self.report.raises.append(raised)
            else:
                self.report.unchanged += 1


def _following(entry_id: str) -> str:
    milliseconds, sequence = id_order(entry_id)
    return f"{milliseconds}-{sequence + 1}"


def _resumable(failure: SaltctlError) -> SaltctlError:
    failure.hint = f"nothing is lost; run it again: saltctl stream replay. {failure.hint}"
    return failure
