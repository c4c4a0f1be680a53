"""Opens the real stores for the canary."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from saltctl.canary.classes import Classes
from saltctl.canary.round import Servers
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.contracts.registry import RegistryIdentity

_FOREIGN_ID = "c0ffee00c0ffee00"
"""The id of a registry that does not exist."""


def open_servers(settings: Settings, classes: Classes) -> tuple[Servers, Callable[[], None]]:
    """Return the stores of these settings, and what closes them. Connects to no server.

    Raises ConfigurationError if no Redis is configured.
    """
    settings.require_redis_url()
    backup, entries = classes.backup(settings), BackupTable(settings)
    backup.registry = classes.registry_item(backup)
    store = classes.store(settings, registry_id=backup.registry.id)
    messages, table = classes.messages(settings), MessagesTable(settings)

    def identify() -> RegistryIdentity:
        """Check the table of both anew: between two rounds it may have been replaced."""
        backup.registry.forget_check()
        return entries.registry.read(recheck=True)

    servers = Servers(
        settings,
        classes,
        store,
        backup,
        messages,
        table,
        entries,
        identify,
        cooled=lambda: not entries.registry.serves_older_clients(),
        foreign=lambda: classes.store(replace(settings, registry_id=_FOREIGN_ID)),
        check_lost=lambda: backup.registry.check(None),
        forks=True,
    )
    with ExitStack() as stack:
        for one in (store, backup, entries, messages, table):
            stack.callback(one.close)
        return servers, stack.pop_all().close
