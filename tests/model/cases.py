"""The cases: the protocol in several worlds, and mutations of it, each of which must be caught.

A mutation (``mutations``) leaves out one part, or runs on a Redis without a property that the protocol needs.

The defaults of a case: raises to 2 and to 4, one rebuild and one writer, each repeated without limit; one Redis that
may be killed with and without its AOF, flushed, and given another replication id.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.model.failures import Failure
from tests.model.mutations import (
    ANY_FENCE,
    ANY_IDENTITY,
    ANY_MARK,
    ANY_NOTE,
    ANY_ROLE,
    ANY_STATE,
    ANY_TOKEN,
    AcceptsUnverified,
    CheckpointsBeforeMerge,
    ChecksNoNote,
    ChecksNothing,
    ChecksTableOnce,
    CommitBeforeRedis,
    CommitsFirst,
    CompletesAtOnce,
    FallbackUsesMaxN,
    FenceAndEntryApart,
    FenceFirst,
    IgnoresRedis,
    LoadsScript,
    LoadsScriptLast,
    MarkLast,
    MarksAgain,
    NoFence,
    NotesAfterScan,
    NotesNothing,
    Overwriting,
    RaisesUnconditionally,
    ReadsFirst,
    ReadsNoteEventually,
    ReadsNoteFirst,
    ReadsNoteLate,
    RedisBeforeBackup,
    ScriptFirst,
    SkipsBackup,
    SkipsUnverified,
    TakesAnyTable,
    TakesEmptyTable,
    TrustsAnyValue,
    TrustsItsCheckpoint,
    backup_with,
    store_with_sessions,
)
from tests.model.replay import Code, NotedBackup
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
READS_FIRST = Code(store=store_with_sessions(ReadsFirst))
MOVES: dict[str, Any] = {
    "code": Code(clustered=True),
    "raises": (2,),
    "servers": 2,
    "may_fail": (Failure.MOVE, Failure.KILL),
    "failures": 3,
}
"""The slot goes from one primary of a cluster to another, which loses a raise, and comes home."""
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
    Case("one Redis, two raises, a rebuild that reads first, one failure", READS_FIRST, failures=1),
    Case("one Redis with notes, one failure", Code(backup=NotedBackup), raises=(2,), failures=1, verified=True),
    Case("a primary is deposed, and named for a while", NOTED, **DEPOSED | {"may_fail": (Failure.DEPOSE_LATE,)}),
    Case("a primary is deposed, and raises are told any primary", NOTED, stale_answers=True, **DEPOSED),
    Case("a primary is deposed that was not verified", NOTED, **DEPOSED | {"verified": False}),
    Case("the table is replaced", REPLACED, **LOST),
    Case("a slot goes and comes home, without a rebuild", rebuilds=0, verified=True, **MOVES),
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
    Case("a slot goes and comes home", keeps_fences=True, **MOVES),
)
"""The protocol within wider bounds, for ``python -m tests.model --thorough``: about a quarter of an hour."""

MUTATIONS = (
    Case("Redis before backup", Code(registry=RedisBeforeBackup), failures=1, expect=Broken.BACKUP_MESSAGE),
    Case("commit before Redis", Code(registry=CommitBeforeRedis), failures=1, expect=Broken.REDIS_MESSAGE),
    Case("fallback writers use max_n", Code(backup=FallbackUsesMaxN), failures=1, expect=Broken.REDIS_MESSAGE),
    Case("no fence", Code(store=NoFence), failures=1, expect=Broken.REDIS_RAISE),
    Case("rebuild overwrites", Code(store=store_with_sessions(Overwriting)), failures=1, expect=Broken.REDIS_RAISE),
    Case(
        "rebuild merges only what is missing",
        Code(store=store_with_sessions(TrustsAnyValue)),
        failures=1,
        expect=Broken.REDIS_MESSAGE,
    ),
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
    Case("rebuild does not check its token", raises=(2,), patches=(ANY_TOKEN,), expect=Broken.REDIS_RAISE),
    Case(
        "rebuild does not check the replication id",
        raises=(2,),
        servers=2,
        may_fail=FAILOVERS,
        patches=(ANY_MARK,),
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
        patches=(ANY_ROLE,),
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
    Case("a merge takes any primary for a noted one", NOTED, patches=(ANY_NOTE,), expect=Broken.REDIS_RAISE, **DEPOSED),
    # The raise is not acknowledged; but writers on the deposed primary use its N.
    Case("a merge is not conditional", NOTED, patches=(ANY_STATE,), expect=Broken.REDIS_MESSAGE, **DEPOSED),
    Case(
        "a merge takes a fenced primary for an unverified one",
        NOTED,
        patches=(ANY_FENCE,),
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
    Case(
        "a rebuild writes no note",
        replace(NOTED, backup=backup_with(NotesNothing)),
        expect=Broken.REDIS_RAISE,
        **DEPOSED,
    ),
    Case(
        "a rebuild writes its note after its scan",
        replace(NOTED, backup=backup_with(NotesAfterScan)),
        expect=Broken.REDIS_RAISE,
        **DEPOSED,
    ),
    # Two rebuilds at once, of a deposed primary and of its successor.
    Case(
        "a rebuild does not check its note",
        replace(NOTED, backup=backup_with(ChecksNoNote)),
        rebuilds=2,
        expect=Broken.REDIS_MESSAGE,
        **DEPOSED,
    ),
    Case(
        "any table is accepted",
        replace(REPLACED, backup=backup_with(TakesAnyTable)),
        expect=Broken.BACKUP_RAISE,
        **LOST,
    ),
    Case(
        "an empty table is accepted",
        replace(REPLACED, backup=backup_with(TakesEmptyTable)),
        expect=Broken.BACKUP_RAISE,
        **LOST,
    ),
    Case(
        "a rebuild checks its table once",
        replace(REPLACED, backup=backup_with(ChecksTableOnce)),
        expect=Broken.REDIS_RAISE,
        **LOST,
    ),
    # The fence does not suffice in a cluster: it returns together with the slot, while entries that the other primary
    # lost do not. So a raise there empties the script cache of the primary that the bucket names. A client that knows
    # of no cluster does not.
    Case("a raise trusts the primary that the slot left", expect=Broken.REDIS_RAISE, **MOVES | {"code": Code()}),
)
"""One mutation for each part of the protocol. The first six are the ones that the design names."""

THOROUGH_MUTATIONS = (
    Case(
        "a rebuild reads the note late",
        replace(NOTED, backup=backup_with(ReadsNoteLate)),
        rebuilds=2,
        expect=Broken.REDIS_RAISE,
        **DEPOSED,
    ),
    Case(
        "a rebuild loads the script after the fences",
        expect=Broken.REDIS_RAISE,
        **MOVES | {"code": Code(rebuild=LoadsScriptLast, clustered=True)},
    ),
    # A limit: the fence of the home primary is in what the other one had before it was fenced itself.
    Case("a slot comes home with what was there before a rebuild", expect=Broken.REDIS_RAISE, **MOVES),
)
"""Mutations, and a limit, that need many more states."""

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
    Case("the token alone has the replication id", raises=(2,), servers=2, may_fail=FAILOVERS, patches=(ANY_IDENTITY,)),
    Case("fence without the replication id, and no failovers", raises=(2,), replication_ids=False),
)
"""Half of the fence suffices here: the replication id everywhere, the loaded script if there are no failovers."""

LIMITS = (
    Case(
        "a raise is told a deposed primary that was never verified",
        NOTED,
        expect=Broken.REDIS_RAISE,
        **DEPOSED | {"may_fail": (Failure.DEPOSE_LATE,), "failures": 2},
    ),
)
"""A raise accepts an unverified primary if sentinels or DNS name it, although it was deposed."""
