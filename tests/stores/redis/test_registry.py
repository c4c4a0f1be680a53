"""The registry in Redis: entries, the merge, sessions of a rebuild. The fence has its own file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from saltctl.errors import (
    AccessDeniedError,
    ConfigurationError,
    RaiseIncompleteError,
    ReadBrokenError,
    RedisUnavailableError,
    UnverifiedError,
    WrongTypeError,
)
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.redis.buckets import FENCE, UNREADABLE, Buckets
from saltctl.stores.redis.dedicated_connection import DedicatedConnection
from saltctl.stores.redis.rebuild_session import RedisRebuildSession
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis.scripts import script_sha
from saltctl.values import NEW_ID_DIGITS
from tests.support import Rebuilder
from tests.support.redis_servers import eventually, merge

AWKWARD_IDS = [
    " ",
    "conv:with/many{odd}chars",
    "\x00\x1b[31m\r\n$3\r\n",
    "*1\r\n$8\r\nFLUSHALL\r\n",
    "日本語 é e\u0301 😀",
    "-",
    "[bold]",
    "x" * 2000,
    "é" * 1000,
]


@pytest.fixture
def one_bucket(settings: Settings) -> Iterator[RedisRegistry]:
    """The registry in one single hash."""
    store = RedisRegistry(replace(settings, buckets=1))
    yield store
    store.close()


# Lookups.


def test_a_new_server_is_not_verified(store: RedisRegistry, primary: str) -> None:
    """A process that was never rebuilt answers lookups with an error, and not with "no entry"."""
    store.merge("conv", 4)
    with pytest.raises(UnverifiedError):
        store.lookup(primary, ["conv"])
    assert store.verified() == {primary: False}


@pytest.mark.slow
def test_a_rebuilt_server_answers(store: RedisRegistry, primary: str, rebuild: Rebuilder) -> None:
    """After a rebuild lookups return entries, and None without an entry."""
    rebuild()
    store.merge("conv", 4)
    assert store.verified() == {primary: True}
    assert store.lookup(primary, ["conv"]) == [4]
    assert store.lookup(primary, ["other"]) == [None]
    assert store.lookup(primary, ["other", "conv"]) == [None, 4]


@pytest.mark.slow
def test_each_bucket_has_to_be_verified(
    store: RedisRegistry, primary: str, settings: Settings, rebuild: Rebuilder, admin: Any, monkeypatch: Any
) -> None:
    """The first one, which is looked up, and the first and the last of a call that looks at the fences of others."""
    monkeypatch.setattr("saltctl.stores.redis.registry.BUCKETS_A_CALL", 16)
    rebuild()
    for number in (0, 1, 16, 17, settings.buckets - 1):
        key = f"salt:r:{number}"
        fence = admin.hget(key, FENCE)
        for damage in (None, fence[:-1] + b"x", b"another" + fence, fence.rpartition(b":")[0] + b":"):
            admin.hdel(key, FENCE) if damage is None else admin.hset(key, FENCE, damage)
            assert store.verified() == {primary: False}
            assert store.verified(range(number, number + 1)) == {primary: False}
            assert store.verified(range(number + 1, settings.buckets)) == {primary: True}
        admin.delete(key)
        admin.set(key, "not a bucket")
        assert store.verified() == {primary: False}
        admin.delete(key)
        admin.hset(key, FENCE, fence)
        assert store.verified() == {primary: True}


@pytest.mark.slow
def test_many_ids_are_answered_in_their_order(store: RedisRegistry, primary: str, rebuild: Rebuilder) -> None:
    """More ids than one call or one batch takes, some of them twice, most of them without an entry."""
    rebuild()
    ids = [f"conv_{number}" for number in range(20_000)]
    (session,) = store.sessions()
    merge(session, [(ids[number], number) for number in range(100, 20_000, 100)])
    session.close()
    wanted = [None if number % 100 or not number else number for number in range(20_000)]
    assert store.lookup(primary, [*ids, *ids[:101]]) == [*wanted, *wanted[:101]]
    assert store.lookup(primary, []) == []


@pytest.mark.slow
def test_thousands_of_ids_of_one_bucket(one_bucket: RedisRegistry, rebuild: Rebuilder) -> None:
    """Lua's unpack() takes about 8,000 values: a bucket is asked in several calls."""
    primary = one_bucket.primaries()[0]
    (session,) = one_bucket.sessions()
    session.mark_buckets("token")
    merge(session, [(f"conv_{number}", number + 1) for number in range(9000)])
    session.set_fence("token")
    session.load_lookup()
    session.close()
    assert one_bucket.lookup(primary, [f"conv_{n}" for n in range(9000)]) == list(range(1, 9001))


@pytest.mark.slow
def test_any_id_can_be_an_entry(store: RedisRegistry, registry: Registry, primary: str, rebuild: Rebuilder) -> None:
    """Ids are data for Redis, whatever they hold: alone, among others, merged by a raise or by a rebuild."""
    for number, conversation_id in enumerate(AWKWARD_IDS):
        registry.raise_to(conversation_id, 2 << number % 4)
    held = {conversation_id: 2 << number % 4 for number, conversation_id in enumerate(AWKWARD_IDS)}
    rebuild()
    for conversation_id, n in held.items():
        assert store.lookup(primary, [conversation_id]) == [n]
    assert store.lookup(primary, ["other", *held]) == [None, *held.values()]
    assert store.read_unverified(AWKWARD_IDS) == held
    assert dict(store.entries()) == held


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["flush", "one bucket", "restart"])
def test_entries_that_are_lost_while_they_are_read_are_an_error(
    store: RedisRegistry, registry: Registry, rebuild: Rebuilder, admin: Any, redis_server: LocalRedis, loss: str
) -> None:
    """Whether Redis loses all entries, one bucket, or what it had not yet written when it died."""
    for number in range(20):
        registry.raise_to(f"conv_{number}", 4)
    rebuild()
    assert len(list(store.entries(verified=True))) == 20
    entries = store.entries(verified=True)
    if loss == "restart":
        next(entries)
        redis_server.kill()
        redis_server.start()
    elif loss == "flush":
        admin.flushall()
    else:
        admin.delete(store.key_of("conv_5"))
    with pytest.raises(ReadBrokenError, match="some are missing"):
        list(entries)


@pytest.mark.slow
def test_a_restart_during_the_read_of_an_unverified_redis_is_an_error(
    store: RedisRegistry, redis_server: LocalRedis
) -> None:
    """What it holds is shown as it is, but not half of it from another process."""
    store.merge("conv", 4)
    entries = store.entries()
    assert next(entries) == ("conv", 4)
    redis_server.kill()
    redis_server.start()
    with pytest.raises(ReadBrokenError, match="restarted or failed over"):
        list(entries)


@pytest.mark.slow
def test_a_bucket_of_another_type_is_named_and_not_verified(
    store: RedisRegistry, registry: Registry, rebuild: Rebuilder, admin: Any
) -> None:
    """A raise into it and a rebuild name the key; lookups of the others come from Redis, its own from the backup."""
    rebuild()
    key = store.key_of("bad")
    other = next(f"c{number}" for number in range(1000) if store.key_of(f"c{number}") != key)
    admin.delete(key)
    admin.set(key, "x")
    with pytest.raises(RaiseIncompleteError) as raised:
        registry.raise_to("bad", 4)
    assert key in raised.value.message
    registry.raise_to(other, 4)
    assert (registry.lookup("bad").source, registry.lookup(other).source) == ("backup", "redis")
    assert not all(store.verified().values())
    with pytest.raises(WrongTypeError, match=key):
        rebuild()
    admin.delete(key)
    rebuild()
    assert (registry.lookup("bad").max_n, registry.lookup("bad").source) == (4, "redis")


@pytest.mark.slow
def test_prefixes_keep_registries_apart(store: RedisRegistry, settings: Settings, rebuild: Rebuilder) -> None:
    """Two registries in one Redis: each is verified for itself."""
    rebuild()
    store.merge("conv", 4)
    other = RedisRegistry(replace(settings, key_prefix="other"))
    with pytest.raises(UnverifiedError):
        other.lookup(other.primaries()[0], ["conv"])
    assert list(other.entries()) == []
    other.close()


@pytest.mark.slow
def test_a_damaged_entry_is_an_error_and_no_default(
    store: RedisRegistry, registry: Registry, primary: str, admin: Any, rebuild: Rebuilder
) -> None:
    """Lookups go to the backup for it, alone or among others; a rebuild writes the backup's number over it."""
    registry.raise_to("conv", 4)
    rebuild()
    for damaged in ("many", "", "0", "-4", "2.5", "1e3", "0x10", "nan"):
        admin.hset(store.key_of("conv"), "conv", damaged)
        with pytest.raises(RedisUnavailableError, match="not a salt count"):
            store.lookup(primary, ["conv"])
        assert store.read_unverified(["conv"]) == {"conv": UNREADABLE}
        assert registry.lookup("conv")[:4] == ("conv", 4, 4, "backup")
        assert registry.lookup("other").source == "redis"
        assert registry.lookup_many(["conv", "other"])["conv"].max_n == 4
        assert rebuild().restored == 1
        assert registry.lookup("conv")[:4] == ("conv", 4, 4, "redis")


def test_a_bucket_that_is_no_hash_is_an_error(
    store: RedisRegistry, registry: Registry, primary: str, admin: Any, rebuild: Rebuilder
) -> None:
    """The key has another type: lookups of this bucket fall back to the backup."""
    rebuild()
    registry.raise_to("conv", 4)
    admin.set(store.key_of("conv"), "x")
    with pytest.raises(RedisUnavailableError, match="WRONGTYPE"):
        store.lookup(primary, ["conv"])
    assert registry.lookup("conv").max_n == 4


# The merge.


def test_a_merge_says_whether_it_raised(store: RedisRegistry) -> None:
    """And never lowers."""
    assert store.merge("conv", 4).raised
    assert not store.merge("conv", 4).raised
    assert not store.merge("conv", 2).raised
    assert store.merge("conv", 8).raised
    assert store.read_unverified(["conv", "other"]) == {"conv": 8, "other": None}


def test_a_merge_by_the_state_of_the_primary(store: RedisRegistry, rebuild: Rebuilder) -> None:
    """The first try changes nothing on a primary that is not noted; a later one only if no lookup is answered there."""
    (here,) = store.replication_ids()
    for accepted, n in ((False, None), (True, 4)):
        assert store.merge("conv", 4, ["another"], accept_unverified=accepted) == (accepted, "unverified")
        assert store.read_unverified(["conv"]) == {"conv": n}
    assert store.merge("conv", 8, ["another", here]) == (True, "noted")
    rebuild()
    for accepted in (False, True):
        assert store.merge("conv", 16, ["another"], accept_unverified=accepted) == (False, "deposed")
        assert store.read_unverified(["conv"]) == {"conv": 8}
    assert store.merge("conv", 16, [here]) == (True, "noted")


def test_a_merge_overwrites_a_value_that_is_no_salt_count(store: RedisRegistry, admin: Any) -> None:
    """Lua takes it for a number, and no lookup does."""
    admin.hset(store.key_of("conv"), "conv", "1e3")
    assert store.merge("conv", 4).raised
    assert store.read_unverified(["conv"]) == {"conv": 4}


def connections(admin: Any) -> set[str]:
    """Return the ids of all connections to the server but that of the test."""
    own = str(admin.client_id())
    return {client["id"] for client in admin.client_list() if client["id"] != own}


def test_connections_are_given_up(settings: Settings, admin: Any, rebuild: Rebuilder) -> None:
    """A refresh replaces those of raises, which stay with their server, and close ends all. Lookups have their own."""
    rebuild()
    others = connections(admin)
    store = RedisRegistry(settings)
    (primary,) = store.primaries()
    store.lookup(primary, ["conv"])
    lookups = connections(admin) - others
    store.merge("conv", 4)
    merges = connections(admin) - others - lookups
    assert lookups
    assert merges
    store.refresh()
    assert store.merge("conv", 8).raised
    eventually(lambda: not merges & connections(admin), "the connections of the raises are closed")
    store.close()
    eventually(lambda: connections(admin) <= others, "all connections are closed")


def test_a_refused_merge_names_both_registries(store: RedisRegistry, settings: Settings, rebuild: Rebuilder) -> None:
    """The fence of the bucket names another one than the client."""
    rebuild()
    other = RedisRegistry(settings, registry_id=lambda: "fedcba9876543210")
    with closing(other), pytest.raises(ConfigurationError) as refused:
        other.merge("conv", 4)
    assert store.layout.rpartition(":")[2] in refused.value.message
    assert "fedcba9876543210" in refused.value.message


def test_numbers_are_compared_as_numbers(store: RedisRegistry, session: RedisRebuildSession) -> None:
    """Lua compares strings as strings, so '10' < '9': in a raise, and in a rebuild."""
    for first, second in ((9, 10), (10, 9), (128, 64), (99, 100)):
        by_raise, by_rebuild = f"raise {first} {second}", f"rebuild {first} {second}"
        for n in (first, second):
            store.merge(by_raise, n)
            merge(session, [(by_rebuild, n)])
        larger = max(first, second)
        assert store.read_unverified([by_raise, by_rebuild]) == {by_raise: larger, by_rebuild: larger}


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1, 2, 999, 1000, 1001, 8001, 20_000])
def test_a_merge_takes_any_number_of_entries(session: RedisRebuildSession, store: RedisRegistry, size: int) -> None:
    """All of them arrive; the same again raises none; the count of those raised is right."""
    entries = [(f"conv_{number}", number + 1) for number in range(size)]
    assert merge(session, entries) == size
    assert dict(store.entries()) == dict(entries)
    assert merge(session, entries) == 0
    assert merge(session, [(i, n + number % 2) for number, (i, n) in enumerate(entries)]) == size // 2


class _Pool:
    """A pool of one connection."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def get_connection(self) -> Any:
        """Return the connection."""
        return self.connection

    def disconnect(self) -> None:
        """Disconnect it."""
        self.connection.disconnect()


class _Unparsed:
    """A connection of redis-py whose parser must not be used for now."""

    def __init__(self, connection: Any) -> None:
        self._inner = connection
        self.parser_allowed = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read_response(self) -> Any:
        """Read by the parser, or fail the test."""
        assert self.parser_allowed, "redis-py's parser was asked"
        return self._inner.read_response()


class _WithoutSocket:
    """The public methods of a connection."""

    def __init__(self, connection: Any) -> None:
        self.pack_commands = connection.pack_commands
        self.send_packed_command = connection.send_packed_command
        self.read_response = connection.read_response
        self.disconnect = connection.disconnect
        self.can_read = connection.can_read


def test_new_entries_are_merged_without_the_script_and_the_parser(
    store: RedisRegistry, settings: Settings, admin: Any
) -> None:
    """They are merged by HSETNX. The replies are read from redis-py's socket, or by redis-py if it hides the socket."""
    buckets = Buckets.of(settings)

    def session_over(connection: Any) -> RedisRebuildSession:
        dedicated = DedicatedConnection(_Pool(connection), "redis", timeout=10)
        return RedisRebuildSession(dedicated, list(buckets.keys()), buckets, clustered=False)

    unparsed = _Unparsed(admin.connection_pool.make_connection())
    session = session_over(unparsed)
    admin.config_resetstat()
    unparsed.parser_allowed = False
    assert merge(session, [(f"conv_{number}", 4) for number in range(5000)]) == 5000
    assert admin.info("commandstats")["cmdstat_hsetnx"]["calls"] == 5000
    session.close()
    session = session_over(_WithoutSocket(admin.connection_pool.make_connection()))
    assert merge(session, [(f"conv_{number}", 8) for number in range(4999, 5003)]) == 4
    session.close()
    assert store.read_unverified(["conv_0", "conv_4999", "conv_5002"]) == {"conv_0": 4, "conv_4999": 8, "conv_5002": 8}


def test_a_rebuild_over_what_is_there_reads_it(session: RedisRebuildSession, store: RedisRegistry, admin: Any) -> None:
    """If most entries of the last batch existed; and HSETNX again after a batch of new entries.

    The script merges what differs: lower and higher values, and one that is no entry. The rest costs one look at one.
    """

    def calls(command: str) -> int:
        return int(admin.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])

    entries = [(f"conv_{number}", 4) for number in range(100)]
    merge(session, entries)
    assert merge(session, entries) == 0
    admin.config_resetstat()
    assert merge(session, entries) == 0
    assert (calls("hsetnx"), calls("hget"), calls("evalsha"), calls("hmget")) == (0, 100, 1, 1)
    admin.hset(store.key_of("conv_3"), "conv_3", "1e3")
    differing = [("conv_0", 8), ("conv_1", 2), ("conv_2", 4), ("conv_3", 4), ("new", 2)]
    assert merge(session, [*differing, *entries[4:]]) == 3
    assert store.read_unverified([i for i, _ in differing]) == {
        "conv_0": 8, "conv_1": 4, "conv_2": 4, "conv_3": 4, "new": 2
    }  # fmt: skip
    assert calls("hsetnx") == 0
    assert merge(session, [(f"other_{number}", 4) for number in range(100)]) == 100
    assert merge(session, [(f"another_{number}", 4) for number in range(100)]) == 100
    assert calls("hsetnx") == 100


@pytest.mark.slow
def test_a_merge_into_one_bucket_takes_any_number_of_entries(one_bucket: RedisRegistry) -> None:
    """All 20,000 entries of a page are in one bucket."""
    entries = [(f"conv_{number}", number + 1) for number in range(20_000)]
    (session,) = one_bucket.sessions()
    assert merge(session, entries) == len(entries)
    assert merge(session, entries) == 0
    session.close()
    assert dict(one_bucket.entries()) == dict(entries)


merges = st.lists(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 1 << 17)), max_size=12), max_size=6)


@pytest.mark.slow
@given(merges)
@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_merged_the_largest_stays(
    session: RedisRebuildSession, store: RedisRegistry, admin: Any, batches: list[list[tuple[str, int]]]
) -> None:
    """In any order, any batches, by raises and rebuilds mixed, with ids more than once in a batch or not."""
    admin.flushdb()
    largest: dict[str, int] = {}
    for number, batch in enumerate(batches):
        if number % 2:
            merge(session, list(dict(batch).items()))
        else:
            for conversation_id, n in dict(batch).items():
                store.merge(conversation_id, n)
        for conversation_id, n in dict(batch).items():
            largest[conversation_id] = max(n, largest.get(conversation_id, 0))
    assert dict(store.entries()) == largest


@pytest.mark.slow
def test_buckets_stay_listpacks(
    store: RedisRegistry, session: RedisRebuildSession, admin: Any, settings: Settings
) -> None:
    """61 entries a bucket, as a million make of 16,384: a third of the memory of another encoding."""
    session.mark_buckets("token")
    merge(session, [(f"conv_{number:08}", 64) for number in range(61 * settings.buckets)])
    session.set_fence("token")
    encodings = {admin.object("ENCODING", key) for key in admin.scan_iter("salt:r:*")}
    assert encodings == {b"listpack"}
    # The longest fence, of the largest number of buckets and a new id: see values.REGISTRY_ID.
    layout = replace(settings, buckets=2**20).layout
    admin.hset("salt:r:0", FENCE, f"{layout}:{'a' * NEW_ID_DIGITS}:{'b' * 40}")
    assert admin.object("ENCODING", "salt:r:0") == b"listpack"
    admin.hset("salt:r:0", FENCE, f"{layout}:{'a' * (NEW_ID_DIGITS + 1)}:{'b' * 40}")
    assert admin.object("ENCODING", "salt:r:0") == b"hashtable"


def test_entries_are_read_whether_or_not_redis_is_verified(store: RedisRegistry) -> None:
    """Entries and absent ones alike, and none at all."""
    store.merge("conv", 4)
    assert store.verified() == dict.fromkeys(store.primaries(), False)
    assert store.read_unverified(["conv", "other"]) == {"conv": 4, "other": None}
    assert store.read_unverified([]) == {}


# The server.


@pytest.mark.slow
def test_a_server_that_evicts_is_refused(store: RedisRegistry, admin: Any, rebuild: Rebuilder) -> None:
    """Entries that vanish on their own make readers miss messages; the message names the setting."""
    admin.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigurationError, match="allkeys-lru") as refused:
        store.check_server()
    assert refused.value.exit_code == 78
    assert "noeviction" in refused.value.hint
    with pytest.raises(ConfigurationError):
        rebuild()


def test_a_server_as_it_must_be_is_accepted(store: RedisRegistry, primary: str, redis_server: LocalRedis) -> None:
    """And says who it is."""
    store.check_server()
    assert store.server(primary)["process_id"] == redis_server.pid


def test_the_lookup_script_is_pinned() -> None:
    """Clients know the script by its SHA-1: changing its text is a change of the protocol."""
    assert script_sha("lookup") == "057704f76a3a43cf015f0ee75426c8169696f339"


@pytest.mark.parametrize("ids", [["conv"], ["conv", "other"]])
def test_an_unknown_registry_id_is_no_fault_of_redis(settings: Settings, ids: list[str]) -> None:
    """Whatever the reason is: a lookup must not ask the backup, which holds the id, once more."""

    def fail() -> str:
        raise AccessDeniedError("no credentials")

    with closing(RedisRegistry(settings, registry_id=fail)) as store:
        with pytest.raises(AccessDeniedError) as refused:
            store.lookup(store.primaries()[0], ids)
        assert refused.value.id_unknown
