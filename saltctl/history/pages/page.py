"""Makes a page of the rows that were read."""

from __future__ import annotations

from collections import Counter

from saltctl.history.models import Page
from saltctl.history.pages import cursor as cursors
from saltctl.history.pages.cursor import BASE, Cursor
from saltctl.history.pages.page_estimate import average_distance
from saltctl.history.pages.scatter_gather import PageRows
from saltctl.history.rows import message_of
from saltctl.registry.lookups import Lookup
from saltctl.stores.contracts.messages import TableKeys

_LAST_ROWS = 12
"""The last rows of a page show under which N the next ones were written: the chance that twelve rows miss the upper
half of the salts is 1 in 4,096."""


def page_of_rows(lookup: Lookup, found: PageRows, keys: TableKeys, id_attribute: str | None, seconds: float) -> Page:
    """Return the page, with cursors for both directions. It shares no mutable state with another page of these rows."""
    rows, conversation_id = found.rows, lookup.conversation_id
    next_cursor = prev_cursor = None
    if rows:
        highest = max(row.salt for row in rows[-_LAST_ROWS:])
        spread = 1 if highest == BASE else 1 << max(highest, 1).bit_length()
        # Four digits are enough for an estimate, and keep cursors short.
        distance = float(f"{average_distance(rows[0].sort_key, rows[-1].sort_key, len(rows)):.4g}")
        prev_cursor, next_cursor = (
            cursors.encode(Cursor(row.position, spread, distance), conversation_id) for row in (rows[0], rows[-1])
        )
    returned = Counter(row.salt for row in rows)
    return Page(
        conversation_id,
        [message_of(conversation_id, row.item, keys, id_attribute) for row in rows],
        next_cursor if found.more else None,  # a page without rows was read to the end of every partition
        prev_cursor,
        not any(read.error for read in found.partitions),
        lookup.max_n,
        lookup.source,
        [read.shard(returned.get(read.salt, 0)) for read in found.partitions],
        sum(read.items_read for read in found.partitions),
        seconds,
    )
