"""The write meter of an application server: local counters, and heat reports at the end of each window.

The write path pays for a look at the clock and one append, never for a lock or the network: reports are sent by
a thread of the meter's own, and where Redis is away they are dropped and counted. Detection is then late; no write is.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

from saltctl.errors import InvalidConversationIdError, SaltctlError
from saltctl.salting import check_conversation_id
from saltctl.settings import Settings
from saltctl.stores.heat.report import MAX_SERVER_BYTES, MAX_THROTTLED_N, MAX_WRITES, WINDOW_SECONDS, HeatReport

CAPACITY = 32_768
"""Conversations that are counted at the same time; see :class:`WriteMeter` for what happens above."""
LOG_LENGTH = 4096
"""Writes that are noted before they are counted: few enough to stay in the processor's cache."""
WINDOWS_KEPT = 4
"""Finished windows that wait for the sender. Only a sender that hangs lets more than one wait."""
KEY_RANGE_REASONS = frozenset({"TableWriteKeyRangeThroughputExceeded", "TableReadKeyRangeThroughputExceeded"})
"""What salting helps against. ``Index…`` means that a secondary index is hot, which no N of the table cures."""


class ReportSink(Protocol):
    """Where reports go: ``HeatStream``, or a list in tests."""

    def append_reports(self, reports: Sequence[HeatReport]) -> None:
        """Add all, in one round trip and with a short deadline; raises SaltctlError where that fails."""
        ...


@dataclass(frozen=True, slots=True)
class MeterStats:
    """What became of the reports of one meter so far.

    ``dropped`` could not be sent; ``windows_lost`` waited for the sender in vain; ``invalid`` were recorded for
    what cannot be a conversation; ``overflows``: how often the counters were cut down.
    """

    sent: int
    dropped: int
    windows_lost: int
    invalid: int
    overflows: int


class _Weighted(NamedTuple):
    """A write of other than one unit, as it stands in a log."""

    conversation_id: str
    units: float


class _Window:
    """The writes of one window: a log that any thread appends to, and counters that it is folded into.

    Appending to a list is one operation to CPython, so writers need no lock, which would cost them more than
    everything else (measured: tests/benchmarks/meter.py). A write that is between its look at the clock and its
    append while the window is sent may be missed: one a thread and window at most, and never counted twice.
    """

    __slots__ = ("begins", "capacity", "counts", "cuts", "ends", "folding", "invalid", "log")

    def __init__(self, begins: int, ends: int, capacity: int) -> None:
        self.begins = begins
        self.ends = ends
        self.capacity = capacity
        self.log: list[Any] = []
        self.counts: dict[str, float] = {}
        self.folding = threading.Lock()
        self.invalid = 0
        self.cuts = 0

    def fold(self, *, wait: bool) -> None:
        """Count what is in the log; where another thread is at it, return unless told to wait."""
        if not self.folding.acquire(blocking=wait):
            return
        try:
            # In place: what others append between these two lines stays for the next time.
            taken = self.log[:]
            del self.log[: len(taken)]
            self._count(taken)
        finally:
            self.folding.release()

    def _count(self, taken: list[Any]) -> None:
        try:
            tally = Counter(taken)
        except TypeError:  # something that cannot be a key, and so no conversation
            hashable = [item for item in taken if _is_hashable(item)]
            self.invalid += len(taken) - len(hashable)
            tally = Counter(hashable)
        for item, times in tally.items():
            try:
                if type(item) is _Weighted:
                    self._add(item.conversation_id, times * (0 + item.units))
                else:
                    self._add(item, times)
            except TypeError:
                self.invalid += times

    def _add(self, conversation_id: str, units: float) -> None:
        counts = self.counts
        if conversation_id in counts:
            counts[conversation_id] += units
            return
        if len(counts) >= self.capacity:
            self._cut_down()
        self.counts[conversation_id] = units

    def _cut_down(self) -> None:
        by = sorted(self.counts.values())[len(self.counts) // 2]
        self.counts = {key: left for key, count in self.counts.items() if (left := count - by) > 0}
        self.cuts += 1


def _is_hashable(item: Any) -> bool:
    try:
        hash(item)
    except TypeError:
        return False
    return True


def throttled_by_key_range(error: object) -> bool:
    """Whether a botocore ClientError says that a key range of the table was throttled.

    Reads ``ThrottlingReasons`` (ProvisionedThroughputExceededException, RequestLimitExceeded) and
    ``throttlingReasons`` (ThrottlingException), as DynamoDB documents them. Anything else is False: an index,
    the provisioned throughput and account limits are not helped by salting.
    """
    response = getattr(error, "response", None)
    if not isinstance(response, Mapping):
        return False
    for holder in (response, response.get("Error")):
        if not isinstance(holder, Mapping):
            continue
        for spelling in ("ThrottlingReasons", "throttlingReasons"):
            reasons = holder.get(spelling)
            if isinstance(reasons, Iterable) and any(_is_key_range(entry) for entry in reasons):
                return True
    return False


def _is_key_range(entry: Any) -> bool:
    return isinstance(entry, Mapping) and (entry.get("reason") or entry.get("Reason")) in KEY_RANGE_REASONS


def server_name() -> str:
    """A name that no other meter has: host, process and a random part. Counts of one name are never added up."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


class WriteMeter:
    """Counts writes per conversation in windows of one second. Thread-safe; open one a process and share it.

    >>> meter = WriteMeter.open()                        # doctest: +SKIP
    >>> meter.record("conv_abc123")                      # doctest: +SKIP

    Counting is exact while fewer than ``capacity`` different conversations are written within one second,
    which is so on any server that does fewer writes than that. Above, the counters are cut down as in
    Misra and Gries' frequent-items algorithm, in the batched form of Anderson et al. ("A high-performance
    algorithm for identifying frequent items in data streams", 2017): when all counters are taken, their
    median is subtracted from each, and those at zero or below are freed. A count is then too low by at most
    2 · W / capacity, where W are the write units of the window, and never too high: a cut by d takes at least
    d from half of the counters. With the default capacity and 100,000 writes in a second that is 6 units.

    Args:
        sink: where reports go.
        floor: write units in a window below which a conversation is not reported.
        server: this meter's name in its reports; must be unique among all meters that run at the same time.
        capacity: counters, at least 2; the memory they need is bounded by it (tests/benchmarks/meter.py).
        clock: seconds since the epoch. It may jump: a window ends when the clock leaves it, either way.
        thread: send from a background thread that starts at the first record; else call :meth:`flush`.
    """

    def __init__(
        self,
        sink: ReportSink,
        *,
        floor: int = 10,
        server: str | None = None,
        capacity: int = CAPACITY,
        clock: Callable[[], float] = time.time,
        thread: bool = True,
    ) -> None:
        self._sink = sink
        self._floor = floor
        self._named = server
        self._capacity = max(capacity, 2)
        self._clock = clock
        self._threaded = thread
        self._sent = self._dropped = self._invalid = self._overflows = self._windows_lost = 0
        self._failure: SaltctlError | None = None
        self._reset()
        _live.add(self)

    @classmethod
    def open(cls, settings: Settings | None = None, *, server: str | None = None) -> WriteMeter:
        """A meter that reports to the stream the settings name, resolved from the environment where omitted.

        Nothing is connected before the first report is due.

        Raises:
            ConfigurationError: no Redis is configured, or a setting cannot be used.
        """
        from saltctl.settings import load_settings
        from saltctl.stores.heat.stream import HeatStream

        settings = settings or load_settings()
        return cls(HeatStream(settings), floor=settings.heat_floor, server=server)

    def _reset(self) -> None:
        """An empty meter without a thread: at the beginning, and in the child of a fork."""
        self._server = (self._named or server_name())[:MAX_SERVER_BYTES]
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._wake = threading.Event()
        self._window = _Window(0, 0, self._capacity)
        self._finished: deque[_Window] = deque()
        self._urgent: dict[tuple[int, str], int] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def server(self) -> str:
        """This meter's name in its reports."""
        return self._server

    @property
    def stats(self) -> MeterStats:
        """What became of the reports so far."""
        return MeterStats(self._sent, self._dropped, self._windows_lost, self._invalid, self._overflows)

    @property
    def last_failure(self) -> SaltctlError | None:
        """Why the latest reports were dropped; None where they were sent."""
        return self._failure

    def record(self, conversation_id: str, units: float = 1) -> None:
        """Count a write. Never blocks, never fails.

        Args:
            conversation_id: the conversation, without a salt. An id that cannot be one is noticed when its
                report is due, and counted as ``invalid``.
            units: write units of this write: 1 for up to 1 KB, or what DynamoDB returns as ConsumedCapacity.
        """
        window = self._window
        if not window.begins <= self._clock() < window.ends:
            window = self._turn()
        log = window.log
        log.append(conversation_id if units == 1 else _Weighted(conversation_id, units))
        if len(log) >= LOG_LENGTH:
            window.fold(wait=False)

    def throttled(self, error: object, conversation_id: str, *, n: int = 1) -> bool:
        """Report heat at once if, and only if, the error says that a key range of the table was throttled.

        Args:
            error: what boto3 raised.
            conversation_id: whose write or read it was, without the salt.
            n: the N that it was spread over (``Lookup.write_n``): the conversation needs more than that.

        Returns:
            Whether it was such an error. The report leaves with the background thread, which is woken; at
            most one a conversation, N and window.
        """
        if not throttled_by_key_range(error):
            return False
        window = self._current()
        with self._lock:
            key = (window.begins, conversation_id)
            if self._urgent.get(key, 0) >= n or len(self._urgent) >= self._capacity:
                return True
            self._urgent[key] = n
        self._wake.set()
        return True

    def flush(self) -> int:
        """Send what is due now: the reports of all windows that are over, and of throttling. How many were sent.

        The background thread calls it at the end of each window. Never raises for an outage: what cannot be
        sent is dropped and counted.
        """
        self._current()
        return self._send()

    def close(self) -> None:
        """Report the window that is under way, too, and stop the thread. Counting afterwards starts it again."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._closed = True
            self._wake.set()
        if thread is not None and thread.is_alive():
            thread.join()
        with self._lock:
            self._finish_window(_Window(0, 0, self._capacity))
            self._closed = False
        self._send()

    def __enter__(self) -> Self:
        """Itself; closed when the block ends."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _current(self) -> _Window:
        window = self._window
        return window if window.begins <= self._clock() < window.ends else self._turn()

    def _turn(self) -> _Window:
        """Begin the window that the clock is in; a clock that jumped backwards begins one, too."""
        with self._lock:
            now = self._clock()
            if self._window.begins <= now < self._window.ends:
                return self._window  # another thread was first
            begins = int(now // WINDOW_SECONDS) * WINDOW_SECONDS
            self._finish_window(_Window(begins, begins + WINDOW_SECONDS, self._capacity))
            self._ensure_thread()
            return self._window

    def _finish_window(self, following: _Window) -> None:
        finished, self._window = self._window, following
        if not finished.log and not finished.counts:
            return
        if len(self._finished) >= WINDOWS_KEPT:
            self._windows_lost += 1
            self._finished.popleft()
        self._finished.append(finished)

    def _ensure_thread(self) -> None:
        if not self._threaded or self._closed or (self._thread is not None and self._thread.is_alive()):
            return
        self._thread = threading.Thread(target=self._run, name="saltctl-meter", daemon=True)
        # No thread to be had, or the interpreter is ending: no reason for a write to fail.
        with suppress(RuntimeError):
            self._thread.start()

    # On the sender's side.

    def _send(self) -> int:
        with self._sending:
            with self._lock:
                current = self._window
                windows, self._finished = list(self._finished), deque()
                urgent, self._urgent = self._urgent, {}
            for window in (*windows, current) if urgent else windows:
                window.fold(wait=True)
            by_start = {window.begins: window.counts for window in (*windows, current)}
            reports = [
                self._report(start, conversation_id, by_start.get(start, {}).get(conversation_id, 0), n)
                for (start, conversation_id), n in urgent.items()
            ]
            for window in windows:
                self._invalid += window.invalid
                self._overflows += window.cuts
                reports += [
                    self._report(window.begins, conversation_id, count)
                    for conversation_id, count in window.counts.items()
                    if count >= self._floor
                ]
            valid = [report for report in reports if report is not None]
            self._invalid += len(reports) - len(valid)
            return self._hand_over(valid)

    def _hand_over(self, reports: list[HeatReport]) -> int:
        if not reports:
            return 0
        try:
            self._sink.append_reports(reports)
        except SaltctlError as exc:
            self._failure = exc
            self._dropped += len(reports)
            return 0
        self._failure = None
        self._sent += len(reports)
        return len(reports)

    def _report(self, window: int, conversation_id: str, count: float, throttled_n: int = 0) -> HeatReport | None:
        """The report, or None where there can be none."""
        try:
            check_conversation_id(conversation_id)
            writes = int(count)
        except (InvalidConversationIdError, ValueError, OverflowError, TypeError, AttributeError):
            return None
        n = min(max(throttled_n, 0), MAX_THROTTLED_N)
        return HeatReport(conversation_id, self._server, window, min(max(writes, 0), MAX_WRITES), n)

    def _run(self) -> None:
        """Send at the end of each window, and at once when woken, until closed."""
        while not self._closed:
            self._wake.wait(max(WINDOW_SECONDS - self._clock() % WINDOW_SECONDS, 0.01))
            self._wake.clear()
            self.flush()


_live: weakref.WeakSet[WriteMeter] = weakref.WeakSet()


def _after_fork() -> None:
    # The child has neither the thread nor, with certainty, a free lock; and it needs a name of its own.
    for meter in list(_live):
        meter._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
