"""A backup table that an incident took, or replaced."""

from __future__ import annotations

from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.registry_item import REGISTRY_ITEM_ID


def delete_backup(settings: Settings) -> None:
    """Delete the table, as a person who has taken off its protection."""
    backup = BackupTable(settings)
    backup.client.update_table(TableName=backup.name, DeletionProtectionEnabled=False)
    backup.client.delete_table(TableName=backup.name)


def restore_backup(settings: Settings) -> None:
    """Leave the table as a restore does: its identity is that of another table."""
    backup = BackupTable(settings)
    backup.client.update_item(
        TableName=backup.name,
        Key={"conversation_id": {"S": REGISTRY_ITEM_ID}},
        UpdateExpression="SET claimed_tables.#region = :other",
        ExpressionAttributeNames={"#region": backup.client.meta.region_name},
        ExpressionAttributeValues={":other": {"S": "another-table"}},
    )
