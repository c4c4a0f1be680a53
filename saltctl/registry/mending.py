"""Mend what was damaged by hand: the item of a conversation in the backup, or its value in Redis.

No default may take its place. The N that is set is never below what Redis holds, or what the item and the messages
show, so that no reader misses a message afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from saltctl.errors import IncompleteError, SaltctlError
from saltctl.registry.registry import Registry
from saltctl.salting import check_conversation_id, check_salt_count, power_of_two_at_least
from saltctl.stores.aws.backup_items import DamagedItem, read_damage, replace_damage
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.entries import CooledEntry, max_n_of
from saltctl.stores.contracts.registry import Raise
from saltctl.stores.redis.buckets import UNREADABLE
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.times import iso_utc


@dataclass(frozen=True, slots=True)
class Damage:
    """What is damaged of a conversation. ``at_least``: the N that the other side, and the damaged item itself, show.

    ``item`` is None if the damage is in Redis alone.
    """

    conversation_id: str
    problem: str
    at_least: int
    item: DamagedItem | None = None
    epoch: int = 0
    """That of the newest cool-down which the item or Redis shows; 0 if neither does."""


def find_damage(store: RedisRegistry, backup: BackupTable, conversation_id: str) -> Damage | None:
    """Return what is damaged of a conversation; None if nothing is.

    Raises:
        InvalidConversationIdError: this cannot be a conversation id.
        UnavailableError, AccessDeniedError, ConfigurationError: the backup cannot be read; or its item is damaged, and
            Redis, which may hold more, cannot be read. Otherwise lookups say what is wrong with Redis.
    """
    check_conversation_id(conversation_id)
    item = read_damage(backup, conversation_id)
    try:
        held = store.read_unverified([conversation_id])[conversation_id]
    except SaltctlError:
        if item is None:
            return None
        raise
    if item is not None:
        at_least = power_of_two_at_least(max(item.at_least, max_n_of(held or 1)))
        epoch = max(item.epoch, held.epoch if isinstance(held, CooledEntry) else 0)
        return Damage(conversation_id, f"its item in the backup: {item.problem}", at_least, item, epoch)
    if held != UNREADABLE:
        return None
    entry = backup.get(conversation_id)
    at_least = power_of_two_at_least(entry.max_n if entry else 1)
    return Damage(conversation_id, "its value in Redis is not a salt count", at_least)


def mend(registry: Registry, backup: BackupTable, damage: Damage, n: int, reason: str) -> None:
    """Set the N of the conversation in the backup and in Redis, by the steps of a raise.

    Raises:
        InvalidSaltCountError: n is no power of two, or is above the cap.
        IncompleteError: the item has changed since its damage was found.
        SaltctlError: as Registry.raise_to.
    """
    check_salt_count(n, registry.cap)
    if damage.item is None:
        held = registry.backup.get(damage.conversation_id)
        if held is not None and held.max_n >= n:
            registry.complete(damage.conversation_id)
        else:
            registry.raise_to(damage.conversation_id, n, reason=reason)
        return
    registry.backup.check_registry()
    entry = Raise(n, iso_utc(registry.now()), registry.actor, reason)
    # A boundary may be newer than raises that the damaged item had, so it is taken back, by a newer epoch.
    epoch = damage.epoch + 1 if damage.epoch else 0
    if not replace_damage(backup, damage.item, entry, epoch):
        raise IncompleteError(
            f"the item of {damage.conversation_id!r} has changed since it was read", hint="run the same again"
        )
    registry.on_raise(damage.conversation_id)
    registry.complete(damage.conversation_id)
