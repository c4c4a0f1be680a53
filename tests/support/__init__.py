"""Helpers that tests of several folders share."""

from __future__ import annotations

from collections.abc import Callable

from saltctl.rebuild.events import RebuildReport
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.registry import RedisRegistry

Rebuilder = Callable[..., RebuildReport]


def rebuild_job(
    settings: Settings, store: RedisRegistry, backup: BackupTable, options: RebuildOptions | None = None
) -> Rebuild:
    """Return a rebuild that has not started."""
    return Rebuild(settings, store, backup, options or RebuildOptions(segments=2))
