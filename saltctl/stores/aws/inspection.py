"""Read-only checks of DynamoDB tables and of the permissions of these credentials, for ``saltctl doctor``.

Timeouts are short and requests are not retried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from saltctl.errors import AccessDeniedError, AwsUnavailableError
from saltctl.settings import Settings
from saltctl.stores.aws.backup_items import KEY
from saltctl.stores.aws.client import ClientOfProcess, create_client
from saltctl.stores.aws.failures.errors import aws_errors, none_if_condition_fails
from saltctl.stores.aws.table import Table
from saltctl.stores.bounded.errors import UnreadableResponseError
from saltctl.stores.contracts.messages import TableKeys

PROBE_ID = "#doctor"
"""An id that no conversation can have. The item is never written."""
NEVER = "attribute_exists(#p) AND attribute_not_exists(#p)"


class AwsInspection:
    """Inspects DynamoDB. Thread-safe. Methods raise AwsUnavailableError, AccessDeniedError and ConfigurationError.

    Args:
        settings: the endpoint, the Region and the profile.
        client: a boto3 client for DynamoDB to use instead of a new one. The application's own
            renews its credentials itself.
    """

    def __init__(self, settings: Settings, *, client: Any = None, now: Callable[[], float] = time.time) -> None:
        self._client = ClientOfProcess(lambda: create_client(settings, "dynamodb", attempts=1), client)
        self._now = now

    @property
    def client(self) -> Any:
        """The boto3 client: it sends each request once."""
        return self._client.get()

    def point_in_time_recovery(self, table: Table) -> bool:
        """Return whether the table can be restored to a point in time."""
        with table.errors():
            response = self.client.describe_continuous_backups(TableName=table.name)
            found = response["ContinuousBackupsDescription"].get("PointInTimeRecoveryDescription", {})
            status = found.get("PointInTimeRecoveryStatus", "DISABLED")
            if status not in ("ENABLED", "DISABLED"):
                raise UnreadableResponseError("the status of point-in-time recovery is not known")
        return bool(status == "ENABLED")

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

    def permitted(self, table: Table, keys: TableKeys | None = None) -> dict[str, bool]:
        """Send each kind of request to a table, and return by name whether it is permitted.

        The requests change nothing: writes have a condition that no item meets. ``keys`` are those of a messages
        table; without them the table is the backup table.
        """
        requests = _backup_requests() if keys is None else _message_requests(keys)
        return {action: self._is_permitted(action, request, table) for action, request in requests.items()}

    def _is_permitted(self, action: str, request: dict[str, Any], table: Table) -> bool:
        import botocore.exceptions as driver
        from botocore import xform_name

        send = getattr(self.client, xform_name(action))
        if action == "BatchGetItem":
            request = {"RequestItems": {table.name: {"Keys": [request["Key"]]}}}
        else:
            request = request | {"TableName": table.name}
        try:
            with table.errors():
                none_if_condition_fails(lambda: send(**request))
        except AccessDeniedError as exc:
            if not isinstance(exc.__cause__, driver.ClientError):
                raise  # there are no credentials, so nothing is known about permissions
            return False
        return True


def _backup_requests() -> dict[str, dict[str, Any]]:
    key = {"Key": {KEY: {"S": PROBE_ID}}}
    update = {
        "UpdateExpression": "SET max_n = :n",
        "ConditionExpression": NEVER,
        "ExpressionAttributeNames": {"#p": KEY},
        "ExpressionAttributeValues": {":n": {"N": "1"}},
    }
    return {"DescribeTable": {}, "GetItem": key, "BatchGetItem": key, "Scan": {"Limit": 1}, "UpdateItem": key | update}


def _message_requests(keys: TableKeys) -> dict[str, dict[str, Any]]:
    key = {keys.partition_key: {"S": PROBE_ID}, keys.sort_key: {keys.sort_type: "0"}}
    names = {"ExpressionAttributeNames": {"#p": keys.partition_key}}
    query = {"KeyConditionExpression": "#p = :p", "ExpressionAttributeValues": {":p": {"S": PROBE_ID}}, "Limit": 1}
    put = {"Item": key, "ConditionExpression": NEVER}
    return {"DescribeTable": {}, "GetItem": {"Key": key}, "Query": query | names, "PutItem": put | names}
