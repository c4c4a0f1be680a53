"""Tests of the checks of Redis servers."""

from __future__ import annotations

from typing import Any

import pytest

from saltctl.health.doctor import run_checks, select_checks
from saltctl.health.findings import Finding
from tests.health.fakes import FakeFacts


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
        ("redis-min-replicas", {"connected_slaves": 2}, "warn", "min-replicas-to-write 1 min-replicas-max-lag 3"),
        ("redis-min-replicas", {"connected_slaves": 2, "min_slaves_good_slaves": 2}, "ok", ""),
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


def test_the_lag_bound_must_be_below_the_failover_time() -> None:
    """In a cluster the lag bound is compared with cluster-node-timeout."""
    info = {"connected_slaves": 1, "min_slaves_good_slaves": 1, "cluster_enabled": 1}
    config = {"min-replicas-to-write": "1", "min-replicas-max-lag": "10", "cluster-node-timeout": "5000"}
    assert run_check("redis-min-replicas", FakeFacts(info, config)).status == "warn"
    assert run_check("redis-min-replicas", FakeFacts(info, config | {"min-replicas-max-lag": "3"})).status == "ok"


@pytest.mark.parametrize(
    ("url", "status"),
    [("redis://127.0.0.1/0", "ok"), ("unix:///r.sock", "ok"), ("rediss://a/0", "ok"), ("redis://a:1/0", "warn")],
)
def test_a_remote_server_without_tls_is_a_warning(url: str, status: str) -> None:
    """Without TLS, a server on another machine is a warning."""
    assert run_check("redis-tls", FakeFacts({}, url=url)).status == status
