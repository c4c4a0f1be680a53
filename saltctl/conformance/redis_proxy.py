"""A proxy between a client and Redis: it records commands, and answers instead of the server if a check wants it.

It takes one command of a connection after the other, so that an answer of its own keeps its place among those of the
server.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from io import BufferedReader
from typing import Literal

Command = Sequence[bytes]
Action = bytes | Literal["cut", "hold"] | None
"""An answer; ``cut`` closes the connection, ``hold`` delays the server's answer until a release; None forwards."""
_MAX_PARTS, _MAX_BYTES = 10_000, 1 << 20


class RedisProxy:
    """Forwards connections from a port of its own to a server on loopback.

    ``rule`` decides what becomes of each command; ``refuses`` cuts every new connection. ``commands`` has those of all
    connections since the last :meth:`take`, without those that open a connection.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.rule: Callable[[Command], Action] | None = None
        self.refuses = False
        self.held = threading.Event()
        """Set as soon as an answer is held."""
        self._released = threading.Event()
        self._commands: list[Command] = []
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="redis-proxy", daemon=True).start()

    def stop(self) -> None:
        """Close the port and all connections."""
        self.refuses = True
        self._released.set()
        # A thread that waits in accept() is woken by a shutdown alone.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Close all connections of clients."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def heal(self) -> None:
        """End all faults, and forget what was held and recorded."""
        self.rule, self.refuses = None, False
        self.release()
        self._released.clear()
        self.held.clear()
        self.take()

    def release(self) -> None:
        """Send the answers that are held, and hold none any more until :meth:`heal`."""
        self._released.set()

    def take(self) -> list[Command]:
        """Return the commands that were recorded, and forget them."""
        taken, self._commands = self._commands, []
        return taken

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                if self.refuses:
                    connection.close()
                    continue
                threading.Thread(target=self._serve, args=(connection,), name="redis-proxy", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._open.add(client)
        try:
            with closing(client), suppress(OSError, ValueError):
                server = socket.create_connection(("127.0.0.1", self._target))
                with closing(server), client.makefile("rb") as commands, server.makefile("rb") as replies:
                    while (command := read_command(commands)) is not None:
                        if not self._answer(client, server, replies, *command):
                            return
        finally:
            self._open.discard(client)

    def _answer(
        self, client: socket.socket, server: socket.socket, replies: BufferedReader, raw: bytes, command: Command
    ) -> bool:
        """Answer one command; return whether the connection goes on."""
        self._commands.append(command)
        action = self.rule(command) if self.rule else None
        if action == "cut":
            return False
        if isinstance(action, bytes):
            client.sendall(action)
            return True
        server.sendall(raw)
        reply = read_reply(replies)
        if action == "hold":
            self.held.set()
            self._released.wait(timeout=60)
        client.sendall(reply)
        return bool(reply)


def read_command(stream: BufferedReader) -> tuple[bytes, Command] | None:
    """Return the bytes of a command and its words; None at the end. Raises ValueError if it is no array of strings."""
    line = stream.readline(64)
    if not line:
        return None
    if not line.startswith(b"*") or not 0 < int(line[1:]) <= _MAX_PARTS:
        raise ValueError(line)
    raw, words = bytearray(line), []
    for _ in range(int(line[1:])):
        size = stream.readline(64)
        if not size.startswith(b"$") or not 0 <= int(size[1:]) <= _MAX_BYTES:
            raise ValueError(size)
        word = stream.read(int(size[1:]) + 2)
        if not word.endswith(b"\r\n") or len(word) != int(size[1:]) + 2:
            raise ValueError(word)
        raw += size + word
        words.append(word[:-2])
    return bytes(raw), words


def read_reply(stream: BufferedReader) -> bytes:
    """Return the bytes of one reply of RESP 2 or 3; empty if the server is gone."""
    line = stream.readline()
    kind, rest = line[:1], line[1:].strip()
    if kind in b"$!=" and kind and int(rest) >= 0:
        return line + stream.read(int(rest) + 2)
    if kind in b"*~>%" and kind:
        parts = max(int(rest), 0) * (2 if kind == b"%" else 1)
        return line + b"".join(read_reply(stream) for _ in range(parts))
    return line
