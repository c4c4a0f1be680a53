"""The fence: a Redis that may hold less than the backup answers lookups with an error (saltctl/help/protocol.txt)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saltctl.errors import ConfigurationError, RaiseIncompleteError, RedisUnavailableError, UnverifiedError
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.buckets import FENCE
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis.scripts import script, script_sha
from tests.stores.aws.backup_helpers import make_raise
from tests.support import Rebuilder, put_entries, rebuild_job
from tests.support.redis_servers import PROMPT_REPLICATION, eventually, plain_client

CONVERSATIONS = [f"conv_{number:03}" for number in range(40)]


def key_of(store: RedisRegistry, conversation_id: str) -> str:
    """The Redis key of a conversation's bucket."""
    return store.key_of(conversation_id)


@pytest.fixture
def raised(registry: Registry, backup: BackupTable, rebuild: Rebuilder) -> Registry:
    """A verified registry in which the first four conversations have 4."""
    put_entries(backup, dict.fromkeys(CONVERSATIONS[:4], 4))
    rebuild(segments=1)
    return registry


def kill_with_its_aof(server: LocalRedis, admin: Any) -> None:
    """Kill a server whose AOF has all writes: while a busy disk delays an fsync, it keeps them in its memory."""
    eventually(lambda: admin.info("persistence")["aof_buffer_length"] == 0, "the AOF is written")
    server.kill()


@pytest.fixture
def other_server(redis_binary: Path, tmp_path: Path) -> Iterator[LocalRedis]:
    """A second Redis, for replication."""
    server = LocalRedis(tmp_path / "other", binary=redis_binary, options=PROMPT_REPLICATION)
    server.start()
    yield server
    server.kill()  # at once, whatever the test did to it


@pytest.fixture
def other_admin(other_server: LocalRedis) -> Iterator[Any]:
    """A plain client of the second Redis."""
    client = plain_client(other_server)
    yield client
    client.close()


@pytest.fixture
def other_store(settings: Settings, other_server: LocalRedis) -> Iterator[RedisRegistry]:
    """The registry store on the second Redis."""
    store = RedisRegistry(replace(settings, redis_url=other_server.url))
    yield store
    store.close()


def follow(replica: Any, primary: LocalRedis) -> None:
    """Make a server a replica, and wait until it has all of the primary's data."""
    replica.execute_command("REPLICAOF", "127.0.0.1", primary.port)
    eventually(lambda: replica.info("replication").get("master_link_status") == "up", "the replica is in sync")


def assert_unverified(store: RedisRegistry) -> None:
    """No lookup at all is answered: not with an entry, and not with "no entry"."""
    for conversation_id in CONVERSATIONS:
        with pytest.raises(UnverifiedError):
            store.lookup(store.primaries()[0], [conversation_id])
    with pytest.raises(UnverifiedError):
        store.lookup(store.primaries()[0], CONVERSATIONS)
    assert set(store.verified().values()) == {False}


def assert_answers_from(registry: Registry, source: str) -> None:
    """Lookups return the right number, from this source."""
    found = registry.lookup_many(CONVERSATIONS)
    assert {i: found[i].max_n for i in CONVERSATIONS} == {i: 4 if i in CONVERSATIONS[:4] else 1 for i in CONVERSATIONS}
    assert {lookup.source for lookup in found.values()} == {source}


# Restarts.


@pytest.mark.slow
def test_a_restart_without_data_is_fenced(
    raised: Registry, redis_server: LocalRedis, store: RedisRegistry, rebuild: Rebuilder
) -> None:
    """A server that restarted empty refuses lookups (NOSCRIPT), which the backup then answers, until a rebuild."""
    assert_answers_from(raised, "redis")
    redis_server.kill()
    redis_server.delete_aof()
    redis_server.start()
    assert_unverified(store)
    with pytest.raises(UnverifiedError, match="started since"):
        store.lookup(store.primaries()[0], CONVERSATIONS[:1])
    assert_answers_from(raised, "backup")
    rebuild(segments=1)
    assert_answers_from(raised, "redis")


@pytest.mark.slow
def test_a_restart_with_its_aof_is_fenced(
    raised: Registry, redis_server: LocalRedis, store: RedisRegistry, rebuild: Rebuilder, admin: Any
) -> None:
    """A server that restarts with every entry is unverified, too: its AOF may have lost some."""
    kill_with_its_aof(redis_server, admin)
    redis_server.start()
    assert store.read_unverified(CONVERSATIONS[:1]) == {CONVERSATIONS[0]: 4}
    assert_unverified(store)
    assert_answers_from(raised, "backup")
    assert rebuild(segments=1).restored == 0
    assert_answers_from(raised, "redis")


@pytest.mark.slow
def test_loading_the_script_by_hand_verifies_nothing(
    raised: Registry, redis_server: LocalRedis, store: RedisRegistry, admin: Any
) -> None:
    """After a restart with its AOF the fence is there, and foreign: SCRIPT LOAD by hand does not help."""
    kill_with_its_aof(redis_server, admin)
    redis_server.start()
    assert admin.hget(key_of(store, CONVERSATIONS[0]), FENCE) is not None
    admin.script_load(script("lookup"))
    assert_unverified(store)
    with pytest.raises(UnverifiedError, match="fence"):
        store.lookup(store.primaries()[0], CONVERSATIONS[:1])
    assert_answers_from(raised, "backup")


@pytest.mark.slow
def test_an_orderly_restart_is_fenced_too(raised: Registry, redis_server: LocalRedis, store: RedisRegistry) -> None:
    """SHUTDOWN and a start are a restart like any other."""
    redis_server.stop()
    redis_server.start()
    assert_unverified(store)
    assert_answers_from(raised, "backup")


# Losses without a restart.


@pytest.mark.slow
def test_flushall_is_fenced(raised: Registry, store: RedisRegistry, admin: Any, rebuild: Rebuilder) -> None:
    """FLUSHALL takes the fence with the entries, while the script stays in the cache."""
    admin.flushall()
    assert admin.script_exists(script_sha("lookup")) == [True]
    assert_unverified(store)
    assert_answers_from(raised, "backup")
    rebuild(segments=1)
    assert_answers_from(raised, "redis")


@pytest.mark.slow
def test_script_flush_is_fenced(raised: Registry, store: RedisRegistry, admin: Any) -> None:
    """Without the script nothing answers, though all entries are there."""
    admin.script_flush()
    assert_unverified(store)


@pytest.mark.slow
def test_a_lost_bucket_is_fenced_alone(raised: Registry, store: RedisRegistry, primary: str, admin: Any) -> None:
    """DEL (or eviction) of one bucket fences this bucket; the others continue to answer."""
    lost = key_of(store, CONVERSATIONS[0])
    admin.delete(lost)
    for conversation_id in CONVERSATIONS:
        if key_of(store, conversation_id) == lost:
            with pytest.raises(UnverifiedError):
                store.lookup(primary, [conversation_id])
        else:
            store.lookup(primary, [conversation_id])
    assert store.verified() == {primary: False}
    assert raised.lookup(CONVERSATIONS[0]).max_n == 4
    assert raised.lookup(CONVERSATIONS[0]).source == "backup"


@pytest.mark.slow
def test_a_raise_into_a_lost_bucket_does_not_verify_it(
    raised: Registry, store: RedisRegistry, primary: str, admin: Any
) -> None:
    """A raise creates the bucket again, with its one entry: all entries of the bucket stay fenced."""
    admin.delete(key_of(store, CONVERSATIONS[0]))
    raised.raise_to(CONVERSATIONS[0], 8)
    assert store.read_unverified(CONVERSATIONS[:1]) == {CONVERSATIONS[0]: 8}
    with pytest.raises(UnverifiedError):
        store.lookup(primary, CONVERSATIONS[:1])


# Other layouts.


@pytest.mark.slow
def test_a_client_of_another_bucket_count_is_never_answered(raised: Registry, settings: Settings) -> None:
    """Such a client would look in the wrong bucket and find nothing: it gets an error for every id instead."""
    for buckets in (settings.buckets * 2, settings.buckets // 2):
        stranger = RedisRegistry(replace(settings, buckets=buckets, lookup_timeout=10.0))  # the machine may be busy
        assert_unverified(stranger)
        stranger.close()


@pytest.mark.slow
def test_a_client_of_another_bucket_count_may_not_raise(
    raised: Registry, settings: Settings, backup: BackupTable
) -> None:
    """The backup table is bound to its layout: the raise is refused before anything is written."""
    other = replace(settings, buckets=settings.buckets * 2)
    with Registry.over(other, RedisRegistry(other), BackupTable(other)) as stranger:
        with pytest.raises(ConfigurationError, match="v2:64") as refused:
            stranger.raise_to(CONVERSATIONS[0], 64)
        assert "SALTCTL_BUCKETS=64" in refused.value.hint
    entry = backup.get(CONVERSATIONS[0])
    assert entry is not None
    assert entry.max_n == 4


@pytest.mark.slow
def test_redis_refuses_raises_of_another_layout(raised: Registry, settings: Settings, store: RedisRegistry) -> None:
    """With a table of its own the stranger passes the first check: the fence in the bucket refuses it then."""
    other = replace(settings, buckets=settings.buckets // 2, backup_table=f"{settings.backup_table}-2")
    their_backup = BackupTable(other)
    their_backup.create()
    with Registry.over(other, RedisRegistry(other), their_backup) as stranger:
        with pytest.raises(RaiseIncompleteError, match="another layout") as refused:
            stranger.raise_to(CONVERSATIONS[0], 64)
        assert refused.value.step == "backup"
        assert isinstance(refused.value.__cause__, ConfigurationError)
    assert 64 not in dict(store.entries()).values()


@pytest.mark.slow
def test_a_rebuild_of_another_layout_is_refused(raised: Registry, settings: Settings, store: RedisRegistry) -> None:
    """By the table if it is the same, else by the fences in Redis."""
    other = replace(settings, buckets=settings.buckets // 2)
    their_store = RedisRegistry(other)
    with pytest.raises(ConfigurationError, match="laid out as v2:64"):
        list(rebuild_job(other, their_store, BackupTable(other)).run())
    other = replace(other, backup_table=f"{settings.backup_table}-2")
    their_backup = BackupTable(other)
    their_backup.create()
    with pytest.raises(ConfigurationError, match="another layout: v2:64"):
        list(rebuild_job(other, their_store, their_backup).run())
    their_store.close()
    assert_answers_from(raised, "redis")


def test_a_fence_of_another_version_is_foreign(
    raised: Registry, store: RedisRegistry, primary: str, admin: Any
) -> None:
    """A later saltctl that lays the registry out differently is not misread by this one, nor written over."""
    key = key_of(store, CONVERSATIONS[0])
    theirs = admin.hget(key, FENCE).replace(b"v2:", b"v3:")
    admin.hset(key, FENCE, theirs)
    with pytest.raises(UnverifiedError):
        store.lookup(primary, CONVERSATIONS[:1])
    with pytest.raises(ConfigurationError, match="v3:64"):
        store.merge(CONVERSATIONS[0], 8)
    assert admin.hget(key, FENCE) == theirs


# Replication and failover.


@pytest.mark.slow
def test_scripts_are_not_replicated(
    raised: Registry, redis_server: LocalRedis, other_store: RedisRegistry, other_admin: Any
) -> None:
    """A replica has the entries and the fences, and not the script: promoted, it is unverified."""
    follow(other_admin, redis_server)
    assert other_store.read_unverified(CONVERSATIONS[:1]) == {CONVERSATIONS[0]: 4}
    assert other_admin.script_exists(script_sha("lookup")) == [False]
    assert_unverified(other_store)
    other_admin.execute_command("REPLICAOF", "NO", "ONE")
    assert_unverified(other_store)


@pytest.mark.slow
def test_a_replica_refuses_lookups(
    raised: Registry,
    redis_server: LocalRedis,
    admin: Any,
    other_store: RedisRegistry,
    other_admin: Any,
    rebuild: Rebuilder,
) -> None:
    """A replica lags: it refuses lookups with READONLY, though fence and script are as they are on its primary."""
    follow(other_admin, redis_server)
    rebuild(segments=1)
    key = key_of(other_store, CONVERSATIONS[0])
    eventually(lambda: other_admin.hget(key, FENCE) == admin.hget(key, FENCE), "the fence is replicated")
    other_admin.script_load(script("lookup"))
    for conversation_id in CONVERSATIONS[:4]:
        with pytest.raises(RedisUnavailableError, match="replica"):
            other_store.lookup(other_store.primaries()[0], [conversation_id])


@pytest.mark.slow
def test_a_writable_replica_refuses_everything(
    raised: Registry,
    settings: Settings,
    backup: BackupTable,
    redis_server: LocalRedis,
    admin: Any,
    other_store: RedisRegistry,
    other_admin: Any,
    rebuild: Rebuilder,
) -> None:
    """``replica-read-only no`` disables READONLY: the script itself sees that this is not a primary."""
    follow(other_admin, redis_server)
    rebuild(segments=1)
    other_admin.config_set("replica-read-only", "no")
    other_admin.script_load(script("lookup"))
    key = key_of(other_store, CONVERSATIONS[0])
    eventually(lambda: other_admin.hget(key, FENCE) == admin.hget(key, FENCE), "the fence is replicated")
    assert_unverified(other_store)
    with pytest.raises(RedisUnavailableError, match="replica"):
        other_store.merge(CONVERSATIONS[0], 8)
    with pytest.raises(RedisUnavailableError, match="replica"):
        list(rebuild_job(settings, other_store, backup).run())


@pytest.mark.slow
def test_a_primary_that_was_a_replica_meanwhile_is_fenced(
    raised: Registry,
    settings: Settings,
    backup: BackupTable,
    store: RedisRegistry,
    redis_server: LocalRedis,
    admin: Any,
    other_server: LocalRedis,
    other_store: RedisRegistry,
    other_admin: Any,
) -> None:
    """Verified, demoted, resynchronised and promoted again: the script is in its cache still, the raises are not.

    The fence that it got from the other primary, which was verified, names that one's replication id.
    """
    follow(other_admin, redis_server)
    other_admin.execute_command("REPLICAOF", "NO", "ONE")
    list(rebuild_job(settings, other_store, backup).run())
    follow(admin, other_server)
    with pytest.raises(RedisUnavailableError, match="replica"):
        store.lookup(store.primaries()[0], CONVERSATIONS[:1])
    other_server.kill()
    # Only the backup has it: this server lost it like data that replication had not sent yet.
    backup.raise_max_n(CONVERSATIONS[9], make_raise(16))
    admin.execute_command("REPLICAOF", "NO", "ONE")
    assert admin.script_exists(script_sha("lookup")) == [True]
    assert admin.hget(key_of(store, CONVERSATIONS[0]), FENCE) is not None
    assert_unverified(store)
    assert raised.lookup(CONVERSATIONS[9]).max_n == 16


@pytest.mark.slow
def test_a_demotion_and_promotion_without_a_primary_is_fenced(
    raised: Registry, store: RedisRegistry, admin: Any, rebuild: Rebuilder
) -> None:
    """REPLICAOF to a server that does not answer, and back: nothing was lost, but no client can know that."""
    admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(RedisUnavailableError, match="replica"):
        store.lookup(store.primaries()[0], CONVERSATIONS[:1])
    admin.execute_command("REPLICAOF", "NO", "ONE")
    assert_unverified(store)
    rebuild(segments=1)
    assert_answers_from(raised, "redis")


@pytest.mark.slow
def test_the_first_replica_costs_a_rebuild(
    raised: Registry, redis_server: LocalRedis, store: RedisRegistry, other_admin: Any, rebuild: Rebuilder
) -> None:
    """Redis takes a new replication id when its first replica attaches, and only then: a rebuild is due once."""
    follow(other_admin, redis_server)
    assert_unverified(store)
    rebuild(segments=1)
    other_admin.execute_command("REPLICAOF", "NO", "ONE")
    follow(other_admin, redis_server)
    assert_answers_from(raised, "redis")


def test_a_primary_cut_off_from_its_replicas_refuses(raised: Registry, store: RedisRegistry, admin: Any) -> None:
    """With min-replicas-to-write it answers NOREPLICAS: another server may be primary by now."""
    admin.config_set("min-replicas-to-write", 1)
    with pytest.raises(RedisUnavailableError, match="NOREPLICAS"):
        store.lookup(store.primaries()[0], CONVERSATIONS[:1])
    assert_answers_from(raised, "backup")
    with pytest.raises(RaiseIncompleteError, match="NOREPLICAS"):
        raised.raise_to(CONVERSATIONS[0], 8)
    admin.config_set("min-replicas-to-write", 0)
    assert raised.lookup(CONVERSATIONS[1]).source == "redis"


# Servers in trouble.


def test_a_full_server_answers_lookups_and_refuses_raises(
    raised: Registry, store: RedisRegistry, admin: Any, rebuild: Rebuilder
) -> None:
    """OOM: reading needs no memory; a raise is incomplete until there is room again."""
    admin.config_set("maxmemory", 1)
    assert_answers_from(raised, "redis")
    with pytest.raises(RaiseIncompleteError, match="memory is full") as stopped:
        raised.raise_to(CONVERSATIONS[0], 8)
    assert stopped.value.step == "backup"
    with pytest.raises(RedisUnavailableError, match="memory is full"):
        rebuild(segments=1)
    admin.config_set("maxmemory", 0)
    assert raised.raise_to(CONVERSATIONS[0], 8).after == 8


@pytest.mark.slow
def test_a_server_that_cannot_persist_refuses_and_the_backup_answers(
    raised: Registry, redis_server: LocalRedis, store: RedisRegistry, admin: Any
) -> None:
    """MISCONF: a snapshot failed, and the server refuses everything that could write."""
    (redis_server.directory / "dump.rdb").mkdir()  # so that the snapshot cannot be put in its place
    admin.config_set("save", "3600 1")
    admin.bgsave()
    eventually(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err", "the snapshot fails")
    with pytest.raises(RedisUnavailableError, match="MISCONF"):
        store.lookup(store.primaries()[0], CONVERSATIONS[:1])
    assert_answers_from(raised, "backup")


@pytest.mark.slow
def test_a_loading_server_is_unverified(
    raised: Registry, settings: Settings, redis_server: LocalRedis, admin: Any
) -> None:
    """LOADING: lookups go to the backup; when it has loaded, it is unverified as after any restart."""
    with admin.pipeline(transaction=False) as pipeline:
        for number in range(30_000):
            pipeline.hset("salt:other", str(number), "1")
        pipeline.execute()
    redis_server.kill()
    slow = LocalRedis(redis_server.directory, binary=redis_server.binary, options={"key-load-delay": "100"})
    slow.port = redis_server.port
    patient = RedisRegistry(replace(settings, lookup_timeout=10.0))
    try:
        slow.start(wait=False)
        eventually(lambda: _answers_while_loading(admin), "the server loads")
        with pytest.raises(RedisUnavailableError, match="loading"):
            patient.lookup(patient.primaries()[0], CONVERSATIONS[:1])
        assert_answers_from(raised, "backup")
        admin.config_set("key-load-delay", 0)
        eventually(lambda: not admin.info("persistence")["loading"], "the server has loaded")
        assert_unverified(patient)
    finally:
        patient.close()
        slow.kill()


def _answers_while_loading(admin: Any) -> bool:
    import redis

    try:
        return bool(admin.info("persistence")["loading"])
    except redis.exceptions.ConnectionError:
        return False
