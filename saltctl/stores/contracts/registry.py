"""The registry in Redis, and the session of a rebuild: what operations may expect of them."""

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
        """Who the primary was when it was marked; it changes at every start and promotion. Empty before."""
        ...

    def mark_buckets(self, token: str) -> None:
        """Put ``#rebuild`` = token into every bucket of this primary, and remember who the primary is.

        Raises ConfigurationError where a bucket is fenced under another layout.
        """
        ...

    def check_marks(self, token: str, replication_id: str) -> str:
        """Instead of ``mark``: why what an earlier session marked and merged does not stand any more.

        Empty where the primary still goes by this replication id and every bucket still has the token: then this
        session goes on as if it had marked them itself. ``finish`` proves it once more.
        """
        ...

    def begin_merge(self, entries: Sequence[tuple[str, int] | tuple[str, int, int]]) -> None:
        """Max-merge the entries (id, max_n), all of buckets of this primary, without waiting for it."""
        ...

    def end_merge(self) -> int:
        """Wait until all merges that were begun are done; how many entries they raised."""
        ...

    def set_fence(self, token: str) -> None:
        """Fence every bucket that still has the token, on the primary as it was marked.

        Raises RebuildBrokenError where a token is gone or the primary is no longer the same.
        """
        ...

    def load_lookup(self) -> None:
        """Load the lookup script into this server process, which verifies it."""
        ...

    def close(self) -> None:
        """Give the connection up."""
        ...


class RegistryStore(Protocol):
    """The registry in Redis, spread over one or more primaries. It may lose everything at any time.

    Methods raise RedisUnavailableError (outages, timeouts), AccessDeniedError and ConfigurationError.
    """

    def primaries(self) -> Sequence[str]:
        """The names of all primaries: host and port, never a password."""
        ...

    def by_primary(self, conversation_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """The ids grouped by the primary that has their bucket."""
        ...

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[int | None]:
        """max_n of each id, None where there is no entry; all of ids on this primary. Never retried.

        Raises UnverifiedError where this process was not verified, or was verified under another layout.
        """
        ...

    def read_unverified(self, conversation_ids: Sequence[str]) -> dict[str, int | None]:
        """What Redis holds, verified or not; for people, never for routing."""
        ...

    def merge(self, conversation_id: str, n: int) -> bool:
        """Max-merge one entry, whether or not Redis is verified; whether it changed. Safe to repeat."""
        ...

    def verified(self) -> dict[str, bool]:
        """For each primary, whether every bucket of it answers lookups."""
        ...

    def sessions(self) -> Sequence[RebuildSession]:
        """One new session for each primary."""
        ...
