"""``saltctl.aio.Registry``: its loop, its threads, cancellation, and what an outage leaves of the event loop."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from saltctl import aio
from saltctl.aio.registry import AWS_THREADS
from saltctl.aio.threads import Threads
from saltctl.errors import InvalidConversationIdError, RedisUnavailableError, UnavailableError, UsageError
from saltctl.forks import importing
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.contracts.registry import BackupEntry, BackupStore, Raise, RaiseOutcome
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.testing import MemoryBackup, MemoryRedis
from tests.support.forked import in_child
from tests.support.redis_stub import Command, RedisStub

REGISTRY_ID = "feed0123456789ab"


def of_url(url: str, backup: BackupStore | None = None, *, aws_timeout: float = 5.0, **options: Any) -> aio.Registry:
    """A registry over Redis at this URL and a backup in memory."""
    settings = Settings(redis_url=url, buckets=64, registry_id=REGISTRY_ID, **options)
    inner = Registry.over(settings, RedisRegistry(settings), backup or MemoryBackup())
    return aio.Registry(inner, aws_timeout=aws_timeout)


def answering(n: bytes) -> Callable[[int, Command], bytes]:
    """A rule of a stub that answers each lookup with this N."""
    return lambda _, command: b"*1\r\n$%d\r\n%b\r\n" % (len(n), n) if command[0] == b"EVALSHA" else RedisStub.OK


class HeldBackup(MemoryBackup):
    """A backup that answers once it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()
        self.asked = threading.Semaphore(0)

    def get(self, conversation_id: str) -> BackupEntry | None:
        """Wait, and return the item."""
        self.asked.release()
        assert self.released.wait(60)
        return super().get(conversation_id)

    def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
        """Wait, and do it."""
        self.asked.release()
        assert self.released.wait(60)
        return super().raise_max_n(conversation_id, entry)


@contextmanager
def held_backup() -> Iterator[HeldBackup]:
    """A backup that is released at the end of the block at the latest."""
    backup = HeldBackup()
    try:
        yield backup
    finally:
        backup.released.set()


def fallen_back(backup: MemoryBackup, **options: Any) -> aio.Registry:
    """A registry whose Redis is down."""
    redis = MemoryRedis()
    redis.fail(RedisUnavailableError("down"))
    return aio.Registry(Registry(redis, backup, breaker_seconds=5.0), **options)


def run(*steps: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run each coroutine in an event loop of its own."""
    return [asyncio.run(step) for step in steps]


# Event loops.


def test_it_belongs_to_the_loop_that_uses_it_first() -> None:
    """Another loop is refused, whatever it asks; the first one goes on."""
    with RedisStub(answering(b"4")) as stub:
        registry = of_url(stub.url)
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(registry.lookup("conv")).max_n == 4
        for call in (lambda: registry.lookup("conv"), lambda: registry.raise_to("conv", 2), registry.close):
            with pytest.raises(UsageError, match="belongs to another event loop"):
                run(call())
        assert loop.run_until_complete(registry.lookup("conv")).max_n == 4
        loop.run_until_complete(registry.close())
        with pytest.raises(UsageError, match="is closed"):
            loop.run_until_complete(registry.lookup("conv"))
        with pytest.raises(UsageError, match="is closed"):
            loop.run_until_complete(registry.lookup_many(["conv"]))
        loop.run_until_complete(registry.close())
        loop.close()


def test_a_forked_child_starts_anew() -> None:
    """It has a loop, connections and threads of its own; those of its parent stay as they are."""
    connections: list[int] = []

    def rule(number: int, command: Command) -> bytes:
        connections.append(number)
        return answering(b"4")(number, command)

    with RedisStub(rule) as stub:
        registry = of_url(stub.url)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(registry.lookup("conv"))

        async def use() -> tuple[int, int]:
            async with registry:
                many = await registry.lookup_many(["conv"])
                return (await registry.lookup("conv")).max_n, many["conv"].max_n

        used = len(set(connections))
        assert in_child(lambda: run(use())[0]) == (4, 4)
        assert len(set(connections)) > used
        assert loop.run_until_complete(registry.lookup("conv")).max_n == 4
        assert connections[-1] == 0
        loop.run_until_complete(registry.close())
        loop.close()


def test_an_invalid_id_is_refused_before_anything_is_asked() -> None:
    """As by the synchronous registry."""
    registry = of_url("redis://127.0.0.1:1/0")
    with pytest.raises(InvalidConversationIdError):
        run(registry.lookup("a#3"))


# Connections.


def test_many_lookups_at_once_share_few_connections() -> None:
    """The others wait for their turn, and none falls back."""
    connections: set[int] = set()

    def rule(number: int, command: Command) -> bytes:
        connections.add(number)
        return answering(b"4")(number, command)

    async def ask() -> list[Any]:
        async with of_url(stub.url, lookup_timeout=20.0) as registry:
            return await asyncio.gather(*(registry.lookup(f"conv-{number}") for number in range(500)))

    with RedisStub(rule) as stub:
        assert {(found.max_n, found.source) for found in run(ask())[0]} == {(4, "redis")}
    assert len(connections) <= 64


def test_lookups_that_wait_for_a_silent_redis_fall_back_together() -> None:
    """Those in progress time out once, and open the breaker; those behind them do not wait as long again."""
    asked: list[Command] = []

    def silent(_: int, command: Command) -> bytes | None:
        if command[0] != b"EVALSHA":
            return RedisStub.OK
        asked.append(command)
        return None

    async def ask() -> list[Any]:
        async with of_url(stub.url, lookup_timeout=0.5, breaker_seconds=60.0) as registry:
            return await asyncio.gather(*(registry.lookup(f"conv-{number}") for number in range(400)))

    with RedisStub(silent) as stub:
        assert {found.source for found in run(ask())[0]} == {"backup"}
    assert len(asked) <= 64


def test_a_lookup_that_finds_no_connection_in_time_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is not taken for failed: the lookups that hold the connections are answered by it."""
    monkeypatch.setattr("saltctl.stores.redis_async.lookups.CONNECTIONS", 1)
    held, asked = threading.Event(), threading.Semaphore(0)

    def rule(number: int, command: Command) -> bytes:
        if command[0] == b"EVALSHA":
            asked.release()
            assert held.wait(60)
        return answering(b"4")(number, command)

    async def ask() -> list[str]:
        settings = Settings(redis_url=stub.url, buckets=64, registry_id=REGISTRY_ID, lookup_timeout=30.0)
        inner = Registry.over(settings, RedisRegistry(settings), MemoryBackup())
        async with aio.Registry(inner, aws_timeout=0.05) as registry:
            first = asyncio.create_task(registry.lookup("first"))
            assert await asyncio.to_thread(asked.acquire, timeout=60)
            sources: list[str] = [(await registry.lookup("second")).source]
            assert "no connection to Redis was free" in str(registry.last_failure)
            held.set()
            return [*sources, (await first).source, (await registry.lookup("third")).source]

    with RedisStub(rule) as stub:
        assert run(ask())[0] == ["backup", "redis", "redis"]


def test_a_cancelled_try_lets_the_next_caller_try() -> None:
    """The one lookup that asks a server again after an outage does not keep the others away once it is cancelled."""
    answers: list[bytes | None] = [None, None, b"*1\r\n$1\r\n8\r\n"]
    arrived = threading.Semaphore(0)

    def rule(_: int, command: Command) -> bytes | None:
        if command[0] != b"EVALSHA":
            return RedisStub.OK
        arrived.release()
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def ask() -> list[str]:
        now = [0.0]
        settings = Settings(redis_url=stub.url, buckets=64, registry_id=REGISTRY_ID, lookup_timeout=0.3)
        inner = Registry(RedisRegistry(settings), MemoryBackup(), breaker_seconds=5.0, clock=lambda: now[0])
        async with aio.Registry(inner) as registry:
            sources: list[str] = [(await registry.lookup("conv")).source]  # times out
            now[0] += 5.1
            task = asyncio.create_task(registry.lookup("conv"))
            assert await asyncio.to_thread(arrived.acquire, timeout=60)
            assert await asyncio.to_thread(arrived.acquire, timeout=60)
            task.cancel()
            await asyncio.wait([task])
            sources.append((await registry.lookup("conv")).source)  # answered, and doubtful after the outage
            now[0] += 5.1
            sources.append((await registry.lookup("conv")).source)
            return sources

    with RedisStub(rule) as stub:
        assert run(ask())[0] == ["backup", "backup", "redis"]
    assert answers == [b"*1\r\n$1\r\n8\r\n"]


def test_a_reply_in_pieces_and_a_cooled_entry() -> None:
    """Entries that are no numbers, and replies that arrive byte by byte, are read as by the synchronous connection."""
    entry = b"1:8:4:8:0:2:Szeit"
    pieces = [bytes([one]) for one in b"*1\r\n$2\r\n16\r\n"]

    def rule(number: int, command: Command) -> bytes:
        if command[0] != b"EVALSHA":
            return RedisStub.OK
        if command[-1] == b"pieces":
            for piece in pieces[:-1]:
                stub.send(number, piece)
            return pieces[-1]
        return b"-UNVERIFIED no fence\r\n" if command[-1] == b"error" else b"*1\r\n$%d\r\n%b\r\n" % (len(entry), entry)

    async def ask() -> list[tuple[int, str]]:
        async with of_url(stub.url, breaker_seconds=0.0, lookup_timeout=10.0) as registry:
            found = [await registry.lookup(one) for one in ("pieces", "error", "pieces", "odd", "pieces")]
            return [(lookup.max_n, lookup.source) for lookup in found]

    with RedisStub(rule) as stub:
        found = run(ask())[0]
    assert [found[0], found[2], found[4]] == [(16, "redis")] * 3
    assert found[1] == (1, "backup")


# Threads.


def test_the_loop_goes_on_while_the_backup_hangs() -> None:
    """Other tasks run, and their lookups in Redis are answered, while fallbacks wait for AWS."""

    async def ask(backup: HeldBackup) -> tuple[int, set[str]]:
        async with fallen_back(backup) as registry, of_url(stub.url) as healthy:
            waiting = [asyncio.create_task(registry.lookup(f"conv-{number}")) for number in range(200)]
            assert await asyncio.to_thread(backup.asked.acquire, timeout=60)
            answered = [(await healthy.lookup("conv")).max_n for _ in range(100)]
            assert not any(task.done() for task in waiting)
            backup.released.set()
            return sum(answered), {found.source for found in await asyncio.gather(*waiting)}

    with held_backup() as backup, RedisStub(answering(b"4")) as stub:
        assert run(ask(backup))[0] == (400, {"backup"})


def test_lookups_of_many_ids_do_not_wait_for_raises() -> None:
    """Redis answers them while raises hold all threads for AWS."""

    async def ask() -> list[tuple[str, str]]:
        async with of_url(stub.url, backup=backup, aws_timeout=0.2) as registry:
            raises = [asyncio.create_task(registry.raise_to(f"conv-{number}", 4)) for number in range(AWS_THREADS + 4)]
            for _ in range(AWS_THREADS):
                assert await asyncio.to_thread(backup.asked.acquire, timeout=60)
            found = await registry.lookup_many(["conv", "conv"])
            backup.released.set()
            await asyncio.gather(*raises, return_exceptions=True)
            return [(one, lookup.source) for one, lookup in found.items()]

    with held_backup() as backup, RedisStub(answering(b"4")) as stub:
        assert run(ask())[0] == [("conv", "redis")]


def test_a_call_that_finds_no_thread_in_time_fails() -> None:
    """Behind calls that are not answered no caller waits for ever, and none is made late."""

    async def ask(backup: HeldBackup) -> list[BaseException | Any]:
        registry = fallen_back(backup, aws_timeout=0.2)
        calls = [asyncio.create_task(registry.lookup(f"conv-{number}")) for number in range(AWS_THREADS + 6)]
        await asyncio.sleep(0)
        done, _ = await asyncio.wait(calls, timeout=60, return_when=asyncio.FIRST_EXCEPTION)
        late = [task for task in done if task.exception()]
        assert {type(task.exception()) for task in late} == {UnavailableError}
        assert "all 16 threads for fallbacks and raises were in use for 0.2 s" in str(late[0].exception())
        backup.released.set()
        found = await asyncio.gather(*calls, return_exceptions=True)
        await registry.close()
        return found

    with held_backup() as backup:
        found = run(ask(backup))[0]
    failed = sum(isinstance(one, UnavailableError) for one in found)
    assert 1 <= failed <= 6
    assert backup.faults.calls == ["get"] * (AWS_THREADS + 6 - failed)


def test_a_cancelled_call_that_waits_is_never_made() -> None:
    """And one in progress goes on, without anybody who waits for it."""
    made: list[str] = []
    started, release = threading.Event(), threading.Event()

    def first() -> None:
        started.set()
        assert release.wait(60)
        made.append("first")

    async def cancel() -> None:
        threads = Threads(1, "saltctl-aio-test", calls="calls", wait=60)
        tasks = [asyncio.create_task(threads.run(first))]
        assert await asyncio.to_thread(started.wait, 60)
        tasks.append(asyncio.create_task(threads.run(lambda: made.append("second"))))
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        release.set()
        await threads.close()

    run(cancel())
    assert made == ["first"]


def test_close_waits_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a call that is not answered: its thread is a daemon, and does not keep the process alive."""
    monkeypatch.setattr("saltctl.aio.threads.CLOSE_SECONDS", 0.05)

    async def close(backup: HeldBackup) -> bool:
        registry = fallen_back(backup)
        task = asyncio.create_task(registry.lookup("conv"))
        assert await asyncio.to_thread(backup.asked.acquire, timeout=60)
        await registry.close()
        unanswered = not task.done()
        task.cancel()
        await asyncio.wait([task])
        return unanswered

    with held_backup() as backup:
        assert run(close(backup)) == [True]


def test_close_ends_lookups_in_progress() -> None:
    """Those that wait for Redis, for a connection or for a thread: none hangs, and none gets a default."""

    async def close() -> list[BaseException | Any]:
        registry = of_url(stub.url, lookup_timeout=60.0)
        lookups = [asyncio.create_task(registry.lookup(f"conv-{number}")) for number in range(100)]
        assert await asyncio.to_thread(arrived.acquire, timeout=60)
        await registry.close()
        return await asyncio.gather(*lookups, return_exceptions=True)

    def silent(_: int, command: Command) -> bytes | None:
        if command[0] != b"EVALSHA":
            return RedisStub.OK
        arrived.release()
        return None

    arrived = threading.Semaphore(0)
    with RedisStub(silent) as stub:
        assert {type(found) for found in run(close())[0]} == {UsageError}


def test_a_cancelled_raise_goes_on_to_its_end() -> None:
    """As a process does that nobody waits for; to repeat it changes nothing."""
    redis, backup = MemoryRedis(), MemoryBackup()
    began, release = threading.Event(), threading.Event()

    def on_raise(_: str) -> None:
        began.set()
        assert release.wait(60)

    async def cancel() -> None:
        async with aio.Registry(Registry(redis, backup, on_raise=on_raise)) as registry:
            task = asyncio.create_task(registry.raise_to("conv", 4))
            assert await asyncio.to_thread(began.wait, 60)
            task.cancel()
            await asyncio.wait([task])
            assert (task.cancelled(), backup.items["conv"].max_n, backup.items["conv"].write_n) == (True, 4, 1)
            release.set()

    run(cancel())
    assert (backup.items["conv"].write_n, redis.held[redis.primary_of("conv")]) == (4, {"conv": 4})


def test_the_process_id_is_that_of_the_child() -> None:
    """The child of a fork in a coroutine, which never returns to the loop, may run a loop of its own."""
    with RedisStub(answering(b"4")) as stub:
        registry = of_url(stub.url)

        async def fork() -> Any:
            assert (await registry.lookup("conv")).max_n == 4
            child = await asyncio.to_thread(in_child, lambda: (os.getpid(), asyncio.run(registry.lookup("conv"))[1]))
            assert (await registry.lookup("conv")).max_n == 4
            await registry.close()
            return child

        assert run(fork())[0][1] == 4


@pytest.mark.parametrize("on_loop", [False, True], ids=["threads", "loop"])
def test_a_lookup_waits_for_no_import_of_another_thread(on_loop: bool) -> None:
    """To import boto3 takes longer than a lookup may, and imports exclude each other and forks."""

    async def awaited(url: str) -> tuple[int, str]:
        async with of_url(url) as registry:
            found = await registry.lookup("conv")
            return found.max_n, found.source

    def called(url: str) -> tuple[int, str]:
        settings = Settings(redis_url=url, buckets=64, registry_id=REGISTRY_ID)
        with Registry.over(settings, RedisRegistry(settings), MemoryBackup()) as registry:
            found = registry.lookup("conv")
            return found.max_n, found.source

    imports, done = threading.Event(), threading.Event()

    def hold() -> None:
        with importing:
            imports.set()
            done.wait(60)

    with RedisStub(answering(b"4")) as stub:
        asyncio.run(awaited(stub.url))  # the first use imports by itself
        thread = threading.Thread(target=hold)
        thread.start()
        try:
            assert imports.wait(60)
            found = asyncio.run(awaited(stub.url)) if on_loop else called(stub.url)
        finally:
            done.set()
            thread.join()
    assert found == (4, "redis")
