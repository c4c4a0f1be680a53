"""A lost backup: what refuses to work with it, and the recovery from the table, Redis and the messages."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from saltctl.errors import ConfigurationError, IncompleteError, RegistryExistedError
from saltctl.local.servers import LocalRedis
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.registry.discover import Discovered
from saltctl.registry.recovery.recover import Recovery
from saltctl.registry.recovery.recovery_plan import RecoveryReport
from saltctl.registry.registry import Registry
from saltctl.registry.setup import set_up
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.aws.registry_item import REGISTRY_ITEM_ID
from saltctl.stores.heat.service_state import Verification
from saltctl.stores.redis.registry import RedisRegistry
from tests.registry.lost_backup import World
from tests.support import rebuild_job
from tests.support.redis_servers import plain_client

pytestmark = pytest.mark.slow


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    """A verified registry."""
    world = World(settings)
    yield world
    world.history.close()
    world.registry.close()


@pytest.fixture
def admin(redis_server: LocalRedis) -> Iterator[Any]:
    """A plain client of the Redis."""
    client = plain_client(redis_server)
    yield client
    client.close()


# The table is lost.


def test_redis_that_was_verified_all_the_time_is_enough(world: World) -> None:
    """The table was deleted: its entries come from Redis, and the messages are not read."""
    old = world.backup.registry.id()
    world.delete_table()
    report = world.recover()
    assert (report.plan.table, report.plan.redis_verified, report.plan.messages) == ("missing", True, None)
    assert (report.from_redis, report.from_messages, report.skipped) == (2, 0, 0)
    assert (report.from_backup, report.entries) == (0, 2)
    assert report.rebuild is not None
    assert report.rebuild.verified
    assert report.registry_id not in ("", old)
    world.check()


def test_the_messages_show_what_redis_has_lost_too(world: World, admin: Any) -> None:
    """Table and Redis are both lost: every way of saltctl itself leads to the recovery, and none to an empty chat."""
    world.delete_table()
    admin.flushall()
    hints = world.refusals()
    assert all("saltctl recover" in hint or hint.startswith("readers miss nothing") for hint in hints)
    with pytest.raises(RegistryExistedError, match="salted messages, such as") as refused:
        world.set_up()
    assert refused.value.hint == "saltctl recover --dry-run"
    report = world.recover()
    assert report.plan.messages is not None
    assert (report.from_redis, report.from_messages) == (0, 2)
    world.check()


def test_entries_of_an_unverified_redis_are_used_and_the_messages_as_well(world: World, admin: Any) -> None:
    """One entry is left in a Redis that has lost a fence; the other one is discovered."""
    world.delete_table()
    for key in admin.keys("salt:r:*"):
        admin.hdel(key, "#fence", "conv_b")
    report = world.recover()
    assert (report.plan.redis_verified, report.from_redis, report.from_messages) == (False, 1, 1)
    world.check()


def test_a_table_without_its_identity_is_not_a_backup(world: World, admin: Any) -> None:
    """A table that somebody created anew under the name: it is refused at once, also by clients that run already."""
    world.restore([])
    admin.flushall()
    assert all("saltctl recover" in hint for hint in world.refusals())
    world.recover()
    world.check()


def test_a_restored_table_is_noticed(world: World, admin: Any) -> None:
    """The table went back to before the raise to 16; only the recovery makes it the backup again."""
    items = [item for item in world.items() if item["conversation_id"]["S"] != "conv_b"]
    world.restore(items)
    admin.flushall()
    world.backup.registry.forget_check()
    assert {hint for hint in world.refusals() if hint.startswith("saltctl recover")}
    report = world.recover()
    assert (report.plan.table, report.from_messages) == ("restored", 1)
    world.check()


def test_a_client_that_runs_follows_the_registry_to_its_new_id(world: World) -> None:
    """It was started before the loss. No restart and no setting is necessary."""
    settings = world.settings
    backup = BackupTable(settings)
    store = RedisRegistry(settings, registry_id=backup.registry.id)
    with Registry.over(settings, store, backup) as client:
        assert client.lookup("conv_a").source == "redis"
        world.delete_table()
        assert client.lookup("conv_a").source == "redis"
        world.recover()
        assert client.lookup("conv_a").max_n == 4
        assert client.lookup("conv_a").source == "redis"
        assert client.raise_to("conv_a", 8).committed
    assert world.registry.lookup("conv_a").max_n == 8


def test_the_setting_keeps_the_id(world: World, settings: Settings) -> None:
    """Servers that are set to an id work again without a change of their configuration."""
    registry_id = world.backup.registry.id()
    world.delete_table()
    world.settings = replace(world.settings, registry_id=registry_id)
    world.backup = BackupTable(world.settings)
    world.store = RedisRegistry(world.settings)
    assert world.recover().registry_id == registry_id


def test_a_dry_run_changes_nothing(world: World, admin: Any) -> None:
    """It shows the state of both sides, and the cost."""
    world.restore(world.items()[:1])
    admin.hdel("salt:r:0", "#fence")
    before = world.items()
    report = world.recover(dry_run=True)
    assert report.plan.table in ("restored", "unclaimed")
    assert report.plan.messages is not None
    assert report.plan.messages.items == 80
    assert report.rebuild is None
    assert world.items() == before


@pytest.mark.parametrize(("choice", "raised"), [("raise", 3), ("skip", 2)])
def test_conversations_that_may_be_salted_are_not_guessed(world: World, admin: Any, choice: str, raised: int) -> None:
    """``CONV#1`` may be an id or salt 1 of CONV: the table is not claimed before a person has decided."""
    for number in range(3):
        world.messages.put("CONV#1", f"2026-01-01T00:00:{number:02d}Z#m{number}", {})
    world.delete_table()
    admin.flushall()
    with pytest.raises(IncompleteError, match="too few messages") as refused:
        world.recover()
    assert "--unproven" in refused.value.hint
    assert not world.backup.registry.exists()
    job = world.recovery(RebuildOptions(segments=2), unproven=choice)
    *events, report = job.run(job.plan())
    assert [event.conversation_id for event in events if isinstance(event, Discovered)] == (
        ["CONV"] if choice == "skip" else []
    )
    assert isinstance(report, RecoveryReport)
    assert report.from_messages == raised
    world.check()
    # What was left out can be added later, although the table is intact and Redis verified.
    job = world.recovery(RebuildOptions(segments=2), unproven="raise")
    *_, report = job.run(job.plan())
    assert isinstance(report, RecoveryReport)
    assert report.from_messages == 3 - raised
    assert world.registry.lookup("CONV").max_n == 2


def test_a_plan_changes_nothing(world: World) -> None:
    """It is shown before the confirmation: the table is not created yet."""
    world.delete_table()
    plan = world.recovery(RebuildOptions()).plan()
    assert (plan.table, plan.redis_entries, plan.redis_verified, plan.use_redis) == ("missing", 2, True, True)
    assert world.backup.describe() is None


def test_two_recoveries_at_once(world: World, admin: Any) -> None:
    """Both find that the table is missing: one creates it, and the other one waits for the lease or is refused."""
    world.delete_table()
    jobs = [world.recovery(RebuildOptions(segments=2, lock_wait=30.0)) for _ in range(2)]
    plans = [job.plan() for job in jobs]
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda job, plan: list(job.run(plan))[-1], jobs, plans))
    assert all(isinstance(outcome, RecoveryReport) for outcome in outcomes)
    world.check()


@pytest.mark.parametrize("flushed", [True, False])
@pytest.mark.parametrize("stage", ["restore", "claim", "release"])
def test_a_recovery_that_dies_is_repeated(
    world: World, admin: Any, stage: str, flushed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies while it adds entries, before it claims the table, or before the rebuild: nothing uses the half of it.

    Before the rebuild, Redis still has the fences of the registry that was replaced. They are no other registry's.
    """
    world.delete_table()
    if flushed:
        admin.flushall()
    target: Any = {"restore": world.backup, "claim": world.backup.registry, "release": world.backup.lease}[stage]
    with monkeypatch.context() as patched:

        def die(*_: object, **__: object) -> None:
            raise SystemExit(stage)

        patched.setattr(target, stage, die)
        with pytest.raises(SystemExit):
            world.recover()
    if stage != "release" and flushed:
        assert any("recover" in hint or "setup" in hint for hint in world.refusals())
    if (holder := world.backup.lease.holder()) is not None:
        world.backup.lease.release(holder.owner)  # it would end 30 s after the last heartbeat
    world.recover()
    world.check()


def test_entries_that_reach_redis_late_are_added_after_the_lease_was_released(world: World) -> None:
    """A raise of the lost table reached Redis during the rebuild, and a heartbeat was due long ago."""
    old = world.backup.registry.id()
    world.delete_table()

    def merge_before_rebuild(*arguments: Any) -> Rebuild:
        with closing(RedisRegistry(world.settings, registry_id=lambda: old)) as store:
            store.merge("conv_late", 8, {"*"}, accept_unverified=True)
        return Rebuild(*arguments)

    recovery = world.recovery(RebuildOptions(heartbeat_every=0.0), new_rebuild=merge_before_rebuild)
    report = list(recovery.run(recovery.plan()))[-1]
    assert isinstance(report, RecoveryReport)
    assert report.from_redis == 3
    entry = world.backup.get("conv_late")
    assert entry is not None
    assert (entry.max_n, entry.write_n) == (8, 8)


# A new registry.


def test_a_new_registry_needs_no_flag(settings: Settings) -> None:
    """Nothing is salted: setup creates table and identity, and finds both when it is run again."""
    new = replace(settings, registry_id=None)
    backup = BackupTable(new)
    with closing(RedisRegistry(new, registry_id=backup.registry.id)) as store:
        first = list(set_up(new, store, backup, messages=True, dry_run=False))
        assert {action.action for action in first} == {"created"}
        identity = backup.check_registry()
        again = list(set_up(new, store, backup, messages=True, dry_run=False))
        assert {action.action for action in again} == {"exists"}
        assert backup.check_registry() == identity


def test_setup_dies_between_the_table_and_its_identity(settings: Settings) -> None:
    """The next setup completes it: an empty table is no evidence of a loss."""
    backup = BackupTable(settings)
    backup.create_table()
    with closing(RedisRegistry(settings)) as store:
        actions = {a.resource: a.action for a in set_up(settings, store, backup, messages=False, dry_run=False)}
    assert actions["registry"] == "created"
    assert backup.check_registry().registry_id == settings.registry_id


@pytest.mark.parametrize("evidence", ["entry", "fence", "item", "message"])
def test_each_kind_of_evidence_stops_setup(settings: Settings, admin: Any, evidence: str) -> None:
    """An entry or a mere fence in Redis, an item in the table, and a salted message; in a dry run, too."""
    backup, messages = BackupTable(settings), MessagesTable(settings)
    backup.create_table()
    messages.create()
    if evidence == "item":
        item = {"conversation_id": {"S": "conv"}, "max_n": {"N": "2"}}
        backup.client.put_item(TableName=backup.name, Item=item)
    elif evidence == "message":
        messages.put("conv#1", "2026-01-01T00:00:00Z#m", {})
    else:
        admin.hset("salt:r:0", "conv" if evidence == "entry" else "#fence", "2")
    with closing(RedisRegistry(settings)) as store:
        for dry_run in (True, False):
            with pytest.raises(RegistryExistedError, match="new registry would hide messages"):
                list(set_up(settings, store, backup, messages=False, dry_run=dry_run))
    assert not backup.registry.exists()


# A second table on the same Redis.


def test_another_table_verifies_nothing_for_this_one(world: World, admin: Any) -> None:
    """Staging's table in the settings of a cron job: Redis is empty, and the first rebuild is the wrong one."""
    other = replace(world.settings, backup_table=f"{world.settings.backup_table}-staging")
    theirs = BackupTable(other)
    theirs.create()
    admin.flushall()
    with closing(RedisRegistry(other, registry_id=theirs.registry.id)) as store:
        for _ in rebuild_job(other, store, theirs).run():
            pass
        assert all(store.verified().values())
    assert world.registry.lookup("conv_b") == world.registry.lookup("conv_b")
    assert (world.registry.lookup("conv_b").max_n, world.registry.lookup("conv_b").source) == (16, "backup")
    with pytest.raises(ConfigurationError, match="holds another registry") as refused:
        world.rebuild()
    assert "saltctl recover" in refused.value.hint
    with pytest.raises(ConfigurationError, match="is the backup of another one") as refused:
        world.recover()
    assert f"saltctl recover --take-over {theirs.registry.id()}" in refused.value.hint
    with pytest.raises(ConfigurationError, match="and not to 0000000000000000"):
        world.recover(take_over="0" * 16)
    assert all(store_is_verified(other, theirs))
    report = world.recover(take_over=theirs.registry.id())
    assert (report.plan.table, report.plan.use_redis) == ("intact", False)
    world.check()


def store_is_verified(settings: Settings, backup: BackupTable) -> list[bool]:
    """Return for each primary whether it is verified for the registry of this table."""
    with closing(RedisRegistry(settings, registry_id=backup.registry.id)) as store:
        return list(store.verified().values())


def test_a_recovery_in_another_region_takes_no_redis(world: World) -> None:
    """The name of the table is right, and a table of this name is missing there: nothing is created."""
    other = replace(world.settings, aws_region="eu-west-1")
    theirs = BackupTable(other)
    verified = Verification(0.0, (), other.backup_table, world.backup.registry.region)
    store = RedisRegistry(other, registry_id=theirs.registry.id)
    options = RebuildOptions()
    job = Recovery(other, store, theirs, world.messages, lambda row: None, options, verification=lambda: verified)
    with pytest.raises(ConfigurationError, match="in us-east-1, and not in eu-west-1"):
        list(job.run(job.plan()))
    assert theirs.describe() is None
    assert store_is_verified(world.settings, world.backup) == [True]


@pytest.mark.parametrize("state", ["missing", "unclaimed", "restored", "intact", "restored from this one"])
def test_a_recovery_into_another_table_takes_no_redis(world: World, state: str) -> None:
    """Staging's table in the settings of a cron job: whatever its state is, Redis stays verified for its own table."""
    verified = Verification(0.0, (), world.settings.backup_table)
    other = replace(world.settings, backup_table=f"{world.settings.backup_table}-staging")
    theirs = BackupTable(other)
    if state != "missing":
        theirs.create_table()
    if state in ("restored", "intact"):
        theirs.registry.create()
    if state == "restored":
        identity = {":x": {"M": {theirs.registry.region: {"S": "another table"}}}}
        theirs.update_item(REGISTRY_ITEM_ID, "SET claimed_tables = :x", "", identity)
    if state == "restored from this one":
        for item in world.items():
            theirs.client.put_item(TableName=theirs.name, Item=item)
    theirs.registry.forget_check()
    before = theirs.describe() and theirs.client.scan(TableName=theirs.name)["Items"]
    store = RedisRegistry(other, registry_id=theirs.registry.id)
    job = Recovery(
        other, store, theirs, world.messages, lambda row: None, RebuildOptions(), verification=lambda: verified
    )
    with pytest.raises(ConfigurationError, match="the wrong table, Region or Redis") as refused:
        list(job.run(job.plan()))
    registry_id = world.backup.registry.id()
    assert f"--take-over {registry_id}" in refused.value.hint
    assert refused.value.hint.startswith(f"export SALTCTL_BACKUP_TABLE={world.settings.backup_table}\n")
    assert before == (theirs.describe() and theirs.client.scan(TableName=theirs.name)["Items"])
    assert store_is_verified(world.settings, world.backup) == [True]
    world.check()
    # An operator who means it can do it.
    job.take_over, job.unproven = registry_id, "raise"
    list(job.run(job.plan()))
    assert store_is_verified(other, theirs) == [True]
    store.close()


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("state", ["missing", "unclaimed", "restored"])
def test_a_redis_that_another_table_verified_proves_nothing(world: World, admin: Any, state: str, noted: bool) -> None:
    """Redis was flushed, and staging's rebuild verified it; then this table is lost: the messages must be read."""
    other = replace(world.settings, backup_table=f"{world.settings.backup_table}-staging")
    theirs = BackupTable(other)
    theirs.create()
    admin.flushall()
    with closing(RedisRegistry(other, registry_id=theirs.registry.id)) as store:
        for _ in rebuild_job(other, store, theirs).run():
            pass
    if state == "missing":
        world.delete_table()
    else:
        kept = [item for item in world.items() if item["conversation_id"]["S"] == REGISTRY_ITEM_ID]
        world.restore(kept if state == "restored" else [])
    world.backup.registry.forget_check()
    verification = Verification(0.0, (), other.backup_table) if noted else None
    job = world.recovery(RebuildOptions(segments=2), verification=lambda: verification, take_over=theirs.registry.id())
    plan = job.plan()
    assert (plan.table, plan.redis_verified, plan.suffices) == (state, True, False)
    assert plan.messages is not None
    report = list(job.run(plan))[-1]
    assert isinstance(report, RecoveryReport)
    assert (report.from_redis, report.from_messages) == (0, 2)
    world.check()


def test_a_client_with_the_id_of_another_registry_takes_no_redis(world: World) -> None:
    """Its table is lost, so only its setting says which registry it belongs to."""
    world.delete_table()
    named = replace(world.settings, registry_id="0123456789abcdef")
    backup = BackupTable(named)
    store = RedisRegistry(named, registry_id=backup.registry.id)
    job = Recovery(named, store, backup, world.messages, lambda row: None, RebuildOptions())
    with pytest.raises(ConfigurationError, match="this client is set to 0123456789abcdef"):
        list(job.run(job.plan()))
    assert world.backup.describe() is None
    store.close()
