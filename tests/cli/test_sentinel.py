"""The commands over sentinels: before and after a failover, and the service across it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saltctl.detection.write_meter import WriteMeter
from saltctl.local.servers import LocalMoto, valkey_binary
from saltctl.settings import Settings
from saltctl.stores.heat.stream import HeatStream
from tests.cli.conftest import Runner, variables_of
from tests.cli.detection.test_service import Running
from tests.support.clusters import LocalSentinels


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[LocalSentinels]:
    """A primary with a replica, and two sentinels."""
    found = LocalSentinels(tmp_path / "sentinels", valkey_binary())
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture
def settings(sentinels: LocalSentinels, moto: LocalMoto, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings that name the sentinels, in the environment, too."""
    mine = uuid.uuid4().hex[:8]
    settings = Settings(
        registry_id="feed0123456789ab",
        redis_url=sentinels.url,
        buckets=64,
        backup_table=f"backup-{mine}",
        messages_table=f"messages-{mine}",
        aws_region="us-east-1",
        aws_endpoint_url=moto.url,
        lookup_timeout=5.0,
        breaker_seconds=0.0,
    )
    for name, value in variables_of(settings).items():
        monkeypatch.setenv(name, value)
    return settings


@pytest.mark.slow
def test_the_service_and_every_command_follow_a_failover(
    sentinels: LocalSentinels, settings: Settings, saltctl: Runner
) -> None:
    """The service verifies the primary, raises by a meter's report, and verifies the promoted replica by itself."""

    def ask(*words: str) -> Any:
        outcome = saltctl(*words, "-o", "json")
        assert outcome.code in (0, 3), (words, outcome.err)
        return outcome.json

    ask("setup", "--messages")
    one = Running()
    try:
        assert one.wait_for("rebuilding")["primaries"] == 1
        one.wait_for("rebuilt")
        with WriteMeter(HeatStream(settings), server="app", clock=lambda: time.time() - 1, thread=False) as meter:
            meter.record("hot", 2000)
        assert one.wait_for("raised")["after"] == 4
        assert ask("registry", "get", "hot")[0]["source"] == "redis"
        sentinels.fail_over()
        one.wait_for("rebuilt")
        found = ask("registry", "get", "hot")[0]
        assert (found["max_n"], found["source"]) == (4, "redis")
        checks = {check["name"]: check["status"] for check in ask("doctor")["checks"]}
        assert {checks[name] for name in ("redis-reachable", "redis-role", "redis-verified", "stream-consumers")} == {
            "ok"
        }
        status = ask("status")
        assert status["registry"]["error"] is None
        assert status["service"]["error"] is None
        assert ask("compare")["in_sync"] == 1
        one.process.terminate()
        one.wait_for("stopped")
    finally:
        one.end()
