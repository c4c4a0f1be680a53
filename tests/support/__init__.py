"""Helpers that tests of several folders share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from saltctl.rebuild.events import RebuildReport
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.registry import RedisRegistry

Rebuilder = Callable[..., RebuildReport]


def put_entries(backup: BackupTable, entries: Mapping[str, int]) -> None:
    """Write committed entries to the backup in batches: sixty raises would take half a second of the CPU."""
    items = [
        {"conversation_id": {"S": conversation_id}, "max_n": {"N": str(n)}, "write_n": {"N": str(n)}}
        for conversation_id, n in entries.items()
    ]
    for start in range(0, len(items), 25):
        requests = [{"PutRequest": {"Item": item}} for item in items[start : start + 25]]
        backup.client.batch_write_item(RequestItems={backup.name: requests})


def rebuild_job(
    settings: Settings, store: RedisRegistry, backup: BackupTable, options: RebuildOptions | None = None
) -> Rebuild:
    """Return a rebuild that has not started."""
    return Rebuild(settings, store, backup, options or RebuildOptions(segments=2))
