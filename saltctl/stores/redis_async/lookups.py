"""Lookups of one id for an event loop: by the command and the answers of ``RedisRegistry``, on its servers.

The synchronous code opens each connection, in a thread: names, addresses, TLS, logins, tokens and their time budget
are its own. The loop sends a command and receives its reply. redis.asyncio does not connect here, for three reasons.
It lacks TLS options of URLs that saltctl accepts (redis-py 5.3). It resolves names on threads that no deadline ends,
and ``asyncio.run`` waits for these. And its HGET takes 1.2 to 1.8 times as long as a lookup here (measured:
tests/benchmarks/asyncio_lookup.py).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import cache, partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from saltctl.errors import RedisUnavailableError, UsageError
from saltctl.forks import importing
from saltctl.stores.bounded.deadline import TimeBudget
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.redis.buckets import parse_entry
from saltctl.stores.redis.connections import check_answer
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis.server import Server, is_answer

if TYPE_CHECKING:
    from saltctl.stores.redis_async.connection import LoopConnection

T = TypeVar("T")


@cache
def _connection_class() -> type[LoopConnection]:
    """Return the class of connections. A thread imports it: an import waits for those of others, and no loop may."""
    with importing:
        from saltctl.stores.redis_async.connection import LoopConnection

    return LoopConnection


CONNECTIONS = 64
"""Connections to one primary at once. More lookups wait for one of them, and not for Redis."""


class LoopLookups:
    """Lookups over connections of one event loop. Not thread-safe: it belongs to the thread of the loop.

    Args:
        store: the registry in Redis.
        threads: runs what waits for a server outside of a lookup: names, connecting, the topology.
        loop: the running event loop.
    """

    def __init__(self, store: RedisRegistry, threads: Executor, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._connections = store.lookups
        self._threads = threads
        self._loop = loop
        self._idle: dict[str, tuple[Server, list[Any]]] = {}
        self._slots: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(CONNECTIONS))
        self._open: set[Any] = set()
        self._closed = False

    @property
    def knows_registry_id(self) -> bool:
        """Whether the id of the registry is known. If it is not, :meth:`learn_registry_id` has to be called."""
        return self._store.knows_registry_id

    def learn_registry_id(self) -> None:
        """Read the id of the registry. This waits for the backup. Raises SaltctlError, ``id_unknown``."""
        self._store.pack_lookup("-")

    async def primary_of(self, conversation_id: str) -> str:
        """Return the primary that has the bucket of a conversation. Raises as ``RegistryStore.by_primary``."""
        if (primary := self._connections.primary_now(self._store.key_of(conversation_id))) is not None:
            return primary
        try:
            asking = self._start(lambda: next(iter(self._store.by_primary((conversation_id,)))))
            return await self._within(asking, self._connections.timeout)
        except OSError as exc:
            raise RedisUnavailableError(
                f"the primaries are not known: {exc}", hint="saltctl doctor --only redis"
            ) from exc

    def slot(self, primary: str) -> asyncio.Semaphore:
        """Return what a lookup has to hold, so that it waits for a connection before its time begins."""
        return self._slots[primary]

    async def lookup(self, primary: str, conversation_id: str) -> Entry | None:
        """Return the entry of one id. Raises as ``RegistryStore.lookup``; ``lookup_timeout`` covers all of it."""
        command = self._store.pack_lookup(conversation_id)
        try:
            reply = await self._ask(primary, command, monotonic() + self._connections.timeout)
        except Exception:
            with self._connections.errors(primary):
                raise
        return parse_entry(reply[0], primary, conversation_id)

    async def _ask(self, primary: str, command: bytes, ends: float) -> Any:
        server = self._connections.server(primary)
        connection = self._take_idle(primary, server) or await self._connect(primary, server, ends)
        try:
            reply = await connection.exchange(command, ends)
            check_answer(reply)
        except BaseException as exc:
            if is_answer(exc):
                self._put_back(primary, server, connection)
            else:
                self._drop(connection)
            self._connections.learn(primary, server, exc)
            raise
        self._put_back(primary, server, connection)
        return reply

    def _take_idle(self, primary: str, server: Server) -> Any:
        known, idle = self._idle.get(primary, (None, []))
        if known is not server or server.given_up:
            for connection in idle:
                self._drop(connection)
            self._idle[primary] = (server, idle := [])
        while idle:
            connection = idle.pop()
            if connection.is_idle():
                return connection
            self._drop(connection)
        return None

    def _drop(self, connection: Any) -> None:
        self._open.discard(connection)
        connection.close()

    def _put_back(self, primary: str, server: Server, connection: Any) -> None:
        known, idle = self._idle.get(primary, (None, []))
        if self._closed or server.given_up or known is not server:
            self._drop(connection)
        else:
            idle.append(connection)

    async def _connect(self, primary: str, server: Server, ends: float) -> Any:
        def connect() -> Any:
            """Connect, in a thread; the time in which no thread was free counts."""
            _connection_class()
            with TimeBudget(ends - monotonic()):
                return self._connections.connect(primary, server)

        opening = self._start(connect)
        try:
            opened = await self._within(opening, ends - monotonic())
            if self._closed:
                raise _closed()
            connection = _connection_class()(opened, server, self._loop)
        except BaseException:
            opening.add_done_callback(partial(_discard, server))  # it may still be opened, and nobody takes it
            raise
        self._open.add(connection)
        return connection

    def _start(self, call: Callable[[], T]) -> Future[T]:
        """Start a call in a thread. Raises OSError if the threads have ended."""
        try:
            return self._threads.submit(call)
        except (RuntimeError, UsageError):  # of an executor of the standard library, or of saltctl
            raise _closed() from None

    @staticmethod
    async def _within(call: Future[T], seconds: float) -> T:
        """Return the result of a call in a thread, which is not made if it has not begun in time."""
        result = asyncio.wrap_future(call)
        try:
            await asyncio.wait([result], timeout=seconds)
            if not result.done():
                raise TimeoutError("the server did not answer in time")
            if result.cancelled():
                raise _closed()
            return result.result()
        finally:
            forget(result)

    def close(self) -> None:
        """Close the connections. Lookups in progress fail: their connections must leave the loop before they close."""
        self._closed = True
        self._idle.clear()
        for connection in list(self._open):
            self._drop(connection)


def _closed() -> OSError:
    return ConnectionAbortedError("the registry was closed")


def forget(result: asyncio.Future[Any]) -> None:
    """Cancel a future if it has no result yet; else take its exception, which asyncio would log."""
    if not result.cancel() and not result.cancelled():
        result.exception()


def _discard(server: Server, opening: Future[Any]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        server.discard(opening.result())
