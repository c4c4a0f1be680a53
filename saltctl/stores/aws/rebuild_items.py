"""The items of rebuilds in the backup table: the lease, and the checkpoints of an interrupted rebuild or recovery.

Like every other item they are written by UpdateItem alone, so that no role needs PutItem or DeleteItem.
"""

from __future__ import annotations

from itertools import count

from saltctl.stores.aws.backup_items import BackupItems, number_attribute, string_attribute
from saltctl.stores.contracts.registry import LeaseHolder

LEASE_ID = "#lease"
CHECKPOINT_ID = "#checkpoint"
SCAN_ID = "#recovery"


class LeaseItem:
    """The lease store on DynamoDB. Thread-safe. See ``contracts.LeaseStore`` for the semantics.

    ``item_id`` is the item that has the lease: that of rebuilds and recoveries, or another job's own.
    """

    def __init__(self, items: BackupItems, item_id: str = LEASE_ID) -> None:
        self._items = items
        self._id = item_id

    def acquire(self, owner: str, now: float, *, host: str, pid: int, expiry: float) -> LeaseHolder | None:
        """Take the lease if it is free or its holder has stopped renewing it."""
        for _ in range(3):
            taken = self._items.update_item(
                self._id,
                "SET lease_owner = :owner, lease_host = :host, lease_pid = :pid, lease_since = :now, "
                "lease_heartbeat = :now, lease_progress = :progress",
                # A lease that was edited by hand and has no time must not block every rebuild for ever.
                "attribute_not_exists(lease_owner) OR lease_owner = :owner OR "
                "NOT attribute_type(lease_heartbeat, :number) OR lease_heartbeat < :expired",
                {
                    ":owner": {"S": owner},
                    ":host": {"S": host},
                    ":pid": {"N": str(pid)},
                    ":now": {"N": f"{now:.3f}"},
                    ":expired": {"N": f"{now - expiry:.3f}"},
                    ":number": {"S": "N"},
                    ":progress": {"S": "starting"},
                },
            )
            if taken is not None:
                return None
            # The holder may release the lease between the failed update and this read: then try again.
            if holder := self.holder():
                return holder
        return LeaseHolder("unknown", "unknown", 0, now, now, "")

    def renew(self, owner: str, now: float, progress: str) -> bool:
        """Write a heartbeat; False if another process has taken the lease over."""
        renewed = self._items.update_item(
            self._id,
            "SET lease_heartbeat = :now, lease_progress = :progress",
            "lease_owner = :owner",
            {":owner": {"S": owner}, ":now": {"N": f"{now:.3f}"}, ":progress": {"S": progress}},
        )
        return renewed is not None

    def release(self, owner: str) -> None:
        """Free the lease if this owner still holds it."""
        self._items.update_item(
            self._id, "REMOVE lease_owner, lease_heartbeat", "lease_owner = :owner", {":owner": {"S": owner}}
        )

    def holder(self) -> LeaseHolder | None:
        """Read the current holder, even if its heartbeat is old; None if the lease is free."""
        item = self._items.read_item(self._id) or {}
        if "lease_owner" not in item:
            return None
        return LeaseHolder(
            string_attribute(item, "lease_owner") or "unknown",
            string_attribute(item, "lease_host") or "unknown",
            int(number_attribute(item, "lease_pid")),
            number_attribute(item, "lease_since"),
            number_attribute(item, "lease_heartbeat"),
            string_attribute(item, "lease_progress"),
        )


class CheckpointItem:
    """Keeps a checkpoint: a string, which the rebuild encodes and checks. Thread-safe.

    Only the holder of the lease writes here. No condition enforces that, because a checkpoint proves itself: it is of
    use only while every bucket has its token. A write after the lease was lost costs a later rebuild time, not safety.
    """

    def __init__(self, items: BackupItems) -> None:
        self._items = items

    def load(self) -> str | None:
        """Return the checkpoint; None if there is none, and an empty string if it is not a string."""
        item = self._items.read_item(CHECKPOINT_ID) or {}
        return string_attribute(item, "rebuild_checkpoint") if "rebuild_checkpoint" in item else None

    def save(self, checkpoint: str) -> None:
        """Replace the checkpoint, as a whole or not at all."""
        self._items.update_item(CHECKPOINT_ID, "SET rebuild_checkpoint = :new", values={":new": {"S": checkpoint}})

    def delete(self) -> None:
        """Delete the checkpoint if there is one. The condition keeps an empty item from being created."""
        self._items.update_item(CHECKPOINT_ID, "REMOVE rebuild_checkpoint", "attribute_exists(rebuild_checkpoint)")


class ScanCheckpointItems:
    """Keeps the parts of the checkpoint of a recovery, an item each. Thread-safe.

    As for :class:`CheckpointItem`, no condition is necessary: the parts prove themselves.
    """

    def __init__(self, items: BackupItems) -> None:
        self._items = items

    def load(self, number: int) -> bytes | None:
        """Return a part; None if there is none, and no bytes if it is not binary."""
        item = self._items.read_item(f"{SCAN_ID}-{number}") or {}
        return bytes(item["recovery_scan"].get("B", b"")) if "recovery_scan" in item else None

    def save(self, number: int, part: bytes) -> None:
        """Write or replace a part, as a whole or not at all."""
        self._items.update_item(f"{SCAN_ID}-{number}", "SET recovery_scan = :new", values={":new": {"B": part}})

    def delete(self) -> None:
        """Delete every part, the first one first; items without content stay."""
        for number in count():
            remove, exists = "REMOVE recovery_scan", "attribute_exists(conversation_id)"
            if not self._items.update_item(f"{SCAN_ID}-{number}", remove, exists):
                return
