"""Questions of doctor and status to servers that lack commands, or refuse them."""

from __future__ import annotations

import pytest

from saltctl.errors import AccessDeniedError, ConfigurationError, SaltctlError
from saltctl.settings import Settings
from saltctl.stores.redis.inspection import RedisInspection, RegistryCounts
from tests.support.redis_stub import Command, RedisStub, bulk

INFO = "# Server\r\nredis_version:7.2.4\r\nrole:master\r\n"
UNKNOWN = b"-ERR unknown command '%s', with args beginning with: 'x'\r\n"


def inspect(replies: dict[bytes, bytes]) -> RegistryCounts:
    """Count the entries of a server whose fences are all valid, with these replies instead."""
    counts = b"*5\r\n:7\r\n:64\r\n:0\r\n:0\r\n*0\r\n"
    normal = {b"INFO": bulk(INFO), b"EVAL": counts, b"SCRIPT": b"*1\r\n:1\r\n", b"EVALSHA": b"*1\r\n$-1\r\n"}

    def rule(_: int, command: Command) -> bytes:
        return (normal | replies).get(command[0], RedisStub.OK)

    with RedisStub(rule) as server:
        inspection = RedisInspection(Settings(redis_url=server.url, buckets=64))
        try:
            (primary,) = inspection.primaries()
            assert inspection.info(primary).info["role"] == "master"
            return inspection.count_entries("v2:64:feed")[0]
        finally:
            inspection.close()


@pytest.mark.parametrize("refusal", [b"-NOPERM User app has no permissions to run the 'ping' command\r\n", UNKNOWN])
def test_a_server_that_refuses_ping_is_inspected(refusal: bytes) -> None:
    """PING only warms the connection up."""
    assert inspect({b"PING": refusal}).verified


def test_our_user_need_not_ask_for_scripts() -> None:
    """Only a server that has no SCRIPT is a problem."""
    assert inspect({b"SCRIPT": b"-NOPERM User app has no permissions to run the 'script|exists' command\r\n"}).verified


@pytest.mark.parametrize(
    ("replies", "error", "says"),
    [
        ({b"SCRIPT": UNKNOWN % b"SCRIPT"}, ConfigurationError, "rebuilds need SCRIPT"),
        ({b"EVAL": UNKNOWN % b"EVAL"}, ConfigurationError, "raises need EVAL"),
        ({b"INFO": UNKNOWN % b"INFO"}, ConfigurationError, "lookups need INFO"),
        ({b"EVAL": b"-NOPERM no permissions to run the 'eval' command\r\n"}, AccessDeniedError, "eval"),
    ],
)
def test_a_command_that_is_absent(replies: dict[bytes, bytes], error: type[SaltctlError], says: str) -> None:
    """A server that can never be verified is not reported as one that needs a rebuild, nor as verified."""
    with pytest.raises(error, match=says) as found:
        inspect(replies)
    assert "rebuild" not in found.value.hint


@pytest.mark.parametrize(
    ("reply", "refused"),
    [
        (b"-UNVERIFIED x\r\n", ""),
        (b"-NOSCRIPT x\r\n", ""),
        (b"-NOPERM no permissions to run the 'evalsha' command\r\n", "no permissions"),
        (UNKNOWN % b"EVALSHA", "lookups need EVALSHA"),
    ],
)
def test_lookups_that_are_refused_are_unverified(reply: bytes, refused: str) -> None:
    """Whatever the fences say."""
    found = inspect({b"EVALSHA": reply})
    assert not found.verified
    assert refused in found.refused
    assert bool(found.refused) is bool(refused)


@pytest.mark.parametrize("reply", [b"+OK\r\n", b"*-1\r\n", b":7\r\n", b"*4\r\n:7\r\n:64\r\n:0\r\n:0\r\n"])
@pytest.mark.parametrize("command", [b"EVAL", b"INFO"])
def test_replies_of_other_commands(command: bytes, reply: bytes) -> None:
    """They become no numbers."""
    with pytest.raises(SaltctlError, match="answered another command"):
        inspect({command: reply})


@pytest.mark.parametrize(
    ("reply", "lacks"),
    [
        (UNKNOWN % b"CONFIG", True),
        (b"-NOPERM User app has no permissions to run the 'config|get' command\r\n", False),
        (b"*2\r\n" + bulk("maxmemory-policy") + bulk("noeviction"), False),
    ],
)
def test_a_server_without_config(reply: bytes, lacks: bool) -> None:
    """If it is refused to our user only, an administrator can use it."""
    with RedisStub(lambda _, command: reply if command[0] == b"CONFIG" else RedisStub.OK) as server:
        inspection = RedisInspection(Settings(redis_url=server.url))
        try:
            assert inspection.lacks_config(inspection.primaries()[0]) is lacks
        finally:
            inspection.close()
