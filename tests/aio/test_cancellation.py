"""Lookups that are cancelled, late or interrupted: no other lookup gets their answer, and nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from saltctl import aio
from saltctl.registry.lookups import Lookup
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.redis_async.connection import LoopConnection
from tests.checker.proxy import Proxy
from tests.support import Rebuilder

IDS = [f"conv-{number}" for number in range(32)]


@pytest.fixture
def proxy(settings: Settings, registry: Registry, rebuild: Rebuilder) -> Iterator[Proxy]:
    """A proxy to a verified Redis in which each of the ids has an N of its own."""
    for number, conversation_id in enumerate(IDS):
        registry.store.merge(conversation_id, number + 2)
    rebuild()
    found = Proxy()
    found.start(int(str(settings.redis_url).rpartition(":")[2].partition("/")[0]))
    yield found
    found.stop()


def opened(settings: Settings, proxy: Proxy, timeout: float = 5.0) -> aio.Registry:
    """A registry whose Redis is behind the proxy."""
    return aio.Registry.open(
        replace(settings, redis_url=f"redis://127.0.0.1:{proxy.port}/0", lookup_timeout=timeout, breaker_seconds=0.0)
    )


def connections() -> list[LoopConnection]:
    """The connections that are open, in all loops."""
    return [one for one in gc.get_objects() if type(one) is LoopConnection and not one.closed]


@pytest.mark.slow
def test_a_cancelled_lookup_never_hands_its_answer_to_another(settings: Settings, proxy: Proxy) -> None:
    """A thousand are cancelled at any moment, others time out, and each answer belongs to its question."""
    chance = random.Random(1)

    async def one(registry: aio.Registry) -> str:
        number = chance.randrange(len(IDS))
        task = asyncio.create_task(registry.lookup(IDS[number]))
        pause = chance.choice((0, 0, 0.0005, 0.002, 0.006, None))
        if pause is None:  # some are answered, however busy the machine is
            await asyncio.wait([task])
        else:
            await asyncio.sleep(pause)
        task.cancel()
        try:
            found = await task
        except asyncio.CancelledError:
            return "cancelled"
        assert (found.conversation_id, found.max_n, found.source) == (IDS[number], number + 2, "redis")
        return "answered"

    async def rounds(registry: aio.Registry) -> list[str]:
        outcomes = []
        for number in range(25):
            proxy.delay(0.002) if number % 2 else proxy.heal()
            outcomes += await asyncio.gather(*(one(registry) for _ in range(50)))
            found = await asyncio.gather(*map(registry.lookup, IDS))
            assert [lookup.max_n for lookup in found] == list(range(2, len(IDS) + 2))
            assert {lookup.source for lookup in found} == {"redis"}
        return outcomes

    async def run() -> None:
        async with opened(settings, proxy) as registry:
            outcomes = await rounds(registry)
            assert outcomes.count("cancelled") >= 400
            assert outcomes.count("answered") >= 50
            assert len(connections()) <= 64
            assert asyncio.all_tasks() == {asyncio.current_task()}
        assert connections() == []

    asyncio.run(run())


@pytest.mark.slow
def test_a_late_answer_is_never_taken_for_the_next(settings: Settings, proxy: Proxy) -> None:
    """Lookups that time out while the proxy delays fall back; the next ones get answers of their own."""

    async def run() -> None:
        async with opened(settings, proxy, timeout=0.2) as registry:
            for _ in range(3):
                proxy.delay(0.15)
                late = await asyncio.gather(*map(registry.lookup, IDS))
                assert {lookup.source for lookup in late} == {"backup"}
                proxy.heal()
                found: dict[str, Lookup] = {}
                while all(lookup.source != "redis" for lookup in found.values()):  # a busy machine may need more tries
                    found = {lookup.conversation_id: lookup async for lookup in each(registry)}
                assert [found[one].max_n for one in IDS if found[one].source == "redis"] == [
                    number + 2 for number, one in enumerate(IDS) if found[one].source == "redis"
                ]
        assert connections() == []

    async def each(registry: aio.Registry):  # type: ignore[no-untyped-def]
        for one in IDS:
            yield await registry.lookup(one)

    asyncio.run(run())
