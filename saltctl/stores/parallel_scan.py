"""Reads the segments of a scan in parallel: each thread reads one segment at a time; the caller takes the pages."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from saltctl.forks import this_process

MOST_THREADS = 72
"""Threads of one scan: as many as a client of DynamoDB keeps connections."""
IDLE_SECONDS = 1.0
"""Seconds without a page after which a scan yields an empty one, so that its caller can renew its lease."""
_Page = TypeVar("_Page")
_Results = queue.Queue[_Page | BaseException | None]
"""Takes pages, the error that ended a thread, or None if a thread has no more segments to read."""


def scan_in_parallel(
    pages: Callable[[int], Iterable[_Page]],
    segments: Iterable[int],
    stop: threading.Event,
    *,
    idle_page: _Page,
    stop_timeout: float,
) -> Iterator[_Page]:
    """Yield all pages of some segments as they arrive, and ``idle_page`` about every second while none arrives.

    One page waits in the queue and each thread holds at most one: memory does not grow with the table.

    Args:
        pages: reads the pages of one segment; it must end soon after ``stop`` is set.
        segments: the numbers of the segments to read.
        stop: set when the caller stops or a segment fails.
        idle_page: the empty page.
        stop_timeout: seconds to wait for threads that are inside a request when the caller stops.
    """
    unfinished: queue.SimpleQueue[int] = queue.SimpleQueue()
    for segment in segments:
        unfinished.put(segment)
    results: _Results[_Page] = queue.Queue(maxsize=1)
    threads = [
        threading.Thread(
            target=_read_segments, args=(pages, unfinished, results, stop), name=f"scan-{number}", daemon=True
        )
        for number in range(min(unfinished.qsize(), MOST_THREADS))
    ]
    threads = threads[: _start(threads)]
    process = this_process()
    try:
        yield from _pages_of(results, len(threads), idle_page)
    finally:
        if process == this_process():  # a forked child has no such threads, and the lock of ``stop`` may be held
            stop.set()
            # One deadline for all threads, not one for each in turn.
            deadline = time.monotonic() + stop_timeout
            for thread in threads:
                thread.join(timeout=max(deadline - time.monotonic(), 0.0))


def _start(threads: Sequence[threading.Thread]) -> int:
    """Start the threads; return how many started. The system may have too few, and one reads all segments, too."""
    for started, thread in enumerate(threads):
        try:
            thread.start()
        except RuntimeError:
            if not started:
                raise
            return started
    return len(threads)


def _pages_of(results: _Results[_Page], running: int, idle_page: _Page) -> Iterator[_Page]:
    while running:
        try:
            result = results.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            yield idle_page
            continue
        if isinstance(result, BaseException):
            raise result
        if result is None:
            running -= 1
        else:
            yield result


def _read_segments(
    pages: Callable[[int], Iterable[_Page]],
    unfinished: queue.SimpleQueue[int],
    results: _Results[_Page],
    stop: threading.Event,
) -> None:
    """Read segments until none is left, in a thread of its own."""
    try:
        while not stop.is_set():
            for page in pages(unfinished.get_nowait()):
                _put(results, page, stop)
    except queue.Empty:
        _put(results, None, stop)
    except BaseException as exc:  # the caller's thread raises it; without it the scan would wait for ever
        _put(results, exc, stop)


def _put(results: _Results[_Page], result: _Page | BaseException | None, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            results.put(result, timeout=0.1)
            return
        except queue.Full:
            continue
