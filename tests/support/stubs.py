"""Servers on loopback that misbehave as told. For errors that a real server cannot be brought to give."""

from __future__ import annotations

import fcntl
import http.client
import json
import socket
import struct
import sys
import termios
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from saltctl.settings import Settings

Answer = tuple[int, dict[str, Any] | bytes] | None
"""Status and body; bytes are sent as they are. None forwards the request."""
REASONS = tuple(
    f"{of}{way}{what}Exceeded"
    for of in ("Table", "Index")
    for way in ("Read", "Write")
    for what in ("KeyRangeThroughput", "ProvisionedThroughput", "AccountLimit", "MaxOnDemandThroughput")
)
"""Every reason that DynamoDB documents for throttling."""
THROTTLES = {
    "ProvisionedThroughputExceededException": "ThrottlingReasons",
    "RequestLimitExceeded": "ThrottlingReasons",
    "ThrottlingException": "throttlingReasons",
}
"""The errors that throttle, and how each of them spells its reasons."""
HANG_UP: Answer = (0, b"")
"""Close the connection without an answer."""
GARBAGE: Answer = (200, b"<html>this is no answer of AWS</html>")
Rule = Callable[[str, dict[str, Any]], Answer]


def refusal(code: str, status: int = 400, message: str = "no") -> Answer:
    """An answer of DynamoDB that refuses a request."""
    return status, {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message}


class _QuietServer(ThreadingHTTPServer):
    """A server whose clients may go at any time, killed or not."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a connection that ended; anything else is a defect of the stub, and is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def throttled(code: str, reason: str = REASONS[2], resource: str = "arn:aws:dynamodb:::table/t") -> Answer:
    """An answer of DynamoDB that throttles, with its reason in the spelling of its error."""
    name = f"com.amazonaws.dynamodb.v20120810#{code}"
    return 400, {"__type": name, "message": "no", THROTTLES[code]: [{"reason": reason, "resource": resource}]}


def unprocessed_but_one(operation: str, request: dict[str, Any]) -> dict[str, Any] | None:
    """For ``AwsStub.narrow``: of a batch only the first key or write of the first table is done."""
    if operation not in ("BatchGetItem", "BatchWriteItem"):
        return None
    table, wanted = next(iter(request["RequestItems"].items()))
    first = wanted[:1] if isinstance(wanted, list) else {**wanted, "Keys": wanted["Keys"][:1]}
    return {**request, "RequestItems": {table: first}}


class AwsStub:
    """Forwards requests to moto, but for those that ``rule`` answers itself.

    ``rule`` gets the operation, such as ``Scan``, and the request; None forwards it. ``seen`` are the
    operations in the order of their arrival. ``narrow`` may replace a batch by a part of it, which is
    forwarded; what is left is answered as unprocessed. ``delay`` is waited before each answer, in seconds;
    it ends with the stub. ``date`` replaces the date of its answers.
    """

    def __init__(self, upstream: str) -> None:
        self.rule: Rule = lambda operation, request: None
        self.seen: list[str] = []
        self.narrow: Callable[[str, dict[str, Any]], dict[str, Any] | None] = lambda operation, request: None
        self.delay = 0.0
        self.date: str | None = None
        self._ended = threading.Event()
        parts = urlsplit(upstream)
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                body = self.rfile.read(size)
                if len(body) < size:
                    raise ConnectionResetError("the client went in the middle of its request")
                operation, request = _understood(self.headers, self.path, body)
                stub.seen.append(operation)
                if stub.delay:
                    stub._ended.wait(stub.delay)
                answer = stub.rule(operation, request)
                if answer is HANG_UP:
                    self.close_connection = True
                    return
                if answer is None:
                    status, content = self._forward_narrowed(operation, request, body)
                else:
                    status = answer[0]
                    content = answer[1] if isinstance(answer[1], bytes) else json.dumps(answer[1]).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/x-amz-json-1.0")
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    self.close_connection = True  # the client waited no longer

            def date_time_string(self, timestamp: float | None = None) -> str:
                return stub.date or super().date_time_string(timestamp)

            def _forward_narrowed(self, operation: str, request: dict[str, Any], body: bytes) -> tuple[int, bytes]:
                narrow = stub.narrow(operation, request)
                if narrow is None:
                    return self._forward(body)
                status, content = self._forward(json.dumps(narrow).encode())
                if status != 200:
                    return status, content
                return status, json.dumps(_with_rest(json.loads(content), request, narrow)).encode()

            def _forward(self, body: bytes) -> tuple[int, bytes]:
                assert parts.hostname is not None
                upstream = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
                try:
                    headers = {**self.headers, "Content-Length": str(len(body))}
                    upstream.request("POST", self.path, body, headers)
                    response = upstream.getresponse()
                    return response.status, response.read()
                finally:
                    upstream.close()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the parameter's name there
                """Nothing: tests print no access log."""

        self._server = _QuietServer(("127.0.0.1", 0), Handler)
        # Connections are kept alive by botocore: nobody waits for them to end.
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        """Serve."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self._ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def settings(self, settings: Settings) -> Settings:
        """The same settings, led to the stub."""
        host, port = self._server.server_address[:2]
        return replace(settings, aws_endpoint_url=f"http://{host!s}:{port}")

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


def _understood(headers: Any, path: str, body: bytes) -> tuple[str, dict[str, Any]]:
    """The operation and the request: in JSON, as a query, or, without the request, in CBOR.

    DynamoDB speaks JSON; CloudWatch any of the three, as botocore's version has it.
    """
    if headers["X-Amz-Target"]:
        return headers["X-Amz-Target"].rpartition(".")[2], json.loads(body)
    if "/operation/" in path:
        return path.rpartition("/")[2], {}
    fields = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    return fields.get("Action", ""), fields


def _with_rest(answer: dict[str, Any], request: dict[str, Any], done: dict[str, Any]) -> dict[str, Any]:
    """The answer to a part of a batch, with the rest of the batch as unprocessed."""
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


Command = list[bytes]
Reply = bytes | None


class RedisStub:
    """Speaks as much RESP2 as redis-py needs to connect, and answers commands as ``rule`` says.

    ``rule`` gets the number of the connection (from 0) and the command; it returns the reply's bytes, or
    None for no answer. What it does not know, such as CLIENT SETINFO, it should answer with ``OK``.
    """

    OK = b"+OK\r\n"

    def __init__(self, rule: Callable[[int, Command], Reply]) -> None:
        self._rule = rule
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = [threading.Thread(target=self._accept)]

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def __enter__(self) -> Self:
        """Serve."""
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all connections."""
        # shutdown() wakes the threads that wait in accept() and recv(); close() alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client was first
        for thread in self._threads[1:]:
            thread.join()
        for connection in self._connections:
            connection.close()
        self._listener.close()

    def send(self, connection: int, reply: bytes) -> None:
        """Send something on a connection now, asked or not; OSError where the client has closed it."""
        self._connections[connection].sendall(reply)

    def arrived(self, connection: int) -> bool:
        """Whether the client's side has all that was sent on a connection."""
        waiting = struct.Struct("i")
        unacknowledged = fcntl.ioctl(self._connections[connection], termios.TIOCOUTQ, waiting.pack(0))
        return waiting.unpack(unacknowledged) == (0,)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number = len(self._connections)
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(number, connection))
            self._threads.append(thread)
            thread.start()

    def _serve(self, number: int, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as lines:
                while (command := _read_command(lines)) is not None:
                    reply = self._rule(number, command)
                    if reply is not None:
                        connection.sendall(reply)
        except OSError:
            return  # the client has gone


def _read_command(lines: Any) -> Command | None:
    head = lines.readline()
    if not head.startswith(b"*"):
        return None
    parts = []
    for _ in range(int(head[1:])):
        size = int(lines.readline()[1:])
        parts.append(lines.read(size + 2)[:-2])
    return parts


def bulk(text: str) -> bytes:
    """A bulk string."""
    raw = text.encode()
    return b"$%d\r\n%s\r\n" % (len(raw), raw)


def array(values: Sequence[str]) -> bytes:
    """An array of bulk strings."""
    return b"*%d\r\n" % len(values) + b"".join(bulk(value) for value in values)
