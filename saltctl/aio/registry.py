"""Lookups on an event loop, and raises in its threads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, Self

from saltctl.aio.home_loop import HomeLoop
from saltctl.aio.threads import Threads, close_together
from saltctl.errors import RedisUnavailableError, SaltctlError
from saltctl.registry import registry as synchronous
from saltctl.registry.lookups import Lookup, unique_ids
from saltctl.registry.registry import RaiseResult
from saltctl.salting import check_conversation_id
from saltctl.settings import Settings, settings_or_loaded
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.contracts.registry import RegistryStore
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis_async.lookups import LoopLookups

AWS_THREADS = 16
"""Calls to AWS in progress at once: while Redis is down, each lookup is one. Threads compete with the loop for the
interpreter. With answers after 5 ms, 16 threads make as many calls a second as 64, and 99 of 100 waits of the loop take
15 to 30 ms at most, not 340 to 600 (measured on two busy cores)."""
_REDIS_THREADS = 8
"""Connections to Redis that are opened at once, and, in other threads, lookups of many ids."""


class Registry:
    """Looks up and raises the number of salts of conversations: ``saltctl.Registry``, awaited.

    >>> async with aio.Registry.open() as registry:               # doctest: +SKIP
    ...     found = await registry.lookup("conv_abc123")

    It belongs to the event loop that uses it first. The registry, its circuit breaker and its fallback are those of
    the synchronous one.

    Args:
        registry: the synchronous registry, which is closed with this one.
        aws_timeout: seconds that a call to AWS may wait for a thread, before its own time begins, and a lookup for one
            of the connections to Redis.
    """

    def __init__(self, registry: synchronous.Registry, *, aws_timeout: float = 5.0) -> None:
        self._registry = registry
        self._aws_timeout = aws_timeout
        self._threads = Threads(AWS_THREADS, "saltctl-aio", calls="fallbacks and raises", wait=aws_timeout)
        self._opening = Threads(_REDIS_THREADS, "saltctl-aio-redis", calls="connecting to Redis", wait=aws_timeout)
        self._many = Threads(_REDIS_THREADS, "saltctl-aio-many", calls="lookups of many ids", wait=aws_timeout)
        # Without a reference to this object, so that it is collected, and warns, as soon as it is dropped.
        make = partial(_lookups_of, registry.store, self._opening, self._threads)
        self._home = HomeLoop("registry", make, connects=isinstance(registry.store, RedisRegistry))

    @classmethod
    def open(cls, settings: Settings | None = None) -> Self:
        """Open the registry of the settings, as ``saltctl.Registry.open`` does; it raises the same."""
        settings = settings_or_loaded(settings)
        return cls(synchronous.Registry.open(settings), aws_timeout=settings.aws_timeout)

    @property
    def last_failure(self) -> SaltctlError | None:
        """Why the latest lookup that fell back to the backup did so; None if Redis answered the latest lookup."""
        return self._registry.last_failure

    async def lookup(self, conversation_id: str) -> Lookup:
        """Look up how many salts a conversation has now, as ``saltctl.Registry.lookup`` does; it raises the same.

        If it is cancelled, its connection is closed, so that no other lookup gets its answer.
        """
        check_conversation_id(conversation_id)
        lookups, registry = self._home.enter(), self._registry
        try:
            primary = await lookups.primary_of(conversation_id)
        except SaltctlError as exc:
            registry.last_failure = exc
        else:
            if not lookups.knows_registry_id:
                await self._threads.run(lookups.learn_registry_id)
            if (found := await self._lookup_in_redis(lookups, primary, conversation_id)) is not None:
                return found
        return (await self._threads.run(lambda: registry.lookup_in_backup((conversation_id,))))[conversation_id]

    async def _lookup_in_redis(self, lookups: Lookups, primary: str, conversation_id: str) -> Lookup | None:
        """Ask a primary unless it failed a moment ago; None if its answer cannot be used."""
        breaker, slot = self._registry.breaker, lookups.slot(primary)
        if not await self._acquire(slot):
            return None
        try:
            # Only now: while this lookup waited, the primary may have failed.
            if not breaker.skip_until or primary not in breaker.skip_until:
                return await self._ask(lookups, primary, conversation_id)
            with breaker.attempt(primary) as may_ask:
                return await self._ask(lookups, primary, conversation_id) if may_ask else None
        finally:
            slot.release()

    async def _acquire(self, slot: asyncio.Semaphore) -> bool:
        """Wait for one of the connections; return whether one was free in time. If none was, Redis did not fail."""
        if not slot.locked():
            return await slot.acquire()
        try:
            async with asyncio.timeout(self._aws_timeout):
                return await slot.acquire()
        except TimeoutError:
            self._registry.last_failure = RedisUnavailableError(
                f"no connection to Redis was free within {self._aws_timeout:g} s", hint="saltctl doctor --only redis"
            )
            return False

    async def _ask(self, lookups: Lookups, primary: str, conversation_id: str) -> Lookup | None:
        registry = self._registry
        try:
            entry = await lookups.lookup(primary, conversation_id)
        except SaltctlError as exc:
            registry.note_failure(primary, exc)
            return None
        accepted = not registry.breaker.skip_until or registry.breaker.accepts(primary)
        return registry.answer(conversation_id, entry) if accepted else None

    async def lookup_many(self, conversation_ids: Iterable[str]) -> dict[str, Lookup]:
        """Look up many conversations in few round trips, as ``saltctl.Registry.lookup_many`` does; it raises the same.

        Threads of its own ask Redis, so that it waits for AWS only if Redis does not answer.
        """
        self._home.enter()
        registry, wanted = self._registry, unique_ids(conversation_ids)
        found = await self._many.run(lambda: registry.lookup_many_in_redis(wanted))
        if missing := [conversation_id for conversation_id in wanted if conversation_id not in found]:
            found |= await self._threads.run(lambda: registry.lookup_in_backup(missing))
        return {conversation_id: found[conversation_id] for conversation_id in wanted}

    async def raise_to(
        self, conversation_id: str, n: int, *, reason: str = "", actor: str | None = None
    ) -> RaiseResult:
        """Increase N to n in the three steps of the protocol, in a thread; raises as ``saltctl.Registry.raise_to``.

        If it is cancelled, the raise goes on to its end in its thread, unless it waited for one: then nothing is done.
        If the process ends, it stops between two steps. To repeat it completes it.
        """
        self._home.enter()
        return await self._threads.run(partial(self._registry.raise_to, conversation_id, n, reason=reason, actor=actor))

    async def complete(self, conversation_id: str) -> bool:
        """Complete a raise that stopped between two steps, in a thread, as ``saltctl.Registry.complete`` does."""
        self._home.enter()
        return await self._threads.run(partial(self._registry.complete, conversation_id))

    @property
    def synchronous(self) -> synchronous.Registry:
        """The synchronous registry, for threads."""
        return self._registry

    async def close(self) -> None:
        """Close the connections, and wait a few seconds at most for calls in progress. Lookups that wait are ended."""
        if (lookups := self._home.leave()) is not None:
            lookups.close()
        await close_together(self._threads, self._opening, self._many)
        self._registry.close()

    async def __aenter__(self) -> Self:
        """Return the registry itself, which is closed at the end of the block. Raises UsageError if it is closed."""
        self._home.enter()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the registry."""
        await self.close()


class Lookups(Protocol):
    """Lookups of one id in Redis, in an event loop: those of ``RegistryStore``."""

    @property
    def knows_registry_id(self) -> bool:
        """Whether the id of the registry is known."""

    def learn_registry_id(self) -> None:
        """Read the id of the registry, in a thread."""

    async def primary_of(self, conversation_id: str) -> str:
        """Return the primary that has an id."""

    def slot(self, primary: str) -> asyncio.Semaphore:
        """Return what a lookup has to hold."""

    async def lookup(self, primary: str, conversation_id: str) -> Entry | None:
        """Return the entry of an id."""

    def close(self) -> None:
        """Close the connections."""


def _lookups_of(store: RegistryStore, opening: Threads, threads: Threads, loop: asyncio.AbstractEventLoop) -> Lookups:
    if isinstance(store, RedisRegistry):
        return LoopLookups(store, opening.executor, loop)
    return _ThreadedLookups(store, threads)


@dataclass(frozen=True)
class _ThreadedLookups:
    """Lookups of any store, such as one in memory, in threads."""

    store: RegistryStore
    threads: Threads
    knows_registry_id: bool = True

    def learn_registry_id(self) -> None:
        """Do nothing: the store knows it."""

    async def primary_of(self, conversation_id: str) -> str:
        """Return the primary that has an id."""
        return next(iter(await self.threads.run(lambda: self.store.by_primary((conversation_id,)))))

    def slot(self, primary: str) -> asyncio.Semaphore:
        """Return nothing to wait for: threads are few enough."""
        return asyncio.Semaphore()

    async def lookup(self, primary: str, conversation_id: str) -> Entry | None:
        """Return the entry of an id."""
        return (await self.threads.run(lambda: self.store.lookup(primary, (conversation_id,))))[0]

    def close(self) -> None:
        """Close nothing: the registry closes its store."""
