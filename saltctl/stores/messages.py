"""The messages table: rows of (partition key, sort key), where the partition key is a conversation or a salt of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from saltctl.errors import ThrottledError
from saltctl.settings import Settings
from saltctl.stores import aws

PARTITION_KEY = "conversation_id"
SORT_KEY = "sort_key"
_BATCH = 25
"""Items that one BatchWriteItem takes (documented)."""


class MessagesTable:
    """Messages as DynamoDB stores them. Thread-safe."""

    def __init__(self, settings: Settings, *, client: Any = None) -> None:
        self.name = settings.messages_table
        self._settings = settings
        self._given = client

    @cached_property
    def client(self) -> Any:
        """The boto3 client, made at first use."""
        return self._given or aws.client(self._settings, "dynamodb")

    def exists(self) -> bool:
        """Whether the table is there."""
        return aws.describe_table(self.client, self.name) is not None

    def create(self) -> None:
        """Create the table with saltctl's own key names, on demand, and wait for it."""
        with aws.aws_errors(f"{self.name!r}"):
            self.client.create_table(
                TableName=self.name,
                AttributeDefinitions=[
                    {"AttributeName": PARTITION_KEY, "AttributeType": "S"},
                    {"AttributeName": SORT_KEY, "AttributeType": "S"},
                ],
                KeySchema=[
                    {"AttributeName": PARTITION_KEY, "KeyType": "HASH"},
                    {"AttributeName": SORT_KEY, "KeyType": "RANGE"},
                ],
                BillingMode="PAY_PER_REQUEST",
            )
            self.client.get_waiter("table_exists").wait(
                TableName=self.name, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
            )

    def put(self, partition_key: str, sort_key: str, attributes: dict[str, Any]) -> bool:
        """Write one row unless it exists; whether it was written now. A retry is harmless."""
        import botocore.exceptions as driver

        with aws.aws_errors(f"{self.name!r}"):
            try:
                self.client.put_item(
                    TableName=self.name,
                    Item={PARTITION_KEY: {"S": partition_key}, SORT_KEY: {"S": sort_key}, **attributes},
                    ConditionExpression=f"attribute_not_exists({SORT_KEY})",
                )
            except driver.ClientError as exc:
                if aws.error_code(exc) == "ConditionalCheckFailedException":
                    return False
                raise
        return True

    def load(self, items: Iterable[dict[str, Any]]) -> None:
        """Write many rows, in batches of 25 and in no order; for seeding."""
        batch: list[dict[str, Any]] = []
        for item in items:
            batch.append({"PutRequest": {"Item": item}})
            if len(batch) == _BATCH:
                self._load_batch(batch)
                batch = []
        if batch:
            self._load_batch(batch)

    def _load_batch(self, batch: list[dict[str, Any]]) -> None:
        left = {self.name: batch}
        for _ in range(8):
            with aws.aws_errors(f"{self.name!r}"):
                left = self.client.batch_write_item(RequestItems=left).get("UnprocessedItems", {})
            if not left:
                return
        raise ThrottledError(f"DynamoDB leaves writes to table {self.name!r} unprocessed", hint="try again later")

    def rows(self, partition_key: str) -> Iterator[dict[str, Any]]:
        """Every row of one partition, strongly consistent, in the order of the sort key."""
        request: dict[str, Any] = {
            "TableName": self.name,
            "KeyConditionExpression": f"{PARTITION_KEY} = :key",
            "ExpressionAttributeValues": {":key": {"S": partition_key}},
            "ConsistentRead": True,
        }
        while True:
            with aws.aws_errors(f"{self.name!r}"):
                answer = self.client.query(**request)
            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]
