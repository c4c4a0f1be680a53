"""Connections to Redis: which servers are the primaries, and clients with explicit deadlines.

redis-py's defaults (10 retries with jitter, 5 s) would make a lookup wait seconds for a dead server, so they are not
used. Neither are its clients for clusters and sentinels: they reload scripts by themselves, retry lookups, and cannot
address one primary. All work is grouped by primary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from saltctl.errors import ConfigurationError
from saltctl.forks import PerProcess, import_whole, importing
from saltctl.settings import Settings
from saltctl.stores.bounded.deadline import TimeBudget
from saltctl.stores.bounded.tls import check_tls, greet
from saltctl.stores.loopback import check_endpoint
from saltctl.stores.redis.dedicated_connection import DedicatedConnection
from saltctl.stores.redis.errors import naming_key, out_of_step, redirection, redis_errors, refuses_login
from saltctl.stores.redis.server import Patience, Server
from saltctl.stores.redis.topology import Topology, topology
from saltctl.stores.redis_iam import check_iam, credential_provider
from saltctl.urls import parse_redis_url
from saltctl.values import read_password

REDIRECTIONS = 3
"""How often a command follows a redirection. A slot that has moved again each time is moved by mistake."""


_ENTRY = (bytes, type(None))
MAX_AGE = 60.0
"""Seconds for which the connections to a server are used, except by lookups, whose script checks the server's role: a
demoted server that accepts writes would answer for ever."""


def check_answer(reply: Any) -> None:
    """Raise an error unless a reply answers a lookup of one id: a list of one entry, or of nil."""
    if type(reply) is not list or len(reply) != 1 or type(reply[0]) not in _ENTRY:
        raise out_of_step()


def _import_redis() -> None:
    import saltctl.stores.bounded.redis_connections  # noqa: F401


class Connections:
    """Clients for the primaries of one Redis. Thread-safe; a client is made at first use.

    Args:
        settings: names the server, the cluster or the sentinels, and its password.
        timeout: seconds for one request, with connecting and retries; also the longest time to find the primaries.
        retries: how often failed commands are sent again, with exponential back-off from 50 ms. Above 0 only for
            commands that may run twice.
        share: connections to share the topology with, and the discovery that a server was replaced.
        max_age: seconds after which connections are opened anew.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        timeout: float,
        retries: int,
        share: Connections | None = None,
        max_age: float = MAX_AGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._timeout = timeout
        self._retries = retries
        self._max_age = max_age
        self._clock = clock
        self._lookups_age = settings.redis_iam is not None
        self._own: PerProcess[dict[str, Server]] = PerProcess(dict)
        self._patience = Patience(settings.breaker_seconds)
        self._siblings: list[Connections] = share._siblings if share else []
        self._siblings.append(self)
        try:
            self._url = parse_redis_url(settings.require_redis_url())
        except ValueError as exc:
            raise ConfigurationError(f"redis_url {exc}", hint="saltctl config show") from None
        for url in map(str, self._url.addresses or (f"/{self._url.path}",)):  # a socket may lead anywhere
            check_endpoint(f"//{url}")
        # Now, and not within the short time of the first lookup or report.
        import_whole(_import_redis)
        if share is None:
            check_tls(self._url)
            check_iam(settings, self._url, self._aws_session)
            settings.redis_password()  # raises if its file cannot be used; each connection reads it again
            self._sentinel_password()
        self._topology: Topology = (
            share._topology if share else topology(self._url, self._fetch, pause=settings.breaker_seconds)
        )
        self.clustered = self._topology.clustered
        """Whether the keys of one script have to share a slot."""

    @property
    def timeout(self) -> float:
        """Seconds for one request."""
        return self._timeout

    def primaries(self) -> Sequence[str]:
        """Return the names of the primaries; raises RedisUnavailableError if no server says which they are."""
        return self._topology.primaries(self._timeout)

    def primary_of(self, key: str) -> str:
        """Return the name of the primary that has a key; raises RedisUnavailableError as :meth:`primaries` does."""
        return self._topology.primary_of(key, self._timeout)

    def primary_now(self, key: str) -> str | None:
        """Return the name of the primary that has a key; None if a server would have to be asked."""
        return self._topology.primary_now(key)

    def by_primary(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """Return the keys grouped by primary; a primary without any of them has an empty list."""
        groups: dict[str, list[str]] = {primary: [] for primary in self.primaries()}
        for key in keys:
            groups.setdefault(self.primary_of(key), []).append(key)
        return groups

    def refresh(self) -> bool:
        """Ask again which servers are the primaries; return whether the answer changed."""
        return self._topology.refresh(self._timeout)

    def reconnect(self) -> None:
        """Ask again which servers are the primaries, and give up idle connections: they stay with their old server."""
        for primary, server in list(self._own.get().items()):
            self._give_up(primary, server)
        self.refresh()

    def ask_sentinels(self, *words: str) -> Any:
        """Return the answer of the first sentinel that has one; None if the URL names no sentinels."""
        return self._topology.ask_sentinels(*words, timeout=self._timeout)

    def errors(self, primary: str) -> AbstractContextManager[None]:
        """Translate redis-py's errors inside the block. An outage marks the topology as stale."""
        return redis_errors(primary, self._topology.mark_stale, clustered=self.clustered)

    def client(self, primary: str) -> Any:
        """Return the client of one primary; raises ConfigurationError if its URL cannot be used."""
        return self._server(primary).client

    def _server(self, primary: str) -> Server:
        # Two threads at once may both create a client; then the second one is discarded.
        servers = self._own.get()
        if (server := servers.get(primary)) is not None:
            if server.age < self._max_age:
                return server
            self._give_up(primary, server)
        return servers.setdefault(primary, Server(self._open(primary, self._retries), self._clock))

    def _give_up(self, primary: str, server: Server) -> None:
        """Close the idle connections to a server, unless another thread did. The next command opens a new one."""
        servers = self._own.get()
        if servers.get(primary) is server:
            servers.pop(primary, None)
            server.give_up()

    def learn(self, primary: str, server: Server, error: BaseException) -> None:
        """Give up the siblings of a connection that failed, if the error concerns them."""
        refused = isinstance(error, Exception) and refuses_login(error)
        if not (self._password_changed(server) if refused else self._patience.ends(primary, server, error)):
            return
        self._give_up(primary, server)
        for other in self._siblings:
            known = other._own.get().get(primary)
            if known is not None and known.age >= self._patience.pause:  # else it was opened after the failure
                other._give_up(primary, known)

    def _password_changed(self, server: Server) -> bool:
        """Return whether the password's file has another one by now. Connections that are logged in stay so."""
        password = self._settings.redis_password()
        return password not in (None, server.client.connection_pool.connection_kwargs.get("password"))

    def info(self, primary: str, *sections: str) -> dict[str, Any]:
        """Return INFO of one primary, as redis-py parses it, over retried connections. Raises redis-py's errors."""
        (reply,) = self.ask_all(primary, [("INFO", *sections)])
        if isinstance(reply, Exception):
            raise reply
        info: dict[str, Any] = self.client(primary).response_callbacks["INFO"](reply)
        return info

    def ask(self, primary: str, command: bytes) -> Any:
        """Send one packed command and return its reply. Never retried.

        Only for lookups of one id, whose reply is a list of one: redis-py's execute_command costs about as much as
        the round trip to a server on the same machine (measured: tests/benchmarks/lookup.py). Raises redis-py's errors.
        """
        own = self._own.get()
        server = (None if self._lookups_age else own.get(primary)) or self._server(primary)
        if (idle := server.take_idle()) is not None:
            return self._exchange(own, primary, server, idle, command)
        with TimeBudget(self._timeout):
            return self._exchange(own, primary, server, self.connect(primary, server), command)

    def server(self, primary: str) -> Server:
        """Return the client of one primary for the next lookup, with the connections that it may use."""
        return (None if self._lookups_age else self._own.get().get(primary)) or self._server(primary)

    def connect(self, primary: str, server: Server) -> Any:
        """Return a connection to a server, of its pool or a new one, within the budget of the thread."""
        try:
            return server.client.connection_pool.get_connection()
        except BaseException as exc:
            self.learn(primary, server, exc)
            raise

    def _exchange(self, own: dict[str, Server], primary: str, server: Server, connection: Any, command: bytes) -> Any:
        try:
            reply = connection.exchange(command)
            self._check_process(own)
            check_answer(reply)
        except BaseException as exc:
            server.take_back(connection, exc)
            self.learn(primary, server, exc)
            raise
        server.idle.append(connection)
        if server.given_up:
            server.give_up()
        return reply

    def _check_process(self, own: dict[str, Server]) -> None:
        """Refuse what was read if a signal handler forked in between: the parent reads from the same connection."""
        if self._own.peek() is not own:
            raise out_of_step()

    def ask_all(self, primary: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands in one packet to one primary and return their replies, in order.

        An error reply is an exception in the list. Raises redis-py's errors after the retries.
        """
        own = self._own.get()

        def ask_once() -> list[Any]:
            server = self._server(primary)
            try:
                replies = server.exchange(commands, lambda: self._check_process(own))
            except BaseException as exc:
                self.learn(primary, server, exc)
                raise
            for reply in replies:
                if isinstance(reply, Exception):
                    self.learn(primary, server, reply)
            return replies

        with TimeBudget(self._timeout):
            return cast("list[Any]", self.client(primary).get_retry().call_with_retry(ask_once, lambda _: None))

    def ask_of(
        self, key: str, commands: Sequence[tuple[Any, ...]], *, accept: Callable[[Exception], bool] = lambda _: False
    ) -> list[Any]:
        """Send commands about one key to its primary, as :meth:`ask_all` does. Raises saltctl's errors.

        A redirected command (MOVED, ASK) was not executed, and is sent to the other primary. Raises the first error
        reply, unless ``accept`` returns True for it: then it is in the list.
        """
        with TimeBudget(self._timeout):
            primary, replies = self._follow(self.primary_of(key), commands)
        for reply in replies:
            if isinstance(reply, Exception) and not accept(reply):
                with self.errors(primary):
                    raise naming_key(reply, key)
        return replies

    def _follow(self, primary: str, commands: Sequence[tuple[Any, ...]]) -> tuple[str, list[Any]]:
        """Send commands about one key, and follow redirections; return the last primary, and the replies."""
        asking = False
        replies: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        for _ in range(REDIRECTIONS + 1):
            batch = [part for at in left for part in ([("ASKING",)] if asking else []) + [commands[at]]]
            with self.errors(primary):
                answers = self.ask_all(primary, batch)
            for at, reply in zip(left, answers[1::2] if asking else answers, strict=True):
                replies[at] = reply
            if not (left := [at for at in left if self.clustered and redirection(replies[at])]):
                break
            self._topology.mark_stale()
            primary, asking = redirection(replies[left[0]], primary) or (primary, asking)
        return primary, replies

    def dedicated(self, primary: str) -> DedicatedConnection:
        """Open a new connection to one primary, without retries and without reconnecting."""
        pool = self._open(primary, 0).connection_pool
        logins = pool.connection_kwargs.get("credential_provider")  # only IAM authentication has one
        return DedicatedConnection(pool, primary, self._timeout, logins=logins, clock=self._clock)

    def close(self) -> None:
        """Close all connections."""
        if (own := self._own.peek()) is None:
            return  # a child leaves the connections of its parent alone
        for primary, server in list(own.items()):
            self._give_up(primary, server)
            server.client.close()

    def _fetch(self, url: str, name: str, command: tuple[str, ...], timeout: float) -> Any:
        """Send one command to a node of a cluster or to a sentinel, over a new connection."""
        password = self._settings.redis_password() if self._url.kind == "cluster" else self._sentinel_password()
        client = self._client_of(url, name, timeout, 0, password)
        with TimeBudget(timeout), closing(DedicatedConnection(client.connection_pool, name, timeout)) as connection:
            return connection.execute([command])[0]

    def _sentinel_password(self) -> str | None:
        path = dict(self._url.options).get("sentinel_password_file")
        return read_password(Path(path), "sentinel_password_file") if path else None

    def _open(self, primary: str, retries: int) -> Any:
        url, password = self._url.of_server(primary), self._settings.redis_password()
        return self._client_of(url, primary, self._timeout, retries, password)

    def _aws_session(self) -> Any:
        with importing:
            from saltctl.stores.aws.client import session_of

        return session_of(self._settings)

    def _client_of(self, url: str, name: str, timeout: float, retries: int, password: str | None) -> Any:
        check_endpoint(url)  # a node may name others, elsewhere
        import redis  # imported as a whole before: this waits for no import of another thread

        from saltctl.stores.bounded.redis_connections import BOUNDED_CONNECTIONS, BoundedClient, bounded_retries

        # Without CLIENT SETNAME and SETINFO: some servers have no CLIENT, and an ACL need not permit it.
        unnamed = {"driver_info": None} if hasattr(redis, "DriverInfo") else {"lib_name": None, "lib_version": None}
        login: dict[str, Any] = {"password": password}
        if self._settings.redis_iam is not None:
            bare = replace(self._url, userinfo="")
            url = bare.of_server(name)
            login = {"credential_provider": credential_provider(self._settings, self._url.userinfo, self._aws_session)}
        try:
            client = BoundedClient.from_url(
                url,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry=bounded_retries(retries),
                protocol=2,
                **login,
                **unnamed,
                **({"redis_connect_func": greet} if self._url.tls else {}),
            )
            client.connection_pool.connection_class = BOUNDED_CONNECTIONS[client.connection_pool.connection_class]
            # Without connecting: an option that cannot be used must fail here, not at the first command.
            client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
            return client
        except (ValueError, TypeError, redis.RedisError):
            # The cause may quote the URL with its password.
            raise ConfigurationError(
                f"the Redis URL of {name} has options that redis-py cannot use",
                hint="check the options after its question mark\nsaltctl help redis-urls",
            ) from None
