"""The cases: the protocol in several worlds, and mutations of it, each of which must be caught.

A mutation is a subclass of a real class with one difference, a changed script, or a Redis without a property that the
protocol needs. A mutation that no longer applies, because its code has changed, is an error.

The defaults of a case: raises to 2 and to 4, one rebuild and one writer, each repeated without limit; one Redis that
may be killed with and without its AOF, flushed, and given another replication id.
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
from saltctl.stores.contracts.registry import (
    BackupEntry,
    BackupPage,
    MergeOutcome,
    Raise,
    RaiseOutcome,
    RegistryIdentity,
)
from saltctl.stores.redis.errors import redis_errors
from saltctl.stores.redis.merge_commands import Entry
from saltctl.stores.redis.rebuild_session import RedisRebuildSession
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis.scripts import script
from tests.model.failures import Failure
from tests.model.replay import CONVERSATION, REGISTRY_ID, TABLE, Code, ModelBackup, NotedBackup
from tests.model.world import Broken, Case

FAILOVERS = (Failure.FAILOVER,)
FAILOVERS_AND_LOSSES = (Failure.FAILOVER, Failure.LOSE)
BUT_KILLS = (Failure.FAILOVER, Failure.FLUSH, Failure.RENAME)
KILLS_TOO = (Failure.FAILOVER, Failure.KILL)
DEPOSED_OR_LOST = (Failure.DEPOSE, Failure.LOSE)
NOTED = Code(backup=NotedBackup, asks=True)
"""Rebuilds write their notes, and raises read them."""
DEPOSED: dict[str, Any] = {
    "raises": (2,),
    "servers": 2,
    "may_fail": (Failure.DEPOSE,),
    "failures": 1,
    "verified": True,
}
"""A verified primary, and a replica that is promoted while that primary goes on."""
REPLACED = Code(backup=NotedBackup, replaced=True)
LOST: dict[str, Any] = {"raises": (2,), "may_fail": (Failure.LOSE, Failure.FLUSH), "failures": 2, "verified": True}
"""A verified Redis that may lose everything, besides the table that may be replaced."""

PROTOCOL = (
    Case("one Redis, one raise, failures without end", raises=(2,)),
    Case("one Redis, two raises, one failure", failures=1),
    Case("one Redis, one raise, two rebuilds at once, one failure", raises=(2,), rebuilds=2, failures=1),
    Case("a replica, one raise, failovers without end", raises=(2,), servers=2, may_fail=FAILOVERS),
    Case("a replica, one raise, two failures but kills", raises=(2,), servers=2, may_fail=BUT_KILLS, failures=2),
    Case("a replica, two raises, one failover or loss", servers=2, may_fail=FAILOVERS_AND_LOSSES, failures=1),
    Case(
        "a replica that takes writes, one raise, two failovers",
        raises=(2,),
        servers=2,
        may_fail=FAILOVERS,
        failures=2,
        read_only_replicas=False,
    ),
    Case("one Redis, one raise, a rebuild that is resumed, one failure", Code(resumes=True), raises=(2,), failures=1),
    Case("one Redis with notes, one failure", Code(backup=NotedBackup), raises=(2,), failures=1, verified=True),
    Case("a primary is deposed, and named for a while", NOTED, **DEPOSED | {"may_fail": (Failure.DEPOSE_LATE,)}),
    Case("a primary is deposed, and raises are told any primary", NOTED, stale_answers=True, **DEPOSED),
    Case("a primary is deposed that was not verified", NOTED, **DEPOSED | {"verified": False}),
    Case("the table is replaced", REPLACED, **LOST),
)
"""The protocol as it is. The note of a rebuild makes a difference only if a primary is deposed and does not know it."""

THOROUGH = (
    Case("one Redis, two raises, failures without end"),
    Case("one Redis, one raise, two rebuilds at once, failures without end", raises=(2,), rebuilds=2),
    Case("one Redis, two raises, two rebuilds at once, one failure", rebuilds=2, failures=1),
    Case(
        "a replica, one raise, failovers and losses without end", raises=(2,), servers=2, may_fail=FAILOVERS_AND_LOSSES
    ),
    Case("a replica, two raises, two failovers", servers=2, may_fail=FAILOVERS, failures=2),
    Case(
        "a replica, one raise, two rebuilds at once, two failovers",
        raises=(2,),
        rebuilds=2,
        servers=2,
        may_fail=FAILOVERS,
        failures=2,
    ),
    Case("a replica, one raise, two kills or failovers", raises=(2,), servers=2, may_fail=KILLS_TOO, failures=2),
    Case("one Redis, one raise, a rebuild that is resumed, failures without end", Code(resumes=True), raises=(2,)),
    Case(
        "one Redis, one raise, a resumed rebuild and another one, one failure",
        Code(resumes=True),
        raises=(2,),
        rebuilds=2,
        failures=1,
    ),
    Case(
        "a replica, one raise, a rebuild that is resumed, two failovers",
        Code(resumes=True),
        raises=(2,),
        servers=2,
        may_fail=FAILOVERS,
        failures=2,
    ),
    Case("one Redis with notes, two failures", Code(backup=NotedBackup), raises=(2,), failures=2),
    Case("two primaries are deposed", NOTED, **DEPOSED | {"failures": 2}),
    Case("a primary is deposed, or loses everything", NOTED, **DEPOSED | {"may_fail": DEPOSED_OR_LOST, "failures": 2}),
    Case("a primary is deposed, two rebuilds at once", NOTED, rebuilds=2, **DEPOSED),
)
"""The protocol within wider bounds, for ``python -m tests.model --thorough``: about TODO minutes and TODO GB."""


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
            def merge(self, conversation_id: str, n: int, *arguments: Any, **options: Any) -> MergeOutcome:
                backup.commit_write_n(conversation_id, n)
                return store.merge(conversation_id, n, *arguments, **options)

        super().__init__(Store(store), backup, **options)  # type: ignore[arg-type]


class SkipsUnverified(RedisRegistry):
    """A raise that skips an unverified Redis, as if a rebuild would merge the entry anyway."""

    def merge(self, conversation_id: str, n: int, *arguments: Any, **options: Any) -> MergeOutcome:
        """Merge only if lookups are answered."""
        try:
            self.lookup(self.primaries()[0], [conversation_id])
        except UnverifiedError:
            return MergeOutcome(False, "noted")
        return super().merge(conversation_id, n, *arguments, **options)


class IgnoresRedis(RedisRegistry):
    """A raise that continues if Redis fails."""

    def merge(self, conversation_id: str, n: int, *arguments: Any, **options: Any) -> MergeOutcome:
        """Merge, and ignore errors."""
        try:
            return super().merge(conversation_id, n, *arguments, **options)
        except SaltctlError:
            return MergeOutcome(False, "noted")


class RaisesUnconditionally(ModelBackup):
    """A raise that sets max_n without a condition."""

    def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
        """Set max_n without the condition."""
        values = {":n": {"N": str(entry.n)}}
        self.update_item(conversation_id, "SET max_n = :n", "attribute_not_exists(nothing)", values)
        return RaiseOutcome(1, True)


class SkipsBackup(ModelBackup):
    """A raise that skips its first step."""

    def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
        """Change nothing."""
        return RaiseOutcome(1, True)


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

    def merge(self, conversation_id: str, n: int, *arguments: Any, **_: Any) -> MergeOutcome:
        """Merge, and take an unverified primary for a noted one."""
        raised, state = super().merge(conversation_id, n, *arguments, accept_unverified=True)
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


def noted(item: type[RegistryItem], code: Code = NOTED) -> Code:
    """Return the code with another item of the registry."""

    class Backup(NotedBackup):
        registry_item = item

    return replace(code, backup=Backup)


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

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[int | None]:
        """Read without the script."""
        return [self.read_unverified(conversation_ids)[CONVERSATION]]


class FenceAndEntryApart(RedisRegistry):
    """A lookup that reads the fence and the entry in two commands."""

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[int | None]:
        """Run the script, and then read without it."""
        super().lookup(primary, conversation_ids)
        return [self.read_unverified(conversation_ids)[CONVERSATION]]


class LoadsScript(RedisRegistry):
    """A lookup that does not need a rebuild to load its script."""

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[int | None]:
        """Look up by EVAL."""
        client = self._lookups.client(primary)
        with redis_errors(primary):
            held = client.execute_command("EVAL", script("lookup"), 1, "bucket", self.layout, *conversation_ids)
        return [None if value is None else int(value) for value in held]


# Rebuilds.


class Overwriting(RedisRebuildSession):
    """A rebuild that overwrites Redis with the entries that it read from the backup earlier."""

    def begin_merge(self, entries: Sequence[Entry]) -> None:
        """Set by HSET."""
        self._connection.execute([("HSET", self._keys[0], *entry[:2]) for entry in entries])


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


class CompletesAtOnce(Rebuild):
    """A rebuild that completes raises as soon as they are merged, as it does if there are very many of them."""

    def __init__(self, *args: Any, **injected: Any) -> None:
        settings, store, backup, options = args
        super().__init__(settings, store, backup, replace(options, max_half_done=-1), **injected)


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


_ANY_TOKEN = patch_script("set_fence", r"redis\.call\('HGET', key, '#rebuild'\) ~= ARGV\[2\]", "false")
_ANY_IDENTITY = patch_script("set_fence", r"at ~= ARGV\[3\]", "false")
_ANY_NOTE = patch_script("raise", r"ARGV\[i\] == at or ARGV\[i\] == '\*'", "true")
_ANY_STATE = patch_script("raise", r"state == 'noted' or \(state == 'unverified' and ARGV\[4\] == '1'\)", "true")
_ANY_FENCE = patch_script("raise", r"'deposed' or 'unverified'", "'unverified' or 'unverified'")
_ANY_ROLE = patch_script("lookup", r"string\.find\(here, 'role:master\\r\\n', 1, true\)", "true")

MUTATIONS = (
    Case("Redis before backup", Code(registry=RedisBeforeBackup), failures=1, expect=Broken.BACKUP_MESSAGE),
    Case("commit before Redis", Code(registry=CommitBeforeRedis), failures=1, expect=Broken.REDIS_MESSAGE),
    Case("fallback writers use max_n", Code(backup=FallbackUsesMaxN), failures=1, expect=Broken.REDIS_MESSAGE),
    Case("no fence", Code(store=NoFence), failures=1, expect=Broken.REDIS_RAISE),
    Case("rebuild overwrites", Code(store=store_with_sessions(Overwriting)), failures=1, expect=Broken.REDIS_RAISE),
    Case("raise skips an unverified Redis", Code(store=SkipsUnverified), failures=1, expect=Broken.REDIS_RAISE),
    Case(
        "fence without the replication id",
        raises=(2,),
        servers=2,
        may_fail=FAILOVERS,
        replication_ids=False,
        expect=Broken.REDIS_RAISE,
    ),
    Case(
        "script first, in a fence without the replication id",
        Code(store=store_with_sessions(ScriptFirst)),
        raises=(2,),
        replication_ids=False,
        expect=Broken.REDIS_RAISE,
    ),
    Case("fence first", Code(store=store_with_sessions(FenceFirst)), raises=(2,), expect=Broken.REDIS_RAISE),
    Case("token last", Code(store=store_with_sessions(MarkLast)), raises=(2,), expect=Broken.REDIS_RAISE),
    Case("rebuild does not check its token", raises=(2,), patches=(_ANY_TOKEN,), expect=Broken.REDIS_RAISE),
    Case(
        "rebuild does not check the replication id",
        raises=(2,),
        servers=2,
        may_fail=FAILOVERS,
        patches=(_ANY_IDENTITY,),
        expect=Broken.REDIS_RAISE,
    ),
    Case("rebuild commits before it merges", Code(backup=CommitsFirst), raises=(2,), expect=Broken.REDIS_MESSAGE),
    Case(
        "a resumed rebuild marks again",
        Code(store=store_with_sessions(MarksAgain), resumes=True),
        raises=(2,),
        expect=Broken.REDIS_RAISE,
    ),
    Case(
        "a resumed rebuild checks nothing",
        Code(store=store_with_sessions(ChecksNothing), resumes=True),
        raises=(2,),
        expect=Broken.REDIS_RAISE,
    ),
    Case(
        "a checkpoint before what it names is merged",
        Code(rebuild=CheckpointsBeforeMerge, resumes=True),
        raises=(2,),
        expect=Broken.REDIS_RAISE,
    ),
    Case("raise goes on without Redis", Code(store=IgnoresRedis), raises=(2,), expect=Broken.REDIS_RAISE),
    # The raise is not acknowledged, since its commit finds nothing; but writers in Redis use the N already.
    Case("raise without the backup", Code(backup=SkipsBackup), raises=(2,), expect=Broken.BACKUP_MESSAGE),
    Case("raise without its condition", Code(backup=RaisesUnconditionally), failures=1, expect=Broken.LOWERED),
    Case("fence and entry in two commands", Code(store=FenceAndEntryApart), raises=(2,), expect=Broken.LOOKUP),
    Case(
        "lookup does not ask for the role, and replicas take writes",
        raises=(2,),
        servers=2,
        may_fail=FAILOVERS,
        patches=(_ANY_ROLE,),
        read_only_replicas=False,
        expect=Broken.REDIS_RAISE,
    ),
    Case(
        "a raise reads the note before the backup is written",
        replace(NOTED, registry=ReadsNoteFirst),
        expect=Broken.REDIS_RAISE,
        **DEPOSED,
    ),
    Case(
        "a raise reads the note by an eventually consistent read",
        replace(NOTED, backup=ReadsNoteEventually),
        eventual=True,
        expect=Broken.REDIS_RAISE,
        **DEPOSED,
    ),
    Case(
        "a merge takes any primary for a noted one", NOTED, patches=(_ANY_NOTE,), expect=Broken.REDIS_RAISE, **DEPOSED
    ),
    # The raise is not acknowledged; but writers on the deposed primary use its N.
    Case("a merge is not conditional", NOTED, patches=(_ANY_STATE,), expect=Broken.REDIS_MESSAGE, **DEPOSED),
    Case(
        "a merge takes a fenced primary for an unverified one",
        NOTED,
        patches=(_ANY_FENCE,),
        stale_answers=True,
        expect=Broken.REDIS_RAISE,
        **DEPOSED,
    ),
    Case(
        "a raise accepts an unverified primary at once",
        replace(NOTED, store=AcceptsUnverified),
        expect=Broken.REDIS_RAISE,
        **DEPOSED | {"verified": False},
    ),
    Case("a rebuild writes no note", noted(NotesNothing), expect=Broken.REDIS_RAISE, **DEPOSED),
    Case("a rebuild writes its note after its scan", noted(NotesAfterScan), expect=Broken.REDIS_RAISE, **DEPOSED),
    # Two rebuilds at once, of a deposed primary and of its successor.
    Case("a rebuild does not check its note", noted(ChecksNoNote), rebuilds=2, expect=Broken.REDIS_MESSAGE, **DEPOSED),
    Case("any table is accepted", noted(TakesAnyTable, REPLACED), expect=Broken.BACKUP_RAISE, **LOST),
    Case("an empty table is accepted", noted(TakesEmptyTable, REPLACED), expect=Broken.BACKUP_RAISE, **LOST),
    Case("a rebuild checks its table once", noted(ChecksTableOnce, REPLACED), expect=Broken.REDIS_RAISE, **LOST),
)
"""One mutation for each part of the protocol. The first six are the ones that the design names."""

THOROUGH_MUTATIONS = (
    Case("a rebuild reads the note late", noted(ReadsNoteLate), rebuilds=2, expect=Broken.REDIS_RAISE, **DEPOSED),
)
"""Mutations that need many more states."""

REDUNDANT = (
    Case(
        "a resumed rebuild asks for nothing before",
        Code(store=store_with_sessions(TrustsItsCheckpoint), resumes=True),
        raises=(2,),
        failures=1,
    ),
    Case("half-done raises are completed at once", Code(rebuild=CompletesAtOnce), raises=(2,)),
    Case("script first", Code(store=store_with_sessions(ScriptFirst)), raises=(2,)),
    Case(
        "lookups need no loaded script", Code(store=LoadsScript), raises=(2,), servers=2, may_fail=FAILOVERS, failures=2
    ),
    Case("fence without the replication id, and no failovers", raises=(2,), replication_ids=False),
)
"""Half of the fence suffices here: the replication id everywhere, the loaded script if there are no failovers."""

LIMITS = (
    Case(
        "a slot moves to another primary and home again, and nobody rebuilds in between",
        raises=(2,),
        servers=2,
        may_fail=(Failure.MOVE, Failure.KILL),
        failures=3,
        expect=Broken.REDIS_RAISE,
    ),
    Case(
        "a raise is told a deposed primary that was never verified",
        NOTED,
        expect=Broken.REDIS_RAISE,
        **DEPOSED | {"may_fail": (Failure.DEPOSE_LATE,), "failures": 2},
    ),
)
"""The fence does not suffice in a cluster: it returns together with the slot, while entries that the other primary lost
do not. And a raise accepts an unverified primary if sentinels or DNS name it, although it was deposed."""
