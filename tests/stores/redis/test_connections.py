"""Connections to Redis: credentials, sockets, TLS, deadlines, and servers that cannot keep the promise."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saltctl.detection.write_meter import WriteMeter
from saltctl.errors import (
    AccessDeniedError,
    ConfigurationError,
    RedisUnavailableError,
    SaltctlError,
)
from saltctl.local.servers import LocalRedis, free_port
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.bounded.deadline import BoundedSocket
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.dedicated_connection import DedicatedConnection, read_replies
from saltctl.stores.redis.inspection import RedisInspection
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.urls import parse_redis_url
from tests.support import Rebuilder
from tests.support.redis_servers import eventually, merge
from tests.support.redis_stub import Command, RedisStub, array, bulk

PASSWORD = "correct-horse-battery"  # noqa: S105  opens a server of this test's own
WRONG = "wrong-horse-staple"

StoreOf = Callable[[Settings], RedisRegistry]


@pytest.fixture
def store_of() -> Iterator[StoreOf]:
    """Opens registry stores, and closes them."""
    stores: list[RedisRegistry] = []

    def open_(settings: Settings) -> RedisRegistry:
        stores.append(RedisRegistry(settings))
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


def of_redis(url: str, **options: Any) -> Settings:
    """Settings for a Redis; no AWS has a part in it. A lookup has seconds, for a machine that is busy."""
    settings = Settings(redis_url=url, buckets=64, registry_id="feed0123456789ab", lookup_timeout=5.0)
    return replace(settings, **options)


# Credentials.


@pytest.fixture
def locked_server(redis_binary: Path, tmp_path: Path) -> Iterator[LocalRedis]:
    """A Redis with a password."""
    server = LocalRedis(tmp_path / "locked", binary=redis_binary, password=PASSWORD)
    server.start()
    yield server
    server.kill()


def assert_nothing_is_told(error: SaltctlError) -> None:
    """No password, in no part of it."""
    shown = f"{error.message} {error.hint} {error!r} {error.__cause__}"
    assert PASSWORD not in shown
    assert WRONG not in shown


def test_the_right_password_opens(locked_server: LocalRedis, store_of: StoreOf) -> None:
    """From the URL; the name of the server in messages has none of it."""
    store = store_of(of_redis(locked_server.url))
    assert store.merge("conv", 4).raised
    assert store.primaries() == (f"127.0.0.1:{locked_server.port}",)


def test_the_password_file_opens(locked_server: LocalRedis, store_of: StoreOf, tmp_path: Path) -> None:
    """With a URL that has no password; rebuilds' own connections use it, too."""
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    settings = of_redis(f"redis://127.0.0.1:{locked_server.port}/0", redis_password_file=path)
    store = store_of(settings)
    assert store.merge("conv", 4).raised
    path.write_text(WRONG)
    with pytest.raises(AccessDeniedError):
        store.sessions()
    path.write_text(PASSWORD)  # each connection reads it again
    for session in store.sessions():
        assert merge(session, [("conv", 4)]) == 0  # it is there
        session.close()


@pytest.mark.parametrize("url", ["redis://h", "redis+cluster://h", "redis+sentinel://h/s", "unix:///h", "sentinel"])
def test_a_password_file_is_read_when_the_registry_is_opened(url: str, tmp_path: Path) -> None:
    """Not at the first use: no server is asked."""
    path = tmp_path / "password"
    sentinel = url == "sentinel"
    redis_url = f"redis+sentinel://h/s?sentinel_password_file={path}" if sentinel else url
    settings = of_redis(redis_url, **({} if sentinel else {"redis_password_file": path}))
    name = "sentinel_password_file" if sentinel else "redis_password_file"
    openers: list[Callable[[Settings], object]] = [RedisRegistry, HeatStream, RedisInspection]
    for opens in openers:
        with pytest.raises(ConfigurationError, match=f"{name} '{path}' cannot be read: No such file"):
            opens(settings)


@pytest.mark.slow
@pytest.mark.parametrize("userinfo", [f":{WRONG}@", f"somebody:{WRONG}@", ""])
def test_a_wrong_password_is_told_and_not_repeated(locked_server: LocalRedis, store_of: StoreOf, userinfo: str) -> None:
    """Exit 77; neither the wrong one nor the right one is in message, hint or cause."""
    store = store_of(of_redis(f"redis://{userinfo}127.0.0.1:{locked_server.port}/0"))
    for call in (lambda: store.merge("conv", 4), lambda: store.lookup(store.primaries()[0], ["conv"]), store.sessions):
        with pytest.raises(AccessDeniedError, match="refuses these credentials") as refused:
            call()
        assert refused.value.exit_code == 77
        assert f"127.0.0.1:{locked_server.port}" in refused.value.message
        assert_nothing_is_told(refused.value)


LOOKUP_RIGHTS = ("~salt:r:*", "+evalsha", "+hmget", "+info")
"""The rights an application server needs for lookups: the script calls HMGET and INFO with the user's rights."""


def test_a_user_who_may_look_up_and_nothing_else(
    registry: Registry, rebuild: Rebuilder, admin: Any, settings: Settings, store_of: StoreOf
) -> None:
    """Application servers need no right to load scripts, and thus cannot verify a server by mistake, nor raise."""
    rebuild()
    registry.raise_to("conv", 4)
    admin.execute_command("ACL", "SETUSER", "app", "on", f">{PASSWORD}", *LOOKUP_RIGHTS)
    store = store_of(replace(settings, redis_url=str(settings.redis_url).replace("//", f"//app:{PASSWORD}@")))
    primary = store.primaries()[0]
    assert store.lookup(primary, ["conv"]) == [4]
    assert store.lookup(primary, ["other", "conv"]) == [None, 4]
    for call in (lambda: store.merge("conv", 8), store.sessions):
        with pytest.raises(AccessDeniedError, match="permission") as refused:
            call()
        assert_nothing_is_told(refused.value)


def test_a_script_that_may_do_less_than_it_has_to(settings: Settings, admin: Any, store_of: StoreOf) -> None:
    """The user may run scripts and not write: a matter of permission, not an outage, though Redis begins with ERR."""
    admin.execute_command("ACL", "SETUSER", "reader", "on", f">{PASSWORD}", *LOOKUP_RIGHTS, "+eval", "+hget")
    store = store_of(replace(settings, redis_url=str(settings.redis_url).replace("//", f"//reader:{PASSWORD}@")))
    with pytest.raises(AccessDeniedError, match="refuses"):
        store.merge("conv", 8)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("max_connections=8", "max_connections"),
        ("ssl_ca_certs={missing}", "ssl_ca_certs=.*No such file"),
        ("ssl_ca_certs={garbage}", "ssl_ca_certs=.*not usable"),
        ("ssl_ca_data=nonsense", "ssl_ca_data: not usable"),
        ("ssl_certfile={missing}", "ssl_certfile=.*No such file"),
        ("ssl_certfile={garbage}&ssl_keyfile={garbage}", "ssl_keyfile=.*not usable"),
        ("ssl_keyfile={garbage}", "ssl_certfile is missing"),
        ("ssl_min_version=TLSv1.3", "ssl_min_version .*771, 772"),
        ("ssl_ca_path={missing}", "ssl_ca_path=.*No such file"),
        ("ssl_ciphers=nonsense", "ssl_ciphers=nonsense"),
        ("ssl_include_verify_flags=nonsense", "ssl_include_verify_flags=nonsense"),
    ],
)
def test_options_that_cannot_be_used(option: str, says: str, tmp_path: Path) -> None:
    """They are refused when the registry is opened, not by its first lookup, which would ask the backup for ever."""
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    option = option.format(missing=tmp_path / "missing.pem", garbage=garbage)
    settings = of_redis(f"rediss://:{PASSWORD}@127.0.0.1:6379/0?{option}", aws_region="us-east-1")
    for open_ in (Registry.open, WriteMeter.open):
        with pytest.raises(ConfigurationError, match=says) as refused:
            open_(settings)
        assert refused.value.hint
        assert "=nonsense" not in option or "PEM" not in refused.value.hint or "data" in option
        assert_nothing_is_told(refused.value)


# URLs of servers.


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://h:1/0", "h:1"),
        ("redis://user:pw@h", "h:6379"),
        ("redis://[::1]:1", "[::1]:1"),
        ("unix://:pw@/run/redis.sock?db=1", "/run/redis.sock"),
    ],
)
def test_a_server_is_named_without_its_credentials(url: str, name: str) -> None:
    """As messages and reports name it."""
    assert str(parse_redis_url(url)) == name


@pytest.mark.slow
def test_nobody_at_the_port(store_of: StoreOf) -> None:
    """A refused connection is told at once, and not after redis-py's seconds of retries."""
    port = free_port()
    store = store_of(of_redis(f"redis://127.0.0.1:{port}/0"))
    for call in (lambda: store.lookup(store.primaries()[0], ["conv"]), lambda: store.merge("conv", 4), store.sessions):
        with pytest.raises(RedisUnavailableError) as refused:
            call()
        assert refused.value.message == f"Redis at 127.0.0.1:{port} cannot be reached: Connection refused"
        assert refused.value.exit_code == 69


def test_a_host_that_does_not_exist(store_of: StoreOf) -> None:
    """The resolver's error is an outage like any other."""
    store = store_of(of_redis("redis://no-such-host.invalid:6379/0"))
    with pytest.raises(RedisUnavailableError, match=r"no-such-host\.invalid"):
        store.lookup(store.primaries()[0], ["conv"])


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A path that is short enough for a socket."""
    directory = Path(tempfile.mkdtemp(prefix="saltctl-"))
    yield directory / "redis.sock"
    shutil.rmtree(directory)


def test_a_socket_works_as_well(redis_binary: Path, tmp_path: Path, socket_path: Path, store_of: StoreOf) -> None:
    """unix:// for lookups, raises and rebuilds' own connections."""
    server = LocalRedis(tmp_path / "redis", binary=redis_binary, options={"unixsocket": str(socket_path)})
    server.start()
    try:
        store = store_of(of_redis(f"unix://{socket_path}"))
        assert store.merge("conv", 4).raised
        (session,) = store.sessions()
        assert session.primary == str(socket_path)
        session.mark_buckets("token")
        session.set_fence("token")
        session.load_lookup()
        session.close()
        assert store.lookup(store.primaries()[0], ["conv", "other"]) == [4, None]
    finally:
        server.kill()


@pytest.mark.slow
def test_a_socket_that_is_not_there(store_of: StoreOf, socket_path: Path) -> None:
    """Is named by its path."""
    store = store_of(of_redis(f"unix://{socket_path}"))
    with pytest.raises(RedisUnavailableError, match=f"{socket_path} cannot be reached"):
        store.merge("conv", 4)


@pytest.mark.slow
def test_a_plain_server_does_not_speak_tls(redis_server: LocalRedis, store_of: StoreOf) -> None:
    """rediss:// to a server without TLS is an error that names the server; it neither hangs nor sends in clear."""
    store = store_of(of_redis(redis_server.url.replace("redis://", "rediss://"), lookup_timeout=1.0, redis_timeout=1.0))
    with pytest.raises(RedisUnavailableError, match=f"127.0.0.1:{redis_server.port}"):
        store.lookup(store.primaries()[0], ["conv"])


# Deadlines.


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The URL of a server that accepts connections, and says nothing ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


@pytest.mark.parametrize("ids", [["conv"], ["conv", "other"]])
def test_a_lookup_does_not_wait_for_a_silent_server(silent_server: str, store_of: StoreOf, ids: list[str]) -> None:
    """It ends after lookup_timeout: not tried again, and not after the timeout of everything else."""
    store = store_of(of_redis(silent_server, lookup_timeout=0.1, redis_timeout=60.0))
    started = time.monotonic()
    with pytest.raises(RedisUnavailableError, match="did not answer in time"):
        store.lookup(store.primaries()[0], ids)
    # Connecting has the same deadline once more; far below the 60 s that would be wrong.
    assert 0.1 <= time.monotonic() - started < 10.0


@pytest.mark.slow
def test_a_frozen_server_is_left_alone_after_one_timeout(
    registry: Registry, rebuild: Rebuilder, redis_server: LocalRedis, settings: Settings, store_of: StoreOf, backup: Any
) -> None:
    """SIGSTOP: connections stay open and Redis is silent. The backup answers, and after SIGCONT Redis again."""
    import os
    import signal

    rebuild()
    registry.raise_to("conv", 4)
    clock = [0.0]
    store = store_of(settings)
    careful = Registry(store, backup, breaker_seconds=5.0, clock=lambda: clock[0])
    assert careful.lookup("conv").source == "redis"
    assert redis_server.pid is not None
    os.kill(redis_server.pid, signal.SIGSTOP)
    try:
        assert careful.lookup("conv").source == "backup"
        assert "in time" in str(careful.last_failure)
        started = time.monotonic()
        assert {careful.lookup("conv").source for _ in range(20)} == {"backup"}
        assert time.monotonic() - started < 20 * settings.lookup_timeout
    finally:
        os.kill(redis_server.pid, signal.SIGCONT)
    clock[0] = 6.0
    assert careful.lookup("conv").source == "backup"  # its first answer might be that of a primary that was replaced
    clock[0] = 12.0
    assert careful.lookup("conv")[:4] == ("conv", 4, 4, "redis")


def test_a_late_answer_is_never_taken_for_the_next(store_of: StoreOf) -> None:
    """An answer that comes after its deadline belongs to a lookup that has failed, and to no other."""

    def rule(connection: int, command: Command) -> bytes | None:
        if command[0] != b"EVALSHA":
            return RedisStub.OK
        return None if command[-1] == b"first" else array(["2"])

    with RedisStub(rule) as server:
        store = store_of(of_redis(server.url, lookup_timeout=0.2))
        primary = store.primaries()[0]
        with pytest.raises(RedisUnavailableError, match="in time"):
            store.lookup(primary, ["first"])

        def late_answer_has_nowhere_to_go() -> bool:
            try:
                server.send(0, array(["7777"]))
            except OSError:
                return True
            return False

        eventually(late_answer_has_nowhere_to_go, "the connection is closed")
        for _ in range(3):
            assert store.lookup(primary, ["second"]) == [2]


def test_an_unasked_answer_is_never_taken_for_the_next(store_of: StoreOf) -> None:
    """Data in an idle connection is not the reply to the next lookup: the connection is closed."""

    def rule(connection: int, command: Command) -> bytes | None:
        return array(["2"]) if command[0] == b"EVALSHA" else RedisStub.OK

    with RedisStub(rule) as server:
        store = store_of(of_redis(server.url, lookup_timeout=5.0))
        primary = store.primaries()[0]
        assert store.lookup(primary, ["conv"]) == [2]
        server.send(0, array(["7777"]))
        eventually(lambda: server.arrived(0), "the answer lies in the client's connection")
        for _ in range(3):
            assert store.lookup(primary, ["conv"]) == [2]


@pytest.mark.parametrize("ids", [["conv"], ["conv", "other"]])
@pytest.mark.parametrize("reply", [b"+PONG\r\n", b":7\r\n", b"$2\r\n64\r\n", array([]), array(["7", "7", "7"])])
def test_a_reply_of_another_command(store_of: StoreOf, reply: bytes, ids: list[str]) -> None:
    """Its shape shows that the connection is out of step: an error, and a new connection for the next lookup."""
    connections: list[int] = []

    def rule(connection: int, command: Command) -> bytes | None:
        if command[0] != b"EVALSHA":
            return RedisStub.OK
        connections.append(connection)
        return reply if len(connections) == 1 else array(["2"] * (len(command) - 5))

    with RedisStub(rule) as server:
        store = store_of(of_redis(server.url))
        primary = store.primaries()[0]
        with pytest.raises(RedisUnavailableError, match="another command"):
            store.lookup(primary, ids)
        assert store.lookup(primary, ids) == [2] * len(ids)
        assert connections[0] != connections[-1]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_lookup_leaves_no_answer_behind(
    store_of: StoreOf, interruption: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """^C between command and reply, in a process that continues: the next lookup does not get the late reply."""
    unanswered: list[int] = []

    def rule(connection: int, command: Command) -> bytes | None:
        if command[0] != b"EVALSHA":
            return RedisStub.OK
        if command[-1] == b"interrupted":
            unanswered.append(connection)
            return None
        # On the connection that owes an answer that one comes first, and comes late.
        return array(["7777"]) if connection in unanswered else array(["2"])

    def interrupted(self: Any, *arguments: Any, **options: Any) -> Any:
        raise interruption

    with RedisStub(rule) as server:
        store = store_of(of_redis(server.url, lookup_timeout=5.0))
        primary = store.primaries()[0]
        assert store.lookup(primary, ["conv"]) == [2]
        with monkeypatch.context() as patch:
            patch.setattr(BoundedSocket, "recv_now", interrupted)
            with pytest.raises(interruption):
                store.lookup(primary, ["interrupted"])
        assert store.lookup(primary, ["conv"]) == [2]


# Servers that cannot keep the promise.


def info_server(info: str) -> RedisStub:
    """A server that says so in INFO."""
    return RedisStub(lambda connection, command: bulk(info) if command[0] == b"INFO" else RedisStub.OK)


@pytest.mark.parametrize("version", ["6.2.14", "5.0.7", "2.8.4", "unstable", "\u00b2.0"])
def test_a_server_that_is_too_old_is_refused(store_of: StoreOf, version: str) -> None:
    """Before 7 the script cache is replicated, and would carry the fence along."""
    with info_server(f"redis_version:{version}\r\nmaxmemory_policy:noeviction\r\n") as server:
        with pytest.raises(ConfigurationError, match=f"version {version}; saltctl needs Redis 7") as refused:
            store_of(of_redis(server.url)).check_server()
        assert refused.value.exit_code == 78


@pytest.mark.parametrize("version", ["7", "7.0.0", "7.2.4", "8.0.1", "10.0.0", "255.255.255"])
def test_a_server_that_is_new_enough_is_accepted(store_of: StoreOf, version: str) -> None:
    """Versions are compared as numbers: 10 is above 7."""
    with info_server(f"redis_version:{version}\r\nmaxmemory_policy:noeviction\r\n") as server:
        store_of(of_redis(server.url)).check_server()


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_a_server_that_evicts_is_refused(redis_binary: Path, tmp_path: Path, store_of: StoreOf, policy: str) -> None:
    """Its configuration decides; INFO shows it if CONFIG is not permitted."""
    server = LocalRedis(tmp_path / "redis", binary=redis_binary, options={"maxmemory-policy": policy})
    server.start()
    try:
        with pytest.raises(ConfigurationError, match=f"maxmemory-policy is {policy}") as refused:
            store_of(of_redis(server.url)).check_server()
        assert refused.value.exit_code == 78
    finally:
        server.kill()


# Connections that belong to one process.


@pytest.fixture
def dedicated(redis_server: LocalRedis) -> Iterator[DedicatedConnection]:
    """A connection of its own to the test's Redis."""
    connections = Connections(of_redis(redis_server.url), timeout=5.0, retries=2)
    connection = connections.dedicated(connections.primaries()[0])
    yield connection
    connection.close()
    connections.close()


def test_commands_are_answered_in_order(dedicated: DedicatedConnection) -> None:
    """All of them sent in one go."""
    assert dedicated.execute([("SET", "a", "1"), ("INCR", "a"), ("GET", "a")]) == [b"OK", 2, b"2"]
    assert dedicated.execute([]) == []


def test_a_dedicated_connection_never_reconnects(dedicated: DedicatedConnection, redis_server: LocalRedis) -> None:
    """The server was restarted on the same port: not one command reaches the new process, then or ever."""
    assert dedicated.execute([("SET", "a", "1")]) == [b"OK"]
    redis_server.kill()
    redis_server.delete_aof()
    redis_server.start()
    for _ in range(3):
        with pytest.raises(RedisUnavailableError):
            dedicated.execute([("SET", "a", "2")])
    assert_empty(redis_server)


def test_an_error_reply_ends_a_dedicated_connection(dedicated: DedicatedConnection, redis_server: LocalRedis) -> None:
    """Replies behind it were not read, and must not be taken for those of later commands."""
    with pytest.raises(RedisUnavailableError, match="not an integer"):
        dedicated.execute([("SET", "a", "x"), ("INCR", "a"), ("GET", "a")])
    with pytest.raises(RedisUnavailableError, match="was lost"):
        dedicated.execute([("GET", "a")])


def test_a_closed_dedicated_connection_stays_closed(dedicated: DedicatedConnection) -> None:
    """And may be closed twice."""
    dedicated.close()
    dedicated.close()
    with pytest.raises(RedisUnavailableError, match="was lost"):
        dedicated.execute([("GET", "a")])


def assert_empty(server: LocalRedis) -> None:
    """Nothing was written to it."""
    import redis

    with redis.Redis.from_url(server.url) as client:
        assert client.dbsize() == 0


# Stale connections.


@pytest.mark.slow
def test_lookups_survive_a_restart_without_an_error_of_their_own(
    registry: Registry, settings: Settings, redis_server: LocalRedis, store_of: StoreOf, rebuild: Rebuilder
) -> None:
    """After a restart and a rebuild the first lookup is answered by Redis: idle connections are checked, not used."""
    rebuild()
    store = store_of(replace(settings, lookup_timeout=5.0))
    primary = store.primaries()[0]
    assert store.lookup(primary, ["conv"]) == [None]
    redis_server.kill()
    redis_server.start()
    rebuild()
    assert store.lookup(primary, ["conv"]) == [None]


# Replies that are read past redis-py's parser.


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection: ours, and the server's."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0.2)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_replies_arrive_in_any_pieces(wire: tuple[socket.socket, socket.socket]) -> None:
    """Cut anywhere; exactly the requested replies are read."""
    ours, theirs = wire

    def send() -> None:
        for piece in (b":", b"1\r", b"\n:0\r\n$", b"2\r\n1", b"6\r\n$-1\r\n"):
            theirs.sendall(piece)
            time.sleep(0.01)

    sender = threading.Thread(target=send)
    sender.start()
    assert read_replies(ours, 4) == [1, 0, b"16", None]
    sender.join()
    theirs.sendall(b":1\r\n" * 50_000)
    assert read_replies(ours, 50_000) == [1] * 50_000


@pytest.mark.parametrize(
    ("sent", "error", "words"),
    [
        (b":1\r\n-READONLY You can't write.\r\n", "ResponseError", "READONLY"),
        (b"-NOPERM User has no permissions\r\n-NOPERM again\r\n", "ResponseError", "NOPERM User"),
        (b":1\r\n:0\r\n:1\r\n", "ConnectionError", "answered another command"),
        (b":1\r\n*99999999\r\n", "ConnectionError", "answered another command"),
        (b":1\r\nHTTP/1.1 400 Bad Request\r\n", "InvalidResponse", "Protocol error"),
        (b":1\r\n:", "TimeoutError", "Timeout"),
    ],
)
def test_other_replies_are_errors(
    wire: tuple[socket.socket, socket.socket], sent: bytes, error: str, words: str
) -> None:
    """Error replies as redis-py raises them, more or larger replies than asked for, no Redis, and a timeout."""
    import redis.exceptions as driver

    ours, theirs = wire
    theirs.sendall(sent)
    with pytest.raises(getattr(driver, error), match=words):
        read_replies(ours, 2)


def test_a_closed_connection_is_an_error(wire: tuple[socket.socket, socket.socket]) -> None:
    """Whatever had arrived: an outage, as everywhere."""
    import redis.exceptions as driver

    ours, theirs = wire
    theirs.sendall(b":1\r\n")
    theirs.close()
    with pytest.raises(driver.ConnectionError, match="closed"):
        read_replies(ours, 2)


@pytest.mark.parametrize(
    ("sent", "receive"),
    [
        (b":7\r\n", DedicatedConnection.receive_flags),
        (b"+OK\r\n", DedicatedConnection.receive_flags),
        (b"$-1\r\n", DedicatedConnection.receive_flags),
        (b":1\r\n", DedicatedConnection.receive_values),
        (b"*0\r\n", DedicatedConnection.receive_values),
    ],
)
def test_a_reply_of_another_kind_is_refused(sent: bytes, receive: Callable[[DedicatedConnection, int], Any]) -> None:
    """HSETNX answers 0 or 1, HGET a string or nil. The connection is not used any more."""
    with RedisStub(lambda _, command: sent if command[0] == b"HGET" else RedisStub.OK) as server:
        connections = Connections(of_redis(server.url), timeout=5.0, retries=0)
        dedicated = connections.dedicated(connections.primaries()[0])
        dedicated.send([b"*3\r\n$4\r\nHGET\r\n$1\r\na\r\n$1\r\nb\r\n"])
        with pytest.raises(RedisUnavailableError, match="answered another command"):
            receive(dedicated, 1)
        with pytest.raises(RedisUnavailableError, match="was lost"):
            receive(dedicated, 1)
        connections.close()
