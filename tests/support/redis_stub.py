"""A server on loopback that answers like Redis, with errors which a real one cannot be made to return."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

Command = list[bytes]
Reply = bytes | None


class RedisStub:
    """A server that speaks enough RESP2 for redis-py to connect, and answers commands by ``rule``.

    ``rule`` gets the number of the connection (from 0) and the command; it returns the reply's bytes, or
    None for no reply, and raises an OSError to close the connection. It should answer unknown commands,
    such as CLIENT SETINFO, with ``OK``. Each connection gets the ``greeting`` first, unasked.
    """

    OK = b"+OK\r\n"

    def __init__(self, rule: Callable[[int, Command], Reply], greeting: bytes = b"") -> None:
        self._rule = rule
        self._greeting = greeting
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = [threading.Thread(target=self._accept)]

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def __enter__(self) -> Self:
        """Start the server."""
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        # shutdown() wakes the threads that wait in accept() and recv(); close() alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client has closed it
        for thread in self._threads[1:]:
            thread.join()
        for connection in self._connections:
            connection.close()
        self._listener.close()

    def send(self, connection: int, reply: bytes) -> None:
        """Send bytes on a connection without a request; OSError if the client has closed it."""
        self._connections[connection].sendall(reply)

    def arrived(self, connection: int) -> bool:
        """Return whether the client's kernel has acknowledged everything sent on a connection."""
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
            connection.sendall(self._greeting)
            with connection.makefile("rb") as lines:
                while (command := _read_command(lines)) is not None:
                    reply = self._rule(number, command)
                    if reply is not None:
                        connection.sendall(reply)
        except OSError:  # the rule wants it so, or the client has disconnected
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


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
    """Encode a bulk string."""
    raw = text.encode()
    return b"$%d\r\n%s\r\n" % (len(raw), raw)


def array(values: Sequence[str]) -> bytes:
    """Encode an array of bulk strings."""
    return b"*%d\r\n" % len(values) + b"".join(bulk(value) for value in values)
