"""Looking at DynamoDB tables and at what these credentials may do, without changing anything.

For ``saltctl doctor``. Deadlines are short and nothing is tried again.
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
from saltctl.stores.aws.client import aws_errors, create_client, describe_table, error_code
from saltctl.stores.contracts import TableKeys

PROBE_ID = "#doctor"
"""No conversation has this id, and the item is never written."""
NEVER = "attribute_exists(#p) AND attribute_not_exists(#p)"


class AwsInspection:
    """Questions to DynamoDB. Thread-safe. Methods raise AwsUnavailableError, AccessDeniedError and ConfigurationError.

    Args:
        settings: the endpoint, the Region and the profile.
        client: a ready boto3 client for DynamoDB instead of one of its own.
        now: seconds since the epoch.
    """

    def __init__(self, settings: Settings, *, client: Any = None, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._given = client
        self._now = now

    @cached_property
    def client(self) -> Any:
        """The boto3 client: one attempt a request."""
        return self._given or create_client(self._settings, "dynamodb", attempts=1)

    def describe(self, table: str) -> dict[str, Any] | None:
        """The ``Table`` of DescribeTable; None where there is none."""
        return describe_table(self.client, table)

    def point_in_time_recovery(self, table: str) -> bool:
        """Whether the table can be restored to a point in time."""
        with aws_errors(f"{table!r}"):
            answer = self.client.describe_continuous_backups(TableName=table)
        found = answer["ContinuousBackupsDescription"].get("PointInTimeRecoveryDescription", {})
        return bool(found.get("PointInTimeRecoveryStatus") == "ENABLED")

    def skew(self) -> float | None:
        """AWS' clock less ours, in seconds, to within a second: answers are dated so. None where they are not.

        Where the clocks differ by more than five minutes AWS refuses every request (documented), and its
        refusal has the date all the same.
        """
        import botocore.exceptions as driver

        before = self._now()
        try:
            with aws_errors("DynamoDB"):
                answer: Mapping[str, Any] = self.client.list_tables(Limit=1)
        except (AccessDeniedError, AwsUnavailableError) as exc:
            if not isinstance(exc.__cause__, driver.ClientError):
                raise
            answer = exc.__cause__.response
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if not date:
            return None
        try:
            # The time of the answer is cut to a whole second: half of one later is the likeliest.
            theirs = parsedate_to_datetime(date).timestamp() + 0.5
        except ValueError:
            return None
        return theirs - (before + self._now()) / 2

    # Permissions.

    def permitted(self, table: str, keys: TableKeys | None = None) -> dict[str, bool]:
        """Which requests to a table are permitted, by making each so that it cannot change anything.

        Writes carry a condition that no item meets. ``keys`` are a messages table's; without them the table
        is taken for the backup.
        """
        probes = self._backup_probes(table) if keys is None else self._message_probes(table, keys)
        return {action: self._permitted(probe, table) for action, probe in probes.items()}

    def _permitted(self, probe: Callable[[], Any], table: str) -> bool:
        import botocore.exceptions as driver

        try:
            with aws_errors(f"{table!r}"):
                probe()
        except AccessDeniedError as exc:
            if not isinstance(exc.__cause__, driver.ClientError):
                raise  # no credentials at all is no answer about permissions
            return False
        except AwsUnavailableError as exc:
            cause = exc.__cause__
            if isinstance(cause, driver.ClientError) and error_code(cause) == "ConditionalCheckFailedException":
                return True
            raise
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
