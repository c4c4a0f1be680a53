"""Tests of the checks of Redis servers."""

from __future__ import annotations

import re
from typing import Any

import pytest

from saltctl.health.doctor import run_checks, select_checks
from saltctl.health.findings import Finding
from saltctl.stores.redis.inspection import RegistryCounts
from saltctl.stores.redis.replies.replicas import Replicas
from tests.health.fakes import NAME, FakeFacts


def run_check(name: str, facts: FakeFacts) -> Finding:
    """Run one check."""
    (finding,) = run_checks(facts, select_checks([name]))
    return finding


@pytest.mark.parametrize(
    ("check", "info", "status", "fix"),
    [
        ("redis-version", {"redis_version": "6.2.14"}, "fail", "INFO server"),
        ("redis-version", {"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, "ok", ""),
        ("redis-version", {"redis_version": "unstable"}, "fail", "INFO server"),
        ("redis-version", {"redis_version": "7.4.0", "dragonfly_version": "df-v1"}, "fail", "--probe-platform"),
        ("redis-version", {"redis_version": "\u00b2.0"}, "fail", "INFO server"),
        ("redis-version", {"redis_version": "", "server_name": "valkey"}, "fail", "INFO server"),
        ("redis-aof", {"aof_enabled": "yes"}, "skip", ""),
        ("redis-aof", {"aof_enabled": None}, "skip", ""),
        ("redis-role", {"role": None}, "skip", ""),
        ("redis-memory", {"used_memory": "1G"}, "skip", ""),
        ("redis-memory", {"maxmemory": {"a": "b"}}, "skip", ""),
        ("redis-role", {"role": "master", "connected_slaves": "x"}, "skip", ""),
        ("redis-reachable", {"loading": "no"}, "ok", ""),
        ("redis-role", {"role": "slave", "master_host": "b", "master_port": 7}, "fail", "b:7"),
        ("redis-eviction", {"maxmemory_policy": "allkeys-lru"}, "fail", "maxmemory-policy noeviction"),
        ("redis-eviction", {"maxmemory_policy": ""}, "skip", ""),
        ("redis-persistence", {"aof_last_write_status": "err"}, "fail", "INFO persistence"),
        ("redis-persistence", {"aof_last_bgrewrite_status": "err"}, "warn", "BGREWRITEAOF"),
        ("redis-persistence", {"aof_enabled": 0}, "skip", ""),
        ("redis-memory", {"used_memory": 800}, "warn", "maxmemory 2000"),
        ("redis-memory", {"used_memory": 950}, "fail", "maxmemory 2000"),
        ("redis-memory", {"used_memory": 9500, "maxmemory": 0}, "fail", "MEMORY DOCTOR"),
        ("redis-memory", {"used_memory": 0, "maxmemory": 0, "total_system_memory": 0}, "skip", ""),
        ("redis-min-replicas", {}, "ok", ""),
        ("redis-min-replicas", {"connected_slaves": 1}, "warn", "min-replicas-to-write 1 min-replicas-max-lag 3"),
        ("redis-min-replicas", {"connected_slaves": 2}, "warn", "min-replicas-to-write 2 min-replicas-max-lag 3"),
        ("redis-min-replicas", {"connected_slaves": 2, "min_slaves_good_slaves": 2}, "skip", ""),
        ("redis-min-replicas", {"min_slaves_good_slaves": 0}, "fail", "INFO replication"),
        ("redis-fsync", {}, "skip", ""),
        ("redis-fsync", {"aof_enabled": 0}, "skip", ""),
        ("redis-reachable", {"loading": 1, "loading_loaded_perc": "41.5"}, "fail", "--wait-redis"),
    ],
)
def test_findings_from_info(check: str, info: dict[str, Any], status: str, fix: str) -> None:
    """Each answer of INFO gives the expected status; warnings and failures have a fix."""
    found = run_check(check, FakeFacts(info))
    assert found.status == status
    assert fix in found.fix
    assert bool(found.fix) is (status in ("warn", "fail"))
    assert ("may not outlast a restart" in found.detail) is ("CONFIG SET" in found.fix)
    lasting = run_check(check, FakeFacts({**info, "config_file": "/etc/valkey.conf"}))
    assert "may not outlast a restart" not in lasting.detail
    assert ("CONFIG REWRITE" in lasting.fix) is ("CONFIG SET" in found.fix)


REFUSED = re.compile("CONFIG|ACL|BGREWRITEAOF|MEMORY DOCTOR|CLUSTER FORGET|SENTINEL RESET")
WITH_A_FIX: list[tuple[str, dict[str, Any]]] = [
    ("redis-eviction", {"maxmemory_policy": "allkeys-lru"}),
    ("redis-persistence", {"aof_last_bgrewrite_status": "err"}),
    ("redis-memory", {"used_memory": 950}),
    ("redis-memory", {"used_memory": 9500, "maxmemory": 0}),
    ("redis-aof", {"aof_enabled": 0}),
    ("redis-fsync", {}),
    ("redis-min-replicas", {"connected_slaves": 1}),
]


@pytest.mark.parametrize("without_config", [False, True])
@pytest.mark.parametrize(("check", "info"), WITH_A_FIX)
def test_a_managed_service_refuses_no_fix(check: str, info: dict[str, Any], without_config: bool) -> None:
    """No fix is a command of an administrator, if INFO names the service or if CONFIG is absent."""
    info = info if without_config else {**info, "os": "Amazon ElastiCache"}
    missing = Replicas(1, ("10.0.0.3:6379",), complete=True) if check == "redis-min-replicas" else None
    for replicas in (None, missing):
        found = run_check(
            check, FakeFacts(info, {"appendfsync": "no"}, replicas=replicas, without_config=without_config)
        )
        assert found.status in ("warn", "fail")
        assert found.fix
        assert not REFUSED.search(f"{found.detail} {found.fix}".replace("refuses CONFIG SET", ""))


@pytest.mark.parametrize(
    ("value", "good", "replicas", "status", "words"),
    [
        ("1", 1, Replicas(1), "ok", "sends lookups to the backup"),
        ("1", 2, Replicas(2), "warn", "min-replicas-to-write 2"),
        ("2", 2, Replicas(2), "ok", ""),
        ("2", 3, Replicas(3), "warn", "min-replicas-to-write 3"),
        # It may come back on the other side of a partition. Asking for it now would stop raises.
        ("1", 1, Replicas(1, ("10.0.0.3:6379",), complete=True), "warn", "10.0.0.3:6379"),
        ("1", 2, Replicas(2, promotable=False), "ok", ""),
        ("2", 1, Replicas(1), "fail", "1 good replica, fewer than min-replicas-to-write 2"),
        ("1", 0, Replicas(0), "fail", "0 good replicas"),
    ],
)
def test_a_primary_asks_for_all_its_replicas(
    value: str, good: int, replicas: Replicas, status: str, words: str
) -> None:
    """With fewer it would keep enough of them while another is promoted; with more it refuses raises now."""
    config = {"min-replicas-to-write": value, "min-replicas-max-lag": "3"}
    info = {"connected_slaves": replicas.connected, "min_slaves_good_slaves": good}
    found = run_check("redis-min-replicas", FakeFacts(info, config, replicas=replicas))
    assert found.status == status
    assert words in f"{found.detail} {found.fix}"
    assert not (replicas.missing and "CONFIG SET" in found.fix)


@pytest.mark.parametrize(
    ("lag", "failover", "status", "fix"),
    [
        ("3", 30.0, "ok", ""),
        ("3", 5.0, "ok", ""),
        ("4", 5.0, "warn", "min-replicas-max-lag 3"),
        ("10", 4.0, "warn", "min-replicas-max-lag 2"),
        ("10", None, "ok", ""),
    ],
)
def test_the_lag_bound_must_be_below_the_failover_time(lag: str, failover: float | None, status: str, fix: str) -> None:
    """A primary refuses up to two seconds after the lag bound; that must be before another one is promoted."""
    info = {"connected_slaves": 1, "min_slaves_good_slaves": 1}
    config = {"min-replicas-to-write": "1", "min-replicas-max-lag": lag}
    replicas = Replicas(1, failover_seconds=failover, complete=True)
    found = run_check("redis-min-replicas", FakeFacts(info, config, replicas=replicas))
    assert found.status == status
    assert fix in found.fix


def test_without_a_replica_that_may_be_promoted_there_is_no_failover() -> None:
    """Replicas with priority 0 do not need the setting."""
    assert run_check("redis-min-replicas", FakeFacts({}, replicas=Replicas(2, promotable=False))).status == "ok"


@pytest.mark.parametrize("refused", ["", "refuses this command: no permissions to run 'evalsha'"])
def test_a_registry_whose_lookups_are_refused_is_not_verified(refused: str) -> None:
    """Whatever its fences say: every lookup uses the backup."""
    facts = FakeFacts({})
    facts.registry_counts = [RegistryCounts(NAME, 64, 7, 64, 0, 0, loaded=True, refused=refused)]
    found = run_check("redis-verified", facts)
    assert found.status == ("fail" if refused else "ok")
    assert refused in found.detail
    assert ("is not verified" in found.detail) is bool(refused)


@pytest.mark.parametrize(
    ("url", "status"),
    [("redis://127.0.0.1/0", "ok"), ("unix:///r.sock", "ok"), ("rediss://a/0", "ok"), ("redis://a:1/0", "warn")],
)
def test_a_remote_server_without_tls_is_a_warning(url: str, status: str) -> None:
    """Without TLS, a server on another machine is a warning."""
    assert run_check("redis-tls", FakeFacts({}, url=url)).status == status
