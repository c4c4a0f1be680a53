"""Stores between a client and the real ones: one that is away, one that stops a raise, one that holds answers back."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from saltctl.errors import RedisUnavailableError
from saltctl.stores.contracts.messages import PartitionAnswer, PartitionQuery

_LONGEST_HOLD = 5.0


class Stopped(Exception):  # noqa: N818  it is no error
    """A raise was stopped on purpose. It is none of saltctl's errors, so nothing on the way handles it."""


class Changes:
    """Counts the changes of a raise, and stops it before the one with this number, from 1."""

    def __init__(self, stop_before: int) -> None:
        self._left = stop_before

    def count(self) -> None:
        """Count a change that is about to be made; raises Stopped."""
        self._left -= 1
        if self._left <= 0:
            raise Stopped


class _Forwarding:
    """Forwards what a subclass does not define."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Away(_Forwarding):
    """A registry in Redis that cannot be reached, so that its client asks the backup."""

    def by_primary(self, conversation_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Raise RedisUnavailableError."""
        raise RedisUnavailableError("this client of the canary does not ask Redis")


class StoppingStore(_Forwarding):
    """A registry in Redis whose merges are counted."""

    def __init__(self, inner: Any, changes: Changes) -> None:
        super().__init__(inner)
        self._changes = changes

    def merge(self, *arguments: Any, **options: Any) -> Any:
        """Count, and merge."""
        self._changes.count()
        return self._inner.merge(*arguments, **options)


class StoppingBackup(_Forwarding):
    """A backup whose changes are counted."""

    def __init__(self, inner: Any, changes: Changes) -> None:
        super().__init__(inner)
        self._changes = changes

    def raise_max_n(self, *arguments: Any) -> Any:
        """Count, and do step 1 of a raise."""
        self._changes.count()
        return self._inner.raise_max_n(*arguments)

    def commit_write_n(self, *arguments: Any) -> Any:
        """Count, and do step 3 of a raise."""
        self._changes.count()
        return self._inner.commit_write_n(*arguments)


class HeldMessages(_Forwarding):
    """A messages table that answers the first ``held`` queries only once they are released."""

    def __init__(self, inner: Any, held: int) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self._left = held
        self._answered = 0
        self._all_answered = threading.Event()
        self._released = threading.Event()
        self._held = held

    def query(self, request: PartitionQuery) -> PartitionAnswer:
        """Send the query; keep the answer until it is released if it is one of the first."""
        with self._lock:
            hold, self._left = self._left > 0, self._left - 1
        answer: PartitionAnswer = self._inner.query(request)
        if hold:
            with self._lock:
                self._answered += 1
                if self._answered >= self._held:
                    self._all_answered.set()
            self._released.wait(_LONGEST_HOLD)
        return answer

    def wait(self, seconds: float) -> bool:
        """Wait until the table has answered the first queries; return whether it has."""
        return self._all_answered.wait(seconds)

    def release(self) -> None:
        """Hand over the answers."""
        self._released.set()
