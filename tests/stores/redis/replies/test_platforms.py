"""Managed services are named with their own commands, and look-alikes of Redis are refused."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis  # noqa: TID253  plain clients that fill a server

from saltctl.detection.detector import Detector
from saltctl.errors import ConfigurationError, RaiseIncompleteError
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.heat.window_sums import WindowSums
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis.replies.platforms import (
    evicts_entries,
    look_alike,
    managed_service,
    usable_replication_ids,
)
from tests.stores.redis.test_connections import info_server
from tests.support import rebuild_job
from tests.support.aws_cli import check_aws_command

POLICY = {"maxmemory-policy": "noeviction"}
ELASTICACHE, MEMORYDB = "c.abc.use1.cache.amazonaws.com", "c.abc.memorydb.us-east-1.amazonaws.com"
CONSOLE = "in its configuration or console"


@pytest.mark.parametrize(
    ("primary", "info", "words"),
    [
        ("c.abc123.0001.use1.cache.amazonaws.com:6379", {}, "aws elasticache modify-cache-parameter-group"),
        (
            "master.c.abc123.use1.cache.amazonaws.com:6379",
            {},
            "ParameterName=maxmemory-policy,ParameterValue=noeviction",
        ),
        ("c-abc123.serverless.use1.cache.amazonaws.com:6379", {}, "no parameter group"),
        ("clustercfg.c.abc123.memorydb.us-east-1.amazonaws.com:6379", {}, "aws memorydb update-parameter-group"),
        ("c.abc.cache.amazonaws.com.cn:6379", {}, "aws elasticache"),
        ("c-abc.serverless.cnn1.cache.amazonaws.com.cn:6379", {}, "no parameter group"),
        ("C.ABC.USE1.Cache.AmazonAWS.com.:6379", {}, "aws elasticache"),
        ("alias.internal:6379", {"os": "Amazon ElastiCache"}, "aws elasticache modify-cache-parameter-group"),
        (
            "10.0.0.3:6379",
            {"os": "Google"},
            "gcloud redis instances update NAME --region=REGION --update-redis-config=maxmemory-policy=noeviction",
        ),
        ("10.0.0.3:6379", {"os": "Google", "cluster_enabled": 1}, "gcloud redis clusters update"),
        ("c.redis.cache.windows.net:6380", {}, "--set redisConfiguration.maxmemory-policy=noeviction"),
        ("c.eastus.redisenterprise.cache.azure.net:10000", {}, "az redisenterprise database update"),
        ("c.eastus.redis.azure.net:10000", {}, "az redisenterprise database update"),
        ("redis-1.c1.us-east-1-2.ec2.cloud.redislabs.com:1", {}, f"maxmemory-policy noeviction {CONSOLE}"),
        ("redis-1.c1.us-east-1-2.ec2.redns.redis-cloud.com:1", {}, "Redis Cloud refuses CONFIG SET: set"),
        ("redis-1.redislabs.com:1", {}, f"maxmemory-policy noeviction {CONSOLE}"),
        ("c.upstash.io:6379", {}, f"maxmemory-policy noeviction {CONSOLE}"),
    ],
)
def test_a_managed_server_has_its_own_command(primary: str, info: dict[str, Any], words: str) -> None:
    """CONFIG SET is refused there."""
    platform = managed_service(primary, info)
    assert platform is not None
    remedy = platform.set_parameters(POLICY)
    assert words in remedy
    assert "redis-cli" not in remedy


@pytest.mark.parametrize("primary", ["127.0.0.1:6379", "redis.example.com:6379", "cache.amazonaws.com.evil:6379"])
def test_other_servers_are_configured_by_redis_cli(primary: str) -> None:
    """No remedy of a provider."""
    assert managed_service(primary, {"os": "Linux 6.1 x86_64"}) is None


@pytest.mark.parametrize(
    ("host", "values", "words"),
    [
        (ELASTICACHE, {"maxmemory": "1"}, "--cache-node-type TYPE"),
        (ELASTICACHE, {"appendonly": "yes"}, "has no AOF"),
        (ELASTICACHE, {"min-replicas-to-write": "1", "min-replicas-max-lag": "3"}, "min-replicas-max-lag,Param"),
        (MEMORYDB, {"maxmemory": "1"}, "--node-type TYPE"),
        (MEMORYDB, {"min-replicas-to-write": "1", "min-replicas-max-lag": "3"}, CONSOLE),
        ("a.serverless.use1.cache.amazonaws.com", {"maxmemory": "1"}, "'DataStorage={Maximum=NUMBER,Unit=GB}'"),
    ],
)
def test_a_parameter_that_cannot_be_set_is_not_named(host: str, values: dict[str, str], words: str) -> None:
    """The memory follows the size of the nodes, and there may be no AOF."""
    platform = managed_service(f"{host}:6379", {})
    assert platform is not None
    remedy = platform.set_parameters(values)
    assert words in remedy
    assert "ParameterName=maxmemory," not in remedy
    assert "ParameterName=appendonly," not in remedy


def _shown_commands() -> list[str]:
    """Return each hint that names the AWS CLI."""
    hints = []
    for host in (ELASTICACHE, MEMORYDB, "a.serverless.use1.cache.amazonaws.com"):
        platform = managed_service(f"{host}:6379", {})
        assert platform is not None
        values = [POLICY, *({name: "1"} for name in platform.parameters)]
        hints += [*map(platform.set_parameters, values), platform.set_user("saltctl-app", ["+info", "~salt:r:*"])]
    return [hint for hint in hints if "aws " in hint]


@pytest.mark.parametrize("hint", dict.fromkeys(_shown_commands()))
def test_commands_of_aws_fit_its_models(hint: str) -> None:
    """Operation and parameters exist, as botocore's models of both services have them."""
    inner = re.search(r'"\$\((.*)\) "', hint)
    for text in [hint.replace(inner[0], "") if inner else hint, *([inner[1]] if inner else [])]:
        check_aws_command(text)


def test_rules_of_a_user_are_added(tmp_path: Path) -> None:
    """update-user of MemoryDB replaces all rules, so its command contains those that the user has."""
    platform = managed_service(f"{MEMORYDB}:6379", {})
    assert platform is not None
    aws = tmp_path / "aws"
    aws.write_text('#!/bin/sh\ncase "$2" in describe-users) echo "on ~* +get";; *) printf "%s|" "$@";; esac\n')
    aws.chmod(0o755)
    hint = platform.set_user("saltctl-app", ["+info", "~salt:r:*"])
    shown = subprocess.run(["/bin/sh", "-c", hint], env={"PATH": str(tmp_path)}, capture_output=True, check=True)
    assert shown.stdout.decode() == (
        "memorydb|update-user|--user-name|saltctl-app|--access-string|on ~* +get +info ~salt:r:*|"
    )


@pytest.mark.parametrize(
    ("policy", "evicts"),
    [
        ("noeviction", False),
        ("volatile-lru", False),
        ("volatile-lfu", False),
        ("volatile-ttl", False),
        ("volatile-random", False),
        ("allkeys-lru", True),
        ("allkeys-lfu", True),
        ("allkeys-random", True),
        ("", True),
        ("of a later version", True),
    ],
)
def test_policies(policy: str, evicts: bool) -> None:
    """What was not understood counts as one that evicts."""
    assert evicts_entries(policy) is evicts


@pytest.mark.parametrize(
    ("info", "engine"),
    [
        ({"redis_version": "7.4.0", "dragonfly_version": "df-v1.25"}, "dragonfly"),
        ({"redis_version": "7.0.0", "kvrocks_version": "2.9.0"}, "kvrocks"),
        ({"redis_version": "7.4.3", "garnet_version": "1.0.63"}, "garnet"),
        ({"redis_version": "7.2.0", "executable": "/usr/bin/keydb-server"}, "keydb"),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, None),
        ({"redis_version": "7.0.15", "executable": "/srv/keydb-migration/redis-server"}, None),
    ],
)
def test_look_alikes(info: dict[str, Any], engine: str | None) -> None:
    """Only Redis and Valkey are known to keep what the fence needs."""
    assert look_alike(info) == engine


def test_replication_ids() -> None:
    """Two primaries with one id, and ids that are no ids, cannot be told apart."""
    assert usable_replication_ids(["a" * 40, "b" * 40])
    assert usable_replication_ids([])
    for ids in (["a" * 40, "a" * 40], ["0" * 40], ["a" * 39], [""], ["?" * 40]):
        assert not usable_replication_ids(ids)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["volatile-lru", "volatile-lfu", "volatile-ttl", "volatile-random"])
def test_eviction_spares_the_registry(
    policy: str, redis_binary: Path, tmp_path: Path, settings: Settings, backup: BackupTable
) -> None:
    """Keys with a TTL fill the memory and are evicted; the registry stays complete and verified.

    Without such keys the memory stays full: raises are incomplete, and nothing is lost. Sums of heat reports have a
    TTL. If they are evicted, the raise comes with a later report; no N is lowered, and no report is lost.
    """
    options = {"maxmemory": "6mb", "maxmemory-policy": policy}
    server = LocalRedis(tmp_path / "volatile", binary=redis_binary, options=options)
    server.start()
    settings = replace(settings, redis_url=server.url)
    store = RedisRegistry(settings, registry_id=backup.registry.id)
    registry = Registry(store, backup, breaker_seconds=0)
    stream, sums, now = HeatStream(settings), WindowSums(settings), int(time.time())
    detector = Detector(sums, registry, None, settings, max_age=3600)

    def report(server: str) -> None:
        """Send a report of 1.9 salts' writes in this window."""
        stream.append_reports([HeatReport("hot", server, now, 1500)])

    try:
        assert list(rebuild_job(settings, store, backup).run())
        for number in range(20):
            registry.raise_to(f"conv{number}", 4)
        stream.create_group()
        report("a")
        assert [event.after for event in detector.handle(stream.read_new("c", 10), stream).raises] == [2]
        report("b")
        with redis.Redis.from_url(server.url) as other:
            number = 0
            while not other.info("stats")["evicted_keys"]:
                number += 1
                other.set(f"cache:{number}", b"x" * 10_000, ex=3600)
            found = registry.lookup_many([f"conv{number}" for number in range(20)])
            assert registry.last_failure is None
            assert {(lookup.max_n, lookup.source) for lookup in found.values()} == {(4, "redis")}
            assert all(store.verified().values())
            assert not [key for key in other.scan_iter(f"{settings.key_prefix}:r:*") if other.ttl(key) != -1]
            other.config_set("maxmemory", "1mb")  # below what keys without TTL need
            other.get("evict now")
            assert not [*other.scan_iter("cache:*"), *other.scan_iter(f"{settings.key_prefix}:sum:*")]
            entries = stream.read_new("c", 10)
            assert detector.handle(entries, stream).left_pending == [entry.id for entry in entries] != []
            with pytest.raises(RaiseIncompleteError, match="memory is full"):
                registry.raise_to("conv0", 8)
            found = registry.lookup_many([f"conv{number}" for number in range(20)])
            assert {(lookup.max_n, lookup.source) for lookup in found.values()} == {(4, "redis")}
            other.config_set("maxmemory", "64mb")
            assert registry.raise_to("conv0", 8).committed
            assert not detector.handle(stream.read_own("c", "0", 10), stream).raises  # with the sum it would be 4
            assert not stream.read_own("c", "0", 10)
            assert registry.lookup("hot").max_n == 2
            report("d")
            assert [event.after for event in detector.handle(stream.read_new("c", 10), stream).raises] == [4]
    finally:
        for opened in (store, stream, sums):
            opened.close()
        server.kill()


def test_a_server_that_cannot_keep_the_promise_is_refused() -> None:
    """A rebuild checks it first. A managed one that evicts has its provider's command."""
    for info, words in (
        ("redis_version:7.4.0\r\ndragonfly_version:df-v1.25\r\n", "is dragonfly"),
        (f"redis_version:7.4.0\r\nmaster_replid:{'0' * 40}\r\n", "replication id"),
        ("redis_version:7.1.0\r\nos:Amazon ElastiCache\r\nmaxmemory_policy:allkeys-lru\r\n", "allkeys-lru"),
        ("maxmemory_policy:noeviction\r\n", "does not name its version"),
        ("redis_version:7.2.0\r\nmaxmemory_policy:\r\n", "maxmemory-policy is empty in INFO"),
    ):
        with info_server(info) as server:
            store = RedisRegistry(Settings(redis_url=server.url, registry_id="0" * 16))
            with pytest.raises(ConfigurationError, match=words) as refused:
                store.check_server()
            store.close()
        if "os:" in info:
            assert "aws elasticache" in refused.value.hint
