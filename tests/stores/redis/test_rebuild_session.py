"""The session of a rebuild with one real server: marks, merges, the fence, and sessions that continue another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saltctl.errors import ConfigurationError, RebuildBrokenError, RedisUnavailableError, UnverifiedError
from saltctl.local.servers import LocalRedis, free_port
from saltctl.salting import bucket_of
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis import rebuild_session
from saltctl.stores.redis.buckets import BUCKETS_A_CALL, FENCE, REBUILD, Buckets
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.rebuild_session import BUCKETS_AT_ONCE, RedisRebuildSession
from saltctl.stores.redis.registry import RedisRegistry
from tests.support import rebuild_job
from tests.support.redis_servers import PROMPT_REPLICATION, eventually, merge, plain_client

Opener = Callable[..., RedisRebuildSession]


@pytest.fixture
def buckets(settings: Settings) -> Buckets:
    """The buckets of the registry."""
    return replace(Buckets.of(settings), layout=f"{settings.layout}:{settings.registry_id}")


@pytest.fixture
def open_session(settings: Settings, buckets: Buckets) -> Iterator[Opener]:
    """Opens sessions for some of the buckets, all by default, as those of one server or of a cluster."""
    connections = Connections(settings, timeout=5.0, retries=0)
    opened: list[RedisRebuildSession] = []

    def open_session(numbers: range | None = None, *, clustered: bool = False) -> RedisRebuildSession:
        dedicated = connections.dedicated(connections.primaries()[0])
        opened.append(RedisRebuildSession(dedicated, list(buckets.keys(numbers)), buckets, clustered=clustered))
        return opened[-1]

    yield open_session
    for session in opened:
        session.close()
    connections.close()


def fields(admin: Any, buckets: Buckets, name: str) -> list[bytes | None]:
    """A field of every bucket."""
    return [admin.hget(key, name) for key in map(buckets.key, range(buckets.count))]


# Marks and the fence.


@pytest.mark.parametrize("at_once", [BUCKETS_AT_ONCE, 7])
@pytest.mark.parametrize("clustered", [False, True], ids=["one-server", "cluster"])
def test_a_session_from_its_marks_to_verified(
    open_session: Opener,
    store: RedisRegistry,
    admin: Any,
    primary: str,
    buckets: Buckets,
    clustered: bool,
    at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every bucket is marked, then fenced with layout and replication id; lookups are answered after the last step."""
    monkeypatch.setattr(rebuild_session, "BUCKETS_AT_ONCE", at_once)
    monkeypatch.setattr(rebuild_session, "BUCKETS_A_CALL", min(at_once, BUCKETS_A_CALL))
    session = open_session(clustered=clustered)
    assert (session.primary, session.replication_id) == (primary, "")
    session.mark_buckets("token")
    assert fields(admin, buckets, REBUILD) == [mark(admin, "token")] * buckets.count
    assert fields(admin, buckets, FENCE) == [None] * buckets.count
    assert session.replication_id == admin.info("replication")["master_replid"]
    assert merge(session, [("conv", 4)]) == 1
    session.set_fence("token")
    assert fields(admin, buckets, REBUILD) == [None] * buckets.count
    assert fields(admin, buckets, FENCE) == [f"{buckets.layout}:{session.replication_id}".encode()] * buckets.count
    with pytest.raises(UnverifiedError, match="started since"):
        store.lookup(primary, ["conv"])
    session.load_lookup()
    assert store.lookup(primary, ["conv"]) == [4]


def test_marks_replace_those_of_an_earlier_rebuild(open_session: Opener, admin: Any, buckets: Buckets) -> None:
    """The fence of a verified server stays meanwhile: its lookups are answered. The earlier rebuild is broken."""
    first, second = open_session(), open_session()
    first.mark_buckets("old")
    first.set_fence("old")
    fence = fields(admin, buckets, FENCE)
    first.mark_buckets("first")
    second.mark_buckets("second")
    assert fields(admin, buckets, FENCE) == fence
    with pytest.raises(RebuildBrokenError, match="token is gone"):
        first.set_fence("first")
    assert fields(admin, buckets, REBUILD) == [mark(admin, "second")] * buckets.count


def test_buckets_of_another_layout_are_not_marked(open_session: Opener, admin: Any, buckets: Buckets) -> None:
    """A client that is configured for another number of buckets is refused with the layout that Redis has."""
    admin.hset(buckets.key(0), FENCE, "v1:128:" + "a" * 40)
    with pytest.raises(ConfigurationError, match="another layout: v1:128"):
        open_session().mark_buckets("token")
    assert admin.hget(buckets.key(0), REBUILD) is None


def test_a_replica_is_not_marked(
    open_session: Opener, admin: Any, redis_server: LocalRedis, buckets: Buckets, other: LocalRedis
) -> None:
    """Not even one that accepts writes: they are lost at its next synchronization."""
    admin.config_set("replica-read-only", "no")
    admin.replicaof("127.0.0.1", other.port)
    with pytest.raises(RedisUnavailableError, match="READONLY"):
        open_session().mark_buckets("token")


@pytest.fixture
def other(redis_binary: Path, tmp_path: Path) -> Iterator[LocalRedis]:
    """A second Redis, for replication."""
    server = LocalRedis(tmp_path / "other", binary=redis_binary, options=PROMPT_REPLICATION)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def marked(open_session: Opener) -> RedisRebuildSession:
    """A session that has marked its buckets with ``token`` and merged one entry."""
    session = open_session()
    session.mark_buckets("token")
    merge(session, [("conv", 4)])
    return session


def test_only_what_was_marked_is_fenced(session: RedisRebuildSession, store: RedisRegistry, admin: Any) -> None:
    """Without the marks, or with those of another rebuild, nothing is fenced."""
    session.mark_buckets("mine")
    with pytest.raises(RebuildBrokenError, match="token"):
        session.set_fence("another")
    assert not any(b"#fence" in admin.hgetall(key) for key in admin.scan_iter("salt:r:*"))


@pytest.mark.slow
def test_one_missing_mark_keeps_every_bucket_unfenced(
    session: RedisRebuildSession, store: RedisRegistry, admin: Any
) -> None:
    """The marks are checked first, and fences set after."""
    session.mark_buckets("mine")
    admin.hdel(store.key_of("conv"), "#rebuild")
    with pytest.raises(RebuildBrokenError, match=store.key_of("conv")):
        session.set_fence("mine")
    assert not any(b"#fence" in admin.hgetall(key) for key in admin.scan_iter("salt:r:*"))


@pytest.mark.slow
def test_a_session_that_failed_stays_failed(session: RedisRebuildSession, redis_server: LocalRedis) -> None:
    """The server is back, but the session stays broken: its earlier work was in another process."""
    session.mark_buckets("mine")
    redis_server.kill()
    redis_server.start()
    for _ in range(2):
        with pytest.raises(RedisUnavailableError):
            merge(session, [("conv", 4)])
    with pytest.raises(RedisUnavailableError):
        session.set_fence("mine")
    with pytest.raises(RedisUnavailableError):
        session.load_lookup()


def test_tokens_are_unique(settings: Settings, store: RedisRegistry, backup: BackupTable) -> None:
    """No rebuild takes another's marks for its own."""
    assert len({rebuild_job(settings, store, backup).token for _ in range(100)}) == 100


def mark(admin: Any, token: str) -> bytes:
    """Return what a rebuild with this token writes into the buckets of a server."""
    return f"{token}:{admin.info('replication')['master_replid'][:16]}".encode()


def fail_over(admin: Any, other: LocalRedis) -> None:
    """Make the server a replica of another one, and promote it again."""
    admin.replicaof("127.0.0.1", other.port)
    eventually(lambda: admin.info("replication")["master_link_status"] == "up", "the replica is in sync")
    admin.replicaof("NO", "ONE")


@pytest.mark.slow
def test_a_demoted_and_promoted_server_is_not_fenced(
    marked: RedisRebuildSession, open_session: Opener, admin: Any, other: LocalRedis, buckets: Buckets
) -> None:
    """Its connection survived, and its marks too, since the other server has them: only the replication id changed."""
    client, before = plain_client(other), mark(admin, "token")
    for key in map(buckets.key, range(buckets.count)):
        client.hset(key, REBUILD, before)
    client.close()
    fail_over(admin, other)
    assert fields(admin, buckets, REBUILD) == [before] * buckets.count
    session = open_session()
    assert session.check_marks("token", marked.replication_id) == "the primary changed its replication id"
    with pytest.raises(RebuildBrokenError, match="replication id"):
        marked.set_fence("token")
    assert fields(admin, buckets, FENCE) == [None] * buckets.count


# Sessions that continue another one.


@pytest.mark.parametrize("clustered", [False, True], ids=["one-server", "cluster"])
def test_a_session_continues_the_marks_of_another_one(
    marked: RedisRebuildSession, open_session: Opener, store: RedisRegistry, primary: str, clustered: bool
) -> None:
    """The first one's process ended: the second one merges the rest, fences, and what both merged is there."""
    marked.close()
    session = open_session(clustered=clustered)
    assert session.check_marks("token", marked.replication_id) == ""
    assert session.replication_id == marked.replication_id
    assert merge(session, [("rest", 8)]) == 1
    session.set_fence("token")
    session.load_lookup()
    assert store.lookup(primary, ["conv", "rest"]) == [4, 8]


def lose_everything(admin: Any, buckets: Buckets) -> None:
    """FLUSHALL, by hand."""
    admin.flushall()


def lose_a_bucket(admin: Any, buckets: Buckets) -> None:
    """The last bucket is deleted, as an eviction does."""
    admin.delete(buckets.key(buckets.count - 1))


def mark_again(admin: Any, buckets: Buckets) -> None:
    """Another rebuild marks one bucket."""
    admin.hset(buckets.key(0), REBUILD, "another")


@pytest.mark.parametrize("clustered", [False, True], ids=["one-server", "cluster"])
@pytest.mark.parametrize("loss", [lose_everything, lose_a_bucket, mark_again])
def test_lost_marks_are_noticed_and_not_fenced(
    marked: RedisRebuildSession,
    open_session: Opener,
    admin: Any,
    buckets: Buckets,
    loss: Callable[[Any, Buckets], None],
    clustered: bool,
) -> None:
    """A session does not continue then, and step 5 of the first one finds the same."""
    loss(admin, buckets)
    session = open_session(clustered=clustered)
    assert "the token is gone from salt:r:" in session.check_marks("token", marked.replication_id)
    assert session.replication_id == ""
    with pytest.raises(RebuildBrokenError, match="token is gone"):
        marked.set_fence("token")
    assert set(fields(admin, buckets, FENCE)) == {None}


@pytest.mark.slow
def test_a_restarted_server_is_another_one(
    marked: RedisRebuildSession, open_session: Opener, redis_server: LocalRedis, admin: Any
) -> None:
    """It has its marks from its AOF, and may have lost the newest entries: its replication id tells."""
    redis_server.stop()
    redis_server.start()
    assert open_session().check_marks("token", marked.replication_id) == "the primary changed its replication id"
    with pytest.raises(RedisUnavailableError):
        marked.set_fence("token")


# Merges.


@pytest.mark.parametrize("mostly_new", [True, False], ids=["hsetnx", "hget"])
def test_a_bucket_of_another_primary_breaks_the_session(
    open_session: Opener, store: RedisRegistry, buckets: Buckets, mostly_new: bool
) -> None:
    """Whichever way entries are sent now, none reaches a bucket that the primary did not have."""
    ids = [f"conv_{number}" for number in range(200)]
    own = [i for i in ids if bucket_of(i, buckets.count) < buckets.count // 2]
    [foreign, *_] = (i for i in ids if i not in own)
    session = open_session(range(buckets.count // 2))
    entries = [(conversation_id, 4) for conversation_id in own]
    merge(session, entries)
    if not mostly_new:
        assert merge(session, entries) == 0
    with pytest.raises(RebuildBrokenError, match="moved to another primary"):
        merge(session, [*entries, (foreign, 64)])
    assert store.read_unverified([foreign]) == {foreign: None}


@pytest.mark.parametrize("clustered", [False, True], ids=["one-server", "cluster"])
def test_hostile_ids_are_merged_both_ways(
    open_session: Opener, store: RedisRegistry, admin: Any, clustered: bool
) -> None:
    """Ids that look like the protocol, a format or a command are data, for HSETNX, HGET and the script."""
    ids = ["\r\n", "*1\r\n$8\r\nFLUSHALL\r\n", ":1\r\n", "-ERR x", "%b%d", "\x00", "é" * 1000, "😀", " ", "}{"]
    session = open_session(clustered=clustered)
    assert merge(session, [(conversation_id, 2) for conversation_id in ids]) == len(ids)
    for n in (4, 8, 4):
        merge(session, [(conversation_id, n) for conversation_id in ids])
    assert store.read_unverified(ids) == dict.fromkeys(ids, 8)


@pytest.mark.parametrize("clustered", [False, True], ids=["one-server", "cluster"])
def test_a_script_call_names_one_bucket_in_a_cluster(
    open_session: Opener, admin: Any, buckets: Buckets, clustered: bool
) -> None:
    """Buckets of a cluster are in different slots; those of one server share calls."""
    entries = [(f"conv_{number}", 4) for number in range(500)]
    used = len({bucket_of(entry[0], buckets.count) for entry in entries})
    session = open_session(clustered=clustered)
    merge(session, entries)
    merge(session, entries)
    raised = [(conversation_id, 8) for conversation_id, _ in entries]
    admin.config_resetstat()
    assert merge(session, raised) == len(entries)
    assert admin.info("commandstats")["cmdstat_evalsha"]["calls"] == (used if clustered else 1)


def test_a_merge_of_nothing_sends_nothing(open_session: Opener, admin: Any) -> None:
    """And the next merge is complete."""
    session = open_session()
    assert merge(session, []) == 0
    assert merge(session, [("conv", 4)]) == 1
    assert merge(session, [("conv", 4)]) == 0
    assert merge(session, []) == 0
    assert merge(session, [("conv", 8)]) == 1


def test_a_demoted_primary_is_refused_by_the_next_merge(marked: RedisRebuildSession, admin: Any) -> None:
    """Also if all that it has is equal, and reading is what it permits."""
    assert merge(marked, [("conv", 4)]) == 0
    admin.config_set("replica-read-only", "no")
    admin.replicaof("127.0.0.1", free_port())
    with pytest.raises(RedisUnavailableError, match="READONLY"):
        merge(marked, [("conv", 4)])


def test_a_closed_session_refuses(marked: RedisRebuildSession, admin: Any) -> None:
    """Each method says that the connection was lost; nothing is written."""
    marked.close()
    before = admin.dbsize(), admin.hgetall("salt:r:0")
    for act in (
        lambda: marked.mark_buckets("token"),
        lambda: marked.check_marks("token", marked.replication_id),
        lambda: merge(marked, [("other", 4)]),
        lambda: marked.set_fence("token"),
        marked.load_lookup,
    ):
        with pytest.raises(RedisUnavailableError, match="was lost"):
            act()
    assert (admin.dbsize(), admin.hgetall("salt:r:0")) == before
