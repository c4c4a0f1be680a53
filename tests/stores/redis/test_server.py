"""Connections that learn: one failure gives up the idle siblings, so that the server's name is resolved anew."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saltctl.errors import AccessDeniedError, RedisUnavailableError, SaltctlError, UnverifiedBucketError
from saltctl.settings import Settings
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis.server import Patience, Server
from tests.support.redis_stub import Command, RedisStub, array

THREADS = 4
READONLY = b"-READONLY You can't write against a read only replica.\r\n"
UNVERIFIED = b"-UNVERIFIED this bucket was not verified here\r\n"


class Name:
    """A name that led to a server, and leads to another one for new connections. The old one gives ``old`` answers."""

    def __init__(self) -> None:
        self.moved_at = 1 << 30
        self.old: bytes | None = None
        self.used: list[int] = []
        self.together: threading.Barrier | None = None
        self.held = threading.Event()
        self.held.set()

    def __call__(self, connection: int, command: Command) -> bytes | None:
        """Answer lookups and pings."""
        if command[0] not in (b"EVALSHA", b"PING", b"HOLD"):
            return RedisStub.OK
        self.used.append(connection)
        if self.together is not None:
            self.together.wait(30)
        if command[0] == b"HOLD":
            self.held.wait(30)
            return RedisStub.OK
        if connection < self.moved_at:
            return self.old
        return array(["2"]) if command[0] == b"EVALSHA" else RedisStub.OK

    def move(self, old: bytes | None) -> None:
        """From now on, only connections that are newer than all so far reach the new server."""
        self.moved_at, self.old = max(self.used) + 1, old


@pytest.fixture
def name() -> Name:
    """A name that leads to the first server."""
    name = Name()
    name.moved_at = 0
    return name


@pytest.fixture
def server(name: Name) -> Iterator[RedisStub]:
    """The servers behind the name."""
    with RedisStub(name) as stub:
        yield stub


def settings_of(server: RedisStub, breaker_seconds: float = 0.0) -> Settings:
    """Settings with a deadline that a silent server uses up quickly."""
    return Settings(
        redis_url=server.url, buckets=64, registry_id="feed0123456789ab", lookup_timeout=0.3, redis_timeout=0.3,
        breaker_seconds=breaker_seconds,
    )  # fmt: skip


def connect(name: Name, use: Callable[[], object]) -> None:
    """Use so many connections at once that all of them are idle afterwards."""
    name.together = threading.Barrier(THREADS)
    threads = [threading.Thread(target=use) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    name.together = None
    assert len(set(name.used)) == THREADS


def reconnects_after_one_failure(name: Name, use: Callable[[], object], old: bytes | None) -> None:
    """The first use fails on an old connection, and the second one is on a new connection."""
    name.move(old)
    with pytest.raises(SaltctlError):
        use()
    assert name.used[-1] < name.moved_at
    use()
    assert name.used[-1] >= name.moved_at


@pytest.mark.parametrize("old", [None, READONLY, UNVERIFIED, b"+OK\r\n"])
@pytest.mark.parametrize("ids", [["a"], ["a", "b"]])
def test_lookups_come_over(name: Name, server: RedisStub, old: bytes | None, ids: list[str]) -> None:
    """Silence, a demotion, a foreign fence, and a reply of another command: whichever connection has it first."""
    store = RedisRegistry(settings_of(server))
    primary = store.primaries()[0]
    connect(name, lambda: store.lookup(primary, ids))
    reconnects_after_one_failure(name, lambda: store.lookup(primary, ids), old)
    store.close()


@pytest.mark.parametrize("old", [None, READONLY])
def test_other_commands_come_over(name: Name, server: RedisStub, old: bytes | None) -> None:
    """Those of raises, heat reports and the service."""
    connections = Connections(settings_of(server), timeout=0.3, retries=0)
    connect(name, lambda: connections.ask_of("k", [("PING",)]))
    reconnects_after_one_failure(name, lambda: connections.ask_of("k", [("PING",)]), old)
    connections.close()


def test_a_failure_of_one_store_is_known_to_those_that_share(name: Name, server: RedisStub) -> None:
    """A raise that was refused makes lookups reconnect."""
    settings = settings_of(server)
    lookups = Connections(settings, timeout=0.3, retries=0)
    others = Connections(settings, timeout=0.3, retries=0, share=lookups)
    connect(name, lambda: lookups.ask_of("k", [("PING",)]))
    others.ask_of("k", [("PING",)])
    name.move(READONLY)
    with pytest.raises(RedisUnavailableError, match="READONLY"):
        others.ask_of("k", [("PING",)])
    lookups.ask_of("k", [("PING",)])
    assert name.used[-1] >= name.moved_at
    for connections in (lookups, others):
        connections.close()


@pytest.mark.parametrize("ids", [["a"], ["a", "b"]])
def test_a_password_that_was_rotated(ids: list[str], tmp_path: Path) -> None:
    """Its file is read again once the server refuses the old one; until it changes, no connection is given up."""
    path = tmp_path / "password"
    path.write_text("old")
    current, logins = [b"old"], list[bytes]()

    def rule(_: int, command: Command) -> bytes:
        if command[0] != b"AUTH":
            return array(["2"] * len(ids)) if command[0] == b"EVALSHA" else RedisStub.OK
        logins.append(command[-1])
        return RedisStub.OK if command[-1] == current[0] else b"-WRONGPASS invalid username-password pair\r\n"

    with RedisStub(rule) as server:
        store = RedisRegistry(replace(settings_of(server), buckets=1, lookup_timeout=30.0, redis_password_file=path))
        primary = store.primaries()[0]
        current[0] = b"new"
        for _ in range(2):
            with pytest.raises(AccessDeniedError):
                store.lookup(primary, ids)
        path.write_text("new")
        with pytest.raises(AccessDeniedError):
            store.lookup(primary, ids)
        assert store.lookup(primary, ids) == [2] * len(ids)
        assert logins == [b"old"] * 3 + [b"new"]
        store.close()


def test_a_connection_in_use_is_closed_when_it_comes_back(name: Name, server: RedisStub) -> None:
    """It is not pulled away under its thread, which gets its reply; and it is not used again."""
    connections = Connections(settings_of(server), timeout=30.0, retries=0)
    replies: list[Any] = []
    name.held.clear()
    thread = threading.Thread(target=lambda: replies.extend(connections.ask_of("k", [("HOLD",)])))
    thread.start()
    while not name.used:
        thread.join(0.01)
    connections.ask_of("k", [("PING",)])
    name.move(READONLY)
    with pytest.raises(RedisUnavailableError):
        connections.ask_of("k", [("PING",)])
    name.held.set()
    thread.join()
    assert replies == [b"OK"]
    connections.ask_of("k", [("PING",)])
    assert name.used[-1] >= name.moved_at
    connections.close()


def test_an_unverified_server_is_not_connected_to_again_and_again(name: Name, server: RedisStub) -> None:
    """Redis may be unverified for long: at most one reconnection in a breaker period."""
    store = RedisRegistry(settings_of(server, breaker_seconds=60.0))
    primary = store.primaries()[0]
    name.moved_at, name.old = 1 << 30, UNVERIFIED
    for _ in range(5):
        with pytest.raises(UnverifiedBucketError):
            store.lookup(primary, ["a"])
    assert len(set(name.used)) == 1
    store.close()


def test_connections_are_replaced_from_time_to_time(name: Name, server: RedisStub) -> None:
    """A demoted server that accepts writes never refuses them."""
    for max_age, used in ((0.0, 2), (3600.0, 1)):
        name.used.clear()
        connections = Connections(settings_of(server), timeout=5.0, retries=0, max_age=max_age)
        for _ in range(2):
            connections.ask_of("k", [("PING",)])
        assert len(set(name.used)) == used
        connections.close()


def test_reasons_to_give_up_a_server() -> None:
    """Each answer of a demoted server and each failure of a connection; not a server that has too many clients."""
    import redis.exceptions as driver

    server = Server(client=None)
    server.opened -= 5.0
    patience = Patience(3.0)
    for reason in ("READONLY", "NOREPLICAS", "UNBLOCKED", "NOSCRIPT"):
        assert patience.ends("p", server, driver.ResponseError(f"{reason} x"))
        assert not Patience(10.0).ends("p", server, driver.ResponseError(f"{reason} x"))
    for failure in (driver.TimeoutError("x"), driver.ConnectionError("reset"), driver.InvalidResponse("x")):
        assert Patience(10.0).ends("p", server, failure)
    for other in (driver.ResponseError("ERR x"), driver.ConnectionError("max number of clients reached"), KeyError()):
        assert not patience.ends("p", server, other)


def test_patience_grows_while_buckets_stay_unverified() -> None:
    """One damaged item keeps a bucket unverified, and the connections of all other lookups must not suffer."""
    import redis.exceptions as driver

    patience, unverified = Patience(1.0), driver.ResponseError("UNVERIFIED x")
    waits = []
    for age in (1.5, 1.5, 2.5, 2.5, 4.5, 70.0, 70.0, 70.0):
        server = Server(client=None)
        server.opened -= age
        waits.append(patience.ends("p", server, unverified))
    assert waits == [True, False, True, False, True, True, True, True]
    patience.ends("p", server, driver.ConnectionError("reset"))
    server.opened += 68.5
    assert patience.ends("p", server, unverified)
