"""Responses of another shape, as another server sends them: an error, never data, and never an endless read."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import pytest

from saltctl.errors import AwsUnavailableError
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.cloudwatch import CloudWatchMetrics
from saltctl.stores.aws.failures.responses import create_parser
from saltctl.stores.aws.inspection import AwsInspection
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.bounded.errors import UnreadableResponseError
from saltctl.stores.contracts.messages import PartitionQuery
from saltctl.stores.contracts.metrics import MetricKey
from tests.support.aws_stub import AwsStub

FOREIGN = (
    b'{"status":"ok"}',
    b"<html>ok</html>",
    b"",
    b"null",
    b"[]",
    b'"ok"',
    b'{"Item":',
    b'{"Table":{"TableName":"x"}}',
    b"[" * 100_000,
    b'{"a":' * 100_000 + b"}",
)
"""Bodies of responses that are not AWS's."""
TABLE = {
    "TableName": "messages",
    "KeySchema": [{"AttributeName": "room", "KeyType": "HASH"}, {"AttributeName": "at", "KeyType": "RANGE"}],
    "AttributeDefinitions": [
        {"AttributeName": "room", "AttributeType": "S"},
        {"AttributeName": "at", "AttributeType": "S"},
    ],
}


class Stores:
    """The stores, with clients of their own or with those of an application."""

    def __init__(self, settings: Settings, *, given: bool) -> None:
        self.settings = settings
        self.dynamodb = _client("dynamodb", settings) if given else None
        self.cloudwatch = _client("cloudwatch", settings) if given else None

    @property
    def backup(self) -> BackupTable:
        """The backup table."""
        return BackupTable(self.settings, client=self.dynamodb)

    @property
    def messages(self) -> MessagesTable:
        """The messages table."""
        return MessagesTable(self.settings, client=self.dynamodb)

    @property
    def inspection(self) -> AwsInspection:
        """The inspection."""
        return AwsInspection(self.settings, client=self.dynamodb)

    @property
    def metrics(self) -> CloudWatchMetrics:
        """CloudWatch."""
        return CloudWatchMetrics(self.settings, client=self.cloudwatch, dynamodb=self.dynamodb)


def _client(service: str, settings: Settings) -> Any:
    import boto3

    return boto3.client(service, region_name="us-east-1", endpoint_url=settings.aws_endpoint_url)  # type: ignore[call-overload]


@pytest.fixture(params=["own clients", "given clients"])
def behind(request: pytest.FixtureRequest) -> Iterator[tuple[AwsStub, Stores]]:
    """A stub that answers everything itself, and stores that ask it."""
    with AwsStub("http://127.0.0.1:1") as stub:
        settings = Settings(aws_region="us-east-1", messages_table="messages", backup_table="backup")
        yield stub, Stores(stub.settings(settings), given=request.param == "given clients")


CALLS: dict[str, Callable[[Stores], Any]] = {
    "GetItem": lambda s: s.backup.read_item("c"),
    "BatchGetItem": lambda s: s.backup.get("c"),
    "UpdateItem": lambda s: s.backup.update_item("c", "REMOVE x"),
    "DescribeTable": lambda s: s.backup.describe(),
    "keys of a table": lambda s: s.backup.check_table(),
    "Scan": lambda s: list(s.backup.scan(1)),
    "message keys": lambda s: s.messages.keys,
    "keys": lambda s: list(s.messages.scan_keys(1)),
    "Query": lambda s: s.messages.query(PartitionQuery("c", descending=False)),
    "PutItem": lambda s: s.messages.put("c", "1", {}),
    "BatchWriteItem": lambda s: s.messages.load([{"room": {"S": "c"}}]),
    "backups": lambda s: s.inspection.point_in_time_recovery(s.messages),
    "ListTables": lambda s: s.inspection.skew(),
    "metrics": lambda s: s.metrics.read([MetricKey("WriteThrottleEvents", "t")], 0, 600, 60),
    "alarms": lambda s: s.metrics.alarms("saltctl"),
}


def answer_but_describe(stub: AwsStub, call: str, body: bytes) -> None:
    """Answer everything with a body, but describe the messages table to those that need its keys."""
    describes = call in ("keys", "Query", "PutItem", "BatchWriteItem")
    stub.rule = lambda operation, request: (
        (200, {"Table": TABLE}) if describes and operation == "DescribeTable" else (200, body)
    )


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Put off garbage collections: where a deep response ends the stack, the finalizers that they run would fail."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("body", FOREIGN, ids=lambda body: body[:16].decode() or "empty")
def test_foreign_responses(behind: tuple[AwsStub, Stores], body: bytes) -> None:
    """No request takes them for an answer."""
    stub, stores = behind
    for name, call in CALLS.items():
        answer_but_describe(stub, name, body)
        with pytest.raises(AwsUnavailableError, match=r"does not come from AWS|not a page|another request") as raised:
            pytest.fail(f"{name} returned {call(stores)!r}")
        assert raised.value.exit_code == 69


CAPACITY = {"TableName": "messages", "CapacityUnits": 1.0}
ROW = {"room": {"S": "c"}, "at": {"S": "1"}}
OF_BACKUP = CAPACITY | {"TableName": "backup"}
NAN = float("nan")


def recovery(status: str) -> dict[str, Any]:
    """Make the response to DescribeContinuousBackups with a status of point-in-time recovery."""
    recovery = {"PointInTimeRecoveryDescription": {"PointInTimeRecoveryStatus": status}}
    return {"ContinuousBackupsDescription": {"ContinuousBackupsStatus": "ENABLED", **recovery}}


WRONG_TYPES: list[tuple[str, dict[str, Any]]] = [
    ("GetItem", {"Item": []}),
    ("GetItem", {"Item": "x"}),
    ("GetItem", {"Item": {"conversation_id": "c"}}),
    ("GetItem", {"Item": {"conversation_id": {"S": 1}}}),
    ("GetItem", {"ConsumedCapacity": {"TableName": ["backup"]}}),
    ("Query", {"Items": {}, "Count": 0, "ConsumedCapacity": CAPACITY}),
    ("Query", {"Items": [ROW], "Count": "1", "ConsumedCapacity": CAPACITY}),
    ("Query", {"Items": [ROW], "ScannedCount": True, "ConsumedCapacity": CAPACITY}),
    ("Query", {"Items": [None], "ConsumedCapacity": CAPACITY}),
    ("Query", {"Items": [ROW], "LastEvaluatedKey": []}),
    ("Query", {"Items": [ROW], "ConsumedCapacity": CAPACITY | {"CapacityUnits": "1"}}),
    ("keys", {"Items": "rows", "ConsumedCapacity": CAPACITY}),
    ("Scan", {"Items": {}}),
    ("Scan", {"Count": 0}),
    ("BatchGetItem", {"Responses": []}),
    ("BatchGetItem", {"Responses": {"backup": {}}}),
    ("BatchGetItem", {"Responses": {}, "UnprocessedKeys": {"backup": []}}),
    ("BatchGetItem", {"Responses": {}, "UnprocessedKeys": []}),
    ("BatchWriteItem", {"UnprocessedItems": {"messages": {}}}),
    ("BatchWriteItem", {"UnprocessedItems": {"messages": [{"PutRequest": {"Item": ROW}}]}}),
    ("BatchWriteItem", {"UnprocessedItems": {"another": []}}),
    ("DescribeTable", {"Table": {**TABLE, "TableName": "backup", "KeySchema": [{"AttributeName": "room"}]}}),
    ("keys of a table", {"Table": {"TableName": "backup"}}),
    ("keys of a table", {"Table": {**TABLE, "TableName": "backup", "AttributeDefinitions": []}}),
    ("message keys", {"Table": {**TABLE, "AttributeDefinitions": TABLE["AttributeDefinitions"][:1]}}),
    ("message keys", {"Table": {**TABLE, "KeySchema": []}}),
    ("message keys", {"Table": {**TABLE, "CreationDateTime": 1e99}}),
    ("metrics", {"MetricDataResults": {}}),
    ("metrics", {"MetricDataResults": [{"Id": "q0"}]}),
    ("metrics", {"MetricDataResults": [{"Id": "x", "Timestamps": [], "Values": []}]}),
    ("metrics", {"MetricDataResults": [{"Id": "q0", "Timestamps": [60], "Values": []}]}),
    ("metrics", {"MetricDataResults": [{"Id": "q0", "Timestamps": [60], "Values": ["1"]}]}),
    *(("metrics", {"MetricDataResults": [{"Id": "q0", "Timestamps": [at], "Values": [1]}]}) for at in (-60, 600, 6000)),
    *(("metrics", {"MetricDataResults": [{"Id": "q0", "Timestamps": [60], "Values": [n]}]}) for n in (NAN, inf, -1)),
    *(("Query", {"Items": [ROW], "ConsumedCapacity": CAPACITY | {"CapacityUnits": n}}) for n in (NAN, inf, -1)),
    *(("keys", {"Items": [ROW], "ConsumedCapacity": CAPACITY | {"CapacityUnits": n}}) for n in (NAN, inf, -1)),
    *(("Scan", {"Items": [], "ConsumedCapacity": OF_BACKUP | {"CapacityUnits": n}}) for n in (NAN, inf, -1, "nan")),
    ("Query", {"Items": [ROW], "ScannedCount": -1, "ConsumedCapacity": CAPACITY}),
    ("DescribeTable", {"Table": {**TABLE, "TableName": "backup", "ItemCount": -1}}),
    ("DescribeTable", {"Table": {**TABLE, "TableName": "backup", "CreationDateTime": NAN}}),
    ("backups", {"ContinuousBackupsDescription": {}}),
    ("backups", recovery("PAUSED")),
    ("metrics", {"MetricDataResults": []}),
    ("metrics", {"MetricDataResults": [], "NextToken": "again"}),
    ("metrics", {"Messages": []}),
    ("alarms", {"MetricAlarms": [{"AlarmName": "x"}]}),
    ("alarms", {"MetricAlarms": [{"AlarmName": "another/x", "AlarmArn": "a"}]}),
    ("alarms", {"CompositeAlarms": []}),
]


@pytest.mark.parametrize(("call", "answer"), WRONG_TYPES, ids=lambda part: json.dumps(part)[:50])
def test_members_of_other_types(behind: tuple[AwsStub, Stores], call: str, answer: dict[str, Any]) -> None:
    """Nor is a response with known members of another type, or without one that it must have."""
    stub, stores = behind
    answer_but_describe(stub, call, json.dumps(answer).encode())
    with pytest.raises(AwsUnavailableError):
        pytest.fail(f"returned {CALLS[call](stores)!r}")


def test_the_applications_own_requests_are_left_alone() -> None:
    """By the client that it gives to saltctl: botocore takes this page for no tables, and so it remains."""
    with AwsStub("http://127.0.0.1:1") as stub:
        stub.rule = lambda operation, request: (200, b"<html>ok</html>")
        settings = stub.settings(Settings(aws_region="us-east-1", messages_table="messages"))
        client = _client("dynamodb", settings)
        table = MessagesTable(settings, client=client)
        with pytest.raises(AwsUnavailableError):
            table.describe()
        assert "TableNames" not in client.list_tables()


def test_attributes_of_every_type_are_parsed_as_botocore_parses_them() -> None:
    """Strings and numbers have a shorter way."""
    from botocore.parsers import JSONParser
    from botocore.session import get_session

    one = {"S": "x", "N": "1", "B": "AAE=", "BOOL": True, "NULL": True, "SS": ["a"], "NS": ["1"], "BS": ["AAE="]}
    each = {kind: {kind: value} for kind, value in one.items()}
    row = {
        **each,
        "M": {"M": each},
        "L": {"L": list(each.values())},
        "small": {"N": "-1.5E-7"},
        "large": {"N": "9" * 126},
    }
    shape: Any = get_session().get_service_model("dynamodb").operation_model("Query").output_shape
    response = {"status_code": 200, "headers": {}, "body": json.dumps({"Items": [row]}).encode()}
    parsed = create_parser("json").parse(dict(response), shape)
    assert parsed == JSONParser().parse(dict(response), shape)
    assert parsed["Items"][0]["M"]["M"]["B"] == {"B": b"\x00\x01"}
    for wrong in (
        {"N": 1},
        {"S": True},
        {"S": "x", "N": 1},
        {"L": [{"S": 1}]},
        {"M": {"a": {"N": 1.5}}},
        {"B": 1},
        {"N": "NaN"},
        {"N": "9" * 5000},
        {"N": "1e9999"},
        {"NS": ["1", "one"]},
        {"L": [{"N": "1_000"}]},
        {"X": "x"},
        {"S": "x", "NULL": True},
        {},
        None,
        "x",
    ):
        response["body"] = json.dumps({"Items": [{"a": wrong}]}).encode()
        with pytest.raises(UnreadableResponseError):
            create_parser("json").parse(dict(response), shape)


def test_a_read_that_does_not_advance_ends(behind: tuple[AwsStub, Stores]) -> None:
    """The same LastEvaluatedKey again is not followed for ever, by no scan and no query."""
    stub, stores = behind
    page = {"Items": [], "LastEvaluatedKey": ROW, "ConsumedCapacity": CAPACITY}
    last = {"conversation_id": {"S": "c"}}
    of_backup = {"Items": [], "LastEvaluatedKey": last, "ConsumedCapacity": CAPACITY | {"TableName": "backup"}}
    reads: list[tuple[Callable[[Stores], Any], Any]] = [
        (lambda s: list(s.messages.rows("c")), page),
        (CALLS["keys"], page),
        (CALLS["Scan"], of_backup),
    ]
    for read, body in reads:
        answer_but_describe(stub, "Query", json.dumps(body).encode())
        with pytest.raises(AwsUnavailableError):
            read(stores)


def test_pages_in_a_circle_end(behind: tuple[AwsStub, Stores]) -> None:
    """Keys, or tokens, that come again and again are not followed for ever, whatever came before."""
    stub, stores = behind
    pages: Iterator[int] = iter(())

    def answer(operation: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if operation == "DescribeTable":
            return 200, {"Table": TABLE}
        at = str(next(pages, ""))
        of_backup = request.get("TableName") == "backup"
        key = {"conversation_id": {"S": at}} if of_backup else {"room": {"S": "c"}, "at": {"S": at}}
        last = {"LastEvaluatedKey": key, "NextToken": at} if at else {}
        capacity = CAPACITY | {"TableName": request.get("TableName", "")}
        return 200, {"Items": [], "MetricDataResults": [], "MetricAlarms": [], "ConsumedCapacity": capacity} | last

    stub.rule = answer
    calls: list[Callable[[Stores], Any]] = [lambda s: list(s.messages.rows("c"))]
    for call in (*calls, *(CALLS[name] for name in ("keys", "Scan", "metrics", "alarms"))):
        pages = iter([1, *[2, 3, 4] * 10])  # at the end of these, a read that notices nothing ends as well
        with pytest.raises(AwsUnavailableError):
            pytest.fail(f"returned {call(stores)!r}")
        assert next(pages)


def test_empty_tokens_are_the_end(behind: tuple[AwsStub, Stores]) -> None:
    """An empty NextToken or LastEvaluatedKey ends a read, as a missing one does."""
    stub, stores = behind
    page = {"Items": [], "LastEvaluatedKey": {}, "ConsumedCapacity": CAPACITY | {"TableName": "backup"}}
    answers: dict[str, dict[str, Any]] = {
        "Scan": page,
        "GetMetricData": {"MetricDataResults": [{"Id": "q0", "Timestamps": [], "Values": []}], "NextToken": ""},
        "DescribeAlarms": {"MetricAlarms": [], "NextToken": ""},
    }
    stub.rule = lambda operation, request: (200, answers[operation])
    assert [one.last for one in CALLS["Scan"](stores) if one.segment == 0] == [None]
    assert CALLS["metrics"](stores)[0].points == ()
    assert CALLS["alarms"](stores) == []
    assert len(stub.seen) == 3


@pytest.mark.parametrize("protocol", ["json", "query", "smithy-rpc-v2-cbor"])
@pytest.mark.parametrize("body", [*FOREIGN, b"\xa1", b"\xa0", b"\x80", b"\xff", b"<GetMetricDataResponse/>", b"{}"])
@pytest.mark.parametrize("operation", ["GetMetricData", "DescribeAlarms", "ListTagsForResource"])
def test_no_protocol_of_cloudwatch_takes_a_foreign_body(protocol: str, body: bytes, operation: str) -> None:
    """The version of botocore chooses one of three protocols."""
    import botocore.session

    model = botocore.session.get_session().get_service_model("cloudwatch").operation_model(operation)
    response = {"body": body, "headers": {"smithy-protocol": "rpc-v2-cbor"}, "status_code": 200, "context": {}}
    with pytest.raises(UnreadableResponseError):
        create_parser(protocol).parse(response, model.output_shape)
