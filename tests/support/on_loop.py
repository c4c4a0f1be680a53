"""Runs the synchronous contract suites over saltctl.aio: what they call is done by a loop in another thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from saltctl import aio
from saltctl.aio import registry as registry_module
from saltctl.history.history import History
from saltctl.history.pages.thread_pool import ThreadPool
from saltctl.registry.lookups import Lookup
from saltctl.registry.registry import Registry
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis_async.lookups import LoopLookups

T = TypeVar("T")
_REGISTRY = ("lookup", "lookup_many", "raise_to", "complete")
_HISTORY = ("put", "page", "find", "explain")
_HISTORY_ITERATORS = ("pages", "messages")


class LoopThread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and return its result or raise its exception."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def stop(self) -> None:
        """Stop the loop, which must have no task left."""
        left = self.run(_other_tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        assert not left, left


async def _other_tasks() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


class _Awaited:
    """The lookups of a history whose registry is a substitute."""

    def __init__(self, history: History) -> None:
        self._history = history

    async def lookup(self, conversation_id: str) -> Lookup:
        """Look up at once."""
        return self._history.registry.lookup(conversation_id)


class _Adapter:
    """Calls the object of saltctl.aio that belongs to a synchronous one."""

    def __init__(self, loop: LoopThread, wrap: Callable[[Any], Any]) -> None:
        self._loop = loop
        self._wrap = wrap
        self._known: dict[int, tuple[Any, Any]] = {}

    def of(self, synchronous: Any) -> Any:
        """Return the asynchronous object."""
        if id(synchronous) not in self._known:
            self._known[id(synchronous)] = synchronous, self._wrap(synchronous)
        return self._known[id(synchronous)][1]

    def forget(self, synchronous: Any) -> Any:
        """Return the asynchronous object, and make another one at the next use."""
        return self._known.pop(id(synchronous), (None, None))[1]

    def take_all(self) -> list[Any]:
        """Return all asynchronous objects, and forget them."""
        found = [found for _, found in self._known.values()]
        self._known.clear()
        return found

    def method(self, name: str, original: Any, *, iterates: bool = False) -> Any:
        """Return what replaces a method of the synchronous class."""

        def call(synchronous: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.current_thread().name.startswith("saltctl-aio"):
                return original(synchronous, *args, **kwargs)  # called by the asynchronous object
            result = getattr(self.of(synchronous), name)(*args, **kwargs)
            return self._iterate(result) if iterates else self._loop.run(result)

        return call

    def _iterate(self, found: Any) -> Iterator[Any]:
        while True:
            try:
                yield self._loop.run(anext(found))
            except StopAsyncIteration:
                return


async def _closed(lookups: LoopLookups) -> None:
    lookups.close()


@contextmanager
def on_a_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopThread]:
    """Let registries, their stores and histories do their work by saltctl.aio, inside the block."""
    loop = LoopThread()
    threads = ThreadPool(4, "saltctl-aio-test")
    registries = _Adapter(loop, aio.Registry)

    def history_of(history: History) -> aio.History:
        known = history.registry
        return aio.History(history, registries.of(known) if isinstance(known, Registry) else _Awaited(history))

    histories = _Adapter(loop, history_of)
    stores = _Adapter(loop, lambda store: LoopLookups(store, threads, loop.loop))
    original = RedisRegistry.lookup

    def lookup(store: RedisRegistry, primary: str, conversation_ids: Sequence[str]) -> Any:
        if len(conversation_ids) != 1 or threading.current_thread().name.startswith("saltctl-aio"):
            return original(store, primary, conversation_ids)
        return [loop.run(stores.of(store).lookup(primary, conversation_ids[0]))]

    close = RedisRegistry.close

    def close_both(store: RedisRegistry) -> None:
        if (lookups := stores.forget(store)) is not None:
            loop.run(_closed(lookups))
        close(store)

    monkeypatch.setattr(registry_module, "LoopLookups", lambda store, *_: stores.of(store))
    monkeypatch.setattr(RedisRegistry, "close", close_both)
    monkeypatch.setattr(RedisRegistry, "lookup", lookup)
    for cls, adapter, names in ((Registry, registries, _REGISTRY), (History, histories, _HISTORY)):
        for name in names:
            monkeypatch.setattr(cls, name, adapter.method(name, getattr(cls, name)))
    for name in _HISTORY_ITERATORS:
        monkeypatch.setattr(History, name, histories.method(name, getattr(History, name), iterates=True))
    yield loop
    for lookups in stores.take_all():
        loop.run(_closed(lookups))
    for opened in (*histories.take_all(), *registries.take_all()):
        loop.run(opened.close())
    threads.shutdown()
    loop.stop()
