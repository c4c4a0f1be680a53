"""A pool without threads and a clock that stands still, for deterministic tests of rounds and deadlines."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from saltctl.history.pages.thread_pool import ThreadPool


class InlinePool(ThreadPool):
    """Runs each call at once, in the calling thread; calls with the numbers of ``held`` wait for :meth:`run_held`."""

    def __init__(self, held: Iterable[int] = ()) -> None:
        super().__init__(1, "inline")
        self.started = 0
        self._held_numbers = set(held)
        self._held_calls: list[Callable[[], object]] = []

    def start(self, call: Callable[[], object]) -> None:
        """Run a call, or hold it."""
        number = self.started
        self.started += 1
        if number in self._held_numbers:
            self._held_calls.append(call)
        else:
            call()

    def run_held(self) -> int:
        """Run the calls that were held; return how many they were."""
        for call in self._held_calls:
            call()
        return len(self._held_calls)


class ManualClock:
    """A clock that moves only when a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now
