"""The registry's stores in memory: they keep the contracts, and fail if a test wants them to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from saltctl.errors import SaltctlError, UnverifiedError
from saltctl.stores.contracts.entries import Entry, epoch_of, merge, write_n_of
from saltctl.stores.contracts.registry import (
    BackupEntry,
    BackupPage,
    MergeOutcome,
    Raise,
    RaiseOutcome,
    RegistryIdentity,
)


class Faults:
    """Errors to raise, by the name of a store's method, and the methods that were called.

    ``before`` raises an error instead of doing the work; ``after`` raises it although the work was done.
    """

    def __init__(self) -> None:
        self.before: dict[str, SaltctlError] = {}
        self.after: dict[str, SaltctlError] = {}
        self.calls: list[str] = []

    @contextmanager
    def call(self, method: str) -> Iterator[None]:
        """Record a call, and raise the error of ``before``; at the end of the block raise that of ``after``."""
        self.calls.append(method)
        if method in self.before:
            raise self.before[method]
        yield
        if method in self.after:
            raise self.after[method]

    def clear(self) -> None:
        """Remove all errors, and the record of calls."""
        self.before.clear()
        self.after.clear()
        self.calls.clear()


class MemoryBackup:
    """The backup table as a dictionary: a ``BackupStore``."""

    def __init__(self) -> None:
        self.items: dict[str, BackupEntry] = {}
        self.identity = RegistryIdentity("0123456789abcdef")
        self.faults = Faults()

    def get(self, conversation_id: str) -> BackupEntry | None:
        """Return one item."""
        with self.faults.call("get"):
            return self.items.get(conversation_id)

    def get_many(self, conversation_ids: Sequence[str]) -> dict[str, BackupEntry]:
        """Return the items that exist."""
        with self.faults.call("get_many"):
            return {i: self.items[i] for i in conversation_ids if i in self.items}

    def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
        """Do step 1 of a raise."""
        with self.faults.call("raise_max_n"):
            held = self.items.get(conversation_id, BackupEntry(conversation_id, 1, 1))
            changed = conversation_id not in self.items or held.target < entry.n
            after = held.raised(entry) if changed else held
            self.items[conversation_id] = after
            return RaiseOutcome(held.target, changed, after.entry)

    def commit_write_n(self, conversation_id: str, entry: Entry) -> bool:
        """Do step 3 of a raise."""
        with self.faults.call("commit_write_n"):
            held, n = self.items[conversation_id], write_n_of(entry)
            changed = held.write_n < n <= held.target and epoch_of(held.entry) == epoch_of(entry)
            if changed:
                self.items[conversation_id] = replace(held, write_n=n)
            return changed

    def replace(self, before: BackupEntry | None, after: BackupEntry) -> bool:
        """Write an item unless it has changed."""
        with self.faults.call("replace"):
            unchanged = self.items.get(after.conversation_id) == before
            if unchanged:
                self.items[after.conversation_id] = after
            return unchanged

    def allow_cooling(self) -> bool:
        """Do nothing: there are no older clients."""
        return False

    def check_registry(self) -> RegistryIdentity:
        """Return the identity of the registry."""
        with self.faults.call("check_registry"):
            return self.identity

    def scan(
        self, segments: int, *, limit: int | None = None, only: int | None = None, **_: object
    ) -> Generator[BackupPage, None, None]:
        """Yield all items in pages of ``limit``; an item is in the segment of its id's length modulo ``segments``."""
        mine = [e for e in self.items.values() if only is None or len(e.conversation_id) % segments == only]
        step = limit or len(mine) or 1
        for start in range(0, len(mine), step):
            some = mine[start : start + step]
            yield BackupPage([(e.conversation_id, e.entry, e.write_n) for e in some], [], float(len(some)), 0)


class MemoryRedis:
    """The registry in Redis as a dictionary for each primary: a ``RegistryStore``.

    An id is on the primary of its length modulo the number of primaries.
    """

    def __init__(self, primaries: int = 1) -> None:
        self.held: dict[str, dict[str, Entry]] = {f"redis-{number}:6379": {} for number in range(primaries)}
        self.verified_primaries = set(self.held)
        self.faults = {primary: Faults() for primary in self.held}
        self.routing_fault: SaltctlError | None = None

    def fail(self, error: SaltctlError | None) -> None:
        """Make lookups and merges of every primary raise the error; None ends the outage."""
        for faults in self.faults.values():
            faults.clear()
            if error is not None:
                faults.before |= {"lookup": error, "merge": error}

    def restart(self, *, keep_entries: bool = False) -> None:
        """Restart every primary: none is verified any more, and the entries are lost unless ``keep_entries`` is set."""
        self.verified_primaries.clear()
        if not keep_entries:
            for held in self.held.values():
                held.clear()

    def primaries(self) -> Sequence[str]:
        """Return the names of all primaries."""
        return tuple(self.held)

    def primary_of(self, conversation_id: str) -> str:
        """Return the primary that has an id."""
        return self.primaries()[len(conversation_id) % len(self.held)]

    def by_primary(self, conversation_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return the ids grouped by primary."""
        if self.routing_fault is not None:
            raise self.routing_fault
        groups = defaultdict(list)
        for conversation_id in conversation_ids:
            groups[self.primary_of(conversation_id)].append(conversation_id)
        return groups

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[Entry | None]:
        """Return the entry of each id."""
        with self.faults[primary].call("lookup"):
            if primary not in self.verified_primaries:
                raise UnverifiedError(f"{primary} is not verified")
            return [self.held[primary].get(i) for i in conversation_ids]

    def read_unverified(self, conversation_ids: Sequence[str]) -> dict[str, Entry | None]:
        """Return the entries, whether or not they are verified."""
        return {i: self.held[self.primary_of(i)].get(i) for i in conversation_ids}

    def merge(
        self,
        conversation_id: str,
        entry: Entry,
        noted: Collection[str] | None = None,
        *,
        accept_unverified: bool = False,
    ) -> MergeOutcome:
        """Merge one entry."""
        primary = self.primary_of(conversation_id)
        with self.faults[primary].call("merge"):
            held = self.held[primary]
            before = held.get(conversation_id, 0)
            held[conversation_id] = merge(before, entry)
            return MergeOutcome(held[conversation_id] != before, "noted")

    def refresh(self) -> None:
        """Do nothing: the primaries stay."""

    def verified(self) -> dict[str, bool]:
        """Return which primaries are verified."""
        return {primary: primary in self.verified_primaries for primary in self.held}
