"""The registry in Redis: hashes of conversation id → max_n, with the fence in each (design: the fence).

``{prefix}:r:{bucket}`` is a hash. ``#fence`` in it names the layout and the replication id of the primary
that was verified; ``#rebuild`` is the token of a rebuild under way. Conversation ids hold no ``#``, so
neither can collide with an entry.

The replication id is what ties a fence to its primary. Redis gives itself a new one at every start and
every promotion, so a fence that arrived on a primary by replication, resynchronisation, an AOF or a moved
slot is foreign there, even where the script cache still has the lookup script from an earlier life as a
verified primary (measured on redis 7.0.15 and valkey 9.1.2: tests/stores/test_fence.py).
"""

from __future__ import annotations

import secrets
from binascii import crc32
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from saltctl.errors import ConfigurationError, RebuildBrokenError, RedisUnavailableError, UnverifiedError
from saltctl.salting import bucket_of
from saltctl.settings import Settings
from saltctl.stores.redis.connections import Connections, DedicatedConnection
from saltctl.stores.redis.errors import moved
from saltctl.stores.redis.merge_commands import MERGE_ENTRIES, Entry, MergePacker, NewPacker, bulk
from saltctl.stores.redis.scripts import script, script_sha

FENCE = "#fence"
REBUILD = "#rebuild"
BUCKETS_A_CALL = 256
IDS_A_CALL = 1000
COMMANDS_A_BATCH = 200
_MINIMUM_VERSION = (7, 0)
T = TypeVar("T")


class RedisRegistry:
    """The registry store on Redis or Valkey. Thread-safe. See ``contracts.RegistryStore`` for the semantics.

    Lookups have their own connections: no retries and a short deadline.
    """

    def __init__(
        self, settings: Settings, *, lookups: Connections | None = None, others: Connections | None = None
    ) -> None:
        self._lookups = lookups or Connections(settings, timeout=settings.lookup_timeout, retries=0)
        self._others = others or Connections(settings, timeout=settings.redis_timeout, retries=2, beside=self._lookups)
        self._buckets = settings.buckets
        self._layout = settings.layout
        self._stem = f"{settings.key_prefix}:r:"
        self._stem_bytes = self._stem.encode()
        self._lookup_sha = script_sha("lookup")
        # EVALSHA sha 1 key layout id, in the Redis protocol, but for the key and the id.
        self._lookup_head = b"*6\r\n" + b"".join(map(bulk, ("EVALSHA", self._lookup_sha, "1")))
        self._lookup_layout = bulk(self._layout)

    def close(self) -> None:
        """Close all connections."""
        self._lookups.close()
        self._others.close()

    def primaries(self) -> Sequence[str]:
        """The names of all primaries."""
        return self._lookups.primaries()

    def refresh_topology(self) -> bool:
        """Ask again which servers are the primaries; return whether the answer changed."""
        return self._others.refresh()

    def key_of(self, conversation_id: str) -> str:
        """Return the key of the bucket of a conversation."""
        return f"{self._stem}{bucket_of(conversation_id, self._buckets)}"

    def by_primary(self, conversation_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """The ids grouped by the primary that has their bucket."""
        if not self._lookups.clustered:
            return {self._lookups.primaries()[0]: conversation_ids} if conversation_ids else {}
        if len(conversation_ids) == 1:  # a lookup, which is to cost hardly more than its round trip
            return {self._lookups.primary_of(self.key_of(conversation_ids[0])): conversation_ids}
        groups: dict[str, list[str]] = defaultdict(list)
        for conversation_id in conversation_ids:
            groups[self._lookups.primary_of(self.key_of(conversation_id))].append(conversation_id)
        return groups

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[int | None]:
        """max_n of each id by EVALSHA alone: NOSCRIPT is an answer here, and must not be mended by a helper."""
        with self._lookups.errors(primary):
            if len(conversation_ids) == 1:
                encoded = conversation_ids[0].encode()
                key = b"%b%d" % (self._stem_bytes, crc32(encoded) % self._buckets)
                command = b"%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n" % (
                    self._lookup_head,
                    len(key),
                    key,
                    self._lookup_layout,
                    len(encoded),
                    encoded,
                )
                return [_number(self._lookups.ask(primary, command)[0], primary)]
            return self._lookup_pipelined(self._lookups.client(primary), primary, conversation_ids)

    def _lookup_pipelined(self, client: Any, primary: str, conversation_ids: Sequence[str]) -> list[int | None]:
        by_key: dict[str, list[str]] = defaultdict(list)
        for conversation_id in conversation_ids:
            by_key[self.key_of(conversation_id)].append(conversation_id)
        found: dict[str, int | None] = {}
        calls = [(key, ids[i : i + IDS_A_CALL]) for key, ids in by_key.items() for i in range(0, len(ids), IDS_A_CALL)]
        for start in range(0, len(calls), COMMANDS_A_BATCH):
            batch = calls[start : start + COMMANDS_A_BATCH]
            with client.pipeline(transaction=False) as pipeline:
                for key, ids in batch:
                    pipeline.execute_command("EVALSHA", self._lookup_sha, 1, key, self._layout, *ids)
                replies = _replies(pipeline)
            for (_, ids), held in zip(batch, replies, strict=True):
                found.update(zip(ids, (_number(value, primary) for value in held), strict=True))
        return [found[conversation_id] for conversation_id in conversation_ids]

    def read_unverified(self, conversation_ids: Sequence[str]) -> dict[str, int | None]:
        """What Redis holds, verified or not."""
        held: dict[str, int | None] = {}
        for conversation_id in conversation_ids:
            key = self.key_of(conversation_id)
            value = self._others.execute_of(key, "HGET", key, conversation_id)
            held[conversation_id] = _number(value, self._others.primary_of(key))
        return held

    def entries(self) -> Iterator[tuple[str, int]]:
        """Every entry that Redis holds, verified or not, bucket by bucket."""
        for primary, keys in self._keys_by_primary().items():
            client = self._others.client(primary)
            for start in range(0, len(keys), COMMANDS_A_BATCH):
                with self._others.errors(primary), client.pipeline(transaction=False) as pipeline:
                    for key in keys[start : start + COMMANDS_A_BATCH]:
                        pipeline.execute_command("HGETALL", key)
                    replies = _replies(pipeline)
                for held in replies:
                    yield from _entries_of(held, primary)

    def merge(self, conversation_id: str, n: int) -> bool:
        """Max-merge one entry. By EVAL, so that no script has to be loaded for a raise."""
        key = self.key_of(conversation_id)
        command = ("EVAL", script("merge"), 1, key, self._layout, 1, conversation_id, n)
        return bool(self._once_more(lambda: self._others.execute_of(key, *command)))

    def verified(self, buckets: range | None = None) -> dict[str, bool]:
        """For each primary, whether a lookup in every one of its buckets, or of these buckets, is answered."""
        return self._once_more(
            lambda: {primary: self._answers(primary, keys) for primary, keys in self._keys_by_primary(buckets).items()}
        )

    def _answers(self, primary: str, keys: Sequence[str]) -> bool:
        client = self._others.client(primary)
        try:
            with self._others.errors(primary):
                for start in range(0, len(keys), COMMANDS_A_BATCH):
                    with client.pipeline(transaction=False) as pipeline:
                        for key in keys[start : start + COMMANDS_A_BATCH]:
                            pipeline.execute_command("EVALSHA", self._lookup_sha, 1, key, self._layout, "-")
                        _replies(pipeline)
        except UnverifiedError:
            return False
        return True

    def _once_more(self, work: Callable[[], T]) -> T:
        """Do it, and do it again where it failed and other servers are primaries by now."""
        try:
            return work()
        except UnverifiedError:
            raise
        except RedisUnavailableError:
            if not self._others.refresh():
                raise
            return work()

    def server(self, primary: str) -> dict[str, Any]:
        """INFO of one primary, as redis-py parses it; it answers while loading, too."""
        with self._others.errors(primary):
            return _info(self._others.client(primary))

    def check_server(self) -> None:
        """Refuse a Redis that cannot keep the promise.

        Raises:
            ConfigurationError: older than 7, with a maxmemory-policy that evicts, or a node of a cluster whose
                URL does not say so: scripts over buckets of several slots would be refused there.
        """
        for primary in self.primaries():
            info = self.server(primary)
            version = str(info.get("redis_version", "0"))
            if _version(version) < _MINIMUM_VERSION:
                raise ConfigurationError(
                    f"Redis at {primary} is version {version}; saltctl needs Redis 7 or newer, or Valkey",
                    hint="upgrade it; older servers replicate their script cache, which would carry the fence along",
                )
            if int(info.get("cluster_enabled", 0)) and not self._others.clustered:
                raise ConfigurationError(
                    f"Redis at {primary} is a node of a cluster",
                    hint="write redis+cluster:// or rediss+cluster:// in SALTCTL_REDIS_URL",
                )
            policy = str(info.get("maxmemory_policy", "noeviction"))
            if policy != "noeviction":
                raise ConfigurationError(
                    f"Redis at {primary} evicts entries: its maxmemory-policy is {policy}",
                    hint="redis-cli CONFIG SET maxmemory-policy noeviction (and its configuration file)",
                )

    def sessions(self) -> list[RedisRebuildSession]:
        """One new session for each primary that has buckets, as the primaries are now."""
        self._others.refresh()
        place = (self._layout, self._stem, self._buckets)
        return [
            RedisRebuildSession(self._others.dedicated(primary), keys, *place, clustered=self._others.clustered)
            for primary, keys in self._keys_by_primary().items()
            if keys
        ]

    def _keys_by_primary(self, buckets: range | None = None) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {primary: [] for primary in self._others.primaries()}
        for bucket in range(self._buckets) if buckets is None else buckets:
            key = f"{self._stem}{bucket}"
            groups.setdefault(self._others.primary_of(key), []).append(key)
        return groups


class RedisRebuildSession:
    """A rebuild's own connection to one primary. See ``contracts.RebuildSession``.

    Args:
        connection: the connection.
        keys: the buckets that the primary had when the rebuild began. What moves away or in afterwards breaks it.
        layout, stem, buckets: as in the registry.
        clustered: each bucket takes a call of its own, since the keys of a script must share a slot there, and
            hardly any two buckets do.
    """

    def __init__(
        self,
        connection: DedicatedConnection,
        keys: Sequence[str],
        layout: str,
        stem: str,
        buckets: int,
        *,
        clustered: bool,
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._own = frozenset(int(key[len(stem) :]) for key in keys)
        self._layout = layout
        self._stem = stem
        self._buckets = buckets
        self._a_call = 1 if clustered else BUCKETS_A_CALL
        self._replication_id = b""
        # Merging runs thousands of times: loaded once, by this connection, into this process.
        sha = self._connection.execute([("SCRIPT", "LOAD", script("merge"))])[0]
        self._packer = MergePacker(sha.decode(), stem, buckets, layout, a_call=1 if clustered else MERGE_ENTRIES)
        self._new = NewPacker(stem, buckets, self._own)
        self._mostly_new = True
        self._under_way: list[Entry] = []
        self._calls = 0

    @property
    def primary(self) -> str:
        """The primary's name."""
        return self._connection.primary

    @property
    def replication_id(self) -> str:
        """The replication id that was seen when the buckets were marked."""
        return self._replication_id.decode()

    def mark_buckets(self, token: str) -> None:
        """Step 3: the token into every bucket."""
        identities = set(self._on_all_buckets("mark_buckets", token))
        if len(identities) != 1:
            raise RebuildBrokenError(
                f"Redis at {self.primary} changed its replication id while it was being marked", hint="saltctl rebuild"
            )
        self._replication_id = identities.pop()

    def check_marks(self, token: str, replication_id: str) -> str:
        """Why what a broken rebuild merged may not stand any more; empty where it does, and then go on with it."""
        for problem in self._on_all_buckets("check_marks", token, replication_id):
            if problem:
                return str(problem.decode())
        self._replication_id = replication_id.encode()
        return ""

    def merge(self, entries: Sequence[Entry]) -> int:
        """Step 4: max-merge, in calls of about 1,000 entries over as many buckets as they need."""
        self.begin_merge(entries)
        return self.end_merge()

    def begin_merge(self, entries: Sequence[Entry]) -> None:
        """Send a merge, and do not wait for it: the caller reads on while the server works.

        One at a time. As long as most entries are new to Redis they are sent as such.
        """
        self._under_way = list(entries)
        if not self._mostly_new:
            self._calls = self._send_calls(entries)
            return
        try:
            for chunk in self._new.chunks(entries):
                self._connection.send([chunk])
        except KeyError:
            raise moved(self.primary) from None

    def end_merge(self) -> int:
        """Wait for what was sent; how many entries were raised."""
        entries, self._under_way = self._under_way, []
        if not entries:
            return 0
        calls, self._calls = self._calls, 0
        if calls:
            raised: int = sum(self._connection.receive(calls))
        else:
            was_new = self._connection.receive_flags(len(entries))
            raised = was_new.count(True)
            there = [entry for entry, new in zip(entries, was_new, strict=True) if not new]
            raised += sum(self._connection.receive(self._send_calls(there)))
        self._mostly_new = 2 * raised > len(entries)
        return raised

    def _send_calls(self, entries: Sequence[Entry]) -> int:
        """Send calls of the merge script; how many."""
        by_bucket = self._packer.by_bucket(entries)
        if not self._own.issuperset(by_bucket):
            raise moved(self.primary)
        calls = list(self._packer.commands(by_bucket))
        if calls:
            self._connection.send(calls)
        return len(calls)

    def held(self, conversation_ids: Sequence[str]) -> list[int | None]:
        """What Redis holds for these ids now, verified or not; for dry runs."""
        commands = [
            ("HGET", f"{self._stem}{bucket_of(conversation_id, self._buckets)}", conversation_id)
            for conversation_id in conversation_ids
        ]
        return [_number(value, self.primary) for value in self._connection.execute(commands)] if commands else []

    def set_fence(self, token: str) -> None:
        """Step 5: the fence into every bucket that still has the token."""
        self._on_all_buckets("set_fence", token, self._replication_id)

    def load_lookup(self) -> None:
        """The last act: from here on this process answers lookups."""
        sha = self._connection.execute([("SCRIPT", "LOAD", script("lookup"))])[0]
        if sha.decode() != script_sha("lookup"):
            raise RedisUnavailableError(f"Redis at {self.primary} knows the lookup script by another SHA-1")

    def close(self) -> None:
        """Give the connection up."""
        self._connection.close()

    def _on_all_buckets(self, name: str, *arguments: Any) -> list[Any]:
        sha = self._connection.execute([("SCRIPT", "LOAD", script(name))])[0]
        commands = []
        for start in range(0, len(self._keys), self._a_call):
            keys = self._keys[start : start + self._a_call]
            commands.append(("EVALSHA", sha, len(keys), *keys, self._layout, *arguments))
        return self._connection.execute(commands)


def new_token() -> str:
    """A token that no other rebuild has."""
    return secrets.token_hex(16)


def _replies(pipeline: Any) -> list[Any]:
    """Execute a pipeline; raise the first error reply as it came.

    redis-py would put the command, with all its ids, in front of the error: its first word, by which errors
    are told apart, would be ``Command``.
    """
    replies: list[Any] = pipeline.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _number(value: Any, primary: str) -> int | None:
    if value is None:
        return None
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        # Never a default: a reader who took this for "unsalted" would show an empty chat.
        raise RedisUnavailableError(
            f"Redis at {primary} holds an entry that is no salt count", hint="saltctl rebuild merges the backup over it"
        )
    return number


def _entries_of(held: Any, primary: str) -> Iterator[tuple[str, int]]:
    pairs = held.items() if isinstance(held, dict) else zip(held[::2], held[1::2], strict=True)
    for field, value in pairs:
        if not field.startswith(b"#"):
            number = _number(value, primary)
            if number is not None:
                yield field.decode("utf-8", "replace"), number


def _info(client: Any) -> dict[str, Any]:
    info: dict[str, Any] = client.execute_command("INFO")
    return info


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
