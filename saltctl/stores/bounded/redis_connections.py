"""redis-py's client and connections within time budgets. Import this module only inside functions: it imports redis."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any, cast

import hiredis  # noqa: TID253
import redis  # noqa: TID253  this module is imported where redis is needed
from redis.backoff import ExponentialBackoff  # noqa: TID253
from redis.connection import (  # noqa: TID253
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import ConnectionError, InvalidResponse  # noqa: A004, TID253
from redis.retry import Retry  # noqa: TID253

from saltctl.stores.bounded.deadline import BoundedSocket, BoundedTlsSocket, TimeBudget, connect, remaining
from saltctl.stores.bounded.reply_limit import FIRST_REPLY, OUT_OF_STEP, OversizedReplyError, ReplyLimit

_BYTES_A_READ = 4096
_NIL = b"*1\r\n$-1\r\n"
_NUMBER = re.compile(rb"\*1\r\n\$([0-9]{1,2})\r\n([0-9]{1,10})\r\n").fullmatch
_UNPARSED = (ValueError, TypeError, LookupError, MemoryError, RecursionError)
"""Exceptions of redis-py for a reply that it cannot parse, such as a MOVED without an address, or many pushes."""
_NUMBERS = (int, float)
_CLOSED = re.compile("reset by peer|closed by server").search


def short_reply(data: bytes) -> list[bytes | None] | None:
    """Return the reply that the data are if it is a list of one number, or of nil; None for all else."""
    if data == _NIL:
        return [None]
    found = _NUMBER(data)
    return [found[2]] if found is not None and int(found[1]) == len(found[2]) else None


class BoundedClient(redis.Redis):
    """A client of which each command has one budget, connecting and retries included."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return its reply; raises redis-py's errors."""
        with TimeBudget(self.connection_pool.connection_kwargs["socket_timeout"]):
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


class _Backoff(ExponentialBackoff):
    """Pauses that end with the budget of the thread."""

    def compute(self, failures: int) -> float:
        """Return the seconds before the next attempt."""
        pause, left = float(super().compute(failures)), remaining()
        return pause if left is None else min(pause, left)


def bounded_retries(retries: int) -> Retry:
    """Return the retries of a client, with exponential back-off from 50 ms."""
    return Retry(_Backoff(cap=1.0, base=0.05), retries)


class _Exchange(AbstractConnection):
    """A connection that answers a lookup of one id with as little Python as possible."""

    bounded: BoundedSocket | BoundedTlsSocket
    """The socket, once it is connected."""

    def connect(self) -> None:
        """Connect, log in and select the database: all of it, or the connection is closed.

        redis-py keeps one that a signal handler's exception interrupts, and would use it without the rest.
        """
        try:
            super().connect()  # type: ignore[no-untyped-call]
        except BaseException:
            self.disconnect()  # type: ignore[no-untyped-call]
            raise

    # hiredis crashes the process if a signal handler raises an exception while it packs a number (3.5.0, measured).

    def pack_command(self, *command: Any) -> Any:
        """Return a command packed."""
        return super().pack_command(*_texts(command))  # type: ignore[no-untyped-call]

    def pack_commands(self, commands: Iterable[Sequence[Any]]) -> Any:
        """Return commands packed in one piece: redis-py makes many, and looks at each argument twice (measured)."""
        return [b"".join([hiredis.pack_command(tuple(_texts(command))) for command in commands])]

    def _connect(self) -> BoundedSocket | BoundedTlsSocket:
        self.bounded = self._open()
        self._limit = self.bounded.watch = ReplyLimit()
        self._unused = True  # no command was sent
        self._greeted = False  # no reply was read
        return self.bounded

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send packed commands; raises redis-py's errors."""
        self._unused = False
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]
        self._limit.start_exchange()

    def can_read(self, timeout: float = 0) -> bool:
        """Return whether there is something to read.

        Before the first command that is a refusal of the connection, or not Redis. The pool, which asks then, would say
        only that there is data. Raises redis-py's errors.
        """
        found = bool(super().can_read(timeout))
        if found and self._unused:
            try:
                self.read_response()
            finally:  # the pool keeps a connection after an error
                self.disconnect()  # type: ignore[no-untyped-call]
        return found

    def read_response(self, *args: Any, **options: Any) -> Any:
        """Return the next reply; raises redis-py's errors, also if it is longer than any that saltctl asks for."""
        self._limit.start_reply()
        try:
            reply = super().read_response(*args, **options)
        except (OversizedReplyError, *_UNPARSED) as exc:
            raise ConnectionError(OUT_OF_STEP) from exc
        except InvalidResponse as exc:
            raise exc if self._greeted else InvalidResponse(f"{exc} {FIRST_REPLY}") from exc
        except ConnectionError as exc:
            # A server that expects TLS closes the connection so, unless it sends an alert.
            if self._greeted or isinstance(self.bounded, BoundedTlsSocket) or not _CLOSED(str(exc)):
                raise
            raise ConnectionError(f"{str(exc).rstrip('.')} {FIRST_REPLY}") from exc
        self._greeted = True
        return reply

    def exchange(self, command: bytes) -> Any:
        """Send a packed command and return its reply within the timeout of the connection. Raises redis-py's errors.

        A list of one number, or of nil, is parsed here. redis-py reads every other reply.
        """
        sock = self.bounded
        ends = monotonic() + sock.own_timeout
        if relaxed := sock.relaxed:
            sock.send_now(command)
            data = sock.recv_now(_BYTES_A_READ)
            if (reply := short_reply(data)) is not None:
                return reply
            sock.unread(data)
            self._limit.start_exchange()
        with TimeBudget(ends - monotonic()):
            if not relaxed:
                self.send_packed_command((command,), check_health=False)
            reply = self.read_response()
        if self.can_read():
            raise ConnectionError("there is more than one reply")
        return reply

    def _open(self) -> BoundedSocket:
        raise NotImplementedError


class _Tcp(_Exchange, Connection):
    def _open(self) -> BoundedSocket:
        options: list[tuple[int, int, Any]] = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        if self.socket_keepalive:
            options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
            options += [(socket.IPPROTO_TCP, name, value) for name, value in self.socket_keepalive_options.items()]
        return connect(self.host, self.port, _timeout_of(self), options)


class _Tls(_Tcp, SSLConnection):
    def _open(self) -> Any:
        return self._wrap_socket_with_ssl(super()._open())

    def _wrap_socket_with_ssl(self, sock: BoundedSocket) -> Any:
        timeout = _timeout_of(self)
        left = remaining()
        sock.settimeout(timeout if left is None else min(left, timeout) or 0.001)  # for the handshake; 0 would not wait
        wrapped: Any = super()._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]
        # redis-py makes the context itself, so its class of sockets cannot be set.
        wrapped.__class__ = BoundedTlsSocket
        wrapped.settimeout(timeout)
        return wrapped


class _Unix(_Exchange, UnixDomainSocketConnection):
    def _open(self) -> BoundedSocket:
        sock = BoundedSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(_timeout_of(self))
        try:
            sock.connect(self.path)
        except BaseException:
            sock.close()
            raise
        return sock


def _texts(command: Sequence[Any]) -> list[Any]:
    return [part if type(part) is str else str(part) if isinstance(part, _NUMBERS) else part for part in command]


def _timeout_of(connection: AbstractConnection) -> float:
    return cast("float", connection.socket_timeout)


BOUNDED_CONNECTIONS: dict[type, Any] = {
    Connection: _Tcp,
    SSLConnection: _Tls,
    UnixDomainSocketConnection: _Unix,
}
"""The bounded class of each class of connections that a URL leads to."""
