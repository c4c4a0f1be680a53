"""Responses that belong to other requests, as from a connection that is out of step: never data, and asked again."""

from __future__ import annotations

import json
from binascii import crc32
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from saltctl.errors import AwsUnavailableError, ExitCode, MismatchedResponseError
from saltctl.history.history import History
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.failures.responses import check_crc
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.bounded.errors import UnreadableResponseError
from saltctl.stores.contracts.messages import PartitionQuery
from saltctl.stores.contracts.registry import Raise
from tests.support.aws_stub import AwsStub
from tests.support.lookups import FixedLookups

KEYS = ("1#a", "2#b", "3#c", "4#d")
"""The sort keys of the rows of every partition."""


@pytest.fixture
def tables(aws_settings: Settings, moto_backup: BackupTable, aws_stub: AwsStub) -> tuple[BackupTable, MessagesTable]:
    """Both tables behind the stub, with rows."""
    assert moto_backup.describe()
    own = aws_settings.backup_table.replace("backup", "messages")
    settings = replace(aws_stub.settings(aws_settings), messages_table=own)
    backup, messages = BackupTable(settings), MessagesTable(settings)
    messages.create()
    for conversation, n in (("mine", 2), ("other", 8)):
        backup.raise_max_n(conversation, Raise(n, "2026-01-01T00:00:00Z", "test", ""))
        for key in KEYS:
            messages.put(conversation, key, {"text": {"S": conversation}})
    return backup, messages


def replace_response(stub: AwsStub, operation: str, answer: dict[str, Any], times: int) -> None:
    """Answer the next requests of an operation with the response to another request."""
    stub.answer_first(times, operation, (200, answer))


def capacity(table: Any) -> dict[str, Any]:
    """The part of a response that names its table."""
    return {"ConsumedCapacity": {"TableName": table.name, "CapacityUnits": 1.0}}


def row(conversation: str, key: str) -> dict[str, Any]:
    """A row of the messages table that no test has written."""
    return {"conversation_id": {"S": conversation}, "sort_key": {"S": key}, "text": {"S": "swapped"}}


def entry(conversation: str) -> dict[str, Any]:
    """An item of the backup table that no test has written."""
    return {"conversation_id": {"S": conversation}, "max_n": {"N": "8"}, "write_n": {"N": "1"}}


MINE = PartitionQuery("mine", descending=False, low="2#b", high="3#c", limit=2)
Case = tuple[str, Callable[[Any, Any], dict[str, Any]], Callable[[Any, Any], Any], Any]
"""An operation, a response to another request, a call that is answered with it, and the right result of the call."""
CASES: dict[str, Case] = {
    "another item": (
        "GetItem",
        lambda b, m: {"Item": entry("other")},
        lambda b, m: b.read_item("mine")["max_n"]["N"],
        "2",
    ),
    "nothing": ("GetItem", lambda b, m: {}, lambda b, m: b.read_item("mine")["max_n"]["N"], "2"),
    "another table": ("GetItem", lambda b, m: capacity(m), lambda b, m: b.read_item("mine")["max_n"]["N"], "2"),
    "another batch": (
        "BatchGetItem",
        lambda b, m: {"Responses": {b.name: [entry("third")]}, "UnprocessedKeys": {}},
        lambda b, m: {i: e.max_n for i, e in b.get_many(["mine", "other"]).items()},
        {"mine": 2, "other": 8},
    ),
    "a batch with one item twice": (
        "BatchGetItem",
        lambda b, m: {"Responses": {b.name: [b.read_item("mine"), entry("mine")]}},
        lambda b, m: {i: e.max_n for i, e in b.get_many(["mine", "other"]).items()},
        {"mine": 2, "other": 8},
    ),
    "a batch of nothing": (
        "BatchGetItem",
        lambda b, m: {},
        lambda b, m: {i: e.max_n for i, e in b.get_many(["mine", "other"]).items()},
        {"mine": 2, "other": 8},
    ),
    "another update": (
        "UpdateItem",
        lambda b, m: {"Attributes": entry("other")},
        lambda b, m: b.raise_max_n("mine", Raise(4, "2026-01-01T00:00:00Z", "test", "")).before,
        2,
    ),
    "an update of nothing": ("UpdateItem", lambda b, m: {}, lambda b, m: b.commit_write_n("mine", 2), True),
    "another row": (
        "GetItem",
        lambda b, m: {"Item": row("mine", "2#b")},
        lambda b, m: m.get("mine", "1#a")["text"]["S"],
        "mine",
    ),
    "another partition": (
        "Query",
        lambda b, m: {"Items": [row("other", "2#b")], "Count": 1, "ScannedCount": 1} | capacity(m),
        lambda b, m: [item["text"]["S"] for item in m.query(MINE).items],
        ["mine", "mine"],
    ),
    "another range": (
        "Query",
        lambda b, m: {"Items": [row("mine", "1#a")]} | capacity(m),
        lambda b, m: [item["sort_key"]["S"] for item in m.query(MINE).items],
        ["2#b", "3#c"],
    ),
    "another direction": (
        "Query",
        lambda b, m: {"Items": [row("mine", "3#c"), row("mine", "2#b")]} | capacity(m),
        lambda b, m: [item["sort_key"]["S"] for item in m.query(MINE).items],
        ["2#b", "3#c"],
    ),
    "another limit": (
        "Query",
        lambda b, m: {"Items": [row("mine", "2#b"), row("mine", "2#c"), row("mine", "3#c")]} | capacity(m),
        lambda b, m: [item["sort_key"]["S"] for item in m.query(MINE).items],
        ["2#b", "3#c"],
    ),
    "another page": (
        "Query",
        lambda b, m: {"Items": [row("mine", "1#a")]} | capacity(m),
        lambda b, m: len(m.query(PartitionQuery("mine", descending=False, start=row("mine", "1#a"))).items),
        3,
    ),
    "another continuation": (
        "Query",
        lambda b, m: {"Items": [], "LastEvaluatedKey": row("other", "2#b")} | capacity(m),
        lambda b, m: len(m.query(MINE).items),
        2,
    ),
    "a page that lost its rows": (
        "Query",
        lambda b, m: {"Items": [], "Count": 2, "ScannedCount": 2} | capacity(m),
        lambda b, m: len(m.query(MINE).items),
        2,
    ),
    "no page": ("Query", lambda b, m: capacity(m), lambda b, m: len(m.query(MINE).items), 2),
    "a page of another table": (
        "Query",
        lambda b, m: {"Items": []} | capacity(b),
        lambda b, m: len(m.query(MINE).items),
        2,
    ),
    "a put in another table": ("PutItem", lambda b, m: capacity(b), lambda b, m: m.put("mine", "5#e", {}), True),
    "a put of nothing": ("PutItem", lambda b, m: {}, lambda b, m: m.put("mine", "5#e", {}), True),
    "a description of another table": (
        "DescribeTable",
        lambda b, m: {"Table": {"TableName": m.name, "TableStatus": "ACTIVE"}},
        lambda b, m: b.require()["TableName"][:6],
        "backup",
    ),
    "a scan of nothing": (
        "Scan",
        lambda b, m: {"Items": [], "Count": 0, "ScannedCount": 0},
        lambda b, m: sorted(e[0] for page in b.scan(1) for e in page.entries),
        ["mine", "other"],
    ),
    "a scan of another table": (
        "Scan",
        lambda b, m: {"Items": [entry("other")], "Count": 1} | capacity(m),
        lambda b, m: sorted(e[0] for page in b.scan(1) for e in page.entries),
        ["mine", "other"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_response_to_another_request(
    name: str, tables: tuple[BackupTable, MessagesTable], aws_stub: AwsStub
) -> None:
    """Once: the request is sent again, over a new connection. Always: an error of its own."""
    operation, answer, call, right = CASES[name]
    replace_response(aws_stub, operation, answer(*tables), 1)
    assert call(*tables) == right
    replace_response(aws_stub, operation, answer(*tables), 1000)
    with pytest.raises(AwsUnavailableError) as refused:
        call(*tables)
    if operation != "Scan":  # a scan retries pages that are damaged in any way
        assert (type(refused.value), refused.value.exit_code) == (MismatchedResponseError, ExitCode.UNAVAILABLE)


def test_a_new_connection_after_a_mismatch(tables: tuple[BackupTable, MessagesTable], aws_stub: AwsStub) -> None:
    """The old client is not used again, since all of its connections may be out of step."""
    backup, _ = tables
    client = backup.client
    assert backup.client is client
    replace_response(aws_stub, "GetItem", {"Item": entry("other")}, 1)
    backup.read_item("mine")
    assert backup.client is not client


def test_a_raise_that_the_backup_does_not_hold(tables: tuple[BackupTable, MessagesTable], aws_stub: AwsStub) -> None:
    """A failed condition says that the backup holds as much. If it holds less, it belongs to another request."""
    backup, _ = tables
    refusal = {"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException", "message": "no"}
    aws_stub.answer_first(1, "UpdateItem", (400, refusal))
    with pytest.raises(MismatchedResponseError, match="mine"):
        backup.raise_max_n("mine", Raise(4, "2026-01-01T00:00:00Z", "test", ""))


@pytest.fixture
def history(tables: tuple[BackupTable, MessagesTable]) -> Iterator[History]:
    """The history behind the stub."""
    with closing(History(FixedLookups(), tables[1])) as history:
        yield history


def test_a_put_that_wrote_nothing(history: History, aws_stub: AwsStub) -> None:
    """A failed condition says that the row exists. If it does not, the message is not acknowledged."""
    refusal = {"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException", "message": "no"}
    aws_stub.answer_first(1, "PutItem", (400, refusal))
    with pytest.raises(MismatchedResponseError, match="mine"):
        history.put("mine", "9#new", {"text": "t"})
    assert history.put("mine", "9#new", {"text": "t"}).written


def test_numbers_that_dynamodb_writes_in_another_form(aws_settings: Settings) -> None:
    """DynamoDB answers 100 for 1E+2: the same sort key."""

    class Client:
        """Answers as DynamoDB does."""

        def describe_table(self, TableName: str) -> dict[str, Any]:  # noqa: N803  as boto3 has it
            """Describe a table with a number as its sort key."""
            types = [{"AttributeName": "room", "AttributeType": "S"}, {"AttributeName": "at", "AttributeType": "N"}]
            keys = [{"AttributeName": "room", "KeyType": "HASH"}, {"AttributeName": "at", "KeyType": "RANGE"}]
            return {"Table": {"TableName": TableName, "AttributeDefinitions": types, "KeySchema": keys}}

        def get_item(self, **request: Any) -> dict[str, Any]:
            """Return the row, with its number in DynamoDB's form."""
            return {"Item": {"room": {"S": "conv"}, "at": {"N": "100"}}}

    assert MessagesTable(aws_settings, client=Client()).get("conv", Decimal("1E+2"))
    with pytest.raises(MismatchedResponseError):
        MessagesTable(aws_settings, client=Client()).get("conv", Decimal("1E+3"))


def test_the_checksum_of_a_response() -> None:
    """It is compared whenever there is one, and the body was not compressed on its way."""
    body = json.dumps({"Item": {}}).encode()
    check_crc(body, {})
    check_crc(body, {"x-amz-crc32": str(crc32(body))})
    check_crc(body, {"x-amz-crc32": "1", "content-encoding": "gzip"})
    for wrong in ("1", "", "x"):
        with pytest.raises(UnreadableResponseError, match="checksum"):
            check_crc(body, {"x-amz-crc32": wrong})
