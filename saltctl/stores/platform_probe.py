"""A probe of a live server for what the fence needs. It writes one key and one script of its own, and deletes the key.

A restart and a failover cannot be caused here, so what happens to the replication id then stays unknown.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha1
from typing import Any, Literal, NamedTuple

from saltctl.errors import SaltctlError
from saltctl.settings import Settings
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.errors import first_word
from saltctl.stores.redis.replies.platforms import evicts_entries, look_alike

_ID = re.compile(r"master_replid:([0-9a-f]{40})")
_ASKS = 3
_TRIES = 10_000
_NOT_PERMITTED = "NOPERM"


class Clause(NamedTuple):
    """One clause of what the fence needs. ``observed`` on this server, ``refuted`` by it, or ``unknown``."""

    server: str
    clause: str
    status: Literal["observed", "refuted", "unknown"]
    detail: str


def probe_platform(settings: Settings) -> list[Clause]:
    """Probe each primary.

    Raises:
        RedisUnavailableError, AccessDeniedError, ConfigurationError: a server does not answer or refuses the login.
    """
    with closing(Connections(settings, timeout=settings.redis_timeout, retries=0)) as connections:
        return [
            clause for primary in connections.primaries() for clause in _Probe(connections, primary, settings).run()
        ]


class _Probe:
    def __init__(self, connections: Connections, primary: str, settings: Settings) -> None:
        self._connections = connections
        self._primary = primary
        tokens = (secrets.token_hex(8) for _ in range(_TRIES))
        keys = (f"{settings.key_prefix}:probe:{token}" for token in tokens)
        # In a cluster the key's slot decides which primary has it.
        self._key = next((key for key in keys if connections.primary_of(key) == primary), None)
        token = secrets.token_hex(8)
        self._script = f"-- {token}\nreturn redis.call('INFO', 'replication')"
        self._sha = sha1(self._script.encode()).hexdigest()  # noqa: S324  Redis names scripts so

    def _ask(self, *commands: tuple[Any, ...], server: str = "") -> list[Any]:
        with self._connections.errors(server or self._primary):
            return self._connections.ask_all(server or self._primary, commands)

    def _clause(self, name: str, holds: bool | None, detail: str) -> Clause:
        status: dict[bool | None, Literal["observed", "refuted", "unknown"]]
        status = {True: "observed", False: "refuted", None: "unknown"}
        return Clause(self._primary, name, status[holds], detail)

    def run(self) -> Iterator[Clause]:
        """Yield the clauses."""
        call = ("EVALSHA", self._sha, 0)
        before, loaded, called = self._ask(call, ("SCRIPT", "LOAD", self._script), call)
        word = first_word(before) if isinstance(before, Exception) else "a reply"
        absent = None if word == _NOT_PERMITTED else word == "NOSCRIPT"
        yield self._clause("noscript", absent, f"EVALSHA before SCRIPT LOAD: {word}")
        works = loaded == self._sha.encode() and isinstance(called, bytes)
        refused = any(isinstance(r, Exception) and first_word(r) == _NOT_PERMITTED for r in (before, loaded, called))
        detail = "EVALSHA after SCRIPT LOAD works" if works else _shown(loaded if refused else called)
        yield self._clause("evalsha", None if refused else works, detail)
        yield from self._replication_ids(called)
        yield self._ttl()
        yield from self._scripts_on_replicas()
        yield self._clause("new-id-after-restart", None, "a restart cannot be observed here")

    def _ttl(self) -> Clause:
        if self._key is None:
            return self._clause("no-ttl", None, "no key was found that belongs to this primary")
        try:
            _, ttl = self._ask(("HSET", self._key, "f", "1"), ("PTTL", self._key))
        finally:
            (deleted,) = self._ask(("DEL", self._key))
        kept = {-1: True, -2: None}.get(ttl, False) if isinstance(ttl, int) else None
        detail = "a key that was written has no TTL" if kept else f"PTTL: {_shown(ttl)}"
        if isinstance(deleted, Exception):
            detail += f"; {self._key} was not deleted: {_shown(deleted)}"
        return self._clause("no-ttl", kept, detail)

    def _replication_ids(self, in_script: Any) -> Iterator[Clause]:
        (info,) = self._ask(("INFO", "replication"))
        outside, inside = _replication_id(info), _replication_id(in_script)
        holds = None if isinstance(in_script, Exception) else bool(inside) and inside == outside
        detail = "INFO in a script shows the replication id" if holds else _shown(in_script)
        yield self._clause("info-in-scripts", holds, detail)
        seen = {outside}
        for _ in range(_ASKS):
            with closing(self._connections.dedicated(self._primary)) as fresh:
                seen.add(_replication_id(fresh.execute([("INFO", "replication")])[0]))
        stable = seen == {outside} and bool(outside) and bool(outside.strip("0"))
        yield self._clause("stable-id", stable, f"{len(seen)} replication ids over {_ASKS + 1} connections")
        server = self._connections.info(self._primary)
        engine, policy = look_alike(server), str(server.get("maxmemory_policy", ""))
        yield self._clause("engine", engine is None or None, engine or "nothing in INFO names another engine")
        spared = not evicts_entries(policy) if policy else None
        yield self._clause("no-eviction", spared, f"maxmemory-policy {policy or 'is not shown'}")

    def _scripts_on_replicas(self) -> Iterator[Clause]:
        info = self._connections.info(self._primary, "replication")
        replicas = [value for name, value in info.items() if re.fullmatch(r"slave\d+", name)]
        held: list[Any] = []
        for replica in replicas:
            try:
                held += self._ask(("SCRIPT", "EXISTS", self._sha), server=f"{replica['ip']}:{replica['port']}")
            except (SaltctlError, KeyError, TypeError):
                continue  # it is not reachable from here, or of another shape
        answers = [reply for reply in held if isinstance(reply, list)]
        holds = all(reply == [0] for reply in answers) if answers else None
        detail = f"{len(answers)} of {len(replicas)} replicas asked"
        yield self._clause("scripts-not-replicated", holds, detail)


def _replication_id(reply: Any) -> str:
    found = _ID.search(reply.decode("utf-8", "replace")) if isinstance(reply, bytes) else None
    return found[1] if found else ""


def _shown(reply: Any) -> str:
    """Return an odd reply in one line."""
    return " ".join(str(reply).split())[:200] if isinstance(reply, Exception | int) else "an odd reply"
