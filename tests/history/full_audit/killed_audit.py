"""An audit of all conversations in a process of its own, for tests that kill it."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Any

from saltctl.history.full_audit.events import FullAudit, FullAuditOptions
from saltctl.history.full_audit.full_audit import FullAuditor
from saltctl.history.history import History
from saltctl.registry.mending import find_damage
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.audit_item import AuditItem
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.redis.registry import RedisRegistry

WARM = "SALTCTL_TEST_WARM"
if WARM in os.environ:  # as in tests/registry/killed_recovery.py
    create_client(Settings(aws_region="us-east-1", aws_endpoint_url="http://127.0.0.1:1"), "dynamodb")


def audit(settings: Settings, now: float, **options: Any) -> FullAudit:
    """Run once, at this time, and save after each conversation."""
    backup, messages = BackupTable(settings), MessagesTable(settings)
    with closing(RedisRegistry(settings, registry_id=backup.registry.id)) as store:
        registry = Registry.over(settings, store, backup)
        with History.over(settings, registry, messages) as history:
            wanted = FullAuditOptions(**{"cap": settings.max_n_cap, "page": 4} | options)
            *_, report = FullAuditor(
                history,
                backup,
                AuditItem(backup),
                lambda conversation: find_damage(store, backup, conversation),
                wanted,
                settings.messages_table,
                save_every=0.0,
                now=lambda: now,
            ).run()
    assert isinstance(report, FullAudit)
    return report
