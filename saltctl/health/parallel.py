"""Parallel calls with one timeout, and results that are computed once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def call_in_parallel(functions: Mapping[str, Callable[[], T]], timeout: float) -> dict[str, T | Exception]:
    """Call all functions at once, and return the result of each, or the exception that it raised.

    A function without a result after ``timeout`` seconds has a TimeoutError. Its thread is a daemon and keeps
    running, but does not keep the process from exiting. A ThreadPoolExecutor would wait for it.
    """
    late = TimeoutError(f"no answer within {timeout:g} s")
    results: dict[str, T | Exception] = dict.fromkeys(functions, late)
    threads = [
        threading.Thread(target=_call, args=(name, function, results), name=f"check-{name}", daemon=True)
        for name, function in functions.items()
    ]
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    return results.copy()


def _call(name: str, function: Callable[[], Any], results: dict[str, Any]) -> None:
    try:
        results[name] = function()
    except Exception as exc:  # returned: one failure must not stop the others
        results[name] = exc


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
