"""Tables that no retry makes usable."""

from __future__ import annotations

from typing import Any

import pytest

from saltctl.errors import ConfigurationError
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.failures.refusals import check_usable
from tests.support.aws_stub import Answer, AwsStub

KEY = "arn:aws:kms:us-east-1:111122223333:key/1"


@pytest.mark.parametrize(
    ("table", "hint"),
    [
        ({"TableStatus": "ARCHIVED"}, "restore the table"),
        ({"TableStatus": "ARCHIVING"}, "restore the table"),
        ({"TableStatus": "INACCESSIBLE_ENCRYPTION_CREDENTIALS"}, "enable the table's KMS key"),
        (
            {"TableStatus": "INACCESSIBLE_ENCRYPTION_CREDENTIALS", "SSEDescription": {"KMSMasterKeyArn": KEY}},
            f"aws kms enable-key --key-id {KEY}",
        ),
    ],
)
def test_a_table_without_its_key_is_misconfigured(table: dict[str, Any], hint: str) -> None:
    """An outage would be retried for ever."""
    with pytest.raises(ConfigurationError) as caught:
        check_usable(table, "'messages'")
    assert hint in caught.value.hint


@pytest.mark.parametrize("status", ["ACTIVE", "UPDATING", "CREATING", "DELETING"])
def test_other_states_pass(status: str) -> None:
    """Their requests are answered, or fail by themselves."""
    check_usable({"TableStatus": status}, "'messages'")


def test_a_described_table_is_checked(settings: Settings, backup: BackupTable) -> None:
    """By every command that describes it."""

    def archived(operation: str, request: dict[str, Any]) -> Answer:
        if operation != "DescribeTable":
            return None
        return 200, {"Table": {"TableName": request["TableName"], "TableStatus": "ARCHIVED"}}

    with AwsStub(settings.aws_endpoint_url or "") as stub:
        stub.rule = archived
        with pytest.raises(ConfigurationError, match="ARCHIVED"):
            BackupTable(stub.settings(settings)).describe()
