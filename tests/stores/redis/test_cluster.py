"""A Redis Cluster of real processes: three primaries with a replica each, killed, promoted and resharded."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from saltctl.errors import (
    ConfigurationError,
    RaiseIncompleteError,
    RebuildBrokenError,
    RedisUnavailableError,
    UnverifiedError,
)
from saltctl.health.doctor import run_checks, select_checks
from saltctl.health.facts import Facts
from saltctl.local.servers import LocalMoto
from saltctl.rebuild.events import RebuildProgress
from saltctl.rebuild.options import RebuildOptions
from saltctl.registry.compare import Comparison, result_of
from saltctl.registry.drift import ComparisonOptions
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.registry import Raise
from saltctl.stores.heat.contracts import Entry
from saltctl.stores.heat.dead_letters import DeadLetters
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.heat.window_sums import WindowSums
from saltctl.stores.platform_probe import probe_platform
from saltctl.stores.redis.buckets import RedisBucketReader
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.rebuild_session import RedisRebuildSession
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis.replies.replicas import Replicas
from tests.support import Rebuilder, put_entries, rebuild_job
from tests.support.clusters import LocalCluster, Node, slot_of
from tests.support.redis_servers import find_engine, merge

CONVERSATIONS = [f"conv_{number:03}" for number in range(60)]


on_both = pytest.mark.parametrize("whole_cluster", ["valkey", "redis"], indirect=True)
"""Tests of behaviour that may differ between the engines."""
on_one = pytest.mark.parametrize("whole_cluster", ["valkey"], indirect=True)
"""Tests of the client's behaviour, with one engine."""


@pytest.fixture(scope="module")
def whole_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One cluster of each engine for all tests here; it is repaired after each test."""
    cluster = LocalCluster(tmp_path_factory.mktemp("cluster"), find_engine(request.param))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(whole_cluster: LocalCluster) -> LocalCluster:
    """The cluster with all of its nodes. None has the lookup script from an earlier test, so none was ever verified."""
    whole_cluster.heal()
    for node in whole_cluster.nodes:
        node.ask("SCRIPT", "FLUSH")
    return whole_cluster


@pytest.fixture
def settings(cluster: LocalCluster, moto: LocalMoto) -> Settings:
    """Settings for the cluster, with a prefix and tables of the test's own."""
    mine = uuid.uuid4().hex[:8]
    return Settings(
        registry_id="feed0123456789ab",
        redis_url=cluster.url,
        buckets=64,
        key_prefix=f"salt-{mine}",
        backup_table=f"backup-{mine}",
        aws_region="us-east-1",
        aws_endpoint_url=moto.url,
        lookup_timeout=5.0,  # the machine may be busy, and is to be told from one that does not answer
        breaker_seconds=0.0,
        actor="tester@test",
    )


@pytest.fixture
def raised(registry: Registry, backup: BackupTable, rebuild: Rebuilder) -> Registry:
    """A verified registry in which every second conversation has 4."""
    put_entries(backup, dict.fromkeys(CONVERSATIONS[::2], 4))
    rebuild()
    return registry


def sources(registry: Registry) -> dict[str, str]:
    """Who answers for each conversation, after a look at whether the answers are right, in bulk and one by one."""
    found = registry.lookup_many(CONVERSATIONS)
    assert {i: found[i].max_n for i in CONVERSATIONS} == {i: 1 + 3 * (n % 2 == 0) for n, i in enumerate(CONVERSATIONS)}
    alone = {i: registry.lookup(i) for i in CONVERSATIONS}
    assert all(alone[i].max_n == found[i].max_n for i in CONVERSATIONS)
    return {i: lookup.source for i, lookup in alone.items()}


def other_primary(cluster: LocalCluster, key: str) -> Node:
    """A primary that has not got the key."""
    owner = cluster.owner_of(key)
    return next(node for node in cluster.nodes if node.has_role("master") and node is not owner)


@pytest.mark.slow
@on_both
def test_the_whole_registry_is_spread_and_verified(
    cluster: LocalCluster, store: RedisRegistry, registry: Registry, rebuild: Rebuilder, backup: BackupTable
) -> None:
    """Unverified at first; a rebuild marks, merges, fences and verifies each primary; raises go to all of them."""
    registry.raise_to(CONVERSATIONS[0], 4)
    assert registry.lookup(CONVERSATIONS[0]).source == "backup"
    assert set(store.verified().values()) == {False}
    report = rebuild(segments=3)
    assert (report.primaries, report.verified, report.entries) == (3, True, 1)
    for conversation_id in CONVERSATIONS[2::2]:
        registry.raise_to(conversation_id, 4)
    assert set(sources(registry).values()) == {"redis"}
    assert len(store.primaries()) == 3
    assert store.verified() == dict.fromkeys(store.primaries(), True)
    assert dict(store.entries()) == dict.fromkeys(CONVERSATIONS[::2], 4)
    assert store.read_unverified(CONVERSATIONS[:2]) == {CONVERSATIONS[0]: 4, CONVERSATIONS[1]: None}
    assert len(store.by_primary(CONVERSATIONS)) == 3
    assert rebuild(dry_run=True).restored == 0
    store.check_server()
    # Cooled conversations, by merges of a raise's kind and of a rebuild.
    backup.allow_cooling()
    sealed = {}
    for conversation_id in CONVERSATIONS[:6:2]:
        entry = backup.get(conversation_id)
        assert entry is not None
        narrowed = entry.narrowed(Raise(1, "2026-11-27T08:00:00.000Z", "tester", "", cooled=True))
        assert backup.replace(entry, narrowed)
        assert registry.merge(narrowed, backup.check_registry().registry_id)
        assert registry.lookup(conversation_id)[1:] == (4, 1, "redis", 4, None)
        sealed[conversation_id] = narrowed.sealed("boundary")
        assert backup.replace(narrowed, sealed[conversation_id])
    assert rebuild().restored == 3
    for conversation_id, found in registry.lookup_many(list(sealed)).items():
        assert found[1:] == (4, 1, "redis", 1, "boundary")
        assert registry.lookup(conversation_id) == found


@pytest.mark.slow
@on_one
def test_a_comparison_sees_every_primary(
    settings: Settings, store: RedisRegistry, raised: Registry, backup: BackupTable
) -> None:
    """Entries that are missing, behind and unbacked are found and repaired on whichever primary they are."""
    connections = Connections(settings, timeout=5.0, retries=0)
    drift = list(zip(CONVERSATIONS[:20], (2, 8) * 10, strict=True))
    for conversation_id, n in drift:
        key = store.key_of(conversation_id)
        connections.ask_of(key, [("HSET", key, conversation_id, n)])
    for conversation_id in CONVERSATIONS[20:40:2]:
        key = store.key_of(conversation_id)
        connections.ask_of(key, [("HDEL", key, conversation_id)])
    connections.close()
    reader = RedisBucketReader(settings)
    compare = partial(Comparison, settings, reader, store, backup, ComparisonOptions(grace=0.01, adopt=True))
    found = result_of(compare(registry=raised).run())
    assert (found.behind, found.unbacked, found.missing, found.repaired) == (10, 10, 10, 30)
    assert len(store.by_primary([i for i, _ in drift])) == 3
    again = result_of(compare().run())
    assert (again.checked, again.unrepaired, again.verified) == (40, 0, True)
    reader.close()


@pytest.mark.slow
@on_both
def test_a_promoted_replica_is_unverified_until_a_rebuild(
    cluster: LocalCluster, store: RedisRegistry, raised: Registry, rebuild: Rebuilder
) -> None:
    """A primary is killed and its replica promoted: its slots, and no others, are answered by the backup."""
    assert set(sources(raised).values()) == {"redis"}
    dead = cluster.owner_of(store.key_of(CONVERSATIONS[0]))
    theirs = set(store.by_primary(CONVERSATIONS)[dead.name])
    promoted = cluster.kill(dead)
    assert {i for i, source in sources(raised).items() if source == "backup"} == theirs
    # The failed lookups have asked again which servers are the primaries.
    assert set(store.by_primary(CONVERSATIONS)[promoted.name]) == theirs
    assert store.verified() == {name: name != promoted.name for name in store.primaries()}
    with pytest.raises(UnverifiedError, match="started since"):
        store.lookup(promoted.name, sorted(theirs)[:1])
    assert rebuild().verified
    assert set(sources(raised).values()) == {"redis"}
    assert store.verified() == dict.fromkeys(store.primaries(), True)


@pytest.mark.slow
@on_one
def test_a_raise_goes_to_the_promoted_replica(cluster: LocalCluster, store: RedisRegistry, raised: Registry) -> None:
    """The client that raises learns of the failover by itself, in the middle of the raise."""
    dead = cluster.owner_of(store.key_of(CONVERSATIONS[1]))
    assert store.read_unverified([CONVERSATIONS[1]]) == {CONVERSATIONS[1]: None}
    cluster.kill(dead)
    assert raised.raise_to(CONVERSATIONS[1], 8).committed
    assert store.read_unverified([CONVERSATIONS[1]]) == {CONVERSATIONS[1]: 8}


@pytest.mark.slow
@on_both
def test_a_slot_that_moves_is_unverified_where_it_arrives(
    cluster: LocalCluster, store: RedisRegistry, raised: Registry, rebuild: Rebuilder
) -> None:
    """While it is on its way and after, its lookups are answered by the backup, and raises reach it all the same.

    A raise takes the verification from the whole primary that had the slot.
    """
    key = store.key_of(CONVERSATIONS[0])
    moved = {i for i in CONVERSATIONS if slot_of(store.key_of(i)) == slot_of(key)}  # a slot may have two buckets
    giver, target = cluster.owner_of(key), other_primary(cluster, key)
    given = {i for i in CONVERSATIONS if cluster.owner_of(store.key_of(i)) is giver}
    with cluster.moving(key, target):
        assert {i for i, source in sources(raised).items() if source == "backup"} == moved
        assert raised.raise_to(CONVERSATIONS[0], 4).committed  # by ASK, since its bucket has left
    assert {i for i, source in sources(raised).items() if source == "backup"} == given
    assert store.verified() == {name: name not in (target.name, giver.name) for name in store.primaries()}
    with pytest.raises(UnverifiedError, match="fence"):
        store.lookup(target.name, [CONVERSATIONS[0]])
    assert not store.merge(CONVERSATIONS[0], 2).raised
    rebuild()
    assert set(sources(raised).values()) == {"redis"}


@pytest.mark.slow
@on_both
def test_a_slot_that_comes_home_is_not_verified(
    cluster: LocalCluster, store: RedisRegistry, raised: Registry, rebuild: Rebuilder
) -> None:
    """The primary in between may have lost a raise that it acknowledged: the fence of the bucket would be right."""
    conversation = CONVERSATIONS[0]
    key = store.key_of(conversation)
    home, away = cluster.owner_of(key), other_primary(cluster, key)
    cluster.move(key, away)
    assert raised.raise_to(conversation, 8).committed
    away.ask("HSET", key, conversation, "2")  # as before the raise
    cluster.move(key, home)
    assert raised.lookup(conversation)[:4] == (conversation, 8, 8, "backup")
    assert not store.verified()[home.name]
    rebuild()
    assert raised.lookup(conversation)[:4] == (conversation, 8, 8, "redis")


@pytest.mark.slow
@on_one
def test_a_slot_that_moves_at_the_end_of_a_rebuild_comes_home_unverified(
    cluster: LocalCluster,
    store: RedisRegistry,
    raised: Registry,
    rebuild: Rebuilder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A raise takes the lookup script from the fenced primary, and the rebuild, which still runs, must not load it."""
    conversation = CONVERSATIONS[0]
    key = store.key_of(conversation)
    home, away = cluster.owner_of(key), other_primary(cluster, key)
    set_fence = RedisRebuildSession.set_fence

    def set_fence_and_move(session: RedisRebuildSession, *arguments: Any) -> int:
        unproved = set_fence(session, *arguments)
        if session.primary == home.name:
            cluster.move(key, away)
            assert raised.raise_to(conversation, 8).committed
        return unproved

    monkeypatch.setattr(RedisRebuildSession, "set_fence", set_fence_and_move)
    rebuild()
    away.ask("HSET", key, conversation, "2")  # as before the raise
    cluster.move(key, home)
    store.refresh()  # else the lookup asks the primary that had the slot, and falls back for that reason
    assert raised.lookup(conversation)[:4] == (conversation, 8, 8, "backup")


@pytest.mark.slow
@on_one
def test_a_raise_waits_for_the_rebuild_that_marked_its_bucket_before_the_move(
    cluster: LocalCluster, settings: Settings, store: RedisRegistry, raised: Registry, backup: BackupTable
) -> None:
    """It is incomplete, since that rebuild would fence the bucket once its slot is home; the next one completes it."""
    conversation = CONVERSATIONS[0]
    key = store.key_of(conversation)
    events = rebuild_job(settings, store, backup, RebuildOptions(segments=1, page_limit=5)).run()
    assert any(isinstance(event, RebuildProgress) for event in events)
    cluster.move(key, other_primary(cluster, key))
    with pytest.raises(RaiseIncompleteError, match="marked this bucket"):
        raised.raise_to(conversation, 8)
    with pytest.raises(RebuildBrokenError):
        list(events)
    assert rebuild_of(settings, store, backup)
    assert raised.lookup(conversation)[:4] == (conversation, 8, 8, "redis")
    assert raised.raise_to(conversation, 8).committed


@pytest.mark.slow
@on_both
def test_a_rebuild_does_not_survive_a_slot_that_moves(
    cluster: LocalCluster, settings: Settings, store: RedisRegistry, raised: Registry, backup: BackupTable
) -> None:
    """Marked on one primary and fenced on none: the rebuild is broken, and the next one verifies both."""
    key = store.key_of(CONVERSATIONS[0])
    events = rebuild_job(settings, store, backup, RebuildOptions(segments=1, page_limit=5)).run()
    assert any(isinstance(event, RebuildProgress) for event in events)
    cluster.move(key, other_primary(cluster, key))
    with pytest.raises(RebuildBrokenError, match="moved to another primary"):
        list(events)
    assert sources(raised)[CONVERSATIONS[0]] == "backup"
    assert rebuild_of(settings, store, backup)
    assert set(sources(raised).values()) == {"redis"}


@pytest.mark.slow
@on_one
def test_a_rebuild_does_not_survive_a_failover(
    cluster: LocalCluster, settings: Settings, store: RedisRegistry, raised: Registry, backup: BackupTable
) -> None:
    """A primary dies and its replica is promoted half-way: marks on the first are not fenced on the second."""
    events = rebuild_job(settings, store, backup, RebuildOptions(segments=1, page_limit=5)).run()
    assert any(isinstance(event, RebuildProgress) for event in events)
    promoted = cluster.kill(cluster.owner_of(store.key_of(CONVERSATIONS[0])))
    with pytest.raises((RebuildBrokenError, RedisUnavailableError)):
        list(events)
    assert raised.lookup(CONVERSATIONS[0])[:4] == (CONVERSATIONS[0], 4, 4, "backup")
    assert store.verified()[promoted.name] is False
    assert rebuild_of(settings, store, backup)
    assert set(sources(raised).values()) == {"redis"}


def rebuild_of(settings: Settings, store: RedisRegistry, backup: BackupTable) -> bool:
    """A whole rebuild; whether it verified."""
    return bool(list(rebuild_job(settings, store, backup).run())) and all(store.verified().values())


@pytest.mark.slow
@on_one
@pytest.mark.parametrize("noticed", [False, True], ids=["unnoticed", "noticed"])
@pytest.mark.parametrize("step", ["mark", "merge", "finish"])
def test_no_session_fences_what_moved_away(
    cluster: LocalCluster, store: RedisRegistry, raised: Registry, step: str, noticed: bool
) -> None:
    """Marking, merging and fencing of a bucket that moved fail, whether or not the client has noticed the move."""
    ids = [CONVERSATIONS[0]]
    key = store.key_of(ids[0])
    giver = cluster.owner_of(key)
    sessions = {session.primary: session for session in store.sessions()}
    if step != "mark":
        for session in sessions.values():
            session.mark_buckets("token")
    cluster.move(key, other_primary(cluster, key))
    if noticed:
        for session in store.sessions():
            session.close()
        assert giver.name not in store.by_primary(ids)
    owner = sessions[next(iter(store.by_primary(ids)))]
    acts: dict[str, Callable[[], object]] = {
        "mark": lambda: sessions[giver.name].mark_buckets("token"),
        "merge": lambda: merge(owner, [(ids[0], 64)]),
        "finish": lambda: sessions[giver.name].set_fence("token"),
    }
    with pytest.raises(RebuildBrokenError, match="moved to another primary"):
        acts[step]()
    for session in sessions.values():
        session.close()
    assert raised.lookup(ids[0])[:4] == (ids[0], 4, 4, "backup")


@pytest.mark.slow
@on_both
def test_a_demoted_primary_refuses(cluster: LocalCluster, store: RedisRegistry, raised: Registry) -> None:
    """It has the script, the entries and its connections, but refuses lookups and raises."""
    demoted = cluster.owner_of(store.key_of(CONVERSATIONS[0]))
    promoted = cluster.replica_of(demoted)
    theirs = list(store.by_primary(CONVERSATIONS)[demoted.name])
    assert store.lookup(demoted.name, theirs)
    promoted.ask("CLUSTER", "FAILOVER", "TAKEOVER")
    cluster.heal()
    for ids in ([theirs[0]], theirs):
        with pytest.raises(RedisUnavailableError, match="moved to another primary") as refused:
            store.lookup(demoted.name, ids)
        assert not isinstance(refused.value, UnverifiedError)
    assert {i for i, source in sources(raised).items() if source == "backup"} == set(theirs)
    assert store.merge(theirs[0], 8).raised
    assert promoted.ask("HGET", store.key_of(theirs[0]), theirs[0]) == b"8"


@pytest.mark.slow
@on_both
def test_an_isolated_primary_refuses(cluster: LocalCluster, store: RedisRegistry, raised: Registry) -> None:
    """NOREPLICAS, if min-replicas-to-write is set: another server may have been promoted by now."""
    primary = cluster.owner_of(store.key_of(CONVERSATIONS[0]))
    theirs = set(store.by_primary(CONVERSATIONS)[primary.name])
    cluster.replica_of(primary).server.kill()
    primary.ask("CONFIG", "SET", "min-replicas-to-write", "1")
    try:
        with pytest.raises(RedisUnavailableError, match="NOREPLICAS"):
            store.lookup(primary.name, [CONVERSATIONS[0]])
        assert {i for i, source in sources(raised).items() if source == "backup"} == theirs
    finally:
        primary.ask("CONFIG", "SET", "min-replicas-to-write", "0")


@pytest.mark.slow
@on_one
def test_a_silent_node_does_not_keep_a_client_from_learning(
    cluster: LocalCluster, settings: Settings, raised: Registry, store: RedisRegistry
) -> None:
    """The node that the URL names first is frozen: another one is asked in time, and it is waited for once."""
    frozen = cluster.nodes[0]
    assert frozen.server.pid is not None
    os.kill(frozen.server.pid, signal.SIGSTOP)
    try:
        client = Connections(replace(settings, lookup_timeout=0.6), timeout=0.6, retries=0)
        assert len(client.primaries()) == 3
        client.close()
    finally:
        os.kill(frozen.server.pid, signal.SIGCONT)


# Other data in Redis.


def report(conversation_id: str, server: str = "app") -> HeatReport:
    """A report of 2,000 writes."""
    return HeatReport(conversation_id, server, 1_700_000_000, 2000)


@pytest.fixture
def stream(settings: Settings) -> Iterator[HeatStream]:
    """The heat stream, with its group."""
    opened = HeatStream(settings)
    opened.create_group()
    yield opened
    opened.close()


@pytest.mark.slow
@on_both
def test_the_stream_follows_its_slot(cluster: LocalCluster, stream: HeatStream) -> None:
    """One client through a slot on its way, arrived, and failed over: nothing is lost that was acknowledged."""
    stream.append_reports([report("a")])
    target = other_primary(cluster, stream.key)
    with cluster.moving(stream.key, target):
        stream.append_reports([report("b"), report("c", "app-2")])  # two entries
        assert len(stream.read_new("w", 1)) == 1
    stream.append_reports([report("d")])
    assert len(stream.read_new("w", 10)) == 3
    own = stream.read_own("w", "0", 10)
    assert stream.acknowledge([entry.id for entry in own]) == 4
    assert stream.trim(2e9) >= 3
    target.await_replica()
    promoted = cluster.kill(target)
    with pytest.raises(RedisUnavailableError, match="reached"):
        stream.append_reports([report("e")])
    stream.append_reports([report("e")])
    assert promoted.ask("XLEN", stream.key) >= 1
    assert len(stream.read_new("w", 10)) == 1


@pytest.mark.slow
@on_one
def test_sums_dead_letters_and_notes_have_slots_of_their_own(cluster: LocalCluster, settings: Settings) -> None:
    """Sums are spread over all primaries; the other data is on the primary of its key."""
    sums, letters, notes = WindowSums(settings), DeadLetters(settings), ServiceState(settings)
    reports = [report(i, server) for i in CONVERSATIONS for server in ("s1", "s2")]
    assert sums.add(reports) == [2000, 4000] * len(CONVERSATIONS)
    assert sums.add(reports) == [4000] * 2 * len(CONVERSATIONS)
    letters.add([(Entry("1-1", [b"v", b"9"]), "odd")])
    [letter] = letters.list()
    letters.requeue(letter)
    assert letters.length() == 0
    notes.note_raise("conv", 1, 4, "2026-01-01T00:00:00Z", "w")
    assert (notes.last_raise() or {})["after"] == 4
    for store in (sums, letters, notes):
        store.close()


@pytest.mark.slow
@on_one
def test_doctor_asks_every_primary(cluster: LocalCluster, settings: Settings, raised: Registry) -> None:
    """Every primary is looked at, its own buckets are counted, and one that forgot its script is found."""
    facts = Facts(settings)
    assert [counts.verified for counts in facts.registry_counts] == [True] * 3
    assert sum(counts.entries for counts in facts.registry_counts) == len(CONVERSATIONS) // 2
    checks = select_checks(
        ["redis-reachable", "redis-role", "redis-verified", "redis-min-replicas", "backup-layout", "drift"]
    )
    statuses = {result.check: result.status for result in run_checks(facts, checks)}
    assert statuses.pop("redis-min-replicas") in ("ok", "warn")
    assert set(statuses.values()) == {"ok"}
    assert {facts.replicas(server) for server in facts.servers} == {Replicas(1, (), True, 60.0, True)}
    forgetful = facts.registry_counts[1].primary
    next(node for node in cluster.nodes if node.server.port == int(forgetful.rpartition(":")[2])).ask("SCRIPT", "FLUSH")
    (found,) = run_checks(facts.refreshed(), select_checks(["redis-verified"]))
    assert (found.status, forgetful in found.detail) == ("fail", True)


# URLs that say something else.


@pytest.mark.slow
@on_one
def test_a_cluster_wants_a_clusters_url(cluster: LocalCluster, settings: Settings) -> None:
    """redis:// to one of its nodes is refused before anything is written, with the URL to write instead."""
    store = RedisRegistry(replace(settings, redis_url=cluster.nodes[0].server.url))
    with pytest.raises(ConfigurationError, match="node of a cluster") as refused:
        store.check_server()
    assert "redis+cluster://" in refused.value.hint
    store.close()


@pytest.mark.slow
@on_one
def test_what_is_no_cluster_is_told(redis_server: Any, settings: Settings) -> None:
    """redis+cluster:// to a single server is a matter of configuration; lookups still have the backup."""
    url = f"redis+cluster://127.0.0.1:{redis_server.port}"
    store = RedisRegistry(replace(settings, redis_url=url))
    with pytest.raises(ConfigurationError, match="is not a cluster"):
        store.primaries()
    store.close()


@pytest.fixture
def redis_binary() -> Path:
    """For the single server."""
    return find_engine("valkey")


@on_both
def test_the_probe_asks_primaries_and_replicas(cluster: LocalCluster) -> None:
    """Each primary has a key of its own; the replicas of all say that they have no script."""
    clauses = probe_platform(Settings(redis_url=cluster.url))
    assert not [clause for clause in clauses if clause.status == "refuted"]
    assert [c.status for c in clauses if c.clause == "scripts-not-replicated"] == ["observed"] * 3
    assert [c.status for c in clauses if c.clause == "no-ttl"] == ["observed"] * 3
