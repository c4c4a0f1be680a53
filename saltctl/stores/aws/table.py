"""One table of DynamoDB: requests whose responses are checked, its description and its creation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from saltctl.errors import AwsUnavailableError, ConfigurationError, MismatchedResponseError
from saltctl.forks import this_process
from saltctl.settings import Settings
from saltctl.stores.aws.client import ClientOfProcess, create_client
from saltctl.stores.aws.failures.errors import aws_errors, error_code
from saltctl.stores.aws.failures.refusals import RESTORE, check_usable
from saltctl.stores.bounded.deadline import TimeBudget
from saltctl.stores.bounded.errors import PROXY_HINT, OversizedResponseError, UnreadableResponseError
from saltctl.stores.contracts.messages import TableSize


def _belongs(operation: str, response: Any, table: str, key: Mapping[str, Any], fits: Callable[[Any], bool]) -> bool:
    """Return whether a response shows that it belongs to a request: see :meth:`Table.send`."""
    try:
        rows = [response[name] for name in ("Item", "Attributes", "LastEvaluatedKey", "Table") if response.get(name)]
        rows += response.get("Items", [])
        capacity = response.get("ConsumedCapacity", [])
        names = [one["TableName"] for one in (capacity if isinstance(capacity, list) else [capacity])]
        names += [*response.get("Responses", ()), *response.get("UnprocessedKeys", ())]
        return (
            bool(names or rows)
            and ("Items" in response) == (operation in ("query", "scan"))
            and response.get("Count") in (None, len(response.get("Items", ())))
            and all(_bare(name) == _bare(table) for name in names)
            and all(
                row[name] == value or _equal_numbers(row[name], value) for row in rows for name, value in key.items()
            )
            and fits(response)
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # a response of another operation
        return False


def _bare(table: str) -> str:
    """Return the name in an ARN, or the name itself."""
    return table.rpartition("/")[2]


def _equal_numbers(one: Any, other: Any) -> bool:
    """Return whether two attributes are the same number: DynamoDB writes numbers in a form of its own."""
    return isinstance(one, Mapping) and "N" in one and "N" in other and Decimal(one["N"]) == Decimal(other["N"])


class Table:
    """One table. Thread-safe.

    Args:
        settings: the endpoint, the Region and the profile.
        name: the table's name.
        client: a boto3 client for DynamoDB to use instead of a new one. The application's own
            renews its credentials itself.
    """

    missing_hint = "check --table, SALTCTL_MESSAGES_TABLE and AWS_REGION ({region})\nsaltctl config show"
    """The hint of the error if the table does not exist, with ``{region}``."""
    if_lost = RESTORE
    """What to do about a table that is being deleted, for hints."""

    def __init__(self, settings: Settings, name: str, *, client: Any = None) -> None:
        self.name = name
        self.where = f"{name!r}"
        """The quoted name, for messages."""
        self.settings = settings
        self._client = ClientOfProcess(lambda: create_client(settings, "dynamodb"), client)

    @property
    def client(self) -> Any:
        """The boto3 client of this process, created at first use."""
        return self._client.get()

    def close(self) -> None:
        """Close the connections, unless the client is the application's own."""
        self._client.close()

    def errors(self, where: str = "") -> AbstractContextManager[None]:
        """Convert the errors of a request that is sent inside the block. ``where`` names more than the table."""
        return aws_errors(where or self.where, self.missing)

    def missing(self) -> ConfigurationError:
        """Return the error if the table does not exist, which names the Region that was asked."""
        meta = getattr(self.client, "meta", None)  # a substitute in a test has none
        region = str(meta.region_name if meta else self.settings.aws_region)
        return ConfigurationError(
            f"there is no DynamoDB table {self.where} in Region {region!r}",
            hint=self.missing_hint.format(region=region),
        )

    def send(
        self,
        operation: str,
        request: Mapping[str, Any],
        key: Mapping[str, Any] = MappingProxyType({}),
        fits: Callable[[Any], bool] = lambda response: True,
    ) -> dict[str, Any]:
        """Send a request that may be repeated, and return the response that belongs to it.

        A response must show that it belongs to the request: it names the table, or has rows, and every row has
        ``key``; ``fits`` checks the rest. Otherwise the request is sent once more, over new connections. Both may take
        ``aws_timeout`` seconds.

        Raises:
            MismatchedResponseError: the second response belongs to another request, too.
            Exception: every error of botocore.
        """
        _ = self.client  # its creation sends nothing, and takes none of the time
        with TimeBudget(self.settings.aws_timeout):
            return self._send(operation, request, key, fits)

    def _send(
        self, operation: str, request: Mapping[str, Any], key: Mapping[str, Any], fits: Callable[[Any], bool]
    ) -> dict[str, Any]:
        if operation != "batch_get_item":
            request = {"TableName": self.name, **request}
        if operation != "describe_table":
            request = {**request, "ReturnConsumedCapacity": "TOTAL"}  # names the table
        from botocore.exceptions import HTTPClientError

        unreadable = None
        for attempt in range(2):
            client, process = self.client, this_process()
            try:
                response: dict[str, Any] = getattr(client, operation)(**request)
            except OversizedResponseError:
                raise
            except UnreadableResponseError as exc:
                unreadable = exc
            except HTTPClientError:
                if attempt == 0:
                    raise
                break  # most likely the rest of the time was too short: what was wrong with the first response counts
            else:
                unreadable = None
                # If a signal handler has forked meanwhile, the parent reads from the same connection.
                if process == this_process() and _belongs(operation, response, self.name, key, fits):
                    return response
            self._client.renew(client)
        if unreadable is not None:
            raise unreadable
        raise MismatchedResponseError(f"the response for {self.where} belongs to another request", hint=PROXY_HINT)

    def get_item(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """Read one row, strongly consistent; None if the table does not have it. Raises as :meth:`send`."""
        request = {"Key": key, "ConsistentRead": True}
        item: dict[str, Any] | None = self.send("get_item", request, key).get("Item")
        return item

    def describe(self) -> dict[str, Any] | None:
        """Return the ``Table`` of DescribeTable, or None if the table does not exist.

        Raises ConfigurationError as :func:`check_usable` does.
        """
        import botocore.exceptions as driver

        with self.errors():
            try:
                response = self.send("describe_table", {}, {"TableName": _bare(self.name)})
            except driver.ClientError as exc:
                if error_code(exc) == "ResourceNotFoundException":
                    return None
                raise
        found: dict[str, Any] = response["Table"]
        check_usable(found, self.where, self.if_lost)
        return found

    def require(self) -> dict[str, Any]:
        """Return the ``Table`` of DescribeTable; raises ConfigurationError if the table does not exist."""
        found = self.describe()
        if found is None:
            raise self.missing()
        return found

    def key_types(self) -> dict[str, tuple[str, str]]:
        """Return the name and the type of each key by its kind, HASH or RANGE.

        Raises:
            ConfigurationError: the table does not exist.
            AwsUnavailableError: the description lacks a key, or the type of one.
        """
        found = self.require()
        types = {item["AttributeName"]: item["AttributeType"] for item in found.get("AttributeDefinitions", ())}
        names = {key["KeyType"]: key["AttributeName"] for key in found.get("KeySchema", ())}
        with self.errors():
            if "HASH" not in names or not types.keys() >= set(names.values()):
                raise UnreadableResponseError("the description is incomplete")
        return {kind: (name, types[name]) for kind, name in names.items()}

    def identity(self) -> str:
        """Return the table's identity: its id, or its time of creation if DynamoDB shows no id."""
        table = self.require()
        if identity := table.get("TableId"):
            return str(identity)
        if (created := table.get("CreationDateTime")) is None:
            raise AwsUnavailableError(f"DescribeTable shows no identity of table {self.where}", hint="try again")
        return f"created {created.timestamp():.3f}"

    def arn(self) -> str:
        """Return the table's ARN; empty if DescribeTable shows none."""
        return str(self.require().get("TableArn") or "")

    def size(self) -> TableSize:
        """Return the table's size from DescribeTable: about six hours old (documented)."""
        table = self.require()
        return TableSize(int(table.get("ItemCount", 0)), int(table.get("TableSizeBytes", 0)))

    def create_on_demand(self, keys: Mapping[str, str], **options: Any) -> None:
        """Create the table, billed on demand, and wait until it exists; another process may create it meanwhile.

        Args:
            keys: name to type (HASH or RANGE) of its keys, which are strings.
            options: more parameters of CreateTable.
        """
        import botocore.exceptions as driver

        with self.errors():
            try:
                self.client.create_table(
                    TableName=self.name,
                    AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in keys],
                    KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in keys.items()],
                    BillingMode="PAY_PER_REQUEST",
                    **options,
                )
            except driver.ClientError as exc:
                if error_code(exc) != "ResourceInUseException":
                    raise
            waiter = self.client.get_waiter("table_exists")
            waiter.wait(TableName=self.name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
