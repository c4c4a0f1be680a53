"""A whole environment on loopback: a real Valkey with its AOF on, moto's server, and realistic data.

It is for trying out saltctl, for drills and for tests. Everything is in one temporary directory and ends
with the process that started it.
"""

from __future__ import annotations

import fcntl
import os
import random
import secrets
import shutil
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from saltctl.forks import this_process
from saltctl.local.servers import (
    LocalMoto,
    LocalRedis,
    dummy_credentials,
    use_dummy_credentials,
    valkey_binary,
    without_server_settings,
)
from saltctl.settings import Settings
from saltctl.stores.loopback import require_loopback

if TYPE_CHECKING:
    from saltctl.local.seed import Seeded

LOCAL_BUCKETS = 1024
"""Enough for a few hundred conversations; fewer buckets make the first rebuild quicker."""


_PREFIX = "saltctl-local-"
_LOCK = "running.lock"


def _lock_of(directory: Path) -> IO[bytes]:
    """Create a directory's lock file, held until the process ends in any way; under its name it is never free."""
    unnamed = directory / f"{_LOCK}.new"
    lock = unnamed.open("xb")
    with suppress(OSError):  # a file system without locks: the directory is never taken for a dead one
        fcntl.flock(lock, fcntl.LOCK_EX)
        unnamed.rename(directory / _LOCK)
    return lock


def _remove_directories_of_dead_processes() -> None:
    """Remove this user's directories of local environments that SIGKILL has ended: those whose lock is free."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # no lock: not yet, or not ours; a lock that is held
            if directory.is_symlink() or directory.stat().st_uid != os.geteuid():
                continue
            with (directory / _LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)


class LocalEnvironment:
    """Valkey and moto, set up and ready to be seeded. Leaving the context stops and removes everything.

    Entering it gives this process dummy AWS credentials. ``settings`` and ``variables`` lead to the servers.
    """

    def __init__(self, *, redis_binary: Path | None = None) -> None:
        binary = redis_binary or valkey_binary()  # first: without it there must be no directory
        _remove_directories_of_dead_processes()
        self.directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = _lock_of(self.directory)
        self.redis = LocalRedis(self.directory / "redis", binary=binary, password=secrets.token_urlsafe(12))
        self.moto = LocalMoto()
        self._process = this_process()

    def __enter__(self) -> Self:
        """Start the servers and create the tables; nothing is seeded yet."""
        from saltctl.stores.aws.client import preload_boto3

        try:
            self.moto.launch()
            self.redis.start()
            preload_boto3()  # takes half as long as moto's start-up, which runs meanwhile
            self.moto.wait()
            use_dummy_credentials()
            self.create_tables()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the servers and remove their directory; not in a forked child, which shares them with its parent."""
        if self._process != this_process():
            return
        self.redis.kill()  # its data is deleted; SIGTERM would take a tenth of a second
        self.moto.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
        self._lock.close()

    @property
    def settings(self) -> Settings:
        """The settings of this environment. Environment variables have no influence on them."""
        return Settings(
            redis_url=require_loopback(self.redis.url),
            buckets=LOCAL_BUCKETS,
            aws_region="us-east-1",
            aws_endpoint_url=require_loopback(self.moto.url),
            actor="local",
        )

    def variables(self, settings: Settings | None = None) -> dict[str, str]:
        """Return the environment variables for a child process: those of this one, led to the local servers alone.

        ``settings`` may name other tables and another key prefix on these servers.
        """
        settings = settings or self.settings
        nowhere = str(self.directory / "no-such-file")
        config = self.directory / "config.toml"
        config.touch(mode=0o600)  # empty: the user's own file may have a default context
        return {
            **without_server_settings(os.environ),
            **dummy_credentials(),
            "SALTCTL_CONFIG": str(config),
            "SALTCTL_REDIS_URL": self.redis.url,
            "SALTCTL_BUCKETS": str(settings.buckets),
            "SALTCTL_BACKUP_TABLE": settings.backup_table,
            "SALTCTL_MESSAGES_TABLE": settings.messages_table,
            "SALTCTL_KEY_PREFIX": settings.key_prefix,
            "AWS_ENDPOINT_URL": self.moto.url,
            "AWS_CONFIG_FILE": nowhere,
            "AWS_SHARED_CREDENTIALS_FILE": nowhere,
        }

    def create_tables(self, settings: Settings | None = None) -> None:
        """Create the tables and the stream of the settings, by default of this environment's own."""
        from saltctl.registry.setup import set_up
        from saltctl.stores.aws.backup_table import BackupTable
        from saltctl.stores.redis.registry import RedisRegistry

        settings = settings or self.settings
        backup = BackupTable(settings)
        store = RedisRegistry(settings, registry_id=backup.registry.id)
        for _ in set_up(settings, store, backup, messages=True, dry_run=False):
            pass

    def rebuild(self, settings: Settings | None = None) -> None:
        """Verify the registry of the settings, by default of this environment's own, as the service would."""
        from saltctl.rebuild.options import RebuildOptions
        from saltctl.rebuild.rebuild import Rebuild
        from saltctl.stores.aws.backup_table import BackupTable
        from saltctl.stores.event_log import EventLog, EventsItem
        from saltctl.stores.heat.service_state import ServiceState
        from saltctl.stores.redis.registry import RedisRegistry

        settings = settings or self.settings
        options = RebuildOptions(segments=2)
        backup = BackupTable(settings)
        store = RedisRegistry(settings, registry_id=backup.registry.id)
        log = EventLog(EventsItem(backup))
        job = Rebuild(settings, store, backup, options, notes=ServiceState(settings), log=log)
        for _ in job.run():
            pass

    def seed(self) -> Seeded:
        """Write a few hundred conversations of the last day, some of them salted on the way, then verify Redis.

        The data is the same every time except for the timestamps, which count back from now.
        """
        from saltctl.local.seed import seed

        seeded = seed(self.settings, random.Random(7), datetime.now(UTC))
        self.rebuild()
        return seeded
