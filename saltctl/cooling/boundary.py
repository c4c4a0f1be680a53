"""The boundary of a cool-down: the sort key from which on readers need only look on few salts.

It is the larger of two: just above the newest row on the salts that new messages do not use, and, if sort keys are
times, the time at which Redis had the cool-down plus a margin (saltctl/help/protocol.txt).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, Context, Decimal
from functools import partial

from saltctl.errors import UsageError
from saltctl.history.attributes import plain
from saltctl.history.history import History
from saltctl.history.models import ReadOptions
from saltctl.history.sort_key_form import SortKeyForm, learn_form, sample_keys
from saltctl.registry.lookups import Lookup
from saltctl.salting import partition_key
from saltctl.stores.contracts.messages import MessageStore, PartitionQuery, SortKey

MAX_KEY_BYTES = 1024
"""The longest sort key (documented)."""
_ABOVE = "!"
_UP = Context(prec=38, rounding=ROUND_CEILING)
"""DynamoDB's precision of a number (documented)."""
WORKERS = 16


@dataclass(frozen=True, slots=True)
class Boundary:
    """A boundary. ``pushed_by`` is the row above the time, such as a scheduled message, that it lies above; or None."""

    sort_key: SortKey
    pushed_by: SortKey | None = None


def learn_times(history: History, conversation_id: str, now: datetime, named: str | None) -> SortKeyForm | None:
    """Return the form of the times in the sort keys of a conversation; None if they hold none that is known.

    Raises:
        SaltctlError: as ``History.page``.
    """
    keys = sample_keys(history, conversation_id, ReadOptions())
    try:
        return learn_form(keys, now, named) if keys else None
    except UsageError:
        return None


def find_boundary(
    store: MessageStore, conversation_id: str, salts: Sequence[int], form: SortKeyForm | None, at: datetime
) -> Boundary | None:
    """Return the boundary above all rows on these salts, and above the time; None if there is neither.

    ``at`` is the time with its margin.

    Raises:
        UsageError: there is no sort key above the newest row.
        SaltctlError: a salt cannot be read.
    """
    with ThreadPoolExecutor(WORKERS) as pool:
        keys = pool.map(partial(newest_key, store), (partition_key(conversation_id, salt) for salt in salts))
        newest = max((key for key in keys if key is not None), default=None)
    timed = None if form is None else _bound(form, at)
    if newest is None:
        return None if timed is None else Boundary(timed)
    above = _above(newest)
    if timed is None:
        return Boundary(above)
    return Boundary(timed) if max(timed, newest) != newest else Boundary(above, newest)


def strays(store: MessageStore, found: Lookup) -> dict[str, SortKey]:
    """Return the newest row of each partition that has one where readers of a cooled conversation do not look.

    Raises:
        SaltctlError: a salt cannot be read.
    """
    keys = [partition_key(found.conversation_id, salt) for salt in found.old_salts]
    with ThreadPoolExecutor(WORKERS) as pool:
        newest = zip(keys, pool.map(partial(newest_key, store), keys), strict=True)
        return {key: row for key, row in newest if row is not None and not found.is_below(row)}


def newest_key(store: MessageStore, key: str) -> SortKey | None:
    """Return the largest sort key of a partition, by one strongly consistent query; None if it is empty."""
    query = PartitionQuery(key, descending=True, limit=1, keys_only=True)
    while True:
        answer = store.query(query)
        if answer.items:
            found: SortKey = plain(answer.items[0][store.keys.sort_key])
            return found
        if answer.next is None:
            return None
        query = PartitionQuery(key, descending=True, limit=1, keys_only=True, start=answer.next)


def _bound(form: SortKeyForm, at: datetime) -> SortKey:
    try:
        return form.bound(at)
    except UsageError:  # fractions of several lengths: whole seconds sort by time
        return form.bound(at.replace(microsecond=0) + timedelta(seconds=1))


def _above(key: SortKey) -> SortKey:
    """Return a sort key that is larger than this one, and hardly larger than that."""
    if isinstance(key, Decimal):
        return _UP.add(key, Decimal(1))
    if len(key.encode()) >= MAX_KEY_BYTES:
        raise UsageError(
            f"no sort key is just above {key!r:.60}: it has {MAX_KEY_BYTES} bytes", hint="it stays as it is"
        )
    return key + _ABOVE
