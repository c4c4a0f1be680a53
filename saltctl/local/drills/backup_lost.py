"""The backup table is deleted, and later restored to an earlier time: errors instead of empty chats, and a recovery.

Shown with figures: that every lookup is an error and every rebuild refused while the table is wrong, and that no
acknowledged message is missing after the recovery, from the messages alone and from Redis alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from saltctl.errors import ConfigurationError, RegistryExistedError, SaltctlError
from saltctl.history.history import History
from saltctl.history.models import ReadOptions, message_id_of
from saltctl.local.drills.drill import OpenHistory, Step, write_messages
from saltctl.local.drills.timeline import timeline
from saltctl.local.environment import LocalEnvironment
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.registry.recovery.recover import Recovery
from saltctl.registry.recovery.recovery_plan import RecoveryReport
from saltctl.registry.registry import Registry
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.contracts.messages import Item
from saltctl.stores.event_log import EventLog, EventsItem
from saltctl.stores.redis.registry import RedisRegistry

CONVERSATIONS = {"conv_warm": 4, "conv_hot": 16}
EACH = 20


def run(*, open_history: OpenHistory = History.open) -> Iterator[Step]:
    """Run the scenario.

    Args:
        open_history: how readers open their history. Tests pass one that trusts any table, to prove that this drill
            can fail.
    """
    started = time.monotonic()
    with LocalEnvironment() as environment:
        environment.rebuild()
        ids: dict[str, list[str]] = {conversation_id: [] for conversation_id in CONVERSATIONS}
        backup = BackupTable(environment.settings)
        with Registry.open(environment.settings) as registry, History.open(environment.settings) as server:
            for conversation_id, n in CONVERSATIONS.items():
                write_messages(server, conversation_id, ids[conversation_id], EACH)
                earlier = backup.client.scan(TableName=backup.name)["Items"]
                registry.raise_to(conversation_id, n, reason="drill")
                write_messages(server, conversation_id, ids[conversation_id], EACH)
        yield Step(
            "two conversations are raised, and their messages are spread",
            True,
            f"ready in {time.monotonic() - started:.1f} s; {sum(map(len, ids.values()))} messages",
        )
        _delete(backup)
        _empty_redis(environment)
        yield _refused("the backup table is deleted, and Redis returns with nothing", environment, open_history)
        yield _recovered("saltctl recover: table and Redis are empty", environment, open_history, ids)
        _delete(backup)
        yield _recovered("the table is deleted again: Redis is verified", environment, open_history, ids)
        _delete(backup)
        _restore(backup, earlier)
        _empty_redis(environment)
        yield _refused("the table is restored to an earlier time, and Redis is empty", environment, open_history)
        yield _recovered("saltctl recover: the table lacks the newest raise", environment, open_history, ids)
        yield timeline(environment, CONVERSATIONS)


def _delete(backup: BackupTable) -> None:
    backup.client.update_table(TableName=backup.name, DeletionProtectionEnabled=False)
    backup.client.delete_table(TableName=backup.name)


def _restore(backup: BackupTable, items: list[dict[str, Any]]) -> None:
    """Create the table with the items of an earlier time, as a restore from a point in time does."""
    backup.create_table()
    for item in items:
        backup.client.put_item(TableName=backup.name, Item=item)


def _empty_redis(environment: LocalEnvironment) -> None:
    environment.redis.kill()
    environment.redis.delete_aof()
    environment.redis.start()


def _refused(what: str, environment: LocalEnvironment, open_history: OpenHistory) -> Step:
    """Check that reading, setup and a rebuild end with an error."""
    wrong, refused = [], []
    with open_history(environment.settings) as reader:
        calls: dict[str, Callable[[], object]] = {
            conversation_id: lambda i=conversation_id: len(reader.page(i, ReadOptions(limit=1000)).messages)  # type: ignore[misc]
            for conversation_id in CONVERSATIONS
        }
        calls |= {"setup": environment.create_tables, "rebuild": environment.rebuild}
        for name, call in calls.items():
            try:
                result = call()
            except (RegistryExistedError, ConfigurationError) as exc:
                refused.append(exc.code)
            except SaltctlError as exc:
                wrong.append(f"{name}: {exc.message}")
            else:
                wrong.append(f"{name} returned {result}")
    detail = f"{len(refused)} of {len(calls)} refused: reads of both conversations, setup, rebuild"
    return Step(what, not wrong, "; ".join([detail, *wrong]))


def _recovered(what: str, environment: LocalEnvironment, open_history: OpenHistory, ids: dict[str, list[str]]) -> Step:
    """Recover, and check that no message is missing from a read of a new reader."""
    began = time.monotonic()
    settings = environment.settings
    backup = BackupTable(settings)
    store = RedisRegistry(settings, registry_id=backup.registry.id)
    messages = MessagesTable(settings)

    def message_id(row: Item) -> str | None:
        """Return the part of the sort key after its ``#``."""
        return message_id_of(row, messages.keys, None)

    log = EventLog(EventsItem(backup))
    options, new_rebuild = RebuildOptions(segments=2), partial(Rebuild, log=log)
    job = Recovery(settings, store, backup, messages, message_id, options, new_rebuild=new_rebuild, log=log)
    report = list(job.run(job.plan()))[-1]
    store.close()
    assert isinstance(report, RecoveryReport)
    log.note("recovered", f"{report.from_redis} entries from Redis, {report.from_messages} from the messages")
    log.flush()
    with open_history(settings) as reader:
        pages = [reader.page(conversation_id, ReadOptions(limit=1000)) for conversation_id in ids]
    missing = sum(
        len(set(ids[page.conversation_id]) - {message.message_id for message in page.messages}) for page in pages
    )
    verified = report.rebuild is not None and report.rebuild.verified
    return Step(
        what,
        verified and not missing and {page.source for page in pages} == {"redis"},
        f"{report.from_redis} entries from Redis, {report.from_messages} from the messages; "
        f"{sum(map(len, ids.values()))} messages acknowledged, {missing} missing; {time.monotonic() - began:.1f} s",
    )
