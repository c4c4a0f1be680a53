"""The cases: the protocol in several worlds, and mutations of it, each of which must be caught.

A mutation is a subclass of a real class with one difference, a changed script, or a Redis without a property that the
protocol needs. A mutation that no longer applies, because its code has changed, is an error.

The defaults of a case: raises to 2 and to 4, one rebuild and one writer, each repeated without limit; one Redis that
may be killed with and without its AOF, flushed, and given another replication id.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

from saltctl.errors import SaltctlError, UnverifiedError
from saltctl.rebuild.merge_buffer import MergeBuffer, ScanPosition
from saltctl.rebuild.rebuild import Rebuild
from saltctl.registry.registry import Registry
from saltctl.stores.contracts.registry import BackupEntry, BackupPage, MergeOutcome, Raise, RaiseOutcome
from saltctl.stores.redis.errors import redis_errors
from saltctl.stores.redis.merge_commands import Entry
from saltctl.stores.redis.rebuild_session import RedisRebuildSession
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis.scripts import script
from tests.model.failures import Failure
from tests.model.replay import CONVERSATION, Code, ModelBackup
from tests.model.world import Broken, Case

FAILOVERS = (Failure.FAILOVER,)
FAILOVERS_AND_LOSSES = (Failure.FAILOVER, Failure.LOSE)
BUT_KILLS = (Failure.FAILOVER, Failure.FLUSH, Failure.RENAME)
KILLS_TOO = (Failure.FAILOVER, Failure.KILL)

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
)
"""The protocol as it is."""

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
)
"""The protocol within wider bounds, for ``python -m tests.model --thorough``: about twelve minutes and 1.5 GB."""


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
)
"""One mutation for each part of the protocol. The first six are the ones that the design names."""

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
)
"""The fence does not suffice in a cluster: it returns together with the slot, while entries that the other primary lost
do not."""
