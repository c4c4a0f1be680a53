"""The write meter of an application server: local counters, and heat reports at the end of each window.

A write costs one clock reading and one append: it takes no lock and uses no network. A background thread sends the
reports. While Redis is unavailable, reports wait in bounded memory and are sent again: detection is late, but no write
is. A report counts once, however often it is sent.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from saltctl.detection.events import logger
from saltctl.detection.write_window import WeightedWrite, WriteWindow
from saltctl.errors import InvalidConversationIdError, SaltctlError
from saltctl.forks import importing, this_process
from saltctl.salting import check_conversation_id
from saltctl.settings import Settings, settings_or_loaded
from saltctl.stores.heat.contracts import ReportSink
from saltctl.stores.heat.report import MAX_SERVER_BYTES, MAX_THROTTLED_N, MAX_WRITES, WINDOW_SECONDS, HeatReport
from saltctl.throttling.key_range import throttled_by_key_range
from saltctl.values import check_number, check_whole

CAPACITY = 32_768
"""Conversations that are counted at the same time. :class:`WriteMeter` explains the counts above it."""
LOG_LENGTH = 4096
"""Writes that are logged before they are counted: few enough to stay in the processor's cache."""
MAX_UNSENT_WINDOWS = 4
"""Finished windows that wait for the sender. More than one waits only if a report hangs."""


@dataclass(frozen=True, slots=True)
class MeterStats:
    """Totals of one meter.

    ``dropped`` reports will never be sent; ``waiting`` ones failed in an outage, and are sent again with the next ones.
    ``windows_lost`` windows were discarded because the sender hung; ``invalid`` records had no valid conversation id
    or units; ``overflows`` counts the reductions of the counters. The sender failed ``failures`` times. It last did
    all its work at ``last_success``, in seconds since the epoch, also if there was nothing to report.
    """

    sent: int
    dropped: int
    windows_lost: int
    invalid: int
    overflows: int
    failures: int = 0
    last_success: float | None = None
    waiting: int = 0


class WriteMeter:
    """Counts writes per conversation in windows of one second. Thread-safe: open one for each process and share it.

    >>> meter = WriteMeter.open()                        # doctest: +SKIP
    >>> meter.record("conv_abc123")                      # doctest: +SKIP

    Counts are exact while fewer than ``capacity`` different conversations are written in a second. Above that,
    the meter uses the frequent-items algorithm of Misra and Gries in the batched form of Anderson et al. ("A
    high-performance algorithm for identifying frequent items in data streams", 2017). When all counters are in use,
    it subtracts their median from each and frees those at zero or below. A count is never too high. It is too low by
    at most 2 · W / capacity, where W is the number of write units in the window: a reduction by d takes at least d
    from half of the counters. With the default capacity and 100,000 writes in a second that is 6 units.

    Args:
        sink: receives the reports.
        floor: write units in a window below which a conversation is not reported.
        server: a name for this server, by default its host. The name in the reports, :attr:`server`, has the process
            id and a random part in addition: counts of the same name are not added up.
        capacity: number of counters, at least 2; it bounds the memory (``python -m tests.benchmarks detection``). So
            many reports may wait for the end of an outage; above that the oldest are dropped.
        clock: returns seconds since the epoch. It may jump: a window ends when the clock leaves it.
        thread: send from a background thread, which the first record starts. If False, call :meth:`flush`.
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
        check_number("floor", floor, 0)
        check_whole("capacity", capacity, 2)
        self._sink = sink
        self._floor = floor
        self._fixed_name = server
        self._capacity = capacity
        self._clock = clock
        self._use_thread = thread
        self._reset()
        _open_meters.add(self)

    @classmethod
    def open(cls, settings: Settings | None = None, *, server: str | None = None) -> WriteMeter:
        """Return a meter that reports to the heat stream. It connects when the first report is due.

        Raises:
            ConfigurationError: no Redis is configured, or a setting is invalid.
        """
        with importing:
            from saltctl.stores.heat.stream import HeatStream

        settings = settings_or_loaded(settings)
        return cls(HeatStream(settings), floor=settings.heat_floor, server=server)

    def _reset(self) -> None:
        """Empty the meter, without a thread: at the start, and in the child of a fork."""
        self._process = this_process()
        unique = f":{os.getpid()}:{secrets.token_hex(4)}"
        self.server = (self._fixed_name or socket.gethostname())[: MAX_SERVER_BYTES - len(unique)] + unique
        """The name of this meter in its reports: another one for each meter, and in each process."""
        self._sent = self._dropped = self._invalid = self._overflows = self._windows_lost = self._failures = 0
        self._last_success: float | None = None
        self.last_failure: Exception | None = None
        """The error for which the latest reports were not sent; None if they were."""
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._wake = threading.Event()
        self._window = WriteWindow(0, 0, self._capacity)
        self._finished: deque[WriteWindow] = deque()
        self._urgent: dict[tuple[int, str], int] = {}
        self._unsent: deque[list[HeatReport]] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def _reset_in_child(self) -> None:
        """Empty the meter if a server written in C has forked without Python's hooks."""
        if self._process != this_process():
            self._reset()

    @property
    def stats(self) -> MeterStats:
        """Totals of this meter."""
        counts = (self._sent, self._dropped, self._windows_lost, self._invalid, self._overflows)
        return MeterStats(*counts, self._failures, self._last_success, sum(map(len, self._unsent.copy())))

    @property
    def is_running(self) -> bool:
        """Whether its thread runs: from the first record on until it is closed."""
        return self._thread is not None and self._thread.is_alive()

    def record(self, conversation_id: str, units: float = 1) -> None:
        """Count a write. Never blocks and never fails.

        Args:
            conversation_id: the conversation, without a salt. An invalid id is detected when the window is sent, and
                counted as ``invalid``.
            units: write units of this write: 1 for up to 1 KB, or the ConsumedCapacity that DynamoDB returns.
        """
        window = self._window
        if not window.begin <= self._clock() < window.end:
            window = self._current_window()
        log = window.log
        log.append(conversation_id if units == 1 else WeightedWrite(conversation_id, units))
        if len(log) >= LOG_LENGTH:
            window.count_log(wait=False)

    def throttled(self, error: object, conversation_id: str, *, n: int = 1) -> bool:
        """Report heat at once if the error says that a key range of the table was throttled.

        Args:
            error: the exception of boto3.
            conversation_id: the conversation of the write or read, without the salt.
            n: the number of salts it was spread over (``Lookup.write_n``): the conversation needs more. What is no
                such number counts as 1: a handler of exceptions must not raise another one.

        Returns:
            Whether a key range was throttled. The background thread is woken to send the report: at most one for
            each conversation, N and window.
        """
        if not throttled_by_key_range(error):
            return False
        n = n if type(n) is int and n > 0 else 1
        window = self._current_window()
        with self._lock:
            key = (window.begin, conversation_id)
            if self._urgent.get(key, 0) < n and len(self._urgent) < self._capacity:
                self._urgent[key] = n
                self._wake.set()
        return True

    def flush(self) -> int:
        """Send the reports of all finished windows and of throttling. Return the number of reports sent.

        The background thread calls this at the end of each window. It never raises: if the sink raises a SaltctlError,
        the reports wait for the next call; if it raises anything else, they are dropped. Both are counted.
        """
        self._current_window()
        return self._send_finished()

    def close(self) -> None:
        """Send all reports, including the current window, and stop the thread. A later record starts it again.

        Reports that cannot be sent now are dropped.
        """
        self._reset_in_child()
        with self._lock:
            thread, self._thread = self._thread, None
            self._closed = True
            self._wake.set()
        if thread is not None and thread.is_alive():
            thread.join()
        with self._lock:
            self._finish_window(WriteWindow(0, 0, self._capacity))
            self._closed = False
        self._send_finished()
        with self._sending:
            while self._unsent:
                self._drop_oldest()

    def __enter__(self) -> Self:
        """Return the meter. It is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the meter."""
        self.close()

    def _current_window(self) -> WriteWindow:
        """Return the window of the current time; begin it if needed. So does a clock that jumped backwards."""
        self._reset_in_child()
        with self._lock:
            now = self._clock()
            if self._window.begin <= now < self._window.end:
                return self._window
            begin = int(now // WINDOW_SECONDS) * WINDOW_SECONDS
            self._finish_window(WriteWindow(begin, begin + WINDOW_SECONDS, self._capacity))
            if self._use_thread and not self._closed and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, name="saltctl-meter", daemon=True)
                # A write must not fail if the system has no thread left, or if the interpreter is shutting down.
                with suppress(RuntimeError):
                    self._thread.start()
            return self._window

    def _finish_window(self, following: WriteWindow) -> None:
        finished, self._window = self._window, following
        if not finished.log and not finished.counts:
            return
        if len(self._finished) >= MAX_UNSENT_WINDOWS:
            self._windows_lost += 1
            self._finished.popleft()
        self._finished.append(finished)

    def _send_finished(self) -> int:
        with self._sending:
            with self._lock:
                current = self._window
                windows, self._finished = list(self._finished), deque()
                urgent, self._urgent = self._urgent, {}
            before = self._sent
            try:
                if reports := self._reports_of(windows, current, urgent):
                    self._unsent.append(reports)
                while self._unsent:
                    self._send_batch(self._unsent[0])
            except Exception as exc:  # any of a callback of the application: the next window must be sent
                self._count_failure(exc)
                while len(self._unsent) > 1 and sum(map(len, self._unsent)) > self._capacity:
                    self._drop_oldest()
            else:
                self._last_success = self._clock()
            return self._sent - before

    def _send_batch(self, reports: list[HeatReport]) -> None:
        """Send the oldest batch. If it raises a SaltctlError, the batch waits on; any other error would come again."""
        try:
            self._sink.append_reports(reports)
        except SaltctlError:
            raise
        except Exception:
            self._drop_oldest()
            raise
        self._unsent.popleft()
        self._sent += len(reports)
        self.last_failure = None

    def _drop_oldest(self) -> None:
        self._dropped += len(self._unsent.popleft())

    def _reports_of(
        self, windows: Sequence[WriteWindow], current: WriteWindow, urgent: Mapping[tuple[int, str], int]
    ) -> list[HeatReport]:
        for window in (*windows, current) if urgent else windows:
            window.count_log(wait=True)
        counts = {window.begin: window.counts for window in (*windows, current)}
        rows = [(begin, id_, counts.get(begin, {}).get(id_, 0), n) for (begin, id_), n in urgent.items()]
        for window in windows:
            self._invalid += window.invalid
            self._overflows += window.reductions
            rows += [(window.begin, id_, count, 0) for id_, count in window.counts.items() if count >= self._floor]
        reports = [report for row in rows if (report := self._report(*row)) is not None]
        self._invalid += len(rows) - len(reports)
        return reports

    def _count_failure(self, exc: Exception) -> None:
        if type(exc) is not type(self.last_failure):
            logger.warning("heat reports cannot be sent: %s: %s", type(exc).__name__, exc)
        self._failures += 1
        self.last_failure = exc

    def _report(self, window: int, conversation_id: str, count: float, throttled_n: int) -> HeatReport | None:
        """Return the report, or None if the conversation id or the count is invalid."""
        try:
            check_conversation_id(conversation_id)
            writes = int(count)
        except (InvalidConversationIdError, ValueError, OverflowError, TypeError, AttributeError):
            return None
        n = min(max(throttled_n, 0), MAX_THROTTLED_N)
        return HeatReport(conversation_id, self.server, window, min(max(writes, 0), MAX_WRITES), n)

    def _run(self) -> None:
        """Send at the end of each window, and whenever woken, until the meter is closed."""
        while not self._closed:
            try:
                self._wake.wait(max(WINDOW_SECONDS - self._clock() % WINDOW_SECONDS, 0.01))
                self._wake.clear()
                self.flush()
            except Exception as exc:  # detection depends on this thread
                self._count_failure(exc)
                time.sleep(1.0)


_open_meters: weakref.WeakSet[WriteMeter] = weakref.WeakSet()


def _after_fork() -> None:
    # The child has no thread, its locks may be held, and it needs a name of its own. A hook, not a check of the process
    # at each use as elsewhere: counting a write must cost less than such a check.
    for meter in list(_open_meters):
        meter._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
