"""The classes that a client consists of. Tests replace one by a mutant, and the canary has to find it."""

from __future__ import annotations

from dataclasses import dataclass

from saltctl.cooling.cooling import Cooling
from saltctl.history.history import History
from saltctl.registry.registry import Registry
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.aws.registry_item import RegistryItem
from saltctl.stores.redis.registry import RedisRegistry


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of the stores, and of what works on them."""

    store: type[RedisRegistry] = RedisRegistry
    backup: type[BackupTable] = BackupTable
    registry: type[Registry] = Registry
    messages: type[MessagesTable] = MessagesTable
    registry_item: type[RegistryItem] = RegistryItem
    cooling: type[Cooling] = Cooling
    history: type[History] = History
