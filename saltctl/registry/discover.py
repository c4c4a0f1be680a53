"""The registry as the messages themselves tell it: the last resort when Redis and the backup are both lost.

A parallel scan of the partition keys alone finds every salt that was ever written to, and so the N that
readers need. It reads the whole messages table and costs accordingly; what it costs is known before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from saltctl.errors import UsageError
from saltctl.salting import is_conversation_id, power_of_two_at_least, split_partition_key
from saltctl.stores.contracts import BackupEntry, MessageStore

_RCU_BYTES = 4096
"""A strongly consistent read unit reads so many bytes of a scan; an eventually consistent one twice as many."""
_IDS_AT_ONCE = 1000

State = Literal["held", "behind", "above-cap", "invalid-id"]
"""The backup holds as much; it holds less or nothing; no raise may aim so high; no conversation has such an id."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a scan will cost. The sizes are DescribeTable's, about six hours old (documented)."""

    items: int
    bytes: int
    rcu: int


@dataclass(frozen=True, slots=True)
class Discovered:
    """One salted conversation: the N that its data needs, and the N that the backup holds (1 without an entry)."""

    conversation_id: str
    needed_n: int
    backup_n: int | None
    state: State


@dataclass(frozen=True, slots=True)
class ScanProgress:
    """So far."""

    items: int
    salted: int
    consumed_rcu: float


@dataclass(frozen=True, slots=True)
class Discovery:
    """What the scan found: every salted conversation, sorted by id."""

    items: int
    conversations: list[Discovered]
    consumed_rcu: float
    seconds: float

    @property
    def behind(self) -> list[Discovered]:
        """Those that a raise to ``needed_n`` mends."""
        return [found for found in self.conversations if found.state == "behind"]


class Backup(Protocol):
    """What a discovery asks of the backup."""

    def get_many(self, conversation_ids: Sequence[str]) -> dict[str, BackupEntry]:
        """As ``contracts.BackupStore``."""
        ...


def cost(store: MessageStore, *, consistent: bool) -> Cost:
    """What a scan of the table will cost, before it is begun."""
    size = store.size()
    units = math.ceil(size.bytes / _RCU_BYTES)
    return Cost(size.items, size.bytes, units if consistent else math.ceil(units / 2))


def discover(
    store: MessageStore,
    backup: Backup,
    *,
    segments: int,
    cap: int,
    consistent: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[ScanProgress | Discovery]:
    """Scan the table and compare it with the backup, yielding progress, the discovery last. Changes nothing.

    In memory are the salted conversations alone.

    Raises:
        UsageError: segments that cannot be.
        UnavailableError, AccessDeniedError, ConfigurationError: of either table.
    """
    if not 1 <= segments <= 64:
        raise UsageError(f"segments must be from 1 to 64, not {segments}", hint="--segments 4")
    started = clock()
    highest: dict[str, int] = {}
    items, consumed = 0, 0.0
    with closing(cast("Any", store.scan_keys(segments, consistent=consistent))) as pages:
        for page in pages:
            items += len(page.partition_keys)
            consumed += page.consumed_rcu
            for key in page.partition_keys:
                conversation_id, salt = split_partition_key(key)
                if salt is not None and salt >= highest.get(conversation_id, 0):
                    highest[conversation_id] = salt
            yield ScanProgress(items, len(highest), consumed)
    held = _held(backup, sorted(highest))
    found = [_compare(conversation_id, highest[conversation_id], held, cap) for conversation_id in sorted(highest)]
    yield Discovery(items, found, consumed, round(clock() - started, 3))


def _held(backup: Backup, conversation_ids: Sequence[str]) -> dict[str, int]:
    held: dict[str, int] = {}
    valid = [conversation_id for conversation_id in conversation_ids if is_conversation_id(conversation_id)]
    for start in range(0, len(valid), _IDS_AT_ONCE):
        entries = backup.get_many(valid[start : start + _IDS_AT_ONCE])
        held |= {conversation_id: entry.max_n for conversation_id, entry in entries.items()}
    return held


def _compare(conversation_id: str, highest: int, held: Mapping[str, int], cap: int) -> Discovered:
    needed = max(power_of_two_at_least(highest + 1), 2)
    if not is_conversation_id(conversation_id):
        return Discovered(conversation_id, needed, None, "invalid-id")
    backup_n = held.get(conversation_id, 1)
    if backup_n > max(highest, 1):  # with max_n 1 nobody looks on salt 0, either
        return Discovered(conversation_id, needed, backup_n, "held")
    return Discovered(conversation_id, needed, backup_n, "above-cap" if needed > cap else "behind")
