"""Discover the registry from the messages themselves: the last resort if Redis and the backup are both lost.

A parallel scan of the partition keys finds every salt that was ever written to, and so the N that readers need. It
reads the whole messages table and costs accordingly; ``estimate_cost`` returns the cost before.

A table may hold partition keys with a ``#`` by design, such as ``CONV#77``. A conversation is raised only if its rows
prove that they are on salts (``salting.SaltEvidence``): a wrong raise would merge the histories of different people.
"""

from __future__ import annotations

import math
import time
from binascii import crc32
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from saltctl.errors import InvalidConversationIdError
from saltctl.registry.drift import half_done
from saltctl.registry.failures import read_undamaged
from saltctl.registry.registry import Registry
from saltctl.salting import (
    SEPARATOR,
    SaltEvidence,
    UnprovenCause,
    check_conversation_id,
    is_conversation_id,
    power_of_two_at_least,
    split_partition_key,
)
from saltctl.stores.contracts.messages import Item, KeysPage, MessageStore
from saltctl.stores.contracts.registry import BackupEntry, BackupStore
from saltctl.values import check_number, check_whole

_RCU_BYTES = 4096
"""The bytes of a scan that one strongly consistent read unit covers; an eventually consistent one covers twice that."""
_MAX_SALT_SHOWN = 10**9
_IDS_PER_READ = 1000
_PROVED: tuple[str, UnprovenCause] = ("", "")

Row = tuple[int, int | None]
"""The salt of a row and the CRC-32 of its message id; None without an id."""
DiscoveryState = Literal["held", "behind", "above-cap", "invalid-id", "damaged", "unproven"]
"""held: the backup holds at least the needed N. behind: it holds less, or no entry. above-cap: the needed N is above
max_n_cap. invalid-id: this cannot be a conversation id. damaged: its item in the backup is. unproven: its rows do not
prove that they are on salts. A raise is possible only for ``behind``."""


@dataclass(frozen=True, slots=True)
class ScanCost:
    """The cost of a scan; None for what is unknown, since DescribeTable has not counted it yet.

    Its counts are about six hours old (documented).
    """

    items: int | None
    bytes: int | None
    rcu: int | None


@dataclass(frozen=True, slots=True)
class Discovered:
    """One salted conversation: the N that its messages need, and the N that the backup holds (1 without an entry).

    ``problem`` is the reason why it cannot be raised; empty if it is ``held`` or ``behind``.
    ``cause`` is the kind of reason of ``unproven``.
    """

    conversation_id: str
    needed_n: int
    backup_n: int | None
    state: DiscoveryState
    problem: str = ""
    cause: UnprovenCause = ""


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
    return ScanCost(size.items or None, size.bytes or None, (units if consistent else math.ceil(units / 2)) or None)


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
    started, salts = clock(), Salts(store.keys.partition_key, message_id)
    yield from scan_salts(store, salts, attribute=attribute, segments=segments, consistent=consistent)
    found = judge(salts.seen(), salts.candidates(), backup, cap=cap, any_salting=any_salting)
    seconds = round(clock() - started, 3)
    yield Discovery(salts.items, found, salts.consumed_rcu, seconds, salts.foreign_rows, salts.foreign_key)


def scan_salts(
    store: MessageStore,
    salts: Salts,
    *,
    attribute: str | None,
    segments: int,
    consistent: bool = True,
    max_rcu: float | None = None,
) -> Generator[ScanProgress, None, None]:
    """Scan the messages table from the position of ``salts`` on, and add each page to it before yielding progress.

    Raises:
        As :func:`discover`.
    """
    check_whole("segments", segments, 1, 64, hint="such as --segments 4")
    if max_rcu is not None:
        check_number("max_rcu", max_rcu, 1, hint="such as --max-rcu 500")
    after = dict(salts.after)
    scan = store.scan_keys(segments, consistent=consistent, attribute=attribute, after=after, max_rcu=max_rcu)
    with closing(scan) as pages:
        for page in pages:
            salts.add(page)
            yield ScanProgress(salts.items, len(salts.highest), salts.consumed_rcu)


def judge(
    seen: Iterable[Seen], candidates: int, backup: BackupStore, *, cap: int, any_salting: bool
) -> list[Discovered]:
    """Compare what all messages have shown with the backup; return every salted conversation, in the same order.

    ``seen`` has every salted conversation; of its evidence only that of a thousand is needed at once. ``candidates``
    counts those with valid ids.
    """
    discovered: list[Discovered] = []
    conversations = iter(seen)
    while batch := list(islice(conversations, _IDS_PER_READ)):
        valid = [each.conversation_id for each in batch if is_conversation_id(each.conversation_id)]
        entries, damaged = read_undamaged(backup, valid)
        for each in batch:
            entry, unproved = entries.get(each.conversation_id), _PROVED
            if not any_salting:
                registered = entry is not None and entry.max_n > 1
                problem = each.evidence.problem(candidates, registered=registered)
                unproved = problem, each.evidence.cause(candidates, registered=registered)
            damage = damaged.get(each.conversation_id, "")
            discovered.append(_judge(each.conversation_id, each.highest, entry, cap, damage=damage, unproved=unproved))
    return discovered


def half_done_raises(found: Discovery, registry: Registry) -> list[str]:
    """Return the ``held`` conversations of which an earlier raise has not reached Redis or the commit."""
    held = [conversation.conversation_id for conversation in found.conversations if conversation.state == "held"]
    incomplete = []
    for start in range(0, len(held), _IDS_PER_READ):
        entries = registry.backup.get_many(held[start : start + _IDS_PER_READ])
        incomplete += half_done(registry.store, list(entries.values()))
    return incomplete


@dataclass(frozen=True, slots=True)
class Seen:
    """What the messages show of one salted conversation."""

    conversation_id: str
    highest: int
    evidence: SaltEvidence


@dataclass
class Salts:
    """Salts and evidence of each conversation so far, and the position of the scan: the last key of each segment.

    ``unsaved`` collects the salts, and the CRC-32 of the message ids, of the rows that proved anything new; None
    collects nothing.
    """

    partition_key: str
    message_id: Callable[[Item], str | None]
    unsaved: defaultdict[str, list[Row]] | None = None
    items: int = 0
    consumed_rcu: float = 0.0
    after: dict[int, Item | None] = field(default_factory=dict)
    highest: dict[str, int] = field(default_factory=dict)
    evidence: defaultdict[str, SaltEvidence] = field(default_factory=lambda: defaultdict(SaltEvidence))
    foreign_rows: int = 0
    foreign_key: str | None = None

    def add(self, page: KeysPage) -> None:
        """Count the rows of one page. Its position comes last: a page that was interrupted is read again."""
        for item in page.items:
            key = item[self.partition_key]["S"]
            conversation_id, salt = split_partition_key(key)
            if salt is not None:
                message_id = self.message_id(item)
                crc = None if message_id is None else crc32(message_id.encode())
                if self.add_row(conversation_id, salt, crc) and self.unsaved is not None:
                    self.unsaved[conversation_id].append((salt, crc))
            elif SEPARATOR in key:
                self.foreign_rows += 1
                self.foreign_key = key
        self.items += len(page.items)
        self.consumed_rcu += page.consumed_rcu
        if page.segment >= 0:
            self.after[page.segment] = page.last

    def add_row(self, conversation_id: str, salt: int, crc: int | None) -> bool:
        """Count one row on a salt; return whether it proves anything new. A row that is counted twice does no harm."""
        higher = salt > self.highest.get(conversation_id, -1)
        if higher:
            self.highest[conversation_id] = salt
        return self.evidence[conversation_id].add_crc(salt, crc) or higher

    def seen(self) -> Iterator[Seen]:
        """Yield every salted conversation, sorted by id."""
        return (Seen(i, highest, self.evidence[i]) for i, highest in sorted(self.highest.items()))

    def candidates(self) -> int:
        """Return how many of them have valid ids."""
        return sum(map(is_conversation_id, self.highest))


def _judge(
    conversation_id: str,
    highest: int,
    entry: BackupEntry | None,
    cap: int,
    *,
    damage: str,
    unproved: tuple[str, UnprovenCause],
) -> Discovered:
    """Compare the highest salt with messages to the N that the backup holds."""
    needed = max(power_of_two_at_least(highest + 1), 2)
    try:
        check_conversation_id(conversation_id)
    except InvalidConversationIdError as exc:
        return Discovered(conversation_id, needed, None, "invalid-id", exc.message)
    if damage:
        return Discovered(conversation_id, needed, None, "damaged", damage)
    backup_n = 1 if entry is None else entry.max_n
    if backup_n > max(highest, 1):  # a reader with max_n 1 does not read salt 0
        return Discovered(conversation_id, needed, backup_n, "held")
    if unproved[1]:
        return Discovered(conversation_id, needed, backup_n, "unproven", *unproved)
    if needed > cap:
        salts = f"{highest:,}" if highest < _MAX_SALT_SHOWN else f"a number of {len(str(highest))} digits"
        return Discovered(
            conversation_id, needed, backup_n, "above-cap", f"it has salts up to {salts}, and max_n_cap is {cap}"
        )
    return Discovered(conversation_id, needed, backup_n, "behind")
