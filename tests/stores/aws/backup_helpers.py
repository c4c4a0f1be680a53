"""Helpers for tests of the backup table."""

from __future__ import annotations

from typing import Any

from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.registry import Raise
from tests.support.aws_stub import refusal

THROTTLED = refusal("ProvisionedThroughputExceededException")


def make_raise(n: int, reason: str = "") -> Raise:
    """Make the record of a raise."""
    return Raise(n, "2024-05-01T12:00:00.000Z", "tester", reason)


def put_items(backup: BackupTable, *items: dict[str, Any]) -> None:
    """Write items without saltctl's checks."""
    for start in range(0, len(items), 25):
        requests = [{"PutRequest": {"Item": item}} for item in items[start : start + 25]]
        backup.client.batch_write_item(RequestItems={backup.name: requests})


def make_item(conversation_id: str, max_n: int, write_n: int | None = None) -> dict[str, Any]:
    """Make the item of a conversation; without write_n if that is None."""
    item: dict[str, Any] = {"conversation_id": {"S": conversation_id}, "max_n": {"N": str(max_n)}}
    return item if write_n is None else item | {"write_n": {"N": str(write_n)}}
