"""A local environment in trouble: a load, a Redis that is killed again and again, and the rebuilds of a mutant."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

from saltctl.detection.write_meter import WriteMeter
from saltctl.errors import SaltctlError
from saltctl.history.models import message_id_of
from saltctl.local.environment import LocalEnvironment
from saltctl.local.load import Load, LoadOptions
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.registry.recovery.recover import Recovery
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.heat.service_state import Verification
from saltctl.stores.redis.registry import RedisRegistry
from tests.checker.mutants import ProtocolClasses
from tests.support.lost_tables import delete_backup

BETWEEN_KILLS = 10.0
_LOAD_SECONDS = 600.0


@dataclass
class Trouble:
    """Kills Redis every ten seconds, loses its data each second time, and rebuilds it whenever it is not verified.

    With ``loses_table``, the backup is lost together with the data of Redis, and recovered.
    """

    environment: LocalEnvironment
    classes: ProtocolClasses
    loses_table: bool = False
    settings: Settings = field(init=False)
    kills: int = 0
    rebuilds: int = 0
    recoveries: int = 0

    def __post_init__(self) -> None:
        self.settings = replace(self.environment.settings, cool_wait=2.0, cool_margin=600.0)
        self._stop = threading.Event()
        self._load = Load(
            LoadOptions(rate=200, servers=1, seconds=_LOAD_SECONDS, conversations=50),
            [WriteMeter.open(self.settings)],
            Registry.open(self.settings),
            MessagesTable(self.settings),
            rng=random.Random(7),
        )

    @cached_property
    def backup(self) -> BackupTable:
        """The backup table of the rebuilds."""
        backup = self.classes.backup(self.settings)
        backup.registry = self.classes.registry_item(backup)
        return backup

    @cached_property
    def store(self) -> RedisRegistry:
        """The registry in Redis of the rebuilds."""
        return self.classes.store(self.settings, registry_id=self.backup.registry.id)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Make trouble while the block runs."""
        threads = [threading.Thread(target=work) for work in (self._write, self._kill, self._keep_verified)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _write(self) -> None:
        for _ in self._load.run():
            if self._stop.is_set():
                return

    def _kill(self) -> None:
        """Kill, start again, with its data or without it; lose the table with its data, and recover it."""
        while not self._stop.is_set():
            self.kills += 1
            self.environment.redis.kill()
            loses = self.kills % 2 == 0
            if loses:
                self.environment.redis.delete_aof()
            if loses and self.loses_table:
                delete_backup(self.settings)
            self.environment.redis.start()
            if loses and self.loses_table:
                self._recover()
            self._stop.wait(BETWEEN_KILLS)

    def _keep_verified(self) -> None:
        while not self._stop.wait(1.0):
            with suppress(SaltctlError):
                if not all(self.store.verified().values()):
                    self.rebuild()

    def rebuild(self) -> None:
        """Rebuild once."""
        for _ in self._rebuild_job(replace_registry=False).run():
            pass
        self.rebuilds += 1

    def _rebuild_job(self, *, replace_registry: bool) -> Rebuild:
        options = RebuildOptions(segments=2, replace_registry=replace_registry, lock_wait=5.0)
        return Rebuild(self.settings, self.store, self.backup, options)

    def _recover(self) -> None:
        messages = self.classes.recovered_messages(self.settings)
        job = Recovery(
            self.settings,
            self.store,
            self.backup,
            messages,
            lambda row: message_id_of(row, messages.keys, None),
            RebuildOptions(segments=2, lock_wait=5.0),
            verification=lambda: Verification(0.0, (), self.settings.backup_table),
            unproven="raise",
            new_rebuild=lambda *_: self._rebuild_job(replace_registry=True),
        )
        while not self._stop.wait(0.2):
            with suppress(SaltctlError):
                list(job.run(job.plan()))
                self.recoveries += 1
                return
