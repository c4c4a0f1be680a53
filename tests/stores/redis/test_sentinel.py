"""Sentinels of real processes: they name the primary, and are asked again after a failover."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from saltctl.errors import AccessDeniedError, ConfigurationError, RedisUnavailableError, UnverifiedError
from saltctl.local.servers import LocalMoto
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.redis.inspection import RedisInspection
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis.replies.replicas import Replicas
from tests.support import Rebuilder
from tests.support.clusters import SERVICE, LocalSentinels
from tests.support.redis_servers import eventually, find_engine

pytestmark = pytest.mark.slow

PASSWORD = "correct-horse-battery"  # noqa: S105  opens servers of this test's own
SENTINELS_OWN = "staple-of-sentinels"


on_both = pytest.mark.parametrize("redis_binary", ["valkey", "redis"], indirect=True)
on_one = pytest.mark.parametrize("redis_binary", ["valkey"], indirect=True)


@pytest.fixture
def redis_binary(request: pytest.FixtureRequest) -> Path:
    """The engine that the test names."""
    return find_engine(request.param)


@pytest.fixture
def sentinels(redis_binary: Path, tmp_path: Path) -> Iterator[LocalSentinels]:
    """A primary with a replica and two sentinels, of each engine in turn; each test may break its own."""
    found = LocalSentinels(tmp_path / "sentinels", redis_binary)
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture
def settings(sentinels: LocalSentinels, moto: LocalMoto) -> Settings:
    """Settings that name the sentinels."""
    return of_sentinels(sentinels.url, moto)


def of_sentinels(url: str, moto: LocalMoto) -> Settings:
    """Settings with this URL and tables of their own."""
    return Settings(
        registry_id="feed0123456789ab",
        redis_url=url,
        buckets=64,
        backup_table=f"backup-{uuid.uuid4().hex[:8]}",
        aws_region="us-east-1",
        aws_endpoint_url=moto.url,
        lookup_timeout=5.0,
        breaker_seconds=0.0,
    )


@on_both
def test_a_failover_is_followed_and_fenced(
    sentinels: LocalSentinels, settings: Settings, store: RedisRegistry, registry: Registry, rebuild: Rebuilder
) -> None:
    """The promoted replica is unverified until a rebuild; raises and reports go to it; the demoted one refuses."""
    stream = HeatStream(settings)
    stream.create_group()
    assert rebuild().primaries == 1
    registry.raise_to("conv", 4)
    assert registry.lookup("conv")[:4] == ("conv", 4, 4, "redis")
    assert store.primaries() == (sentinels.primary.name,)
    assert store.verified() == {sentinels.primary.name: True}
    demoted = sentinels.primary.name
    sentinels.primary.await_replica()
    sentinels.fail_over()
    # The demoted server has the script and its connections, but refuses lookups.
    sentinels.replica.ask("REPLICAOF", "127.0.0.1", sentinels.primary.server.port)
    with pytest.raises(RedisUnavailableError, match="READONLY") as refused:
        store.lookup(demoted, ["conv"])
    assert not isinstance(refused.value, UnverifiedError)
    assert registry.lookup("conv")[:4] == ("conv", 4, 4, "backup")
    assert store.primaries() == (sentinels.primary.name,)
    assert store.verified() == {sentinels.primary.name: False}
    assert registry.raise_to("conv", 8).committed
    assert store.read_unverified(["conv"]) == {"conv": 8}
    with pytest.raises(RedisUnavailableError, match="READONLY"):
        stream.append_reports([HeatReport("conv", "app", 1, 2000)])
    stream.append_reports([HeatReport("conv", "app", 1, 2000)])
    assert len(stream.read_new("w", 10)) == 1
    assert rebuild().verified
    assert registry.lookup("conv")[:4] == ("conv", 8, 8, "redis")
    stream.close()


@on_one
def test_a_killed_primary_and_dead_sentinels(
    sentinels: LocalSentinels, settings: Settings, store: RedisRegistry, registry: Registry, rebuild: Rebuilder
) -> None:
    """A dead primary costs lookups a way to the backup until its replica is promoted; dead sentinels cost nothing."""
    rebuild()
    registry.raise_to("conv", 4)
    sentinels.primary.await_replica()
    sentinels.primary.server.kill()
    assert registry.lookup("conv")[:4] == ("conv", 4, 4, "backup")
    sentinels.fail_over()
    assert store.verified() == {sentinels.primary.name: False}
    rebuild()
    for sentinel in sentinels.sentinels:
        sentinel.server.kill()
    assert registry.lookup("conv")[:4] == ("conv", 4, 4, "redis")
    for session in store.sessions():  # asks again which server is the primary
        session.close()
    assert registry.lookup("conv")[:4] == ("conv", 4, 4, "redis")
    newcomer = Registry.over(settings, RedisRegistry(settings), BackupTable(settings))
    assert newcomer.lookup("conv")[:4] == ("conv", 4, 4, "backup")
    assert newcomer.last_failure is not None
    assert "says which Redis is primary" in newcomer.last_failure.message
    newcomer.close()


@on_both
def test_sentinels_know_a_replica_that_is_down(sentinels: LocalSentinels, settings: Settings) -> None:
    """It counts as a replica, since it may be promoted once it is back."""
    inspection = RedisInspection(settings)
    server = inspection.info(sentinels.primary.name)
    eventually(lambda: inspection.replicas(server) == Replicas(1, (), True, 60.0, True), "the sentinels see it")
    sentinels.replica.server.kill()
    eventually(lambda: inspection.info(server.primary).info["connected_slaves"] == 0, "the primary misses it")
    alone = inspection.info(server.primary)
    down = Replicas(0, (sentinels.replica.name,), True, 60.0, True)
    eventually(lambda: inspection.replicas(alone) == down, "the sentinels miss it")
    inspection.close()


@on_one
def test_an_isolated_primary_refuses(
    sentinels: LocalSentinels, store: RedisRegistry, registry: Registry, rebuild: Rebuilder
) -> None:
    """NOREPLICAS, if min-replicas-to-write is set: clients on the minority side get an error."""
    rebuild()
    registry.raise_to("conv", 4)
    sentinels.primary.ask("CONFIG", "SET", "min-replicas-to-write", "1")
    assert registry.lookup("conv").source == "redis"
    sentinels.replica.server.kill()

    def refuses() -> bool:
        try:
            store.lookup(store.primaries()[0], ["conv"])
        except RedisUnavailableError as exc:
            return "NOREPLICAS" in exc.message
        return False

    eventually(refuses, "the primary misses its replica")
    assert registry.lookup("conv")[:4] == ("conv", 4, 4, "backup")


@on_one
def test_the_service_has_to_be_known(sentinels: LocalSentinels, settings: Settings) -> None:
    """A wrong service name is a matter of configuration, not an outage to wait for."""
    store = RedisRegistry(replace(settings, redis_url=sentinels.url.replace(SERVICE, "other")))
    with pytest.raises(ConfigurationError, match="no service 'other'"):
        store.primaries()
    store.close()


@on_one
def test_sentinels_have_a_password_of_their_own(redis_binary: Path, tmp_path: Path, moto: LocalMoto) -> None:
    """Both are wanted, each by its own servers, in the URL or in files, and neither is told; users may be narrow."""
    locked = LocalSentinels(tmp_path / "locked", redis_binary, password=PASSWORD, sentinel_password=SENTINELS_OWN)
    try:
        locked.start()
        hosts = locked.url.partition("://")[2]
        files = {}
        for name, secret in (("redis", PASSWORD), ("sentinel", SENTINELS_OWN)):
            files[name] = tmp_path / name
            files[name].write_text(f"{secret}\n")
        for sentinel in locked.sentinels:
            rights = ("-@all", "+sentinel|get-master-addr-by-name")
            sentinel.ask("ACL", "SETUSER", "asker", "on", ">asking", *rights)
        opened = (
            of_sentinels(
                f"redis+sentinel://:{PASSWORD}@{hosts}?sentinel_username=asker&sentinel_password=asking", moto
            ),
            of_sentinels(f"redis+sentinel://:{PASSWORD}@{hosts}?sentinel_password={SENTINELS_OWN}", moto),
            replace(
                of_sentinels(f"redis+sentinel://{hosts}?sentinel_password_file={files['sentinel']}", moto),
                redis_password_file=files["redis"],
            ),
        )
        for settings in opened:
            store = RedisRegistry(settings)
            store.merge("conv", 4)
            assert store.read_unverified(["conv"]) == {"conv": 4}
            store.close()
        wrong = RedisRegistry(of_sentinels(f"redis+sentinel://:{PASSWORD}@{hosts}?sentinel_password=wrong", moto))
        with pytest.raises(AccessDeniedError) as refused:
            wrong.primaries()
        shown = f"{refused.value.message} {refused.value.hint} {refused.value!r} {refused.value.__cause__}"
        assert not [secret for secret in (PASSWORD, SENTINELS_OWN, "wrong ") if secret in shown]
        assert "sentinel_password_file" in refused.value.hint
        assert "redis_password_file" not in refused.value.hint
        wrong.close()
    finally:
        locked.stop()
