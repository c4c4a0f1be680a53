"""Tables that no retry makes usable."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError  # noqa: TID253  the error under test

from saltctl.errors import ConfigurationError
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.failures.errors import to_saltctl_error
from saltctl.stores.aws.failures.refusals import check_usable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.contracts.messages import PartitionQuery
from tests.support.aws_stub import Answer, AwsStub

KEY = "arn:aws:kms:us-east-1:111122223333:key/1"


@pytest.mark.parametrize(
    ("table", "hint"),
    [
        ({"TableStatus": "ARCHIVED"}, "restore the table"),
        ({"TableStatus": "ARCHIVING"}, "restore the table"),
        ({"TableStatus": "DELETING"}, "aws dynamodb wait table-not-exists --table-name 'messages'"),
        ({"TableStatus": "INACCESSIBLE_ENCRYPTION_CREDENTIALS"}, "enable the table's KMS key"),
        (
            {"TableStatus": "INACCESSIBLE_ENCRYPTION_CREDENTIALS", "SSEDescription": {"KMSMasterKeyArn": KEY}},
            f"aws kms enable-key --key-id {KEY}",
        ),
    ],
)
def test_a_table_that_is_lost_is_misconfigured(table: dict[str, Any], hint: str) -> None:
    """An outage would be retried for ever."""
    with pytest.raises(ConfigurationError) as caught:
        check_usable(table, "'messages'")
    assert hint in caught.value.hint


@pytest.mark.parametrize("status", ["ACTIVE", "UPDATING", "CREATING"])
def test_other_states_pass(status: str) -> None:
    """Their requests are answered, or fail by themselves."""
    check_usable({"TableStatus": status}, "'messages'")


@pytest.mark.parametrize("status", ["", "DELETING", "ARCHIVED"])
def test_a_recovery_is_suggested_for_the_backup_alone(settings: Settings, status: str) -> None:
    """Nothing but a restore brings the messages back. An empty ``status``: the table vanishes between two requests."""
    missing = ClientError({"Error": {"Code": "ResourceNotFoundException", "Message": "m"}}, "Query")

    def describe(TableName: str) -> Any:  # noqa: N803  as boto3 passes it
        keys = [{"AttributeName": "p", "KeyType": "HASH"}, {"AttributeName": "s", "KeyType": "RANGE"}]
        types = [{"AttributeName": name, "AttributeType": "S"} for name in "ps"]
        table = {"TableName": TableName, "TableStatus": status or "ACTIVE", "KeySchema": keys}
        return {"Table": table | {"AttributeDefinitions": types}}

    client: Any = Mock(query=Mock(side_effect=missing), get_item=Mock(side_effect=missing), describe_table=describe)
    with pytest.raises(ConfigurationError) as messages:
        MessagesTable(settings, client=client).query(PartitionQuery("c"))
    backup = BackupTable(settings, client=client)
    with pytest.raises(ConfigurationError) as other:
        _ = backup.describe() if status else backup.registry.read()
    assert "restore" in messages.value.hint
    assert "recover" not in messages.value.hint
    assert "saltctl recover --dry-run" in other.value.hint


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


@pytest.mark.parametrize(
    ("code", "message", "exit_code"),
    [
        ("KMSDisabledException", "m", 78),
        ("KMSNotFoundException", "m", 78),
        ("KMSInvalidStateException", "m", 78),
        ("InvalidParameterCombinationException", "m", 78),
        ("MissingParameter", "m", 78),
        ("LimitExceeded", "m", 78),
        ("TableNotFoundException", "m", 78),
        ("ResourceInUseException", "Table is being deleted: t", 78),
        ("ResourceInUseException", "Table is being created: t", 69),
        ("AccountProblem", "m", 77),
        ("MissingAuthenticationToken", "m", 77),
        ("KMSInternalException", "m", 69),
        ("KMSThrottlingException", "m", 69),
        ("ReplicatedWriteConflictException", "m", 69),
        ("TransactionConflictException", "m", 69),
    ],
)
def test_only_a_refusal_that_may_pass_is_an_outage(code: str, message: str, exit_code: int) -> None:
    """Cron retries an outage."""
    response: Any = {"Error": {"Code": code, "Message": message}}
    assert to_saltctl_error(ClientError(response, "GetItem"), "'messages'").exit_code == exit_code


def test_the_message_of_a_refusal_is_one_short_line() -> None:
    """A proxy may answer with a page."""
    response: Any = {"Error": {"Code": "Odd", "Message": "a\nb " * 1000}}
    message = to_saltctl_error(ClientError(response, "GetItem"), "'messages'").message
    assert "\n" not in message
    assert len(message) < 400
