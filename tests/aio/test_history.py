"""``saltctl.aio.History``: deadlines, cancellation and closing; what it returns is in test_history_contract.py."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from saltctl import aio
from saltctl.aio.history import READ_THREADS
from saltctl.detection.write_meter import WriteMeter
from saltctl.errors import (
    AwsUnavailableError,
    InvalidConversationIdError,
    SaltctlError,
    UnavailableError,
    UsageError,
)
from saltctl.history.history import History
from saltctl.registry.lookups import Lookup
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.testing import MemoryMessages, MemoryServers
from tests.support.lookups import FixedLookups


class SlowLookups:
    """Lookups of an event loop that are never answered."""

    async def lookup(self, conversation_id: str) -> Lookup:
        """Wait."""
        await asyncio.sleep(600)
        raise AssertionError


class LoopLookups:
    """Lookups of an event loop that are answered at once."""

    def __init__(self) -> None:
        self._known = FixedLookups({"hot": 16})

    async def lookup(self, conversation_id: str) -> Lookup:
        """Look up."""
        return self._known.lookup(conversation_id)


class HeldMessages(MemoryMessages):
    """A messages table that answers once it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()
        self.asked = threading.Semaphore(0)

    def query(self, *args: Any) -> Any:
        """Wait, and answer."""
        self.asked.release()
        assert self.released.wait(60)
        return super().query(*args)


@pytest.fixture
def held() -> Iterator[HeldMessages]:
    """A table that is released at the end."""
    messages = HeldMessages()
    yield messages
    messages.released.set()


def test_the_deadline_of_a_page_covers_its_lookup() -> None:
    """A lookup that is not answered ends with the page's time, not its own."""

    async def read() -> None:
        async with aio.History(History(FixedLookups(), MemoryMessages(), page_timeout=0.05), SlowLookups()) as history:
            for call in (history.page("hot"), anext(history.messages("hot"))):
                with pytest.raises(AwsUnavailableError, match=r"the lookup of 'hot' was not answered within 0\.05 s"):
                    await call

    asyncio.run(read())


def test_a_page_that_is_not_answered_ends_in_time(held: HeldMessages) -> None:
    """As the synchronous page does; other coroutines run meanwhile."""

    async def read() -> None:
        async with aio.History(History(FixedLookups(), held, page_timeout=0.2), LoopLookups()) as history:
            page = asyncio.create_task(history.page("hot"))
            beats = 0
            while not page.done():
                await asyncio.sleep(0.01)
                beats += 1
            with pytest.raises(UnavailableError):
                await page
            assert beats > 1

    asyncio.run(read())


def test_the_threads_of_a_cancelled_page_end_by_its_deadline(held: HeldMessages) -> None:
    """Its caller goes on at once; the page ends in its thread, and close waits for it."""

    async def read() -> None:
        history = aio.History(History(FixedLookups(), held, page_timeout=0.3), LoopLookups())
        page = asyncio.create_task(history.page("hot"))
        assert await asyncio.to_thread(held.asked.acquire, timeout=60)
        page.cancel()
        await asyncio.wait([page])
        assert page.cancelled()
        await history.close()  # without an end of the page it would wait for seconds
        assert not [one for one in threading.enumerate() if one.name.startswith("saltctl-aio-history") and _busy(one)]
        with pytest.raises(UsageError, match="this history is closed"):
            await history.page("hot")

    asyncio.run(read())


def test_pages_that_are_not_answered_do_not_stop_writes(held: HeldMessages) -> None:
    """Not when they are cancelled either; those that had not begun are never made, and the error says what is full."""

    async def write() -> list[str | None]:
        inner = History(FixedLookups(), held, page_timeout=2.0)
        async with aio.History(inner, LoopLookups(), aws_timeout=0.1) as history:
            pages = [asyncio.create_task(history.page("cold")) for _ in range(READ_THREADS + 20)]
            for _ in range(READ_THREADS):
                assert await asyncio.to_thread(held.asked.acquire, timeout=60)
            assert (await history.put("cold", "2026-07-01T08:00:00Z#m1", {})).written
            for page in pages:
                page.cancel()
            await asyncio.wait(pages)
            assert (await history.put("cold", "2026-07-01T08:00:00Z#m2", {})).written
            with pytest.raises(UnavailableError, match="all 32 threads for pages and finds were in use") as full:
                await history.explain("cold")
            assert not isinstance(full.value, AwsUnavailableError)
            held.released.set()
            return [message.message_id async for message in history.messages("cold")]

    assert asyncio.run(write()) == ["m2", "m1"]
    assert len(held.queries) == READ_THREADS + 1


@pytest.mark.parametrize("shared", [True, False])
def test_closing_closes_the_connections_to_aws(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tables that were opened: those of a shared registry stay open until it is closed."""
    closed: list[str] = []
    monkeypatch.setattr("saltctl.stores.aws.table.Table.close", lambda table: closed.append(type(table).__name__))
    settings = Settings(redis_url="redis://127.0.0.1:1", aws_region="eu-central-1")
    tables = ["MessagesTable"] if shared else ["MessagesTable", "BackupTable"]

    async def close() -> None:
        registry = aio.Registry.open(settings) if shared else None
        async with aio.History.open(settings, registry=registry):
            assert closed == []
        assert closed == tables
        if registry is not None:
            await registry.close()

    asyncio.run(close())
    assert closed == ["MessagesTable", "BackupTable"]
    closed.clear()
    with Registry.open(settings) as alone, History.open(settings, registry=alone if shared else None):
        pass
    assert closed == ["MessagesTable", "BackupTable", *([] if shared else ["BackupTable"])]


def test_a_closed_object_is_refused_at_the_entry_of_a_block() -> None:
    """Not at the first call in it."""

    async def enter(closed: aio.Registry | aio.History) -> None:
        await closed.close()
        with pytest.raises(UsageError, match="is closed"):
            await closed.__aenter__()

    servers = MemoryServers()
    for closed in (servers.aio_history, servers.aio_registry):
        asyncio.run(enter(closed))


WRONG: dict[str, tuple[Callable[[Any, Any], Any], type[SaltctlError], str]] = {
    "an id that is a number": (lambda r, h: r.lookup(3), InvalidConversationIdError, "3 is not a string"),
    "no id": (lambda r, h: r.lookup(None), InvalidConversationIdError, "None is not a string"),
    "the id of a put": (lambda r, h: h.put(b"x", "2026#m1", {}), InvalidConversationIdError, "is not a string"),
    "one string for many": (lambda r, h: r.lookup_many("abc"), UsageError, "'abc' is not a list of conversation ids"),
    "a number for many": (lambda r, h: r.lookup_many(3), UsageError, "3 is not a list"),
    "an id in a list": (lambda r, h: r.lookup_many([["x"]]), InvalidConversationIdError, "is not a string"),
    "a limit alone": (lambda r, h: h.page("x", 20), UsageError, "options must be of the class ReadOptions, not int"),
    "no options of find": (lambda r, h: h.find("x", "1", object()), UsageError, "of the class FindOptions, not object"),
    "the id of a find": (lambda r, h: h.find("x", object()), UsageError, "object"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_arguments_of_the_wrong_kind_are_refused(wrong: str) -> None:
    """By both kinds of objects alike, with what to pass."""
    call, error, says = WRONG[wrong]
    servers = MemoryServers()
    with pytest.raises(error, match=re.escape(says)):
        call(servers.registry, servers.history)

    async def ask() -> None:
        await call(servers.aio_registry, servers.aio_history)

    with pytest.raises(error, match=re.escape(says)):
        asyncio.run(ask())


@pytest.mark.parametrize("kind", [Registry, History, WriteMeter, aio.Registry, aio.History, aio.WriteMeter])
def test_a_url_is_no_settings(kind: Any) -> None:
    """The hint says what to pass."""
    with pytest.raises(UsageError, match="settings must be of the class Settings, not str") as refused:
        kind.open("redis://127.0.0.1")
    assert "Settings(redis_url=" in refused.value.hint


def _busy(thread: threading.Thread) -> bool:
    thread.join(5)
    return thread.is_alive()


def test_options_are_refused_before_the_lookup() -> None:
    """As by the synchronous history: these lookups would not be answered."""
    from saltctl.history.models import ReadOptions

    async def read() -> None:
        async with aio.History(History(FixedLookups(), MemoryMessages()), SlowLookups()) as history:
            with pytest.raises(UsageError, match="limit"):
                await history.page("hot", ReadOptions(limit=0))
            with pytest.raises(UsageError):
                await history.find("hot", "\udc80")

    asyncio.run(read())
