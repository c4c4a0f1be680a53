"""A backup table without latency: a separate process that serves prepared Scan pages over HTTP.

``python -m tests.benchmarks.backup_pages COUNT`` prints its port and serves until its standard input ends.
The time for a page is therefore the time of the client, without the time of DynamoDB or of an emulator. Scans with any
number of segments find the same items. Requests about saltctl's own items get minimal responses, which are enough
for a single rebuild.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import zlib
from dataclasses import dataclass
from functools import reduce
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import _exit as exit_immediately
from typing import Any, Self

from saltctl.stores.aws.backup_items import KEY
from saltctl.stores.aws.registry_item import REGISTRY_ITEM_ID
from tests.benchmarks.entries import conversation_id, n_of

_DESCRIPTION = {
    "TableId": "1",
    "KeySchema": [{"AttributeName": KEY, "KeyType": "HASH"}],
    "AttributeDefinitions": [{"AttributeName": KEY, "AttributeType": "S"}],
}
PAGE_BYTES = 1 << 20
"""Bytes of JSON in a page at most. DynamoDB measures 1 MB before projection, so its pages have fewer items."""
CHUNK_ITEMS = 1_000
"""A page has whole chunks of prepared JSON: as many as its bytes and the request's ``Limit`` permit, or one."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Prepared items of a page: their JSON without brackets, their number, and the last id."""

    json: bytes
    items: int
    last: str


def make_chunks(count: int) -> list[Chunk]:
    """Return the first ``count`` entries."""
    chunks = []
    for start in range(0, count, CHUNK_ITEMS):
        ids = [conversation_id(number) for number in range(start, min(start + CHUNK_ITEMS, count))]
        items = (f'{{"{KEY}":{{"S":"{i}"}},"max_n":{{"N":"{n_of(i)}"}},"write_n":{{"N":"{n_of(i)}"}}}}' for i in ids)
        chunks.append(Chunk(",".join(items).encode(), len(ids), ids[-1]))
    return chunks


class Table:
    """A table that answers requests from its chunks."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self._chunks = chunks
        self._after = {chunk.last: number + 1 for number, chunk in enumerate(chunks)}
        self._checksums: dict[tuple[int, int], int] = {}
        self._registry: dict[str, Any] = {}

    def answer(self, operation: str, request: dict[str, Any]) -> tuple[int, list[bytes], int]:
        """Return the status, the parts of the body, and its CRC-32."""
        if operation == "Scan":
            return self._scan(request)
        capacity = {"ConsumedCapacity": {"TableName": request["TableName"], "CapacityUnits": 1.0}}
        if operation == "UpdateItem":
            return _small(200, self._update(request) | capacity)
        if operation == "GetItem":
            known = self._registry and request["Key"][KEY]["S"] == REGISTRY_ITEM_ID
            return _small(200, ({"Item": self._registry} if known else {}) | capacity)
        if operation == "DescribeTable":
            return _small(200, {"Table": _DESCRIPTION | {"TableName": request["TableName"]}})
        return _small(400, {"__type": "com.amazonaws.dynamodb#UnknownOperationException", "message": operation})

    def _scan(self, request: dict[str, Any]) -> tuple[int, list[bytes], int]:
        segment, segments = request.get("Segment", 0), request.get("TotalSegments", 1)
        number, end = (len(self._chunks) * at // segments for at in (segment, segment + 1))
        if "ExclusiveStartKey" in request:
            after = self._after[request["ExclusiveStartKey"][KEY]["S"]]
            if not number < after <= end:
                error = {"__type": "com.amazonaws.dynamodb#ValidationException", "message": "key of another segment"}
                return _small(400, error)
            number = after
        chunks = self._page(number, end, request.get("Limit", PAGE_BYTES))
        items, size = sum(chunk.items for chunk in chunks), sum(len(chunk.json) for chunk in chunks)
        tail: dict[str, Any] = {"Count": items, "ScannedCount": items}
        if number + len(chunks) < end:
            tail["LastEvaluatedKey"] = {KEY: {"S": chunks[-1].last}}
        if "ReturnConsumedCapacity" in request:
            units = max(size / 4096, 1) / (1 if request.get("ConsistentRead") else 2)
            tail["ConsumedCapacity"] = {"TableName": request["TableName"], "CapacityUnits": round(units, 1)}
        parts = [part for chunk in chunks for part in (b",", chunk.json)][1:]
        start, last = [b'{"Items":[', *parts], ("]," + json.dumps(tail)[1:]).encode()
        if (number, len(chunks)) not in self._checksums:  # computed once, in the first scan
            self._checksums[number, len(chunks)] = reduce(lambda crc, part: zlib.crc32(part, crc), start, 0)
        return 200, [*start, last], zlib.crc32(last, self._checksums[number, len(chunks)])

    def _page(self, number: int, end: int, limit: int) -> list[Chunk]:
        """Return the chunks of a page, from one on."""
        page: list[Chunk] = []
        items = size = 0
        for at in range(number, end):
            chunk = self._chunks[at]
            items, size = items + chunk.items, size + len(chunk.json)
            if page and (items > limit or size > PAGE_BYTES):
                break
            page.append(chunk)
        return page

    def _update(self, request: dict[str, Any]) -> dict[str, Any]:
        """Keep the identity of the registry; forget every other item."""
        values = request.get("ExpressionAttributeValues", {})
        if request["Key"][KEY]["S"] == REGISTRY_ITEM_ID:
            self._registry[KEY] = request["Key"][KEY]
            for name, value in re.findall(r"(\w+) = (:\w+)", request["UpdateExpression"]):
                self._registry[name] = values[value]
        return {}


def _small(status: int, answer: dict[str, Any]) -> tuple[int, list[bytes], int]:
    body = json.dumps(answer).encode()
    return status, [body], zlib.crc32(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, table: Table) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.table = table


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: _Server

    def do_POST(self) -> None:
        """Answer one request."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        operation = self.headers["X-Amz-Target"].rpartition(".")[2]
        status, parts, crc = self.server.table.answer(operation, request)
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(sum(len(part) for part in parts)))
        self.send_header("x-amz-crc32", str(crc))
        self.end_headers()
        for part in parts:
            self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name in the base class
        """Log nothing."""


class PagesServer:
    """The server as a separate process, as a context manager."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> Self:
        """Start the process and wait until it serves."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.backup_pages", str(self._count)],
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


def _exit_with_stdin() -> None:
    sys.stdin.buffer.read()
    exit_immediately(0)


def main() -> None:
    """Serve until standard input ends."""
    server = _Server(Table(make_chunks(int(sys.argv[1]))))
    threading.Thread(target=_exit_with_stdin, daemon=True).start()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
