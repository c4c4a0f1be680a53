"""A server on loopback in front of moto that returns errors which moto cannot be made to return."""

from __future__ import annotations

import http.client
import json
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from saltctl.settings import Settings

Answer = tuple[int, dict[str, Any] | bytes] | None
"""Status and body; bytes are sent as they are. None forwards the request."""
REASONS = tuple(
    f"{resource}{direction}{limit}Exceeded"
    for resource in ("Table", "Index")
    for direction in ("Read", "Write")
    for limit in ("KeyRangeThroughput", "ProvisionedThroughput", "AccountLimit", "MaxOnDemandThroughput")
)
"""Every reason that DynamoDB documents for throttling."""
THROTTLES = {
    "ProvisionedThroughputExceededException": "ThrottlingReasons",
    "RequestLimitExceeded": "ThrottlingReasons",
    "ThrottlingException": "throttlingReasons",
}
"""The errors that throttle, and how each of them spells its reasons."""
HANG_UP: Answer = (0, b"")
"""Close the connection without a response."""
GARBAGE: Answer = (200, b"<html>this is not from AWS</html>")
Rule = Callable[[str, dict[str, Any]], Answer]


def refusal(code: str, status: int = 400, message: str = "no") -> Answer:
    """Make DynamoDB's response to a request that it refuses."""
    return status, {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message}


def throttled(code: str, reason: str = REASONS[2], resource: str = "arn:aws:dynamodb:::table/t") -> Answer:
    """Make DynamoDB's response to a throttled request, with its reason."""
    name = f"com.amazonaws.dynamodb.v20120810#{code}"
    return 400, {"__type": name, "message": "no", THROTTLES[code]: [{"reason": reason, "resource": resource}]}


def process_one_key(operation: str, request: dict[str, Any]) -> dict[str, Any] | None:
    """Reduce a batch to its first key or write, for ``AwsStub.narrow``."""
    if operation not in ("BatchGetItem", "BatchWriteItem"):
        return None
    table, wanted = next(iter(request["RequestItems"].items()))
    first = wanted[:1] if isinstance(wanted, list) else {**wanted, "Keys": wanted["Keys"][:1]}
    return {**request, "RequestItems": {table: first}}


class _Server(ThreadingHTTPServer):
    """The HTTP server of a stub. Its clients may disconnect at any time."""

    # botocore keeps connections alive, so the server does not wait until they end.
    daemon_threads = True
    block_on_close = False

    def __init__(self, stub: AwsStub, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stub = stub
        self.upstream = urlsplit(upstream)
        self.ended = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a connection that ended; print any other error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def forward(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Send a request to moto; return the status and the body of the response."""
        assert self.upstream.hostname is not None
        connection = http.client.HTTPConnection(self.upstream.hostname, self.upstream.port, timeout=10)
        try:
            connection.request("POST", path, body, {**headers, "Content-Length": str(len(body))})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        """Answer one request by the rule of the stub, or forward it."""
        size = int(self.headers["Content-Length"])
        body = self.rfile.read(size)
        if len(body) < size:
            raise ConnectionResetError("the client disconnected during its request")
        stub = self.server.stub
        operation, request = _parse_request(self.headers, self.path, body)
        stub.seen.append(operation)
        if stub.delay:
            self.server.ended.wait(stub.delay)
        answer = stub.rule(operation, request)
        if answer is HANG_UP:
            self.close_connection = True
        elif answer is None:
            self._respond(*self._forward(operation, request, body))
        else:
            content = answer[1] if isinstance(answer[1], bytes) else json.dumps(answer[1]).encode()
            self._respond(answer[0], content)

    def _respond(self, status: int, content: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True  # the client has disconnected

    def _forward(self, operation: str, request: dict[str, Any], body: bytes) -> tuple[int, bytes]:
        """Forward a request, or the part of it that the stub's ``narrow`` returns."""
        narrow = self.server.stub.narrow(operation, request)
        if narrow is not None:
            body = json.dumps(narrow).encode()
        status, content = self.server.forward(self.path, body, dict(self.headers))
        if narrow is not None and status == 200:
            content = json.dumps(_add_unprocessed(json.loads(content), request, narrow)).encode()
        return status, content

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Return the date of a response."""
        return self.server.stub.date or super().date_time_string(timestamp)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the parameter's name there
        """Print no access log."""


class AwsStub:
    """Forwards requests to moto, except those that ``rule`` answers.

    Attributes:
        rule: gets the operation, such as ``Scan``, and the request; None forwards the request.
        seen: the operations in the order of their arrival.
        narrow: may reduce a batch to a part, which is forwarded; the rest is returned as unprocessed.
        delay: seconds before each response; it ends with the stub.
        date: replaces the date of the responses.
    """

    def __init__(self, upstream: str) -> None:
        self.rule: Rule = lambda operation, request: None
        self.seen: list[str] = []
        self.narrow: Callable[[str, dict[str, Any]], dict[str, Any] | None] = lambda operation, request: None
        self.delay = 0.0
        self.date: str | None = None
        self._server = _Server(self, upstream)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        """Start the server."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        self._server.ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The endpoint of the stub."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def settings(self, settings: Settings) -> Settings:
        """Return these settings with the stub's endpoint."""
        return replace(settings, aws_endpoint_url=self.url)

    def answer_first(self, count: int, operation: str, answer: Answer) -> None:
        """Answer the first ``count`` requests of an operation with ``answer``; forward the rest."""
        lock = threading.Lock()
        left = count

        def rule(asked: str, request: dict[str, Any]) -> Answer | None:
            nonlocal left
            with lock:
                if asked != operation or left <= 0:
                    return None
                left -= 1
                return answer

        self.rule = rule

    def answer_always(self, operation: str, answer: Answer) -> None:
        """Answer every request of an operation with ``answer``."""
        self.rule = lambda asked, request: answer if asked == operation else None


def _parse_request(headers: Any, path: str, body: bytes) -> tuple[str, dict[str, Any]]:
    """Return the operation and the request, from JSON or a query; from CBOR the operation alone.

    DynamoDB uses JSON; CloudWatch uses any of the three, depending on botocore's version.
    """
    if headers["X-Amz-Target"]:
        return headers["X-Amz-Target"].rpartition(".")[2], json.loads(body)
    if "/operation/" in path:
        return path.rpartition("/")[2], {}
    fields = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    return fields.get("Action", ""), fields


def _add_unprocessed(answer: dict[str, Any], request: dict[str, Any], done: dict[str, Any]) -> dict[str, Any]:
    """Add the rest of a batch to the response to its part, as unprocessed."""
    rest: dict[str, Any] = {}
    for table, wanted in request["RequestItems"].items():
        had = done["RequestItems"].get(table)
        if isinstance(wanted, list):
            left: Any = [one for one in wanted if one not in (had or [])]
            some = bool(left)
        else:
            keys = [key for key in wanted["Keys"] if key not in (had or {"Keys": []})["Keys"]]
            left, some = {**wanted, "Keys": keys}, bool(keys)
        if some:
            rest[table] = left
    name = "UnprocessedKeys" if "Responses" in answer else "UnprocessedItems"
    return {**answer, name: rest}
