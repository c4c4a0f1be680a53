"""Servers on loopback that never answer, answer byte by byte, answer without an end, or hang up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

Serve = Callable[[socket.socket, threading.Event], None]


class BadServer(NamedTuple):
    """A running server: its port, and how many connections it has accepted."""

    port: int
    accepted: list[socket.socket]


def stay_silent(_: socket.socket, ended: threading.Event) -> None:
    """Never answer."""
    ended.wait()


def hang_up(_: socket.socket, __: threading.Event) -> None:
    """Close the connection at once."""


def drip(answer: bytes) -> Serve:
    """Send an answer byte by byte, and its last byte again and again."""

    def serve(connection: socket.socket, ended: threading.Event) -> None:
        place = 0
        while not ended.wait(0.02):
            connection.sendall(answer[place : place + 1])
            place = min(place + 1, len(answer) - 1)

    return serve


def never_end(head: bytes) -> Serve:
    """Send an answer whose body has no end."""

    def serve(connection: socket.socket, ended: threading.Event) -> None:
        connection.recv(1 << 16)
        connection.sendall(head)
        while not ended.is_set():
            connection.sendall(b" " * (1 << 16))

    return serve


@contextmanager
def bad_server(serve: Serve) -> Iterator[BadServer]:
    """Run a server that treats each of its connections with ``serve`` and then closes it."""
    ended = threading.Event()
    threads: list[threading.Thread] = []
    server = BadServer(0, [])

    def handle(connection: socket.socket) -> None:
        with connection:
            try:
                serve(connection, ended)
            except OSError:
                return  # the client has disconnected

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            server.accepted.append(connection)
            thread = threading.Thread(target=handle, args=(connection,))
            threads.append(thread)
            thread.start()

    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        acceptor = threading.Thread(target=accept, args=(listener,))
        acceptor.start()
        try:
            yield server._replace(port=listener.getsockname()[1])
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for connection in server.accepted:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # it is closed already
            for thread in threads:
                thread.join()
