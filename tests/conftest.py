"""Real servers for tests: each test starts its own on free loopback ports, and stops them."""

from __future__ import annotations

import gc
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from saltctl.local.servers import LocalMoto, LocalRedis, dummy_credentials, valkey_binary
from saltctl.rebuild.events import Event, RebuildReport
from saltctl.rebuild.options import RebuildOptions
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.registry import RedisRegistry
from tests.support import Rebuilder, rebuild_job
from tests.support.quick_moto import QuickMoto

TEST_BUCKETS = 64
TEST_REGISTRY_ID = "feed0123456789ab"

# No deadline, because the machine may be busy, and no database on disk.
hypothesis_settings.register_profile("saltctl", deadline=None, database=None)
hypothesis_settings.load_profile("saltctl")

# Some machines, containers above all, switch compiled bytecode off. Workers and commands would then compile the same
# modules again and again, which takes a tenth of the run.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Shells start background processes with SIGINT ignored, and children would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
# nohup does so with SIGHUP.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_xdist_auto_num_workers() -> int:
    """Return the number of cores plus two: tests wait for servers and timeouts half of the time."""
    return (os.cpu_count() or 1) + 2


def pytest_collection_finish() -> None:
    """Let Python look for garbage less often, and not at what was imported: it would take a tenth of the run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, *gc.get_threshold()[1:])


@pytest.fixture(autouse=True)
def _no_garbage_of_other_tests(request: pytest.FixtureRequest) -> None:
    """A test that nests to the limit of the stack finalizes no client of another test there: that would fail, too."""
    if "deep" in request.node.name:
        gc.collect()


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the tests' home directories."""
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch, homes: Path) -> None:
    """No test sees the user's configuration or credentials. Its home is its own, and does not exist yet."""
    for name in list(os.environ):
        if name.startswith(("SALTCTL_", "AWS_", "_SALTCTL")) and name != "AWS_CA_BUNDLE":
            monkeypatch.delenv(name)
    for name, value in dummy_credentials().items():
        monkeypatch.setenv(name, value)
    home = homes / uuid.uuid4().hex  # not in tmp_path: thousands of tests need none, and it takes 10 ms
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "aws"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "credentials"))


@pytest.fixture(scope="session")
def moto() -> Iterator[LocalMoto]:
    """DynamoDB and CloudWatch by moto's server, a separate process; each test has its own tables."""
    server = QuickMoto()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_binary() -> Path:
    """The Redis server of the tests; ``tests/stores`` runs each test on every available server."""
    return valkey_binary()


@pytest.fixture
def redis_server(redis_binary: Path, tmp_path: Path) -> Iterator[LocalRedis]:
    """A Redis process of the test's own, with its AOF on; the test may kill and damage it."""
    server = LocalRedis(tmp_path / "redis", binary=redis_binary)
    server.start()
    yield server
    server.kill()  # nothing reads its data any more; SIGTERM would take a tenth of a second


@pytest.fixture
def settings(redis_server: LocalRedis, moto: LocalMoto) -> Settings:
    """Settings for the test's own Redis and tables."""
    suffix = uuid.uuid4().hex[:8]
    return Settings(
        redis_url=redis_server.url,
        buckets=TEST_BUCKETS,
        registry_id=TEST_REGISTRY_ID,
        backup_table=f"backup-{suffix}",
        messages_table=f"messages-{suffix}",
        aws_region="us-east-1",
        aws_endpoint_url=moto.url,
        lookup_timeout=2.0,  # a busy machine may need more than the default of 0.25
        breaker_seconds=0.0,
        actor="tester@test",
    )


@pytest.fixture
def backup(settings: Settings) -> BackupTable:
    """The backup table, created and empty."""
    table = BackupTable(settings)
    table.create()
    return table


@pytest.fixture
def store(settings: Settings) -> Iterator[RedisRegistry]:
    """The registry in Redis; it is not verified yet, like every new server."""
    registry = RedisRegistry(settings)
    yield registry
    registry.close()


@pytest.fixture
def registry(settings: Settings, store: RedisRegistry, backup: BackupTable) -> Registry:
    """A registry with Redis and the backup; Redis is not verified yet."""
    return Registry.over(settings, store, backup)


@pytest.fixture
def rebuild(settings: Settings, store: RedisRegistry, backup: BackupTable) -> Rebuilder:
    """Rebuild now and return the report: ``rebuild(segments=2)``."""

    def run(segments: int = 2, dry_run: bool = False, page_limit: int | None = None) -> RebuildReport:
        options = RebuildOptions(segments=segments, dry_run=dry_run, page_limit=page_limit)
        events: list[Event] = list(rebuild_job(settings, store, backup, options).run())
        report = events[-1]
        assert isinstance(report, RebuildReport)
        return report

    return run
