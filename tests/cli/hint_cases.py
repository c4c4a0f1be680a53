"""Situations in which saltctl prints a hint, for ``test_hints_mend.py``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saltctl.canary.conversations import RESERVED
from saltctl.history.history import History
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.salting import bucket_of
from saltctl.settings import Settings
from saltctl.stores.aws.backup_items import KEY
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.heat.dead_letters import DeadLetters
from tests.cli.conftest import Runner
from tests.support.lost_tables import delete_backup, restore_backup

CONVERSATION = "conv"


@dataclass
class World:
    """A verified registry with one conversation, in the environment variables; its directory is the current one."""

    settings: Settings
    server: LocalRedis
    redis: Any
    backup: BackupTable
    registry: Registry
    saltctl: Runner
    setenv: Callable[[str, str], None]
    hang: Callable[[], None]

    @property
    def bucket(self) -> str:
        """The key of the conversation's bucket."""
        return f"salt:r:{bucket_of(CONVERSATION, self.settings.buckets)}"

    def update(self, item: str, update: str, **values: Any) -> None:
        """Edit an item of the backup by hand."""
        self.backup.client.update_item(
            TableName=self.settings.backup_table,
            Key={KEY: {"S": item}},
            UpdateExpression=update,
            **({"ExpressionAttributeValues": {f":{name}": value for name, value in values.items()}} if values else {}),
        )


def nothing(world: World) -> None:
    """Nothing is broken, or has to be mended."""


@dataclass(frozen=True)
class Case:
    """A situation.

    Args:
        place: the file that writes the hint, and the function if it is built of words.
        command: what fails.
        code: its exit code.
        hint: the command that it prints.
        broken: makes the situation.
        then: what has to succeed after the hint; by default the command that failed, if the hint is not that one.
        mend: what a sentence of the hint says, done by hand.
        hint_code: the exit code of the hint, which may find something.
        says: a sentence of the hint.
        onward: what the hint prints in its turn, if that is pasted, too.
    """

    place: str
    command: str
    code: int
    hint: str
    broken: Callable[[World], object] = nothing
    then: str = ""
    mend: Callable[[World], object] = nothing
    hint_code: int = 0
    says: str = ""
    onward: str = ""


def _damage_count(world: World) -> None:
    create_messages(world)
    world.redis.hset(world.bucket, CONVERSATION, "many")


def _overwrite_fence(world: World) -> None:
    world.redis.hset("salt:r:0", "#fence", "text")


def _delete_fence(world: World) -> None:
    world.redis.hdel("salt:r:0", "#fence")


def _other_layout(world: World) -> None:
    world.setenv("SALTCTL_BUCKETS", "32")


def _damage_item(world: World) -> None:
    create_messages(world)
    world.update(CONVERSATION, "SET max_n = :n", n={"S": "text"})


def _damage_raises(world: World) -> None:
    create_messages(world)
    world.update(CONVERSATION, "SET raises = :r", r={"S": "text"})


def _restore_with_damaged_item(world: World) -> None:
    create_messages(world)
    world.update("other", "SET max_n = :n", n={"S": "text"})
    restore_backup(world.settings)


def _dead_letter(world: World) -> None:
    world.redis.xadd(DeadLetters(world.settings).key, {"reason": "large", "original_id": "1-1", "whole": 0}, id="1-1")


def _protect(world: World) -> None:
    Path("config.toml").write_text("[contexts.prod]\nprotected = true\n")
    world.setenv("SALTCTL_CONFIG", "config.toml")
    world.setenv("SALTCTL_CONTEXT", "prod")


def _directory_as_configuration(world: World) -> None:
    Path("directory").mkdir()
    world.setenv("SALTCTL_CONFIG", "directory")


def _flush(world: World) -> None:
    world.redis.flushall()


def _file(text: str) -> Callable[[World], object]:
    return lambda _: Path("ids").write_text(text)


def _variable(name: str, value: str) -> Callable[[World], object]:
    return lambda world: world.setenv(name, value)


def _other_registry(world: World) -> None:
    for key in world.redis.scan_iter("salt:r:*"):
        layout, _, replid = world.redis.hget(key, "#fence").decode().rpartition(":")
        world.redis.hset(key, "#fence", f"{layout.rpartition(':')[0]}:0123456789abcdef:{replid}")


def _overwrite_registry(world: World) -> None:
    for key in world.redis.scan_iter("salt:r:*"):
        layout, _, replid = world.redis.hget(key, "#fence").decode().rpartition(":")
        world.redis.hset(key, "#fence", f"{layout.rpartition(':')[0]}:no-id:{replid}")


def _restore(world: World) -> None:
    restore_backup(world.settings)


def _delete_backup(world: World) -> None:
    create_messages(world)
    delete_backup(world.settings)


def _overwrite_bucket(world: World) -> None:
    world.redis.delete(world.bucket)
    world.redis.set(world.bucket, "text")


def _delete_bucket(world: World) -> None:
    world.redis.delete(world.bucket)


def _restart(world: World) -> None:
    world.server.kill()
    world.server.start()


def _evict(world: World) -> None:
    world.redis.config_set("maxmemory-policy", "allkeys-lru")


def _lose_group(world: World) -> None:
    world.redis.xgroup_destroy("salt:heat", "saltctl")


def _lose_group_beside_messages(world: World) -> None:
    create_messages(world)
    _lose_group(world)


def _hold_lease(world: World) -> None:
    later = time.time() + 3600  # it does not end while the test runs
    assert world.backup.lease.acquire("other", later, host="elsewhere", pid=1, expiry=30.0) is None


def _release_lease(world: World) -> None:
    world.backup.lease.release("other")


def _wrong_password(world: World) -> None:
    world.setenv("SALTCTL_REDIS_URL", f"redis://:wrong@127.0.0.1:{world.server.port}/0")


def _hang(world: World) -> None:
    world.hang()


def _back(world: World) -> None:
    """Redis is there again."""
    world.setenv("SALTCTL_REDIS_URL", world.settings.require_redis_url())


def _behind(world: World) -> None:
    world.redis.hset(world.bucket, CONVERSATION, 2)


def _ahead(world: World) -> None:
    world.redis.hset(world.bucket, CONVERSATION, 16)


def _stranger(world: World) -> None:
    world.redis.hset(f"salt:r:{bucket_of('stranger', world.settings.buckets)}", "stranger", 8)


def _lose_stream(world: World) -> None:
    world.redis.delete("salt:heat")


def _new_environment(world: World) -> None:
    _delete_backup(world)
    _flush(world)


def _reports(world: World) -> None:
    for _ in range(2):
        world.redis.xadd("salt:heat", {"no": "report"})


def _one_of_two_fails(world: World) -> None:
    Path("ids").write_text(f"{CONVERSATION}\t8\nother\t4\n")
    _overwrite_bucket(world)


def _protected_bucket(world: World) -> None:
    Path("c.toml").write_text("[contexts.prod]\nprotected = true\n")
    _overwrite_bucket(world)


def _no_merges(world: World) -> None:
    """Redis refuses to write, as it does to the user saltctl-readonly."""
    Path("ids").write_text(f"{CONVERSATION}\t8\nother\t4\n")
    world.redis.execute_command("ACL SETUSER", "default", "-@write", "-@scripting")


def _merges(world: World) -> None:
    world.redis.execute_command("ACL SETUSER", "default", "+@all")


def _messages(world: World) -> None:
    create_messages(world)
    with History.over(world.settings, world.registry, MessagesTable(world.settings)) as history:
        for number in range(8):
            history.put(CONVERSATION, f"2026-07-01T08:00:0{number}.000Z#m{number}", {"text": "hello"})


def _orphans(world: World) -> None:
    """Both sides lose a raise, and readers the messages of its salts."""
    world.registry.raise_to(CONVERSATION, 16)
    _messages(world)
    world.redis.hset(world.bucket, CONVERSATION, 4)
    world.update(CONVERSATION, "SET max_n = :n, write_n = :n", n={"N": "4"})


def _orphans_of_the_canary(world: World) -> None:
    """So it is with each reserved conversation: a round uses some of them."""
    create_messages(world)
    with History.over(world.settings, world.registry, MessagesTable(world.settings)) as history:
        for conversation in RESERVED:
            world.registry.raise_to(conversation, 16)
            for number in range(4):
                history.put(conversation, f"2026-07-01T08:00:0{number}.000Z#m{number}", {})
            world.redis.hdel(f"salt:r:{bucket_of(conversation, world.settings.buckets)}", conversation)
            world.update(conversation, "SET max_n = :n, write_n = :n", n={"N": "1"})


def _damaged_audit(world: World) -> None:
    create_messages(world)
    world.update("#audit", "SET audit_state = :text", text={"S": "{}"})


def _few_orphans(world: World) -> None:
    """Rows on salts beyond max_n that are too few to prove whose messages they are."""
    create_messages(world)
    MessagesTable(world.settings).put(f"{CONVERSATION}#12", "2026-07-01T08:00:00.000Z#m", {})


def _delete_backup_with_messages(world: World) -> None:
    _messages(world)
    _delete_backup(world)


def _lose_all_but_few_messages(world: World) -> None:
    _few_orphans(world)
    _new_environment(world)


def _stop_at_few_messages(world: World) -> None:
    _lose_all_but_few_messages(world)
    assert world.saltctl("recover", "--yes").code == 4


def _lose_both(world: World) -> None:
    _delete_backup_with_messages(world)
    world.setenv("SALTCTL_REDIS_URL", "redis://127.0.0.1:1/0")


def _restore_with_messages(world: World) -> None:
    _messages(world)
    _restore(world)


def _checkpoint(kind: str) -> Callable[[World], object]:
    return lambda world: world.update("#checkpoint", f"SET {kind}_checkpoint = :text", text={"S": "{}"})


def create_messages(world: World) -> None:
    """Create the messages table."""
    assert world.saltctl("setup", "--messages").code == 0


def _untimed_message(world: World) -> None:
    create_messages(world)
    with History.over(world.settings, world.registry, MessagesTable(world.settings)) as history:
        history.put(CONVERSATION, "first", {})


def _lower_in_file(world: World) -> None:
    _messages(world)
    _file("conv\t1\n")(world)


REPLAY = "saltctl stream replay && saltctl doctor --only stream-group"
LIST = "saltctl registry list --source redis"
AUDIT = "saltctl history audit conv --repair --yes"
"""The command that mends a damaged item, or a damaged value in Redis."""
CASES = [
    # Redis, and its layout.
    Case("stores/redis/buckets.py:parse_entry", "saltctl registry get conv", 0, AUDIT, _damage_count, then=LIST),
    Case("cli/registry/transfer.py:check_complete", LIST, 4, AUDIT, _damage_count),
    Case("stores/redis/errors.py", "saltctl compare", 78, "saltctl rebuild", _overwrite_fence, mend=_delete_fence),
    Case("stores/redis/errors.py", "saltctl compare", 78, "export SALTCTL_BUCKETS=64", _other_layout),
    Case(
        "stores/redis/errors.py",
        "saltctl rebuild",
        78,
        "saltctl recover --take-over 0123456789abcdef --dry-run",
        _other_registry,
        onward="saltctl recover --take-over 0123456789abcdef",
    ),
    Case(
        "registry/recovery/recovery_plan.py",
        "saltctl recover --dry-run",
        78,
        "saltctl recover --take-over 0123456789abcdef",
        _other_registry,
        then="saltctl recover --dry-run && saltctl compare",
    ),
    Case(
        "stores/redis/errors.py",
        "saltctl compare",
        78,
        "saltctl recover --dry-run",
        _overwrite_registry,
        hint_code=78,
        then="true",
    ),
    Case(
        "stores/aws/registry_item.py",
        f"saltctl registry set {CONVERSATION} 8 --yes",
        78,
        "export SALTCTL_BUCKETS=64 SALTCTL_KEY_PREFIX=salt",
        _other_layout,
    ),
    Case(
        "stores/aws/registry_item.py",
        f"saltctl registry set {CONVERSATION} 8 --yes",
        78,
        "export SALTCTL_REGISTRY_ID={id}",
        _variable("SALTCTL_REGISTRY_ID", "0123456789abcdef"),
    ),
    Case("stores/aws/registry_item.py", "saltctl rebuild", 78, "saltctl recover", _restore),
    Case("cli/registry/compare.py", "saltctl compare", 3, "saltctl rebuild", _restart),
    Case("cli/registry/compare.py", "saltctl compare", 3, "saltctl compare --repair --yes", _behind),
    Case("cli/registry/compare.py", "saltctl compare", 3, "saltctl compare --repair --adopt --yes", _stranger),
    Case("cli/registry/setup.py", "saltctl setup", 0, "saltctl rebuild", _flush, then="saltctl compare"),
    Case("cli/registry/transfer.py", "saltctl registry list", 0, "saltctl rebuild", _flush, then="saltctl compare"),
    Case("cli/rebuild/rebuild.py", "saltctl rebuild", 0, "saltctl setup", _flush, then="saltctl stream replay"),
    Case("stores/heat/stream.py", "saltctl stream replay", 78, "saltctl setup", _lose_stream, then=REPLAY),
    Case("stores/heat/stream.py", "saltctl stream replay", 78, "saltctl setup", _lose_group, then=REPLAY),
    Case("cli/detection/stream.py", "saltctl stream peek", 3, "saltctl setup", _lose_group),
    Case("cli/detection/heat.py", "saltctl heat", 3, "saltctl setup", _lose_group_beside_messages),
    Case(
        "rebuild/checkpoint.py",
        "saltctl rebuild --resume",
        6,
        "saltctl rebuild --restart",
        _flush,
        then="saltctl compare",
    ),
    Case(
        "rebuild/checkpoint.py",
        "saltctl rebuild --resume",
        6,
        "saltctl rebuild --restart",
        _checkpoint("rebuild"),
        then="saltctl compare",
    ),
    Case(
        "registry/recovery/scan_checkpoint.py",
        "saltctl recover --resume --yes",
        6,
        "saltctl recover --restart",
        then="saltctl compare",
    ),
    Case(
        "rebuild/rebuild.py",
        "saltctl rebuild --wait-redis 1ms",
        124,
        "saltctl rebuild --wait-redis 1h",
        _variable("SALTCTL_REDIS_URL", "redis://127.0.0.1:1/0"),
        mend=_back,
        then="saltctl compare",
    ),
    Case(
        "rebuild/rebuild.py",
        "saltctl rebuild --wait-redis 1ms",
        124,
        "saltctl rebuild --wait-redis 1h",
        _lose_both,
        mend=_back,
        hint_code=78,
        onward="saltctl recover --dry-run",
        then="saltctl recover --yes && saltctl compare",
    ),
    Case(
        "registry/registry.py:_merge_and_commit",
        f"saltctl registry set {CONVERSATION} 8 --yes",
        4,
        f"saltctl registry set {CONVERSATION} 8 --yes",
        _overwrite_bucket,
        mend=_delete_bucket,
    ),
    Case(
        "registry/registry.py:_merge_and_commit",
        f"saltctl --config c.toml --context prod registry set {CONVERSATION} 8 --confirm prod",
        4,
        f"saltctl --context prod --config c.toml registry set --confirm prod {CONVERSATION} 8 --yes",
        _protected_bucket,
        mend=_delete_bucket,
    ),
    Case(
        "cli/registry/batch.py:_raise_all",
        "saltctl registry set --file ids --yes",
        4,
        "saltctl registry set --file ids --yes",
        _no_merges,
        mend=_merges,
        says="finished work is kept; run it again",
    ),
    Case(
        "stores/redis/errors.py",
        "saltctl rebuild",
        69,
        "saltctl rebuild",
        _overwrite_bucket,
        mend=_delete_bucket,
        then="saltctl compare",
        says="delete that key, whose name begins with the setting key_prefix",
    ),
    Case("stores/redis/errors.py", "saltctl registry get conv", 0, "saltctl rebuild", _flush, then="saltctl compare"),
    Case("cli/registry/compare.py", "saltctl compare", 3, "saltctl rebuild", _flush, onward="saltctl setup"),
    Case("cli/registry/compare.py", "saltctl compare", 3, "saltctl compare --repair --yes", _ahead),
    Case("stores/redis/registry.py:check_server", "saltctl rebuild", 78, "REDISCLI_AUTH=", _evict),
    Case("stores/redis/errors.py", "saltctl registry get conv", 77, "saltctl config show", _wrong_password, mend=_back),
    # The backup.
    Case(
        "stores/aws/failures/errors.py",
        f"saltctl registry set {CONVERSATION} 8 --yes",
        78,
        "saltctl recover --dry-run",
        _delete_backup_with_messages,
        then=f"saltctl compare && saltctl registry set {CONVERSATION} 8 --yes",
        onward="saltctl recover",
    ),
    Case(
        "stores/aws/registry_item.py",
        f"saltctl registry set {CONVERSATION} 8 --yes",
        78,
        "saltctl recover",
        _restore,
        then=f"saltctl compare && saltctl registry set {CONVERSATION} 8 --yes",
    ),
    Case(
        "rebuild/lease.py", "saltctl rebuild", 75, "saltctl rebuild --lock-wait 15m", _hold_lease, mend=_release_lease
    ),
    Case("registry/setup.py", "saltctl setup", 6, "saltctl recover --dry-run", _delete_backup, then="true"),
    Case("cli/registry/transfer.py:check_complete", "saltctl registry export --source backup", 4, AUDIT, _damage_item),
    Case("cli/registry/registry.py:get", "saltctl registry get conv", 4, AUDIT, _damage_item),
    Case("stores/aws/backup_items.py:parse_entry", "saltctl registry set conv 8 --yes", 78, AUDIT, _damage_item),
    Case("stores/aws/backup_items.py:_update", "saltctl registry set conv 8 --yes", 78, AUDIT, _damage_raises),
    Case("cli/rebuild/rebuild.py:rebuild", "saltctl rebuild", 4, AUDIT, _damage_item),
    Case("cli/registry/compare.py:_warn", "saltctl compare", 4, AUDIT, _damage_item),
    Case(
        "cli/registry/recover.py:_print",
        "saltctl recover --yes",
        4,
        "saltctl history audit other --repair --yes",
        _restore_with_damaged_item,
        then="saltctl rebuild && saltctl compare",
    ),
    Case(
        "registry/recovery/recover.py",
        "saltctl recover --yes",
        75,
        "saltctl recover --lock-wait 15m",
        _hold_lease,
        mend=_release_lease,
        then="saltctl compare",
    ),
    Case(
        "registry/recovery/recovery_plan.py",
        "saltctl recover --yes",
        4,
        "saltctl recover --unproven raise",
        _lose_all_but_few_messages,
        then="saltctl compare",
    ),
    Case(
        "registry/recovery/recovery_plan.py",
        "saltctl recover --dry-run",
        4,
        "saltctl recover --unproven raise",
        _stop_at_few_messages,
        then="saltctl compare",
    ),
    # The stream.
    Case("cli/detection/stream.py", "saltctl stream dead requeue 1", 2, "saltctl stream dead list", then="true"),
    Case("cli/detection/stream.py", "saltctl stream dead requeue", 2, "saltctl stream dead list", then="true"),
    Case(
        "cli/detection/stream.py",
        "saltctl stream dead requeue 1-1",
        6,
        "saltctl stream dead drop 1-1",
        _dead_letter,
        then="true",
    ),
    Case(
        "cli/detection/replay.py",
        "saltctl stream replay --from 1h --to 2h",
        2,
        "saltctl stream replay --from 2h --to 1h",
    ),
    # Confirmations.
    Case(
        "cli/session.py:require_consent",
        f"saltctl registry set {CONVERSATION} 8",
        6,
        f"saltctl registry set {CONVERSATION} 8 --confirm prod",
        _protect,
    ),
    Case(
        "cli/session.py:require_consent",
        "saltctl compare --repair",
        6,
        "saltctl compare --repair --yes",
        _behind,
        then="saltctl compare",
    ),
    Case(
        "cli/option.py",
        f"saltctl registry set {CONVERSATION} 8 --confirm prd",
        6,
        "saltctl config show",
        _protect,
        then=f"saltctl registry set {CONVERSATION} 8 --confirm prod",
    ),
    # Commands that are not complete, and values that are not possible: the hint is the command that was meant.
    Case("cli/registry/compare.py", "saltctl compare --sample 1", 2, "saltctl compare --sample 1/24"),
    Case("registry/drift.py", "saltctl compare --sample 5/4", 2, "saltctl compare --sample 1/24"),
    Case("cli/registry/registry.py", "saltctl registry get", 2, "saltctl registry get --help"),
    Case("cli/registry/cool.py", "saltctl registry cool", 2, "saltctl registry cool --help"),
    Case("cli/registry/registry.py", "saltctl registry set conv", 2, "saltctl registry set --help"),
    Case("cli/registry/registry.py", "saltctl registry set --file missing", 2, "saltctl registry set --help"),
    Case(
        "cli/registry/refusals.py:check_alone",
        "saltctl registry set conv --file ids",
        2,
        "saltctl registry set --file ids",
        _file("conv\t8\n"),
    ),
    Case(
        "cli/registry/refusals.py:check_not_lower",
        "saltctl registry set conv 2",
        6,
        "saltctl registry cool conv --to 2",
        _messages,
        then="true",
    ),
    Case(
        "cli/registry/batch.py:_check_none_lower",
        "saltctl registry set --file ids",
        6,
        "saltctl registry cool conv --to 1",
        _lower_in_file,
        then="true",
    ),
    Case(
        "cli/registry/cool.py:_check",
        "saltctl registry cool conv --to 3 --reason 'quiet now'",
        6,
        "saltctl registry cool conv --to 4 --reason 'quiet now'",
        then="true",
    ),
    Case(
        "cli/registry/cool.py:_cool_all",
        "saltctl registry cool conv --to 1 --dry-run",
        6,
        "saltctl registry cool conv --to 1 --dry-run --yes",
        _untimed_message,
        then="true",
        says="name the form of the keys (SALTCTL_SORT_KEY_FORM), or accept that",
    ),
    Case(
        "cli/registry/refusals.py:check_not_lower",
        "saltctl registry set conv 4 --yes",
        6,
        "saltctl registry set conv 16 --yes",
        _ahead,
        then="saltctl compare",
    ),
    Case(
        "cli/registry/registry.py:_again",
        "saltctl registry set conv 7 --yes --reason 'launch day'",
        6,
        "saltctl registry set conv 8 --reason 'launch day' --yes",
        then="saltctl registry set conv 8",
    ),
    Case(
        "cli/registry/batch.py:_texts",
        "saltctl registry set --file ids",
        2,
        "saltctl registry import ids --dry-run",
        _file("conversation_id\tmax_n\nconv\t8\n"),
        then="true",
    ),
    Case("cli/registry/setup.py:setup", "saltctl setup --stream --messages", 2, "saltctl setup --messages"),
    Case(
        "cli/registry/batch.py:_again",
        "saltctl registry set --file ids",
        2,
        "saltctl registry set --file ids --dry-run",
        _file("conv\tx\n"),
        mend=_file("conv\t8\n"),
    ),
    Case(
        "cli/registry/batch.py",
        "saltctl registry set --file ids",
        2,
        "saltctl registry import --help",
        _file("x" * 100_000),
    ),
    Case(
        "cli/detection/emit.py", "saltctl service emit alerts --role saltctl-app", 2, "saltctl service emit iam --help"
    ),
    Case(
        "cli/detection/emit.py",
        "saltctl service emit systemd --role saltctl-app",
        2,
        "saltctl service emit systemd --role saltctl-canary",
    ),
    Case(
        "cli/detection/emit.py:_content",
        "saltctl service emit acl --role saltctl-alarms",
        2,
        "saltctl service emit iam --role saltctl-alarms",
    ),
    Case(
        "deployment/systemd.py",
        "saltctl service emit systemd --executable saltctl",
        2,
        "saltctl service emit systemd --executable /usr/local/bin/saltctl",
    ),
    Case(
        "deployment/kubernetes.py",
        "saltctl service emit kubernetes --image 'a b'",
        2,
        "saltctl service emit kubernetes --image registry.example/saltctl:latest",
    ),
    Case("cli/local/drill.py", "saltctl drill nope", 2, "saltctl drill --list"),
    Case("cli/guide/topics.py:_unknown", "saltctl help promisse", 2, "saltctl help promise"),
    Case(
        "cli/guide/usage.py:describe_usage_error",
        "saltctl registry gte conv --otput json",
        2,
        "saltctl registry get conv --output json",
    ),
    Case(
        "cli/health/incident.py",
        "saltctl incident --with-ids",
        2,
        "saltctl incident --bundle incident.json --with-ids",
        broken=create_messages,
    ),
    Case(
        "cli/health/incident.py",
        "saltctl incident --since 1h --until 2h",
        2,
        "saltctl incident --since 3h --until 1h",
        broken=create_messages,
    ),
    Case(
        "cli/detection/heat.py",
        "saltctl heat --since 1h --until 2h",
        2,
        "saltctl heat --since 3h --until 1h",
        broken=create_messages,
    ),
    Case(
        "cli/health/doctor.py",
        "saltctl doctor --format nagios --probe-platform",
        2,
        "saltctl doctor --format nagios",
        hint_code=2,
    ),
    Case("cli/canary/canary.py", "saltctl canary --every 1m --dry-run", 2, "saltctl canary --dry-run"),
    Case("cli/canary/canary.py", "saltctl canary -o tsv --format nagios", 2, "saltctl canary --format nagios"),
    Case(
        "cli/canary/view.py:find_cause",
        "saltctl canary",
        3,
        "saltctl history audit ",
        _orphans_of_the_canary,
        hint_code=3,
        then="true",
    ),
    Case("health/doctor.py", "saltctl doctor --only redis-eviktion", 2, "saltctl doctor --only redis-eviction"),
    Case("health/doctor.py", "saltctl doctor --only zzz", 2, "saltctl doctor --only redis"),
    Case(
        "throttling/analysis.py",
        "saltctl throttle scan --since 9999-01-01",
        2,
        "saltctl throttle scan --since 1h",
        broken=create_messages,
    ),
    Case(
        "throttling/analysis.py",
        "saltctl throttle scan --since 1h --until 2h",
        2,
        "saltctl throttle scan --since 2h --until 1h",
        broken=create_messages,
    ),
    Case(
        "cli/throttling/throttle.py:_parse_range",
        "saltctl throttle scan --since 5m --until 3h",
        2,
        "saltctl throttle scan --since 3h --until 5m",
        broken=create_messages,
    ),
    Case(
        "throttling/analysis.py",
        "saltctl throttle scan --since 500d",
        2,
        "saltctl throttle scan --since 455d --period 1d",
        broken=create_messages,
    ),
    Case(
        "throttling/analysis.py",
        "saltctl throttle scan --since 20d --period 1m",
        2,
        "saltctl throttle scan --period 300s",
        broken=create_messages,
    ),
    Case(
        "throttling/alarms.py",
        "saltctl throttle alarms create",
        2,
        "saltctl throttle alarms create --sns arn:aws:sns:eu-central-1:111122223333:oncall",
        broken=create_messages,
    ),
    # The environment, and files.
    Case(
        "settings.py",
        "saltctl config show",
        78,
        "export AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true",
        _variable("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "maybe"),
    ),
    Case("settings.py", "saltctl rebuild", 78, "ls -l directory", _directory_as_configuration, then="true"),
    Case("settings.py", "saltctl config show", 78, "saltctl config init", _variable("SALTCTL_CONFIG", "new.toml")),
    Case(
        "cli/config/config.py", "saltctl config path", 0, "saltctl config init", _variable("SALTCTL_CONFIG", "new.toml")
    ),
    Case("settings.py", "saltctl rebuild", 78, "saltctl config path", _variable("SALTCTL_REDIS_URL", ""), then="true"),
    Case(
        "stores/bounded/tls.py",
        "saltctl registry get conv",
        78,
        "unset SSLKEYLOGFILE",
        _variable("SSLKEYLOGFILE", "/no/such/file"),
    ),
    Case("cli/config/edit.py", "saltctl config init", 6, "saltctl config path", _protect, then="true"),
    Case(
        "cli/config/config.py:use_context",
        "saltctl config use-context prd",
        78,
        "saltctl config use-context prod",
        _protect,
        then="true",
    ),
    Case(
        "stores/bounded/tls.py",
        "saltctl registry get conv",
        78,
        "saltctl help redis-urls",
        _variable("SALTCTL_REDIS_URL", "rediss://h?ssl_ca_certs=/no"),
        then="true",
    ),
    Case("stores/aws/messages_table.py", "saltctl history read conv", 78, "saltctl config show", then="true"),
    Case("stores/aws/table.py", "saltctl throttle scan --table nope", 78, "saltctl config show", then="true"),
    Case(
        "registry/recovery/recovery_plan.py",
        "saltctl recover --yes",
        78,
        "saltctl recover --take-over 0123456789abcdef",
        _other_registry,
        then="saltctl compare",
    ),
    Case(
        "registry/recovery/recovery_plan.py",
        "saltctl recover --yes",
        78,
        "saltctl config show",
        _other_registry,
        then="true",
    ),
    # Commands that are built of words.
    Case("cli/registry/compare.py:compare", "saltctl compare --adopt", 2, "saltctl compare --adopt --repair"),
    Case(
        "stores/aws/failures/errors.py",
        f"saltctl registry set {CONVERSATION} 8 --yes",
        78,
        "saltctl setup",
        _new_environment,
    ),
    Case(
        "cli/detection/stream.py:requeue",
        "saltctl stream dead requeue --all",
        4,
        "saltctl stream dead drop 1-1",
        _dead_letter,
    ),
    Case(
        "cli/detection/replay.py:_print_how_to_resume",
        "saltctl stream replay --max-events 1",
        4,
        "saltctl stream replay --max-events 1",
        _reports,
        hint_code=4,  # it has read the last one, and does not know it
    ),
    Case(
        "cli/registry/batch.py:_raise_all",
        "saltctl registry set --file ids --yes",
        4,
        "saltctl registry set --file ids --yes",
        _one_of_two_fails,
        mend=_delete_bucket,
    ),
    Case("cli/registry/recover.py:_print", "saltctl recover --dry-run", 0, "saltctl recover", _restore_with_messages),
    Case(
        "cli/signals.py:deadline",
        "saltctl rebuild --timeout 1s",
        124,
        "saltctl rebuild",
        _hang,
        mend=_back,
        then="saltctl compare",
    ),
    Case(
        "cli/history/history.py:read",
        f"saltctl history read {CONVERSATION} --limit 1",
        0,
        f"saltctl history read {CONVERSATION} --limit 1 --before ",
        _messages,
    ),
    Case("cli/history/history.py:_repair_command", f"saltctl history audit {CONVERSATION}", 3, AUDIT, _orphans),
    Case("history/full_audit/state.py:command", "saltctl history audit --all", 3, AUDIT, _orphans),
    Case(
        "history/full_audit/state.py",
        "saltctl history audit --all",
        6,
        "saltctl history audit --all --restart",
        _damaged_audit,
    ),
    Case(
        "cli/history/history.py",
        "saltctl history audit",
        2,
        "saltctl history audit --all --max-rcu 50",
        create_messages,
    ),
    Case(
        "cli/history/history.py:_unproven",
        "saltctl history audit conv --repair --yes",
        6,
        "saltctl registry set conv 16",
        _few_orphans,
        then="saltctl history audit conv",
    ),
]
