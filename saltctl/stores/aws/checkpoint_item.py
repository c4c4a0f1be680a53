"""The checkpoint of an interrupted rebuild: an item in the backup table, like the lease."""

from __future__ import annotations

from saltctl.stores.aws.backup_items import BackupItems, string_attribute

CHECKPOINT_ID = "#checkpoint"


class CheckpointItem:
    """Keeps one string, which the rebuild encodes and checks. Thread-safe.

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
