"""moto's server answers queries of one partition as moto does, reads no other partition, and keeps connections.

The moto of the tests sends items as moto does.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from typing import Any

import pytest

from saltctl.local.moto_server import query_one_partition
from saltctl.local.servers import LocalMoto
from tests.support.quick_moto import WALK, unless_plain


class Untouchable(dict[Any, Any]):
    """A partition that must not be read."""

    def values(self) -> Any:
        """Return the rows that moto sorts."""
        raise AssertionError("another partition was read")


def make_table(*, index: bool = False) -> Any:
    """Three partitions of four rows in moto's own table."""
    from moto.dynamodb.models.table import Table

    schema = [{"AttributeName": "hash", "KeyType": "HASH"}, {"AttributeName": "range", "KeyType": "RANGE"}]
    by_owner = {
        "IndexName": "by-owner",
        "KeySchema": [{"AttributeName": "owner", "KeyType": "HASH"}],
        "Projection": {"ProjectionType": "ALL"},
    }
    table_type: Any = Table
    table = table_type(
        "messages",
        account_id="123456789012",
        region="us-east-1",
        schema=schema,
        attr=[{"AttributeName": name, "AttributeType": "S"} for name in ("hash", "range", "owner")],
        global_indexes=[by_owner] if index else [],
    )
    for number in range(12):
        row = {"hash": f"p{number % 3}", "range": f"r{number:02d}", "owner": "me" if number % 2 else "you"}
        table.put_item({name: {"S": value} for name, value in row.items()})
    return table


def ask(query: Any, table: Any, key: str, **more: Any) -> list[str]:
    """The sort keys of the rows that a query finds, the newest first."""
    from moto.dynamodb.models.dynamo_type import DynamoType

    rows, _, _ = query(table, DynamoType({"S": key}), None, [], 3, None, False, None, **more)
    return [row.range_key.value for row in rows]


@pytest.mark.parametrize("key", ["p0", "p1", "no such partition"])
def test_a_partition_is_answered_as_before(key: str) -> None:
    """Rows, order and limit are moto's."""
    table = make_table()
    assert ask(query_one_partition(type(table).query), table, key) == ask(type(table).query, table, key)


def test_no_other_partition_is_read() -> None:
    """Moto itself sorts the whole table for each query."""
    table = make_table()
    for key, rows in list(table.items.items()):
        if key.value != "p1":
            table.items[key] = Untouchable(rows)
    with pytest.raises(AssertionError, match="another partition"):
        ask(type(table).query, table, "p1")
    assert ask(query_one_partition(type(table).query), table, "p1") == ["r10", "r07", "r04"]


def test_an_index_is_answered_from_every_partition() -> None:
    """Rows of one index key are in many partitions of the table."""
    from moto.dynamodb.models.dynamo_type import DynamoType

    table = make_table(index=True)
    mine = [("owner", DynamoType({"S": "me"}))]
    found = ask(query_one_partition(type(table).query), table, "me", index_name="by-owner", hash_key_conditions=mine)
    assert found == ["r11", "r09", "r07"]


def test_connections_are_kept_and_not_limited() -> None:
    """Each of 300 open connections is answered, twice. Clients of one test or drill keep as many."""
    server = LocalMoto()
    server.start()
    with ExitStack() as stack:
        stack.callback(server.stop)
        connections = [stack.enter_context(closing(HTTPConnection("127.0.0.1", server.port))) for _ in range(300)]
        for connection in connections * 2:
            connection.request("GET", "/moto-api/")
            sock = connection.sock
            with connection.getresponse() as response:
                assert response.status == 200
                response.read()
            assert connection.sock is sock, "the server closed the connection"


def test_a_client_that_stops_in_the_middle_delays_no_other() -> None:
    """One that sends half a request, and one that does not read its answer of a megabyte: both can go on later."""

    def ask(connection: HTTPConnection, operation: str, **request: Any) -> None:
        signed = "AWS4-HMAC-SHA256 Credential=x/20261101/us-east-1/dynamodb/aws4_request, SignedHeaders=host"
        headers = {"X-Amz-Target": f"DynamoDB_20120810.{operation}", "Authorization": signed}
        connection.request("POST", "/", json.dumps({"TableName": "t", **request}), headers)

    server = LocalMoto()
    server.start()
    with ExitStack() as stack:
        stack.callback(server.stop)
        other, reader, writer = (
            stack.enter_context(closing(HTTPConnection("127.0.0.1", server.port, timeout=60))) for _ in range(3)
        )
        key = {"AttributeName": "id", "KeyType": "HASH"}
        types = [{"AttributeName": "id", "AttributeType": "S"}]
        ask(other, "CreateTable", KeySchema=[key], AttributeDefinitions=types, BillingMode="PAY_PER_REQUEST")
        assert other.getresponse().read()
        for number in range(4):
            ask(other, "PutItem", Item={"id": {"S": str(number)}, "text": {"S": "x" * 390_000}})
            assert other.getresponse().read() == b"{}"
        writer.putrequest("GET", "/moto-api/")
        writer.endheaders(None)
        writer.getresponse().read()
        assert writer.sock is not None
        writer.sock.sendall(b"GET /moto-api/ HTTP/1.1\r\nHost: x")
        ask(reader, "Scan")
        for _ in range(3):
            ask(other, "GetItem", Key={"id": {"S": "1"}})
            assert len(other.getresponse().read()) > 390_000
        assert len(reader.getresponse().read()) > 2 * 390_000
        writer.sock.sendall(b"\r\n\r\n")
        assert writer.sock.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize(
    "value",
    [
        *({"S": ""}, {"S": "text"}, {"N": "0"}, {"N": "-1.50"}, {"S": 1}, {"S": "a", "N": "1"}, {"B": b"\x00"}),
        *({"NULL": True}, {"BOOL": False}, {"SS": ["b", "a"]}, {"NS": ["1"]}, {"BS": [b"x"]}, {"unknown": "x"}),
        *({"L": [{"S": "x"}, {"N": "1"}, {"M": {}}]}, {"M": {"inner": {"L": [{"S": "y"}]}, "n": {"N": "2"}}}),
        *({}, None),
    ],
    ids=str,
)
def test_values_of_items_are_sent_as_moto_sends_them(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an item, and of the items of a page; plain ones are not walked, and all others are."""
    from moto.core.serialize import BaseJSONSerializer, JSONSerializer
    from moto.core.utils import get_service_model

    def send() -> list[Any]:
        """Serialize an answer to each kind of request that returns items."""
        model: Any = get_service_model("dynamodb")
        item = {"key": {"S": "k"}, "value": value}
        answers = {"GetItem": {"Item": item}, "Query": {"Items": [item, {}]}, "UpdateItem": {"Attributes": item}}
        return [JSONSerializer(model.operation_model(name)).serialize(answer) for name, answer in answers.items()]

    as_moto, moto_walks = send(), getattr(BaseJSONSerializer, WALK)
    walked: list[Any] = []

    def walk(serializer: Any, serialized: Any, structure: Any, *args: Any) -> None:
        walked.append(structure)
        moto_walks(serializer, serialized, structure, *args)

    monkeypatch.setattr(BaseJSONSerializer, WALK, unless_plain(walk))
    assert send() == as_moto
    assert walked
    assert {"S": "k"} not in walked
