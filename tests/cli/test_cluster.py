"""Every command on a Redis Cluster, as the users that ``service emit acl`` prints, with no other permission."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from saltctl.deployment import acl
from saltctl.errors import AccessDeniedError
from saltctl.local.servers import LocalMoto, valkey_binary
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.redis.registry import RedisRegistry
from tests.cli.conftest import Runner, variables_of
from tests.cli.detection.test_service import Running, join_selectors, with_passwords
from tests.support.clusters import LocalCluster, Node

pytestmark = pytest.mark.slow

CONVERSATIONS = [f"conv_{number}" for number in range(30)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three primaries without replicas; tests keep apart by their prefixes."""
    cluster = LocalCluster(tmp_path_factory.mktemp("cluster"), valkey_binary(), replicas=False)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def settings(cluster: LocalCluster, moto: LocalMoto) -> Settings:
    """A prefix and tables of the test's own."""
    mine = uuid.uuid4().hex[:8]
    return Settings(
        redis_url=cluster.url,
        buckets=64,
        key_prefix=f"salt-{mine}",
        backup_table=f"backup-{mine}",
        aws_region="us-east-1",
        aws_endpoint_url=moto.url,
        lookup_timeout=5.0,
        breaker_seconds=0.0,
    )


RoleOf = Callable[[str], Settings]


def give_users(node: Node, settings: Settings) -> None:
    """The emitted users, each with a part of its name for a password."""
    for line in acl.users(settings).splitlines():
        _, name, *rules = with_passwords(line).split()
        node.ask("ACL", "SETUSER", name, *join_selectors(rules))


@pytest.fixture
def role(cluster: LocalCluster, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> RoleOf:
    """``role("app")``: settings as this user, who is known to each node; commands run as the service's."""
    for node in cluster.nodes:
        give_users(node, settings)

    def of(name: str) -> Settings:
        return replace(settings, redis_url=cluster.url.replace("://", f"://saltctl-{name}:{name}@"))

    for name, value in variables_of(of("service")).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SALTCTL_KEY_PREFIX", settings.key_prefix)
    return of


def test_every_command_works_on_a_cluster(role: RoleOf, saltctl: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """From setup to a verified registry and a replayed stream; servers look up and report, and readers look."""
    app = role("app")

    def run(*words: str, code: int = 0) -> object:
        outcome = saltctl(*words, "-o", "json")
        assert outcome.code == code, (words, outcome.err)
        return outcome.json

    run("setup")
    for conversation_id in CONVERSATIONS[:3]:
        run("registry", "set", conversation_id, "4", "--yes")
    rebuilt = run("rebuild")
    assert isinstance(rebuilt, dict)
    assert (rebuilt["primaries"], rebuilt["verified"]) == (3, True)
    run("rebuild", "--dry-run")
    run("compare")
    run("registry", "get", *CONVERSATIONS)
    listed = run("registry", "list", "--source", "redis")
    assert isinstance(listed, list)
    assert {row["conversation_id"] for row in listed} == set(CONVERSATIONS[:3])
    with Registry.open(app) as registry:
        assert {found.source for found in registry.lookup_many(CONVERSATIONS).values()} == {"redis"}
        assert registry.lookup(CONVERSATIONS[0]).max_n == 4
    reports = [HeatReport(i, "app", int(time.time()), 2000) for i in CONVERSATIONS]
    stream = HeatStream(app)
    stream.append_reports(reports)
    stream.close()
    run("stream", "status", "--window", "10ms", code=3)
    run("stream", "peek")
    run("stream", "replay")
    run("stream", "dead", "list")
    run("service", "status", "--window", "10ms", code=3)
    with Registry.open(app) as registry:
        assert {found.max_n for found in registry.lookup_many(CONVERSATIONS).values()} == {4}
    run("compare")
    monkeypatch.setenv("SALTCTL_REDIS_URL", role("readonly").require_redis_url())
    run("registry", "get", *CONVERSATIONS)
    run("compare")
    checks = run("doctor", code=3)  # no instance of the service runs
    assert isinstance(checks, dict)
    status = {check["name"]: check["status"] for check in checks["checks"]}
    assert {status[name] for name in ("redis-reachable", "redis-verified", "redis-tls", "drift")} == {"ok"}
    # A script may call no more than its user.
    store = RedisRegistry(role("readonly"), registry_id=BackupTable(role("readonly")).registry.id)
    with pytest.raises(AccessDeniedError):
        store.merge(CONVERSATIONS[0], 8)
    store.close()


def test_the_service_on_a_cluster(role: RoleOf, cluster: LocalCluster, settings: Settings, saltctl: Runner) -> None:
    """Under its user it verifies all primaries, raises, and rebuilds by itself when one of them was restarted."""
    BackupTable(settings).create()
    one = Running()
    try:
        assert one.wait_for("rebuilding")["primaries"] == 3
        one.wait_for("rebuilt")
        stream = HeatStream(role("app"))
        stream.append_reports([HeatReport("hot", "app", int(time.time()), 2000)])
        stream.close()
        assert one.wait_for("raised")["after"] == 4
        owner = cluster.nodes[2]
        owner.client.connection_pool.disconnect()
        owner.server.kill()
        owner.server.start()
        # The users ended with the process: this server has no ACL file.
        give_users(owner, settings)
        one.wait_for("rebuilt")
        status = saltctl("service", "status", "--window", "10ms", "-o", "json").json
        assert status["verified"]
        one.process.terminate()
        one.wait_for("stopped")
    finally:
        one.end()


@pytest.mark.usefixtures("role")
def test_other_commands_are_refused_on_a_cluster(cluster: LocalCluster) -> None:
    """The users may ask for the slots; other CLUSTER commands and dangerous commands are refused."""
    import redis

    beyond: tuple[tuple[str, ...], ...] = (
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("KEYS", "*"),
        ("CLUSTER", "NODES"),
        ("CLUSTER", "FAILOVER"),
        ("CLUSTER", "RESET"),
        ("CLUSTER", "SETSLOT", "1", "STABLE"),
        ("MIGRATE", "h", "1", "k", "0", "1"),
        ("READONLY",),
    )
    scripts = (
        ("SCRIPT", "LOAD", "return 1"),
        ("SCRIPT", "FLUSH"),
    )  # rebuilds load them, and raises in a moved slot flush
    for name in ("app", "service", "readonly"):
        url = f"redis://saltctl-{name}:{name}@{cluster.nodes[0].name}/0"
        with redis.Redis.from_url(url) as client:
            for command in (*beyond, *(scripts if name != "service" else ())):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*command)
