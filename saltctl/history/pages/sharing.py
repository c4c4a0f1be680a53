"""Readers of one page at the same time share one read of it, which began after each of them asked.

A read in progress may have passed a partition just before a message was written there, so a reader who asks afterwards
must not join it: that message may be acknowledged, and a complete read has it. Such a reader waits for the next read,
with all others who ask until it begins. It begins when the one in progress has ended. Then a hundred readers at once
cost two reads, and one reader alone waits for nothing.

If a read takes unusually long, it waits for one slow partition, and its end says nothing about the next read. So after
PATIENCE the next one begins beside it, and at most so many as MOST are in progress: if a server hangs, readers do not
add to its load.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import dataclass, field
from queue import SimpleQueue
from weakref import WeakValueDictionary, ref

from saltctl.errors import HistoryUnavailableError, SaltctlError
from saltctl.forks import PerProcess, this_process
from saltctl.history.pages.round import Wakes, wait_for
from saltctl.history.pages.scatter_gather import PageRows

PATIENCE = 0.1
"""Seconds for which a reader waits for a read in progress: several times as long as a page usually takes."""
MOST = 2
"""Reads of one page in progress at once."""


class _Leader:
    """A reader, while its call lasts. A read refers to it weakly, so that it ends with its leader in any case."""

    __slots__ = ("__weakref__",)


@dataclass(eq=False)
class SharedRead:
    """One read of a page. It has neither rows nor an error if its leader was interrupted, or had no time left."""

    leader: ref[_Leader] | None = None
    ended: bool = False
    rows: PageRows | None = None
    error: SaltctlError | None = None

    @property
    def over(self) -> bool:
        """Whether it has begun and ended."""
        return self.leader is not None and (self.ended or self.leader() is None)


@dataclass(eq=False)
class PageReads:
    """The reads of one page: those in progress, and the next one. It lives as long as a reader holds it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    next: SharedRead = field(default_factory=SharedRead)
    in_progress: list[SharedRead] = field(default_factory=list)
    waiting: set[Wakes] = field(default_factory=set)

    def begin(self, read: SharedRead, leader: _Leader, waited: float) -> bool:
        """Begin a read, unless it has begun or has to wait; return whether this reader leads it."""
        with self.lock:
            self.in_progress = [one for one in self.in_progress if not one.over]
            running = len(self.in_progress)
            if read.leader is not None or (running and (waited < PATIENCE or running >= MOST)):
                return False
            self.next, read.leader = SharedRead(), ref(leader)
            self.in_progress.append(read)
            return True

    def end(self, read: SharedRead, leader: _Leader) -> None:
        """End a read if this reader leads it. Takes no lock: it may be called in the child of a fork."""
        if read.leader is not None and read.leader() is leader:
            read.ended = True
            for wakes in self.waiting.copy():
                wakes.put(None)


@dataclass(eq=False)
class _OfProcess:
    """The pages that readers of one process read. The child of a fork begins without those of its parent's threads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    pages: WeakValueDictionary[Hashable, PageReads] = field(default_factory=WeakValueDictionary)

    def page(self, key: Hashable) -> PageReads:
        """Return the reads of a page."""
        with self.lock:
            page = self.pages.get(key)
            if page is None:
                page = self.pages[key] = PageReads()
            return page


class SharedReads:
    """The reads of all pages of one History that readers share. Thread-safe.

    Args:
        clock: monotonic seconds.
        wait: waits for a wake, or for some seconds.
    """

    def __init__(self, clock: Callable[[], float], wait: Callable[[Wakes, float], None] = wait_for) -> None:
        self._clock = clock
        self._wait = wait
        self._own = PerProcess(_OfProcess)

    def read(
        self, key: Hashable, deadline: float, read: Callable[[], PageRows], too_late: Callable[[], SaltctlError]
    ) -> PageRows:
        """Return the rows of a read that began after this call: that of this reader, or of another with the same key.

        The rows are shared, and must not be changed. An error of another reader's read is raised as a copy.

        Args:
            key: the same for readers of the same page alone.
            deadline: when the time of this reader is over, by the clock.
            read: reads the page alone, by the deadline.
            too_late: makes the error if the read of another reader has not ended by the deadline.
        """
        page, leader, wakes = self._own.get().page(key), _Leader(), SimpleQueue[None]()
        process, asked, shared = this_process(), self._clock(), self.join(page)
        page.waiting.add(wakes)
        try:
            while process == this_process():  # else a signal handler has forked, and this child has no other readers
                if page.begin(shared, leader, self._clock() - asked):
                    return self._lead(shared, deadline, read)
                if shared.over and shared.error is not None:
                    raise _copy_of(shared.error)
                if shared.over and shared.rows is not None:
                    return shared.rows
                if shared.over:
                    shared = self.join(page)
                elif (left := deadline - self._clock()) > 0:
                    self._wait(wakes, min(left, PATIENCE))
                else:
                    raise too_late()
            return read()
        finally:
            page.end(shared, leader)
            page.waiting.discard(wakes)

    def join(self, page: PageReads) -> SharedRead:
        """Return the read that a reader who asks now may share: one that has not begun."""
        with page.lock:
            return page.next

    def _lead(self, shared: SharedRead, deadline: float, read: Callable[[], PageRows]) -> PageRows:
        """Read, and share the rows or the error, unless others may have more time than this reader had."""
        try:
            rows = read()
        except SaltctlError as exc:
            if self._clock() < deadline:
                shared.error = _copy_of(exc)
            raise
        if self._clock() < deadline or not any(partition.error for partition in rows.partitions):
            shared.rows = rows
        return rows


def _copy_of(error: SaltctlError) -> SaltctlError:
    """Return an error with the same content, and nothing that can be changed in common."""
    copied = copy(error)
    if isinstance(copied, HistoryUnavailableError):
        copied.partitions = {key: copy(reason) for key, reason in copied.partitions.items()}
    return copied
