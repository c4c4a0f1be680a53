"""``saltctl rebuild``: its report, its narration and its exit codes."""

from __future__ import annotations

import time

import pytest

from saltctl.local import LocalRedis
from saltctl.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.backup import KEY, DynamoBackup
from saltctl.stores.contracts import Raise
from saltctl.stores.registry import RedisRegistry
from tests.cli.conftest import Runner


def test_a_rebuild_verifies_and_reports(
    saltctl: Runner, configured: Settings, registry: Registry, redis_server: LocalRedis
) -> None:
    """After losing everything Redis is rebuilt: every entry is back, and lookups come from it again."""
    for number in range(20):
        registry.raise_to(f"conv_{number}", 4)
    redis_server.kill()
    redis_server.lose_aof()
    redis_server.start()
    report = saltctl("rebuild", "-o", "json").json
    assert (report["entries"], report["raised"], report["unchanged"], report["skipped"]) == (20, 20, 0, 0)
    assert (report["verified"], report["nodes"], report["dry_run"], report["resumed"]) == (True, 1, False, False)
    assert registry.lookup("conv_7").source == "redis"
    again = saltctl("rebuild", "-o", "json").json
    assert (again["raised"], again["unchanged"]) == (0, 20)


def test_a_dry_run_says_what_would_change(
    saltctl: Runner, configured: Settings, registry: Registry, store: RedisRegistry, backup: DynamoBackup
) -> None:
    """A dry run counts what Redis lacks, and leaves Redis, fence and lease as they are."""
    registry.raise_to("conv", 4)
    backup.raise_max_n("other", Raise(8, "2026-01-01T00:00:00Z", "x", ""))
    report = saltctl("rebuild", "--dry-run", "-o", "json").json
    assert (report["entries"], report["raised"], report["verified"], report["dry_run"]) == (2, 1, False, True)
    assert store.raw(["other"]) == {"other": None}
    assert not any(store.verified().values())
    assert backup.holder() is None


def test_damaged_items_are_named_and_exit_4(saltctl: Runner, configured: Settings, backup: DynamoBackup) -> None:
    """Items that cannot be used are counted and named, safely; the rest is rebuilt."""
    backup.raise_max_n("good", Raise(4, "2026-01-01T00:00:00Z", "x", ""))
    for conversation_id, item in (
        ("no_n", {}),
        ("text\x1b[31m", {"max_n": {"S": "4"}}),
        ("minus", {"max_n": {"N": "-4"}}),
    ):
        backup.client.put_item(TableName=configured.backup_table, Item={KEY: {"S": conversation_id}, **item})
    outcome = saltctl("rebuild", "-o", "json")
    assert outcome.code == 4
    assert (outcome.json["entries"], outcome.json["skipped"], outcome.json["verified"]) == (1, 3, True)
    for named in ("no_n", "text\\x1b[31m", "minus"):
        assert named in outcome.err
    assert "\x1b" not in outcome.err


def test_two_rebuilds_at_once(saltctl: Runner, configured: Settings, backup: DynamoBackup) -> None:
    """While somebody holds the lease a rebuild is exit 75 and names the holder."""
    assert backup.take("other", time.time(), host="app-17", pid=4242, expiry=30) is None
    outcome = saltctl("rebuild", "-o", "json")
    assert (outcome.code, outcome.error["code"]) == (75, "lease_held")
    assert "4242" in outcome.error["message"]
    assert "app-17" in outcome.error["message"]


def test_a_dead_holder_is_taken_over(saltctl: Runner, configured: Settings, backup: DynamoBackup) -> None:
    """A lease without a heartbeat for half a minute belongs to nobody."""
    assert backup.take("other", time.time() - 31, host="app-17", pid=4242, expiry=30) is None
    assert saltctl("rebuild").code == 0
    assert backup.holder() is None


def test_waiting_for_redis_has_an_end(saltctl: Runner, configured: Settings, redis_server: LocalRedis) -> None:
    """``--wait-redis`` gives up after its duration: exit 124 and what to do."""
    redis_server.kill()
    outcome = saltctl("rebuild", "--wait-redis", "300ms", "-o", "json")
    assert (outcome.code, outcome.error["code"]) == (124, "timeout")
    assert "--wait-redis" in outcome.error["hint"]


@pytest.mark.parametrize("segments", ["0", "-1", "1000001"])
def test_impossible_segments(segments: str, saltctl: Runner, configured: Settings) -> None:
    """A segment count that DynamoDB would refuse is a usage error."""
    assert saltctl("rebuild", f"--segments={segments}").code == 2


def test_a_table_with_other_keys_is_refused(
    saltctl: Runner, configured: Settings, backup: DynamoBackup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pointing at the messages table by mistake is exit 78 before anything is touched."""
    monkeypatch.setenv("SALTCTL_BACKUP_TABLE", configured.messages_table)
    assert saltctl("setup", "--messages").code == 0
    monkeypatch.setenv("SALTCTL_BACKUP_TABLE", configured.messages_table)
    backup.client.create_table(
        TableName="other-keys",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "N"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    monkeypatch.setenv("SALTCTL_BACKUP_TABLE", "other-keys")
    outcome = saltctl("rebuild", "-o", "json")
    assert outcome.code == 78
    assert "id (N, HASH)" in outcome.error["message"]


def test_a_rebuild_that_is_not_needed_reads_nothing(
    saltctl: Runner, configured: Settings, registry: Registry, redis_server: LocalRedis
) -> None:
    """``--if-needed`` rebuilds an unverified Redis, leaves a verified one alone, and fails where there is none."""
    registry.raise_to("conv", 4)
    needed = saltctl("rebuild", "--if-needed", "-o", "json").json
    assert (needed["entries"], needed["verified"]) == (1, True)
    again = saltctl("rebuild", "--if-needed", "-o", "json").json
    assert (again["entries"], again["consumed_rcu"], again["nodes"], again["verified"]) == (0, 0, 1, True)
    redis_server.kill()
    assert saltctl("rebuild", "--if-needed").code == 69
