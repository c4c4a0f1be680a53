"""Translation of redis-py's errors: by the first word of the reply, or by class if redis-py removes the word."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

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
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.errors import redis_errors, translate
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.testing import MemoryBackup
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
        (b"OTHERLAYOUT OK v2:64:12", ConfigurationError, "another program overwrote: 'OK'"),
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
        (b"ERR unknown command", ConfigurationError, "saltctl needs it: unknown command"),
        (
            b"ERR unknown command 'XAUTOCLAIM', with args beginning with: 'secret'",
            ConfigurationError,
            "the service needs",
        ),
        (b"ERR unknown command `SCRIPT`, with args beginning with: `LOAD`", ConfigurationError, "rebuilds need SCRIPT"),
        (b"ERR Unknown subcommand or wrong number of arguments for 'load'.", ConfigurationError, "LOAD"),
        (b"ERR unknown subcommand 'EXISTS'. Try SCRIPT HELP.", ConfigurationError, "EXISTS"),
        (b"ERR wrong number of arguments for 'evalsha' command", ConfigurationError, "lookups need EVALSHA"),
        (b"ERR Command is not available: 'EVAL'.", ConfigurationError, "raises need EVAL"),
        (b"ERR This Redis command is not allowed from script script: 1a", ConfigurationError, "inside scripts"),
        (b"ERR Unknown Redis command called from script script: 1a", ConfigurationError, "inside scripts"),
        (b"ERR syntax error", ConfigurationError, "syntax error"),
        (b"ERR DB index is out of range", ConfigurationError, "does not have this database"),
        (b"ERR SELECT is not allowed in cluster mode", ConfigurationError, "node of a cluster"),
        (b"ERR This instance has cluster support disabled", ConfigurationError, "is not a cluster"),
        (b"DENIED Redis is running in protected mode because", AccessDeniedError, "protected mode"),
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


@pytest.mark.parametrize("reply", [b"MOVED 3999 127.0.0.1:1", b"ASK 3999 127.0.0.1:1", b"TRYAGAIN during rehashing"])
def test_a_single_server_that_redirects_is_a_node_of_a_cluster(reply: bytes) -> None:
    """redis:// to it can never work, so it is no outage, and no redirection is followed. Lookups have the backup."""
    settings = Settings(registry_id="0" * 16)

    def rule(_: int, command: Command) -> bytes:
        return b"-%s\r\n" % reply if command[0] in (b"EVAL", b"EVALSHA", b"HMGET", b"XADD") else RedisStub.OK

    with RedisStub(rule) as server:
        settings = replace(settings, redis_url=server.url)
        with closing(RedisRegistry(settings)) as store, closing(HeatStream(settings)) as stream:
            (primary,) = store.primaries()
            for call in (
                lambda: store.lookup(primary, ["a"]),
                lambda: store.lookup(primary, ["a", "b"]),
                lambda: store.read_unverified(["a"]),
                lambda: store.merge("a", 4),
                lambda: store.verified(range(1)),
                lambda: stream.append_reports([HeatReport("a", "app", 0, 1)]),
            ):
                with pytest.raises(ConfigurationError, match="is a node of a cluster") as refused:
                    call()
                assert "redis+cluster://" in refused.value.hint
            registry = Registry(store, MemoryBackup())
            assert registry.lookup("a").source == "backup"
            assert isinstance(registry.last_failure, ConfigurationError)


@pytest.mark.parametrize(
    ("greeting", "error", "says"),
    [
        (b"-DENIED Redis is running in protected mode because\r\n", AccessDeniedError, "protected mode"),
        (b"-ERR max number of clients reached\r\n", RedisUnavailableError, "max number of clients"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", RedisUnavailableError, "LOADING"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ConfigurationError, "speaks HTTP"),
        (b"SSH-2.0-OpenSSH_9\r\n", ConfigurationError, "speaks SSH"),
        (b"220 mail ready\r\n", ConfigurationError, "does not speak the protocol of Redis"),
        (b"J\0\0\0\n8.0.33\0", ConfigurationError, "does not speak the protocol of Redis"),
        (b"", RedisUnavailableError, "Connection closed by server in the first reply"),
    ],
    ids=range(8),
)
@pytest.mark.parametrize("asked", [False, True])
def test_a_server_that_refuses_the_connection(
    greeting: bytes, error: type[SaltctlError], says: str, asked: bool
) -> None:
    """Every command has the same error, and waits for no further reply. Some servers speak first, some after us."""
    first: set[int] = set()

    def rule(connection: int, _: Command) -> bytes | None:
        """Answer the first command alone."""
        if not greeting:
            raise ConnectionResetError
        if not asked or connection in first:
            return None
        first.add(connection)
        return greeting

    with RedisStub(rule, b"" if asked else greeting) as server:
        settings = Settings(redis_url=server.url, registry_id="0" * 16, lookup_timeout=30.0, redis_timeout=30.0)
        with closing(RedisRegistry(settings)) as store, closing(HeatStream(settings)) as stream:
            (primary,) = store.primaries()
            for call in (
                *[lambda: store.lookup(primary, ["a"])] * 3,
                *[lambda: store.lookup(primary, ["a", "b"])] * 2,
                lambda: store.merge("a", 4),
                store.sessions,
                stream.info,
            ):
                with pytest.raises(error, match=says) as refused:
                    call()
                assert type(refused.value) is error
                assert greeting or "rediss://" in refused.value.hint


def test_arguments_of_an_absent_command_are_not_repeated(ask: Callable[[bytes], SaltctlError]) -> None:
    """They are scripts and conversation ids."""
    assert "secret" not in ask(b"ERR unknown command 'EVAL', with args beginning with: 'secret'").message


@pytest.mark.parametrize(
    ("failure", "error", "says", "hint"),
    [
        ('Protocol error, got "H" as reply type byte', ConfigurationError, "speaks HTTP", "the port"),
        ('Protocol error, got "\\x15" as reply type byte', ConfigurationError, "speaks TLS", "rediss://"),
        ('Protocol error, got "S" as reply type byte', ConfigurationError, "speaks SSH", "the port"),
        ('Protocol error, got "E" as reply type byte in the first reply', ConfigurationError, "protocol of", "port"),
        ('Protocol error, got "\\x00" as reply type byte', RedisUnavailableError, "Protocol error", "runs"),
        ("Protocol Error: b'HTTP/1.1 400 Bad Request'", ConfigurationError, "speaks HTTP", "the port"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", ConfigurationError, "does not speak TLS", "redis://"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate", ConfigurationError, "self-signed", "ssl_ca_certs"),
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required", ConfigurationError, "wants",
         "ssl_certfile"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired", ConfigurationError, "has expired", "renewed"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate is not yet valid", ConfigurationError, "not valid yet", "clock"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] Hostname mismatch, certificate is not valid for 'h'", ConfigurationError,
         "for another name.*'h'", "ssl_check_hostname"),
        ("[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE] sslv3 alert handshake failure", ConfigurationError, "no TLS version",
         "ssl_min_version"),
        ("[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] sslv3 alert certificate expired", ConfigurationError,
         "client's certificate.*expired", "ssl_certfile"),
        ("unknown command 'SENTINEL', with args beginning with: 'x'", ConfigurationError, "is not a sentinel",
         "26379.*redis://"),
        ("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF", RedisUnavailableError, "EOF", "runs"),
        ("EOF occurred in violation of protocol", RedisUnavailableError, "EOF", "no TLS, write redis://"),
        ("Error -2 connecting to h:1. Name or service not known.", RedisUnavailableError, "known", "h:1 .*spelling"),
        ("Error -3 connecting to h:1. Temporary failure in name.", RedisUnavailableError, "Temporary", "runs"),
        ("max number of clients reached", RedisUnavailableError, "clients", "maxclients"),
    ],
)  # fmt: skip
def test_a_permanent_failure_is_not_an_outage(failure: str, error: type[SaltctlError], says: str, hint: str) -> None:
    """69 makes cron retry for ever."""
    import redis.exceptions as driver

    kind = driver.InvalidResponse if "rotocol" in failure else driver.ConnectionError
    found = translate(kind(failure), "h:1")
    assert type(found) is error
    assert re.search(says, found.message)
    assert re.search(hint, found.hint)


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
