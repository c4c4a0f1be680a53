"""Parallel calls with one timeout, and results that are computed once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def call_in_parallel(
    functions: Mapping[str, Callable[[], T]], timeout: float, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[str, T | Exception]]:
    """Call all functions at once, and yield each result, or the exception that was raised, as it comes.

    A function without a result after ``timeout`` seconds yields a TimeoutError. Its thread is a daemon and keeps
    running, but does not keep the process from exiting. A ThreadPoolExecutor would wait for it.
    """
    results: queue.SimpleQueue[tuple[str, T | Exception]] = queue.SimpleQueue()
    for name, function in functions.items():
        threading.Thread(target=_call, args=(name, function, results), name=f"check-{name}", daemon=True).start()
    pending = dict.fromkeys(functions)
    deadline = clock() + timeout
    while pending:
        try:
            name, result = results.get(timeout=max(deadline - clock(), 0))
        except queue.Empty:
            break
        del pending[name]
        yield name, result
    for name in pending:
        yield name, TimeoutError(f"no answer within {timeout:g} s")


def _call(name: str, function: Callable[[], Any], results: queue.SimpleQueue[Any]) -> None:
    try:
        results.put((name, function()))
    except Exception as exc:  # yielded: one failure must not stop the others
        results.put((name, exc))


class OnceCache:
    """Results that several threads need: each is computed once, and an exception is cached, too."""

    def __init__(self) -> None:
        self._futures: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()

    def get(self, name: str, compute: Callable[[], T]) -> T:
        """Return the result of this name. The first caller computes it, the others wait for it."""
        with self._lock:
            first = name not in self._futures
            future: Future[T] = self._futures.setdefault(name, Future())
        if first:
            try:
                future.set_result(compute())
            except Exception as exc:  # raised in every caller
                future.set_exception(exc)
        return future.result()
