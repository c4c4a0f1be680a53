"""A messages table over HTTP whose queries take 5 ms, and one in a hundred 100 ms: a separate process.

``python -m tests.benchmarks.slow_queries N SEED`` prints its port and serves until its standard input ends. The rows of
one conversation of N salts are prepared, and a single thread answers many requests at once, so that the processor time
is that of the client. Which queries are slow depends on the seed alone. ``POST /count`` returns how many there were.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import urllib.request
from collections import defaultdict
from typing import Any, Self

from saltctl.salting import partition_key, salt_of
from saltctl.stores.aws.messages_table import PARTITION_KEY, SORT_KEY

CONVERSATION = "conv"
MESSAGES = 2000
USUAL, SLOW, SLOW_SHARE = 0.005, 0.1, 0.01
_DESCRIPTION = {
    "TableId": "1",
    "KeySchema": [
        {"AttributeName": PARTITION_KEY, "KeyType": "HASH"},
        {"AttributeName": SORT_KEY, "KeyType": "RANGE"},
    ],
    "AttributeDefinitions": [
        {"AttributeName": PARTITION_KEY, "AttributeType": "S"},
        {"AttributeName": SORT_KEY, "AttributeType": "S"},
    ],
}


def make_rows(n: int) -> dict[str, list[tuple[str, str]]]:
    """Return the sort keys and the JSON of the rows of each partition, newest first."""
    rng = random.Random(n)
    rows: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for number in reversed(range(MESSAGES)):
        message_id = f"{rng.getrandbits(64):016x}"
        partition, key = partition_key(CONVERSATION, salt_of(message_id, n)), f"{number:08d}#{message_id}"
        item = {PARTITION_KEY: {"S": partition}, SORT_KEY: {"S": key}, "text": {"S": "x" * 100}}
        rows[partition].append((key, json.dumps(item)))
    return rows


class Table:
    """Answers requests, and decides how long each takes."""

    def __init__(self, n: int, seed: int) -> None:
        self._rows = make_rows(n)
        self._rng = random.Random(seed)
        self._queries = 0

    def answer(self, operation: str, request: dict[str, Any]) -> tuple[float, bytes]:
        """Return the seconds after which to answer, and the answer."""
        if operation == "DescribeTable":
            return 0.0, json.dumps({"Table": _DESCRIPTION | {"TableName": request["TableName"]}}).encode()
        if operation != "Query":
            return 0.0, str(self._queries).encode()
        self._queries += 1
        seconds = SLOW if self._rng.random() < SLOW_SHARE else USUAL
        return seconds, self._query(request).encode()

    def _query(self, request: dict[str, Any]) -> str:
        partition = request["ExpressionAttributeValues"][":saltctl_p"]["S"]
        rows, limit = self._rows.get(partition, []), request["Limit"]
        if start := request.get("ExclusiveStartKey"):
            rows = [row for row in rows if row[0] < start[SORT_KEY]["S"]]
        found, end = rows[:limit], ""
        if len(rows) > limit:
            last = {PARTITION_KEY: {"S": partition}, SORT_KEY: {"S": found[-1][0]}}
            end = f',"LastEvaluatedKey":{json.dumps(last)}'
        items, table = ",".join(item for _, item in found), json.dumps(request["TableName"])
        return (
            f'{{"Items":[{items}],"Count":{len(found)},"ScannedCount":{len(found)},'
            f'"ConsumedCapacity":{{"TableName":{table},"CapacityUnits":1.0}}{end}}}'
        )


class _Connection(asyncio.Protocol):
    """One connection of a client that waits for each answer."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer a request once it is complete."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        headers = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
        if len(body) < int(headers[b"content-length"]):
            return
        self._received = b""
        operation = headers.get(b"x-amz-target", b"").rpartition(b".")[2]
        names = {b"query": "Query", b"describetable": "DescribeTable"}
        seconds, answer = self._table.answer(names.get(operation, ""), json.loads(body or b"{}"))
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n\r\n" % len(
            answer
        )
        asyncio.get_running_loop().call_later(seconds, self._transport.write, head + answer)


class SlowQueries:
    """The server as a separate process, as a context manager."""

    def __init__(self, n: int, seed: int) -> None:
        self._arguments = str(n), str(seed)

    def __enter__(self) -> Self:
        """Start the process and wait until it serves."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.slow_queries", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def queries(self) -> int:
        """Return how many queries the server has received."""
        with urllib.request.urlopen(f"{self.url}/count", data=b"", timeout=10) as answer:  # noqa: S310  its own URL
            return int(answer.read())


async def serve() -> None:
    """Serve until standard input ends."""
    loop, table = asyncio.get_running_loop(), Table(int(sys.argv[1]), int(sys.argv[2]))
    server = await loop.create_server(lambda: _Connection(table), "127.0.0.1", 0, backlog=256)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve())
