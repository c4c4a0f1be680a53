"""Drift: how Redis and the backup can disagree, how it differs from a raise in progress, and its repair.

The options and the results of a comparison are here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from saltctl.errors import SaltctlError, UnavailableError, UsageError
from saltctl.registry.failures import is_outage
from saltctl.registry.registry import Registry
from saltctl.salting import power_of_two_at_least
from saltctl.stores.contracts import raise_reasons
from saltctl.stores.contracts.entries import (
    CooledEntry,
    Entry,
    as_cooled,
    epoch_of,
    lacks,
    max_n_of,
    without_boundary,
    write_n_of,
)
from saltctl.stores.contracts.registry import MAX_RAISES_KEPT, BackupEntry, DamagedEntry, Raise, RegistryStore
from saltctl.stores.redis.buckets import UNREADABLE
from saltctl.stores.retry import retry_while_throttled
from saltctl.times import iso_utc
from saltctl.values import LONGEST, check_number, check_whole

Side = Literal["redis", "backup"]
NOT_ADOPTED = "Redis alone has it, and it was not adopted"
"""Why a repair left an entry without an item in the backup."""
DriftKind = Literal["behind", "missing", "unreadable", "unbacked", "uncommitted"]
"""behind: Redis has less than the backup. missing: Redis has no entry. unreadable: its value is not a salt count.
unbacked: Redis has more than the backup, or the backup has no entry. uncommitted: write_n is below max_n."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One conversation on which Redis and the backup disagree.

    A side without an entry is None, and so is ``redis_n`` if the value is unreadable. ``problem`` is the reason
    why a repair was refused. A repair writes ``planned_n`` to the side ``planned_side``; both are None if it leaves
    the conversation as it is. ``detail`` says in what else than N they differ, if a conversation was cooled.
    """

    conversation_id: str
    redis_n: int | None
    backup_n: int | None
    kind: DriftKind
    write_n: int | None = None
    repaired: bool = False
    problem: str | None = None
    planned_n: int | None = None
    planned_side: Side | None = None
    detail: str | None = None

    @property
    def in_redis_alone(self) -> bool:
        """Whether the backup has no entry: only a repair that adopts it writes one."""
        return self.kind == "unbacked" and self.backup_n is None

    @property
    def is_interrupted_raise(self) -> bool:
        """Whether a raise was interrupted, so that no writer uses a salt that a reader leaves out."""
        at_most = self.write_n or self.backup_n or 1
        return self.kind in ("behind", "missing", "uncommitted") and at_most <= max(self.redis_n or 1, 1)


@dataclass(frozen=True, slots=True)
class Sample:
    """The ``part``-th of ``parts``, from 1: the buckets whose number is ``part - 1`` modulo ``parts``."""

    part: int
    parts: int

    def __post_init__(self) -> None:
        """Refuse a sample that is not a part of the whole."""
        in_range = type(self.parts) is int and 1 <= self.parts <= 1_000_000
        if not in_range or type(self.part) is not int or not 1 <= self.part <= self.parts:
            rule = "K must be between 1 and N" if in_range else "N must be between 1 and 1,000,000"
            raise UsageError(f"--sample {self.part}/{self.parts}: {rule}", hint="saltctl compare --sample 1/24")


@dataclass(frozen=True, slots=True)
class ComparisonOptions:
    """How to compare.

    Args:
        segments: parallel scans of the backup.
        sample: the part to compare; everything if None.
        grace: seconds before suspected drift is checked again. A raise takes milliseconds; one that takes longer
            than this is reported as interrupted.
        page_limit: the largest number of items in a page of the scan, for tests.
        batch_size: entries that are looked up in Redis at once; by default four for each of 16,384 buckets, so that
            one command covers several.
        max_suspects: entries that wait for their second check; with more of them, the scan waits.
        adopt: repair what Redis alone has, too: write it to the backup. Nobody knows who wrote it.
    """

    segments: int = 4
    sample: Sample | None = None
    grace: float = 2.0
    page_limit: int | None = None
    batch_size: int = 65_536
    max_suspects: int = 50_000
    adopt: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that DynamoDB would refuse, or that cannot be meant; raises UsageError."""
        check_whole("segments", self.segments, 1, 1_000_000, hint="such as --segments 4")
        check_number("grace", self.grace, 0, LONGEST)
        if self.page_limit is not None:
            check_whole("page_limit", self.page_limit, 1)
        check_whole("batch_size", self.batch_size, 1)
        check_whole("max_suspects", self.max_suspects, 0)


@dataclass(frozen=True, slots=True)
class ComparisonProgress:
    """Counts so far. ``consumed_rcu`` is in read capacity units.

    ``read`` entries of the backup were read, whether or not they belong to the sample. Then ``buckets`` of
    ``all_buckets`` were looked through in Redis; both are 0 before.
    """

    checked: int
    drift: int
    seconds: float
    consumed_rcu: float
    read: int = 0
    buckets: int = 0
    all_buckets: int = 0


@dataclass(slots=True)
class ComparisonReport:
    """The result of a comparison, with the keys of the command line's contract, or its counts so far.

    ``checked`` conversations were compared; ``in_sync`` of them agree. The next four, and ``unreadable``, count the
    others by their kind of drift; ``repaired`` of these agree now. ``verified``: Redis answers lookups. ``drift`` lists
    the first 1,000. ``damaged`` items of the backup could not be compared, the first 20 of which are ``damaged_items``.
    ``redis_alone`` of the unbacked have no item in the backup. ``unsealed`` were narrowed long ago by a cool-down that
    nobody has sealed; the first 300 that may be are looked at, and ``unsealed_ids`` are the first of them.
    """

    checked: int = 0
    in_sync: int = 0
    behind: int = 0
    missing: int = 0
    unbacked: int = 0
    uncommitted: int = 0
    repaired: int = 0
    verified: bool = False
    drift: list[Drift] = field(default_factory=list)
    seconds: float = 0.0
    damaged: int = 0
    unreadable: int = 0
    consumed_rcu: float = 0.0
    redis_alone: int = 0
    damaged_items: list[DamagedEntry] = field(default_factory=list)
    unsealed: int = 0
    unsealed_ids: list[str] = field(default_factory=list)

    @property
    def interrupted_raises(self) -> int:
        """The number of listed drifts that hide no message, as :attr:`Drift.is_interrupted_raise` tells them."""
        return sum(drift.is_interrupted_raise and not drift.repaired for drift in self.drift)

    @property
    def differing(self) -> int:
        """The number of conversations that differ, or differed before they were repaired."""
        return self.behind + self.missing + self.unreadable + self.unbacked + self.uncommitted

    @property
    def unrepaired(self) -> int:
        """The number of conversations that still differ."""
        return self.differing - self.repaired


class Suspect(NamedTuple):
    """A conversation that looked like drift, as the scan of the backup saw it, and when to check it again."""

    due: float
    conversation_id: str
    entry: Entry
    write_n: int

    def is_behind(self, held: Entry | None) -> bool:
        """Return whether Redis lacks something of the entry by now. No entry means the same as an N of 1."""
        return lacks(1 if held is None else held, self.entry)


def looks_like_drift(held: Entry | None, entry: Entry, write_n: int) -> bool:
    """Return whether the sides disagree, or a raise is in progress. No entry means the same as an N of 1."""
    if held is None and entry == write_n == 1:
        return False
    return write_n < write_n_of(entry) or held != entry


def writers_n(entry: BackupEntry, held: Entry | None) -> int:
    """Return the N that writers find in Redis, which holds an entry, or None; 0 if Redis lacks the newest cool-down."""
    if held is None:
        return 1
    return write_n_of(held) if epoch_of(held) >= epoch_of(entry.entry) else 0


def half_done(store: RegistryStore, entries: Sequence[BackupEntry]) -> list[str]:
    """Return the conversations whose raise is not known to be complete: it is half done, or Redis holds less.

    If Redis cannot be read, these are all of them: to complete a raise is harmless, and fails for the true reason.
    """
    held: dict[str, Entry | None] = {}
    with suppress(UnavailableError):
        held = store.read_unverified([entry.conversation_id for entry in entries]) if entries else held
    no_entry = {conversation_id: 1 for conversation_id, entry in held.items() if entry is None}
    return [
        entry.conversation_id
        for entry in entries
        if entry.half_done or lacks((held | no_entry).get(entry.conversation_id), entry.entry)
    ]


def _lacking(side: str, less: Entry | None, more: Entry) -> str | None:
    """Return what a side lacks that the other one has, if their N do not show it."""
    if less is None or max_n_of(less) != max_n_of(more):
        return None
    one, other = as_cooled(less), as_cooled(more)
    if one.epoch < other.epoch:
        return f"{side} lacks the newest cool-down"
    if one.era < other.era:
        return f"{side} lacks the boundary of the newest cool-down"
    if one.write_n < other.write_n:
        return f"{side} lacks the newest raise, to {other.write_n}"
    return None if one == other else f"{side} has another boundary"


def classify(suspect: Suspect, held: Entry | None, entry: BackupEntry | None) -> Drift | None:
    """Return the drift of a suspect that was checked again, or None.

    Args:
        suspect: what the scan saw. Redis must hold at least that by now.
        held: what Redis holds now.
        entry: the entry of the backup, read after Redis. Not needed if Redis is below what the scan saw.
    """
    conversation_id, seen_n = suspect.conversation_id, max_n_of(suspect.entry)
    if held == UNREADABLE:
        return Drift(conversation_id, None, seen_n, "unreadable", suspect.write_n)
    redis_n = None if held is None else max_n_of(held)
    if suspect.is_behind(held):
        kind: DriftKind = "missing" if held is None else "behind"
        detail = _lacking("Redis", held, suspect.entry)
        return Drift(conversation_id, redis_n, seen_n, kind, suspect.write_n, detail=detail)
    if entry is None:
        # The item was deleted after the scan.
        return Drift(conversation_id, redis_n, None, "unbacked") if held not in (None, 1) else None
    if lacks(entry.entry, held or 1):
        detail = _lacking("the backup", entry.entry, held or 1)
        return Drift(conversation_id, redis_n, entry.max_n, "unbacked", entry.write_n, detail=detail)
    # The raise that the scan saw is still half done. A cool-down may have come later.
    if entry.write_n < write_n_of(suspect.entry) and epoch_of(entry.entry) == epoch_of(suspect.entry):
        return Drift(conversation_id, redis_n, entry.max_n, "uncommitted", entry.write_n)
    return None


def plan_repair(drift: Drift, *, adopt: bool, cap: int) -> Drift:
    """Return the drift with the value that a repair writes, and its side, or with the reason why it writes none.

    The side that has less is raised, and none is lowered. Lookups returned an unbacked N, so messages may be on its
    salts: the backup is raised to it. An N that is not a power of two is rounded up, since covering more salts is safe
    for readers. An entry that Redis alone has is written only with ``adopt``; an N above ``cap`` never.
    """
    if drift.kind == "unreadable" and drift.backup_n is None:
        return replace(drift, problem="the value in Redis is not a salt count, and the backup has no entry")
    if drift.kind != "unbacked":
        side: Side = "backup" if drift.kind == "uncommitted" else "redis"
        return replace(drift, planned_n=drift.backup_n, planned_side=side)
    n = power_of_two_at_least(drift.redis_n or 1)
    if n > cap:
        return replace(drift, problem=f"the value in Redis, {drift.redis_n}, is above the cap of {cap} (max_n_cap)")
    if drift.in_redis_alone and not adopt:
        return replace(drift, problem=NOT_ADOPTED)
    return replace(drift, planned_n=n, planned_side="backup")


def repair(registry: Registry, drift: Drift, sleep: Callable[[float], None]) -> Drift:
    """Do what is planned for a drift, by the protocol, and return it with the outcome.

    ``sleep`` waits while AWS throttles.
    """
    conversation_id, n = drift.conversation_id, drift.planned_n
    if n is None:
        return drift
    try:
        if drift.kind != "unbacked":
            retry_while_throttled(lambda: registry.complete(conversation_id), sleep)
        else:
            retry_while_throttled(lambda: adopt(registry, conversation_id, n), sleep)
    except SaltctlError as exc:
        if is_outage(exc):
            raise
        return replace(drift, problem=exc.message)  # a damaged item or bucket must not stop the other repairs
    return replace(drift, repaired=True)


def adopt(registry: Registry, conversation_id: str, n: int) -> None:
    """Raise a conversation of which Redis holds more than the backup, which lost its item or a part of it.

    The boundary of a cool-down of which the backup knows nothing is taken back: the lost item may have had a raise that
    widened its readers, and writers that fell back to the backup did not know of it. Writers keep the N of Redis.

    Raises:
        SaltctlError: as ``Registry.raise_to``.
    """
    backup, held = registry.backup, registry.store.read_unverified([conversation_id])[conversation_id]
    while isinstance(held, CooledEntry):
        before = backup.get(conversation_id)
        after = before or BackupEntry(conversation_id, 1, 1)
        if not lacks(after.entry, held):
            break
        backup.check_registry()
        backup.allow_cooling()
        union = after.holding(without_boundary(held))
        by = Raise(union.target, iso_utc(registry.now()), registry.actor, raise_reasons.COMPARED)
        if backup.replace(before, replace(union, raises=(*union.raises, by)[-MAX_RAISES_KEPT:])):
            registry.on_raise(conversation_id)
            registry.complete(conversation_id)
            return
    registry.raise_to(conversation_id, n, reason=raise_reasons.COMPARED)
