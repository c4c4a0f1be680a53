"""A recovery in a process of its own, for tests that kill it. Imported once by the server that forks them."""

from __future__ import annotations

import os
from typing import Any

from saltctl.history.models import message_id_of
from saltctl.rebuild.options import RebuildOptions
from saltctl.registry.recovery.recover import Recovery
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.redis.registry import RedisRegistry

PAGE = 5
SEGMENTS = 2
WARM = "SALTCTL_TEST_WARM"
if WARM in os.environ:
    # In the server that forks: reading the service's model takes most of a client's time, and is done once.
    create_client(Settings(aws_region="us-east-1", aws_endpoint_url="http://127.0.0.1:1"), "dynamodb")


def small_pages(messages: MessagesTable) -> None:
    """Limit the pages of the messages to PAGE rows."""

    def limit(params: dict[str, Any], **_: object) -> dict[str, Any] | None:
        return params | {"Limit": PAGE} if params["TableName"] == messages.name else None

    messages.client.meta.events.register("provide-client-params.dynamodb.Scan", limit)


def recovery(settings: Settings, now: float, **options: Any) -> Recovery:
    """Return a recovery that has not started. It saves a checkpoint after each page."""
    backup, messages = BackupTable(settings), MessagesTable(settings)
    small_pages(messages)
    store = RedisRegistry(settings, registry_id=backup.registry.id)
    wanted = RebuildOptions(**{"segments": SEGMENTS, "checkpoint_every": 0.0} | options)
    return Recovery(
        settings,
        store,
        backup,
        messages,
        lambda row: message_id_of(row, messages.keys, None),
        wanted,
        now=lambda: now,
    )


def recover(settings: Settings, now: float) -> None:
    """Recover, in the child process."""
    job = recovery(settings, now)
    for _ in job.run(job.plan()):
        pass
