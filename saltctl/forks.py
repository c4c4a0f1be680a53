"""State that belongs to one process: the child of a fork makes its own, and never uses that of its parent.

A child has a copy of its parent's memory and its sockets, but none of its other threads. Two processes that use one
socket read each other's responses. A lock that another thread held at the fork is never released in the child.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from queue import Queue
from typing import Generic, TypeVar

T = TypeVar("T")
Process = tuple[int, int]
_forks = 0

importing = threading.RLock()
"""Held while a library is imported at its first use. A fork waits for it: a module that is half imported at the fork
stays so in the child, and a second import there waits forever (measured on CPython 3.11)."""


def import_whole(load: Callable[[], object]) -> None:
    """Call a function that imports libraries; no exception of a signal handler leaves them half imported.

    Handlers run in the main thread, so another thread imports them. boto3 and redis cannot be imported again in a
    process in which that failed half-way (measured: ``module 'boto3' has no attribute 'utils'``).
    """
    if load in _imported:
        return
    failures: list[BaseException] = []

    def work() -> None:
        """Import them, and keep what is raised for the caller."""
        try:
            with importing:
                load()
            _imported.add(load)
        except BaseException as exc:
            failures.append(exc)

    if threading.current_thread() is threading.main_thread():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    else:
        work()
    if failures:
        raise failures[0]


_imported: set[Callable[[], object]] = set()


def this_process() -> Process:
    """Return what identifies this process among its ancestors: forks since the first one, and the process id.

    The system may give the id of a dead ancestor again. The count alone is not enough either: servers written in C
    may fork without Python's hooks.
    """
    return _forks, os.getpid()


def _in_child() -> None:
    global _forks  # noqa: PLW0603  a counter of this module
    _forks += 1
    importing.release()
    # urllib3 empties its pools at the end of a process. The child must not wait for the lock of a pool that a thread of
    # the parent held, which nobody will release. The registry of finalizers is private: without it, nothing is skipped.
    for finalizer in list(getattr(weakref.finalize, "_registry", ())):
        _, _, arguments, _ = finalizer.peek() or (None, None, (), None)
        for queue in arguments:
            if not isinstance(queue, Queue):
                continue
            if queue.mutex.acquire(blocking=False):  # locked() is False until a thread that waited for it runs again
                queue.mutex.release()
            else:
                finalizer.atexit = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=importing.acquire, after_in_parent=importing.release, after_in_child=_in_child)


class PerProcess(Generic[T]):
    """A value that each process makes at its first use. Thread-safe, without a lock that a fork could leave locked.

    Args:
        make: makes the value. Two threads may both call it; one of the values is used.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        # Values of ancestors are kept: their finalizers may close connections, or wait for a lock.
        self._values: dict[Process, T] = {}

    def get(self) -> T:
        """Return the value of this process."""
        process = this_process()
        try:
            return self._values[process]
        except KeyError:
            return self._values.setdefault(process, self._make())

    def peek(self) -> T | None:
        """Return the value of this process; None if it made none."""
        return self._values.get(this_process())

    def renew(self, old: T) -> None:
        """Make a new value at the next use, unless another thread has replaced ``old`` already."""
        process = this_process()
        if self._values.get(process) is old:
            self._values.pop(process, None)
