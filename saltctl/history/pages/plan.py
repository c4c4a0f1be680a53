"""What to ask of each partition of a page: in the first round, and again if it ran dry."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from saltctl.errors import SaltctlError
from saltctl.history.models import Shard
from saltctl.history.pages.cursor import BASE
from saltctl.history.pages.ordered_merge import OrderedMerge
from saltctl.history.pages.page_estimate import estimate_page_end, rows_before_page_end
from saltctl.history.pages.request import PageRequest
from saltctl.stores.contracts.messages import Item, PartitionQuery, SortKey

EXPECTED_DRY = 0.3
"""Partitions expected to run dry in the first round; three of four pages then need no second round."""
MAX_ROWS = 1000
"""Rows that one query asks for at most, which bounds the size of an answer."""
_MIN_SPREAD = 4
"""Salts from which on an estimated page end reads less than shares with their margins do."""


@dataclass(eq=False)  # compared by identity
class PartitionRead:
    """One partition of a page: what to ask next, and what was read.

    ``active``: it is expected to hold a share of the page. ``page_end``: the sort key at which its next query stops.
    ``edge``: the sort key at which the query before stopped; its row, if it has one, was read already.
    ``below``: the boundary of a cooled conversation, if only rows below it are read. ``waits``: the partition is not
    asked yet, because the page may be full before it reaches below the boundary. ``hedges``: its queries that were
    sent a second time.
    """

    key: str
    salt: int
    limit: int
    active: bool
    page_end: SortKey | None = None
    edge: SortKey | None = None
    below: SortKey | None = None
    waits: bool = False
    queries: int = 0
    hedges: int = 0
    items_read: int = 0
    rows: int = 0
    consumed_rcu: float = 0.0
    seconds: float = 0.0
    error: SaltctlError | None = None
    start: Item | None = field(default=None, repr=False)

    def only_below(self, boundary: Any, *, waits: bool) -> None:
        """Read only the rows below the boundary; if it waits, only once the page reaches below it."""
        self.below, self.waits = boundary, waits
        self.active = self.active or waits
        if waits or (self.page_end is not None and self.page_end >= boundary):
            self.page_end = None

    def next_query(self, query: PartitionQuery) -> PartitionQuery:
        """Return the next query of this partition: the range up to the page end, from where it was read to."""
        low, high = query.low, query.high
        if self.below is not None and (high is None or high > self.below):  # type: ignore[operator]  # one type
            high = self.below
        if self.page_end is not None:
            low, high = (self.page_end, high) if query.descending else (low, self.page_end)
        elif self.edge is not None and self.start is None:
            low, high = (low, self.edge) if query.descending else (self.edge, high)
        return replace(query, partition_key=self.key, limit=self.limit, low=low, high=high, start=self.start)

    def ask_again(self, wanted: int, depth: int, active: int) -> None:
        """Set the limit for a partition that ran dry at ``depth`` of the page's rows, or waited until that depth.

        It is the partition's share of the missing rows, judged by its share so far, plus two standard deviations. Few
        rows say little, so one more is counted for each of the ``active`` partitions. If the base partition has rows,
        the time before the first raise begins, and every earlier message lies there. A partition that returned less
        than was asked, because of a filter or large rows, is asked for twice as much. One that waited is asked for its
        share, since its rows begin there.
        """
        missing = wanted - depth
        if self.waits:
            self.waits, self.limit = False, min(share(missing, active), MAX_ROWS)
            return
        if self.salt == BASE and self.rows:
            expected = float(missing)
        else:
            expected = missing * min((self.rows + self.active) / (depth + max(active, 1)), 1.0)
        limit = min(math.ceil(expected + 2 * math.sqrt(expected)) + 1, missing + 1)
        if self.rows < self.items_read or (self.start is not None and not self.items_read):
            limit = max(limit, 2 * self.limit)
        self.limit = min(limit, MAX_ROWS)

    def shard(self, returned: int) -> Shard:
        """Return how it was read, for a page that returned so many of its rows."""
        error = self.error.message if self.error else None
        return Shard(
            self.key,
            self.queries + self.hedges,
            self.items_read,
            returned,
            self.consumed_rcu,
            self.seconds,
            error,
            self.hedges,
        )


@lru_cache(maxsize=1024)
def share(wanted: int, spread: int) -> int:
    """Return how many rows to ask of each of ``spread`` partitions for a page of ``wanted`` rows.

    It is the smallest number at which at most EXPECTED_DRY partitions are expected to hold as many of the page's rows
    or more (rows fall on partitions like balls into bins). For 50 rows of 16 salts it is 8; an even split would be 3.1.
    Five pages of six then take one round, and 2.6 rows are read for each one returned. With 7, 2.3 rows are read and
    half of the pages take two rounds. That is not cheaper, because DynamoDB charges each query for the next full 4 KB
    (documented).
    """
    if spread == 1:
        return wanted
    chance = 1 / spread
    tail = 1.0  # the chance that a partition holds ``limit`` or more of the rows
    for limit in range(wanted):
        if spread * tail <= EXPECTED_DRY:
            return limit
        tail -= math.exp(
            math.lgamma(wanted + 1)
            - math.lgamma(limit + 1)
            - math.lgamma(wanted - limit + 1)
            + limit * math.log(chance)
            + (wanted - limit) * math.log1p(-chance)
        )
    return wanted


def plan(request: PageRequest) -> list[PartitionRead]:
    """Return what to ask of each partition in the first round; nothing if no row can lie between the bounds.

    In a cooled conversation a page at or above the boundary asks the recent partitions alone. A page that begins there
    and may reach below it lets the old salts wait. The old salts are read below the boundary alone.

    The salts below the spread share the page, or the rows before the estimated page end. The other salts, and the base
    partition of a salted history, are asked for one row, which shows where they begin. The row at the cursor is read
    again, to compare equal rows with it, and comes on top.
    """
    query, start, wanted, lookup = request.query, request.start, request.limit, request.lookup
    if query.low is not None and query.high is not None and query.low > query.high:  # type: ignore[operator]  # one type
        return []  # DynamoDB refuses such bounds
    recent, old = request.begins_recent, lookup.old_salts
    spread = lookup.recent_n if recent else lookup.max_n
    if start is not None:
        spread = min(start.spread, spread)
    elif not query.descending:
        spread = 1  # the oldest messages are from before the first raise
    begin, bound = (query.high, query.low) if query.descending else (query.low, query.high)
    page_end, rows = None, rows_before_page_end(wanted)
    if start is not None and begin is not None and spread >= _MIN_SPREAD:
        page_end = estimate_page_end(begin, start.distance, rows, descending=query.descending, bound=bound)
        wanted = wanted if page_end is None else rows
    limit = min(share(wanted, spread), MAX_ROWS)
    reads = []
    for salt, key in enumerate(lookup.read_set(query.low), BASE):
        active = spread == 1 if salt == BASE else salt < spread != 1
        again = start is not None and start.position.salt == salt
        read = PartitionRead(key, salt, (limit if active else 1) + again, active, page_end)
        if salt in old:
            read.only_below(lookup.boundary, waits=recent)
        reads.append(read)
    return reads


def reads_behind(request: PageRequest, partitions: list[PartitionRead], merge: OrderedMerge) -> list[PartitionRead]:
    """Return the partitions to ask in the next round, with their limits; none if the page's rows are final.

    Those that wait are asked only if all others were read down to the boundary: these may still fill the page.
    """
    behind, boundary = merge.partitions_behind(request.limit), request.lookup.boundary
    asked = [read for read in partitions if read.salt in behind]
    if boundary is not None and any(merge.unfinished[read.salt] > boundary for read in asked):
        asked = [read for read in asked if not read.waits]
    begun = any(read.waits for read in asked)
    active = sum(read.active for read in partitions if begun or not read.waits)
    for read in asked:
        read.ask_again(request.limit, behind[read.salt], active)
    return asked
