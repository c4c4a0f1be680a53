"""Discover the registry from the messages themselves: the last resort if Redis and the backup are both lost.

A parallel scan of the partition keys finds every salt that was ever written to, and so the N that readers need. It
reads the whole messages table and costs accordingly; ``estimate_cost`` returns the cost before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from saltctl.errors import UsageError
from saltctl.salting import is_conversation_id, power_of_two_at_least, split_partition_key
from saltctl.stores.contracts.messages import MessageStore
from saltctl.stores.contracts.registry import BackupEntry, BackupStore

_RCU_BYTES = 4096
"""The bytes of a scan that one strongly consistent read unit covers; an eventually consistent one covers twice that."""
_IDS_PER_READ = 1000

DiscoveryState = Literal["held", "behind", "above-cap", "invalid-id"]
"""held: the backup holds at least the needed N. behind: it holds less, or no entry. above-cap: the needed N is above
max_n_cap. invalid-id: this cannot be a conversation id. A raise is possible only for ``behind``."""


@dataclass(frozen=True, slots=True)
class ScanCost:
    """The cost of a scan. Sizes are those of DescribeTable, which are about six hours old (documented)."""

    items: int
    bytes: int
    rcu: int


@dataclass(frozen=True, slots=True)
class Discovered:
    """One salted conversation: the N that its messages need, and the N that the backup holds (1 without an entry)."""

    conversation_id: str
    needed_n: int
    backup_n: int | None
    state: DiscoveryState


@dataclass(frozen=True, slots=True)
class ScanProgress:
    """Counts so far. ``consumed_rcu`` is in read capacity units."""

    items: int
    salted: int
    consumed_rcu: float


@dataclass(frozen=True, slots=True)
class Discovery:
    """The result of a scan: every salted conversation, sorted by id."""

    items: int
    conversations: list[Discovered]
    consumed_rcu: float
    seconds: float

    @property
    def behind(self) -> list[Discovered]:
        """The conversations that have to be raised to ``needed_n``."""
        return [found for found in self.conversations if found.state == "behind"]


def estimate_cost(store: MessageStore, *, consistent: bool) -> ScanCost:
    """Estimate the cost of a scan of the messages table, without scanning it."""
    size = store.size()
    units = math.ceil(size.bytes / _RCU_BYTES)
    return ScanCost(size.items, size.bytes, units if consistent else math.ceil(units / 2))


def discover(
    store: MessageStore,
    backup: BackupStore,
    *,
    segments: int,
    cap: int,
    consistent: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> Generator[ScanProgress | Discovery, None, None]:
    """Scan the messages table, compare it with the backup, and yield progress and finally the discovery.

    Changes nothing. Keeps only the salted conversations in memory.

    Raises:
        UsageError: the number of segments is not allowed.
        UnavailableError, AccessDeniedError, ConfigurationError: one of the tables cannot be read.
    """
    if not 1 <= segments <= 64:
        raise UsageError(f"segments must be from 1 to 64, not {segments}", hint="--segments 4")
    started = clock()
    highest: dict[str, int] = {}
    items, consumed = 0, 0.0
    with closing(store.scan_keys(segments, consistent=consistent)) as pages:
        for page in pages:
            items += len(page.partition_keys)
            consumed += page.consumed_rcu
            for key in page.partition_keys:
                conversation_id, salt = split_partition_key(key)
                if salt is not None and salt >= highest.get(conversation_id, 0):
                    highest[conversation_id] = salt
            yield ScanProgress(items, len(highest), consumed)
    held: dict[str, BackupEntry] = {}
    valid = [conversation_id for conversation_id in sorted(highest) if is_conversation_id(conversation_id)]
    for start in range(0, len(valid), _IDS_PER_READ):
        held |= backup.get_many(valid[start : start + _IDS_PER_READ])
    found = [_judge(i, salt, held.get(i), cap) for i, salt in sorted(highest.items())]
    yield Discovery(items, found, consumed, round(clock() - started, 3))


def _judge(conversation_id: str, highest: int, entry: BackupEntry | None, cap: int) -> Discovered:
    """Compare the highest salt with messages to the N that the backup holds."""
    needed = max(power_of_two_at_least(highest + 1), 2)
    if not is_conversation_id(conversation_id):
        return Discovered(conversation_id, needed, None, "invalid-id")
    backup_n = 1 if entry is None else entry.max_n
    if backup_n > max(highest, 1):  # a reader with max_n 1 does not read salt 0
        return Discovered(conversation_id, needed, backup_n, "held")
    return Discovered(conversation_id, needed, backup_n, "above-cap" if needed > cap else "behind")
