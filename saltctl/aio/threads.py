"""Synchronous calls for an event loop, in a bounded number of threads.

What goes to AWS runs here. aiobotocore was measured beside it, against an HTTP server that costs next to nothing: a
strongly consistent read or a conditional write takes 0.8 ms of processor time with 50 at once in these threads, all
checks of stores/aws included, and 0.7 ms in aiobotocore without any; 50 reads took 42 ms here and 63 ms there. It
would need the bounds, credentials and errors of stores/bounded and stores/aws a second time, and it pins botocore.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from saltctl.errors import UnavailableError, UsageError
from saltctl.forks import PerProcess
from saltctl.history.pages.thread_pool import ThreadPool
from saltctl.stores.redis_async.lookups import forget

T = TypeVar("T")
CLOSE_SECONDS = 5.0
"""Seconds that ``close`` waits for calls in progress. The threads do not keep the process alive after that."""


class Threads:
    """Runs calls in threads, which are daemons, and start anew in a forked child.

    Args:
        count: calls in progress at once; more wait.
        name: the prefix of the threads' names.
        calls: what the calls are, for errors.
        wait: seconds that a call may wait for a thread, unless it says otherwise.
    """

    def __init__(self, count: int, name: str, *, calls: str, wait: float) -> None:
        self._pool = ThreadPool(count, name)
        self._calls = calls
        self._wait = wait
        self._in_progress: PerProcess[set[Future[Any]]] = PerProcess(set)

    @property
    def executor(self) -> Executor:
        """The threads, for calls that bound their own time."""
        return self._pool

    async def run(self, call: Callable[[], T], wait: float | None = None) -> T:
        """Return the result of a call, or raise its exception.

        If it is cancelled, a call that is in progress goes on to its end, and one that waits is never made. ``wait``:
        seconds to wait for a thread, if not those of the object.

        Raises:
            UnavailableError: no thread was free in time, since the calls before this one go on. It was not begun.
            UsageError: it is closed.
        """
        try:
            running = self._pool.submit(call)
        except UsageError:
            raise _closed() from None
        in_progress = self._in_progress.get()
        in_progress.add(running)
        running.add_done_callback(in_progress.discard)
        result = asyncio.wrap_future(running)
        try:
            seconds = self._wait if wait is None else wait
            await asyncio.wait([result], timeout=seconds)
            if not result.done() and running.cancel():
                raise UnavailableError(
                    f"cannot begin: all {self._pool.max_threads} threads for {self._calls} were in use for "
                    f"{seconds:g} s by calls before this one",
                    hint="send fewer requests at once; `saltctl doctor` shows whether a server is slow",
                )
            if result.cancelled():
                raise _closed()
            return await result
        finally:
            forget(result)

    async def close(self) -> None:
        """Drop calls that wait, and wait a bounded time for those in progress."""
        await close_together(self)


async def close_together(*pools: Threads) -> None:
    """Close the threads of several pools as :meth:`Threads.close` does; all of them end before the first wait."""
    for threads in pools:
        threads._pool.shutdown(cancel_futures=True)
    if running := [asyncio.wrap_future(call) for threads in pools for call in list(threads._in_progress.get())]:
        await asyncio.wait(running, timeout=CLOSE_SECONDS)
    for result in running:
        forget(result)


def _closed() -> UsageError:
    return UsageError("it was closed while calls waited", hint="open another one")
