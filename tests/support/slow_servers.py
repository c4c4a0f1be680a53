"""Servers that are slow in every way that TCP permits, and a resolver that hangs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import pytest

PAUSE = 0.02
"""Seconds between two pieces of an answer that drips: far below every timeout of a test."""


class SlowServer:
    """Accepts connections, waits for a first request on each, and sends ``begin`` and then ``more`` for ever.

    Without ``more`` it stays silent after ``begin``. ``pause`` is the time between two pieces, in seconds.
    """

    def __init__(self, begin: bytes = b"", more: bytes = b"", pause: float = PAUSE) -> None:
        self._begin, self._more, self._pause = begin, more, pause
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]

    @property
    def connections(self) -> int:
        """The number of connections so far."""
        return len(self._sockets)

    def __enter__(self) -> Self:
        """Start the server."""
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections, and wait for the threads."""
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for sock in (self._listener, *self._sockets):
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
            self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError):
            sock.recv(1 << 16)
            sock.sendall(self._begin)
            while self._more and not self._stopped.wait(self._pause):
                sock.sendall(self._more)
            self._stopped.wait()


class Front:
    """Forwards connections to a port, and can lose those that exist, as a balancer that forgets them does."""

    def __init__(self, port: int) -> None:
        self._backend = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._lost = threading.Event()
        self.port: int = self._listener.getsockname()[1]

    def lose(self) -> None:
        """Forward nothing any more over the connections that exist."""
        self._lost.set()
        self._lost = threading.Event()

    def __enter__(self) -> Self:
        """Start the server."""
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections, and wait for the threads."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for sock in (self._listener, *self._sockets):
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            backend = socket.create_connection(("127.0.0.1", self._backend))
            self._sockets += [client, backend]
            for one, other in ((client, backend), (backend, client)):
                self._threads.append(threading.Thread(target=self._pump, args=(one, other, self._lost)))
                self._threads[-1].start()

    @staticmethod
    def _pump(one: socket.socket, other: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                if not lost.is_set():
                    other.sendall(data)


class FullBacklog:
    """Addresses that answer no attempt to connect: their queues are full."""

    def __init__(self, count: int = 1) -> None:
        self._sockets: list[socket.socket] = []
        self.ports: list[int] = []
        for _ in range(count):
            listener = socket.socket()
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            self.ports.append(listener.getsockname()[1])
            self._sockets.append(listener)
            for _ in range(3):
                client = socket.socket()
                client.setblocking(False)
                client.connect_ex(listener.getsockname())
                self._sockets.append(client)

    def __enter__(self) -> Self:
        """Return itself: the queues are full already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the sockets."""
        for sock in self._sockets:
            sock.close()


class Resolver:
    """Replaces ``socket.getaddrinfo``: names of ``addresses`` have these, ``hangs`` waits until ``release``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, addresses: dict[str, list[int]] | None = None) -> None:
        self._real: Callable[..., Any] = socket.getaddrinfo
        self._addresses = addresses or {}
        self.released = threading.Event()
        self.asked: list[str] = []
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: str, port: int, *args: Any, **more: Any) -> Any:
        """Resolve a name."""
        if host in self._addresses:
            ports = self._addresses[host]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", number)) for number in ports]
        if host == "hangs.test":
            self.asked.append(host)
            self.released.wait()
            host = "127.0.0.1"
        return self._real(host, port, *args, **more)
