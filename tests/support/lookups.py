"""Lookups of fixed answers, for histories without a registry."""

from __future__ import annotations

from dataclasses import dataclass, field

from saltctl.registry.lookups import Lookup
from saltctl.stores.contracts.messages import SortKey


@dataclass
class FixedLookups:
    """A registry with fixed answers: max_n by conversation, 1 for any other.

    ``cooled`` has the recent_n and the boundary of the conversations that were cooled.
    """

    max_n: dict[str, int] = field(default_factory=dict)
    write_n: dict[str, int] = field(default_factory=dict)
    cooled: dict[str, tuple[int, SortKey]] = field(default_factory=dict)
    calls: int = 0

    def lookup(self, conversation_id: str) -> Lookup:
        """Return how many salts a conversation has."""
        self.calls += 1
        max_n = self.max_n.get(conversation_id, 1)
        recent_n, boundary = self.cooled.get(conversation_id, (max_n, None))
        write_n = self.write_n.get(conversation_id, recent_n)
        return Lookup(conversation_id, max_n, write_n, "redis", recent_n, boundary)
