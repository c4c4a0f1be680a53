"""Create the resources that saltctl needs and that do not exist yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    if exists := backup.describe() is not None:
        backup.check_table()
    kind = "on demand, deletion protection, point-in-time recovery"
    yield _ensure(f"table {backup.name}", exists, backup.create, "keys are right", kind, dry_run=dry_run)
    if not dry_run:
        backup.claim_layout(settings.layout, settings.key_prefix)
    stream = HeatStream(settings)
    name, kind = f"group {stream.group} of stream {stream.key}", "from the beginning of the stream"
    yield _ensure(name, stream.group_exists(), stream.create_group, "", kind, dry_run=dry_run)
    if messages:
        table = MessagesTable(settings)
        exists, kind = table.describe() is not None, "conversation_id (S), sort_key (S), on demand"
        yield _ensure(f"table {table.name}", exists, table.create, "", kind, dry_run=dry_run)


def _ensure(
    resource: str, exists: bool, create: Callable[[], None], checked: str, created: str, *, dry_run: bool
) -> Action:
    """Create the resource unless it exists or this is a dry run."""
    if exists:
        return Action(resource, "exists", checked)
    if not dry_run:
        create()
    return Action(resource, "create" if dry_run else "created", created)
