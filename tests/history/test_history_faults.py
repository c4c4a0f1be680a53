"""Histories when servers fail: a read is complete, or its error names the missing partitions."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from saltctl.errors import ConfigurationError, HistoryUnavailableError, ThrottledError
from saltctl.history.attributes import tagged
from saltctl.history.history import History
from saltctl.history.models import ReadOptions
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.throttle_notes import throttles
from tests.support import Rebuilder
from tests.support.aws_stub import Answer, AwsStub, refusal

CONV = "conv_faulty"


@pytest.fixture
def table(settings: Settings) -> MessagesTable:
    """Create the messages table."""
    made = MessagesTable(settings)
    made.create()
    return made


@pytest.fixture
def aws_stub(settings: Settings) -> Iterator[AwsStub]:
    """Start an HTTP server in front of moto that answers for some partitions itself."""
    assert settings.aws_endpoint_url is not None
    with AwsStub(settings.aws_endpoint_url) as stub:
        yield stub


@pytest.fixture
def history(settings: Settings, registry: Registry, table: MessagesTable, rebuild: Rebuilder) -> Iterator[History]:
    """Open the history over a verified registry in which the conversation has four salts."""
    rebuild()
    registry.raise_to(CONV, 4)
    with History.over(settings, registry, table) as opened:
        yield opened


@pytest.fixture
def stubbed(settings: Settings, registry: Registry, history: History, aws_stub: AwsStub) -> Iterator[History]:
    """Open the same history through the stub, with two quick attempts per request."""
    behind = aws_stub.settings(settings)
    client = create_client(replace(behind, aws_timeout=2.0), "dynamodb", attempts=2)
    with History(registry, MessagesTable(behind, client=client), page_timeout=20.0) as opened:
        yield opened


def fill(history: History, count: int, start: int = 0) -> list[str]:
    """Write messages and return their ids, newest first."""
    for number in range(start, start + count):
        history.put(CONV, f"{number:04d}#m{number}", {"text": f"text {number}"})
    return [f"m{number}" for number in reversed(range(start, start + count))]


def partition_of(request: dict[str, Any]) -> str:
    """Return the partition key of a Query."""
    key: str = request["ExpressionAttributeValues"][":saltctl_p"]["S"]
    return key


def answer_for(stub: AwsStub, partition: str, answer: Answer, times: int | None = None) -> None:
    """Let the stub answer queries of one partition, always or ``times`` times."""
    lock = threading.Lock()
    left = times

    def rule(operation: str, request: dict[str, Any]) -> Answer | None:
        nonlocal left
        if operation != "Query" or partition_of(request) != partition:
            return None
        with lock:
            if left is not None:
                if left == 0:
                    return None
                left -= 1
        return answer

    stub.rule = rule


def ids(history: History, options: ReadOptions | None = None) -> list[str]:
    """Return the ids of a whole history."""
    return [str(message.message_id) for message in history.messages(CONV, options or ReadOptions())]


@pytest.mark.slow
def test_redis_dies_between_lookup_and_query(history: History, redis_server: LocalRedis) -> None:
    """A page continues after its lookup. The next page uses the backup and covers the same partitions."""
    expected = fill(history, 60)
    lookup = history.registry.lookup

    class DiesAfterwards:
        def lookup(self, conversation_id: str) -> Any:
            found = lookup(conversation_id)
            redis_server.kill()
            return found

    dying = History(DiesAfterwards(), history.store)
    page = dying.page(CONV, ReadOptions(limit=25))
    assert page.source == "redis"
    rest = history.page(CONV, ReadOptions(limit=50, before=page.next_cursor))
    assert rest.source == "backup"
    assert [str(message.message_id) for message in (*page.messages, *rest.messages)] == expected


@pytest.mark.slow
def test_n_is_raised_between_two_pages(history: History, registry: Registry) -> None:
    """The cursor stays valid, and messages that are written under the new N are read in order."""
    first = fill(history, 40)
    page = history.page(CONV, ReadOptions(limit=10, oldest_first=True))
    registry.raise_to(CONV, 16)
    later = fill(history, 40, start=40)
    rest = ids(history, ReadOptions(after=page.next_cursor, oldest_first=True))
    assert [str(m.message_id) for m in page.messages] + rest == [*first[::-1], *later[::-1]]


@pytest.mark.slow
def test_a_partition_that_throttles_is_named(stubbed: History, history: History, aws_stub: AwsStub) -> None:
    """It fails the page after botocore's retries. A partial page has the rest and is marked as incomplete."""
    expected = fill(history, 40)
    _ = stubbed.store.keys
    answer_for(aws_stub, f"{CONV}#2", refusal("ProvisionedThroughputExceededException"))
    with pytest.raises(HistoryUnavailableError, match=f"partition key '{CONV}#2'") as caught:
        stubbed.page(CONV)
    assert isinstance(caught.value.partitions[f"{CONV}#2"], ThrottledError)
    partial = stubbed.page(CONV, ReadOptions(allow_partial=True))
    assert not partial.complete
    assert partial.missing == [f"{CONV}#2"]
    there = {message.partition_key for message in partial.messages}
    assert f"{CONV}#2" not in there
    assert [m.message_id for m in partial.messages] == [
        message for message in expected if message in {m.message_id for m in partial.messages}
    ]


@pytest.mark.slow
def test_a_partition_that_recovers_is_retried(stubbed: History, history: History, aws_stub: AwsStub) -> None:
    """A caller does not notice one throttled answer."""
    expected = fill(history, 30)
    _ = stubbed.store.keys
    throttled_before = throttles()
    answer_for(aws_stub, f"{CONV}#1", refusal("ThrottlingException"), times=1)
    assert ids(stubbed) == expected
    assert throttles() > throttled_before, "hedging is off for a while after such a response"


@pytest.mark.slow
def test_a_partition_that_hangs_is_named(settings: Settings, registry: Registry, history: History) -> None:
    """If a server never answers a request, the page ends at its deadline."""
    fill(history, 10)
    released = threading.Event()
    assert settings.aws_endpoint_url is not None
    with AwsStub(settings.aws_endpoint_url) as stub:

        def hang(operation: str, request: dict[str, Any]) -> Answer | None:
            if operation == "Query" and partition_of(request) == f"{CONV}#3":
                released.wait(30)
            return None

        stub.rule = hang
        behind = MessagesTable(stub.settings(settings))
        try:
            with (
                History(registry, behind, page_timeout=1.0) as hanging,
                pytest.raises(HistoryUnavailableError, match=f"'{CONV}#3' did not answer within"),
            ):
                hanging.page(CONV)
        finally:
            released.set()


@pytest.mark.slow
def test_empty_pages_are_not_the_end(stubbed: History, history: History, aws_stub: AwsStub) -> None:
    """If an answer has only a LastEvaluatedKey, the partition is queried again until its end."""
    expected = fill(history, 40)
    _ = stubbed.store.keys
    keys = stubbed.store.keys
    partition = f"{CONV}#0"
    rows = [message for message in history.messages(CONV) if message.partition_key == partition]
    beyond = {keys.partition_key: {"S": partition}, keys.sort_key: {"S": "9999#beyond"}}
    assert rows
    empty: Answer = 200, {"Items": [], "Count": 0, "ScannedCount": 0, "LastEvaluatedKey": beyond}
    answer_for(aws_stub, partition, empty, times=3)
    assert ids(stubbed) == expected


@pytest.mark.slow
def test_messages_of_400_kb(history: History) -> None:
    """A page is complete although DynamoDB cuts its answers at 1 MB."""
    body = "x" * 399_000
    for number in range(12):
        history.put(CONV, f"{number:04d}#m{number}", {"text": body})
    page = history.page(CONV, ReadOptions(limit=12))
    assert [message.message_id for message in page.messages] == [f"m{number}" for number in reversed(range(12))]
    assert all(message.attributes["text"] == body for message in page.messages)
    assert max(shard.queries for shard in page.shards) > 1


@pytest.mark.slow
def test_every_type_of_dynamodb(history: History) -> None:
    """Each type is read as it was written."""
    value = {
        "s": "text",
        "n": Decimal("0.1234567890123456789012345678901234567"),
        "b": b"\x00\x01",
        "bool": False,
        "null": None,
        "l": [Decimal(1), ["deep", {"deeper": None}]],
        "m": {"k": {"ss"}},
        "ss": {"a", "b"},
        "ns": {Decimal("1"), Decimal("1.5")},
        "bs": {b"x"},
    }
    history.put(CONV, "t#m", value)
    (message,) = history.page(CONV).messages
    assert {name: message.attributes[name] for name in value} == value
    assert tagged(message.attributes["bool"]) == {"BOOL": False}


@pytest.mark.slow
def test_a_missing_table_is_not_an_outage(settings: Settings, registry: Registry) -> None:
    """It is a configuration error, which names the table."""
    with pytest.raises(ConfigurationError, match=f"no DynamoDB table '{settings.messages_table}'"):
        History.over(settings, registry, MessagesTable(settings)).page(CONV)


@pytest.mark.slow
def test_writers_readers_and_raises_at_once(history: History, registry: Registry) -> None:
    """While writers write and N grows, each read returns all messages that were acknowledged before it."""
    acknowledged: set[str] = set()
    lock = threading.Lock()
    failures: list[str] = []
    done = threading.Event()

    def write(writer: int) -> None:
        chance = random.Random(writer)
        for number in range(40):
            message_id = f"w{writer}-{chance.getrandbits(32):x}"
            history.put(CONV, f"{number:04d}#{message_id}", {})
            with lock:
                acknowledged.add(message_id)

    def read() -> None:
        while not done.is_set():
            with lock:
                expected = set(acknowledged)
            found = ids(history)
            if lost := expected - set(found):
                failures.append(f"{len(lost)} missing")
            if len(found) != len(set(found)):
                failures.append("a message came twice")

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in (reader, *writers):
        thread.start()
    for n in (8, 16):
        registry.raise_to(CONV, n)
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert failures == []
    assert set(ids(history)) == acknowledged
