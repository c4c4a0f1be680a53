"""Connections to Redis: who the primaries are, and clients with deadlines that were chosen.

redis-py's defaults (10 retries with jitter, 5 s) would make a lookup wait seconds for a dead server, so
nothing here uses them; nor its clients for clusters and sentinels, which reload scripts by themselves, retry
where a lookup must not, and cannot be asked for one primary. Work is grouped by primary everywhere.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saltctl.errors import ConfigurationError, RedisUnavailableError, SaltctlError, StreamLostError, UnverifiedError
from saltctl.settings import Settings, read_password
from saltctl.stores.redis.errors import REDIRECTING, first_word, moved, redis_errors
from saltctl.stores.redis.topology import Topology, redirection, topology
from saltctl.urls import RedisUrl, parse_redis_url

REDIRECTIONS = 3
"""How often a command is sent on to another primary. A slot that moves on each time is moved by mistake."""

_RECEIVED = 1 << 16
_ONE = ord("1")


class Connections:
    """Clients for the primaries of one Redis. Thread-safe; a client is made at first use.

    Args:
        settings: names the server, the cluster or the sentinels, and its password.
        timeout: seconds to connect, and seconds to wait for each reply; also the longest that it may take to
            learn who the primaries are.
        retries: how often a command that failed is sent again, with exponential back-off from 50 ms.
            Above 0 only for commands that may run twice.
        client: a ready client instead, for tests with a fake server.
        beside: others, to share with them what was learned of who the primaries are.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        timeout: float,
        retries: int,
        client: Any = None,
        beside: Connections | None = None,
    ) -> None:
        self._settings = settings
        self._timeout = timeout
        self._retries = retries
        self._only_client = client
        self._clients: dict[str, Any] = {}
        self._idle: defaultdict[str, list[Any]] = defaultdict(list)
        self._idle_of = os.getpid()
        self._url = _parsed(settings)
        self._topology: Topology = (
            beside._topology if beside else topology(self._url, self._fetch, pause=settings.breaker_seconds)
        )
        self._notice: Callable[[SaltctlError], None] | None = (
            None if self._url.kind in ("server", "socket") else self._note_error
        )

    @property
    def clustered(self) -> bool:
        """Whether the keys of one script have to share a slot."""
        return self._topology.clustered

    def primaries(self) -> Sequence[str]:
        """The names of the primaries; raises RedisUnavailableError where nobody says who they are."""
        return self._topology.primaries(self._timeout)

    def primary_of(self, key: str) -> str:
        """The name of the primary that has a key; raises RedisUnavailableError as above."""
        return self._topology.primary_of(key, self._timeout)

    def by_primary(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """Return the keys grouped by primary; a primary without any of them has an empty list."""
        groups: dict[str, list[str]] = {primary: [] for primary in self.primaries()}
        for key in keys:
            groups.setdefault(self.primary_of(key), []).append(key)
        return groups

    def refresh(self) -> bool:
        """Learn anew who the primaries are; whether something changed."""
        return self._topology.refresh(self._timeout)

    def errors(self, primary: str) -> redis_errors:
        """Translate what redis-py raises inside the block; after an outage it is asked who the primaries are."""
        return redis_errors(primary, self._notice)

    def _note_error(self, error: SaltctlError) -> None:
        if isinstance(error, RedisUnavailableError) and not isinstance(error, UnverifiedError | StreamLostError):
            self._topology.mark_stale()

    def client(self, primary: str) -> Any:
        """The client of one primary; raises ConfigurationError where its URL cannot be used."""
        found = self._clients.get(primary) or self._only_client
        if found is None:
            # Threads that are here at once make one too many, and it is used by nobody.
            found = self._clients.setdefault(primary, self._open(primary, self._retries))
        return found

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

    def ask_all_again(self, primary: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Like :meth:`ask_all`, with the retries of the clients. For commands that may run twice."""
        retry = _retry_policy(self._retries)
        replies: list[Any] = retry.call_with_retry(lambda: self.ask_all(primary, commands), lambda _: None)
        return replies

    def ask_of(
        self, key: str, commands: Sequence[tuple[Any, ...]], *, accept: Callable[[Exception], bool] = lambda _: False
    ) -> list[Any]:
        """Like :meth:`ask_all`, on the primary of a key that all commands are about, and in saltctl's errors.

        A command that leads elsewhere (MOVED, ASK) was not carried out, and is sent there. Raises the first error
        reply; one that is accepted stands in the list instead.
        """
        primary, asking = self.primary_of(key), False
        replies: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        for _ in range(REDIRECTIONS + 1):
            with self.errors(primary):
                answers = self.ask_all(primary, [c for at in left for c in _prepared(commands[at], asking)])
            for at, reply in zip(left, answers[1::2] if asking else answers, strict=True):
                replies[at] = reply
            left = [at for at in left if redirection(replies[at])]
            if not left:
                break
            self._topology.mark_stale()
            primary, asking = redirection(replies[left[0]]) or (primary, asking)
        for reply in replies:
            if isinstance(reply, Exception) and not accept(reply):
                with self.errors(primary):
                    raise reply
        return replies

    def execute_of(self, key: str, *command: Any) -> Any:
        """One command on the primary of a key, by its client, with its retries; sent on where it leads elsewhere."""
        import redis.exceptions as driver

        primary = self.primary_of(key)
        with self.errors(primary):
            try:
                return self.client(primary).execute_command(*command)
            except driver.ResponseError as exc:
                if redirection(exc) is None:
                    raise
        return self.ask_of(key, [command])[0]

    def dedicated(self, primary: str) -> DedicatedConnection:
        """A new connection of its own to one primary, without retries and without reconnecting."""
        return DedicatedConnection(self._open(primary, 0).connection_pool, primary)

    def close(self) -> None:
        """Close what is open."""
        for primary in list(self._idle):
            while (connection := self._take_idle(primary)) is not None:
                connection.disconnect()
        for client in [*self._clients.values(), *([self._only_client] if self._only_client else [])]:
            client.close()

    def _fetch(self, url: str, name: str, command: tuple[str, ...], timeout: float) -> Any:
        """Ask a node of a cluster, or a sentinel, over a connection of its own."""
        path = self._url.sentinel_password_file if self._url.kind == "sentinel" else None
        password = read_password(Path(path), "sentinel_password_file") if path else None
        if self._url.kind == "cluster":
            password = self._settings.redis_password()
        connection = DedicatedConnection(self._client_of(url, name, timeout, 0, password).connection_pool, name)
        try:
            return connection.execute([command])[0]
        finally:
            connection.close()

    def _open(self, primary: str, retries: int) -> Any:
        url, password = self._url.of_server(primary), self._settings.redis_password()
        return self._client_of(url, primary, self._timeout, retries, password)

    def _client_of(self, url: str, name: str, timeout: float, retries: int, password: str | None) -> Any:
        import redis

        options: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": _retry_policy(retries),
            "client_name": "saltctl",
            "protocol": 2,
        }
        if password is not None:
            options["password"] = password
        try:
            client = redis.Redis.from_url(url, **options)
            # Not connected; but an option that is unknown shows here, and not at whatever is asked first.
            client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
            return client
        except (ValueError, TypeError):
            # The cause may quote the URL with its password.
            raise ConfigurationError(
                f"the Redis URL of {name} has options that redis-py does not know",
                hint="check what stands behind its question mark",
            ) from None


def _retry_policy(retries: int) -> Any:
    from redis.backoff import ExponentialBackoff, NoBackoff
    from redis.retry import Retry

    return Retry(ExponentialBackoff(cap=1.0, base=0.05), retries) if retries else Retry(NoBackoff(), 0)


def _parsed(settings: Settings) -> RedisUrl:
    try:
        return parse_redis_url(settings.require_redis_url())
    except ValueError as exc:
        raise ConfigurationError(f"redis_url {exc}", hint="saltctl config show") from None


def _prepared(command: tuple[Any, ...], asking: bool) -> Sequence[tuple[Any, ...]]:
    return (("ASKING",), command) if asking else (command,)


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

    def receive_flags(self, count: int) -> list[bool]:
        """The next replies, in order, where all are 0 or 1. Raises as :meth:`execute` does.

        Nothing else may be under way. redis-py's parser takes longer for a reply than Redis for the command, so
        its socket is read past it; where there is none to be seen, by the parser after all.
        """
        socket = getattr(self._connection, "_sock", None)
        if socket is None:
            return [bool(reply) for reply in self.receive(count)]
        with self._whole():
            return _flags(socket, count)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Nothing, or a connection that has failed."""
        if self._broken:
            raise RedisUnavailableError(
                f"the connection to Redis at {self.primary} was lost", hint="run it again: saltctl rebuild"
            )
        import redis.exceptions as driver

        done = False
        try:
            with redis_errors(self.primary):
                yield
            done = True
        except RedisUnavailableError as exc:
            if isinstance(exc.__cause__, driver.ResponseError) and first_word(exc.__cause__) in REDIRECTING:
                raise moved(self.primary) from exc.__cause__
            raise
        finally:
            if not done:
                self.close()

    def close(self) -> None:
        """Disconnect for good."""
        self._broken = True
        self._connection.disconnect()
        self._pool.disconnect()


def _flags(socket: Any, count: int) -> list[bool]:
    """Integer replies from a socket; raises redis-py's errors."""
    import redis.exceptions as driver

    data = bytearray()
    lines = 0
    while lines < count:
        try:
            received = socket.recv(_RECEIVED)
        except TimeoutError as exc:
            raise driver.TimeoutError("Timeout reading from socket") from exc
        except OSError as exc:
            raise driver.ConnectionError(f"Error while reading from socket: {exc}") from exc
        if not received:
            raise driver.ConnectionError("Connection closed by server.")
        lines += received.count(b"\n")
        data += received
    # ":0\r\n" or ":1\r\n", four bytes each.
    if len(data) == 4 * count and data[::4] == b":" * count:
        return [flag == _ONE for flag in data[1::4]]
    for line in bytes(data).split(b"\r\n"):
        if line.startswith(b"-"):
            raise driver.ResponseError(line[1:].decode(errors="replace"))
    raise driver.InvalidResponse("Protocol Error: something else than 0 or 1")
