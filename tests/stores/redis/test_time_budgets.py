"""Each request to Redis ends within its timeout, however slow the server, the network or the resolver is.

Bounds are loose: ten times the timeout, where the servers here would stay silent for minutes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from saltctl.errors import RedisUnavailableError, SaltctlError
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.testing.registry import MemoryBackup
from tests.support.redis_stub import Command, RedisStub
from tests.support.slow_servers import PAUSE, FullBacklog, Resolver, SlowServer

pytestmark = pytest.mark.slow

TIMEOUT = 0.3
BOUND = 10 * TIMEOUT


def of_redis(url: str) -> Settings:
    """Settings with short timeouts. The breaker never opens."""
    return Settings(
        redis_url=url,
        buckets=64,
        registry_id="feed0123456789ab",
        lookup_timeout=TIMEOUT,
        redis_timeout=TIMEOUT,
        breaker_seconds=0,
    )


@contextmanager
def ends_in_time() -> Iterator[None]:
    """The block must raise RedisUnavailableError, within ten times the timeout."""
    began = time.monotonic()
    with pytest.raises(RedisUnavailableError):
        yield
    assert time.monotonic() - began < BOUND


@contextmanager
def slow_urls(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a Redis that is slow in one way."""
    if kind == "name":
        resolver = Resolver(monkeypatch)
        yield "redis://hangs.test:6379/0"
        resolver.released.set()
    elif kind == "addresses":
        with FullBacklog(6) as silent:
            Resolver(monkeypatch, {"many.test": silent.ports})
            yield "redis://many.test:6379/0"
    else:
        begin, more = {"silent": (b"", b""), "tls": (b"", b""), "drip": (b"", b"+"), "nested": (b"", b"*1\r\n")}[kind]
        with SlowServer(begin, more) as server:
            yield f"{'rediss' if kind == 'tls' else 'redis'}://127.0.0.1:{server.port}/0"


KINDS = ["silent", "tls", "drip", "nested", "name", "addresses"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_lookup_falls_back_in_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One id and many."""
    with slow_urls(kind, monkeypatch) as url, closing(RedisRegistry(of_redis(url))) as store:
        registry = Registry(store, MemoryBackup(), breaker_seconds=0)
        began = time.monotonic()
        assert registry.lookup("conv").source == "backup"
        assert {lookup.source for lookup in registry.lookup_many(["one", "two"]).values()} == {"backup"}
        assert time.monotonic() - began < BOUND


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("retries", [0, 2])
def test_other_requests_end_in_time(kind: str, retries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their retries, and by redis-py's client."""
    with (
        slow_urls(kind, monkeypatch) as url,
        closing(Connections(of_redis(url), timeout=TIMEOUT, retries=retries)) as connections,
    ):
        (primary,) = connections.primaries()
        requests: list[Callable[[], Any]] = [
            lambda: connections.ask_of("salt:r:1", [("HGET", "salt:r:1", "x")]),
            lambda: connections.client(primary).execute_command("INFO"),
            lambda: connections.dedicated(primary).execute([("PING",)]),
        ]
        for request in requests:
            with ends_in_time(), connections.errors(primary):
                request()


@pytest.mark.parametrize("kind", ["silent", "drip", "name"])
@pytest.mark.parametrize("scheme", ["redis+cluster", "redis+sentinel"])
def test_a_topology_is_asked_in_time(kind: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for the replicas, of several sentinels."""
    with slow_urls(kind, monkeypatch) as slow:
        address = slow.split("/")[2]
        url = f"{scheme}://{','.join([address] * 12)}/" + ("service" if scheme == "redis+sentinel" else "")
        with closing(Connections(of_redis(url), timeout=TIMEOUT, retries=2)) as connections:
            with ends_in_time():
                connections.primaries()
            with ends_in_time():
                connections.ask_of("key", [("GET", "key")])
            if scheme == "redis+sentinel":
                with ends_in_time():
                    connections.ask_sentinels("REPLICAS")


def test_replies_that_drip_after_the_first_byte_end_in_time() -> None:
    """Those of a connection that was quick so far: in a lookup, in a batch and in a rebuild."""
    stopped = threading.Event()

    def rule(connection: int, command: Command) -> bytes | None:
        if command[0] not in (b"EVALSHA", b"HGET"):
            return RedisStub.OK
        server.send(connection, b"+")
        while not stopped.wait(PAUSE):
            server.send(connection, b"1")
        return None

    with RedisStub(rule) as server, closing(RedisRegistry(of_redis(server.url))) as store:
        (primary,) = store.primaries()
        for ids in (["one"], ["one", "two"]):
            with ends_in_time():
                store.lookup(primary, ids)
        with closing(Connections(of_redis(server.url), timeout=TIMEOUT, retries=0)) as connections:
            dedicated = connections.dedicated(primary)
            with ends_in_time():
                dedicated.execute([("HGET", "a", "b")])
            flags = connections.dedicated(primary)
            flags.send([b"*1\r\n$4\r\nHGET\r\n"])
            with ends_in_time():
                flags.receive_flags(100)
        stopped.set()


def test_a_slow_lookup_leaves_the_next_one_its_time() -> None:
    """A reply in pieces lowers the timeout of the socket; the next lookup has the whole of it again."""
    number = b"*1\r\n$2\r\n16\r\n"
    pauses = iter([TIMEOUT / 2, TIMEOUT / 2])

    def rule(connection: int, command: Command) -> bytes | None:
        if command[0] != b"EVALSHA":
            return RedisStub.OK
        server.send(connection, number[:1])
        time.sleep(next(pauses, 0))
        server.send(connection, number[1:])
        return None

    settings = Settings(redis_url="", registry_id="feed0123456789ab", buckets=64, lookup_timeout=20 * TIMEOUT)
    with RedisStub(rule) as server, closing(RedisRegistry(replace(settings, redis_url=server.url))) as store:
        (primary,) = store.primaries()
        assert [store.lookup(primary, ["conv"]) for _ in range(4)] == [[16]] * 4


@pytest.mark.parametrize(
    "reply",
    [
        b"*1\r\n$1\r\n16\r\n",
        b"*1\r\n$2\r\n4\r\n",
        b"*1\r\n$2\r\n16\r\n+OK\r\n",
        b"*2\r\n$1\r\n4\r\n$1\r\n4\r\n",
        b"*1\r\n$2\r\n+4\r\n",
        b"$1\r\n4\r\n",
        b"+OK\r\n",
        b":4\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"$-1\r\n",
    ],
)
def test_a_reply_of_another_shape_is_no_number(reply: bytes) -> None:
    """The short way through the reply of a lookup takes only what it understands completely."""

    def rule(connection: int, command: Command) -> bytes | None:
        return reply if command[0] == b"EVALSHA" else RedisStub.OK

    with RedisStub(rule) as server, closing(RedisRegistry(of_redis(server.url))) as store:
        (primary,) = store.primaries()
        with pytest.raises(SaltctlError):
            store.lookup(primary, ["conv"])
