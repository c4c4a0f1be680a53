"""Translation of redis-py's errors: by the first word of the reply, or by class if redis-py removes the word."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from saltctl.errors import (
    AccessDeniedError,
    ConfigurationError,
    RebuildBrokenError,
    RedisUnavailableError,
    SaltctlError,
    UnverifiedBucketError,
    UnverifiedError,
    WrongTypeError,
)
from saltctl.settings import Settings
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.errors import redis_errors
from tests.support.redis_stub import Command, RedisStub


@pytest.fixture
def ask() -> Callable[[bytes], SaltctlError]:
    """The error that a reply of a server becomes, on its way through redis-py as it is installed."""

    def reply_with(reply: bytes) -> SaltctlError:
        def rule(connection: int, command: Command) -> bytes:
            return b"-%s\r\n" % reply if command[0] == b"GET" else RedisStub.OK

        with RedisStub(rule) as server:
            connections = Connections(Settings(redis_url=server.url), timeout=5.0, retries=0)
            primary = connections.primaries()[0]
            try:
                with pytest.raises(SaltctlError) as caught, redis_errors(primary):
                    connections.client(primary).execute_command("GET", "x")
            finally:
                connections.close()
        assert caught.value.__cause__ is not None
        return caught.value

    return reply_with


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        (b"NOSCRIPT No matching script.", UnverifiedError, "started since"),
        (b"UNVERIFIED this bucket was not verified here", UnverifiedBucketError, "fence is missing or foreign"),
        (b"OTHERLAYOUT v2:128:12:abcdef v2:64:12", ConfigurationError, "another layout: v2:128:12"),
        (b"OTHERLAYOUT v2:64:ab:abcdef v2:64:12", ConfigurationError, "another registry, ab; that of this backup"),
        (b"BROKEN the token is gone from salt:r:5", RebuildBrokenError, "gone from salt:r:5"),
        (b"NOREPLID INFO replication shows no master_replid", ConfigurationError, "replication id"),
        (b"LOADING Redis is loading the dataset in memory", RedisUnavailableError, "(LOADING)"),
        (b"READONLY You can't write against a read only replica.", RedisUnavailableError, "(READONLY)"),
        (b"NOREPLICAS Not enough good replicas to write.", RedisUnavailableError, "(NOREPLICAS)"),
        (b"MASTERDOWN Link with MASTER is down", RedisUnavailableError, "(MASTERDOWN)"),
        (b"CLUSTERDOWN The cluster is down", RedisUnavailableError, "(CLUSTERDOWN)"),
        (b"TRYAGAIN Multiple keys request during rehashing", RedisUnavailableError, "(TRYAGAIN)"),
        (b"MOVED 3999 127.0.0.1:6381", RedisUnavailableError, "(MOVED)"),
        (b"ASK 3999 127.0.0.1:6381", RedisUnavailableError, "(ASK)"),
        (b"MISCONF Redis is configured to save RDB snapshots", RedisUnavailableError, "(MISCONF)"),
        (b"OOM command not allowed when used memory > 'maxmemory'.", RedisUnavailableError, "(OOM)"),
        (b"BUSY Redis is busy running a script.", RedisUnavailableError, "(BUSY)"),
        (b"UNKILLABLE Sorry the script already executed write commands", RedisUnavailableError, "(UNKILLABLE)"),
        (b"NOAUTH Authentication required.", AccessDeniedError, "refuses these credentials"),
        (b"WRONGPASS invalid username-password pair", AccessDeniedError, "refuses these credentials"),
        (b"NOPERM User x has no permissions to run the 'get' command", AccessDeniedError, "no permissions"),
        (b"ERR max number of clients reached", RedisUnavailableError, "max number of clients"),
        (b"ERR unknown command", RedisUnavailableError, "unknown command"),
        (b"WRONGTYPE Operation against a key holding the wrong kind of value", WrongTypeError, "WRONGTYPE"),
        (b"NEWWORD that nobody knows", RedisUnavailableError, "NEWWORD that nobody knows"),
    ],
    ids=lambda value: value.split(b" ")[0].decode() if isinstance(value, bytes) else "",
)
def test_each_reply_has_its_error(
    ask: Callable[[bytes], SaltctlError], reply: bytes, error: type[SaltctlError], says: str
) -> None:
    """The class is the most specific one, the message names the server and the trouble, and there is a next step."""
    failure = ask(reply)
    assert type(failure) is error
    assert says in failure.message
    assert "127.0.0.1" in failure.message
    assert failure.hint


def test_a_reply_of_many_lines_is_one_line(ask: Callable[[bytes], SaltctlError]) -> None:
    """A message stays one line whatever the server sends."""
    assert "\t" not in ask(b"ERR first\tsecond").message


def test_an_error_of_ours_passes_unchanged() -> None:
    """Only the errors of redis-py are translated."""
    ours = ConfigurationError("ours")
    with pytest.raises(ConfigurationError) as caught, redis_errors("server"):
        raise ours
    assert caught.value is ours


def test_an_error_of_nobody_passes_unchanged() -> None:
    """A defect stays one."""
    with pytest.raises(ZeroDivisionError), redis_errors("server"):
        _ = 1 // 0
