"""No reply is used before its shape is checked: a reply of another command becomes no value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from saltctl.errors import RedisUnavailableError, SaltctlError
from saltctl.settings import Settings
from saltctl.stores.heat.dead_letters import DeadLetters
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.heat.window_sums import WindowSums
from saltctl.stores.redis.buckets import UNREADABLE, RedisBucketReader
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.inspection import RedisInspection
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis.replies.shapes import has_shape
from saltctl.stores.redis.scripts import script_sha
from tests.support.redis_servers import eventually
from tests.support.redis_stub import Command, RedisStub, array

ODD = [
    b"+OK\r\n",
    b"+QUEUED\r\n",
    b":7\r\n",
    b":-1\r\n",
    b"$1\r\n4\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    array(["4"]),
    array(["4", "4"]),
    b"*1\r\n*1\r\n$1\r\n4\r\n",
    b"*2\r\n:1\r\n:1\r\n",
    b"-MOVED 1234\r\n",
    b"-ASK x y\r\n",
    b"*1\r\n-ERR nested\r\n",
    2000 * b">1\r\n$1\r\nx\r\n",  # redis-py handles each push in a call of its own, or takes one for the reply
]
"""Replies of other commands, and replies that redis-py cannot parse."""


@pytest.fixture(params=ODD, ids=lambda reply: repr(reply)[2:20])
def settings(request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings for a server that gives one odd reply to everything."""

    def rule(_: int, command: Command) -> bytes:
        return RedisStub.OK if command[0] in (b"AUTH", b"SELECT") else bytes(request.param)

    with RedisStub(rule) as server:
        yield Settings(redis_url=server.url, buckets=1, registry_id="feed0123456789ab")


def is_one_of(found: object, possible: list[object]) -> bool:
    """Return whether a value is one of these, of the same type: True is not 1."""
    return any(type(found) is type(one) and found == one for one in possible)


Use = Callable[[Settings], Any]
REPORT = HeatReport("conv", "app", 1, 20)
USES: dict[str, tuple[Use, list[object]]] = {
    # How a reply is used, and the values that these replies may become: of the right shape, they are an answer.
    "lookup": (lambda s: RedisRegistry(s).lookup(RedisRegistry(s).primaries()[0], ["a"]), [[4]]),
    "lookups": (lambda s: RedisRegistry(s).lookup(RedisRegistry(s).primaries()[0], ["a", "b"]), [[4, 4]]),
    "merge": (lambda s: RedisRegistry(s).merge("a", 4), []),
    "verified": (lambda s: list(RedisRegistry(s).verified().values()), [[True]]),
    "bucket_exists": (lambda s: RedisRegistry(s).bucket_exists(), [True]),
    # UNREADABLE: "x" is not a salt count.
    "read_unverified": (lambda s: RedisRegistry(s).read_unverified(["a"]), [{"a": 4}, {"a": UNREADABLE}]),
    "entries": (lambda s: list(RedisRegistry(s).entries()), []),
    "replication_ids": (lambda s: RedisRegistry(s).replication_ids(), []),
    "check_server": (lambda s: RedisRegistry(s).check_server(), []),
    "sessions": (lambda s: RedisRegistry(s).sessions(), []),
    "count_entries": (lambda s: RedisInspection(s).count_entries("v2"), []),
    "group_exists": (lambda s: HeatStream(s).group_exists(), []),
    "create_group": (lambda s: HeatStream(s).create_group(), [None]),
    "append": (lambda s: HeatStream(s).append_reports([REPORT]), []),
    "read_new": (lambda s: HeatStream(s).read_new("c", 1, 0.0), [[]]),
    "read_own": (lambda s: HeatStream(s).read_own("c", "0", 1), [[]]),
    "claim": (lambda s: HeatStream(s).claim("c", 1.0, "0-0", 1), []),
    "acknowledge": (lambda s: HeatStream(s).acknowledge(["1-0"]), [7]),
    "trim": (lambda s: HeatStream(s).trim(1.0), [7]),
    "idle": (lambda s: HeatStream(s).delete_idle_consumers(1.0), [[], ["4"], ["4", "4"], ["x"]]),
    "range": (lambda s: HeatStream(s).range("-", "+", 1), [[]]),
    "pending": (lambda s: HeatStream(s).pending("-", 1), [[]]),
    "info": (lambda s: HeatStream(s).info(), []),
    "sums": (lambda s: [n for n in WindowSums(s).add([REPORT]) if not isinstance(n, SaltctlError)], [[]]),
    "letters": (lambda s: (DeadLetters(s).length(), DeadLetters(s).list()), []),
    "verification": (lambda s: ServiceState(s).verification(), [None]),
}


@pytest.mark.parametrize("use", USES)
def test_odd_replies_become_no_values(settings: Settings, use: str) -> None:
    """Each is a SaltctlError, hence 69 and the backup, and never another exception."""
    call, possible = USES[use]
    try:
        found = call(settings)
    except SaltctlError:
        return
    assert is_one_of(found, possible), found


@pytest.mark.parametrize("reply", [b"+OK\r\n", b"+PONG\r\n", b"$1\r\n4\r\n", b"$-1\r\n"])
@pytest.mark.parametrize(
    "use",
    [
        lambda s: RedisRegistry(s).check_owner(),
        lambda s: RedisBucketReader(s).fence_layouts(),
        lambda s: RedisInspection(s).find_layout(),
        lambda s: ServiceState(s).verification(),
        lambda s: ServiceState(s).last_raise(),
        lambda s: ServiceState(s).last_raises(),
    ],
    ids=["check_owner", "fence_layouts", "find_layout", "verification", "last_raise", "last_raises"],
)
def test_a_string_is_no_field_of_a_hash(use: Use, reply: bytes) -> None:
    """Any string could be the reply to HGET: it was taken for the fence of another layout (78), or for no record."""
    with RedisStub(lambda _, command: RedisStub.OK if command[0] == b"SELECT" else reply) as server:
        settings = Settings(redis_url=server.url, buckets=1, registry_id="feed0123456789ab")
        with pytest.raises(RedisUnavailableError, match="answered another command"):
            use(settings)


def test_an_odd_reply_ends_its_connection() -> None:
    """The next command has a new one, because later replies would be those of other commands, too."""
    connections: list[int] = []

    def rule(connection: int, command: Command) -> bytes:
        connections.append(connection)
        return b"+PONG\r\n" if len(connections) == 1 else b":3\r\n"

    with RedisStub(rule) as server:
        client = Connections(Settings(redis_url=server.url), timeout=5.0, retries=0)
        with pytest.raises(RedisUnavailableError, match="answered another command"):
            client.ask_of("k", [("XLEN", "k")])
        assert client.ask_of("k", [("XLEN", "k")]) == [3]
        assert connections == [0, 1]
        client.close()


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        (("HMGET", "k", "a", "b"), [b"1", None]),
        (("XADD", "k", "*", "a", "b"), b"1526919030474-55"),
        (("XREADGROUP", "GROUP", "g", "c", "STREAMS", "k", "0"), [[b"k", [[b"1-0", None], [b"2-0", [b"a", b"b"]]]]]),
        (("XAUTOCLAIM", "k", "g", "c", 0, "0-0"), [b"0-0", [None, [b"1-0", []]], [b"2-0"]]),
        (("XPENDING", "k", "g"), [0, None, None, None]),
        (("XPENDING", "k", "g"), [1, b"1-0", b"1-0", [[b"c", b"1"]]]),
        (("XPENDING", "k", "g", "-", "+", 1), [[b"1-0", b"c", 74, 1]]),
        (("CONFIG", "GET", "appendfsync"), []),
        (("PING",), b"PONG"),
    ],
)
def test_right_replies(command: tuple[Any, ...], reply: Any) -> None:
    """As in the documentation of Redis; the other tests of the stores have those of real servers."""
    assert has_shape(command, reply)


@pytest.mark.parametrize("reply", [b"-MOVED\r\n", b"-ASK x y\r\n"])
@pytest.mark.parametrize("use", ["lookup", "lookups", "merge", "sessions"])
def test_odd_replies_to_a_login(use: str, reply: bytes) -> None:
    """redis-py logs in while it connects: a SaltctlError, after which a lookup asks the backup."""
    with RedisStub(lambda _, command: reply if command[0] == b"AUTH" else RedisStub.OK) as server:
        url = server.url.replace("redis://", "redis://:secret@")
        with pytest.raises(SaltctlError):
            USES[use][0](Settings(redis_url=url, buckets=1, registry_id="feed0123456789ab"))


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("mark_buckets", [b"0123456789abcdef" * 2], [b"OK", b"\xff", b"", 7]),
        ("check_marks", [b"", b"the token is gone from salt:{1}"], [b"\xff", 7, None]),
    ],
)
def test_replies_of_scripts_of_a_rebuild(name: str, right: list[object], wrong: list[object]) -> None:
    """A reply of another command is no replication id and no reason."""
    command = ("EVALSHA", script_sha(name), 1, "key", "layout", "token")
    assert [has_shape(command, reply) for reply in right + wrong] == [True] * len(right) + [False] * len(wrong)


@pytest.mark.parametrize(
    "entry",
    [
        b"1-0",
        b"ab",
        7,
        None,
        [],
        [b"1-0"],
        [b"1-0", [b"a", b"b"], b"c"],
        [b"1", [b"a", b"b"]],
        [7, [b"a", b"b"]],
        [None, None],
        [b"1-0", b"ab"],
        [b"1-0", 7],
        [b"1-0", [b"a"]],
        [b"1-0", [b"a", 7]],
        [b"1-0", [b"a", None]],
        [b"1-0", [[b"a"], b"b"]],
        [[b"1-0"], [b"a", b"b"]],
    ],
)
def test_what_is_no_entry(entry: object) -> None:
    """After a good entry as well as alone: an id, and names and values or nothing."""
    assert not has_shape(("XRANGE", "k", "-", "+"), [entry])
    assert not has_shape(("XRANGE", "k", "-", "+"), [[b"1-0", [b"a", b"b"]], entry])


def test_a_surplus_reply_ends_a_dedicated_connection() -> None:
    """It would be taken for the reply to the next command, such as the one that sets fences."""
    with RedisStub(lambda _, command: RedisStub.OK if command[0] == b"SELECT" else b":3\r\n") as server:
        connections = Connections(Settings(redis_url=server.url), timeout=5.0, retries=0)
        dedicated = connections.dedicated(connections.primaries()[0])
        assert dedicated.execute([("XLEN", "k")]) == [3]
        server.send(0, b":4\r\n")
        eventually(lambda: server.arrived(0), "the surplus reply lies in the connection")
        with pytest.raises(RedisUnavailableError, match="answered another command"):
            dedicated.execute([("XLEN", "k")])
        with pytest.raises(RedisUnavailableError, match="was lost"):
            dedicated.execute([("XLEN", "k")])
        connections.close()
