"""Mutations of cooling: subclasses of real classes with one difference each, and changed scripts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal
from unittest.mock import patch

from saltctl.cooling import cooling
from saltctl.cooling.boundary import Boundary, find_boundary
from saltctl.cooling.cooling import Cooling, CoolingResult
from saltctl.history.sort_key_form import SortKeyForm
from saltctl.rebuild.merge_buffer import MergeBuffer, ScanPosition
from saltctl.rebuild.rebuild import Rebuild
from saltctl.registry import registry
from saltctl.registry.lookups import Lookup, lookup_of
from saltctl.registry.registry import Registry
from saltctl.stores.contracts.entries import Entry, max_n_of, write_n_of
from saltctl.stores.contracts.messages import MessageStore
from saltctl.stores.contracts.registry import BackupEntry, BackupPage, Raise, RaiseOutcome
from saltctl.stores.redis.registry import RedisRegistry
from tests.model.cooling_processes import CoolingBackup
from tests.model.mutations import patch_script
from tests.model.replay import ModelBackup

# The first phase.


class SkipsRedis(Registry):
    """A cool-down that seals without step 2: readers narrow before the writers in Redis do."""

    def merge(self, entry: BackupEntry, registry_id: str) -> bool:
        """Merge only what is sealed."""
        assert entry.cooling is not None
        return False if entry.cooling.unsealed else super().merge(entry, registry_id)


class TrustsRedis(Cooling):
    """A cool-down whose second phase does not look whether Redis still has the first one."""

    def _is_overwritten(self, entry: BackupEntry) -> bool:
        return False


class TakesTimeEarly(Cooling):
    """A cool-down that takes the time of step 2 before that step."""

    def _go_on(self, entry: BackupEntry, registry_id: str) -> CoolingResult | None:
        at = self.now()
        with patch.object(self, "now", lambda: at):
            return super()._go_on(entry, registry_id)


class LeavesHalfDone(Cooling):
    """A cool-down that does not complete a raise that is half done."""

    def _complete(self, conversation_id: str) -> BackupEntry:
        return self.registry.backup.get(conversation_id) or BackupEntry(conversation_id, 1, 1)


# The second phase.


class _Seals(CoolingBackup):
    """A backup whose seals have another condition than that the item is unchanged."""

    def replace(self, before: BackupEntry | None, after: BackupEntry) -> bool:
        """Seal what is there if ``may_seal`` accepts it."""
        if before is None or before.cooling is None or after.cooling is None or before.cooling.era == after.cooling.era:
            return super().replace(before, after)
        now = self.get(after.conversation_id)
        assert now is not None
        assert now.cooling is not None
        seal = after.cooling
        cooling = replace(now.cooling, era=seal.era, recent_n=seal.recent_n, boundary=seal.boundary)
        return self.may_seal(before, now) and super().replace(now, replace(now, cooling=cooling))

    def may_seal(self, before: BackupEntry, now: BackupEntry) -> bool:
        """Return whether the item, which was ``before``, may be sealed as it is ``now``."""
        raise NotImplementedError


class SealsDespiteRaise(_Seals):
    """A seal whose condition is the epoch alone."""

    def may_seal(self, before: BackupEntry, now: BackupEntry) -> bool:
        """Compare the epochs."""
        assert before.cooling is not None
        assert now.cooling is not None
        return before.cooling.epoch == now.cooling.epoch


class SealsByMaxN(SealsDespiteRaise):
    """A seal that compares max_n, and not the N of the newest raise."""

    def may_seal(self, before: BackupEntry, now: BackupEntry) -> bool:
        """Compare max_n and the epochs."""
        return super().may_seal(before, now) and before.max_n == now.max_n


class SealsAnyEpoch(_Seals):
    """A seal that does not compare the epochs."""

    def may_seal(self, before: BackupEntry, now: BackupEntry) -> bool:
        """Compare the N of the newest raise or cool-down."""
        return before.target == now.target


class AsksNewSaltsOnly(Cooling):
    """A cool-down that asks only the salts from its N on for their newest rows: if N is 1, not salt 0."""

    def _find_boundary(self, entry: BackupEntry) -> Boundary:
        assert entry.cooling is not None
        to = entry.cooling.cool_to

        def find(
            store: MessageStore, conversation_id: str, salts: Sequence[int], form: SortKeyForm | None, at: Any
        ) -> Boundary | None:
            return find_boundary(store, conversation_id, [salt for salt in salts if salt >= to], form, at)

        with patch.object(cooling, "find_boundary", find):
            return super()._find_boundary(entry)


# Raises and rebuilds of a cooled conversation.


class RaisesInRedisFirst(Registry):
    """A raise that does its second step first."""

    def __init__(self, store: RedisRegistry, backup: ModelBackup, **options: Any) -> None:
        class Backup:
            def __getattr__(self, name: str) -> object:
                return getattr(backup, name)

            def raise_max_n(self, conversation_id: str, by: Raise) -> RaiseOutcome:
                now = backup.get(conversation_id)
                if now is not None and now.target < by.n:
                    store.merge(conversation_id, now.raised(by).entry)
                return backup.raise_max_n(conversation_id, by)

        super().__init__(store, Backup(), **options)  # type: ignore[arg-type]


class RaisesMaxNAlone(CoolingBackup):
    """A raise that leaves the readers from the boundary on as they are."""

    def replace(self, before: BackupEntry | None, after: BackupEntry) -> bool:
        """Keep ``recent_n`` within an era."""
        old = None if before is None else before.cooling
        if old is not None and after.cooling is not None and after.cooling.era == old.era:
            after = replace(after, cooling=replace(after.cooling, recent_n=old.recent_n))
        return super().replace(before, after)


class CommitsAnyEpoch(CoolingBackup):
    """A raise that commits although the conversation was cooled since its first step."""

    def commit_write_n(self, conversation_id: str, entry: Entry) -> bool:
        """Compare the N of the newest raise or cool-down alone."""
        holds = "max_n >= :n AND (attribute_not_exists(cooling) OR cooling.target >= :n) AND write_n < :n"
        values = {":n": {"N": str(write_n_of(entry))}}
        return self.update_item(conversation_id, "SET write_n = :n", holds, values) is not None


class WithoutCap(Registry):
    """A lookup that does not cap the N of writers by what readers of the newest messages cover."""

    def lookup(self, conversation_id: str) -> Lookup:
        """Look up, and return the N of the entry."""
        with patch.object(registry, "lookup_of", self._lookup_of):
            return super().lookup(conversation_id)

    @staticmethod
    def _lookup_of(conversation_id: str, entry: Entry, source: Literal["redis", "backup"], write_n: int) -> Lookup:
        return lookup_of(conversation_id, entry, source, write_n)._replace(write_n=write_n)


class CompletesByMaxN(Rebuild):
    """A rebuild that takes a write_n below max_n for a raise that is half done."""

    _below: Collection[tuple[str, int]] = ()

    def pages(self, buffer: MergeBuffer | ScanPosition) -> Iterator[BackupPage]:
        """Yield the pages, and remember such entries."""
        for page in super().pages(buffer):
            self._below = [(i, max_n_of(entry)) for i, entry, write_n in page.entries if write_n < max_n_of(entry)]
            yield page

    def _complete_raises(self, run: Any) -> None:
        for conversation_id, n in self._below:
            now = self.backup.get(conversation_id)
            if now is not None and now.cooling is not None:
                self.backup.replace(now, replace(now, write_n=n, cooling=replace(now.cooling, target=n)))


# Scripts.

_WRITE_N = r"a\[3\] == b\[3\] and math\.max\(a\[2\], b\[2\]\) or newest\[2\]"
LARGEST_WRITE_N = tuple(patch_script(name, _WRITE_N, "math.max(a[2], b[2])") for name in ("merge", "raise"))
SMALLEST_RECENT_N = tuple(patch_script(name, r"a\[5\] >= b\[5\]", "a[5] <= b[5]") for name in ("merge", "raise"))
