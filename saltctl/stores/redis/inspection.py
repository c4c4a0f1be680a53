"""Read-only questions about Redis servers and the registry in them, for ``saltctl doctor`` and ``saltctl status``.

Deadlines are short and nothing is retried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from saltctl.errors import AccessDeniedError, ConfigurationError, SaltctlError
from saltctl.settings import Settings
from saltctl.stores.redis.buckets import BUCKETS_A_CALL, FENCE, Buckets
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.errors import first_word
from saltctl.stores.redis.replies.misconfiguration import misconfiguration
from saltctl.stores.redis.replies.replicas import (
    Replicas,
    connected_replicas,
    replicas_of_cluster,
    replicas_of_sentinel,
)
from saltctl.stores.redis.scripts import script, script_sha

SERVICE_USER = "saltctl-service"
APP_USER = "saltctl-app"
"""The users of ``saltctl service emit acl``."""


_UNUSABLE = (AttributeError, LookupError, TypeError, ValueError)
"""Exceptions of parsing a reply that is an error, or of another shape."""
_OF_LOOKUPS = ("NOSCRIPT", "UNVERIFIED", "READONLY", "NOREPLICAS", "WRONGTYPE", "MASTERDOWN", "CLUSTERDOWN", "MISCONF")
"""Error replies to a lookup that say whether lookups are answered. Any other is an error of this question."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """INFO of one primary. ``skew``: its clock minus ours in seconds, None if INFO has no time."""

    primary: str
    info: Mapping[str, Any]
    seconds: float
    skew: float | None


@dataclass(frozen=True, slots=True)
class RegistryCounts:
    """The number of buckets and entries of the registry on one primary.

    ``fenced`` buckets were verified here under this layout; ``foreign`` buckets have a fence of another layout or
    server; ``marked`` buckets have the token of a rebuild in progress or of an interrupted one. ``loaded``: this
    process knows the lookup script. ``overwritten`` are the keys of buckets that are no hashes any more. ``refused`` is
    the reason if our user may not look up, or the server cannot.
    """

    primary: str
    buckets: int
    entries: int
    fenced: int
    foreign: int
    marked: int
    loaded: bool
    overwritten: Sequence[str] = ()
    refused: str = ""

    @property
    def verified(self) -> bool:
        """Whether Redis answers lookups in every bucket."""
        return self.loaded and self.fenced == self.buckets and not self.refused

    @property
    def unverified(self) -> int:
        """The number of buckets in which Redis answers no lookup."""
        return self.buckets - self.fenced if self.loaded and not self.refused else self.buckets


class RedisInspection:
    """Questions to each primary. Thread-safe. Methods raise RedisUnavailableError and AccessDeniedError.

    ``now`` returns seconds since the epoch.
    """

    def __init__(self, settings: Settings, *, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._connections = Connections(settings, timeout=settings.redis_timeout, retries=0)
        self._now = now

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def primaries(self) -> Sequence[str]:
        """Return the names of all primaries."""
        return self._connections.primaries()

    def _ask(self, primary: str, *commands: tuple[Any, ...]) -> list[Any]:
        """Return the replies in order; an error reply is an exception in the list."""
        with self._connections.errors(primary):
            return self._connections.ask_all(primary, commands)

    def info(self, primary: str) -> ServerInfo:
        """Return INFO. A loading server answers it, and so does a server that refuses CONFIG."""
        self._ask(primary, ("PING",))  # connects, so that the time below is without it; a refusal is a reply, too
        with self._connections.errors(primary):
            before = self._now()
            info = self._connections.info(primary)
            after = self._now()
        stamp = info.get("server_time_usec")
        skew = stamp / 1e6 - (before + after) / 2 if isinstance(stamp, int) else None
        return ServerInfo(primary, info, after - before, skew)

    def config(self, primary: str, *names: str) -> dict[str, str] | None:
        """Return settings by CONFIG GET; None if the server refuses it, as managed servers do."""
        replies = self._ask(primary, *(("CONFIG", "GET", name) for name in names))
        if any(isinstance(reply, Exception) for reply in replies):
            return None
        found: dict[str, str] = {}
        for reply in replies:
            found.update(zip(*(iter(part.decode("utf-8", "backslashreplace") for part in reply),) * 2, strict=True))
        return found

    def lacks_config(self, primary: str) -> bool:
        """Return whether the server has no CONFIG, which is more than that our user may not use it."""
        (reply,) = self._ask(primary, ("CONFIG", "GET", "maxmemory-policy"))
        return isinstance(reply, Exception) and misconfiguration(str(reply)) is not None

    def replicas(self, server: ServerInfo) -> Replicas:
        """Return the replicas of a primary. Those that are down are known to sentinels and to nodes of a cluster only.

        If these refuse the question, the result is not ``complete``.
        """
        if self._connections.clustered:
            timeout = (self.config(server.primary, "cluster-node-timeout") or {}).get("cluster-node-timeout")
            (nodes,) = self._ask(server.primary, ("CLUSTER", "NODES"))
            with suppress(*_UNUSABLE):
                return replicas_of_cluster(server.info, nodes.decode("utf-8", "backslashreplace"), timeout)
        try:
            if known := self._connections.ask_sentinels("REPLICAS"):
                return replicas_of_sentinel(server.info, known, self._connections.ask_sentinels("MASTER"))
        except (SaltctlError, *_UNUSABLE):
            pass  # a sentinel's user may lack the right to ask
        return connected_replicas(server.info)

    def find_layout(self) -> str:
        """Return the layout that the fence of the first bucket names; empty without a fence."""
        key = Buckets.of(self._settings).key(0)
        (reply,) = self._ask(self._connections.primary_of(key), ("HMGET", key, FENCE))
        fence = None if isinstance(reply, Exception) else reply[0]
        return "" if fence is None else fence.decode("utf-8", "replace").rpartition(":")[0]

    def count_entries(self, layout: str) -> list[RegistryCounts]:
        """Count entries and fences of every bucket, one result for each primary.

        ``layout`` is the one that fences should name, with the registry's id.
        """
        buckets = self._connections.by_primary(Buckets.of(self._settings).keys())
        return [
            self._count_entries(primary, keys, layout) if keys else RegistryCounts(primary, 0, 0, 0, 0, 0, loaded=False)
            for primary, keys in buckets.items()
        ]

    def _count_entries(self, primary: str, keys: Sequence[str], layout: str) -> RegistryCounts:
        # In a cluster the keys of a script must share a slot, so each call has one key.
        keys_a_call = 1 if self._connections.clustered else BUCKETS_A_CALL
        calls = [keys[start : start + keys_a_call] for start in range(0, len(keys), keys_a_call)]
        *counts, exists, lookup = self._ask(
            primary,
            *(("EVAL", script("count_entries"), len(call), *call, layout) for call in calls),
            ("SCRIPT", "EXISTS", script_sha("lookup")),
            ("EVALSHA", script_sha("lookup"), 1, keys[0], layout, "-"),
        )
        with self._connections.errors(primary):
            for reply in counts:
                if isinstance(reply, Exception):
                    raise reply
            # Our user need not be permitted to ask it, but a server without SCRIPT can never be verified.
            if isinstance(exists, Exception) and misconfiguration(str(exists)):
                raise exists
        entries, fenced, foreign, marked = (sum(reply[at] for reply in counts) for at in range(4))
        word = first_word(lookup) if isinstance(lookup, Exception) else ""
        # Fences alone prove nothing: lookups may be refused in spite of them.
        loaded = word != "NOSCRIPT" and not (word == "UNVERIFIED" and fenced == len(keys))
        overwritten = [key.decode("utf-8", "backslashreplace") for reply in counts for key in reply[4]]
        refused = self._refusal(primary, lookup)
        return RegistryCounts(primary, len(keys), entries, fenced, foreign, marked, loaded, overwritten, refused)

    def _refusal(self, primary: str, lookup: Any) -> str:
        """Return why a lookup is refused for good; empty if it is not. Raises any other error of this question."""
        try:
            with self._connections.errors(primary):
                if isinstance(lookup, Exception) and first_word(lookup) not in _OF_LOOKUPS:
                    raise lookup
        except (AccessDeniedError, ConfigurationError) as exc:
            return exc.message
        return ""

    def user(self, primary: str) -> str | None:
        """Return the name of our user; None if the server does not tell it."""
        (reply,) = self._ask(primary, ("ACL", "WHOAMI"))
        return None if isinstance(reply, Exception) else reply.decode("utf-8", "backslashreplace")

    def refused(self, primary: str, user: str, commands: Mapping[str, tuple[Any, ...]]) -> list[str] | None:
        """Return the names of the commands that the user may not run, by ACL DRYRUN, which executes nothing.

        Returns None if there is no such user, or if our user may not ask.
        """
        replies = self._ask(primary, *(("ACL", "DRYRUN", user, *command) for command in commands.values()))
        if any(isinstance(reply, Exception) for reply in replies):
            return None
        return [name for name, reply in zip(commands, replies, strict=True) if reply != b"OK"]
