"""The session of a rebuild: one connection to one primary, over which buckets are marked, filled and fenced."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

from saltctl.errors import RebuildBrokenError, RedisUnavailableError
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.redis.buckets import BUCKETS_A_CALL, FENCE, REBUILD, Buckets
from saltctl.stores.redis.dedicated_connection import DedicatedConnection
from saltctl.stores.redis.errors import moved
from saltctl.stores.redis.merge_commands import Merge, MergePacker
from saltctl.stores.redis.scripts import script, script_sha

BUCKETS_AT_ONCE = 4096
"""Buckets whose script calls share a timeout. All of a large registry, which may be a million, need more time."""


@lru_cache(maxsize=1000)
def _value_of(entry: Entry) -> bytes:
    """Return what Redis holds for an entry."""
    return str(entry).encode()


class RedisRebuildSession:
    """A rebuild's own connection to one primary. It belongs to one server process and never reconnects.

    Every method raises RedisUnavailableError once the server was lost, and then again each time.

    ``keys`` are the buckets that the primary had when the rebuild began: one that moves to another primary breaks the
    session. If Redis is ``clustered``, the keys of a script must share a slot, so each call of a script has one bucket.
    """

    def __init__(
        self, connection: DedicatedConnection, keys: Sequence[str], buckets: Buckets, *, clustered: bool
    ) -> None:
        self.primary = connection.primary
        """The primary's name, as in ``RegistryStore.primaries``."""
        self.replication_id = ""
        """The replication id that the primary had when its buckets were marked; empty before."""
        self._connection = connection
        self._keys = keys
        self._buckets = buckets
        self._keys_a_call = 1 if clustered else BUCKETS_A_CALL
        # Merging runs thousands of times: this connection loads the script once, into this process.
        sha = connection.execute([("SCRIPT", "LOAD", script("merge"))])[0]
        self._packer = MergePacker(keys, buckets, sha.decode(), clustered=clustered)
        self._mostly_new = True
        self._sent: list[Merge] = []

    def mark_buckets(self, token: str, *, replace_registry: bool = False) -> None:
        """Put the token into every bucket, and remember the replication id (step 3).

        ``replace_registry`` removes fences of another registry of the same layout: its clients ask their backup then.

        Raises ConfigurationError if a bucket is fenced by another registry or under another layout.
        """
        replaced = int(replace_registry)
        replication_ids = set(self._run_on_buckets(self._keys, "mark_buckets", token, replaced))
        if len(replication_ids) != 1:
            raise RebuildBrokenError(
                f"Redis at {self.primary} changed its replication id while it was being marked", hint="saltctl rebuild"
            )
        self.replication_id = replication_ids.pop().decode()

    def check_marks(self, token: str, replication_id: str) -> str:
        """Return why the marks and merges of an earlier session are lost; replaces ``mark_buckets``.

        Empty if the primary still has this replication id and every bucket still has the token: then this session
        continues as if it had marked them itself. ``set_fence`` proves it once more.
        """
        for problem in self._run_on_buckets(self._keys, "check_marks", token, replication_id):
            if problem:
                return str(problem.decode())
        self.replication_id = replication_id
        return ""

    def begin_merge(self, entries: Sequence[Merge]) -> None:
        """Send merges (step 4) without waiting for the replies: the caller reads on while the server works.

        All entries are of buckets of this primary. Only one merge may be in progress. As long as most entries are new
        to Redis, they are set by HSETNX; otherwise they are read first.
        """
        self._sent = list(entries)
        self._connection.prolong()
        pack = self._packer.new_entries if self._mostly_new else self._packer.existing_entries
        try:
            for chunk in pack(entries):
                self._connection.send([chunk])
        except KeyError:
            raise moved(self.primary) from None

    def end_merge(self) -> int:
        """Wait for the replies, and merge what differs by the script; return how many entries changed."""
        entries, self._sent = self._sent, []
        if not entries:
            return 0
        if self._mostly_new:
            was_new = self._connection.receive_flags(len(entries))
            raised = sum(was_new)
            rest = [entry for entry, new in zip(entries, was_new, strict=True) if not new]
        else:
            values = self._connection.receive_values(len(entries))
            raised = 0
            rest = [entry for entry, value in zip(entries, values, strict=True) if value != _value_of(entry[1])]
            rest = rest or entries[:1]  # the script refuses a primary that was demoted, unlike HGET
        if calls := list(self._packer.script_calls(rest)):
            self._connection.send(calls)
            raised += sum(self._connection.receive_numbers(len(calls)))
        self._mostly_new = 2 * raised > len(entries)
        return raised

    def set_fence(self, token: str, damaged_ids: Collection[str] = ()) -> int:
        """Set the fence in every bucket (step 5), except those of ``damaged_ids``; return how many have none then.

        What Redis should hold for a damaged item is not known, so a lookup in its bucket must not answer. A fence that
        such a bucket has already stays: the bucket was proved by an earlier rebuild of this process, and has every
        raise since.

        Raises RebuildBrokenError if a bucket has lost the token or the primary has another replication id.
        """
        unproved = {self._buckets.key_of(damaged_id) for damaged_id in damaged_ids}.intersection(self._keys)
        proved = [key for key in self._keys if key not in unproved] if unproved else self._keys
        self._run_on_buckets(proved, "set_fence", token, self.replication_id)
        if not unproved:
            return 0
        self._connection.execute([("HDEL", key, REBUILD) for key in unproved])
        fences = self._connection.execute([("HMGET", key, FENCE) for key in unproved])
        proof = f"{self._buckets.layout}:{self.replication_id}".encode()
        return sum(fence != proof for [fence] in fences)

    def load_lookup(self) -> None:
        """Load the lookup script, in the process that was merged into: it answers lookups in every fenced bucket."""
        sha = self._connection.execute([("SCRIPT", "LOAD", script("lookup"))])[0]
        if sha.decode() != script_sha("lookup"):
            raise RedisUnavailableError(f"Redis at {self.primary} computes another SHA-1 for the lookup script")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _run_on_buckets(self, buckets: Sequence[str], name: str, *arguments: Any) -> list[Any]:
        [sha] = self._connection.execute([("SCRIPT", "LOAD", script(name))])
        calls = [buckets[at : at + self._keys_a_call] for at in range(0, len(buckets), self._keys_a_call)]
        at_once = max(BUCKETS_AT_ONCE // self._keys_a_call, 1)
        replies: list[Any] = []
        for start in range(0, len(calls), at_once):
            replies += self._connection.execute(
                [
                    ("EVALSHA", sha, len(keys), *keys, self._buckets.layout, *arguments)
                    for keys in calls[start : start + at_once]
                ]
            )
        return replies
