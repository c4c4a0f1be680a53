"""What tests of several folders share beside fixtures."""

from __future__ import annotations

from collections.abc import Callable

from saltctl.rebuild.events import RebuildReport
from saltctl.rebuild.rebuild import Rebuild, RebuildOptions
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.registry import RedisRegistry, new_token

Rebuilder = Callable[..., RebuildReport]


def rebuild_job(
    settings: Settings, store: RedisRegistry, backup: BackupTable, options: RebuildOptions | None = None
) -> Rebuild:
    """A rebuild of the settings' registry that was not started yet."""
    return Rebuild(
        store,
        backup,
        backup.lease,
        options or RebuildOptions(segments=2),
        layout=settings.layout,
        key_prefix=settings.key_prefix,
        token=new_token(),
    )
