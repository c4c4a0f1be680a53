"""Registry and history in memory, over the stores of this package, and the local environment for tests."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from saltctl.history.history import History
from saltctl.local.environment import LocalEnvironment
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.testing.messages import MemoryMessages
from saltctl.testing.registry import MemoryBackup, MemoryRedis

if TYPE_CHECKING:
    from saltctl import aio


@contextmanager
def local_environment(*, seed: bool = False) -> Iterator[LocalEnvironment]:
    """Run a local environment of real servers; the environment variables of this process stay unchanged.

    ``seed`` fills it with a few hundred conversations, and verifies Redis.
    """
    before = dict(os.environ)
    with LocalEnvironment() as environment:
        if seed:
            environment.seed()
        os.environ.clear()
        os.environ.update(before)
        yield environment


class MemoryServers:
    """Redis, backup table and messages table in memory, with a real Registry and a real History over them.

    ``aio_registry`` and ``aio_history`` are those of ``saltctl.aio`` over the same stores.
    ``redis``, ``backup`` and ``messages`` are the stores. Redis is verified and empty at first.

    Args:
        settings: limits, actor and timeouts; nothing is connected. By default the circuit breaker is off, so that
            each lookup asks Redis again after an outage.
        messages: the messages table; by default an empty one with the keys ``conversation_id`` and ``sort_key``.
        primaries: how many Redis primaries there are.
        clock: monotonic seconds, for the circuit breaker and for the deadlines of pages.
        now: the time in UTC, for the record of raises.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        messages: MemoryMessages | None = None,
        primaries: int = 1,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        settings = settings or Settings(breaker_seconds=0.0, actor="test")
        self.redis = MemoryRedis(primaries)
        self.backup = MemoryBackup()
        self.messages = messages or MemoryMessages(keys=("conversation_id", "sort_key"))
        self.registry = Registry.over(settings, self.redis, self.backup, clock=clock, now=now)
        self.history = History.over(settings, self.registry, self.messages, clock=clock)

    @cached_property
    def aio_registry(self) -> aio.Registry:
        """The registry, for an event loop: the one that uses it first."""
        from saltctl import aio

        return aio.Registry(self.registry)

    @cached_property
    def aio_history(self) -> aio.History:
        """The history, for an event loop, with that registry."""
        from saltctl import aio

        return aio.History(self.history, self.aio_registry)

    def rebuild(self) -> None:
        """Merge every entry of the backup into Redis, and verify every primary, as a rebuild does."""
        for entry in self.backup.items.values():
            self.redis.merge(entry.conversation_id, entry.entry)
        self.redis.verified_primaries.update(self.redis.held)

    def close(self) -> None:
        """End the threads of the history."""
        self.history.close()
