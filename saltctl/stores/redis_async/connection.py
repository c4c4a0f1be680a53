"""A connection to Redis whose replies an event loop receives. Import this module only inside functions."""

from __future__ import annotations

import asyncio
from ssl import SSLWantReadError
from time import monotonic
from typing import Any

import hiredis  # noqa: TID253  this module is imported where redis is needed

from saltctl.stores.bounded.redis_connections import short_reply
from saltctl.stores.bounded.reply_limit import announces_too_much
from saltctl.stores.redis.errors import out_of_step
from saltctl.stores.redis.server import Server

_BYTES_A_READ = 4096
_LONGEST_REPLY = 1 << 16
"""Bytes of the longest reply to a lookup of one id: an entry, or an error."""
_NOT_YET = (BlockingIOError, SSLWantReadError)
_INCOMPLETE = object()


class LoopConnection:
    """One connection for one command at a time. It belongs to the thread of its event loop.

    Args:
        connection: a connection of stores/bounded that is connected and logged in.
        server: has the pool of the connection, which gets it back, disconnected, in the end.
        loop: the running event loop.
    """

    def __init__(self, connection: Any, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._server = server
        self._socket = connection.bounded
        self._loop = loop
        self._waiter: asyncio.Future[Any] | None = None
        self._received = b""
        self.closed = False
        """Whether it was closed, also by the server while it was idle."""
        self._descriptor = self._socket.fileno()
        self._socket.settimeout(0)
        loop.add_reader(self._descriptor, self._receive)

    async def exchange(self, command: bytes, ends: float) -> Any:
        """Send a packed command and return its reply, until ``ends`` in monotonic seconds.

        Raises redis-py's errors, and OSError. After any exception but an error reply, and if it is cancelled, the
        caller has to close the connection: a late reply must never be taken for the reply to the next command.
        """
        self._received, self._waiter = b"", self._loop.create_future()
        timer = self._loop.call_later(ends - monotonic(), self._expire, self._waiter)
        try:
            # The buffer of the system is empty, since the reply to each command before was received.
            self._socket.send_now(command)
            return await self._waiter
        finally:
            self._waiter = None
            timer.cancel()

    @staticmethod
    def _expire(waiter: asyncio.Future[Any]) -> None:
        if not waiter.done():
            waiter.set_exception(TimeoutError("the server did not answer in time"))

    def _receive(self) -> None:
        """Take what has arrived: the reply or a part of it; while no command is in progress, the end."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            if not self.is_idle():
                self.close()
            return
        try:
            if (reply := self._read()) is not _INCOMPLETE:
                waiter.set_result(reply)
        except Exception as exc:  # raised in the coroutine that waits
            waiter.set_exception(exc)

    def _read(self) -> Any:
        """Return the reply, _INCOMPLETE as long as a part is missing. Raises redis-py's errors."""
        while True:
            try:
                data = self._socket.recv_now(_BYTES_A_READ)
            except _NOT_YET:
                return _INCOMPLETE
            except OSError:
                data = b""
            if not data:  # the connection ended, and the synchronous connection names the reason
                self._connection.read_response(disconnect_on_error=False)
                raise out_of_step()
            if not self._received and (reply := short_reply(data)) is not None:
                return reply
            self._received += data
            if self._is_complete():
                self._socket.unread(self._received)
                return self._connection.read_response(disconnect_on_error=False)
            # TLS may hold more, of which the system knows nothing.

    def _is_complete(self) -> bool:
        """Return whether a whole reply was received. Raises redis-py's ConnectionError if it cannot be one."""
        if len(self._received) > _LONGEST_REPLY or announces_too_much(b"\r\n" + self._received):
            raise out_of_step()
        reader = hiredis.Reader()
        reader.feed(self._received)
        try:
            complete = reader.gets() is not False
        except hiredis.HiredisError:
            return True  # redis-py says what is wrong with it
        if complete and reader.has_data():
            raise out_of_step()
        return complete

    def is_idle(self) -> bool:
        """Return whether the next command can be sent: the server has neither closed the connection nor sent data."""
        if not self.closed:
            try:
                self._socket.recv_now(1)
            except _NOT_YET:
                return True
            except OSError:
                return False
        return False

    def close(self) -> None:
        """Disconnect, once. A command in progress fails."""
        if self.closed:
            return
        self.closed = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionAbortedError("the connection was closed"))
        if not self._loop.is_closed():
            self._loop.remove_reader(self._descriptor)
        self._server.discard(self._connection)
