"""DynamoDB fails, throttles, or loses the table during a rebuild."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from saltctl.errors import (
    AwsUnavailableError,
    ConfigurationError,
)
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.registry import RedisRegistry
from tests.rebuild.harness import (
    ENTRIES,
    Opener,
    assert_unverified,
    assert_verified,
    drive,
)
from tests.support.aws_stub import AwsStub, refusal

pytestmark = pytest.mark.slow


def test_a_failing_backup_verifies_nothing(
    behind_stub: BackupTable, stub: AwsStub, store: RedisRegistry, registry: Registry, job: Opener
) -> None:
    """Server errors after the first page: the rebuild fails, even if its lease cannot be released.

    The note of the rebuild can be read, so that the first page is merged, however early the next one fails.
    """
    failing = threading.Event()

    def rule(operation: str, request: dict[str, Any]) -> Any:
        if operation == "Scan" and "ExclusiveStartKey" in request:
            failing.set()
        return refusal("InternalServerError", 500) if failing.is_set() and operation != "GetItem" else None

    stub.rule = rule
    with pytest.raises(AwsUnavailableError, match="server error"):
        drive(job(from_backup=behind_stub))
    assert_unverified(store, registry)
    assert 0 < sum(n is not None for n in store.read_unverified(list(ENTRIES)).values()) <= 7


def test_throttled_heartbeats_do_not_stop_the_rebuild(
    behind_stub: BackupTable, stub: AwsStub, store: RedisRegistry, job: Opener
) -> None:
    """Safety does not depend on the lease: a rebuild with throttled heartbeats completes."""

    def rule(operation: str, request: dict[str, Any]) -> Any:
        beat = operation == "UpdateItem" and "lease_progress = :progress" in request["UpdateExpression"]
        return refusal("ThrottlingException") if beat and "lease_owner" not in request["UpdateExpression"] else None

    stub.rule = rule
    drive(job(from_backup=behind_stub))
    assert stub.seen.count("UpdateItem") > 3
    assert_verified(store)


def test_a_throttled_scan_is_retried(
    behind_stub: BackupTable, stub: AwsStub, store: RedisRegistry, job: Opener
) -> None:
    """Throttling is waited out: a recovery must not fail because everybody recovers at once."""
    stub.answer_first(2, "Scan", refusal("ProvisionedThroughputExceededException"))
    drive(job(from_backup=behind_stub))
    assert_verified(store)


def test_a_deleted_table_verifies_nothing(
    filled: BackupTable, store: RedisRegistry, job: Opener, settings: Settings
) -> None:
    """ConfigurationError: an empty backup must not be taken for a registry in which nothing is salted."""

    def at(point: str) -> None:
        if point == "RebuildProgress":
            filled.client.update_table(TableName=settings.backup_table, DeletionProtectionEnabled=False)
            filled.client.delete_table(TableName=settings.backup_table)

    with pytest.raises(ConfigurationError, match="there is no DynamoDB table"):
        drive(job(at), at)
    assert set(store.verified().values()) == {False}
