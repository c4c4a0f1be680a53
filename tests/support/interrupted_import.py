"""A program: a signal handler raises an exception while a library is imported, and then saltctl uses the library.

Arguments: the module at whose import the signal comes.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.registry import RedisRegistry


class SoftTimeLimit(BaseException):
    """What the handler raises."""


class Interrupting:
    """A finder that finds nothing, and sends the signal."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Send the signal if this is the module."""
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGUSR1)


def on_signal(signum: int, frame: FrameType | None) -> None:
    """Raise the exception."""
    raise SoftTimeLimit


def use_both() -> None:
    """Create a client of each library."""
    settings = Settings(redis_url="redis://127.0.0.1:1", aws_region="us-east-1", registry_id="feed0123456789ab")
    store = RedisRegistry(settings)
    store._others.client("127.0.0.1:1")  # noqa: SLF001
    BackupTable(settings).client.describe_table  # noqa: B018


if __name__ == "__main__":
    sys.meta_path.insert(0, Interrupting())
    signal.signal(signal.SIGUSR1, on_signal)
    try:
        use_both()
        sys.exit("no signal came")
    except SoftTimeLimit:
        use_both()
