"""Lookups and raises continue during a rebuild."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from saltctl.rebuild.events import RebuildReport, RebuildStarted
from saltctl.registry.registry import Registry
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.registry import Raise
from saltctl.stores.redis.registry import RedisRegistry
from tests.rebuild.harness import (
    ENTRIES,
    Opener,
    assert_never_wrong,
    assert_verified,
    drive,
    on_each_engine,
)
from tests.support import Rebuilder

pytestmark = pytest.mark.slow


def test_lookups_continue_during_a_rebuild(
    filled: BackupTable, store: RedisRegistry, job: Opener, rebuild: Rebuilder
) -> None:
    """A rebuild of a verified Redis is a check: Redis answers at every point, and nothing is raised."""
    rebuild()
    events = drive(job(lambda point: assert_verified(store)), lambda point: assert_verified(store))
    assert isinstance(events[0], RebuildStarted)
    assert events[0].verified_before
    report = events[-1]
    assert isinstance(report, RebuildReport)
    assert (report.restored, report.unchanged) == (0, len(ENTRIES))


@on_each_engine
def test_redis_is_not_verified_before_the_last_step(
    filled: BackupTable, store: RedisRegistry, registry: Registry, job: Opener
) -> None:
    """An unverified Redis answers no lookup until the rebuild is over."""
    verified_at = []

    def at(point: str) -> None:
        assert_never_wrong(store, registry)
        if all(store.verified().values()):
            verified_at.append(point)

    drive(job(at), at)
    assert verified_at == ["closed", "RebuildReport"]


def test_raises_at_every_step_are_not_lost(
    filled: BackupTable, store: RedisRegistry, registry: Registry, job: Opener
) -> None:
    """Raises of old and new conversations at every point: each is acknowledged, and Redis has them all."""
    raised: dict[str, int] = {}
    old = iter(ENTRIES)

    def at(point: str) -> None:
        for conversation_id in (next(old), f"new_{len(raised):02}"):
            registry.raise_to(conversation_id, 64)
            raised[conversation_id] = 64
            assert registry.lookup(conversation_id).max_n == 64

    drive(job(at), at)
    wanted = ENTRIES | raised
    assert store.lookup(store.primaries()[0], list(wanted)) == list(wanted.values())


def test_concurrent_raises_are_not_lost(
    filled: BackupTable, store: RedisRegistry, registry: Registry, admin: Any, job: Opener
) -> None:
    """From three threads without a pause, while Redis is rebuilt, emptied and rebuilt again: every one is there."""
    rounds, done = 6, threading.Event()

    def keep_raising(raiser: int) -> dict[str, int]:
        acknowledged: dict[str, int] = {}
        for number in count():
            if done.is_set():
                return acknowledged
            name = f"new_{raiser}_{number // 5}" if number % 2 else list(ENTRIES)[(3 * number + raiser) % len(ENTRIES)]
            n = max(acknowledged.get(name, 0), ENTRIES.get(name, 1)) * 2
            if n <= 256:
                acknowledged[name] = registry.raise_to(name, n).after
            assert registry.lookup(name).max_n >= acknowledged.get(name, 1)
        raise AssertionError("unreachable")

    with ThreadPoolExecutor(3) as pool:
        raisers = [pool.submit(keep_raising, raiser) for raiser in range(3)]
        try:
            for _ in range(rounds):
                (*_, report) = drive(job(clock=time.monotonic))
                assert isinstance(report, RebuildReport)
                assert report.verified
                admin.flushall()
            drive(job(clock=time.monotonic))
        finally:
            done.set()
        found: dict[str, int] = dict(ENTRIES)
        for raiser in raisers:
            for name, n in raiser.result().items():
                found[name] = max(found.get(name, 1), n)
    assert sum(name.startswith("new_") for name in found) >= 2 * rounds
    held = dict(zip(found, store.lookup(store.primaries()[0], list(found)), strict=True))
    assert held == found


def test_half_done_raises_are_completed(backup: BackupTable, store: RedisRegistry, job: Opener) -> None:
    """Raises that died after step 1 are in Redis before writers may use them, and committed at the end."""
    for conversation_id, n in ENTRIES.items():
        backup.raise_max_n(conversation_id, Raise(n, "2024-05-01T12:00:00Z", "somebody", ""))
    committed_at = {}

    def at(point: str) -> None:
        entries = backup.get_many(list(ENTRIES)).values()
        committed_at[point] = sum(entry.write_n == entry.max_n for entry in entries)

    report = drive(job(at), at)[-1]
    assert isinstance(report, RebuildReport)
    assert report.committed == len(ENTRIES)
    assert committed_at["set_fence"] == 0
    assert committed_at["RebuildReport"] == len(ENTRIES)
    assert_verified(store)
