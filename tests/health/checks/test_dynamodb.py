"""Checks of the tables: their states, and the fixes of their errors."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from saltctl.errors import AccessDeniedError, AwsUnavailableError, SaltctlError
from saltctl.health.checks import dynamodb
from saltctl.stores.aws.failures.refusals import check_usable
from tests.health.fakes import FakeFacts


def _facts(table: dict[str, Any] | SaltctlError) -> Any:
    facts: Any = FakeFacts({})
    if_lost = "saltctl recover --dry-run"

    def describe(_: object) -> dict[str, Any]:
        if isinstance(table, SaltctlError):
            raise table
        check_usable(table, "'t'", if_lost)
        return table

    facts.describe, facts.backup, facts.messages = describe, Mock(), Mock()
    return facts


@pytest.mark.parametrize("check", [dynamodb.backup_table, dynamodb.messages_table])
@pytest.mark.parametrize(
    ("table", "fix", "detail"),
    [
        ("CREATING", "aws dynamodb wait table-exists --table-name {name}", ""),
        (
            "DELETING",
            "aws dynamodb wait table-not-exists --table-name t && saltctl recover --dry-run",
            "is being deleted",
        ),
        ("ARCHIVED", "aws dynamodb list-backups --backup-type ALL --table-name t", "restore the table"),
        ("INACCESSIBLE_ENCRYPTION_CREDENTIALS", "aws dynamodb describe-table --table-name t", "enable the table's KMS"),
        (AccessDeniedError("m", hint="aws sso login --profile p"), "aws sso login --profile p", "m"),
        (AwsUnavailableError("m"), "aws dynamodb describe-table --table-name {name}", "m"),
        (AccessDeniedError("m", hint="check the clock"), "aws sts get-caller-identity", "check the clock"),
    ],
    ids=str,
)
def test_the_fix_is_the_hint_of_the_commands(check: Any, table: str | SaltctlError, fix: str, detail: str) -> None:
    """Its command is the fix, and the rest is in the detail."""
    facts = _facts({"TableStatus": table} if isinstance(table, str) else table)
    found = check(facts)
    name = facts.settings.backup_table if check is dynamodb.backup_table else facts.settings.messages_table
    assert (found.status, found.fix) == ("fail", fix.format(name=name))
    assert detail in found.detail
