"""Contracts of the registry in Redis and of a rebuild's session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class RebuildSession(Protocol):
    """A rebuild's own connection to one primary. It belongs to one server process and never reconnects.

    Every method raises RedisUnavailableError once the server was lost, and then again each time.
    """

    @property
    def primary(self) -> str:
        """The primary's name, as in ``RegistryStore.primaries``."""
        ...

    @property
    def replication_id(self) -> str:
        """The replication id of the primary when its buckets were marked; empty before."""
        ...

    def mark_buckets(self, token: str) -> None:
        """Put ``#rebuild`` = token into every bucket of this primary, and remember its replication id.

        Raises ConfigurationError if a bucket is fenced under another layout.
        """
        ...

    def check_marks(self, token: str, replication_id: str) -> str:
        """Return why the marks and merges of an earlier session are lost; replaces ``mark_buckets``.

        Empty if the primary still has this replication id and every bucket still has the token: then this session
        continues as if it had marked them itself. ``set_fence`` proves it once more.
        """
        ...

    def begin_merge(self, entries: Sequence[tuple[str, int] | tuple[str, int, int]]) -> None:
        """Max-merge the entries (id, max_n), all of buckets of this primary, without waiting for it."""
        ...

    def end_merge(self) -> int:
        """Wait until the merge is done; return how many entries it raised."""
        ...

    def set_fence(self, token: str) -> None:
        """Set the fence in every bucket.

        Raises RebuildBrokenError if a bucket has lost the token or the primary has another replication id.
        """
        ...

    def load_lookup(self) -> None:
        """Load the lookup script into this server process, which makes it verified."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class RegistryStore(Protocol):
    """The registry in Redis, spread over one or more primaries. It may lose everything at any time.

    Methods raise RedisUnavailableError (outages, timeouts), AccessDeniedError and ConfigurationError.
    """

    def primaries(self) -> Sequence[str]:
        """Return the names of all primaries: host and port, never a password."""
        ...

    def by_primary(self, conversation_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return the ids grouped by the primary that has their bucket."""
        ...

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[int | None]:
        """Return max_n of each id, None without an entry. All ids belong to this primary. Never retried.

        Raises UnverifiedError if this process was not verified, or was verified under another layout.
        """
        ...

    def read_unverified(self, conversation_ids: Sequence[str]) -> dict[str, int | None]:
        """Return the entries of these ids, verified or not. For people and comparisons, never for routing."""
        ...

    def merge(self, conversation_id: str, n: int) -> bool:
        """Max-merge one entry, whether or not Redis is verified; return whether it changed. Safe to repeat."""
        ...

    def verified(self) -> dict[str, bool]:
        """Return for each primary whether every bucket of it answers lookups."""
        ...

    def sessions(self) -> Sequence[RebuildSession]:
        """Open a new session for each primary."""
        ...
