"""Tests of the checks of Redis servers."""

from __future__ import annotations

from typing import Any

import pytest

from saltctl.health.checks.redis import (
    eviction,
    fsync,
    memory,
    min_replicas,
    persistence,
    reachable,
    role,
    tls,
    version,
)
from tests.health.fakes import FakeFacts


@pytest.mark.parametrize(
    ("check", "info", "status", "fix"),
    [
        (version, {"redis_version": "6.2.14"}, "fail", "INFO server"),
        (version, {"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, "ok", ""),
        (version, {"redis_version": "unstable"}, "fail", "INFO server"),
        (role, {"role": "slave", "master_host": "b", "master_port": 7}, "fail", "b:7"),
        (eviction, {"maxmemory_policy": "allkeys-lru"}, "fail", "maxmemory-policy noeviction"),
        (eviction, {"maxmemory_policy": ""}, "skip", ""),
        (persistence, {"aof_last_write_status": "err"}, "fail", "INFO persistence"),
        (persistence, {"aof_last_bgrewrite_status": "err"}, "warn", "BGREWRITEAOF"),
        (persistence, {"aof_enabled": 0}, "skip", ""),
        (memory, {"used_memory": 800}, "warn", "maxmemory 2000"),
        (memory, {"used_memory": 950}, "fail", "maxmemory 2000"),
        (memory, {"used_memory": 9500, "maxmemory": 0}, "fail", "MEMORY DOCTOR"),
        (memory, {"used_memory": 0, "maxmemory": 0, "total_system_memory": 0}, "skip", ""),
        (min_replicas, {}, "ok", ""),
        (min_replicas, {"connected_slaves": 2}, "warn", "min-replicas-to-write 1 min-replicas-max-lag 3"),
        (min_replicas, {"connected_slaves": 2, "min_slaves_good_slaves": 2}, "ok", ""),
        (fsync, {}, "skip", ""),
        (fsync, {"aof_enabled": 0}, "skip", ""),
        (reachable, {"loading": 1, "loading_loaded_perc": "41.5"}, "fail", "--wait-redis"),
    ],
)
def test_findings_from_info(check: Any, info: dict[str, Any], status: str, fix: str) -> None:
    """Each answer of INFO gives the expected status; warnings and failures have a fix."""
    found = check(FakeFacts(info))
    assert found.status == status
    assert fix in found.fix
    assert bool(found.fix) is (status in ("warn", "fail"))


def test_the_lag_bound_must_be_below_the_failover_time() -> None:
    """In a cluster the lag bound is compared with cluster-node-timeout."""
    info = {"connected_slaves": 1, "min_slaves_good_slaves": 1, "cluster_enabled": 1}
    config = {"min-replicas-to-write": "1", "min-replicas-max-lag": "10", "cluster-node-timeout": "5000"}
    assert min_replicas(FakeFacts(info, config)).status == "warn"
    assert min_replicas(FakeFacts(info, config | {"min-replicas-max-lag": "3"})).status == "ok"


@pytest.mark.parametrize(
    ("url", "status"),
    [("redis://127.0.0.1/0", "ok"), ("unix:///r.sock", "ok"), ("rediss://a/0", "ok"), ("redis://a:1/0", "warn")],
)
def test_a_remote_server_without_tls_is_a_warning(url: str, status: str) -> None:
    """Without TLS, a server on another machine is a warning."""
    assert tls(FakeFacts({}, url=url)).status == status
