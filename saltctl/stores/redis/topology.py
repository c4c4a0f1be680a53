"""Which servers are the primaries: the server of the URL, those of a cluster, or the one that sentinels name.

Their answer is kept until a command fails; then they are asked again before the next command.
A stale answer is never dangerous: a demoted primary refuses, and a new primary is unverified, so a lookup falls back to
the backup.
"""

from __future__ import annotations

import itertools
import threading
import time
from binascii import crc_hqx
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from saltctl.errors import (
    AccessDeniedError,
    ConfigurationError,
    RebuildBrokenError,
    RedisUnavailableError,
    SaltctlError,
)
from saltctl.forks import PerProcess
from saltctl.urls import Address, RedisUrl, known_address

SLOTS = 16384
_SERVERS_TO_ASK = 3
"""The timeout is shared by this many servers, so that a silent first server does not use it up."""

Fetch = Callable[[str, str, tuple[str, ...], float], Any]
"""Sends one command over a new connection: URL, name, command, seconds. Raises SaltctlErrors."""
_DOCTOR = "saltctl doctor --only redis"
_LOGIN = (
    "sentinels do not get the login of Redis: set or check sentinel_username, and sentinel_password or "
    "sentinel_password_file, in SALTCTL_REDIS_URL, and the user's ACL\nsaltctl help redis-urls"
)


@dataclass(frozen=True)
class SlotMap:
    """The primaries, for each slot the name of its primary or an empty string, and all nodes.

    ``owners`` is empty if one primary has all slots.
    """

    primaries: tuple[str, ...]
    owners: tuple[str, ...] = ()
    nodes: tuple[Address, ...] = ()


class Topology:
    """The primaries, and the primary of each key, as servers report them. Thread-safe.

    ``timeout`` bounds a call, in seconds. One thread asks while the others use the previous answer. If no server
    answers, the previous answer stays in use, and for ``pause`` seconds no server is asked again.
    """

    clustered = False
    """Whether the keys of one script have to share a slot."""

    def __init__(
        self, url: RedisUrl, fetch: Fetch, *, pause: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._fetch = fetch
        self._pause = pause
        self._clock = clock
        self._known: SlotMap | None = None
        self._stale = False
        self._failure: SaltctlError = RedisUnavailableError(f"the primaries of {url} are not known yet")
        self._not_before = 0.0
        self._turns = itertools.count()
        self._asking = PerProcess(threading.Lock)  # a forked child must not wait for a thread that only its parent has

    def primaries(self, timeout: float) -> tuple[str, ...]:
        """Return the names of all primaries; raises RedisUnavailableError if they are unknown."""
        return self._known_or_fetched(timeout).primaries

    def primary_of(self, key: str, timeout: float) -> str:
        """Return the primary that has a key."""
        return self.primaries(timeout)[0]

    def primary_now(self, key: str) -> str | None:
        """Return the primary that has a key, without asking a server; None if one would have to be asked."""
        known = self._known
        return None if known is None or self._stale else self._owner(known, key) or None

    def _owner(self, known: SlotMap, key: str) -> str:
        """Return the primary that has a key, an empty string if none has it."""
        return known.primaries[0]

    def mark_stale(self) -> None:
        """Ask again before the next command: the answer may have changed."""
        self._stale = True

    def refresh(self, timeout: float) -> bool:
        """Ask now, unless that failed a moment ago; return whether the answer changed."""
        before = self._known
        self._stale = True
        return self._known_or_fetched(timeout) != before

    def ask_sentinels(self, *words: str, timeout: float) -> Any:
        """Send SENTINEL <words> <service> to the sentinels; return the first answer, None if there are no sentinels.

        Raises the error of the last sentinel if none of them answers.
        """
        return None

    def _known_or_fetched(self, timeout: float) -> SlotMap:
        known = self._known
        if known is not None and not self._stale:
            return known
        asking = self._asking.get()
        if asking.acquire(timeout=timeout if known is None else 0):
            try:
                if (self._known is None or self._stale) and self._clock() >= self._not_before:
                    self._fetch_map(timeout)
            finally:
                asking.release()
            known = self._known
        if known is None:
            raise type(self._failure)(self._failure.message, hint=self._failure.hint)
        return known

    def _fetch_map(self, timeout: float) -> None:
        self._stale = False  # first, so that a failure in the meantime is not forgotten
        try:
            self._known = self._ask_servers(timeout)
        except SaltctlError as exc:
            self._failure, self._stale = exc, True
            self._not_before = self._clock() + self._pause

    def _ask_servers(self, timeout: float) -> SlotMap:
        deadline = self._clock() + timeout
        candidates = list(dict.fromkeys((*(self._known.nodes if self._known else ()), *self._url.addresses)))
        first = next(self._turns) % len(candidates)  # each time another one: the last one may have a stale view
        failure: SaltctlError = RedisUnavailableError("there was no time to ask", hint=_DOCTOR)
        for place, address in enumerate(candidates[first:] + candidates[:first]):
            seconds = deadline - self._clock()
            if seconds <= 0:
                break
            try:
                return self._ask(address, seconds / min(len(candidates) - place, _SERVERS_TO_ASK))
            except SaltctlError as exc:
                failure = exc
        if isinstance(failure, RedisUnavailableError):
            raise RedisUnavailableError(
                f"no server at {self._url} says which Redis is primary: {failure.message}", hint=failure.hint
            ) from failure
        raise failure

    def _ask(self, address: Address, timeout: float) -> SlotMap:
        raise NotImplementedError


class SingleServer(Topology):
    """The server that the URL names. It is never asked."""

    def refresh(self, timeout: float) -> bool:
        """Return False: the server stays the same."""
        return False

    def _ask_servers(self, timeout: float) -> SlotMap:
        return SlotMap((str(self._url),))


class ClusterTopology(Topology):
    """The primaries of a Redis Cluster, as one of its nodes reports them."""

    clustered = True

    def primary_of(self, key: str, timeout: float) -> str:
        """Return the primary of the key's slot; raises RedisUnavailableError if no primary has it."""
        known = self._known
        owner = self._owner(self._known_or_fetched(timeout) if known is None or self._stale else known, key)
        if not owner:
            self.mark_stale()
            slot = _slot_of(key)
            raise RedisUnavailableError(f"slot {slot} of the cluster at {self._url} has no primary", hint=_DOCTOR)
        return owner

    def _owner(self, known: SlotMap, key: str) -> str:
        return known.owners[_slot_of(key)]

    def _ask(self, address: Address, timeout: float) -> SlotMap:
        try:
            reply = self._fetch(self._url.of_server(str(address)), str(address), ("CLUSTER", "SLOTS"), timeout)
        except RebuildBrokenError as exc:  # MOVED or ASK, which no node answers to this question
            raise _odd_answer(f"the cluster node at {address}") from exc
        if not _are_slots(reply):
            raise _odd_answer(f"the cluster node at {address}")
        owners = [""] * SLOTS
        nodes: dict[Address, None] = {}
        for first, last, *servers in sorted(reply, key=lambda slots: int(slots[0])):
            found = [_known(server[0], server[1], address) for server in servers]
            # A primary whose port is not known cannot be asked: its slots have none.
            owners[first : last + 1] = [str(found[0] or "")] * (last - first + 1)
            nodes.update(dict.fromkeys(filter(None, found)))
        if not any(owners):
            raise RedisUnavailableError(f"the cluster node at {address} knows no slots", hint=_DOCTOR)
        return SlotMap(tuple(dict.fromkeys(filter(None, owners))), tuple(owners), tuple(nodes))


class SentinelTopology(Topology):
    """The primary of a service, as one of its sentinels reports it."""

    def ask_sentinels(self, *words: str, timeout: float) -> Any:
        """Send SENTINEL <words> <service> to each sentinel until one answers; each has a share of the time."""
        failure: SaltctlError | None = None
        for address in self._url.addresses:
            try:
                return self._ask_sentinel(address, words, timeout / len(self._url.addresses))
            except SaltctlError as exc:
                failure = exc
        raise failure or RedisUnavailableError(f"there is no sentinel in {self._url}")

    def _ask_sentinel(self, address: Address, words: tuple[str, ...], timeout: float) -> Any:
        question = ("SENTINEL", *words, self._url.service)
        try:
            return self._fetch(self._url.of_sentinel(address), f"sentinel {address}", question, timeout)
        except AccessDeniedError as exc:
            raise AccessDeniedError(exc.message, hint=_LOGIN) from exc

    def _ask(self, address: Address, timeout: float) -> SlotMap:
        reply = self._ask_sentinel(address, ("GET-MASTER-ADDR-BY-NAME",), timeout)
        if reply is None or reply == []:
            raise ConfigurationError(
                f"the sentinel at {address} knows no service {self._url.service!r}",
                hint="after the hosts, SALTCTL_REDIS_URL has the name of the service, as in `sentinel monitor`",
            )
        if not isinstance(reply, list) or list(map(type, reply)) != [bytes, bytes] or not reply[1].isdigit():
            raise _odd_answer(f"the sentinel at {address}")
        primary = _known(reply[0], int(reply[1][:6]), address)
        if primary is None:
            raise _odd_answer(f"the sentinel at {address}")
        return SlotMap((str(primary),))


def _slot_of(key: str) -> int:
    return crc_hqx(key.encode(), 0) % SLOTS  # no key of saltctl has braces, which would change its slot


def _are_slots(reply: Any) -> bool:
    """Return whether a reply has the shape of CLUSTER SLOTS: ranges of slots, each with servers, its primary first."""
    if not isinstance(reply, list) or not all(isinstance(slots, list) and len(slots) >= 3 for slots in reply):
        return False
    return all(
        type(first) is type(last) is int
        and 0 <= first <= last < SLOTS
        and all(
            isinstance(server, list)
            and len(server) >= 2
            and (server[0] is None or type(server[0]) is bytes)
            and type(server[1]) is int
            and 0 <= server[1] < 65536
            for server in servers
        )
        for first, last, *servers in reply
    )


def _known(host: bytes | None, port: int, asked: Address) -> Address | None:
    """Return the address that a server names. One that does not know its own address leaves the host out."""
    return known_address((host or b"").decode(errors="replace"), port, str(asked))


def _odd_answer(server: str) -> RedisUnavailableError:
    return RedisUnavailableError(
        f"{server} answered another command, or is none", hint="check the addresses in SALTCTL_REDIS_URL"
    )


def topology(url: RedisUrl, fetch: Fetch, *, pause: float) -> Topology:
    """Return the topology that a URL describes."""
    kinds: dict[str, type[Topology]] = {"cluster": ClusterTopology, "sentinel": SentinelTopology}
    return kinds.get(url.kind, SingleServer)(url, fetch, pause=pause)
