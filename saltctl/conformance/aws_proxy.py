"""A proxy between a client and DynamoDB: it records requests, and answers instead of the server if a check wants it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

READS = {"BatchGetItem", "TransactGetItems", "GetItem"}
"""The operations that read items by their keys."""
_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}
_MAX_BODY = 1 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """One request: the operation, such as ``BatchGetItem``, and its parameters; empty if they are not JSON."""

    operation: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Response:
    """An answer of the proxy's own."""

    status: int
    body: Mapping[str, Any] | str
    """JSON, or a text that is none."""

    @classmethod
    def error(cls, name: str) -> Response:
        """Return the answer of DynamoDB with this error."""
        return cls(400, {"__type": f"com.amazonaws.dynamodb.v20120810#{name}", "message": f"{name} by saltctl"})


Action = Response | Literal["cut", "hold"] | None
"""An answer; ``cut`` closes the connection without one; ``hold`` delays the server's answer until a release; None
forwards."""
Rule = Callable[[Request], Action]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: the client may go at any time."""


class AwsProxy:
    """Forwards requests from a port of its own to moto's server.

    ``rule`` decides what becomes of each request. ``requests`` has them since the last :meth:`take`.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.rule: Rule | None = None
        self.held = threading.Event()
        """Set as soon as an answer is held."""
        self._released = threading.Event()
        self._requests: list[Request] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            """Handles the requests of one connection."""

            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                """Answer a request."""
                proxy.answer(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name of the base class
                """Print nothing."""

        self._handler = Handler
        self._server: _Server | None = None
        self._kept: socket.socket | None = None
        self.port = 0
        self._listen()

    def _listen(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None
        self._server = _Server(("127.0.0.1", self.port), self._handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="aws-proxy", daemon=True).start()

    def _close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def stop(self) -> None:
        """Close the port."""
        self.release()
        self._close()
        if self._kept is not None:
            self._kept.close()

    def refuse(self) -> None:
        """Refuse new connections until :meth:`heal`, and cut a connection that is there at its next request."""
        self.rule = lambda _: "cut"
        self._close()
        # It does not listen, so connections are refused; no other process gets the port meanwhile.
        self._kept = socket.socket()
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._kept.bind(("127.0.0.1", self.port))

    def heal(self) -> None:
        """End all faults, and forget what was recorded."""
        self.rule = None
        if self._server is None:
            self._listen()
        self.release()
        self._released.clear()
        self.held.clear()
        self.take()

    def release(self) -> None:
        """Send the answers that are held, and hold none any more until :meth:`heal`."""
        self._released.set()

    def take(self) -> list[Request]:
        """Return the requests that were recorded, and forget them."""
        taken, self._requests = self._requests, []
        return taken

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request, by the rule or by the server."""
        body = handler.rfile.read(max(0, min(int(handler.headers.get("Content-Length") or 0), _MAX_BODY)))
        request = Request(handler.headers.get("X-Amz-Target", "").rpartition(".")[2], _parse(body))
        self._requests.append(request)
        action = self.rule(request) if self.rule else None
        if action == "cut":
            handler.close_connection = True
        elif isinstance(action, Response):
            text = action.body if isinstance(action.body, str) else json.dumps(action.body)
            _send(handler, action.status, {"Content-Type": "application/x-amz-json-1.0"}, text)
        else:
            answer = self._forward(handler, body)
            if action == "hold":
                self.held.set()
                self._released.wait(timeout=60)
            _send(handler, *answer)

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], str]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.target, timeout=30)) as connection:
            kept = {name: value for name, value in handler.headers.items() if name.lower() not in _HOP_BY_HOP}
            connection.request("POST", handler.path, body, kept)
            response = connection.getresponse()
            text = response.read().decode()
            return response.status, dict(response.getheaders()), text


def _parse(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _send(handler: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], text: str) -> None:
    body = text.encode()
    handler.send_response(status)
    for name, value in headers.items():
        if name.lower() not in _HOP_BY_HOP:
            handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
