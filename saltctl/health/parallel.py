"""Several questions to several servers at once, none of which can keep the others waiting."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def call_in_parallel(
    questions: Mapping[str, Callable[[], T]], seconds: float, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[str, T | Exception]]:
    """The answer to each question as it comes, or the exception that it ended with.

    What has no answer after ``seconds`` comes last, as a TimeoutError. Its thread is left to itself: it is a
    daemon, and does not keep the process from ending.
    """
    answers: queue.SimpleQueue[tuple[str, T | Exception]] = queue.SimpleQueue()

    def ask(name: str, question: Callable[[], T]) -> None:
        try:
            answers.put((name, question()))
        except Exception as exc:  # handed over: what one question ends with is not the others' business
            answers.put((name, exc))

    for name, question in questions.items():
        threading.Thread(target=ask, args=(name, question), name=f"ask-{name}", daemon=True).start()
    waiting = set(questions)
    deadline = clock() + seconds
    while waiting:
        try:
            name, answer = answers.get(timeout=max(deadline - clock(), 0))
        except queue.Empty:
            break
        waiting.discard(name)
        yield name, answer
    for name in questions:
        if name in waiting:
            yield name, TimeoutError(f"no answer within {seconds:g} s")


class OnceCache:
    """Answers that several threads want: each is found out once, and an exception is an answer, too."""

    def __init__(self) -> None:
        self._known: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()

    def get(self, name: str, find_out: Callable[[], T]) -> T:
        """The answer of this name; whoever asks first finds it out, and the others wait for it."""
        with self._lock:
            first = name not in self._known
            future: Future[T] = self._known.setdefault(name, Future())
        if first:
            try:
                future.set_result(find_out())
            except Exception as exc:  # every other asker gets the same
                future.set_exception(exc)
        return future.result()
