"""The state of ``saltctl history audit --all``, and the lease of the run in progress: an item of the backup table."""

from __future__ import annotations

from saltctl.stores.aws.backup_items import BackupItems, string_attribute
from saltctl.stores.aws.rebuild_items import LeaseItem

AUDIT_ID = "#audit"


class AuditItem:
    """Keeps the state: a string, which the audit encodes and checks. Thread-safe."""

    def __init__(self, items: BackupItems) -> None:
        self._items = items
        self.lease = LeaseItem(items, AUDIT_ID)
        """The lease of a run: part of this item, so that a run without it cannot write the state."""

    def load(self) -> str | None:
        """Return the state; None if there is none, and an empty string if it is not a string."""
        item = self._items.read_item(AUDIT_ID) or {}
        return string_attribute(item, "audit_state") if "audit_state" in item else None

    def save(self, owner: str, state: str, now: float, progress: str) -> bool:
        """Replace the state and renew the lease, in one write; False if another process has taken the lease over."""
        saved = self._items.update_item(
            AUDIT_ID,
            "SET audit_state = :state, lease_heartbeat = :now, lease_progress = :progress",
            "lease_owner = :owner",
            {
                ":state": {"S": state},
                ":now": {"N": f"{now:.3f}"},
                ":progress": {"S": progress},
                ":owner": {"S": owner},
            },
        )
        return saved is not None

    def replace(self, before: str, after: str, checksum: int = 64) -> bool:
        """Replace the state unless it has changed since it was read; return whether it was replaced.

        A state begins with ``checksum`` characters that no other one begins with.
        """
        values = {":after": {"S": after}, ":before": {"S": before[:checksum]}}
        condition = "begins_with(audit_state, :before)"
        return self._items.update_item(AUDIT_ID, "SET audit_state = :after", condition, values) is not None
