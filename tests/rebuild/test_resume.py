"""Interrupted rebuilds: a later rebuild resumes from the checkpoint, or starts over if the checkpoint is not valid."""

from __future__ import annotations

import multiprocessing
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from saltctl.errors import (
    AwsUnavailableError,
    BackupLostError,
    CheckpointRefusedError,
    LeaseHeldError,
    RebuildBrokenError,
    RedisUnavailableError,
)
from saltctl.local.servers import LocalRedis
from saltctl.rebuild.checkpoint import Checkpoint, ResumeMode, load_checkpoint
from saltctl.rebuild.events import (
    CheckpointNotSaved,
    CheckpointRejected,
    Event,
    RebuildProgress,
    RebuildReport,
    RebuildResumed,
)
from saltctl.rebuild.lease import LEASE_EXPIRY
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.contracts.registry import Raise
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.saved_state import encode
from tests.rebuild.harness import ENTRIES, At, Opener, WatchedRegistry, drive, put
from tests.rebuild.killed_rebuild import WARM, rebuild_until
from tests.support.aws_stub import AwsStub, refusal

ROUNDS = 50
POINTS = 16
"""Points of a whole rebuild of ENTRIES in pages of five, about; a rebuild that is killed later is not killed."""


@pytest.fixture
def job(settings: Settings, filled: BackupTable) -> Iterator[Opener]:
    """Makes a rebuild that was not started, with a checkpoint after every page of five."""
    stores: list[RedisRegistry] = []

    def make(
        at: At = lambda point: None,
        *,
        now: Callable[[], float] = time.time,
        from_backup: BackupTable = filled,
        **options: Any,
    ) -> Rebuild:
        checkpoint = options.pop("checkpoint", from_backup.checkpoint)
        stores.append(WatchedRegistry(options.pop("settings", settings), at))
        wanted = {"segments": 1, "page_limit": 5, "batch": 1, "checkpoint_every": 0.0, "progress_every": 0.0} | options
        return Rebuild(
            settings,
            stores[-1],
            from_backup,
            RebuildOptions(**wanted),
            checkpoint=checkpoint,
            now=now,
        )

    yield make
    for store in stores:
        store.close()


def interrupt(rebuild: Rebuild, pages: int = 2) -> None:
    """Let it come so far, and end it as SIGTERM does."""
    running = rebuild.run()
    seen = 0
    for event in running:
        seen += isinstance(event, RebuildProgress)
        if seen == pages:
            break
    running.close()


@pytest.fixture
def interrupted(job: Opener, backup: BackupTable) -> Checkpoint:
    """The checkpoint of a rebuild that was interrupted half-way."""
    interrupt(job())
    found = load_checkpoint(backup.checkpoint)
    assert found is not None
    assert 0 < found.merged.entries < len(ENTRIES)
    return found


def finish(rebuild: Rebuild) -> tuple[RebuildReport, list[Event]]:
    """Run it to its end."""
    *events, report = rebuild.run()
    assert isinstance(report, RebuildReport)
    return report, events


def held(store: RedisRegistry, wanted: dict[str, int]) -> dict[str, Entry | None]:
    """Return the results of lookups in Redis."""
    return dict(zip(wanted, store.lookup(store.primaries()[0], list(wanted)), strict=True))


# Killed, and taken up again.


@pytest.mark.long
@pytest.mark.exhaustive
@pytest.mark.timeout(400)
def test_a_rebuild_killed_at_random_is_resumed(
    filled: BackupTable,
    settings: Settings,
    store: RedisRegistry,
    registry: Registry,
    admin: Any,
    job: Opener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fifty times SIGKILL: the fence is never set too early, and a resumed rebuild restores all entries and raises."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201  pytest shows it where this fails
    chosen = random.Random(seed)
    monkeypatch.setenv(WARM, "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([rebuild_until.__module__])
    wanted = dict(ENTRIES)
    now, resumed, killed = time.time(), 0, 0
    for number in range(ROUNDS):
        # Anywhere, and evenly: each round has a fiftieth of the way to itself, so that chance leaves no stretch out.
        at = 1 + int((number + chosen.random()) * (POINTS - 1) / ROUNDS)
        child = context.Process(target=rebuild_until, args=(settings, at, now))
        child.start()
        child.join(60)
        killed += child.exitcode == -9
        assert child.exitcode in (0, -9)
        if set(store.verified().values()) == {True}:
            # Only after its last act, and then with everything in it.
            assert held(store, wanted) == wanted
        # A raise that nobody's scan will see: its conversation may be on a page that was read already.
        conversation_id = chosen.choice(list(ENTRIES))
        wanted[conversation_id] = max(wanted[conversation_id] * 2, 2) if number % 10 == 0 else wanted[conversation_id]
        registry.raise_to(conversation_id, wanted[conversation_id])
        now += 2 * LEASE_EXPIRY
        report, events = finish(job(now=lambda: now))  # noqa: B023  used at once
        resumed += any(isinstance(event, RebuildResumed) for event in events)
        assert report.verified
        assert (report.entries, report.skipped) == (len(ENTRIES), 0)
        assert held(store, wanted) == wanted
        assert filled.checkpoint.load() is None
        admin.execute_command("FLUSHALL")
        admin.execute_command("SCRIPT", "FLUSH")
        now += 2 * LEASE_EXPIRY
    print(f"{killed} were killed, {resumed} went on from a checkpoint")  # noqa: T201  as above
    assert killed >= ROUNDS // 2
    assert resumed >= ROUNDS // 10


@pytest.mark.long
@pytest.mark.exhaustive
@pytest.mark.timeout(400)
def test_redis_killed_at_random_and_restarted_empty(
    filled: BackupTable,
    store: RedisRegistry,
    redis_server: LocalRedis,
    job: Opener,
) -> None:
    """Fifty times: no entry is missing after the next rebuild, at whatever point Redis was killed."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201  pytest shows it where this fails
    chosen = random.Random(seed)
    anew = 0
    for _ in range(ROUNDS):
        at, passed = chosen.randrange(1, POINTS), count(1)

        def strike(point: str, at: int = at, passed: Iterator[int] = passed) -> None:
            if next(passed) == at:
                redis_server.kill()
                redis_server.delete_aof()
                redis_server.start()

        try:
            for event in job(strike).run():
                strike(type(event).__name__)
        except (RedisUnavailableError, RebuildBrokenError):
            assert set(store.verified().values()) == {False}
        else:
            assert set(store.verified().values()) == {at >= next(passed)}
        left = filled.checkpoint.load() is not None
        report, events = finish(job())
        assert not any(isinstance(event, RebuildResumed) for event in events)
        assert any(isinstance(event, CheckpointRejected) for event in events) is left
        anew += left
        assert report.verified
        assert held(store, ENTRIES) == ENTRIES
    assert anew >= ROUNDS // 10


@pytest.mark.slow
def test_a_resumed_rebuild_reads_only_the_rest(interrupted: Checkpoint, job: Opener, filled: BackupTable) -> None:
    """The report counts the whole rebuild; raises that were half done before it broke are completed at its end."""
    report, events = finish(job())
    assert [event for event in events if isinstance(event, RebuildResumed)] == [
        RebuildResumed(interrupted.written, interrupted.merged.entries)
    ]
    progress = [event.entries for event in events if isinstance(event, RebuildProgress)]
    assert min(progress) > interrupted.merged.entries
    assert (report.resumed, report.entries) == (True, len(ENTRIES))
    # What was on its way to Redis at the end is found there already.
    assert report.restored + 5 >= len(ENTRIES)


@pytest.mark.slow
def test_half_done_raises_survive_an_interruption(backup: BackupTable, job: Opener) -> None:
    """They are on the checkpoint: their page will not be read again."""
    for conversation_id, n in ENTRIES.items():
        backup.raise_max_n(conversation_id, Raise(2 * n, "2024-05-01T12:00:00Z", "somebody", ""))
    interrupt(job(), pages=3)
    report, _ = finish(job())
    assert report.resumed
    assert report.committed == len(ENTRIES)
    assert all(entry.write_n == entry.max_n for entry in backup.get_many(list(ENTRIES)).values())


# A checkpoint that does not hold.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("happens", "why"),
    [
        ("restart", "was restarted since"),
        ("flush", "the token is gone"),
        ("bucket", "the token is gone"),
        ("rename", "changed its replication id"),
        ("another rebuild", "another rebuild has begun"),
        ("segments", "it has 1 segments"),
        ("table", "another backup table"),
        ("damage", "damaged"),
        ("type", "damaged"),
    ],
)
def test_an_invalid_checkpoint_is_refused_with_the_reason(
    interrupted: Checkpoint,
    happens: str,
    why: str,
    backup: BackupTable,
    job: Opener,
    store: RedisRegistry,
    redis_server: LocalRedis,
    admin: Any,
) -> None:
    """--resume fails with the reason; without it the rebuild reports the reason, starts over and completes."""
    options: dict[str, Any] = {}
    match happens:
        case "restart":
            redis_server.kill()
            redis_server.start()
        case "flush":
            admin.execute_command("FLUSHALL")
        case "bucket":
            admin.delete(store.key_of("conv_00"))
        case "rename":
            admin.execute_command("REPLICAOF", "127.0.0.1", "1")
            admin.execute_command("REPLICAOF", "NO", "ONE")
        case "another rebuild":
            finish(job(checkpoint=None))
        case "segments":
            options = {"segments": 2}
        case "table":
            other = replace(interrupted, scope=replace(interrupted.scope, table="arn other"))
            backup.checkpoint.save(encode(other))
        case "damage":
            backup.checkpoint.save(encode(interrupted)[:-9])
        case "type":
            put(backup, {"conversation_id": {"S": "#checkpoint"}, "rebuild_checkpoint": {"N": "1"}})
    before = store.verified()
    with pytest.raises(CheckpointRefusedError, match=why) as refused:
        finish(job(resume=ResumeMode.ALWAYS, **options))
    assert "--restart" in refused.value.hint
    assert store.verified() == before
    report, events = finish(job(**options))
    (anew,) = [event for event in events if isinstance(event, CheckpointRejected)]
    assert why in anew.reason
    assert not report.resumed
    assert held(store, ENTRIES) == ENTRIES
    assert backup.checkpoint.load() is None


@pytest.mark.slow
def test_a_table_that_was_created_again_is_another_one(
    job: Opener, behind_stub: BackupTable, stub: AwsStub, store: RedisRegistry
) -> None:
    """A restored table has its old name, its ARN and an old checkpoint, and entries that this checkpoint skips.

    It is refused before the checkpoint is read; after a recovery, which claims it, the checkpoint is refused.
    """
    table_ids = ["of the first"]

    def describe(operation: str, request: dict[str, Any]) -> Any:
        arn = f"arn:aws:dynamodb:us-east-1:123456789012:table/{behind_stub.name}"
        if operation == "DescribeTable":
            return 200, {"Table": {"TableName": behind_stub.name, "TableArn": arn, "TableId": table_ids[-1]}}
        return None

    stub.rule = describe
    behind_stub.registry.claim("of the first", replaces="")
    interrupt(job(from_backup=behind_stub))
    table_ids.append("of the restored one")
    with pytest.raises(BackupLostError):
        finish(job(from_backup=behind_stub, resume=ResumeMode.ALWAYS))
    behind_stub.registry.claim("of the restored one", replaces="")
    with pytest.raises(CheckpointRefusedError, match="created again"):
        finish(job(from_backup=behind_stub, resume=ResumeMode.ALWAYS))
    report, _ = finish(job(from_backup=behind_stub))
    assert not report.resumed
    assert held(store, ENTRIES) == ENTRIES


@pytest.mark.slow
def test_resuming_without_a_checkpoint_fails(job: Opener, store: RedisRegistry) -> None:
    """--resume says so, and touches nothing."""
    with pytest.raises(CheckpointRefusedError, match="there is no checkpoint"):
        finish(job(resume=ResumeMode.ALWAYS))
    assert set(store.verified().values()) == {False}


@pytest.mark.slow
def test_restart_starts_over(interrupted: Checkpoint, job: Opener, backup: BackupTable) -> None:
    """Even if the checkpoint is valid."""
    report, events = finish(job(resume=ResumeMode.NEVER))
    assert not [event for event in events if isinstance(event, RebuildResumed | CheckpointRejected)]
    assert not report.resumed
    assert backup.checkpoint.load() is None


@pytest.mark.slow
def test_a_dry_run_does_not_touch_a_checkpoint(interrupted: Checkpoint, job: Opener, backup: BackupTable) -> None:
    """It does not resume, delete or write a checkpoint."""
    before = backup.checkpoint.load()
    report, _ = finish(job(dry_run=True))
    assert (report.entries, report.resumed) == (len(ENTRIES), False)
    assert backup.checkpoint.load() == before


@pytest.mark.slow
def test_two_machines_rebuild_at_once(job: Opener, store: RedisRegistry, backup: BackupTable) -> None:
    """One is silent so long that another one takes over and verifies: the first one fails, with its checkpoint."""
    first = job(heartbeat_every=1e9).run()
    while not isinstance(next(first), RebuildProgress):
        pass
    later = time.time() + 2 * LEASE_EXPIRY
    finish(job(resume=ResumeMode.NEVER, now=lambda: later))
    with pytest.raises(RebuildBrokenError, match="has begun since"):
        list(first)
    assert backup.checkpoint.load() is None
    assert held(store, ENTRIES) == ENTRIES
    assert set(store.verified().values()) == {True}


@pytest.mark.slow
def test_a_lost_lease_leaves_the_checkpoint_of_its_new_holder(job: Opener, backup: BackupTable) -> None:
    """A rebuild that learns from its heartbeat that another one took over does not save another checkpoint."""
    first = job(heartbeat_every=0.0, checkpoint_every=1e9).run()
    while not isinstance(next(first), RebuildProgress):
        pass
    later = time.time() + 2 * LEASE_EXPIRY
    second = job(resume=ResumeMode.NEVER, now=lambda: later).run()
    while backup.checkpoint.load() is None:
        next(second)
    saved = backup.checkpoint.load()
    # The heartbeat or the check of the note, whichever is due first.
    with pytest.raises((LeaseHeldError, RebuildBrokenError), match=r"taken over|another rebuild"):
        list(first)
    assert backup.checkpoint.load() == saved
    second.close()


# A checkpoint that cannot be saved.


def not_saved(events: list[Event]) -> list[str]:
    """Return the reasons of the failed saves that were reported."""
    return [event.reason for event in events if isinstance(event, CheckpointNotSaved)]


@pytest.mark.slow
@pytest.mark.parametrize("code", ["ThrottlingException", "AccessDeniedException", "ItemCollectionSizeLimitExceeded"])
def test_a_failed_save_does_not_stop_a_rebuild(
    job: Opener, store: RedisRegistry, behind_stub: BackupTable, stub: AwsStub, code: str
) -> None:
    """The failure is reported once, and the rebuild completes."""
    stub.rule = lambda operation, request: refusal(code) if is_save(operation, request) else None
    report, events = finish(job(from_backup=behind_stub))
    assert len(not_saved(events)) == 1
    assert report.verified
    assert held(store, ENTRIES) == ENTRIES
    assert behind_stub.checkpoint.load() is None


@pytest.mark.slow
def test_a_checkpoint_that_is_too_large_is_not_saved(job: Opener, store: RedisRegistry, backup: BackupTable) -> None:
    """An item has at most 400 KB. The rebuild reports it once, and completes its raises."""
    ids = [f"{number:03}{'x' * 1_900}" for number in range(200)]
    for start in range(0, len(ids), 25):
        put(backup, *({"conversation_id": {"S": i}, "max_n": {"N": "4"}} for i in ids[start : start + 25]))
    report, events = finish(job(page_limit=200))
    (reason,) = not_saved(events)
    assert re.fullmatch(r"its 3[5-9]\d,\d{3} bytes do not fit into an item of the backup table", reason)
    assert (report.verified, report.committed) == (True, len(ids))
    assert backup.checkpoint.load() is None


@pytest.mark.slow
@pytest.mark.parametrize("every", [0.0, 1e9])
def test_an_outage_of_aws_keeps_the_last_checkpoint(
    job: Opener, behind_stub: BackupTable, backup: BackupTable, stub: AwsStub, every: float
) -> None:
    """The rebuild does not try to save one more at its end, which would take long; a later one resumes."""
    passed: list[str] = []
    saves: list[bool] = []

    def rule(operation: str, request: dict[str, Any]) -> Any:
        down = passed.count("RebuildProgress") >= 6
        if is_save(operation, request):
            saves.append(down)
        return refusal("InternalServerError", 500) if down else None

    stub.rule = rule
    with pytest.raises(AwsUnavailableError):
        drive(job(from_backup=behind_stub, page_limit=1, checkpoint_every=every), passed.append)
    assert (False in saves, load_checkpoint(backup.checkpoint) is not None) == (every == 0.0, every == 0.0)
    assert every == 0.0 or not saves
    report, _ = finish(job(now=lambda: time.time() + 2 * LEASE_EXPIRY))
    assert (report.resumed, report.verified) == (every == 0.0, True)


def is_save(operation: str, request: dict[str, Any]) -> bool:
    """Whether a request saves a checkpoint."""
    return operation == "UpdateItem" and request["UpdateExpression"].startswith("SET rebuild_checkpoint")
