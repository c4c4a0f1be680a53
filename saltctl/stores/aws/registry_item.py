"""The item ``#registry`` of the backup table: which registry the table belongs to, and in which table it was claimed.

A table that was restored or copied holds the item, too, but has another identity: its max_n may have gone back. Only
``saltctl setup`` and ``saltctl recover`` write the identity, so a lost table is never taken for a new registry.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from saltctl.commands import join_words
from saltctl.errors import (
    AccessDeniedError,
    BackupLostError,
    OtherRegistryError,
    RebuildBrokenError,
    UnavailableError,
)
from saltctl.stores.aws.backup_items import BackupItems, number_attribute, string_attribute
from saltctl.stores.aws.failures.errors import NEW_OR_LOST
from saltctl.stores.contracts.registry import RegistryIdentity
from saltctl.values import NEW_ID_DIGITS, REGISTRY_ID

REGISTRY_ITEM_ID = "#registry"
PLAIN_FORMAT = 1
"""The format of a registry in which no conversation was ever cooled."""
COOLED_FORMAT = 2
"""The format of entries from the first cool-down on. A client that does not know the format of a table is refused."""
TABLE_CHECK_SECONDS = 60.0
"""Seconds for which a checked identity of the table is valid: DescribeTable has a low rate limit."""
_RECOVER = "saltctl recover"


class RegistryItem:
    """Reads, checks and writes the item. Thread-safe.

    Args:
        items: the backup table.
        clock: returns monotonic seconds.
    """

    def __init__(self, items: BackupItems, clock: Callable[[], float] = time.monotonic) -> None:
        self._items = items
        self._clock = clock
        self._known_id = ""
        self._checked: tuple[str, float] | None = None
        self.table_unchecked = ""
        """Why the identity of the table could not be compared; empty if it was, or before the first check."""

    def id(self) -> str:
        """Return the registry id: the setting, or the one that this process has read last.

        Raises:
            As :meth:`read`, if the id is not known yet.
        """
        known = self._items.settings.registry_id or self._known_id
        return known or self.check(self._items.read_item(REGISTRY_ITEM_ID)).registry_id

    def read(self, *, recheck: bool = False) -> RegistryIdentity:
        """Read the item, strongly consistent, and check it; ``recheck`` asks for the table's identity in any case.

        Raises:
            BackupLostError: the item is missing or damaged, or the table is not the one that was claimed.
            OtherRegistryError: it is of another layout, format or registry than this client's.
        """
        if recheck:
            self.forget_check()
        item = self._items.read_item(REGISTRY_ITEM_ID)
        identity = self.check(item)
        self._check_layout(item or {})
        return identity

    def check(self, item: Mapping[str, Any] | None) -> RegistryIdentity:
        """Check an item that was just read, but not its layout, on which no item of the table depends.

        Raises:
            As :meth:`read`.
        """
        where, settings = self._items.where, self._items.settings
        if item is None:
            raise BackupLostError(
                f"table {where} has no item {REGISTRY_ITEM_ID!r}: it is not the backup of a registry",
                hint=NEW_OR_LOST,
            )
        if (found := number_attribute(item, "registry_format")) > COOLED_FORMAT:
            raise OtherRegistryError(
                f"the registry of table {where} has format {found:g}, "
                f"and this saltctl knows formats up to {COOLED_FORMAT}",
                hint="upgrade saltctl on this machine",
            )
        registry_id = string_attribute(item, "registry_id")
        if not re.fullmatch(REGISTRY_ID, registry_id):
            raise self._damaged("its registry_id")
        if settings.registry_id not in (None, registry_id):
            raise OtherRegistryError(
                f"table {where} is the backup of registry {registry_id}, and this client is set to "
                f"{settings.registry_id}",
                hint=f"name the other table in SALTCTL_BACKUP_TABLE, or this registry:\n"
                f"export SALTCTL_REGISTRY_ID={registry_id}",
            )
        self._check_table(_tables(item))
        self._known_id = registry_id
        verifying = frozenset(item.get("verifying", {}).get("SS", ()))
        return RegistryIdentity(registry_id, verifying, string_attribute(item, "rebuild_token"))

    def layout(self) -> tuple[str, str, str]:
        """Return the layout, the key prefix and the registry id that the item records, unchecked; empty if missing."""
        item = self._items.read_item(REGISTRY_ITEM_ID) or {}
        layout, prefix, registry_id = (string_attribute(item, n) for n in ("layout", "key_prefix", "registry_id"))
        return layout, prefix, registry_id

    def _check_layout(self, item: Mapping[str, Any]) -> None:
        """Refuse another layout than the one of the table: raises would land in buckets that no reader asks."""
        settings, where = self._items.settings, self._items.where
        layout, prefix = string_attribute(item, "layout"), string_attribute(item, "key_prefix")
        if not (layout and prefix):
            raise self._damaged("its layout or key_prefix")
        if (layout, prefix) != (settings.layout, settings.key_prefix):
            raise OtherRegistryError(
                f"the registry of table {where} is laid out as {layout} under the prefix {prefix!r}, "
                f"and this client is set to {settings.layout} under {settings.key_prefix!r}",
                hint=join_words(
                    ["export", f"SALTCTL_BUCKETS={layout.rpartition(':')[2]}", f"SALTCTL_KEY_PREFIX={prefix}"]
                ),
            )

    def _damaged(self, attribute: str) -> BackupLostError:
        message = f"the item {REGISTRY_ITEM_ID!r} of table {self._items.where} is damaged: {attribute} is not valid"
        return BackupLostError(message, hint=_RECOVER)

    def _check_table(self, claimed: Mapping[str, str]) -> None:
        """Refuse a table with another identity than the claimed one. Asks for it at most once a minute."""
        expected, now = claimed.get(self.region, ""), self._clock()
        checked = self._checked
        if checked is not None and checked[0] == expected and now < checked[1]:
            return
        try:
            found = self.table_identity()
        except AccessDeniedError as exc:
            self.table_unchecked = exc.message
            found = expected
        except UnavailableError:
            # The table answered a moment ago, so it exists. If it was right before, it cannot have been replaced
            # without an answer that it is missing.
            if checked is None or checked[0] != expected:
                raise
            found = expected
        else:
            self.table_unchecked = ""
        if found != expected:
            raise BackupLostError(
                f"table {self._items.where} is not the table that its registry was created in: it was restored or "
                "copied, so raises may be missing in it",
                hint=_RECOVER,
            )
        self._checked = (expected, now + TABLE_CHECK_SECONDS)

    def forget_check(self) -> None:
        """Ask for the table's identity at the next check: a request failed, so the table may have been replaced."""
        self._checked = None

    @property
    def region(self) -> str:
        """The Region of the table."""
        return str(self._items.settings.aws_region or self._items.client.meta.region_name)

    def table_identity(self) -> str:
        """Return the identity of the table that is there now."""
        return self._items.identity()

    def exists(self) -> bool:
        """Return whether the table has the item, whatever it holds."""
        return self._items.read_item(REGISTRY_ITEM_ID) is not None

    def create(self) -> None:
        """Make the table the backup of a new registry, unless it is the backup of one already."""
        self._write(
            self._items.settings.registry_id or secrets.token_hex(NEW_ID_DIGITS // 2),
            "attribute_not_exists(conversation_id)",
            self.table_identity(),
        )

    def admit_replica(self) -> None:
        """Record the identity of this Region's table if it is a replica of a claimed one (a global table)."""
        claimed = _tables(self._items.read_item(REGISTRY_ITEM_ID) or {})
        replicas = {replica.get("RegionName") for replica in self._items.require().get("Replicas", ())}
        if self.region not in claimed and replicas & claimed.keys():
            self._items.update_item(
                REGISTRY_ITEM_ID,
                "SET claimed_tables.#region = :identity",
                "attribute_exists(claimed_tables)",
                {":identity": {"S": self.table_identity()}},
                {"#region": self.region},
            )

    def recorded_ids(self) -> set[str]:
        """Return the id of the registry and the one that it replaced, unchecked, as far as the item has them."""
        item = self._items.read_item(REGISTRY_ITEM_ID) or {}
        return {string_attribute(item, name) for name in ("registry_id", "replaces")} - {""}

    def claim(self, table: str, *, replaces: str, cooled: bool = False) -> str:
        """Make the table, if it still has the identity ``table``, the backup of its registry; return its new id.

        The id is a new one, unless a setting names it: clients of a table that is gone must not take Redis for theirs.
        ``replaces`` is the id that Redis holds until it is rebuilt; empty if it holds none. ``cooled``: the table has
        entries that older clients do not know.
        """
        registry_id = self._items.settings.registry_id or secrets.token_hex(NEW_ID_DIGITS // 2)
        self._write(registry_id, "", table, replaces)
        if cooled:
            self.allow_cooling()
        return registry_id

    def _write(self, registry_id: str, condition: str, table: str, replaces: str = "") -> None:
        settings = self._items.settings
        replace = ", replaces = :replaces REMOVE" if replaces else " REMOVE replaces,"
        self.forget_check()
        self._items.update_item(
            REGISTRY_ITEM_ID,
            "SET registry_id = :id, layout = :layout, key_prefix = :prefix, "
            "registry_format = if_not_exists(registry_format, :format), "
            f"claimed_tables = :tables{replace} verifying, rebuild_token",
            condition,
            {
                ":id": {"S": registry_id},
                ":layout": {"S": settings.layout},
                ":prefix": {"S": settings.key_prefix},
                ":format": {"N": str(PLAIN_FORMAT)},
                ":tables": {"M": {self.region: {"S": table}}},
            }
            | ({":replaces": {"S": replaces}} if replaces else {}),
        )
        self._known_id = ""

    def allow_cooling(self) -> bool:
        """Record that entries may be cooled, so that older clients are refused; return whether they were not before.

        Writes nothing if that is recorded, so that it needs no right to write this item then.
        """
        if not self.serves_older_clients():
            return False
        number = {":cooled": {"N": str(COOLED_FORMAT)}}
        recorded = self._items.update_item(
            REGISTRY_ITEM_ID, "SET registry_format = :cooled", "registry_format < :cooled", number
        )
        return recorded is not None

    def serves_older_clients(self) -> bool:
        """Return whether clients are served that do not know cooled entries: nothing was ever cooled."""
        item = self._items.read_item(REGISTRY_ITEM_ID) or {}
        return number_attribute(item, "registry_format") < COOLED_FORMAT

    def note_rebuild(self, before: RegistryIdentity, token: str, replication_ids: Collection[str]) -> RegistryIdentity:
        """Record the primaries that a rebuild is going to verify, before it scans; return the new identity.

        Raises:
            RebuildBrokenError: another rebuild, or a recovery, has begun since ``before`` was read.
        """
        written = self._items.update_item(
            REGISTRY_ITEM_ID,
            "SET rebuild_token = :token, verifying = :ids",
            "registry_id = :id AND "
            + ("rebuild_token = :before" if before.rebuild_token else "attribute_not_exists(rebuild_token)"),
            {":ids": {"SS": sorted(replication_ids)}, ":id": {"S": before.registry_id}, ":token": {"S": token}}
            | ({":before": {"S": before.rebuild_token}} if before.rebuild_token else {}),
        )
        if written is None:
            raise RebuildBrokenError("another rebuild or recovery has begun since", hint="saltctl rebuild")
        return RegistryIdentity(before.registry_id, frozenset(replication_ids), token)


def _tables(item: Mapping[str, Any]) -> dict[str, str]:
    """Return the identity of the claimed table by Region."""
    claimed = item.get("claimed_tables", {}).get("M", {})
    return {region: string_attribute(claimed, region) for region in claimed}
