"""The request of a page: which part of which conversation, from where on."""

from __future__ import annotations

from dataclasses import dataclass

from saltctl.history.models import ReadOptions
from saltctl.history.pages import cursor as cursors
from saltctl.history.pages.cursor import BASE, FIRST, Cursor, Position
from saltctl.history.rows import bound_of
from saltctl.registry.lookups import Lookup
from saltctl.stores.contracts.messages import PartitionQuery, TableKeys
from saltctl.values import check_kind, check_whole

MAX_LIMIT = 10_000


@dataclass(frozen=True)
class PageRequest:
    """A page to read.

    Args:
        query: range, direction, consistency and filter, for any partition of the read set.
        limit: rows of the page.
        after, before: the page lies strictly between these positions; None is no bound.
        start: the cursor, if the page continues another one.
    """

    lookup: Lookup
    query: PartitionQuery
    limit: int
    after: Position | None = None
    before: Position | None = None
    start: Cursor | None = None

    @property
    def begins_recent(self) -> bool:
        """Whether the page begins at or above the boundary of a cooled conversation: on its recent partitions."""
        boundary, high = self.lookup.boundary, self.query.high
        if boundary is None:
            return False
        if not self.lookup.is_below(self.query.low):
            return True
        return self.query.descending and (high is None or high > boundary)  # type: ignore[operator]  # one type


def page_request(lookup: Lookup, options: ReadOptions, keys: TableKeys) -> PageRequest:
    """Return the request of a page of the conversation that was looked up.

    Raises:
        InvalidCursorError: a cursor is damaged or belongs to another conversation.
        UsageError: a limit that no page has, or a bound that cannot be a sort key of the table.
    """
    check_options(options)
    before, after = (
        None if text is None else cursors.decode(text, lookup.conversation_id, keys.sort_type)
        for text in (options.before, options.after)
    )
    since, until = bound_of(options.since, keys), bound_of(options.until, keys)
    lower = after.position if after else None
    upper = before.position if before else None
    if until is not None and (upper is None or until <= upper.sort_key):
        upper = Position(until, BASE, FIRST)  # before every message of that sort key: the bound is exclusive
    query = PartitionQuery(
        lookup.conversation_id,
        descending=not options.oldest_first,
        low=max((key for key in (since, lower and lower.sort_key) if key is not None), default=None),
        high=upper and upper.sort_key,
        consistent=options.consistent,
        filter=options.filter,
    )
    start = after if options.oldest_first else before
    return PageRequest(lookup, query, options.limit, after=lower, before=upper, start=start)


def check_options(options: ReadOptions) -> None:
    """Refuse what are no options, and a number of messages that no page has; raises UsageError."""
    check_kind("options", options, ReadOptions, "pass ReadOptions(limit=20)")
    check_whole("limit", options.limit, 1, MAX_LIMIT, hint="such as --limit 50")
