"""What is explored: the protocol in several worlds, and mutations of it that must each be caught.

A mutation is a subclass of a real class that does one thing otherwise, a changed text of a script, or a Redis that
lacks what the protocol builds on. A mutation that no longer applies, since the code that it changes has changed,
is an error.

Where a case says nothing else: raises to 2 and to 4, one rebuild, one writer, each again and again; one Redis that may
be killed with and without its AOF, flushed, and given another replication id.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import Any

from saltctl.errors import SaltctlError, UnverifiedError
from saltctl.rebuild.merge_buffer import Filling
from saltctl.rebuild.rebuild import Rebuild
from saltctl.registry.registry import Registry
from saltctl.stores.contracts import BackupEntry, BackupPage, Raise, RaiseOutcome
from saltctl.stores.redis.errors import redis_errors
from saltctl.stores.redis.merge_commands import Entry
from saltctl.stores.redis.registry import RedisRebuildSession, RedisRegistry
from saltctl.stores.redis.scripts import script
from tests.model.fates import Failure
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
"""The protocol within wider bounds, for ``python -m tests.model --thorough``: some twelve minutes and 1.5 GB."""


# Raises.


class _Wrapped:
    """Everything as the wrapped store has it, but for what a subclass defines."""

    def __init__(self, store: object) -> None:
        self._inner = store

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


class RedisBeforeBackup(Registry):
    """A raise whose second step comes first."""

    def __init__(self, store: RedisRegistry, backup: ModelBackup, **options: object) -> None:
        class Backup(_Wrapped):
            def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
                store.merge(conversation_id, entry.n)
                return backup.raise_max_n(conversation_id, entry)

        super().__init__(store, Backup(backup), **options)  # type: ignore[arg-type]


class CommitBeforeRedis(Registry):
    """A raise whose third step comes second."""

    def __init__(self, store: RedisRegistry, backup: ModelBackup, **options: object) -> None:
        class Store(_Wrapped):
            def merge(self, conversation_id: str, n: int) -> bool:
                backup.commit_write_n(conversation_id, n)
                return store.merge(conversation_id, n)

        super().__init__(Store(store), backup, **options)  # type: ignore[arg-type]


class SkipsUnverified(RedisRegistry):
    """A raise that takes an unverified Redis for one that a rebuild will fill anyway."""

    def merge(self, conversation_id: str, n: int) -> bool:
        """Max-merge where lookups are answered."""
        try:
            self.lookup(self.primaries()[0], [conversation_id])
        except UnverifiedError:
            return False
        return super().merge(conversation_id, n)


class IgnoresRedis(RedisRegistry):
    """A raise that goes on where Redis fails."""

    def merge(self, conversation_id: str, n: int) -> bool:
        """Max-merge, or not."""
        try:
            return super().merge(conversation_id, n)
        except SaltctlError:
            return False


class Lowers(ModelBackup):
    """A raise that sets max_n whatever it was."""

    def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
        """Without its condition."""
        values = {":n": {"N": str(entry.n)}}
        self.items.update(conversation_id, "SET max_n = :n", "attribute_not_exists(nothing)", values)
        return RaiseOutcome(1, True)


class Forgets(ModelBackup):
    """A raise whose first step is not done."""

    def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
        """Nothing."""
        return RaiseOutcome(1, True)


# Lookups.


class FallbackUsesMaxN(ModelBackup):
    """Writers who look in the backup use what readers use."""

    def get(self, conversation_id: str) -> BackupEntry | None:
        """The entry, as if every raise were committed."""
        entry = super().get(conversation_id)
        return entry and BackupEntry(entry.conversation_id, entry.max_n, entry.max_n)


class NoFence(RedisRegistry):
    """A lookup that takes Redis at its word."""

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[int | None]:
        """HGET."""
        return [self.raw(conversation_ids)[CONVERSATION]]


class FenceAsideEntry(RedisRegistry):
    """A lookup that asks for the fence and for the entry in two commands."""

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[int | None]:
        """The script, and then HGET."""
        super().lookup(primary, conversation_ids)
        return [self.raw(conversation_ids)[CONVERSATION]]


class LoadsScript(RedisRegistry):
    """A lookup that does not need a rebuild to have loaded its script."""

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[int | None]:
        """EVAL."""
        client = self._lookups.client(primary)
        with redis_errors(primary):
            held = client.execute_command("EVAL", script("lookup"), 1, "bucket", self._layout, *conversation_ids)
        return [None if value is None else int(value) for value in held]


# Rebuilds.


class Overwriting(RedisRebuildSession):
    """What the backup said some time ago replaces what Redis has."""

    def begin_merge(self, entries: Sequence[Entry]) -> None:
        """HSET."""
        self._connection.execute([("HSET", self._keys[0], *entry[:2]) for entry in entries])


class ScriptFirst(RedisRebuildSession):
    """The lookup script is loaded before anything else is done."""

    def mark(self, token: str) -> None:
        """Load and mark."""
        self.load_lookup()
        super().mark(token)


class FenceFirst(RedisRebuildSession):
    """The fence is set before the entries are there."""

    def mark(self, token: str) -> None:
        """Mark and fence."""
        super().mark(token)
        super().finish(token)

    def finish(self, token: str) -> None:
        """Done already."""


class MarkLast(RedisRebuildSession):
    """The token is set when the entries are there."""

    def mark(self, token: str) -> None:
        """Not yet."""

    def finish(self, token: str) -> None:
        """Mark and fence."""
        super().mark(token)
        super().finish(token)


class MarksAgain(RedisRebuildSession):
    """A rebuild that is resumed marks the buckets again, with the token of the one that it goes on from."""

    def recognise(self, token: str, replication_id: str) -> str:
        """Mark."""
        self.mark(token)
        return ""


class TrustsItsCheckpoint(RedisRebuildSession):
    """A rebuild that is resumed does not ask before it goes on: that is for step 5 to find out."""

    def recognise(self, token: str, replication_id: str) -> str:
        """Take the checkpoint at its word."""
        self._replication_id = replication_id.encode()
        return ""


class ChecksNothing(TrustsItsCheckpoint):
    """A rebuild that is resumed, and sets the fence whatever has become of the token."""

    def finish(self, token: str) -> None:
        """Mark and fence."""
        super().mark(token)
        super().finish(token)


class NotesWhatItRead(Rebuild):
    """A checkpoint of what was read, merged or not."""

    def _pages(self, filling: Filling) -> Generator[BackupPage, None, None]:
        for page in super()._pages(filling):
            filling.merged = filling.read.copy()
            yield page


class CompletesAtOnce(Rebuild):
    """A rebuild that completes half-done raises as soon as they are merged, as it does where they are very many."""

    half_done_kept = -1


class CommitsFirst(ModelBackup):
    """A rebuild completes half-done raises as it reads them."""

    def scan(self, segments: int, **options: Any) -> Generator[BackupPage, None, None]:
        """The pages, each committed."""
        for page in super().scan(segments, **options):
            for conversation_id, max_n, _ in page.entries:
                self.commit_write_n(conversation_id, max_n)
            yield page


def rebuilding_by(kind: type[RedisRebuildSession]) -> type[RedisRegistry]:
    """A store whose sessions are of this kind."""

    class Store(RedisRegistry):
        def sessions(self) -> list[RedisRebuildSession]:
            sessions = super().sessions()
            for session in sessions:
                session.__class__ = kind  # the same attributes, other methods
            return sessions

    return Store


def changed(name: str, pattern: str, replacement: str) -> tuple[str, str]:
    """A script's name, and its text with something replaced."""
    text, count = re.subn(pattern, replacement, script(name))
    if count != 1:
        raise ValueError(f"{pattern!r} occurs {count} times in {name}.lua: this mutation must be written anew")
    return name, text


_ANY_TOKEN = changed("set_fence", r"redis\.call\('HGET', key, '#rebuild'\) ~= ARGV\[2\]", "false")
_ANY_IDENTITY = changed("set_fence", r"at ~= ARGV\[3\]", "false")
_ANY_ROLE = changed("lookup", r"string\.find\(here, 'role:master\\r\\n', 1, true\)", "true")

MUTATIONS = (
    Case("Redis before backup", Code(registry=RedisBeforeBackup), failures=1, expect=Broken.BACKUP_MESSAGE),
    Case("commit before Redis", Code(registry=CommitBeforeRedis), failures=1, expect=Broken.REDIS_MESSAGE),
    Case("fallback writers use max_n", Code(backup=FallbackUsesMaxN), failures=1, expect=Broken.REDIS_MESSAGE),
    Case("no fence", Code(store=NoFence), failures=1, expect=Broken.REDIS_RAISE),
    Case("rebuild overwrites", Code(store=rebuilding_by(Overwriting)), failures=1, expect=Broken.REDIS_RAISE),
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
        Code(store=rebuilding_by(ScriptFirst)),
        raises=(2,),
        replication_ids=False,
        expect=Broken.REDIS_RAISE,
    ),
    Case("fence first", Code(store=rebuilding_by(FenceFirst)), raises=(2,), expect=Broken.REDIS_RAISE),
    Case("token last", Code(store=rebuilding_by(MarkLast)), raises=(2,), expect=Broken.REDIS_RAISE),
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
        Code(store=rebuilding_by(MarksAgain), resumes=True),
        raises=(2,),
        expect=Broken.REDIS_RAISE,
    ),
    Case(
        "a resumed rebuild checks nothing",
        Code(store=rebuilding_by(ChecksNothing), resumes=True),
        raises=(2,),
        expect=Broken.REDIS_RAISE,
    ),
    Case(
        "a checkpoint before what it names is merged",
        Code(rebuild=NotesWhatItRead, resumes=True),
        raises=(2,),
        expect=Broken.REDIS_RAISE,
    ),
    Case("raise goes on without Redis", Code(store=IgnoresRedis), raises=(2,), expect=Broken.REDIS_RAISE),
    Case("raise without the backup", Code(backup=Forgets), raises=(2,), expect=Broken.BACKUP_RAISE),
    Case("raise without its condition", Code(backup=Lowers), failures=1, expect=Broken.LOWERED),
    Case("fence and entry in two commands", Code(store=FenceAsideEntry), raises=(2,), expect=Broken.LOOKUP),
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
"""What each piece of the protocol is there for. The first six are the ones that the design names."""

REDUNDANT = (
    Case(
        "a resumed rebuild asks for nothing before",
        Code(store=rebuilding_by(TrustsItsCheckpoint), resumes=True),
        raises=(2,),
        failures=1,
    ),
    Case("half-done raises are completed at once", Code(rebuild=CompletesAtOnce), raises=(2,)),
    Case("script first", Code(store=rebuilding_by(ScriptFirst)), raises=(2,)),
    Case(
        "lookups need no loaded script", Code(store=LoadsScript), raises=(2,), servers=2, may_fail=FAILOVERS, failures=2
    ),
    Case("fence without the replication id, and no failovers", raises=(2,), replication_ids=False),
)
"""Half of the fence is enough here: the replication id alone anywhere, the loaded script alone without failovers."""

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
"""Where the fence as it is does not suffice: in a cluster, it comes home with the slot, and what the other primary lost
does not."""
