"""Tables that no retry makes usable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError  # noqa: TID253  the error under test

from saltctl.errors import AccessDeniedError, AwsUnavailableError, ConfigurationError
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.failures.errors import to_saltctl_error
from saltctl.stores.aws.failures.refusals import check_usable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.bounded.aws_requests import REFUSALS
from saltctl.stores.contracts.messages import PartitionQuery
from tests.support.aws_stub import Answer, AwsStub
from tests.support.slow_servers import SlowServer

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
        ("InvalidAction", "m", 78),
        ("MissingAction", "m", 78),
        ("AccountProblem", "m", 77),
        ("NotSignedUp", "m", 77),
        ("407", "m", 77),
        ("403", "m", 69),
        ("SlowDown", "m", 69),
        ("429", "m", 69),
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


def test_credentials_that_are_renewed_are_refused_ones() -> None:
    """Once there are no other ones, the same codes end with 77."""
    for code in REFUSALS:
        error = to_saltctl_error(ClientError({"Error": {"Code": code}}, "GetItem"), "'messages'")
        assert (code, error.exit_code) == (code, 77)


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 405, 413])
def test_a_status_without_a_code_is_not_from_aws(settings: Settings, status: int) -> None:
    """Every refusal of AWS has a code. The hint names the proxy, and the message names no permission."""
    with AwsStub("http://127.0.0.1:1") as stub:
        stub.rule = lambda operation, request: (status, b"<html>no</html>")
        with pytest.raises(AwsUnavailableError) as caught:
            BackupTable(stub.settings(settings)).describe()
    assert f"does not come from AWS: status {status}, with no error code" in caught.value.message
    assert "HTTPS_PROXY" in caught.value.hint


@pytest.mark.parametrize("asks_for_role", [False, True])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_login(
    settings: Settings, scheme: str, asks_for_role: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exit 77: a retry does not help. The hint says where the user and the password belong."""
    if asks_for_role:
        role = "role_arn = arn:aws:iam::111122223333:role/x\nsource_profile = base\n"
        keys = "aws_access_key_id = a\naws_secret_access_key = b\n"
        (tmp_path / "config").write_text(f"[profile role]\n{role}[profile base]\n{keys}")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"{scheme}://sts.example")
        settings = replace(settings, aws_profile="role", aws_timeout=10.0)
    monkeypatch.delenv("NO_PROXY", raising=False)
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    with SlowServer(refusal) as proxy:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://me:s3cret@127.0.0.1:{proxy.port}")
        there = replace(settings, aws_endpoint_url=f"{scheme}://dynamodb.example", aws_region="us-east-1")
        with pytest.raises(AccessDeniedError, match="it wants another user or password") as caught:
            BackupTable(there).describe()
        assert proxy.connections == 1  # further attempts would take the time, and the error would be an outage
    assert "USER:PASSWORD@HOST:PORT" in caught.value.hint
    assert "s3cret" not in str(caught.value)
