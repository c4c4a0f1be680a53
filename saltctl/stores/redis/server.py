"""The connections to one server, which are given up together: after a failure the server's name may lead elsewhere.

An idle connection stays with its server after the name has moved to another one, as in a failover by DNS. One that a
load balancer dropped in silence costs a timeout. The first failure of a connection is a proof for its siblings, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from saltctl.stores.redis.errors import first_word, out_of_step
from saltctl.stores.redis.replies.shapes import has_shape

_ELSEWHERE = ("READONLY", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "UNBLOCKED", "NOSCRIPT", "UNVERIFIED")
"""Error replies of a server that was demoted or replaced; an unverified primary gives the last two as well."""
_NO_ENTRY = "DENIED"
"""Protected mode refuses the connection, unasked: it has no other reply."""
_LONGEST_WAIT = 60.0


def is_answer(failure: BaseException) -> bool:
    """Return whether an exception is an error reply, after which the connection can be used again.

    Failed or interrupted: a late reply must never be taken for the reply to the next command.
    """
    import redis.exceptions as driver

    return isinstance(failure, driver.ResponseError) and first_word(failure) != _NO_ENTRY


@dataclass(eq=False)
class Server:
    """The client of one server, and the idle connections of its pool that lookups use. Thread-safe.

    Once ``given_up``, it is not used for another command, and each connection is closed when its thread returns it.
    """

    client: Any
    clock: Callable[[], float] = time.monotonic
    opened: float = field(init=False)
    idle: list[Any] = field(default_factory=list)
    given_up: bool = False

    def __post_init__(self) -> None:
        """Note the time."""
        self.opened = self.clock()

    @property
    def age(self) -> float:
        """Seconds since the client was created."""
        return self.clock() - self.opened

    def take_idle(self) -> Any:
        """Return a healthy idle connection, or None.

        Idle connections are kept here because the pool's own bookkeeping costs a third of a lookup (measured). Both
        pop and append of a list are atomic.
        """
        while self.idle:
            try:
                connection = self.idle.pop()
            except IndexError:  # another thread took the last one
                break
            try:
                healthy = not connection.can_read()  # an idle connection has something to read only if it was closed
            except Exception:  # any error: the connection cannot be used
                healthy = False
            if healthy:
                return connection
            self.discard(connection)
        return None

    def take_back(self, connection: Any, failure: BaseException) -> None:
        """Keep the connection of a lookup after an error reply; discard it after any other failure."""
        if is_answer(failure):
            self.idle.append(connection)
        else:
            self.discard(connection)

    def exchange(self, commands: Sequence[tuple[Any, ...]], check: Callable[[], None]) -> list[Any]:
        """Send the commands in one packet and return their replies, an exception for each error reply.

        ``check`` raises an error if the replies must not be used. Raises redis-py's errors.
        """
        import redis.exceptions as driver

        connection = self.client.connection_pool.get_connection()
        replies: list[Any] = []
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            while len(replies) < len(commands):
                try:
                    replies.append(connection.read_response())
                except driver.ResponseError as exc:
                    if first_word(exc) == _NO_ENTRY:
                        raise
                    replies.append(exc)
            check()
            if not all(isinstance(r, Exception) or has_shape(c, r) for c, r in zip(commands, replies, strict=True)):
                raise out_of_step()
        except BaseException:  # as in is_answer
            connection.disconnect()
            raise
        finally:
            if self.given_up:
                connection.disconnect()
            self.client.connection_pool.release(connection)
        return replies

    def discard(self, connection: Any) -> None:
        """Disconnect a connection and return it to the pool."""
        connection.disconnect()
        self.client.connection_pool.release(connection)

    def give_up(self) -> None:
        """Disconnect the idle connections."""
        self.given_up = True
        while self.idle:
            try:
                self.discard(self.idle.pop())
            except IndexError:
                break
        self.client.connection_pool.disconnect(inuse_connections=False)


@dataclass(eq=False)
class Patience:
    """How long connections are kept if their server answers that it was demoted, or may have been.

    That is for ``pause`` seconds. Redis may be unverified for long, and for one bucket alone while lookups of the
    others go on: after each reconnection for UNVERIFIED the next one is twice as far away, up to a minute.
    """

    pause: float
    _waits: dict[str, float] = field(default_factory=dict)

    def ends(self, primary: str, server: Server, error: BaseException) -> bool:
        """Return whether an error of one of its connections is a reason to give up a server."""
        import redis.exceptions as driver

        if not isinstance(error, driver.ResponseError):
            self._waits.pop(primary, None)
            # A server with too many clients would refuse the new connections.
            outage = isinstance(error, driver.RedisError | OSError)
            return outage and "max number of clients" not in str(error)
        word = first_word(error)
        wait = self._waits.get(primary, self.pause) if word == "UNVERIFIED" else self.pause
        if word not in _ELSEWHERE or server.age < wait:
            return False
        if word == "UNVERIFIED":
            self._waits[primary] = min(2 * wait, _LONGEST_WAIT)
        return True
