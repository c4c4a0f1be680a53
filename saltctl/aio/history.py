"""Salted writes and complete reads of messages, for event loops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any, Protocol, Self, TypeVar

from saltctl.aio.home_loop import HomeLoop
from saltctl.aio.registry import Registry
from saltctl.aio.threads import Threads, close_together
from saltctl.errors import AwsUnavailableError
from saltctl.history import history as synchronous
from saltctl.history.find import checked_options
from saltctl.history.models import (
    DEFAULT_OPTIONS,
    FindOptions,
    Found,
    Message,
    Page,
    PutResult,
    ReadOptions,
    ReadPlan,
)
from saltctl.history.pages.request import check_options
from saltctl.registry.lookups import Lookup
from saltctl.settings import Settings, settings_or_loaded
from saltctl.stores.contracts.messages import SortKey

READ_THREADS = 32
"""Pages and finds in progress at once; their queries have threads of their own. More than the lookups have: pages of a
throttled conversation are slow, and must not hold up all others."""
WRITE_THREADS = 16
"""Writes in progress at once. They have threads of their own, so that slow pages do not hold them up."""
T = TypeVar("T")


class Lookups(Protocol):
    """Answers lookups: a Registry, or a substitute in a test."""

    async def lookup(self, conversation_id: str) -> Lookup:
        """Return how many salts a conversation has now."""
        ...


class History:
    """The messages of all conversations: ``saltctl.History``, awaited.

    >>> async with aio.History.open() as history:                                                # doctest: +SKIP
    ...     await history.put("conv_abc123", "2026-07-01T08:00:00Z#m1", {"text": "hello"})
    ...     page = await history.page("conv_abc123", ReadOptions(limit=20))

    Each call looks the conversation up on the event loop, and does the rest in a thread. It belongs to the event loop
    that uses it first.

    Args:
        history: the synchronous history, which is closed with this one.
        registry: looks up a conversation before each read and write.
        aws_timeout: seconds that a write may wait for a thread, before its own time begins.
    """

    def __init__(self, history: synchronous.History, registry: Lookups, *, aws_timeout: float = 5.0) -> None:
        self._history = history
        self._registry = registry
        self._owned_registry: Registry | None = None
        self._knows_keys = False
        self._reads = Threads(READ_THREADS, "saltctl-aio-history", calls="pages and finds", wait=aws_timeout)
        self._writes = Threads(WRITE_THREADS, "saltctl-aio-put", calls="writes", wait=aws_timeout)
        self._home: HomeLoop[None] = HomeLoop("history", lambda _: None)

    @classmethod
    def open(cls, settings: Settings | None = None, *, registry: Registry | None = None) -> Self:
        """Open the registry and the messages table of the settings; raises as ``saltctl.History.open``.

        ``registry``: one that is open already, to share it; the caller closes it.
        """
        settings = settings_or_loaded(settings)
        opened = registry or Registry.open(settings)
        inner = synchronous.History.open(settings, registry=opened.synchronous)
        history = cls(inner, opened, aws_timeout=settings.aws_timeout)
        history._owned_registry = opened if registry is None else None
        history._home.connects = True
        return history

    async def close(self) -> None:
        """End the threads, waiting a few seconds at most, and close what :meth:`open` opened."""
        self._home.leave()
        await close_together(self._writes, self._reads)
        self._history.close()
        if self._owned_registry is not None:
            await self._owned_registry.close()

    async def __aenter__(self) -> Self:
        """Return the history itself, which is closed at the end of the block. Raises UsageError if it is closed."""
        self._home.enter()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the history, as :meth:`close` does."""
        await self.close()

    async def put(self, conversation_id: str, sort_key: SortKey | int, attributes: Mapping[str, Any]) -> PutResult:
        """Write one message, on the salt of its id, unless it exists: ``saltctl.History.put``; it raises the same.

        If it is cancelled, the message may or may not be written, as after UnavailableError; it can be repeated.
        """
        self._home.enter()
        history = self._history
        if not self._knows_keys:  # the first request for them may take long
            await self._writes.run(lambda: history.store.keys)
            self._knows_keys = True
        looked_up = history.uptime()
        found = await self._registry.lookup(conversation_id)
        return await self._writes.run(partial(history.put_of, found, looked_up, sort_key, attributes))

    async def lookup(self, conversation_id: str) -> Lookup:
        """Look up a conversation, as every read does: ``saltctl.History.lookup``; it raises the same."""
        self._home.enter()
        found = await self._registry.lookup(conversation_id)
        return found if found.boundary is None else await self._reads.run(partial(self._history.check, found))

    async def page(self, conversation_id: str, options: ReadOptions = DEFAULT_OPTIONS) -> Page:
        """Read one page of a history, every message of it, or an error: ``saltctl.History.page``; it raises the same.

        ``page_timeout`` covers its lookup, the wait for a thread and its queries. If it is cancelled while it waits for
        a thread, it is never made. Once it has begun, it keeps its threads until its queries are answered, or that
        time is over; they are none of those that write.
        """
        history, started = self._history, self._history.clock()
        check_options(options)
        return await self._within(
            history.page_timeout,
            conversation_id,
            lambda found: history.page_of(history.check(found), options, started=started),
        )

    async def _within(self, seconds: float, conversation_id: str, call: Callable[[Lookup], T]) -> T:
        """Look up a conversation and make a call with the answer in a thread, which has to begin in time."""
        self._home.enter()
        ends = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(ends):
                found = await self._registry.lookup(conversation_id)
        except TimeoutError as exc:
            raise AwsUnavailableError(
                f"the lookup of {conversation_id!r} was not answered within {seconds:g} s", hint="saltctl doctor"
            ) from exc
        return await self._reads.run(lambda: call(found), max(ends - asyncio.get_running_loop().time(), 0.0))

    async def pages(self, conversation_id: str, options: ReadOptions = DEFAULT_OPTIONS) -> AsyncIterator[Page]:
        """Read a whole history page by page, as ``saltctl.History.pages`` does. Raises as :meth:`page`."""
        check_options(options)
        following: ReadOptions | None = replace(options, limit=self._history.first_page)
        while following is not None:
            page = await self.page(conversation_id, following)
            yield page
            following = self._history.after(page, following)

    async def messages(self, conversation_id: str, options: ReadOptions = DEFAULT_OPTIONS) -> AsyncIterator[Message]:
        """Yield every message of a history, in order, in flat memory. Raises as :meth:`page`."""
        async for page in self.pages(conversation_id, options):
            for message in page.messages:
                yield message

    async def explain(self, conversation_id: str, options: ReadOptions = DEFAULT_OPTIONS) -> ReadPlan:
        """Return the first queries of :meth:`page`; look up the conversation and read no message."""
        found = await self.lookup(conversation_id)
        return await self._reads.run(partial(self._history.explain_of, found, options))

    async def find(
        self, conversation_id: str, message_id: str | int | Decimal, options: FindOptions | None = None
    ) -> Found:
        """Find one message by its id: ``saltctl.History.find``; it raises the same. Its timeout covers the lookup."""
        history, started = self._history, self._history.clock()
        options = checked_options(message_id, options)
        return await self._within(
            options.timeout,
            conversation_id,
            lambda found: history.find_of(history.check(found), message_id, options, started=started),
        )
