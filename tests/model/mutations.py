"""Mutations of the protocol: subclasses of real classes with one difference each, and changed scripts.

A mutation that no longer applies, because its code has changed, is an error.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from saltctl.errors import SaltctlError, UnverifiedError
from saltctl.rebuild.merge_buffer import MergeBuffer, ScanPosition
from saltctl.rebuild.rebuild import Rebuild
from saltctl.registry.registry import Registry
from saltctl.stores.aws.registry_item import RegistryItem
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.contracts.registry import (
    BackupEntry,
    BackupPage,
    MergeOutcome,
    Raise,
    RaiseOutcome,
    RegistryIdentity,
)
from saltctl.stores.redis.errors import redis_errors
from saltctl.stores.redis.merge_commands import Merge
from saltctl.stores.redis.rebuild_session import RedisRebuildSession
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis.scripts import script
from tests.model.replay import CONVERSATION, REGISTRY_ID, TABLE, ModelBackup, NotedBackup

# Raises.


class _Delegating:
    """Delegates to a store, except for the methods that a subclass defines."""

    def __init__(self, store: object) -> None:
        self._inner = store

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


class RedisBeforeBackup(Registry):
    """A raise that does its second step first."""

    def __init__(self, store: RedisRegistry, backup: ModelBackup, **options: object) -> None:
        class Backup(_Delegating):
            def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
                store.merge(conversation_id, entry.n)
                return backup.raise_max_n(conversation_id, entry)

        super().__init__(store, Backup(backup), **options)  # type: ignore[arg-type]


class CommitBeforeRedis(Registry):
    """A raise that does its third step second."""

    def __init__(self, store: RedisRegistry, backup: ModelBackup, **options: object) -> None:
        class Store(_Delegating):
            def merge(self, conversation_id: str, entry: Entry, *arguments: Any, **options: Any) -> MergeOutcome:
                backup.commit_write_n(conversation_id, entry)
                return store.merge(conversation_id, entry, *arguments, **options)

        super().__init__(Store(store), backup, **options)  # type: ignore[arg-type]


class SkipsUnverified(RedisRegistry):
    """A raise that skips an unverified Redis, as if a rebuild would merge the entry anyway."""

    def merge(self, conversation_id: str, entry: Entry, *arguments: Any, **options: Any) -> MergeOutcome:
        """Merge only if lookups are answered."""
        try:
            self.lookup(self.primaries()[0], [conversation_id])
        except UnverifiedError:
            return MergeOutcome(False, "noted")
        return super().merge(conversation_id, entry, *arguments, **options)


class IgnoresRedis(RedisRegistry):
    """A raise that continues if Redis fails."""

    def merge(self, conversation_id: str, entry: Entry, *arguments: Any, **options: Any) -> MergeOutcome:
        """Merge, and ignore errors."""
        try:
            return super().merge(conversation_id, entry, *arguments, **options)
        except SaltctlError:
            return MergeOutcome(False, "noted")


class RaisesUnconditionally(ModelBackup):
    """A raise that sets max_n without a condition."""

    def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
        """Set max_n without the condition."""
        values = {":n": {"N": str(entry.n)}}
        self.update_item(conversation_id, "SET max_n = :n", "attribute_not_exists(nothing)", values)
        return RaiseOutcome(1, True, entry.n)


class SkipsBackup(ModelBackup):
    """A raise that skips its first step."""

    def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
        """Change nothing."""
        return RaiseOutcome(1, True, entry.n)


# The note of a rebuild.


class ReadsNoteFirst(Registry):
    """A raise that reads the note before its first step."""

    def __init__(self, store: RedisRegistry, backup: ModelBackup, **options: object) -> None:
        class Backup(_Delegating):
            read: list[RegistryIdentity] = []  # noqa: RUF012  a class for each raise

            def check_registry(self) -> RegistryIdentity:
                self.read.append(self.read[0] if len(self.read) == 1 else backup.check_registry())
                return self.read[-1]

        super().__init__(store, Backup(backup), **options)  # type: ignore[arg-type]


class ReadsNoteEventually(NotedBackup):
    """A raise that reads the note by an eventually consistent read."""

    def get_item(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """Read without ConsistentRead."""
        item: dict[str, Any] | None = self.send("get_item", {"Key": key, "ConsistentRead": False}, key).get("Item")
        return item


class AcceptsUnverified(RedisRegistry):
    """A raise that accepts an unverified primary before it asks which one is the primary."""

    def merge(self, conversation_id: str, entry: Entry, *arguments: Any, **_: Any) -> MergeOutcome:
        """Merge, and take an unverified primary for a noted one."""
        raised, state = super().merge(conversation_id, entry, *arguments, accept_unverified=True)
        return MergeOutcome(raised, "noted" if state == "unverified" else state)


class NotesNothing(RegistryItem):
    """A rebuild that writes no note."""

    noted: RegistryIdentity | None = None

    def note_rebuild(self, before: RegistryIdentity, token: str, replication_ids: Collection[str]) -> RegistryIdentity:
        """Remember the note only."""
        self.noted = RegistryIdentity(before.registry_id, frozenset(replication_ids), token)
        return self.noted

    def read(self, *, recheck: bool = False) -> RegistryIdentity:
        """Return what was remembered."""
        return self.noted or super().read(recheck=recheck)


class NotesAfterScan(NotesNothing):
    """A rebuild that writes its note when it checks it for the first time, after it has scanned."""

    before: RegistryIdentity | None = None

    def note_rebuild(self, before: RegistryIdentity, token: str, replication_ids: Collection[str]) -> RegistryIdentity:
        """Remember the note, and what it replaces."""
        self.before = before
        return super().note_rebuild(before, token, replication_ids)

    def read(self, *, recheck: bool = False) -> RegistryIdentity:
        """Write the note that was remembered."""
        before, noted, self.before, self.noted = self.before, self.noted, None, None
        if before and noted:
            RegistryItem.note_rebuild(self, before, noted.rebuild_token, noted.verifying)
        return super().read(recheck=recheck)


class ChecksNoNote(NotesNothing):
    """A rebuild that does not check that its note is still the newest."""

    def note_rebuild(self, before: RegistryIdentity, token: str, replication_ids: Collection[str]) -> RegistryIdentity:
        """Write the note, and remember it."""
        self.noted = RegistryItem.note_rebuild(self, before, token, replication_ids)
        return self.noted


class ReadsNoteLate(RegistryItem):
    """A rebuild that asks for the primary before it reads the note that its own one replaces."""

    def note_rebuild(self, before: RegistryIdentity, token: str, replication_ids: Collection[str]) -> RegistryIdentity:
        """Read the note, and replace it."""
        return super().note_rebuild(self.read(), token, replication_ids)


def backup_with(item: type[RegistryItem]) -> type[NotedBackup]:
    """Return a backup class whose item of the registry is of this class."""

    class Backup(NotedBackup):
        registry_item = item

    return Backup


# The identity of the table.


class TakesAnyTable(RegistryItem):
    """A client that takes any table for the claimed one."""

    def table_identity(self) -> str:
        """Return the identity that was claimed."""
        return TABLE.decode()


class TakesEmptyTable(RegistryItem):
    """A client that accepts a table without the item of a registry."""

    def check(self, item: Mapping[str, Any] | None) -> RegistryIdentity:
        """Check the item if there is one."""
        return RegistryIdentity(REGISTRY_ID) if item is None else super().check(item)


class ChecksTableOnce(RegistryItem):
    """A rebuild that checks the identity of its table at its start only."""

    def read(self, *, recheck: bool = False) -> RegistryIdentity:
        """Read without another check."""
        return super().read()


# Lookups.


class FallbackUsesMaxN(ModelBackup):
    """A writer that falls back to the backup uses max_n, as readers do."""

    def get(self, conversation_id: str) -> BackupEntry | None:
        """Return the entry as if every raise were committed."""
        entry = super().get(conversation_id)
        return entry and BackupEntry(entry.conversation_id, entry.max_n, entry.max_n)


class NoFence(RedisRegistry):
    """A lookup without a fence."""

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[Entry | None]:
        """Read without the script."""
        return [self.read_unverified(conversation_ids)[CONVERSATION]]


class FenceAndEntryApart(RedisRegistry):
    """A lookup that reads the fence and the entry in two commands."""

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[Entry | None]:
        """Run the script, and then read without it."""
        super().lookup(primary, conversation_ids)
        return [self.read_unverified(conversation_ids)[CONVERSATION]]


class LoadsScript(RedisRegistry):
    """A lookup that does not need a rebuild to load its script."""

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[Entry | None]:
        """Look up by EVAL."""
        client = self._lookups.client(primary)
        with redis_errors(primary):
            held = client.execute_command("EVAL", script("lookup"), 1, "bucket", self.layout, *conversation_ids)
        return [None if value is None else int(value) for value in held]


# Rebuilds.


class Overwriting(RedisRebuildSession):
    """A rebuild that overwrites Redis with the entries that it read from the backup earlier."""

    def begin_merge(self, entries: Sequence[Merge]) -> None:
        """Set by HSET."""
        self._connection.execute([("HSET", self._keys[0], *entry[:2]) for entry in entries])


class ReadsFirst(RedisRebuildSession):
    """A rebuild that reads what Redis has before it merges, as over a Redis that has most entries."""

    def begin_merge(self, entries: Sequence[Merge]) -> None:
        """Read."""
        self._mostly_new = False
        super().begin_merge(entries)


class TrustsAnyValue(ReadsFirst):
    """A rebuild that merges only what Redis lacks, whatever Redis has."""

    def end_merge(self) -> int:
        """Call the script for an entry that is missing."""
        entries, self._sent = self._sent, []
        if entries and self._connection.receive_values(1) == [None]:
            self._connection.send(list(self._packer.script_calls(entries)))
            self._connection.receive_numbers(1)
        return 0


class ScriptFirst(RedisRebuildSession):
    """A rebuild that loads the lookup script before everything else."""

    def mark_buckets(self, token: str, *, replace_registry: bool = False) -> None:
        """Load and mark."""
        self.load_lookup()
        super().mark_buckets(token)


class FenceFirst(RedisRebuildSession):
    """A rebuild that sets the fence before the entries."""

    def mark_buckets(self, token: str, *, replace_registry: bool = False) -> None:
        """Mark and fence."""
        super().mark_buckets(token)
        super().set_fence(token)

    def set_fence(self, token: str, damaged_ids: Collection[str] = ()) -> int:
        """Do nothing: done in mark."""
        return 0


class MarkLast(RedisRebuildSession):
    """A rebuild that sets its token after the entries."""

    def mark_buckets(self, token: str, *, replace_registry: bool = False) -> None:
        """Do nothing: done in finish."""

    def set_fence(self, token: str, damaged_ids: Collection[str] = ()) -> int:
        """Mark and fence."""
        super().mark_buckets(token)
        return super().set_fence(token)


class MarksAgain(RedisRebuildSession):
    """A resumed rebuild that marks the buckets again, with the token of the one that it resumes."""

    def check_marks(self, token: str, replication_id: str) -> str:
        """Mark."""
        self.mark_buckets(token)
        return ""


class TrustsItsCheckpoint(RedisRebuildSession):
    """A resumed rebuild that does not check its token and leaves that to step 5."""

    def check_marks(self, token: str, replication_id: str) -> str:
        """Trust the checkpoint."""
        self.replication_id = replication_id
        return ""


class ChecksNothing(TrustsItsCheckpoint):
    """A resumed rebuild that sets the fence without checking the token at all."""

    def set_fence(self, token: str, damaged_ids: Collection[str] = ()) -> int:
        """Mark and fence."""
        super().mark_buckets(token)
        return super().set_fence(token)


class CheckpointsBeforeMerge(Rebuild):
    """A checkpoint that covers everything that was read, even if it is not merged yet."""

    def pages(self, buffer: MergeBuffer | ScanPosition) -> Iterator[BackupPage]:
        """Yield the pages, and record each as merged."""
        assert isinstance(buffer, MergeBuffer)
        for page in super().pages(buffer):
            buffer.merged = buffer.read.copy()
            yield page


class LoadsScriptLast(Rebuild):
    """A rebuild that loads the lookup script after the fences, so also after a raise that took it away."""

    def _verify(self, run: Any) -> None:
        loads = []
        for session in run.sessions.values():
            loads.append(session.load_lookup)
            session.load_lookup = lambda: None
        super()._verify(run)
        for load in loads:
            load()


class CompletesAtOnce(Rebuild):
    """A rebuild that completes raises as soon as they are merged, as it does if there are very many of them."""

    def __init__(self, *args: Any, **injected: Any) -> None:
        settings, store, backup, options = args
        super().__init__(settings, store, backup, replace(options, max_half_done=0), **injected)


class CommitsFirst(ModelBackup):
    """A rebuild that completes raises as it reads them."""

    def scan(self, segments: int, **options: Any) -> Generator[BackupPage, None, None]:
        """Yield the pages after committing their entries."""
        for page in super().scan(segments, **options):
            for conversation_id, max_n, _ in page.entries:
                self.commit_write_n(conversation_id, max_n)
            yield page


def store_with_sessions(kind: type[RedisRebuildSession]) -> type[RedisRegistry]:
    """Return a store class whose sessions are of this class."""

    class Store(RedisRegistry):
        def sessions(self) -> list[RedisRebuildSession]:
            sessions = super().sessions()
            for session in sessions:
                session.__class__ = kind  # the same attributes, other methods
            return sessions

    return Store


def patch_script(name: str, pattern: str, replacement: str) -> tuple[str, str]:
    """Return the name of a script, and its source with a part replaced."""
    text, count = re.subn(pattern, replacement, script(name))
    if count != 1:
        raise ValueError(f"{pattern!r} occurs {count} times in {name}.lua: this mutation no longer applies")
    return name, text


# Scripts.

ANY_TOKEN = patch_script("set_fence", r"redis\.call\('HGET', key, '#rebuild'\) ~= token", "false")
ANY_IDENTITY = patch_script("set_fence", r"at ~= ARGV\[3\]", "false")
ANY_MARK = patch_script(
    "set_fence", r"at ~= ARGV\[3\](?s:(.*))string\.sub\(at, 1, 16\)", r"false\1string.sub(ARGV[3], 1, 16)"
)
ANY_NOTE = patch_script("raise", r"ARGV\[i\] == at or ARGV\[i\] == '\*'", "true")
ANY_STATE = patch_script("raise", r"state == 'noted' or \(state == 'unverified' and ARGV\[4\] == '1'\)", "true")
ANY_FENCE = patch_script("raise", r"'deposed' or 'unverified'", "'unverified' or 'unverified'")
ANY_ROLE = patch_script("lookup", r"string\.find\(here, 'role:master\\r\\n', 1, true\)", "true")
