"""One connection to one server process, for rebuilds and for questions about the topology."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from saltctl.errors import RedisUnavailableError
from saltctl.forks import this_process
from saltctl.stores.bounded.deadline import TimeBudget
from saltctl.stores.bounded.reply_limit import OversizedReplyError, ReplyLimit
from saltctl.stores.redis.errors import REDIRECTING, first_word, moved, out_of_step, redis_errors
from saltctl.stores.redis.replies.shapes import has_shape
from saltctl.stores.redis_iam import IAM_AGE

_BYTES_A_READ = 1 << 16


class DedicatedConnection:
    """One connection to one server process. Not thread-safe.

    After a failure every call fails. It never reconnects, so that nothing sent over it can reach a process that was
    started later. To connect, to send and to receive may take ``timeout`` seconds each. With ``logins``, a provider of
    credentials that expire, it logs in anew.
    """

    def __init__(
        self,
        pool: Any,
        primary: str,
        timeout: float,
        *,
        logins: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.primary = primary
        self._timeout = timeout
        self._broken = False
        self._process = this_process()
        self._pool = pool
        self._logins = logins
        self._clock = clock
        self._logged_in = clock()
        with redis_errors(primary), TimeBudget(timeout):
            self._connection = pool.get_connection()

    def execute(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send the commands in one go and return their replies, in order. No other command may be in progress.

        An error reply ends the connection as a failure does: the caller cannot continue half-way.
        """
        self.prolong()
        with self._close_on_failure():
            if self._connection.can_read():
                self._connection.read_response()  # raises if the server has closed it
                raise out_of_step()
        self.send(self._connection.pack_commands(commands))
        replies = self.receive(len(commands))
        with self._close_on_failure():
            if not all(map(has_shape, commands, replies)):
                raise out_of_step()
        return replies

    def prolong(self) -> None:
        """Log in anew if AWS would soon close the connection: see ``redis_iam``. No command may be in progress."""
        if self._logins is None or self._clock() - self._logged_in < IAM_AGE:
            return
        with self._close_on_failure():
            self._connection.send_command("AUTH", *self._logins.get_credentials(), check_health=False)
            self._connection.read_response()
        self._logged_in = self._clock()

    def send(self, packed: Sequence[bytes]) -> None:
        """Send packed commands. The caller must receive their replies."""
        with self._close_on_failure():
            self._connection.send_packed_command(packed, check_health=False)

    def receive(self, count: int) -> list[Any]:
        """Return the next replies, in order. Raises as :meth:`execute` does."""
        with self._close_on_failure():
            return [self._connection.read_response() for _ in range(count)]

    def receive_numbers(self, count: int) -> list[int]:
        """Return the next replies, in order, which are all numbers. Raises as :meth:`execute` does."""
        replies = self.receive(count)
        with self._close_on_failure():
            if not all(type(reply) is int and reply >= 0 for reply in replies):
                raise out_of_step()
        return replies

    def receive_flags(self, count: int) -> list[int]:
        """Return the next replies, in order, which are all 0 or 1. No other command may be in progress.

        Raises as :meth:`execute` does.
        """
        replies = self._receive_many(count, int)
        with self._close_on_failure():
            if not set(replies) <= {0, 1}:
                raise out_of_step()
        return replies

    def receive_values(self, count: int) -> list[bytes | None]:
        """Return the next replies, in order, which are all strings or nil. No other command may be in progress.

        Raises as :meth:`execute` does.
        """
        return self._receive_many(count, bytes, type(None))

    def _receive_many(self, count: int, *types: type) -> list[Any]:
        # The one use of a private attribute of redis-py. Read from its socket and parsed at once, a reply takes less
        # than 0.1 µs of our CPU (measured); one by one, by its parser, several times as much. If a version of redis-py
        # has no such attribute, the parser reads the replies.
        socket = getattr(self._connection, "_sock", None)
        if socket is None:
            replies = self.receive(count)
        else:
            with self._close_on_failure():
                replies = read_replies(socket, count)
        with self._close_on_failure():
            if not {*map(type, replies)} <= {*types}:
                raise out_of_step()
        return replies

    @contextmanager
    def _close_on_failure(self) -> Iterator[None]:
        if self._broken or self._process != this_process():
            raise RedisUnavailableError(f"the connection to Redis at {self.primary} was lost", hint="saltctl rebuild")
        import redis.exceptions as driver

        try:
            with redis_errors(self.primary), TimeBudget(self._timeout):
                try:
                    yield
                except driver.ResponseError as exc:
                    if first_word(exc) in REDIRECTING:
                        raise moved(self.primary) from exc
                    raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect for good."""
        self._broken = True
        if self._process == this_process():  # a forked child leaves its parent's connection alone
            self._connection.disconnect()
            self._pool.disconnect()


def read_replies(socket: Any, count: int) -> list[Any]:
    """Read the next replies from a socket; raises redis-py's errors, also that of the first error reply.

    If there is more to read than these, the replies belong to other commands.
    """
    import hiredis
    import redis.exceptions as driver

    # hiredis takes them for the elements of one list, and so parses them all by itself.
    reader = hiredis.Reader(protocolError=driver.InvalidResponse, replyError=driver.ResponseError)
    reader.feed(b"*%d\r\n" % count)
    limit = ReplyLimit()
    while (replies := reader.gets()) is False:
        try:
            received = socket.recv(_BYTES_A_READ)
            limit(received, len(received))
        except TimeoutError as exc:
            raise driver.TimeoutError("Timeout reading from socket") from exc
        except OSError as exc:
            raise driver.ConnectionError(f"Error while reading from socket: {exc}") from exc
        except OversizedReplyError as exc:
            raise out_of_step() from exc
        if not received:
            raise driver.ConnectionError("Connection closed by server.")
        reader.feed(received)
    for kind in {*map(type, replies)}:
        if issubclass(kind, Exception):
            raise next(reply for reply in replies if isinstance(reply, kind))
    if reader.has_data():
        raise out_of_step()
    return list(replies)
