"""The checkpoint item in the backup table."""

from __future__ import annotations

from typing import Any

import pytest

from saltctl.errors import SaltctlError
from saltctl.stores.aws.backup_table import BackupTable
from tests.stores.aws.backup_helpers import put_items


def test_a_saved_checkpoint_is_loaded(backup: BackupTable) -> None:
    """The next one replaces it, and a deleted one is gone. Deleting none creates no item."""
    backup.checkpoint.delete()
    assert backup.read_item("#checkpoint") is None
    assert backup.checkpoint.load() is None
    for content in ("first: ä", "second"):
        backup.checkpoint.save(content)
        assert backup.checkpoint.load() == content
    backup.checkpoint.delete()
    assert backup.read_item("#checkpoint") == {"conversation_id": {"S": "#checkpoint"}}
    assert backup.checkpoint.load() is None
    backup.checkpoint.delete()


def test_a_failed_save_keeps_the_old_checkpoint(backup: BackupTable) -> None:
    """DynamoDB refuses an item of more than 400 KB as a whole."""
    backup.checkpoint.save("first")
    with pytest.raises(SaltctlError):
        backup.checkpoint.save("x" * 410_000)
    assert backup.checkpoint.load() == "first"


@pytest.mark.parametrize("value", [{"N": "1"}, {"B": b"first"}, {"NULL": True}, {"M": {"S": {"S": "first"}}}])
def test_a_checkpoint_of_another_type_is_empty(backup: BackupTable, value: dict[str, Any]) -> None:
    """An empty string is not a checkpoint, so the rebuild refuses it."""
    put_items(backup, {"conversation_id": {"S": "#checkpoint"}, "rebuild_checkpoint": value})
    assert backup.checkpoint.load() == ""
