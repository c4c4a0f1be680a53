"""A server that announces or sends too much does not fill the memory: its reply is refused before any timeout."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from saltctl.errors import RedisUnavailableError
from saltctl.settings import Settings
from saltctl.stores.bounded import reply_limit
from saltctl.stores.bounded.reply_limit import OversizedReplyError, ReplyLimit, announces_too_much
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.redis.dedicated_connection import read_replies
from saltctl.stores.redis.registry import RedisRegistry
from tests.support.redis_stub import Command, RedisStub, array

ANNOUNCED = [
    b"$100000000000\r\n",
    b"*1000000000\r\n",
    b"*1000000000",
    b"~1000000000\r\n",
    b"*1\r\n*1\r\n*1000000000\r\n",
    b"*3\r\n$-1\r\n:7\r\n*1000000000\r\n",
    b"*2\r\n$4\r\nconv\r\n$100000000000\r\n",
    b"*99999999999999999999999999\r\n",
    b"*9000\r\n" + 8000 * b"$1\r\na\r\n" + b"*1000000000\r\n",
    *(b"%c12345678\r\n" % kind for kind in b"*~%>|"),
    *(b"%c123456789\r\n" % kind for kind in b"$=!"),
]


@pytest.mark.parametrize("reply", ANNOUNCED)
def test_lengths_out_of_bounds(reply: bytes) -> None:
    """Of strings and of arrays, also deep inside of other arrays."""
    assert announces_too_much(b"\r\n" + reply)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\r\n\r\n",
        b"*-1\r\n",
        b"$-1\r\n",
        b"*4194304\r\n",
        *(b"%c9876543\r\n" % kind for kind in b"*~%>|"),
        *(b"%c98765432\r\n" % kind for kind in b"$=!"),
        b"$67108864\r\nx",
        b":1000000000000\r\n",
        b"+1000000000000\r\n",
        b"-ERR *1000000000\r\n",
        array(["\r\n*1000000000\r\n", "a"]),
        array(["*1000000000", "a"]),
        b"*2\r\n$500\r\n" + 38 * b"\r\n*1000000000",
    ],
)
def test_lengths_within_bounds(reply: bytes) -> None:
    """A conversation id may contain what looks like a length."""
    assert not announces_too_much(b"\r\n" + reply)


@pytest.mark.parametrize("size", [1, 2, 5, 4096])
def test_a_length_may_arrive_in_parts(size: int) -> None:
    """An id that looks like a length may, too."""

    def receive(reply: bytes) -> None:
        limit = ReplyLimit()
        for at in range(0, len(reply), size):
            part = reply[at : at + size]
            limit(part, len(part))

    receive(20 * array(["*10000000", 150 * "\r\n*10000000"]))
    with pytest.raises(OversizedReplyError):
        receive(b"*2\r\n" + array(["conv", "*10000000"]) + b"*1000000000\r\n")


USES: list[Callable[[RedisRegistry, HeatStream], Any]] = [
    lambda store, _: store.lookup(store.primaries()[0], ["conv"]),
    lambda store, _: store.lookup(store.primaries()[0], ["conv", "other"]),
    lambda store, _: store.sessions(),
    lambda _, stream: stream.range("-", "+", 10),
]


def use_all(reply: bytes) -> None:
    """Use a server that answers everything so, and then stays silent. Each use must be refused at once."""

    def rule(_: int, command: Command) -> bytes:
        return RedisStub.OK if command[0] in (b"AUTH", b"SELECT") else reply

    with RedisStub(rule) as server:
        settings = Settings(redis_url=server.url, buckets=1, registry_id="0" * 16, lookup_timeout=20, redis_timeout=20)
        with closing(RedisRegistry(settings)) as store, closing(HeatStream(settings)) as stream:
            for use in USES:
                with pytest.raises(RedisUnavailableError, match="answered another command"):
                    use(store, stream)


@pytest.mark.parametrize("reply", [*ANNOUNCED[:2], ANNOUNCED[8]])
def test_a_reply_that_announces_too_much_is_refused(reply: bytes) -> None:
    """The memory for an array would be allocated, and the rest waited for."""
    use_all(reply)


@pytest.mark.parametrize("reply", [b"+" + 70_000 * b"x", b"*50000\r\n" + 20_000 * b"*0\r\n"])
def test_a_reply_without_end_is_refused(reply: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it announces."""
    monkeypatch.setattr(reply_limit, "MAX_REPLY_BYTES", 60_000)
    use_all(reply)


def test_each_reply_is_counted_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch may be longer than the longest reply. What is received with one, up to 64 KB, may belong to the next."""
    monkeypatch.setattr(reply_limit, "MAX_REPLY_BYTES", 200_000)
    entry = b"*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\na\r\n$80000\r\n" + 80_000 * b"x" + b"\r\n"
    with (
        RedisStub(lambda _, command: entry if command[0] == b"XRANGE" else RedisStub.OK) as server,
        closing(HeatStream(Settings(redis_url=server.url))) as stream,
    ):
        assert [entry.id for entry in stream.get(["1-0"] * 5)] == ["1-0"] * 5


def test_many_replies_without_end_are_refused() -> None:
    """A rebuild reads them from the socket itself."""
    import redis.exceptions as driver

    class Endless:
        def recv(self, size: int) -> bytes:
            return size * b"+"

    with pytest.raises(driver.ConnectionError, match="answered another command"):
        read_replies(Endless(), 10)
