"""What a newest page costs, before a cool-down and after it: both are read, and nothing is estimated."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

from saltctl.history.history import History
from saltctl.history.models import ReadOptions
from saltctl.registry.lookups import Lookup

MESSAGES = 50
"""Messages of the page that is read."""


@dataclass(frozen=True, slots=True)
class PageCost:
    """The cost of one newest page: its queries, and the read units that they consumed."""

    queries: int
    rcu: float


@dataclass(frozen=True, slots=True)
class _Known:
    """Answers every lookup with one that is known."""

    answer: Lookup

    def lookup(self, conversation_id: str) -> Lookup:
        """Return it."""
        return self.answer


def page_costs(history: History, conversation_id: str, to: int) -> tuple[PageCost, PageCost]:
    """Return the cost of the newest page as it is, and as it is once all of its messages are on ``to`` salts.

    The second one is that of a page from the partitions that new messages use. These may hold fewer messages now.

    Raises:
        SaltctlError: as ``History.page``.
    """
    found = history.registry.lookup(conversation_id)
    after = copy(history)  # with the same threads and connections
    after.registry = _Known(Lookup(conversation_id, to, to, found.source, to))
    return _read(history, conversation_id), _read(after, conversation_id)


def _read(history: History, conversation_id: str) -> PageCost:
    page = history.page(conversation_id, ReadOptions(limit=MESSAGES))
    return PageCost(sum(shard.queries for shard in page.shards), sum(shard.consumed_rcu for shard in page.shards))
