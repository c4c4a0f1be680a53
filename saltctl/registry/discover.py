"""Discover the registry from the messages themselves: the last resort if Redis and the backup are both lost.

A parallel scan of the partition keys finds every salt that was ever written to, and so the N that readers need. It
reads the whole messages table and costs accordingly; ``estimate_cost`` returns the cost before.

A table may hold partition keys with a ``#`` by design, such as ``CONV#77``. A conversation is raised only if its rows
prove that they are on salts (``salting.SaltEvidence``): a wrong raise would merge the histories of different people.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal

from saltctl.errors import UsageError
from saltctl.registry.drift import half_done
from saltctl.registry.failures import read_undamaged
from saltctl.registry.registry import Registry
from saltctl.salting import (
    SEPARATOR,
    SaltEvidence,
    is_conversation_id,
    power_of_two_at_least,
    split_partition_key,
)
from saltctl.stores.contracts.messages import Item, MessageStore
from saltctl.stores.contracts.registry import BackupEntry, BackupStore

_RCU_BYTES = 4096
"""The bytes of a scan that one strongly consistent read unit covers; an eventually consistent one covers twice that."""
_IDS_PER_READ = 1000

DiscoveryState = Literal["held", "behind", "above-cap", "invalid-id", "damaged", "unproven"]
"""held: the backup holds at least the needed N. behind: it holds less, or no entry. above-cap: the needed N is above
max_n_cap. invalid-id: this cannot be a conversation id. damaged: its item in the backup is. unproven: its rows do not
prove that they are on salts. A raise is possible only for ``behind``."""


@dataclass(frozen=True, slots=True)
class ScanCost:
    """The cost of a scan. Sizes are those of DescribeTable, which are about six hours old (documented)."""

    items: int
    bytes: int
    rcu: int


@dataclass(frozen=True, slots=True)
class Discovered:
    """One salted conversation: the N that its messages need, and the N that the backup holds (1 without an entry).

    ``problem`` is the reason of ``unproven``, else empty.
    """

    conversation_id: str
    needed_n: int
    backup_n: int | None
    state: DiscoveryState
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ScanProgress:
    """Counts so far. ``consumed_rcu`` is in read capacity units."""

    items: int
    salted: int
    consumed_rcu: float


@dataclass(frozen=True, slots=True)
class Discovery:
    """The result of a scan: every salted conversation, sorted by id.

    ``foreign_rows`` counts the rows whose partition key has a ``#`` that no salt follows, such as ``foreign_key``.
    """

    items: int
    conversations: list[Discovered]
    consumed_rcu: float
    seconds: float
    foreign_rows: int = 0
    foreign_key: str | None = None

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
    message_id: Callable[[Item], str | None],
    attribute: str | None = None,
    segments: int,
    cap: int,
    consistent: bool = True,
    any_salting: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Generator[ScanProgress | Discovery, None, None]:
    """Scan the messages table, compare it with the backup, and yield progress and finally the discovery.

    Changes nothing. Keeps only the salted conversations in memory. ``message_id`` returns the message id of a row,
    which has its keys and the ``attribute``. With ``any_salting``, conversations need no proof that they are salted.

    Raises:
        UsageError: the number of segments is not allowed.
        UnavailableError, AccessDeniedError, ConfigurationError: one of the tables cannot be read.
    """
    if not 1 <= segments <= 64:
        raise UsageError(f"segments must be from 1 to 64, not {segments}", hint="--segments 4")
    started = clock()
    seen = _Seen(store.keys.partition_key, message_id)
    consumed = 0.0
    with closing(store.scan_keys(segments, consistent=consistent, attribute=attribute)) as pages:
        for page in pages:
            consumed += page.consumed_rcu
            seen.add(page.items)
            yield ScanProgress(seen.items, len(seen.highest), consumed)
    held: dict[str, BackupEntry] = {}
    damaged: dict[str, str] = {}
    valid = [conversation_id for conversation_id in sorted(seen.highest) if is_conversation_id(conversation_id)]
    for start in range(0, len(valid), _IDS_PER_READ):
        entries, problems = read_undamaged(backup, valid[start : start + _IDS_PER_READ])
        held |= entries
        damaged |= problems
    unproved: dict[str, str] = {}
    for conversation_id in [] if any_salting else valid:
        registered = conversation_id in held and held[conversation_id].max_n > 1
        unproved[conversation_id] = seen.evidence[conversation_id].problem(len(valid), registered=registered)
    found = [
        _judge(i, salt, held.get(i), cap, damage=damaged.get(i, ""), problem=unproved.get(i, ""))
        for i, salt in sorted(seen.highest.items())
    ]
    seconds = round(clock() - started, 3)
    yield Discovery(seen.items, found, consumed, seconds, seen.foreign_rows, seen.foreign_key)


def half_done_raises(found: Discovery, registry: Registry) -> list[str]:
    """Return the ``held`` conversations of which an earlier raise has not reached Redis or the commit."""
    held = [conversation.conversation_id for conversation in found.conversations if conversation.state == "held"]
    incomplete = []
    for start in range(0, len(held), _IDS_PER_READ):
        entries = registry.backup.get_many(held[start : start + _IDS_PER_READ])
        incomplete += half_done(registry.store, list(entries.values()))
    return incomplete


@dataclass
class _Seen:
    """Salts and evidence of each conversation so far."""

    partition_key: str
    message_id: Callable[[Item], str | None]
    items: int = 0
    highest: dict[str, int] = field(default_factory=dict)
    evidence: defaultdict[str, SaltEvidence] = field(default_factory=lambda: defaultdict(SaltEvidence))
    foreign_rows: int = 0
    foreign_key: str | None = None

    def add(self, items: Sequence[Item]) -> None:
        """Count the rows of one page."""
        self.items += len(items)
        for item in items:
            key = item[self.partition_key]["S"]
            conversation_id, salt = split_partition_key(key)
            if salt is not None:
                self.highest[conversation_id] = max(salt, self.highest.get(conversation_id, 0))
                self.evidence[conversation_id].add(salt, self.message_id(item))
            elif SEPARATOR in key:
                self.foreign_rows += 1
                self.foreign_key = key


def _judge(
    conversation_id: str, highest: int, entry: BackupEntry | None, cap: int, *, damage: str, problem: str
) -> Discovered:
    """Compare the highest salt with messages to the N that the backup holds."""
    needed = max(power_of_two_at_least(highest + 1), 2)
    if not is_conversation_id(conversation_id):
        return Discovered(conversation_id, needed, None, "invalid-id")
    if damage:
        return Discovered(conversation_id, needed, None, "damaged", damage)
    backup_n = 1 if entry is None else entry.max_n
    if backup_n > max(highest, 1):  # a reader with max_n 1 does not read salt 0
        return Discovered(conversation_id, needed, backup_n, "held")
    if problem:
        return Discovered(conversation_id, needed, backup_n, "unproven", problem)
    return Discovered(conversation_id, needed, backup_n, "above-cap" if needed > cap else "behind")
