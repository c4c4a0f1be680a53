"""Contract of the registry in Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class RegistryStore(Protocol):
    """The registry in Redis, spread over one or more primaries. It may lose everything at any time.

    Methods raise RedisUnavailableError (outages, timeouts), AccessDeniedError and ConfigurationError.
    """

    def primaries(self) -> Sequence[str]:
        """Return the names of all primaries: host and port, never a password."""

    def by_primary(self, conversation_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return the ids grouped by the primary that has their bucket."""

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[int | None]:
        """Return max_n of each id, None without an entry. All ids belong to this primary. Never retried.

        Raises UnverifiedError if this process was not verified, or was verified under another layout.
        """

    def read_unverified(self, conversation_ids: Sequence[str]) -> dict[str, int | None]:
        """Return the entries of these ids, verified or not. For people and comparisons, never for routing."""

    def merge(self, conversation_id: str, n: int) -> bool:
        """Max-merge one entry, whether or not Redis is verified; return whether it changed. Safe to repeat."""

    def verified(self) -> dict[str, bool]:
        """Return for each primary whether every bucket of it answers lookups."""
