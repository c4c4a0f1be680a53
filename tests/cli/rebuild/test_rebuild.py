"""``saltctl rebuild``: its report, its narration and its exit codes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from saltctl.local.servers import LocalRedis
from saltctl.rebuild.checkpoint import load_checkpoint
from saltctl.rebuild.events import RebuildProgress
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_items import KEY
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.rebuild_items import CheckpointItem
from saltctl.stores.contracts.registry import Raise
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.times import iso_utc
from tests.cli.conftest import Runner
from tests.cli.terminal import run_on_a_terminal


@pytest.mark.slow
def test_a_rebuild_verifies_and_reports(
    saltctl: Runner, configured: Settings, registry: Registry, redis_server: LocalRedis
) -> None:
    """After losing everything Redis is rebuilt: every entry is back, and lookups come from it again."""
    for number in range(20):
        registry.raise_to(f"conv_{number}", 4)
    redis_server.kill()
    redis_server.delete_aof()
    redis_server.start()
    report = saltctl("rebuild", "-o", "json").json
    assert (report["entries"], report["restored"], report["unchanged"], report["skipped"]) == (20, 20, 0, 0)
    assert (report["verified"], report["primaries"], report["dry_run"], report["resumed"]) == (True, 1, False, False)
    assert registry.lookup("conv_7").source == "redis"
    again = saltctl("rebuild", "-o", "json").json
    assert (again["restored"], again["unchanged"]) == (0, 20)


def test_a_dry_run_reports_missing_entries(
    saltctl: Runner, configured: Settings, registry: Registry, store: RedisRegistry, backup: BackupTable
) -> None:
    """A dry run counts missing entries and changes neither Redis nor fence nor lease."""
    registry.raise_to("conv", 4)
    backup.raise_max_n("other", Raise(8, "2026-01-01T00:00:00Z", "x", ""))
    report = saltctl("rebuild", "--dry-run", "-o", "json").json
    assert (report["entries"], report["restored"], report["verified"], report["dry_run"]) == (2, 1, False, True)
    assert store.read_unverified(["other"]) == {"other": None}
    assert not any(store.verified().values())
    assert backup.lease.holder() is None


@pytest.mark.slow
def test_damaged_items_are_reported_with_exit_4(saltctl: Runner, configured: Settings, backup: BackupTable) -> None:
    """Items that cannot be used are counted and named, safely; the rest is rebuilt and verified."""
    backup.raise_max_n("good", Raise(4, "2026-01-01T00:00:00Z", "x", ""))
    for conversation_id, item in (
        ("no_n", {}),
        ("text\x1b[31m", {"max_n": {"S": "4"}}),
        ("minus", {"max_n": {"N": "-4"}}),
    ):
        backup.client.put_item(TableName=configured.backup_table, Item={KEY: {"S": conversation_id}, **item})
    outcome = saltctl("rebuild", "-o", "json")
    assert outcome.code == 4
    assert (outcome.json["entries"], outcome.json["skipped"], outcome.json["verified"]) == (1, 3, False)
    for named in ("no_n", "text\\x1b[31m", "minus"):
        assert named in outcome.told
    assert "\x1b" not in outcome.err


def test_two_rebuilds_at_once(saltctl: Runner, configured: Settings, backup: BackupTable) -> None:
    """While another process holds the lease, a rebuild exits 75 and names the holder."""
    assert backup.lease.acquire("other", time.time(), host="app-17", pid=4242, expiry=30) is None
    outcome = saltctl("rebuild", "-o", "json")
    assert (outcome.code, outcome.error["code"]) == (75, "lease_held")
    assert "4242" in outcome.error["message"]
    assert "app-17" in outcome.error["message"]


def test_a_dead_holder_is_taken_over(saltctl: Runner, configured: Settings, backup: BackupTable) -> None:
    """A lease without a heartbeat for half a minute is free."""
    assert backup.lease.acquire("other", time.time() - 31, host="app-17", pid=4242, expiry=30) is None
    assert saltctl("rebuild").code == 0
    assert backup.lease.holder() is None


@pytest.mark.slow
def test_waiting_for_redis_times_out(saltctl: Runner, configured: Settings, redis_server: LocalRedis) -> None:
    """``--wait-redis`` times out: exit 124 with a hint."""
    redis_server.kill()
    outcome = saltctl("rebuild", "--wait-redis", "300ms", "-o", "json")
    assert (outcome.code, outcome.error["code"]) == (124, "timeout")
    assert "--wait-redis" in outcome.error["hint"]


@pytest.mark.parametrize("segments", ["0", "-1", "1000001"])
def test_invalid_segment_counts(segments: str, saltctl: Runner, configured: Settings) -> None:
    """A segment count that DynamoDB would refuse is a usage error."""
    assert saltctl("rebuild", f"--segments={segments}").code == 2


def test_a_table_with_other_keys_is_refused(
    saltctl: Runner, configured: Settings, backup: BackupTable, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.slow
def test_an_unneeded_rebuild_reads_nothing(
    saltctl: Runner, configured: Settings, registry: Registry, redis_server: LocalRedis
) -> None:
    """``--if-needed`` rebuilds an unverified Redis, skips a verified one, and fails if Redis is down."""
    registry.raise_to("conv", 4)
    needed = saltctl("rebuild", "--if-needed", "-o", "json").json
    assert (needed["entries"], needed["verified"]) == (1, True)
    again = saltctl("rebuild", "--if-needed", "-o", "json").json
    assert (again["entries"], again["consumed_rcu"], again["primaries"], again["verified"]) == (0, 0, 1, True)
    assert saltctl("rebuild", "--if-needed", "-o", "table").out.startswith(
        "Redis was verified already: nothing to do\n"
    )
    redis_server.kill()
    assert saltctl("rebuild", "--if-needed").code == 69


@pytest.fixture
def interrupted(configured: Settings, backup: BackupTable, store: RedisRegistry) -> CheckpointItem:
    """The checkpoint of an interrupted rebuild of twenty conversations."""
    for number in range(20):
        backup.raise_max_n(f"conv_{number}", Raise(4, "2026-01-01T00:00:00Z", "x", ""))
        backup.commit_write_n(f"conv_{number}", 4)
    options = RebuildOptions(page_limit=3, batch=1, checkpoint_every=0.0, progress_every=0.0)
    running = Rebuild(configured, store, backup, options, checkpoint=backup.checkpoint).run()
    while not (isinstance(event := next(running), RebuildProgress) and event.entries > 5):
        pass
    running.close()
    assert backup.checkpoint.load() is not None
    return backup.checkpoint


@pytest.mark.slow
def test_a_valid_checkpoint_is_resumed_without_a_terminal(
    saltctl: Runner, interrupted: CheckpointItem, store: RedisRegistry
) -> None:
    """There is no prompt. A dry run keeps the checkpoint, the rebuild deletes it."""
    before = interrupted.load()
    assert saltctl("rebuild", "--dry-run", "-o", "json").json["resumed"] is False
    assert interrupted.load() == before
    report = saltctl("rebuild", "-o", "json").json
    assert (report["resumed"], report["verified"], report["entries"]) == (True, True, 20)
    assert interrupted.load() is None
    assert dict(store.entries()) == {f"conv_{number}": 4 for number in range(20)}


@pytest.mark.slow
@pytest.mark.parametrize(("option", "resumed"), [("--resume", True), ("--restart", False)])
def test_resume_and_restart_options(saltctl: Runner, interrupted: CheckpointItem, option: str, resumed: bool) -> None:
    """Resume, or start over; both verify Redis."""
    report = saltctl("rebuild", option, "-o", "json").json
    assert (report["resumed"], report["verified"], report["entries"]) == (resumed, True, 20)


@pytest.mark.slow
def test_resume_without_a_valid_checkpoint_is_refused(
    saltctl: Runner, interrupted: CheckpointItem, redis_server: LocalRedis
) -> None:
    """After a restart of Redis, and without a checkpoint: exit 6, the reason, and the command that starts over."""
    redis_server.kill()
    redis_server.start()
    refused = saltctl("rebuild", "--resume", "-o", "json")
    assert (refused.code, refused.error["code"]) == (6, "checkpoint_refused")
    assert "--restart" in refused.error["hint"]
    interrupted.delete()
    assert saltctl("rebuild", "--resume", "-o", "json").error["code"] == "checkpoint_refused"
    assert saltctl("rebuild", "--resume", "--restart").code == 2


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "resumed"), [("y\n", "yes"), ("n\n", "no")])
def test_a_terminal_prompts_to_resume(
    interrupted: CheckpointItem, answer: str, resumed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its time and how far it is; either answer ends in a verified Redis."""
    checkpoint = load_checkpoint(interrupted)
    assert checkpoint is not None
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    code, shown = run_on_a_terminal("rebuild", typed=answer, prompt=b"Resume it?")
    assert code == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    at = iso_utc(checkpoint.written, "seconds")
    assert f"interrupted at {at} after {checkpoint.merged.entries} entries. Resume it?" in shown.replace("\r\n", "")
    assert re.search(rf"resumed +{resumed}\b", shown)
    assert re.search(r"verified +yes\b", shown)


@pytest.mark.slow
def test_an_interruption_names_the_resume_command(
    saltctl: Runner, interrupted: CheckpointItem, redis_server: LocalRedis
) -> None:
    """An error names the command that resumes the rebuild if a checkpoint is kept."""
    redis_server.kill()
    outcome = saltctl("rebuild", "--max-rcu", "500", "--restart")
    assert outcome.code == 69
    assert "saltctl rebuild --max-rcu 500 --resume" in outcome.err


@pytest.mark.slow
def test_a_timeout_names_one_command(
    saltctl: Runner, interrupted: CheckpointItem, hanging_redis: Callable[[], None]
) -> None:
    """That which resumes from the checkpoint with more time, and no other one."""
    hanging_redis()
    outcome = saltctl("rebuild", "--timeout", "500ms", "--restart")
    assert outcome.code == 124
    assert outcome.err.count("saltctl rebuild") == 1
    assert "with a longer --timeout, or with none\n  try: saltctl rebuild --resume\n" in outcome.err


@pytest.mark.slow
def test_a_checkpoint_that_is_not_valid_is_not_offered(
    saltctl: Runner, interrupted: CheckpointItem, redis_server: LocalRedis
) -> None:
    """The error of ``--resume`` names ``--restart`` alone; a damaged checkpoint is not offered after another error."""
    outcome = saltctl("rebuild", "--resume", "--segments", "7")
    assert outcome.code == 6
    assert "--restart" in outcome.err
    assert "--resume" not in outcome.err
    interrupted.save("damaged")
    redis_server.kill()
    outcome = saltctl("rebuild")
    assert outcome.code == 69
    assert "--resume" not in outcome.err


@pytest.mark.slow
def test_the_checkpoint_of_a_rebuild_in_progress_is_not_offered(
    saltctl: Runner, interrupted: CheckpointItem, backup: BackupTable
) -> None:
    """While another process rebuilds, its checkpoint is not that of an interrupted rebuild: no prompt, no hint."""
    assert backup.lease.acquire("other", time.time(), host="app-17", pid=4242, expiry=30) is None
    outcome = saltctl("rebuild")
    assert outcome.code == 75
    assert "--resume" not in outcome.err
    code, shown = run_on_a_terminal("rebuild")
    assert code == 75
    assert "Resume it?" not in shown


@pytest.mark.slow
def test_a_dry_run_estimates_the_cost(saltctl: Runner, configured: Settings, backup: BackupTable) -> None:
    """A dry run estimates items, bytes, units, and, with a bound, the time; what is not counted yet is null."""
    size = backup.size()
    estimate = saltctl("rebuild", "--dry-run", "--max-rcu", "1", "-o", "json").json["estimate"]
    assert (estimate["items"], estimate["bytes"]) == (size.items or None, size.bytes or None)
    assert estimate["rcu"] == (-(-size.bytes // 4096) or None)
    assert estimate["seconds"] == estimate["rcu"]
    assert saltctl("rebuild", "--dry-run", "-o", "json").json["estimate"]["seconds"] is None
    assert saltctl("rebuild", "--max-rcu", "0").code == 2
