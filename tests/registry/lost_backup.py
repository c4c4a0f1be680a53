"""A registry whose backup is lost and recovered, for the tests of ``saltctl recover``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from saltctl.errors import ConfigurationError, RaiseIncompleteError, RegistryExistedError
from saltctl.history.history import History
from saltctl.history.models import message_id_of
from saltctl.rebuild.options import RebuildOptions
from saltctl.registry.recovery.recover import Recovery
from saltctl.registry.recovery.recovery_plan import RecoveryReport
from saltctl.registry.registry import Registry
from saltctl.registry.setup import set_up
from saltctl.salting import partition_key, salt_of
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import PARTITION_KEY, SORT_KEY, MessagesTable
from saltctl.stores.contracts.messages import Item
from saltctl.stores.heat.service_state import Verification
from saltctl.stores.redis.registry import RedisRegistry
from tests.support import rebuild_job

NS = {"conv_a": 4, "conv_b": 16}


class World:
    """A registry of two salted conversations with messages, by clients that read its id from the backup."""

    def __init__(self, settings: Settings) -> None:
        self.settings = replace(settings, registry_id=None)
        self.backup = BackupTable(self.settings)
        self.store = RedisRegistry(self.settings, registry_id=self.backup.registry.id)
        self.messages = MessagesTable(self.settings)
        self.registry = Registry.over(self.settings, self.store, self.backup)
        self.history = History.over(self.settings, self.registry, self.messages)
        self.set_up()
        self.rebuild()
        for conversation_id, n in NS.items():
            self.registry.raise_to(conversation_id, n)
            self.write(conversation_id, n, 40)

    def write(self, conversation_id: str, n: int, messages: int) -> None:
        """Write messages to their salts, in batches."""
        rows = [
            {
                PARTITION_KEY: {"S": partition_key(conversation_id, salt_of(f"m{number}", n))},
                SORT_KEY: {"S": f"2026-01-01T00:00:{number:02d}Z#m{number}"},
                "text": {"S": "hello"},
            }
            for number in range(messages)
        ]
        self.messages.load(rows)

    def set_up(self) -> None:
        """Run setup."""
        for _ in set_up(self.settings, self.store, self.backup, messages=True, dry_run=False):
            pass

    def rebuild(self) -> None:
        """Run a rebuild."""
        for _ in rebuild_job(self.settings, self.store, self.backup).run():
            pass

    def recover(self, *, take_over: str = "", **options: Any) -> RecoveryReport:
        """Run a recovery, and return its report."""
        job = self.recovery(RebuildOptions(segments=2, **options), take_over=take_over)
        report = list(job.run(job.plan()))[-1]
        assert isinstance(report, RecoveryReport)
        return report

    def recovery(self, options: RebuildOptions, **more: Any) -> Recovery:
        """Make a recovery."""

        def message_id(row: Item) -> str | None:
            return message_id_of(row, self.messages.keys, None)

        more = {"verification": lambda: Verification(0.0, (), self.backup.name)} | more
        return Recovery(self.settings, self.store, self.backup, self.messages, message_id, options, **more)

    def delete_table(self) -> None:
        """Delete the backup table."""
        client = self.backup.client
        client.update_table(TableName=self.backup.name, DeletionProtectionEnabled=False)
        client.delete_table(TableName=self.backup.name)
        client.get_waiter("table_not_exists").wait(TableName=self.backup.name, WaiterConfig={"Delay": 1})

    def items(self) -> list[dict[str, Any]]:
        """Return all items of the table."""
        found: list[dict[str, Any]] = self.backup.client.scan(TableName=self.backup.name)["Items"]
        return found

    def restore(self, items: list[dict[str, Any]]) -> None:
        """Replace the table by one with these items, as a restore from a point in time does."""
        self.delete_table()
        self.backup.create_table()
        for item in items:
            self.backup.client.put_item(TableName=self.backup.name, Item=item)

    def refusals(self) -> list[str]:
        """Return the hint of each operation that must not use the table."""
        calls: list[Callable[[], object]] = [
            lambda: self.registry.lookup("conv_a"),
            lambda: self.registry.lookup_many(["conv_a", "conv_b"]),
            lambda: self.registry.raise_to("conv_c", 32),
            self.rebuild,
            self.set_up,
        ]
        hints = []
        for call in calls:
            with pytest.raises((ConfigurationError, RaiseIncompleteError, RegistryExistedError)) as refused:
                call()
            hints.append(refused.value.hint)
        return hints

    def check(self) -> None:
        """Check that every lookup and every history is complete, with the ids' N in both stores."""
        for conversation_id, n in NS.items():
            found = self.registry.lookup(conversation_id)
            assert (found.max_n, found.source) == (n, "redis")
            entry = self.backup.get(conversation_id)
            assert entry is not None
            assert (entry.max_n, entry.write_n) == (n, n)
            assert len(list(self.history.messages(conversation_id))) == 40
