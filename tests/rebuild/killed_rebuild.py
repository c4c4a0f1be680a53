"""A rebuild in a process of its own that kills itself at a given point. Imported once by the server that forks them."""

from __future__ import annotations

import os
import signal

from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.client import create_client
from tests.rebuild.harness import WatchedRegistry

WARM = "SALTCTL_TEST_WARM"
if WARM in os.environ:
    # In the server that forks: reading the service's model takes most of a client's time, and is done once.
    create_client(Settings(aws_region="us-east-1", aws_endpoint_url="http://127.0.0.1:1"), "dynamodb")


def rebuild_until(settings: Settings, number: int, now: float) -> None:
    """Rebuild, with a checkpoint after every page, and die by SIGKILL at the ``number``-th point."""
    passed = 0

    def at(point: str) -> None:
        nonlocal passed
        passed += 1
        if passed == number:
            os.kill(os.getpid(), signal.SIGKILL)

    backup = BackupTable(settings)
    store = WatchedRegistry(settings, at)
    rebuild = Rebuild(
        settings,
        store,
        backup,
        RebuildOptions(segments=1, page_limit=5, batch=1, checkpoint_every=0.0),
        checkpoint=backup.checkpoint,
        now=lambda: now,
    )
    for event in rebuild.run():
        at(type(event).__name__)
