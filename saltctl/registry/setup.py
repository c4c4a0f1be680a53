"""Create the resources that saltctl needs and that do not exist yet.

A registry is declared new only after a look at the messages, at Redis and at the table: if one of them shows that
conversations were salted, the backup was lost, and a new registry would hide their messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from saltctl.errors import RegistryExistedError
from saltctl.salting import split_partition_key
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.aws.registry_item import REGISTRY_ITEM_ID
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
        RegistryExistedError: the table is no backup of a registry, but conversations were salted.
        BackupLostError: the table was restored.
        ConfigurationError: a resource exists and cannot be used, such as a table with other keys.
    """
    store.check_server()
    yield from _set_up_registry(settings, store, backup, dry_run=dry_run)
    yield set_up_stream(HeatStream(settings), dry_run=dry_run)
    if messages:
        table = MessagesTable(settings)
        exists, kind = table.describe() is not None, "conversation_id (S), sort_key (S), on demand"
        yield _ensure(f"table {table.name}", exists, table.create, "", kind, dry_run=dry_run)


def set_up_stream(stream: HeatStream, *, dry_run: bool) -> Action:
    """Check the consumer group of the heat stream, and create both if they are missing, unless this is a dry run."""
    name, kind = f"group {stream.group} of stream {stream.key}", "from the beginning of the stream"
    return _ensure(name, stream.group_exists(), stream.create_group, "", kind, dry_run=dry_run)


def _set_up_registry(
    settings: Settings, store: RedisRegistry, backup: BackupTable, *, dry_run: bool
) -> Iterator[Action]:
    """Create the backup table and the identity of a new registry, or check those that exist."""
    exists = backup.describe() is not None
    if exists:
        backup.check_table()
    known = exists and backup.registry.exists()
    if known:
        backup.registry.admit_replica()
        backup.registry.read(recheck=True)
    elif evidence := find_evidence(settings, store, backup if exists else None):
        missing = f"has no item {REGISTRY_ITEM_ID!r}" if exists else "does not exist"
        raise RegistryExistedError(
            f"the backup table {backup.where} {missing}, but {evidence}: a new registry would hide messages",
            hint="saltctl recover --dry-run",
        )
    kind = "on demand, deletion protection, point-in-time recovery"
    yield _ensure(f"table {backup.name}", exists, backup.create, "keys are right", kind, dry_run=dry_run)
    create = backup.registry.create if exists else (lambda: None)  # a new table is created with it
    yield _ensure("registry", known, create, "its table is the one it was created in", "new", dry_run=dry_run)


def find_evidence(settings: Settings, store: RedisRegistry, backup: BackupTable | None) -> str:
    """Return how it shows that conversations were salted, or an empty string. ``backup`` is None if it is missing.

    Of the messages this is a sample: it does not prove that there are none.
    """
    if store.bucket_exists():
        return f"Redis holds buckets of a registry under the prefix {settings.key_prefix!r}"
    if backup is not None and any(page.entries or page.damaged for page in backup.scan(1)):
        return "it holds entries"
    messages = MessagesTable(settings)
    if messages.describe() is not None:
        salted = [key for key in messages.sample_partition_keys() if split_partition_key(key)[1] is not None]
        if salted:
            return f"table {messages.where} holds salted messages, such as {salted[0]!r}"
    return ""


def _ensure(
    resource: str, exists: bool, create: Callable[[], None], checked: str, created: str, *, dry_run: bool
) -> Action:
    """Create the resource unless it exists or this is a dry run."""
    if exists:
        return Action(resource, "exists", checked)
    if not dry_run:
        create()
    return Action(resource, "create" if dry_run else "created", created)
