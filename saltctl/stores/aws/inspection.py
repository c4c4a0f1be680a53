"""Read-only checks of DynamoDB tables and of the permissions of these credentials, for ``saltctl doctor``.

Timeouts are short and requests are not retried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

from saltctl.errors import AccessDeniedError, AwsUnavailableError
from saltctl.settings import Settings
from saltctl.stores.aws.backup_items import KEY
from saltctl.stores.aws.client import aws_errors, create_client, describe_table, none_if_condition_fails
from saltctl.stores.contracts import TableKeys

PROBE_ID = "#doctor"
"""An id that no conversation can have. The item is never written."""
NEVER = "attribute_exists(#p) AND attribute_not_exists(#p)"


class AwsInspection:
    """Inspects DynamoDB. Thread-safe. Methods raise AwsUnavailableError, AccessDeniedError and ConfigurationError.

    Args:
        settings: the endpoint, the Region and the profile.
        client: a boto3 client for DynamoDB to use instead of a new one.
        now: seconds since the epoch.
    """

    def __init__(self, settings: Settings, *, client: Any = None, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._given = client
        self._now = now

    @cached_property
    def client(self) -> Any:
        """The boto3 client: it sends each request once."""
        return self._given or create_client(self._settings, "dynamodb", attempts=1)

    def describe(self, table: str) -> dict[str, Any] | None:
        """Return the ``Table`` of DescribeTable, or None if the table does not exist."""
        return describe_table(self.client, table)

    def point_in_time_recovery(self, table: str) -> bool:
        """Return whether the table can be restored to a point in time."""
        with aws_errors(f"{table!r}"):
            response = self.client.describe_continuous_backups(TableName=table)
        found = response["ContinuousBackupsDescription"].get("PointInTimeRecoveryDescription", {})
        return bool(found.get("PointInTimeRecoveryStatus") == "ENABLED")

    def skew(self) -> float | None:
        """Return AWS's clock minus the local clock, in seconds, accurate to a second; None if responses have no date.

        AWS refuses every request if the clocks differ by more than five minutes (documented). Its refusal has a
        date, too.
        """
        import botocore.exceptions as driver

        before = self._now()
        try:
            with aws_errors("DynamoDB"):
                response: Mapping[str, Any] = self.client.list_tables(Limit=1)
        except (AccessDeniedError, AwsUnavailableError) as exc:
            if not isinstance(exc.__cause__, driver.ClientError):
                raise
            response = exc.__cause__.response
        date = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if not date:
            return None
        try:
            # The date is truncated to a whole second: on average half a second is missing.
            aws_time = parsedate_to_datetime(date).timestamp() + 0.5
        except ValueError:
            return None
        return aws_time - (before + self._now()) / 2

    # Permissions.

    def permitted(self, table: str, keys: TableKeys | None = None) -> dict[str, bool]:
        """Send each kind of request to a table, and return by name whether it is permitted.

        The requests change nothing: writes have a condition that no item meets. ``keys`` are those of a messages
        table; without them the table is the backup table.
        """
        probes = self._backup_probes(table) if keys is None else self._message_probes(table, keys)
        return {action: self._permitted(probe, table) for action, probe in probes.items()}

    def _permitted(self, probe: Callable[[], Any], table: str) -> bool:
        import botocore.exceptions as driver

        try:
            with aws_errors(f"{table!r}"):
                none_if_condition_fails(probe)
        except AccessDeniedError as exc:
            if not isinstance(exc.__cause__, driver.ClientError):
                raise  # there are no credentials, so nothing is known about permissions
            return False
        return True

    def _backup_probes(self, table: str) -> dict[str, Callable[[], Any]]:
        key = {KEY: {"S": PROBE_ID}}
        client = self.client
        return {
            "DescribeTable": lambda: client.describe_table(TableName=table),
            "GetItem": lambda: client.get_item(TableName=table, Key=key),
            "BatchGetItem": lambda: client.batch_get_item(RequestItems={table: {"Keys": [key]}}),
            "Scan": lambda: client.scan(TableName=table, Limit=1),
            "UpdateItem": lambda: client.update_item(
                TableName=table,
                Key=key,
                UpdateExpression="SET max_n = :n",
                ConditionExpression=NEVER,
                ExpressionAttributeNames={"#p": KEY},
                ExpressionAttributeValues={":n": {"N": "1"}},
            ),
        }

    def _message_probes(self, table: str, keys: TableKeys) -> dict[str, Callable[[], Any]]:
        sort = {keys.sort_type: "0"}
        key = {keys.partition_key: {"S": PROBE_ID}, keys.sort_key: sort}
        client = self.client
        return {
            "DescribeTable": lambda: client.describe_table(TableName=table),
            "GetItem": lambda: client.get_item(TableName=table, Key=key),
            "Query": lambda: client.query(
                TableName=table,
                KeyConditionExpression="#p = :p",
                ExpressionAttributeNames={"#p": keys.partition_key},
                ExpressionAttributeValues={":p": {"S": PROBE_ID}},
                Limit=1,
            ),
            "PutItem": lambda: client.put_item(
                TableName=table,
                Item=key,
                ConditionExpression=NEVER,
                ExpressionAttributeNames={"#p": keys.partition_key},
            ),
        }
