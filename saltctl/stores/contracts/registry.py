"""Contracts of the registry: in Redis, in its backup table, and of the lease in that table."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from saltctl.commands import command_line
from saltctl.salting import is_conversation_id
from saltctl.stores.contracts.entries import CooledEntry, Entry, merge, recent_n_of
from saltctl.stores.contracts.messages import SortKey


class RegistryStore(Protocol):
    """The registry in Redis, spread over one or more primaries. It may lose everything at any time.

    Methods raise RedisUnavailableError (outages, timeouts), AccessDeniedError and ConfigurationError.
    """

    def primaries(self) -> Sequence[str]:
        """Return the names of all primaries: host and port, never a password."""

    def by_primary(self, conversation_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return the ids grouped by the primary that has their bucket."""

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[Entry | None]:
        """Return the entry of each id, None without one. All ids belong to this primary. Never retried.

        Raises UnverifiedError if this process was not verified, or was verified under another layout.
        """

    def read_unverified(self, conversation_ids: Sequence[str]) -> dict[str, Entry | None]:
        """Return the entries of these ids, verified or not. For people and comparisons, never for routing.

        None stands for no entry, and 0 for a value that is none.
        """

    def merge(
        self,
        conversation_id: str,
        entry: Entry,
        noted: Collection[str] | None = None,
        *,
        accept_unverified: bool = False,
    ) -> MergeOutcome:
        """Merge one entry (``entries.merge``) into a primary that the newest rebuild verifies. Safe to repeat.

        ``noted`` are the replication ids of these primaries; None stands for all. ``accept_unverified`` also merges
        into another primary, if no lookup is answered there.
        """

    def refresh(self) -> None:
        """Ask anew which servers are primaries, over new connections."""

    def verified(self) -> dict[str, bool]:
        """Return for each primary whether every bucket of it answers lookups."""


@dataclass(frozen=True, slots=True)
class RegistryIdentity:
    """The identity of a registry, which its backup table records and its fences in Redis name.

    ``verifying`` are the replication ids of the primaries that the newest rebuild verifies or has verified, and
    ``rebuild_token`` is its token. Both are empty before the first rebuild.
    """

    registry_id: str
    verifying: frozenset[str] = frozenset()
    rebuild_token: str = ""


class MergeOutcome(NamedTuple):
    """The result of a merge: whether it changed the entry, and the state of the primary that it ran on.

    noted: the newest rebuild verifies it. unverified: it does not, but no lookup is answered there; the entry was
    merged only if that is accepted. deposed: it does not, and lookups may be answered there, because an earlier rebuild
    verified it; nothing was changed.
    """

    raised: bool
    state: str


MAX_RAISES_KEPT = 50
"""Raises and cool-downs that the item of a cooled conversation records; without cooling each raise is larger, so that
there are few."""


@dataclass(frozen=True, slots=True)
class Raise:
    """One raise in the backup, or one cool-down (``cooled``). ``at`` is ISO 8601 UTC."""

    n: int
    at: str
    by: str
    reason: str
    cooled: bool = False


@dataclass(frozen=True, slots=True)
class Cooling:
    """What the backup records of the cool-downs of a conversation.

    ``epoch``, ``era``, ``recent_n`` and ``boundary`` are as in ``CooledEntry``. ``target`` is the N of the newest raise
    or cool-down, ``cool_to`` that of the newest cool-down: a raise came later if they differ. ``narrowed_at`` is when
    Redis had the newest cool-down (ISO 8601 UTC); empty before.
    """

    epoch: int
    target: int
    cool_to: int
    era: int = 0
    recent_n: int = 0
    boundary: SortKey | None = None
    narrowed_at: str = ""

    @property
    def unsealed(self) -> bool:
        """Whether the newest cool-down still needs its boundary. A raise that came later has ended it."""
        return self.era < self.epoch and self.target == self.cool_to


@dataclass(frozen=True, slots=True)
class BackupEntry:
    """One conversation's item in the backup table. ``write_n`` is never above ``max_n``."""

    conversation_id: str
    max_n: int
    write_n: int
    raises: tuple[Raise, ...] = ()
    cooling: Cooling | None = None

    @property
    def target(self) -> int:
        """The N of the newest raise or cool-down."""
        return self.max_n if self.cooling is None else self.cooling.target

    @property
    def half_done(self) -> bool:
        """Whether a raise was not completed. Nothing else means that: a cool-down has ``write_n`` below ``max_n``."""
        return self.write_n < self.target

    @property
    def entry(self) -> Entry:
        """What Redis should hold."""
        cooling = self.cooling
        if cooling is None:
            return self.max_n
        return CooledEntry(self.max_n, cooling.target, cooling.epoch, cooling.era, cooling.recent_n, cooling.boundary)

    @property
    def recent_n(self) -> int:
        """How many salts the newest messages are read from."""
        return recent_n_of(self.entry)

    @property
    def narrowed_since(self) -> str:
        """When a cool-down began that still needs its boundary (ISO 8601 UTC); empty if there is none."""
        if self.cooling is None or not self.cooling.unsealed:
            return ""
        return self.cooling.narrowed_at or next((past.at for past in reversed(self.raises) if past.cooled), "")

    def holding(self, entry: Entry) -> BackupEntry:
        """Return the entry that holds another one, too. A raise that it adds is half done, as ``half_done`` says."""
        union, cooling = merge(self.entry, entry), self.cooling
        if isinstance(union, int):
            return replace(self, max_n=union)
        if cooling is not None and cooling.epoch == union.epoch:
            cool_to, narrowed_at = cooling.cool_to, cooling.narrowed_at
        else:
            cool_to, narrowed_at = union.write_n, ""
        read = union.era, union.recent_n, union.boundary
        cooling = Cooling(union.epoch, union.write_n, cool_to, *read, narrowed_at)
        return replace(self, max_n=union.max_n, write_n=min(self.write_n, union.write_n), cooling=cooling)

    def raised(self, by: Raise) -> BackupEntry:
        """Return the entry after step 1 of a raise: readers cover ``by.n`` salts everywhere, writers not yet."""
        cooling, n = self.cooling, by.n
        if cooling is not None:
            recent_n = max(cooling.recent_n, n) if cooling.era else 0
            cooling = replace(cooling, target=max(cooling.target, n), recent_n=recent_n)
        return replace(self, max_n=max(self.max_n, n), raises=self._recorded(by), cooling=cooling)

    def narrowed(self, by: Raise) -> BackupEntry:
        """Return the entry after step 1 of a cool-down to ``by.n``: writers spread over so many, readers as before."""
        before = self.cooling or Cooling(0, self.max_n, self.max_n)
        cooling = replace(before, epoch=before.epoch + 1, target=by.n, cool_to=by.n, narrowed_at="")
        return replace(self, write_n=by.n, raises=self._recorded(by), cooling=cooling)

    def sealed(self, boundary: SortKey) -> BackupEntry:
        """Return the entry after step 4 of a cool-down: from the boundary on readers cover few salts."""
        assert self.cooling is not None
        cooling = replace(self.cooling, era=self.cooling.epoch, recent_n=self.cooling.cool_to, boundary=boundary)
        return replace(self, cooling=cooling)

    def _recorded(self, by: Raise) -> tuple[Raise, ...]:
        return (*self.raises, by)[-MAX_RAISES_KEPT:]


MAX_DAMAGED_LISTED = 20
"""Damaged items that a report lists; it counts all of them."""


@dataclass(frozen=True, slots=True)
class DamagedEntry:
    """An item of the backup table that saltctl cannot have written, with the problem."""

    conversation_id: str
    problem: str

    @property
    def cure(self) -> str:
        """The hint that mends it: the audit finds the N that Redis, the item and the messages show, and raises to it.

        An item whose id cannot be that of a conversation has no command.
        """
        if not is_conversation_id(self.conversation_id):
            return "delete the item: its id cannot be that of a conversation"
        given = {"--repair": True, "--yes": True}
        return command_line("history", "audit", ids=[self.conversation_id], given=given)


@dataclass(frozen=True, slots=True)
class BackupPage:
    """One page of a scan: (conversation id, entry, write_n) triples, in no order.

    The entry is what Redis should hold; a raise is half done if write_n is below that of the entry.
    """

    entries: list[tuple[str, Entry, int]]
    damaged: list[DamagedEntry]
    consumed_rcu: float
    """Read capacity units that the page consumed, as DynamoDB reports them; 0 if it does not report them."""
    segment: int
    """-1 for an empty page, which only shows that the scan is alive."""
    last: str | None = None
    """The last id that was read in the segment; None at the segment's end."""
    above_cap: list[tuple[str, int]] = field(default_factory=list)
    """Those of ``entries`` with a max_n above max_n_cap: from another tool, or a larger cap. Lookups serve them."""


@dataclass(frozen=True, slots=True)
class RaiseOutcome:
    """The result of step 1 of a raise: the N before it, whether it changed anything, and what Redis should hold now."""

    before: int
    changed: bool
    entry: Entry


class BackupStore(Protocol):
    """The backup table. It never loses an acknowledged write, and checks conditions at one primary copy.

    All methods raise ConfigurationError if the table is missing or has other keys, AccessDeniedError, ThrottledError
    and AwsUnavailableError (after retries). A write that raised an error may have happened all the same.
    """

    def get(self, conversation_id: str) -> BackupEntry | None:
        """Return one item by a strongly consistent read; None without an item.

        Raises DamagedEntryError, and the errors of ``check_registry``: it reads the identity in the same request.
        """

    def get_many(self, conversation_ids: Sequence[str]) -> dict[str, BackupEntry]:
        """Return items by strongly consistent reads, without ids that have no item. Raises as ``get``."""

    def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
        """Increase the N of the newest raise to ``entry.n`` if it is absent or lower, and record the raise, atomically.

        That N is max_n unless the conversation was cooled. Otherwise nothing changes.
        """

    def commit_write_n(self, conversation_id: str, entry: Entry) -> bool:
        """Set write_n to that of the entry if it is lower and no cool-down came later, atomically.

        Returns whether it changed.
        """

    def replace(self, before: BackupEntry | None, after: BackupEntry) -> bool:
        """Write an item of a conversation that is or was cooled, unless it has changed since it was read.

        ``before`` is None if there was no item. Returns whether it was written.
        """

    def allow_cooling(self) -> bool:
        """Refuse clients that do not know cooled entries, from now on; return whether they were served before."""

    def check_registry(self) -> RegistryIdentity:
        """Return the identity of the registry by a strongly consistent read.

        Raises BackupLostError if this table is not the backup of a registry, or was restored or copied, and
        ConfigurationError if the registry has another layout: a client that merged into other buckets would
        acknowledge raises that no reader sees.
        """

    def scan(
        self,
        segments: int,
        *,
        limit: int | None = None,
        only: int | None = None,
        after: Mapping[int, str | None] | None = None,
        max_rcu: float | None = None,
    ) -> Generator[BackupPage, None, None]:
        """Yield every item that existed before the call, by ``segments`` parallel strongly consistent scans.

        Each item's read is consistent, but the scan is not a snapshot. Throttling slows the scan down and does not
        end it. Closing the generator stops the segments. If no page arrives, an empty page is yielded about every
        second, so that the caller can do its periodic work.

        Args:
            segments: how many segments the table is divided into.
            limit: the most items of a page, for tests.
            only: scan this segment alone.
            after: by segment, the id to resume after, None if the segment is finished. Other segments start at their
                beginning.
            max_rcu: the most read capacity units a second.
        """


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """The holder of the lease. Times are seconds since the epoch, by the holder's clock."""

    owner: str
    host: str
    pid: int
    since: float
    heartbeat: float
    progress: str


class LeaseStore(Protocol):
    """The lease item in the backup table. It keeps rebuilds from wasting each other's work.

    Safety does not depend on it: two rebuilds at once break each other's tokens.
    """

    def acquire(self, owner: str, now: float, *, host: str, pid: int, expiry: float) -> LeaseHolder | None:
        """Take the lease if it is free or its heartbeat is older than ``expiry`` seconds; else return the holder."""

    def renew(self, owner: str, now: float, progress: str) -> bool:
        """Renew the lease; return False if another owner has taken it."""

    def release(self, owner: str) -> None:
        """Release the lease if it is still this owner's."""

    def holder(self) -> LeaseHolder | None:
        """Return the holder, also if its heartbeat is old; None if the lease is free."""
