"""The registry in Redis: lookups, merges and whether they are verified (saltctl/help/protocol.txt).

A fence names the replication id of the primary that was verified. Redis gives itself a new replication id at every
start and every promotion, so a fence that came to a primary by replication, resynchronisation, an AOF or a moved slot
is foreign there, even if its script cache still has the lookup script from an earlier time as a verified primary
(measured on redis 7.0.15 and valkey 9.1.2: tests/stores/redis/test_fence.py).
"""

from __future__ import annotations

import time
from binascii import crc32
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from saltctl.commands import hint_of
from saltctl.errors import ConfigurationError, RedisUnavailableError, SaltctlError, UnverifiedError, WrongTypeError
from saltctl.settings import Settings
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.contracts.registry import MergeOutcome
from saltctl.stores.redis.buckets import BUCKETS_A_CALL, FENCE, Buckets, RedisBucketReader, parse_entry
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.errors import naming_key, other_registry
from saltctl.stores.redis.merge_commands import bulk
from saltctl.stores.redis.rebuild_session import RedisRebuildSession
from saltctl.stores.redis.replies.platforms import (
    UNNAMED_VERSION,
    evicts_entries,
    is_too_old,
    look_alike,
    managed_service,
    shown_version,
    usable_replication_ids,
)
from saltctl.stores.redis.scripts import script, script_sha
from saltctl.stores.redis_cli import redis_cli
from saltctl.stores.redis_iam import IAM_AGE

IDS_A_CALL = 1000
COMMANDS_A_BATCH = 200
T = TypeVar("T")


class RedisRegistry:
    """The registry store on Redis or Valkey. Thread-safe. See ``contracts.RegistryStore`` for the semantics.

    Lookups have connections of their own: no retries and a short deadline.

    Args:
        settings: names the servers and the buckets.
        registry_id: returns the id of the registry, which fences name; the setting if omitted. It is called before
            every request, so it may learn a new id.
        lookups, others: connections to use instead of new ones.
        clock: monotonic seconds, for the age of connections.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        registry_id: Callable[[], str] | None = None,
        lookups: Connections | None = None,
        others: Connections | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry_id = registry_id or settings.require_registry_id
        self._lookups = lookups or Connections(
            settings, timeout=settings.lookup_timeout, retries=0, max_age=IAM_AGE, clock=clock
        )
        self._others = others or Connections(
            settings, timeout=settings.redis_timeout, retries=2, share=self._lookups, clock=clock
        )
        self._reader = RedisBucketReader(settings, connections=self._others)
        self._buckets = Buckets.of(settings)
        self._settings, self._layout_head = settings, settings.layout
        self._lookup_sha = script_sha("lookup")
        # For single lookups: EVALSHA sha 1 key layout id, in the Redis protocol, without the key and the id.
        self._bucket_count = settings.buckets
        self._key_prefix = self._buckets.prefix.encode()
        self._lookup_head = b"*6\r\n" + b"".join(map(bulk, ("EVALSHA", self._lookup_sha, "1")))
        self._packed_layout = ("", b"")

    def registry_id(self) -> str:
        """Return the id of the registry. Raises SaltctlError, ``id_unknown``, as long as it is not known."""
        try:
            return self._registry_id()
        except SaltctlError as exc:
            exc.id_unknown = True
            raise

    @property
    def layout(self) -> str:
        """The layout with the id of the registry, as fences name it. Raises SaltctlError if the id is not known."""
        return f"{self._layout_head}:{self.registry_id()}"

    def close(self) -> None:
        """Close all connections."""
        self._lookups.close()
        self._others.close()

    @property
    def lookups(self) -> Connections:
        """The connections of lookups."""
        return self._lookups

    @property
    def knows_registry_id(self) -> bool:
        """Whether the id of the registry is known, so that :meth:`pack_lookup` asks no server."""
        return self._packed_layout[0] != ""

    def primaries(self) -> Sequence[str]:
        """Return the names of all primaries."""
        return self._lookups.primaries()

    def key_of(self, conversation_id: str) -> str:
        """Return the key of the bucket of a conversation."""
        return self._buckets.key_of(conversation_id)

    def by_primary(self, conversation_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return the ids grouped by the primary that has their bucket."""
        if not self._lookups.clustered:
            return {self._lookups.primaries()[0]: conversation_ids} if conversation_ids else {}
        groups: dict[str, list[str]] = defaultdict(list)
        for conversation_id in conversation_ids:
            groups[self._lookups.primary_of(self.key_of(conversation_id))].append(conversation_id)
        return groups

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[Entry | None]:
        """Return the entry of each id, by EVALSHA alone: NOSCRIPT is an answer here, so nothing may load the script."""
        if len(conversation_ids) != 1:
            with self._lookups.errors(primary):
                return self._lookup_many(primary, conversation_ids)
        command = self.pack_lookup(conversation_ids[0])
        try:
            reply = self._lookups.ask(primary, command)
        except Exception:
            with self._lookups.errors(primary):
                raise
        return [parse_entry(reply[0], primary, conversation_ids[0])]

    def pack_lookup(self, conversation_id: str) -> bytes:
        """Return the command that looks up one id. Raises SaltctlError if the id of the registry is not known."""
        encoded = conversation_id.encode()
        key = b"%b%d" % (self._key_prefix, crc32(encoded) % self._bucket_count)
        registry_id = self.registry_id()
        known_id, layout = self._packed_layout
        if known_id != registry_id:
            layout = bulk(self.layout)
            self._packed_layout = (registry_id, layout)
        parts = (self._lookup_head, len(key), key, layout, len(encoded), encoded)
        return b"%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n" % parts

    def _lookup_many(self, primary: str, conversation_ids: Sequence[str]) -> list[Entry | None]:
        by_key: dict[str, list[str]] = defaultdict(list)
        for conversation_id in conversation_ids:
            by_key[self.key_of(conversation_id)].append(conversation_id)
        calls = [(key, ids[i : i + IDS_A_CALL]) for key, ids in by_key.items() for i in range(0, len(ids), IDS_A_CALL)]
        found: dict[str, Entry | None] = {}
        for (_, ids), values in zip(calls, self._run_lookups(self._lookups, primary, calls), strict=True):
            found |= {i: parse_entry(value, primary, i) for i, value in zip(ids, values, strict=True)}
        return [found[conversation_id] for conversation_id in conversation_ids]

    def _run_lookups(
        self, connections: Connections, primary: str, calls: Sequence[tuple[str, Sequence[str]]]
    ) -> Iterator[list[Any]]:
        """Yield the replies of the lookup script to (bucket, ids) pairs; raise the first error reply."""
        for start in range(0, len(calls), COMMANDS_A_BATCH):
            batch = calls[start : start + COMMANDS_A_BATCH]
            commands = [("EVALSHA", self._lookup_sha, 1, key, self.layout, *ids) for key, ids in batch]
            for (key, _), reply in zip(batch, connections.ask_all(primary, commands), strict=True):
                if isinstance(reply, Exception):
                    raise naming_key(reply, key)
                yield reply

    def read_unverified(self, conversation_ids: Sequence[str]) -> dict[str, Entry | None]:
        """Return the entries of these ids, whether or not Redis is verified; UNREADABLE if a value is none."""
        return dict(zip(conversation_ids, self._reader.read(conversation_ids), strict=True))

    def bucket_exists(self) -> bool:
        """Return whether any bucket of this registry exists, with entries or only with a fence."""
        return self._reader.bucket_exists()

    def entries(self, *, verified: bool = False) -> Iterator[tuple[str, Entry]]:
        """Yield every entry, whether or not Redis is verified; if it is ``verified``, check that it stays so.

        UNREADABLE stands for a value that is not an entry.

        Raises:
            ReadBrokenError: Redis lost entries, restarted or failed over before the end, so some may be missing.
        """
        for name, n in self._reader.read_all(self.layout if verified else None):
            shown = name if name.isascii() else name.encode("utf-8", "surrogateescape").decode(errors="replace")
            yield shown, n

    def merge(
        self,
        conversation_id: str,
        entry: Entry,
        noted: Collection[str] | None = None,
        *,
        accept_unverified: bool = False,
    ) -> MergeOutcome:
        """Merge one entry. By EVAL, so that no script must be loaded for a raise."""
        key, accepted = self.key_of(conversation_id), ("*",) if noted is None else sorted(noted)
        arguments = self.layout, conversation_id, str(entry), int(accept_unverified), *accepted
        command = ("EVAL", script("raise"), 1, key, *arguments)
        raised, state, *origins = self._retry_after_failover(lambda: self._others.ask_of(key, [command])[0])
        if self._others.clustered and any(origins):
            self._distrust(*(origin.decode() for origin in origins))
        return MergeOutcome(bool(raised), state.decode())

    def _distrust(self, fenced: str, marked: str) -> None:
        """Take the verification from the primary that a bucket moved away from, given the ids that the bucket names.

        If this primary lost the merged entry and the slot went back, the fence would be right there. Servers that died
        have no such id any more. Raises RedisUnavailableError if a primary cannot be asked, or if a rebuild has marked
        the bucket there: it would fence it once it is back.
        """
        self._others.refresh()
        for primary, replication_id in self._reader.replication_ids().items():
            if marked and replication_id.startswith(marked):
                raise RedisUnavailableError(
                    f"a rebuild has marked this bucket on {primary}, and its slot was moved since",
                    hint="saltctl rebuild",
                )
            if fenced and replication_id == fenced:
                with self._others.errors(primary):
                    for reply in self._others.ask_all(primary, [("SCRIPT", "FLUSH", "SYNC")]):
                        if isinstance(reply, Exception):
                            raise reply

    def replication_ids(self) -> set[str]:
        """Return the replication ids of all primaries: each changes at a restart and at a failover."""
        return set(self._reader.replication_ids().values())

    def refresh(self) -> None:
        """Ask anew which servers are primaries, over new connections."""
        self._others.reconnect()

    def verified(self, buckets: range | None = None) -> dict[str, bool]:
        """Return for each primary whether it answers a lookup in every one of its buckets, or of these buckets."""
        return self._retry_after_failover(
            lambda: {
                primary: self._answers(primary, keys)
                for primary, keys in self._others.by_primary(self._buckets.keys(buckets)).items()
            }
        )

    def _answers(self, primary: str, keys: Sequence[str]) -> bool:
        # One lookup shows whether the server answers any; each fence, whether it does in that bucket. To look at 256
        # fences at once takes as long as a few lookups (measured). In a cluster a script has one bucket, as a lookup.
        looked_up = keys if self._others.clustered else keys[:1]
        try:
            with self._others.errors(primary):
                for start in range(0, len(looked_up), COMMANDS_A_BATCH):  # most often the first one is not verified
                    batch = [(key, ["-"]) for key in looked_up[start : start + COMMANDS_A_BATCH]]
                    for _ in self._run_lookups(self._others, primary, batch):
                        pass
                return self._have_fences(primary, keys[len(looked_up) :])
        except (UnverifiedError, WrongTypeError):
            return False

    def _have_fences(self, primary: str, keys: Sequence[str]) -> bool:
        """Return whether each of these buckets has the fence of this primary. Raises redis-py's errors."""
        for start in range(0, len(keys), BUCKETS_A_CALL):
            call = keys[start : start + BUCKETS_A_CALL]
            command = ("EVAL", script("count_entries"), len(call), *call, self.layout)
            (counts,) = self._others.ask_all(primary, [command])
            if isinstance(counts, Exception):
                raise counts
            _, fenced, *_ = counts
            if fenced != len(call):
                return False
        return True

    def _retry_after_failover(self, work: Callable[[], T]) -> T:
        """Do the work; if it failed and other servers are primaries by now, do it once more."""
        try:
            return work()
        except (UnverifiedError, WrongTypeError):
            raise
        except RedisUnavailableError:
            if not self._others.refresh():
                raise
            return work()

    def server(self, primary: str) -> dict[str, Any]:
        """Return INFO of one primary, as redis-py parses it. A loading server answers it, too."""
        with self._others.errors(primary):
            return self._others.info(primary)

    def check_server(self) -> None:
        """Refuse a Redis that cannot keep the promise; raises ConfigurationError.

        That is a Redis older than 7, an engine that looks like Redis, one that evicts, one without replication ids of
        its own, and a sentinel or a node of a cluster although the URL does not say so: a node would refuse scripts
        over buckets of several slots.
        """
        servers = {primary: self.server(primary) for primary in self.primaries()}
        ids = [info["master_replid"] for info in servers.values() if "master_replid" in info]
        if not usable_replication_ids(ids):
            raise ConfigurationError(
                f"Redis at {', '.join(servers)} shows no replication id of its own, which the fence needs",
                hint="it must be Redis 7 or newer, or Valkey\nsaltctl doctor --only redis-version",
            )
        for primary, info in servers.items():
            version = shown_version(info)
            policy = str(info.get("maxmemory_policy", "noeviction"))
            problem = ""
            if not version:
                problem = UNNAMED_VERSION
                hint = "name the server itself in SALTCTL_REDIS_URL, and not a proxy that hides its version"
            elif is_too_old(version):
                problem = f"is version {version}; saltctl needs Redis 7 or newer, or Valkey"
                hint = "upgrade it; older servers replicate their script cache, which would carry the fence along"
            elif info.get("redis_mode") == "sentinel":
                problem = "is a sentinel"
                hint = "write redis+sentinel:// or rediss+sentinel:// in SALTCTL_REDIS_URL"
            elif info.get("cluster_enabled") == 1 and not self._others.clustered:
                problem = "is a node of a cluster"
                hint = "write redis+cluster:// or rediss+cluster:// in SALTCTL_REDIS_URL"
            elif (engine := look_alike(info)) is not None:
                problem = f"is {engine}, which is not known to keep what the fence needs"
                hint = "use Redis 7 or newer, or Valkey"
            elif evicts_entries(policy):
                problem = f"evicts entries: its maxmemory-policy is {policy or 'empty in INFO'}"
                platform = managed_service(primary, info)
                setting = ("maxmemory-policy", "noeviction")
                hint = (
                    platform.set_parameters(dict([setting]))
                    if platform
                    else hint_of(
                        "set it in the configuration file, too, or in the console of a managed service",
                        redis_cli(self._settings, primary, "CONFIG", "SET", *setting),
                    )
                )
            if problem:
                raise ConfigurationError(f"Redis at {primary} {problem}", hint=hint)

    def check_owner(self) -> None:
        """Refuse a Redis whose first bucket is fenced for another registry or layout; raises ConfigurationError."""
        key = self._buckets.key(0)
        [[fence]] = self._others.ask_of(key, [("HMGET", key, FENCE)])  # HGET: any string would be its reply
        found = "" if fence is None else fence.decode("utf-8", "replace")
        if found and found.rpartition(":")[0] != self.layout:
            raise other_registry(found, self.layout, self._others.primary_of(key))

    def sessions(self) -> list[RedisRebuildSession]:
        """Return a new session for each primary that has buckets, as the primaries are now."""
        self._others.refresh()
        clustered = self._others.clustered
        buckets = replace(self._buckets, layout=self.layout)
        return [
            RedisRebuildSession(self._others.dedicated(primary), keys, buckets, clustered=clustered)
            for primary, keys in self._others.by_primary(self._buckets.keys()).items()
            if keys
        ]
