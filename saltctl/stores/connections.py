"""Connections to Redis: who the primaries are, and clients with deadlines that were chosen.

redis-py's defaults (10 retries with jitter, 5 s) would make a lookup wait seconds for a dead server, so
nothing here uses them. Work is grouped by primary everywhere; today every URL names one.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from saltctl.errors import ConfigurationError, RedisUnavailableError
from saltctl.settings import Settings
from saltctl.stores.redis_errors import redis_errors


class Connections:
    """Clients for the primaries of one Redis. Thread-safe; a client is made at first use.

    Args:
        settings: names the server and its password.
        timeout: seconds to connect, and seconds to wait for each reply.
        retries: how often a command that failed is sent again, with exponential back-off from 50 ms.
            Above 0 only for commands that may run twice.
        client: a ready client instead, for tests with a fake server.
    """

    def __init__(self, settings: Settings, *, timeout: float, retries: int, client: Any = None) -> None:
        self._settings = settings
        self._timeout = timeout
        self._retries = retries
        self._client = client
        self._idle: defaultdict[str, list[Any]] = defaultdict(list)
        self._idle_of = os.getpid()
        self._name = server_name(settings.require_redis_url())

    def primaries(self) -> Sequence[str]:
        """The names of the primaries."""
        return (self._name,)

    def primary_of(self, key: str) -> str:
        """The name of the primary that has a key."""
        return self._name

    def client(self, primary: str) -> Any:
        """The client of one primary; raises ConfigurationError where its URL cannot be used."""
        if self._client is None:
            self._client = self._open(self._retries)
        return self._client

    def ask(self, primary: str, command: bytes) -> Any:
        """Send one command that is packed already, and return its reply; never tried again.

        For lookups alone: redis-py's execute_command costs about as much as the round trip to a server on
        the same machine (measured: tests/benchmarks/lookup.py). Raises what redis-py raises.
        """
        pool = self.client(primary).connection_pool
        connection = self._take_idle(primary) or pool.get_connection()
        answered = False
        try:
            connection.send_packed_command((command,), check_health=False)
            reply = connection.read_response()
            answered = True
            return reply
        finally:
            if answered:
                self._idle[primary].append(connection)
            else:
                # Failed, or interrupted between the two lines above: a late answer must never be taken for
                # the answer to the next question.
                connection.disconnect()
                pool.release(connection)

    def _take_idle(self, primary: str) -> Any:
        """A connection that nobody uses and that is as it should be, or None.

        Kept here, since the pool's own bookkeeping costs a third of a lookup (measured). Taking from a list
        and appending to it are atomic.
        """
        if self._idle_of != os.getpid():
            # A forked child must not share its parent's connections: two askers would swap their answers.
            self._idle, self._idle_of = defaultdict(list), os.getpid()
        idle = self._idle[primary]
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # somebody else took the last one
                break
            try:
                sound = not connection.can_read()  # there is nothing to read unless it was closed
            except Exception:  # whatever it says of itself, it is not sound
                sound = False
            if sound:
                return connection
            connection.disconnect()
            self.client(primary).connection_pool.release(connection)
        return None

    def ask_all(self, primary: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands in one go and return their replies as they came, in order; never tried again.

        An error reply stands in the list as an exception: what the others did is not undone by it. Raises
        what redis-py raises where the connection fails; then any of the commands may have been carried out.
        """
        import redis.exceptions as driver

        pool = self.client(primary).connection_pool
        connection = pool.get_connection()
        answered = False
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            replies: list[Any] = []
            for _ in commands:
                try:
                    replies.append(connection.read_response())
                except driver.ResponseError as exc:
                    replies.append(exc)
            answered = True
            return replies
        finally:
            if not answered:  # as above
                connection.disconnect()
            pool.release(connection)

    def dedicated(self, primary: str) -> DedicatedConnection:
        """A new connection of its own to one primary, without retries and without reconnecting."""
        return DedicatedConnection(self._open(0).connection_pool, primary)

    def close(self) -> None:
        """Close what is open."""
        if self._client is not None:
            for primary in list(self._idle):
                while (connection := self._take_idle(primary)) is not None:
                    connection.disconnect()
            self._client.close()

    def _open(self, retries: int) -> Any:
        import redis
        from redis.backoff import ExponentialBackoff, NoBackoff
        from redis.retry import Retry

        options: dict[str, Any] = {
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
            "retry": Retry(ExponentialBackoff(cap=1.0, base=0.05), retries) if retries else Retry(NoBackoff(), 0),
            "client_name": "saltctl",
            "protocol": 2,
        }
        if (password := self._settings.redis_password()) is not None:
            options["password"] = password
        try:
            return redis.Redis.from_url(self._settings.require_redis_url(), **options)
        except (ValueError, TypeError):
            # The cause may quote the URL with its password.
            raise ConfigurationError(
                f"the Redis URL of {self._name} has options that redis-py does not know",
                hint="check what stands behind its question mark",
            ) from None


def server_name(url: str) -> str:
    """``host:port`` or a socket's path: a server's name for messages, without user and password."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    host = parts.hostname or "localhost"
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or 6379}"


class DedicatedConnection:
    """One connection to one server process. Not thread-safe.

    Once it has failed it stays failed: it never reconnects, so that nothing sent over it can reach a
    process that was started later.
    """

    def __init__(self, pool: Any, primary: str) -> None:
        self.primary = primary
        self._broken = False
        self._pool = pool
        with redis_errors(primary):
            self._connection = pool.get_connection()

    def execute(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send the commands in one go and return their replies, in order.

        Error replies end it as a failed connection does: the caller cannot go on half-way.
        """
        self.send(self._connection.pack_commands(commands))
        return self.receive(len(commands))

    def send(self, packed: Sequence[bytes]) -> None:
        """Send commands that are packed already; their replies have to be received."""
        with self._whole():
            self._connection.send_packed_command(packed, check_health=False)

    def receive(self, count: int) -> list[Any]:
        """The next replies, in order. Raises as :meth:`execute` does."""
        with self._whole():
            return [self._connection.read_response() for _ in range(count)]

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Nothing, or a connection that has failed."""
        if self._broken:
            raise RedisUnavailableError(
                f"the connection to Redis at {self.primary} was lost", hint="run it again: saltctl rebuild"
            )
        done = False
        try:
            with redis_errors(self.primary):
                yield
            done = True
        finally:
            if not done:
                self.close()

    def close(self) -> None:
        """Disconnect for good."""
        self._broken = True
        self._connection.disconnect()
        self._pool.disconnect()
