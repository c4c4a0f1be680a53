"""Create the resources that saltctl needs and that do not exist yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.redis.registry import RedisRegistry


@dataclass(frozen=True, slots=True)
class Action:
    """The outcome for one resource: it exists, was created, or would be created (``create``, in a dry run)."""

    resource: str
    action: Literal["exists", "created", "create"]
    detail: str


def set_up(
    settings: Settings, store: RedisRegistry, backup: BackupTable, *, messages: bool, dry_run: bool
) -> Iterator[Action]:
    """Check each resource, and create it if it is missing, unless this is a dry run. Safe to repeat.

    Raises:
        ConfigurationError: a resource exists and cannot be used, such as a table with other keys.
    """
    store.check_server()
    done: Literal["created", "create"] = "create" if dry_run else "created"
    table = f"table {settings.backup_table}"
    if backup.describe() is not None:
        backup.check_table()
        yield Action(table, "exists", "keys are right")
    else:
        if not dry_run:
            backup.create()
        yield Action(table, done, "on demand, deletion protection, point-in-time recovery")
    if not dry_run:
        backup.claim_layout(settings.layout, settings.key_prefix)
    stream = HeatStream(settings)
    name = f"group {stream.group} of stream {stream.key}"
    if stream.group_exists():
        yield Action(name, "exists", "")
    else:
        if not dry_run:
            stream.create_group()
        yield Action(name, done, "from the beginning of the stream")
    if messages:
        messages_table = MessagesTable(settings)
        name = f"table {messages_table.name}"
        if messages_table.describe():
            yield Action(name, "exists", "")
        else:
            if not dry_run:
                messages_table.create()
            yield Action(name, done, "conversation_id (S), sort_key (S), on demand")
